// serve.mjs [port]: serves the demo page. No special headers: what it gives out could lie on any static host.
import { createReadStream, statSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const wasm = fileURLToPath(new URL('..', import.meta.url));
const ROUTES = {
  '/delta-vectors/': path.join(wasm, 'dist'),
  '/sqlite/': path.join(wasm, 'node_modules/@sqlite.org/sqlite-wasm/dist'),
  '/': path.join(wasm, 'demo'),
};
const TYPES = { '.html': 'text/html', '.css': 'text/css', '.js': 'text/javascript', '.mjs': 'text/javascript', '.wasm': 'application/wasm', '.json': 'application/json' };

http
  .createServer((request, response) => {
    const name = decodeURIComponent(new URL(request.url, 'http://localhost').pathname).replace(/\/$/, '/index.html');
    const route = Object.keys(ROUTES).find((r) => name.startsWith(r));
    const file = path.join(ROUTES[route], path.normalize('/' + name.slice(route.length)));
    if (!statSync(file, { throwIfNoEntry: false })?.isFile()) {
      response.writeHead(404).end('not found');
      return;
    }
    response.writeHead(200, { 'Content-Type': TYPES[path.extname(file)] ?? 'application/octet-stream' });
    createReadStream(file).pipe(response);
  })
  .listen(Number(process.argv[2] ?? 8080), '127.0.0.1', function () {
    console.log(`http://localhost:${this.address().port}/`);
  });
