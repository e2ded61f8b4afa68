/*
 * command/repl -- see repl.h.
 *
 * Room: command (may print).
 * lua/command/repl decides; it is given what only the program can do, as a table of functions, and is called again and again for one step
 * each: read a statement, run it, print what it returns. Whatever comes out of a step, an interrupt above all, does not end the prompt.
 */
#include "command/repl.h"

#include <lauxlib.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "binding/lluapool.h"
#include "command/call.h"
#include "command/history.h"
#include "command/line_editor.h"
#include "job/delivery.h"

enum { MOST_FAILURES = 100 }; /* steps that fail one after the other without a line being read: it will not get better */

static int n_failures;

/* host.read(prompt) -> text | nil, "end" | nil, "dropped" */
static int host_read(lua_State *L) {
  enum line line = line_editor_read(L, luaL_checkstring(L, 1));
  n_failures = 0;
  if (line == LINE_READ) return 1;
  lua_pushnil(L);
  lua_pushstring(L, line == LINE_END ? "end" : "dropped");
  return 2;
}

/* host.add(text, limit): for the keys that go back */
static int host_add(lua_State *L) {
  line_editor_add(luaL_checkstring(L, 1), (int)luaL_checkinteger(L, 2));
  return 0;
}

/* host.write(text): on stdout, at once; what nobody reads is lost */
static int host_write(lua_State *L) {
  size_t length;
  const char *text = luaL_checklstring(L, 1, &length);
  fwrite(text, 1, length, stdout);
  fflush(stdout);
  return 0;
}

/* host.complain(text): on stderr */
static int host_complain(lua_State *L) {
  fflush(stdout);
  call_message(luaL_checkstring(L, 1));
  return 0;
}

static int result_of(lua_State *L, int status, int n_results) {
  if (status == 0) return n_results;
  lua_pushnil(L);
  lua_pushstring(L, strerror(-status));
  return 2;
}

/* host.remember(line) -> true | nil, reason */
static int host_remember(lua_State *L) {
  size_t length;
  const char *line = luaL_checklstring(L, 1, &length);
  lua_pushboolean(L, 1);
  return result_of(L, history_append(line, length), 1);
}

/* host.recall(limit) -> lines as one text */
static int host_recall(lua_State *L) {
  history_push(L, (int)luaL_checkinteger(L, 1));
  return 1;
}

/* host.history_path() -> text | nil, reason */
static int host_history_path(lua_State *L) {
  char path[PATH_MAX];
  int status = history_path(path, sizeof path);
  lua_pushstring(L, status == 0 ? path : "");
  return result_of(L, status, 1);
}

/* host.signal(err) -> number of the signal that an error came of; 0: none */
static int host_signal(lua_State *L) {
  lua_settop(L, 1);
  lua_pushinteger(L, delivery_signal(L, 1));
  return 1;
}

/* host.set_completer(table): see line_editor.h */
static int host_set_completer(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  line_editor_set_completer(L);
  return 0;
}

static const luaL_Reg host_functions[] = {
  {"read", host_read}, {"add", host_add}, {"write", host_write}, {"complain", host_complain}, {"remember", host_remember},
  {"recall", host_recall}, {"history_path", host_history_path}, {"signal", host_signal}, {"set_completer", host_set_completer},
  {NULL, NULL}};

/* -> the table { step =, finish = } of lua/command/repl */
static int start(lua_State *L) {
  int ignores_environment;
  luapool_push_part(L, "repl");
  lua_getfield(L, -1, "start");
  luaL_newlib(L, host_functions);
  ignores_environment = lua_getfield(L, LUA_REGISTRYINDEX, "LUA_NOENV") != LUA_TNIL && lua_toboolean(L, -1);
  lua_pop(L, 1);
  lua_pushstring(L, line_editor_open(!ignores_environment));
  lua_setfield(L, -2, "editor");
  lua_call(L, 1, 1);
  return 1;
}

/*
 * What came out of a step. Returns 0 if the prompt cannot go on: the error is still there then. (Errors of what was typed are reported in
 * the step; these are ours, or came just between two steps.)
 */
static int take_error(lua_State *L, int status) {
  int signo = delivery_signal(L, -1);
  if ((signo && signo != SIGINT) || n_failures++ > MOST_FAILURES) return 0;
  if (signo) {
    call_message("interrupted!");
    lua_pop(L, 1);
  } else {
    call_report(L, status);
  }
  return 1;
}

/* The function of the REPL's table at index 1, with the n arguments at the top of the stack. */
static int call_part(lua_State *L, const char *name, int n_arguments) {
  lua_getfield(L, 1, name);
  lua_insert(L, -n_arguments - 1);
  return lua_pcall(L, n_arguments, 1, 0);
}

/* Until the end of the input: leaves nil, or the error that ends it all, on the stack. */
static void loop(lua_State *L) {
  int status;
  do {
    lua_settop(L, 1);
    status = call_part(L, "step", 0);
  } while (status == LUA_OK ? lua_toboolean(L, -1) : take_error(L, status));
  if (status == LUA_OK) lua_pushnil(L);
}

void repl_run(lua_State *L) {
  const char *program = call_set_program(NULL);
  lua_settop(L, 0);
  lua_pushcfunction(L, start);
  lua_call(L, 0, 1);
  loop(L);
  call_set_program(program);
  if (call_part(L, "finish", 1) != LUA_OK || !lua_isnil(L, -1)) lua_error(L);
  lua_settop(L, 0);
}
