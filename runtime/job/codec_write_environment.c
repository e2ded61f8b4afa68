/*
 * job/codec_write_environment -- environments of functions (_ENV that is a table of its own) to bytes: only the fields that code names.
 *
 * Room: job (may include job/codec_write.h, where its functions are declared).  Owns: the table ANCHOR_PARTIAL, environment -> set of
 * the keys that were sent.
 *
 * An environment is written empty (TAG_ENVIRONMENT) where it is met as an upvalue. Behind the upvalues of each function that has it
 * comes what the code of this function names and was not sent before (TAG_MORE). As soon as it is met as a plain value, or as the
 * environment of code that uses it as one, all that is missing follows. The table where __index of its metatable leads is treated in the
 * same way, unless that goes by name.
 */
#include "job/codec_write.h"

#include <errno.h>

enum { MAX_CHAIN = 100 }; /* tables in a chain of __index that names are looked for in */

/*
 * find_partial -- what was noted when the table at `pointer` was begun as an environment, if it is not whole yet; NULL: it is none, or
 * whole.
 */
static struct seen *find_partial(struct codec *c, const void *pointer) {
  struct seen *entry;
  if (!seen_has(c, pointer) || seen_enter(c, pointer, &entry) != 1) return NULL;
  return entry->is_open == IS_PARTIAL ? entry : NULL;
}

/* push_sent_of -- push the set of keys that were sent of the table at `index`; a new one with `is_new`. */
static void push_sent_of(struct codec *c, lua_State *L, int index, int is_new) {
  codec_push_anchor(c, L, ANCHOR_PARTIAL);
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
    codec_renew_anchor(c, L, ANCHOR_PARTIAL);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "k"); /* environments are not kept alive by it */
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
  }
  if (is_new) {
    lua_pushvalue(L, index);
    lua_newtable(L);
    lua_rawset(L, -3);
  }
  lua_pushvalue(L, index);
  lua_rawget(L, -2);
  lua_remove(L, -2);
}

/* push_index -- push the table that __index of the metatable of the table at `index` is; 0: nothing pushed, there is none. */
static int push_index(lua_State *L, int index) {
  if (!lua_getmetatable(L, index)) return 0;
  lua_pushliteral(L, "__index");
  lua_rawget(L, -2);
  lua_remove(L, -2);
  if (lua_istable(L, -1)) return 1;
  lua_pop(L, 1);
  return 0;
}

/* What the metatable on top of the stack holds besides __index: nothing, what only hides or names it, or more. */
enum beside_index { NOTHING_BESIDE, NAMES_BESIDE, MORE_BESIDE };

static enum beside_index what_is_beside_index(lua_State *L) {
  enum beside_index beside = NOTHING_BESIDE;
  lua_pushnil(L);
  while (lua_next(L, -2)) {
    const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "";
    lua_pop(L, 1);
    if (strcmp(key, "__index") == 0) continue;
    beside = NAMES_BESIDE;
    if (strcmp(key, "__metatable") == 0 || strcmp(key, "__name") == 0) continue;
    lua_pop(L, 1);
    return MORE_BESIDE;
  }
  return beside;
}

static int is_globals(lua_State *L, int index) {
  int is_it;
  index = lua_absindex(L, index);
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
  is_it = lua_rawequal(L, -1, index);
  lua_pop(L, 1);
  return is_it;
}

/*
 * metatable_kind -- what follows the tag of the environment at `index`: HAS_METATABLE, its metatable as it is; HAS_INDEX, it holds nothing
 * but __index that matters here, a table to be sent in parts like this one; 0: nothing. Negative: failed.
 * A metatable with a lock or a name of its own is the host's for its sandboxes (lighttpd's "li.mainenv"): no worker has one like it.
 */
static int metatable_kind(struct codec *c, lua_State *L, int index) {
  enum beside_index beside;
  int64_t found;
  int kind = HAS_METATABLE;
  if (!lua_getmetatable(L, index)) return 0;
  beside = what_is_beside_index(L);
  found = beside == NOTHING_BESIDE ? writer_find_name(c, L) : 1;
  lua_pop(L, 1);
  if (beside == NAMES_BESIDE && push_index(L, index)) {
    lua_pop(L, 1);
    return HAS_INDEX;
  }
  if (found < 0) return (int)found;
  if (found > 0 || !push_index(L, index)) return HAS_METATABLE;
  if (!is_globals(L, -1)) {
    kind = writer_goes_by_name(c, L);
    if (kind >= 0) kind = kind ? HAS_METATABLE : HAS_INDEX;
  }
  lua_pop(L, 1);
  return kind;
}

