/*
 * binding/lblock -- numbers from a node, as one string that nobody reads before they are where they belong.
 *
 * Room: binding (touches lua_State).  Owns: nothing.
 */
#ifndef LUAPOOL_BINDING_LBLOCK_H
#define LUAPOOL_BINDING_LBLOCK_H

#include <lua.h>

/* lblock_open -- core on top of the stack: core.block, core.fill_from, core.sized. For the command: they are for many machines. */
void lblock_open(lua_State *L);

#endif
