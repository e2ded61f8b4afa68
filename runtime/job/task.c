/* job/task -- see task.h (may include job/boot.h and job/codec_run.h). */
#include "job/task.h"

#include <errno.h>
#include <lauxlib.h>
#include <lualib.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/allocator.h"
#include "base/fault.h"
#include "job/array.h"
#include "job/boot.h"
#include "job/codec_run.h"
#include "job/delivery.h"
#include "process/interrupt.h"
#include "process/process.h"

/* The task thread's stack: these stay, what a claim needs stands above. */
enum { HANDLER = 1, SEEDER = 2, FN = 3, TOP = 3 };

enum { LARGE_GARBAGE_BYTES = 12 << 20 };

enum { ITEM_TEXT_BYTES = 60, SAMPLE = 64, LARGE_NS = 5000, LEAST_CYCLE_NS = 1000 * 1000, NAMED_NS = 1000 * 1000, MOST_READ_AGAIN = 10000 };

/* ---- items ---- */

lua_State *task_main_thread(lua_State *L) {
  lua_State *main;
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  main = lua_tothread(L, -1);
  lua_pop(L, 1);
  return main;
}

void task_push_item(lua_State *L, const struct source *source, uint64_t number) {
  switch (source->kind) {
    case SOURCE_INTEGERS:
      lua_pushinteger(L, task_integer(source, number));
      break;
    case SOURCE_FLOATS:
      lua_pushnumber(L, source->first_float + (lua_Number)number * source->step_float);
      break;
    case SOURCE_TABLE:
    case SOURCE_ARRAY:
      lua_rawgeti(L, LUA_REGISTRYINDEX, source->reference);
      lua_geti(L, -1, (lua_Integer)number + 1);
      lua_remove(L, -2);
      break;
    default:
      lua_pushnil(L);
  }
}

static void push_string_text(lua_State *L, int index) {
  char text[ITEM_TEXT_BYTES + 8];
  size_t length, i, n = 0;
  const char *s = lua_tolstring(L, index, &length);
  text[n++] = '"';
  for (i = 0; i < length && n < ITEM_TEXT_BYTES; i++) text[n++] = (unsigned char)s[i] < 32 || s[i] == 127 ? '?' : s[i];
  if (i < length) {
    memcpy(text + n, "...", 3);
    n += 3;
  }
  text[n++] = '"';
  lua_pushlstring(L, text, n);
}

void task_item_text(lua_State *L, int index) {
  index = lua_absindex(L, index);
  switch (lua_type(L, index)) {
    case LUA_TSTRING:
      push_string_text(L, index);
      break;
    case LUA_TNIL:
    case LUA_TBOOLEAN:
    case LUA_TNUMBER:
      luaL_tolstring(L, index, NULL);
      break;
    default:
      lua_pushstring(L, luaL_typename(L, index));
  }
}

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
static void collect_large(struct task_context *t) {
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
static void set_budget(struct task_context *t, int64_t bytes) {
  struct task_budget *budget = &t->budget;
  if (bytes <= 0 && budget->limit == 0) return;
  if (budget->limit == 0) {
    budget->inner = lua_getallocf(t->L, &budget->inner_context);
    budget->used = 0;
    lua_setallocf(t->L, budget_allocate, budget);
  }
  budget->limit = bytes > 0 ? bytes : INT64_MAX;
}

/* ---- error records ---- */

/* What stands below the task's function belongs to us, not to the user's program. */
static void push_traceback(lua_State *L, lua_State *of, int level) {
  static const char ours[] = "\n\t[C]: in ?";
  size_t length;
  const char *text;
  luaL_traceback(L, of, NULL, level);
  text = lua_tolstring(L, -1, &length);
  if (length > sizeof ours - 1 && memcmp(text + length - (sizeof ours - 1), ours, sizeof ours - 1) == 0) {
    lua_pushlstring(L, text, length - (sizeof ours - 1));
    lua_remove(L, -2);
  }
}

/* Where the traceback of the latest error waits: its address is the key in the registry. */
static char traceback_key;

/* The message handler of tasks. The value stays what it is: `__close` variables see it on its way. */
static int on_error(lua_State *L) {
  push_traceback(L, L, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &traceback_key);
  lua_settop(L, 1);
  return 1;
}

/* Pushes the traceback and forgets it. */
static void take_traceback(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &traceback_key);
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &traceback_key);
}

