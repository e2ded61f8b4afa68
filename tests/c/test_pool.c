/*
 * Pool, worker and recovery together, with work that knows no Lua: item k is worth k * k, and some items do what items should not.
 * Every test collects its call to the end and demands each item exactly once, whoever died meanwhile.
 */
#include "unit.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "pool/crew.h"
#include "pool/pool.h"
#include "process/interrupt.h"

enum { MAX_ITEMS = 1 << 20, SMALL_RING = CHANNEL_MIN_BYTES, LOGGED = 8192 };

/* What workers and test share. Workers read the orders when they run an item. */
static struct shared {
  void (*item)(struct worker *w, uint64_t item); /* instead of squaring; NULL: square */
  uint64_t bad_item;                             /* for items that do something special at one number */
  _Atomic uint64_t started, finished, runs, bad_runs, seen;
  _Atomic int may_go_on;
  _Atomic int gates[8];                          /* see log_item */
  _Atomic uint64_t n_logged;
  uint32_t log[LOGGED];                          /* items in the order in which they began */
} *shared;

static struct pool *the_pool;
static struct {
  unsigned char *is_done;
  uint64_t done, failed, lost, notices, events, unready;
  struct pool_event last_lost;
  int forbid_start;      /* no new workers for dead ones */
  int count_of_retries;  /* lost or failed items are tried again so often */
} call;

/* ---- the work -------------------------------------------------------------------------------------- */

static void append_square(struct worker *w, uint64_t item) {
  uint64_t value = item * item;
  if (bytes_append(&w->frame, &value, sizeof value) < 0) process_exit(9);
}

static int start_work(void *context, struct worker *w) {
  (void)context, (void)w;
  atomic_fetch_add(&shared->started, 1);
  return 0;
}

static void finish_work(void *context, struct worker *w) {
  (void)context, (void)w;
  atomic_fetch_add(&shared->finished, 1);
}

/* What a claim does: each item noted, done, and its value in a frame; a stopped claim gives the rest up. */
static void run_work(void *context, struct worker *w) {
  uint64_t item, end = w->claim.first + w->claim.count;
  (void)context;
  worker_open_frame(w, w->claim.first);
  for (item = w->claim.first; item < end && !worker_is_stopped(w); item++) {
    if (worker_needs_frame(w)) {
      worker_close_frame(w);
      worker_open_frame(w, item);
    }
    worker_begin_item(w, item);
    atomic_fetch_add_explicit(&shared->runs, 1, memory_order_relaxed);
    if (shared->item) shared->item(w, item);
    append_square(w, item);
    worker_end_item(w);
  }
  worker_close_frame(w);
  if (item < end) worker_send(w, WORKER_DROPPED, item, (uint32_t)(end - item), NULL, 0);
  (void)interrupt_take();
}

/* ---- the house ------------------------------------------------------------------------------------- */

static void open_pool_with(uint32_t workers, uint64_t ring_bytes, int64_t grace_ns, struct worker_tasks tasks) {
  struct pool_options options = {.workers = workers, .ring_bytes = ring_bytes, .grace_ns = grace_ns, .tasks = tasks};
  assert_int_equal(pool_open(&the_pool, &options), 0);
  assert_int_equal(pool_start(the_pool, workers, 1), workers);
}

static void open_pool(uint32_t workers, uint64_t ring_bytes) {
  struct worker_tasks tasks = {NULL, start_work, run_work, finish_work};
  open_pool_with(workers, ring_bytes, long_ns(), tasks);
}

static int set_up(void **state) {
  memset((void *)shared, 0, sizeof *shared);
  free(call.is_done);
  memset(&call, 0, sizeof call);
  unsetenv("LUAPOOL_FAULT");
  unsetenv("LUAPOOL_FAIL");
  fault_reload();
  return note_the_house(state);
}

static int tear_down(void **state) {
  unsetenv("LUAPOOL_FAULT");
  unsetenv("LUAPOOL_FAIL");
  fault_reload();
  pool_close(the_pool);
  the_pool = NULL;
  free(call.is_done);
  call.is_done = NULL;
  return find_it_clean(state);
}

/* Until nobody lives; what leaving workers say is read meanwhile, or they would wait for room. */
static void wait_for_leavers(void) {
  int64_t deadline = os_now_ns() + long_ns();
  struct pool_event event;
  do {
    while (pool_next(the_pool, &event) != POOL_NOTHING) (void)pool_done(the_pool, &event, event.count);
    if (pool_living(the_pool) > 0) (void)pool_wait(the_pool, -1, os_now_ns() + 50 * MS);
  } while (pool_reap(the_pool, 0) > 0 && os_now_ns() < deadline);
  while (pool_next(the_pool, &event) != POOL_NOTHING) (void)pool_done(the_pool, &event, event.count);
  assert_int_equal(pool_living(the_pool), 0);
}

static void end_pool(void) {
  pool_ask_to_leave(the_pool);
  wait_for_leavers();
  pool_close(the_pool);
  the_pool = NULL;
}

/* ---- the host's side of a call --------------------------------------------------------------------- */

static void take_results(const struct pool_event *event) {
  uint64_t i, value, count = event->count;
  assert_true(event->length >= count * sizeof value);
  assert_true(event->first + count <= MAX_ITEMS);
  for (i = 0; i < count; i++) {
    memcpy(&value, event->data + i * sizeof value, sizeof value);
    if (value != (event->first + i) * (event->first + i)) break;
  }
  if (pool_done(the_pool, event, i) != 0) return; /* a liar's */
  for (count = i, i = 0; i < count; i++) {
    if (call.is_done[event->first + i]) fail_msg("item %llu came twice", (unsigned long long)(event->first + i));
    call.is_done[event->first + i] = 1;
    call.done++;
  }
}

static void take_loss(const struct pool_event *event) {
  assert_int_equal(event->count, 1);
  assert_true(event->first < MAX_ITEMS);
  if (event->kind == POOL_LOST) {
    call.lost++;
    call.last_lost = *event;
  } else {
    call.failed++;
  }
  if (call.count_of_retries-- > 0) {
    assert_int_equal(pool_repost(the_pool, event, 0), 0);
  } else {
    assert_false(call.is_done[event->first]);
    call.is_done[event->first] = 1;
    call.done++;
  }
  assert_int_equal(pool_done(the_pool, event, 1), 0);
}

static void take_events(void) {
  struct pool_event event;
  while (pool_next(the_pool, &event) != POOL_NOTHING) {
    call.events++;
    if (event.kind == POOL_RESULTS) {
      take_results(&event);
    } else if (event.kind == POOL_FAILED || event.kind == POOL_LOST) {
      take_loss(&event);
    } else {
      call.notices += event.kind == POOL_NOTICE;
      call.unready += event.kind == POOL_UNREADY;
      (void)pool_done(the_pool, &event, 0);
      if (event.kind == POOL_UNREADY) return;
    }
  }
}

static void post_kind(enum board_entry_kind kind, uint64_t number, uint64_t first, uint64_t count, uint32_t chunk, int64_t timeout_ns) {
  struct pool_work work = {.kind = kind, .chunk = chunk, .call = number, .first = first, .count = count, .job = 1};
  void *memory;
  work.timeout_ns = timeout_ns;
  if (kind == BOARD_BLOCK) {
    work.block_length = 100;
    assert_int_equal(pool_input(the_pool, 100, &work.block_offset, &memory), 0);
  }
  assert_int_equal(pool_post(the_pool, &work), 0);
}

static void post(uint64_t first, uint64_t count, uint32_t chunk) {
  post_kind(BOARD_INDEXED, 1, first, count, chunk, 0);
}

static void begin_call(void) {
  if (call.is_done == NULL) call.is_done = malloc(MAX_ITEMS);
  assert_non_null(call.is_done);
  memset(call.is_done, 0, MAX_ITEMS);
  call.done = 0;
}

/* One turn of the host's loop, which lasts at most a moment. */
static void turn(void) {
  assert_int_equal(pool_status(the_pool), 0);
  if (!call.forbid_start) assert_true(pool_start(the_pool, pool_size(the_pool), 0) > 0);
  (void)pool_wait(the_pool, -1, os_now_ns() + 50 * MS);
  take_events();
}

/* Until `items` of them are done. */
static void collect(uint64_t items) {
  int64_t deadline = os_now_ns() + long_ns();
  while (call.done < items && os_now_ns() < deadline) turn();
  assert_int_equal(call.done, items);
}

/* Nothing is on its way any more, and the pool has nothing left to do. */
static void assert_quiet(void) {
  int64_t deadline = os_now_ns() + long_ns();
  take_events();
  assert_int_equal(pool_can_post(the_pool), BOARD_ENTRIES);
  while (!pool_is_quiet(the_pool, 0) && os_now_ns() < deadline) sched_yield(); /* somebody may be looking for work */
  assert_true(os_now_ns() < deadline);
  assert_int_equal(the_pool->n_waiting, 0);
  assert_true(links_are_empty(&the_pool->active));
  assert_int_equal(the_pool->entries.count, 0);
  assert_int_equal(the_pool->calls.count, the_pool->n_idle_calls);
  assert_int_equal(the_pool->n_timed, 0);
}

static void square(uint64_t count, uint32_t chunk) {
  begin_call();
  post(0, count, chunk);
  collect(count);
  assert_quiet();
}

static void wait_until_quiet(void);
static void ignore_everything(struct worker *w, uint64_t item);
static void kill_somebody(uint64_t *seed);
static void wait_as_told(struct worker *w, uint64_t item);
static void overstay_at_the_bad_item(struct worker *w, uint64_t item);
static int wait_until_seen(uint64_t many);
static void wait_until_parked(void);
static void post_broadcast(uint64_t number, int64_t timeout_ns);

/* ---- what goes well -------------------------------------------------------------------------------- */

static void test_squares(void **state) {
  static const uint64_t counts[] = {1, 2, 3, 10, 1000, 100000};
  uint32_t workers;
  size_t i;
  (void)state;
  for (workers = 1; workers <= 4; workers++) {
    open_pool(workers, 0);
    for (i = 0; i < sizeof counts / sizeof *counts; i++) square(counts[i], 0);
    square(1000, 1);
    square(1000, 999);
    square(1000, 5000);
    assert_int_equal(pool_forks(the_pool), workers);
    end_pool();
    assert_int_equal(shared->started, shared->finished);
  }
  assert_int_equal(call.lost + call.failed + call.notices, 0);
}

/* The ring holds a sliver of the results: workers wait for room again and again. */
static void test_results_fill_the_ring(void **state) {
  (void)state;
  open_pool(3, SMALL_RING);
  square(300000, 0);
  square(100000, 50000);
  end_pool();
}

static void test_nobody_reads_for_a_while(void **state) {
  int64_t deadline = os_now_ns() + long_ns();
  int waiting = 0;
  uint32_t i;
  (void)state;
  open_pool(2, SMALL_RING);
  begin_call();
  post(0, 200000, 1000);
  while (waiting < 2 && os_now_ns() < deadline) { /* until both sleep for room */
    for (waiting = 0, i = 0; i < 2; i++) waiting += atomic_load(&the_pool->crew[i].channel.shared->is_waiting) != 0;
    poll(NULL, 0, 1);
  }
  assert_int_equal(waiting, 2);
  collect(200000);
  assert_quiet();
  end_pool();
}

/* Thousands of entries of a few items: the ring of entries is used many times over. */
static void test_many_small_entries(void **state) {
  uint64_t items = 0, posted = 0, entries = (uint64_t)rounds_of(10 * BOARD_ENTRIES);
  int64_t deadline = os_now_ns() + long_ns();
  (void)state;
  open_pool(2, 0);
  begin_call();
  while ((posted < entries || call.done < items) && os_now_ns() < deadline) {
    while (posted < entries && pool_can_post(the_pool) > 0) {
      uint64_t count = 1 + posted % 5;
      post_kind(posted % 2 ? BOARD_BLOCK : BOARD_INDEXED, 1, items, count, 0, 0);
      items += count;
      posted++;
    }
    turn();
  }
  assert_int_equal(call.done, items);
  assert_quiet();
  assert_int_equal(pool_in_flight(the_pool, 1), 0);
  end_pool();
}

static void wait_for_permission(struct worker *w, uint64_t item) {
  (void)w, (void)item;
  while (!atomic_load(&shared->may_go_on)) poll(NULL, 0, 1);
}

/* More than the board has places for: the rest waits, and comes in its order. */
static void test_a_backlog_is_worked_off(void **state) {
  struct pool_work work = {.kind = BOARD_INDEXED, .call = 1, .count = 1, .job = 1};
  uint64_t i, many = 5 * BOARD_ENTRIES;
  (void)state;
  shared->item = wait_for_permission;
  open_pool(2, 0);
  begin_call();
  for (i = 0; i < many; i++) post_kind(i % 2 ? BOARD_BLOCK : BOARD_INDEXED, 1, i, 1, 0, 0);
  while (atomic_load(&shared->runs) < 2) poll(NULL, 0, 1);
  assert_int_equal(pool_can_post(the_pool), 0);
  assert_int_equal(pool_unclaimed(the_pool, 1), many - 2);
  assert_int_equal(pool_unclaimed(the_pool, 2), 0);
  assert_int_equal(pool_in_flight(the_pool, 1), many / 2 * 100);
  assert_true(the_pool->n_waiting >= many - BOARD_ENTRIES - 2);
  atomic_store(&shared->may_go_on, 1);
  collect(many);
  assert_quiet();
  assert_int_equal(pool_unclaimed(the_pool, 1), 0);
  assert_int_equal(pool_in_flight(the_pool, 1), 0);
  work.count = 0;
  assert_int_equal(pool_post(the_pool, &work), -EINVAL);
  work.count = BOARD_MAX_ITEMS + 1;
  assert_int_equal(pool_post(the_pool, &work), -EINVAL);
  end_pool();
}

static void wait_at_the_bad_item(struct worker *w, uint64_t item) {
  if (item == shared->bad_item) wait_for_permission(w, item);
}

/* One long item, and far more short ones behind it than the board has places: it holds up nobody. */
static void test_a_long_item_holds_up_nobody(void **state) {
  enum { MANY = 4 * BOARD_ENTRIES };
  uint64_t i;
  (void)state;
  shared->item = wait_at_the_bad_item;
  open_pool(2, 0);
  begin_call();
  for (i = 0; i < MANY; i++) post(i, 1, 0); /* item 0 is the long one */
  collect(MANY - 1);
  assert_false(call.is_done[0]);
  assert_int_equal(pool_can_post(the_pool), BOARD_ENTRIES);
  atomic_store(&shared->may_go_on, 1);
  collect(MANY);
  assert_quiet();
  end_pool();
}

/* Thousands of calls of one item each, most of them cancelled before they ran. What is done for one is done without the others. */
static void test_thousands_of_calls(void **state) {
  enum { CALLS = 20000, CANCELLED_EACH = 3 };
  uint64_t i, left = 0;
  (void)state;
  shared->item = wait_at_the_bad_item;
  open_pool(2, 0);
  begin_call();
  for (i = 0; i < CALLS; i++) post_kind(BOARD_BLOCK, i + 1, i, 1, 0, i % 2 ? 1000 * long_ns() : 0);
  assert_int_equal(the_pool->calls.count, CALLS - the_pool->n_idle_calls);
  for (i = 1; i < CALLS; i++) {
    if (i % CANCELLED_EACH) {
      pool_cancel(the_pool, i + 1, -1);
    } else {
      left++;
    }
    assert_true(pool_in_flight(the_pool, i + 1) <= 100);
    assert_true(pool_unclaimed(the_pool, i + 1) <= 1);
    (void)pool_item_ns(the_pool, i + 1);
    (void)pool_is_quiet(the_pool, i + 1);
  }
  while (the_pool->n_waiting + the_pool->entries.count > 1) turn();
  assert_true(call.done >= left);
  for (i = 1; i < CALLS; i++) {
    assert_true(pool_is_quiet(the_pool, i + 1));
    if (i % CANCELLED_EACH == 0) assert_true(call.is_done[i]);
  }
  assert_false(call.is_done[0]);
  atomic_store(&shared->may_go_on, 1);
  collect(call.done + 1);
  assert_quiet();
  assert_true(the_pool->calls.count < 100);
  assert_int_equal(the_pool->arena.n_free, 1);
  end_pool();
}

