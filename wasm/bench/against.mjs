// against.mjs [ROUNDS] DIRECTORY...: builds of this package (their dist directories) beside each other, in Node: short rounds in turn, so
// that all meet the same minutes. Prints medians in microseconds, and the medians of the ratios to the first. The last is usually
// wasm/dist, the first what it was before a change.
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import init from '@sqlite.org/sqlite-wasm';
import { read } from './data.mjs';
import { DIMENSIONS, K, median, random, sparse } from './measure.js';

const args = process.argv.slice(2);
const rounds = /^\d+$/.test(args[0]) ? Number(args.shift()) : 7;
const n = 10_000;
const rows = read('wordnet-384.f32', n);
const queries = read('wordnet-384-queries.f32', 200);
const id = (i) => `r${(i * 7919) % n}`;
/** Every row below half of n once, in an order that is not that of the log. */
const scattered = (i) => (i * 2377) % (n / 2);
const creates = rows.map((vector, i) => ({ vectorId: `r${i}`, operation: { type: 'create', vector } }));
const dense = (vectorId, i) => ({ vectorId, operation: { type: 'dense', vector: rows[i % n] } });
const draw = random(7);
const deltas = Array.from({ length: n / 2 }, (_, i) => sparse(id(i), draw));

const builds = [];
for (const directory of args) {
  const dv = await import(pathToFileURL(path.resolve(directory, 'index.js')).href);
  const sqlite3 = await init({ print: () => {}, printErr: () => {} });
  await dv.loadDeltaVectors(sqlite3);
  builds.push({ dv, sqlite3, times: {} });
}

function timed(build, what, calls, call, perCall = 1) {
  const start = performance.now();
  for (let i = 0; i < calls; i++) call(i);
  (build.times[what] ??= []).push(((performance.now() - start) * 1000) / (calls * perCall));
}

function round(build) {
  const { dv, sqlite3 } = build;
  const db = new dv.DeltaVectorDB(sqlite3, { dimensions: DIMENSIONS });
  timed(build, 'insert, in batches of 1,000', n / 1000, (i) => db.applyDeltas(creates.slice(i * 1000, (i + 1) * 1000)), 1000);
  timed(build, 'sparse delta, in a batch of 100', 150, (i) => db.applyDeltas(deltas.slice((i * 100) % (n / 2), ((i * 100) % (n / 2)) + 100)), 100);
  // A database that comes from a file has nothing in memory, unless it is what was there. Half of its rows have a chain of four
  // records, the others of one.
  const file = db.export();
  const makeCold = () => {
    db.applyDelta(deltas[0]);
    db.import(file);
    db.getVector(id(n - 1));
  };
  makeCold();
  timed(build, 'getVector, cold, four records', 3000, (i) => db.getVector(id(scattered(i))));
  timed(build, 'getVector, cold, one record', 3000, (i) => db.getVector(id(n / 2 + scattered(i))));
  // Before what makes garbage.
  timed(build, 'getVectorView', 20_000, (i) => db.getVectorView(id(scattered(i % 3000))));
  timed(build, 'getVector', 20_000, (i) => db.getVector(id(scattered(i % 3000))));
  timed(build, 'dense delta, one call', 1500, (i) => db.applyDelta(dense(id(scattered(i)), i * 37)));
  timed(build, 'sparse delta, one call', 1500, (i) => db.applyDelta(deltas[scattered(i)]));
  makeCold();
  timed(build, 'dense delta, one call, cold, one record', 1500, (i) => db.applyDelta(dense(id(n / 2 + scattered(i)), i * 31)));
  timed(build, 'search k = 10, scan', queries.length, (i) => db.search(queries[i], K));
  db.close();
  const frames = deltas.slice(0, 500).map((delta) => dv.encodeFrame(delta));
  timed(build, 'encode a sparse delta', 20_000, (i) => dv.encodeFrame(deltas[i % 500]));
  timed(build, 'decode a sparse delta', 20_000, (i) => dv.decodeFrame(frames[i % 500]));
  timed(build, 'search k = 10, graph', 400, (i) => build.graph.search(queries[i % 200], K));
}

for (const build of builds) {
  const connection = new build.sqlite3.oo1.DB(':memory:');
  connection.exec(`CREATE VIRTUAL TABLE vectors USING delta_vectors(dimensions=${DIMENSIONS}, metric=cosine, index=hnsw, hnsw_ef_search=48)`);
  build.graph = new build.dv.DeltaVectorDB(build.sqlite3, { dimensions: DIMENSIONS, database: connection, exclusive: true });
  for (let i = 0; i < n; i += 1000) build.graph.applyDeltas(creates.slice(i, i + 1000));
  build.graph.optimize();
}
for (let r = 0; r <= rounds; r++) {
  for (const build of builds) round(build);
  if (r === 0) for (const build of builds) build.times = {}; // one round does not count
}
for (const what of Object.keys(builds[0].times)) {
  const cells = builds.map(({ times }) => {
    const ratio = median(times[what].map((t, i) => t / builds[0].times[what][i]));
    return `${median([...times[what]]).toFixed(2).padStart(8)} (${ratio.toFixed(2)})`;
  });
  console.log(what.padEnd(40), ...cells);
}
