/**
 * Loads the extension into a stock sqlite-wasm. SQLite's own sqlite3_load_extension() is not in that build, and there is no
 * dlopen(): the extension is a position-independent module ("side module") that this file places beside SQLite.
 *
 *   1. The module's "dylink.0" section says how much memory and how many table slots it wants.
 *   2. Memory for its data and for a stack of its own is taken from SQLite's allocator; the function table grows.
 *   3. Its imports env.sqlite3_… are the exports of the same name of the package: no other function is called.
 *   4. Its entry point becomes an automatic extension, so that every connection opened from then on has it.
 *
 * Format of the section: WebAssembly/tool-conventions, DynamicLinking.md.
 */
import { DeltaVectorsError, described } from './errors.js';
import { Connection, type Sqlite3, type Sqlite3Database } from './sqlite.js';

/** Which instructions the module may use. The results are the same bits with each. */
export type Variant = 'relaxed' | 'simd' | 'scalar';

export interface LoadOptions {
  /** Another place for the module: a URL, its bytes, or the compiled module. By default it lies beside this file. */
  wasm?: string | URL | BufferSource | WebAssembly.Module;
  /** By default the best that this engine understands. */
  variant?: Variant;
}

export interface Loaded {
  /** Of the extension. */
  readonly version: string;
  readonly variant: Variant | 'given';
  /** Registers the extension on a connection that was open before. */
  register(db: Sqlite3Database): void;
}

/** The C stack of the extension. The deepest use seen in the tests is a tenth of it (test/loader.test.mjs). */
const STACK_BYTES = 256 * 1024;

const loaded = new WeakMap<object, Extension>();
const loading = new WeakMap<object, Promise<Loaded>>();

/** @internal */
export interface Extension extends Loaded {
  readonly exports: Record<string, (...args: (number | bigint)[]) => number>;
  /** The stack's lowest address and size, for the test that measures its use. */
  readonly stack: { readonly at: number; readonly bytes: number };
}

/** Nothing else has these two; a build of sqlite-wasm that lacks something is another error, which says what. */
function checkSqlite3(sqlite3: unknown): void {
  const given = sqlite3 as Partial<Sqlite3> | null | undefined;
  if (typeof given === 'object' && given?.wasm && given.capi) return;
  throw new DeltaVectorsError('invalid', `sqlite3 is ${described(sqlite3)}: expected what \`await sqlite3InitModule()\` of @sqlite.org/sqlite-wasm gives`);
}

/** The extension in this sqlite3, which must have been loaded. @internal */
export function extensionOf(sqlite3: Sqlite3): Extension {
  checkSqlite3(sqlite3);
  const extension = loaded.get(sqlite3);
  if (extension) return extension;
  throw new DeltaVectorsError('not-loaded', 'the extension is not loaded: call `await loadDeltaVectors(sqlite3)` first');
}

/**
 * Loads the extension for all connections of this sqlite3 that are opened from now on. Calling it again changes nothing.
 *
 * @param sqlite3 what `await sqlite3InitModule()` of @sqlite.org/sqlite-wasm gave
 */
export async function loadDeltaVectors(sqlite3: Sqlite3, options: LoadOptions = {}): Promise<Loaded> {
  checkSqlite3(sqlite3);
  let promise = loading.get(sqlite3);
  if (!promise) {
    promise = load(sqlite3, options);
    loading.set(sqlite3, promise);
    promise.catch(() => loading.delete(sqlite3)); // so that the next call tries again
  }
  return promise;
}

async function load(sqlite3: Sqlite3, options: LoadOptions): Promise<Loaded> {
  const variant = options.variant ?? bestVariant();
  if (variant === 'relaxed' && !hasRelaxedDot()) {
    throw new DeltaVectorsError('wasm-unavailable', "variant is 'relaxed': this engine has no relaxed SIMD, or computes wrongly with it; leave the option out");
  }
  const given = options.wasm !== undefined && !(options.wasm instanceof URL) && typeof options.wasm !== 'string';
  const module = await compile(options.wasm ?? locate(variant));
  started.delete(String(options.wasm ?? locate(variant)));
  const plan = new Plan(sqlite3, module);
  const instance = await WebAssembly.instantiate(module, { env: plan.env, 'GOT.func': plan.functions });
  const extension = await plan.finish(instance, given ? 'given' : variant);
  loaded.set(sqlite3, extension);
  return extension;
}

