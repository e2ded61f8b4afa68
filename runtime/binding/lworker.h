/*
 * binding/lworker -- being a worker's program: what the helper does between its execution and a worker's first task.
 *
 * Room: binding (may include binding/lhelper.h, binding/lluapool.h and binding/lwarn.h).  Owns, in the helper: the Lua state
 * that workers are born with.
 */
#ifndef LUAPOOL_BINDING_LWORKER_H
#define LUAPOOL_BINDING_LWORKER_H

#include <lua.h>

enum { LWORKER_LIBRARIES = 9, LWORKER_BUILD_BYTES = 128 };

/* Lua's own libraries but for the basic one, as a configuration names them. */
struct lworker_library {
  char letter;
  const char *name;
  lua_CFunction open;
};
extern const struct lworker_library lworker_libraries[LWORKER_LIBRARIES];

/* Any address of this library. */
extern const char lhelper_marker;

/*
 * lworker_describe_build -- which luapool and which Lua this is: bytecode and shared memory cross only between two that give the same text.
 * May raise (memory).
 */
void lworker_describe_build(lua_State *L, char text[LWORKER_BUILD_BYTES]);

#endif
