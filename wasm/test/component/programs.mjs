// What the component promises, as programs for any host (see hosts.mjs): they run in Node, in a page of Chromium and in wasmtime. So
// nothing here is of one of them.

// ---- helpers ---------------------------------------------------------------------------------------------------------

const show = (value) =>
  JSON.stringify(value, (_, v) => (typeof v === 'bigint' ? `${v}n` : v instanceof Uint32Array ? [...v] : ArrayBuffer.isView(v) ? [v.constructor.name, ...v] : Object.is(v, -0) ? '-0' : v)) ?? 'undefined';

export function equal(actual, expected, what = '') {
  if (show(actual) !== show(expected)) throw new Error(`${what}\n  is       ${show(actual).slice(0, 2000)}\n  expected ${show(expected).slice(0, 2000)}`);
}

function ok(condition, what) {
  if (!condition) throw new Error(what);
}

/** The message of the error, which is not a trap. */
async function failure(promise) {
  try {
    await promise;
  } catch (e) {
    if (e.name === 'Trap' || e instanceof WebAssembly.RuntimeError) throw new Error(`a trap: ${e.stack}`, { cause: e });
    return e.payload ?? e.message;
  }
  return undefined;
}

async function fails(promise, pattern) {
  const message = await failure(promise);
  ok(message !== undefined && pattern.test(message), `expected an error like ${pattern}, not ${message}`);
}

export const f32 = (...values) => Float32Array.from(values);
const create = (vectorId, ...values) => ({ vectorId, operation: { tag: 'create', val: f32(...values) } });
const dense = (vectorId, ...values) => ({ vectorId, operation: { tag: 'dense', val: f32(...values) } });
const sparse = (vectorId, indices, values) => ({ vectorId, operation: { tag: 'sparse', val: { indices: Uint32Array.from(indices), values: f32(...values) } } });
const scale = (vectorId, val) => ({ vectorId, operation: { tag: 'scale', val } });
const offset = (vectorId, val) => ({ vectorId, operation: { tag: 'offset', val } });
const remove = (vectorId) => ({ vectorId, operation: { tag: 'delete' } });
const at = (delta, ms) => ({ ...delta, timestamp: BigInt(ms) });

/** The same numbers each time. */
export function random(seed) {
  let x = seed >>> 0 || 1;
  return () => {
    x ^= x << 13, x >>>= 0;
    x ^= x >>> 17;
    x ^= x << 5, x >>>= 0;
    return x / 2 ** 32;
  };
}

const plain = (entries) => entries.map(({ timestamp, ...rest }) => rest);

// ---- the ADR's interface ---------------------------------------------------------------------------------------------

