/* binding/lpool -- see lpool.h (may include binding/lcall.h, binding/lclass.h, binding/lerror.h, binding/learly.h,
 * binding/lhelper.h and binding/ltrace.h). */
#include "binding/lpool.h"

#include <errno.h>
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/os.h"
#include "binding/lcall.h"
#include "binding/lclass.h"
#include "binding/learly.h"
#include "binding/lerror.h"
#include "binding/lhelper.h"
#include "binding/ltrace.h"
#include "job/delivery.h"
#include "process/interrupt.h"
#include "process/process.h"

#define NS_PER_S 1e9

enum { LEAST_CAPACITY = 8, FORCED_WAIT_MS = 1000, CLOSE_TURN_MS = 50 };

/* ---- handles ---- */

struct lpool *lpool_check(lua_State *L, const char *method) {
  struct lpool *lp = luaL_checkudata(L, 1, LPOOL_TYPE);
  if (lp->owner != getpid()) {
    luaL_error(L, "cannot use '%s' here: the pool belongs to process %d, this is process %d", method, lp->owner, (int)getpid());
  }
  if (lp->pool == NULL) luaL_error(L, "cannot use '%s': the pool is closed", method);
  return lp;
}

static void unreference(lua_State *L, int *reference) {
  luaL_unref(L, LUA_REGISTRYINDEX, *reference);
  *reference = LUA_NOREF;
}

/* The address of this is the registry key of { [lp] = handle }, weak. */
static char handles_key;

int lpool_push_handles(lua_State *L) {
  return lua_rawgetp(L, LUA_REGISTRYINDEX, &handles_key) == LUA_TTABLE;
}

void lpool_push_value(lua_State *L, const struct lpool *lp, enum lpool_value which) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &handles_key);
  lua_rawgetp(L, -1, lp);
  if (lua_isuserdata(L, -1)) {
    lua_getiuservalue(L, -1, which);
  } else {
    lua_pushnil(L);
  }
  lua_insert(L, -3);
  lua_pop(L, 2);
}

/* Make the handle at the top known to lpool_push_value. */
static void note_handle(lua_State *L, const struct lpool *lp) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &handles_key) == LUA_TNIL) {
    lua_pop(L, 1);
    lua_newtable(L);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "v");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &handles_key);
  }
  lua_pushvalue(L, -2);
  lua_rawsetp(L, -2, lp);
  lua_pop(L, 1);
}

void lpool_cancel_calls(struct lpool *lp, lua_State *L, int64_t grace_ns) {
  while (lp->open != NULL) lcall_conclude(L, lp->open, OUTCOME_CANCELLED, grace_ns);
}

/* The pool is gone: whoever is in a call is, too. */
static void drop_calls(lua_State *L, struct lpool *lp) {
  lpool_cancel_calls(lp, L, 0);
  while (lp->ending != NULL) lcall_release(L, lp->ending);
}

/* ---- what it came to ---- */

static void set_integer(lua_State *L, const char *name, lua_Integer value) {
  lua_pushinteger(L, value);
  lua_setfield(L, -2, name);
}

static void set_seconds(lua_State *L, const char *name, int64_t ns) {
  lua_pushnumber(L, (lua_Number)ns / NS_PER_S);
  lua_setfield(L, -2, name);
}

/* Into the table on top: what a worker, or all of them, came to. */
static void set_work(lua_State *L, const struct pool_worker_info *info) {
  set_integer(L, "items", (lua_Integer)info->items);
  set_integer(L, "chunks", (lua_Integer)info->claims);
  set_seconds(L, "busy", info->busy_ns);
  set_seconds(L, "idle", info->idle_ns);
  set_seconds(L, "encode", info->encode_ns);
  set_seconds(L, "wait", info->wait_ns);
  if (info->peak_bytes) set_integer(L, "peak", (lua_Integer)info->peak_bytes);
}

