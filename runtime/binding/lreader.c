/*
 * binding/lreader -- see lreader.h.
 *
 * Room: binding (may include binding/lclass.h).  Owns: per reader a descriptor (if it opened it) and a buffer; both go with close, or with
 * the collector.
 */
#include "binding/lreader.h"

#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cold.h"
#include "base/os.h"
#include "binding/lclass.h"
#include "job/delivery.h"
#include "process/interrupt.h"
#include "process/process.h"

enum {
  READ_LEAST = 64 * 1024,  /* asked of a read at once: what a pipe holds */
  READ_MOST = 1024 * 1024,
  KEPT_BYTES = 8 << 20     /* a buffer that a long item has made larger is given back */
};

enum mood { MOOD_SEE, MOOD_WAIT, MOOD_ASK };

struct reader {
  int fd;          /* -1: none */
  pid_t owner;     /* the process that opened fd; 0: it is not ours to close */
  int is_at_end;   /* nothing can be read any more */
  enum mood mood;  /* what lreader_would_wait says: what it sees, 1, 0 */
  int separator;
  struct bytes bytes;
  size_t start;    /* of what was not given out yet */
  size_t scanned;  /* so many bytes from there on hold no separator */
  int is_short;    /* there are items, but not as many as were asked for */
};

static struct reader *check_reader(lua_State *L) {
  return luaL_checkudata(L, 1, LREADER_TYPE);
}

static size_t unread(const struct reader *r) {
  return r->bytes.length - r->start;
}

static const unsigned char *rest(const struct reader *r) {
  return r->bytes.data + r->start;
}

/* Is there a whole item? */
static int has_item(struct reader *r) {
  const unsigned char *found;
  if (r->scanned >= unread(r)) return 0;
  found = memchr(rest(r) + r->scanned, r->separator, unread(r) - r->scanned);
  r->scanned = found ? (size_t)(found - rest(r)) : unread(r);
  return found != NULL;
}

/* ---- waiting ---- */

/* 1: a read would give something (or the end) at once. */
static int is_ready(const struct reader *r) {
  struct pollfd fd = {r->fd, POLLIN, 0};
  return os_poll(&fd, 1, 0) != 0; /* an error shows in the read */
}

int lreader_would_wait(void *reader) {
  struct reader *r = reader;
  if (r->mood != MOOD_SEE) return r->mood == MOOD_WAIT;
  return !r->is_at_end && r->fd >= 0 && (r->is_short || !has_item(r)) && !is_ready(r);
}

int lreader_is_held(const void *reader) {
  return ((const struct reader *)reader)->mood == MOOD_WAIT;
}

/* A background job that reads the terminal must be stopped by the read, not wait beside it. */
static int is_background(int fd) {
  return !os_is_foreground(fd);
}

/* Until something can be read. Raises interrupts. */
static void wait_for_input(lua_State *L, const struct reader *r) {
  while (!is_background(r->fd)) {
    int can_raise = delivery_can_raise();
    struct pollfd fds[2] = {{r->fd, POLLIN, 0}, {interrupt_fd(), POLLIN, 0}};
    int status;
    if (interrupt_pending() && delivery_checkpoint(L)) luaL_error(L, "cancelled: an interrupt is pending");
    status = os_poll(fds, can_raise && fds[1].fd >= 0 ? 2 : 1, -1);
    if (status < 0 && status != -EINTR) return;
    if (fds[0].revents) return;
  }
}

/* ---- reading ---- */

/* Room for `size` bytes at the end of the buffer; what was given out already makes room first. */
static int make_room(struct reader *r, size_t size) {
  if (r->start > 0 && (unread(r) == 0 || r->bytes.capacity - r->bytes.length < size)) {
    memmove(r->bytes.data, rest(r), unread(r));
    r->bytes.length -= r->start;
    r->start = 0;
  }
  if (r->bytes.length == 0 && r->bytes.capacity > KEPT_BYTES) bytes_free(&r->bytes);
  return bytes_reserve(&r->bytes, size);
}

/* One read. Returns bytes (0: the end), or -errno; -EAGAIN: there was nothing. */
static ssize_t read_some(struct reader *r, size_t wanted) {
  size_t size = wanted < READ_LEAST ? READ_LEAST : wanted > READ_MOST ? READ_MOST : wanted;
  ssize_t got;
  if (unread(r) > size) size = unread(r) < READ_MOST ? unread(r) : READ_MOST; /* a long item: larger steps */
  if (make_room(r, size) < 0) return -ENOMEM;
  got = os_read(r->fd, r->bytes.data + r->bytes.length, size);
  r->is_short = 0;
  if (got > 0) r->bytes.length += (size_t)got;
  if (got == 0) r->is_at_end = 1;
  return got;
}

