/*
 * binding/lstep -- see lstep.h.
 *
 * Room: binding.  Owns: per loop, where it is.
 * In C because it runs once for every item: a generic `for` enters the virtual machine anew for an iterator written in Lua, which costs
 * about as much as all that imap does for the item.
 */
#include "binding/lstep.h"

#include <lauxlib.h>

struct step {
  lua_Integer before;   /* number of the item before the frame's first */
  lua_Integer at, count; /* items of the frame taken, and in it */
  int is_over;
};

enum { STATE = lua_upvalueindex(1), FRAMES = lua_upvalueindex(2), VALUES = lua_upvalueindex(3) };

/* The frame is used up: index, value of the next one's first item. */
static int begin_frame(lua_State *L, struct step *s) {
  lua_Integer first;
  if (s->is_over) return 0;
  s->at = s->count = 0;
  lua_settop(L, 0);
  lua_pushvalue(L, FRAMES);
  lua_call(L, 0, 4);
  if (lua_isnil(L, 1)) {
    s->is_over = 1;
    return 0;
  }
  first = lua_tointeger(L, 1);
  if (!lua_isnil(L, 4)) { /* an item that failed: index, nil, error */
    lua_remove(L, 2);
    return 3;
  }
  s->before = first - 1;
  s->count = lua_tointeger(L, 2);
  s->at = 1;
  lua_pushvalue(L, 3);
  lua_replace(L, VALUES);
  lua_pushvalue(L, 1);
  lua_rawgeti(L, 3, 1);
  return 2;
}

static int step(lua_State *L) {
  struct step *s = lua_touserdata(L, STATE);
  if (s->at >= s->count) return begin_frame(L, s);
  s->at++;
  lua_pushinteger(L, s->before + s->at);
  lua_rawgeti(L, VALUES, s->at);
  return 2;
}

int lstep_new(lua_State *L) {
  struct step *s;
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  s = lua_newuserdatauv(L, sizeof *s, 0);
  *s = (struct step){0};
  lua_pushvalue(L, 1);
  lua_pushnil(L);
  lua_pushcclosure(L, step, 3);
  return 1;
}
