/*
 * job/codec_read_table -- bytes to tables: records with their shapes, sequences with runs of numbers, pairs, and the metatable.
 *
 * Room: job (may include job/codec_read.h, where its functions are declared).  Owns: the shapes of the present stream (codec.read_shapes).
 * Small sequences and records that hold scalars only are made on the spot, without a frame: most tables are such.
 */
#include "job/codec_read.h"

#include <lauxlib.h>
#include <limits.h>

enum { SMALL_SEQUENCE = 64 /* elements: up to here a table is filled before it gets a frame */ };

static int small_int(uint64_t n) {
  return n > INT_MAX / 64 ? INT_MAX / 64 : (int)n;
}

/* read_run -- a run of at most n numbers to table[index], ... of the table on top of the stack. Returns how many, or -EBADMSG. */
static int64_t read_run(struct reading *r, uint32_t index, uint32_t n) {
  lua_State *L = r->L;
  int tag = *r->at++;
  uint32_t count;
  const unsigned char *at;
  if (left(r) < 4) return reader_damaged(r->c);
  count = get_count(r->at);
  at = r->at + 4;
  if (count > n || count > (left(r) - 4) / 8) return reader_damaged(r->c);
  for (uint32_t i = 0; i < count; i++, at += 8) {
    push_number_bytes(L, at, tag);
    lua_rawseti(L, -2, (lua_Integer)index + i);
  }
  r->at = at;
  return count;
}

/*
 * fill_sequence -- read runs and scalars to table[index], ... of the table on top of the stack, up to n.
 * Returns how many there were before another object, or -EBADMSG.
 */
static int64_t fill_sequence(struct reading *r, uint32_t index, uint32_t n) {
  uint32_t done = 0;
  while (done < n && r->at < r->end) {
    if (*r->at == TAG_RUN_INTEGER || *r->at == TAG_RUN_FLOAT) {
      int64_t count = read_run(r, index + done, n - done);
      if (count < 0) return count;
      done += (uint32_t)count;
    } else {
      int status = read_scalar(r);
      if (status < 0) return status;
      if (status == 0) break;
      lua_rawseti(r->L, -2, (lua_Integer)index + done++);
    }
  }
  return done;
}

int reader_open_table(struct reading *r, int flags, uint64_t place) {
  uint32_t n_array, n_pairs;
  struct read_frame *f;
  int64_t done = 0;
  int status, is_small;
  if (left(r) < 8) return reader_damaged(r->c);
  n_array = get_count(r->at);
  n_pairs = get_count(r->at + 4);
  r->at += 8;
  is_small = flags == 0 && n_pairs == 0 && n_array <= SMALL_SEQUENCE && n_array <= left(r);
  if (is_small) { /* mostly a few scalars: no frame */
    lua_createtable(r->L, (int)n_array, 0);
    done = fill_sequence(r, 1, n_array);
    if (done < 0 || done == n_array) return done < 0 ? (int)done : 0;
  }
  status = reader_open_frame(r, FRAME_TABLE, n_array - (uint64_t)done + 2 * (uint64_t)n_pairs);
  if (status < 0) return status;
  if (is_small) top_frame(r->c)->at--; /* the table is there already */
  else lua_createtable(r->L, small_int(n_array), small_int(n_pairs));
  if (flags & IS_SHARED) reader_remember(r, place);
  f = top_frame(r->c);
  f->n_array = n_array - (uint32_t)done;
  f->n_pairs = n_pairs;
  f->index = 1 + (uint32_t)done;
  f->has_metatable = flags & HAS_METATABLE;
  return 1;
}

