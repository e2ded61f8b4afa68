/*
 * The ring between a worker and its host: every size at every place, large frames in pieces, what a dead producer leaves, and a consumer
 * that believes nothing. The ring lies in a heap block of exactly its size, so that a sanitizer sees the first byte read or written beside
 * it.
 */
#include "unit.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "memory/channel.h"

enum { SMALL = CHANNEL_MIN_BYTES, LARGE_FLAG = 1 << 29, SKIP_FLAG = 1 << 30 };

struct rig {
  void *memory;
  struct channel in, out; /* producer, consumer */
  uint64_t capacity;
};

static void open_rig(struct rig *r, uint64_t capacity) {
  r->capacity = capacity;
  r->memory = aligned_alloc(CHANNEL_ALIGN, channel_size(capacity));
  assert_non_null(r->memory);
  memset(r->memory, 0, channel_size(capacity));
  channel_attach(&r->in, r->memory, capacity);
  channel_attach(&r->out, r->memory, capacity);
}

static void close_rig(struct rig *r) {
  channel_clear(&r->out);
  free(r->memory);
}

/* Byte `at` of frame `number`. */
static unsigned char byte_of(uint64_t number, uint64_t at) {
  return (unsigned char)((number * 131 + at * 7 + (at >> 8)) & 0xff);
}

static void fill(unsigned char *data, uint64_t number, uint64_t length) {
  uint64_t i;
  for (i = 0; i < length; i++) data[i] = byte_of(number, i);
}

static void assert_bytes(const unsigned char *data, uint64_t number, uint64_t length) {
  uint64_t i;
  for (i = 0; i < length; i++)
    if (data[i] != byte_of(number, i)) fail_msg("byte %llu of frame %llu is wrong", (unsigned long long)i, (unsigned long long)number);
}

static struct channel_header header_of(uint64_t number) {
  return (struct channel_header){.kind = 1 + (uint32_t)(number % 0xffff), .entry = number * 3, .first = number * 5, .note = ~number};
}

/* A frame on its way: begun, and how much of it went. */
struct sending {
  uint64_t number, length, sent;
  unsigned char *data;
  int is_begun, is_done;
};

static void prepare(struct sending *s, uint64_t number, uint64_t length) {
  *s = (struct sending){.number = number, .length = length};
  s->data = malloc(length ? (size_t)length : 1);
  assert_non_null(s->data);
  fill(s->data, number, length);
}

static uint32_t count_of(uint64_t number) {
  return (uint32_t)(number * 11 + 1);
}

/* Go as far as there is room; is_done says whether all of it went. */
static void push(struct channel *c, struct sending *s) {
  struct channel_header header = header_of(s->number);
  size_t room = 0;
  if (s->is_done) return;
  if (!s->is_begun) {
    unsigned char *to = channel_begin(c, &header, &room);
    if (to == NULL) return;
    assert_true(to >= c->ring && to + room <= c->ring + c->capacity);
    assert_true(room + CHANNEL_ALIGN >= c->capacity / CHANNEL_LEAST_SHARE);
    assert_int_equal(room % CHANNEL_ALIGN, 0);
    memset(to, 0xee, room); /* all of it is the producer's */
    s->is_begun = 1;
    if (s->length <= room) {
      memcpy(to, s->data, (size_t)s->length);
      channel_publish(c, s->length, count_of(s->number));
      s->is_done = 1;
    }
  }
  if (!s->is_done) s->is_done = channel_publish_large(c, s->data, s->length, count_of(s->number), 0, &s->sent) == 0;
  if (s->is_done) free(s->data);
}

/* The next frame must be `number`; 0: it is not whole yet. */
static int pull(struct channel *c, uint64_t number, uint64_t length) {
  struct channel_header header, wanted = header_of(number);
  const unsigned char *data = NULL;
  int status = channel_peek(c, &header, &data);
  if (status == 0) return 0;
  assert_int_equal(status, 1);
  assert_int_equal(header.kind, wanted.kind);
  assert_int_equal(header.entry, wanted.entry);
  assert_int_equal(header.first, wanted.first);
  assert_int_equal(header.note, wanted.note);
  assert_int_equal(header.count, count_of(number));
  assert_int_equal(header.length, length);
  assert_bytes(data, number, length);
  channel_consume(c);
  return 1;
}

static void pass(struct rig *r, uint64_t number, uint64_t length) {
  struct sending s;
  prepare(&s, number, length);
  push(&r->in, &s);
  while (!pull(&r->out, number, length)) push(&r->in, &s);
  assert_true(s.is_done);
}

static void assert_empty(struct rig *r) {
  struct channel_header header;
  const unsigned char *data;
  assert_int_equal(channel_peek(&r->out, &header, &data), 0);
  assert_false(channel_has_data(&r->out));
  assert_int_equal(r->in.shared->head, r->in.shared->tail);
}

