/* memory/arena -- see arena.h. First fit: there are few extents at a time, and they are freed nearly in the order they were made. */
#include "memory/arena.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"

enum { UNIT_BYTES = 64, FIRST_SIZE_BYTES = 1 << 20, RELEASE_BYTES = 32 << 20, KEEP_BYTES = 4 << 20 };

void arena_init(struct arena *a) {
  memset(a, 0, sizeof *a);
  a->fd = -1;
}

int arena_open(struct arena *a) {
  if (a->fd >= 0) return 0;
  a->fd = os_memory_file("luapool-input");
  if (a->fd < 0) {
    int status = a->fd;
    a->fd = -1;
    return status;
  }
  return 0;
}

static int map_to(struct arena *a, uint64_t size) {
  void *view;
  int status = size > SIZE_MAX ? -ENOMEM : os_map_file(a->fd, (size_t)size, &view);
  if (status < 0) return status;
  if (a->view) os_unmap(a->view, (size_t)a->view_size);
  a->view = view;
  a->view_size = size;
  return 0;
}

static int insert_free(struct arena *a, uint64_t offset, uint64_t length) {
  size_t at = 0;
  while (at < a->n_free && a->free_list[at].offset < offset) at++;
  if (at > 0 && a->free_list[at - 1].offset + a->free_list[at - 1].length == offset) {
    a->free_list[at - 1].length += length;
    if (at < a->n_free && offset + length == a->free_list[at].offset) {
      a->free_list[at - 1].length += a->free_list[at].length;
      memmove(&a->free_list[at], &a->free_list[at + 1], (a->n_free - at - 1) * sizeof *a->free_list);
      a->n_free--;
    }
    return 0;
  }
  if (at < a->n_free && offset + length == a->free_list[at].offset) {
    a->free_list[at].offset = offset;
    a->free_list[at].length += length;
    return 0;
  }
  if (a->n_free == a->free_capacity) {
    size_t capacity = a->free_capacity ? a->free_capacity * 2 : 16;
    struct arena_extent *list = realloc(a->free_list, capacity * sizeof *list);
    if (list == NULL) return -ENOMEM;
    a->free_list = list;
    a->free_capacity = capacity;
  }
  memmove(&a->free_list[at + 1], &a->free_list[at], (a->n_free - at) * sizeof *a->free_list);
  a->free_list[at] = (struct arena_extent){offset, length};
  a->n_free++;
  return 0;
}

/* Make the file larger so that `length` bytes in one piece are free at its end. */
static int grow_for(struct arena *a, uint64_t length) {
  uint64_t size = a->size ? a->size : FIRST_SIZE_BYTES, added;
  int status;
  if (length > (uint64_t)1 << 46) return -ENOMEM;
  while (size - a->size < length) size += size / 2;
  size = (size + 0xffff) & ~(uint64_t)0xffff;
  status = os_memory_grow(a->fd, size);
  if (status < 0) { /* perhaps it is the growth in reserve that does not fit */
    size = (a->size + length + 0xffff) & ~(uint64_t)0xffff;
    status = os_memory_grow(a->fd, size);
  }
  if (status < 0) return status;
  status = map_to(a, size);
  if (status < 0) return status;
  added = size - a->size;
  status = insert_free(a, a->size, added);
  if (status == 0) a->size = size;
  return status;
}

static int take(struct arena *a, uint64_t length, uint64_t *offset) {
  size_t i;
  for (i = 0; i < a->n_free; i++) {
    if (a->free_list[i].length < length) continue;
    *offset = a->free_list[i].offset;
    a->free_list[i].offset += length;
    a->free_list[i].length -= length;
    if (a->free_list[i].length == 0) {
      memmove(&a->free_list[i], &a->free_list[i + 1], (a->n_free - i - 1) * sizeof *a->free_list);
      a->n_free--;
    }
    return 1;
  }
  return 0;
}

static uint64_t rounded(uint64_t length) {
  return length ? (length + UNIT_BYTES - 1) & ~(uint64_t)(UNIT_BYTES - 1) : UNIT_BYTES;
}

int arena_allocate(struct arena *a, uint64_t length, uint64_t *offset) {
  int status = arena_open(a);
  if (status < 0) return status;
  if (length > (uint64_t)1 << 46) return -ENOMEM;
  length = rounded(length);
  if (take(a, length, offset)) return 0;
  status = grow_for(a, length);
  if (status < 0) return status;
  return take(a, length, offset) ? 0 : -ENOMEM;
}

void arena_free(struct arena *a, uint64_t offset, uint64_t length) {
  length = rounded(length);
  if (length >= RELEASE_BYTES) {
    os_memory_release(a->fd, offset, length);
  }
  (void)insert_free(a, offset, length);
}

void arena_trim(struct arena *a) {
  size_t i;
  for (i = 0; i < a->n_free && a->size > KEEP_BYTES; i++) {
    uint64_t begin = a->free_list[i].offset, end = begin + a->free_list[i].length;
    if (begin < KEEP_BYTES) begin = KEEP_BYTES;
    if (end > begin && end - begin >= UNIT_BYTES * 1024) os_memory_release(a->fd, begin, end - begin);
  }
}

void *arena_at(struct arena *a, uint64_t offset, uint64_t length) {
  if (length > UINT64_MAX - offset) return NULL;
  if (offset + length > a->view_size) {
    uint64_t size = (offset + length + 0xffff) & ~(uint64_t)0xffff;
    if (a->fd < 0 || map_to(a, size) < 0) return NULL;
  }
  return a->view + offset;
}

void arena_close(struct arena *a) {
  if (a->view) os_unmap(a->view, (size_t)a->view_size);
  os_close(&a->fd);
  free(a->free_list);
  arena_init(a);
}
