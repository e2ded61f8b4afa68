/*
 * job/codec_read -- the reader: see codec.h for codec_read and its like, codec_read.h for what its files share.
 *
 * Room: job (may include job/codec_read.h).  Owns: the reader's frames and the objects remembered in the present value.
 * This file: scalars, references, frames, the loop over them, and top-level values. The hot path is a run of numbers (store_run).
 */
#include "job/codec_read.h"

#include <errno.h>
#include <lauxlib.h>
#include <stdlib.h>

#include "base/os.h"

int reader_damaged(struct codec *c) {
  return codec_fail(c, -EBADMSG, "reader_damaged data");
}

int reader_varint(struct reading *r, uint64_t *value) {
  *value = 0;
  for (int shift = 0; shift < 64 && r->at < r->end; shift += 7) {
    unsigned char byte = *r->at++;
    *value |= (uint64_t)(byte & 0x7f) << shift;
    if (byte < 0x80) return 0;
  }
  return reader_damaged(r->c);
}

int reader_long_string(struct reading *r) {
  uint64_t length;
  r->at++;
  if (left(r) < 8) return reader_damaged(r->c);
  memcpy(&length, r->at, 8);
  r->at += 8;
  if (length > left(r)) return reader_damaged(r->c);
  lua_pushlstring(r->L, (const char *)r->at, (size_t)length);
  r->at += length;
  return 1;
}

void reader_remember(struct reading *r, uint64_t place) {
  lua_State *L = r->L;
  if (!r->has_shared) {
    lua_newtable(L);
    lua_replace(L, r->base + READ_SHARED);
    r->has_shared = 1;
  }
  lua_pushvalue(L, -1);
  lua_rawseti(L, r->base + READ_SHARED, (lua_Integer)place);
}

int reader_push_remembered(struct reading *r, uint64_t place) {
  if (!r->has_shared) {
    lua_pushnil(r->L);
    return LUA_TNIL;
  }
  return lua_rawgeti(r->L, r->base + READ_SHARED, (lua_Integer)place);
}

int reader_open_frame(struct reading *r, int kind, uint64_t n) {
  struct codec *c = r->c;
  struct read_frame *f, *outer = c->n_read_frames ? &c->read_frames[c->n_read_frames - 1] : NULL;
  uint64_t owed = outer ? outer->owed + outer->n_array + 2 * (uint64_t)outer->n_pairs : 0;
  if (n > left(r) || owed > left(r) - n) return reader_damaged(c);
  if (!lua_checkstack(r->L, 12)) return codec_fail(c, -EBADMSG, "nested too deeply");
  if (c->n_read_frames == c->read_frames_capacity) {
    uint32_t capacity = c->read_frames_capacity ? c->read_frames_capacity * 2 : 32;
    f = realloc(c->read_frames, capacity * sizeof *f);
    if (f == NULL) return luaL_error(r->L, "not enough memory");
    c->read_frames = f;
    c->read_frames_capacity = capacity;
  }
  f = &c->read_frames[c->n_read_frames++];
  memset(f, 0, sizeof *f);
  f->kind = (unsigned char)kind;
  f->at = lua_gettop(r->L) + 1; /* the object is pushed next */
  f->owed = owed;
  return 1;
}

int reader_item(struct reading *r) {
  uint64_t place;
  int status = read_scalar(r), tag;
  if (status != 0) return status < 0 ? status : 0;
  place = (uint64_t)(r->at - r->start);
  tag = *r->at++;
  if ((tag & ~7) == TAG_RECORD) return reader_open_record(r, tag & 7, place);
  if ((tag & ~3) == TAG_TABLE) return reader_open_table(r, tag & 3, place);
  if (tag == TAG_REFERENCE) {
    if (reader_varint(r, &place) < 0) return reader_damaged(r->c);
    if (reader_push_remembered(r, place) == LUA_TNIL && !r->c->is_missing) return reader_damaged(r->c);
    return 0;
  }
  if (tag == TAG_NAME) return reader_name(r);
  if (tag == TAG_NAMED) return reader_named(r);
  if (tag == TAG_DEFINE) return reader_open_define(r);
  if (tag == TAG_MORE) return reader_open_more(r);
  if ((tag & ~7) == TAG_ENVIRONMENT) return reader_open_environment(r, tag & 7, place);
  if ((tag & ~2) == TAG_FUNCTION) return reader_open_function(r, tag & 2, place);
  if ((tag & ~2) == TAG_USERDATA) return reader_open_userdata(r, tag & 2, place);
  return reader_damaged(r->c);
}

