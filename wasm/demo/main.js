// The demo: search as you type, in the present and the past, while the vectors move. Everything on the page comes from the
// database: results from searches, the picture and the list from its change feed.
import { DeltaStreamProcessor, DeltaVectorDB } from '/delta-vectors/index.js';
import { creations, drift, loadSentences } from './data.js';
import { DIMENSIONS, Picture } from './picture.js';

const $ = (id) => document.getElementById(id);
const PARTS = { noun: 'nouns', verb: 'verbs', adjective: 'adjectives', adverb: 'adverbs' };
const DRIFT_PER_SECOND = 1500;
const FEED_ROWS = 40;
const SUGGESTIONS = 7;

const picture = new Picture($('picture'));
let db, sentences, rows;
let query; // a sentence
let at = Infinity; // the moment that is shown
let newest = 0;

const number = (n) => n.toLocaleString('en');
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
    info.persistent ? chip(`kept by this browser: ${info.storage}`) : chip('in memory only, gone with this page', 'warning'),
    chip(`journal: ${info.journalMode}`),
    chip(info.isOwner ? 'this tab holds the files' : 'another tab holds the files'),
    chip(`SQLite ${info.sqliteVersion}, ${info.variant}`),
    chip(found),
  );
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
    $('search-time').textContent = ms < 1 ? `${Math.round(ms * 1000)} µs` : `${ms.toFixed(1)} ms`;
    $('asked').replaceChildren('Nearest to ', Object.assign(document.createElement('b'), { textContent: asked.text }));
    $('results').replaceChildren(...results.map(resultRow));
    picture.mark(asked.vector, results.map((r) => r.id));
  }
  isSearching = false;
}

function resultRow({ score, metadata }) {
  const li = document.createElement('li');
  const small = Object.assign(document.createElement('small'), { textContent: score.toFixed(3) });
  const bar = Object.assign(document.createElement('span'), { className: 'bar' });
  bar.style.width = `${Math.max(0, score) * 100}%`;
  li.append(small, metadata?.text ?? '', bar);
  return li;
}

// ---- what is typed ---------------------------------------------------------------------------------------------------

let suggested = [];
let chosen = -1;

function suggest() {
  const words = $('query').value.toLowerCase().split(/\s+/).filter(Boolean);
  // Questions first; then the sentences that have all the words, those that begin with them before the others.
  const rank = ({ id, text }) => (id === null ? 0 : 2) + (text.toLowerCase().startsWith(words.join(' ')) ? 0 : 1);
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

function goTo(step) {
  const first = picture.firstTime;
  at = step >= 1000 ? Infinity : first + ((newest - first) * step) / 1000;
  $('time-text').textContent = at === Infinity ? 'now' : new Date(at).toLocaleTimeString();
  picture.showAt(at);
  search();
}
$('time').addEventListener('input', () => goTo(Number($('time').value)));
$('now').addEventListener('click', () => {
  $('time').value = 1000;
  goTo(1000);
});

// ---- the feed --------------------------------------------------------------------------------------------------------

const feedRows = [];
let arrived = 0;

function describe({ type, indices }) {
  return type === 'sparse' ? `sets ${indices.length} of ${DIMENSIONS}` : type;
}

function follow(delta, texts) {
  picture.apply(delta);
  newest = Math.max(newest, delta.timestamp.getTime());
  arrived++;
  if (feedRows.unshift([delta.seq, describe(delta.operation), texts.get(delta.vectorId) ?? delta.vectorId]) > FEED_ROWS) feedRows.pop();
}

/** Several times a second is often enough for people. */
function showFeed() {
  let shown = -1;
  let counted = 0;
  let since = performance.now();
  setInterval(() => {
    if (arrived === shown) {
      $('rate').textContent = '0';
      return;
    }
    $('feed').replaceChildren(
      ...feedRows.map((cells) => {
        const tr = document.createElement('tr');
        tr.append(...cells.map((text) => Object.assign(document.createElement('td'), { textContent: text })));
        return tr;
      }),
    );
    $('rate').textContent = number(Math.round((arrived - counted) / ((performance.now() - since) / 1000)));
    [shown, counted, since] = [arrived, arrived, performance.now()];
    if (at === Infinity) search();
  }, 250);
  const status = async () => {
    const { rows, deltas, bytes } = await db.status();
    $('rows').textContent = number(rows);
    $('deltas').textContent = number(deltas);
    $('bytes').textContent = size(bytes);
  };
  setInterval(() => void status(), 1000);
  return status();
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

// ---- the beginning ---------------------------------------------------------------------------------------------------

async function start() {
  sentences = await loadSentences();
  rows = sentences.filter(({ id }) => id !== null);
  const texts = new Map(rows.map(({ id, text }) => [id, text]));
  picture.fit(rows.map(({ vector }) => vector));
  const parts = [...new Set(rows.map(({ pos }) => pos))].filter((pos) => PARTS[pos]);
  $('legend').innerHTML = parts.map((pos) => `<span><i style="background:var(--${pos})"></i>${PARTS[pos]}</span>`).join('');

  const opened = performance.now();
  db = await DeltaVectorDB.open({ name: 'demo', dimensions: DIMENSIONS, sqlite: '/sqlite/index.mjs', onWarning: () => {} });
  const { rows: found } = await db.status();
  if (found === 0 && db.info.isOwner) {
    say('Filling the database…');
    const start = performance.now();
    const n = await new DeltaStreamProcessor(db).streamDeltas(creations(sentences));
    showWhere(`${number(n)} sentences written in ${Math.round(performance.now() - start)} ms`);
    say('');
  } else {
    showWhere(`${number(found)} sentences found, open after ${Math.round(performance.now() - opened)} ms`);
  }
  db.onDelta((delta) => follow(delta, texts), { fromSeq: 0 });
  await showFeed();
  for (const id of ['query', 'time', 'now', 'drift']) $(id).disabled = false;
  query = sentences.find(({ id }) => id === null) ?? sentences[0];
  await search();
  document.body.dataset.ready = 'yes';
}

start().catch((error) => say(`This did not work: ${error.message}`));
