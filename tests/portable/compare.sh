#!/bin/sh
# compare.sh EXPECTED PROGRAM...: does the program print what the file says? Each line of it counts as one check.
set -eu
expected=$1
shift
output=$(mktemp)
trap 'rm -f "$output"' EXIT
"$@" >"$output" || echo "the program failed with code $?"
diff "$expected" "$output" && result=0 || result=1
awk -v result=$result 'END { print result ? "0 passed, 1 failed" : NR " passed, 0 failed" }' "$expected"
exit $result
