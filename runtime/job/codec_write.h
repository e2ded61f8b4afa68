/*
 * job/codec_write -- what the files of the writer share: scalars, frames, and the beginning and the steps of each kind of object.
 *
 * Room: job (may include job/codec_parts.h; only job/codec_write*.c and job/codec_seen.c include this).  Owns: nothing.
 *
 * The writer walks a value without recursion. writer_value writes what is on top of the Lua stack: a scalar at once, an object by its
 * `begin` function, which writes the tag and pushes a frame. A frame's object stays on the stack; its `step` function goes on with it until
 * a child needs a frame of its own or the object is written.
 * All may raise Lua's memory errors; none holds memory that would then be lost.
 */
#ifndef LUAPOOL_JOB_CODEC_WRITE_H
#define LUAPOOL_JOB_CODEC_WRITE_H

#include "job/codec_parts.h"

/* ---- the loop (codec_write.c) ---- */

/*
 * writer_value -- write the value on top of the stack, or begin to.
 * Returns 0: written and popped; 1: a frame was pushed for it, it stays on the stack until the frame is done; negative: failed.
 */
int writer_value(struct codec *c, lua_State *L);

/*
 * writer_refer_to -- write a reference to an object that was met before. Returns 1; 2: it was written in parts, writer_complete; or
 * negative.
 */
int writer_refer_to(struct codec *c, lua_State *L, const struct seen *entry);

/* writer_put_reference -- the same for one that is whole, or need not be. Returns 0, or negative. */
int writer_put_reference(struct codec *c, const struct seen *entry);

/* writer_push_frame -- begin the object on top of the stack, whose tag is at tag_at. Returns 1 (a frame was pushed) or a failure. */
int writer_push_frame(struct codec *c, lua_State *L, int kind, size_t tag_at);

/* writer_pop_frame -- the object is written: take it off the stack. Returns 0. */
static inline int writer_pop_frame(struct codec *c, lua_State *L) {
  lua_settop(L, c->frames[--c->n_frames].at - 1);
  return 0;
}

/* ---- bytes (codec_write.c): each returns 0 or -ENOMEM, without a message ---- */

int writer_put_varint(struct bytes *out, uint64_t value);
int writer_put_string(struct bytes *out, const char *text, size_t length);
int writer_put_integer(struct bytes *out, lua_Integer value);
int writer_put_float(struct bytes *out, lua_Number value);

/* writer_put_scalar -- append the nil, boolean, number or string at index. */
int writer_put_scalar(struct bytes *out, lua_State *L, int index, int type);

static inline int put_tag(struct bytes *out, int tag) {
  unsigned char byte = (unsigned char)tag;
  return bytes_append(out, &byte, 1);
}

static inline int is_scalar(int type) {
  return type == LUA_TNUMBER || type == LUA_TSTRING || type == LUA_TBOOLEAN || type == LUA_TNIL;
}

/* number_tag -- the kind of run for the number at index. */
static inline int number_tag(lua_State *L, int index) {
  return lua_isinteger(L, index) ? TAG_RUN_INTEGER : TAG_RUN_FLOAT;
}

/* put_number_bytes -- append the 8 bytes of a number; the caller reserved them. */
static inline void put_number_bytes(struct bytes *out, lua_State *L, int index, int tag) {
  if (tag == TAG_RUN_INTEGER) {
    lua_Integer integer = lua_tointeger(L, index);
    memcpy(out->data + out->length, &integer, 8);
  } else {
    lua_Number number = lua_tonumber(L, index);
    memcpy(out->data + out->length, &number, 8);
  }
  out->length += 8;
}

/* ---- objects met before (codec_seen.c) ---- */

/* seen_enter -- *entry is the entry of pointer; 1 if it was there, 0 if it is new (place is unset), -ENOMEM. Valid until the next call. */
int seen_enter(struct codec *c, const void *pointer, struct seen **entry);

/* seen_has -- 1 if seen_enter has met the pointer in this value. */
int seen_has(const struct codec *c, const void *pointer);

/* seen_clear -- forget all; keeps the memory unless one huge value made it huge. */
void seen_clear(struct codec *c);

/*
 * writer_reference -- if the object on top of the stack, whose address is `pointer`, was met before, refer to it.
 * Returns 1: done; 0: it is new and stands at the present end of the stream; 2: it is a table that writer_complete goes on with; negative:
 * failed.
 */
