/*
 * job/task_run -- the loops over the items of a claim: see task.h (may include job/task.h, job/task_parts.h, job/array.h,
 * job/codec_run.h and job/delivery.h).
 */
#include "base/cold.h"
#include "job/task.h"

#include <lauxlib.h>

#include "base/fault.h"
#include "job/array.h"
#include "job/codec_run.h"
#include "job/delivery.h"
#include "job/task_parts.h"

enum { SAMPLE = 128, LARGE_NS = 5000 };

/* Push the item `t->next` of a block; the reader only goes forward, and may be behind (a retry) but never ahead. */
static void push_block_item(struct task_context *t, lua_State *T) {
  for (;;) {
    int status = codec_read(t->codec, T, &t->block);
    if (status != 0) {
      t->block_at++;
      if (t->block.start == NULL) luaL_error(T, "not enough memory: what holds the item cannot be mapped");
      luaL_error(T, "item cannot be read: %s", codec_message(t->codec));
    }
    if (t->block_at++ == t->next) return;
    lua_pop(T, 1);
  }
}

/* In run_items: its arguments. RUN_SOURCE: the table that the items are in, if they are in one. */
enum { RUN_CONTEXT = 1, RUN_FN = 2, RUN_SEEDER = 3, RUN_SOURCE = 4, RUN_TOP = 4 };

/* Push item t->next of an indexed source. May raise. */
static void push_indexed_item(struct task_context *t, lua_State *T) {
  if (t->source.kind == SOURCE_TABLE) {
    lua_geti(T, RUN_SOURCE, (lua_Integer)t->next + 1);
  } else if (t->from) {
    if (t->next >= t->from->length) luaL_error(T, "the array has no element %d", (int)t->next + 1);
    array_push(T, t->from, t->next);
  } else {
    task_push_item(T, &t->source, t->next);
  }
}

/* Push fn's arguments for item t->next; returns how many. */
static int push_arguments(struct task_context *t, lua_State *T) {
  const struct worker_claim *claim = &t->worker->claim;
  int count, i;
  if (claim->kind == BOARD_INDEXED) {
    push_indexed_item(t, T);
    return 1;
  }
  push_block_item(t, T);
  if (!(claim->flags & BOARD_ARGUMENTS)) return 1;
  count = (int)lua_tointeger(T, -1);
  lua_pop(T, 1);
  luaL_checkstack(T, count, "too many arguments");
  for (i = 0; i < count; i++)
    if (codec_read(t->codec, T, &t->block) != 0) luaL_error(T, "argument cannot be read: %s", codec_message(t->codec));
  return count;
}

static void seed_item(struct task_context *t, lua_State *T) {
  if (!t->has_seed || lua_isnil(T, RUN_SEEDER)) return;
  lua_pushvalue(T, RUN_SEEDER);
  lua_pushinteger(T, t->seed);
  lua_pushinteger(T, (lua_Integer)t->next + 1);
  lua_call(T, 2, 0);
}

/* Write what stands above RUN_TOP. Returns 0, or codec_write's status. */
static int write_results(struct task_context *t, lua_State *T) {
  int status, i, count;
  if (!(t->worker->claim.flags & BOARD_ALL_RESULTS)) return codec_write(t->codec, T, -1);
  count = lua_gettop(T) - RUN_TOP;
  luaL_checkstack(T, 1, NULL);
  lua_pushinteger(T, count);
  status = codec_write(t->codec, T, -1);
  for (i = 1; status == 0 && i <= count; i++) status = codec_write(t->codec, T, RUN_TOP + i);
  return status;
}

static void open_frame(struct task_context *t) {
  worker_close_frame(t->worker);
  worker_open_frame(t->worker, t->next);
  codec_begin(t->codec, &t->worker->frame, CODEC_COPIES_OWN | CODEC_KEEPS_NONE, "result");
}

/* A request that came too late for its item is nobody's any more. Returns 1 if somebody other than the host wants us gone. */
static int settle_interrupts(void) {
  if (interrupt_pending()) task_forget_interrupts();
  return interrupt_external() != 0;
}

/* As write_results, with a look at the clock. */
static int write_measured(struct task_context *t, lua_State *T) {
  int64_t began = os_now_ns(), took;
  int status = write_results(t, T);
  took = os_now_ns() - began;
  worker_count_encode(t->worker, t->is_large ? took : took * SAMPLE);
  if (t->worker->events && t->is_large) worker_trace(t->worker, EVENT_ENCODE, began, took);
  if (t->worker->events && !t->is_large) t->worker->encode_ns += took * SAMPLE;
  t->is_large = took > LARGE_NS;
  return status;
}

/* An item whose value stands on top of the stack is over. Returns 0, or 1 if its result cannot cross. */
static int write_item(struct task_context *t, lua_State *T) {
  int status;
  t->is_writing = 1;
  status = t->is_large || ++t->n_written % SAMPLE == 0 ? write_measured(t, T) : write_results(t, T);
  if (status == 0 && (t->worker->claim.flags & BOARD_SECONDS)) {
    task_push_seconds(t, T);
    status = codec_write(t->codec, T, -1);
  }
  t->is_writing = 0;
  lua_settop(T, RUN_TOP);
  return t->is_refused = status != 0;
}

