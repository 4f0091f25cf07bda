// make-data.mjs: the sample sentences as two files that any static server can give out: demo/data/sentences.json, and
// demo/data/vectors.bin, for each sentence a float32 scale and 384 int8 codes.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import init from '@sqlite.org/sqlite-wasm';

const here = new URL('./', import.meta.url);
const sqlite3 = await init({ print: () => {}, printErr: () => {} });
sqlite3.capi.sqlite3_js_posix_create_file('/sample.db', new Uint8Array(readFileSync(new URL('../../sql/examples/data/wordnet_sample.db', here))));
const db = new sqlite3.oo1.DB('/sample.db', 'r');

const sentences = [];
const chunks = [];
const take = (sql, make) => {
  for (const row of db.selectObjects(sql)) {
    sentences.push(make(row));
    chunks.push(new Uint8Array(Float32Array.of(row.scale).buffer), row.codes);
  }
};
take('SELECT * FROM gloss ORDER BY id', ({ id, pos, text }) => ({ id, pos, text }));
take('SELECT * FROM query ORDER BY text', ({ text }) => ({ id: null, text })); // questions, not rows

mkdirSync(new URL('data/', here), { recursive: true });
writeFileSync(new URL('data/sentences.json', here), JSON.stringify(sentences));
writeFileSync(new URL('data/vectors.bin', here), Buffer.concat(chunks));
console.log(`demo/data: ${sentences.length} sentences`);
