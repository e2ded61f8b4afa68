/*
 * job/codec_seen -- the objects and upvalues that the writer met in the present top-level value: a hash table from address to place.
 *
 * Room: job (may include job/codec_write.h, where its functions are declared).  Owns: codec.seen.
 * To forget everything costs nothing: entries carry the number of the value (generation) that they belong to.
 */
#include "job/codec_write.h"

#include <errno.h>
#include <stdlib.h>

static size_t hash_pointer(const void *pointer) {
  uint64_t bits = (uint64_t)(uintptr_t)pointer >> 4;
  bits *= UINT64_C(0x9E3779B97F4A7C15);
  return (size_t)(bits ^ (bits >> 29));
}

static int seen_grow(struct codec *c) {
  size_t capacity = c->seen_capacity ? c->seen_capacity * 2 : 64;
  struct seen *old = c->seen, *entries = calloc(capacity, sizeof *entries);
  if (entries == NULL) return -ENOMEM;
  for (size_t i = 0; i < c->seen_capacity; i++) {
    size_t slot;
    if (old[i].generation != c->generation) continue;
    slot = hash_pointer(old[i].pointer) & (capacity - 1);
    while (entries[slot].generation == c->generation) slot = (slot + 1) & (capacity - 1);
    entries[slot] = old[i];
  }
  free(old);
  c->seen = entries;
  c->seen_capacity = capacity;
  return 0;
}

int seen_enter(struct codec *c, const void *pointer, struct seen **entry) {
  size_t slot;
  if (c->n_seen * 2 >= c->seen_capacity && seen_grow(c) < 0) return -ENOMEM;
  slot = hash_pointer(pointer) & (c->seen_capacity - 1);
  for (; c->seen[slot].generation == c->generation; slot = (slot + 1) & (c->seen_capacity - 1)) {
    if (c->seen[slot].pointer != pointer) continue;
    *entry = &c->seen[slot];
    return 1;
  }
  c->n_seen++;
  *entry = &c->seen[slot];
  (*entry)->pointer = pointer;
  (*entry)->generation = c->generation;
  (*entry)->is_open = 0;
  return 0;
}

int seen_has(const struct codec *c, const void *pointer) {
  size_t slot;
  if (c->n_seen == 0) return 0;
  slot = hash_pointer(pointer) & (c->seen_capacity - 1);
  for (; c->seen[slot].generation == c->generation; slot = (slot + 1) & (c->seen_capacity - 1))
    if (c->seen[slot].pointer == pointer) return 1;
  return 0;
}

void seen_clear(struct codec *c) {
  if (c->n_seen == 0) return;
  c->n_seen = 0;
  if (++c->generation == 0 || c->seen_capacity > ((size_t)1 << 20)) {
    free(c->seen);
    c->seen = NULL;
    c->seen_capacity = 0;
    c->generation = 1;
  }
}
