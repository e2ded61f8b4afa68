/*
 * The pool's decisions with invented times: simulated workers claim as real ones do (the estimate is the entry's, changed at the end of
 * each claim), and what they need together is compared with the ideal.
 */
#include "unit.h"

#include "pool/schedule.h"

enum { MAX_WORKERS = 64 };

/* ---- claims ---------------------------------------------------------------------------------------- */

static void test_claims_are_never_nothing_and_never_too_much(void **state) {
  static const uint64_t lefts[] = {1, 2, 3, 10, 1000, 1000000, (UINT64_C(1) << 48) - 1};
  static const uint64_t times[] = {0, 1, 2, 7, 1000, 999999, 1000000, 1000001, UINT64_C(1) << 40, UINT64_MAX};
  static const uint32_t workers[] = {1, 2, 3, 64, 4096, UINT32_MAX}, chunks[] = {0, 1, 7, 1000, UINT32_MAX};
  size_t l, t, w, c;
  (void)state;
  for (l = 0; l < sizeof lefts / sizeof *lefts; l++)
    for (t = 0; t < sizeof times / sizeof *times; t++)
      for (w = 0; w < sizeof workers / sizeof *workers; w++)
        for (c = 0; c < sizeof chunks / sizeof *chunks; c++) {
          uint64_t many = schedule_claim(lefts[l], workers[w], times[t], chunks[c]);
          assert_in_range(many, 1, lefts[l]);
          if (chunks[c]) assert_int_equal(many, chunks[c] < lefts[l] ? chunks[c] : lefts[l]);
          if (chunks[c] == 0 && times[t] == 0) assert_int_equal(many, 1);
        }
}

static void test_claims_shrink_to_one(void **state) {
  uint32_t workers;
  (void)state;
  for (workers = 1; workers <= MAX_WORKERS; workers++) {
    uint64_t left = 1000000, before = UINT64_MAX;
    while (left > 0) {
      uint64_t many = schedule_claim(left, workers, 10, 0);
      assert_true(many <= before);
      if (left <= 3 * workers) assert_int_equal(many, 1); /* the tail: single items */
      before = many;
      left -= many;
    }
  }
}

static void test_claims_keep_to_the_time_they_should_take(void **state) {
  uint64_t item_ns;
  (void)state;
  for (item_ns = 1; item_ns < UINT64_C(1) << 36; item_ns *= 3) {
    uint64_t many = schedule_claim(UINT64_C(1) << 40, 2, item_ns, 0);
    assert_true(many == 1 || many * item_ns <= 2 * (uint64_t)MS);
    if (item_ns < 100000) assert_true(many * item_ns >= (uint64_t)MS / 4); /* and is worth its frame */
  }
}

static void test_first_guesses_are_cautious(void **state) {
  uint64_t item_ns;
  (void)state;
  for (item_ns = 1; item_ns < UINT64_C(1) << 50; item_ns *= 7) {
    assert_in_range(schedule_first_guess(item_ns), 2 * item_ns, 16 * item_ns);
    assert_true(schedule_claim(1 << 20, 2, schedule_first_guess(item_ns), 0) <= schedule_claim(1 << 20, 2, item_ns, 0));
  }
  assert_true(schedule_first_guess(UINT64_MAX) >= UINT64_MAX / 2); /* no overflow */
}

static void test_next_to_nothing_is_for_one(void **state) {
  (void)state;
  assert_int_equal(schedule_takers(16, 50), 1);
  assert_int_equal(schedule_takers(16, 0), 16); /* not known */
  assert_int_equal(schedule_takers(16, 100000), 16);
  assert_int_equal(schedule_takers(0, 50), 0);
  assert_int_equal(schedule_takers(1, 1), 1);
  assert_int_equal(schedule_takers(UINT64_MAX, 1), UINT64_MAX);
  assert_int_equal(schedule_takers(2, UINT64_MAX), 2);
}

/* ---- the estimate ---------------------------------------------------------------------------------- */

