// A server for the package's files, and Chromium with pages on it.
import { createReadStream, existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import http from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const root = fileURLToPath(new URL('../..', import.meta.url));
const TYPES = { '.js': 'text/javascript', '.mjs': 'text/javascript', '.wasm': 'application/wasm', '.html': 'text/html', '.css': 'text/css', '.json': 'application/json' };

/** Routes: what a URL begins with -> a directory. */
export const ROUTES = {
  '/delta-vectors/': path.join(root, 'dist'),
  '/sqlite/': path.join(root, 'node_modules/@sqlite.org/sqlite-wasm/dist'),
  '/demo/': path.join(root, 'demo'),
};

/** caching: files may be kept, as a site has it whose files have their version in their names. */
export async function startServer({ isolated = false, caching = false, routes = ROUTES } = {}) {
  const server = http.createServer((request, response) => {
    const url = new URL(request.url, 'http://localhost');
    const headers = { 'Cache-Control': 'no-store' };
    if (isolated) {
      headers['Cross-Origin-Opener-Policy'] = 'same-origin';
      headers['Cross-Origin-Embedder-Policy'] = 'require-corp';
    }
    if (url.pathname === '/') {
      response.writeHead(200, { ...headers, 'Content-Type': 'text/html' });
      response.end('<!doctype html><meta charset="utf-8"><title>test</title><link rel="icon" href="data:,">');
      return;
    }
    const route = Object.keys(routes).find((r) => url.pathname.startsWith(r));
    const file = route && path.join(routes[route], path.normalize(decodeURIComponent(url.pathname.slice(route.length - 1))));
    if (!file || !file.startsWith(routes[route]) || !existsSync(file)) {
      response.writeHead(404, headers);
      response.end('not found');
      return;
    }
    if (caching) headers['Cache-Control'] = 'public, max-age=31536000, immutable';
    response.writeHead(200, { ...headers, 'Content-Type': TYPES[path.extname(file)] ?? 'application/octet-stream' });
    createReadStream(file).pipe(response);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  return {
    port,
    url: `http://localhost:${port}/`,
    close: () => new Promise((resolve) => { server.closeAllConnections(); server.close(resolve); }),
  };
}

/** Chromium with a profile of its own, so that OPFS is on disk. */
export async function startBrowser(args = []) {
  const profile = await mkdtemp(path.join(tmpdir(), 'delta-vectors-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    args: [
      '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage', ...args,
    ],
  });
  return {
    context,
    close: async () => {
      await context.close();
      await rm(profile, { recursive: true, force: true });
    },
  };
}

/** A page with the package as `dv`, and open(options) that knows where SQLite is. */
export async function openPage(context, url) {
  const page = await context.newPage();
  page.errors = []; if (process.env.LOG) page.on('console', (m) => console.log('#', m.text()));
  page.on('pageerror', (error) => page.errors.push(error));
  await page.goto(url);
  await prepare(page);
  return page;
}

export async function prepare(page) {
  await page.evaluate(async () => {
    const dv = await import('/delta-vectors/index.js');
    globalThis.dv = dv;
    globalThis.warnings = [];
    globalThis.open = async (options = {}) => {
      globalThis.db = await dv.DeltaVectorDB.open({
        name: 'test', dimensions: 4, sqlite: '/sqlite/index.mjs', onWarning: (w) => warnings.push(w), ...options,
      });
      return db.info;
    };
    globalThis.vector = (...values) => Float32Array.from(values);
    globalThis.create = (vectorId, ...values) => ({ vectorId, operation: { type: 'create', vector: vector(...values) } });
    globalThis.offset = (vectorId, amount) => ({ vectorId, operation: { type: 'offset', amount } });
    // What a test sees of an error.
    globalThis.failure = async (work) => {
      try {
        await work();
      } catch (e) {
        return { name: e.name, code: e.code, sqliteCode: e.sqliteCode, message: e.message, committed: e.committed };
      }
      return undefined;
    };
  });
}
