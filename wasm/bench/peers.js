// Vector databases for browsers, in a page and in Node: those that are built for pages only say so in Node. `at(name, file)` is the
// URL of a file of a package, `wasm(name, file)` what wasm-bindgen's loaders take for it. One that does not run is left out, with the
// reason.
import { DIMENSIONS, insertAll, K, timed } from './measure.js';

function recallOf(search, { queries, exact }) {
  let found = 0;
  queries.forEach((q, i) => {
    for (const id of search(q)) found += exact[i].has(Number(id));
  });
  return found / (queries.length * K);
}

const PEERS = {
  async 'hnswlib-wasm'(at, { rows, queries, exact, rounds }) {
    const { loadHnswlib } = await import(at('hnswlib-wasm', 'dist/hnswlib.js'));
    const lib = await loadHnswlib();
    const [index, inserted] = insertAll(
      rows.length,
      () => {
        const index = new lib.HierarchicalNSW('cosine', DIMENSIONS, '');
        index.initIndex(rows.length, 16, 100, 1);
        return index;
      },
      (index, from, to) => {
        for (let i = from; i < to; i++) index.addPoint(rows[i], i, false);
      },
      () => {},
    );
    const out = { 'insert, in batches of 1,000': inserted };
    for (const ef of [10, 16, 24, 32, 48, 64, 96, 128, 192, 256]) {
      index.setEfSearch(ef);
      const search = (q) => index.searchKnn(q, K, undefined).neighbors;
      const recall = recallOf(search, { queries, exact });
      if (recall < 0.99) continue;
      out['search k = 10, graph, recall ≥ .99'] = { recall, us: timed(rounds, queries.length, (i) => search(queries[i % queries.length])) };
      break;
    }
    out['getVector'] = { us: timed(rounds, 500, (i) => index.getPoint(i % rows.length)) };
    return out;
  },

  async 'sqlite-vec'(at, { rows, queries, exact, rounds }) {
    const { default: init } = await import(at('sqlite-vec-wasm-demo', 'sqlite3.mjs'));
    const sqlite3 = await init();
    const db = new sqlite3.oo1.DB(':memory:');
    db.exec(`CREATE VIRTUAL TABLE v USING vec0(e float[${DIMENSIONS}] distance_metric=cosine)`);
    const blob = (v) => new Uint8Array(v.buffer, v.byteOffset, v.byteLength);
    const start = performance.now();
    db.exec('BEGIN');
    const insert = db.prepare('INSERT INTO v(rowid, e) VALUES(?, ?)');
    rows.forEach((row, i) => insert.bind([BigInt(i + 1), blob(row)]).stepReset());
    db.exec('COMMIT');
    const out = { 'insert, in batches of 1,000': { us: ((performance.now() - start) * 1000) / rows.length } };
    const select = db.prepare(`SELECT rowid FROM v WHERE e MATCH ? AND k = ${K}`);
    const search = (q) => {
      const ids = [];
      select.bind([blob(q)]);
      while (select.step()) ids.push(select.getInt(0) - 1);
      select.reset();
      return ids;
    };
    const some = { queries: queries.slice(0, 20), exact };
    out['search k = 10, scan'] = { recall: recallOf(search, some), us: timed(Math.min(rounds, 3), 10, (i) => search(queries[i % 20])) };
    const get = db.prepare('SELECT e FROM v WHERE rowid = ?');
    out['getVector'] = { us: timed(rounds, 500, (i) => { get.bind([BigInt(1 + (i % rows.length))]).step(); get.getBlob(0); get.reset(); }) };
    const update = db.prepare('UPDATE v SET e = ? WHERE rowid = ?');
    out['dense delta, one call'] = { us: timed(rounds, 100, (i) => update.bind([blob(rows[(i * 31) % rows.length]), BigInt(1 + (i % rows.length))]).stepReset()) };
    return out;
  },

  async ruvector(at, { rows, queries, exact, rounds }, wasm) {
    const module = await import(at('@ruvector/wasm', 'pkg/ruvector_wasm.js'));
    await module.default({ module_or_path: await wasm('@ruvector/wasm', 'pkg/ruvector_wasm_bg.wasm') });
    const entries = rows.map((vector, i) => ({ id: `r${i}`, vector, metadata: {} }));
    const [db, inserted] = insertAll(
      rows.length,
      () => new module.VectorDB(DIMENSIONS, 'cosine', false),
      (db, from, to) => {
        for (let i = from; i < to; i += 1000) db.insertBatch(entries.slice(i, Math.min(i + 1000, to)));
      },
      (db) => db.free(),
    );
    const out = { 'insert, in batches of 1,000': inserted };
    const search = (q) => db.search(q, K).map((r) => {
      const id = r.id.slice(1);
      r.free();
      return id;
    });
    const some = { queries: queries.slice(0, 20), exact };
    out['search k = 10, scan'] = { recall: recallOf(search, some), us: timed(Math.min(rounds, 3), 10, (i) => search(queries[i % 20])) };
    out['getVector'] = { us: timed(rounds, 5000, (i) => {
      const entry = db.get(`r${(i * 7919) % rows.length}`);
      const { vector } = entry;
      entry.free();
      return vector;
    }) };
    out['dense delta, one call'] = { us: timed(rounds, 100, (i) => db.insert(rows[(i * 31) % rows.length], `r${(i * 7919) % rows.length}`)) };
    db.free();
    return out;
  },

  async edgevec(at, { rows, queries, exact, rounds }, wasm) {
    const module = await import(at('edgevec', 'edgevec.js'));
    await module.default({ module_or_path: await wasm('edgevec', 'edgevec_bg.wasm') });
    const make = () => {
      const config = new module.EdgeVecConfig(DIMENSIONS);
      config.metric = 'l2'; // of unit vectors: the order is that of the cosine
      return new module.EdgeVec(config);
    };
    const rowOf = new Map();
    const [index, inserted] = insertAll(
      rows.length,
      make,
      (index, from, to) => {
        for (let i = from; i < to; i++) rowOf.set(index.insert(unit(rows[i])), i);
      },
      (index) => {
        index.free();
        rowOf.clear();
      },
    );
    const out = { 'insert, in batches of 1,000': inserted };
    const search = (q) => index.search(unit(q), K).map((r) => rowOf.get(r.id));
    const bare = (q) => index.search(q, K);
    const units = queries.map(unit);
    out['search k = 10, graph, recall ≥ .99'] = { recall: recallOf(search, { queries, exact }), us: timed(rounds, queries.length, (i) => bare(units[i % units.length])) };
    return out;
  },
};

function unit(v) {
  const length = Math.sqrt(v.reduce((s, x) => s + x * x, 0));
  return v.map((x) => x / length);
}

/** { columns: { peer: … }, failed: { peer: reason } } */
export async function measurePeers(at, data, wasm = at) {
  const columns = {};
  const failed = {};
  for (const [name, run] of Object.entries(PEERS)) {
    try {
      columns[name] = await run(at, data, wasm);
    } catch (e) {
      failed[name] = String(e.message ?? e);
    }
  }
  return { columns, failed };
}
