/// <reference lib="esnext.disposable" preserve="true" />
/**
 * DeltaVectorDB for the main thread: the same methods, returning promises, carried out in a worker. See protocol.ts for what is
 * said, and session.ts for what happens when several tabs open one database.
 */
import { badOption, checkDeltas, checkListener, DeltaVectorsError } from './errors.js';
import { frameBound, writeFrame } from './frame.js';
import { tableOptions } from './options.js';
import type {
  Answer,
  Arguments,
  DatabaseInfo,
  MethodName,
  Notice,
  OpenMessage,
  Request,
  Result,
  StorageKind,
} from './protocol.js';
import type {
  CommittedDelta,
  CompactionStats,
  CompactOptions,
  DeltaChain,
  DeltaDBOptions,
  DeltaListener,
  ImportStats,
  SearchOptions,
  SearchResult,
  Status,
  SubscribeOptions,
  VectorDelta,
} from './types.js';

export interface OpenOptions extends DeltaDBOptions {
  /** Of the database: tabs of an origin that give the same name share it. delta_vectors. */
  name?: string;
  /** Where the data lie. auto: the best of opfs-sahpool, opfs, memory that there is; `info` says which, and why not another. */
  storage?: 'auto' | StorageKind;
  /** full: every commit waits for the disk. normal: a power failure may take the last commits, never the database. */
  durability?: 'normal' | 'full';
  /**
   * auto: a worker where there are workers. false: this thread (in a browser only memory). A function: how to make the worker
   * that runs `delta-vectors/worker`, for bundlers that cannot find it, or when this package comes from another origin.
   */
  worker?: 'auto' | boolean | (() => Worker);
  /** URL of index.mjs of @sqlite.org/sqlite-wasm: needed where no bundler puts it into the worker. */
  sqlite?: string | URL;
  /** URL of the extension's WebAssembly module, if it does not lie where this package's files do. */
  wasm?: string | URL;
  /** Is told when storage is not persistent. By default console.warn. */
  onWarning?: (message: string) => void;
}

/** Which are no options of the table. */
const OPEN_OPTIONS = ['name', 'storage', 'durability', 'worker', 'sqlite', 'wasm', 'onWarning'];
const STORAGES = ['auto', 'opfs-sahpool', 'opfs', 'memory'];

/** Browsers do not say why, so: what it usually is. */
const NOT_LOADED =
  "the worker could not be loaded, see Bundlers in the README of delta-vectors. Vite before 8: optimizeDeps.exclude; esbuild: an entry point called worker; no bundler: option sqlite";

const PAGE = 512;

/** The other side: a worker, or in this thread what would be in one. */
export interface Port {
  postMessage(message: unknown, transfer: Transferable[]): void;
  onmessage: ((event: MessageEvent<Answer | Notice>) => void) | null;
  onerror?: ((event: ErrorEvent) => void) | null;
  terminate?(): void;
}

interface Call {
  resolve(value: never): void;
  reject(error: DeltaVectorsError): void;
}

export class AsyncDeltaVectorDB {
  readonly #port: Port;
  readonly #calls = new Map<number, Call>();
  readonly #dimensions: number;
  #lastId = 0;
  #info!: DatabaseInfo;
  #isClosed = false;
  /** Why nothing works any more. */
  #failure: DeltaVectorsError | undefined;
  /** Called when the worker listens, or has failed to start. */
  #started: (() => void) | undefined;
  /**
   * Held, not used. What engines have compiled of a module stays as long as somebody has it, and a page that is loaded again is in the
   * same process, and soon enough: it finds what its predecessor's worker has compiled.
   */
  readonly #modules: WebAssembly.Module[] = [];
  readonly #bells = new Set<() => void>();
  readonly #subscriptions = new Set<() => void>();

  private constructor(port: Port, dimensions: number) {
    this.#port = port;
    this.#dimensions = dimensions;
    port.onmessage = ({ data }) => this.#receive(data);
    port.onerror = (event) => {
      event.preventDefault?.();
      this.#fail(new DeltaVectorsError('worker-failed', event.message ? `the worker failed: ${event.message}` : NOT_LOADED));
    };
  }

