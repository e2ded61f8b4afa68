/*
 * job/delivery -- the resume chain, the hook that raises, and the run scopes.
 *
 * Room: job (touches lua_State; may include job/chain.h and job/input.h).  Owns: the chain of frames of each operating-system
 * thread; the frames themselves are on C stacks.
 * Exactly once: interrupt_take, called in raise_pending alone, clears the flag; hooks only wake Lua up. Un-arm first, then take: a signal
 * between leaves at worst a stale hook, which removes itself. The handler arms from the middle of anything this thread does; `busy` keeps
 * it out while hooks or the chain change here, and whoever clears `busy` arms in its place.
 */
#include "job/delivery.h"

#include <lauxlib.h>
#include <signal.h>
#include <string.h>

#include "base/cold.h"
#include "job/chain.h"
#include "job/input.h"
#include "process/interrupt.h"

/* A finalizer deeper than this below a resume is not seen; the walk is quadratic in the depth. */
#define MAX_LEVELS 4000

CHAIN_LOCAL struct chain delivery_chain;

/* Registry keys of the objects, by reason: no table look-up, no allocation where they are raised. */
static char object_keys[256];
static char sentinel_key;

static void on_hook(lua_State *L, lua_Debug *event);

/* ---- hooks -------------------------------------------------------------------------------------------------- */

static void arm_frame(struct delivery_frame *f) {
  lua_State *L = f->thread;
  if (lua_gethook(L) != on_hook) {
    f->hook = lua_gethook(L);
    f->mask = lua_gethookmask(L);
    f->count = lua_gethookcount(L);
  } else if (!f->is_armed) { /* the coroutine inherited our hook from an armed creator */
    f->hook = NULL;
    f->mask = f->count = 0;
  }
  f->is_armed = 1;
  /*
   * LINE, too: where the script has a hook of its own, the signal may hit the virtual machine between its look at the mask and its
   * counting, and then the count has passed unnoticed; the next line, or jump backwards, has not.
   */
  lua_sethook(L, on_hook, LUA_MASKCOUNT | LUA_MASKRET | LUA_MASKLINE, 1);
}

void delivery_disarm_frame(struct delivery_frame *f) {
  if (f->is_armed && lua_gethook(f->thread) == on_hook) lua_sethook(f->thread, f->hook, f->mask, f->count);
  f->is_armed = 0;
}

COLD void delivery_arm(void) {
  if (delivery_chain.busy || !delivery_chain.scopes) return;
  for (struct delivery_frame *f = delivery_chain.top; f; f = f->previous) arm_frame(f);
}

static void begin_change(void) {
  delivery_chain.busy++;
}

static void end_change(void) {
  delivery_chain.busy--;
  if (interrupt_pending()) delivery_arm();
}

static struct delivery_frame *frame_of(lua_State *L) {
  struct delivery_frame *f = delivery_chain.top;
  while (f && f->thread != L) f = f->previous;
  return f;
}

/* Take our hook off one thread; the others stay as they are. */
static void unhook(lua_State *L) {
  struct delivery_frame *f;
  delivery_chain.busy++;
  f = frame_of(L);
  if (f && f->is_armed) delivery_disarm_frame(f);
  else if (lua_gethook(L) == on_hook) lua_sethook(L, NULL, 0, 0);
  delivery_chain.busy--;
}

/* ---- may it be raised? -------------------------------------------------------------------------------------- */

/* An error raised inside a __gc would end as a warning: the interrupt would be lost. */
static int runs_finalizer(lua_State *L) {
  lua_Debug ar;
  for (int level = 0; level < MAX_LEVELS && lua_getstack(L, level, &ar); level++) {
    lua_getinfo(L, "n", &ar);
    if (ar.name && *ar.namewhat == 'm' && strcmp(ar.name, "__gc") == 0) return 1;
  }
  return 0;
}

/* `hooked`: the thread whose hook is running, so that no finalizer can be (hooks are off in it); NULL outside hooks. */
static int may_raise(lua_State *hooked) {
  lua_State *last = hooked;
  if (!delivery_chain.scopes || delivery_chain.shields) return 0;
  for (struct delivery_frame *f = delivery_chain.top; f; f = f->previous) {
    if (f->thread != hooked && f->thread != last && runs_finalizer(f->thread)) return 0;
    last = f->thread;
  }
  return 1;
}

lua_State *delivery_running(void) {
  struct delivery_frame *f = delivery_chain.top;
  return f ? f->thread : NULL;
}

int delivery_can_raise(void) {
  return may_raise(NULL);
}

/* ---- raising ------------------------------------------------------------------------------------------------ */

static COLD void raise_pending(lua_State *L) {
  int reason;
  delivery_chain.busy++;
  for (struct delivery_frame *f = delivery_chain.top; f; f = f->previous) delivery_disarm_frame(f);
  delivery_chain.busy--;
  reason = interrupt_take();
  if (!reason) return; /* another thread was faster */
  input_after_interrupt();
  delivery_push(L, reason);
  lua_error(L);
}

static COLD void on_hook(lua_State *L, lua_Debug *event) {
  (void)event;
  if (interrupt_pending() && may_raise(L)) {
    raise_pending(L);
  } else {
    /* Stale; or deferred: the end of a shield arms again, and below a finalizer the outer threads stay armed. */
    int was_pending = interrupt_pending();
    unhook(L);
    if (!was_pending && interrupt_pending()) delivery_arm();
  }
}

