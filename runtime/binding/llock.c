/*
 * binding/llock -- pool.lock and pool.semaphore: one process at a time, or n permits, and nobody for ever. A lock is one permit.
 *
 * Room: binding (may include binding/lclass.h and binding/lshared.h).
 * Owns: the metatables "luapool.lock", "luapool.semaphore" and "luapool.guard".
 * The truth about permit i is a record lock on byte i of the file: the kernel takes it back when its owner dies, and children do not
 * inherit it. Who has it is noted beside, as a ticket that each process draws once: that tells a process its own permits, which the kernel
 * would give it twice, and where to try first; what a dead process left there is tried again. segment.local is pid and ticket: a child's
 * copy of it names another process. A guard is the right to release one permit; it keeps the segment, so that is held as long as there is
 * the guard, whatever becomes of the lock's own userdata.
 */
#include "binding/lclass.h"
#include "binding/lshared.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"

enum { MOST_PERMITS = 1024 }; /* each is a record lock, and the kernel keeps those of a file in a list */

struct guard {
  struct shared shared;  /* joined to the lock's segment */
  enum shared_kind kind; /* what it is a guard of */
  pid_t owner;           /* the process that acquired it; 0: released */
  uint32_t permit;
};

/* What stands behind the header. */
struct permits {
  struct share_event released;
  _Atomic uint32_t tickets;   /* drawn so far */
  _Atomic uint32_t holders[]; /* of each permit: the ticket of who has it, or had it when he died; 0: nobody has it */
};

static struct permits *body(const struct segment *s) {
  return (struct permits *)(void *)segment_body(s);
}

/* How many permits there are, whatever the file says. */
static uint32_t count(const struct segment *s) {
  uint64_t room = (segment_body_bytes(s) - offsetof(struct permits, holders)) / sizeof(uint32_t), n = segment_header(s)->length;
  return (uint32_t)(n < room ? n : room);
}

/* The number of this process among those that use the segment. */
static uint32_t own_ticket(struct segment *s) {
  uint64_t pid = (uint64_t)getpid();
  if (s->local >> 32 != pid) s->local = pid << 32 | (uint32_t)(atomic_fetch_add(&body(s)->tickets, 1) + 1);
  return (uint32_t)s->local;
}

/* Has this process all the permits? */
static int is_held_here(struct segment *s) {
  uint32_t mine = own_ticket(s), n = count(s), i = 0;
  while (i < n && atomic_load(&body(s)->holders[i]) == mine) i++;
  return i == n;
}

static struct shared *check_lock(lua_State *L, const char *method) {
  struct shared *s = shared_test(L, 1, SHARED_SEMAPHORE);
  return s && s->segment ? s : lshared_check(L, SHARED_LOCK, "pool.lock or pool.semaphore", method);
}

static const char *name_of(enum shared_kind kind) {
  return kind == SHARED_LOCK ? "lock" : "semaphore";
}

/* ---- guards ---- */

/* Gives the permit back, if this guard and this process have it. Does not raise. */
static void release(struct guard *g) {
  struct segment *s = g->shared.segment;
  if (s == NULL || g->owner != getpid()) return;
  g->owner = 0;
  atomic_store(&body(s)->holders[g->permit], 0); /* before: afterwards it may be another's */
  (void)share_unlock(s->fd, g->permit);
  FAULT_POINT("lock_released");
  share_event_tell(&body(s)->released, 1);
}

/* guard:release(), __close: idempotent; of a process that has only inherited it: nothing. */
static int guard_release(lua_State *L) {
  struct guard *g = shared_test(L, 1, SHARED_GUARD);
  if (g == NULL)
    return luaL_error(L, "bad argument #1 to 'release' (guard of a pool.lock or pool.semaphore expected, got %s)", luaL_typename(L, 1));
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
  const char *state = g && g->owner == getpid() ? "held" : "released";
  lua_pushfstring(L, "guard of a %s, %s: %p", name_of(g ? g->kind : SHARED_LOCK), state, lua_topointer(L, 1));
  return 1;
}

void llock_open_guard(lua_State *L) {
  luaL_checkstack(L, 6, NULL);
  if (luaL_newmetatable(L, GUARD_CLASS)) {
    lclass_add(L, "__close", guard_release);
    lclass_add(L, "__gc", guard_gc);
    lclass_add(L, "__tostring", guard_tostring);
    lua_newtable(L);
    lclass_add(L, "release", guard_release);
    lua_setfield(L, -2, "__index");
    lua_pushliteral(L, GUARD_CLASS);
    lua_setfield(L, -2, "__metatable");
  }
  lua_pop(L, 1);
}

/* ---- acquiring ---- */

/* Push a guard that does not hold yet: what is raised later leaves nothing locked. */
static struct guard *push_guard(lua_State *L, const struct shared *lock) {
  struct guard *g = shared_new(L, SHARED_GUARD, GUARD_CLASS, sizeof *g);
  shared_join(&g->shared, lock->segment);
  g->kind = lock->kind;
  return g;
}

/* One try for one permit. 0: it is ours; -EAGAIN: another process has it; -errno. */
static int try_permit(struct guard *g, uint32_t permit) {
  struct segment *s = g->shared.segment;
  int status = share_lock(s->fd, permit);
  if (status < 0) return status;
  g->owner = getpid();
  g->permit = permit;
  atomic_store(&body(s)->holders[permit], own_ticket(s));
  FAULT_POINT("lock_acquired");
  return 0;
}

