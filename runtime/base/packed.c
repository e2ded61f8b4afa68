/* base/packed -- see packed.h. */
#include "base/packed.h"

#include <errno.h>
#include <stdint.h>

enum { LONGEST = 15, SHORTEST_REPEAT = 2, START_BITS = 8, STARTS = 1 << START_BITS };

/* A code, ready to be read: the code words of `n` bits end before limit[n] (as a number of LONGEST bits). */
struct code {
  uint32_t limit[LONGEST + 1];
  int32_t first[LONGEST + 1]; /* what to add to a code word of n bits to find its symbol */
  uint8_t start[STARTS];      /* the least length of code words that begin with these bits */
  uint16_t symbols[PACKED_SYMBOLS];
  uint32_t n_symbols;
};

struct reader {
  const unsigned char *at, *end;
  uint32_t held; /* the lowest n_held bits are still to be read */
  unsigned n_held;
  unsigned n_beyond; /* bytes that were read after the end: zeros */
};

static unsigned length_of(const unsigned char *lengths, unsigned symbol) {
  return symbol & 1 ? lengths[symbol / 2] & 15 : lengths[symbol / 2] >> 4;
}

/* (Counted, then sorted: a code is read for each text.) */
static void read_code(struct code *c, const unsigned char *lengths, unsigned n_symbols) {
  uint16_t places[LONGEST + 1] = {0}, counts[LONGEST + 1] = {0};
  uint32_t word = 0, started = 0;
  c->n_symbols = 0;
  for (unsigned symbol = 0; symbol < n_symbols; symbol++) counts[length_of(lengths, symbol)]++;
  for (unsigned n = 1; n <= LONGEST; n++) {
    places[n] = (uint16_t)c->n_symbols;
    c->first[n] = (int32_t)c->n_symbols - (int32_t)word;
    c->n_symbols += counts[n];
    word += counts[n];
    c->limit[n] = word << (LONGEST - n);
    for (; started < STARTS && started << (LONGEST - START_BITS) < c->limit[n]; started++) c->start[started] = (uint8_t)n;
    word <<= 1;
  }
  for (; started < STARTS; started++) c->start[started] = LONGEST;
  for (unsigned symbol = 0; symbol < n_symbols; symbol++) {
    unsigned n = length_of(lengths, symbol);
    if (n > 0) c->symbols[places[n]++] = (uint16_t)symbol;
  }
}

/* The next LONGEST bits. */
static uint32_t look(struct reader *r) {
  while (r->n_held < LONGEST) {
    r->held <<= 8;
    if (r->at < r->end) r->held |= *r->at++; else r->n_beyond++;
    r->n_held += 8;
  }
  return r->held >> (r->n_held - LONGEST) & ((1u << LONGEST) - 1);
}

/* The next symbol; -1: there is none. */
static int next_symbol(struct reader *r, const struct code *c) {
  uint32_t bits = look(r), place;
  unsigned n = c->start[bits >> (LONGEST - START_BITS)];
  while (n <= LONGEST && bits >= c->limit[n]) n++;
  if (n > LONGEST) return -1;
  r->n_held -= n;
  place = (bits >> (LONGEST - n)) + (uint32_t)c->first[n];
  return place < c->n_symbols ? c->symbols[place] : -1;
}

static uint32_t value(struct reader *r, unsigned bucket) {
  unsigned n = bucket / 2 - 1;
  uint32_t bits;
  if (bucket < 4) return bucket;
  bits = look(r) >> (LONGEST - n);
  r->n_held -= n;
  return (2 | (bucket & 1)) << n | bits;
}

int packed_expand(const unsigned char *code, const unsigned char *packed, size_t n, char *out, size_t length) {
  struct reader r = {packed, packed + n, 0, 0, 0};
  struct code symbols, distances;
  size_t at = 0, distance = 0, count;
  read_code(&symbols, code, PACKED_SYMBOLS);
  read_code(&distances, code + PACKED_SYMBOLS / 2, PACKED_DISTANCES);
  while (at < length) {
    int symbol = next_symbol(&r, &symbols);
    if (symbol < 0) return -EINVAL;
    if (symbol < 256) {
      out[at++] = (char)symbol;
      continue;
    }
    count = value(&r, (unsigned)symbol - 256) + SHORTEST_REPEAT;
    symbol = next_symbol(&r, &distances);
    if (symbol < 0) return -EINVAL;
    if (symbol > 0) distance = value(&r, (unsigned)symbol - 1) + 1;
    if (distance == 0 || distance > at || count > length - at) return -EINVAL;
    for (; count > 0; count--, at++) out[at] = out[at - distance];
  }
  return (size_t)(r.at - packed) + r.n_beyond - r.n_held / 8 == n ? 0 : -EINVAL;
}
