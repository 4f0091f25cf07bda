#!/bin/sh
# wasm_has_all_imports.sh NODE sqlite3.wasm libdelta_vectors_static.a: the same sources run as a module beside the stock
# sqlite-wasm package, so the extension calls no SQLite function that the package does not export.
set -eu
node=$1 wasm=$2 library=$3

exports=$("$node" -e '
  const module = new WebAssembly.Module(require("fs").readFileSync(process.argv[1]));
  for (const { name } of WebAssembly.Module.exports(module)) console.log(name);' "$wasm")
used=$(nm -u "$library" | awk '$1 == "U" && $2 ~ /^sqlite3_/ { print $2 }' | sort -u)
[ -n "$exports" ] && [ -n "$used" ]

# The one exception, made by ext/compat.h.
echo "$exports" | grep -qx sqlite3__wasm_vtab_config
bad=$(echo "$used" | grep -vx sqlite3_vtab_config | grep -vxF "$exports" || true)
if [ -n "$bad" ]; then
  echo "not exported by sqlite-wasm, so not to be called (see ext/compat.h):" && echo "$bad"
  exit 1
fi
echo "$(echo "$used" | wc -l) SQLite functions used, all exported"
