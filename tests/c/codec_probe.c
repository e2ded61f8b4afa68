/*
 * codec_probe -- a Lua module that shows job/codec to tests/test_codec.lua: never part of the product.
 *
 * Built as $(BUILD)/tests/codec_probe.so with $(BUILD)/libluapool.a, not linked to liblua: it uses the Lua of the program that loads it.
 *
 *   codec = probe.open()              codec:start([flags [, root]])   codec:write(v) -> true | nil, message, errno
 *   codec:bytes() -> string           codec:rollback()                codec:is_stateless()         codec:name_function(f | nil)
 *   codec:read_start(string)          codec:read() -> true, v | nil, message, errno
 *   codec:read_array(t, first, count) -> done | nil, message, errno, done
 *   probe.late(boolean): from now on every read is late wherever it may be, and goes on again;  probe.pauses() -> how often that was so
 *   probe.register(name, class [, save, load])
 *   probe.userdata(value [, metatable])  probe.value_of(userdata)     probe.light()                probe.c_function()
 *   state = probe.state("all" | "base" | "none")    another Lua state, with its own allocator, in which `probe` is a global
 *   state:run(code, strings ...) -> true, strings ... | false, message
 *   probe.fail(n)    in such a state: the n-th allocation from now on and all that follow fail, until state:run ends
 *   state:live() -> bytes in use      state:close()
 */
#include <errno.h>
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "job/codec.h"
#include "job/codec_parts.h"

int luaopen_codec_probe(lua_State *L);

/* ---- codec objects ----------------------------------------------------------------------------------------- */

struct probe {
  struct codec *codec;
  struct bytes out;
  struct codec_reader reader;
};

static struct probe *check_probe(lua_State *L) {
  return luaL_checkudata(L, 1, "codec_probe");
}

static int probe_open(lua_State *L) {
  struct probe *p = lua_newuserdatauv(L, sizeof *p, 2); /* 1: the codec, 2: the bytes being read */
  memset(p, 0, sizeof *p);
  bytes_init(&p->out);
  luaL_setmetatable(L, "codec_probe");
  p->codec = codec_open(L);
  lua_setiuservalue(L, -2, 1);
  return 1;
}

static int probe_gc(lua_State *L) {
  bytes_free(&check_probe(L)->out);
  return 0;
}

static int probe_start(lua_State *L) {
  struct probe *p = check_probe(L);
  static char root[64];
  strncpy(root, luaL_optstring(L, 3, "result"), sizeof root - 1);
  bytes_clear(&p->out);
  if (bytes_append(&p->out, "head", 4) < 0) return luaL_error(L, "not enough memory"); /* the caller's header stays untouched */
  codec_begin(p->codec, &p->out, (int)luaL_optinteger(L, 2, 0), root);
  return 0;
}

static int push_failure(lua_State *L, struct probe *p, int status) {
  lua_pushnil(L);
  lua_pushstring(L, codec_message(p->codec));
  lua_pushinteger(L, -status);
  return 3;
}

static int probe_write(lua_State *L) {
  struct probe *p = check_probe(L);
  int top = lua_gettop(L), status = codec_write(p->codec, L, 2);
  if (lua_gettop(L) != top) return luaL_error(L, "codec_write leaves the stack unbalanced");
  if (status < 0) return push_failure(L, p, status);
  lua_pushboolean(L, 1);
  return 1;
}

static int probe_bytes(lua_State *L) {
  struct probe *p = check_probe(L);
  if (p->out.length < 4 || memcmp(p->out.data, "head", 4) != 0) return luaL_error(L, "the caller's header was overwritten");
  lua_pushlstring(L, (const char *)p->out.data + 4, p->out.length - 4);
  return 1;
}

static int probe_rollback(lua_State *L) {
  codec_rollback(check_probe(L)->codec);
  return 0;
}

static int probe_is_stateless(lua_State *L) {
  lua_pushboolean(L, codec_is_stateless(check_probe(L)->codec));
  return 1;
}

static int probe_name_function(lua_State *L) {
  struct probe *p = check_probe(L);
  codec_name_function(p->codec, L, lua_isnoneornil(L, 2) ? 0 : 2);
  return 0;
}

static int probe_read_start(lua_State *L) {
  struct probe *p = check_probe(L);
  size_t length;
  const char *data = luaL_checklstring(L, 2, &length);
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, 1, 2);
  codec_read_begin(p->codec, &p->reader, (const unsigned char *)data, length);
  return 0;
}

/* ---- reading in slices ---- */

static int is_late;
static lua_Integer n_pauses;

