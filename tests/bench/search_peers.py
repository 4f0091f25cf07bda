#!/usr/bin/env python3
"""Times approximate searches of libraries that are not SQLite: hnswlib, usearch, faiss.

    search_peers.py [--set wordnet-384] [--rows 10000] [--metric cosine] [--ef 10,16,...] [--rounds 5] PEER...
    search_peers.py --list
    search_peers.py --truth [--set ...] [--rows ...] [--metric ...]

One process a peer: it builds the index (one thread, M=16, ef_construction=100), asks all queries one by one for their ten
nearest, for every ef in every round, and prints a JSON line an ef:

    peer, dataset, rows, dimensions, metric
    build_s     seconds to build the index from vectors that are in memory
    memory_mb   what the process grew by while it was built: the peer's copy of the vectors included
    call_us     the same call on an index of one row: what Python and the library take before they search
    ef
    median_us, mean_us   over the queries, of each query's median over the rounds
    recall      answers at least as near as the true tenth, of float64 numpy

With --serve it takes turns with others: after the build it prints a line of JSON, then obeys lines on standard input:
"run EF COUNT" (one round over the first COUNT queries, answered by a line) and "report" (prints the lines above and an
empty one). bench_search does that. The exact answers are kept in the cache directory, as <set>-<rows>-<metric>.top10.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np

K = 10
M = 16
EF_CONSTRUCTION = 100
EF = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
NOT_HERE = 3  # exit status: the peer is not installed, or not for this metric
METRICS = ("cosine", "l2", "ip")


def cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("DELTA_VECTORS_CACHE") or Path(base, "delta_vectors"))


def pin() -> None:
    """To the last core that this process may use, as bench_search does."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def resident_mb() -> float:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


# ---- peers: build(vectors, metric) -> (ef -> (query -> row numbers)) -------------------------------------------------


