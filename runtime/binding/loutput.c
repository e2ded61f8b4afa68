/* binding/loutput -- see loutput.h (may include binding/lpool.h). */
#include "binding/loutput.h"

#include <errno.h>
#include <lauxlib.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/os.h"
#include "binding/lpool.h"

enum { LONGEST_LINE_BYTES = 64 << 20, KEPT_BYTES = 64 * 1024 };

/* ---- writing ---- */

/* All of it; a descriptor that does not block (a terminal, by some other program's doing) is waited for. */
static void write_all(int fd, const unsigned char *data, size_t length) {
  while (length > 0) {
    ssize_t put = write(fd, data, length);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      struct pollfd room = {fd, POLLOUT, 0};
      if (os_poll(&room, 1, -1) < 0 && errno != EINTR) return;
      continue;
    }
    if (put < 0) return; /* print would not notice either */
    data += put;
    length -= (size_t)put;
  }
}

/*
 * What the host printed before comes before. Once a stream has failed it is left alone: what is flushed away behind the
 * script's back, its own writes would never notice.
 */
static void write_out(int stream, const unsigned char *data, size_t length) {
  FILE *file = stream == 1 ? stdout : stderr;
  if (length == 0) return;
  flockfile(file);
  if (!ferror(file)) fflush(file);
  write_all(fileno(file), data, length);
  funlockfile(file);
}

/* ---- lines ---- */

/* Bytes up to and with the last newline. */
static size_t whole_lines(const unsigned char *data, size_t length) {
  while (length > 0 && data[length - 1] != '\n') length--;
  return length;
}

/* Each line with the worker's number before it, the last one with a newline in any case. Without memory it goes out as it is. */
static void write_tagged(struct loutput *o, const struct pool_event *event, const unsigned char *data, size_t length) {
  char tag[16];
  size_t tag_length = (size_t)snprintf(tag, sizeof tag, "[%u] ", (unsigned)event->worker);
  const unsigned char *end = data + length, *next, *all = data;
  int status = 0;
  bytes_clear(&o->tagged);
  for (; data < end && status == 0; data = next) {
    const unsigned char *newline = memchr(data, '\n', (size_t)(end - data));
    next = newline ? newline + 1 : end;
    status = bytes_append(&o->tagged, tag, tag_length);
    if (status == 0) status = bytes_append(&o->tagged, data, (size_t)(next - data));
    if (status == 0 && !newline) status = bytes_append(&o->tagged, "\n", 1);
  }
  if (status == 0) {
    write_out(event->stream, o->tagged.data, o->tagged.length);
  } else {
    write_out(event->stream, all, length);
  }
  if (o->tagged.capacity > KEPT_BYTES) bytes_free(&o->tagged);
}

/* Whole lines (or what will never be one) on their way out. */
static void emit(struct loutput *o, const struct pool_event *event, const unsigned char *data, size_t length) {
  if (length == 0) return;
  if (o->mode == LOUTPUT_TAG) {
    write_tagged(o, event, data, length);
  } else {
    write_out(event->stream, data, length);
  }
}

static void drop_front(struct bytes *b, size_t length) {
  memmove(b->data, b->data + length, b->length - length);
  b->length -= length;
  if (b->length == 0 && b->capacity > KEPT_BYTES) bytes_free(b);
}

/* Text that continues what waits. */
static void add_text(struct loutput *o, struct bytes *waiting, const struct pool_event *event) {
  const unsigned char *data = event->data;
  size_t length = event->length, whole = event->is_end ? length : whole_lines(data, length);
  if (whole > 0 || waiting->length > LONGEST_LINE_BYTES) {
    if (waiting->length == 0) {
      emit(o, event, data, whole);
      data += whole;
      length -= whole;
    } else if (bytes_append(waiting, data, whole) == 0) {
      emit(o, event, waiting->data, waiting->length);
      drop_front(waiting, waiting->length);
      data += whole;
      length -= whole;
    }
  } else if (event->is_end) {
    emit(o, event, waiting->data, waiting->length);
    drop_front(waiting, waiting->length);
  }
  if (bytes_append(waiting, data, length) == 0) return;
  emit(o, event, waiting->data, waiting->length); /* no memory: as it comes */
  bytes_free(waiting);
  emit(o, event, data, length);
}

/* Room for as many workers as there may be by now. 0 or -ENOMEM. */
static int have_room(struct loutput *o, uint32_t n_workers) {
  struct bytes(*list)[2];
  uint32_t i;
  if (n_workers <= o->n_workers) return 0;
  list = realloc(o->waiting, n_workers * sizeof *list);
  if (list == NULL) return -ENOMEM;
  for (i = o->n_workers; i < n_workers; i++) {
    bytes_init(&list[i][0]);
    bytes_init(&list[i][1]);
  }
  o->waiting = list;
  o->n_workers = n_workers;
  return 0;
}

/* ---- the caller's view ---- */

void loutput_open(struct loutput *o, lua_State *L, int options) {
  static const char *const modes[] = {"line", "tag", "discard", NULL};
  memset(o, 0, sizeof *o);
  lua_getfield(L, options, "output");
  o->mode = (enum loutput_mode)luaL_checkoption(L, -1, "line", modes);
  lua_pop(L, 1);
}

enum output_kind loutput_kind(const struct loutput *o) {
  return o->mode == LOUTPUT_DISCARD ? OUTPUT_DISCARD : OUTPUT_LINES;
}

void loutput_take(struct lpool *lp, lua_State *L, const struct pool_event *event) {
  struct loutput *o = &lp->output;
  (void)L;
  if (have_room(o, event->worker) < 0) {
    emit(o, event, event->data, event->length);
  } else {
    add_text(o, &o->waiting[event->worker - 1][event->stream - 1], event);
  }
  (void)pool_done(lp->pool, event, 0);
}

void loutput_settle(struct lpool *lp, lua_State *L) {
  struct loutput *o = &lp->output;
  struct pool_event event;
  uint32_t i;
  (void)L;
  memset(&event, 0, sizeof event);
  event.is_end = 1;
  for (i = 0; i < o->n_workers; i++) {
    event.worker = i + 1;
    for (event.stream = 1; event.stream <= 2; event.stream++) {
      struct bytes *waiting = &o->waiting[i][event.stream - 1];
      /* Half a line of an item that runs for another call is not over yet. */
      if (waiting->length > 0 && !pool_is_running(lp->pool, i)) add_text(o, waiting, &event);
    }
  }
}

void loutput_close(struct loutput *o) {
  uint32_t i;
  for (i = 0; i < o->n_workers; i++) {
    bytes_free(&o->waiting[i][0]);
    bytes_free(&o->waiting[i][1]);
  }
  free(o->waiting);
  o->waiting = NULL;
  o->n_workers = 0;
  bytes_free(&o->tagged);
}
