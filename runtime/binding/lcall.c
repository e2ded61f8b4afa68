/*
 * binding/lcall -- one call: from a function and a source to published work, and from frames back to a table of results.
 *
 * Room: binding (may include binding/lpool.h and binding/loutput.h).  Owns: the call's registry references and input memory, given back in end_call
 * however the call ends.
 * The body runs under a pcall of ours: an interrupt, an error of the source or of memory first cancels what runs, then goes on its way.
 */
#include <errno.h>
#include <lauxlib.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/os.h"
#include "binding/lpool.h"
#include "job/delivery.h"
#include "pool/schedule.h"
#include "process/interrupt.h"

#define NS_PER_S 1e9

enum {
  TOO_BIG_TO_SEND_BYTES = 8 << 20, /* beyond it a fresh fork costs less than writing and reading the function */
  BLOCK_BYTES = 256 * 1024,        /* a block is closed when it holds this much */
  FILL_NS = 1000 * 1000,           /* and when the source took this long: workers wait for it */
  IN_FLIGHT_BYTES = 32 << 20,      /* written and not yet done, unless a single item is larger */
  ATTENTION_NS = 500 * 1000,       /* while cancelling: look again this often */
  ITEM_READS = 1 << 20,            /* items of an iterator read again to word errors: a call whose every item fails must end, too */
  FIRST_TABLE_ITEMS = 1 << 26      /* a results table is made this large at most in advance */
};

enum crash_policy { CRASH_RAISE, CRASH_RETRY, CRASH_SKIP };

/* Where a call keeps its Lua values: arguments of lpool_run, then its own. */
enum {
  ARG_HANDLE = 1, ARG_FN = 2, ARG_A = 4, ARG_B = 5, ARG_N = 6, ARG_OPTIONS = 7,
  AT_RESULTS = 8, AT_ERRORS = 9, AT_TRIES = 10, AT_TOP = 10
};

struct call {
  struct lpool *lp;
  struct pool *p;
  uint64_t number;
  struct job job;
  struct pool_work work; /* what is common to all entries of the call */
  int is_stateless;        /* fn as it was written: loading it once is as good as loading it again (the numbers of a range are no state) */
  int is_apply;          /* one task with arguments, all of its results wanted */
  int owns_input;        /* that memory is given back at the end of the call */
  /* options */
  uint32_t chunk, retries, crash_retries;
  int crash, collects, wants_results;
  int64_t timeout_ns;
  /* progress */
  uint64_t total;   /* items; UINT64_MAX while the source has not ended */
  uint64_t written; /* items posted */
  uint64_t settled; /* items done or failed for good */
  uint64_t failed_at; /* lowest failed item, or UINT64_MAX */
  lua_Integer n_errors;
  uint64_t item_reads; /* left of ITEM_READS */
};

/* ---- error tables ---- */

static void set_string(lua_State *L, const char *name, const char *value) {
  lua_pushstring(L, value);
  lua_setfield(L, -2, name);
}

static void set_integer(lua_State *L, const char *name, lua_Integer value) {
  lua_pushinteger(L, value);
  lua_setfield(L, -2, name);
}

static const char *signal_name(int signo) {
  static const struct { int signo; const char *name; } names[] = {
    {SIGKILL, "SIGKILL"}, {SIGSEGV, "SIGSEGV"}, {SIGABRT, "SIGABRT"}, {SIGBUS, "SIGBUS"}, {SIGFPE, "SIGFPE"}, {SIGILL, "SIGILL"},
    {SIGTERM, "SIGTERM"}, {SIGINT, "SIGINT"}, {SIGHUP, "SIGHUP"}, {SIGPIPE, "SIGPIPE"}, {SIGQUIT, "SIGQUIT"}, {SIGXCPU, "SIGXCPU"},
    {SIGALRM, "SIGALRM"}, {SIGUSR1, "SIGUSR1"}, {SIGUSR2, "SIGUSR2"}, {SIGTRAP, "SIGTRAP"}, {SIGSYS, "SIGSYS"}, {SIGIO, "SIGIO"}};
  size_t i;
  for (i = 0; i < sizeof names / sizeof *names; i++)
    if (names[i].signo == signo) return names[i].name;
  return NULL;
}

/* A new error table with what is known from the event alone. */
static void push_error(lua_State *L, const struct pool_event *event) {
  lua_createtable(L, 0, 10);
  luaL_setmetatable(L, "luapool.Error");
  if (event->worker) set_integer(L, "worker", event->worker);
  if (event->pid) set_integer(L, "pid", event->pid);
}

