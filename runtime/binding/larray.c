/*
 * binding/larray -- the methods of arrays: bounds, words for what is wrong, and loops over many elements.
 *
 * Room: binding (may include binding/lclass.h and binding/lshared.h).  Owns: the metatable "luapool.array".
 * Indices are those of Lua, from 1. What is outside is an error at the caller's line, but for one: reading a[#a + 1] gives nil, so that
 * ipairs and `while a[i] do` end.
 */
#include "base/cold.h"
#include "binding/lclass.h"
#include "binding/lshared.h"

#include <lauxlib.h>
#include <string.h>

#include "job/array.h"

/* ---- arguments ---- */

static struct array *check_self(lua_State *L, const char *method) {
  struct array *a = array_test(L, 1);
  if (a == NULL) luaL_error(L, "bad argument #1 to '%s' (pool.array expected, got %s)", method, luaL_typename(L, 1));
  return a;
}

static int outside(lua_State *L, const struct array *a, lua_Integer i) {
  return luaL_error(L, "index %I is out of bounds: the array has %I elements (%s)", (LUAI_UACINT)i, (LUAI_UACINT)a->length,
                    array_type_name(a->type));
}

static lua_Integer check_integer(lua_State *L, int argument, const char *method, lua_Integer none) {
  int is_integer;
  lua_Integer value;
  if (none >= 0 && lua_isnoneornil(L, argument)) return none;
  value = lua_tointegerx(L, argument, &is_integer);
  if (is_integer && lua_type(L, argument) == LUA_TNUMBER) return value;
  if (lua_type(L, argument) == LUA_TNUMBER)
    luaL_error(L, "bad argument #%d to '%s' (integer expected, got %f)", argument - 1, method, (LUAI_UACNUMBER)lua_tonumber(L, argument));
  return luaL_error(L, "bad argument #%d to '%s' (integer expected, got %s)", argument - 1, method, luaL_typename(L, argument));
}

/* The range [i, j] in arguments `at` and at + 1, default all: 1 <= i <= j + 1 <= #a + 1. Its beginning counts from 0. */
struct range {
  uint64_t first, length;
};

static struct range check_range(lua_State *L, const struct array *a, int at, const char *method) {
  lua_Integer length = (lua_Integer)a->length;
  lua_Integer i = check_integer(L, at, method, 1), j = check_integer(L, at + 1, method, length);
  if (i < 1 || j > length || i > j + 1)
    luaL_error(L, "bad arguments to '%s' (elements %I to %I of an array of %I %s)", method, (LUAI_UACINT)i, (LUAI_UACINT)j,
               (LUAI_UACINT)length, array_type_name(a->type));
  return (struct range){(uint64_t)i - 1, (uint64_t)(j - i + 1)};
}

/* ---- one element ---- */

/* a[i], a.method (upvalue 1: the table of methods) */
static int array_index(lua_State *L) {
  const struct array *a = check_self(L, "index");
  int is_integer;
  lua_Integer i;
  if (lua_type(L, 2) != LUA_TNUMBER) {
    lua_settop(L, 2);
    lua_rawget(L, lua_upvalueindex(1));
    return 1;
  }
  i = lua_tointegerx(L, 2, &is_integer);
  if (!is_integer) return luaL_error(L, "index %f of an array is no integer", (LUAI_UACNUMBER)lua_tonumber(L, 2));
  if ((lua_Unsigned)i - 1 < a->length) {
    array_push(L, a, (uint64_t)i - 1);
  } else if ((lua_Unsigned)i - 1 == a->length) {
    lua_pushnil(L);
  } else {
    return outside(L, a, i);
  }
  return 1;
}

/* a[i] = value */
static int array_newindex(lua_State *L) {
  const struct array *a = check_self(L, "newindex");
  int is_integer;
  lua_Integer i = lua_tointegerx(L, 2, &is_integer);
  if (!is_integer || lua_type(L, 2) != LUA_TNUMBER) {
    luaL_tolstring(L, 2, NULL);
    return luaL_error(L, "cannot set field '%s' of an array: its elements have integer indices only", lua_tostring(L, -1));
  }
  if ((lua_Unsigned)i - 1 >= a->length) return outside(L, a, i);
  if (!array_store(L, a, (uint64_t)i - 1, 3)) return luaL_error(L, "cannot set element %I: %s", (LUAI_UACINT)i, lua_tostring(L, -1));
  return 0;
}

