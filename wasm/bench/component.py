"""component.py COMPONENT N DIMENSIONS ROUNDS clock|cpu: the component in wasmtime, for component.mjs. Vectors come as 32-bit floats on standard
input, N rows and then 200 queries; a JSON object of medians goes to standard output, in microseconds unless it says otherwise.
"""
import array
import json
import random
import statistics
import sys
import time

path, n, dimensions, rounds = sys.argv[1], *map(int, sys.argv[2:5])
now = time.process_time if sys.argv[5] == "cpu" else time.perf_counter
start = now()
from wasmtime import Engine, Store, WasiConfig
from wasmtime.component import Component, Linker, Record, Variant

engine = Engine()
linker = Linker(engine)
linker.add_wasip2()


def start_with(code):
    global store, component
    store = Store(engine)
    store.set_wasi(WasiConfig())
    component = linker.instantiate(store, code)
    db = function("[constructor]database")(dimensions)
    function("[method]database.apply-delta")(db, delta("first", "create", [1.0] * dimensions))
    function("[method]database.apply-delta")(db, record(vector_id="first", operation=Variant("delete"), timestamp=None))
    return db


def function(name, interface="delta-db"):
    place = component.get_export_index(store, f"ruvector:delta/{interface}@0.1.0")
    called = component.get_func(store, component.get_export_index(store, name, place))
    return lambda *args: called(store, *args)


def record(**fields):
    r = Record()
    for name, value in fields.items():
        setattr(r, name.replace("_", "-"), value)
    return r


def delta(vector_id, tag, value):
    return record(vector_id=vector_id, operation=Variant(tag, value), timestamp=None)


def timed(calls, call):
    """Of rounds, after one that does not count."""
    times, i = [], 0
    for turn in range(rounds + 1):
        begin = now()
        for _ in range(calls):
            call(i)
            i += 1
        if turn:
            times.append((now() - begin) * 1e6 / calls)
    return statistics.median(times)


out = {}
code = Component.from_file(engine, path)
start_with(code)
out["start to first commit, ms"] = (now() - start) * 1e3
compiled = code.serialize()
start = now()
db = start_with(Component.deserialize(engine, compiled))
out["… of a component compiled before, ms"] = (now() - start) * 1e3
apply_delta, apply_deltas, get_vector, search = (
    function("[method]database." + name) for name in ("apply-delta", "apply-deltas", "get-vector", "search")
)

floats = array.array("f", sys.stdin.buffer.read())
vectors = [floats[i : i + dimensions].tolist() for i in range(0, len(floats), dimensions)]
rows, queries = vectors[:n], vectors[n:]
creates = [delta(f"r{i}", "create", row) for i, row in enumerate(rows)]
begin = now()
for i in range(0, n, 1000):
    apply_deltas(db, creates[i : i + 1000])
out["insert, in batches of 1,000"] = (now() - begin) * 1e6 / n

last_error = function("last-error", "delta-db-ext")
out["a call that does nothing"] = timed(2000, lambda i: last_error(db))
out["search k = 10, scan"] = timed(len(queries), lambda i: search(db, queries[i % len(queries)], 10))
draw = random.Random(7)


def name(i):
    return f"r{i * 7919 % n}"


def sparse(i):
    indices = [j * 20 + draw.randrange(20) for j in range(19)]
    return delta(name(i), "sparse", record(indices=[min(j, dimensions - 1) for j in indices], values=[draw.random() for _ in indices]))


deltas = [sparse(i) for i in range(1000)]
out["sparse delta, in a batch of 100"] = timed(10, lambda i: apply_deltas(db, deltas[i * 100 % 1000 : i * 100 % 1000 + 100])) / 100
out["sparse delta, one call"] = timed(500, lambda i: apply_delta(db, deltas[i % 1000]))
dense = [delta(name(i), "dense", rows[i * 31 % n]) for i in range(500)]
out["dense delta, one call"] = timed(500, lambda i: apply_delta(db, dense[i % 500]))
out["getVector"] = timed(500, lambda i: get_vector(db, name(i)))
json.dump(out, sys.stdout)
