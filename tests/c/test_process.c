/*
 * One child process each: start, signal, kill with all it has started, reap, and the ways in which hosts and children end.
 *
 * What needs a host of its own runs in a forked program; its CHECKs name the line in shared memory. The test program is the reaper of
 * all orphans below it, so "nothing is left" is: no child of this process, seen by waitpid, within the time allowed.
 */
#include "unit.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>

#ifdef __linux__
#include <sys/prctl.h>
#endif

#include "base/fault.h"
#include "process/interrupt.h"
#include "process/process.h"

/* What programs and children tell the test. */
static struct shared {
  _Atomic uint32_t command;
  atomic_int failed_line, ready, host_handler_ran, seen;
  _Atomic pid_t pids[16];
} *shared;

#define CHECK(condition) \
  do { \
    if (!(condition)) { \
      atomic_store(&shared->failed_line, __LINE__); \
      dprintf(2, "%s:%d: CHECK failed (errno %d): %s\n", __FILE__, __LINE__, errno, #condition); \
      _exit(1); \
    } \
  } while (0)

/* Waits for something that other processes do, by looking; 0 if it does not come. */
#define EVENTUALLY(condition) eventually_until(os_now_ns() + long_ns(), condition)
#define eventually_until(deadline, condition) \
  ({ \
    int64_t deadline_ns = (deadline); \
    int is_true; \
    while (!(is_true = (condition)) && os_now_ns() < deadline_ns) poll(NULL, 0, 1); \
    is_true; \
  })

/* ---- the house before and after each test --------------------------------------------------------- */

static int set_up(void **state) {
  memset((void *)shared, 0, sizeof *shared);
  return note_the_house(state);
}

/* Reaps orphans until none is left. Returns 0, or kills what is left after `limit_ns` and returns how many that were. */
static int wait_for_orphans(int64_t limit_ns) {
  int64_t deadline = os_now_ns() + limit_ns;
  int killed = 0;
  for (;;) {
    pid_t pid = waitpid(-1, NULL, WNOHANG);
    if (pid < 0) return killed;
    if (pid > 0) continue;
    if (os_now_ns() > deadline) {
      char path[64];
      long child;
      snprintf(path, sizeof path, "/proc/self/task/%ld/children", (long)getpid());
      FILE *file = fopen(path, "r");
      while (file != NULL && fscanf(file, "%ld", &child) == 1) killed += kill((pid_t)child, SIGKILL) == 0;
      if (file != NULL) fclose(file);
    }
    poll(NULL, 0, 1);
  }
}

static int tear_down(void **state) {
  (void)state;
  assert_int_equal(wait_for_orphans(soon_ns()), 0);
  assert_int_equal(count_fds(), fds_before);
  assert_int_equal(atomic_load(&shared->failed_line), 0);
  return 0;
}

static void run_well(void (*body)(void)) {
  int status = wait_for_program(start_program(body));
  if (WIFEXITED(status) && WEXITSTATUS(status) == CANNOT) skip();
  assert_int_equal(atomic_load(&shared->failed_line), 0);
  assert_int_equal(status, 0);
}

/* ---- children ----------------------------------------------------------------------------------------- */

static struct process_child plain(void) {
  return (struct process_child){.command = &shared->command};
}

/* Forks a child that runs body and leaves with status 0. Returns what process_fork returned (never 0). */
static int start(struct process *p, void (*body)(void)) {
  struct process_child child = plain();
  process_init(p);
  int status = process_fork(p, &child);
  if (status == 0) {
    body();
    process_exit(0);
  }
  return status;
}

static struct process_end reap(struct process *p) {
  struct process_end end;
  assert_int_equal(process_reap(p, long_ns(), &end), 1);
  return end;
}

static void wait_for_ever(void) {
  atomic_fetch_add(&shared->ready, 1);
  for (;;) pause();
}

static void spin_for_ever(void) {
  atomic_fetch_add(&shared->ready, 1);
  for (volatile unsigned i = 0;; i++) continue;
}

static void nothing(void) {}

static void assert_empty(const struct process *p) {
  assert_int_equal(p->pid, 0);
  assert_int_equal(p->pidfd, -1);
  assert_int_equal(p->lifeline, -1);
}

/* ---- start and end ------------------------------------------------------------------------------------ */

static void test_empty_handle_is_harmless(void **state) {
  struct process p;
  struct process_end end;
  (void)state;
  process_init(&p);
  assert_empty(&p);
  assert_false(process_is_mine(&p));
  assert_int_equal(process_signal(&p, SIGKILL), 0);
  assert_int_equal(process_kill_tree(&p), 0);
  assert_int_equal(process_reap(&p, -1, &end), 1);
  assert_false(end.is_known);
  process_abandon(&p);
  process_abandon(&p);
  assert_empty(&p);
}

static void say_who_i_am(void) {
  CHECK(process_is_child() == 1);
  CHECK(process_lifeline() > 2);
  atomic_store(&shared->pids[0], getpid());
  atomic_store(&shared->pids[1], getppid());
}

static void test_fork_gives_a_child(void **state) {
  struct process p;
  (void)state;
  assert_int_equal(start(&p, say_who_i_am), 1);
  assert_true(p.pid > 0);
  assert_int_equal(p.owner, getpid());
  assert_true(p.lifeline > 2);
  assert_true(process_is_mine(&p));
  assert_false(process_is_child());
  assert_int_equal(process_lifeline(), -1);
  pid_t pid = p.pid;
  struct process_end end = reap(&p);
  assert_true(end.is_known);
  assert_int_equal(end.signal, 0);
  assert_int_equal(end.exit_code, 0);
  assert_int_equal(atomic_load(&shared->pids[0]), pid);
  assert_int_equal(atomic_load(&shared->pids[1]), getpid());
  assert_empty(&p);
  assert_int_equal(process_reap(&p, -1, &end), 1); /* once more is no harm */
}

static void leave_by_exit(void) { exit(41); }
static void leave_by_process_exit(void) { process_exit(42); }
static void leave_at_once(void) { _exit(43); }
static void die_of_kill(void) { raise(SIGKILL); }
static void die_of_segv(void) { raise(SIGSEGV); }
static void die_of_abort(void) { abort(); }
static void die_of_usr1(void) { raise(SIGUSR1); }

static void test_end_tells_how(void **state) {
  static const struct {
    void (*body)(void);
    int exit_code, signal;
  } cases[] = {{nothing, 0, 0},
#ifdef __GLIBC__
               {leave_by_exit, 41, 0},
#endif
               {leave_by_process_exit, 42, 0}, {leave_at_once, 43, 0},  {die_of_kill, 0, SIGKILL},
               {die_of_segv, 0, SIGSEGV},      {die_of_abort, 0, SIGABRT}, {die_of_usr1, 0, SIGUSR1}};
  struct rlimit core, no_core = {0, 0};
  (void)state;
  assert_int_equal(getrlimit(RLIMIT_CORE, &core), 0);
  no_core.rlim_max = core.rlim_max;
  setrlimit(RLIMIT_CORE, &no_core);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct process p;
    assert_int_equal(start(&p, cases[i].body), 1);
    struct process_end end = reap(&p);
    assert_true(end.is_known);
    assert_int_equal(end.signal, cases[i].signal);
    assert_int_equal(end.exit_code, cases[i].exit_code);
    assert_false(end.dumped_core);
    assert_true(end.max_rss_bytes > 4096);
  }
  setrlimit(RLIMIT_CORE, &core);
}

