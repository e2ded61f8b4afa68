/*
 * base/allocator -- memory for a Lua state of ours: small blocks from malloc, large ones in pages of their own.
 *
 * Room: base.  Owns: nothing (stateless: the size that Lua passes tells where a block lives).
 * A table of a million elements lies in one block. In pages of its own it can ask for huge ones (a fault for 2 MiB instead of
 * 512), grows by moving
 * page tables instead of bytes, and leaves no freed pages in the heap that every fork would have to share and copy again.
 * Fork: plain memory.  Signals: not from a handler.  Never blocks or raises.
 */
#ifndef LUAPOOL_BASE_ALLOCATOR_H
#define LUAPOOL_BASE_ALLOCATOR_H

#include <stddef.h>

enum { ALLOCATOR_LARGE_BYTES = 1 << 20 };

/*
 * allocator_lua -- a lua_Alloc; the context is not used. May take over from the allocator of luaL_newstate (malloc) as long as no block of
 * ALLOCATOR_LARGE_BYTES or more is alive.
 * Returns NULL when there is no memory.
 */
void *allocator_lua(void *context, void *block, size_t old_size, size_t new_size);

#endif
