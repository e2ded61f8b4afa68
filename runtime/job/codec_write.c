/*
 * job/codec_write -- the writer: see codec.h for codec_begin, codec_write and their like, codec_write.h for what its files share.
 *
 * Room: job (may include job/codec_write.h and job/codec_run.h).  Owns: the writer's frames, its open run, and the mark that a failed value
 * goes back to. This file: scalars, references, frames, the loop over them, and top-level values. The hot path is a number that joins the
 * open run.
 */
#include "job/codec_write.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include "base/cold.h"
#include "job/codec_run.h"

int writer_put_varint(struct bytes *out, uint64_t value) {
  unsigned char text[10];
  size_t n = 0;
  while (value >= 0x80) {
    text[n++] = (unsigned char)(value | 0x80);
    value >>= 7;
  }
  text[n++] = (unsigned char)value;
  return bytes_append(out, text, n);
}

int writer_put_string(struct bytes *out, const char *text, size_t length) {
  uint64_t wide = length;
  if (bytes_reserve(out, length < SIZE_MAX - 9 ? length + 9 : length) < 0) return -ENOMEM;
  if (length < 128) {
    out->data[out->length++] = (unsigned char)(TAG_SHORT + length);
  } else {
    out->data[out->length++] = TAG_STRING;
    memcpy(out->data + out->length, &wide, 8);
    out->length += 8;
  }
  if (length) memcpy(out->data + out->length, text, length);
  out->length += length;
  return 0;
}

int writer_put_integer(struct bytes *out, lua_Integer value) {
  if (bytes_reserve(out, 9) < 0) return -ENOMEM;
  if (value >= 0 && value < 64) {
    out->data[out->length++] = (unsigned char)(TAG_SMALL + value);
  } else if (value >= INT32_MIN && value <= INT32_MAX) {
    int32_t narrow = (int32_t)value;
    out->data[out->length++] = TAG_INT32;
    memcpy(out->data + out->length, &narrow, 4);
    out->length += 4;
  } else {
    out->data[out->length++] = TAG_INTEGER;
    memcpy(out->data + out->length, &value, 8);
    out->length += 8;
  }
  return 0;
}

int writer_put_float(struct bytes *out, lua_Number value) {
  if (bytes_reserve(out, 9) < 0) return -ENOMEM;
  out->data[out->length++] = TAG_FLOAT;
  memcpy(out->data + out->length, &value, 8);
  out->length += 8;
  return 0;
}

int writer_put_scalar(struct bytes *out, lua_State *L, int index, int type) {
  const char *text;
  size_t length;
  switch (type) {
  case LUA_TNIL: return put_tag(out, TAG_NIL);
  case LUA_TBOOLEAN: return put_tag(out, lua_toboolean(L, index) ? TAG_TRUE : TAG_FALSE);
  case LUA_TNUMBER:
    if (lua_isinteger(L, index)) return writer_put_integer(out, lua_tointeger(L, index));
    return writer_put_float(out, lua_tonumber(L, index));
  default:
    text = lua_tolstring(L, index, &length);
    return writer_put_string(out, text, length);
  }
}

int writer_put_reference(struct codec *c, const struct seen *entry) {
  c->out->data[c->start + entry->place] |= IS_SHARED;
  if (put_tag(c->out, TAG_REFERENCE) < 0 || writer_put_varint(c->out, entry->place) < 0) return codec_out_of_memory(c);
  return 0;
}

int writer_refer_to(struct codec *c, lua_State *L, const struct seen *entry) {
  int status;
  if (entry->is_open == IS_SAVING) return writer_refuse(c, L, -EINVAL, "userdata that its own saved value contains cannot be sent", NULL);
  if (entry->is_open == IS_PARTIAL) return 2;
  status = writer_put_reference(c, entry);
  return status < 0 ? status : 1;
}

int writer_push_frame(struct codec *c, lua_State *L, int kind, size_t tag_at) {
  struct write_frame *f;
  if (!lua_checkstack(L, 8)) return writer_refuse(c, L, -EINVAL, "nested too deeply", NULL);
  if (c->n_frames == c->frames_capacity) {
    size_t capacity = c->frames_capacity ? c->frames_capacity * 2 : 32;
    f = realloc(c->frames, capacity * sizeof *f);
    if (f == NULL) return codec_out_of_memory(c);
    c->frames = f;
    c->frames_capacity = capacity;
  }
  f = &c->frames[c->n_frames++];
  memset(f, 0, sizeof *f);
  f->kind = (unsigned char)kind;
  f->at = lua_gettop(L);
  f->tag_at = tag_at;
  return 1;
}

int writer_value(struct codec *c, lua_State *L) {
  int type = lua_type(L, -1);
  switch (type) {
  case LUA_TNIL:
  case LUA_TBOOLEAN:
  case LUA_TNUMBER:
  case LUA_TSTRING:
    if (writer_put_scalar(c->out, L, -1, type) < 0) return codec_out_of_memory(c);
    lua_pop(L, 1);
    return 0;
  case LUA_TTABLE: return writer_begin_table(c, L);
  case LUA_TFUNCTION: return writer_begin_function(c, L);
  case LUA_TUSERDATA: return writer_begin_userdata(c, L);
  default: return writer_refuse_value(c, L);
  }
}

static int step(struct codec *c, lua_State *L) {
  struct write_frame *f = &c->frames[c->n_frames - 1];
  switch (f->kind) {
  case FRAME_TABLE: return writer_step_table(c, L, f);
  case FRAME_RECORD: return writer_step_record(c, L, f);
  case FRAME_FUNCTION: return writer_step_function(c, L, f);
  case FRAME_ENVIRONMENT: return writer_step_environment(c, L, f);
  case FRAME_MORE: return writer_step_more(c, L, f);
  default: return writer_step_userdata(c, L, f);
  }
}

