/*
 * The pipes of tasks' output, both ends in one process: what is written comes out, in order, with the item that wrote it.
 */
#include "unit.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/fault.h"
#include "pool/output.h"

enum { ITEMS = 64, CHUNK = 64 * 1024 };

static struct board *board;
static struct board_slot *slot;
static struct output out;
static struct output_pipes pipes;
static struct output_worker worker;
static int writers[2];

/* What came, by stream: text with known items (of entry 5), text with none, ends that were shown. */
static struct {
  struct bytes of_item[2][ITEMS], of_nobody[2];
  int ends[2];
} seen;

static void open_all(enum output_kind kind) {
  assert_int_equal(board_open(&board, 1, CHANNEL_MIN_BYTES), 0);
  slot = &board->slots[0];
  board_reset_slot(board, 0);
  assert_int_equal(output_open(&out, kind), 0);
  assert_int_equal(output_open_pipes(&out, &pipes, writers), 0);
  output_begin(&worker, &out, writers, slot);
  memset(&seen, 0, sizeof seen);
}

static void close_all(void) {
  int i, k;
  output_close_writers(writers);
  output_close_writers(writers);
  output_close_pipes(&pipes);
  output_close_pipes(&pipes);
  output_close(&out);
  output_close(&out);
  board_close(board);
  for (i = 0; i < 2; i++) {
    bytes_free(&seen.of_nobody[i]);
    for (k = 0; k < ITEMS; k++) bytes_free(&seen.of_item[i][k]);
  }
}

static void say_bytes(int stream, const void *text, size_t length) {
  assert_int_equal(os_write(writers[stream], text, length), 0);
}

static void say(int stream, const char *text) {
  say_bytes(stream, text, strlen(text));
}

/* As worker.c does around an item. */
static void begin(uint64_t item) {
  atomic_store(&slot->entry, 5);
  atomic_store(&slot->item, item);
  atomic_store(&slot->phase, BOARD_OWNING);
}

static void end(void) {
  output_mark(&worker, 5, atomic_load(&slot->item));
}

/* Text that is not known yet waits for what comes behind it. */
static void take(const struct output_text *text) {
  static struct bytes waiting[2];
  struct bytes *w = &waiting[text->stream], *to;
  assert_int_equal(bytes_append(w, text->data, text->length), 0);
  if (text->is_end && text->length == 0 && !text->is_known) seen.ends[text->stream]++;
  if (!text->is_known && !text->is_end) return;
  to = text->is_known && text->item != OUTPUT_NO_ITEM ? &seen.of_item[text->stream][text->item] : &seen.of_nobody[text->stream];
  if (text->is_known && text->item != OUTPUT_NO_ITEM) assert_int_equal(text->sequence, 5);
  assert_int_equal(bytes_append(to, w->data, w->length), 0);
  bytes_free(w);
}

static int take_one(void) {
  struct output_text text, again;
  if (!output_next(&out, &pipes, 0, slot, &text)) return 0;
  /* Who leaves without being done finds it there again. */
  assert_int_equal(output_next(&out, &pipes, 0, slot, &again), 1);
  assert_ptr_equal(text.data, again.data);
  assert_int_equal(text.length, again.length);
  assert_int_equal(text.is_end, again.is_end);
  take(&text);
  output_done(&out);
  return 1;
}

static void take_all(void) {
  output_check(&pipes);
  while (take_one()) continue;
}

static void assert_text(const struct bytes *b, const char *text) {
  assert_int_equal(b->length, strlen(text));
  if (b->length) assert_memory_equal(b->data, text, b->length);
}

/* ---- who said what ---- */

static void test_marks_say_who_said_what(void **state) {
  (void)state;
  open_all(OUTPUT_ITEMS);
  begin(1);
  say(0, "one\nhalf");
  say(1, "complaint");
  end();
  begin(2);
  end();
  begin(3);
  say(0, "three\n");
  end();
  output_mark(&worker, OUTPUT_NO_ITEM, OUTPUT_NO_ITEM);
  say(1, "nobody");
  output_mark(&worker, OUTPUT_NO_ITEM, OUTPUT_NO_ITEM);
  take_all();
  assert_text(&seen.of_item[0][1], "one\nhalf");
  assert_text(&seen.of_item[1][1], "complaint");
  assert_text(&seen.of_item[0][3], "three\n");
  assert_text(&seen.of_nobody[1], "nobody");
  close_all();
}

static void test_an_item_that_says_nothing_costs_no_mark(void **state) {
  uint64_t item;
  (void)state;
  open_all(OUTPUT_ITEMS);
  for (item = 0; item < 10; item++) {
    begin(item);
    end();
  }
  assert_int_equal(os_unread(writers[0]), 0);
  assert_int_equal(os_unread(writers[1]), 0);
  begin(1);
  say(0, "x");
  end();
  assert_int_equal(os_unread(writers[0]), 1 + OUTPUT_MARK_BYTES);
  begin(2);
  end();
  assert_int_equal(os_unread(writers[0]), 1 + OUTPUT_MARK_BYTES);
  take_all(); /* that the host has read it changes nothing */
  begin(3);
  end();
  assert_int_equal(os_unread(writers[0]), 0);
  close_all();
}

