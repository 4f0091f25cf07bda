/**
 * The one error class of the package. `code` is for programs, `message` for people; a message that comes from SQLite or
 * from the extension is passed on as it is.
 */
export type ErrorCode =
  /** `loadDeltaVectors` was not called for this sqlite3 object. */
  | 'not-loaded'
  /** This build of sqlite-wasm lacks functions that the extension needs; the message lists them. */
  | 'unsupported-sqlite'
  /** The extension's WebAssembly module could not be fetched, or is not one. */
  | 'wasm-unavailable'
  /** An argument, option, delta or vector that is not right. Nothing was changed. */
  | 'invalid'
  /** A `create` of a row that exists. Nothing was changed. */
  | 'exists'
  /** Another connection is writing, or holds the database. Nothing was changed; try again. */
  | 'busy'
  /** The storage is held by something that is not this package: another page's own pool, an old tab that hangs. */
  | 'pool-busy'
  /** The browser has no origin private file system here (private window, old browser, page without a secure origin). */
  | 'no-opfs'
  /** The origin's storage is full. The transaction was rolled back; the database is as it was before it. */
  | 'quota-exceeded'
  /** The bytes given to `import` or `importDeltas` are not what they should be. Nothing was changed. */
  | 'foreign-file'
  /** The database file does not hold together. */
  | 'corrupt'
  | 'out-of-memory'
  /** The caller's AbortSignal. What was committed before stays. */
  | 'aborted'
  /** The database was closed. */
  | 'closed'
  /** The worker could not start, or died. */
  | 'worker-failed'
  /** Anything else that SQLite reports. */
  | 'sql';

/** What crosses a thread: a structured clone loses the class of an error and its own fields. */
export interface ErrorData {
  readonly code: ErrorCode;
  readonly message: string;
  readonly sqliteCode?: number;
  readonly committed?: number;
}

export class DeltaVectorsError extends Error {
  override readonly name = 'DeltaVectorsError';
  readonly code: ErrorCode;
  /** SQLite's extended result code, if SQLite reported it. */
  readonly sqliteCode?: number;
  /** Of a stream that failed on its way: how many deltas had been committed before. */
  readonly committed?: number;

  constructor(code: ErrorCode, message: string, details: { sqliteCode?: number; committed?: number; cause?: unknown } = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    if (details.sqliteCode !== undefined) this.sqliteCode = details.sqliteCode;
    if (details.committed !== undefined) this.committed = details.committed;
  }

  /** @internal */
  toData(): ErrorData {
    return {
      code: this.code,
      message: this.message,
      ...(this.sqliteCode !== undefined && { sqliteCode: this.sqliteCode }),
      ...(this.committed !== undefined && { committed: this.committed }),
    };
  }

  /** @internal */
  static fromData(data: ErrorData): DeltaVectorsError {
    const { code, message, ...details } = data;
    return new DeltaVectorsError(code, message, details);
  }

  /** Any thrown thing as one of these. @internal */
  static from(thrown: unknown, code: ErrorCode = 'sql'): DeltaVectorsError {
    if (thrown instanceof DeltaVectorsError) return thrown;
    const message = thrown instanceof Error ? thrown.message : String(thrown);
    return new DeltaVectorsError(isQuota(thrown) ? 'quota-exceeded' : code, message, { cause: thrown });
  }
}

/** What somebody gave, for a message: texts in quotes, objects by their class. @internal */
export function described(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value);
  if (typeof value === 'function') return 'a function';
  if (typeof value !== 'object' || value === null || value instanceof Date) return String(value);
  const name = (value as { constructor?: { name?: string } }).constructor?.name || 'Object';
  return `${/^[AEIO]/.test(name) ? 'an' : 'a'} ${name}`;
}

/** @internal */
export function badOption(name: string, value: unknown, expected: string): DeltaVectorsError {
  return new DeltaVectorsError('invalid', `option ${name} is ${described(value)}: expected ${expected}`);
}

/** @internal */
export function checkListener(listener: unknown): void {
  if (typeof listener !== 'function') throw new DeltaVectorsError('invalid', `onDelta was given ${described(listener)}: expected a function`);
}

/** Ids are texts; what JavaScript makes of anything else would be another row's. @internal */
export function checkId(vectorId: unknown): void {
  if (typeof vectorId !== 'string') throw new DeltaVectorsError('invalid', `vectorId is ${described(vectorId)}: expected a string`);
}

/** Options that would be overlooked. @internal */
export function checkOptions(what: string, given: object, known: readonly string[]): void {
  const name = Object.keys(given).find((name) => !known.includes(name));
  if (name !== undefined) throw new DeltaVectorsError('invalid', `${what} has no option ${name}; the options are ${known.join(', ')}`);
}

/** Whole databases, and parts of the log. @internal */
export function checkBytes(what: string, bytes: unknown): void {
  if (!(bytes instanceof Uint8Array)) throw new DeltaVectorsError('invalid', `${what} was given ${described(bytes)}: expected a Uint8Array`);
}

/** @internal */
export function checkDeltas(deltas: unknown): void {
  if (!Array.isArray(deltas)) throw new DeltaVectorsError('invalid', `deltas is ${described(deltas)}: expected an array of deltas`);
}

/** @internal */
export function isQuota(thrown: unknown): boolean {
  // Chromium's handles of files throw it under this name; newer ones as a class of that name.
  return thrown instanceof Error && (thrown.name === 'QuotaExceededError' || /no space available/i.test(thrown.message));
}

const SQLITE_CODES: Readonly<Record<number, ErrorCode>> = {
  1: 'invalid', // SQLITE_ERROR: what the extension says of an argument
  5: 'busy',
  6: 'busy', // SQLITE_LOCKED
  7: 'out-of-memory',
  11: 'corrupt',
  13: 'quota-exceeded', // SQLITE_FULL
  19: 'exists', // SQLITE_CONSTRAINT
  26: 'foreign-file', // SQLITE_NOTADB
};

/** The error for a result code of SQLite's. @internal */
export function sqliteError(extendedCode: number, message: string): DeltaVectorsError {
  return new DeltaVectorsError(SQLITE_CODES[extendedCode & 0xff] ?? 'sql', message, { sqliteCode: extendedCode });
}
