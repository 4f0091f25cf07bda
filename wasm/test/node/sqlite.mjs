// The SQLites that the package is tested with.
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const modules = fileURLToPath(new URL('../../node_modules/', import.meta.url));
export const VERSIONS = { newest: '@sqlite.org/sqlite-wasm', oldest: 'sqlite-wasm-oldest', 'too old': 'sqlite-wasm-too-old' };

export async function sqliteOf(which = 'newest') {
  const at = `${modules}${VERSIONS[which]}/`;
  const file = ['dist/node.mjs', 'sqlite-wasm/jswasm/sqlite3-node.mjs'].map((f) => at + f).find(existsSync);
  const { default: init } = await import(file);
  const sqlite3 = await init({ print: () => {}, printErr: () => {} });
  sqlite3.config.warn = () => {}; // statements that fail are told there too
  return sqlite3;
}
