#!/usr/bin/env python3
"""Make the samples of tests/vtab/check_recall.c from the data sets of tests/bench/make_datasets.py.

    python3 tests/data/make_samples.py [--cache DIRECTORY]

    words-200.sample     4,000 rows and 150 queries of words-200; a vector is a float32 scale and 200 signed bytes,
                         component i is byte i times the scale
    patches-128.sample   6,000 rows and 150 queries of patches-128; a vector is 128 unsigned bytes, the components

Rows first, then queries: the first ones of each, as those files are shuffled already. The cosine set of the test is
sql/examples/data/wordnet_sample.db, which tests/bench/make_sample.py makes.
"""

import argparse
import array
import os
import struct
import sys
from pathlib import Path

OUTPUT = Path(__file__).resolve().parent
SAMPLES = (("words-200", 200, 4000, 150, True), ("patches-128", 128, 6000, 150, False))


def read_vectors(file: Path, dimensions: int, count: int) -> list[array.array]:
    """The first ones of a file of little-endian float32."""
    with file.open("rb") as f:
        values = array.array("f", f.read(count * dimensions * 4))
    if sys.byteorder == "big":
        values.byteswap()
    if len(values) != count * dimensions:
        sys.exit(f"{file}: fewer than {count} vectors")
    return [values[i : i + dimensions] for i in range(0, len(values), dimensions)]


def pack(vector: array.array, has_scale: bool) -> bytes:
    """The vector in one byte a component: as it is, or 127 stands for the largest."""
    if not has_scale:
        return bytes(int(x) for x in vector)
    scale = struct.unpack("<f", struct.pack("<f", max(abs(x) for x in vector) / 127))[0]
    codes = (max(-127, min(127, round(x / scale))) for x in vector)
    return struct.pack(f"<f{len(vector)}b", scale, *codes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    default = os.environ.get("DELTA_VECTORS_CACHE") or Path(base) / "delta_vectors"
    parser.add_argument("--cache", type=Path, default=Path(default), help="where the data sets are")
    cache = parser.parse_args().cache
    for name, dimensions, n_rows, n_queries, has_scale in SAMPLES:
        vectors = read_vectors(cache / f"{name}.f32", dimensions, n_rows)
        vectors += read_vectors(cache / f"{name}-queries.f32", dimensions, n_queries)
        data = b"".join(pack(vector, has_scale) for vector in vectors)
        (OUTPUT / f"{name}.sample").write_bytes(data)
        print(f"{name}.sample: {n_rows:,} rows, {n_queries} queries, {len(data):,} bytes")


if __name__ == "__main__":
    main()
