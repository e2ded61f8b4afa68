/*
 * job/codec_write_table -- tables to bytes: records with their shapes, sequences with runs of numbers, pairs, and the metatable.
 *
 * Room: job (may include job/codec_write.h, where its functions are declared).  Owns: the shapes of the present stream
 * (codec.shapes, shape_keys, shape_slots, ANCHOR_SHAPE_KEYS).
 * A table whose keys are a few short strings is a record: its keys are a shape, written once in a stream. Others are sequence and pairs.
 */
#include "job/codec_write.h"

#include <errno.h>
#include <stdlib.h>

static size_t hash_keys(const void *const *keys, uint32_t n) {
  uint64_t hash = n;
  for (uint32_t i = 0; i < n; i++) hash = (hash ^ (uint64_t)(uintptr_t)keys[i]) * UINT64_C(0x9E3779B97F4A7C15) + (hash >> 31);
  return (size_t)(hash ^ (hash >> 32));
}

static int is_shape(const struct codec *c, uint32_t number, const void *const *keys, uint32_t n) {
  const struct shape *s = &c->shapes[number];
  return s->n_keys == n && memcmp(c->shape_keys + s->first_key, keys, n * sizeof *keys) == 0;
}

/* find_shape -- the number of the shape with these keys, or -1; *slot is then where it belongs. */
static int64_t find_shape(struct codec *c, const void *const *keys, uint32_t n, uint32_t *slot) {
  if (c->last_shape < c->n_shapes && is_shape(c, c->last_shape, keys, n)) return c->last_shape;
  *slot = (uint32_t)(hash_keys(keys, n) & (2 * MAX_SHAPES - 1));
  for (; c->shape_slots && c->shape_slots[*slot]; *slot = (*slot + 1) & (2 * MAX_SHAPES - 1)) {
    uint32_t number = c->shape_slots[*slot] - 1;
    if (!is_shape(c, number, keys, n)) continue;
    c->last_shape = number;
    return number;
  }
  return -1;
}

static int reserve_shape(struct codec *c, uint32_t n) {
  if (c->shape_slots == NULL) c->shape_slots = calloc(2 * MAX_SHAPES, sizeof *c->shape_slots);
  if (c->shape_slots == NULL || codec_grow((void **)&c->shapes, c->n_shapes, &c->shapes_capacity, sizeof *c->shapes) < 0) return -ENOMEM;
  return codec_grow((void **)&c->shape_keys, c->n_shape_keys + n - 1, &c->shape_keys_capacity, sizeof *c->shape_keys);
}

/*
 * define_shape -- a new shape whose key strings are on the Lua stack at first, first + 2, ...
 * The strings are anchored: while the stream lasts no other string can come to their addresses.
 */
static int define_shape(struct codec *c, lua_State *L, const void *const *keys, uint32_t n, uint32_t slot, int first) {
  struct shape *s;
  if (reserve_shape(c, n) < 0) return codec_out_of_memory(c);
  codec_push_anchor(c, L, ANCHOR_SHAPE_KEYS);
  for (uint32_t i = 0; i < n; i++) {
    size_t length;
    const char *text;
    lua_pushvalue(L, first + 2 * (int)i);
    text = lua_tolstring(L, -1, &length);
    if (writer_put_varint(c->out, length) < 0 || bytes_append(c->out, text, length) < 0) return codec_out_of_memory(c);
    lua_rawseti(L, -2, (lua_Integer)c->n_shape_keys + i + 1);
    c->shape_keys[c->n_shape_keys + i] = keys[i];
  }
  lua_pop(L, 1);
  s = &c->shapes[c->n_shapes];
  s->first_key = c->n_shape_keys;
  s->n_keys = n;
  s->slot = slot;
  c->shape_slots[slot] = c->n_shapes + 1;
  c->last_shape = c->n_shapes++;
  c->n_shape_keys += n;
  return 0;
}

void writer_forget_shapes(struct codec *c, uint32_t n, uint32_t n_keys) {
  /* the latest first: in this order open addressing needs no tombstones */
  while (c->n_shapes > n) c->shape_slots[c->shapes[--c->n_shapes].slot] = 0;
  c->n_shape_keys = n_keys;
  c->last_shape = UINT32_MAX;
}

