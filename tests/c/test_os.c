/*
 * System calls as the house wants them, and the fault table.
 * Whatever changes the process (limits, closed streams, signals) happens in a forked program whose CHECKs are counted by the test;
 * every test ends with the descriptors and children that it started with.
 */
#include "unit.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>

#ifdef __linux__
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

#include "base/fault.h"

/* In a program: leave with a status that names the line (cmocka's own assertions belong to the parent). */
#define CHECK(condition) \
  do { \
    if (!(condition)) { \
      dprintf(2, "%s:%d: CHECK failed: %s\n", __FILE__, __LINE__, #condition); \
      _exit(1); \
    } \
  } while (0)

/* Runs body in a process of its own, for a limited time; returns its wait status. */
static int run(void (*body)(void)) {
  return wait_for_program(start_program(body));
}

static void run_well(void (*body)(void)) {
  assert_int_equal(run(body), 0);
}

/* ---- files ------------------------------------------------------------------------------------ */

static void assert_text(const char *path, const char *expected) {
  char text[64];
  assert_true(os_read_text(path, text, sizeof text) >= 0);
  assert_string_equal(text, expected);
}

/* The content is new, the mode and what leads to the file are as they were; of a failure nothing is to be seen. */
static void test_write_whole(void **state) {
  char folder[] = "/tmp/luapool-os-XXXXXX", file[64], link_to_it[64], second[64];
  struct stat about;
  (void)state;
  assert_non_null(mkdtemp(folder));
  snprintf(file, sizeof file, "%s/file", folder);
  snprintf(link_to_it, sizeof link_to_it, "%s/link", folder);
  snprintf(second, sizeof second, "%s/second", folder);
  assert_int_equal(os_write_whole(file, "first", 5), 0);
  assert_text(file, "first");
  assert_int_equal(chmod(file, 0640), 0);
  assert_int_equal(symlink("file", link_to_it), 0);
  assert_int_equal(os_write_whole(link_to_it, "by link", 7), 0);
  assert_text(file, "by link");
  assert_int_equal(stat(file, &about), 0);
  assert_int_equal(about.st_mode & 07777, 0640);
  assert_int_equal(lstat(link_to_it, &about), 0);
  assert_true(S_ISLNK(about.st_mode));
  assert_int_equal(link(file, second), 0);
  assert_int_equal(os_write_whole(file, "both", 4), 0);
  assert_text(second, "both");
  assert_int_equal(unlink(second), 0);
  assert_int_equal(os_write_whole("/dev/null", "x", 1), -ENOTSUP);
  assert_int_equal(os_write_whole(folder, "x", 1), -EISDIR);
#ifdef LUAPOOL_FAULTS
  setenv("LUAPOOL_FAIL", "write#1:ENOSPC", 1);
  fault_reload();
  assert_int_equal(os_write_whole(file, "lost", 4), -ENOSPC);
  setenv("LUAPOOL_FAIL", "open#2:ENOSPC", 1); /* there is not even room for another name */
  fault_reload();
  assert_int_equal(os_write_whole(file, "lost", 4), -ENOSPC);
  unsetenv("LUAPOOL_FAIL");
  fault_reload();
#endif
  assert_text(file, "both");
  assert_int_equal(unlink(link_to_it), 0);
  assert_int_equal(unlink(file), 0);
  assert_int_equal(rmdir(folder), 0);
}

static int is_cloexec(int fd) {
  return fcntl(fd, F_GETFD) == FD_CLOEXEC;
}

static int is_nonblocking(int fd) {
  return (fcntl(fd, F_GETFL) & O_NONBLOCK) != 0;
}

static void test_open_gives_cloexec_or_errno(void **state) {
  int fd = os_open("/dev/null", O_RDWR);
  (void)state;
  assert_true(fd > 2);
  assert_true(is_cloexec(fd));
  os_close(&fd);
  assert_int_equal(fd, -1);
  assert_int_equal(os_open("/nonexistent/file", O_RDONLY), -ENOENT);
}

static void test_close_keeps_errno_and_is_idempotent(void **state) {
  int fd = os_open("/dev/null", O_RDONLY), same = fd;
  (void)state;
  errno = ENOTTY;
  os_close(&fd);
  os_close(&fd);
  assert_int_equal(errno, ENOTTY);
  assert_int_equal(fcntl(same, F_GETFD), -1);
}

/* Runs, single ones, the words' edges, and one beyond the set; what is not in the set stays open. */
static void close_a_set(void) {
  static const int numbers[] = {60, 61, 62, 63, 64, 65, 70, 127, 128, 200, 201};
  enum { N = sizeof numbers / sizeof *numbers };
  struct os_fd_set set;
  memset(&set, 0, sizeof set);
  for (int i = 0; i < N; i++) CHECK(dup2(2, numbers[i]) == numbers[i]);
  for (int i = 0; i < N; i++)
    if (numbers[i] != 62 && numbers[i] != 128) os_fd_set_add(&set, numbers[i]);
  os_fd_set_add(&set, OS_FD_SET_SIZE + 5); /* (not open: that is no mistake) */
  os_close_set(&set);
  for (int i = 0; i < N; i++) CHECK((fcntl(numbers[i], F_GETFD) >= 0) == (numbers[i] == 62 || numbers[i] == 128));
}

static void test_a_set_is_closed_and_nothing_else(void **state) {
  (void)state;
  run_well(close_a_set);
}

static void test_read_text_cuts_and_ends(void **state) {
  char text[8];
  (void)state;
  assert_int_equal(os_read_text("/proc/self/stat", text, sizeof text), 7);
  assert_int_equal(strlen(text), 7);
  assert_int_equal(os_read_text("/dev/null", text, sizeof text), 0);
  assert_string_equal(text, "");
  assert_int_equal(os_read_text("/nonexistent", text, sizeof text), -ENOENT);
  assert_int_equal(os_read_text("/proc", text, sizeof text), -EISDIR);
}

static atomic_int alarms, *shared_alarms = &alarms;

static void on_alarm(int signo) {
  (void)signo;
  atomic_fetch_add(shared_alarms, 1);
}

/* SIGALRM every few milliseconds, without SA_RESTART: every blocking call is broken off. */
static void start_alarms(void) {
  struct sigaction action = {.sa_handler = on_alarm};
  struct itimerval every = {{0, 10000}, {0, 10000}};
  CHECK(sigaction(SIGALRM, &action, NULL) == 0);
  CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
}

/* The reader sleeps in read while alarms break it off; the byte comes only after five of them. */
static void read_through_alarms(void) {
  int fds[2], status;
  char byte = 0;
  void *shared = NULL;
  CHECK(pipe(fds) == 0 && os_map_shared(sizeof(atomic_int), &shared) == 0);
  atomic_int *seen = shared;
  pid_t writer = fork();
  CHECK(writer >= 0);
  if (writer == 0) {
    while (atomic_load(seen) < 5) sched_yield();
    _exit(os_write(fds[1], "x", 1) == 0 ? 0 : 1);
  }
  shared_alarms = seen;
  start_alarms();
  CHECK(os_read(fds[0], &byte, 1) == 1 && byte == 'x');
  CHECK(atomic_load(seen) >= 5);
  while (waitpid(writer, &status, 0) < 0) CHECK(errno == EINTR);
  CHECK(status == 0);
}

enum { MUCH = 4 << 20 };

/* More than a pipe holds, to a slow reader, under a storm of signals: whole and in order. */
static void write_through_alarms(void) {
  static unsigned char data[MUCH];
  int fds[2], status;
  for (size_t i = 0; i < MUCH; i++) data[i] = (unsigned char)(i * 31 >> 7);
  CHECK(pipe(fds) == 0);
  pid_t reader = fork();
  CHECK(reader >= 0);
  if (reader == 0) {
    static unsigned char got[MUCH];
    size_t length = 0;
    ssize_t part;
    close(fds[1]);
    start_alarms();
    while ((part = os_read(fds[0], got + length, length < MUCH ? MUCH - length : 1)) > 0) length += (size_t)part;
    CHECK(part == 0 && length == MUCH && memcmp(got, data, MUCH) == 0);
    _exit(0);
  }
  close(fds[0]);
  start_alarms();
  CHECK(os_write(fds[1], data, MUCH) == 0);
  close(fds[1]);
  while (waitpid(reader, &status, 0) < 0) CHECK(errno == EINTR);
  CHECK(status == 0);
}

static void test_read_and_write_survive_signals(void **state) {
  (void)state;
  run_well(read_through_alarms);
  run_well(write_through_alarms);
}

static void write_to_nobody(void) {
  int fds[2];
  signal(SIGPIPE, SIG_IGN);
  CHECK(pipe(fds) == 0);
  close(fds[0]);
  CHECK(os_write(fds[1], "x", 1) == -EPIPE);
  CHECK(os_read(fds[1], fds, 1) == -EBADF);
  CHECK(os_write(-1, "x", 1) == -EBADF);
  CHECK(os_write(-1, "", 0) == 0);
}

static void test_read_and_write_name_the_error(void **state) {
  (void)state;
  run_well(write_to_nobody);
}

static void open_all_without_stdio(void) {
  struct os_bell bell;
  int pair[2], fd, memory, pidfd;
  for (fd = 0; fd < 3; fd++) close(fd);
  CHECK((fd = os_open("/dev/null", O_RDONLY)) > 2);
  CHECK(os_socket_pair(pair) == 0 && pair[0] > 2 && pair[1] > 2);
  CHECK(os_bell_open(&bell) == 0 && bell.read_fd > 2 && bell.write_fd > 2);
  CHECK((memory = os_memory_file("test")) > 2);
  pidfd = os_pidfd_open(getpid());
  CHECK(pidfd < 0 || pidfd > 2);
  CHECK(is_cloexec(fd) && is_cloexec(pair[0]) && is_cloexec(pair[1]) && is_cloexec(bell.read_fd) && is_cloexec(bell.write_fd));
  CHECK(is_cloexec(memory) && (pidfd < 0 || is_cloexec(pidfd)));
  CHECK(is_nonblocking(pair[0]) && is_nonblocking(pair[1]) && is_nonblocking(bell.read_fd) && is_nonblocking(bell.write_fd));
  for (fd = 0; fd < 3; fd++) CHECK(fcntl(fd, F_GETFD) == -1);
}

static void test_nothing_takes_a_standard_number(void **state) {
  (void)state;
  run_well(open_all_without_stdio);
}

static void test_socket_pair_carries_both_ways(void **state) {
  int fds[2];
  char text[4];
  (void)state;
  assert_int_equal(os_socket_pair(fds), 0);
  assert_int_equal(os_read(fds[0], text, 1), -EAGAIN);
  assert_int_equal(os_write(fds[0], "ab", 2), 0);
  assert_int_equal(os_read(fds[1], text, sizeof text), 2);
  assert_int_equal(os_write(fds[1], "cd", 2), 0);
  assert_int_equal(os_read(fds[0], text, sizeof text), 2);
  os_close(&fds[0]);
  assert_int_equal(os_read(fds[1], text, sizeof text), 0);
  os_close(&fds[1]);
}

static void run_out_of_fds(void) {
  struct rlimit limit = {4, 4};
  struct os_bell bell;
  int fds[2], last;
  for (int fd = 3; fd < 100; fd++) close(fd);
  if (setrlimit(RLIMIT_NOFILE, &limit) < 0) _exit(CANNOT);
  CHECK(os_socket_pair(fds) == -EMFILE);
  CHECK((last = os_open("/dev/null", O_RDONLY)) == 3);
  CHECK(os_bell_open(&bell) == -EMFILE && bell.read_fd == -1 && bell.write_fd == -1);
  CHECK(os_memory_file("test") == -EMFILE);
  CHECK(os_open("/dev/null", O_RDONLY) == -EMFILE);
  os_close(&last);
  close(0); /* a pair gets 0 and 3 then, and 0 cannot be moved: neither may stay */
  CHECK(os_socket_pair(fds) == -EMFILE);
  CHECK((last = os_open("/dev/null", O_RDONLY)) == 3);
  CHECK(fcntl(0, F_GETFD) == -1);
}

static void test_running_out_of_descriptors_leaks_none(void **state) {
  (void)state;
  int status = run(run_out_of_fds);
  if (WIFEXITED(status) && WEXITSTATUS(status) == CANNOT) skip(); /* valgrind keeps the limit for itself */
  assert_int_equal(status, 0);
}

/* ---- time and waiting ------------------------------------------------------------------------- */

static void test_time_goes_on(void **state) {
  int64_t first = os_now_ns(), last = first;
  (void)state;
  assert_true(first > 0);
  for (int i = 0; i < 100000; i++) {
    int64_t now = os_now_ns();
    assert_true(now >= last);
    last = now;
  }
  assert_true(last > first);
}

static void test_poll_waits_as_long_as_it_says(void **state) {
  int64_t start = os_now_ns();
  (void)state;
  assert_int_equal(os_poll(NULL, 0, 0), 0);
  assert_int_equal(os_poll(NULL, 0, 20 * MS + 1), 0);
  assert_in_range(os_now_ns() - start, 20 * MS + 1, long_ns());
  start = os_now_ns();
  assert_int_equal(os_poll(NULL, 0, 1500), 0); /* not rounded up to a whole millisecond by much, nor down to nothing */
  assert_true(os_now_ns() - start >= 1500);
}

static void test_poll_counts_what_is_ready(void **state) {
  int fds[2];
  (void)state;
  assert_int_equal(os_socket_pair(fds), 0);
  struct pollfd both[2] = {{fds[0], POLLIN, 0}, {fds[1], POLLIN, 0}};
  assert_int_equal(os_poll(both, 2, 0), 0);
  assert_int_equal(os_write(fds[0], "x", 1), 0);
  assert_int_equal(os_poll(both, 2, -1), 1);
  assert_true(both[1].revents & POLLIN);
  assert_int_equal(os_write(fds[1], "x", 1), 0);
  assert_int_equal(os_poll(both, 2, long_ns()), 2);
  os_close(&fds[0]);
  os_close(&fds[1]);
}

static void poll_through_an_alarm(void) {
  start_alarms();
  CHECK(os_poll(NULL, 0, -1) == -EINTR);
  CHECK(atomic_load(&alarms) > 0);
}

static void test_poll_says_that_a_signal_came(void **state) {
  (void)state;
  run_well(poll_through_an_alarm);
}

/* ---- memory ----------------------------------------------------------------------------------- */

static void test_shared_mapping_is_seen_by_children(void **state) {
  const size_t size = (size_t)8 << 30; /* untouched pages cost nothing */
  void *memory = NULL;
  (void)state;
  assert_int_equal(os_map_shared(size, &memory), 0);
  unsigned char *bytes = memory;
  assert_int_equal(bytes[0], 0);
  assert_int_equal(bytes[size - 1], 0);
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    bytes[size - 1] = 42;
    _exit(0);
  }
  assert_int_equal(waitpid(pid, NULL, 0), pid);
  assert_int_equal(bytes[size - 1], 42);
  os_unmap(memory, size);
  os_unmap(NULL, 0);
}

