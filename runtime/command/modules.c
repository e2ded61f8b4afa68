/*
 * command/modules -- see modules.h.
 *
 * Lua's searchers take the paths from the package table that is their upvalue. Ours are the same functions over another table, whose paths
 * are those of the script's folder; so they find, load, and say in messages, exactly what Lua's do.
 */
#include "command/modules.h"

#include <lauxlib.h>
#include <lualib.h>
#include <string.h>

enum { FIRST_SEARCHER = 2, LAST_SEARCHER = 4 }; /* Lua files, C libraries, all in one; not package.preload */

/* Pushes the folder; 0: it cannot be searched. */
static int push_folder(lua_State *L, const char *script) {
  const char *slash = strrchr(script, '/');
  if (slash == script) lua_pushliteral(L, "");
  else if (slash) lua_pushlstring(L, script, (size_t)(slash - script));
  else lua_pushliteral(L, ".");
  if (!strpbrk(lua_tostring(L, -1), LUA_PATH_SEP LUA_PATH_MARK)) return 1;
  lua_pop(L, 1);
  return 0;
}

/* Pushes what takes the place of `package` in our searchers. */
static void push_paths(lua_State *L, const char *folder) {
  lua_createtable(L, 0, 2);
  lua_pushfstring(L, "%s/?.lua;%s/?/init.lua", folder, folder);
  lua_setfield(L, -2, "path");
  lua_pushfstring(L, "%s/?.so", folder);
  lua_setfield(L, -2, "cpath");
}

/* A searcher (upvalue) that keeps to itself where it looked in vain. */
static int search_silently(lua_State *L) {
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
  return lua_isfunction(L, 1) ? lua_gettop(L) : 0;
}

void modules_beside(lua_State *L, const char *script) {
  int top = lua_gettop(L), searchers, paths;
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  if (lua_getfield(L, -1, LUA_LOADLIBNAME) == LUA_TTABLE && lua_getfield(L, -1, "searchers") == LUA_TTABLE && push_folder(L, script)) {
    int is_here = strcmp(lua_tostring(L, -1), ".") == 0; /* as a rule, Lua's own path has named it already in the message */
    searchers = top + 3;
    push_paths(L, lua_tostring(L, -1));
    paths = lua_gettop(L);
    for (int i = FIRST_SEARCHER; i <= LAST_SEARCHER; i++) {
      lua_CFunction searcher;
      lua_rawgeti(L, searchers, i);
      searcher = lua_tocfunction(L, -1);
      if (!searcher) continue;
      lua_pushvalue(L, paths);
      lua_pushcclosure(L, searcher, 1);
      if (is_here) lua_pushcclosure(L, search_silently, 1);
      lua_rawseti(L, searchers, luaL_len(L, searchers) + 1);
    }
  }
  lua_settop(L, top);
}