/* ---- cutting ---- */

/* Separators in `length` bytes: eight at a time. */
static size_t count_items(const unsigned char *data, size_t length, int separator) {
  const uint64_t ones = UINT64_C(0x0101010101010101), low = UINT64_C(0x7f7f7f7f7f7f7f7f);
  const uint64_t pattern = ones * (unsigned char)separator;
  size_t count = 0, i = 0;
  for (; i + 8 <= length; i += 8) {
    uint64_t word;
    memcpy(&word, data + i, 8);
    word ^= pattern;                                /* bytes that are equal are 0 now */
    word = ~(((word & low) + low) | word | low);    /* 0x80 where it was 0, exactly */
    count += ((word >> 7) * ones) >> 56;
  }
  for (; i < length; i++) count += data[i] == (unsigned char)separator;
  return count;
}

/* Where whole items of about `target` bytes end (0: there is no whole one); one item if they are larger, or if target is 0. */
static size_t cut_by_size(struct reader *r, size_t target) {
  size_t have = unread(r), i = target < have ? target : have;
  if (!has_item(r)) return 0;
  while (i > r->scanned && rest(r)[i - 1] != r->separator) i--;
  return i > r->scanned ? i : r->scanned + 1;
}

/* Where `n` items end, or as many as there are; *n: how many of them are missing. */
static size_t cut_by_count(struct reader *r, size_t *n) {
  size_t at = 0;
  while (*n > 0 && at < unread(r)) {
    const unsigned char *found = memchr(rest(r) + at, r->separator, unread(r) - at);
    if (found == NULL) break;
    at = (size_t)(found - rest(r)) + 1;
    --*n;
  }
  return at;
}

/* Push the next `length` bytes and how many items they are; the last item of the input gets its separator if it lacks one. */
static int give(lua_State *L, struct reader *r, size_t length) {
  const unsigned char *data = rest(r);
  size_t n = count_items(data, length, r->separator);
  if (length > 0 && data[length - 1] != r->separator) {
    if (bytes_reserve(&r->bytes, 1) < 0) return luaL_error(L, "not enough memory");
    data = rest(r);
    r->bytes.data[r->bytes.length] = (unsigned char)r->separator; /* beyond the end: it is the last */
    lua_pushlstring(L, (const char *)data, length + 1);
    n++;
  } else {
    lua_pushlstring(L, (const char *)data, length);
  }
  r->start += length;
  r->scanned = r->scanned > length ? r->scanned - length : 0;
  lua_pushinteger(L, (lua_Integer)n);
  return 2;
}

static int fail(lua_State *L, int status) {
  luaL_pushfail(L);
  lua_pushstring(L, strerror(-status));
  return 2;
}

/*
 * reader:block(bytes, waits) -> text, n | nil at the end | nil, message
 * Whole items, n of them, `bytes` together, or one if that is larger (0: one), or what is there. `waits`: at least one, however long that
 * takes; else "" and 0 when there is no whole one yet. Raises interrupts.
 */
static int reader_block(lua_State *L) {
  struct reader *r = check_reader(L);
  size_t target = (size_t)luaL_checkinteger(L, 2), cut;
  int waits = lua_toboolean(L, 3);
  for (;;) {
    ssize_t got;
    cut = cut_by_size(r, target);
    if (r->is_at_end || r->fd < 0) break;
    if (cut > 0 && (unread(r) >= target || !is_ready(r))) break;
    if (cut == 0 && !waits && !is_ready(r)) break;
    if (cut == 0) wait_for_input(L, r);
    got = read_some(r, target);
    if (got < 0 && got != -EAGAIN) return fail(L, (int)got);
    if (got == -EAGAIN && (cut > 0 || !waits)) break;
  }
  if (cut > 0 || !r->is_at_end) return give(L, r, cut);
  if (unread(r) > 0) return give(L, r, unread(r)); /* the last one has no separator */
  lua_pushnil(L);
  return 1;
}

/*
 * reader:items(n, waits) -> text, n | nil at the end | nil, message
 * Exactly n items, fewer at the end only; if it does not wait, "" and 0 as long as there are fewer. Raises interrupts.
 */
