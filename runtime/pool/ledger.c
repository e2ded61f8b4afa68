/*
 * pool/ledger -- what was posted, for which call, and what of it is done (may include pool/crew.h and pool/schedule.h).
 *
 * Room: pool.  Owns: entries, calls, and the blocks of input memory that entries use. See pool.h for the contract of the public functions.
 * An *entry* is a piece of posted work. It waits until its lane of the board has a place for it: first what is to be run again, then the
 * backlog, each in order. Then it is active until every item of it is accounted for. A place of the board is free again as soon as nothing
 * of its entry is left to claim; so one long item holds up nobody. Lanes know nothing of each other here; workers look at them in order.
 * A *call* counts what its entries come to, so that no question about one call walks through the entries of others.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "pool/crew.h"
#include "pool/schedule.h"

enum {
  KEEP_CALLS = 64,   /* calls without entries that are remembered, for what is known of their items */
  KEEP_ENTRIES = 256 /* entries whose memory is kept for others */
};

void pool_open_ledger(struct pool *p) {
  enum board_lane lane;
  table_init(&p->entries);
  table_init(&p->calls);
  for (lane = 0; lane < BOARD_LANES; lane++) {
    links_init(&p->lanes[lane].again);
    links_init(&p->lanes[lane].backlog);
    p->lanes[lane].published = p->lanes[lane].seen_front = board_first(lane);
  }
  links_init(&p->active);
  links_init(&p->later);
  links_init(&p->spare);
  links_init(&p->idle_calls);
}

/* ---- calls ---- */

static struct pool_call *find_call(const struct pool *p, uint64_t number) {
  struct table_node *node = table_find(&p->calls, number);
  return node ? OWNER_OF(node, struct pool_call, node) : NULL;
}

static void free_oldest_idle(struct pool *p) {
  struct pool_call *call = OWNER_OF(p->idle_calls.next, struct pool_call, idle);
  links_remove(&call->idle);
  table_take(&p->calls, &call->node);
  p->n_idle_calls--;
  free(call);
}

/* The call is to get an entry. NULL: no memory. */
static struct pool_call *need_call(struct pool *p, uint64_t number) {
  struct pool_call *call = find_call(p, number);
  if (call != NULL) {
    if (!links_are_empty(&call->idle)) p->n_idle_calls--;
    links_remove(&call->idle);
    return call;
  }
  call = calloc(1, sizeof *call);
  if (call == NULL) return NULL;
  call->node.key = number;
  links_init(&call->entries);
  links_init(&call->idle);
  table_put(&p->calls, &call->node);
  return call;
}

/* Has it no entry any more? */
static void rest_call(struct pool *p, struct pool_call *call) {
  if (!links_are_empty(&call->entries)) return;
  links_append(&p->idle_calls, &call->idle);
  if (++p->n_idle_calls > KEEP_CALLS) free_oldest_idle(p);
}

/* ---- entries ---- */

struct pool_entry *pool_entry_of(const struct pool *p, uint64_t sequence) {
  struct table_node *node = table_find(&p->entries, sequence);
  return node ? OWNER_OF(node, struct pool_entry, node) : NULL;
}

struct pool_entry *pool_entry_after(const struct pool *p, const struct pool_entry *entry) {
  struct links *next = entry ? entry->order.next : p->active.next;
  return next == &p->active ? NULL : OWNER_OF(next, struct pool_entry, order);
}

/* Is the place of the entry with this number not another's yet? Those that are apart have none. */
static int has_place(const struct pool *p, uint64_t sequence) {
  return p->lanes[board_lane_of(sequence)].published - sequence <= BOARD_ENTRIES;
}

int pool_has_place(const struct pool *p, const struct pool_entry *entry) {
  return entry->is_active && has_place(p, entry->node.key);
}

static void release_block(struct pool *p, struct pool_block *block) {
  if (block == NULL || --block->users > 0) return;
  if (!p->is_closing) arena_free(&p->arena, block->offset, block->length); /* else it goes as a whole */
  free(block);
}