static const char *kind_of(lua_State *L, int status, int value) {
  static const struct { int reason; const char *kind; } ours[] = {
    {INTERRUPT_TIMEOUT, "timeout"}, {INTERRUPT_CANCEL, "cancelled"}, {INTERRUPT_QUIT, "cancelled"},
    {SIGTERM, "interrupt"}, {SIGHUP, "interrupt"}};
  size_t i;
  if (status == LUA_ERRMEM) return "memory";
  for (i = 0; i < sizeof ours / sizeof *ours; i++) {
    int is_it;
    delivery_push(L, ours[i].reason);
    is_it = lua_istable(L, -1) && lua_rawequal(L, -1, value);
    lua_pop(L, 1);
    if (is_it) return ours[i].kind;
  }
  return "error";
}

/* Write the value at index into the record, or nil if it cannot cross. */
static void write_or_nil(struct task_context *t, lua_State *L, int index) {
  if (codec_write(t->codec, L, index) == 0) return;
  lua_pushnil(L);
  (void)codec_write(t->codec, L, -1);
  lua_pop(L, 1);
}

/* As the stock interpreter words it: text as it is, objects by their __tostring, others by their type. */
static void push_message(lua_State *L, int value) {
  if (lua_isstring(L, value) || luaL_getmetafield(L, value, "__tostring") != LUA_TNIL) {
    if (!lua_isstring(L, value)) lua_pop(L, 1);
    luaL_tolstring(L, value, NULL);
  } else {
    lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, value));
  }
}

/* How long the item has run, nil if nobody asked. */
static void push_seconds(const struct task_context *t, lua_State *L) {
  if (t->item_began_ns) {
    lua_pushnumber(L, (lua_Number)(os_now_ns() - t->item_began_ns) / 1e9);
  } else {
    lua_pushnil(L);
  }
}

/*
 * (status, error value, item text or nil, kind or nil) -> nothing; leaves the record in t->record:
 * kind, message, traceback, item, value, seconds. Runs protected: a __tostring of the user's may do anything.
 */
static int make_record(lua_State *L) {
  struct task_context *t = lua_touserdata(L, lua_upvalueindex(1));
  int status = (int)lua_tointeger(L, 1);
  const int value = 2;
  lua_settop(L, 4);
  lua_pushnil(L); /* 5: traceback */
  if (status == LUA_ERRRUN) {
    take_traceback(L);
    lua_replace(L, 5);
  }
  if (lua_isnil(L, 4)) {
    lua_pushstring(L, kind_of(L, status, value));
    lua_replace(L, 4);
  }
  push_message(L, value);
  codec_begin(t->codec, &t->record, CODEC_COPIES_OWN | CODEC_KEEPS_NONE, "error");
  (void)codec_write(t->codec, L, 4);
  (void)codec_write(t->codec, L, -1);
  write_or_nil(t, L, 5);
  write_or_nil(t, L, 3);
  write_or_nil(t, L, value);
  push_seconds(t, L);
  (void)codec_write(t->codec, L, -1);
  return 0;
}

/* When not even the record could be made (out of memory, an error in __tostring): the least that can be said. */
static void plain_record(struct task_context *t, lua_State *L, const char *kind, const char *message) {
  bytes_clear(&t->record);
  codec_rollback(t->codec);
  codec_begin(t->codec, &t->record, 0, "error");
  lua_pushstring(L, kind);
  (void)codec_write(t->codec, L, -1);
  lua_pushstring(L, message);
  (void)codec_write(t->codec, L, -1);
  lua_pushnil(L);
  (void)codec_write(t->codec, L, -1);
  (void)codec_write(t->codec, L, -1);
  (void)codec_write(t->codec, L, -1);
  (void)codec_write(t->codec, L, -1);
}