static void test_text_of_an_item_that_runs(void **state) {
  (void)state;
  open_all(OUTPUT_ITEMS);
  begin(7);
  say(0, "so far");
  take_all();
  assert_text(&seen.of_item[0][7], "so far");
  say(0, ", and on");
  end();
  take_all();
  assert_text(&seen.of_item[0][7], "so far, and on");
  close_all();
}

static void test_text_of_nobody_waits_for_a_mark(void **state) {
  struct output_text text;
  (void)state;
  open_all(OUTPUT_ITEMS);
  atomic_store(&slot->phase, BOARD_IDLE);
  say(0, "idle");
  output_check(&pipes);
  assert_int_equal(output_next(&out, &pipes, 0, slot, &text), 1);
  assert_false(text.is_known);
  assert_false(text.is_end);
  take(&text);
  output_done(&out);
  output_mark(&worker, OUTPUT_NO_ITEM, OUTPUT_NO_ITEM);
  take_all();
  assert_text(&seen.of_nobody[0], "idle");
  close_all();
}

/* ---- marks between reads ---- */

/* A pipe that holds more than one read takes; 0: the system does not let us. */
static int widen(void) {
#ifdef F_SETPIPE_SZ
  return fcntl(writers[0], F_SETPIPE_SZ, 4 * CHUNK) >= 4 * CHUNK;
#else
  return 0;
#endif
}

static void test_a_mark_cut_in_two_by_a_read(void **state) {
  static char text[CHUNK];
  int cut;
  (void)state;
  memset(text, 'a', sizeof text);
  for (cut = 0; cut <= OUTPUT_MARK_BYTES; cut++) {
    open_all(OUTPUT_ITEMS);
    if (!widen()) {
      close_all();
      skip();
    }
    begin(1);
    say_bytes(0, text, (size_t)(CHUNK - cut));
    end();
    begin(2);
    say(0, "behind");
    end();
    take_all();
    assert_int_equal(seen.of_item[0][1].length, CHUNK - cut);
    assert_memory_equal(seen.of_item[0][1].data, text, (size_t)(CHUNK - cut));
    assert_text(&seen.of_item[0][2], "behind");
    close_all();
  }
}

/* What looks like the beginning of a mark and is none is text, and does not wait for what never comes. */
static void test_text_that_begins_like_a_mark(void **state) {
  size_t length;
  (void)state;
  for (length = 1; length <= OUTPUT_TOKEN_BYTES; length++) {
    open_all(OUTPUT_ITEMS);
    begin(1);
    say_bytes(0, worker.token, length);
    take_all();
    assert_int_equal(seen.of_item[0][1].length, length);
    say_bytes(0, worker.token, length - 1);
    say(0, "x");
    end();
    take_all();
    assert_int_equal(seen.of_item[0][1].length, 2 * length);
    close_all();
  }
}

/* The same at the end of a read that was full: its rest may still be in the pipe, or not. */
static void test_the_beginning_of_a_mark_at_the_end_of_a_read(void **state) {
  static char text[CHUNK];
  (void)state;
  open_all(OUTPUT_ITEMS);
  begin(1);
  memset(text, 'a', sizeof text);
  memcpy(text + CHUNK - 5, worker.token, 5);
  say_bytes(0, text, CHUNK);
  take_all();
  assert_int_equal(seen.of_item[0][1].length, CHUNK);
  assert_memory_equal(seen.of_item[0][1].data, text, CHUNK);
  close_all();
}

static void test_random_talk(void **state) {
  uint64_t seed = 11;
  int round;
  (void)state;
  for (round = 0; round < rounds_of(40); round++) {
    struct bytes expected[2][ITEMS];
    uint64_t item;
    int i;
    memset(expected, 0, sizeof expected);
    open_all(OUTPUT_ITEMS);
    for (item = 0; item < ITEMS; item++) {
      int pieces = (int)random_below(&seed, 4);
      begin(item);
      while (pieces-- > 0) {
        unsigned char text[1000];
        size_t length = 1 + random_below(&seed, sizeof text), k;
        for (k = 0; k < length; k++) text[k] = (unsigned char)random_below(&seed, 3);
        i = (int)random_below(&seed, 2);
        say_bytes(i, text, length);
        assert_int_equal(bytes_append(&expected[i][item], text, length), 0);
        if (random_below(&seed, 4) == 0) output_check(&pipes);
        if (random_below(&seed, 4) == 0) (void)take_one();
      }
      end();
      if (random_below(&seed, 3) == 0 || os_unread(writers[0]) > CHUNK / 2 || os_unread(writers[1]) > CHUNK / 2) take_all();
    }
    take_all();
    for (item = 0; item < ITEMS; item++) {
      for (i = 0; i < 2; i++) {
        assert_int_equal(seen.of_item[i][item].length, expected[i][item].length);
        if (expected[i][item].length > 0)
          assert_memory_equal(seen.of_item[i][item].data, expected[i][item].data, expected[i][item].length);
        bytes_free(&expected[i][item]);
      }
    }
    close_all();
  }
}

