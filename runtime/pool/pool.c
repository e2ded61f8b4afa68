/*
 * pool/pool -- see pool.h (may include pool/crew.h, pool/output.h, pool/recruit.h and pool/schedule.h). This file: opening, starting,
 * waking, waiting,
 * ending. What was posted: pool/ledger.c. What came back, and the dead: pool/recovery.c. Time limits: pool/watch.c, pool/pause.c.
 */
#include "pool/pool.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "pool/crew.h"
#include "pool/recruit.h"
#include "pool/schedule.h"
#include "process/interrupt.h"

#define HEARSAY_NS INT64_C(1000000000)
#define PATIENCE_NS INT64_C(30000000000) /* a helper that has not answered by then never will */

enum { DEFAULT_RING_BYTES = 8 << 20, SPIN_NS = 60 * 1000, SPIN_TURNS = 32, TICK_NS = 100 * 1000 * 1000,
       OVERDUE_NS = 10 * 1000 * 1000 /* looks for the end of somebody of whose death a helper says nothing */ };

enum { STALE_NS = 10 * 1000 * 1000, MOST_VAIN = 4 };

enum { TRIES = 5 /* helpers that somebody kills in a row */ };

/* ---- opening and closing ---- */

/* So many places are looked after from now on. */
static void set_places(struct pool *p, uint32_t n) {
  for (; p->n_made < n; p->n_made++) {
    struct crew *crew = &p->crew[p->n_made];
    process_init(&crew->process);
    output_init_pipes(&crew->output);
    links_init(&crew->errands);
    crew->bell.read_fd = crew->bell.write_fd = -1;
    board_channel(p->board, p->n_made, &crew->channel);
  }
  p->n_places = n;
  atomic_store(&p->board->n_places, n);
}

static void set_size(struct pool *p, uint32_t n) {
  p->n_wanted = n;
  atomic_store(&p->board->n_sharing, n);
  if (n > p->n_places) set_places(p, n);
}

static int allocate(struct pool *p, const struct pool_options *options) {
  if (p->start == POOL_SERVER || p->start == POOL_SPAWN) {
    p->helper = options->helper ? strdup(options->helper) : NULL;
    p->config = os_allocate(options->config_length + 1);
    if (p->helper == NULL || p->config == NULL) return -ENOMEM;
    if (options->config_length) memcpy(p->config, options->config, options->config_length);
    p->config_length = options->config_length;
  }
  p->crew = calloc(p->capacity, sizeof *p->crew);
  p->polls = calloc((size_t)4 * p->capacity + 2, sizeof *p->polls);
  if (p->crew == NULL || p->polls == NULL) return -ENOMEM;
  set_size(p, options->workers);
  return 0;
}

static int open_board(struct pool *p, uint64_t ring) {
  int status;
  if (p->start == POOL_FORK) return board_open(&p->board, p->capacity, ring);
  status = board_open_file(&p->board, p->capacity, ring, &p->board_fd);
  return status < 0 ? status : process_register_fd(p->board_fd);
}

int pool_open(struct pool **out, const struct pool_options *options) {
  struct pool *p;
  uint64_t ring = options->ring_bytes ? options->ring_bytes : DEFAULT_RING_BYTES;
  uint32_t capacity = options->capacity ? options->capacity : options->workers;
  int status;
  if (options->workers < 1 || capacity < options->workers || capacity > BOARD_MAX_WORKERS) return -EINVAL;
  if (ring < CHANNEL_MIN_BYTES || ring > CHANNEL_MAX_BYTES || (ring & (ring - 1))) return -EINVAL;
  p = os_allocate(sizeof *p);
  if (p == NULL) return -ENOMEM;
  memset(p, 0, sizeof *p);
  pool_open_ledger(p);
  p->owner = getpid();
  p->capacity = capacity;
  p->grace_ns = options->grace_ns;
  p->terms = options->terms;
  p->tasks = options->tasks;
  p->start = options->start;
  p->early = options->early;
  p->is_sealed = options->is_sealed;
  p->bell.read_fd = p->bell.write_fd = p->board_fd = p->events_fd = -1;
  arena_init(&p->arena);
  server_init(&p->server);
  watch_init(&p->watch);
  status = open_board(p, ring);
  if (status == 0) status = allocate(p, options);
  if (status == 0) status = output_open(&p->output, options->output);
  if (status == 0 && options->trace) status = pool_open_record(p, options->trace);
  if (status == 0) status = os_bell_open(&p->bell);
  if (status == 0) status = process_register_fd(p->bell.read_fd);
  if (status == 0 && p->bell.write_fd != p->bell.read_fd) status = process_register_fd(p->bell.write_fd);
  if (status < 0) {
    pool_close(p);
    return status;
  }
  *out = p;
  return 0;
}