static void set_end(lua_State *L, const struct process_end *end) {
  const char *name = signal_name(end->signal);
  if (end->is_known && end->signal) {
    if (name) {
      set_string(L, "signal", name);
    } else {
      lua_pushfstring(L, "signal %d", end->signal);
      lua_setfield(L, -2, "signal");
    }
  } else if (end->is_known) {
    set_integer(L, "exitcode", end->exit_code);
  }
  if (end->max_rss_bytes) set_integer(L, "max_rss", (lua_Integer)end->max_rss_bytes);
}

/* Describe in words how a worker ended; leaves the text on the stack. */
static void push_end_text(lua_State *L, const struct pool_event *event) {
  const struct process_end *end = &event->end;
  const char *name = signal_name(end->signal);
  if (event->reason == POOL_DAMAGED) {
    lua_pushliteral(L, "the worker sent damaged data and was ended");
  } else if (!end->is_known) {
    lua_pushliteral(L, "the worker ended (how is not known: somebody else reaped it)");
  } else if (end->signal) {
    if (name) {
      lua_pushfstring(L, "the worker was killed by %s%s", name, end->dumped_core ? " (core dumped)" : "");
    } else {
      lua_pushfstring(L, "the worker was killed by signal %d", end->signal);
    }
  } else {
    lua_pushfstring(L, "the worker left with exit status %d", end->exit_code);
  }
  if (end->max_rss_bytes) {
    lua_pushfstring(L, "; its peak memory was %d MiB", (int)(end->max_rss_bytes >> 20));
    lua_concat(L, 2);
  }
}

/* Read the next value of an error record into field `name` of the table at the top. 0, or -EBADMSG. */
static int read_field(struct lpool *lp, lua_State *L, struct codec_reader *reader, const char *name) {
  int status = codec_read(lp->codec, L, reader);
  if (status == 0) {
    lua_setfield(L, -2, name);
  } else if (status != -ENOENT) {
    return -EBADMSG;
  }
  return 0;
}

/* The value of the record on top is the interrupt that somebody's signal to the worker became: that is how it ends. */
static void set_outside_signal(lua_State *L) {
  const char *name = NULL;
  if (lua_getfield(L, -1, "value") == LUA_TTABLE) {
    lua_pushliteral(L, "signal");
    if (lua_rawget(L, -2) == LUA_TSTRING) name = lua_tostring(L, -1);
    lua_pop(L, 1);
  }
  lua_pushstring(L, name ? name : "SIGTERM");
  lua_replace(L, -2);
  lua_pushfstring(L, "the worker was told to end by %s", lua_tostring(L, -1));
  lua_setfield(L, -3, "message");
  lua_setfield(L, -2, "signal");
  set_string(L, "kind", "crash");
  set_string(L, "value", NULL);
}

/* The error table of a record that a worker sent. 0: it is pushed; -EBADMSG: nothing is. */
static int push_record(struct lpool *lp, lua_State *L, const struct pool_event *event) {
  static const char *const fields[] = {"kind", "message", "traceback", "item", "value"};
  struct codec_reader reader;
  const char *kind;
  size_t i;
  push_error(L, event);
  codec_read_begin(lp->codec, &reader, event->data, event->length);
  for (i = 0; i < sizeof fields / sizeof *fields; i++) {
    if (read_field(lp, L, &reader, fields[i]) == 0) continue;
    lua_pop(L, 1);
    return -EBADMSG;
  }
  if (lua_getfield(L, -1, "kind") != LUA_TSTRING) {
    lua_pop(L, 2);
    return -EBADMSG;
  }
  kind = lua_tostring(L, -1);
  lua_pop(L, 1); /* the table keeps it */
  if (strcmp(kind, "interrupt") == 0) set_outside_signal(L);
  if (strcmp(kind, "serialize") == 0) set_string(L, "value", NULL); /* the message is ours: nobody raised it */
  return 0;
}

/* Push the item of an iterator's that failed, from the block it was written into. 0: not to be had; nothing is pushed. */
static int push_written_item(struct call *c, lua_State *L, const struct pool_event *event) {
  const unsigned char *data;
  struct codec_reader reader;
  size_t length;
  uint64_t before;
  if (pool_block(c->p, event, &data, &length, &before) < 0 || before >= c->item_reads) return 0;
  c->item_reads -= before + 1;
  codec_read_begin(c->lp->sender, &reader, data, length); /* the other codec may be in the middle of results */
  while (codec_read(c->lp->sender, L, &reader) == 0) {
    if (before-- == 0) return 1;
    lua_pop(L, 1);
  }
  return 0;
}

/* Set `index` and, where it can be told, `item` in the error table on top. */
static void locate(struct call *c, lua_State *L, const struct pool_event *event) {
  if (c->is_apply) return; /* there is only one */
  set_integer(L, "index", (lua_Integer)event->first + 1);
  if (c->job.source.kind != SOURCE_ITERATOR) {
    task_push_item(L, &c->job.source, event->first);
  } else if (!push_written_item(c, L, event)) {
    return;
  }
  task_item_text(L, -1);
  lua_setfield(L, -3, "item");
  lua_pop(L, 1);
}

