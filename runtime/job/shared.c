/* job/shared -- see shared.h (may include job/codec.h and job/delivery.h). */
#include "job/shared.h"

#include <errno.h>
#include <lauxlib.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/os.h"
#include "job/codec.h"
#include "job/delivery.h"
#include "process/interrupt.h"
#include "process/process.h"

#define SLICE_NS INT64_C(20000000)

enum {
  DESCRIPTOR_KILOBYTES = 16 /* what an object costs at least, to the collector: descriptors are scarcer than memory */
};

const char shared_brand = 0;

/* Registry keys: segments by inode (light userdata); userdata by segment (weak); what makes metatables. */
static char segments_key, objects_key, opener_key, idle_key;

/* ---- classes ---- */

void shared_set_opener(lua_State *L, lua_CFunction opener) {
  lua_pushcfunction(L, opener);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &opener_key);
}

static void push_class(lua_State *L, const char *class_name) {
  if (luaL_getmetatable(L, class_name) == LUA_TTABLE) return;
  lua_pop(L, 1);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &opener_key);
  lua_pushstring(L, class_name);
  lua_call(L, 1, 0);
  luaL_getmetatable(L, class_name);
}

void *shared_new(lua_State *L, enum shared_kind kind, const char *class_name, size_t bytes) {
  struct shared *s;
  luaL_checkstack(L, 6, NULL);
  s = lua_newuserdatauv(L, bytes, 1);
  memset(s, 0, bytes);
  s->brand = &shared_brand;
  s->kind = kind;
  push_class(L, class_name);
  lua_setmetatable(L, -2);
  return s;
}

/* ---- each segment once ---- */

/* push_table -- one of the tables in the registry, made when it is first wanted. */
static void push_table(lua_State *L, const void *key, const char *mode) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, key) == LUA_TTABLE) return;
  lua_pop(L, 1);
  lua_newtable(L);
  if (mode) {
    lua_createtable(L, 0, 1);
    lua_pushstring(L, mode);
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
  }
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, key);
}

/* find_segment -- the segment of that address if this state has it. Does not raise. */
static struct segment *find_segment(lua_State *L, const struct segment_address *address) {
  struct segment *found = NULL;
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &segments_key) == LUA_TTABLE) {
    lua_rawgeti(L, -1, (lua_Integer)address->inode);
    found = lua_touserdata(L, -1);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  return found && found->device == address->device ? found : NULL;
}

/* A file that is gone may have had the same number: what we have is not what was meant then. */
static int is_meant(const struct segment *segment, const struct segment_address *address) {
  return segment_header(segment)->birth == address->birth;
}

/* From here on the userdata owns the segment, whatever is raised afterwards. */
static void own_segment(lua_State *L, struct shared *s, struct segment *segment) {
  s->segment = segment;
  push_table(L, &segments_key, NULL);
  lua_pushlightuserdata(L, segment);
  lua_rawseti(L, -2, (lua_Integer)segment->inode);
  lua_pop(L, 1);
}

int shared_gc(lua_State *L) {
  struct shared *s = lua_touserdata(L, 1);
  struct segment *segment;
  uint64_t inode;
  if (s == NULL || lua_rawlen(L, 1) < sizeof *s || s->brand != &shared_brand || s->segment == NULL) return 0;
  segment = s->segment;
  inode = segment->inode;
  s->segment = NULL;
  if (!segment_drop(segment)) return 0;
  /* The address stays in no list; to set nil where something is needs no memory. */
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &segments_key) == LUA_TTABLE) {
    lua_rawgeti(L, -1, (lua_Integer)inode);
    if (lua_touserdata(L, -1) == segment) {
      lua_pushnil(L);
      lua_rawseti(L, -3, (lua_Integer)inode);
    }
  }
  return 0;
}

void shared_intern(lua_State *L, struct shared *s) {
  push_table(L, &objects_key, "v");
  lua_pushvalue(L, -2);
  lua_rawsetp(L, -2, s->segment);
  lua_pop(L, 1);
}

int shared_push_interned(lua_State *L, const struct segment_address *address) {
  struct segment *segment = find_segment(L, address);
  int top = lua_gettop(L);
  if (segment == NULL || !is_meant(segment, address)) return 0;
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &objects_key) == LUA_TTABLE && lua_rawgetp(L, -1, segment) == LUA_TUSERDATA) {
    lua_remove(L, -2);
    return 1;
  }
  lua_settop(L, top);
  return 0;
}