/* How long did the items take that were done since the last look? Only with a record. */
static void look_at_times(struct task_context *t) {
  struct worker *w = t->worker;
  t->until_look = events_look(w->events, &t->sampler, w->claim.call, t->next,
                               atomic_load_explicit(&w->slot->wait_ns, memory_order_relaxed));
}

static void begin_times(struct task_context *t) {
  struct worker *w = t->worker;
  t->until_look = UINT64_MAX;
  if (w->events) t->until_look = events_begin_items(&t->sampler, t->next, atomic_load_explicit(&w->slot->wait_ns, memory_order_relaxed));
}

/* The result on top goes into the shared array; a value that does not fit is the item's error. */
static void store_result(struct task_context *t, lua_State *T) {
  if (t->next >= t->into->length) luaL_error(T, "result cannot be stored: the array has %I elements", (LUAI_UACINT)t->into->length);
  if (!array_store(T, t->into, t->next, -1)) luaL_error(T, "result cannot be stored: %s", lua_tostring(T, -1));
  lua_settop(T, RUN_TOP);
}

/* Leaves fn's results above RUN_TOP. */
static void run_item(struct task_context *t, lua_State *T, int n_results) {
  worker_begin_item(t->worker, t->next);
  FAULT_POINT("worker_run");
  if (t->worker->claim.flags & BOARD_SECONDS) t->item_began_ns = os_now_ns();
  if (t->has_seed) seed_item(t, T);
  lua_pushvalue(T, RUN_FN);
  lua_call(T, push_arguments(t, T), n_results);
}

/* Are the items at hand, and is nothing wanted of them but one result, or none? */
static int is_plain(const struct task_context *t) {
  enum { UNUSUAL = BOARD_ALL_RESULTS | BOARD_SECONDS | BOARD_ARGUMENTS };
  const struct worker_claim *claim = &t->worker->claim;
  return claim->kind == BOARD_INDEXED && !(claim->flags & UNUSUAL) && !t->has_seed && worker_are_plain(t->worker);
}

/*
 * How many plain items can be run before anything is to be looked at but what others want of this worker: their results are numbers that
 * join those before them in the frame, which has room, go into the array, or are not wanted, and no sample is due. 0: not even one.
 */
static uint32_t count_brief(const struct task_context *t, uint64_t end) {
  const struct worker *w = t->worker;
  const size_t room = worker_room(w);
  uint64_t n = SAMPLE - 1, fit = n;
  if (w->claim.flags & BOARD_INTO) {
    fit = t->into->length > t->next ? t->into->length - t->next : 0;
  } else if (!(w->claim.flags & BOARD_NO_RESULTS)) {
    if (!codec_is_in_run(t->codec)) return 0;
    n -= t->n_written % SAMPLE;
    fit = w->frame.length < room ? (room - w->frame.length) / 8 : 0;
  }
  if (n > fit) n = fit;
  return (uint32_t)(n < end - t->next ? n : end - t->next);
}

/* The result on top, which stays there: 1: it is where it belongs; 0: that takes more than a number like those before it does. */
static inline int keep_number(struct task_context *t, lua_State *T, unsigned char *run, int is_float) {
  const uint32_t flags = t->worker->claim.flags;
  uint64_t number;
  if (flags & (BOARD_INTO | BOARD_NO_RESULTS)) return !(flags & BOARD_INTO) || array_keep(T, t->into, t->next, -1);
  if (!codec_number_joins(T, -1, is_float, &number)) return 0;
  codec_extend_run(&t->worker->frame, run, number);
  t->n_written++;
  return 1;
}

/*
 * The loop of run_items for n plain items, as long as each gives a number like the one before: such items are as short as the loop, which
 * has to look at nothing here that cannot change within them. Their results stay on the stack until the last is there: taking each off
 * would cost more than the call.
 * Returns 1: item t->next was run, and its result stands above RUN_TOP; 0: it is not begun.
 */
static int run_brief(struct task_context *t, lua_State *T, uint32_t n) {
  struct worker *w = t->worker;
  unsigned char *run = w->frame.data + t->codec->run_at;
  const int n_results = !(w->claim.flags & BOARD_NO_RESULTS) || w->claim.flags & BOARD_INTO;
  const int is_float = t->codec->run_tag == TAG_RUN_FLOAT;
  const int is_range = t->source.kind == SOURCE_INTEGERS;
  lua_Unsigned value = (lua_Unsigned)task_integer(&t->source, t->next);
  for (;; value += (lua_Unsigned)t->source.step) {
    worker_begin_plain_item(w, t->next);
    FAULT_POINT("worker_run");
    lua_pushvalue(T, RUN_FN);
    if (is_range) lua_pushinteger(T, (lua_Integer)value);
    else push_indexed_item(t, T);
    lua_call(T, 1, n_results);
    if (!keep_number(t, T, run, is_float)) break;
    worker_end_plain_item(w);
    t->next++;
    if (--t->until_look == 0) look_at_times(t);
    if (--n == 0 || interrupt_pending() || worker_is_stopped(w)) {
      lua_settop(T, RUN_TOP);
      return 0;
    }
  }
  lua_copy(T, -1, RUN_TOP + 1); /* the result, in the place of the first, which it may be itself */
  lua_settop(T, RUN_TOP + 1);
  return 1;
}

