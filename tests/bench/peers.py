#!/usr/bin/env python3
"""Times exact top-10 searches of libraries that are not SQLite; bench_core runs it and reads what it prints.

    peers.py vectors.f32 queries.f32 dimensions rows repeats

Prints a line a library: its name, then the median, smallest and largest of the rounds' median microseconds a search, and
recall@10 against float64 numpy; separated by tabs. One thread. A library that is missing or fails is left out, with the
reason on standard error.
"""

from __future__ import annotations

import os
import sys
import time

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np

ROUNDS = 5
K = 10


def faiss_flat(vectors: np.ndarray):
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return f"faiss {faiss.__version__} IndexFlatIP", lambda q: index.search(q[None, :], K)[1][0]


def usearch_exact(vectors: np.ndarray):
    import usearch
    from usearch.index import MetricKind, search

    def run(q: np.ndarray):
        return search(vectors, q, K, MetricKind.Cos, exact=True, threads=1).keys

    return f"usearch {usearch.__version__} exact", run


def numpy_dot(vectors: np.ndarray):
    def run(q: np.ndarray):
        d = vectors @ q
        best = np.argpartition(d, -K)[-K:]
        return best[np.argsort(-d[best])]

    return f"numpy {np.__version__} dot", run


def duckdb_scan(vectors: np.ndarray):
    import duckdb

    db = duckdb.connect(config={"threads": 1})
    n = vectors.shape[1]
    db.execute(f"CREATE TABLE docs(id INTEGER, vector FLOAT[{n}])")
    for at in range(0, len(vectors), 10000):
        floats = vectors[at : at + 10000].reshape(-1)  # noqa: F841, DuckDB finds it by name
        db.execute(
            f"INSERT INTO docs SELECT {at} + i // {n} AS id, list(column0 ORDER BY i)::FLOAT[{n}] "
            "FROM (SELECT column0, row_number() OVER () - 1 AS i FROM floats) GROUP BY id"
        )
    sql = f"SELECT id FROM docs ORDER BY array_cosine_distance(vector, $1::FLOAT[{n}]) LIMIT {K}"

    def run(q: np.ndarray):
        return [row[0] for row in db.execute(sql, [q]).fetchall()]

    return f"duckdb {duckdb.__version__} SQL", run


def main() -> None:
    vectors_path, queries_path = sys.argv[1:3]
    n, rows, repeats = (int(a) for a in sys.argv[3:6])
    vectors = np.fromfile(vectors_path, dtype="<f4", count=n * rows).reshape(rows, n)
    queries = np.fromfile(queries_path, dtype="<f4").reshape(-1, n)
    exact = vectors.astype(np.float64)
    for make in (faiss_flat, usearch_exact, numpy_dot, duckdb_scan):
        try:
            name, run = make(vectors)
            hits = 0
            for q in queries[:20]:  # also warms it up
                truth = np.argpartition(exact @ q, -K)[-K:]
                hits += len(set(truth.tolist()) & {int(i) for i in run(q)})
            medians = []
            once = time.perf_counter()
            run(queries[0])
            once = time.perf_counter() - once
            n_queries = max(5, min(repeats, int(0.5 / once)))
            for _ in range(ROUNDS):
                times = []
                for q in queries[:n_queries]:
                    start = time.perf_counter_ns()
                    run(q)
                    times.append(time.perf_counter_ns() - start)
                medians.append(float(np.median(times)) / 1000)
            figures = (float(np.median(medians)), min(medians), max(medians), hits / (20 * K))
            print(name, *(f"{x:.4f}" for x in figures), sep="\t", flush=True)
        except Exception as error:  # any peer may be broken on this machine
            print(f"peers.py: {make.__name__}: {error!r}", file=sys.stderr)


main()