/* ---- failures ---- */

/* How often item `number` has failed before; counts this failure. */
static uint32_t count_try(lua_State *L, uint64_t number) {
  lua_Integer tries;
  if (!lua_istable(L, AT_TRIES)) {
    lua_newtable(L);
    lua_replace(L, AT_TRIES);
  }
  lua_rawgeti(L, AT_TRIES, (lua_Integer)number + 1);
  tries = lua_tointeger(L, -1) + 1;
  lua_pop(L, 1);
  lua_pushinteger(L, tries);
  lua_rawseti(L, AT_TRIES, (lua_Integer)number + 1);
  return (uint32_t)tries;
}

/* The error table on top is the last word on item `number`: keep it where the call keeps errors. Pops it. */
static void keep_error(struct call *c, lua_State *L, uint64_t number) {
  if (!lua_istable(L, AT_ERRORS)) {
    lua_newtable(L);
    lua_replace(L, AT_ERRORS);
  }
  lua_rawseti(L, AT_ERRORS, (lua_Integer)number + 1);
  c->n_errors++;
  if (number < c->failed_at) c->failed_at = number;
}

/* Is the error table on top of that kind? */
static int is_of_kind(lua_State *L, const char *kind) {
  int result;
  lua_getfield(L, -1, "kind");
  result = lua_type(L, -1) == LUA_TSTRING && strcmp(lua_tostring(L, -1), kind) == 0;
  lua_pop(L, 1);
  return result;
}

/* The error table is on top. Returns 1 if the item runs again; pops the table in any case. */
static int take_failure(struct call *c, lua_State *L, const struct pool_event *event) {
  int is_crash = is_of_kind(L, "crash"); /* a worker that was told to end by others says so itself: no POOL_LOST */
  uint32_t retries = is_crash ? c->crash_retries : c->retries;
  if (retries && schedule_retry(count_try(L, event->first), retries) && pool_repost(c->p, event) == 0) {
    lua_pop(L, 1);
    return 1;
  }
  locate(c, L, event);
  c->settled++;
  if (is_crash && c->crash == CRASH_SKIP && !c->collects) {
    lua_pop(L, 1);
  } else {
    keep_error(c, L, event->first);
  }
  return 0;
}

/* ---- events ---- */

/* The worker does not know the call's limit, and says only that there was one: put it into words. */
static void word_timeout(const struct call *c, lua_State *L) {
  lua_getfield(L, -1, "kind");
  lua_getfield(L, -2, "value");
  if (strcmp(lua_tostring(L, -2), "timeout") == 0 && luaL_getmetafield(L, -1, "__name") != LUA_TNIL) {
    lua_pop(L, 1);
    lua_pushfstring(L, "the item took longer than %f s", (lua_Number)c->timeout_ns / NS_PER_S);
    lua_setfield(L, -4, "message");
  }
  lua_pop(L, 2);
}

/* All results of an applied function: their number, then they. Into AT_RESULTS as { n = number, ... }. */
static int read_all(struct call *c, lua_State *L, struct codec_reader *reader) {
  lua_Integer n, i;
  int status = codec_read(c->lp->codec, L, reader);
  if (status != 0) return status;
  n = lua_tointeger(L, -1);
  lua_pop(L, 1);
  if (n < 0 || n > INT32_MAX) return -EBADMSG;
  for (i = 1; i <= n; i++) {
    status = codec_read(c->lp->codec, L, reader);
    if (status != 0) return status;
    lua_rawseti(L, AT_RESULTS, i);
  }
  lua_pushinteger(L, n);
  lua_setfield(L, AT_RESULTS, "n");
  return 0;
}

/* Something that result `number` names is not here: that item's failure. */
static void take_missing(struct call *c, lua_State *L, const struct pool_event *event, uint64_t number) {
  struct pool_event one = *event;
  one.kind = POOL_FAILED;
  one.first = number;
  push_error(L, event);
  set_string(L, "kind", "serialize");
  set_string(L, "message", codec_message(c->lp->codec));
  (void)take_failure(c, L, &one);
}

static void take_results(struct call *c, lua_State *L, const struct pool_event *event) {
  struct codec_reader reader;
  uint64_t done = 0, settled = 0; /* of the frame's items: accounted for; of these, not failed */
  codec_read_begin(c->lp->codec, &reader, event->data, event->length);
  if (!c->wants_results) done = settled = event->count;
  while (done < event->count) {
    size_t some = 0;
    int status;
    if (c->is_apply) {
      status = read_all(c, L, &reader);
      some = status == 0;
    } else {
      lua_Integer first = (lua_Integer)(event->first + done) + 1;
      status = codec_read_array(c->lp->codec, L, &reader, AT_RESULTS, first, (size_t)(event->count - done), &some);
    }
    done += some;
    settled += some;
    if (status == 0) continue;
    if (status != -ENOENT) break;
    (void)take_missing(c, L, event, event->first + done);
    done++;
  }
  if (pool_done(c->p, event, done) == 0) c->settled += settled;
}

