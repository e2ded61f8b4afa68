/*
 * pool/pause -- time in which nobody ran counts against no item (may include pool/crew.h).
 *
 * Room: pool.  Owns: the pool's beats. A process that is stopped (Ctrl-Z, then fg) is not told how long that lasted. So the host, as
 * long as there are time limits (of items, of those who were asked to stop), notes when it looks at the clock (a beat), and takes note
 * of a gap: more time between two beats than it meant to sleep.
 *   A gap in our own sleep: we were not run although we had asked for it: stopped, frozen, or the machine was overloaded. Forgiven.
 *   A gap elsewhere: the caller may as well have been busy, or waiting for something of its own while the workers ran on. Workers that
 *   were stopped tell so: their handler of SIGCONT notes when they went on. Only to these it is forgiven, from the beginning of the gap
 *   to that moment. As they may come to it a little after us, the gap is settled SETTLE_NS later; until then no time limit is judged
 *   by a later clock than the beginning of the gap. The next gap of that kind cannot begin before the last one is settled.
 */
#include "pool/crew.h"

enum { SLEPT_TOO_LONG_NS = 100 * 1000000, SETTLE_NS = 250 * 1000000 };

/* Move the start of what runs. By compare-and-swap, so that the start of a new item is never overwritten. */
static void forgive_worker(struct crew *crew, struct board_slot *slot, int64_t begin, int64_t end) {
  int64_t started = atomic_load(&slot->item_started_ns), from = started > begin ? started : begin;
  if (crew->is_asked && crew->asked_at_ns <= begin) crew->asked_at_ns += end - begin;
  if (started != 0 && from < end) (void)atomic_compare_exchange_strong(&slot->item_started_ns, &started, started + (end - from));
}

/* Who was asked to stop then has the more time for it. */
static void forgive_cancelled(struct pool *p, int64_t begin, int64_t end) {
  struct pool_entry *entry = NULL;
  while (p->n_cancelled > 0 && (entry = pool_entry_after(p, entry)) != NULL)
    if (entry->is_cancelled && entry->kill_at_ns > begin) entry->kill_at_ns += end - begin;
}

/* Nobody ran in [begin, end). With `is_doubtful`: those who were stopped in it did not. */
static void forgive(struct pool *p, int64_t begin, int64_t end, int is_doubtful) {
  uint32_t i, forgiven = 0;
  for (i = 0; i < p->n_places; i++) {
    int64_t continued = atomic_load(&p->board->slots[i].continued_ns), until = end;
    if (p->crew[i].state != CREW_LIVING) continue;
    if (is_doubtful && continued < begin) continue;
    if (is_doubtful && continued < end) until = continued;
    forgive_worker(&p->crew[i], &p->board->slots[i], begin, until);
    forgiven++;
  }
  if (forgiven) forgive_cancelled(p, begin, end);
}

int64_t pool_beat(struct pool *p, int64_t planned_ns) {
  int64_t now = os_now_ns(), gap = now - p->beat_ns - planned_ns;
  if (p->gap_end_ns && now - p->gap_end_ns >= SETTLE_NS) {
    forgive(p, p->gap_begin_ns, p->gap_end_ns, 1);
    p->gap_end_ns = 0;
  }
  if (planned_ns > 0 && gap > SLEPT_TOO_LONG_NS) {
    forgive(p, now - gap, now, 0);
  } else if (planned_ns == 0 && gap > SETTLE_NS) {
    p->gap_begin_ns = p->beat_ns;
    p->gap_end_ns = now;
  }
  p->beat_ns = now;
  return now;
}

int64_t pool_judged_ns(const struct pool *p, int64_t now) {
  return p->gap_end_ns ? p->gap_begin_ns : now;
}

int64_t pool_settled_ns(const struct pool *p) {
  return p->gap_end_ns ? p->gap_end_ns + SETTLE_NS : -1;
}
