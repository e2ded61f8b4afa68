/*
 * binding/lfingerprint -- what lua/luapool/fingerprint.lua needs to see of functions, also in a state without the debug library.
 *
 * Room: binding (may include binding/lclass.h, and binding/llong.h, where it is declared).  Owns: nothing.
 */
#include <lauxlib.h>

#include "base/bytes.h"
#include "base/hash.h"
#include "binding/lclass.h"
#include "binding/llong.h"
#include "job/closure.h"

/* core.hash(text [, seed]) -> integer */
static int core_hash(lua_State *L) {
  size_t length;
  const char *text = luaL_checklstring(L, 1, &length);
  lua_pushinteger(L, (lua_Integer)hash_bytes((uint64_t)luaL_optinteger(L, 2, 0), text, length));
  return 1;
}

struct names {
  lua_State *L;
  int table;
};

static void add_name(void *context, int environment, const char *text, size_t length) {
  struct names *names = context;
  (void)environment; /* there is but one: find_environments */
  lua_pushlstring(names->L, text, length);
  lua_pushboolean(names->L, 1);
  lua_rawset(names->L, names->table);
}

static void find_environments(lua_State *L, unsigned char is_environment[256]) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
  for (int i = 1; i < 256 && lua_getupvalue(L, 1, i); i++) {
    is_environment[i - 1] = (unsigned char)lua_rawequal(L, -1, -2);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

/* (function, bytes as light userdata) -> digest, set of the globals that it names */
static int describe_code(lua_State *L) {
  struct bytes *dump = lua_touserdata(L, 2);
  unsigned char is_environment[256] = {0};
  struct closure_report report;
  struct names names = {L, 3};
  lua_newtable(L);
  find_environments(L, is_environment);
  lua_pushvalue(L, 1);
  if (closure_dump(L, dump) < 0) return luaL_error(L, "not enough memory");
  lua_pop(L, 1);
  closure_scan(dump->data, dump->length, is_environment, add_name, &names, &report);
  if (!report.is_understood) report.digest = hash_bytes(0, dump->data, dump->length); /* a Lua that dumps otherwise: all of it, then */
  lua_pushinteger(L, (lua_Integer)report.digest);
  lua_pushvalue(L, 3);
  return 2;
}

/* core.code(fn) -> digest of its code, set of the globals that the code names | nil: it is a C function */
static int core_code(lua_State *L) {
  struct bytes dump;
  int status;
  luaL_checktype(L, 1, LUA_TFUNCTION);
  if (lua_iscfunction(L, 1)) return 0;
  lua_settop(L, 1);
  bytes_init(&dump);
  lua_pushcfunction(L, describe_code);
  lua_pushvalue(L, 1);
  lua_pushlightuserdata(L, &dump);
  status = lua_pcall(L, 2, 2, 0);
  bytes_free(&dump);
  return status == LUA_OK ? 2 : lua_error(L);
}

/* core.upvalue(fn, i) -> name ("" if it has none), value | nil: there are fewer */
static int core_upvalue(lua_State *L) {
  const char *name;
  luaL_checktype(L, 1, LUA_TFUNCTION);
  name = lua_getupvalue(L, 1, (int)luaL_checkinteger(L, 2));
  if (name == NULL) return 0;
  lua_pushstring(L, name);
  lua_insert(L, -2);
  return 2;
}

/* core.place(fn) -> "job.lua:12" | "C function" */
static int core_place(lua_State *L) {
  lua_Debug about;
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  lua_getinfo(L, ">S", &about);
  if (about.what[0] == 'C') {
    lua_pushliteral(L, "C function");
  } else {
    lua_pushfstring(L, "%s:%d", about.short_src, about.linedefined);
  }
  return 1;
}

/* core.known() -> table of globals, table of loaded modules */
static int core_known(lua_State *L) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  return 2;
}

void lfingerprint_open(lua_State *L) {
  lclass_add(L, "hash", core_hash);
  lclass_add(L, "code", core_code);
  lclass_add(L, "upvalue", core_upvalue);
  lclass_add(L, "place", core_place);
  lclass_add(L, "known", core_known);
}