static void forget_bell(struct os_bell *bell) {
  if (bell->read_fd >= 0) process_forget_fd(bell->read_fd);
  if (bell->write_fd >= 0) process_forget_fd(bell->write_fd);
  os_bell_close(bell);
}

static void forget_watch(struct pool *p) {
  if (p->watch.fd >= 0) process_forget_fd(p->watch.fd);
  if (p->watch.timer >= 0) process_forget_fd(p->watch.timer);
  watch_close(&p->watch);
}

static void free_pool(struct pool *p) {
  uint32_t i;
  pool_close_record(p);
  server_close(&p->server);
  for (i = 0; p->crew && i < p->n_made; i++) {
    if (p->crew[i].process.pid) process_abandon(&p->crew[i].process); /* it cannot be killed; a witness must not find it here any more */
    forget_bell(&p->crew[i].bell);
    output_close_pipes(&p->crew[i].output);
    channel_clear(&p->crew[i].channel);
  }
  pool_close_ledger(p);
  output_close(&p->output);
  forget_bell(&p->bell);
  if (p->arena.fd >= 0) process_forget_fd(p->arena.fd);
  arena_close(&p->arena);
  board_close(p->board);
  forget_watch(p);
  process_close_fd(&p->board_fd);
  process_close_fd(&p->events_fd);
  free(p->helper);
  free(p->config);
  free(p->crew);
  free(p->polls);
  free(p);
}

/* How long those who were killed are waited for. Of a helper's children only it can say that they are gone, and it may be stopped. */
static int64_t patience_with_killed(const struct pool *p) {
  return p->start == POOL_SERVER || p->start == POOL_EARLY ? HEARSAY_NS : PROCESS_DEATH_NS;
}

void pool_close(struct pool *p) {
  uint32_t i;
  if (p == NULL) return;
  if (p->crew != NULL && pool_living(p) > 0) {
    int64_t until = os_now_ns() + patience_with_killed(p);
    pool_kill(p);
    for (i = 0; i < p->n_places; i++) output_close_pipes(&p->crew[i].output); /* it interests nobody any more */
    while (pool_reap(p, 10 * 1000000) > 0 && os_now_ns() < until) {
    }
  }
  free_pool(p);
}

void pool_abandon(struct pool *p) {
  uint32_t i;
  int are_gone = process_fds_are_gone(p->owner); /* then these numbers may be somebody else's by now */
  for (i = 0; i < p->n_places; i++) {
    process_abandon(&p->crew[i].process);
    if (!are_gone) continue;
    p->crew[i].bell.read_fd = p->crew[i].bell.write_fd = -1;
    output_forget_pipes(&p->crew[i].output);
  }
  p->trace = NULL;
  server_abandon(&p->server);
  if (are_gone) p->bell.read_fd = p->bell.write_fd = p->arena.fd = p->board_fd = p->events_fd = -1;
  if (are_gone) watch_init(&p->watch);
  free_pool(p);
}

/* ---- input memory ---- */

static int open_input(struct pool *p) {
  int status;
  if (p->arena.fd >= 0) return 0;
  status = arena_open(&p->arena);
  if (status == 0) status = process_register_fd(p->arena.fd);
  if (status < 0) arena_close(&p->arena);
  return status;
}

int pool_input(struct pool *p, uint64_t length, uint64_t *offset, void **memory) {
  int status = open_input(p);
  if (status == 0) status = arena_allocate(&p->arena, length, offset);
  if (status < 0) return status;
  *memory = arena_at(&p->arena, *offset, length);
  return *memory ? 0 : -ENOMEM;
}

void pool_input_free(struct pool *p, uint64_t offset, uint64_t length) {
  arena_free(&p->arena, offset, length);
}

void pool_trim(struct pool *p) {
  arena_trim(&p->arena);
}

const void *pool_input_at(struct pool *p, uint64_t offset, uint64_t length) {
  return arena_at(&p->arena, offset, length);
}

/* ---- workers ---- */

uint32_t pool_size(const struct pool *p) {
  return p->n_wanted;
}

uint32_t pool_places(const struct pool *p) {
  return p->n_places;
}

int pool_resize(struct pool *p, uint32_t workers) {
  if (workers < 1 || workers > p->capacity) return -EINVAL;
  set_size(p, workers);
  pool_retire(p);
  if (!links_are_empty(&p->active)) pool_wake_all(p); /* who leaves may have been counted upon */
  return 0;
}

void pool_pause(struct pool *p, int is_paused) {
  uint32_t was_paused = atomic_exchange(&p->board->is_paused, (uint32_t)is_paused);
  if (was_paused && !is_paused) pool_wake_all(p);
}

