/*
 * binding/lcall -- see lcall.h. This file: the life of a call, from its options to its outcome.
 *
 * Room: binding (may include binding/lclass.h, binding/lpool.h and binding/lerror.h).  Owns: per call its registry references (function,
 * source), its part of a sent function, its place in the pool's lists; all given back in lcall_release, however the call ends.
 */
#include "binding/lcall.h"

#include <errno.h>
#include <lauxlib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cold.h"
#include "base/os.h"
#include "binding/lclass.h"
#include "binding/lerror.h"
#include "job/delivery.h"

#define NS_PER_S 1e9

enum { ITEM_READS = 1 << 20 /* items read again to word errors: a call whose every item fails must end, too */ };

/* Where the arguments of lcall_open stand, counted from the function. */
enum { FROM_KIND = 1, FROM_A = 2, FROM_B = 3, FROM_N = 4, FROM_OPTIONS = 5 };

struct call *lcall_check(lua_State *L) {
  return luaL_checkudata(L, 1, LCALL_TYPE);
}

/* The call at index 1, to be changed or waited for: only the process whose pool it is of can. */
static struct call *own_call(lua_State *L) {
  struct call *c = lcall_check(L);
  if (c->lp->owner != getpid()) {
    lua_pushfstring(L, "cannot use a call here: its pool belongs to process %d, this is process %d", c->lp->owner, (int)getpid());
    lua_error(L);
  }
  return c;
}

/* ---- options ---- */

static uint32_t option_count(lua_State *L, int options, const char *name) {
  lua_Integer value;
  lua_getfield(L, options, name);
  value = lua_tointeger(L, -1);
  lua_pop(L, 1);
  return value < 0 ? 0 : value > INT32_MAX ? INT32_MAX : (uint32_t)value;
}

static lua_Number option_number(lua_State *L, int options, const char *name) {
  lua_Number value;
  lua_getfield(L, options, name);
  value = lua_tonumber(L, -1);
  lua_pop(L, 1);
  return value;
}

static int option_flag(lua_State *L, int options, const char *name) {
  int value;
  lua_getfield(L, options, name);
  value = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return value;
}

static void read_policies(struct call *c, lua_State *L, int options) {
  static const char *const policies[] = {"raise", "retry", "skip", NULL};
  static const char *const priorities[] = {"normal", "high", "low", NULL}; /* enum pool_priority */
  lua_getfield(L, options, "priority");
  c->work.priority = (enum pool_priority)luaL_checkoption(L, -1, "normal", priorities);
  lua_pop(L, 1);
  lua_getfield(L, options, "on_crash");
  c->crash = luaL_checkoption(L, -1, "raise", policies);
  lua_pop(L, 1);
  c->retries = option_count(L, options, "retries");
  c->crash_retries = option_count(L, options, "crash_retries");
  c->retry_delay_ns = os_ns_of(option_number(L, options, "retry_delay"));
  c->collects = option_flag(L, options, "collect");
  c->halt_failed = option_count(L, options, "halt_failed");
  c->halt_done = option_count(L, options, "halt_done");
  c->halt_failed_share = option_number(L, options, "halt_failed_share");
  c->halt_done_share = option_number(L, options, "halt_done_share");
  c->halts_soon = option_flag(L, options, "halt_soon");
}

static void read_options(struct call *c, lua_State *L, int options) {
  lua_Number deadline;
  read_policies(c, L, options);
  c->chunk = option_count(L, options, "chunk");
  c->buffer = option_count(L, options, "buffer");
  c->wants_results = !option_flag(L, options, "discard");
  c->has_seconds = option_flag(L, options, "seconds");
  c->work.flags = option_flag(L, options, "wrapped") ? BOARD_WRAPPED : 0;
  lua_getfield(L, options, "memory");
  c->work.memory_bytes = lua_tointeger(L, -1);
  lua_pop(L, 1);
  c->timeout_ns = os_ns_of(option_number(L, options, "timeout"));
  deadline = option_number(L, options, "deadline");
  if (deadline > 0) {
    c->deadline_after_ns = os_ns_of(deadline);
    c->deadline_ns = os_now_ns() + c->deadline_after_ns;
  }
}

