/**
 * Where a database lies: the origin private file system by one of SQLite's two ways, or memory. In a worker, but for memory.
 *
 *   opfs-sahpool   a pool of files that one worker holds open: fastest, needs no headers, one holder
 *   opfs           needs SharedArrayBuffer, so COOP and COEP headers
 *   memory         not kept
 *
 * A database that this file creates is opened with the modes that make commits fast there (measured: 66 us instead of 1.8 ms):
 * first locking_mode=exclusive, since without shared memory a WAL needs it, then journal_mode=wal, which would be refused
 * silently the other way round.
 */
import { DeltaVectorsError, isQuota } from './errors.js';
import { Connection, type Sqlite3, type Sqlite3Database } from './sqlite.js';
import type { StorageInfo, StorageKind } from './protocol.js';

interface Pool {
  readonly OpfsSAHPoolDb: new (path: string) => Sqlite3Database;
  /** Since 3.50; releases the files. */
  pauseVfs?(): unknown;
}

interface Storages {
  installOpfsSAHPoolVfs?(options: {
    name: string;
    directory: string;
    initialCapacity: number;
    forceReinitIfPreviouslyFailed: boolean;
  }): Promise<Pool>;
  oo1: { OpfsDb?: new (path: string, flags: string) => Sqlite3Database };
}

export interface OpenDatabase {
  readonly db: Sqlite3Database;
  readonly info: StorageInfo;
  close(): void;
}

const FILE = '/vectors.sqlite3';
const PAGE_BYTES = 8192;
/**
 * A commit copies the pages that it changes, and compares the last pack, two pages, byte by byte with what it was: in memory that is
 * most of its time.
 */
const MEMORY_PAGE_BYTES = 2048;
/** A database, its journal or WAL, and a few more for statements' own files. */
const POOL_FILES = 6;
/** A browser may hold the files of a page that was just left, or whose worker was just ended, for a moment. */
const RETRY_MS = 2500;

export async function openStorage(
  sqlite3: Sqlite3,
  name: string,
  wanted: 'auto' | StorageKind,
  durability: 'normal' | 'full',
): Promise<OpenDatabase> {
  const order: StorageKind[] = wanted === 'auto' ? ['opfs-sahpool', 'opfs', 'memory'] : [wanted];
  const fallbacks: { storage: StorageKind; reason: string }[] = [];
  for (const storage of order) {
    try {
      return await openAs(sqlite3, name, storage, durability, fallbacks);
    } catch (thrown) {
      const error = DeltaVectorsError.from(thrown, 'no-opfs');
      // Held by somebody else: the data are there, so another place, empty or older, is not what anybody wants.
      if (wanted !== 'auto' || storage === 'memory' || error.code !== 'no-opfs') throw error;
      fallbacks.push({ storage, reason: error.message });
    }
  }
  throw new DeltaVectorsError('no-opfs', 'there is no storage');
}

async function openAs(
  sqlite3: Sqlite3,
  name: string,
  storage: StorageKind,
  durability: 'normal' | 'full',
  fallbacks: StorageInfo['fallbacks'],
): Promise<OpenDatabase> {
  const pool = storage === 'opfs-sahpool' ? await openPool(sqlite3 as unknown as Storages, name) : undefined;
  const db = pool ? setModes(sqlite3, new pool.OpfsSAHPoolDb(FILE), durability) : openHere(sqlite3, name, storage, durability);
  const connection = new Connection(sqlite3, db);
  const journalMode = String(connection.value('PRAGMA journal_mode'));
  connection.release();
  return {
    db,
    info: { storage, persistent: storage !== 'memory', fallbacks, journalMode },
    close() {
      db.close();
      pool?.pauseVfs?.();
    },
  };
}

/** What can be opened without waiting. */
export function openHere(
  sqlite3: Sqlite3,
  name: string,
  storage: 'auto' | StorageKind,
  durability: 'normal' | 'full' = 'normal',
): Sqlite3Database {
  switch (storage) {
    case 'auto':
    case 'memory':
      return setModes(sqlite3, new sqlite3.oo1.DB(...([':memory:'] as never[])), durability);
    case 'opfs': {
      const { OpfsDb } = (sqlite3 as unknown as Storages).oo1;
      if (!OpfsDb) throw new DeltaVectorsError('no-opfs', 'storage opfs needs a page with COOP and COEP headers, and a worker');
      return setModes(sqlite3, new OpfsDb(`/delta_vectors/${encodeURIComponent(name)}.sqlite3`, 'c'), durability);
    }
    default:
      throw new DeltaVectorsError(
        'invalid',
        `storage is '${String(storage)}': expected auto, memory or opfs, and opfs-sahpool in DeltaVectorDB.open`,
      );
  }
}

