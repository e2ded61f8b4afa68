/*
 * binding/lwire -- the socket to the relay (cluster/relay.h) as Lua sees it: messages of values, to and from nodes.
 *
 * Room: binding (touches lua_State).  Owns: per state one wire, through a userdata in the registry.
 */
#ifndef LUAPOOL_BINDING_LWIRE_H
#define LUAPOOL_BINDING_LWIRE_H

#include <lua.h>

/*
 * lwire_attach -- from now on this state's pools work through the relay at the other end of `fd`, which is taken over.
 *   is_pool   0: this is the script; 1: the pool of a node, to which others send their work
 * To be called before any code of the user's runs: both ends begin as copies of each other. May raise (memory).
 */
void lwire_attach(lua_State *L, int fd, int is_pool);

/*
 * lwire_end -- in a script: has the process ended that leads to the nodes? How, for the user (valid as long as the state); NULL: it lives.
 * May wait for what the system tells, a second at most; what was to interrupt the script because of it is withdrawn.
 */
const char *lwire_end(lua_State *L);

/* lwire_open -- core on top of the stack: core.wire, core.build. For the command: the library works on one machine. */
void lwire_open(lua_State *L);

#endif