static int is_leaving(const struct pool *p, uint32_t number) {
  return atomic_load_explicit(&p->board->slots[number].must_leave, memory_order_relaxed) != 0;
}

void pool_retire(struct pool *p) {
  uint32_t i;
  for (i = p->n_wanted; i < p->n_places; i++) {
    if (p->crew[i].state != CREW_LIVING || is_leaving(p, i) || !links_are_empty(&p->crew[i].errands)) continue;
    atomic_store(&p->board->slots[i].must_leave, 1);
    os_bell_ring(&p->crew[i].bell);
  }
  for (i = p->n_places; i > p->n_wanted && p->crew[i - 1].state == CREW_EMPTY && links_are_empty(&p->crew[i - 1].errands);) i--;
  if (i < p->n_places) set_places(p, i);
}

uint32_t pool_living(const struct pool *p) {
  uint32_t i, living = 0;
  for (i = 0; i < p->n_places; i++) living += p->crew[i].state == CREW_LIVING;
  return living;
}

uint64_t pool_forks(const struct pool *p) {
  return p->forks;
}

enum pool_start_method pool_method(const struct pool *p) {
  return p->start;
}

const char *pool_complaint(const struct pool *p) {
  return p->early ? p->early->complaint : p->server.complaint;
}

void pool_set_boot(struct pool *p, uint64_t offset, uint64_t length) {
  if (p->boot_length) pool_input_free(p, p->boot_offset, p->boot_length);
  p->boot_offset = offset;
  p->boot_length = length;
}

int pool_status(const struct pool *p) {
  return p->is_broken;
}

_Noreturn static void be_worker(struct pool *p, uint32_t number, const int writers[2]) {
  struct worker w;
  memset(&w, 0, sizeof w);
  w.number = number;
  w.board = p->board;
  w.arena = &p->arena;
  w.bell = p->crew[number].bell;
  w.host_bell = p->bell;
  w.lifeline = process_lifeline();
  w.tasks = &p->tasks;
  w.terms = p->terms;
  w.events = p->events ? &p->events[number] : NULL;
  output_begin(&w.output, &p->output, writers, &p->board->slots[number]);
  worker_main(&w);
}

/* As a copy of this process. Does not return in the child. */
static int fork_worker(struct pool *p, uint32_t number, const int writers[2]) {
  struct crew *crew = &p->crew[number];
  const int keep[7] = {crew->bell.read_fd, crew->bell.write_fd, p->bell.read_fd, p->bell.write_fd, p->arena.fd, writers[0], writers[1]};
  struct process_child child = {.keep = keep, .n_keep = 7, .command = &p->board->slots[number].command,
                                .is_sealed = p->is_sealed};
  int status;
  if (p->output.kind != OUTPUT_INHERIT) child.output = writers;
  status = process_fork(&crew->process, &child);
  if (status == 0) be_worker(p, number, writers);
  return status;
}

static struct server *server_of(struct pool *p) {
  return p->start == POOL_EARLY ? p->early : &p->server;
}

/* By a helper, which is there or gets there, and is told what a copy would have inherited. 0: it is ordered; 1: it is there; -errno. */
static int order_worker(struct pool *p, uint32_t number, const int writers[2]) {
  struct server_options options = {p->helper, p->config, p->config_length, PATIENCE_NS};
  struct crew *crew = &p->crew[number];
  const struct server_place place = {&p->board->slots[number].command, p->board_fd, number};
  struct recruit_order order;
  int fds[RECRUIT_MAX_FDS], status = 0;
  memset(&order, 0, sizeof order);
  order.number = number;
  order.host = (int32_t)p->owner;
  order.output_kind = p->output.kind;
  order.n_events = p->events_fd >= 0 ? p->capacity + 1 : 0;
  recruit_list_fds(&order, fds, p->board_fd, p->arena.fd, p->events_fd, &crew->bell, &p->bell, writers);
  order.terms = p->terms;
  order.boot_offset = p->boot_offset;
  order.boot_length = p->boot_length;
  memcpy(order.token, p->output.token, sizeof order.token);
  if (p->start == POOL_SPAWN) return server_become(&p->server, &options, &crew->process, &order, sizeof order, fds, order.n_fds,
                                                        place.command);
  if (p->start == POOL_EARLY && !server_is_open(p->early)) return -ESRCH;
  if (p->start == POOL_SERVER && !server_is_open(&p->server)) status = server_open(&p->server, &options);
  return status < 0 ? status : server_order(server_of(p), &crew->process, &order, sizeof order, fds, order.n_fds, &place, PATIENCE_NS);
}

static int is_killed_helper(int status) {
  return status == -EPIPE || status == -ECONNRESET;
}

/* One who is to be started, and how far that is: 0: ordered; 1: there; DIED; -errno. */
struct start {
  uint32_t number;
  int writers[2], status;
};

