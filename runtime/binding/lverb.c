/*
 * binding/lverb -- what handles offer to lua/luapool: calls that block until they are over, and calls that are begun.
 *
 * Room: binding (may include binding/lcall.h, binding/lpool.h, binding/loutput.h and binding/lerror.h).  Owns: nothing.
 * A blocking call's body runs under a pcall of ours: an interrupt, an error of the source or of memory first cancels what runs,
 * then goes on its way.
 */
#include <lauxlib.h>
#include <string.h>

#include "base/os.h"
#include "binding/lcall.h"
#include "binding/lerror.h"
#include "job/delivery.h"

#define MOST_SECONDS 1e9

enum { FIRST_ARGUMENT = 9 /* stack index, in bodies of one task */ };

static void refuse_reentry(lua_State *L, const struct lpool *lp, const char *method) {
  if (lp->taking) luaL_error(L, "cannot use '%s': the pool is reading a result", method);
}

/* The blocking wait for one call. The call or the pool may be ended meanwhile (by a callback, by the source): that is an error. */
static void drive(lua_State *L, struct call *c) {
  struct lpool *lp = c->lp;
  while (c->phase == CALL_OPEN) {
    lpump_work(L, lp);
    if (c->phase == CALL_OPEN) lpump_sleep(L, lp, -1);
  }
  if (c->outcome == OUTCOME_CANCELLED) lcall_raise_ended(L, lp);
}

/* Push the call and publish what can be published. */
static struct call *begin(lua_State *L, struct lpool *lp, int arguments, enum call_mode mode) {
  int last = lua_gettop(L);
  struct call *c = lcall_open(L, lp, arguments, mode);
  if (mode == CALL_APPLY || mode == CALL_BROADCAST) c->names_classes = lsend_may_name_class(L, FIRST_ARGUMENT, last);
  else c->names_classes = c->work.kind != BOARD_INDEXED; /* (numbers) */
  lsend_function(L, c);
  lcall_link(L, c, -1);
  lfill_keep_shared(L, c, lp->sender, LFILL_WHOLE_CALL);
  return c;
}

struct body {
  struct lpool *lp;
  struct call *call; /* as soon as there is one */
  int n_arguments;
};

/* (handle, fn, kind, a, b, n, options, body) -> the call */
static int run_body(lua_State *L) {
  struct body *body = lua_touserdata(L, 8);
  struct call *c = begin(L, body->lp, 2, CALL_TABLE);
  body->call = c;
  lfill_post_all(L, c);
  lfill_more(L, c);
  lcall_judge(L, c);
  drive(L, c);
  return 1;
}

/* The body failed; its error is on top. What it left running is stopped first. */
static int abort_body(lua_State *L, struct body *body) {
  struct call *c = body->call;
  if (c && c->phase == CALL_OPEN) lcall_conclude(L, c, OUTCOME_CANCELLED, body->lp->grace_ns);
  if (c && c->phase == CALL_ENDING) lpump_finish(L, body->lp, c, delivery_is_interrupt(L, -1));
  return 0;
}

/* Call `function` with what is on the stack from 1 on, and the body's record. Pushes the call. */
static struct call *run_to_end(lua_State *L, struct lpool *lp, lua_CFunction function, int n) {
  struct body body = {lp, NULL, n};
  int i, status;
  luaL_checkstack(L, n + 8, "too many arguments");
  lua_pushcfunction(L, function);
  for (i = 1; i <= 7; i++) lua_pushvalue(L, i);
  lua_pushlightuserdata(L, &body);
  for (i = 8; i <= n; i++) lua_pushvalue(L, i);
  lp->depth++;
  lp->rest_at_ns = 0;
  status = lua_pcall(L, n + 1, 1, 0);
  if (status != LUA_OK) (void)abort_body(L, &body);
  if (status == LUA_OK && body.call->phase == CALL_ENDING) lpump_finish(L, lp, body.call, 0);
  lp->depth--;
  lpump_settle(L, lp);
  if (lp->pool) loutput_turn_protected(lp, L);
  lpool_settle(lp, L);
  lpump_rest(lp);
  if (status != LUA_OK) lua_error(L);
  if (lua_getiuservalue(L, -1, CALL_PROBLEM) != LUA_TNIL) lua_error(L);
  lua_pop(L, 1);
  return body.call;
}

