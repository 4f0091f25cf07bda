// What those meet who use the package for the first time: every mistake is an error that says what was given and what was expected,
// and nothing is overlooked.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { before, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { DeltaVectorDB, DeltaVectorsError, loadDeltaVectors } from '../../dist/index.js';
import { sqliteOf, VERSIONS } from './sqlite.mjs';

const root = fileURLToPath(new URL('../../', import.meta.url));
const v = Float32Array.of(1, 2, 3, 4);
const create = (vectorId, vector) => ({ vectorId, operation: { type: 'create', vector } });

let sqlite3;
before(async () => {
  sqlite3 = await sqliteOf();
  await loadDeltaVectors(sqlite3);
});

async function isRefused(call, message) {
  await assert.rejects(async () => call(), (e) => {
    assert.ok(e instanceof DeltaVectorsError, `${e.stack}`);
    assert.equal(e.code, 'invalid', e.message);
    assert.ok(e.message.includes(message), `"${e.message}" should have "${message}"`);
    return true;
  });
}

it('an sqlite3 that is none', async () => {
  const expected = 'expected what `await sqlite3InitModule()` of @sqlite.org/sqlite-wasm gives';
  await isRefused(() => loadDeltaVectors(), `sqlite3 is undefined: ${expected}`);
  await isRefused(() => loadDeltaVectors(() => {}), `sqlite3 is a function: ${expected}`);
  await isRefused(() => loadDeltaVectors(sqliteOf()), `sqlite3 is a Promise: ${expected}`);
  await isRefused(() => new DeltaVectorDB({ dimensions: 4 }), `sqlite3 is an Object: ${expected}`);
});

/** [call, part of the message]; of both classes. */
const MISTAKES = [
  [(db) => db.applyDelta(), 'the delta is undefined: expected { vectorId, operation }'],
  [(db) => db.applyDelta([create('b', v)]), 'vectorId is undefined: expected a string'],
  [(db) => db.applyDelta(create(7, v)), 'vectorId is 7: expected a string'],
  [(db) => db.applyDelta({ vectorId: 'b', vector: v }), "row 'b': the operation's type is undefined: expected create, sparse"],
  [(db) => db.applyDelta(create('b', [1, 2, 3, 4])), "row 'b': vector is an Array: expected a Float32Array"],
  [(db) => db.applyDelta(create('b', Float64Array.of(1, 2, 3, 4))), "row 'b': vector is a Float64Array: expected a Float32Array"],
  [(db) => db.applyDelta(create('b', Float32Array.of(1, 2))), "row 'b': the create delta has 2 dimensions, expected 4"],
  [(db) => db.applyDelta(create('b', Float32Array.of(1, NaN, 3, 4))), "row 'b': the create delta has a value that is NaN or infinite (dimension 1)"],
  [(db) => db.applyDelta({ ...create('b', v), metadata: 'x' }), `row 'b': metadata is "x": expected an object`],
  [(db) => db.applyDelta({ ...create('b', v), metadata: { n: 1n } }), "row 'b': metadata cannot be written as JSON: "],
  [(db) => db.applyDelta({ ...create('b', v), timestamp: 1 }), "row 'b': timestamp is 1: expected a valid Date"],
  [(db) => db.applyDelta({ vectorId: 'a', operation: { type: 'scale', factor: '2' } }), `factor is "2": expected a number`],
  [(db) => db.applyDelta({ vectorId: 'a', operation: { type: 'sparse', indices: Uint32Array.of(9), values: v.slice(0, 1) } }), "row 'a': index 9 is out of range"],
  [(db) => db.applyDeltas(create('b', v)), 'deltas is an Object: expected an array of deltas'],
  [(db) => db.search([1, 2, 3, 4], 3), 'the query is an Array: expected a Float32Array'],
  [(db) => db.search(v.slice(1), 3), 'vector has 3 dimensions, expected 4'],
  [(db) => db.search(v, { k: 3 }), 'k is an Object: expected a whole number, 0 or more'],
  [(db) => db.search(v, '3'), 'k is "3": expected a whole number, 0 or more'],
  [(db) => db.search(v, 3, { filter: "lang = 'en'" }), 'search has no option filter; the options are ef, exact,'],
  [(db) => db.search(v, 3, { asOf: '2026-05-01' }), 'asOf is "2026-05-01": expected a valid Date'],
  [(db) => db.search(v, 3, { where: 'id = ?' }), 'where has 1 question marks, but there are 0 params'],
  [(db) => db.search(v, 3, { where: 'id = ?', params: ['a', 'b'] }), 'where has 1 question marks, but there are 2 params'],
  [(db) => db.search(v, 3, { where: 'id = ?', params: 'a' }), 'params is "a": expected an array'],
  [(db) => db.search(v, 3, { params: ['a'] }), 'there are params without where'],
  [(db) => db.getVector(7), 'vectorId is 7: expected a string'],
  [(db) => db.getVector(), 'vectorId is undefined: expected a string'],
  [(db) => db.getVectorAt('a', 1), 'time is 1: expected a valid Date'],
  [(db) => db.getVectorAt(7, new Date()), 'vectorId is 7: expected a string'],
  [(db) => db.getMetadata(7), 'vectorId is 7: expected a string'],
  [(db) => db.getDeltaChain(7), 'vectorId is 7: expected a string'],
  [(db) => db.rollback('a'), 'deltaId is undefined: expected the id of a delta'],
  [(db) => db.rollback('a', -1), 'deltaId is -1: expected the id of a delta'],
  [(db) => db.rollback('a', 2 ** 53), 'deltaId is 9007199254740992: expected the id of a delta'],
  [(db) => db.rollback('a', 2 ** 40), "row 'a' has no delta 1099511627776"], // there may be so many
  [(db) => db.rollback('a', null), 'deltaId is null: expected the id of a delta'],
  [(db) => db.rollback('a', true), 'deltaId is true: expected the id of a delta'],
  [(db) => db.rollback('a', ' '), 'deltaId is " ": expected the id of a delta'],
  [(db) => db.exportDeltas(-1), 'since is -1: expected the id of a delta'],
  [(db) => db.exportDeltas(null), 'since is null: expected the id of a delta'],
  [(db) => db.rollback(7, 1), 'vectorId is 7: expected a string'],
  [(db) => db.compact({ keepDays: 90 }), 'compact has no option keepDays; the options are keep, vectorId'],
  [(db) => db.compact({ keep: '90 days', vectorId: 7 }), 'vectorId is 7: expected a string'],
  [(db) => db.exportDeltas('x'), 'since is "x": expected the id of a delta'],
  [(db) => db.exportDeltas(''), 'since is "": expected the id of a delta'],
  [(db) => db.import(new ArrayBuffer(4096)), 'import was given an ArrayBuffer: expected a Uint8Array'],
  [(db) => db.onDelta(), 'onDelta was given undefined: expected a function'],
  [(db) => db.importDeltas([1, 2]), 'importDeltas was given an Array: expected a Uint8Array'],
];

