/*
 * job/codec_read_name -- names in a stream: what they name here, and what is defined among the globals under a name.
 *
 * Room: job (may include job/codec_read.h, where its functions are declared).  Owns: ANCHOR_READ_NAMES, what names stand for.
 * A name that nothing has here is noted (is_missing); the value is read to its end all the same, so that the next one can be read.
 */
#include "job/codec_read.h"

#include <errno.h>

int reader_open_define(struct reading *r) {
  int status = reader_open_frame(r, FRAME_DEFINE, 1);
  struct read_frame *f;
  if (status < 0) return status;
  f = top_frame(r->c);
  f->name = r->at;
  f->n_array = 1;
  lua_pushnil(r->L);
  return names_skip(&r->at, r->end) < 0 ? reader_damaged(r->c) : 1;
}

int reader_name(struct reading *r) {
  char missing[MESSAGE_BYTES];
  int status, function;
  if (!lua_checkstack(r->L, 12)) return codec_fail(r->c, -EBADMSG, "nested too deeply");
  codec_push_anchor(r->c, r->L, ANCHOR_FUNCTION);
  function = lua_gettop(r->L);
  status = names_resolve(r->L, &r->at, r->end, function, &r->c->is_busy, missing, sizeof missing);
  lua_remove(r->L, function);
  if (status == -EBADMSG) return reader_damaged(r->c);
  if (status == -ENOENT && !r->c->is_missing) codec_fail(r->c, 0, missing);
  if (status == -ENOENT) r->c->is_missing = 1;
  if (status == -ENOENT) lua_pushboolean(r->L, 0);
  else lua_pushvalue(r->L, -1);
  lua_rawseti(r->L, r->base + READ_NAMES, (lua_Integer)++r->c->n_read_names);
  return 0;
}

int reader_named(struct reading *r) {
  uint64_t number;
  if (reader_varint(r, &number) < 0 || number >= r->c->n_read_names) return reader_damaged(r->c);
  lua_rawgeti(r->L, r->base + READ_NAMES, (lua_Integer)number + 1);
  if (!lua_isboolean(r->L, -1)) return 0;
  if (!r->c->is_missing) codec_fail(r->c, 0, "a name that this value needs is missing here (see the value before)");
  r->c->is_missing = 1;
  lua_pop(r->L, 1);
  lua_pushnil(r->L);
  return 0;
}

int reader_step_define(struct reading *r, struct read_frame *f) {
  const unsigned char *name = f->name;
  if (f->n_array > 0) {
    int status;
    f->n_array = 0;
    status = reader_item(r);
    if (status != 0) return status;
  }
  lua_replace(r->L, f->at);
  lua_settop(r->L, f->at);
  if (names_define(r->L, &name, r->end) < 0) return reader_damaged(r->c);
  r->c->n_read_frames--;
  return 0;
}