static void test_estimate_of_steady_items_is_their_time(void **state) {
  uint64_t ns, estimate;
  int i;
  (void)state;
  for (ns = 1; ns < UINT64_C(1) << 40; ns *= 5) {
    estimate = schedule_item_ns(0, 1, (int64_t)ns);
    assert_int_equal(estimate, ns);
    for (i = 0; i < 100; i++) estimate = schedule_item_ns(estimate, 10, (int64_t)(10 * ns));
    assert_int_equal(estimate, ns);
  }
}

static void test_estimate_follows_both_ways(void **state) {
  uint64_t estimate = 1000;
  int i;
  (void)state;
  assert_true(schedule_item_ns(1000, 1, 1000000) >= 100000); /* slower: at once, or a claim of many slow items follows */
  for (i = 0; i < 40; i++) {
    uint64_t next = schedule_item_ns(estimate, 10, 10 * 300);
    assert_true(next <= estimate && next >= 300);
    estimate = next;
  }
  assert_in_range(estimate, 300, 310);
}

static void test_estimate_of_nonsense_is_at_least_one(void **state) {
  (void)state;
  assert_int_equal(schedule_item_ns(0, 1, 0), 1);
  assert_int_equal(schedule_item_ns(0, 1000, 1), 1);
  assert_true(schedule_item_ns(0, 5, -100) >= 1); /* a clock that went backwards */
  assert_true(schedule_item_ns(50, 5, INT64_MIN) >= 1);
  assert_int_equal(schedule_item_ns(77, 0, 100), 77);
  assert_true(schedule_item_ns(1, 1, INT64_MAX) >= 1);
}

/* ---- simulated workers ----------------------------------------------------------------------------- */

struct simulation {
  const uint64_t *cost_ns;
  uint64_t items, total_ns, longest_ns, claims;
};

/* Returns when the last of the workers ends, in invented nanoseconds. */
static uint64_t run_simulation(struct simulation *s, uint32_t workers) {
  struct {
    uint64_t free_at, started_at, items;
  } worker[MAX_WORKERS] = {{0}};
  uint64_t next = 0, estimate = 0, end = 0;
  uint32_t i;
  s->claims = 0;
  for (;;) {
    uint32_t first = 0;
    uint64_t many, k;
    for (i = 1; i < workers; i++)
      if (worker[i].free_at < worker[first].free_at) first = i;
    if (worker[first].items)
      estimate = schedule_item_ns(estimate, worker[first].items, (int64_t)(worker[first].free_at - worker[first].started_at));
    worker[first].items = 0;
    if (next == s->items) break;
    many = schedule_claim(s->items - next, workers, estimate, 0);
    assert_in_range(many, 1, s->items - next);
    worker[first].started_at = worker[first].free_at;
    worker[first].items = many;
    for (k = 0; k < many; k++) worker[first].free_at += s->cost_ns[next++];
    s->claims++;
  }
  for (i = 0; i < workers; i++)
    if (worker[i].free_at > end) end = worker[i].free_at;
  return end;
}

static void assert_near_ideal(uint64_t *cost_ns, uint64_t items, const char *name) {
  struct simulation s = {.cost_ns = cost_ns, .items = items};
  uint32_t workers;
  uint64_t i;
  for (i = 0; i < items; i++) {
    s.total_ns += cost_ns[i];
    if (cost_ns[i] > s.longest_ns) s.longest_ns = cost_ns[i];
  }
  for (workers = 2; workers <= MAX_WORKERS; workers++) {
    uint64_t ideal = (s.total_ns + workers - 1) / workers, took;
    if (ideal < s.longest_ns) ideal = s.longest_ns;
    took = run_simulation(&s, workers);
    /* No schedule that does not know the costs can do without the longest item at the very end. */
    if (took > ideal + ideal / 20 && took > s.total_ns / workers + s.longest_ns + ideal / 20)
      fail_msg("%s, %u workers: %.3f ms, ideal %.3f ms", name, workers, (double)took / 1e6, (double)ideal / 1e6);
    assert_true(took >= ideal);
  }
}

enum { ITEMS = 200000 };

static uint64_t *costs(void) {
  uint64_t *list = malloc(ITEMS * sizeof *list);
  assert_non_null(list);
  return list;
}

static int by_size(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x > y) - (x < y);
}

