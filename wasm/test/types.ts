// Compiled, not run: what the types promise to a strict program, which checks the libraries' types too and has no newer ones than ES2022. `@ts-expect-error` lines must be errors.
import sqlite3InitModule from '@sqlite.org/sqlite-wasm';
import { DeltaStreamProcessor, DeltaVectorDB, DeltaVectorsError, SharedDeltaPool, loadDeltaVectors } from 'delta-vectors';
import type { AsyncDeltaVectorDB, AtOnce, CommittedDelta, DeltaOperation, SearchResult, VectorDelta } from 'delta-vectors';

const sqlite3 = await sqlite3InitModule();
await loadDeltaVectors(sqlite3);

const db = new DeltaVectorDB(sqlite3, { dimensions: 3, maxVectors: 10, compression: true, checkpointInterval: 1, hnswM: 16, hnswEfConstruction: 100, hnswEfSearch: 50, metric: 'ip' });
const id: string = db.applyDelta({ vectorId: 'a', operation: { type: 'create', vector: new Float32Array(3) } });
const vector: Float32Array | null = db.getVector('a');
const results: SearchResult[] = db.search(new Float32Array(3), 10, { asOf: new Date(), ef: 10, where: 'id <> ?', params: [id] });
const end: () => void = db.onDelta((delta: CommittedDelta) => void delta.seq, { fromSeq: 0 });
end();

const operation: DeltaOperation = { type: 'sparse', indices: new Uint32Array(1), values: new Float32Array(1) };
const delta: VectorDelta = { vectorId: 'a', operation, metadata: { any: ['thing'] }, timestamp: new Date() };
const page: AsyncDeltaVectorDB = await DeltaVectorDB.open({ name: 'x', storage: 'opfs-sahpool', durability: 'full', worker: () => new Worker('w.js') });
const later: Promise<string> = page.applyDelta(delta);
for await (const { seq } of page.deltas({ fromSeq: 1 })) void (seq satisfies number);
const pool = new SharedDeltaPool(1 << 20);
const waits: void | Promise<void> = pool.writeDelta(delta);
const n: number = await new DeltaStreamProcessor(page, { batchSize: 10 }).streamDeltas([delta]);
const m: number = await pool.flush(db);
try {
  await later;
} catch (e) {
  if (e instanceof DeltaVectorsError && e.code === 'quota-exceeded') void (e.message satisfies string);
}
void [vector, results, waits, n, m];

const connection = new sqlite3.oo1.DB(':memory:');
const theirs = new DeltaVectorDB(sqlite3, { dimensions: 3, database: connection, exclusive: true });
theirs.sqlite.exec('SELECT id FROM vectors WHERE vector MATCH ? AND k = 1', { bind: [new Uint8Array(12)], rowMode: 'object' });

// Whatever a transaction's work returns at once, it gives back.
const counted: number = db.transaction(() => 1);
const rows: { id: string }[] = db.transaction(() => [{ id }]);
const found: Float32Array | null = db.transaction(() => db.getVector('a'));
db.transaction(() => {
  db.applyDelta(delta);
});
db.transaction((): unknown => JSON.parse('1'));
db.transaction((): never => {
  throw new Error('rolled back');
});
const both = <T>(work: () => AtOnce<T>): T => db.transaction<T>(work);
void [counted, rows, found, both];
// @ts-expect-error what it awaits would come behind the commit
db.transaction(async () => db.applyDelta(delta));
// @ts-expect-error neither may it wait only sometimes
db.transaction((): void | Promise<void> => pool.writeDelta(delta));
// @ts-expect-error nor is it otherwise a promise
db.transaction(() => page.applyDelta(delta));

// @ts-expect-error a plain array is no vector
db.search([1, 2, 3], 10);
// @ts-expect-error no such operation
db.applyDelta({ vectorId: 'a', operation: { type: 'grow' } });
// @ts-expect-error a scale has a factor
db.applyDelta({ vectorId: 'a', operation: { type: 'scale', amount: 2 } });
// @ts-expect-error no such option
new DeltaVectorDB(sqlite3, { dimension: 3 });
// @ts-expect-error no such metric
new DeltaVectorDB(sqlite3, { metric: 'hamming' });
// @ts-expect-error no such code
new DeltaVectorsError('oops', 'message');
// @ts-expect-error promises are not vectors
const wrong: Float32Array | null = page.getVector('a');
void wrong;
