// component.mjs: the component beside the side module of sqlite-wasm, on one thread of Node, and the component in wasmtime. Prints a
// table of medians; see README.md.
//
//   component.mjs [--quick] [--random] [--cpu]
//
//   --random   vectors around 100 made-up centres, instead of embeddings
//   --cpu      processor time of the process instead of the clock's, where other programs want the same cores
//
// Vectors: wordnet-384 of the cache directory, made by ./dev bench component. WASMTIME_PYTHON has the package wasmtime.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import init from '@sqlite.org/sqlite-wasm';
import { WASIShim } from '@bytecodealliance/preview2-shim/instantiation';
import * as dv from '../dist/index.js';
import { cache, read } from './data.mjs';
import { DIMENSIONS, K, median, random, sparse, timed } from './measure.js';

const args = process.argv.slice(2);
const quick = args.includes('--quick');
const isRandom = args.includes('--random');
const dist = fileURLToPath(new URL('../component/dist/', import.meta.url));
const CPU_CLOCK = 'performance.now = () => { const { user, system } = process.cpuUsage(); return (user + system) / 1000; };';
const isCpu = args.includes('--cpu');
if (isCpu) new Function('process', CPU_CLOCK)(process);
const n = quick ? 2000 : 10_000;
const rounds = quick ? 2 : 7;

function made(n, seed) {
  const draw = random(17);
  const centres = Array.from({ length: 100 }, () => Float32Array.from({ length: DIMENSIONS }, () => draw() - 0.5));
  const own = random(seed);
  return Array.from({ length: n }, (_, i) => centres[i % 100].map((x) => x + (own() - 0.5) * 0.7));
}

const rows = isRandom ? made(n, 3) : read('wordnet-384.f32', n);
const queries = isRandom ? made(200, 5) : read('wordnet-384-queries.f32', 200);

const getCoreModule = (name) => WebAssembly.compile(readFileSync(path.join(dist, 'js', name)));
const { instantiate } = await import(path.join(dist, 'js/delta-vector.js'));

/** Milliseconds until there is a database, of which a process has only one first time: so each in a process of its own. */
function startUp(code) {
  const times = Array.from({ length: rounds }, () => {
    const child = spawnSync(process.execPath, ['--input-type=module', '-e', (isCpu ? CPU_CLOCK : '') + code], { cwd: fileURLToPath(new URL('.', import.meta.url)), encoding: 'utf8' });
    if (child.status !== 0) throw new Error(child.stderr);
    return Number(child.stdout);
  });
  return median(times);
}

const STARTS = {
  module: `
    import { readFileSync } from 'node:fs';
    const start = performance.now();
    const { default: init } = await import('@sqlite.org/sqlite-wasm');
    const dv = await import('../dist/index.js');
    const sqlite3 = await init({ print: () => {}, printErr: () => {} });
    await dv.loadDeltaVectors(sqlite3);
    new dv.DeltaVectorDB(sqlite3, { dimensions: 384 }).applyDelta({ vectorId: 'a', operation: { type: 'create', vector: new Float32Array(384).fill(1) } });
    console.log(performance.now() - start);`,
  component: `
    import { readFileSync } from 'node:fs';
    const start = performance.now();
    const { WASIShim } = await import('@bytecodealliance/preview2-shim/instantiation');
    const { instantiate } = await import('../component/dist/js/delta-vector.js');
    const getCoreModule = (name) => WebAssembly.compile(readFileSync('../component/dist/js/' + name));
    const { deltaDb } = await instantiate(getCoreModule, new WASIShim().getImportObject());
    new deltaDb.Database(384).applyDelta({ vectorId: 'a', operation: { tag: 'create', val: new Float32Array(384).fill(1) } });
    console.log(performance.now() - start);
    process.exit();`,
};

