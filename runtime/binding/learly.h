/*
 * binding/learly -- the early start: a copy of the program, forked before it has threads, from which workers are forked when it has some.
 *
 * Room: binding (touches lua_State; may raise).  Owns: the registry field luapool.early, a userdata with the copy's process in it. It was
 * made before the pools that use it, so that lua_close collects it after them.
 */
#ifndef LUAPOOL_BINDING_LEARLY_H
#define LUAPOOL_BINDING_LEARLY_H

#include <lua.h>

struct server;

/*
 * learly_open -- into the table on top: early_start(), which forks the copy, if there is none (that lives). It raises why it cannot be, and
 * does not return in the copy.
 */
void learly_open(lua_State *L);

/*
 * learly_find -- the copy that this process made of this state, while it lives, and push what codec_know_early wants; NULL: there is none,
 * and nothing is pushed. Good as long as the state.
 */
struct server *learly_find(lua_State *L);

#endif
