/*
 * command/call -- protected calls, messages, tracebacks.
 *
 * Room: command (may print).
 */
#include "command/call.h"

#include <lauxlib.h>
#include <stdio.h>

#include "job/delivery.h"
#include "process/interrupt.h"

static const char *program_name = "luapool";
static int interrupted_by;

const char *call_set_program(const char *program) {
  const char *old = program_name;
  program_name = program;
  return old;
}

const char *call_program(void) {
  return program_name;
}

void call_message(const char *text) {
  if (program_name) fprintf(stderr, "%s: ", program_name);
  fprintf(stderr, "%s\n", text ? text : "(null)");
  fflush(stderr);
}

int call_interrupted_by(void) {
  return interrupted_by;
}

/* An interrupt stays the object it is: the command must know it from a text that looks the same. */
static int handle_error(lua_State *L) {
  const char *text = lua_tostring(L, 1);
  if (!text && delivery_is_interrupt(L, 1)) return 1;
  if (!text) {
    if (luaL_callmeta(L, 1, "__tostring") && lua_type(L, -1) == LUA_TSTRING) return 1;
    text = lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
  }
  luaL_traceback(L, L, text, 1);
  return 1;
}

int call_function(lua_State *L, int n_arguments, int n_results) {
  int function = lua_gettop(L) - n_arguments;
  int status;
  lua_pushcfunction(L, handle_error);
  lua_insert(L, function);
  status = lua_pcall(L, n_arguments, n_results, function);
  lua_remove(L, function);
  return status;
}

int call_report(lua_State *L, int status) {
  if (status == LUA_OK) return status;
  interrupted_by = delivery_signal(L, -1);
  call_message(interrupted_by ? "interrupted!" : lua_tostring(L, -1));
  lua_pop(L, 1);
  return status;
}

int call_chunk(lua_State *L, int status) {
  if (status == LUA_OK) status = call_function(L, 0, 0);
  return call_report(L, status);
}

int call_load_file(lua_State *L, const char *name) {
  int status = luaL_loadfile(L, name);
  if (status == LUA_OK || name) return status;
  delivery_checkpoint(L);
  return status;
}
