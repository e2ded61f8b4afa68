/* binding/lhelper -- see lhelper.h (may include binding/lworker.h). */
#include "binding/lhelper.h"

#include <dlfcn.h>
#include <errno.h>
#include <lauxlib.h>
#include <limits.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "binding/lworker.h"

#ifndef LUAPOOL_LIBEXECDIR
#define LUAPOOL_LIBEXECDIR "/usr/local/libexec/luapool"
#endif
#ifndef LUAPOOL_BINDIR
#define LUAPOOL_BINDIR "/usr/local/bin"
#endif

#define HOME "luapool.home"
#define HELPER "luapool.helper"
#define IS_COMMAND "luapool.is_command"

/* ---- finding ---- */

void lhelper_open(lua_State *L) {
  char path[PATH_MAX], *slash;
  Dl_info about;
  /* An address of this library's; a function's would do as well, but C does not let it be one. */
  if (dladdr(&lhelper_marker, &about) == 0 || about.dli_fname == NULL || realpath(about.dli_fname, path) == NULL) return;
  slash = strrchr(path, '/');
  if (slash == NULL) return;
  *slash = '\0';
  lua_pushstring(L, path);
  lua_setfield(L, LUA_REGISTRYINDEX, HOME);
}

static int is_program(const char *path) {
  return access(path, X_OK) == 0;
}

/* directory/luapool, if it is there. */
static int try_directory(char path[LHELPER_PATH_BYTES], const char *directory, const char *more) {
  int length = snprintf(path, LHELPER_PATH_BYTES, "%s%s/luapool", directory, more);
  return length > 0 && length < LHELPER_PATH_BYTES && is_program(path);
}

static int try_text(char path[LHELPER_PATH_BYTES], const char *text) {
  if (text == NULL || *text == '\0' || strlen(text) >= LHELPER_PATH_BYTES) return 0;
  strcpy(path, text);
  return 1;
}

static const char *environment(const char *name) {
#ifdef __GLIBC__
  return secure_getenv(name); /* a program with more rights than its user executes nothing of the user's choice */
#else
  return getenv(name);
#endif
}

static int try_field(lua_State *L, char path[LHELPER_PATH_BYTES], const char *field) {
  int is_there;
  lua_getfield(L, LUA_REGISTRYINDEX, field);
  is_there = try_text(path, lua_tostring(L, -1));
  lua_pop(L, 1);
  return is_there;
}

void lhelper_find(lua_State *L, const char *option, char path[LHELPER_PATH_BYTES]) {
  if (try_text(path, option) || try_text(path, environment("LUAPOOL_HELPER")) || try_field(L, path, HELPER)) return;
  lua_getfield(L, LUA_REGISTRYINDEX, HOME);
  if (lua_isstring(L, -1) && (try_directory(path, lua_tostring(L, -1), "") || try_directory(path, lua_tostring(L, -1), "/.."))) {
    lua_pop(L, 1);
    return;
  }
  lua_pop(L, 1);
  if (try_directory(path, LUAPOOL_LIBEXECDIR, "") || try_directory(path, LUAPOOL_BINDIR, "")) return;
  strcpy(path, "luapool");
}

void luapool_set_helper(lua_State *L, const char *path) {
  lua_pushstring(L, path);
  lua_setfield(L, LUA_REGISTRYINDEX, HELPER);
}

void luapool_set_command(lua_State *L) {
  lua_pushboolean(L, 1);
  lua_setfield(L, LUA_REGISTRYINDEX, IS_COMMAND);
}

int lhelper_is_command(lua_State *L) {
  int is_it = lua_getfield(L, LUA_REGISTRYINDEX, IS_COMMAND) == LUA_TBOOLEAN && lua_toboolean(L, -1);
  lua_pop(L, 1);
  return is_it;
}

/* ---- telling ---- */

static void append(lua_State *L, struct bytes *out, const char *text, size_t length) {
  uint32_t head = (uint32_t)length;
  if (bytes_append(out, &head, sizeof head) < 0 || bytes_append(out, text, length) < 0) luaL_error(L, "not enough memory");
}

/* Which of Lua's own libraries the state has: a worker gets these, and no others. */
static void append_libraries(lua_State *L, struct bytes *out) {
  char found[LWORKER_LIBRARIES];
  size_t i, n = 0;
  int top = lua_gettop(L);
  for (i = 0; i < LWORKER_LIBRARIES; i++) {
    lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    if (lua_istable(L, -1) && lua_getfield(L, -1, lworker_libraries[i].name) == LUA_TTABLE) found[n++] = lworker_libraries[i].letter;
    lua_settop(L, top);
  }
  append(L, out, found, n);
}

static void append_path(lua_State *L, struct bytes *out, const char *name) {
  const char *text = "";
  size_t length = 0;
  int top = lua_gettop(L);
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  if (lua_istable(L, -1) && lua_getfield(L, -1, LUA_LOADLIBNAME) == LUA_TTABLE && lua_getfield(L, -1, name) == LUA_TSTRING)
    text = lua_tolstring(L, -1, &length);
  append(L, out, text, length);
  lua_settop(L, top);
}

void lhelper_config(lua_State *L, struct bytes *out) {
  char build[LWORKER_BUILD_BYTES];
  lworker_describe_build(L, build);
  append(L, out, build, strlen(build));
  append_libraries(L, out);
  append_path(L, out, "path");
  append_path(L, out, "cpath");
}
