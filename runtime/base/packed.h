/*
 * base/packed -- texts that lie in the program packed, because a program that takes the library shall not grow by them.
 *
 * Room: base.  Pure.
 * scripts/embed-lua.lua packs. A text is a row of single bytes and of repeats of what is there already, as symbols of a prefix code that
 * several texts share:
 *   0 to 255     that byte
 *   256 + B      a repeat of VALUE(B) + 2 bytes (they may overlap what they become). A symbol of a second code follows:
 *                0: it begins as far back as the last repeat of this text did; 1 + B: VALUE(B) + 1 bytes back
 * VALUE(B) is B below 4; else 1, the lowest bit of B, and B / 2 - 1 further bits that follow the symbol, as a number of binary digits.
 * Bits fill bytes from the highest one; those that are left of the last byte are 0. A code is the number of bits of each of its symbols
 * (0: there is no such symbol) and canonical: shorter ones first, then smaller symbols first, counted upwards.
 */
#ifndef LUAPOOL_BASE_PACKED_H
#define LUAPOOL_BASE_PACKED_H

#include <stddef.h>

/* The lengths of the two codes, one after the other, each in four bits, the first in the high ones. */
enum { PACKED_SYMBOLS = 272, PACKED_DISTANCES = 34, PACKED_CODE_BYTES = (PACKED_SYMBOLS + PACKED_DISTANCES) / 2 };

/*
 * packed_expand -- the text of `length` bytes that was packed with this code into these `n`. Returns 0; -EINVAL: these are not the bytes of
 * such a text, and what `out` holds is undefined (nothing outside of it was touched).
 */
int packed_expand(const unsigned char *code, const unsigned char *packed, size_t n, char *out, size_t length);

#endif
