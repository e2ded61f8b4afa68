/*
 * binding/lidle -- pools go on while the program waits for something else: at the prompt, for a person who types.
 *
 * Room: binding.
 */
#ifndef LUAPOOL_BINDING_LIDLE_H
#define LUAPOOL_BINDING_LIDLE_H

#include <lua.h>

/*
 * lidle_fds -- the descriptors (at most `most`; how many is returned) of this state's pools in which something is under way. One becomes
 * readable when lidle_attend has something to do. They are the pools', and may be gone after any Lua code. Never raises.
 */
int lidle_fds(lua_State *L, int *fds, int most);

/*
 * lidle_attend -- do what there is to do in these pools: results are taken, output of tasks is written, callbacks run. Does not wait.
 * `clear` (or NULL: nothing is drawn): erases the line at which somebody types, before anything else is written there; *is_disturbed: it is
 * to be drawn again. Returns LUA_OK; or lua_pcall's status with the error (an interrupt, too) on top of the stack.
 */
int lidle_attend(lua_State *L, void (*clear)(void), int *is_disturbed);

#endif