static struct pool_entry *take_spare(struct pool *p) {
  struct pool_entry *entry;
  if (links_are_empty(&p->spare)) return calloc(1, sizeof *entry);
  entry = OWNER_OF(p->spare.next, struct pool_entry, order);
  links_remove(&entry->order);
  p->n_spare--;
  return entry;
}

static void note_claimed(struct pool_entry *entry) {
  if (entry->is_unclaimed) entry->call->n_unclaimed--;
  entry->is_unclaimed = 0;
}

/* It is neither active nor waiting any more. */
static void free_entry(struct pool *p, struct pool_entry *entry) {
  struct pool_call *call = entry->call;
  if (p->n_waiting + p->entries.count == 0) pool_set_open(p, -1);
  note_claimed(entry);
  if (entry->block) call->in_flight -= entry->block->length;
  release_block(p, entry->block);
  pool_free_errands(entry);
  links_remove(&entry->order);
  links_remove(&entry->own);
  account_clear(&entry->done);
  if (p->n_spare < KEEP_ENTRIES) {
    links_append(&p->spare, &entry->order);
    p->n_spare++;
  } else {
    account_free(&entry->done);
    free(entry);
  }
  rest_call(p, call);
}

/* An entry that waits is not to be. */
static void discard(struct pool *p, struct pool_entry *entry) {
  p->n_waiting--;
  p->n_later -= entry->due_ns != 0;
  free_entry(p, entry);
}

/* A new entry at the end of a `queue` of the lane; on success it is one more user of the block. NULL: no memory. */
static struct pool_entry *add_entry(struct pool *p, enum board_lane lane, struct links *queue, const struct pool_work *work,
                                    struct pool_block *block) {
  struct pool_call *call = need_call(p, work->call);
  struct pool_entry *entry;
  struct account done;
  if (call == NULL) return NULL;
  entry = take_spare(p);
  if (entry == NULL) {
    rest_call(p, call);
    return NULL;
  }
  done = entry->done; /* its memory is used again */
  memset(entry, 0, sizeof *entry);
  entry->done = done;
  entry->call = call;
  entry->work = *work;
  entry->target = work->count;
  entry->lane = lane;
  entry->block = block;
  entry->is_unclaimed = 1;
  call->n_unclaimed++;
  if (block) {
    block->users++;
    call->in_flight += block->length;
  }
  links_append(queue, &entry->order);
  links_init(&entry->own);
  links_append(&call->entries, &entry->own);
  p->n_waiting++;
  if (p->n_waiting + p->entries.count == 1) pool_set_open(p, 1);
  if (work->kind != BOARD_BROADCAST || pool_make_errands(entry) == 0) return entry;
  if (block) block->users++; /* it stays the caller's */
  discard(p, entry);
  if (block) block->users--;
  return NULL;
}

/* Every list that an entry can be in: those that wait first. */
enum { N_LISTS = 2 * BOARD_LANES + 2 };

static void list_all(struct pool *p, struct links *lists[N_LISTS]) {
  enum board_lane lane;
  size_t n = 0;
  lists[n++] = &p->later;
  for (lane = 0; lane < BOARD_LANES; lane++) {
    lists[n++] = &p->lanes[lane].again;
    lists[n++] = &p->lanes[lane].backlog;
  }
  lists[n] = &p->active;
}

void pool_close_ledger(struct pool *p) {
  struct links *lists[N_LISTS];
  size_t i;
  if (p->active.next == NULL) return; /* was never opened */
  list_all(p, lists);
  p->is_closing = 1;
  for (i = 0; i < N_LISTS; i++)
    while (!links_are_empty(lists[i])) free_entry(p, OWNER_OF(lists[i]->next, struct pool_entry, order));
  while (!links_are_empty(&p->spare)) {
    struct pool_entry *entry = take_spare(p);
    account_free(&entry->done);
    free(entry);
  }
  while (!links_are_empty(&p->idle_calls)) free_oldest_idle(p);
  table_free(&p->entries);
  table_free(&p->calls);
}

