/* The shared memory of a pool: what lies where, and what a new worker finds. */
#include "unit.h"

#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "memory/board.h"

static struct board *open_board(uint32_t workers, uint64_t ring_bytes) {
  struct board *b = NULL;
  assert_int_equal(board_open(&b, workers, ring_bytes), 0);
  assert_non_null(b);
  return b;
}

static void test_new_board_is_empty(void **state) {
  struct board *b = open_board(3, CHANNEL_MIN_BYTES);
  uint32_t i;
  (void)state;
  assert_int_equal(b->n_workers, 3);
  assert_int_equal(b->ring_bytes, CHANNEL_MIN_BYTES);
  assert_true(b->n_cpus >= 1);
  for (i = 0; i < BOARD_LANES; i++) {
    assert_int_equal(b->published[i], board_first((enum board_lane)i));
    assert_int_equal(b->front[i], board_first((enum board_lane)i));
  }
  for (i = 0; i < 3; i++) {
    struct channel c;
    struct channel_header header;
    const unsigned char *data;
    board_channel(b, i, &c);
    assert_int_equal(b->slots[i].phase, BOARD_PARKED); /* nobody is there: nobody keeps a processor busy */
    assert_false(channel_has_data(&c));
    assert_int_equal(channel_peek(&c, &header, &data), 0);
    assert_int_equal(channel_salvage(&c, &header, &data), 0);
  }
  board_close(b);
  board_close(NULL);
}

/* Every byte of every ring is written: none may be another's, a slot's, or beyond the mapping. */
static void test_rings_do_not_overlap(void **state) {
  static const uint32_t counts[] = {1, 2, 3, 7, 64};
  size_t n;
  (void)state;
  for (n = 0; n < sizeof counts / sizeof *counts; n++) {
    uint32_t workers = counts[n], i;
    struct board *b = open_board(workers, CHANNEL_MIN_BYTES);
    struct channel c;
    memset(b->slots, 0, workers * sizeof *b->slots);
    for (i = 0; i < workers; i++) {
      board_channel(b, i, &c);
      assert_int_equal((uintptr_t)c.shared % CHANNEL_ALIGN, 0);
      assert_int_equal((uintptr_t)c.ring % CHANNEL_ALIGN, 0);
      assert_int_equal(c.capacity, CHANNEL_MIN_BYTES);
      memset((void *)c.shared, (int)i + 1, channel_size(c.capacity));
    }
    for (i = 0; i < workers; i++) {
      const unsigned char *slot = (const unsigned char *)&b->slots[i];
      size_t k;
      board_channel(b, i, &c);
      for (k = 0; k < channel_size(c.capacity); k++) assert_int_equal(((unsigned char *)c.shared)[k], (i + 1) & 0xff);
      for (k = 0; k < sizeof *b->slots; k++) assert_int_equal(slot[k], 0);
    }
    assert_int_equal(b->n_workers, workers);
    board_close(b);
  }
}

static void test_words_of_different_writers_are_apart(void **state) {
  (void)state;
  assert_int_equal(offsetof(struct board, front) - offsetof(struct board, published), CHANNEL_ALIGN);
  assert_int_equal(offsetof(struct board, host_sleep) - offsetof(struct board, front), CHANNEL_ALIGN);
  assert_true(sizeof(((struct board *)0)->front) <= CHANNEL_ALIGN); /* who looks at all lanes reads these two lines, as for one */
  assert_true(offsetof(struct board_slot, command) - offsetof(struct board_slot, open_mark_ns) >= CHANNEL_ALIGN);
  assert_true(offsetof(struct board_slot, summons) - offsetof(struct board_slot, command) >= CHANNEL_ALIGN);
  assert_true(offsetof(struct board, entries) - offsetof(struct board, open_since_ns) >= CHANNEL_ALIGN - 8);
  assert_true(offsetof(struct channel_shared, tail) - offsetof(struct channel_shared, head) >= CHANNEL_ALIGN);
  assert_true(offsetof(struct channel_shared, staged_at) - offsetof(struct channel_shared, tail) >= CHANNEL_ALIGN);
}

