/* pool/worker -- see worker.h (may include pool/output.h and pool/schedule.h). */
#include "pool/worker.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "base/fault.h"
#include "pool/schedule.h"
#include "process/interrupt.h"
#include "process/process.h"

enum {
  SPIN_NS = 60 * 1000,
  SPIN_TURNS = 64,
  ROOM_SPIN_NS = 20 * 1000,
  WEIGH_EVERY_NS = 10 * 1000000,
  MANY_BYTES = 16 * 1024 /* a patient host is woken for so much: it reads that in some 20 us, so no worker's delay adds up to more */
};

static const uint64_t NO_ITEM = UINT64_MAX;

/* The one worker of this process, for the signal handler. */
static struct worker *the_worker;

static void set_phase(struct worker *w, enum board_phase phase) {
  atomic_store_explicit(&w->slot->phase, phase, memory_order_seq_cst);
}

static int must_leave(const struct worker *w) {
  return atomic_load_explicit(&w->slot->must_leave, memory_order_acquire) != 0 || interrupt_external() != 0;
}

/* Not to finish what it is at: the pool is terminated, or somebody else wants this process to end. */
static int is_told_to_quit(const struct worker *w) {
  return atomic_load_explicit(&w->slot->must_leave, memory_order_acquire) == 2 || interrupt_external() != 0;
}

static int is_summoned(const struct worker *w) {
  uint64_t summons = atomic_load_explicit(&w->slot->summons, memory_order_acquire);
  return summons != 0 && !(summons & BOARD_TAKEN);
}

static int has_work(const struct worker *w) {
  return is_summoned(w) ||
         atomic_load_explicit(&w->board->front, memory_order_acquire) < atomic_load_explicit(&w->board->published, memory_order_acquire);
}

/* ---- counting: this process alone writes these words ---- */

static void add(_Atomic uint64_t *word, uint64_t more) {
  atomic_store_explicit(word, atomic_load_explicit(word, memory_order_relaxed) + more, memory_order_relaxed);
}

static void add_ns(_Atomic int64_t *word, int64_t more) {
  atomic_store_explicit(word, atomic_load_explicit(word, memory_order_relaxed) + more, memory_order_relaxed);
}

/* ---- the record of what it does, if one is kept ---- */

void worker_trace(struct worker *w, enum event_kind kind, int64_t began_ns, int64_t length_ns) {
  struct event event = {.kind = kind, .begin_ns = began_ns, .length_ns = length_ns, .call = w->claim.call};
  if (length_ns >= events_grain(w->events, began_ns + length_ns)) {
    events_put(w->events, &event);
  } else {
    *(kind == EVENT_ENCODE ? &w->encode_ns : &w->room_ns) += length_ns;
  }
}

static void trace_idle(struct worker *w, int64_t now, int64_t open_ns) {
  struct event event = {.kind = EVENT_IDLE, .begin_ns = w->turned_ns, .length_ns = now - w->turned_ns, .idle_ns = open_ns};
  events_add(w->events, &event);
}

static void trace_claim(struct worker *w, int64_t began, int64_t now, uint64_t count) {
  struct event event = {.kind = EVENT_WORK, .claims = 1, .begin_ns = began, .length_ns = now - began, .busy_ns = now - began,
                        .call = w->claim.call, .first = w->claim.first, .last = w->claim.first + count - 1, .items = w->n_ended,
                        .encode_ns = w->encode_ns, .room_ns = w->room_ns};
  events_add(w->events, &event);
  w->encode_ns = w->room_ns = 0;
  w->n_ended = 0;
}

/* A claim ends, or life begins. */
static void note_end(struct worker *w, int64_t now) {
  w->turned_ns = now;
  w->has_waited = 0;
  atomic_store_explicit(&w->slot->open_mark_ns, board_open_ns(w->board, now), memory_order_relaxed);
  atomic_store_explicit(&w->slot->turned_ns, now, memory_order_relaxed);
}

/* A claim begins, or life ends. Returns when. */
static int64_t note_begin(struct worker *w) {
  struct board_slot *slot = w->slot;
  int64_t now, idle;
  if (!w->has_waited) return w->turned_ns; /* it followed at once */
  now = os_now_ns();
  idle = board_open_part(w->board, w->turned_ns, atomic_load_explicit(&slot->open_mark_ns, memory_order_relaxed), now);
  add_ns(&slot->idle_ns, idle);
  if (w->events) trace_idle(w, now, idle);
  atomic_store_explicit(&slot->turned_ns, now, memory_order_relaxed);
  return now;
}

