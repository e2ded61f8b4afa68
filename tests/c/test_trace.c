/*
 * What is made of events: time in bins that lose nothing as they grow, nonsense that is counted and not believed; and the file that is
 * whole after every write, whatever fails, and is its owner's alone.
 */
#include "directory.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "pool/trace.h"
#include "process/process.h"

enum { TEXT_BYTES = 1 << 20 };

static char text[TEXT_BYTES + 1];

static void read_file(void) {
  int fd = open(path, O_RDONLY);
  ssize_t got;
  assert_true(fd >= 0);
  got = read(fd, text, TEXT_BYTES);
  assert_true(got >= 0);
  text[got] = '\0';
  close(fd);
}

/* As far as can be told without reading JSON: all is between brackets, one event a line, no comma too many. Returns how many events. */
static int check_whole(void) {
  int events = 0;
  char *line;
  size_t length;
  read_file();
  length = strlen(text);
  assert_true(length >= 4);
  assert_string_equal(text + length - 3, "\n]\n");
  assert_memory_equal(text, "[\n", 2);
  text[length - 3] = '\0';
  for (line = strtok(text + 1, "\n"); line != NULL; line = strtok(NULL, "\n")) {
    size_t end = strlen(line) - 1;
    if (line[end] == ',') end--;
    assert_int_equal(line[0], '{');
    assert_int_equal(line[end], '}');
    events++;
  }
  return events;
}

static struct event work(int64_t begin, int64_t length) {
  return (struct event){.kind = EVENT_WORK, .claims = 1, .begin_ns = begin, .length_ns = length, .busy_ns = length, .call = 1, .items = 1};
}

static int64_t sum_of(const struct trace *t, uint32_t track, enum trace_part part) {
  int64_t sum = 0;
  int i;
  for (i = 0; i < TRACE_BINS; i++) sum += t->tracks[track].bins[i][part];
  return sum;
}

/* However far time goes, what was spent stays what it was, but for a nanosecond for each piece of it. */
static void test_bins_lose_nothing(void **state) {
  struct trace t;
  struct event e;
  int64_t busy = 0, now = 0;
  int i;
  (void)state;
  trace_init(&t);
  t.began_ns -= 100000 * 1000 * MS; /* it has been kept for a day */
  for (i = 0; i < 2000; i++) {
    int64_t length = (i % 7) * 3 * MS + i;
    e = work(t.began_ns + now, length);
    e.encode_ns = length / 2;
    trace_event(&t, 2, &e, NULL);
    busy += length;
    now += length + i * 20 * MS;
  }
  assert_int_equal(t.lost, 0);
  assert_int_equal(t.n_tracks, 3);
  assert_true(t.bin_ns * TRACE_BINS > now);
  assert_true(t.bin_ns * TRACE_BINS < 3 * now);
  assert_true(sum_of(&t, 2, TRACE_BUSY) <= busy && sum_of(&t, 2, TRACE_BUSY) > busy - 10000);
  assert_true(sum_of(&t, 2, TRACE_ENCODE) <= busy / 2 && sum_of(&t, 2, TRACE_ENCODE) > busy / 2 - 10000);
  assert_int_equal(sum_of(&t, 1, TRACE_BUSY), 0);
  trace_free(&t);
}

static void test_time_lies_where_it_was(void **state) {
  struct trace t;
  struct event e;
  int i;
  (void)state;
  trace_init(&t);
  t.began_ns -= 1000 * MS;
  e = work(t.began_ns + 10 * t.bin_ns + t.bin_ns / 2, 5 * t.bin_ns);
  trace_event(&t, 1, &e, NULL);
  for (i = 0; i < TRACE_BINS; i++) {
    int64_t expected = i == 10 || i == 15 ? t.bin_ns / 2 : i > 10 && i < 15 ? t.bin_ns : 0;
    assert_true(llabs(t.tracks[1].bins[i][TRACE_BUSY] - expected) <= 1);
  }
  trace_free(&t);
}