static void test_impossible_mapping_leaves_out_alone(void **state) {
  void *memory = &fds_before;
  (void)state;
  assert_int_equal(os_map_shared(0, &memory), -EINVAL);
  assert_true(os_map_shared(SIZE_MAX / 2, &memory) < 0); /* ENOMEM; valgrind says EINVAL */
  assert_int_equal(os_map_file(-1, 4096, &memory), -EBADF);
  assert_ptr_equal(memory, &fds_before);
}

static void test_memory_file_grows_and_reserves(void **state) {
  const size_t size = 3 << 20;
  struct stat now;
  void *memory = NULL;
  int fd = os_memory_file("test");
  (void)state;
  assert_true(fd > 2);
  assert_true(is_cloexec(fd));
  assert_int_equal(os_memory_grow(fd, 10), 0);
  assert_int_equal(pwrite(fd, "0123456789", 10, 0), 10);
  assert_int_equal(os_memory_grow(fd, size), 0);
  assert_int_equal(os_memory_grow(fd, 100), 0); /* never shrinks */
  assert_int_equal(fstat(fd, &now), 0);
  assert_int_equal(now.st_size, size);
  assert_int_equal(now.st_nlink, 0);
  assert_true((size_t)now.st_blocks * 512 >= size); /* reserved, not sparse */
  assert_int_equal(os_map_file(fd, size, &memory), 0);
  assert_memory_equal(memory, "0123456789\0\0", 12);
  memset(memory, 7, size);
  char byte;
  assert_int_equal(pread(fd, &byte, 1, (off_t)size - 1), 1);
  assert_int_equal(byte, 7);
  os_unmap(memory, size);
  os_close(&fd);
}