/** For a database of our own; returns it, or closes it and throws. */
function setModes(sqlite3: Sqlite3, db: Sqlite3Database, durability: 'normal' | 'full'): Sqlite3Database {
  const connection = new Connection(sqlite3, db);
  try {
    connection.harden();
    if (db.filename === ':memory:') {
      connection.exec(`PRAGMA page_size=${MEMORY_PAGE_BYTES}`);
    } else {
      connection.exec(`PRAGMA locking_mode=exclusive; PRAGMA page_size=${PAGE_BYTES}`);
      connection.value('PRAGMA journal_mode=wal');
      connection.exec(`PRAGMA synchronous=${durability === 'full' ? 'full' : 'normal'}`);
    }
  } catch (thrown) {
    connection.release();
    db.close();
    throw thrown;
  }
  connection.release();
  return db;
}

/** The first who asks for it waits until the browser has set it up. */
export function touchStorage(): void {
  navigator.storage.getDirectory().catch(() => {}); // openPool() hears of it
}

async function openPool(storages: Storages, name: string): Promise<Pool> {
  if (typeof navigator === 'undefined' || !navigator.storage?.getDirectory || !storages.installOpfsSAHPoolVfs) {
    throw new DeltaVectorsError('no-opfs', 'this environment has no origin private file system for a worker');
  }
  const directory = encodeURIComponent(name);
  for (let waited = 0, wait = 25; ; waited += wait, wait *= 2) {
    try {
      return await storages.installOpfsSAHPoolVfs({
        name: `delta_vectors-${directory}`,
        directory: `.delta_vectors/${directory}`,
        initialCapacity: POOL_FILES,
        forceReinitIfPreviouslyFailed: true,
      });
    } catch (thrown) {
      if (isQuota(thrown)) throw thrown;
      if (!isHeld(thrown)) throw new DeltaVectorsError('no-opfs', `the origin private file system cannot be used: ${String((thrown as Error).message)}`, { cause: thrown });
      if (waited >= RETRY_MS) {
        throw new DeltaVectorsError('pool-busy', `the files of database '${name}' are held by another page or worker of this origin, one that does not use this package or hangs: close it`, { cause: thrown });
      }
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
}

function isHeld(thrown: unknown): boolean {
  const { name, message } = thrown as Error;
  return name === 'NoModificationAllowedError' || /access handle/i.test(String(message));
}

const IOERR = 10;
/** Browsers give files room in steps that grow with the file: a WAL of some megabytes may ask for as much again. */
const PROBE_BYTES = 1 << 24;

/**
 * SQLite calls it an I/O error when the browser refuses to store more. Whether it was that is asked of the browser: if there is room
 * for another file, it was something else.
 */
export async function explainFailure(thrown: unknown): Promise<DeltaVectorsError> {
  const error = DeltaVectorsError.from(thrown);
  if (error.sqliteCode === undefined || (error.sqliteCode & 0xff) !== IOERR || !(await isFull())) return error;
  return new DeltaVectorsError('quota-exceeded', `the origin's storage is full: the transaction was rolled back (${error.message})`, {
    sqliteCode: error.sqliteCode,
    cause: error,
  });
}

async function isFull(): Promise<boolean> {
  const root = await navigator.storage.getDirectory();
  const name = `.delta_vectors-probe-${Math.random()}`;
  try {
    const file = (await root.getFileHandle(name, { create: true })) as FileSystemFileHandle & {
      createSyncAccessHandle(): Promise<{ truncate(bytes: number): void; flush(): void; close(): void }>;
    };
    const handle = await file.createSyncAccessHandle();
    try {
      handle.truncate(PROBE_BYTES);
      handle.flush();
      return false;
    } finally {
      handle.close();
    }
  } catch (thrown) {
    return isQuota(thrown);
  } finally {
    await root.removeEntry(name).catch(() => {});
  }
}
