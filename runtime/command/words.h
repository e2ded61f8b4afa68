/*
 * command/words -- luapool map, filter, reduce: one-liners over lines.
 *
 * Room: command.
 */
#ifndef LUAPOOL_COMMAND_WORDS_H
#define LUAPOOL_COMMAND_WORDS_H

#include <lua.h>

/*
 * words_run -- argv[0] is the word. Everything is done in lua/command/oneliner. Returns the status of the process. Inside a run scope,
 * under a protected call; raises interrupts.
 */
int words_run(lua_State *L, int argc, char **argv);

#endif
