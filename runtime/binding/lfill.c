/*
 * binding/lfill -- how a call's items reach the workers: indexed by them, or written into blocks, never further ahead than is useful.
 *
 * Room: binding (may include binding/lcall.h and binding/lpool.h).  Owns: nothing; blocks belong to the pool once they are posted.
 */
#include <errno.h>
#include <lauxlib.h>
#include <string.h>

#include "base/os.h"
#include "binding/lcall.h"
#include "job/delivery.h"
#include "pool/schedule.h"
#include "process/interrupt.h"

enum {
  BLOCK_BYTES = 256 * 1024,      /* a block is closed when it holds this much */
  FILL_NS = 1000 * 1000,         /* and when the source took this long: workers wait for it */
  IN_FLIGHT_BYTES = 32 << 20,    /* written and not yet done, unless a single item is larger */
  HELD_BYTES = 32 << 20,         /* results of a stream that wait for the consumer */
  BLOCK_SHARED = 16,             /* objects of shared memory that a block names: each costs a descriptor as long as it is not done */
  IN_FLIGHT_SHARED = 64
};

/*
 * A table can be indexed by workers that are forked now; workers that live already get its items written out, as those of an iterator.
 * Shared arrays are indexed in place by all.
 */
enum board_entry_kind lfill_kind(const struct call *c) {
  if (c->mode == CALL_APPLY) return BOARD_BLOCK;
  if (c->mode == CALL_BROADCAST) return BOARD_BROADCAST;
  if (c->job.source.kind == SOURCE_ITERATOR) return BOARD_BLOCK;
  if (c->job.source.kind != SOURCE_TABLE) return BOARD_INDEXED;
  return lpool_has_recruits(c->lp) || pool_living(c->lp->pool) > 0 ? BOARD_BLOCK : BOARD_INDEXED;
}

static void post(lua_State *L, struct call *c, const struct pool_work *work) {
  int status = pool_post(c->lp->pool, work);
  if (status == 0) return;
  if (work->kind != BOARD_INDEXED) pool_input_free(c->lp->pool, work->block_offset, work->block_length);
  luaL_error(L, "cannot hand out work: %s", strerror(-status));
}

static void post_range(lua_State *L, struct call *c, uint64_t count) {
  struct pool_work work = c->work;
  if (count == 0) return;
  work.first = c->written;
  work.count = count;
  post(L, c, &work);
  c->written += count;
}

/* ---- shared memory that items name: it must live until they are done, even if the source has dropped it ---- */

/* Push the call's table of it, made when it is wanted. */
static void push_shared(lua_State *L, struct call *c) {
  lcall_push(L, c);
  if (lua_getiuservalue(L, -1, CALL_SHARED) != LUA_TTABLE) {
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_setiuservalue(L, -3, CALL_SHARED);
  }
  lua_remove(L, -2);
}

/* (... call's table, key, { userdata, end }) -> (... call's table, key) */
static void keep(lua_State *L, struct call *c, uint64_t end) {
  lua_pushvalue(L, -2);
  if (lua_rawget(L, -4) == LUA_TNIL) {
    lua_pop(L, 1);
    lua_pushvalue(L, -2);
    lua_insert(L, -2);
    lua_rawset(L, -4);
    if (end != LFILL_WHOLE_CALL) c->n_shared++;
    return;
  }
  lua_rawgeti(L, -1, 2);
  if ((uint64_t)lua_tointeger(L, -1) < end) {
    lua_pushinteger(L, (lua_Integer)end);
    lua_rawseti(L, -3, 2);
  }
  lua_pop(L, 3);
}

void lfill_keep_shared(lua_State *L, struct call *c, struct codec *codec, uint64_t end) {
  if (codec_natives(codec) == 0) return;
  luaL_checkstack(L, 12, NULL);
  push_shared(L, c);
  codec_take_natives(codec, L);
  lua_insert(L, -2); /* natives, call's table */
  lua_pushnil(L);
  while (lua_next(L, -3)) { /* natives, call's table, key, userdata */
    lua_createtable(L, 2, 0);
    lua_insert(L, -2);
    lua_rawseti(L, -2, 1);
    lua_pushinteger(L, (lua_Integer)end);
    lua_rawseti(L, -2, 2);
    keep(L, c, end);
  }
  lua_pop(L, 2);
}

/* Drop what only finished items have named. */
static void drop_shared(lua_State *L, struct call *c) {
  uint64_t done = pool_done_below(c->lp->pool, c->number);
  luaL_checkstack(L, 10, NULL);
  push_shared(L, c);
  lua_pushnil(L);
  while (lua_next(L, -2)) {
    lua_rawgeti(L, -1, 2);
    if ((uint64_t)lua_tointeger(L, -1) <= done) {
      lua_pushvalue(L, -3);
      lua_pushnil(L);
      lua_rawset(L, -6);
      c->n_shared--;
    }
    lua_pop(L, 2);
  }
  lua_pop(L, 1);
}

