/*
 * job/codec -- see codec.h. This file: the codec object, its tables in the registry, registration, and what both directions share.
 *
 * Room: job (may include job/codec_parts.h).  Owns: the memory of struct codec.
 * The writer is in job/codec_write*.c, the reader in job/codec_read*.c, the alphabet of a stream in job/codec_parts.h.
 */
#include "job/codec.h"

#include <errno.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>

#include "job/codec_parts.h"

enum { CHECK_BYTES = 2048 /* with a deadline: some ten microseconds of reading */ };

static int codec_gc(lua_State *L) {
  struct codec *c = lua_touserdata(L, 1);
  free(c->shapes);
  free(c->shape_keys);
  free(c->shape_slots);
  free(c->seen);
  free(c->frames);
  free(c->read_shapes);
  free(c->read_frames);
  names_free(&c->names);
  c->shapes = c->read_shapes = NULL;
  c->shape_keys = NULL;
  c->shape_slots = NULL;
  c->seen = NULL;
  c->frames = NULL;
  c->read_frames = NULL;
  c->n_shapes = c->shapes_capacity = c->shape_keys_capacity = c->read_shapes_capacity = c->n_read_shapes = 0;
  c->seen_capacity = c->frames_capacity = c->read_frames_capacity = 0;
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, c);
  return 0;
}

struct codec *codec_open(lua_State *L) {
  struct codec *c = lua_newuserdatauv(L, sizeof *c, 0);
  memset(c, 0, sizeof *c);
  names_init(&c->names);
  if (luaL_newmetatable(L, "luapool.codec")) {
    lua_pushcfunction(L, codec_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  lua_createtable(L, ANCHOR_PAUSED, 0);
  for (int i = ANCHOR_NAME_KEYS; i <= ANCHOR_NATIVES; i++) {
    if (i == ANCHOR_FUNCTION) lua_pushboolean(L, 0);
    else lua_newtable(L);
    lua_rawseti(L, -2, i);
  }
  lua_rawsetp(L, LUA_REGISTRYINDEX, c);
  c->generation = 1;
  c->check_at = UINTPTR_MAX;
  c->check_bytes = CHECK_BYTES;
  return c;
}

const char *codec_message(const struct codec *c) {
  return c->message;
}

void codec_push_anchor(struct codec *c, lua_State *L, int which) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, c);
  lua_rawgeti(L, -1, which);
  lua_remove(L, -2);
}

void codec_renew_anchor(struct codec *c, lua_State *L, int which) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, c);
  lua_newtable(L);
  lua_pushvalue(L, -1);
  lua_rawseti(L, -3, which);
  lua_remove(L, -2);
}

void codec_know_globals(struct codec *c, lua_State *L) {
  luaL_checkstack(L, 6, NULL);
  codec_renew_anchor(c, L, ANCHOR_GLOBALS);
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
  lua_pushnil(L);
  while (lua_next(L, -2)) {
    int is_code = lua_isfunction(L, -1) && !lua_iscfunction(L, -1);
    lua_pop(L, 1);
    if (lua_type(L, -1) != LUA_TSTRING) continue;
    lua_pushvalue(L, -1);
    lua_pushboolean(L, !(is_code && names_is_library(lua_tostring(L, -2)))); /* false: the library's own is not what they have */
    lua_rawset(L, -5);
  }
  lua_pop(L, 2);
}

void codec_know_early(struct codec *c, lua_State *L, int index) {
  index = lua_absindex(L, index);
  luaL_checkstack(L, 2, NULL);
  lua_rawgetp(L, LUA_REGISTRYINDEX, c);
  lua_pushvalue(L, index);
  lua_rawseti(L, -2, ANCHOR_EARLY);
  lua_pop(L, 1);
  c->has_early = 1;
}

