/*
 * binding/lshared -- shared memory as scripts see it: pool.array, counter, lock, semaphore and channel.
 *
 * Room: binding (touches lua_State; may raise).  lshared.c: what they have in common; larray.c, lcounter.c, llock.c,
 * lchannel.c: each class.
 * The metatable of each class is made when its first object is made, or arrives: a program that uses none pays for none.
 */
#ifndef LUAPOOL_BINDING_LSHARED_H
#define LUAPOOL_BINDING_LSHARED_H

#include <lauxlib.h>
#include <lua.h>
#include <stdint.h>

#include "job/shared.h"

/* lshared_open -- add the functions to the table on top of the stack ("core"), and let streams carry the objects. May raise (memory). */
void lshared_open(lua_State *L);

/* lidle_open -- while somebody waits for shared memory, the pools of this state go on (lidle.c). May raise (memory). */
void lidle_open(lua_State *L);

/* ---- for the classes ---- */

/*
 * lshared_check -- the object of that kind at index 1, else an error that says what was expected.
 * lshared_check_integer -- the integer at index; what it is not is an error (argument numbers of a method do not count the object).
 * lshared_check_timeout -- seconds at index (nil, none: for ever) as the time on the clock of os_now_ns when they are over.
 */
struct shared *lshared_check(lua_State *L, enum shared_kind kind, const char *what, const char *method);
lua_Integer lshared_check_integer(lua_State *L, int index, const char *function);
int64_t lshared_check_timeout(lua_State *L, int index, const char *function);

/*
 * lshared_define -- make the metatable of a class of plain struct shared: its methods, equality (the same object), text, and what else
 * is in `meta` (or NULL). May raise (memory).
 */
void lshared_define(lua_State *L, const struct codec_native *native, const luaL_Reg *methods, const luaL_Reg *meta,
                    lua_CFunction tostring);

/* lshared_new -- push a new object with a segment of its own. Raises if there is no memory or descriptor for it. */
struct shared *lshared_new(lua_State *L, enum shared_kind kind, const char *class_name, uint64_t length, uint64_t bytes);

/* ---- the classes: core.array and so on (see lua/luapool/init.lua), and what makes their metatables ---- */

int larray_new(lua_State *L);
void larray_open(lua_State *L);

/* larray_length -- core.array_length(value) -> integer, or nil if the value is no array. */
int larray_length(lua_State *L);

int lcounter_new(lua_State *L);
void lcounter_open(lua_State *L);

int lchannel_new(lua_State *L);
void lchannel_open(lua_State *L);

int llock_new(lua_State *L);
void llock_open(lua_State *L);
void llock_open_guard(lua_State *L);
int llock_new_semaphore(lua_State *L);
void llock_open_semaphore(lua_State *L);

#endif