static void test_released_memory_reads_as_zeros(void **state) {
  const size_t size = 1 << 20;
  size_t wrong = 0;
  struct stat before, after;
  void *memory = NULL;
  int fd = os_memory_file("test");
  (void)state;
  assert_int_equal(os_memory_grow(fd, size), 0);
  assert_int_equal(os_map_file(fd, size, &memory), 0);
  unsigned char *bytes = memory;
  memset(bytes, 9, size);
  assert_int_equal(fstat(fd, &before), 0);
  os_memory_release(fd, 100, size / 2);
  os_memory_release(fd, 0, 0);
  os_memory_release(fd, 2 * size, 10);           /* beyond the end: nothing */
  os_memory_release(fd, size - 10, UINT64_MAX);  /* across the end: up to the end */
  assert_int_equal(fstat(fd, &after), 0);
  assert_int_equal(after.st_size, size);
  for (size_t i = 0; i < size; i++) wrong += bytes[i] != ((i >= 100 && i < 100 + size / 2) || i >= size - 10 ? 0 : 9);
  assert_int_equal(wrong, 0);
#ifdef __linux__
  assert_true(after.st_blocks < before.st_blocks);
#endif
  os_unmap(memory, size);
  os_close(&fd);
}

static void grow_beyond_the_limit(void) {
  struct rlimit limit = {1 << 20, 1 << 20};
  struct stat now;
  int fd = os_memory_file("test");
  CHECK(os_memory_grow(fd, 4096) == 0);
  CHECK(pwrite(fd, "kept", 4, 0) == 4);
  CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
  CHECK(os_memory_grow(fd, 2 << 20) == -EFBIG); /* and no SIGXFSZ */
  CHECK(os_memory_grow(fd, UINT64_MAX) == -EFBIG);
  CHECK(fstat(fd, &now) == 0 && now.st_size == 4096);
  char text[4];
  CHECK(pread(fd, text, 4, 0) == 4 && memcmp(text, "kept", 4) == 0);
  CHECK(os_memory_grow(fd, 1 << 20) == 0);
  CHECK(os_memory_grow(-1, 1) == -EBADF);
  CHECK(os_memory_shrink(fd, 1 << 20) == 0 && os_memory_shrink(fd, 4096) == 0 && os_memory_shrink(fd, 8192) == 0);
  CHECK(fstat(fd, &now) == 0 && now.st_size == 4096);
  CHECK(pread(fd, text, 4, 0) == 4 && memcmp(text, "kept", 4) == 0);
  CHECK(os_memory_shrink(-1, 1) == -EBADF);
}

/* A machine has less memory than this: to try would end some process by SIGKILL. */
static void test_growth_beyond_all_memory_is_refused(void **state) {
  struct stat now;
  int fd = os_memory_file("test");
  (void)state;
  assert_true(os_memory_left("") < UINT64_C(1) << 45);
  assert_int_equal(os_memory_grow(fd, UINT64_C(1) << 46), -ENOMEM);
  assert_int_equal(fstat(fd, &now), 0);
  assert_int_equal(now.st_size, 0);
  os_close(&fd);
}

static void test_refused_growth_changes_nothing(void **state) {
  (void)state;
  run_well(grow_beyond_the_limit);
}

static void test_allocate(void **state) {
  char *memory = os_allocate(100);
  (void)state;
  assert_non_null(memory);
  memset(memory, 1, 100);
  free(memory);
}

/* ---- bells ------------------------------------------------------------------------------------ */

static int rings(const struct os_bell *bell) {
  struct pollfd line = {bell->read_fd, POLLIN, 0};
  return os_poll(&line, 1, 0) == 1 && (line.revents & POLLIN);
}

