/*
 * binding/llong -- what long jobs need of C: each function adds its part to the table on top of the stack ("core").
 *
 * Room: binding (ljournal.c, lfingerprint.c, lterminal.c and lluapool.c include this).
 */
#ifndef LUAPOOL_BINDING_LLONG_H
#define LUAPOOL_BINDING_LLONG_H

#include <lua.h>

/* ljournal_open -- journal, coder: the file of a log, values as text. */
void ljournal_open(lua_State *L);

/* lfingerprint_open -- hash, code, upvalue, place, known: what identifies a function. */
void lfingerprint_open(lua_State *L);

/* lterminal_open -- isatty, is_foreground, terminal_width, write_stderr: drawing on a terminal. */
void lterminal_open(lua_State *L);

#endif
