/*
 * memory/board -- the shared memory of a pool: what there is to do, what each worker is doing, and the result rings.
 *
 * Room: memory (may include memory/channel.h).  Owns: the mapping.  One board per pool, made by the host before its workers are started.
 * No lock: each word says who writes it. Only `front` and an entry's `cursor` have several writers; these change by
 * compare-and-swap alone, so a
 * worker may die between any two instructions and nobody waits for it.
 *
 * Work is a ring of *entries*. The host publishes entry number S in place S % BOARD_ENTRIES; workers claim runs of its items by moving its
 * cursor. The place is given to another entry as soon as `front` is beyond S: nothing is left to claim there, though items may still run.
 * A cursor carries the entry's lap as a tag, so that a worker that slept through a whole lap cannot claim from the place's new tenant.
 *
 * There is one such ring for each *lane* (enum board_lane). Workers look at the lanes in their order, so what is in one is claimed before
 * what is in those behind it. The lane is part of an entry's number: who has that needs no other word to find the entry. The words of all
 * lanes stand together, so that looking at several costs no more memory traffic than looking at one.
 */
#ifndef LUAPOOL_MEMORY_BOARD_H
#define LUAPOOL_MEMORY_BOARD_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "memory/channel.h"

enum { BOARD_ENTRIES = 1024, BOARD_MAX_WORKERS = 4096, BOARD_CURSOR_BITS = 48, BOARD_WORDS_BYTES = 1024 };

/*
 * In the order in which workers look for work: two for each priority. Into the first goes what was claimed once and was not done: it was
 * before its like, and so it is again.
 */
enum board_lane {
  BOARD_HIGH_RETURNED = 0,
  BOARD_HIGH = 1,
  BOARD_NORMAL_RETURNED = 2,
  BOARD_NORMAL = 3,
  BOARD_LOW_RETURNED = 4,
  BOARD_LOW = 5,
  BOARD_LANES = 6
};

#define BOARD_MAX_ITEMS (((uint64_t)1 << BOARD_CURSOR_BITS) - 1)

/* How the items of an entry are found. */
enum board_entry_kind {
  BOARD_INDEXED = 1, /* item k of the job's source: any part of it may be claimed */
  BOARD_BLOCK = 2,   /* written out by the host in input memory: claimed as a whole */
  BOARD_BROADCAST = 3 /* item k is worker k's alone; all have the block. Not in the ring of entries: see `summons` */
};

enum board_entry_flags {
  BOARD_NO_RESULTS = 1,    /* only failures and counts travel back */
  BOARD_GO_ON = 2,         /* after a failed item the claim goes on (else the rest is given up: the host cancels the call) */
  BOARD_HAS_TIMEOUT = 4,   /* workers note when each item started */
  BOARD_ALL_RESULTS = 8,   /* an item's value is the sequence of all results of fn */
  BOARD_ARGUMENTS = 16,    /* an item is a sequence of arguments */
  BOARD_SECONDS = 32,      /* after each value: how many seconds it took */
  BOARD_WRAPPED = 64,      /* the function is a wrapper: its first upvalue is the user's, whose upvalues give names to classes */
  BOARD_INTO = 128         /* results go into a shared array; with BOARD_NO_RESULTS */
};

/* Written by the host before it publishes the entry; workers only read, but for cursor and item_ns. */
struct board_entry {
  _Atomic uint64_t cursor;  /* lap tag << BOARD_CURSOR_BITS | next item; moved by workers (claim) and the host (cancel) */
  _Atomic uint64_t item_ns; /* how long an item takes lately, a hint; the host's guess, then written by any worker; 0: not known yet */
  uint32_t kind, flags, chunk; /* chunk: items per claim, 0: by schedule */
  uint64_t call;            /* the host's number for it */
  uint64_t first;           /* number of the first item within its call, from 0 */
  uint64_t count;           /* items */
  int64_t memory_bytes;     /* what a worker may allocate; 0: no limit */
  uint64_t job;             /* which job of the host: function and source */
  uint64_t job_offset, job_length;     /* the job written out in input memory, for workers that did not inherit it; length 0: none */
  uint64_t block_offset, block_length; /* of a block: its items */
  uint64_t block_skip;      /* items at the front of the block that are not part of this entry (a retry) */
};

