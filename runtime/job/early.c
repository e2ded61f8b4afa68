/* job/early -- see early.h (may include job/names.h). */
#include "job/early.h"

#include <lauxlib.h>

#include "job/names.h"

/* A walk over all that can be reached; its tables, by stack index. Objects wait in the queue: nesting costs no C stack. */
struct walk {
  lua_State *L;
  int seen, queue, map, list;
  lua_Integer n_queued, n_noted;
};

/* The value on top is one that only its copy can stand for. */
static void note(struct walk *w) {
  lua_State *L = w->L;
  lua_pushvalue(L, -1);
  lua_pushinteger(L, ++w->n_noted);
  lua_rawset(L, w->map);
  lua_pushfstring(L, "%I", (LUAI_UACINT)w->n_noted); /* keys of names are strings */
  lua_pushvalue(L, -2);
  lua_rawset(L, w->list);
}

/* The walk comes to the value on top, and pops it. */
static void meet(struct walk *w) {
  lua_State *L = w->L;
  int type = lua_type(L, -1), is_new;
  if (type != LUA_TTABLE && type != LUA_TFUNCTION && type != LUA_TUSERDATA) {
    lua_pop(L, 1);
    return;
  }
  lua_pushvalue(L, -1);
  is_new = lua_rawget(L, w->seen) == LUA_TNIL;
  lua_pop(L, 1);
  if (!is_new) {
    lua_pop(L, 1);
    return;
  }
  lua_pushvalue(L, -1);
  lua_pushboolean(L, 1);
  lua_rawset(L, w->seen);
  if (type == LUA_TUSERDATA || lua_iscfunction(L, -1)) note(w);
  lua_rawseti(L, w->queue, ++w->n_queued);
}

/* Where does the object on top lead? */
static void visit(struct walk *w) {
  lua_State *L = w->L;
  int object = lua_gettop(L), i;
  if (lua_getmetatable(L, object)) meet(w);
  if (lua_istable(L, object)) {
    lua_pushnil(L);
    while (lua_next(L, object)) {
      meet(w);
      lua_pushvalue(L, -1);
      meet(w);
    }
  } else if (lua_isfunction(L, object)) {
    for (i = 1; lua_getupvalue(L, object, i); i++) meet(w);
  } else {
    for (i = 1; lua_getiuservalue(L, object, i) != LUA_TNONE; i++) meet(w);
  }
  lua_settop(L, object);
}

static void open_map(lua_State *L) {
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "k");
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
}

void early_note(lua_State *L) {
  struct walk w = {.L = L};
  lua_Integer i;
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  open_map(L);
  w.map = lua_gettop(L);
  lua_newtable(L);
  w.list = w.map + 1;
  lua_newtable(L);
  w.seen = w.map + 2;
  lua_newtable(L);
  w.queue = w.map + 3;
  lua_pushvalue(L, LUA_REGISTRYINDEX);
  meet(&w);
  for (i = 1; i <= w.n_queued; i++) {
    lua_rawgeti(L, w.queue, i);
    visit(&w);
    lua_pop(L, 1);
  }
  lua_pushvalue(L, w.list);
  names_set_early(L);
  lua_settop(L, w.map);
}

void early_forget(lua_State *L) {
  luaL_checkstack(L, 1, NULL);
  lua_pushnil(L);
  names_set_early(L);
}
