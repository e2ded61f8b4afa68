/*
 * pool/recovery -- what came back and what was lost: reading the rings, accounting for every item, and picking up after the dead.
 *
 * Room: pool (may include pool/crew.h, pool/output.h and pool/schedule.h).  See pool.h for the contract of pool_next and its friends.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "pool/crew.h"
#include "pool/schedule.h"
#include "process/interrupt.h"

enum { PIECE_BYTES = 256 << 10 /* of a large frame, in a hurry */ };

enum { LOOK_EVERY_NS = 5 * 1000000, LOOK_EVERY_EVENTS = 64, LOOK_EVERY_FRAMES = 8, STALE_ITEM = -1 };

/* ---- lost items ---- */

/* Move every item of [begin, end) that is neither done nor `spared`. */
static void move_gaps(struct pool *p, uint64_t sequence, uint64_t begin, uint64_t end, uint64_t spared) {
  struct account_interval gap;
  struct pool_entry *state;
  while ((state = pool_entry_of(p, sequence)) != NULL && account_gap(&state->done, begin, end, &gap)) {
    uint64_t stop = gap.end;
    if (gap.begin == spared) {
      begin = spared + 1;
      continue;
    }
    if (spared > gap.begin && spared < stop) stop = spared;
    pool_move_items(p, state, gap.begin, stop - gap.begin);
    if (p->is_broken) return;
    begin = stop;
  }
}

/* ---- events from rings ---- */

void pool_give_room(struct pool *p, uint32_t number) {
  struct channel_shared *ring = p->crew[number].channel.shared;
  if (p->crew[number].state != CREW_LIVING) return;
  atomic_thread_fence(memory_order_seq_cst);
  if (atomic_load_explicit(&ring->is_waiting, memory_order_relaxed) && atomic_exchange(&ring->is_waiting, 0))
    os_bell_ring(&p->crew[number].bell);
}

static void consume(struct pool *p, uint32_t number) {
  channel_consume(&p->crew[number].channel);
  pool_give_room(p, number);
}

static void condemn(struct pool *p, uint32_t number, uint64_t sequence, uint64_t item) {
  struct crew *crew = &p->crew[number];
  if (crew->is_condemned) return;
  crew->is_condemned = 1;
  crew->reason = POOL_DAMAGED;
  crew->condemned_entry = sequence;
  crew->condemned_item = item;
  if (crew->state == CREW_LIVING) process_kill_tree(&crew->process);
  p->must_look = 1;
}

static void fill_event(struct pool *p, uint32_t number, const struct channel_header *header, struct pool_event *event) {
  memset(event, 0, sizeof *event);
  event->worker = number + 1;
  event->pid = (int)p->crew[number].process.pid;
  event->first = header->first;
  event->count = header->count;
  event->length = (size_t)header->length;
  event->sequence = header->entry;
}

/* Turn a frame into an event. 1: show it; 0: it is nobody's business (any more); -EBADMSG. */
static int read_frame(struct pool *p, uint32_t number, const struct channel_header *header, struct pool_event *event) {
  struct pool_entry *state = pool_entry_of(p, header->entry);
  fill_event(p, number, header, event);
  if (header->kind == WORKER_NOTICE || header->kind == WORKER_UNREADY) {
    event->kind = header->kind == WORKER_NOTICE ? POOL_NOTICE : POOL_UNREADY;
    return 1;
  }
  if (header->kind == WORKER_PARTING) {
    event->kind = POOL_PARTING;
    return 1;
  }
  if (header->kind > WORKER_PARTING) return -EBADMSG;
  if (state == NULL) return 0;
  event->call = state->work.call;
  if (state->work.kind == BOARD_BROADCAST && (header->first != number || header->count != 1)) return -EBADMSG;
  if (header->kind == WORKER_DROPPED) {
    if (header->first < state->work.first || header->first - state->work.first > state->work.count ||
        header->count > state->work.count - (header->first - state->work.first)) return -EBADMSG;
    move_gaps(p, header->entry, header->first, header->first + header->count, UINT64_MAX);
    return 0;
  }
  if (header->kind == WORKER_FAILED && header->count != 1) return -EBADMSG;
  if (header->count == 0) return -EBADMSG;
  if (state->is_cancelled) {
    int status = pool_settle(p, state, header->first, header->count);
    if (status == 0) p->crew[number].items += header->count;
    return status == -EBADMSG ? status : 0;
  }
  event->kind = header->kind == WORKER_RESULTS ? POOL_RESULTS : POOL_FAILED;
  return 1;
}

