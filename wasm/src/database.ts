/**
 * DeltaVectorDB, synchronous: on a connection of this thread, in a worker or in Node. The API of ADR-DB-008.
 *
 * Everything is SQL on one delta_vectors table (docs/sql.md), by prepared statements, but for what direct.ts has. What
 * SQL users and other objects do to the table is seen here, and the other way round.
 */
import { Direct } from './direct.js';
import { checkBytes, checkDeltas, checkId, checkOptions, DeltaVectorsError, described } from './errors.js';
import { Feed } from './feed.js';
import { decodeFrame, frameBound, writeUnsealed } from './frame.js';
import { extensionOf } from './loader.js';
import { createTableSql, quoted, tableOptions, type TableOptions } from './options.js';
import { Connection, type Bindable, type Sqlite3, type Sqlite3Database, type Statement } from './sqlite.js';
import { isDatabaseFile, readDatabase, replaceDatabase } from './transfer.js';
import { openHere } from './storage.js';
import type {
  ChainEntry,
  CommittedDelta,
  CompactionStats,
  CompactOptions,
  DeltaChain,
  DeltaDBOptions,
  DeltaListener,
  ImportStats,
  Metric,
  SearchOptions,
  SearchResult,
  Status,
  SubscribeOptions,
  VectorDelta,
} from './types.js';

export interface DatabaseOptions extends DeltaDBOptions {
  /** A connection of your own, which stays yours: it is not closed, and its modes are not changed. By default, one in memory. */
  database?: Sqlite3Database;
  /** Name of the table. vectors. */
  table?: string;
  /** Of the database, where it has a file. delta_vectors. */
  name?: string;
  /** memory (or auto), or opfs: in a worker of a page with COOP and COEP. What has to be waited for is had by DeltaVectorDB.open. */
  storage?: 'auto' | 'memory' | 'opfs';
  /**
   * Of a connection of your own: no other connection writes to this file while this one is open, as with
   * `locking_mode=exclusive`. Makes getVectorView faster.
   */
  exclusive?: boolean;
}

/** T, unless it is a promise: then a text, which is what the compiler shows as the type that was expected. */
export type AtOnce<T> = T extends PromiseLike<unknown> ? 'the work of a transaction must not be async' : T;

export class DatabaseCore {
  readonly #connection: Connection;
  readonly #options: TableOptions;
  readonly #isOurs: boolean;
  readonly #feed: Feed;
  readonly #direct: Direct;
  /** The statements, by what they are for. */
  readonly #sql: Statements;

