/*
 * binding/lpace -- when a lazy source is asked for its next item, and when results are looked after first.
 *
 * Room: binding (may include binding/lcall.h and binding/lreader.h).  Owns: nothing.
 * Asking may take long (a pipe, a terminal, a slow computation), and meanwhile nobody takes results. Where a source can be seen through
 * (the lines of a file) it is not asked while it would wait and results are to come. Of any other nothing is known but how long it took:
 * until it has been quick often enough, and again after each time that it was slow, the host is wary: items are handed out one by one,
 * at most two for each worker, and after a slow one results have a part of the time that it took before the next is asked for.
 */
#include <lauxlib.h>

#include "base/os.h"
#include "binding/lcall.h"
#include "binding/lreader.h"
#include "job/input.h"

enum {
  SLOW_NS = 1000 * 1000,       /* what an item of a quick source takes at most */
  QUICK_ITEMS = 64,            /* so many quick ones in a row, and a source is trusted */
  FIRST_NS = 4 * 1000 * 1000,  /* what results of the first item get */
  PART = 4,                    /* those of slow ones: this part of the time that the item took */
  LOOK_NS = 5 * 1000 * 1000,   /* how often to look whether a file can be read */
  WARY_ITEMS = 2               /* per worker */
};

static const int64_t FOR_EVER = INT64_MAX / 2; /* until one comes */

/* io.lines and file:lines are C functions with the file as their first upvalue. `index`: of the source, or of what it was wrapped in. */
static luaL_Stream *file_of(lua_State *L, int index) {
  luaL_Stream *file;
  if (!lua_iscfunction(L, index) || lua_getupvalue(L, index, 1) == NULL) return NULL;
  file = luaL_testudata(L, -1, LUA_FILEHANDLE);
  lua_pop(L, 1);
  return file;
}

/* The same for a reader, which its source has as its first upvalue. */
static void *reader_of(lua_State *L, int index) {
  void *reader;
  if (!lua_iscfunction(L, index) || lua_getupvalue(L, index, 1) == NULL) return NULL;
  reader = luaL_testudata(L, -1, LREADER_TYPE);
  lua_pop(L, 1);
  return reader;
}

void lpace_begin(lua_State *L, struct call *c, int index) {
  c->file = file_of(L, index);
  c->reader = reader_of(L, index);
  c->is_wary = 1;
}

void lpace_note(struct call *c, int64_t took_ns) {
  int is_first = c->n_asked++ == 0;
  c->rest_ns = 0;
  if (took_ns >= SLOW_NS) {
    c->is_wary = 1;
    c->n_quick = 0;
    c->rest_ns = os_now_ns() + took_ns / PART;
  } else if (c->is_wary && ++c->n_quick >= QUICK_ITEMS) {
    c->is_wary = 0;
  }
  if (is_first) c->rest_ns = os_now_ns() + FIRST_NS;
}

/* 1: it would wait for somebody; 0: it would not; -1: this cannot be seen. */
static int would_wait(const struct call *c) {
  const luaL_Stream *file = c->file;
  if (c->job.source.kind != SOURCE_ITERATOR) return 0;
  if (c->reader) return lreader_would_wait(c->reader);
  return file && file->closef ? input_would_wait(file->f) : -1;
}

static int has_enough(const struct call *c) {
  return c->written - c->settled >= (uint64_t)WARY_ITEMS * c->lp->n_workers;
}

int lpace_ends_block(const struct call *c) {
  int waits = would_wait(c);
  return waits < 0 ? c->is_wary && !c->chunk : waits;
}

int lpace_ends_filling(const struct call *c) {
  int waits = would_wait(c);
  return waits < 0 ? c->is_wary && (c->rest_ns || has_enough(c)) : waits;
}

int lpace_can_wait(const struct call *c) {
  int waits = would_wait(c);
  return waits < 0 ? c->is_wary : waits;
}

int64_t lpace_rest(const struct call *c) {
  int waits;
  if (c->written == c->settled || c->written >= c->total) return 0;
  if (c->reader && lreader_is_held(c->reader)) return FOR_EVER;
  waits = would_wait(c);
  if (waits >= 0) return waits ? os_now_ns() + LOOK_NS : 0;
  return !c->is_wary ? 0 : has_enough(c) ? FOR_EVER : c->rest_ns;
}
