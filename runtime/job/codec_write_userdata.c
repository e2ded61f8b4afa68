/*
 * job/codec_write_userdata -- userdata to bytes: by name, or as what the save function of its class returns.
 *
 * Room: job (may include job/codec_write.h, where its functions are declared).  Owns: ANCHOR_SAVED, what save functions returned;
 * ANCHOR_NATIVES, the native userdata of the present stream.
 * A save function runs protected and may do anything but use this codec (is_busy). Native classes (codec_native) write their own bytes, and
 * are never sent by name: what the other side has under a name may be another object, even if it was made by the same line.
 */
#include "job/codec_write.h"

#include <errno.h>

/* push_class -- push the save function and the name of the class of the userdata at `at`. 1; 0: it has none, the stack is as before. */
static int push_class(lua_State *L, int at) {
  names_push_classes(L);
  if (lua_getmetatable(L, at) && lua_rawget(L, -2) == LUA_TTABLE && lua_rawgeti(L, -1, 2) == LUA_TFUNCTION) {
    lua_rawgeti(L, -2, 1);
    lua_replace(L, at + 1);
    lua_replace(L, at + 2);
    lua_settop(L, at + 2);
    lua_rotate(L, at + 1, 1);
    if (lua_rawlen(L, -1) <= 255) return 1;
  }
  lua_settop(L, at);
  return 0;
}

/* save -- call the save function below the class name on top of the stack; its result takes their place. 0 or a failure. */
static int save(struct codec *c, lua_State *L, int at) {
  lua_settop(L, at + 1);
  lua_pushvalue(L, at);
  if (!names_call(L, 1, &c->is_busy)) return writer_refuse(c, L, -EINVAL, "the save function of its class failed: ", lua_tostring(L, -1));
  codec_push_anchor(c, L, ANCHOR_SAVED); /* no other object may come to its address while this value is written */
  lua_pushvalue(L, -2);
  lua_rawseti(L, -2, ++c->has_saved);
  lua_pop(L, 1);
  return 0;
}

/* keep_native -- the userdata at `at` stays until the stream was read. */
static void keep_native(struct codec *c, lua_State *L, int at, const void *key) {
  if (c->n_natives == 0) codec_renew_anchor(c, L, ANCHOR_NATIVES);
  else codec_push_anchor(c, L, ANCHOR_NATIVES);
  if (lua_rawgetp(L, -1, key) == LUA_TNIL) {
    lua_pushvalue(L, at);
    lua_rawsetp(L, -3, key);
    c->n_natives++;
    c->has_natives = 1;
  }
  lua_pop(L, 2);
}

/* write_native -- the userdata on top of the stack, whose class is `native`. 0: written and popped; or negative. */
static int write_native(struct codec *c, lua_State *L, const struct codec_native *native) {
  char text[MESSAGE_BYTES / 2] = "";
  size_t name_length = strlen(native->name), body;
  uint64_t length = 0;
  int status, at = lua_gettop(L);
  if (!lua_checkstack(L, 12)) return writer_refuse(c, L, -EINVAL, "nested too deeply", NULL);
  status = writer_reference(c, L, lua_topointer(L, at));
  if (status == 0) {
    if (!(c->flags & CODEC_KEEPS_NONE)) keep_native(c, L, at, native->kept(L, at));
    if (put_tag(c->out, TAG_USERDATA) < 0 || put_tag(c->out, (int)name_length) < 0 ||
        bytes_append(c->out, native->name, name_length) < 0 || put_tag(c->out, TAG_STRING) < 0 || bytes_append(c->out, &length, 8) < 0)
      return codec_out_of_memory(c);
    body = c->out->length;
    status = native->save(L, at, c->flags, c->out, text, sizeof text);
    if (status == -ENOMEM) return codec_out_of_memory(c);
    if (status < 0) return writer_refuse(c, L, -EINVAL, text, NULL);
    length = c->out->length - body;
    memcpy(c->out->data + body - 8, &length, 8);
  }
  lua_settop(L, at - 1);
  return status < 0 ? status : 0;
}

int writer_begin_userdata(struct codec *c, lua_State *L) {
  const struct codec_native *native = codec_native_of(L, -1);
  const char *class_name;
  size_t length, tag_at;
  int status = 0, at = lua_gettop(L);
  int64_t found;
  struct seen *entry;
  if (native != NULL) return write_native(c, L, native);
  c->is_stateful = 1;
  status = writer_early(c, L);
  if (status == 1) lua_pop(L, 1);
  if (status != 0) return status < 0 ? status : 0;
  found = writer_find_name(c, L);
  if (found < 0) return (int)found;
  status = found > 0 ? writer_put_name(c, L, (uint32_t)found) : writer_reference(c, L, lua_topointer(L, -1));
  if (status < 0) return status;
  if (found > 0 || status == 1) {
    lua_pop(L, 1);
    return 0;
  }
  if (!lua_checkstack(L, 12)) return writer_refuse(c, L, -EINVAL, "nested too deeply", NULL);
  if (!push_class(L, at)) return writer_refuse_value(c, L);
  class_name = lua_tolstring(L, -1, &length);
  tag_at = c->out->length;
  if (put_tag(c->out, TAG_USERDATA) < 0 || put_tag(c->out, (int)length) < 0 || bytes_append(c->out, class_name, length) < 0)
    return codec_out_of_memory(c);
  if (seen_enter(c, lua_topointer(L, at), &entry) == 1) entry->is_open = IS_SAVING;
  status = save(c, L, at);
  if (status == 0) status = writer_push_frame(c, L, FRAME_USERDATA, tag_at);
  if (status < 0) return status;
  c->frames[c->n_frames - 1].at = at;
  return 1;
}

int writer_step_userdata(struct codec *c, lua_State *L, struct write_frame *f) {
  struct seen *entry;
  if (f->phase == PHASE_NEXT) {
    int status;
    f->phase = PHASE_VALUE;
    status = writer_value(c, L);
    if (status != 0) return status;
  }
  f = &c->frames[c->n_frames - 1];
  if (seen_enter(c, lua_topointer(L, f->at), &entry) == 1) entry->is_open = 0;
  return writer_pop_frame(c, L);
}
