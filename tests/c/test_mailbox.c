/* Messages from many to many: whole or not at all, in order, whoever dies at whatever instruction. */
#include "unit.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "memory/mailbox.h"

/* What a child has inherited is not lost when it leaves: valgrind shall find a pointer to it. */
static void *volatile kept[64];

static void *keep(void *memory) {
  static unsigned count;
  return kept[count++ % 64] = memory;
}

static struct segment *make(uint64_t most) {
  struct segment *s = NULL;
  assert_int_equal(segment_make(&s, 1, 1, 1, MAILBOX_BYTES), 0);
  mailbox_init(s, most);
  return keep(s);
}

static int put(struct segment *s, const void *data, size_t length, int note) {
  struct share_event *event;
  uint32_t seen;
  uint64_t number;
  int status = mailbox_put(s, data, length, note, &number, &event, &seen);
  if (status == -EAGAIN) mailbox_stop_putting(s);
  return status;
}

static int take(struct segment *s, struct bytes *out, int *note) {
  struct share_event *event;
  uint32_t seen;
  int status;
  bytes_clear(out);
  status = mailbox_take(s, out, note, &event, &seen);
  if (status == -EAGAIN) mailbox_stop_taking(s);
  return status;
}

static int take_number(struct segment *s, uint64_t *number) {
  struct bytes out;
  int note, status;
  bytes_init(&out);
  status = take(s, &out, &note);
  if (status == 0) {
    assert_int_equal(out.length, sizeof *number);
    memcpy(number, out.data, sizeof *number);
  }
  bytes_free(&out);
  return status;
}

static void test_in_order_and_bounded(void **state) {
  struct segment *s = make(3);
  uint64_t k, number;
  (void)state;
  assert_int_equal(take_number(s, &number), -EAGAIN);
  for (k = 0; k < 3; k++) assert_int_equal(put(s, &k, sizeof k, 0), 0);
  assert_int_equal(mailbox_count(s), 3);
  assert_int_equal(put(s, &k, sizeof k, 0), -EAGAIN);
  assert_false(mailbox_has_room(s, 1));
  for (k = 0; k < 3; k++) {
    assert_int_equal(take_number(s, &number), 0);
    assert_int_equal(number, k);
  }
  assert_true(mailbox_has_room(s, 1));
  assert_int_equal(mailbox_count(s), 0);
  assert_int_equal(take_number(s, &number), -EAGAIN);
  segment_drop(s);
}

static void test_closing(void **state) {
  struct segment *s = make(100);
  uint64_t k = 7, number;
  (void)state;
  assert_int_equal(put(s, &k, sizeof k, 0), 0);
  assert_false(mailbox_is_closed(s));
  mailbox_close(s);
  mailbox_close(s);
  assert_true(mailbox_is_closed(s));
  assert_int_equal(put(s, &k, sizeof k, 0), -EPIPE);
  assert_int_equal(take_number(s, &number), 0); /* what was sent is received */
  assert_int_equal(number, 7);
  assert_int_equal(take_number(s, &number), -EPIPE);
  segment_drop(s);
}

/* Against a queue of plain memory: random lengths, from nothing to several rings, around the end of the ring many times. */
enum { WAITING = 64 };

struct model {
  unsigned char marks[WAITING];
  size_t lengths[WAITING];
  int first, count;
};

static size_t random_length(uint64_t *seed) {
  uint64_t kind = random_below(seed, 100);
  if (kind == 0) return random_below(seed, 3 * MAILBOX_RING_BYTES);
  if (kind < 10) return random_below(seed, MAILBOX_RING_BYTES / 3);
  return random_below(seed, 200);
}

static void put_random(struct segment *s, struct model *m, uint64_t *seed, unsigned char *data) {
  size_t length = random_length(seed);
  unsigned char mark = (unsigned char)random_below(seed, 256);
  int at = (m->first + m->count) % WAITING, status;
  memset(data, mark, length);
  status = put(s, data, length, 0);
  if (status == -EAGAIN) {
    assert_true(m->count > 0); /* alone, everything fits */
    return;
  }
  assert_int_equal(status, 0);
  m->marks[at] = mark;
  m->lengths[at] = length;
  m->count++;
}

static void take_checked(struct segment *s, struct model *m, struct bytes *out) {
  int note, status = take(s, out, &note);
  if (m->count == 0) {
    assert_int_equal(status, -EAGAIN);
    return;
  }
  assert_int_equal(status, 0);
  assert_int_equal(note, 0);
  assert_int_equal(out->length, m->lengths[m->first]);
  for (size_t i = 0; i < out->length; i++)
    if (out->data[i] != m->marks[m->first]) fail_msg("byte %zu of %zu", i, out->length);
  m->first = (m->first + 1) % WAITING;
  m->count--;
}

