// Where the data are, and that they stay there.
import assert from 'node:assert/strict';
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { openPage, prepare, ROUTES, startBrowser, startServer } from './harness.mjs';

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
      assert.equal(info.variant, 'relaxed');
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
  });
}

it('each variant of the module computes the same bits', async () => {
  const page = await openPage(browser.context, plain.url);
  const found = {};
  for (const variant of ['scalar', 'simd', 'relaxed']) {
    found[variant] = await page.evaluate(async (variant) => {
      const { default: init } = await import('/sqlite/index.mjs');
      const sqlite3 = await init();
      await dv.loadDeltaVectors(sqlite3, { variant });
      const db = new sqlite3.oo1.DB(':memory:');
      let seed = 1;
      const random = () => (seed = (seed * 48271) % 2147483647) / 2147483647 - 0.5;
      const out = [];
      for (const n of [1, 7, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 127, 128, 200, 257]) {
        for (const [metric, index] of [['l2', 'flat'], ['cosine', 'hnsw'], ['ip', 'flat']]) {
          db.exec(`CREATE VIRTUAL TABLE t USING delta_vectors(v FLOAT[${n}] distance_metric=${metric}, index=${index})`);
          const insert = db.prepare('INSERT INTO t(v) VALUES(?)');
          for (let i = 0; i < 1200; i++) {
            // Some rows are at the ends of what a code can hold.
            const scale = i % 50 ? 1 : 1000;
            const row = Float32Array.from({ length: n }, () => (i % 50 ? random() : Math.sign(random())) * scale);
            insert.bind(new Uint8Array(row.buffer)).stepReset();
          }
          insert.finalize();
          db.exec("INSERT INTO t(t) VALUES('optimize')");
          for (let i = 0; i < 5; i++) {
            const query = Float32Array.from({ length: n }, (_, j) => (i ? random() : j % 2 ? 1 : -1));
            out.push(db.selectArrays('SELECT rowid, distance FROM t WHERE v MATCH ? AND k = 20', [new Uint8Array(query.buffer)]));
          }
          db.exec('DROP TABLE t');
        }
      }
      const backend = db.selectValue('SELECT delta_vectors_backend()');
      db.close();
      return { backend, out: JSON.stringify(out) };
    }, variant);
  }
  assert.deepEqual(Object.values(found).map((f) => f.backend), ['scalar', 'wasm128', 'wasm128relaxed']);
  assert.equal(found.simd.out, found.scalar.out);
  assert.equal(found.relaxed.out, found.scalar.out);
  await page.close();
});

it('storage opfs, where the page is isolated', async () => {
  const page = await openPage(browser.context, isolated.url);
  const info = await page.evaluate(() => open({ name: 'other', storage: 'opfs' }));
  assert.equal(info.storage, 'opfs');
  assert.equal(info.journalMode, 'wal');
  await page.evaluate(() => db.applyDelta(create('a', 1, 2, 3, 4)));
  await page.evaluate(() => db.close());
  await page.reload();
  await prepare(page);
  await page.evaluate(() => open({ name: 'other', storage: 'opfs' }));
  assert.deepEqual(await page.evaluate(async () => [...(await db.getVector('a'))]), [1, 2, 3, 4]);
  await page.evaluate(() => db.close());
  await page.goto(plain.url);
  await prepare(page);
  const failed = await page.evaluate(() => failure(() => open({ name: 'other', storage: 'opfs' })));
  assert.equal(failed.code, 'no-opfs');
  assert.match(failed.message, /needs a page with COOP and COEP/);
  await page.close();
});

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

/** The worker fetches sqlite3.wasm from beside SQLite's JavaScript, as SQLite does. Where SQLite has it elsewhere, that is where it is. */
it('sqlite3.wasm may be elsewhere, and what is there instead may be another module', async () => {
  const directory = mkdtempSync(path.join(tmpdir(), 'delta-vectors-'));
  for (const name of ['none', 'other', 'no-module']) {
    mkdirSync(path.join(directory, name));
    writeFileSync(path.join(directory, name, 'index.mjs'), "export { default } from '/sqlite/index.mjs';");
  }
  cpSync(path.join(ROUTES['/delta-vectors/'], 'delta_vectors.scalar.wasm'), path.join(directory, 'other/sqlite3.wasm'));
  writeFileSync(path.join(directory, 'no-module/sqlite3.wasm'), 'this is no module');
  const server = await startServer({ routes: { ...ROUTES, '/elsewhere/': directory } });
  try {
    const page = await openPage(browser.context, server.url);
    for (const name of ['none', 'other', 'no-module']) {
      const info = await page.evaluate((name) => open({ name, sqlite: `/elsewhere/${name}/index.mjs` }), name);
      assert.equal(info.storage, 'opfs-sahpool', name);
      assert.equal(await page.evaluate(() => db.applyDelta(create('a', 1, 2, 3, 4))), '1', name);
      await page.evaluate(() => db.close());
    }
    assert.deepEqual(page.errors, []);
    await page.close();
  } finally {
    await server.close();
    rmSync(directory, { recursive: true });
  }
});

it('an open that fails, wherever it does, leaves nothing held', async () => {
  const page = await openPage(browser.context, plain.url);
  const attempts = [
    [{ sqlite: '/sqlite/none.mjs' }, 'worker-failed', /option sqlite: .*none\.mjs/],
    [{ sqlite: '/delta-vectors/errors.js' }, 'worker-failed', /no function/],
    [{ wasm: '/delta-vectors/none.wasm' }, 'wasm-unavailable', /404/],
    [{ wasm: '/sqlite/sqlite3.wasm' }, 'unsupported-sqlite', /does not export/],
  ];
  for (const [options, code, message] of attempts) {
    const failed = await page.evaluate((options) => failure(() => open({ name: 'held', ...options })), options);
    assert.equal(failed?.code, code, JSON.stringify([options, failed]));
    assert.match(failed.message, message);
  }
  assert.equal((await page.evaluate(() => open({ name: 'held' }))).storage, 'opfs-sahpool');
  await page.evaluate(() => db.close());
  await page.close();
});

it('without a worker, SQLite comes from where the page says it is', async () => {
  const page = await openPage(browser.context, plain.url);
  assert.equal((await page.evaluate(() => open({ name: 'here', worker: false }))).storage, 'memory');
  await page.evaluate(() => db.close());
  const failed = await page.evaluate(() => failure(() => open({ name: 'here', worker: false, sqlite: '/nowhere.mjs' })));
  assert.equal(failed?.code, 'worker-failed', JSON.stringify(failed));
  assert.match(failed.message, /^option sqlite: expected the URL of index[.]mjs of @sqlite[.]org\/sqlite-wasm; of http:.*nowhere[.]mjs, Failed to fetch/);
  await page.close();
});
