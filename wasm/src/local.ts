/** What a worker does, in this thread: for Node, and for code that is in a worker already. */
import type { Port } from './client.js';
import { importSqlite } from './loader.js';
import { serve } from './serve.js';
import type { Sqlite3 } from './sqlite.js';

export function localPort(): Port {
  const { port1, port2 } = new MessageChannel();
  serve(port2, async (url) => {
    if (url !== undefined) return (await importSqlite(url))();
    const { default: sqlite3InitModule } = await import('@sqlite.org/sqlite-wasm');
    return (await sqlite3InitModule()) as unknown as Sqlite3;
  });
  port2.start();
  const port = port1 as unknown as Port;
  port.terminate = () => {
    port1.close();
    port2.close();
  };
  return port;
}