enum { DIED = 2 };

static void clear_place(struct pool *p, uint32_t number) {
  board_reset_slot(p->board, number);
  channel_reset(&p->crew[number].channel);
}

/* Has whoever was started there come so far that it may have claimed something? */
static int has_looked(const struct pool *p, uint32_t number) {
  return atomic_load(&p->board->slots[number].phase) != BOARD_STARTING;
}

/*
 * Somebody killed the helper: another one may live. Before it could say so, it may have started a worker, who is gone by now. If that one
 * had got as far as to look for work, then what it claimed is to be accounted for, and it is one of the dead.
 */
static int order_again(struct pool *p, const struct start *s) {
  int status = s->status, tries = 1;
  if (status != -EBUSY && has_looked(p, s->number)) return DIED;
  while ((is_killed_helper(status) || (status == -ETIMEDOUT && tries == 1)) && tries++ < TRIES) { /* (one that is stopped is killed, too) */
    clear_place(p, s->number);
    status = order_worker(p, s->number, s->writers);
    if (status == 0) status = server_collect(server_of(p), PATIENCE_NS);
    if (status < 0 && status != -EBUSY && has_looked(p, s->number)) return DIED;
  }
  return status;
}

static int begin_start(struct pool *p, struct start *s) {
  struct crew *crew = &p->crew[s->number];
  char *complaint = server_of(p)->complaint;
  int status;
  complaint[0] = '\0'; /* the last one's */
  clear_place(p, s->number); /* first: what its last worker left there would pass for traces of this one, should nobody be started */
  status = output_open_pipes(&p->output, &crew->output, s->writers);
  if (status < 0 && p->output.kind == OUTPUT_DISCARD)
    snprintf(complaint, sizeof p->server.complaint, "cannot open /dev/null: %s", strerror(-status));
  if (status == 0) status = os_bell_open(&crew->bell);
  if (status == 0) status = process_register_fd(crew->bell.read_fd);
  if (status == 0 && crew->bell.write_fd != crew->bell.read_fd) status = process_register_fd(crew->bell.write_fd);
  if (status < 0) return status;
  return p->start == POOL_FORK ? fork_worker(p, s->number, s->writers) : order_worker(p, s->number, s->writers);
}

/* The dead, whom nobody saw alive. */
static void enter_dead(struct pool *p, struct crew *crew) {
  memset(&crew->end, 0, sizeof crew->end);
  crew->state = CREW_DEAD;
  crew->last.pid = crew->has_salvaged = 0;
  output_worker_is_dead(&crew->output);
  p->has_news = 1;
}

/* Somebody may have been started there whom nobody can reach, and is gone: what he claimed already is for others. */
static void forget_claims(struct pool *p, uint32_t number) {
  if (atomic_load(&p->board->slots[number].phase) == BOARD_STARTING) return;
  atomic_store(&p->board->slots[number].phase, BOARD_PARKED);
  p->must_recheck = 1;
}

/* Returns 1: it lives, or did; or what it failed of, and nothing of it is left. */
static int end_start(struct pool *p, struct start *s) {
  struct crew *crew = &p->crew[s->number];
  output_close_writers(s->writers);
  if (s->status < 0) {
    output_close_pipes(&crew->output);
    forget_bell(&crew->bell);
    forget_claims(p, s->number);
    return s->status;
  }
  crew->state = CREW_LIVING;
  crew->reason = crew->is_asked = crew->is_condemned = crew->was_killed = crew->is_suspect = crew->was_ready = 0;
  crew->looked_to = 0;
  p->forks++;
  pool_mark(p, s->number, MARK_STARTED, (int64_t)crew->process.pid);
  if (s->status == DIED) enter_dead(p, crew);
  pool_summon(p, s->number);
  return 1;
}

/*
 * Orders are written one behind the other, so that the helper need not wait for the host, nor the host for each. What a helper has not
 * answered that somebody killed is ordered of the next one. The first failure, or 1.
 */
static int end_starts(struct pool *p, struct start *starts, uint32_t n, unsigned char *was_started) {
  uint32_t i;
  int status = 1;
  for (i = 0; i < n; i++) {
    if (starts[i].status == 0) starts[i].status = server_collect(server_of(p), PATIENCE_NS);
    if (starts[i].status == 1) was_started[starts[i].number] = end_start(p, &starts[i]) == 1;
  }
  for (i = 0; i < n; i++) {
    if (starts[i].status == 1) continue;
    if (p->start != POOL_FORK) starts[i].status = order_again(p, &starts[i]);
    starts[i].status = end_start(p, &starts[i]);
    was_started[starts[i].number] = starts[i].status == 1;
    if (starts[i].status < 0 && status == 1) status = starts[i].status;
  }
  return status;
}

