/* job/boot -- see boot.h (may include job/codec.h, job/names.h and job/task.h). */
#include "job/boot.h"

#include <errno.h>
#include <lauxlib.h>
#include <lualib.h>

#include "job/names.h"

/*
 * The stream: package.path, package.cpath (false: there is none); on_start, on_exit (nil: none), has_seed, seed; the names of all classes,
 * then nil; then for each class in that order: the name of a metatable of luaL_newmetatable that it is, or false; its fields, key and
 * value, then nil; its metatable, save and load (false: none). All names come first, so that what classes say of each other finds them.
 */

/* ---- the host ---- */

static int write_reference(struct codec *c, lua_State *L, int reference) {
  int status;
  if (reference == LUA_NOREF) lua_pushnil(L);
  else lua_rawgeti(L, LUA_REGISTRYINDEX, reference);
  status = codec_write(c, L, -1);
  lua_pop(L, 1);
  return status;
}

/* Write the value on top, or `false` if it is nil, or cannot be sent; pops it. -ENOMEM and the like, or 0. */
static int write_or_false(struct codec *c, lua_State *L) {
  int status = lua_isnil(L, -1) ? -1 : codec_write(c, L, -1);
  lua_pop(L, 1);
  if (status == 0) return 0;
  lua_pushboolean(L, 0);
  status = codec_write(c, L, -1);
  lua_pop(L, 1);
  return status;
}

static int write_nil(struct codec *c, lua_State *L) {
  int status;
  lua_pushnil(L);
  status = codec_write(c, L, -1);
  lua_pop(L, 1);
  return status;
}

/* Is the class at `class` a metatable that a C library made? Push its name, or nil. */
static void push_library_name(lua_State *L, int class) {
  lua_pushliteral(L, "__name");
  lua_rawget(L, class);
  if (lua_type(L, -1) != LUA_TSTRING) {
    lua_pop(L, 1);
    lua_pushnil(L);
    return;
  }
  lua_pushvalue(L, -1);
  lua_rawget(L, LUA_REGISTRYINDEX);
  if (!lua_rawequal(L, -1, class)) {
    lua_pop(L, 2);
    lua_pushnil(L);
    return;
  }
  lua_pop(L, 1);
}

/* A field whose key or value cannot be sent is left out: a class of userdata has C functions, which the other side has itself. */
static int write_fields(struct codec *c, lua_State *L, int class) {
  int status = 0;
  lua_pushnil(L);
  while (status == 0 && lua_next(L, class)) {
    lua_createtable(L, 0, 1); /* as one value: both or neither */
    lua_pushvalue(L, -3);
    lua_pushvalue(L, -3);
    lua_rawset(L, -3);
    if (codec_write(c, L, -1) == -ENOMEM) status = -ENOMEM;
    lua_pop(L, 2);
  }
  if (status < 0) return status;
  return write_nil(c, L);
}

/* The class is on top of the stack, its record { name, save, load } below it. */
static int write_class(struct codec *c, lua_State *L) {
  int class = lua_gettop(L), i, status;
  push_library_name(L, class);
  status = write_or_false(c, L);
  if (status == 0) status = write_fields(c, L, class);
  if (status < 0) return status;
  if (!lua_getmetatable(L, class)) lua_pushnil(L);
  status = write_or_false(c, L);
  for (i = 2; status == 0 && i <= 3; i++) {
    lua_rawgeti(L, class - 1, i);
    status = write_or_false(c, L);
  }
  return status;
}

/* The table of classes is on top. Push { name, ... }. */
static void push_names(lua_State *L) {
  int classes = lua_gettop(L);
  lua_Integer n = 0;
  lua_newtable(L);
  lua_pushnil(L);
  while (lua_next(L, classes)) {
    int is_class = lua_type(L, -2) == LUA_TSTRING && lua_istable(L, -1); /* (what the house itself sends is there, too) */
    if (is_class) {
      lua_pushvalue(L, -1);
      is_class = lua_rawget(L, classes) == LUA_TTABLE;
      lua_pop(L, 1);
    }
    lua_pop(L, 1);
    if (!is_class) continue;
    lua_pushvalue(L, -1);
    lua_rawseti(L, classes + 1, ++n);
  }
}

static int write_classes(struct codec *c, lua_State *L) {
  int top = lua_gettop(L), status = 0;
  lua_Integer i;
  names_push_classes(L);
  push_names(L);
  for (i = 1; status == 0 && lua_rawgeti(L, top + 2, i) != LUA_TNIL; i++) {
    status = codec_write(c, L, -1);
    lua_pop(L, 1);
  }
  lua_settop(L, top + 2);
  if (status == 0) status = write_nil(c, L);
  for (i = 1; status == 0 && lua_rawgeti(L, top + 2, i) != LUA_TNIL; i++) {
    lua_rawget(L, top + 1);          /* the class */
    lua_pushvalue(L, -1);
    lua_rawget(L, top + 1);          /* its record */
    lua_insert(L, -2);
    status = write_class(c, L);
    lua_settop(L, top + 2);
  }
  lua_settop(L, top);
  return status;
}

/* Push package[name] if it is a string, else false. */
static void push_path(lua_State *L, const char *name) {
  int top = lua_gettop(L);
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  if (!lua_istable(L, -1) || lua_getfield(L, -1, LUA_LOADLIBNAME) != LUA_TTABLE ||
      (lua_pushstring(L, name), lua_rawget(L, -2)) != LUA_TSTRING)
    lua_pushboolean(L, 0);
  lua_replace(L, top + 1);
  lua_settop(L, top + 1);
}