  static async open(options: OpenOptions = {}): Promise<AsyncDeltaVectorDB> {
    const { name = 'delta_vectors', storage = 'auto', durability = 'normal', worker = 'auto', sqlite, wasm, onWarning, ...table } = options;
    const { dimensions } = tableOptions(table, OPEN_OPTIONS);
    if (typeof name !== 'string' || name === '') throw new DeltaVectorsError('invalid', 'option name is empty: expected the name of a database');
    if (durability !== 'normal' && durability !== 'full') throw badOption('durability', durability, 'normal or full');
    if (!STORAGES.includes(storage)) throw badOption('storage', storage, STORAGES.join(', '));
    const message: OpenMessage = {
      name,
      table,
      storage,
      durability,
      ...(sqlite !== undefined && { sqlite: absolute(sqlite) }),
      ...(wasm !== undefined && { wasm: absolute(wasm) }),
    };
    const db = new AsyncDeltaVectorDB(await makePort(worker, sqlite !== undefined), dimensions);
    try {
      // A script that begins with an await, as some bundlers make them, does not hear what comes before it has said that it listens.
      if (typeof worker === 'function' || sqlite === undefined) await new Promise<void>((resolve) => (db.#started = resolve));
      db.#info = await db.request((id): Request => ({ kind: 'open', id, options: message }));
    } catch (thrown) {
      db.#port.terminate?.();
      throw thrown;
    }
    if (!db.#info.persistent && storage === 'auto') {
      const reasons = db.#info.fallbacks.map((f) => `${f.storage}: ${f.reason}`).join('; ');
      (onWarning ?? console.warn)(`delta_vectors: database '${name}' is in memory and will not be kept (${reasons})`);
    }
    return db;
  }

  /** Where the data are, who holds them, and which versions are at work. */
  get info(): DatabaseInfo {
    return this.#info;
  }

  getDimensions(): number {
    return this.#dimensions;
  }

  // ---- the worker ----------------------------------------------------------------------------------------------------

  /** A message that is answered. @internal */
  request<T>(make: (id: number) => Request, transfer: Transferable[] = []): Promise<T> {
    if (this.#failure) return Promise.reject(this.#failure);
    return new Promise<T>((resolve, reject) => {
      const id = ++this.#lastId;
      this.#calls.set(id, { resolve: resolve as Call['resolve'], reject });
      try {
        this.#port.postMessage(make(id), transfer);
      } catch (thrown) {
        this.#calls.delete(id);
        reject(DeltaVectorsError.from(thrown, 'invalid'));
      }
    });
  }

  #call<M extends MethodName>(method: M, args: Arguments<M>, transfer?: Transferable[]): Promise<Result<M>> {
    return this.request((id): Request => ({ kind: 'call', id, method, args }), transfer);
  }

  /** A message that is not answered. @internal */
  post(message: Request): void {
    this.#port.postMessage(message, []);
  }

  #receive(message: Answer | Notice): void {
    switch (message.kind) {
      case 'result':
      case 'error': {
        const call = this.#calls.get(message.id);
        this.#calls.delete(message.id);
        if (message.kind === 'result') call?.resolve(message.value as never);
        else call?.reject(DeltaVectorsError.fromData(message.error));
        break;
      }
      case 'ready':
        this.#started?.();
        break;
      case 'bell':
        for (const wake of [...this.#bells]) wake();
        break;
      case 'info':
        this.#info = message.info;
        break;
      case 'modules':
        this.#modules.push(...message.modules);
        break;
    }
  }

  #fail(error: DeltaVectorsError): void {
    this.#failure = error;
    this.#started?.();
    for (const call of this.#calls.values()) call.reject(error);
    this.#calls.clear();
    for (const end of [...this.#subscriptions]) end();
  }

  // ---- writing -------------------------------------------------------------------------------------------------------

  /** Applies a delta in a transaction of its own. Resolves with its id when it is committed. */
  async applyDelta(delta: VectorDelta): Promise<string> {
    return (await this.applyDeltas([delta]))[0]!;
  }

  /** Applies deltas in order and in one transaction: all of them, or none. */
  async applyDeltas(deltas: readonly VectorDelta[]): Promise<string[]> {
    checkDeltas(deltas);
    let bound = 0;
    for (const delta of deltas) bound += frameBound(delta);
    const bytes = new Uint8Array(bound);
    let end = 0;
    for (const delta of deltas) end = writeFrame(delta, bytes, end);
    const { firstSeq } = await this.applyFrames(bytes.subarray(0, end));
    return Array.from(deltas, (_, i) => String(firstSeq! + i));
  }

  /** The same for frames, as `encodeFrame` makes them, one behind the other. */
  applyFrames(frames: Uint8Array): Promise<Result<'applyFrames'>> {
    return this.#call('applyFrames', [frames]);
  }

  rollback(vectorId: string, deltaId: string | number): Promise<string> {
    return this.#call('rollback', [vectorId, deltaId]);
  }

  compact(options?: CompactOptions): Promise<CompactionStats> {
    return this.#call('compact', options === undefined ? [] : [options]);
  }

  optimize(): Promise<void> {
    return this.#call('optimize', []);
  }

  // ---- reading -------------------------------------------------------------------------------------------------------

  getVector(vectorId: string): Promise<Float32Array | null> {
    return this.#call('getVector', [vectorId]);
  }

  getVectorAt(vectorId: string, time: Date): Promise<Float32Array | null> {
    return this.#call('getVectorAt', [vectorId, time]);
  }

  getMetadata(vectorId: string): Promise<Record<string, unknown> | null> {
    return this.#call('getMetadata', [vectorId]);
  }

  search(query: Float32Array, k = 10, options: SearchOptions = {}): Promise<SearchResult[]> {
    return this.#call('search', [query, k, options]);
  }

  getDeltaChain(vectorId: string): Promise<DeltaChain> {
    return this.#call('getDeltaChain', [vectorId]);
  }

  log(since?: number, limit?: number): Promise<CommittedDelta[]> {
    return this.#call('log', [since, limit]);
  }

  lastSeq(): Promise<number> {
    return this.#call('lastSeq', []);
  }

  status(): Promise<Status> {
    return this.#call('status', []);
  }

  recall(n?: number, k?: number): Promise<number | null> {
    return this.#call('recall', [n, k]);
  }

  export(): Promise<Uint8Array> {
    return this.#call('export', []);
  }

  import(bytes: Uint8Array): Promise<void> {
    return this.#call('import', [bytes]);
  }

  exportDeltas(since?: string | number): Promise<Uint8Array> {
    return this.#call('exportDeltas', [since]);
  }

  importDeltas(bytes: Uint8Array): Promise<ImportStats> {
    return this.#call('importDeltas', [bytes]);
  }

  // ---- following -----------------------------------------------------------------------------------------------------

  /**
   * Calls `listener` with every delta that is committed, by whomever in whichever tab, in order and once. Returns a function that
   * ends it. To go on after a reload, remember the last delta's `seq` and give it as `fromSeq`.
   */
  onDelta(listener: DeltaListener, options: SubscribeOptions = {}): () => void {
    checkListener(listener);
    if (this.#isClosed) throw new DeltaVectorsError('closed', 'the database is closed');
    const ended = new AbortController();
    const end = (): void => ended.abort();
    options.signal?.addEventListener('abort', end, { once: true });
    if (options.signal?.aborted) end();
    void (async () => {
      try {
        for await (const delta of this.deltas({ ...options, signal: ended.signal })) {
          try {
            listener(delta);
          } catch (thrown) {
            reportUncaught(thrown);
          }
        }
      } catch (thrown) {
        if (!this.#isClosed) reportUncaught(thrown);
      } finally {
        options.signal?.removeEventListener('abort', end);
      }
    })();
    return end;
  }

  /** The same as a loop: `for await (const delta of db.deltas())`. It ends with `break`, the signal, or `close`. */
  async *deltas(options: SubscribeOptions = {}): AsyncGenerator<CommittedDelta, void, void> {
    const { fromSeq, signal } = options;
    if (fromSeq !== undefined && !(Number.isSafeInteger(fromSeq) && fromSeq >= 0)) {
      throw new DeltaVectorsError('invalid', `fromSeq is ${String(fromSeq)}: expected the number of a delta, or 0`);
    }
    let isOver = signal?.aborted ?? false;
    let hasRung = true;
    let wake: (() => void) | undefined;
    const ring = (): void => {
      hasRung = true;
      wake?.();
    };
    const end = (): void => {
      isOver = true;
      wake?.();
    };
    this.#bells.add(ring);
    this.#subscriptions.add(end);
    signal?.addEventListener('abort', end);
    try {
      let seen = fromSeq ?? (await this.lastSeq());
      while (!isOver && !this.#isClosed) {
        if (!hasRung) await new Promise<void>((resolve) => (wake = resolve));
        if (isOver) return;
        hasRung = false;
        // The log is the truth; the bell only says that it is worth a look.
        for (let page: CommittedDelta[]; (page = await this.log(seen, PAGE)).length > 0; ) {
          for (const delta of page) {
            if (isOver) return;
            seen = delta.seq;
            yield delta;
          }
        }
      }
      if (this.#failure && !this.#isClosed) throw this.#failure;
    } finally {
      this.#bells.delete(ring);
      this.#subscriptions.delete(end);
      signal?.removeEventListener('abort', end);
    }
  }

  // ---- the end -------------------------------------------------------------------------------------------------------

  /** Ends subscriptions, waits for what is under way, and releases the files. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const end of [...this.#subscriptions]) end();
    try {
      if (!this.#failure) await this.request((id): Request => ({ kind: 'close', id }));
    } finally {
      // Whatever the worker still held, it holds no more.
      this.#fail(new DeltaVectorsError('closed', 'the database is closed'));
      this.#port.terminate?.();
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

function absolute(url: string | URL): string {
  return typeof document === 'undefined' ? String(url) : new URL(url, document.baseURI).href;
}

function reportUncaught(thrown: unknown): void {
  queueMicrotask(() => {
    throw thrown;
  });
}

async function makePort(worker: OpenOptions['worker'], hasSqliteUrl: boolean): Promise<Port> {
  if (typeof worker === 'function') return worker() as unknown as Port;
  if (worker !== 'auto' && typeof worker !== 'boolean') {
    throw badOption('worker', worker, 'auto, true, false, or a function that makes one');
  }
  if (worker === true || (worker === 'auto' && typeof Worker !== 'undefined' && typeof document !== 'undefined')) {
    // Written out, since this form is what bundlers look for; the names must differ, webpack makes a file of each.
    const started = hasSqliteUrl
      ? new Worker(new URL('./worker-url.js', import.meta.url), { type: 'module', name: 'delta_vectors_url' })
      : new Worker(new URL('./worker.js', import.meta.url), { type: 'module', name: 'delta_vectors' });
    return started as unknown as Port;
  }
  const { localPort } = await import('./local.js');
  return localPort();
}