/* Whoever is killed: what was lost is done before the backlog, and each item once. */
static void test_kills_with_a_backlog(void **state) {
  enum { MANY = 3 * BOARD_ENTRIES };
  uint64_t seed = 5, i;
  int64_t deadline = os_now_ns() + long_ns();
  (void)state;
  open_pool(3, SMALL_RING);
  begin_call();
  call.count_of_retries = 1 << 30;
  for (i = 0; i < MANY; i++) post_kind(i % 3 ? BOARD_INDEXED : BOARD_BLOCK, 1 + i % 7, 10 * i, 10, (uint32_t)(i % 4), 0);
  while (call.done < 10 * MANY && os_now_ns() < deadline) {
    if (random_below(&seed, 3) == 0) kill_somebody(&seed);
    turn();
  }
  assert_int_equal(call.done, 10 * MANY);
  assert_quiet();
  assert_true(pool_forks(the_pool) > 3);
  end_pool();
}

/* Closed, and cancelled, while most of it waits. */
static void test_ends_with_a_backlog(void **state) {
  uint64_t i;
  int round;
  (void)state;
  for (round = 0; round < 3; round++) {
    shared->item = ignore_everything;
    open_pool(2, 0);
    for (i = 0; i < 3 * BOARD_ENTRIES; i++) post_kind(BOARD_BLOCK, 1, i, 1, 0, 0);
    if (round == 1) {
      pool_cancel(the_pool, 1, 0);
      wait_until_quiet();
      assert_quiet();
      assert_int_equal(the_pool->arena.n_free, 1);
      shared->item = NULL;
      square(100, 0);
    } else if (round == 2) {
      pool_quit(the_pool);
      pool_kill(the_pool);
      while (pool_reap(the_pool, 50 * MS) > 0) continue;
      wait_until_quiet();
      assert_quiet();
    }
    pool_close(the_pool);
    the_pool = NULL;
  }
}

enum { LARGE_BYTES = 3 << 20 };

static unsigned char large_byte(uint64_t item, uint64_t at) {
  return (unsigned char)(item * 31 + at * 7 + (at >> 12));
}

static void run_large(void *context, struct worker *w) {
  uint64_t item, k;
  (void)context;
  for (item = w->claim.first; item < w->claim.first + w->claim.count; item++) {
    worker_open_frame(w, item);
    worker_begin_item(w, item);
    if (bytes_reserve(&w->frame, LARGE_BYTES + item) < 0) process_exit(9);
    for (k = 0; k < LARGE_BYTES + item; k++) w->frame.data[k] = large_byte(item, k);
    w->frame.length = LARGE_BYTES + item;
    worker_end_item(w);
    worker_close_frame(w);
  }
}

static void test_items_far_larger_than_the_ring(void **state) {
  enum { COUNT = 12 };
  struct worker_tasks tasks = {NULL, start_work, run_large, finish_work};
  int64_t deadline = os_now_ns() + long_ns();
  struct pool_event event;
  uint64_t seen = 0, k;
  (void)state;
  open_pool_with(2, SMALL_RING, long_ns(), tasks);
  post(0, COUNT, 0);
  while (seen < COUNT && os_now_ns() < deadline) {
    (void)pool_wait(the_pool, -1, os_now_ns() + 50 * MS);
    while (pool_next(the_pool, &event) != POOL_NOTHING) {
      assert_int_equal(event.kind, POOL_RESULTS);
      assert_int_equal(event.count, 1);
      assert_int_equal(event.length, LARGE_BYTES + event.first);
      for (k = 0; k < event.length; k += 97) assert_int_equal(event.data[k], large_byte(event.first, k));
      assert_int_equal(pool_done(the_pool, &event, 1), 0);
      seen++;
    }
  }
  assert_int_equal(seen, COUNT);
  assert_quiet();
  end_pool();
}

static void test_blocks_are_given_back(void **state) {
  uint64_t size = 0, i;
  (void)state;
  open_pool(2, 0);
  for (i = 0; i < 200; i++) {
    struct pool_work work = {.kind = BOARD_BLOCK, .call = 1, .count = 10, .job = 1, .block_length = 100000};
    void *memory;
    begin_call();
    assert_int_equal(pool_input(the_pool, work.block_length, &work.block_offset, &memory), 0);
    memset(memory, (int)i, 100000);
    assert_ptr_equal(pool_input_at(the_pool, work.block_offset, 100000), memory);
    assert_int_equal(pool_post(the_pool, &work), 0);
    assert_int_equal(pool_in_flight(the_pool, 1), 100000);
    collect(10);
    assert_int_equal(pool_in_flight(the_pool, 1), 0);
    if (i == 0) size = the_pool->arena.size;
  }
  assert_int_equal(the_pool->arena.size, size);
  end_pool();
}

static void test_options_are_checked(void **state) {
  struct pool_options options = {.workers = 0, .tasks = {NULL, start_work, run_work, finish_work}};
  struct pool *p = NULL;
  (void)state;
  assert_int_equal(pool_open(&p, &options), -EINVAL);
  options.workers = BOARD_MAX_WORKERS + 1;
  assert_int_equal(pool_open(&p, &options), -EINVAL);
  options.workers = 2;
  options.capacity = 1;
  assert_int_equal(pool_open(&p, &options), -EINVAL);
  options.capacity = BOARD_MAX_WORKERS + 1;
  assert_int_equal(pool_open(&p, &options), -EINVAL);
  options.capacity = 0;
  options.workers = 1;
  options.ring_bytes = CHANNEL_MIN_BYTES / 2;
  assert_int_equal(pool_open(&p, &options), -EINVAL);
  options.ring_bytes = CHANNEL_MIN_BYTES + 64;
  assert_int_equal(pool_open(&p, &options), -EINVAL);
  options.ring_bytes = (uint64_t)CHANNEL_MAX_BYTES * 2;
  assert_int_equal(pool_open(&p, &options), -EINVAL);
  assert_null(p);
  pool_close(NULL);
}

/* ---- items that end their worker ------------------------------------------------------------------- */

static void die_at_the_bad_item(struct worker *w, uint64_t item) {
  (void)w;
  if (item != shared->bad_item) return;
  atomic_fetch_add(&shared->bad_runs, 1);
  raise(SIGKILL);
}

static void test_deaths_are_blamed_on_their_items(void **state) {
  static const uint64_t items[] = {0, 1, 499, 998, 999};
  static const uint32_t chunks[] = {0, 1, 7, 1000};
  size_t i, c;
  (void)state;
  shared->item = die_at_the_bad_item;
  open_pool(2, 0);
  for (i = 0; i < sizeof items / sizeof *items; i++)
    for (c = 0; c < sizeof chunks / sizeof *chunks; c++) {
      shared->bad_item = items[i];
      atomic_store(&shared->runs, 0);
      call.lost = 0;
      square(1000, chunks[c]);
      assert_int_equal(call.lost, 1);
      assert_int_equal(call.last_lost.first, items[i]);
      assert_int_equal(call.last_lost.end.signal, SIGKILL);
      assert_int_equal(call.last_lost.reason, 0);
      assert_true(call.last_lost.pid > 0);
      assert_int_equal(shared->runs, 1000); /* what was done before the death was not done again */
    }
  end_pool();
}

static void exit_at_every_third(struct worker *w, uint64_t item) {
  (void)w;
  if (item % 3 == 0) _exit(7);
}

static void test_ends_tell_how(void **state) {
  (void)state;
  shared->item = exit_at_every_third;
  open_pool(2, 0);
  square(90, 0);
  assert_int_equal(call.lost, 30);
  assert_int_equal(call.last_lost.end.signal, 0);
  assert_int_equal(call.last_lost.end.exit_code, 7);
  end_pool();
}

static void test_lost_items_are_tried_again(void **state) {
  int kind;
  (void)state;
  shared->item = die_at_the_bad_item;
  shared->bad_item = 37;
  open_pool(2, 0);
  for (kind = BOARD_INDEXED; kind <= BOARD_BLOCK; kind++) {
    begin_call();
    call.lost = 0;
    call.count_of_retries = 4;
    atomic_store(&shared->bad_runs, 0);
    post_kind((enum board_entry_kind)kind, 1, 30, 20, 0, 0);
    collect(20);
    assert_quiet();
    assert_int_equal(call.lost, 5);
    assert_int_equal(shared->bad_runs, 5);
    assert_int_equal(pool_in_flight(the_pool, 1), 0);
  }
  end_pool();
}

/* One worker, a block of one item, number 3, at which it dies; the event says so. */
static void lose_item_three(struct pool_event *event) {
  int64_t deadline = os_now_ns() + long_ns();
  shared->item = die_at_the_bad_item;
  shared->bad_item = 3;
  open_pool(1, 0);
  post_kind(BOARD_BLOCK, 1, 3, 1, 0, 0);
  while (pool_next(the_pool, event) != POOL_LOST && os_now_ns() < deadline) (void)pool_wait(the_pool, -1, os_now_ns() + 50 * MS);
  assert_int_equal(event->kind, POOL_LOST);
}

/* The pool is closed while a retry waits for its turn. */
static void test_closing_with_retries_in_hand(void **state) {
  struct pool_event event = {.kind = POOL_NOTHING};
  (void)state;
  lose_item_three(&event);
  assert_int_equal(pool_repost(the_pool, &event, 0), 0);
  assert_int_equal(pool_done(the_pool, &event, 1), 0);
  assert_int_equal(the_pool->n_waiting, 1);
  pool_close(the_pool);
  the_pool = NULL;
}

static void fail_at_every_tenth(struct worker *w, uint64_t item) {
  if (item % 10) return;
  worker_close_frame(w);
  worker_send(w, WORKER_FAILED, item, 1, "no", 2);
}

static void run_failing(void *context, struct worker *w) {
  uint64_t item, end = w->claim.first + w->claim.count;
  (void)context;
  for (item = w->claim.first; item < end; item++) {
    worker_begin_item(w, item);
    if (item % 10 == 0) {
      fail_at_every_tenth(w, item);
      continue;
    }
    worker_open_frame(w, item);
    append_square(w, item);
    worker_end_item(w);
    worker_close_frame(w);
  }
}

static void test_failed_items_are_reported(void **state) {
  struct worker_tasks tasks = {NULL, start_work, run_failing, finish_work};
  (void)state;
  open_pool_with(2, 0, long_ns(), tasks);
  square(1000, 0);
  assert_int_equal(call.failed, 100);
  call.count_of_retries = 50;
  call.failed = 0;
  square(1000, 0);
  assert_int_equal(call.failed, 150);
  end_pool();
}

/* ---- kills at any moment --------------------------------------------------------------------------- */

static void kill_somebody(uint64_t *seed) {
  struct pool_worker_info info;
  pool_info(the_pool, (uint32_t)random_below(seed, pool_size(the_pool)), &info);
  if (info.pid > 0) (void)kill(info.pid, SIGKILL);
}

static void killed_round(uint64_t count, uint32_t chunk, uint64_t *seed) {
  int64_t deadline = os_now_ns() + long_ns();
  int kills = 1 + (int)random_below(seed, 3);
  begin_call();
  post(0, count, chunk);
  while (call.done < count && os_now_ns() < deadline) {
    uint64_t turns = random_below(seed, 30000);
    while (turns-- > 0) os_relax();
    if (kills-- > 0) kill_somebody(seed);
    turn();
  }
  assert_int_equal(call.done, count);
}

static void test_killed_at_random_moments(void **state) {
  uint64_t seed = 7;
  int round, rounds = rounds_of(400);
  (void)state;
  open_pool(3, SMALL_RING);
  for (round = 0; round < rounds; round++) killed_round(200 + random_below(&seed, 3000), (uint32_t)(round % 4 ? 0 : 1 + round % 3), &seed);
  assert_quiet();
  assert_true(pool_forks(the_pool) > 3);
  end_pool();
}

#ifdef LUAPOOL_FAULTS
static void with_fault(const char *rule) {
  setenv("LUAPOOL_FAULT", rule, 1);
  fault_reload();
}

/*
 * Every worker dies at its n-th passage of the point, and so does whoever comes in its place: nothing is lost, and what it was blamed for
 * is in hand.
 */
static void die_at(const char *point, int n, uint32_t workers, uint64_t ring_bytes, uint64_t count, uint32_t chunk) {
  char rule[64];
  snprintf(rule, sizeof rule, "%s#%d:kill", point, n);
  with_fault(rule);
  open_pool(workers, ring_bytes);
  call.count_of_retries = 1 << 30;
  square((uint64_t)rounds_of((int)count), chunk);
  if (slowness() == 1 && strcmp(point, "worker_idle") != 0) /* the busy need not come to that, nor the last to be replaced */
    assert_true(pool_forks(the_pool) > workers);
  with_fault("");
  end_pool();
}

static void test_killed_between_claim_and_note(void **state) {
  (void)state;
  die_at("worker_claimed", 2, 1, 0, 100, 1);
  assert_int_equal(call.lost, 0); /* no item ran: none is to blame */
  die_at("worker_claimed", 2, 3, 0, 100, 1);
  die_at("worker_claimed", 3, 2, 0, 3000, 20);
  die_at("worker_claimed", 5, 3, 0, 20000, 0);
  assert_int_equal(call.lost, 0);
}

static void test_killed_around_publishing(void **state) {
  (void)state;
  die_at("worker_result_before", 3, 2, 0, 100, 1);
  die_at("worker_result_before", 3, 2, 0, 10000, 0);
  die_at("worker_result_after", 3, 2, 0, 100, 1);
  die_at("worker_result_after", 3, 3, SMALL_RING, 20000, 0);
  die_at("worker_idle", 1, 2, 0, 3000, 10);
}

/* One worker dies with a claim that it never noted, the others never stop claiming and finishing around it. */
static void test_recheck_while_others_work(void **state) {
  int round, rounds = rounds_of(60);
  (void)state;
  for (round = 0; round < rounds; round++) {
    char rule[64];
    snprintf(rule, sizeof rule, "worker_claimed#%d@1:kill", 2 + round);
    with_fault(rule);
    open_pool(3, 0);
    square(2000, 1);
    assert_int_equal(call.lost, 0);
    with_fault("");
    end_pool();
  }
}

static void test_no_memory_for_a_pool(void **state) {
  struct pool_options options = {.workers = 2, .tasks = {NULL, start_work, run_work, finish_work}};
  static const char *const rules[] = {"malloc#1:ENOMEM", "mmap#0:ENOMEM", "bell#1:EMFILE"};
  struct pool *p = NULL;
  size_t i;
  (void)state;
  for (i = 0; i < sizeof rules / sizeof *rules; i++) {
    setenv("LUAPOOL_FAIL", rules[i], 1);
    fault_reload();
    assert_true(pool_open(&p, &options) < 0);
    assert_null(p);
  }
}

/* The others are not started when the first have done it all; each fork is put off a little, so that these have the time. */
static void test_nobody_is_started_for_nothing(void **state) {
  struct pool_options options = {.workers = 16, .tasks = {NULL, start_work, run_work, finish_work}};
  (void)state;
  setenv("LUAPOOL_FAULT", "before_fork#0:sleep=200", 1);
  fault_reload();
  assert_int_equal(pool_open(&the_pool, &options), 0);
  pool_set_frugal(the_pool, 1);
  begin_call();
  post(0, 3, 1);
  assert_true(pool_start(the_pool, 16, 1) > 0);
  assert_true(pool_forks(the_pool) < 16);
  assert_false(pool_needs_start(the_pool, 16));
  call.forbid_start = 1;
  collect(3);
  assert_quiet();
  unsetenv("LUAPOOL_FAULT");
  fault_reload();
  post(0, 1000, 1); /* there is work again */
  assert_int_equal(pool_start(the_pool, 16, 1) > 0, 1);
  pool_set_frugal(the_pool, 0);
  assert_int_equal(pool_start(the_pool, 16, 1), 16);
  begin_call();
  collect(1000);
  assert_quiet();
  end_pool();
}

