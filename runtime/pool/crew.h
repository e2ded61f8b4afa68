/*
 * pool/crew -- the inside of a pool, shared by pool.c, ledger.c, errand.c, recovery.c, watch.c, pause.c, tally.c, record.c and recorder.c
 * alone.
 *
 * Room: pool (may include pool/pool.h, pool/account.h, pool/links.h, pool/output.h, pool/table.h and pool/trace.h).  Owns: nothing itself;
 * these files own what it describes.
 */
#ifndef LUAPOOL_POOL_CREW_H
#define LUAPOOL_POOL_CREW_H

#include <poll.h>
#include <signal.h>

#include "pool/account.h"
#include "pool/links.h"
#include "pool/output.h"
#include "pool/pool.h"
#include "base/watch.h"
#include "pool/table.h"
#include "pool/trace.h"
#include "process/server.h"

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
  uint64_t looked_to;   /* what items printed whose frames lie before this position of the channel was looked for */
  int reason;           /* why we killed it: INTERRUPT_TIMEOUT, POOL_DAMAGED, or 0 */
  int was_killed;       /* by us, for a purpose that nobody needs to hear of */
  int is_suspect;       /* the last poll set said that it may be dead */
  int was_ready;        /* somebody saw that it was */
  uint32_t killed_claims; /* the claim and item that we killed it for (see pool_kill_worker) */
  uint64_t killed_item;
  int is_condemned;
  uint64_t condemned_item, condemned_entry;
  int is_asked;         /* the last command, 0: none; it was about this claim and item: */
  uint32_t asked_claims;
  uint64_t asked_item;
  int64_t asked_at_ns;
  struct links errands; /* what is for this worker alone and not done yet; the first of them may be on the board: */
  struct pool_errand *summoned;
  int has_salvaged;
  uint64_t items;       /* seen of all who were in this place */
  uint64_t events_lost; /* of these, those that the record was told */
  struct pool_event last; /* in REPORTING */
};

/* Bytes of a block, used by one entry or several (after retries). */
struct pool_block {
  uint64_t offset, length;
  uint64_t first; /* number of its first item */
  uint32_t users;
};

/* One item of a broadcast. See errand.c. */
struct pool_errand {
  struct links link; /* in its worker's list, until it is done or withdrawn */
  struct pool_entry *entry;
  uint32_t number;   /* of the worker, from 0; and of the item */
};

/* What is known of one call. See ledger.c. */
struct pool_call {
  struct table_node node;  /* in pool.calls; its key: the caller's number */
  struct links entries;    /* its entries, by `own` */
  struct links idle;       /* in pool.idle_calls while it has none */
  uint32_t n_unclaimed;    /* entries from which nothing was claimed yet, those that wait included */
  uint32_t n_cancelled;    /* cancelled entries that are still active */
  uint64_t in_flight;      /* bytes of blocks of its entries */
  uint64_t item_ns;        /* how long an item took lately */
  uint64_t heard_of;       /* the entry from which the last results came */
  int has_heard;
};

/* The host's account of one piece of work. See ledger.c. */
struct pool_entry {
  struct table_node node;  /* in pool.entries while active; its key: the entry's sequence number */
  struct links order;      /* in pool.later or its lane's again or backlog while it waits, then in pool.active; or in pool.spare */
  struct links own;        /* in its call's list */
  struct pool_call *call;
  int is_active;           /* it has, or had, a place on the board */
  int is_unclaimed;        /* counts in call->n_unclaimed */
  enum board_lane lane;    /* where it is, or will be, on the board */
  int64_t due_ns;          /* it waits in pool.later until then; 0: it does not */
  int is_cancelled;
  int is_drained;          /* nothing more of it is claimed or run again; what runs comes to its end, and is shown */
  int64_t kill_at_ns;      /* of a cancelled entry: who is in it then is killed; -1: nobody */
  uint64_t target;         /* items to account for: all of them; of a cancelled or drained entry those that had been claimed */
  struct pool_work work;
  struct pool_block *block;
  struct pool_errand *errands; /* of a broadcast: one for each item */
  struct account done;     /* items done, failed for good, or moved to another entry */
};

/* The host's side of a lane of the board. */
struct pool_lane {
  struct links again, backlog; /* entries that wait for a place: what is to be run again goes first */
  uint64_t published;          /* the number of the next entry */
  uint64_t seen_front;         /* the board's front when we looked last */
  uint32_t n_active;           /* entries of the lane that are active */
};