/* Tables, arrays and functions get a registry reference, so that forked workers find them. */
static void read_source(struct call *c, lua_State *L, int arguments) {
  struct source *s = &c->job.source;
  const char *kind = luaL_checkstring(L, arguments + FROM_KIND);
  int a = arguments + FROM_A, b = arguments + FROM_B, n = arguments + FROM_N;
  s->count = lua_isnil(L, n) ? UINT64_MAX : (uint64_t)luaL_checkinteger(L, n);
  if (strcmp(kind, "range") == 0) {
    s->kind = lua_isinteger(L, a) && lua_isinteger(L, b) ? SOURCE_INTEGERS : SOURCE_FLOATS;
    s->first = lua_tointeger(L, a);
    s->step = lua_tointeger(L, b);
    s->first_float = luaL_checknumber(L, a);
    s->step_float = luaL_checknumber(L, b);
    return;
  }
  s->kind = strcmp(kind, "table") == 0 ? SOURCE_TABLE : strcmp(kind, "array") == 0 ? SOURCE_ARRAY : SOURCE_ITERATOR;
  if (s->kind == SOURCE_ITERATOR) lpace_begin(L, c, lua_isfunction(L, b) ? b : a);
  lua_pushvalue(L, a);
  s->reference = luaL_ref(L, LUA_REGISTRYINDEX);
}

static void read_into(struct call *c, lua_State *L, int options) {
  lua_getfield(L, options, "into");
  if (!lua_toboolean(L, -1)) {
    lua_pop(L, 1);
    return;
  }
  c->job.into_reference = luaL_ref(L, LUA_REGISTRYINDEX);
  c->work.flags |= BOARD_INTO;
  c->wants_results = 0;
}

/* ---- life ---- */

static struct call *new_call(lua_State *L, struct lpool *lp, enum call_mode mode) {
  struct call *c = lua_newuserdatauv(L, sizeof *c, CALL_VALUES);
  memset(c, 0, sizeof *c);
  c->lp = lp;
  c->mode = mode;
  c->number = c->job.number = ++lp->calls;
  c->failed_at = UINT64_MAX;
  c->item_reads = ITEM_READS;
  c->job.fn_reference = c->job.into_reference = c->job.source.reference = LUA_NOREF;
  c->out = &lp->out;
  luaL_setmetatable(L, LCALL_TYPE);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, CALL_HANDLE);
  return c;
}

/* The iterator of a lazy source may use the pool itself: what is half written then must be nobody else's. */
static void give_writer(lua_State *L, struct call *c) {
  c->writer = codec_open(L);
  lua_setiuservalue(L, -2, CALL_WRITER);
  c->out = &c->own_out;
  lua_rawgeti(L, LUA_REGISTRYINDEX, c->job.fn_reference);
  if (c->work.flags & BOARD_WRAPPED) (void)lua_getupvalue(L, -1, 1);
  codec_name_function(c->writer, L, lua_gettop(L));
  lua_pop(L, c->work.flags & BOARD_WRAPPED ? 2 : 1);
}

static void plan_work(lua_State *L, struct call *c) {
  int is_lazy;
  c->total = c->job.source.count;
  c->work.kind = lfill_kind(c);
  c->work.call = c->number;
  c->work.job = c->job.number;
  c->work.chunk = c->chunk;
  c->work.timeout_ns = c->timeout_ns;
  if (!c->wants_results) c->work.flags |= BOARD_NO_RESULTS;
  if (c->has_seconds) c->work.flags |= BOARD_SECONDS;
  if (c->mode == CALL_APPLY) c->work.flags |= BOARD_ALL_RESULTS | BOARD_ARGUMENTS;
  if (c->mode == CALL_BROADCAST) c->work.flags |= BOARD_ARGUMENTS;
  if (c->collects || c->retries || c->halt_failed || c->halt_failed_share > 0) c->work.flags |= BOARD_GO_ON;
  is_lazy = c->job.source.kind == SOURCE_ITERATOR;
  c->writer = c->lp->codec;
  if (is_lazy) give_writer(L, c);
}

