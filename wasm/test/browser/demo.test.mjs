// The demo page, as somebody uses it. SCREENSHOTS=<directory> keeps pictures of it.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { after, before, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { ROUTES, startBrowser, startServer } from './harness.mjs';

const demo = fileURLToPath(new URL('../../demo', import.meta.url));
let server, browser, context;
before(async () => {
  execFileSync(process.execPath, [path.join(demo, 'make-data.mjs')]);
  server = await startServer({ routes: { ...ROUTES, '/': demo } });
  browser = await startBrowser();
  ({ context } = browser);
});
after(async () => {
  await browser?.close();
  await server?.close();
});

async function visit(size = { width: 1280, height: 900 }) {
  const page = await context.newPage();
  await page.setViewportSize(size);
  page.errors = [];
  page.on('pageerror', (error) => page.errors.push(error.message));
  await page.goto(`${server.url}index.html`);
  await page.waitForSelector('body[data-ready=yes]');
  return page;
}

const shoot = async (page, name) => process.env.SCREENSHOTS && page.screenshot({ path: path.join(process.env.SCREENSHOTS, `${name}.png`) });
const results = (page) => page.$$eval('#results li', (items) => items.map((li) => li.querySelector('span').textContent));
async function until(page, expected) {
  let found;
  for (let i = 0; i < 100 && found?.join() !== expected.join(); i++) {
    if (i > 0) await page.waitForTimeout(30);
    found = await results(page);
  }
  assert.deepEqual(found, expected);
}

/** By keyboard, to the beginning of time, until its results are there. A tab that still reads the feed has no past yet: it is asked again. */
async function goToTheBeginning(page) {
  const isThere = () => page.evaluate(() => /, as it was at \d/.test(document.getElementById('asked').textContent));
  await page.focus('#time');
  for (let i = 0; i < 100 && !(await isThere()); i++) {
    await page.keyboard.press('Home');
    await page.waitForTimeout(30);
  }
  assert.ok(await isThere());
}
const chips = (page) => page.$$eval('.chip', (items) => items.map((c) => c.textContent).join(' | '));

it('fills itself, finds by meaning while one types, and by keyboard alone', async () => {
  const page = await visit();
  assert.match(await chips(page), /kept by this browser \| this tab holds the files \| 2,000 sentences written/);
  assert.match(await page.textContent('#versions'), /^Storage: opfs-sahpool · journal: wal · SQLite 3\.[\d.]+ · relaxed SIMD$/);
  await page.keyboard.press('Tab'); // the first thing on the page is the field
  assert.equal(await page.evaluate(() => document.activeElement.id), 'query');
  await page.keyboard.type('books are kept');
  await page.waitForFunction(() => document.querySelector('#asked b')?.textContent === 'a place where books are kept');
  await page.waitForFunction(() => document.querySelectorAll('#results li').length === 10);
  assert.ok((await results(page)).some((text) => /librar|book|shelf|class/i.test(text)), (await results(page)).join('; '));
  assert.equal(await page.getAttribute('#query', 'aria-expanded'), 'true');
  await page.keyboard.press('ArrowDown');
  assert.equal(await page.getAttribute('#query', 'aria-activedescendant'), 'suggestion-0');
  await page.keyboard.press('Enter');
  assert.equal(await page.getAttribute('#query', 'aria-expanded'), 'false');
  assert.match(await page.textContent('#search-time'), /^[\d.]+ (µs|ms)$/);
  assert.match(await page.textContent('#search-alone'), /^[\d.]+ (µs|ms)$/);
  await shoot(page, 'desktop-light');
  await page.emulateMedia({ colorScheme: 'dark' });
  await shoot(page, 'desktop-dark');
  assert.deepEqual(page.errors, []);
  await page.close();
});

it('finds its data after a reload, lets them drift, and searches the past', async () => {
  const page = await visit();
  assert.match(await chips(page), /2,000 sentences found/);
  await page.waitForFunction(() => document.querySelectorAll('#results li').length === 10);
  const before = await results(page);
  const first = Number((await page.textContent('#deltas')).replaceAll(',', ''));
  await page.click('#drift');
  await page.waitForFunction((n) => Number(document.getElementById('deltas').textContent.replaceAll(',', '')) > n + 6000, first, { timeout: 30000 });
  assert.ok(Number((await page.textContent('#rate')).replaceAll(',', '')) > 300);
  await shoot(page, 'drifting');
  await page.click('#drift');
  await page.waitForFunction(() => document.getElementById('rate').textContent === '0');
  await page.waitForFunction((old) => document.querySelector('#results').innerText !== old, before.join());
  const now = await results(page);
  assert.notDeepEqual(now, before);

  // At the beginning of time: as it was.
  await goToTheBeginning(page);
  assert.notEqual(await page.textContent('#time-text'), 'now');
  assert.equal(await page.getAttribute('#time', 'aria-valuetext'), await page.textContent('#time-text'));
  await until(page, before);
  await shoot(page, 'past');
  await page.click('#now');
  await page.waitForFunction(() => document.getElementById('time-text').textContent === 'now');
  await until(page, now);
  assert.deepEqual(page.errors, []);
  await page.close();
});