int delivery_checkpoint(lua_State *L) {
  if (!interrupt_pending()) return 0;
  if (!may_raise(NULL)) return 1;
  raise_pending(L);
  return 0;
}

void delivery_shield(int change) {
  delivery_chain.shields += change;
  if (!delivery_chain.shields && interrupt_pending()) delivery_arm();
}

/* ---- the chain ---------------------------------------------------------------------------------------------- */

void delivery_enter(struct delivery_frame *scope, lua_State *L) {
  delivery_chain.busy++;
  chain_push(scope, L, 1);
  if (delivery_chain.scopes++ == 0) interrupt_own(1);
  delivery_chain.busy--;
  if (interrupt_pending()) delivery_arm();
}

void delivery_leave(struct delivery_frame *scope) {
  begin_change();
  delivery_disarm_frame(scope);
  delivery_chain.top = scope->previous;
  if (--delivery_chain.scopes == 0) {
    for (struct delivery_frame *f = delivery_chain.top; f; f = f->previous) delivery_disarm_frame(f);
    interrupt_own(0);
  }
  end_change();
}

int delivery_resume(lua_State *co, lua_State *from, int n_arguments, int *n_results) {
  struct delivery_frame frame;
  int status;
  chain_enter(&frame, co);
  status = lua_resume(co, from, n_arguments, n_results);
  chain_leave(&frame);
  return status;
}

COLD int delivery_reset(lua_State *co, lua_State *from) {
  struct delivery_frame frame;
  int status;
  chain_enter(&frame, co);
#if LUA_VERSION_RELEASE_NUM >= 50406
  status = lua_closethread(co, from);
#else
  (void)from;
  status = lua_resetthread(co);
#endif
  chain_leave(&frame);
  return status;
}

COLD void delivery_sethook(lua_State *L, lua_Hook hook, int mask, int count) {
  struct delivery_frame *f;
  begin_change();
  f = frame_of(L);
  if (f && f->is_armed && lua_gethook(L) == on_hook) {
    f->hook = hook;
    f->mask = mask;
    f->count = count;
  } else {
    lua_sethook(L, hook, mask, count);
  }
  end_change();
}

COLD void delivery_in_child(void) {
  delivery_chain.busy++;
  for (struct delivery_frame *f = delivery_chain.top; f; f = f->previous) delivery_disarm_frame(f);
  delivery_chain.top = NULL;
  delivery_chain.scopes = delivery_chain.shields = 0;
  delivery_chain.busy = 0;
}

/* ---- per Lua state ------------------------------------------------------------------------------------------ */

/*
 * The last finalizer of a state that is being closed (objects are finalized in reverse order): frames of it that are still in the chain,
 * as after os.exit(true, true), would point to freed memory.
 */
static COLD int forget_state(lua_State *L) {
  const void *registry = lua_topointer(L, LUA_REGISTRYINDEX);
  begin_change();
  while (delivery_chain.top && lua_topointer(delivery_chain.top->thread, LUA_REGISTRYINDEX) == registry) {
    delivery_disarm_frame(delivery_chain.top);
    if (delivery_chain.top->is_scope && --delivery_chain.scopes == 0) interrupt_own(0);
    delivery_chain.top = delivery_chain.top->previous;
  }
  end_change();
  return 0;
}

static int object_tostring(lua_State *L) {
  lua_getfield(L, 1, "message");
  return 1;
}

static void make_metatable(lua_State *L) {
  if (luaL_newmetatable(L, "luapool.interrupt")) { /* sets __name */
    lua_pushcfunction(L, object_tostring);
    lua_setfield(L, -2, "__tostring");
  }
}

static COLD void make_object(lua_State *L, int signo, const char *name) {
  lua_createtable(L, 0, 3);
  lua_pushliteral(L, "interrupt");
  lua_setfield(L, -2, "kind");
  lua_pushstring(L, name);
  lua_setfield(L, -2, "signal");
  lua_pushliteral(L, "interrupted!");
  lua_setfield(L, -2, "message");
  make_metatable(L);
  lua_setmetatable(L, -2);
  delivery_define(L, signo);
}

static void make_sentinel(lua_State *L) {
  lua_newuserdatauv(L, 0, 0);
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, forget_state);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &sentinel_key);
}

COLD void delivery_open(lua_State *L) {
  int is_open = lua_rawgetp(L, LUA_REGISTRYINDEX, &sentinel_key) != LUA_TNIL;
  lua_pop(L, 1);
  if (is_open) return;
  luaL_checkstack(L, 6, "interrupt objects");
  make_object(L, SIGINT, "SIGINT");
  make_object(L, SIGTERM, "SIGTERM");
  make_object(L, SIGHUP, "SIGHUP");
  make_sentinel(L);
  interrupt_set_arm(delivery_arm);
}

void delivery_define(lua_State *L, int reason) {
  lua_rawsetp(L, LUA_REGISTRYINDEX, &object_keys[reason & 255]);
}

void delivery_push(lua_State *L, int reason) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &object_keys[reason & 255]);
}

COLD int delivery_signal(lua_State *L, int index) {
  static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
  index = lua_absindex(L, index);
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
    int is_same;
    delivery_push(L, signals[i]);
    is_same = !lua_isnil(L, -1) && lua_rawequal(L, -1, index);
    lua_pop(L, 1);
    if (is_same) return signals[i];
  }
  return 0;
}

int delivery_is_interrupt(lua_State *L, int index) {
  return delivery_signal(L, index) != 0;
}
