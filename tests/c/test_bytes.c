/* The byte buffer: growth, borrowed memory, and that a refused growth changes nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "base/bytes.h"

/* A sanitizer's allocator shall refuse what is too much, as malloc does, instead of ending the program. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
  return "allocator_may_return_null=1";
}

const char *__tsan_default_options(void);
const char *__tsan_default_options(void) {
  return "allocator_may_return_null=1";
}

static void test_starts_empty(void **state) {
  struct bytes b;
  (void)state;
  bytes_init(&b);
  assert_null(b.data);
  assert_int_equal(b.length, 0);
  assert_int_equal(b.capacity, 0);
  bytes_clear(&b);
  bytes_free(&b);
  bytes_free(&b);
}

static void test_appends_what_it_is_given(void **state) {
  struct bytes b;
  (void)state;
  bytes_init(&b);
  assert_int_equal(bytes_append(&b, NULL, 0), 0);
  for (unsigned i = 0; i < 100000; i++) {
    unsigned char byte = (unsigned char)(i * 7);
    assert_int_equal(bytes_append(&b, &byte, 1), 0);
  }
  assert_int_equal(b.length, 100000);
  for (unsigned i = 0; i < 100000; i++) assert_int_equal(b.data[i], (unsigned char)(i * 7));
  bytes_free(&b);
  assert_null(b.data);
}

static void test_grows_in_few_steps(void **state) {
  struct bytes b;
  size_t capacity = 0;
  int steps = 0;
  (void)state;
  bytes_init(&b);
  while (b.length < 1 << 20) {
    assert_int_equal(bytes_append(&b, "0123456789abcdef", 16), 0);
    steps += b.capacity != capacity;
    capacity = b.capacity;
  }
  assert_in_range(steps, 1, 40);
  bytes_free(&b);
}

static void test_clear_keeps_the_memory(void **state) {
  struct bytes b;
  unsigned char *data;
  (void)state;
  bytes_init(&b);
  assert_int_equal(bytes_append(&b, "abc", 3), 0);
  data = b.data;
  bytes_clear(&b);
  assert_int_equal(b.length, 0);
  assert_int_equal(bytes_append(&b, "xyz", 3), 0);
  assert_ptr_equal(b.data, data);
  assert_memory_equal(b.data, "xyz", 3);
  bytes_free(&b);
}

static void test_leaves_borrowed_memory_when_it_is_full(void **state) {
  unsigned char memory[8 + 1];
  struct bytes b;
  (void)state;
  memset(memory, '#', sizeof memory);
  bytes_init(&b);
  bytes_borrow(&b, memory, 8);
  assert_int_equal(bytes_append(&b, "01234567", 8), 0);
  assert_ptr_equal(b.data, memory);
  assert_true(b.is_borrowed);
  assert_int_equal(bytes_append(&b, "89", 2), 0);
  assert_ptr_not_equal(b.data, memory);
  assert_false(b.is_borrowed);
  assert_memory_equal(b.data, "0123456789", 10);
  assert_memory_equal(memory, "01234567#", 9);
  bytes_free(&b);
}

static void test_borrowing_frees_what_it_owned(void **state) {
  unsigned char memory[4];
  struct bytes b;
  (void)state;
  bytes_init(&b);
  assert_int_equal(bytes_append(&b, "heap", 4), 0); /* a leak here is found by the sanitizer's run */
  bytes_borrow(&b, memory, sizeof memory);
  assert_int_equal(b.length, 0);
  assert_int_equal(bytes_append(&b, "ring", 4), 0);
  assert_memory_equal(memory, "ring", 4);
  bytes_free(&b); /* must not free the borrowed memory */
  assert_memory_equal(memory, "ring", 4);
}

static void test_refused_growth_changes_nothing(void **state) {
  static const size_t too_much[] = {SIZE_MAX, SIZE_MAX - 3, SIZE_MAX / 2 + 1, SIZE_MAX / 2 - 4};
  unsigned char memory[4];
  struct bytes b;
  (void)state;
  for (int is_borrowed = 0; is_borrowed <= 1; is_borrowed++) {
    bytes_init(&b);
    if (is_borrowed) bytes_borrow(&b, memory, sizeof memory);
    assert_int_equal(bytes_append(&b, "abc", 3), 0);
    for (size_t i = 0; i < sizeof too_much / sizeof *too_much; i++) {
      struct bytes before = b;
      assert_int_equal(bytes_grow(&b, too_much[i]), -ENOMEM);
      assert_int_equal(bytes_append(&b, "x", too_much[i]), -ENOMEM);
      assert_ptr_equal(b.data, before.data); /* member by member: the padding is nobody's */
      assert_int_equal(b.length, before.length);
      assert_int_equal(b.capacity, before.capacity);
      assert_int_equal(b.is_borrowed, before.is_borrowed);
    }
    assert_memory_equal(b.data, "abc", 3);
    bytes_free(&b);
  }
}

static void test_reserve_makes_room_once(void **state) {
  struct bytes b;
  unsigned char *data;
  (void)state;
  bytes_init(&b);
  assert_int_equal(bytes_reserve(&b, 5000), 0);
  assert_true(b.capacity >= 5000);
  data = b.data;
  for (int i = 0; i < 5000; i++) assert_int_equal(bytes_append(&b, "z", 1), 0);
  assert_ptr_equal(b.data, data);
  bytes_free(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_starts_empty),
    cmocka_unit_test(test_appends_what_it_is_given),
    cmocka_unit_test(test_grows_in_few_steps),
    cmocka_unit_test(test_clear_keeps_the_memory),
    cmocka_unit_test(test_leaves_borrowed_memory_when_it_is_full),
    cmocka_unit_test(test_borrowing_frees_what_it_owned),
    cmocka_unit_test(test_refused_growth_changes_nothing),
    cmocka_unit_test(test_reserve_makes_room_once),
  };
  return cmocka_run_group_tests_name("bytes", tests, NULL, NULL);
}
