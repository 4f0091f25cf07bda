// bench.mjs: the browser package, in Node and in Chromium, beside peers. Prints a table of medians; see README.md.
//
//   bench.mjs [--quick] [--only node,chromium,peers,stream,reload] [--json FILE]     peers: in Node, in Chromium, where they run
//
// Vectors: wordnet-384 of the cache directory ($DELTA_VECTORS_CACHE), made by ./dev bench wasm.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import init from '@sqlite.org/sqlite-wasm';
import * as dv from '../dist/index.js';
import { startBrowser, startServer, openPage, prepare, ROUTES } from '../test/browser/harness.mjs';
import { cache, read } from './data.mjs';
import { DIMENSIONS, exactNearest, measure } from './measure.js';
import { measurePeers } from './peers.js';

const args = process.argv.slice(2);
const option = (name) => (args.includes(name) ? args[args.indexOf(name) + 1] : undefined);
const quick = args.includes('--quick');
const only = option('--only')?.split(',') ?? ['node', 'chromium', 'peers', 'stream', 'reload'];
const rounds = quick ? 2 : 7;

const rows = read('wordnet-384.f32', quick ? 2000 : 10_000);
const queries = read('wordnet-384-queries.f32', quick ? 50 : 200);
const exact = queries.map((q) => exactNearest(rows, q));

/** What the issue asks for, in microseconds unless it says otherwise. */
const REACH = {
  'sparse delta, in a batch of 100': 4,
  'sparse delta, one call': 12,
  'dense delta, one call': 15,
  getVector: 3,
  getVectorView: 0.3,
  'search k = 10, scan': 250,
  'search k = 10, graph, recall ≥ .99': 100,
  'encode a sparse delta': 3,
  'decode a sparse delta': 2,
};
const columns = {};
const here = fileURLToPath(new URL('.', import.meta.url));

/** Peers, in the cache directory. */
const PEERS = { 'hnswlib-wasm': '0.8.2', edgevec: '0.9.0', 'sqlite-vec-wasm-demo': '0.1.9', '@ruvector/wasm': '0.1.31' };
const PACKAGES = { 'sqlite-vec': 'sqlite-vec-wasm-demo', ruvector: '@ruvector/wasm' };
const peersDirectory = path.join(cache, 'wasm-peers/node_modules');

function installPeers() {
  const directory = path.join(cache, 'wasm-peers');
  if (Object.keys(PEERS).every((name) => existsSync(path.join(peersDirectory, name)))) return;
  mkdirSync(directory, { recursive: true });
  writeFileSync(path.join(directory, 'package.json'), JSON.stringify({ private: true, dependencies: PEERS }));
  execFileSync('npm', ['install', '--silent', '--no-fund', '--no-audit', '--ignore-scripts'], { cwd: directory, stdio: 'inherit' });
}

function addPeers({ columns: measured, failed }, where) {
  for (const [name, column] of Object.entries(measured)) columns[`${name} ${PEERS[PACKAGES[name] ?? name]}${where}`] = column;
  for (const [name, reason] of Object.entries(failed)) console.error(`${name}${where} does not run: ${reason.split('\n')[0]}`);
}

if (only.includes('node')) {
  console.error('Node …');
  const sqlite3 = await init({ print: () => {}, printErr: () => {} });
  const { variant } = await dv.loadDeltaVectors(sqlite3);
  columns[`Node ${process.versions.node}, ${variant}`] = measure({ sqlite3, dv, rows, queries, exact, rounds });
  if (only.includes('peers')) {
    installPeers();
    const file = (name, file) => path.join(peersDirectory, name, file);
    addPeers(await measurePeers((...of) => pathToFileURL(file(...of)).href, { rows, queries, exact, rounds }, (...of) => readFileSync(file(...of))), ', Node');
  }
}

