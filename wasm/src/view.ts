/** Vectors where they lie in SQLite's memory: the one thing that goes past SQL. The other half is wasm/c/view.c. */
import type { Extension } from './loader.js';
import type { Connection } from './sqlite.js';

export class View {
  readonly #connection: Connection;
  readonly #extension: Extension;
  readonly #handle: number;
  /** The table's name, in memory of its own. */
  #table: number;
  readonly #isAlone: number;
  readonly #dimensions: number;

  /** @param isAlone no other connection writes to the database */
  constructor(connection: Connection, extension: Extension, table: string, dimensions: number, isAlone: boolean) {
    this.#connection = connection;
    this.#extension = extension;
    this.#handle = extension.exports['dv_view_open']!(connection.pointer);
    this.#isAlone = isAlone ? 1 : 0;
    this.#dimensions = dimensions;
    const name = new TextEncoder().encode(table + '\0');
    this.#table = connection.sqlite3.wasm.alloc(name.length);
    connection.bytes.set(name, this.#table);
  }

  /** The current vector; null if there is no such row, undefined if it could not be read: then a statement says why. */
  vector(vectorId: string): Float32Array | null | undefined {
    const c = this.#connection;
    return c.run(() => {
      const id = c.putText(vectorId);
      const at = this.#extension.exports['dv_view_vector']!(this.#handle, this.#table, id.at, id.length, this.#isAlone);
      if (at === 0) return null;
      return at === 1 ? undefined : new Float32Array(c.bytes.buffer, at, this.#dimensions);
    });
  }

  release(): void {
    this.#connection.sqlite3.wasm.dealloc(this.#table);
    this.#table = 0;
  }
}
