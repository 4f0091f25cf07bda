/// <reference lib="esnext.disposable" preserve="true" />
/** The public surface. */
import { AsyncDeltaVectorDB, type OpenOptions } from './client.js';
import { DatabaseCore } from './database.js';

/**
 * A vector database whose changes are deltas. `new DeltaVectorDB(sqlite3)` is synchronous, in this thread: in a worker, in Node.
 * `await DeltaVectorDB.open()` is for pages: the same methods, returning promises, with the data kept by the browser.
 */
export class DeltaVectorDB extends DatabaseCore {
  static open(options?: OpenOptions): Promise<AsyncDeltaVectorDB> {
    return AsyncDeltaVectorDB.open(options);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

export { AsyncDeltaVectorDB, type OpenOptions } from './client.js';
export type { AtOnce, DatabaseOptions } from './database.js';
export { DeltaVectorsError, type ErrorCode } from './errors.js';
export { decodeFrame, encodeFrame, type DecodedFrame } from './frame.js';
export { loadDeltaVectors, type Loaded, type LoadOptions, type Variant } from './loader.js';
export { SharedDeltaPool, type PoolDatabase } from './pool.js';
export type { DatabaseInfo, StorageInfo, StorageKind } from './protocol.js';
export type { Sqlite3, Sqlite3Database } from './sqlite.js';
export { DeltaStreamProcessor, type StreamOptions } from './stream.js';
export type {
  ChainEntry,
  CommittedDelta,
  CompactionStats,
  CompactOptions,
  DeltaChain,
  DeltaDBOptions,
  DeltaListener,
  DeltaOperation,
  ImportStats,
  Metric,
  SearchOptions,
  SearchResult,
  Status,
  SubscribeOptions,
  VectorDelta,
} from './types.js';