static void test_bell_rings_until_drained(void **state) {
  struct os_bell bell;
  (void)state;
  assert_int_equal(os_bell_open(&bell), 0);
  assert_false(rings(&bell));
  os_bell_drain(&bell); /* drains nothing, does not block */
  os_bell_ring(&bell);
  os_bell_ring(&bell);
  assert_true(rings(&bell));
  os_bell_drain(&bell);
  assert_false(rings(&bell));
  os_bell_close(&bell);
  os_bell_close(&bell);
  assert_int_equal(bell.read_fd, -1);
  assert_int_equal(bell.write_fd, -1);
}

static void test_full_or_closed_bell_is_no_error(void **state) {
  struct os_bell bell;
  (void)state;
  assert_int_equal(os_bell_open(&bell), 0);
  errno = ENOTTY;
  for (int i = 0; i < 100000; i++) os_bell_ring(&bell); /* more than a pipe holds */
  assert_int_equal(errno, ENOTTY);
  assert_true(rings(&bell));
  os_bell_drain(&bell);
  assert_false(rings(&bell));
  assert_int_equal(errno, ENOTTY);
  os_bell_close(&bell);
  os_bell_ring(&bell);
  os_bell_drain(&bell);
  assert_int_equal(errno, ENOTTY);
}

static void test_bell_wakes_a_sleeper_in_another_process(void **state) {
  struct os_bell bell;
  int status;
  (void)state;
  assert_int_equal(os_bell_open(&bell), 0);
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    struct pollfd line = {bell.read_fd, POLLIN, 0};
    _exit(os_poll(&line, 1, long_ns()) == 1 ? 0 : 1);
  }
  os_bell_ring(&bell);
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
  os_bell_close(&bell);
}

/* ---- processors and threads --------------------------------------------------------------------- */

static void test_cpus_are_at_least_one(void **state) {
  int quota = os_cgroup_cpus("");
  (void)state;
  assert_in_range(os_cpus(), 1, sysconf(_SC_NPROCESSORS_CONF));
  assert_int_equal(os_cpus_lately(), os_cpus());
  if (quota > 0) assert_true(os_cpus() <= quota);
}

#ifdef __linux__
static void restrict_to_one_cpu(void) {
  cpu_set_t all, one;
  int first = 0;
  CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
  while (!CPU_ISSET(first, &all)) first++;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
  CHECK(os_cpus() == 1);
  CHECK(os_cpus_lately() == 1);
}

static void test_affinity_counts(void **state) {
  (void)state;
  run_well(restrict_to_one_cpu);
}

static void avoid_processors(void) {
  cpu_set_t before, after;
  int here, moved = 0, round;
  CHECK(sched_getaffinity(0, sizeof before, &before) == 0);
  here = os_processor();
  CHECK(here >= 0 && CPU_ISSET(here, &before));
  CHECK(os_avoid(&here, 0) == 0);
  if (CPU_COUNT(&before) == 1) {
    CHECK(os_avoid(&here, 1) == 0);
    return;
  }
  for (round = 0; round < 100 && !moved; round++) { /* (the system may move it back at any moment) */
    here = os_processor();
    moved = os_avoid(&here, 1) == 1 && os_processor() != here;
  }
  CHECK(moved);
  CHECK(sched_getaffinity(0, sizeof after, &after) == 0);
  CHECK(CPU_EQUAL(&before, &after));
}

static void have_no_other_processor(void) {
  int here;
  restrict_to_one_cpu();
  here = os_processor();
  CHECK(os_avoid(&here, 1) == 0 && os_processor() == here);
}

static void test_processors_are_avoided(void **state) {
  (void)state;
  if (!os_can_bind()) skip();
  run_well(avoid_processors);
  run_well(have_no_other_processor);
}

/* A machine of our own under a directory: what the process reads about its cgroup, and the groups. */
static char machine[64];

static void put(const char *path, const char *text) {
  char full[512];
  snprintf(full, sizeof full, "%s%s", machine, path);
  for (char *slash = strchr(full + strlen(machine) + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
    *slash = '\0';
    mkdir(full, 0700);
    *slash = '/';
  }
  FILE *file = fopen(full, "w");
  assert_non_null(file);
  fputs(text, file);
  fclose(file);
}

static void remove_tree(const char *path) {
  DIR *directory = opendir(path);
  struct dirent *entry;
  char inner[1024];
  while (directory != NULL && (entry = readdir(directory)) != NULL) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    snprintf(inner, sizeof inner, "%s/%s", path, entry->d_name);
    if (unlink(inner) < 0) remove_tree(inner);
  }
  if (directory != NULL) closedir(directory);
  rmdir(path);
}

static void new_machine(const char *cgroup, const char *mountinfo) {
  strcpy(machine, "/tmp/luapool-test-XXXXXX");
  assert_non_null(mkdtemp(machine));
  put("/proc/self/cgroup", cgroup);
  put("/proc/self/mountinfo", mountinfo);
}

static int cpus_there(void) {
  int cpus = os_cgroup_cpus(machine);
  remove_tree(machine);
  return cpus;
}

#define V2_MOUNT "30 20 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
#define OTHER_MOUNTS "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n21 20 0:4 / /proc rw shared:5 - proc proc rw\nnonsense\n"
#define V1_MOUNTS OTHER_MOUNTS \
  "31 20 0:27 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n" \
  "32 20 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"

static void test_quota_of_v2_is_rounded_up(void **state) {
  static const struct {
    const char *max;
    int cpus;
  } cases[] = {{"150000 100000\n", 2}, {"200000 100000\n", 2}, {"200001 100000\n", 3}, {"1000 100000\n", 1}, {"max 100000\n", 0},
               {"", 0}, {"0 100000", 0}, {"100 0", 0}, {"9000000000000000000 1", 2147483647}};
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    new_machine("0::/user/me\n", OTHER_MOUNTS V2_MOUNT);
    put("/sys/fs/cgroup/user/me/cpu.max", cases[i].max);
    assert_int_equal(cpus_there(), cases[i].cpus);
  }
}

static void test_every_group_up_to_the_mount_limits(void **state) {
  (void)state;
  new_machine("0::/a/b/c\n", V2_MOUNT);
  put("/sys/fs/cgroup/a/b/c/cpu.max", "max 100000\n");
  put("/sys/fs/cgroup/a/b/cpu.max", "800000 100000\n");
  put("/sys/fs/cgroup/a/cpu.max", "300000 100000\n");
  put("/sys/fs/cgroup/cpu.max", "400000 100000\n");
  put("/sys/fs/cpu.max", "100000 100000\n"); /* above the mount: not a group */
  assert_int_equal(cpus_there(), 3);
  new_machine("0::/\n", V2_MOUNT);
  put("/sys/fs/cgroup/cpu.max", "500000 100000\n");
  assert_int_equal(cpus_there(), 5);
}

