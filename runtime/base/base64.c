/* base/base64 -- see base64.h (may include base/bytes.h). */
#include "base/base64.h"

#include <errno.h>

static const char DIGITS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

int base64_write(struct bytes *out, const unsigned char *data, size_t length) {
  size_t size = (length / 3 + (length % 3 > 0)) * 4;
  unsigned char *to;
  if (length == 0) return 0;
  if (length > SIZE_MAX / 4 || bytes_reserve(out, size) < 0) return -ENOMEM;
  to = out->data + out->length;
  for (; length > 0; to += 4) {
    unsigned group = (unsigned)data[0] << 16 | (length > 1 ? (unsigned)data[1] << 8 : 0) | (length > 2 ? data[2] : 0);
    to[0] = (unsigned char)DIGITS[group >> 18];
    to[1] = (unsigned char)DIGITS[group >> 12 & 63];
    to[2] = (unsigned char)(length > 1 ? DIGITS[group >> 6 & 63] : '=');
    to[3] = (unsigned char)(length > 2 ? DIGITS[group & 63] : '=');
    data += length > 2 ? 3 : length;
    length -= length > 2 ? 3 : length;
  }
  out->length += size;
  return 0;
}

static int value_of(char digit) {
  if (digit >= 'A' && digit <= 'Z') return digit - 'A';
  if (digit >= 'a' && digit <= 'z') return digit - 'a' + 26;
  if (digit >= '0' && digit <= '9') return digit - '0' + 52;
  return digit == '+' ? 62 : digit == '/' ? 63 : -1;
}

/* Four digits of which the last `padding` are '='. Returns the 24 bits, or -1. */
static int read_group(const char *text, int padding) {
  int group = 0;
  for (int i = 0; i < 4; i++) {
    int value = i >= 4 - padding ? 0 : value_of(text[i]);
    if (value < 0) return -1;
    group = group << 6 | value;
  }
  return group;
}

int base64_read(struct bytes *out, const char *text, size_t length) {
  int padding = length >= 4 && text[length - 1] == '=' ? 1 + (text[length - 2] == '=') : 0;
  size_t before = out->length;
  unsigned char *to;
  if (length % 4 != 0) return -EBADMSG;
  if (length == 0) return 0;
  if (bytes_reserve(out, length / 4 * 3) < 0) return -ENOMEM;
  to = out->data + before;
  for (; length > 0; text += 4, length -= 4) {
    int kept = length == 4 ? 3 - padding : 3, group = read_group(text, 3 - kept);
    if (group < 0) {
      out->length = before;
      return -EBADMSG;
    }
    for (int i = 0; i < kept; i++) *to++ = (unsigned char)(group >> (16 - 8 * i));
  }
  out->length = (size_t)(to - out->data);
  return 0;
}
