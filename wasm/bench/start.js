// sqlite-wasm alone, in a worker, up to the first row of a database on opfs-sahpool: what no reload can be faster than.
import init from '/sqlite/index.mjs';

const sqlite3 = await init();
const pool = await sqlite3.installOpfsSAHPoolVfs({ name: 'start', directory: '.start', initialCapacity: 6 });
const db = new pool.OpfsSAHPoolDb('/start.sqlite3');
postMessage(db.selectValue('SELECT count(*) FROM sqlite_schema'));
