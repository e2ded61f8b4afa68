/*
 * pool/pool -- the host's side: workers, the work published for them, what comes back, and who died.
 *
 * Room: pool (may include pool/worker.h, pool/output.h and pool/schedule.h).  Owns: board, input memory, bells, processes, and the account
 * of every entry: which of its items are done. Ignorant of Lua; the caller decodes and decides.
 * Nothing here blocks but pool_wait and pool_reap. Results are pulled: pool_next shows one event at a time, and the caller may leave
 * (also by a Lua error) between any two calls.
 * Fork: only the process that opened a pool may use it; pool_abandon is for copies.  Signals: not from a handler.
 *
 * No crash becomes a hang: when a worker is gone, what it had finished is salvaged, the item that ran is reported, and
 * every other item that nobody owns is published again. Ownership is decided by set arithmetic (claimed - done - owned by the living), not
 * by how far a dead worker got through some protocol.
 */
#ifndef LUAPOOL_POOL_POOL_H
#define LUAPOOL_POOL_POOL_H

#include <stddef.h>
#include <stdint.h>

#include "pool/output.h"
#include "pool/worker.h"
#include "process/process.h"

struct pool;
struct trace;
struct server;

/* How workers are started. */
enum pool_start_method {
  POOL_FORK = 0,   /* copies of the host as it is */
  POOL_SERVER = 1, /* forked by a helper, executed once: see process/server and pool/recruit */
  POOL_SPAWN = 2,  /* a helper is executed for each */
  POOL_EARLY = 3   /* forked by a copy of the host that was made earlier (server_fork), which others may use, too */
};

struct pool_options {
  uint32_t workers;     /* 1 .. BOARD_MAX_WORKERS */
  uint32_t capacity;    /* how many pool_resize may make of them, at least `workers`; 0: as many. Costs address space, no memory */
  int64_t grace_ns;     /* between asking a worker to stop and killing it */
  uint64_t ring_bytes;  /* per worker; 0: the default */
  struct worker_terms terms; /* a worker that leaves by itself is replaced by pool_start, if there is work for it */
  enum output_kind output; /* where workers print */
  struct trace *trace;  /* where a record is kept of what happens; NULL: nowhere. Must outlive the pool */
  struct worker_tasks tasks; /* what workers do; copied; its context must live as long as the pool. With POOL_FORK alone */
  int is_sealed;        /* POOL_FORK: see struct process_child; the others' workers have nothing of the host's */
  enum pool_start_method start;
  struct server *early; /* POOL_EARLY: the copy; must outlive the pool */
  const char *helper;   /* POOL_SERVER, POOL_SPAWN: the program to execute; copied */
  const void *config;   /* and what it is told first (see struct server_work); copied */
  size_t config_length;
};

/* What is claimed first: work of a higher priority, whenever it was posted. */
enum pool_priority { POOL_NORMAL = 0, POOL_HIGH = 1, POOL_LOW = 2 };

/*
 * A piece of work to publish.
 * BOARD_BROADCAST: item k is run once, by worker k (from 0) and nobody else; count is the number of workers (pool_size), all of whom should
 * live: else the item waits for its worker. A worker who dies in it is blamed for it as usual; if he dies before, whoever is started in his
 * place does it. Each of them reads the block from its beginning.
 */
struct pool_work {
  enum board_entry_kind kind;
  enum pool_priority priority; /* of a broadcast without effect: it goes before all */
  uint32_t flags, chunk;
  uint64_t call;          /* the caller's number for the call; not 0 */
  uint64_t first, count;  /* items, numbered within the call from 0 */
  uint64_t job, job_offset, job_length; /* see struct board_entry; the job's bytes stay the caller's */
  uint64_t block_offset, block_length;  /* BOARD_BLOCK: allocated by pool_input; the pool frees it when no entry needs it any more */
  uint64_t item_ns;       /* how long an item will take, as a guess: the first claims go by it; 0: not known */
  int64_t timeout_ns;     /* per item, 0: none (sets BOARD_HAS_TIMEOUT) */
  int64_t memory_bytes;   /* what a worker may allocate on top of what it inherited; 0: no limit */
};

enum pool_event_kind {
  POOL_NOTHING = 0,
  POOL_RESULTS,  /* items first .. first + count - 1; data, length: their values as one stream */
  POOL_FAILED,   /* item first failed inside; data: error record */
  POOL_LOST,     /* item first died with its worker: end, reason, killed say how */
  POOL_UNREADY,  /* a worker could not start: data, or end if it died of it */
  POOL_NOTICE,   /* data: a text from a worker */
  POOL_PARTING,  /* data: a value that a worker left behind when it left */
  POOL_OUTPUT    /* data: printed by a worker's task on `stream`; always before the results of the item that printed it */
};