/* Who printed it? Believed as far as it fits the entries there are. */
static void set_printer(struct pool *p, const struct output_text *text, struct pool_event *event) {
  const struct pool_entry *state = pool_entry_of(p, text->sequence);
  event->is_known = text->is_known;
  if (!text->is_known || text->item == OUTPUT_NO_ITEM) return;
  event->first = text->item;
  event->count = 1;
  if (state == NULL || text->item < state->work.first || text->item - state->work.first >= state->work.count) return;
  event->call = state->work.call;
  event->sequence = text->sequence;
}

/* Text of worker `number` that is due. 1: *event shows it. */
static int show_output(struct pool *p, uint32_t number, struct pool_event *event) {
  struct crew *crew = &p->crew[number];
  struct output_text text;
  if (!output_has_text(&p->output, &crew->output)) return 0;
  if (!output_next(&p->output, &crew->output, number, &p->board->slots[number], &text)) return 0;
  memset(event, 0, sizeof *event);
  event->kind = POOL_OUTPUT;
  event->worker = number + 1;
  event->pid = crew->state == CREW_LIVING ? (int)crew->process.pid : crew->last.pid;
  event->stream = text.stream + 1;
  event->data = text.data;
  event->length = text.length;
  event->is_end = text.is_end;
  set_printer(p, &text, event);
  return 1;
}

/*
 * A frame of worker `number` has come: what its items printed is in the pipes by now, and is shown before. So is what the items of all
 * frames printed that had come by then (channel.limit): for these nobody looks again. A large frame ends where the channel is by now.
 */
static int show_output_first(struct pool *p, uint32_t number, struct pool_event *event) {
  struct crew *crew = &p->crew[number];
  if (p->output.kind < OUTPUT_LINES) return 0;
  if (crew->channel.position >= crew->looked_to) {
    crew->looked_to = crew->channel.limit;
    output_check(&crew->output);
  }
  return show_output(p, number, event);
}

/* While frames keep the host from sleeping, nobody tells it of tasks that print without end. */
static void look_for_output(struct pool *p) {
  int64_t now;
  uint32_t i;
  if (p->output.kind < OUTPUT_LINES) return;
  now = os_now_ns();
  if (now - p->output.checked_at_ns < LOOK_EVERY_NS) return;
  p->output.checked_at_ns = now;
  for (i = 0; i < p->n_places; i++)
    if (p->crew[i].state == CREW_LIVING) output_check(&p->crew[i].output);
}

/* The next thing that worker `number` has to say: 1 and *event, or 0. */
static int read_ring(struct pool *p, uint32_t number, struct pool_event *event) {
  struct crew *crew = &p->crew[number];
  struct channel_header header;
  const unsigned char *data;
  crew->channel.most = p->is_in_a_hurry && crew->state == CREW_LIVING ? PIECE_BYTES : 0;
  for (;;) {
    int status = crew->is_condemned ? 0 : channel_peek(&crew->channel, &header, &data), show;
    int is_salvage = 0;
    if (status == -ENOMEM) {
      p->is_broken = status;
      return 0;
    }
    if (status < 0) condemn(p, number, atomic_load(&p->board->slots[number].entry), atomic_load(&p->board->slots[number].item));
    if (status <= 0) {
      pool_give_room(p, number); /* a piece of a large frame may have been taken */
      p->has_more |= status == 0 && crew->state == CREW_LIVING && channel_has_more(&crew->channel);
      if (crew->state != CREW_DEAD || crew->has_salvaged || crew->is_condemned) return 0;
      crew->has_salvaged = is_salvage = 1;
      if (channel_salvage(&crew->channel, &header, &data) != 1) return 0;
    }
    if (crew->state == CREW_LIVING && show_output_first(p, number, event)) return 1;
    show = read_frame(p, number, &header, event);
    if (show < 0) condemn(p, number, header.entry, header.first);
    if (show == 1) {
      event->data = data;
      event->is_salvage = is_salvage;
      return 1;
    }
    if (is_salvage || show < 0) return 0;
    consume(p, number);
  }
}

