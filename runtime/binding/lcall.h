/*
 * binding/lcall -- one call of a verb: a userdata that owns the function, the source, what was published and what came back.
 *
 * Room: binding (may include binding/lpool.h).  lcall.c: the life of a call. lsend.c: how its function reaches the workers.
 * lfill.c: how its items do. lhint.c: how long they take. lpace.c: when. ltake.c: what comes back. lpump.c: the wait, for all calls of a
 * pool together. While a call is open the pool's registry table anchors it: a script that forgets a future does not undo its work.
 */
#ifndef LUAPOOL_BINDING_LCALL_H
#define LUAPOOL_BINDING_LCALL_H

#include <lua.h>
#include <stdint.h>

#include "binding/lpool.h"
#include "job/task.h"
#include "pool/pool.h"

#define LCALL_TYPE "luapool.call"

/* What its user values hold. */
enum call_value {
  CALL_RESULTS = 1, /* CALL_TABLE, CALL_APPLY: the table of results */
  CALL_ERRORS,      /* nil, or error tables by item */
  CALL_TRIES,       /* nil, or failures so far by item */
  CALL_FRAMES,      /* streams: what came and was not taken yet */
  CALL_PROBLEM,     /* what ended the call as a whole */
  CALL_HANDLE,      /* the pool's: it must live as long as the call may be asked for something */
  CALL_WRITER,      /* the codec of a lazy source: its iterator may use the pool while a block is half written */
  CALL_SHARED,      /* nil, or the shared memory that unfinished items name: what is kept -> { userdata, end of the items } */
  CALL_VALUES = CALL_SHARED
};

enum call_mode {
  CALL_TABLE,    /* results by item, all at the end */
  CALL_APPLY,    /* one task with arguments, all its results */
  CALL_BROADCAST, /* arguments for every worker, one result of each, as CALL_TABLE */
  CALL_ORDERED,  /* frames of results in input order */
  CALL_UNORDERED /* frames as they come */
};

enum call_phase { CALL_NEW, CALL_OPEN, CALL_ENDING /* cancelled; workers may still be in it */, CALL_OVER };

enum call_outcome { OUTCOME_NONE, OUTCOME_DONE, OUTCOME_FAILED, OUTCOME_PROBLEM, OUTCOME_CANCELLED };

enum crash_policy { CRASH_RAISE, CRASH_RETRY, CRASH_SKIP };

/* A function in input memory, as long as a call or the pool's memory of the latest one needs it. */
struct sent {
  uint64_t job, offset, length;
  int users;
  struct bytes copy; /* to be compared with; empty if it has mutable state */
};

struct call {
  struct lpool *lp;
  struct call *next, **link; /* in lp->open or lp->ending */
  struct call *next_lazy;    /* in lp->lazy */
  enum call_mode mode;
  enum call_phase phase;
  enum call_outcome outcome;
  uint64_t number;
  struct job job;
  struct pool_work work;     /* what is common to all its entries */
  struct sent *sent;
  /* options */
  uint32_t chunk, retries, crash_retries;
  int crash, collects, wants_results, has_seconds;
  int names_classes;         /* its items, or arguments, may be objects: workers that are no copies are sent the classes */
  uint64_t buffer;           /* streams: items ahead of the consumer; 0: as the schedule says */
  int64_t timeout_ns, retry_delay_ns;
  int64_t deadline_ns, deadline_after_ns; /* when the call is to be over, and the user's word for it; 0: none */
  int64_t began_ns;
  int64_t kill_ns;           /* CALL_ENDING: when those who are still in it are killed */
  uint64_t halt_failed, halt_done; /* end the call after so many failures, successes; 0: never */
  double halt_failed_share, halt_done_share; /* the same as a share of all items */
  int halts_soon;            /* what runs may finish */
  int is_halting;            /* it is on its way */
  /* progress */
  uint64_t total;    /* items; UINT64_MAX while the source has not ended */
  uint64_t written;  /* items published */
  uint64_t settled;  /* items done or failed for good */
  uint64_t failed_at; /* lowest failed item, or UINT64_MAX */
  uint64_t n_errors;
  uint64_t item_reads; /* how many items of an iterator may still be read again to word errors */
  uint64_t result_bytes; /* of settled items */
  /* streams */
  uint64_t delivered; /* items that the consumer has been given */
  uint64_t in_hand;   /* of these, what came with the latest frame: it may still be at the first of them. 0: it waits for more */
  uint64_t held;      /* items in CALL_FRAMES */
  uint32_t n_shared;  /* in CALL_SHARED for items */
  uint64_t held_bytes; /* of these, as they came */
  uint64_t head, tail; /* unordered frames waiting */
  int is_filling, wants_callback;
  /* lazy sources: see lpace.c */
  void *file;      /* the luaL_Stream whose lines they are, NULL; lives as long as the source */
  void *reader;    /* the reader (lreader.h) that they come from, NULL; as `file` */
  int is_wary;
  uint32_t n_quick; /* items in a row that came quickly */
  uint64_t n_asked; /* items that have come */
  int64_t rest_ns;  /* until when results are waited for; 0: not at all */
  struct bytes *out;  /* where items are written: the pool's or its own */
  struct bytes own_out;
  struct codec *writer;
  int at;             /* where lcall_push_values put its values; valid inside ltake */
};

