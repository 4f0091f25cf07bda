/**
 * One database as a worker sees it: its own, or, when another tab owns it, that tab's. The page's requests come in, and go to
 * whoever owns the database now.
 *
 * Of all workers of an origin that have a database open, one holds it: the one that holds the Web Lock of its name. The others
 * wait for that lock, and send their requests over a BroadcastChannel. When the owner goes, however it goes, the browser
 * gives the lock to the next; it opens the database and says so, and everybody asks again what was not answered.
 *
 * A request that was carried out and whose answer was lost would then be carried out twice. So with each write for another tab
 * the owner stores the answer, in the same transaction, under the client's name and the request's number, until the client
 * says that it has it.
 */
import { DatabaseCore } from './database.js';
import { DeltaVectorsError } from './errors.js';
import { loadDeltaVectors, type Loaded } from './loader.js';
import type {
  DatabaseInfo,
  MethodName,
  Notice,
  OpenMessage,
  StorageInfo,
  TabAnswer,
  TabNotice,
  TabRequest,
} from './protocol.js';
import { explainFailure, openStorage, touchStorage, type OpenDatabase } from './storage.js';
import type { Sqlite3 } from './sqlite.js';

/** These change something each time they are called. Of the other methods, twice is once. */
const RECORDED: ReadonlySet<MethodName> = new Set(['applyFrames', 'rollback']);
const WRITES: ReadonlySet<MethodName> = new Set(['applyFrames', 'rollback', 'compact', 'optimize', 'import', 'importDeltas']);
const METHODS: ReadonlySet<string> = new Set<MethodName>([
  'applyFrames', 'rollback', 'compact', 'optimize', 'getVector', 'getVectorAt', 'getMetadata', 'search', 'getDeltaChain', 'log',
  'lastSeq', 'status', 'recall', 'export', 'import', 'exportDeltas', 'importDeltas',
]);

/** Answers of clients that never came back are kept so long. */
const ANSWERS_KEPT_MS = 24 * 3600 * 1000;
/** A bell at most so often. */
const BELL_MS = 5;
const HELLO_MS = 50;

/** The database, held. */
class Owner {
  readonly database: DatabaseCore;
  readonly info: StorageInfo;
  readonly #open: OpenDatabase;
  #hasAnswers = false;

  constructor(sqlite3: Sqlite3, open: OpenDatabase, table: OpenMessage['table']) {
    this.#open = open;
    this.info = open.info;
    try {
      this.database = new DatabaseCore(sqlite3, { ...table, database: open.db, exclusive: true });
    } catch (thrown) {
      open.close();
      throw thrown;
    }
  }

  call(method: MethodName, args: readonly unknown[]): unknown {
    if (!METHODS.has(method)) throw new DeltaVectorsError('invalid', `there is no method ${String(method)}`);
    return (this.database[method] as (...args: unknown[]) => unknown).apply(this.database, [...args]);
  }

  /** For another tab: a request that comes again gets the answer that it had. */
  callOnce(client: string, number: number, answered: number, method: MethodName, args: readonly unknown[]): unknown {
    if (!RECORDED.has(method)) return this.call(method, args);
    const { database } = this;
    const { connection } = database;
    if (!this.#hasAnswers) {
      connection.exec(
        'CREATE TABLE IF NOT EXISTS delta_vectors_answers(client TEXT, number INTEGER, at INTEGER, answer TEXT, PRIMARY KEY(client, number)) WITHOUT ROWID',
      );
      connection.exec(`DELETE FROM delta_vectors_answers WHERE at < ${Date.now() - ANSWERS_KEPT_MS}`);
      this.#hasAnswers = true;
    }
    return database.transaction(() => {
      const known = connection.value('SELECT answer FROM delta_vectors_answers WHERE client = ? AND number = ?', client, number);
      if (known !== undefined) return JSON.parse(String(known)) as unknown;
      const value = this.call(method, args);
      connection.value('DELETE FROM delta_vectors_answers WHERE client = ? AND number <= ?', client, answered);
      connection.value('INSERT INTO delta_vectors_answers VALUES(?, ?, ?, ?)', client, number, Date.now(), JSON.stringify(value));
      return value;
    });
  }

