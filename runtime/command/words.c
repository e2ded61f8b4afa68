/*
 * command/words -- see words.h.
 *
 * Room: command.  Owns: nothing.
 */
#include "command/words.h"

#include <lauxlib.h>

#include "binding/lluapool.h"
#include "command/call.h"

int words_run(lua_State *L, int argc, char **argv) {
  int status;
  luaL_checkstack(L, argc + 4, "too many arguments");
  luapool_push_part(L, "oneliner");
  lua_getfield(L, -1, "main");
  lua_remove(L, -2);
  lua_pushstring(L, call_program());
  for (int i = 0; i < argc; i++) lua_pushstring(L, argv[i]);
  lua_call(L, argc + 1, 1);
  status = (int)lua_tointeger(L, -1);
  lua_pop(L, 1);
  return status;
}
