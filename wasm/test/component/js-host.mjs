// A host that runs jco's translation of the component: in Node, and in a page.

export function jsHost(name, instantiate, getCoreModule, wasi) {
  let exports, memories;
  const wrap = (database) =>
    new Proxy({ drop: async () => database[Symbol.dispose]() }, {
      get: (own, method) => {
        if (method in own || method === 'then') return own[method];
        return async (...args) => {
          const { deltaDbExt } = exports;
          return method in database ? database[method](...args) : deltaDbExt[method](database, ...args);
        };
      },
    });
  return {
    name,
    start: async (options = {}) => {
      memories = [];
      exports = await instantiate(getCoreModule, wasi(options), async (module, imports) => {
        const instance = await WebAssembly.instantiate(module, imports);
        if (instance.exports.memory) memories.push(instance.exports.memory);
        return instance;
      });
    },
    database: async (dimensions) => wrap(new exports.deltaDb.Database(dimensions)),
    open: async (options) => wrap(exports.deltaDbExt.open(options)),
    limitMemory: async (bytes) => exports.deltaDbExt.limitMemory(bytes),
    /** Of the instance, all told. */
    memoryBytes: () => memories.reduce((sum, memory) => sum + memory.buffer.byteLength, 0),
    close: async () => {},
  };
}
