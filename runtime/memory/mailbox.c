/* memory/mailbox -- see mailbox.h. */
#include "memory/mailbox.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/os.h"

/* Bytes of the file that the locks are on. */
enum { PUT_BYTE = 0, TAKE_BYTE = 1 };

/* segment.local: which locks this process has, and is it at a message that stays in the ring meanwhile. A child's copy names its parent. */
enum { IS_PUTTING = 1, IS_TAKING = 2, IS_READING = 4, LOCAL_BITS = 3 };

/* ---- marks ---- */

/*
 * A place in the ring and the number of messages up to it, in one word: position in units of 8 bytes (36 bits), count (27 bits), closed.
 * Both wrap around; differences stay right, since the ring is far smaller.
 */
enum { UNIT = 8, COUNT_BITS = 27 };
#define CLOSED UINT64_C(1)
#define COUNT_MASK ((UINT64_C(1) << COUNT_BITS) - 1)
#define POSITION_SHIFT (COUNT_BITS + 1)
#define POSITION_MASK ((UINT64_C(1) << (64 - POSITION_SHIFT)) - 1)

struct mark {
  uint64_t position, count;
};

static struct mark mark_of(uint64_t word) {
  return (struct mark){word >> POSITION_SHIFT, (word >> 1) & COUNT_MASK};
}

/* The word for `units` more in one message more. */
static uint64_t beyond(uint64_t word, uint64_t units) {
  struct mark m = mark_of(word);
  return (((m.position + units) & POSITION_MASK) << POSITION_SHIFT) | (((m.count + 1) & COUNT_MASK) << 1);
}

static uint64_t units_between(struct mark tail, struct mark head) {
  return (head.position - tail.position) & POSITION_MASK;
}

static uint64_t count_between(struct mark tail, struct mark head) {
  return (head.count - tail.count) & COUNT_MASK;
}

/* ---- messages ---- */

/* What stands before each message: its length, and its note in the highest bit. */
#define NOTE (UINT64_C(1) << 63)

static uint64_t units_of(uint64_t length) {
  return 1 + (length + UNIT - 1) / UNIT;
}

static unsigned char *ring(const struct segment *s) {
  return segment_body(s) + sizeof(struct mailbox_shared);
}

static void copy_in(const struct segment *s, uint64_t capacity, uint64_t position, const void *data, size_t length) {
  size_t at = (size_t)(position * UNIT & (capacity - 1)), first = (size_t)capacity - at;
  if (first > length) first = length;
  if (first) memcpy(ring(s) + at, data, first);
  if (length > first) memcpy(ring(s), (const unsigned char *)data + first, length - first);
}

static void copy_out(const struct segment *s, uint64_t capacity, uint64_t position, void *data, size_t length) {
  size_t at = (size_t)(position * UNIT & (capacity - 1)), first = (size_t)capacity - at;
  if (first > length) first = length;
  if (first) memcpy(data, ring(s) + at, first);
  if (length > first) memcpy((unsigned char *)data + first, ring(s), length - first);
}

/* ---- the ring ---- */

void mailbox_init(struct segment *s, uint64_t most) {
  struct mailbox_shared *m = mailbox_shared(s);
  m->most = most;
  atomic_store(&m->capacity, MAILBOX_RING_BYTES);
}

/* The bytes that a file with such a ring has. */
static uint64_t file_bytes(uint64_t capacity) {
  return SEGMENT_HEADER_BYTES + sizeof(struct mailbox_shared) + capacity;
}

/* See the whole ring, whatever others made of it. 0 and *capacity, or -errno. It may move: whoever calls this looks it up again after. */
static int see(struct segment *s, uint64_t *capacity) {
  *capacity = atomic_load(&mailbox_shared(s)->capacity);
  if (*capacity < MAILBOX_RING_BYTES || (*capacity & (*capacity - 1)) || *capacity > UINT64_C(1) << 38) return -EBADMSG;
  return file_bytes(*capacity) <= s->size ? 0 : segment_remap(s, file_bytes(*capacity));
}

/* The ring is empty and the put lock held: make it that large. Whoever dies on the way leaves an empty ring of either size. */
static int resize(struct segment *s, uint64_t capacity) {
  int status = os_memory_grow(s->fd, file_bytes(capacity));
  FAULT_POINT("mailbox_resize");
  if (status == 0 && file_bytes(capacity) > s->size) status = segment_remap(s, file_bytes(capacity));
  if (status < 0) return status;
  atomic_store(&mailbox_shared(s)->capacity, capacity);
  (void)os_memory_shrink(s->fd, file_bytes(capacity)); /* what cannot be given back is only kept */
  return 0;
}