struct call *lcall_open(lua_State *L, struct lpool *lp, int arguments, enum call_mode mode) {
  struct call *c = new_call(L, lp, mode);
  /* What the host printed comes before what its tasks print. Once that failed, leave it to the script's own writes to notice. */
  if (!ferror(stdout)) fflush(stdout);
  lua_pushvalue(L, arguments);
  c->job.fn_reference = luaL_ref(L, LUA_REGISTRYINDEX);
  read_options(c, L, arguments + FROM_OPTIONS);
  if (mode == CALL_APPLY || mode == CALL_BROADCAST) {
    c->job.source.count = mode == CALL_APPLY ? 1 : lp->n_workers;
  } else {
    read_source(c, L, arguments);
    read_into(c, L, arguments + FROM_OPTIONS);
  }
  plan_work(L, c);
  if (mode == CALL_ORDERED || mode == CALL_UNORDERED) {
    lua_newtable(L);
    lua_setiuservalue(L, -2, CALL_FRAMES);
  }
  return c;
}

static void chain(struct call **list, struct call *c) {
  c->next = *list;
  c->link = list;
  if (c->next) c->next->link = &c->next;
  *list = c;
}

static void unchain(struct call *c) {
  if (c->link == NULL) return;
  *c->link = c->next;
  if (c->next) c->next->link = c->link;
  c->link = NULL;
}

void lcall_link(lua_State *L, struct call *c, int index) {
  struct lpool *lp = c->lp;
  index = lua_absindex(L, index);
  lpool_push_value(L, lp, LPOOL_CALLS);
  lua_pushvalue(L, index);
  lua_rawseti(L, -2, (lua_Integer)c->number);
  lua_pop(L, 1);
  c->phase = CALL_OPEN;
  c->began_ns = os_now_ns();
  pool_set_open(lp->pool, 1);
  chain(&lp->open, c);
  c->job.next = lp->tasks.jobs;
  c->job.link = &lp->tasks.jobs;
  if (c->job.next) c->job.next->link = &c->job.next;
  lp->tasks.jobs = &c->job;
  if (c->deadline_ns) lp->n_judged++;
  if (c->mode == CALL_TABLE && c->work.kind == BOARD_BLOCK) {
    c->next_lazy = lp->lazy;
    lp->lazy = c;
  }
  lp->n_calls++;
}

static void unlink_lazy(struct call *c) {
  struct call **at;
  if (c->mode != CALL_TABLE || c->work.kind != BOARD_BLOCK) return;
  for (at = &c->lp->lazy; *at != NULL; at = &(*at)->next_lazy) {
    if (*at != c) continue;
    *at = c->next_lazy;
    break;
  }
}

static void unreference(lua_State *L, int *reference) {
  luaL_unref(L, LUA_REGISTRYINDEX, *reference);
  *reference = LUA_NOREF;
}

/* The pool's table of calls is on top. The call's own userdata may live on, as a future. */
static void drop_shared(lua_State *L, struct call *c) {
  if (lua_rawgeti(L, -1, (lua_Integer)c->number) == LUA_TUSERDATA) {
    lua_pushnil(L);
    lua_setiuservalue(L, -2, CALL_SHARED);
  }
  c->n_shared = 0;
  lua_pop(L, 1);
}

/* Give everything back but the results. Does not raise: what is set to nil exists. */
void lcall_release(lua_State *L, struct call *c) {
  struct lpool *lp = c->lp;
  unchain(c);
  unlink_lazy(c);
  if (c->job.link) {
    *c->job.link = c->job.next;
    if (c->job.next) c->job.next->link = c->job.link;
    c->job.link = NULL;
  }
  unreference(L, &c->job.fn_reference);
  unreference(L, &c->job.source.reference);
  unreference(L, &c->job.into_reference);
  lsend_release(lp, &c->sent); /* (its memory went with the pool, if that is gone) */
  if (lp->pool) pool_trim(lp->pool);
  if (c->phase != CALL_NEW) {
    lpool_push_value(L, lp, LPOOL_CALLS);
    if (lua_istable(L, -1)) { /* not while the handle is being collected */
      drop_shared(L, c);
      lua_pushnil(L);
      lua_rawseti(L, -2, (lua_Integer)c->number);
    }
    lua_pop(L, 1);
  }
  c->phase = CALL_OVER;
  lp->must_settle = 1;
}

void lcall_push(lua_State *L, const struct call *c) {
  lpool_push_value(L, c->lp, LPOOL_CALLS);
  lua_rawgeti(L, -1, (lua_Integer)c->number);
  lua_remove(L, -2);
}

