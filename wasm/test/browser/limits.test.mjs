// The disk that is full, what is exported while it is written, and streams from the page.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { openPage, prepare, startBrowser, startServer } from './harness.mjs';

let plain, isolated, browser;
before(async () => {
  plain = await startServer();
  isolated = await startServer({ isolated: true });
  browser = await startBrowser();
});
after(async () => {
  await browser?.close();
  await plain?.close();
  await isolated?.close();
});

it('a full origin: an error that says so, nothing lost, and it goes on when there is room', async () => {
  const page = await openPage(browser.context, plain.url);
  await page.evaluate(() => open({ name: 'quota', dimensions: 1024 }));
  await page.evaluate(() => {
    globalThis.rows = (from, n) =>
      Array.from({ length: n }, (_, i) => ({
        vectorId: `r${from + i}`,
        operation: { type: 'create', vector: Float32Array.from({ length: 1024 }, (_, j) => Math.sin(i * j + from)) },
      }));
  });
  await page.evaluate(() => db.applyDeltas(rows(0, 100)));
  const session = await browser.context.newCDPSession(page);
  const { origin } = new URL(plain.url);
  const { usage } = await page.evaluate(() => navigator.storage.estimate());
  await session.send('Storage.overrideQuotaForOrigin', { origin, quotaSize: usage + 3_000_000 });
  const { failed, n } = await page.evaluate(async () => {
    for (let n = 100; ; n += 100) {
      const failed = await failure(() => db.applyDeltas(rows(n, 100)));
      if (failed || n > 10000) return { failed, n };
    }
  });
  assert.equal(failed?.code, 'quota-exceeded', JSON.stringify(failed));
  assert.equal(await page.evaluate(async () => (await db.status()).rows), n);
  assert.equal(await page.evaluate((id) => db.getVector(id), `r${n}`), null);
  assert.equal(await page.evaluate(async (id) => (await db.getVector(id)).length, `r${n - 1}`), 1024);
  await session.send('Storage.overrideQuotaForOrigin', { origin });
  await page.evaluate((from) => db.applyDeltas(rows(from, 100)), n);
  await page.reload();
  await prepare(page);
  await page.evaluate(() => open({ name: 'quota', dimensions: 1024 }));
  assert.equal(await page.evaluate(async () => (await db.status()).rows), n + 100);
  await page.evaluate(() => db.close());
  await page.close();
});

it('a worker that cannot start says where to look', async () => {
  const page = await openPage(browser.context, plain.url);
  const open = (options) => page.evaluate((options) => failure(() => dv.DeltaVectorDB.open({ name: 'never', dimensions: 3, ...options })), options);
  const alone = await open({}); // nothing tells the worker what @sqlite.org/sqlite-wasm is
  assert.equal(alone.code, 'worker-failed');
  assert.match(alone.message, /^the worker could not be loaded, .*Bundlers.*optimizeDeps.*esbuild.*option sqlite/);
  const missing = await open({ sqlite: '/nowhere/index.mjs' });
  assert.equal(missing.code, 'worker-failed');
  assert.match(missing.message, /http:\/\/localhost:\d+\/nowhere\/index\.mjs/);
  await page.close();
});

it('an export is a whole SQLite file, also of what is only in the WAL, and comes back', async () => {
  const page = await openPage(browser.context, plain.url);
  await page.evaluate(() => open({ name: 'export' }));
  await page.evaluate(() => db.applyDeltas([create('a', 1, 2, 3, 4), create('b', 0, 0, 1, 1)]));
  const bytes = await page.evaluate(async () => Array.from(await db.export()));
  const directory = mkdtempSync(path.join(tmpdir(), 'delta-vectors-'));
  const file = path.join(directory, 'export.db');
  writeFileSync(file, Uint8Array.from(bytes));
  const sql = 'PRAGMA journal_mode; PRAGMA integrity_check; PRAGMA page_size; SELECT group_concat(id) FROM vectors_row;';
  const answer = execFileSync('sqlite3', [file, sql], { encoding: 'utf8' });
  rmSync(directory, { recursive: true });
  assert.equal(answer, 'delete\nok\n8192\na,b\n');

  await page.evaluate(() => db.applyDeltas([{ vectorId: 'a', operation: { type: 'delete' } }, create('c', 1, 1, 1, 1)]));
  await page.evaluate((b) => db.import(Uint8Array.from(b)), bytes);
  assert.deepEqual(await page.evaluate(async () => [...(await db.getVector('a'))]), [1, 2, 3, 4]);
  assert.equal(await page.evaluate(() => db.getVector('c')), null);

  // Not a database, one with a table of other dimensions, a damaged one, half of one: nothing changes.
  const foreign = await page.evaluate(async (b) => {
    const other = await dv.DeltaVectorDB.open({ name: 'other', dimensions: 8, storage: 'memory', sqlite: '/sqlite/index.mjs' });
    const tries = {
      text: new TextEncoder().encode('hello'.repeat(400)),
      dimensions: await other.export(),
      damaged: Uint8Array.from(b).fill(0x55, 8192 + 100, 3 * 8192),
      half: Uint8Array.from(b.slice(0, 9000)),
    };
    await other.close();
    const out = {};
    for (const [what, bytes] of Object.entries(tries)) out[what] = await failure(() => db.import(bytes));
    out.deltas = await failure(() => db.importDeltas(new Uint8Array(100)));
    return out;
  }, bytes);
  for (const [what, failed] of Object.entries(foreign)) {
    assert.equal(failed?.code, 'foreign-file', `${what}: ${JSON.stringify(failed)}`);
  }
  assert.match(foreign.dimensions.message, /has 8 dimensions and the metric cosine, expected 4 and cosine/);
  assert.deepEqual(await page.evaluate(async () => [...(await db.getVector('a'))]), [1, 2, 3, 4]);
  await page.evaluate(() => db.applyDelta(offset('a', 1)));

  await page.reload();
  await prepare(page);
  const info = await page.evaluate(() => open({ name: 'export' }));
  assert.equal(info.journalMode, 'wal');
  assert.deepEqual(await page.evaluate(async () => [...(await db.getVector('a'))]), [2, 3, 4, 5]);
  await page.evaluate(() => db.close());
  await page.close();
});