static int plain_record_protected(lua_State *L) {
  plain_record(lua_touserdata(L, 1), L, lua_tostring(L, 2), lua_tostring(L, 3));
  return 0;
}

/*
 * The error value is on top of the task thread's stack (and is popped). Sends it as the failure of `item`.
 *   kind   NULL: told from the value
 */
static void send_failure(struct task_context *t, enum worker_frame frame, int status, const char *kind, uint64_t item) {
  lua_State *T = t->thread;
  bytes_clear(&t->record);
  lua_pushlightuserdata(T, t);
  lua_pushcclosure(T, make_record, 1);
  lua_insert(T, -2);
  lua_pushinteger(T, status);
  lua_insert(T, -2);
  lua_pushnil(T);
  if (kind) {
    lua_pushstring(T, kind);
  } else {
    lua_pushnil(T);
  }
  if (lua_pcall(T, 4, 0, 0) != LUA_OK) {
    lua_pop(T, 1);
    lua_pushcfunction(T, plain_record_protected);
    lua_pushlightuserdata(T, t);
    lua_pushstring(T, status == LUA_ERRMEM ? "memory" : "error");
    lua_pushliteral(T, "an error whose value cannot be made into text");
    if (lua_pcall(T, 3, 0, 0) != LUA_OK) bytes_clear(&t->record);
  }
  worker_send(t->worker, frame, item, 1, t->record.data, t->record.length);
}

/* ---- getting ready ---- */

static void forget_interrupts(void) {
  while (interrupt_pending()) (void)interrupt_take();
}

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

/* Protected: everything about getting ready that may run out of memory. */
static int prepare(lua_State *L) {
  struct task_context *t = lua_touserdata(L, 1);
  lua_State *T;
  T = t->thread = lua_newthread(L);
  luaL_ref(L, LUA_REGISTRYINDEX);
  lua_sethook(T, NULL, 0, 0); /* a new thread copies its creator's hook, armed or not */
  t->codec = codec_open(L);
  luaL_ref(L, LUA_REGISTRYINDEX);
  define_reason(L, INTERRUPT_TIMEOUT, "timeout", "the item took too long"); /* how long it may, the host knows */
  define_reason(L, INTERRUPT_CANCEL, "cancelled", "the call was cancelled");
  define_reason(L, INTERRUPT_QUIT, "cancelled", "the pool was terminated");
  replace_exit(L);
  if (t->worker->boot_length)
    boot_read(t->codec, L, arena_at(t->worker->arena, t->worker->boot_offset, t->worker->boot_length), t->worker->boot_length, t);
  if (t->worker->events) watch_collector(L, t);
  luaL_checkstack(T, LUA_MINSTACK, NULL);
  lua_pushcfunction(T, on_error);
  seed_random(L);
  lua_xmove(L, T, 1);
  lua_pushnil(T);
  push_worker_table(L, t);
  lua_xmove(L, T, 1);
  return 0;
}

/* Call the function at `reference` with the table on top of T's stack. Returns the status; an error stands on the stack. */
static int call_hook(struct task_context *t, int reference) {
  struct delivery_frame scope;
  int status;
  lua_rawgeti(t->thread, LUA_REGISTRYINDEX, reference);
  lua_insert(t->thread, -2);
  delivery_enter(&scope, t->thread);
  status = lua_pcall(t->thread, 1, 0, HANDLER);
  delivery_leave(&scope);
  return status;
}

