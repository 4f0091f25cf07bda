#!/bin/sh
# example.sh EXPECTED PROGRAM [ARGUMENT]...: runs it in a fresh directory and compares what it prints.
set -eu
expected=$1
shift
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
TMPDIR=$directory "$@" >out
diff -u "$expected" out