  /**
   * Opens the table, and creates it if need be.
   *
   * @param sqlite3 for which `await loadDeltaVectors(sqlite3)` has been called
   */
  constructor(sqlite3: Sqlite3, options: DatabaseOptions = {}) {
    this.#options = tableOptions(options, ['database', 'exclusive', 'name', 'storage']);
    const extension = extensionOf(sqlite3);
    const given = options.database;
    const db = given ?? openHere(sqlite3, options.name ?? 'delta_vectors', options.storage ?? 'memory');
    this.#isOurs = given === undefined;
    this.#connection = new Connection(sqlite3, db);
    let direct: Direct | undefined;
    try {
      if (given) extension.register(given);
      this.#connection.exec(createTableSql(this.#options));
      const { table, dimensions } = this.#options;
      direct = new Direct(this.#connection, extension, table, dimensions, given === undefined || options.exclusive === true);
      this.#direct = direct;
      this.#checkTable();
    } catch (thrown) {
      direct?.release();
      this.#connection.release();
      if (this.#isOurs) db.close();
      throw thrown;
    }
    this.#sql = prepareAll(this.#connection, this.#options.table);
    this.#feed = new Feed((since, limit) => this.log(since, limit), () => this.lastSeq());
  }

  /** The table that was there may be another than the one that was asked for. */
  #checkTable(): void {
    const { table, dimensions, metric } = this.#options;
    const there = this.#direct.describe();
    if (there.dimensions !== dimensions || there.metric !== metric) {
      throw new DeltaVectorsError(
        'invalid',
        `the table ${table} of this database has ${there.dimensions} dimensions and the metric ${there.metric}, not ${dimensions} and ${metric}`,
      );
    }
  }

  /** The SQLite connection, for SQL. */
  get sqlite(): Sqlite3Database {
    return this.#connection.db;
  }

  get table(): string {
    return this.#options.table;
  }

  getDimensions(): number {
    return this.#options.dimensions;
  }

  get metric(): Metric {
    return this.#options.metric;
  }

  // ---- writing -------------------------------------------------------------------------------------------------------

  /** Applies a delta, in the open transaction or in one of its own. Returns its id: its number as a text. */
  applyDelta(delta: VectorDelta): string {
    // Metadata and time are in a frame, and frames are a matter of batches.
    if (delta?.metadata !== undefined || delta?.timestamp !== undefined) return this.applyDeltas([delta])[0]!;
    const seq = this.#direct.apply(delta);
    this.#committed();
    return String(seq);
  }

  /** Applies deltas in order: all of them, or none. Returns their ids. */
  applyDeltas(deltas: readonly VectorDelta[]): string[] {
    checkDeltas(deltas);
    const c = this.#connection;
    const first = c.run(() => {
      let bound = 0;
      for (const delta of deltas) bound += frameBound(delta);
      const at = c.reserve(bound);
      const bytes = c.bytes;
      let end = at;
      for (const delta of deltas) end = writeUnsealed(delta, bytes, end);
      return this.#direct.applyFrames(at, end - at);
    });
    this.#committed();
    return Array.from(deltas, (_, i) => String(first + i));
  }

  /** The same for frames, as `encodeFrame` makes them, one behind the other. */
  applyFrames(frames: Uint8Array): { count: number; firstSeq: number | null; lastSeq: number | null } {
    const result = this.#connection.run(() => this.#applyFrames(frames));
    this.#committed();
    return result;
  }

  #applyFrames(frames: Bindable): { count: number; firstSeq: number | null; lastSeq: number | null } {
    const { apply } = this.#sql;
    apply.bind([frames]).step();
    const json = apply.text(0);
    apply.reset();
    return JSON.parse(json) as { count: number; firstSeq: number | null; lastSeq: number | null };
  }

  /** Brings a row back to its state after one of its deltas: a new delta, whose id is returned. */
  rollback(vectorId: string, deltaId: string | number): string {
    checkId(vectorId);
    return this.#write(() => String(this.#one('rollback', [vectorId, seqOf(deltaId, 'deltaId')])));
  }

  /** Merges old deltas. Nothing is merged unless `keep` says so. */
  compact(options: CompactOptions = {}): CompactionStats {
    checkOptions('compact', options, ['keep', 'vectorId']);
    const { keep, vectorId } = options;
    if (vectorId !== undefined) checkId(vectorId);
    const json = JSON.stringify({ ...(keep !== undefined && { keep }), ...(vectorId !== undefined && { id: vectorId }) });
    return this.#write(() => JSON.parse(String(this.#one('compact', [json]))) as CompactionStats);
  }

  /** Links all rows that the search graph does not have yet. After loading many. */
  optimize(): void {
    this.#write(() => this.#connection.exec(`INSERT INTO ${quoted(this.#options.table)}(${quoted(this.#options.table)}) VALUES('optimize')`));
  }

  /** Runs `work` in a transaction: all that it writes is committed together, or, if it throws, not at all. It cannot wait for anything. */
  transaction<T>(work: () => AtOnce<T>): T {
    const result = this.#connection.transaction(work as () => T);
    this.#committed();
    return result;
  }

