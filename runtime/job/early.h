/*
 * job/early -- what a copy of the program has that was forked at some moment: C functions and userdata, which nothing else could send.
 *
 * Room: job (may include job/names.h; touches lua_State; may raise memory errors).
 * Owns: the registry field of names_push_early, for the copy; the map for the program is the caller's.
 */
#ifndef LUAPOOL_JOB_EARLY_H
#define LUAPOOL_JOB_EARLY_H

#include <lua.h>

/*
 * early_note -- number every C function and every full userdata that the state can reach now, through tables, upvalues, user values and
 * metatables from the registry. Pushes the map (value -> number; weak: it keeps nothing alive), which is what codec_know_early wants; the
 * other direction is in the registry, where a copy that is forked next finds it. Takes a time that grows with the number of objects.
 */
void early_note(lua_State *L);

/* early_forget -- the copy has been forked: this state need not keep all that. */
void early_forget(lua_State *L);

#endif
