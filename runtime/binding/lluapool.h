/*
 * binding/lluapool -- the module `luapool` as Lua sees it.
 *
 * Room: binding (touches lua_State; may raise).
 */
#ifndef LUAPOOL_BINDING_LLUAPOOL_H
#define LUAPOOL_BINDING_LLUAPOOL_H

#include <lua.h>

struct embedded;

/* luaopen_luapool -- push the module table. Starts no process, no thread, no signal handler. */
int luaopen_luapool(lua_State *L);

/*
 * luapool_push_part -- push what NAME.lua, of lua/luapool or of the files that were added, returns, in a state that has the module. Raises
 * if there is no such file.
 *
 * luapool_add_files -- what the command has and the library has not: files that luapool_push_part and the files themselves find, too. The
 * array (see binding/embedded.h) must live as long as the state; there is one. luapool_files: these, or NULL.
 *
 * luapool_push_core -- push the table of C functions that all files get, so that a program adds its own.
 *
 * luapool_set_option -- an option of the command by its long name ("on-crash"), as text: a default for the pools and calls of this state.
 * The last one counts. luapool_check_options raises a message that names the option, or the variable of the environment, whose value cannot
 * be.
 *
 * luapool_on_problem -- who is told that a file which was asked for (a trace, a report) is not, or not wholly, written; else it is a
 * warning. Any time until the state is closed; fn may not raise.
 */
void luapool_on_problem(lua_State *L, void (*fn)(const char *text));
void luapool_push_part(lua_State *L, const char *name);
void luapool_add_files(lua_State *L, const struct embedded *files);
const struct embedded *luapool_files(lua_State *L);
void luapool_push_core(lua_State *L);
void luapool_set_option(lua_State *L, const char *name, const char *value);
void luapool_check_options(lua_State *L);

#endif