struct call *lcall_find(lua_State *L, struct lpool *lp, uint64_t number) {
  lpool_push_value(L, lp, LPOOL_CALLS);
  if (lua_rawgeti(L, -1, (lua_Integer)number) != LUA_TUSERDATA) {
    lua_pop(L, 2);
    return NULL;
  }
  lua_remove(L, -2);
  return lua_touserdata(L, -1);
}

void lcall_name(lua_State *L, struct call *c) {
  struct lpool *lp = c->lp;
  if (lp->named == c->number) return;
  lua_rawgeti(L, LUA_REGISTRYINDEX, c->job.fn_reference);
  if (c->work.flags & BOARD_WRAPPED) {
    (void)lua_getupvalue(L, -1, 1);
    lua_remove(L, -2);
  }
  codec_name_function(lp->codec, L, lua_gettop(L));
  lua_pop(L, 1);
  lp->named = c->number;
}

/* ---- how it ends ---- */

static int tolerates_failures(const struct call *c) {
  return c->collects || c->halt_failed || c->halt_failed_share > 0;
}

static int reaches(uint64_t count, uint64_t limit, double share, uint64_t total) {
  if (limit && count >= limit) return 1;
  return share > 0 && total != UINT64_MAX && count > 0 && (double)count >= share * (double)total;
}

static int is_halted(const struct call *c) {
  return reaches(c->n_errors, c->halt_failed, c->halt_failed_share, c->total) ||
         reaches(c->settled - c->n_errors, c->halt_done, c->halt_done_share, c->total);
}

int lcall_is_satisfied(const struct call *c) {
  return c->total != UINT64_MAX && c->settled >= c->total;
}

/* Tell whoever asked to be told. */
static void announce(lua_State *L, struct call *c) {
  struct lpool *lp = c->lp;
  if (!c->wants_callback || c->phase == CALL_NEW || lp->pool == NULL) return;
  c->wants_callback = 0;
  lpool_push_value(L, lp, LPOOL_READY);
  lcall_push(L, c);
  lua_rawseti(L, -2, ++lp->n_ready);
  lua_pop(L, 1);
}

/* The call has all its items: how long has the worker been idle who was out of work first? */
static void note_tail(struct call *c) {
  struct lpool *lp = c->lp;
  int64_t first = INT64_MAX;
  uint32_t i;
  if (c->mode == CALL_APPLY || lp->seen_ns == NULL) return;
  for (i = 0; i < lp->capacity; i++) {
    int64_t ended;
    if (lp->seen_ns[i] < c->began_ns) continue;
    ended = pool_rests_since(lp->pool, i); /* the truth, where it is to be had: results may have been read late */
    if (ended < c->began_ns || ended > lp->seen_ns[i]) ended = lp->seen_ns[i];
    if (ended < first) first = ended;
  }
  if (first != INT64_MAX) lp->tail_ns += os_now_ns() - first;
}

void lcall_conclude(lua_State *L, struct call *c, enum call_outcome outcome, int64_t grace_ns) {
  struct lpool *lp = c->lp;
  int is_all_done = lcall_is_satisfied(c) || c->written == c->settled;
  if (c->phase != CALL_OPEN) return;
  c->outcome = outcome;
  lp->n_concluded++;
  if (lp->pool) pool_set_open(lp->pool, -1);
  if (outcome == OUTCOME_DONE && lp->pool) note_tail(c);
  announce(L, c);
  if (c->deadline_ns || c->is_halting) lp->n_judged--;
  c->phase = CALL_ENDING;
  unchain(c);
  if (lp->pool && !is_all_done) {
    c->kill_ns = os_now_ns() + grace_ns;
    pool_cancel(lp->pool, c->number, c->kill_ns);
    chain(&lp->ending, c);
    if (!pool_is_quiet(lp->pool, c->number)) return;
  }
  lcall_release(L, c);
}

void lcall_settle_ending(lua_State *L, struct lpool *lp) {
  struct call *c, *next;
  for (c = lp->ending; c != NULL; c = next) {
    next = c->next;
    if (pool_is_quiet(lp->pool, c->number)) lcall_release(L, c);
  }
}