/* ---- locks ---- */

static int has_lock(const struct segment *s, unsigned bit) {
  return s->local >> LOCAL_BITS == (uint64_t)getpid() && (s->local & bit);
}

static void note_lock(struct segment *s, unsigned bit, int is_held) {
  uint64_t pid = (uint64_t)getpid(), bits = s->local >> LOCAL_BITS == pid ? s->local & ((1 << LOCAL_BITS) - 1) : 0;
  s->local = pid << LOCAL_BITS | (is_held ? bits | bit : bits & ~(uint64_t)bit);
}

static void unlock(struct segment *s, unsigned bit, uint64_t byte, struct share_event *event) {
  if (!has_lock(s, bit)) return;
  note_lock(s, bit, 0);
  (void)share_unlock(s->fd, byte);
  share_event_tell(event, 1);
}

void mailbox_stop_putting(struct segment *s) {
  unlock(s, IS_PUTTING, PUT_BYTE, &mailbox_shared(s)->put_lock);
}

void mailbox_stop_taking(struct segment *s) {
  if (has_lock(s, IS_READING)) note_lock(s, IS_READING, 0);
  unlock(s, IS_TAKING, TAKE_BYTE, &mailbox_shared(s)->take_lock);
}

/* ---- putting ---- */

/* Make a ring that holds so many units, if this is not one. 0; -EAGAIN: it is not empty yet. */
static int fit(struct segment *s, uint64_t units, uint64_t *capacity) {
  const struct mailbox_shared *m = mailbox_shared(s);
  uint64_t wanted = MAILBOX_RING_BYTES;
  int is_empty = units_between(mark_of(atomic_load(&m->tail)), mark_of(atomic_load(&m->head))) == 0;
  int status;
  while (wanted / UNIT < units) wanted *= 2;
  if (wanted == *capacity || (wanted < *capacity && !is_empty)) return 0;
  if (!is_empty) return -EAGAIN;
  status = resize(s, wanted);
  if (status < 0 && wanted < *capacity) return 0; /* it stays as large as it was */
  if (status == 0) *capacity = wanted;
  return status;
}

/* With the lock. 0; -EAGAIN: no room yet; or a failure. */
static int put_locked(struct segment *s, const void *data, uint64_t length, int note, uint64_t *number) {
  struct mailbox_shared *m;
  uint64_t head, capacity, units = units_of(length), start = length | (note ? NOTE : 0);
  struct mark tail, at;
  int status = see(s, &capacity);
  if (status == 0) status = length > UINT64_C(1) << 37 ? -EFBIG : fit(s, units, &capacity);
  m = mailbox_shared(s);
  head = atomic_load(&m->head);
  if (head & CLOSED) return -EPIPE;
  if (status < 0) return status;
  tail = mark_of(atomic_load(&m->tail));
  at = mark_of(head);
  if (count_between(tail, at) >= m->most || units_between(tail, at) + units > capacity / UNIT) return -EAGAIN;
  copy_in(s, capacity, at.position, &start, UNIT);
  copy_in(s, capacity, at.position + 1, data, length);
  FAULT_POINT("mailbox_written");
  /* Nobody else moves it, but it may have been closed. */
  if (!atomic_compare_exchange_strong(&m->head, &head, beyond(head, units))) return -EPIPE;
  *number = (at.count + 1) & COUNT_MASK;
  FAULT_POINT("mailbox_put");
  share_event_tell(&m->message, 1);
  return 0;
}

int mailbox_put(struct segment *s, const void *data, size_t length, int note, uint64_t *number, struct share_event **event,
                uint32_t *seen) {
  struct mailbox_shared *m = mailbox_shared(s);
  int status;
  *event = &m->put_lock;
  *seen = share_event_now(*event);
  if (!has_lock(s, IS_PUTTING)) {
    if (atomic_load(&m->head) & CLOSED) return -EPIPE;
    status = share_lock(s->fd, PUT_BYTE);
    if (status < 0) return status;
    note_lock(s, IS_PUTTING, 1);
    FAULT_POINT("mailbox_putting");
  }
  *seen = share_event_now(&m->room);
  status = put_locked(s, data, length, note, number);
  *event = &mailbox_shared(s)->room;
  if (status != -EAGAIN) mailbox_stop_putting(s);
  return status;
}

