/* base/allocator -- see allocator.h. */
#include "base/allocator.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifndef __has_feature
#define __has_feature(feature) 0
#endif
#if defined(LUAPOOL_MALLOC) || defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer) || __has_feature(memory_sanitizer)
enum { HAS_CHUNKS = 0 };
#else
enum { HAS_CHUNKS = 1 };
#endif

enum {
  PAGE_BYTES = 4096,
  HUGE_BYTES = 2 << 20,
  CHUNK_BYTES = 1 << 16,
  HEADER_BYTES = 64,
  N_SIZES = 32,
  CARVED_BYTES = 1024, /* so much of a chunk is made into blocks at a time: pages that nobody needs are not touched */
  MAX_WARM = 32,       /* empty chunks that keep their pages */
  MAX_SPARE = 16,      /* large blocks that nobody uses, but that keep their pages, */
  SPARE_BYTES = 16 << 20 /* and how large they all are together at most */
};

/* Blocks of one size. */
struct chunk {
  void *free;          /* blocks to be had: a list through their first words */
  uint32_t slack;      /* of a chunk that has room: its blocks in use; of a full one: 1. When it gets to 0, something is to be done */
  uint32_t hidden;     /* blocks in use that slack does not count */
  uint32_t fresh;      /* offset of what was never carved into blocks */
  uint16_t size;
  uint8_t size_class;
  uint8_t number;      /* in its region */
  struct chunk *next, *previous; /* of those of its size that have room */
  struct region *region;
};

_Static_assert(sizeof(struct chunk) <= HEADER_BYTES, "a chunk's blocks begin behind its header");
_Static_assert(HUGE_BYTES / CHUNK_BYTES == 32, "sets of chunks are 32 bits wide");

/* HUGE_BYTES of address space, aligned so: chunks. */
struct region {
  unsigned char *base;
  uint32_t unused; /* a bit for each chunk that nobody uses */
  uint32_t warm;   /* of these, those that still have their pages */
  struct region *next, *previous;
};

/* A large block that waits for its next user. */
struct spare {
  unsigned char *start;
  size_t bytes;
};

struct allocator {
  struct chunk *open[N_SIZES]; /* chunks with room, by size; a list ends with `nothing` */
  struct region *roomy, *crowded; /* with unused chunks, and without */
  size_t n_used, n_warm; /* chunks */
  struct spare spare[MAX_SPARE]; /* oldest first */
  unsigned n_spare;
  size_t spare_bytes;
  uint64_t large_bytes; /* that were ever taken */
};

/* What a list of chunks ends with: it has no block, so that taking one needs to look at one thing only. Never written. */
static struct chunk nothing;

/* ---- sizes: in steps of 8 to 128, of 16 to 256, of 32 to 512 ---- */

static unsigned class_of(size_t size) {
  if (size <= 128) return (unsigned)((size - 1) / 8);
  if (size <= 256) return (unsigned)((size - 1) / 16 + 8);
  return (unsigned)((size - 1) / 32 + 16);
}

static uint16_t size_of(unsigned size_class) {
  if (size_class < 16) return (uint16_t)((size_class + 1) * 8);
  if (size_class < 24) return (uint16_t)((size_class - 7) * 16);
  return (uint16_t)((size_class - 15) * 32);
}

/* ---- pages ---- */

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
  return start;
}

/* ---- regions ---- */

static void push_region(struct region **list, struct region *region) {
  region->previous = NULL;
  region->next = *list;
  if (*list) (*list)->previous = region;
  *list = region;
}

static void remove_region(struct region **list, struct region *region) {
  if (region->next) region->next->previous = region->previous;
  if (region->previous) region->previous->next = region->next;
  else *list = region->next;
}

static void *map_huge(size_t size) {
  void *start;
  if (size < HUGE_BYTES) {
    start = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return start == MAP_FAILED ? NULL : start;
  }
  start = map_aligned(size);
#ifdef MADV_HUGEPAGE
  if (start) madvise(start, size, MADV_HUGEPAGE);
#endif
  return start;
}