/* ---- life (lcall.c) ---- */

/* lcall_check -- the call at index 1. */
struct call *lcall_check(lua_State *L);
/* lcall_open -- push a new call of the pool with its arguments read (see lpool_begin); nothing is published. May raise. */
struct call *lcall_open(lua_State *L, struct lpool *lp, int arguments, enum call_mode mode);
/* lcall_link -- from now on the pool knows it. May raise. */
void lcall_link(lua_State *L, struct call *c, int index);
/* lcall_push -- push the userdata of an open call. */
void lcall_push(lua_State *L, const struct call *c);
/* lcall_find -- the open call of that number, NULL. Pushes its userdata (or nothing). */
struct call *lcall_find(lua_State *L, struct lpool *lp, uint64_t number);
/* lcall_is_satisfied -- nothing more has to come. */
int lcall_is_satisfied(const struct call *c);
/* lcall_judge -- conclude the call if it is finished or has failed. May raise (memory). */
void lcall_judge(lua_State *L, struct call *c);
/* lcall_conclude -- it is decided how the call ended; what still runs is cancelled, with `grace_ns` to clean up. Does not raise. */
void lcall_conclude(lua_State *L, struct call *c, enum call_outcome outcome, int64_t grace_ns);
/* lcall_release -- the call is over: give everything back but the results. Does not raise. */
void lcall_release(lua_State *L, struct call *c);
/* lcall_set_problem -- the value on top is what whoever asks for the outcome gets raised; pops it. */
void lcall_set_problem(lua_State *L, struct call *c);
/* lcall_fail -- the value on top ends the call as a whole; pops it. */
void lcall_fail(lua_State *L, struct call *c);
/* lcall_raise_ended -- raise that the call was ended by somebody else: cancelled, or its pool closed or terminated. */
void lcall_raise_ended(lua_State *L, const struct lpool *lp);
/* lcall_settle_ending -- cancelled calls that no worker is in any more are over. */
void lcall_settle_ending(lua_State *L, struct lpool *lp);
/* lcall_name -- the pool's codec reads and writes for this call from now on. May raise. */
void lcall_name(lua_State *L, struct call *c);
/* lcall_open_library -- the metatable of calls. */
void lcall_open_library(lua_State *L);

/* ---- its function (lsend.c) ---- */

void lsend_function(lua_State *L, struct call *c);

/*
 * lsend_may_name_class -- 0: the values at these stack indices are, as one look tells, without objects: nobody needs the classes of the
 * script's globals to read them. Does not raise.
 */
int lsend_may_name_class(lua_State *L, int first, int last);
/* lsend_refuse -- raise why the sender could not write what it was given. */
void lsend_refuse(lua_State *L, const struct lpool *lp);
void lsend_release(struct lpool *lp, struct sent **sent);

/* ---- its items (lfill.c) ---- */

/* lfill_post_all -- publish all items of an indexed source. */
void lfill_post_all(lua_State *L, struct call *c);
/* lfill_post_arguments -- publish the one task (or one for every worker) whose arguments stand at first .. last. */
void lfill_post_arguments(lua_State *L, struct call *c, int first, int last);
/* lfill_more -- publish what may be published now. Runs the source's iterator; what that raises is raised. */
void lfill_more(lua_State *L, struct call *c);
/*
 * lfill_keep_shared -- what the stream just written by the codec names in shared memory stays until the items below `end` are done, or
 * until the call is over. May raise (memory).
 */
