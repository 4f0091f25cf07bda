// DeltaVectorDB on one thread: each method of ADR-DB-008, against a model of plain arrays.
import assert from 'node:assert/strict';
import { before, beforeEach, afterEach, describe, it } from 'node:test';
import { AsyncDeltaVectorDB, DeltaStreamProcessor, DeltaVectorDB, SharedDeltaPool, loadDeltaVectors } from '../../dist/index.js';
import { sqliteOf } from './sqlite.mjs';

const f32 = (...values) => Float32Array.from(values);
const create = (vectorId, ...values) => ({ vectorId, operation: { type: 'create', vector: f32(...values) } });
const offset = (vectorId, amount) => ({ vectorId, operation: { type: 'offset', amount } });
const at = (ms) => new Date(Date.UTC(2026, 0, 1) + ms);

let sqlite3, db;
before(async () => {
  sqlite3 = await sqliteOf();
  await loadDeltaVectors(sqlite3);
});
beforeEach(() => (db = new DeltaVectorDB(sqlite3, { dimensions: 3, metric: 'l2' })));
afterEach(() => db.close());

const fails = (work, code, message) =>
  assert.throws(work, (e) => {
    assert.equal(e.name, 'DeltaVectorsError');
    assert.equal(e.code, code, e.message);
    assert.match(e.message, message);
    return true;
  });

it('has the names and defaults of the ADR', () => {
  const other = new DeltaVectorDB(sqlite3);
  assert.equal(other.getDimensions(), 384);
  const sql = other.sqlite.selectValue("SELECT sql FROM sqlite_schema WHERE name = 'vectors'");
  for (const option of ['dimensions=384', 'max_vectors=100000', 'compression=on', 'checkpoint_interval=100', 'hnsw_m=16',
    'hnsw_ef_construction=100', 'hnsw_ef_search=50', 'metric=cosine']) assert.ok(sql.includes(option), option);
  other.close();
});

it('applies every operation, and returns ids that rise', () => {
  assert.equal(db.applyDelta(create('a', 1, 2, 3)), '1');
  assert.deepEqual(
    db.applyDeltas([
      { vectorId: 'a', operation: { type: 'sparse', indices: Uint32Array.of(2, 0), values: f32(30, 10) } },
      { vectorId: 'a', operation: { type: 'scale', factor: 0.5 } },
      offset('a', 1),
    ]),
    ['2', '3', '4'],
  );
  assert.deepEqual(db.getVector('a'), f32(6, 2, 16));
  db.applyDelta({ vectorId: 'a', operation: { type: 'dense', vector: f32(7, 8, 9) } });
  assert.deepEqual(db.getVector('a'), f32(7, 8, 9));
  db.applyDelta({ vectorId: 'a', operation: { type: 'delete' } });
  assert.equal(db.getVector('a'), null);
  assert.equal(db.getVector('never'), null);
  assert.deepEqual(db.applyDeltas([]), []);
});