// Written out, each as `new URL('…', import.meta.url)`, since that is what bundlers look for.
function locate(variant: Variant): URL {
  switch (variant) {
    case 'relaxed':
      return new URL('./delta_vectors.relaxed.wasm', import.meta.url);
    case 'simd':
      return new URL('./delta_vectors.simd.wasm', import.meta.url);
    case 'scalar':
      return new URL('./delta_vectors.scalar.wasm', import.meta.url);
    default:
      throw new DeltaVectorsError('invalid', `variant is '${String(variant)}': expected relaxed, simd or scalar`);
  }
}

/** A module without imports of one function, () -> i32, whose body is given. */
function tinyModule(body: readonly number[]): Uint8Array<ArrayBuffer> {
  const code = [0, ...body, 11];
  return Uint8Array.of(
    0, 97, 115, 109, 1, 0, 0, 0, // magic, version
    1, 5, 1, 96, 0, 1, 127, // type 0: () -> i32
    3, 2, 1, 0, // function 0 is of type 0
    7, 5, 1, 1, 102, 0, 0, // exported as "f"
    10, ...leb(code.length + leb(code.length).length + 1), 1, ...leb(code.length), ...code,
  );
}

function leb(n: number): number[] {
  return n < 128 ? [n] : [(n & 127) | 128, n >> 7];
}

const v128 = (bytes: ArrayBufferView): number[] => [253, 12, ...new Uint8Array(bytes.buffer)];

function hasSimd(): boolean {
  return WebAssembly.validate(tinyModule([...v128(new Int8Array(16)), 253, 83])); // v128.any_true
}

/**
 * Not only whether the engine has the instruction that is used of relaxed SIMD, but whether it computes what it should: V8 11.3, in
 * Node 20 behind a flag, has it and sometimes does not.
 */
function hasRelaxedDot(): boolean {
  const a = Int8Array.from({ length: 16 }, (_, i) => 127 - 16 * i);
  const b = Int8Array.from({ length: 16 }, (_, i) => 7 + 8 * i);
  const c = Int32Array.from({ length: 4 }, (_, i) => 1000 * i);
  const expected = c.map((sum, i) => a.subarray(4 * i, 4 * i + 4).reduce((s, value, j) => s + value * b[4 * i + j]!, sum));
  // any_true(relaxed_dot_i8x16_i7x16_add_s(a, b, c) != expected)
  const bytes = tinyModule([...v128(a), ...v128(b), ...v128(c), 253, 147, 2, ...v128(expected), 253, 56, 253, 83]);
  if (!WebAssembly.validate(bytes)) return false;
  const { f } = new WebAssembly.Instance(new WebAssembly.Module(bytes)).exports as { f: () => number };
  return f() === 0;
}

function bestVariant(): Variant {
  if (hasRelaxedDot()) return 'relaxed';
  return hasSimd() ? 'simd' : 'scalar';
}

/** Modules that are on their way already, by URL. */
const started = new Map<string, Promise<WebAssembly.Module>>();

/** Begins to fetch and compile the module that a later loadDeltaVectors will want, beside the loading of SQLite. @internal */
export function startLoading(wasm?: string): void {
  const url = wasm ?? locate(bestVariant()).href;
  const module = fetchAndCompile(url);
  module.catch(() => started.delete(url)); // whoever wants it will hear of it
  started.set(url, module);
}

async function compile(wasm: string | URL | BufferSource | WebAssembly.Module): Promise<WebAssembly.Module> {
  if (wasm instanceof WebAssembly.Module) return wasm;
  return started.get(String(wasm)) ?? fetchAndCompile(wasm);
}

