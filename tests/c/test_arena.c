/* Input memory: extents never overlap, come back, and are seen by children that map more of the file as it grows. */
#include "unit.h"

#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "memory/arena.h"

enum { UNIT = 64 };

static uint64_t allocate(struct arena *a, uint64_t length) {
  uint64_t offset = UINT64_MAX;
  assert_int_equal(arena_allocate(a, length, &offset), 0);
  assert_int_equal(offset % UNIT, 0);
  assert_true(offset + length <= a->size);
  return offset;
}

static void test_empty_arena(void **state) {
  struct arena a;
  (void)state;
  arena_init(&a);
  assert_int_equal(a.fd, -1);
  assert_null(arena_at(&a, 0, 1));
  arena_close(&a);
  arena_close(&a);
  assert_int_equal(arena_open(&a), 0);
  assert_int_equal(arena_open(&a), 0);
  assert_true(a.fd > 2);
  arena_close(&a);
  assert_int_equal(a.fd, -1);
}

/* The free list says what is free: sorted, joined, inside the file. Returns the bytes on it. */
static uint64_t free_bytes(const struct arena *a) {
  uint64_t total = 0;
  size_t i;
  for (i = 0; i < a->n_free; i++) {
    assert_true(a->free_list[i].length > 0);
    assert_true(a->free_list[i].offset + a->free_list[i].length <= a->size);
    if (i > 0) assert_true(a->free_list[i - 1].offset + a->free_list[i - 1].length < a->free_list[i].offset);
    total += a->free_list[i].length;
  }
  return total;
}

enum { LIVE = 60 };

struct live {
  uint64_t offset, length;
  unsigned char mark;
};

static void write_mark(struct arena *a, const struct live *l) {
  unsigned char *at = arena_at(a, l->offset, l->length);
  assert_non_null(at);
  memset(at, l->mark, (size_t)l->length);
}

static void check_mark(struct arena *a, const struct live *l) {
  const unsigned char *at = arena_at(a, l->offset, l->length);
  uint64_t i;
  for (i = 0; i < l->length; i++)
    if (at[i] != l->mark) fail_msg("byte %llu of an extent at %llu changed", (unsigned long long)i, (unsigned long long)l->offset);
}

static uint64_t random_length(uint64_t *seed) {
  uint64_t kind = random_below(seed, 10);
  if (kind == 0) return random_below(seed, 3 << 20);
  return kind < 4 ? random_below(seed, 100000) : random_below(seed, 300);
}

static void test_random_extents_keep_their_bytes(void **state) {
  struct live live[LIVE] = {{0}};
  struct arena a;
  uint64_t seed = 3, used = 0;
  int round, i;
  (void)state;
  arena_init(&a);
  for (round = 0; round < rounds_of(3000); round++) {
    struct live *l = &live[random_below(&seed, LIVE)];
    if (l->mark) {
      check_mark(&a, l);
      arena_free(&a, l->offset, l->length);
      used -= l->length ? (l->length + UNIT - 1) / UNIT * UNIT : UNIT;
      l->mark = 0;
    } else {
      l->length = random_length(&seed);
      l->offset = allocate(&a, l->length);
      l->mark = (unsigned char)(1 + round % 255);
      used += l->length ? (l->length + UNIT - 1) / UNIT * UNIT : UNIT;
      write_mark(&a, l);
    }
    assert_int_equal(free_bytes(&a) + used, a.size);
  }
  for (i = 0; i < LIVE; i++) {
    if (!live[i].mark) continue;
    check_mark(&a, &live[i]);
    arena_free(&a, live[i].offset, live[i].length);
  }
  assert_int_equal(a.n_free, 1);
  assert_int_equal(a.free_list[0].length, a.size);
  assert_true(a.size < UINT64_C(300) << 20);
  arena_close(&a);
}

static void test_steady_use_does_not_grow(void **state) {
  struct arena a;
  uint64_t size, offset, i;
  (void)state;
  arena_init(&a);
  arena_free(&a, allocate(&a, 2 << 20), 2 << 20);
  size = a.size;
  for (i = 0; i < 5000; i++) {
    offset = allocate(&a, 1 + i * 37 % 100000);
    arena_free(&a, offset, 1 + i * 37 % 100000);
  }
  assert_int_equal(a.size, size);
  arena_close(&a);
}

