/*
 * pool/output -- what tasks print: two pipes from each worker to its host, one as its descriptor 1 and one as its 2.
 *
 * Room: pool.  Owns: the host's ends of the pipes, what was read and not shown yet; in the worker, its own copies of the other ends.
 * Whatever writes to these descriptors is caught, in order: stdio, C libraries, programs that a task runs. The host alone writes to where
 * its own output goes. A worker that is killed leaves what it had written in its pipes; the host never waits for their end of file, because
 * a program that outlives the worker may hold them open.
 *
 * Marks. A worker may write a mark into a pipe: "what stands before belongs to this item, and ends here". It begins with a token of random
 * bytes, drawn for each pool. Marks are at most PIPE_BUF long, so they are never torn by another writer.
 * OUTPUT_ITEMS marks the end of each item that printed something; text without a mark yet belongs to the item at which the worker
 * was both before and after it was read. OUTPUT_LINES marks nothing but an unfinished line that nobody will finish.
 */
#ifndef LUAPOOL_POOL_OUTPUT_H
#define LUAPOOL_POOL_OUTPUT_H

#include <poll.h>
#include <stddef.h>
#include <stdint.h>

#include "memory/board.h"

enum output_kind {
  OUTPUT_INHERIT = 0, /* workers have the host's descriptors */
  OUTPUT_DISCARD = 1, /* /dev/null */
  OUTPUT_LINES = 2,   /* pipes; nobody asks which item printed what */
  OUTPUT_ITEMS = 3    /* pipes; every text comes with its item, sooner or later */
};

enum { OUTPUT_TOKEN_BYTES = 16, OUTPUT_MARK_BYTES = OUTPUT_TOKEN_BYTES + 16 };

/* An item that is none: what was printed before the first, after the last, by on_start and on_exit. */
#define OUTPUT_NO_ITEM UINT64_MAX

/* The host's ends of one worker's pipes. */
struct output_pipes {
  int read_fd[2];     /* -1: closed, or there is none */
  int owes_end[2];    /* it is to be shown that nothing comes any more */
  size_t due[2];      /* bytes to read before anything else of this worker is looked at */
  unsigned char carry[2][OUTPUT_MARK_BYTES]; /* may be the beginning of a mark whose rest is still in the pipe */
  size_t n_carry[2];
  int is_dead;
};

/* What is common to a pool's workers; the host's buffer. */
struct output {
  enum output_kind kind;
  unsigned char token[OUTPUT_TOKEN_BYTES];
  unsigned char *buffer;
  size_t at, end;       /* the part of it that was not shown yet */
  size_t shown;         /* where what is being shown ends */
  int *end_shown;       /* it is the end of a pipe: to be cleared when that is done */
  uint32_t number;      /* whose text it is: worker, from 0 */
  int stream;           /* 0, 1 */
  int is_all;           /* the pipe was empty after it: no part of a mark is missing */
  int is_last;          /* nothing comes after it */
  int is_stable;        /* the worker was at this item before and after it was read: */
  uint64_t sequence, item;
  int64_t checked_at_ns;
};

/* A piece of text. */
struct output_text {
  uint32_t number; /* worker, from 0 */
  int stream;      /* 0: standard output, 1: standard error */
  const unsigned char *data;
  size_t length;   /* may be 0 if is_end */
  int is_known;    /* who printed it: */
  uint64_t sequence, item; /* entry and item; OUTPUT_NO_ITEM: no item */
  int is_end;      /* what the item (or whoever it was) printed ends here */
};

/* ---- the host ---- */

/* output_open -- 0 or -ENOMEM. output_close is for all of it, the pipes excepted; idempotent. */
int output_open(struct output *o, enum output_kind kind);
void output_close(struct output *o);

/* output_init_pipes -- none. output_close_pipes -- close them (what is in them is lost); idempotent. output_forget_pipes -- do not. */
void output_init_pipes(struct output_pipes *p);
void output_close_pipes(struct output_pipes *p);
void output_forget_pipes(struct output_pipes *p);

/*
 * output_open_pipes -- for a worker about to be forked: writers[0] and [1] are to become its descriptors 1 and 2 (-1: it has the host's).
 * All are registered with process/process. Returns 0 or -errno.
 * output_close_writers -- in the host, after the fork; idempotent.
 */
int output_open_pipes(struct output *o, struct output_pipes *p, int writers[2]);
void output_close_writers(int writers[2]);

/* output_add_polls -- put what is to be watched into polls (at most 2); returns how many. output_take_polls: the same ones were polled. */
size_t output_add_polls(const struct output_pipes *p, struct pollfd *polls);
size_t output_take_polls(struct output_pipes *p, const struct pollfd *polls);

/* output_check -- is there text? What is there now becomes due. */
void output_check(struct output_pipes *p);

/* output_worker_is_dead -- what is in the pipes now is due, and then their end. */
void output_worker_is_dead(struct output_pipes *p);

/*
 * output_next -- the next text of worker `number` that is due. 1 and *text, valid until output_done; 0: none. Never blocks.
 * While a text of any worker is not done, it is that one's: ask for o->number's only (output_is_showing).
 */
int output_next(struct output *o, struct output_pipes *p, uint32_t number, struct board_slot *slot, struct output_text *text);
void output_done(struct output *o);

static inline int output_is_showing(const struct output *o) {
  return o->at < o->end;
}

/* output_has_text -- 0: output_next has nothing to say of the worker with these pipes, and need not be asked. */
static inline int output_has_text(const struct output *o, const struct output_pipes *p) {
  return p->due[0] || p->due[1] || p->n_carry[0] || p->n_carry[1] || p->is_dead || output_is_showing(o);
}

/* ---- the worker ---- */

struct output_worker {
  enum output_kind kind;
  int write_fd[2];
  unsigned char token[OUTPUT_TOKEN_BYTES];
  struct board_slot *slot;
  uint64_t marked[2]; /* bytes that had been written when the last mark was; UINT64_MAX: not known */
};

/* output_begin -- the other ends, as they were before the fork, are the calling worker's now. */
void output_begin(struct output_worker *w, const struct output *o, const int writers[2], struct board_slot *slot);

/*
 * output_flush -- an item is over, and what stdio holds of its output goes out. A line that it left unfinished is marked as final.
 * Costs no system call if there is nothing. May wait, when the pipe is full.
 */
void output_flush(struct output_worker *w);

/* output_mark -- with OUTPUT_ITEMS: the item is over; its text, if any, is flushed and marked. Else nothing. May wait. */
void output_mark(struct output_worker *w, uint64_t sequence, uint64_t item);

#endif