static void test_reset_slot_takes_requests_back(void **state) {
  struct board *b = open_board(2, CHANNEL_MIN_BYTES);
  struct board_slot *slot = &b->slots[1];
  (void)state;
  memset((void *)b->slots, 0x5a, 2 * sizeof *b->slots);
  board_reset_slot(b, 1);
  assert_int_equal(slot->phase, BOARD_STARTING);
  assert_int_equal(slot->command, 0);
  assert_int_equal(slot->must_leave, 0);
  assert_int_equal(slot->item_started_ns, 0);
  assert_int_equal(slot->continued_ns, 0);
  assert_int_equal(slot->summons, 0);
  assert_int_equal(slot->progress_done, 0);
  assert_int_equal(slot->progress_total, 0);
  assert_int_equal(slot->turned_ns, 0);
  assert_int_equal(slot->busy_ns, 0x5a5a5a5a5a5a5a5a); /* the place keeps what its workers came to */
  assert_int_equal(b->slots[0].must_leave, 0x5a5a5a5a);
  board_close(b);
}

/* The lap's tag: the same place in different laps never has the same cursor, and the items do not run into the tag. */
static void test_cursors_tell_laps_apart(void **state) {
  uint64_t sequence = 17, lap;
  (void)state;
  for (lap = 0; lap < 300; lap++) {
    uint64_t here = sequence + lap * BOARD_ENTRIES, other;
    for (other = lap + 1; other < 300; other++)
      assert_true(board_cursor(here, 0) >> BOARD_CURSOR_BITS != board_cursor(sequence + other * BOARD_ENTRIES, 0) >> BOARD_CURSOR_BITS);
    assert_int_equal(board_cursor(here, BOARD_MAX_ITEMS) & BOARD_MAX_ITEMS, BOARD_MAX_ITEMS);
    assert_int_equal(board_cursor(here, 0) & BOARD_MAX_ITEMS, 0);
    assert_true(board_cursor(here, 0) != 0); /* zeroed memory is nobody's entry */
  }
}

static void test_places_repeat_after_a_lap(void **state) {
  struct board *b = open_board(1, CHANNEL_MIN_BYTES);
  uint64_t i;
  (void)state;
  for (i = 0; i < BOARD_ENTRIES; i++) {
    assert_ptr_equal(board_entry(b, i), &b->entries[0][i]);
    assert_ptr_equal(board_entry(b, i + 5 * BOARD_ENTRIES), &b->entries[0][i]);
  }
  board_close(b);
}

/* An entry's number alone tells where it is; numbers of different lanes, and those that are apart, are never the same. */
static void test_numbers_know_their_lane(void **state) {
  struct board *b = open_board(1, CHANNEL_MIN_BYTES);
  uint64_t far = (uint64_t)1 << 50;
  int lane, other;
  (void)state;
  for (lane = 0; lane < BOARD_LANES; lane++) {
    uint64_t first = board_first((enum board_lane)lane);
    assert_int_equal(board_lane_of(first), lane);
    assert_int_equal(board_lane_of(first + far), lane);
    assert_ptr_equal(board_entry(b, first + 7), &b->entries[lane][7]);
    assert_ptr_equal(board_entry(b, first + far + 7), &b->entries[lane][7]);
    assert_false((first + far) & (BOARD_APART | BOARD_TAKEN));
    assert_true(board_is_of(board_cursor(first + 3 * BOARD_ENTRIES, 5), first + 3 * BOARD_ENTRIES));
    assert_false(board_is_of(board_cursor(first + 3 * BOARD_ENTRIES, 5), first + 4 * BOARD_ENTRIES));
    for (other = lane + 1; other < BOARD_LANES; other++) assert_true(first + far < board_first((enum board_lane)other));
  }
  board_close(b);
}

static void test_what_goes_before_what(void **state) {
  static const int level[BOARD_LANES] = {[BOARD_HIGH] = 3, [BOARD_HIGH_RETURNED] = 3, [BOARD_NORMAL] = 2, [BOARD_NORMAL_RETURNED] = 2,
                                         [BOARD_LOW] = 1, [BOARD_LOW_RETURNED] = 1};
  int lane, other;
  (void)state;
  for (lane = 0; lane < BOARD_LANES; lane++)
    for (other = 0; other < BOARD_LANES; other++)
      assert_int_equal(board_precedes((enum board_lane)other, (enum board_lane)lane), level[other] > level[lane]);
  for (lane = 0; lane < BOARD_LANES; lane++) {
    assert_false(board_precedes(BOARD_LANES, (enum board_lane)lane)); /* "none" precedes nothing */
    assert_int_equal(level[board_returned((enum board_lane)lane)], level[lane]);
    assert_int_equal(board_returned(board_returned((enum board_lane)lane)), board_returned((enum board_lane)lane));
  }
  assert_true(board_returned(BOARD_NORMAL) < BOARD_NORMAL); /* and is looked at first */
}