/* Make the next frame begin at unit `place` of the ring, as far as it may: too near to the end it will jump to the front. */
static void go_to(struct rig *r, uint64_t *number, uint64_t place) {
  enum { UNITS = SMALL / CHANNEL_ALIGN, LAST = UNITS - UNITS / CHANNEL_SHARE };
  uint64_t target = place ? place : UNITS, here;
  while ((here = r->out.position / CHANNEL_ALIGN % UNITS) != place)
    pass(r, (*number)++, here <= LAST && here < target ? (target - here - 1) * CHANNEL_ALIGN : 0);
}

/* ---- whole frames ---------------------------------------------------------------------------------- */

/* Every size around a boundary, begun at every place of the ring. */
static void test_every_size_at_every_place(void **state) {
  static const int64_t sizes[] = {0, 1, 63, 64, 65, 127, 128, 129, 1023, 1024, 1025};
  struct rig r;
  uint64_t number = 1, step = slowness() > 4 ? 16 : 1;
  size_t i;
  uint64_t place;
  (void)state;
  open_rig(&r, SMALL);
  for (i = 0; i < sizeof sizes / sizeof *sizes; i++)
    for (place = 0; place < SMALL / CHANNEL_ALIGN; place += step) {
      go_to(&r, &number, place);
      pass(&r, number, (uint64_t)sizes[i]);
      number++;
      assert_empty(&r);
    }
  close_rig(&r);
}

/* The same for what just fits the room there is, what just does not, and what is larger than the ring. */
static void test_sizes_around_the_room_at_every_place(void **state) {
  static const int64_t beside[] = {-65, -64, -1, 0, 1, 63, 64, 65, SMALL - CHANNEL_ALIGN, SMALL, SMALL + 1, 3 * SMALL + 7};
  struct rig r;
  uint64_t number = 1, place, step = slowness() > 4 ? 32 : 3;
  size_t i;
  (void)state;
  open_rig(&r, SMALL);
  for (i = 0; i < sizeof beside / sizeof *beside; i++)
    for (place = 0; place < SMALL / CHANNEL_ALIGN; place += step) {
      struct channel_header header = header_of(1);
      size_t room = 0;
      go_to(&r, &number, place);
      assert_non_null(channel_begin(&r.in, &header, &room)); /* begun and thought better of */
      pass(&r, number, (uint64_t)((int64_t)room + beside[i]));
      number++;
      assert_empty(&r);
    }
  close_rig(&r);
}

static uint64_t random_length(uint64_t *seed, uint64_t capacity) {
  switch (random_below(seed, 12)) {
    case 0: return random_below(seed, 3 * capacity);
    case 1: case 2: return random_below(seed, capacity / 8);
    case 3: return 0;
    default: return random_below(seed, 300);
  }
}

enum { IN_FLIGHT = 512 };

/* A consumer that is now fast, now slow: frames come whole, in order, once. */
static void random_traffic(uint64_t capacity, int frames, uint64_t seed) {
  uint64_t lengths[IN_FLIGHT], made = 0, done = 0, seen = 0, patience = 0;
  struct sending s = {.is_done = 1};
  struct rig r;
  open_rig(&r, capacity);
  while (seen < (uint64_t)frames) {
    if (s.is_done && made < (uint64_t)frames && made - seen < IN_FLIGHT) {
      lengths[made % IN_FLIGHT] = random_length(&seed, capacity);
      prepare(&s, made, lengths[made % IN_FLIGHT]);
      made++;
    }
    if (!s.is_done) push(&r.in, &s);
    done = made - !s.is_done;
    if (patience > 0 && s.is_done && made - seen < IN_FLIGHT) {
      patience--;
      continue;
    }
    if (random_below(&seed, 40) == 0) patience = random_below(&seed, 300);
    if (seen < made && pull(&r.out, seen, lengths[seen % IN_FLIGHT])) seen++;
  }
  assert_int_equal(done, seen);
  assert_empty(&r);
  close_rig(&r);
}

static void test_random_traffic(void **state) {
  (void)state;
  random_traffic(SMALL, rounds_of(20000), 11);
  random_traffic(4 * SMALL, rounds_of(10000), 12);
  random_traffic(1 << 20, rounds_of(1000), 13);
}

