/*
 * binding/lpool -- the pool as Lua sees it: a userdata with a C pool inside.
 *
 * Room: binding (may include binding/loutput.h; lpool.c and lcall.c include this; so do loutput.c and lluapool.c).  Owns: the pool, the registry references of its functions.
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

struct lpool {
  struct pool *pool;   /* NULL: closed */
  lua_State *L;        /* the main thread of its state */
  int owner;           /* the process that made it */
  uint32_t n_workers;
  int64_t grace_ns;
  int is_busy;         /* inside a call */
  int is_terminated;   /* during a call (its source did it): the call ends with an error, and no worker is forked any more */
  int is_one_shot;     /* made for one call: its collection needs no warning */
  struct task_context tasks;
  struct loutput output;
  struct codec *codec;  /* items and results; knows the names that fn gives; anchored by codec_reference */
  struct codec *sender; /* functions on their way to workers that have none of its upvalues yet; anchored by sender_reference */
  int codec_reference, sender_reference;
  struct bytes out;    /* what is being written for the workers */
  uint64_t calls;      /* numbers of calls and jobs */
  /* The function sent last, kept in input memory: a call with the very same bytes needs not be loaded anew. */
  struct bytes sent;
  uint64_t sent_job, sent_offset, sent_length; /* sent_job 0: none */
  int64_t busy_since_ns;
  uint64_t n_calls, n_sent, n_renewed; /* for stats: calls, functions sent, times that the workers were replaced to get a function */
};

/* lpool_check -- the handle at index 1, open, of this process and state, else raises a clear error. */
struct lpool *lpool_check(lua_State *L, const char *method);

/* lpool_run -- handle:run(fn, kind, a, b, n, options): see lcall.c. */
int lpool_run(lua_State *L);

/* lpool_apply -- handle:apply(fn, ...): see lcall.c. */
int lpool_apply(lua_State *L);

/*
 * lpool_end -- end all workers and wait for it.
 *   grace_ns   how long tasks may take to clean up (terminate), or -1: let them finish first (leave)
 *   until_ns   when leaving: CLOCK_MONOTONIC after which to give up; -1: never
 * Returns 1: all are gone; 0: gave up (they still live). With `can_raise`, an interrupt is raised (the workers may live on);
 * else waits it out.
 */
int lpool_end(struct lpool *lp, lua_State *L, int64_t grace_ns, int64_t until_ns, int can_raise);

/* lpool_take_notice -- warn of what a worker said while it left (on_exit failed); the event is done then. */
void lpool_take_notice(struct lpool *lp, lua_State *L, const struct pool_event *event);

/* lpool_open_library -- push the table of C functions that lua/luapool builds upon ("core"). */
void lpool_open_library(lua_State *L);

#endif