int writer_begin_environment(struct codec *c, lua_State *L) {
  int at = lua_gettop(L), kind, status = writer_goes_by_name(c, L);
  size_t tag_at = c->out->length;
  struct seen *entry;
  if (status < 0) return status;
  if (status > 0) return writer_value(c, L);
  if (!lua_checkstack(L, 16)) return writer_refuse(c, L, -EINVAL, "nested too deeply", NULL);
  kind = metatable_kind(c, L, at);
  if (kind < 0) return kind;
  status = seen_enter(c, lua_topointer(L, at), &entry);
  if (status < 0) return codec_out_of_memory(c);
  if (status == 1) {
    status = writer_put_reference(c, entry);
    lua_pop(L, 1);
    return status;
  }
  entry->place = tag_at - c->start;
  entry->is_open = IS_PARTIAL;
  c->is_stateful = 1;
  push_sent_of(c, L, at, 1);
  lua_settop(L, at);
  if (put_tag(c->out, TAG_ENVIRONMENT | IS_SHARED | kind) < 0) return codec_out_of_memory(c);
  if (kind == 0) {
    lua_pop(L, 1);
    return 0;
  }
  status = writer_push_frame(c, L, FRAME_ENVIRONMENT, tag_at);
  if (status < 0) return status;
  c->frames[c->n_frames - 1].has_metatable = (unsigned char)kind;
  lua_pushnil(L);
  return 1;
}

int writer_step_environment(struct codec *c, lua_State *L, struct write_frame *f) {
  if (f->phase == PHASE_METATABLE) return writer_pop_frame(c, L);
  f->phase = PHASE_METATABLE;
  if (f->has_metatable == HAS_INDEX && push_index(L, f->at)) return writer_begin_environment(c, L);
  if (!lua_getmetatable(L, f->at)) lua_newtable(L); /* a finalizer took it away meanwhile */
  return writer_metatable(c, L);
}

/*
 * begin_more -- write what is missing of the partial table on top of the stack: of the keys in the set at `names`; 0: of all. Returns as
 * step.
 */
static int begin_more(struct codec *c, lua_State *L, struct seen *entry, int names) {
  int status, at = lua_gettop(L);
  if (put_tag(c->out, TAG_MORE) < 0 || writer_put_varint(c->out, entry->place) < 0) return codec_out_of_memory(c);
  if (names == 0) entry->is_open = 0; /* who meets it from now on may refer to it */
  status = writer_push_frame(c, L, FRAME_MORE, c->out->length);
  if (status < 0) return status;
  lua_pushnil(L);
  if (names) lua_pushvalue(L, names);
  else lua_pushnil(L);
  push_sent_of(c, L, at, 0);
  return 1;
}

int writer_complete(struct codec *c, lua_State *L) {
  struct seen *entry = find_partial(c, lua_topointer(L, -1));
  return entry ? begin_more(c, L, entry, 0) : 0;
}

int writer_begin_more(struct codec *c, lua_State *L) {
  struct seen *entry = find_partial(c, lua_topointer(L, -2));
  int names = lua_istable(L, -1) ? lua_gettop(L) : 0;
  if (entry == NULL) {
    lua_pop(L, 2);
    return 0;
  }
  lua_pushvalue(L, -2);
  return begin_more(c, L, entry, names);
}