/* How much memory it needs, from time to time. */
static void weigh(struct worker *w, int64_t now) {
  uint64_t bytes;
  if (now - w->weighed_ns < WEIGH_EVERY_NS) return;
  w->weighed_ns = now;
  bytes = process_peak_memory();
  if (bytes > atomic_load_explicit(&w->slot->peak_bytes, memory_order_relaxed))
    atomic_store_explicit(&w->slot->peak_bytes, bytes, memory_order_relaxed);
}

static uint64_t bits_of(double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

void worker_progress(struct worker *w, double done, double total) {
  w->has_progress = done != 0 || total != 0;
  atomic_store_explicit(&w->slot->progress_total, bits_of(total), memory_order_relaxed);
  atomic_store_explicit(&w->slot->progress_done, bits_of(done), memory_order_relaxed);
}

/* ---- claiming ---- */

static void note_claim(struct worker *w, uint64_t first, uint64_t count) {
  struct board_slot *slot = w->slot;
  w->claim.first = first;
  w->claim.count = count;
  atomic_store_explicit(&slot->item, NO_ITEM, memory_order_relaxed);
  atomic_store_explicit(&slot->entry, w->claim.sequence, memory_order_relaxed);
  atomic_store_explicit(&slot->first, first, memory_order_relaxed);
  atomic_store_explicit(&slot->count, count, memory_order_relaxed);
  w->claim.number = atomic_fetch_add_explicit(&slot->claims, 1, memory_order_release) + 1;
  set_phase(w, BOARD_OWNING);
}

static void copy_entry(struct worker_claim *claim, struct board_entry *e, uint64_t sequence, uint64_t next) {
  claim->sequence = sequence;
  claim->call = e->call;
  claim->shared = e;
  claim->kind = e->kind;
  claim->flags = e->flags;
  claim->memory_bytes = e->memory_bytes;
  claim->job = e->job;
  claim->job_offset = e->job_offset;
  claim->job_length = e->job_length;
  claim->block_offset = e->block_offset;
  claim->block_length = e->block_length;
  claim->block_skip = e->block_skip + next;
  claim->entry_first = e->first;
}

/*
 * Try to claim from entry `sequence`. Returns 1: done; 0: it has nothing (or is not the entry any more): look further.
 * The copy is taken before the swap: if the host gave the place to another entry meanwhile, the tag differs and the swap fails.
 */
static int claim_from(struct worker *w, uint64_t sequence) {
  struct board_entry *e = board_entry(w->board, sequence);
  uint64_t cursor = atomic_load_explicit(&e->cursor, memory_order_acquire);
  while (board_is_of(cursor, sequence)) {
    uint64_t next = cursor & BOARD_MAX_ITEMS, count = e->count, first = e->first, many;
    if (next >= count) return 0;
    many = e->kind == BOARD_BLOCK
               ? count - next
               : schedule_claim(count - next, atomic_load_explicit(&w->board->n_sharing, memory_order_relaxed),
                                atomic_load_explicit(&e->item_ns, memory_order_relaxed), e->chunk);
    if (many > w->tasks_left) many = w->tasks_left;
    copy_entry(&w->claim, e, sequence, next);
    if (atomic_compare_exchange_strong_explicit(&e->cursor, &cursor, cursor + many, memory_order_acq_rel, memory_order_acquire)) {
      FAULT_POINT("worker_claimed");
      note_claim(w, first + next, many);
      return 1;
    }
  }
  return 0;
}

/* Take what is for this worker alone. 0: it has been withdrawn. */
static int take_summons(struct worker *w) {
  uint64_t summons = atomic_load_explicit(&w->slot->summons, memory_order_acquire);
  if (summons == 0 || summons & BOARD_TAKEN) return 0;
  set_phase(w, BOARD_CLAIMING);
  copy_entry(&w->claim, &w->slot->order, summons, 0);
  if (!atomic_compare_exchange_strong(&w->slot->summons, &summons, summons | BOARD_TAKEN)) return 0;
  FAULT_POINT("worker_claimed");
  note_claim(w, w->number, 1);
  return 1;
}

static int claim_work(struct worker *w) {
  struct board *b = w->board;
  uint64_t sequence;
  if (take_summons(w)) return 1;
  sequence = atomic_load_explicit(&b->front, memory_order_acquire);
  if (sequence >= atomic_load_explicit(&b->published, memory_order_acquire)) {
    set_phase(w, BOARD_IDLE);
    return 0;
  }
  set_phase(w, BOARD_CLAIMING); /* a reader must not take the old claim, or its absence, for the truth from here on */
  while (sequence < atomic_load_explicit(&b->published, memory_order_acquire)) {
    uint64_t front = sequence;
    if (claim_from(w, sequence)) return 1;
    atomic_compare_exchange_strong_explicit(&b->front, &front, sequence + 1, memory_order_acq_rel, memory_order_acquire);
    sequence = atomic_load_explicit(&b->front, memory_order_acquire);
  }
  set_phase(w, BOARD_IDLE);
  return 0;
}

/* ---- waiting ---- */

/* How many other workers keep a processor busy. */
static uint32_t count_awake(const struct worker *w) {
  const struct board *b = w->board;
  uint32_t i, awake = 0, places = atomic_load_explicit(&b->n_places, memory_order_relaxed);
  for (i = 0; i < places; i++) {
    uint32_t phase = atomic_load_explicit(&b->slots[i].phase, memory_order_relaxed);
    awake += i != w->number && phase != BOARD_PARKED && phase != BOARD_LEAVING;
  }
  return awake;
}

/* Is there a processor on which to look out for work without sleeping? */
static int may_spin(const struct worker *w) {
  uint32_t host = atomic_load_explicit(&w->board->host_sleep, memory_order_relaxed) == BOARD_AWAKE;
  return schedule_spinners(w->board->n_cpus, host + count_awake(w)) > 0;
}

/* ---- waking the host ---- */

/* There is something that it has to know now. */
static void wake_host(struct worker *w) {
  atomic_thread_fence(memory_order_seq_cst);
  if (atomic_load_explicit(&w->board->host_sleep, memory_order_relaxed) == BOARD_AWAKE) return;
  if (atomic_exchange(&w->board->host_sleep, BOARD_AWAKE) != BOARD_AWAKE) os_bell_ring(&w->host_bell);
}

/*
 * There are results. A host that has use for them only when all are there would take a processor from those who work: it is left alone
 * while none is free, unless they are many. Whoever is the last to run out of work wakes it then (see hand_over).
 */
static void tell_host(struct worker *w) {
  const struct channel *c = &w->channel;
  atomic_thread_fence(memory_order_seq_cst);
  if (atomic_load_explicit(&w->board->host_sleep, memory_order_relaxed) == BOARD_PATIENT &&
      c->position - atomic_load_explicit(&c->shared->head, memory_order_relaxed) < MANY_BYTES &&
      schedule_spinners(w->board->n_cpus, 1 + count_awake(w)) == 0)
    return;
  wake_host(w);
}

/*
 * This worker has no work any more, and its phase says so. Of those who come here last at the same time, at least one sees that the
 * others have none either: phases are written and read in one order for all.
 */
static void hand_over(struct worker *w) {
  struct board *b = w->board;
  uint32_t i, places = atomic_load_explicit(&b->n_places, memory_order_relaxed);
  if (atomic_load(&b->host_sleep) != BOARD_PATIENT) return;
  for (i = 0; i < places; i++) {
    uint32_t phase = atomic_load(&b->slots[i].phase);
    if (i != w->number && (phase == BOARD_IDLE || phase == BOARD_CLAIMING || phase == BOARD_OWNING)) return;
  }
  wake_host(w);
}

static void spin_for_work(struct worker *w) {
  int64_t until = os_now_ns() + SPIN_NS;
  set_phase(w, BOARD_SPINNING);
  hand_over(w);
  do {
    int turn;
    for (turn = 0; turn < SPIN_TURNS; turn++) {
      if (has_work(w)) return;
      os_relax();
    }
  } while (os_now_ns() < until && !must_leave(w));
}

/* Sleep until the bell rings. The lifeline is in the set although its SIGCONT would do: two independent ways to notice a dead host. */
static void sleep_on_bell(struct worker *w) {
  struct pollfd fds[2] = {{w->bell.read_fd, POLLIN, 0}, {w->lifeline, POLLIN, 0}};
  int status = os_poll(fds, 2, -1);
  if (status > 0 && fds[1].revents) process_exit(0);
  os_bell_drain(&w->bell);
}

static void wait_for_work(struct worker *w) {
  FAULT_POINT("worker_idle");
  w->has_waited = 1;
  if (may_spin(w)) spin_for_work(w);
  set_phase(w, BOARD_PARKED);
  hand_over(w);
  if (!has_work(w) && !must_leave(w)) sleep_on_bell(w);
  set_phase(w, BOARD_IDLE);
}

static int spin_for_room(struct worker *w, uint64_t head, int64_t until) {
  int may = may_spin(w);
  while (may && os_now_ns() < until) {
    if (atomic_load_explicit(&w->channel.shared->head, memory_order_acquire) != head) return 1;
    os_relax();
  }
  return 0;
}

/* The ring is full: wait until the host has moved on from where it was when we found it full. */
static void wait_for_room(struct worker *w) {
  struct channel_shared *ring = w->channel.shared;
  uint64_t head = w->channel.limit;
  int64_t began = os_now_ns(), took;
  if (!spin_for_room(w, head, began + ROOM_SPIN_NS)) {
    atomic_store(&ring->is_waiting, 1);
    if (atomic_load(&ring->head) == head) sleep_on_bell(w);
    atomic_store(&ring->is_waiting, 0);
  }
  took = os_now_ns() - began;
  add_ns(&w->slot->wait_ns, took);
  if (w->events) worker_trace(w, EVENT_ROOM, began, took);
}

/* ---- publishing ---- */

static void *begin_frame(struct worker *w, enum worker_frame kind, uint64_t first, size_t *room) {
  struct channel_header header = {.kind = kind, .entry = w->claim.sequence, .first = first};
  void *memory;
  while ((memory = channel_begin(&w->channel, &header, room)) == NULL) {
    wake_host(w);
    wait_for_room(w);
  }
  return memory;
}

void worker_open_frame(struct worker *w, uint64_t first) {
  size_t room;
  void *memory = begin_frame(w, WORKER_RESULTS, first, &room);
  bytes_borrow(&w->frame, memory, room);
  w->frame_first = first;
  w->frame_count = w->staged_count = 0;
  w->frame_low = room / 8;
}

static void publish_large(struct worker *w, const void *data, size_t length, uint32_t count, uint32_t safe_count) {
  uint64_t sent = 0;
  while (channel_publish_large(&w->channel, data, length, count, safe_count, &sent) == -EAGAIN) {
    wake_host(w);
    FAULT_POINT("worker_result_mid");
    wait_for_room(w);
  }
}

/* The host counts items when it has seen what came of them. */
static void count_items(struct worker *w, uint32_t count) {
  w->n_ended += count;
  if (w->tasks_left != UINT64_MAX) w->tasks_left -= count < w->tasks_left ? count : w->tasks_left;
}

void worker_close_frame(struct worker *w) {
  FAULT_POINT("worker_result_before");
  output_flush(&w->output); /* what items printed is seen before their results are */
  if (w->frame_count > 0) {
    count_items(w, w->frame_count);
    add(&w->slot->bytes_sent, w->frame.length);
    if (w->frame.is_borrowed) {
      channel_publish(&w->channel, w->frame.length, w->frame_count);
    } else {
      publish_large(w, w->frame.data, w->frame.length, w->frame_count, w->staged_count);
    }
    tell_host(w);
  }
  bytes_free(&w->frame);
  w->frame_count = w->staged_count = 0;
  FAULT_POINT("worker_result_after");
}

void worker_send(struct worker *w, enum worker_frame kind, uint64_t first, uint32_t count, const void *data, size_t length) {
  size_t room;
  void *memory;
  if (kind == WORKER_FAILED) output_mark(&w->output, w->claim.sequence, first);
  output_flush(&w->output);
  memory = begin_frame(w, kind, first, &room);
  if (kind == WORKER_FAILED) count_items(w, count);
  add(&w->slot->bytes_sent, length);
  if (length <= room) {
    if (length) memcpy(memory, data, length);
    channel_publish(&w->channel, length, count);
  } else {
    publish_large(w, data, length, count, 0);
  }
  wake_host(w);
}

/* ---- the life ---- */

/* How long an item takes is told to whoever claims from the entry next. If its place is another's by now, nobody does. */
static void tell_item_ns(struct worker *w, uint64_t done, int64_t elapsed) {
  struct board_entry *e = w->claim.shared;
  uint64_t before = atomic_load_explicit(&e->item_ns, memory_order_relaxed);
  if (w->claim.kind == BOARD_BROADCAST || worker_is_stopped(w)) return;
  if (!board_is_of(atomic_load_explicit(&e->cursor, memory_order_relaxed), w->claim.sequence)) return;
  atomic_store_explicit(&e->item_ns, schedule_item_ns(before, done, elapsed), memory_order_relaxed);
}

static void do_claim(struct worker *w) {
  int64_t started = note_begin(w), now;
  struct board_slot *slot = w->slot;
  uint64_t done = w->claim.count;
  w->tasks->run(w->tasks->context, w);
  output_flush(&w->output);
  output_mark(&w->output, w->claim.sequence, atomic_load_explicit(&slot->item, memory_order_relaxed)); /* if it was given up */
  now = os_now_ns();
  tell_item_ns(w, done, now - started);
  add(&slot->claims_done, 1);
  add_ns(&slot->busy_ns, now - started);
  if (w->events) trace_claim(w, started, now, done);
  note_end(w, now);
  weigh(w, now);
  atomic_store_explicit(&slot->item_started_ns, 0, memory_order_release);
}

/*
 * A request that was meant for the claim which has just ended may have come at the last moment. From the change of phase on none is accepted.
 */
static void forget_late_request(void) {
  int reason = interrupt_pending();
  if (reason == INTERRUPT_CANCEL || reason == INTERRUPT_TIMEOUT) (void)interrupt_take();
}

/* Is the host's request meant for what runs right now? It was sent a moment ago. Async-signal-safe. */
static int worker_accepts(int reason) {
  struct worker *w = the_worker;
  struct board_slot *slot;
  if (w == NULL) return 1;
  slot = w->slot;
  if (reason == INTERRUPT_QUIT) return 1;
  if (atomic_load(&slot->phase) != BOARD_OWNING || atomic_load(&slot->command_claim) != atomic_load(&slot->claims)) return 0;
  return reason != INTERRUPT_TIMEOUT || atomic_load(&slot->command_item) == atomic_load(&slot->item);
}

/* It was stopped (Ctrl-Z), and goes on: the host wants to know. Async-signal-safe. */
static void note_continued(void) {
  if (the_worker) atomic_store(&the_worker->slot->continued_ns, os_now_ns());
}

_Noreturn void worker_main(struct worker *w) {
  the_worker = w;
  w->slot = &w->board->slots[w->number];
  board_channel(w->board, w->number, &w->channel);
  bytes_init(&w->frame);
  interrupt_set_filter(worker_accepts);
  interrupt_set_continued(note_continued);
  fault_set_worker((int)w->number + 1);
  if (w->tasks->start(w->tasks->context, w) != 0) process_exit(0);
  output_flush(&w->output);
  output_mark(&w->output, OUTPUT_NO_ITEM, OUTPUT_NO_ITEM);
  note_end(w, os_now_ns());
  set_phase(w, BOARD_IDLE);
  while (!must_leave(w) && w->tasks_left > 0) {
    if (!claim_work(w)) {
      wait_for_work(w);
      continue;
    }
    do_claim(w);
    set_phase(w, w->tasks_left > 0 ? BOARD_IDLE : BOARD_LEAVING); /* nobody is to count on one who leaves */
    forget_late_request();
  }
  set_phase(w, BOARD_LEAVING);
  hand_over(w);
  w->has_waited = 1;
  (void)note_begin(w);
  atomic_store_explicit(&w->slot->turned_ns, 0, memory_order_relaxed);
  w->tasks->finish(w->tasks->context, w);
  /* An interrupt may have come between the start of a program and the moment when the task had its handle: nobody else will end it. */
  if (is_told_to_quit(w)) interrupt_kill_descendants();
  if (interrupt_external()) interrupt_die(interrupt_external());
  process_exit(0);
}