static int by_size_down(const void *a, const void *b) {
  return by_size(b, a);
}

static void test_even_items(void **state) {
  uint64_t *list = costs(), i;
  (void)state;
  for (i = 0; i < ITEMS; i++) list[i] = 5000;
  assert_near_ideal(list, ITEMS, "even");
  for (i = 0; i < ITEMS; i++) list[i] = 2000000;
  assert_near_ideal(list, 2000, "slow");
  free(list);
}

/* Pareto, alpha 1.5: most items take 5 us, a few take a thousand times that. */
static void fill_heavy_tailed(uint64_t *list, uint64_t seed) {
  uint64_t i;
  for (i = 0; i < ITEMS; i++) {
    uint64_t u = 1 + random_below(&seed, 1000000), factor = 1;
    while (factor * factor * factor * u * u < UINT64_C(1000000) * 1000000) factor++; /* (1/u)^(2/3) */
    list[i] = 5000 * factor;
  }
}

static void test_heavy_tailed_items(void **state) {
  uint64_t *list = costs(), seed;
  (void)state;
  for (seed = 1; seed <= 3; seed++) {
    fill_heavy_tailed(list, seed);
    assert_near_ideal(list, ITEMS, "heavy-tailed");
  }
  qsort(list, ITEMS, sizeof *list, by_size_down);
  assert_near_ideal(list, ITEMS, "heavy-tailed, the longest first");
  free(list);
}

static void test_sorted_items(void **state) {
  uint64_t *list = costs(), i;
  (void)state;
  for (i = 0; i < ITEMS; i++) list[i] = 100 + i / 4;
  assert_near_ideal(list, ITEMS, "ascending");
  qsort(list, ITEMS, sizeof *list, by_size_down);
  assert_near_ideal(list, ITEMS, "descending");
  free(list);
}

static void test_cheap_items_with_an_expensive_end(void **state) {
  uint64_t *list = costs(), i;
  (void)state;
  for (i = 0; i < ITEMS; i++) list[i] = i < ITEMS - 2000 ? 1000 : 200000;
  assert_near_ideal(list, ITEMS, "expensive end");
  for (i = 0; i < ITEMS; i++) list[i] = i % 1000 == 0 ? 3000000 : 1000;
  assert_near_ideal(list, ITEMS, "a slow one among a thousand");
  free(list);
}

/* The host must not drown in frames: steady cheap items travel in claims of about a millisecond. */
static void test_few_claims_for_many_cheap_items(void **state) {
  uint64_t *list = costs(), i;
  struct simulation s = {.cost_ns = list, .items = ITEMS};
  (void)state;
  for (i = 0; i < ITEMS; i++) list[i] = 1000;
  (void)run_simulation(&s, 2);
  assert_true(s.claims < 600);
  free(list);
}

/* ---- blocks, windows, spinners, retries ------------------------------------------------------------ */

static void test_blocks_are_never_nothing_and_never_too_much(void **state) {
  static const uint64_t lefts[] = {1, 2, 63, 1000000, UINT64_MAX - 1, UINT64_MAX}, times[] = {0, 1, 1000, 1000000, UINT64_MAX};
  static const uint32_t workers[] = {1, 2, 64, 4096}, chunks[] = {0, 1, 100, UINT32_MAX};
  uint64_t written;
  size_t l, t, w, c;
  (void)state;
  for (l = 0; l < 6; l++)
    for (t = 0; t < 5; t++)
      for (w = 0; w < 4; w++)
        for (c = 0; c < 4; c++)
          for (written = 0; written < 1000000; written = written * 3 + 1) {
            uint64_t size = schedule_block(lefts[l], written, workers[w], times[t], chunks[c]);
            assert_in_range(size, 1, lefts[l]);
            if (chunks[c]) assert_int_equal(size, chunks[c] < lefts[l] ? chunks[c] : lefts[l]);
          }
  assert_int_equal(schedule_block(0, 5, 2, 100, 0), 0);
}

