/* binding/learly -- see learly.h. */
#include "binding/learly.h"

#include <lauxlib.h>
#include <string.h>
#include <unistd.h>

#include "base/os.h"
#include "job/early.h"
#include "job/task.h"
#include "pool/recruit.h"
#include "process/process.h"
#include "process/server.h"

#define EARLY "luapool.early"
#define EARLY_TYPE "luapool.early_start"

enum { MAP = 1 /* user value: what early_note made */ };

struct early {
  struct server server;
  pid_t owner; /* the process that made the copy; 0: there is none yet */
};

/* What the copy is, as long as it lives. */
struct copy {
  struct recruit recruit; /* the first: it is the context of its functions */
  struct task_context tasks;
};

static int early_gc(lua_State *L) {
  struct early *e = lua_touserdata(L, 1);
  if (e->owner == getpid()) server_close(&e->server);
  else server_abandon(&e->server);
  e->owner = 0;
  return 0;
}

static struct early *push_early(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, EARLY);
  return luaL_testudata(L, -1, EARLY_TYPE);
}

/* Is it this process's, and there? It says that it has gone by closing the socket. */
static int is_there(struct early *e) {
  if (e == NULL || e->owner != getpid() || !server_is_open(&e->server)) return 0;
  e->server.witness.listen(&e->server.witness);
  return server_is_open(&e->server);
}

struct server *learly_find(lua_State *L) {
  struct early *e = push_early(L);
  if (!is_there(e)) {
    lua_pop(L, 1);
    return NULL;
  }
  lua_getiuservalue(L, -1, MAP);
  lua_remove(L, -2);
  return &e->server;
}

/* The userdata comes first, so that whatever raises later leaks nothing. */
static struct early *new_early(lua_State *L) {
  struct early *e = lua_newuserdatauv(L, sizeof *e, MAP);
  memset(e, 0, sizeof *e);
  server_init(&e->server);
  if (luaL_newmetatable(L, EARLY_TYPE)) {
    lua_pushcfunction(L, early_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  return e;
}

static int refuse(void *context, const void *config, size_t length, char *text, size_t capacity) {
  (void)context, (void)config, (void)length;
  strncpy(text, "is a copy of the program, which is not configured", capacity - 1);
  return -1;
}

/* (copy). Protected. */
static int furnish(lua_State *L) {
  struct copy *c = lua_touserdata(L, 1);
  task_furnish(L, &c->tasks);
  return 0;
}

/* Without the collector: it would run finalizers of the program's. What cannot be made here, each worker makes itself. */
static void settle(void *context) {
  struct copy *c = context;
  lua_State *L = c->tasks.L;
  int is_running = lua_gc(L, LUA_GCISRUNNING);
  if (!lua_checkstack(L, LUA_MINSTACK)) return;
  lua_gc(L, LUA_GCSTOP);
  lua_pushcfunction(L, furnish);
  lua_pushlightuserdata(L, c);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) lua_pop(L, 1);
  if (is_running == 1) lua_gc(L, LUA_GCRESTART);
}

static int early_start(lua_State *L) {
  static struct copy copy; /* found again in the copy, and in every worker */
  const struct server_work work = {&copy, refuse, recruit_prepare, recruit_run, recruit_release, settle};
  struct early *e = push_early(L);
  int status;
  if (is_there(e)) return 0;
  if (process_is_child()) luaL_error(L, "there is no early start inside a task");
  if (os_has_threads()) luaL_error(L, "it is too late for an early start: this process has %d threads", os_threads());
  e = new_early(L);
  early_note(L);
  lua_setiuservalue(L, -2, MAP);
  memset(&copy, 0, sizeof copy);
  copy.tasks.L = task_main_thread(L);
  copy.tasks.on_start = copy.tasks.on_exit = LUA_NOREF;
  copy.recruit.tasks = (struct worker_tasks){&copy.tasks, task_start, task_run, task_finish};
  e->owner = getpid();
  status = server_fork(&e->server, &work);
  early_forget(L);
  if (status < 0) luaL_error(L, "cannot fork the early copy of this process: %s", strerror(-status));
  lua_setfield(L, LUA_REGISTRYINDEX, EARLY);
  return 0;
}

void learly_open(lua_State *L) {
  lua_pushcfunction(L, early_start);
  lua_setfield(L, -2, "early_start");
}
