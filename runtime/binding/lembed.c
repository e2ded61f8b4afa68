/*
 * binding/lembed -- luapool.h for C programs: pools and futures as handles, and every call of theirs protected.
 *
 * Room: binding (may include binding/lcall.h, binding/features.h, binding/lerror.h, binding/lluapool.h and binding/lpool.h).
 * Owns: nothing. A handle is a userdata that the registry keeps under its own address, with the object of the module as its user value:
 * it goes with the state at the latest.
 * Each function prepares a record on the C stack and runs its body under lua_pcall, in a run scope: so an interrupt is an error in it.
 */
#include "luapool.h"

#include <lauxlib.h>
#include <string.h>

#include "base/os.h"
#include "binding/lcall.h"
#include "binding/features.h"
#include "binding/lerror.h"
#include "binding/lluapool.h"
#include "binding/lpool.h"
#include "job/delivery.h"
#include "process/interrupt.h"

struct luapool {
  struct lpool *lp; /* NULL: the pool runs inline, or has been closed */
};

struct luapool_job {
  struct luapool *pool;
  const struct call *call; /* NULL: it was over when it was begun */
};

const char *luapool_version(void) {
  return LUAPOOL_VERSION;
}

int luapool_version_number(void) {
  return LUAPOOL_VERSION_NUMBER;
}

void luapool_interrupt(void) {
  interrupt_post();
}

/* ---- protected bodies ---- */

/* What a body is told and tells. */
struct request {
  struct luapool *pool;
  struct luapool_job *job;
  const luapool_options *options;
  const char *verb;
  double seconds;
  long budget_us;
  int is_pending;
};

/*
 * Run body(record, arguments ...) with the n values on top as its arguments. LUAPOOL_OK with n_results on the stack, or LUAPOOL_ERROR with
 * the error.
 */
static int run(lua_State *L, lua_CFunction body, struct request *request, int n, int n_results) {
  struct delivery_frame scope;
  int status;
  if (!lua_checkstack(L, 8)) return LUAPOOL_NOMEM;
  lua_pushcfunction(L, body); /* (neither allocates) */
  lua_pushlightuserdata(L, request);
  lua_rotate(L, -(n + 2), 2);
  delivery_enter(&scope, L);
  status = lua_pcall(L, n + 1, n_results, 0);
  delivery_leave(&scope);
  return status == LUA_OK ? LUAPOOL_OK : LUAPOOL_ERROR;
}

static struct request *request_of(lua_State *L) {
  return lua_touserdata(L, 1);
}

/* Push the object that a handle stands for. */
static void push_object(lua_State *L, const void *handle) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, handle) != LUA_TUSERDATA) luaL_error(L, "the handle is no handle of this state (any more)");
  lua_getiuservalue(L, -1, 1);
  lua_remove(L, -2);
}

/* The object on top gets a handle, which is returned; the object is popped. User value 2: what else must live as long (see find_pool). */
static void *make_handle(lua_State *L, size_t size) {
  void *handle = lua_newuserdatauv(L, size, 2);
  memset(handle, 0, size);
  lua_insert(L, -2);
  lua_setiuservalue(L, -2, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, handle);
  return handle;
}

static void drop_handle(lua_State *L, const void *handle) {
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, handle);
}

/* (object, arguments from `first` on) -> all results of its method */
static int call_method(lua_State *L, const char *name, int first) {
  int n = lua_gettop(L) - first; /* the object is on top */
  lua_pushvalue(L, -1);
  if (lua_getfield(L, -1, name) != LUA_TFUNCTION) luaL_error(L, "a pool has no method '%s'", name);
  lua_insert(L, first);
  lua_insert(L, first + 1);
  lua_pop(L, 1);
  lua_call(L, n + 1, LUA_MULTRET);
  return lua_gettop(L) - first + 1;
}

/* ---- pools ---- */

static void set_string(lua_State *L, const char *name, const char *value) {
  if (value == NULL) return;
  lua_pushstring(L, value);
  lua_setfield(L, -2, name);
}

static void set_number(lua_State *L, const char *name, double value) {
  if (value == 0) return;
  lua_pushnumber(L, value);
  lua_setfield(L, -2, name);
}

static void set_integer(lua_State *L, const char *name, lua_Integer value) {
  if (value == 0) return;
  lua_pushinteger(L, value);
  lua_setfield(L, -2, name);
}

static void set_nice(lua_State *L, int nice) {
  if (nice == LUAPOOL_IDLE) {
    set_string(L, "nice", "idle");
  } else {
    set_integer(L, "nice", nice);
  }
}

