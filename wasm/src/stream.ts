/** Streams of deltas into a database, in batches, each of them one transaction. */
import { DeltaVectorsError } from './errors.js';
import { SharedDeltaPool, type PoolDatabase } from './pool.js';
import type { VectorDelta } from './types.js';

export interface StreamOptions {
  /** Deltas a batch. 1000. */
  batchSize?: number;
  /** A batch waits for more no longer than this. 20. */
  batchMs?: number;
  /** Bytes of the pool. */
  poolSize?: number;
}

const BATCH_SIZE = 1000;
const BATCH_MS = 20;

export class DeltaStreamProcessor {
  readonly #database: PoolDatabase;
  readonly #pool: SharedDeltaPool;
  readonly #batchSize: number;
  readonly #batchMs: number;
  #isStreaming = false;

  constructor(database: PoolDatabase, options: StreamOptions = {}) {
    this.#database = database;
    this.#batchSize = options.batchSize ?? BATCH_SIZE;
    this.#batchMs = options.batchMs ?? BATCH_MS;
    if (!(this.#batchSize >= 1)) throw new DeltaVectorsError('invalid', `option batchSize is ${this.#batchSize}: expected 1 or more`);
    if (!(this.#batchMs >= 0)) throw new DeltaVectorsError('invalid', `option batchMs is ${this.#batchMs}: expected 0 or more`);
    this.#pool = new SharedDeltaPool(options.poolSize);
    this.#pool.attach(database);
  }

  /**
   * Commits all deltas of the iterable, in order. Resolves with their number when all of them are committed.
   *
   * If it fails, or the signal aborts, what was taken from the iterable before that and could be committed is, and the error's
   * `committed` says how many deltas that is. The iterable is closed.
   */
  async streamDeltas(deltas: AsyncIterable<VectorDelta> | Iterable<VectorDelta>, options: { signal?: AbortSignal } = {}): Promise<number> {
    if (this.#isStreaming) throw new DeltaVectorsError('busy', 'this processor is streaming already: make another one');
    this.#isStreaming = true;
    // Deltas that come slowly are committed all the same.
    const timer = setInterval(() => this.#pool.send(), this.#batchMs);
    try {
      return await this.#stream(deltas, options.signal);
    } finally {
      clearInterval(timer);
      this.#isStreaming = false;
    }
  }

  async #stream(deltas: AsyncIterable<VectorDelta> | Iterable<VectorDelta>, signal: AbortSignal | undefined): Promise<number> {
    let inBatch = 0;
    let failure: unknown;
    try {
      for await (const delta of untilAborted(deltas, signal)) {
        const wait = this.#pool.writeDelta(delta);
        if (wait) await wait;
        if (++inBatch >= this.#batchSize) {
          this.#pool.send();
          inBatch = 0;
        }
      }
    } catch (thrown) {
      failure = thrown;
    }
    if (failure === undefined && !signal?.aborted) return this.#pool.flush(this.#database);
    let committed: number;
    try {
      committed = await this.#pool.flush(this.#database);
    } catch (thrown) {
      throw thrown instanceof DeltaVectorsError && thrown.committed !== undefined ? thrown : failure;
    }
    if (failure === undefined) throw new DeltaVectorsError('aborted', 'the stream was aborted', { committed, cause: signal!.reason });
    const error = DeltaVectorsError.from(failure, 'invalid');
    throw new DeltaVectorsError(error.code, error.message, { committed, cause: failure });
  }
}

/** The same, ended by the signal, also while it waits for the next one. */
async function* untilAborted<T>(items: AsyncIterable<T> | Iterable<T>, signal: AbortSignal | undefined): AsyncGenerator<T> {
  if (!signal) {
    yield* items;
    return;
  }
  let abort!: () => void;
  const aborted = new Promise<'aborted'>((resolve) => (abort = () => resolve('aborted')));
  signal.addEventListener('abort', abort);
  const iterator = Symbol.asyncIterator in items ? items[Symbol.asyncIterator]() : items[Symbol.iterator]();
  try {
    while (!signal.aborted) {
      const next = await Promise.race([iterator.next(), aborted]);
      if (next === 'aborted' || next.done) return;
      yield next.value;
    }
  } finally {
    signal.removeEventListener('abort', abort);
    // Not awaited: one that hangs would hang us.
    void Promise.resolve(iterator.return?.()).catch(() => {});
  }
}
