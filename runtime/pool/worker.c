/* pool/worker -- see worker.h (may include pool/output.h and pool/schedule.h). */
#include "pool/worker.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "base/cold.h"
#include "base/fault.h"
#include "pool/schedule.h"
#include "process/interrupt.h"
#include "process/process.h"

enum {
  SPIN_NS = 60 * 1000,
  SPIN_TURNS = 64,
  ROOM_SPIN_NS = 20 * 1000,
  WEIGH_EVERY_NS = 10 * 1000000,
  MOST_SPREAD = 256,
  MEASURE_EVERY_NS = 100 * 1000, /* in that time nobody grows by much, and looking takes a few microseconds */
  AHEAD_BYTES = WORKER_FRAME_BYTES, /* more than one full frame that nobody has read */
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

/* Is there an entry in the lane that may have something to claim? (Of the front it is not known before somebody tries.) */
static int is_open(const struct board *b, enum board_lane lane) {
  return atomic_load(&b->front[lane]) < atomic_load(&b->published[lane]);
}

/* The first lane of which that is so; BOARD_LANES: none. */
static enum board_lane first_open(const struct board *b) {
  enum board_lane lane = 0;
  while (lane < BOARD_LANES && !is_open(b, lane)) lane++;
  return lane;
}

/* Is there something to claim, now or when the pool is not paused any more? */
static int is_wanted(const struct worker *w) {
  return is_summoned(w) || first_open(w->board) < BOARD_LANES;
}

static int is_paused(const struct worker *w) {
  return atomic_load(&w->board->is_paused) != 0; /* (after its phase was written: who resumes does it the other way round) */
}

static int has_work(const struct worker *w) {
  return !w->gate.is_closed && !is_paused(w) && is_wanted(w);
}

/* It may not begin anything now. */
static int is_held_back(struct worker *w) {
  return is_paused(w) || (is_wanted(w) && gate_is_closed(&w->gate));
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

int worker_is_outgrown(struct worker *w) {
  int64_t now;
  if (w->is_outgrown) return 1;
  now = os_now_ns();
  if (now - w->measured_ns < MEASURE_EVERY_NS) return 0;
  w->measured_ns = now;
  return w->is_outgrown = process_own_memory() > w->own_bytes + w->terms.max_growth;
}

/*
 * The system put the new process where least was to be done at that moment, and knows nothing of the others to come, nor that the host,
 * which has just forked it, is going to sleep: two workers often share one processor for some milliseconds, with another one idle.
 */
static void spread(struct worker *w) {
  int taken[MOST_SPREAD];
  uint32_t i, n = 0, places = atomic_load_explicit(&w->board->n_places, memory_order_relaxed);
  if (w->number >= w->board->n_cpus) return; /* there are enough of them for each processor */
  for (i = 0; i < places && n < MOST_SPREAD; i++) {
    int processor = atomic_load_explicit(&w->board->slots[i].processor, memory_order_relaxed);
    if (i != w->number && processor > 0) taken[n++] = processor - 1;
  }
  (void)os_avoid(taken, n); /* (if not, it is slower for a moment) */
  atomic_store_explicit(&w->slot->processor, os_processor() + 1, memory_order_relaxed);
}

int worker_settle(struct worker *w, const char **what) {
  uint32_t number;
  int status;
  *what = "bind itself to a processor";
  status = w->terms.is_bound ? os_bind(w->number) : os_unbind(&number); /* (it may be started by one who is bound) */
  if (status < 0) return status;
  if (!w->terms.is_bound) spread(w);
  *what = "lower its priority";
  if (w->terms.nice == WORKER_IDLE) return os_be_idle();
  return w->terms.nice ? os_be_nice(w->terms.nice) : 0;
}

/* From here on it may have grown. */
static void note_own_memory(struct worker *w) {
  if (w->terms.max_growth == 0) return;
  w->own_bytes = process_own_memory();
  w->measured_ns = os_now_ns();
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
  w->gives_way = 0;
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

/* ---- giving way: the rest of a claim is given back when there is work of a higher priority ---- */

/* The lane's front entry that has something to claim: 1 if there is one. Moves the front on. */
static int find_front(struct board *b, enum board_lane lane) {
  uint64_t front = atomic_load(&b->front[lane]);
  while (front < atomic_load(&b->published[lane])) {
    struct board_entry *e = board_entry(b, front);
    uint64_t cursor = atomic_load_explicit(&e->cursor, memory_order_acquire);
    if (board_is_of(cursor, front) && (cursor & BOARD_MAX_ITEMS) < e->count) return 1;
    if (atomic_compare_exchange_strong(&b->front[lane], &front, front + 1)) front++;
  }
  return 0;
}

/* Is there something to claim that goes before what this worker has? */
static int is_preceded(const struct worker *w) {
  enum board_lane own = board_lane_of(w->claim.sequence), lane;
  for (lane = 0; board_precedes(lane, own); lane++)
    if (find_front(w->board, lane)) return 1;
  return 0;
}

/*
 * It has a claim of several items. The host tells those who have one when it publishes work of a higher priority; it cannot tell somebody
 * who is just claiming. But that one, who has noted his claim by now, sees what was published before the host looked at him.
 */
static void look_ahead(struct worker *w) {
  _Atomic uint64_t *word = &w->slot->stopped_claim;
  uint64_t before = atomic_load(word);
  while ((uint32_t)before != w->claim.number && !atomic_compare_exchange_weak(word, &before, w->claim.number | BOARD_GIVE_WAY)) {
  }
}

/*
 * The word is taken back before the lanes are looked at: what the host publishes after that look it says again.
 */
COLD int worker_heeds_stop(struct worker *w) {
  _Atomic uint64_t *word = &w->slot->stopped_claim;
  uint64_t told = w->claim.number | BOARD_GIVE_WAY;
  if (w->gives_way || atomic_load(word) != told) return 1; /* or it is the host's last word on that claim */
  if (is_paused(w) || w->gate.is_closed) return 0; /* it could not begin anything else */
  if (!atomic_compare_exchange_strong(word, &told, 0) && told == w->claim.number) return 1;
  if (!is_preceded(w)) return 0;
  w->gives_way = 1;
  look_ahead(w); /* (says it again) */
  FAULT_POINT("worker_gives_way");
  return 1;
}

/* ---- looking for work ---- */

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

static int claim_in(struct worker *w, enum board_lane lane) {
  struct board *b = w->board;
  uint64_t sequence = atomic_load_explicit(&b->front[lane], memory_order_acquire);
  while (sequence < atomic_load_explicit(&b->published[lane], memory_order_acquire)) {
    uint64_t front = sequence;
    if (claim_from(w, sequence)) return 1;
    atomic_compare_exchange_strong_explicit(&b->front[lane], &front, sequence + 1, memory_order_acq_rel, memory_order_acquire);
    sequence = atomic_load_explicit(&b->front[lane], memory_order_acquire);
  }
  return 0;
}

static int claim_work(struct worker *w) {
  enum board_lane lane;
  if (is_held_back(w)) return 0;
  if (take_summons(w)) return 1;
  lane = first_open(w->board);
  if (lane == BOARD_LANES) {
    set_phase(w, BOARD_IDLE);
    return 0;
  }
  set_phase(w, BOARD_CLAIMING); /* a reader must not take the old claim, or its absence, for the truth from here on */
  for (; lane < BOARD_LANES; lane++) {
    if (!claim_in(w, lane)) continue;
    if (w->claim.count > 1 && board_precedes(first_open(w->board), lane)) look_ahead(w);
    return 1;
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

/*
 * How many others keep a processor busy, or have been rung and are about to: for each claim that can be made where claims are being made,
 * one of those who sleep. A processor that is not theirs yet is not free either.
 */
static uint32_t count_coming(const struct worker *w) {
  const struct board *b = w->board;
  enum board_lane lane = first_open(b);
  uint64_t awake = count_awake(w), next, count, claims;
  uint32_t sharing = atomic_load_explicit(&b->n_sharing, memory_order_relaxed);
  const struct board_entry *e;
  if (awake + 1 >= sharing || lane == BOARD_LANES) return (uint32_t)awake;
  e = board_entry(w->board, atomic_load_explicit(&b->front[lane], memory_order_relaxed));
  next = atomic_load_explicit(&e->cursor, memory_order_relaxed) & BOARD_MAX_ITEMS;
  count = e->count; /* (of another entry by now, perhaps: this is no more than an estimate) */
  if (next >= count) return (uint32_t)awake;
  claims = e->kind == BOARD_INDEXED ? count - next : 1;
  return claims < sharing - 1 - awake ? (uint32_t)(awake + claims) : sharing - 1;
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
      channel_unread(c) < MANY_BYTES &&
      schedule_spinners(w->board->n_cpus, 1 + count_coming(w)) == 0)
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

/*
 * Sleep until the bell rings, or for timeout_ns (-1: without end). The lifeline is in the set although its SIGCONT would do: two
 * independent ways to notice a dead host. Returns what os_poll did: 0: the time is over.
 */
static int sleep_on_bell(struct worker *w, int64_t timeout_ns) {
  struct pollfd fds[2] = {{w->bell.read_fd, POLLIN, 0}, {w->lifeline, POLLIN, 0}};
  int status = os_poll(fds, 2, timeout_ns);
  if (status > 0 && fds[1].revents) process_exit(0);
  os_bell_drain(&w->bell);
  return status;
}

/* How long it may still sleep; -1: without end. Who is held back is not idle. */
static int64_t rest_of_idleness(const struct worker *w) {
  int64_t rest;
  if (w->terms.idle_ns == 0 || is_wanted(w)) return -1;
  rest = w->turned_ns + w->terms.idle_ns - os_now_ns();
  return rest > 0 ? rest : 0;
}

/* As rest_of_idleness; who waits at the gate looks again. */
static int64_t longest_sleep(const struct worker *w) {
  int64_t rest = rest_of_idleness(w), until_look;
  if (!w->gate.is_closed || is_paused(w) || !is_wanted(w)) return rest;
  until_look = w->gate.next_look_ns - os_now_ns();
  return until_look > 0 ? until_look : 0;
}

/*
 * Nobody needs it any more? Whoever publishes work looks at the phases afterwards: either he sees that this one leaves, and does not
 * count on it, or it sees the work, and stays.
 */
static int leaves_for_idleness(struct worker *w) {
  set_phase(w, BOARD_LEAVING);
  FAULT_POINT("worker_idle_leaves");
  return !is_wanted(w);
}

/* Returns 0: it has had nothing to do for so long that it leaves; 1: look for work. */
static int wait_for_work(struct worker *w) {
  int status = 1;
  FAULT_POINT("worker_idle");
  w->has_waited = 1;
  if (may_spin(w) && !is_held_back(w)) spin_for_work(w);
  set_phase(w, BOARD_PARKED);
  hand_over(w);
  if (!has_work(w) && !must_leave(w)) status = sleep_on_bell(w, longest_sleep(w));
  if (status == 0 && rest_of_idleness(w) == 0 && leaves_for_idleness(w)) return 0;
  set_phase(w, BOARD_IDLE);
  return 1;
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
    if (atomic_load(&ring->head) == head) (void)sleep_on_bell(w, -1);
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

/*
 * Where everybody computes, the host reads when the system gets round to it, which takes milliseconds: until then one page after the other
 * is written for the first time, and what is left in the end it reads alone. So who is ahead of it lets it go first, if it waits for this
 * very processor; one who does not wait holds nobody up.
 */
static void let_host_read(struct worker *w) {
  if (channel_unread(&w->channel) > AHEAD_BYTES) os_give_way();
}

void worker_open_frame(struct worker *w, uint64_t first) {
  size_t room;
  void *memory;
  let_host_read(w);
  memory = begin_frame(w, WORKER_RESULTS, first, &room);
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

COLD void worker_send(struct worker *w, enum worker_frame kind, uint64_t first, uint32_t count, const void *data, size_t length) {
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
 * A request that was meant for the claim which has just ended may have come at the last moment. From the change of phase on none is
 * accepted.
 */
static void forget_late_request(void) {
  int reason = interrupt_pending();
  if (reason == INTERRUPT_CANCEL || reason == INTERRUPT_TIMEOUT) (void)interrupt_take();
}

/* Has it done its share? */
static int is_worn_out(const struct worker *w) {
  return w->tasks_left == 0 || w->is_outgrown;
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

/* It is about to die of a signal, and leaves word of what it was at. In the handler; what it reads may be damaged. */
static COLD void leave_words(void) {
  struct worker *w = the_worker;
  char *words;
  if (w->describe == NULL) return;
  words = board_last_words(w->board, w->number);
  *words = '\0';
  atomic_store(&w->slot->has_last_words, 1);
  w->describe(w->tasks->context, words, BOARD_WORDS_BYTES);
}

_Noreturn void worker_main(struct worker *w) {
  the_worker = w;
  w->slot = &w->board->slots[w->number];
  board_channel(w->board, w->number, &w->channel);
  bytes_init(&w->frame);
  interrupt_set_filter(worker_accepts);
  interrupt_set_continued(note_continued);
  interrupt_set_crash(leave_words);
  fault_set_worker((int)w->number + 1);
  w->gate = (struct gate){.least_memory = w->terms.least_memory, .most_load = w->terms.most_load, .number = w->number};
  w->tasks_left = w->terms.max_tasks ? w->terms.max_tasks : UINT64_MAX;
  if (w->tasks->start(w->tasks->context, w) != 0) process_exit(0);
  output_flush(&w->output);
  output_mark(&w->output, OUTPUT_NO_ITEM, OUTPUT_NO_ITEM);
  note_end(w, os_now_ns());
  note_own_memory(w);
  set_phase(w, BOARD_IDLE);
  while (!must_leave(w) && !is_worn_out(w)) {
    if (!claim_work(w)) {
      if (!wait_for_work(w)) break;
      continue;
    }
    do_claim(w);
    set_phase(w, is_worn_out(w) ? BOARD_LEAVING : BOARD_IDLE); /* nobody is to count on one who leaves */
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
