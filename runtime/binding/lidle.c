/*
 * binding/lidle -- see lidle.h. A host that waits for a lock or a channel still serves its pools, too: whom it waits for may have died in
 * one of them.
 *
 * Room: binding (may include binding/lcall.h, binding/lpool.h and binding/lshared.h).  Owns: nothing.
 */
#include "binding/lidle.h"

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

/* Push the list of all handles: callbacks may open and close pools. */
static void push_list(lua_State *L) {
  int top = lua_gettop(L);
  lua_newtable(L);
  if (lpool_push_handles(L)) {
    lua_pushnil(L);
    while (lua_next(L, top + 2)) lua_rawseti(L, top + 1, (lua_Integer)lua_rawlen(L, top + 1) + 1);
  }
  lua_settop(L, top + 1);
}

static void work(lua_State *L) {
  int top = lua_gettop(L);
  push_list(L);
  for (lua_Integer i = 1; lua_rawgeti(L, top + 1, i) == LUA_TUSERDATA; i++) {
    struct lpool *lp = lua_touserdata(L, -1);
    if (has_work(lp)) lpump_work(L, lp);
    lua_settop(L, top + 1);
  }
  lua_settop(L, top);
}

/* ---- beside somebody who types ---- */

int lidle_fds(lua_State *L, int *fds, int most) {
  int n = 0, top = lua_gettop(L);
  if (!lua_checkstack(L, 4)) return 0;
  if (lpool_push_handles(L)) {
    lua_pushnil(L);
    while (n < most && lua_next(L, top + 1)) {
      struct lpool *lp = lua_touserdata(L, -1);
      int fd = has_work(lp) ? pool_fd(lp->pool) : -1;
      if (fd >= 0) {
        lpump_rest(lp);
        fds[n++] = fd;
      }
      lua_pop(L, 1);
    }
  }
  lua_settop(L, top);
  return n;
}

struct beside {
  void (*clear)(void);
  int is_disturbed;
};

/* One pool's turn. What its tasks print clears the line by itself; what callbacks do cannot be known. */
static void serve(lua_State *L, struct lpool *lp, struct beside *beside) {
  if (lp->has_hook && beside->clear) {
    beside->clear();
    beside->is_disturbed = 1;
  }
  if (beside->clear) {
    (void)loutput_line(lp, 1);
    lp->is_beside = 1;
  }
  lpump_work(L, lp);
  if (lp->pool) lpump_rest(lp);
}

/* (beside): all pools with something to do. */
static int serve_all(lua_State *L) {
  struct beside *beside = lua_touserdata(L, 1);
  push_list(L);
  for (lua_Integer i = 1; lua_rawgeti(L, 2, i) == LUA_TUSERDATA; i++) {
    struct lpool *lp = lua_touserdata(L, -1);
    if (has_work(lp)) serve(L, lp, beside);
    lua_settop(L, 2);
  }
  return 0;
}

/* The line is the typist's again, whatever pool has written in it. */
static void take_line_back(lua_State *L, struct beside *beside) {
  int top = lua_gettop(L);
  if (!beside->clear || !lua_checkstack(L, 4)) return;
  if (lpool_push_handles(L)) {
    lua_pushnil(L);
    while (lua_next(L, top + 1)) {
      struct lpool *lp = lua_touserdata(L, -1);
      if (lp->is_beside && !loutput_line(lp, 0)) beside->is_disturbed = 1;
      lp->is_beside = 0;
      lua_pop(L, 1);
    }
  }
  lua_settop(L, top);
}

int lidle_attend(lua_State *L, void (*clear)(void), int *is_disturbed) {
  struct beside beside = {clear, 0};
  int status;
  lua_pushcfunction(L, serve_all);
  lua_pushlightuserdata(L, &beside);
  status = lua_pcall(L, 1, 0, 0);
  take_line_back(L, &beside);
  *is_disturbed = beside.is_disturbed;
  return status;
}

void lidle_open(lua_State *L) {
  static const struct shared_idle idle = {is_due, work};
  shared_set_idle(L, &idle);
}
