/* job/names -- see names.h. */
#include "job/names.h"

#include <errno.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  MAX_NAMES = 200000,
  MAX_KEY_BYTES = 255
};

static const char CLASSES[] = "luapool.classes"; /* registry key */

void names_init(struct names *n) {
  memset(n, 0, sizeof *n);
}

void names_free(struct names *n) {
  free(n->list);
  free(n->slots);
  names_init(n);
}

void names_push_classes(lua_State *L) {
  lua_pushstring(L, CLASSES);
  if (lua_rawget(L, LUA_REGISTRYINDEX) == LUA_TTABLE) return;
  lua_pop(L, 1);
  lua_newtable(L);
  lua_pushstring(L, CLASSES);
  lua_pushvalue(L, -2);
  lua_rawset(L, LUA_REGISTRYINDEX);
}

enum { WORD_BYTES = 15 }; /* (words in place: pointers to them would be relocated, 32 bytes each) */

/* The list ends with an empty word. */
static int is_one_of(const char (*list)[WORD_BYTES], const char *name) {
  for (; **list; list++)
    if (strcmp(*list, name) == 0) return 1;
  return 0;
}

static const char library_modules[][WORD_BYTES] = {
  "_G", "package", "coroutine", "table", "io", "os", "string", "math", "utf8", "debug", ""};

int names_is_library(const char *name) {
  static const char functions[][WORD_BYTES] = {
    "assert", "collectgarbage", "dofile", "error", "getmetatable", "ipairs", "loadfile", "load", "next", "pairs", "pcall", "print", "warn",
    "rawequal", "rawlen", "rawget", "rawset", "require", "select", "setmetatable", "tonumber", "tostring", "type", "xpcall",
    "_VERSION", ""};
  return is_one_of(library_modules, name) || is_one_of(functions, name);
}

/* ---- the index --------------------------------------------------------------------------------------------- */

static size_t hash_pointer(const void *pointer) {
  uint64_t bits = (uint64_t)(uintptr_t)pointer >> 3;
  bits *= UINT64_C(0x9E3779B97F4A7C15);
  return (size_t)(bits ^ (bits >> 29));
}

uint32_t names_peek(const struct names *n, const void *pointer) {
  size_t slot;
  if (n->n_slots == 0) return 0;
  slot = hash_pointer(pointer) & (n->n_slots - 1);
  for (; n->slots[slot]; slot = (slot + 1) & (n->n_slots - 1))
    if (n->list[n->slots[slot]].pointer == pointer) return n->slots[slot];
  return 0;
}

static void enter_slot(struct names *n, uint32_t name) {
  size_t slot = hash_pointer(n->list[name].pointer) & (n->n_slots - 1);
  while (n->slots[slot]) slot = (slot + 1) & (n->n_slots - 1);
  n->slots[slot] = name;
}

/* reserve -- room for one more name. Returns 0 or -ENOMEM. */
static int reserve(struct names *n) {
  if (n->n + 1 > n->capacity) {
    uint32_t capacity = n->capacity ? n->capacity * 2 : 512;
    struct name *list = realloc(n->list, capacity * sizeof *list);
    if (list == NULL) return -ENOMEM;
    n->list = list;
    n->capacity = capacity;
  }
  if ((size_t)n->n * 2 >= n->n_slots) {
    size_t n_slots = n->n_slots ? n->n_slots * 2 : 2048;
    uint32_t *slots = calloc(n_slots, sizeof *slots);
    if (slots == NULL) return -ENOMEM;
    free(n->slots);
    n->slots = slots;
    n->n_slots = n_slots;
    for (uint32_t i = 1; i < n->n; i++) enter_slot(n, i);
  }
  return 0;
}

/* Building: where things stand on the Lua stack. */
struct build {
  struct names *names;
  lua_State *L;
  int anchor;       /* table of key strings */
  int index_key;    /* the string "__index" */
  int name_key;     /* the string "__name" */
  int only_library; /* C functions only: Lua functions of this space are the script's own and travel with their code */
  int failed;
};

