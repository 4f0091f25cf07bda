/**
 * Memory in which batches of frames go from a page to its worker: shared, or moved there and back. Both give out room for the
 * next frame, and then the batch of all frames since the last one. A batch lies in one piece.
 */

/** A batch in shared memory. */
export interface Range {
  readonly from: number;
  readonly to: number;
}

const HEADER_BYTES = 8;

/**
 * A ring in a SharedArrayBuffer. Bytes 0 to 3 are an Int32, how many batches the worker has taken out, which it counts up by
 * Atomics; frames follow from byte 8 on. So a page that writes without a pause sees room become free without a message.
 */
export class SharedRing {
  readonly buffer: SharedArrayBuffer;
  readonly bytes: Uint8Array;
  readonly #taken: Int32Array;
  readonly #pieceBytes: number;
  /** Batches that the worker may still read, oldest first; and how many there were before them. */
  #batches: Range[] = [];
  #nFree = 0;
  /** The batch that is being written. */
  #from = 0;
  #to = 0;

  constructor(capacity: number, pieceBytes: number) {
    this.buffer = new SharedArrayBuffer(HEADER_BYTES + capacity);
    this.#taken = new Int32Array(this.buffer, 0, 1);
    this.bytes = new Uint8Array(this.buffer, HEADER_BYTES);
    this.#pieceBytes = pieceBytes;
  }

  /** The worker's side of a ring. */
  static read(buffer: SharedArrayBuffer, { from, to }: Range): Uint8Array {
    // A copy: SQLite cannot read shared memory.
    return new Uint8Array(buffer, HEADER_BYTES).slice(from, to);
  }

  static release(buffer: SharedArrayBuffer): void {
    Atomics.add(new Int32Array(buffer, 0, 1), 0, 1);
  }

  /** Where n bytes can be written behind what has been written of the batch; −1: nowhere, until the batch goes or room is free. */
  reserve(n: number): number {
    const nFree = Atomics.load(this.#taken, 0);
    for (; this.#nFree !== nFree; this.#nFree = (this.#nFree + 1) | 0) this.#batches.shift();

    const capacity = this.bytes.length;
    const tail = this.#batches[0]?.from;
    if (this.#from === this.#to) {
      if (tail === undefined) this.#from = this.#to = 0;
      // At the end of the ring a batch begins at the beginning. The writer never quite reaches the reader from behind.
      else if (tail <= this.#to && this.#to + n > capacity && n < tail) this.#from = this.#to = 0;
    }
    const end = this.#to + n;
    const limit = tail !== undefined && tail > this.#from ? tail - 1 : capacity;
    return end <= limit && end - this.#from <= this.#pieceBytes ? this.#to : -1;
  }

  wrote(end: number): void {
    this.#to = end;
  }

  /** The batch; undefined if nothing was written. */
  take(): Range | undefined {
    if (this.#from === this.#to) return undefined;
    const batch = { from: this.#from, to: this.#to };
    this.#batches.push(batch);
    this.#from = this.#to;
    return batch;
  }
}

/** A few buffers, for where memory cannot be shared. */
export class MovedBuffers {
  readonly #pieceBytes: number;
  #spare: Uint8Array[];
  #current: Uint8Array | undefined;
  #to = 0;

  constructor(pieceBytes: number, n: number) {
    this.#pieceBytes = pieceBytes;
    this.#spare = Array.from({ length: n }, () => new Uint8Array(pieceBytes));
  }

  get bytes(): Uint8Array {
    return this.#current!;
  }

  reserve(n: number): number {
    this.#current ??= this.#spare.pop();
    return this.#current && this.#to + n <= this.#pieceBytes ? this.#to : -1;
  }

  wrote(end: number): void {
    this.#to = end;
  }

  /** The batch: bytes [0, length) of a buffer that comes back by giveBack. */
  take(): { readonly buffer: ArrayBuffer; readonly length: number } | undefined {
    if (!this.#current || this.#to === 0) return undefined;
    const batch = { buffer: this.#current.buffer as ArrayBuffer, length: this.#to };
    this.#current = undefined;
    this.#to = 0;
    return batch;
  }

  /** @param buffer undefined if it was lost with a worker */
  giveBack(buffer?: ArrayBuffer): void {
    this.#spare.push(new Uint8Array(buffer ?? new ArrayBuffer(this.#pieceBytes)));
  }
}