enum board_phase {
  BOARD_PARKED = 0,   /* asleep or about to: ring its bell; or nobody is there, which keeps no processor busy either */
  BOARD_IDLE = 1,     /* looking for work */
  BOARD_SPINNING = 2, /* looking for work without sleeping: need not be rung */
  BOARD_STARTING = 3, /* forked, on_start still to run */
  BOARD_CLAIMING = 4, /* between deciding on a claim and having noted it */
  BOARD_OWNING = 5,   /* entry, first and count say what it has */
  BOARD_LEAVING = 6   /* on_exit, then gone */
};

/* What may wake the host. */
enum board_sleep {
  BOARD_AWAKE = 0,
  BOARD_ASLEEP = 1,  /* anything */
  BOARD_PATIENT = 2  /* failures; results only if there are many, or a processor is free for the host, or nobody has work any more */
};

/* What one worker is doing. Written by that worker alone, but for the last group. */
struct board_slot {
  _Atomic uint32_t phase;
  _Atomic uint32_t claims;        /* counts its claims: a reader sees by it that the group below changed under its eyes */
  _Atomic uint64_t entry;         /* sequence number of the entry it claimed from */
  _Atomic uint64_t first, count;  /* the items of its claim (numbers within the call) */
  _Atomic uint64_t item;          /* the item that runs, or ran last; meaningful while OWNING */
  _Atomic int64_t item_started_ns; /* CLOCK_MONOTONIC; 0: none runs. Only with BOARD_HAS_TIMEOUT. The host moves it (CAS) after a stop */
  _Atomic int64_t continued_ns;   /* CLOCK_MONOTONIC: when it last went on after it had been stopped; 0: never was */
  /* What the item that runs said of itself: bits of two doubles, 0 and 0: nothing. */
  _Atomic uint64_t progress_done, progress_total;
  /*
   * What it came to, and those who were in its place before. Host and worker take turns here: the host adds what a dead one could not.
   * idle_ns counts only while the pool is open (board_open_ns); open_mark_ns is how long it had been so at turned_ns.
   */
  _Atomic uint64_t claims_done, bytes_sent, peak_bytes;
  _Atomic int64_t busy_ns, encode_ns, idle_ns, wait_ns;
  _Atomic int64_t turned_ns;      /* CLOCK_MONOTONIC: when its claim began, or the last one ended; 0: it has not begun, or has left */
  _Atomic int64_t open_mark_ns;
  _Atomic int processor;          /* where it began, 1 + its number; 0: not known */
  _Atomic uint32_t has_last_words; /* board_last_words of this place are of the worker that is there, or died there last */
  unsigned char gap1[CHANNEL_ALIGN];
  /* written by the host */
  _Atomic uint32_t command;       /* enum interrupt_reason for the worker's SIGTERM handler, which takes it by exchange with 0 */
  _Atomic uint32_t command_claim; /* the value of `claims` that the command is meant for */
  _Atomic uint64_t command_item;  /* and the item, for a timeout */
  _Atomic uint64_t output_read[2]; /* see pool/output: bytes taken from its pipes, times two; odd while the host is reading */
  _Atomic uint32_t must_leave;    /* leave when the claim is done */
  /*
   * The value of `claims` whose rest is not wanted any more, and why (the host's word); or with BOARD_GIVE_WAY: whose rest is to be given
   * back if there is work of a higher priority. The worker takes that back, or says it to itself, by compare-and-swap.
   */
  _Atomic uint64_t stopped_claim;
  unsigned char gap2[CHANNEL_ALIGN - 48];
  /*
   * Work for this worker alone: 0: none; else the number of its entry, which `order` describes (its item: the worker's number). The host
   * sets it from 0 or what is done, and withdraws it; the worker adds BOARD_TAKEN. Both by compare-and-swap: one of them comes first.
   */
  _Atomic uint64_t summons;
  struct board_entry order;
  unsigned char gap3[CHANNEL_ALIGN];
};

/* Numbers of entries that are not in a ring have this bit; what a worker adds to `summons`; where the others have their lane. */
#define BOARD_APART ((uint64_t)1 << 63)
#define BOARD_TAKEN ((uint64_t)1 << 62)
enum { BOARD_LANE_BIT = 59, BOARD_LANE_MASK = 7 };

#define BOARD_GIVE_WAY ((uint64_t)1 << 32)

