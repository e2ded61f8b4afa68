/*
 * binding/lwarn -- warnings, as the program lua has them: off at first, and "@on" and "@off" say what becomes of those that follow.
 *
 * Room: binding.  Owns: nothing.  Any file of binding/ may include this.
 */
#ifndef LUAPOOL_BINDING_LWARN_H
#define LUAPOOL_BINDING_LWARN_H

#include <lua.h>

struct lwarn {
  void (*say)(const char *text, int ends_line); /* writes it, and the end of the line; may not raise */
  enum { LWARN_OFF, LWARN_ON, LWARN_IN_LINE } state;
};

/* lwarn_open -- let this state's warnings be said by w, which has its `say` and outlives the state. Never raises. */
void lwarn_open(lua_State *L, struct lwarn *w);

#endif