/* (context, message): the record of what kept the worker from getting ready. Protected. */
static int write_unprepared(lua_State *L) {
  struct task_context *t = lua_touserdata(L, 1);
  plain_record(t, L, "error", lua_tostring(L, 2));
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

int task_start(void *context, struct worker *w) {
  struct task_context *t = context;
  int status;
  t->worker = w;
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
    lua_settop(t->thread, TOP);
  } else {
    status = call_hook(t, t->on_start);
    if (status != LUA_OK) {
      send_failure(t, WORKER_UNREADY, status, NULL, 0);
      return -1;
    }
  }
  return 0;
}

void task_finish(void *context, struct worker *w) {
  struct task_context *t = context;
  lua_State *T = t->thread;
  forget_interrupts();
  if (t->on_exit == LUA_NOREF) return;
  lua_settop(T, TOP);
  if (lua_getfield(T, LUA_REGISTRYINDEX, "luapool.module") == LUA_TTABLE) {
    lua_getfield(T, -1, "worker");
    lua_remove(T, -2);
  }
  if (call_hook(t, t->on_exit) != LUA_OK) {
    const char *text = lua_tostring(T, -1);
    if (text) worker_send(w, WORKER_NOTICE, 0, 0, text, strlen(text));
  }
}

/* ---- the function of a claim ---- */

static void let_go(lua_State *T, int *reference) {
  luaL_unref(T, LUA_REGISTRYINDEX, *reference);
  *reference = LUA_NOREF;
}

/* Read what the function's bytes are followed by: the array to write into, where an indexed source begins. */
static int read_places(struct task_context *t, lua_State *T, struct codec_reader *reader) {
  const struct worker_claim *claim = &t->worker->claim;
  int status = 0;
  if (claim->flags & BOARD_INTO) {
    status = codec_read(t->codec, T, reader);
    if (status == 0) t->into_reference = t->owned[1] = luaL_ref(T, LUA_REGISTRYINDEX);
  }
  if (status != 0 || claim->kind != BOARD_INDEXED) return status;
  status = codec_read(t->codec, T, reader);
  if (status != 0) return status;
  if (lua_type(T, -1) != LUA_TNUMBER) {
    t->source.kind = SOURCE_ARRAY;
    t->source.reference = t->owned[0] = luaL_ref(T, LUA_REGISTRYINDEX);
    return 0;
  }
  status = codec_read(t->codec, T, reader);
  if (status != 0) return status;
  t->source.kind = lua_isinteger(T, -1) ? SOURCE_INTEGERS : SOURCE_FLOATS;
  t->source.first = lua_tointeger(T, -2);
  t->source.step = lua_tointeger(T, -1);
  t->source.first_float = lua_tonumber(T, -2);
  t->source.step_float = lua_tonumber(T, -1);
  lua_pop(T, 2);
  return 0;
}

/* To a worker that is no copy of its host the classes that items may have are sent along: reading them makes them globals. */
static int read_classes(struct task_context *t, lua_State *T, struct codec_reader *reader) {
  int status = 0, top = lua_gettop(T);
  while (t->worker->is_recruit && status == 0) {
    status = codec_read(t->codec, T, reader);
    if (status == 0 && lua_isboolean(T, -1)) break;
    if (status == -ENOENT) status = 0; /* a class that needs what is not here: who needs the class will say so */
    lua_settop(T, top);
  }
  lua_settop(T, top);
  return status;
}

/* The function of a job that came after the fork. Pushes it; raises what is wrong. */
static void read_job(struct task_context *t, lua_State *T) {
  const struct worker_claim *claim = &t->worker->claim;
  const void *data = claim->job_length ? arena_at(t->worker->arena, claim->job_offset, claim->job_length) : NULL;
  struct codec_reader reader;
  if (data == NULL) luaL_error(T, "the function did not reach the worker");
  codec_read_begin(t->codec, &reader, data, claim->job_length);
  memset(&t->source, 0, sizeof t->source);
  if (codec_read(t->codec, T, &reader) != 0 || read_classes(t, T, &reader) != 0 || read_places(t, T, &reader) != 0) luaL_error(T, "%s", codec_message(t->codec));
}