static int has_field(struct build *b, int table, int key) {
  int is_there;
  lua_pushvalue(b->L, key);
  is_there = lua_rawget(b->L, table) != LUA_TNIL;
  lua_pop(b->L, 1);
  return is_there;
}

/*
 * add -- the value on top of the stack, whose key string is right below it, is `parent`'s field of that key.
 * Returns its new name, or 0: it has one already, or cannot be named.
 */
static uint32_t add(struct build *b, int space, uint32_t parent) {
  lua_State *L = b->L;
  struct names *n = b->names;
  struct name *name;
  int type = lua_type(L, -1);
  const void *pointer = lua_topointer(L, -1);
  if (type != LUA_TTABLE && type != LUA_TUSERDATA && !(type == LUA_TFUNCTION && (lua_iscfunction(L, -1) || !b->only_library))) return 0;
  if (b->failed || n->n >= MAX_NAMES || names_peek(n, pointer)) return 0;
  if (reserve(n) < 0) {
    b->failed = 1;
    return 0;
  }
  lua_pushvalue(L, -2);
  lua_rawseti(L, b->anchor, (lua_Integer)n->n);
  name = &n->list[n->n];
  memset(name, 0, sizeof *name);
  name->pointer = pointer;
  name->parent = parent;
  name->key = n->n;
  name->space = (unsigned char)space;
  name->n_keys = (unsigned char)(parent ? n->list[parent].n_keys + 1 : 1);
  name->is_class = type == LUA_TTABLE && (has_field(b, lua_gettop(L), b->index_key) || has_field(b, lua_gettop(L), b->name_key));
  enter_slot(n, n->n);
  return n->n++;
}

/* add_fields -- name what the table on top of the stack (called `parent`) holds, `levels` deep. */
static void add_fields(struct build *b, int space, uint32_t parent, int levels) {
  lua_State *L = b->L;
  int table = lua_gettop(L), count = 0;
  lua_pushnil(L);
  while (lua_next(L, table)) {
    if (++count > NAMES_MAX_FIELDS) {
      lua_pop(L, 2);
      return;
    }
    if (lua_type(L, -2) == LUA_TSTRING && lua_rawlen(L, -2) <= MAX_KEY_BYTES) {
      uint32_t name = add(b, space, parent);
      if (name && levels > 1 && lua_istable(L, -1)) add_fields(b, space, name, levels - 1);
    }
    lua_pop(L, 1);
  }
}

/* add_loaded -- modules first (a module that is also a field of another one is better known by its own name), then their fields. */
static void add_loaded(struct build *b) {
  lua_State *L = b->L;
  lua_pushstring(L, LUA_LOADED_TABLE);
  if (lua_rawget(L, LUA_REGISTRYINDEX) == LUA_TTABLE) {
    uint32_t first = b->names->n, end;
    b->only_library = 0;
    add_fields(b, NAMES_LOADED, 0, 1);
    end = b->names->n;
    for (uint32_t i = first; i < end; i++) {
      lua_rawgeti(L, b->anchor, (lua_Integer)b->names->list[i].key);
      b->only_library = is_one_of(library_modules, lua_tostring(L, -1));
      if (strcmp(lua_tostring(L, -1), "_G") == 0) {
        lua_pop(L, 1);
        continue;
      }
      if (lua_rawget(L, -2) == LUA_TTABLE) add_fields(b, NAMES_LOADED, i, 2);
      lua_pop(L, 1);
    }
  }
  lua_pop(L, 1);
}

/* add_metatables -- those of luaL_newmetatable: registry[name].__name == name. */
static void add_metatables(struct build *b) {
  lua_State *L = b->L;
  lua_pushnil(L);
  while (lua_next(L, LUA_REGISTRYINDEX)) {
    if (lua_type(L, -2) == LUA_TSTRING && lua_rawlen(L, -2) <= MAX_KEY_BYTES && lua_istable(L, -1)) {
      int is_named;
      lua_pushvalue(L, b->name_key);
      lua_rawget(L, -2);
      is_named = lua_rawequal(L, -1, -3);
      lua_pop(L, 1);
      if (is_named) {
        uint32_t name = add(b, NAMES_METATABLE, 0);
        if (name) add_fields(b, NAMES_METATABLE, name, 2);
      }
    }
    lua_pop(L, 1);
  }
}

