/*
 * binding/ltake -- what comes back: frames of results and failures, routed to the call that they belong to.
 *
 * Room: binding (may include binding/lcall.h, binding/lpool.h, binding/loutput.h, binding/ltrace.h and binding/lerror.h).  Owns: nothing.
 * While an event is read its call is lp->taking: no verb of the pool can be used from inside (by a load function or a finalizer).
 */
#include <errno.h>
#include <lauxlib.h>
#include <string.h>

#include "base/cold.h"
#include "binding/lcall.h"
#include "binding/lerror.h"
#include "binding/ltrace.h"
#include "pool/schedule.h"

enum { FIRST_TABLE_ITEMS = 1 << 26 /* a results table is made this large at most in advance */ };

/* What stands on the stack from c->at on while an event of the call is taken. */
enum { AT_CALL = 1, AT_RESULTS = 2, AT_FRAMES = 3, AT_VALUES = 3 };

static int is_stream(const struct call *c) {
  return c->mode == CALL_ORDERED || c->mode == CALL_UNORDERED;
}

/* The table at user value `which` of the call at c->at + AT_CALL, made if it is not there; pushed. */
static void push_table(lua_State *L, const struct call *c, int which, int size) {
  if (lua_getiuservalue(L, c->at + AT_CALL, which) == LUA_TTABLE) return;
  lua_pop(L, 1);
  lua_createtable(L, size, 0);
  lua_pushvalue(L, -1);
  lua_setiuservalue(L, c->at + AT_CALL, which);
}

/* The userdata of the call is on top: push what is needed with it. Results are made late: pages written before a fork are copied by it. */
static void push_values(lua_State *L, struct call *c) {
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  c->at = lua_gettop(L) - 1;
  if (is_stream(c)) {
    lua_pushnil(L);
    push_table(L, c, CALL_FRAMES, 0);
  } else {
    push_table(L, c, CALL_RESULTS, c->mode != CALL_APPLY && c->wants_results && c->total < FIRST_TABLE_ITEMS ? (int)c->total : 0);
    lua_pushnil(L);
  }
}

/* ---- streams ---- */

/* The table on top holds what is known of items first .. first + n - 1 (one: values, or an error table): it waits for the consumer. */
static void hold(lua_State *L, struct call *c, uint64_t first, uint64_t n) {
  lua_Integer key = c->mode == CALL_ORDERED ? (lua_Integer)first + 1 : (lua_Integer)++c->tail;
  lua_rawseti(L, c->at + AT_FRAMES, key);
  c->held += n;
}

/* An empty frame for `n` values of items from `first` on. */
static void push_frame(lua_State *L, uint64_t first, uint64_t n) {
  lua_createtable(L, n < FIRST_TABLE_ITEMS ? (int)n : 0, 2);
  lerror_set_integer(L, "first", (lua_Integer)first + 1);
  lerror_set_integer(L, "n", (lua_Integer)n);
}

static lua_Integer next_key(const struct call *c) {
  return c->mode == CALL_ORDERED ? (lua_Integer)c->delivered + 1 : (lua_Integer)c->head + 1;
}

int ltake_has_frame(lua_State *L, const struct call *c) {
  int has;
  if (c->held == 0) return 0;
  lua_getiuservalue(L, 1, CALL_FRAMES);
  has = lua_rawgeti(L, -1, next_key(c)) == LUA_TTABLE;
  lua_pop(L, 2);
  return has;
}

/* A stream that was halted: items that were not run have no frame. Go on to the next that has; the table of frames is on top. */
static void skip_missing(lua_State *L, struct call *c) {
  if (c->mode != CALL_ORDERED || (c->outcome != OUTCOME_DONE && c->outcome != OUTCOME_FAILED)) return;
  while (c->delivered < c->written && lua_rawgeti(L, -1, next_key(c)) == LUA_TNIL) {
    lua_pop(L, 1);
    c->delivered++;
  }
  if (c->delivered < c->written) lua_pop(L, 1);
}