  #write<T>(work: () => T): T {
    const result = work();
    this.#committed();
    return result;
  }

  #committed(): void {
    if (!this.#feed.isEmpty && !this.#connection.isInTransaction) this.#feed.deliver();
  }

  // ---- reading -------------------------------------------------------------------------------------------------------

  /** The current vector; null if there is no such row. A copy. */
  getVector(vectorId: string): Float32Array | null {
    const vector = this.#direct.vector(vectorId);
    return vector === undefined ? this.#vector(this.#sql.get, [vectorId]) : vector;
  }

  /** The vector as it was at that time; null if there was no such row. */
  getVectorAt(vectorId: string, time: Date): Float32Array | null {
    checkId(vectorId);
    return this.#vector(this.#sql.getAt, [vectorId, timeOf(time, 'time')]);
  }

  #vector(statement: Statement, values: Bindable[]): Float32Array | null {
    return this.#connection.run(() => {
      const vector = statement.bind(values).step() ? statement.vector(0) : null;
      statement.reset();
      return vector;
    });
  }

  /**
   * The current vector where it lies in SQLite's memory, without a copy: to be read before the next call of anything that writes
   * or searches, and never written to. After that it may show anything.
   */
  getVectorView(vectorId: string): Float32Array | null {
    const view = this.#direct.view(vectorId);
    return view === undefined ? this.getVector(vectorId) : view;
  }

  /** The current metadata; null if there is no such row or it has none. */
  getMetadata(vectorId: string): Record<string, unknown> | null {
    checkId(vectorId);
    const json = this.#one('metadata', [vectorId]);
    return typeof json === 'string' ? (JSON.parse(json) as Record<string, unknown>) : null;
  }

  /** The k nearest rows, nearest first. */
  search(query: Float32Array, k = 10, options: SearchOptions = {}): SearchResult[] {
    if (!(query instanceof Float32Array)) {
      throw new DeltaVectorsError('invalid', `the query is ${described(query)}: expected a Float32Array`);
    }
    if (!Number.isSafeInteger(k) || k < 0) {
      throw new DeltaVectorsError('invalid', `k is ${described(k)}: expected a whole number, 0 or more`);
    }
    const { where, params = [], metadata = true, asOf, ...others } = options;
    let statement = metadata ? this.#sql.search : this.#sql.searchIds;
    let values: Bindable[] = [query, k];
    let isKept = true;
    if (where !== undefined || asOf !== undefined || options.params !== undefined || Object.keys(others).length > 0) {
      checkOptions('search', options, SEARCH_OPTIONS);
      const [sql, bound] = this.#searchSql(query, k, options, params);
      statement = this.#connection.prepare(sql);
      values = bound;
      isKept = false;
    }
    try {
      return this.#connection.run(() => {
        const results: SearchResult[] = [];
        const missing = isKept ? 0 : statement.parameters - values.length;
        if (missing !== 0) {
          throw new DeltaVectorsError('invalid', `where has ${params.length + missing} question marks, but there are ${params.length} params`);
        }
        statement.bind(values);
        while (statement.step()) {
          const distance = statement.double(1);
          const result: SearchResult = { id: statement.text(0), score: this.#score(distance), distance };
          if (metadata && !statement.isNull(2)) result.metadata = JSON.parse(statement.text(2)) as Record<string, unknown>;
          results.push(result);
        }
        statement.reset();
        return results;
      });
    } finally {
      if (!isKept) statement.finalize();
    }
  }

  #searchSql(query: Float32Array, k: number, options: SearchOptions, params: Bindable[]): [string, Bindable[]] {
    const { where, asOf, ef, exact, recallTarget, maxDistance, metadata = true } = options;
    if (!Array.isArray(params)) throw new DeltaVectorsError('invalid', `params is ${described(params)}: expected an array`);
    const json = JSON.stringify({
      // With a condition the table streams, as it cannot be told of it, and LIMIT ends the stream.
      ...(where === undefined && { k }),
      ...(asOf !== undefined && { as_of: timeOf(asOf, 'asOf') }),
      ...(ef !== undefined && { ef }),
      ...(exact !== undefined && { exact }),
      ...(recallTarget !== undefined && { recall_target: recallTarget }),
      ...(maxDistance !== undefined && { max_distance: maxDistance }),
    });
    const columns = metadata ? 'id, distance, metadata' : 'id, distance';
    const from = `SELECT ${columns} FROM ${quoted(this.#options.table)}(?, ?)`;
    if (where === undefined) {
      if (params.length > 0) throw new DeltaVectorsError('invalid', 'there are params without where, whose question marks they are for');
      return [from, [query, json]];
    }
    return [`${from} WHERE (${where}\n) ORDER BY distance LIMIT ?`, [query, json, ...params, k]];
  }

  #score(distance: number): number {
    switch (this.#options.metric) {
      case 'cosine':
        return 1 - distance;
      case 'ip':
        return -distance;
      default:
        return 1 / (1 + distance);
    }
  }

  /** What a row has been, oldest first; without deltas if there never was such a row. */
  getDeltaChain(vectorId: string): DeltaChain {
    checkId(vectorId);
    const { chain } = this.#sql;
    return this.#connection.run(() => {
      const deltas: ChainEntry[] = [];
      chain.bind([vectorId]);
      while (chain.step()) {
        const entry = committedDelta(chain, vectorId, 0, 1, 2, 3) as ChainEntry;
        entry.encoding = chain.text(4);
        entry.bytes = chain.integer(5);
        entry.checkpoint = chain.integer(6) !== 0;
        deltas.push(entry);
      }
      chain.reset();
      return { vectorId, deltas };
    });
  }

  /** Deltas of all rows after a number, in the order of their commits. */
  log(since = 0, limit = 1000): CommittedDelta[] {
    const { log } = this.#sql;
    return this.#connection.run(() => {
      const deltas: CommittedDelta[] = [];
      log.bind([since, limit]);
      while (log.step()) deltas.push(committedDelta(log, log.text(4), 0, 1, 2, 3));
      log.reset();
      return deltas;
    });
  }

  /** Number of the last delta. */
  lastSeq(): number {
    return this.#direct.describe().lastSeq;
  }

  status(): Status {
    return JSON.parse(String(this.#one('status', []))) as Status;
  }

  /** Measured recall of searches: of n rows of the table, the part of the exact k nearest that a search finds. */
  recall(n = 100, k = 10): number | null {
    return this.#one('recall', [n, k]) as number | null;
  }

  #one(name: keyof Statements, values: Bindable[]): string | number | bigint | null | Uint8Array {
    const statement = this.#sql[name];
    return this.#connection.run(() => {
      const value = statement.bind(values).step() ? statement.column(0) : null;
      statement.reset();
      return value;
    });
  }

  // ---- following -----------------------------------------------------------------------------------------------------

  /**
   * Calls `listener` with every delta that is committed, by whomever, in order. Changes of other connections are delivered when
   * this object is used next, or `poll` is called. Returns a function that ends it.
   */
  onDelta(listener: DeltaListener, options?: SubscribeOptions): () => void {
    return this.#feed.subscribe(listener, options);
  }

  /** Delivers what others have committed. */
  poll(): void {
    this.#committed();
  }

  // ---- whole databases, and parts of the log -------------------------------------------------------------------------

  /** The database as the bytes of an SQLite file. */
  export(): Uint8Array {
    return readDatabase(this.#connection);
  }

  /**
   * Replaces the database by one that `export` gave, or by any SQLite file that has the same table. If it has not, or is
   * damaged, nothing changes.
   */
  import(bytes: Uint8Array): void {
    checkBytes('import', bytes);
    if (!isDatabaseFile(bytes)) throw new DeltaVectorsError('foreign-file', 'import: the bytes are not an SQLite database');
    if (this.#connection.isInTransaction) throw new DeltaVectorsError('busy', 'import: there is an open transaction');
    this.#write(() => replaceDatabase(this.#connection, bytes, this.#options));
  }

  /** Deltas after a number, with ids and times: for `importDeltas` of another database. */
  exportDeltas(since: string | number = 0): Uint8Array {
    return this.#one('exportDeltas', [seqOf(since, 'since')]) as Uint8Array;
  }

  /** Applies what `exportDeltas` gave: all of it or nothing. Twice is once. */
  importDeltas(bytes: Uint8Array): ImportStats {
    checkBytes('importDeltas', bytes);
    if (bytes.length < 3 || bytes[0] !== 0x7a || bytes[1] !== 0xde) {
      throw new DeltaVectorsError('foreign-file', 'importDeltas: the bytes are not what exportDeltas gives');
    }
    return this.#write(() => JSON.parse(String(this.#one('importDeltas', [bytes]))) as ImportStats);
  }

  /** Ends subscriptions, and the connection if it is not the caller's own. */
  close(): void {
    this.#feed.end();
    if (!this.#connection.isOpen) return;
    this.#direct.release();
    this.#connection.release();
    if (this.#isOurs) this.#connection.db.close();
  }

  get isOpen(): boolean {
    return this.#connection.isOpen;
  }

  /** Runs SQL in one of its own transactions, or the caller's. @internal */
  get connection(): Connection {
    return this.#connection;
  }
}

const SEARCH_OPTIONS = ['ef', 'exact', 'recallTarget', 'maxDistance', 'asOf', 'where', 'params', 'metadata'];

/** The number of a delta, which may be given as the text that applyDelta() returns. */
function seqOf(id: string | number, what: string): number {
  const seq = /^\d+$/.test(String(id)) ? Number(id) : NaN; // Number() alone makes 0 of null and of spaces
  if (!Number.isSafeInteger(seq)) throw new DeltaVectorsError('invalid', `${what} is ${described(id)}: expected the id of a delta`);
  return seq;
}

function timeOf(time: Date, what: string): number {
  const ms = time instanceof Date ? time.getTime() : NaN;
  if (Number.isNaN(ms)) throw new DeltaVectorsError('invalid', `${what} is ${described(time)}: expected a valid Date`);
  return ms;
}

function committedDelta(row: Statement, vectorId: string, seq: number, time: number, delta: number, metadata: number): CommittedDelta {
  const number = row.integer(seq);
  const out: CommittedDelta = {
    seq: number,
    deltaId: String(number),
    vectorId,
    operation: decodeFrame(row.blob(delta)).operation,
    timestamp: new Date(row.integer(time)),
  };
  // NULL: not changed; the JSON null: there are none any more.
  if (!row.isNull(metadata)) out.metadata = (JSON.parse(row.text(metadata)) as Record<string, unknown> | null) ?? {};
  return out;
}

type Statements = ReturnType<typeof prepareAll>;

function prepareAll(connection: Connection, table: string) {
  const name = `'${table.replaceAll("'", "''")}'`;
  const sql = (text: string): Statement => connection.prepare(text);
  return {
    apply: sql(`SELECT delta_apply_batch(${name}, ?)`),
    get: sql(`SELECT vector_at(${name}, ?)`),
    getAt: sql(`SELECT vector_at(${name}, ?, ?)`),
    metadata: sql(`SELECT metadata FROM ${quoted(table)} WHERE id = ?`),
    search: sql(`SELECT id, distance, metadata FROM ${quoted(table)} WHERE vector MATCH ? AND k = ?`),
    searchIds: sql(`SELECT id, distance FROM ${quoted(table)} WHERE vector MATCH ? AND k = ?`),
    chain: sql(`SELECT seq, timestamp, delta, metadata, encoding, bytes, checkpoint FROM delta_chain(${name}, ?)`),
    log: sql(`SELECT seq, timestamp, delta, metadata, id FROM delta_log(${name}, ?) LIMIT ?`),
    rollback: sql(`SELECT delta_rollback(${name}, ?, ?)`),
    compact: sql(`SELECT delta_compact(${name}, ?)`),
    status: sql(`SELECT delta_status(${name})`),
    recall: sql(`SELECT delta_recall(${name}, ?, ?)`),
    exportDeltas: sql(`SELECT delta_export(${name}, ?)`),
    importDeltas: sql(`SELECT delta_import(${name}, ?)`),
  };
}
