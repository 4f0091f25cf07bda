/*
 * support.c: what tests/vtab/support.h declares, on the extension that is in the native library.
 */
#include "../vtab/support.c"
