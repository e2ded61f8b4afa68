/*
 * binding/lhelper -- workers that are not copies of the host: which program starts them, what it is told first, and being that program.
 *
 * Room: binding (touches lua_State; may raise).  Owns: the registry fields luapool.home, luapool.helper, luapool.is_command.
 */
#ifndef LUAPOOL_BINDING_LHELPER_H
#define LUAPOOL_BINDING_LHELPER_H

#include <lua.h>
#include <stddef.h>

#include "base/bytes.h"

enum { LHELPER_PATH_BYTES = 4096 };

/* lhelper_open -- note where this library was loaded from, before anybody changes the directory. */
void lhelper_open(lua_State *L);

/*
 * lhelper_find -- the program to execute, into path: `option` (NULL: not said), the environment's LUAPOOL_HELPER, what the program itself
 * said (luapool_set_helper), `luapool` beside this library or in the folder above, in the folders it was built for, else "luapool", which
 * is searched in PATH.
 */
void lhelper_find(lua_State *L, const char *option, char path[LHELPER_PATH_BYTES]);

/* lhelper_config -- append what the helper is told first: which Lua this is, the libraries that the state has, its package paths. */
void lhelper_config(lua_State *L, struct bytes *out);

/* luapool_set_helper -- the program to execute for workers of this state, if nothing else is said. */
void luapool_set_helper(lua_State *L, const char *path);

/* luapool_set_command -- this state is a program's of which all is known: "auto" is "fork" in it. */
void luapool_set_command(lua_State *L);

/* lhelper_is_command -- 1 after luapool_set_command. */
int lhelper_is_command(lua_State *L);

#endif
