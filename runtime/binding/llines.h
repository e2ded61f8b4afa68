/*
 * binding/llines -- a block of lines, and a function called with each: the inner loop of the one-liners.
 *
 * Room: binding (command/ includes this).
 */
#ifndef LUAPOOL_BINDING_LLINES_H
#define LUAPOOL_BINDING_LLINES_H

#include <lua.h>

/* llines_open_library -- add core.lines to the table on top of the stack. */
void llines_open_library(lua_State *L);

#endif