static void test_board_is_shared_with_children(void **state) {
  struct board *b = open_board(1, CHANNEL_MIN_BYTES);
  int status;
  pid_t pid = fork();
  (void)state;
  assert_true(pid >= 0);
  if (pid == 0) {
    b->slots[0].item = 4711;
    b->front[BOARD_LOW] = 3;
    _exit(0);
  }
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
  assert_int_equal(b->slots[0].item, 4711);
  assert_int_equal(b->front[BOARD_LOW], 3);
  board_close(b);
}

static void test_many_workers_with_large_rings_cost_address_space_alone(void **state) {
  struct board *b = NULL;
  (void)state;
  if (slowness() > 1) skip(); /* tools that shadow memory have no room for that */
  assert_int_equal(board_open(&b, 4096, 8 << 20), 0);
  assert_in_range(b->ring_bytes, CHANNEL_MIN_BYTES, 8 << 20);
  b->slots[4095].item = 1;
  board_close(b);
}

#ifdef LUAPOOL_FAULTS
static void with_failing_mmap(const char *rule) {
  setenv("LUAPOOL_FAIL", rule, 1);
  fault_reload();
}

static void test_refused_address_space_makes_smaller_rings(void **state) {
  struct board *b = NULL;
  (void)state;
  with_failing_mmap("mmap#1:ENOMEM,mmap#2:ENOMEM");
  assert_int_equal(board_open(&b, 2, 1 << 20), 0);
  assert_int_equal(b->ring_bytes, 1 << 18);
  board_close(b);
  with_failing_mmap("mmap#0:ENOMEM");
  assert_int_equal(board_open(&b, 2, 1 << 20), -ENOMEM);
  with_failing_mmap("mmap#1:EPERM");
  assert_int_equal(board_open(&b, 2, 1 << 20), -EPERM);
  unsetenv("LUAPOOL_FAIL");
  fault_reload();
}
#endif

#define CASE(function) cmocka_unit_test_setup_teardown(function, note_the_house, find_it_clean)

static void test_a_place_knows_its_entry(void **state) {
  uint64_t sequence;
  (void)state;
  for (sequence = 0; sequence < 5 * BOARD_ENTRIES; sequence += 511) {
    assert_true(board_is_of(board_cursor(sequence, 0), sequence));
    assert_true(board_is_of(board_cursor(sequence, BOARD_MAX_ITEMS), sequence));
    assert_false(board_is_of(board_cursor(sequence + BOARD_ENTRIES, 0), sequence));
    assert_false(board_is_of(0, sequence)); /* never used */
  }
}

static void test_the_time_it_is_open(void **state) {
  struct board *b = open_board(1, CHANNEL_MIN_BYTES);
  (void)state;
  assert_int_equal(board_open_ns(b, 1000), 0);
  atomic_store(&b->open_before_ns, 300);
  assert_int_equal(board_open_ns(b, 1000), 300);
  atomic_store(&b->open_since_ns, 900);
  assert_int_equal(board_open_ns(b, 1000), 400);
  assert_int_equal(board_open_ns(b, 800), 300); /* a clock read before that */
  assert_int_equal(board_open_part(b, 500, 300, 1000), 100);
  assert_int_equal(board_open_part(b, 950, 300, 1000), 50); /* never more than there was */
  assert_int_equal(board_open_part(b, 950, 500, 1000), 0);  /* nor less than nothing */
  board_close(b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    CASE(test_new_board_is_empty),
    CASE(test_rings_do_not_overlap),
    CASE(test_words_of_different_writers_are_apart),
    CASE(test_reset_slot_takes_requests_back),
    CASE(test_cursors_tell_laps_apart),
    CASE(test_places_repeat_after_a_lap),
    CASE(test_numbers_know_their_lane),
    CASE(test_what_goes_before_what),
    CASE(test_a_place_knows_its_entry),
    CASE(test_the_time_it_is_open),
    CASE(test_board_is_shared_with_children),
    CASE(test_many_workers_with_large_rings_cost_address_space_alone),
#ifdef LUAPOOL_FAULTS
    CASE(test_refused_address_space_makes_smaller_rings),
#endif
  };
  return cmocka_run_group_tests_name("board", tests, NULL, NULL);
}
