/*
 * command/state -- see state.h.
 *
 * A block must go back to the allocator that it came from: so the state is made over ours, and luaL_newstate, which does more than that
 * (the message of a panic, warnings), cannot make it.
 */
#include "command/state.h"

#include <stdio.h>
#include <string.h>

#include "base/allocator.h"

static struct allocator *allocator; /* of the program's one state; os.exit closes that without coming back to us */

static int panic(lua_State *L) {
  const char *message = lua_tostring(L, -1);
  fprintf(stderr, "PANIC: unprotected error in call to Lua API (%s)\n", message ? message : "error object is not a string");
  fflush(stderr);
  return 0; /* Lua aborts */
}

/* ---- warnings: three states, each a function ---- */

static void warn_off(void *L, const char *text, int is_continued);
static void warn_on(void *L, const char *text, int is_continued);

/* "@on" and "@off". Any other that begins so is none either, and says nothing. */
static int is_control(lua_State *L, const char *text, int is_continued) {
  if (is_continued || text[0] != '@') return 0;
  if (strcmp(text, "@off") == 0) lua_setwarnf(L, warn_off, L);
  if (strcmp(text, "@on") == 0) lua_setwarnf(L, warn_on, L);
  return 1;
}

static void warn_off(void *L, const char *text, int is_continued) {
  is_control(L, text, is_continued);
}

static void warn_more(void *L, const char *text, int is_continued) {
  fprintf(stderr, is_continued ? "%s" : "%s\n", text);
  fflush(stderr);
  lua_setwarnf(L, is_continued ? warn_more : warn_on, L);
}

static void warn_on(void *L, const char *text, int is_continued) {
  if (is_control(L, text, is_continued)) return;
  fputs("Lua warning: ", stderr);
  warn_more(L, text, is_continued);
}

lua_State *state_open(void) {
  lua_State *L;
  allocator = allocator_open();
  L = allocator ? lua_newstate(allocator_lua, allocator) : NULL;
  if (!L) {
    allocator_close(allocator);
    return NULL;
  }
  lua_atpanic(L, panic);
  lua_setwarnf(L, warn_off, L);
  return L;
}

void state_close(lua_State *L) {
  lua_close(L);
  allocator_close(allocator);
}
