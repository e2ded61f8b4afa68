/*
 * pool/watch -- who is over his time: items with a time limit, and those who were asked to stop (may include pool/crew.h).
 *
 * Room: pool.  Owns: nothing.  Everything here is looked at from time to time, by the clock that pause.c keeps.
 */
#include "pool/crew.h"
#include "process/interrupt.h"

enum { LOOK_EVERY_NS = 5 * 1000000, LOOK_SOON_NS = 1000000 };

/*
 * When must worker `number` be looked at again? -1: never. With `act`, does what is due at `now` (see pool_judged_ns).
 */
static int64_t watch_worker(struct pool *p, uint32_t number, int64_t now, int act) {
  struct crew *crew = &p->crew[number];
  struct board_slot *slot = &p->board->slots[number];
  struct pool_entry *state;
  uint32_t claims = atomic_load(&slot->claims);
  uint64_t item;
  int64_t started, due;
  if (crew->state != CREW_LIVING || atomic_load(&slot->phase) != BOARD_OWNING) return -1;
  state = pool_entry_of(p, atomic_load(&slot->entry));
  if (state == NULL || state->is_cancelled || state->work.timeout_ns <= 0) return -1;
  item = atomic_load(&slot->item);
  started = atomic_load(&slot->item_started_ns);
  if (started == 0 || item != atomic_load(&slot->item) || claims != atomic_load(&slot->claims)) return now + state->work.timeout_ns;
  if (crew->is_asked == INTERRUPT_TIMEOUT && crew->asked_claims == claims && crew->asked_item == item) {
    due = crew->asked_at_ns + p->grace_ns;
    if (act && now >= due && crew->reason == 0) {
      crew->reason = INTERRUPT_TIMEOUT;
      pool_kill_worker(p, number, claims, item);
    }
    return due > now ? due : now + LOOK_EVERY_NS;
  }
  due = started + state->work.timeout_ns;
  if (now < due || !act) return due;
  pool_command(p, number, INTERRUPT_TIMEOUT, claims, item);
  return now + p->grace_ns;
}

/* As watch_worker, for one that may be in a cancelled entry: it is asked to stop, once for each claim, and killed when its time is over. */
static int64_t watch_cancelled(struct pool *p, uint32_t number, int64_t now) {
  struct crew *crew = &p->crew[number];
  struct board_slot *slot = &p->board->slots[number];
  uint32_t claims = atomic_load(&slot->claims), phase = atomic_load(&slot->phase);
  uint64_t item = atomic_load(&slot->item);
  struct pool_entry *state;
  if (crew->state != CREW_LIVING || crew->was_killed || crew->reason) return -1;
  if (phase == BOARD_CLAIMING) return now + LOOK_SOON_NS;
  if (phase != BOARD_OWNING) return -1;
  state = pool_entry_of(p, atomic_load(&slot->entry));
  if (atomic_load(&slot->claims) != claims) return now;
  if (state == NULL || !state->is_cancelled) return -1;
  if (state->kill_at_ns >= 0 && now >= state->kill_at_ns) {
    crew->was_killed = 1;
    pool_kill_worker(p, number, claims, item);
    return -1;
  }
  if (crew->is_asked != INTERRUPT_CANCEL || crew->asked_claims != claims) pool_command(p, number, INTERRUPT_CANCEL, claims, item);
  return state->kill_at_ns;
}

static int64_t earlier(int64_t a, int64_t b) {
  return a < 0 || (b >= 0 && b < a) ? b : a;
}

int64_t pool_watch_cancelled(struct pool *p, int64_t now) {
  int64_t next = -1;
  uint32_t i;
  for (i = 0; p->n_cancelled && i < p->n_places; i++) next = earlier(next, watch_cancelled(p, i, now));
  return next;
}

void pool_watch(struct pool *p, int64_t now) {
  uint32_t i;
  for (i = 0; p->n_timed && i < p->n_places; i++) (void)watch_worker(p, i, now, 1);
  (void)pool_watch_cancelled(p, now);
}

/* When does the first item with a time limit have to be looked at? None that begins from now on is over before the shortest. */
static int64_t next_timeout(struct pool *p, int64_t now) {
  int64_t next = now + p->shortest_ns;
  uint32_t i;
  for (i = 0; i < p->n_places; i++) next = earlier(next, watch_worker(p, i, now, 0));
  return next;
}

int64_t pool_next_deadline(struct pool *p) {
  int64_t now, next = pool_next_due(p);
  if (p->must_recheck) return os_now_ns() + LOOK_SOON_NS;
  /* Who finishes a claim rings us, and then what waits can be published; but so many might claim before the first has finished. */
  if (p->n_waiting && p->n_places > BOARD_ENTRIES / 2) next = earlier(next, os_now_ns() + LOOK_EVERY_NS);
  if (!pool_has_limits(p)) return next;
  if (pool_settled_ns(p) >= 0) return earlier(next, pool_settled_ns(p));
  now = os_now_ns();
  if (p->n_timed) next = earlier(next, next_timeout(p, now));
  return p->n_cancelled ? earlier(next, pool_watch_cancelled(p, now)) : next;
}
