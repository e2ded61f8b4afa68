/*
 * binding/lprogram -- a shell command, run by a task, with its output caught: the jobs of `luapool map --cmd`.
 *
 * Room: binding (command/ includes this).
 */
#ifndef LUAPOOL_BINDING_LPROGRAM_H
#define LUAPOOL_BINDING_LPROGRAM_H

#include <lua.h>

/* lprogram_open_library -- add core.run to the table on top of the stack. */
void lprogram_open_library(lua_State *L);

#endif