/* Huge pages are for programs that need more than one region. */
static struct region *new_region(struct allocator *a) {
  struct region *region = malloc(sizeof *region);
  if (!region) return NULL;
  region->base = a->roomy || a->crowded ? map_huge(HUGE_BYTES) : map_aligned(HUGE_BYTES);
  if (!region->base) {
    free(region);
    return NULL;
  }
  region->unused = UINT32_MAX;
  region->warm = 0;
  push_region(&a->roomy, region);
  return region;
}

static void free_region(struct region *region) {
  munmap(region->base, HUGE_BYTES);
  free(region);
}

/* A chunk that nobody uses, one that still has its pages if there is one. NULL: no memory. */
static struct chunk *take_chunk(struct allocator *a) {
  struct region *region = a->roomy ? a->roomy : new_region(a);
  struct chunk *chunk;
  int number;
  if (!region) return NULL;
  number = __builtin_ctz(region->warm ? region->warm : region->unused);
  a->n_warm -= region->warm != 0;
  a->n_used++;
  region->warm &= ~(UINT32_C(1) << number);
  region->unused &= ~(UINT32_C(1) << number);
  if (!region->unused) {
    remove_region(&a->roomy, region);
    push_region(&a->crowded, region);
  }
  chunk = (struct chunk *)(region->base + (size_t)number * CHUNK_BYTES);
  chunk->region = region;
  chunk->number = (uint8_t)number;
  return chunk;
}

/* The chunk has no block in use. Some keep their pages; a region without any chunk in use goes, if there is another one with room. */
static void put_chunk(struct allocator *a, struct chunk *chunk) {
  struct region *region = chunk->region;
  uint32_t bit = UINT32_C(1) << chunk->number;
  a->n_used--;
  if (!region->unused) {
    remove_region(&a->crowded, region);
    push_region(&a->roomy, region);
  }
  region->unused |= bit;
  if (a->n_warm < MAX_WARM) {
    a->n_warm++;
    region->warm |= bit;
  } else {
    madvise(chunk, CHUNK_BYTES, MADV_DONTNEED);
  }
  if (region->unused != UINT32_MAX || (a->roomy == region && !region->next)) return;
  a->n_warm -= (size_t)__builtin_popcount(region->warm);
  remove_region(&a->roomy, region);
  free_region(region);
}

/* ---- blocks ---- */

static struct chunk *chunk_of(void *block) {
  return (struct chunk *)((uintptr_t)block & ~(uintptr_t)(CHUNK_BYTES - 1));
}

/* The chunk has room. It comes second: more of its blocks will have come back when the first is full. */
static void open_chunk(struct allocator *a, struct chunk *chunk) {
  struct chunk *first = a->open[chunk->size_class];
  if (first == &nothing) {
    chunk->previous = NULL;
    chunk->next = &nothing;
    a->open[chunk->size_class] = chunk;
  } else {
    chunk->previous = first;
    chunk->next = first->next;
    if (chunk->next != &nothing) chunk->next->previous = chunk;
    first->next = chunk;
  }
}

static void unlink_chunk(struct allocator *a, struct chunk *chunk) {
  if (chunk->next != &nothing) chunk->next->previous = chunk->previous;
  if (chunk->previous) chunk->previous->next = chunk->next;
  else a->open[chunk->size_class] = chunk->next;
}

/* Make some of what was never used into a list of blocks, in their order. 0: there is no more. */
static int carve(struct chunk *chunk) {
  uint32_t size = chunk->size, left = (CHUNK_BYTES - chunk->fresh) / size;
  uint32_t count = CARVED_BYTES / size;
  unsigned char *block = (unsigned char *)chunk + chunk->fresh;
  if (left == 0) return 0;
  if (count > left) count = left;
  chunk->fresh += count * size;
  chunk->free = block;
  for (; count > 1; count--, block += size) *(void **)block = block + size;
  *(void **)block = NULL;
  return 1;
}

