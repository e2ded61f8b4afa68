/* Bytes as text: the examples of RFC 4648, every length there and back, and what is no such text. */
#include "unit.h"

#include <string.h>

#include "base/base64.h"

static void check_pair(const char *plain, const char *text) {
  struct bytes b;
  bytes_init(&b);
  assert_int_equal(base64_write(&b, (const unsigned char *)plain, strlen(plain)), 0);
  assert_int_equal(b.length, strlen(text));
  if (b.length) assert_memory_equal(b.data, text, b.length);
  bytes_clear(&b);
  assert_int_equal(base64_read(&b, text, strlen(text)), 0);
  assert_int_equal(b.length, strlen(plain));
  if (b.length) assert_memory_equal(b.data, plain, b.length);
  bytes_free(&b);
}

static void test_examples(void **state) {
  (void)state;
  check_pair("", "");
  check_pair("f", "Zg==");
  check_pair("fo", "Zm8=");
  check_pair("foo", "Zm9v");
  check_pair("foob", "Zm9vYg==");
  check_pair("fooba", "Zm9vYmE=");
  check_pair("foobar", "Zm9vYmFy");
  check_pair("\xff\xfe\xfb\xef\xbe", "//77774=");
}

static void test_every_length(void **state) {
  uint64_t random = 1;
  unsigned char data[300];
  (void)state;
  for (size_t length = 0; length <= sizeof data; length++) {
    struct bytes text, back;
    for (size_t i = 0; i < length; i++) data[i] = (unsigned char)next_random(&random);
    bytes_init(&text);
    bytes_init(&back);
    assert_int_equal(bytes_append(&back, "head", 4), 0);
    assert_int_equal(base64_write(&text, data, length), 0);
    assert_int_equal(base64_read(&back, (const char *)text.data, text.length), 0);
    assert_int_equal(back.length, length + 4);
    if (length) assert_memory_equal(back.data + 4, data, length);
    bytes_free(&text);
    bytes_free(&back);
  }
}

static void test_no_such_text(void **state) {
  static const char *const wrong[] = {"Z", "Zg", "Zg=", "Zg==Zg==", "Z===", "====", "Zm8=x", "Zm9*", "Zm 9", "=m9v", "Zm=v", "Zm9v\n"};
  struct bytes b;
  (void)state;
  bytes_init(&b);
  assert_int_equal(bytes_append(&b, "head", 4), 0);
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    assert_int_equal(base64_read(&b, wrong[i], strlen(wrong[i])), -EBADMSG);
    assert_int_equal(b.length, 4);
  }
  bytes_free(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_examples), cmocka_unit_test(test_every_length),
                                     cmocka_unit_test(test_no_such_text)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