static void test_full_ring_says_so_and_changes_nothing(void **state) {
  struct rig r;
  struct channel_header header = header_of(1);
  uint64_t made = 0, seen = 0, tail;
  size_t room;
  struct sending s;
  (void)state;
  open_rig(&r, SMALL);
  for (;;) {
    prepare(&s, made, 700);
    push(&r.in, &s);
    if (!s.is_done) break;
    made++;
  }
  if (s.is_begun) assert_int_equal(s.sent, 0);
  assert_true(made * (700 + CHANNEL_ALIGN) > SMALL - SMALL / 4);
  tail = r.in.shared->tail;
  if (!s.is_begun) assert_null(channel_begin(&r.in, &header, &room));
  assert_int_equal(r.in.shared->tail, tail);
  while (seen < made) assert_int_equal(pull(&r.out, seen, 700), 1), seen++;
  while (!s.is_done) push(&r.in, &s);
  while (!pull(&r.out, made, 700)) continue;
  assert_empty(&r);
  close_rig(&r);
}

/* Whoever is read at once stays in the warm part of a large ring; whoever is not may fill all of it. */
static void test_rewinds_while_the_consumer_keeps_up(void **state) {
  enum { RING = 4 << 20, WARM = 512 << 10 };
  struct rig r;
  uint64_t number, highest = 0, laps = 0, before = 0;
  (void)state;
  open_rig(&r, RING);
  for (number = 0; number < 4000; number++) {
    uint64_t place;
    pass(&r, number, number * 97 % 5000);
    place = r.out.position % RING;
    if (place > highest) highest = place;
    laps += place < before;
    before = place;
  }
  assert_true(highest < WARM);
  assert_true(laps > 5);
  channel_reset(&r.out);
  channel_attach(&r.in, r.memory, RING);
  for (number = 0;; number++) {
    struct sending s;
    prepare(&s, number, 4000);
    push(&r.in, &s);
    if (s.is_done) continue;
    free(s.data);
    break;
  }
  assert_true(number * 4064 > RING - RING / 4);
  for (highest = 0; highest < number; highest++) assert_int_equal(pull(&r.out, highest, 4000), 1);
  close_rig(&r);
}

/* Whoever is read some way behind keeps to a part of the ring that fits the lag, and loses nothing by starting at the front again. */
static void test_rewinds_behind_a_consumer_that_lags(void **state) {
  enum { RING = 8 << 20, LAG = 150, BYTES = 4000, PLACES = 4 * LAG * BYTES };
  struct rig r;
  uint64_t made, highest = 0, laps = 0, before = 0;
  (void)state;
  open_rig(&r, RING);
  for (made = 0; made < 20 * LAG; made++) {
    struct sending s;
    uint64_t place;
    prepare(&s, made, BYTES);
    push(&r.in, &s);
    assert_true(s.is_done);
    if (made >= LAG) assert_int_equal(pull(&r.out, made - LAG, BYTES), 1);
    place = r.in.position % RING;
    if (place > highest) highest = place;
    laps += place < before;
    before = place;
  }
  assert_true(highest < PLACES);
  assert_true(laps > 3);
  for (made = 19 * LAG; made < 20 * LAG; made++) assert_int_equal(pull(&r.out, made, BYTES), 1);
  assert_empty(&r);
  close_rig(&r);
}

/* A consumer that stops just when the ring has begun at the front again: a few frames still find room, all that had come is whole. */
static void test_consumer_stops_behind_a_rewind(void **state) {
  enum { RING = 8 << 20, BYTES = 60000, LEAST = 2 };
  struct rig r;
  uint64_t made = 0, seen, before = 0, place = 0, more = 0;
  struct sending s;
  (void)state;
  open_rig(&r, RING);
  while (place >= before) { /* always one behind */
    prepare(&s, made, BYTES);
    push(&r.in, &s);
    assert_true(s.is_done);
    if (made > 0) assert_int_equal(pull(&r.out, made - 1, BYTES), 1);
    made++;
    before = place;
    place = r.in.position % RING;
  }
  for (seen = made - 1;; more++) {
    prepare(&s, made, BYTES);
    push(&r.in, &s);
    if (!s.is_done) break;
    made++;
  }
  assert_true(more >= LEAST);
  for (; seen < made; seen++) assert_int_equal(pull(&r.out, seen, BYTES), 1);
  while (!s.is_done) push(&r.in, &s);
  while (!pull(&r.out, made, BYTES)) continue;
  assert_empty(&r);
  close_rig(&r);
}

/* ---- large frames ---------------------------------------------------------------------------------- */

