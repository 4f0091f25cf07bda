// A page of Chromium with the component. Nothing is between the two but what jco makes: its translation, and the WASI of its package
// for browsers.
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { startBrowser, startServer } from '../browser/harness.mjs';

const wasm = fileURLToPath(new URL('../..', import.meta.url));
const ROUTES = {
  '/component/': path.join(wasm, 'component/dist/js'),
  '/wasi/': path.join(wasm, 'node_modules/@bytecodealliance/preview2-shim/lib'),
  '/test/': fileURLToPath(new URL('.', import.meta.url)),
};

/** In the page: run(name) runs a program, replayed(table) a table of the differential test, start(options) gives the exports. */
export async function openComponentPage() {
  const server = await startServer({ routes: ROUTES });
  const browser = await startBrowser();
  const page = await browser.context.newPage();
  await page.goto(server.url);
  await page.evaluate(async () => {
    const map = document.createElement('script');
    map.type = 'importmap';
    map.textContent = JSON.stringify({
      imports: {
        '@bytecodealliance/preview2-shim': '/wasi/browser/index.js',
        '@bytecodealliance/preview2-shim/instantiation': '/wasi/common/instantiation.js',
        '@bytecodealliance/preview2-shim/': '/wasi/browser/',
      },
    });
    document.head.append(map);
    const { instantiate } = await import('/component/delta-vector.js');
    const { WASIShim } = await import('@bytecodealliance/preview2-shim/instantiation');
    const { jsHost } = await import('/test/js-host.mjs');
    const { programs, replay } = await import('/test/programs.mjs');
    const getCoreModule = (name) => WebAssembly.compileStreaming(fetch(`/component/${name}`));
    const wasi = () => new WASIShim({ sandbox: { preopens: {} } }).getImportObject();
    const newHost = async () => {
      const host = jsHost('Chromium', instantiate, getCoreModule, wasi);
      await host.start();
      return host;
    };
    let kept;
    Object.assign(window, {
      run: async (name) => programs[name](await newHost()),
      replayed: async (table) => replay((kept ??= await newHost()), table),
      start: () => instantiate(getCoreModule, wasi()),
    });
  });
  return {
    page,
    close: async () => {
      await browser.close();
      await server.close();
    },
  };
}
