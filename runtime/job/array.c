/* job/array -- see array.h (may include job/codec.h and job/shared.h). */
#include "job/array.h"

#include <errno.h>
#include <float.h>
#include <inttypes.h>
#include <lauxlib.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/cold.h"

struct type {
  const char *name;
  unsigned char bytes;
  unsigned char is_float;
  int64_t least;
  uint64_t most;
};

static const struct type TYPES[ARRAY_TYPES] = {
  [ARRAY_I8] = {"i8", 1, 0, INT8_MIN, INT8_MAX},       [ARRAY_I16] = {"i16", 2, 0, INT16_MIN, INT16_MAX},
  [ARRAY_I32] = {"i32", 4, 0, INT32_MIN, INT32_MAX},   [ARRAY_I64] = {"i64", 8, 0, INT64_MIN, INT64_MAX},
  [ARRAY_U8] = {"u8", 1, 0, 0, UINT8_MAX},             [ARRAY_U16] = {"u16", 2, 0, 0, UINT16_MAX},
  [ARRAY_U32] = {"u32", 4, 0, 0, UINT32_MAX},          [ARRAY_U64] = {"u64", 8, 0, 0, UINT64_MAX},
  [ARRAY_F32] = {"f32", 4, 1, 0, 0},                   [ARRAY_F64] = {"f64", 8, 1, 0, 0}};

const char *array_type_name(enum array_type type) {
  return TYPES[type].name;
}

size_t array_type_bytes(enum array_type type) {
  return TYPES[type].bytes;
}

int array_find_type(const char *name) {
  for (int i = 0; i < ARRAY_TYPES; i++)
    if (strcmp(TYPES[i].name, name) == 0) return i;
  return -1;
}

/* ---- elements ---- */

/* Whole elements, whatever others do meanwhile: each is one load or store of the machine. */
#define LOAD(a, i, type) __atomic_load_n((const type *)(const void *)(a)->data + (i), __ATOMIC_RELAXED)
#define STORE(a, i, type, value) __atomic_store_n((type *)(void *)(a)->data + (i), (value), __ATOMIC_RELAXED)

static void load(const struct array *a, uint64_t i, union array_cell *cell) {
  switch (TYPES[a->type].bytes) {
    case 1: cell->u8 = LOAD(a, i, uint8_t); break;
    case 2: cell->u16 = LOAD(a, i, uint16_t); break;
    case 4: cell->u32 = LOAD(a, i, uint32_t); break;
    default: cell->u64 = LOAD(a, i, uint64_t);
  }
}

void array_set(const struct array *a, uint64_t i, const union array_cell *cell) {
  switch (TYPES[a->type].bytes) {
    case 1: STORE(a, i, uint8_t, cell->u8); break;
    case 2: STORE(a, i, uint16_t, cell->u16); break;
    case 4: STORE(a, i, uint32_t, cell->u32); break;
    default: STORE(a, i, uint64_t, cell->u64);
  }
}

void array_push_cell(lua_State *L, enum array_type type, const union array_cell *cell) {
  switch (type) {
    case ARRAY_I8: lua_pushinteger(L, cell->i8); break;
    case ARRAY_I16: lua_pushinteger(L, cell->i16); break;
    case ARRAY_I32: lua_pushinteger(L, cell->i32); break;
    case ARRAY_I64: lua_pushinteger(L, cell->i64); break;
    case ARRAY_U8: lua_pushinteger(L, cell->u8); break;
    case ARRAY_U16: lua_pushinteger(L, cell->u16); break;
    case ARRAY_U32: lua_pushinteger(L, cell->u32); break;
    case ARRAY_U64:
      /* Lua's integers end at 2^63 - 1. What lies beyond was a float when it was stored, so it is one without loss. */
      if (cell->u64 > INT64_MAX) lua_pushnumber(L, (lua_Number)cell->u64);
      else lua_pushinteger(L, (lua_Integer)cell->u64);
      break;
    case ARRAY_F32: lua_pushnumber(L, (lua_Number)cell->f32); break;
    default: lua_pushnumber(L, cell->f64);
  }
}

