/*
 * pool/trace -- the record of what the workers and the host of a pool did: tracks over time in constant memory, and events for a file.
 *
 * Room: pool (may include pool/tracefile.h).  Owns: the tracks.  It outlives the pool that it is of, and may be of several, one after the
 * other: the pool writes into it (pool/record.c), whoever opened it reads it and says to which file events go.
 * Time is cut into at most TRACE_BINS equal pieces, which grow as time goes on. What is read from shared memory is checked here.
 */
#ifndef LUAPOOL_POOL_TRACE_H
#define LUAPOOL_POOL_TRACE_H

#include <stdint.h>

#include "memory/events.h"
#include "pool/tracefile.h"

enum { TRACE_BINS = 480, TRACE_MARKS = 256, TRACE_HOST = 0 /* track; worker i, from 1, has track i */ };

/* What time is spent with. Of a worker: in claims, of that writing results and waiting until the host has read others; without a claim. */
enum trace_part {
  TRACE_BUSY = 0,
  TRACE_ENCODE = 1,
  TRACE_ROOM = 2,
  TRACE_IDLE = 3,
  /* of the host: */
  TRACE_READ = 0,
  TRACE_WRITE = 1,
  TRACE_SLEEP = 2,
  TRACE_PARTS = 4
};

/* What happened to a worker; `number` is: */
enum trace_mark_kind {
  MARK_STARTED = 1, /* its process */
  MARK_ENDED,       /* its process */
  MARK_CRASHED,     /* the signal that ended it, or -1 - its exit code */
  MARK_LOST,        /* the item that it was at */
  MARK_RETRY,       /* the item */
  MARK_TIMEOUT,     /* the item */
  MARK_CANCELLED,   /* it was asked to stop; the item */
  MARK_KILLED,      /* the item that it was at */
  MARK_KINDS
};

struct trace_mark {
  uint32_t kind, track;
  int64_t at_ns, number;
};

struct trace_track {
  int64_t bins[TRACE_BINS][TRACE_PARTS];
  int is_named; /* in the file */
};

struct recorder;

struct trace {
  const struct recorder *recorder; /* what a pool that writes into it does that with: pool_recorder; the opener sets it */
  int64_t began_ns, end_ns; /* CLOCK_MONOTONIC: when it was opened; where its last event ended (0: none) */
  int64_t bin_ns;
  uint32_t n_tracks;
  struct trace_track *tracks;
  uint32_t n_marks;         /* kept: the first of them */
  struct trace_mark marks[TRACE_MARKS];
  uint64_t counts[MARK_KINDS];
  uint64_t events, lost;    /* lost: there was no room for them, or no sense in them */
  uint64_t cycles;          /* of the workers' collectors */
  uint64_t items, buckets[EVENTS_BUCKETS]; /* of writers that are gone */
  struct event_slow slowest[EVENTS_SLOWEST];
  uint32_t n_slow;
  struct events *live;      /* of the pool that there is now: n_live writers */
  uint32_t n_live;
  struct tracefile *file;   /* NULL: none. The caller's; must outlive the record */
  uint32_t group;           /* its number in the file */
};

/* trace_init -- an empty record that begins now. trace_free -- give its memory back. */
void trace_init(struct trace *t);
void trace_free(struct trace *t);

/* trace_begin, trace_end -- a pool with these writers begins to write into it, and ends. */
void trace_begin(struct trace *t, struct events *live, uint32_t n_live);
void trace_end(struct trace *t);

/* trace_event -- what the writer of `track` has put down. trace_mark -- what happened to a worker. Out of memory: counted as lost. */
void trace_event(struct trace *t, uint32_t track, const struct event *event, const char *note);
void trace_mark(struct trace *t, uint32_t track, enum trace_mark_kind kind, int64_t number);

/* trace_lost -- so many events are missing (now). */
void trace_lost(struct trace *t, uint32_t track, uint64_t number);

/* The times of items, those of the pool that there is now included: how many; in each bucket; the slowest, the longest first (how many). */
uint64_t trace_items(const struct trace *t, uint64_t buckets[EVENTS_BUCKETS]);
uint32_t trace_slowest(const struct trace *t, struct event_slow list[EVENTS_SLOWEST]);

#endif
