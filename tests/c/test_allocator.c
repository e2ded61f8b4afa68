/* Memory for a Lua state: blocks never overlap, keep what is in them, and what is given back does not stay for ever. */
#include "unit.h"

#include <stdalign.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/allocator.h"

enum { N_BLOCKS = 4000, CHUNK_BYTES = 1 << 16 };

struct block {
  unsigned char *bytes;
  size_t size;
  unsigned char mark;
};

static void fill(struct block *b, uint64_t *random) {
  b->mark = (unsigned char)next_random(random);
  memset(b->bytes, b->mark, b->size);
}

static void check(const struct block *b, size_t size) {
  for (size_t i = 0; i < size; i++) assert_int_equal(b->bytes[i], b->mark);
}

/* Most are small, some cross the limits between the kinds of blocks. */
static size_t any_size(uint64_t *random) {
  switch (random_below(random, 40)) {
    case 0: return 1 + random_below(random, 20000);
    case 1: return ALLOCATOR_SMALL_BYTES - 2 + random_below(random, 5);
    case 2: return random_below(random, 8) == 0 ? ALLOCATOR_LARGE_BYTES - 2 + random_below(random, 5000) : 700;
    default: return 1 + random_below(random, ALLOCATOR_SMALL_BYTES);
  }
}

static void test_blocks_keep_what_is_in_them(void **state) {
  static struct block blocks[N_BLOCKS];
  struct allocator *a = allocator_open();
  uint64_t random = 1;
  int rounds = rounds_of(100000);
  (void)state;
  assert_non_null(a);
  memset(blocks, 0, sizeof blocks);
  for (int i = 0; i < rounds; i++) {
    struct block *b = &blocks[random_below(&random, N_BLOCKS)];
    size_t size = random_below(&random, 3) == 0 ? 0 : any_size(&random);
    size_t kept = size < b->size ? size : b->size;
    check(b, b->size);
    b->bytes = allocator_lua(a, b->bytes, b->bytes ? b->size : random_below(&random, 9), size);
    assert_true((b->bytes != NULL) == (size > 0));
    assert_int_equal((uintptr_t)b->bytes % alignof(double), 0);
    if (size > 0) check(b, kept);
    b->size = size;
    if (size > 0) fill(b, &random);
  }
  for (int i = 0; i < N_BLOCKS; i++) {
    check(&blocks[i], blocks[i].size);
    allocator_lua(a, blocks[i].bytes, blocks[i].size, 0);
  }
  allocator_close(a);
}

static void test_every_small_size_is_all_ones_own(void **state) {
  struct allocator *a = allocator_open();
  unsigned char *blocks[3];
  (void)state;
  for (size_t size = 1; size <= ALLOCATOR_SMALL_BYTES + 1; size++) {
    for (int i = 0; i < 3; i++) memset(blocks[i] = allocator_lua(a, NULL, 0, size), i, size);
    for (int i = 0; i < 3; i++) {
      for (size_t k = 0; k < size; k++) assert_int_equal(blocks[i][k], i);
      allocator_lua(a, blocks[i], size, 0);
    }
  }
  allocator_close(a);
}

/* Thousands of blocks of one size, given back in an order that has nothing to do with that in which they were taken. */
static void take_and_give_back(struct allocator *a, size_t size, size_t count) {
  void **blocks = calloc(count, sizeof *blocks);
  uint64_t random = size;
  assert_non_null(blocks);
  for (size_t i = 0; i < count; i++) assert_non_null(blocks[i] = allocator_lua(a, NULL, 0, size));
  for (size_t i = count - 1; i > 0; i--) {
    size_t other = random_below(&random, i + 1);
    void *block = blocks[i];
    blocks[i] = blocks[other];
    blocks[other] = block;
  }
  for (size_t i = 0; i < count; i++) allocator_lua(a, blocks[i], size, 0);
  free(blocks);
}

static void test_what_is_given_back_goes(void **state) {
  struct allocator *a = allocator_open();
  (void)state;
  assert_int_equal(allocator_held(a), 0);
  for (size_t size = 16; size <= 512; size += 48) {
    take_and_give_back(a, size, (8 << 20) / size);
    assert_true(allocator_held(a) <= 48 * CHUNK_BYTES); /* some wait for the next who needs them; one for each size that was used */
  }
  allocator_close(a);
}

static void test_a_chunk_serves_another_size(void **state) {
  struct allocator *a = allocator_open();
  (void)state;
  take_and_give_back(a, 24, 20000);
  size_t held = allocator_held(a);
  take_and_give_back(a, 200, 2000);
  assert_true(allocator_held(a) <= held + CHUNK_BYTES);
  allocator_close(a);
}

static size_t resident_bytes(void) {
  FILE *f = fopen("/proc/self/statm", "r");
  unsigned long size = 0, resident = 0;
  assert_non_null(f);
  assert_int_equal(fscanf(f, "%lu %lu", &size, &resident), 2);
  fclose(f);
  return resident * (size_t)sysconf(_SC_PAGESIZE);
}

