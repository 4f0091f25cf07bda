// Databases as files: out of the component into the sqlite3 shell and the browser package, and back; and on a directory that the
// host grants. EXTENSION and SQLITE3 are the paths of the programs.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, rmdirSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, beforeEach, describe, it } from 'node:test';
import { DeltaVectorDB, loadDeltaVectors } from '../../dist/index.js';
import { sqliteOf } from '../node/sqlite.mjs';
import { COMPONENT, killHosts, nodeHost, wasmtimeHost } from './hosts.mjs';
import { f32 } from './programs.mjs';

const { EXTENSION, SQLITE3 = 'sqlite3' } = process.env;
const TABLE = "CREATE VIRTUAL TABLE vectors USING delta_vectors(dimensions=3, metric=cosine, max_vectors=100000, checkpoint_interval=100);";
const ROWS = `INSERT INTO vectors(id, vector, metadata) VALUES('a', '[1,2,3]', '{"from":"shell"}'), ('b', '[3,2,1]', NULL);
  SELECT delta_apply('vectors', 'a', delta_sparse('[1]', '[9]'));`;

const create = (vectorId, ...values) => ({ vectorId, operation: { tag: 'create', val: f32(...values) } });
const offset = (vectorId, val) => ({ vectorId, operation: { tag: 'offset', val } });

let directory, sqlite3;
before(async () => {
  assert.ok(EXTENSION, 'EXTENSION is not set: run ./dev test component/files');
  sqlite3 = await sqliteOf();
  await loadDeltaVectors(sqlite3);
});
beforeEach(() => (directory = mkdtempSync(path.join(tmpdir(), 'delta-vectors-'))));

const shell = (file, sql, ...flags) =>
  execFileSync(SQLITE3, ['-batch', ...flags, path.join(directory, file)], { input: `.load ${EXTENSION.replace(/\.so$/, '')}\n${sql}`, encoding: 'utf8' }).trim();
const CHECK = `PRAGMA integrity_check; INSERT INTO vectors(vectors) VALUES('integrity-check');
  SELECT id, vector_json(vector), metadata FROM vectors ORDER BY id;`;

