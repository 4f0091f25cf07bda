/** The worker, for pages without a bundler: no import map reaches a worker, so the page says where SQLite is. */
import { serve } from './serve.js';
import type { Sqlite3 } from './sqlite.js';

serve(globalThis as never, async (url) => {
  const module = (await import(/* @vite-ignore */ /* webpackIgnore: true */ url!)) as { default: () => Promise<Sqlite3> };
  return module.default();
});
