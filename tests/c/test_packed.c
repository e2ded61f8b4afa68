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

/* Symbols with the lengths of their code words; all others have none. */
struct length {
  unsigned symbol, bits;
};

enum { REPEAT = 256, BACK = PACKED_SYMBOLS };

/* a: 0, b: 10, a repeat of 2: 110, \xFC: 1110, a repeat of 10 to 13: 1111. As far back as before: 0, 1: 10, 3: 110, 5 or 6: 111. */
static const struct length small[] = {
  {'a', 1}, {'b', 2}, {REPEAT, 3}, {REPEAT + 6, 4}, {0xFC, 4}, {BACK, 1}, {BACK + 1, 2}, {BACK + 3, 3}, {BACK + 5, 3}, {0, 0}};

static void make_code(unsigned char *code, const struct length *lengths) {
  memset(code, 0, PACKED_CODE_BYTES);
  for (; lengths->bits; lengths++) code[lengths->symbol / 2] |= (unsigned char)(lengths->bits << (lengths->symbol & 1 ? 0 : 4));
}

/* In blocks of just that size: a sanitizer sees what is read or written beyond. */
static int expand_with(const unsigned char *lengths, const char *packed, size_t n, size_t length, char *text) {
  unsigned char *in = malloc(n ? n : 1), *code = malloc(PACKED_CODE_BYTES);
  char *out = malloc(length ? length : 1);
  int status;
  assert_non_null(in);
  assert_non_null(code);
  assert_non_null(out);
  memcpy(in, packed, n);
  memcpy(code, lengths, PACKED_CODE_BYTES);
  status = packed_expand(code, in, n, out, length);
  if (status == 0 && text) memcpy(text, out, length);
  free(in);
  free(code);
  free(out);
  return status;
}

/* Digits of bits, blanks between them do not count, in as few bytes as hold them. */
static int expand(const char *bits, size_t length, char *text) {
  unsigned char code[PACKED_CODE_BYTES];
  char packed[64] = "";
  size_t n = 0;
  make_code(code, small);
  for (; *bits; bits++) {
    if (*bits == ' ') continue;
    packed[n / 8] |= (char)((*bits - '0') << (7 - n % 8));
    n++;
  }
  return expand_with(code, packed, (n + 7) / 8, length, text);
}

static void expect(const char *bits, const char *text) {
  char out[512] = "";
  assert_int_equal(expand(bits, strlen(text), out), 0);
  assert_string_equal(out, text);
}

static void test_bytes(void **state) {
  (void)state;
  expect("", "");
  expect("0 10 0 0 10", "abaab");
  expect("0 1110 10", "a\xFC" "b");
  expect("0 0 0 0 0 0 0 0", "aaaaaaaa"); /* a byte that is full */
}

static void test_repeats(void **state) {
  (void)state;
  expect("0 10 0  110 110", "abaab");           /* 2 bytes from 3 back */
  expect("0 10  110 10", "abbb");               /* 2 bytes from 1 back: they overlap what they become */
  expect("0 10 0  110 110  110 0", "abaabaa");  /* and again 2 from 3 back */
  expect("10 0 0 0 0 0  110 111 1  110 0  110 111 0", "baaaaabaaaab"); /* 6, 6, and 5 back */
  expect("0  1111 00 10", "aaaaaaaaaaa");       /* 8 + 2 bytes */
  expect("0  1111 11 10", "aaaaaaaaaaaaaa");    /* 8 + 3 + 2 */
}

static void test_what_is_no_text_is_refused(void **state) {
  unsigned char code[PACKED_CODE_BYTES] = {0};
  (void)state;
  assert_int_equal(expand("0 10 0", 2, NULL), 0);                    /* (what is left of a byte is not looked at) */
  assert_int_equal(expand("0 0 0 0 0 0 0 0 0", 8, NULL), -EINVAL);  /* a byte more than the text */
  assert_int_equal(expand("0 0 0 0 0 0 0 0", 9, NULL), -EINVAL);    /* cut off */
  assert_int_equal(expand("", 1, NULL), -EINVAL);
  assert_int_equal(expand("0 10 110 10", 3, NULL), -EINVAL);        /* a repeat beyond its end */
  assert_int_equal(expand("0 10 110 110", 4, NULL), -EINVAL);       /* from before its beginning */
  assert_int_equal(expand("0 10 110 0", 4, NULL), -EINVAL);         /* as far as before, when there was none */
  assert_int_equal(expand_with(code, "abc", 3, 3, NULL), -EINVAL);   /* no symbol has a code word */
  make_code(code, (const struct length[]){{'a', 2}, {'b', 2}, {'c', 2}, {0, 0}});
  assert_int_equal(expand_with(code, "\xFF", 1, 2, NULL), -EINVAL);  /* nor this one */
}

/* Any bytes, with the small code and with any code at all, be it none. */
static void test_any_bytes(void **state) {
  unsigned seed = 1;
  (void)state;
  for (int round = 0; round < 20000; round++) {
    unsigned char code[PACKED_CODE_BYTES];
    char packed[40];
    size_t n = (seed >> 8) % sizeof packed;
    make_code(code, small);
    for (size_t i = 0; i < sizeof code; i++) {
      seed = seed * 1103515245u + 12345u;
      if (i < n) packed[i] = (char)(seed >> 16);
      if (round % 2) code[i] = (unsigned char)(seed >> 20);
    }
    seed = seed * 1103515245u + 12345u;
    (void)expand_with(code, packed, n, (seed >> 16) % 300, NULL);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_bytes),
    cmocka_unit_test(test_repeats),
    cmocka_unit_test(test_what_is_no_text_is_refused),
    cmocka_unit_test(test_any_bytes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
