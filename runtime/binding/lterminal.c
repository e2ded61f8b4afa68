/*
 * binding/lterminal -- what drawing on a terminal needs, for lua/luapool/progress.lua.
 *
 * Room: binding (may include binding/lclass.h, and binding/llong.h, where it is declared).
 * Owns: nothing; the descriptors are the process's.
 */
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/os.h"
#include "binding/lclass.h"
#include "binding/llong.h"

/* core.isatty(fd) -> boolean */
static int core_isatty(lua_State *L) {
  lua_pushboolean(L, os_is_terminal((int)luaL_checkinteger(L, 1)));
  return 1;
}

/* core.is_foreground(fd) -> boolean: may this process write to that terminal without being in somebody's way? */
static int core_is_foreground(lua_State *L) {
  lua_pushboolean(L, os_is_foreground((int)luaL_checkinteger(L, 1)));
  return 1;
}

/* core.terminal_width(fd) -> columns now; 0: no terminal, or not known */
static int core_terminal_width(lua_State *L) {
  lua_pushinteger(L, os_terminal_width((int)luaL_checkinteger(L, 1)));
  return 1;
}

/*
 * core.write_stderr(text [, patient]) -> boolean: was it written?
 * One write, behind what the script's own io.stderr still holds. Unless `patient`, nothing is written while the other side does not take it
 * (a stopped terminal, a full pipe): a picture of progress is not worth waiting for. Never raises for a closed stderr.
 */
static int core_write_stderr(lua_State *L) {
  size_t length;
  const char *text = luaL_checklstring(L, 1, &length);
  struct pollfd out = {STDERR_FILENO, POLLOUT, 0};
  int is_ready = os_poll(&out, 1, 0) == 1 || lua_toboolean(L, 2);
  if (out.revents & (POLLERR | POLLNVAL)) is_ready = 0; /* nobody reads it any more: the write would raise SIGPIPE */
  if (is_ready && !ferror(stderr)) fflush(stderr);
  lua_pushboolean(L, is_ready && os_write(STDERR_FILENO, text, length) == 0);
  return 1;
}

/* core.environment(name) -> string or nil: also where there is no os library */
static int core_environment(lua_State *L) {
  lua_pushstring(L, getenv(luaL_checkstring(L, 1)));
  return 1;
}

void lterminal_open(lua_State *L) {
  lclass_add(L, "isatty", core_isatty);
  lclass_add(L, "is_foreground", core_is_foreground);
  lclass_add(L, "terminal_width", core_terminal_width);
  lclass_add(L, "environment", core_environment);
  lclass_add(L, "write_stderr", core_write_stderr);
}
