/**
 * What this package uses of sqlite-wasm, as types, and a thin layer of prepared statements over its exports.
 *
 * The layer exists because of speed: binding and reading through the package's own object API takes about ten times as long
 * as a change of a vector. It keeps one rule: between `begin` and the end of a call nothing else of this object runs, so
 * that memory bound to a statement stays where it is. Code that SQLite calls back into and that calls this object again
 * gets an error.
 */
import { badOption, DeltaVectorsError, sqliteError } from './errors.js';

type Pointer = number;
/** An exported function of sqlite3.wasm. */
type Native = (...args: (number | bigint)[]) => number;

/** The part of the object that `sqlite3InitModule()` of @sqlite.org/sqlite-wasm resolves with that is used here. */
export interface Sqlite3 {
  readonly version: { readonly libVersion: string };
  readonly wasm: {
    readonly memory?: WebAssembly.Memory;
    readonly exports: object;
    alloc(bytes: number): Pointer;
    dealloc(pointer: Pointer): void;
    functionTable(): WebAssembly.Table;
    heap8u(): Uint8Array;
  };
  readonly oo1: { readonly DB: new (...args: never[]) => Sqlite3Database };
  readonly capi: object;
}

/** The part of a connection (`sqlite3.oo1.DB` and its subclasses) that is used here. */
export interface Sqlite3Database {
  readonly pointer?: Pointer | undefined;
  readonly filename: string;
  exec(sql: string, options?: object): unknown;
  close(): void;
}

/** The exports by name; every one of them was checked when the extension was loaded. @internal */
export function nativesOf(sqlite3: Sqlite3): Record<string, Native> {
  return sqlite3.wasm.exports as Record<string, Native>;
}

/** A memory that can grow, and so changes its buffer. */
function memoryOf(sqlite3: Sqlite3): WebAssembly.Memory {
  return sqlite3.wasm.memory ?? (sqlite3.wasm.exports as { memory: WebAssembly.Memory }).memory;
}

const OK = 0;
const ROW = 100;
const DONE = 101;
const PREPARE_PERSISTENT = 1;
const STATIC = 0;
/** [option, value] */
const DBCONFIG_DEFENSIVE = [1010, 1];
const DBCONFIG_NO_TRUSTED_SCHEMA = [1017, 0];

const ARENA_BYTES = 1 << 16;
/** An arena that one large call has made grow is not kept. */
const ARENA_KEPT_BYTES = 1 << 20;

export type Bindable = string | number | bigint | null | Float32Array | Uint8Array | BoundBytes;
export type Row = (string | number | bigint | null | Uint8Array)[];

/** Bytes that are in the arena already. */
export interface BoundBytes {
  readonly at: Pointer;
  readonly length: number;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** @internal */
export class Connection {
  readonly sqlite3: Sqlite3;
  readonly native: Record<string, Native>;
  readonly db: Sqlite3Database;
  readonly pointer: Pointer;
  readonly #memory: WebAssembly.Memory;
  #bytes: Uint8Array;
  #floats: Float32Array;
  #arena: Pointer;
  #arenaBytes = ARENA_BYTES;
  #arenaUsed = 0;
  /** Arenas that became too small during this call: what lies in them may be bound. */
  #outgrown: Pointer[] = [];
  #isBusy = false;
  readonly #statements = new Set<Statement>();

  constructor(sqlite3: Sqlite3, db: Sqlite3Database) {
    if (typeof db !== 'object' || db === null || !('pointer' in db)) {
      throw badOption('database', db, "a connection, such as new sqlite3.oo1.DB(':memory:')");
    }
    if (db.pointer === undefined) throw new DeltaVectorsError('closed', 'the SQLite connection is closed');
    this.sqlite3 = sqlite3;
    this.native = nativesOf(sqlite3);
    this.db = db;
    this.pointer = db.pointer;
    this.#memory = memoryOf(sqlite3);
    this.#bytes = new Uint8Array(this.#memory.buffer);
    this.#floats = new Float32Array(this.#memory.buffer);
    this.#arena = sqlite3.wasm.alloc(ARENA_BYTES);
  }

