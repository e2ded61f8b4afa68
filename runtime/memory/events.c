/* memory/events -- see events.h. */
#include "memory/events.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cold.h"
#include "base/os.h"

enum { SHARE_OF_TIME = 20000, LONG_NS = 5000, OUTLIER_NS = 50 * 1000, OUTLIER_TIMES = 10, READ_TRIES = 100, LEAST_BLOCK = 16,
       COST_SHARE = 100 };

static struct events *begin_all(void *memory, uint32_t n, int64_t began_ns) {
  struct events *all = memory;
  for (uint32_t i = 0; i < n; i++) all[i].began_ns = began_ns;
  return all;
}

COLD int events_open(struct events **out, uint32_t n, int64_t began_ns) {
  void *memory;
  int status = os_map_shared((size_t)n * sizeof(struct events), &memory);
  if (status == 0) *out = begin_all(memory, n, began_ns);
  return status;
}

COLD int events_open_file(struct events **out, uint32_t n, int64_t began_ns, int *fd) {
  void *memory;
  int status, file = os_memory_file("luapool-events");
  if (file < 0) return file;
  status = os_memory_stretch(file, (uint64_t)n * sizeof(struct events));
  if (status == 0) status = os_map_file(file, (size_t)n * sizeof(struct events), &memory);
  if (status < 0) {
    os_close(&file);
    return status;
  }
  *out = begin_all(memory, n, began_ns);
  *fd = file;
  return 0;
}

COLD int events_attach(struct events **out, uint32_t n, int fd) {
  int64_t there = os_size(fd);
  void *memory;
  int status = there < 0 ? (int)there : (uint64_t)there < (uint64_t)n * sizeof(struct events) ? -EBADMSG : 0;
  if (status == 0) status = os_map_file(fd, (size_t)n * sizeof(struct events), &memory);
  if (status == 0) *out = memory;
  return status;
}

void events_close(struct events *all, uint32_t n) {
  if (all != NULL) os_unmap(all, (size_t)n * sizeof(struct events));
}

/* ---- stretches ---- */

int64_t events_grain(const struct events *e, int64_t now_ns) {
  int64_t grain = (now_ns - e->began_ns) / SHARE_OF_TIME;
  return grain > EVENTS_GRAIN_NS ? grain : EVENTS_GRAIN_NS;
}

void events_put(struct events *e, const struct event *event) {
  uint64_t put = atomic_load_explicit(&e->put, memory_order_relaxed);
  if (put - atomic_load_explicit(&e->taken, memory_order_acquire) >= EVENTS_RING) {
    atomic_store_explicit(&e->lost, atomic_load_explicit(&e->lost, memory_order_relaxed) + 1, memory_order_relaxed);
    return;
  }
  e->ring[put % EVENTS_RING] = *event;
  atomic_store_explicit(&e->put, put + 1, memory_order_release);
}

/* From here to end_change a reader does not take what it sees. */
static void begin_change(_Atomic uint32_t *stamp) {
  atomic_store_explicit(stamp, atomic_load_explicit(stamp, memory_order_relaxed) + 1, memory_order_relaxed);
  atomic_thread_fence(memory_order_release);
}

static void end_change(_Atomic uint32_t *stamp) {
  atomic_store_explicit(stamp, atomic_load_explicit(stamp, memory_order_relaxed) + 1, memory_order_release);
}

static void join(struct event *sum, const struct event *event) {
  if (event->claims > 0) {
    if (sum->claims == 0) {
      sum->call = event->call;
      sum->first = event->first;
      sum->last = event->last;
    }
    if (event->first < sum->first) sum->first = event->first;
    if (event->last > sum->last) sum->last = event->last;
  }
  sum->kind = EVENT_MIXED;
  sum->length_ns = event->begin_ns + event->length_ns - sum->begin_ns;
  sum->claims += event->claims;
  sum->items += event->items;
  sum->busy_ns += event->busy_ns;
  sum->idle_ns += event->idle_ns;
  sum->encode_ns += event->encode_ns;
  sum->room_ns += event->room_ns;
  sum->read_ns += event->read_ns;
  sum->sleep_ns += event->sleep_ns;
  sum->write_ns += event->write_ns;
}