void array_push(lua_State *L, const struct array *a, uint64_t i) {
  union array_cell cell;
  load(a, i, &cell);
  array_push_cell(L, a->type, &cell);
}

/* Pushes why the value cannot be an element; returns 0. */
static COLD int refuse(lua_State *L, enum array_type type, int value_index) {
  const struct type *t = &TYPES[type];
  const char *text;
  lua_Number number = lua_tonumber(L, value_index);
  if (lua_type(L, value_index) != LUA_TNUMBER) {
    lua_pushfstring(L, "number expected for %s, got %s", t->name, luaL_typename(L, value_index));
    return 0;
  }
  text = luaL_tolstring(L, value_index, NULL);
  if (t->is_float) {
    lua_pushfstring(L, "%s is out of the range of %s", text, t->name);
  } else if (number != floor(number)) {
    lua_pushfstring(L, "%s is no integer, as %s wants", text, t->name);
  } else {
    char range[64];
    snprintf(range, sizeof range, "%" PRId64 " to %" PRIu64, t->least, t->most);
    lua_pushfstring(L, "%s is out of the range of %s (%s)", text, t->name, range);
  }
  lua_remove(L, -2);
  return 0;
}

/* An integer that C can hold in 64 bits with the sign of the type, as the low bytes of the cell. */
static int encode_integer(lua_State *L, enum array_type type, int value_index, union array_cell *cell) {
  const struct type *t = &TYPES[type];
  int is_integer;
  lua_Integer value = lua_tointegerx(L, value_index, &is_integer);
  if (!is_integer) {
    lua_Number number = lua_tonumber(L, value_index);
    if (type != ARRAY_U64 || !(number >= 0x1p63 && number < 0x1p64)) return refuse(L, type, value_index);
    cell->u64 = (uint64_t)number;
    return 1;
  }
  if (value < t->least || (value >= 0 && (uint64_t)value > t->most)) return refuse(L, type, value_index);
  switch (t->bytes) {
    case 1: cell->u8 = (uint8_t)value; break;
    case 2: cell->u16 = (uint16_t)value; break;
    case 4: cell->u32 = (uint32_t)value; break;
    default: cell->u64 = (uint64_t)value;
  }
  return 1;
}

int array_encode(lua_State *L, enum array_type type, int value_index, union array_cell *cell) {
  lua_Number number;
  if (lua_type(L, value_index) != LUA_TNUMBER) return refuse(L, type, value_index);
  if (!TYPES[type].is_float) return encode_integer(L, type, value_index, cell);
  number = lua_tonumber(L, value_index);
  if (type == ARRAY_F64) {
    cell->f64 = number;
  } else if (isfinite(number) && fabs(number) > (lua_Number)FLT_MAX) {
    return refuse(L, type, value_index);
  } else {
    cell->f32 = (float)number;
  }
  return 1;
}

/* ---- arrays ---- */

/* Sets what depends on the segment. */
static void view(struct array *a, enum array_type type, uint64_t first, uint64_t length) {
  a->type = type;
  a->first = first;
  a->length = length;
  a->data = segment_body(a->shared.segment) + first * TYPES[type].bytes;
}

/* Pushes a new array. 0; or -errno, and nothing is pushed. */
static COLD int make(lua_State *L, enum array_type type, uint64_t length, struct array **out) {
  struct array *a = shared_new(L, SHARED_ARRAY, ARRAY_CLASS, sizeof *a);
  int status = length > (uint64_t)INT64_MAX / 16 ? -EFBIG : shared_make(L, &a->shared, (uint32_t)type, length, length * TYPES[type].bytes);
  if (status < 0) {
    lua_pop(L, 1);
    return status;
  }
  view(a, type, 0, length);
  shared_intern(L, &a->shared);
  *out = a;
  return 0;
}

COLD struct array *array_new(lua_State *L, enum array_type type, uint64_t length) {
  struct array *a;
  int status = make(L, type, length, &a);
  if (status < 0)
    luaL_error(L, "no memory for an array of %I %s: %s", (LUAI_UACINT)length, TYPES[type].name, strerror(-status));
  return a;
}

