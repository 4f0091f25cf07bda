#!/bin/sh
# shell.sh SQLITE3 DATABASE: runs the script on standard input in the sqlite3 shell, in the form that run_sql prints.
# Commands that change the layout are left out, and errors, which come with line numbers and an excerpt, become
# "Error: message".
set -eu
sed -E '/^\.(mode|width|timer)/d' | {
  status=0
  stdbuf -oL "$1" -batch -list "$2" 2>&1 || status=$?
  echo "exit $status"
} | awk '
  # A parse error may be followed by two lines that show where: the statement, and an arrow.
  function flush() { if (held != "") print held; held = "" }
  /error here/ && held != "" { held = ""; next }
  { flush() }
  after_error && /^  / { held = $0; after_error = 0; next }
  { after_error = 0 }
  /^exit [0-9]+$/ { status = $2; next }
  sub(/^(Parse error|Runtime error|Error)( near line [0-9]+)?:/, "Error:") { after_error = 1 }
  { print }
  END { flush(); exit status }'