static void set_mark(struct codec *c) {
  c->mark.length = c->out->length;
  c->mark.run_at = c->run_at;
  c->mark.run_tag = c->run_tag;
  c->mark.is_stateful = c->is_stateful;
  c->mark.n_shapes = c->n_shapes;
  c->mark.n_shape_keys = c->n_shape_keys;
  c->mark.n_named = c->n_named;
  c->has_sent = 0;
  c->is_writing = 1;
}

/* write_object -- a top-level table, function or userdata. */
static int write_object(struct codec *c, lua_State *L, int index) {
  int status, top = lua_gettop(L);
  index = lua_absindex(L, index);
  if (!lua_checkstack(L, 20)) return codec_fail(c, -EINVAL, "nested too deeply");
  c->n_frames = 0;
  seen_clear(c);
  names_expire(&c->names);
  if (c->has_saved) {
    codec_renew_anchor(c, L, ANCHOR_SAVED);
    c->has_saved = 0;
    lua_settop(L, top);
  }
  lua_pushvalue(L, index);
  status = writer_value(c, L);
  while (status >= 0 && c->n_frames > 0) status = step(c, L);
  lua_settop(L, top);
  return status < 0 ? status : 0;
}

/* write_object_anew -- what was refused may be part of a module that was loaded since the index of names was built: try with a new one. */
static int write_object_anew(struct codec *c, lua_State *L, int index) {
  codec_rollback(c);
  set_mark(c);
  names_free(&c->names);
  return write_object(c, L, index);
}

/* write_run -- a top-level number or nil: it joins the open run of its kind, or opens one. */
static int write_run(struct codec *c, lua_State *L, int index, int tag) {
  struct bytes *out = c->out;
  uint32_t count = 0;
  if (bytes_reserve(out, 13) < 0) return codec_out_of_memory(c);
  if (c->run_tag == tag) count = get_count(out->data + c->run_at);
  if (c->run_tag != tag || count == (tag == TAG_RUN_NIL ? MAX_NIL_RUN : UINT32_MAX)) {
    out->data[out->length] = (unsigned char)tag;
    c->run_at = out->length + 1;
    out->length += 5;
    c->run_tag = tag;
    c->is_stateful = 1;
    count = 0;
  }
  if (tag != TAG_RUN_NIL) put_number_bytes(out, L, index, tag);
  set_count(out->data + c->run_at, count + 1);
  return 0;
}

void codec_begin(struct codec *c, struct bytes *out, int flags, const char *root) {
  if (c->is_busy) return; /* a save function that uses its own pool: codec_write will say so */
  c->out = out;
  c->start = out->length;
  c->flags = flags;
  c->root = root;
  c->run_tag = 0;
  c->is_stateful = 0;
  c->n_named = 0;
  c->n_natives = 0;
  c->stream++;
  c->sent_is_stale = 1;
  c->n_frames = 0;
  c->message[0] = '\0';
  if (c->n_shapes) writer_forget_shapes(c, 0, 0);
  c->is_writing = 0;
}

/* drop_natives -- those of another stream are not kept any longer. */
static void drop_natives(struct codec *c, lua_State *L) {
  codec_renew_anchor(c, L, ANCHOR_NATIVES);
  lua_pop(L, 1);
  c->has_natives = 0;
}

/* write_other -- codec_write for what does not join the open run; apart from it, so that the hot path saves few registers. */
static __attribute__((noinline)) int write_other(struct codec *c, lua_State *L, int index) {
  int status, type = lua_type(L, index);
  if (c->is_busy) return codec_fail(c, -EINVAL, "a save or load function may not use the pool that called it");
  if (c->has_natives && c->n_natives == 0) drop_natives(c, L);
  if (type == LUA_TNUMBER) return write_run(c, L, index, number_tag(L, index));
  if (type == LUA_TNIL) return write_run(c, L, index, TAG_RUN_NIL);
  set_mark(c);
  c->run_tag = 0;
  if (type != LUA_TFUNCTION) c->is_stateful = 1;
  if (is_scalar(type)) status = writer_put_scalar(c->out, L, index, type) < 0 ? codec_out_of_memory(c) : 0;
  else status = write_object(c, L, index);
  if (status == -EINVAL && !c->names.is_fresh) status = write_object_anew(c, L, index);
  if (status < 0) codec_rollback(c);
  c->is_writing = 0;
  return status;
}

int codec_write(struct codec *c, lua_State *L, int index) {
  return codec_join(c, L, index) ? 0 : write_other(c, L, index);
}

COLD void codec_rollback(struct codec *c) {
  if (!c->is_writing) return;
  c->is_writing = 0;
  c->n_frames = 0;
  c->out->length = c->mark.length;
  c->run_at = c->mark.run_at;
  c->run_tag = c->mark.run_tag;
  c->is_stateful = c->mark.is_stateful;
  if (c->n_shapes > c->mark.n_shapes) writer_forget_shapes(c, c->mark.n_shapes, c->mark.n_shape_keys);
  if (c->n_named > c->mark.n_named) {
    for (uint32_t i = 1; i < c->names.n; i++)
      if (c->names.list[i].stream == c->stream && c->names.list[i].id >= c->mark.n_named) c->names.list[i].stream = 0;
    c->n_named = c->mark.n_named;
  }
  if (c->has_sent) c->sent_is_stale = 1;
}

int codec_is_stateless(const struct codec *c) {
  return !c->is_stateful;
}
