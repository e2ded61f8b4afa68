/*
 * pool/tally -- what the workers came to: counts and times, of one place or of all (may include pool/crew.h).
 *
 * Room: pool.  Owns: nothing.  Workers count in their slots of the board; the host adds what a dead one could not. Places keep what all who
 * were there came to, so that no death and no replacement loses anything.
 */
#include <string.h>

#include "pool/crew.h"

void pool_set_open(struct pool *p, int change) {
  struct board *b = p->board;
  uint32_t before = p->n_open;
  p->n_open += (uint32_t)change;
  if (p->is_closing || (before > 0) == (p->n_open > 0)) return;
  if (p->n_open > 0) {
    atomic_store(&b->open_since_ns, os_now_ns());
  } else {
    int64_t now = os_now_ns(), open = board_open_ns(b, now);
    atomic_store(&b->open_since_ns, 0);
    atomic_store(&b->open_before_ns, open);
  }
}

int64_t pool_open_ns(const struct pool *p) {
  return board_open_ns(p->board, os_now_ns());
}

/* What of its time a worker has not counted yet. */
static void add_current(const struct pool *p, const struct board_slot *slot, struct pool_worker_info *info) {
  int64_t turned = atomic_load(&slot->turned_ns), mark = atomic_load(&slot->open_mark_ns), now = os_now_ns();
  if (turned == 0 || now <= turned) return;
  if (info->phase == BOARD_OWNING) {
    info->busy_ns += now - turned;
  } else {
    info->idle_ns += board_open_part(p->board, turned, mark, now);
  }
}

static void read_counts(const struct crew *crew, const struct board_slot *slot, struct pool_worker_info *info) {
  info->items = crew->items;
  info->claims = atomic_load(&slot->claims_done);
  info->bytes = atomic_load(&slot->bytes_sent);
  info->peak_bytes = atomic_load(&slot->peak_bytes);
  info->busy_ns = atomic_load(&slot->busy_ns);
  info->encode_ns = atomic_load(&slot->encode_ns);
  info->wait_ns = atomic_load(&slot->wait_ns);
  info->idle_ns = atomic_load(&slot->idle_ns);
}

static double value_of(const _Atomic uint64_t *word) {
  uint64_t bits = atomic_load(word);
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static void read_present(const struct pool *p, const struct board_slot *slot, struct pool_worker_info *info) {
  const struct pool_entry *entry = pool_entry_of(p, atomic_load(&slot->entry));
  int64_t started = atomic_load(&slot->item_started_ns);
  info->call = entry ? entry->work.call : 0;
  info->item = atomic_load(&slot->item);
  info->since_ns = started ? started : atomic_load(&slot->turned_ns);
  info->progress_done = value_of(&slot->progress_done);
  info->progress_total = value_of(&slot->progress_total);
}

void pool_info(const struct pool *p, uint32_t number, struct pool_worker_info *info) {
  memset(info, 0, sizeof *info);
  info->item = UINT64_MAX;
  if (number >= p->n_made) return;
  read_counts(&p->crew[number], &p->board->slots[number], info);
  if (p->crew[number].state != CREW_LIVING) return;
  info->pid = (int)p->crew[number].process.pid;
  info->phase = atomic_load(&p->board->slots[number].phase);
  add_current(p, &p->board->slots[number], info);
  if (info->phase == BOARD_OWNING) read_present(p, &p->board->slots[number], info);
}

int64_t pool_rests_since(const struct pool *p, uint32_t number) {
  const struct board_slot *slot = &p->board->slots[number];
  int64_t turned;
  if (number >= p->n_made || p->crew[number].state != CREW_LIVING) return 0;
  turned = atomic_load(&slot->turned_ns);
  return atomic_load(&slot->phase) == BOARD_OWNING ? 0 : turned;
}

void pool_totals(const struct pool *p, struct pool_worker_info *sum) {
  struct pool_worker_info one;
  uint32_t i;
  memset(sum, 0, sizeof *sum);
  sum->item = UINT64_MAX;
  for (i = 0; i < p->n_made; i++) {
    pool_info(p, i, &one);
    sum->pid += one.pid != 0;
    sum->items += one.items;
    sum->claims += one.claims;
    sum->bytes += one.bytes;
    sum->busy_ns += one.busy_ns;
    sum->encode_ns += one.encode_ns;
    sum->wait_ns += one.wait_ns;
    sum->idle_ns += one.idle_ns;
    if (one.peak_bytes > sum->peak_bytes) sum->peak_bytes = one.peak_bytes;
  }
}

void pool_tally_dead(struct pool *p, uint32_t number) {
  struct board_slot *slot = &p->board->slots[number];
  struct pool_worker_info info;
  read_counts(&p->crew[number], slot, &info);
  info.phase = atomic_load(&slot->phase);
  add_current(p, slot, &info);
  atomic_store(&slot->turned_ns, 0);
  atomic_store(&slot->busy_ns, info.busy_ns);
  atomic_store(&slot->idle_ns, info.idle_ns);
  if (p->crew[number].end.max_rss_bytes > info.peak_bytes) atomic_store(&slot->peak_bytes, p->crew[number].end.max_rss_bytes);
}
