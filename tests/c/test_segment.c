/* One object of shared memory: reserved when made, seen by children and by strangers that open its address, gone with its last user. */
#include "unit.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/share.h"
#include "memory/segment.h"

/* What a child has inherited is not lost when it leaves: valgrind shall find a pointer to it. */
static void *volatile kept[64];

static void *keep(void *memory) {
  static unsigned count;
  return kept[count++ % 64] = memory;
}

static struct segment *make(uint64_t bytes) {
  struct segment *s = NULL;
  assert_int_equal(segment_make(&s, 7, 8, 9, bytes), 0);
  return keep(s);
}

static int mappings(void) {
  char line[512];
  int count = 0;
  FILE *maps = fopen("/proc/self/maps", "r");
  /* Mappings that processes share, of files without a name. */
  while (maps != NULL && fgets(line, sizeof line, maps)) count += strstr(line, " rw-s ") != NULL && strstr(line, "(deleted)") != NULL;
  if (maps != NULL) fclose(maps);
  return count;
}

static void test_header_and_zeros(void **state) {
  struct segment *s = make(1000);
  struct stat now;
  (void)state;
  assert_int_equal(segment_header(s)->kind, 7);
  assert_int_equal(segment_header(s)->detail, 8);
  assert_int_equal(segment_header(s)->length, 9);
  assert_int_equal(segment_body_bytes(s), 1000);
  assert_int_equal((uintptr_t)segment_body(s) % 64, 0);
  for (int i = 0; i < 1000; i++) assert_int_equal(segment_body(s)[i], 0);
  assert_int_equal(fstat(s->fd, &now), 0);
  assert_true(now.st_blocks > 0 && now.st_nlink == 0);
  assert_int_equal(fcntl(s->fd, F_GETFD), FD_CLOEXEC);
  assert_int_equal(mappings(), 1);
  assert_int_equal(segment_drop(s), 1);
  assert_int_equal(mappings(), 0);
  assert_int_equal(segment_drop(NULL), 0);
}

static void test_references_are_counted(void **state) {
  struct segment *s = make(0);
  (void)state;
  assert_int_equal(segment_body_bytes(s), 0);
  segment_keep(s);
  assert_int_equal(segment_drop(s), 0);
  assert_int_equal(segment_header(s)->kind, 7);
  assert_int_equal(segment_drop(s), 1);
}

/* Everything is there when it is made: no page is missing later. */
static void test_all_of_it_is_reserved(void **state) {
  const uint64_t bytes = 8 << 20;
  struct segment *s = make(bytes);
  struct stat now;
  (void)state;
  assert_int_equal(fstat(s->fd, &now), 0);
  assert_true((uint64_t)now.st_blocks * 512 >= bytes);
  memset(segment_body(s), 1, bytes);
  segment_drop(s);
}

/* A process that was there before: it opens what a stranger tells it. */
static pid_t start_reader(int input[2]) {
  pid_t pid;
  assert_int_equal(pipe(input), 0);
  pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    struct segment_address address;
    struct segment *s;
    close(input[1]);
    if (read(input[0], &address, sizeof address) != (ssize_t)sizeof address) _exit(2);
    if (segment_open(&s, &address) != 0) _exit(3);
    if (segment_header(s)->kind != 7 || segment_body(s)[10] != 'x') _exit(4);
    segment_body(s)[11] = 'y';
    segment_drop(s);
    _exit(0);
  }
  close(input[0]);
  return pid;
}