int ltake_pop_frame(lua_State *L, struct call *c) {
  lua_Integer key, n = 1;
  if (c->held == 0) return 0;
  lua_getiuservalue(L, 1, CALL_FRAMES);
  if (c->phase != CALL_OPEN) skip_missing(L, c);
  key = next_key(c);
  if (lua_rawgeti(L, -1, key) != LUA_TTABLE) {
    lua_pop(L, 2);
    return 0;
  }
  lua_pushnil(L);
  lua_rawseti(L, -3, key);
  lua_remove(L, -2);
  if (c->mode == CALL_UNORDERED) c->head++;
  if (lua_getfield(L, -1, "n") == LUA_TNIL) {
    lua_pop(L, 1);
    lua_pushnil(L);
    lua_insert(L, -2);
    lua_getfield(L, -1, "index");
    lua_insert(L, -2);
    lua_pushinteger(L, 1);
    lua_insert(L, -2);
  } else {
    n = lua_tointeger(L, -1);
    lua_getfield(L, -2, "first");
    lua_insert(L, -2);
    lua_pushnil(L);
  }
  c->delivered += (uint64_t)n;
  c->in_hand = (uint64_t)n;
  c->held -= (uint64_t)n;
  return 4;
}

/* ---- failures ---- */

/* Push the item of an iterator's that failed, from the block it was written into. 0: not to be had; nothing is pushed. */
static int push_written_item(lua_State *L, struct call *c, const struct pool_event *event) {
  const unsigned char *data;
  struct codec_reader reader;
  size_t length;
  uint64_t before;
  if (pool_block(c->lp->pool, event, &data, &length, &before) < 0 || before >= c->item_reads) return 0;
  c->item_reads -= before + 1;
  codec_read_begin(c->lp->sender, &reader, data, length); /* the other codec may be in the middle of results */
  while (codec_read(c->lp->sender, L, &reader) == 0) {
    if (before-- == 0) return 1;
    lua_pop(L, 1);
  }
  return 0;
}

/* Set `index` and, where it can be told, `item` in the error table on top. */
static void locate(lua_State *L, struct call *c, const struct pool_event *event) {
  if (c->mode == CALL_APPLY) return; /* there is only one */
  lerror_set_integer(L, "index", (lua_Integer)event->first + 1);
  if (c->mode == CALL_BROADCAST) return;
  if (c->job.source.kind != SOURCE_ITERATOR) {
    task_push_item(L, &c->job.source, event->first);
  } else if (!push_written_item(L, c, event)) {
    return;
  }
  task_item_text(L, -1);
  lua_setfield(L, -3, "item");
  lua_pop(L, 1);
}

/* How often item `number` has failed before; counts this failure. */
static uint32_t count_try(lua_State *L, struct call *c, uint64_t number) {
  lua_Integer tries;
  push_table(L, c, CALL_TRIES, 0);
  lua_rawgeti(L, -1, (lua_Integer)number + 1);
  tries = lua_tointeger(L, -1) + 1;
  lua_pop(L, 1);
  lua_pushinteger(L, tries);
  lua_rawseti(L, -2, (lua_Integer)number + 1);
  lua_pop(L, 1);
  return (uint32_t)tries;
}

/* The error table on top is the last word on item `number`. Pops it. */
static COLD void keep_error(lua_State *L, struct call *c, uint64_t number) {
  if (is_stream(c)) {
    hold(L, c, number, 1);
  } else {
    push_table(L, c, CALL_ERRORS, 0);
    lua_insert(L, -2);
    lua_rawseti(L, -2, (lua_Integer)number + 1);
    lua_pop(L, 1);
  }
  c->n_errors++;
  if (number < c->failed_at) c->failed_at = number;
}

/* The item is left out: its result is nil. */
static void skip_item(lua_State *L, struct call *c, uint64_t number) {
  if (!is_stream(c)) return;
  push_frame(L, number, 1);
  hold(L, c, number, 1);
}

