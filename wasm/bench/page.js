// The vectors, in a page.
export async function loadData({ n, nQueries, exact, rounds, dimensions }) {
  const load = async (name, count) => {
    const bytes = await (await fetch(`/cache/${name}`)).arrayBuffer();
    return Array.from({ length: count }, (_, i) => new Float32Array(bytes, i * dimensions * 4, dimensions).slice());
  };
  return {
    rows: await load('wordnet-384.f32', n),
    queries: await load('wordnet-384-queries.f32', nQueries),
    exact: exact.map((e) => new Set(e)),
    rounds,
  };
}
