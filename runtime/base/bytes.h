/*
 * base/bytes -- a growable byte buffer that may start in borrowed memory.
 *
 * Room: base.  Owns: the heap block it grew into, never borrowed memory.
 * Fork: plain memory, a child gets its own copy.  Signals: not from a handler.
 * Nothing here knows Lua; no function blocks or raises.
 */
#ifndef LUAPOOL_BASE_BYTES_H
#define LUAPOOL_BASE_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct bytes {
  unsigned char *data; /* the bytes; heap unless is_borrowed */
  size_t length;       /* bytes in use */
  size_t capacity;     /* bytes that fit without growing */
  int is_borrowed;     /* data belongs to somebody else (a ring): never freed, left at the first growth */
};

/* bytes_init -- an empty buffer that owns nothing. */
void bytes_init(struct bytes *b);

/*
 * bytes_borrow -- start over in memory that the caller keeps.
 *   memory, capacity  used until more than capacity bytes are needed; then the content moves to the heap
 * A heap block that the buffer owned is freed.
 */
void bytes_borrow(struct bytes *b, void *memory, size_t capacity);

/*
 * bytes_grow -- make room for at least `more` bytes beyond length.
 * Returns 0, or -ENOMEM (also when the sum overflows): the buffer is unchanged.
 */
int bytes_grow(struct bytes *b, size_t more);

/* bytes_clear -- length 0; keeps the memory. */
void bytes_clear(struct bytes *b);

/* bytes_free -- give the heap block back; the buffer is as after bytes_init. Safe to call twice. */
void bytes_free(struct bytes *b);

/* bytes_reserve -- bytes_grow, inlined for the case that there is room. */
static inline int bytes_reserve(struct bytes *b, size_t more) {
  return b->capacity - b->length >= more ? 0 : bytes_grow(b, more);
}

/* bytes_append -- copy `length` bytes to the end. Returns 0, or -ENOMEM: unchanged. */
static inline int bytes_append(struct bytes *b, const void *data, size_t length) {
  int status = bytes_reserve(b, length);
  if (status < 0) return status;
  if (length) memcpy(b->data + b->length, data, length);
  b->length += length;
  return 0;
}

#endif
