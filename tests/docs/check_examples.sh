#!/bin/sh
# check_examples.sh FILE.md EXTENSION RUNNER...
#
# Runs the examples of a document and compares what they print with what the document says they print.
#
#   ```sql              statements. They run, and print nothing unless a text block follows.
#   ```text             directly behind a sql block, with at most empty lines between: what it prints, line for line.
#   ```sql not run      for reading only: it has parameters, or needs what a test has not.
#
# Each heading of the first or second level begins with a fresh database; the blocks below it share that database. They
# run in a fresh directory, where they find the extension as ./delta_vectors. RUNNER DATABASE reads a script from its
# standard input and prints in list mode (see run/compare.sh). With DV_ACCEPT=1 the document's text blocks are replaced by
# what the statements print: read the diff.
set -eu
document=$1 extension=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

mkdir "$directory/run"
ln -s "$extension.so" "$directory/run/delta_vectors.so"
awk -v script="$directory/script" -v expected="$directory/expected" -f "$here/examples.awk" "$document"

status=0
(cd "$directory/run" && "$@" start.db <"$directory/script") >"$directory/actual" 2>&1 || status=$?

# 1 is a failed statement, which an example may be about; beyond that it is the runner that failed.
if [ "$status" -gt 1 ]; then
  cat "$directory/actual"
  echo "$(basename "$document"): exit code $status"
  exit 1
fi
if [ "${DV_ACCEPT:-}" = 1 ]; then
  awk -v actual="$directory/actual" -f "$here/examples.awk" "$document" >"$directory/accepted"
  cat "$directory/accepted" >"$document"
  exit 0
fi
status=0
diff -u --label "$(basename "$document")" --label "what it prints" "$directory/expected" "$directory/actual" || status=1
awk '
  /^== line [0-9]+$/ { block = $3 }
  FNR == NR { expected[block] = expected[block] $0 "\n"; next }
  { actual[block] = actual[block] $0 "\n" }
  END {
    for (b in expected) n[expected[b] == actual[b]]++
    printf "%d passed, %d failed\n", n[1], n[0]
  }' "$directory/expected" "$directory/actual"
exit $status
