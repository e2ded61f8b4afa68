/* job/task_item -- items as values and as texts: see task.h (may include job/task.h). */
#include "job/task.h"

#include <lauxlib.h>
#include <string.h>

enum { ITEM_TEXT_BYTES = 60 };

lua_State *task_main_thread(lua_State *L) {
  lua_State *main;
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  main = lua_tothread(L, -1);
  lua_pop(L, 1);
  return main;
}

void task_push_item(lua_State *L, const struct source *source, uint64_t number) {
  switch (source->kind) {
    case SOURCE_INTEGERS:
      lua_pushinteger(L, task_integer(source, number));
      break;
    case SOURCE_FLOATS:
      lua_pushnumber(L, source->first_float + (lua_Number)number * source->step_float);
      break;
    case SOURCE_TABLE:
    case SOURCE_ARRAY:
      lua_rawgeti(L, LUA_REGISTRYINDEX, source->reference);
      lua_geti(L, -1, (lua_Integer)number + 1);
      lua_remove(L, -2);
      break;
    default:
      lua_pushnil(L);
  }
}

static void push_string_text(lua_State *L, int index) {
  char text[ITEM_TEXT_BYTES + 8];
  size_t length, i, n = 0;
  const char *s = lua_tolstring(L, index, &length);
  text[n++] = '"';
  for (i = 0; i < length && n < ITEM_TEXT_BYTES; i++) text[n++] = (unsigned char)s[i] < 32 || s[i] == 127 ? '?' : s[i];
  if (i < length) {
    memcpy(text + n, "...", 3);
    n += 3;
  }
  text[n++] = '"';
  lua_pushlstring(L, text, n);
}

void task_item_text(lua_State *L, int index) {
  index = lua_absindex(L, index);
  switch (lua_type(L, index)) {
    case LUA_TSTRING:
      push_string_text(L, index);
      break;
    case LUA_TNIL:
    case LUA_TBOOLEAN:
    case LUA_TNUMBER:
      luaL_tolstring(L, index, NULL);
      break;
    default:
      lua_pushstring(L, luaL_typename(L, index));
  }
}
