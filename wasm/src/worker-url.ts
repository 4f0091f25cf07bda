/** The worker, for pages without a bundler: no import map reaches a worker, so the page says where SQLite is. */
import { compileUrl, importSqlite } from './loader.js';
import { serve } from './serve.js';
import type { Sqlite3 } from './sqlite.js';

type Init = (options?: object) => Promise<Sqlite3>;

serve(globalThis as never, async (url) => {
  // Its module beside its JavaScript, which would fetch it from there when it runs. Where it cannot be had, SQLite looks itself.
  const compiled = compileUrl(new URL('sqlite3.wasm', url).href).catch(() => undefined);
  const init = await importSqlite(url!);
  const module = await compiled;
  return module ? initWith(init, module) : init();
});

/** Emscripten's way to bring one's own module. If it does not fit, all is as if it had not been there. */
function initWith(init: Init, module: WebAssembly.Module): Promise<Sqlite3> {
  return new Promise((resolve, reject) => {
    const instantiateWasm = (imports: WebAssembly.Imports, done: (instance: WebAssembly.Instance, module: WebAssembly.Module) => void): object => {
      WebAssembly.instantiate(module, imports).then((instance) => done(instance, module), () => init().then(resolve, reject));
      return {}; // it comes later
    };
    init({ instantiateWasm }).then(resolve, reject);
  });
}
