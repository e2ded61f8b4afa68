/*
 * job/codec_run -- a number joins the run at the end of a stream: what codec_write does first, for the loop over small items.
 *
 * Room: job (may include job/codec_parts.h; job/codec_write.c and job/task.c include this).  Owns: nothing.
 */
#ifndef LUAPOOL_JOB_CODEC_RUN_H
#define LUAPOOL_JOB_CODEC_RUN_H

#include "job/codec_parts.h"

/* codec_extend_run -- the 8 bytes of a number go into the run whose count is there; the caller saw to it that there is room. */
static inline void codec_extend_run(struct bytes *out, unsigned char *count, uint64_t number) {
  memcpy(out->data + out->length, &number, 8);
  out->length += 8;
  set_count(count, get_count(count) + 1);
}

/* codec_is_in_run -- 1: numbers were written last, so that a run is open. */
static inline int codec_is_in_run(const struct codec *c) {
  return c->run_tag == TAG_RUN_INTEGER || c->run_tag == TAG_RUN_FLOAT;
}

/* codec_number_joins -- 1: the value at `index` is of the open run's kind (is_float: floats, else integers), and its bytes in *number. */
static inline int codec_number_joins(lua_State *L, int index, int is_float, uint64_t *number) {
  if (lua_isinteger(L, index)) {
    lua_Integer value = is_float ? 0 : lua_tointeger(L, index);
    memcpy(number, &value, 8);
    return !is_float;
  }
  if (is_float && lua_type(L, index) == LUA_TNUMBER) {
    lua_Number value = lua_tonumber(L, index);
    memcpy(number, &value, 8);
    return 1;
  }
  return 0;
}

/* codec_join -- 1: the value at `index` is a number of the open run's kind, and was appended; 0: codec_write has to do it. */
static inline int codec_join(struct codec *c, lua_State *L, int index) {
  struct bytes *out = c->out;
  uint64_t number;
  if (!codec_is_in_run(c) || out->capacity - out->length < 8 || get_count(out->data + c->run_at) == UINT32_MAX) return 0;
  if (!codec_number_joins(L, index, c->run_tag == TAG_RUN_FLOAT, &number)) return 0;
  codec_extend_run(out, out->data + c->run_at, number);
  return 1;
}

#endif
