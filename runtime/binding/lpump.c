/*
 * binding/lpump -- the wait: one turn serves all calls of a pool, whoever waits.
 *
 * Room: binding (may include binding/lcall.h, binding/lpool.h, binding/ltrace.h and binding/loutput.h).  Owns: nothing.
 * Order within a turn: interrupts, forks, what came back, what is to be written, deadlines, the hook (callbacks, progress), forks again.
 */
#include <errno.h>
#include <lauxlib.h>
#include <string.h>

#include "base/os.h"
#include "binding/lcall.h"
#include "binding/ltrace.h"
#include "job/boot.h"
#include "job/delivery.h"
#include "process/interrupt.h"

enum {
  ATTENTION_NS = 500 * 1000,       /* while a call is being ended: look again this often */
  UNKILLABLE_NS = 1000 * 1000 * 1000, /* a killed worker that is not gone by then hangs in the kernel */
  EVENTS_PER_LOOK = 64,
  ENDING_NS = 10 * 1000 * 1000     /* while calls end, somebody else's loop looks this often */
};

/* ---- interrupts ---- */

/*
 * A signal came that is not ours to handle. Under the stock interpreter it has set its hook on this state: give the hook a call to fire at.
 */
static int nothing(lua_State *L) {
  (void)L;
  return 0;
}

static void let_hooks_run(lua_State *L) {
  if (lua_gethook(L) == NULL) return;
  lua_pushcfunction(L, nothing);
  lua_call(L, 0, 0);
}

void lpump_checkpoint(lua_State *L) {
  if (interrupt_pending() && delivery_checkpoint(L)) luaL_error(L, "cancelled: an interrupt is pending");
}

/* ---- forks ---- */

/* How many workers the open calls can use. */
static uint32_t wanted_workers(const struct lpool *lp) {
  uint64_t wanted = 0;
  const struct call *c;
  for (c = lp->open; c != NULL && wanted < lp->n_workers; c = c->next) {
    uint64_t left = c->total == UINT64_MAX ? UINT64_MAX : c->total - c->settled;
    if (c->buffer && c->buffer < left) left = c->buffer;
    wanted += left < lp->n_workers ? left : lp->n_workers;
  }
  return wanted < lp->n_workers ? (uint32_t)wanted : lp->n_workers;
}

static void refuse_threads(lua_State *L, const struct lpool *lp) {
  int n;
  if (lp->may_have_threads || !os_has_threads()) return;
  n = os_threads();
  luaL_error(L, "cannot fork workers: this process has %d threads, and a copy of it would have one (use start = \"server\")", n);
}

#define CANNOT_START "cannot start workers: "

/* Without a place: where it came to that, amid a loop over an iterator, is ours, and nobody's mistake. */
static void fail_to_start(lua_State *L, const char *what, const char *why) {
  lua_pushfstring(L, "%s%s", what, why);
  lua_error(L);
}

/* What workers that are no copies of this process need to begin goes to input memory, once. */
static void write_boot(lua_State *L, struct lpool *lp) {
  uint64_t offset;
  void *memory;
  int status;
  if (lp->has_boot) return;
  bytes_clear(&lp->boot);
  status = boot_write(lp->sender, L, &lp->boot, &lp->tasks);
  if (status < 0) lsend_refuse(L, lp);
  status = pool_input(lp->pool, lp->boot.length, &offset, &memory);
  if (status < 0) fail_to_start(L, "no memory to start workers: ", strerror(-status));
  memcpy(memory, lp->boot.data, lp->boot.length);
  pool_set_boot(lp->pool, offset, lp->boot.length);
  bytes_free(&lp->boot);
  lp->has_boot = 1;
}

/*
 * Nobody can tell how many workers there were: those of a call alone, whose items were all posted before the first was forked, without
 * functions that run in each, and without a record.
 */
static int is_frugal(const struct lpool *lp) {
  const struct call *c = lp->open;
  if (!lp->is_one_shot || lp->record || lp->tasks.on_start != LUA_NOREF || lp->tasks.on_exit != LUA_NOREF) return 0;
  return c && c->next == NULL && c->mode == CALL_TABLE && c->work.kind == BOARD_INDEXED;
}

static void start(lua_State *L, struct lpool *lp, uint32_t wanted) {
  int status, is_first = pool_living(lp->pool) == 0;
  if (lp->is_terminated) lcall_raise_ended(L, lp);
  if (wanted == 0) return;
  pool_set_frugal(lp->pool, is_frugal(lp));
  if (lpool_has_recruits(lp)) {
    write_boot(L, lp);
  } else if (pool_needs_start(lp->pool, wanted)) {
    refuse_threads(L, lp);
    task_provide(L, &lp->tasks);
    if (is_first && !lp->is_one_shot) codec_know_globals(lp->sender, L); /* what they inherit: functions are sent to them later */
  }
  status = pool_start(lp->pool, wanted, is_first);
  if (status == -EINTR) lpump_checkpoint(L);
  if (status >= 0) return;
  if (status == -ESRCH) fail_to_start(L, CANNOT_START, "the early copy of this program, from which they are forked, is gone");
  if (*pool_complaint(lp->pool)) fail_to_start(L, CANNOT_START, pool_complaint(lp->pool));
  fail_to_start(L, lpool_has_recruits(lp) ? CANNOT_START : CANNOT_START "fork: ", strerror(-status));
}

