/* binding/lwarn -- see lwarn.h. */
#include "binding/lwarn.h"

#include <string.h>

static void take_warning(void *context, const char *text, int is_continued) {
  struct lwarn *w = context;
  if (w->state != LWARN_IN_LINE && !is_continued && text[0] == '@') { /* any other that begins so is no warning either */
    if (strcmp(text, "@off") == 0) w->state = LWARN_OFF;
    if (strcmp(text, "@on") == 0) w->state = LWARN_ON;
    return;
  }
  if (w->state == LWARN_OFF) return;
  if (w->state == LWARN_ON) w->say("Lua warning: ", 0);
  w->say(text, !is_continued);
  w->state = is_continued ? LWARN_IN_LINE : LWARN_ON;
}

void lwarn_open(lua_State *L, struct lwarn *w) {
  w->state = LWARN_OFF;
  lua_setwarnf(L, take_warning, w);
}