enum { TOUCHED = 64 << 20 };

static void touch_much_memory(void) {
  void *memory = NULL;
  CHECK(os_map_shared(TOUCHED, &memory) == 0);
  memset(memory, 1, TOUCHED);
}

static void test_end_tells_the_peak_of_memory(void **state) {
  struct process p;
  (void)state;
  assert_int_equal(start(&p, touch_much_memory), 1);
  struct process_end end = reap(&p);
  assert_true(end.max_rss_bytes >= TOUCHED);
  assert_true(end.max_rss_bytes < (uint64_t)1 << 40);
}

static void test_reap_waits_as_long_as_it_says(void **state) {
  struct process p;
  struct process_end end;
  (void)state;
  assert_int_equal(start(&p, wait_for_ever), 1);
  assert_int_equal(process_reap(&p, 0, &end), 0);
  int64_t begin = os_now_ns();
  assert_int_equal(process_reap(&p, 30 * MS, &end), 0);
  assert_in_range(os_now_ns() - begin, 30 * MS, long_ns());
  assert_true(p.pid > 0);
  begin = os_now_ns();
  assert_int_equal(process_signal(&p, SIGKILL), 0);
  assert_int_equal(process_reap(&p, -1, &end), 1);
  assert_true(os_now_ns() - begin < long_ns());
  assert_int_equal(end.signal, SIGKILL);
}

static atomic_int alarms;

static void on_alarm(int signo) {
  (void)signo;
  atomic_fetch_add(&alarms, 1);
}

static void reap_through_alarms(void) {
  struct sigaction action = {.sa_handler = on_alarm};
  struct itimerval every = {{0, 10000}, {0, 10000}};
  struct process p;
  struct process_end end;
  CHECK(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &every, NULL) == 0);
  CHECK(start(&p, wait_for_ever) == 1); /* the fork, too, is under fire */
  int64_t begin = os_now_ns();
  CHECK(process_reap(&p, 60 * MS, &end) == 0);
  CHECK(os_now_ns() - begin >= 60 * MS && atomic_load(&alarms) > 0);
  CHECK(process_signal(&p, SIGKILL) == 0);
  CHECK(process_reap(&p, -1, &end) == 1 && end.signal == SIGKILL);
}

static void test_reap_outlasts_signals(void **state) {
  (void)state;
  run_well(reap_through_alarms);
}

/* The task forked a copy of itself that lives on and holds the lifeline: the end is seen all the same. */
static void leave_a_copy_behind(void) {
  pid_t pid = fork();
  if (pid == 0)
    for (;;) pause();
  atomic_store(&shared->pids[0], pid);
}

static void test_copy_of_the_lifeline_does_not_hide_the_end(void **state) {
  struct process p;
  (void)state;
  assert_int_equal(start(&p, leave_a_copy_behind), 1);
  struct process_end end = reap(&p);
  assert_true(end.is_known);
  assert_int_equal(kill(atomic_load(&shared->pids[0]), SIGKILL), 0);
}

static void test_signal_reaches_the_child_and_forgives_the_dead(void **state) {
  struct process p;
  (void)state;
  assert_int_equal(start(&p, wait_for_ever), 1);
  assert_int_equal(process_signal(&p, 0), 0);
  assert_int_equal(process_signal(&p, 9999), -EINVAL);
  assert_int_equal(process_signal(&p, SIGUSR2), 0);
  struct pollfd line = {p.lifeline, POLLIN, 0};
  assert_int_equal(os_poll(&line, 1, long_ns()), 1); /* end of file: the child is gone */
  assert_int_equal(process_signal(&p, SIGKILL), 0); /* a zombie, or nearly */
  struct process_end end = reap(&p);
  assert_true(end.signal == SIGUSR2 || end.signal == SIGKILL);
  assert_int_equal(process_signal(&p, SIGKILL), 0);
}

static void test_two_hundred_children_leave_nothing(void **state) {
  (void)state;
  for (int i = 0; i < 200; i++) {
    struct process p;
    assert_int_equal(start(&p, i % 2 ? nothing : wait_for_ever), 1);
    if (i % 2 == 0) assert_int_equal(process_kill_tree(&p), 0);
    struct process_end end = reap(&p);
    assert_int_equal(end.signal, i % 2 ? 0 : SIGKILL);
  }
  assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
  assert_int_equal(errno, ECHILD);
}

/* ---- what a child is like --------------------------------------------------------------------------------- */

static void on_usr1(int signo) {
  (void)signo;
  atomic_store(&shared->host_handler_ran, 1);
}

static void look_at_signals(void) {
  sigset_t mask;
  struct sigaction action;
  stack_t stack;
  CHECK(sigprocmask(SIG_SETMASK, NULL, &mask) == 0);
  for (int signo = 1; signo < 32; signo++) CHECK(!sigismember(&mask, signo));
  CHECK(sigaction(SIGUSR1, NULL, &action) == 0 && action.sa_handler == SIG_DFL);
  CHECK(sigaction(SIGPIPE, NULL, &action) == 0 && action.sa_handler == SIG_IGN); /* ignored stays ignored */
  CHECK(sigaltstack(NULL, &stack) == 0 && (stack.ss_flags & SS_DISABLE));
}

static void fork_with_everything_blocked(void) {
  static char stack_memory[64 * 1024];
  stack_t stack = {.ss_sp = stack_memory, .ss_size = sizeof stack_memory};
  struct process p;
  struct process_end end;
  sigset_t all, after;
  CHECK(sigaltstack(&stack, NULL) == 0);
  signal(SIGUSR1, on_usr1);
  signal(SIGPIPE, SIG_IGN);
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, NULL);
  CHECK(start(&p, look_at_signals) == 1);
  CHECK(process_reap(&p, long_ns(), &end) == 1 && end.exit_code == 0 && end.signal == 0);
  CHECK(sigprocmask(SIG_SETMASK, NULL, &after) == 0 && sigismember(&after, SIGUSR1) && sigismember(&after, SIGINT));
  sigemptyset(&all);
  sigprocmask(SIG_SETMASK, &all, NULL);
  CHECK(start(&p, nothing) == 1);
  CHECK(sigprocmask(SIG_SETMASK, NULL, &after) == 0 && !sigismember(&after, SIGUSR1));
  CHECK(process_reap(&p, long_ns(), &end) == 1);
}

