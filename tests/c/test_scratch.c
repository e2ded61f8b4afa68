/* The folder of an MPI job on this machine: removed by whoever is left, several at a time. */
#include "directory.h"

#include <stdbool.h>
#include <sys/stat.h>

#include "command/scratch.h"

enum { BELOW = 12, BELOW_THAT = 8, REMOVERS = 3, JOB = 4711 };

static char session[512]; /* the folder of all jobs of the user */

static void make(const char *format, ...) {
  char name[1024];
  va_list args;
  va_start(args, format);
  vsnprintf(name, sizeof name, format, args);
  va_end(args);
  assert_int_equal(mkdir(name, 0700), 0);
}

/* As Open MPI makes it: DIRECTORY/ompi.HOST.USER/pid.NUMBER, with folders in folders. */
static void make_job(void) {
  char host[256] = "";
  (void)gethostname(host, sizeof host - 1);
  host[strcspn(host, ".")] = '\0';
  snprintf(session, sizeof session, "%s/ompi.%s.%u", directory, host, (unsigned)geteuid());
  assert_int_equal(setenv("TMPDIR", directory, 1), 0);
  make("%s", session);
  make("%s/pid.%d", session, JOB);
  for (int i = 0; i < BELOW; i++) {
    make("%s/pid.%d/%d", session, JOB, i);
    for (int j = 0; j < BELOW_THAT; j++) make("%s/pid.%d/%d/%d", session, JOB, i, j);
  }
}

static bool is_there(void) {
  return access(session, F_OK) == 0;
}

static void test_removes_it_all(void **state) {
  (void)state;
  make_job();
  scratch_remove_of(JOB);
  assert_false(is_there());
}

static void test_leaves_other_jobs(void **state) {
  char other[600];
  (void)state;
  make_job();
  snprintf(other, sizeof other, "%s/pid.%d", session, JOB + 1);
  make("%s", other);
  scratch_remove_of(JOB);
  assert_int_equal(access(other, F_OK), 0);
  scratch_remove_of(JOB + 1);
  assert_false(is_there());
}

static void remover(void) {
  char name[600];
  scratch_remove_of(JOB);
  snprintf(name, sizeof name, "%s/pid.%d", session, JOB);
  _exit(access(name, F_OK) == 0 ? EXIT_FAILURE : EXIT_SUCCESS);
}

/* A walk that meets another ends early: the other may be killed then, so whoever returns has seen it gone. */
static void test_several_at_a_time(void **state) {
  (void)state;
  for (int round = 0; round < rounds_of(20); round++) {
    pid_t pids[REMOVERS];
    make_job();
    for (int i = 0; i < REMOVERS; i++) pids[i] = start_program(remover);
    for (int i = 0; i < REMOVERS; i++) assert_int_equal(wait_for_program(pids[i]), EXIT_SUCCESS);
    assert_false(is_there());
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown(test_removes_it_all, make_directory, remove_directory),
    cmocka_unit_test_setup_teardown(test_leaves_other_jobs, make_directory, remove_directory),
    cmocka_unit_test_setup_teardown(test_several_at_a_time, make_directory, remove_directory)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