it('puts the vectors back, and forgets the past, in all tabs', async () => {
  const [page, other] = [await visit(), await visit()];
  const count = async (page) => Number((await page.textContent('#deltas')).replaceAll(',', ''));
  await goToTheBeginning(page);
  const first = await results(page);
  await page.keyboard.press('End');
  assert.equal(await page.textContent('#time-text'), 'now');
  const n = await count(page);
  await page.focus('#restore');
  await page.keyboard.press('Enter');
  await page.waitForFunction((n) => Number(document.getElementById('deltas').textContent.replaceAll(',', '')) === n + 2000, n);
  await until(page, first);
  await page.focus('#forget');
  await page.keyboard.press('Enter');
  for (const tab of [page, other]) {
    await tab.waitForFunction(() => document.getElementById('deltas').textContent === '2,000');
    await goToTheBeginning(tab); // what is left of the past is the present
    await until(tab, first);
    assert.deepEqual(tab.errors, []);
    await tab.close();
  }
});

it('counts as changes of this second only what is written now', async () => {
  const page = await context.newPage();
  await page.addInitScript(() => {
    globalThis.rates = new Set();
    new MutationObserver(() => rates.add(document.getElementById('rate')?.textContent)).observe(document, { subtree: true, childList: true });
  });
  await page.goto(`${server.url}index.html`);
  await page.waitForSelector('body[data-ready=yes]');
  await page.waitForFunction(() => document.querySelectorAll('#feed tr').length > 10);
  await page.waitForTimeout(600);
  assert.deepEqual(await page.evaluate(() => [...rates].filter((rate) => rate !== undefined)), ['0']);
  await page.close();
});

for (const [name, width, height] of [['phone', 360, 740], ['tablet', 768, 1024], ['desktop', 1440, 900]]) {
  it(`has room for everything on a ${name}`, async () => {
    const page = await visit({ width, height });
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), 'the page is wider than the screen');
    const box = (selector) => page.$eval(selector, (element) => element.getBoundingClientRect().toJSON());
    assert.ok((await box('#time')).width > 250, `a slider of ${(await box('#time')).width} pixels`);
    await page.focus('#query');
    await page.keyboard.type('food');
    await page.waitForSelector('#suggestions li');
    // What was found can be seen while one types: all but what a list above it covers on a phone.
    // (Counted in one step: a search that ends between two would leave rows that are in the page no more, with no place.)
    const covered = await page.evaluate(() => {
      const { bottom } = document.querySelector('#suggestions').getBoundingClientRect();
      return [...document.querySelectorAll('#results li')].filter((li) => li.getBoundingClientRect().top < bottom).length;
    });
    assert.ok(covered <= (width < 700 ? 1 : 0), `the suggestions cover ${covered} results`);
    const shownAt = (await box('#suggestions')).height;
    await page.keyboard.type('zz'); // fewer are found, nothing jumps
    assert.ok([shownAt, 0].includes((await box('#suggestions')).height));
    assert.deepEqual(page.errors, []);
    await page.close();
  });
}

it('shows in one tab what another changes, on a phone too', async () => {
  const first = await visit();
  const second = await visit({ width: 390, height: 844 });
  assert.match(await chips(second), /another tab holds the files/);
  const seqOf = (page) => page.$eval('#feed td', (td) => Number(td.textContent));
  await second.waitForFunction(() => document.querySelectorAll('#feed tr').length > 10);
  const before = await seqOf(second);
  await first.click('#drift');
  await second.waitForFunction((n) => Number(document.querySelector('#feed td').textContent) > n + 500, before);
  await first.click('#drift');
  await shoot(second, 'phone-light');
  await second.emulateMedia({ colorScheme: 'dark' });
  await shoot(second, 'phone-dark');
  await second.evaluate(() => scrollTo(0, 900));
  await shoot(second, 'phone-dark-below');
  assert.ok(await second.evaluate(() => document.documentElement.scrollWidth <= innerWidth), 'the page is wider than the phone');
  assert.deepEqual([...first.errors, ...second.errors], []);
  await first.close();
  await second.close();
});
