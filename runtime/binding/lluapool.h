/*
 * binding/lluapool -- the module `luapool` as Lua sees it.
 *
 * Room: binding (touches lua_State; may raise).
 */
#ifndef LUAPOOL_BINDING_LLUAPOOL_H
#define LUAPOOL_BINDING_LLUAPOOL_H

#include <lua.h>

/* luaopen_luapool -- push the module table. Starts no process, no thread, no signal handler. */
int luaopen_luapool(lua_State *L);

/* luapool_set_default_workers -- how many workers a pool of this state has if nothing else says so (the command's -j). */
void luapool_set_default_workers(lua_State *L, int n);

#endif
