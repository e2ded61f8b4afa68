/*
 * pool/crew -- the inside of a pool, shared by pool.c, recovery.c and pause.c alone.
 *
 * Room: pool (may include pool/pool.h, pool/account.h and pool/output.h).  Owns: nothing itself; these files own what it describes.
 */
#ifndef LUAPOOL_POOL_CREW_H
#define LUAPOOL_POOL_CREW_H

#include <poll.h>
#include <signal.h>

#include "pool/account.h"
#include "pool/output.h"
#include "pool/pool.h"

enum crew_state {
  CREW_EMPTY = 0,
  CREW_LIVING = 1,
  CREW_DEAD = 2,     /* reaped; its ring may still hold frames */
  CREW_REPORTING = 3 /* ring empty; its last event waits to be taken (pool_done) */
};

enum pool_ending {
  ENDING_NOT = 0,
  ENDING_LEAVE = 1, /* workers finish, and what they say meanwhile is wanted: on_exit may fail */
  ENDING_QUIT = 2   /* what they say interests nobody any more */
};

/* One place for a worker. */
struct crew {
  enum crew_state state;
  struct process process;
  struct process_end end;
  struct channel channel;
  struct os_bell bell;
  struct output_pipes output;
  int is_output_seen;   /* since its latest frame came */
  int reason;           /* why we killed it: INTERRUPT_TIMEOUT, POOL_DAMAGED, or 0 */
  int was_killed;       /* by us, for a purpose that nobody needs to hear of */
  uint32_t killed_claims; /* the claim and item that we killed it for (see pool_kill_worker) */
  uint64_t killed_item;
  int is_condemned;
  uint64_t condemned_item, condemned_entry;
  int is_asked;         /* the last command, 0: none; it was about this claim and item: */
  uint32_t asked_claims;
  uint64_t asked_item;
  int64_t asked_at_ns;
  int has_salvaged;
  struct pool_event last; /* in REPORTING */
};

/* Bytes of a block, used by one entry or several (after retries). */
struct pool_block {
  uint64_t offset, length;
  uint64_t first; /* number of its first item */
  uint32_t users;
};

/* The host's account of one entry. */
struct pool_entry {
  int is_active;
  int is_cancelled;
  int64_t kill_at_ns;  /* of a cancelled entry: who is in it then is killed; -1: nobody */
  uint64_t target;     /* items to account for: all of them; of a cancelled entry those that had been claimed */
  uint64_t sequence;
  struct pool_work work;
  struct pool_block *block;
  uint64_t skip;
  struct account done; /* items done, failed for good, or moved to another entry */
};

/* Items that wait for a free entry. */
struct pool_requeue {
  struct pool_work work;
  struct pool_block *block;
};

struct pool {
  int owner;
  uint32_t n_workers;
  int64_t grace_ns;
  struct worker_tasks tasks;
  struct board *board;
  struct arena arena;
  struct os_bell bell;
  struct output output;
  struct crew *crew;
  struct pollfd *polls;
  struct pool_entry entries[BOARD_ENTRIES];
  uint64_t published, oldest; /* entries oldest .. published - 1 may be active */
  uint32_t n_timed;           /* active entries with a timeout */
  uint32_t n_cancelled;       /* active entries that were cancelled */
  struct pool_requeue *requeue;
  size_t n_requeue, requeue_capacity;
  uint32_t turn;              /* the worker whose ring is read next */
  uint32_t failed_starts;     /* workers that died before they were ready, in a row */
  uint32_t n_shown;           /* events shown since the rings were found empty */
  int must_look;              /* a worker may have died */
  int has_news;               /* an event waits that no descriptor announces */
  int must_recheck;           /* a worker died while claiming: items may have been lost */
  enum pool_ending is_ending;
  int is_broken;              /* out of memory while accounting: -errno */
  int64_t looked_at_ns;
  int64_t beat_ns;            /* the last beat (see pause.c) while there are time limits */
  int64_t gap_begin_ns, gap_end_ns; /* between two beats lay more time than was planned, and it is not yet known why; end 0: no such gap */
  uint64_t forks;
};

/* In pool.c, for recovery.c. */
int pool_post_entry(struct pool *p, const struct pool_work *work, struct pool_block *block, uint64_t skip);
void pool_wake_all(struct pool *p);
/* Ask worker `number` to do what `reason` says, if it is still at this claim and item. */
void pool_command(struct pool *p, uint32_t number, int reason, uint32_t claims, uint64_t item);
/* Kill it for what it is at. Should it turn out to have gone on to something else meanwhile, that is run again and nobody's fault. */
void pool_kill_worker(struct pool *p, uint32_t number, uint32_t claims, uint64_t item);

/* What is watched by the clock: see pause.c. */
static inline int pool_has_limits(const struct pool *p) {
  return p->n_timed > 0 || p->n_cancelled > 0;
}

/*
 * In pause.c: while there are time limits (of items, of those who were asked to stop), nobody judges one but by this clock.
 * pool_beat -- look at the clock; planned_ns: how much of the time since the last beat was to be slept. Returns the time.
 * pool_judged_ns -- time limits that ended before it are over. It stands still while it is not known whether the pool was stopped.
 * pool_settled_ns -- when that will be known; -1: nothing is to be.
 */
int64_t pool_beat(struct pool *p, int64_t planned_ns);
int64_t pool_judged_ns(const struct pool *p, int64_t now);
int64_t pool_settled_ns(const struct pool *p);

/* In recovery.c, for pool.c. */
struct pool_entry *pool_entry_of(struct pool *p, uint64_t sequence); /* NULL if it is not active */
void pool_release_entry(struct pool *p, struct pool_entry *state);
void pool_release_block(struct pool *p, struct pool_block *block);
void pool_drop_block(struct pool *p, struct pool_entry *state);
void pool_look_for_dead(struct pool *p);
int64_t pool_watch_cancelled(struct pool *p, int64_t now);
void pool_give_room(struct pool *p, uint32_t number);
int64_t pool_next_deadline(struct pool *p);

#endif
