/*
 * binding/features -- what a build of the library can be without: the one table of it (features.c).
 *
 * Room: binding (may include binding/embedded.h; touches lua_State).  Owns: the field `features` of core.
 * A feature is reached through this table alone: by the functions that it adds to core, and by its Lua files (those that say "Feature:
 * NAME." in their first lines). What nobody reaches is not linked. Whoever offers something of a feature asks first (core.lacks).
 *
 * Which ones a build has: all; with -DLUAPOOL_SMALL none; -DLUAPOOL_HAS_JOURNAL=1 (or 0) says it for one. (make SMALL=1 WITH=journal.)
 */
#ifndef LUAPOOL_BINDING_FEATURES_H
#define LUAPOOL_BINDING_FEATURES_H

#include <lua.h>

#include "binding/embedded.h"

/* features_open -- into the table on top, core: what the features that are there add, and `features` and `lacks`. */
void features_open(lua_State *L);

/* features_need -- raises "this build of luapool has no journal (...)" if it has not. The name is one of the table. */
void features_need(lua_State *L, const char *name);

/*
 * features_files -- the Lua files of feature number i, from 0. NULL: it has none, or is not there; also behind the last, where *is_end
 * becomes 1.
 */
const struct embedded *features_files(unsigned i, int *is_end);

#endif
