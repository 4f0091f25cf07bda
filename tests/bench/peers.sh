#!/bin/sh
# Installs the libraries that bench_core and bench_search compare with, from PyPI, into the cache directory. Once is
# enough; the versions are pinned in peers.txt. Afterwards the benchmarks find them by themselves. hnswlib is compiled:
# without a C++ compiler, or Python's headers, it is left out.
#
#   tests/bench/peers.sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=${DELTA_VECTORS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/delta_vectors}
peers=$cache/peers

if cmp -s "$here/peers.txt" "$peers/installed.txt"; then
  echo "peers.sh: $peers is complete"
  exit 0
fi

rm -rf "$peers"
mkdir -p "$peers"
python3 -m venv "$peers/venv"
pip() { "$peers/venv/bin/pip" --quiet --disable-pip-version-check "$@"; }
grep -v '^hnswlib' "$here/peers.txt" >"$peers/wheels.txt"
pip install --only-binary :all: -r "$peers/wheels.txt"

# Not from pip's cache of what it built, which may be of another machine's making.
hnswlib=$(sed -n 's/^\(hnswlib==[^ ]*\).*/\1/p' "$here/peers.txt")
pip install --no-cache-dir --no-deps --no-build-isolation --no-binary hnswlib "$hnswlib" ||
  echo "peers.sh: $hnswlib cannot be built here: it needs g++ and Python's headers" >&2

# The names decide which entry point SQLite calls.
site=$(echo "$peers"/venv/lib/python3*/site-packages)
ln -s "$site/sqlite_vec/vec0.so" "$peers/vec0.so"
ln -s "$site/sqlite_vector/binaries/vector.so" "$peers/vector.so"
ln -s "$site/vectorlite_py/vectorlite.so" "$peers/vectorlite.so"
ln -s "$site/doltlite/_lib/libdoltlite.so" "$peers/libdoltlite.so"
for library in "$peers"/*.so; do
  [ -e "$library" ] || { echo "peers.sh: $library leads nowhere: this platform has no such build" >&2; exit 1; }
done
cp "$here/peers.txt" "$peers/installed.txt"
echo "peers.sh: installed in $peers"