for (const makeHost of [nodeHost, wasmtimeHost]) {
  describe(makeHost.name, () => {
    let host;
    before(async () => (host = await makeHost()));
    beforeEach(() => host.start({ grant: directory }));
    after(() => host.close());

    const raises = async (promise, pattern) => {
      const e = await promise.then(() => assert.fail('no error'), (e) => e);
      assert.notEqual(e.name, 'Trap', e.message);
      assert.match(e.payload ?? e.message, pattern);
    };

    it('what it exports opens in the shell and in the browser package, and back', async () => {
      const db = await host.database(3);
      await db.applyWithMetadata([{ delta: create('a', 1, 2, 3), metadata: '{"k":1}' }, { delta: create('ü', 0.5, -0, 1e-3) }]);
      await db.applyDeltas([offset('a', 1)]);
      writeFileSync(path.join(directory, 'exported.db'), await db.export());
      assert.equal(shell('exported.db', CHECK), 'ok\na|[2,3,4]|{"k":1}\nü|[0.5,-0,0.001]|');
      shell('exported.db', "SELECT delta_apply('vectors', 'ü', delta_scale(2)); PRAGMA journal_mode=wal; PRAGMA wal_checkpoint(truncate);");

      const browser = new DeltaVectorDB(sqlite3, { dimensions: 3 });
      browser.import(new Uint8Array(readFileSync(path.join(directory, 'exported.db'))));
      assert.deepEqual(browser.getVector('ü'), f32(1, -0, 0.002));
      assert.deepEqual(browser.getMetadata('a'), { k: 1 });
      browser.applyDelta({ vectorId: 'a', operation: { type: 'delete' } });
      const back = await host.database(3);
      await back.import(browser.export());
      browser.close();
      assert.deepEqual(await back.getVector('ü'), f32(1, -0, 0.002));
      assert.equal(await back.getVector('a'), undefined);
      assert.deepEqual((await back.log(0n, 10)).map((d) => d.operation.tag), ['create', 'create', 'offset', 'scale', 'delete']);
      await db.drop();
      await back.drop();
    });

    it('files with pages of any size, and in WAL mode, are imported', async () => {
      for (const size of [512, 1024, 8192, 65536]) {
        for (const mode of ['delete', 'wal']) {
          const name = `${size}-${mode}.db`;
          shell(name, `PRAGMA page_size=${size}; PRAGMA journal_mode=${mode}; ${TABLE} ${ROWS} PRAGMA wal_checkpoint(truncate);`);
          const db = await host.database(3);
          await db.import(new Uint8Array(readFileSync(path.join(directory, name))));
          assert.deepEqual(await db.getVector('a'), f32(1, 9, 3), name);
          assert.deepEqual(await db.getMetadata('a'), '{"from":"shell"}');
          assert.equal(await db.applyDelta(offset('b', 1)), '4');
          await db.drop();
        }
      }
    });

    it('tables of another kind, and names that are no UTF-8, are refused or mended', async () => {
      shell('long.db', 'CREATE VIRTUAL TABLE vectors USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[3] distance_metric=cosine);');
      shell('named.db', 'CREATE VIRTUAL TABLE vectors USING delta_vectors(name TEXT PRIMARY KEY, v FLOAT[3] distance_metric=cosine);');
      shell('none.db', 'CREATE TABLE vectors(x);');
      const db = await host.database(3);
      for (const name of ['long.db', 'named.db']) await raises(db.import(new Uint8Array(readFileSync(path.join(directory, name)))), /import: the table vectors has no column id of texts/);
      await raises(db.import(new Uint8Array(readFileSync(path.join(directory, 'none.db')))), /import: the file cannot be used/);
      shell('bytes.db', `${TABLE} INSERT INTO vectors(id, vector) VALUES(CAST(x'41ff42eda08043' AS TEXT), '[1,2,3]');`);
      await db.import(new Uint8Array(readFileSync(path.join(directory, 'bytes.db'))));
      assert.equal((await db.search(f32(1, 2, 3), 1))[0].id, 'A\ufffdB\ufffd\ufffd\ufffdC');
      assert.equal((await db.log(0n, 1))[0].vectorId, 'A\ufffdB\ufffd\ufffd\ufffdC');
      await db.drop();
    });

    it('a file in the directory that was granted', async () => {
      let db = await host.open({ dimensions: 3, path: '/data/kept.db' });
      await db.applyDeltas([create('a', 1, 2, 3), create('b', 4, 5, 6)]);
      await db.drop();
      assert.deepEqual(readdirSync(directory), ['kept.db'], 'no journal, no lock is left');
      assert.equal(shell('kept.db', CHECK), 'ok\na|[1,2,3]|\nb|[4,5,6]|');
      assert.equal(shell('kept.db', "SELECT delta_apply('vectors', 'a', delta_scale(2));"), '3');
      await host.start({ grant: directory });
      db = await host.open({ dimensions: 3, path: '/data/kept.db' });
      assert.deepEqual(await db.getVector('a'), f32(2, 4, 6));
      assert.equal(await db.applyDelta(offset('a', 1)), '4');
      assert.equal(shell('kept.db', "SELECT delta_apply('vectors', 'a', delta_scale(2));"), '5', 'while it is open');
      assert.deepEqual(await db.getVector('a'), f32(6, 10, 14));
      const bytes = await db.export();
      await db.import(bytes);
      assert.equal(await db.applyDelta(offset('a', 1)), '6');
      shell('small-pages.db', `PRAGMA page_size=1024; ${TABLE} ${ROWS}`);
      await db.import(new Uint8Array(readFileSync(path.join(directory, 'small-pages.db'))));
      assert.deepEqual(await db.getVector('a'), f32(1, 9, 3));
      assert.equal(shell('kept.db', `PRAGMA page_size; ${CHECK}`), '1024\nok\na|[1,9,3]|{"from":"shell"}\nb|[3,2,1]|');
      await db.drop();
      await raises(host.open({ dimensions: 4, path: '/data/kept.db' }), /open: the table vectors has 3 dimensions and the metric cosine, expected 4 and cosine/);
      await raises(host.open({ dimensions: 3, path: '/elsewhere/x.db' }), /cannot open \/elsewhere\/x\.db: unable to open database file/);
      await raises(host.open({ dimensions: 3, path: '/data/../x.db' }), /cannot open|unable to open/);
      writeFileSync(path.join(directory, 'noise.db'), 'x'.repeat(10000));
      await raises(host.open({ dimensions: 3, path: '/data/noise.db' }), /file is not a database/);
      assert.ok(!existsSync(path.join(directory, '..', 'x.db')));
    });

    it('a file that is in WAL mode', async () => {
      shell('wal.db', `PRAGMA journal_mode=wal; ${TABLE} ${ROWS}`);
      const db = await host.open({ dimensions: 3, path: '/data/wal.db' });
      assert.deepEqual(await db.getVector('a'), f32(1, 9, 3));
      assert.equal(await db.applyDelta(offset('a', 1)), '4');
      const second = await host.open({ dimensions: 3, path: '/data/wal.db' });
      assert.deepEqual(await second.getVector('a'), f32(2, 10, 4));
      await db.drop();
      await second.drop();
      assert.equal(shell('wal.db', `PRAGMA journal_mode; ${CHECK}`), 'delete\nok\na|[2,10,4]|{"from":"shell"}\nb|[3,2,1]|');
    });

    it('several databases on one file take turns', async () => {
      const one = await host.open({ dimensions: 3, path: '/data/shared.db' });
      const two = await host.open({ dimensions: 3, path: '/data/shared.db' });
      for (let i = 0; i < 20; i++) await (i % 2 ? one : two).applyDelta(create(`r${i}`, i, 1, 1));
      assert.deepEqual(await one.getVector('r18'), f32(18, 1, 1));
      assert.deepEqual(await two.getVector('r19'), f32(19, 1, 1));
      assert.equal(shell('shared.db', 'SELECT count(*) FROM vectors', '-vfs', 'unix-dotfile'), '20');
      // Somebody else's transaction, or one whose process was killed in it.
      mkdirSync(path.join(directory, 'shared.db.lock'));
      await raises(one.applyDelta(create('x', 1, 1, 1)), /database is locked/);
      assert.equal(await two.getVector('r1'), undefined);
      assert.match(await two.lastError(), /database is locked/);
      assert.equal((await two.export()).length, 0);
      assert.match(await two.lastError(), /export: .*locked/);
      rmdirSync(path.join(directory, 'shared.db.lock'));
      assert.equal(await one.applyDelta(create('x', 1, 1, 1)), '21');
      await one.drop();
      await two.drop();
    });

    it('no room on the disk, or no right to write, is an error', async () => {
      const db = await host.open({ dimensions: 3, path: '/data/full.db' });
      await db.applyDelta(create('a', 1, 2, 3));
      mkdirSync(path.join(directory, 'full.db-journal')); // so that no journal can be written
      await raises(db.applyDelta(create('b', 1, 2, 3)), /unable to open database file|disk I\/O error/);
      rmdirSync(path.join(directory, 'full.db-journal'));
      assert.equal(await db.applyDelta(create('b', 1, 2, 3)), '2');
      assert.deepEqual(await db.getVector('a'), f32(1, 2, 3));
      await db.drop();
    });
  });
}