struct board {
  /* By lane: */
  _Atomic uint64_t published[BOARD_LANES]; /* written by the host: the lane's entries below it are there */
  unsigned char gap1[CHANNEL_ALIGN - 8 * BOARD_LANES];
  _Atomic uint64_t front[BOARD_LANES]; /* entries below it have nothing left to claim; moved on by workers */
  unsigned char gap2[CHANNEL_ALIGN - 8 * BOARD_LANES];
  _Atomic uint32_t host_sleep;  /* enum board_sleep: set by the host before it sleeps; who exchanges it with 0 rings the host's bell */
  uint32_t n_workers;           /* slots there are */
  uint32_t n_cpus;              /* processors that may spin and work */
  _Atomic uint32_t n_sharing;   /* written by the host: workers that share the work */
  uint64_t ring_bytes;
  _Atomic uint32_t n_places;    /* written by the host: slots from this one on are empty */
  _Atomic uint32_t is_paused;   /* written by the host: nobody begins a claim */
  unsigned char gap3[CHANNEL_ALIGN - 32];
  _Atomic int64_t open_before_ns, open_since_ns; /* written by the host: see board_open_ns; since 0: it is not open */
  unsigned char gap4[CHANNEL_ALIGN - 16];
  struct board_entry entries[BOARD_LANES][BOARD_ENTRIES];
  struct board_slot slots[];    /* n_workers, then their last words, then the rings */
};

/*
 * board_open -- map a board with slots for n_workers, and as many rings of ring_bytes each (a power of two within the limits of
 * channel.h).
 * When the system refuses so much address space, smaller rings are tried. Returns 0 or -errno.
 */
int board_open(struct board **out, uint32_t n_workers, uint64_t ring_bytes);

/*
 * board_open_file -- the same in a memory file, *fd, so that it can be handed to processes that are not forked from this one.
 * board_attach -- the board that another process made in this file. 0 or -errno (-EBADMSG: it is none). The file stays the caller's.
 */
int board_open_file(struct board **out, uint32_t n_workers, uint64_t ring_bytes, int *fd);
int board_attach(struct board **out, int fd);
void board_close(struct board *b);

/* board_channel -- attach to the ring of worker `number` (from 0). */
void board_channel(struct board *b, uint32_t number, struct channel *c);

/*
 * board_last_words -- where worker `number` writes down what it was doing when it dies of a signal: BOARD_WORDS_BYTES, a text that ends by
 * a zero byte if nobody has damaged it. Written by that worker alone.
 */
char *board_last_words(struct board *b, uint32_t number);

/* board_reset_slot -- make place `number` ready for a new worker (its old one is dead). Host only. */
void board_reset_slot(struct board *b, uint32_t number);

/* The number of the first entry of a lane. -- The lane of an entry that is in one. */
static inline uint64_t board_first(enum board_lane lane) {
  return (uint64_t)lane << BOARD_LANE_BIT;
}

static inline enum board_lane board_lane_of(uint64_t sequence) {
  return (enum board_lane)(sequence >> BOARD_LANE_BIT & BOARD_LANE_MASK);
}

/* 1 if work in lane `other` is of a higher priority than work in `lane`. -- The lane for what is given back of one. */
static inline int board_precedes(enum board_lane other, enum board_lane lane) {
  return other / 2 < lane / 2;
}

static inline enum board_lane board_returned(enum board_lane lane) {
  return (enum board_lane)(lane & ~1u);
}

static inline struct board_entry *board_entry(struct board *b, uint64_t sequence) {
  return &b->entries[board_lane_of(sequence)][sequence % BOARD_ENTRIES];
}

/* The cursor of entry `sequence` with `next` items claimed. */
static inline uint64_t board_cursor(uint64_t sequence, uint64_t next) {
  return ((sequence / BOARD_ENTRIES + 1) & 0xffff) << BOARD_CURSOR_BITS | next;
}

/* For how long there has been something to do, by `now`. A reader that meets the host between its two words is wrong by one such time. */
static inline int64_t board_open_ns(const struct board *b, int64_t now) {
  int64_t since = atomic_load_explicit(&b->open_since_ns, memory_order_relaxed);
  return atomic_load_explicit(&b->open_before_ns, memory_order_relaxed) + (since && now > since ? now - since : 0);
}

/* The part of [since, now) in which there was something to do; `mark`: board_open_ns at `since`. */
static inline int64_t board_open_part(const struct board *b, int64_t since, int64_t mark, int64_t now) {
  int64_t part = board_open_ns(b, now) - mark;
  return part < 0 ? 0 : part > now - since ? now - since : part;
}

/* 1 if the place with that cursor is (still) the one of entry `sequence`. */
static inline int board_is_of(uint64_t cursor, uint64_t sequence) {
  return cursor >> BOARD_CURSOR_BITS == board_cursor(sequence, 0) >> BOARD_CURSOR_BITS;
}

#endif
