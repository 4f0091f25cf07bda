#!/usr/bin/env python3
"""Make two more data sets than make_embeddings.py does, of other kinds; and one that is larger.

    python3 tests/bench/make_datasets.py                  words-200 and patches-128
    python3 tests/bench/make_datasets.py --million        wordnet-1m-384, of what make_embeddings.py made

They need nothing but package registries: WordNet's texts come as make_embeddings.py has them, the photographs are those
that scikit-image brings for its examples. The Python packages are pinned in requirements-datasets.txt and go into a
virtual environment of their own in the cache directory.

Output, in ${DELTA_VECTORS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/delta_vectors}, little-endian float32:

    words-200       50,000 words of WordNet's definitions, and 1,000 others as queries: which words stand near them, as
                    positive pointwise mutual information, reduced to 200 dimensions by a singular value decomposition.
                    Of unequal lengths, so natural for inner products. words-200.txt and words-200-queries.txt have a
                    word a line.
    patches-128     100,000 places in 15 photographs, and 1,000 others as queries, described as SIFT does (upright):
                    histograms of gradients, 4 x 4 places of 8 directions, whole numbers from 0 to 255. Natural for l2.
    wordnet-1m-384  the 100,000 rows of wordnet-384 and nine jittered copies of each, shuffled; of unit length. Its
                    queries are those of wordnet-384. With the exact answers to them, wordnet-1m-384-1000000-cosine.top10
                    (search_peers.py has the format), and wordnet-1m-384.source, 32-bit: the row of wordnet-384 each row
                    comes from, plus 100,000 times the number of its copy.

Each is <name>.f32 and <name>-queries.f32. The choice and order of the rows is fixed. Vectors can differ in their last
bits between processors. A file is there with its full size or not at all; what is there is not made again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import venv
from importlib.util import find_spec
from pathlib import Path

from make_embeddings import cache_directory, read_synsets

try:
    import numpy as np
except ImportError:
    pass  # not in the virtual environment yet: enter_environment() goes there

QUERIES = 1_000
SEED = 31


def enter_environment() -> None:
    """Go on in the virtual environment, which is made if it is not there."""
    environment = cache_directory() / "venv-datasets"
    if Path(sys.prefix).resolve() == environment:
        return
    requirements = Path(__file__).with_name("requirements-datasets.txt")
    installed = environment / "installed-requirements.txt"
    python = environment / "bin" / "python"
    if not installed.exists() or installed.read_bytes() != requirements.read_bytes():
        print(f"installing {requirements.name} into {environment}", flush=True)
        venv.create(environment, clear=True, with_pip=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*pip, "--requirement", requirements], check=True)
        shutil.copyfile(requirements, installed)
    os.execv(python, [str(python), *sys.argv])


# ---- files -----------------------------------------------------------------------------------------------------------


def is_complete(name: str, rows: int) -> bool:
    file = cache_directory() / f"{name}.f32"
    dimensions = int(name.removesuffix("-queries").rsplit("-", 1)[1])
    return file.exists() and file.stat().st_size == rows * dimensions * 4


def write(file: Path, data) -> None:
    """The whole file, or none."""
    part = file.with_name(f"{file.name}.part")
    if isinstance(data, str):
        part.write_text(data)
    else:
        data.tofile(part)
    part.rename(file)


def write_set(name: str, vectors: np.ndarray, texts: list[str] | None = None) -> None:
    """The first QUERIES rows are the queries."""
    cache = cache_directory()
    vectors = np.ascontiguousarray(vectors, dtype="<f4")
    if not np.isfinite(vectors).all() or not vectors.any(axis=1).all():
        sys.exit(f"{name}: a vector that is not finite, or zero")
    for stem, rows in ((f"{name}-queries", slice(0, QUERIES)), (name, slice(QUERIES, None))):
        if texts:
            write(cache / f"{stem}.txt", "".join(f"{text}\n" for text in texts[rows]))
        write(cache / f"{stem}.f32", vectors[rows])


# ---- words-200 -------------------------------------------------------------------------------------------------------

WORDS = 50_000
WORD_DIMENSIONS = 200
WINDOW = 5
SPARE = 500  # words that are there if others stand near no word


def singular_vectors(matrix, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """The left singular vectors and singular values of a sparse matrix, by randomised subspace iteration."""
    random = np.random.default_rng(SEED)
    basis = np.linalg.qr(matrix @ random.standard_normal((matrix.shape[1], rank + 40)))[0]
    for _ in range(5):
        basis = np.linalg.qr(matrix.T @ basis)[0]
        basis = np.linalg.qr(matrix @ basis)[0]
    left, values, _ = np.linalg.svd((matrix.T @ basis).T, full_matrices=False)
    return (basis @ left)[:, :rank], values[:rank]


def make_words() -> None:
    import re
    from collections import Counter

    from scipy.sparse import coo_matrix

    texts = [re.findall(r"[a-z]+", synset.text.lower()) for synset in read_synsets()]
    counts = Counter(word for text in texts for word in text)
    words = sorted(counts, key=lambda word: (-counts[word], word))[: WORDS + QUERIES + SPARE]
    number = {word: i for i, word in enumerate(words)}

    lefts, rights, weights = [], [], []
    for text in texts:
        row = [number.get(word, -1) for word in text]
        for i, left in enumerate(row):
            for distance, right in enumerate(row[i + 1 : i + 1 + WINDOW], 1):
                if left >= 0 and right >= 0:
                    lefts.append(left)
                    rights.append(right)
                    weights.append(1 / distance)
    n = len(words)
    pairs = coo_matrix((weights + weights, (lefts + rights, rights + lefts)), shape=(n, n)).tocsr()
    pairs.sum_duplicates()
    pairs = pairs.tocoo()

    # Contexts are smoothed (to the power of 3/4), which keeps rare words from standing too far out.
    by_word = np.bincount(pairs.row, weights=pairs.data, minlength=n)
    by_context = by_word**0.75
    share = pairs.data * by_context.sum() / (by_word[pairs.row] * by_context[pairs.col])
    information = np.log(np.maximum(share, 1))
    matrix = coo_matrix((information, (pairs.row, pairs.col)), shape=(n, n)).tocsr()
    left, values = singular_vectors(matrix, WORD_DIMENSIONS)
    vectors = left * np.sqrt(values)
    # The sign of a singular vector is arbitrary: its largest component is positive.
    vectors *= np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(WORD_DIMENSIONS)])

    chosen = np.flatnonzero(np.linalg.norm(vectors, axis=1) > 1e-6)[: WORDS + QUERIES]
    order = np.random.default_rng(SEED).permutation(chosen)
    write_set("words-200", vectors[order], [words[i] for i in order])


# ---- patches-128 -----------------------------------------------------------------------------------------------------

PATCHES = 100_000
PHOTOGRAPHS = (
    "astronaut.png brick.png camera.png cell.png chelsea.png coffee.png coins.png grass.png gravel.png"
    " hubble_deep_field.jpg ihc.png moon.png motorcycle_left.png retina.jpg rocket.jpg"
).split()
STEP = 3  # pixels between two places
CELL = 4  # pixels: a patch is 4 x 4 cells
DIRECTIONS = 8


def blur(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolved in both directions with a symmetric kernel."""
    from scipy.ndimage import convolve1d

    return convolve1d(convolve1d(image, kernel, axis=0, mode="nearest"), kernel, axis=1, mode="nearest")


