// Where the data are, and that they stay there.
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { openPage, prepare, startBrowser, startServer } from './harness.mjs';

let plain, isolated, browser;
before(async () => {
  plain = await startServer();
  isolated = await startServer({ isolated: true });
  browser = await startBrowser([`--host-resolver-rules=MAP insecure.test 127.0.0.1`]);
});
after(async () => {
  await browser?.close();
  await plain?.close();
  await isolated?.close();
});

for (const kind of ['plain', 'isolated']) {
  describe(`a page ${kind === 'plain' ? 'without' : 'with'} COOP and COEP`, () => {
    it('keeps data in opfs-sahpool, with a WAL, over a reload', async () => {
      const server = kind === 'plain' ? plain : isolated;
      const page = await openPage(browser.context, server.url);
      assert.equal(await page.evaluate(() => crossOriginIsolated), kind === 'isolated');
      const info = await page.evaluate(() => open());
      assert.equal(info.storage, 'opfs-sahpool');
      assert.equal(info.persistent, true);
      assert.equal(info.isOwner, true);
      assert.equal(info.journalMode, 'wal');
      assert.deepEqual(info.fallbacks, []);
      await page.evaluate(() => db.applyDeltas([create('a', 1, 2, 3, 4), create('b', 0, 0, 0, 1), offset('a', 0.5)]));

      // Not closed: as a user does.
      await page.reload();
      await prepare(page);
      await page.evaluate(() => open());
      assert.deepEqual(await page.evaluate(async () => [...(await db.getVector('a'))]), [1.5, 2.5, 3.5, 4.5]);
      assert.equal(await page.evaluate(async () => (await db.status()).deltas), 3);
      assert.deepEqual(await page.evaluate(async () => (await db.search(vector(0, 0, 0, 1), 1)).map((r) => r.id)), ['b']);
      assert.deepEqual(await page.evaluate(() => warnings), []);
      await page.evaluate(() => db.close());
      await page.close();
      assert.deepEqual(page.errors, []);
    });

    it('writes the same bits whatever variant of the module it runs', async () => {
      const server = kind === 'plain' ? plain : isolated;
      const page = await openPage(browser.context, server.url);
      const info = await page.evaluate(() => open({ name: 'variant' }));
      assert.ok(['relaxed', 'simd'].includes(info.variant), info.variant);
      await page.evaluate(() => db.close());
      await page.close();
    });
  });
}

it('a page without a secure origin works in memory, and says why', async () => {
  const page = await openPage(browser.context, `http://insecure.test:${plain.port}/`);
  assert.equal(await page.evaluate(() => isSecureContext), false);
  const info = await page.evaluate(() => open());
  assert.equal(info.storage, 'memory');
  assert.equal(info.persistent, false);
  assert.deepEqual(info.fallbacks.map((f) => f.storage), ['opfs-sahpool', 'opfs']);
  const [warning] = await page.evaluate(() => warnings);
  assert.match(warning, /'test' is in memory and will not be kept/);
  await page.evaluate(() => db.applyDelta(create('a', 1, 2, 3, 4)));
  assert.deepEqual(await page.evaluate(async () => [...(await db.getVector('a'))]), [1, 2, 3, 4]);
  const failed = await page.evaluate(() => failure(() => open({ storage: 'opfs-sahpool' })));
  assert.equal(failed.code, 'no-opfs');
  await page.close();
});

it('files that somebody else holds: an error that says so, and no other place', async () => {
  const page = await openPage(browser.context, plain.url);
  await page.evaluate(() => open({ name: 'held' }));
  await page.evaluate(() => db.close());
  // Another worker of the origin opens all files of the pool, as a page of an older program might.
  await page.evaluate(async () => {
    const code = `
      const hold = async (directory) => {
        for await (const handle of directory.values()) {
          if (handle.kind === 'directory') await hold(handle);
          else (globalThis.held ??= []).push(await handle.createSyncAccessHandle());
        }
      };
      (async () => {
        const root = await navigator.storage.getDirectory();
        await hold(await (await root.getDirectoryHandle('.delta_vectors')).getDirectoryHandle('held'));
        postMessage(held.length);
      })();`;
    globalThis.holder = new Worker(URL.createObjectURL(new Blob([code])));
    await new Promise((resolve) => (holder.onmessage = resolve));
  });
  const failed = await page.evaluate(() => failure(() => open({ name: 'held' })));
  assert.equal(failed.code, 'pool-busy');
  assert.match(failed.message, /'held' are held by another page or worker/);
  await page.evaluate(() => holder.terminate());
  assert.equal((await page.evaluate(() => open({ name: 'held' }))).storage, 'opfs-sahpool');
  await page.evaluate(() => db.close());
  await page.close();
});
