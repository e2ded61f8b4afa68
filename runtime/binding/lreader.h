/*
 * binding/lreader -- input as blocks of whole items (lines): what the one-liners of the command read.
 *
 * Room: binding (llines.c, lpace.c and command/ include this).
 * A block is as large as asked for, or as much as is there: who reads a pipe that is filled line by line gets each line at once.
 */
#ifndef LUAPOOL_BINDING_LREADER_H
#define LUAPOOL_BINDING_LREADER_H

#include <lua.h>

#define LREADER_TYPE "luapool.reader"

/*
 * lreader_would_wait -- 1 if asking the reader (a userdata of LREADER_TYPE) for a block now would wait for somebody, or if it was told so;
 * 0: it would not.
 */
int lreader_would_wait(void *reader);

/* lreader_is_held -- 1 if the reader was told to wait: no look at its file changes that. */
int lreader_is_held(const void *reader);

/* lreader_open_library -- add core.reader to the table on top of the stack. */
void lreader_open_library(lua_State *L);

#endif