/* The call is on top: results, n, errors. */
static int push_outcome(lua_State *L) {
  const struct call *c = lua_touserdata(L, -1);
  if (lua_getiuservalue(L, -1, CALL_RESULTS) == LUA_TNIL) {
    lua_pop(L, 1);
    lua_newtable(L);
  }
  lua_pushinteger(L, (lua_Integer)(c->total == UINT64_MAX ? c->written : c->total));
  lua_getiuservalue(L, -3, CALL_ERRORS);
  return 3;
}

/*
 * handle:run(fn, kind, a, b, n, options) -> results, n, errors
 *   kind     "range" (a first, b step), "table" (a), "array" (a), "iterator" (a: function() -> item or nil, n nil)
 *   options  checked by the caller: chunk, timeout, memory, retries, crash_retries, on_crash, collect, discard, deadline, halt_..., into
 *   errors   nil, or a table of error tables by item; without `collect` the call ended at the first
 * Blocks until the call is over. Raises what the source raises, an interrupt, and what ails the pool itself; nothing of the
 * call is left then.
 */
int lpool_run(lua_State *L) {
  struct lpool *lp = lpool_check(L, "map");
  refuse_reentry(L, lp, "map");
  lua_settop(L, 7);
  (void)run_to_end(L, lp, run_body, 7);
  return push_outcome(L);
}

/* (handle, fn, nil, nil, nil, nil, options, body, arguments ...) -> the call */
static int apply_body(lua_State *L) {
  struct body *body = lua_touserdata(L, 8);
  int last = lua_gettop(L);
  struct call *c = begin(L, body->lp, 2, CALL_APPLY);
  body->call = c;
  lcall_name(L, c);
  lfill_post_arguments(L, c, FIRST_ARGUMENT, last);
  drive(L, c);
  return 1;
}

/* (handle, options, fn, ...) -> (handle, fn, nil, nil, nil, nil, options, ...) */
static int order_arguments(lua_State *L) {
  luaL_checkstack(L, 16, "too many arguments");
  lua_pushvalue(L, 2);
  lua_pushvalue(L, 3);
  lua_replace(L, 2);
  lua_replace(L, 3);
  lua_settop(L, lua_gettop(L) + 4);
  lua_rotate(L, 3, 4);
  return lua_gettop(L);
}

/*
 * handle:apply(options, fn, ...) -> results { n =, ... }, nil | nil, error table
 * One task; blocks until it is over; raises as handle:run does.
 */
int lpool_apply(lua_State *L) {
  struct lpool *lp = lpool_check(L, "apply");
  int n;
  refuse_reentry(L, lp, "apply");
  n = order_arguments(L);
  (void)run_to_end(L, lp, apply_body, n);
  if (lua_getiuservalue(L, -1, CALL_ERRORS) == LUA_TTABLE) {
    lua_pushnil(L);
    lua_rawgeti(L, -2, 1);
    return 2;
  }
  lua_getiuservalue(L, -2, CALL_RESULTS);
  return 1;
}

/* (handle, fn, nil, nil, nil, nil, options, body, arguments ...) -> the call */
static int broadcast_body(lua_State *L) {
  struct body *body = lua_touserdata(L, 8);
  int last = lua_gettop(L);
  struct call *c = begin(L, body->lp, 2, CALL_BROADCAST);
  body->call = c;
  lpump_start_all(L, body->lp); /* each of them has an item of its own */
  lcall_name(L, c);
  lfill_post_arguments(L, c, FIRST_ARGUMENT, last);
  drive(L, c);
  return 1;
}

/* handle:broadcast(options, fn, ...) -> results by worker, n, errors by worker. Once in every worker; as handle:run else. */
int lpool_broadcast(lua_State *L) {
  struct lpool *lp = lpool_check(L, "broadcast");
  int n;
  refuse_reentry(L, lp, "broadcast");
  n = order_arguments(L);
  (void)run_to_end(L, lp, broadcast_body, n);
  return push_outcome(L);
}

