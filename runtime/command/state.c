/*
 * command/state -- see state.h.
 *
 * A block must go back to the allocator that it came from: so the state is made over ours, and luaL_newstate, which does more than that
 * (the message of a panic, warnings), cannot make it.
 */
#include "command/state.h"

#include <stdio.h>

#include "base/allocator.h"
#include "binding/lwarn.h"

static struct allocator *allocator; /* of the program's one state; os.exit closes that without coming back to us */

static int panic(lua_State *L) {
  const char *message = lua_tostring(L, -1);
  fprintf(stderr, "PANIC: unprotected error in call to Lua API (%s)\n", message ? message : "error object is not a string");
  fflush(stderr);
  return 0; /* Lua aborts */
}

static void say(const char *text, int ends_line) {
  fprintf(stderr, ends_line ? "%s\n" : "%s", text);
  fflush(stderr);
}

static struct lwarn warnings = {.say = say};

lua_State *state_open(void) {
  lua_State *L;
  allocator = allocator_open();
  L = allocator ? lua_newstate(allocator_lua, allocator) : NULL;
  if (!L) {
    allocator_close(allocator);
    return NULL;
  }
  lua_atpanic(L, panic);
  lwarn_open(L, &warnings);
  return L;
}

void state_close(lua_State *L) {
  lua_close(L);
  allocator_close(allocator);
}