static void test_large_frame_comes_in_pieces(void **state) {
  enum { LENGTH = 10 * SMALL + 13 };
  struct rig r;
  struct sending s, small;
  struct channel_header header;
  const unsigned char *data;
  uint64_t before = 0;
  (void)state;
  open_rig(&r, SMALL);
  pass(&r, 1, 5000);
  prepare(&small, 2, 100);
  push(&r.in, &small);
  prepare(&s, 3, LENGTH);
  push(&r.in, &s);
  assert_int_equal(pull(&r.out, 2, 100), 1); /* what was there before is not held up */
  while (!s.is_done) {
    assert_int_equal(channel_peek(&r.out, &header, &data), 0);
    assert_false(channel_has_data(&r.out)); /* taken, so there is room again */
    push(&r.in, &s);
    assert_true(s.sent > before);
    before = s.sent;
  }
  prepare(&small, 4, 100);
  push(&r.in, &small);
  while (!pull(&r.out, 3, LENGTH)) push(&r.in, &small);
  while (!pull(&r.out, 4, 100)) push(&r.in, &small);
  assert_empty(&r);
  close_rig(&r);
}

static void test_large_frame_of_a_few_bytes(void **state) {
  static const uint64_t lengths[] = {0, 1, 64, 65, 1000};
  struct rig r;
  size_t i;
  (void)state;
  open_rig(&r, SMALL);
  for (i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    struct channel_header header = header_of(i);
    unsigned char data[1000];
    uint64_t sent = 0;
    size_t room;
    fill(data, i, lengths[i]);
    assert_non_null(channel_begin(&r.in, &header, &room));
    assert_int_equal(channel_publish_large(&r.in, data, lengths[i], count_of(i), 0, &sent), 0);
    assert_int_equal(sent, lengths[i]);
    assert_int_equal(pull(&r.out, i, lengths[i]), 1);
  }
  assert_empty(&r);
  close_rig(&r);
}

static void test_memory_of_large_frames_is_given_back(void **state) {
  struct rig r;
  (void)state;
  open_rig(&r, SMALL);
  pass(&r, 1, 20 << 20);
  assert_true(r.out.large.capacity <= 4 << 20);
  channel_clear(&r.out);
  assert_null(r.out.large.data);
  close_rig(&r);
}

/* ---- what the dead leave --------------------------------------------------------------------------- */

enum { ITEM = 24, ITEMS = 20 };

/* Begin frame `number` with `staged` of its items noted and a part of one more written. */
static unsigned char *begin_items(struct rig *r, uint64_t number, uint32_t staged) {
  struct channel_header header = header_of(number);
  size_t room;
  unsigned char *to = channel_begin(&r->in, &header, &room);
  uint32_t i;
  assert_non_null(to);
  for (i = 1; i <= staged; i++) {
    fill(to, number, (uint64_t)i * ITEM);
    channel_stage(&r->in, (uint64_t)i * ITEM, i);
  }
  memset(to + staged * ITEM, 0xdd, ITEM / 2);
  return to;
}

static void assert_salvage(struct rig *r, uint64_t number, uint32_t items) {
  struct channel_header header;
  const unsigned char *data;
  assert_int_equal(channel_peek(&r->out, &header, &data), 0);
  assert_int_equal(channel_salvage(&r->out, &header, &data), items > 0);
  if (items > 0) {
    struct channel_header wanted = header_of(number);
    assert_int_equal(header.kind, wanted.kind);
    assert_int_equal(header.entry, wanted.entry);
    assert_int_equal(header.first, wanted.first);
    assert_int_equal(header.count, items);
    assert_int_equal(header.length, items * ITEM);
    assert_bytes(data, number, items * ITEM);
  }
  assert_int_equal(channel_salvage(&r->out, &header, &data), 0); /* once */
}

static void test_salvage_of_every_number_of_items(void **state) {
  struct rig r;
  uint32_t staged, before;
  (void)state;
  for (staged = 0; staged <= ITEMS; staged++)
    for (before = 0; before < 3; before++) {
      uint32_t i;
      open_rig(&r, SMALL);
      for (i = 0; i < before; i++) {
        (void)begin_items(&r, i, ITEMS);
        channel_publish(&r.in, ITEMS * ITEM, count_of(i));
      }
      (void)begin_items(&r, 9, staged);
      for (i = 0; i < before; i++) assert_int_equal(pull(&r.out, i, ITEMS * ITEM), 1);
      assert_salvage(&r, 9, staged);
      close_rig(&r);
    }
}

static void test_nothing_published_is_salvaged(void **state) {
  struct rig r;
  (void)state;
  open_rig(&r, SMALL);
  assert_salvage(&r, 0, 0);
  (void)begin_items(&r, 1, ITEMS);
  channel_publish(&r.in, ITEMS * ITEM, count_of(1));
  assert_int_equal(pull(&r.out, 1, ITEMS * ITEM), 1);
  assert_salvage(&r, 0, 0); /* what it had noted about the published frame is stale */
  close_rig(&r);
}