static void take_unready(struct call *c, lua_State *L, const struct pool_event *event) {
  if (event->length == 0 || push_record(c->lp, L, event) < 0) {
    push_error(L, event);
    set_string(L, "kind", "crash");
    set_end(L, &event->end);
    lua_pushliteral(L, "workers die before they are ready: ");
    push_end_text(L, event);
    lua_concat(L, 2);
  } else {
    lua_getfield(L, -1, "message");
    lua_pushliteral(L, "on_start failed: ");
    lua_insert(L, -2);
    lua_concat(L, 2);
  }
  lua_setfield(L, -2, "message");
  (void)pool_done(c->p, event, 0);
  lua_error(L);
}

static void take_event(struct call *c, lua_State *L, const struct pool_event *event) {
  switch (event->kind) {
    case POOL_RESULTS:
      take_results(c, L, event);
      return;
    case POOL_FAILED:
      if (push_record(c->lp, L, event) < 0) {
        pool_condemn(c->p, event);
        (void)pool_done(c->p, event, 0);
        return;
      }
      word_timeout(c, L);
      (void)take_failure(c, L, event);
      (void)pool_done(c->p, event, 1);
      return;
    case POOL_LOST:
      push_error(L, event);
      set_string(L, "kind", event->reason == INTERRUPT_TIMEOUT ? "timeout" : "crash");
      set_end(L, &event->end);
      push_end_text(L, event);
      if (event->reason == INTERRUPT_TIMEOUT) {
        lua_pop(L, 1);
        lua_pushfstring(L, "the item took longer than %f s and did not stop when asked", (lua_Number)c->timeout_ns / NS_PER_S);
      }
      lua_setfield(L, -2, "message");
      (void)take_failure(c, L, event);
      (void)pool_done(c->p, event, 1);
      return;
    case POOL_UNREADY:
      take_unready(c, L, event);
      return;
    case POOL_OUTPUT:
      loutput_take(c->lp, L, event);
      return;
    default:
      lpool_take_notice(c->lp, L, event);
  }
}

/* Take all that is there. */
static void take_events(struct call *c, lua_State *L) {
  struct pool_event event;
  int turns = 0;
  while (pool_next(c->p, &event) != POOL_NOTHING) {
    take_event(c, L, &event);
    if (++turns % 64 == 0 && interrupt_pending()) return;
  }
  if (pool_status(c->p) < 0) luaL_error(L, "the pool cannot go on: %s", strerror(-pool_status(c->p)));
}

/* ---- functions on their way ---- */

/* Write fn and where an indexed source begins. Returns codec_write's status; the bytes are in lp->out. */
static int write_job(struct call *c, lua_State *L) {
  struct lpool *lp = c->lp;
  int status;
  bytes_clear(&lp->out);
  codec_begin(lp->sender, &lp->out, CODEC_WITH_GLOBALS, "function");
  status = codec_write(lp->sender, L, ARG_FN);
  c->is_stateless = codec_is_stateless(lp->sender);
  if (status < 0 || c->work.kind != BOARD_INDEXED) return status;
  lua_pushvalue(L, ARG_A);
  status = codec_write(lp->sender, L, -1);
  lua_pop(L, 1);
  if (status < 0) return status;
  lua_pushvalue(L, ARG_B);
  status = codec_write(lp->sender, L, -1);
  lua_pop(L, 1);
  return status;
}

static void forget_sent(struct lpool *lp) {
  if (lp->sent_job) pool_input_free(lp->pool, lp->sent_offset, lp->sent_length);
  lp->sent_job = 0;
}

/* The bytes in lp->out go to input memory, or are there already. */
static void place_job(struct call *c, lua_State *L) {
  struct lpool *lp = c->lp;
  void *memory;
  int status;
  if (c->is_stateless && lp->sent_job && lp->sent_length == lp->out.length && memcmp(lp->sent.data, lp->out.data, lp->out.length) == 0) {
    c->job.number = lp->sent_job;
  } else {
    forget_sent(lp);
    status = pool_input(c->p, lp->out.length, &lp->sent_offset, &memory);
    if (status < 0) luaL_error(L, "no memory to send the function: %s", strerror(-status));
    memcpy(memory, lp->out.data, lp->out.length);
    lp->sent_length = lp->out.length;
    lp->sent_job = c->job.number;
    bytes_clear(&lp->sent);
    if (!c->is_stateless || bytes_append(&lp->sent, lp->out.data, lp->out.length) < 0) c->owns_input = 1;
    lp->n_sent++;
  }
  c->work.job = c->job.number;
  c->work.job_offset = lp->sent_offset;
  c->work.job_length = lp->sent_length;
}

