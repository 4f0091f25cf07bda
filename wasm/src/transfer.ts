/** Whole databases as bytes: out of a connection, and into one. */
import { DeltaVectorsError } from './errors.js';
import type { TableOptions } from './options.js';
import { Connection } from './sqlite.js';
import type { Status } from './types.js';

const MAGIC = 'SQLite format 3\0';
/** File format versions in the header: 1 with a rollback journal, 2 with a WAL. */
const HEADER_MODES = [18, 19];
const ROLLBACK_JOURNAL = 1;
const DONE = 101;

export function isDatabaseFile(bytes: Uint8Array): boolean {
  return bytes.length >= 512 && [...MAGIC].every((c, i) => bytes[i] === c.charCodeAt(0));
}

/** All that is committed, whatever is still in a WAL. */
export function readDatabase(connection: Connection): Uint8Array {
  return connection.run(() => {
    const { native } = connection;
    const schema = connection.putText('main\0');
    const size = connection.reserve(8);
    const at = native['sqlite3_serialize']!(connection.pointer, schema.at, size, 0);
    if (at === 0) throw new DeltaVectorsError('out-of-memory', 'export: there is no memory for a copy of the database');
    const length = Number(new DataView(connection.bytes.buffer).getBigInt64(size, true));
    const bytes = connection.bytes.slice(at, at + length);
    native['sqlite3_free']!(at);
    // A database in WAL mode says so in its header, and then cannot be opened where there is no WAL. These bytes are complete.
    if (bytes.length > 20) for (const i of HEADER_MODES) bytes[i] = ROLLBACK_JOURNAL;
    return bytes;
  });
}

/** The file, looked at in a connection of its own, takes the place of what is there: in one transaction of SQLite's backup. */
export function replaceDatabase(connection: Connection, bytes: Uint8Array, options: TableOptions): void {
  const { sqlite3, native } = connection;
  const capi = sqlite3.capi as { sqlite3_js_posix_create_file(path: string, data: Uint8Array): void };
  const copy = new Uint8Array(bytes); // a plain one: Node's Buffer is another class, and its slice no copy
  for (const i of HEADER_MODES) copy[i] = ROLLBACK_JOURNAL;
  // A file in memory, of SQLite's default VFS there: VACUUM can change the size of its pages, which it cannot in ':memory:'.
  const path = `/delta_vectors-import-${Math.random()}.sqlite3`;
  capi.sqlite3_js_posix_create_file(path, copy);
  const db = new sqlite3.oo1.DB(...([path] as never[]));
  const source = new Connection(sqlite3, db);
  try {
    checkFile(source, options);
    // A backup into a database in WAL mode, or in memory, cannot change the size of its pages.
    const pageSize = Number(connection.value('PRAGMA page_size'));
    if (Number(source.value('PRAGMA page_size')) !== pageSize) source.exec(`PRAGMA page_size=${pageSize}; VACUUM`);
    connection.run(() => {
      const main = connection.putText('main\0');
      const backup = native['sqlite3_backup_init']!(connection.pointer, main.at, source.pointer, main.at);
      if (backup === 0) throw connection.error();
      const rc = native['sqlite3_backup_step']!(backup, -1);
      const end = native['sqlite3_backup_finish']!(backup);
      if (rc !== DONE || end !== 0) throw connection.error();
    });
  } finally {
    source.release();
    db.close();
    connection.run(() => native['sqlite3__wasm_vfs_unlink']!(0, connection.putText(path + '\0').at));
  }
}

function checkFile(source: Connection, options: TableOptions): void {
  let status: Status;
  try {
    const report = source.value('PRAGMA integrity_check(1)');
    if (report !== 'ok') throw new DeltaVectorsError('corrupt', String(report));
    status = JSON.parse(String(source.value('SELECT delta_status(?)', options.table))) as Status;
  } catch (thrown) {
    const { message } = thrown as Error;
    throw new DeltaVectorsError('foreign-file', `import: the file cannot be used: ${message}`, { cause: thrown });
  }
  const { dimensions, metric } = options;
  if (status.dimensions !== dimensions || status.metric !== metric) {
    throw new DeltaVectorsError(
      'foreign-file',
      `import: the file's table ${options.table} has ${status.dimensions} dimensions and the metric ${status.metric}, expected ${dimensions} and ${metric}`,
    );
  }
}
