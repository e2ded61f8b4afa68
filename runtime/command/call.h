/*
 * command/call -- the one way from the command into Lua code, and what is said when that fails.
 *
 * Room: command (may print).  Owns: the name in front of messages.
 */
#ifndef LUAPOOL_COMMAND_CALL_H
#define LUAPOOL_COMMAND_CALL_H

#include <lua.h>

/* call_set_program -- the name in front of messages; NULL: none (at the prompt). Returns the one before. Kept, not copied. */
const char *call_set_program(const char *program);

/* call_program -- the name in front of messages. */
const char *call_program(void);

/* call_message -- "program: text" on stderr. */
void call_message(const char *text);

/*
 * call_function -- lua_pcall with a handler that adds a traceback to strings (and leaves interrupts as they are).
 * Inside a run scope.
 */
int call_function(lua_State *L, int n_arguments, int n_results);

/* call_report -- if status is not LUA_OK: print the error at the top of the stack and pop it. Returns status. */
int call_report(lua_State *L, int status);

/* call_interrupted_by -- the signal of the last interrupt that call_report printed (0: its last error was none). */
int call_interrupted_by(void);

/* call_chunk -- run and report what luaL_load... pushed with `status`. */
int call_chunk(lua_State *L, int status);

/* call_load_file -- luaL_loadfile; a load from stdin that an interrupt ended raises that interrupt. */
int call_load_file(lua_State *L, const char *name);

#endif