/* ---- ends ---- */

static void test_a_dead_worker_leaves_its_text_and_an_end(void **state) {
  struct output_text text;
  (void)state;
  open_all(OUTPUT_LINES);
  say(0, "last words");
  output_worker_is_dead(&pipes);
  say(0, "of a program that lives on"); /* nobody waits for it, but it may be there */
  assert_int_equal(output_next(&out, &pipes, 0, slot, &text), 1);
  assert_int_equal(text.stream, 0);
  assert_false(text.is_end);
  take(&text);
  output_done(&out);
  while (take_one()) continue;
  assert_int_equal(seen.ends[0], 1);
  assert_int_equal(seen.ends[1], 1);
  assert_int_equal(output_next(&out, &pipes, 0, slot, &text), 0);
  close_all();
}

/* A pipe that nobody can write to any more: the host looks no longer; that the worker is dead is for others to find out. */
static void test_end_of_file(void **state) {
  struct pollfd polls[2];
  (void)state;
  open_all(OUTPUT_LINES);
  say(1, "x");
  assert_int_equal(output_add_polls(&pipes, polls), 2);
  output_close_writers(writers);
  assert_int_equal(poll(polls, 2, 0), 2);
  assert_int_equal(output_take_polls(&pipes, polls), 2);
  while (take_one()) continue;
  assert_int_equal(output_add_polls(&pipes, polls), 1);
  assert_int_equal(poll(polls, 1, 0), 1);
  assert_int_equal(output_take_polls(&pipes, polls), 1);
  assert_int_equal(take_one(), 0);
  output_worker_is_dead(&pipes);
  while (take_one()) continue;
  assert_int_equal(seen.ends[0], 1);
  assert_int_equal(seen.ends[1], 1);
  assert_int_equal(output_add_polls(&pipes, polls), 0);
  close_all();
}

/* ---- kinds ---- */

static void test_an_unfinished_line_is_marked(void **state) {
  struct output_text text;
  int own = dup(STDOUT_FILENO);
  (void)state;
  open_all(OUTPUT_LINES);
  fflush(stdout);
  assert_true(dup2(writers[0], STDOUT_FILENO) >= 0);
  assert_int_equal(fwrite("half", 1, 4, stdout), 4);
  output_flush(&worker);
  assert_true(dup2(own, STDOUT_FILENO) >= 0);
  close(own);
  output_check(&pipes);
  assert_int_equal(output_next(&out, &pipes, 0, slot, &text), 1);
  assert_int_equal(text.length, 4);
#ifdef __linux__
  assert_true(text.is_end);
#endif
  output_done(&out);
  output_mark(&worker, 5, 1); /* nobody asks for items */
  assert_int_equal(os_unread(writers[0]), 0);
  close_all();
}

static void test_discard_has_no_pipes(void **state) {
  struct pollfd polls[2];
  struct output_text text;
  (void)state;
  open_all(OUTPUT_DISCARD);
  assert_true(writers[0] >= 0);
  say(0, "nobody hears it");
  say(1, "nobody hears it");
  output_check(&pipes);
  assert_int_equal(output_add_polls(&pipes, polls), 0);
  assert_int_equal(output_next(&out, &pipes, 0, slot, &text), 0);
  output_worker_is_dead(&pipes);
  assert_int_equal(output_next(&out, &pipes, 0, slot, &text), 0);
  close_all();
  open_all(OUTPUT_INHERIT);
  assert_int_equal(writers[0], -1);
  assert_int_equal(writers[1], -1);
  close_all();
}

static void test_no_descriptors(void **state) {
  static const char *const rules[] = {"pipe#1:EMFILE", "pipe#2:EMFILE"};
  size_t i;
  (void)state;
  for (i = 0; i < sizeof rules / sizeof *rules; i++) {
    assert_int_equal(output_open(&out, OUTPUT_LINES), 0);
    setenv("LUAPOOL_FAIL", rules[i], 1);
    fault_reload();
    assert_int_equal(output_open_pipes(&out, &pipes, writers), -EMFILE);
    unsetenv("LUAPOOL_FAIL");
    fault_reload();
    assert_int_equal(writers[0], -1);
    assert_int_equal(writers[1], -1);
    assert_int_equal(pipes.read_fd[0], -1);
    output_close(&out);
  }
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, note_the_house, find_it_clean)

int main(void) {
  const struct CMUnitTest tests[] = {
    TEST(marks_say_who_said_what), TEST(an_item_that_says_nothing_costs_no_mark), TEST(text_of_an_item_that_runs),
    TEST(text_of_nobody_waits_for_a_mark), TEST(a_mark_cut_in_two_by_a_read), TEST(text_that_begins_like_a_mark),
    TEST(the_beginning_of_a_mark_at_the_end_of_a_read), TEST(random_talk), TEST(a_dead_worker_leaves_its_text_and_an_end),
    TEST(end_of_file), TEST(an_unfinished_line_is_marked), TEST(discard_has_no_pipes), TEST(no_descriptors)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
