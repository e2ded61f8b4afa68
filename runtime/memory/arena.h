/*
 * memory/arena -- input memory: what the host writes once and all workers read (items of lazy sources, functions).
 *
 * Room: memory.  Owns: a memory file without a name, the process's view of it, and, in the host, the list of free extents.
 * The host allocates and frees; workers only map. Addresses differ between processes and change when the file grows: only offsets are kept.
 * Fork: a child goes on with its copy of the view and never allocates.  Signals: not from a handler.
 */
#ifndef LUAPOOL_MEMORY_ARENA_H
#define LUAPOOL_MEMORY_ARENA_H

#include <stddef.h>
#include <stdint.h>

struct arena_extent {
  uint64_t offset, length;
};

struct arena {
  int fd;               /* -1: not open yet */
  unsigned char *view;  /* this process's mapping of [0, view_size) */
  uint64_t view_size;
  uint64_t size;        /* bytes in the file (host) */
  struct arena_extent *free_list; /* sorted by offset, neighbours joined (host) */
  size_t n_free, free_capacity;
};

void arena_init(struct arena *a);

/* arena_open -- make the file; 0 (also if it is open already) or -errno. */
int arena_open(struct arena *a);

/* arena_allocate -- room for `length` bytes, growing the file when needed: 0 and *offset, or -ENOMEM, -ENOSPC ... (nothing changed). */
int arena_allocate(struct arena *a, uint64_t length, uint64_t *offset);

/*
 * arena_free -- give an extent back; very large ones give their pages back to the system at once (others are used again soon: faulting them
 * in anew would cost more than their contents). Never fails (a lost extent is only not used again).
 * arena_trim -- give the pages of what is free back, but for a few MiB at the front. For when a call is over.
 */
void arena_free(struct arena *a, uint64_t offset, uint64_t length);

void arena_trim(struct arena *a);

/* arena_at -- where [offset, offset + length) lies in this process, mapping more of the file if it grew; NULL: it cannot be mapped. */
void *arena_at(struct arena *a, uint64_t offset, uint64_t length);

/* arena_close -- unmap, close, free; idempotent. */
void arena_close(struct arena *a);

#endif
