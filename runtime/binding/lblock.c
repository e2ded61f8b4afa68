/*
 * binding/lblock -- see lblock.h (may include binding/lblock.h).
 * One process takes the results of all nodes: what a number costs there bounds how many nodes it keeps busy. So a node sends numbers of a
 * kind as a block, which is a string of: a letter, F for floats; I for integers and then how many bytes each takes (0, 1, 2, 4, 8) and the
 * least of them (8 bytes); then the floats, or what each integer is beyond the least. In the order of this machine's bytes: all nodes run
 * the same build (core.build).
 */
#include "binding/lblock.h"

#include <lauxlib.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>

enum { FLOAT_HEAD = 1, INTEGER_HEAD = 10 };

/* ---- numbers to a block ---- */

/* The floats values[1 .. n] of the table at index 1 go to `at`. How many, up to the first that is none. */
static lua_Integer copy_floats(lua_State *L, unsigned char *at, lua_Integer n) {
  lua_Integer k;
  for (k = 1; k <= n; k++, at += sizeof(lua_Number)) {
    lua_Number number;
    if (lua_rawgeti(L, 1, k) != LUA_TNUMBER || lua_isinteger(L, -1)) return k - 1;
    number = lua_tonumber(L, -1);
    memcpy(at, &number, sizeof number);
    lua_pop(L, 1);
  }
  return k - 1;
}

static lua_Integer copy_integers(lua_State *L, unsigned char *at, lua_Integer n, lua_Integer *least, lua_Integer *most) {
  lua_Integer k;
  *least = LUA_MAXINTEGER;
  *most = LUA_MININTEGER;
  for (k = 1; k <= n; k++, at += sizeof(lua_Integer)) {
    lua_Integer number;
    (void)lua_rawgeti(L, 1, k);
    if (!lua_isinteger(L, -1)) return k - 1;
    number = lua_tointeger(L, -1);
    if (number < *least) *least = number;
    if (number > *most) *most = number;
    memcpy(at, &number, sizeof number);
    lua_pop(L, 1);
  }
  return k - 1;
}

static unsigned width_of(lua_Integer least, lua_Integer most) {
  uint64_t range = (uint64_t)most - (uint64_t)least;
  return range == 0 ? 0 : range <= UINT8_MAX ? 1 : range <= UINT16_MAX ? 2 : range <= UINT32_MAX ? 4 : 8;
}

/* One number of so many bytes. */
static inline void put_beyond(unsigned char *at, uint64_t beyond, unsigned width) {
  uint8_t b = (uint8_t)beyond;
  uint16_t h = (uint16_t)beyond;
  uint32_t w = (uint32_t)beyond;
  if (width == 1) memcpy(at, &b, 1);
  else if (width == 2) memcpy(at, &h, 2);
  else if (width == 4) memcpy(at, &w, 4);
  else if (width == 8) memcpy(at, &beyond, 8);
}

/* The integers at `at` become what they are beyond the least, in their place. How many bytes are left. */
static size_t narrow(unsigned char *at, lua_Integer n, lua_Integer least, unsigned width) {
  for (lua_Integer k = 0; k < n; k++) {
    uint64_t number;
    memcpy(&number, at + k * 8, sizeof number);
    put_beyond(at + k * (lua_Integer)width, number - (uint64_t)least, width);
  }
  return (size_t)n * width;
}