static void test_fork_fails_half_way(void **state) {
  struct pool_options options = {.workers = 4, .tasks = {NULL, start_work, run_work, finish_work}};
  int round;
  (void)state;
  setenv("LUAPOOL_FAIL", "fork#3:EAGAIN", 1);
  fault_reload();
  assert_int_equal(pool_open(&the_pool, &options), 0);
  assert_int_equal(pool_start(the_pool, 4, 1), -EAGAIN);
  assert_int_equal(pool_living(the_pool), 0);
  for (round = 0; round < rounds_of(20); round++) { /* those who were started may have claimed something before they had to go */
    fault_reload();
    if (round % 2) post_broadcast(1, 0); else post(0, 1000, 10);
    assert_int_equal(pool_start(the_pool, 4, 1), -EAGAIN);
    if (round % 4 < 2) {
      pool_cancel(the_pool, 1, -1);
      wait_until_quiet();
      assert_quiet();
      continue;
    }
    unsetenv("LUAPOOL_FAIL");
    fault_reload();
    begin_call();
    collect(round % 2 ? 4 : 1000);
    assert_quiet();
    pool_ask_to_leave(the_pool);
    wait_for_leavers();
    setenv("LUAPOOL_FAIL", "fork#3:EAGAIN", 1);
  }
  fault_reload();
  assert_int_equal(pool_start(the_pool, 4, 0), 2);
  square(1000, 0); /* turn() starts the rest */
  assert_int_equal(pool_living(the_pool), 4);
}
#endif

/* ---- broadcasts ------------------------------------------------------------------------------------- */

enum { FIRST_OF_OTHERS = 1000 };

static void post_broadcast(uint64_t number, int64_t timeout_ns) {
  post_kind(BOARD_BROADCAST, number, 0, pool_size(the_pool), 0, timeout_ns);
}

/* Items of broadcasts come to the worker of that number; those of other calls begin at FIRST_OF_OTHERS. */
static void check_broadcast(struct worker *w, uint64_t item) {
  if (item >= FIRST_OF_OTHERS) return;
  atomic_fetch_add(&shared->seen, 1);
  if (w->number != item || w->claim.kind != BOARD_BROADCAST || w->claim.count != 1) atomic_fetch_add(&shared->bad_runs, 1);
}

static void test_broadcast(void **state) {
  uint32_t workers;
  int round;
  (void)state;
  shared->item = check_broadcast;
  for (workers = 1; workers <= 5; workers += 2) {
    open_pool(workers, 0);
    for (round = 0; round < 20; round++) {
      begin_call();
      post_broadcast(1, 0);
      if (round % 2) post_kind(BOARD_INDEXED, 2, FIRST_OF_OTHERS, 2000, 0, 0);
      collect(workers + (round % 2 ? 2000 : 0));
      assert_quiet();
    }
    assert_int_equal(pool_forks(the_pool), workers);
    end_pool();
    assert_int_equal(atomic_exchange(&shared->seen, 0), 20 * workers);
  }
  assert_int_equal(shared->bad_runs, 0);
}

/* Many of them at once: each worker does his in their order. */
static uint64_t last_claim; /* in a worker */

static void check_order(struct worker *w, uint64_t item) {
  check_broadcast(w, item);
  if (w->claim.sequence <= last_claim) atomic_fetch_add(&shared->bad_runs, 1);
  last_claim = w->claim.sequence;
}

static void test_many_broadcasts(void **state) {
  enum { MANY = 200 };
  int64_t deadline = os_now_ns() + long_ns();
  struct pool_event event;
  uint64_t done = 0;
  int i;
  (void)state;
  shared->item = check_order;
  last_claim = 0;
  open_pool(3, 0);
  for (i = 0; i < MANY; i++) post_broadcast((uint64_t)i + 1, i % 2 ? 1000 * long_ns() : 0);
  while (done < 3 * MANY && os_now_ns() < deadline) {
    (void)pool_wait(the_pool, -1, os_now_ns() + 50 * MS);
    while (pool_next(the_pool, &event) != POOL_NOTHING) {
      assert_int_equal(event.kind, POOL_RESULTS);
      assert_int_equal(event.first, event.worker - 1);
      assert_int_equal(pool_done(the_pool, &event, 1), 0);
      done++;
    }
  }
  assert_int_equal(done, 3 * MANY);
  assert_quiet();
  assert_int_equal(shared->bad_runs, 0);
  end_pool();
}

static void test_broadcast_to_those_who_are_not(void **state) {
  struct pool_options options = {.workers = 3, .grace_ns = long_ns(), .tasks = {NULL, start_work, run_work, finish_work}};
  struct pool_work work = {.kind = BOARD_BROADCAST, .call = 1, .count = 4, .job = 1};
  (void)state;
  shared->item = check_broadcast;
  assert_int_equal(pool_open(&the_pool, &options), 0);
  assert_int_equal(pool_post(the_pool, &work), -EINVAL);
  work.first = 3, work.count = 1;
  assert_int_equal(pool_post(the_pool, &work), -EINVAL);
  begin_call();
  post_broadcast(1, 0); /* who does not live yet will do it */
  collect(3);
  assert_quiet();
  assert_int_equal(shared->seen, 3);
  assert_int_equal(shared->bad_runs, 0);
  end_pool();
}

static void test_death_in_a_broadcast(void **state) {
  int retries;
  (void)state;
  shared->item = die_at_the_bad_item;
  shared->bad_item = 2;
  open_pool(4, 0);
  for (retries = 0; retries < 3; retries++) {
    begin_call();
    call.lost = 0;
    call.count_of_retries = retries;
    atomic_store(&shared->bad_runs, 0);
    post_broadcast(1, 0);
    collect(4);
    assert_quiet();
    assert_int_equal(call.lost, retries + 1);
    assert_int_equal(call.last_lost.first, 2);
    assert_int_equal(call.last_lost.worker, 3);
    assert_int_equal(shared->bad_runs, retries + 1);
  }
  assert_true(pool_forks(the_pool) >= 4 + 5); /* the last one may not have been replaced yet */
  end_pool();
}

static void test_broadcast_while_workers_die(void **state) {
  uint64_t seed = 31;
  int round, rounds = rounds_of(200);
  (void)state;
  shared->item = check_broadcast;
  open_pool(3, SMALL_RING);
  for (round = 0; round < rounds; round++) {
    int64_t deadline = os_now_ns() + long_ns();
    uint64_t turns = random_below(&seed, 3000);
    begin_call();
    call.count_of_retries = 1 << 30;
    post_broadcast(1, 0);
    if (round % 2) post_kind(BOARD_INDEXED, 2, FIRST_OF_OTHERS, 1000, 0, 0);
    while (turns-- > 0) os_relax();
    while (call.done < 3 && os_now_ns() < deadline) {
      if (random_below(&seed, 3) == 0) kill_somebody(&seed);
      turn();
    }
    collect(round % 2 ? 1003 : 3);
  }
  assert_quiet();
  assert_int_equal(shared->bad_runs, 0);
  end_pool();
}

static void test_timeout_in_a_broadcast(void **state) {
  struct worker_tasks tasks = {NULL, start_work, run_work, finish_work};
  (void)state;
  shared->item = overstay_at_the_bad_item;
  shared->bad_item = 1;
  open_pool_with(3, 0, 20 * MS, tasks);
  begin_call();
  post_broadcast(1, 300 * MS * slowness());
  collect(3);
  assert_int_equal(call.lost, 1);
  assert_int_equal(call.last_lost.first, 1);
  assert_int_equal(call.last_lost.reason, INTERRUPT_TIMEOUT);
  assert_quiet();
  end_pool();
}

/* Some are in it, some have not come to it: these never do. */
static void test_cancel_of_a_broadcast(void **state) {
  int round;
  (void)state;
  for (round = 0; round < 3; round++) {
    struct pool_event event;
    shared->item = round == 1 ? ignore_everything : wait_as_told;
    atomic_store(&shared->seen, 0);
    atomic_store(&shared->may_go_on, 0);
    open_pool(3, 0);
    begin_call();
    if (round != 1) post_kind(BOARD_INDEXED, 2, 100, 2, 1, 0); /* these hold up two of them */
    if (round != 1) assert_true(wait_until_seen(2));
    post_broadcast(1, 0);
    post_broadcast(1, 0);
    assert_true(wait_until_seen(3));
    pool_cancel(the_pool, 1, round == 1 ? os_now_ns() + 50 * MS : -1);
    if (round == 2) pool_kill_stragglers(the_pool, 1);
    wait_until_quiet();
    if (round != 1) {
      assert_int_equal(shared->seen, 3);
      atomic_store(&shared->may_go_on, 1);
      collect(2);
    }
    while (pool_next(the_pool, &event) != POOL_NOTHING) (void)pool_done(the_pool, &event, event.count);
    assert_quiet();
    shared->item = NULL;
    begin_call();
    post_broadcast(1, 0);
    collect(3);
    end_pool();
  }
  assert_int_equal(call.lost, 0);
}

/* Cancelled at any moment, while workers die: nothing is left over. */
static void test_cancel_of_broadcasts_at_any_moment(void **state) {
  uint64_t seed = 41;
  int round, rounds = rounds_of(300);
  (void)state;
  shared->item = check_broadcast;
  open_pool(3, SMALL_RING);
  for (round = 0; round < rounds; round++) {
    uint64_t turns = random_below(&seed, 3000);
    post_broadcast(1, 0);
    post_broadcast(1, 0);
    while (turns-- > 0) os_relax();
    if (round % 3 == 0) kill_somebody(&seed);
    pool_cancel(the_pool, 1, -1);
    wait_until_quiet();
    begin_call();
    call.count_of_retries = 1 << 30;
    post_broadcast(2, 0);
    collect(3);
  }
  assert_quiet();
  assert_int_equal(shared->bad_runs, 0);
  end_pool();
}

/* A worker that speaks for another. */
static void run_for_another(void *context, struct worker *w) {
  uint64_t value = 0;
  if (w->number != 0 || atomic_fetch_add(&shared->bad_runs, 1) > 0) {
    run_work(context, w);
    return;
  }
  worker_begin_item(w, 0);
  value = 1;
  worker_send(w, WORKER_RESULTS, 1, 1, &value, sizeof value);
}

static void test_nobody_speaks_for_another(void **state) {
  struct worker_tasks tasks = {NULL, start_work, run_for_another, finish_work};
  (void)state;
  open_pool_with(2, 0, long_ns(), tasks);
  begin_call();
  post_broadcast(1, 0);
  collect(2);
  assert_int_equal(call.lost, 1);
  assert_int_equal(call.last_lost.reason, POOL_DAMAGED);
  assert_quiet();
  end_pool();
}

#ifdef LUAPOOL_FAULTS
static void test_killed_before_it_began_the_broadcast(void **state) {
  static const char *const rules[] = {"worker_claimed#2@2:kill",       "worker_claimed#2:kill",        "worker_idle#1@2:kill",
                                      "worker_result_before#1@3:kill", "worker_result_after#1@3:kill", "worker_result_after#2:kill"};
  size_t i;
  (void)state;
  shared->item = check_broadcast;
  for (i = 0; i < sizeof rules / sizeof *rules; i++) {
    int round;
    with_fault(rules[i]);
    open_pool(3, 0);
    for (round = 0; round < 3; round++) {
      begin_call();
      post_broadcast(1, 0);
      if (round) post_kind(BOARD_INDEXED, 2, FIRST_OF_OTHERS, 100, 0, 0);
      collect(round ? 103 : 3);
    }
    assert_int_equal(call.lost, 0); /* what was finished was salvaged, what was not begun fell to others */
    with_fault("");
    assert_quiet();
    end_pool();
  }
  assert_int_equal(shared->bad_runs, 0);
}
#endif

/* ---- more of them, and fewer ------------------------------------------------------------------------- */

static void open_pool_for(uint32_t workers, uint32_t capacity) {
  struct pool_options options = {.workers = workers, .capacity = capacity, .ring_bytes = SMALL_RING, .grace_ns = long_ns(),
                                 .tasks = {NULL, start_work, run_work, finish_work}};
  assert_int_equal(pool_open(&the_pool, &options), 0);
}

/* Until that many live, and nobody else. */
static void turn_until_living(uint32_t many) {
  int64_t deadline = os_now_ns() + long_ns();
  while ((pool_living(the_pool) != many || pool_places(the_pool) != many) && os_now_ns() < deadline) turn();
  assert_int_equal(pool_living(the_pool), many);
  assert_int_equal(pool_places(the_pool), many);
}

static void test_resizing(void **state) {
  static const uint32_t sizes[] = {3, 1, 5, 2, 8, 8, 1};
  size_t i;
  (void)state;
  open_pool_for(2, 8);
  assert_int_equal(pool_resize(the_pool, 0), -EINVAL);
  assert_int_equal(pool_resize(the_pool, 9), -EINVAL);
  assert_int_equal(pool_size(the_pool), 2);
  for (i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    assert_int_equal(pool_resize(the_pool, sizes[i]), 0);
    assert_int_equal(pool_size(the_pool), sizes[i]);
    square(3000, 0);
    turn_until_living(sizes[i]);
    square(3000, 1);
  }
  assert_int_equal(shared->started - shared->finished, 1); /* who left did so in order */
  assert_int_equal(pool_forks(the_pool), 3 + 4 + 6);
  assert_int_equal(call.lost, 0);
  end_pool();
}

/* Those who are to go finish what they have, those who stay do the rest. */
static void test_resizing_lets_them_finish(void **state) {
  struct pool_worker_info info;
  uint32_t i;
  (void)state;
  shared->item = wait_for_permission;
  open_pool_for(4, 4);
  begin_call();
  post(0, 40, 5);
  turn_until_living(4);
  while (atomic_load(&shared->runs) < 4) turn();
  assert_int_equal(pool_resize(the_pool, 2), 0);
  turn();
  assert_int_equal(pool_living(the_pool), 4);
  assert_int_equal(call.done, 0);
  atomic_store(&shared->may_go_on, 1);
  collect(40);
  turn_until_living(2);
  for (i = 0; i < 4; i++) {
    while (i < 2 && atomic_load(&the_pool->board->slots[i].phase) == BOARD_OWNING) sched_yield(); /* it counts the claim when it is over */
    pool_info(the_pool, i, &info);
    assert_int_equal(info.pid != 0, i < 2);
    assert_true(info.claims >= 1);
    if (i >= 2) assert_int_equal(info.claims, 1);
  }
  assert_int_equal(shared->runs, 40);
  assert_quiet();
  end_pool();
}

/* A broadcast is done by all to whom it was posted, also by those who are to go, and by nobody else. */
static void test_resizing_with_a_broadcast(void **state) {
  int results[2][5], i;
  uint64_t seed = 51;
  int round, rounds = rounds_of(60);
  (void)state;
  shared->item = check_broadcast;
  open_pool_for(5, 5);
  for (round = 0; round < rounds; round++) {
    int64_t deadline = os_now_ns() + long_ns();
    assert_int_equal(pool_resize(the_pool, 5), 0);
    if (round % 2) turn_until_living(5);
    post_broadcast(1, 0);
    post_broadcast(2, 0);
    assert_int_equal(pool_resize(the_pool, 1 + (uint32_t)round % 4), 0);
    if (round % 3 == 0) kill_somebody(&seed);
    memset(results, 0, sizeof results);
    while (the_pool->entries.count > 0 && os_now_ns() < deadline) {
      struct pool_event event;
      assert_true(pool_start(the_pool, pool_size(the_pool), 0) >= 0);
      (void)pool_wait(the_pool, -1, os_now_ns() + 50 * MS);
      while (pool_next(the_pool, &event) != POOL_NOTHING) {
        if (event.kind == POOL_LOST) assert_int_equal(pool_repost(the_pool, &event, 0), 0); else results[event.call - 1][event.first]++;
        assert_int_equal(pool_done(the_pool, &event, 1), 0);
      }
    }
    for (i = 0; i < 5; i++) assert_int_equal(results[0][i] * 10 + results[1][i], 11);
    assert_quiet();
  }
  turn_until_living(1 + (uint32_t)(rounds - 1) % 4);
  assert_int_equal(shared->bad_runs, 0);
  end_pool();
}

