/*
 * memory/channel -- see channel.h. The layout follows the single-producer single-consumer ring of Lamport (1983): two counters
 * that only grow.
 */
#include "memory/channel.h"

#include <errno.h>

#include "base/cold.h"

enum { FLAG_SKIP = 1u << 30, FLAG_LARGE = 1u << 29, KIND_MASK = 0xffff, MAGIC = 0x4c50f7a3 };

/*
 * With REWIND_BYTES used and at most half of what lies before this place unread, start again at the front: pages and cache lines that are
 * warm serve best, and each page that is touched for the first time costs more than to fill it. Behind a consumer that lags further, more
 * of the ring is used, in the end all.
 */
enum { REWIND_BYTES = 256 * 1024, REWIND_SHARE = 32 };

_Static_assert(sizeof(struct channel_header) == CHANNEL_ALIGN, "a header is one unit");

static uint64_t padded(uint64_t length) {
  return (length + CHANNEL_ALIGN - 1) & ~(uint64_t)(CHANNEL_ALIGN - 1);
}

size_t channel_size(uint64_t capacity) {
  return sizeof(struct channel_shared) + (size_t)capacity;
}

COLD void channel_attach(struct channel *c, void *memory, uint64_t capacity) {
  memset(c, 0, sizeof *c);
  c->shared = memory;
  c->ring = (unsigned char *)memory + sizeof(struct channel_shared);
  c->capacity = capacity;
  bytes_init(&c->large);
}

COLD void channel_reset(struct channel *c) {
  atomic_store(&c->shared->head, 0);
  atomic_store(&c->shared->tail, 0);
  atomic_store(&c->shared->staged_at, 0);
  atomic_store(&c->shared->staged_length, 0);
  atomic_store(&c->shared->staged_count, 0);
  atomic_store(&c->shared->is_waiting, 0);
  c->position = c->limit = c->large_left = c->skip = 0;
  memset(&c->pending, 0, sizeof c->pending);
  bytes_clear(&c->large);
}

void channel_clear(struct channel *c) {
  bytes_free(&c->large);
}

/* ---- producer ---- */

static void write_header(struct channel *c, uint32_t kind, uint64_t length, uint32_t count, uint32_t safe_count) {
  struct channel_header *header = (struct channel_header *)(c->ring + (c->position & (c->capacity - 1)));
  *header = c->pending;
  header->kind = kind;
  header->length = length;
  header->count = count;
  header->safe_count = safe_count;
  header->magic = MAGIC;
}

static void publish(struct channel *c, uint64_t bytes) {
  c->position += bytes;
  atomic_store_explicit(&c->shared->tail, c->position, memory_order_release);
}

/* Fill the rest of the ring with a frame that the consumer jumps over. */
static void skip_to_front(struct channel *c) {
  uint64_t rest = c->capacity - (c->position & (c->capacity - 1));
  write_header(c, FLAG_SKIP, rest - CHANNEL_ALIGN, 0, 0);
  publish(c, rest);
}

void *channel_begin(struct channel *c, const struct channel_header *header, size_t *room) {
  const uint64_t want = c->capacity / CHANNEL_SHARE, least = c->capacity / CHANNEL_LEAST_SHARE;
  uint64_t offset = c->position & (c->capacity - 1), to_end = c->capacity - offset, available;
  if (c->capacity - (c->position - c->limit) < want + to_end || offset >= REWIND_BYTES)
    c->limit = atomic_load_explicit(&c->shared->head, memory_order_acquire);
  available = c->capacity - (c->position - c->limit);
  if (offset >= REWIND_BYTES && c->capacity - available <= offset / 2 && available >= to_end + c->capacity / REWIND_SHARE) {
    skip_to_front(c);
    available -= to_end;
    offset = 0;
    to_end = c->capacity;
  } else if (to_end < want) {
    if (available < to_end + least) return NULL;
    skip_to_front(c);
    available -= to_end;
    offset = 0;
    to_end = c->capacity;
  }
  if (available < least) return NULL;
  if (available > to_end) available = to_end;
  c->pending = *header;
  c->pending.kind &= KIND_MASK;
  write_header(c, c->pending.kind, 0, 0, 0);
  channel_stage(c, 0, 0);
  atomic_store_explicit(&c->shared->staged_at, c->position, memory_order_release);
  *room = (size_t)available - CHANNEL_ALIGN;
  return c->ring + offset + CHANNEL_ALIGN;
}

void channel_publish(struct channel *c, uint64_t length, uint32_t count) {
  write_header(c, c->pending.kind, length, count, 0);
  publish(c, CHANNEL_ALIGN + padded(length));
}

int channel_publish_large(struct channel *c, const void *data, uint64_t length, uint32_t count, uint32_t safe_count, uint64_t *sent) {
  const unsigned char *from = data;
  int is_first = *sent == 0;
  for (;;) {
    uint64_t start = c->position + (is_first ? CHANNEL_ALIGN : 0), offset = start & (c->capacity - 1), room, piece;
    c->limit = atomic_load_explicit(&c->shared->head, memory_order_acquire);
    room = c->capacity - (start - c->limit);
    if (start - c->limit > c->capacity) room = 0;
    if (room > c->capacity - offset) room = c->capacity - offset;
    piece = length - *sent;
    if (piece > room) piece = room; /* room is a multiple of CHANNEL_ALIGN, so only the last piece is ragged */
    if (piece == 0 && *sent < length) return -EAGAIN;
    memcpy(c->ring + offset, from + *sent, (size_t)piece);
    *sent += piece;
    if (is_first) {
      /* The first piece holds all that was staged: there is at least the room that there was at channel_begin. */
      write_header(c, c->pending.kind | FLAG_LARGE, length, count, safe_count);
    }
    publish(c, (is_first ? CHANNEL_ALIGN : 0) + padded(piece));
    is_first = 0;
    if (*sent == length) return 0;
  }
}

