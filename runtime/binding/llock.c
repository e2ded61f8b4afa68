/*
 * binding/llock -- pool.lock: one process at a time, and nobody for ever.
 *
 * Room: binding (may include binding/lshared.h).  Owns: the metatables "luapool.lock" and "luapool.guard".
 * The truth is a record lock on the lock's file: the kernel takes it back when its owner dies, and children do not inherit it.
 * segment.local is the pid of the process if that is the owner: a child's copy of it names another process. A guard is the right to
 * release; it keeps the segment, so the lock is held as long as there is the guard, whatever becomes of the lock's own userdata.
 */
#include "binding/lshared.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"

enum { BYTE = 0 };

struct guard {
  struct shared shared; /* joined to the lock's segment */
  pid_t owner;          /* the process that acquired it; 0: released */
};

/* What stands behind the header. */
struct lock_shared {
  struct share_event released;
};

static struct lock_shared *body(const struct segment *s) {
  return (struct lock_shared *)(void *)segment_body(s);
}

static struct shared *check_lock(lua_State *L, const char *method) {
  return lshared_check(L, SHARED_LOCK, "pool.lock", method);
}

static int is_held_here(const struct segment *s) {
  return s->local == (uint64_t)getpid();
}

/* ---- guards ---- */

/* Gives the lock back, if this guard and this process have it. Does not raise. */
static void release(struct guard *g) {
  struct segment *s = g->shared.segment;
  if (s == NULL || g->owner != getpid()) return;
  g->owner = 0;
  s->local = 0;
  (void)share_unlock(s->fd, BYTE);
  FAULT_POINT("lock_released");
  share_event_tell(&body(s)->released, 1);
}

/* guard:release(), __close: idempotent; of a process that has only inherited it: nothing. */
static int guard_release(lua_State *L) {
  struct guard *g = shared_test(L, 1, SHARED_GUARD);
  if (g == NULL) return luaL_error(L, "bad argument #1 to 'release' (guard of a pool.lock expected, got %s)", luaL_typename(L, 1));
  release(g);
  return 0;
}

static int guard_gc(lua_State *L) {
  struct guard *g = shared_test(L, 1, SHARED_GUARD);
  if (g) release(g);
  return shared_gc(L);
}

static int guard_tostring(lua_State *L) {
  const struct guard *g = shared_test(L, 1, SHARED_GUARD);
  lua_pushfstring(L, "guard of a lock, %s: %p", g && g->owner == getpid() ? "held" : "released", lua_topointer(L, 1));
  return 1;
}

void llock_open_guard(lua_State *L) {
  static const luaL_Reg methods[] = {{"release", guard_release}, {NULL, NULL}};
  static const luaL_Reg meta[] = {{"__close", guard_release}, {"__gc", guard_gc}, {"__tostring", guard_tostring}, {NULL, NULL}};
  luaL_checkstack(L, 6, NULL);
  if (luaL_newmetatable(L, GUARD_CLASS)) {
    luaL_setfuncs(L, meta, 0);
    lua_newtable(L);
    luaL_setfuncs(L, methods, 0);
    lua_setfield(L, -2, "__index");
    lua_pushliteral(L, GUARD_CLASS);
    lua_setfield(L, -2, "__metatable");
  }
  lua_pop(L, 1);
}

/* ---- acquiring ---- */

/* Push a guard that does not hold yet: what is raised later leaves nothing locked. */
static struct guard *push_guard(lua_State *L, struct segment *s) {
  struct guard *g = shared_new(L, SHARED_GUARD, GUARD_CLASS, sizeof *g);
  shared_join(&g->shared, s);
  return g;
}

/* One try. 0: it is ours; -EAGAIN: another process has it. Raises what is neither. */
static int try(lua_State *L, struct guard *g) {
  struct segment *s = g->shared.segment;
  int status = share_lock(s->fd, BYTE);
  if (status == 0) {
    g->owner = getpid();
    s->local = (uint64_t)g->owner;
    FAULT_POINT("lock_acquired");
  } else if (status != -EAGAIN) {
    luaL_error(L, "the lock cannot be acquired: %s", strerror(-status));
  }
  return status;
}