static void add_string_metatable(struct build *b) {
  lua_State *L = b->L;
  lua_pushliteral(L, "");
  if (lua_getmetatable(L, -1)) {
    uint32_t name = add(b, NAMES_STRING, 0);
    if (name) {
      b->names->list[name].n_keys = 0;
      add_fields(b, NAMES_STRING, name, 2);
    }
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

static void add_upvalues(struct build *b, int function) {
  lua_State *L = b->L;
  const char *name;
  if (!lua_isfunction(L, function) || lua_iscfunction(L, function)) return;
  for (int i = 1; (name = lua_getupvalue(L, function, i)) != NULL; i++) {
    uint32_t number;
    lua_pushfstring(L, "%d:%s", i, name);
    lua_insert(L, -2);
    number = lua_rawlen(L, -2) <= MAX_KEY_BYTES ? add(b, NAMES_UPVALUE, 0) : 0;
    if (number && lua_istable(L, -1)) add_fields(b, NAMES_UPVALUE, number, 2);
    lua_pop(L, 2);
  }
}

static void add_classes(struct build *b) {
  names_push_classes(b->L);
  add_fields(b, NAMES_CLASS, 0, 1);
  lua_pop(b->L, 1);
}

int names_build(struct names *n, lua_State *L, int anchor, int function) {
  int top = lua_gettop(L);
  struct build b = {n, L, anchor, top + 1, top + 2, 1, 0};
  names_free(n);
  n->n = 1;
  luaL_checkstack(L, 24, NULL);
  lua_pushliteral(L, "__index");
  lua_pushliteral(L, "__name");
  add_classes(&b);
  add_loaded(&b);
  b.only_library = 1;
  add_metatables(&b);
  add_string_metatable(&b);
  add_upvalues(&b, function);
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
  add_fields(&b, NAMES_GLOBAL, 0, 2);
  lua_settop(L, top);
  if (b.failed) names_free(n);
  n->is_fresh = 1;
  return b.failed ? -ENOMEM : 0;
}

/* ---- resolving --------------------------------------------------------------------------------------------- */

/* push_upvalue -- push the upvalue of the named function that the key "index:name" on top of the stack means, instead of it, or nil. */
static void push_upvalue(lua_State *L, int function) {
  const char *key = lua_tostring(L, -1), *colon = strchr(key, ':'), *name = NULL;
  int index = atoi(key);
  if (colon && index > 0 && index < 256 && lua_isfunction(L, function) && !lua_iscfunction(L, function))
    name = lua_getupvalue(L, function, index);
  if (name == NULL) lua_pushnil(L);
  else if (strcmp(name, colon + 1) != 0) {
    lua_pop(L, 1);
    lua_pushnil(L);
  }
  lua_remove(L, -2);
}

/* The address of this is the registry key of what NAMES_EARLY looks up. */
static char early_key;

void names_set_early(lua_State *L) {
  lua_rawsetp(L, LUA_REGISTRYINDEX, &early_key);
}

/*
 * push_root -- push the table that the first key of a space is looked up in (NAMES_STRING: what no key means). 0: there is none, nil
 * pushed.
 */
static int push_root(lua_State *L, int space) {
  switch (space) {
  case NAMES_CLASS: names_push_classes(L); return 1;
  case NAMES_LOADED:
    lua_pushstring(L, LUA_LOADED_TABLE);
    return lua_rawget(L, LUA_REGISTRYINDEX) == LUA_TTABLE;
  case NAMES_METATABLE: lua_pushvalue(L, LUA_REGISTRYINDEX); return 1;
  case NAMES_STRING:
    lua_pushliteral(L, "");
    if (!lua_getmetatable(L, -1)) lua_pushnil(L);
    lua_remove(L, -2);
    return lua_istable(L, -1);
  case NAMES_GLOBAL: lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS); return 1;
  case NAMES_EARLY: return lua_rawgetp(L, LUA_REGISTRYINDEX, &early_key) == LUA_TTABLE;
  default: lua_pushnil(L); return 0;
  }
}

/* push_field -- the key on top of the stack is replaced by that field of the table below it; nil if that is no table. The table goes. */
static void push_field(lua_State *L) {
  if (lua_istable(L, -2)) {
    lua_rawget(L, -2);
  } else {
    lua_pop(L, 1);
    lua_pushnil(L);
  }
  lua_remove(L, -2);
}

/* push_meaning -- push what the name means now. */
static void push_meaning(const struct names *n, lua_State *L, int anchor, int function, uint32_t name) {
  uint32_t keys[NAMES_MAX_KEYS];
  int n_keys = n->list[name].n_keys, space = n->list[name].space;
  for (int i = n_keys - 1; i >= 0; i--) {
    keys[i] = n->list[name].key;
    name = n->list[name].parent;
  }
  push_root(L, space);
  for (int i = 0; i < n_keys; i++) {
    lua_rawgeti(L, anchor, (lua_Integer)keys[i]);
    if (i == 0 && space == NAMES_UPVALUE) {
      push_upvalue(L, function);
      lua_remove(L, -2);
    } else {
      push_field(L);
    }
  }
}

int64_t names_find(struct names *n, lua_State *L, int anchor, int function, int index) {
  const void *pointer = lua_topointer(L, index);
  for (;;) {
    uint32_t name = names_peek(n, pointer);
    if (name) {
      int is_right;
      push_meaning(n, L, anchor, function, name);
      is_right = lua_rawequal(L, -1, index);
      lua_pop(L, 1);
      if (is_right) return name;
    }
    if (n->is_fresh) return 0;
    if (names_build(n, L, anchor, function) < 0) return -ENOMEM;
  }
}

/* ---- names as bytes ---------------------------------------------------------------------------------------- */

int names_write(const struct names *n, lua_State *L, int anchor, uint32_t name, struct bytes *out) {
  uint32_t keys[NAMES_MAX_KEYS];
  int n_keys = n->list[name].n_keys;
  unsigned char head[2] = {n->list[name].space, (unsigned char)n_keys};
  if (bytes_append(out, head, 2) < 0) return -ENOMEM;
  for (int i = n_keys - 1; i >= 0; i--) {
    keys[i] = n->list[name].key;
    name = n->list[name].parent;
  }
  for (int i = 0; i < n_keys; i++) {
    size_t length;
    const char *text;
    unsigned char byte;
    int status;
    lua_rawgeti(L, anchor, (lua_Integer)keys[i]);
    text = lua_tolstring(L, -1, &length);
    byte = (unsigned char)length;
    status = bytes_append(out, &byte, 1);
    if (status == 0) status = bytes_append(out, text, length);
    lua_pop(L, 1);
    if (status < 0) return status;
  }
  return 0;
}

int names_write_early(lua_Integer number, struct bytes *out) {
  char text[3 + 24] = {NAMES_EARLY, 1};
  int length = snprintf(text + 3, sizeof text - 3, "%lld", (long long)number);
  text[2] = (char)length;
  return bytes_append(out, text, 3 + (size_t)length);
}

int names_skip(const unsigned char **at, const unsigned char *end) {
  int n_keys;
  if (end - *at < 2 || (*at)[1] > NAMES_MAX_KEYS) return -EBADMSG;
  n_keys = (*at)[1];
  *at += 2;
  for (int i = 0; i < n_keys; i++) {
    if (end - *at < 1 || end - *at - 1 < **at) return -EBADMSG;
    *at += **at + 1;
  }
  return 0;
}

/* describe -- "package.loaded.M.k" for the name that starts at `at` (checked before). */
static void describe(const unsigned char *at, char *text, size_t capacity) {
  const char *root = at[0] == NAMES_LOADED ? "module " : at[0] == NAMES_CLASS ? "class " : at[0] == NAMES_UPVALUE ? "upvalue "
                   : at[0] == NAMES_GLOBAL ? "global " : at[0] == NAMES_EARLY ? "object of the early start "
                    : at[0] == NAMES_STRING ? "metatable of strings " : "metatable ";
  const unsigned char *key = at + 2;
  size_t n = (size_t)snprintf(text, capacity, "%s", root);
  for (int i = 0; i < at[1] && n < capacity; i++) {
    n += (size_t)snprintf(text + n, capacity - n, "%s%.*s", i ? "." : "", (int)*key, (const char *)key + 1);
    key += *key + 1;
  }
  if (n < capacity) snprintf(text + n, capacity - n, " does not exist here");
}

int names_call(lua_State *L, int n_arguments, int *is_busy) {
  int status;
  *is_busy = 1;
  status = lua_pcall(L, n_arguments, 1, 0);
  *is_busy = 0;
  if (status == LUA_OK) return 1;
  if (status == LUA_ERRMEM || lua_type(L, -1) != LUA_TSTRING) return lua_error(L);
  return 0;
}

/* require_module -- the module `name` (on top of the stack) is not loaded: push what require returns, or nil. The name stays. */
static void require_module(lua_State *L, int *is_busy) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
  lua_pushliteral(L, "require");
  push_field(L);
  if (!lua_isfunction(L, -1)) {
    lua_pop(L, 1);
    lua_pushnil(L);
    return;
  }
  lua_pushvalue(L, -2);
  if (!names_call(L, 1, is_busy)) {
    lua_pop(L, 1);
    lua_pushnil(L);
  }
}