COLD void lcall_set_problem(lua_State *L, struct call *c) {
  if (lua_isnil(L, -1)) { /* which would be none */
    lua_pop(L, 1);
    lua_pushliteral(L, "(error object is a nil value)");
  }
  lcall_push(L, c);
  lua_insert(L, -2);
  lua_setiuservalue(L, -2, CALL_PROBLEM);
  lua_pop(L, 1);
}

void lcall_fail(lua_State *L, struct call *c) {
  lcall_set_problem(L, c);
  lcall_conclude(L, c, OUTCOME_PROBLEM, c->lp->grace_ns);
}

COLD void lcall_raise_ended(lua_State *L, const struct lpool *lp) {
  const char *message = "the call was cancelled";
  if (lp->is_terminated) {
    message = "the pool was terminated during the call";
  } else if (lp->pool == NULL) {
    message = "the pool was closed during the call";
  }
  lerror_push_new(L, NULL, "cancelled", message);
  lua_error(L);
}

static void fail_for_deadline(lua_State *L, struct call *c) {
  lerror_push_new(L, NULL, "timeout", "");
  lua_pushfstring(L, "the call took longer than %f s (deadline)", (lua_Number)c->deadline_after_ns / NS_PER_S);
  lua_setfield(L, -2, "message");
  lcall_fail(L, c);
}

/* There have been as many failures or successes as the user wants. */
static void halt(lua_State *L, struct call *c) {
  if (!c->halts_soon || pool_is_drained(c->lp->pool, c->number)) {
    lcall_conclude(L, c, c->collects || c->n_errors == 0 ? OUTCOME_DONE : OUTCOME_FAILED, c->lp->grace_ns);
  } else if (!c->is_halting) {
    c->is_halting = 1;
    if (!c->deadline_ns) c->lp->n_judged++;
    pool_drain(c->lp->pool, c->number);
    halt(L, c);
  }
}

void lcall_judge(lua_State *L, struct call *c) {
  int is_stream = c->mode == CALL_ORDERED || c->mode == CALL_UNORDERED;
  if (c->phase != CALL_OPEN) return;
  if (c->deadline_ns && os_now_ns() >= c->deadline_ns) {
    fail_for_deadline(L, c);
  } else if (c->is_halting || is_halted(c)) {
    halt(L, c);
  } else if (c->failed_at != UINT64_MAX && !tolerates_failures(c) && !is_stream) {
    lcall_conclude(L, c, OUTCOME_FAILED, c->lp->grace_ns);
  } else if (lcall_is_satisfied(c)) {
    lcall_conclude(L, c, c->n_errors && !c->collects && !is_stream ? OUTCOME_FAILED : OUTCOME_DONE, 0);
  }
}

/* ---- as a Lua object ---- */

/* Open calls are anchored: what is collected is over, or was never begun (its arguments were wrong, or memory ran out). */
static int call_gc(lua_State *L) {
  struct call *c = lua_touserdata(L, 1);
  bytes_free(&c->own_out);
  if (c->phase != CALL_NEW) return 0;
  if (c->lp) lsend_release(c->lp, &c->sent);
  unreference(L, &c->job.fn_reference);
  unreference(L, &c->job.source.reference);
  unreference(L, &c->job.into_reference);
  return 0;
}

static const char *status_of(const struct call *c) {
  if (c->outcome == OUTCOME_DONE) return "done";
  if (c->outcome == OUTCOME_CANCELLED) return "cancelled";
  if (c->outcome == OUTCOME_FAILED || c->outcome == OUTCOME_PROBLEM) return "error";
  if (c->settled > 0 || (c->lp->pool && pool_has_claim(c->lp->pool, c->number))) return "running";
  return "pending";
}

/* call:status() -> "pending" | "running" | "done" | "error" | "cancelled"; call-level: what the error was, call:outcome() tells */
static int call_status(lua_State *L) {
  lua_pushstring(L, status_of(lcall_check(L)));
  return 1;
}

/* call:outcome() -> results, n, errors, problem: what there is (valid when over) */
static int call_outcome(lua_State *L) {
  struct call *c = lcall_check(L);
  lua_getiuservalue(L, 1, CALL_RESULTS);
  lua_pushinteger(L, (lua_Integer)(c->total == UINT64_MAX ? c->written : c->total));
  lua_getiuservalue(L, 1, CALL_ERRORS);
  lua_getiuservalue(L, 1, CALL_PROBLEM);
  return 4;
}