/* A child knows what was there at its birth, and maps what comes later by itself. */
static void test_children_see_what_is_written_later(void **state) {
  struct arena a;
  uint64_t offset[4], k;
  int go[2], status;
  pid_t pid;
  (void)state;
  arena_init(&a);
  offset[0] = allocate(&a, 100);
  assert_int_equal(pipe(go), 0);
  pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    close(go[1]);
    for (k = 0; k < 4; k++) {
      const unsigned char *at;
      if (read(go[0], &offset[k], sizeof offset[k]) != (ssize_t)sizeof offset[k]) _exit(2);
      at = arena_at(&a, offset[k], (uint64_t)3 << 20);
      if (at == NULL || at[0] != k + 1 || at[(3 << 20) - 1] != k + 1) _exit(3);
    }
    _exit(0);
  }
  close(go[0]);
  for (k = 0; k < 4; k++) {
    offset[k] = allocate(&a, (uint64_t)3 << 20);
    memset(arena_at(&a, offset[k], (uint64_t)3 << 20), (int)k + 1, 3 << 20);
    assert_int_equal(write(go[1], &offset[k], sizeof offset[k]), sizeof offset[k]);
  }
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
  close(go[1]);
  arena_close(&a);
}

static void test_impossible_lengths_are_refused(void **state) {
  static const uint64_t lengths[] = {UINT64_MAX, UINT64_MAX - 63, UINT64_C(1) << 63, UINT64_C(1) << 60, (UINT64_C(1) << 46) + 1};
  struct arena a;
  uint64_t offset, size;
  size_t i;
  (void)state;
  arena_init(&a);
  (void)allocate(&a, 100);
  size = a.size;
  for (i = 0; i < sizeof lengths / sizeof *lengths; i++) assert_int_equal(arena_allocate(&a, lengths[i], &offset), -ENOMEM);
  assert_int_equal(a.size, size);
  assert_null(arena_at(&a, UINT64_MAX - 10, 5));
  assert_null(arena_at(&a, 5, UINT64_MAX));
  assert_null(arena_at(&a, UINT64_MAX, UINT64_MAX));
  (void)allocate(&a, 100);
  arena_close(&a);
}

#ifdef LUAPOOL_FAULTS
static void fail_by(const char *rule) {
  setenv("LUAPOOL_FAIL", rule, 1);
  fault_reload();
}

static void test_refused_memory_changes_nothing(void **state) {
  struct arena a;
  uint64_t offset, kept, size, k;
  (void)state;
  arena_init(&a);
  fail_by("memfd#1:EMFILE");
  assert_int_equal(arena_allocate(&a, 1, &offset), -EMFILE);
  assert_int_equal(a.fd, -1);
  fail_by("");
  kept = allocate(&a, 1000);
  memset(arena_at(&a, kept, 1000), 7, 1000);
  size = a.size;
  for (k = 0; k < 2; k++) {
    fail_by(k == 0 ? "truncate#0:ENOSPC" : "mmap#0:ENOMEM");
    assert_int_equal(arena_allocate(&a, 8 << 20, &offset), k == 0 ? -ENOSPC : -ENOMEM);
    assert_int_equal(a.size, size);
    assert_int_equal(((unsigned char *)arena_at(&a, kept, 1000))[999], 7);
    assert_int_equal(arena_allocate(&a, 100, &offset), 0); /* what fits goes on */
    arena_free(&a, offset, 100);
  }
  fail_by("truncate#1:ENOSPC"); /* the growth in reserve does not fit, the bytes themselves do */
  assert_int_equal(arena_allocate(&a, 8 << 20, &offset), 0);
  fail_by("");
  unsetenv("LUAPOOL_FAIL");
  arena_close(&a);
}
#endif

#define CASE(function) cmocka_unit_test_setup_teardown(function, note_the_house, find_it_clean)

int main(void) {
  const struct CMUnitTest tests[] = {
    CASE(test_empty_arena),
    CASE(test_random_extents_keep_their_bytes),
    CASE(test_steady_use_does_not_grow),
    CASE(test_children_see_what_is_written_later),
    CASE(test_impossible_lengths_are_refused),
#ifdef LUAPOOL_FAULTS
    CASE(test_refused_memory_changes_nothing),
#endif
  };
  return cmocka_run_group_tests_name("arena", tests, NULL, NULL);
}
