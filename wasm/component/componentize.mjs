// componentize.mjs MODULE ADAPTER COMPONENT: a core module as a component of the world in wasm/wit.
//
// Its imports of WASI preview 1, which is what wasi-libc speaks, become those of WASI 0.2 through the adapter. Exports are compared
// with the WIT, and the component is validated, on the way: what is wrong is an error here.
import { readFileSync, writeFileSync } from 'node:fs';
import { componentEmbed, componentNew } from '@bytecodealliance/jco';

const [module, adapter, component] = process.argv.slice(2);
const embedded = await componentEmbed({
  binary: readFileSync(module),
  witSource: readFileSync(new URL('../wit/delta-vector.wit', import.meta.url), 'utf8'),
  world: 'delta-vector-world-ext',
});
writeFileSync(component, await componentNew(embedded, [['wasi_snapshot_preview1', readFileSync(adapter)]]));
