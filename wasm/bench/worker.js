// The measurements in a worker of the browser.
import init from '/sqlite/index.mjs';
import * as dv from '/delta-vectors/index.js';
import { measure } from './measure.js';

onmessage = async ({ data }) => {
  const sqlite3 = await init();
  const { variant } = await dv.loadDeltaVectors(sqlite3);
  postMessage({ variant, rows: measure({ sqlite3, dv, ...data }) });
};