/* Push { { id, pid, items, chunks, busy, idle, encode, wait, bytes, peak, item, since }, ... }: those that live, or ever did anything. */
static void push_workers(lua_State *L, struct lpool *lp, int only_living) {
  lua_Integer n = 0;
  uint32_t i;
  lua_newtable(L);
  for (i = 0; i < lp->capacity; i++) {
    struct pool_worker_info info;
    pool_info(lp->pool, i, &info);
    if (info.pid == 0 && (only_living || info.busy_ns == 0)) continue;
    lua_createtable(L, 0, 12);
    set_integer(L, "id", (lua_Integer)i + 1);
    if (info.pid) set_integer(L, "pid", info.pid);
    set_work(L, &info);
    set_integer(L, "bytes", (lua_Integer)info.bytes);
    if (info.item != UINT64_MAX) {
      set_integer(L, "item", (lua_Integer)info.item + 1);
      set_seconds(L, "since", os_now_ns() - info.since_ns);
    }
    lua_rawseti(L, -2, ++n);
  }
}

/* Push a table: see PoolMethods:stats in lua/luapool/pool.lua. */
static void push_stats(lua_State *L, struct lpool *lp) {
  static const char *const methods[] = {[POOL_FORK] = "fork", [POOL_SERVER] = "server", [POOL_SPAWN] = "spawn", [POOL_EARLY] = "early"};
  struct pool_worker_info sum;
  pool_collect(lp->pool);
  pool_totals(lp->pool, &sum);
  lua_createtable(L, 0, 20);
  lua_pushstring(L, methods[lp->start]);
  lua_setfield(L, -2, "start");
  set_integer(L, "calls", (lua_Integer)lp->n_calls);
  set_integer(L, "forks", (lua_Integer)pool_forks(lp->pool));
  set_integer(L, "sent", (lua_Integer)lp->n_sent);
  set_integer(L, "renewed", (lua_Integer)lp->n_renewed);
  set_integer(L, "retries", (lua_Integer)lp->n_retries);
  set_integer(L, "crashes", (lua_Integer)lp->n_crashes);
  set_integer(L, "bytes_in", (lua_Integer)lp->bytes_in);
  set_integer(L, "bytes_out", (lua_Integer)sum.bytes);
  set_seconds(L, "elapsed", pool_open_ns(lp->pool));
  set_seconds(L, "tail", lp->tail_ns);
  set_work(L, &sum);
  lua_createtable(L, 0, 3);
  set_seconds(L, "decode", lp->decode_ns);
  set_seconds(L, "wait", lp->wait_ns);
  set_seconds(L, "encode", lp->encode_ns);
  lua_setfield(L, -2, "host");
  push_workers(L, lp, 0);
  lua_setfield(L, -2, "workers");
}

/* (lpool): its record keeps what it came to. */
static int keep_stats(lua_State *L) {
  struct lpool *lp = lua_touserdata(L, 1);
  push_stats(L, lp);
  lua_rawgeti(L, LUA_REGISTRYINDEX, lp->record_reference);
  ltrace_keep_stats(L);
  return 0;
}

static void keep_stats_protected(lua_State *L, struct lpool *lp) {
  if (lp->record == NULL || lp->pool == NULL || lp->owner != getpid()) return;
  lua_pushcfunction(L, keep_stats);
  lua_pushlightuserdata(L, lp);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) lua_pop(L, 1);
}

static void free_handle(lua_State *L, struct lpool *lp) {
  struct pool *pool = lp->pool;
  keep_stats_protected(L, lp);
  lp->pool = NULL;
  lp->is_freed = 1;
  drop_calls(L, lp);
  lsend_release(lp, &lp->sent);
  if (lp->owner == getpid()) {
    pool_close(pool);
  } else if (pool) {
    pool_abandon(pool);
  }
  ltrace_check(L, lp->record);
  lp->record = NULL;
  loutput_close(&lp->output, L);
  bytes_free(&lp->out);
  bytes_free(&lp->boot);
  free(lp->seen_ns);
  lp->seen_ns = NULL;
  if (lp->owner == getpid()) task_withdraw(L, &lp->tasks); /* in a worker they are what it works with */
  unreference(L, &lp->tasks.on_start);
  unreference(L, &lp->tasks.on_exit);
  unreference(L, &lp->codec_reference);
  unreference(L, &lp->sender_reference);
  unreference(L, &lp->record_reference);
  lp->codec = lp->sender = NULL;
}

static int option_function(lua_State *L, int options, const char *name) {
  if (lua_getfield(L, options, name) == LUA_TFUNCTION) return luaL_ref(L, LUA_REGISTRYINDEX);
  lua_pop(L, 1);
  return LUA_NOREF;
}

