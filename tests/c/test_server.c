/* Messages with descriptors, and the helper that forks on request, from both sides: this program is its own helper. */
#include "unit.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/wire.h"
#include "memory/board.h"
#include "process/server.h"

/* ---- the helper's work: an order is a letter, and a descriptor to write it to ---- */

static char order;
static int out;

static int configure(void *context, const void *config, size_t length, char *text, size_t capacity) {
  (void)context;
  if (length == 2 && memcmp(config, "ok", 2) == 0) return 0;
  snprintf(text, capacity, "wants 'ok', got %d bytes", (int)length);
  return -EPROTO;
}

static int prepare(void *context, const void *data, size_t length, const int *fds, size_t n_fds, struct process_child *child) {
  (void)context, (void)child;
  if (length != 1 || n_fds != 1) return -EBADMSG;
  order = *(const char *)data;
  out = fds[0];
  return 0;
}

static void run(void *context) {
  (void)context;
  if (order == 'k') raise(SIGKILL);
  (void)os_write(out, &order, 1);
  if (order == 'w') for (;;) pause();
  process_exit(order == 'e' ? 7 : 0);
}

static void release(void *context) {
  (void)context;
}

/* ---- messages ---- */

static void test_messages_of_all_sizes(void **state) {
  int fds[2];
  struct wire_message m;
  static unsigned char data[WIRE_MAX_BYTES];
  size_t sizes[] = {0, 1, 15, 16, 17, 4096, WIRE_MAX_BYTES}, i, k;
  (void)state;
  for (k = 0; k < sizeof data; k++) data[k] = (unsigned char)(k * 7);
  assert_int_equal(os_socket_pair(fds), 0);
  wire_init(&m);
  assert_int_equal(wire_receive(fds[1], &m, 0), 0);
  for (i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    assert_int_equal(wire_send(fds[0], (uint32_t)i, data, sizes[i], NULL, 0, os_now_ns() + long_ns()), 0);
    assert_int_equal(wire_receive(fds[1], &m, os_now_ns() + long_ns()), 1);
    assert_int_equal(m.kind, i);
    assert_int_equal(m.length, sizes[i]);
    assert_memory_equal(m.data, data, sizes[i]);
  }
  assert_int_equal(wire_send(fds[0], 1, data, WIRE_MAX_BYTES + 1, NULL, 0, 0), -EMSGSIZE);
  os_close(&fds[0]);
  assert_int_equal(wire_receive(fds[1], &m, -1), -EPIPE);
  assert_int_equal(wire_send(fds[1], 1, data, 1, NULL, 0, -1), -EPIPE); /* and no SIGPIPE */
  os_close(&fds[1]);
  wire_free(&m);
}

static void test_descriptors_travel(void **state) {
  int fds[2], pipe[2], before = count_fds(), i;
  struct wire_message m;
  char byte = 0;
  (void)state;
  wire_init(&m);
  assert_int_equal(os_socket_pair(fds), 0);
  assert_int_equal(os_pipe(pipe), 0);
  for (i = 0; i < 3; i++) assert_int_equal(wire_send(fds[0], 1, "x", 1, pipe, 2, -1), 0);
  assert_int_equal(wire_receive(fds[1], &m, -1), 1);
  assert_int_equal(m.n_fds, 2);
  assert_int_equal(os_write(m.fds[1], "y", 1), 0);
  assert_int_equal(os_read(pipe[0], &byte, 1), 1);
  assert_int_equal(byte, 'y');
  assert_int_equal(wire_receive(fds[1], &m, -1), 1); /* what nobody took is closed by the next, and in the end */
  wire_free(&m);
  os_close(&pipe[0]);
  os_close(&pipe[1]);
  os_close(&fds[0]);
  os_close(&fds[1]);
  assert_int_equal(count_fds(), before);
}

static void test_a_message_in_pieces(void **state) {
  int fds[2];
  struct wire_message m;
  unsigned char bytes[64];
  ssize_t n;
  int to[2], i;
  (void)state;
  wire_init(&m);
  assert_int_equal(os_socket_pair(fds), 0);
  assert_int_equal(os_socket_pair(to), 0);
  assert_int_equal(wire_send(fds[0], 9, "pieces", 6, NULL, 0, -1), 0);
  n = os_read(fds[1], bytes, sizeof bytes);
  assert_int_equal(n, 16 + 6);
  for (i = 0; i < n; i++) {
    assert_int_equal(wire_receive(to[1], &m, 0), 0);
    assert_int_equal(os_write(to[0], bytes + i, 1), 0);
  }
  assert_int_equal(wire_receive(to[1], &m, 0), 1);
  assert_memory_equal(m.data, "pieces", 7);
  bytes[0] ^= 1;
  assert_int_equal(os_write(to[0], bytes, 22), 0);
  assert_int_equal(wire_receive(to[1], &m, 0), -EBADMSG);
  wire_free(&m);
  for (i = 0; i < 2; i++) {
    os_close(&fds[i]);
    os_close(&to[i]);
  }
}

