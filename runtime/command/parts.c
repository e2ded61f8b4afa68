/*
 * command/parts -- see parts.h.
 *
 * Room: command.  Owns: the files of lua/cluster and lua/command, as they were at the build.
 */
#include "command/parts.h"

#include "binding/embedded.h"
#include "binding/lblock.h"
#include "binding/llines.h"
#include "binding/lluapool.h"
#include "binding/lprogram.h"
#include "binding/lreader.h"
#include "binding/lwire.h"

extern const struct embedded embedded_command; /* made by scripts/embed-lua.lua */

void parts_open(lua_State *L) {
  luapool_push_core(L);
  lreader_open_library(L);
  llines_open_library(L);
  lprogram_open_library(L);
  lwire_open(L);
  lblock_open(L);
  lua_pop(L, 1);
  luapool_add_files(L, &embedded_command);
}