/* A worker may have written anything. */
static void test_nonsense_is_counted(void **state) {
  struct trace t;
  struct event bad[7], e;
  int i;
  (void)state;
  trace_init(&t);
  t.began_ns -= 1000 * MS;
  for (i = 0; i < 7; i++) bad[i] = work(t.began_ns, 1000);
  bad[0].kind = 99;
  bad[1].kind = EVENT_NONE;
  bad[2].begin_ns = t.began_ns - 1;
  bad[3].begin_ns = INT64_MAX;
  bad[4].length_ns = -1;
  bad[5].length_ns = INT64_MAX;
  bad[6].begin_ns = INT64_MIN;
  for (i = 0; i < 7; i++) trace_event(&t, 1, &bad[i], NULL);
  assert_int_equal(t.lost, 7);
  assert_int_equal(t.events, 0);
  assert_int_equal(t.end_ns, 0);
  e = work(t.began_ns, 1000); /* more of something than there was time */
  e.busy_ns = INT64_MAX;
  e.idle_ns = INT64_MIN;
  e.encode_ns = e.room_ns = 5000;
  trace_event(&t, 1, &e, NULL);
  assert_int_equal(t.events, 1);
  assert_int_equal(sum_of(&t, 1, TRACE_BUSY), 1000);
  assert_int_equal(sum_of(&t, 1, TRACE_IDLE), 0);
  assert_int_equal(sum_of(&t, 1, TRACE_ENCODE), 1000);
  trace_free(&t);
}

static void test_marks_are_counted_and_the_first_kept(void **state) {
  struct trace t;
  int i;
  (void)state;
  trace_init(&t);
  for (i = 0; i < TRACE_MARKS + 50; i++) trace_mark(&t, 1, i % 2 ? MARK_RETRY : MARK_CRASHED, i);
  assert_int_equal(t.n_marks, TRACE_MARKS);
  assert_int_equal(t.marks[3].number, 3);
  assert_int_equal(t.counts[MARK_RETRY] + t.counts[MARK_CRASHED], TRACE_MARKS + 50);
  trace_free(&t);
}

/* Times of items are added up over all writers, now and when they are gone. */
static void test_items_outlive_their_writers(void **state) {
  struct events_sampler s = {0};
  struct events *all = NULL;
  struct event_slow slow[EVENTS_SLOWEST];
  uint64_t buckets[EVENTS_BUCKETS];
  struct trace t;
  uint64_t item;
  int turn, k;
  (void)state;
  trace_init(&t);
  for (turn = 1; turn <= 2; turn++) {
    assert_int_equal(events_open(&all, 3, t.began_ns), 0);
    trace_begin(&t, all, 3);
    for (k = 0; k < 2; k++) {
      (void)events_begin_items(&s, 0, 0);
      for (item = 0; item < 100; item++) {
        s.at_ns -= (int64_t)item * 1000 * MS;
        (void)events_look(&all[k], &s, (uint64_t)turn, item + 1, 0);
      }
    }
    assert_int_equal(trace_items(&t, buckets), 200 * turn);
    trace_end(&t);
    events_close(all, 3);
    assert_int_equal(trace_items(&t, buckets), 200 * turn);
  }
  assert_int_equal(trace_slowest(&t, slow), EVENTS_SLOWEST);
  for (k = 0; k < EVENTS_SLOWEST; k++) assert_int_equal(slow[k].first, 99 - k / 4); /* each twice in each of two turns */
  trace_free(&t);
}

/* ---- the file ---- */

static void test_it_is_whole_after_every_write(void **state) {
  struct tracefile f;
  struct event e;
  int i, events = 0;
  (void)state;
  assert_int_equal(tracefile_open(&f, path), 0);
  assert_int_equal(check_whole(), 0);
  tracefile_name(&f, 1, 0, "\"a \\\"name\\\"\"");
  tracefile_name(&f, 1, 2, "\"worker 1\"");
  for (i = 0; i < 3000; i++) {
    e = work(f.began_ns + i * 1000, 999);
    e.kind = (uint32_t)(i % 8 + 1);
    tracefile_stretch(&f, 1, 2, &e, i % 100 ? NULL : " (not finished)");
    tracefile_moment(&f, 1, 2, f.began_ns + i * 1000, "x", i % 2 ? NULL : "\"n\":1");
    tracefile_memory(&f, 1, 1, f.began_ns + i * 1000, (uint64_t)i << 20);
    if (i % 500 == 0) {
      int now = check_whole();
      assert_true(now >= events);
      events = now;
      tracefile_flush(&f, i % 1000 == 0 ? 0 : 1);
    }
  }
  assert_true(f.out.length <= 64 * 1024 + 4096);
  assert_int_equal(tracefile_close(&f), 0);
  assert_int_equal(tracefile_close(&f), 0);
  assert_int_equal(check_whole(), 3 + 3 * 3000);
}

