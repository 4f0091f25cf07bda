// data.mjs: the vectors of the cache directory ($DELTA_VECTORS_CACHE), made by ./dev bench.
import { closeSync, openSync, readSync } from 'node:fs';
import { homedir } from 'node:os';
import path from 'node:path';
import { DIMENSIONS } from './measure.js';

export const cache = process.env.DELTA_VECTORS_CACHE ?? path.join(process.env.XDG_CACHE_HOME ?? path.join(homedir(), '.cache'), 'delta_vectors');

/** The first n vectors of a file. */
export function read(name, n) {
  const bytes = new Uint8Array(n * DIMENSIONS * 4);
  const file = openSync(path.join(cache, name), 'r');
  readSync(file, bytes, 0, bytes.length, 0);
  closeSync(file);
  return Array.from({ length: n }, (_, i) => new Float32Array(bytes.buffer, i * DIMENSIONS * 4, DIMENSIONS).slice());
}
