/* pool/account -- see account.h. */
#include "pool/account.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The first interval that ends behind `number`. */
static size_t position_of(const struct account *a, uint64_t number) {
  size_t low = 0, high = a->length;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (a->list[middle].end <= number) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

static int make_room(struct account *a) {
  struct account_interval *list;
  size_t capacity = a->capacity ? a->capacity * 2 : 8;
  if (a->length < a->capacity) return 0;
  list = realloc(a->list, capacity * sizeof *list);
  if (list == NULL) return -ENOMEM;
  a->list = list;
  a->capacity = capacity;
  return 0;
}

int account_add(struct account *a, uint64_t begin, uint64_t end) {
  size_t at = position_of(a, begin);
  int joins_left, joins_right;
  if (begin >= end) return 0;
  if (at < a->length && a->list[at].begin < end) return -EEXIST;
  joins_left = at > 0 && a->list[at - 1].end == begin;
  joins_right = at < a->length && a->list[at].begin == end;
  if (joins_left && joins_right) {
    a->list[at - 1].end = a->list[at].end;
    memmove(&a->list[at], &a->list[at + 1], (a->length - at - 1) * sizeof *a->list);
    a->length--;
  } else if (joins_left) {
    a->list[at - 1].end = end;
  } else if (joins_right) {
    a->list[at].begin = begin;
  } else {
    if (make_room(a) < 0) return -ENOMEM;
    memmove(&a->list[at + 1], &a->list[at], (a->length - at) * sizeof *a->list);
    a->list[at] = (struct account_interval){begin, end};
    a->length++;
  }
  a->total += end - begin;
  return 0;
}

int account_has(const struct account *a, uint64_t number) {
  size_t at = position_of(a, number);
  return at < a->length && a->list[at].begin <= number;
}

int account_gap(const struct account *a, uint64_t begin, uint64_t end, struct account_interval *gap) {
  size_t at = position_of(a, begin);
  if (at < a->length && a->list[at].begin <= begin) begin = a->list[at++].end;
  if (begin >= end) return 0;
  gap->begin = begin;
  gap->end = at < a->length && a->list[at].begin < end ? a->list[at].begin : end;
  return 1;
}

void account_clear(struct account *a) {
  a->length = 0;
  a->total = 0;
}

void account_free(struct account *a) {
  free(a->list);
  memset(a, 0, sizeof *a);
}