/* ---- writer: tables ---------------------------------------------------------------------------------------- */

/*
 * collect_record -- leave the pairs of the table at `at` on the stack, if it is a record: a few keys, all of them short strings.
 * Returns how many, or -1 (the stack is as before). *is_leaf: all values are scalars.
 */
static int collect_record(lua_State *L, int at, const void **keys, int *is_leaf) {
  int n = 0;
  *is_leaf = 1;
  lua_pushnil(L);
  while (lua_next(L, at)) {
    if (n == MAX_RECORD_KEYS || lua_type(L, -2) != LUA_TSTRING || lua_rawlen(L, -2) > MAX_SHAPE_KEY_BYTES) break;
    keys[n] = lua_topointer(L, -2);
    if (!is_scalar(lua_type(L, -1))) *is_leaf = 0;
    n++;
    lua_pushvalue(L, -2);
  }
  if (n > 0 && lua_gettop(L) == at + 2 * n) return n;
  lua_settop(L, at);
  return -1;
}

/*
 * put_record_tag -- the tag and the shape of a record whose pairs are on the stack behind `at`. 0; 1: no more shapes in this stream;
 * negative.
 */
static int put_record_tag(struct codec *c, lua_State *L, int at, const void *const *keys, int n, int flags) {
  uint32_t slot = 0;
  int64_t shape = find_shape(c, keys, (uint32_t)n, &slot);
  if (shape < 0 && c->n_shapes == MAX_SHAPES) return 1;
  if (shape < 0) {
    if (put_tag(c->out, TAG_RECORD | DEFINES_SHAPE | flags) < 0 || writer_put_varint(c->out, (uint64_t)n) < 0)
      return codec_out_of_memory(c);
    return define_shape(c, L, keys, (uint32_t)n, slot, at + 1);
  }
  if (put_tag(c->out, TAG_RECORD | flags) < 0 || writer_put_varint(c->out, (uint64_t)shape) < 0) return codec_out_of_memory(c);
  return 0;
}

/* begin_record -- write the table on top of the stack as a record. As writer_value; -1 (no failure): it is none. */
static int begin_record(struct codec *c, lua_State *L, int has_metatable, int *result) {
  const void *keys[MAX_RECORD_KEYS];
  int at = lua_gettop(L), is_leaf, n, status;
  size_t tag_at = c->out->length;
  if (!lua_checkstack(L, 2 * MAX_RECORD_KEYS + 8)) return -1;
  n = collect_record(L, at, keys, &is_leaf);
  if (n < 0) return -1;
  status = put_record_tag(c, L, at, keys, n, has_metatable);
  if (status == 1) {
    lua_settop(L, at);
    return -1;
  }
  *result = status;
  if (status < 0) return 0;
  if (is_leaf) {
    for (int i = 0; i < n; i++)
      if (writer_put_scalar(c->out, L, at + 2 * i + 2, lua_type(L, at + 2 * i + 2)) < 0) *result = codec_out_of_memory(c);
    if (*result < 0) return 0;
    lua_settop(L, at - (has_metatable ? 0 : 1));
    if (!has_metatable) return 0;
  }
  lua_settop(L, at);
  *result = writer_push_frame(c, L, FRAME_RECORD, tag_at);
  if (*result < 0) return 0;
  lua_pushnil(L);
  c->frames[c->n_frames - 1].has_metatable = (unsigned char)has_metatable;
  if (is_leaf) c->frames[c->n_frames - 1].phase = PHASE_KEY; /* the pairs are written, the metatable is not */
  return 0;
}

/*
 * write_alike -- write the table on top of the stack, if it has no metatable, the keys of the latest record in their order, and scalars
 * only: most records are one of many, and need neither be collected nor looked up.
 * Returns 1: written and popped; 0: it is something else, and nothing was done; -ENOMEM.
 */