int codec_grow(void **array, uint32_t n, uint32_t *capacity, size_t size) {
  uint32_t wanted;
  void *memory;
  if (n < *capacity) return 0;
  wanted = *capacity ? *capacity + *capacity / 2 : 16;
  if (wanted < n + 1) wanted = n + 1;
  memory = realloc(*array, wanted * size);
  if (memory == NULL) return -ENOMEM;
  *array = memory;
  *capacity = wanted;
  return 0;
}

int codec_fail(struct codec *c, int status, const char *text) {
  snprintf(c->message, sizeof c->message, "%s", text);
  return status;
}

int codec_out_of_memory(struct codec *c) {
  return codec_fail(c, -ENOMEM, "not enough memory");
}

void codec_name_function(struct codec *c, lua_State *L, int index) {
  if (index) index = lua_absindex(L, index);
  luaL_checkstack(L, 4, NULL);
  lua_rawgetp(L, LUA_REGISTRYINDEX, c);
  if (index) lua_pushvalue(L, index);
  else lua_pushboolean(L, 0);
  lua_rawgeti(L, -2, ANCHOR_FUNCTION);
  if (!lua_rawequal(L, -1, -2)) {
    lua_pushvalue(L, -2);
    lua_rawseti(L, -4, ANCHOR_FUNCTION);
    names_free(&c->names); /* names of its upvalues are to be found without waiting for a miss */
  }
  lua_pop(L, 3);
}

/* The key, in a metatable, of the native class that it stands for. */
static char native_key;

void codec_add_native(lua_State *L, const struct codec_native *native) {
  luaL_checkstack(L, 3, NULL);
  names_push_classes(L);
  lua_pushlightuserdata(L, (void *)(uintptr_t)native);
  lua_setfield(L, -2, native->name);
  lua_pop(L, 1);
}

void codec_mark_native(lua_State *L, const struct codec_native *native) {
  lua_pushlightuserdata(L, (void *)(uintptr_t)native);
  lua_rawsetp(L, -2, &native_key);
}

const struct codec_native *codec_native_of(lua_State *L, int index) {
  const struct codec_native *native;
  if (!lua_getmetatable(L, index)) return NULL;
  lua_rawgetp(L, -1, &native_key);
  native = lua_touserdata(L, -1);
  lua_pop(L, 2);
  return native;
}

const struct codec_native *codec_native_named(lua_State *L, const char *name, size_t length) {
  const struct codec_native *native;
  names_push_classes(L);
  lua_pushlstring(L, name, length);
  native = lua_rawget(L, -2) == LUA_TLIGHTUSERDATA ? lua_touserdata(L, -1) : NULL;
  lua_pop(L, 2);
  return native;
}

int codec_natives(const struct codec *c) {
  return c->n_natives;
}

void codec_take_natives(struct codec *c, lua_State *L) {
  luaL_checkstack(L, 4, NULL);
  if (c->n_natives == 0) {
    lua_pushnil(L);
    return;
  }
  codec_push_anchor(c, L, ANCHOR_NATIVES);
  codec_renew_anchor(c, L, ANCHOR_NATIVES);
  lua_pop(L, 1);
  c->n_natives = c->has_natives = 0;
}

void codec_register(lua_State *L, const char *name, int class_index, int save_index, int load_index) {
  class_index = lua_absindex(L, class_index);
  if (save_index) save_index = lua_absindex(L, save_index);
  if (load_index) load_index = lua_absindex(L, load_index);
  luaL_checkstack(L, 5, NULL);
  names_push_classes(L);
  lua_pushstring(L, name);
  lua_pushvalue(L, class_index);
  lua_rawset(L, -3);
  lua_pushvalue(L, class_index);
  lua_createtable(L, 3, 0);
  lua_pushstring(L, name);
  lua_rawseti(L, -2, 1);
  if (save_index) lua_pushvalue(L, save_index);
  else lua_pushboolean(L, 0);
  lua_rawseti(L, -2, 2);
  if (load_index) lua_pushvalue(L, load_index);
  else lua_pushboolean(L, 0);
  lua_rawseti(L, -2, 3);
  lua_rawset(L, -3);
  lua_pop(L, 1);
}