async function fetchAndCompile(wasm: string | URL | BufferSource): Promise<WebAssembly.Module> {
  try {
    if (typeof wasm !== 'string' && !(wasm instanceof URL)) return await WebAssembly.compile(wasm);
    // Not relative to import.meta.url: webpack would take it for a file of this package.
    const url = new URL(wasm, globalThis.location?.href);
    if (url.protocol === 'file:') {
      // Not a literal: bundlers for browsers would look for it. They never get here, a page has no file: URLs to fetch.
      const fs = 'node:fs/promises';
      const { readFile } = (await import(/* @vite-ignore */ /* webpackIgnore: true */ fs)) as { readFile(url: URL): Promise<Uint8Array<ArrayBuffer>> };
      return await WebAssembly.compile(await readFile(url));
    }
    return await compileUrl(url);
  } catch (thrown) {
    const what = typeof wasm === 'string' || wasm instanceof URL ? String(wasm) : 'the bytes that were given';
    throw new DeltaVectorsError('wasm-unavailable', `cannot load the extension from ${what}: ${String((thrown as Error).message ?? thrown)}`, { cause: thrown });
  }
}

/** What compileUrl() has made. @internal */
export const compiledModules: WebAssembly.Module[] = [];

/** A module that is fetched. @internal */
export async function compileUrl(url: string | URL): Promise<WebAssembly.Module> {
  const module = await compileResponse(url);
  compiledModules.push(module);
  return module;
}

/** The function that makes SQLite, of the module at that URL. @internal */
export async function importSqlite(url: string): Promise<(options?: object) => Promise<Sqlite3>> {
  let reason = 'its default export is no function';
  try {
    const { default: init } = (await import(/* @vite-ignore */ /* webpackIgnore: true */ url)) as { default: unknown };
    if (typeof init === 'function') return init as () => Promise<Sqlite3>;
  } catch (thrown) {
    reason = (thrown as Error).message;
  }
  throw new DeltaVectorsError('worker-failed', `option sqlite: expected the URL of index.mjs of @sqlite.org/sqlite-wasm; of ${url}, ${reason}`);
}

async function compileResponse(url: string | URL): Promise<WebAssembly.Module> {
  const response = await fetch(url, { credentials: 'same-origin' });
  if (!response.ok) throw new Error(`${url} answered ${response.status} ${response.statusText}`);
  // What is compiled while it comes, browsers keep compiled beside their copy of the file. They insist on the media type.
  const type = response.headers.get('content-type') ?? '';
  if (/^application\/wasm *(;|$)/.test(type)) return WebAssembly.compileStreaming(response);
  return WebAssembly.compile(await response.arrayBuffer());
}

interface Dylink {
  memoryBytes: number;
  memoryAlignment: number;
  tableSlots: number;
}

function readDylink(module: WebAssembly.Module): Dylink {
  const section = WebAssembly.Module.customSections(module, 'dylink.0')[0];
  const bytes = section ? new Uint8Array(section) : new Uint8Array();
  let at = 0;
  const leb = (): number => {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++];
      if (byte === undefined || shift > 28) throw new DeltaVectorsError('wasm-unavailable', 'the module is not a side module');
      value += (byte & 127) * 2 ** shift;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const type = leb();
    const length = leb();
    const end = at + length;
    if (type === 1) {
      const memoryBytes = leb();
      const memoryAlignment = 2 ** leb();
      return { memoryBytes, memoryAlignment, tableSlots: leb() };
    }
    at = end;
  }
  throw new DeltaVectorsError('wasm-unavailable', 'the module is not a side module: it has no dylink.0 section');
}

/** Where the module goes, and what it is given. */
class Plan {
  readonly env: Record<string, WebAssembly.ImportValue> = {};
  readonly functions: Record<string, WebAssembly.Global> = {};
  readonly #sqlite3: Sqlite3;
  readonly #stackAt: number;