struct pool {
  int owner;
  uint32_t capacity;
  uint32_t n_wanted;          /* how many workers there are to be; those from this number on leave */
  uint32_t n_places;          /* where somebody is, or is to be: all below */
  uint32_t n_made;            /* crew that was ever used */
  int64_t grace_ns;
  struct worker_terms terms;
  struct worker_tasks tasks;
  enum pool_start_method start;
  int is_sealed;
  struct server server;       /* POOL_SERVER: the helper; POOL_SPAWN: its complaint */
  struct server *early;       /* POOL_EARLY: the copy of the host; not the pool's */
  char *helper;
  void *config;
  size_t config_length;
  uint64_t boot_offset, boot_length;
  int board_fd, events_fd;    /* -1: the board, the record, is memory that children inherit */
  struct board *board;
  struct arena arena;
  struct os_bell bell;
  struct output output;
  struct crew *crew;
  struct pollfd *polls;
  struct watch watch;         /* see pool_fd */
  int is_watched;             /* somebody asked for pool_fd */
  /* the ledger's: */
  struct table entries;       /* the active ones, by sequence number */
  struct table calls;
  struct pool_lane lanes[BOARD_LANES];
  struct links active;        /* entries in the order in which they got their numbers */
  struct links later;         /* entries that wait for their time; the earliest first */
  struct links spare;         /* memory of entries */
  struct links idle_calls;    /* those without entries, the oldest first */
  size_t n_waiting, n_later, n_spare, n_idle_calls;
  uint64_t n_broadcasts;      /* their entries' numbers are apart */
  uint32_t n_timed;           /* active entries with a timeout; the shortest of these, and how many have that */
  int64_t shortest_ns;
  uint32_t n_shortest;
  uint32_t n_cancelled;       /* active entries that were cancelled */
  int is_closing;
  uint32_t n_open;            /* reasons for which the pool is open */
  uint32_t turn;              /* the worker whose ring is read next */
  uint32_t failed_starts;     /* workers that died before they were ready, with none getting ready between */
  uint32_t n_shown;           /* events shown since the rings were found empty */
  int must_look;              /* a worker may have died */
  int is_in_a_hurry, has_more; /* see pool_hurry */
  int is_patient;             /* see pool_set_patience */
  int is_frugal;              /* see pool_set_frugal */
  uint32_t n_vain, n_unspun;  /* how often in a row looking out for data without sleeping was in vain; how many waits will not try */
  int has_dead;               /* when the poll set was made, one was known to be dead */
  int has_overdue;            /* and one was dead of whom its helper had not said so */
  int has_news;               /* an event waits that no descriptor announces */
  int must_recheck;           /* a worker died while claiming: items may have been lost */
  enum pool_ending is_ending;
  int is_broken;              /* out of memory while accounting: -errno */
  int64_t looked_at_ns;
  int64_t beat_ns;            /* the last beat (see pause.c) while there are time limits */
  int64_t gap_begin_ns, gap_end_ns; /* between two beats lay more time than was planned, and it is not yet known why; end 0: no such gap */
  uint64_t forks;
  struct trace *trace;        /* the record; NULL: none is kept */
  const struct recorder *recorder; /* what keeps it; NULL: none was ever kept */
  struct events *events;      /* for each place, then the host's; NULL without a record */
  uint64_t host_events_lost;
};

/* What is watched by the clock: see pause.c. */
static inline int pool_has_limits(const struct pool *p) {
  return p->n_timed > 0 || p->n_cancelled > 0;
}

/*
 * pool.c
 * pool_retire -- ask workers that are too many to leave, if they have nothing to do that nobody else may do, and forget empty places.
 * pool_wake -- ring sleepers until as many as `needed` look for work. pool_wake_all -- ring everybody who sleeps.
 * pool_make_way -- tell whoever has several items of a lower priority than the lane's to look, after each, for something in it.
 * pool_command -- ask worker `number` to do what `reason` says, if it is still at this claim and item.
 * pool_kill_worker -- kill it for what it is at. Should it turn out to have gone on to something else meanwhile, that is run again, and
 * nobody's fault.
 */
void pool_retire(struct pool *p);
void pool_wake(struct pool *p, uint64_t needed);
void pool_wake_all(struct pool *p);
void pool_make_way(struct pool *p, enum board_lane lane);
void pool_command(struct pool *p, uint32_t number, int reason, uint32_t claims, uint64_t item);
void pool_kill_worker(struct pool *p, uint32_t number, uint32_t claims, uint64_t item);

/*
 * ledger.c
 * pool_entry_of -- the entry with that sequence number, NULL: it is not active (any more). pool_entry_after -- the next active one in order
 * (NULL: the first); NULL: there is none. pool_has_place -- 1: its place on the board is not another's yet.
 * pool_publish -- give those that wait their places, as far as there are any.
 * pool_settle -- note items as done; the entry is gone when that were all. -EBADMSG: they were not the entry's to report, or were
 * reported before. -ENOMEM: the pool is broken.
 * pool_move_items -- items were claimed and not done: they move to an entry of their own, before others of their priority. Of a cancelled
 * entry: they are done.
 * pool_post_again -- a new entry for some of its items, which stay to be settled; not before `due_ns` (0: now). 0 or -ENOMEM.
 * pool_claimable -- how many workers, `most` of them at most, would find something to claim now, as far as that can be told.
 * pool_next_due -- when the next of those that wait for their time is due; -1: there is none.
 * pool_cancel_all -- as pool_cancel, for every call.
 */
