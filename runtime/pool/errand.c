/*
 * pool/errand -- what one worker is to do and nobody else: the items of broadcasts (may include pool/crew.h).
 *
 * Room: pool.  Owns: the errands of an entry. Each worker has a list of them; the first one is on the board, in the worker's own slot (its
 * summons), for as long as that worker lives. It is in nobody's way and needs no place among the entries.
 * An errand leaves the list when its item is settled, or when it is withdrawn. So it does not matter at which moment a worker dies: if its
 * item was neither reported nor blamed on anybody by then, it is still there for the next worker in that place.
 */
#include <errno.h>
#include <stdlib.h>

#include "pool/crew.h"

int pool_make_errands(struct pool_entry *entry) {
  uint64_t i, count = entry->work.count;
  entry->errands = calloc((size_t)count, sizeof *entry->errands);
  if (entry->errands == NULL) return -ENOMEM;
  for (i = 0; i < count; i++) {
    links_init(&entry->errands[i].link);
    entry->errands[i].entry = entry;
    entry->errands[i].number = (uint32_t)(entry->work.first + i);
  }
  return 0;
}

void pool_send_errands(struct pool *p, struct pool_entry *entry) {
  uint64_t i;
  for (i = 0; i < entry->work.count; i++) {
    struct pool_errand *errand = &entry->errands[i];
    links_append(&p->crew[errand->number].errands, &errand->link);
    pool_summon(p, errand->number);
  }
}

void pool_summon(struct pool *p, uint32_t number) {
  struct crew *crew = &p->crew[number];
  struct board_slot *slot = &p->board->slots[number];
  if (crew->state != CREW_LIVING || crew->summoned != NULL || links_are_empty(&crew->errands)) return;
  crew->summoned = OWNER_OF(crew->errands.next, struct pool_errand, link);
  pool_describe(crew->summoned->entry, &slot->order);
  atomic_store(&slot->summons, crew->summoned->entry->node.key);
  if (atomic_load(&slot->phase) == BOARD_PARKED) os_bell_ring(&crew->bell);
}

void pool_is_dismissed(struct pool *p, uint32_t number) {
  struct pool_errand *errand = p->crew[number].summoned;
  p->crew[number].summoned = NULL;
  if (errand != NULL && errand->entry->is_cancelled) (void)pool_settle(p, errand->entry, errand->number, 1);
}

static void remove_errand(struct pool *p, struct pool_errand *errand) {
  struct crew *crew = &p->crew[errand->number];
  links_remove(&errand->link);
  if (crew->summoned != errand) return;
  crew->summoned = NULL;
  pool_summon(p, errand->number);
}

static struct pool_errand *errand_of(const struct pool_entry *entry, uint64_t item) {
  return &entry->errands[item - entry->work.first];
}

void pool_errand_is_done(struct pool *p, struct pool_entry *entry, uint64_t item) {
  remove_errand(p, errand_of(entry, item));
}

/* Its worker lives, but has given it up; or it is dead, then its successor will be summoned. */
void pool_errand_again(struct pool *p, struct pool_entry *entry, uint64_t item) {
  struct pool_errand *errand = errand_of(entry, item);
  struct crew *crew = &p->crew[errand->number];
  if (crew->summoned != errand) return;
  crew->summoned = NULL;
  pool_summon(p, errand->number);
}

uint64_t pool_withdraw_errands(struct pool *p, struct pool_entry *entry) {
  uint64_t i, count = 0;
  for (i = 0; i < entry->work.count; i++) {
    struct pool_errand *errand = &entry->errands[i];
    struct crew *crew = &p->crew[errand->number];
    struct board_slot *slot = &p->board->slots[errand->number];
    uint64_t key = entry->node.key;
    if (links_are_empty(&errand->link)) continue; /* done */
    if (crew->summoned == errand && !atomic_compare_exchange_strong(&slot->summons, &key, 0)) continue; /* taken */
    remove_errand(p, errand);
    count++;
  }
  return count;
}

void pool_free_errands(struct pool_entry *entry) {
  uint64_t i;
  for (i = 0; entry->errands && i < entry->work.count; i++) links_remove(&entry->errands[i].link);
  free(entry->errands);
  entry->errands = NULL;
}
