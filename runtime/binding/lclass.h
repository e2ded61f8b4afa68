/*
 * binding/lclass -- classes of userdata.
 *
 * Room: binding (touches lua_State).  Owns: nothing.  Any file of binding/ may include this.
 */
#ifndef LUAPOOL_BINDING_LCLASS_H
#define LUAPOOL_BINDING_LCLASS_H

#include <lauxlib.h>
#include <lua.h>

/*
 * lclass_add -- into the table on top: a function. What is opened with each program is added so, call by call, which takes a third of what
 * a constant luaL_Reg does: its two pointers are relocated. May raise (memory).
 */
void lclass_add(lua_State *L, const char *name, lua_CFunction fn);

/*
 * lclass_define -- make the metatable of a class, in the registry as `name` (for luaL_setmetatable and luaL_checkudata), unless it is
 * there: its methods, and gc as its __gc. Pushes nothing. May raise (memory).
 */
void lclass_define(lua_State *L, const char *name, const luaL_Reg *methods, lua_CFunction gc);

#endif