static void test_resizing_while_workers_die(void **state) {
  uint64_t seed = 61;
  int round, rounds = rounds_of(60);
  (void)state;
  open_pool_for(3, 6);
  for (round = 0; round < rounds; round++) {
    int64_t deadline = os_now_ns() + long_ns();
    begin_call();
    call.count_of_retries = 1 << 30;
    post(0, 3000, round % 2 ? 0 : 7);
    while (call.done < 3000 && os_now_ns() < deadline) {
      if (random_below(&seed, 4) == 0) kill_somebody(&seed);
      if (random_below(&seed, 4) == 0) assert_int_equal(pool_resize(the_pool, 1 + (uint32_t)random_below(&seed, 6)), 0);
      turn();
    }
    assert_int_equal(call.done, 3000);
  }
  assert_quiet();
  assert_int_equal(pool_resize(the_pool, 2), 0);
  turn_until_living(2);
  end_pool();
}

/* ---- workers that leave after so many items ---------------------------------------------------------- */

static uint64_t own_runs; /* in a worker: items that it ran */

/* Notes where a block's items do not stand where the claim says, and workers that run more than they may. */
static void count_own_runs(struct worker *w, uint64_t item) {
  const uint64_t *first;
  if (++own_runs > shared->bad_item) atomic_fetch_add(&shared->bad_runs, 1);
  if (w->claim.kind != BOARD_BLOCK || item != w->claim.first) return;
  first = arena_at(w->arena, w->claim.block_offset, w->claim.block_length);
  if (first == NULL || *first != w->claim.first - w->claim.block_skip) atomic_fetch_add(&shared->bad_runs, 1);
}

static void open_leaving_pool(uint32_t workers, uint64_t max_tasks) {
  struct pool_options options = {.workers = workers, .ring_bytes = SMALL_RING, .grace_ns = long_ns(), .terms.max_tasks = max_tasks,
                                 .tasks = {NULL, start_work, run_work, finish_work}};
  shared->item = count_own_runs;
  shared->bad_item = max_tasks;
  own_runs = 0;
  assert_int_equal(pool_open(&the_pool, &options), 0);
}

static void post_blocks(uint64_t count, uint64_t size) {
  uint64_t first;
  for (first = 0; first < count; first += size) {
    struct pool_work work = {.kind = BOARD_BLOCK, .call = 1, .first = first, .count = size, .job = 1};
    void *memory;
    if (work.count > count - first) work.count = count - first;
    work.block_length = sizeof first;
    assert_int_equal(pool_input(the_pool, work.block_length, &work.block_offset, &memory), 0);
    memcpy(memory, &first, sizeof first);
    assert_int_equal(pool_post(the_pool, &work), 0);
  }
}

static void test_broadcasts_count_as_well(void **state) {
  uint64_t i;
  (void)state;
  open_leaving_pool(3, 2);
  for (i = 0; i < 10; i++) {
    begin_call();
    post_broadcast(1, 0);
    post_blocks(10, 5);
    shared->item = NULL; /* the blocks' items have the broadcast's numbers */
    call.is_done[0] = call.is_done[1] = call.is_done[2] = 0;
    while (the_pool->entries.count + the_pool->n_waiting > 0) {
      struct pool_event event;
      assert_true(pool_start(the_pool, 3, 0) > 0);
      (void)pool_wait(the_pool, -1, os_now_ns() + 50 * MS);
      while (pool_next(the_pool, &event) != POOL_NOTHING) {
        assert_int_equal(event.kind, POOL_RESULTS);
        call.done += event.count;
        assert_int_equal(pool_done(the_pool, &event, event.count), 0);
      }
    }
    assert_int_equal(call.done, 13);
  }
  assert_true(pool_forks(the_pool) >= 130 / 2);
  end_pool();
  assert_int_equal(shared->runs, 130);
}

static void test_workers_leave_after_so_many(void **state) {
  static const uint64_t limits[] = {1, 7, 100, 5000};
  static const uint32_t chunks[] = {0, 1, 10, 1000};
  uint64_t items, forks;
  size_t i, c;
  (void)state;
  for (i = 0; i < 4; i++) {
    items = (uint64_t)rounds_of(limits[i] == 1 ? 200 : 1000); /* (a fork for each of the former) */
    open_leaving_pool(2, limits[i]);
    forks = 0;
    for (c = 0; c < 4; c++) {
      begin_call();
      if (c % 2) post_blocks(items, chunks[c]); else post(0, items, chunks[c]);
      collect(items);
      assert_quiet();
      forks += items / limits[i];
    }
    assert_true(pool_forks(the_pool) >= forks);
    assert_true(pool_forks(the_pool) <= forks + 2 + 4); /* everybody did as much as he might */
    end_pool();
    assert_int_equal(shared->runs, 4 * items);
    assert_int_equal(shared->started, shared->finished); /* each left in order */
    atomic_store(&shared->runs, 0);
  }
  assert_int_equal(shared->bad_runs, 0);
  assert_int_equal(call.lost + call.failed + call.unready + call.notices, 0);
}

/* Nobody knows any more who has done how much; but each item is done, and once. */
static void test_leaving_and_dying(void **state) {
  uint64_t seed = 21;
  int round, rounds = rounds_of(60);
  (void)state;
  call.count_of_retries = 1 << 30;
  open_leaving_pool(3, 40);
  for (round = 0; round < rounds; round++) {
    int64_t deadline = os_now_ns() + long_ns();
    begin_call();
    if (round % 2) post_blocks(600, 90); else post(0, 600, 0);
    while (call.done < 600 && os_now_ns() < deadline) {
      if (random_below(&seed, 4) == 0) kill_somebody(&seed);
      turn();
    }
    assert_int_equal(call.done, 600);
  }
  assert_quiet();
  assert_int_equal(shared->bad_runs, 0);
  end_pool();
}

#ifdef LUAPOOL_FAULTS
static void test_leaving_and_dying_at_points(void **state) {
  static const char *const points[] = {"worker_claimed#2:kill", "worker_result_before#2:kill", "worker_result_after#3:kill"};
  size_t i;
  (void)state;
  call.count_of_retries = 1 << 30;
  for (i = 0; i < 3; i++) {
    with_fault(points[i]);
    open_leaving_pool(2, 3);
    begin_call();
    post_blocks(60, 20);
    collect(60);
    assert_quiet();
    with_fault("");
    end_pool();
  }
  assert_int_equal(shared->bad_runs, 0);
}
#endif

/* ---- damage ---------------------------------------------------------------------------------------- */

/* Frames that make no sense, sent once instead of the bad item's value. */
static enum damage {
  WRONG_ITEM, WRONG_COUNT, FOREIGN_ITEM, WRONG_KIND, NO_ITEMS, TOO_FEW, TWICE, BAD_HEADER, BAD_POSITION, N_DAMAGES
} damage;

static void send_damage(struct worker *w, uint64_t item) {
  uint64_t value = item * item;
  switch (damage) {
    case WRONG_ITEM: worker_send(w, WORKER_RESULTS, item + 1000000, 1, &value, sizeof value); break;
    case WRONG_COUNT: worker_send(w, WORKER_RESULTS, item, 1000, NULL, 0); break;
    case FOREIGN_ITEM: worker_send(w, WORKER_DROPPED, 0, UINT32_MAX, NULL, 0); break;
    case WRONG_KIND: worker_send(w, (enum worker_frame)77, item, 1, &value, sizeof value); break;
    case NO_ITEMS: worker_send(w, WORKER_RESULTS, item, 0, NULL, 0); break;
    case TOO_FEW: worker_send(w, WORKER_RESULTS, item, 1, "abcdefgh", 8); break;
    case TWICE:
      worker_send(w, WORKER_RESULTS, item, 1, &value, sizeof value);
      worker_send(w, WORKER_RESULTS, item, 1, &value, sizeof value);
      break;
    case BAD_HEADER:
      memset(w->channel.ring + (w->channel.position & (w->channel.capacity - 1)), 0x33, CHANNEL_ALIGN);
      atomic_store(&w->channel.shared->tail, w->channel.position += CHANNEL_ALIGN);
      break;
    default: atomic_store(&w->channel.shared->tail, w->channel.position + 3 * w->channel.capacity);
  }
}

static int is_first_run(uint64_t item) {
  return item == shared->bad_item && atomic_fetch_add(&shared->bad_runs, 1) == 0;
}

static void damage_at_the_bad_item(struct worker *w, uint64_t item) {
  if (!is_first_run(item)) return;
  worker_close_frame(w);
  send_damage(w, item);
  if (w->board->host_sleep) os_bell_ring(&w->host_bell);
  for (;;) poll(NULL, 0, -1); /* the host ends this */
}

static void damaged_take(const struct pool_event *event) {
  uint64_t value;
  if (event->kind == POOL_RESULTS && event->first + event->count <= MAX_ITEMS && event->length >= event->count * sizeof value) {
    take_results(event);
  } else if (event->kind == POOL_RESULTS) {
    pool_condemn(the_pool, event);
    (void)pool_done(the_pool, event, 0);
  } else {
    take_loss(event);
  }
}

/* As collect, for a host that reads what cannot be right. */
static void collect_damaged(uint64_t items) {
  int64_t deadline = os_now_ns() + long_ns();
  struct pool_event event;
  while (call.done < items && os_now_ns() < deadline) {
    assert_true(pool_start(the_pool, pool_size(the_pool), 0) > 0);
    (void)pool_wait(the_pool, -1, os_now_ns() + 50 * MS);
    while (pool_next(the_pool, &event) != POOL_NOTHING) damaged_take(&event);
  }
  assert_int_equal(call.done, items);
}

static void test_damage_costs_its_worker_alone(void **state) {
  (void)state;
  shared->item = damage_at_the_bad_item;
  for (damage = WRONG_ITEM; damage < N_DAMAGES; damage++) {
    uint32_t chunk = damage % 2 ? 0 : 13;
    atomic_store(&shared->bad_runs, 0);
    shared->bad_item = 137;
    call.lost = 0;
    open_pool(2, SMALL_RING);
    begin_call();
    post(0, 1000, chunk);
    collect_damaged(1000);
    assert_quiet();
    assert_in_range(pool_forks(the_pool), 2, 3); /* the other may have done everything before a third was needed */
    assert_true(call.lost <= 1);
    if (call.lost) assert_int_equal(call.last_lost.reason, POOL_DAMAGED);
    end_pool();
  }
}

/* It sends nonsense and goes on: what it did in later claims is behind the damage, and nobody may wait for it. */
static void run_damaged_and_on(void *context, struct worker *w) {
  if (w->claim.first <= shared->bad_item && shared->bad_item < w->claim.first + w->claim.count && is_first_run(shared->bad_item)) {
    worker_begin_item(w, shared->bad_item);
    send_damage(w, shared->bad_item);
    return;
  }
  run_work(context, w);
}

static void test_claims_behind_the_damage_are_not_lost(void **state) {
  struct worker_tasks tasks = {NULL, start_work, run_damaged_and_on, finish_work};
  (void)state;
  for (damage = WRONG_ITEM; damage < BAD_POSITION; damage++) {
    int64_t deadline = os_now_ns() + long_ns();
    atomic_store(&shared->bad_runs, 0);
    shared->bad_item = 3;
    call.lost = 0;
    open_pool_with(1, 0, long_ns(), tasks);
    begin_call();
    post(0, 50, 1);
    while (atomic_load(&the_pool->board->slots[0].claims_done) < 50 && os_now_ns() < deadline) poll(NULL, 0, 1);
    collect_damaged(50);
    assert_quiet();
    assert_int_equal(pool_forks(the_pool), damage == TOO_FEW || damage == WRONG_ITEM ? pool_forks(the_pool) : 2);
    end_pool();
  }
}

/* ---- cancelling ------------------------------------------------------------------------------------ */

static void wait_for_interrupt(struct worker *w, uint64_t item) {
  (void)w, (void)item;
  atomic_fetch_add(&shared->seen, 1);
  while (!interrupt_pending()) poll(NULL, 0, 1);
}

static void ignore_everything(struct worker *w, uint64_t item) {
  (void)w, (void)item;
  atomic_fetch_add(&shared->seen, 1);
  for (;;) poll(NULL, 0, 100);
}

static int wait_until_seen(uint64_t many) {
  int64_t deadline = os_now_ns() + long_ns();
  while (atomic_load(&shared->seen) < many && os_now_ns() < deadline) poll(NULL, 0, 1);
  return atomic_load(&shared->seen) >= many;
}

/* Call 1 was cancelled: until it is quiet. Sleeps as long as the pool says. */
static void wait_until_quiet(void) {
  int64_t deadline = os_now_ns() + long_ns();
  struct pool_event event;
  for (;;) {
    while (pool_next(the_pool, &event) != POOL_NOTHING) {
      assert_true(event.call != 1); /* nothing of a cancelled call is shown */
      (void)pool_done(the_pool, &event, event.count);
    }
    if (pool_is_quiet(the_pool, 1)) return;
    assert_true(os_now_ns() < deadline);
    (void)pool_wait(the_pool, -1, deadline);
  }
}

static void cancel_and_wait(int is_killing) {
  pool_cancel(the_pool, 1, -1);
  if (is_killing) pool_kill_stragglers(the_pool, 1);
  wait_until_quiet();
}

static void test_cancel_stops_the_busy(void **state) {
  int round;
  (void)state;
  shared->item = wait_for_interrupt;
  open_pool(2, 0);
  for (round = 0; round < 10; round++) {
    begin_call();
    atomic_store(&shared->seen, 0);
    post(0, 1000, round % 2 ? 0 : 10);
    assert_true(wait_until_seen(2));
    cancel_and_wait(0);
    assert_int_equal(shared->seen, 2); /* the rest of what they had claimed was not begun */
    assert_int_equal(pool_can_post(the_pool), BOARD_ENTRIES);
  }
  shared->item = NULL;
  square(1000, 0);
  assert_int_equal(pool_forks(the_pool), 2);
  end_pool();
}

static void test_cancel_of_the_idle_and_the_unknown(void **state) {
  (void)state;
  open_pool(2, 0);
  cancel_and_wait(0);
  square(100, 0);
  cancel_and_wait(0);
  pool_cancel(the_pool, 4711, 0);
  square(100, 0);
  end_pool();
}

/* Cancelled at once, at any moment, thousands of times: the next call gets its own results and no others. */
static void test_cancel_at_any_moment(void **state) {
  uint64_t seed = 9;
  int round, rounds = rounds_of(1000);
  (void)state;
  open_pool(2, SMALL_RING);
  for (round = 0; round < rounds; round++) {
    uint64_t turns = random_below(&seed, 2000);
    post(0, 10000, round % 3 ? 0 : 5);
    while (turns-- > 0) os_relax();
    cancel_and_wait(0);
    begin_call();
    post_kind(BOARD_INDEXED, 2, 0, 20, 0, 0);
    collect(20);
  }
  assert_quiet();
  assert_int_equal(pool_forks(the_pool), 2);
  end_pool();
}

/* The host asks it to stop when it has just finished: that is not for what it claims next. */
static void run_asked_at_the_end(void *context, struct worker *w) {
  (void)context;
  if (interrupt_pending()) atomic_fetch_add(&shared->bad_runs, 1);
  run_work(context, w);
  atomic_store(&w->slot->command_claim, atomic_load(&w->slot->claims));
  atomic_store(&w->slot->command, INTERRUPT_CANCEL);
  raise(SIGTERM);
  if (interrupt_pending() == INTERRUPT_CANCEL) atomic_fetch_add(&shared->seen, 1);
}