/* ---- calls that are begun ---- */

/* (handle, fn, kind, a, b, n, options, body, mode) -> the call */
static int begin_body(lua_State *L) {
  struct body *body = lua_touserdata(L, 8);
  struct call *c = begin(L, body->lp, 2, (enum call_mode)lua_tointeger(L, 9));
  body->call = c;
  if (c->mode == CALL_TABLE) lfill_post_all(L, c);
  lpump_start(L, body->lp);
  lfill_more(L, c);
  return 1;
}

/* (handle, fn, nil, nil, nil, nil, options, body, arguments ...) -> the call */
static int submit_body(lua_State *L) {
  struct body *body = lua_touserdata(L, 8);
  int last = lua_gettop(L);
  struct call *c = begin(L, body->lp, 2, CALL_APPLY);
  body->call = c;
  lcall_name(L, c);
  lfill_post_arguments(L, c, FIRST_ARGUMENT, last);
  lpump_start(L, body->lp);
  return 1;
}

/* As submit_body, for every worker. */
static int submit_all_body(lua_State *L) {
  struct body *body = lua_touserdata(L, 8);
  int last = lua_gettop(L);
  struct call *c = begin(L, body->lp, 2, CALL_BROADCAST);
  body->call = c;
  lpump_start_all(L, body->lp);
  lcall_name(L, c);
  lfill_post_arguments(L, c, FIRST_ARGUMENT, last);
  return 1;
}

static void begin_protected(lua_State *L, struct lpool *lp, lua_CFunction function, int n) {
  struct body body = {lp, NULL, n};
  int i, status;
  luaL_checkstack(L, n + 8, "too many arguments");
  lua_pushcfunction(L, function);
  for (i = 1; i <= 7; i++) lua_pushvalue(L, i);
  lua_pushlightuserdata(L, &body);
  for (i = 8; i <= n; i++) lua_pushvalue(L, i);
  status = lua_pcall(L, n + 1, 1, 0);
  lpump_rest(lp);
  if (status == LUA_OK) return;
  (void)abort_body(L, &body);
  lua_error(L);
}

/*
 * handle:begin(fn, kind, a, b, n, options, "table" | "ordered" | "unordered") -> call
 * As handle:run, but does not wait: call:status(), call:outcome(); streams: call:next().
 */
int lpool_begin(lua_State *L) {
  static const char *const modes[] = {"table", "ordered", "unordered", NULL};
  static const enum call_mode values[] = {CALL_TABLE, CALL_ORDERED, CALL_UNORDERED};
  struct lpool *lp = lpool_check(L, "begin");
  enum call_mode mode = values[luaL_checkoption(L, 8, NULL, modes)];
  refuse_reentry(L, lp, "begin");
  lua_settop(L, 7);
  lua_pushinteger(L, (lua_Integer)mode);
  begin_protected(L, lp, begin_body, 8);
  return 1;
}

/* handle:submit(options, fn, ...) -> call. One task; call:outcome() gives { n =, ... } */
int lpool_submit(lua_State *L) {
  struct lpool *lp = lpool_check(L, "submit");
  int n;
  refuse_reentry(L, lp, "submit");
  n = order_arguments(L);
  begin_protected(L, lp, submit_body, n);
  return 1;
}

/* handle:submit_all(options, fn, ...) -> call: a broadcast that is begun. call:outcome() gives results by worker. */
int lpool_submit_all(lua_State *L) {
  struct lpool *lp = lpool_check(L, "submit_all");
  int n;
  refuse_reentry(L, lp, "submit_all");
  n = order_arguments(L);
  begin_protected(L, lp, submit_all_body, n);
  return 1;
}

/*
 * handle:turn([timeout [, budget]]): do what can be done; wait at most `timeout` seconds (nil: as long as it takes; 0: not at all) for
 * something to happen. With a budget (seconds) what is not done by then is left for the next turn. Raises interrupts, and what the hook
 * raises.
 */
