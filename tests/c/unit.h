/*
 * What the unit tests of the lower floors share: the house before and after each test, invented numbers that are the same in each run,
 * programs forked for a test, and waiting for other processes by looking (never by sleeping and hoping).
 */
#ifndef LUAPOOL_TESTS_UNIT_H
#define LUAPOOL_TESTS_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/os.h"

#define MS INT64_C(1000000)

enum { CANNOT = 77 }; /* status of a program that this machine does not let do what it is for */

/* POOLTEST_SLOWNESS: how much slower everything is here than on a plain machine (valgrind, sanitizers). */
static inline int slowness(void) {
  const char *text = getenv("POOLTEST_SLOWNESS");
  int factor = text ? atoi(text) : 1;
  return factor < 1 ? 1 : factor;
}

/* How often to repeat what is worth `rounds` repetitions on a plain machine. */
static inline int rounds_of(int rounds) {
  int fewer = rounds / slowness();
  return fewer < 5 ? 5 : fewer;
}

/* Far more than anything here takes. */
static inline int64_t long_ns(void) {
  return 20000 * MS * slowness();
}

/* A second, as it was promised, and what a loaded machine may take longer; far less than what is waited for lasts if nobody ends it. */
static inline int64_t soon_ns(void) {
  return 6000 * MS * slowness();
}

/* SplitMix64: the next invented number. */
static inline uint64_t next_random(uint64_t *state) {
  uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
  return z ^ z >> 31;
}

/* One of 0 .. limit - 1. */
static inline uint64_t random_below(uint64_t *state, uint64_t limit) {
  return next_random(state) % limit;
}

static inline int count_fds(void) {
  DIR *directory = opendir("/proc/self/fd");
  int count = -1; /* its own */
  while (directory != NULL && readdir(directory) != NULL) count++;
  if (directory != NULL) closedir(directory);
  return count;
}

static int fds_before;

static inline int note_the_house(void **state) {
  (void)state;
  fds_before = count_fds();
  assert_true(fds_before >= 0);
  return 0;
}

static inline int find_it_clean(void **state) {
  (void)state;
  assert_int_equal(count_fds(), fds_before);
  assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
  assert_int_equal(errno, ECHILD);
  return 0;
}

/* Starts body in a process that is no child of process_fork: a host of its own. */
static inline pid_t start_program(void (*body)(void)) {
  fflush(stdout);
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    body();
    _exit(0);
  }
  return pid;
}

/* Its wait status; one that does not end is killed, and that is a failure. */
static inline int wait_for_program(pid_t pid) {
  int64_t deadline = os_now_ns() + long_ns();
  int status;
  pid_t ended;
  while ((ended = waitpid(pid, &status, WNOHANG)) == 0 && os_now_ns() < deadline) poll(NULL, 0, 1);
  if (ended == 0) {
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    fail_msg("%s", "the program hangs");
  }
  assert_int_equal(ended, pid);
  return status;
}

#endif