/* The workers cannot be told: let them go; the next are forked with the function in them. */
static void renew_workers(struct call *c, lua_State *L) {
  c->lp->n_renewed++;
  forget_sent(c->lp);
  if (!lpool_end(c->lp, L, -1, -1, 1)) (void)lpool_end(c->lp, L, c->lp->grace_ns, -1, 0);
}

/* Workers that live already need the function sent; those forked from now on inherit it. */
static void send_function(struct call *c, lua_State *L) {
  int status;
  if (pool_living(c->p) == 0) {
    forget_sent(c->lp);
    return;
  }
  status = c->work.kind == BOARD_INDEXED && c->job.source.kind == SOURCE_TABLE ? -EINVAL : write_job(c, L);
  if (status == -EINVAL || status == -EMSGSIZE || c->lp->out.length > TOO_BIG_TO_SEND_BYTES) {
    renew_workers(c, L);
  } else if (status < 0) {
    luaL_error(L, "cannot send the function: %s", codec_message(c->lp->sender));
  } else {
    place_job(c, L);
  }
}

/* ---- work ---- */

static void start_workers(struct call *c, lua_State *L) {
  uint32_t wanted = c->lp->n_workers;
  int status, is_first = pool_living(c->p) == 0;
  if (c->lp->is_terminated) luaL_error(L, "the pool was terminated during the call");
  if (c->total < wanted) wanted = (uint32_t)c->total;
  if (is_first && !c->lp->is_one_shot) codec_know_globals(c->lp->sender, L); /* what they inherit: functions are sent to them later */
  status = pool_start(c->p, wanted, is_first);
  if (status < 0) luaL_error(L, "cannot start workers: fork: %s", strerror(-status));
}

static void post(struct call *c, lua_State *L, const struct pool_work *work) {
  int status = pool_post(c->p, work);
  if (status < 0) {
    if (work->kind == BOARD_BLOCK) pool_input_free(c->p, work->block_offset, work->block_length);
    luaL_error(L, "cannot hand out work: %s", strerror(-status));
  }
}

/* Push the next item of the source. 0: there is none. */
static int push_next_item(struct call *c, lua_State *L, uint64_t number) {
  if (number >= c->total) return 0;
  if (c->job.source.kind != SOURCE_ITERATOR) {
    task_push_item(L, &c->job.source, number);
    return 1;
  }
  lua_pushvalue(L, ARG_A);
  lua_call(L, 0, 1);
  if (!lua_isnil(L, -1)) return 1;
  lua_pop(L, 1);
  c->total = number;
  return 0;
}

/* An item that cannot cross is that item's failure, not the call's. The item is on top, and is popped. */
static void refuse_item(struct call *c, lua_State *L, uint64_t number) {
  struct pool_event event;
  memset(&event, 0, sizeof event);
  push_error(L, &event);
  set_string(L, "kind", "serialize");
  set_string(L, "message", codec_message(c->lp->codec));
  set_integer(L, "index", (lua_Integer)number + 1);
  task_item_text(L, -2);
  lua_setfield(L, -2, "item");
  keep_error(c, L, number);
  lua_pop(L, 1);
  c->settled++;
}

static void post_block(struct call *c, lua_State *L, uint64_t first, uint64_t count) {
  struct pool_work work = c->work;
  void *memory;
  int status;
  if (count == 0) return;
  work.first = first;
  work.count = count;
  work.block_length = c->lp->out.length;
  status = pool_input(c->p, work.block_length, &work.block_offset, &memory);
  if (status < 0) luaL_error(L, "no memory for the items: %s", strerror(-status));
  memcpy(memory, c->lp->out.data, c->lp->out.length);
  post(c, L, &work);
}

/* Write one block: as many items as the schedule says, fewer if they are large or slow in coming. */
static void write_block(struct call *c, lua_State *L) {
  struct lpool *lp = c->lp;
  uint64_t left = c->total == UINT64_MAX ? UINT64_MAX : c->total - c->written, first = c->written, count = 0, size;
  int64_t until = os_now_ns() + FILL_NS;
  size = schedule_block(left, c->written, lp->n_workers, pool_item_ns(c->p, c->number), c->chunk);
  bytes_clear(&lp->out);
  codec_begin(lp->codec, &lp->out, 0, "item");
  while (count < size && lp->out.length < BLOCK_BYTES) {
    int status;
    if (!push_next_item(c, L, first + count)) break;
    c->written = first + count + 1;
    status = codec_write(lp->codec, L, -1);
    if (status < 0) {
      refuse_item(c, L, first + count);
      break;
    }
    lua_pop(L, 1);
    count++;
    if (!c->chunk && os_now_ns() > until) break;
  }
  post_block(c, L, first, count);
  if (lp->out.capacity > 4 * BLOCK_BYTES) bytes_free(&lp->out);
}