/* The array behind a reference. */
static const struct array *find_array(lua_State *T, int reference) {
  const struct array *a;
  lua_rawgeti(T, LUA_REGISTRYINDEX, reference);
  a = array_test(T, -1);
  lua_pop(T, 1);
  if (a == NULL) luaL_error(T, "the shared array did not reach the worker");
  return a;
}

/* (context) -> the claim's function; its source goes into the context. Protected; raises what is wrong. */
static int load_job(lua_State *T) {
  struct task_context *t = lua_touserdata(T, 1);
  const struct worker_claim *claim = &t->worker->claim;
  const struct job *job;
  let_go(T, &t->owned[0]);
  let_go(T, &t->owned[1]);
  t->into_reference = LUA_NOREF;
  for (job = t->jobs; job != NULL && job->number != claim->job; job = job->next) continue;
  if (job != NULL) {
    lua_rawgeti(T, LUA_REGISTRYINDEX, job->fn_reference);
    t->source = job->source;
    t->into_reference = job->into_reference;
  } else {
    read_job(t, T);
  }
  t->from = t->source.kind == SOURCE_ARRAY ? find_array(T, t->source.reference) : NULL;
  t->into = t->into_reference != LUA_NOREF ? find_array(T, t->into_reference) : NULL;
  if (claim->flags & BOARD_WRAPPED) {
    if (lua_getupvalue(T, -1, 1) == NULL) return luaL_error(T, "the function did not reach the worker");
    codec_name_function(t->codec, T, lua_gettop(T));
    lua_pop(T, 1);
  } else {
    codec_name_function(t->codec, T, -1);
  }
  t->loaded_job = claim->job;
  t->is_large = 1; /* the first result shows whether they are */
  return 1;
}

static int get_function(struct task_context *t) {
  lua_State *T = t->thread;
  int status;
  lua_settop(T, TOP);
  if (t->loaded_job == t->worker->claim.job) return LUA_OK;
  t->loaded_job = 0;
  lua_pushcfunction(T, load_job);
  lua_pushlightuserdata(T, t);
  status = lua_pcall(T, 1, 1, HANDLER);
  if (status == LUA_OK) lua_replace(T, FN);
  return status;
}

/* ---- running ---- */

/* Push the item `t->next` of a block; the reader only goes forward, and may be behind (a retry) but never ahead. */
static void push_block_item(struct task_context *t, lua_State *T) {
  for (;;) {
    int status = codec_read(t->codec, T, &t->block);
    if (status != 0) {
      t->block_at++;
      luaL_error(T, "item cannot be read: %s", codec_message(t->codec));
    }
    if (t->block_at++ == t->next) return;
    lua_pop(T, 1);
  }
}

/* In run_items: its arguments. RUN_SOURCE: the table that the items are in, if they are in one. */
enum { RUN_CONTEXT = 1, RUN_FN = 2, RUN_SEEDER = 3, RUN_SOURCE = 4, RUN_TOP = 4 };

static void push_other_item(struct task_context *t, lua_State *T) {
  if (t->source.kind == SOURCE_TABLE) {
    lua_geti(T, RUN_SOURCE, (lua_Integer)t->next + 1);
  } else if (t->from) {
    if (t->next >= t->from->length) luaL_error(T, "the array has no element %d", (int)t->next + 1);
    array_push(T, t->from, t->next);
  } else {
    task_push_item(T, &t->source, t->next);
  }
}

/* Push item t->next of an indexed source. May raise. */
static inline void push_indexed_item(struct task_context *t, lua_State *T) {
  if (t->source.kind == SOURCE_INTEGERS) lua_pushinteger(T, task_integer(&t->source, t->next));
  else push_other_item(t, T);
}