static int write_alike(struct codec *c, lua_State *L) {
  const struct shape *s = &c->shapes[c->last_shape];
  const void *const *keys = c->shape_keys + s->first_key;
  struct bytes *out = c->out;
  size_t length = out->length;
  uint32_t n = 0;
  int at = lua_gettop(L);
  if (put_tag(out, TAG_RECORD) < 0 || writer_put_varint(out, c->last_shape) < 0) return codec_out_of_memory(c);
  lua_pushnil(L);
  while (lua_next(L, at)) {
    int type = lua_type(L, -1);
    if (n == s->n_keys || lua_topointer(L, -2) != keys[n] || !is_scalar(type)) {
      n = UINT32_MAX;
      break;
    }
    if (writer_put_scalar(out, L, -1, type) < 0) return codec_out_of_memory(c);
    lua_settop(L, at + 1);
    n++;
  }
  if (n == s->n_keys) {
    lua_settop(L, at - 1);
    return 1;
  }
  out->length = length;
  lua_settop(L, at);
  return 0;
}

int writer_begin_table(struct codec *c, lua_State *L) {
  static const unsigned char no_counts[8];
  int status, has_metatable = lua_getmetatable(L, -1);
  const void *pointer;
  size_t tag_at;
  if (has_metatable) lua_pop(L, 1);
  pointer = lua_topointer(L, -1);
  status = writer_has_name(c, pointer) ? writer_named_table(c, L) : 0;
  /* At the top level there is nothing yet that could refer to it. */
  if (status == 0 && !has_metatable && c->n_frames == 0 && c->last_shape < c->n_shapes) {
    c->is_stateful = 1;
    status = write_alike(c, L);
    if (status != 0) return status < 0 ? status : 0;
  }
  if (status == 0) status = writer_reference(c, L, pointer);
  if (status < 0) return status;
  if (status == 1) {
    lua_pop(L, 1);
    return 0;
  }
  if (status == 2) return writer_complete(c, L);
  c->is_stateful = 1;
  if (begin_record(c, L, has_metatable, &status) == 0) return status;
  tag_at = c->out->length;
  if (put_tag(c->out, TAG_TABLE | has_metatable) < 0 || bytes_append(c->out, no_counts, 8) < 0) return codec_out_of_memory(c);
  status = writer_push_frame(c, L, FRAME_TABLE, tag_at);
  if (status < 0) return status;
  lua_pushnil(L);
  c->frames[c->n_frames - 1].has_metatable = (unsigned char)has_metatable;
  return 1;
}

/* finish_object -- all pairs are written (the key is off the stack): the metatable is next, or nothing. As step. */
static int finish_object(struct codec *c, lua_State *L, struct write_frame *f) {
  lua_settop(L, f->at);
  if (!f->has_metatable) return writer_pop_frame(c, L);
  f->has_metatable = 0;
  f->phase = PHASE_METATABLE;
  lua_pushnil(L);
  if (!lua_getmetatable(L, f->at)) lua_newtable(L); /* a finalizer took it away meanwhile */
  return writer_metatable(c, L);
}

/* close_run -- the run of numbers in a sequence is over; a single number is cheaper without a run. */
static int close_run(struct codec *c, struct write_frame *f) {
  struct bytes *out = c->out;
  int tag = f->run_tag, status;
  lua_Integer integer;
  lua_Number number;
  f->run_tag = 0;
  if (tag == 0 || get_count(out->data + f->run_at) != 1) return 0;
  memcpy(&integer, out->data + f->run_at + 4, 8);
  memcpy(&number, out->data + f->run_at + 4, 8);
  out->length = f->run_at - 1;
  status = tag == TAG_RUN_INTEGER ? writer_put_integer(out, integer) : writer_put_float(out, number);
  return status < 0 ? codec_out_of_memory(c) : 0;
}

/*
 * write_numbers -- the number on top of the stack is the next element of a sequence: write it and those of its kind that follow.
 * Returns 1: another pair is on the stack; 0: that was the last (the stack ends with the table); negative: failed.
 */