/* A child that is forked with others is like one that is forked alone: dispositions, standard input, and what is open. */
static int count_open(void) {
  int n = 0;
  for (int fd = 0; fd < 256; fd++) n += fcntl(fd, F_GETFD) >= 0;
  return n;
}

static void look_around(void) {
  struct sigaction action;
  char byte;
  look_at_signals();
  CHECK(sigaction(SIGUSR2, NULL, &action) == 0 && action.sa_handler == SIG_DFL);
  CHECK(sigaction(SIGHUP, NULL, &action) == 0 && action.sa_handler == SIG_IGN);
#ifdef SIGRTMAX
  CHECK(sigaction(SIGRTMAX, NULL, &action) == 0 && action.sa_handler == SIG_DFL);
#endif
  CHECK(read(STDIN_FILENO, &byte, 1) == 0);
  if (atomic_load(&shared->seen) == 0) atomic_store(&shared->seen, count_open());
  CHECK(atomic_load(&shared->seen) == count_open());
}

static void end_well(struct process *p) {
  struct process_end end;
  CHECK(process_reap(p, long_ns(), &end) == 1 && end.exit_code == 0 && end.signal == 0);
}

static void fork_several(void) {
  struct process p[3];
  int fds[2], before = count_open();
  CHECK(pipe(fds) == 0 && dup2(fds[0], STDIN_FILENO) == STDIN_FILENO && os_write(fds[1], "a", 1) == 0);
  signal(SIGUSR1, on_usr1);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGHUP, SIG_IGN);
#ifdef SIGRTMAX
  signal(SIGRTMAX, on_usr1);
#endif
  atomic_store(&shared->seen, 0);
  CHECK(start(&p[0], look_around) == 1);
  end_well(&p[0]); /* the others must find as much open as this one, so there must be one at a time */
  process_begin_forks();
  for (int i = 1; i < 3; i++) {
    CHECK(start(&p[i], look_around) == 1);
    end_well(&p[i]);
  }
  process_end_forks();
  CHECK(count_open() == before + 2);
  signal(SIGUSR2, on_usr1); /* nothing that was learned is believed any more */
  CHECK(start(&p[0], look_around) == 1);
  end_well(&p[0]);
  process_begin_forks();
  CHECK(start(&p[0], look_around) == 1);
  process_end_forks();
  end_well(&p[0]);
}

static void test_children_in_a_row_are_as_any(void **state) {
  (void)state;
  run_well(fork_several);
}

static void test_signals_of_a_child_are_its_own(void **state) {
  (void)state;
  run_well(fork_with_everything_blocked);
  assert_int_equal(atomic_load(&shared->host_handler_ran), 0);
}

/* Signals that come during forks reach the host, every one, and the children never. */
static void fork_under_fire(void) {
  struct process p;
  struct process_end end;
  struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
  sigset_t usr2, pending;
  CHECK(sigaction(SIGUSR2, &action, NULL) == 0);
  pid_t host = getpid(), shooter = fork();
  sigemptyset(&usr2);
  sigaddset(&usr2, SIGUSR2);
  if (shooter == 0) { /* one at a time: the next when the last was counted */
    for (int i = 1; i <= 200; i++) {
      kill(host, SIGUSR2);
      while (atomic_load(&shared->seen) < i) sched_yield();
    }
    _exit(0);
  }
  for (int i = 0; i < 100 || atomic_load(&alarms) < 200; i++) {
    int before = atomic_load(&alarms);
    CHECK(start(&p, nothing) == 1);
    CHECK(process_reap(&p, long_ns(), &end) == 1 && end.is_known && end.signal == 0 && end.exit_code == 0);
    if (before == atomic_load(&alarms) && sigpending(&pending) == 0) poll(NULL, 0, 0);
    atomic_store(&shared->seen, atomic_load(&alarms));
  }
  CHECK(waitpid(shooter, NULL, 0) == shooter);
  CHECK(atomic_load(&alarms) == 200);
}

static void test_no_signal_is_lost_in_a_fork(void **state) {
  (void)state;
  run_well(fork_under_fire);
}

static void host_says_goodbye(void) {
  atomic_store(&shared->host_handler_ran, 1);
}

static void have_an_exit_handler(void) {
  struct process p;
  struct process_end end;
  atexit(host_says_goodbye);
  CHECK(start(&p, leave_by_exit) == 1);
  CHECK(process_reap(&p, long_ns(), &end) == 1);
#ifdef __GLIBC__
  CHECK(end.is_known && end.signal == 0 && end.exit_code == 41);
#else
  CHECK(end.is_known && end.signal == 0 && end.exit_code == EXIT_FAILURE);
#endif
  CHECK(atomic_load(&shared->host_handler_ran) == 0);
}

static void test_exit_in_a_child_runs_no_handler_of_the_host(void **state) {
  (void)state;
  run_well(have_an_exit_handler);
}

static int output_to;
static void (*printer)(void);

static void print_and_exit(void) {
  printf("task\n");
  exit(0);
}

static void print_half_a_line(void) {
  printf("task");
  printf("\nrest without end"); /* the guard, or process_exit, writes it */
}

static void print_and_be_told_to_end(void) {
  printf("task\n"); /* line-buffered: already out */
  raise(SIGKILL);
}

static void print_around_children(void) {
  struct process p;
  struct process_end end;
  CHECK(dup2(output_to, 1) == 1);
  printf("A");
  CHECK(ferror(stdout) == 0);
  for (int i = 0; i < 4; i++) {
    CHECK(start(&p, printer) == 1);
    CHECK(process_reap(&p, long_ns(), &end) == 1);
  }
  printf("B\n");
  fflush(stdout);
}

static void (*printing_program)(void) = print_around_children;

static void expect_output(void (*body)(void), const char *expected) {
  char text[256] = "";
  size_t length = 0;
  ssize_t got;
  int fds[2];
  assert_int_equal(pipe(fds), 0);
  output_to = fds[1];
  printer = body;
  pid_t pid = start_program(printing_program);
  close(fds[1]);
  while ((got = os_read(fds[0], text + length, sizeof text - 1 - length)) > 0) length += (size_t)got;
  close(fds[0]);
  assert_int_equal(wait_for_program(pid), 0);
  assert_string_equal(text, expected);
}

