#!/bin/sh
# loadable_is_closed.sh delta_vectors.so: the loadable shows its entry point and nothing else, and needs the C and the
# mathematics library and nothing else: in particular no libsqlite3, so that a process has one SQLite, the host's.
set -eu
loadable=$1
failed=0

exported=$(nm -D --defined-only "$loadable" | awk '{ print $NF }')
if [ "$exported" != sqlite3_deltavectors_init ]; then
  echo "exports other than sqlite3_deltavectors_init:" && echo "$exported"
  failed=1
fi

needed=$(readelf -d "$loadable" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
bad=$(echo "$needed" | grep -vE '^(libc\.so|libm\.so|ld-linux)' || true)
if [ -n "$bad" ]; then
  echo "needs libraries:" && echo "$bad"
  failed=1
fi

# w: weak, the hooks of the dynamic linker.
imported=$(nm -D --undefined-only "$loadable" | awk '$1 != "w" { print $NF }')
bad=$(echo "$imported" | grep -v '@GLIBC_' || true)
if [ -n "$bad" ]; then
  echo "needs functions that are not of the C library:" && echo "$bad"
  failed=1
fi
echo "1 name exported, $(echo "$imported" | wc -l) imported"
exit $failed
