/* The record of what a process did: what is joined and what stands alone, what is lost and counted, and how long items took. */
#include "unit.h"

#include <string.h>

#include "memory/events.h"

#define US INT64_C(1000)

static struct events *open_events(void) {
  struct events *e = NULL;
  assert_int_equal(events_open(&e, 1, 0), 0);
  return e;
}

static struct event work(int64_t begin, int64_t length, uint64_t first, uint64_t count) {
  return (struct event){.kind = EVENT_WORK, .claims = 1, .begin_ns = begin, .length_ns = length, .busy_ns = length, .call = 7,
                        .first = first, .last = first + count - 1, .items = count};
}

static struct event idle(int64_t begin, int64_t length) {
  return (struct event){.kind = EVENT_IDLE, .begin_ns = begin, .length_ns = length, .idle_ns = length};
}

/* What is long stands by itself, in its order. */
static void test_long_stretches_stay_what_they_are(void **state) {
  struct events *e = open_events();
  struct event all[] = {work(1000, 100 * US, 0, 5), idle(101000, 60 * US), work(161000, 200 * US, 5, 3)}, got;
  size_t i;
  (void)state;
  for (i = 0; i < 3; i++) events_add(e, &all[i]);
  for (i = 0; i < 3; i++) {
    assert_int_equal(events_take(e, &got), 1);
    assert_memory_equal(&got, &all[i], sizeof got);
  }
  assert_int_equal(events_take(e, &got), 0);
  assert_int_equal(events_pending(e, &got), 0);
  events_close(e, 1);
}

/* Short ones become one that says how much of what there was, and no time is missing. */
static void test_short_stretches_are_joined(void **state) {
  struct events *e = open_events();
  struct event one, got;
  int64_t now = 1000, busy = 0, idle_ns = 0, until = 0;
  uint64_t claims = 0, items = 0, events = 0, i;
  (void)state;
  for (i = 0; i < 1000; i++) {
    one = work(now, 6 * US, i * 2, 2);
    events_add(e, &one);
    one = idle(now + 6 * US, 4 * US);
    events_add(e, &one);
    now += 10 * US;
  }
  until = 1000;
  while (events_take(e, &got) || events_pending(e, &got)) {
    events++;
    assert_int_equal(got.kind, EVENT_MIXED);
    assert_int_equal(got.begin_ns, until);
    assert_true(got.length_ns <= 2 * EVENTS_GRAIN_NS);
    assert_int_equal(got.call, 7);
    assert_int_equal(got.first, items);
    until = got.begin_ns + got.length_ns;
    busy += got.busy_ns;
    idle_ns += got.idle_ns;
    claims += got.claims;
    items += got.items;
    if (e->pending.kind != EVENT_NONE && atomic_load(&e->put) == atomic_load(&e->taken) && until == now) events_forget_pending(e);
  }
  assert_int_equal(until, now);
  assert_int_equal(claims, 1000);
  assert_int_equal(items, 2000);
  assert_int_equal(busy, 6000 * US);
  assert_int_equal(idle_ns, 4000 * US);
  assert_true(events <= 1000 * 10 * US / EVENTS_GRAIN_NS + 1);
  events_close(e, 1);
}

/* One short stretch alone, with nothing behind it for long, keeps its name. */
static void test_one_short_stretch_is_not_renamed(void **state) {
  struct events *e = open_events();
  struct event first = work(1000, 3 * US, 41, 1), second = work(10 * MS, 90 * US, 42, 1), got;
  (void)state;
  events_add(e, &first);
  events_add(e, &second);
  assert_int_equal(events_take(e, &got), 1);
  assert_memory_equal(&got, &first, sizeof got);
  assert_int_equal(events_take(e, &got), 1);
  assert_memory_equal(&got, &second, sizeof got);
  events_close(e, 1);
}