/* ---- the board as a file ---- */

static void test_a_board_in_a_file(void **state) {
  struct board *b, *other;
  int fd = -1, wrong;
  (void)state;
  assert_int_equal(board_open_file(&b, 3, CHANNEL_MIN_BYTES, &fd), 0);
  atomic_store(&b->slots[2].claims, 77);
  assert_int_equal(board_attach(&other, fd), 0);
  assert_int_equal(other->n_workers, 3);
  assert_int_equal(atomic_load(&other->slots[2].claims), 77);
  board_close(other);
  wrong = os_memory_file("wrong");
  assert_int_equal(board_attach(&other, wrong), -EBADMSG);
  os_close(&wrong);
  b->n_workers = 4000; /* it says more than there is */
  assert_int_equal(board_attach(&other, fd), -EBADMSG);
  b->n_workers = 3;
  board_close(b);
  os_close(&fd);
}

/* ---- the helper ---- */

/* (found once, by its name: under valgrind what /proc/self/exe executes is valgrind) */
static char program[4096];
static const struct server_options options = {program, "ok", 2, INT64_C(60000000000)};

/* Start one, and read what it writes. */
static void start(struct server *s, struct process *p, char letter) {
  int pipe[2];
  char byte = 0;
  struct pollfd one;
  assert_int_equal(os_pipe(pipe), 0);
  assert_int_equal(server_order(s, p, &letter, 1, &pipe[1], 1, NULL, long_ns()), 0);
  assert_int_equal(server_collect(s, long_ns()), 1);
  assert_true(p->pid > 0);
  os_close(&pipe[1]);
  one = (struct pollfd){pipe[0], POLLIN, 0};
  assert_int_equal(os_poll(&one, 1, long_ns()), 1);
  assert_int_equal(os_read(pipe[0], &byte, 1), letter != 'k');
  if (letter != 'k') assert_int_equal(byte, letter);
  os_close(&pipe[0]);
}

static void test_workers_and_their_ends(void **state) {
  int before = count_fds();
  struct server s;
  struct process p;
  struct process_end end;
  (void)state;
  server_init(&s);
  assert_int_equal(server_open(&s, &options), 0);
  start(&s, &p, 'e');
  assert_int_equal(process_reap(&p, long_ns(), &end), 1);
  assert_true(end.is_known);
  assert_int_equal(end.exit_code, 7);
  start(&s, &p, 'k');
  assert_int_equal(process_reap(&p, long_ns(), &end), 1);
  assert_int_equal(end.signal, SIGKILL);
  start(&s, &p, 'w');
  assert_int_equal(process_reap(&p, 0, &end), 0);
  assert_int_equal(process_kill_tree(&p), 0);
  assert_int_equal(process_reap(&p, long_ns(), &end), 1);
  assert_int_equal(end.signal, SIGKILL);
  server_close(&s);
  server_close(&s);
  assert_int_equal(count_fds(), before);
}

static void test_the_end_of_another_is_noted(void **state) {
  struct server s;
  struct process a, b;
  struct process_end end;
  (void)state;
  server_init(&s);
  assert_int_equal(server_open(&s, &options), 0);
  start(&s, &a, 'e');
  start(&s, &b, 'w'); /* (its answer comes after the end of a, maybe) */
  assert_int_equal(process_reap(&b, 50 * MS, &end), 0);
  assert_int_equal(process_reap(&a, long_ns(), &end), 1);
  assert_int_equal(end.exit_code, 7);
  server_close(&s); /* without a helper it goes */
  assert_int_equal(process_reap(&b, long_ns(), &end), 1);
}

