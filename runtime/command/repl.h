/*
 * command/repl -- the prompt on a terminal: an editor, history, completion, and lua/command/repl, which does everything else.
 *
 * Room: command (may print).  Owns: nothing beyond the call.
 */
#ifndef LUAPOOL_COMMAND_REPL_H
#define LUAPOOL_COMMAND_REPL_H

#include <lua.h>

/*
 * repl_run -- until the input ends. Ctrl-C while typing drops what is typed, while something runs that; SIGTERM and SIGHUP are raised, with
 * the terminal as it was. Inside a run scope and under a protected call.
 */
void repl_run(lua_State *L);

#endif
