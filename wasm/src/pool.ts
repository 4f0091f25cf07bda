/**
 * SharedDeltaPool: deltas on their way from the thread that makes them to the one that commits them, as binary frames in a ring.
 *
 * Where memory can be shared (crossOriginIsolated) the ring is a SharedArrayBuffer, elsewhere a few buffers that are moved
 * there and back: the same API. Nothing is dropped when it is full: `writeDelta` returns a promise then, and who awaits it
 * waits for room.
 */
import type { AsyncDeltaVectorDB } from './client.js';
import { DeltaVectorsError } from './errors.js';
import { frameBound, writeFrame } from './frame.js';
import type { Request } from './protocol.js';
import { MovedBuffers, SharedRing } from './ring.js';
import type { VectorDelta } from './types.js';

/** A database of this thread. */
interface LocalDatabase {
  applyFrames(frames: Uint8Array): { count: number };
}

export type PoolDatabase = AsyncDeltaVectorDB | LocalDatabase;

/** A batch is at most this part of the ring, so that the worker has something to do while more is written. */
const PARTS = 4;
let lastNumber = 0;

export class SharedDeltaPool {
  readonly #pieceBytes: number;
  readonly #ring: SharedRing | MovedBuffers;
  readonly #number = ++lastNumber;
  #database: PoolDatabase | undefined;
  /** Batches between two flushes: behind one that failed none of them is applied. */
  #stream = ++lastNumber;
  #underWay = 0;
  #committed = 0;
  #failure: DeltaVectorsError | undefined;
  #waiting: (() => void)[] = [];

  /** @param capacity bytes of the ring; a frame must fit into a quarter of it */
  constructor(capacity = 1024 * 1024) {
    if (!Number.isSafeInteger(capacity) || capacity < 4096 || capacity > 1 << 30) {
      throw new DeltaVectorsError('invalid', `the capacity of the pool is ${String(capacity)}: expected 4096 to ${1 << 30} bytes`);
    }
    this.#pieceBytes = Math.floor(capacity / PARTS);
    this.#ring = canShareMemory() ? new SharedRing(capacity, this.#pieceBytes) : new MovedBuffers(this.#pieceBytes, PARTS);
  }

  /** The ring is shared memory. */
  get isShared(): boolean {
    return this.#ring instanceof SharedRing;
  }

