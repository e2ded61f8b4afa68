/*
 * The file of a log: lines and checksums, a file cut at every byte, writes and syncs that fail at every call, locks, and forked copies.
 */
#include "directory.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "pool/journal.h"
#include "process/process.h"

static void fail_at(const char *rules) {
  setenv("LUAPOOL_FAIL", rules, 1);
  fault_reload();
}

static void open_it(struct journal *j) {
  assert_int_equal(journal_open(j, path), 0);
  assert_true(j->has_lock);
}

static void add(struct journal *j, const char *text) {
  assert_int_equal(journal_add(j, text, strlen(text)), 0);
}

static size_t read_file(char *text, size_t size) {
  int fd = open(path, O_RDONLY);
  ssize_t got;
  assert_true(fd >= 0);
  got = read(fd, text, size);
  assert_true(got >= 0);
  close(fd);
  return (size_t)got;
}

static void write_file(const char *text, size_t length) {
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  assert_true(fd >= 0);
  assert_int_equal(write(fd, text, length), (ssize_t)length);
  close(fd);
}

/* What a journal holds: the whole lines' first `size` bytes without checksums, joined; *end is where they end. */
static int read_lines(struct journal *j, char *text, size_t size, uint64_t *end) {
  uint64_t offset = 0;
  const char *line;
  size_t length, used = 0;
  int is_whole, status, n = 0;
  while ((status = journal_next(j, &offset, &line, &length, &is_whole)) == 1) {
    assert_true(is_whole);
    assert_true(used + length < size);
    length -= 16;
    memcpy(text + used, line, length);
    used += length;
    n++;
  }
  assert_int_equal(status, 0);
  text[used] = '\0';
  *end = offset;
  return n;
}

static void test_a_line_has_its_checksum(void **state) {
  struct journal j;
  char text[256];
  size_t length;
  (void)state;
  open_it(&j);
  assert_int_equal(journal_cut(&j, 0), 0);
  add(&j, "{\"i\":1}");
  assert_int_equal(journal_size(&j), 0);
  assert_int_equal(journal_flush(&j), 0);
  length = read_file(text, sizeof text);
  text[length] = '\0';
  assert_string_equal(text, "{\"i\":1,\"c\":\"62b6d481\"}\n"); /* zlib.crc32 of {"i":1 */
  assert_int_equal(journal_close(&j), 0);
  assert_int_equal(journal_close(&j), 0);
}

static void test_reads_what_it_wrote(void **state) {
  enum { LINES = 3000 };
  struct journal j;
  static char text[200000];
  char line[400], *at;
  uint64_t end;
  (void)state;
  open_it(&j);
  assert_int_equal(journal_cut(&j, 0), 0);
  for (int i = 0; i < LINES; i++) {
    snprintf(line, sizeof line, "{\"%d\":%0*d}", i, i % 7 == 0 ? 30 : 1, i);
    add(&j, line);
    if (i % 100 == 0) assert_int_equal(journal_flush(&j), 0);
  }
  assert_int_equal(journal_close(&j), 0);
  open_it(&j);
  assert_int_equal(read_lines(&j, text, sizeof text, &end), LINES);
  assert_int_equal(end, journal_size(&j));
  at = text;
  for (int i = 0; i < LINES; i++) {
    int length = snprintf(line, sizeof line, "{\"%d\":%0*d", i, i % 7 == 0 ? 30 : 1, i);
    assert_memory_equal(at, line, (size_t)length);
    at += length;
  }
  journal_abandon(&j);
}

/* A line longer than any piece that is read, between short ones; read again out of order. */
static void test_long_lines(void **state) {
  enum { LONG = 300000 };
  struct journal j;
  char *text = malloc(LONG + 3);
  const char *line;
  uint64_t offset = 0, second;
  size_t length;
  int is_whole;
  (void)state;
  memset(text, 'x', LONG + 2);
  text[0] = '{';
  text[LONG + 1] = '}';
  text[LONG + 2] = '\0';
  open_it(&j);
  assert_int_equal(journal_cut(&j, 0), 0);
  add(&j, "{1}");
  add(&j, text);
  add(&j, "{3}");
  assert_int_equal(journal_flush(&j), 0);
  assert_int_equal(journal_next(&j, &offset, &line, &length, &is_whole), 1);
  second = offset;
  assert_int_equal(journal_next(&j, &offset, &line, &length, &is_whole), 1);
  assert_int_equal(length, LONG + 17);
  assert_true(is_whole);
  assert_memory_equal(line, text, LONG);
  assert_int_equal(journal_next(&j, &offset, &line, &length, &is_whole), 1);
  assert_memory_equal(line, "{3", 2);
  assert_int_equal(journal_next(&j, &offset, &line, &length, &is_whole), 0);
  add(&j, "{4}"); /* what is written later is seen */
  assert_int_equal(journal_flush(&j), 0);
  assert_int_equal(journal_next(&j, &offset, &line, &length, &is_whole), 1);
  assert_memory_equal(line, "{4", 2);
  offset = second;
  assert_int_equal(journal_next(&j, &offset, &line, &length, &is_whole), 1);
  assert_int_equal(length, LONG + 17);
  offset = 0;
  assert_int_equal(journal_next(&j, &offset, &line, &length, &is_whole), 1);
  assert_memory_equal(line, "{1", 2);
  journal_abandon(&j);
  free(text);
}

