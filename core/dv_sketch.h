/*
 * dv_sketch.h: 16 bytes that remember where a row was, well enough to tell later how far it has moved.
 *
 * A count sketch (Charikar, Chen & Farach-Colton 2002): each component, with a sign, goes into one of 15 sums, sign and
 * sum chosen by a hash of its number. The squared distance of two sketches is that of the rows on average, with a
 * relative deviation of sqrt(2/15); and a sketch of codes is a sketch of the row but for what the codes leave out.
 *
 *   byte 0       e: the unit is 2^(e - 192); 0: a row of zeros
 *   bytes 1..15  the sums in that unit, int8: a unit is between 1/128 and 1/64 of the row's length
 */
#ifndef DV_SKETCH_H
#define DV_SKETCH_H

#include "dv_quant.h"

#define DV_SKETCH_BYTES 16u

void dv_sketch_make(const dv_code_row *row, const int8_t *code, size_t n, uint8_t out[DV_SKETCH_BYTES]);

/* About the squared distance between the rows that two sketches are of. Any bytes will do. */
float dv_sketch_distance_sq(const uint8_t a[DV_SKETCH_BYTES], const uint8_t b[DV_SKETCH_BYTES]);

#endif
