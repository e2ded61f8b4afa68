/* binding/lstep -- what a `for` over a stream calls: index, value of each item. */
#ifndef LUAPOOL_BINDING_LSTEP_H
#define LUAPOOL_BINDING_LSTEP_H

#include <lua.h>

/*
 * lstep_new -- core.stepper(frames): (a function) -> a function that gives index, value for each item, or index, nil, error; nothing at the
 * end, and from then on.
 *   frames   gives (first, count, values), or (first, 1, nil, error), or nothing at the end
 */
int lstep_new(lua_State *L);

#endif
