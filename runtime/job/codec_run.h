/*
 * job/codec_run -- a number joins the run at the end of a stream: what codec_write does first, for the loop over small items.
 *
 * Room: job (may include job/codec_parts.h; job/codec_write.c and job/task.c include this).  Owns: nothing.
 */
#ifndef LUAPOOL_JOB_CODEC_RUN_H
#define LUAPOOL_JOB_CODEC_RUN_H

#include "job/codec_parts.h"

/* codec_join_run -- the 8 bytes of a number go into the open run if there is room: 1; else 0 and nothing was done. */
static inline int codec_join_run(struct codec *c, const void *number) {
  struct bytes *out = c->out;
  size_t length = out->length;
  unsigned char *end = out->data + length, *at = out->data + c->run_at;
  uint32_t count = get_count(at);
  if (out->capacity - length < 8 || count == UINT32_MAX) return 0;
  out->length = length + 8;
  set_count(at, count + 1);
  memcpy(end, number, 8);
  return 1;
}

/* codec_join -- 1: the value at `index` is a number of the open run's kind, and was appended; 0: codec_write has to do it. */
static inline int codec_join(struct codec *c, lua_State *L, int index) {
  if (c->run_tag == TAG_RUN_INTEGER) {
    lua_Integer integer;
    if (!lua_isinteger(L, index)) return 0;
    integer = lua_tointeger(L, index);
    return codec_join_run(c, &integer);
  }
  if (c->run_tag == TAG_RUN_FLOAT && lua_type(L, index) == LUA_TNUMBER && !lua_isinteger(L, index)) {
    lua_Number number = lua_tonumber(L, index);
    return codec_join_run(c, &number);
  }
  return 0;
}

#endif