static lua_Number option_number(lua_State *L, int options, const char *name, lua_Number none) {
  lua_Number value = lua_getfield(L, options, name) == LUA_TNUMBER ? lua_tonumber(L, -1) : none;
  lua_pop(L, 1);
  return value;
}

/*
 * "auto": by fork while that is safe. A copy that was made for the purpose goes before either: it is the same one whenever a pool is made.
 */
static void read_start(lua_State *L, int options, struct lpool *lp) {
  static const char *const names[] = {"fork", "server", "spawn", "auto", NULL};
  static const enum pool_start_method methods[] = {POOL_FORK, POOL_SERVER, POOL_SPAWN};
  int which, is_command = lhelper_is_command(L);
  lua_getfield(L, options, "start");
  which = luaL_checkoption(L, -1, "auto", names);
  lua_pop(L, 1);
  if ((which == 0 || which == 3) && (lp->early = learly_find(L)) != NULL) {
    lp->start = POOL_EARLY;
    lua_pop(L, 1);
  } else if (which < 3) {
    lp->start = methods[which];
  } else {
#ifdef __APPLE__
    lp->start = is_command ? POOL_FORK : POOL_SERVER; /* its own libraries do not survive a fork */
#else
    lp->start = is_command || !os_has_threads() ? POOL_FORK : POOL_SERVER;
#endif
    lp->may_have_threads = is_command;
  }
}

/* What workers that are no copies of this process need; the strings stay in lp->boot and `path` until pool_open has copied them. */
static void read_helper(lua_State *L, int index, struct lpool *lp, struct pool_options *options, char path[LHELPER_PATH_BYTES]) {
  options->start = lp->start;
  options->early = lp->early;
  if (lp->start == POOL_FORK || lp->start == POOL_EARLY) return;
  lua_getfield(L, index, "helper");
  lhelper_find(L, lua_tostring(L, -1), path);
  lua_pop(L, 1);
  lhelper_config(L, &lp->boot);
  options->helper = path;
  options->config = lp->boot.data;
  options->config_length = lp->boot.length;
}

/* What workers have because their copy of this state had it. */
static void know_early(lua_State *L, struct lpool *lp) {
  if (lp->start != POOL_EARLY || learly_find(L) == NULL) return;
  codec_know_early(lp->codec, L, -1);
  codec_know_early(lp->sender, L, -1);
  lua_pop(L, 1);
}

static void read_options(lua_State *L, int options, struct lpool *lp) {
  read_start(L, options, lp);
  lp->n_workers = (uint32_t)option_number(L, options, "workers", 1);
  lp->grace_ns = os_ns_of(option_number(L, options, "grace", 1));
  lp->tasks.on_start = option_function(L, options, "on_start");
  lp->tasks.on_exit = option_function(L, options, "on_exit");
  lp->tasks.has_seed = lua_getfield(L, options, "seed") == LUA_TNUMBER;
  lp->tasks.seed = lua_tointeger(L, -1);
  loutput_open(&lp->output, L, options);
  lua_getfield(L, options, "one_shot");
  lp->is_one_shot = lua_toboolean(L, -1);
  lp->capacity = lp->is_one_shot || lp->n_workers >= BOARD_MAX_WORKERS / 2 ? lp->n_workers : lp->n_workers * 2;
  if (!lp->is_one_shot && lp->capacity < LEAST_CAPACITY) lp->capacity = LEAST_CAPACITY;
  lua_pop(L, 2);
}

/* What workers are to be like. */
static void read_terms(lua_State *L, int options, struct worker_terms *terms) {
  terms->max_tasks = (uint64_t)option_number(L, options, "max_tasks", 0);
  terms->max_growth = (uint64_t)option_number(L, options, "max_growth", 0);
  terms->idle_ns = os_ns_of(option_number(L, options, "idle_timeout", 0));
  terms->least_memory = (uint64_t)option_number(L, options, "memfree", 0);
  terms->most_load = (uint64_t)(option_number(L, options, "load", 0) * 1000);
  lua_getfield(L, options, "nice");
  terms->nice = lua_type(L, -1) == LUA_TSTRING ? WORKER_IDLE : (int32_t)lua_tointeger(L, -1); /* "idle", or a number, or nothing */
  lua_getfield(L, options, "pin");
  terms->is_bound = (uint32_t)lua_toboolean(L, -1);
  lua_pop(L, 2);
}