/* ---- taking ---- */

/* With the lock: the message at the tail. 0 and its units; -EAGAIN: none; -EPIPE: none, and there will be none. */
static int look(struct segment *s, uint64_t *capacity, uint64_t *start, uint64_t *units) {
  const struct mailbox_shared *m = mailbox_shared(s);
  uint64_t head = atomic_load(&m->head), used;
  struct mark tail = mark_of(atomic_load(&m->tail));
  int status;
  used = units_between(tail, mark_of(head));
  if (used == 0) return head & CLOSED ? -EPIPE : -EAGAIN;
  status = see(s, capacity);
  if (status < 0) return status;
  copy_out(s, *capacity, tail.position, start, UNIT);
  *units = units_of(*start & ~NOTE);
  return used > *capacity / UNIT || *units > used ? -EBADMSG : 0;
}

static int take_locked(struct segment *s, struct bytes *out, int *note) {
  uint64_t capacity, start, units;
  size_t length;
  int status = look(s, &capacity, &start, &units);
  if (status < 0) return status;
  length = (size_t)(start & ~NOTE);
  status = bytes_reserve(out, length);
  if (status < 0) return status;
  copy_out(s, capacity, mark_of(atomic_load(&mailbox_shared(s)->tail)).position + 1, out->data + out->length, length);
  out->length += length;
  *note = (start & NOTE) != 0;
  FAULT_POINT("mailbox_copied");
  if (*note) note_lock(s, IS_READING, 1);
  else mailbox_finish_taking(s);
  return 0;
}

void mailbox_finish_taking(struct segment *s) {
  uint64_t capacity, start, units;
  if (!has_lock(s, IS_TAKING)) return;
  if (look(s, &capacity, &start, &units) == 0) {
    struct mailbox_shared *m = mailbox_shared(s);
    atomic_store(&m->tail, beyond(atomic_load(&m->tail), units));
    FAULT_POINT("mailbox_taken");
    share_event_tell(&m->room, 1);
  }
  mailbox_stop_taking(s);
}

int mailbox_take(struct segment *s, struct bytes *out, int *note, struct share_event **event, uint32_t *seen) {
  struct mailbox_shared *m = mailbox_shared(s);
  int status;
  if (has_lock(s, IS_READING)) return -EBUSY;
  if (mailbox_is_closed(s) && mailbox_count(s) == 0) return -EPIPE;
  *event = &m->take_lock;
  *seen = share_event_now(*event);
  if (!has_lock(s, IS_TAKING)) {
    status = share_lock(s->fd, TAKE_BYTE);
    if (status < 0) return status;
    note_lock(s, IS_TAKING, 1);
    FAULT_POINT("mailbox_taking");
  }
  *seen = share_event_now(&m->message);
  status = take_locked(s, out, note);
  *event = &mailbox_shared(s)->message;
  if (status < 0 && status != -EAGAIN) mailbox_stop_taking(s);
  return status;
}

/* ---- the rest ---- */

void mailbox_close(struct segment *s) {
  struct mailbox_shared *m = mailbox_shared(s);
  struct share_event *events[] = {&m->put_lock, &m->room, &m->take_lock, &m->message};
  atomic_fetch_or(&m->head, CLOSED);
  for (int i = 0; i < 4; i++) share_event_tell(events[i], INT_MAX);
}

int mailbox_is_closed(const struct segment *s) {
  return (atomic_load(&mailbox_shared(s)->head) & CLOSED) != 0;
}

uint64_t mailbox_count(const struct segment *s) {
  const struct mailbox_shared *m = mailbox_shared(s);
  struct mark tail = mark_of(atomic_load(&m->tail)); /* before the head: never more taken than put */
  return count_between(tail, mark_of(atomic_load(&m->head)));
}

int mailbox_has_room(const struct segment *s, size_t length) {
  const struct mailbox_shared *m = mailbox_shared(s);
  struct mark tail = mark_of(atomic_load(&m->tail)), head = mark_of(atomic_load(&m->head));
  uint64_t used = units_between(tail, head);
  return count_between(tail, head) < m->most && (used == 0 || used + units_of(length) <= atomic_load(&m->capacity) / UNIT);
}

int mailbox_is_taken(const struct segment *s, uint64_t number) {
  uint64_t tail = mark_of(atomic_load(&mailbox_shared(s)->tail)).count;
  return ((tail - number) & COUNT_MASK) <= COUNT_MASK / 2;
}