/* Write blocks ahead of the workers, but not too far. */
static void write_blocks(struct call *c, lua_State *L) {
  uint32_t window = schedule_window(c->lp->n_workers);
  if (c->work.kind != BOARD_BLOCK) return;
  while (c->written < c->total && pool_unclaimed(c->p, c->number) < window && pool_can_post(c->p) > BOARD_ENTRIES / 4 &&
         pool_in_flight(c->p, c->number) < IN_FLIGHT_BYTES) {
    write_block(c, L);
    if (interrupt_pending() || (c->failed_at != UINT64_MAX && !c->collects)) return;
  }
}

static void post_all(struct call *c, lua_State *L) {
  struct pool_work work = c->work;
  if (c->work.kind != BOARD_INDEXED || c->total == 0) return;
  work.first = 0;
  work.count = c->written = c->total;
  post(c, L, &work);
}

/* ---- waiting ---- */

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

static void check_interrupt(lua_State *L) {
  if (interrupt_pending() && delivery_checkpoint(L)) luaL_error(L, "cancelled: an interrupt is pending");
}

static int is_finished(const struct call *c) {
  if (!c->collects && c->failed_at != UINT64_MAX) return 1;
  return c->total != UINT64_MAX && c->settled >= c->total;
}

/* The table of results. Made after the workers were forked: pages written before would be copied when they are written again. */
static void make_results(const struct call *c, lua_State *L) {
  if (!lua_isnil(L, AT_RESULTS)) return;
  lua_createtable(L, c->wants_results && !c->is_apply && c->total < FIRST_TABLE_ITEMS ? (int)c->total : 0, 0);
  lua_replace(L, AT_RESULTS);
}

/* The one blocking wait: until every item is settled, or one failed for good. */
static void drive(struct call *c, lua_State *L) {
  if (is_finished(c)) make_results(c, L);
  while (!is_finished(c)) {
    check_interrupt(L);
    start_workers(c, L);
    make_results(c, L);
    take_events(c, L);
    write_blocks(c, L);
    if (is_finished(c)) break;
    start_workers(c, L); /* once more: nobody may wait for those who have just been found dead */
    if (!interrupt_pending() && pool_wait(c->p, interrupt_fd(), -1) == -EINTR && !interrupt_pending()) let_hooks_run(L);
  }
  check_interrupt(L);
  if (!c->collects && c->failed_at != UINT64_MAX) take_events(c, L); /* a lower one may be there already */
}

/* ---- cancelling and ending ---- */

static void cancel_call(struct call *c, lua_State *L) {
  struct lpool *lp = c->lp;
  struct pool_event event;
  int64_t until = os_now_ns() + lp->grace_ns;
  int is_killed = 0;
  interrupt_ending(1);
  interrupt_obeying(1);
  pool_cancel(c->p, c->number, until);
  for (;;) {
    int64_t now;
    while (pool_next(c->p, &event) != POOL_NOTHING) {
      if (event.kind == POOL_OUTPUT) {
        loutput_take(lp, L, &event);
      } else {
        (void)pool_done(c->p, &event, event.count);
      }
    }
    if (pool_is_quiet(c->p, c->number)) break;
    now = os_now_ns();
    if (!is_killed && (now >= until || interrupt_is_urgent())) {
      pool_kill_stragglers(c->p, c->number);
      is_killed = 1;
      until = now + (int64_t)1000000000;
    } else if (is_killed && now >= until) {
      break; /* it cannot be killed (a dead file system): it is abandoned with the pool */
    }
    (void)pool_wait(c->p, -1, now + ATTENTION_NS < until ? now + ATTENTION_NS : until);
  }
  interrupt_obeying(-1);
  interrupt_ending(-1);
}

static void end_call(struct call *c, lua_State *L) {
  struct job **at;
  for (at = &c->lp->tasks.jobs; *at != NULL; at = &(*at)->next) {
    if (*at != &c->job) continue;
    *at = c->job.next;
    break;
  }
  luaL_unref(L, LUA_REGISTRYINDEX, c->job.fn_reference);
  luaL_unref(L, LUA_REGISTRYINDEX, c->job.source.reference);
  if (c->owns_input) forget_sent(c->lp);
  loutput_settle(c->lp, L);
  pool_trim(c->p);
  c->lp->is_busy = 0;
}

