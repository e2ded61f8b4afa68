/*
 * binding/lshared -- shared memory as scripts see it: pool.array and its like.
 *
 * Room: binding (touches lua_State; may raise).  lshared.c: what they have in common. larray.c: arrays.
 * The metatable of each class is made when its first object is made, or arrives: a program that uses none pays for none.
 */
#ifndef LUAPOOL_BINDING_LSHARED_H
#define LUAPOOL_BINDING_LSHARED_H

#include <lua.h>

/* lshared_open -- add the functions to the table on top of the stack ("core"), and let streams carry the objects. May raise (memory). */
void lshared_open(lua_State *L);

/* larray_new -- core.array(type, n | table | array [...]): see pool.array in lua/luapool/init.lua. */
int larray_new(lua_State *L);

/* larray_length -- core.array_length(value) -> integer, or nil if the value is no array. */
int larray_length(lua_State *L);

/* larray_open -- make the metatable of arrays (luaL_newmetatable); nothing stays on the stack. May raise (memory). */
void larray_open(lua_State *L);

#endif