export const programs = {
  async 'every operation, and ids that rise'(host) {
    const db = await host.database(3);
    equal(await db.applyDelta(create('a', 1, 2, 3)), '1');
    equal(await db.applyDeltas([sparse('a', [2, 0], [30, 10]), scale('a', 0.5), offset('a', 1)]), ['2', '3', '4']);
    equal(await db.getVector('a'), f32(6, 2, 16));
    equal(await db.applyDelta(sparse('a', [1], [-0])), '5');
    equal(await db.getVector('a'), f32(6, -0, 16));
    equal(await db.applyDelta(sparse('a', [], [])), '6');
    equal(await db.applyDelta(dense('a', 7, 8, 9)), '7');
    equal(await db.applyDelta(scale('a', 0.5)), '8');
    equal(await db.applyDelta(offset('a', -0.5)), '9');
    equal(await db.getVector('a'), f32(3, 3.5, 4));
    equal(await db.applyDelta(remove('a')), '10');
    equal(await db.getVector('a'), undefined);
    equal(await db.getVector('never'), undefined);
    equal(await db.lastError(), undefined);
    equal(await db.applyDeltas([]), []);
    const ids = ['', 'ä', '𝄞𝄞', "it's", 'x'.repeat(5000)];
    await db.applyDeltas(ids.map((id, i) => create(id, i, i, i)));
    for (const [i, id] of ids.entries()) equal(await db.getVector(id), f32(i, i, i), id);
    await db.drop();
  },

  async 'what is wrong is refused, with the reason, and changes nothing'(host) {
    const db = await host.database(3);
    await db.applyDelta(create('a', 1, 2, 3));
    await fails(db.applyDelta(create('a', 1, 2, 3)), /row 'a' exists already/);
    await fails(db.applyDelta(offset('b', 1)), /row 'b' does not exist/);
    await fails(db.applyDelta(dense('a', 1)), /the dense delta has 1 dimensions?, expected 3/);
    await fails(db.applyDelta(create('c')), /row 'c'/);
    await fails(db.applyDelta(scale('a', NaN)), /row 'a': the amount is not a finite/);
    await fails(db.applyDelta(scale('a', 3e38)), /overflow/);
    await fails(db.applyDelta(dense('a', 1, Infinity, 1)), /row 'a': value 1 is not finite/);
    await fails(db.applyDelta(sparse('a', [3], [1])), /index 3 is out of range/);
    await fails(db.applyDelta(sparse('a', [1, 1], [1, 2])), /index 1 is given twice/);
    await fails(db.applyDelta(sparse('a', [1, 2], [1])), /row 'a': a sparse delta has 2 indices and 1 values/);
    await fails(db.applyDelta({ ...offset('a', 1), timestamp: 5n }), /older than the row's last one/);
    await fails(db.applyDelta({ ...offset('a', 1), timestamp: 2n ** 64n - 1n }), /the time 18446744073709551615 is too large/);
    await fails(db.applyDeltas([offset('a', 1), create('c', 1, 1, 1), offset('nobody', 1)]), /'nobody' does not exist/);
    equal(await db.getVector('a'), f32(1, 2, 3));
    equal(await db.getVector('c'), undefined);
    equal(JSON.parse(await db.status()).deltas, 1);
    equal(await db.applyDelta(offset('a', 1)), '2', 'and it goes on');
    await db.drop();
  },

  async 'a database of impossible dimensions says so in every call'(host) {
    for (const dimensions of [0, 65537, 2 ** 32 - 1]) {
      const db = await host.database(dimensions);
      const why = new RegExp(`option dimensions is '${dimensions}': expected an integer from 1 to 65536`);
      await fails(db.applyDelta(create('a', 1)), why);
      await fails(db.applyDeltas([]), why);
      await fails(db.import(new Uint8Array(1000)), why);
      await fails(db.status(), why);
      await fails(db.deltaChain('a'), why);
      equal(await db.getVector('a'), undefined);
      equal(await db.search(f32(1), 3), []);
      equal(await db.export(), new Uint8Array());
      ok(why.test(await db.lastError()), 'last-error');
      await db.drop();
    }
    const db = await host.database(65536);
    const vector = Float32Array.from({ length: 65536 }, (_, i) => i);
    await db.applyDelta({ vectorId: 'a', operation: { tag: 'create', val: vector } });
    equal(await db.getVector('a'), vector);
    await db.drop();
  },

  async 'search: the nearest, with the scores of each metric'(host) {
    const rows = [create('x', 1, 0), create('y', 0, 2), create('z', 3, 4)];
    const expected = {
      cosine: [['x', 1], ['z', Math.fround(0.6)], ['y', 0]],
      l2: [['x', 1], ['y', Math.fround(1 / (1 + Math.fround(Math.sqrt(5))))], ['z', Math.fround(1 / (1 + Math.fround(Math.sqrt(20))))]],
      ip: [['z', 3], ['x', 1], ['y', 0]],
      l1: [['x', 1], ['y', 0.25], ['z', Math.fround(1 / 7)]],
    };
    for (const [metric, results] of Object.entries(expected)) {
      const db = await host.open({ dimensions: 2, metric });
      await db.applyDeltas(rows);
      const found = await db.search(f32(1, 0), 5);
      equal(found.map((r) => r.id), results.map((r) => r[0]), metric);
      for (const [i, [, score]] of results.entries()) ok(Math.abs(found[i].score - score) < 1e-6, `${metric}: ${show(found)}`);
      equal((await db.search(f32(1, 0), 1)).length, 1);
      equal(await db.search(f32(1, 0), 0), []);
      await db.drop();
    }
    const db = await host.database(2);
    equal(await db.search(f32(1, 0), 5), [], 'of an empty one');
    equal(await db.lastError(), undefined);
    for (const [query, why] of [[f32(1), /1 dimensions?, expected 2/], [f32(), /expected 2/], [f32(NaN, 1), /finite/]]) {
      equal(await db.search(query, 5), []);
      ok(why.test(await db.lastError()), `last-error ${await db.lastError()}`);
      await fails(db.searchWith(query, 5, { values: [] }), why);
    }
    equal(await db.getVector('x'), undefined);
    equal(await db.lastError(), undefined, 'of the last call');
    await db.drop();
  },

  async 'export and import: the whole database, or nothing'(host) {
    const db = await host.database(3);
    await db.applyDeltas([create('a', 1, 2, 3), create('b', 4, 5, 6), offset('a', 1)]);
    const bytes = await db.export();
    equal(String.fromCharCode(...bytes.slice(0, 15)), 'SQLite format 3');
    const other = await host.database(3);
    await other.applyDelta(create('gone', 1, 1, 1));
    equal(await other.import(bytes), undefined);
    equal(await other.getVector('a'), f32(2, 3, 4));
    equal(await other.getVector('gone'), undefined);
    equal(await other.applyDelta(offset('b', 1)), '4');
    equal((await other.search(f32(5, 6, 7), 1))[0].id, 'b');
    equal(await db.getVector('b'), f32(4, 5, 6), 'a copy');
    equal(await (await host.database(3)).export().then((b) => b.length > 0), true);

    const four = await host.database(4);
    await fails(four.import(bytes), /import: the table vectors has 3 dimensions and the metric cosine, expected 4 and cosine/);
    equal(await four.applyDelta(create('a', 1, 2, 3, 4)), '1', 'as it was');
    const l2 = await host.open({ dimensions: 3, metric: 'l2' });
    await fails(l2.import(bytes), /the metric cosine, expected 3 and l2/);
    const named = await host.open({ dimensions: 3, table: 'docs' });
    await fails(named.import(bytes), /no such table: docs|docs/);
    for (const x of [db, other, four, l2, named]) await x.drop();
  },

  async 'hostile bytes are refused, and change nothing'(host) {
    const db = await host.database(8);
    const next = random(7);
    const vector = () => Array.from({ length: 8 }, () => Math.fround(next() - 0.5));
    await db.applyDeltas(Array.from({ length: 60 }, (_, i) => create(`r${i}`, ...vector())));
    await db.applyDeltas(Array.from({ length: 200 }, (_, i) => sparse(`r${i % 60}`, [i % 8], [i])));
    const good = await db.export();
    const target = await host.database(8);
    await target.applyDelta(create('mine', 1, 2, 3, 4, 5, 6, 7, 8));
    const head = Uint8Array.from('SQLite format 3\0', (c) => c.charCodeAt(0));
    const noise = Uint8Array.from({ length: 5000 }, () => next() * 256);
    const withHead = noise.slice();
    withHead.set(head);
    for (const bytes of [new Uint8Array(), head, noise, withHead, good.slice(0, 99), good.slice(0, 100), good.slice(0, 512), good.slice(0, good.length / 2)]) {
      await fails(target.import(bytes), /import: /);
    }
    let refused = 0;
    const rounds = 300 / (host.slowness ?? 1);
    for (let i = 0; i < rounds; i++) {
      const bad = good.slice();
      const n = 1 + Math.floor(next() * 8);
      for (let j = 0; j < n; j++) bad[Math.floor(next() * (next() < 0.3 ? 120 : bad.length))] = next() * 256;
      const message = await failure(target.import(bad));
      if (message === undefined) {
        // A change that nothing depends on, or that makes other data: it must hold together all the same.
        await failure(target.status());
        await failure(target.search(f32(1, 2, 3, 4, 5, 6, 7, 8), 3));
        await failure(target.log(0n, 1000));
        await target.import(good);
        continue;
      }
      refused++;
      ok((await target.getVector('mine')) ?? (await target.getVector('r0')), `${i}: the database is as it was`);
    }
    ok(refused > rounds / 6, `${refused} refused`);
    await target.import(good);
    equal(await target.getVector('r7'), await db.getVector('r7'));
    const deltas = await db.exportDeltas(0n);
    const fresh = await host.database(8);
    await fails(fresh.importDeltas(new Uint8Array()), /./);
    await fails(fresh.importDeltas(noise), /./);
    for (let i = 0; i < 100; i++) {
      const bad = deltas.slice(0, i % 10 ? deltas.length : Math.floor(next() * deltas.length));
      bad[Math.floor(next() * bad.length)] ^= 1 + next() * 255;
      await failure(fresh.importDeltas(bad));
    }
    await fresh.importDeltas(deltas);
    equal(await fresh.getVector('r7'), await db.getVector('r7'));
    for (const x of [db, target, fresh]) await x.drop();
  },

  // ---- delta-db-ext --------------------------------------------------------------------------------------------------

  async 'the options'(host) {
    await fails(host.open({ dimensions: 0 }), /option dimensions is '0'/);
    await fails(host.open({ dimensions: 3, checkpointInterval: 0 }), /option checkpoint_interval is '0': expected/);
    await fails(host.open({ dimensions: 3, hnswM: 1 }), /option hnsw_m is '1'/);
    await fails(host.open({ dimensions: 3, hnswEfConstruction: 0 }), /option hnsw_ef_construction is '0'/);
    await fails(host.open({ dimensions: 3, hnswEfSearch: 4e9 }), /option hnsw_ef_search is '4000000000'/);
    await fails(host.open({ dimensions: 3, maxVectors: 4e9 }), /option max_vectors is '4000000000'/);
    await fails(host.open({ dimensions: 3, table: '' }), /the table's name is empty/);
    await fails(host.open({ dimensions: 3, path: '' }), /the path is empty/);
    await fails(host.open({ dimensions: 3, path: 'a\0b' }), /the path has a zero byte/);
    const two = await host.open({ dimensions: 3, maxVectors: 2, checkpointInterval: 3, compression: false, table: "it's", metric: 'l1' });
    await two.applyDeltas([create('a', 1, 2, 3), create('b', 1, 2, 3)]);
    await fails(two.applyDelta(create('c', 1, 2, 3)), /max_vectors/);
    await two.applyDeltas([1, 2, 3, 4].map((i) => dense('a', i, 2, 3)));
    equal((await two.deltaChain('a')).map((d) => d.checkpoint), [true, true, true, true, true], 'uncompressed: full each time');
    const three = await host.open({ dimensions: 3, checkpointInterval: 3 });
    await three.applyDeltas([create('a', 1, 2, 3), ...[1, 2, 3, 4].map((i) => sparse('a', [0], [i]))]);
    equal((await three.deltaChain('a')).map((d) => d.checkpoint), [true, false, false, true, false]);
    for (const x of [two, three]) await x.drop();
  },

  async 'history: chains, the log, the past'(host) {
    const db = await host.database(3);
    const deltas = [
      at(create('a', 1, 2, 3), 0), at(create('b', 5, 5, 5), 1000), at(sparse('a', [0, 2], [10, -0]), 2000), at(dense('a', 7, 8, 9), 3000),
      at(scale('a', Math.fround(0.1)), 3000), at(offset('a', -1.5), 4000), at(remove('a'), 5000), at(create('a', 4, 4, 4), 1_800_000_000_000),
    ];
    equal(await db.applyDeltas(deltas), ['1', '2', '3', '4', '5', '6', '7', '8']);
    const log = await db.log(0n, 1000);
    equal(log.map((d) => d.seq), [1n, 2n, 3n, 4n, 5n, 6n, 7n, 8n]);
    log.forEach((entry, i) => {
      equal(entry.vectorId, deltas[i].vectorId);
      equal(entry.timestamp, deltas[i].timestamp);
      if (i === 3) return; // in its smallest form, and it may say that there are no metadata
      equal(entry.metadata, undefined);
      equal(entry.operation, deltas[i].operation, `operation ${i}`);
    });
    ok(log[3].operation.tag === 'dense' || log[3].operation.tag === 'sparse', 'dense, or sparse');
    ok([undefined, 'null'].includes(log[3].metadata), 'no metadata');
    equal(await db.log(5n, 2), log.slice(5, 7));
    equal(await db.log(8n, 2), []);
    equal(await db.log(2n ** 64n - 1n, 2), []);
    equal(await db.log(0n, 0), []);
    const chain = await db.deltaChain('a');
    equal(plain(chain).map(({ checkpoint, ...rest }) => rest), plain(log).filter((d) => d.vectorId === 'a').map(({ checkpoint, ...rest }) => rest));
    equal(chain[0].checkpoint, true);
    equal(await db.deltaChain('nobody'), []);

    const past = { 0: f32(1, 2, 3), 1999: f32(1, 2, 3), 2000: f32(10, 2, -0), 3500: f32(...[7, 8, 9].map((x) => Math.fround(x * Math.fround(0.1)))), 5000: undefined, 1_700_000_000_000: undefined, 1_800_000_000_000: f32(4, 4, 4) };
    const before = BigInt(Date.now()) - 1n;
    const clock = await host.database(1);
    await clock.applyDeltas([create('a', 1), ...Array.from({ length: 50 }, () => offset('a', 1))]);
    await new Promise((resolve) => setTimeout(resolve, 20));
    await clock.applyDelta(offset('a', 1));
    const times = (await clock.log(0n, 100)).map((d) => d.timestamp);
    equal(new Set(times.slice(0, 51)).size, 1, 'deltas of a call have one time');
    ok(times[51] >= times[0] + 15n && times[0] >= before && times[51] <= BigInt(Date.now()) + 1n, `now: ${show(times)}`);
    await clock.drop();

    for (const [time, vector] of Object.entries(past)) equal(await db.getVectorAt('a', BigInt(time)), vector, `at ${time}`);
    await fails(db.getVectorAt('a', 2n ** 63n), /the time 9223372036854775808 is too large/);

    equal(await db.rollback('a', '3'), '9');
    equal(await db.getVector('a'), f32(10, 2, -0));
    await fails(db.rollback('a', '99'), /row 'a' has no delta 99/);
    for (const id of ['', '-1', '1x', '99999999999999999999']) await fails(db.rollback('a', id), /is not the id of a delta/);
    equal(await db.compact(undefined), { rows: 0n, deltasBefore: 9n, deltasAfter: 9n, bytesBefore: (await db.compact('forever')).bytesBefore, bytesAfter: (await db.compact('forever')).bytesAfter, merged: 0n, removed: 0n }, 'nothing unless told');
    const stats = await db.compact('none');
    equal([stats.rows, stats.deltasBefore, stats.deltasAfter, stats.removed], [1n, 9n, 2n, 0n]);
    await fails(db.compact('some'), /'some'/);
    await fails(db.compact('none\0'), /zero byte/);
    equal(await db.getVector('a'), f32(10, 2, -0));
    equal((await db.log(0n, 100)).length, 2);
    await db.drop();
  },

  async 'metadata, and searches with options'(host) {
    const db = await host.open({ dimensions: 2, metric: 'l2' });
    const rows = Array.from({ length: 30 }, (_, i) => ({
      delta: at(create(`r${i}`, i, 0), 1000), metadata: JSON.stringify({ kind: i % 2 ? 'odd' : 'even', size: i / 2, n: i, ...(i % 3 || { third: true }) }),
    }));
    equal((await db.applyWithMetadata(rows)).length, 30);
    await db.applyWithMetadata([{ delta: at(sparse('r1', [], []), 2000), metadata: '{"kind":null,"extra":"ü"}' }, { delta: at(offset('r0', 100), 2000) }]);
    equal(JSON.parse(await db.getMetadata('r1')), { size: 0.5, n: 1, extra: 'ü' });
    equal(await db.getMetadata('nobody'), undefined);
    await db.applyDelta(create('bare', 1000, 0));
    equal(await db.getMetadata('bare'), undefined);
    await fails(db.applyWithMetadata([{ delta: offset('r2', 1), metadata: '{' }]), /metadata/);
    equal((await db.log(30n, 1))[0].metadata === undefined, false);

    const search = async (k, options) => (await db.searchWith(f32(0, 0), k, { values: [], ...options })).map((h) => `${h.id}=${h.distance}`).join(' ');
    equal(await search(3, {}), 'r1=1 r2=2 r3=3');
    equal(await db.searchWith(f32(0, 0), 1, { values: [] }), [{ id: 'r1', score: 0.5, distance: 1 }]);
    equal(await search(3, { exact: true }), 'r1=1 r2=2 r3=3');
    equal(await search(3, { ef: 10, recallTarget: 0.9 }), 'r1=1 r2=2 r3=3');
    equal(await search(5, { maxDistance: 2.5 }), 'r1=1 r2=2');
    equal(await search(2, { asOf: 1500n }), 'r0=0 r1=1');
    equal(await search(2, { asOf: 999n }), '');
    equal(await search(0, {}), '');
    equal(await search(2, { filter: "metadata ->> 'kind' = ?", values: [{ tag: 'text', val: 'odd' }] }), 'r3=3 r5=5');
    equal(await search(2, { filter: "metadata ->> 'n' > ?", values: [{ tag: 'integer', val: 10n }] }), 'r11=11 r12=12');
    equal(await search(2, { filter: "metadata ->> 'size' = ?", values: [{ tag: 'real', val: 7.5 }] }), 'r15=15');
    equal(await search(2, { filter: "metadata ->> 'third' IS NOT ?", values: [{ tag: 'null' }] }), 'r3=3 r6=6');
    equal(await search(1, { filter: "id = ?", values: [{ tag: 'text', val: 'r9' }] }), 'r9=9');
    const wrong = (options, why) => fails(db.searchWith(f32(0, 0), 3, { values: [], ...options }), why);
    await wrong({ ef: 0 }, /ef is 0/);
    await wrong({ ef: 4e9 }, /ef is 4000000000/);
    await wrong({ recallTarget: 0 }, /recall-target is 0/);
    await wrong({ recallTarget: NaN }, /recall-target is/);
    await wrong({ filter: 'nonsense =' }, /syntax error/);
    await wrong({ filter: 'id = ?' }, /1 parameters, 0 values/);
    await wrong({ asOf: 2n ** 63n }, /too large/);
    // However deep: an error at most, within the stack of any host.
    for (const deep of [900, 990, 5000, 100_000]) {
      for (const [before, after] of [['NOT ', ''], ['(', ')'], ['abs(', ')'], ['(SELECT ', ')'], ['1 + ', '']]) {
        await failure(db.searchWith(f32(0, 0), 1, { values: [], filter: `${before.repeat(deep)}id${after.repeat(deep)}` }));
      }
      const metadata = `${'{"a":'.repeat(deep)}1${'}'.repeat(deep)}`;
      for (let i = 0; i < 2; i++) await failure(db.applyWithMetadata([{ delta: offset('r3', 1), metadata }]));
    }
    equal(await search(1, {}), 'r1=1');
    await db.drop();
  },

  async 'a graph finds what a scan finds'(host) {
    const dimensions = 16, n = 3000;
    const db = await host.open({ dimensions, metric: 'l2', hnswM: 8, hnswEfConstruction: 60, hnswEfSearch: 60 });
    const next = random(3);
    const vector = () => Float32Array.from({ length: dimensions }, () => next() - 0.5);
    await db.applyDeltas(Array.from({ length: n }, (_, i) => ({ vectorId: `r${i}`, operation: { tag: 'create', val: vector() } })));
    equal(await db.optimize(), undefined);
    equal(JSON.parse(await db.status()).rows, n);
    let found = 0;
    for (let i = 0; i < 20; i++) {
      const query = vector();
      const exact = new Set((await db.searchWith(query, 10, { exact: true, values: [] })).map((h) => h.id));
      for (const { id } of await db.search(query, 10)) found += exact.has(id);
    }
    ok(found >= 190, `${found} of 200`);
    await db.drop();
  },

  async 'deltas travel, and twice is once'(host) {
    const from = await host.database(2), to = await host.database(2);
    await from.applyDeltas([create('a', 1, 2), create('b', 3, 4), scale('a', 2)]);
    equal(await to.importDeltas(await from.exportDeltas(0n)), { applied: 3n, skipped: 0n });
    equal(await to.importDeltas(await from.exportDeltas(0n)), { applied: 0n, skipped: 3n });
    await from.applyDelta(remove('b'));
    equal(await to.importDeltas(await from.exportDeltas(3n)), { applied: 1n, skipped: 0n });
    equal([await to.getVector('a'), await to.getVector('b')], [f32(2, 4), undefined]);
    await from.applyDeltas([create('c', 1, 1), create('d', 1, 1)]);
    await fails(to.importDeltas(await from.exportDeltas(5n)), /import delta_export/);
    equal(await from.exportDeltas(2n ** 64n - 1n).then((b) => b.length > 0), true);
    const three = await host.database(3);
    await fails(three.importDeltas(await from.exportDeltas(0n)), /dimensions/);
    for (const x of [from, to, three]) await x.drop();
  },

  async 'databases have identities of their own'(host) {
    const uuids = new Set();
    for (let i = 0; i < 5; i++) {
      await host.start();
      const db = await host.database(2);
      uuids.add(JSON.parse(await db.status()).uuid);
    }
    equal(uuids.size, 5);
  },

  // ---- memory --------------------------------------------------------------------------------------------------------

  async 'ten thousand databases leave nothing behind'(host) {
    const rounds = 10_000 / (host.slowness ?? 1);
    await host.start(host.canLimitMemory ? { memory: 24 << 20 } : {});
    let before = 0;
    for (let i = 0; i < rounds; i++) {
      const db = await host.database(i % 7 ? 8 : 0);
      if (i % 7) {
        await db.applyDeltas([create('a', 1, 2, 3, 4, 5, 6, 7, 8), offset('a', 1)]);
        if (i % 50 === 1) equal(await db.getVector('a'), f32(2, 3, 4, 5, 6, 7, 8, 9));
        if (i % 50 === 2) await db.search(f32(1, 2, 3, 4, 5, 6, 7, 8), 1);
        if (i % 50 === 3) await db.import(await db.export());
        if (i % 50 === 4) await failure(db.import(new Uint8Array(2000)));
        if (i % 50 === 5) await db.deltaChain('a');
      }
      await db.drop();
      if (i === Math.floor(rounds / 10)) before = host.memoryBytes?.() ?? 0;
    }
    equal(host.memoryBytes?.() ?? 0, before, 'bytes of memory');
  },

  async 'calls leave nothing behind'(host) {
    await host.start(host.canLimitMemory ? { memory: 24 << 20 } : {});
    const db = await host.database(64);
    const vector = new Float32Array(64).fill(0.5);
    await db.applyDelta({ vectorId: 'a', operation: { tag: 'create', val: vector } });
    let before = 0;
    const rounds = 3000 / (host.slowness ?? 1);
    for (let i = 0; i < rounds; i++) {
      await db.getVector('a');
      await db.search(vector, 10);
      await failure(db.applyDelta(offset('nobody', 1)));
      await db.status();
      await db.deltaChain('a');
      await db.exportDeltas(0n);
      if (i % 10 === 0) await db.export();
      if (i === Math.floor(rounds / 10)) before = host.memoryBytes?.() ?? 0;
    }
    equal(host.memoryBytes?.() ?? 0, before, 'bytes of memory');
    await db.drop();
  },

  async 'out of memory is an error'(host) {
    await host.start();
    const limit = BigInt(host.slowness ? 2 : 4) << 20n;
    equal(await host.limitMemory(limit), 0n);
    const db = await host.database(128);
    const next = random(11);
    const row = (i) => ({ vectorId: `r${i}`, operation: { tag: 'create', val: Float32Array.from({ length: 128 }, () => next()) } });
    await db.applyDelta(row('first'));
    const first = await db.getVector('rfirst');
    let n = 0, message;
    while (message === undefined && n < 20000) message = await failure(db.applyDeltas(Array.from({ length: 100 }, () => row(n++))));
    equal(message, 'out of memory');
    equal(await db.getVector('rfirst'), first);
    equal(await db.getVector(`r${n - 1}`), undefined, 'all or nothing');
    ok(n > 300, `${n} rows`);
    equal(await host.limitMemory(0n), limit);
    equal((await db.applyDeltas([row('last')])).length, 1, 'it goes on');
    const small = await host.database(128);
    await small.applyDeltas(Array.from({ length: 1000 }, (_, i) => row(i)));
    const bytes = await small.export();
    await host.limitMemory(1n << 20n);
    equal(await small.export(), new Uint8Array());
    equal(await small.lastError(), 'out of memory');
    await fails(small.import(bytes), /^out of memory$/);
    const none = [];
    for (let i = 0; i < 40; i++) none.push(await host.database(8));
    ok((await Promise.all(none.map((d) => failure(d.applyDelta(create('a', 1, 2, 3, 4, 5, 6, 7, 8)))))).includes('out of memory'), 'databases that there is no memory for');
    for (const d of none) await d.drop();
    await host.limitMemory(0n);
    equal((await small.getVector('r999')).length, 128, 'nothing is lost');
    equal(await small.import(bytes), undefined);
    equal(await db.getVector('rfirst'), first);
    for (const x of [db, small]) await x.drop();
  },

  async 'a host that gives no more memory gets errors, no traps'(host) {
    if (!host.canLimitMemory) return 'skip: this host cannot limit it';
    await host.start({ memory: 5 << 20 });
    const db = await host.database(128);
    const next = random(11);
    const row = (i) => ({ vectorId: `r${i}`, operation: { tag: 'create', val: Float32Array.from({ length: 128 }, () => next()) } });
    let n = 0, message;
    while (message === undefined && n < 20000) message = await failure(db.applyDeltas(Array.from({ length: 50 }, () => row(n++))));
    equal(message, 'out of memory');
    // To the brim: then there is no room for arguments either, but for what is kept back.
    for (let failures = 0; failures < 5; ) failures += (await failure(db.applyDelta(row(n++)))) !== undefined;
    for (let i = 0; i < 4; i++) {
      equal(await db.getVector('x'.repeat(500_000)), undefined);
      ok((await db.getVector('r0')) ?? (await db.lastError()) === 'out of memory', 'read');
      await failure(host.database(300).then((d) => d.drop()));
      await db.export();
    }
    await db.drop();
    const fresh = await host.database(128);
    equal(await fresh.applyDelta(row('x')), '1', 'what it held is free');
    await fresh.drop();
  },
};

// ---- programs of the differential test -------------------------------------------------------------------------------

/**
 * The history of a table as the native extension has it, applied here: every version of every row must have the same bits, and
 * so must the distances of an exact search.
 *
 * @returns how many vectors were compared
 */
export async function replay(host, { dimensions, metric, checkpointInterval, compression, deltas, versions, now, searches }) {
  const db = await host.open({ dimensions, metric, checkpointInterval, compression, maxVectors: 0 });
  const size = 50;
  for (let i = 0; i < deltas.length; i += size) {
    await db.applyDeltas(deltas.slice(i, i + size).map(({ id, time, operation }) => ({ vectorId: id, operation: operationOf(operation), timestamp: BigInt(time) })));
  }
  for (const { id, time, bits } of versions) equal(bitsOf(await db.getVectorAt(id, BigInt(time))), bits, `row ${id} at ${time}`);
  for (const { id, bits } of now) equal(bitsOf(await db.getVector(id)), bits, `row ${id}`);
  for (const { query, distances } of searches) {
    const hits = await db.searchWith(floatsOf(query), 10, { exact: true, values: [] });
    equal(hits.map((h) => h.distance), distances, 'distances');
  }
  await db.drop();
  return versions.length + now.length;
}

function operationOf({ operation, vector, indices, values, factor, amount }) {
  switch (operation) {
    case 'scale':
      return { tag: 'scale', val: factor };
    case 'offset':
      return { tag: 'offset', val: amount };
    case 'delete':
      return { tag: 'delete' };
    default: // a dense delta whose smallest form is a sparse one makes the same vector
      return vector ? { tag: operation, val: Float32Array.from(vector) } : { tag: 'sparse', val: { indices: Uint32Array.from(indices), values: Float32Array.from(values) } };
  }
}

/** Little-endian bytes in hexadecimal, as hex() of SQL; '' for no vector. */
export function bitsOf(vector) {
  if (!vector) return '';
  return [...new Uint8Array(vector.buffer, vector.byteOffset, vector.byteLength)].map((b) => b.toString(16).padStart(2, '0')).join('').toUpperCase();
}

export function floatsOf(hex) {
  return new Float32Array(Uint8Array.from(hex.match(/../g), (b) => parseInt(b, 16)).buffer);
}
