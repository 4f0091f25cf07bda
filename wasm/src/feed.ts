/**
 * Subscriptions of one database object. Each listener has its own place in the log, and the log is what it is given: a change
 * made by whomever, once it is committed, in order, once. What was announced to it does not matter.
 */
import { checkListener, DeltaVectorsError } from './errors.js';
import type { CommittedDelta, DeltaListener, SubscribeOptions } from './types.js';

/** Deltas after a number, oldest first, at most `limit`. */
export type ReadLog = (since: number, limit: number) => CommittedDelta[];

const PAGE = 256;

interface Subscription {
  readonly listener: DeltaListener;
  seen: number;
  isOver: boolean;
}

export class Feed {
  readonly #readLog: ReadLog;
  readonly #lastSeq: () => number;
  readonly #subscriptions = new Set<Subscription>();
  #isDelivering = false;

  constructor(readLog: ReadLog, lastSeq: () => number) {
    this.#readLog = readLog;
    this.#lastSeq = lastSeq;
  }

  get isEmpty(): boolean {
    return this.#subscriptions.size === 0;
  }

  subscribe(listener: DeltaListener, options: SubscribeOptions = {}): () => void {
    checkListener(listener);
    const { fromSeq, signal } = options;
    if (fromSeq !== undefined && !(Number.isSafeInteger(fromSeq) && fromSeq >= 0)) {
      throw new DeltaVectorsError('invalid', `fromSeq is ${String(fromSeq)}: expected the number of a delta, or 0`);
    }
    if (signal?.aborted) return () => {};
    const subscription: Subscription = { listener, seen: fromSeq ?? this.#lastSeq(), isOver: false };
    this.#subscriptions.add(subscription);
    const end = (): void => {
      subscription.isOver = true;
      this.#subscriptions.delete(subscription);
      signal?.removeEventListener('abort', end);
    };
    signal?.addEventListener('abort', end);
    if (fromSeq !== undefined) queueMicrotask(() => this.deliver());
    return end;
  }

  /** Gives every listener what it has not seen. What listeners write meanwhile is delivered too, after what was before. */
  deliver(): void {
    if (this.#isDelivering || this.#subscriptions.size === 0) return;
    this.#isDelivering = true;
    try {
      for (let isMore = true; isMore; ) {
        isMore = false;
        for (const subscription of [...this.#subscriptions]) isMore = this.#deliverPage(subscription) || isMore;
      }
    } finally {
      this.#isDelivering = false;
    }
  }

  #deliverPage(subscription: Subscription): boolean {
    const page = this.#readLog(subscription.seen, PAGE);
    for (const delta of page) {
      if (subscription.isOver) return false;
      subscription.seen = delta.seq;
      try {
        subscription.listener(delta);
      } catch (thrown) {
        // Its problem, not that of the writer or of the other listeners: it goes where uncaught errors go.
        queueMicrotask(() => {
          throw thrown;
        });
      }
    }
    return page.length > 0;
  }

  end(): void {
    for (const subscription of this.#subscriptions) subscription.isOver = true;
    this.#subscriptions.clear();
  }
}
