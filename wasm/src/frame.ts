/**
 * Frames: the binary form of a delta, as docs/file-format.md describes it. What the worker, the ring and delta_apply_batch
 * get is written here, and what delta_log gives is read here.
 *
 *   7A DE 01 | operation·16 + encoding | flags | varint length | [seq] [id] [time] [fields] payload | CRC-32C
 *
 * The writer checks what would make a malformed frame. Whether a vector has the right length and finite values, whether the
 * row exists: that is the extension's business, which knows the table. The reader is for bytes that come from the extension
 * or from another thread of this page; it refuses what is not a frame.
 */
import { checkId, DeltaVectorsError, described } from './errors.js';
import type { DeltaOperation, VectorDelta } from './types.js';

const OPERATIONS = ['', 'create', 'sparse', 'dense', 'scale', 'offset', 'delete'] as const;
const ENCODING = { none: 0, sparse: 1, run: 2, dense: 3, diff: 4, scalar: 5, planes: 6 } as const;
const FLAG = { seq: 1, id: 2, time: 4, fields: 8, merged: 16, header: 32 } as const;
const TEXT = 3;
const INTEGER = 1;
/** Magic, version, operation, flags, the longest length, the CRC. */
const HEAD_BYTES = 3 + 1 + 1 + 5;
const CRC_BYTES = 4;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

// ---- CRC-32C: eight bytes a step, each through a table of its own ----------------------------------------------------

const CRC_TABLES = makeCrcTables();

function makeCrcTables(): Uint32Array[] {
  const tables: Uint32Array[] = [];
  for (let t = 0; t < 8; t++) {
    const table = new Uint32Array(256);
    for (let i = 0; i < 256; i++) {
      let c = t === 0 ? i : tables[t - 1]![i]!;
      if (t === 0) for (let bit = 0; bit < 8; bit++) c = c & 1 ? (c >>> 1) ^ 0x82f63b78 : c >>> 1;
      else c = (c >>> 8) ^ tables[0]![c & 255]!;
      table[i] = c;
    }
    tables.push(table);
  }
  return tables;
}

/** CRC-32C (RFC 3720) of bytes[from, to). */
export function crc32c(bytes: Uint8Array, from: number, to: number): number {
  const [t0, t1, t2, t3, t4, t5, t6, t7] = CRC_TABLES as [Uint32Array, Uint32Array, Uint32Array, Uint32Array, Uint32Array, Uint32Array, Uint32Array, Uint32Array];
  let crc = -1;
  let i = from;
  for (; i + 8 <= to; i += 8) {
    crc =
      t7[(crc ^ bytes[i]!) & 255]! ^
      t6[((crc >>> 8) ^ bytes[i + 1]!) & 255]! ^
      t5[((crc >>> 16) ^ bytes[i + 2]!) & 255]! ^
      t4[(crc >>> 24) ^ bytes[i + 3]!]! ^
      t3[bytes[i + 4]!]! ^
      t2[bytes[i + 5]!]! ^
      t1[bytes[i + 6]!]! ^
      t0[bytes[i + 7]!]!;
  }
  for (; i < to; i++) crc = (crc >>> 8) ^ t0[(crc ^ bytes[i]!) & 255]!;
  return ~crc >>> 0;
}

// ---- writing ---------------------------------------------------------------------------------------------------------

function invalid(delta: VectorDelta, what: string): DeltaVectorsError {
  return new DeltaVectorsError('invalid', `delta of row '${String(delta.vectorId)}': ${what}`);
}

function varintBytes(value: number): number {
  let n = 1;
  for (; value >= 128; value = Math.floor(value / 128)) n++;
  return n;
}

/** Bytes that surely hold the frame: for a buffer to write into. */
export function frameBound(delta: VectorDelta): number {
  kindOf(delta); // throws if the operation is none
  const metadata = delta.metadata === undefined ? 0 : 32 + metadataOf(delta).length * 3;
  return HEAD_BYTES + 32 + String(delta.vectorId).length * 3 + metadata + payloadBound(delta) + CRC_BYTES;
}

