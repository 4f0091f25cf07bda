// The extension in SQLites of different ages, as each of its variants.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { describe, it } from 'node:test';
import { DeltaVectorDB, loadDeltaVectors } from '../../dist/index.js';
import { extensionOf } from '../../dist/loader.js';
import { sqliteOf } from './sqlite.mjs';

const CANARY = 0xa5;
const wasm = (variant) => readFile(new URL(`../../dist/delta_vectors.${variant}.wasm`, import.meta.url));

for (const age of ['newest', 'oldest']) {
  describe(`the ${age} sqlite-wasm`, () => {
    it('has the extension on every connection opened after loading, and on those it is registered on', async () => {
      const sqlite3 = await sqliteOf(age);
      const before = new sqlite3.oo1.DB(':memory:');
      const loaded = await loadDeltaVectors(sqlite3);
      assert.equal(await loadDeltaVectors(sqlite3), loaded);
      assert.match(loaded.version, /^\d+\.\d+\.\d+$/);
      const db = new sqlite3.oo1.DB(':memory:');
      assert.equal(db.selectValue('SELECT delta_vectors_version()'), loaded.version);
      assert.throws(() => before.selectValue('SELECT delta_vectors_version()'), /no such function/);
      loaded.register(before);
      loaded.register(before);
      assert.equal(before.selectValue('SELECT delta_vectors_version()'), loaded.version);
      db.exec(`CREATE VIRTUAL TABLE t USING delta_vectors(dimensions=2, metric=l2);
        INSERT INTO t(id, vector) VALUES('a', '[1, 2]'), ('b', '[3, 4]');`);
      assert.deepEqual(db.selectArrays("SELECT id, distance FROM t WHERE vector MATCH '[3, 4]' AND k = 1"), [['b', 0]]);
      assert.throws(() => db.exec("INSERT INTO t(id, vector) VALUES('c', '[1]')"), /row 'c': vector has 1 dimension, expected 2/);
      db.close();
      before.close();
    });

    it('finds the same with each variant', async () => {
      const found = {};
      for (const variant of ['scalar', 'simd']) {
        const sqlite3 = await sqliteOf(age);
        assert.equal((await loadDeltaVectors(sqlite3, { variant })).variant, variant);
        const db = new DeltaVectorDB(sqlite3, { dimensions: 40, metric: 'l2' });
        const rows = Array.from({ length: 3000 }, (_, i) => Float32Array.from({ length: 40 }, (_, j) => Math.sin(i * 7.3 + j * j)));
        db.applyDeltas(rows.map((vector, i) => ({ vectorId: `r${i}`, operation: { type: 'create', vector }, timestamp: new Date(1) })));
        db.optimize();
        found[variant] = [0, 17, 2999].map((i) => db.search(rows[i], 20));
        assert.equal(found[variant][1][0].id, 'r17');
        assert.equal(db.sqlite.selectValue('SELECT delta_vectors_backend()'), variant === 'scalar' ? 'scalar' : 'wasm128');
        db.close();
      }
      assert.deepEqual(found.simd, found.scalar);
    });
  });
}

it('an sqlite-wasm that is too old is refused, with what it lacks', async () => {
  const sqlite3 = await sqliteOf('too old');
  await assert.rejects(loadDeltaVectors(sqlite3), (e) => {
    assert.equal(e.code, 'unsupported-sqlite');
    assert.match(e.message, /needs sqlite-wasm 3\.47\.0 or newer: this one, 3\.46\.1, does not export .*sqlite3_is_interrupted/);
    return true;
  });
});

it('the module may come from anywhere, and what is none is refused', async () => {
  const bytes = await wasm('simd');
  for (const given of [bytes, new WebAssembly.Module(bytes), new URL('../../dist/delta_vectors.simd.wasm', import.meta.url)]) {
    assert.match((await loadDeltaVectors(await sqliteOf(), { wasm: given })).version, /^\d/);
  }
  const sqlite3 = await sqliteOf();
  const refused = async (given, message) =>
    assert.rejects(loadDeltaVectors(sqlite3, { wasm: given }), (e) => {
      assert.equal(e.code, 'wasm-unavailable');
      assert.match(e.message, message);
      return true;
    });
  await refused(new Uint8Array([1, 2, 3]), /cannot load the extension from the bytes that were given/);
  await refused(new URL('./nowhere.wasm', import.meta.url), /cannot load the extension from file:.*nowhere\.wasm/);
  await refused(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]), /not a side module/);
  assert.throws(() => new DeltaVectorDB(sqlite3), (e) => e.code === 'not-loaded' && /call `await loadDeltaVectors\(sqlite3\)` first/.test(e.message));
  assert.match((await loadDeltaVectors(sqlite3)).version, /^\d/); // a failure is not remembered
});