static void undo_start(struct pool *p, const unsigned char *was_started) {
  uint32_t i;
  for (i = 0; i < p->n_places; i++) {
    struct process_end end;
    if (!was_started[i] || p->crew[i].state != CREW_LIVING) continue;
    process_kill_tree(&p->crew[i].process);
    (void)process_reap(&p->crew[i].process, patience_with_killed(p), &end);
    pool_close_crew(p, i);
    p->must_recheck = 1; /* it may have claimed something already */
  }
}

/* How many live and stay. */
static uint32_t count_staying(const struct pool *p) {
  uint32_t i, n = 0;
  for (i = 0; i < p->n_places; i++) n += p->crew[i].state == CREW_LIVING && (p->is_ending || (i < p->n_wanted && !is_leaving(p, i)));
  return n;
}

/* The first place from `number` on where somebody is to be started: anybody if one is missing, and those for whom there is work alone. */
static uint32_t next_vacancy(const struct pool *p, uint32_t number, int is_missing) {
  for (; number < p->n_places; number++) {
    const struct crew *crew = &p->crew[number];
    if (crew->state == CREW_EMPTY && ((is_missing && number < p->n_wanted) || !links_are_empty(&crew->errands))) break;
  }
  return number;
}

void pool_set_frugal(struct pool *p, int is_frugal) {
  p->is_frugal = is_frugal;
}

/* `staying` live: is one more wanted? Where all work is posted, and claimed, nobody who comes now would get any of it. */
static int needs_one_more(struct pool *p, uint32_t staying, uint32_t wanted) {
  if (staying >= wanted) return 0;
  return !p->is_frugal || staying == 0 || p->n_waiting > 0 || pool_claimable(p, 1) > 0;
}

int pool_needs_start(struct pool *p, uint32_t wanted) {
  return next_vacancy(p, 0, needs_one_more(p, count_staying(p), wanted < p->n_wanted ? wanted : p->n_wanted)) < p->n_places;
}

int pool_start(struct pool *p, uint32_t wanted, int all) {
  struct start starts[SERVER_MOST_ORDERS];
  unsigned char *was_started;
  uint32_t most = p->start == POOL_SERVER || p->start == POOL_EARLY ? SERVER_MOST_ORDERS : 1; /* at the same time */
  uint32_t i, n, living = pool_living(p), staying = count_staying(p);
  int status;
  if (wanted > p->n_wanted) wanted = p->n_wanted;
  if (living == 0) p->is_ending = ENDING_NOT; /* whoever was told to leave has left */
  i = next_vacancy(p, 0, needs_one_more(p, staying, wanted));
  if (i == p->n_places) return (int)living;
  status = open_input(p); /* now: workers inherit the descriptor, and map what is written later through it */
  if (status < 0) return status;
  was_started = calloc(p->n_places, 1);
  if (was_started == NULL) return -ENOMEM;
  if (p->start == POOL_FORK) process_begin_forks();
  for (status = 1; status == 1 && i < p->n_places; i = next_vacancy(p, i, needs_one_more(p, staying, wanted))) {
    for (n = 0; n < most && i < p->n_places; i = next_vacancy(p, i + 1, staying + n < wanted)) {
      starts[n].number = i;
      starts[n].status = begin_start(p, &starts[n]);
      if (starts[n++].status < 0) break;
    }
    if (n > 1 && starts[n - 1].status == -ETOOMANYREFS) (void)end_start(p, &starts[--n]); /* again, when the others are there */
    status = end_starts(p, starts, n, was_started);
    staying += n;
  }
  if (p->start == POOL_FORK) process_end_forks();
  living = pool_living(p);
  if (status < 0 && all) undo_start(p, was_started);
  free(was_started);
  if (status < 0 && (all || living == 0)) return status;
  return (int)living;
}

/* ---- asking workers ---- */

void pool_wake(struct pool *p, uint64_t needed) {
  uint64_t lookers = 0;
  uint32_t i;
  for (i = 0; i < p->n_places && lookers < needed; i++) {
    uint32_t phase = atomic_load(&p->board->slots[i].phase);
    if (p->crew[i].state != CREW_LIVING || is_leaving(p, i)) continue;
    lookers += phase == BOARD_IDLE || phase == BOARD_SPINNING || phase == BOARD_STARTING;
  }
  for (i = 0; i < p->n_places && lookers < needed; i++) {
    if (p->crew[i].state != CREW_LIVING || atomic_load(&p->board->slots[i].phase) != BOARD_PARKED) continue;
    os_bell_ring(&p->crew[i].bell);
    lookers++;
  }
}