int reader_set_pair(struct reading *r, int table) {
  lua_State *L = r->L;
  lua_Number key = lua_type(L, -2) == LUA_TNUMBER ? lua_tonumber(L, -2) : 0;
  if (lua_isnil(L, -2) || key != key) {
    if (!r->c->is_missing) return reader_damaged(r->c);
    lua_pop(L, 2);
    return 0;
  }
  lua_rawset(L, table);
  return 0;
}

int reader_close_object(struct reading *r, struct read_frame *f) {
  if (f->has_metatable) {
    f->has_metatable = 0;
    f->phase = PHASE_METATABLE;
    return reader_item(r);
  }
  lua_settop(r->L, f->at);
  r->c->n_read_frames--;
  return 0;
}

static int step(struct reading *r) {
  struct read_frame *f = top_frame(r->c);
  switch (f->kind) {
  case FRAME_TABLE: return reader_step_table(r, f);
  case FRAME_RECORD: return reader_step_record(r, f);
  case FRAME_FUNCTION: return reader_step_function(r, f);
  case FRAME_USERDATA: return reader_step_userdata(r, f);
  case FRAME_ENVIRONMENT: return reader_step_environment(r, f);
  case FRAME_MORE: return reader_step_more(r, f);
  default: return reader_step_define(r, f);
  }
}

/* take_child -- the object on top of the stack is whole: give it to the frame around it. 0 or negative. */
static int take_child(struct reading *r, struct read_frame *f) {
  lua_State *L = r->L;
  if (f->phase == PHASE_METATABLE) {
    if (!lua_istable(L, -1) && !(lua_isnil(L, -1) && r->c->is_missing)) return reader_damaged(r->c);
    if (f->kind == FRAME_ENVIRONMENT && f->index && lua_istable(L, -1)) reader_wrap_index(L);
    lua_setmetatable(L, f->at);
    return 0;
  }
  switch (f->kind) {
  case FRAME_TABLE:
    if (f->phase == PHASE_KEY) return 0; /* a composite key stays on the stack until its value has come */
    if (f->phase == PHASE_VALUE) {
      f->phase = PHASE_NEXT;
      return reader_set_pair(r, f->at);
    }
    lua_rawseti(L, f->at, f->index++);
    return 0;
  case FRAME_MORE:
    return f->phase == PHASE_KEY ? 0 : reader_take_more(r, f);
  case FRAME_RECORD: lua_rawset(L, f->at); return 0;
  case FRAME_FUNCTION:
    if (f->phase == PHASE_GLOBALS) lua_pop(L, 1);
    else lua_setupvalue(L, f->at, (int)f->index++);
    return 0;
  default: return 0; /* userdata, define: they look for it on the stack */
  }
}

/* ---- a deadline ---- */

enum { MOST_PAUSED_FRAMES = 1024 };

void codec_read_until(struct codec *c, int64_t until_ns) {
  c->until_ns = until_ns;
  c->check_at = until_ns ? 0 : UINTPTR_MAX;
}

/* is_late -- the place to look at the clock has come: is it over? */
static __attribute__((noinline)) int is_late(struct codec *c, const unsigned char *at) {
  int is_first = c->check_at == 0;
  c->check_at = (uintptr_t)at + c->check_bytes;
  return !is_first && os_now_ns() >= c->until_ns;
}

static int reading_is_late(struct reading *r) {
  int it_is = is_late(r->c, r->at);
  r->check_at = r->c->check_at;
  return it_is;
}

/* pause_value -- keep what is on the stack of this value until codec_read or its like goes on. -EAGAIN. */
static int pause_value(struct reading *r) {
  struct codec *c = r->c;
  lua_State *L = r->L;
  int n = lua_gettop(L) - r->base;
  luaL_checkstack(L, 4, NULL);
  lua_createtable(L, n, 0);
  for (int i = 1; i <= n; i++) {
    lua_pushvalue(L, r->base + i);
    lua_rawseti(L, -2, i);
  }
  lua_rawgetp(L, LUA_REGISTRYINDEX, c);
  lua_insert(L, -2);
  lua_rawseti(L, -2, ANCHOR_PAUSED);
  lua_settop(L, r->base);
  c->paused_base = r->base;
  c->n_paused = n;
  c->paused_has_shared = r->has_shared;
  c->paused_at = r->at;
  c->is_paused = 1;
  return -EAGAIN;
}

void codec_drop(struct codec *c, lua_State *L) {
  luaL_checkstack(L, 2, NULL);
  c->is_paused = 0;
  lua_rawgetp(L, LUA_REGISTRYINDEX, c);
  lua_pushboolean(L, 0);
  lua_rawseti(L, -2, ANCHOR_PAUSED);
  lua_pop(L, 1);
}