static int probe_late(lua_State *L) {
  is_late = lua_toboolean(L, 1);
  return 0;
}

static int probe_pauses(lua_State *L) {
  lua_pushinteger(L, n_pauses);
  return 1;
}

/* It was late: the next part begins elsewhere on the stack, where something else lies between. */
static void pause(struct codec *c, lua_State *L) {
  n_pauses++;
  lua_checkstack(L, 1);
  lua_pushinteger(L, n_pauses);
  codec_read_until(c, 1);
}

static void begin_late(struct codec *c) {
  c->check_bytes = 1;
  codec_read_until(c, 1);
}

static int read_one(struct codec *c, lua_State *L, struct codec_reader *reader) {
  int top = lua_gettop(L), status;
  begin_late(c);
  while ((status = codec_read(c, L, reader)) == -EAGAIN) pause(c, L);
  codec_read_until(c, 0);
  if (status == 0) lua_rotate(L, top + 1, 1);
  lua_settop(L, top + (status == 0));
  return status;
}

static int read_many(struct codec *c, lua_State *L, struct codec_reader *reader, lua_Integer first, size_t count, size_t *done) {
  int top = lua_gettop(L), status;
  size_t some = 0;
  begin_late(c);
  while ((status = codec_read_array(c, L, reader, 2, first + (lua_Integer)*done, count - *done, &some)) == -EAGAIN) {
    *done += some;
    pause(c, L);
  }
  codec_read_until(c, 0);
  *done += some;
  lua_settop(L, top);
  return status;
}

static int probe_read(lua_State *L) {
  struct probe *p = check_probe(L);
  int top, status;
  lua_settop(L, 1);
  lua_pushboolean(L, 1);
  top = lua_gettop(L);
  status = is_late ? read_one(p->codec, L, &p->reader) : codec_read(p->codec, L, &p->reader);
  if (lua_gettop(L) != top + (status == 0)) return luaL_error(L, "codec_read leaves the stack unbalanced");
  return status < 0 ? push_failure(L, p, status) : 2;
}

static int probe_read_array(lua_State *L) {
  struct probe *p = check_probe(L);
  size_t done = 0;
  int top = lua_gettop(L);
  lua_Integer first = luaL_checkinteger(L, 3), count = luaL_checkinteger(L, 4);
  int status = is_late ? read_many(p->codec, L, &p->reader, first, (size_t)count, &done)
                       : codec_read_array(p->codec, L, &p->reader, 2, first, (size_t)count, &done);
  if (lua_gettop(L) != top) return luaL_error(L, "codec_read_array leaves the stack unbalanced");
  if (status < 0) push_failure(L, p, status);
  lua_pushinteger(L, (lua_Integer)done);
  return status < 0 ? 4 : 1;
}

static int probe_register(lua_State *L) {
  codec_register(L, luaL_checkstring(L, 1), 2, lua_isnoneornil(L, 3) ? 0 : 3, lua_isnoneornil(L, 4) ? 0 : 4);
  return 0;
}

/* ---- things that are hard to come by in Lua ---------------------------------------------------------------- */

static int probe_userdata(lua_State *L) {
  lua_settop(L, 2);
  lua_newuserdatauv(L, 1, 1);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1);
  if (lua_istable(L, 2)) {
    lua_pushvalue(L, 2);
    lua_setmetatable(L, -2);
  }
  return 1;
}

static int probe_value_of(lua_State *L) {
  luaL_checktype(L, 1, LUA_TUSERDATA);
  lua_getiuservalue(L, 1, 1);
  return 1;
}

static int probe_light(lua_State *L) {
  lua_pushlightuserdata(L, L);
  return 1;
}

static int probe_c_function(lua_State *L) {
  lua_pushinteger(L, 1);
  lua_pushcclosure(L, probe_light, 1);
  return 1;
}

/* ---- other states ------------------------------------------------------------------------------------------ */

struct state {
  lua_State *L;
  size_t live;
  lua_Integer left; /* allocations until they fail; 0: they do not */
  int is_failing;
};

static void *allocate(void *context, void *block, size_t old_size, size_t new_size) {
  struct state *s = context;
  void *memory;
  if (block == NULL) old_size = 0;
  if (new_size == 0) {
    free(block);
    s->live -= old_size;
    return NULL;
  }
  if (new_size > old_size && s->left > 0 && --s->left == 0) s->is_failing = 1;
  if (new_size > old_size && s->is_failing) return NULL;
  memory = realloc(block, new_size);
  if (memory) s->live += new_size - old_size;
  return memory;
}