static uint32_t option_count(lua_State *L, const char *name) {
  lua_Integer value;
  lua_getfield(L, ARG_OPTIONS, name);
  value = lua_tointeger(L, -1);
  lua_pop(L, 1);
  return value < 0 ? 0 : value > INT32_MAX ? INT32_MAX : (uint32_t)value;
}

static int option_flag(lua_State *L, const char *name) {
  int value;
  lua_getfield(L, ARG_OPTIONS, name);
  value = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return value;
}

static void read_options(struct call *c, lua_State *L) {
  static const char *const policies[] = {"raise", "retry", "skip", NULL};
  c->chunk = option_count(L, "chunk");
  c->retries = option_count(L, "retries");
  c->crash_retries = option_count(L, "crash_retries");
  c->collects = option_flag(L, "collect");
  c->wants_results = !option_flag(L, "discard");
  lua_getfield(L, ARG_OPTIONS, "on_crash");
  c->crash = luaL_checkoption(L, -1, "raise", policies);
  lua_getfield(L, ARG_OPTIONS, "memory");
  c->work.memory_bytes = lua_tointeger(L, -1);
  lua_getfield(L, ARG_OPTIONS, "timeout");
  c->timeout_ns = (int64_t)(lua_tonumber(L, -1) * NS_PER_S);
  lua_pop(L, 3);
}

/* Fill c->job.source from the arguments. Tables and functions get a registry reference, so that forked workers find them. */
static void read_source(struct call *c, lua_State *L) {
  struct source *s = &c->job.source;
  const char *kind = luaL_checkstring(L, 3);
  s->reference = LUA_NOREF;
  s->count = lua_isnil(L, ARG_N) ? UINT64_MAX : (uint64_t)luaL_checkinteger(L, ARG_N);
  if (strcmp(kind, "range") == 0) {
    s->kind = lua_isinteger(L, ARG_A) && lua_isinteger(L, ARG_B) ? SOURCE_INTEGERS : SOURCE_FLOATS;
    s->first = lua_tointeger(L, ARG_A);
    s->step = lua_tointeger(L, ARG_B);
    s->first_float = luaL_checknumber(L, ARG_A);
    s->step_float = luaL_checknumber(L, ARG_B);
    return;
  }
  s->kind = strcmp(kind, "table") == 0 ? SOURCE_TABLE : SOURCE_ITERATOR;
  lua_pushvalue(L, ARG_A);
  s->reference = luaL_ref(L, LUA_REGISTRYINDEX);
}

static void begin_call(struct call *c, struct lpool *lp) {
  memset(c, 0, sizeof *c);
  c->lp = lp;
  c->p = lp->pool;
  c->number = c->job.number = ++lp->calls;
  c->failed_at = UINT64_MAX;
  c->item_reads = ITEM_READS;
  c->job.fn_reference = c->job.source.reference = LUA_NOREF;
  lp->is_busy = 1;
  lp->n_calls++;
}

/* A table can be indexed by workers that are forked now; workers that live already get its items written out, as those of an iterator. */
static enum board_entry_kind kind_of_work(const struct call *c) {
  if (c->job.source.kind == SOURCE_ITERATOR) return BOARD_BLOCK;
  return c->job.source.kind == SOURCE_TABLE && pool_living(c->p) > 0 ? BOARD_BLOCK : BOARD_INDEXED;
}

static void plan_work(struct call *c) {
  c->total = c->job.source.count;
  c->work.kind = c->is_apply ? BOARD_BLOCK : kind_of_work(c);
  c->work.call = c->number;
  c->work.job = c->job.number;
  c->work.chunk = c->chunk;
  c->work.timeout_ns = c->timeout_ns;
  if (!c->wants_results) c->work.flags |= BOARD_NO_RESULTS;
  if (c->is_apply) c->work.flags |= BOARD_ALL_RESULTS | BOARD_ARGUMENTS;
  if (c->collects || c->retries) c->work.flags |= BOARD_GO_ON;
  c->job.next = c->lp->tasks.jobs;
  c->lp->tasks.jobs = &c->job;
}

/* From the arguments to a plan. From here on end_call has something to give back. */
static void prepare_call(struct call *c, lua_State *L) {
  /* What the host printed comes before what its tasks print. Once that failed, leave it to the script's own writes to notice. */
  if (!ferror(stdout)) fflush(stdout);
  lua_pushvalue(L, ARG_FN);
  c->job.fn_reference = luaL_ref(L, LUA_REGISTRYINDEX);
  codec_name_function(c->lp->codec, L, ARG_FN);
  read_options(c, L);
  if (c->is_apply) {
    c->job.source.count = 1;
  } else {
    read_source(c, L);
  }
  plan_work(c);
}

