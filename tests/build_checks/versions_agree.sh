#!/bin/sh
# versions_agree.sh ROOT VERSION: the version that the public header falls back to is the project's.
set -eu
grep -qE "#define (DELTA_VECTORS|DV)_VERSION \"$2\"" "$1/ext/delta_vectors.h" || {
  echo "ext/delta_vectors.h does not define the version as \"$2\", which is that of CMakeLists.txt"
  exit 1
}
echo "version $2"