  close(): void {
    this.database.close();
    this.#open.close();
  }
}

interface Waiting {
  readonly method: MethodName;
  readonly args: readonly unknown[];
  resolve(value: unknown): void;
  reject(error: DeltaVectorsError): void;
}

export class Session {
  /** SQLite, which may be on its way. */
  readonly #sqlite3: Promise<Sqlite3>;
  #sqliteVersion = '';
  #loaded: Loaded | undefined;
  readonly #options: OpenMessage;
  readonly #notify: (notice: Notice) => void;
  readonly #client = uniqueName();
  readonly #ended = new AbortController();
  #owner: Owner | undefined;
  /** Of the owner, whoever that is. */
  #info: StorageInfo | undefined;
  #releaseLock: (() => void) | undefined;
  #channel: BroadcastChannel | undefined;
  #requests: BroadcastChannel | undefined;
  #answers: BroadcastChannel | undefined;
  readonly #clients = new Map<string, BroadcastChannel>();
  /** Requests that the owner has not answered, by number. */
  readonly #waiting = new Map<number, Waiting>();
  #number = 0;
  #bellTimer: ReturnType<typeof setTimeout> | undefined;
  #bellAt = 0;

  private constructor(sqlite3: Promise<Sqlite3>, options: OpenMessage, notify: (notice: Notice) => void) {
    this.#sqlite3 = sqlite3;
    this.#options = options;
    this.#notify = notify;
  }

  /**
   * Everything that has to be waited for is asked for at once: the lock before SQLite is there, the files while the extension is
   * loaded. So most of it is there when it is needed.
   */
  static async open(sqlite3: Promise<Sqlite3>, options: OpenMessage, notify: (notice: Notice) => void): Promise<Session> {
    const session = new Session(sqlite3, options, notify);
    sqlite3.catch(() => {}); // #own() hears of it
    if (options.storage === 'memory' || !canShare()) {
      await session.#own();
    } else {
      touchStorage();
      await session.#elect();
    }
    return session;
  }

  get info(): DatabaseInfo {
    return {
      ...this.#info!,
      name: this.#options.name,
      isOwner: this.#owner !== undefined,
      sqliteVersion: this.#sqliteVersion,
      version: this.#loaded!.version,
      variant: this.#loaded!.variant,
    };
  }

  // ---- who owns it ---------------------------------------------------------------------------------------------------

