/* Packed texts: what the format says, and that bytes which are no such text are refused without a byte out of place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/packed.h"

/* In blocks of just that size: a sanitizer sees what is read or written beyond. */
static int expand(const char *packed, size_t n, size_t length, char *text) {
  unsigned char *in = malloc(n ? n : 1);
  char *out = malloc(length ? length : 1);
  int status;
  assert_non_null(in);
  assert_non_null(out);
  memcpy(in, packed, n);
  status = packed_expand(in, n, out, length);
  if (status == 0 && text) memcpy(text, out, length);
  free(in);
  free(out);
  return status;
}

static void expect(const char *packed, size_t n, const char *text) {
  char out[512] = "";
  assert_int_equal(expand(packed, n, strlen(text), out), 0);
  assert_string_equal(out, text);
}

static void test_bytes_stand_for_themselves(void **state) {
  (void)state;
  expect("", 0, "");
  expect("local a\n", 8, "local a\n");
  expect("a\x7f\xc3\x7f\xb6\x7f\x7f", 7, "a\xc3\xb6\x7f");
}

static void test_matches(void **state) {
  char out[300];
  (void)state;
  expect("abc\x80\x02", 5, "abcabc");
  expect("ab\xb8\x01", 4, "abababababab");            /* 7 + 3 bytes, overlapping */
  expect("a\xff\x00\x00!", 5, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"); /* 63 + 3 */
  memset(out, 'x', sizeof out);
  assert_int_equal(expand("x\xff\x00\x00\xff\x00\x00\xff\x00\x00\xff\x00\x00\xe0\x00\x00", 16, 300, out), 0);
  for (size_t i = 0; i < sizeof out; i++) assert_int_equal(out[i], 'x');
}

static void test_what_is_no_text_is_refused(void **state) {
  (void)state;
  assert_int_equal(expand("abc", 3, 2, NULL), -EINVAL);              /* more than the text */
  assert_int_equal(expand("abc", 3, 4, NULL), -EINVAL);              /* less */
  assert_int_equal(expand("abc\x80\x02", 5, 5, NULL), -EINVAL);     /* a match beyond its end */
  assert_int_equal(expand("abc\x80\x03", 5, 6, NULL), -EINVAL);     /* from before its beginning */
  assert_int_equal(expand("\xff\xff\xff", 3, 66, NULL), -EINVAL);
  assert_int_equal(expand("abc\x80", 4, 6, NULL), -EINVAL);          /* cut off */
  assert_int_equal(expand("abc\xc0\x00", 5, 6, NULL), -EINVAL);
  assert_int_equal(expand("a\x7f", 2, 2, NULL), -EINVAL);
}

static void test_any_bytes(void **state) {
  unsigned seed = 1;
  (void)state;
  for (int round = 0; round < 20000; round++) {
    char packed[40];
    size_t n = (seed >> 8) % sizeof packed;
    for (size_t i = 0; i < n; i++) {
      seed = seed * 1103515245u + 12345u;
      packed[i] = (char)(seed >> 16);
    }
    seed = seed * 1103515245u + 12345u;
    (void)expand(packed, n, (seed >> 16) % 100, NULL);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_bytes_stand_for_themselves),
    cmocka_unit_test(test_matches),
    cmocka_unit_test(test_what_is_no_text_is_refused),
    cmocka_unit_test(test_any_bytes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
