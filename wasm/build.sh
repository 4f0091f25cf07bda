#!/bin/sh
# build.sh SINGLE_FILE SQLITE_HEADERS VERSION: the extension as side modules for sqlite-wasm, in wasm/dist: scalar, with
# SIMD128, and with relaxed SIMD. SINGLE_FILE is the amalgamation: as one unit the compiler sees which functions are used
# once. Position-independent, since it is placed wherever SQLite has room for it.
#
# For Emscripten's target and with its headers, but by a newer LLVM than the one of Debian's Emscripten: that one does not
# know relaxed SIMD, and its graph searches take 1.4 times as long.
set -eu
single=$1 headers=$2 version=$3
cd "$(dirname "$0")"
mkdir -p dist build
sysroot=${EMSCRIPTEN_SYSROOT:-/usr/share/emscripten/cache/sysroot}

# Speed matters in the kernels, codes and searches, and in what looks at every number of a vector; everything else is to be small.
awk '
  function set(small) {
    if (small != is_small) print "#pragma clang attribute " (small ? "push(__attribute__((minsize)), apply_to = function)" : "pop")
    is_small = small
  }
  / core\/dv_vector\.c | core\/dv_delta\.c | ext\/text\.c / && /^\/\*+ / { in_small = 1 }
  / core\/dv_metric\.c | core\/dv_quant\.c / && /^\/\*+ / { in_small = 0 }
  /^[a-z].*\(/ { set(in_small && !/ (dv_vector_check|delta_differences|delta_nonzero_mask|delta_take_survey)\(/) }
  { print }
  END { set(0) }' "$single" c/direct.c >build/extension.c

compile() {
  # shellcheck disable=SC2086
  clang-19 --target=wasm32-unknown-emscripten --sysroot="$sysroot" -isystem "$sysroot/include/compat" -D__EMSCRIPTEN__ \
    -std=gnu11 -Os -ffp-contract=off -fPIC -fvisibility=hidden -mbulk-memory $simd -Wall -Wextra "$@"
}

for variant in scalar simd relaxed; do
  case $variant in
  scalar) simd= ;;
  simd) simd=-msimd128 ;;
  relaxed) simd='-msimd128 -mrelaxed-simd' ;;
  esac
  compile -DSQLITE_CORE -DDVX_WITHOUT_SALVAGE -DDELTA_VECTORS_VERSION="\"$version\"" -isystem "$headers" -c build/extension.c -o build/extension.o
  compile -fno-builtin -c c/strings.c -o build/strings.o
  wasm-ld-19 -shared --experimental-pic -Bsymbolic --no-entry --import-memory --unresolved-symbols=import-dynamic \
    --export=sqlite3_deltavectors_init --export=dv_direct_open --export=dv_direct_error --export=dv_direct_vector --export=dv_direct_apply --export=dv_direct_apply_frames --export=dv_direct_describe \
    --export-if-defined=__wasm_apply_data_relocs --gc-sections --strip-all --compress-relocations -O2 \
    build/extension.o build/strings.o -o build/linked.wasm
  # A fiftieth of the size. (Not by the wasm-opt that comes with Debian's Emscripten: it knows relaxed SIMD as it once was.)
  node_modules/.bin/wasm-opt -Os --enable-simd --enable-relaxed-simd --enable-bulk-memory --enable-mutable-globals \
    --enable-sign-ext --enable-nontrapping-float-to-int build/linked.wasm -o dist/delta_vectors.$variant.wasm
done
node imports.mjs dist/delta_vectors.*.wasm