static int array_len(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)check_self(L, "len")->length);
  return 1;
}

/* ---- many elements ---- */

/* array:slice([i [, j]]) -> array: elements i to j (default: all from i on) of the same memory */
static int array_slice_method(lua_State *L) {
  const struct array *a = check_self(L, "slice");
  struct range range = check_range(L, a, 2, "slice");
  array_slice(L, 1, range.first, range.length);
  return 1;
}

/* array:to_table([i [, j]]) -> table */
static int array_to_table(lua_State *L) {
  const struct array *a = check_self(L, "to_table");
  struct range range = check_range(L, a, 2, "to_table");
  if (range.length > INT32_MAX) return luaL_error(L, "an array of %I elements is too long for a table", (LUAI_UACINT)range.length);
  lua_createtable(L, (int)range.length, 0);
  for (uint64_t i = 0; i < range.length; i++) {
    array_push(L, a, range.first + i);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  return 1;
}

/* array:fill(value [, i [, j]]) -> array */
static int array_fill(lua_State *L) {
  const struct array *a = check_self(L, "fill");
  struct range range;
  union array_cell cell;
  if (!array_encode(L, a->type, 2, &cell)) return luaL_error(L, "bad argument #1 to 'fill' (%s)", lua_tostring(L, -1));
  range = check_range(L, a, 3, "fill");
  for (uint64_t i = 0; i < range.length; i++) array_set(a, range.first + i, &cell);
  lua_settop(L, 1);
  return 1;
}

/* Why element i of a source cannot be stored is on top of the stack. */
static void bad_element(lua_State *L, const char *method, uint64_t i) {
  luaL_error(L, "bad argument to '%s' (element %I: %s)", method, (LUAI_UACINT)i + 1, lua_tostring(L, -1));
}

/* Elements from `first` of `a` on become those of the array at `source`. */
static void copy_array(lua_State *L, const struct array *a, uint64_t first, int source, const char *method) {
  const struct array *from = array_test(L, source);
  size_t bytes = array_type_bytes(a->type);
  if (from->type == a->type) {
    if (from->length > 0) memmove(a->data + first * bytes, from->data, from->length * bytes);
    return;
  }
  for (uint64_t i = 0; i < from->length; i++) {
    array_push(L, from, i);
    if (!array_store(L, a, first + i, -1)) bad_element(L, method, i);
    lua_pop(L, 1);
  }
}

/* Elements from `first` of the array at stack index `to` on become the `length` of the table at `source`, whose __index may do anything. */
static void copy_table(lua_State *L, const struct array *a, uint64_t first, int source, uint64_t length, const char *method) {
  for (uint64_t i = 0; i < length; i++) {
    lua_geti(L, source, (lua_Integer)i + 1);
    if (!array_store(L, a, first + i, -1)) bad_element(L, method, i);
    lua_pop(L, 1);
  }
}

static uint64_t length_of(lua_State *L, int source) {
  const struct array *from = array_test(L, source);
  lua_Integer length = from ? (lua_Integer)from->length : luaL_len(L, source);
  return length < 0 ? 0 : (uint64_t)length;
}

static void copy(lua_State *L, const struct array *a, uint64_t first, int source, uint64_t length, const char *method) {
  if (array_test(L, source)) copy_array(L, a, first, source, method);
  else copy_table(L, a, first, source, length, method);
}

/*
 * array:copy(source [, at]) -> array: elements from `at` (default 1) on become those of the source, a table or another array. All must fit.
 * A value that cannot be an element is an error; those before it are stored then.
 */
static int array_copy(lua_State *L) {
  const struct array *a = check_self(L, "copy");
  lua_Integer at = check_integer(L, 3, "copy", 1);
  uint64_t length;
  if (!lua_istable(L, 2) && !array_test(L, 2))
    return luaL_error(L, "bad argument #1 to 'copy' (table or array expected, got %s)", luaL_typename(L, 2));
  length = length_of(L, 2);
  if (at < 1 || (uint64_t)at - 1 > a->length || length > a->length - ((uint64_t)at - 1))
    return luaL_error(L, "bad arguments to 'copy' (%I elements from index %I on, in an array of %I %s)", (LUAI_UACINT)length,
                      (LUAI_UACINT)at, (LUAI_UACINT)a->length, array_type_name(a->type));
  copy(L, a, (uint64_t)at - 1, 2, length, "copy");
  lua_settop(L, 1);
  return 1;
}

/* array:type() -> "f64" ... */
static COLD int array_type_method(lua_State *L) {
  lua_pushstring(L, array_type_name(check_self(L, "type")->type));
  return 1;
}

/* ---- iteration, identity, text ---- */

static int array_next(lua_State *L) {
  const struct array *a = check_self(L, "next");
  lua_Integer i = lua_tointeger(L, 2);
  if (i < 0 || (uint64_t)i >= a->length) return 0;
  lua_pushinteger(L, i + 1);
  array_push(L, a, (uint64_t)i);
  return 2;
}

static COLD int array_pairs(lua_State *L) {
  (void)check_self(L, "pairs");
  lua_pushcfunction(L, array_next);
  lua_pushvalue(L, 1);
  lua_pushinteger(L, 0);
  return 3;
}

/* The same elements of the same memory. */
static int array_eq(lua_State *L) {
  const struct array *a = array_test(L, 1), *b = array_test(L, 2);
  lua_pushboolean(L, a && b && a->data == b->data && a->length == b->length && a->type == b->type);
  return 1;
}

static COLD int array_tostring(lua_State *L) {
  const struct array *a = check_self(L, "tostring");
  lua_pushfstring(L, "array of %I %s: %p", (LUAI_UACINT)a->length, array_type_name(a->type), lua_topointer(L, 1));
  return 1;
}

COLD void larray_open(lua_State *L) {
  luaL_checkstack(L, 6, NULL);
  if (luaL_newmetatable(L, ARRAY_CLASS)) {
    lclass_add(L, "__newindex", array_newindex);
    lclass_add(L, "__len", array_len);
    lclass_add(L, "__pairs", array_pairs);
    lclass_add(L, "__eq", array_eq);
    lclass_add(L, "__tostring", array_tostring);
    lclass_add(L, "__gc", shared_gc);
    lua_createtable(L, 0, 5);
    lclass_add(L, "slice", array_slice_method);
    lclass_add(L, "to_table", array_to_table);
    lclass_add(L, "fill", array_fill);
    lclass_add(L, "copy", array_copy);
    lclass_add(L, "type", array_type_method);
    lua_pushcclosure(L, array_index, 1);
    lua_setfield(L, -2, "__index");
    lua_pushliteral(L, ARRAY_CLASS);
    lua_setfield(L, -2, "__metatable");
    codec_mark_native(L, &array_class);
  }
  lua_pop(L, 1);
}

/* ---- making ---- */

static enum array_type check_type(lua_State *L) {
  int type = lua_type(L, 1) == LUA_TSTRING ? array_find_type(lua_tostring(L, 1)) : -1;
  if (type < 0) {
    const char *got = lua_type(L, 1) == LUA_TSTRING ? lua_pushfstring(L, "'%s'", lua_tostring(L, 1)) : luaL_typename(L, 1);
    luaL_error(L, "bad argument #1 to 'array' (i8, i16, i32, i64, u8, u16, u32, u64, f32 or f64 expected, got %s)", got);
  }
  return (enum array_type)type;
}

/* core.array(type, n) -> n zeros; core.array(type, table or array) -> a copy of its elements */
COLD int larray_new(lua_State *L) {
  enum array_type type = check_type(L);
  struct array *a;
  lua_settop(L, 2);
  if (lua_istable(L, 2) || array_test(L, 2)) {
    uint64_t length = length_of(L, 2);
    a = array_new(L, type, length);
    copy(L, a, 0, 2, length, "array");
  } else {
    int is_integer;
    lua_Integer n = lua_tointegerx(L, 2, &is_integer);
    if (lua_type(L, 2) != LUA_TNUMBER || !is_integer || n < 0) {
      const char *got = lua_type(L, 2) == LUA_TNUMBER ? luaL_tolstring(L, 2, NULL) : luaL_typename(L, 2);
      return luaL_error(L, "bad argument #2 to 'array' (number of elements, table or array expected, got %s)", got);
    }
    array_new(L, type, (uint64_t)n);
  }
  return 1;
}

int larray_length(lua_State *L) {
  const struct array *a = array_test(L, 1);
  if (a == NULL) return 0;
  lua_pushinteger(L, (lua_Integer)a->length);
  return 1;
}
