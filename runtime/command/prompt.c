/*
 * command/prompt -- the prompt where stdin is no terminal: exactly lua's, without readline. (On a terminal: command/repl.)
 *
 * Room: command (may print).  The Lua stack holds the statement at index 1 while it is read.
 */
#include "command/prompt.h"

#include <lauxlib.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "command/call.h"
#include "command/plain_line.h"
#include "job/delivery.h"

/* Lua's mark at the end of the message about a statement that has not ended yet. */
static const char end_mark[] = "<eof>";

/* Leaves the prompt's value on the stack, to keep the text alive. */
static const char *push_prompt(lua_State *L, int is_first) {
  if (lua_getglobal(L, is_first ? "_PROMPT" : "_PROMPT2") == LUA_TNIL) return is_first ? "> " : ">> ";
  return luaL_tolstring(L, -1, NULL);
}

/* Push one line. */
static enum line push_line(lua_State *L, int is_first) {
  int base = lua_gettop(L);
  enum line line = plain_line_read(L, push_prompt(L, is_first));
  lua_replace(L, base + 1);
  lua_settop(L, base + 1);
  return line;
}

/* For those used to Lua 5.2: "=value" means "return value". */
static void accept_equals(lua_State *L) {
  const char *line = lua_tostring(L, -1);
  if (line[0] != '=') return;
  lua_pushfstring(L, "return %s", line + 1);
  lua_replace(L, -2);
}

static int is_incomplete(lua_State *L, int status) {
  size_t length;
  const char *message;
  if (status != LUA_ERRSYNTAX) return 0;
  message = lua_tolstring(L, -1, &length);
  return length >= sizeof end_mark - 1 && strcmp(message + length - (sizeof end_mark - 1), end_mark) == 0;
}

static int load_expression(lua_State *L) {
  const char *text = lua_pushfstring(L, "return %s;", lua_tostring(L, 1));
  int status = luaL_loadbuffer(L, text, strlen(text), "=stdin");
  if (status == LUA_OK) lua_remove(L, -2);
  else lua_settop(L, 1);
  return status;
}

/* Reads on while the statement is not whole. *line says how reading ended; the chunk or the message is at index 2. */
static int load_statement(lua_State *L, enum line *line) {
  for (;;) {
    size_t length;
    const char *text = lua_tolstring(L, 1, &length);
    int status = luaL_loadbuffer(L, text, length, "=stdin");
    if (!is_incomplete(L, status)) return status;
    *line = push_line(L, 0);
    if (*line != LINE_READ) {
      lua_settop(L, 2); /* the message about the unfinished statement */
      return status;
    }
    lua_remove(L, 2);
    lua_pushliteral(L, "\n");
    lua_insert(L, -2);
    lua_concat(L, 3);
  }
}

/* Leaves the chunk or the error message alone on the stack, unless the line was dropped or there is none. */
static enum line load(lua_State *L, int *status) {
  enum line line;
  lua_settop(L, 0);
  line = push_line(L, 1);
  if (line != LINE_READ) return line;
  accept_equals(L);
  *status = load_expression(L);
  if (*status != LUA_OK) *status = load_statement(L, &line);
  if (line == LINE_DROPPED) return line;
  lua_remove(L, 1);
  return LINE_READ; /* at the end of the input the unfinished statement is reported first */
}

/* What a Ctrl-C cancelled is over, and that is all; a signal that ends the program goes on. */
static void report(lua_State *L, int status) {
  int signo = delivery_signal(L, -1);
  if (signo && signo != SIGINT) lua_error(L);
  if (signo) call_message("interrupted!");
  else call_report(L, status);
}

static void print_results(lua_State *L) {
  int status, n = lua_gettop(L);
  if (n == 0) return;
  luaL_checkstack(L, LUA_MINSTACK, "too many results to print");
  lua_getglobal(L, "print");
  lua_insert(L, 1);
  status = lua_pcall(L, n, 0, 0);
  if (status == LUA_OK) return;
  if (delivery_is_interrupt(L, -1)) report(L, status);
  else call_message(lua_pushfstring(L, "error calling 'print' (%s)", lua_tostring(L, -1)));
}

void prompt_run(lua_State *L) {
  const char *program = call_set_program(NULL);
  enum line line;
  int status = LUA_OK;
  while ((line = load(L, &status)) != LINE_END) {
    if (line == LINE_DROPPED) {
      putchar('\n');
      continue;
    }
    if (status == LUA_OK) status = call_function(L, 0, LUA_MULTRET);
    if (status == LUA_OK) print_results(L);
    else report(L, status);
  }
  lua_settop(L, 0);
  putchar('\n');
  fflush(stdout);
  call_set_program(program);
}
