/*
 * command/prompt -- read a statement, run it, print what it returns.
 *
 * Room: command (may print).
 */
#ifndef LUAPOOL_COMMAND_PROMPT_H
#define LUAPOOL_COMMAND_PROMPT_H

#include <lua.h>

/*
 * prompt_run -- until the input ends. Ctrl-C while typing drops the statement, while it runs the statement's work;
 * SIGTERM and SIGHUP are raised. Inside a run scope and under a protected call.
 */
void prompt_run(lua_State *L);

#endif
