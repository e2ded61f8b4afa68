/* pool/output -- see output.h. */
#include "pool/output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cold.h"
#include "base/os.h"
#include "process/process.h"

#if defined(__linux__) || defined(__OpenBSD__)
#include <stdio_ext.h> /* __fpending; musl has it as well */
#endif

enum { READ_BYTES = 64 * 1024 };

/* ---- the host: opening and closing ---- */

COLD int output_open(struct output *o, enum output_kind kind) {
  memset(o, 0, sizeof *o);
  o->kind = kind;
  if (kind < OUTPUT_LINES) return 0;
  os_random(o->token, sizeof o->token);
  o->token[0] = 0; /* rare in text: a search for it is fast */
  o->buffer = os_allocate(OUTPUT_MARK_BYTES + READ_BYTES);
  return o->buffer ? 0 : -ENOMEM;
}

void output_close(struct output *o) {
  free(o->buffer);
  o->buffer = NULL;
  o->at = o->end = 0;
}

void output_init_pipes(struct output_pipes *p) {
  memset(p, 0, sizeof *p);
  p->read_fd[0] = p->read_fd[1] = -1;
}

COLD void output_close_pipes(struct output_pipes *p) {
  process_close_fd(&p->read_fd[0]);
  process_close_fd(&p->read_fd[1]);
  output_init_pipes(p);
}

void output_forget_pipes(struct output_pipes *p) {
  output_init_pipes(p);
}

void output_close_writers(int writers[2]) {
  if (writers[1] != writers[0]) process_close_fd(&writers[1]);
  if (writers[0] >= 0) process_close_fd(&writers[0]);
  writers[1] = -1;
}

static int open_nowhere(int writers[2]) {
  int status, fd = os_open("/dev/null", O_WRONLY);
  if (fd < 0) return fd;
  status = process_register_fd(fd);
  if (status < 0) {
    os_close(&fd);
    return status;
  }
  writers[0] = writers[1] = fd;
  return 0;
}

COLD int output_open_pipes(struct output *o, struct output_pipes *p, int writers[2]) {
  int i, status = 0;
  output_init_pipes(p);
  writers[0] = writers[1] = -1;
  if (o->kind == OUTPUT_DISCARD) return open_nowhere(writers);
  for (i = 0; i < 2 && status == 0 && o->kind >= OUTPUT_LINES; i++) {
    int fds[2];
    status = process_pipe(fds);
    if (status < 0) break;
    p->read_fd[i] = fds[0];
    writers[i] = fds[1];
    p->owes_end[i] = 1;
  }
  if (status < 0) {
    output_close_pipes(p);
    output_close_writers(writers);
  }
  return status;
}

/* ---- the host: is there something? ---- */

size_t output_add_polls(const struct output_pipes *p, struct pollfd *polls) {
  size_t n = 0;
  int i;
  for (i = 0; i < 2; i++)
    if (p->read_fd[i] >= 0) polls[n++] = (struct pollfd){p->read_fd[i], POLLIN, 0};
  return n;
}

static void check_stream(struct output_pipes *p, int i) {
  int unread = p->read_fd[i] < 0 ? 0 : os_unread(p->read_fd[i]);
  if (unread > 0 && (size_t)unread > p->due[i]) p->due[i] = (size_t)unread;
}

size_t output_take_polls(struct output_pipes *p, const struct pollfd *polls) {
  size_t n = 0;
  int i;
  for (i = 0; i < 2; i++) {
    short seen;
    if (p->read_fd[i] < 0) continue;
    seen = polls[n++].revents;
    if (!seen) continue;
    check_stream(p, i);
    /* Nobody can write any more, and all was read: look no longer, or every wait would end at once. */
    if (!(seen & POLLIN) && p->due[i] == 0) process_close_fd(&p->read_fd[i]);
  }
  return n;
}

void output_check(struct output_pipes *p) {
  check_stream(p, 0);
  check_stream(p, 1);
}

COLD void output_worker_is_dead(struct output_pipes *p) {
  p->is_dead = 1;
  output_check(p);
}

/* ---- the host: reading ---- */