/* next_missing -- the next key that is to be sent, at f->at + 1, its value on top of the stack; 0: there is none. */
static int next_missing(lua_State *L, const struct write_frame *f) {
  int has_names = lua_istable(L, f->at + 2), is_sent;
  for (;;) {
    lua_settop(L, f->at + 3);
    lua_pushvalue(L, f->at + 1);
    if (!lua_next(L, has_names ? f->at + 2 : f->at)) return 0;
    lua_pushvalue(L, -2);
    lua_replace(L, f->at + 1);
    if (has_names) {
      lua_settop(L, f->at + 3);
      lua_pushvalue(L, f->at + 1);
      if (lua_rawget(L, f->at) == LUA_TNIL) continue;
    } else {
      lua_replace(L, f->at + 4);
    }
    lua_pushvalue(L, f->at + 1);
    is_sent = lua_rawget(L, f->at + 3) != LUA_TNIL;
    lua_pop(L, 1);
    if (is_sent) continue;
    lua_pushvalue(L, f->at + 1);
    lua_pushboolean(L, 1);
    lua_rawset(L, f->at + 3);
    return 1;
  }
}

/* begin_index -- whoever sees all of the table may go on to what is behind it. Returns as step; 0: nothing is missing there. */
static int begin_index(struct codec *c, lua_State *L, struct write_frame *f) {
  f->n_array = 1;
  if (lua_istable(L, f->at + 2) || !push_index(L, f->at)) return 0;
  if (find_partial(c, lua_topointer(L, -1)) == NULL) return 0;
  if (put_tag(c->out, TAG_NIL) < 0) return codec_out_of_memory(c); /* a pair whose key says that it is none */
  return writer_complete(c, L);
}

int writer_step_more(struct codec *c, lua_State *L, struct write_frame *f) {
  int status = f->n_array ? 0 : begin_index(c, L, f);
  if (status != 0) return status;
  if (f->phase == PHASE_KEY) {
    f->phase = PHASE_NEXT;
    status = writer_value(c, L);
    if (status != 0) return status;
  }
  while (next_missing(L, f)) {
    int type = lua_type(L, f->at + 1);
    if (is_scalar(type)) {
      if (writer_put_scalar(c->out, L, f->at + 1, type) < 0) return codec_out_of_memory(c);
    } else { /* the value waits on the stack until the key is written */
      f->phase = PHASE_KEY;
      lua_pushvalue(L, f->at + 1);
      status = writer_value(c, L);
      if (status != 0) return status;
      f->phase = PHASE_NEXT;
    }
    status = writer_value(c, L);
    if (status != 0) return status;
  }
  if (put_tag(c->out, TAG_END) < 0) return codec_out_of_memory(c);
  return writer_pop_frame(c, L);
}

/* ---- what code wants of them ---- */

void writer_want(lua_State *L, int wants, int environment, const char *text, size_t length) {
  lua_pushvalue(L, environment);
  if (lua_rawget(L, wants) == LUA_TNIL) {
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, environment);
    lua_pushvalue(L, -2);
    lua_rawset(L, wants);
  }
  if (text && lua_istable(L, -1)) {
    lua_pushlstring(L, text, length);
    lua_pushboolean(L, 1);
    lua_rawset(L, -3);
  }
  lua_pop(L, 1);
}

/* pass_on -- the names in the set at `names` that the table at `table` lacks are wanted of the table on top of the stack. */
static void pass_on(lua_State *L, int wants, int names, int table) {
  int next = lua_gettop(L), is_last = is_globals(L, next);
  lua_pushnil(L);
  while (lua_next(L, names)) {
    int is_there;
    lua_pop(L, 1);
    lua_pushvalue(L, -1);
    is_there = lua_rawget(L, table) != LUA_TNIL;
    lua_pop(L, 1);
    if (is_there) continue;
    if (is_last) {
      lua_pushvalue(L, -1);
      lua_pushboolean(L, 1);
      lua_rawset(L, wants);
    } else {
      size_t length;
      const char *text = lua_tolstring(L, -1, &length);
      writer_want(L, wants, next, text, length);
    }
  }
}

void writer_want_behind(lua_State *L, int wants, int environment) {
  int top = lua_gettop(L), table, names;
  lua_pushvalue(L, environment);
  for (int i = 0; i < MAX_CHAIN; i++) {
    table = lua_gettop(L);
    lua_pushvalue(L, table);
    if (lua_rawget(L, wants) != LUA_TTABLE || !push_index(L, table)) break;
    names = table + 1;
    pass_on(L, wants, names, table);
    if (is_globals(L, -1)) break;
    lua_replace(L, table);
    lua_settop(L, table);
  }
  lua_settop(L, top);
}