/* Cut at every byte: whole lines are read, the rest is cut off, and what is added then stands behind whole lines. */
static void test_cut_at_every_byte(void **state) {
  struct journal j;
  char all[512], seen[512];
  size_t length;
  uint64_t end;
  (void)state;
  open_it(&j);
  assert_int_equal(journal_cut(&j, 0), 0);
  add(&j, "{\"a\":1}");
  add(&j, "{\"b\":\"two\"}");
  add(&j, "{\"c\":3}");
  assert_int_equal(journal_close(&j), 0);
  length = read_file(all, sizeof all);
  for (size_t cut = 0; cut <= length; cut++) {
    int whole = 0, n;
    for (size_t i = 0; i < cut; i++) whole += all[i] == '\n';
    write_file(all, cut);
    open_it(&j);
    n = read_lines(&j, seen, sizeof seen, &end);
    assert_int_equal(n, whole);
    assert_int_equal(journal_cut(&j, end), 0);
    add(&j, "{\"n\":4}");
    assert_int_equal(journal_close(&j), 0);
    open_it(&j);
    assert_int_equal(read_lines(&j, seen, sizeof seen, &end), whole + 1);
    assert_int_equal(end, journal_size(&j));
    assert_string_equal(seen + strlen(seen) - 6, "{\"n\":4");
    journal_abandon(&j);
  }
}

/* Any byte of a line that is changed is noticed. */
static void test_damage_at_every_byte(void **state) {
  struct journal j;
  char all[256];
  size_t length;
  (void)state;
  open_it(&j);
  assert_int_equal(journal_cut(&j, 0), 0);
  add(&j, "{\"i\":1,\"r\":12345}");
  assert_int_equal(journal_close(&j), 0);
  length = read_file(all, sizeof all);
  for (size_t i = 0; i + 1 < length; i++) {
    uint64_t offset = 0;
    const char *line;
    size_t line_length;
    int is_whole;
    all[i] ^= 1;
    write_file(all, length);
    all[i] ^= 1;
    open_it(&j);
    assert_int_equal(journal_next(&j, &offset, &line, &line_length, &is_whole), 1);
    assert_false(is_whole);
    journal_abandon(&j);
  }
}

/* Calls fail one after the other, until nothing fails any more. Every line that was added is in the file once then, whole and in order. */
static void test_failures_lose_nothing(void **state) {
  static const char *const calls[] = {"write", "sync"};
  struct journal j;
  char rule[64], seen[512];
  uint64_t end;
  (void)state;
  for (size_t which = 0; which < sizeof calls / sizeof *calls; which++) {
    for (int k = 1; k <= 5; k++) {
      int n_failed = 0;
      open_it(&j);
      assert_int_equal(journal_cut(&j, 0), 0);
      snprintf(rule, sizeof rule, "%s#%d:ENOSPC", calls[which], k);
      fail_at(rule);
      add(&j, "{1}");
      n_failed += journal_sync(&j) == -ENOSPC;
      add(&j, "{2}");
      n_failed += journal_flush(&j) == -ENOSPC;
      add(&j, "{3}");
      n_failed += journal_sync(&j) == -ENOSPC;
      n_failed += journal_sync(&j) == -ENOSPC;
      assert_int_equal(n_failed, k <= (which == 0 ? 3 : 2));
      fail_at("");
      assert_int_equal(journal_close(&j), 0);
      open_it(&j);
      assert_int_equal(read_lines(&j, seen, sizeof seen, &end), 3);
      assert_string_equal(seen, "{1{2{3");
      assert_int_equal(end, journal_size(&j));
      journal_abandon(&j);
    }
  }
}