/* Push fn's arguments for item t->next; returns how many. */
static int push_arguments(struct task_context *t, lua_State *T) {
  const struct worker_claim *claim = &t->worker->claim;
  int count, i;
  if (claim->kind == BOARD_INDEXED) {
    push_indexed_item(t, T);
    return 1;
  }
  push_block_item(t, T);
  if (!(claim->flags & BOARD_ARGUMENTS)) return 1;
  count = (int)lua_tointeger(T, -1);
  lua_pop(T, 1);
  luaL_checkstack(T, count, "too many arguments");
  for (i = 0; i < count; i++)
    if (codec_read(t->codec, T, &t->block) != 0) luaL_error(T, "argument cannot be read: %s", codec_message(t->codec));
  return count;
}

static void seed_item(struct task_context *t, lua_State *T) {
  if (!t->has_seed || lua_isnil(T, RUN_SEEDER)) return;
  lua_pushvalue(T, RUN_SEEDER);
  lua_pushinteger(T, t->seed);
  lua_pushinteger(T, (lua_Integer)t->next + 1);
  lua_call(T, 2, 0);
}

/* Write what stands above RUN_TOP. Returns 0, or codec_write's status. */
static int write_results(struct task_context *t, lua_State *T) {
  int status, i, count;
  if (!(t->worker->claim.flags & BOARD_ALL_RESULTS)) return codec_write(t->codec, T, -1);
  count = lua_gettop(T) - RUN_TOP;
  luaL_checkstack(T, 1, NULL);
  lua_pushinteger(T, count);
  status = codec_write(t->codec, T, -1);
  for (i = 1; status == 0 && i <= count; i++) status = codec_write(t->codec, T, RUN_TOP + i);
  return status;
}

static void open_frame(struct task_context *t) {
  worker_close_frame(t->worker);
  worker_open_frame(t->worker, t->next);
  codec_begin(t->codec, &t->worker->frame, CODEC_COPIES_OWN | CODEC_KEEPS_NONE, "result");
}

/* A request that came too late for its item is nobody's any more. Returns 1 if somebody other than the host wants us gone. */
static int settle_interrupts(void) {
  if (interrupt_pending()) forget_interrupts();
  return interrupt_external() != 0;
}

/* As write_results, with a look at the clock. */
static int write_measured(struct task_context *t, lua_State *T) {
  int64_t began = os_now_ns(), took;
  int status = write_results(t, T);
  took = os_now_ns() - began;
  worker_count_encode(t->worker, t->is_large ? took : took * SAMPLE);
  if (t->worker->events && t->is_large) worker_trace(t->worker, EVENT_ENCODE, began, took);
  if (t->worker->events && !t->is_large) t->worker->encode_ns += took * SAMPLE;
  t->is_large = took > LARGE_NS;
  return status;
}

/* An item whose value stands on top of the stack is over. Returns 0, or 1 if its result cannot cross. */
static int write_item(struct task_context *t, lua_State *T) {
  int status;
  t->is_writing = 1;
  status = t->is_large || ++t->n_written % SAMPLE == 0 ? write_measured(t, T) : write_results(t, T);
  if (status == 0 && (t->worker->claim.flags & BOARD_SECONDS)) {
    push_seconds(t, T);
    status = codec_write(t->codec, T, -1);
  }
  t->is_writing = 0;
  lua_settop(T, RUN_TOP);
  return t->is_refused = status != 0;
}

/* How long did the items take that were done since the last look? Only with a record. */
static void look_at_times(struct task_context *t) {
  struct worker *w = t->worker;
  t->until_look = events_look(w->events, &t->sampler, w->claim.call, t->next, atomic_load_explicit(&w->slot->wait_ns, memory_order_relaxed));
}

static void begin_times(struct task_context *t) {
  struct worker *w = t->worker;
  t->until_look = UINT64_MAX;
  if (w->events) t->until_look = events_begin_items(&t->sampler, t->next, atomic_load_explicit(&w->slot->wait_ns, memory_order_relaxed));
}