static void test_a_helper_that_is_killed(void **state) {
  struct server s;
  struct process p;
  struct process_end end;
  (void)state;
  server_init(&s);
  assert_int_equal(server_open(&s, &options), 0);
  start(&s, &p, 'w');
  kill(s.helper.pid, SIGKILL);
  assert_int_equal(process_reap(&p, long_ns(), &end), 1);
  assert_int_equal(end.is_known, 0);
  assert_false(server_is_open(&s));
  assert_int_equal(server_open(&s, &options), 0); /* another one */
  start(&s, &p, 'e');
  assert_int_equal(process_reap(&p, long_ns(), &end), 1);
  assert_int_equal(end.exit_code, 7);
  server_close(&s);
}

/* Orders are written one behind the other; the helper answers in their order, each with its own worker. */
static void test_many_orders_at_once(void **state) {
  static const char letters[] = "eweeweeweeweewee";
  struct server s;
  struct process p[SERVER_MOST_ORDERS], one_more;
  struct process_end end;
  int pipe[2], before = count_fds(), i;
  char byte;
  (void)state;
  _Static_assert(sizeof letters == SERVER_MOST_ORDERS + 1, "a letter for each");
  server_init(&s);
  assert_int_equal(server_open(&s, &options), 0);
  assert_int_equal(os_pipe(pipe), 0);
  for (i = 0; i < SERVER_MOST_ORDERS; i++)
    assert_int_equal(server_order(&s, &p[i], &letters[i], 1, &pipe[1], 1, NULL, long_ns()), 0);
  assert_int_equal(server_order(&s, &one_more, "e", 1, &pipe[1], 1, NULL, long_ns()), -ETOOMANYREFS);
  for (i = 0; i < SERVER_MOST_ORDERS; i++) assert_int_equal(server_collect(&s, long_ns()), 1);
  assert_int_equal(server_collect(&s, long_ns()), -EINVAL);
  os_close(&pipe[1]);
  for (i = 0; i < SERVER_MOST_ORDERS; i++) {
    struct pollfd one = {pipe[0], POLLIN, 0};
    assert_int_equal(os_poll(&one, 1, long_ns()), 1);
    assert_int_equal(os_read(pipe[0], &byte, 1), 1);
  }
  for (i = 0; i < SERVER_MOST_ORDERS; i++) {
    if (letters[i] == 'w') assert_int_equal(process_kill_tree(&p[i]), 0);
    assert_int_equal(process_reap(&p[i], long_ns(), &end), 1);
    assert_int_equal(end.exit_code, letters[i] == 'e' ? 7 : 0);
    assert_int_equal(end.signal, letters[i] == 'w' ? SIGKILL : 0);
  }
  os_close(&pipe[0]);
  server_close(&s);
  assert_int_equal(count_fds(), before);
}

/* 1: the kernel, too, has heard that this process may have `n` descriptors (valgrind keeps that to itself). */
static int has_limit(unsigned long n) {
  FILE *file = fopen("/proc/self/limits", "r");
  char line[256];
  unsigned long found = 0;
  assert_non_null(file);
  while (fgets(line, sizeof line, file) && sscanf(line, "Max open files %lu", &found) != 1) continue;
  fclose(file);
  return found == n;
}

/* The kernel lets a user have so many descriptors on their way: what does not go now goes later, and the helper is there. */
static void test_too_many_descriptors_on_their_way(void **state) {
  struct rlimit limit, low;
  struct server s;
  struct process p;
  int ways[2], many[WIRE_MAX_FDS], i, status, is_root = geteuid() == 0;
  (void)state;
  assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
  low = limit;
  low.rlim_cur = 100;
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
  if (!has_limit(100)) {
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    skip();
  }
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
  server_init(&s);
  assert_int_equal(server_open(&s, &options), 0);
  assert_int_equal(os_socket_pair(ways), 0);
  for (i = 0; i < WIRE_MAX_FDS; i++) many[i] = ways[0];
  for (i = 0; i < 20; i++) assert_int_equal(wire_send(ways[1], 1, "x", 1, many, WIRE_MAX_FDS, -1), 0);
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
  if (is_root) assert_int_equal(seteuid(65534), 0); /* (the limit is not for root) */
  status = server_order(&s, &p, "e", 1, ways, 1, NULL, long_ns());
  if (is_root) assert_int_equal(seteuid(0), 0);
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
  assert_int_equal(status, -ETOOMANYREFS);
  assert_true(server_is_open(&s));
  assert_int_equal(server_collect(&s, long_ns()), -EINVAL);
  os_close(&ways[0]);
  os_close(&ways[1]);
  start(&s, &p, 'e');
  server_close(&s);
}