/* resume_value -- everything is on the stack again, above r->base. */
static void resume_value(struct reading *r) {
  struct codec *c = r->c;
  lua_State *L = r->L;
  c->is_paused = 0; /* should this raise, the value is lost */
  luaL_checkstack(L, c->n_paused + 20, "too many values");
  codec_push_anchor(c, L, ANCHOR_PAUSED);
  for (int i = 1; i <= c->n_paused; i++) lua_rawgeti(L, r->base + 1, i);
  lua_remove(L, r->base + 1);
  for (uint32_t i = 0; i < c->n_read_frames; i++) c->read_frames[i].at += r->base - c->paused_base;
  r->is_sliced = 1; /* a run that was begun in slices is ended so, whatever the deadline is now */
  r->has_shared = c->paused_has_shared;
  r->at = c->paused_at;
  codec_drop(c, L);
}

/*
 * read_object -- read one value to its end: it is on top of the stack. 0 or negative (the stack is the caller's to reset). -EAGAIN: it is
 * late; the stack is as it was at r->base, and read_object goes on with the value then.
 */
static int read_object(struct reading *r) {
  struct codec *c = r->c;
  int status = 1;
  if (c->is_paused) {
    resume_value(r);
  } else {
    c->n_read_frames = 0;
    c->is_missing = 0;
    status = reader_item(r);
  }
  while (status >= 0 && c->n_read_frames > 0) {
    if (is_far_enough(r) && reading_is_late(r) && c->n_read_frames < MOST_PAUSED_FRAMES) return pause_value(r);
    status = step(r);
    /* 0: either the frame is gone and its object is for the frame around it, or the frame's metatable came as one item. */
    if (status == 0 && c->n_read_frames > 0) status = take_child(r, top_frame(c));
  }
  return status < 0 ? status : 0;
}

static void open_reading(struct reading *r, struct codec *c, lua_State *L, const struct codec_reader *place) {
  r->c = c;
  r->L = L;
  r->at = place->data;
  r->end = place->end;
  r->start = place->start;
  r->check_at = c->check_at;
  r->is_sliced = c->until_ns != 0;
  r->has_shared = 0;
  r->latest_shape = r->shape_at_hand = UINT64_MAX;
  r->base = lua_gettop(L);
}

static void begin_reading(struct reading *r, struct codec *c, lua_State *L, struct codec_reader *place) {
  open_reading(r, c, L, place);
  luaL_checkstack(L, READ_TOP + 17, "too many values");
  codec_push_anchor(c, L, ANCHOR_READ_KEYS);
  codec_push_anchor(c, L, ANCHOR_READ_NAMES);
  lua_settop(L, r->base + READ_TOP);
}

void codec_read_begin(struct codec *c, struct codec_reader *r, const unsigned char *data, size_t length) {
  r->data = r->start = data;
  r->end = data + length;
  r->run_left = 0;
  r->run_tag = 0;
  r->stream = 0;
  if (c->is_busy) return; /* a load function that uses its own pool: codec_read will say so */
  r->stream = ++c->read_stream;
  c->is_paused = 0;
  c->n_read_shapes = c->n_read_keys = c->n_read_names = 0;
  c->message[0] = '\0';
}

/* check_reader -- may this reader go on? 0 or -EBADMSG. */
static int check_reader(struct codec *c, const struct codec_reader *r) {
  if (c->is_busy) return codec_fail(c, -EBADMSG, "a save or load function may not use the pool that called it");
  if (r->stream != c->read_stream) return codec_fail(c, -EBADMSG, "another stream was begun meanwhile");
  if (r->run_left == 0 && r->data == r->end) return codec_fail(c, -EBADMSG, "end of data");
  return 0;
}

/* open_run -- if a top-level run begins here, enter it. 0 or -EBADMSG. */
static int open_run(struct codec *c, struct codec_reader *r) {
  uint32_t count;
  int tag = *r->data;
  if (tag < TAG_RUN_NIL || tag > TAG_RUN_FLOAT) return 0;
  if (r->end - r->data < 5) return reader_damaged(c);
  count = get_count(r->data + 1);
  r->data += 5;
  if (count == 0 || count > (tag == TAG_RUN_NIL ? MAX_NIL_RUN : (size_t)(r->end - r->data) / 8)) return reader_damaged(c);
  r->run_left = count;
  r->run_tag = tag;
  return 0;
}