static void test_random_messages(void **state) {
  struct segment *s = make(WAITING);
  struct model m = {.first = 0};
  struct bytes out;
  unsigned char *data = malloc(3 * MAILBOX_RING_BYTES);
  uint64_t seed = 5;
  struct stat now;
  (void)state;
  bytes_init(&out);
  for (int round = 0; round < rounds_of(20000); round++) {
    if (random_below(&seed, 100) < (uint64_t)(round / 500 % 2 ? 55 : 45)) put_random(s, &m, &seed, data);
    else take_checked(s, &m, &out);
    assert_int_equal(mailbox_count(s), m.count);
  }
  while (m.count > 0) take_checked(s, &m, &out);
  assert_int_equal(put(s, "x", 1, 0), 0); /* a small one makes the ring small again */
  assert_int_equal(fstat(s->fd, &now), 0);
  assert_true(now.st_size <= 2 * MAILBOX_RING_BYTES);
  bytes_free(&out);
  free(data);
  segment_drop(s);
}

/* Another process has mapped the small ring, and finds the message that made it large. */
static void test_others_follow_the_growth(void **state) {
  const size_t length = 5 << 20;
  struct segment *s = make(10);
  char *data = keep(malloc(length));
  pid_t pid = fork();
  int status;
  (void)state;
  assert_true(pid >= 0);
  if (pid == 0) {
    struct bytes out;
    int note;
    bytes_init(&out);
    while (mailbox_count(s) == 0) os_poll(NULL, 0, MS);
    if (take(s, &out, &note) != 0 || out.length != length || out.data[length - 1] != 'x') _exit(1);
    bytes_free(&out);
    if (put(s, "back", 4, 0) != 0) _exit(2);
    _exit(0);
  }
  memset(data, 'x', length);
  assert_int_equal(put(s, data, length, 0), 0);
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
  assert_int_equal(mailbox_count(s), 1);
  assert_int_equal(put(s, data, length, 0), -EAGAIN); /* not alone */
  free(data);
  segment_drop(s);
}

static void test_notes_stay_until_they_were_read(void **state) {
  struct segment *s = make(10);
  struct share_event *event;
  struct bytes out;
  uint64_t number, second;
  uint32_t seen;
  int note;
  (void)state;
  bytes_init(&out);
  assert_int_equal(mailbox_put(s, "a", 1, 1, &number, &event, &seen), 0);
  assert_int_equal(mailbox_put(s, "b", 1, 0, &second, &event, &seen), 0);
  assert_false(mailbox_is_taken(s, number));
  assert_int_equal(take(s, &out, &note), 0);
  assert_int_equal(note, 1);
  assert_int_equal(take(s, &out, &note), -EBUSY); /* inside the reading */
  assert_int_equal(mailbox_count(s), 2);
  mailbox_stop_taking(s); /* it could not be read: for others */
  assert_int_equal(take(s, &out, &note), 0);
  assert_memory_equal(out.data, "a", 1);
  mailbox_finish_taking(s);
  assert_true(mailbox_is_taken(s, number));
  assert_false(mailbox_is_taken(s, second));
  assert_int_equal(take(s, &out, &note), 0);
  assert_int_equal(note, 0);
  assert_true(mailbox_is_taken(s, second));
  mailbox_finish_taking(s); /* nothing to finish */
  assert_int_equal(mailbox_count(s), 0);
  bytes_free(&out);
  segment_drop(s);
}

/* Positions and counts wrap around. */
static void test_words_wrap_around(void **state) {
  struct segment *s = make(5);
  struct mailbox_shared *m = mailbox_shared(s);
  uint64_t near = ~UINT64_C(0) & ~UINT64_C(1), number, k;
  (void)state;
  near -= UINT64_C(2) << 28; /* two units before the end of the positions; the count is at its end */
  atomic_store(&m->head, near);
  atomic_store(&m->tail, near);
  for (k = 0; k < 20; k++) {
    uint64_t more = k + 100;
    assert_int_equal(put(s, &k, sizeof k, 0), 0);
    assert_int_equal(put(s, &more, sizeof more, 0), 0);
    assert_int_equal(mailbox_count(s), 2);
    assert_int_equal(take_number(s, &number), 0);
    assert_int_equal(number, k);
    assert_int_equal(take_number(s, &number), 0);
    assert_int_equal(number, more);
  }
  segment_drop(s);
}