/* call:number() -> what the lines that its tasks print are marked with */
static int call_number(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)lcall_check(L)->number);
  return 1;
}

/* call:progress() -> settled, total or nil, failed */
static COLD int call_progress(lua_State *L) {
  const struct call *c = lcall_check(L);
  lua_pushinteger(L, (lua_Integer)c->settled);
  if (c->total == UINT64_MAX) {
    lua_pushnil(L);
  } else {
    lua_pushinteger(L, (lua_Integer)c->total);
  }
  lua_pushinteger(L, (lua_Integer)c->n_errors);
  return 3;
}

/* call:cancel() -> boolean: what has not run is dropped, what runs is interrupted; false: it was over already. Does not wait. */
static COLD int call_cancel(lua_State *L) {
  struct call *c = own_call(L);
  int was_open = c->phase == CALL_OPEN;
  if (was_open) lcall_conclude(L, c, OUTCOME_CANCELLED, c->lp->grace_ns);
  lua_pushboolean(L, was_open);
  return 1;
}

/* call:stop([reason]): cancel, and wait until no worker is in it (after the pool's grace it is killed); reason: the error that ends it */
static COLD int call_stop(lua_State *L) {
  struct call *c = own_call(L);
  lua_settop(L, 2);
  if (c->phase == CALL_OPEN) lcall_conclude(L, c, OUTCOME_CANCELLED, c->lp->grace_ns);
  if (c->phase == CALL_ENDING) lpump_finish(L, c->lp, c, delivery_is_interrupt(L, 2));
  lpump_settle(L, c->lp);
  if (c->lp->pool) loutput_turn_protected(c->lp, L);
  return 0;
}

/* call:notify(): when the call is over, handle:ready() will return it */
static int call_notify(lua_State *L) {
  struct call *c = own_call(L);
  c->wants_callback = 1;
  return 0;
}

/*
 * call:next([timeout]) -> values, first, n | nil, index, 1, error | nothing at the end | false: timeout seconds have passed
 * The next frame of a stream. Blocks; raises interrupts, what the source raised (after the results before it), the deadline,
 * and that somebody else cancelled the call.
 */
static int call_next(lua_State *L) {
  struct call *c = own_call(L);
  lua_Number seconds = luaL_optnumber(L, 2, -1);
  int64_t until = seconds < 0 ? -1 : os_now_ns() + os_ns_of(seconds);
  lua_settop(L, 1);
  c->in_hand = 0;
  while (c->outcome != OUTCOME_CANCELLED) {
    int n = ltake_pop_frame(L, c);
    int64_t rest;
    if (n > 0) {
      if (!lpace_can_wait(c)) lfill_more(L, c);
      return n;
    }
    if (c->phase != CALL_OPEN) break;
    rest = lpace_rest(c);
    if (rest <= os_now_ns()) lfill_more(L, c);
    lpump_work(L, c->lp);
    if (ltake_has_frame(L, c) || c->phase != CALL_OPEN) continue;
    if (until >= 0 && os_now_ns() >= until) {
      lua_pushboolean(L, 0);
      return 1;
    }
    rest = lpace_rest(c);
    if (rest <= os_now_ns()) rest = 0;
    lpump_sleep(L, c->lp, rest && (until < 0 || rest < until) ? rest : until);
  }
  if (lua_getiuservalue(L, 1, CALL_PROBLEM) != LUA_TNIL) return lua_error(L);
  if (c->outcome == OUTCOME_CANCELLED) lcall_raise_ended(L, c->lp);
  return 0;
}

COLD void lcall_open_library(lua_State *L) {
  luaL_newmetatable(L, LCALL_TYPE);
  lclass_add(L, "__gc", call_gc);
  lua_createtable(L, 0, 8);
  lclass_add(L, "status", call_status);
  lclass_add(L, "outcome", call_outcome);
  lclass_add(L, "progress", call_progress);
  lclass_add(L, "cancel", call_cancel);
  lclass_add(L, "stop", call_stop);
  lclass_add(L, "notify", call_notify);
  lclass_add(L, "next", call_next);
  lclass_add(L, "number", call_number);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}