/*
 * core.open(options) -> handle. Options were checked by the caller (lua/luapool/check.lua); no worker is started.
 * The userdata comes first, in the closed state, so that whatever raises later leaks nothing.
 */
static int core_open(lua_State *L) {
  char helper[LHELPER_PATH_BYTES];
  struct pool_options options;
  struct lpool *lp;
  int status;
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  memset(&options, 0, sizeof options);
  lp = lua_newuserdatauv(L, sizeof *lp, LPOOL_VALUES);
  memset(lp, 0, sizeof *lp);
  lp->owner = getpid();
  lp->wake_fd = -1;
  lp->L = task_main_thread(L);
  lp->tasks.on_start = lp->tasks.on_exit = lp->codec_reference = lp->sender_reference = LUA_NOREF;
  lp->record_reference = LUA_NOREF;
  lp->output.function_reference = LUA_NOREF;
  luaL_setmetatable(L, LPOOL_TYPE);
  note_handle(L, lp);
  lua_newtable(L);
  lua_setiuservalue(L, -2, LPOOL_CALLS);
  lua_newtable(L);
  lua_setiuservalue(L, -2, LPOOL_READY);
  lua_newtable(L);
  lua_setiuservalue(L, -2, LPOOL_PARTINGS);
  read_options(L, 1, lp);
  lua_getfield(L, 1, "record");
  lp->record = options.trace = ltrace_test(L, -1);
  if (lp->record) lp->record_reference = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_settop(L, 2);
  lp->tasks.L = lp->L;
  lp->codec = codec_open(L);
  lp->codec_reference = luaL_ref(L, LUA_REGISTRYINDEX);
  lp->sender = codec_open(L);
  lp->sender_reference = luaL_ref(L, LUA_REGISTRYINDEX);
  know_early(L, lp);
  options.workers = lp->n_workers;
  options.capacity = lp->capacity;
  options.grace_ns = lp->grace_ns;
  read_terms(L, 1, &options.terms);
  options.ring_bytes = (uint64_t)option_number(L, 1, "ring", 0);
  options.output = loutput_kind(&lp->output);
  options.is_sealed = lua_getfield(L, 1, "descriptors") == LUA_TSTRING && strcmp(lua_tostring(L, -1), "close") == 0;
  lua_pop(L, 1);
  options.tasks = (struct worker_tasks){&lp->tasks, task_start, task_run, task_finish};
  read_helper(L, 1, lp, &options, helper);
  lp->seen_ns = calloc(lp->capacity, sizeof *lp->seen_ns);
  status = lp->seen_ns ? pool_open(&lp->pool, &options) : -ENOMEM;
  bytes_clear(&lp->boot);
  if (status == 0) return 1;
  free(lp->seen_ns);
  lp->seen_ns = NULL;
  /* Without a position: our caller's line tells nobody anything. */
  lua_pushfstring(L, "cannot make a pool of %d workers: %s%s", (int)lp->n_workers, strerror(-status),
                  status == -EFBIG ? " (a limit on file sizes counts for shared memory, too: ulimit -f)" : "");
  return lua_error(L);
}

/* ---- ending ---- */

void lpool_take_notice(struct lpool *lp, lua_State *L, const struct pool_event *event) {
  lua_pushlstring(L, (const char *)event->data, event->length);
  (void)pool_done(lp->pool, event, 0);
  lerror_warn(L, "on_exit failed: ", lua_tostring(L, -1));
  lua_pop(L, 1);
}

/* (lpool, event): the value goes to the end of the table. */
static int keep_parting(lua_State *L) {
  struct lpool *lp = lua_touserdata(L, 1);
  const struct pool_event *event = lua_touserdata(L, 2);
  struct codec_reader reader;
  int status;
  lua_settop(L, 2);
  lpool_push_value(L, lp, LPOOL_PARTINGS);
  codec_read_begin(lp->sender, &reader, event->data, event->length); /* the other codec may be in the middle of results */
  status = codec_read(lp->sender, L, &reader);
  if (status < 0) return luaL_error(L, "%s", codec_message(lp->sender));
  if (lua_istable(L, 3)) lua_rawseti(L, 3, (lua_Integer)lua_rawlen(L, 3) + 1);
  return 0;
}