/* It died between the steps of channel_begin: the note still speaks of the frame before, or of nothing. */
static void test_salvage_amid_begin(void **state) {
  struct rig r;
  struct channel_shared *shared;
  uint64_t old;
  (void)state;
  open_rig(&r, SMALL);
  shared = r.in.shared;
  (void)begin_items(&r, 1, 5);
  channel_publish(&r.in, 5 * ITEM, count_of(1));
  assert_int_equal(pull(&r.out, 1, 5 * ITEM), 1);
  old = shared->staged_at;
  (void)begin_items(&r, 2, 0);
  shared->staged_at = old; /* not stored yet */
  assert_salvage(&r, 0, 0);
  shared->staged_at = r.in.position;
  shared->staged_length = 3 * ITEM; /* its count was not stored any more */
  assert_salvage(&r, 0, 0);
  close_rig(&r);
}

static void test_salvage_amid_a_large_frame(void **state) {
  struct rig r;
  uint32_t safe;
  int pieces;
  (void)state;
  for (safe = 0; safe <= 3; safe++)
    for (pieces = 1; pieces <= 4; pieces++) {
      struct channel_header header;
      const unsigned char *data;
      unsigned char *all = malloc(6 * SMALL);
      uint64_t sent = 0;
      int i;
      open_rig(&r, SMALL);
      fill(all, 7, 6 * SMALL);
      (void)begin_items(&r, 7, safe);
      for (i = 0; i < pieces; i++) {
        assert_int_equal(channel_publish_large(&r.in, all, 6 * SMALL, safe + 1, safe, &sent), -EAGAIN);
        assert_int_equal(channel_peek(&r.out, &header, &data), 0);
      }
      assert_int_equal(channel_salvage(&r.out, &header, &data), safe > 0);
      if (safe > 0) {
        assert_int_equal(header.count, safe);
        assert_int_equal(header.kind, header_of(7).kind);
        assert_int_equal(header.first, header_of(7).first);
        assert_int_equal(header.length, sent);
        assert_true(header.length >= safe * ITEM);
        assert_bytes(data, 7, header.length);
      }
      assert_int_equal(channel_salvage(&r.out, &header, &data), 0);
      close_rig(&r);
      free(all);
    }
}

static void test_reset_ring_is_as_new(void **state) {
  struct rig r;
  unsigned char *all = malloc(6 * SMALL);
  struct channel_header header;
  const unsigned char *data;
  uint64_t sent = 0;
  (void)state;
  open_rig(&r, SMALL);
  fill(all, 7, 6 * SMALL);
  (void)begin_items(&r, 7, 3);
  assert_int_equal(channel_publish_large(&r.in, all, 6 * SMALL, 4, 3, &sent), -EAGAIN);
  assert_int_equal(channel_peek(&r.out, &header, &data), 0);
  atomic_store(&r.in.shared->is_waiting, 1);
  channel_reset(&r.out);
  channel_attach(&r.in, r.memory, SMALL);
  assert_int_equal(r.in.shared->is_waiting, 0);
  assert_salvage(&r, 0, 0);
  pass(&r, 1, 100);
  pass(&r, 2, 3 * SMALL);
  assert_empty(&r);
  close_rig(&r);
  free(all);
}

/* ---- damage ---------------------------------------------------------------------------------------- */

static volatile unsigned sum_of_bytes;

static void read_all(const struct rig *r, const unsigned char *data, uint64_t length) {
  uint64_t i;
  int is_in_ring = data >= r->out.ring && data < r->out.ring + r->capacity;
  if (is_in_ring) assert_true(length <= (uint64_t)(r->out.ring + r->capacity - data));
  for (i = 0; i < length; i++) sum_of_bytes += data[i];
}

/*
 * Read until nothing comes or damage is found, then salvage; returns the last answer of channel_peek. `most`: bytes there may be in one
 * frame.
 */
static int read_to_the_end(struct rig *r, uint64_t most) {
  struct channel_header header;
  const unsigned char *data;
  int status, frames = 0;
  while ((status = channel_peek(&r->out, &header, &data)) == 1) {
    assert_true(header.length <= most);
    assert_in_range(header.kind, 1, 0xffff);
    read_all(r, data, header.length);
    channel_consume(&r->out);
    assert_true(++frames < 10000);
  }
  assert_true(status == 0 || status == -EBADMSG);
  if (status == 0 && channel_salvage(&r->out, &header, &data) == 1) {
    assert_true(header.length <= most);
    read_all(r, data, header.length);
  }
  return status;
}

enum frames { NORMAL, SKIPPED, LARGE, STAGED, N_FRAMES };

