// The demo: search as you type, in the present and the past, while the vectors move. Everything on the page comes from the
// database: results from searches, the picture and the list from its change feed.
import { DeltaStreamProcessor, DeltaVectorDB } from '/delta-vectors/index.js';
import { creations, drift, loadSentences } from './data.js';
import { DIMENSIONS, Picture } from './picture.js';

const $ = (id) => document.getElementById(id);
const PARTS = { noun: 'nouns', verb: 'verbs', adjective: 'adjectives', adverb: 'adverbs' };
const DRIFT_PER_SECOND = 1500;
const FEED_ROWS = 40;
const SUGGESTIONS = 4;
const LOOKS = 50;

const picture = new Picture($('picture'));
let db, sentences, rows;
let query; // a sentence
let at = Infinity; // the moment that is shown
let texts; // by id

const number = (n) => n.toLocaleString('en');
const duration = (ms) => (ms < 1 ? `${Math.round(ms * 1000)} µs` : `${ms.toFixed(1)} ms`);
const size = (n) => (n < 1e6 ? `${(n / 1e3).toFixed(0)} KB` : `${(n / 1e6).toFixed(1)} MB`);

function say(text) {
  $('message').textContent = text;
  $('message').hidden = !text;
}

function chip(text, kind = '') {
  const span = document.createElement('span');
  span.className = `chip ${kind}`;
  span.textContent = text;
  return span;
}

function showWhere(found) {
  const { info } = db;
  $('where').replaceChildren(
    info.persistent ? chip('kept by this browser') : chip('in memory only, gone with this page', 'warning'),
    chip(info.isOwner ? 'this tab holds the files' : 'another tab holds the files'),
    chip(found),
  );
  const variant = { relaxed: 'relaxed SIMD', simd: 'SIMD', scalar: 'no SIMD' }[info.variant];
  $('versions').textContent = `Storage: ${info.storage} · journal: ${info.journalMode} · SQLite ${info.sqliteVersion} · ${variant}`;
}

// ---- searching -------------------------------------------------------------------------------------------------------

let isSearching = false;
let isStale = false;

/** One search at a time; what was asked for meanwhile is asked for again at the end. */
async function search() {
  if (!query || !db) return;
  isStale = true;
  if (isSearching) return;
  isSearching = true;
  while (isStale) {
    isStale = false;
    const asked = query;
    const options = at === Infinity ? {} : { asOf: new Date(at) };
    const start = performance.now();
    const results = await db.search(asked.vector, 10, options);
    const ms = performance.now() - start;
    if (isStale) continue;
    $('search-time').textContent = duration(ms);
    showAsked(asked.text);
    $('results').replaceChildren(...results.map(resultRow));
    picture.mark(asked.vector, results.map((r) => r.id));
  }
  isSearching = false;
}

/** Is read out: so only when it changes. */
function showAsked(text) {
  const when = at === Infinity ? '' : `, as it was at ${timeText(at)}`;
  if ($('asked').textContent === `Nearest to ${text}${when}`) return;
  $('asked').replaceChildren('Nearest to ', Object.assign(document.createElement('b'), { textContent: text }), when);
}

/** How long one search takes, if the page does nothing else: the way to the worker and back is in it. */
async function measureSearches() {
  const start = performance.now();
  for (let i = 0; i < LOOKS; i++) await db.search(rows[i * 7].vector, 10);
  $('search-alone').textContent = duration((performance.now() - start) / LOOKS);
}

function resultRow({ score, metadata }) {
  const li = document.createElement('li');
  const text = Object.assign(document.createElement('span'), { textContent: metadata?.text ?? '', title: metadata?.text ?? '' });
  const small = Object.assign(document.createElement('small'), { textContent: score.toFixed(3), title: 'the cosine: 1 is the same direction' });
  const bar = Object.assign(document.createElement('span'), { className: 'bar' });
  bar.style.width = `calc(${Math.max(0, score)} * (100% - 1.95rem))`;
  li.append(text, small, bar);
  return li;
}

// ---- what is typed ---------------------------------------------------------------------------------------------------

let suggested = [];
let chosen = -1;

