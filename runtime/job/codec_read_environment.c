/*
 * job/codec_read_environment -- bytes to environments of functions: first an empty table, later what code names of it.
 *
 * Room: job (may include job/codec_read.h, where its functions are declared).  Owns: nothing.
 */
#include "job/codec_read.h"

int reader_open_environment(struct reading *r, int flags, uint64_t place) {
  struct read_frame *f;
  int status;
  lua_newtable(r->L);
  if (flags & IS_SHARED) reader_remember(r, place);
  if (!(flags & (HAS_METATABLE | HAS_INDEX))) return 0;
  status = reader_open_frame(r, FRAME_ENVIRONMENT, 1);
  if (status < 0) return status;
  f = top_frame(r->c);
  f->at--; /* the table is there already */
  f->has_metatable = 1;
  f->index = flags & HAS_INDEX;
  return 1;
}

int reader_step_environment(struct reading *r, struct read_frame *f) {
  return reader_close_object(r, f);
}

void reader_wrap_index(lua_State *L) {
  lua_createtable(L, 0, 1);
  lua_insert(L, -2);
  lua_setfield(L, -2, "__index");
}

int reader_open_more(struct reading *r) {
  uint64_t place;
  int status;
  if (reader_varint(r, &place) < 0) return reader_damaged(r->c);
  status = reader_open_frame(r, FRAME_MORE, 1);
  if (status < 0) return status;
  if (reader_push_remembered(r, place) != LUA_TTABLE) return reader_damaged(r->c);
  return 1;
}

int reader_step_more(struct reading *r, struct read_frame *f) {
  lua_State *L = r->L;
  int status;
  for (;;) {
    if (r->at == r->end) return reader_damaged(r->c);
    if (f->phase == PHASE_NEXT && *r->at == TAG_END) break;
    if (f->phase == PHASE_NEXT) {
      f->phase = PHASE_KEY;
      status = reader_item(r);
      if (status != 0) return status;
    }
    f->phase = PHASE_VALUE;
    status = reader_item(r);
    if (status != 0) return status;
    status = reader_take_more(r, f);
    if (status < 0) return status;
  }
  r->at++;
  lua_settop(L, f->at);
  r->c->n_read_frames--;
  return 0;
}

int reader_take_more(struct reading *r, struct read_frame *f) {
  f->phase = PHASE_NEXT;
  if (!lua_isnil(r->L, -2)) return reader_set_pair(r, f->at);
  lua_pop(r->L, 2); /* no pair: the value was completed elsewhere */
  return 0;
}
