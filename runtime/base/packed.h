/*
 * base/packed -- texts that lie in the program packed, because a program that takes the library shall not grow by them.
 *
 * Room: base.  Pure.
 * Made for source text: every byte below 127 stands for itself. scripts/embed-lua.lua packs. The format, byte by byte:
 *   0 to 126                  that byte
 *   127, B                    the byte B, whichever that is
 *   10LLLDDD DDDDDDDD         L + 3 bytes of what is there already, beginning D + 1 bytes back (they may overlap what they become)
 *   11LLLLLL DDDDDDDD DDDDDDDD   the same
 */
#ifndef LUAPOOL_BASE_PACKED_H
#define LUAPOOL_BASE_PACKED_H

#include <stddef.h>

/*
 * packed_expand -- the text of `length` bytes that was packed into these `n`. Returns 0; -EINVAL: these are not the bytes of such a text, and
 * what `out` holds is undefined (nothing outside of it was touched).
 */
int packed_expand(const unsigned char *packed, size_t n, char *out, size_t length);

#endif