/* A ring with one frame of the sort, ready to be damaged; returns its header. */
static struct channel_header *make_frame(struct rig *r, enum frames sort) {
  static unsigned char data[2 * SMALL];
  struct sending s;
  uint64_t number = 1, sent = 0, at;
  open_rig(r, SMALL);
  if (sort == NORMAL) {
    prepare(&s, 1, 500);
    push(&r->in, &s);
    return (struct channel_header *)r->out.ring;
  }
  if (sort == SKIPPED) { /* the last KiB of the ring is too little to begin in */
    while (r->out.position <= SMALL - SMALL / CHANNEL_SHARE) pass(r, number, 448 - CHANNEL_ALIGN), number++;
    at = r->out.position;
    prepare(&s, number, 500);
    push(&r->in, &s);
    assert_int_equal(((struct channel_header *)(r->out.ring + at))->kind, SKIP_FLAG);
    return (struct channel_header *)(r->out.ring + at);
  }
  (void)begin_items(r, 1, 4);
  if (sort == LARGE) {
    fill(data, 1, sizeof data);
    assert_int_equal(channel_publish_large(&r->in, data, sizeof data, 5, 4, &sent), -EAGAIN);
    assert_true(((struct channel_header *)r->out.ring)->kind & LARGE_FLAG);
  }
  return (struct channel_header *)r->out.ring;
}

static void test_every_bit_of_a_header(void **state) {
  enum frames sort;
  size_t bit;
  (void)state;
  for (sort = NORMAL; sort < N_FRAMES; sort++)
    for (bit = 0; bit < 8 * sizeof(struct channel_header); bit++) {
      struct rig r;
      unsigned char *header = (unsigned char *)make_frame(&r, sort);
      int status;
      header[bit / 8] ^= (unsigned char)(1u << bit % 8);
      status = read_to_the_end(&r, 2 * SMALL);
      if (sort != STAGED && bit / 8 / 4 == offsetof(struct channel_header, magic) / 4) assert_int_equal(status, -EBADMSG);
      if (sort != STAGED && bit / 8 == 3 && (sort != NORMAL || bit != 29))
        assert_int_equal(status, -EBADMSG); /* a flag too many or too few */
      close_rig(&r);
    }
}

static void test_every_byte_of_a_header_with_every_value(void **state) {
  enum frames sort;
  size_t at;
  int value, step = slowness() > 4 ? 37 : 3;
  (void)state;
  for (sort = NORMAL; sort < N_FRAMES; sort++)
    for (at = 0; at < sizeof(struct channel_header); at++)
      for (value = 0; value < 256; value += step) {
        struct rig r;
        unsigned char *header = (unsigned char *)make_frame(&r, sort);
        header[at] = (unsigned char)value;
        (void)read_to_the_end(&r, 2 * SMALL);
        close_rig(&r);
      }
}

static const uint64_t LIES[] = {0, 1, 63, 64, 65, 499, 500, 513, SMALL - 65, SMALL - 64, SMALL - 63, SMALL, SMALL + 1, 2 * SMALL,
                                UINT64_C(1) << 31, UINT64_C(1) << 32, UINT64_C(1) << 48, (UINT64_C(1) << 48) + 1, UINT64_C(1) << 63,
                                UINT64_MAX - 127, UINT64_MAX - 64, UINT64_MAX - 63, UINT64_MAX - 62, UINT64_MAX};
enum { N_LIES = sizeof LIES / sizeof *LIES };

static void test_lengths_that_lie(void **state) {
  enum frames sort;
  int lie;
  (void)state;
  for (sort = NORMAL; sort < N_FRAMES; sort++)
    for (lie = 0; lie < N_LIES; lie++) {
      struct rig r;
      struct channel_header *header = make_frame(&r, sort);
      int status;
      header->length = LIES[lie];
      status = read_to_the_end(&r, 2 * SMALL);
      if (sort == NORMAL && LIES[lie] > 512) assert_int_equal(status, -EBADMSG);
      if (sort == SKIPPED) assert_int_equal(status, -EBADMSG); /* the true one is not among them */
      if (sort == LARGE && LIES[lie] > UINT64_C(1) << 48) assert_int_equal(status, -EBADMSG);
      close_rig(&r);
    }
}

static void test_positions_that_lie(void **state) {
  enum frames sort;
  int lie;
  (void)state;
  for (sort = NORMAL; sort < N_FRAMES; sort++)
    for (lie = 0; lie < 2 * N_LIES; lie++) {
      struct rig r;
      uint64_t tail;
      int status;
      (void)make_frame(&r, sort);
      tail = LIES[lie / 2] + (lie % 2 ? r.out.position : 0);
      r.in.shared->tail = tail;
      status = read_to_the_end(&r, 2 * SMALL);
      if (tail % CHANNEL_ALIGN || tail - r.out.position > SMALL) assert_int_equal(status, -EBADMSG);
      close_rig(&r);
    }
}