/* ---- the dead ---- */

void pool_close_crew(struct pool *p, uint32_t number) {
  struct crew *crew = &p->crew[number];
  process_abandon(&crew->process);
  if (crew->bell.read_fd >= 0) process_forget_fd(crew->bell.read_fd);
  if (crew->bell.write_fd >= 0) process_forget_fd(crew->bell.write_fd);
  os_bell_close(&crew->bell);
  output_close_pipes(&crew->output);
  pool_collect_dead(p, number);
  crew->state = CREW_EMPTY;
  pool_tally_dead(p, number);
  pool_is_dismissed(p, number);
  atomic_store(&p->board->slots[number].phase, BOARD_PARKED);
}

void pool_look_for_dead(struct pool *p, int suspects) {
  uint32_t i;
  int has_died = 0;
  p->must_look = 0;
  for (i = 0; i < p->n_places; i++) {
    struct crew *crew = &p->crew[i];
    int pid = (int)crew->process.pid;
    if (suspects && !crew->is_suspect) continue;
    crew->is_suspect = 0;
    if (crew->state != CREW_LIVING || process_reap(&crew->process, 0, &crew->end) != 1) continue;
    crew->process.pid = 0;
    crew->last.pid = pid;
    crew->state = CREW_DEAD;
    crew->has_salvaged = 0;
    output_worker_is_dead(&crew->output);
    p->has_news = has_died = 1;
  }
  if (has_died && !links_are_empty(&p->active) && p->is_ending == ENDING_NOT) pool_wake_all(p);
}

/* May the loss of this item be reported? */
static int can_blame(const struct pool_entry *state, uint64_t item) {
  return state != NULL && !state->is_cancelled && item >= state->work.first && item - state->work.first < state->work.count &&
         !account_has(&state->done, item);
}

/* Which item did the dead worker take with it? STALE_ITEM: none. */
static int64_t blamed_item(const struct board_slot *slot, const struct pool_entry *state) {
  uint64_t first = atomic_load(&slot->first), count = atomic_load(&slot->count), item = atomic_load(&slot->item);
  return item >= first && item - first < count && can_blame(state, item) ? (int64_t)item : STALE_ITEM;
}

static void blame(struct crew *crew, const struct pool_entry *state, uint64_t item) {
  crew->last.kind = POOL_LOST;
  crew->last.call = state->work.call;
  crew->last.first = item;
  crew->last.count = 1;
  crew->last.sequence = state->node.key;
}

static int was_expected(const struct pool *p, const struct crew *crew, const struct board_slot *slot) {
  return p->is_ending || atomic_load(&slot->must_leave) || (crew->was_killed && crew->reason == 0);
}

/* Is what the dead worker was at something other than what we killed it for? */
static int is_bystander(const struct crew *crew, const struct board_slot *slot) {
  if (crew->was_killed) return 1;
  if (crew->reason != INTERRUPT_TIMEOUT) return 0;
  return crew->killed_claims != atomic_load(&slot->claims) || crew->killed_item != atomic_load(&slot->item);
}

/* A worker died with a claim: report the item that ran, give the rest to others. Returns 1 if there is an event. */
static int settle_claim(struct pool *p, struct crew *crew, struct board_slot *slot) {
  struct pool_entry *state = pool_entry_of(p, atomic_load(&slot->entry));
  uint64_t first = atomic_load(&slot->first), count = atomic_load(&slot->count), sequence;
  int64_t blamed;
  if (state == NULL) return 0;
  if (first < state->work.first) first = state->work.first;
  if (first - state->work.first > state->work.count) return 0;
  if (count > state->work.count - (first - state->work.first)) count = state->work.count - (first - state->work.first);
  sequence = state->node.key;
  blamed = is_bystander(crew, slot) ? STALE_ITEM : blamed_item(slot, state);
  if (blamed != STALE_ITEM) blame(crew, state, (uint64_t)blamed);
  move_gaps(p, sequence, first, first + count, blamed == STALE_ITEM ? UINT64_MAX : (uint64_t)blamed);
  return blamed != STALE_ITEM;
}