/* push_first -- the first key (on top of the stack, the root below it) of a name is replaced, with the root, by what it means. */
static void push_first(lua_State *L, int space, int function, int *is_busy) {
  if (space == NAMES_UPVALUE) {
    push_upvalue(L, function);
    lua_remove(L, -2);
    return;
  }
  lua_pushvalue(L, -1);
  lua_insert(L, -3);
  push_field(L);
  if (space == NAMES_LOADED && lua_isnil(L, -1)) {
    lua_pop(L, 1);
    require_module(L, is_busy);
  }
  lua_remove(L, -2);
}

static int is_space(int space) {
  return space == NAMES_CLASS || space == NAMES_LOADED || space == NAMES_METATABLE || space == NAMES_STRING || space == NAMES_UPVALUE ||
         space == NAMES_GLOBAL || space == NAMES_EARLY;
}

int names_resolve(lua_State *L, const unsigned char **at, const unsigned char *end, int function, int *is_busy, char *message,
                  size_t capacity) {
  const unsigned char *start = *at, *key = *at + 2;
  int space, n_keys;
  if (names_skip(at, end) < 0) return -EBADMSG;
  space = start[0];
  n_keys = start[1];
  if (!is_space(space) || (n_keys == 0 && space != NAMES_STRING)) return -EBADMSG;
  push_root(L, space);
  for (int i = 0; i < n_keys; i++) {
    lua_pushlstring(L, (const char *)key + 1, *key);
    if (i == 0 && space != NAMES_STRING) push_first(L, space, function, is_busy);
    else push_field(L);
    key += *key + 1;
  }
  if (!lua_isnil(L, -1)) return 0;
  describe(start, message, capacity);
  return -ENOENT;
}

int names_define(lua_State *L, const unsigned char **at, const unsigned char *end) {
  const unsigned char *start = *at, *key = *at + 2;
  int value = lua_gettop(L);
  if (names_skip(at, end) < 0 || start[0] != NAMES_GLOBAL || start[1] == 0) return -EBADMSG;
  luaL_checkstack(L, 6, NULL);
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
  for (int i = 1; i < start[1]; i++) {
    lua_pushlstring(L, (const char *)key + 1, *key);
    lua_pushvalue(L, -1);
    if (lua_rawget(L, -3) != LUA_TTABLE) {
      lua_pop(L, 1);
      lua_newtable(L);
      lua_pushvalue(L, -2);
      lua_pushvalue(L, -2);
      lua_rawset(L, -5);
    }
    key += *key + 1;
  }
  lua_pushlstring(L, (const char *)key + 1, *key);
  lua_pushvalue(L, value);
  lua_rawset(L, -3);
  lua_settop(L, value);
  return 0;
}