static void refuse_if_busy(struct lpool *lp, lua_State *L, const char *method) {
  if (lp->is_busy) luaL_error(L, "cannot use '%s': the pool is busy with another call", method);
}

static void finish_call(struct call *c, lua_State *L) {
  if (!c->collects && c->failed_at != UINT64_MAX) cancel_call(c, L);
  end_call(c, L);
}

/* The body failed; its error is on top. What it left running is stopped first. */
static int abort_call(struct call *c, lua_State *L) {
  cancel_call(c, L);
  end_call(c, L);
  return lua_error(L);
}

/* (handle, fn, kind, a, b, n, options, nil, nil, nil, call) -> results, errors */
static int run_body(lua_State *L) {
  struct call *c = lua_touserdata(L, AT_TOP + 1);
  lua_settop(L, AT_TOP);
  prepare_call(c, L);
  send_function(c, L);
  post_all(c, L);
  write_blocks(c, L);
  drive(c, L);
  lua_settop(L, AT_ERRORS);
  return 2;
}

/*
 * handle:run(fn, kind, a, b, n, options) -> results, n, errors
 *   kind     "range" (a first, b step), "table" (a), "iterator" (a: function() -> item or nil, n nil)
 *   options  { chunk =, timeout = seconds, retries =, crash_retries =, on_crash =, collect =, discard = }, checked by the caller
 *   errors   nil, or a table of error tables by item; without `collect` the call ended at the first
 * Blocks until the call is over. Raises what the source raises, an interrupt, and what ails the pool itself; nothing of the
 * call is left then.
 */
int lpool_run(lua_State *L) {
  struct lpool *lp = lpool_check(L, "map");
  struct call call;
  int i;
  refuse_if_busy(lp, L, "map");
  lua_settop(L, AT_TOP);
  begin_call(&call, lp);
  lua_pushcfunction(L, run_body);
  for (i = 1; i <= AT_TOP; i++) lua_pushvalue(L, i);
  lua_pushlightuserdata(L, &call);
  if (lua_pcall(L, AT_TOP + 1, 2, 0) != LUA_OK) return abort_call(&call, L);
  finish_call(&call, L);
  lua_pushinteger(L, (lua_Integer)(call.total == UINT64_MAX ? call.written : call.total));
  lua_insert(L, -2);
  return 3;
}

/* (handle, fn, "apply", nil, nil, 1, options, nil, nil, nil, call, arguments ...) -> results { n = } or nil, errors or nil */
static int apply_body(lua_State *L) {
  struct call *c = lua_touserdata(L, AT_TOP + 1);
  struct lpool *lp = c->lp;
  int i, top = lua_gettop(L);
  prepare_call(c, L);
  send_function(c, L);
  bytes_clear(&lp->out);
  codec_begin(lp->codec, &lp->out, 0, "argument");
  lua_pushinteger(L, top - (AT_TOP + 1));
  (void)codec_write(lp->codec, L, -1);
  for (i = AT_TOP + 2; i <= top; i++) {
    if (codec_write(lp->codec, L, i) == 0) continue;
    return luaL_error(L, "argument #%d of the task: %s", i - (AT_TOP + 1), codec_message(lp->codec));
  }
  lua_settop(L, AT_TOP);
  post_block(c, L, 0, 1);
  c->written = 1;
  drive(c, L);
  lua_settop(L, AT_ERRORS);
  return 2;
}

/*
 * handle:apply(options, fn, ...) -> results { n =, ... }, nil | nil, error table
 * One task; blocks until it is over; raises as lpool_run does.
 */
int lpool_apply(lua_State *L) {
  struct lpool *lp = lpool_check(L, "apply");
  struct call call;
  int i, n = lua_gettop(L) - 3;
  refuse_if_busy(lp, L, "apply");
  luaL_checkstack(L, n + AT_TOP + 8, "too many arguments");
  begin_call(&call, lp);
  call.is_apply = 1;
  lua_pushcfunction(L, apply_body);
  lua_pushvalue(L, 1);
  lua_pushvalue(L, 3);
  lua_pushliteral(L, "apply");
  lua_pushnil(L);
  lua_pushnil(L);
  lua_pushinteger(L, 1);
  lua_pushvalue(L, 2);
  for (i = AT_RESULTS; i <= AT_TOP; i++) lua_pushnil(L);
  lua_pushlightuserdata(L, &call);
  for (i = 1; i <= n; i++) lua_pushvalue(L, 3 + i);
  if (lua_pcall(L, AT_TOP + 1 + n, 2, 0) != LUA_OK) return abort_call(&call, L);
  finish_call(&call, L);
  if (lua_istable(L, -1)) {
    lua_pushnil(L);
    lua_rawgeti(L, -2, 1);
    return 2;
  }
  return 2;
}
