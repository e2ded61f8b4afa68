/*
 * job/names -- values that are known on both sides by a name: modules, library functions, classes, the string metatable.
 *
 * Room: job (used by job/codec only).  Owns: an index pointer -> name of everything that can be named, kept across streams.
 * Names change when scripts do, so the index is a cache: a hit is verified by resolving the name again, a miss is believed only after a
 * rebuild
 * in the same top-level value (names_expire). Raw access only. Functions that take a lua_State may raise (memory) unless they say
 * otherwise.
 *
 * A name is a space and at most three keys (strings): "L" "string" "format" is package.loaded.string.format.
 */
#ifndef LUAPOOL_JOB_NAMES_H
#define LUAPOOL_JOB_NAMES_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

enum names_space {
  NAMES_CLASS = 'C',    /* pool.register: one key, its name */
  NAMES_LOADED = 'L',   /* package.loaded: module, field, field */
  NAMES_METATABLE = 'M', /* registry entries made by luaL_newmetatable: name, field, field */
  NAMES_STRING = 'S',   /* the metatable of strings: field, field */
  NAMES_UPVALUE = 'U',  /* an upvalue of the named function: "index:name", field, field */
  NAMES_GLOBAL = 'G',   /* globals: name, field */
  NAMES_EARLY = 'E'     /* what there was when this copy of the program was forked (job/early): its number */
};

enum {
  NAMES_MAX_KEYS = 3,
  NAMES_MAX_FIELDS = 2000 /* of one table that are looked at: a table of data must not make naming slow */
};

/* One step of a name; a whole name is the chain of its parents. */
struct name {
  const void *pointer;   /* what it named when the index was built */
  uint32_t parent;       /* index of the name without the last key; 0: none */
  uint32_t key;          /* place of the key string in the anchor table */
  uint32_t stream;       /* the stream in which `id` is its number (owned by the codec) */
  uint32_t id;
  unsigned char space;   /* enum names_space */
  unsigned char n_keys;
  unsigned char is_class; /* a table with a field __index or __name: sent by name as a value too */
};

struct names {
  struct name *list;   /* [0] is unused */
  uint32_t n, capacity;
  uint32_t *slots;     /* open addressing over list, by pointer; 0: free */
  size_t n_slots;      /* a power of two, or 0 */
  int is_fresh;        /* built since names_expire */
};

/* names_init / names_free -- an index that holds nothing; free is safe to call twice. They do not raise. */
void names_init(struct names *n);
void names_free(struct names *n);

/* names_expire -- a new top-level value begins: misses are to be looked up anew. Does not raise. */
static inline void names_expire(struct names *n) {
  n->is_fresh = 0;
}

/*
 * names_peek -- the name that the pointer had when the index was built, or 0. Does not raise, not verified: call names_find when it
 * is not 0.
 */
uint32_t names_peek(const struct names *n, const void *pointer);

/*
 * names_build -- make the index anew.
 *   anchor     stack index of a table that belongs to this index: keeps the key strings
 *   function   stack index of the named function (NAMES_UPVALUE), or of nil
 * Returns 0 or -ENOMEM (then the index is empty).
 */
int names_build(struct names *n, lua_State *L, int anchor, int function);

/* names_find -- the verified name of the value at index (table, function, full userdata), or 0; -ENOMEM. Rebuilds if that may help. */
int64_t names_find(struct names *n, lua_State *L, int anchor, int function, int index);

/* names_write -- append the name. Returns 0 or -ENOMEM. */
int names_write(const struct names *n, lua_State *L, int anchor, uint32_t name, struct bytes *out);

/*
 * names_resolve -- read a name and push what it names here.
 *   at        moved behind the name
 *   function  stack index of the named function, or of something else
 *   is_busy   1 while require runs: a module that is not loaded is required (protected)
 * Returns 0; -EBADMSG: damaged, nothing pushed; -ENOENT: nil pushed, *at moved, `message` says what is missing.
 */
int names_resolve(lua_State *L, const unsigned char **at, const unsigned char *end, int function, int *is_busy, char *message,
                  size_t capacity);

/* names_skip -- move *at behind a name. Returns 0 or -EBADMSG. Does not raise. */
int names_skip(const unsigned char **at, const unsigned char *end);

/* names_define -- read a NAMES_GLOBAL name and assign the value on top of the stack (which stays) to it by raw sets. 0 or -EBADMSG. */
int names_define(lua_State *L, const unsigned char **at, const unsigned char *end);

/* names_push_classes -- push the registry's table of registered classes: name -> class, class -> {name, save, load}. */
void names_push_classes(lua_State *L);

/* names_set_early -- the table on top of the stack (or nil), which is popped, is what NAMES_EARLY looks up numbers in, as strings. */
void names_set_early(lua_State *L);

/* names_write_early -- append the name of number `number` in NAMES_EARLY. Returns 0 or -ENOMEM. */
int names_write_early(lua_Integer number, struct bytes *out);

/*
 * names_call -- call what is on the stack as lua_pcall with one result does, with *is_busy = 1 meanwhile. Returns 1, or 0: the error (a
 * string) is pushed.
 * Raises what is no string (an interrupt must not end as somebody's failure) and memory errors.
 */
int names_call(lua_State *L, int n_arguments, int *is_busy);

/* names_is_library -- 1 if a fresh Lua state has a global of this name. */
int names_is_library(const char *name);

#endif
