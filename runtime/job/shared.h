/*
 * job/shared -- userdata over shared memory: how each process has each segment once, and how the objects cross between processes.
 *
 * Room: job (may include job/codec.h; touches lua_State; may raise where it says so).
 * Owns: per Lua state, in the registry, the list of its segments and (weakly) the userdata that stand for a whole segment.
 * A userdata of any shared class begins with struct shared. Where it goes to another process its address is sent; the receiver looks first
 * whether it has that segment, so that the same object is one object, and one descriptor, in each process.
 * Fork: a child goes on with its copies.  Threads: all of it belongs to one Lua state.
 */
#ifndef LUAPOOL_JOB_SHARED_H
#define LUAPOOL_JOB_SHARED_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/share.h"
#include "job/codec.h"
#include "memory/segment.h"

#define COUNTER_CLASS "luapool.counter"
#define LOCK_CLASS "luapool.lock"
#define SEMAPHORE_CLASS "luapool.semaphore"
#define CHANNEL_CLASS "luapool.channel"
#define GUARD_CLASS "luapool.guard" /* of a lock or semaphore: stands for its being held, and does not cross */

/* What a segment is: segment_header.kind. */
enum shared_kind { SHARED_ARRAY = 1, SHARED_COUNTER, SHARED_LOCK, SHARED_CHANNEL, SHARED_GUARD, SHARED_SEMAPHORE };

struct shared {
  const void *brand;       /* tells ours from every other userdata */
  enum shared_kind kind;
  struct segment *segment; /* NULL: not made yet, or finalized */
};

extern const char shared_brand;

/*
 * shared_set_opener -- `opener`(class name) makes the metatable (luaL_newmetatable) of a shared class; called when the first object of the
 * class is made, or arrives. May raise (memory).
 */
void shared_set_opener(lua_State *L, lua_CFunction opener);

/*
 * shared_new -- push a userdata of `bytes` bytes (a struct that begins with struct shared, else zeros) of that class, with one user value,
 * without a segment yet. May raise.
 */
void *shared_new(lua_State *L, enum shared_kind kind, const char *class_name, size_t bytes);

/* shared_test -- the userdata at index if it is a shared one of that kind, else NULL. Does not raise. */
static inline void *shared_test(lua_State *L, int index, enum shared_kind kind) {
  struct shared *s = lua_touserdata(L, index);
  if (s == NULL || lua_type(L, index) != LUA_TUSERDATA || lua_rawlen(L, index) < sizeof *s || s->brand != &shared_brand) return NULL;
  return s->kind == kind ? s : NULL;
}

/*
 * shared_make -- give the userdata on top of the stack a new segment (see segment_make).
 * If there is no memory or descriptor for it, garbage is collected first, and then it is tried again. The collector is told of the memory.
 * Returns 0 or -errno. May raise (memory; what finalizers do not).
 */
int shared_make(lua_State *L, struct shared *s, uint32_t detail, uint64_t length, uint64_t bytes);

/* shared_join -- give the new userdata on top of the stack the segment of another one. Does not raise. */
void shared_join(struct shared *s, struct segment *segment);

/*
 * shared_adopt -- give the new userdata on top of the stack the segment at an address, which is opened if this process does not have
 * it yet.
 * Returns 0, or -errno as segment_open (also -EBADMSG: it is of another kind). May raise (memory).
 */
int shared_adopt(lua_State *L, struct shared *s, const struct segment_address *address);

/* shared_intern -- the userdata on top of the stack stands for its whole segment: from now on shared_push_interned finds it. May raise. */
void shared_intern(lua_State *L, struct shared *s);

/* shared_push_interned -- push the userdata that stands for the whole segment at that address. 1; 0: there is none, nothing is pushed. */
int shared_push_interned(lua_State *L, const struct segment_address *address);

/* shared_gc -- __gc of every shared class. */
int shared_gc(lua_State *L);

/* How counters, locks, semaphores and channels cross, whose userdata are nothing but a struct shared: always by their address. */
extern const struct codec_native shared_counter, shared_lock, shared_semaphore, shared_channel;

/* How many bytes behind the header such a segment has at least. */
enum { SHARED_COUNTER_BYTES = 64, SHARED_LOCK_BYTES = 64, SHARED_CHANNEL_BYTES = 4096 };

/*
 * shared_write_address -- append the address of the segment. 0, -ENOMEM; -EACCES: nobody can open it here, and the text says so.
 * shared_explain -- the text for what shared_adopt returned. Both for the functions of a struct codec_native.
 */
int shared_write_address(const struct shared *s, int flags, struct bytes *out, char *text, size_t capacity);
void shared_explain(int status, const char *class_name, char *text, size_t capacity);

/*
 * Waiting. shared_sleep -- a moment of sleep: until the event, a signal, 20 ms have passed (whoever should have told of the event may be
 * dead) or until_ns has. 0: look again; -ETIMEDOUT: until_ns has passed; -EINTR: call shared_attend, with no lock held, then look again;
 * -errno. Does not raise.
 * shared_attend -- what a wait owes to others: raises the interrupt if one is pending (a plain error where that may not be raised), lets
 * the hooks of a stock interpreter run, and does what is due elsewhere; so it may raise anything.
 */
int shared_sleep(lua_State *L, struct share_event *event, uint32_t seen, int64_t until_ns);
void shared_attend(lua_State *L);

/* What else goes on in this process while somebody waits here: a host's pools. is_due does not raise; work may run any Lua code. */
struct shared_idle {
  int (*is_due)(lua_State *L);
  void (*work)(lua_State *L);
};

/* shared_set_idle -- may raise (memory). */
void shared_set_idle(lua_State *L, const struct shared_idle *idle);

/* shared_kept -- struct codec_native.kept of all of them: the segment. */
const void *shared_kept(lua_State *L, int index);

/* shared_is_own -- 1 if this is a worker and made the object itself: its host may live longer than it. */
int shared_is_own(const struct shared *s);

#endif