/* ---- making and adopting ---- */

static int is_worth_collecting(int status) {
  return status == -ENOMEM || status == -ENOSPC || status == -EMFILE || status == -ENFILE;
}

/* The collector sees a few bytes of userdata; tell it what they stand for. */
static void charge(lua_State *L, uint64_t bytes) {
  uint64_t kilobytes = bytes / 1024 + DESCRIPTOR_KILOBYTES;
  if (lua_gc(L, LUA_GCISRUNNING)) lua_gc(L, LUA_GCSTEP, kilobytes > INT_MAX / 2 ? INT_MAX / 2 : (int)kilobytes);
}

int shared_make(lua_State *L, struct shared *s, uint32_t detail, uint64_t length, uint64_t bytes) {
  struct segment *segment;
  int status;
  luaL_checkstack(L, 6, NULL);
  charge(L, bytes);
  status = segment_make(&segment, s->kind, detail, length, bytes);
  if (is_worth_collecting(status)) {
    lua_gc(L, LUA_GCCOLLECT);
    status = segment_make(&segment, s->kind, detail, length, bytes);
  }
  if (status == 0) own_segment(L, s, segment);
  return status;
}

void shared_join(struct shared *s, struct segment *segment) {
  segment_keep(segment);
  s->segment = segment;
}

int shared_adopt(lua_State *L, struct shared *s, const struct segment_address *address) {
  struct segment *segment = find_segment(L, address);
  int status;
  luaL_checkstack(L, 6, NULL);
  if (segment && !is_meant(segment, address)) return -ESTALE;
  if (segment) {
    shared_join(s, segment);
  } else {
    charge(L, 0);
    status = segment_open(&segment, address);
    if (is_worth_collecting(status)) {
      lua_gc(L, LUA_GCCOLLECT);
      status = segment_open(&segment, address);
    }
    if (status < 0) return status;
    own_segment(L, s, segment);
  }
  return segment_header(s->segment)->kind == (uint32_t)s->kind ? 0 : -EBADMSG;
}

/* ---- crossing ---- */

int shared_is_own(const struct shared *s) {
  return process_is_child() && s->segment->maker == getpid();
}

const void *shared_kept(lua_State *L, int index) {
  const struct shared *s = lua_touserdata(L, index);
  return s->segment;
}

int shared_write_address(const struct shared *s, int flags, struct bytes *out, char *text, size_t capacity) {
  struct segment_address address;
  if (!(flags & CODEC_KEEPS_NONE) && !share_is_visible()) {
    snprintf(text, capacity, "shared memory cannot be sent to a process that lives already: /proc does not let it open the memory here");
    return -EACCES;
  }
  segment_address(s->segment, &address);
  return bytes_append(out, &address, sizeof address);
}

void shared_explain(int status, const char *class_name, char *text, size_t capacity) {
  if (status == -ESTALE) {
    snprintf(text, capacity, "%s: it was given up by the process that sent it before it arrived", class_name);
  } else if (status == -EBADMSG) {
    snprintf(text, capacity, "%s: what arrived is something else", class_name);
  } else {
    snprintf(text, capacity, "%s: it cannot be opened here: %s", class_name, strerror(-status));
  }
}

static int save_address(lua_State *L, int index, int flags, struct bytes *out, char *text, size_t capacity) {
  const struct shared *s = lua_touserdata(L, index);
  if (s->segment == NULL) {
    snprintf(text, capacity, "shared memory that was finalized");
  } else if (flags & CODEC_ELSEWHERE) {
    snprintf(text, capacity, "it is memory of one machine, and tasks may run on others");
  } else if (flags & CODEC_BY_VALUE) {
    snprintf(text, capacity, "what processes share has no value that could be kept");
  } else if ((flags & CODEC_COPIES_OWN) && shared_is_own(s)) {
    snprintf(text, capacity, "it was made in this task, and may end with it: make it in the host");
  } else {
    return shared_write_address(s, flags, out, text, capacity);
  }
  return -EINVAL;
}