static void test_output_comes_once(void **state) {
  (void)state;
  expect_output(nothing, "AB\n");
  expect_output(print_and_exit, "Atask\ntask\ntask\ntask\nB\n");
  expect_output(print_and_be_told_to_end, "Atask\ntask\ntask\ntask\nB\n");
  expect_output(print_half_a_line, "Atask\nrest without endtask\nrest without endtask\nrest without endtask\nrest without endB\n");
}

static void print_late(void) {
  printf("late ");
}

/* What another thread prints between the flush and the fork (here: a handler that runs in between) must not come from the child, too. */
static void print_while_forking(void) {
  CHECK(pthread_atfork(print_late, NULL, NULL) == 0);
  print_around_children();
}

static void test_output_printed_during_the_fork_comes_once(void **state) {
  (void)state;
  printing_program = print_while_forking;
  expect_output(nothing, "Alate late late late B\n");
  expect_output(print_and_exit, "Atask\nlate task\nlate task\nlate task\nlate B\n");
  printing_program = print_around_children;
}

static void read_nothing(void) {
  char line[16];
  CHECK(fgets(line, sizeof line, stdin) == NULL); /* not what the host had read ahead, either */
  CHECK(feof(stdin));
  CHECK(read(0, line, 1) == 0);
}

static void share_no_input(void) {
  struct process p;
  struct process_end end;
  char line[16];
  int fds[2];
  CHECK(pipe(fds) == 0 && dup2(fds[0], 0) == 0);
  CHECK(os_write(fds[1], "a\nb\n", 4) == 0);
  CHECK(fgets(line, sizeof line, stdin) && strcmp(line, "a\n") == 0);
  CHECK(os_write(fds[1], "c\n", 2) == 0); /* b is in the host's buffer now, c in the pipe */
  close(fds[1]);
  CHECK(start(&p, read_nothing) == 1);
  CHECK(process_reap(&p, long_ns(), &end) == 1 && end.exit_code == 0 && end.is_known);
  CHECK(fgets(line, sizeof line, stdin) && strcmp(line, "b\n") == 0);
  CHECK(fgets(line, sizeof line, stdin) && strcmp(line, "c\n") == 0);
}

static void test_input_stays_with_the_host(void **state) {
  (void)state;
  run_well(share_no_input);
}

#ifdef __linux__
static int oom_score(void) {
  char text[16];
  CHECK(os_read_text("/proc/self/oom_score_adj", text, sizeof text) > 0);
  return atoi(text);
}

static void tell_my_oom_score(void) {
  atomic_store(&shared->seen, oom_score());
}

static void test_child_is_offered_to_the_oom_killer(void **state) {
  struct process p;
  int mine = oom_score();
  (void)state;
  assert_int_equal(start(&p, tell_my_oom_score), 1);
  reap(&p);
  assert_true(atomic_load(&shared->seen) > mine || mine == 1000);
}
#endif

/* ---- descriptors ------------------------------------------------------------------------------------------ */

static int kept_fd, foreign_fds[4];

static int is_open(int fd) {
  return fcntl(fd, F_GETFD) >= 0;
}

static void grandchild_keeps_nothing(void) {
  CHECK(!is_open(kept_fd));
}

static void look_at_descriptors(void) {
  struct process p;
  struct process_end end;
  CHECK(is_open(kept_fd));
  for (int i = 0; i < 4; i++) CHECK(!is_open(foreign_fds[i]));
  CHECK(start(&p, grandchild_keeps_nothing) == 1); /* what was kept stays registered here */
  CHECK(process_reap(&p, long_ns(), &end) == 1 && end.is_known && end.exit_code == 0 && end.signal == 0);
}

static void test_child_keeps_only_what_it_needs(void **state) {
  int pool[2], other[2];
  struct process sibling, p;
  (void)state;
  assert_int_equal(process_socket_pair(pool), 0);
  assert_int_equal(os_socket_pair(other), 0);
  assert_int_equal(process_register_fd(other[0]), 0);
  assert_int_equal(process_register_fd(other[0]), 0);
  assert_int_equal(start(&sibling, wait_for_ever), 1);
  kept_fd = pool[1];
  foreign_fds[0] = pool[0];
  foreign_fds[1] = other[0];
  foreign_fds[2] = sibling.lifeline;
  foreign_fds[3] = sibling.pidfd; /* -1, where there are none, is not open either */
  struct process_child child = {.keep = &kept_fd, .n_keep = 1, .command = &shared->command};
  process_init(&p);
  int status = process_fork(&p, &child);
  if (status == 0) {
    CHECK(is_open(other[1])); /* the host's own: not registered, not ours to close */
    look_at_descriptors();
    process_exit(0);
  }
  assert_int_equal(status, 1);
  struct process_end end = reap(&p);
  assert_int_equal(end.exit_code, 0);
  assert_true(end.is_known);
  for (int i = 0; i < 3; i++) assert_true(is_open(foreign_fds[i])); /* here they are as they were */
  process_signal(&sibling, SIGKILL);
  reap(&sibling);
  process_forget_fd(other[0]);
  process_forget_fd(other[0]);
  assert_true(is_open(other[0]));
  os_close(&other[0]);
  os_close(&other[1]);
  process_close_fd(&pool[0]);
  process_close_fd(&pool[0]);
  assert_int_equal(pool[0], -1);
  process_close_fd(&pool[1]);
}

static void expect_forgotten_open(void) {
  CHECK(is_open(kept_fd));
}

static void test_forgotten_descriptors_are_inherited(void **state) {
  int fds[2];
  struct process p;
  (void)state;
  assert_int_equal(process_socket_pair(fds), 0);
  process_forget_fd(fds[0]);
  kept_fd = fds[0];
  assert_int_equal(start(&p, expect_forgotten_open), 1);
  assert_int_equal(reap(&p).exit_code, 0);
  process_close_fd(&fds[0]);
  process_close_fd(&fds[1]);
}

/* A worker must see the end of its line although siblings were forked while the line existed. */
static void test_sibling_does_not_hold_the_line(void **state) {
  struct process first, second;
  (void)state;
  assert_int_equal(start(&first, wait_for_ever), 1);
  assert_int_equal(start(&second, wait_for_ever), 1);
  assert_true(EVENTUALLY(atomic_load(&shared->ready) == 2));
  struct pollfd line = {second.lifeline, POLLIN, 0};
  assert_int_equal(os_poll(&line, 1, 0), 0);
  pid_t pid = first.pid;
  process_abandon(&first); /* the host lets go of the first child's line: that one alone leaves */
  assert_empty(&first);
  assert_int_equal(eventually_until(os_now_ns() + soon_ns(), waitpid(pid, NULL, WNOHANG) == pid || kill(pid, 0) < 0), 1);
  assert_int_equal(os_poll(&line, 1, 0), 0);
  assert_int_equal(process_signal(&second, SIGKILL), 0);
  reap(&second);
}

