/*
 * binding/ltrace -- records (pool/trace) and the files that their events go to, for lua/luapool/record.lua.
 *
 * Room: binding.  Owns: the record, or the file, in its userdata. A pool's handle holds its record, a record its file.
 */
#ifndef LUAPOOL_BINDING_LTRACE_H
#define LUAPOOL_BINDING_LTRACE_H

#include <lua.h>

#include "pool/trace.h"

/* ltrace_test -- the record at index, NULL: it is none. */
struct trace *ltrace_test(lua_State *L, int index);

/*
 * ltrace_error -- an error table and a record are on top: the record counts it, and keeps it if it is one of the first; pops the record.
 * May raise (memory). ltrace_keep_stats -- the stats of a pool and its record are on top, and are popped. Does not raise.
 */
void ltrace_error(lua_State *L);
void ltrace_keep_stats(lua_State *L);

/*
 * ltrace_check -- say, once, that the file of the record cannot be written any more.
 * ltrace_problem -- a file that was asked for is not, or not wholly, written: told to whoever wants to know, else a warning.
 * ltrace_on_problem -- who that is. It may not raise.
 */
void ltrace_check(lua_State *L, const struct trace *t);
void ltrace_problem(lua_State *L, const char *text);
void ltrace_on_problem(lua_State *L, void (*fn)(const char *text));

/* ltrace_open -- into the table on top: trace_file and record. */
void ltrace_open(lua_State *L);

#endif
