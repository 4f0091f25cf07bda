// Programs of the differential test (tests/model), as SQL, once in the sqlite3 shell with the native extension and once in
// sqlite-wasm: what they read and find must be the same, to the last bit.
//
// The programs draw the same random numbers each time; DIFFERENTIAL, EXTENSION and SQLITE3 are the paths of the programs.
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, it } from 'node:test';
import { loadDeltaVectors } from '../../dist/index.js';
import { sqliteOf } from '../node/sqlite.mjs';

const { DIFFERENTIAL, EXTENSION, SQLITE3 = 'sqlite3', PROGRAMS = '80' } = process.env;
const MARK = '@@';

/** What both must agree on: vectors, metadata, distances, frames. Not times and sizes, which are those of the run. */
const COMPARED = /^SELECT (?!.*(timestamp|delta_status|delta_export|delta_compact|delta_recall|pragma_|hex\(delta\)))/i;

let directory, programs, sqlite3;
before(async () => {
  assert.ok(DIFFERENTIAL && EXTENSION, 'DIFFERENTIAL and EXTENSION are not set: run ./dev test wasm/model');
  directory = mkdtempSync(path.join(tmpdir(), 'delta-vectors-'));
  const traces = path.join(directory, 'traces.sql');
  execFileSync(DIFFERENTIAL, ['--programs', PROGRAMS, '--ops', '120', '--seed', '4711', '--traces', traces, '--extension', EXTENSION.replace(/\.so$/, '')], { stdio: 'ignore' });
  programs = parse(readFileSync(traces, 'utf8'));
  sqlite3 = await sqliteOf();
  await loadDeltaVectors(sqlite3);
});
after(() => directory && rmSync(directory, { recursive: true, force: true }));

/** [{ seed, steps: [{ open } | { sql }] }], without those that use two connections. */
function parse(text) {
  const programs = [];
  let program, sql = '';
  for (const line of text.split('\n')) {
    if (sql === '') {
      const seed = /^-- program (\d+)/.exec(line);
      if (seed) programs.push((program = { seed: seed[1], steps: [] }));
      if (line.startsWith('.connection')) program.hasTwo = true;
      if (line.startsWith('.open ')) program.steps.push({ open: line.slice(6) });
      if (line === '' || line.startsWith('--') || line.startsWith('.')) continue;
    }
    sql += (sql && '\n') + line;
    if (line.endsWith(';') && sql.split("'").length % 2 && sql.split('"').length % 2) {
      program.steps.push({ sql });
      sql = '';
    }
  }
  return programs.filter((p) => !p.hasTwo);
}

function runNatively({ seed, steps }) {
  const script = ['.mode quote', '.timeout 1000'];
  steps.forEach(({ open, sql }, i) => {
    if (open) script.push(`.open ${open === ':memory:' ? open : path.join(directory, `${seed}.db`)}`, `.load ${EXTENSION.replace(/\.so$/, '')}`);
    else script.push(`.print ${MARK}${i}`, sql);
  });
  const { stdout } = spawnSync(SQLITE3, ['-batch'], { input: script.join('\n') + '\n', encoding: 'utf8', maxBuffer: 1 << 28 });
  const out = new Map();
  for (const part of stdout.split(MARK).slice(1)) {
    const end = part.indexOf('\n');
    out.set(Number(part.slice(0, end)), part.slice(end + 1).split('\n').filter(Boolean));
  }
  return out;
}

const quote = (value) => {
  if (value === null) return 'NULL';
  if (typeof value === 'string') return `'${value.replaceAll("'", "''")}'`;
  if (value instanceof Uint8Array) return `X'${Buffer.from(value).toString('hex')}'`;
  return String(value);
};

/** The shell's numbers have twenty digits; what both say is compared as the number that it is. */
const canonical = (line) => line.replace(/(^|,)(-?\d[\d.e+-]*)(?=,|$)/g, (_, comma, number) => comma + Number(number));

function runInWasm({ seed, steps }) {
  const out = new Map();
  let db;
  steps.forEach(({ open, sql }, i) => {
    if (open) {
      db?.close();
      db = new sqlite3.oo1.DB(open === ':memory:' ? open : `/${seed}.db`);
      return;
    }
    const rows = [];
    try {
      db.exec({ sql, rowMode: 'array', callback: (row) => void rows.push(row.map(quote).join(',')) });
    } catch (e) {
      assert.ok(e instanceof sqlite3.SQLite3Error, `${sql}: ${e.stack}`);
    }
    out.set(i, rows);
  });
  db?.close();
  return out;
}

it('native and wasm read and find the same bits', (t) => {
  let compared = 0;
  let values = 0;
  for (const program of programs) {
    const native = runNatively(program);
    const wasm = runInWasm(program);
    program.steps.forEach(({ sql }, i) => {
      if (!sql || !COMPARED.test(sql)) return;
      const here = (wasm.get(i) ?? []).map(canonical);
      const there = (native.get(i) ?? []).map(canonical);
      assert.deepEqual(here.join('\n'), there.join('\n'), `program ${program.seed}, statement ${i}: ${sql.slice(0, 300)}`);
      compared++;
      values += here.length;
    });
  }
  t.diagnostic(`${programs.length} programs, ${compared} results, ${values} rows`);
  assert.ok(programs.length >= 20 && values > 5000);
});
