/*
 * binding/lidle -- a host that waits for a lock or a channel still serves its pools: whom it waits for may have died in one of them.
 *
 * Room: binding (may include binding/lcall.h, binding/lpool.h and binding/lshared.h).  Owns: nothing.
 */
#include <lauxlib.h>
#include <unistd.h>

#include "binding/lcall.h"
#include "binding/lpool.h"
#include "binding/lshared.h"

static int has_work(const struct lpool *lp) {
  return lp->pool != NULL && lp->owner == getpid() && lp->taking == NULL && !lp->is_terminated && (lp->open != NULL || lp->ending != NULL);
}

static int is_due(lua_State *L) {
  int due = 0, top = lua_gettop(L);
  if (lpool_push_handles(L)) {
    lua_pushnil(L);
    while (!due && lua_next(L, top + 1)) {
      due = has_work(lua_touserdata(L, -1));
      lua_pop(L, 1);
    }
  }
  lua_settop(L, top);
  return due;
}

/* Callbacks may open and close pools: the list is made before. */
static void work(lua_State *L) {
  int top = lua_gettop(L);
  lua_newtable(L);
  if (lpool_push_handles(L)) {
    lua_pushnil(L);
    while (lua_next(L, top + 2)) lua_rawseti(L, top + 1, (lua_Integer)lua_rawlen(L, top + 1) + 1);
  }
  for (lua_Integer i = 1; lua_rawgeti(L, top + 1, i) == LUA_TUSERDATA; i++) {
    struct lpool *lp = lua_touserdata(L, -1);
    if (has_work(lp)) lpump_work(L, lp);
    lua_settop(L, top + 1);
  }
  lua_settop(L, top);
}

void lidle_open(lua_State *L) {
  static const struct shared_idle idle = {is_due, work};
  shared_set_idle(L, &idle);
}