  /** Says which database the deltas are for; `flush` does it too. */
  attach(database: PoolDatabase): void {
    if (this.#database === database) return;
    if (this.#database) throw new DeltaVectorsError('invalid', 'the pool belongs to another database already');
    this.#database = database;
    if (this.#ring instanceof SharedRing && !isLocal(database)) {
      database.post({ kind: 'ring', ring: this.#number, buffer: this.#ring.buffer });
    }
  }

  /** Puts a delta into the ring; false if there is no room for it now. Throws if the delta is not one. */
  tryWrite(delta: VectorDelta): boolean {
    const bound = frameBound(delta);
    if (bound > this.#pieceBytes) {
      throw new DeltaVectorsError(
        'invalid',
        `the delta of row '${delta.vectorId}' may take ${bound} bytes, more than a quarter of the pool: its capacity must be at least ${bound * PARTS}`,
      );
    }
    let at = this.#ring.reserve(bound);
    if (at < 0) {
      this.send();
      at = this.#ring.reserve(bound);
    }
    if (at < 0) return false;
    this.#ring.wrote(writeFrame(delta, this.#ring.bytes, at));
    return true;
  }

  /**
   * Puts a delta into the ring. Usually returns nothing; a promise when there is no room, which resolves when the delta is in.
   * Await it before the next call, or the order is lost.
   */
  writeDelta(delta: VectorDelta): void | Promise<void> {
    if (this.#failure) throw this.#failure;
    if (!this.tryWrite(delta)) return this.#writeLater(delta);
  }

  async #writeLater(delta: VectorDelta): Promise<void> {
    do {
      if (!this.#database) {
        throw new DeltaVectorsError('busy', 'the pool is full and has no database to commit to: call attach(db) or flush(db)');
      }
      await this.#progress();
      if (this.#failure) throw this.#failure;
    } while (!this.tryWrite(delta));
  }

  /** What is in the ring goes to the database as one transaction; without waiting for it. */
  send(): void {
    const database = this.#database;
    if (!database) return;
    const sent = isLocal(database) ? this.#applyHere(database) : this.#sendToWorker(database);
    if (!sent) return;
    const stream = this.#stream;
    this.#underWay++;
    sent.then(
      (count) => this.#done(count),
      (thrown: unknown) => this.#done(0, stream === this.#stream ? DeltaVectorsError.from(thrown) : undefined),
    );
  }

  #applyHere(database: LocalDatabase): Promise<number> | undefined {
    const ring = this.#ring;
    try {
      if (ring instanceof SharedRing) {
        const batch = ring.take();
        if (!batch) return undefined;
        SharedRing.release(ring.buffer); // this thread writes no more until it has been read
        return Promise.resolve(this.#applyUnlessFailed(database, SharedRing.read(ring.buffer, batch)));
      }
      const batch = ring.take();
      if (!batch) return undefined;
      ring.giveBack(batch.buffer);
      return Promise.resolve(this.#applyUnlessFailed(database, new Uint8Array(batch.buffer, 0, batch.length)));
    } catch (thrown) {
      this.#failure ??= DeltaVectorsError.from(thrown);
      return Promise.resolve(0);
    }
  }

  #applyUnlessFailed(database: LocalDatabase, frames: Uint8Array): number {
    return this.#failure ? 0 : database.applyFrames(frames).count;
  }

  #sendToWorker(database: AsyncDeltaVectorDB): Promise<number> | undefined {
    const stream = this.#stream;
    const ring = this.#ring;
    if (ring instanceof SharedRing) {
      const batch = ring.take();
      return batch && database.request<number>((id): Request => ({ kind: 'batch', id, ring: this.#number, stream, ...batch }));
    }
    const batch = ring.take();
    if (!batch) return undefined;
    return database
      .request<{ count: number; buffer: ArrayBuffer }>((id): Request => ({ kind: 'frames', id, stream, ...batch }), [batch.buffer])
      .then(
        ({ count, buffer }) => (ring.giveBack(buffer), count),
        (thrown: unknown) => {
          ring.giveBack();
          throw thrown;
        },
      );
  }

  #done(count: number, failure?: DeltaVectorsError): void {
    this.#underWay--;
    this.#committed += count;
    if (failure) this.#failure ??= failure;
    for (const wake of this.#waiting.splice(0)) wake();
  }

  /** The next answer of the worker. */
  #progress(): Promise<void> {
    if (this.#underWay === 0) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /**
   * Resolves when everything that was written is committed, with the number of deltas since the last flush. If a batch could not be
   * committed it rejects, `committed` being the number before that; that batch and those behind it are not applied.
   */
  async flush(database?: PoolDatabase): Promise<number> {
    if (database) this.attach(database);
    if (!this.#database) throw new DeltaVectorsError('invalid', 'flush needs a database: flush(db)');
    this.send();
    while (this.#underWay > 0) await this.#progress();
    const committed = this.#committed;
    const failure = this.#failure;
    this.#committed = 0;
    this.#failure = undefined;
    this.#stream = ++lastNumber;
    if (!failure) return committed;
    throw new DeltaVectorsError(failure.code, failure.message, {
      committed,
      cause: failure,
      ...(failure.sqliteCode !== undefined && { sqliteCode: failure.sqliteCode }),
    });
  }
}

function canShareMemory(): boolean {
  return typeof SharedArrayBuffer !== 'undefined' && (globalThis as { crossOriginIsolated?: boolean }).crossOriginIsolated !== false;
}

function isLocal(database: PoolDatabase): database is LocalDatabase {
  return !('request' in database);
}
