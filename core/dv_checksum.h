/*
 * dv_checksum.h: CRC-32C (Castagnoli, polynomial 0x1EDC6F41 reflected, as in RFC 3720 B.4): the checksum of every
 * stored or transported record.
 */
#ifndef DV_CHECKSUM_H
#define DV_CHECKSUM_H

#include "dv_base.h"

/* CRC of n bytes continued from `crc`; start with 0. dv_crc32c(dv_crc32c(0,a),b) is the CRC of a followed by b.
 * Check value: "123456789" gives 0xE3069283. Uses the CPU's CRC instruction where there is one; same value anywhere. */
uint32_t dv_crc32c(uint32_t crc, const void *bytes, size_t n_bytes);

/* The table-driven definition, for tests. */
uint32_t dv_crc32c_scalar(uint32_t crc, const void *bytes, size_t n_bytes);

#endif
