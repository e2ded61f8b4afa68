/*
 * job/last_words -- where a Lua program is, told from the handler of the signal of which its process dies.
 *
 * Room: job (may include job/delivery.h).  Touches lua_State: reads it, allocates nothing, pushes nothing, raises nothing. Owns: nothing.
 */
#ifndef LUAPOOL_JOB_LAST_WORDS_H
#define LUAPOOL_JOB_LAST_WORDS_H

#include <lua.h>
#include <stddef.h>

/*
 * last_words_write -- the innermost levels of L's stack, one a line, worded as luaL_traceback does, the line break and tab before each
 * included. The text always ends by a zero byte, also when what is read of L turns out to be damaged, and a signal ends this half-way.
 *   capacity  bytes at text, at least 1
 */
void last_words_write(lua_State *L, char *text, size_t capacity);

#endif
