/*
 * command/parts -- what the module has in the command alone: the prompt, the one-liners, many machines. A program that takes the library
 * shall not grow by them.
 *
 * Room: command.
 */
#ifndef LUAPOOL_COMMAND_PARTS_H
#define LUAPOOL_COMMAND_PARTS_H

#include <lua.h>

/* parts_open -- add them to a state that has the module, before anything asks for one. May raise (memory). */
void parts_open(lua_State *L);

#endif