/** Metadata as JSON. */
function metadataOf(delta: VectorDelta): string {
  if (typeof delta.metadata !== 'object' || delta.metadata === null || Array.isArray(delta.metadata)) {
    throw invalid(delta, `metadata is ${described(delta.metadata)}: expected an object`);
  }
  try {
    return JSON.stringify(delta.metadata);
  } catch (thrown) {
    throw invalid(delta, `metadata cannot be written as JSON: ${(thrown as Error).message}`);
  }
}

/** The same for the payload alone. */
export function payloadBound({ operation }: VectorDelta): number {
  if (operation.type === 'create' || operation.type === 'dense') return operation.vector.length * 4;
  return operation.type === 'sparse' ? operation.indices.length * 9 : 4;
}

/** Sorted copies, where the indices do not rise. */
function sorted(indices: Uint32Array, values: Float32Array): [Uint32Array, Float32Array] {
  for (let i = 1; i < indices.length; i++) {
    if (indices[i - 1]! >= indices[i]!) {
      const order = [...indices.keys()].sort((a, b) => indices[a]! - indices[b]!);
      return [Uint32Array.from(order, (k) => indices[k]!), Float32Array.from(order, (k) => values[k]!)];
    }
  }
  return [indices, values];
}

/** Writes bytes at a position that moves; `bytes` must have room, see frameBound. */
class Writer {
  at: number;
  constructor(
    readonly bytes: Uint8Array,
    at: number,
  ) {
    this.at = at;
  }

  varint(value: number): void {
    while (value >= 0x80000000) {
      this.bytes[this.at++] = (value % 128) + 128;
      value = Math.floor(value / 128);
    }
    for (; value >= 128; value >>>= 7) this.bytes[this.at++] = (value & 127) | 128;
    this.bytes[this.at++] = value;
  }

  /** Zigzag: the sign is the lowest bit. Written by halves, since twice a time may be beyond 2^53. */
  zigzag(value: number): void {
    const magnitude = value < 0 ? -value - 1 : value;
    const low = (magnitude % 64) * 2 + (value < 0 ? 1 : 0);
    const high = Math.floor(magnitude / 64);
    this.bytes[this.at++] = high > 0 ? low | 128 : low;
    if (high > 0) this.varint(high);
  }

  text(text: string): void {
    // Nearly all ids are ASCII; what is not is encoded, its length being known only then.
    let isAscii = text.length < 128;
    for (let i = 0; isAscii && i < text.length; i++) isAscii = text.charCodeAt(i) < 128;
    if (isAscii) {
      this.bytes[this.at++] = text.length;
      for (let i = 0; i < text.length; i++) this.bytes[this.at++] = text.charCodeAt(i);
      return;
    }
    const utf8 = encoder.encode(text);
    this.varint(utf8.length);
    this.bytes.set(utf8, this.at);
    this.at += utf8.length;
  }
}

function writeFloats(values: Float32Array, bytes: Uint8Array, at: number): number {
  bytes.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), at);
  return at + values.byteLength;
}

const scalarFloat = new Float32Array(1);

function writeScalar(delta: VectorDelta, what: string, value: number, bytes: Uint8Array, at: number): number {
  if (typeof value !== 'number') throw invalid(delta, `${what} is ${described(value)}: expected a number`);
  scalarFloat[0] = value;
  return writeFloats(scalarFloat, bytes, at);
}

/** Writes the payload of a delta, which kindOf has looked at, at bytes[at], where payloadBound(delta) bytes are free. Returns where it ends. */
export function writePayload(delta: VectorDelta, bytes: Uint8Array, at: number): number {
  const { operation } = delta;
  switch (operation.type) {
    case 'create':
    case 'dense':
      return writeFloats(operation.vector, bytes, at);
    case 'sparse': {
      const [indices, values] = sorted(operation.indices, operation.values);
      let next = 0;
      for (let i = 0; i < indices.length; i++) {
        const index = indices[i]!;
        if (index < next) throw invalid(delta, `index ${index} is given twice`);
        let gap = index - next;
        for (; gap >= 128; gap >>>= 7) bytes[at++] = (gap & 127) | 128;
        bytes[at++] = gap;
        next = index + 1;
      }
      return writeFloats(values, bytes, at);
    }
    case 'scale':
      return writeScalar(delta, 'factor', operation.factor, bytes, at);
    case 'offset':
      return writeScalar(delta, 'amount', operation.amount, bytes, at);
    case 'delete':
      return at;
  }
}