const extra = [];
if (['chromium', 'stream', 'reload'].some((part) => only.includes(part))) {
  const server = await startServer({ routes: { ...ROUTES, '/bench/': here, '/cache/': cache } });
  const browser = await startBrowser();
  if (only.includes('chromium')) await chromium(browser, server);
  if (only.includes('stream')) {
    console.error('streams …');
    const isolated = await startServer({ isolated: true, routes: { ...ROUTES, '/cache/': cache } });
    await stream(browser, server, 'plain');
    await stream(browser, isolated, 'isolated');
    await isolated.close();
  }
  if (only.includes('reload')) {
    console.error('reloads …');
    const kept = await startServer({ caching: true, routes: { ...ROUTES, '/bench/': here, '/cache/': cache } });
    for (const n of quick ? [2000] : [10_000, 100_000]) {
      await reload(browser, kept, n, 'files kept by the browser');
      await reload(browser, server, n, 'files fetched and compiled');
    }
    await reload(browser, kept, quick ? 2000 : 10_000, 'in a tab of its own, files kept by the browser', true);
    await reload(browser, server, quick ? 2000 : 10_000, 'in a tab of its own, files fetched and compiled', true);
    await start(browser, kept, 'files kept by the browser');
    await start(browser, server, 'files fetched and compiled');
    await kept.close();
  }
  await browser.close();
  await server.close();
}

async function chromium(browser, server) {
  console.error('Chromium …');
  const page = await openPage(browser.context, server.url);
  const given = { n: rows.length, nQueries: queries.length, exact: exact.map((e) => [...e]), rounds, dimensions: DIMENSIONS };
  const { variant, rows: measured } = await page.evaluate(async (given) => {
    const { loadData } = await import('/bench/page.js');
    const data = await loadData(given);
    const worker = new Worker('/bench/worker.js', { type: 'module' });
    return new Promise((resolve, reject) => {
      worker.onmessage = (e) => resolve(e.data);
      worker.onerror = (e) => reject(new Error(e.message));
      worker.postMessage(data);
    });
  }, given);
  columns[`Chromium ${browser.context.browser()?.version() ?? ''}, ${variant}`] = measured;
  if (only.includes('peers')) {
    console.error('peers …');
    installPeers();
    const measuredPeers = await page.evaluate(async (given) => {
      const { loadData } = await import('/bench/page.js');
      const { measurePeers } = await import('/bench/peers.js');
      return measurePeers((name, file) => `/cache/wasm-peers/node_modules/${name}/${file}`, await loadData(given));
    }, given);
    addPeers(measuredPeers, '');
  }
  await page.close();
}

/** 100,000 sparse deltas from the main thread. */
async function stream(browser, server, kind) {
  const page = await openPage(browser.context, server.url);
  for (const storage of ['memory', 'opfs-sahpool']) {
    const n = quick ? 5000 : 100_000;
    const rates = [];
    for (let round = 0; round < 3; round++) {
      rates.push(await page.evaluate(
        async ({ storage, n, round, dimensions }) => {
          await open({ name: `stream-${storage}-${round}`, storage, dimensions });
          const rows = 1000;
          await db.applyDeltas(Array.from({ length: rows }, (_, i) => create(`r${i}`, ...new Float32Array(dimensions).fill(0.1))));
          const deltas = Array.from({ length: 1000 }, (_, i) => ({
            vectorId: `r${i}`,
            operation: { type: 'sparse', indices: Uint32Array.from({ length: 19 }, (_, j) => j * 20 + (i % 20)), values: new Float32Array(19).fill(i / 1000) },
          }));
          const source = async function* () {
            for (let i = 0; i < n; i++) yield deltas[i % 1000];
          };
          const start = performance.now();
          const committed = await new dv.DeltaStreamProcessor(db).streamDeltas(source());
          const seconds = (performance.now() - start) / 1000;
          await db.close();
          return committed / seconds;
        },
        { storage, n, round, dimensions: DIMENSIONS },
      ));
    }
    rates.sort((a, b) => a - b);
    const reach = storage === 'memory' ? '100,000' : '40,000';
    extra.push([`${n.toLocaleString('en')} deltas from a page that ${kind === 'plain' ? 'cannot' : 'can'} share memory, ${storage}`, `${Math.round(rates[1]).toLocaleString('en')} a second`, `${reach} a second`]);
  }
  await page.close();
}

/**
 * open() to the first answer, behind a reload; or each time in another tab. A tab's page is loaded again in the same process, where
 * compiled code may be left; another tab has another process.
 */