/* The item that failed is to be tried again, perhaps later. 0: its call is over, or there is no memory for it. */
static int try_again(struct call *c, const struct pool_event *event, uint32_t tries) {
  int64_t delay = c->retry_delay_ns ? schedule_delay_ns(tries, c->retry_delay_ns) : 0;
  if (pool_repost(c->lp->pool, event, delay ? os_now_ns() + delay : 0) < 0) return 0;
  c->lp->n_retries++;
  return 1;
}

/* The error table is on top, and is popped. */
static COLD void take_failure(lua_State *L, struct call *c, const struct pool_event *event) {
  int is_crash = lerror_is_kind(L, "crash"); /* a worker that was told to end by others says so itself: no POOL_LOST */
  uint32_t retries = is_crash ? c->crash_retries : c->retries, tries = retries ? count_try(L, c, event->first) : 0;
  if (retries && schedule_retry(tries, retries) && try_again(c, event, tries)) {
    lua_pop(L, 1);
    return;
  }
  locate(L, c, event);
  if (c->lp->record) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->lp->record_reference);
    ltrace_error(L);
  }
  c->settled++;
  if (is_crash && c->crash == CRASH_SKIP && !c->collects) {
    lua_pop(L, 1);
    skip_item(L, c, event->first);
  } else {
    keep_error(L, c, event->first);
  }
}

COLD void ltake_refused(lua_State *L, struct call *c, uint64_t number, const char *message) {
  int top = lua_gettop(L);
  lcall_push(L, c);
  push_values(L, c);
  lerror_push_new(L, NULL, "serialize", message);
  lerror_set_integer(L, "index", (lua_Integer)number + 1);
  task_item_text(L, top);
  lua_setfield(L, -2, "item");
  keep_error(L, c, number);
  c->settled++;
  lua_settop(L, top - 1);
}

/* Something that result `number` names is not here: that item's failure. */
static void take_missing(lua_State *L, struct call *c, const struct pool_event *event, uint64_t number) {
  struct pool_event one = *event;
  one.kind = POOL_FAILED;
  one.first = number;
  lerror_push_new(L, event, "serialize", codec_message(c->lp->codec));
  take_failure(L, c, &one);
}

/* ---- results ---- */

/* All results of an applied function: their number, then they. Into the table of results as { n = number, ... }. */
static int read_all(lua_State *L, struct call *c, struct lpool_part *part) {
  struct codec *codec = c->lp->codec;
  int status;
  if (part->n_all < 0) {
    status = codec_read(codec, L, &part->reader);
    if (status != 0) return status;
    part->n_all = lua_tointeger(L, -1);
    lua_pop(L, 1);
  }
  if (part->n_all < 0 || part->n_all > INT32_MAX) return -EBADMSG;
  while (part->i_all < part->n_all) {
    status = codec_read(codec, L, &part->reader);
    if (status != 0) return status;
    lua_rawseti(L, c->at + AT_RESULTS, ++part->i_all);
  }
  lua_pushinteger(L, part->n_all);
  lua_setfield(L, c->at + AT_RESULTS, "n");
  return 0;
}

/*
 * Values came in pairs, result and seconds; it got late between the two. The second is a number: it is read at once, and stored at the key.
 */
static int read_seconds(lua_State *L, struct call *c, struct codec_reader *reader, int table, size_t key) {
  int status;
  codec_read_until(c->lp->codec, 0);
  status = codec_read(c->lp->codec, L, reader);
  codec_read_until(c->lp->codec, c->lp->rest_at_ns);
  if (status < 0) return status;
  lua_rawseti(L, table, (lua_Integer)key);
  return -EAGAIN;
}