/* ---- time limits ---- */

static void find_shortest(struct pool *p) {
  struct pool_entry *entry = NULL;
  p->n_shortest = 0;
  while (p->n_timed > 0 && (entry = pool_entry_after(p, entry)) != NULL) {
    int64_t timeout = entry->work.timeout_ns;
    if (timeout <= 0) continue;
    if (p->n_shortest == 0 || timeout < p->shortest_ns) {
      p->shortest_ns = timeout;
      p->n_shortest = 0;
    }
    p->n_shortest += timeout == p->shortest_ns;
  }
}

/* Something is watched by the clock from now on. */
static void begin_limits(struct pool *p) {
  if (pool_has_limits(p)) return;
  p->beat_ns = os_now_ns();
  p->gap_end_ns = 0;
}

static void begin_timed(struct pool *p, int64_t timeout_ns) {
  if (timeout_ns <= 0) return;
  begin_limits(p);
  if (p->n_timed++ == 0 || timeout_ns < p->shortest_ns) {
    p->shortest_ns = timeout_ns;
    p->n_shortest = 0;
  }
  p->n_shortest += timeout_ns == p->shortest_ns;
}

static void end_timed(struct pool *p, int64_t timeout_ns) {
  if (timeout_ns <= 0) return;
  p->n_timed--;
  if (timeout_ns == p->shortest_ns && --p->n_shortest == 0) find_shortest(p);
}

/* ---- the board's places ---- */

/* Where the workers are: entries below have nothing left to claim. Workers move it on when they look for work; so do we. */
static uint64_t move_front(struct pool *p, enum board_lane number) {
  struct pool_lane *lane = &p->lanes[number];
  _Atomic uint64_t *word = &p->board->front[number];
  uint64_t front = atomic_load_explicit(word, memory_order_acquire);
  while (front < lane->published) {
    struct board_entry *e = board_entry(p->board, front);
    if ((atomic_load_explicit(&e->cursor, memory_order_acquire) & BOARD_MAX_ITEMS) < e->count) break;
    if (atomic_compare_exchange_strong_explicit(word, &front, front + 1, memory_order_acq_rel, memory_order_acquire)) front++;
  }
  for (; lane->seen_front < front; lane->seen_front++) {
    struct pool_entry *entry = pool_entry_of(p, lane->seen_front);
    if (entry != NULL) note_claimed(entry);
  }
  return front;
}

static int has_room(struct pool *p, enum board_lane lane) {
  return p->lanes[lane].published - move_front(p, lane) < BOARD_ENTRIES;
}

uint32_t pool_can_post(struct pool *p) {
  return p->n_waiting > 0 ? 0 : (uint32_t)(BOARD_ENTRIES - (p->lanes[BOARD_NORMAL].published - move_front(p, BOARD_NORMAL)));
}

static uint64_t claimable_in(struct pool *p, enum board_lane lane, uint64_t most) {
  uint64_t sequence, claims = 0;
  for (sequence = move_front(p, lane); sequence < p->lanes[lane].published && claims < most; sequence++) {
    struct board_entry *e = board_entry(p->board, sequence);
    uint64_t next = atomic_load_explicit(&e->cursor, memory_order_relaxed) & BOARD_MAX_ITEMS;
    uint64_t item_ns = atomic_load_explicit(&e->item_ns, memory_order_relaxed);
    if (next < e->count) claims += e->kind == BOARD_INDEXED ? schedule_takers(e->count - next, item_ns) : 1;
  }
  return claims;
}

uint32_t pool_claimable(struct pool *p, uint32_t most) {
  enum board_lane lane;
  uint64_t claims = 0;
  for (lane = 0; lane < BOARD_LANES && claims < most; lane++) claims += claimable_in(p, lane, most - claims);
  return claims < most ? (uint32_t)claims : most;
}