/* Is so much of it in flight that the source has to wait? */
static int has_much_shared(lua_State *L, struct call *c) {
  if (c->n_shared >= IN_FLIGHT_SHARED) drop_shared(L, c);
  return c->n_shared >= IN_FLIGHT_SHARED;
}

static void post_block(lua_State *L, struct call *c, uint64_t first, uint64_t count) {
  struct pool_work work = c->work;
  void *memory;
  int status;
  if (count == 0) return;
  work.first = first;
  work.count = count;
  work.block_length = c->out->length;
  status = pool_input(c->lp->pool, work.block_length, &work.block_offset, &memory);
  if (status < 0) luaL_error(L, "no memory for the items: %s", strerror(-status));
  memcpy(memory, c->out->data, c->out->length);
  c->lp->bytes_in += c->out->length;
  lfill_keep_shared(L, c, c->writer, first + count);
  post(L, c, &work);
}

void lfill_post_all(lua_State *L, struct call *c) {
  if (c->work.kind != BOARD_INDEXED) return;
  if (!c->chunk && !c->lp->is_one_shot) lhint_begin(L, c);
  post_range(L, c, c->total);
}

void lfill_post_arguments(lua_State *L, struct call *c, int first, int last) {
  int i;
  bytes_clear(c->out);
  codec_begin(c->writer, c->out, 0, "argument");
  lua_pushinteger(L, last - first + 1);
  (void)codec_write(c->writer, L, -1);
  lua_pop(L, 1);
  for (i = first; i <= last; i++) {
    if (codec_write(c->writer, L, i) == 0) continue;
    luaL_error(L, "argument #%d of the task: %s", i - first + 1, codec_message(c->writer));
  }
  post_block(L, c, 0, c->total);
  c->written = c->total;
}

/* ---- blocks ---- */

/* Push the next item of the source. 0: there is none. */
static int push_next_item(lua_State *L, struct call *c, uint64_t number) {
  if (number >= c->total) return 0;
  if (c->job.source.kind != SOURCE_ITERATOR) {
    task_push_item(L, &c->job.source, number);
    return 1;
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, c->job.source.reference);
  lua_call(L, 0, 1);
  if (!lua_isnil(L, -1)) return 1;
  lua_pop(L, 1);
  c->total = number;
  return 0;
}

/*
 * Write one block of at most `most` items: as many as the schedule says, fewer if they are large or slow in coming. What was written
 * before the iterator raised is posted: its results are wanted.
 */
struct block {
  struct call *c;
  uint64_t first, count, size;
  int is_refused;
};

/* (block) -> nothing; the items are in c->out. */
static int write_items(lua_State *L) {
  struct block *b = lua_touserdata(L, 1);
  struct call *c = b->c;
  int64_t before = os_now_ns(), until = before + FILL_NS, now;
  while (b->count < b->size && c->out->length < BLOCK_BYTES && codec_natives(c->writer) < BLOCK_SHARED) {
    int status;
    if (c->phase != CALL_OPEN || !push_next_item(L, c, b->first + b->count)) break;
    status = codec_write(c->writer, L, -1);
    if (c->phase != CALL_OPEN) break; /* ended by its own source (or by a save function) */
    if (status < 0) {
      ltake_refused(L, c, b->first + b->count, codec_message(c->writer));
      b->is_refused = 1;
      break;
    }
    lua_pop(L, 1);
    b->count++;
    now = os_now_ns();
    lpace_note(c, now - before);
    if (lpace_ends_block(c) || (now > until && !c->chunk)) break;
    before = now;
  }
  return 0;
}

/* Returns 1 if more may be written. Raises what the iterator raised, after what came before it was published. */
static int write_block(lua_State *L, struct call *c, uint64_t most) {
  struct block b = {c, c->written, 0, 0, 0};
  uint64_t left = c->total == UINT64_MAX ? UINT64_MAX : c->total - c->written;
  int status;
  b.size = schedule_block(left, c->written, c->lp->n_workers, pool_item_ns(c->lp->pool, c->number), c->chunk);
  if (b.size > most) b.size = most;
  if (c->writer == c->lp->codec) lcall_name(L, c);
  bytes_clear(c->out);
  codec_begin(c->writer, c->out, 0, "item");
  lua_pushcfunction(L, write_items);
  lua_pushlightuserdata(L, &b);
  status = lua_pcall(L, 1, 0, 0);
  if (c->phase != CALL_OPEN || c->lp->pool == NULL) {
    if (status != LUA_OK) lua_error(L);
    return 0; /* the iterator itself ended the call, or the pool */
  }
  if (status != LUA_OK) codec_rollback(c->writer);
  post_block(L, c, b.first, b.count);
  c->written = b.first + b.count + (uint64_t)b.is_refused;
  if (c->out->capacity > 4 * BLOCK_BYTES) bytes_free(c->out);
  if (status != LUA_OK) lua_error(L);
  return c->written < c->total;
}

