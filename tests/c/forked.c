/*
 * tests/forked -- a Lua module for tests alone: run a function in a forked copy of this process, as a foreign library might make one.
 *
 * Room: tests (never linked into a product).  Owns: the child, for the length of the call.
 * forked.run(fn) -> text, status: what fn returned (made a string; or the error), written by the child, and its wait status.
 */
#include <lauxlib.h>
#include <lua.h>
#include <sys/wait.h>
#include <unistd.h>

int luaopen_forked(lua_State *L);

_Noreturn static void be_child(lua_State *L, int fd) {
  size_t length;
  const char *text;
  lua_pushvalue(L, 1);
  lua_pcall(L, 0, 1, 0);
  text = luaL_tolstring(L, -1, &length);
  while (length > 0) {
    ssize_t put = write(fd, text, length);
    if (put <= 0) break;
    text += put;
    length -= (size_t)put;
  }
  _exit(0);
}

static int run(lua_State *L) {
  luaL_Buffer text;
  char block[1024];
  ssize_t got;
  int fds[2], status = -1;
  pid_t pid;
  luaL_checktype(L, 1, LUA_TFUNCTION);
  if (pipe(fds) != 0) return luaL_error(L, "no pipe");
  pid = fork();
  if (pid == 0) {
    close(fds[0]);
    be_child(L, fds[1]);
  }
  close(fds[1]);
  luaL_buffinit(L, &text);
  while (pid > 0 && (got = read(fds[0], block, sizeof block)) > 0) luaL_addlstring(&text, block, (size_t)got);
  close(fds[0]);
  if (pid < 0) return luaL_error(L, "no fork");
  waitpid(pid, &status, 0);
  luaL_pushresult(&text);
  lua_pushinteger(L, status);
  return 2;
}

__attribute__((visibility("default"))) int luaopen_forked(lua_State *L) {
  lua_newtable(L);
  lua_pushcfunction(L, run);
  lua_setfield(L, -2, "run");
  return 1;
}