/* How many workers have something to do: one for each block that waits, all of them for an open range. */
static uint64_t wanted_workers(const struct pool *p, const struct pool_work *work) {
  uint64_t waiting = work->kind == BOARD_INDEXED ? work->count : 0;
  enum board_lane lane;
  for (lane = 0; lane < BOARD_LANES; lane++) waiting += p->lanes[lane].published - p->lanes[lane].seen_front;
  return waiting;
}

/* Is there something of a lower priority, that somebody may be at? */
static int is_ahead(const struct pool *p, enum board_lane lane) {
  enum board_lane other;
  for (other = lane + 1; other < BOARD_LANES; other++)
    if (p->lanes[other].n_active > 0 && board_precedes(lane, other)) return 1;
  return 0;
}

/* An entry that waits is active from now on, under this number. */
static void begin_entry(struct pool *p, struct pool_entry *entry, uint64_t sequence) {
  p->n_waiting--;
  links_remove(&entry->order);
  links_append(&p->active, &entry->order);
  entry->is_active = 1;
  entry->node.key = sequence;
  table_put(&p->entries, &entry->node);
}

void pool_describe(const struct pool_entry *entry, struct board_entry *e) {
  const struct pool_work *work = &entry->work;
  const struct pool_block *block = entry->block;
  atomic_store_explicit(&e->item_ns, work->item_ns, memory_order_relaxed);
  e->kind = work->kind;
  e->flags = work->flags | (work->timeout_ns > 0 ? BOARD_HAS_TIMEOUT : 0);
  e->chunk = work->chunk;
  e->call = work->call;
  e->first = work->first;
  e->count = work->count;
  e->memory_bytes = work->memory_bytes;
  e->job = work->job;
  e->job_offset = work->job_offset;
  e->job_length = work->job_length;
  e->block_offset = block ? block->offset : 0;
  e->block_length = block ? block->length : 0;
  e->block_skip = block && work->kind == BOARD_BLOCK ? work->first - block->first : 0;
}

/* Give an entry that waits its place. There is one. */
static void activate(struct pool *p, struct pool_entry *entry) {
  struct pool_lane *lane = &p->lanes[entry->lane];
  uint64_t sequence = lane->published;
  struct board_entry *e = board_entry(p->board, sequence);
  begin_entry(p, entry, sequence);
  lane->n_active++;
  pool_describe(entry, e);
  FAULT_POINT("dispatch_before");
  atomic_store_explicit(&e->cursor, board_cursor(sequence, 0), memory_order_release);
  lane->published++;
  begin_timed(p, entry->work.timeout_ns);
  atomic_store(&p->board->published[entry->lane], lane->published);
  FAULT_POINT("dispatch_mid");
  if (is_ahead(p, entry->lane)) pool_make_way(p, entry->lane);
  pool_wake(p, wanted_workers(p, &entry->work));
}

/* A broadcast needs no place. */
static void activate_apart(struct pool *p, struct pool_entry *entry) {
  begin_entry(p, entry, BOARD_APART | ++p->n_broadcasts);
  note_claimed(entry);
  begin_timed(p, entry->work.timeout_ns);
  pool_send_errands(p, entry);
}

/* ---- what waits for its time ---- */

/* It is nothing that a worker could claim: a lazy source need not wait for it. */
static void put_off(struct pool *p, struct pool_entry *entry, int64_t due_ns) {
  struct links *at = &p->later;
  while (at->previous != &p->later && OWNER_OF(at->previous, struct pool_entry, order)->due_ns > due_ns) at = at->previous;
  links_remove(&entry->order);
  links_append(at, &entry->order); /* before `at` */
  note_claimed(entry);
  entry->due_ns = due_ns;
  p->n_later++;
}

int64_t pool_next_due(const struct pool *p) {
  return p->n_later ? OWNER_OF(p->later.next, struct pool_entry, order)->due_ns : -1;
}

