/*
 * binding/features -- see features.h (may include binding/learly.h, binding/llong.h and binding/ltrace.h).
 */
#include "binding/features.h"

#include <lauxlib.h>
#include <string.h>

#include "binding/learly.h"
#include "binding/llong.h"
#include "binding/ltrace.h"
#include "luapool.h"

/* ---- settings ---- */

#ifdef LUAPOOL_SMALL
#define USUAL 0
#define BUILT_WITH "built with SMALL=1"
#else
#define USUAL 1
#define BUILT_WITH "built without it"
#endif

#ifndef LUAPOOL_HAS_JOURNAL
#define LUAPOOL_HAS_JOURNAL USUAL
#endif
#ifndef LUAPOOL_HAS_TRACE
#define LUAPOOL_HAS_TRACE USUAL
#endif
#ifndef LUAPOOL_HAS_PROGRESS
#define LUAPOOL_HAS_PROGRESS USUAL
#endif
#ifndef LUAPOOL_HAS_EARLY
#define LUAPOOL_HAS_EARLY USUAL
#endif

/* The compiler knows: tables by which an exception passes through our functions (a Lua that was compiled as C++ raises these). */
#ifdef __EXCEPTIONS
#define HAS_EXCEPTIONS 1
#else
#define HAS_EXCEPTIONS 0
#endif

/* ---- the table ---- */

struct feature {
  const char *name;             /* NULL: what others share; nobody asks for it */
  const char *words;            /* what it is called in a message */
  int is_there;
  void (*open)(lua_State *L);   /* adds to core; NULL: nothing */
  const struct embedded *files; /* NULL: none */
};

#define FEATURE(name, words, is_there, open, files) {name, words, is_there, (is_there) ? (open) : NULL, (is_there) ? (files) : NULL}

extern const struct embedded embedded_journal, embedded_trace, embedded_progress, embedded_json; /* made by scripts/embed-lua.lua */

static void open_journal(lua_State *L) {
  ljournal_open(L);
  lfingerprint_open(L);
}

static const struct feature features[] = {
  FEATURE("journal", "journal", LUAPOOL_HAS_JOURNAL, open_journal, &embedded_journal),           /* options log and resume */
  FEATURE("trace", "traces and reports", LUAPOOL_HAS_TRACE, ltrace_open, &embedded_trace),       /* option trace, p:report() */
  FEATURE("progress", "progress", LUAPOOL_HAS_PROGRESS, NULL, &embedded_progress),               /* option progress */
  FEATURE("early", "early start", LUAPOOL_HAS_EARLY, learly_open, NULL),                         /* luapool_init_early */
  FEATURE("exceptions", "tables for exceptions", HAS_EXCEPTIONS, NULL, NULL),                    /* for a Lua compiled as C++ */
  FEATURE(NULL, NULL, LUAPOOL_HAS_JOURNAL || LUAPOOL_HAS_TRACE, NULL, &embedded_json)};

enum { N_FEATURES = sizeof features / sizeof *features };

/* ---- asking it ---- */

static const struct feature *find(const char *name) {
  for (unsigned i = 0; i < N_FEATURES; i++)
    if (features[i].name && strcmp(features[i].name, name) == 0) return &features[i];
  return NULL;
}

int luapool_has(const char *name) {
  const struct feature *f = find(name);
  return f ? f->is_there : -1;
}

static void push_lack(lua_State *L, const struct feature *f) {
  lua_pushfstring(L, "this build of luapool has no %s (" BUILT_WITH ")", f->words);
}

void features_need(lua_State *L, const char *name) {
  const struct feature *f = find(name);
  if (f->is_there) return;
  push_lack(L, f);
  luaL_error(L, "%s", lua_tostring(L, -1));
}

/* core.lacks(name) -> text, or nothing: it is there (or is no feature) */
static int core_lacks(lua_State *L) {
  const struct feature *f = find(luaL_checkstring(L, 1));
  if (f == NULL || f->is_there) return 0;
  push_lack(L, f);
  return 1;
}

const struct embedded *features_files(unsigned i, int *is_end) {
  *is_end = i >= N_FEATURES;
  return *is_end ? NULL : features[i].files;
}

void features_open(lua_State *L) {
  lua_newtable(L);
  for (unsigned i = 0; i < N_FEATURES; i++) {
    if (features[i].name == NULL) continue;
    lua_pushboolean(L, features[i].is_there);
    lua_setfield(L, -2, features[i].name);
  }
  lua_setfield(L, -2, "features");
  lua_pushcfunction(L, core_lacks);
  lua_setfield(L, -2, "lacks");
  for (unsigned i = 0; i < N_FEATURES; i++)
    if (features[i].open) features[i].open(L);
}
