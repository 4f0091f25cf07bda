#!/bin/sh
# core_is_pure.sh ROOT libdv_core.a: core/ depends on nothing but memory, strings and mathematics. It includes no other
# headers, and its objects need no other functions.
set -eu
root=$1 library=$2
failed=0

cd "$root"
headers='assert|float|limits|math|stdarg|stdbool|stddef|stdint|string' # ISO C
headers="$headers|[a-z]+mmintrin|arm_neon|arm_acle|wasm_simd128|sys/auxv|asm/hwcap" # kernels, and how to ask the CPU
includes=$(grep -nE '^[[:space:]]*#[[:space:]]*include' core/*.[ch] core/simd/*.[ch])
bad=$(echo "$includes" | grep -F '<' | grep -vE "<($headers)\.h>" || true)
if [ -n "$bad" ]; then
  echo "core/ may not include:" && echo "$bad"
  failed=1
fi
bad=$(echo "$includes" | grep -vF '<' | grep -vE '"(\.\./|simd/)?dv_[a-z0-9_]+\.h"' || true)
if [ -n "$bad" ]; then
  echo "core/ includes what is not core's:" && echo "$bad"
  failed=1
fi

functions='mem(cpy|move|set|cmp|chr)|str(len|cmp|ncmp|chr)'
functions="$functions|(sqrt|fabs|floor|ceil|trunc|l?round|l?rint|fmin|fmax|fma|exp|log|log2|pow|ldexp|frexp|copysign)f?"
functions="$functions|__cpu_model|__cpu_features2|__cpu_indicator_init|__popcount[sd]i2|getauxval" # the compiler's
functions="$functions|_GLOBAL_OFFSET_TABLE_"
functions="$functions|__stack_chk_fail|__(mem|str)[a-z]+_chk"
symbols=$(nm "$library")
defined=$(echo "$symbols" | awk 'NF == 3 && $2 ~ /^[A-TV-Z]$/ { print $3 }')
undefined=$(echo "$symbols" | awk '$1 == "U" { print $2 }' | sort -u | grep -vxF "$defined")
bad=$(echo "$undefined" | grep -vxE "$functions" || true)
if [ -n "$bad" ]; then
  echo "core/ may not call:" && echo "$bad"
  failed=1
fi
echo "$(echo "$symbols" | grep -c ':$') objects need $(echo "$undefined" | wc -l) names"
exit $failed