function suggest() {
  const words = $('query').value.toLowerCase().split(/\s+/).filter(Boolean);
  // Questions first; then the sentences that have all the words: those that begin with them, those that are about them, the others.
  const rank = ({ id, text }) => {
    const [about] = text.toLowerCase().split(':');
    return (id === null ? 0 : 3) + (about.startsWith(words.join(' ')) ? 0 : words.every((word) => about.includes(word)) ? 1 : 2);
  };
  suggested = sentences
    .filter(({ text }) => words.every((word) => text.toLowerCase().includes(word)))
    .sort((a, b) => rank(a) - rank(b))
    .slice(0, SUGGESTIONS);
  chosen = -1;
  if (words.length && suggested.length) {
    [query] = suggested;
    search();
  }
  showSuggestions(suggested.length > 0);
}

function showSuggestions(isOpen) {
  const list = $('suggestions');
  list.hidden = !isOpen;
  $('query').setAttribute('aria-expanded', String(isOpen));
  list.replaceChildren(
    ...suggested.map(({ text }, i) => {
      const li = Object.assign(document.createElement('li'), { id: `suggestion-${i}`, textContent: text });
      li.setAttribute('role', 'option');
      li.setAttribute('aria-selected', String(i === chosen));
      li.classList.toggle('asked-for', suggested[i] === query);
      li.addEventListener('pointerdown', (event) => {
        event.preventDefault(); // the focus stays in the field
        choose(i);
      });
      return li;
    }),
  );
  if (chosen >= 0) $('query').setAttribute('aria-activedescendant', `suggestion-${chosen}`);
  else $('query').removeAttribute('aria-activedescendant');
}

function choose(i) {
  query = suggested[i];
  $('query').value = query.text;
  showSuggestions(false);
  search();
}

$('query').addEventListener('input', suggest);
$('query').addEventListener('focus', () => !$('query').value && suggest());
$('query').addEventListener('blur', () => showSuggestions(false));
$('query').addEventListener('keydown', (event) => {
  if (event.key === 'ArrowDown' || event.key === 'ArrowUp') {
    event.preventDefault();
    if ($('suggestions').hidden) return suggest();
    const n = suggested.length;
    if (n === 0) return;
    chosen = (chosen + (event.key === 'ArrowDown' ? 1 : n - (chosen < 0 ? 0 : 1))) % n;
    query = suggested[chosen];
    showSuggestions(true);
    search();
  } else if (event.key === 'Enter' && suggested.length && !$('suggestions').hidden) {
    choose(Math.max(0, chosen));
  } else if (event.key === 'Escape') {
    showSuggestions(false);
  }
});

// ---- time ------------------------------------------------------------------------------------------------------------

/** A step of the slider is so many changes, not so much time: between two visits there may be days in which nothing happens. */
const moments = []; // of all changes, in their order

function timeText(time) {
  const date = new Date(time);
  return date.toDateString() === new Date().toDateString() ? date.toLocaleTimeString() : date.toLocaleString([], { dateStyle: 'medium', timeStyle: 'short' });
}

function goTo(step) {
  const first = moments.findIndex((moment) => moment >= picture.firstTime);
  // Until the feed has told of the whole past, nobody knows where it begins.
  at = step >= 1000 || moments.length < past || moments.length === 0 ? Infinity : moments[first + Math.floor(((moments.length - 1 - first) * step) / 1000)];
  $('time').value = at === Infinity ? 1000 : step;
  const text = at === Infinity ? 'now' : timeText(at);
  $('time').setAttribute('aria-valuetext', text);
  $('time-text').textContent = text;
  $('now').disabled = at === Infinity;
  picture.showAt(at);
  search();
}
$('time').addEventListener('input', () => goTo(Number($('time').value)));
$('now').addEventListener('click', () => {
  goTo(1000);
  $('time').focus(); // the button has nothing to do any more
});

// ---- the feed --------------------------------------------------------------------------------------------------------

const feedRows = [];
let arrived = 0;
let unfollow;
/** So many deltas were there when the feed was begun: they are shown, but are nobody's work of this moment. */
let past = 0;
let known = 0;

function describe({ type, indices }) {
  return type === 'sparse' ? `sets ${indices.length} of ${DIMENSIONS}` : type;
}

function follow(delta) {
  picture.apply(delta);
  moments.push(delta.timestamp.getTime());
  if (moments.length > past) arrived++;
  if (feedRows.unshift([delta.seq, describe(delta.operation), texts.get(delta.vectorId) ?? delta.vectorId]) > FEED_ROWS) feedRows.pop();
}

/** From the first change that there is. */
function followAll(deltas) {
  unfollow?.();
  past = known = deltas;
  picture.clear();
  moments.length = feedRows.length = 0;
  unfollow = db.onDelta(follow, { fromSeq: 0 });
}