/* The result on top goes into the shared array; a value that does not fit is the item's error. */
static void store_result(struct task_context *t, lua_State *T) {
  if (t->next >= t->into->length) luaL_error(T, "result cannot be stored: the array has %I elements", (LUAI_UACINT)t->into->length);
  if (!array_store(T, t->into, t->next, -1)) luaL_error(T, "result cannot be stored: %s", lua_tostring(T, -1));
  lua_settop(T, RUN_TOP);
}

/* Leaves fn's results above RUN_TOP. */
static void run_item(struct task_context *t, lua_State *T, int n_results) {
  worker_begin_item(t->worker, t->next);
  FAULT_POINT("worker_run");
  if (t->worker->claim.flags & BOARD_SECONDS) t->item_began_ns = os_now_ns();
  if (t->has_seed) seed_item(t, T);
  lua_pushvalue(T, RUN_FN);
  lua_call(T, push_arguments(t, T), n_results);
}

/* Are the items at hand, and is nothing wanted of them but one result, or none? */
static int is_plain(const struct task_context *t) {
  enum { UNUSUAL = BOARD_ALL_RESULTS | BOARD_SECONDS | BOARD_ARGUMENTS };
  const struct worker_claim *claim = &t->worker->claim;
  return claim->kind == BOARD_INDEXED && !(claim->flags & UNUSUAL) && !t->has_seed && worker_are_plain(t->worker);
}

/* The result on top, which stays there: 1: it is where it belongs; 0: that takes more than an ordinary number does. */
static inline int keep_number(struct task_context *t, lua_State *T) {
  const uint32_t flags = t->worker->claim.flags;
  if (flags & BOARD_INTO) return t->next < t->into->length && array_keep(T, t->into, t->next, -1);
  if (flags & BOARD_NO_RESULTS) return 1;
  if ((t->n_written + 1) % SAMPLE == 0 || !codec_join(t->codec, T, -1)) return 0;
  t->n_written++;
  return 1;
}

/*
 * The loop of run_items for plain items, as long as each gives a number like the one before: such items are as short as the loop, which
 * has to look at nothing here that cannot change within a claim. Item t->next is there, and a frame for it.
 * Returns 1: item t->next was run, and its result stands above RUN_TOP; 0: it is not begun.
 */
static int run_numbers(struct task_context *t, lua_State *T, uint64_t end) {
  struct worker *w = t->worker;
  const size_t room = worker_room(w);
  lua_pushvalue(T, RUN_FN);
  for (;;) {
    worker_begin_plain_item(w, t->next);
    FAULT_POINT("worker_run");
    push_indexed_item(t, T);
    lua_call(T, 1, 1);
    if (!keep_number(t, T)) return 1;
    worker_end_plain_item(w);
    t->next++;
    if (--t->until_look == 0) look_at_times(t);
    if (t->next == end || interrupt_pending() || worker_is_stopped(w) || w->frame.length > room) break;
    lua_copy(T, RUN_FN, RUN_TOP + 1); /* in place of the result */
  }
  lua_settop(T, RUN_TOP);
  return 0;
}

/*
 * (context, fn, randomseed, table): run items until the claim is done or no longer wanted, or until one fails: then t->next is that
 * item, and either this
 * raises, or t->is_refused says that its result cannot cross. One pcall serves for all items: it would cost more than a small task.
 */
static int run_items(lua_State *T) {
  struct task_context *t = lua_touserdata(T, RUN_CONTEXT);
  struct worker *w = t->worker;
  const uint64_t end = w->claim.first + w->claim.count;
  const int wants_results = !(w->claim.flags & BOARD_NO_RESULTS);
  const int is_into = w->claim.flags & BOARD_INTO;
  const int n_results = w->claim.flags & BOARD_ALL_RESULTS ? LUA_MULTRET : wants_results || is_into;
  const int may_be_numbers = is_plain(t);
  luaL_checkstack(T, LUA_MINSTACK, NULL);
  while (t->next < end && !worker_is_stopped(w)) {
    if (worker_needs_frame(w)) open_frame(t);
    if (!may_be_numbers) {
      run_item(t, T, n_results);
    } else if (!run_numbers(t, T, end)) {
      if (interrupt_pending() && settle_interrupts()) return 0;
      continue;
    }
    if (wants_results && write_item(t, T)) return 0;
    if (is_into) store_result(t, T);
    worker_end_item(w);
    t->next++;
    if (--t->until_look == 0) look_at_times(t);
    if (interrupt_pending() && settle_interrupts()) return 0;
  }
  return 0;
}

