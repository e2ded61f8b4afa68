/* binding/lshared -- see lshared.h. */
#include "binding/lshared.h"

#include <lauxlib.h>
#include <string.h>

#include "job/array.h"

static const struct {
  const struct codec_native *native;
  void (*open)(lua_State *L);
} CLASSES[] = {{&array_class, larray_open}};

enum { N_CLASSES = sizeof CLASSES / sizeof *CLASSES };

/* (class name) -> nothing; its metatable is there afterwards */
static int open_class(lua_State *L) {
  for (int i = 0; i < N_CLASSES; i++)
    if (strcmp(lua_tostring(L, 1), CLASSES[i].native->name) == 0) CLASSES[i].open(L);
  return 0;
}

void lshared_open(lua_State *L) {
  static const luaL_Reg functions[] = {{"array", larray_new}, {"array_length", larray_length}, {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
  shared_set_opener(L, open_class);
  for (int i = 0; i < N_CLASSES; i++) codec_add_native(L, CLASSES[i].native);
}