static int write_numbers(struct codec *c, lua_State *L, struct write_frame *f) {
  struct bytes *out = c->out;
  int tag = number_tag(L, -1), more;
  uint32_t count = 0;
  if (f->run_tag != tag && close_run(c, f) < 0) return -ENOMEM;
  if (bytes_reserve(out, 13) < 0) return codec_out_of_memory(c);
  if (f->run_tag != tag) {
    out->data[out->length] = (unsigned char)tag;
    f->run_at = out->length + 1;
    out->length += 5;
    f->run_tag = (unsigned char)tag;
  } else {
    count = get_count(out->data + f->run_at);
  }
  do {
    if (bytes_reserve(out, 8) < 0) return codec_out_of_memory(c);
    put_number_bytes(out, L, -1, tag);
    count++;
    f->n_array++;
    lua_settop(L, f->at + 1);
    more = lua_next(L, f->at);
  } while (more && f->n_array < UINT32_MAX && lua_isinteger(L, -2) && lua_tointeger(L, -2) == (lua_Integer)f->n_array + 1 &&
           lua_type(L, -1) == LUA_TNUMBER && number_tag(L, -1) == tag);
  set_count(out->data + f->run_at, count);
  return more;
}

/* fill_holes -- write nils for the elements of a sequence that are missing before `next`. */
static int fill_holes(struct codec *c, struct write_frame *f, lua_Integer next) {
  if (close_run(c, f) < 0) return -ENOMEM;
  for (; (lua_Integer)f->n_array + 1 < next; f->n_array++)
    if (put_tag(c->out, TAG_NIL) < 0) return codec_out_of_memory(c);
  return 0;
}

/* is_next_element -- does the key below the top continue the sequence (over a few holes perhaps)? Negative: failed. */
static int is_next_element(struct codec *c, lua_State *L, struct write_frame *f) {
  lua_Integer key;
  if (f->n_pairs || !lua_isinteger(L, -2)) return 0;
  key = lua_tointeger(L, -2);
  if (key == (lua_Integer)f->n_array + 1) return 1;
  if (key <= (lua_Integer)f->n_array || key >= UINT32_MAX || (lua_Unsigned)key > lua_rawlen(L, f->at)) return 0;
  return fill_holes(c, f, key) < 0 ? -ENOMEM : 1;
}

/* write_pair -- write the pair on the stack: element of the sequence, or key and value. 0; 1: a frame was pushed; negative: failed. */
static int write_pair(struct codec *c, lua_State *L, struct write_frame *f) {
  int status = is_next_element(c, L, f), type;
  if (status < 0) return status;
  if (close_run(c, f) < 0) return -ENOMEM;
  if (status == 1) {
    f->n_array++;
  } else {
    if (f->n_pairs++ == UINT32_MAX || f->n_array == UINT32_MAX) return writer_refuse(c, L, -EMSGSIZE, "too many elements", NULL);
    type = lua_type(L, -2);
    if (!is_scalar(type)) { /* the value waits on the stack until the key is written */
      f->phase = PHASE_KEY;
      lua_pushvalue(L, -2);
      status = writer_value(c, L);
      if (status != 0) return status;
      f->phase = PHASE_NEXT;
    } else if (writer_put_scalar(c->out, L, -2, type) < 0) {
      return codec_out_of_memory(c);
    }
  }
  return writer_value(c, L);
}

int writer_step_table(struct codec *c, lua_State *L, struct write_frame *f) {
  int status = 0, more;
  if (f->phase == PHASE_METATABLE) return writer_pop_frame(c, L);
  if (f->phase == PHASE_KEY) {
    f->phase = PHASE_NEXT;
    status = writer_value(c, L);
    if (status != 0) return status;
  }
  more = lua_next(L, f->at);
  while (more) {
    if (lua_type(L, -1) == LUA_TNUMBER && f->n_pairs == 0 && lua_isinteger(L, -2) && lua_tointeger(L, -2) == (lua_Integer)f->n_array + 1) {
      more = write_numbers(c, L, f);
      if (more < 0) return more;
      continue;
    }
    status = write_pair(c, L, f);
    if (status != 0) return status;
    more = lua_next(L, f->at);
  }
  if (close_run(c, f) < 0) return -ENOMEM;
  set_count(c->out->data + f->tag_at + 1, f->n_array);
  set_count(c->out->data + f->tag_at + 5, f->n_pairs);
  return finish_object(c, L, f);
}

int writer_step_record(struct codec *c, lua_State *L, struct write_frame *f) {
  if (f->phase == PHASE_METATABLE) return writer_pop_frame(c, L);
  if (f->phase != PHASE_KEY) {
    while (lua_next(L, f->at)) {
      int status = writer_value(c, L);
      if (status != 0) return status;
    }
  }
  return finish_object(c, L, f);
}