static void test_quota_of_v1(void **state) {
  (void)state;
  new_machine("4:cpuset:/set\n3:cpu,cpuacct:/box\n0::/other\n", V1_MOUNTS);
  put("/sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "250000\n");
  put("/sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us", "100000\n");
  put("/sys/fs/cgroup/cpuset/set/cpu.cfs_quota_us", "100000\n"); /* another hierarchy */
  put("/sys/fs/cgroup/cpuset/set/cpu.cfs_period_us", "100000\n");
  assert_int_equal(cpus_there(), 3);
  new_machine("3:cpuacct,cpu:/box\n", V1_MOUNTS);
  put("/sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "-1\n");
  put("/sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us", "100000\n");
  assert_int_equal(cpus_there(), 0);
}

static void test_smaller_of_v1_and_v2_counts(void **state) {
  (void)state;
  new_machine("3:cpu:/box\n0::/box\n", V1_MOUNTS V2_MOUNT);
  put("/sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "600000\n");
  put("/sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us", "100000\n");
  put("/sys/fs/cgroup/box/cpu.max", "700000 100000\n");
  assert_int_equal(cpus_there(), 6);
}

static void test_containers_see_a_part_of_the_tree(void **state) {
  /* The mount shows the container's own group as its root, while the process's path is counted from the real root. */
  static const char mount[] = "30 20 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
  (void)state;
  new_machine("0::/docker/abc/job\n", mount);
  put("/sys/fs/cgroup/job/cpu.max", "100000 100000\n");
  assert_int_equal(cpus_there(), 1);
  new_machine("0::/docker/abc\n", mount);
  put("/sys/fs/cgroup/cpu.max", "400000 100000\n");
  assert_int_equal(cpus_there(), 4);
  new_machine("0::/docker/abcdef/x\n", mount); /* another container's group cannot be looked at */
  put("/sys/fs/cgroup/cpu.max", "200000 100000\n");
  put("/sys/fs/cgroup/def/x/cpu.max", "100000 100000\n");
  assert_int_equal(cpus_there(), 2);
  new_machine("0::/../../elsewhere\n", V2_MOUNT); /* outside this cgroup namespace */
  put("/sys/fs/cgroup/cpu.max", "200000 100000\n");
  assert_int_equal(cpus_there(), 2);
}

static void test_mount_points_may_have_blanks(void **state) {
  (void)state;
  new_machine("0::/g\n", "30 20 0:26 / /my\\040groups rw - cgroup2 none rw\n");
  put("/my groups/g/cpu.max", "300000 100000\n");
  assert_int_equal(cpus_there(), 3);
}

static void test_machine_without_cgroups(void **state) {
  (void)state;
  new_machine("", OTHER_MOUNTS);
  assert_true(os_memory_left(machine) == UINT64_MAX);
  assert_int_equal(cpus_there(), 0);
  assert_int_equal(os_cgroup_cpus("/nonexistent"), 0);
  assert_true(os_memory_left("/nonexistent") == UINT64_MAX);
}

static uint64_t memory_left_there(void) {
  uint64_t left = os_memory_left(machine);
  remove_tree(machine);
  return left;
}

static void test_memory_left_of_the_machine(void **state) {
  (void)state;
  new_machine("", OTHER_MOUNTS);
  put("/proc/meminfo", "MemTotal:  1000 kB\nMemFree: 5 kB\nMemAvailable:   300 kB\nHugePages_Total:    7\nSwapFree:  20 kB\n");
  assert_int_equal(memory_left_there(), 320 * 1024);
  assert_true(os_memory_left("") > 0);
}

static void test_running(void **state) {
  (void)state;
  new_machine("", OTHER_MOUNTS);
  assert_int_equal(os_running(machine), -ENOSYS);
  put("/proc/loadavg", "0.50 0.25 0.10 7/321 12345\n");
  assert_int_equal(os_running(machine), 7);
  put("/proc/loadavg", "0.50 0.25\n");
  assert_int_equal(os_running(machine), -ENOSYS);
  remove_tree(machine);
}

static void test_memory_left_of_the_groups(void **state) {
  (void)state;
  new_machine("0::/a/b\n", V2_MOUNT);
  put("/proc/meminfo", "MemAvailable: 100000000 kB\n");
  put("/sys/fs/cgroup/a/b/memory.max", "max\n");
  put("/sys/fs/cgroup/a/b/memory.current", "5000\n");
  put("/sys/fs/cgroup/a/memory.max", "70000\n");
  put("/sys/fs/cgroup/a/memory.current", "50000\n");
  put("/sys/fs/cgroup/a/memory.stat", "anon 1000\nfile 9999\ninactive_file 4000\nactive_file 500\n");
  assert_int_equal(memory_left_there(), 70000 - 50000 + 4500);
  new_machine("4:memory:/box\n", "31 20 0:27 / /m rw - cgroup cgroup rw,memory\n");
  put("/m/box/memory.limit_in_bytes", "1000\n");
  put("/m/box/memory.usage_in_bytes", "3000\n");
  put("/m/box/memory.stat", "inactive_file 900\ntotal_inactive_file 100\n");
  assert_int_equal(memory_left_there(), 0);
}
#endif

static pthread_barrier_t barrier;

static void *wait_twice(void *unused) {
  (void)unused;
  pthread_barrier_wait(&barrier);
  pthread_barrier_wait(&barrier);
  return NULL;
}

static void *count_here(void *threads) {
  *(int *)threads = os_threads();
  return NULL;
}

#ifdef __linux__
/* The program's name stands in front of the count, in brackets, and may itself look like the rest of the line. */
static int threads_under_a_strange_name(void) {
  char name[16];
  int threads;
  assert_int_equal(prctl(PR_GET_NAME, name), 0);
  assert_int_equal(prctl(PR_SET_NAME, "a) R 1 (b"), 0);
  threads = os_threads();
  assert_int_equal(prctl(PR_SET_NAME, name), 0);
  return threads;
}
#endif

static void test_threads_are_counted(void **state) {
  pthread_t threads[3];
  int before, here;
  (void)state;
  /* A sanitizer may have a thread of its own, from the first one of ours on. */
  assert_int_equal(pthread_create(&threads[0], NULL, count_here, &here), 0);
  assert_int_equal(pthread_join(threads[0], NULL), 0);
  before = os_threads();
  assert_true(before >= 1);
  assert_int_equal(pthread_barrier_init(&barrier, NULL, 4), 0);
  for (int i = 0; i < 3; i++) assert_int_equal(pthread_create(&threads[i], NULL, wait_twice, NULL), 0);
  pthread_barrier_wait(&barrier);
#ifdef __linux__
  assert_int_equal(os_threads(), before + 3);
  assert_int_equal(threads_under_a_strange_name(), before + 3);
#endif
  pthread_barrier_wait(&barrier);
  for (int i = 0; i < 3; i++) assert_int_equal(pthread_join(threads[i], NULL), 0);
  assert_int_equal(pthread_barrier_destroy(&barrier), 0);
}

/* A child that waits, with a child of its own that does, until the test ends both; the grandchild's number comes through the pipe. */
static pid_t start_two(pid_t *grandchild) {
  int ends[2];
  pid_t child;
  assert_int_equal(pipe(ends), 0);
  child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    pid_t other = fork();
    if (other == 0)
      for (;;) pause();
    if (other < 0 || write(ends[1], &other, sizeof other) != (ssize_t)sizeof other) _exit(1);
    for (;;) pause();
  }
  close(ends[1]);
  assert_int_equal(read(ends[0], grandchild, sizeof *grandchild), sizeof *grandchild);
  close(ends[0]);
  return child;
}

static void wait_for_state(pid_t pid, char wanted) {
  struct os_process now = {0, 0, 0};
  int64_t until = os_now_ns() + long_ns();
  do assert_int_equal(os_look_at(pid, &now), 1);
  while (now.state != wanted && os_now_ns() < until && os_poll(NULL, 0, MS) == 0);
  assert_int_equal(now.state, wanted);
}

static void test_processes_are_looked_at(void **state) {
  pid_t grandchild, child = start_two(&grandchild), one[1] = {0}, many[64] = {0};
  struct os_process first, again;
  int count, is_there = 0;
  (void)state;
  assert_int_equal(os_look_at(child, &first), 1);
  assert_int_equal(first.parent, getpid());
  assert_int_equal(os_look_at(grandchild, &again), 1);
  assert_int_equal(again.parent, child);
  assert_int_equal(os_children(child, many, 64), 1);
  assert_int_equal(many[0], grandchild);
  assert_int_equal(os_children(grandchild, many, 64), 0);
  count = os_children(getpid(), many, 64);
  for (int i = 0; i < count; i++) is_there |= many[i] == child;
  assert_true(is_there);
  assert_int_equal(os_children(child, one, 0), 0);
  assert_int_equal(kill(child, SIGSTOP), 0);
  wait_for_state(child, 'T');
  assert_int_equal(kill(grandchild, SIGKILL), 0);
  wait_for_state(grandchild, 'Z'); /* its parent is stopped, and does not look after it in any case */
  assert_int_equal(os_look_at(child, &again), 1);
  assert_true(again.started == first.started);
  assert_int_equal(kill(child, SIGKILL), 0);
  wait_for_state(child, 'Z');
  assert_int_equal(waitpid(child, NULL, 0), child);
  assert_int_equal(os_look_at(child, &again), 0);
  assert_int_equal(os_children(child, many, 64), 0);
}

#if defined(__linux__) && defined(__x86_64__) && !defined(LUAPOOL_MALLOC) /* (the build for valgrind, which knows no such clone) */
/* The kernel keeps signals from it until its child has become another program or ended. */
static void *fork_and_wait(void *unused) {
  (void)unused;
  if (syscall(SYS_clone, CLONE_VFORK | SIGCHLD, 0, 0, 0, 0) == 0)
    for (;;) pause();
  for (;;) pause();
  return NULL;
}

/* A process has stopped when its last thread has: what os_look_at says of it is true of the first alone. */
static void test_a_process_has_several_threads_to_stop(void **state) {
  int64_t until = os_now_ns() + long_ns();
  pid_t child = fork(), grandchild = 0;
  (void)state;
  assert_true(child >= 0);
  if (child == 0) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, fork_and_wait, NULL) != 0) _exit(1);
    for (;;) pause();
  }
  while (os_children(child, &grandchild, 1) == 0 && os_now_ns() < until) (void)os_poll(NULL, 0, MS);
  assert_true(grandchild > 0);
  assert_int_equal(kill(child, SIGSTOP), 0);
  wait_for_state(child, 'T');
  assert_int_equal(os_state_of_threads(child), 'D');
  assert_int_equal(kill(grandchild, SIGKILL), 0);
  while (os_state_of_threads(child) != 'T' && os_now_ns() < until) (void)os_poll(NULL, 0, MS);
  assert_int_equal(os_state_of_threads(child), 'T');
  assert_int_equal(kill(child, SIGKILL), 0);
  assert_int_equal(waitpid(child, NULL, 0), child);
  assert_int_equal(os_state_of_threads(child), 'Z');
}
#endif