/* ---- the host's end --------------------------------------------------------------------------------------- */

static void sleep_in_a_shell(void) {
  atomic_fetch_add(&shared->ready, 1);
  if (system("sleep 60; true") == -1) _exit(1);
}

static void own_a_worker(void) {
  struct process p;
  CHECK(start(&p, sleep_in_a_shell) == 1);
  wait_for_ever();
}

static void wait_with_sigio_blocked_for_a_while(void) {
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, NULL);
  struct pollfd line = {process_lifeline(), POLLIN, 0};
  atomic_fetch_add(&shared->ready, 1);
  if (os_poll(&line, 1, long_ns()) == 1) process_exit(0); /* as an idle worker does it */
}

enum { WORKERS = 5, READY = 6 };

static void be_a_host(void) {
  static void (*const bodies[WORKERS])(void) = {wait_for_ever, spin_for_ever, sleep_in_a_shell, own_a_worker,
                                               wait_with_sigio_blocked_for_a_while};
  static struct process workers[WORKERS];
  for (int i = 0; i < WORKERS; i++) {
    CHECK(start(&workers[i], bodies[i]) == 1);
    atomic_store(&shared->pids[i], workers[i].pid);
  }
  for (;;) pause();
}

/* Does pid have a child that has a child? Then its shell has started the sleep. */
static int has_grandchild(pid_t pid) {
  char path[64], text[64];
  for (int depth = 0; depth < 2; depth++) {
    snprintf(path, sizeof path, "/proc/%ld/task/%ld/children", (long)pid, (long)pid);
    if (os_read_text(path, text, sizeof text) <= 0 || (pid = (pid_t)atol(text)) <= 0) return 0;
  }
  return 1;
}

/* ThreadSanitizer keeps a signal back until the program calls something that it knows to block: workers cannot answer in time there. */
#if defined(__SANITIZE_THREAD__)
#define SIGNALS_COME_LATE 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SIGNALS_COME_LATE 1
#endif
#endif
#ifndef SIGNALS_COME_LATE
#define SIGNALS_COME_LATE 0
#endif

static void expect_end_with_host(int signal) {
  if (SIGNALS_COME_LATE) skip();
  pid_t host = start_program(be_a_host);
  assert_true(EVENTUALLY(atomic_load(&shared->ready) >= READY));
  assert_true(EVENTUALLY(has_grandchild(atomic_load(&shared->pids[2]))));
  assert_true(EVENTUALLY(has_grandchild(atomic_load(&shared->pids[3]))));
  assert_int_equal(kill(host, signal), 0);
  assert_int_equal(WTERMSIG(wait_for_program(host)), signal);
  assert_int_equal(wait_for_orphans(soon_ns()), 0); /* workers, their shells, the sleeps, and the worker's worker */
}

static void test_nothing_outlives_a_killed_host(void **state) {
  (void)state;
  expect_end_with_host(SIGKILL);
}

static void test_nothing_outlives_a_crashed_host(void **state) {
  (void)state;
  expect_end_with_host(SIGTERM);
}

#if defined(__linux__) && !defined(LUAPOOL_NO_PRCTL)
/* The host has forked by itself, and its copy holds the line: the parent-death signal ends the child all the same. */
static void be_a_host_with_a_copy(void) {
  static struct process worker;
  CHECK(start(&worker, spin_for_ever) == 1);
  atomic_store(&shared->pids[0], worker.pid);
  pid_t copy = fork();
  if (copy == 0)
    for (;;) pause();
  atomic_store(&shared->pids[1], copy);
  for (;;) pause();
}

static void test_copy_of_the_host_does_not_keep_its_children(void **state) {
  (void)state;
  if (SIGNALS_COME_LATE) skip();
  pid_t host = start_program(be_a_host_with_a_copy);
  assert_true(EVENTUALLY(atomic_load(&shared->pids[1]) > 0 && atomic_load(&shared->ready) == 1));
  assert_int_equal(kill(host, SIGKILL), 0);
  wait_for_program(host);
  pid_t worker = atomic_load(&shared->pids[0]);
  int is_gone = eventually_until(os_now_ns() + soon_ns(), waitpid(worker, NULL, WNOHANG) == worker);
  assert_int_equal(kill(atomic_load(&shared->pids[1]), SIGKILL), 0);
  assert_true(is_gone);
}
#endif

static struct process from_thread;

static void *fork_in_thread(void *unused) {
  (void)unused;
  start(&from_thread, wait_for_ever);
  return NULL;
}

static void test_child_outlives_the_thread_that_forked_it(void **state) {
  pthread_t thread;
  struct process_end end;
  (void)state;
  assert_int_equal(pthread_create(&thread, NULL, fork_in_thread, NULL), 0);
  assert_int_equal(pthread_join(thread, NULL), 0);
  assert_true(from_thread.pid > 0);
  assert_true(EVENTUALLY(atomic_load(&shared->ready) == 1));
  assert_int_equal(process_reap(&from_thread, 100 * MS, &end), 0);
  assert_int_equal(process_signal(&from_thread, SIGKILL), 0);
  assert_int_equal(reap(&from_thread).signal, SIGKILL);
}

/* ---- other people's waiting ------------------------------------------------------------------------------- */

static void ignore_children(void) {
  struct process p;
  struct process_end end;
  signal(SIGCHLD, SIG_IGN);
  CHECK(start(&p, wait_for_ever) == 1);
  CHECK(process_reap(&p, 0, &end) == 0);
  CHECK(process_signal(&p, SIGKILL) == 0);
  CHECK(process_reap(&p, long_ns(), &end) == 1 && !end.is_known);
  CHECK(p.pid == 0 && p.lifeline == -1 && p.pidfd == -1);
  CHECK(start(&p, nothing) == 1);
  CHECK(process_reap(&p, -1, &end) == 1 && !end.is_known);
}

static void test_ignored_sigchld_is_an_unknown_end(void **state) {
  (void)state;
  run_well(ignore_children);
}

static void have_a_thief(void) {
  struct process p;
  struct process_end end;
  CHECK(start(&p, leave_at_once) == 1);
  CHECK(waitpid(-1, NULL, 0) == p.pid);
  CHECK(process_signal(&p, SIGKILL) == 0);
  CHECK(process_kill_tree(&p) == 0);
  CHECK(process_reap(&p, long_ns(), &end) == 1 && !end.is_known && end.signal == 0);
}

static void test_stolen_child_is_an_unknown_end(void **state) {
  (void)state;
  run_well(have_a_thief);
}