static void take_due(struct pool *p) {
  int64_t now = os_now_ns();
  while (p->n_later && pool_next_due(p) <= now) {
    struct pool_entry *entry = OWNER_OF(p->later.next, struct pool_entry, order);
    links_remove(&entry->order);
    links_append(&p->lanes[entry->lane].again, &entry->order);
    entry->due_ns = 0;
    entry->is_unclaimed = 1;
    entry->call->n_unclaimed++;
    p->n_later--;
  }
}

void pool_publish(struct pool *p) {
  struct pool_lane *lane;
  if (p->n_later) take_due(p);
  for (lane = p->lanes; lane < p->lanes + BOARD_LANES && p->n_waiting > p->n_later; lane++) {
    struct links *queue;
    while ((queue = links_are_empty(&lane->again) ? &lane->backlog : &lane->again), !links_are_empty(queue)) {
      if (!has_room(p, (enum board_lane)(lane - p->lanes))) break;
      activate(p, OWNER_OF(queue->next, struct pool_entry, order));
    }
  }
}

static enum board_lane lane_of(enum pool_priority priority) {
  return priority == POOL_HIGH ? BOARD_HIGH : priority == POOL_LOW ? BOARD_LOW : BOARD_NORMAL;
}

int pool_post(struct pool *p, const struct pool_work *work) {
  struct pool_block *block = NULL;
  struct pool_entry *entry;
  if (work->count == 0 || work->count > BOARD_MAX_ITEMS || work->priority > POOL_LOW) return -EINVAL;
  if (work->kind == BOARD_BROADCAST && (work->first >= p->n_wanted || work->count > p->n_wanted - work->first)) return -EINVAL;
  if (work->kind == BOARD_BLOCK || (work->kind == BOARD_BROADCAST && work->block_length > 0)) {
    block = malloc(sizeof *block);
    if (block == NULL) return -ENOMEM;
    *block = (struct pool_block){work->block_offset, work->block_length, work->first, 0};
  }
  entry = add_entry(p, lane_of(work->priority), &p->lanes[lane_of(work->priority)].backlog, work, block);
  if (entry == NULL) {
    free(block);
    return -ENOMEM;
  }
  if (work->kind == BOARD_BROADCAST) activate_apart(p, entry);
  pool_publish(p);
  return 0;
}

static int post_again(struct pool *p, const struct pool_entry *entry, enum board_lane lane, uint64_t first, uint64_t count,
                      int64_t due_ns) {
  struct pool_work work = entry->work;
  uint64_t item_ns = pool_item_ns(p, work.call);
  struct pool_entry *again;
  work.first = first;
  work.count = count;
  if (item_ns) work.item_ns = item_ns; /* known by now */
  again = add_entry(p, lane, &p->lanes[lane].again, &work, entry->block);
  if (again == NULL) return -ENOMEM;
  if (work.kind == BOARD_BROADCAST) {
    activate_apart(p, again);
  } else if (due_ns) {
    put_off(p, again, due_ns);
  }
  return 0;
}

int pool_post_again(struct pool *p, const struct pool_entry *entry, uint64_t first, uint64_t count, int64_t due_ns) {
  return post_again(p, entry, lane_of(entry->work.priority), first, count, due_ns);
}

/* ---- what is done ---- */

/* How long its items take, by the workers' measure. */
static void learn(struct pool *p, struct pool_entry *entry) {
  uint64_t item_ns;
  if (!pool_has_place(p, entry)) return;
  item_ns = atomic_load_explicit(&board_entry(p->board, entry->node.key)->item_ns, memory_order_relaxed);
  if (item_ns) entry->call->item_ns = item_ns;
  entry->call->heard_of = entry->node.key;
  entry->call->has_heard = 1;
}

static void release_entry(struct pool *p, struct pool_entry *entry) {
  end_timed(p, entry->work.timeout_ns);
  p->lanes[entry->lane].n_active -= entry->work.kind != BOARD_BROADCAST;
  p->n_cancelled -= entry->is_cancelled;
  entry->call->n_cancelled -= entry->is_cancelled;
  table_take(&p->entries, &entry->node);
  free_entry(p, entry);
}

