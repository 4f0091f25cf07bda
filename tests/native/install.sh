#!/bin/sh
# install.sh BUILD EXAMPLES CMAKE CC EXTENSION: what `cmake --install` puts into a directory is enough for programs that
# find it by pkg-config, by CMake, from C++, and from a language that can only call C; and it can be moved.
set -eu
build=$1 examples=$2 cmake=$3 cc=$4 version=$5
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"

"$cmake" --install "$build" --prefix "$directory/first" >/dev/null
mv first tree
config=$(find tree -name delta_vectors.pc)
export PKG_CONFIG_PATH="$directory/${config%/*}"
libdir=$(pkg-config --variable=libdir delta_vectors)
export LD_LIBRARY_PATH="$libdir"

test "$(pkg-config --modversion delta_vectors)" = "$version"
# shellcheck disable=SC2046
"$cc" -std=c11 -Wall -Wextra -Werror "$examples/minimal.c" $(pkg-config --cflags --libs delta_vectors) -o minimal
./minimal >out
diff "$examples/minimal.out" out
echo "pkg-config: minimal.c runs"
# shellcheck disable=SC2046
"$cc" -std=gnu11 -Wall -Wextra -Werror "$examples/sensors.c" $(pkg-config --cflags --libs delta_vectors libuv) -o sensors
echo "pkg-config: sensors.c links with libuv"

mkdir consumer
cat >consumer/CMakeLists.txt <<END
cmake_minimum_required(VERSION 3.25)
project(consumer LANGUAGES C)
find_package(delta_vectors $version REQUIRED)
add_executable(minimal $examples/minimal.c)
target_link_libraries(minimal PRIVATE delta_vectors::delta_vectors)
END
"$cmake" -S consumer -B consumer/build -DCMAKE_PREFIX_PATH="$directory/tree" -DCMAKE_C_COMPILER="$cc" >/dev/null
"$cmake" --build consumer/build >/dev/null
consumer/build/minimal >out
diff "$examples/minimal.out" out
echo "CMake: minimal.c runs"

loadable=$(pkg-config --variable=loadable delta_vectors)
test -e "$loadable.so"

if command -v c++ >/dev/null; then
  printf '#include <delta_vectors.h>\n#include <uv.h>\nint main() { dvec_delta d = {}; d.size = sizeof d; return d.size == 0 || !dvec_version(); }\n' >use.cc
  # shellcheck disable=SC2046
  c++ -Wall -Wextra -Werror -Wno-missing-field-initializers use.cc $(pkg-config --cflags --libs delta_vectors) -o use
  ./use
  echo "C++: links"
fi

if command -v python3 >/dev/null; then
  python3 - "$libdir/libdelta_vectors_native.so" "$version" <<'END'
import ctypes as c, sys
lib = c.CDLL(sys.argv[1])
lib.dvec_version.restype = lib.dvec_message.restype = c.c_char_p
lib.dvec_hits_count.restype = c.c_size_t
assert lib.dvec_version().decode() == sys.argv[2]
class Id(c.Structure): _fields_ = [("text", c.c_char_p), ("n_text", c.c_int64), ("integer", c.c_int64)]
class Delta(c.Structure): _fields_ = [  # an older program's: it ends with n
    ("size", c.c_uint32), ("operation", c.c_int32), ("id", Id), ("values", c.POINTER(c.c_float)), ("indices", c.c_void_p),
    ("n", c.c_size_t)]
class Table(c.Structure): _fields_ = [("size", c.c_uint32), ("dimensions", c.c_uint32)]
db, hits = c.c_void_p(), c.c_void_p()
ok = lambda code: code == 0 or sys.exit(lib.dvec_message(db))
vector = (c.c_float * 3)(1, 2, 3)
ok(lib.dvec_open(b":memory:", None, c.byref(db)))
ok(lib.dvec_create_table(db, b"docs", c.byref(Table(c.sizeof(Table), 3))))
ok(lib.dvec_apply(db, b"docs", c.byref(Delta(c.sizeof(Delta), 1, Id(b"a", -1, 0), vector, None, 3)), None))
ok(lib.dvec_search(db, b"docs", vector, c.c_size_t(3), None, c.byref(hits)))
assert lib.dvec_hits_count(hits) == 1
lib.dvec_hits_free(hits)
ok(lib.dvec_close(db))
END
  echo "ctypes: searches"
fi
