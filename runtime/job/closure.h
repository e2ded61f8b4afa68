/*
 * job/closure -- the code of Lua functions to bytes and back, and what the code says about globals and upvalues.
 *
 * Room: job (used by job/codec; binding/lfingerprint asks what the code says).  Owns: nothing.
 * Upvalues are values and belong to job/codec; here is only bytecode: dumped with debug information, guarded by a checksum, because Lua
 * does not check bytecode when it loads it.
 */
#ifndef LUAPOOL_JOB_CLOSURE_H
#define LUAPOOL_JOB_CLOSURE_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

/* closure_dump -- append length, checksum and bytecode of the Lua function on top of the stack. Returns 0 or -ENOMEM. Does not raise. */
int closure_dump(lua_State *L, struct bytes *out);

/*
 * closure_load -- push the function dumped at *at (fresh upvalues, all nil but for the first: Lua's doing) and move *at behind it.
 * Returns 0; -EBADMSG: nothing pushed (also bytecode of another Lua version). May raise (memory).
 */
int closure_load(lua_State *L, const unsigned char **at, const unsigned char *end);

/* What the code of a function (functions inside it included) does. */
struct closure_report {
  int sets_upvalues; /* some upvalue is assigned to */
  unsigned char is_value[256]; /* by number, of environments from 2 on: the code does more with it than to read and set fields by name */
  int is_understood; /* 0: the bytecode could not be read to its end */
  uint64_t digest;   /* of instructions and constants, without names of variables, of the file, and line numbers */
};

/*
 * closure_scan -- read the dump that closure_dump appended at `dump`.
 *   environment   for each upvalue of the function: 1 if its value is the table of globals; a number from 2 on for any other table whose
 *                 fields the code names as globals; else 0
 *   name          called with the number, and each name that the code reads there (maybe more than once); may raise
 */
void closure_scan(const unsigned char *dump, size_t length, const unsigned char environment[256],
                  void (*name)(void *context, int environment, const char *text, size_t length), void *context,
                  struct closure_report *report);

#endif
