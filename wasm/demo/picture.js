// The vectors in a plane: the first two principal components of the sentences as they were created. The picture is a fold of
// the change feed: it keeps a copy of each vector, changed by the deltas that arrive, and where its point has been.
export const DIMENSIONS = 384;

export class Picture {
  #canvas;
  #axes;
  #mean;
  #points = new Map(); // id -> { vector, x, y, pos, times: [], xs: [], ys: [] }
  #marked = new Map(); // id -> rank
  #query;
  #at = Infinity;
  #range; // [from, to] of the points along each axis
  #isDrawing = false;

  constructor(canvas) {
    this.#canvas = canvas;
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.draw());
  }

  /** Chooses the plane: from some of the vectors, and so that all of them have room. */
  fit(vectors) {
    const some = vectors.filter((_, i) => i % 4 === 0);
    this.#mean = new Float32Array(DIMENSIONS);
    for (const v of some) for (let i = 0; i < DIMENSIONS; i++) this.#mean[i] += v[i] / some.length;
    this.#axes = [];
    for (let a = 0; a < 2; a++) {
      // Power iteration; what the first axis explains is left out of the second.
      let axis = Float32Array.from({ length: DIMENSIONS }, (_, i) => Math.sin(i + a + 1));
      for (let round = 0; round < 25; round++) {
        const next = new Float32Array(DIMENSIONS);
        for (const v of some) {
          let along = 0;
          for (let i = 0; i < DIMENSIONS; i++) along += (v[i] - this.#mean[i]) * axis[i];
          for (let i = 0; i < DIMENSIONS; i++) next[i] += along * (v[i] - this.#mean[i]);
        }
        for (const other of this.#axes) {
          const along = next.reduce((s, x, i) => s + x * other[i], 0);
          other.forEach((x, i) => (next[i] -= along * x));
        }
        const length = Math.hypot(...next) || 1;
        axis = next.map((x) => x / length);
      }
      this.#axes.push(axis);
    }
    const places = vectors.map((v) => this.#project(v));
    this.#range = [0, 1].map((a) => [Math.min(...places.map((place) => place[a])), Math.max(...places.map((place) => place[a]))]);
  }

  #project(vector) {
    const [first, second] = this.#axes;
    let x = 0;
    let y = 0;
    for (let i = 0; i < DIMENSIONS; i++) {
      const from = vector[i] - this.#mean[i];
      x += first[i] * from;
      y += second[i] * from;
    }
    return [x, y];
  }

  /** Forgets what it was told: the feed begins anew. */
  clear() {
    this.#points.clear();
    this.draw();
  }

  /** A delta of the feed. */
  apply({ vectorId, operation, timestamp, metadata }) {
    let point = this.#points.get(vectorId);
    if (operation.type === 'create') {
      point = { vector: operation.vector, pos: metadata?.pos, times: [], xs: [], ys: [] };
      this.#points.set(vectorId, point);
    } else if (!point) return;
    else if (operation.type === 'sparse') operation.indices.forEach((i, j) => (point.vector[i] = operation.values[j]));
    else if (operation.type === 'dense') point.vector = operation.vector;
    else if (operation.type === 'scale') point.vector = point.vector.map((x) => x * operation.factor);
    else if (operation.type === 'offset') point.vector = point.vector.map((x) => x + operation.amount);
    else this.#points.delete(vectorId);
    const [x, y] = this.#project(point.vector);
    point.times.push(timestamp.getTime());
    point.xs.push(x);
    point.ys.push(y);
    this.draw();
  }

  /** When all points were there for the first time. */
  get firstTime() {
    let first = 0;
    for (const { times } of this.#points.values()) first = Math.max(first, times[0]);
    return first;
  }

  /** What is marked: the query's vector and the ids of the nearest. */
  mark(query, ids) {
    this.#query = query;
    this.#marked = new Map(ids.map((id, i) => [id, i]));
    this.draw();
  }

  /** Shows the state of that time; Infinity: now. */
  showAt(time) {
    this.#at = time;
    this.draw();
  }

  #place(point) {
    let i = point.times.length - 1;
    if (this.#at !== Infinity) {
      let low = 0;
      for (let high = i + 1; low < high; ) {
        const middle = (low + high) >> 1;
        if (point.times[middle] <= this.#at) low = middle + 1;
        else high = middle;
      }
      i = low - 1;
    }
    return i < 0 ? undefined : [point.xs[i], point.ys[i]];
  }

  draw() {
    if (this.#isDrawing || !this.#axes) return;
    this.#isDrawing = true;
    requestAnimationFrame(() => {
      this.#isDrawing = false;
      this.#paint();
    });
  }

  #paint() {
    const canvas = this.#canvas;
    const ratio = devicePixelRatio || 1;
    const { width, height } = canvas.getBoundingClientRect();
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const style = getComputedStyle(canvas);
    const colour = (name) => style.getPropertyValue(`--${name}`);
    const g = canvas.getContext('2d');
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, width, height);
    const margin = 14; // for what is drawn around a point
    const along = (a, value) => (value - this.#range[a][0]) / (this.#range[a][1] - this.#range[a][0]);
    const to = ([x, y]) => [margin + along(0, x) * (width - 2 * margin), height - margin - along(1, y) * (height - 2 * margin)];

    g.globalAlpha = 0.55;
    const marks = [];
    const colours = new Map(['noun', 'verb', 'adjective', 'adverb'].map((pos) => [pos, colour(pos)]));
    for (const [id, point] of this.#points) {
      const place = this.#place(point);
      if (!place) continue;
      const [x, y] = to(place);
      if (this.#marked.has(id)) marks.push([this.#marked.get(id), x, y]);
      g.fillStyle = colours.get(point.pos) ?? colours.get('noun');
      g.fillRect(x - 1.5, y - 1.5, 3, 3);
    }
    g.globalAlpha = 1;
    if (!this.#query) return;
    const ink = colour('ink');
    const back = colour('back');
    const [qx, qy] = to(this.#project(this.#query));
    g.strokeStyle = ink;
    g.lineWidth = 1;
    g.globalAlpha = 0.35;
    for (const [, x, y] of marks) {
      g.beginPath();
      g.moveTo(qx, qy);
      g.lineTo(x, y);
      g.stroke();
    }
    // The nearest lies on top. In the ink's colour, which no kind of word has, with an edge that parts them from each other.
    g.globalAlpha = 1;
    g.font = '600 10px system-ui, sans-serif';
    g.textAlign = 'center';
    g.textBaseline = 'middle';
    g.strokeStyle = back;
    g.lineWidth = 1.5;
    for (const [rank, x, y] of marks.sort((a, b) => b[0] - a[0])) {
      g.fillStyle = ink;
      g.beginPath();
      g.arc(x, y, 8, 0, 7);
      g.fill();
      g.stroke();
      g.fillStyle = back;
      g.fillText(String(rank + 1), x, y + 0.5);
    }
    g.fillStyle = ink;
    g.beginPath();
    g.moveTo(qx, qy - 9);
    g.lineTo(qx + 8, qy + 6);
    g.lineTo(qx - 8, qy + 6);
    g.closePath();
    g.fill();
    g.stroke();
  }
}