/* A table as pool.new wants it; `more` is at index 2, or nil. */
static void push_options(lua_State *L, const luapool_options *given) {
  luapool_options options;
  memset(&options, 0, sizeof options);
  if (given) memcpy(&options, given, given->size < sizeof options ? given->size : sizeof options);
  lua_newtable(L);
  if (lua_istable(L, 2)) {
    lua_pushnil(L);
    while (lua_next(L, 2)) {
      lua_pushvalue(L, -2);
      lua_insert(L, -2);
      lua_settable(L, -4);
    }
  }
  set_integer(L, "workers", options.workers);
  set_string(L, "start", options.start);
  set_string(L, "helper", options.helper);
  set_string(L, "output", options.output);
  if (lua_getfield(L, -1, "descriptors") == LUA_TNIL || options.descriptors) {
    lua_pushstring(L, options.descriptors ? options.descriptors : "close");
    lua_setfield(L, -3, "descriptors");
  }
  lua_pop(L, 1);
  set_nice(L, options.nice);
  set_number(L, "grace", options.grace);
  set_number(L, "timeout", options.timeout);
  set_integer(L, "memory", (lua_Integer)options.memory);
  if (options.log) lerror_set_log(L, options.log, options.log_context);
}

/*
 * Look up the C pool behind the handle's object (NULL: it runs inline). A resize may have put another in its place: this one is kept, so
 * that it is at worst a closed one.
 */
static void find_pool(lua_State *L, struct luapool *p) {
  int top = lua_gettop(L);
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, p) == LUA_TUSERDATA) {
    lua_getiuservalue(L, -1, 1);
    lua_getfield(L, -1, "handle");
    p->lp = luaL_testudata(L, -1, LPOOL_TYPE);
    lua_setiuservalue(L, top + 1, 2);
  }
  lua_settop(L, top);
}

/* (request, more) */
static int open_body(lua_State *L) {
  struct request *request = request_of(L);
  (void)interrupt_open(); /* without its bell an interrupt is seen a little later */
  luaL_requiref(L, "luapool", luaopen_luapool, 0);
  if (lua_getfield(L, -1, "new") != LUA_TFUNCTION) luaL_error(L, "the module has no 'new'");
  push_options(L, request->options);
  lua_call(L, 1, 1);
  request->pool = make_handle(L, sizeof *request->pool);
  find_pool(L, request->pool);
  return 0;
}

int luapool_open(lua_State *L, const luapool_options *options, luapool **out) {
  struct request request = {.options = options};
  int status, more = 0;
  *out = NULL;
  if (!lua_checkstack(L, 2)) return LUAPOOL_NOMEM;
  if (options && options->size >= offsetof(luapool_options, more) + sizeof options->more) more = options->more;
  if (more) {
    lua_pushvalue(L, more);
  } else {
    lua_pushnil(L);
  }
  status = run(L, open_body, &request, 1, 0);
  if (status == LUAPOOL_NOMEM) lua_pop(L, 1);
  if (status == LUAPOOL_OK) *out = request.pool;
  return status;
}

/* (request): the module is opened first, so that the copy has it. */
static int early_body(lua_State *L) {
  luaL_requiref(L, "luapool", luaopen_luapool, 0);
  lua_pop(L, 1);
  features_need(L, "early");
  luapool_push_core(L);
  lua_getfield(L, -1, "early_start");
  lua_call(L, 0, 0);
  return 0;
}

int luapool_init_early(lua_State *L) {
  struct request request = {.budget_us = 0};
  return run(L, early_body, &request, 0, 0);
}

static int push_body(lua_State *L) {
  push_object(L, request_of(L)->pool);
  return 1;
}

int luapool_push(lua_State *L, luapool *p) {
  struct request request = {.pool = p};
  return run(L, push_body, &request, 0, 1);
}

/* (request, arguments ...) */
static int verb_body(lua_State *L) {
  struct request *request = request_of(L);
  int n;
  push_object(L, request->pool);
  n = call_method(L, request->verb, 2);
  find_pool(L, request->pool);
  return n;
}

int luapool_run(lua_State *L, luapool *p, const char *verb, int n_arguments, int n_results) {
  struct request request = {.pool = p, .verb = verb};
  return run(L, verb_body, &request, n_arguments, n_results);
}

/* The future on top becomes a job. */
static void make_job(lua_State *L, struct request *request) {
  const struct call *call;
  if (!lua_istable(L, -1)) luaL_error(L, "'%s' gave no future", request->verb);
  lua_getfield(L, -1, "call");
  call = luaL_testudata(L, -1, LCALL_TYPE);
  lua_pop(L, 1);
  request->job = make_handle(L, sizeof *request->job);
  request->job->pool = request->pool;
  request->job->call = call;
}

static int begin_job_body(lua_State *L) {
  struct request *request = request_of(L);
  push_object(L, request->pool);
  call_method(L, request->verb, 2);
  lua_settop(L, 2);
  make_job(L, request);
  return 0;
}

static int begin_job(lua_State *L, luapool *p, const char *verb, int n_arguments, luapool_job **out) {
  struct request request = {.pool = p, .verb = verb};
  int status = run(L, begin_job_body, &request, n_arguments, 0);
  *out = status == LUAPOOL_OK ? request.job : NULL;
  return status;
}