static int write_path(struct codec *c, lua_State *L, const char *name) {
  int status;
  push_path(L, name);
  status = codec_write(c, L, -1);
  lua_pop(L, 1);
  return status;
}

int boot_write(struct codec *c, lua_State *L, struct bytes *out, const struct task_context *t) {
  int status;
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  codec_begin(c, out, CODEC_WITH_GLOBALS, "on_start");
  status = write_path(c, L, "path");
  if (status == 0) status = write_path(c, L, "cpath");
  if (status == 0) status = write_reference(c, L, t->on_start);
  if (status == 0) status = write_reference(c, L, t->on_exit);
  if (status < 0) return status;
  lua_pushboolean(L, t->has_seed);
  lua_pushinteger(L, t->seed);
  status = codec_write(c, L, -2);
  if (status == 0) status = codec_write(c, L, -1);
  lua_pop(L, 2);
  return status < 0 ? status : write_classes(c, L);
}

/* ---- the worker ---- */

static void read_value(struct codec *c, lua_State *L, struct codec_reader *r) {
  if (codec_read(c, L, r) != 0) luaL_error(L, "the worker cannot begin: %s", codec_message(c));
}

static int read_function(struct codec *c, lua_State *L, struct codec_reader *r) {
  read_value(c, L, r);
  if (lua_isfunction(L, -1)) return luaL_ref(L, LUA_REGISTRYINDEX);
  lua_pop(L, 1);
  return LUA_NOREF;
}

/* What names something that is not here is skipped: nil takes its place. */
static void read_optional(struct codec *c, lua_State *L, struct codec_reader *r) {
  int status = codec_read(c, L, r);
  if (status == -ENOENT) lua_pushnil(L);
  else if (status != 0) luaL_error(L, "the worker cannot begin: %s", codec_message(c));
}

/* Its fields so far are { key = value } tables, then nil. The class is at `class`. */
static void read_fields(struct codec *c, lua_State *L, struct codec_reader *r, int class, int is_ours) {
  for (;;) {
    int status = codec_read(c, L, r);
    if (status == -ENOENT) continue;
    if (status != 0) luaL_error(L, "the worker cannot begin: %s", codec_message(c));
    if (!lua_istable(L, -1)) break;
    lua_pushnil(L);
    while (is_ours && lua_next(L, -2)) {
      lua_pushvalue(L, -2);
      lua_insert(L, -2);
      lua_rawset(L, class);
    }
    lua_settop(L, class);
  }
  lua_settop(L, class);
}

/* The name of the class is on top. */
static void read_class(struct codec *c, lua_State *L, struct codec_reader *r) {
  int name = lua_gettop(L), class = name + 1, is_ours = 1;
  names_push_classes(L);
  lua_pushvalue(L, name);
  lua_rawget(L, -2);
  lua_remove(L, -2);
  read_value(c, L, r);
  if (lua_type(L, -1) == LUA_TSTRING && (lua_pushvalue(L, -1), lua_rawget(L, LUA_REGISTRYINDEX) == LUA_TTABLE)) {
    lua_replace(L, class); /* the library's own metatable, which has all that it needs */
    is_ours = 0;
  }
  lua_settop(L, class);
  read_fields(c, L, r, class, is_ours);
  read_optional(c, L, r);
  if (is_ours && lua_istable(L, -1)) lua_setmetatable(L, class);
  lua_settop(L, class);
  read_optional(c, L, r);
  read_optional(c, L, r);
  codec_register(L, lua_tostring(L, name), class, lua_isfunction(L, class + 1) ? class + 1 : 0,
                 lua_isfunction(L, class + 2) ? class + 2 : 0);
  lua_settop(L, name);
}

static void read_classes(struct codec *c, lua_State *L, struct codec_reader *r) {
  int names = lua_gettop(L) + 1;
  lua_Integer i, n = 0;
  lua_newtable(L);
  for (;;) {
    read_value(c, L, r);
    if (lua_type(L, -1) != LUA_TSTRING) break;
    lua_newtable(L);
    codec_register(L, lua_tostring(L, -2), lua_gettop(L), 0, 0);
    lua_pop(L, 1);
    lua_rawseti(L, names, ++n);
  }
  lua_settop(L, names);
  for (i = 1; i <= n; i++) {
    lua_rawgeti(L, names, i);
    read_class(c, L, r);
    lua_settop(L, names);
  }
  lua_settop(L, names - 1);
}

/* A copy that was forked earlier has an older one; `require` shall find there what it finds in the host. */
static void read_path(struct codec *c, lua_State *L, struct codec_reader *r, const char *name) {
  int top = lua_gettop(L);
  read_value(c, L, r);
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  if (lua_isstring(L, top + 1) && lua_istable(L, -1) && lua_getfield(L, -1, LUA_LOADLIBNAME) == LUA_TTABLE) {
    lua_pushstring(L, name);
    lua_pushvalue(L, top + 1);
    lua_rawset(L, -3);
  }
  lua_settop(L, top);
}

void boot_read(struct codec *c, lua_State *L, const void *data, size_t length, struct task_context *t) {
  struct codec_reader r;
  if (data == NULL) luaL_error(L, "the worker cannot begin: its input memory cannot be mapped");
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  codec_read_begin(c, &r, data, length);
  read_path(c, L, &r, "path");
  read_path(c, L, &r, "cpath");
  t->on_start = read_function(c, L, &r);
  t->on_exit = read_function(c, L, &r);
  read_value(c, L, &r);
  t->has_seed = lua_toboolean(L, -1);
  lua_pop(L, 1);
  read_value(c, L, &r);
  t->seed = lua_tointeger(L, -1);
  lua_pop(L, 1);
  read_classes(c, L, &r);
}