/* Read up to `count` results from item `first` on. *done: how many came. With seconds two values stand for each. */
static int read_frame(lua_State *L, struct call *c, struct codec_reader *reader, uint32_t worker, uint64_t first, uint64_t count,
                      uint64_t *done) {
  size_t each = c->has_seconds ? 2 : 1, some = 0;
  int status, table;
  push_frame(L, first, count);
  table = lua_gettop(L);
  status = codec_read_array(c->lp->codec, L, reader, table, 1, (size_t)count * each, &some);
  if (status == -EAGAIN && some % each) status = read_seconds(L, c, reader, table, ++some);
  *done = some / each;
  if (*done == 0) {
    lua_settop(L, table - 1);
    return status;
  }
  lua_settop(L, table);
  if (*done < count) lerror_set_integer(L, "n", (lua_Integer)*done);
  if (c->has_seconds) lerror_set_integer(L, "worker", worker);
  hold(L, c, first, *done);
  return status;
}

static int read_some(lua_State *L, struct call *c, struct lpool_part *part, uint64_t *done) {
  uint64_t first = part->event.first + part->done, count = part->event.count - part->done;
  size_t some = 0;
  int status;
  *done = 0;
  if (is_stream(c)) return read_frame(L, c, &part->reader, part->event.worker, first, count, done);
  if (c->mode == CALL_APPLY) {
    status = read_all(L, c, part);
    *done = status == 0;
    return status;
  }
  status = codec_read_array(c->lp->codec, L, &part->reader, c->at + AT_RESULTS, (lua_Integer)first + 1, (size_t)count, &some);
  *done = some;
  return status;
}

/* Read on. 1: all that can be read was; 0: it is late. */
static int read_results(lua_State *L, struct call *c, struct lpool_part *part) {
  const struct pool_event *event = &part->event;
  while (part->done < event->count) {
    uint64_t some;
    int status = read_some(L, c, part, &some);
    part->done += some;
    part->settled += some;
    if (status == 0) continue;
    if (status == -EAGAIN) return 0;
    if (status != -ENOENT) break;
    if (c->has_seconds) { /* the seconds of the item that is missing */
      if (codec_read(c->lp->codec, L, &part->reader) != 0) break;
      lua_pop(L, 1);
    }
    take_missing(L, c, event, event->first + part->done);
    part->done++;
  }
  return 1;
}

/* Read as long as there is time; the rest is put off (see ltake_rest). Should this raise, the frame is as one that was not begun. */
static void go_on(lua_State *L, struct call *c) {
  struct lpool *lp = c->lp;
  struct lpool_part *part = &lp->part;
  int is_over;
  part->is_open = 0;
  codec_read_until(lp->codec, lp->rest_at_ns);
  is_over = read_results(L, c, part);
  codec_read_until(lp->codec, 0);
  if (!is_over) {
    part->is_open = 1;
    pool_put_off(lp->pool);
    return;
  }
  if (pool_done(lp->pool, &part->event, part->done) != 0) return;
  c->settled += part->settled;
  c->result_bytes += part->event.length;
}

static void take_results(lua_State *L, struct call *c, const struct pool_event *event) {
  struct lpool_part *part = &c->lp->part;
  lcall_name(L, c);
  *part = (struct lpool_part){.event = *event, .n_all = -1};
  codec_read_begin(c->lp->codec, &part->reader, event->data, event->length);
  if (!c->wants_results) {
    part->done = part->settled = event->count;
    if (is_stream(c)) {
      push_frame(L, event->first, event->count);
      hold(L, c, event->first, event->count);
    }
  }
  go_on(L, c);
}

static void take_failed(lua_State *L, struct call *c, const struct pool_event *event) {
  lcall_name(L, c);
  if (lerror_push_record(c->lp->codec, L, event, c->timeout_ns) < 0) {
    pool_condemn(c->lp->pool, event);
    (void)pool_done(c->lp->pool, event, 0);
    return;
  }
  take_failure(L, c, event);
  (void)pool_done(c->lp->pool, event, 1);
}

static void take_lost(lua_State *L, struct call *c, const struct pool_event *event) {
  c->lp->n_crashes++;
  lerror_push_lost(L, event, c->timeout_ns);
  take_failure(L, c, event);
  (void)pool_done(c->lp->pool, event, 1);
}