static int state_gc(lua_State *L) {
  struct state *s = luaL_checkudata(L, 1, "codec_probe.state");
  s->left = s->is_failing = 0;
  if (s->L) lua_close(s->L);
  s->L = NULL;
  lua_pushinteger(L, (lua_Integer)s->live);
  return 1;
}

static int open_libraries(lua_State *L) {
  const char *which = lua_touserdata(L, 1);
  if (strcmp(which, "all") == 0) luaL_openlibs(L);
  if (strcmp(which, "base") == 0) luaL_requiref(L, "_G", luaopen_base, 1);
  luaopen_codec_probe(L);
  lua_setglobal(L, "probe");
  return 0;
}

static int probe_state(lua_State *L) {
  const char *which = luaL_checkstring(L, 1);
  struct state *s = lua_newuserdatauv(L, sizeof *s, 0);
  memset(s, 0, sizeof *s);
  luaL_setmetatable(L, "codec_probe.state");
  s->L = lua_newstate(allocate, s);
  if (s->L == NULL) return luaL_error(L, "cannot create a state");
  lua_pushcfunction(s->L, open_libraries);
  lua_pushlightuserdata(s->L, (void *)which);
  if (lua_pcall(s->L, 1, 0, 0) != LUA_OK) return luaL_error(L, "%s", lua_tostring(s->L, -1));
  return 1;
}

/* state_run -- compile and call in the other state; only strings (and nil, booleans, integers as strings) come and go. */
static int state_run(lua_State *L) {
  struct state *s = luaL_checkudata(L, 1, "codec_probe.state");
  int n = lua_gettop(L), status, results;
  size_t length;
  const char *text = luaL_checklstring(L, 2, &length);
  lua_settop(s->L, 0);
  status = luaL_loadbuffer(s->L, text, length, "=code");
  for (int i = 3; i <= n && status == LUA_OK; i++) {
    text = luaL_checklstring(L, i, &length);
    lua_pushlstring(s->L, text, length); /* before probe.fail, so it does not raise */
  }
  if (status == LUA_OK) status = lua_pcall(s->L, n - 2, LUA_MULTRET, 0);
  s->left = s->is_failing = 0;
  results = lua_gettop(s->L);
  lua_pushboolean(L, status == LUA_OK);
  luaL_checkstack(L, results + 1, NULL);
  for (int i = 1; i <= results; i++) {
    text = luaL_tolstring(s->L, i, &length);
    lua_pushlstring(L, text, length);
    lua_settop(s->L, results);
  }
  lua_settop(s->L, 0);
  return results + 1;
}

/* probe_fail -- called in the other state by its own code: fail(n) takes effect at once and lasts to the end of state:run. */
static int probe_fail(lua_State *L) {
  void *context;
  struct state *s;
  if (lua_getallocf(L, &context) != allocate) return luaL_error(L, "this state has no failing allocator");
  s = context;
  s->is_failing = 0;
  s->left = luaL_checkinteger(L, 1);
  return 0;
}

static int state_live(lua_State *L) {
  struct state *s = luaL_checkudata(L, 1, "codec_probe.state");
  lua_pushinteger(L, (lua_Integer)s->live);
  return 1;
}

/* ---- the module -------------------------------------------------------------------------------------------- */

static void make_class(lua_State *L, const char *name, const luaL_Reg *methods, lua_CFunction gc) {
  luaL_newmetatable(L, name);
  lua_newtable(L);
  luaL_setfuncs(L, methods, 0);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
}

__attribute__((visibility("default"))) int luaopen_codec_probe(lua_State *L) {
  static const luaL_Reg codec_methods[] = {
      {"start", probe_start}, {"write", probe_write}, {"bytes", probe_bytes}, {"rollback", probe_rollback},
      {"is_stateless", probe_is_stateless}, {"name_function", probe_name_function}, {"read_start", probe_read_start},
      {"read", probe_read}, {"read_array", probe_read_array}, {NULL, NULL}};
  static const luaL_Reg state_methods[] = {{"run", state_run}, {"live", state_live}, {"close", state_gc}, {NULL, NULL}};
  static const luaL_Reg functions[] = {
      {"open", probe_open}, {"late", probe_late}, {"pauses", probe_pauses}, {"register", probe_register}, {"userdata", probe_userdata},
      {"value_of", probe_value_of},
      {"light", probe_light}, {"c_function", probe_c_function}, {"state", probe_state}, {"fail", probe_fail}, {NULL, NULL}};
  make_class(L, "codec_probe", codec_methods, probe_gc);
  make_class(L, "codec_probe.state", state_methods, state_gc);
  lua_newtable(L);
  luaL_setfuncs(L, functions, 0);
  return 1;
}