/* More of them than there is room for; each is listed once. */
static void test_children_fill_the_room_there_is(void **state) {
  enum { CHILDREN = 300 };
  pid_t children[CHILDREN], listed[CHILDREN + 8];
  int count, found = 0;
  (void)state;
  for (int i = 0; i < CHILDREN; i++) {
    children[i] = fork();
    assert_true(children[i] >= 0);
    if (children[i] == 0)
      for (;;) pause();
  }
  assert_int_equal(os_children(getpid(), listed, CHILDREN - 50), CHILDREN - 50);
  count = os_children(getpid(), listed, CHILDREN + 8);
  for (int i = 0; i < CHILDREN; i++) {
    for (int j = 0; j < count; j++) found += listed[j] == children[i];
    assert_int_equal(kill(children[i], SIGKILL), 0);
    assert_int_equal(waitpid(children[i], NULL, 0), children[i]);
  }
  assert_int_equal(found, CHILDREN);
}

static void test_own_program_and_memory(void **state) {
  enum { BYTES = 32 << 20 };
  char path[4096], tiny[4];
  struct stat about;
  uint64_t before = os_own_memory(), with;
  unsigned char *block = malloc(BYTES);
  (void)state;
  assert_true(os_own_program(path, sizeof path) > 0);
  assert_int_equal(path[0], '/');
  assert_int_equal(stat(path, &about), 0);
  assert_true(S_ISREG(about.st_mode));
  assert_int_equal(os_own_program(tiny, sizeof tiny), -ENAMETOOLONG);
  assert_true(before > 0);
  assert_non_null(block);
  for (size_t i = 0; i < BYTES; i += 512) ((volatile unsigned char *)block)[i] = 1;
  with = os_own_memory();
  free(block);
  assert_true(with >= before + BYTES / 2);
}

static void test_pidfd_means_one_process(void **state) {
  int status, fd = os_pidfd_open(getpid());
  (void)state;
  if (fd == -ENOSYS || fd == -EPERM) skip();
  assert_true(fd > 2);
  assert_int_equal(os_pidfd_signal(fd, 0), 0);
  os_close(&fd);
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0)
    for (;;) pause();
  fd = os_pidfd_open(pid);
  struct pollfd line = {fd, POLLIN, 0};
  assert_int_equal(os_poll(&line, 1, 0), 0);
  assert_int_equal(os_pidfd_signal(fd, SIGKILL), 0);
  assert_int_equal(os_poll(&line, 1, long_ns()), 1);
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(WTERMSIG(status), SIGKILL);
  assert_int_equal(os_pidfd_signal(fd, SIGKILL), -ESRCH);
  os_close(&fd);
}

/* As somebody's who is not its parent, before it is reaped; and after, where the system tells. */
static void test_pidfd_tells_the_end(void **state) {
  (void)state;
  for (int is_killed = 0; is_killed < 2; is_killed++) {
    int told = 0, status = 0, result;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0 && !is_killed) _exit(3);
    if (pid == 0)
      for (;;) pause();
    int fd = os_pidfd_open(pid);
    if (fd < 0) {
      (void)kill(pid, SIGKILL);
      (void)waitpid(pid, &status, 0);
      skip();
    }
    if (is_killed) assert_int_equal(os_pidfd_end(fd, pid, 0, &told), -EAGAIN);
    if (is_killed) assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(os_pidfd_end(fd, pid, long_ns(), &told), 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(told, status);
    result = os_pidfd_end(fd, pid, long_ns(), &told);
    assert_true(result == 0 || (result == 1 && told == status));
    os_close(&fd);
  }
}