/* Large blocks that follow each other share their pages; what is left of many is little. */
static void test_large_blocks_are_used_again(void **state) {
  enum { LARGE = 3 << 20, MANY = 40 };
  struct allocator *a;
  void *blocks[MANY], *first, *smaller;
  size_t before;
  (void)state;
  if (getenv("POOLTEST_SLOWNESS")) skip(); /* sanitizer builds keep nothing, so that mistakes are seen */
  a = allocator_open();
  first = allocator_lua(a, NULL, 0, LARGE);
  memset(first, 1, LARGE);
  allocator_lua(a, first, LARGE, 0);
  smaller = allocator_lua(a, NULL, 0, LARGE - (LARGE >> 3));
  assert_ptr_equal(smaller, first);
  allocator_lua(a, smaller, LARGE - (LARGE >> 3), 0);
  assert_ptr_not_equal(smaller = allocator_lua(a, NULL, 0, ALLOCATOR_LARGE_BYTES), first); /* not for one much smaller */
  allocator_lua(a, smaller, ALLOCATOR_LARGE_BYTES, 0);
  before = resident_bytes();
  for (int i = 0; i < MANY; i++) memset(blocks[i] = allocator_lua(a, NULL, 0, LARGE), i, LARGE);
  for (int i = 0; i < MANY; i++) {
    assert_int_equal(*(unsigned char *)blocks[i], i);
    allocator_lua(a, blocks[i], LARGE, 0);
  }
  assert_true(resident_bytes() < before + (24 << 20));
  assert_int_equal(allocator_large_bytes(a) >> 20, (3 + 2 + 1 + 3 * MANY));
  allocator_close(a);
  assert_true(resident_bytes() < before + (8 << 20));
}

/* In a child the memory is its own. */
static uint64_t address_space_bytes(void) {
  unsigned long long pages = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  assert_non_null(file);
  assert_int_equal(fscanf(file, "%llu", &pages), 1);
  fclose(file);
  return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Whatever of its last huge page a block has: what is in it moves with it, and no end of it stays mapped. */
static void test_large_blocks_end_anywhere(void **state) {
  enum { HUGE = 2 << 20, MOST = 3, N_ENDS = 9, ROUNDS = 300 };
  static const size_t ENDS[N_ENDS] = {0, 1, 4096, HUGE / 2 - 1, HUGE / 2, HUGE / 2 + 1, HUGE / 2 + 4097, HUGE - 4096, HUGE - 1};
  struct allocator *a = allocator_open();
  uint64_t random = 5, before = address_space_bytes();
  (void)state;
  for (int round = 0; round < ROUNDS; round++) {
    unsigned char *block = NULL;
    size_t size = 0;
    for (int step = 0; step < 4; step++) {
      size_t next = random_below(&random, MOST) * HUGE + ENDS[random_below(&random, N_ENDS)];
      if (next < ALLOCATOR_LARGE_BYTES) next = ALLOCATOR_LARGE_BYTES;
      block = allocator_lua(a, block, size, next);
      assert_non_null(block);
      if (size > 0) assert_int_equal(block[0], 1 + round % 100);
      if (size > 0 && size <= next) assert_int_equal(block[size - 1], 1 + round % 100);
      block[0] = block[next / 2] = block[next - 1] = (unsigned char)(1 + round % 100);
      size = next;
    }
    allocator_lua(a, block, size, 0);
  }
  allocator_close(a);
  if (!getenv("POOLTEST_SLOWNESS")) assert_true(address_space_bytes() < before + HUGE); /* (sanitizers map as they like) */
}

static void test_a_fork_copies_it(void **state) {
  struct allocator *a = allocator_open();
  unsigned char *block = allocator_lua(a, NULL, 0, 40);
  int status;
  pid_t pid;
  (void)state;
  memset(block, 1, 40);
  pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    unsigned char *other = allocator_lua(a, NULL, 0, 40);
    int is_fine = block[39] == 1 && other != block;
    memset(block, 2, 40);
    memset(other, 3, 40);
    allocator_lua(a, block, 40, 0);
    allocator_lua(a, other, 40, 0);
    allocator_close(a);
    _exit(is_fine ? 0 : 1);
  }
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
  assert_int_equal(block[0], 1);
  allocator_lua(a, block, 40, 0);
  allocator_close(a);
}

/* Run out of address space: NULL, what there was is untouched, and it goes on once there is memory again. */
static void test_no_memory(void **state) {
  struct rlimit old, low;
  struct allocator *a;
  struct block first = {NULL, 100, 0};
  uint64_t random = 3;
  void *last = NULL, *block;
  (void)state;
  if (getenv("POOLTEST_SLOWNESS")) skip(); /* sanitizers and valgrind need address space without end */
  a = allocator_open();
  first.bytes = allocator_lua(a, NULL, 0, 100);
  fill(&first, &random);
  getrlimit(RLIMIT_AS, &old);
  low = old;
  low.rlim_cur = 300 << 20;
  assert_int_equal(setrlimit(RLIMIT_AS, &low), 0);
  assert_null(allocator_lua(a, NULL, 0, 1 << 30));
  assert_null(allocator_lua(a, first.bytes, 100, 1 << 30));
  while ((block = allocator_lua(a, NULL, 0, 500)) != NULL) {
    *(void **)block = last;
    last = block;
  }
  assert_null(allocator_lua(a, NULL, 0, 500));
  setrlimit(RLIMIT_AS, &old);
  check(&first, 100);
  assert_non_null(block = allocator_lua(a, NULL, 0, 500));
  allocator_lua(a, block, 500, 0);
  for (; last; last = block) {
    block = *(void **)last;
    allocator_lua(a, last, 500, 0);
  }
  allocator_close(a);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown(test_blocks_keep_what_is_in_them, note_the_house, find_it_clean),
    cmocka_unit_test(test_every_small_size_is_all_ones_own),
    cmocka_unit_test(test_what_is_given_back_goes),
    cmocka_unit_test(test_a_chunk_serves_another_size),
    cmocka_unit_test(test_large_blocks_are_used_again),
    cmocka_unit_test(test_large_blocks_end_anywhere),
    cmocka_unit_test_setup_teardown(test_a_fork_copies_it, note_the_house, find_it_clean),
    cmocka_unit_test(test_no_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