/** What is measured, given the calls of a host. `delta` makes of the package's delta the host's. */
function measure({ applyDelta, applyDeltas, getVector, search, exact, nothing, delta, exportAll }) {
  const out = {};
  const draw = random(7);
  const id = (i) => `r${(i * 7919) % n}`;
  const creates = rows.map((vector, i) => delta({ vectorId: `r${i}`, operation: { type: 'create', vector } }));
  const start = performance.now();
  for (let i = 0; i < n; i += 1000) applyDeltas(creates.slice(i, i + 1000));
  out['insert, in batches of 1,000'] = ((performance.now() - start) * 1000) / n;
  out['a call that does nothing'] = timed(rounds, 20_000, nothing);
  out['search k = 10, scan'] = timed(rounds, queries.length, (i) => search(queries[i % queries.length], K));
  out['… exact'] = timed(rounds, 50, (i) => exact(queries[i % queries.length], K));
  const deltas = Array.from({ length: 5000 }, (_, i) => delta(sparse(id(i), draw)));
  out['sparse delta, in a batch of 100'] = timed(rounds, 30, (i) => applyDeltas(deltas.slice((i * 100) % 5000, ((i * 100) % 5000) + 100))) / 100;
  out['sparse delta, one call'] = timed(rounds, 1000, (i) => applyDelta(deltas[i % 5000]));
  const wholes = Array.from({ length: 1000 }, (_, i) => delta({ vectorId: id(i), operation: { type: 'dense', vector: rows[(i * 31) % n] } }));
  out['dense delta, one call'] = timed(rounds, 1000, (i) => applyDelta(wholes[i % 1000]));
  out['getVector'] = timed(rounds, 5000, (i) => getVector(id(i)));
  out['export, ms'] = timed(rounds, 3, exportAll) / 1000;
  return out;
}

const columns = {};

const sqlite3 = await init({ print: () => {}, printErr: () => {} });
const { variant } = await dv.loadDeltaVectors(sqlite3);
const side = new dv.DeltaVectorDB(sqlite3, { dimensions: DIMENSIONS });
columns[`side module, ${variant}`] = {
  ...measure({
    applyDelta: (d) => side.applyDelta(d),
    applyDeltas: (d) => side.applyDeltas(d),
    getVector: (id) => side.getVector(id),
    search: (q, k) => side.search(q, k),
    exact: (q, k) => side.search(q, k, { exact: true }),
    nothing: () => sqlite3.capi.sqlite3_libversion_number(),
    delta: (d) => d,
    exportAll: () => side.export(),
  }),
  'start to first commit, ms': startUp(STARTS.module),
};
side.close();

const toWit = ({ vectorId, operation: { type, vector, indices, values, ...rest } }) => ({
  vectorId,
  operation: { tag: type, val: type === 'sparse' ? { indices, values } : (vector ?? Object.values(rest)[0]) },
});
const { deltaDb, deltaDbExt } = await instantiate(getCoreModule, new WASIShim({ sandbox: { preopens: {} } }).getImportObject());
const db = new deltaDb.Database(DIMENSIONS);
columns['component, jco'] = {
  ...measure({
    applyDelta: (d) => db.applyDelta(d),
    applyDeltas: (d) => db.applyDeltas(d),
    getVector: (id) => db.getVector(id),
    search: (q, k) => db.search(q, k),
    exact: (q, k) => deltaDbExt.searchWith(db, q, k, { exact: true, values: [] }),
    nothing: () => deltaDbExt.lastError(db),
    delta: toWit,
    exportAll: () => db.export(),
  }),
  'start to first commit, ms': startUp(STARTS.component),
};

if (process.env.WASMTIME_PYTHON) {
  const input = Buffer.concat([...rows, ...queries].map((v) => Buffer.from(v.buffer, v.byteOffset, v.byteLength)));
  const program = fileURLToPath(new URL('component.py', import.meta.url));
  const child = spawnSync(process.env.WASMTIME_PYTHON, [program, path.join(dist, 'delta-vector.wasm'), String(n), String(DIMENSIONS), String(rounds), isCpu ? 'cpu' : 'clock'], { input, maxBuffer: 1 << 26, stdio: ['pipe', 'pipe', 'inherit'] });
  if (child.status !== 0) throw new Error('component.py failed');
  columns['component, wasmtime from Python'] = JSON.parse(String(child.stdout));
}

console.log(`Node ${process.versions.node}, ${cpus()[0].model}; ${n} × ${DIMENSIONS}, ${isRandom ? 'made up' : 'wordnet-384'}. Microseconds${isCpu ? ' of processor time' : ''}, unless it says otherwise.\n`);
console.log(`| | ${Object.keys(columns).join(' | ')} |`);
console.log(`| --- |${' --- |'.repeat(Object.keys(columns).length)}`);
const figure = (x) => (x === undefined ? '–' : x >= 100 ? x.toFixed(0) : x.toPrecision(2));
const names = new Set(Object.values(columns).flatMap((c) => Object.keys(c)));
for (const name of names) console.log(`| ${name} | ${Object.values(columns).map((c) => figure(c[name])).join(' | ')} |`);
const component = readFileSync(path.join(dist, 'delta-vector.wasm'));
console.log(`\ndelta-vector.wasm: ${component.length} bytes, ${gzipSync(component, { level: 9 }).length} with gzip.`);
process.exit(); // jco's WASI has a worker
