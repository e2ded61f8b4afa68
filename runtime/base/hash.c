/* base/hash -- see hash.h. */
#include "base/hash.h"

#include <string.h>

/* FNV-1a over 8 bytes at a time, finished so that every bit counts. */
uint64_t hash_bytes(uint64_t seed, const void *data, size_t length) {
  const unsigned char *at = data;
  uint64_t hash = UINT64_C(0xcbf29ce484222325) ^ seed ^ length, word;
  for (; length >= 8; at += 8, length -= 8) {
    memcpy(&word, at, 8);
    hash = (hash ^ word) * UINT64_C(0x100000001b3);
    hash ^= hash >> 29;
  }
  for (; length > 0; at++, length--) hash = (hash ^ *at) * UINT64_C(0x100000001b3);
  hash ^= hash >> 32;
  hash *= UINT64_C(0x9E3779B97F4A7C15);
  return hash ^ (hash >> 29);
}