/* At which item is the worker? 0: at none. */
static int look_at_item(struct board_slot *slot, uint32_t *claims, uint64_t *sequence, uint64_t *item) {
  *claims = atomic_load(&slot->claims);
  *sequence = atomic_load(&slot->entry);
  *item = atomic_load(&slot->item);
  return atomic_load(&slot->phase) == BOARD_OWNING && *claims == atomic_load(&slot->claims);
}

/*
 * Read once, noting in the slot how much was read in all: a worker that finds bytes gone from its pipe knows by it whether they are
 * gone or being read this moment (the lowest bit).
 */
static ssize_t read_counted(int fd, void *data, size_t size, _Atomic uint64_t *count) {
  uint64_t before = atomic_load_explicit(count, memory_order_relaxed);
  ssize_t got;
  atomic_store(count, before | 1);
  got = os_read(fd, data, size);
  atomic_store(count, before + (got > 0 ? (uint64_t)got * 2 : 0));
  return got;
}

/* Fill the buffer from stream i. */
static void read_stream(struct output *o, struct output_pipes *p, int i, struct board_slot *slot) {
  uint32_t claims[2];
  uint64_t sequence, item;
  ssize_t got = 0;
  int was_at = look_at_item(slot, &claims[0], &sequence, &item);
  o->at = o->shown = 0;
  o->end_shown = NULL;
  o->end = p->n_carry[i];
  memcpy(o->buffer, p->carry[i], p->n_carry[i]);
  p->n_carry[i] = 0;
  if (p->read_fd[i] >= 0) got = read_counted(p->read_fd[i], o->buffer + o->end, READ_BYTES, &slot->output_read[i]);
  if (got > 0) {
    o->end += (size_t)got;
    p->due[i] -= p->due[i] < (size_t)got ? p->due[i] : (size_t)got;
  } else {
    p->due[i] = 0;
    if (p->read_fd[i] >= 0 && got != -EAGAIN && got != -EWOULDBLOCK) process_close_fd(&p->read_fd[i]);
  }
  o->is_all = got < READ_BYTES;
  o->is_stable = o->is_all && was_at && look_at_item(slot, &claims[1], &o->sequence, &o->item) && claims[0] == claims[1] &&
                 sequence == o->sequence && item == o->item;
}

/* Where does a mark begin, or what may become one when more is read? `end` if nowhere. */
static size_t find_mark(const struct output *o) {
  size_t at = o->at;
  const unsigned char *found;
  while (at < o->end && (found = memchr(o->buffer + at, o->token[0], o->end - at)) != NULL) {
    size_t there, left;
    at = (size_t)(found - o->buffer);
    left = o->end - at;
    there = left < OUTPUT_TOKEN_BYTES ? left : OUTPUT_TOKEN_BYTES;
    if ((left >= OUTPUT_MARK_BYTES || !o->is_all) && memcmp(found, o->token, there) == 0) return at;
    at++;
  }
  return o->end;
}

/* Cut the next text off the buffer. 0: it was nothing. */
static int cut(struct output *o, struct output_pipes *p, struct output_text *text) {
  size_t mark = find_mark(o);
  memset(text, 0, sizeof *text);
  text->number = o->number;
  text->stream = o->stream;
  text->data = o->buffer + o->at;
  text->length = mark - o->at;
  if (o->end - mark >= OUTPUT_MARK_BYTES) {
    uint64_t whose[2];
    memcpy(whose, o->buffer + mark + OUTPUT_TOKEN_BYTES, sizeof whose);
    text->is_known = text->is_end = 1;
    text->sequence = whose[0];
    text->item = whose[1];
    o->shown = mark + OUTPUT_MARK_BYTES;
    return 1;
  }
  if (mark < o->end) {
    p->n_carry[o->stream] = o->end - mark;
    memcpy(p->carry[o->stream], o->buffer + mark, o->end - mark);
  }
  o->shown = o->end = mark;
  text->is_known = o->kind == OUTPUT_ITEMS && o->is_stable;
  text->sequence = o->sequence;
  text->item = o->item;
  return text->length > 0;
}

