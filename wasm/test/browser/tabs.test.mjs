// One database in several tabs: one owner, nothing lost, nothing twice, whoever goes.
import assert from 'node:assert/strict';
import { after, before, beforeEach, it } from 'node:test';
import { openPage, startBrowser, startServer } from './harness.mjs';

const KILLS = Number(process.env.DELTA_VECTORS_KILLS ?? 10);

let server, browser, context;
let name = 0;
before(async () => {
  server = await startServer();
  browser = await startBrowser();
  ({ context } = browser);
});
after(async () => {
  await browser?.close();
  await server?.close();
});
beforeEach(() => name++);

async function tab(options = {}) {
  const page = await openPage(context, server.url);
  page.info = await page.evaluate((o) => open(o), { name: `tabs-${name}`, ...options });
  return page;
}

it('the second tab talks to the first, and both see everything in the same order', async () => {
  const first = await tab();
  const second = await tab();
  assert.equal(first.info.isOwner, true);
  assert.equal(second.info.isOwner, false);
  assert.equal(second.info.storage, 'opfs-sahpool');

  for (const page of [first, second]) {
    await page.evaluate(() => {
      globalThis.seen = [];
      db.onDelta((d) => seen.push(`${d.seq} ${d.vectorId} ${d.operation.type}`));
    });
  }
  await second.evaluate(() => db.lastSeq());
  assert.deepEqual(await first.evaluate(() => db.applyDeltas([create('a', 1, 0, 0, 0), create('b', 0, 1, 0, 0)])), ['1', '2']);
  assert.deepEqual(await second.evaluate(() => db.applyDeltas([offset('a', 1), create('c', 0, 0, 1, 0)])), ['3', '4']);
  await first.evaluate(() => db.applyDelta({ vectorId: 'b', operation: { type: 'delete' } }));

  assert.deepEqual(await second.evaluate(async () => [...(await db.getVector('a'))]), [2, 1, 1, 1]);
  assert.deepEqual(await first.evaluate(async () => [...(await db.getVector('c'))]), [0, 0, 1, 0]);
  assert.deepEqual(
    await second.evaluate(async () => (await db.search(vector(0, 0, 1, 0), 5)).map((r) => r.id)),
    ['c', 'a'],
  );
  const failed = await second.evaluate(() => failure(() => db.applyDelta(create('a', 1, 1, 1, 1))));
  assert.equal(failed.code, 'exists');
  assert.equal(failed.name, 'DeltaVectorsError');
  const expected = ['1 a create', '2 b create', '3 a offset', '4 c create', '5 b delete'];
  for (const page of [first, second]) {
    await page.waitForFunction(() => seen.length >= 5);
    assert.deepEqual(await page.evaluate(() => seen), expected);
    assert.deepEqual(page.errors, []);
    await page.close();
  }
});

it('an owner that closes its database is replaced', async () => {
  const first = await tab();
  const second = await tab();
  const third = await tab();
  await first.evaluate(() => db.applyDelta(create('a', 1, 0, 0, 0)));
  await first.evaluate(() => db.close());
  assert.deepEqual(await second.evaluate(async () => [...(await db.getVector('a'))]), [1, 0, 0, 0]);
  await third.evaluate(() => db.applyDelta(offset('a', 1)));
  await second.waitForFunction(() => db.info.isOwner);
  assert.equal(await third.evaluate(() => db.info.isOwner), false);
  await second.close(); // the page, not the database
  await third.waitForFunction(() => db.info.isOwner);
  assert.deepEqual(await third.evaluate(async () => [...(await db.getVector('a'))]), [2, 1, 1, 1]);
  assert.equal((await first.evaluate(() => failure(() => db.getVector('a')))).code, 'closed');
  await first.close();
  await third.close();
});

it('tabs that want another table are refused, with both named', async () => {
  const first = await tab();
  const page = await openPage(context, server.url);
  const failed = await page.evaluate((n) => failure(() => open({ name: n, dimensions: 8 })), `tabs-${name}`);
  assert.equal(failed.code, 'invalid');
  assert.match(failed.message, /open in another tab with 4 dimensions and the metric cosine, not 8 and cosine/);
  await page.close();
  await first.close();
});

it('every tab that says it has memory has its own', async () => {
  const first = await tab({ storage: 'memory' });
  const second = await tab({ storage: 'memory' });
  await first.evaluate(() => db.applyDelta(create('a', 1, 0, 0, 0)));
  assert.equal(await second.evaluate(() => db.getVector('a')), null);
  assert.equal(first.info.isOwner && second.info.isOwner, true);
  await first.close();
  await second.close();
});

