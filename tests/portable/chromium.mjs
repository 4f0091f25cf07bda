// chromium.mjs PROGRAM.wasm: runs a program for WASI in a page of Chromium; what it prints and its exit code are this one's. It has no
// files and no clock: bits.c needs none. Uses the playwright-core of wasm/.
import { readFileSync } from 'node:fs';
import { startBrowser } from '../../wasm/test/browser/harness.mjs';

const browser = await startBrowser();
const page = await browser.context.newPage();
const { printed, code } = await page.evaluate(async (base64) => {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const BAD_FILE = 8;
  let memory;
  const printed = ['', '', '']; // by file: of these the last two are written to
  const wasi = {
    proc_exit(code) {
      throw { code };
    },
    fd_write(file, at, n, written) {
      const view = new DataView(memory.buffer);
      let length = 0;
      for (let i = 0; i < n; i++) {
        const part = new Uint8Array(memory.buffer, view.getUint32(at + 8 * i, true), view.getUint32(at + 8 * i + 4, true));
        printed[file] += new TextDecoder().decode(part);
        length += part.length;
      }
      view.setUint32(written, length, true);
      return 0;
    },
    fd_close: () => BAD_FILE,
    fd_seek: () => BAD_FILE,
    fd_fdstat_get: () => BAD_FILE,
  };
  const { instance } = await WebAssembly.instantiate(bytes, { wasi_snapshot_preview1: wasi });
  ({ memory } = instance.exports);
  try {
    instance.exports._start();
    return { printed, code: 0 };
  } catch (thrown) {
    if (typeof thrown.code !== 'number') throw thrown;
    return { printed, code: thrown.code };
  }
}, readFileSync(process.argv[2]).toString('base64'));
await browser.close();
process.stdout.write(printed[1]);
process.stderr.write(printed[2]);
process.exitCode = code;
