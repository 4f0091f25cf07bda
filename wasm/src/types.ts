/** The public types. Names and defaults are those of ADR-DB-008, which this package carries out. */

/** A change of one vector. */
export interface VectorDelta {
  /** Id of the row. */
  vectorId: string;
  operation: DeltaOperation;
  /** A patch of the row's metadata (RFC 7396): keys are set, keys with `null` are removed. */
  metadata?: Record<string, unknown>;
  /** By default now. Times of one row never fall. */
  timestamp?: Date;
}

export type DeltaOperation =
  /** The row begins, with this vector. An error if it exists. */
  | { type: 'create'; vector: Float32Array }
  /** Those dimensions are set. Each index once, in any order. */
  | { type: 'sparse'; indices: Uint32Array; values: Float32Array }
  /** The vector is replaced. */
  | { type: 'dense'; vector: Float32Array }
  /** Every dimension is multiplied. */
  | { type: 'scale'; factor: number }
  /** Added to every dimension. */
  | { type: 'offset'; amount: number }
  /** The row ends. Its history stays. */
  | { type: 'delete' };

/**
 * A delta that has been committed. What was written as `dense` may come back as `sparse`: deltas are stored in their smallest
 * exact form, and the two make the same vector, bit for bit.
 */
export interface CommittedDelta extends VectorDelta {
  /** Number of the delta in its table: 1, 2, 3, … in the order of the commits. */
  seq: number;
  /** The same as a text: what `applyDelta` returned. */
  deltaId: string;
  timestamp: Date;
  /** All of the row's metadata, if the delta changed them. */
  metadata?: Record<string, unknown>;
}

export interface ChainEntry extends CommittedDelta {
  /** `sparse`, `run`, `dense`, `diff`, `scalar`, `planes` or `none`: how it is stored. */
  encoding: string;
  /** Of the stored values. */
  bytes: number;
  /** A full vector is stored with it. */
  checkpoint: boolean;
}

/** What a row has been, oldest first. */
export interface DeltaChain {
  vectorId: string;
  deltas: ChainEntry[];
}

export type Metric = 'cosine' | 'l2' | 'ip' | 'l1';

export interface DeltaDBOptions {
  /** Length of the vectors. 384. */
  dimensions?: number;
  /** An insert beyond it fails. 100,000; 0: no limit. */
  maxVectors?: number;
  /** Deltas in their smallest exact form; false: as plain 32-bit floats. true. */
  compression?: boolean;
  /** A row's chain holds a full vector at least so often. 100. */
  checkpointInterval?: number;
  /** Neighbours of a row in the graph. 16. */
  hnswM?: number;
  /** Rows looked at when one is linked. 100. */
  hnswEfConstruction?: number;
  /** Rows looked at in a search. 50. */
  hnswEfSearch?: number;
  /** What near means. cosine. */
  metric?: Metric;
}

export interface SearchOptions {
  /** Rows that the graph looks at, instead of `hnswEfSearch`: more find more, and take longer. */
  ef?: number;
  /** Surely the nearest: every row is measured. */
  exact?: boolean;
  /** Searches widen until they find this part of what is right. */
  recallTarget?: number;
  /** Only rows that are not farther. */
  maxDistance?: number;
  /** The state of that time. */
  asOf?: Date;
  /** An SQL condition on `id` and `metadata`, such as `metadata ->> 'lang' = ?`; the nearest rows that pass. */
  where?: string;
  /** Values for the question marks of `where`. */
  params?: (string | number | null)[];
  /** Return the rows' metadata too. true. */
  metadata?: boolean;
}

export interface SearchResult {
  id: string;
  /** Larger is better: the cosine, the dot product, or 1 / (1 + distance). */
  score: number;
  /** Smaller is nearer. */
  distance: number;
  /** Of rows that have some. */
  metadata?: Record<string, unknown>;
}

export interface CompactOptions {
  /** What stays: `'90 days'`, `'100 versions'`, `'none'`, `'forever'`. Everything stays unless this says otherwise. */
  keep?: string;
  /** This row only. */
  vectorId?: string;
}

export interface CompactionStats {
  /** Rows that were merged. */
  rows: number;
  deltasBefore: number;
  deltasAfter: number;
  bytesBefore: number;
  bytesAfter: number;
  /** Deltas merged away. */
  merged: number;
  /** Rows whose last delta was a delete that was not to be kept. */
  removed: number;
}

export interface ImportStats {
  applied: number;
  /** Deltas that this database had already. */
  skipped: number;
}

/** See `delta_status` in docs/sql.md. */
export interface Status {
  rows: number;
  deltas: number;
  bytes: number;
  chain: { mean: number; max: number };
  fresh: number;
  settled: number;
  memory: number;
  index: 'flat' | 'hnsw';
  recall_estimate: number | null;
  last_seq: number;
  dimensions: number;
  metric: Metric;
  kernels: string;
  [key: string]: unknown;
}

export interface SubscribeOptions {
  /** Deliver from the first delta after this number on. By default only what comes from now on. 0: everything there is. */
  fromSeq?: number;
  /** Ends the subscription. */
  signal?: AbortSignal;
}

export type DeltaListener = (delta: CommittedDelta) => void;
