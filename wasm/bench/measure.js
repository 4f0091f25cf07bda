// What is measured of DeltaVectorDB on one thread, in Node and in a worker of Chromium alike. The caller brings sqlite3, the
// package, and vectors.
export const DIMENSIONS = 384;
export const K = 10;

export const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];

/** Microseconds a call: the median of rounds of n calls, after one round that does not count. */
export function timed(rounds, n, call) {
  const times = [];
  let i = 0;
  for (let round = 0; round <= rounds; round++) {
    const start = performance.now();
    for (let j = 0; j < n; j++) call(i++);
    if (round > 0) times.push(((performance.now() - start) * 1000) / n);
  }
  return median(times);
}

/** So many rows go into another table first: what engines do when something is called for the first time does not count. */
const WARM_UP = 2000;

/** Microseconds a row; the table that is there then. `make()` makes one, `insert(table, from, to)` inserts rows, `end(table)` ends it. */
export function insertAll(n, make, insert, end) {
  const first = make();
  insert(first, 0, Math.min(n, WARM_UP));
  end(first);
  const table = make();
  const start = performance.now();
  insert(table, 0, n);
  return [table, { us: ((performance.now() - start) * 1000) / n }];
}

export function random(seed) {
  return () => (seed = (seed * 48271) % 2147483647) / 2147483647;
}

/** 5 % of the dimensions. */
export function sparse(vectorId, draw) {
  const indices = new Uint32Array(19);
  for (let i = 0; i < 19; i++) indices[i] = i * 20 + Math.floor(draw() * 20);
  return { vectorId, operation: { type: 'sparse', indices, values: Float32Array.from({ length: 19 }, () => draw() * 0.2 - 0.1) } };
}

export function exactNearest(rows, query) {
  const unit = (v) => Math.sqrt(v.reduce((s, x) => s + x * x, 0));
  const q = unit(query);
  const scored = rows.map((row, i) => {
    let dot = 0;
    for (let j = 0; j < DIMENSIONS; j++) dot += row[j] * query[j];
    return [dot / (unit(row) * q), i];
  });
  return new Set(scored.sort((a, b) => b[0] - a[0]).slice(0, K).map(([, i]) => i));
}

/** { name: { us, recall? } } */
export function measure({ sqlite3, dv, rows, queries, exact, rounds }) {
  const out = {};
  const draw = random(7);
  const n = rows.length;
  const id = (i) => `r${(i * 7919) % n}`;
  const creates = rows.map((vector, i) => ({ vectorId: `r${i}`, operation: { type: 'create', vector } }));
  const recall = (search) => {
    let found = 0;
    queries.forEach((q, i) => {
      for (const r of search(q)) found += exact[i].has(Number(r.id.slice(1)));
    });
    return found / (queries.length * K);
  };

  const [db, inserted] = insertAll(
    n,
    () => new dv.DeltaVectorDB(sqlite3, { dimensions: DIMENSIONS }),
    (table, from, to) => {
      for (let i = from; i < to; i += 1000) table.applyDeltas(creates.slice(i, Math.min(i + 1000, to)));
    },
    (table) => table.close(),
  );
  out['insert, in batches of 1,000'] = inserted;
  out['search k = 10, scan'] = { recall: recall((q) => db.search(q, K)), us: timed(rounds, queries.length, (i) => db.search(queries[i % queries.length], K)) };
  out['… exact'] = { recall: 1, us: timed(rounds, 50, (i) => db.search(queries[i % queries.length], K, { exact: true })) };

  const deltas = Array.from({ length: 5000 }, (_, i) => sparse(id(i), draw));
  const batch = (i) => deltas.slice((i * 100) % 5000, ((i * 100) % 5000) + 100);
  out['sparse delta, in a batch of 100'] = { us: timed(rounds, 30, (i) => db.applyDeltas(batch(i))) / 100 };
  out['sparse delta, one call'] = { us: timed(rounds, 1000, (i) => db.applyDelta(deltas[i % 5000])) };
  out['dense delta, one call'] = {
    us: timed(rounds, 1000, (i) => db.applyDelta({ vectorId: id(i), operation: { type: 'dense', vector: rows[(i * 31) % n] } })),
  };
  out['getVector'] = { us: timed(rounds, 5000, (i) => db.getVector(id(i))) };
  out['getVectorView'] = { us: timed(rounds, 20000, (i) => db.getVectorView(id(i))) };
  out['encode a sparse delta'] = { us: timed(rounds, 20000, (i) => dv.encodeFrame(deltas[i % 5000])) };
  const frames = deltas.slice(0, 500).map((d) => dv.encodeFrame(d));
  out['decode a sparse delta'] = { us: timed(rounds, 20000, (i) => dv.decodeFrame(frames[i % 500])) };
  db.close();

  const connection = new sqlite3.oo1.DB(':memory:');
  connection.exec(`CREATE VIRTUAL TABLE vectors USING delta_vectors(dimensions=${DIMENSIONS}, metric=cosine, index=hnsw)`);
  const graph = new dv.DeltaVectorDB(sqlite3, { dimensions: DIMENSIONS, database: connection, exclusive: true });
  for (let i = 0; i < n; i += 1000) graph.applyDeltas(creates.slice(i, i + 1000));
  graph.optimize();
  for (const ef of [24, 32, 40, 48, 56, 64, 96, 128]) {
    connection.exec(`INSERT INTO vectors(vectors) VALUES('hnsw_ef_search=${ef}')`);
    const reached = recall((q) => graph.search(q, K));
    if (reached < 0.99) continue;
    out['search k = 10, graph, recall ≥ .99'] = { recall: reached, us: timed(rounds, queries.length, (i) => graph.search(queries[i % queries.length], K)) };
    break;
  }
  graph.close();
  connection.close();
  return out;
}
