/*
 * job/task_error -- what a task's error becomes on its way to the host, a record: kind, message, traceback, item, value, seconds. See
 * task_parts.h (may include job/task_parts.h and job/delivery.h).
 */
#include "job/task_parts.h"

#include <lauxlib.h>
#include <signal.h>
#include <string.h>

#include "job/delivery.h"

/* What stands below the task's function belongs to us, not to the user's program. */
static void push_traceback(lua_State *L, lua_State *of, int level) {
  static const char ours[] = "\n\t[C]: in ?";
  size_t length;
  const char *text;
  luaL_traceback(L, of, NULL, level);
  text = lua_tolstring(L, -1, &length);
  if (length > sizeof ours - 1 && memcmp(text + length - (sizeof ours - 1), ours, sizeof ours - 1) == 0) {
    lua_pushlstring(L, text, length - (sizeof ours - 1));
    lua_remove(L, -2);
  }
}

/* Where the traceback of the latest error waits: its address is the key in the registry. */
static char traceback_key;

/* `__close` variables see the value on its way. */
int task_on_error(lua_State *L) {
  push_traceback(L, L, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &traceback_key);
  lua_settop(L, 1);
  return 1;
}

/* Pushes the traceback and forgets it. */
static void take_traceback(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &traceback_key);
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &traceback_key);
}

static const char *kind_of(lua_State *L, int status, int value) {
  static const struct { int reason; const char *kind; } ours[] = {
    {INTERRUPT_TIMEOUT, "timeout"}, {INTERRUPT_CANCEL, "cancelled"}, {INTERRUPT_QUIT, "cancelled"},
    {SIGTERM, "interrupt"}, {SIGHUP, "interrupt"}};
  size_t i;
  if (status == LUA_ERRMEM) return "memory";
  for (i = 0; i < sizeof ours / sizeof *ours; i++) {
    int is_it;
    delivery_push(L, ours[i].reason);
    is_it = lua_istable(L, -1) && lua_rawequal(L, -1, value);
    lua_pop(L, 1);
    if (is_it) return ours[i].kind;
  }
  return "error";
}

/* Write the value at index into the record, or nil if it cannot cross. */
static void write_or_nil(struct task_context *t, lua_State *L, int index) {
  if (codec_write(t->codec, L, index) == 0) return;
  lua_pushnil(L);
  (void)codec_write(t->codec, L, -1);
  lua_pop(L, 1);
}

/* As the stock interpreter words it: text as it is, objects by their __tostring, others by their type. */
static void push_message(lua_State *L, int value) {
  if (lua_isstring(L, value) || luaL_getmetafield(L, value, "__tostring") != LUA_TNIL) {
    if (!lua_isstring(L, value)) lua_pop(L, 1);
    luaL_tolstring(L, value, NULL);
  } else {
    lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, value));
  }
}

/*
 * (status, error value, item text or nil, kind or nil) -> nothing; leaves the record in t->record:
 * kind, message, traceback, item, value, seconds. Runs protected: a __tostring of the user's may do anything.
 */
static int make_record(lua_State *L) {
  struct task_context *t = lua_touserdata(L, lua_upvalueindex(1));
  int status = (int)lua_tointeger(L, 1);
  const int value = 2;
  lua_settop(L, 4);
  lua_pushnil(L); /* 5: traceback */
  if (status == LUA_ERRRUN) {
    take_traceback(L);
    lua_replace(L, 5);
  }
  if (lua_isnil(L, 4)) {
    lua_pushstring(L, kind_of(L, status, value));
    lua_replace(L, 4);
  }
  push_message(L, value);
  codec_begin(t->codec, &t->record, CODEC_COPIES_OWN | CODEC_KEEPS_NONE, "error");
  (void)codec_write(t->codec, L, 4);
  (void)codec_write(t->codec, L, -1);
  write_or_nil(t, L, 5);
  write_or_nil(t, L, 3);
  write_or_nil(t, L, value);
  task_push_seconds(t, L);
  (void)codec_write(t->codec, L, -1);
  return 0;
}

void task_plain_record(struct task_context *t, lua_State *L, const char *kind, const char *message) {
  bytes_clear(&t->record);
  codec_rollback(t->codec);
  codec_begin(t->codec, &t->record, 0, "error");
  lua_pushstring(L, kind);
  (void)codec_write(t->codec, L, -1);
  lua_pushstring(L, message);
  (void)codec_write(t->codec, L, -1);
  lua_pushnil(L);
  (void)codec_write(t->codec, L, -1);
  (void)codec_write(t->codec, L, -1);
  (void)codec_write(t->codec, L, -1);
  (void)codec_write(t->codec, L, -1);
}

static int plain_record_protected(lua_State *L) {
  task_plain_record(lua_touserdata(L, 1), L, lua_tostring(L, 2), lua_tostring(L, 3));
  return 0;
}

void task_send_failure(struct task_context *t, enum worker_frame frame, int status, const char *kind, uint64_t item) {
  lua_State *T = t->thread;
  bytes_clear(&t->record);
  lua_pushlightuserdata(T, t);
  lua_pushcclosure(T, make_record, 1);
  lua_insert(T, -2);
  lua_pushinteger(T, status);
  lua_insert(T, -2);
  lua_pushnil(T);
  if (kind) {
    lua_pushstring(T, kind);
  } else {
    lua_pushnil(T);
  }
  if (lua_pcall(T, 4, 0, 0) != LUA_OK) {
    lua_pop(T, 1);
    lua_pushcfunction(T, plain_record_protected);
    lua_pushlightuserdata(T, t);
    lua_pushstring(T, status == LUA_ERRMEM ? "memory" : "error");
    lua_pushliteral(T, "an error whose value cannot be made into text");
    if (lua_pcall(T, 3, 0, 0) != LUA_OK) bytes_clear(&t->record);
  }
  worker_send(t->worker, frame, item, 1, t->record.data, t->record.length);
}
