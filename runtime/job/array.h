/*
 * job/array -- typed arrays in shared memory (pool.array): their elements as Lua values, and how they cross.
 *
 * Room: job (may include job/shared.h; touches lua_State; may raise where it says so).  Owns: nothing; the userdata owns the segment.
 * The methods that scripts see are in binding/larray. An array is a view of a segment: the whole of it, or a slice.
 * Elements are read and written one by one by whoever has the array, without any lock: two processes that write the same element at once
 * leave one of the two values, never a mixture.
 */
#ifndef LUAPOOL_JOB_ARRAY_H
#define LUAPOOL_JOB_ARRAY_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>

#include "job/codec.h"
#include "job/shared.h"

#define ARRAY_CLASS "luapool.array"

enum array_type {
  ARRAY_I8, ARRAY_I16, ARRAY_I32, ARRAY_I64, ARRAY_U8, ARRAY_U16, ARRAY_U32, ARRAY_U64, ARRAY_F32, ARRAY_F64, ARRAY_TYPES
};

struct array {
  struct shared shared;
  enum array_type type;
  uint64_t first;      /* the slice begins at this element of the segment */
  uint64_t length;
  unsigned char *data; /* of element `first` */
};

/* An element outside its array: as many of the first bytes as the type has. */
union array_cell {
  int8_t i8;
  int16_t i16;
  int32_t i32;
  int64_t i64;
  uint8_t u8;
  uint16_t u16;
  uint32_t u32;
  uint64_t u64;
  float f32;
  double f64;
};

/* array_class -- how arrays cross; for codec_add_native. */
extern const struct codec_native array_class;

/* array_type_name, array_type_bytes -- "f64", 8. array_find_type -- the type of that name, or -1. */
const char *array_type_name(enum array_type type);
size_t array_type_bytes(enum array_type type);
int array_find_type(const char *name);

/* array_test -- the array at index, or NULL if it is none (or was finalized). Does not raise. */
static inline struct array *array_test(lua_State *L, int index) {
  struct array *a = shared_test(L, index, SHARED_ARRAY);
  return a && a->shared.segment ? a : NULL;
}

/*
 * array_new -- push a new array of `length` zeros. Raises, if there is no memory or descriptor for it, a text that says how much was
 * wanted.
 */
struct array *array_new(lua_State *L, enum array_type type, uint64_t length);

/* array_slice -- push a view of `length` elements of `a` (at stack index `index`) from element `first` (from 0) on. May raise (memory). */
struct array *array_slice(lua_State *L, int index, uint64_t first, uint64_t length);

/* array_push -- push element i (from 0; the caller knows that it is there). Does not raise (one stack slot). */
void array_push(lua_State *L, const struct array *a, uint64_t i);

/* array_push_cell -- push an element that is not in an array. */
void array_push_cell(lua_State *L, enum array_type type, const union array_cell *cell);

/*
 * array_encode -- the value at index as an element of that type. 1; or 0, and a text is pushed that says why it cannot be
 * ("300 is out of the range of u8 (0 to 255)"). Never rounds an integer or wraps; f32 and f64 round as C does. May raise (memory).
 */
int array_encode(lua_State *L, enum array_type type, int value_index, union array_cell *cell);

/* array_set -- element i (from 0) becomes the cell. */
void array_set(const struct array *a, uint64_t i, const union array_cell *cell);

/* array_store -- element i (from 0; the caller knows that it is there) becomes the value at index. As array_encode. */
static inline int array_store(lua_State *L, const struct array *a, uint64_t i, int value_index) {
  union array_cell cell;
  if (!array_encode(L, a->type, value_index, &cell)) return 0;
  array_set(a, i, &cell);
  return 1;
}

/* array_keep -- 1: the value at index is a number, and is in element i of an "f64" now; 0: array_store has to do it. Does not raise. */
static inline int array_keep(lua_State *L, const struct array *a, uint64_t i, int value_index) {
  union array_cell cell;
  if (a->type != ARRAY_F64 || lua_type(L, value_index) != LUA_TNUMBER) return 0;
  cell.f64 = lua_tonumber(L, value_index);
  __atomic_store_n((uint64_t *)(void *)a->data + i, cell.u64, __ATOMIC_RELAXED);
  return 1;
}

#endif
