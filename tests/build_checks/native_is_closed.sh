#!/bin/sh
# native_is_closed.sh LIBRARY: the native library exports its public names only, and needs libsqlite3, libuv and libc's
# parts only.
set -eu
names=$(nm -D --defined-only "$1" | awk '{ print $3 }' | grep -vE '^(dvec_[a-z_]+|sqlite3_deltavectors_init)$' || true)
needed=$(objdump -p "$1" | awk '/NEEDED/ { print $2 }' | grep -vE '^(libsqlite3|libuv|libc|libm|libpthread|ld-linux.*)\.so' || true)
if [ -n "$names$needed" ]; then
  echo "exports that are not public: $names"
  echo "libraries it should not need: $needed"
  exit 1
fi
nm -D --defined-only "$1" | grep -c dvec_
