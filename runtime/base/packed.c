/* base/packed -- see packed.h. */
#include "base/packed.h"

#include <errno.h>

enum { ESCAPE = 127, SHORTEST = 3 };

int packed_expand(const unsigned char *packed, size_t n, char *out, size_t length) {
  const unsigned char *end = packed + n;
  size_t at = 0, distance, count;
  while (packed < end) {
    unsigned first = *packed++;
    if (first < ESCAPE || (first == ESCAPE && packed < end)) {
      if (at == length) return -EINVAL;
      out[at++] = (char)(first < ESCAPE ? first : *packed++);
      continue;
    }
    if (first == ESCAPE || end - packed < (first < 0xC0 ? 1 : 2)) return -EINVAL;
    count = SHORTEST + (first < 0xC0 ? (first >> 3) & 7 : first & 63);
    distance = first < 0xC0 ? first & 7 : *packed++;
    distance = (distance << 8 | *packed++) + 1;
    if (distance > at || count > length - at) return -EINVAL;
    for (; count > 0; count--, at++) out[at] = out[at - distance];
  }
  return at == length ? 0 : -EINVAL;
}