/* Nobody is left of orders whose helper was killed, and each of them says so. */
static void test_orders_of_a_killed_helper(void **state) {
  struct server s;
  struct process p[3];
  int pipe[2], before = count_fds(), i;
  char byte;
  struct pollfd one;
  (void)state;
  server_init(&s);
  assert_int_equal(server_open(&s, &options), 0);
  assert_int_equal(os_pipe(pipe), 0);
  kill(s.helper.pid, SIGSTOP);
  for (i = 0; i < 3; i++) assert_int_equal(server_order(&s, &p[i], "w", 1, &pipe[1], 1, NULL, long_ns()), 0);
  os_close(&pipe[1]);
  kill(s.helper.pid, SIGKILL);
  for (i = 0; i < 3; i++) assert_true(server_collect(&s, long_ns()) < 0);
  assert_int_equal(server_collect(&s, long_ns()), -EINVAL);
  assert_false(server_is_open(&s));
  one = (struct pollfd){pipe[0], POLLIN, 0};
  assert_int_equal(os_poll(&one, 1, long_ns()), 1);
  assert_int_equal(os_read(pipe[0], &byte, 1), 0);
  assert_int_equal(server_open(&s, &options), 0);
  assert_int_equal(server_order(&s, &p[0], "w", 1, pipe, 1, NULL, long_ns()), 0);
  server_close(&s); /* with an order that nobody has collected */
  os_close(&pipe[0]);
  assert_int_equal(count_fds(), before);
}

static void test_becoming_a_worker(void **state) {
  int pipe[2];
  char byte = 0, letter = 'e';
  struct server s;
  struct process p;
  struct process_end end;
  struct pollfd one;
  (void)state;
  server_init(&s);
  process_init(&p);
  assert_int_equal(os_pipe(pipe), 0);
  assert_int_equal(server_become(&s, &options, &p, &letter, 1, &pipe[1], 1, NULL), 1);
  os_close(&pipe[1]);
  one = (struct pollfd){pipe[0], POLLIN, 0};
  assert_int_equal(os_poll(&one, 1, long_ns()), 1);
  assert_int_equal(os_read(pipe[0], &byte, 1), 1);
  assert_int_equal(process_reap(&p, long_ns(), &end), 1);
  assert_int_equal(end.exit_code, 7);
  os_close(&pipe[0]);
  server_close(&s);
}

static void test_refusals(void **state) {
  struct server_options wrong = options;
  struct server s;
  struct process p;
  int before = count_fds();
  (void)state;
  server_init(&s);
  wrong.length = 1;
  assert_int_equal(server_open(&s, &wrong), -EPROTO);
  assert_non_null(strstr(s.complaint, "wants 'ok', got 1 bytes"));
#ifndef LUAPOOL_MALLOC /* (the build for valgrind, whose vfork does not tell the parent that the exec failed) */
  wrong = options;
  wrong.path = "/nowhere/at/all";
  assert_int_equal(server_open(&s, &wrong), -ENOENT);
  assert_non_null(strstr(s.complaint, "/nowhere/at/all"));
#endif
  assert_int_equal(server_open(&s, &options), 0);
  assert_int_equal(server_order(&s, &p, "two", 3, NULL, 0, NULL, long_ns()), 0);
  assert_int_equal(server_collect(&s, long_ns()), -EBADMSG); /* the helper goes on */
  start(&s, &p, 'e');
  server_close(&s);
  process_abandon(&p);
  assert_int_equal(count_fds(), before);
}

int main(int argc, char **argv) {
  static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_messages_of_all_sizes), cmocka_unit_test(test_descriptors_travel), cmocka_unit_test(test_a_message_in_pieces),
    cmocka_unit_test(test_a_board_in_a_file), cmocka_unit_test(test_workers_and_their_ends),
    cmocka_unit_test(test_the_end_of_another_is_noted),
    cmocka_unit_test(test_many_orders_at_once), cmocka_unit_test(test_orders_of_a_killed_helper),
    cmocka_unit_test(test_too_many_descriptors_on_their_way),
    cmocka_unit_test(test_a_helper_that_is_killed), cmocka_unit_test(test_becoming_a_worker), cmocka_unit_test(test_refusals)};
  const struct server_work work = {NULL, configure, prepare, run, release, NULL};
  if (argc > 1 && strcmp(argv[1], SERVER_ARGUMENT) == 0) return server_main(&work);
  if (readlink("/proc/self/exe", program, sizeof program - 1) < 0) return 1;
  return cmocka_run_group_tests(tests, NULL, NULL);
}