/*
 * A worker was killed for damage: report the item that its bytes were about, else the one it was at, so that a worker that always
 * sends nonsense cannot go on for ever. What it had sent behind the damage was not read, whichever claims it was of. 1 if there
 * is an event.
 */
static int settle_damage(struct pool *p, struct crew *crew, struct board_slot *slot) {
  struct pool_entry *state = pool_entry_of(p, crew->condemned_entry);
  uint64_t item = crew->condemned_item;
  p->must_recheck = 1;
  if (!can_blame(state, item)) {
    state = pool_entry_of(p, atomic_load(&slot->entry));
    item = atomic_load(&slot->item);
  }
  if (!can_blame(state, item)) return 0;
  blame(crew, state, item);
  return 1;
}

/* Has any of the living got ready since somebody looked? Then workers can begin here, whoever it was that killed others before they did. */
static int has_somebody_begun(struct pool *p) {
  uint32_t i;
  int has_begun = 0;
  for (i = 0; i < p->n_places; i++) {
    if (p->crew[i].state != CREW_LIVING || p->crew[i].was_ready) continue;
    p->crew[i].was_ready = atomic_load(&p->board->slots[i].phase) != BOARD_STARTING;
    has_begun |= p->crew[i].was_ready;
  }
  return has_begun;
}

/* The ring of a dead worker is empty: what is there to say about its end? Returns 1 and leaves the event in crew->last. */
static int report_death(struct pool *p, uint32_t number) {
  struct crew *crew = &p->crew[number];
  struct board_slot *slot = &p->board->slots[number];
  uint32_t phase = atomic_load(&slot->phase);
  int pid = crew->last.pid, has_event = 0;
  memset(&crew->last, 0, sizeof crew->last);
  crew->last.pid = pid;
  crew->last.worker = number + 1;
  crew->last.end = crew->end;
  crew->last.reason = crew->reason;
  if (atomic_load(&slot->has_last_words)) crew->last.words = board_last_words(p->board, number);
  if (phase == BOARD_CLAIMING) p->must_recheck = 1;
  if (crew->is_condemned) {
    has_event = settle_damage(p, crew, slot);
  } else if (phase == BOARD_OWNING) {
    has_event = settle_claim(p, crew, slot);
  }
  if (phase == BOARD_STARTING && !was_expected(p, crew, slot)) {
    if (has_somebody_begun(p)) p->failed_starts = 0;
    p->failed_starts++;
    crew->last.kind = POOL_UNREADY;
    has_event = schedule_gives_up(p->failed_starts, p->n_wanted);
  } else if (phase != BOARD_STARTING) {
    p->failed_starts = 0;
  }
  return has_event;
}

/* The call of a loss that waited to be shown may have been cancelled since. */
static int is_of_interest(struct pool *p, const struct pool_event *last) {
  struct pool_entry *state = last->kind == POOL_LOST ? pool_entry_of(p, last->sequence) : NULL;
  if (state == NULL) return last->kind != POOL_LOST;
  if (!state->is_cancelled) return 1;
  (void)pool_settle(p, state, last->first, 1);
  return 0;
}

/* Let the dead have their say, in turn. 1 and *event; 0: nothing. */
static int read_dead(struct pool *p, struct pool_event *event) {
  uint32_t i;
  for (i = 0; i < p->n_places; i++) {
    struct crew *crew = &p->crew[i];
    if (crew->state == CREW_DEAD) {
      if (show_output(p, i, event)) return 1;
      if (p->is_ending == ENDING_QUIT) { /* nobody reads what else it said: what it had claimed of cancelled entries is found by recheck */
        pool_close_crew(p, i);
        p->must_recheck = 1;
        continue;
      }
      if (read_ring(p, i, event)) return 1;
      if (p->is_broken) return 0;
      if (!report_death(p, i)) {
        pool_close_crew(p, i);
        continue;
      }
      crew->state = CREW_REPORTING;
    }
    if (crew->state == CREW_REPORTING) {
      if (is_of_interest(p, &crew->last)) {
        *event = crew->last;
        return 1;
      }
      pool_close_crew(p, i);
    }
  }
  return 0;
}

/*
 * Is [gap.begin, gap.end) of the entry in a living worker's hands? Cuts the gap to its first part with one answer; -1: cannot
 * be told now.
 */