static void test_notes_that_lie(void **state) {
  int lie, other;
  (void)state;
  for (lie = 0; lie < N_LIES; lie++)
    for (other = 0; other < N_LIES; other++) {
      struct rig r;
      (void)make_frame(&r, STAGED);
      r.in.shared->staged_length = LIES[lie];
      r.in.shared->staged_count = (uint32_t)LIES[other];
      (void)read_to_the_end(&r, SMALL - CHANNEL_ALIGN);
      close_rig(&r);
    }
}

/* A position between two units, amid a large frame that claims to be long: no byte may be taken twice. */
static void test_large_frame_is_no_longer_than_what_came(void **state) {
  uint64_t odd;
  (void)state;
  for (odd = 1; odd < CHANNEL_ALIGN; odd += 9) {
    struct rig r;
    struct channel_header *header = make_frame(&r, LARGE), copy;
    const unsigned char *data;
    header->length = 64 << 20;
    r.in.shared->tail = r.in.shared->tail - CHANNEL_ALIGN + odd;
    assert_int_equal(channel_peek(&r.out, &copy, &data), -EBADMSG);
    assert_true(r.out.large.length <= SMALL);
    close_rig(&r);
    header = make_frame(&r, LARGE);
    header->length = 64 << 20;
    assert_int_equal(channel_peek(&r.out, &copy, &data), 0);
    r.in.shared->tail += odd;
    assert_int_equal(channel_peek(&r.out, &copy, &data), -EBADMSG);
    assert_true(r.out.large.length <= SMALL);
    close_rig(&r);
  }
}

static void test_random_damage(void **state) {
  uint64_t seed = 5;
  int round, rounds = rounds_of(20000);
  (void)state;
  for (round = 0; round < rounds; round++) {
    struct rig r;
    unsigned char *header = (unsigned char *)make_frame(&r, (enum frames)(round % N_FRAMES)), *shared = r.memory;
    uint64_t hits = 1 + random_below(&seed, 6);
    while (hits-- > 0) {
      if (random_below(&seed, 3) > 0)
        header[random_below(&seed, 24)] = (unsigned char)next_random(&seed);
      else
        shared[random_below(&seed, sizeof(struct channel_shared))] = (unsigned char)next_random(&seed);
    }
    (void)read_to_the_end(&r, 2 * SMALL);
    channel_reset(&r.out); /* and the next producer finds a sound ring */
    channel_attach(&r.in, r.memory, SMALL);
    pass(&r, 3, 300);
    assert_empty(&r);
    close_rig(&r);
  }
}

/* ---- two processes --------------------------------------------------------------------------------- */

/* What a producer process sends: items 0, 1, 2 ..., each its length and then bytes that follow from its number. */
static uint64_t length_of_item(uint64_t item) {
  uint64_t seed = item, kind = random_below(&seed, 3000);
  if (kind == 0) return random_below(&seed, 5 * SMALL);
  return kind < 100 ? random_below(&seed, 3000) : random_below(&seed, 100);
}

static void append_item(struct bytes *b, uint64_t item) {
  uint64_t length = length_of_item(item);
  unsigned char data[5 * SMALL];
  fill(data, item, length);
  if (bytes_append(b, &length, sizeof length) < 0 || bytes_append(b, data, (size_t)length) < 0) _exit(9);
}

/* One frame of items, as a worker makes it: in the ring, staged item by item, large if it outgrows its room. Returns the items in it. */
static uint32_t produce_frame(struct channel *c, uint64_t item, uint32_t wanted) {
  struct channel_header header = {.kind = 1, .first = item};
  struct bytes b;
  uint32_t count = 0, staged = 0;
  uint64_t sent = 0;
  size_t room;
  void *to;
  while ((to = channel_begin(c, &header, &room)) == NULL) sched_yield();
  bytes_init(&b);
  bytes_borrow(&b, to, room);
  while (count < wanted && b.is_borrowed) {
    append_item(&b, item + count++);
    if (b.is_borrowed) channel_stage(c, b.length, staged = count);
  }
  if (b.is_borrowed)
    channel_publish(c, b.length, count);
  else
    while (channel_publish_large(c, b.data, b.length, count, staged, &sent) == -EAGAIN) sched_yield();
  bytes_free(&b);
  return count;
}

static void produce(void *memory, uint64_t items) {
  struct channel c;
  uint64_t item = 0, seed = 99;
  channel_attach(&c, memory, SMALL);
  while (item < items) {
    uint64_t left = items - item, wanted = 1 + random_below(&seed, 60);
    item += produce_frame(&c, item, (uint32_t)(wanted < left ? wanted : left));
  }
}