/*
 * (context, fn, randomseed, table): run items until the claim is done or no longer wanted, or until one fails: then t->next is that
 * item, and either this
 * raises, or t->is_refused says that its result cannot cross. One pcall serves for all items: it would cost more than a small task.
 */
static int run_items(lua_State *T) {
  struct task_context *t = lua_touserdata(T, RUN_CONTEXT);
  struct worker *w = t->worker;
  const uint64_t end = w->claim.first + w->claim.count;
  const int wants_results = !(w->claim.flags & BOARD_NO_RESULTS);
  const int is_into = w->claim.flags & BOARD_INTO;
  const int n_results = w->claim.flags & BOARD_ALL_RESULTS ? LUA_MULTRET : wants_results || is_into;
  const int may_be_brief = is_plain(t);
  luaL_checkstack(T, LUA_MINSTACK + SAMPLE, NULL);
  while (t->next < end && !worker_is_stopped(w)) {
    uint32_t n;
    if (worker_needs_frame(w)) open_frame(t);
    n = may_be_brief ? count_brief(t, end) : 0;
    if (n == 0) {
      run_item(t, T, n_results);
    } else if (!run_brief(t, T, n)) {
      if (interrupt_pending() && settle_interrupts()) return 0;
      continue;
    }
    if (wants_results && write_item(t, T)) return 0;
    if (is_into) store_result(t, T);
    worker_end_item(w);
    t->next++;
    if (--t->until_look == 0) look_at_times(t);
    if (interrupt_pending() && settle_interrupts()) return 0;
    if (w->terms.max_growth && worker_is_outgrown(w)) return 0;
  }
  return 0;
}

/* The item t->next failed; the error value is on top, or the codec refused its result. */
static COLD void fail_item(struct task_context *t, int status) {
  if (t->is_writing) codec_rollback(t->codec);
  t->is_writing = 0;
  if (t->is_refused) lua_pushstring(t->thread, codec_message(t->codec));
  worker_close_frame(t->worker);
  task_send_failure(t, WORKER_FAILED, status, t->is_refused ? "serialize" : NULL, t->next);
  lua_settop(t->thread, TASK_TOP);
  t->is_refused = 0;
  t->next++;
  if (t->worker->events) look_at_times(t);
}

static void begin_block(struct task_context *t) {
  const struct worker_claim *claim = &t->worker->claim;
  const void *data;
  if (claim->kind == BOARD_INDEXED) return;
  data = arena_at(t->worker->arena, claim->block_offset, claim->block_length);
  t->block_at = claim->first - claim->block_skip;
  codec_read_begin(t->codec, &t->block, data, data ? claim->block_length : 0);
}

static int run_protected(struct task_context *t) {
  lua_State *T = t->thread;
  struct delivery_frame scope;
  int status;
  lua_settop(T, TASK_TOP);
  lua_pushcfunction(T, run_items);
  lua_pushlightuserdata(T, t);
  lua_pushvalue(T, TASK_FN);
  lua_pushvalue(T, TASK_SEEDER);
  if (t->source.kind == SOURCE_TABLE) lua_rawgeti(T, LUA_REGISTRYINDEX, t->source.reference);
  else lua_pushnil(T);
  delivery_enter(&scope, T);
  status = lua_pcall(T, 4, 0, TASK_HANDLER);
  delivery_leave(&scope);
  return status;
}

void task_run(void *context, struct worker *w) {
  struct task_context *t = context;
  const uint64_t end = w->claim.first + w->claim.count;
  int status;
  task_set_budget(t, w->claim.memory_bytes);
  status = task_get_function(t);
  t->next = w->claim.first;
  t->is_refused = 0;
  t->item_began_ns = 0;
  begin_times(t);
  if (status != LUA_OK) fail_item(t, status);
  begin_block(t);
  while (status == LUA_OK && t->next < end && !worker_is_stopped(w) && !w->is_outgrown && !interrupt_external()) {
    int run_status = run_protected(t);
    if (t->next == end) break; /* an interrupt hit the very end */
    if (run_status == LUA_OK && !t->is_refused) continue;
    fail_item(t, run_status);
    if (w->terms.max_growth) (void)worker_is_outgrown(w);
    if (!(w->claim.flags & BOARD_GO_ON)) break;
  }
  if (w->events) {
    look_at_times(t);
    task_name_slow_items(t);
  }
  worker_close_frame(w);
  if (t->next < end) worker_send(w, WORKER_DROPPED, t->next, (uint32_t)(end - t->next > UINT32_MAX ? UINT32_MAX : end - t->next), NULL, 0);
  lua_settop(t->thread, TASK_TOP);
  task_collect_large(t);
  (void)settle_interrupts();
}