void lpool_take_parting(struct lpool *lp, lua_State *L, const struct pool_event *event) {
  int status;
  lua_pushcfunction(L, keep_parting);
  lua_pushlightuserdata(L, lp);
  lua_pushlightuserdata(L, (void *)(uintptr_t)event);
  status = lua_pcall(L, 2, 0, 0);
  (void)pool_done(lp->pool, event, 0);
  if (status == LUA_OK) return;
  if (delivery_is_interrupt(L, -1)) lua_error(L);
  lerror_warn(L, "what on_exit returned is lost: ", lua_tostring(L, -1));
  lua_pop(L, 1);
}

/* Let workers finish by themselves. 1: all gone; 0: until_ns passed. */
static int wait_for_leavers(struct lpool *lp, lua_State *L, int64_t until_ns, int can_raise) {
  int64_t continue_ns = os_now_ns() + lp->grace_ns;
  pool_ask_to_leave(lp->pool);
  while (pool_living(lp->pool) > 0) {
    int64_t now;
    uint32_t living = pool_reap(lp->pool, (int64_t)CLOSE_TURN_MS * 1000000);
    lpump_take_protected(L, lp);
    if (can_raise) {
      loutput_turn(lp, L);
    } else {
      loutput_turn_protected(lp, L);
    }
    if (living == 0) break;
    now = os_now_ns();
    if (until_ns >= 0 && now >= until_ns) return 0;
    if (now >= continue_ns) {
      pool_continue(lp->pool);
      continue_ns = now + lp->grace_ns;
    }
    if (can_raise && interrupt_pending()) (void)delivery_checkpoint(L);
    if (interrupt_is_urgent()) return 0;
  }
  return 1;
}

/* While the pool quits: a worker that cannot get rid of what its tasks printed would not leave. */
static uint32_t reap_quitters(struct lpool *lp, lua_State *L) {
  uint32_t living = pool_reap(lp->pool, 5 * 1000000);
  lpump_take_protected(L, lp);
  return living;
}

int lpool_end(struct lpool *lp, lua_State *L, int64_t grace_ns, int64_t until_ns, int can_raise) {
  struct pool *p = lp->pool;
  int64_t until;
  if (pool_living(p) == 0) return 1;
  if (grace_ns < 0) return wait_for_leavers(lp, L, until_ns, can_raise);
  interrupt_ending(1);
  pool_quit(p);
  until = os_now_ns() + grace_ns;
  while (reap_quitters(lp, L) > 0 && os_now_ns() < until && !interrupt_is_urgent()) continue;
  if (pool_living(p) > 0) {
    pool_kill(p);
    until = os_now_ns() + (int64_t)FORCED_WAIT_MS * 1000000; /* then pool_close has patience with who dies slowly */
    while (reap_quitters(lp, L) > 0 && os_now_ns() < until) continue;
  }
  loutput_settle(lp, L);
  loutput_turn_protected(lp, L);
  interrupt_ending(-1);
  return pool_living(p) == 0;
}

static int64_t option_seconds(lua_State *L, int index, int64_t none) {
  lua_Number seconds;
  if (lua_isnoneornil(L, index)) return none;
  seconds = luaL_checknumber(L, index);
  if (seconds > 1e9) seconds = 1e9;
  return os_ns_of(seconds);
}

void lpool_settle(struct lpool *lp, lua_State *L) {
  if (lp->depth == 0 && lp->is_terminated && lp->pool != NULL && lp->owner == getpid()) free_handle(L, lp);
}

static int is_stream(const struct call *c) {
  return c->mode == CALL_ORDERED || c->mode == CALL_UNORDERED;
}

/* Streams end here: nobody will ask for the rest. */
static void cancel_streams(lua_State *L, struct lpool *lp) {
  struct call *c, *next;
  for (c = lp->open; c != NULL; c = next) {
    next = c->next;
    if (is_stream(c)) lcall_conclude(L, c, OUTCOME_CANCELLED, lp->grace_ns);
  }
}

/* Let open calls come to their end. 1: they have; 0: until_ns passed. */
static int finish_calls(lua_State *L, struct lpool *lp, int64_t until_ns) {
  cancel_streams(L, lp);
  while (lp->open != NULL || lp->ending != NULL || lp->n_ready != lp->n_taken) {
    lpump_work(L, lp);
    if (lp->open == NULL && lp->ending == NULL) break;
    if (until_ns >= 0 && os_now_ns() >= until_ns) return 0;
    lpump_sleep(L, lp, until_ns);
  }
  return 1;
}