/* While nothing is known a block of slow items must not hold everything: the first ones are small, and they grow. */
static void test_blocks_grow_from_one(void **state) {
  uint32_t workers;
  (void)state;
  for (workers = 1; workers <= MAX_WORKERS; workers++) {
    uint64_t written = 0, before = 0;
    while (written < 100000) {
      uint64_t size = schedule_block(UINT64_MAX, written, workers, 0, 0);
      if (written < workers) assert_int_equal(size, 1);
      assert_true(size >= before);
      assert_true(size <= 1000);
      before = size;
      written += size;
    }
    assert_true(before > 1);
  }
}

static void test_every_worker_finds_a_block(void **state) {
  uint32_t workers, before = 0;
  (void)state;
  for (workers = 1; workers <= 4096; workers++) {
    uint32_t window = schedule_window(workers);
    assert_true(window >= before && window <= 1024);
    if (workers <= 256) assert_true(window > workers);
    before = window;
  }
  for (workers = 2; workers <= MAX_WORKERS; workers++) /* a short list is cut into pieces for all */
    assert_true(schedule_block(10 * workers, 0, workers, 1, 0) <= 10);
}

static void test_spinners_never_exceed_the_processors(void **state) {
  uint32_t cpus, busy;
  (void)state;
  for (cpus = 1; cpus < 20; cpus++)
    for (busy = 0; busy < 40; busy++) assert_int_equal(schedule_spinners(cpus, busy), busy < cpus ? cpus - busy : 0);
  assert_int_equal(schedule_spinners(1, UINT32_MAX), 0);
}

static void test_retries_are_counted(void **state) {
  uint32_t retries, tries;
  (void)state;
  for (retries = 0; retries < 5; retries++)
    for (tries = 1; tries < 10; tries++) assert_int_equal(schedule_retry(tries, retries), tries <= retries);
}

static void test_gives_up_after_enough_failed_starts(void **state) {
  uint32_t workers, failed;
  (void)state;
  for (workers = 1; workers < 100; workers++) {
    int before = 0;
    assert_false(schedule_gives_up(0, workers));
    assert_false(schedule_gives_up(1, workers));
    for (failed = 0; failed < 1000; failed++) {
      assert_true(schedule_gives_up(failed, workers) >= before);
      before = schedule_gives_up(failed, workers);
    }
    assert_true(before);
  }
}

static void test_delays_double_up_to_an_hour(void **state) {
  int64_t second = 1000000000;
  uint32_t tries;
  (void)state;
  assert_int_equal(schedule_delay_ns(1, second), second);
  assert_int_equal(schedule_delay_ns(2, second), 2 * second);
  assert_int_equal(schedule_delay_ns(5, second), 16 * second);
  for (tries = 1; tries < 100000; tries = tries * 2 + 1) {
    int64_t delay = schedule_delay_ns(tries, second);
    assert_true(delay >= second && delay <= 3600 * second);
  }
  assert_int_equal(schedule_delay_ns(9, 7200 * second), 7200 * second);
}

#define CASE(function) cmocka_unit_test_setup_teardown(function, note_the_house, find_it_clean)

int main(void) {
  const struct CMUnitTest tests[] = {
    CASE(test_claims_are_never_nothing_and_never_too_much),
    CASE(test_claims_shrink_to_one),
    CASE(test_claims_keep_to_the_time_they_should_take),
    CASE(test_first_guesses_are_cautious),
    CASE(test_next_to_nothing_is_for_one),
    CASE(test_estimate_of_steady_items_is_their_time),
    CASE(test_estimate_follows_both_ways),
    CASE(test_estimate_of_nonsense_is_at_least_one),
    CASE(test_even_items),
    CASE(test_heavy_tailed_items),
    CASE(test_sorted_items),
    CASE(test_cheap_items_with_an_expensive_end),
    CASE(test_few_claims_for_many_cheap_items),
    CASE(test_blocks_are_never_nothing_and_never_too_much),
    CASE(test_blocks_grow_from_one),
    CASE(test_every_worker_finds_a_block),
    CASE(test_spinners_never_exceed_the_processors),
    CASE(test_retries_are_counted),
    CASE(test_delays_double_up_to_an_hour),
    CASE(test_gives_up_after_enough_failed_starts),
  };
  return cmocka_run_group_tests_name("schedule", tests, NULL, NULL);
}