it('a host that is killed loses nothing that it had acknowledged', async (t) => {
  let locks = 0;
  for (let round = 0; round < 4; round++) {
    const name = path.join(directory, `killed${round}.db`);
    const host = wasmtimeHost();
    await host.start({ grant: directory });
    const db = await host.open({ dimensions: 3, path: `/data/killed${round}.db` });
    let acknowledged = 0;
    const writing = (async () => {
      for (;;) {
        await db.applyDeltas([create(`a${acknowledged}`, acknowledged, 1, 1), create(`b${acknowledged}`, 1, 1, 1)]);
        acknowledged++;
      }
    })().catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, 700 + 130 * round));
    await host.kill();
    await writing;
    const wasLocked = existsSync(`${name}.lock`);
    if (wasLocked) rmdirSync(`${name}.lock`);
    locks += wasLocked;
    const next = wasmtimeHost();
    await next.start({ grant: directory });
    const again = await next.open({ dimensions: 3, path: `/data/killed${round}.db` });
    const { rows } = JSON.parse(await again.status());
    assert.ok(acknowledged > 0 && rows % 2 === 0 && rows >= 2 * acknowledged && rows <= 2 * acknowledged + 2, `${rows} rows, ${acknowledged} acknowledged`);
    if (acknowledged > 1) assert.deepEqual(await again.getVector(`a${acknowledged - 1}`), f32(acknowledged - 1, 1, 1));
    await again.drop();
    await next.close();
    assert.equal(shell(`killed${round}.db`, "PRAGMA integrity_check; INSERT INTO vectors(vectors) VALUES('integrity-check');"), 'ok');
  }
  t.diagnostic(`${locks} of 4 killed within a transaction`);
});