#define LFILL_WHOLE_CALL ((uint64_t)INT64_MAX)
void lfill_keep_shared(lua_State *L, struct call *c, struct codec *codec, uint64_t end);
/* lfill_kind -- whether its items are indexed by the workers or written by the host. */
enum board_entry_kind lfill_kind(const struct call *c);

/* ---- how long they take (lhint.c) ---- */

/* lhint_begin -- the call is about to publish items: what is known of its function's goes with them (work.item_ns). */
void lhint_begin(lua_State *L, struct call *c);

/* ---- when (lpace.c) ---- */

/* lpace_begin -- nothing is known of the iterator yet; at `index` it stands, or what it takes its items from. */
void lpace_begin(lua_State *L, struct call *c, int index);
/* lpace_note -- an item took so long to come. */
void lpace_note(struct call *c, int64_t took_ns);
/* lpace_ends_block -- 1: what was written so far should be handed out before the source is asked for more. */
int lpace_ends_block(const struct call *c);
/* lpace_ends_filling -- 1: and results should be looked after. */
int lpace_ends_filling(const struct call *c);
/* lpace_can_wait -- 1: the source should not be asked for more while a result that has come is not delivered. */
int lpace_can_wait(const struct call *c);
/* lpace_rest -- until when results should be waited for, before the source is asked for more; 0: ask it. */
int64_t lpace_rest(const struct call *c);

/* ---- what comes back (ltake.c) ---- */

/*
 * ltake_event -- one event; the pool is done with it afterwards. May raise. The pool's table of calls (LPOOL_CALLS) is at LTAKE_CALLS; what
 * stands above is this function's, from one event to the next: begin with nothing there.
 */
enum { LTAKE_CALLS = 2 };
void ltake_event(lua_State *L, struct lpool *lp, struct pool_event *event);
/*
 * ltake_rest -- go on with a frame that was put off because it got late (lp->rest_at_ns). 1: it is done, or there was none; 0: late again.
 * No other event is to be taken before. May raise.
 */
int ltake_rest(lua_State *L, struct lpool *lp);
/* ltake_refused -- item `number`, on top of the stack, cannot cross; pops it. The call's values are at c->at. */
void ltake_refused(lua_State *L, struct call *c, uint64_t number, const char *message);
/* ltake_pop_frame -- push (values, first, n) or (nil, index, 1, error) of the next frame of a stream: how many were pushed, 0: none. */
int ltake_pop_frame(lua_State *L, struct call *c);
/* ltake_has_frame -- would ltake_pop_frame give one? The call is at index 1 for both. */
int ltake_has_frame(lua_State *L, const struct call *c);

/* ---- the wait (lpump.c) ---- */

/* lpump_work -- everything that can be done now, for all calls of the pool. Raises interrupts, and what hooks raise. */
void lpump_work(lua_State *L, struct lpool *lp);
/* lpump_rest -- the host leaves the pool: whoever watches its descriptor (pool_fd) is told when to come back. */
void lpump_rest(struct lpool *lp);
/* lpump_sleep -- until something happens or until_ns (-1: for ever). */
void lpump_sleep(lua_State *L, struct lpool *lp, int64_t until_ns);
/*
 * lpump_finish -- the call was concluded: wait (grace, then kill) until no worker is in it. Does not raise; also during an interrupt.
 *   obeys  an interrupt is the reason: the same signal at the pace of a key held down is part of it. Else each signal is one of its own.
 */
void lpump_finish(lua_State *L, struct lpool *lp, struct call *c, int obeys);
/* lpump_start -- fork what is missing for the work there is. Raises when it cannot. */
void lpump_start(lua_State *L, struct lpool *lp);
/* lpump_start_all -- fork every worker that is missing. */
void lpump_start_all(lua_State *L, struct lpool *lp);
/* lpump_take -- take all events, protected: nothing is raised but kept by the calls concerned. */
void lpump_take_protected(lua_State *L, struct lpool *lp);
/* lpump_settle -- calls are over: what their items printed is out afterwards. */
void lpump_settle(lua_State *L, struct lpool *lp);
/* lpump_checkpoint -- raise a pending interrupt. */
void lpump_checkpoint(lua_State *L);

#endif