static void test_late_requests_are_forgotten(void **state) {
  struct worker_tasks tasks = {NULL, start_work, run_asked_at_the_end, finish_work};
  (void)state;
  open_pool_with(1, 0, long_ns(), tasks);
  square(100, 1);
  wait_until_parked();
  assert_int_equal(shared->seen, 100);
  assert_int_equal(shared->bad_runs, 0);
  assert_int_equal(pool_forks(the_pool), 1);
  end_pool();
}

static void test_stragglers_are_killed(void **state) {
  (void)state;
  shared->item = ignore_everything;
  open_pool(2, 0);
  post(0, 2, 1);
  assert_true(wait_until_seen(2));
  cancel_and_wait(1);
  shared->item = NULL;
  square(100, 0);
  assert_int_equal(pool_forks(the_pool), 4);
  end_pool();
}

/* Who does not listen is killed when his time has come, not before, and by looking alone. */
static void test_cancel_kills_in_time(void **state) {
  int64_t kill_at;
  struct pool_event event;
  (void)state;
  shared->item = ignore_everything;
  open_pool(3, 0);
  post(0, 2, 1);
  assert_true(wait_until_seen(2));
  kill_at = os_now_ns() + long_ns();
  pool_cancel(the_pool, 1, kill_at);
  assert_true(os_now_ns() < kill_at); /* it did not wait */
  kill_at = os_now_ns() + 300 * MS;
  pool_cancel(the_pool, 1, kill_at);
  while (os_now_ns() < kill_at - 50 * MS) {
    assert_int_equal(pool_next(the_pool, &event), POOL_NOTHING);
    if (os_now_ns() >= kill_at) break;
    assert_int_equal(pool_living(the_pool), 3);
    assert_false(pool_is_quiet(the_pool, 1));
    assert_true(pool_is_quiet(the_pool, 2));
  }
  wait_until_quiet();
  assert_true(os_now_ns() >= kill_at);
  assert_int_equal(pool_living(the_pool), 1);
  shared->item = NULL;
  square(100, 0);
  end_pool();
}

/* A second word shortens the time, and never lengthens it. */
static void test_cancel_again_shortens_the_time(void **state) {
  (void)state;
  shared->item = ignore_everything;
  open_pool(2, 0);
  post(0, 2, 1);
  assert_true(wait_until_seen(2));
  pool_cancel(the_pool, 1, -1);
  pool_cancel(the_pool, 1, os_now_ns() + 100 * MS);
  pool_cancel(the_pool, 1, os_now_ns() + 10 * long_ns());
  pool_cancel(the_pool, 1, -1);
  wait_until_quiet();
  end_pool();
}

static void wait_as_told(struct worker *w, uint64_t item) {
  if (item < 100) {
    wait_for_interrupt(w, item);
  } else {
    atomic_fetch_add(&shared->seen, 1);
    wait_for_permission(w, item);
  }
}

/* One call is cancelled while another goes on beside it. */
static void test_cancel_is_one_calls_affair(void **state) {
  (void)state;
  shared->item = wait_as_told;
  open_pool(4, 0);
  begin_call();
  post_kind(BOARD_INDEXED, 1, 0, 50, 1, 0);
  assert_true(wait_until_seen(4));
  post_kind(BOARD_INDEXED, 1, 50, 50, 10, 0);
  post_kind(BOARD_INDEXED, 2, 100, 50, 1, 0);
  cancel_and_wait(0);
  assert_true(pool_is_quiet(the_pool, 0));
  assert_true(wait_until_seen(8));
  pool_cancel(the_pool, 1, 0); /* there is nothing left of it */
  pool_kill_stragglers(the_pool, 1);
  atomic_store(&shared->may_go_on, 1);
  collect(50);
  assert_int_equal(shared->seen, 54);
  assert_quiet();
  assert_int_equal(pool_forks(the_pool), 4);
  end_pool();
}

/* A loss that was shown but not taken when its call was cancelled is not shown again. */
static void test_cancel_of_a_loss(void **state) {
  int64_t deadline = os_now_ns() + long_ns();
  struct pool_event event = {.kind = POOL_NOTHING};
  (void)state;
  shared->item = die_at_the_bad_item;
  shared->bad_item = 3;
  open_pool(1, 0);
  post(0, 10, 10);
  while (event.kind != POOL_LOST && os_now_ns() < deadline) {
    (void)pool_wait(the_pool, -1, os_now_ns() + 50 * MS);
    if (pool_next(the_pool, &event) == POOL_RESULTS) (void)pool_done(the_pool, &event, event.count);
  }
  assert_int_equal(event.kind, POOL_LOST);
  pool_cancel(the_pool, 1, 0);
  assert_int_equal(pool_repost(the_pool, &event, 0), -ECANCELED);
  wait_until_quiet();
  assert_quiet();
  square(100, 0);
  end_pool();
}

/* Results that were shown but not taken then are nobody's, too. */
static void test_cancel_of_shown_results(void **state) {
  int64_t deadline = os_now_ns() + long_ns();
  struct pool_event event = {.kind = POOL_NOTHING};
  int is_taken;
  (void)state;
  open_pool(2, 0);
  for (is_taken = 0; is_taken < 2; is_taken++) {
    post(0, 1000, 10);
    while (pool_next(the_pool, &event) != POOL_RESULTS && os_now_ns() < deadline) (void)pool_wait(the_pool, -1, os_now_ns() + 50 * MS);
    assert_int_equal(event.kind, POOL_RESULTS);
    pool_cancel(the_pool, 1, -1);
    if (is_taken) (void)pool_done(the_pool, &event, 1); /* the caller got no further */
    wait_until_quiet();
    assert_quiet();
  }
  square(1000, 0);
  assert_int_equal(pool_forks(the_pool), 2);
  end_pool();
}

/* Killed for something that it had left behind: what it was at is run again, and nobody hears of it. */
static void test_bystanders_are_not_blamed(void **state) {
  static const int reasons[] = {0, INTERRUPT_TIMEOUT};
  size_t i;
  (void)state;
  shared->item = wait_for_permission;
  open_pool(1, 0);
  for (i = 0; i < 2; i++) {
    struct crew *crew = &the_pool->crew[0];
    uint64_t runs = atomic_load(&shared->runs);
    atomic_store(&shared->may_go_on, 0);
    begin_call();
    post(0, 20, 10);
    while (atomic_load(&shared->runs) == runs) poll(NULL, 0, 1);
    if (reasons[i]) crew->reason = reasons[i]; else crew->was_killed = 1;
    pool_kill_worker(the_pool, 0, atomic_load(&the_pool->board->slots[0].claims), UINT64_C(4711));
    atomic_store(&shared->may_go_on, 1);
    collect(20);
    assert_quiet();
  }
  assert_int_equal(call.lost, 0);
  assert_int_equal(pool_forks(the_pool), 3);
  end_pool();
}

static void be_seen_and_wait(struct worker *w, uint64_t item) {
  atomic_fetch_add(&shared->seen, 1);
  wait_for_permission(w, item);
}

/* Until nothing of call 1 is posted. */
static void collect_drained(void) {
  int64_t deadline = os_now_ns() + long_ns();
  while (!pool_is_drained(the_pool, 1) && os_now_ns() < deadline) turn();
  assert_true(pool_is_drained(the_pool, 1));
}

/* What runs comes to its end and is shown; nothing else of the call is begun, and other calls are not touched. */
static void test_drain_lets_items_finish(void **state) {
  static const enum board_entry_kind kinds[] = {BOARD_INDEXED, BOARD_BLOCK};
  size_t i;
  (void)state;
  open_pool(2, 0);
  for (i = 0; i < 2; i++) {
    shared->item = be_seen_and_wait;
    atomic_store(&shared->seen, 0);
    atomic_store(&shared->may_go_on, 0);
    begin_call();
    post_kind(kinds[i], 1, 0, 10, 10, 0);
    post_kind(kinds[i], 1, 10, 50, 10, 0);
    post_kind(kinds[i], 1, 60, 50, 10, 0);
    assert_true(wait_until_seen(2));
    pool_drain(the_pool, 1);
    pool_drain(the_pool, 1); /* once more: as if it were once */
    assert_false(pool_is_drained(the_pool, 1));
    atomic_store(&shared->may_go_on, 1);
    collect_drained();
    assert_int_equal(shared->seen, 2);
    assert_int_equal(call.done, 2);
    assert_quiet();
    shared->item = NULL;
    square(100, 0);
  }
  pool_drain(the_pool, 4711);
  assert_true(pool_is_drained(the_pool, 4711));
  assert_int_equal(pool_forks(the_pool), 2);
  end_pool();
}

/* It may be cancelled still. */
static void test_cancel_of_what_is_drained(void **state) {
  (void)state;
  shared->item = wait_for_interrupt;
  open_pool(2, 0);
  post(0, 100, 10);
  assert_true(wait_until_seen(2));
  pool_drain(the_pool, 1);
  cancel_and_wait(0);
  assert_true(pool_is_drained(the_pool, 1));
  assert_int_equal(shared->seen, 2);
  assert_quiet();
  end_pool();
}

/* A loss is shown, and what died with it is not run again. */
static void test_drain_while_workers_die(void **state) {
  uint64_t seed = 13;
  int round, rounds = rounds_of(300);
  (void)state;
  open_pool(3, SMALL_RING);
  for (round = 0; round < rounds; round++) {
    uint64_t turns = random_below(&seed, 3000);
    begin_call();
    post(0, 10000, round % 3 ? 0 : 5);
    post_kind(BOARD_BLOCK, 1, 10000, 10, 0, 0);
    while (turns-- > 0) os_relax();
    if (round % 2) kill_somebody(&seed);
    pool_drain(the_pool, 1);
    if (round % 5 == 0) kill_somebody(&seed);
    collect_drained();
    assert_quiet();
  }
  square(1000, 0);
  end_pool();
}

/* Cancelled and killed at any moment: each entry is accounted for to the last item, or the call would never be quiet. */
static void test_cancel_while_workers_die(void **state) {
  uint64_t seed = 11;
  int round, rounds = rounds_of(300);
  (void)state;
  open_pool(3, SMALL_RING);
  for (round = 0; round < rounds; round++) {
    uint64_t turns = random_below(&seed, 3000);
    post(0, 10000, round % 3 ? 0 : 5);
    post_kind(BOARD_BLOCK, 1, 0, 10, 0, 0);
    while (turns-- > 0) os_relax();
    if (round % 2) kill_somebody(&seed);
    pool_cancel(the_pool, 1, -1);
    if (round % 5 == 0) kill_somebody(&seed);
    wait_until_quiet();
    begin_call();
    post_kind(BOARD_INDEXED, 2, 0, 20, 0, 0);
    collect(20);
  }
  assert_quiet();
  end_pool();
}

static void test_cancel_frees_what_waits_for_a_retry(void **state) {
  struct pool_event event = {.kind = POOL_NOTHING};
  (void)state;
  lose_item_three(&event);
  assert_int_equal(pool_repost(the_pool, &event, 0), 0);
  assert_int_equal(pool_done(the_pool, &event, 1), 0);
  cancel_and_wait(0);
  assert_quiet();
  assert_int_equal(the_pool->arena.n_free, 1);
  square(100, 0);
  assert_int_equal(call.lost, 1);
  assert_int_equal(call.last_lost.first, 3);
  end_pool();
}

/* ---- time ------------------------------------------------------------------------------------------ */

static void overstay_at_the_bad_item(struct worker *w, uint64_t item) {
  if (item == shared->bad_item) ignore_everything(w, item);
}

static void test_timeout_kills_who_does_not_listen(void **state) {
  struct worker_tasks tasks = {NULL, start_work, run_work, finish_work};
  (void)state;
  shared->item = overstay_at_the_bad_item;
  shared->bad_item = 11;
  open_pool_with(2, 0, 20 * MS, tasks);
  begin_call();
  post_kind(BOARD_INDEXED, 1, 0, 100, 0, 500 * MS * slowness());
  collect(100);
  assert_int_equal(call.lost, 1);
  assert_int_equal(call.last_lost.first, 11);
  assert_int_equal(call.last_lost.reason, INTERRUPT_TIMEOUT);
  assert_quiet();
  end_pool();
}

static void listen_at_the_bad_item(struct worker *w, uint64_t item) {
  if (item != shared->bad_item) return;
  wait_for_interrupt(w, item);
  atomic_store(&shared->finished, (uint64_t)interrupt_take());
}

static void test_timeout_is_a_request_first(void **state) {
  (void)state;
  shared->item = listen_at_the_bad_item;
  shared->bad_item = 11;
  open_pool(2, 0);
  begin_call();
  post_kind(BOARD_INDEXED, 1, 0, 100, 0, 30 * MS * slowness());
  collect(100);
  assert_int_equal(call.lost, 0);
  assert_int_equal(shared->finished, INTERRUPT_TIMEOUT);
  assert_int_equal(pool_forks(the_pool), 2);
  assert_quiet();
  end_pool();
}

/* The caller waits for something of its own again and again, and the workers run on: that is no excuse for an item. */
static void test_a_caller_that_is_slow_forgives_nothing(void **state) {
  struct worker_tasks tasks = {NULL, start_work, run_work, finish_work};
  int64_t deadline = os_now_ns() + long_ns();
  (void)state;
  shared->item = overstay_at_the_bad_item;
  shared->bad_item = 11;
  open_pool_with(2, 0, 20 * MS, tasks);
  begin_call();
  post_kind(BOARD_INDEXED, 1, 0, 100, 0, 500 * MS * slowness());
  while (call.done < 100 && os_now_ns() < deadline) {
    turn();
    if (atomic_load(&shared->seen)) poll(NULL, 0, 300);
  }
  assert_int_equal(call.done, 100);
  assert_int_equal(call.lost, 1);
  assert_int_equal(call.last_lost.first, 11);
  assert_int_equal(call.last_lost.reason, INTERRUPT_TIMEOUT);
  assert_quiet();
  end_pool();
}

#ifdef LUAPOOL_FAULTS
/* Deaf to requests; over when the test says so. */
static void wait_for_the_test(struct worker *w, uint64_t item) {
  if (item == 0) return;
  atomic_fetch_add(&shared->seen, 1);
  wait_for_permission(w, item);
}

static int64_t limit_of_the_stopped(void) {
  return 2000 * MS * (slowness() < 4 ? slowness() : 4);
}

/* A host that is stopped by the fault when it is done with item 0. Its exit status tells what came of it. */
static _Noreturn void be_stopped_host(void) {
  struct worker_tasks tasks = {NULL, start_work, run_work, finish_work};
  int64_t deadline = os_now_ns() + 2 * long_ns();
  (void)setpgid(0, 0);
  shared->item = wait_for_the_test;
  open_pool_with(3, 0, 20 * MS, tasks);
  begin_call();
  post_kind(BOARD_INDEXED, 1, 1, 2, 1, limit_of_the_stopped());
  if (!wait_until_seen(2)) _exit(2);
  post_kind(BOARD_INDEXED, 1, 0, 1, 1, limit_of_the_stopped());
  while (call.done < 3 && call.lost == 0 && os_now_ns() < deadline) {
    turn();
    atomic_fetch_add(&shared->bad_runs, 1);
  }
  end_pool();
  _exit(call.done == 3 && call.lost == 0 ? 0 : 1);
}