function notA(delta: VectorDelta, what: string, value: unknown, type: string): DeltaVectorsError {
  return invalid(delta, `${what} ${described(value)}: expected a ${type}`);
}

/** Operation and encoding in one byte. Throws if the delta is none. */
export function kindOf(delta: VectorDelta): number {
  if (typeof delta !== 'object' || delta === null) {
    throw new DeltaVectorsError('invalid', `the delta is ${described(delta)}: expected { vectorId, operation }`);
  }
  const { operation, vectorId } = delta;
  checkId(vectorId);
  switch (operation?.type) {
    case 'create':
    case 'dense':
      if (!(operation.vector instanceof Float32Array)) throw notA(delta, 'vector is', operation.vector, 'Float32Array');
      return (operation.type === 'create' ? 1 : 3) * 16 + ENCODING.dense;
    case 'sparse':
      if (!(operation.indices instanceof Uint32Array)) throw notA(delta, 'indices are', operation.indices, 'Uint32Array');
      if (!(operation.values instanceof Float32Array)) throw notA(delta, 'values are', operation.values, 'Float32Array');
      if (operation.indices.length !== operation.values.length) {
        throw invalid(delta, `there are ${operation.indices.length} indices, but ${operation.values.length} values`);
      }
      return 2 * 16 + ENCODING.sparse;
    case 'scale':
      return 4 * 16 + ENCODING.scalar;
    case 'offset':
      return 5 * 16 + ENCODING.scalar;
    case 'delete':
      return 6 * 16 + ENCODING.none;
    default:
      throw invalid(
        delta,
        `the operation's type is ${described((operation as { type?: unknown } | undefined)?.type)}: expected create, sparse, dense, scale, offset or delete`,
      );
  }
}

/**
 * Writes the frame of a delta, which names its row, at bytes[at], where frameBound(delta) bytes are free. Returns where it
 * ends.
 */
export function writeFrame(delta: VectorDelta, bytes: Uint8Array, at: number): number {
  const end = writeUnsealed(delta, bytes, at);
  const crc = crc32c(bytes, at, end - CRC_BYTES);
  bytes[end - 4] = crc;
  bytes[end - 3] = crc >>> 8;
  bytes[end - 2] = crc >>> 16;
  bytes[end - 1] = crc >>> 24;
  return end;
}

/** The same without the checksum, for which room is left: for who reads it at once, from the same memory. */
export function writeUnsealed(delta: VectorDelta, bytes: Uint8Array, at: number): number {
  const kind = kindOf(delta);
  // The body's length comes before the body: room for it is left, and what was too much is closed up.
  const out = new Writer(bytes, at + HEAD_BYTES);
  let flags: number = FLAG.id;
  bytes[out.at++] = TEXT;
  out.text(delta.vectorId);
  if (delta.timestamp !== undefined) {
    const time = delta.timestamp instanceof Date ? delta.timestamp.getTime() : NaN;
    if (!Number.isSafeInteger(time)) throw invalid(delta, `timestamp is ${described(delta.timestamp)}: expected a valid Date`);
    flags |= FLAG.time;
    out.zigzag(time);
  }
  if (delta.metadata !== undefined) {
    // A field without a name is a patch.
    const json = encoder.encode(metadataOf(delta));
    flags |= FLAG.fields;
    out.varint(2 + varintBytes(json.length) + json.length);
    bytes[out.at++] = 0;
    bytes[out.at++] = TEXT;
    out.varint(json.length);
    bytes.set(json, out.at);
    out.at += json.length;
  }
  out.at = writePayload(delta, bytes, out.at);

  const length = out.at - at - HEAD_BYTES;
  const head = new Writer(bytes, at);
  bytes[head.at++] = 0x7a;
  bytes[head.at++] = 0xde;
  bytes[head.at++] = 1;
  bytes[head.at++] = kind;
  bytes[head.at++] = flags;
  head.varint(length);
  bytes.copyWithin(head.at, at + HEAD_BYTES, out.at);
  return head.at + length + CRC_BYTES;
}

