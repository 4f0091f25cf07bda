/**
 * Every message, as types; nothing else. Three parties speak: the page's client, its worker, and, where several tabs have the
 * same database open, the worker that owns it.
 *
 *   page  <-> worker   postMessage: Request, Answer, Notice
 *   worker <-> owner   BroadcastChannel: TabRequest on `<name>/owner`, TabAnswer on `<name>/<client>`, TabNotice on `<name>`
 */
import type { DatabaseCore } from './database.js';
import type { ErrorData } from './errors.js';
import type { DeltaDBOptions } from './types.js';

export type StorageKind = 'opfs-sahpool' | 'opfs' | 'memory';

export interface StorageInfo {
  /** Where the data are. */
  readonly storage: StorageKind;
  /** They outlive the page. */
  readonly persistent: boolean;
  /** What was tried before, and why it could not be had. */
  readonly fallbacks: readonly { readonly storage: StorageKind; readonly reason: string }[];
  /** `wal`, `delete`, `memory`, … as SQLite says. */
  readonly journalMode: string;
}

export interface DatabaseInfo extends StorageInfo {
  readonly name: string;
  /** This tab's worker holds the database; other tabs talk to it. false: this one talks to another. */
  readonly isOwner: boolean;
  readonly sqliteVersion: string;
  readonly version: string;
  readonly variant: string;
}

/** What the page asks of its worker when it starts. */
export interface OpenMessage {
  name: string;
  table: DeltaDBOptions;
  storage: 'auto' | StorageKind;
  durability: 'normal' | 'full';
  /** URL of @sqlite.org/sqlite-wasm's index.mjs, for pages without a bundler. */
  sqlite?: string;
  /** URL of the extension's module, if it does not lie beside the worker. */
  wasm?: string;
}

/** Methods of DatabaseCore that cross threads, with the same arguments and results. */
export type MethodName =
  | 'applyFrames'
  | 'rollback'
  | 'compact'
  | 'optimize'
  | 'getVector'
  | 'getVectorAt'
  | 'getMetadata'
  | 'search'
  | 'getDeltaChain'
  | 'log'
  | 'lastSeq'
  | 'status'
  | 'recall'
  | 'export'
  | 'import'
  | 'exportDeltas'
  | 'importDeltas';

export type Arguments<M extends MethodName> = Parameters<DatabaseCore[M]>;
export type Result<M extends MethodName> = ReturnType<DatabaseCore[M]>;

export type Request =
  | { readonly kind: 'open'; readonly id: number; readonly options: OpenMessage }
  | { readonly kind: 'call'; readonly id: number; readonly method: MethodName; readonly args: readonly unknown[] }
  /** The ring's memory, before its first batch. */
  | { readonly kind: 'ring'; readonly ring: number; readonly buffer: SharedArrayBuffer }
  /** Frames at [from, to) of the ring; see pool.ts. */
  | { readonly kind: 'batch'; readonly id: number; readonly ring: number; readonly stream: number; readonly from: number; readonly to: number }
  /** The same where memory cannot be shared: the buffer goes there and back. */
  | { readonly kind: 'frames'; readonly id: number; readonly stream: number; readonly buffer: ArrayBuffer; readonly length: number }
  | { readonly kind: 'close'; readonly id: number };

export type Answer =
  | { readonly kind: 'result'; readonly id: number; readonly value: unknown }
  | { readonly kind: 'error'; readonly id: number; readonly error: ErrorData };

export type Notice =
  /** The worker listens: what comes before that may be lost. */
  | { readonly kind: 'ready' }
  /** Something was committed, by whomever. */
  | { readonly kind: 'bell' }
  /** The owner changed: this worker now, or another. */
  | { readonly kind: 'info'; readonly info: DatabaseInfo }
  /** For the page to hold, see client.ts. */
  | { readonly kind: 'modules'; readonly modules: readonly WebAssembly.Module[] };

/** From a worker to the owner. Numbers rise by one; the owner has no need to remember answers up to `answered`. */
export type TabRequest =
  | { readonly kind: 'hello'; readonly client: string; readonly table: DeltaDBOptions }
  | {
      readonly kind: 'call';
      readonly client: string;
      readonly number: number;
      readonly answered: number;
      readonly method: MethodName;
      readonly args: readonly unknown[];
    };

export type TabAnswer =
  | { readonly kind: 'welcome'; readonly info: StorageInfo; readonly owner: string }
  | { readonly kind: 'refused'; readonly error: ErrorData }
  | { readonly kind: 'result'; readonly number: number; readonly value: unknown }
  | { readonly kind: 'error'; readonly number: number; readonly error: ErrorData };

export type TabNotice =
  /** A new owner is ready: what it has not answered is to be asked again. */
  { readonly kind: 'owner'; readonly info: StorageInfo } | { readonly kind: 'bell' };