def normalised(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def hnswlib_f32(vectors: np.ndarray, metric: str):
    import hnswlib

    index = hnswlib.Index(space=metric, dim=vectors.shape[1])  # cosine: it normalises what comes in
    index.init_index(max_elements=len(vectors), M=M, ef_construction=EF_CONSTRUCTION)
    index.set_num_threads(1)
    index.add_items(vectors)

    def at(ef: int):
        index.set_ef(ef)
        k = min(K, len(vectors))
        return lambda q: index.knn_query(q, k, 1)[0][0]

    return at


def usearch_of(dtype: str):
    def build(vectors: np.ndarray, metric: str):
        from usearch.index import Index

        if dtype == "i8" and metric != "cosine":
            raise NotImplementedError("its 8-bit numbers are those of unit vectors")
        name = {"cosine": "cos", "l2": "l2sq", "ip": "ip"}[metric]
        n = vectors.shape[1]
        index = Index(ndim=n, metric=name, dtype=dtype, connectivity=M, expansion_add=EF_CONSTRUCTION)
        index.add(np.arange(len(vectors)), vectors, threads=1)

        def at(ef: int):
            index.expansion_search = ef
            # What index.search() calls, without the 9 us that its Python takes.
            search = index._compiled.search_many
            return lambda q: search(q[None, :], count=K, threads=1)[0][0]

        return at

    return build


def faiss_of(kind: str):
    def build(vectors: np.ndarray, metric: str):
        import faiss

        faiss.omp_set_num_threads(1)
        n = vectors.shape[1]
        measure = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        if kind == "sq8":
            index = faiss.IndexHNSWSQ(n, faiss.ScalarQuantizer.QT_8bit, M, measure)
        else:
            index = faiss.IndexHNSWFlat(n, M, measure)
        index.hnsw.efConstruction = EF_CONSTRUCTION
        if metric == "cosine":
            vectors = normalised(vectors)
        index.train(vectors)
        index.add(vectors)

        def at(ef: int):
            index.hnsw.efSearch = ef
            d, rows = np.empty((1, K), dtype="<f4"), np.empty((1, K), dtype="<i8")
            return lambda q: index.search(q[None, :], K, D=d, I=rows)[1][0]

        return at

    return build


def version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


PEERS = {
    "hnswlib": ("hnswlib", "", hnswlib_f32),
    "usearch": ("usearch", "f32", usearch_of("f32")),
    "usearch-bf16": ("usearch", "bf16", usearch_of("bf16")),
    "usearch-i8": ("usearch", "i8", usearch_of("i8")),
    "faiss": ("faiss-cpu", "HNSWFlat", faiss_of("flat")),
    "faiss-sq8": ("faiss-cpu", "HNSW,SQ8", faiss_of("sq8")),
}


# ---- data and truth --------------------------------------------------------------------------------------------------


def load(name: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
    cache = cache_directory()
    n = int(name.rsplit("-", 1)[1])
    vectors = np.fromfile(cache / f"{name}.f32", dtype="<f4", count=n * rows).reshape(-1, n)
    if len(vectors) != rows:
        sys.exit(f"search_peers.py: {name}.f32 has {len(vectors)} rows, not {rows}")
    # The jittered copies of a set are asked what the set itself is asked.
    queries = cache / f"{name}-queries.f32"
    return vectors, np.fromfile(queries, dtype="<f4").reshape(-1, n)


def distances(vectors: np.ndarray, query: np.ndarray, metric: str) -> np.ndarray:
    """In float64; vectors may be float32."""
    v, q = vectors.astype(np.float64), query.astype(np.float64)
    if metric == "l2":
        return np.sqrt(((v - q) ** 2).sum(axis=-1))
    dot = (v * q).sum(axis=-1)
    if metric == "ip":
        return -dot
    return 1 - dot / np.sqrt((v * v).sum(axis=-1) * (q * q).sum())


def find_truth(name: str, rows: int, metric: str) -> np.ndarray:
    """The true distances, float64, to the ten nearest of every query; computed once.

    The file: for every query ten row numbers, 32-bit, nearest first; then for every query their ten distances, 64-bit.
    """
    file = cache_directory() / f"{name}-{rows}-{metric}.top10"
    vectors, queries = load(name, rows)
    if not file.exists() or file.stat().st_size != len(queries) * K * 12:
        print(f"search_peers.py: computing {file.name}", file=sys.stderr)
        candidates = 8 * K  # by float32; far more than its error can displace
        best = np.full((len(queries), candidates), np.inf, dtype=np.float32)
        best_rows = np.zeros((len(queries), candidates), dtype=np.int64)
        q = normalised(queries) if metric == "cosine" else queries
        for start in range(0, rows, 50_000):
            v = vectors[start : start + 50_000]
            d = -(q @ (normalised(v) if metric == "cosine" else v).T)
            if metric == "l2":
                d = 2 * d + np.vecdot(v, v)[None, :]
            d = np.concatenate([best, d], axis=1)
            numbers = np.broadcast_to(np.arange(start, start + len(v)), (len(queries), len(v)))
            numbers = np.concatenate([best_rows, numbers], axis=1)
            nearest = np.argpartition(d, candidates, axis=1)[:, :candidates]
            best = np.take_along_axis(d, nearest, axis=1)
            best_rows = np.take_along_axis(numbers, nearest, axis=1)
        rows_out = np.empty((len(queries), K), dtype="<i4")
        distances_out = np.empty((len(queries), K), dtype="<f8")
        for i, query in enumerate(queries):
            d = distances(vectors[best_rows[i]], query, metric)
            order = np.lexsort((best_rows[i], d))[:K]
            rows_out[i], distances_out[i] = best_rows[i][order], d[order]
        part = file.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(rows_out.tobytes() + distances_out.tobytes())
        part.rename(file)
    data = file.read_bytes()
    return np.frombuffer(data, dtype="<f8", offset=len(queries) * K * 4).reshape(-1, K)


def is_near(vectors: np.ndarray, rows, query: np.ndarray, tenth: float, metric: str) -> int:
    """How many of the rows are at least as near as the true tenth. None may be there twice."""
    rows = np.array(sorted({int(r) for r in rows if 0 <= int(r) < len(vectors)}), dtype=np.int64)
    d = distances(vectors[rows], query, metric)
    return int((d <= tenth + 1e-9 * max(1.0, abs(tenth))).sum())


# ---- measuring -------------------------------------------------------------------------------------------------------


class Run:
    """One peer on one data set."""

    def __init__(self, peer: str, name: str, rows: int, metric: str):
        package, variant, build = PEERS[peer]
        self.truth = find_truth(name, rows, metric)
        self.vectors, self.queries = load(name, rows)
        self.metric = metric
        build(self.vectors[:100], metric)  # loads the library, so that it does not count as memory
        one = build(self.vectors[:1], metric)(1)
        times = []
        for q in self.queries:
            start = time.perf_counter_ns()
            one(q)
            times.append(time.perf_counter_ns() - start)
        before = resident_mb()
        start = time.perf_counter()
        self.at = build(self.vectors, metric)
        built = time.perf_counter() - start
        self.facts = {
            "peer": " ".join(filter(None, (package, version(package), variant))),
            "dataset": name,
            "rows": rows,
            "dimensions": self.vectors.shape[1],
            "metric": metric,
            "build_s": round(built, 3),
            "memory_mb": round(resident_mb() - before, 1),
            "call_us": round(float(np.median(times)) / 1000, 2),
        }
        self.recall: dict[int, float] = {}
        self.times: dict[int, list[list[int]]] = {}

    def round(self, ef: int, count: int) -> None:
        """Asks the first `count` queries, once for the caches' sake and once with a clock. The first time for an ef the
        answers are judged."""
        search = self.at(ef)
        queries = self.queries[:count]
        if ef not in self.recall:
            hits = 0
            for i, q in enumerate(queries):
                hits += is_near(self.vectors, search(q), q, self.truth[i][K - 1], self.metric)
            self.recall[ef] = hits / (K * len(queries))
            self.times[ef] = []
        clock = time.perf_counter_ns
        times = []
        gc.disable()
        for q in queries:
            search(q)
        for q in queries:
            start = clock()
            search(q)
            times.append(clock() - start)
        gc.enable()
        self.times[ef].append(times)

    def report(self):
        for ef, rounds in self.times.items():
            each = np.median(np.array(rounds), axis=0) / 1000
            figures = {
                "median_us": round(float(np.median(each)), 2),
                "mean_us": round(float(each.mean()), 2),
                "recall": round(self.recall[ef], 5),
            }
            yield {**self.facts, "ef": ef, **figures}


def serve(run: Run) -> None:
    print(json.dumps(run.facts), flush=True)
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "run":
            run.round(int(arguments[0]), int(arguments[1]))
        else:
            for figures in run.report():
                print(json.dumps(figures))
        print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"by default all: {' '.join(PEERS)}")
    parser.add_argument("--set", default="wordnet-384")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--metric", choices=METRICS, default="cosine")
    parser.add_argument("--ef", default=",".join(map(str, EF)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--list", action="store_true", help="print the names of the peers")
    parser.add_argument("--truth", action="store_true", help="only compute the exact answers")
    parser.add_argument("--serve", action="store_true", help="take turns with others: see above")
    arguments = parser.parse_args()

    if arguments.list:
        print(*PEERS, sep="\n")
        return
    pin()
    what = (arguments.set, arguments.rows, arguments.metric)
    find_truth(*what)
    if arguments.truth:
        return
    peers = arguments.peers or list(PEERS)
    if len(peers) > 1:  # a process each, or one's memory would be the next one's
        command = [sys.executable, __file__, "--set", arguments.set, "--rows", str(arguments.rows)]
        command += ["--metric", arguments.metric, "--ef", arguments.ef, "--rounds", str(arguments.rounds)]
        codes = [subprocess.run([*command, peer]).returncode for peer in peers]
        sys.exit(any(code not in (0, NOT_HERE) for code in codes))
    try:
        run = Run(peers[0], *what)
    except (ImportError, NotImplementedError) as error:
        print(f"search_peers.py: {peers[0]}: {error}", file=sys.stderr)
        sys.exit(NOT_HERE)
    if arguments.serve:
        serve(run)
        return
    for _ in range(arguments.rounds):
        for ef in map(int, arguments.ef.split(",")):
            run.round(ef, len(run.queries))
    for figures in run.report():
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
