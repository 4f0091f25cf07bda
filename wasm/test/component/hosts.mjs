// The hosts that run the component, each behind the same functions, so that the same programs run in all of them.
//
//   await host.start({ grant, memory })   a new instance: with a directory as /data, and so many bytes of memory at most, where
//                                         the host can limit it
//   await host.database(dimensions)       delta-db's constructor
//   await host.open(options)              delta-db-ext's open
//   await db.applyDelta(…), …             the methods of the one and the functions of the other, by the names that jco gives them
//   await db.drop()
//
// What failed throws an Error with the string of the WIT's result; a trap is a Trap.
import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import readline from 'node:readline';
import { fileURLToPath } from 'node:url';
import { jsHost } from './js-host.mjs';

const dist = fileURLToPath(new URL('../../component/dist/', import.meta.url));
export const COMPONENT = path.join(dist, 'delta-vector.wasm');

/** jco's translation, in this process. */
export async function nodeHost() {
  const { instantiate } = await import(path.join(dist, 'js/delta-vector.js'));
  const { WASIShim } = await import('@bytecodealliance/preview2-shim/instantiation');
  const modules = new Map();
  const getCoreModule = async (name) => {
    if (!modules.has(name)) modules.set(name, await WebAssembly.compile(await readFile(path.join(dist, 'js', name))));
    return modules.get(name);
  };
  const wasi = ({ grant }) => new WASIShim({ sandbox: { preopens: grant ? { '/data': grant } : {} } }).getImportObject();
  return jsHost('Node', instantiate, getCoreModule, wasi);
}

const running = new Set();

/** For after(): what a test that failed has left open would keep its process from ending. */
export const killHosts = () => Promise.all([...running].map((kill) => kill()));

/** wasmtime, in a process of its own. PYTHON has the package. */
export function wasmtimeHost() {
  const program = fileURLToPath(new URL('wasmtime_host.py', import.meta.url));
  const child = spawn(process.env.WASMTIME_PYTHON, [program, COMPONENT], { stdio: ['pipe', 'pipe', 'inherit'] });
  const closed = new Promise((resolve) => child.on('close', resolve));
  const kill = () => {
    child.kill('SIGKILL');
    return closed;
  };
  running.add(kill);
  closed.then(() => running.delete(kill));
  child.stdin.on('error', () => {}); // one that was killed takes no more: that there is no answer says so
  const lines = readline.createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const ask = async (request) => {
    child.stdin.write(JSON.stringify(request, toJson) + '\n');
    const { value, done } = await lines.next();
    if (done) throw new Error('the host has ended');
    const answer = JSON.parse(value, fromJson);
    if (answer.trap !== undefined) throw Object.assign(new Error(answer.trap), { name: 'Trap' });
    if (answer.error !== undefined) throw new Error(answer.error);
    return answer.ok ?? undefined;
  };
  const kebab = (name) => name.replace(/[A-Z]/g, (c) => '-' + c.toLowerCase());
  const wrap = (handle) =>
    new Proxy({ drop: () => ask({ drop: handle }) }, {
      get: (own, name) => {
        if (name in own || name === 'then') return own[name];
        const function_ = METHODS.has(name) ? ['delta-db', `[method]database.${kebab(name)}`] : ['delta-db-ext', kebab(name)];
        return (...args) => ask({ call: function_, args: [handle, ...args] });
      },
    });
  return {
    name: 'wasmtime',
    canLimitMemory: true,
    slowness: 10, // each value is a Python object on the way
    start: ({ grant = null, memory = null } = {}) => ask({ start: { grant, memory } }),
    database: async (dimensions) => wrap(await ask({ call: ['delta-db', '[constructor]database'], args: [dimensions] })),
    open: async (options) => wrap(await ask({ call: ['delta-db-ext', 'open'], args: [options] })),
    limitMemory: (bytes) => ask({ call: ['delta-db-ext', 'limit-memory'], args: [bytes] }),
    kill,
    close: () => {
      child.stdin.end();
      return closed;
    },
  };
}

const METHODS = new Set(['applyDelta', 'applyDeltas', 'getVector', 'search', 'export', 'import']);

const base64 = (view) => Buffer.from(view.buffer, view.byteOffset, view.byteLength).toString('base64');
function toJson(key, value) {
  const given = this[key]; // before a Buffer has made itself an object
  if (given instanceof Float32Array) return { $f: base64(given) };
  if (given instanceof Uint8Array) return { $b: base64(given) };
  if (given instanceof Uint32Array) return [...given];
  if (typeof given === 'bigint') return { $n: String(given) };
  if (typeof given === 'number' && !Number.isFinite(given)) return { $x: String(given).replace('Infinity', 'inf') };
  return value;
}
function fromJson(key, value) {
  if (value === null) return undefined;
  if (value?.$f !== undefined) return new Float32Array(new Uint8Array(Buffer.from(value.$f, 'base64')).buffer);
  if (value?.$b !== undefined) return new Uint8Array(Buffer.from(value.$b, 'base64'));
  if (value?.$n !== undefined) return BigInt(value.$n);
  return value;
}
