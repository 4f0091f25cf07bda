#!/bin/sh
# wasm_has_all_imports.sh NODE sqlite3.wasm strings.c libdelta_vectors_static.a: the same sources run as a module beside the
# stock sqlite-wasm package. So the extension calls no SQLite function that the oldest supported package does not export, and
# of libc only what is an instruction of WebAssembly or is in wasm/c/strings.c; what host.c asks of the system is not compiled
# there. (wasm/imports.mjs looks at the modules themselves, when they have been built.)
set -eu
node=$1 wasm=$2 strings=$3 library=$4

exports=$("$node" -e '
  const module = new WebAssembly.Module(require("fs").readFileSync(process.argv[1]));
  for (const { name } of WebAssembly.Module.exports(module)) console.log(name);' "$wasm")
used=$(nm -u "$library" | awk '/:$/ { file = $1 } $1 == "U" && $2 !~ /^(dvx?_|_GLOBAL_OFFSET_TABLE_)/ && (file !~ /^host\./ || $2 ~ /^sqlite3_/) { print $2 }' | sort -u)
[ -n "$exports" ] && [ -n "$used" ]

# What there is besides: instructions, our own, and the one exception that ext/compat.h makes.
echo "$exports" | grep -qx sqlite3__wasm_vtab_config
there="memcpy memmove memset sqrt sqlite3_vtab_config $(sed -n 's/^[a-z].*[ *]\([a-z]*\)(.*{.*/\1/p' "$strings" | tr '\n' ' ')"
bad=$(for name in $used; do
  case " $there " in
  *" $name "*) ;;
  *) echo "$exports" | grep '^sqlite3_' | grep -qx "$name" || echo "$name" ;;
  esac
done)
if [ -n "$bad" ]; then
  echo "neither exported by sqlite-wasm nor in wasm/c/strings.c, so not to be called (see ext/compat.h):" && echo "$bad"
  exit 1
fi
echo "$(echo "$used" | wc -l) functions used, all there"
