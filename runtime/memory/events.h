/*
 * memory/events -- what a process did when, and how long items took: a bounded record in shared memory, one writer each.
 *
 * Room: memory.  Owns: the mapping of all the records of a pool: one for each worker, one for the host.
 * The writer never waits: when its ring is full, events are lost and counted. The host reads rings while they are written, and what a dead
 * writer left. Every word but `taken` has the writer alone as its writer; nothing that is read here is believed to make sense.
 *
 * So that a record is short however short the work: stretches that follow each other and are shorter than the *grain* are joined into
 * one, which says how much of what there was in it. The grain is GRAIN_NS at first, and grows with the time since the beginning: a
 * record of hours has few more events than one of seconds.
 */
#ifndef LUAPOOL_MEMORY_EVENTS_H
#define LUAPOOL_MEMORY_EVENTS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum {
  EVENTS_RING = 4096,
  EVENTS_BUCKETS = 8 * 46, /* up to 2^47 ns, 39 hours; each is an eighth of an octave */
  EVENTS_SLOWEST = 10,
  EVENTS_TEXT = 64,
  EVENTS_BLOCK = 1024,     /* of quick items, so many are timed together at most */
  EVENTS_GRAIN_NS = 50 * 1000
};

enum event_kind {
  EVENT_NONE = 0,
  EVENT_WORK = 1,   /* a worker's claim */
  EVENT_IDLE = 2,   /* a worker without one */
  EVENT_ENCODE = 3, /* within a claim: writing a large result */
  EVENT_ROOM = 4,   /* within a claim: waiting until the host has read others */
  EVENT_READ = 5,   /* the host: reading results */
  EVENT_SLEEP = 6,  /* the host: nothing to do */
  EVENT_WRITE = 7,  /* the host: getting and writing items */
  EVENT_MIXED = 8,  /* several of the others, each shorter than the grain */
  EVENT_CYCLE = 9   /* a moment: the collector has come round `claims` times; `items` bytes are in use */
};

/* A stretch of time. */
struct event {
  uint32_t kind;
  uint32_t claims;
  int64_t begin_ns, length_ns;  /* CLOCK_MONOTONIC */
  uint64_t call;                /* the call's number (of the first claim) */
  uint64_t first, last, items;  /* numbers of items, from 0: the lowest and the highest; how many were done */
  int64_t busy_ns, idle_ns, encode_ns, room_ns; /* a worker's: of it in claims; without one while there was work; in claims: as above */
  int64_t read_ns, sleep_ns, write_ns;          /* the host's */
};

/* One of the items that took longest. */
struct event_slow {
  int64_t ns;
  uint64_t call, first;
  uint32_t count;            /* 1: item `first`; else one of so many from there on (quick items are timed together) */
  uint32_t length;           /* of the text: what the item is; 0: not known */
  char text[EVENTS_TEXT];
};

struct events {
  _Atomic uint64_t put;      /* events so far */
  _Atomic uint64_t lost;     /* those for which there was no room */
  int64_t began_ns;          /* of the whole record; written by the host before there is a writer */
  int64_t end_ns;            /* the writer's own: where its last stretch ended */
  unsigned char gap1[32];
  _Atomic uint64_t taken;    /* written by the reader */
  unsigned char gap2[56];
  _Atomic uint32_t stamp;    /* odd while `pending` changes */
  struct event pending;      /* what may still be joined; kind EVENT_NONE: nothing */
  _Atomic uint32_t slow_stamp; /* odd while `slowest` changes */
  uint32_t n_slow;
  int64_t slow_least_ns;     /* the writer's own: what an item must take to be among them; 0 while there is room */
  struct event_slow slowest[EVENTS_SLOWEST]; /* in no order */
  _Atomic uint64_t items;    /* whose times are in the buckets */
  _Atomic uint64_t buckets[EVENTS_BUCKETS];
  struct event ring[EVENTS_RING];
};

/* events_open -- records for `n` writers, all beginning at began_ns. 0 or -errno.  events_close -- NULL is ignored. */
int events_open(struct events **out, uint32_t n, int64_t began_ns);
/* events_open_file -- the same in a memory file, *fd, for writers that are not forked from this process: events_attach there. */
int events_open_file(struct events **out, uint32_t n, int64_t began_ns, int *fd);
int events_attach(struct events **out, uint32_t n, int fd);
void events_close(struct events *all, uint32_t n);

/* ---- the writer ---- */

/* events_grain -- how long a stretch that ends at now_ns must be to stand by itself. */
int64_t events_grain(const struct events *e, int64_t now_ns);

/* events_put -- an event as it is: within a stretch that is still to be told, or a moment. */
void events_put(struct events *e, const struct event *event);

/* events_add -- the next stretch, alone or joined with those before. What of it lies before the end of the last one is cut off. */
void events_add(struct events *e, const struct event *event);

/* How the times of items are taken: each item of those that take long, of quick ones a sample. Private to the writer. */
struct events_sampler {
  uint64_t at;          /* the first item that was not looked at yet */
  int64_t at_ns;        /* when it began */
  int64_t excluded_ns;  /* the caller's count of time that is no item's, then */
  int64_t sample_ns;    /* how long the last item took that was timed alone */
  int64_t clock_ns;     /* what looking at the clock costs */
  int is_each;
};

/*
 * events_begin_items -- item `first` begins now. events_look -- items up to, not including, `next` are done.
 *   excluded_ns  a count of time that is not theirs: what it has grown since the last look is left out
 * Both return after how many more items to look again.
 */
uint64_t events_begin_items(struct events_sampler *s, uint64_t first, int64_t excluded_ns);
uint64_t events_look(struct events *e, struct events_sampler *s, uint64_t call, uint64_t next, int64_t excluded_ns);

/* events_name_slow -- give the slow item at `index` its text (cut to what fits). */
void events_name_slow(struct events *e, uint32_t index, const char *text, size_t length);

/* ---- the reader ---- */

/* events_take -- the next event: 1 and *event; 0: there is none. */
int events_take(struct events *e, struct event *event);

/* events_pending -- a copy of what may still be joined: 1 and *event; 0: there is none, or it is just changing. */
int events_pending(struct events *e, struct event *event);

/* events_forget_pending -- the writer is dead, and the reader has it. */
void events_forget_pending(struct events *e);

/* events_slow -- a copy of the slowest items: how many; the longest first. */
uint32_t events_slow(struct events *e, struct event_slow list[EVENTS_SLOWEST]);

/* events_bucket -- where a time belongs. events_bucket_begin -- the shortest time that belongs there. */
uint32_t events_bucket(int64_t ns);
int64_t events_bucket_begin(uint32_t bucket);

#endif