struct pool_event {
  enum pool_event_kind kind;
  uint32_t worker; /* from 1 */
  int pid;
  uint64_t call, first, count;
  const unsigned char *data;
  size_t length;
  struct process_end end;
  /* POOL_OUTPUT: */
  int stream;     /* 1: standard output, 2: standard error */
  int is_known;   /* with OUTPUT_ITEMS: item `first` of `call` (0: one that is over) printed it; count 0: none did */
  int is_end;     /* what it printed ends here, so an unfinished line will stay so; without data: that alone is said */
  const char *words; /* POOL_LOST, POOL_UNREADY: where it was when it died of a signal, as it says (board_last_words); NULL: it does not */
  int reason;     /* POOL_LOST: 0: by itself; INTERRUPT_TIMEOUT: killed because the item's time was over; POOL_DAMAGED */
  /* the pool's own: */
  uint64_t sequence;
  int is_salvage;
};

enum { POOL_DAMAGED = 300 }; /* the worker sent bytes that make no sense, and was killed for it */

/*
 * pool_open -- a pool without workers yet. 0 and *out, or -errno (-EINVAL: bad options).
 */
int pool_open(struct pool **out, const struct pool_options *options);

/*
 * pool_set_boot -- workers that are no copies of the host find these bytes in input memory when they begin (struct worker). The memory is
 * the pool's from now on. -- pool_method: how its workers are started. -- pool_complaint: in words, why pool_start failed last; "" if the
 * error number says all.
 */
void pool_set_boot(struct pool *p, uint64_t offset, uint64_t length);
enum pool_start_method pool_method(const struct pool *p);
const char *pool_complaint(const struct pool *p);

/*
 * pool_pause -- from now on no worker begins a claim (those that were begun go on), until it is called with 0. Nothing else changes: work
 * can be posted, cancelled, and waits; a pool that is paused can be ended.
 */
void pool_pause(struct pool *p, int is_paused);

/*
 * pool_resize -- how many workers there are to be from now on. Those with the highest numbers leave when they have finished what they have
 * claimed; missing ones are started by pool_start. Returns at once; 0 or -EINVAL (0, or more than options.capacity).
 */
int pool_resize(struct pool *p, uint32_t workers);

/*
 * pool_start -- start workers until `wanted` of them live (at most pool_size), those who are about to leave not counted.
 * In the children it never returns. But for POOL_FORK it waits for the helper's answers; -EINTR: an interrupt is pending.
 * Returns the number that live now (0: only while the dead still have something to say:
 * pool_next); -errno if none could be started, or if `all` is set and not all could be (those started in this call are ended and reaped).
 */
int pool_start(struct pool *p, uint32_t wanted, int all);

/*
 * pool_set_frugal -- from now on pool_start starts nobody who would find nothing to claim, as long as somebody lives: for work that is
 * posted before workers are started, all of it. Those who are there may do it in less time than it takes to start the rest.
 */
void pool_set_frugal(struct pool *p, int is_frugal);

/* pool_needs_start -- 1 if pool_start with that number would start somebody. */
int pool_needs_start(struct pool *p, uint32_t wanted);

/*
 * pool_input -- room in input memory: 0, *offset and *memory (valid until the next pool_input), or -errno. pool_input_free
 * gives it back.
 */
int pool_input(struct pool *p, uint64_t length, uint64_t *offset, void **memory);
void pool_input_free(struct pool *p, uint64_t offset, uint64_t length);
/* pool_trim -- a call is over: input memory that is not used goes back to the system. */
void pool_trim(struct pool *p);
/* pool_input_at -- the bytes again, NULL if they cannot be mapped. */
const void *pool_input_at(struct pool *p, uint64_t offset, uint64_t length);

/* pool_can_post -- how many entries of normal priority would be published at once, if they were posted now. */
uint32_t pool_can_post(struct pool *p);

/*
 * pool_post -- publish work and wake whoever should do it. Any number may be posted: when the board is full, work waits in the order
 * in which it came, and is published by pool_next as workers claim what is before it. Work of one priority is claimed in the order in
 * which it was posted, and before all that is of a lower one, as far as the board has places (BOARD_ENTRIES for each priority): what is
 * beyond gets there when pool_next is called. A worker that has several items of a lower priority (a chunk, a block) gives the rest back
 * after the one that it is at, if nobody else has been faster; pool_next publishes that again, before what came later. No item is
 * interrupted for it.
 * 0; -EINVAL (no items, too many, no such priority, a broadcast to workers that are not); -ENOMEM: nothing changed then. On success a block
 * is the pool's.
 */
int pool_post(struct pool *p, const struct pool_work *work);