def describe(image: np.ndarray) -> np.ndarray:
    """The descriptors of all places of one grey image, on a grid; flat places are left out."""
    dy, dx = np.gradient(blur(image, np.array([1, 4, 6, 4, 1]) / 16))
    strength = np.hypot(dx, dy)
    direction = np.arctan2(dy, dx) * (DIRECTIONS / (2 * np.pi)) % DIRECTIONS
    lower = np.floor(direction)
    upper_part = direction - lower
    lower = lower.astype(int) % DIRECTIONS
    triangle = 1 - np.abs(np.arange(-CELL + 1, CELL)) / CELL
    maps = []
    for i in range(DIRECTIONS):
        part = np.where(lower == i, 1 - upper_part, 0) + np.where((lower + 1) % DIRECTIONS == i, upper_part, 0)
        maps.append(blur(strength * part, triangle))
    maps = np.stack(maps, axis=-1)

    margin = 2 * CELL
    ys = np.arange(margin, image.shape[0] - margin, STEP)
    xs = np.arange(margin, image.shape[1] - margin, STEP)
    offsets = (np.arange(4) * CELL - 3 * CELL // 2).tolist()
    weight = np.exp(-0.5 * (np.array(offsets) / (2 * CELL)) ** 2)
    cells = [
        maps[np.ix_(ys + y, xs + x)] * (weight[i] * weight[j])
        for i, y in enumerate(offsets)
        for j, x in enumerate(offsets)
    ]
    found = np.concatenate(cells, axis=-1).reshape(-1, 16 * DIRECTIONS)
    length = np.linalg.norm(found, axis=1, keepdims=True)
    found = found[length[:, 0] > 60]  # of grey values from 0 to 255
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    np.minimum(found, 0.2, out=found)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return np.minimum(np.rint(found * 512), 255).astype(np.float32)


def make_patches() -> None:
    from PIL import Image

    directory = Path(find_spec("skimage").submodule_search_locations[0], "data")
    found = []
    for name in PHOTOGRAPHS:
        image = Image.open(directory / name).convert("L")
        for scale in (1, 2, 4):
            size = (image.width // scale, image.height // scale)
            small = image.resize(size, Image.Resampling.BOX) if scale > 1 else image
            found.append(describe(np.asarray(small, dtype=np.float64)))
    patches = np.unique(np.concatenate(found), axis=0)  # no query is a row
    print(f"patches-128: {len(patches):,} places to choose from", flush=True)
    chosen = np.random.default_rng(SEED).permutation(len(patches))[: PATCHES + QUERIES]
    write_set("patches-128", patches[chosen])


# ---- wordnet-1m-384 --------------------------------------------------------------------------------------------------

MILLION = "wordnet-1m-384"
SOURCE = "wordnet-384"
COPIES = 10  # the row itself is the first
NOISE = 0.3  # length of what is added, where the row has length 1
CHUNK = 10_000


def make_million() -> None:
    cache = cache_directory()
    rows = np.fromfile(cache / f"{SOURCE}.f32", dtype="<f4").reshape(-1, 384)
    n = len(rows)
    if shutil.disk_usage(cache).free < 3 * n * COPIES * 384 * 4:
        sys.exit(f"{cache}: not enough space")
    source = np.random.default_rng(SEED).permutation(n * COPIES).astype("<i4")
    write(cache / f"{MILLION}.source", source)
    part = cache / f"{MILLION}.f32.part"
    with part.open("wb") as file:
        for start in range(0, len(source), CHUNK):
            numbers = source[start : start + CHUNK]
            vectors = rows[numbers % n].astype(np.float64)
            noise = np.random.default_rng([SEED, start]).standard_normal(vectors.shape) * (NOISE / 384**0.5)
            vectors[numbers >= n] += noise[numbers >= n]
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors.astype("<f4")
            vectors[numbers < n] = rows[numbers[numbers < n]]
            vectors.tofile(file)
    shutil.copyfile(cache / f"{SOURCE}-queries.f32", cache / f"{MILLION}-queries.f32")
    part.rename(cache / f"{MILLION}.f32")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--million", action="store_true", help="wordnet-1m-384: 1.5 GB")
    arguments = parser.parse_args()
    sets = (
        [(MILLION, 100_000 * COPIES, make_million)]
        if arguments.million
        else [("words-200", WORDS, make_words), ("patches-128", PATCHES, make_patches)]
    )
    for name, rows, make in sets:
        if not (is_complete(name, rows) and is_complete(f"{name}-queries", QUERIES)):
            enter_environment()
            make()
        if not (is_complete(name, rows) and is_complete(f"{name}-queries", QUERIES)):
            sys.exit(f"{name}: incomplete")
        print(f"{cache_directory() / name}.f32: {rows:,} rows", flush=True)
    if arguments.million:
        enter_environment()
        from search_peers import find_truth

        find_truth(MILLION, 100_000 * COPIES, "cosine")


if __name__ == "__main__":
    main()