it('durability is normal or full', async () => {
  const page = await openPage(browser.context, plain.url);
  await page.evaluate(() => open({ name: 'full', durability: 'full' }));
  await page.evaluate(() => db.applyDelta(create('a', 1, 2, 3, 4)));
  const failed = await page.evaluate(() => failure(() => open({ name: 'full', durability: 'none' })));
  assert.match(failed.message, /option durability is "none": expected normal or full/);
  await page.evaluate(() => db.close());
  await page.close();
});

for (const kind of ['plain', 'isolated']) {
  describe(`streams from a page that ${kind === 'plain' ? 'cannot' : 'can'} share memory`, () => {
    let page;
    before(async () => {
      page = await openPage(browser.context, (kind === 'plain' ? plain : isolated).url);
      await page.evaluate(() => open({ name: 'stream' }));
      await page.evaluate(() => {
        globalThis.rows = 500;
        globalThis.deltas = async function* (n) {
          for (let i = 0; i < n; i++) yield offset(`s${i % rows}`, 1);
        };
      });
      await page.evaluate(() => db.applyDeltas(Array.from({ length: rows }, (_, i) => create(`s${i}`, 0, 0, 0, 0))));
    });
    after(async () => {
      await page.evaluate(() => db.close());
      await page.close();
    });

    it('commits all, in order, through a ring that is much smaller', async () => {
      const result = await page.evaluate(async () => {
        const pool = new dv.SharedDeltaPool(4096);
        const processor = new dv.DeltaStreamProcessor(db, { poolSize: 1 << 15 });
        const n = await processor.streamDeltas(deltas(20000));
        // Order matters here: plus 1, times 3, plus 1, …
        const small = new dv.DeltaStreamProcessor(db, { poolSize: 4096, batchSize: 7 });
        const m = await small.streamDeltas(
          Array.from({ length: 40 }, (_, i) => ({
            vectorId: 's1',
            operation: i % 2 ? { type: 'scale', factor: 3 } : { type: 'offset', amount: 1 },
          })),
        );
        let expected = 20000 / rows;
        for (let i = 0; i < 40; i++) expected = Math.fround(i % 2 ? expected * 3 : expected + 1);
        return {
          isShared: pool.isShared, n, m, expected,
          value: (await db.getVector('s0'))[0], ordered: (await db.getVector('s1'))[0],
        };
      });
      assert.equal(result.isShared, kind === 'isolated');
      assert.equal(result.n, 20000);
      assert.equal(result.m, 40);
      assert.equal(result.value, 40);
      assert.equal(result.ordered, result.expected);
    });

    it('a delta that is refused stops the stream, and says how far it came', async () => {
      const failed = await page.evaluate(async () => {
        const before = await db.lastSeq();
        const processor = new dv.DeltaStreamProcessor(db, { batchSize: 10 });
        const items = Array.from({ length: 1000 }, (_, i) => (i === 55 ? create('s3', 0, 0, 0, 0) : offset('s2', 1)));
        const error = await failure(() => processor.streamDeltas(items));
        const after = await db.lastSeq();
        const again = await processor.streamDeltas([offset('s2', 1)]);
        return { ...error, applied: after - before, again };
      });
      assert.equal(failed.code, 'exists');
      assert.equal(failed.committed, 50);
      assert.equal(failed.applied, 50);
      assert.equal(failed.again, 1);
    });

    it('an iterable that fails, a signal, a delta that is none', async () => {
      const out = await page.evaluate(async () => {
        const before = await db.lastSeq();
        const processor = new dv.DeltaStreamProcessor(db);
        const out = {};
        const failing = async function* () {
          yield offset('s4', 1);
          throw new Error('the source is gone');
        };
        out.thrown = await failure(() => processor.streamDeltas(failing()));
        const stop = new AbortController();
        const endless = async function* () {
          yield offset('s4', 1);
          setTimeout(() => stop.abort(), 20);
          await new Promise(() => {});
        };
        out.aborted = await failure(() => processor.streamDeltas(endless(), { signal: stop.signal }));
        out.none = await failure(() => processor.streamDeltas([offset('s4', 1), { vectorId: 's4', operation: { type: 'grow' } }]));
        out.applied = (await db.lastSeq()) - before;
        return out;
      });
      assert.match(out.thrown.message, /the source is gone/);
      assert.equal(out.thrown.committed, 1);
      assert.equal(out.aborted.code, 'aborted');
      assert.equal(out.aborted.committed, 1);
      assert.equal(out.none.code, 'invalid');
      assert.match(out.none.message, /the operation's type is "grow"/);
      assert.equal(out.applied, 3);
    });

    it('deltas that come slowly are committed while the stream goes on', async () => {
      const n = await page.evaluate(async () => {
        let release;
        const processor = new dv.DeltaStreamProcessor(db, { batchMs: 5 });
        const before = await db.lastSeq();
        const slow = async function* () {
          yield offset('s5', 1);
          await new Promise((resolve) => (release = resolve));
        };
        const streaming = processor.streamDeltas(slow());
        while ((await db.lastSeq()) === before) await new Promise((resolve) => setTimeout(resolve, 2));
        release();
        return streaming;
      });
      assert.equal(n, 1);
    });
  });
}