/* What was joined so far is complete. */
static void put_pending(struct events *e) {
  if (e->pending.kind == EVENT_NONE) return;
  events_put(e, &e->pending);
  begin_change(&e->stamp);
  e->pending.kind = EVENT_NONE;
  end_change(&e->stamp);
}

void events_add(struct events *e, const struct event *event) {
  struct event *pending = &e->pending, cut = *event;
  int64_t end = event->begin_ns + event->length_ns, grain = events_grain(e, end);
  if (cut.begin_ns < e->end_ns) {
    cut.begin_ns = e->end_ns;
    cut.length_ns = end > e->end_ns ? end - e->end_ns : 0;
  }
  if (pending->kind != EVENT_NONE &&
      (pending->length_ns >= grain || cut.length_ns >= grain || cut.begin_ns - (pending->begin_ns + pending->length_ns) >= grain))
    put_pending(e);
  e->end_ns = cut.begin_ns + cut.length_ns;
  if (cut.length_ns >= grain) {
    events_put(e, &cut);
    return;
  }
  begin_change(&e->stamp);
  if (pending->kind == EVENT_NONE) {
    *pending = cut;
  } else {
    join(pending, &cut);
  }
  end_change(&e->stamp);
}

int events_take(struct events *e, struct event *event) {
  uint64_t taken = atomic_load_explicit(&e->taken, memory_order_relaxed);
  uint64_t put = atomic_load_explicit(&e->put, memory_order_acquire);
  if (put == taken) return 0;
  if (put - taken > EVENTS_RING) { /* the writer cannot have written that */
    atomic_store_explicit(&e->taken, put, memory_order_release);
    return 0;
  }
  *event = e->ring[taken % EVENTS_RING];
  atomic_store_explicit(&e->taken, taken + 1, memory_order_release);
  return 1;
}

int events_pending(struct events *e, struct event *event) {
  uint32_t stamp = atomic_load_explicit(&e->stamp, memory_order_acquire);
  if (stamp % 2 != 0) return 0;
  *event = e->pending;
  atomic_thread_fence(memory_order_acquire);
  return atomic_load_explicit(&e->stamp, memory_order_relaxed) == stamp && event->kind != EVENT_NONE;
}

void events_forget_pending(struct events *e) {
  e->pending.kind = EVENT_NONE;
  atomic_store(&e->stamp, 0);
  atomic_store(&e->slow_stamp, 0);
}

/* ---- the times of items ---- */

uint32_t events_bucket(int64_t ns) {
  uint32_t octave, bucket;
  if (ns < 8) return ns < 0 ? 0 : (uint32_t)ns;
  octave = 63 - (uint32_t)__builtin_clzll((unsigned long long)ns); /* 3 and more */
  bucket = (octave - 2) * 8 + ((uint32_t)(ns >> (octave - 3)) & 7);
  return bucket < EVENTS_BUCKETS ? bucket : EVENTS_BUCKETS - 1;
}

int64_t events_bucket_begin(uint32_t bucket) {
  if (bucket < 8) return bucket;
  return (int64_t)(8 + bucket % 8) << (bucket / 8 - 1);
}

static void count(struct events *e, int64_t ns, uint64_t items) {
  _Atomic uint64_t *bucket = &e->buckets[events_bucket(ns)];
  atomic_store_explicit(bucket, atomic_load_explicit(bucket, memory_order_relaxed) + items, memory_order_relaxed);
  atomic_store_explicit(&e->items, atomic_load_explicit(&e->items, memory_order_relaxed) + items, memory_order_relaxed);
}

static void note_slow(struct events *e, int64_t ns, uint64_t call, uint64_t first, uint64_t items) {
  uint32_t i, place = e->n_slow;
  if (ns <= e->slow_least_ns) return;
  if (place == EVENTS_SLOWEST)
    for (i = 1, place = 0; i < EVENTS_SLOWEST; i++)
      if (e->slowest[i].ns < e->slowest[place].ns) place = i;
  begin_change(&e->slow_stamp);
  e->slowest[place] = (struct event_slow){.ns = ns, .call = call, .first = first, .count = (uint32_t)items};
  if (place == e->n_slow) e->n_slow++;
  end_change(&e->slow_stamp);
  if (e->n_slow < EVENTS_SLOWEST) return;
  e->slow_least_ns = e->slowest[0].ns;
  for (i = 1; i < EVENTS_SLOWEST; i++)
    if (e->slowest[i].ns < e->slow_least_ns) e->slow_least_ns = e->slowest[i].ns;
}

