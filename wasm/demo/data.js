// The sample: sentences and their vectors, and what the page knows of them: nothing but what the log has told.
import { DIMENSIONS } from './picture.js';

const ROW_BYTES = 4 + DIMENSIONS;

/** [{ id, pos, text, vector }], rows first, then questions, which have no id. */
export async function loadSentences() {
  const [sentences, bytes] = await Promise.all([
    fetch('data/sentences.json').then((r) => r.json()),
    fetch('data/vectors.bin').then((r) => r.arrayBuffer()),
  ]);
  const view = new DataView(bytes);
  sentences.forEach((sentence, i) => {
    const scale = view.getFloat32(i * ROW_BYTES, true);
    sentence.vector = Float32Array.from(new Int8Array(bytes, i * ROW_BYTES + 4, DIMENSIONS), (code) => code * scale);
  });
  return sentences;
}

/** The deltas that put the sentences into an empty database. */
export function* creations(sentences) {
  for (const { id, pos, text, vector } of sentences) {
    if (id !== null) yield { vectorId: id, operation: { type: 'create', vector }, metadata: { pos, text } };
  }
}

/** An endless drift: some dimensions of a row become those of another. Sentences slowly turn into each other. */
export async function* drift(rows, deltasPerSecond) {
  let due = performance.now();
  for (;;) {
    for (; due < performance.now(); due += 1000 / deltasPerSecond) {
      const row = rows[Math.floor(Math.random() * rows.length)];
      const idol = rows[(rows.indexOf(row) * 7 + 13) % rows.length];
      const first = Math.floor(Math.random() * (DIMENSIONS - 24));
      const indices = Uint32Array.from({ length: 24 }, (_, i) => first + i);
      yield { vectorId: row.id, operation: { type: 'sparse', indices, values: idol.vector.slice(first, first + 24) } };
    }
    await new Promise((resolve) => setTimeout(resolve, 15));
  }
}