/* Stretches never overlap, whatever is said. */
static void test_what_overlaps_is_cut(void **state) {
  struct events *e = open_events();
  struct event first = work(1000, 100 * US, 0, 1), within = work(50 * US, 20 * US, 1, 1), over = work(50 * US, 200 * US, 1, 1), got;
  (void)state;
  events_add(e, &first);
  events_add(e, &within);
  events_add(e, &over);
  assert_int_equal(events_take(e, &got), 1);
  assert_int_equal(got.begin_ns + got.length_ns, 101000);
  assert_int_equal(events_take(e, &got), 1);
  assert_int_equal(got.kind, EVENT_WORK);
  assert_int_equal(got.begin_ns, 101000);
  assert_int_equal(got.length_ns, 0);
  assert_int_equal(events_take(e, &got), 1);
  assert_int_equal(got.begin_ns, 101000);
  assert_int_equal(got.begin_ns + got.length_ns, 250 * US);
  events_close(e, 1);
}

/* A record of ten hours has about as many events as one of minutes. */
static void test_the_grain_grows_with_time(void **state) {
  struct events *e = open_events();
  struct event one, got;
  int64_t now = 0;
  uint64_t events = 0;
  (void)state;
  while (now < 36000 * 1000 * MS) {
    one = work(now, 700 * US, 0, 1);
    events_add(e, &one);
    now += 2 * MS;
    while (events_take(e, &got)) events++;
  }
  assert_true(events < 200000);
  assert_int_equal(atomic_load(&e->lost), 0);
  events_close(e, 1);
}

static void test_a_full_ring_loses_and_counts(void **state) {
  struct events *e = open_events();
  struct event one, got;
  uint64_t i, n = 0;
  (void)state;
  for (i = 0; i < EVENTS_RING + 10; i++) {
    one = work((int64_t)i * 100 * US, 100 * US, i, 1);
    events_add(e, &one);
  }
  assert_int_equal(atomic_load(&e->lost), 10);
  while (events_take(e, &got)) assert_int_equal(got.first, n++);
  assert_int_equal(n, EVENTS_RING);
  events_add(e, &one);
  one.begin_ns += 100 * US;
  events_add(e, &one);
  assert_int_equal(events_take(e, &got), 1);
  events_close(e, 1);
}

/* The writer may have written anything. */
static void test_nonsense_is_not_believed(void **state) {
  struct events *e = open_events();
  struct event_slow list[EVENTS_SLOWEST];
  struct event got;
  (void)state;
  atomic_store(&e->put, UINT64_MAX / 2);
  assert_int_equal(events_take(e, &got), 0);
  e->n_slow = UINT32_MAX;
  memset(e->slowest, 0xff, sizeof e->slowest);
  assert_int_equal(events_slow(e, list), EVENTS_SLOWEST);
  assert_int_equal(list[0].length, 0);
  atomic_store(&e->slow_stamp, 1); /* it died while it changed them */
  assert_int_equal(events_slow(e, list), 0);
  atomic_store(&e->stamp, 1);
  e->pending = work(0, 1, 0, 1);
  assert_int_equal(events_pending(e, &got), 0);
  events_forget_pending(e);
  assert_int_equal(events_pending(e, &got), 0);
  events_close(e, 1);
}

static void test_buckets_cover_all_times(void **state) {
  int64_t ns;
  uint32_t i;
  (void)state;
  for (i = 0; i + 1 < EVENTS_BUCKETS; i++) {
    int64_t begin = events_bucket_begin(i), next = events_bucket_begin(i + 1);
    assert_true(begin < next);
    assert_int_equal(events_bucket(begin), i);
    assert_int_equal(events_bucket(next - 1), i);
    if (begin >= 8) assert_true(next - begin <= begin / 8);
  }
  assert_int_equal(events_bucket(-5), 0);
  assert_int_equal(events_bucket(INT64_MAX), EVENTS_BUCKETS - 1);
  for (ns = 1; ns < INT64_C(1) << 46; ns *= 3) assert_true(events_bucket_begin(events_bucket(ns)) <= ns);
}

static uint64_t counted(struct events *e) {
  uint64_t sum = 0;
  int i;
  for (i = 0; i < EVENTS_BUCKETS; i++) sum += atomic_load(&e->buckets[i]);
  assert_int_equal(sum, atomic_load(&e->items));
  return sum;
}