/*
 * pool_block -- the bytes of the block that holds item `first` of an event that is not done yet, and how many items stand before it there.
 * Returns 0; -ENOENT: the items were not written into a block; -ENOMEM. The bytes are valid until pool_done.
 */
int pool_block(struct pool *p, const struct pool_event *event, const unsigned char **data, size_t *length, uint64_t *before);

/*
 * pool_repost -- publish item `first` of the lost or failed event once more, not before `due_ns` (of os_now_ns; 0: now).
 * 0 or -errno (-ECANCELED: its call was cancelled or drained meanwhile).
 */
int pool_repost(struct pool *p, const struct pool_event *event, int64_t due_ns);

/*
 * pool_next -- what happened next? Fills *event; returns its kind. Reads rings, ends and deadlines; never blocks.
 * The event's data is valid until pool_done. Events of cancelled calls are not shown.
 */
enum pool_event_kind pool_next(struct pool *p, struct pool_event *event);

/*
 * pool_done -- the event was taken. `count`: how many of its items are accounted for (results: all of them unless they were damaged).
 * Returns 0, or -EBADMSG if the worker reported items it did not own or fewer than it said; it has been killed then.
 */
int pool_done(struct pool *p, const struct pool_event *event, uint64_t count);

/* pool_condemn -- the event's bytes make no sense: kill its worker (a POOL_LOST with POOL_DAMAGED follows). */
void pool_condemn(struct pool *p, const struct pool_event *event);

/* pool_item_ns -- how long an item of the call takes lately, by the workers' measure; 0: not known. */
uint64_t pool_item_ns(const struct pool *p, uint64_t call);
/* pool_status -- 0, or -errno when the pool ran out of memory for its accounts and cannot go on. */
int pool_status(const struct pool *p);
/* pool_in_flight -- bytes of blocks of the call that are not done yet. */
uint64_t pool_in_flight(const struct pool *p, uint64_t call);
/* pool_unclaimed -- entries of the call from which nothing was claimed yet. This and the others above are answered in constant time. */
uint32_t pool_unclaimed(struct pool *p, uint64_t call);

/*
 * pool_cancel -- nothing more of the call is claimed or shown, and what of it waits for a worker is dropped; its input memory is freed.
 * Workers that are in it are asked to stop (SIGTERM); who still is at kill_at_ns (CLOCK_MONOTONIC; -1: never) is killed with its
 * descendants. Returns at once: pool_next does all that, and pool_wait wakes up for it. A second time the earlier moment counts.
 * Work that is posted for the call later is not cancelled.
 * pool_is_quiet -- 1 when no worker is in a cancelled entry of the call (0: of any call) any more, and all that was said of it is read.
 * pool_kill_stragglers -- kill now who still is in a cancelled entry of the call (0: of any call).
 * Somebody killed so who had just gone on to something else costs nothing but that: the item is run again by another.
 */
void pool_cancel(struct pool *p, uint64_t call, int64_t kill_at_ns);
int pool_is_quiet(const struct pool *p, uint64_t call);
void pool_kill_stragglers(struct pool *p, uint64_t call);

/*
 * pool_drain -- nothing more of the call is claimed or run again, and what of it waits for a worker is dropped. Items that run come to
 * their end, and pool_next shows it. pool_is_drained -- 1 when nothing of the call is posted any more.
 */
void pool_drain(struct pool *p, uint64_t call);
int pool_is_drained(const struct pool *p, uint64_t call);

/* pool_has_claim -- 1 if a worker has an item of the call in its hands. */
int pool_has_claim(struct pool *p, uint64_t call);

/*
 * pool_wait -- sleep until something happens: a worker rings or dies, extra_fd (-1: none) becomes readable, until_ns
 * (CLOCK_MONOTONIC; -1: none)
 * or an item's deadline is reached, or a signal comes. Spins a little first where there is a processor for it. Returns 0 or -EINTR.
 */
int pool_wait(struct pool *p, int extra_fd, int64_t until_ns);

/*
 * pool_set_patience -- 1: from now on pool_wait sleeps through the results of workers that go on working, while these are few and every
 * processor is busy: for a caller who has use for them only when all are there. Failures, deaths and deadlines wake it as always. 0: no
 * more.
 */
void pool_set_patience(struct pool *p, int is_patient);

/*
 * For a loop of somebody else's.
 * pool_fd -- a descriptor that becomes readable when pool_next may have something to say, or an item's time is over; -errno. It is the
 * pool's. Where the system cannot make one of many (see base/watch), it tells of results alone, and the caller looks ten times a second.
 * pool_rest -- the caller goes away: until it comes back (pool_look, pool_wait), and at until_ns (-1: never), the descriptor calls it.
 * pool_look -- take note of what there is, without waiting. pool_has_news -- 1 if pool_next would show something now, or soon; a few
 * loads, no system call. pool_is_stale -- 1 if there is work, and nobody has looked for a while after the dead and after time limits.
 */