int pool_settle(struct pool *p, struct pool_entry *entry, uint64_t first, uint64_t count) {
  const struct pool_work *work = &entry->work;
  int status;
  if (first < work->first || count > work->count || first - work->first > work->count - count) return -EBADMSG;
  status = account_add(&entry->done, first, first + count);
  if (status == -EEXIST) return -EBADMSG;
  if (status < 0) {
    p->is_broken = status;
    return status;
  }
  learn(p, entry);
  if (work->kind == BOARD_BROADCAST) pool_errand_is_done(p, entry, first);
  if (entry->done.total == entry->target) release_entry(p, entry);
  return 0;
}

void pool_move_items(struct pool *p, struct pool_entry *entry, uint64_t first, uint64_t count) {
  if (!entry->is_cancelled && entry->work.kind == BOARD_BROADCAST) {
    pool_errand_again(p, entry, first); /* it has not left that entry: there is somebody else in its worker's place, or will be */
    return;
  }
  if (!entry->is_cancelled && !entry->is_drained && post_again(p, entry, board_returned(entry->lane), first, count, 0) < 0) {
    p->is_broken = -ENOMEM;
    return;
  }
  (void)pool_settle(p, entry, first, count);
}

/* ---- cancelling ---- */

/* Take away what is left of an active entry, so that nobody claims from it any more. Returns how many items were claimed before. */
static uint64_t exhaust(struct pool *p, struct pool_entry *entry) {
  struct board_entry *e;
  uint64_t cursor;
  if (!pool_has_place(p, entry)) return entry->work.count;
  e = board_entry(p->board, entry->node.key);
  cursor = atomic_load(&e->cursor);
  while (!atomic_compare_exchange_weak(&e->cursor, &cursor, (cursor & ~BOARD_MAX_ITEMS) | e->count)) {
  }
  return cursor & BOARD_MAX_ITEMS;
}

static void cancel_entry(struct pool *p, struct pool_entry *entry, int64_t kill_at_ns) {
  if (!entry->is_active) {
    discard(p, entry);
    return;
  }
  if (entry->is_cancelled) {
    if (kill_at_ns >= 0 && (entry->kill_at_ns < 0 || kill_at_ns < entry->kill_at_ns)) entry->kill_at_ns = kill_at_ns;
    return;
  }
  begin_limits(p);
  note_claimed(entry);
  p->n_cancelled++;
  entry->call->n_cancelled++;
  entry->is_cancelled = 1;
  entry->kill_at_ns = kill_at_ns;
  if (!entry->is_drained)
    entry->target = entry->work.kind == BOARD_BROADCAST ? entry->work.count - pool_withdraw_errands(p, entry) : exhaust(p, entry);
  /* Items that were moved to other entries count as done, and were claimed: there cannot be more of them than that. */
  if (entry->done.total == entry->target) release_entry(p, entry);
}

/* As the entries of a call go, it may become idle; it is not forgotten as long as others have been idle for longer. */
static void cancel_call(struct pool *p, struct pool_call *call, int64_t kill_at_ns) {
  struct links *link, *next;
  for (link = call->entries.next; link != &call->entries; link = next) {
    next = link->next;
    cancel_entry(p, OWNER_OF(link, struct pool_entry, own), kill_at_ns);
  }
}

void pool_cancel(struct pool *p, uint64_t number, int64_t kill_at_ns) {
  struct pool_call *call = find_call(p, number);
  if (call == NULL) return;
  cancel_call(p, call, kill_at_ns);
  pool_watch_cancelled(p, 0);
}