struct array *array_slice(lua_State *L, int index, uint64_t first, uint64_t length) {
  struct array *a, *of;
  index = lua_absindex(L, index);
  a = shared_new(L, SHARED_ARRAY, ARRAY_CLASS, sizeof *a);
  of = array_test(L, index);
  shared_join(&a->shared, of->shared.segment);
  view(a, of->type, of->first + first, length);
  return a;
}

/* ---- crossing ---- */

/* What stands before the address, or before the elements. */
struct sent_array {
  uint64_t first, length;
  uint8_t type, is_value, unused[6];
};

static COLD int save_array(lua_State *L, int index, int flags, struct bytes *out, char *text, size_t capacity) {
  const struct array *a = array_test(L, index);
  struct sent_array head;
  int status;
  if (a == NULL) return snprintf(text, capacity, "an array that was finalized"), -EINVAL;
  if (flags & CODEC_ELSEWHERE) return snprintf(text, capacity, "an array is memory of one machine, and tasks may run on others"), -EINVAL;
  head = (struct sent_array){.first = a->first, .length = a->length, .type = (uint8_t)a->type};
  head.is_value = (flags & CODEC_BY_VALUE) || ((flags & CODEC_COPIES_OWN) && shared_is_own(&a->shared));
  status = bytes_append(out, &head, sizeof head);
  if (status < 0) return status;
  if (head.is_value) return bytes_append(out, a->data, (size_t)(a->length * TYPES[a->type].bytes));
  return shared_write_address(&a->shared, flags, out, text, capacity);
}

/* A new array with the elements that came. */
static int load_value(lua_State *L, const struct sent_array *head, const unsigned char *data, size_t length) {
  struct array *a;
  size_t bytes = TYPES[head->type].bytes;
  int status = length / bytes != head->length || length % bytes != 0 ? -EBADMSG : 0;
  if (status == 0) status = make(L, (enum array_type)head->type, head->length, &a);
  if (status == 0 && length) memcpy(a->data, data, length);
  return status;
}

/* Does the segment hold what the sender says? */
static int fits(const struct segment *s, const struct sent_array *head) {
  uint64_t room = segment_body_bytes(s) / TYPES[head->type].bytes;
  return segment_header(s)->detail == head->type && head->first <= room && head->length <= room - head->first;
}

/* The object that this process has already, if it is meant as a whole. */
static int push_known(lua_State *L, const struct sent_array *head, const struct segment_address *address) {
  const struct array *a;
  if (!shared_push_interned(L, address)) return 0;
  a = array_test(L, -1);
  if (a && a->first == head->first && a->length == head->length && a->type == head->type) return 1;
  lua_pop(L, 1);
  return 0;
}

static int load_address(lua_State *L, const struct sent_array *head, const unsigned char *data, size_t length) {
  struct segment_address address;
  struct array *a;
  int status;
  if (length != sizeof address) return -EBADMSG;
  memcpy(&address, data, sizeof address);
  if (push_known(L, head, &address)) return 0;
  a = shared_new(L, SHARED_ARRAY, ARRAY_CLASS, sizeof *a);
  status = shared_adopt(L, &a->shared, &address);
  if (status == 0 && !fits(a->shared.segment, head)) status = -EBADMSG;
  if (status < 0) {
    lua_pop(L, 1);
    return status;
  }
  view(a, (enum array_type)head->type, head->first, head->length);
  if (head->first == 0 && head->length == segment_header(a->shared.segment)->length) shared_intern(L, &a->shared);
  return 0;
}

static COLD int load_array(lua_State *L, const unsigned char *data, size_t length, char *text, size_t capacity) {
  struct sent_array head;
  int status = -EBADMSG;
  if (length >= sizeof head) {
    memcpy(&head, data, sizeof head);
    data += sizeof head;
    length -= sizeof head;
    if (head.type < ARRAY_TYPES) status = head.is_value ? load_value(L, &head, data, length) : load_address(L, &head, data, length);
  }
  if (status < 0) shared_explain(status, ARRAY_CLASS, text, capacity);
  return status;
}

const struct codec_native array_class = {ARRAY_CLASS, save_array, shared_kept, load_array};
