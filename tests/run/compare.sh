#!/bin/sh
# compare.sh SCRIPT.sql EXTENSION|linked RUNNER...
#
# Runs the script on a fresh database in a fresh directory, where it finds the extension as ./delta_vectors.so and the
# data of the examples as data/, and compares the output with SCRIPT.out. RUNNER DATABASE reads a script from its
# standard input and prints in list mode. With DV_ACCEPT=1 the output becomes the expected one.
set -eu
script=$1 extension=$2
shift 2
expected=${script%.sql}.out
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

cd "$directory"
mkdir run
if [ "$extension" != linked ]; then ln -s "$extension.so" run/delta_vectors.so; fi
data=$(dirname "$script")/data
if [ -d "$data" ]; then cp -R "$data" run/data; fi

status=0
(cd run && "$@" test.db <"$script") >actual 2>&1 || status=$?

# 1 is a failed statement, which the script may be about; beyond that it is the runner that failed.
if [ "$status" -gt 1 ]; then
  cat actual
  echo "$(basename "$script"): exit code $status"
  exit 1
fi
if [ "${DV_ACCEPT:-}" = 1 ]; then cp actual "$expected"; fi
if [ ! -e "$expected" ]; then
  cat actual
  echo "$expected is missing: look at the output above, then run ./dev test --accept"
  exit 1
fi
diff -u --label expected --label actual "$expected" actual
