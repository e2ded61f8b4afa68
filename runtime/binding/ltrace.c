/* binding/ltrace -- see ltrace.h (may include binding/lclass.h). */
#include "binding/ltrace.h"

#include <errno.h>
#include <lauxlib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/os.h"
#include "binding/lclass.h"
#include "pool/recorder.h"
#include "pool/tracefile.h"

#define FILE_TYPE "luapool.tracefile"
#define RECORD_TYPE "luapool.record"
#define NS_PER_S 1e9

/* User values of a record: the file; { kinds = { [kind] = n }, samples = { error, ... } }; { stats of a pool that is gone, ... } */
enum { RECORD_FILE = 1, RECORD_ERRORS, RECORD_STATS, RECORD_VALUES = RECORD_STATS };

enum { MOST_SAMPLES = 12 };

/* ---- files ---- */

static const char *words_for(int status) {
  if (status == -EAGAIN) return "another trace is being written to it";
  if (status == -ENOTSUP) return "it is not a regular file";
  return strerror(-status);
}

/* core.trace_file(path) -> file | nil, message: the file is made anew */
static int core_trace_file(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  struct tracefile *f = lua_newuserdatauv(L, sizeof *f, 0);
  int status;
  tracefile_init(f);
  luaL_setmetatable(L, FILE_TYPE);
  status = tracefile_open(f, path);
  if (status == 0) return 1;
  lua_pushnil(L);
  lua_pushstring(L, words_for(status));
  return 2;
}

/* ---- what went wrong ---- */

/* The address of this is the registry key of a userdata that holds the function. */
static char problem_key;

struct listener {
  void (*fn)(const char *text);
};

void ltrace_on_problem(lua_State *L, void (*fn)(const char *text)) {
  struct listener *listener = lua_newuserdatauv(L, sizeof *listener, 0);
  listener->fn = fn;
  lua_rawsetp(L, LUA_REGISTRYINDEX, &problem_key);
}

void ltrace_problem(lua_State *L, const char *text) {
  const struct listener *listener;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &problem_key);
  listener = lua_touserdata(L, -1);
  lua_pop(L, 1);
  if (listener != NULL) {
    listener->fn(text);
    return;
  }
  lua_warning(L, "luapool: ", 1);
  lua_warning(L, text, 0);
}

static void tell(lua_State *L, struct tracefile *f) {
  char text[TRACEFILE_NAME + 128];
  if (f->status == 0 || f->is_told || f->owner != getpid()) return;
  f->is_told = 1;
  snprintf(text, sizeof text, "cannot write the trace to \"%s\" any more: %s", f->name, words_for(f->status));
  ltrace_problem(L, text);
}

void ltrace_check(lua_State *L, const struct trace *t) {
  if (t != NULL && t->file != NULL && t->file->status < 0) tell(L, t->file);
}

/* ---- files, from Lua ---- */

/* file:flush(), file:close() -> true | nil, message: what ended the writing, whenever that was */
static int push_status(lua_State *L, const struct tracefile *f) {
  if (f->status < 0) {
    lua_pushnil(L);
    lua_pushstring(L, words_for(f->status));
    return 2;
  }
  lua_pushboolean(L, 1);
  return 1;
}

static int file_flush(lua_State *L) {
  struct tracefile *f = luaL_checkudata(L, 1, FILE_TYPE);
  tracefile_flush(f, 0);
  tell(L, f);
  return push_status(L, f);
}

static int file_close(lua_State *L) {
  struct tracefile *f = luaL_checkudata(L, 1, FILE_TYPE);
  (void)tracefile_close(f);
  tell(L, f);
  return push_status(L, f);
}

/* core.write_file(path, text) -> nil | message: the file is made anew, or stays as it was */
static int core_write_file(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  size_t length;
  const char *text = luaL_checklstring(L, 2, &length);
  int status = os_write_whole(path, text, length);
  if (status == 0) return 0;
  lua_pushstring(L, words_for(status));
  return 1;
}

/* ---- records ---- */

struct trace *ltrace_test(lua_State *L, int index) {
  return luaL_testudata(L, index, RECORD_TYPE);
}