/*
 * handle:close([timeout]) -> true | false: calls that were begun finish, then the workers leave; after `timeout` seconds false (they live
 * on). Idempotent.
 */
static int handle_close(lua_State *L) {
  struct lpool *lp = luaL_checkudata(L, 1, LPOOL_TYPE);
  int64_t timeout = option_seconds(L, 2, -1), until = timeout < 0 ? -1 : os_now_ns() + timeout;
  if (lp->pool == NULL) {
    lua_pushboolean(L, 1);
    return 1;
  }
  lpool_check(L, "close");
  if (lp->depth || lp->is_in_hook || lp->taking) return luaL_error(L, "cannot use 'close': the pool is busy with another call");
  pool_pause(lp->pool, 0); /* what was begun shall come to its end */
  if (!finish_calls(L, lp, until) || !lpool_end(lp, L, -1, until, 1)) {
    lua_pushboolean(L, 0);
    return 1;
  }
  free_handle(L, lp);
  lua_pushboolean(L, 1);
  return 1;
}

/* handle:terminate([grace]) : tasks are interrupted, after `grace` seconds killed. Idempotent; never raises for an interrupt. */
static int handle_terminate(lua_State *L) {
  struct lpool *lp = luaL_checkudata(L, 1, LPOOL_TYPE);
  int64_t grace = option_seconds(L, 2, lp->grace_ns);
  if (lp->pool == NULL) return 0;
  lpool_check(L, "terminate");
  lp->is_terminated = 1;
  lpool_cancel_calls(lp, L, grace);
  (void)lpool_end(lp, L, grace, -1, 0);
  if (!lp->is_in_hook && !lp->taking) lpool_settle(lp, L);
  return 0;
}

/* The collector found the pool. It runs no Lua of the user's, and waits until those that it killed are gone. */
static int handle_gc(lua_State *L) {
  struct lpool *lp = luaL_checkudata(L, 1, LPOOL_TYPE);
  FAULT_POINT("gc");
  if (lp->is_freed) return 0;
  if (lp->pool && lp->owner == getpid() && pool_living(lp->pool) > 0) {
    if (!lp->is_one_shot) lerror_warn(L, "a pool was never closed", " (use 'local p <close>', p:close() or p:terminate())");
    pool_kill(lp->pool);
  }
  free_handle(L, lp);
  return 0;
}

/* ---- what is going on ---- */

/* handle:stats() -> a table: see PoolMethods:stats in lua/luapool/pool.lua */
static int handle_stats(lua_State *L) {
  push_stats(L, lpool_check(L, "stats"));
  return 1;
}

/* handle:end_record(): the process is about to end without closing anything. */
static int handle_end_record(lua_State *L) {
  pool_end_record(lpool_check(L, "end_record")->pool);
  return 0;
}

/* handle:workers() -> those that live now */
static int handle_workers(lua_State *L) {
  struct lpool *lp = lpool_check(L, "workers");
  push_workers(L, lp, 1);
  return 1;
}

/* handle:is_waiting() -> is somebody inside a call of this pool that waits (or in a callback)? */
static int handle_is_waiting(lua_State *L) {
  const struct lpool *lp = lpool_check(L, "is_waiting");
  lua_pushboolean(L, lp->depth || lp->is_in_hook || lp->taking);
  return 1;
}

/* handle:resize(n) -> true; nil, capacity: more than it was made for */
static int handle_resize(lua_State *L) {
  struct lpool *lp = lpool_check(L, "resize");
  lua_Integer n = luaL_checkinteger(L, 2);
  if (n < 1 || n > lp->capacity || pool_resize(lp->pool, (uint32_t)n) < 0) {
    lua_pushnil(L);
    lua_pushinteger(L, lp->capacity);
    return 2;
  }
  lp->n_workers = (uint32_t)n;
  lua_pushboolean(L, 1);
  return 1;
}

/* handle:wake(fd): the host's waits also end when fd is readable (instead of at interrupts: for programs that have none); -1: no more. */
static int handle_wake(lua_State *L) {
  struct lpool *lp = lpool_check(L, "wake");
  lp->wake_fd = (int)luaL_checkinteger(L, 2);
  return 0;
}