/* The stolen child's number goes to an innocent child of the same host: it must survive whatever is done to the handle. */
static void reuse_the_number(void) {
  struct process p;
  struct process_end end;
  char number[16];
  pid_t innocent = 0;
  CHECK(start(&p, leave_at_once) == 1);
  if (p.pidfd < 0) _exit(CANNOT); /* without pidfds nobody can tell */
  CHECK(waitpid(-1, NULL, 0) == p.pid);
  for (int attempt = 0; attempt < 50 && innocent != p.pid; attempt++) {
    int fd = os_open("/proc/sys/kernel/ns_last_pid", O_WRONLY);
    snprintf(number, sizeof number, "%ld", (long)p.pid - 1);
    if (fd < 0 || os_write(fd, number, strlen(number)) < 0) _exit(CANNOT);
    os_close(&fd);
    innocent = fork();
    if (innocent == 0)
      for (;;) pause();
    if (innocent != p.pid) kill(innocent, SIGKILL), waitpid(innocent, NULL, 0);
  }
  if (innocent != p.pid) _exit(CANNOT);
  CHECK(process_signal(&p, SIGKILL) == 0);
  CHECK(process_kill_tree(&p) == 0);
  CHECK(process_reap(&p, 0, &end) == 1 && !end.is_known);
  CHECK(waitpid(innocent, NULL, WNOHANG) == 0); /* alive, and not reaped by us */
  CHECK(kill(innocent, SIGKILL) == 0 && waitpid(innocent, NULL, 0) == innocent);
}

static void test_reused_number_is_not_our_child(void **state) {
  (void)state;
  run_well(reuse_the_number);
}

/* ---- copies of a handle ----------------------------------------------------------------------------------- */

static struct process copied;

static void try_everything_with_the_copy(void) {
  struct process_end end;
  int lifeline = copied.lifeline;
  CHECK(!process_is_mine(&copied));
  CHECK(process_signal(&copied, SIGKILL) == -EPERM);
  CHECK(process_kill_tree(&copied) == -EPERM);
  CHECK(process_reap(&copied, 0, &end) == -EPERM);
  CHECK(process_reap(&copied, -1, &end) == -EPERM);
  CHECK(process_fds_are_gone(copied.owner) == process_is_child());
  if (process_is_child()) { /* its numbers may mean something else here: they must not be closed */
    int fd = os_open("/dev/null", O_RDONLY);
    CHECK(fd >= 0 && (fd == lifeline || dup2(fd, lifeline) == lifeline));
    process_abandon(&copied);
    CHECK(is_open(lifeline));
  } else {
    process_abandon(&copied);
    CHECK(!is_open(lifeline));
  }
  CHECK(copied.pid == 0);
}

static void test_copies_of_a_handle_are_harmless(void **state) {
  struct process sibling;
  (void)state;
  assert_int_equal(start(&copied, wait_for_ever), 1);
  assert_int_equal(process_fds_are_gone(getpid()), 0);
  run_well(try_everything_with_the_copy);                         /* a plain fork of the host */
  assert_int_equal(start(&sibling, try_everything_with_the_copy), 1); /* another child of ours */
  struct process_end end = reap(&sibling);
  assert_true(end.is_known);
  assert_int_equal(end.exit_code, 0);
  assert_int_equal(end.signal, 0);
  assert_int_equal(process_reap(&copied, 0, &end), 0); /* the original lives and works */
  assert_int_equal(process_signal(&copied, SIGKILL), 0);
  assert_int_equal(reap(&copied).signal, SIGKILL);
}

/* ---- killing a tree --------------------------------------------------------------------------------------- */

static void run_nested_shells(void) {
  atomic_fetch_add(&shared->ready, 1);
  if (system("sh -c 'sleep 60 & sh -c \"sleep 60; true\"; true' & sleep 60; true") == -1) _exit(1);
}

static void run_a_shell_that_never_stops_starting(void) {
  atomic_fetch_add(&shared->ready, 1);
  if (system("while :; do sleep 60 & sleep 0.01; done") == -1) _exit(1);
}

static void *fork_in_threads(void *unused) {
  (void)unused;
  for (int i = 0; i < 50; i++) {
    pid_t pid = fork();
    if (pid == 0)
      for (;;) pause();
    poll(NULL, 0, 1);
  }
  return NULL;
}

static void fork_from_many_threads(void) {
  pthread_t threads[4];
  for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, fork_in_threads, NULL) == 0);
  wait_for_ever();
}

static void be_stopped(void) {
  atomic_fetch_add(&shared->ready, 1);
  for (;;) raise(SIGSTOP);
}

static void expect_tree_to_die(void (*body)(void), int has_grandchildren) {
  struct process p, bystander;
  struct process_end end;
  atomic_store(&shared->ready, 0);
  assert_int_equal(start(&bystander, wait_for_ever), 1);
  assert_int_equal(start(&p, body), 1);
  assert_true(EVENTUALLY(atomic_load(&shared->ready) == 2));
  if (has_grandchildren) assert_true(EVENTUALLY(has_grandchild(p.pid)));
  int64_t begin = os_now_ns();
  assert_int_equal(process_kill_tree(&p), 0);
  assert_true(os_now_ns() - begin < soon_ns());
  end = reap(&p);
  assert_int_equal(end.signal, SIGKILL);
  assert_int_equal(process_reap(&bystander, 0, &end), 0);
  assert_int_equal(process_kill_tree(&bystander), 0);
  assert_int_equal(reap(&bystander).signal, SIGKILL);
  assert_int_equal(wait_for_orphans(soon_ns()), 0);
}

static void test_kill_tree_leaves_nobody(void **state) {
  (void)state;
  expect_tree_to_die(wait_for_ever, 0);
  expect_tree_to_die(be_stopped, 0);
  expect_tree_to_die(run_nested_shells, 1);
  expect_tree_to_die(run_a_shell_that_never_stops_starting, 1);
}

/* A program of ours that is no struct process. Returns how it ended. */
static int end_a_program(const char *command, int64_t grace_ns, int64_t *took_ns) {
  int status, ready[2];
  char mark;
  pid_t pid;
  assert_int_equal(pipe(ready), 0);
  pid = fork();
  if (pid == 0) {
    dup2(ready[1], 7);
    close(ready[0]);
    execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    _exit(127);
  }
  close(ready[1]);
  assert_int_equal(read(ready[0], &mark, 1), 1);
  *took_ns = os_now_ns();
  process_end_child(pid, grace_ns);
  *took_ns = os_now_ns() - *took_ns;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  while (read(ready[0], &mark, 1) > 0) continue; /* the end of file: nobody has the other end */
  close(ready[0]);
  return status;
}