/* read_shape -- the keys of a new shape go into the reader's table of keys. 0 or negative. */
static int read_shape(struct reading *r) {
  struct codec *c = r->c;
  struct shape *s;
  uint64_t n, length;
  if (reader_varint(r, &n) < 0 || n == 0 || n > MAX_RECORD_KEYS || c->n_read_shapes >= MAX_SHAPES) return reader_damaged(c);
  if (codec_grow((void **)&c->read_shapes, c->n_read_shapes, &c->read_shapes_capacity, sizeof *s) < 0)
    return luaL_error(r->L, "not enough memory");
  s = &c->read_shapes[c->n_read_shapes];
  s->first_key = c->n_read_keys + 1;
  s->n_keys = (uint32_t)n;
  for (uint32_t i = 0; i < n; i++) {
    if (reader_varint(r, &length) < 0 || length > left(r)) return reader_damaged(c);
    lua_pushlstring(r->L, (const char *)r->at, (size_t)length);
    lua_rawseti(r->L, r->base + READ_KEYS, (lua_Integer)s->first_key + i);
    r->at += length;
  }
  c->n_read_keys += (uint32_t)n;
  c->n_read_shapes++;
  return 0;
}

/* fill_record -- read scalars into the record on top of the stack from key i on. Returns how many keys are done, or -EBADMSG. */
static inline int64_t fill_record(struct reading *r, lua_Integer first_key, uint32_t i, uint32_t n) {
  lua_State *L = r->L;
  for (; i < n; i++) {
    int status;
    lua_rawgeti(L, r->base + READ_KEYS, first_key + i);
    status = read_scalar(r);
    if (status < 0) return status;
    if (status == 0) {
      lua_pop(L, 1);
      break;
    }
    lua_rawset(L, -3);
  }
  return i;
}

/*
 * has_keys_at_hand -- are the keys of that shape in their slots of the stack? From the second record of a shape in a row on they are: a
 * copy from there costs a third of a look into the table of keys.
 */
static int has_keys_at_hand(struct reading *r, uint64_t number, const struct shape *s) {
  if (r->shape_at_hand == number) return 1;
  if (r->latest_shape != number || s->n_keys > MAX_AT_HAND) {
    r->latest_shape = number;
    return 0;
  }
  for (uint32_t i = 0; i < s->n_keys; i++) {
    lua_rawgeti(r->L, r->base + READ_KEYS, (lua_Integer)s->first_key + i);
    lua_replace(r->L, r->base + READ_AT_HAND + (int)i);
  }
  r->shape_at_hand = number;
  return 1;
}

/* fill_alike -- fill_record from its first key on, with keys that are at hand. */
static inline int64_t fill_alike(struct reading *r, uint32_t n) {
  lua_State *L = r->L;
  const int keys = r->base + READ_AT_HAND;
  for (uint32_t i = 0; i < n; i++) {
    int status;
    lua_pushvalue(L, keys + (int)i);
    status = read_scalar(r);
    if (status < 0) return status;
    if (status == 0) {
      lua_pop(L, 1);
      return i;
    }
    lua_rawset(L, -3);
  }
  return n;
}

/* read_class -- the metatable of the table on top of the stack is one that was named before. 0 or negative. */
static int read_class(struct reading *r) {
  int status;
  r->at++;
  status = reader_named(r);
  if (status < 0) return status;
  if (!lua_istable(r->L, -1) && !r->c->is_missing) return reader_damaged(r->c);
  if (!lua_istable(r->L, -1)) lua_settop(r->L, -2), lua_pushnil(r->L);
  lua_setmetatable(r->L, -2);
  return 0;
}

int reader_open_record(struct reading *r, int flags, uint64_t place) {
  struct codec *c = r->c;
  struct read_frame *f;
  uint64_t number = c->n_read_shapes;
  const struct shape *s;
  int64_t done;
  int status = (flags & DEFINES_SHAPE) ? read_shape(r) : reader_varint(r, &number);
  if (status < 0) return status;
  if (number >= c->n_read_shapes) return reader_damaged(c);
  s = &c->read_shapes[number];
  if (s->n_keys > left(r)) return reader_damaged(c);
  lua_createtable(r->L, 0, (int)s->n_keys);
  if (flags & IS_SHARED) reader_remember(r, place);
  done = has_keys_at_hand(r, number, s) ? fill_alike(r, s->n_keys) : fill_record(r, s->first_key, 0, s->n_keys);
  if (done < 0) return (int)done;
  if (done == s->n_keys && !(flags & HAS_METATABLE)) return 0; /* most records hold scalars only and need no frame */
  if (done == s->n_keys && r->at < r->end && *r->at == TAG_NAMED) return read_class(r);
  status = reader_open_frame(r, FRAME_RECORD, s->n_keys - (uint64_t)done);
  if (status < 0) return status;
  top_frame(c)->at--; /* the table is there already */
  f = top_frame(c);
  f->has_metatable = flags & HAS_METATABLE;
  f->index = (uint32_t)done;
  f->n_array = s->n_keys - (uint32_t)done;
  f->place = number;
  return 1;
}