static int is_owned(struct pool *p, uint64_t sequence, struct account_interval *gap) {
  uint32_t i;
  for (i = 0; i < p->n_places; i++) {
    struct board_slot *slot = &p->board->slots[i];
    uint32_t claims = atomic_load(&slot->claims), phase = atomic_load(&slot->phase);
    uint64_t first, end;
    if (p->crew[i].state == CREW_EMPTY) continue;
    if (p->crew[i].state != CREW_LIVING || phase == BOARD_CLAIMING) return -1;
    if (phase != BOARD_OWNING || atomic_load(&slot->entry) != sequence) continue;
    first = atomic_load(&slot->first);
    end = first + atomic_load(&slot->count);
    if (atomic_load(&slot->phase) != BOARD_OWNING || atomic_load(&slot->claims) != claims) return -1; /* parts of two claims */
    if (gap->begin >= first && gap->begin < end) {
      if (gap->end > end) gap->end = end;
      return 1;
    }
    if (first > gap->begin && first < gap->end) gap->end = first;
  }
  return 0;
}

static int is_unread(struct pool *p) {
  uint32_t i;
  for (i = 0; i < p->n_places; i++)
    if (p->crew[i].state == CREW_LIVING && channel_has_data(&p->crew[i].channel)) return 1;
  return 0;
}

static int recheck_entry(struct pool *p, uint64_t sequence, uint64_t begin, uint64_t end) {
  struct account_interval gap;
  struct pool_entry *state;
  while ((state = pool_entry_of(p, sequence)) != NULL && account_gap(&state->done, begin, end, &gap)) {
    int owned = is_owned(p, sequence, &gap);
    if (owned < 0 || (!owned && is_unread(p))) return -EAGAIN; /* read after the owners: whoever was done by then had published */
    begin = gap.end;
    if (!owned) pool_move_items(p, state, gap.begin, gap.end - gap.begin);
    if (p->is_broken) return p->is_broken;
  }
  return 0;
}

/*
 * A worker died between moving a cursor and noting what it got, or with frames that nobody will read. What was claimed, is not done and
 * belongs to no living worker must be it. The order matters: the cursor's state first, then who owns what, and all rings must be empty
 * afterwards (or the answer is for later).
 */
static void recheck(struct pool *p) {
  struct pool_entry *state, *next;
  for (state = pool_entry_after(p, NULL); state != NULL; state = next) {
    uint64_t claimed = state->target; /* also of those that have lost their place: nothing was left to claim */
    next = pool_entry_after(p, state);
    if (state->work.kind == BOARD_BROADCAST) continue; /* there each item has its worker */
    if (!state->is_cancelled && !state->is_drained && pool_has_place(p, state))
      claimed = atomic_load(&board_entry(p->board, state->node.key)->cursor) & BOARD_MAX_ITEMS;
    if (recheck_entry(p, state->node.key, state->work.first, state->work.first + claimed) < 0) return;
  }
  p->must_recheck = 0;
}

/* ---- the caller's view ---- */

/* What has to be done from time to time although no ring says so. */
static void keep_watch(struct pool *p) {
  int64_t now = pool_has_limits(p) ? pool_beat(p, 0) : os_now_ns();
  if (p->must_look || now - p->looked_at_ns > LOOK_EVERY_NS) {
    pool_look_for_dead(p, 0);
    p->looked_at_ns = now;
  }
  if (pool_has_limits(p)) pool_watch(p, pool_judged_ns(p, now));
}

/* Before anybody comes in the place of the dead: what these had claimed may be more urgent than what else would be found on the board. */
static void catch_up(struct pool *p) {
  if (p->must_recheck) recheck(p);
  if (p->n_places > p->n_wanted) pool_retire(p);
  pool_publish(p);
  pool_collect(p);
}