/* handle:pending() -> how many calls are not over */
static int handle_pending(lua_State *L) {
  const struct lpool *lp = lpool_check(L, "pending");
  const struct call *c;
  lua_Integer n = 0;
  for (c = lp->open; c != NULL; c = c->next) n++;
  lua_pushinteger(L, n);
  return 1;
}

/* handle:active() -> how many workers are at work, sum of how far their items are (0 .. 1 each, as far as they say) */
static int handle_active(lua_State *L) {
  const struct lpool *lp = lpool_check(L, "active");
  lua_Number inner = 0;
  lua_Integer n = 0;
  uint32_t i;
  for (i = 0; i < lp->capacity; i++) {
    struct pool_worker_info info;
    pool_info(lp->pool, i, &info);
    if (info.pid == 0 || info.phase != BOARD_OWNING) continue;
    n++;
    if (!(info.progress_total > 0) || !(info.progress_done > 0)) continue;
    inner += info.progress_done < info.progress_total ? info.progress_done / info.progress_total : 1;
  }
  lua_pushinteger(L, n);
  lua_pushnumber(L, inner);
  return 2;
}

/* handle:state() -> "open" | "closed" | "foreign", pid of the process that made the pool, pid of this one */
static int handle_state(lua_State *L) {
  struct lpool *lp = luaL_checkudata(L, 1, LPOOL_TYPE);
  int here = (int)getpid();
  lua_pushstring(L, lp->owner != here ? "foreign" : lp->pool == NULL ? "closed" : "open");
  lua_pushinteger(L, lp->owner);
  lua_pushinteger(L, here);
  return 3;
}

/* handle:partings() -> a sequence: what on_exit returned in workers since it was asked last. Also of a closed pool. */
static int handle_partings(lua_State *L) {
  (void)luaL_checkudata(L, 1, LPOOL_TYPE);
  lua_settop(L, 1);
  lua_getiuservalue(L, 1, LPOOL_PARTINGS);
  lua_newtable(L);
  lua_setiuservalue(L, 1, LPOOL_PARTINGS);
  return 1;
}

/* handle:line(drawn) -> boolean: a line of progress is on the terminal from now on; was one there until now? (Lines of tasks erase it.) */
static int handle_line(lua_State *L) {
  struct lpool *lp = luaL_checkudata(L, 1, LPOOL_TYPE);
  lua_pushboolean(L, loutput_line(lp, lua_toboolean(L, 2)));
  return 1;
}

/* handle:pause(boolean): workers begin nothing any more; or they do again. */
static int handle_pause(lua_State *L) {
  pool_pause(lpool_check(L, "pause")->pool, lua_toboolean(L, 2));
  return 0;
}

void lpool_open_library(lua_State *L) {
  lcall_open_library(L);
  luaL_newmetatable(L, LPOOL_TYPE);
  lclass_add(L, "__gc", handle_gc);
  lua_createtable(L, 0, 27);
  lclass_add(L, "run", lpool_run);
  lclass_add(L, "apply", lpool_apply);
  lclass_add(L, "broadcast", lpool_broadcast);
  lclass_add(L, "begin", lpool_begin);
  lclass_add(L, "submit", lpool_submit);
  lclass_add(L, "turn", lpool_turn);
  lclass_add(L, "fd", lpool_fd);
  lclass_add(L, "has_news", lpool_has_news);
  lclass_add(L, "hook", lpool_set_hook);
  lclass_add(L, "ready", lpool_ready);
  lclass_add(L, "told", lpool_told);
  lclass_add(L, "cancel", lpool_cancel_all);
  lclass_add(L, "close", handle_close);
  lclass_add(L, "terminate", handle_terminate);
  lclass_add(L, "resize", handle_resize);
  lclass_add(L, "stats", handle_stats);
  lclass_add(L, "end_record", handle_end_record);
  lclass_add(L, "workers", handle_workers);
  lclass_add(L, "state", handle_state);
  lclass_add(L, "partings", handle_partings);
  lclass_add(L, "is_waiting", handle_is_waiting);
  lclass_add(L, "pending", handle_pending);
  lclass_add(L, "active", handle_active);
  lclass_add(L, "wake", handle_wake);
  lclass_add(L, "submit_all", lpool_submit_all);
  lclass_add(L, "line", handle_line);
  lclass_add(L, "pause", handle_pause);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  lua_newtable(L);
  lua_pushcfunction(L, core_open);
  lua_setfield(L, -2, "open");
}