/* A worker that died may have been counted upon by ring_sleepers: let the others see what there is to do. */
void pool_wake_all(struct pool *p) {
  uint32_t i;
  for (i = 0; i < p->n_places; i++)
    if (p->crew[i].state == CREW_LIVING && atomic_load(&p->board->slots[i].phase) == BOARD_PARKED) os_bell_ring(&p->crew[i].bell);
}

/* They look after the item that they are at, and go on if somebody else was first: so all of them are told. */
void pool_make_way(struct pool *p, enum board_lane lane) {
  uint32_t i;
  for (i = 0; i < p->n_places; i++) {
    struct board_slot *slot = &p->board->slots[i];
    uint64_t claims = atomic_load(&slot->claims), told = atomic_load(&slot->stopped_claim), sequence;
    if (p->crew[i].state != CREW_LIVING || atomic_load(&slot->phase) != BOARD_OWNING) continue;
    sequence = atomic_load(&slot->entry);
    if (sequence & BOARD_APART || !board_precedes(lane, board_lane_of(sequence)) || atomic_load(&slot->count) < 2) continue;
    if ((uint32_t)told != claims) atomic_compare_exchange_strong(&slot->stopped_claim, &told, claims | BOARD_GIVE_WAY);
  }
}

void pool_command(struct pool *p, uint32_t number, int reason, uint32_t claims, uint64_t item) {
  struct board_slot *slot = &p->board->slots[number];
  struct crew *crew = &p->crew[number];
  crew->is_asked = reason;
  if (reason != INTERRUPT_QUIT) pool_mark(p, number, reason == INTERRUPT_TIMEOUT ? MARK_TIMEOUT : MARK_CANCELLED, (int64_t)item + 1);
  crew->asked_claims = claims;
  crew->asked_item = item;
  crew->asked_at_ns = os_now_ns();
  atomic_store(&slot->command_claim, crew->asked_claims);
  atomic_store(&slot->command_item, crew->asked_item);
  if (reason == INTERRUPT_CANCEL) atomic_store(&slot->stopped_claim, claims);
  atomic_store(&slot->command, (uint32_t)reason);
  (void)process_signal(&crew->process, SIGTERM);
}

void pool_kill_worker(struct pool *p, uint32_t number, uint32_t claims, uint64_t item) {
  struct crew *crew = &p->crew[number];
  crew->killed_claims = claims;
  crew->killed_item = item;
  pool_mark(p, number, MARK_KILLED, (int64_t)item + 1);
  process_kill_tree(&crew->process);
  p->must_look = 1;
}

int pool_has_claim(struct pool *p, uint64_t call) {
  uint32_t i;
  for (i = 0; i < p->n_places; i++) {
    const struct board_slot *slot = &p->board->slots[i];
    const struct pool_entry *state;
    if (p->crew[i].state != CREW_LIVING || atomic_load(&slot->phase) != BOARD_OWNING) continue;
    state = pool_entry_of(p, atomic_load(&slot->entry));
    if (state != NULL && state->work.call == call) return 1;
  }
  return 0;
}

/* ---- waiting ---- */

static int has_data(struct pool *p) {
  uint32_t i;
  for (i = 0; i < p->n_places; i++)
    if (p->crew[i].state != CREW_EMPTY && channel_has_data(&p->crew[i].channel)) return 1;
  return 0;
}

/* How many workers are, or are about to be, at work. Not those who look in vain. */
static uint32_t count_busy(struct pool *p) {
  uint32_t i, owning = 0, claiming = 0, looking = 0, claimable;
  for (i = 0; i < p->n_places; i++) {
    uint32_t phase = atomic_load_explicit(&p->board->slots[i].phase, memory_order_relaxed);
    if (p->crew[i].state != CREW_LIVING) continue;
    owning += phase == BOARD_OWNING || phase == BOARD_STARTING || phase == BOARD_LEAVING;
    claiming += phase == BOARD_IDLE || phase == BOARD_CLAIMING;
    looking += phase == BOARD_SPINNING || phase == BOARD_PARKED;
  }
  claimable = pool_claimable(p, claiming + looking);
  return owning + (claimable ? claimable : claiming);
}

/* Is there a processor on which to look out for results without sleeping? */
static int may_spin(struct pool *p) {
  return schedule_spinners(p->board->n_cpus, count_busy(p)) > 0;
}

/*
 * Look out for data without sleeping. Where that is in vain time after time (tasks take long, or others have the processors), it is tried
 * now and then only: after each failure that follows another, twice as many waits sleep at once.
 */
static int spin_for_data(struct pool *p) {
  int64_t until;
  if (p->n_unspun > 0) {
    p->n_unspun--;
    return 0;
  }
  until = os_now_ns() + SPIN_NS;
  do {
    int turn;
    for (turn = 0; turn < SPIN_TURNS; turn++) {
      if (has_data(p)) {
        p->n_vain = 0;
        return 1;
      }
      os_relax();
    }
  } while (os_now_ns() < until && interrupt_pending() == 0);
  if (p->n_vain < MOST_VAIN) p->n_vain++;
  p->n_unspun = (1u << p->n_vain) - 2;
  return 0;
}

