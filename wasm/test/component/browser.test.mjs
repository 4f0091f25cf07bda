// The programs of programs.mjs in a page of Chromium.
import assert from 'node:assert/strict';
import { after, before, it } from 'node:test';
import { openComponentPage } from './page.mjs';
import { programs } from './programs.mjs';

let page, close;
before(async () => ({ page, close } = await openComponentPage()));
after(() => close?.());

for (const name of Object.keys(programs)) {
  it(name, async (t) => {
    const skipped = await page.evaluate((name) => window.run(name), name);
    if (skipped) t.diagnostic(skipped);
  });
}

it('without a grant there are no files', async () => {
  const message = await page.evaluate(async () => {
    const { deltaDbExt } = await window.start();
    try {
      deltaDbExt.open({ dimensions: 3, path: '/data/x.db' });
    } catch (e) {
      return e.payload;
    }
  });
  assert.match(message, /cannot open \/data\/x\.db: unable to open database file/);
});
