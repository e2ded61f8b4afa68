/* Which items are done: random intervals against a plain table of marks. */
#include "unit.h"

#include "pool/account.h"

enum { NUMBERS = 200 };

/* The model: mark k stands for number base + k. */
struct model {
  uint64_t base;
  unsigned char is_in[NUMBERS];
  uint64_t total;
};

static int model_add(struct model *m, unsigned begin, unsigned end) {
  unsigned i;
  for (i = begin; i < end; i++)
    if (m->is_in[i]) return -EEXIST;
  for (i = begin; i < end; i++) m->is_in[i] = 1;
  if (end > begin) m->total += end - begin;
  return 0;
}

static void assert_well_formed(const struct account *a) {
  uint64_t total = 0;
  size_t i;
  for (i = 0; i < a->length; i++) {
    assert_true(a->list[i].begin < a->list[i].end);
    if (i > 0) assert_true(a->list[i - 1].end < a->list[i].begin); /* neighbours are joined */
    total += a->list[i].end - a->list[i].begin;
  }
  assert_int_equal(total, a->total);
  assert_true(a->length <= a->capacity);
}

static void assert_gap(const struct account *a, const struct model *m, unsigned begin, unsigned end) {
  struct account_interval gap = {7, 7};
  unsigned from = begin, to;
  while (from < end && m->is_in[from]) from++;
  to = from;
  while (to < end && !m->is_in[to]) to++;
  assert_int_equal(account_gap(a, m->base + begin, m->base + end, &gap), from < end);
  if (from >= end) return;
  assert_int_equal(gap.begin - m->base, from);
  assert_int_equal(gap.end - m->base, to);
}

static void assert_same(const struct account *a, const struct model *m, uint64_t *seed) {
  unsigned i;
  assert_int_equal(a->total, m->total);
  for (i = 0; i < NUMBERS; i++) assert_int_equal(account_has(a, m->base + i), m->is_in[i]);
  for (i = 0; i < 20; i++) {
    unsigned begin = (unsigned)random_below(seed, NUMBERS), end = (unsigned)random_below(seed, NUMBERS);
    if (begin <= end) assert_gap(a, m, begin, end);
  }
  assert_gap(a, m, 0, NUMBERS);
}

static void follow_model(struct account *a, uint64_t base, unsigned longest, uint64_t *seed) {
  struct model m = {.base = base};
  int i;
  for (i = 0; i < 150; i++) {
    unsigned begin = (unsigned)random_below(seed, NUMBERS), end = begin + (unsigned)random_below(seed, longest + 1);
    if (end > NUMBERS) end = NUMBERS;
    assert_int_equal(account_add(a, base + begin, base + end), model_add(&m, begin, end));
    assert_well_formed(a);
    if (i % 10 == 0) assert_same(a, &m, seed);
  }
  assert_same(a, &m, seed);
}

static void test_random_intervals_match_the_model(void **state) {
  static const uint64_t bases[] = {0, 1, UINT64_C(1) << 32, (UINT64_C(1) << 48) - NUMBERS - 1, UINT64_MAX - NUMBERS};
  struct account a = {0};
  uint64_t seed = 1;
  int round;
  (void)state;
  for (round = 0; round < rounds_of(300); round++) {
    follow_model(&a, bases[round % 5], 1 + (unsigned)round % 30, &seed);
    account_clear(&a);
    assert_int_equal(a.total, 0);
    assert_int_equal(account_has(&a, bases[round % 5]), 0);
  }
  account_free(&a);
}

/* Two items apart, then the holes: the longest list there can be, and then the shortest. */
static void test_holes_close(void **state) {
  struct account a = {0};
  uint64_t i;
  (void)state;
  for (i = 0; i < 2000; i += 2) assert_int_equal(account_add(&a, i, i + 1), 0);
  assert_int_equal(a.length, 1000);
  for (i = 2000; i-- > 1;)
    if (i % 2) assert_int_equal(account_add(&a, i, i + 1), 0);
  assert_int_equal(a.length, 1);
  assert_int_equal(a.total, 2000);
  account_free(&a);
  assert_null(a.list);
}

static void test_empty_intervals_are_nothing(void **state) {
  struct account a = {0};
  struct account_interval gap;
  (void)state;
  assert_int_equal(account_add(&a, 5, 5), 0);
  assert_int_equal(account_add(&a, 9, 3), 0);
  assert_int_equal(a.total, 0);
  assert_int_equal(account_gap(&a, 4, 4, &gap), 0);
  assert_int_equal(account_add(&a, 3, 8), 0);
  assert_int_equal(account_add(&a, 5, 5), 0);
  assert_int_equal(account_gap(&a, 3, 8, &gap), 0);
  account_free(&a);
  account_free(&a);
}

static void test_what_is_in_comes_in_once(void **state) {
  struct account a = {0};
  (void)state;
  assert_int_equal(account_add(&a, 10, 20), 0);
  assert_int_equal(account_add(&a, 10, 20), -EEXIST);
  assert_int_equal(account_add(&a, 0, 11), -EEXIST);
  assert_int_equal(account_add(&a, 19, 30), -EEXIST);
  assert_int_equal(account_add(&a, 0, 100), -EEXIST);
  assert_int_equal(account_add(&a, 15, 16), -EEXIST);
  assert_int_equal(a.length, 1);
  assert_int_equal(a.total, 10);
  assert_int_equal(account_add(&a, 20, 21), 0);
  assert_int_equal(account_add(&a, 9, 10), 0);
  assert_int_equal(a.length, 1);
  account_free(&a);
}

#define CASE(function) cmocka_unit_test_setup_teardown(function, note_the_house, find_it_clean)

int main(void) {
  const struct CMUnitTest tests[] = {
    CASE(test_random_intervals_match_the_model),
    CASE(test_holes_close),
    CASE(test_empty_intervals_are_nothing),
    CASE(test_what_is_in_comes_in_once),
  };
  return cmocka_run_group_tests_name("account", tests, NULL, NULL);
}