static size_t fill_polls(struct pool *p, int extra_fd) {
  size_t n = 0;
  uint32_t i;
  p->has_dead = p->has_overdue = 0;
  p->polls[n++] = (struct pollfd){p->bell.read_fd, POLLIN, 0};
  p->polls[n++] = (struct pollfd){extra_fd, POLLIN, 0};
  for (i = 0; i < p->n_places; i++) {
    const struct process *process = &p->crew[i].process;
    if (p->crew[i].state != CREW_LIVING) continue;
    if (process_is_noted(process)) p->has_dead = 1;
    if (process_is_overdue(process)) p->has_overdue = 1;
    p->polls[n++] = (struct pollfd){process_watch_fd(process), POLLIN, 0};
    if (process_notice_fd(process) >= 0) p->polls[n++] = (struct pollfd){process_notice_fd(process), POLLIN, 0};
    n += output_add_polls(&p->crew[i].output, p->polls + n);
  }
  return n;
}

/* The counterpart of fill_polls, after the sleep: who died, who has printed? */
static void take_polls(struct pool *p) {
  size_t n = 2;
  uint32_t i;
  for (i = 0; i < p->n_places; i++) {
    if (p->crew[i].state != CREW_LIVING) continue;
    p->crew[i].is_suspect = p->polls[n++].revents != 0;
    if (process_notice_fd(&p->crew[i].process) >= 0) p->crew[i].is_suspect |= p->polls[n++].revents != 0;
    p->must_look |= p->crew[i].is_suspect;
    n += output_take_polls(&p->crew[i].output, p->polls + n);
  }
}

/* One sleep. While there are time limits it is a short one, so that it shows when it took much longer: then we were stopped. */
static int sleep_in_poll(struct pool *p, size_t n, int64_t timeout_ns) {
  int status;
  if (p->has_dead) timeout_ns = 0;
  if (p->has_overdue && (timeout_ns < 0 || timeout_ns > OVERDUE_NS)) timeout_ns = OVERDUE_NS;
  if (!pool_has_limits(p)) return os_poll(p->polls, n, timeout_ns);
  if (timeout_ns < 0 || timeout_ns > TICK_NS) timeout_ns = TICK_NS;
  status = os_poll(p->polls, n, timeout_ns);
  (void)pool_beat(p, timeout_ns);
  return status;
}

void pool_set_patience(struct pool *p, int is_patient) {
  p->is_patient = is_patient;
}

int pool_wait(struct pool *p, int extra_fd, int64_t until_ns) {
  int64_t deadline, timeout = -1;
  size_t n;
  int status;
  if (pool_has_limits(p)) (void)pool_beat(p, 0);
  deadline = pool_next_deadline(p);
  if (p->n_waiting) pool_publish(p);
  if (has_data(p) || p->has_news) return 0;
  if (may_spin(p) && spin_for_data(p)) return 0;
  if (deadline >= 0 && (until_ns < 0 || deadline < until_ns)) until_ns = deadline;
  atomic_store(&p->board->host_sleep, p->is_patient ? BOARD_PATIENT : BOARD_ASLEEP);
  if (has_data(p)) {
    atomic_store(&p->board->host_sleep, BOARD_AWAKE);
    return 0;
  }
  if (until_ns >= 0) {
    timeout = until_ns - os_now_ns();
    if (timeout < 0) timeout = 0;
  }
  n = fill_polls(p, extra_fd);
  status = sleep_in_poll(p, n, timeout);
  atomic_store(&p->board->host_sleep, BOARD_AWAKE);
  if (p->has_dead || p->has_overdue) p->must_look = 1;
  if (status > 0 && p->polls[0].revents) os_bell_drain(&p->bell);
  if (status > 0) take_polls(p);
  if (status < 0 && status != -EINTR) p->must_look = 1; /* cannot sleep (ENOMEM): look instead, and try again */
  return status == -EINTR ? -EINTR : 0;
}

/* ---- somebody else's loop ---- */

int pool_fd(struct pool *p) {
  int status;
  if (!p->is_watched) {
    status = watch_open(&p->watch);
    if (status == 0) status = process_register_fd(p->watch.fd);
    if (status == 0) status = process_register_fd(p->watch.timer);
    if (status < 0 && status != -ENOSYS) {
      forget_watch(p);
      return status;
    }
    p->is_watched = 1;
    pool_rest(p, -1);
  }
  return p->watch.fd >= 0 ? p->watch.fd : p->bell.read_fd;
}