static int status_of(pid_t pid) {
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void test_strangers_open_an_address(void **state) {
  struct segment_address address;
  struct segment *s;
  int input[2];
  pid_t pid = start_reader(input);
  (void)state;
  s = make(100);
  segment_body(s)[10] = 'x';
  segment_address(s, &address);
  address.maker_fd = 1000; /* who made it has given it up: the sender has it still */
  assert_int_equal(write(input[1], &address, sizeof address), sizeof address);
  assert_int_equal(status_of(pid), 0);
  assert_int_equal(segment_body(s)[11], 'y');
  close(input[1]);
  segment_drop(s);
}

static void test_stale_and_wrong_addresses(void **state) {
  struct segment_address address;
  struct segment *s = make(100), *other, *out = NULL;
  int fd, file;
  (void)state;
  segment_address(s, &address);
  fd = s->fd;
  segment_drop(s);
  assert_int_equal(segment_open(&out, &address), -ESTALE); /* nothing there */
  other = make(100);
  assert_int_equal(other->fd, fd);
  assert_int_equal(segment_open(&out, &address), -ESTALE); /* another file there */
  address.device = other->device; /* ... which may have got the number of the first */
  address.inode = other->inode;
  assert_int_equal(segment_open(&out, &address), -ESTALE);
  segment_drop(other);
  address.maker = address.sender = 0;
  assert_int_equal(segment_open(&out, &address), -ESTALE);
  file = os_memory_file("test"); /* no segment */
  assert_int_equal(os_memory_grow(file, 4096), 0);
  struct share_identity identity;
  assert_int_equal(share_identify(file, &identity), 0);
  address = (struct segment_address){identity.device, identity.inode, getpid(), file, -1, -1, 0};
  assert_int_equal(segment_open(&out, &address), -EBADMSG);
  os_close(&file);
  file = os_memory_file("test");
  assert_int_equal(share_identify(file, &identity), 0);
  address = (struct segment_address){identity.device, identity.inode, getpid(), file, -1, -1, 0};
  assert_int_equal(segment_open(&out, &address), -EBADMSG); /* too short */
  os_close(&file);
  assert_null(out);
}

/* A number that has come to mean a pipe is looked at without waiting for its other end. */
static void test_address_of_a_pipe(void **state) {
  struct segment_address address = {1, 2, getpid(), -1, -1, -1, 0};
  struct segment *out = NULL;
  int ends[2];
  (void)state;
  assert_int_equal(pipe(ends), 0);
  address.maker_fd = ends[0];
  assert_true(segment_open(&out, &address) < 0);
  close(ends[0]);
  close(ends[1]);
}

static void test_impossible_sizes(void **state) {
  struct segment *out = NULL;
  (void)state;
  assert_int_equal(segment_make(&out, 1, 1, 1, UINT64_MAX), -EFBIG);
  assert_int_equal(segment_make(&out, 1, 1, 1, INT64_MAX), -EFBIG);
#ifdef __linux__
  assert_int_equal(segment_make(&out, 1, 1, 1, UINT64_C(1) << 46), -ENOMEM);
#endif
  assert_null(out);
}

static void test_remap_after_growth(void **state) {
  struct segment *s = make(100);
  (void)state;
  segment_body(s)[50] = 3;
  assert_int_equal(segment_remap(s, 1 << 20), -EBADMSG); /* not that long yet */
  assert_int_equal(os_memory_grow(s->fd, 1 << 20), 0);
  assert_int_equal(segment_remap(s, 1 << 20), 0);
  assert_int_equal(segment_body(s)[50], 3);
  s->data[(1 << 20) - 1] = 1;
  segment_drop(s);
}

/* ---- sleeping, and locks that die with their owner ---- */

static void test_words(void **state) {
  _Atomic uint32_t *word;
  struct segment *s = make(64);
  int64_t start = os_now_ns();
  int status;
  pid_t pid;
  (void)state;
  word = (_Atomic uint32_t *)(void *)segment_body(s);
  assert_int_equal(share_wait(word, 1, long_ns()), 0); /* it is not 1 */
  assert_true(os_now_ns() - start < long_ns() / 2);
  status = share_wait(word, 0, 2 * MS);
  assert_true(status == -ETIMEDOUT || status == 0);
  assert_true(share_wait(word, 0, 0) <= 0);
  pid = fork();
  if (pid == 0) {
    atomic_store(word, 1);
    share_wake(word, 1);
    _exit(0);
  }
  while (atomic_load(word) == 0) assert_true(share_wait(word, 0, long_ns()) == 0);
  assert_int_equal(status_of(pid), 0);
  segment_drop(s);
}

static pid_t hold_in_a_child(struct segment *s, uint64_t byte) {
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    if (share_lock(s->fd, byte) != 0) _exit(1);
    segment_body(s)[0] = 1;
    for (;;) pause();
  }
  while (*(volatile unsigned char *)segment_body(s) == 0) os_poll(NULL, 0, MS);
  segment_body(s)[0] = 0;
  return pid;
}