enum pool_event_kind pool_next(struct pool *p, struct pool_event *event) {
  uint32_t i, number = p->turn;
  p->has_more = 0;
  if (p->n_waiting) pool_publish(p);
  if (p->n_shown >= LOOK_EVERY_EVENTS) { /* the rings may never be empty */
    p->n_shown = 0;
    keep_watch(p);
    catch_up(p);
  }
  if (output_is_showing(&p->output) && show_output(p, p->output.number, event)) return event->kind;
  if (p->n_shown % LOOK_EVERY_FRAMES == 0) look_for_output(p);
  for (i = 0; i < p->n_places; i++) {
    if (number >= p->n_places) number = 0;
    if (p->crew[number].state == CREW_LIVING && (show_output(p, number, event) || read_ring(p, number, event))) {
      p->turn = number;
      p->n_shown++;
      FAULT_POINT("gather_mid");
      return event->kind;
    }
    number++;
  }
  p->has_news = p->n_shown = 0;
  keep_watch(p);
  if (read_dead(p, event)) return event->kind;
  catch_up(p);
  if (p->is_broken) {
    memset(event, 0, sizeof *event);
    return POOL_NOTHING;
  }
  event->kind = POOL_NOTHING;
  return POOL_NOTHING;
}

void pool_hurry(struct pool *p, int is_in_a_hurry) {
  p->is_in_a_hurry = is_in_a_hurry;
}

int pool_has_more(const struct pool *p) {
  return p->has_more;
}

void pool_put_off(struct pool *p) {
  p->has_news = 1;
}

int pool_done(struct pool *p, const struct pool_event *event, uint64_t count) {
  uint32_t number = event->worker - 1;
  struct crew *crew = &p->crew[number];
  struct pool_entry *state = pool_entry_of(p, event->sequence);
  int status = 0;
  if (event->kind == POOL_OUTPUT) {
    output_done(&p->output);
    if (!output_is_showing(&p->output) && ++p->turn >= p->n_places) p->turn = 0;
    return 0;
  }
  if (event->kind == POOL_RESULTS || event->kind == POOL_FAILED || event->kind == POOL_LOST) {
    if (state && state->is_cancelled) count = event->count; /* since it was shown: nobody cares for the rest of it */
    if (state) status = pool_settle(p, state, event->first, count);
    if (state && status == 0 && event->kind != POOL_LOST) crew->items += count;
    if (status == -EBADMSG || (count < event->count && !event->is_salvage)) condemn(p, number, event->sequence, event->first + count);
  }
  if (crew->state == CREW_REPORTING) {
    pool_close_crew(p, number);
  } else if (!event->is_salvage) {
    consume(p, number);
    if (++p->turn >= p->n_places) p->turn = 0;
  }
  FAULT_POINT("gather_stored");
  return status;
}

void pool_condemn(struct pool *p, const struct pool_event *event) {
  condemn(p, event->worker - 1, event->sequence, event->first);
}

int pool_block(struct pool *p, const struct pool_event *event, const unsigned char **data, size_t *length, uint64_t *before) {
  const struct pool_entry *state = pool_entry_of(p, event->sequence);
  const struct pool_block *block = state ? state->block : NULL;
  if (block == NULL || event->first < block->first) return -ENOENT;
  *data = arena_at(&p->arena, block->offset, block->length);
  *length = (size_t)block->length;
  *before = state->work.kind == BOARD_BROADCAST ? 0 : event->first - block->first;
  return *data ? 0 : -ENOMEM;
}

int pool_repost(struct pool *p, const struct pool_event *event, int64_t due_ns) {
  struct pool_entry *state = pool_entry_of(p, event->sequence);
  int status;
  if (state == NULL) return -EINVAL;
  if (state->is_cancelled || state->is_drained) return -ECANCELED;
  status = pool_post_again(p, state, event->first, 1, due_ns);
  if (status == 0) pool_mark(p, event->worker - 1, MARK_RETRY, (int64_t)event->first + 1);
  if (status == 0) p->has_news = 1;
  return status;
}

int pool_is_running(struct pool *p, uint32_t number) {
  const struct board_slot *slot = &p->board->slots[number];
  uint64_t first = atomic_load(&slot->first), count = atomic_load(&slot->count), sequence = atomic_load(&slot->entry);
  struct account_interval gap;
  struct pool_entry *state;
  if (p->crew[number].state == CREW_EMPTY || atomic_load(&slot->phase) != BOARD_OWNING) return 0;
  state = pool_entry_of(p, sequence);
  return state != NULL && account_gap(&state->done, first, first + count, &gap);
}