/* step_run -- a part of the run that begins at r->at, or was begun. READER_MORE, or -EBADMSG. */
static int step_run(struct reading *r, struct read_frame *f) {
  uint32_t i, n;
  if (f->place == 0) {
    f->place_flag = *r->at++;
    if (left(r) < 4) return reader_damaged(r->c);
    f->place = get_count(r->at);
    r->at += 4;
    if (f->place > f->n_array || f->place > left(r) / 8) return reader_damaged(r->c);
  }
  n = f->place < READER_SLICE ? (uint32_t)f->place : READER_SLICE;
  for (i = 0; i < n; i++, r->at += 8) {
    push_number_bytes(r->L, r->at, (int)f->place_flag);
    lua_rawseti(r->L, f->at, (lua_Integer)f->index++);
  }
  f->n_array -= n;
  f->place -= n;
  return READER_MORE;
}

/* step_slice -- with a deadline: some elements. READER_MORE: look at the clock; 0: another object is next, or none; -EBADMSG. */
static int step_slice(struct reading *r, struct read_frame *f) {
  while (f->n_array > 0 && !is_far_enough(r)) {
    int status;
    if (f->place > 0 || (r->at < r->end && (*r->at == TAG_RUN_INTEGER || *r->at == TAG_RUN_FLOAT))) return step_run(r, f);
    status = read_scalar(r);
    if (status <= 0) return status;
    lua_rawseti(r->L, f->at, (lua_Integer)f->index++);
    f->n_array--;
  }
  return f->n_array > 0 ? READER_MORE : 0;
}

int reader_step_table(struct reading *r, struct read_frame *f) {
  int64_t done;
  int status;
  while (f->n_array > 0) {
    if (r->is_sliced) {
      status = step_slice(r, f);
      if (status != 0) return status;
      if (f->n_array == 0) break;
    }
    if (r->at == r->end) return reader_damaged(r->c);
    done = fill_sequence(r, f->index, f->n_array);
    if (done < 0) return (int)done;
    f->index += (uint32_t)done;
    f->n_array -= (uint32_t)done;
    if (f->n_array == 0) break;
    f->n_array--;
    status = reader_item(r);
    if (status != 0) return status;
    lua_rawseti(r->L, f->at, f->index++);
    if (is_far_enough(r)) return READER_MORE;
  }
  while (f->n_pairs > 0 || f->phase == PHASE_KEY) {
    if (f->phase == PHASE_NEXT) {
      if (is_far_enough(r)) return READER_MORE;
      f->n_pairs--;
      f->phase = PHASE_KEY;
      status = reader_item(r);
      if (status != 0) return status;
    }
    f->phase = PHASE_VALUE;
    status = reader_item(r);
    if (status != 0) return status;
    f->phase = PHASE_NEXT;
    status = reader_set_pair(r, f->at);
    if (status < 0) return status;
  }
  return reader_close_object(r, f);
}

int reader_step_record(struct reading *r, struct read_frame *f) {
  uint32_t n = f->index + f->n_array, first_key = r->c->read_shapes[f->place].first_key;
  while (f->n_array > 0) {
    int64_t done = fill_record(r, first_key, f->index, n);
    int status;
    if (done < 0) return (int)done;
    f->index = (uint32_t)done;
    f->n_array = n - f->index;
    if (f->n_array == 0) break;
    f->n_array--;
    lua_rawgeti(r->L, r->base + READ_KEYS, (lua_Integer)first_key + f->index++);
    status = reader_item(r);
    if (status != 0) return status;
    lua_rawset(r->L, f->at);
  }
  return reader_close_object(r, f);
}