/* The least that two looks at the clock are apart. */
static int64_t clock_cost(void) {
  int64_t least = INT64_MAX;
  int i;
  for (i = 0; i < 8; i++) {
    int64_t began = os_now_ns(), took = os_now_ns() - began;
    if (took < least) least = took;
  }
  return least;
}

uint64_t events_begin_items(struct events_sampler *s, uint64_t first, int64_t excluded_ns) {
  if (s->clock_ns == 0) s->clock_ns = clock_cost() + 1; /* 0: not known */
  s->at = first;
  s->excluded_ns = excluded_ns;
  s->at_ns = os_now_ns();
  return 1;
}

/* Several quick items took so long together. They are counted as the one timed before them; but one that took much longer shows. */
static void count_block(struct events *e, struct events_sampler *s, uint64_t call, uint64_t n, int64_t ns) {
  int64_t usual = s->sample_ns * (int64_t)n, mean = ns / (int64_t)n;
  s->is_each = mean > LONG_NS;
  if (ns > OUTLIER_NS && ns > usual * OUTLIER_TIMES) {
    int64_t slow = ns - s->sample_ns * (int64_t)(n - 1);
    count(e, s->sample_ns, n - 1);
    count(e, slow, 1);
    note_slow(e, slow, call, s->at, n);
  } else {
    count(e, s->sample_ns, n);
  }
}

/* How many quick items to time together, so that looking at the clock twice costs about a hundredth of their time. */
static uint64_t block_for(const struct events_sampler *s) {
  int64_t block = 2 * COST_SHARE * s->clock_ns / (s->sample_ns + 1);
  return block < LEAST_BLOCK ? LEAST_BLOCK : block > EVENTS_BLOCK - 1 ? EVENTS_BLOCK - 1 : (uint64_t)block;
}

uint64_t events_look(struct events *e, struct events_sampler *s, uint64_t call, uint64_t next, int64_t excluded_ns) {
  int64_t now = os_now_ns(), ns = now - s->at_ns - (excluded_ns - s->excluded_ns) - (s->clock_ns - 1);
  uint64_t n = next - s->at, again;
  if (ns < 0) ns = 0;
  if (n > 1) {
    count_block(e, s, call, n, ns);
    again = 1;
  } else if (n == 1) {
    s->sample_ns = ns;
    s->is_each = ns > LONG_NS;
    count(e, ns, 1);
    note_slow(e, ns, call, s->at, 1);
    again = s->is_each ? 1 : block_for(s);
  } else {
    again = 1;
  }
  s->at = next;
  s->at_ns = now;
  s->excluded_ns = excluded_ns;
  return again;
}

void events_name_slow(struct events *e, uint32_t index, const char *text, size_t length) {
  struct event_slow *slow = &e->slowest[index];
  if (length > sizeof slow->text) length = sizeof slow->text;
  begin_change(&e->slow_stamp);
  memcpy(slow->text, text, length);
  slow->length = (uint32_t)length;
  end_change(&e->slow_stamp);
}

static int by_time(const void *a, const void *b) {
  const struct event_slow *left = a, *right = b;
  return left->ns > right->ns ? -1 : left->ns < right->ns;
}

uint32_t events_slow(struct events *e, struct event_slow list[EVENTS_SLOWEST]) {
  uint32_t i, n = 0;
  int tries;
  for (tries = 0; tries < READ_TRIES; tries++) {
    uint32_t stamp = atomic_load_explicit(&e->slow_stamp, memory_order_acquire);
    if (stamp % 2 != 0) continue;
    n = e->n_slow < EVENTS_SLOWEST ? e->n_slow : EVENTS_SLOWEST;
    memcpy(list, e->slowest, n * sizeof *list);
    atomic_thread_fence(memory_order_acquire);
    if (atomic_load_explicit(&e->slow_stamp, memory_order_relaxed) == stamp) break;
    n = 0;
  }
  for (i = 0; i < n; i++)
    if (list[i].length > EVENTS_TEXT) list[i].length = 0;
  qsort(list, n, sizeof *list, by_time);
  return n;
}