it('the interface is the one of the ADR, and the component has it', async () => {
  const { componentWit } = await import('@bytecodealliance/jco');
  const words = (wit) => wit.replace(/\/\/.*$/gm, '').replace(/%/g, '').replace(/\bfloat32\b/g, 'f32').replace(/\s+/g, ' ');
  const adr = [
    'type delta-id = string;', 'type vector-id = string;',
    'variant delta-operation { create(list<float32>), sparse(sparse-update), dense(list<float32>), scale(float32), offset(float32), delete, }',
    'record sparse-update { indices: list<u32>, values: list<float32>, }',
    'record vector-delta { vector-id: vector-id, operation: delta-operation, timestamp: option<u64>, }',
    'record search-result { id: vector-id, score: float32, }',
    'use delta-types.{delta-id, vector-id, vector-delta, search-result};',
    `resource database { constructor(dimensions: u32); apply-delta: func(delta: vector-delta) -> result<delta-id, string>;
     apply-deltas: func(deltas: list<vector-delta>) -> result<list<delta-id>, string>; get-vector: func(id: vector-id) -> option<list<float32>>;
     search: func(query: list<float32>, k: u32) -> list<search-result>; export: func() -> list<u8>; import: func(data: list<u8>) -> result<_, string>; }`,
    'world delta-vector-world { export delta-db; }', 'package ruvector:delta@0.1.0;', 'interface delta-types {', 'interface delta-db {',
  ].map(words);
  const source = words(readFileSync(new URL('../../wit/delta-vector.wit', import.meta.url), 'utf8'));
  for (const piece of adr) assert.ok(source.includes(piece), piece);
  const wit = await componentWit(readFileSync(COMPONENT));
  assert.match(wit, /export ruvector:delta\/delta-db@0\.1\.0;/);
  assert.match(wit, /export ruvector:delta\/delta-db-ext@0\.1\.0;/);
  const imports = [...wit.matchAll(/^ {2}import (.*)@[\d.]+;$/gm)].map((m) => m[1]).filter((name) => !name.startsWith('ruvector:delta/'));
  assert.ok(imports.length > 0 && imports.every((name) => /^wasi:(cli|clocks|filesystem|io|random)\//.test(name)), String(imports));
});

after(killHosts);
after(() => directory && rmSync(directory, { recursive: true, force: true }));
