/*
 * job/codec_read_userdata -- bytes to userdata: what the load function of its class makes of the saved value.
 *
 * Room: job (may include job/codec_read.h, where its functions are declared).  Owns: nothing.
 * A load function runs protected and may do anything but use this codec (is_busy).
 */
#include "job/codec_read.h"

#include <errno.h>
#include <stdio.h>

/* read_native -- the bytes of a native userdata, which the class understands by itself. As reader_item. */
static int read_native(struct reading *r, const struct codec_native *native, int flags, uint64_t place) {
  struct codec *c = r->c;
  const unsigned char *body;
  char text[MESSAGE_BYTES] = "";
  uint64_t length;
  r->at += *r->at + 1;
  if (left(r) < 9 || *r->at != TAG_STRING) return reader_damaged(c);
  memcpy(&length, r->at + 1, 8);
  body = r->at + 9;
  if (length > left(r) - 9) return reader_damaged(c);
  if (!lua_checkstack(r->L, 12)) return codec_fail(c, -EBADMSG, "nested too deeply");
  if (native->load(r->L, body, (size_t)length, text, sizeof text) < 0) {
    if (!c->is_missing) (void)codec_fail(c, 0, text);
    c->is_missing = 1;
    lua_pushnil(r->L);
  } else if (flags & IS_SHARED) {
    reader_remember(r, place);
  }
  r->at = body + length;
  return 0;
}

int reader_open_userdata(struct reading *r, int flags, uint64_t place) {
  const struct codec_native *native;
  struct read_frame *f;
  int status;
  if (left(r) < 1 || left(r) - 1 < *r->at) return reader_damaged(r->c);
  if (!lua_checkstack(r->L, 8)) return codec_fail(r->c, -EBADMSG, "nested too deeply");
  native = codec_native_named(r->L, (const char *)r->at + 1, *r->at);
  if (native != NULL) return read_native(r, native, flags, place);
  status = reader_open_frame(r, FRAME_USERDATA, 1);
  if (status < 0) return status;
  f = top_frame(r->c);
  f->name = r->at;
  f->place_flag = flags & IS_SHARED;
  f->place = place;
  f->n_array = 1;
  r->at += *r->at + 1;
  lua_pushnil(r->L);
  return 1;
}

/* close_userdata -- the saved value is on top of the stack: what the load function of the class makes of it is the object. */
static int close_userdata(struct reading *r, struct read_frame *f) {
  lua_State *L = r->L;
  struct codec *c = r->c;
  int at = f->at;
  names_push_classes(L);
  lua_pushlstring(L, (const char *)f->name + 1, *f->name);
  lua_rawget(L, -2);
  if (!lua_isnil(L, -1)) lua_rawget(L, -2);
  if (lua_istable(L, -1)) lua_rawgeti(L, -1, 3);
  if (!lua_isfunction(L, -1)) {
    if (!c->is_missing) snprintf(c->message, sizeof c->message, "class '%.*s' is not registered here", (int)*f->name,
                                  (const char *)f->name + 1);
    c->is_missing = 1;
    lua_settop(L, at);
    c->n_read_frames--;
    return 0;
  }
  lua_pushvalue(L, at + 1);
  if (!names_call(L, 1, &c->is_busy)) {
    snprintf(c->message, sizeof c->message, "the load function of class '%.*s' failed: %s", (int)*f->name, (const char *)f->name + 1,
             lua_tostring(L, -1));
    return -EBADMSG;
  }
  if (f->place_flag && !lua_isnil(L, -1)) reader_remember(r, f->place);
  lua_replace(L, at);
  lua_settop(L, at);
  c->n_read_frames--;
  return 0;
}

int reader_step_userdata(struct reading *r, struct read_frame *f) {
  if (f->n_array > 0) {
    int status;
    f->n_array = 0;
    status = reader_item(r);
    if (status != 0) return status;
  }
  return close_userdata(r, f);
}