/** The frame of a delta. */
export function encodeFrame(delta: VectorDelta): Uint8Array {
  const bytes = new Uint8Array(frameBound(delta));
  return bytes.subarray(0, writeFrame(delta, bytes, 0));
}

// ---- reading ---------------------------------------------------------------------------------------------------------

/** What a frame says. */
export interface DecodedFrame {
  /** '' if the frame names no row. An INTEGER id as its digits. */
  vectorId: string;
  operation: DeltaOperation;
  seq?: number;
  timestamp?: Date;
  /** If the frame carries a patch. */
  metadata?: Record<string, unknown>;
  /** Where the next frame begins. */
  end: number;
}

/** So many numbers are read one by one: what copies all of them costs more. */
const FEW = 64;

class Reader {
  readonly #view: DataView;
  constructor(
    readonly bytes: Uint8Array,
    public at: number,
    public end: number,
  ) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  fail(): never {
    throw new DeltaVectorsError('corrupt', `byte ${this.at}: not a frame, or a damaged one`);
  }

  take(n: number): number {
    const at = this.at;
    if (!(n >= 0) || n > this.end - at) this.fail();
    this.at = at + n;
    return at;
  }

  u8(): number {
    return this.bytes[this.take(1)]!;
  }

  varint(): number {
    const first = this.bytes[this.at]!;
    if (this.at < this.end && first < 128) {
      this.at++;
      return first;
    }
    let value = 0;
    for (let scale = 1; scale < 2 ** 53; scale *= 128) {
      const byte = this.u8();
      value += (byte & 127) * scale;
      if (byte < 128) {
        if (!Number.isSafeInteger(value)) this.fail();
        return value;
      }
    }
    return this.fail();
  }

  zigzag(): number {
    const low = this.u8();
    const magnitude = ((low & 127) >> 1) + (low & 128 ? this.varint() * 64 : 0);
    if (!Number.isSafeInteger(magnitude)) this.fail();
    return low & 1 ? -magnitude - 1 : magnitude;
  }

  f32(): number {
    return this.#view.getFloat32(this.take(4), true);
  }

  floats(n: number, values = new Float32Array(n)): Float32Array {
    const at = this.take(n * 4);
    if (n < FEW) for (let i = 0; i < n; i++) values[i] = this.#view.getFloat32(at + 4 * i, true);
    else new Uint8Array(values.buffer, values.byteOffset).set(this.bytes.subarray(at, at + n * 4));
    return values;
  }

  text(): string {
    const length = this.varint();
    const at = this.take(length);
    if (length <= 32) {
      let text = '';
      let i = at;
      for (; i < at + length && this.bytes[i]! < 128; i++) text += String.fromCharCode(this.bytes[i]!);
      if (i === at + length) return text;
    }
    return decoder.decode(this.bytes.slice(at, at + length));
  }

  u32(): number {
    return this.#view.getUint32(this.take(4), true);
  }
}

/** Indices as they are read, before anybody knows how many there are. */
let found = new Uint32Array(FEW);

function readSparse(r: Reader): DeltaOperation {
  // The number of pairs is the k whose first k varints and 4k bytes fill the payload.
  let n = 0;
  let next = 0;
  while (r.end - r.at > n * 4) {
    const index = next + r.varint();
    if (index > 0xffffffff) r.fail();
    if (n === found.length) {
      const more = new Uint32Array(2 * n);
      more.set(found);
      found = more;
    }
    found[n++] = index;
    next = index + 1;
  }
  if (r.end - r.at !== n * 4) r.fail();
  // Memory for arrays is most of the work, where they are too long to lie in the engine's own: one piece for both.
  const both = new ArrayBuffer(8 * n);
  const indices = new Uint32Array(both, 0, n);
  if (n < FEW) for (let i = 0; i < n; i++) indices[i] = found[i]!;
  else indices.set(found.subarray(0, n));
  return { type: 'sparse', indices, values: r.floats(n, new Float32Array(both, 4 * n, n)) };
}

