// A page made by each bundler, as the README says, in Chromium.
import assert from 'node:assert/strict';
import { cpSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { after, before, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { startBrowser, startServer } from '../browser/harness.mjs';

const root = fileURLToPath(new URL('../..', import.meta.url));
const work = path.join(root, 'build/bundlers');
const require = createRequire(import.meta.url);

const APP = `
import { DeltaVectorDB } from 'delta-vectors';
globalThis.result = (async () => {
  const db = await DeltaVectorDB.open({ name: 'bundled', dimensions: 3 });
  if (!(await db.getVector('a'))) {
    await db.applyDelta({ vectorId: 'a', operation: { type: 'create', vector: Float32Array.of(1, 2, 3) } });
  }
  await db.applyDelta({ vectorId: 'a', operation: { type: 'offset', amount: 1 } });
  const { storage, variant } = db.info;
  const vector = Array.from(await db.getVector('a'));
  await db.close();
  return { storage, variant, vector };
})().catch((e) => ({ error: e.message }));
`;

let browser;
before(async () => {
  rmSync(work, { recursive: true, force: true });
  mkdirSync(path.join(work, 'node_modules'), { recursive: true });
  symlinkSync(root, path.join(work, 'node_modules/delta-vectors'));
  symlinkSync(path.join(root, 'node_modules/@sqlite.org'), path.join(work, 'node_modules/@sqlite.org'));
  writeFileSync(path.join(work, 'package.json'), '{ "type": "module" }');
  writeFileSync(path.join(work, 'app.js'), APP);
  writeFileSync(path.join(work, 'index.html'), '<!doctype html><link rel="icon" href="data:,"><script type="module" src="./app.js"></script>');
  browser = await startBrowser();
});
after(() => browser?.close());

async function check(directory) {
  const server = await startServer({ routes: { '/app/': directory } });
  const page = await browser.context.newPage();
  const failed = [];
  page.on('response', (r) => r.status() >= 400 && failed.push(r.url()));
  page.on('pageerror', (e) => failed.push(e.message));
  for (let visit = 1; visit <= 2; visit++) {
    await page.goto(`${server.url}app/index.html`);
    await page.waitForFunction(() => globalThis.result);
    const result = await page.evaluate(() => result);
    assert.deepEqual(result, { storage: 'opfs-sahpool', variant: result.variant, vector: [1 + visit, 2 + visit, 3 + visit] });
  }
  assert.deepEqual(failed, []);
  await page.close();
  await server.close();
}

it('Vite', async () => {
  const { build } = await import('vite');
  await build({
    root: work, base: './', logLevel: 'warn', configFile: false,
    build: { outDir: 'vite', target: 'es2022' },
    worker: { format: 'es' },
  });
  await check(path.join(work, 'vite'));
});

it('webpack', async () => {
  const webpack = require('webpack');
  const stats = await new Promise((resolve, reject) =>
    webpack(
      { mode: 'production', context: work, entry: './app.js', output: { path: path.join(work, 'webpack') }, performance: { hints: false } },
      (error, stats) => (error ? reject(error) : resolve(stats)),
    ),
  );
  assert.ok(!stats.hasErrors(), stats.toString({ all: false, errors: true }));
  const page = readFileSync(path.join(work, 'index.html'), 'utf8').replace('type="module" src="./app.js"', 'defer src="./main.js"');
  writeFileSync(path.join(work, 'webpack/index.html'), page);
  await check(path.join(work, 'webpack'));
});

it('esbuild', async () => {
  const { build } = await import('esbuild');
  const dist = path.join(root, 'dist');
  const sqlite = path.join(root, 'node_modules/@sqlite.org/sqlite-wasm/dist');
  await build({
    absWorkingDir: work, bundle: true, format: 'esm', outdir: 'esbuild', logLevel: 'error', splitting: true,
    entryPoints: { app: 'app.js', worker: path.join(dist, 'worker.js') },
  });
  for (const variant of ['scalar', 'simd', 'relaxed']) cpSync(`${dist}/delta_vectors.${variant}.wasm`, path.join(work, `esbuild/delta_vectors.${variant}.wasm`));
  for (const file of ['sqlite3.wasm', 'sqlite3-opfs-async-proxy.js']) cpSync(path.join(sqlite, file), path.join(work, 'esbuild', file));
  cpSync(path.join(work, 'index.html'), path.join(work, 'esbuild/index.html'));
  await check(path.join(work, 'esbuild'));
});