/* Waits for it. 0, or -ETIMEDOUT. Raises interrupts. */
static int wait_and_try(lua_State *L, struct guard *g, int64_t until_ns) {
  struct share_event *released = &body(g->shared.segment)->released;
  for (;;) {
    uint32_t seen = share_event_now(released);
    int status = try(L, g);
    if (status == 0) return 0;
    status = shared_sleep(L, released, seen, until_ns);
    if (status == -ETIMEDOUT) return status;
    if (status == -EINTR) shared_attend(L);
    else if (status < 0) luaL_error(L, "cannot wait for the lock: %s", strerror(-status));
    /* Somebody of this process may have taken it meanwhile (in a hook): never wait for oneself. */
    if (is_held_here(g->shared.segment)) luaL_error(L, "cannot acquire the lock: this process holds it already, and would wait for itself");
  }
}

/* (lock at 1) -> the guard is pushed; or nothing, and -ETIMEDOUT is returned */
static int acquire(lua_State *L, const struct shared *lock, int64_t until_ns) {
  struct guard *g;
  if (is_held_here(lock->segment))
    luaL_error(L, "cannot acquire the lock: this process holds it already, and would wait for itself");
  g = push_guard(L, lock->segment);
  return wait_and_try(L, g, until_ns);
}

/* lock:acquire([timeout]) -> guard | nil, "timeout" */
static int lock_acquire(lua_State *L) {
  const struct shared *lock = check_lock(L, "acquire");
  int64_t until_ns = lshared_check_timeout(L, 2, "acquire");
  if (acquire(L, lock, until_ns) == 0) return 1;
  lua_pushnil(L);
  lua_pushliteral(L, "timeout");
  return 2;
}

/* lock:try() -> guard | nil */
static int lock_try(lua_State *L) {
  const struct shared *lock = check_lock(L, "try");
  if (is_held_here(lock->segment) || try(L, push_guard(L, lock->segment)) != 0) lua_pushnil(L);
  return 1;
}

/* What fn returned stands above the guard, which is closed (the lock is released) by returning. */
static int with_results(lua_State *L, int status, lua_KContext below) {
  (void)status;
  return lua_gettop(L) - (int)below;
}

/* lock:with(fn, ...) -> what fn(...) returns; the lock is released then, also if fn raises */
static int lock_with(lua_State *L) {
  const struct shared *lock = check_lock(L, "with");
  int n = lua_gettop(L);
  if (lua_type(L, 2) != LUA_TFUNCTION) return luaL_error(L, "bad argument #1 to 'with' (function expected, got %s)", luaL_typename(L, 2));
  (void)acquire(L, lock, INT64_MAX);
  lua_insert(L, 2); /* lock, guard, fn, arguments */
  lua_toclose(L, 2);
  lua_callk(L, n - 2, LUA_MULTRET, 2, with_results);
  return with_results(L, LUA_OK, 2);
}

/* lock:holder() -> pid of the process that holds it, or nil */
static int lock_holder(lua_State *L) {
  const struct shared *lock = check_lock(L, "holder");
  pid_t pid = is_held_here(lock->segment) ? getpid() : share_lock_holder(lock->segment->fd, BYTE);
  if (pid < 0) return luaL_error(L, "cannot ask who holds the lock: %s", strerror(-pid));
  if (pid == 0) lua_pushnil(L);
  else lua_pushinteger(L, pid);
  return 1;
}

static int lock_tostring(lua_State *L) {
  lua_pushfstring(L, "lock: %p", (check_lock(L, "tostring"), lua_topointer(L, 1)));
  return 1;
}

void llock_open(lua_State *L) {
  static const luaL_Reg methods[] = {{"acquire", lock_acquire}, {"try", lock_try}, {"with", lock_with}, {"holder", lock_holder},
                                     {NULL, NULL}};
  lshared_define(L, &shared_lock, methods, NULL, lock_tostring);
}

/* core.lock() -> lock */
int llock_new(lua_State *L) {
  lshared_new(L, SHARED_LOCK, LOCK_CLASS, 0, SHARED_LOCK_BYTES);
  return 1;
}
