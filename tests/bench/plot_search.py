#!/usr/bin/env python3
"""Draws queries a second against recall: a curve a peer, a dot a setting; exact searches are single dots.

    plot_search.py figures.json [figures.json...] out.png

The figures are those of bench_search --json or of search_peers.py. Each file gives a curve of its own; data sets and
numbers of rows get a picture each, side by side. Runs in the peers' virtual environment, which has matplotlib.
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from pathlib import Path

try:
    import matplotlib
except ImportError:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(os.environ.get("DELTA_VECTORS_CACHE") or Path(base, "delta_vectors"))
    python = cache / "peers" / "venv" / "bin" / "python"
    if not python.exists() or os.environ.get("PLOT_SEARCH"):
        sys.exit("plot_search.py: no matplotlib: run tests/bench/peers.sh")
    os.execve(python, [str(python), *sys.argv], {**os.environ, "PLOT_SEARCH": "1"})

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

LEAST_RECALL = 0.8
OURS = "delta_vectors"


def read(files: list[str]) -> dict:
    """(dataset, rows, metric) -> peer -> [(recall, queries a second)]"""
    pictures = defaultdict(lambda: defaultdict(list))
    for file in files:
        suffix = f" ({Path(file).stem})" if len(files) > 1 else ""
        for line in Path(file).read_text().splitlines():
            figures = json.loads(line)
            if "recall" not in figures:
                continue
            what = (figures["dataset"], figures["rows"], figures["metric"])
            pictures[what][figures["peer"] + suffix].append((figures["recall"], 1e6 / figures["mean_us"]))
    # Several files of different pictures need no suffix.
    if len(files) > 1 and len(pictures) == len(files):
        return {what: {p.rsplit(" (", 1)[0]: points for p, points in peers.items()} for what, peers in pictures.items()}
    return pictures


def draw(axes, what: tuple, peers: dict) -> None:
    colours = {}
    for peer, points in peers.items():
        colour = colours.setdefault(peer, "black" if peer.startswith(OURS) else f"C{len(colours) % 10}")
        points = [point for point in points if point[0] >= LEAST_RECALL]
        if not points:
            continue
        is_ours = peer.startswith(OURS)
        style = {"label": peer, "color": colour, "zorder": 3 if is_ours else 2}
        if len(points) == 1:
            axes.scatter(*points[0], marker="o" if not is_ours else "*" if "exact" in peer else "D", **style)
        else:
            axes.plot(*zip(*points), marker=".", linewidth=2.2 if is_ours else 1.2, **style)
    axes.set_yscale("log")
    axes.set_title(f"{what[0]}, {what[1]:,} rows, {what[2]}")
    axes.set_xlabel("recall of the ten nearest")
    axes.set_ylabel("queries a second, one core")
    axes.grid(which="both", alpha=0.3)
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    *files, out = sys.argv[1:]
    pictures = read(files)
    figure, all_axes = plt.subplots(1, len(pictures), figsize=(10 * len(pictures), 6), squeeze=False)
    for axes, (what, peers) in zip(all_axes[0], sorted(pictures.items())):
        draw(axes, what, peers)
    figure.tight_layout()
    figure.savefig(out, dpi=120)


main()