int pool_is_stale(const struct pool *p);
int pool_fd(struct pool *p);
void pool_rest(struct pool *p, int64_t until_ns);
void pool_look(struct pool *p);
int pool_has_news(struct pool *p);

/*
 * Ending. leave: finish what is claimed, on_exit, go. quit: interrupt what runs, go. kill: SIGKILL, with descendants. Each
 * returns at once; never blocks. Go on calling pool_next while they leave: one that has something to say may wait for room in its ring.
 */
void pool_ask_to_leave(struct pool *p);
void pool_quit(struct pool *p);
void pool_kill(struct pool *p);

/* pool_continue -- workers that somebody has stopped go on, as far as one can see that they are. */
void pool_continue(struct pool *p);

/* pool_reap -- take note of the dead (waits at most timeout_ns for one more to die); returns how many still live. */
uint32_t pool_reap(struct pool *p, int64_t timeout_ns);

/* pool_close -- free everything; workers that still live are killed and reaped (at most 1 s). NULL is ignored. */
void pool_close(struct pool *p);

/* pool_abandon -- in a forked copy of the host: close descriptors and mappings, touch no process. */
void pool_abandon(struct pool *p);

/* What one worker is doing, and what it came to, and those who were in its place before it. */
struct pool_worker_info {
  int pid; /* 0: none */
  uint32_t phase;          /* enum board_phase */
  uint64_t items;          /* done or failed, as far as pool_next has seen them: each as often as it was, none twice */
  uint64_t claims;
  uint64_t bytes;          /* of results */
  uint64_t peak_bytes;     /* of memory, at most; looked at from time to time, and when a worker has ended */
  int64_t busy_ns;         /* in claims; of that: */
  int64_t encode_ns, wait_ns; /* writing results (see worker_count_encode); waiting for room in the ring */
  int64_t idle_ns;         /* without a claim while the pool was open (pool_set_open) */
  uint64_t call, item;     /* what runs now; item UINT64_MAX: nothing, or nothing yet of its claim */
  int64_t since_ns;        /* CLOCK_MONOTONIC: since when; without a time limit: since when it has had the claim */
  double progress_done, progress_total; /* what the item that runs said of itself; 0, 0: nothing */
};

/*
 * pool_info -- worker `number`, from 0, below the pool's capacity. pool_totals -- all of them together: pid is how many live, peak_bytes
 * the largest, nothing runs.
 */
void pool_info(const struct pool *p, uint32_t number, struct pool_worker_info *info);
void pool_totals(const struct pool *p, struct pool_worker_info *sum);

/*
 * pool_set_open -- the pool is open (+1) or no longer (-1) for another reason than that it has work, which counts anyway: a call whose
 * source has nothing to give keeps workers idle. pool_open_ns -- for how long it has been open.
 */
void pool_set_open(struct pool *p, int change);
int64_t pool_open_ns(const struct pool *p);

/* pool_rests_since -- when worker `number` (from 0) ended its last claim (CLOCK_MONOTONIC); 0: it is in one, or not there. */
int64_t pool_rests_since(const struct pool *p, uint32_t number);

/*
 * pool_hurry -- until it is called with 0: pool_next takes a small part of a large frame at a time. pool_has_more -- it did so the last
 * time, and may be called again at once though it gave nothing. pool_put_off -- an event was shown and is not done: somebody goes on with
 * it.
 */
void pool_hurry(struct pool *p, int is_in_a_hurry);
int pool_has_more(const struct pool *p);
void pool_put_off(struct pool *p);

/* pool_collect -- for the record: take what the workers have put down since the last time (pool_next does, now and then). */
void pool_collect(struct pool *p);
/* pool_end_record -- the program ends, the pool with it: what was put down so far is all. */
void pool_end_record(struct pool *p);

/* pool_note -- for the record, if one is kept: the host has read, slept or written in [began_ns, ended_ns) (EVENT_READ, _SLEEP, _WRITE). */
void pool_note(struct pool *p, enum event_kind kind, int64_t began_ns, int64_t ended_ns);

/* pool_is_running -- 1 while worker `number` (from 0) has items of a claim that are not accounted for. */
int pool_is_running(struct pool *p, uint32_t number);

/* pool_done_below -- every item of the call below this number that was posted is done, or failed for good; UINT64_MAX: all that were. */
uint64_t pool_done_below(struct pool *p, uint64_t call);

/* pool_size -- how many workers there are to be. pool_places -- the numbers of those who live now are below it (pool_info). */
uint32_t pool_size(const struct pool *p);
uint32_t pool_places(const struct pool *p);
uint32_t pool_living(const struct pool *p);
uint64_t pool_forks(const struct pool *p);

#endif