static void test_damage_is_noticed(void **state) {
  struct segment *s = make(5);
  struct mailbox_shared *m = mailbox_shared(s);
  uint64_t k = 1, number, capacity = atomic_load(&m->capacity), head;
  (void)state;
  assert_int_equal(put(s, &k, sizeof k, 0), 0);
  ((uint64_t *)(void *)(m + 1))[0] = UINT64_C(1) << 40; /* a length */
  assert_int_equal(take_number(s, &number), -EBADMSG);
  ((uint64_t *)(void *)(m + 1))[0] = 8;
  static const uint64_t capacities[] = {0, 1, 100, 3 * MAILBOX_RING_BYTES, UINT64_C(1) << 37, UINT64_C(1) << 60};
  for (size_t i = 0; i < sizeof capacities / sizeof *capacities; i++) {
    atomic_store(&m->capacity, capacities[i]);
    assert_int_equal(take_number(s, &number), -EBADMSG);
    assert_int_equal(put(s, &k, sizeof k, 0), -EBADMSG);
  }
  atomic_store(&m->capacity, capacity);
  head = atomic_load(&m->head);
  atomic_store(&m->head, head + (UINT64_C(1) << 60)); /* more than the ring holds */
  assert_int_equal(take_number(s, &number), -EBADMSG);
  atomic_store(&m->head, head);
  assert_int_equal(take_number(s, &number), 0);
  segment_drop(s);
}

static void test_impossible_messages(void **state) {
  struct segment *s = make(5);
  (void)state;
#if SIZE_MAX > UINT32_MAX
  assert_int_equal(put(s, NULL, (size_t)1 << 38, 0), -EFBIG);
#endif
#if SIZE_MAX > UINT32_MAX && defined __linux__
  assert_int_equal(put(s, NULL, (size_t)1 << 37, 0), -ENOMEM);
#endif
  assert_int_equal(put(s, "x", 1, 0), 0);
  segment_drop(s);
}

/* ---- deaths ---- */

#ifdef LUAPOOL_FAULTS

static void fault(const char *variable, const char *rule) {
  setenv(variable, rule, 1);
  fault_reload();
}

/* Blocking forms, as the job floor has them. */
static void put_all(struct segment *s, uint64_t number, size_t length) {
  unsigned char *data = malloc(length);
  struct share_event *event;
  uint64_t order;
  uint32_t seen;
  int status;
  memset(data, (int)number, length);
  memcpy(data, &number, sizeof number);
  while ((status = mailbox_put(s, data, length, 0, &order, &event, &seen)) == -EAGAIN) (void)share_event_wait(event, seen, 20 * MS);
  free(data);
  if (status != 0) _exit(9);
}

/* A message's number, or -1 after a close. */
static int64_t take_one(struct segment *s) {
  struct share_event *event;
  struct bytes out;
  uint64_t number;
  uint32_t seen;
  int status, note;
  bytes_init(&out);
  while ((status = mailbox_take(s, &out, &note, &event, &seen)) == -EAGAIN) (void)share_event_wait(event, seen, 20 * MS);
  if (status == -EPIPE) bytes_free(&out);
  if (status == -EPIPE) return -1;
  if (status != 0 || out.length < sizeof number) _exit(8);
  memcpy(&number, out.data, sizeof number);
  for (size_t i = sizeof number; i < out.length; i++)
    if (out.data[i] != (unsigned char)number) _exit(7);
  bytes_free(&out);
  return (int64_t)number;
}

static size_t length_of(uint64_t number) {
  return number % 50 == 49 ? MAILBOX_RING_BYTES + number * 10 : 8 + number % 300;
}

/* A child that sends `first`, first + 1, ... until it is killed at its fault point, or has sent `count`. */
static pid_t start_sender(struct segment *s, const char *rule, uint64_t first, uint64_t count) {
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    fault("LUAPOOL_FAULT", rule);
    for (uint64_t k = first; k < first + count; k++) put_all(s, k, length_of(k));
    _exit(0);
  }
  return pid;
}