  constructor(sqlite3: Sqlite3, module: WebAssembly.Module) {
    this.#sqlite3 = sqlite3;
    const exports = sqlite3.wasm.exports as Record<string, WebAssembly.ExportValue>;
    const missing = WebAssembly.Module.imports(module)
      .filter((i) => (i.kind === 'function' || i.module === 'GOT.func') && typeof exports[i.name] !== 'function')
      .map((i) => i.name);
    if (missing.length > 0 || typeof exports['sqlite3_auto_extension'] !== 'function') {
      const lacks = missing.length > 0 ? missing.join(', ') : 'sqlite3_auto_extension';
      throw new DeltaVectorsError(
        'unsupported-sqlite',
        `delta_vectors needs sqlite-wasm 3.47.0 or newer: this one, ${sqlite3.version.libVersion}, does not export ${lacks}`,
      );
    }
    const { memoryBytes, memoryAlignment, tableSlots } = readDylink(module);
    const alignment = Math.max(16, memoryAlignment);
    const size = alignment + memoryBytes + 16 + STACK_BYTES;
    const start = sqlite3.wasm.alloc(size);
    if (typeof start !== 'number') {
      throw new DeltaVectorsError('unsupported-sqlite', 'delta_vectors is a 32-bit module: this sqlite-wasm is built for 64 bits');
    }
    // What is not initialised data must be zero.
    sqlite3.wasm.heap8u().fill(0, start, start + size);
    // The stack comes first and grows down.
    this.#stackAt = start;
    const stackTop = Math.floor((start + STACK_BYTES) / 16) * 16;
    const memoryBase = Math.ceil((start + STACK_BYTES) / alignment) * alignment;
    const table = sqlite3.wasm.functionTable();
    const tableBase = table.grow(tableSlots);

    const memory = sqlite3.wasm.memory ?? (exports['memory'] as WebAssembly.Memory);
    for (const { module: from, name, kind } of WebAssembly.Module.imports(module)) {
      if (kind === 'function') this.env[name] = exports[name]!;
      // A function of SQLite's whose address the C code takes, such as sqlite3_free: a global with its place in the table.
      if (from === 'GOT.func') {
        const slot = table.grow(1);
        table.set(slot, exports[name]!);
        this.functions[name] = new WebAssembly.Global({ value: 'i32', mutable: true }, slot);
      }
    }
    this.env['memory'] = memory;
    this.env['__indirect_function_table'] = table;
    this.env['__memory_base'] = new WebAssembly.Global({ value: 'i32', mutable: false }, memoryBase);
    this.env['__table_base'] = new WebAssembly.Global({ value: 'i32', mutable: false }, tableBase);
    this.env['__stack_pointer'] = new WebAssembly.Global({ value: 'i32', mutable: true }, stackTop);
  }

  async finish(instance: WebAssembly.Instance, variant: Variant | 'given'): Promise<Extension> {
    const sqlite3 = this.#sqlite3;
    const exports = instance.exports as Extension['exports'];
    const natives = sqlite3.wasm.exports as Record<string, (...args: number[]) => number>;
    exports['__wasm_apply_data_relocs']?.();
    exports['__wasm_call_ctors']?.();
    const entry = exports['sqlite3_deltavectors_init']!;
    const version = await this.#tryOut(entry);
    const table = sqlite3.wasm.functionTable();
    const slot = table.grow(1);
    table.set(slot, entry);
    if (natives['sqlite3_auto_extension']!(slot) !== 0) {
      throw new DeltaVectorsError('out-of-memory', 'there is no memory to register the extension');
    }
    return {
      version,
      variant,
      exports,
      stack: { at: this.#stackAt, bytes: STACK_BYTES },
      register(connection) {
        if (connection.pointer === undefined) throw new DeltaVectorsError('closed', 'the SQLite connection is closed');
        if (exports['dv_direct_open']!(connection.pointer) !== 0) return; // it was opened later
        if (entry(connection.pointer, 0, 0) !== 0) {
          throw new DeltaVectorsError('sql', 'cannot register the extension on this connection');
        }
      },
    };
  }

  /**
   * Registers the extension on a connection, and asks it for its version. With that most of SQLite is compiled, some milliseconds:
   * who waits for something meanwhile, such as files, gets his turn between the steps.
   */
  async #tryOut(entry: (...args: number[]) => number): Promise<string> {
    const db = new this.#sqlite3.oo1.DB(...([':memory:'] as never[]));
    const connection = new Connection(this.#sqlite3, db);
    try {
      await turn();
      if (entry(connection.pointer, 0, 0) !== 0) throw new DeltaVectorsError('sql', 'cannot register the extension');
      await turn();
      return String(connection.value('SELECT delta_vectors_version()'));
    } finally {
      connection.release();
      db.close();
    }
  }
}

/** Lets what has come in meanwhile be done. */
function turn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}