static void test_random_fills_everything(void **state) {
  static unsigned char first[100000], second[100000];
  int counts[256] = {0};
  (void)state;
  os_random(first, sizeof first);
  os_random(second, sizeof second);
  os_random(first, 0);
  assert_memory_not_equal(first, second, sizeof first);
  for (size_t i = 0; i < sizeof first; i++) counts[first[i]]++;
  for (int i = 0; i < 256; i++) assert_in_range(counts[i], 200, 600); /* 390 expected, deviation 20 */
}

/* ---- the fault table ---------------------------------------------------------------------------- */

#ifdef LUAPOOL_FAULTS

static void ask(const char *variable, const char *value) {
  unsetenv("LUAPOOL_FAIL");
  unsetenv("LUAPOOL_FAULT");
  if (variable != NULL) setenv(variable, value, 1);
  fault_reload();
}

static void make_fail(const char *rules) {
  ask("LUAPOOL_FAIL", rules);
}

static void fail_each_in_turn(void) {
  struct os_bell bell;
  void *memory = NULL;
  int fds[2] = {-1, -1}, fd;
  char byte;
  make_fail("mmap#2:ENOMEM");
  CHECK(os_map_shared(4096, &memory) == 0);
  os_unmap(memory, 4096);
  CHECK(os_map_shared(4096, &memory) == -ENOMEM);
  CHECK(os_map_shared(4096, &memory) == 0);
  make_fail("memfd#1:EMFILE,truncate#1:ENOSPC,malloc:ENOMEM");
  CHECK(os_memory_file("test") == -EMFILE);
  CHECK((fd = os_memory_file("test")) > 2);
  CHECK(os_memory_grow(fd, 4096) == -ENOSPC);
  CHECK(os_memory_grow(fd, 4096) == 0);
  CHECK(os_allocate(10) == NULL);
  free(os_allocate(10));
  make_fail("bell#1:EMFILE,socketpair#1:ENFILE,poll#1:EINTR,pidfd#1:EPERM");
  CHECK(os_bell_open(&bell) == -EMFILE && bell.read_fd == -1);
  CHECK(os_bell_open(&bell) == 0);
  CHECK(os_socket_pair(fds) == -ENFILE && fds[0] == -1);
  CHECK(os_socket_pair(fds) == 0);
  CHECK(os_poll(NULL, 0, 0) == -EINTR);
  CHECK(os_poll(NULL, 0, 0) == 0);
  CHECK(os_pidfd_open(getpid()) == -EPERM);
  make_fail("open#1:EACCES,write#1:EIO,read#0:5"); /* 5 is EIO */
  CHECK(os_open("/dev/null", O_RDWR) == -EACCES);
  CHECK((fd = os_open("/dev/null", O_RDWR)) > 2);
  CHECK(os_write(fd, "x", 1) == -EIO);
  CHECK(os_write(fd, "x", 1) == 0);
  for (int i = 0; i < 3; i++) CHECK(os_read(fd, &byte, 1) == -EIO);
  CHECK(os_read_text("/dev/null", &byte, 1) == 0); /* no room: no read */
}

static void test_every_call_can_be_made_to_fail(void **state) {
  (void)state;
  run_well(fail_each_in_turn);
}

/* A kernel without memfd, eventfd or getrandom: the substitutes pass the same tests. */
static void pretend_an_old_kernel(void) {
  unsigned char bytes[64] = {0}, zeros[64] = {0};
  make_fail("memfd#0:ENOSYS,bell#0:ENOSYS,random#0:ENOSYS");
  test_memory_file_grows_and_reserves(NULL);
  test_released_memory_reads_as_zeros(NULL);
  test_bell_rings_until_drained(NULL);
  test_full_or_closed_bell_is_no_error(NULL);
  test_random_fills_everything(NULL);
  make_fail("random#0:ENOSYS,open#0:ENOENT"); /* not even a device: time, pid and a count */
  test_random_fills_everything(NULL);
  os_random(bytes, sizeof bytes);
  CHECK(memcmp(bytes, zeros, sizeof bytes) != 0);
}

static void test_substitutes_of_an_old_kernel(void **state) {
  (void)state;
  pretend_an_old_kernel();
  ask(NULL, NULL);
}

static void count_on_in_the_child(void) {
  make_fail("poll#3:EIO");
  CHECK(os_poll(NULL, 0, 0) == 0);
  CHECK(os_poll(NULL, 0, 0) == 0);
  pid_t pid = fork();
  if (pid == 0) _exit(os_poll(NULL, 0, 0) == -EIO ? 0 : 1);
  int status;
  CHECK(waitpid(pid, &status, 0) == pid && status == 0);
  CHECK(os_poll(NULL, 0, 0) == -EIO); /* each counts for itself */
  CHECK(os_poll(NULL, 0, 0) == 0);
}

static void test_children_count_on(void **state) {
  (void)state;
  run_well(count_on_in_the_child);
}

static const char *wish;

static void pass_the_point(void) {
  struct rlimit no_core = {0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  ask("LUAPOOL_FAULT", wish);
  errno = ENOTTY;
  fault_point("term_reap");
  FAULT_POINT("gc");
  CHECK(errno == ENOTTY);
}

static int status_of(const char *fault) {
  wish = fault;
  return run(pass_the_point);
}

static void test_actions_end_a_process(void **state) {
  (void)state;
  assert_int_equal(status_of(""), 0);
  assert_int_equal(status_of("nowhere:kill"), 0);
  assert_int_equal(status_of("gc#2:kill"), 0);
  assert_int_equal(WTERMSIG(status_of("gc:kill")), SIGKILL);
  assert_int_equal(WTERMSIG(status_of("gc#1:segv")), SIGSEGV);
  assert_int_equal(WTERMSIG(status_of("gc#0:abort")), SIGABRT);
  assert_int_equal(WTERMSIG(status_of("gc:int")), SIGINT);
  assert_int_equal(WTERMSIG(status_of("term_reap:sleep=1,gc:term")), SIGTERM);
  assert_int_equal(WTERMSIG(status_of("gc@0:kill")), SIGKILL);
  assert_int_equal(status_of("gc@1:kill"), 0);
}

static void leave_by_exit(void) {
  ask("LUAPOOL_FAULT", "gc:exit");
  FAULT_POINT("gc");
}

static void test_exit_is_the_c_function(void **state) {
  (void)state;
  fflush(stdout); /* the program would write it again */
  assert_int_equal(WEXITSTATUS(run(leave_by_exit)), 3);
}

static int is_third_wanted;

static void reach_the_third_passage(void) {
  ask("LUAPOOL_FAULT", "gc#3@2:kill");
  for (int i = 0; i < 10; i++) FAULT_POINT("gc");
  fault_set_worker(2);
  FAULT_POINT("gc");
  FAULT_POINT("gc");
  fault_set_worker(1);
  FAULT_POINT("gc");
  fault_set_worker(2);
  if (!is_third_wanted) _exit(0);
  FAULT_POINT("gc");
  _exit(1);
}

static void test_passages_are_counted_in_the_right_worker(void **state) {
  (void)state;
  is_third_wanted = 0;
  run_well(reach_the_third_passage); /* alive after two */
  is_third_wanted = 1;
  assert_int_equal(WTERMSIG(run(reach_the_third_passage)), SIGKILL);
}

static void test_stop_and_sleep(void **state) {
  int status;
  (void)state;
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    int64_t start = os_now_ns();
    ask("LUAPOOL_FAULT", "gc:stop,term_begin:sleep=30");
    FAULT_POINT("gc");
    FAULT_POINT("term_begin");
    _exit(os_now_ns() - start >= 30 * MS ? 0 : 1);
  }
  assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
  assert_true(WIFSTOPPED(status));
  assert_int_equal(kill(pid, SIGCONT), 0);
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
}