/* All of them are stopped, the host outside its sleep, for longer than the items may take; then they go on. */
static void stop_and_continue(const char *point) {
  int64_t deadline = os_now_ns() + long_ns(), judged;
  uint64_t turns;
  int status;
  pid_t host;
  atomic_store(&shared->seen, 0);
  atomic_store(&shared->may_go_on, 0);
  with_fault(point);
  fflush(stdout);
  host = fork();
  assert_true(host >= 0);
  if (host == 0) be_stopped_host();
  assert_int_equal(waitpid(host, &status, WUNTRACED), host);
  assert_true(WIFSTOPPED(status));
  assert_int_equal(kill(-host, SIGSTOP), 0);
  poll(NULL, 0, (int)(limit_of_the_stopped() / MS) + 1000);
  turns = atomic_load(&shared->bad_runs);
  assert_int_equal(kill(-host, SIGCONT), 0);
  judged = os_now_ns() + 500 * MS; /* the host looks, more than once */
  while ((os_now_ns() < judged || atomic_load(&shared->bad_runs) < turns + 5) && os_now_ns() < deadline) {
    if (waitpid(host, &status, WNOHANG) != 0) break;
    poll(NULL, 0, 1);
  }
  atomic_store(&shared->may_go_on, 1);
  assert_int_equal(waitpid(host, &status, 0), host);
  assert_int_equal(status, 0);
}

static void test_the_time_of_a_stop_counts_for_nobody(void **state) {
  (void)state;
  stop_and_continue("gather_stored#1:stop"); /* while it takes results */
  stop_and_continue("gather_mid#1:stop");    /* before */
}
#endif

/* ---- counts and times ------------------------------------------------------------------------------ */

static struct pool_worker_info totals(void) {
  struct pool_worker_info sum;
  pool_totals(the_pool, &sum);
  return sum;
}

/* Nobody is at work any more, not even with counting. */
static void wait_until_parked(void) {
  int64_t deadline = os_now_ns() + long_ns();
  uint32_t i;
  for (i = 0; i < pool_places(the_pool); i++)
    while (atomic_load(&the_pool->board->slots[i].phase) != BOARD_PARKED && os_now_ns() < deadline) turn(); /* it may have died, too */
  assert_true(os_now_ns() < deadline);
}

/* The places add up to the totals. */
static void check_totals(void) {
  struct pool_worker_info sum = totals(), one;
  uint64_t items = 0, claims = 0, bytes = 0;
  uint32_t i;
  for (i = 0; i < the_pool->capacity + 3; i++) {
    pool_info(the_pool, i, &one);
    items += one.items;
    claims += one.claims;
    bytes += one.bytes;
  }
  assert_int_equal(sum.items, items);
  assert_int_equal(sum.claims, claims);
  assert_int_equal(sum.bytes, bytes);
  assert_int_equal(sum.pid, pool_living(the_pool));
}

static void encode_for_a_while(struct worker *w, uint64_t item) {
  (void)item;
  worker_count_encode(w, 1000);
}

static void test_counts(void **state) {
  struct pool_worker_info sum;
  (void)state;
  shared->item = encode_for_a_while;
  open_pool(2, 0);
  assert_int_equal(totals().items, 0);
  square(1000, 10);
  wait_until_parked();
  sum = totals();
  assert_int_equal(sum.items, 1000);
  assert_int_equal(sum.claims, 100);
  assert_int_equal(sum.bytes, 1000 * sizeof(uint64_t));
  assert_int_equal(sum.encode_ns, 1000 * 1000);
  assert_true(sum.peak_bytes > 100000);
  assert_true(sum.busy_ns > 0);
  check_totals();
  pool_ask_to_leave(the_pool);
  wait_for_leavers();
  check_totals(); /* they have gone, and what they did is still known */
  assert_int_equal(totals().items, 1000);
  square(500, 0);
  assert_int_equal(totals().items, 1500);
  wait_until_parked();
  assert_int_equal(totals().encode_ns, 1500 * 1000);
  end_pool();
}

/* Each item that came is counted, and counted once, whoever dies. */
static void test_counts_while_workers_die(void **state) {
  uint64_t seed = 71, posted = 0;
  int round, rounds = rounds_of(150);
  (void)state;
  open_pool(3, SMALL_RING);
  for (round = 0; round < rounds; round++) {
    uint64_t count = 100 + random_below(&seed, 2000);
    killed_round(count, (uint32_t)(round % 3 ? 0 : 1 + round % 5), &seed);
    posted += count;
    assert_int_equal(totals().items + call.lost, posted);
  }
  wait_until_parked();
  check_totals();
  end_pool();
}

static void work_30_ms(struct worker *w, uint64_t item) {
  int64_t until = os_now_ns() + 30 * MS;
  (void)w, (void)item;
  while (os_now_ns() < until) os_relax();
}

static void test_times(void **state) {
  struct pool_worker_info sum;
  int64_t before, began, idle;
  (void)state;
  shared->item = work_30_ms;
  open_pool(2, 0);
  began = os_now_ns();
  square(6, 1);
  sum = totals();
  assert_true(sum.busy_ns >= 6 * 30 * MS);
  assert_true(sum.busy_ns + sum.idle_ns <= 2 * (os_now_ns() - began));
  assert_int_equal(the_pool->n_open, 0);
  wait_until_parked();
  assert_true(pool_open_ns(the_pool) >= 3 * 30 * MS);
  idle = totals().idle_ns;
  poll(NULL, 0, 50);
  assert_int_equal(totals().idle_ns, idle); /* there is nothing to be idle about */
  before = os_now_ns();
  pool_set_open(the_pool, 1);
  poll(NULL, 0, 200);
  assert_true(totals().idle_ns - idle >= 2 * 190 * MS);
  pool_set_open(the_pool, -1);
  idle = totals().idle_ns - idle;
  assert_true(idle <= 2 * (os_now_ns() - before));
  square(6, 1); /* they count it themselves by now */
  assert_true(totals().idle_ns >= idle);
  assert_true(pool_open_ns(the_pool) >= 2 * 3 * 30 * MS + 190 * MS);
  end_pool();
}

static void test_waiting_for_room_is_timed(void **state) {
  struct pool_worker_info sum;
  int64_t deadline = os_now_ns() + long_ns();
  (void)state;
  open_pool(1, SMALL_RING);
  begin_call();
  post(0, 100000, 1000);
  while (!atomic_load(&the_pool->crew[0].channel.shared->is_waiting) && os_now_ns() < deadline) poll(NULL, 0, 1);
  poll(NULL, 0, 100);
  collect(100000);
  wait_until_parked();
  sum = totals();
  assert_true(sum.wait_ns >= 95 * MS);
  assert_true(sum.wait_ns <= sum.busy_ns);
  end_pool();
}

static void use_much_memory(struct worker *w, uint64_t item) {
  enum { MUCH = 80 << 20 };
  char *memory = malloc(MUCH);
  (void)w, (void)item;
  if (memory == NULL) process_exit(9);
  memset(memory, 1, MUCH);
  atomic_fetch_add(&shared->seen, (uint64_t)(unsigned char)memory[MUCH / 2]);
  free(memory);
}

static void test_peak_memory(void **state) {
  struct pool_worker_info info;
  int is_killed;
  (void)state;
  for (is_killed = 0; is_killed < 2; is_killed++) {
    shared->item = use_much_memory;
    open_pool(1, 0);
    square(1, 0);
    if (is_killed) {
      pool_info(the_pool, 0, &info);
      assert_int_equal(kill(info.pid, SIGKILL), 0);
      while (pool_living(the_pool) > 0) take_events();
    } else {
      pool_ask_to_leave(the_pool);
      wait_for_leavers();
    }
    pool_info(the_pool, 0, &info);
    assert_true(info.peak_bytes >= 80 << 20);
    shared->item = NULL;
    square(1, 0);
    pool_info(the_pool, 0, &info);
    assert_true(info.peak_bytes >= 80 << 20); /* the place remembers */
    end_pool();
  }
}

static void report_progress(struct worker *w, uint64_t item) {
  if (item != shared->bad_item) return;
  worker_progress(w, 2.5, 10);
  atomic_fetch_add(&shared->seen, 1);
  wait_for_permission(w, item);
}

/* Who is at what, since when, and how far. */
static void test_what_runs_now(void **state) {
  struct pool_worker_info info;
  int64_t before = os_now_ns(), busy;
  int is_timed;
  (void)state;
  for (is_timed = 0; is_timed < 2; is_timed++) {
    shared->item = report_progress;
    shared->bad_item = 7;
    atomic_store(&shared->seen, 0);
    atomic_store(&shared->may_go_on, 0);
    open_pool(1, 0);
    begin_call();
    post_kind(BOARD_INDEXED, 42, 5, 10, 10, is_timed ? 10 * long_ns() : 0);
    assert_true(wait_until_seen(1));
    pool_info(the_pool, 0, &info);
    assert_int_equal(info.phase, BOARD_OWNING);
    assert_int_equal(info.call, 42);
    assert_int_equal(info.item, 7);
    assert_true(info.since_ns >= before && info.since_ns <= os_now_ns());
    assert_true(info.progress_done == 2.5 && info.progress_total == 10);
    busy = info.busy_ns;
    poll(NULL, 0, 20);
    pool_info(the_pool, 0, &info);
    assert_true(info.busy_ns >= busy + 19 * MS); /* it counts while it lasts */
    shared->bad_item = 14; /* the next one that waits; those between say nothing */
    atomic_store(&shared->may_go_on, 1);
    collect(10);
    assert_quiet();
    shared->item = wait_for_permission;
    atomic_store(&shared->may_go_on, 0);
    begin_call();
    post(0, 1, 0);
    do pool_info(the_pool, 0, &info);
    while (info.phase != BOARD_OWNING || info.item != 0);
    assert_true(info.progress_done == 0 && info.progress_total == 0);
    atomic_store(&shared->may_go_on, 1);
    collect(1);
    pool_info(the_pool, 0, &info);
    if (info.phase != BOARD_OWNING) assert_true(info.item == UINT64_MAX && info.call == 0);
    end_pool();
  }
}

/* What a worker had spent on an item when it was killed counts as well. */
static void test_the_time_of_the_dead(void **state) {
  struct pool_worker_info info;
  (void)state;
  shared->item = ignore_everything;
  open_pool(1, 0);
  begin_call();
  post(0, 1, 0);
  assert_true(wait_until_seen(1));
  poll(NULL, 0, 60);
  pool_info(the_pool, 0, &info);
  assert_int_equal(kill(info.pid, SIGKILL), 0);
  call.forbid_start = 1;
  collect(1);
  assert_int_equal(call.lost, 1);
  assert_true(totals().busy_ns >= 59 * MS);
  assert_int_equal(totals().items, 0);
  end_pool();
}

/* ---- ends ------------------------------------------------------------------------------------------ */

static void test_leaving_finishes_what_is_claimed(void **state) {
  (void)state;
  shared->item = wait_for_permission;
  open_pool(2, 0);
  begin_call();
  post(0, 2, 1);
  while (atomic_load(&shared->runs) < 2) poll(NULL, 0, 1);
  pool_ask_to_leave(the_pool);
  assert_int_equal(pool_reap(the_pool, 10 * MS), 2);
  atomic_store(&shared->may_go_on, 1);
  call.forbid_start = 1;
  collect(2);
  end_pool();
  assert_int_equal(shared->finished, 2);
}

static void test_quitting_interrupts(void **state) {
  int64_t deadline = os_now_ns() + long_ns();
  (void)state;
  shared->item = wait_for_interrupt;
  open_pool(3, 0);
  begin_call();
  post(0, 1000, 10);
  assert_true(wait_until_seen(3));
  pool_quit(the_pool);
  while (pool_reap(the_pool, 50 * MS) > 0) assert_true(os_now_ns() < deadline);
  assert_int_equal(shared->finished, 3);
  shared->item = NULL; /* nothing of the call is left, and the pool can be used again */
  wait_until_quiet();
  square(100, 0);
}

static void test_leaving_with_a_full_ring(void **state) {
  int64_t deadline = os_now_ns() + long_ns();
  (void)state;
  open_pool(2, SMALL_RING);
  begin_call();
  post(0, 1000000, 100000);
  while (!atomic_load(&the_pool->crew[0].channel.shared->is_waiting) && os_now_ns() < deadline) poll(NULL, 0, 1);
  pool_ask_to_leave(the_pool);
  wait_for_leavers();
  assert_int_equal(shared->finished, 2);
}

static void test_quitting_with_a_full_ring(void **state) {
  int64_t deadline = os_now_ns() + long_ns();
  (void)state;
  open_pool(2, SMALL_RING);
  post(0, 1000000, 100000);
  while (!atomic_load(&the_pool->crew[0].channel.shared->is_waiting) && os_now_ns() < deadline) poll(NULL, 0, 1);
  pool_quit(the_pool);
  while (pool_reap(the_pool, 5 * MS) > 0) assert_true(os_now_ns() < deadline);
  assert_int_equal(shared->finished, 2);
}

static void test_closing_kills(void **state) {
  (void)state;
  shared->item = ignore_everything;
  open_pool(3, 0);
  post(0, 1000, 0);
  assert_true(wait_until_seen(3));
  pool_close(the_pool); /* the leak guard looks for processes */
  the_pool = NULL;
}

static void test_pool_starts_again_after_its_end(void **state) {
  int round;
  (void)state;
  open_pool(2, 0);
  for (round = 0; round < 5; round++) {
    square(1000, 0);
    pool_ask_to_leave(the_pool);
    wait_for_leavers();
    assert_int_equal(pool_start(the_pool, 2, 1), 2);
  }
  square(1000, 0);
  assert_int_equal(pool_forks(the_pool), 12);
  end_pool();
}

static int refuse_to_start(void *context, struct worker *w) {
  (void)context;
  worker_send(w, WORKER_UNREADY, 0, 0, "why", 3);
  return 1;
}

static int die_at_start(void *context, struct worker *w) {
  (void)context, (void)w;
  _exit(5);
}

static void test_workers_that_cannot_start(void **state) {
  static int (*const starts[])(void *, struct worker *) = {refuse_to_start, die_at_start};
  size_t i;
  (void)state;
  for (i = 0; i < 2; i++) {
    struct worker_tasks tasks = {NULL, starts[i], run_work, finish_work};
    int64_t deadline = os_now_ns() + long_ns();
    call.unready = 0;
    open_pool_with(2, 0, long_ns(), tasks);
    begin_call();
    post(0, 10, 0);
    while (call.unready == 0 && os_now_ns() < deadline) turn();
    assert_true(call.unready > 0);
    assert_true(pool_forks(the_pool) < 20);
    assert_int_equal(call.done, 0);
    pool_close(the_pool);
    the_pool = NULL;
  }
}

static void finish_with_a_word(void *context, struct worker *w) {
  (void)context;
  worker_send(w, WORKER_NOTICE, 0, 0, "a word", 6);
}

/* ---- output ------------------------------------------------------------------------------------------ */

static unsigned char *is_printed; /* by item */

static void print_item(struct worker *w, uint64_t item) {
  (void)w;
  printf("%llu\n", (unsigned long long)item);
}

/* Whole lines, each a number: a line that is not finished is kept for the next text. */
static void take_lines(const struct pool_event *event) {
  static char kept[2][64];
  static size_t n_kept[2];
  char *line = kept[event->worker - 1];
  size_t i, *n = &n_kept[event->worker - 1];
  for (i = 0; i < event->length; i++) {
    assert_true(*n < sizeof kept[0] - 1);
    line[(*n)++] = (char)event->data[i];
    if (event->data[i] != '\n') continue;
    line[*n] = 0;
    is_printed[strtoull(line, NULL, 10)] = 1;
    *n = 0;
  }
}

/* One look at everything there is; what an item printed has come before its result. */
static void take_printing(void) {
  struct pool_event event;
  uint64_t i;
  while (pool_next(the_pool, &event) != POOL_NOTHING) {
    if (event.kind == POOL_OUTPUT) {
      take_lines(&event);
      (void)pool_done(the_pool, &event, 0);
      continue;
    }
    assert_int_equal(event.kind, POOL_RESULTS);
    for (i = event.first; i < event.first + event.count; i++) assert_true(is_printed[i]);
    take_results(&event);
  }
}

