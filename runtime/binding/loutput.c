/* binding/loutput -- see loutput.h (may include binding/lerror.h and binding/lpool.h). */
#include "binding/loutput.h"

#include <errno.h>
#include <lauxlib.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cold.h"
#include "base/os.h"
#include "binding/lerror.h"
#include "binding/lpool.h"
#include "job/delivery.h"

enum { LONGEST_LINE_BYTES = 64 << 20, KEPT_BYTES = 64 * 1024, OUT_BYTES = 64 * 1024 };

/* A piece of "order": whole lines of one item. */
struct piece {
  uint64_t item, number; /* number: as they came */
  int stream;
  size_t length;
  unsigned char *text;
};

/* What has to wait of one call: a heap, the piece that is next at its top. */
struct loutput_call {
  uint64_t call;
  struct piece *heap;
  size_t count, capacity;
  struct loutput_call *next;
};

/* A line for the function: this, then its text. */
struct line_record {
  uint64_t item; /* OUTPUT_NO_ITEM: none, or not known */
  uint64_t call;
  size_t length;
  uint32_t worker;
  int stream;
};

/* ---- writing ---- */

/* All of it; a descriptor that does not block (a terminal, by some other program's doing) is waited for. */
static void write_all(int fd, const unsigned char *data, size_t length) {
  while (length > 0) {
    ssize_t put = write(fd, data, length);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      struct pollfd room = {fd, POLLOUT, 0};
      int status = os_poll(&room, 1, -1);
      if (status < 0 && status != -EINTR) return;
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
static void write_through(struct loutput *o, int stream, const unsigned char *data, size_t length) {
  static const unsigned char erase[] = "\r\033[K";
  FILE *file = stream == 1 ? stdout : stderr;
  if (length == 0) return;
  flockfile(file);
  if (o->has_line && isatty(fileno(file))) {
    write_all(STDERR_FILENO, erase, sizeof erase - 1);
    o->has_line = 0;
  }
  if (!ferror(file)) fflush(file);
  write_all(fileno(file), data, length);
  funlockfile(file);
}

static void flush_out(struct loutput *o) {
  write_through(o, o->out_stream, o->out.data, o->out.length);
  bytes_clear(&o->out);
  if (o->out.capacity > 2 * OUT_BYTES) bytes_free(&o->out);
}

/* Text for a stream, gathered until flush_out. Without memory it goes out at once. */
static void write_out(struct loutput *o, int stream, const void *data, size_t length) {
  if (o->out.length > 0 && (stream != o->out_stream || o->out.length + length > OUT_BYTES)) flush_out(o);
  o->out_stream = stream;
  if (length <= OUT_BYTES && bytes_append(&o->out, data, length) == 0) return;
  flush_out(o);
  write_through(o, stream, data, length);
}

/* ---- lines ---- */

/* Bytes up to and with the last newline. */
static size_t whole_lines(const unsigned char *data, size_t length) {
  while (length > 0 && data[length - 1] != '\n') length--;
  return length;
}

/* Where the next line begins, *length: how long this one is without its newline. */
static const unsigned char *next_line(const unsigned char *data, const unsigned char *end, size_t *length) {
  const unsigned char *newline = memchr(data, '\n', (size_t)(end - data));
  *length = (size_t)((newline ? newline : end) - data);
  return newline ? newline + 1 : end;
}

/* Each line with the worker's number before it, the last one with a newline in any case. */
static void write_tagged(struct loutput *o, const struct pool_event *event, const unsigned char *data, size_t length) {
  char tag[16];
  size_t tag_length = (size_t)snprintf(tag, sizeof tag, "[%u] ", (unsigned)event->worker);
  const unsigned char *end = data + length, *next;
  for (; data < end; data = next) {
    next = next_line(data, end, &length);
    write_out(o, event->stream, tag, tag_length);
    write_out(o, event->stream, data, length);
    write_out(o, event->stream, "\n", 1);
  }
}

/* ---- lines for the function ---- */

/* Keep the lines until the function may be called. Without memory for one it is lost: the function could not be given it either. */
static void keep_lines(struct loutput *o, const struct pool_event *event, const unsigned char *data, size_t length) {
  const unsigned char *end = data + length, *next;
  struct line_record record;
  memset(&record, 0, sizeof record);
  record.call = event->call;
  record.item = event->is_known && event->count ? event->first : OUTPUT_NO_ITEM;
  record.worker = event->worker;
  record.stream = event->stream;
  for (; data < end; data = next) {
    next = next_line(data, end, &record.length);
    if (bytes_reserve(&o->lines, sizeof record + record.length) < 0) return;
    (void)bytes_append(&o->lines, &record, sizeof record);
    (void)bytes_append(&o->lines, data, record.length);
  }
}

/* (text, info) of the next line, after the function. */
static void push_line(struct loutput *o, lua_State *L) {
  struct line_record record;
  memcpy(&record, o->lines.data + o->lines_at, sizeof record);
  lua_rawgeti(L, LUA_REGISTRYINDEX, o->function_reference);
  lua_pushlstring(L, (const char *)o->lines.data + o->lines_at + sizeof record, record.length);
  lua_createtable(L, 0, 3);
  lua_pushinteger(L, record.worker);
  lua_setfield(L, -2, "worker");
  lua_pushstring(L, record.stream == 1 ? "stdout" : "stderr");
  lua_setfield(L, -2, "stream");
  if (record.item != OUTPUT_NO_ITEM) {
    lua_pushinteger(L, (lua_Integer)record.item + 1);
    lua_setfield(L, -2, "item");
    lua_pushinteger(L, (lua_Integer)record.call); /* for lua/cluster/node: whose item it is */
    lua_setfield(L, -2, "call");
  }
  o->lines_at += sizeof record + record.length;
}

/* (lpool): tell the function of all lines; those that come meanwhile, too. */
static int tell(lua_State *L) {
  struct loutput *o = &((struct lpool *)lua_touserdata(L, 1))->output;
  while (o->lines_at < o->lines.length) {
    push_line(o, L);
    lua_call(L, 2, 0);
  }
  return 0;
}

/* Returns lua_pcall's status; an error is on the stack. */
static int tell_function(struct lpool *lp, lua_State *L) {
  struct loutput *o = &lp->output;
  int status;
  if (o->lines_at == o->lines.length || o->is_telling || !lua_checkstack(L, LUA_MINSTACK)) return LUA_OK;
  lua_pushcfunction(L, tell);
  lua_pushlightuserdata(L, lp);
  o->is_telling = 1;
  lp->depth++; /* the pool cannot be taken from under us */
  status = lua_pcall(L, 1, 0, 0);
  lp->depth--;
  o->is_telling = 0;
  if (o->lines_at == o->lines.length) {
    o->lines_at = 0;
    bytes_clear(&o->lines);
    if (o->lines.capacity > KEPT_BYTES) bytes_free(&o->lines);
  }
  return status;
}

/* ---- order ---- */

static int is_before(const struct piece *a, const struct piece *b) {
  return a->item != b->item ? a->item < b->item : a->number < b->number;
}

static void swap(struct piece *a, struct piece *b) {
  struct piece c = *a;
  *a = *b;
  *b = c;
}

static int push_piece(struct loutput_call *c, const struct piece *piece) {
  size_t at = c->count;
  if (c->count == c->capacity) {
    size_t capacity = c->capacity ? c->capacity * 2 : 64;
    struct piece *heap = realloc(c->heap, capacity * sizeof *heap);
    if (heap == NULL) return -ENOMEM;
    c->heap = heap;
    c->capacity = capacity;
  }
  c->heap[c->count++] = *piece;
  for (; at > 0 && is_before(&c->heap[at], &c->heap[(at - 1) / 2]); at = (at - 1) / 2) swap(&c->heap[at], &c->heap[(at - 1) / 2]);
  return 0;
}

static void drop_top(struct loutput_call *c) {
  size_t at = 0;
  free(c->heap[0].text);
  c->heap[0] = c->heap[--c->count];
  for (;;) {
    size_t first = at, child = 2 * at + 1;
    if (child < c->count && is_before(&c->heap[child], &c->heap[first])) first = child;
    if (child + 1 < c->count && is_before(&c->heap[child + 1], &c->heap[first])) first = child + 1;
    if (first == at) return;
    swap(&c->heap[at], &c->heap[first]);
    at = first;
  }
}

static struct loutput_call *call_of(struct loutput *o, uint64_t number) {
  struct loutput_call *c;
  for (c = o->calls; c != NULL; c = c->next)
    if (c->call == number) return c;
  c = calloc(1, sizeof *c);
  if (c == NULL) return NULL;
  c->call = number;
  c->next = o->calls;
  o->calls = c;
  return c;
}

/* Put lines away until it is their item's turn. 0; -ENOMEM. */
static int keep_piece(struct loutput *o, const struct pool_event *event, const unsigned char *data, size_t length) {
  struct piece piece = {event->first, o->n_pieces++, event->stream, length, NULL};
  struct loutput_call *c = call_of(o, event->call);
  piece.text = c ? malloc(length) : NULL;
  if (piece.text == NULL) return -ENOMEM;
  memcpy(piece.text, data, length);
  if (push_piece(c, &piece) == 0) return 0;
  free(piece.text);
  return -ENOMEM;
}

/* Write what the items up to `last` printed. */
static void release_pieces(struct loutput *o, struct loutput_call *c, uint64_t last) {
  while (c->count > 0 && c->heap[0].item <= last) {
    write_out(o, c->heap[0].stream, c->heap[0].text, c->heap[0].length);
    drop_top(c);
  }
}

static COLD void free_call(struct loutput_call **at) {
  struct loutput_call *c = *at;
  *at = c->next;
  while (c->count > 0) free(c->heap[--c->count].text);
  free(c->heap);
  free(c);
}

/* Of each call: all up to the lowest item that is not done, which may go on printing. Of a call that is over: all. */
static COLD void release_all(struct lpool *lp) {
  struct loutput_call **at = &lp->output.calls;
  while (*at != NULL) {
    release_pieces(&lp->output, *at, pool_done_below(lp->pool, (*at)->call));
    if ((*at)->count == 0) {
      free_call(at);
    } else {
      at = &(*at)->next;
    }
  }
}

/* ---- text ---- */

/* Whole lines (or what will never be one), whose printer is known as well as it ever will be. */
static void emit(struct loutput *o, const struct pool_event *event, const unsigned char *data, size_t length) {
  if (length == 0) return;
  switch (o->mode) {
    case LOUTPUT_TAG:
      write_tagged(o, event, data, length);
      return;
    case LOUTPUT_FUNCTION:
      keep_lines(o, event, data, length);
      return;
    case LOUTPUT_ORDER:
      if (event->call != 0 && keep_piece(o, event, data, length) == 0) return;
      break;
    default:
      break;
  }
  write_out(o, event->stream, data, length);
}

static void drop_front(struct loutput_text *waiting, size_t length) {
  struct bytes *b = &waiting->text;
  if (length > 0) memmove(b->data, b->data + length, b->length - length);
  b->length -= length;
  waiting->whole = 0;
  if (b->length == 0 && b->capacity > KEPT_BYTES) bytes_free(b);
}

/* How much may go: nothing as long as it is to be known who printed it, and is not. */
static size_t ready_length(const struct loutput *o, const struct pool_event *event, size_t length, size_t whole) {
  if (event->is_end || length > LONGEST_LINE_BYTES) return length;
  return loutput_kind(o) == OUTPUT_ITEMS && !event->is_known ? 0 : whole;
}

/* Text that continues what waits. */
static void add_text(struct loutput *o, struct loutput_text *waiting, const struct pool_event *event) {
  size_t before = waiting->text.length, ready, whole = whole_lines(event->data, event->length);
  if (before == 0 && event->length == 0) return;
  if (before == 0) { /* the usual case: nothing needs to be copied */
    ready = ready_length(o, event, event->length, whole);
    emit(o, event, event->data, ready);
    if (bytes_append(&waiting->text, event->data + ready, event->length - ready) < 0)
      emit(o, event, event->data + ready, event->length - ready);
    else
      waiting->whole = whole > ready ? whole - ready : 0;
    return;
  }
  if (bytes_append(&waiting->text, event->data, event->length) < 0) { /* no memory: as it comes */
    emit(o, event, waiting->text.data, before);
    drop_front(waiting, before);
    emit(o, event, event->data, event->length);
    return;
  }
  if (whole > 0) waiting->whole = before + whole;
  ready = ready_length(o, event, waiting->text.length, waiting->whole);
  if (ready == 0) return;
  emit(o, event, waiting->text.data, ready);
  drop_front(waiting, ready);
}

/* Room for as many workers as there may be by now. 0 or -ENOMEM. */
static int have_room(struct loutput *o, uint32_t n_workers) {
  struct loutput_text(*list)[2];
  if (n_workers <= o->n_workers) return 0;
  list = realloc(o->waiting, n_workers * sizeof *list);
  if (list == NULL) return -ENOMEM;
  memset(list + o->n_workers, 0, (n_workers - o->n_workers) * sizeof *list);
  o->waiting = list;
  o->n_workers = n_workers;
  return 0;
}

/* ---- the caller's view ---- */

COLD void loutput_open(struct loutput *o, lua_State *L, int options) {
  static const char *const words[] = {"line", "tag", "order", "discard", NULL};
  memset(o, 0, sizeof *o);
  o->function_reference = LUA_NOREF;
  if (lua_getfield(L, options, "output") == LUA_TFUNCTION) {
    o->mode = LOUTPUT_FUNCTION;
    o->function_reference = luaL_ref(L, LUA_REGISTRYINDEX);
    o->asks_no_items = lua_getfield(L, options, "output_items") == LUA_TBOOLEAN && !lua_toboolean(L, -1);
    lua_pop(L, 1);
    return;
  }
  o->mode = (enum loutput_mode)luaL_checkoption(L, -1, "line", words);
  lua_pop(L, 1);
}

enum output_kind loutput_kind(const struct loutput *o) {
  if (o->mode == LOUTPUT_DISCARD) return OUTPUT_DISCARD;
  return o->mode == LOUTPUT_ORDER || (o->mode == LOUTPUT_FUNCTION && !o->asks_no_items) ? OUTPUT_ITEMS : OUTPUT_LINES;
}

void loutput_take(struct lpool *lp, lua_State *L, const struct pool_event *event) {
  struct loutput *o = &lp->output;
  (void)L;
  if (have_room(o, event->worker) < 0) {
    emit(o, event, event->data, event->length);
  } else {
    add_text(o, &o->waiting[event->worker - 1][event->stream - 1], event);
  }
  if (o->mode != LOUTPUT_ORDER) flush_out(o);
  (void)pool_done(lp->pool, event, 0);
}

void loutput_turn(struct lpool *lp, lua_State *L) {
  if (lp->output.calls) release_all(lp);
  flush_out(&lp->output);
  if (tell_function(lp, L) != LUA_OK) lua_error(L);
}

/* (error) */
static int warn(lua_State *L) {
  const char *text = luaL_tolstring(L, 1, NULL);
  lerror_warn(L, "the output function failed: ", text);
  return 0;
}

void loutput_turn_protected(struct lpool *lp, lua_State *L) {
  struct loutput *o = &lp->output;
  int failures = 0;
  if (o->calls) release_all(lp);
  flush_out(o);
  delivery_shield(1); /* nobody here could pass an interrupt on */
  while (tell_function(lp, L) != LUA_OK) {
    lua_pushcfunction(L, warn);
    lua_insert(L, -2);
    if (failures++ > 0 || lua_pcall(L, 1, 0, 0) != LUA_OK) lua_pop(L, failures > 1 ? 2 : 1);
  }
  delivery_shield(-1);
}

int loutput_line(struct lpool *lp, int has_line) {
  int had_line = lp->output.has_line;
  lp->output.has_line = has_line;
  return had_line;
}

/* What a worker left unfinished, unless it is at something else that may still finish it. */
static void settle_worker(struct lpool *lp, uint32_t number) {
  struct loutput *o = &lp->output;
  struct pool_event event;
  memset(&event, 0, sizeof event);
  event.worker = number + 1;
  event.is_end = 1;
  for (event.stream = 1; event.stream <= 2; event.stream++) {
    struct loutput_text *waiting = &o->waiting[number][event.stream - 1];
    if (waiting->text.length == 0 || pool_is_running(lp->pool, number)) continue;
    event.data = waiting->text.data; /* not NULL, for add_text */
    add_text(o, waiting, &event);
  }
}

void loutput_settle(struct lpool *lp, lua_State *L) {
  uint32_t i;
  (void)L;
  for (i = 0; i < lp->output.n_workers; i++) settle_worker(lp, i);
  if (lp->output.calls) release_all(lp);
  flush_out(&lp->output);
}

COLD void loutput_close(struct loutput *o, lua_State *L) {
  uint32_t i;
  for (i = 0; i < o->n_workers; i++) {
    bytes_free(&o->waiting[i][0].text);
    bytes_free(&o->waiting[i][1].text);
  }
  free(o->waiting);
  o->waiting = NULL;
  o->n_workers = 0;
  while (o->calls != NULL) free_call(&o->calls);
  bytes_free(&o->lines);
  bytes_free(&o->out);
  o->lines_at = 0;
  luaL_unref(L, LUA_REGISTRYINDEX, o->function_reference);
  o->function_reference = LUA_NOREF;
}