/* One try for any permit that is not ours yet: first those that nobody has, then those whose holder may be dead. As try_permit. */
static int try_any(struct guard *g) {
  struct segment *s = g->shared.segment;
  uint32_t mine = own_ticket(s), n = count(s);
  int status = -EAGAIN;
  for (int is_marked = 0; is_marked <= 1; is_marked++)
    for (uint32_t i = 0; i < n && status == -EAGAIN; i++) {
      uint32_t holder = atomic_load(&body(s)->holders[i]);
      if (holder != mine && (holder != 0) == is_marked) status = try_permit(g, i);
    }
  return status;
}

/* One try. 0: it is ours; -EAGAIN: others have it. Raises what is neither. */
static int try(lua_State *L, struct guard *g) {
  int status = try_any(g);
  if (status < 0 && status != -EAGAIN) luaL_error(L, "the %s cannot be acquired: %s", name_of(g->kind), strerror(-status));
  return status;
}

/* Never wait for oneself. */
static void refuse_if_held_here(lua_State *L, struct segment *s, enum shared_kind kind) {
  const char *what = kind == SHARED_LOCK ? "it" : "all its permits";
  if (is_held_here(s))
    luaL_error(L, "cannot acquire the %s: this process holds %s already, and would wait for itself", name_of(kind), what);
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
    else if (status < 0) luaL_error(L, "cannot wait for the %s: %s", name_of(g->kind), strerror(-status));
    refuse_if_held_here(L, g->shared.segment, g->kind); /* somebody of this process may have taken it meanwhile (in a hook) */
  }
}

/* (lock at 1) -> the guard is pushed; or nothing, and -ETIMEDOUT is returned */
static int acquire(lua_State *L, const struct shared *lock, int64_t until_ns) {
  /* An interrupt between our return and the variable that was to be closed leaves a guard to the collector: nobody has it any more. */
  if (is_held_here(lock->segment)) lua_gc(L, LUA_GCCOLLECT);
  refuse_if_held_here(L, lock->segment, lock->kind);
  return wait_and_try(L, push_guard(L, lock), until_ns);
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
  if (is_held_here(lock->segment) || try(L, push_guard(L, lock)) != 0) lua_pushnil(L);
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

/* Who has a permit: this process, another one; 0: none; -errno. */
static pid_t holder_of(struct segment *s, uint32_t permit) {
  uint32_t ticket = atomic_load(&body(s)->holders[permit]);
  if (ticket == 0) return 0;
  return ticket == own_ticket(s) ? getpid() : share_lock_holder(s->fd, permit);
}

/* lock:holder() -> pid of the process that holds it, or nil */
static int lock_holder(lua_State *L) {
  const struct shared *lock = lshared_check(L, SHARED_LOCK, "pool.lock", "holder");
  pid_t pid = holder_of(lock->segment, 0);
  if (pid < 0) return luaL_error(L, "cannot ask who holds the lock: %s", strerror(-pid));
  if (pid == 0) lua_pushnil(L);
  else lua_pushinteger(L, pid);
  return 1;
}

static struct shared *check_semaphore(lua_State *L, const char *method) {
  return lshared_check(L, SHARED_SEMAPHORE, "pool.semaphore", method);
}

static lua_Integer count_free(lua_State *L, struct segment *s) {
  lua_Integer n_free = 0;
  for (uint32_t i = 0, n = count(s); i < n; i++) {
    pid_t pid = holder_of(s, i);
    if (pid < 0) luaL_error(L, "cannot ask who holds the semaphore: %s", strerror(-pid));
    n_free += pid == 0;
  }
  return n_free;
}

/* semaphore:available() -> how many permits nobody has at this moment */
static int semaphore_available(lua_State *L) {
  lua_pushinteger(L, count_free(L, check_semaphore(L, "available")->segment));
  return 1;
}

/* ---- the classes ---- */

static int lock_tostring(lua_State *L) {
  lua_pushfstring(L, "lock: %p", (check_lock(L, "tostring"), lua_topointer(L, 1)));
  return 1;
}

void llock_open(lua_State *L) {
  static const luaL_Reg methods[] = {{"acquire", lock_acquire}, {"try", lock_try}, {"with", lock_with}, {"holder", lock_holder},
                                     {NULL, NULL}};
  lshared_define(L, &shared_lock, methods, NULL, lock_tostring);
}

static int semaphore_tostring(lua_State *L) {
  struct segment *s = check_semaphore(L, "tostring")->segment;
  lua_pushfstring(L, "semaphore, %I of %d free: %p", (LUAI_UACINT)count_free(L, s), (int)count(s), lua_topointer(L, 1));
  return 1;
}

void llock_open_semaphore(lua_State *L) {
  static const luaL_Reg methods[] = {{"acquire", lock_acquire}, {"try", lock_try}, {"with", lock_with},
                                     {"available", semaphore_available}, {NULL, NULL}};
  lshared_define(L, &shared_semaphore, methods, NULL, semaphore_tostring);
}

/* core.lock() -> lock */
int llock_new(lua_State *L) {
  lshared_new(L, SHARED_LOCK, LOCK_CLASS, 1, SHARED_LOCK_BYTES);
  return 1;
}

/* core.semaphore(n) -> semaphore */
int llock_new_semaphore(lua_State *L) {
  lua_Integer n = lshared_check_integer(L, 1, "semaphore");
  if (n < 1 || n > MOST_PERMITS)
    return luaL_error(L, "bad argument #1 to 'semaphore' (number of permits, 1 to %d, expected, got %I)", MOST_PERMITS, (LUAI_UACINT)n);
  lshared_new(L, SHARED_SEMAPHORE, SEMAPHORE_CLASS, (uint64_t)n, SHARED_LOCK_BYTES + (uint64_t)n * sizeof(uint32_t));
  return 1;
}