/* ---- events ---- */

/* Workers cannot start: that ends every call, or whatever waits. */
static void take_unready(lua_State *L, struct lpool *lp, const struct pool_event *event) {
  lerror_push_unready(lp->codec, L, event);
  (void)pool_done(lp->pool, event, 0);
  if (lp->open == NULL) lua_error(L);
  while (lp->open != NULL) {
    lua_pushvalue(L, -1);
    lcall_fail(L, lp->open);
  }
  lua_pop(L, 1);
}

/* The event's call and its values stand at c->at. */
static void take_for_call(lua_State *L, struct call *c, const struct pool_event *event) {
  if (event->kind == POOL_RESULTS) {
    take_results(L, c, event);
  } else if (event->kind == POOL_FAILED) {
    take_failed(L, c, event);
  } else {
    take_lost(L, c, event);
  }
}

/*
 * The open call of that number, with its values on the stack behind LTAKE_CALLS: they may stand there since the last event, of the same
 * call. NULL: there is none.
 */
static struct call *call_at_hand(lua_State *L, uint64_t number) {
  struct call *c;
  if (lua_gettop(L) == LTAKE_CALLS + AT_VALUES) {
    c = lua_touserdata(L, LTAKE_CALLS + AT_CALL);
    c->at = LTAKE_CALLS;
    if (c->number == number) return c->phase == CALL_OPEN ? c : NULL;
  }
  lua_settop(L, LTAKE_CALLS);
  if (lua_rawgeti(L, LTAKE_CALLS, (lua_Integer)number) != LUA_TUSERDATA) return NULL;
  c = lua_touserdata(L, -1);
  if (c->phase != CALL_OPEN) return NULL;
  push_values(L, c);
  return c;
}

static void take_other(lua_State *L, struct lpool *lp, struct pool_event *event) {
  lua_settop(L, LTAKE_CALLS);
  if (event->kind == POOL_UNREADY) {
    take_unready(L, lp, event);
  } else if (event->kind == POOL_NOTICE) {
    lpool_take_notice(lp, L, event);
  } else if (event->kind == POOL_PARTING) {
    lpool_take_parting(lp, L, event);
  } else {
    loutput_take(lp, L, event);
  }
}

void ltake_event(lua_State *L, struct lpool *lp, struct pool_event *event) {
  struct call *c;
  lp->is_fed = 0;
  if (event->kind == POOL_UNREADY || event->kind == POOL_NOTICE || event->kind == POOL_PARTING || event->kind == POOL_OUTPUT) {
    take_other(L, lp, event);
    return;
  }
  c = call_at_hand(L, event->call);
  if (c == NULL) {
    (void)pool_done(lp->pool, event, event->count);
    return;
  }
  lp->taking = c;
  lp->seen_ns[event->worker - 1] = os_now_ns();
  codec_read_until(lp->codec, 0); /* (an error may have left another) */
  take_for_call(L, c, event);
  lp->taking = NULL;
  lcall_judge(L, c);
  lua_settop(L, LTAKE_CALLS + AT_VALUES);
}

int ltake_rest(lua_State *L, struct lpool *lp) {
  int top = lua_gettop(L);
  struct call *c;
  if (!lp->part.is_open) return 1;
  c = lcall_find(L, lp, lp->part.event.call);
  if (c == NULL || c->phase != CALL_OPEN) { /* nobody wants it any more: it is shown again, and passed over as a whole */
    lp->part.is_open = 0;
    codec_drop(lp->codec, L);
    lua_settop(L, top);
    return 1;
  }
  lp->taking = c;
  push_values(L, c);
  lcall_name(L, c); /* another call may have been written meanwhile */
  go_on(L, c);
  lp->taking = NULL;
  lcall_judge(L, c);
  lua_settop(L, top);
  return !lp->part.is_open;
}
