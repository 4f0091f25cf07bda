#!/bin/sh
# document.sh DOCUMENT CC [FLAG]...: the ```c blocks of the document, one behind the other, compile.
set -eu
document=$1
shift
awk '/^```c$/ { on = 1; n++; next } /^```/ { on = 0 } { print on ? $0 : "" } END { exit n == 0 }' "$document" |
  "$@" -std=c11 -D_DEFAULT_SOURCE -Wall -Wextra -Wno-unused-function -Werror -fsyntax-only -x c -