static struct chunk *new_chunk(struct allocator *a, unsigned size_class) {
  struct chunk *chunk = take_chunk(a);
  if (!chunk) return NULL;
  chunk->slack = chunk->hidden = 0;
  chunk->fresh = HEADER_BYTES;
  chunk->size = size_of(size_class);
  chunk->size_class = (uint8_t)size_class;
  carve(chunk);
  open_chunk(a, chunk);
  return chunk;
}

static void *take_from(struct chunk *chunk) {
  void *block = chunk->free;
  chunk->free = *(void **)block;
  chunk->slack++;
  return block;
}

/* The first chunk with room has nothing on its list. */
static __attribute__((noinline)) void *take_elsewhere(struct allocator *a, unsigned size_class) {
  struct chunk *chunk;
  while ((chunk = a->open[size_class]) != &nothing) {
    if (chunk->free || carve(chunk)) return take_from(chunk);
    unlink_chunk(a, chunk);
    chunk->hidden = chunk->slack - 1;
    chunk->slack = 1;
  }
  chunk = new_chunk(a, size_class);
  return chunk ? take_from(chunk) : NULL;
}

/* The first block of a full chunk, or the last of any, came back. */
static __attribute__((noinline)) void reconsider(struct allocator *a, struct chunk *chunk) {
  if (chunk->hidden) { /* it was full */
    chunk->slack = chunk->hidden;
    chunk->hidden = 0;
    open_chunk(a, chunk);
  } else if (a->open[chunk->size_class] != chunk || chunk->next != &nothing) { /* the only one with room stays */
    unlink_chunk(a, chunk);
    put_chunk(a, chunk);
  }
}

/* Blocks of every small size; most calls end here, and these look at nothing but the chunk. */
static inline void *take(struct allocator *a, size_t size) {
  unsigned size_class = class_of(size);
  struct chunk *chunk = a->open[size_class];
  if (!HAS_CHUNKS) return malloc(size);
  return chunk->free ? take_from(chunk) : take_elsewhere(a, size_class);
}

static inline void put(struct allocator *a, void *block) {
  struct chunk *chunk = chunk_of(block);
  if (!HAS_CHUNKS) {
    free(block);
    return;
  }
  *(void **)block = chunk->free;
  chunk->free = block;
  if (--chunk->slack == 0) reconsider(a, chunk);
}

/* ---- every size ---- */

static int is_large(size_t size) {
  return size >= ALLOCATOR_LARGE_BYTES;
}

static int is_small(size_t size) {
  return size <= ALLOCATOR_SMALL_BYTES;
}

/* ---- large blocks: a fresh one costs a page fault for every 4 KiB, about as much as filling it ---- */

/* Whole huge pages, where the last one would be needed for more than half: it costs one fault instead of hundreds. */
static size_t extent_of(size_t size) {
  size_t bytes = in_pages(size), rest = bytes % HUGE_BYTES;
  if (bytes < HUGE_BYTES || bytes > SIZE_MAX - HUGE_BYTES || rest <= HUGE_BYTES / 2) return bytes;
  return bytes - rest + HUGE_BYTES;
}

static struct spare remove_spare(struct allocator *a, unsigned i) {
  struct spare spare = a->spare[i];
  a->n_spare--;
  a->spare_bytes -= spare.bytes;
  memmove(&a->spare[i], &a->spare[i + 1], (a->n_spare - i) * sizeof spare);
  return spare;
}

/* The latest that is large enough, and not by far. */
static void *take_spare(struct allocator *a, size_t bytes) {
  for (unsigned i = a->n_spare; i > 0; i--) {
    struct spare spare = a->spare[i - 1];
    if (spare.bytes < bytes || spare.bytes - bytes > bytes / 4) continue;
    (void)remove_spare(a, i - 1);
    if (spare.bytes > bytes) munmap(spare.start + bytes, spare.bytes - bytes);
    return spare.start;
  }
  return NULL;
}

static void *take_large(struct allocator *a, size_t bytes) {
  void *spare = take_spare(a, bytes);
  a->large_bytes += bytes;
  return spare ? spare : map_huge(bytes);
}

