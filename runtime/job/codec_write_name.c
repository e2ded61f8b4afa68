/*
 * job/codec_write_name -- what the writer sends by its name instead of its value: modules, classes, library functions, metatables.
 *
 * Room: job (may include job/codec_write.h, where its functions are declared).  Owns: the numbers of names in the present stream,
 * and the table ANCHOR_SENT of what the stream has defined among the reader's globals.
 * Which value has which name is the business of job/names; here is when a name is used.
 */
#include "job/codec_write.h"

#include <errno.h>

int64_t writer_find_name(struct codec *c, lua_State *L) {
  int64_t found;
  if (!lua_checkstack(L, 16)) return writer_refuse(c, L, -EINVAL, "nested too deeply", NULL);
  codec_push_anchor(c, L, ANCHOR_NAME_KEYS);
  codec_push_anchor(c, L, ANCHOR_FUNCTION);
  found = names_find(&c->names, L, lua_gettop(L) - 1, lua_gettop(L), lua_gettop(L) - 2);
  lua_pop(L, 2);
  return found < 0 ? codec_out_of_memory(c) : found;
}

int writer_put_name(struct codec *c, lua_State *L, uint32_t number) {
  struct name *name = &c->names.list[number];
  int status;
  if (name->stream == c->stream) {
    if (put_tag(c->out, TAG_NAMED) < 0 || writer_put_varint(c->out, name->id) < 0) return codec_out_of_memory(c);
    return 0;
  }
  codec_push_anchor(c, L, ANCHOR_NAME_KEYS);
  status = put_tag(c->out, TAG_NAME);
  if (status == 0) status = names_write(&c->names, L, lua_gettop(L), number, c->out);
  lua_pop(L, 1);
  if (status < 0) return codec_out_of_memory(c);
  name->stream = c->stream;
  name->id = c->n_named++;
  return 0;
}

int writer_early(struct codec *c, lua_State *L) {
  lua_Integer number;
  if (!c->has_early) return 0;
  if (!lua_checkstack(L, 4)) return writer_refuse(c, L, -EINVAL, "nested too deeply", NULL);
  codec_push_anchor(c, L, ANCHOR_EARLY);
  lua_pushvalue(L, -2);
  lua_rawget(L, -2);
  number = lua_tointeger(L, -1);
  lua_pop(L, 2);
  if (number == 0) return 0;
  if (put_tag(c->out, TAG_NAME) < 0 || names_write_early(number, c->out) < 0) return codec_out_of_memory(c);
  c->n_named++; /* the reader gives every name a number */
  return 1;
}

/*
 * goes_by_name -- is a table of this name sent by name also where it is a plain value, not a metatable? Modules and classes are,
 * data is not.
 */
static int goes_by_name(const struct codec *c, const struct name *name) {
  if (name->space == NAMES_CLASS) return 1;
  if (name->space == NAMES_LOADED && name->n_keys == 1) return 1;
  return name->is_class && !(name->space == NAMES_GLOBAL && (c->flags & CODEC_WITH_GLOBALS));
}

int writer_goes_by_name(struct codec *c, lua_State *L) {
  int64_t found = writer_find_name(c, L);
  if (found <= 0) return (int)found;
  return goes_by_name(c, &c->names.list[found]);
}

int writer_named_table(struct codec *c, lua_State *L) {
  int64_t found;
  uint32_t guess;
  if (c->names.n_slots == 0) { /* the first table ever: build the index */
    found = writer_find_name(c, L);
    if (found < 0) return (int)found;
  }
  guess = names_peek(&c->names, lua_topointer(L, -1));
  if (guess == 0 || !goes_by_name(c, &c->names.list[guess])) return 0;
  found = writer_find_name(c, L);
  if (found <= 0) return (int)found;
  if (!goes_by_name(c, &c->names.list[found])) return 0;
  found = writer_put_name(c, L, (uint32_t)found);
  return found < 0 ? (int)found : 1;
}

void writer_push_sent(struct codec *c, lua_State *L) {
  if (c->sent_is_stale) {
    codec_renew_anchor(c, L, ANCHOR_SENT);
    c->sent_is_stale = 0;
  } else {
    codec_push_anchor(c, L, ANCHOR_SENT);
  }
}

int writer_is_sent(struct codec *c, lua_State *L) {
  int known;
  writer_push_sent(c, L);
  lua_pushvalue(L, -2);
  lua_rawget(L, -2);
  known = lua_toboolean(L, -1);
  lua_pop(L, 1);
  if (!known) {
    lua_pushvalue(L, -2);
    lua_pushboolean(L, 1);
    lua_rawset(L, -3);
    c->has_sent = 1;
  }
  lua_pop(L, 1);
  return known;
}

int writer_metatable(struct codec *c, lua_State *L) {
  int64_t found = writer_find_name(c, L);
  if (found < 0) return (int)found;
  if (found > 0) {
    const struct name *name = &c->names.list[found];
    int is_carried = name->space == NAMES_GLOBAL && (c->flags & CODEC_WITH_GLOBALS);
    /* If the table itself is on its way already, refer to it: over there the name means something else until it is whole. */
    if (is_carried && seen_has(c, lua_topointer(L, -1))) return writer_value(c, L);
    if (!is_carried || writer_is_sent(c, L)) {
      int status = writer_put_name(c, L, (uint32_t)found);
      lua_pop(L, 1);
      return status;
    }
    /* The other side may have an older class of that name, or none: give it this one. */
    codec_push_anchor(c, L, ANCHOR_NAME_KEYS);
    if (put_tag(c->out, TAG_DEFINE) < 0 || names_write(&c->names, L, lua_gettop(L), (uint32_t)found, c->out) < 0)
      return codec_out_of_memory(c);
    lua_pop(L, 1);
  }
  return writer_value(c, L);
}
