/*
 * binding/llines -- see llines.h.
 *
 * Room: binding (may include binding/lclass.h).  Owns: per runner the buffer that its output is gathered in.
 * A loop in Lua over gmatch, with tables of pieces, costs three times as much. An error in the function is raised as it is; the runner is
 * behind that line then, so that it can be started again with the next.
 */
#include "binding/llines.h"

#include <lauxlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "base/cold.h"
#include "base/os.h"
#include "binding/lclass.h"

#define RUNNER_TYPE "luapool.lines"

enum { KEPT_BYTES = 8 << 20, DIGITS = 24 };

enum runner_value { RUNNER_TEXT = 1, RUNNER_FORMAT, RUNNER_VALUES = RUNNER_FORMAT };

struct runner {
  struct bytes out;
  const char *text; /* RUNNER_TEXT's */
  size_t length;
  size_t at;        /* where the next line begins */
  size_t whole;     /* so much of `out` is of lines that are finished: an error may come in the middle of one */
  lua_Integer number; /* of the line that was begun last */
  char separator;   /* of the text; filter writes it, too */
  char terminator;  /* of what map writes */
};

/* Where things stand in a loop's frame. */
enum { SELF = 1, FN = 2, BUDGET = 3, FORMAT = 4, TOP = 4 };

static struct runner *check_runner(lua_State *L) {
  return luaL_checkudata(L, SELF, RUNNER_TYPE);
}

static void append(lua_State *L, struct runner *r, const char *data, size_t length) {
  if (bytes_append(&r->out, data, length) < 0) luaL_error(L, "not enough memory");
}

/* ---- results as text ---- */

static void append_integer(lua_State *L, struct runner *r, lua_Integer value) {
  char digits[DIGITS];
  size_t at = sizeof digits;
  lua_Unsigned left = value < 0 ? 0u - (lua_Unsigned)value : (lua_Unsigned)value;
  do digits[--at] = (char)('0' + left % 10);
  while ((left /= 10) != 0);
  if (value < 0) digits[--at] = '-';
  append(L, r, digits + at, sizeof digits - at);
}

/* What is no plain value is worded by the format function. */
static void append_formatted(lua_State *L, struct runner *r, int index) {
  size_t length;
  const char *text;
  lua_pushvalue(L, FORMAT);
  lua_pushvalue(L, index);
  lua_call(L, 1, 1);
  text = luaL_checklstring(L, -1, &length);
  append(L, r, text, length);
  lua_pop(L, 1);
}

static void append_value(lua_State *L, struct runner *r, int index) {
  size_t length;
  const char *text;
  switch (lua_type(L, index)) {
    case LUA_TNIL:
      return;
    case LUA_TNUMBER:
      if (lua_isinteger(L, index)) {
        append_integer(L, r, lua_tointeger(L, index));
        return;
      } /* fall through */
    case LUA_TSTRING:
      text = lua_tolstring(L, index, &length);
      append(L, r, text, length);
      return;
    case LUA_TBOOLEAN:
      if (lua_toboolean(L, index)) append(L, r, "true", 4);
      else append(L, r, "false", 5);
      return;
    default:
      append_formatted(L, r, index);
  }
}

static int are_all_nil(lua_State *L, int first, int last) {
  while (first <= last && lua_isnil(L, first)) first++;
  return first > last;
}

/* What the function returned stands above TOP: a line, with tabs between; nothing if there is nothing but nil. */
static void append_results(lua_State *L, struct runner *r) {
  const int last = lua_gettop(L);
  int i;
  if (are_all_nil(L, TOP + 1, last)) return;
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  for (i = TOP + 1; i <= last; i++) {
    if (i > TOP + 1) append(L, r, "\t", 1);
    append_value(L, r, i);
  }
  append(L, r, &r->terminator, 1);
}

/* ---- the loop ---- */