static uint64_t least_bytes(enum shared_kind kind) {
  if (kind == SHARED_CHANNEL) return SHARED_CHANNEL_BYTES;
  return kind == SHARED_COUNTER ? SHARED_COUNTER_BYTES : SHARED_LOCK_BYTES; /* (a semaphore's) */
}

static int adopt_whole(lua_State *L, enum shared_kind kind, const char *class_name, const struct segment_address *address) {
  struct shared *s;
  int status;
  if (shared_push_interned(L, address)) {
    if (shared_test(L, -1, kind)) return 0;
    lua_pop(L, 1);
  }
  s = shared_new(L, kind, class_name, sizeof *s);
  status = shared_adopt(L, s, address);
  if (status == 0 && segment_body_bytes(s->segment) < least_bytes(kind)) status = -EBADMSG;
  if (status == 0) shared_intern(L, s);
  else lua_pop(L, 1);
  return status;
}

static int load_address(lua_State *L, enum shared_kind kind, const char *class_name, const unsigned char *data, size_t length,
                        char *text, size_t capacity) {
  struct segment_address address;
  int status = -EBADMSG;
  if (length == sizeof address) {
    memcpy(&address, data, sizeof address);
    status = adopt_whole(L, kind, class_name, &address);
  }
  if (status < 0) shared_explain(status, class_name, text, capacity);
  return status;
}

static int load_counter(lua_State *L, const unsigned char *data, size_t length, char *text, size_t capacity) {
  return load_address(L, SHARED_COUNTER, COUNTER_CLASS, data, length, text, capacity);
}

static int load_lock(lua_State *L, const unsigned char *data, size_t length, char *text, size_t capacity) {
  return load_address(L, SHARED_LOCK, LOCK_CLASS, data, length, text, capacity);
}

static int load_semaphore(lua_State *L, const unsigned char *data, size_t length, char *text, size_t capacity) {
  return load_address(L, SHARED_SEMAPHORE, SEMAPHORE_CLASS, data, length, text, capacity);
}

static int load_channel(lua_State *L, const unsigned char *data, size_t length, char *text, size_t capacity) {
  return load_address(L, SHARED_CHANNEL, CHANNEL_CLASS, data, length, text, capacity);
}

const struct codec_native shared_counter = {COUNTER_CLASS, save_address, shared_kept, load_counter};
const struct codec_native shared_lock = {LOCK_CLASS, save_address, shared_kept, load_lock};
const struct codec_native shared_semaphore = {SEMAPHORE_CLASS, save_address, shared_kept, load_semaphore};
const struct codec_native shared_channel = {CHANNEL_CLASS, save_address, shared_kept, load_channel};

/* ---- waiting ---- */

void shared_set_idle(lua_State *L, const struct shared_idle *idle) {
  lua_pushlightuserdata(L, (void *)(uintptr_t)idle);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &idle_key);
}

/* What is due elsewhere, or NULL. */
static const struct shared_idle *find_due(lua_State *L) {
  const struct shared_idle *idle;
  if (!lua_checkstack(L, 10)) return NULL;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &idle_key);
  idle = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return idle && idle->is_due(L) ? idle : NULL;
}

int shared_sleep(lua_State *L, struct share_event *event, uint32_t seen, int64_t until_ns) {
  int64_t left_ns = until_ns - os_now_ns();
  int status;
  if (interrupt_pending()) return -EINTR;
  if (left_ns <= 0) return -ETIMEDOUT;
  status = share_event_wait(event, seen, left_ns < SLICE_NS ? left_ns : SLICE_NS);
  if (status == 0) return 0;
  if (status != -ETIMEDOUT) return status;
  return lua_gethook(L) != NULL || find_due(L) ? -EINTR : 0;
}

/* Under the stock interpreter a signal has set a hook on this state: give it a call to fire at. */
static int nothing(lua_State *L) {
  (void)L;
  return 0;
}

void shared_attend(lua_State *L) {
  const struct shared_idle *idle;
  luaL_checkstack(L, 10, NULL);
  if (interrupt_pending() && delivery_checkpoint(L)) luaL_error(L, "cancelled: an interrupt is pending");
  if (lua_gethook(L) != NULL) {
    lua_pushcfunction(L, nothing);
    lua_call(L, 0, 0);
  }
  idle = find_due(L);
  if (idle) idle->work(L);
}