/* The item t->next failed; the error value is on top, or the codec refused its result. */
static void fail_item(struct task_context *t, int status) {
  if (t->is_writing) codec_rollback(t->codec);
  t->is_writing = 0;
  if (t->is_refused) lua_pushstring(t->thread, codec_message(t->codec));
  worker_close_frame(t->worker);
  send_failure(t, WORKER_FAILED, status, t->is_refused ? "serialize" : NULL, t->next);
  lua_settop(t->thread, TOP);
  t->is_refused = 0;
  t->next++;
  if (t->worker->events) look_at_times(t);
}

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
static void name_slow_items(struct task_context *t) {
  uint32_t stamp = atomic_load_explicit(&t->worker->events->slow_stamp, memory_order_relaxed);
  if (stamp == t->slow_stamp || t->worker->frame_count == 0 || t->loaded_job == 0) return;
  lua_pushcfunction(t->thread, name_slow);
  lua_pushlightuserdata(t->thread, t);
  if (lua_pcall(t->thread, 1, 0, 0) != LUA_OK) lua_pop(t->thread, 1);
  t->slow_stamp = atomic_load_explicit(&t->worker->events->slow_stamp, memory_order_relaxed);
}

static void begin_block(struct task_context *t) {
  const struct worker_claim *claim = &t->worker->claim;
  const void *data;
  if (claim->kind == BOARD_INDEXED) return;
  data = arena_at(t->worker->arena, claim->block_offset, claim->block_length);
  t->block_at = claim->first - claim->block_skip;
  codec_read_begin(t->codec, &t->block, data, data ? claim->block_length : 0);
}

static int run_protected(struct task_context *t) {
  lua_State *T = t->thread;
  struct delivery_frame scope;
  int status;
  lua_settop(T, TOP);
  lua_pushcfunction(T, run_items);
  lua_pushlightuserdata(T, t);
  lua_pushvalue(T, FN);
  lua_pushvalue(T, SEEDER);
  if (t->source.kind == SOURCE_TABLE) lua_rawgeti(T, LUA_REGISTRYINDEX, t->source.reference);
  else lua_pushnil(T);
  delivery_enter(&scope, T);
  status = lua_pcall(T, 4, 0, HANDLER);
  delivery_leave(&scope);
  return status;
}

void task_run(void *context, struct worker *w) {
  struct task_context *t = context;
  const uint64_t end = w->claim.first + w->claim.count;
  int status;
  set_budget(t, w->claim.memory_bytes);
  status = get_function(t);
  t->next = w->claim.first;
  t->is_refused = 0;
  t->item_began_ns = 0;
  begin_times(t);
  if (status != LUA_OK) fail_item(t, status);
  begin_block(t);
  while (status == LUA_OK && t->next < end && !worker_is_stopped(w) && !interrupt_external()) {
    int run_status = run_protected(t);
    if (t->next == end) break; /* an interrupt hit the very end */
    if (run_status == LUA_OK && !t->is_refused) continue;
    fail_item(t, run_status);
    if (!(w->claim.flags & BOARD_GO_ON)) break;
  }
  if (w->events) {
    look_at_times(t);
    name_slow_items(t);
  }
  worker_close_frame(w);
  if (t->next < end) worker_send(w, WORKER_DROPPED, t->next, (uint32_t)(end - t->next > UINT32_MAX ? UINT32_MAX : end - t->next), NULL, 0);
  lua_settop(t->thread, TOP);
  collect_large(t);
  (void)settle_interrupts();
}
