/*
 * command/modules -- modules that lie beside the script.
 *
 * Room: command (touches lua_State; may raise).  Owns: nothing; the searchers are Lua's own.
 */
#ifndef LUAPOOL_COMMAND_MODULES_H
#define LUAPOOL_COMMAND_MODULES_H

#include <lua.h>

/*
 * modules_beside -- `require` looks in the script's folder, too, after everything else: FOLDER/?.lua, FOLDER/?/init.lua, FOLDER/?.so.
 * package.path and package.cpath stay what they are. The folder is that of the name as it was given, "." for a name without one. A folder
 * whose name holds a ';' or a '?' cannot be written in a path, and is not searched.
 */
void modules_beside(lua_State *L, const char *script);

#endif