it('refuses what is wrong, and changes nothing', () => {
  db.applyDelta(create('a', 1, 2, 3));
  fails(() => db.applyDelta(create('a', 1, 2, 3)), 'exists', /row 'a' exists already/);
  fails(() => db.applyDelta(offset('b', 1)), 'invalid', /row 'b' does not exist/);
  fails(() => db.applyDelta({ vectorId: 'a', operation: { type: 'dense', vector: f32(1) } }), 'invalid', /1 dimensions?, expected 3/);
  fails(() => db.applyDelta({ vectorId: 'a', operation: { type: 'scale', factor: NaN } }), 'invalid', /row 'a'/);
  fails(() => db.applyDeltas([offset('a', 1), create('c', 1, 1, 1), offset('nobody', 1)]), 'invalid', /'nobody' does not exist/);
  fails(() => db.applyDelta({ ...offset('a', 1), timestamp: at(-1e12) }), 'invalid', /older than the row's last one/);
  fails(() => db.search(f32(1), 1), 'invalid', /1 dimensions?, expected 3/);
  fails(() => db.search([1, 2, 3]), 'invalid', /the query is an Array: expected a Float32Array/);
  fails(() => db.search(f32(1, 2, 3), -1), 'invalid', /k is -1/);
  fails(() => db.search(f32(1, 2, 3), 1, { ef: 0 }), 'invalid', /ef/);
  fails(() => db.search(f32(1, 2, 3), 1, { where: 'nonsense =' }), 'invalid', /syntax error/);
  fails(() => db.getVectorAt('a', 'yesterday'), 'invalid', /time is "yesterday": expected a valid Date/);
  fails(() => db.rollback('a', 9), 'invalid', /row 'a' has no delta 9/);
  assert.deepEqual(db.getVector('a'), f32(1, 2, 3));
  assert.equal(db.status().deltas, 1);
  assert.equal(db.getVector('c'), null);
});

it('refuses options that it does not know, with those it does', () => {
  fails(() => new DeltaVectorDB(sqlite3, { dimension: 3 }), 'invalid', /there is no option dimension; the options are checkpointInterval, /);
  fails(() => new DeltaVectorDB(sqlite3, { dimensions: 0 }), 'invalid', /option dimensions is 0: expected a whole number from 1 to 65536/);
  fails(() => new DeltaVectorDB(sqlite3, { metric: 'hamming' }), 'invalid', /option metric is "hamming": expected cosine, l2, ip, l1/);
  fails(() => new DeltaVectorDB(sqlite3, { compression: 'on' }), 'invalid', /option compression is "on": expected true or false/);
});

it('keeps metadata, as patches', () => {
  db.applyDelta({ ...create('a', 1, 2, 3), metadata: { lang: 'en', rank: 1 } });
  db.applyDelta({ ...offset('a', 1), metadata: { rank: null, seen: true } });
  assert.deepEqual(db.getMetadata('a'), { lang: 'en', seen: true });
  assert.equal(db.getMetadata('b'), null);
  db.applyDelta(create('b', 1, 2, 3));
  assert.equal(db.getMetadata('b'), null);
});

it('finds the nearest, with distance, score and metadata', () => {
  db.applyDeltas([{ ...create('a', 0, 0, 0), metadata: { kind: 'x' } }, create('b', 0, 3, 4), { ...create('c', 1, 0, 0), metadata: { kind: 'y' } }]);
  assert.deepEqual(db.search(f32(0, 0, 0), 2), [
    { id: 'a', score: 1, distance: 0, metadata: { kind: 'x' } },
    { id: 'c', score: 0.5, distance: 1, metadata: { kind: 'y' } },
  ]);
  assert.deepEqual(db.search(f32(0, 0, 0), 3, { metadata: false }).map((r) => Object.keys(r).length), [3, 3, 3]);
  assert.deepEqual(db.search(f32(0, 0, 0), 3, { maxDistance: 2 }).map((r) => r.id), ['a', 'c']);
  assert.deepEqual(db.search(f32(0, 0, 0), 3, { exact: true, ef: 10, recallTarget: 0.9 }).map((r) => r.id), ['a', 'c', 'b']);
  assert.deepEqual(db.search(f32(0, 0, 0), 1, { where: "metadata ->> 'kind' = ?", params: ['y'] }).map((r) => r.id), ['c']);
  assert.deepEqual(db.search(f32(0, 0, 0), 1, { where: 'id <> ? -- not a', params: ['a'] }).map((r) => r.id), ['c']);
  assert.deepEqual(db.search(f32(0, 0, 0), 0), []);
  for (const [metric, score] of [['cosine', 0.6], ['ip', 3], ['l1', 1 / 7]]) {
    const other = new DeltaVectorDB(sqlite3, { dimensions: 3, metric });
    other.applyDelta(create('a', 0, 3, 4));
    const [hit] = other.search(f32(0, 1, 0), 1);
    assert.ok(Math.abs(hit.score - score) < 1e-6, `${metric} ${hit.score}`);
    other.close();
  }
});

it('reads and searches the past', () => {
  db.applyDelta({ ...create('a', 1, 0, 0), timestamp: at(0) });
  db.applyDelta({ ...create('b', 5, 0, 0), timestamp: at(0) });
  db.applyDelta({ vectorId: 'a', operation: { type: 'scale', factor: 10 }, timestamp: at(1000) });
  assert.deepEqual(db.getVectorAt('a', at(999)), f32(1, 0, 0));
  assert.deepEqual(db.getVectorAt('a', at(1000)), f32(10, 0, 0));
  assert.equal(db.getVectorAt('a', at(-1)), null);
  assert.deepEqual(db.search(f32(0, 0, 0), 1).map((r) => r.id), ['b']);
  assert.deepEqual(db.search(f32(0, 0, 0), 1, { asOf: at(500) }).map((r) => r.id), ['a']);
});

it('tells a row’s chain, and takes it back', () => {
  db.applyDeltas([{ ...create('a', 1, 1, 1), timestamp: at(0) }, { ...offset('a', 1), timestamp: at(5) }]);
  const { vectorId, deltas } = db.getDeltaChain('a');
  assert.equal(vectorId, 'a');
  assert.deepEqual(deltas, [
    { seq: 1, deltaId: '1', vectorId: 'a', operation: { type: 'create', vector: f32(1, 1, 1) }, timestamp: at(0), encoding: 'dense', bytes: 12, checkpoint: true },
    { seq: 2, deltaId: '2', vectorId: 'a', operation: { type: 'offset', amount: 1 }, timestamp: at(5), encoding: 'scalar', bytes: 4, checkpoint: false },
  ]);
  assert.deepEqual(db.getDeltaChain('nobody'), { vectorId: 'nobody', deltas: [] });
  assert.equal(db.rollback('a', '1'), '3');
  assert.deepEqual(db.getVector('a'), f32(1, 1, 1));
});

it('compacts what it is told to', () => {
  db.applyDeltas([create('a', 1, 1, 1), offset('a', 1), offset('a', 1), create('b', 0, 0, 0), offset('b', 1)]);
  assert.equal(db.compact().merged, 0);
  assert.equal(db.compact({ keep: 'none', vectorId: 'b' }).merged, 1);
  assert.deepEqual({ ...db.compact({ keep: 'none' }), bytesBefore: 0, bytesAfter: 0 }, { rows: 1, deltasBefore: 4, deltasAfter: 2, bytesBefore: 0, bytesAfter: 0, merged: 2, removed: 0 });
  assert.deepEqual(db.getVector('a'), f32(3, 3, 3));
  fails(() => db.compact({ keep: 'some' }), 'invalid', /some/);
});

it('exports itself as a file, and parts of its log', () => {
  db.applyDeltas([{ ...create('a', 1, 2, 3), metadata: { x: 1 } }, create('b', 4, 5, 6)]);
  const file = db.export();
  assert.equal(Buffer.from(file.subarray(0, 15)).toString(), 'SQLite format 3');
  const other = new DeltaVectorDB(sqlite3, { dimensions: 3, metric: 'l2' });
  other.applyDelta(create('z', 0, 0, 0));
  other.import(Buffer.from(file));
  assert.deepEqual(other.getVector('b'), f32(4, 5, 6));
  assert.equal(other.getVector('z'), null);
  assert.deepEqual(other.getMetadata('a'), { x: 1 });

  const third = new DeltaVectorDB(sqlite3, { dimensions: 3, metric: 'l2' });
  assert.equal(third.importDeltas(db.exportDeltas()).applied, 2);
  db.applyDelta(offset('a', 1));
  assert.equal(third.importDeltas(db.exportDeltas('2')).applied, 1);
  assert.deepEqual({ ...third.importDeltas(db.exportDeltas(0)) }, { applied: 0, skipped: 3, firstSeq: null, lastSeq: null });
  assert.deepEqual(third.getVector('a'), f32(2, 3, 4));
  fails(() => third.importDeltas(new Uint8Array(50)), 'foreign-file', /not what exportDeltas gives/);
  fails(() => third.import(new Uint8Array(50)), 'foreign-file', /not an SQLite database/);
  db.sqlite.exec('BEGIN');
  fails(() => db.import(file), 'busy', /open transaction/);
  db.sqlite.exec('ROLLBACK');
  other.close();
  third.close();
});

it('a view is the vector where it lies, and goes with the times', () => {
  db.applyDeltas([create('a', 1, 2, 3), create('ä', 4, 5, 6)]);
  const view = db.getVectorView('a');
  assert.deepEqual(view, f32(1, 2, 3));
  assert.equal(view.buffer, sqlite3.wasm.heap8u().buffer);
  assert.deepEqual(db.getVectorView('ä'), f32(4, 5, 6));
  assert.equal(db.getVectorView('nobody'), null);
  db.applyDelta(offset('a', 1));
  assert.deepEqual(db.getVectorView('a'), f32(2, 3, 4));
  db.sqlite.exec('BEGIN');
  db.applyDelta(offset('a', 1));
  assert.deepEqual(db.getVectorView('a'), f32(3, 4, 5));
  db.sqlite.exec('ROLLBACK');
  assert.deepEqual(db.getVectorView('a'), f32(2, 3, 4));
  db.sqlite.exec("UPDATE vectors SET vector = '[9, 9, 9]' WHERE id = 'a'");
  assert.deepEqual(db.getVectorView('a'), f32(9, 9, 9));
  db.applyDelta({ vectorId: 'a', operation: { type: 'delete' } });
  assert.equal(db.getVectorView('a'), null);
});

it('a delta by itself, which goes past SQL, is what it is in a batch', () => {
  const other = new DeltaVectorDB(sqlite3, { dimensions: 3, metric: 'l2' });
  const deltas = [
    create('ä', 1, 2, 3),
    { vectorId: 'ä', operation: { type: 'sparse', indices: Uint32Array.of(2, 0), values: f32(30, 10) } },
    { vectorId: 'ä', operation: { type: 'dense', vector: f32(7, 8, 9) } },
    { vectorId: 'ä', operation: { type: 'scale', factor: 0.5 } },
    offset('ä', 1),
    { vectorId: 'ä', operation: { type: 'delete' } },
    create('ä', 4, 5, 6),
  ];
  assert.deepEqual(deltas.map((d) => db.applyDelta(d)), deltas.flatMap((d) => other.applyDeltas([d])));
  const chain = (d) => d.getDeltaChain('ä').deltas.map(({ timestamp: _, ...entry }) => entry);
  assert.deepEqual(chain(db), chain(other));

  const wrong = [
    create('ä', 1, 2, 3), offset('nobody', 1), { vectorId: 'ä', operation: { type: 'dense', vector: f32(1) } },
    { vectorId: 'ä', operation: { type: 'offset', amount: NaN } }, { vectorId: 'ä', operation: { type: 'dense', vector: f32(1, Infinity, 1) } },
    { vectorId: 'ä', operation: { type: 'sparse', indices: Uint32Array.of(7), values: f32(1) } }, { vectorId: 7, operation: { type: 'delete' } },
    { vectorId: 'ä', operation: { type: 'sparse', indices: Uint32Array.of(1, 1), values: f32(1, 1) } }, { vectorId: 'ä', operation: { type: 'add' } },
  ];
  const told = (work) => {
    try {
      work();
    } catch ({ name, code, sqliteCode, message }) {
      return { name, code, sqliteCode, message };
    }
    return assert.fail('it did not throw');
  };
  for (const delta of wrong) assert.deepEqual(told(() => db.applyDelta(delta)), told(() => other.applyDeltas([delta])));
  assert.equal(db.lastSeq(), deltas.length);
  other.close();
});

it('a delta by itself is part of the open transaction, and sees what SQL has done to the table', () => {
  db.applyDelta(create('a', 1, 2, 3));
  db.sqlite.exec('BEGIN');
  assert.equal(db.applyDelta(offset('a', 1)), '2');
  db.sqlite.exec('SAVEPOINT s');
  assert.equal(db.applyDelta(offset('a', 1)), '3');
  fails(() => db.applyDelta(offset('b', 1)), 'invalid', /row 'b' does not exist/);
  assert.deepEqual(db.getVector('a'), f32(3, 4, 5));
  db.sqlite.exec('ROLLBACK TO s');
  assert.equal(db.applyDelta(offset('a', 10)), '3');
  db.sqlite.exec('COMMIT');
  assert.deepEqual(db.getVector('a'), f32(12, 13, 14));
  db.sqlite.exec('BEGIN');
  db.applyDelta(offset('a', 1));
  db.sqlite.exec('ROLLBACK');
  assert.deepEqual(db.getVector('a'), f32(12, 13, 14));

  const sql = db.sqlite.selectValue("SELECT sql FROM sqlite_schema WHERE name = 'vectors'");
  db.sqlite.exec(`DROP TABLE vectors; ${sql}`);
  fails(() => db.applyDelta(offset('a', 1)), 'invalid', /row 'a' does not exist/);
  assert.equal(db.applyDelta(create('a', 1, 1, 1)), '1');
  db.sqlite.exec('BEGIN; DROP TABLE vectors');
  fails(() => db.applyDelta(offset('a', 1)), 'invalid', /no such table: vectors/);
  db.sqlite.exec('ROLLBACK');
  assert.equal(db.applyDelta(offset('a', 1)), '2');
  db.sqlite.exec('DROP TABLE vectors; CREATE VIRTUAL TABLE vectors USING delta_vectors(id INTEGER PRIMARY KEY, vector FLOAT[3])');
  fails(() => db.applyDelta(create('a', 1, 1, 1)), 'invalid', /'a' is not an id: expected an integer/);
  db.sqlite.exec(`DROP TABLE vectors; CREATE TABLE vectors(a); INSERT INTO vectors VALUES(1)`);
  fails(() => db.applyDelta(create('a', 1, 1, 1)), 'invalid', /vectors is not a delta_vectors table/);

  db.sqlite.createFunction('again', () => db.applyDelta(offset('a', 1)));
  db.sqlite.exec(`DROP TABLE vectors; ${sql}`);
  assert.equal(db.applyDelta(create('a', 1, 1, 1)), '1');
  assert.equal(db.sqlite.selectValue('SELECT again()'), '2');
});

it('reads and writes where memory has grown since it was looked at last', () => {
  const dimensions = 65536;
  const large = new DeltaVectorDB(sqlite3, { dimensions });
  const before = sqlite3.wasm.heap8u().length;
  let n = 0;
  for (; sqlite3.wasm.heap8u().length === before; n++) {
    large.applyDelta({ vectorId: `r${n}`, operation: { type: 'create', vector: new Float32Array(dimensions).fill(n + 1) } });
    assert.equal(large.getVectorView(`r${n}`)[dimensions - 1], n + 1);
    assert.equal(large.getVector('r0')[0], 1);
  }
  assert.equal(large.applyDelta(offset('r0', 1)), String(n + 1));
  assert.equal(large.getVector('r0')[0], 2);
  large.close();
});

describe('onDelta', () => {
  it('delivers after the commit, in order, once, what anybody writes', () => {
    const seen = [];
    const end = db.onDelta((d) => seen.push([d.seq, d.vectorId, d.operation.type, db.getVector(d.vectorId)?.[0]]));
    db.applyDelta(create('a', 1, 1, 1));
    db.transaction(() => {
      db.applyDelta(offset('a', 1));
      db.applyDelta(create('b', 5, 5, 5));
      assert.equal(seen.length, 1);
    });
    assert.throws(() => db.transaction(() => {
      db.applyDelta(offset('a', 100));
      throw new Error('no');
    }), /no/);
    db.sqlite.exec("DELETE FROM vectors WHERE id = 'b'");
    db.poll();
    assert.deepEqual(seen, [[1, 'a', 'create', 1], [2, 'a', 'offset', 2], [3, 'b', 'create', 5], [4, 'b', 'delete', undefined]]);
    end();
    end();
    db.applyDelta(offset('a', 1));
    assert.equal(seen.length, 4);
  });

  it('goes on where it is told to, and lets listeners write', async () => {
    db.applyDeltas([create('a', 0, 0, 0), offset('a', 1), offset('a', 1)]);
    const seen = [];
    db.onDelta((d) => seen.push(d.seq), { fromSeq: 1 });
    db.onDelta((d) => { if (d.seq === 4) db.applyDelta(offset('a', 1)); });
    await new Promise((resolve) => setTimeout(resolve, 5));
    assert.deepEqual(seen, [2, 3]);
    db.applyDelta(offset('a', 1));
    assert.deepEqual(seen, [2, 3, 4, 5]);
    fails(() => db.onDelta(() => {}, { fromSeq: -1 }), 'invalid', /fromSeq is -1/);
    fails(() => db.onDelta(7), 'invalid', /onDelta was given 7: expected a function/);
    const stop = new AbortController();
    const aborted = [];
    db.onDelta((d) => aborted.push(d.seq), { signal: stop.signal });
    stop.abort();
    db.onDelta((d) => aborted.push(d.seq), { signal: stop.signal });
    db.applyDelta(offset('a', 1));
    assert.deepEqual(aborted, []);
  });
});

it('a connection of the user’s own stays theirs, and its modes', () => {
  const own = new sqlite3.oo1.DB('/own.db');
  own.exec('CREATE TABLE notes(x)');
  const mode = own.selectValue('PRAGMA journal_mode');
  const on = new DeltaVectorDB(sqlite3, { database: own, dimensions: 2, table: 'my "vectors"' });
  const other = new sqlite3.oo1.DB('/own.db');
  const second = new DeltaVectorDB(sqlite3, { database: other, dimensions: 2, table: 'my "vectors"' });
  on.applyDelta(create("it's", 1, 2));
  assert.deepEqual(second.getVector("it's"), f32(1, 2));
  assert.deepEqual(second.getVectorView("it's"), f32(1, 2));
  on.applyDelta(offset("it's", 1));
  assert.deepEqual(second.getVectorView("it's"), f32(2, 3)); // another connection's commit
  const seen = [];
  second.onDelta((d) => seen.push(d.seq), { fromSeq: 2 });
  on.applyDelta(offset("it's", 1));
  second.poll();
  assert.deepEqual(seen, [3]);
  fails(() => new DeltaVectorDB(sqlite3, { database: own, dimensions: 3, table: 'my "vectors"' }), 'invalid', /has 2 dimensions and the metric cosine, not 3 and cosine/);
  on.close();
  second.close();
  assert.equal(own.selectValue('PRAGMA journal_mode'), mode);
  assert.equal(own.selectValue('SELECT count(*) FROM notes'), 0);
  own.close();
  other.close();
  fails(() => on.getVector('a'), 'closed', /closed/);
});

it('a function that SQLite calls cannot call it again', () => {
  let inner;
  db.sqlite.createFunction('again', () => {
    try {
      db.getVector('a');
    } catch (e) {
      inner = e;
    }
    return 1;
  });
  db.applyDelta(create('a', 1, 2, 3));
  db.search(f32(1, 2, 3), 1, { where: 'again()' });
  assert.equal(inner?.code, 'busy');
});

it('takes name and storage, and says which storage has to be waited for', () => {
  new DeltaVectorDB(sqlite3, { dimensions: 2, name: 'x', storage: 'memory' }).close();
  new DeltaVectorDB(sqlite3, { dimensions: 2, storage: 'auto' }).close();
  fails(() => new DeltaVectorDB(sqlite3, { dimensions: 2, storage: 'opfs' }), 'no-opfs', /needs a page with COOP and COEP/);
  fails(() => new DeltaVectorDB(sqlite3, { dimensions: 2, storage: 'opfs-sahpool' }), 'invalid', /opfs-sahpool in DeltaVectorDB\.open/);
});

it('SQL cannot write to the tables that the vectors are in', () => {
  db.applyDelta(create('a', 1, 2, 3));
  assert.throws(() => db.sqlite.exec('DELETE FROM vectors_log'), /may not be modified/);
});

it('max_vectors is kept', () => {
  const small = new DeltaVectorDB(sqlite3, { dimensions: 1, maxVectors: 2 });
  small.applyDeltas([create('a', 1), create('b', 1)]);
  fails(() => small.applyDelta(create('c', 1)), 'invalid', /max_vectors/);
  small.close();
});

// A thousand random changes, beside arrays.
it('equals a model of arrays, bit for bit, however the changes are given', () => {
  const n = 20;
  const d = new DeltaVectorDB(sqlite3, { dimensions: n, checkpointInterval: 7 });
  let seed = 1;
  const random = () => (seed = (seed * 48271) % 2147483647) / 2147483647;
  const model = new Map();
  const history = [];
  for (let step = 0; step < 1000; step++) {
    const batch = Array.from({ length: 1 + Math.floor(random() * 4) }, () => {
      const vectorId = `r${Math.floor(random() * 12)}`;
      const old = model.get(vectorId);
      const values = Float32Array.from({ length: n }, () => random() - 0.5);
      let operation;
      if (!old) operation = { type: 'create', vector: values };
      else {
        const what = Math.floor(random() * 12);
        const indices = Uint32Array.from([...Array(n).keys()].filter(() => random() < 0.2).sort(() => random() - 0.5));
        operation = what < 6 ? { type: 'sparse', indices, values: values.slice(0, indices.length) }
          : what < 8 ? { type: 'dense', vector: values }
          : what < 9 ? { type: 'scale', factor: random() + 0.5 }
          : what < 11 ? { type: 'offset', amount: random() - 0.5 }
          : { type: 'delete' };
      }
      const next = old ? Float32Array.from(old) : values;
      if (operation.type === 'sparse') operation.indices.forEach((j, i) => (next[j] = operation.values[i]));
      if (operation.type === 'dense') next.set(values);
      if (operation.type === 'scale') next.forEach((v, i) => (next[i] = v * Math.fround(operation.factor)));
      if (operation.type === 'offset') next.forEach((v, i) => (next[i] = v + Math.fround(operation.amount)));
      if (operation.type === 'delete') model.delete(vectorId);
      else model.set(vectorId, next);
      return { vectorId, operation, timestamp: at(step) };
    });
    if (batch.length === 1) d.applyDelta(batch[0]);
    else d.applyDeltas(batch);
    if (step % 50 === 0) history.push([step, new Map(model)]);
  }
  const same = (got, expected, what) => assert.deepEqual(got && [...new Uint32Array(got.slice().buffer)], expected && [...new Uint32Array(expected.buffer)], what);
  for (let i = 0; i < 12; i++) {
    same(d.getVector(`r${i}`), model.get(`r${i}`) ?? null, `r${i}`);
    same(d.getVectorView(`r${i}`), model.get(`r${i}`) ?? null, `view r${i}`);
    for (const [step, then] of history) same(d.getVectorAt(`r${i}`, at(step)), then.get(`r${i}`) ?? null, `r${i} at ${step}`);
  }
  d.close();
});

describe('the same in promises, without a worker', () => {
  it('does what the other does', async () => {
    const warnings = [];
    const a = await DeltaVectorDB.open({ dimensions: 3, metric: 'l2', onWarning: (w) => warnings.push(w) });
    assert.ok(a instanceof AsyncDeltaVectorDB);
    assert.equal(a.info.storage, 'memory');
    assert.match(warnings[0], /is in memory and will not be kept \(opfs-sahpool: .*; opfs: /);
    const seen = [];
    const loop = (async () => {
      for await (const delta of a.deltas({ fromSeq: 0 })) if (seen.push(delta.seq) === 3) break;
    })();
    assert.deepEqual(await a.applyDeltas([create('a', 1, 2, 3), offset('a', 1)]), ['1', '2']);
    assert.equal(await a.applyDelta(offset('a', 1)), '3');
    await loop;
    assert.deepEqual(seen, [1, 2, 3]);
    assert.deepEqual(await a.getVector('a'), f32(3, 4, 5));
    assert.equal((await a.search(f32(3, 4, 5), 1))[0].id, 'a');
    assert.equal((await a.getDeltaChain('a')).deltas.length, 3);
    await assert.rejects(a.applyDelta(create('a', 1, 2, 3)), (e) => e.name === 'DeltaVectorsError' && e.code === 'exists');
    const stream = new DeltaStreamProcessor(a, { poolSize: 4096 });
    assert.equal(await stream.streamDeltas(Array.from({ length: 5000 }, () => offset('a', 1))), 5000);
    assert.deepEqual(await a.getVector('a'), f32(5003, 5004, 5005));
    const file = await a.export();
    await a.close();
    await a.close();
    await assert.rejects(a.getVector('a'), (e) => e.code === 'closed');
    db.import(file);
    assert.deepEqual(db.getVector('a'), f32(5003, 5004, 5005));
  });
});

describe('SharedDeltaPool on this thread', () => {
  it('takes what fits, waits for more, and says when it cannot', async () => {
    const pool = new SharedDeltaPool(4096);
    db.applyDelta(create('a', 0, 0, 0));
    let n = 0;
    while (pool.tryWrite(offset('a', 1))) n++;
    assert.ok(n > 20 && n < 4096 / 15, String(n));
    await assert.rejects(pool.writeDelta(offset('a', 1)), (e) => e.code === 'busy' && /no database to commit to/.test(e.message));
    assert.equal(await pool.flush(db), n);
    assert.equal(await pool.flush(), 0);
    for (let i = 0; i < 1000; i++) await pool.writeDelta(offset('a', 1));
    assert.equal(await pool.flush(), 1000);
    assert.deepEqual(db.getVector('a'), f32(n + 1000, n + 1000, n + 1000));
    assert.throws(() => pool.tryWrite({ ...offset('a', 1), metadata: { x: 'y'.repeat(3000) } }), /more than a quarter of the pool/);
    assert.throws(() => new SharedDeltaPool(10), /expected 4096 to/);
  });
});
