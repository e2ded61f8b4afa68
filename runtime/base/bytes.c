/* base/bytes -- see bytes.h. */
#include "base/bytes.h"

#include <errno.h>
#include <stdlib.h>

enum { FIRST_CAPACITY_BYTES = 256 };

void bytes_init(struct bytes *b) {
  b->data = NULL;
  b->length = b->capacity = 0;
  b->is_borrowed = 0;
}

void bytes_borrow(struct bytes *b, void *memory, size_t capacity) {
  bytes_free(b);
  b->data = memory;
  b->capacity = capacity;
  b->is_borrowed = 1;
}

int bytes_grow(struct bytes *b, size_t more) {
  size_t want, capacity;
  unsigned char *data;
  if (more > SIZE_MAX / 2 || b->length > SIZE_MAX / 2 - more) return -ENOMEM;
  want = b->length + more;
  if (want <= b->capacity) return 0;
  capacity = b->capacity < FIRST_CAPACITY_BYTES ? FIRST_CAPACITY_BYTES : b->capacity;
  while (capacity < want) capacity = capacity > SIZE_MAX / 4 ? want : capacity + capacity / 2;
  data = b->is_borrowed ? malloc(capacity) : realloc(b->data, capacity);
  if (data == NULL) return -ENOMEM;
  if (b->is_borrowed && b->length) memcpy(data, b->data, b->length);
  b->data = data;
  b->capacity = capacity;
  b->is_borrowed = 0;
  return 0;
}

void bytes_clear(struct bytes *b) {
  b->length = 0;
}

void bytes_free(struct bytes *b) {
  if (!b->is_borrowed) free(b->data);
  bytes_init(b);
}
