/** A worker's side of the conversation with its page: requests in, answers out, in order. */
import { DeltaVectorsError } from './errors.js';
import { compiledModules, startLoading } from './loader.js';
import type { Answer, Notice, Request } from './protocol.js';
import { SharedRing } from './ring.js';
import { Session } from './session.js';
import type { Sqlite3 } from './sqlite.js';

/** The part of a worker's global scope, or of a MessagePort, that is used here. */
interface Port {
  postMessage(message: unknown, transfer: Transferable[]): void;
  addEventListener(type: 'message', listener: (event: MessageEvent<Request>) => void): void;
}

type Init = (sqliteUrl: string | undefined) => Promise<Sqlite3>;

export function serve(port: Port, init: Init): void {
  const server = new Server(port, init);
  // One after the other: the database opens before it is asked, and batches stay in order.
  let last: Promise<void> = Promise.resolve();
  port.addEventListener('message', ({ data }) => {
    last = last.then(() => server.handle(data));
  });
  port.postMessage({ kind: 'ready' } satisfies Notice, []);
}

class Server {
  readonly #port: Port;
  readonly #init: Init;
  #session: Session | undefined;
  readonly #rings = new Map<number, SharedArrayBuffer>();
  /** Streams of which a batch has failed: what is on its way behind it must not be applied. */
  readonly #failed = new Set<number>();

  constructor(port: Port, init: Init) {
    this.#port = port;
    this.#init = init;
  }

  async handle(request: Request): Promise<void> {
    if (request.kind === 'ring') {
      this.#rings.set(request.ring, request.buffer);
      return;
    }
    const work = this.#answer(request);
    // Another tab's owner takes a while to answer: calls need not wait for each other. Batches must, since none may be applied
    // behind one that failed.
    if (request.kind !== 'call' || this.#session?.info.isOwner) await work;
  }

  async #answer(request: Exclude<Request, { kind: 'ring' }>): Promise<void> {
    const { id } = request;
    try {
      const [value, transfer] = await this.#carryOut(request);
      this.#post({ kind: 'result', id, value }, transfer);
    } catch (thrown) {
      this.#post({ kind: 'error', id, error: DeltaVectorsError.from(thrown).toData() });
    }
  }

  async #carryOut(request: Exclude<Request, { kind: 'ring' }>): Promise<[unknown, Transferable[]?]> {
    switch (request.kind) {
      case 'open': {
        const sqlite3 = this.#init(request.options.sqlite);
        startLoading(request.options.wasm); // beside it
        this.#session = await Session.open(sqlite3, request.options, (notice: Notice) => this.#post(notice));
        if (compiledModules.length > 0) this.#post({ kind: 'modules', modules: compiledModules });
        return [this.#session.info];
      }
      case 'call': {
        const value = await this.#opened().call(request.method, request.args);
        return [value, ArrayBuffer.isView(value) ? [value.buffer as ArrayBuffer] : []];
      }
      case 'batch': {
        const ring = this.#rings.get(request.ring)!;
        const frames = SharedRing.read(ring, request);
        SharedRing.release(ring);
        return [(await this.#batch(request.stream, frames)).count];
      }
      case 'frames': {
        const frames = new Uint8Array(request.buffer, 0, request.length);
        const { count } = await this.#batch(request.stream, frames);
        return [{ count, buffer: request.buffer }, [request.buffer]];
      }
      case 'close':
        this.#session?.close();
        return [undefined];
      default:
        throw new DeltaVectorsError('invalid', `the worker does not know the message ${JSON.stringify((request as { kind: unknown }).kind)}`);
    }
  }

  async #batch(stream: number, frames: Uint8Array): Promise<{ count: number }> {
    if (this.#failed.has(stream)) throw new DeltaVectorsError('aborted', 'a batch before this one failed');
    try {
      return (await this.#opened().call('applyFrames', [frames])) as { count: number };
    } catch (thrown) {
      this.#failed.add(stream);
      throw thrown;
    }
  }

  #opened(): Session {
    if (!this.#session) throw new DeltaVectorsError('closed', 'the database is not open');
    return this.#session;
  }

  #post(message: Answer | Notice, transfer: Transferable[] = []): void {
    this.#port.postMessage(message, transfer);
  }
}