static void push_of_run(lua_State *L, struct codec_reader *r) {
  r->run_left--;
  if (r->run_tag == TAG_RUN_NIL) {
    lua_pushnil(L);
    return;
  }
  push_number_bytes(L, r->data, r->run_tag);
  r->data += 8;
}

int codec_read(struct codec *c, lua_State *L, struct codec_reader *place) {
  struct reading r;
  int status = check_reader(c, place);
  if (status < 0) return status;
  if (place->run_left == 0) status = open_run(c, place);
  if (status < 0) return status;
  if (place->run_left > 0) {
    luaL_checkstack(L, 1, NULL);
    push_of_run(L, place);
    return 0;
  }
  if (c->is_paused) open_reading(&r, c, L, place); /* (the rest is among what was kept) */
  else begin_reading(&r, c, L, place);
  status = read_object(&r);
  if (status == 0 && c->is_missing) status = -ENOENT;
  if (status != -EBADMSG && status != -EAGAIN) place->data = r.at;
  if (status < 0) {
    lua_settop(L, r.base);
    return status;
  }
  lua_replace(L, r.base + 1);
  lua_settop(L, r.base + 1);
  return 0;
}

/* store_nil -- table[n] = nil without making a place for it. */
static void store_nil(lua_State *L, int table, lua_Integer n) {
  if (lua_rawgeti(L, table, n) != LUA_TNIL) {
    lua_pushnil(L);
    lua_rawseti(L, table, n);
  }
  lua_pop(L, 1);
}

/* store_run -- at most `count` values of the open run to table[first], ...; returns how many. */
static size_t store_run(lua_State *L, struct codec_reader *r, int table, lua_Integer first, size_t count) {
  const unsigned char *at = r->data;
  if (count > r->run_left) count = (size_t)r->run_left;
  if (r->run_tag == TAG_RUN_NIL) {
    for (size_t i = 0; i < count; i++) store_nil(L, table, first + (lua_Integer)i);
  } else if (r->run_tag == TAG_RUN_INTEGER) {
    for (size_t i = 0; i < count; i++, at += 8) {
      push_number_bytes(L, at, TAG_RUN_INTEGER);
      lua_rawseti(L, table, first + (lua_Integer)i);
    }
  } else {
    for (size_t i = 0; i < count; i++, at += 8) {
      push_number_bytes(L, at, TAG_RUN_FLOAT);
      lua_rawseti(L, table, first + (lua_Integer)i);
    }
  }
  r->data = at;
  r->run_left -= count;
  return count;
}

/* store_objects -- values that are in no run, until a run begins or `count` are stored. 0 or negative; *n is how many. */
static int store_objects(struct codec *c, lua_State *L, struct codec_reader *place, int table, lua_Integer first, size_t count, size_t *n) {
  struct reading r;
  int status = 0;
  if (c->is_paused) open_reading(&r, c, L, place); /* (the rest is among what was kept) */
  else begin_reading(&r, c, L, place);
  for (*n = 0; *n < count && r.at < r.end && (*r.at < TAG_RUN_NIL || *r.at > TAG_RUN_FLOAT); ++*n) {
    if (is_far_enough(&r) && !c->is_paused && reading_is_late(&r)) {
      status = -EAGAIN;
      break;
    }
    status = read_object(&r);
    if (status == 0 && c->is_missing) status = -ENOENT;
    if (status != -EBADMSG && status != -EAGAIN) place->data = r.at;
    if (status < 0) break;
    lua_rawseti(L, table, first + (lua_Integer)*n);
    if (r.has_shared) {
      lua_pushnil(L);
      lua_replace(L, r.base + READ_SHARED);
      r.has_shared = 0;
    }
  }
  lua_settop(L, r.base);
  return status;
}

int codec_read_array(struct codec *c, lua_State *L, struct codec_reader *r, int table_index, lua_Integer first, size_t count,
                     size_t *done) {
  size_t n = 0, part;
  int status = 0;
  table_index = lua_absindex(L, table_index);
  luaL_checkstack(L, 4, "too many values");
  if (done) *done = 0;
  while (n < count && status == 0) {
    status = check_reader(c, r);
    if (status == 0 && r->run_left == 0) status = open_run(c, r);
    if (status < 0) break;
    if ((uintptr_t)r->data >= c->check_at && !c->is_paused && is_late(c, r->data)) return -EAGAIN;
    if (r->run_left > 0) part = store_run(L, r, table_index, first + (lua_Integer)n, count - n);
    else status = store_objects(c, L, r, table_index, first + (lua_Integer)n, count - n, &part);
    n += part;
    if (done) *done = n;
  }
  return status;
}
