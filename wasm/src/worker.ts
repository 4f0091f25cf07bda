/**
 * The worker, for bundlers: they find it by `new Worker(new URL('./worker.js', import.meta.url))` in client.ts, and SQLite by the
 * import below. As `delta-vectors/worker` it is there for those who start it themselves.
 */
import sqlite3InitModule from '@sqlite.org/sqlite-wasm';
import { serve } from './serve.js';
import type { Sqlite3 } from './sqlite.js';

serve(globalThis as never, async () => (await sqlite3InitModule()) as unknown as Sqlite3);
