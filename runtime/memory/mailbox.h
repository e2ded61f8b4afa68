/*
 * memory/mailbox -- a ring of messages in a segment: many processes put, many take, each of them may die between any two instructions.
 *
 * Room: memory (may include memory/segment.h).  Owns: nothing; the segment is the caller's.
 * Putting and taking are each exclusive, by record locks on bytes of the segment's file, which the kernel takes back when their owner dies.
 * What was put or taken becomes true by a single store: of `head` (written with the put lock held; closing sets a bit of it) and of `tail`
 * (written with the take lock held). Until then nothing has happened, and what a dead process had half written is written over.
 * Who waits keeps its lock: for room (who puts), for a message (who takes). So one process waits for each, and the others for the locks.
 * A message that is larger than the ring makes the ring larger, when it is empty; the next small one makes it small again.
 * Nothing blocks here: the caller sleeps on the events.  Fork: a child's copy is a mailbox of its own with no lock held.
 */
#ifndef LUAPOOL_MEMORY_MAILBOX_H
#define LUAPOOL_MEMORY_MAILBOX_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/share.h"
#include "memory/segment.h"

/* Words behind the segment's header; the ring follows. */
struct mailbox_shared {
  _Alignas(64) _Atomic uint64_t head; /* the end of what was put: see `struct mark` in mailbox.c */
  _Atomic uint64_t capacity;          /* bytes of the ring, a power of two; changed by who has the put lock, while the ring is empty */
  uint64_t most;                      /* messages that may wait; constant */
  _Alignas(64) _Atomic uint64_t tail; /* the end of what was taken */
  _Alignas(64) struct share_event put_lock; /* it was given back */
  struct share_event room;                  /* something was taken */
  _Alignas(64) struct share_event take_lock;
  struct share_event message;               /* something was put */
};

enum {
  MAILBOX_RING_BYTES = 128 * 1024,
  MAILBOX_BYTES = sizeof(struct mailbox_shared) + MAILBOX_RING_BYTES, /* of a new segment's body */
  MAILBOX_MOST = 1 << 26 /* the largest number of messages that can wait */
};

static inline struct mailbox_shared *mailbox_shared(const struct segment *s) {
  return (struct mailbox_shared *)(void *)segment_body(s);
}

/* mailbox_init -- make the body (MAILBOX_BYTES of zeros) of a new segment a mailbox for at most `most` waiting messages. */
void mailbox_init(struct segment *s, uint64_t most);

/*
 * mailbox_put -- append a message. The first call takes the lock; it is kept for as long as -EAGAIN is returned with *event == &room: then
 * call again, or mailbox_stop_putting.
 *   note    a bit that comes with the message
 *   number  what mailbox_is_taken wants to know
 * Returns 0; -EAGAIN: wait for *event, whose time was *seen; -EPIPE: closed; -ENOMEM, -ENOSPC,
 * -EFBIG: no memory for a ring that could hold it; -EBADMSG: damaged; -errno. The lock is free after all but -EAGAIN.
 */
int mailbox_put(struct segment *s, const void *data, size_t length, int note, uint64_t *number, struct share_event **event,
                uint32_t *seen);
void mailbox_stop_putting(struct segment *s); /* idempotent */

/*
 * mailbox_take -- copy the oldest message to the end of `out`. With its note the lock is still held, and the message still there: read what
 * it names, then mailbox_finish_taking. Without, it is taken.
 * Returns 0 and *note; -EAGAIN: wait for *event (the lock is kept if it is &message); -EPIPE: closed, and nothing left; -EBUSY: this
 * process is at a message with a note already; -ENOMEM, -EBADMSG, -errno as above.
 * mailbox_finish_taking -- the message is taken.  mailbox_stop_taking -- it stays for others; idempotent.
 */
int mailbox_take(struct segment *s, struct bytes *out, int *note, struct share_event **event, uint32_t *seen);
void mailbox_finish_taking(struct segment *s);
void mailbox_stop_taking(struct segment *s);

/* mailbox_close -- no message can be put any more; wakes all who wait. Idempotent. */
void mailbox_close(struct segment *s);
int mailbox_is_closed(const struct segment *s);

/* mailbox_count -- messages that wait. */
uint64_t mailbox_count(const struct segment *s);

/* mailbox_has_room -- could a message of that length be put now, but for others who are putting? A guess. */
int mailbox_has_room(const struct segment *s, size_t length);

/* mailbox_is_taken -- was the message of that number taken, or put so long ago that it must have been? */
int mailbox_is_taken(const struct segment *s, uint64_t number);

#endif
