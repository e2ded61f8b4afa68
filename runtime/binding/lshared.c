/* binding/lshared -- see lshared.h (may include binding/lclass.h). */
#include "binding/lshared.h"

#include <math.h>
#include <string.h>

#include "base/os.h"
#include "binding/lclass.h"
#include "job/array.h"

static const struct {
  const char *name;
  const struct codec_native *native; /* NULL: does not cross */
  void (*open)(lua_State *L);
} CLASSES[] = {{ARRAY_CLASS, &array_class, larray_open},
               {COUNTER_CLASS, &shared_counter, lcounter_open},
               {LOCK_CLASS, &shared_lock, llock_open},
               {SEMAPHORE_CLASS, &shared_semaphore, llock_open_semaphore},
               {CHANNEL_CLASS, &shared_channel, lchannel_open},
               {GUARD_CLASS, NULL, llock_open_guard}};

enum { N_CLASSES = sizeof CLASSES / sizeof *CLASSES };

/* (class name) -> nothing; its metatable is there afterwards */
static int open_class(lua_State *L) {
  for (int i = 0; i < N_CLASSES; i++)
    if (strcmp(lua_tostring(L, 1), CLASSES[i].name) == 0) CLASSES[i].open(L);
  return 0;
}

void lshared_open(lua_State *L) {
  lclass_add(L, "array", larray_new);
  lclass_add(L, "array_length", larray_length);
  lclass_add(L, "counter", lcounter_new);
  lclass_add(L, "lock", llock_new);
  lclass_add(L, "semaphore", llock_new_semaphore);
  lclass_add(L, "channel", lchannel_new);
  shared_set_opener(L, open_class);
  lidle_open(L);
  for (int i = 0; i < N_CLASSES; i++)
    if (CLASSES[i].native) codec_add_native(L, CLASSES[i].native);
}

/* ---- arguments ---- */

struct shared *lshared_check(lua_State *L, enum shared_kind kind, const char *what, const char *method) {
  struct shared *s = shared_test(L, 1, kind);
  if (s == NULL || s->segment == NULL)
    luaL_error(L, "bad argument #1 to '%s' (%s expected, got %s)", method, what, luaL_typename(L, 1));
  return s;
}

/* Methods do not count the object that they belong to. */
static int argument_number(lua_State *L, int index) {
  int is_method = shared_test(L, 1, SHARED_COUNTER) || shared_test(L, 1, SHARED_LOCK) || shared_test(L, 1, SHARED_SEMAPHORE) ||
                  shared_test(L, 1, SHARED_CHANNEL);
  return is_method ? index - 1 : index;
}

/* A bad argument: expected `what`, and got the value there. */
static int bad(lua_State *L, int index, const char *function, const char *what) {
  const char *got = lua_type(L, index) == LUA_TNUMBER ? luaL_tolstring(L, index, NULL) : luaL_typename(L, index);
  return luaL_error(L, "bad argument #%d to '%s' (%s expected, got %s)", argument_number(L, index), function, what, got);
}

lua_Integer lshared_check_integer(lua_State *L, int index, const char *function) {
  int is_integer;
  lua_Integer value = lua_tointegerx(L, index, &is_integer);
  if (!is_integer || lua_type(L, index) != LUA_TNUMBER) bad(L, index, function, "integer");
  return value;
}

int64_t lshared_check_timeout(lua_State *L, int index, const char *function) {
  lua_Number seconds;
  if (lua_isnoneornil(L, index)) return INT64_MAX;
  seconds = lua_tonumber(L, index);
  if (lua_type(L, index) != LUA_TNUMBER || !(seconds >= 0)) bad(L, index, function, "number of seconds, 0 or more,");
  return seconds > 1e9 ? INT64_MAX : os_now_ns() + os_ns_of(seconds);
}

/* ---- classes ---- */

/* One object, whichever userdata stands for it. */
static int is_same(lua_State *L) {
  const struct shared *a = lua_touserdata(L, 1), *b = lua_touserdata(L, 2);
  lua_pushboolean(L, a && b && shared_test(L, 1, a->kind) && shared_test(L, 2, a->kind) && a->segment == b->segment);
  return 1;
}

void lshared_define(lua_State *L, const struct codec_native *native, const luaL_Reg *methods, const luaL_Reg *meta,
                    lua_CFunction tostring) {
  luaL_checkstack(L, 6, NULL);
  if (luaL_newmetatable(L, native->name)) {
    lua_newtable(L);
    luaL_setfuncs(L, methods, 0);
    lua_setfield(L, -2, "__index");
    if (meta) luaL_setfuncs(L, meta, 0);
    lua_pushcfunction(L, tostring);
    lua_setfield(L, -2, "__tostring");
    lua_pushcfunction(L, is_same);
    lua_setfield(L, -2, "__eq");
    lua_pushcfunction(L, shared_gc);
    lua_setfield(L, -2, "__gc");
    lua_pushstring(L, native->name);
    lua_setfield(L, -2, "__metatable");
    codec_mark_native(L, native);
  }
  lua_pop(L, 1);
}

struct shared *lshared_new(lua_State *L, enum shared_kind kind, const char *class_name, uint64_t length, uint64_t bytes) {
  struct shared *s = shared_new(L, kind, class_name, sizeof *s);
  int status = shared_make(L, s, 0, length, bytes);
  if (status < 0) luaL_error(L, "no memory for a %s: %s", strchr(class_name, '.') + 1, strerror(-status));
  shared_intern(L, s);
  return s;
}
