/* base/allocator -- see allocator.h. */
#include "base/allocator.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE_BYTES = 4096, HUGE_BYTES = 2 << 20 };

static size_t in_pages(size_t size) {
  return (size + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1);
}

/* Address space for `size` bytes (whole pages), aligned for huge pages. NULL: none. */
static void *map_aligned(size_t size) {
  unsigned char *space, *start;
  size_t before, behind;
  if (size > SIZE_MAX - HUGE_BYTES) return NULL;
  space = mmap(NULL, size + HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (space == MAP_FAILED) return NULL;
  start = (unsigned char *)(((uintptr_t)space + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1));
  before = (size_t)(start - space);
  behind = HUGE_BYTES - before;
  if (before) munmap(space, before);
  if (behind) munmap(start + size, behind);
#ifdef MADV_HUGEPAGE
  madvise(start, size, MADV_HUGEPAGE);
#endif
  return start;
}

static int is_large(size_t size) {
  return size >= ALLOCATOR_LARGE_BYTES;
}

static void give_back(void *block, size_t size) {
  if (is_large(size)) {
    munmap(block, in_pages(size));
  } else {
    free(block);
  }
}

/* Large to large: in place if the pages do, else the page tables move. */
static void *resize_large(void *block, size_t old_size, size_t new_size) {
  size_t old_bytes = in_pages(old_size), new_bytes = in_pages(new_size);
  void *moved;
  if (new_bytes <= old_bytes) {
    if (new_bytes < old_bytes) munmap((unsigned char *)block + new_bytes, old_bytes - new_bytes);
    return block;
  }
  moved = map_aligned(new_bytes);
  if (moved == NULL) return NULL;
#ifdef MREMAP_FIXED
  if (mremap(block, old_bytes, old_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, moved) == moved) return moved;
#endif
  memcpy(moved, block, old_size);
  munmap(block, old_bytes);
  return moved;
}

void *allocator_lua(void *context, void *block, size_t old_size, size_t new_size) {
  void *other;
  (void)context;
  if (block == NULL) old_size = 0; /* Lua passes the kind of object then */
  if (new_size == 0) {
    if (block) give_back(block, old_size);
    return NULL;
  }
  if (!is_large(old_size) && !is_large(new_size)) return realloc(block, new_size);
  if (is_large(old_size) && is_large(new_size)) return resize_large(block, old_size, new_size);
  other = is_large(new_size) ? map_aligned(in_pages(new_size)) : malloc(new_size);
  if (other == NULL) return NULL; /* also when shrinking: Lua 5.4 takes it for a lack of memory like any other */
  if (block) {
    memcpy(other, block, old_size < new_size ? old_size : new_size);
    give_back(block, old_size);
  }
  return other;
}
