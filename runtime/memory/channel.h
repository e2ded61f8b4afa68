/*
 * memory/channel -- a byte ring in shared memory with one producer (a worker) and one consumer (its host).
 *
 * Room: memory.  Owns: nothing but the consumer's buffer for large frames; the shared part lies in the pool's board.
 * No lock, no system call, no waiting: a full ring is -EAGAIN, and who waits for what is the pool's business.
 * Each shared word has one writer, named at its declaration; the other side reads it without a lock because it only grows.
 *
 * Frames lie at multiples of 64 bytes, header first, and are contiguous. What does not fit in one piece (a *large* frame) flows through
 * the ring in pieces and is put together by the consumer. The frame under construction stands right behind the published bytes;
 * after each whole item the producer notes how far it got (staged), so that the consumer can salvage what a dead producer had finished.
 * The consumer believes nothing: kinds, lengths and positions are checked before use (-EBADMSG: drop the producer).
 * Fork: the producer half is used by the child, the consumer half by the host.  Signals: not from a handler.
 */
#ifndef LUAPOOL_MEMORY_CHANNEL_H
#define LUAPOOL_MEMORY_CHANNEL_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

enum { CHANNEL_ALIGN = 64, CHANNEL_MIN_BYTES = 16 * 1024, CHANNEL_MAX_BYTES = 1 << 30, CHANNEL_SHARE = 16, CHANNEL_LEAST_SHARE = 64 };

/* What a frame says before its payload. Exactly CHANNEL_ALIGN bytes. */
struct channel_header {
  uint32_t kind;        /* the user's, 1 .. 0xffff; flags of the ring above */
  uint32_t count;       /* items in the payload */
  uint64_t length;      /* payload bytes */
  uint64_t entry;       /* which piece of work (the user's) */
  uint64_t first;       /* number of the first item (the user's) */
  uint64_t note;        /* the user's */
  uint32_t safe_count;  /* of a large frame: items that were whole before the one that made it large */
  uint32_t magic;
  uint64_t reserved[2];
};

struct channel_shared {
  _Atomic uint64_t head; /* written by the consumer: bytes it is done with, since the beginning */
  unsigned char gap1[CHANNEL_ALIGN - 8];
  _Atomic uint64_t tail; /* written by the producer: bytes published, since the beginning */
  _Atomic uint32_t is_waiting;    /* written by the producer before it sleeps for room; cleared by the consumer, who rings */
  unsigned char gap2[CHANNEL_ALIGN - 12];
  /* The producer writes these for every item: not in the line at which a consumer looks that waits for the next frame. */
  _Atomic uint64_t staged_at;     /* written by the producer: where the frame of the next two begins; stale unless equal to tail */
  _Atomic uint64_t staged_length; /* written by the producer: payload bytes of whole items in it */
  _Atomic uint32_t staged_count;  /* written by the producer, after staged_length: whole items in it; 0: nothing to salvage */
  unsigned char gap3[CHANNEL_ALIGN - 20];
};

struct channel {
  struct channel_shared *shared;
  unsigned char *ring;
  uint64_t capacity; /* power of two */
  uint64_t position; /* producer: next byte to publish; consumer: next byte to read */
  uint64_t limit;    /* producer: head as last seen; consumer: tail as last seen */
  struct bytes large;             /* consumer: the large frame being put together */
  struct channel_header pending;  /* consumer: its header; producer: the header under construction */
  uint64_t large_left;            /* consumer: payload bytes still to come */
  uint64_t most;                  /* consumer: of them channel_peek takes this many at a time; 0: all that have come */
  uint64_t skip;                  /* consumer: bytes that channel_consume releases */
};

/* channel_size -- shared bytes needed for a ring of `capacity` bytes. */
size_t channel_size(uint64_t capacity);

/* channel_attach -- a handle on shared memory of channel_size(capacity) bytes. Zeroed memory is an empty ring. */
void channel_attach(struct channel *c, void *memory, uint64_t capacity);

/* channel_reset -- empty the ring for a new producer; the old one must be dead. Host only. */
void channel_reset(struct channel *c);

/* channel_clear -- free the consumer's buffer. */
void channel_clear(struct channel *c);

/* ---- producer ---- */

/*
 * channel_begin -- start a frame: returns where its payload goes and in *room how much fits: with the header at least a
 * CHANNEL_LEAST_SHARE-th of the ring. None begins nearer to the end than a CHANNEL_SHARE-th of it: a few large values shall fit.
 *   header  kind, entry, first and note are taken from it
 * NULL: no room now (nothing changed).
 */
void *channel_begin(struct channel *c, const struct channel_header *header, size_t *room);

/* channel_stage -- the first `length` payload bytes hold `count` whole items. */
static inline void channel_stage(struct channel *c, uint64_t length, uint32_t count) {
  atomic_store_explicit(&c->shared->staged_length, length, memory_order_relaxed);
  atomic_store_explicit(&c->shared->staged_count, count, memory_order_release);
}

/* channel_unread -- how many published bytes the consumer is not done with, as far as is known here. */
static inline uint64_t channel_unread(const struct channel *c) {
  return c->position - atomic_load_explicit(&c->shared->head, memory_order_relaxed);
}

/* channel_publish -- the frame begun last is complete with `length` payload bytes and `count` items. */
void channel_publish(struct channel *c, uint64_t length, uint32_t count);

/*
 * channel_publish_large -- turn the frame begun last into a large one of `length` bytes: writes as much as there is room for.
 *   data        all the payload; *sent is how much went before (start with 0) and is moved on
 *   safe_count  items that were staged before
 * Returns 0: all is published; -EAGAIN: wait for room and call again.
 */
int channel_publish_large(struct channel *c, const void *data, uint64_t length, uint32_t count, uint32_t safe_count,
                          uint64_t *sent);

/* ---- consumer ---- */

/*
 * channel_peek -- look at the next frame.
 * Returns 1: *header is a copy, *data its payload, valid until channel_consume; 0: nothing whole is there; -EBADMSG; -ENOMEM.
 */
int channel_peek(struct channel *c, struct channel_header *header, const unsigned char **data);

/* channel_has_more -- 1 if channel_peek took a part of what has come of a large frame (see most), and is to be called again. */
static inline int channel_has_more(const struct channel *c) {
  return c->pending.kind != 0 && c->large_left > 0 && c->limit != c->position;
}

/* channel_consume -- be done with the frame that channel_peek showed. */
void channel_consume(struct channel *c);

/*
 * channel_salvage -- the producer is dead and channel_peek returned 0: what whole items had it finished?
 * Returns 1: *header (count and length reduced to whole items) and *data; 0: nothing. Once; then the ring is to be reset.
 */
int channel_salvage(struct channel *c, struct channel_header *header, const unsigned char **data);

/* channel_has_data -- 1 if something was published that was not consumed. */
static inline int channel_has_data(struct channel *c) {
  return atomic_load_explicit(&c->shared->tail, memory_order_acquire) != c->position;
}

#endif