void lpump_start(lua_State *L, struct lpool *lp) {
  start(L, lp, wanted_workers(lp));
}

void lpump_start_all(lua_State *L, struct lpool *lp) {
  start(L, lp, lp->n_workers);
}

/* ---- what came back ---- */

/* (lpool): take all that is there. */
static int take_all(lua_State *L) {
  struct lpool *lp = lua_touserdata(L, 1);
  struct pool_event event;
  int turns = 0;
  if (!ltake_rest(L, lp)) return 0;
  lua_settop(L, LTAKE_CALLS - 1);
  lpool_push_value(L, lp, LPOOL_CALLS);
  while (lp->pool) {
    pool_hurry(lp->pool, lp->rest_at_ns != 0);
    if (pool_next(lp->pool, &event) != POOL_NOTHING) ltake_event(L, lp, &event);
    else if (!pool_has_more(lp->pool)) return 0;
    if (lp->part.is_open || (++turns % EVENTS_PER_LOOK == 0 && interrupt_pending())) return 0;
    if (lp->rest_at_ns && os_now_ns() >= lp->rest_at_ns) return 0;
  }
  return 0;
}

/* The error on top came while an event was taken: it ends the call concerned (which is told), or is nobody's. 1: a call's. */
static int blame_call(lua_State *L, struct lpool *lp) {
  struct call *c = lp->taking;
  lp->taking = NULL;
  if (c == NULL || c->phase != CALL_OPEN) return 0;
  if (delivery_is_interrupt(L, -1)) { /* it is told once: to whoever waits */
    lcall_conclude(L, c, OUTCOME_CANCELLED, lp->grace_ns);
    return 0;
  }
  lua_pushvalue(L, -1);
  lcall_fail(L, c);
  return 1;
}

static int take(lua_State *L, struct lpool *lp) {
  if (lp->taking) luaL_error(L, "the pool cannot be used here: it is reading a result");
  lua_pushcfunction(L, take_all);
  lua_pushlightuserdata(L, lp);
  return lua_pcall(L, 1, 0, 0);
}

static void take_events(lua_State *L, struct lpool *lp) {
  int64_t began = os_now_ns(), ended;
  int status = take(L, lp);
  ended = os_now_ns();
  lp->decode_ns += ended - began;
  if (lp->pool) pool_note(lp->pool, EVENT_READ, began, ended);
  if (lp->record) ltrace_check(L, lp->record);
  if (status != LUA_OK) {
    if (!blame_call(L, lp)) lua_error(L);
    lua_pop(L, 1);
  }
  if (pool_status(lp->pool) < 0) luaL_error(L, "the pool cannot go on: %s", strerror(-pool_status(lp->pool)));
}

void lpump_take_protected(lua_State *L, struct lpool *lp) {
  int status;
  if (lp->taking) return;
  delivery_shield(1); /* nobody here could pass an interrupt on */
  status = take(L, lp);
  delivery_shield(-1);
  if (status == LUA_OK) return;
  (void)blame_call(L, lp);
  lua_pop(L, 1);
}

void lpump_settle(lua_State *L, struct lpool *lp) {
  if (!lp->must_settle || lp->pool == NULL || lp->taking) return;
  lp->must_settle = 0;
  lpump_take_protected(L, lp);
  loutput_settle(lp, L);
}

/* ---- the turn ---- */

/* Calls with a lazy source whose results are wanted all at once. The iterators may open and end calls: begin anew after each. */
static void fill_lazy(lua_State *L, struct lpool *lp) {
  struct call *c;
  uint64_t last = UINT64_MAX; /* newest first, by number */
  lp->is_fed = 1;
  for (;;) {
    for (c = lp->lazy; c != NULL && c->number >= last; c = c->next_lazy) continue;
    if (c == NULL) return;
    last = c->number;
    lcall_push(L, c);
    lfill_more(L, c);
    lua_pop(L, 1);
  }
}

static void judge_calls(lua_State *L, struct lpool *lp) {
  struct call *c, *next;
  if (lp->n_judged == 0) return;
  for (c = lp->open; c != NULL; c = next) {
    next = c->next;
    if (c->deadline_ns || c->is_halting) lcall_judge(L, c);
  }
}

