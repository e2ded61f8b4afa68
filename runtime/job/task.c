/*
 * job/task -- a worker's beginning and end, and its memory: see task.h (may include job/task_parts.h, job/boot.h and
 * job/last_words.h).
 */
#include "job/task.h"

#include <lauxlib.h>
#include <string.h>
#include <unistd.h>

#include "base/allocator.h"
#include "job/boot.h"
#include "job/delivery.h"
#include "job/last_words.h"
#include "job/task_parts.h"
#include "process/process.h"

enum { LARGE_GARBAGE_BYTES = 12 << 20, LEAST_CYCLE_NS = 1000 * 1000 };

/* ---- memory ---- */

/* lua_Alloc with a budget: NULL when it is used up makes Lua collect garbage, then raise "not enough memory", which a task can catch. */
static void *budget_allocate(void *context, void *block, size_t old_size, size_t new_size) {
  struct task_budget *budget = context;
  int64_t change = (int64_t)new_size - (block ? (int64_t)old_size : 0);
  void *result;
  if (change > 0 && budget->used + change > budget->limit) return NULL;
  result = budget->inner(budget->inner_context, block, old_size, new_size);
  if (result != NULL || new_size == 0) budget->used += change;
  return result;
}

/*
 * A full collection marks every object and so copies the whole heap that was shared at the fork. Let the collector rest until as much again
 * was allocated as was inherited (no longer: fresh pages cost more than collecting in warm ones); LUA_GCSTEP with a negative size moves its
 * debt away by so many kilobytes.
 */
static void postpone_collection(lua_State *L) {
  lua_gc(L, LUA_GCSTEP, -lua_gc(L, LUA_GCCOUNT));
}

/*
 * A few large strings are as much memory as all that was inherited, and the collector rests until then. But they are quickly found, and
 * their pages better used again while they are warm than mapped anew: a young collection (which copies nothing of what was inherited)
 * now and then. It must be sooner than the allocator's spare blocks are too few.
 */
void task_collect_large(struct task_context *t) {
  uint64_t taken = t->allocator ? allocator_large_bytes(t->allocator) : 0;
  if (taken - t->large_seen < LARGE_GARBAGE_BYTES) return;
  t->large_seen = taken;
  if (lua_gc(t->L, LUA_GCISRUNNING)) lua_gc(t->L, LUA_GCSTEP, 0);
}

static const struct allocator *find_allocator(lua_State *L) {
  void *context;
  return lua_getallocf(L, &context) == allocator_lua ? context : NULL;
}

/* The budget is laid over the allocator when the first claim asks for one; without a limit it stays, with one that nobody reaches. */
void task_set_budget(struct task_context *t, int64_t bytes) {
  struct task_budget *budget = &t->budget;
  if (bytes <= 0 && budget->limit == 0) return;
  if (budget->limit == 0) {
    budget->inner = lua_getallocf(t->L, &budget->inner_context);
    budget->used = 0;
    lua_setallocf(t->L, budget_allocate, budget);
  }
  budget->limit = bytes > 0 ? bytes : INT64_MAX;
}

/* ---- getting ready ---- */

static int no_exit(lua_State *L) {
  int code;
  if (lua_isnoneornil(L, 1) || lua_isboolean(L, 1)) {
    code = lua_isnoneornil(L, 1) || lua_toboolean(L, 1) ? 0 : 1;
  } else {
    code = (int)luaL_checkinteger(L, 1);
  }
  process_exit(code);
}

/* os.exit in a task ends the worker, and nothing of the host's: no finalizer, no exit handler, no buffered output. */
static void replace_exit(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  if (lua_istable(L, -1) && lua_getfield(L, -1, "os") == LUA_TTABLE) {
    lua_pushcfunction(L, no_exit);
    lua_setfield(L, -2, "exit");
  }
}

/* Every worker its own random numbers; leaves math.randomseed (or nil) on the stack for seeded tasks. */
static void seed_random(lua_State *L) {
  uint64_t seed[2];
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  if (!lua_istable(L, -1) || lua_getfield(L, -1, "math") != LUA_TTABLE || lua_getfield(L, -1, "randomseed") != LUA_TFUNCTION) {
    lua_pushnil(L);
    return;
  }
  os_random(seed, sizeof seed);
  lua_pushvalue(L, -1);
  lua_pushinteger(L, (lua_Integer)seed[0]);
  lua_pushinteger(L, (lua_Integer)seed[1]);
  lua_call(L, 2, 0);
}

/* { kind =, message = } with the metatable of error values, raised inside a task by the host's wish. */
static void define_reason(lua_State *L, int reason, const char *kind, const char *message) {
  lua_createtable(L, 0, 2);
  lua_pushstring(L, kind);
  lua_setfield(L, -2, "kind");
  lua_pushstring(L, message);
  lua_setfield(L, -2, "message");
  luaL_getmetatable(L, "luapool.Error");
  lua_setmetatable(L, -2);
  delivery_define(L, reason);
}

