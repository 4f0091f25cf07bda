// imports.mjs MODULE…: what side modules import must be among what the oldest supported sqlite-wasm exports, and be SQLite's. Fails
// otherwise. Reads the bytes itself, since not every Node compiles relaxed SIMD.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

const oldest = path.dirname(createRequire(import.meta.url).resolve('sqlite-wasm-oldest/package.json'));
const exported = WebAssembly.Module.exports(new WebAssembly.Module(readFileSync(path.join(oldest, 'sqlite-wasm/jswasm/sqlite3.wasm'))));
const functions = new Set(exported.filter((e) => e.kind === 'function' && e.name.startsWith('sqlite3_')).map((e) => e.name));
/** What loader.ts makes itself. */
const LOADERS = new Set(['memory', '__indirect_function_table', '__stack_pointer', '__memory_base', '__table_base']);
const FUNCTION = 0;

/** [module, name, kind] of each import. */
export function importsOf(bytes) {
  let at = 8;
  const leb = () => {
    for (let value = 0, shift = 0; ; shift += 7) {
      const byte = bytes[at++];
      value += (byte & 127) * 2 ** shift;
      if (byte < 128) return value;
    }
  };
  const text = () => {
    const length = leb();
    return Buffer.from(bytes.subarray(at, (at += length))).toString();
  };
  const limits = () => {
    if (leb() & 1) leb();
    leb();
  };
  for (;;) {
    if (at >= bytes.length) return [];
    const section = bytes[at++];
    const length = leb();
    if (section === 2) break;
    at += length;
  }
  return Array.from({ length: leb() }, () => {
    const from = text();
    const name = text();
    const kind = bytes[at++];
    if (kind === FUNCTION) leb();
    else if (kind === 1) at++, limits(); // a table: its type
    else if (kind === 2) limits();
    else at += 2; // a global: type and mutability
    return [from, name, kind];
  });
}

let n = 0;
for (const file of process.argv.slice(2)) {
  const imports = importsOf(readFileSync(file));
  if (imports.length < 50) throw new Error(`${file}: only ${imports.length} imports were found`);
  for (const [from, name, kind] of imports) {
    const isFunction = kind === FUNCTION || from === 'GOT.func';
    if (isFunction ? functions.has(name) : from === 'env' && LOADERS.has(name)) continue;
    console.error(`${path.basename(file)} imports ${from}.${name}, which the oldest supported sqlite-wasm does not export as a function of SQLite's`);
    n++;
  }
}
if (n > 0) process.exit(1);