static void print_many(uint64_t count, uint64_t ring_bytes, int64_t pause_ms) {
  struct worker_tasks tasks = {NULL, start_work, run_work, finish_work};
  struct pool_options options = {.workers = 2, .ring_bytes = ring_bytes, .grace_ns = long_ns(), .tasks = tasks, .output = OUTPUT_LINES};
  int64_t deadline = os_now_ns() + long_ns();
  assert_int_equal(pool_open(&the_pool, &options), 0);
  assert_int_equal(pool_start(the_pool, 2, 1), 2);
  begin_call();
  is_printed = calloc(count, 1);
  assert_non_null(is_printed);
  post(0, count, 1);
  while (call.done < count && os_now_ns() < deadline) {
    (void)pool_wait(the_pool, -1, os_now_ns() + 50 * MS);
    if (pause_ms) poll(NULL, 0, (int)pause_ms); /* many frames come together */
    take_printing();
  }
  assert_int_equal(call.done, count);
  free(is_printed);
  end_pool();
}

/* However many frames are read in one go: nobody gets a result before what its item printed. */
static void test_output_comes_before_results(void **state) {
  (void)state;
  shared->item = print_item;
  print_many(3000, 0, 0);
  free(call.is_done);
  memset(&call, 0, sizeof call);
  print_many(3000, SMALL_RING, 1);
}

/* ---- patience ---------------------------------------------------------------------------------------- */

static void hold_the_first(struct worker *w, uint64_t item) {
  if (item == 0) wait_for_permission(w, item);
}

/* The others are done while the host sleeps: what it finds when it lies down is no reason to sleep. */
static void hold_until_asleep(struct worker *w, uint64_t item) {
  hold_the_first(w, item);
  while (atomic_load(&w->board->host_sleep) != BOARD_PATIENT) poll(NULL, 0, 1);
}

/* One wait of a patient host. 1: something woke it before its time. */
static int is_woken(int64_t patience_ns) {
  int64_t until = os_now_ns() + patience_ns;
  pool_set_patience(the_pool, 1);
  while (os_now_ns() < until)
    if (pool_wait(the_pool, -1, until) == 0 && os_now_ns() < until) return 1;
  return 0;
}

/* Two workers on so many processors, the first of whom is held up by item 0; the other has done all the others. */
static void hold_up_one(uint64_t count, uint32_t cpus) {
  open_pool(2, 0);
  the_pool->board->n_cpus = cpus;
  begin_call();
  post(0, count, 1);
}

static void test_few_results_wake_nobody_patient(void **state) {
  (void)state;
  shared->item = hold_until_asleep;
  hold_up_one(20, 0); /* no processor at all: nobody looks out for anything without sleeping */
  for (; call.done < 19; take_events()) assert_false(is_woken(500 * MS));
  atomic_store(&shared->may_go_on, 1);
  assert_true(is_woken(long_ns())); /* by the last */
  take_events();
  assert_int_equal(call.done, 20);
  end_pool();
}

static void test_many_results_wake_the_patient(void **state) {
  (void)state;
  shared->item = hold_the_first;
  hold_up_one(20000, 2);
  assert_true(is_woken(long_ns()));
  take_events();
  assert_in_range(call.done, 1, 19999);
  atomic_store(&shared->may_go_on, 1);
  collect(20000);
  end_pool();
}

static void test_free_processors_wake_the_patient(void **state) {
  (void)state;
  shared->item = hold_the_first;
  hold_up_one(20, 3);
  assert_true(is_woken(long_ns()));
  take_events();
  assert_true(call.done > 0);
  atomic_store(&shared->may_go_on, 1);
  collect(20);
  end_pool();
}

/* Each item runs while the host sleeps; the tenth is held up. */
static void hold_the_tenth(struct worker *w, uint64_t item) {
  while (atomic_load(&w->board->host_sleep) != BOARD_PATIENT && !atomic_load(&shared->may_go_on)) poll(NULL, 0, 1);
  if (item == 9) wait_for_permission(w, item);
}

/* A sleeper that was rung has no processor yet, but the one that seems free will be its: the host does not take it. */
static void test_who_was_rung_counts_as_awake(void **state) {
  int64_t deadline = os_now_ns() + long_ns();
  pid_t late;
  (void)state;
  shared->item = hold_the_tenth;
  open_pool(2, 0);
  late = the_pool->crew[1].process.pid;
  for (int i = 0; i < 2; i++) /* (the other one, too: that it is ready wakes the host) */
    while (atomic_load(&the_pool->board->slots[i].phase) != BOARD_PARKED && os_now_ns() < deadline) poll(NULL, 0, 1);
  assert_int_equal(kill(late, SIGSTOP), 0);
  the_pool->board->n_cpus = 2;
  begin_call();
  post(0, 20, 1);
  assert_false(is_woken(500 * MS));
  atomic_store(&shared->may_go_on, 1);
  assert_true(is_woken(long_ns()));
  assert_int_equal(kill(late, SIGCONT), 0);
  collect(20);
  end_pool();
}

/* (as run_work does, for items that fail but for the first, which waits) */
static void run_failing_but_first(void *context, struct worker *w) {
  (void)context;
  worker_begin_item(w, w->claim.first);
  if (w->claim.first == 0) wait_for_permission(w, 0);
  worker_send(w, WORKER_FAILED, w->claim.first, 1, "no", 2);
}

static void test_failures_and_deaths_wake_the_patient(void **state) {
  struct worker_tasks tasks = {NULL, start_work, run_failing_but_first, finish_work};
  int64_t deadline = os_now_ns() + long_ns();
  (void)state;
  open_pool_with(2, 0, long_ns(), tasks);
  the_pool->board->n_cpus = 2;
  begin_call();
  post(0, 3, 1);
  for (; call.failed < 2; take_events()) assert_true(is_woken(long_ns()));
  call.forbid_start = 1;
  process_kill_tree(&the_pool->crew[0].process); /* one of them has item 0 */
  process_kill_tree(&the_pool->crew[1].process);
  for (; call.lost < 1 && os_now_ns() < deadline; take_events()) assert_true(is_woken(long_ns()));
  assert_int_equal(call.done, 3);
  pool_close(the_pool);
  the_pool = NULL;
}

/* Who is last to run out of work says so: however the others' ends fall together, nobody sleeps for ever. */
static void test_the_last_always_wakes_the_patient(void **state) {
  int i;
  (void)state;
  open_pool(3, 0);
  for (i = 0; i < 2000; i++) {
    the_pool->board->n_cpus = 1 + (uint32_t)i % 4;
    begin_call();
    post(0, 1 + (uint64_t)i % 7, 1);
    for (; call.done < 1 + (uint64_t)i % 7; take_events()) assert_true(is_woken(long_ns()));
  }
  end_pool();
}

/* What the host must not spin beside: workers who are about to take up what was posted. */
static void test_what_can_be_claimed_is_counted(void **state) {
  (void)state;
  shared->item = wait_for_permission;
  open_pool(2, 0);
  begin_call();
  assert_int_equal(pool_claimable(the_pool, 10), 0);
  post(0, 2, 1);
  while (atomic_load(&shared->runs) < 2) poll(NULL, 0, 1);
  assert_int_equal(pool_claimable(the_pool, 10), 0); /* they have it */
  post(2, 3, 1);
  assert_int_equal(pool_claimable(the_pool, 10), 3);
  assert_int_equal(pool_claimable(the_pool, 2), 2);
  assert_int_equal(pool_claimable(the_pool, 0), 0);
  post_kind(BOARD_BLOCK, 1, 5, 7, 0, 0);
  post_kind(BOARD_BLOCK, 1, 12, 1, 0, 0);
  assert_int_equal(pool_claimable(the_pool, 10), 5); /* a block is one worker's */
  atomic_store(&shared->may_go_on, 1);
  collect(13);
  assert_int_equal(pool_claimable(the_pool, 10), 0);
  end_pool();
}

/* Who looks out in vain does so less and less; who finds something does so again. */
static void test_spinning_in_vain_is_given_up(void **state) {
  int64_t deadline = os_now_ns() + long_ns();
  uint32_t spun = 0, i;
  (void)state;
  open_pool(1, 0);
  the_pool->board->n_cpus = 8;
  for (i = 0; i < 100; i++) {
    spun += the_pool->n_unspun == 0;
    assert_int_equal(pool_wait(the_pool, -1, 0), 0);
  }
  assert_in_range(spun, 3, 10);
  begin_call();
  for (i = 0; the_pool->n_vain > 0 && i < MAX_ITEMS && os_now_ns() < deadline; i++) {
    post(i, 1, 1);
    while (call.done <= i && os_now_ns() < deadline) turn();
  }
  assert_int_equal(the_pool->n_vain, 0);
  end_pool();
}

/* A guess sizes the first claims; what the workers measure goes before it. */
static void test_claims_begin_with_a_guess(void **state) {
  struct pool_work work = {.kind = BOARD_INDEXED, .call = 1, .count = 60, .job = 1, .item_ns = 1000};
  uint64_t counts;
  (void)state;
  shared->item = wait_for_permission;
  open_pool(2, 0);
  begin_call();
  assert_int_equal(pool_post(the_pool, &work), 0);
  while (atomic_load(&shared->runs) < 2) poll(NULL, 0, 1);
  counts = atomic_load(&the_pool->board->slots[0].count) + atomic_load(&the_pool->board->slots[1].count);
  assert_int_equal(counts, 10 + 8); /* a third of a fair share of what is left; single items without the guess */
  atomic_store(&shared->may_go_on, 1);
  collect(60);
  assert_true(pool_item_ns(the_pool, 1) > 0);
  end_pool();
}

/* ---- priorities ------------------------------------------------------------------------------------ */

enum { GATES = 8, BLOCK = 1000, GATE_AT = 500 }; /* block k is items [k * BLOCK, (k + 1) * BLOCK), and waits in its middle for gate k */
enum { ORDINARY = 20000, URGENT = 500000, HUMBLE = 600000 };

static void log_item(struct worker *w, uint64_t item) {
  uint64_t at;
  (void)w;
  if (item % BLOCK == GATE_AT && item / BLOCK < GATES) {
    atomic_fetch_add(&shared->seen, 1);
    while (!atomic_load(&shared->gates[item / BLOCK])) poll(NULL, 0, 1);
  }
  at = atomic_fetch_add(&shared->n_logged, 1);
  if (at < LOGGED) shared->log[at] = (uint32_t)item;
  if (shared->bad_item && item == shared->bad_item) raise(SIGKILL);
}

static void open_gates(int first, int last) {
  for (; first <= last; first++) atomic_store(&shared->gates[first], 1);
}

static void post_with(enum pool_priority priority, enum board_entry_kind kind, uint64_t first, uint64_t count, uint32_t chunk) {
  struct pool_work work = {.kind = kind, .priority = priority, .chunk = chunk, .call = 1 + priority, .job = 1};
  void *memory;
  work.first = first;
  work.count = count;
  if (kind == BOARD_BLOCK) {
    work.block_length = 100;
    assert_int_equal(pool_input(the_pool, 100, &work.block_offset, &memory), 0);
  }
  assert_int_equal(pool_post(the_pool, &work), 0);
}

static void assert_logged(uint64_t from, uint64_t first, uint64_t count) {
  uint64_t i;
  for (i = 0; i < count; i++)
    if (shared->log[from + i] != first + i)
      fail_msg("place %d: item %d ran instead of %d", (int)(from + i), (int)shared->log[from + i], (int)(first + i));
}

static void begin_priorities(uint32_t workers) {
  memset((void *)shared, 0, sizeof *shared);
  shared->item = log_item;
  open_pool(workers, 0);
  begin_call();
}

static void end_priorities(uint64_t items) {
  enum board_lane lane;
  assert_int_equal(shared->n_logged, items);
  assert_quiet();
  for (lane = 0; lane < BOARD_LANES; lane++) {
    assert_int_equal(the_pool->lanes[lane].n_active, 0);
    assert_true(links_are_empty(&the_pool->lanes[lane].again));
    assert_true(links_are_empty(&the_pool->lanes[lane].backlog));
  }
  assert_int_equal(pool_in_flight(the_pool, 1) + pool_in_flight(the_pool, 2) + pool_in_flight(the_pool, 3), 0);
  end_pool();
}

/* Posted in turn; run by priority, and within one as they were posted. */
static void test_priorities_are_an_order(void **state) {
  enum { MANY = BOARD_ENTRIES };
  struct pool_work wrong = {.kind = BOARD_INDEXED, .priority = (enum pool_priority)3, .call = 1, .count = 1, .job = 1};
  uint64_t i;
  (void)state;
  begin_priorities(1);
  post_with(POOL_NORMAL, BOARD_BLOCK, GATE_AT, 1, 0);
  assert_true(wait_until_seen(1));
  for (i = 0; i < MANY; i++) {
    post_with(POOL_LOW, i % 2 ? BOARD_BLOCK : BOARD_INDEXED, HUMBLE + i, 1, 0);
    post_with(POOL_NORMAL, i % 2 ? BOARD_INDEXED : BOARD_BLOCK, ORDINARY + i, 1, 0);
    post_with(POOL_HIGH, i % 3 ? BOARD_BLOCK : BOARD_INDEXED, URGENT + i, 1, 0);
  }
  assert_int_equal(pool_unclaimed(the_pool, 1 + POOL_HIGH), MANY);
  assert_int_equal(pool_claimable(the_pool, 5), 5);
  open_gates(0, 0);
  collect(3 * MANY + 1);
  assert_logged(0, GATE_AT, 1);
  assert_logged(1, URGENT, MANY);
  assert_logged(1 + MANY, ORDINARY, MANY);
  assert_logged(1 + 2 * MANY, HUMBLE, MANY);
  assert_int_equal(pool_post(the_pool, &wrong), -EINVAL);
  end_priorities(3 * MANY + 1);
}

/* What is urgent runs, and waits for gate 7; until the host has seen what was given back for it. */
static void wait_for_the_rest(enum board_lane lane) {
  int64_t deadline = os_now_ns() + long_ns();
  assert_true(wait_until_seen(2));
  while (the_pool->lanes[board_returned(lane)].n_active == 0 && os_now_ns() < deadline) turn();
  assert_int_equal(the_pool->lanes[board_returned(lane)].n_active, 1);
}

/* A worker that has many items looks after each of them; what it gives back goes on where it was, before what came later. */
static void test_giving_way_after_one_item(void **state) {
  static const enum pool_priority pairs[][2] = {{POOL_HIGH, POOL_NORMAL}, {POOL_HIGH, POOL_LOW}, {POOL_NORMAL, POOL_LOW}};
  const uint64_t urgent = 7 * BLOCK + GATE_AT;
  int kind;
  size_t i;
  (void)state;
  for (i = 0; i < 3; i++)
    for (kind = 0; kind < 2; kind++) {
      begin_priorities(1);
      post_with(pairs[i][1], kind ? BOARD_BLOCK : BOARD_INDEXED, 0, BLOCK, BLOCK);
      post_with(pairs[i][1], BOARD_INDEXED, ORDINARY, 100, 100);
      assert_true(wait_until_seen(1));
      post_with(pairs[i][0], BOARD_INDEXED, urgent, 3, 1);
      open_gates(0, 0);
      wait_for_the_rest(pairs[i][1] == POOL_LOW ? BOARD_LOW : BOARD_NORMAL);
      open_gates(7, 7);
      collect(BLOCK + 103);
      assert_logged(0, 0, GATE_AT + 1);
      assert_logged(GATE_AT + 1, urgent, 3);
      assert_logged(GATE_AT + 4, GATE_AT + 1, BLOCK - GATE_AT - 1);
      assert_logged(BLOCK + 3, ORDINARY, 100);
      end_priorities(BLOCK + 103);
    }
}

static uint64_t count_claims(void) {
  uint64_t sum = 0;
  uint32_t i;
  for (i = 0; i < pool_places(the_pool); i++) sum += atomic_load(&the_pool->board->slots[i].claims);
  return sum;
}

