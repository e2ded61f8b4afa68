/*
 * job/codec_read -- what the files of the reader share: its place in the stream, scalars, frames, and each kind of object.
 *
 * Room: job (may include job/codec_parts.h; only job/codec_read*.c include this).  Owns: nothing.
 *
 * The reader mirrors the writer. reader_item pushes the next value: a scalar at once, an object by its `open` function, which pushes it
 * and, if there is more to read than scalars, a frame for it. `step` functions go on with the topmost frame until a child needs a frame
 * of its own or the object is whole; the loop then gives it to the frame around it.
 * No byte is believed. All may raise Lua's memory errors; none holds memory that would then be lost.
 */
#ifndef LUAPOOL_JOB_CODEC_READ_H
#define LUAPOOL_JOB_CODEC_READ_H

#include "job/codec_parts.h"

/* What a reading function works on; tables on the Lua stack. */
struct reading {
  struct codec *c;
  lua_State *L;
  const unsigned char *at, *end, *start;
  uintptr_t check_at; /* where the clock is looked at next; UINTPTR_MAX: nowhere */
  int is_sliced;  /* there is a deadline, or there was one when this value was begun */
  int has_shared; /* base + 3 is a table */
  uint64_t latest_shape, shape_at_hand; /* of the latest record; whose keys are at hand (UINT64_MAX: none's) */
  int base;  /* stack: base + 1 keys of shapes, base + 2 resolved names, base + 3 shared objects of this value (or nil), keys at hand */
};

enum { READ_KEYS = 1, READ_NAMES = 2, READ_SHARED = 3, READ_AT_HAND = 4, MAX_AT_HAND = 8, READ_TOP = READ_AT_HAND + MAX_AT_HAND - 1 };

/*
 * What a step returns when it has done enough for one look at the clock, and there is more of the same to do: only while there is a
 * deadline.
 */
enum { READER_MORE = 2, READER_SLICE = 256 /* elements of a run */ };

/* is_far_enough -- it is time to look at the clock. */
static inline int is_far_enough(const struct reading *r) {
  return (uintptr_t)r->at >= r->check_at;
}

/* ---- bytes (codec_read.c) ---- */

/* reader_damaged -- -EBADMSG and its message. */
int reader_damaged(struct codec *c);

/* reader_varint -- 0 or -EBADMSG. */
int reader_varint(struct reading *r, uint64_t *value);

/* reader_long_string -- push the string that TAG_STRING announced. 1 or -EBADMSG. */
int reader_long_string(struct reading *r);

static inline size_t left(const struct reading *r) {
  return (size_t)(r->end - r->at);
}

static inline void push_number_bytes(lua_State *L, const unsigned char *at, int tag) {
  if (tag == TAG_RUN_INTEGER) {
    lua_Integer integer;
    memcpy(&integer, at, 8);
    lua_pushinteger(L, integer);
  } else {
    lua_Number number;
    memcpy(&number, at, 8);
    lua_pushnumber(L, number);
  }
}

/* read_scalar -- push the next value if it is a scalar. 1: pushed; 0: it is not, nothing consumed; -EBADMSG. */
static inline int read_scalar(struct reading *r) {
  const unsigned char *body;
  size_t length, rest;
  int32_t narrow;
  int tag;
  if (r->at == r->end) return reader_damaged(r->c);
  tag = *r->at;
  body = r->at + 1;
  rest = (size_t)(r->end - body);
  if (tag >= TAG_SHORT) {
    length = (size_t)tag - TAG_SHORT;
    if (length > rest) return reader_damaged(r->c);
    lua_pushlstring(r->L, (const char *)body, length);
    r->at = body + length;
    return 1;
  }
  if (tag >= TAG_SMALL) {
    lua_pushinteger(r->L, tag - TAG_SMALL);
    r->at = body;
    return 1;
  }
  switch (tag) {
  case TAG_NIL: lua_pushnil(r->L); r->at = body; return 1;
  case TAG_FALSE: case TAG_TRUE: lua_pushboolean(r->L, tag == TAG_TRUE); r->at = body; return 1;
  case TAG_INT32:
    if (rest < 4) return reader_damaged(r->c);
    memcpy(&narrow, body, 4);
    lua_pushinteger(r->L, narrow);
    r->at = body + 4;
    return 1;
  case TAG_INTEGER: case TAG_FLOAT:
    if (rest < 8) return reader_damaged(r->c);
    push_number_bytes(r->L, body, tag == TAG_INTEGER ? TAG_RUN_INTEGER : TAG_RUN_FLOAT);
    r->at = body + 8;
    return 1;
  case TAG_STRING: return reader_long_string(r);
  default: return 0;
  }
}

/* ---- the loop (codec_read.c) ---- */

/* reader_item -- push the next value, or open a frame for it (its object is pushed). 0: whole; 1: a frame was opened; negative. */
int reader_item(struct reading *r);

/* reader_remember -- the object on top of the stack, whose tag is at `place`, will be referred to. */
void reader_remember(struct reading *r, uint64_t place);

/* reader_push_remembered -- push the shared object at `place`, or nil. Returns its type. */
int reader_push_remembered(struct reading *r, uint64_t place);

/* reader_open_frame -- a frame for the object that is pushed next, which needs at least `n` bytes more. 1 or negative. */
int reader_open_frame(struct reading *r, int kind, uint64_t n);

/* reader_close_object -- the metatable, if any, is next; else the object is whole. As the step functions. */
int reader_close_object(struct reading *r, struct read_frame *f);

/* reader_set_pair -- table[key] = value for the two on top of the stack; nil and NaN cannot be keys (damage, or a missing name). */
int reader_set_pair(struct reading *r, int table);

static inline struct read_frame *top_frame(struct codec *c) {
  return &c->read_frames[c->n_read_frames - 1];
}

/* ---- names (codec_read_name.c) ---- */

/* reader_name -- resolve a name that comes for the first time; what cannot be resolved is nil, and noted. As reader_item. */
int reader_name(struct reading *r);

/* reader_named -- push what a name that came before stands for; nil, and noted, if it is missing. 0 or -EBADMSG. */
int reader_named(struct reading *r);

/*
 * ---- objects ----
 * open: the tag (with its flags) at `place` is read; returns as reader_item.
 * step: go on with the topmost frame f until a frame was opened for a child (1) or the object is whole and its frame gone (0);
 *       negative: failed.
 */

int reader_open_table(struct reading *r, int flags, uint64_t place);
int reader_step_table(struct reading *r, struct read_frame *f);

int reader_open_record(struct reading *r, int flags, uint64_t place);
int reader_step_record(struct reading *r, struct read_frame *f);

int reader_open_function(struct reading *r, int flags, uint64_t place);
int reader_step_function(struct reading *r, struct read_frame *f);

int reader_open_userdata(struct reading *r, int flags, uint64_t place);
int reader_step_userdata(struct reading *r, struct read_frame *f);

int reader_open_environment(struct reading *r, int flags, uint64_t place);
int reader_step_environment(struct reading *r, struct read_frame *f);

/* reader_wrap_index -- the table on top of the stack becomes { __index = it }. */
void reader_wrap_index(lua_State *L);

int reader_open_more(struct reading *r);
int reader_step_more(struct reading *r, struct read_frame *f);

/* reader_take_more -- a pair is on top of the stack: into the environment with it. 0 or negative. */
int reader_take_more(struct reading *r, struct read_frame *f);

int reader_open_define(struct reading *r);
int reader_step_define(struct reading *r, struct read_frame *f);

#endif
