#!/bin/sh
# build.sh SINGLE_FILE SQLITE VERSION: the component, wasm/component/dist/delta-vector.wasm. SINGLE_FILE is the amalgamation of the
# extension, SQLITE the directory of SQLite's.
#
# For WASI by clang and Debian's wasi-libc; what makes a component of it comes with jco. All calls between SQLite, the extension
# and the C API stay inside one module.
set -eu
single=$1 sqlite=$2 version=$3
cd "$(dirname "$0")"
root=../..
build=../build/component
mkdir -p "$build" dist
sysroot=${WASI_SYSROOT:-/usr}
jco=../node_modules/@bytecodealliance/jco

wasi_clang() {
  # SIMD and bulk memory are in every engine that runs components. The headers are wasi-libc's only.
  clang-19 --target=wasm32-wasi --sysroot="$sysroot" -nostdlibinc -isystem "$sysroot/include/wasm32-wasi" \
    -msimd128 -mbulk-memory -std=gnu11 -fvisibility=hidden -DNDEBUG "$@"
}

# make OBJECT SOURCE FLAG...: compiles it if it has changed.
make() {
  object=$1 source=$2
  shift 2
  if [ -e "$object" ] && [ "$object" -nt "$source" ] && [ "$object" -nt build.sh ]; then return; fi
  wasi_clang "$@" -c "$source" -o "$object.new"
  mv "$object.new" "$object"
}

# One thread, one user of each connection, no file that is not asked for. This takes half a minute, and so does the extension.
make "$build/sqlite3.o" "$sqlite/sqlite3.c" -Os -w -DSQLITE_THREADSAFE=0 -DSQLITE_TEMP_STORE=3 -DSQLITE_MAX_MMAP_SIZE=0 \
  -DSQLITE_DQS=0 -DSQLITE_OMIT_DEPRECATED -DSQLITE_OMIT_SHARED_CACHE -DSQLITE_OMIT_LOAD_EXTENSION &
background=$!

# The same bits as everywhere: no FMA.
set -- -O2 -ffp-contract=off -Wall -Wextra -Werror -DSQLITE_CORE "-DDELTA_VECTORS_VERSION=\"$version\"" -isystem "$sqlite" \
  -I "$root/ext" -I "$root/ext/native"
make "$build/delta_vectors.o" "$single" "$@"
for source in $root/ext/native/api.c $root/ext/native/encode.c database.c memory.c; do
  wasi_clang "$@" -c "$source" -o "$build/$(basename "$source" .c).o"
done
wait $background

# The stack comes first in memory, so that one that is too deep traps and does not write over data.
cd "$build"
wasi_clang -mexec-model=reactor -O2 sqlite3.o delta_vectors.o api.o encode.o database.o memory.o -o module.wasm \
  -Wl,--gc-sections,--strip-all,--stack-first,-z,stack-size=1048576
cd - >/dev/null
node componentize.mjs "$build/module.wasm" "$jco/lib/wasi_snapshot_preview1.reactor.wasm" dist/delta-vector.wasm

# For the tests and the benchmark: as a function that makes instances, with imports that the caller gives.
node ../node_modules/@bytecodealliance/jco/src/jco.js transpile dist/delta-vector.wasm --instantiation async --name delta-vector -o dist/js --quiet