/* ---- consumer ---- */

static void release(struct channel *c, uint64_t bytes) {
  c->position += bytes;
  atomic_store_explicit(&c->shared->head, c->position, memory_order_release);
}

/* Take what has come of a large frame. Returns 1 when it is whole, 0 when not, -ENOMEM. */
static int gather_large(struct channel *c) {
  uint64_t taken = 0;
  while (c->large_left > 0 && c->limit != c->position) {
    uint64_t offset = c->position & (c->capacity - 1), piece = c->limit - c->position;
    if (piece > c->capacity - offset) piece = c->capacity - offset;
    if (piece > c->large_left) piece = c->large_left;
    if (c->most && taken >= c->most) return 0;
    if (c->most && piece > c->most - taken) piece = c->most - taken;
    if (bytes_append(&c->large, c->ring + offset, (size_t)piece) < 0) return -ENOMEM;
    c->large_left -= piece;
    release(c, padded(piece));
    taken += piece;
  }
  return c->large_left == 0;
}

/* Returns 1: *header is a frame at position that lies wholly between position and limit; 0: none; -EBADMSG. */
static int next_header(struct channel *c, struct channel_header *header) {
  for (;;) {
    uint64_t offset, there = c->limit - c->position;
    if (there == 0) return 0;
    offset = c->position & (c->capacity - 1);
    memcpy(header, c->ring + offset, sizeof *header);
    if (header->magic != MAGIC || header->length > (uint64_t)1 << 48) return -EBADMSG;
    if (header->kind == FLAG_SKIP) {
      if (header->length + CHANNEL_ALIGN != c->capacity - offset || there < header->length + CHANNEL_ALIGN) return -EBADMSG;
      release(c, header->length + CHANNEL_ALIGN);
      continue;
    }
    if ((header->kind & KIND_MASK) == 0 || (header->kind & ~(uint32_t)(KIND_MASK | FLAG_LARGE))) return -EBADMSG;
    if (header->kind & FLAG_LARGE) return 1;
    if (header->length > c->capacity - offset - CHANNEL_ALIGN || there < CHANNEL_ALIGN + padded(header->length)) return -EBADMSG;
    return 1;
  }
}

int channel_peek(struct channel *c, struct channel_header *header, const unsigned char **data) {
  int status;
  c->limit = atomic_load_explicit(&c->shared->tail, memory_order_acquire);
  if (c->limit % CHANNEL_ALIGN || c->limit - c->position > c->capacity) return -EBADMSG;
  if (c->pending.kind == 0) {
    status = next_header(c, header);
    if (status <= 0) return status;
    if (!(header->kind & FLAG_LARGE)) {
      *data = c->ring + (c->position & (c->capacity - 1)) + CHANNEL_ALIGN;
      c->skip = CHANNEL_ALIGN + padded(header->length);
      return 1;
    }
    c->pending = *header;
    c->large_left = header->length;
    bytes_clear(&c->large);
    release(c, CHANNEL_ALIGN);
  }
  status = gather_large(c);
  if (status <= 0) return status;
  *header = c->pending;
  header->kind &= KIND_MASK;
  *data = c->large.data;
  c->skip = 0;
  return 1;
}

void channel_consume(struct channel *c) {
  enum { KEEP_BYTES = 4 << 20 };
  if (c->pending.kind != 0) {
    c->pending.kind = 0;
    if (c->large.capacity > KEEP_BYTES) bytes_free(&c->large);
    bytes_clear(&c->large);
  } else if (c->skip) {
    release(c, c->skip);
  }
  c->skip = 0;
}

COLD int channel_salvage(struct channel *c, struct channel_header *header, const unsigned char **data) {
  uint64_t offset = c->position & (c->capacity - 1), length;
  if (c->pending.kind != 0) { /* it died amid a large frame: the items before the large one are whole if their bytes came */
    *header = c->pending;
    header->count = c->pending.safe_count;
    header->length = c->large.length;
    *data = c->large.data;
    c->pending.kind = 0;
    header->kind &= KIND_MASK;
    return header->count > 0 && header->length > 0;
  }
  if (atomic_load_explicit(&c->shared->staged_at, memory_order_acquire) != c->position) return 0;
  header->count = atomic_load_explicit(&c->shared->staged_count, memory_order_acquire);
  length = atomic_load_explicit(&c->shared->staged_length, memory_order_relaxed);
  if (header->count == 0 || offset % CHANNEL_ALIGN || length > c->capacity - offset - CHANNEL_ALIGN) return 0;
  {
    uint32_t count = header->count;
    memcpy(header, c->ring + offset, sizeof *header);
    if (header->magic != MAGIC || header->kind == 0 || (header->kind & ~(uint32_t)KIND_MASK)) return 0;
    header->count = count;
    header->length = length;
  }
  *data = c->ring + offset + CHANNEL_ALIGN;
  channel_stage(c, 0, 0);
  return 1;
}
