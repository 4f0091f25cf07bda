// Programs of the differential test (tests/model): what they leave in the native extension, replayed in the component.
//
// The component has no SQL, so it gets the deltas of the log, as a program that follows the feed would. Every version of every row
// must read back with the same bits, and exact searches must find the same distances. DIFFERENTIAL, EXTENSION and SQLITE3 are the
// paths of the programs.
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, it } from 'node:test';
import { killHosts, nodeHost, wasmtimeHost } from './hosts.mjs';
import { openComponentPage } from './page.mjs';
import { replay } from './programs.mjs';

const { DIFFERENTIAL, EXTENSION, SQLITE3 = 'sqlite3', PROGRAMS = '40' } = process.env;

const TABLES = "sqlite_schema s WHERE s.sql LIKE 'CREATE VIRTUAL TABLE %USING delta_vectors%'";
const LOG = `sqlite_schema s JOIN delta_log(s.name) l WHERE s.sql LIKE 'CREATE VIRTUAL TABLE %USING delta_vectors%'`;
/** What is asked of the native extension at the end of a program. */
const QUESTIONS = [
  `SELECT json_object('table', s.name, 'status', json(delta_status(s.name)), 'sql', s.sql) FROM ${TABLES}`,
  `SELECT json_object('table', s.name, 'id', typeof(l.id) || ' ' || l.id, 'time', l.timestamp, 'operation', json(delta_json(l.delta)),
     'then', coalesce(hex(vector_at(s.name, l.id, l.timestamp)), ''), 'now', coalesce(hex(vector_at(s.name, l.id)), '')) FROM ${LOG} ORDER BY s.name, l.seq`,
  `SELECT json_object('table', s.name, 'query', hex(q.v), 'distances',
     json((SELECT json_group_array(printf('%!.17g', distance)) FROM vector_search(s.name, q.v, 10, '{"exact":true}'))))
     FROM sqlite_schema s JOIN (SELECT s2.name, vector_at(s2.name, l.id) AS v FROM sqlite_schema s2 JOIN delta_log(s2.name) l
       WHERE s2.sql LIKE 'CREATE VIRTUAL TABLE %USING delta_vectors%' AND l.seq % 7 = 1) q ON q.name = s.name WHERE q.v IS NOT NULL`,
];

/** Runs the program in the shell; the tables that it leaves. */
function tablesOf(program) {
  const name = path.join(directory, 'program.db');
  for (const suffix of ['', '-wal', '-shm', '-journal']) rmSync(name + suffix, { force: true });
  const script = program
    .slice(0, program.lastIndexOf('\nDROP TABLE ') + 1) // with which each ends
    .replace(/^\.open differential\.db$/gm, `.open ${name}`)
    .replace(/^\.load .*$/gm, `.load ${EXTENSION.replace(/\.so$/, '')}`);
  const input = ['.mode list', '.timeout 1000', script, ...QUESTIONS.map((q, i) => `.print @@${i}\n${q};`), ''].join('\n');
  const { stdout } = spawnSync(SQLITE3, ['-batch'], { input, encoding: 'utf8', maxBuffer: 1 << 28 });
  const [heads, log, searches] = [0, 1, 2].map((i) =>
    (stdout.split(`@@${i}\n`)[1] ?? '').split('@@')[0].split('\n').filter((line) => line.startsWith('{')).map((line) => JSON.parse(line)),
  );
  return heads.map(({ table, status, sql }) => {
    const deltas = log.filter((l) => l.table === table);
    const option = (what) => new RegExp(`${what}=(\\w+)`).exec(sql)?.[1];
    return {
      what: `${/\d+/.exec(program)[0]} ${table}`,
      dimensions: status.dimensions,
      metric: status.metric,
      checkpointInterval: option('checkpoint_interval') === undefined ? undefined : Number(option('checkpoint_interval')),
      compression: option('compression') !== 'off',
      deltas,
      versions: deltas.map(({ id, time, then }) => ({ id, time, bits: then })),
      now: [...new Map(deltas.map(({ id, now }) => [id, now]))].map(([id, bits]) => ({ id, bits })),
      searches: searches.filter((s) => s.table === table).map(({ query, distances }) => ({ query, distances: distances.map(Number) })),
    };
  }).filter((t) => t.deltas.length > 0);
}

let directory, tables;
before(() => {
  assert.ok(DIFFERENTIAL && EXTENSION, 'DIFFERENTIAL and EXTENSION are not set: run ./dev test component/model');
  directory = mkdtempSync(path.join(tmpdir(), 'delta-vectors-'));
  const traces = path.join(directory, 'traces.sql');
  execFileSync(DIFFERENTIAL, ['--programs', PROGRAMS, '--ops', '120', '--seed', '815', '--traces', traces, '--extension', EXTENSION.replace(/\.so$/, '')], { stdio: 'ignore' });
  tables = readFileSync(traces, 'utf8').split(/^(?=-- program )/m).filter((p) => p.startsWith('-- program')).flatMap(tablesOf);
});
after(killHosts);
after(() => directory && rmSync(directory, { recursive: true, force: true }));

const HOSTS = {
  Node: async () => replayer(await nodeHost()),
  wasmtime: async () => replayer(wasmtimeHost()),
  Chromium: async () => {
    const { page, close } = await openComponentPage();
    return { replayed: (table) => page.evaluate((table) => window.replayed(table), table), close };
  },
};

async function replayer(host) {
  await host.start();
  return { replayed: (table) => replay(host, table), close: () => host.close() };
}

for (const [name, open] of Object.entries(HOSTS)) {
  it(`native and ${name} fold to the same bits`, async (t) => {
    const host = await open();
    try {
      let compared = 0, searches = 0;
      for (const table of tables) {
        try {
          compared += await host.replayed(table);
          searches += table.searches.length;
        } catch (e) {
          throw new Error(`program ${table.what}: ${e.payload ?? e.message}`, { cause: e });
        }
      }
      t.diagnostic(`${tables.length} tables, ${compared} vectors, ${searches} searches`);
      assert.ok(tables.length >= 20 && compared > 1000 && searches > 100, `${tables.length} tables, ${compared} vectors, ${searches} searches`);
    } finally {
      await host.close();
    }
  });
}