/* A host whose child hits it: with which signal, and does it reach the host alone? */
static void be_hit(void) {
  int status;
  pid_t pid = fork();
  if (pid == 0) {
    ask("LUAPOOL_FAULT", wish);
    FAULT_POINT("worker_run");
    _exit(0);
  }
  while (waitpid(pid, &status, 0) < 0) continue;
  for (;;) pause();
}

static void test_host_can_be_hit(void **state) {
  static const struct {
    const char *fault;
    int signal;
  } cases[] = {{"worker_run:host-int", SIGINT}, {"worker_run:host-term", SIGTERM}, {"worker_run:host-kill", SIGKILL}};
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    wish = cases[i].fault;
    assert_int_equal(WTERMSIG(run(be_hit)), cases[i].signal);
  }
}

static const char *bad_variable;

static void load_nonsense(void) {
  struct rlimit no_core = {0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  signal(SIGABRT, SIG_DFL);
  ask(bad_variable, wish);
}

static void test_misspelt_rules_abort(void **state) {
  static const char *const faults[] = {"gc", "gc:", "gc:dance", "gc#:kill", "gc#x:kill", "gc@:kill", ":kill", "gc:kill=3,", "gc:sleep",
                                       "gc:sleep=", "gc:kill,,", "gc:4", "a_name_that_is_longer_than_any_point:kill"};
  static const char *const fails[] = {"fork", "fork#1", "fork#1:", "fork#1:EWHAT", "fork#-1:EIO", "fork:0", "fork:EIO:EIO"};
  (void)state;
  bad_variable = "LUAPOOL_FAULT";
  for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
    wish = faults[i];
    assert_int_equal(WTERMSIG(run(load_nonsense)), SIGABRT);
  }
  bad_variable = "LUAPOOL_FAIL";
  for (size_t i = 0; i < sizeof fails / sizeof *fails; i++) {
    wish = fails[i];
    assert_int_equal(WTERMSIG(run(load_nonsense)), SIGABRT);
  }
}

#else

static void test_faults_are_compiled_out(void **state) {
  (void)state;
  setenv("LUAPOOL_FAIL", "poll#0:EIO", 1);
  fault_reload();
  assert_int_equal(os_poll(NULL, 0, 0), 0);
  assert_int_equal(fault_fails("poll"), 0);
  unsetenv("LUAPOOL_FAIL");
}

#endif

#define CASE(function) cmocka_unit_test_setup_teardown(function, note_the_house, find_it_clean)

int main(void) {
  const struct CMUnitTest tests[] = {
    CASE(test_open_gives_cloexec_or_errno),
    CASE(test_write_whole),
    CASE(test_close_keeps_errno_and_is_idempotent),
    CASE(test_a_set_is_closed_and_nothing_else),
    CASE(test_read_text_cuts_and_ends),
    CASE(test_read_and_write_survive_signals),
    CASE(test_read_and_write_name_the_error),
    CASE(test_nothing_takes_a_standard_number),
    CASE(test_socket_pair_carries_both_ways),
    CASE(test_running_out_of_descriptors_leaks_none),
    CASE(test_time_goes_on),
    CASE(test_poll_waits_as_long_as_it_says),
    CASE(test_poll_counts_what_is_ready),
    CASE(test_poll_says_that_a_signal_came),
    CASE(test_shared_mapping_is_seen_by_children),
    CASE(test_impossible_mapping_leaves_out_alone),
    CASE(test_memory_file_grows_and_reserves),
    CASE(test_released_memory_reads_as_zeros),
    CASE(test_refused_growth_changes_nothing),
#ifdef __linux__
    CASE(test_growth_beyond_all_memory_is_refused),
#endif
    CASE(test_allocate),
    CASE(test_bell_rings_until_drained),
    CASE(test_full_or_closed_bell_is_no_error),
    CASE(test_bell_wakes_a_sleeper_in_another_process),
    CASE(test_cpus_are_at_least_one),
#ifdef __linux__
    CASE(test_affinity_counts),
    CASE(test_processors_are_avoided),
    CASE(test_quota_of_v2_is_rounded_up),
    CASE(test_every_group_up_to_the_mount_limits),
    CASE(test_quota_of_v1),
    CASE(test_smaller_of_v1_and_v2_counts),
    CASE(test_containers_see_a_part_of_the_tree),
    CASE(test_mount_points_may_have_blanks),
    CASE(test_machine_without_cgroups),
    CASE(test_memory_left_of_the_machine),
    CASE(test_running),
    CASE(test_memory_left_of_the_groups),
#endif
    CASE(test_threads_are_counted),
    CASE(test_processes_are_looked_at),
#if defined(__linux__) && defined(__x86_64__) && !defined(LUAPOOL_MALLOC)
    CASE(test_a_process_has_several_threads_to_stop),
#endif
    CASE(test_children_fill_the_room_there_is),
    CASE(test_own_program_and_memory),
    CASE(test_pidfd_means_one_process),
    CASE(test_pidfd_tells_the_end),
    CASE(test_random_fills_everything),
#ifdef LUAPOOL_FAULTS
    CASE(test_every_call_can_be_made_to_fail),
    CASE(test_substitutes_of_an_old_kernel),
    CASE(test_children_count_on),
    CASE(test_actions_end_a_process),
    CASE(test_exit_is_the_c_function),
    CASE(test_passages_are_counted_in_the_right_worker),
    CASE(test_stop_and_sleep),
    CASE(test_host_can_be_hit),
    CASE(test_misspelt_rules_abort),
#else
    CASE(test_faults_are_compiled_out),
#endif
  };
  return cmocka_run_group_tests_name("os", tests, NULL, NULL);
}
