/*
 * binding/lpool -- the pool as Lua sees it: a userdata with a C pool inside.
 *
 * Room: binding (may include binding/loutput.h; its neighbours include this).  Owns: the pool, the registry references of its functions.
 */
#ifndef LUAPOOL_BINDING_LPOOL_H
#define LUAPOOL_BINDING_LPOOL_H

#include <lua.h>
#include <stdint.h>

#include "base/bytes.h"
#include "binding/loutput.h"
#include "job/codec.h"
#include "job/task.h"
#include "pool/pool.h"

#define LPOOL_TYPE "luapool.handle"

struct call;
struct sent;

/* A frame of results that is being read, for as long as there is time. See ltake.c. */
struct lpool_part {
  int is_open;              /* it was put off */
  struct pool_event event;
  struct codec_reader reader;
  uint64_t done, settled;   /* of the frame's items: accounted for; of these, not failed */
  lua_Integer n_all, i_all; /* of all results of an applied function: how many there are, -1: not yet read; how many were read */
};

/* How long items of a function took. See lhint.c. */
enum { LPOOL_HINTS = 4 };
struct lpool_hint {
  const void *code;  /* where the function is written */
  int line;
  uint64_t call;     /* the last call of it; 0: none */
  uint64_t guess_ns; /* and what that was told */
  uint64_t item_ns;  /* the last that was known; 0: nothing */
};

/* User values of the handle. */
enum lpool_value {
  LPOOL_CALLS = 1, /* { [number] = open call } */
  LPOOL_READY,     /* calls that are over and wanted to be told, in order */
  LPOOL_HOOK,
  LPOOL_PARTINGS, /* what on_exit returned in workers, in order */
  LPOOL_VALUES = LPOOL_PARTINGS
};

struct lpool {
  struct pool *pool;   /* NULL: closed */
  lua_State *L;        /* the main thread of its state */
  int owner;           /* the process that made it */
  uint32_t n_workers, capacity; /* now; how many resize may make of them */
  int64_t grace_ns;
  int is_terminated;   /* while somebody waits in it: that call ends with an error, and no worker is forked any more */
  int is_freed;        /* nothing of it is left. (One that could not be made has no pool, but maybe something else.) */
  int wake_fd;         /* what also wakes the host; -1: nothing */
  int is_one_shot;     /* made for one call: its collection needs no warning */
  enum pool_start_method start; /* how workers are started */
  struct server *early; /* POOL_EARLY: see binding/learly */
  int may_have_threads; /* POOL_FORK: also while the process has other threads */
  int has_boot;         /* the others: what workers need to begin is in input memory */
  struct bytes boot;    /* while that, or what the helper is told, is made */
  struct task_context tasks;
  struct loutput output;
  struct codec *codec;  /* items and results; knows the names that fn gives; anchored by codec_reference */
  struct codec *sender; /* functions on their way to workers that have none of its upvalues yet; anchored by sender_reference */
  int codec_reference, sender_reference;
  struct bytes out;    /* what is being written for the workers */
  uint64_t calls;      /* numbers of calls and jobs */
  uint64_t named;      /* number of the call whose function the codec was told; 0: none */
  struct sent *sent;   /* the function sent last: a call with the very same bytes needs not be loaded anew */
  struct lpool_hint hints[LPOOL_HINTS];
  /* calls: */
  struct call *open, *ending, *lazy;
  int is_fed;          /* nothing was taken since the lazy ones were last looked at: they have no room for more */
  lua_Integer n_ready, n_taken; /* of the queue LPOOL_READY */
  uint64_t n_concluded; /* calls so far whose end is decided: who waits for one sees by it that there is news */
  uint32_t n_judged;   /* open calls that may end without an event: those with a deadline, and those that let their last items finish */
  struct lpool_part part;
  struct call *taking; /* whose event is being read: no verb may be used from inside */
  int64_t rest_at_ns;  /* a turn ends when this time is over, whatever else there is to do; 0: it does all */
  int is_beside;       /* it was told that somebody types on the terminal (binding/lidle) */
  int must_settle;     /* a call is over: half lines of its items go out */
  int depth;           /* how many waits are under way: the pool is freed when the last one ends */
  /* the hook: Lua code that is to be run now and then while the host waits (callbacks of futures, progress) */
  int has_hook, is_in_hook;
  int64_t tick_ns, next_tick_ns; /* 0: only when a call is ready */
  /* for stats: calls, functions sent, times that the workers were replaced to get a function; items tried again, workers lost */
  uint64_t n_calls, n_sent, n_renewed, n_retries, n_crashes;
  uint64_t bytes_in;   /* written for the workers */
  int64_t decode_ns, wait_ns, encode_ns; /* of the host's time: reading what came, asleep, writing (the sources' own time included) */
  int64_t tail_ns;     /* of all calls: from the last result of the worker who was out of work first to the end */
  struct trace *record; /* what it writes into (see ltrace.h), NULL: nothing; anchored by record_reference */
  int record_reference;
  int64_t *seen_ns;    /* for each worker: when something of it was read last */
};

