/* job/task_slow -- texts for the slowest items: see task_parts.h (may include job/task_parts.h). */
#include "job/task_parts.h"

enum { NAMED_NS = 1000 * 1000, MOST_READ_AGAIN = 10000 };

/* Push item `number` of the claim once more. 0: not to be had, or only with much reading; nothing is pushed. */
static int push_again(struct task_context *t, lua_State *T, uint64_t number) {
  const struct worker_claim *claim = &t->worker->claim;
  struct codec_reader reader;
  uint64_t at = claim->first - claim->block_skip;
  const void *data;
  if (claim->kind == BOARD_INDEXED && t->source.kind == SOURCE_TABLE) {
    lua_rawgeti(T, LUA_REGISTRYINDEX, t->source.reference);
    lua_rawgeti(T, -1, (lua_Integer)number + 1);
    lua_remove(T, -2);
    return 1;
  }
  if (claim->kind == BOARD_INDEXED) {
    task_push_item(T, &t->source, number);
    return 1;
  }
  if (claim->kind != BOARD_BLOCK || claim->flags & BOARD_ARGUMENTS || number - at > MOST_READ_AGAIN) return 0;
  data = arena_at(t->worker->arena, claim->block_offset, claim->block_length);
  codec_read_begin(t->codec, &reader, data, data ? claim->block_length : 0);
  for (; codec_read(t->codec, T, &reader) == 0; at++) {
    if (at == number) return 1;
    lua_pop(T, 1);
  }
  return 0;
}

/* (context): those of the slowest items that were in this claim get their texts. */
static int name_slow(lua_State *T) {
  struct task_context *t = lua_touserdata(T, 1);
  struct worker *w = t->worker;
  uint32_t i;
  for (i = 0; i < w->events->n_slow; i++) {
    const struct event_slow *slow = &w->events->slowest[i];
    size_t length;
    const char *text;
    if (slow->length > 0 || slow->count != 1 || slow->ns < NAMED_NS || slow->call != w->claim.call) continue;
    if (slow->first < w->claim.first || slow->first - w->claim.first >= w->claim.count || !push_again(t, T, slow->first)) continue;
    if (lua_type(T, -1) == LUA_TNUMBER || lua_type(T, -1) == LUA_TSTRING) {
      task_item_text(T, -1);
      text = lua_tolstring(T, -1, &length);
      events_name_slow(w->events, i, text, length);
    }
    lua_settop(T, 1);
  }
  return 0;
}

/*
 * Numbers say little about which item was slow. The end of a claim is the time to look at them again; as long as an item of it has not been
 * published, the host keeps their bytes.
 */
void task_name_slow_items(struct task_context *t) {
  uint32_t stamp = atomic_load_explicit(&t->worker->events->slow_stamp, memory_order_relaxed);
  if (stamp == t->slow_stamp || t->worker->frame_count == 0 || t->loaded_job == 0) return;
  lua_pushcfunction(t->thread, name_slow);
  lua_pushlightuserdata(t->thread, t);
  if (lua_pcall(t->thread, 1, 0, 0) != LUA_OK) lua_pop(t->thread, 1);
  t->slow_stamp = atomic_load_explicit(&t->worker->events->slow_stamp, memory_order_relaxed);
}
