/*
 * job/codec_read_function -- bytes to functions: code, then upvalues (fresh ones, or joined with one that was read), then globals, and
 * fields of environments.
 *
 * Room: job (may include job/codec_read.h, where its functions are declared, and job/closure.h).  Owns: nothing.
 */
#include "job/codec_read.h"

#include "job/closure.h"

int reader_open_function(struct reading *r, int flags, uint64_t place) {
  struct read_frame *f;
  uint32_t n;
  int status;
  if (left(r) < 1) return reader_damaged(r->c);
  n = *r->at++;
  status = reader_open_frame(r, FRAME_FUNCTION, n + (uint64_t)1);
  if (status < 0) return status;
  status = closure_load(r->L, &r->at, r->end);
  if (status < 0) return reader_damaged(r->c);
  if (flags & IS_SHARED) reader_remember(r, place);
  if (n > 0 && !lua_getupvalue(r->L, -1, (int)n)) return reader_damaged(r->c);
  lua_settop(r->L, top_frame(r->c)->at);
  f = top_frame(r->c);
  f->n_array = n;
  f->index = 1;
  return 1;
}

/* join -- upvalue f->index of the function being read is the same variable as one that was read before. 0 or negative. */
static int join(struct reading *r, struct read_frame *f) {
  lua_State *L = r->L;
  uint64_t place;
  int n;
  r->at++;
  if (reader_varint(r, &place) < 0 || left(r) < 1) return reader_damaged(r->c);
  n = *r->at++;
  if (reader_push_remembered(r, place) != LUA_TFUNCTION || lua_iscfunction(L, -1) || n == 0) return reader_damaged(r->c);
  if (!lua_getupvalue(L, -1, n)) return reader_damaged(r->c);
  lua_pop(L, 1);
  lua_upvaluejoin(L, f->at, (int)f->index, -1, n);
  lua_pop(L, 1);
  return 0;
}

int reader_step_function(struct reading *r, struct read_frame *f) {
  int status;
  while (f->n_array > 0) {
    f->n_array--;
    if (r->at == r->end) return reader_damaged(r->c);
    if (*r->at == TAG_JOIN) {
      status = join(r, f);
      if (status < 0) return status;
    } else {
      status = reader_item(r);
      if (status != 0) return status;
      lua_setupvalue(r->L, f->at, (int)f->index);
    }
    f->index++;
  }
  f->phase = PHASE_GLOBALS;
  for (;;) {
    if (r->at == r->end) return reader_damaged(r->c);
    if (*r->at == TAG_END) break;
    if (*r->at != TAG_DEFINE && *r->at != TAG_MORE) return reader_damaged(r->c);
    status = reader_item(r);
    if (status != 0) return status;
    lua_pop(r->L, 1);
  }
  r->at++;
  return reader_close_object(r, f);
}