/* core.record([file, group, json]) -> record, whose events go to the file as group number `group`, with a name (a string of JSON) */
static int core_record(lua_State *L) {
  struct tracefile *f = lua_isnoneornil(L, 1) ? NULL : luaL_checkudata(L, 1, FILE_TYPE);
  uint32_t group = (uint32_t)luaL_optinteger(L, 2, 1);
  const char *json = luaL_optstring(L, 3, "\"pool\"");
  struct trace *t;
  lua_settop(L, 3);
  t = lua_newuserdatauv(L, sizeof *t, RECORD_VALUES);
  trace_init(t);
  t->recorder = &pool_recorder;
  luaL_setmetatable(L, RECORD_TYPE);
  lua_createtable(L, 0, 2);
  lua_newtable(L);
  lua_setfield(L, -2, "kinds");
  lua_newtable(L);
  lua_setfield(L, -2, "samples");
  lua_setiuservalue(L, -2, RECORD_ERRORS);
  lua_newtable(L);
  lua_setiuservalue(L, -2, RECORD_STATS);
  if (f == NULL) return 1;
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, RECORD_FILE);
  t->file = f;
  t->group = group;
  tracefile_name(f, group, 0, json);
  return 1;
}

static int record_gc(lua_State *L) {
  struct trace *t = luaL_checkudata(L, 1, RECORD_TYPE);
  t->file = NULL;
  trace_free(t);
  return 0;
}

static void set_number(lua_State *L, const char *name, lua_Number value) {
  lua_pushnumber(L, value);
  lua_setfield(L, -2, name);
}

static void set_integer(lua_State *L, const char *name, uint64_t value) {
  lua_pushinteger(L, (lua_Integer)value);
  lua_setfield(L, -2, name);
}