static void run_hook(lua_State *L, struct lpool *lp) {
  int status;
  if (lp->is_in_hook || !lp->has_hook) return;
  if (lp->n_ready == lp->n_taken && !(lp->tick_ns && os_now_ns() >= lp->next_tick_ns)) return;
  if (lp->tick_ns) lp->next_tick_ns = os_now_ns() + lp->tick_ns;
  lp->is_in_hook = 1;
  lpool_push_value(L, lp, LPOOL_HOOK);
  status = lua_pcall(L, 0, 0, 0);
  lp->is_in_hook = 0;
  if (status != LUA_OK) lua_error(L);
}

static void check_alive(lua_State *L, struct lpool *lp) {
  if (lp->is_terminated) lpool_settle(lp, L); /* by a callback or a source */
  if (lp->pool == NULL || lp->is_terminated) lcall_raise_ended(L, lp);
}

void lpump_work(lua_State *L, struct lpool *lp) {
  check_alive(L, lp);
  lpump_checkpoint(L);
  lpump_start(L, lp);
  take_events(L, lp);
  if (lp->lazy) fill_lazy(L, lp);
  check_alive(L, lp);
  judge_calls(L, lp);
  if (lp->ending) lcall_settle_ending(L, lp);
  lpump_settle(L, lp);
  loutput_turn(lp, L);
  check_alive(L, lp);
  run_hook(L, lp);
  check_alive(L, lp);
  lpump_start(L, lp); /* once more: nobody may wait for those who have just been found dead */
}

/* The earliest time at which something is to be done that nobody rings for. */
static int64_t next_deadline(const struct lpool *lp, int64_t until_ns) {
  const struct call *c;
  if (lp->tick_ns && lp->has_hook && (until_ns < 0 || lp->next_tick_ns < until_ns)) until_ns = lp->next_tick_ns;
  if (lp->n_judged == 0) return until_ns;
  for (c = lp->open; c != NULL; c = c->next)
    if (c->deadline_ns && (until_ns < 0 || c->deadline_ns < until_ns)) until_ns = c->deadline_ns;
  return until_ns;
}

/* Nobody asks for any result before all are there: not the verb, no callback or display, no limit to count against, no log, no printer. */
static int is_patient(const struct lpool *lp) {
  const struct call *c = lp->open;
  if (c == NULL || c->next != NULL || lp->ending != NULL || lp->tick_ns || loutput_kind(&lp->output) == OUTPUT_ITEMS) return 0;
  if (c->mode != CALL_TABLE || c->total == UINT64_MAX || c->wants_callback || c->has_seconds) return 0;
  return !(c->halt_failed || c->halt_done || c->halt_failed_share > 0 || c->halt_done_share > 0);
}

void lpump_rest(struct lpool *lp) {
  int64_t until_ns = lp->ending ? os_now_ns() + ENDING_NS : -1;
  if (lp->pool && lp->depth == 0) pool_rest(lp->pool, lp->open ? next_deadline(lp, until_ns) : until_ns);
}

void lpump_sleep(lua_State *L, struct lpool *lp, int64_t until_ns) {
  int64_t began = os_now_ns(), ended;
  int status;
  until_ns = next_deadline(lp, until_ns);
  if (interrupt_pending()) return;
  if (lp->lazy && !lp->is_fed) return; /* room was made for more items since (by a callback's wait, or when a call settled) */
  pool_set_patience(lp->pool, is_patient(lp));
  status = pool_wait(lp->pool, lp->wake_fd >= 0 ? lp->wake_fd : interrupt_fd(), until_ns);
  pool_set_patience(lp->pool, 0);
  ended = os_now_ns();
  lp->wait_ns += ended - began;
  pool_note(lp->pool, EVENT_SLEEP, began, ended);
  if (status == -EINTR && !interrupt_pending()) let_hooks_run(L);
}

void lpump_finish(lua_State *L, struct lpool *lp, struct call *c, int obeys) {
  int64_t until = -1;
  interrupt_ending(1);
  if (obeys) interrupt_obeying(1);
  while (c->phase == CALL_ENDING && lp->pool != NULL) {
    int64_t now;
    lpump_take_protected(L, lp);
    lcall_settle_ending(L, lp);
    if (c->phase != CALL_ENDING) break;
    now = os_now_ns();
    if (until < 0 && (interrupt_is_urgent() || now >= c->kill_ns)) {
      pool_kill_stragglers(lp->pool, c->number);
      until = now + UNKILLABLE_NS;
    } else if (until >= 0 && now >= until) {
      break; /* it cannot be killed (a dead file system): it is abandoned with the pool */
    }
    (void)pool_wait(lp->pool, -1, now + ATTENTION_NS);
  }
  if (obeys) interrupt_obeying(-1);
  interrupt_ending(-1);
}
