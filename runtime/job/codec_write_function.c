/*
 * job/codec_write_function -- functions to bytes: a name, or code with upvalues and, with CODEC_WITH_GLOBALS, the globals that it names.
 *
 * Room: job (may include job/codec_write.h, where its functions are declared, and job/closure.h).  Owns: nothing.
 * Of an environment that is a table of its own (an upvalue _ENV) go the fields that code names (codec_write_environment.c).
 * Upvalues that functions share stay shared (TAG_JOIN); a global that was sent with the same value in this stream is not sent again.
 */
#include "job/codec_write.h"

#include <errno.h>
#include <string.h>

#include "job/closure.h"

struct scan_context {
  lua_State *L;
  int function, wants; /* stack indices: the function, what its code wants (see writer_want) */
};

enum { GLOBALS = 1 }; /* numbers of environments: this, or that of the upvalue + 1 */

static void add_name(void *context, int environment, const char *text, size_t length) {
  struct scan_context *scan = context;
  lua_State *L = scan->L;
  if (environment == GLOBALS) {
    lua_pushlstring(L, text, length);
    lua_pushboolean(L, 1);
    lua_rawset(L, scan->wants);
    return;
  }
  lua_getupvalue(L, scan->function, environment - 1);
  writer_want(L, scan->wants, lua_gettop(L), text, length);
  lua_pop(L, 1);
}