static void put_large(struct allocator *a, void *block, size_t bytes) {
  if (!HAS_CHUNKS || bytes > SPARE_BYTES / 2) {
    munmap(block, bytes);
    return;
  }
  while (a->n_spare == MAX_SPARE || a->spare_bytes + bytes > SPARE_BYTES) {
    struct spare oldest = remove_spare(a, 0);
    munmap(oldest.start, oldest.bytes);
  }
  a->spare[a->n_spare++] = (struct spare){block, bytes};
  a->spare_bytes += bytes;
}

static __attribute__((noinline)) void *take_not_small(struct allocator *a, size_t size) {
  return is_large(size) ? take_large(a, extent_of(size)) : malloc(size);
}

static __attribute__((noinline)) void put_not_small(struct allocator *a, void *block, size_t size) {
  if (is_large(size)) put_large(a, block, extent_of(size));
  else free(block);
}

static inline void *take_any(struct allocator *a, size_t size) {
  return is_small(size) ? take(a, size) : take_not_small(a, size);
}

static inline void put_any(struct allocator *a, void *block, size_t size) {
  if (is_small(size)) put(a, block);
  else put_not_small(a, block, size);
}

/* Large to large: in place if the pages do, else the page tables move. */
static void *resize_large(struct allocator *a, void *block, size_t old_size, size_t new_size) {
  size_t old_bytes = extent_of(old_size), new_bytes = extent_of(new_size);
  void *moved;
  if (new_bytes <= old_bytes) {
    if (new_bytes < old_bytes) munmap((unsigned char *)block + new_bytes, old_bytes - new_bytes);
    return block;
  }
  a->large_bytes += new_bytes;
  moved = map_huge(new_bytes);
  if (moved == NULL) return NULL;
#ifdef MREMAP_FIXED
  if (mremap(block, old_bytes, old_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, moved) == moved) return moved;
#endif
  memcpy(moved, block, old_size);
  munmap(block, old_bytes);
  return moved;
}

static __attribute__((noinline)) void *resize(struct allocator *a, void *block, size_t old_size, size_t new_size) {
  void *other;
  if (is_small(old_size) && is_small(new_size)) {
    if (!HAS_CHUNKS) return realloc(block, new_size);
    if (class_of(old_size) == class_of(new_size)) return block;
  } else if (is_large(old_size) && is_large(new_size)) {
    return resize_large(a, block, old_size, new_size);
  } else if (!is_small(old_size) && !is_small(new_size) && !is_large(old_size) && !is_large(new_size)) {
    return realloc(block, new_size);
  }
  other = take_any(a, new_size);
  if (other == NULL) return NULL; /* also when shrinking: Lua 5.4 takes it for a lack of memory like any other */
  memcpy(other, block, old_size < new_size ? old_size : new_size);
  put_any(a, block, old_size);
  return other;
}

void *allocator_lua(void *context, void *block, size_t old_size, size_t new_size) {
  struct allocator *a = context;
  if (block == NULL) return new_size == 0 ? NULL : take_any(a, new_size); /* Lua passes the kind of object as the old size then */
  if (new_size == 0) {
    put_any(a, block, old_size);
    return NULL;
  }
  return resize(a, block, old_size, new_size);
}

/* ---- life ---- */

struct allocator *allocator_open(void) {
  struct allocator *a = calloc(1, sizeof *a);
  if (!a) return NULL;
  for (int i = 0; i < N_SIZES; i++) a->open[i] = &nothing;
  return a;
}

static void free_regions(struct region *list) {
  while (list) {
    struct region *next = list->next;
    free_region(list);
    list = next;
  }
}

void allocator_close(struct allocator *allocator) {
  if (!allocator) return;
  free_regions(allocator->roomy);
  free_regions(allocator->crowded);
  while (allocator->n_spare > 0) {
    struct spare spare = remove_spare(allocator, 0);
    munmap(spare.start, spare.bytes);
  }
  free(allocator);
}

uint64_t allocator_large_bytes(const struct allocator *allocator) {
  return allocator->large_bytes;
}

size_t allocator_held(const struct allocator *allocator) {
  return (allocator->n_used + allocator->n_warm) * CHUNK_BYTES;
}
