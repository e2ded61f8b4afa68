/*
 * job/task_job -- the function and the source of a claim: those that the worker inherited, or what input memory says. See task_parts.h (may
 * include job/task_parts.h and job/array.h).
 */
#include "job/task_parts.h"

#include <errno.h>
#include <lauxlib.h>
#include <string.h>

#include "job/array.h"

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
  if (data == NULL && claim->job_length) luaL_error(T, "not enough memory: what holds the function cannot be mapped");
  if (data == NULL) luaL_error(T, "the function did not reach the worker");
  codec_read_begin(t->codec, &reader, data, claim->job_length);
  memset(&t->source, 0, sizeof t->source);
  if (codec_read(t->codec, T, &reader) != 0 || read_classes(t, T, &reader) != 0 || read_places(t, T, &reader) != 0)
    luaL_error(T, "%s", codec_message(t->codec));
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

int task_get_function(struct task_context *t) {
  lua_State *T = t->thread;
  int status;
  lua_settop(T, TASK_TOP);
  if (t->loaded_job == t->worker->claim.job) return LUA_OK;
  t->loaded_job = 0;
  lua_pushcfunction(T, load_job);
  lua_pushlightuserdata(T, t);
  status = lua_pcall(T, 1, 1, TASK_HANDLER);
  if (status == LUA_OK) lua_replace(T, TASK_FN);
  return status;
}
