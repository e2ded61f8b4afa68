/*
 * command/state -- the Lua state of the program: as luaL_newstate makes one, over an allocator of its own.
 *
 * Room: command (may print and abort).  Owns: the state's allocator. There is one state.
 */
#ifndef LUAPOOL_COMMAND_STATE_H
#define LUAPOOL_COMMAND_STATE_H

#include <lua.h>

/* state_open -- NULL: no memory. Warnings are off, as in lua. */
lua_State *state_open(void);

/* state_close -- lua_close, and what the allocator still holds. */
void state_close(lua_State *L);

#endif
