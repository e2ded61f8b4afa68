/* pool/recorder -- see recorder.h (may include pool/crew.h and pool/trace.h). Each worker has its events; the last are the host's. */
#include "pool/recorder.h"

#include "base/os.h"
#include "pool/crew.h"
#include "pool/trace.h"

static int open_record(struct pool *p, struct trace *t) {
  int status = p->start == POOL_FORK ? events_open(&p->events, p->capacity + 1, t->began_ns)
                                     : events_open_file(&p->events, p->capacity + 1, t->began_ns, &p->events_fd);
  if (status == 0 && p->events_fd >= 0) status = process_register_fd(p->events_fd);
  p->recorder = t->recorder; /* what there is of the memory is closed with the pool */
  if (status < 0) return status;
  p->trace = t;
  trace_begin(t, p->events, p->capacity + 1);
  return 0;
}

static void collect_from(struct pool *p, struct events *e, uint32_t track, uint64_t *lost_before) {
  uint64_t lost = atomic_load_explicit(&e->lost, memory_order_relaxed);
  struct event event;
  while (events_take(e, &event)) trace_event(p->trace, track, &event, NULL);
  if (lost == *lost_before) return;
  trace_lost(p->trace, track, lost - *lost_before);
  *lost_before = lost;
}

static void collect(struct pool *p) {
  uint32_t i;
  for (i = 0; i < p->n_made; i++)
    if (p->crew[i].state != CREW_EMPTY) collect_from(p, &p->events[i], i + 1, &p->crew[i].events_lost);
  collect_from(p, &p->events[p->capacity], TRACE_HOST, &p->host_events_lost);
}

/* What the writer was about to put down. */
static void collect_pending(struct pool *p, struct events *e, uint32_t track) {
  struct event event;
  if (events_pending(e, &event)) trace_event(p->trace, track, &event, NULL);
}

/* It died in a claim: so far it got. */
static void collect_claim(struct pool *p, uint32_t number) {
  const struct board_slot *slot = &p->board->slots[number];
  const struct pool_entry *entry = pool_entry_of(p, atomic_load(&slot->entry));
  int64_t began = atomic_load(&slot->turned_ns), now = os_now_ns();
  uint64_t item = atomic_load(&slot->item), first = atomic_load(&slot->first), count = atomic_load(&slot->count);
  struct event event = {.kind = EVENT_WORK, .claims = 1, .begin_ns = began, .length_ns = now - began, .busy_ns = now - began,
                        .call = entry ? entry->work.call : 0, .first = first, .last = first + count - 1};
  if (began == 0 || count == 0 || atomic_load(&slot->phase) != BOARD_OWNING) return;
  if (item >= first && item - first < count) event.items = item - first;
  if (event.begin_ns < p->events[number].end_ns) return;
  trace_event(p->trace, number + 1, &event, " (not finished)");
}

static void mark(struct pool *p, uint32_t number, int kind, int64_t what) {
  trace_mark(p->trace, number + 1, (enum trace_mark_kind)kind, what);
}

static void collect_dead(struct pool *p, uint32_t number) {
  const struct crew *crew = &p->crew[number];
  collect_from(p, &p->events[number], number + 1, &p->crew[number].events_lost);
  collect_pending(p, &p->events[number], number + 1);
  events_forget_pending(&p->events[number]);
  collect_claim(p, number);
  if (crew->state != CREW_LIVING && p->is_ending == ENDING_NOT && !crew->was_killed && crew->reason == 0 &&
      !atomic_load(&p->board->slots[number].must_leave))
    mark(p, number, MARK_CRASHED, crew->end.signal ? crew->end.signal : -1 - (int64_t)crew->end.exit_code);
  mark(p, number, MARK_ENDED, crew->last.pid);
}

static void note(struct pool *p, enum event_kind kind, int64_t began_ns, int64_t ended_ns) {
  struct event event = {.kind = kind, .begin_ns = began_ns, .length_ns = ended_ns - began_ns};
  if (kind == EVENT_READ) event.read_ns = event.length_ns;
  if (kind == EVENT_SLEEP) event.sleep_ns = event.length_ns;
  if (kind == EVENT_WRITE) event.write_ns = event.length_ns;
  events_add(&p->events[p->capacity], &event);
}

static void end_without_rest(struct pool *p) {
  collect_pending(p, &p->events[p->capacity], TRACE_HOST);
  trace_end(p->trace);
  p->trace = NULL;
}

static void end_record(struct pool *p) {
  uint32_t i;
  collect(p);
  for (i = 0; i < p->n_made; i++)
    if (p->crew[i].state != CREW_EMPTY) collect_pending(p, &p->events[i], i + 1);
  end_without_rest(p);
}

static void close_record(struct pool *p) {
  uint32_t i;
  if (p->trace != NULL) {
    for (i = 0; i < p->n_made; i++)
      if (p->crew[i].state != CREW_EMPTY) collect_dead(p, i);
    collect(p);
    end_without_rest(p);
  }
  events_close(p->events, p->capacity + 1);
}

const struct recorder pool_recorder = {open_record, close_record, end_record, collect, collect_dead, mark, note};