static int ended(pid_t pid) {
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

/* Takes what comes until the child has ended, and what is left then: the numbers from `expected` on. Returns the next one. */
static int64_t take_until_it_ends(struct segment *s, pid_t pid, int status, int64_t expected) {
  uint64_t number;
  int is_over = 0;
  struct bytes out;
  bytes_init(&out);
  for (;;) {
    int got, note;
    siginfo_t info = {.si_pid = 0};
    assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT), 0);
    is_over = info.si_pid != 0;
    got = take(s, &out, &note);
    if (got == -EAGAIN && is_over) break;
    if (got == -EAGAIN) {
      os_poll(NULL, 0, MS / 10);
      continue;
    }
    assert_int_equal(got, 0);
    memcpy(&number, out.data, sizeof number);
    assert_int_equal(number, expected);
    assert_int_equal(out.length, length_of(number));
    expected++;
  }
  bytes_free(&out);
  assert_int_equal(ended(pid), status);
  return expected;
}

/* Senders die one after the other at every point; what one has put before is there, in order, and the next goes on. */
static void test_senders_die(void **state) {
  static const struct {
    const char *point;
    int passages[4], put[4]; /* killed at that passage, how many were put */
  } cases[] = {{"mailbox_putting", {1, 2, 30, 51}, {0, 1, 29, 50}},
               {"mailbox_written", {1, 2, 49, 50}, {0, 1, 48, 49}},
               {"mailbox_put", {1, 2, 49, 50}, {1, 2, 49, 50}},
               {"mailbox_resize", {1, 1, 1, 1}, {49, 49, 49, 49}}};
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    for (int k = 0; k < 4; k++) {
      struct segment *s = make(MAILBOX_MOST);
      char rule[64];
      int64_t next;
      snprintf(rule, sizeof rule, "%s#%d:kill", cases[i].point, cases[i].passages[k]);
      next = take_until_it_ends(s, start_sender(s, rule, 0, 150), -SIGKILL, 0);
      assert_int_equal(next, cases[i].put[k]);
      next = take_until_it_ends(s, start_sender(s, "", 1000, 160), 0, 1000);
      assert_int_equal(next, 1160);
      assert_int_equal(mailbox_count(s), 0);
      segment_drop(s);
    }
  }
}

/* Killed while it makes the empty ring small again: others find it large, or small. */
static void test_sender_dies_while_the_ring_shrinks(void **state) {
  struct segment *s = make(10);
  unsigned char *data = keep(calloc(1, 3 * MAILBOX_RING_BYTES));
  uint64_t k = 5, number;
  struct bytes out;
  pid_t pid;
  int note;
  (void)state;
  bytes_init(&out);
  assert_int_equal(put(s, data, 3 * MAILBOX_RING_BYTES, 0), 0);
  assert_int_equal(take(s, &out, &note), 0);
  pid = fork();
  if (pid == 0) {
    fault("LUAPOOL_FAULT", "mailbox_resize#1:kill");
    (void)put(s, &k, sizeof k, 0);
    _exit(0);
  }
  assert_int_equal(ended(pid), -SIGKILL);
  assert_int_equal(take_number(s, &number), -EAGAIN);
  assert_int_equal(put(s, &k, sizeof k, 0), 0);
  assert_int_equal(take_number(s, &number), 0);
  assert_int_equal(number, k);
  assert_int_equal(put(s, data, 3 * MAILBOX_RING_BYTES, 0), 0);
  assert_int_equal(take(s, &out, &note), 0);
  free(data);
  bytes_free(&out);
  segment_drop(s);
}

/* A receiver that dies costs at most the message that it was taking: each number arrives once, in order, but for that one. */
static void test_receivers_die(void **state) {
  static const char *const points[] = {"mailbox_taking", "mailbox_copied", "mailbox_taken"};
  (void)state;
  for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
    for (int passage = 1; passage <= 60; passage += 13) {
      struct segment *s = make(MAILBOX_MOST);
      char rule[64];
      pid_t sender = start_sender(s, "", 0, 100), killed = fork();
      int64_t expected;
      assert_true(killed >= 0);
      if (killed == 0) {
        snprintf(rule, sizeof rule, "%s#%d:kill", points[i], passage);
        fault("LUAPOOL_FAULT", rule);
        for (int64_t k = 0; k < 100; k++)
          if (take_one(s) != k) _exit(1);
        _exit(0);
      }
      assert_int_equal(ended(killed), -SIGKILL);
      expected = i == 2 ? passage : passage - 1;
      for (int64_t k = expected; k < 100; k++) assert_int_equal(take_one(s), k);
      assert_int_equal(ended(sender), 0);
      segment_drop(s);
    }
  }
}