#ifdef LUAPOOL_FAULTS
static void fail_at(const char *rules) {
  setenv("LUAPOOL_FAIL", rules, 1);
  fault_reload();
}

/* Whichever write fails: what was whole before stays so, and nothing is written any more. */
static void test_a_full_disk(void **state) {
  int k, i;
  (void)state;
  for (k = 3; k <= 6; k++) {
    struct tracefile f;
    char rules[64];
    int events;
    snprintf(rules, sizeof rules, "write#%d:ENOSPC", k);
    fail_at(rules);
    assert_int_equal(tracefile_open(&f, path), 0);
    for (i = 0; i < 100; i++) {
      tracefile_moment(&f, 1, 1, f.began_ns, "x", NULL);
      if (i % 10 == 9) tracefile_flush(&f, 0);
    }
    assert_int_equal(f.status, -ENOSPC);
    fail_at("");
    events = check_whole();
    assert_int_equal(events, (k - 3) * 10);
    tracefile_moment(&f, 1, 1, f.began_ns, "x", NULL);
    assert_int_equal(tracefile_close(&f), -ENOSPC);
    assert_int_equal(check_whole(), events);
  }
}

static void test_it_cannot_be_opened(void **state) {
  static const char *const rules[] = {"open#1:EACCES", "write#1:ENOSPC", "write#2:EIO", "truncate#1:EIO", "lock#1:EAGAIN"};
  struct tracefile f;
  size_t i;
  (void)state;
  for (i = 0; i < sizeof rules / sizeof *rules; i++) {
    fail_at(rules[i]);
    assert_true(tracefile_open(&f, path) < 0);
    assert_int_equal(f.fd, -1);
    tracefile_moment(&f, 1, 1, 0, "x", NULL);
    (void)tracefile_close(&f);
  }
  fail_at("lock#1:ENOLCK"); /* a file system without locks: nobody can tell */
  assert_int_equal(tracefile_open(&f, path), 0);
  assert_int_equal(tracefile_close(&f), 0);
}
#endif

static void test_no_regular_file(void **state) {
  struct tracefile f;
  (void)state;
  assert_int_equal(tracefile_open(&f, "/dev/null"), -ENOTSUP);
  assert_true(tracefile_open(&f, directory) < 0);
  assert_int_equal(mkfifo(path, 0600), 0);
  assert_int_equal(tracefile_open(&f, path), -ENOTSUP);
}

/* One at a time; a copy in another process writes nothing. */
static void test_it_is_its_owners_alone(void **state) {
  struct tracefile f, other;
  int status;
  pid_t pid;
  (void)state;
  assert_int_equal(tracefile_open(&f, path), 0);
  assert_int_equal(tracefile_open(&other, path), -EAGAIN);
  tracefile_moment(&f, 1, 1, f.began_ns, "x", NULL);
  pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    tracefile_moment(&f, 1, 1, f.began_ns, "y", NULL);
    tracefile_flush(&f, 0);
    (void)tracefile_close(&f);
    _exit(f.events == 1 ? 0 : 1);
  }
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
  assert_int_equal(check_whole(), 0);
  assert_int_equal(tracefile_close(&f), 0);
  assert_int_equal(check_whole(), 1);
  assert_int_equal(tracefile_open(&other, path), 0); /* made anew */
  assert_int_equal(check_whole(), 0);
  assert_int_equal(tracefile_close(&other), 0);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, make_directory, remove_directory)

int main(void) {
  const struct CMUnitTest tests[] = {
    CASE(test_bins_lose_nothing),
    CASE(test_time_lies_where_it_was),
    CASE(test_nonsense_is_counted),
    CASE(test_marks_are_counted_and_the_first_kept),
    CASE(test_items_outlive_their_writers),
    CASE(test_it_is_whole_after_every_write),
#ifdef LUAPOOL_FAULTS
    CASE(test_a_full_disk),
    CASE(test_it_cannot_be_opened),
#endif
    CASE(test_no_regular_file),
    CASE(test_it_is_its_owners_alone),
  };
  return cmocka_run_group_tests_name("trace", tests, NULL, NULL);
}