static void test_end_child(void **state) {
  int64_t took_ns;
  int status;
  (void)state;
  status = end_a_program("sleep 60 & echo >&7; sleep 60; true", long_ns(), &took_ns);
  assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
  assert_true(took_ns < long_ns()); /* it left when it was told to */
  status = end_a_program("trap 'exit 3' TERM; echo >&7; while :; do sleep 0.01; done", long_ns(), &took_ns);
  assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 3);
  status = end_a_program("trap '' TERM; sleep 60 & echo >&7; while :; do sleep 0.01; done", 50 * MS, &took_ns);
  assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  assert_int_equal(wait_for_orphans(soon_ns()), 0);
}

static void test_kill_tree_catches_forking_threads(void **state) {
  (void)state;
  expect_tree_to_die(fork_from_many_threads, 0);
}

/* ---- threads ---------------------------------------------------------------------------------------------- */

/* Sockets that this child holds, which must be its own lifeline alone. */
static int count_sockets(void) {
  char path[64], target[64];
  int count = 0;
  for (int fd = 3; fd < 256; fd++) {
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(path, target, sizeof target - 1);
    count += length > 7 && memcmp(target, "socket:", 7) == 0;
  }
  return count;
}

static int sockets_before;

static void expect_one_line(void) {
  CHECK(count_sockets() == sockets_before + 1);
}

static void *open_and_close(void *unused) {
  (void)unused;
  for (int i = 0; i < 50; i++) {
    struct process p;
    struct process_end end;
    int fds[2], bell[2];
    CHECK(process_socket_pair(fds) == 0);
    CHECK(pipe(bell) == 0 && process_register_fd(bell[0]) == 0);
    CHECK(start(&p, expect_one_line) == 1);
    process_forget_fd(bell[0]);
    close(bell[0]);
    close(bell[1]);
    CHECK(process_reap(&p, long_ns(), &end) == 1 && end.is_known && end.exit_code == 0 && end.signal == 0);
    process_close_fd(&fds[0]);
    process_close_fd(&fds[1]);
  }
  return NULL;
}

static void test_threads_fork_without_sharing_descriptors(void **state) {
  pthread_t threads[4];
  (void)state;
  sockets_before = count_sockets();
  for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&threads[i], NULL, open_and_close, NULL), 0);
  for (int i = 0; i < 4; i++) assert_int_equal(pthread_join(threads[i], NULL), 0);
}

static atomic_int is_over;

static void *hold_the_lock(void *unused) {
  (void)unused;
  while (!atomic_load(&is_over)) {
    process_register_fd(1000);
    process_forget_fd(1000);
  }
  return NULL;
}

/* Somebody else's fork, at a moment when another thread holds our lock: the child must be able to take it. */
static void test_plain_fork_finds_the_lock_open(void **state) {
  pthread_t thread;
  (void)state;
  atomic_store(&is_over, 0);
  assert_int_equal(pthread_create(&thread, NULL, hold_the_lock, NULL), 0);
  for (int i = 0; i < 100; i++) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
      alarm(10);
      int status = process_register_fd(1001);
      process_forget_fd(1001);
      _exit(status == 0 ? 0 : 1);
    }
    assert_int_equal(wait_for_program(pid), 0);
  }
  atomic_store(&is_over, 1);
  assert_int_equal(pthread_join(thread, NULL), 0);
}

/* ---- injected failures ------------------------------------------------------------------------------------ */

#ifdef LUAPOOL_FAULTS

static void make_fail(const char *rules) {
  setenv("LUAPOOL_FAIL", rules, 1);
  fault_reload();
}

static void make_happen(const char *rules) {
  setenv("LUAPOOL_FAULT", rules, 1);
  fault_reload();
}

static void fail_to_fork(void) {
  static const struct {
    const char *rule;
    int error;
  } cases[] = {{"malloc#1:ENOMEM", ENOMEM}, {"socketpair#1:EMFILE", EMFILE}, {"fork#1:EAGAIN", EAGAIN}, {"fork#1:ENOMEM", ENOMEM}};
  int fds = count_fds();
  sigset_t mask;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct process p, before;
    struct process_end end;
    struct process_child child = plain();
    process_init(&p);
    before = p;
    make_fail(cases[i].rule);
    CHECK(process_fork(&p, &child) == -cases[i].error);
    CHECK(p.pid == before.pid && p.pidfd == before.pidfd && p.lifeline == before.lifeline && p.command == before.command);
    CHECK(count_fds() == fds);
    CHECK(sigprocmask(SIG_SETMASK, NULL, &mask) == 0 && !sigismember(&mask, SIGINT));
    if (i == 0) continue; /* the registry of this program has no room yet: the first fork would ask for it */
    CHECK(start(&p, nothing) == 1); /* the second one succeeds */
    CHECK(process_reap(&p, long_ns(), &end) == 1 && end.is_known);
    CHECK(count_fds() == fds);
  }
}

static void fail_to_register(void) {
  int fds[2] = {-1, -1}, before = count_fds();
  make_fail("malloc#1:ENOMEM");
  CHECK(process_register_fd(0) == -ENOMEM);
  CHECK(process_register_fd(0) == 0);
  process_forget_fd(0);
  make_fail("socketpair#1:ENFILE");
  CHECK(process_socket_pair(fds) == -ENFILE);
  for (int fd = 100; fd < 132; fd++) CHECK(process_register_fd(fd) == 0); /* full: the next one must grow */
  make_fail("malloc#1:ENOMEM");
  CHECK(process_socket_pair(fds) == -ENOMEM && fds[0] == -1 && count_fds() == before);
  CHECK(process_socket_pair(fds) == 0);
  process_close_fd(&fds[0]);
  process_close_fd(&fds[1]);
}

/* The registry is static and may have room here already: a program executed anew has none. */
static void test_failures_leave_nothing(void **state) {
  (void)state;
  run_well(fail_to_register);
  run_well(fail_to_fork);
}

static void live_without_pidfd(void) {
  struct process p;
  struct process_end end;
  make_fail("pidfd#0:EMFILE");
  CHECK(start(&p, wait_for_ever) == 1 && p.pidfd == -1);
  CHECK(process_reap(&p, 0, &end) == 0);
  CHECK(process_reap(&p, 30 * MS, &end) == 0);
  CHECK(process_signal(&p, SIGUSR1) == 0);
  CHECK(process_reap(&p, -1, &end) == 1 && end.signal == SIGUSR1);
  CHECK(start(&p, sleep_in_a_shell) == 1);
  CHECK(EVENTUALLY(has_grandchild(p.pid)));
  CHECK(process_kill_tree(&p) == 0);
  CHECK(process_reap(&p, long_ns(), &end) == 1 && end.signal == SIGKILL);
  have_a_thief();
  ignore_children();
}

static void test_everything_works_without_pidfd(void **state) {
  (void)state;
  run_well(live_without_pidfd);
}

