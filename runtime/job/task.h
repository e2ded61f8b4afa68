/*
 * job/task -- what a worker does with a claim: run fn on each item, write the results, turn errors into records.
 *
 * Room: job (may include job/codec.h, job/array.h and job/delivery.h).  Owns, in the child: the thread that tasks run on, the codec, the
 * function last loaded.
 * Files: task.c (the worker's beginning and end, its memory), task_job.c (the function of a claim), task_run.c (the loops over items),
 * task_error.c (records of errors), task_item.c (items as values and texts), task_slow.c (texts for the slowest items).
 * The host fills struct task_context before it forks; the child finds it as it was at the fork, with the jobs that were under way (they are
 * inherited: nothing of them is sent). Jobs that came later are read from input memory.
 * Fork: task_* functions run in the child only, but for task_push_item.  Lua errors never leave them.
 */
#ifndef LUAPOOL_JOB_TASK_H
#define LUAPOOL_JOB_TASK_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "job/codec.h"
#include "pool/worker.h"

struct array;

enum source_kind {
  SOURCE_INTEGERS = 1, /* first + k * step */
  SOURCE_FLOATS = 2,
  SOURCE_TABLE = 3,    /* sequence[k + 1] */
  SOURCE_ITERATOR = 4, /* function() -> item or nil */
  SOURCE_ARRAY = 5     /* shared array[k + 1]: the same one in every process */
};

/* Where the items of a call come from. References are to the registry of the host's state (and so of its forked copies). */
struct source {
  enum source_kind kind;
  lua_Integer first, step;
  lua_Number first_float, step_float;
  int reference;  /* table, iterator or array */
  uint64_t count; /* items; UINT64_MAX: not known */
};

/* One call's function and source, as long as the call lives. */
struct job {
  uint64_t number;
  int fn_reference;
  int into_reference; /* the shared array that results go into, or LUA_NOREF */
  struct source source;
  struct job *next, **link;
};

/* A budget of memory laid over the state's allocator in the child. */
struct task_budget {
  lua_Alloc inner;
  void *inner_context;
  int64_t used, limit; /* bytes since it was laid; limit 0: it was not */
};

struct task_context {
  lua_State *L;       /* the host's main thread */
  struct job *jobs;   /* those under way */
  int on_start, on_exit; /* registry references or LUA_NOREF */
  int has_seed;
  lua_Integer seed;
  /* the child's: */
  int is_furnished;
  lua_State *thread;     /* these two may have been made before the fork: see task_provide */
  struct codec *codec;
  int thread_reference, codec_reference;
  struct worker *worker;
  struct bytes record;
  struct task_budget budget;
  const struct allocator *allocator; /* the state's, if it is one of ours */
  uint64_t large_seen;   /* of its large bytes, when garbage of such blocks was collected last */
  uint64_t loaded_job;   /* number of the job whose function is at FN; 0: none */
  struct source source;  /* of that job */
  int into_reference;    /* of that job */
  const struct array *from, *into; /* the arrays themselves, NULL: none; the references keep them */
  int owned[2];          /* registry references that were made to load it: array to read, array to write */
  int64_t item_began_ns; /* 0: nobody asked */
  uint32_t n_written;    /* results; the time that writing takes is measured at every SAMPLE-th, or at each while they are large */
  int is_large;
  uint64_t until_look;   /* items until their times are looked at (see memory/events); without a record never */
  struct events_sampler sampler;
  uint32_t slow_stamp;   /* of the slowest items, when those of the claim were given their texts */
  uint32_t n_cycles;     /* of the collector, since an event said so, at cycle_ns */
  int64_t cycle_ns;
  struct codec_reader block;
  uint64_t block_at;     /* number of the item that the block's reader stands at */
  uint64_t next;         /* the next item to run */
  int is_writing;        /* inside codec_write: to be rolled back if that raises */
  int is_refused;        /* the result of item `next` cannot cross */
};

/* task_main_thread -- the main thread of L's state, for task_context.L: a coroutine may be gone when it is needed. Does not raise. */
lua_State *task_main_thread(lua_State *L);

/*
 * task_provide -- in a host, before it forks: make the thread and the codec that each worker needs, once for all of them; the host does not
 * use them. Does nothing where they are there. May raise (memory). task_withdraw -- no more workers are to be forked: they are garbage.
 */
void task_provide(lua_State *L, struct task_context *t);
void task_withdraw(lua_State *L, struct task_context *t);

/*
 * task_furnish -- make what workers of this state need, whoever they are and whatever they do: in a helper, before it forks any, so that
 * it is there when they are born. Where it was not called, task_start does it. May raise (memory).
 */
void task_furnish(lua_State *L, struct task_context *t);

/* task_start, task_run, task_finish -- struct worker_tasks for a pool whose context is a struct task_context. */
int task_start(void *context, struct worker *w);
void task_run(void *context, struct worker *w);
void task_finish(void *context, struct worker *w);

/* task_integer -- item `number` of a range of integers; wraps around as Lua's integers do. */
static inline lua_Integer task_integer(const struct source *source, uint64_t number) {
  return (lua_Integer)((lua_Unsigned)source->first + (lua_Unsigned)number * (lua_Unsigned)source->step);
}

/*
 * task_push_item -- push item `number` of an indexed source (nothing for an iterator: nil). May raise (a table's __index; memory).
 */
void task_push_item(lua_State *L, const struct source *source, uint64_t number);

/*
 * task_item_text -- push a short text for the value at index: what it is, in at most 60 bytes ("42", "\"some text...\"",
 * "table"). May raise (memory).
 */
void task_item_text(lua_State *L, int index);

#endif