int pool_has_news(struct pool *p) {
  return p->has_news || p->must_look || has_data(p);
}

int pool_is_stale(const struct pool *p) {
  return !links_are_empty(&p->active) && os_now_ns() - p->looked_at_ns > STALE_NS;
}

void pool_rest(struct pool *p, int64_t until_ns) {
  int64_t deadline;
  size_t n;
  if (!p->is_watched) return;
  n = fill_polls(p, -1);
  if (p->watch.fd >= 0 && watch_add(&p->watch, p->polls, n) < 0) p->has_dead = 1; /* out of memory: come and look */
  deadline = pool_next_deadline(p);
  if (deadline >= 0 && (until_ns < 0 || deadline < until_ns)) until_ns = deadline;
  if (pool_has_limits(p) && (until_ns < 0 || os_now_ns() + TICK_NS < until_ns)) until_ns = os_now_ns() + TICK_NS;
  if (p->has_overdue && (until_ns < 0 || os_now_ns() + OVERDUE_NS < until_ns)) until_ns = os_now_ns() + OVERDUE_NS;
  if (p->watch.fd >= 0) watch_until(&p->watch, until_ns);
  atomic_store(&p->board->host_sleep, BOARD_ASLEEP);
  if (pool_has_news(p) || p->has_dead) os_bell_ring(&p->bell);
}

void pool_look(struct pool *p) {
  int status;
  if (!p->is_watched) return;
  atomic_store(&p->board->host_sleep, BOARD_AWAKE);
  if (pool_has_limits(p)) (void)pool_beat(p, TICK_NS);
  status = os_poll(p->polls, fill_polls(p, -1), 0);
  if (p->has_dead || p->has_overdue || status < 0) p->must_look = 1;
  if (status <= 0) return;
  if (p->polls[0].revents) os_bell_drain(&p->bell);
  take_polls(p);
}

/* ---- ending ---- */

void pool_continue(struct pool *p) {
  struct os_process now;
  uint32_t i;
  for (i = 0; i < p->n_places; i++) {
    const struct process *process = &p->crew[i].process;
    if (p->crew[i].state != CREW_LIVING || !os_look_at(process->pid, &now) || now.state != 'T') continue;
    (void)process_signal(process, SIGCONT);
  }
}

void pool_ask_to_leave(struct pool *p) {
  uint32_t i;
  FAULT_POINT("close_begin");
  if (p->is_ending == ENDING_NOT) p->is_ending = ENDING_LEAVE;
  for (i = 0; i < p->n_places; i++) {
    if (p->crew[i].state != CREW_LIVING) continue;
    atomic_store(&p->board->slots[i].must_leave, 1);
    os_bell_ring(&p->crew[i].bell);
  }
}

void pool_quit(struct pool *p) {
  uint32_t i;
  FAULT_POINT("term_begin");
  p->is_ending = ENDING_QUIT;
  pool_cancel_all(p);
  for (i = 0; i < p->n_places; i++) {
    if (p->crew[i].state != CREW_LIVING) continue;
    atomic_store(&p->board->slots[i].must_leave, 2);
    os_bell_ring(&p->crew[i].bell);
    pool_command(p, i, INTERRUPT_QUIT, atomic_load(&p->board->slots[i].claims), atomic_load(&p->board->slots[i].item));
  }
  FAULT_POINT("term_after_sigterm");
}

void pool_kill(struct pool *p) {
  uint32_t i;
  p->is_ending = ENDING_QUIT;
  for (i = 0; i < p->n_places; i++) {
    if (p->crew[i].state != CREW_LIVING) continue;
    p->crew[i].was_killed = 1;
    process_kill_tree(&p->crew[i].process);
  }
}

uint32_t pool_reap(struct pool *p, int64_t timeout_ns) {
  uint32_t i, living;
  size_t n;
  int status;
  FAULT_POINT("term_reap");
  if (timeout_ns <= 0) pool_look_for_dead(p, 0); /* else the poll set knows them */
  living = pool_living(p);
  if (living == 0 || timeout_ns <= 0) return living;
  for (i = 0; p->is_ending == ENDING_QUIT && i < p->n_places; i++) {
    struct channel_header header;
    const unsigned char *data;
    if (p->crew[i].state != CREW_LIVING) continue;
    /* Somebody may wait for room in its ring to say goodbye: what is said now interests nobody. */
    while (channel_peek(&p->crew[i].channel, &header, &data) == 1) channel_consume(&p->crew[i].channel);
    pool_give_room(p, i);
  }
  n = fill_polls(p, -1);
  status = os_poll(p->polls + 2, n - 2, p->has_dead ? 0 : timeout_ns);
  if (status > 0) take_polls(p);
  pool_look_for_dead(p, status > 0 && !p->has_dead);
  return pool_living(p);
}
