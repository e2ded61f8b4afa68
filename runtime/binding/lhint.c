/*
 * binding/lhint -- see lcall.h. What is remembered of functions: how long their items took.
 *
 * Room: binding (may include binding/lcall.h, binding/lpool.h and pool/schedule.h).  Owns: nothing; lp->hints are a pool's.
 * A function is known by where it is written, so that the closures which a loop makes anew are one. Hints are hints: should another
 * function pass for it, the first claims of a call are a little larger or smaller than they should be.
 */
#include <lauxlib.h>
#include <string.h>

#include "binding/lcall.h"
#include "pool/schedule.h"

/* Where is the function on top written? Pops it. */
static void identify(lua_State *L, struct lpool_hint *hint) {
  lua_Debug ar;
  if (lua_iscfunction(L, -1)) {
    lua_CFunction function = lua_tocfunction(L, -1);
    memcpy(&hint->code, &function, sizeof hint->code);
    hint->line = -1;
    lua_pop(L, 1);
    return;
  }
  lua_getinfo(L, ">S", &ar);
  hint->code = ar.source; /* compared, never read: the text may be gone */
  hint->line = ar.linedefined;
}

static void push_function(lua_State *L, const struct call *c) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, c->job.fn_reference);
  if (!(c->work.flags & BOARD_WRAPPED)) return;
  (void)lua_getupvalue(L, -1, 1);
  if (lua_isfunction(L, -1)) {
    lua_remove(L, -2);
  } else {
    lua_pop(L, 1);
  }
}

/* What was said of it, or the place of the one that was not asked for longest. */
static struct lpool_hint *find(struct lpool *lp, const struct lpool_hint *wanted) {
  struct lpool_hint *oldest = lp->hints;
  int i;
  for (i = 0; i < LPOOL_HINTS; i++) {
    struct lpool_hint *hint = &lp->hints[i];
    if (hint->code == wanted->code && hint->line == wanted->line) return hint;
    if (hint->call < oldest->call) oldest = hint;
  }
  *oldest = *wanted;
  return oldest;
}

void lhint_begin(lua_State *L, struct call *c) {
  struct lpool_hint wanted = {0}, *hint;
  uint64_t known;
  push_function(L, c);
  identify(L, &wanted);
  hint = find(c->lp, &wanted);
  known = hint->call ? pool_item_ns(c->lp->pool, hint->call) : 0;
  if (known && known != hint->guess_ns) hint->item_ns = known; /* (else nobody has measured any) */
  hint->call = c->number;
  hint->guess_ns = c->work.item_ns = hint->item_ns ? schedule_first_guess(hint->item_ns) : 0;
}
