/*
 * binding/lcounter -- pool.counter: one 64-bit integer that all processes change by atomic operations.
 *
 * Room: binding (may include binding/lshared.h).  Owns: the metatable "luapool.counter".
 */
#include "binding/lshared.h"

#include <lauxlib.h>
#include <stdatomic.h>

#include "job/shared.h"

/* Unsigned: as Lua's, sums wrap around. */
static _Atomic uint64_t *check_counter(lua_State *L, const char *method) {
  const struct shared *s = lshared_check(L, SHARED_COUNTER, "pool.counter", method);
  return (_Atomic uint64_t *)(void *)segment_body(s->segment);
}

/* counter:add([n]) -> the new value */
static int counter_add(lua_State *L) {
  _Atomic uint64_t *value = check_counter(L, "add");
  uint64_t n = (uint64_t)(lua_isnoneornil(L, 2) ? 1 : lshared_check_integer(L, 2, "add"));
  lua_pushinteger(L, (lua_Integer)(atomic_fetch_add(value, n) + n));
  return 1;
}

/* counter:get() -> the value */
static int counter_get(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)atomic_load(check_counter(L, "get")));
  return 1;
}

/* counter:set(n) -> the value that it had */
static int counter_set(lua_State *L) {
  _Atomic uint64_t *value = check_counter(L, "set");
  lua_pushinteger(L, (lua_Integer)atomic_exchange(value, (uint64_t)lshared_check_integer(L, 2, "set")));
  return 1;
}

/* counter:compare_and_set(old, new) -> true: it was `old` and is `new` now; false: it was something else, and still is */
static int counter_compare_and_set(lua_State *L) {
  _Atomic uint64_t *value = check_counter(L, "compare_and_set");
  uint64_t old = (uint64_t)lshared_check_integer(L, 2, "compare_and_set");
  uint64_t new_value = (uint64_t)lshared_check_integer(L, 3, "compare_and_set");
  lua_pushboolean(L, atomic_compare_exchange_strong(value, &old, new_value));
  return 1;
}

static int counter_tostring(lua_State *L) {
  lua_pushfstring(L, "counter at %I: %p", (LUAI_UACINT)atomic_load(check_counter(L, "tostring")), lua_topointer(L, 1));
  return 1;
}

void lcounter_open(lua_State *L) {
  static const luaL_Reg methods[] = {{"add", counter_add}, {"get", counter_get}, {"set", counter_set},
                                     {"compare_and_set", counter_compare_and_set}, {NULL, NULL}};
  lshared_define(L, &shared_counter, methods, NULL, counter_tostring);
}

/* core.counter([v]) -> counter */
int lcounter_new(lua_State *L) {
  lua_Integer first = lua_isnoneornil(L, 1) ? 0 : lshared_check_integer(L, 1, "counter");
  struct shared *s = lshared_new(L, SHARED_COUNTER, COUNTER_CLASS, 0, SHARED_COUNTER_BYTES);
  atomic_store((_Atomic uint64_t *)(void *)segment_body(s->segment), (uint64_t)first);
  return 1;
}