/* Milliseconds are enough, and this clock costs a fifth of the exact one. */
static int64_t coarse_now_ns(void) {
  struct timespec now;
#ifdef CLOCK_MONOTONIC_COARSE
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
#else
  clock_gettime(CLOCK_MONOTONIC, &now);
#endif
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Push the next line and its number; *line and *length: where it stands in the text, without its separator. 0: there is none. */
static int push_line(lua_State *L, struct runner *r, const char **line, size_t *length) {
  const char *end;
  if (r->at >= r->length) return 0;
  *line = r->text + r->at;
  end = memchr(*line, r->separator, r->length - r->at);
  *length = end ? (size_t)(end - *line) : r->length - r->at;
  r->at += *length + (end != NULL);
  r->number++;
  lua_pushlstring(L, *line, *length);
  return 1;
}

/* (self, fn, seconds or nil): what every loop begins with. Returns when it should stop, 0: when it is done. */
static int64_t prepare(lua_State *L) {
  struct runner *r = check_runner(L);
  lua_Number budget = luaL_optnumber(L, BUDGET, 0);
  r->out.length = r->whole;
  lua_settop(L, BUDGET);
  lua_getiuservalue(L, SELF, RUNNER_FORMAT);
  return budget > 0 ? coarse_now_ns() + os_ns_of(budget) : 0;
}

/* runner:map(fn [, seconds]): the results of fn(line, number), a line each. Stops after a line when the time is over. */
static int runner_map(lua_State *L) {
  struct runner *r = check_runner(L);
  const int64_t until = prepare(L);
  const char *line, *text;
  size_t length;
  for (;;) {
    lua_pushvalue(L, FN);
    if (!push_line(L, r, &line, &length)) return 0;
    lua_pushinteger(L, r->number);
    lua_call(L, 2, LUA_MULTRET);
    if (lua_gettop(L) == TOP + 1 && lua_type(L, -1) == LUA_TSTRING) { /* most are this */
      text = lua_tolstring(L, -1, &length);
      if (bytes_reserve(&r->out, length + 1) < 0) return luaL_error(L, "not enough memory");
      memcpy(r->out.data + r->out.length, text, length);
      r->out.data[r->out.length + length] = (unsigned char)r->terminator;
      r->out.length += length + 1;
    } else {
      append_results(L, r);
    }
    r->whole = r->out.length;
    lua_settop(L, TOP);
    if (until && coarse_now_ns() >= until) return 0;
  }
}

/* runner:filter(fn [, seconds]): the lines for which fn(line, number) is true, as they are, with their separator. */
static int runner_filter(lua_State *L) {
  struct runner *r = check_runner(L);
  const int64_t until = prepare(L);
  const char *line;
  size_t length;
  for (;;) {
    lua_pushvalue(L, FN);
    if (!push_line(L, r, &line, &length)) return 0;
    lua_pushinteger(L, r->number);
    lua_call(L, 2, 1);
    if (lua_toboolean(L, -1)) {
      append(L, r, line, length);
      append(L, r, &r->separator, 1);
    }
    r->whole = r->out.length;
    lua_settop(L, TOP);
    if (until && coarse_now_ns() >= until) return 0;
  }
}

/* The line on top becomes a number if it is one as Lua writes them. */
static void to_number(lua_State *L) {
  size_t length;
  const char *text = lua_tolstring(L, -1, &length);
  if (lua_stringtonumber(L, text) == length + 1) lua_remove(L, -2);
  else if (lua_type(L, -1) == LUA_TNUMBER) lua_pop(L, 1); /* a NUL follows the numeral */
}

/* runner:fold(fn, nil, converts) -> value: fn(fn(line1, line2), line3) ... ; `converts`: lines that are numerals are numbers. */
static int runner_fold(lua_State *L) {
  struct runner *r = check_runner(L);
  int converts = lua_toboolean(L, 4), is_first = 1;
  const char *line;
  size_t length;
  lua_settop(L, FN);
  lua_pushnil(L); /* at 3: so far */
  for (;;) {
    lua_pushvalue(L, FN);
    lua_pushvalue(L, 3);
    if (!push_line(L, r, &line, &length)) break;
    if (converts) to_number(L);
    if (!is_first) lua_call(L, 2, 1);
    is_first = 0;
    lua_replace(L, 3);
    lua_settop(L, 3);
  }
  lua_settop(L, 3);
  return 1;
}

/* ---- what stands between ---- */

/* runner:begin(text, number): a new text; `number` is that of its first line. */
static COLD int runner_begin(lua_State *L) {
  struct runner *r = check_runner(L);
  size_t length;
  const char *text = luaL_checklstring(L, 2, &length);
  lua_Integer number = luaL_checkinteger(L, 3);
  lua_settop(L, 2);
  lua_setiuservalue(L, SELF, RUNNER_TEXT);
  r->text = text;
  r->length = length;
  r->at = r->whole = 0;
  r->number = number - 1;
  bytes_clear(&r->out);
  return 0;
}

/* runner:take() -> output so far; the runner forgets it */
static int runner_take(lua_State *L) {
  struct runner *r = check_runner(L);
  lua_pushlstring(L, (const char *)r->out.data, r->whole);
  r->whole = 0;
  bytes_clear(&r->out);
  if (r->out.capacity > KEPT_BYTES) bytes_free(&r->out);
  return 1;
}

/* runner:place() -> number of the line begun last, offset of the next, or nil: that was the last */
static int runner_place(lua_State *L) {
  const struct runner *r = check_runner(L);
  lua_pushinteger(L, r->number);
  if (r->at >= r->length) lua_pushnil(L);
  else lua_pushinteger(L, (lua_Integer)r->at);
  return 2;
}

static int runner_gc(lua_State *L) {
  bytes_free(&check_runner(L)->out);
  return 0;
}

/* core.lines(format, separator, terminator) -> runner. format(value) -> string: what is no nil, boolean, number or string. */
static COLD int core_lines(lua_State *L) {
  struct runner *r;
  luaL_checktype(L, 1, LUA_TFUNCTION);
  r = lua_newuserdatauv(L, sizeof *r, RUNNER_VALUES);
  memset(r, 0, sizeof *r);
  bytes_init(&r->out);
  r->separator = *luaL_checkstring(L, 2);
  r->terminator = *luaL_checkstring(L, 3);
  luaL_setmetatable(L, RUNNER_TYPE);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, RUNNER_FORMAT);
  return 1;
}

COLD void llines_open_library(lua_State *L) {
  static const luaL_Reg methods[] = {{"map", runner_map}, {"filter", runner_filter}, {"fold", runner_fold}, {"begin", runner_begin},
                                     {"take", runner_take}, {"place", runner_place}, {NULL, NULL}};
  lclass_define(L, RUNNER_TYPE, methods, runner_gc);
  lua_pushcfunction(L, core_lines);
  lua_setfield(L, -2, "lines");
}