it('a subscription that begins in the past gets all of it, and ends when it is told to', async () => {
  const page = await tab();
  await page.evaluate(() => db.applyDeltas([create('a', 1, 0, 0, 0), offset('a', 1), offset('a', 1)]));
  await page.evaluate(() => {
    globalThis.seen = [];
    globalThis.stop = new AbortController();
    db.onDelta(({ seq }) => { if (seq === 4) throw new Error('a listener of mine'); });
    db.onDelta((d) => seen.push(d.seq), { fromSeq: 1, signal: stop.signal });
  });
  await page.waitForFunction(() => seen.length === 2);
  await page.evaluate(() => db.applyDelta(offset('a', 1)));
  await page.waitForFunction(() => seen.length === 3);
  await page.evaluate(() => stop.abort());
  await page.evaluate(() => db.applyDelta(offset('a', 1)));
  await page.evaluate(() => new Promise((resolve) => setTimeout(resolve, 50)));
  assert.deepEqual(await page.evaluate(() => seen), [2, 3, 4]);
  // A listener that throws hurts neither the writer nor the other listeners.
  assert.deepEqual(page.errors.map((e) => e.message), ['a listener of mine']);
  await page.close();
});

it('an answer that dies with the owner does not make the change happen twice', async () => {
  const first = await openPage(context, server.url);
  await first.evaluate(async (n) => {
    // The worker commits what other tabs ask for, but its answers get lost.
    const code = `
      const post = BroadcastChannel.prototype.postMessage;
      BroadcastChannel.prototype.postMessage = function (message) {
        if (message.kind !== 'result' || message.value?.firstSeq !== 3) post.call(this, message);
      };
      await import('${location.origin}/delta-vectors/worker-url.js');`;
    await open({ name: n, worker: () => new Worker(URL.createObjectURL(new Blob([code], { type: 'text/javascript' })), { type: 'module' }), sqlite: `${location.origin}/sqlite/index.mjs` });
  }, `tabs-${name}`);
  const second = await tab();
  assert.equal(second.info.isOwner, false);
  await second.evaluate(() => db.applyDeltas([create('a', 0, 0, 0, 0), offset('a', 1)]));
  await second.evaluate(() => void (globalThis.lost = db.applyDelta(offset('a', 10))));
  await first.waitForFunction(async () => (await db.lastSeq()) === 3); // it was committed
  await first.close();
  assert.equal(await second.evaluate(() => lost), '3');
  assert.equal(await second.evaluate(() => db.applyDelta(offset('a', 100))), '4');
  assert.deepEqual(await second.evaluate(async () => [...(await db.getVector('a'))]), [111, 111, 111, 111]);
  await second.close();
});

// Three tabs write without a pause. Again and again the owner dies, by a crash or by being closed, and a new tab comes.
it(`${KILLS} owners killed in the middle of a transaction: what was acknowledged is there, once`, async () => {
  const BATCH = 50;
  const ledger = new Map(); // row -> deltas that were asked for, and acknowledged
  const writer = async (row) => {
    const entry = { asked: 0, acknowledged: 0 };
    ledger.set(row, entry);
    const page = await tab();
    page.removeAllListeners('pageerror');
    page.row = row;
    await page.exposeFunction('ask', (n) => void (entry.asked = n));
    await page.exposeFunction('acknowledge', (n) => void (entry.acknowledged = n));
    await page.evaluate(
      async ([id, batchSize]) => {
        await db.applyDelta(create(id, 0, 0, 0, 0));
        globalThis.isWriting = true;
        globalThis.writing = (async () => {
          for (let n = batchSize; isWriting; n += batchSize) {
            await ask(n);
            await db.applyDeltas(Array.from({ length: batchSize }, () => offset(id, 1)));
            await acknowledge(n);
          }
        })();
      },
      [row, BATCH],
    );
    return page;
  };
  const pages = [];
  for (let i = 0; i < 3; i++) pages.push(await writer(`row-${i}`));
  for (let kill = 0; kill < KILLS; kill++) {
    const owner = pages.shift();
    assert.equal(await owner.evaluate(() => db.info.isOwner), true);
    await new Promise((resolve) => setTimeout(resolve, 7 * (kill % 11)));
    if (kill % 2) {
      await owner.close();
    } else {
      const session = await context.newCDPSession(owner);
      const crashed = new Promise((resolve) => owner.once('crash', resolve));
      session.send('Page.crash').catch(() => {});
      await crashed;
      await owner.close().catch(() => {});
    }
    await pages[0].waitForFunction(() => db.info.isOwner);
    pages.push(await writer(`row-${kill + 3}`));
  }
  for (const page of pages) await page.evaluate(async () => {
    isWriting = false;
    await writing;
  });
  const alive = new Set(pages.map((page) => page.row));
  for (const [row, { asked, acknowledged }] of ledger) {
    const there = await pages[0].evaluate(async (id) => (await db.getVector(id))?.[0] ?? 0, row);
    if (alive.has(row)) assert.equal(there, acknowledged, `${row} outlived owners`);
    else assert.ok(there === acknowledged || there === asked, `${row}: ${acknowledged} acknowledged, ${asked} asked for, ${there} there`);
  }
  const { rises, n, last } = await pages[0].evaluate(async () => {
    let rises = true;
    let n = 0;
    for (let page; (page = await db.log(n, 5000)).length > 0; ) for (const { seq } of page) rises = rises && seq === ++n;
    return { rises, n, last: await db.lastSeq() };
  });
  assert.ok(rises, 'a seq is missing or twice');
  assert.equal(n, last);
  console.log(`# ${KILLS} owners killed, ${n} deltas`);
  for (const page of pages) await page.close();
});