/* Nobody gives way to equals, to what is of a lower priority, or to what is not there any more. */
static void test_giving_way_to_nobody(void **state) {
  static const enum pool_priority all[] = {POOL_HIGH, POOL_NORMAL, POOL_LOW};
  size_t i;
  (void)state;
  for (i = 0; i < 3; i++) {
    begin_priorities(1);
    post_with(all[i], BOARD_INDEXED, 0, BLOCK, BLOCK);
    assert_true(wait_until_seen(1));
    post_with(all[i], BOARD_INDEXED, URGENT, 1, 0);
    if (all[i] == POOL_HIGH) post_with(POOL_LOW, BOARD_INDEXED, HUMBLE, 1, 0);
    assert_int_equal(the_pool->board->slots[0].stopped_claim, 0);
    open_gates(0, 0);
    collect(BLOCK + 1 + (all[i] == POOL_HIGH));
    assert_logged(0, 0, BLOCK);
    assert_logged(BLOCK, URGENT, 1);
    end_priorities(BLOCK + 1 + (uint64_t)(all[i] == POOL_HIGH));
  }
  begin_priorities(1);
  post_with(POOL_NORMAL, BOARD_INDEXED, 0, BLOCK, BLOCK);
  assert_true(wait_until_seen(1));
  post_with(POOL_HIGH, BOARD_INDEXED, URGENT, 10, 0);
  assert_int_equal(the_pool->board->slots[0].stopped_claim, 1 | BOARD_GIVE_WAY);
  pool_cancel(the_pool, 1 + POOL_HIGH, -1);
  open_gates(0, 0);
  collect(BLOCK);
  assert_int_equal(count_claims(), 1); /* it was told, looked, and went on */
  end_priorities(BLOCK);
}

/* All are told; the first at the end of its item does it, and the others, who find it taken, give nothing back. */
static void test_the_first_gives_way(void **state) {
  int64_t deadline = os_now_ns() + long_ns();
  uint64_t k;
  (void)state;
  begin_priorities(3);
  for (k = 0; k < 3; k++) post_with(POOL_NORMAL, BOARD_BLOCK, k * BLOCK, BLOCK, 0);
  assert_true(wait_until_seen(3));
  post_with(POOL_HIGH, BOARD_BLOCK, URGENT, 1, 0);
  open_gates(1, 1);
  while (!call.is_done[URGENT] && os_now_ns() < deadline) turn();
  assert_int_equal(shared->log[3 * GATE_AT], BLOCK + GATE_AT); /* the others have done so many, and wait */
  assert_int_equal(shared->log[3 * GATE_AT + 1], URGENT);
  open_gates(0, 2);
  collect(3 * BLOCK + 1);
  assert_int_equal(count_claims(), 3 + 1 + 1); /* one rest came back */
  end_priorities(3 * BLOCK + 1);
}

/* Its call is cancelled, or drained, while a worker is told to give way: that is the last word. */
static void test_stopping_who_gives_way(void **state) {
  int round;
  (void)state;
  for (round = 0; round < 4; round++) {
    begin_priorities(1);
    post_with(POOL_NORMAL, round % 2 ? BOARD_BLOCK : BOARD_INDEXED, 0, BLOCK, BLOCK);
    assert_true(wait_until_seen(1));
    post_with(POOL_HIGH, BOARD_BLOCK, URGENT, 1, 0);
    if (round < 2) pool_drain(the_pool, 1); else pool_cancel(the_pool, 1, -1);
    assert_int_equal(the_pool->board->slots[0].stopped_claim, 1);
    open_gates(0, 0);
    collect(round < 2 ? GATE_AT + 2 : 1);
    if (round >= 2) wait_until_quiet();
    assert_logged(0, 0, GATE_AT + 1);
    assert_logged(GATE_AT + 1, URGENT, 1);
    end_priorities(GATE_AT + 2);
  }
}

/* While it is paused nobody could begin what is urgent, so nobody gives way to it. */
static void test_priorities_in_a_pause(void **state) {
  (void)state;
  begin_priorities(1);
  post_with(POOL_NORMAL, BOARD_INDEXED, 0, BLOCK, BLOCK);
  post_with(POOL_NORMAL, BOARD_INDEXED, ORDINARY, 100, 100);
  assert_true(wait_until_seen(1));
  pool_pause(the_pool, 1);
  post_with(POOL_HIGH, BOARD_BLOCK, URGENT, 1, 0);
  open_gates(0, 0);
  collect(BLOCK);
  assert_logged(0, 0, BLOCK);
  assert_int_equal(shared->n_logged, BLOCK);
  pool_pause(the_pool, 0);
  collect(BLOCK + 101);
  assert_logged(BLOCK, URGENT, 1);
  assert_logged(BLOCK + 1, ORDINARY, 100);
  end_priorities(BLOCK + 101);
}

/* What is urgent kills its worker, again and again: it is blamed, and nothing else is lost, done twice, or overtaken. */
static void test_deaths_in_what_is_urgent(void **state) {
  int retries;
  (void)state;
  for (retries = 0; retries < 3; retries++) {
    begin_priorities(1);
    shared->bad_item = URGENT + 1;
    call.count_of_retries = retries;
    call.lost = 0;
    post_with(POOL_NORMAL, BOARD_INDEXED, 0, BLOCK, BLOCK);
    assert_true(wait_until_seen(1));
    post_with(POOL_HIGH, BOARD_BLOCK, URGENT, 3, 0);
    open_gates(0, 0);
    collect(BLOCK + 3);
    assert_int_equal(call.lost, 1 + retries);
    assert_int_equal(call.last_lost.first, URGENT + 1);
    assert_int_equal(call.last_lost.call, 1 + POOL_HIGH);
    assert_logged(0, 0, GATE_AT + 1);
    assert_logged(GATE_AT + 1, URGENT, 2);
    assert_int_equal(shared->log[GATE_AT + 3], URGENT + 2); /* the rest of its claim, which it had not begun */
    assert_logged(GATE_AT + 4 + (uint64_t)retries, GATE_AT + 1, BLOCK - GATE_AT - 1);
    end_priorities(BLOCK + 3 + (uint64_t)retries);
  }
}

static void post_at_random(uint64_t *seed, uint64_t first) {
  enum pool_priority priority = (enum pool_priority)random_below(seed, 3);
  post_with(priority, random_below(seed, 3) ? BOARD_INDEXED : BOARD_BLOCK, first, 10, (uint32_t)random_below(seed, 5));
}

/* Whoever is killed, whenever, and whatever is posted meanwhile: each item once. */
static void test_priorities_while_workers_die(void **state) {
  enum { LEAST = 2 * BOARD_ENTRIES };
  uint64_t seed = 17, i, posted = 0, many = (uint64_t)rounds_of(2 * LEAST);
  int64_t deadline = os_now_ns() + 3 * long_ns();
  (void)state;
  open_pool(3, SMALL_RING);
  begin_call();
  call.count_of_retries = 1 << 30;
  for (; posted < many / 2; posted++) post_at_random(&seed, 10 * posted);
  while ((posted < many || call.done < 10 * posted) && os_now_ns() < deadline) {
    for (i = random_below(&seed, 20); i > 0 && posted < many; i--) post_at_random(&seed, 10 * posted++);
    if (random_below(&seed, 3) == 0) kill_somebody(&seed);
    turn();
  }
  assert_int_equal(call.done, 10 * many);
  assert_quiet();
  assert_true(pool_forks(the_pool) > 3);
  end_pool();
}

#ifdef LUAPOOL_FAULTS
/* It is stopped between deciding on a claim and noting it: the host cannot tell it anything, and it looks by itself. */
static void test_urgent_work_meets_a_claim(void **state) {
  int64_t deadline = os_now_ns() + long_ns();
  struct pool_worker_info info;
  (void)state;
  with_fault("worker_claimed#1:stop");
  begin_priorities(1);
  post_with(POOL_NORMAL, BOARD_INDEXED, 0, BLOCK, BLOCK);
  while ((board_entry(the_pool->board, board_first(BOARD_NORMAL))->cursor & BOARD_MAX_ITEMS) != BLOCK) poll(NULL, 0, 1);
  post_with(POOL_HIGH, BOARD_BLOCK, URGENT, 1, 0);
  pool_info(the_pool, 0, &info);
  open_gates(0, 0);
  while (shared->n_logged == 0 && os_now_ns() < deadline) { /* it may not have stopped yet */
    (void)kill(info.pid, SIGCONT);
    poll(NULL, 0, 1);
  }
  collect(BLOCK + 1);
  assert_logged(0, URGENT, 1);
  assert_logged(1, 0, BLOCK);
  with_fault("");
  end_priorities(BLOCK + 1);
}

/* Killed when it has decided to give the rest back, or has claimed what is urgent: nobody is to blame, and nothing is run twice. */
static void test_killed_while_giving_way(void **state) {
  static const char *const rules[] = {"worker_gives_way#1:kill", "worker_claimed#2:kill"};
  size_t i;
  (void)state;
  for (i = 0; i < 2; i++) {
    with_fault(rules[i]);
    begin_priorities(1);
    post_with(POOL_NORMAL, BOARD_INDEXED, 0, BLOCK, BLOCK);
    assert_true(wait_until_seen(1));
    post_with(POOL_HIGH, BOARD_BLOCK, URGENT, 1, 0);
    with_fault(""); /* whoever comes in its place */
    open_gates(0, 0);
    collect(BLOCK + 1);
    assert_int_equal(call.lost, 0);
    assert_int_equal(pool_forks(the_pool), 2);
    assert_logged(0, 0, GATE_AT + 1);
    assert_logged(GATE_AT + 1, URGENT, 1);
    assert_logged(GATE_AT + 2, GATE_AT + 1, BLOCK - GATE_AT - 1);
    end_priorities(BLOCK + 1);
  }
}
#endif

static void test_notices_arrive(void **state) {
  struct worker_tasks tasks = {NULL, start_work, run_work, finish_with_a_word};
  int64_t deadline = os_now_ns() + long_ns();
  struct pool_event event;
  (void)state;
  open_pool_with(1, 0, long_ns(), tasks);
  square(10, 0);
  pool_ask_to_leave(the_pool);
  while (pool_next(the_pool, &event) == POOL_NOTHING && os_now_ns() < deadline) (void)pool_wait(the_pool, -1, os_now_ns() + 5 * MS);
  assert_int_equal(event.kind, POOL_NOTICE);
  assert_int_equal(event.length, 6);
  assert_memory_equal(event.data, "a word", 6);
  assert_int_equal(pool_done(the_pool, &event, 0), 0);
  end_pool();
}

/* A forked copy of the host lets go of the pool and harms nobody. */
static void test_copies_let_go(void **state) {
  int status;
  pid_t pid;
  (void)state;
  open_pool(2, 0);
  square(100, 0);
  fflush(stdout);
  pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    pool_abandon(the_pool);
    _exit(0);
  }
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
  square(100, 0);
  assert_int_equal(pool_forks(the_pool), 2);
  end_pool();
}

#define CASE(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void) {
  const struct CMUnitTest tests[] = {
    CASE(test_squares),
    CASE(test_results_fill_the_ring),
    CASE(test_nobody_reads_for_a_while),
    CASE(test_many_small_entries),
    CASE(test_a_backlog_is_worked_off),
    CASE(test_a_long_item_holds_up_nobody),
    CASE(test_thousands_of_calls),
    CASE(test_kills_with_a_backlog),
    CASE(test_ends_with_a_backlog),
    CASE(test_items_far_larger_than_the_ring),
    CASE(test_blocks_are_given_back),
    CASE(test_options_are_checked),
    CASE(test_deaths_are_blamed_on_their_items),
    CASE(test_ends_tell_how),
    CASE(test_lost_items_are_tried_again),
    CASE(test_closing_with_retries_in_hand),
    CASE(test_failed_items_are_reported),
    CASE(test_killed_at_random_moments),
#ifdef LUAPOOL_FAULTS
    CASE(test_killed_between_claim_and_note),
    CASE(test_killed_around_publishing),
    CASE(test_recheck_while_others_work),
    CASE(test_no_memory_for_a_pool),
    CASE(test_nobody_is_started_for_nothing),
    CASE(test_fork_fails_half_way),
#endif
    CASE(test_broadcast),
    CASE(test_many_broadcasts),
    CASE(test_broadcast_to_those_who_are_not),
    CASE(test_death_in_a_broadcast),
    CASE(test_broadcast_while_workers_die),
    CASE(test_timeout_in_a_broadcast),
    CASE(test_cancel_of_a_broadcast),
    CASE(test_cancel_of_broadcasts_at_any_moment),
    CASE(test_nobody_speaks_for_another),
#ifdef LUAPOOL_FAULTS
    CASE(test_killed_before_it_began_the_broadcast),
#endif
    CASE(test_resizing),
    CASE(test_resizing_lets_them_finish),
    CASE(test_resizing_with_a_broadcast),
    CASE(test_resizing_while_workers_die),
    CASE(test_broadcasts_count_as_well),
    CASE(test_workers_leave_after_so_many),
    CASE(test_leaving_and_dying),
#ifdef LUAPOOL_FAULTS
    CASE(test_leaving_and_dying_at_points),
#endif
    CASE(test_damage_costs_its_worker_alone),
    CASE(test_claims_behind_the_damage_are_not_lost),
    CASE(test_cancel_stops_the_busy),
    CASE(test_cancel_of_the_idle_and_the_unknown),
    CASE(test_cancel_at_any_moment),
    CASE(test_late_requests_are_forgotten),
    CASE(test_stragglers_are_killed),
    CASE(test_cancel_kills_in_time),
    CASE(test_cancel_again_shortens_the_time),
    CASE(test_cancel_is_one_calls_affair),
    CASE(test_cancel_of_a_loss),
    CASE(test_cancel_of_shown_results),
    CASE(test_bystanders_are_not_blamed),
    CASE(test_drain_lets_items_finish),
    CASE(test_cancel_of_what_is_drained),
    CASE(test_drain_while_workers_die),
    CASE(test_cancel_while_workers_die),
    CASE(test_cancel_frees_what_waits_for_a_retry),
    CASE(test_timeout_kills_who_does_not_listen),
    CASE(test_timeout_is_a_request_first),
    CASE(test_a_caller_that_is_slow_forgives_nothing),
#ifdef LUAPOOL_FAULTS
    CASE(test_the_time_of_a_stop_counts_for_nobody),
#endif
    CASE(test_counts),
    CASE(test_counts_while_workers_die),
    CASE(test_times),
    CASE(test_waiting_for_room_is_timed),
    CASE(test_peak_memory),
    CASE(test_what_runs_now),
    CASE(test_the_time_of_the_dead),
    CASE(test_leaving_finishes_what_is_claimed),
    CASE(test_quitting_interrupts),
    CASE(test_leaving_with_a_full_ring),
    CASE(test_quitting_with_a_full_ring),
    CASE(test_closing_kills),
    CASE(test_pool_starts_again_after_its_end),
    CASE(test_workers_that_cannot_start),
    CASE(test_output_comes_before_results),
    CASE(test_few_results_wake_nobody_patient),
    CASE(test_many_results_wake_the_patient),
    CASE(test_free_processors_wake_the_patient),
    CASE(test_who_was_rung_counts_as_awake),
    CASE(test_failures_and_deaths_wake_the_patient),
    CASE(test_the_last_always_wakes_the_patient),
    CASE(test_what_can_be_claimed_is_counted),
    CASE(test_claims_begin_with_a_guess),
    CASE(test_spinning_in_vain_is_given_up),
    CASE(test_priorities_are_an_order),
    CASE(test_giving_way_after_one_item),
    CASE(test_giving_way_to_nobody),
    CASE(test_the_first_gives_way),
    CASE(test_stopping_who_gives_way),
    CASE(test_priorities_in_a_pause),
    CASE(test_deaths_in_what_is_urgent),
    CASE(test_priorities_while_workers_die),
#ifdef LUAPOOL_FAULTS
    CASE(test_urgent_work_meets_a_claim),
    CASE(test_killed_while_giving_way),
#endif
    CASE(test_notices_arrive),
    CASE(test_copies_let_go),
  };
  void *memory;
  if (os_map_shared(sizeof *shared, &memory) < 0) return 1;
  shared = memory;
  return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
