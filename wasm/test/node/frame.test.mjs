// Frames, against the bytes of docs/file-format.md and against the extension.
import assert from 'node:assert/strict';
import { before, it } from 'node:test';
import { decodeFrame, encodeFrame, loadDeltaVectors } from '../../dist/index.js';
import { crc32c } from '../../dist/frame.js';
import { sqliteOf } from './sqlite.mjs';

let db;
before(async () => {
  const sqlite3 = await sqliteOf();
  await loadDeltaVectors(sqlite3);
  db = new sqlite3.oo1.DB(':memory:');
});

const hex = (bytes) => Buffer.from(bytes).toString('hex');
const bytes = (text) => Uint8Array.from(Buffer.from(text.replaceAll(' ', ''), 'hex'));
const f32 = (...values) => Float32Array.from(values);
const u32 = (...values) => Uint32Array.from(values);

it('CRC-32C is the one of RFC 3720', () => {
  assert.equal(crc32c(Buffer.from('123456789'), 0, 9), 0xe3069283);
  assert.equal(crc32c(new Uint8Array(0), 0, 0), 0);
});

it('reads the examples of the file format', () => {
  assert.deepEqual(decodeFrame(bytes('7a de 01 45 00 04 66 66 66 3f 74 9e 2e c7')).operation, { type: 'scale', factor: Math.fround(0.9) });
  const frame = decodeFrame(bytes(
    '7a de 01 21 07 14 07 03 01 61 80 f0 86 c2 ee 65 01 03 00 00 00 3f 00 00 80 bf' +
      hex(new Uint32Array([crc32c(bytes('7a de 01 21 07 14 07 03 01 61 80 f0 86 c2 ee 65 01 03 00 00 00 3f 00 00 80 bf'), 0, 26)]).buffer)));
  assert.deepEqual({ ...frame }, {
    vectorId: 'a', seq: 7, timestamp: new Date(1750000000000), end: 30,
    operation: { type: 'sparse', indices: u32(1, 5), values: f32(0.5, -1) },
  });
});

it('writes what the extension writes, byte for byte', () => {
  const operations = [
    [{ type: 'create', vector: f32(1, -2, 3.5) }, "delta_create('[1, -2, 3.5]')"],
    [{ type: 'dense', vector: f32(0.1, 0.2) }, "delta_dense('[0.1, 0.2]')"],
    [{ type: 'sparse', indices: u32(17, 3, 300), values: f32(-1, 0.5, 2) }, "delta_sparse('[3, 17, 300]', '[0.5, -1, 2]')"],
    [{ type: 'sparse', indices: u32(), values: f32() }, "delta_sparse('[]', '[]')"],
    [{ type: 'scale', factor: 0.9 }, 'delta_scale(0.9)'],
    [{ type: 'offset', amount: -0.5 }, 'delta_offset(-0.5)'],
    [{ type: 'delete' }, 'delta_delete()'],
  ];
  for (const [operation, sql] of operations) {
    for (const vectorId of ['a', '', 'ä日🙂', 'x'.repeat(127), 'y'.repeat(128), 'é'.repeat(9000)]) {
      for (const time of [undefined, 0, -1, 63, 64, -65, 1750000000000, 8.64e15, -8.64e15]) {
        for (const metadata of [undefined, { lang: 'en' }, { 'ключ': ['ü', null, 1.5] }]) {
          const ours = encodeFrame({
            vectorId, operation,
            ...(time !== undefined && { timestamp: new Date(time) }),
            ...(metadata && { metadata }),
          });
          const theirs = db.selectValue(`SELECT delta_pack(?, ${sql}, ?, ?)`, [
            vectorId, time ?? null, metadata ? JSON.stringify(metadata) : null,
          ]);
          assert.equal(hex(ours), hex(theirs));
          const back = decodeFrame(ours);
          assert.equal(back.vectorId, vectorId);
          assert.equal(back.timestamp?.getTime(), time);
          assert.deepEqual(back.metadata, metadata);
          assert.equal(back.end, ours.length);
        }
      }
    }
  }
});

