#!/bin/sh
# build.sh SINGLE_FILE SQLITE_HEADERS VERSION: the extension as side modules for sqlite-wasm, in wasm/dist: scalar, with
# SIMD128, and with relaxed SIMD. SINGLE_FILE is the amalgamation: as one unit the compiler sees which functions are used
# once, and the module is a seventh smaller. Position-independent, since it is placed wherever SQLite has room for it.
set -eu
single=$1 headers=$2 version=$3
cd "$(dirname "$0")"
mkdir -p dist build
cat "$single" c/view.c >build/extension.c

flags="-std=gnu11 -Os -ffp-contract=off -fPIC -fvisibility=hidden -mbulk-memory -Wall -Wextra"
exports=_sqlite3_deltavectors_init,_dv_view_open,_dv_view_vector

for variant in scalar simd; do
  simd=
  if [ $variant = simd ]; then simd=-msimd128; fi
  # shellcheck disable=SC2086
  {
    emcc $flags $simd -DSQLITE_CORE -DDELTA_VECTORS_VERSION="\"$version\"" -isystem "$headers" \
      -c build/extension.c -o build/extension.o
    emcc $flags $simd -fno-builtin -c c/strings.c -o build/strings.o
    emcc -Os $simd -sSIDE_MODULE=2 -sWASM_BIGINT=1 -sEXPORTED_FUNCTIONS=$exports build/extension.o build/strings.o \
      -o dist/delta_vectors.$variant.wasm
  }
done
