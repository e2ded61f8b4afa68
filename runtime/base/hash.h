/*
 * base/hash -- a 64-bit hash of bytes: to notice damage and difference, never against somebody who wants them to go unnoticed.
 *
 * Room: base.  Pure.  The same bytes give the same number on every run of this machine's kind (words are read in its byte order).
 */
#ifndef LUAPOOL_BASE_HASH_H
#define LUAPOOL_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

/* hash_bytes -- of `length` bytes; `seed` is any number, or the hash of what came before. */
uint64_t hash_bytes(uint64_t seed, const void *data, size_t length);

#endif