int luapool_submit(lua_State *L, luapool *p, int n_arguments, luapool_job **out) {
  return begin_job(L, p, "submit", n_arguments, out);
}

int luapool_begin(lua_State *L, luapool *p, int n_arguments, luapool_job **out) {
  return begin_job(L, p, "map_async", n_arguments, out);
}

/* A pool that is there, in the process that made it. */
static struct lpool *usable(const luapool *p) {
  return p->lp && p->lp->pool ? p->lp : NULL;
}

int luapool_poll(luapool *p) {
  struct lpool *lp = usable(p);
  if (lp == NULL) return 0;
  return pool_has_news(lp->pool) || lp->n_ready != lp->n_taken || lp->lazy || lp->ending || pool_is_stale(lp->pool);
}

int luapool_fd(luapool *p) {
  struct lpool *lp = usable(p);
  int fd = lp ? pool_fd(lp->pool) : -1;
  if (fd >= 0) lpump_rest(lp);
  return fd < 0 ? -1 : fd;
}

static int step_body(lua_State *L) {
  struct request *request = request_of(L);
  push_object(L, request->pool);
  lua_pushinteger(L, 0);
  lua_insert(L, -2);
  if (request->budget_us > 0) {
    lua_pushnumber(L, (lua_Number)request->budget_us / 1e6);
    lua_insert(L, -2);
  }
  call_method(L, "step", 2);
  find_pool(L, request->pool);
  request->is_pending = lua_tointeger(L, 2) > 0;
  return 0;
}

int luapool_step(lua_State *L, luapool *p, long budget_us) {
  struct request request = {.pool = p, .budget_us = budget_us};
  int status = run(L, step_body, &request, 0, 0);
  return status == LUAPOOL_OK && request.is_pending ? LUAPOOL_PENDING : status;
}

static int close_body(lua_State *L) {
  struct request *request = request_of(L);
  push_object(L, request->pool);
  if (request->seconds >= 0) {
    lua_pushnumber(L, request->seconds);
    lua_insert(L, -2);
  }
  call_method(L, request->verb, 2);
  request->is_pending = lua_isboolean(L, 2) && !lua_toboolean(L, 2);
  return 0;
}

/* A pool that could not be closed in good order is terminated: its handle is gone, so nobody else could. */
static int end(lua_State *L, luapool *p, const char *verb, double seconds) {
  struct request request = {.pool = p, .verb = verb, .seconds = seconds};
  int status = run(L, close_body, &request, 0, 0);
  if (status == LUAPOOL_OK && request.is_pending) return LUAPOOL_PENDING;
  if (status == LUAPOOL_ERROR && strcmp(verb, "close") == 0) {
    struct request forced = {.pool = p, .verb = "terminate", .seconds = -1};
    if (run(L, close_body, &forced, 0, 0) == LUAPOOL_ERROR) lua_pop(L, 1);
  }
  if (status != LUAPOOL_NOMEM) drop_handle(L, p);
  return status;
}

int luapool_close(lua_State *L, luapool *p, double seconds) {
  return end(L, p, "close", seconds);
}

int luapool_terminate(lua_State *L, luapool *p, double grace) {
  return end(L, p, "terminate", grace);
}

/* ---- jobs ---- */

int luapool_is_done(const luapool_job *job) {
  return job->call == NULL || (job->call->phase != CALL_NEW && job->call->phase != CALL_OPEN);
}

static int result_body(lua_State *L) {
  struct request *request = request_of(L);
  push_object(L, request->job);
  if (request->seconds >= 0) {
    lua_pushnumber(L, request->seconds);
    lua_insert(L, -2);
  }
  return call_method(L, "get", 2);
}

static int wait_body(lua_State *L) {
  struct request *request = request_of(L);
  push_object(L, request->job);
  if (request->seconds >= 0) {
    lua_pushnumber(L, request->seconds);
    lua_insert(L, -2);
  }
  call_method(L, "wait", 2);
  request->is_pending = !lua_toboolean(L, 2);
  return 0;
}

int luapool_result(lua_State *L, luapool_job *job, double seconds, int n_results) {
  struct request request = {.job = job, .seconds = seconds};
  int status = LUAPOOL_OK;
  if (!luapool_is_done(job)) status = run(L, wait_body, &request, 0, 0);
  if (status == LUAPOOL_OK && request.is_pending) return LUAPOOL_PENDING;
  if (status != LUAPOOL_OK) return status;
  request.seconds = -1;
  return run(L, result_body, &request, 0, n_results);
}

static int cancel_body(lua_State *L) {
  push_object(L, request_of(L)->job);
  call_method(L, "cancel", 2);
  return 0;
}

int luapool_cancel(lua_State *L, luapool_job *job) {
  struct request request = {.job = job};
  return luapool_is_done(job) ? LUAPOOL_OK : run(L, cancel_body, &request, 0, 0);
}

void luapool_forget(lua_State *L, luapool_job *job) {
  if (lua_checkstack(L, 1)) drop_handle(L, job);
}