async function reload(browser, server, n, how, inNewTab = false) {
  let page = await openPage(browser.context, server.url);
  const name = `${inNewTab ? 'tab' : 'reload'}-${n}`;
  await page.evaluate(
    async ({ name, n, dimensions }) => {
      await open({ name, dimensions, maxVectors: 0 });
      const bytes = await (await fetch('/cache/wordnet-384.f32')).arrayBuffer();
      const vector = (i) => new Float32Array(bytes, i * dimensions * 4, dimensions);
      await new dv.DeltaStreamProcessor(db).streamDeltas(
        (function* () {
          for (let i = 0; i < n; i++) yield { vectorId: `r${i}`, operation: { type: 'create', vector: vector(i) } };
        })(),
      );
      await db.optimize();
      await db.close();
    },
    { name, n, dimensions: DIMENSIONS },
  );
  const times = [];
  for (let round = 0; round < 5; round++) {
    if (inNewTab) {
      await page.close();
      await new Promise((resolve) => setTimeout(resolve, 300)); // the browser holds a page's files for a moment
      page = await openPage(browser.context, server.url);
    } else {
      await page.reload();
      await prepare(page);
    }
    times.push(await page.evaluate(
      async ({ name, dimensions, query }) => {
        const start = performance.now();
        await open({ name, dimensions, maxVectors: 0 });
        await db.search(Float32Array.from(query), 10);
        return performance.now() - start;
      },
      { name, dimensions: DIMENSIONS, query: [...queries[round]] },
    ));
  }
  times.sort((a, b) => a - b);
  extra.push([`${inNewTab ? 'opening' : 'reload'} to first answer, ${n.toLocaleString('en')} rows on OPFS, ${how}`, `${times[2].toFixed(0)} ms`, n > 50_000 ? '900 ms' : '150 ms']);
  await page.close();
}

/** What of it is SQLite's: sqlite-wasm without us, from the start of a worker to the first row of a database on opfs-sahpool. */
async function start(browser, server, how) {
  const page = await openPage(browser.context, server.url);
  const times = [];
  for (let round = 0; round < 5; round++) {
    await page.reload();
    times.push(await page.evaluate(async () => {
      const start = performance.now();
      const worker = new Worker('/bench/start.js', { type: 'module' });
      await new Promise((resolve, reject) => {
        worker.onmessage = resolve;
        worker.onerror = (e) => reject(new Error(e.message));
      });
      const time = performance.now() - start;
      worker.terminate();
      return time;
    }));
  }
  times.sort((a, b) => a - b);
  extra.push([`… sqlite-wasm alone, ${how}`, `${times[2].toFixed(0)} ms`, '–']);
  await page.close();
}

// ---- the table -------------------------------------------------------------------------------------------------------

const names = [...new Set(Object.values(columns).flatMap((c) => Object.keys(c)))];
const heads = Object.keys(columns);
const show = (cell) =>
  cell === undefined ? '–'
  : typeof cell === 'string' ? cell
  : `${cell.us < 10 ? cell.us.toFixed(2) : Math.round(cell.us).toLocaleString('en')}${cell.recall === undefined ? '' : ` @ ${cell.recall.toFixed(3)}`}`;
console.log(`${rows.length.toLocaleString('en')} x ${DIMENSIONS}, cosine, ${queries.length} queries; microseconds, medians of ${rounds} rounds; ${cpus()[0].model.trim()}\n`);
const table = [['', ...heads, 'reach'], ...names.map((name) => [name, ...heads.map((h) => show(columns[h][name])), REACH[name] ?? ''])];
const widths = table[0].map((_, i) => Math.max(...table.map((line) => String(line[i]).length)));
for (const line of table) console.log(line.map((cell, i) => (i ? String(cell).padStart(widths[i]) : cell.padEnd(widths[i]))).join('  '));
console.log();
for (const [what, value, reach] of extra) console.log(`${what}: ${value} (reach ${reach})`);
if (option('--json')) {
  mkdirSync(path.dirname(path.resolve(option('--json'))), { recursive: true });
  writeFileSync(option('--json'), JSON.stringify({ columns, extra, reach: REACH }, null, 1));
}
process.exit(0);