static void test_locks_die_with_their_owner(void **state) {
  struct segment *s = make(64);
  pid_t pid = hold_in_a_child(s, 3);
  (void)state;
  assert_int_equal(share_lock(s->fd, 3), -EAGAIN);
  assert_int_equal(share_lock_holder(s->fd, 3), pid);
  assert_int_equal(share_lock(s->fd, 4), 0);
  assert_int_equal(share_lock_holder(s->fd, 4), 0); /* one's own is none */
  assert_int_equal(kill(pid, SIGKILL), 0);
  assert_int_equal(status_of(pid), -SIGKILL);
  assert_int_equal(share_lock(s->fd, 3), 0);
  assert_int_equal(share_unlock(s->fd, 3), 0);
  assert_int_equal(share_unlock(s->fd, 3), 0);
  assert_int_equal(share_lock(-1, 0), -EBADF);
  assert_int_equal(share_unlock(-1, 0), -EBADF);
  assert_int_equal(share_lock_holder(-1, 0), -EBADF);
  segment_drop(s);
}

/* What the host holds is not its children's. */
static void test_locks_are_not_inherited(void **state) {
  struct segment *s = make(64);
  pid_t pid;
  (void)state;
  assert_int_equal(share_lock(s->fd, 0), 0);
  pid = fork();
  if (pid == 0) _exit(share_lock(s->fd, 0) == -EAGAIN ? 0 : 1);
  assert_int_equal(status_of(pid), 0);
  segment_drop(s);
}

static void test_invisible_processes(void **state) {
  pid_t pid;
  (void)state;
#ifdef __linux__
  assert_true(share_is_visible());
  pid = fork();
  if (pid == 0) _exit(prctl(PR_SET_DUMPABLE, 0) == 0 && !share_is_visible() ? 0 : 1);
  assert_int_equal(status_of(pid), 0);
#else
  (void)pid;
#endif
}

#ifdef LUAPOOL_FAULTS
static void fail_by(const char *rule) {
  setenv("LUAPOOL_FAIL", rule, 1);
  fault_reload();
}

static void test_refusals_leave_nothing(void **state) {
  static const struct {
    const char *rule;
    int status;
  } cases[] = {{"memfd#1:EMFILE", -EMFILE}, {"memfd#1:ENFILE", -ENFILE}, {"truncate#1:ENOSPC", -ENOSPC},
               {"mmap#1:ENOMEM", -ENOMEM}, {"malloc#1:ENOMEM", -ENOMEM}};
  struct segment_address address;
  struct segment *out = NULL, *s;
  _Atomic uint32_t word = 0;
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    fail_by(cases[i].rule);
    assert_int_equal(segment_make(&out, 1, 1, 1, 100), cases[i].status);
  }
  fail_by("");
  s = make(10);
  segment_address(s, &address);
  fail_by("open#0:EMFILE");
  assert_int_equal(segment_open(&out, &address), -EMFILE);
  fail_by("mmap#1:ENOMEM");
  assert_int_equal(segment_open(&out, &address), -ENOMEM);
  fail_by("malloc#1:ENOMEM");
  assert_int_equal(segment_open(&out, &address), -ENOMEM);
  fail_by("futex#1:EINTR,lock#1:EACCES");
  assert_int_equal(share_wait(&word, 0, long_ns()), -EINTR);
  assert_int_equal(share_lock(s->fd, 0), -EACCES);
  fail_by("memfd#0:ENOSYS"); /* an old kernel: a file without a name in another way */
  segment_drop(s);
  s = make(100);
  segment_body(s)[99] = 1;
  segment_drop(s);
  fail_by("");
  unsetenv("LUAPOOL_FAIL");
  assert_null(out);
  assert_int_equal(mappings(), 0);
}
#endif

#define CASE(function) cmocka_unit_test_setup_teardown(function, note_the_house, find_it_clean)

int main(void) {
  const struct CMUnitTest tests[] = {
    CASE(test_header_and_zeros),
    CASE(test_references_are_counted),
    CASE(test_all_of_it_is_reserved),
    CASE(test_strangers_open_an_address),
    CASE(test_stale_and_wrong_addresses),
    CASE(test_address_of_a_pipe),
    CASE(test_impossible_sizes),
    CASE(test_remap_after_growth),
    CASE(test_words),
    CASE(test_locks_die_with_their_owner),
    CASE(test_locks_are_not_inherited),
    CASE(test_invisible_processes),
#ifdef LUAPOOL_FAULTS
    CASE(test_refusals_leave_nothing),
#endif
  };
  return cmocka_run_group_tests_name("segment", tests, NULL, NULL);
}