/* The worker is dead, and stream i was read: nothing comes from it any more. That is shown until it is done. */
static void show_end(struct output *o, struct output_pipes *p, int i, struct board_slot *slot, struct output_text *text) {
  uint32_t claims;
  memset(text, 0, sizeof *text);
  o->end_shown = &p->owes_end[i];
  text->number = o->number;
  text->stream = i;
  text->is_end = 1;
  text->is_known = o->kind == OUTPUT_ITEMS && look_at_item(slot, &claims, &text->sequence, &text->item);
  o->at = o->end = o->shown = 0;
}

int output_next(struct output *o, struct output_pipes *p, uint32_t number, struct board_slot *slot, struct output_text *text) {
  int i;
  if (output_is_showing(o) && o->number == number && cut(o, p, text)) return 1;
  o->number = number;
  for (i = 0; i < 2; i++) {
    o->stream = i;
    while (p->due[i] > 0 || p->n_carry[i] > 0) {
      read_stream(o, p, i, slot);
      if (output_is_showing(o) && cut(o, p, text)) return 1;
    }
    if (p->owes_end[i] && p->is_dead) {
      show_end(o, p, i, slot, text);
      return 1;
    }
  }
  return 0;
}

void output_done(struct output *o) {
  o->at = o->shown;
  if (o->end_shown) *o->end_shown = 0;
  o->end_shown = NULL;
}

/* ---- the worker ---- */

void output_begin(struct output_worker *w, const struct output *o, const int writers[2], struct board_slot *slot) {
  w->kind = o->kind;
  w->write_fd[0] = writers[0];
  w->write_fd[1] = writers[1];
  memcpy(w->token, o->token, sizeof w->token);
  w->slot = slot;
  w->marked[0] = w->marked[1] = 0;
}

/* Failures are not looked at: without a host nobody needs marks, and a pipe is good for nothing else. */
static void write_mark(const struct output_worker *w, int i, uint64_t sequence, uint64_t item) {
  unsigned char mark[OUTPUT_MARK_BYTES];
  uint64_t whose[2] = {sequence, item};
  memcpy(mark, w->token, sizeof w->token);
  memcpy(mark + OUTPUT_TOKEN_BYTES, whose, sizeof whose);
  (void)os_write(w->write_fd[i], mark, sizeof mark);
}

/* Is there text in the buffer that has not been written? */
static int is_pending(FILE *f) {
#if defined(__linux__) || defined(__OpenBSD__)
  return __fpending(f) > 0;
#elif defined(__APPLE__) || defined(__NetBSD__) || defined(__FreeBSD__)
  return f->_bf._base != NULL && f->_p > f->_bf._base; /* (untested) */
#else
  (void)f;
  return 0;
#endif
}

void output_flush(struct output_worker *w) {
  int is_unfinished = is_pending(stdout); /* whole lines have gone already */
  fflush(stdout);
  fflush(stderr); /* if a task gave it a buffer */
  if (is_unfinished && w->kind == OUTPUT_LINES) write_mark(w, 0, OUTPUT_NO_ITEM, OUTPUT_NO_ITEM);
}

/* How many bytes were ever written into pipe i? UINT64_MAX: cannot be told, the host is reading this moment. */
static uint64_t written(const struct output_worker *w, int i) {
#ifdef __linux__
  uint64_t before = atomic_load(&w->slot->output_read[i]);
  int unread = os_unread(w->write_fd[i]);
  if (unread >= 0 && !(before & 1) && atomic_load(&w->slot->output_read[i]) == before) return before / 2 + (uint64_t)unread;
#else
  (void)w;
  (void)i;
#endif
  return UINT64_MAX;
}

void output_mark(struct output_worker *w, uint64_t sequence, uint64_t item) {
  int i;
  if (w->kind != OUTPUT_ITEMS) return;
  output_flush(w);
  for (i = 0; i < 2; i++) {
    uint64_t now = written(w, i);
    if (now != UINT64_MAX && now == w->marked[i]) continue;
    write_mark(w, i, sequence, item);
    w->marked[i] = now == UINT64_MAX ? now : now + OUTPUT_MARK_BYTES;
  }
}