/* { { track =, [name of a part] = { seconds in bin 1, ... }, ... }, ... }; the host first, as track 0 */
static void push_tracks(lua_State *L, const struct trace *t, uint32_t n_bins) {
  static const char *const of_host[TRACE_PARTS] = {"read", "write", "sleep", NULL};
  static const char *const of_worker[TRACE_PARTS] = {"busy", "encode", "room", "idle"};
  uint32_t i, bin, part;
  lua_createtable(L, (int)t->n_tracks, 0);
  for (i = 0; i < t->n_tracks; i++) {
    lua_createtable(L, 0, TRACE_PARTS + 1);
    set_integer(L, "track", i);
    for (part = 0; part < TRACE_PARTS; part++) {
      const char *name = (i == TRACE_HOST ? of_host : of_worker)[part];
      if (name == NULL) continue;
      lua_createtable(L, (int)n_bins, 0);
      for (bin = 0; bin < n_bins; bin++) {
        lua_pushnumber(L, (lua_Number)t->tracks[i].bins[bin][part] / NS_PER_S);
        lua_rawseti(L, -2, (lua_Integer)bin + 1);
      }
      lua_setfield(L, -2, name);
    }
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
}

/* { { from =, to =, items = }, ... }: seconds; only what is not empty */
static void push_times(lua_State *L, const uint64_t *buckets) {
  lua_Integer n = 0;
  uint32_t i;
  lua_newtable(L);
  for (i = 0; i < EVENTS_BUCKETS; i++) {
    if (buckets[i] == 0) continue;
    lua_createtable(L, 0, 3);
    set_number(L, "from", (lua_Number)events_bucket_begin(i) / NS_PER_S);
    set_number(L, "to", (lua_Number)events_bucket_begin(i + 1) / NS_PER_S);
    set_integer(L, "items", buckets[i]);
    lua_rawseti(L, -2, ++n);
  }
}

/* { { seconds =, call =, first =, count =, text = }, ... } */
static void push_slowest(lua_State *L, const struct trace *t) {
  struct event_slow list[EVENTS_SLOWEST];
  uint32_t i, n = trace_slowest(t, list);
  lua_createtable(L, (int)n, 0);
  for (i = 0; i < n; i++) {
    lua_createtable(L, 0, 5);
    set_number(L, "seconds", (lua_Number)list[i].ns / NS_PER_S);
    set_integer(L, "call", list[i].call);
    set_integer(L, "first", list[i].first + 1);
    set_integer(L, "count", list[i].count);
    if (list[i].length) {
      lua_pushlstring(L, list[i].text, list[i].length);
      lua_setfield(L, -2, "text");
    }
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
}

void ltrace_error(lua_State *L) {
  int error = lua_gettop(L) - 1, n;
  lua_getiuservalue(L, -1, RECORD_ERRORS);
  lua_getfield(L, -1, "kinds");
  if (lua_getfield(L, error, "kind") == LUA_TSTRING) {
    lua_pushvalue(L, -1);
    lua_rawget(L, -3);
    n = (int)lua_tointeger(L, -1) + 1;
    lua_pop(L, 1);
    lua_pushinteger(L, n);
    lua_rawset(L, -3);
  } else {
    lua_pop(L, 1);
  }
  lua_getfield(L, error + 2, "samples");
  n = (int)lua_rawlen(L, -1);
  if (n < MOST_SAMPLES) {
    lua_pushvalue(L, error);
    lua_rawseti(L, -2, n + 1);
  }
  lua_settop(L, error);
}

/* (stats, record): the pool is gone. */
static int keep_stats(lua_State *L) {
  lua_getiuservalue(L, 2, RECORD_STATS);
  lua_pushvalue(L, 1);
  lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
  return 0;
}

void ltrace_keep_stats(lua_State *L) {
  lua_pushcfunction(L, keep_stats);
  lua_insert(L, -3);
  if (lua_pcall(L, 2, 0, 0) != LUA_OK) lua_pop(L, 1);
}

/* record:past() -> list of the stats of pools that are gone: the table itself, to be summed up and emptied */
static int record_past(lua_State *L) {
  luaL_checkudata(L, 1, RECORD_TYPE);
  lua_getiuservalue(L, 1, RECORD_STATS);
  return 1;
}

/* record:is_live() -> is there a pool now that writes into it? */
static int record_is_live(lua_State *L) {
  const struct trace *t = luaL_checkudata(L, 1, RECORD_TYPE);
  lua_pushboolean(L, t->live != NULL);
  return 1;
}

static const char *const mark_names[MARK_KINDS] = {
  NULL, "started", "ended", "crashed", "lost", "retry", "timeout", "cancelled", "killed"};

/* { { kind =, worker =, at =, number = }, ... } and, as its field `counts`, how many there were of each kind */
static void push_marks(lua_State *L, const struct trace *t) {
  uint32_t i;
  lua_createtable(L, (int)t->n_marks, 1);
  for (i = 0; i < t->n_marks; i++) {
    lua_createtable(L, 0, 4);
    lua_pushstring(L, mark_names[t->marks[i].kind]);
    lua_setfield(L, -2, "kind");
    set_integer(L, "worker", t->marks[i].track);
    set_number(L, "at", (lua_Number)(t->marks[i].at_ns - t->began_ns) / NS_PER_S);
    set_integer(L, "number", (uint64_t)t->marks[i].number);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  lua_createtable(L, 0, MARK_KINDS);
  for (i = 1; i < MARK_KINDS; i++) set_integer(L, mark_names[i], t->counts[i]);
  lua_setfield(L, -2, "counts");
}

/*
 * record:read() -> { seconds =, bin =, tracks =, items =, times =, slowest =, marks =, errors =, events =, lost =, cycles = }: by
 * now. seconds: since it was opened, up to the last event; bin: how long one is; items: whose times are in `times`.
 */
static int record_read(lua_State *L) {
  const struct trace *t = luaL_checkudata(L, 1, RECORD_TYPE);
  int64_t length = t->end_ns > t->began_ns ? t->end_ns - t->began_ns : 0;
  uint32_t n_bins = (uint32_t)(length / t->bin_ns) + 1;
  uint64_t buckets[EVENTS_BUCKETS], items = trace_items(t, buckets);
  lua_createtable(L, 0, 10);
  set_number(L, "seconds", (lua_Number)length / NS_PER_S);
  set_number(L, "bin", (lua_Number)t->bin_ns / NS_PER_S);
  push_tracks(L, t, n_bins < TRACE_BINS ? n_bins : TRACE_BINS);
  lua_setfield(L, -2, "tracks");
  set_integer(L, "items", items);
  push_times(L, buckets);
  lua_setfield(L, -2, "times");
  push_slowest(L, t);
  lua_setfield(L, -2, "slowest");
  push_marks(L, t);
  lua_setfield(L, -2, "marks");
  lua_getiuservalue(L, 1, RECORD_ERRORS);
  lua_setfield(L, -2, "errors");
  set_integer(L, "events", t->events);
  set_integer(L, "lost", t->lost);
  set_integer(L, "cycles", t->cycles);
  return 1;
}

/* ---- the table ---- */

void ltrace_open(lua_State *L) {
  static const luaL_Reg of_file[] = {{"flush", file_flush}, {"close", file_close}, {NULL, NULL}};
  static const luaL_Reg of_record[] = {{"read", record_read}, {"past", record_past}, {"is_live", record_is_live}, {NULL, NULL}};
  lclass_define(L, FILE_TYPE, of_file, file_close);
  lclass_define(L, RECORD_TYPE, of_record, record_gc);
  lclass_add(L, "trace_file", core_trace_file);
  lclass_add(L, "write_file", core_write_file);
  lclass_add(L, "record", core_record);
}