int lpool_turn(lua_State *L) {
  struct lpool *lp = lpool_check(L, "turn");
  lua_Number seconds = luaL_optnumber(L, 2, -1), budget = luaL_optnumber(L, 3, 0);
  uint64_t before;
  refuse_reentry(L, lp, "turn");
  before = lp->n_concluded;
  lp->rest_at_ns = budget > 0 && budget < MOST_SECONDS ? os_now_ns() + os_ns_of(budget) : 0;
  pool_look(lp->pool);
  lpump_work(L, lp);
  lp->rest_at_ns = 0;
  lpump_rest(lp);
  if (lp->pool == NULL || lp->n_concluded != before || seconds == 0) return 0;
  if (lp->open == NULL && lp->ending == NULL) return 0; /* nothing can happen */
  lpump_sleep(L, lp, seconds < 0 || seconds > MOST_SECONDS ? -1 : os_now_ns() + os_ns_of(seconds));
  if (lp->pool) lpump_work(L, lp);
  lpump_rest(lp);
  return 0;
}

/* handle:fd() -> a descriptor that becomes readable when handle:turn has something to do; nil, message */
int lpool_fd(lua_State *L) {
  struct lpool *lp = lpool_check(L, "fd");
  int fd = pool_fd(lp->pool);
  if (fd >= 0) {
    lpump_rest(lp);
    lua_pushinteger(L, fd);
    return 1;
  }
  lua_pushnil(L);
  lua_pushstring(L, strerror(-fd));
  return 2;
}

/* handle:has_news() -> boolean: has handle:turn something to do? Costs next to nothing. */
int lpool_has_news(lua_State *L) {
  struct lpool *lp = lpool_check(L, "has_news");
  lua_pushboolean(L, pool_has_news(lp->pool) || lp->n_ready != lp->n_taken || lp->lazy != NULL);
  return 1;
}

/* handle:hook(function or nil [, seconds]): called while the host waits, when a call that wanted it is over, and every so many seconds. */
int lpool_set_hook(lua_State *L) {
  struct lpool *lp = lpool_check(L, "hook");
  lua_Number seconds = luaL_optnumber(L, 3, 0);
  lua_settop(L, 2);
  lp->has_hook = !lua_isnil(L, 2);
  lua_setiuservalue(L, 1, LPOOL_HOOK);
  lp->tick_ns = os_ns_of(seconds);
  lp->next_tick_ns = os_now_ns() + lp->tick_ns;
  return 0;
}

/* handle:ready() -> the first call that is over, wanted to be told (call:notify), and has not been (handle:told()), or nothing */
int lpool_ready(lua_State *L) {
  struct lpool *lp = luaL_checkudata(L, 1, LPOOL_TYPE);
  if (lp->n_taken >= lp->n_ready) return 0;
  lpool_push_value(L, lp, LPOOL_READY);
  lua_rawgeti(L, -1, lp->n_taken + 1);
  return 1;
}

int lpool_told(lua_State *L) {
  struct lpool *lp = luaL_checkudata(L, 1, LPOOL_TYPE);
  if (lp->n_taken >= lp->n_ready) return 0;
  lpool_push_value(L, lp, LPOOL_READY);
  lua_pushnil(L);
  lua_rawseti(L, -2, ++lp->n_taken);
  return 0;
}

/* handle:cancel(): every open call is cancelled; waits until no worker is in any of them. The pool stays usable. */
int lpool_cancel_all(lua_State *L) {
  struct lpool *lp = lpool_check(L, "cancel");
  refuse_reentry(L, lp, "cancel");
  lpool_cancel_calls(lp, L, lp->grace_ns);
  lp->depth++;
  while (lp->pool != NULL && lp->ending != NULL) {
    struct call *c = lp->ending;
    lpump_finish(L, lp, c, 0);
    if (lp->ending == c) break; /* it cannot be killed */
  }
  lp->depth--;
  lpump_settle(L, lp);
  if (lp->pool) loutput_turn_protected(lp, L);
  lpool_settle(lp, L);
  lpump_checkpoint(L);
  return 0;
}
