/*
 * pool/worker -- the child's side: claim work, have it done, publish what came of it, sleep when there is none.
 *
 * Room: pool (may include pool/gate.h and pool/output.h).  Owns: nothing that outlives the process. Ignorant of Lua: the job floor does the
 * work through struct worker_tasks.
 * Fork: runs in the child only.  Blocks: in worker_main and where it waits for room in its ring; a dead host ends the process
 * (SIGCONT; and the lifeline is in every poll set).
 */
#ifndef LUAPOOL_POOL_WORKER_H
#define LUAPOOL_POOL_WORKER_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/os.h"
#include "memory/arena.h"
#include "memory/board.h"
#include "memory/channel.h"
#include "memory/events.h"
#include "pool/gate.h"
#include "pool/output.h"

/* Kinds of frames from a worker to its host. */
enum worker_frame {
  WORKER_RESULTS = 1, /* items first .. first + count - 1 are done; payload: their values as one stream */
  WORKER_FAILED = 2,  /* item first failed; payload: an error record */
  WORKER_DROPPED = 3, /* items first .. first + count - 1 were claimed and given up */
  WORKER_UNREADY = 4, /* on_start failed; payload: an error record. The worker leaves */
  WORKER_NOTICE = 5,  /* a warning to be issued in the host; payload: text */
  WORKER_PARTING = 6  /* what on_exit returned; payload: a value. The worker leaves */
};

/*
 * A frame is published when it holds this much: the host decodes it while it is still in the cache, and the ring goes round in
 * few pages.
 */
enum { WORKER_FRAME_BYTES = 64 * 1024 };

struct worker;

/*
 * What the job floor gives the worker: how things are done. Called in the child only; none may return twice, or jump or throw out (this
 * floor has no tables by which an exception passes: NO_TABLES in Makefile).
 */
struct worker_tasks {
  void *context;
  int (*start)(void *context, struct worker *w);  /* once; non-zero: unready, leave (a frame said why) */
  void (*run)(void *context, struct worker *w);   /* do the claim w->claim; every item of it must be published, failed or dropped */
  void (*finish)(void *context, struct worker *w); /* once, before an orderly end */
};

enum { WORKER_IDLE = 20 }; /* beyond what can be said in numbers (see os_be_idle) */

/* What a pool wants of the process that a worker is, and when it is to leave by itself (on_exit runs). All zeros: nothing, and never. */
struct worker_terms {
  uint64_t max_tasks;  /* it leaves after so many items */
  uint64_t max_growth; /* it leaves after an item when it has so many bytes of memory more than when it began */
  int64_t idle_ns;     /* it leaves when it has had nothing to do for so long */
  uint64_t least_memory; /* it begins nothing while less is left, */
  uint64_t most_load;  /* nor while so many thousandths of other processes run: see gate.h */
  int32_t nice;        /* how much lower than its host's its priority is; WORKER_IDLE: it runs where nobody else wants to */
  uint32_t is_bound;   /* to one processor (os_bind with its number) */
};

/* A claim: a copy of the entry as it was, and which items of it. */
struct worker_claim {
  uint64_t sequence; /* of the entry */
  uint64_t call;     /* the host's number */
  uint32_t number;   /* of the claim: slot->claims as long as it lasts */
  struct board_entry *shared; /* item_ns is read and written there */
  uint32_t kind, flags;
  int64_t memory_bytes;
  uint64_t job, job_offset, job_length, block_offset, block_length;
  uint64_t block_skip; /* items in the block before the first of this claim */
  uint64_t entry_first; /* number of the entry's first item */
  uint64_t first, count;
};

struct worker {
  uint32_t number; /* from 0 */
  struct board *board;
  struct board_slot *slot;
  struct channel channel;
  struct arena *arena;
  struct os_bell bell;      /* the worker's own, which the host rings */
  struct os_bell host_bell; /* the host's, for when it is parked */
  int lifeline;
  const struct worker_tasks *tasks;
  struct output_worker output;
  struct worker_terms terms;
  struct gate gate;
  uint64_t tasks_left;      /* items that it may still run; at 0 it leaves */
  uint64_t own_bytes;       /* of memory when it began; only with terms.max_growth */
  int64_t measured_ns;      /* when its memory was compared with that */
  int is_outgrown;          /* it has become too large, and leaves */
  int gives_way;            /* the rest of its claim is given back for something of a higher priority */
  int is_recruit;           /* it is no copy of its host: */
  uint64_t boot_offset, boot_length; /* what it needs to begin is there in input memory; length 0: nothing */
  void (*describe)(void *context, char *text, size_t capacity); /* set by tasks->start: what it is at, in a handler; NULL: it cannot */
  struct worker_claim claim;
  struct bytes frame;       /* the frame under construction: starts in the ring */
  uint64_t frame_first;
  uint32_t frame_count;     /* whole items in it */
  uint32_t staged_count;    /* of these, noted in the ring */
  size_t frame_low;         /* begin a new frame when less than this is left */
  int64_t turned_ns;        /* when the last claim ended */
  int has_waited;           /* since then */
  int64_t weighed_ns;       /* when its memory was looked at */
  int has_progress;         /* the item that runs has said how far it is */
  struct events *events;    /* the record of what it does, NULL: none is kept. Then, of its claim: */
  uint64_t n_ended;         /* items done or failed */
  int64_t encode_ns, room_ns; /* what has no event of its own */
};