/* Tell whoever has a claim of the call that only the item that runs is wanted. Somebody who is just claiming does all of that claim. */
static void stop_claims(struct pool *p, uint64_t number) {
  uint32_t i;
  for (i = 0; i < p->n_places; i++) {
    struct board_slot *slot = &p->board->slots[i];
    uint32_t claims = atomic_load(&slot->claims);
    const struct pool_entry *state;
    if (p->crew[i].state != CREW_LIVING || atomic_load(&slot->phase) != BOARD_OWNING) continue;
    state = pool_entry_of(p, atomic_load(&slot->entry));
    if (state != NULL && state->work.call == number) atomic_store(&slot->stopped_claim, claims); /* of a later one it says nothing */
  }
}

void pool_drain(struct pool *p, uint64_t number) {
  struct pool_call *call = find_call(p, number);
  struct links *link, *next;
  for (link = call ? call->entries.next : NULL; link != NULL && link != &call->entries; link = next) {
    struct pool_entry *entry = OWNER_OF(link, struct pool_entry, own);
    next = link->next;
    if (!entry->is_active) {
      discard(p, entry);
    } else if (!entry->is_cancelled && !entry->is_drained && entry->work.kind != BOARD_BROADCAST) {
      note_claimed(entry);
      entry->is_drained = 1;
      entry->target = exhaust(p, entry);
      if (entry->done.total == entry->target) release_entry(p, entry);
    }
  }
  stop_claims(p, number);
}

int pool_is_drained(const struct pool *p, uint64_t number) {
  const struct pool_call *call = find_call(p, number);
  return call == NULL || links_are_empty(&call->entries);
}

void pool_cancel_all(struct pool *p) {
  struct links *lists[N_LISTS], *link, *next;
  size_t i;
  list_all(p, lists);
  for (i = 0; i < N_LISTS; i++)
    for (link = lists[i]->next; link != lists[i]; link = next) {
      next = link->next;
      cancel_entry(p, OWNER_OF(link, struct pool_entry, order), -1);
    }
}

int pool_is_quiet(const struct pool *p, uint64_t number) {
  const struct pool_call *call;
  if (number == 0) return p->n_cancelled == 0;
  call = find_call(p, number);
  return call == NULL || call->n_cancelled == 0;
}

void pool_kill_stragglers(struct pool *p, uint64_t number) {
  struct pool_entry *entry = NULL;
  while (p->n_cancelled > 0 && (entry = pool_entry_after(p, entry)) != NULL)
    if (entry->is_cancelled && (number == 0 || entry->work.call == number)) entry->kill_at_ns = 0;
  pool_watch_cancelled(p, 0);
}

/* ---- what is known of a call ---- */

uint64_t pool_item_ns(const struct pool *p, uint64_t number) {
  const struct pool_call *call = find_call(p, number);
  uint64_t item_ns = 0;
  if (call == NULL) return 0;
  if (call->has_heard && has_place(p, call->heard_of)) /* the place is still that entry's: there may be later news */
    item_ns = atomic_load_explicit(&board_entry(p->board, call->heard_of)->item_ns, memory_order_relaxed);
  return item_ns ? item_ns : call->item_ns;
}

uint32_t pool_unclaimed(struct pool *p, uint64_t number) {
  const struct pool_call *call = find_call(p, number);
  enum board_lane lane;
  if (call == NULL) return 0;
  for (lane = 0; lane < BOARD_LANES; lane++) (void)move_front(p, lane);
  return call->n_unclaimed;
}

uint64_t pool_in_flight(const struct pool *p, uint64_t number) {
  const struct pool_call *call = find_call(p, number);
  return call ? call->in_flight : 0;
}

uint64_t pool_done_below(struct pool *p, uint64_t number) {
  const struct pool_call *call = find_call(p, number);
  uint64_t lowest = UINT64_MAX;
  struct links *link;
  for (link = call ? call->entries.next : NULL; link != NULL && link != &call->entries; link = link->next) {
    const struct pool_entry *entry = OWNER_OF(link, struct pool_entry, own);
    const struct pool_work *work = &entry->work;
    struct account_interval gap;
    if (entry->is_cancelled || work->first >= lowest) continue;
    if (account_gap(&entry->done, work->first, work->first + work->count, &gap)) lowest = gap.begin;
  }
  return lowest;
}
