/*
 * dv_vector.h: vectors as people write them: JSON text and little-endian f32 blobs.
 *
 * A text number becomes the nearest double (correctly rounded, as JavaScript and Python read it) and then the nearest
 * float, the same bits on every platform; a float is written with the fewest digits that read back as itself.
 */
#ifndef DV_VECTOR_H
#define DV_VECTOR_H

#include "dv_bytes.h"

/* n floats from n*4 little-endian bytes; v and blob may be unaligned with respect to each other. */
void dv_vector_load(float *v, const uint8_t *blob, size_t n);
void dv_vector_store(uint8_t *blob, const float *v, size_t n);

/* DV_OK, or DV_NOT_FINITE with detail->at = index of the first NaN or infinity. detail may be NULL. */
dv_status dv_vector_check(const float *v, size_t n, dv_detail *detail);

/* Appends the floats of a JSON array of numbers (`[1, -2.5e3]`, whitespace as in RFC 8259) to out as little-endian
 * f32 and adds their count to *n. Nothing may follow the array but whitespace.
 * DV_SYNTAX: detail->at = byte offset of what was not understood (null, strings, nested arrays, a trailing comma...).
 * DV_NOT_FINITE: a number too large for f32; detail->at = its index, detail->value = the number.
 * DV_LIMIT: more than DV_MAX_DIMENSIONS numbers. */
dv_status dv_vector_parse(dv_buf *out, size_t *n, const char *text, size_t n_bytes, dv_detail *detail);

/* Same for a JSON array of unsigned integers below 2^32 (indices of a sparse delta), appended as little-endian u32. */
dv_status dv_index_parse(dv_buf *out, size_t *n, const char *text, size_t n_bytes, dv_detail *detail);

/* Appends `[0.1,-2,3e+20]`. */
void dv_vector_print(dv_buf *out, const float *v, size_t n);

/* The shortest decimal that reads back as f: at most DV_FLOAT_CHARS characters, no terminator; returns the length.
 * Plain digits where 1e-5 <= |f| < 1e15 (no point when whole), else an exponent as in 1.5e-7 and 3e+20; "-0" for minus
 * zero; "null" for what is not finite, as JavaScript does. */
#define DV_FLOAT_CHARS 16u
size_t dv_float_print(char *out, float f);

/* (float)d, round half to even, also where the host's FPU takes subnormals for zero. */
float dv_float_nearest(double d);

/* Longest prefix of text that is a JSON number, correctly rounded to a double; returns its length, 0 if there is
 * none. */
size_t dv_double_parse(const char *text, size_t n_bytes, double *out);

#endif