static void read_without_dev_null(void) {
  make_fail("open#0:ENOENT"); /* no /dev/null, no /proc: set up all the same */
  share_no_input();
}

static void test_child_without_dev_null(void **state) {
  (void)state;
  run_well(read_without_dev_null);
}

static void kill_without_memory(void) {
  struct process p;
  struct process_end end;
  CHECK(start(&p, wait_for_ever) == 1);
  make_fail("malloc#0:ENOMEM,read#0:EIO");
  CHECK(process_kill_tree(&p) == 0);
  CHECK(process_reap(&p, long_ns(), &end) == 1 && end.signal == SIGKILL);
  make_fail("poll#0:EIO");
  CHECK(start(&p, wait_for_ever) == 1);
  CHECK(process_reap(&p, 0, &end) == 0);
  CHECK(process_reap(&p, 10 * MS, &end) == 0 && p.pid > 0);
  CHECK(process_signal(&p, SIGKILL) == 0);
  CHECK(process_reap(&p, long_ns(), &end) == 1 && end.signal == SIGKILL);
  make_fail("");
  CHECK(start(&p, wait_for_ever) == 1);
  make_fail("poll#1:EINTR");
  CHECK(process_reap(&p, 10 * MS, &end) == 0);
  CHECK(process_signal(&p, SIGKILL) == 0);
  make_fail("");
  CHECK(process_reap(&p, long_ns(), &end) == 1);
}

static void test_ending_survives_failures(void **state) {
  (void)state;
  run_well(kill_without_memory);
}

static struct process under_way;

static void on_interrupt(int signo) {
  (void)signo;
  atomic_store(&shared->seen, (int)under_way.pid); /* a handler that ends the pool must know this child */
}

static void be_interrupted_in_the_fork(void) {
  struct process_end end;
  signal(SIGINT, on_interrupt);
  make_happen("after_fork_parent:int");
  CHECK(start(&under_way, nothing) == 1);
  CHECK(atomic_load(&shared->seen) == under_way.pid && under_way.pid > 0);
  make_happen("before_fork:int");
  atomic_store(&shared->seen, -1);
  CHECK(process_reap(&under_way, long_ns(), &end) == 1 && end.signal == 0);
  CHECK(start(&under_way, nothing) == 1);
  CHECK(atomic_load(&shared->seen) == 0);
  CHECK(process_reap(&under_way, long_ns(), &end) == 1 && end.signal == 0);
  make_happen("child_start:int,child_ready:int"); /* never the host's handler, and a worker is deaf to it */
  atomic_store(&shared->seen, -1);
  CHECK(start(&under_way, nothing) == 1);
  CHECK(process_reap(&under_way, long_ns(), &end) == 1 && end.signal == 0 && end.exit_code == 0);
  CHECK(atomic_load(&shared->seen) == -1);
}

static void test_interrupts_around_a_fork(void **state) {
  (void)state;
  run_well(be_interrupted_in_the_fork);
}

static void die_while_a_child_starts(void) {
  struct process p;
  make_happen("child_start:host-kill");
  start(&p, wait_for_ever);
  for (;;) pause();
}

static void die_when_a_child_is_ready(void) {
  struct process p;
  make_happen("child_ready:host-kill");
  start(&p, wait_for_ever);
  for (;;) pause();
}

static void test_host_dies_while_a_child_starts(void **state) {
  (void)state;
  assert_int_equal(WTERMSIG(wait_for_program(start_program(die_while_a_child_starts))), SIGKILL);
  assert_int_equal(wait_for_orphans(soon_ns()), 0);
  assert_int_equal(WTERMSIG(wait_for_program(start_program(die_when_a_child_is_ready))), SIGKILL);
  assert_int_equal(wait_for_orphans(soon_ns()), 0);
}

#endif

/* ---- main ------------------------------------------------------------------------------------------------- */

static int open_house(void **state) {
  void *memory = NULL;
  (void)state;
  if (os_map_shared(sizeof *shared, &memory) < 0) return -1;
  shared = memory;
#ifdef __linux__
  if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0) return -1;
#endif
  return 0;
}

static int close_house(void **state) {
  (void)state;
  os_unmap((void *)shared, sizeof *shared);
  return 0;
}

#define CASE(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void) {
  const struct CMUnitTest tests[] = {
#ifdef LUAPOOL_FAULTS
    CASE(test_failures_leave_nothing), /* first, while the registry is still empty */
    CASE(test_everything_works_without_pidfd),
    CASE(test_child_without_dev_null),
    CASE(test_ending_survives_failures),
    CASE(test_interrupts_around_a_fork),
    CASE(test_host_dies_while_a_child_starts),
#endif
    CASE(test_empty_handle_is_harmless),
    CASE(test_fork_gives_a_child),
    CASE(test_end_tells_how),
    CASE(test_end_tells_the_peak_of_memory),
    CASE(test_reap_waits_as_long_as_it_says),
    CASE(test_reap_outlasts_signals),
    CASE(test_copy_of_the_lifeline_does_not_hide_the_end),
    CASE(test_signal_reaches_the_child_and_forgives_the_dead),
    CASE(test_two_hundred_children_leave_nothing),
    CASE(test_signals_of_a_child_are_its_own),
    CASE(test_children_in_a_row_are_as_any),
    CASE(test_no_signal_is_lost_in_a_fork),
    CASE(test_exit_in_a_child_runs_no_handler_of_the_host),
    CASE(test_output_comes_once),
    CASE(test_output_printed_during_the_fork_comes_once),
    CASE(test_input_stays_with_the_host),
#ifdef __linux__
    CASE(test_child_is_offered_to_the_oom_killer),
#endif
    CASE(test_child_keeps_only_what_it_needs),
    CASE(test_forgotten_descriptors_are_inherited),
    CASE(test_sibling_does_not_hold_the_line),
    CASE(test_nothing_outlives_a_killed_host),
    CASE(test_nothing_outlives_a_crashed_host),
#if defined(__linux__) && !defined(LUAPOOL_NO_PRCTL)
    CASE(test_copy_of_the_host_does_not_keep_its_children),
#endif
    CASE(test_child_outlives_the_thread_that_forked_it),
    CASE(test_ignored_sigchld_is_an_unknown_end),
    CASE(test_stolen_child_is_an_unknown_end),
    CASE(test_reused_number_is_not_our_child),
    CASE(test_copies_of_a_handle_are_harmless),
    CASE(test_kill_tree_leaves_nobody),
    CASE(test_end_child),
    CASE(test_kill_tree_catches_forking_threads),
    CASE(test_threads_fork_without_sharing_descriptors),
    CASE(test_plain_fork_finds_the_lock_open),
  };
  return cmocka_run_group_tests_name("process", tests, open_house, close_house);
}