it('imports nothing that sqlite-wasm does not export, and exports its entry point', async () => {
  const sqlite3 = await sqliteOf('oldest');
  for (const variant of ['scalar', 'simd', 'relaxed']) {
    const bytes = await wasm(variant);
    if (!WebAssembly.validate(bytes)) continue; // relaxed SIMD is not in every engine
    const module = new WebAssembly.Module(bytes);
    const functions = WebAssembly.Module.imports(module).filter((i) => i.kind === 'function' || i.module === 'GOT.func');
    assert.ok(functions.length > 50);
    for (const { name } of functions) {
      assert.match(name, /^sqlite3_/);
      assert.equal(typeof sqlite3.wasm.exports[name], 'function', name);
    }
    assert.ok(WebAssembly.Module.exports(module).some((e) => e.name === 'sqlite3_deltavectors_init'));
  }
});

it('relaxed SIMD is used only where it computes what it should', () => {
  const script = `
    import { loadDeltaVectors } from ${JSON.stringify(new URL('../../dist/index.js', import.meta.url).href)};
    import { sqliteOf } from ${JSON.stringify(new URL('./sqlite.mjs', import.meta.url).href)};
    const { variant } = await loadDeltaVectors(await sqliteOf());
    console.log(variant);`;
  const run = (...flags) => execFileSync(process.execPath, [...flags, '--input-type=module', '-e', script], { encoding: 'utf8' }).trim();
  assert.ok(['simd', 'relaxed'].includes(run()));
  // Its first compiler gets the instruction wrong there.
  if (process.versions.v8.startsWith('11.3.')) assert.equal(run('--experimental-wasm-relaxed-simd', '--liftoff-only'), 'simd');
});

it('relaxed SIMD that is asked for is refused where the engine has it not', async (t) => {
  const { validate } = WebAssembly;
  t.after(() => (WebAssembly.validate = validate));
  WebAssembly.validate = () => false;
  await assert.rejects(loadDeltaVectors(await sqliteOf(), { variant: 'relaxed' }), (e) => {
    assert.equal(e.code, 'wasm-unavailable');
    assert.match(e.message, /variant is 'relaxed': this engine has no relaxed SIMD, or computes wrongly with it/);
    return true;
  });
});

it('stays far within its stack', async () => {
  const sqlite3 = await sqliteOf();
  await loadDeltaVectors(sqlite3);
  const { at, bytes } = extensionOf(sqlite3).stack;
  sqlite3.wasm.heap8u().fill(CANARY, at, at + bytes / 2);
  const db = new sqlite3.oo1.DB(':memory:');
  db.exec(`
    CREATE VIRTUAL TABLE t USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[300], tag TEXT, n INTEGER, index=hnsw);
    WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 3000)
      INSERT INTO t(id, v, tag, n) SELECT n, vector_int8(randomblob(300), 0.1), 'tag' || n % 7, n FROM i;
    INSERT INTO t(t) VALUES('optimize');
    SELECT count(*) FROM t WHERE v MATCH (SELECT v FROM t WHERE id = 7) AND k = 50 AND tag IN ('tag1', 'tag2') AND n > 100;
    CREATE TABLE log(n); CREATE TRIGGER g AFTER INSERT ON log WHEN new.n > 0 BEGIN
      UPDATE t SET delta = delta_offset(0.5) WHERE id = new.n; INSERT INTO log VALUES(new.n - 1); END;
    PRAGMA recursive_triggers = on; INSERT INTO log VALUES(90);
    SELECT delta_compact('t', '{"keep":"none"}'); SELECT delta_recall('t');
    CREATE VIRTUAL TABLE u USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[300], tag TEXT, n INTEGER);
    SELECT delta_import('u', delta_export('t')); INSERT INTO t(t) VALUES('integrity-check'); INSERT INTO t(t) VALUES('rebuild');`);
  db.close();
  const heap = sqlite3.wasm.heap8u();
  let untouched = 0;
  while (untouched < bytes / 2 && heap[at + untouched] === CANARY) untouched++;
  assert.ok(untouched === bytes / 2, `the stack was used to within ${untouched} bytes of its end`);
});