/* pool.worker.progress(done [, total]): how far the item that runs is. */
static int report_progress(lua_State *L) {
  struct task_context *t = lua_touserdata(L, lua_upvalueindex(1));
  lua_Number done = luaL_checknumber(L, 1), total = luaL_optnumber(L, 2, 0);
  worker_progress(t->worker, done, total);
  return 0;
}

/* pool.worker in the module's table: { id, pid, progress }, also handed to on_start and on_exit. Leaves it on the stack. */
static void push_worker_table(lua_State *L, struct task_context *t) {
  lua_createtable(L, 0, 3);
  lua_pushinteger(L, (lua_Integer)t->worker->number + 1);
  lua_setfield(L, -2, "id");
  lua_pushlightuserdata(L, t);
  lua_pushcclosure(L, report_progress, 1);
  lua_setfield(L, -2, "progress");
  lua_pushinteger(L, getpid());
  lua_setfield(L, -2, "pid");
  if (lua_getfield(L, LUA_REGISTRYINDEX, "luapool.module") == LUA_TTABLE) {
    lua_pushvalue(L, -2);
    lua_setfield(L, -2, "worker");
  }
  lua_pop(L, 1);
}

/*
 * What the collector does cannot be timed from outside: its steps are parts of allocations. But each time it comes round it finds an object
 * that nobody holds, whose finalizer notes the moment and asks to be found again. It allocates nothing and raises nothing.
 */
static int note_cycle(lua_State *L) {
  struct task_context *t = lua_touserdata(L, lua_upvalueindex(1));
  struct events *events = t->worker ? t->worker->events : NULL;
  int64_t now = os_now_ns();
  if (events == NULL) return 0;
  t->n_cycles++;
  if (now - t->cycle_ns >= LEAST_CYCLE_NS && now - t->cycle_ns >= events_grain(events, now)) {
    uint64_t bytes = ((uint64_t)lua_gc(L, LUA_GCCOUNT) << 10) + (uint64_t)lua_gc(L, LUA_GCCOUNTB);
    struct event event = {.kind = EVENT_CYCLE, .claims = t->n_cycles, .begin_ns = now, .items = bytes};
    events_put(events, &event);
    t->n_cycles = 0;
    t->cycle_ns = now;
  }
  lua_getmetatable(L, 1);
  lua_setmetatable(L, 1);
  return 0;
}

static void watch_collector(lua_State *L, struct task_context *t) {
  t->n_cycles = 0;
  t->cycle_ns = 0;
  lua_newuserdatauv(L, 0, 0);
  lua_createtable(L, 0, 1);
  lua_pushlightuserdata(L, t);
  lua_pushcclosure(L, note_cycle, 1);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  lua_pop(L, 1);
}

static void settle(lua_State *L, struct worker *w) {
  const char *what;
  int status = worker_settle(w, &what);
  if (status < 0) luaL_error(L, "the worker cannot %s: %s", what, strerror(-status));
}

/* What is raised inside tasks by the host's wish, once in each state; the host itself never asks for these. */
static void define_reasons(lua_State *L) {
  delivery_push(L, INTERRUPT_QUIT);
  if (lua_isnil(L, -1)) {
    define_reason(L, INTERRUPT_TIMEOUT, "timeout", "the item took too long"); /* how long it may, the host knows */
    define_reason(L, INTERRUPT_CANCEL, "cancelled", "the call was cancelled");
    define_reason(L, INTERRUPT_QUIT, "cancelled", "the pool was terminated"); /* the last: the others are there, too */
  }
  lua_pop(L, 1);
}

void task_provide(lua_State *L, struct task_context *t) {
  lua_State *thread;
  struct codec *codec;
  int reference;
  if (t->thread != NULL) return;
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  define_reasons(L);
  thread = lua_newthread(L);
  lua_sethook(thread, NULL, 0, 0); /* a new thread copies its creator's hook, armed or not */
  codec = codec_open(L);
  reference = luaL_ref(L, LUA_REGISTRYINDEX);
  t->codec_reference = reference;
  t->codec = codec;
  reference = luaL_ref(L, LUA_REGISTRYINDEX);
  t->thread_reference = reference;
  t->thread = thread;
}

void task_withdraw(lua_State *L, struct task_context *t) {
  if (t->thread == NULL) return;
  luaL_unref(L, LUA_REGISTRYINDEX, t->thread_reference);
  luaL_unref(L, LUA_REGISTRYINDEX, t->codec_reference);
  t->thread = NULL;
  t->codec = NULL;
}

void task_furnish(lua_State *L, struct task_context *t) {
  int top = lua_gettop(L);
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  task_provide(L, t);
  replace_exit(L);
  lua_settop(L, top);
  t->is_furnished = 1;
}