/* Check the items of a frame against what they must be. Returns the number of the next item. */
static uint64_t check_items(const struct channel_header *header, const unsigned char *data, uint64_t next) {
  uint64_t at = 0, length;
  uint32_t i;
  assert_int_equal(header->first, next);
  for (i = 0; i < header->count; i++, next++) {
    assert_true(header->length - at >= sizeof length);
    memcpy(&length, data + at, sizeof length);
    at += sizeof length;
    assert_int_equal(length, length_of_item(next));
    assert_true(header->length - at >= length);
    assert_bytes(data + at, next, length);
    at += length;
  }
  return next;
}

static pid_t start_producer(void *memory, uint64_t items) {
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    produce(memory, items);
    _exit(0);
  }
  return pid;
}

static void test_two_processes(void **state) {
  struct channel c;
  struct channel_header header;
  const unsigned char *data;
  uint64_t items = (uint64_t)rounds_of(150000), next = 0, seed = 4;
  int64_t deadline = os_now_ns() + long_ns();
  void *memory;
  int status;
  pid_t pid;
  (void)state;
  assert_int_equal(os_map_shared(channel_size(SMALL), &memory), 0);
  pid = start_producer(memory, items);
  channel_attach(&c, memory, SMALL);
  while (next < items && os_now_ns() < deadline) {
    status = channel_peek(&c, &header, &data);
    assert_in_range(status, 0, 1);
    if (status == 1) {
      next = check_items(&header, data, next);
      channel_consume(&c);
    }
    if (status == 0 || random_below(&seed, 50) == 0) sched_yield();
  }
  if (next < items) kill(pid, SIGKILL);
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(next, items);
  assert_int_equal(status, 0);
  channel_clear(&c);
  os_unmap(memory, channel_size(SMALL));
}

/* The producer is killed wherever it is: what came and what is salvaged are its items from the first on, without a hole. */
static void one_killed_producer(void *memory, uint64_t *seed, uint64_t *salvaged) {
  struct channel c;
  struct channel_header header;
  const unsigned char *data;
  uint64_t next = 0, stop = random_below(seed, 2000), turns = random_below(seed, 3000);
  pid_t pid;
  channel_attach(&c, memory, SMALL);
  channel_reset(&c);
  pid = start_producer(memory, UINT64_MAX);
  while (next < stop) {
    if (channel_peek(&c, &header, &data) != 1) {
      sched_yield();
      continue;
    }
    next = check_items(&header, data, next);
    channel_consume(&c);
  }
  while (turns-- > 0) os_relax();
  kill(pid, SIGKILL);
  assert_int_equal(waitpid(pid, NULL, 0), pid);
  while (channel_peek(&c, &header, &data) == 1) {
    next = check_items(&header, data, next);
    channel_consume(&c);
  }
  if (channel_salvage(&c, &header, &data) == 1) {
    uint64_t before = next;
    next = check_items(&header, data, next);
    *salvaged += next - before;
  }
  assert_true(next >= stop);
  channel_clear(&c);
}

static void test_killed_producers(void **state) {
  uint64_t seed = 21, salvaged = 0;
  int round, rounds = rounds_of(300);
  void *memory;
  (void)state;
  assert_int_equal(os_map_shared(channel_size(SMALL), &memory), 0);
  for (round = 0; round < rounds; round++) one_killed_producer(memory, &seed, &salvaged);
  assert_true(salvaged > 0);
  os_unmap(memory, channel_size(SMALL));
}

#define CASE(function) cmocka_unit_test_setup_teardown(function, note_the_house, find_it_clean)

int main(void) {
  const struct CMUnitTest tests[] = {
    CASE(test_every_size_at_every_place),
    CASE(test_sizes_around_the_room_at_every_place),
    CASE(test_random_traffic),
    CASE(test_full_ring_says_so_and_changes_nothing),
    CASE(test_rewinds_while_the_consumer_keeps_up),
    CASE(test_rewinds_behind_a_consumer_that_lags),
    CASE(test_consumer_stops_behind_a_rewind),
    CASE(test_large_frame_comes_in_pieces),
    CASE(test_large_frame_of_a_few_bytes),
    CASE(test_memory_of_large_frames_is_given_back),
    CASE(test_salvage_of_every_number_of_items),
    CASE(test_nothing_published_is_salvaged),
    CASE(test_salvage_amid_begin),
    CASE(test_salvage_amid_a_large_frame),
    CASE(test_reset_ring_is_as_new),
    CASE(test_every_bit_of_a_header),
    CASE(test_every_byte_of_a_header_with_every_value),
    CASE(test_lengths_that_lie),
    CASE(test_positions_that_lie),
    CASE(test_notes_that_lie),
    CASE(test_large_frame_is_no_longer_than_what_came),
    CASE(test_random_damage),
    CASE(test_two_processes),
    CASE(test_killed_producers),
  };
  return cmocka_run_group_tests_name("channel", tests, NULL, NULL);
}