/* A call whose results are wanted all at once: blocks ahead of the workers, but not too far. */
static void fill_window(lua_State *L, struct call *c) {
  struct pool *p = c->lp->pool;
  uint32_t window = schedule_window(c->lp->n_workers);
  while (c->written < c->total && pool_unclaimed(p, c->number) < window && pool_in_flight(p, c->number) < IN_FLIGHT_BYTES &&
         !has_much_shared(L, c)) {
    if (!write_block(L, c, UINT64_MAX)) return;
    if (interrupt_pending() || (c->failed_at != UINT64_MAX && !(c->work.flags & BOARD_GO_ON))) return;
  }
}

/* ---- streams ---- */

/* How many items beyond those that the consumer has been given may be written, done or waiting. */
static uint64_t ahead(const struct call *c) {
  uint64_t item_ns, bytes, n;
  if (c->buffer) return c->in_hand ? c->buffer - (c->in_hand - 1) : c->buffer; /* exactly, wherever in its frame it is */
  item_ns = pool_item_ns(c->lp->pool, c->number);
  n = schedule_ahead(c->lp->n_workers, item_ns, c->chunk);
  bytes = c->settled ? c->result_bytes / c->settled : 0;
  if (bytes && n > HELD_BYTES / bytes) n = HELD_BYTES / bytes;
  return n > c->lp->n_workers ? n : c->lp->n_workers;
}

static void fill_stream(lua_State *L, struct call *c) {
  struct pool *p = c->lp->pool;
  uint64_t n = ahead(c), limit = c->delivered + n, room, least = (c->buffer ? c->buffer : n) / 4;
  if (limit > c->total) limit = c->total;
  room = limit > c->written ? limit - c->written : 0;
  if (room == 0 || (c->failed_at != UINT64_MAX && !c->collects)) return;
  /* Not by dribs and drabs: entries are shared by all workers. */
  if (room < least && limit < c->total && (c->written - c->settled > least || (c->buffer && c->in_hand))) return;
  if (c->work.kind == BOARD_INDEXED) {
    post_range(L, c, room);
    return;
  }
  while (c->written < limit && c->written < c->total && !has_much_shared(L, c) &&
         (c->written == c->settled || pool_in_flight(p, c->number) < IN_FLIGHT_BYTES)) {
    if (!write_block(L, c, limit - c->written)) return;
    if (interrupt_pending() || lpace_ends_filling(c)) return;
  }
}

/* (call) -> nothing */
static int fill(lua_State *L) {
  struct call *c = lua_touserdata(L, 1);
  if (c->mode == CALL_TABLE) {
    fill_window(L, c);
  } else {
    fill_stream(L, c);
  }
  return 0;
}

/* The source failed; the error is on top. Results before it are delivered first, where they are delivered at all. */
static void end_source(lua_State *L, struct call *c) {
  if (c->mode == CALL_TABLE) {
    lcall_fail(L, c);
    return;
  }
  lcall_set_problem(L, c);
  c->total = c->written;
}

void lfill_more(lua_State *L, struct call *c) {
  int status;
  int64_t began, ended;
  if (c->phase != CALL_OPEN || c->is_halting || c->is_filling || c->written >= c->total) {
    lcall_judge(L, c);
    return;
  }
  if (c->mode == CALL_TABLE && c->work.kind != BOARD_BLOCK) return;
  c->is_filling = 1;
  began = os_now_ns();
  lcall_push(L, c); /* anchored, whatever the iterator does */
  lua_pushcfunction(L, fill);
  lua_pushvalue(L, -2);
  status = lua_pcall(L, 1, 0, 0);
  c->is_filling = 0;
  ended = os_now_ns();
  c->lp->encode_ns += ended - began;
  if (c->lp->pool) pool_note(c->lp->pool, EVENT_WRITE, began, ended);
  if (status != LUA_OK) {
    if (delivery_is_interrupt(L, -1)) { /* it is not the source's, and is told once: here */
      lcall_conclude(L, c, OUTCOME_CANCELLED, c->lp->grace_ns);
      lua_error(L);
    }
    if (c->phase == CALL_OPEN) {
      end_source(L, c);
    } else {
      lua_pop(L, 1);
    }
  }
  lua_pop(L, 1);
  lcall_judge(L, c);
}