/* worker_main -- the life of a worker. The caller filled number, board, arena, bells, lifeline, tasks, terms, output; a recruit more. */
_Noreturn void worker_main(struct worker *w);

/*
 * worker_settle -- what the terms want of the process; the job floor calls it once, before anything else. 0, or -errno and in *what the
 * end of "the worker cannot ...".
 */
int worker_settle(struct worker *w, const char **what);

/*
 * worker_is_outgrown -- an item is over: 1 if it left the worker too large, so that the rest of the claim is for others. Looks at the
 * memory every 0.1 ms at most; only with terms.max_growth.
 */
int worker_is_outgrown(struct worker *w);

/* worker_open_frame -- make w->frame a fresh frame for results from item `first` on. May wait for room. */
void worker_open_frame(struct worker *w, uint64_t first);

/* worker_close_frame -- publish what w->frame holds (nothing, if it holds no item). May wait for room when it outgrew the ring. */
void worker_close_frame(struct worker *w);

/* worker_send -- publish a frame of its own; the frame under construction must be closed. May wait for room. */
void worker_send(struct worker *w, enum worker_frame kind, uint64_t first, uint32_t count, const void *data, size_t length);

/* worker_progress -- how far the item that runs is: of `total` (0: it cannot tell) `done`. The next item begins without. */
void worker_progress(struct worker *w, double done, double total);

/* worker_count_encode -- so much of the claim's time went into writing results. */
static inline void worker_count_encode(struct worker *w, int64_t ns) {
  int64_t before = atomic_load_explicit(&w->slot->encode_ns, memory_order_relaxed);
  atomic_store_explicit(&w->slot->encode_ns, before + ns, memory_order_relaxed);
}

/* worker_trace -- within a claim something of that kind began at began_ns, and is over. Only with w->events. */
void worker_trace(struct worker *w, enum event_kind kind, int64_t began_ns, int64_t length_ns);

/* worker_begin_item -- item `item` runs from now on: its death is blamed on it. */
static inline void worker_begin_item(struct worker *w, uint64_t item) {
  if (w->has_progress) worker_progress(w, 0, 0);
  atomic_store_explicit(&w->slot->item, item, memory_order_release);
  if (w->claim.flags & BOARD_HAS_TIMEOUT) atomic_store_explicit(&w->slot->item_started_ns, os_now_ns(), memory_order_release);
}

/* worker_end_item -- its value was appended to w->frame: from now on a death does not lose it. */
static inline void worker_end_item(struct worker *w) {
  if (w->output.kind == OUTPUT_ITEMS) output_mark(&w->output, w->claim.sequence, atomic_load(&w->slot->item));
  w->frame_count++;
  if (w->frame.is_borrowed) {
    w->staged_count = w->frame_count;
    channel_stage(&w->channel, w->frame.length, w->frame_count);
  }
  if (w->claim.flags & BOARD_HAS_TIMEOUT) atomic_store_explicit(&w->slot->item_started_ns, 0, memory_order_release);
}

/* worker_needs_frame -- 1 if the next item should go into a new frame. */
static inline int worker_needs_frame(const struct worker *w) {
  return !w->frame.is_borrowed || w->frame.length >= WORKER_FRAME_BYTES || w->frame.capacity - w->frame.length < w->frame_low;
}

/*
 * The same for items without a time limit whose output needs no mark, and whose values never outgrow the frame (worker_room):
 * worker_begin_plain_item, worker_end_plain_item.
 */
static inline void worker_begin_plain_item(struct worker *w, uint64_t item) {
  if (w->has_progress) worker_progress(w, 0, 0);
  atomic_store_explicit(&w->slot->item, item, memory_order_release);
}

static inline void worker_end_plain_item(struct worker *w) {
  w->staged_count = ++w->frame_count;
  channel_stage(&w->channel, w->frame.length, w->frame_count);
}

/* worker_are_plain -- 1 if the items of the present claim are such, as far as that is the worker's business. */
static inline int worker_are_plain(const struct worker *w) {
  return !(w->claim.flags & BOARD_HAS_TIMEOUT) && w->output.kind != OUTPUT_ITEMS && w->terms.max_growth == 0;
}

/* worker_room -- the length that the present frame may have for one more item to go into it; 0: it needs another frame anyway. */
static inline size_t worker_room(const struct worker *w) {
  size_t room = w->frame.capacity >= w->frame_low ? w->frame.capacity - w->frame_low : 0;
  if (!w->frame.is_borrowed) return 0;
  return room < WORKER_FRAME_BYTES ? room : WORKER_FRAME_BYTES - 1;
}

/* worker_heeds_stop -- what is said about the claim (slot->stopped_claim) is so: 1; or it is so no more: 0, and the claim goes on. */
int worker_heeds_stop(struct worker *w);

/*
 * worker_is_stopped -- 1 if the rest of the claim is not wanted any more, or something of a higher priority waits: then it is dropped, and
 * comes back as an entry of its own.
 */
static inline int worker_is_stopped(struct worker *w) {
  if ((uint32_t)atomic_load_explicit(&w->slot->stopped_claim, memory_order_relaxed) == w->claim.number && worker_heeds_stop(w)) return 1;
  return (int)atomic_load_explicit(&w->slot->must_leave, memory_order_relaxed) == 2;
}

#endif