/* core.block(values, n) -> values[1 .. n] as a block | nil: they are not all floats, and not all integers */
static int core_block(lua_State *L) {
  lua_Integer n = luaL_checkinteger(L, 2), least, most;
  luaL_Buffer buffer;
  unsigned char *out;
  luaL_checktype(L, 1, LUA_TTABLE);
  if (n < 1 || n > INT_MAX / 16) return 0;
  lua_settop(L, 1);
  if (lua_rawgeti(L, 1, 1) != LUA_TNUMBER) return 0;
  lua_settop(L, 1 + lua_isinteger(L, -1)); /* a second value: integers */
  if (lua_gettop(L) == 1) {
    out = (unsigned char *)luaL_buffinitsize(L, &buffer, FLOAT_HEAD + (size_t)n * sizeof(lua_Number));
    out[0] = 'F';
    if (copy_floats(L, out + FLOAT_HEAD, n) < n) return 0;
    luaL_pushresultsize(&buffer, FLOAT_HEAD + (size_t)n * sizeof(lua_Number));
    return 1;
  }
  out = (unsigned char *)luaL_buffinitsize(L, &buffer, INTEGER_HEAD + (size_t)n * sizeof(lua_Integer));
  if (copy_integers(L, out + INTEGER_HEAD, n, &least, &most) < n) return 0;
  out[0] = 'I';
  out[1] = (unsigned char)width_of(least, most);
  memcpy(out + 2, &least, sizeof least);
  luaL_pushresultsize(&buffer, INTEGER_HEAD + narrow(out + INTEGER_HEAD, n, least, out[1]));
  return 1;
}

/* ---- a block to numbers ---- */

static void place_floats(lua_State *L, const char *at, lua_Integer first, lua_Integer n) {
  for (lua_Integer k = 0; k < n; k++, at += sizeof(lua_Number)) {
    lua_Number number;
    memcpy(&number, at, sizeof number);
    lua_pushnumber(L, number);
    lua_rawseti(L, 1, first + k);
  }
}

static inline uint64_t get_beyond(const char *at, unsigned width) {
  uint8_t b;
  uint16_t h;
  uint32_t w;
  uint64_t d;
  if (width == 0) return 0;
  if (width == 1) return memcpy(&b, at, 1), b;
  if (width == 2) return memcpy(&h, at, 2), h;
  if (width == 4) return memcpy(&w, at, 4), w;
  return memcpy(&d, at, 8), d;
}

static void place_integers(lua_State *L, const char *at, unsigned width, uint64_t least, lua_Integer first, lua_Integer n) {
  for (lua_Integer k = 0; k < n; k++, at += width) {
    lua_pushinteger(L, (lua_Integer)(least + get_beyond(at, width)));
    lua_rawseti(L, 1, first + k);
  }
}

static int place_block(lua_State *L, const char *block, size_t length, lua_Integer first, lua_Integer n) {
  if (length == FLOAT_HEAD + (size_t)n * sizeof(lua_Number) && block[0] == 'F') {
    place_floats(L, block + FLOAT_HEAD, first, n);
  } else if (length >= INTEGER_HEAD && block[0] == 'I' && length == INTEGER_HEAD + (size_t)n * (unsigned char)block[1]) {
    uint64_t least;
    memcpy(&least, block + 2, sizeof least);
    place_integers(L, block + INTEGER_HEAD, (unsigned char)block[1], least, first, n);
  } else {
    return luaL_error(L, "a message from a node makes no sense");
  }
  return 0;
}

/* core.fill_from(into, first, n, values): into[first], ... become values[1 .. n], a table or what core.block gave for one */
static int core_fill_from(lua_State *L) {
  lua_Integer first = luaL_checkinteger(L, 2), n = luaL_checkinteger(L, 3);
  size_t length;
  luaL_checktype(L, 1, LUA_TTABLE);
  if (lua_type(L, 4) == LUA_TSTRING) {
    const char *block = lua_tolstring(L, 4, &length);
    return place_block(L, block, length, first, n);
  }
  luaL_checktype(L, 4, LUA_TTABLE);
  for (lua_Integer k = 1; k <= n; k++) {
    lua_rawgeti(L, 4, k);
    lua_rawseti(L, 1, first + k - 1);
  }
  return 0;
}

/* core.sized(n) -> an empty table that has room for n values: one to which they come in any order has most of them pass its hash part */
static int core_sized(lua_State *L) {
  lua_Integer n = luaL_checkinteger(L, 1);
  lua_createtable(L, n > INT_MAX ? INT_MAX : n < 0 ? 0 : (int)n, 0);
  return 1;
}

void lblock_open(lua_State *L) {
  static const luaL_Reg functions[] = {{"block", core_block}, {"fill_from", core_fill_from}, {"sized", core_sized}, {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
}