function readRun(r: Reader): DeltaOperation {
  const start = r.varint();
  const n = (r.end - r.at) / 4;
  if (!Number.isInteger(n)) r.fail();
  return { type: 'sparse', indices: Uint32Array.from({ length: n }, (_, i) => start + i), values: r.floats(n) };
}

/** Blocks of 64: exponents less their smallest, packed; then mantissas and signs in three planes. */
function readPlanes(r: Reader): Float32Array {
  const values: number[] = [];
  while (r.at < r.end) {
    const smallest = r.u8();
    const width = r.u8();
    const left = r.end - r.at;
    let m = 64;
    if (Math.ceil((64 * width) / 8) + 192 > left) {
      m = 0;
      while (Math.ceil(((m + 1) * width) / 8) + 3 * (m + 1) <= left) m++;
    }
    if (m === 0 || width > 8) r.fail();
    const packed = r.take(Math.ceil((m * width) / 8));
    const planes = r.take(3 * m);
    for (let i = 0; i < m; i++) {
      const bit = i * width;
      const two = r.bytes[packed + (bit >> 3)]! | ((r.bytes[packed + (bit >> 3) + 1] ?? 0) << 8);
      const exponent = smallest + ((two >> (bit & 7)) & ((1 << width) - 1));
      const high = r.bytes[planes + 2 * m + i]!;
      values.push((((high & 128) << 24) | (exponent << 23) | ((high & 127) << 16) | (r.bytes[planes + m + i]! << 8) | r.bytes[planes + i]!) >>> 0);
    }
  }
  return new Float32Array(Uint32Array.from(values).buffer);
}

function readOperation(r: Reader, kind: number): DeltaOperation {
  const type = OPERATIONS[kind >> 4];
  const encoding = kind & 15;
  switch (type) {
    case 'create':
      return { type, vector: encoding === ENCODING.planes ? readPlanes(r) : r.floats((r.end - r.at) >> 2) };
    case 'sparse':
    case 'dense':
      if (encoding === ENCODING.sparse) return readSparse(r);
      if (encoding === ENCODING.run) return readRun(r);
      if (encoding === ENCODING.dense) return { type: 'dense', vector: r.floats((r.end - r.at) >> 2) };
      if (encoding === ENCODING.planes) return { type: 'dense', vector: readPlanes(r) };
      return r.fail();
    case 'scale':
      return { type, factor: r.f32() };
    case 'offset':
      return { type, amount: r.f32() };
    case 'delete':
      return { type };
    default:
      return r.fail();
  }
}

/** Reads the frame that begins at bytes[at]. */
export function decodeFrame(bytes: Uint8Array, at = 0): DecodedFrame {
  const r = new Reader(bytes, at, bytes.length);
  if (r.u8() !== 0x7a || r.u8() !== 0xde) r.fail();
  if (r.u8() !== 1) throw new DeltaVectorsError('corrupt', `byte ${at}: the frame is of a newer delta_vectors`);
  const kind = r.u8();
  const flags = r.u8();
  const length = r.varint();
  if (flags > 31) r.fail();
  const bodyAt = r.take(length);
  const bodyEnd = r.at;
  if (r.u32() !== crc32c(bytes, at, bodyEnd)) r.fail();
  const end = r.at;
  r.at = bodyAt;
  r.end = bodyEnd;
  const frame: DecodedFrame = { vectorId: '', operation: { type: 'delete' }, end };
  if (flags & FLAG.seq) frame.seq = r.varint();
  if (flags & FLAG.id) {
    const type = r.u8();
    if (type === TEXT) frame.vectorId = r.text();
    else if (type === INTEGER) frame.vectorId = String(r.zigzag());
    else r.fail();
  }
  if (flags & FLAG.time) frame.timestamp = new Date(r.zigzag());
  if (flags & FLAG.fields) {
    const fieldsLength = r.varint();
    const fieldsEnd = r.at + fieldsLength;
    if (fieldsLength > 0 && r.u8() === 0 && r.u8() === TEXT) frame.metadata = JSON.parse(r.text()) as Record<string, unknown>;
    if (fieldsEnd > r.end) r.fail();
    r.at = fieldsEnd;
  }
  frame.operation = readOperation(r, kind);
  if (r.at !== r.end) r.fail();
  return frame;
}