void pool_open_ledger(struct pool *p);
void pool_close_ledger(struct pool *p);
struct pool_entry *pool_entry_of(const struct pool *p, uint64_t sequence);
struct pool_entry *pool_entry_after(const struct pool *p, const struct pool_entry *entry);
int pool_has_place(const struct pool *p, const struct pool_entry *entry);
void pool_publish(struct pool *p);
int pool_settle(struct pool *p, struct pool_entry *entry, uint64_t first, uint64_t count);
void pool_move_items(struct pool *p, struct pool_entry *entry, uint64_t first, uint64_t count);
void pool_describe(const struct pool_entry *entry, struct board_entry *e); /* but for the cursor */
int pool_post_again(struct pool *p, const struct pool_entry *entry, uint64_t first, uint64_t count, int64_t due_ns);
uint32_t pool_claimable(struct pool *p, uint32_t most);
int64_t pool_next_due(const struct pool *p);
void pool_cancel_all(struct pool *p);

/*
 * errand.c
 * pool_make_errands -- one for each item of the entry, a broadcast. 0 or -ENOMEM. pool_send_errands -- give them to their workers.
 * pool_summon -- worker `number` lives, and may do the next of its errands.
 * pool_is_dismissed -- it is dead, and everything about its end has been said: what it had taken and not begun is for its successor.
 * pool_errand_is_done, pool_errand_again -- the errand of this item.
 * pool_withdraw_errands -- all that nobody has taken; returns how many these were. pool_free_errands -- at the end of the entry.
 */
int pool_make_errands(struct pool_entry *entry);
void pool_send_errands(struct pool *p, struct pool_entry *entry);
void pool_summon(struct pool *p, uint32_t number);
void pool_is_dismissed(struct pool *p, uint32_t number);
void pool_errand_is_done(struct pool *p, struct pool_entry *entry, uint64_t item);
void pool_errand_again(struct pool *p, struct pool_entry *entry, uint64_t item);
uint64_t pool_withdraw_errands(struct pool *p, struct pool_entry *entry);
void pool_free_errands(struct pool_entry *entry);

/* tally.c: pool_tally_dead -- worker `number` is dead: count what it could not count itself. */
void pool_tally_dead(struct pool *p, uint32_t number);

/*
 * record.c: the record, if one is kept.
 * pool_open_record -- keep one there. 0 or -errno. pool_close_record -- the pool is gone: all that is left goes there. Also without one.
 * pool_collect_dead -- worker `number` is dead: all that it has left.
 * pool_mark -- something happened to worker `number`: enum trace_mark_kind and its number.
 */
int pool_open_record(struct pool *p, struct trace *t);
void pool_close_record(struct pool *p);
void pool_collect_dead(struct pool *p, uint32_t number);
void pool_mark(struct pool *p, uint32_t number, int kind, int64_t what);

/*
 * recovery.c
 * pool_look_for_dead -- take note of who has died; with `suspects`: of those whom the last poll set gave away.
 * pool_close_crew -- worker `number` is dead, and nothing more is to be said of it.
 * pool_give_room -- ring worker `number` if it waits for room in its ring.
 */
void pool_look_for_dead(struct pool *p, int suspects);
void pool_close_crew(struct pool *p, uint32_t number);
void pool_give_room(struct pool *p, uint32_t number);

/*
 * watch.c
 * pool_watch -- ask and kill whoever is over his time at `now` (see pool_judged_ns).
 * pool_watch_cancelled -- the same, for those in cancelled entries alone; returns when to look again, -1: when a ring or a death says so.
 * pool_next_deadline -- when pool_next has something to do though nothing happens; -1: never.
 */
void pool_watch(struct pool *p, int64_t now);
int64_t pool_watch_cancelled(struct pool *p, int64_t now);
int64_t pool_next_deadline(struct pool *p);

/*
 * pause.c: while there are time limits (of items, of those who were asked to stop), nobody judges one but by this clock.
 * pool_beat -- look at the clock; planned_ns: how much of the time since the last beat was to be slept. Returns the time.
 * pool_judged_ns -- time limits that ended before it are over. It stands still while it is not known whether the pool was stopped.
 * pool_settled_ns -- when that will be known; -1: nothing is to be.
 */
int64_t pool_beat(struct pool *p, int64_t planned_ns);
int64_t pool_judged_ns(const struct pool *p, int64_t now);
int64_t pool_settled_ns(const struct pool *p);

#endif