/* Many of both, killed at random; whoever is left goes on, and no message comes twice or in part. */
static void test_random_deaths(void **state) {
  struct segment *s = make(8), *seen = NULL;
  enum { SENDERS = 3, RECEIVERS = 3, EACH = 400 };
  pid_t senders[SENDERS], receivers[RECEIVERS];
  uint64_t seed = 11;
  int rounds, round, twice = 0, arrived = 0;
  (void)state;
  assert_int_equal(segment_make(&seen, 1, 1, 1, 1 << 20), 0);
  (void)keep(seen);
  rounds = rounds_of(30);
  for (int i = 0; i < SENDERS; i++) senders[i] = start_sender(s, "", (uint64_t)i << 16, EACH);
  for (int i = 0; i < RECEIVERS; i++) receivers[i] = 0;
  for (round = 0; round < rounds; round++) {
    int r = (int)random_below(&seed, RECEIVERS), d = (int)random_below(&seed, SENDERS);
    if (receivers[r] > 0) {
      kill(receivers[r], SIGKILL);
      (void)ended(receivers[r]);
    }
    receivers[r] = fork();
    if (receivers[r] == 0) {
      for (int64_t k; (k = take_one(s)) >= 0;) atomic_fetch_add((_Atomic unsigned char *)&segment_body(seen)[k], 1);
      _exit(0);
    }
    if (round % 5 == 4) {
      kill(senders[d], SIGKILL);
      (void)ended(senders[d]);
      senders[d] = start_sender(s, "", ((uint64_t)d << 16) + (uint64_t)(round + 1) * EACH, EACH);
    }
    os_poll(NULL, 0, (int64_t)random_below(&seed, 5) * MS);
  }
  for (int i = 0; i < SENDERS; i++) assert_int_equal(ended(senders[i]), 0);
  mailbox_close(s);
  for (int i = 0; i < RECEIVERS; i++)
    if (receivers[i] > 0) assert_int_equal(ended(receivers[i]), 0);
  while (take_one(s) >= 0) continue;
  for (int i = 0; i < 1 << 20; i++) {
    arrived += segment_body(seen)[i] > 0;
    twice += segment_body(seen)[i] > 1;
  }
  assert_int_equal(twice, 0);
  assert_true(arrived >= SENDERS * EACH - rounds * (RECEIVERS + 1)); /* killed senders have sent less, their successors all */
  segment_drop(seen);
  segment_drop(s);
}

static void test_refusals_leave_it_usable(void **state) {
  struct segment *s = make(5);
  char *data = calloc(1, 4 * MAILBOX_RING_BYTES);
  struct bytes out;
  int note;
  (void)state;
  bytes_init(&out);
  fault("LUAPOOL_FAIL", "truncate#1:ENOSPC");
  assert_int_equal(put(s, data, 4 * MAILBOX_RING_BYTES, 0), -ENOSPC);
  fault("LUAPOOL_FAIL", "mmap#1:ENOMEM");
  assert_int_equal(put(s, data, 4 * MAILBOX_RING_BYTES, 0), -ENOMEM);
  fault("LUAPOOL_FAIL", "lock#1:ENOLCK,lock#2:ENOLCK");
  assert_int_equal(put(s, data, 1, 0), -ENOLCK);
  assert_int_equal(take(s, &out, &note), -ENOLCK);
  fault("LUAPOOL_FAIL", "");
  assert_int_equal(put(s, data, 4 * MAILBOX_RING_BYTES, 0), 0);
  assert_int_equal(take(s, &out, &note), 0);
  assert_int_equal(out.length, 4 * MAILBOX_RING_BYTES);
  fault("LUAPOOL_FAIL", "truncate#0:EIO"); /* it cannot be made small again: then it stays large */
  assert_int_equal(put(s, data, 1, 0), 0);
  fault("LUAPOOL_FAIL", "");
  unsetenv("LUAPOOL_FAIL");
  free(data);
  bytes_free(&out);
  segment_drop(s);
}
#endif

#define CASE(function) cmocka_unit_test_setup_teardown(function, note_the_house, find_it_clean)

int main(void) {
  const struct CMUnitTest tests[] = {
    CASE(test_in_order_and_bounded),
    CASE(test_closing),
    CASE(test_random_messages),
    CASE(test_others_follow_the_growth),
    CASE(test_notes_stay_until_they_were_read),
    CASE(test_words_wrap_around),
    CASE(test_damage_is_noticed),
    CASE(test_impossible_messages),
#ifdef LUAPOOL_FAULTS
    CASE(test_senders_die),
    CASE(test_sender_dies_while_the_ring_shrinks),
    CASE(test_receivers_die),
    CASE(test_random_deaths),
    CASE(test_refusals_leave_it_usable),
#endif
  };
  return cmocka_run_group_tests_name("mailbox", tests, NULL, NULL);
}
