/* pool/schedule -- see schedule.h. */
#include "pool/schedule.h"

enum {
  CLAIM_TARGET_NS = 1000 * 1000, /* a claim should take about this long: frames cost a thousandth of it, a wrong guess little */
  SHARES_PER_WORKER = 3,         /* what is left is cut into so many claims for each worker */
  GUESS_CAUTION = 4,             /* what was true of the last call's items may not be of this one's: claims begin so much smaller */
  AT_ONCE_NS = 10 * 1000,        /* what takes less is done before somebody who sleeps is awake */
  FIRST_BLOCK_ITEMS = 1,
  AHEAD_NS = 8 * 1000 * 1000,    /* a stream has this much work for each worker ahead of its consumer, */
  AHEAD_ITEMS = 4,               /* or so many items or chunks for each while no time is known and when they are long, */
  AHEAD_MOST = 1 << 20,          /* but not more items than this in all */
  UNKNOWN_BLOCK_ITEMS = 64       /* while no time is known, a block grows to this at most */
};

#define LONGEST_DELAY_NS (3600 * INT64_C(1000000000))

static uint64_t at_least_one(uint64_t n) {
  return n ? n : 1;
}

static uint64_t by_time(uint64_t item_ns) {
  return at_least_one(CLAIM_TARGET_NS / at_least_one(item_ns));
}

uint64_t schedule_claim(uint64_t left, uint32_t workers, uint64_t item_ns, uint32_t chunk) {
  uint64_t share, timed;
  if (chunk) return chunk < left ? chunk : left;
  if (item_ns == 0) return 1;
  share = at_least_one(left / ((uint64_t)workers * SHARES_PER_WORKER));
  timed = by_time(item_ns);
  return share < timed ? share : timed;
}

uint64_t schedule_item_ns(uint64_t before, uint64_t items, int64_t elapsed_ns) {
  uint64_t now;
  if (items == 0) return before;
  now = at_least_one((uint64_t)(elapsed_ns > 0 ? elapsed_ns : 0) / items);
  if (before == 0) return now;
  /*
   * Believe a slower item at once (its like may follow), a faster one by and by, unless it is far off: the first item of a run
   * pays for cold caches.
   */
  if (now >= before || now < before / 8) return now;
  return at_least_one((before + now) / 2);
}

uint64_t schedule_first_guess(uint64_t item_ns) {
  return item_ns < UINT64_MAX / GUESS_CAUTION ? item_ns * GUESS_CAUTION : item_ns;
}

uint64_t schedule_takers(uint64_t left, uint64_t item_ns) {
  return left > 1 && item_ns && left <= AT_ONCE_NS / item_ns ? 1 : left;
}

uint64_t schedule_block(uint64_t left, uint64_t written, uint32_t workers, uint64_t item_ns, uint32_t chunk) {
  uint64_t size;
  if (left == 0) return 0;
  if (chunk) return chunk < left ? chunk : left;
  if (item_ns) {
    size = by_time(item_ns);
  } else {
    size = written / at_least_one((uint64_t)workers * 2);
    if (size < FIRST_BLOCK_ITEMS) size = FIRST_BLOCK_ITEMS;
    if (size > UNKNOWN_BLOCK_ITEMS) size = UNKNOWN_BLOCK_ITEMS;
  }
  if (left != UINT64_MAX) {
    uint64_t share = at_least_one(left / ((uint64_t)workers * SHARES_PER_WORKER));
    if (share < size) size = share;
  }
  return size < left ? size : left;
}

uint32_t schedule_window(uint32_t workers) {
  uint64_t window = (uint64_t)workers * 3 + 1;
  return window > 512 ? 512 : (uint32_t)window;
}

uint64_t schedule_ahead(uint32_t workers, uint64_t item_ns, uint32_t chunk) {
  uint64_t least = AHEAD_ITEMS * (uint64_t)(chunk ? chunk : 1), each = item_ns ? AHEAD_NS / item_ns : UNKNOWN_BLOCK_ITEMS, all;
  if (each < least) each = least;
  all = each * workers;
  return all > AHEAD_MOST && AHEAD_MOST > least * workers ? AHEAD_MOST : all;
}

uint32_t schedule_spinners(uint32_t cpus, uint32_t busy) {
  return cpus > busy ? cpus - busy : 0;
}

int schedule_retry(uint32_t tries, uint32_t retries) {
  return tries <= retries;
}

int64_t schedule_delay_ns(uint32_t tries, int64_t first_ns) {
  int64_t delay = first_ns;
  while (--tries > 0 && delay < LONGEST_DELAY_NS / 2) delay *= 2;
  return delay;
}

int schedule_gives_up(uint32_t failed_starts, uint32_t workers) {
  return failed_starts >= 3 && failed_starts >= 2 * workers;
}
