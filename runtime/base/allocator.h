/*
 * base/allocator -- memory for a Lua state of ours: small blocks in chunks of one size each, large ones in pages of their own, the rest
 * from malloc.
 *
 * Room: base.  Owns: the chunks of its states. The size that Lua passes tells where a block lives, so no block has a header.
 * Small blocks (most of what Lua asks for) are taken from a list and put back, a few instructions each, and lie close together. A chunk
 * that is empty serves another size, or goes back to the system.
 * A table of a million elements lies in one large block. In pages of its own it can ask for huge ones (a fault for 2 MiB instead of
 * 512), grows by moving page tables instead of bytes, and leaves no freed pages in the heap that every fork would have to share and copy
 * again. The latest that were freed, at most 16 MiB, wait for others of about their size.
 * Built for a sanitizer, or with LUAPOOL_MALLOC, small blocks are malloc's, so that every mistake with one is seen.
 * Fork: plain private memory.  Threads: one at a time for each allocator, as for its Lua state.  Signals: not from a handler.
 * Never blocks or raises.
 */
#ifndef LUAPOOL_BASE_ALLOCATOR_H
#define LUAPOOL_BASE_ALLOCATOR_H

#include <stddef.h>
#include <stdint.h>

enum { ALLOCATOR_LARGE_BYTES = 1 << 20, ALLOCATOR_SMALL_BYTES = 512 };

struct allocator;

/*
 * allocator_open -- for one Lua state. NULL: no memory.
 * allocator_close -- give back all that is left, when the state is closed. NULL is nothing.
 */
struct allocator *allocator_open(void);
void allocator_close(struct allocator *allocator);

/* allocator_lua -- a lua_Alloc; the context is a struct allocator. Returns NULL when there is no memory. */
void *allocator_lua(void *context, void *block, size_t old_size, size_t new_size);

/* allocator_large_bytes -- how many bytes of large blocks were ever taken: what makes much garbage of few objects. */
uint64_t allocator_large_bytes(const struct allocator *allocator);

/* allocator_held -- bytes in chunks that blocks may lie in (not those that were given back). */
size_t allocator_held(const struct allocator *allocator);

#endif