static int reader_items(lua_State *L) {
  struct reader *r = check_reader(L);
  size_t n = (size_t)luaL_checkinteger(L, 2), cut;
  int waits = lua_toboolean(L, 3);
  for (;;) {
    size_t missing = n;
    ssize_t got;
    cut = cut_by_count(r, &missing);
    if (missing == 0) return give(L, r, cut);
    if (r->is_at_end || r->fd < 0) break;
    if (!waits && !is_ready(r)) {
      r->is_short = 1;
      return give(L, r, 0);
    }
    wait_for_input(L, r);
    got = read_some(r, READ_LEAST);
    if (got < 0 && got != -EAGAIN) return fail(L, (int)got);
  }
  if (unread(r) > 0) return give(L, r, unread(r)); /* fewer than n, so that this is all */
  lua_pushnil(L);
  return 1;
}

/* ---- life ---- */

static void close_input(struct reader *r) {
  if (r->owner && r->fd >= 0 && !process_fds_are_gone(r->owner)) process_close_fd(&r->fd);
  r->fd = -1;
  r->owner = 0;
}

static COLD int reader_close(lua_State *L) {
  struct reader *r = check_reader(L);
  close_input(r);
  bytes_free(&r->bytes);
  return 0;
}

static void rewind_reader(struct reader *r) {
  close_input(r);
  bytes_clear(&r->bytes);
  r->start = r->scanned = 0;
  r->is_at_end = r->is_short = 0;
}

/* reader:open([path]) -> true | nil, message: the next input; no path: standard input. What was left of the one before is dropped. */
static COLD int reader_open(lua_State *L) {
  struct reader *r = check_reader(L);
  const char *path = luaL_optstring(L, 2, NULL);
  int status;
  rewind_reader(r);
  if (path == NULL) {
    r->fd = STDIN_FILENO;
    lua_pushboolean(L, 1);
    return 1;
  }
  r->fd = os_open(path, O_RDONLY);
  if (r->fd < 0) {
    status = r->fd;
    r->fd = -1;
    return fail(L, status);
  }
  status = process_register_fd(r->fd); /* workers need no copy of it */
  if (status < 0) {
    os_close(&r->fd);
    return fail(L, status);
  }
  r->owner = getpid();
  lua_pushboolean(L, 1);
  return 1;
}

/* reader:feed(text): the next input is this text. */
static int reader_feed(lua_State *L) {
  struct reader *r = check_reader(L);
  size_t length;
  const char *text = luaL_checklstring(L, 2, &length);
  rewind_reader(r);
  if (bytes_append(&r->bytes, text, length) < 0) return luaL_error(L, "not enough memory");
  r->is_at_end = 1;
  return 0;
}

/* reader:mood("see" | "wait" | "ask"): what lreader_would_wait says: what it sees, or this. */
static int reader_mood(lua_State *L) {
  static const char *const moods[] = {"see", "wait", "ask", NULL};
  struct reader *r = check_reader(L);
  r->mood = (enum mood)luaL_checkoption(L, 2, NULL, moods);
  return 0;
}

/* The source that a call is told of, so that it can see whether asking would wait: its upvalue is the reader. Never called. */
static int reader_source(lua_State *L) {
  (void)L;
  return 0;
}

/* core.reader(separator) -> reader, source */
static COLD int core_reader(lua_State *L) {
  size_t length;
  const char *separator = luaL_checklstring(L, 1, &length);
  struct reader *r;
  luaL_argcheck(L, length == 1, 1, "one byte expected");
  r = lua_newuserdatauv(L, sizeof *r, 0);
  memset(r, 0, sizeof *r);
  r->fd = -1;
  r->separator = (unsigned char)separator[0];
  bytes_init(&r->bytes);
  luaL_setmetatable(L, LREADER_TYPE);
  lua_pushvalue(L, -1);
  lua_pushcclosure(L, reader_source, 1);
  return 2;
}

COLD void lreader_open_library(lua_State *L) {
  static const luaL_Reg methods[] = {{"block", reader_block}, {"items", reader_items}, {"open", reader_open}, {"feed", reader_feed},
                                     {"mood", reader_mood}, {"close", reader_close}, {NULL, NULL}};
  lclass_define(L, LREADER_TYPE, methods, reader_close);
  lua_pushcfunction(L, core_reader);
  lua_setfield(L, -2, "reader");
}
