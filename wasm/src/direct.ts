/**
 * What goes past SQL, since it is called most and a statement costs more than it does: vectors where they lie in SQLite's memory,
 * and deltas one at a time. The other half is wasm/c/direct.c.
 */
import { checkId, DeltaVectorsError, sqliteError } from './errors.js';
import { kindOf, payloadBound, writePayload } from './frame.js';
import type { Extension } from './loader.js';
import type { BoundBytes, Connection } from './sqlite.js';
import type { VectorDelta } from './types.js';

type Native = (...args: number[]) => number;

/** dvx_direct_facts */
const FACTS_BYTES = 24;

export class Direct {
  readonly #connection: Connection;
  readonly #handle: number;
  /** The table's name, in memory of its own. */
  #table: number;
  readonly #isAlone: number;
  readonly #dimensions: number;
  readonly #vector: Native;
  readonly #apply: Native;
  readonly #applyFrames: Native;
  readonly #describe: Native;
  readonly #error: Native;

  /** @param isAlone no other connection writes to the database */
  constructor(connection: Connection, extension: Extension, table: string, dimensions: number, isAlone: boolean) {
    this.#connection = connection;
    this.#vector = extension.exports['dv_direct_vector']!;
    this.#apply = extension.exports['dv_direct_apply']!;
    this.#applyFrames = extension.exports['dv_direct_apply_frames']!;
    this.#describe = extension.exports['dv_direct_describe']!;
    this.#error = extension.exports['dv_direct_error']!;
    this.#handle = extension.exports['dv_direct_open']!(connection.pointer);
    this.#isAlone = isAlone ? 1 : 0;
    this.#dimensions = dimensions;
    const name = new TextEncoder().encode(table + '\0');
    this.#table = connection.sqlite3.wasm.alloc(name.length);
    connection.bytes.set(name, this.#table);
  }

  /** The current vector where it lies; null if there is no such row, undefined if it could not be read: then a statement says why. */
  view(vectorId: string): Float32Array | null | undefined {
    const at = this.#find(vectorId);
    return at > 1 ? new Float32Array(this.#connection.floats.buffer, at, this.#dimensions) : at === 0 ? null : undefined;
  }

  /** A copy of it. */
  vector(vectorId: string): Float32Array | null | undefined {
    const at = this.#find(vectorId);
    return at > 1 ? this.#connection.floats.slice(at >> 2, (at >> 2) + this.#dimensions) : at === 0 ? null : undefined;
  }

  #find(vectorId: string): number {
    checkId(vectorId);
    const c = this.#connection;
    return c.run(() => {
      const id = c.putText(vectorId);
      return this.#vector(this.#handle, this.#table, id.at, id.length, this.#isAlone);
    });
  }

  /** Applies a delta without metadata or time. Its number. */
  apply(delta: VectorDelta): number {
    const c = this.#connection;
    return c.run(() => {
      const kind = kindOf(delta);
      const id = c.putText(delta.vectorId);
      const payload = this.#payload(delta);
      const seq = this.#apply(this.#handle, this.#table, id.at, id.length, kind, payload.at, payload.length, this.#isAlone);
      if (seq < 0) throw this.#failure(-seq);
      return seq;
    });
  }

  #payload(delta: VectorDelta): BoundBytes {
    const c = this.#connection;
    const { operation } = delta;
    if (operation.type === 'create' || operation.type === 'dense') return c.putBytes(operation.vector);
    const at = c.reserve(payloadBound(delta));
    return { at, length: writePayload(delta, c.bytes, at) - at };
  }

  /** Applies frames that lie in SQLite's memory, one behind the other, as writeUnsealed() makes them. The number of the first. Inside c.run(). */
  applyFrames(at: number, length: number): number {
    const first = this.#applyFrames(this.#handle, this.#table, at, length, this.#isAlone);
    if (first < 0) throw this.#failure(-first);
    return first;
  }

  /** What the table is. */
  describe(): { dimensions: number; metric: string; lastSeq: number } {
    const c = this.#connection;
    return c.run(() => {
      const at = c.reserve(FACTS_BYTES);
      const code = this.#describe(this.#handle, this.#table, at);
      if (code !== 0) throw this.#failure(code);
      const facts = new DataView(c.bytes.buffer, at, FACTS_BYTES);
      return { dimensions: facts.getFloat64(0, true), lastSeq: facts.getFloat64(8, true), metric: c.string(facts.getUint32(16, true)) };
    });
  }

  #failure(code: number): DeltaVectorsError {
    const c = this.#connection;
    const at = this.#error(this.#handle);
    const message = c.string(at || c.native['sqlite3_errstr']!(code));
    if (at) c.native['sqlite3_free']!(at);
    return sqliteError(code, message);
  }

  release(): void {
    this.#connection.sqlite3.wasm.dealloc(this.#table);
    this.#table = 0;
  }
}