it('mistakes on one thread', async () => {
  const db = new DeltaVectorDB(sqlite3, { dimensions: 4 });
  db.applyDelta(create('a', v));
  for (const [call, message] of MISTAKES) await isRefused(() => call(db), message);
  await isRefused(() => db.transaction(async () => db.applyDelta(create('b', v))), 'in a transaction returned a Promise');
  assert.equal(db.lastSeq(), 1);
  assert.ok(db.exportDeltas(2 ** 40) instanceof Uint8Array);
  assert.equal(db.connection.isInTransaction, false);
  db.close();
  db.close();
});

it('mistakes in promises', async () => {
  const db = await DeltaVectorDB.open({ dimensions: 4, onWarning: () => {} });
  await db.applyDelta(create('a', v));
  for (const [call, message] of MISTAKES) await isRefused(() => call(db), message);
  assert.equal((await db.status()).last_seq, 1);
  await db.close();
  await db.close();
  assert.throws(() => db.onDelta(() => {}), (e) => e.code === 'closed');
});

it('options', async () => {
  await isRefused(() => new DeltaVectorDB(sqlite3, { dims: 4 }), 'there is no option dims; the options are checkpointInterval,');
  await isRefused(() => new DeltaVectorDB(sqlite3, { database: 'x.db' }), 'option database is "x.db": expected a connection');
  await isRefused(() => DeltaVectorDB.open({ dimension: 4 }), 'there is no option dimension; the options are checkpointInterval,');
  await isRefused(() => DeltaVectorDB.open({ nam: 'x' }), 'metric, name, onWarning, sqlite, storage,');
  await isRefused(() => DeltaVectorDB.open({ worker: 'worker.js' }), 'option worker is "worker.js": expected auto, true, false, or a function');
  await isRefused(() => DeltaVectorDB.open({ storage: 'opfs-sah' }), 'option storage is "opfs-sah": expected auto, opfs-sahpool, opfs, memory');
});

it('a storage that is not there is an error, and nothing besides', () => {
  // By itself, since a rejection that nobody hears of would end a program.
  const program = `
    import { DeltaVectorDB } from ${JSON.stringify(new URL('../../dist/index.js', import.meta.url).href)};
    await DeltaVectorDB.open({ dimensions: 4, storage: 'opfs' }).then(() => console.log('opened'), (e) => console.log(e.code));
    await new Promise((resolve) => setTimeout(resolve, 50));
    console.log('alive');`;
  assert.equal(execFileSync(process.execPath, ['--input-type=module', '-e', program], { encoding: 'utf8' }), 'no-opfs\nalive\n');
});

it('npm installs the package beside every sqlite-wasm that it works with', () => {
  // Their versions are all pre-releases in npm's eyes ("3.54.1-build1"), which few ranges have.
  const npm = (cwd, ...args) => execFileSync('npm', [...args, '--silent', '--offline', '--no-audit', '--no-fund', '--ignore-scripts'], { cwd, encoding: 'utf8' });
  for (const which of ['newest', 'oldest']) {
    const folder = mkdtempSync(path.join(tmpdir(), 'delta-vectors-'));
    try {
      writeFileSync(path.join(folder, 'package.json'), JSON.stringify({ private: true }));
      const packages = [root, path.join(root, 'node_modules', VERSIONS[which])].map((at) => `./${npm(folder, 'pack', at).trim()}`);
      npm(folder, 'install', ...packages);
      const { version } = JSON.parse(readFileSync(path.join(folder, 'node_modules/@sqlite.org/sqlite-wasm/package.json'), 'utf8'));
      assert.match(version, /^3[.]\d+[.]\d+-build\d+$/);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }
});