static inline int writer_reference(struct codec *c, lua_State *L, const void *pointer) {
  struct seen *entry;
  int is_known = seen_enter(c, pointer, &entry);
  if (is_known < 0) return codec_out_of_memory(c);
  if (is_known) return writer_refer_to(c, L, entry);
  entry->place = c->out->length - c->start;
  return 0;
}

/* ---- failures (codec_write_error.c) ---- */

/* writer_refuse -- the message "PATH: WHAT" for the place where the writer is; detail may be NULL. Returns status. */
int writer_refuse(struct codec *c, lua_State *L, int status, const char *what, const char *detail);

/* writer_refuse_value -- "...: userdata (tcp{client}) cannot be sent", for the value on top of the stack. Returns -EINVAL. */
int writer_refuse_value(struct codec *c, lua_State *L);

/* ---- names (codec_write_name.c) ---- */

/* writer_find_name -- the verified name of the value on top of the stack; 0: it has none; negative: failed. */
int64_t writer_find_name(struct codec *c, lua_State *L);

/* writer_put_name -- a name where a value is expected: in full the first time, by number from then on. 0 or negative. */
int writer_put_name(struct codec *c, lua_State *L, uint32_t number);

/* writer_early -- 1: the C function or userdata on top of the stack was sent by its number of an early start; 0: it has none; negative. */
int writer_early(struct codec *c, lua_State *L);

/* writer_goes_by_name -- 1: the table on top of the stack would be sent by name; 0: by value; negative: failed. */
int writer_goes_by_name(struct codec *c, lua_State *L);

/* writer_named_table -- 1: the table on top of the stack was sent by name; 0: it is to be sent by value; negative: failed. */
int writer_named_table(struct codec *c, lua_State *L);

/* writer_has_name -- 0: the object at `pointer` certainly has no name, which is what most tables are; else ask writer_named_table. */
static inline int writer_has_name(const struct codec *c, const void *pointer) {
  return c->names.n_slots == 0 || names_peek(&c->names, pointer) != 0;
}

/* writer_metatable -- write the metatable on top of the stack. As writer_value. */
int writer_metatable(struct codec *c, lua_State *L);

/* writer_push_sent -- push the table of what this stream has defined among the reader's globals: name -> value, table -> true. */
void writer_push_sent(struct codec *c, lua_State *L);

/* writer_is_sent -- has this stream defined the table on top of the stack under a global name? If not, it has now. */
int writer_is_sent(struct codec *c, lua_State *L);

/*
 * ---- objects ----
 * begin: for the object on top of the stack, returns as writer_value.
 * step: go on with the object of the topmost frame f until a child must be written first (1) or it is finished and popped (0);
 *       negative: failed.
 */

int writer_begin_table(struct codec *c, lua_State *L);
int writer_step_table(struct codec *c, lua_State *L, struct write_frame *f);
int writer_step_record(struct codec *c, lua_State *L, struct write_frame *f);

/* writer_forget_shapes -- drop the latest shapes until n are left, with n_keys keys among them. */
void writer_forget_shapes(struct codec *c, uint32_t n, uint32_t n_keys);

int writer_begin_function(struct codec *c, lua_State *L);
int writer_step_function(struct codec *c, lua_State *L, struct write_frame *f);

/*
 * Environments (codec_write_environment.c). writer_begin_environment: for one that is on top of the stack as an upvalue. writer_complete:
 * for a table on top of the stack of which only parts were written. writer_begin_more: of the table below the top those fields whose names
 * are in the set on top, or all (true), unless they were written; both are popped.
 */
int writer_begin_environment(struct codec *c, lua_State *L);
int writer_step_environment(struct codec *c, lua_State *L, struct write_frame *f);
int writer_complete(struct codec *c, lua_State *L);
int writer_begin_more(struct codec *c, lua_State *L);
int writer_step_more(struct codec *c, lua_State *L, struct write_frame *f);

/*
 * writer_want -- in the table at `wants`, note that the field `text` (NULL: none yet) of the environment at `environment` is named:
 * environment -> set of names, or true (all of it). writer_want_behind -- what the environment lacks is wanted where __index leads; a
 * global: name -> true.
 */
void writer_want(lua_State *L, int wants, int environment, const char *text, size_t length);
void writer_want_behind(lua_State *L, int wants, int environment);

int writer_begin_userdata(struct codec *c, lua_State *L);
int writer_step_userdata(struct codec *c, lua_State *L, struct write_frame *f);

#endif