/* Is the item among these, with so much time at least? (A machine that is busy makes others slow, too.) */
static int is_slow(const struct event_slow *list, uint32_t count, uint64_t item, int64_t ns) {
  uint32_t i;
  for (i = 0; i < count; i++)
    if (list[i].ns >= ns && list[i].first <= item && item < list[i].first + list[i].count) return list[i].call == 3;
  return 0;
}

/* However items are looked at, each is counted once; a slow one among quick ones is found. */
static void test_every_item_is_counted_once(void **state) {
  struct events *e = open_events();
  struct events_sampler s = {0};
  struct event_slow list[EVENTS_SLOWEST];
  uint64_t item, again, looks = 0;
  (void)state;
  again = events_begin_items(&s, 100, 0);
  for (item = 100; item < 10100; item++) {
    int64_t until = item == 5000 ? os_now_ns() + 20 * MS : 0;
    while (os_now_ns() < until) continue;
    if (--again == 0) {
      again = events_look(e, &s, 3, item + 1, 0);
      looks++;
      assert_in_range(again, 1, EVENTS_BLOCK);
    }
  }
  (void)events_look(e, &s, 3, item, 0);
  assert_int_equal(counted(e), 10000);
  assert_true(looks < 10000);
  assert_true(is_slow(list, events_slow(e, list), 5000, 15 * MS));
  events_close(e, 1);
}

/* Time that is no item's is left out; nothing is counted where nothing was done. */
static void test_excluded_time_is_left_out(void **state) {
  struct events *e = open_events();
  struct events_sampler s = {0};
  struct event_slow list[EVENTS_SLOWEST];
  int64_t until;
  (void)state;
  (void)events_begin_items(&s, 0, 1000);
  until = os_now_ns() + 5 * MS;
  while (os_now_ns() < until) continue;
  (void)events_look(e, &s, 1, 1, 1000 + 1000000 * MS);
  assert_int_equal(counted(e), 1);
  assert_int_equal(atomic_load(&e->buckets[0]), 1);
  (void)events_look(e, &s, 1, 1, 1000 + 1000000 * MS);
  assert_int_equal(counted(e), 1);
  assert_int_equal(events_slow(e, list), 0); /* it took no time at all */
  events_close(e, 1);
}

static void test_the_slowest_are_kept(void **state) {
  struct events *e = open_events();
  struct events_sampler s = {0};
  struct event_slow list[EVENTS_SLOWEST];
  uint64_t i;
  uint32_t k;
  (void)state;
  (void)events_begin_items(&s, 0, 0);
  for (i = 0; i < 40; i++) { /* item i takes about (i * 7 % 40) seconds more than nothing */
    s.at_ns = os_now_ns() - (int64_t)(i * 7 % 40) * 1000 * MS;
    (void)events_look(e, &s, 1, i + 1, 0);
  }
  assert_int_equal(events_slow(e, list), EVENTS_SLOWEST);
  for (k = 0; k < EVENTS_SLOWEST; k++) assert_int_equal(list[k].first * 7 % 40, 39 - k);
  for (k = 0; k < EVENTS_SLOWEST; k++)
    if (e->slowest[k].first == list[0].first) events_name_slow(e, k, "a name", 6);
  assert_int_equal(events_slow(e, list), EVENTS_SLOWEST);
  assert_int_equal(list[0].length, 6);
  assert_memory_equal(list[0].text, "a name", 6);
  events_close(e, 1);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, note_the_house, find_it_clean)

int main(void) {
  const struct CMUnitTest tests[] = {
    CASE(test_long_stretches_stay_what_they_are),
    CASE(test_short_stretches_are_joined),
    CASE(test_one_short_stretch_is_not_renamed),
    CASE(test_what_overlaps_is_cut),
    CASE(test_the_grain_grows_with_time),
    CASE(test_a_full_ring_loses_and_counts),
    CASE(test_nonsense_is_not_believed),
    CASE(test_buckets_cover_all_times),
    CASE(test_every_item_is_counted_once),
    CASE(test_excluded_time_is_left_out),
    CASE(test_the_slowest_are_kept),
  };
  return cmocka_run_group_tests_name("events", tests, NULL, NULL);
}