/* lpool_check -- the handle at index 1, open, of this process and state, else raises a clear error. */
struct lpool *lpool_check(lua_State *L, const char *method);

/* The verbs' mechanism: see lverb.c. */
int lpool_run(lua_State *L);
int lpool_begin(lua_State *L);
int lpool_apply(lua_State *L);
int lpool_submit(lua_State *L);
int lpool_broadcast(lua_State *L);
int lpool_submit_all(lua_State *L);
int lpool_turn(lua_State *L);
int lpool_fd(lua_State *L);
int lpool_has_news(lua_State *L);
int lpool_set_hook(lua_State *L);
int lpool_ready(lua_State *L);
int lpool_told(lua_State *L);
int lpool_cancel_all(lua_State *L);

/*
 * lpool_end -- end all workers and wait for it.
 *   grace_ns   how long tasks may take to clean up (terminate), or -1: let them finish first (leave)
 *   until_ns   when leaving: CLOCK_MONOTONIC after which to give up; -1: never
 * Returns 1: all are gone; 0: gave up (they still live). With `can_raise`, an interrupt is raised (the workers may live on);
 * else waits it out.
 */
int lpool_end(struct lpool *lp, lua_State *L, int64_t grace_ns, int64_t until_ns, int can_raise);

/* lpool_has_recruits -- 1 if its workers are no copies of this process: all that they need is sent to them. */
static inline int lpool_has_recruits(const struct lpool *lp) {
  return lp->start != POOL_FORK;
}

/*
 * lpool_push_handles -- push the weak table of this state's handles (lpool -> userdata), and return 1; or something else: there are none.
 */
int lpool_push_handles(lua_State *L);

/* lpool_push_value -- push a user value of the handle; nil while it is being collected. */
void lpool_push_value(lua_State *L, const struct lpool *lp, enum lpool_value which);

/* lpool_cancel_calls -- every open call is concluded as cancelled; workers get grace_ns. Does not wait. */
void lpool_cancel_calls(struct lpool *lp, lua_State *L, int64_t grace_ns);

/* lpool_settle -- a wait is over: free the pool if it was terminated meanwhile and nobody waits in it any more. */
void lpool_settle(struct lpool *lp, lua_State *L);

/* lpool_take_notice -- warn of what a worker said while it left (on_exit failed); the event is done then. */
void lpool_take_notice(struct lpool *lp, lua_State *L, const struct pool_event *event);

/* lpool_take_parting -- keep what on_exit returned in a worker; the event is done then. */
void lpool_take_parting(struct lpool *lp, lua_State *L, const struct pool_event *event);

/* lpool_open_library -- push the table of C functions that lua/luapool builds upon ("core"). */
void lpool_open_library(lua_State *L);

#endif