/* After a sync that failed the same bytes are written again before the next: its success would prove nothing otherwise. */
static void test_a_failed_sync_writes_again(void **state) {
  struct journal j;
  char text[64];
  (void)state;
  open_it(&j);
  assert_int_equal(journal_cut(&j, 0), 0);
  fail_at("sync#1:EIO");
  add(&j, "{1}");
  assert_int_equal(journal_sync(&j), -EIO);
  write_file("                   ", 19); /* what the kernel dropped */
  assert_int_equal(journal_sync(&j), 0);
  assert_int_equal(read_file(text, sizeof text), 19);
  assert_memory_equal(text, "{1,\"c\":", 7);
  assert_int_equal(journal_close(&j), 0);
}

static void test_refuses_what_is_no_regular_file(void **state) {
  struct journal j;
  (void)state;
  assert_int_equal(journal_open(&j, "/dev/null"), -ENOTSUP);
  assert_int_equal(journal_open(&j, directory), -EISDIR);
  assert_int_equal(mkfifo(path, 0600), 0);
  assert_int_equal(journal_open(&j, path), -ENOTSUP);
  assert_int_equal(unlink(path), 0);
  assert_int_equal(journal_open(&j, "/nowhere/at/all"), -ENOENT);
  assert_int_equal(journal_flush(&j), -EPERM);
  assert_int_equal(journal_add(&j, "{}", 2), -EPERM);
  open_it(&j); /* (so that there is something to remove) */
  journal_abandon(&j);
}

static void test_one_at_a_time(void **state) {
  struct journal first, second;
  (void)state;
  open_it(&first);
  assert_int_equal(journal_open(&second, path), -EAGAIN);
  assert_int_equal(journal_close(&first), 0);
  open_it(&second);
  journal_abandon(&second);
  fail_at("lock#0:ENOLCK");
  assert_int_equal(journal_open(&first, path), 0);
  assert_false(first.has_lock);
  journal_abandon(&first);
}

enum { ALL_IS_WELL = 42 };

/* In the worker: what it may not do, then wait for the host. */
static _Noreturn void worker(struct journal *j, int told[2]) {
  char byte;
  int is_right = journal_flush(j) == -EPERM && journal_sync(j) == -EPERM && journal_close(j) == 0;
  close(told[1]);
  (void)!read(told[0], &byte, 1);
  process_exit(is_right ? ALL_IS_WELL : 1);
}

/* A worker has no part in the lock, and writes nothing: not even what waited when it was forked. */
static void test_in_a_worker(void **state) {
  static _Atomic uint32_t command;
  struct process_child child = {.command = &command};
  struct process process;
  struct process_end end;
  struct journal j, other;
  char text[64];
  int started, told[2];
  (void)state;
  command = PROCESS_STARTING;
  assert_int_equal(pipe(told), 0);
  open_it(&j);
  assert_int_equal(journal_cut(&j, 0), 0);
  add(&j, "{1}");
  process_init(&process);
  started = process_fork(&process, &child);
  assert_true(started >= 0);
  if (started == 0) worker(&j, told);
  assert_int_equal(journal_close(&j), 0);
  open_it(&other);
  journal_abandon(&other);
  close(told[0]);
  close(told[1]);
  assert_int_equal(process_reap(&process, long_ns(), &end), 1);
  assert_int_equal(end.signal, 0);
  assert_int_equal(end.exit_code, ALL_IS_WELL);
  assert_int_equal(read_file(text, sizeof text), 19);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown(test_a_line_has_its_checksum, make_directory, remove_directory),
    cmocka_unit_test_setup_teardown(test_reads_what_it_wrote, make_directory, remove_directory),
    cmocka_unit_test_setup_teardown(test_long_lines, make_directory, remove_directory),
    cmocka_unit_test_setup_teardown(test_cut_at_every_byte, make_directory, remove_directory),
    cmocka_unit_test_setup_teardown(test_damage_at_every_byte, make_directory, remove_directory),
    cmocka_unit_test_setup_teardown(test_failures_lose_nothing, make_directory, remove_directory),
    cmocka_unit_test_setup_teardown(test_a_failed_sync_writes_again, make_directory, remove_directory),
    cmocka_unit_test_setup_teardown(test_refuses_what_is_no_regular_file, make_directory, remove_directory),
    cmocka_unit_test_setup_teardown(test_one_at_a_time, make_directory, remove_directory),
    cmocka_unit_test_setup_teardown(test_in_a_worker, make_directory, remove_directory)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