  get isOpen(): boolean {
    return this.db.pointer === this.pointer;
  }

  /** For connections of our own: SQL cannot write to shadow tables, and what is in a file's schema is not trusted. */
  harden(): void {
    for (const option of [DBCONFIG_DEFENSIVE, DBCONFIG_NO_TRUSTED_SCHEMA]) {
      this.native['sqlite3__wasm_db_config_ip']!(this.pointer, option[0]!, option[1]!, 0);
    }
  }

  get isInTransaction(): boolean {
    return this.native['sqlite3_get_autocommit']!(this.pointer) === 0;
  }

  /** All of the wasm memory, as it is now. */
  get bytes(): Uint8Array {
    if (this.#bytes.length === 0) this.#look();
    return this.#bytes;
  }

  get floats(): Float32Array {
    if (this.#floats.length === 0) this.#look();
    return this.#floats;
  }

  /** Memory that has grown has another buffer; the old one, and views of it, are empty. (To ask memory for its buffer takes longer.) */
  #look(): void {
    this.#bytes = new Uint8Array(this.#memory.buffer);
    this.#floats = new Float32Array(this.#memory.buffer);
  }

  /** Runs `work`, which may bind and step statements of this connection, and releases what it has put into the arena. */
  run<T>(work: () => T): T {
    if (!this.isOpen) throw new DeltaVectorsError('closed', 'the database is closed');
    if (this.#isBusy) {
      throw new DeltaVectorsError('busy', 'the database is in the middle of a call: a function that SQLite calls cannot call it again');
    }
    this.#isBusy = true;
    try {
      return work();
    } finally {
      this.#isBusy = false;
      this.#arenaUsed = 0;
      if (this.#outgrown.length > 0) this.#releaseOutgrown();
    }
  }

  #releaseOutgrown(): void {
    for (const arena of this.#outgrown) this.sqlite3.wasm.dealloc(arena);
    this.#outgrown = [];
    if (this.#arenaBytes > ARENA_KEPT_BYTES) {
      this.sqlite3.wasm.dealloc(this.#arena);
      this.#arena = this.sqlite3.wasm.alloc(ARENA_BYTES);
      this.#arenaBytes = ARENA_BYTES;
    }
  }

  /** `n` bytes that stay where they are until the end of `run`; aligned to 8. */
  reserve(n: number): Pointer {
    const size = (n + 7) & ~7;
    if (this.#arenaUsed + size > this.#arenaBytes) {
      let capacity = this.#arenaBytes * 2;
      while (capacity < size) capacity *= 2;
      let arena: Pointer;
      try {
        arena = this.sqlite3.wasm.alloc(capacity);
      } catch (thrown) {
        throw new DeltaVectorsError('out-of-memory', `there is no memory for ${n} bytes`, { cause: thrown });
      }
      this.#outgrown.push(this.#arena);
      this.#arena = arena;
      this.#arenaBytes = capacity;
      this.#arenaUsed = 0;
    }
    const at = this.#arena + this.#arenaUsed;
    this.#arenaUsed += size;
    return at;
  }

  /** A text in UTF-8, in the arena. */
  putText(text: string): BoundBytes {
    const at = this.reserve(text.length * 3);
    const bytes = this.bytes;
    for (let i = 0; i < text.length; i++) {
      const c = text.charCodeAt(i);
      if (c >= 128) return { at, length: encoder.encodeInto(text, bytes.subarray(at, at + text.length * 3)).written };
      bytes[at + i] = c;
    }
    return { at, length: text.length };
  }

  putBytes(data: Float32Array | Uint8Array): BoundBytes {
    const at = this.reserve(data.byteLength);
    if (data instanceof Float32Array && (at & 3) === 0) {
      this.floats.set(data, at >> 2);
    } else {
      this.bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
    }
    return { at, length: data.byteLength };
  }

  prepare(sql: string): Statement {
    const statement = new Statement(this, sql);
    this.#statements.add(statement);
    return statement;
  }

  /** One statement, once; the first column of its first row. */
  value(sql: string, ...values: Bindable[]): string | number | bigint | null | Uint8Array | undefined {
    const statement = this.prepare(sql);
    try {
      return this.run(() => {
        const row = statement.bind(values).step() ? statement.column(0) : undefined;
        statement.reset();
        return row;
      });
    } finally {
      statement.finalize();
    }
  }

  /** Any number of statements, without results. */
  exec(sql: string): void {
    this.run(() => {
      const text = this.putText(sql + '\0');
      if (this.native['sqlite3_exec']!(this.pointer, text.at, 0, 0, 0) !== OK) throw this.error();
    });
  }

  /** In a transaction; inside the caller's one, in a savepoint. Changes nothing if `work` throws. */
  transaction<T>(work: () => T): T {
    const isNested = this.isInTransaction;
    this.exec(isNested ? 'SAVEPOINT delta_vectors' : 'BEGIN IMMEDIATE');
    try {
      const result = work();
      if (result instanceof Promise) {
        result.catch(() => {});
        throw new DeltaVectorsError('invalid', 'what is done in a transaction returned a Promise: what it waits for would come behind the commit');
      }
      this.exec(isNested ? 'RELEASE delta_vectors' : 'COMMIT');
      return result;
    } catch (thrown) {
      // After some failures (a full disk, no memory) SQLite has rolled back by itself.
      if (this.isOpen && this.isInTransaction) {
        this.exec(isNested ? 'ROLLBACK TO delta_vectors; RELEASE delta_vectors' : 'ROLLBACK');
      }
      throw thrown;
    }
  }

  /** The connection's last error. */
  error(): DeltaVectorsError {
    const code = this.native['sqlite3_extended_errcode']!(this.pointer);
    return sqliteError(code, this.string(this.native['sqlite3_errmsg']!(this.pointer)));
  }

  /** The text that begins there and ends with a zero byte. */
  string(at: Pointer): string {
    const bytes = this.bytes;
    let end = at;
    while (bytes[end]) end++;
    return decoder.decode(bytes.slice(at, end));
  }

  /** @internal */
  forget(statement: Statement): void {
    this.#statements.delete(statement);
  }

  /** Finalizes what is prepared. The SQLite connection itself stays open. */
  release(): void {
    for (const statement of [...this.#statements]) statement.finalize();
    if (this.#arena) this.sqlite3.wasm.dealloc(this.#arena);
    this.#arena = 0;
    this.#arenaBytes = 0;
  }
}

/** A prepared statement, made at its first use. All calls between `bind` and `reset` are inside one `Connection.run`. @internal */
export class Statement {
  readonly #connection: Connection;
  readonly #sql: string;
  #pointer: Pointer = 0;

  constructor(connection: Connection, sql: string) {
    this.#connection = connection;
    this.#sql = sql;
  }

  #prepare(): Pointer {
    const c = this.#connection;
    const sql = c.putText(this.#sql);
    const out = c.reserve(8);
    if (c.native['sqlite3_prepare_v3']!(c.pointer, sql.at, sql.length, PREPARE_PERSISTENT, out, 0) !== OK) throw c.error();
    const bytes = c.bytes;
    this.#pointer = (bytes[out]! | (bytes[out + 1]! << 8) | (bytes[out + 2]! << 16) | (bytes[out + 3]! << 24)) >>> 0;
    return this.#pointer;
  }

  /** How many values it wants. Inside Connection.run(). */
  get parameters(): number {
    return this.#connection.native['sqlite3_bind_parameter_count']!(this.#pointer || this.#prepare());
  }

  bind(values: readonly Bindable[]): this {
    const c = this.#connection;
    const statement = this.#pointer || this.#prepare();
    for (let i = 0; i < values.length; i++) {
      const value = values[i]!;
      let rc: number;
      if (typeof value === 'string') {
        const text = c.putText(value);
        rc = c.native['sqlite3_bind_text']!(statement, i + 1, text.at, text.length, STATIC);
      } else if (typeof value === 'number') {
        rc = Number.isSafeInteger(value)
          ? c.native['sqlite3_bind_int64']!(statement, i + 1, BigInt(value))
          : c.native['sqlite3_bind_double']!(statement, i + 1, value);
      } else if (typeof value === 'bigint') {
        rc = c.native['sqlite3_bind_int64']!(statement, i + 1, value);
      } else if (value === null) {
        rc = c.native['sqlite3_bind_null']!(statement, i + 1);
      } else {
        const blob = 'at' in value && !ArrayBuffer.isView(value) ? (value as BoundBytes) : c.putBytes(value as Uint8Array);
        rc = c.native['sqlite3_bind_blob']!(statement, i + 1, blob.at, blob.length, STATIC);
      }
      if (rc !== OK) throw c.error();
    }
    return this;
  }

  /** true: there is a row. A failure resets the statement and is thrown. */
  step(): boolean {
    const rc = this.#connection.native['sqlite3_step']!(this.#pointer);
    if (rc === ROW) return true;
    if (rc === DONE) return false;
    const error = this.#connection.error();
    this.reset();
    throw error;
  }

  reset(): void {
    this.#connection.native['sqlite3_reset']!(this.#pointer);
  }

  column(i: number): string | number | bigint | null | Uint8Array {
    const { native } = this.#connection;
    switch (native['sqlite3_column_type']!(this.#pointer, i)) {
      case 1: {
        const value = (native['sqlite3_column_int64'] as unknown as (s: number, i: number) => bigint)(this.#pointer, i);
        const number = Number(value);
        return Number.isSafeInteger(number) ? number : value;
      }
      case 2:
        return native['sqlite3_column_double']!(this.#pointer, i);
      case 3:
        return this.text(i);
      case 4:
        return this.blob(i);
      default:
        return null;
    }
  }

  isNull(i: number): boolean {
    return this.#connection.native['sqlite3_column_type']!(this.#pointer, i) === 5;
  }

  double(i: number): number {
    return this.#connection.native['sqlite3_column_double']!(this.#pointer, i);
  }

  /** Numbers of deltas and times: below 2^53. */
  integer(i: number): number {
    return this.#connection.native['sqlite3_column_double']!(this.#pointer, i);
  }

  text(i: number): string {
    const { native } = this.#connection;
    const at = native['sqlite3_column_text']!(this.#pointer, i);
    const length = native['sqlite3_column_bytes']!(this.#pointer, i);
    const bytes = this.#connection.bytes;
    if (length <= 32) {
      // Short texts, such as ids, are mostly ASCII; TextDecoder costs more than they do.
      let text = '';
      let j = at;
      for (; j < at + length && bytes[j]! < 128; j++) text += String.fromCharCode(bytes[j]!);
      if (j === at + length) return text;
    }
    return decoder.decode(bytes.slice(at, at + length));
  }

  /** A copy. */
  blob(i: number): Uint8Array {
    const { native } = this.#connection;
    const at = native['sqlite3_column_blob']!(this.#pointer, i);
    const length = native['sqlite3_column_bytes']!(this.#pointer, i);
    return this.#connection.bytes.slice(at, at + length);
  }

  /** A copy of a vector; null if the column is NULL. */
  vector(i: number): Float32Array | null {
    const { native } = this.#connection;
    const at = native['sqlite3_column_blob']!(this.#pointer, i);
    if (at === 0) return null;
    const length = native['sqlite3_column_bytes']!(this.#pointer, i);
    const { bytes } = this.#connection;
    const out = new Float32Array(length >> 2);
    if (at & 3) new Uint8Array(out.buffer).set(bytes.subarray(at, at + length));
    else out.set(this.#connection.floats.subarray(at >> 2, (at + length) >> 2));
    return out;
  }

  finalize(): void {
    if (this.#pointer && this.#connection.isOpen) this.#connection.native['sqlite3_finalize']!(this.#pointer);
    this.#pointer = 0;
    this.#connection.forget(this);
  }
}