/* Protected: everything about getting ready that may run out of memory. */
static int prepare(lua_State *L) {
  struct task_context *t = lua_touserdata(L, 1);
  lua_State *T;
  if (!t->is_furnished) task_furnish(L, t);
  T = t->thread;
  memcpy(lua_getextraspace(T), lua_getextraspace(t->L), LUA_EXTRASPACE); /* it may be older than what the host has there now */
  settle(L, t->worker);
  if (t->worker->boot_length)
    boot_read(t->codec, L, arena_at(t->worker->arena, t->worker->boot_offset, t->worker->boot_length), t->worker->boot_length, t);
  if (t->worker->events) watch_collector(L, t);
  luaL_checkstack(T, LUA_MINSTACK, NULL);
  lua_pushcfunction(T, task_on_error);
  seed_random(L);
  lua_xmove(L, T, 1);
  lua_pushnil(T);
  push_worker_table(L, t);
  lua_xmove(L, T, 1);
  return 0;
}

/* Call the function at `reference` with the table on top of T's stack. Returns the status; an error stands on the stack. */
static int call_hook(struct task_context *t, int reference, int n_results) {
  struct delivery_frame scope;
  int status;
  lua_rawgeti(t->thread, LUA_REGISTRYINDEX, reference);
  lua_insert(t->thread, -2);
  delivery_enter(&scope, t->thread);
  status = lua_pcall(t->thread, 1, n_results, TASK_HANDLER);
  delivery_leave(&scope);
  return status;
}

/* (context, message): the record of what kept the worker from getting ready. Protected. */
static int write_unprepared(lua_State *L) {
  struct task_context *t = lua_touserdata(L, 1);
  task_plain_record(t, L, "error", lua_tostring(L, 2));
  return 0;
}

/* It could not get ready; why is on top of the stack. Without memory to say it, nothing is said. */
static void send_unprepared(struct task_context *t) {
  lua_State *L = t->L;
  const char *text = lua_tostring(L, -1);
  bytes_clear(&t->record);
  if (t->codec && text) {
    lua_pushcfunction(L, write_unprepared);
    lua_pushlightuserdata(L, t);
    lua_pushstring(L, text);
    if (lua_pcall(L, 2, 0, 0) != LUA_OK) bytes_clear(&t->record);
  }
  worker_send(t->worker, WORKER_UNREADY, 0, 0, t->record.data, t->record.length);
}

static void describe(void *context, char *text, size_t capacity) {
  lua_State *L = delivery_running();
  (void)context;
  if (L) last_words_write(L, text, capacity);
}

int task_start(void *context, struct worker *w) {
  struct task_context *t = context;
  int status;
  t->worker = w;
  w->describe = describe;
  bytes_init(&t->record);
  t->loaded_job = 0;
  t->owned[0] = t->owned[1] = t->into_reference = LUA_NOREF;
  delivery_in_child();
  postpone_collection(t->L);
  t->allocator = find_allocator(t->L);
  t->large_seen = t->allocator ? allocator_large_bytes(t->allocator) : 0;
  lua_checkstack(t->L, LUA_MINSTACK);
  lua_pushcfunction(t->L, prepare);
  lua_pushlightuserdata(t->L, t);
  if (lua_pcall(t->L, 1, 0, 0) != LUA_OK) {
    send_unprepared(t);
    return -1;
  }
  if (t->on_start == LUA_NOREF) {
    lua_settop(t->thread, TASK_TOP);
  } else {
    status = call_hook(t, t->on_start, 0);
    if (status != LUA_OK) {
      task_send_failure(t, WORKER_UNREADY, status, NULL, 0);
      return -1;
    }
  }
  return 0;
}

/* (context, value): what on_exit returned goes into t->record. Protected. */
static int write_parting(lua_State *L) {
  struct task_context *t = lua_touserdata(L, 1);
  bytes_clear(&t->record);
  codec_begin(t->codec, &t->record, CODEC_COPIES_OWN | CODEC_KEEPS_NONE, "result");
  if (codec_write(t->codec, L, 2) < 0) return luaL_error(L, "%s", codec_message(t->codec));
  return 0;
}

/* Send what on_exit returned, on top of the stack. Returns as call_hook. */
static int send_parting(struct task_context *t) {
  lua_State *T = t->thread;
  int status;
  lua_pushcfunction(T, write_parting);
  lua_insert(T, -2);
  lua_pushlightuserdata(T, t);
  lua_insert(T, -2);
  status = lua_pcall(T, 2, 0, 0);
  if (status == LUA_OK) worker_send(t->worker, WORKER_PARTING, 0, 0, t->record.data, t->record.length);
  return status;
}

void task_finish(void *context, struct worker *w) {
  struct task_context *t = context;
  lua_State *T = t->thread;
  int status;
  task_forget_interrupts();
  if (t->on_exit == LUA_NOREF) return;
  lua_settop(T, TASK_TOP);
  if (lua_getfield(T, LUA_REGISTRYINDEX, "luapool.module") == LUA_TTABLE) {
    lua_getfield(T, -1, "worker");
    lua_remove(T, -2);
  }
  status = call_hook(t, t->on_exit, 1);
  if (status == LUA_OK && !lua_isnil(T, -1)) status = send_parting(t);
  if (status != LUA_OK) {
    const char *text = lua_tostring(T, -1);
    if (text) worker_send(w, WORKER_NOTICE, 0, 0, text, strlen(text));
  }
}