it('reads every encoding that the extension stores', () => {
  const cases = {
    run: "delta_diff('[1, 2, 3, 4, 5, 6, 7, 8]', '[1, 2, 9, 9, 9, 6, 7, 8]')",
    sparse: "delta_diff('[1, 2, 3, 4, 5, 6, 7, 8]', '[1, 2, 9, 4, 5, 6, 7, 9]')",
    dense: "delta_dense('[1, 2, 3]')",
  };
  for (const [encoding, sql] of Object.entries(cases)) {
    const [blob, json] = db.selectArray(`SELECT d, delta_json(d) FROM (SELECT ${sql} AS d)`);
    const told = JSON.parse(json);
    assert.equal(told.encoding, encoding);
    const { operation } = decodeFrame(blob);
    if (told.vector) assert.deepEqual([...operation.vector], told.vector);
    else assert.deepEqual([[...operation.indices], [...operation.values]], [told.indices ?? [...operation.values.keys()].map((i) => i + told.start), told.values]);
  }
  // planes: full vectors with compression=max, of all lengths around a block
  for (const n of [1, 2, 63, 64, 65, 127, 128, 130, 384]) {
    db.exec(`CREATE VIRTUAL TABLE p USING delta_vectors(dimensions=${n}, compression=max)`);
    const vector = Float32Array.from({ length: n }, (_, i) => Math.sin(i + n) / 20);
    if (n === 130) vector.set([0, -0, 1e30, 1e-30], 0);
    db.exec({ sql: "INSERT INTO p(id, vector) VALUES('a', ?)", bind: [new Uint8Array(vector.buffer)] });
    const [blob, encoding] = db.selectArray("SELECT delta, encoding FROM delta_chain('p', 'a')");
    if (n === 384) assert.equal(encoding, 'planes');
    assert.equal(hex(new Uint8Array(decodeFrame(blob).operation.vector.buffer)), hex(new Uint8Array(vector.buffer)));
    db.exec('DROP TABLE p');
  }
});

it('refuses what is not a frame, whatever byte is wrong', () => {
  const frame = encodeFrame({ vectorId: 'a', operation: { type: 'sparse', indices: u32(1, 400), values: f32(1, 2) }, metadata: { x: 1 } });
  for (let i = 0; i < frame.length; i++) {
    for (const bit of [1, 128]) {
      const damaged = Uint8Array.from(frame);
      damaged[i] ^= bit;
      assert.throws(() => decodeFrame(damaged), (e) => e.code === 'corrupt', `byte ${i}`);
    }
    assert.throws(() => decodeFrame(frame.subarray(0, i)), (e) => e.code === 'corrupt');
  }
});

it('reads sparse deltas of any length, each into memory of its own', () => {
  const frames = [0, 1, 2, 16, 17, 63, 64, 65, 127, 128, 129, 1000].map((n) => {
    const indices = Uint32Array.from({ length: n }, (_, i) => i * 300 + (i % 7));
    const values = Float32Array.from({ length: n }, (_, i) => Math.fround(i / 3 - 7));
    return [encodeFrame({ vectorId: `é${n}`, operation: { type: 'sparse', indices, values } }), indices, values];
  });
  const decoded = frames.map(([frame]) => decodeFrame(frame));
  frames.forEach(([frame, indices, values], i) => {
    assert.deepEqual(decoded[i].operation, { type: 'sparse', indices, values });
    assert.equal(decoded[i].end, frame.length);
    decoded[i].operation.values.fill(0);
    assert.deepEqual(decoded[i].operation.indices, indices);
  });
});

it('refuses an index that no vector has', () => {
  // Of a frame with one pair, whose index is the last that fits 32 bits, the bytes of that index.
  const frame = encodeFrame({ vectorId: 'a', operation: { type: 'sparse', indices: u32(0xffffffff), values: f32(1) } });
  assert.deepEqual(decodeFrame(frame).operation.indices, u32(0xffffffff));
  const at = frame.length - 4 - 4 - 5;
  assert.deepEqual([...frame.subarray(at, at + 5)], [255, 255, 255, 255, 15]);
  frame[at + 4] = 16;
  new DataView(frame.buffer, frame.byteOffset).setUint32(frame.length - 4, crc32c(frame, 0, frame.length - 4), true);
  assert.throws(() => decodeFrame(frame), (e) => e.code === 'corrupt');
});

it('says what is wrong with a delta', () => {
  const wrong = (delta, message) => assert.throws(() => encodeFrame(delta), (e) => e.code === 'invalid' && message.test(e.message));
  wrong({ vectorId: 'a', operation: { type: 'grow' } }, /delta of row 'a': the operation's type is "grow": expected create, sparse/);
  wrong({ vectorId: 'a' }, /the operation's type is undefined/);
  wrong({ vectorId: 7, operation: { type: 'delete' } }, /vectorId is 7: expected a string/);
  wrong({ vectorId: 'a', operation: { type: 'create', vector: [1, 2] } }, /delta of row 'a': vector is an Array: expected a Float32Array/);
  wrong({ vectorId: 'a', operation: { type: 'sparse', indices: [1], values: f32(1) } }, /indices are an Array: expected a Uint32Array/);
  wrong({ vectorId: 'a', operation: { type: 'sparse', indices: u32(1), values: f32() } }, /there are 1 indices, but 0 values/);
  wrong({ vectorId: 'a', operation: { type: 'sparse', indices: u32(4, 1, 4), values: f32(1, 2, 3) } }, /index 4 is given twice/);
  wrong({ vectorId: 'a', operation: { type: 'scale' } }, /factor is undefined: expected a number/);
  wrong({ vectorId: 'a', operation: { type: 'delete' }, timestamp: new Date(NaN) }, /timestamp is Invalid Date/);
  wrong({ vectorId: 'a', operation: { type: 'delete' }, metadata: [1] }, /metadata is an Array: expected an object/);
});