/* number_environments -- for each upvalue of the function at `at`: the number of the environment that it is, or 0. */
static void number_environments(struct codec *c, lua_State *L, int at, unsigned char number[256]) {
  const char *name;
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
  for (int i = 1; i < 255 && (name = lua_getupvalue(L, at, i)) != NULL; i++) {
    if (lua_rawequal(L, -1, -2)) number[i - 1] = GLOBALS;
    else if ((c->flags & CODEC_WITH_GLOBALS) && lua_istable(L, -1) && strcmp(name, "_ENV") == 0) number[i - 1] = (unsigned char)(i + 1);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

/* want_environments -- behind those whose fields are named; all of those that code uses as values. */
static void want_environments(lua_State *L, const struct scan_context *scan, const unsigned char number[256],
                              const struct closure_report *report) {
  for (int i = 1; i < 255; i++) {
    if (number[i - 1] <= GLOBALS) continue;
    lua_getupvalue(L, scan->function, i);
    if (report->is_understood && !report->is_value[number[i - 1]]) {
      writer_want(L, scan->wants, lua_gettop(L), NULL, 0);
      writer_want_behind(L, scan->wants, lua_gettop(L));
      lua_pop(L, 1);
    } else {
      lua_pushboolean(L, 1);
      lua_rawset(L, scan->wants);
    }
  }
}

/*
 * scan_code -- what the function at `at`, whose dump begins at `dump` in out, does; with globals, what it wants of them and of its
 * environments goes into the table on top of the stack.
 */
static void scan_code(struct codec *c, lua_State *L, int at, size_t dump) {
  unsigned char environment[256] = {0};
  struct scan_context scan = {L, at, lua_gettop(L)};
  struct closure_report report;
  number_environments(c, L, at, environment);
  closure_scan(c->out->data + dump, c->out->length - dump, environment, (c->flags & CODEC_WITH_GLOBALS) ? add_name : NULL, &scan, &report);
  want_environments(L, &scan, environment, &report);
  if (report.sets_upvalues || !report.is_understood) c->is_stateful = 1;
}

static int begin_lua_function(struct codec *c, lua_State *L) {
  int at = lua_gettop(L), n = 0, status = writer_reference(c, L, lua_topointer(L, -1));
  size_t tag_at = c->out->length;
  lua_Debug about;
  if (status < 0) return status;
  if (status == 1) {
    lua_pop(L, 1);
    return 0;
  }
  if (!lua_checkstack(L, 16)) return writer_refuse(c, L, -EINVAL, "nested too deeply", NULL);
  lua_pushvalue(L, at);
  lua_getinfo(L, ">u", &about);
  n = about.nups;
  if (put_tag(c->out, TAG_FUNCTION) < 0 || put_tag(c->out, n) < 0 || closure_dump(L, c->out) < 0) return codec_out_of_memory(c);
  status = writer_push_frame(c, L, FRAME_FUNCTION, tag_at);
  if (status < 0) return status;
  lua_pushnil(L);
  lua_newtable(L);
  scan_code(c, L, at, tag_at + 2);
  return 1;
}

/* is_script_name -- is it one of the script's own globals? To a side that has other globals such a name says nothing. */
static int is_script_name(struct codec *c, lua_State *L, uint32_t number) {
  int is_it;
  if (c->names.list[number].space != NAMES_GLOBAL) return 0;
  while (c->names.list[number].parent) number = c->names.list[number].parent;
  codec_push_anchor(c, L, ANCHOR_NAME_KEYS);
  lua_rawgeti(L, -1, (lua_Integer)c->names.list[number].key);
  is_it = !names_is_library(lua_tostring(L, -1));
  lua_pop(L, 2);
  return is_it;
}

/* writer_c_function -- a C function without a name that the other side knows. */
static int writer_c_function(struct codec *c, lua_State *L) {
  int status = writer_early(c, L);
  if (status == 0) return writer_refuse_value(c, L);
  if (status > 0) lua_pop(L, 1);
  return status > 0 ? 0 : status;
}

int writer_begin_function(struct codec *c, lua_State *L) {
  int64_t found = 0;
  /* Lua functions that were not known by name before are sent as code: building the index costs more. */
  if (lua_iscfunction(L, -1) || c->names.n_slots == 0 || names_peek(&c->names, lua_topointer(L, -1))) found = writer_find_name(c, L);
  if (found < 0) return (int)found;
  if (found > 0 && lua_iscfunction(L, -1) && (c->flags & CODEC_WITH_GLOBALS) && is_script_name(c, L, (uint32_t)found)) found = 0;
  if (found == 0 && lua_iscfunction(L, -1)) return writer_c_function(c, L);
  if (found == 0) return begin_lua_function(c, L);
  found = writer_put_name(c, L, (uint32_t)found);
  if (found == 0) lua_pop(L, 1);
  return (int)found;
}

/*
 * join_upvalue -- is upvalue n of the function at f->at a variable that was written before? Then refer to it (1); 0: no; negative:
 * failed.
 */
static int join_upvalue(struct codec *c, lua_State *L, struct write_frame *f, uint32_t n) {
  struct seen *entry;
  int is_known = seen_enter(c, lua_upvalueid(L, f->at, (int)n), &entry);
  uint64_t function;
  if (is_known < 0) return codec_out_of_memory(c);
  if (!is_known) {
    entry->place = ((uint64_t)(f->tag_at - c->start) << 8) | n;
    return 0;
  }
  function = entry->place >> 8;
  c->out->data[c->start + function] |= IS_SHARED;
  if (put_tag(c->out, TAG_JOIN) < 0 || writer_put_varint(c->out, function) < 0 || put_tag(c->out, (int)(entry->place & 255)) < 0)
    return codec_out_of_memory(c);
  return 1;
}

/* is_known_global -- was the other side given the global whose name is at `name`? Notes, with `is_given`, that it is now. */
static int is_known_global(struct codec *c, lua_State *L, int name, int is_given) {
  int is_known;
  codec_push_anchor(c, L, ANCHOR_GLOBALS);
  lua_pushvalue(L, name);
  is_known = lua_rawget(L, -2) != LUA_TNIL;
  lua_pop(L, 1);
  if (!is_known && is_given) {
    lua_pushvalue(L, name);
    lua_pushboolean(L, 1);
    lua_rawset(L, -3);
  }
  lua_pop(L, 1);
  return is_known;
}

/* note_replaced -- the other side gets, under the library's name at `name`, something else. */
static void note_replaced(struct codec *c, lua_State *L, int name) {
  codec_push_anchor(c, L, ANCHOR_GLOBALS);
  lua_pushvalue(L, name);
  lua_pushboolean(L, 0);
  lua_rawset(L, -3);
  lua_pop(L, 1);
}

/* is_replaced -- did the other side get something else under the library's name? Then the library's own cannot be sent by name any more. */
static int is_replaced(struct codec *c, lua_State *L, int name) {
  int is_it;
  codec_push_anchor(c, L, ANCHOR_GLOBALS);
  lua_pushvalue(L, name);
  is_it = lua_rawget(L, -2) == LUA_TBOOLEAN && !lua_toboolean(L, -1);
  lua_pop(L, 2);
  if (is_it) (void)codec_fail(c, -EINVAL, "a library function that was replaced by another cannot be sent by name");
  return is_it;
}

/*
 * is_wanted_global -- is the global (its name at f->at + 1, its value on top) to be sent, and not yet sent with this value? -EINVAL: it
 * should be and cannot.
 */
static int is_wanted_global(struct codec *c, lua_State *L, struct write_frame *f) {
  const char *name = lua_tostring(L, f->at + 1);
  int type = lua_type(L, -1), wanted;
  if (names_is_library(name)) {
    if (type == LUA_TNIL || lua_iscfunction(L, -1)) return is_replaced(c, L, f->at + 1) ? -EINVAL : 0;
    if (type == LUA_TTABLE && names_peek(&c->names, lua_topointer(L, -1)) && writer_find_name(c, L) > 0) return 0;
  }
  if (!is_known_global(c, L, f->at + 1, type != LUA_TNIL) && type == LUA_TNIL) return 0;
  writer_push_sent(c, L);
  lua_pushvalue(L, f->at + 1);
  lua_rawget(L, -2);
  if (type == LUA_TNIL) wanted = lua_touserdata(L, -1) != c;
  else wanted = !lua_rawequal(L, -1, -3);
  lua_pop(L, 1);
  if (wanted && names_is_library(name)) note_replaced(c, L, f->at + 1);
  if (wanted) {
    lua_pushvalue(L, f->at + 1);
    if (type == LUA_TNIL) lua_pushlightuserdata(L, c); /* "nil was sent" */
    else lua_pushvalue(L, -3);
    lua_rawset(L, -3);
    c->has_sent = 1;
  }
  lua_pop(L, 1);
  return wanted;
}

static int put_define(struct codec *c, lua_State *L, int name) {
  size_t length;
  const char *text = lua_tolstring(L, name, &length);
  unsigned char head[3] = {TAG_DEFINE, NAMES_GLOBAL, 1};
  if (bytes_append(c->out, head, 3) < 0 || writer_put_varint(c->out, length) < 0 || bytes_append(c->out, text, length) < 0)
    return codec_out_of_memory(c);
  return 0;
}

/* step_globals -- write the next globals, and fields of environments, that the function names. As writer_step_table. */
static int step_globals(struct codec *c, lua_State *L, struct write_frame *f) {
  for (;;) {
    int status;
    lua_settop(L, f->at + 2);
    lua_pushvalue(L, f->at + 1);
    if (!lua_next(L, f->at + 2)) break;
    if (lua_istable(L, -2)) {
      lua_pushvalue(L, -2);
      lua_replace(L, f->at + 1);
      status = writer_begin_more(c, L);
      if (status != 0) return status;
      continue;
    }
    lua_pop(L, 1);
    lua_replace(L, f->at + 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
    lua_pushvalue(L, f->at + 1);
    lua_rawget(L, -2);
    lua_remove(L, -2);
    status = is_wanted_global(c, L, f);
    if (status < 0) return status;
    if (status == 0) {
      lua_pop(L, 1);
      continue;
    }
    if (is_scalar(lua_type(L, -1))) c->is_stateful = 1;
    if (lua_type(L, -1) == LUA_TTABLE) writer_is_sent(c, L);
    status = put_define(c, L, f->at + 1);
    if (status == 0) status = writer_value(c, L);
    if (status != 0) return status;
  }
  if (put_tag(c->out, TAG_END) < 0) return codec_out_of_memory(c);
  return writer_pop_frame(c, L);
}

/* is_environment -- is the upvalue on top of the stack, whose name is at f->at + 1, an environment of which fields are wanted? */
static int is_environment(lua_State *L, const struct write_frame *f) {
  int is_it;
  if (!lua_istable(L, -1) || strcmp(lua_tostring(L, f->at + 1), "_ENV") != 0) return 0;
  lua_pushvalue(L, -1);
  is_it = lua_rawget(L, f->at + 2) == LUA_TTABLE;
  lua_pop(L, 1);
  return is_it;
}

int writer_step_function(struct codec *c, lua_State *L, struct write_frame *f) {
  const char *name;
  int status;
  while (f->phase == PHASE_NEXT && (name = lua_getupvalue(L, f->at, (int)f->n_array + 1)) != NULL) {
    lua_pushstring(L, name);
    lua_replace(L, f->at + 1);
    f->n_array++;
    status = join_upvalue(c, L, f, f->n_array);
    if (status == 1) {
      lua_pop(L, 1);
      continue;
    }
    if (status == 0) status = is_environment(L, f) ? writer_begin_environment(c, L) : writer_value(c, L);
    if (status != 0) return status;
  }
  if (f->phase == PHASE_NEXT) {
    f->phase = PHASE_GLOBALS;
    lua_pushnil(L);
    lua_replace(L, f->at + 1);
  }
  return step_globals(c, L, f);
}