/** Several times a second is often enough for people. */
function showFeed() {
  let shown;
  let counted = 0;
  let since = performance.now();
  setInterval(() => {
    const rate = Math.round((arrived - counted) / ((performance.now() - since) / 1000));
    [counted, since] = [arrived, performance.now()];
    $('rate').textContent = number(rate);
    if (feedRows[0] === shown) return;
    [shown] = feedRows;
    $('feed').replaceChildren(
      ...feedRows.map((cells) => {
        const tr = document.createElement('tr');
        tr.append(...cells.map((text) => Object.assign(document.createElement('td'), { textContent: text })));
        return tr;
      }),
    );
    if (at === Infinity) search();
  }, 250);
  setInterval(() => void showStatus(), 1000);
  return showStatus();
}

async function showStatus() {
  const { rows, deltas, bytes } = await db.status();
  $('rows').textContent = number(rows);
  $('deltas').textContent = number(deltas);
  $('bytes').textContent = size(bytes);
  // Fewer than there were: this tab or another has made the database forget.
  if (deltas < known) {
    followAll(deltas);
    goTo(1000);
  }
  known = deltas;
}

// ---- drift -----------------------------------------------------------------------------------------------------------

let stopDrift;
$('drift').addEventListener('click', async () => {
  if (stopDrift) return stopDrift.abort();
  stopDrift = new AbortController();
  $('drift').setAttribute('aria-pressed', 'true');
  $('drift').textContent = 'Stop';
  try {
    await new DeltaStreamProcessor(db, { batchMs: 30 }).streamDeltas(drift(rows, DRIFT_PER_SECOND), { signal: stopDrift.signal });
  } catch (error) {
    if (error.code !== 'aborted') say(error.message);
  }
  stopDrift = undefined;
  $('drift').setAttribute('aria-pressed', 'false');
  $('drift').textContent = 'Let them drift';
});

$('restore').addEventListener('click', () =>
  attempt($('restore'), () => new DeltaStreamProcessor(db).streamDeltas(rows.map(({ id, vector }) => ({ vectorId: id, operation: { type: 'dense', vector } })))),
);

$('forget').addEventListener('click', () =>
  attempt($('forget'), async () => {
    await db.compact({ keep: 'none' });
    await showStatus();
  }),
);

/** What a button does; what it cannot is said. */
async function attempt(button, work) {
  button.disabled = true;
  try {
    await work();
    say('');
  } catch (error) {
    say(error.message);
  }
  button.disabled = false;
  button.focus();
}

// ---- the beginning ---------------------------------------------------------------------------------------------------

async function start() {
  const opened = performance.now();
  const opening = DeltaVectorDB.open({ name: 'demo', dimensions: DIMENSIONS, sqlite: '/sqlite/index.mjs', onWarning: () => {} });
  const openAfter = opening.then(() => performance.now() - opened);
  openAfter.catch(() => {}); // `opening` is awaited below
  sentences = await loadSentences();
  rows = sentences.filter(({ id }) => id !== null);
  texts = new Map(rows.map(({ id, text }) => [id, text]));
  db = await opening;
  const { rows: found } = await db.status();
  if (found === 0 && db.info.isOwner) {
    say('Filling the database…');
    const start = performance.now();
    const n = await new DeltaStreamProcessor(db).streamDeltas(creations(sentences));
    showWhere(`${number(n)} sentences written in ${Math.round(performance.now() - start)} ms`);
    say('');
  } else {
    showWhere(`${number(found)} sentences found, open after ${Math.round(await openAfter)} ms`);
  }
  await measureSearches();

  picture.fit(sentences.map(({ vector }) => vector));
  const parts = [...new Set(rows.map(({ pos }) => pos))].filter((pos) => PARTS[pos]);
  $('legend').innerHTML =
    '<span><i class="query"></i>the query</span><span><i class="rank">1</i>its nearest</span>' +
    parts.map((pos) => `<span><i style="background:var(--${pos})"></i>${PARTS[pos]}</span>`).join('');
  followAll((await db.status()).deltas);
  await showFeed();
  for (const id of ['query', 'time', 'drift', 'restore', 'forget']) $(id).disabled = false;
  query = sentences.find(({ id }) => id === null) ?? sentences[0];
  await search();
  document.body.dataset.ready = 'yes';
}

start().catch((error) => say(`This did not work: ${error.message}`));