  get #lock(): string {
    return `delta_vectors/${this.#options.name}`;
  }

  async #load(sqlite3: Sqlite3): Promise<void> {
    const { wasm } = this.#options;
    this.#sqliteVersion = sqlite3.version.libVersion;
    this.#loaded = await loadDeltaVectors(sqlite3, wasm === undefined ? {} : { wasm });
  }

  async #own(): Promise<void> {
    const { name, storage, durability, table } = this.#options;
    const sqlite3 = await this.#sqlite3;
    const opening = openStorage(sqlite3, name, storage, durability);
    opening.catch(() => {}); // it is heard of below
    try {
      await this.#load(sqlite3);
    } catch (thrown) {
      await opening.then((open) => open.close(), () => {});
      throw thrown;
    }
    const owner = new Owner(sqlite3, await opening, table);
    this.#owner = owner;
    this.#info = owner.info;
  }

  async #elect(): Promise<void> {
    this.#listen();
    const isOwner = await new Promise<boolean>((resolve, reject) => {
      void navigator.locks.request(this.#lock, { ifAvailable: true }, async (lock) => {
        if (!lock) return resolve(false);
        try {
          await this.#own();
        } catch (thrown) {
          return reject(thrown as Error);
        }
        resolve(true);
        // Memory cannot be shared: every tab has its own, and the next one gets the lock.
        return this.#info!.persistent ? this.#holdLock() : undefined;
      });
    });
    if (isOwner) {
      if (this.#info!.persistent) this.#serve();
      else this.#hangUp();
      return;
    }
    await this.#load(await this.#sqlite3);
    const taken = this.#queueForLock();
    await Promise.race([this.#greetOwner(), taken]);
  }

  /** Keeps the lock until the session ends. */
  #holdLock(): Promise<void> {
    return new Promise((resolve) => {
      this.#releaseLock = resolve;
    });
  }

  /** Resolves when this session has become the owner; rejects when it should have and cannot. */
  #queueForLock(): Promise<void> {
    return new Promise((resolve, reject) => {
      navigator.locks
        .request(this.#lock, { signal: this.#ended.signal }, async () => {
          if (this.#ended.signal.aborted) return;
          try {
            await this.#own();
          } catch (thrown) {
            this.#failAll(DeltaVectorsError.from(thrown));
            return reject(thrown as Error);
          }
          this.#serve();
          this.#notify({ kind: 'info', info: this.info });
          resolve();
          this.#answerOwn();
          return this.#holdLock();
        })
        .catch((thrown: unknown) => {
          if (!this.#ended.signal.aborted) reject(thrown as Error);
        });
    });
  }

  #listen(): void {
    this.#channel = new BroadcastChannel(this.#lock);
    this.#answers = new BroadcastChannel(`${this.#lock}/${this.#client}`);
    this.#requests = new BroadcastChannel(`${this.#lock}/owner`);
    this.#channel.onmessage = (event: MessageEvent<TabNotice>) => this.#heard(event.data);
    this.#answers.onmessage = (event: MessageEvent<TabAnswer>) => this.#answered(event.data);
  }

  #hangUp(): void {
    this.#channel?.close();
    this.#answers?.close();
    this.#requests?.close();
    this.#channel = this.#answers = this.#requests = undefined;
  }

  // ---- as the owner --------------------------------------------------------------------------------------------------

  #serve(): void {
    this.#requests!.onmessage = (event: MessageEvent<TabRequest>) => void this.#asked(event.data);
    this.#channel!.postMessage({ kind: 'owner', info: this.#info! } satisfies TabNotice);
  }

  async #asked(request: TabRequest): Promise<void> {
    const owner = this.#owner;
    if (!owner || request.client === this.#client) return;
    let answer: TabAnswer;
    if (request.kind === 'hello') {
      answer = this.#welcome(owner, request.table);
    } else {
      const { client, number, answered, method, args } = request;
      try {
        answer = { kind: 'result', number, value: owner.callOnce(client, number, answered, method, args) };
      } catch (thrown) {
        answer = { kind: 'error', number, error: (await explainFailure(thrown)).toData() };
      }
      if (WRITES.has(method)) this.#ring();
    }
    let channel = this.#clients.get(request.client);
    if (!channel) this.#clients.set(request.client, (channel = new BroadcastChannel(`${this.#lock}/${request.client}`)));
    channel.postMessage(answer);
  }

  #welcome(owner: Owner, table: OpenMessage['table']): TabAnswer {
    const { database } = owner;
    const { dimensions = 384, metric = 'cosine' } = table;
    if (dimensions === database.getDimensions() && metric === database.metric) {
      return { kind: 'welcome', info: owner.info, owner: this.#client };
    }
    const message = `the database '${this.#options.name}' is open in another tab with ${database.getDimensions()} dimensions and the metric ${database.metric}, not ${dimensions} and ${metric}`;
    return { kind: 'refused', error: { code: 'invalid', message } };
  }

  /** Tells everybody that something was committed: at once, but not more often than every BELL_MS. */
  #ring(): void {
    if (this.#bellTimer !== undefined) return;
    const wait = this.#bellAt + BELL_MS - performance.now();
    if (wait > 0) {
      this.#bellTimer = setTimeout(() => this.#ringNow(), wait);
    } else {
      this.#ringNow();
    }
  }

  #ringNow(): void {
    this.#bellTimer = undefined;
    this.#bellAt = performance.now();
    this.#channel?.postMessage({ kind: 'bell' } satisfies TabNotice);
    this.#notify({ kind: 'bell' });
  }

  // ---- as one that is not --------------------------------------------------------------------------------------------

  #greeted: ((error?: DeltaVectorsError) => void) | undefined;

  async #greetOwner(): Promise<void> {
    const greeted = new Promise<void>((resolve, reject) => {
      this.#greeted = (error) => (error ? reject(error) : resolve());
    });
    let isDone = false;
    void greeted.then(() => (isDone = true), () => (isDone = true));
    void (async () => {
      // The owner may be on its way in or out, and hears nothing yet or any more.
      for (let wait = HELLO_MS; !isDone && !this.#owner && !this.#ended.signal.aborted; wait = Math.min(wait * 2, 1000)) {
        this.#sayHello();
        await new Promise((resolve) => setTimeout(resolve, wait));
      }
    })();
    return greeted;
  }

  #sayHello(): void {
    this.#requests?.postMessage({ kind: 'hello', client: this.#client, table: this.#options.table } satisfies TabRequest);
  }

  #heard(notice: TabNotice): void {
    if (notice.kind === 'owner' && !this.#owner) {
      if (this.#info) {
        this.#info = notice.info;
        this.#notify({ kind: 'info', info: this.info });
      } else {
        this.#sayHello();
      }
      for (const number of this.#waiting.keys()) this.#send(number);
    }
    this.#notify({ kind: 'bell' });
  }

  #answered(answer: TabAnswer): void {
    switch (answer.kind) {
      case 'welcome':
        if (!this.#owner) this.#info = answer.info;
        this.#greeted?.();
        break;
      case 'refused':
        this.#greeted?.(DeltaVectorsError.fromData(answer.error));
        break;
      case 'result':
        this.#take(answer.number)?.resolve(answer.value);
        break;
      case 'error':
        this.#take(answer.number)?.reject(DeltaVectorsError.fromData(answer.error));
        break;
    }
  }

  #take(number: number): Waiting | undefined {
    const waiting = this.#waiting.get(number);
    this.#waiting.delete(number);
    return waiting;
  }

  #send(number: number): void {
    const { method, args } = this.#waiting.get(number)!;
    const answered = Math.min(...this.#waiting.keys()) - 1;
    this.#requests!.postMessage({ kind: 'call', client: this.#client, number, answered, method, args } satisfies TabRequest);
  }

  /** This session has become the owner: what it had asked the old one it now does itself, unless that one had done it. */
  #answerOwn(): void {
    for (const [number, { method, args, resolve, reject }] of [...this.#waiting]) {
      this.#waiting.delete(number);
      try {
        resolve(this.#owner!.callOnce(this.#client, number, number - 1, method, args));
      } catch (thrown) {
        reject(DeltaVectorsError.from(thrown));
      }
    }
    this.#ring();
  }

  #failAll(error: DeltaVectorsError): void {
    for (const waiting of this.#waiting.values()) waiting.reject(error);
    this.#waiting.clear();
  }

  // ---- what the page asks --------------------------------------------------------------------------------------------

  async call(method: MethodName, args: readonly unknown[]): Promise<unknown> {
    if (this.#ended.signal.aborted) throw new DeltaVectorsError('closed', 'the database is closed');
    if (this.#owner) {
      let value: unknown;
      try {
        value = this.#owner.call(method, args);
      } catch (thrown) {
        throw await explainFailure(thrown);
      }
      if (WRITES.has(method)) this.#ring();
      return value;
    }
    return new Promise((resolve, reject) => {
      const number = ++this.#number;
      this.#waiting.set(number, { method, args, resolve, reject });
      this.#send(number);
    });
  }

  close(): void {
    if (this.#ended.signal.aborted) return;
    this.#ended.abort();
    clearTimeout(this.#bellTimer);
    this.#failAll(new DeltaVectorsError('closed', 'the database was closed'));
    this.#owner?.close();
    this.#owner = undefined;
    // Only now may the next one open it.
    this.#releaseLock?.();
    this.#hangUp();
    for (const channel of this.#clients.values()) channel.close();
    this.#clients.clear();
  }
}

/** crypto.randomUUID is not there in pages without a secure origin, nor crypto in Node 18. */
function uniqueName(): string {
  return [1, 2, 3].map(() => Math.floor(Math.random() * 2 ** 52).toString(36)).join('-');
}

function canShare(): boolean {
  return typeof navigator !== 'undefined' && 'locks' in navigator && typeof BroadcastChannel !== 'undefined' && typeof navigator.storage?.getDirectory === 'function';
}
