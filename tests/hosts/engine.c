/* A program with Lua inside, in C: each word is one way to use luapool.h. For tests/test_embed.lua: `engine WORD [start method]`. */
#include <fcntl.h>
#include <lauxlib.h>
#include <lualib.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "luapool.h"

#define DEFAULTS {.size = sizeof(luapool_options)} /* a host in C++ or C90 clears it */

static const char *start = "auto";

static void fail(lua_State *L, const char *what) {
  fprintf(stderr, "%s: %s\n", what, L ? luaL_tolstring(L, -1, NULL) : "");
  exit(1);
}

static lua_State *new_state(void) {
  lua_State *L = luaL_newstate();
  luaL_openlibs(L);
  return L;
}

static luapool *open_pool(lua_State *L, int workers) {
  luapool_options options = DEFAULTS;
  luapool *p;
  options.workers = workers;
  options.start = start;
  options.grace = 0.5;
  if (luapool_open(L, &options, &p) != LUAPOOL_OK) fail(L, "luapool_open");
  return p;
}

static void load(lua_State *L, const char *code) {
  if (luaL_loadstring(L, code) != LUA_OK) fail(L, "load");
}

/* The sum of what a map over 1 .. n gives. */
static double sum_of(lua_State *L, luapool *p, const char *code, int n) {
  double sum = 0;
  load(L, code);
  lua_pushinteger(L, n);
  if (luapool_run(L, p, "map", 2, 1) != LUAPOOL_OK) fail(L, "luapool_run");
  for (int i = 1; i <= n; i++) {
    lua_rawgeti(L, -1, i);
    sum += lua_tonumber(L, -1);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  return sum;
}

/* ---- words ---- */

static void word_run(void) {
  lua_State *L = new_state();
  luapool *p = open_pool(L, 2);
  int top = lua_gettop(L), status;
  printf("%s %d %d\n", luapool_version(), luapool_version_number() == LUAPOOL_VERSION_NUMBER, strcmp(luapool_version(), LUAPOOL_VERSION));
  printf("%g\n", sum_of(L, p, "local x = ... return x * x", 100));
  load(L, "local x = ... if x == 2 then error('task ' .. x, 0) end");
  lua_pushinteger(L, 3);
  status = luapool_run(L, p, "map", 2, LUA_MULTRET);
  lua_getfield(L, -1, "message");
  printf("%d %s %d\n", status == LUAPOOL_ERROR, lua_tostring(L, -1), lua_gettop(L) - top);
  lua_settop(L, top);
  load(L, "return ..., 2, 3");
  lua_pushinteger(L, 1);
  status = luapool_run(L, p, "apply", 2, LUA_MULTRET);
  printf("%d %d\n", status, lua_gettop(L) - top);
  lua_settop(L, top);
  status = luapool_run(L, p, "nonsense", 0, 0);
  printf("%d %s\n", status == LUAPOOL_ERROR, lua_tostring(L, -1));
  lua_settop(L, top);
  luapool_push(L, p);
  lua_setglobal(L, "p");
  if (luaL_dostring(L, "return p:reduce(function(a, b) return a + b end, 10, 0)") != LUA_OK) fail(L, "script");
  printf("%g\n", lua_tonumber(L, -1));
  lua_settop(L, top);
  printf("%d\n", luapool_close(L, p, -1));
  lua_close(L);
}

/* What this build has; what it has not says so. */
static void word_features(void) {
  static const char *const names[] = {"journal", "trace", "progress", "early", "exceptions", "nonsense"};
  lua_State *L = new_state();
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) printf("%s %d\n", names[i], luapool_has(names[i]));
  if (!luapool_has("early")) {
    printf("%d ", luapool_init_early(L));
    printf("%s %d\n", lua_tostring(L, -1), lua_gettop(L));
  }
  lua_close(L);
}

static void word_options(void) {
  int status;
  lua_State *L = new_state();
  luapool_options options = DEFAULTS;
  luapool *p;
  options.start = "thread";
  status = luapool_open(L, &options, &p);
  printf("%d %d\n", status == LUAPOOL_ERROR, p == NULL);
  printf("%s\n", lua_tostring(L, -1));
  options.start = NULL;
  lua_newtable(L);
  lua_pushstring(L, "collect");
  lua_setfield(L, -2, "errors");
  options.more = lua_gettop(L);
  options.workers = 1;
  if (luapool_open(L, &options, &p) != LUAPOOL_OK) fail(L, "luapool_open");
  load(L, "error 'x'");
  lua_pushinteger(L, 2);
  status = luapool_run(L, p, "map", 2, 3);
  printf("%d %d\n", status, lua_istable(L, -1));
  luapool_terminate(L, p, -1);
  if (luapool_open(L, NULL, &p) != LUAPOOL_OK) fail(L, "luapool_open");
  printf("%g\n", sum_of(L, p, "return ...", 3));
  lua_close(L);
}

/* A loop around poll: no waiting anywhere else. */
static void word_jobs(void) {
  lua_State *L = new_state();
  luapool *p = open_pool(L, 2);
  luapool_job *jobs[3];
  int done = 0, top = lua_gettop(L);
  struct pollfd fd;
  load(L, "local t = os.clock() while os.clock() < t + 0.1 do end return ..., 'yes'");
  lua_pushinteger(L, 7);
  if (luapool_submit(L, p, 2, &jobs[0]) != LUAPOOL_OK) fail(L, "luapool_submit");
  load(L, "error 'failed'");
  if (luapool_submit(L, p, 1, &jobs[1]) != LUAPOOL_OK) fail(L, "luapool_submit");
  load(L, "return 2 * ...");
  lua_pushinteger(L, 1000);
  if (luapool_begin(L, p, 2, &jobs[2]) != LUAPOOL_OK) fail(L, "luapool_begin");
  printf("%d %d\n", luapool_result(L, jobs[0], 0, 2) == LUAPOOL_PENDING, lua_gettop(L) - top);
  fd.fd = luapool_fd(p);
  fd.events = POLLIN;
  while (done != 7) {
    if (poll(&fd, 1, 20000) <= 0) fail(NULL, "nothing happens");
    if (luapool_step(L, p, 1000) == LUAPOOL_ERROR) fail(L, "luapool_step");
    for (int i = 0; i < 3; i++)
      if (luapool_is_done(jobs[i])) done |= 1 << i;
  }
  printf("%d %d\n", luapool_step(L, p, 0), luapool_poll(p));
  if (luapool_result(L, jobs[0], 0, 2) != LUAPOOL_OK) fail(L, "luapool_result");
  printf("%d %s\n", (int)lua_tointeger(L, -2), lua_tostring(L, -1));
  printf("%d\n", luapool_result(L, jobs[1], 0, 1) == LUAPOOL_ERROR);
  printf("%s\n", luaL_tolstring(L, -1, NULL));
  lua_settop(L, top);
  if (luapool_result(L, jobs[2], -1, 2) != LUAPOOL_OK) fail(L, "luapool_result");
  lua_rawgeti(L, -2, 1000);
  printf("%d %d\n", (int)lua_tointeger(L, -1), (int)lua_tointeger(L, -2));
  lua_settop(L, top);
  for (int i = 0; i < 3; i++) luapool_forget(L, jobs[i]);
  load(L, "while true do end");
  if (luapool_submit(L, p, 1, &jobs[0]) != LUAPOOL_OK) fail(L, "luapool_submit");
  printf("%d", luapool_cancel(L, jobs[0]));
  printf(" %d\n", luapool_result(L, jobs[0], -1, 1) == LUAPOOL_ERROR);
  lua_getfield(L, -1, "kind");
  printf("%s %d\n", lua_tostring(L, -1), luapool_cancel(L, jobs[0]));
  printf("%d\n", luapool_terminate(L, p, 0.2));
  lua_close(L);
}

/* The state goes first; jobs run; the pool was never closed. */
static void word_close(void) {
  lua_State *L = new_state();
  luapool *p = open_pool(L, 2), *q = open_pool(L, 1);
  luapool_job *job;
  load(L, "while true do end");
  if (luapool_submit(L, p, 1, &job) != LUAPOOL_OK) fail(L, "luapool_submit");
  (void)sum_of(L, q, "return ...", 10);
  lua_close(L);
  printf("%d\n", waitpid(-1, NULL, WNOHANG) < 0);
}

static void on_alarm(int signo) {
  (void)signo;
  luapool_interrupt();
}

static void word_interrupt(void) {
  lua_State *L = new_state();
  luapool *p = open_pool(L, 2);
  for (int i = 0; i < 2; i++) {
    int top = lua_gettop(L), status;
    signal(SIGALRM, on_alarm);
    alarm(1);
    load(L, "while true do end");
    lua_pushinteger(L, 4);
    status = luapool_run(L, p, "map", 2, 0);
    printf("%d %s\n", status == LUAPOOL_ERROR, luaL_tolstring(L, -1, NULL));
    lua_settop(L, top);
  }
  printf("%g\n", sum_of(L, p, "return ...", 10));
  printf("%d\n", luapool_close(L, p, -1));
  lua_close(L);
}

static void log_text(void *context, const char *text) {
  printf("%s: %s\n", (const char *)context, text);
}

static void word_log(void) {
  lua_State *L = new_state();
  luapool_options options = DEFAULTS;
  luapool *p;
  options.workers = 1;
  options.start = start;
  options.log = log_text;
  options.log_context = (void *)(uintptr_t) "log";
  if (luaL_dostring(L, "return { on_exit = function() error('on the way out', 0) end }")) fail(L, "options");
  options.more = lua_gettop(L);
  if (luapool_open(L, &options, &p) != LUAPOOL_OK) fail(L, "luapool_open");
  (void)sum_of(L, p, "return ...", 3);
  printf("%d\n", luapool_close(L, p, -1));
  lua_close(L);
}

/* ---- a host that reaps whatever dies ---- */

static volatile sig_atomic_t reaped;

static void reap_all(int signo) {
  (void)signo;
  while (waitpid(-1, NULL, WNOHANG) > 0) reaped++;
}

static void word_reaper(void) {
  lua_State *L;
  struct sigaction action, after;
  memset(&action, 0, sizeof action);
  action.sa_handler = strcmp(start, "ignore") == 0 ? SIG_IGN : reap_all;
  if (action.sa_handler == SIG_IGN) start = "server";
  sigaction(SIGCHLD, &action, NULL);
  L = new_state();
  luapool *p = open_pool(L, 2);
  for (int i = 0; i < 3; i++) {
    load(L, "if ... == 3 then os.exit(5) end return ...");
    lua_pushinteger(L, 20);
    if (luapool_run(L, p, "map", 2, 0) != LUAPOOL_ERROR) fail(NULL, "no crash");
    lua_getfield(L, -1, "kind");
    printf("%s ", lua_tostring(L, -1));
    lua_getfield(L, -2, "exitcode");
    printf("%s\n", lua_isnil(L, -1) ? "?" : lua_tostring(L, -1));
    lua_settop(L, 0);
    printf("%g\n", sum_of(L, p, "return ...", 10));
  }
  printf("%d\n", luapool_close(L, p, -1));
  sigaction(SIGCHLD, NULL, &after);
  printf("%d\n", after.sa_handler == action.sa_handler);
  lua_close(L);
}

/* ---- threads, and an allocator with a lock ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static volatile int is_over;

static void *locked_allocate(void *context, void *block, size_t old_size, size_t new_size) {
  void *result = NULL;
  (void)context, (void)old_size;
  pthread_mutex_lock(&lock);
  if (new_size == 0) free(block);
  else result = realloc(block, new_size);
  pthread_mutex_unlock(&lock);
  return result;
}

static void *allocate_much(void *unused) {
  void *block = NULL;
  while (!is_over) block = locked_allocate(NULL, block, 0, 16 + (size_t)rand() % 1000);
  locked_allocate(NULL, block, 0, 0);
  return unused;
}

static void word_threads(void) {
  pthread_t threads[3];
  lua_State *L;
  luapool *p;
  int status;
  for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, allocate_much, NULL);
  L = lua_newstate(locked_allocate, NULL);
  luaL_openlibs(L);
  start = "fork";
  p = open_pool(L, 2);
  load(L, "return ...");
  lua_pushinteger(L, 3);
  status = luapool_run(L, p, "map", 2, 0);
  printf("%d %s\n", status == LUAPOOL_ERROR, lua_tostring(L, -1));
  lua_settop(L, 0);
  luapool_close(L, p, -1);
  start = "auto";
  for (int i = 0; i < 10; i++) {
    p = open_pool(L, 2);
    if (sum_of(L, p, "return ...", 100) != 5050) fail(NULL, "sum");
    luapool_close(L, p, -1);
  }
  luapool_open(L, NULL, &p);
  luapool_run(L, p, "stats", 0, 1);
  lua_getfield(L, -1, "start");
  printf("%s\n", lua_tostring(L, -1));
  is_over = 1;
  for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
  lua_close(L);
}

/* Each thread its own state, each state its own pool, all at once. */
static void *use_own_pool(void *out) {
  lua_State *L = new_state();
  for (int i = 0; i < 5; i++) {
    luapool *p = open_pool(L, 2);
    *(double *)out += sum_of(L, p, "local x = ... return x + 1", 200);
    luapool_close(L, p, -1);
  }
  lua_close(L);
  return NULL;
}

static void word_states(void) {
  pthread_t threads[4];
  double sums[4] = {0};
  start = "server";
  for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, use_own_pool, &sums[i]);
  for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
  for (int i = 0; i < 4; i++) printf("%g\n", sums[i]);
}

/* ---- a state with no more than the library needs ---- */

static void word_sandbox(void) {
  lua_State *L = luaL_newstate();
  luapool *p;
  luaL_requiref(L, LUA_GNAME, luaopen_base, 1);
  luaL_requiref(L, LUA_MATHLIBNAME, luaopen_math, 1);
  luaL_requiref(L, LUA_TABLIBNAME, luaopen_table, 1);
  luaL_requiref(L, LUA_STRLIBNAME, luaopen_string, 1);
  lua_settop(L, 0);
  p = open_pool(L, 2);
  if (luaL_dostring(L, "local a, b = 3, { 4 } return function(x) return math.abs(-x) * a + b[1] end")) fail(L, "script");
  lua_pushinteger(L, 5);
  if (luapool_run(L, p, "map", 2, 1) != LUAPOOL_OK) fail(L, "luapool_run");
  for (int i = 1; i <= 5; i++) printf("%d ", (lua_rawgeti(L, -1, i), (int)lua_tointeger(L, -1))), lua_pop(L, 1);
  load(L, "local n = '' for _, name in ipairs { 'math', 'io', 'os', 'string', 'require', 'debug' } do "
          "n = n .. (_G[name] and 'y' or 'n') end return n");
  if (luapool_run(L, p, "apply", 1, 1) != LUAPOOL_OK) fail(L, "luapool_run");
  printf("%s\n", lua_tostring(L, -1));
  load(L, "error({ 1 })");
  lua_pushinteger(L, 1);
  printf("%d\n", luapool_run(L, p, "map", 2, 0) == LUAPOOL_ERROR);
  printf("%d\n", luapool_close(L, p, -1));
  lua_close(L);
}

/* ---- its own helper ---- */

static int engine_add(lua_State *L) {
  lua_pushnumber(L, luaL_checknumber(L, 1) + luaL_checknumber(L, 2));
  return 1;
}

static int open_engine(lua_State *L) {
  lua_newtable(L);
  lua_pushcfunction(L, engine_add);
  lua_setfield(L, -2, "add");
  lua_setglobal(L, "engine");
  return 0;
}

static int open_none(lua_State *L) {
  return luaL_error(L, "no engine today");
}

static void word_own(void) {
  lua_State *L = new_state();
  luapool_options options = DEFAULTS;
  luapool *p;
  options.workers = 2;
  options.start = start;
  options.helper = "/proc/self/exe";
  if (luapool_open(L, &options, &p) != LUAPOOL_OK) fail(L, "luapool_open");
  load(L, "return engine.add(..., 0.5)");
  lua_pushinteger(L, 3);
  if (luapool_run(L, p, "map", 2, 1) != LUAPOOL_OK) {
    printf("%s\n", luaL_tolstring(L, -1, NULL));
  } else {
    printf("%g\n", (lua_rawgeti(L, -1, 3), lua_tonumber(L, -1)));
  }
  luapool_terminate(L, p, -1);
  lua_close(L);
}

/* ---- an early start ---- */

typedef struct unit {
  int strength;
} unit;

static int unit_strength(lua_State *L) {
  lua_pushinteger(L, ((unit *)luaL_checkudata(L, 1, "engine.unit"))->strength);
  return 1;
}

static int new_unit(lua_State *L) {
  unit *u = lua_newuserdatauv(L, sizeof *u, 0);
  u->strength = (int)luaL_checkinteger(L, 1);
  if (luaL_newmetatable(L, "engine.unit")) {
    lua_pushcfunction(L, unit_strength);
    lua_setfield(L, -2, "strength");
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
  }
  lua_setmetatable(L, -2);
  return 1;
}

static int program_memory; /* written before the early start, and after it */

static int peek(lua_State *L) {
  lua_pushinteger(L, program_memory);
  return 1;
}

static int open_module(lua_State *L) {
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, peek);
  lua_setfield(L, -2, "peek");
  return 1;
}

static void run_script(lua_State *L, const char *code) {
  if (luaL_dostring(L, code) != LUA_OK) fail(L, "script");
}

/*
 * A state of an engine's: a global table of C functions, a C function of its own, userdata as a global and hidden in a closure, a module.
 */
static lua_State *engine_state(void) {
  lua_State *L = lua_newstate(locked_allocate, NULL);
  luaL_openlibs(L);
  open_engine(L);
  lua_register(L, "new_unit", new_unit);
  luaL_requiref(L, "engine.memory", open_module, 0);
  lua_settop(L, 0);
  run_script(L, "hero = new_unit(40); local hidden = new_unit(2); function both() return hero:strength() + hidden:strength() end");
  return L;
}

static int count_fds(void) {
  int n = 0;
  for (int fd = 0; fd < 256; fd++) n += fcntl(fd, F_GETFD) >= 0;
  return n;
}

static pthread_t early_threads[3];

static void start_threads(void) {
  is_over = 0;
  for (int i = 0; i < 3; i++) pthread_create(&early_threads[i], NULL, allocate_much, NULL);
}

static void end_threads(void) {
  is_over = 1;
  for (int i = 0; i < 3; i++) pthread_join(early_threads[i], NULL);
}

static void print_start(lua_State *L, luapool *p) {
  if (luapool_run(L, p, "stats", 0, 1) != LUAPOOL_OK) fail(L, "stats");
  lua_getfield(L, -1, "start");
  printf("%s\n", lua_tostring(L, -1));
  lua_settop(L, 0);
}

static void print_error(lua_State *L, int status) {
  printf("%d %s\n", status == LUAPOOL_ERROR, luaL_tolstring(L, -1, NULL));
  lua_settop(L, 0);
}

static void word_early(void) {
  lua_State *L, *late = new_state();
  luapool *p = open_pool(late, 1), *q; /* (the bell of interrupts is the process's, and stays) */
  int n_fds;
  lua_close(late);
  n_fds = count_fds();
  L = engine_state();
  program_memory = 7;
  printf("%d", luapool_init_early(L));
  printf(" %d\n", luapool_init_early(L));
  program_memory = 8;
  start_threads();
  late = new_state();
  print_error(late, luapool_init_early(late));
  lua_close(late);
  p = open_pool(L, 2);
  print_start(L, p);
  printf("%g\n", sum_of(L, p, "return engine.add(..., 0.5)", 100));
  printf("%g\n", sum_of(L, p, "return both() + require 'engine.memory'.peek()", 10));
  run_script(L, "local unit, add = hero, engine.add bonus = 100 return function(n) return add(unit:strength(), bonus) + n end");
  lua_pushinteger(L, 2);
  if (luapool_run(L, p, "map", 2, 1) != LUAPOOL_OK) fail(L, "luapool_run");
  printf("%g\n", (lua_rawgeti(L, -1, 2), lua_tonumber(L, -1)));
  lua_settop(L, 0);
  run_script(L, "local newcomer = new_unit(1) return function() return newcomer:strength() end");
  lua_pushinteger(L, 1);
  print_error(L, luapool_run(L, p, "map", 2, 1));
  load(L, "os.exit(5)");
  lua_pushinteger(L, 1);
  if (luapool_run(L, p, "map", 2, 0) != LUAPOOL_ERROR) fail(NULL, "no crash");
  lua_getfield(L, -1, "kind");
  lua_getfield(L, -2, "exitcode");
  printf("%s %d\n", lua_tostring(L, -2), (int)lua_tointeger(L, -1));
  lua_settop(L, 0);
  q = open_pool(L, 3); /* two pools of one copy */
  printf("%g %g\n", sum_of(L, q, "return new_unit(...):strength()", 10), sum_of(L, p, "return ...", 10));
  printf("%d\n", luapool_close(L, p, -1));
  lua_close(L); /* with a pool in it */
  end_threads();
  printf("%d %d\n", waitpid(-1, NULL, WNOHANG) < 0, count_fds() - n_fds);
}

static void *use_early(void *state) {
  lua_State *L = state;
  for (int i = 0; i < 5; i++) {
    luapool *p = open_pool(L, 2);
    lua_getglobal(L, "total");
    lua_pushnumber(L, lua_tonumber(L, -1) + sum_of(L, p, "return hero:strength() + ...", 20));
    lua_setglobal(L, "total");
    lua_settop(L, 0);
    luapool_close(L, p, -1);
  }
  return NULL;
}

static void word_early_states(void) {
  lua_State *states[3];
  pthread_t threads[3];
  for (int i = 0; i < 3; i++) {
    states[i] = engine_state();
    if (luapool_init_early(states[i]) != LUAPOOL_OK) fail(states[i], "luapool_init_early");
  }
  for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, use_early, states[i]);
  for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
  for (int i = 0; i < 3; i++) {
    lua_getglobal(states[i], "total");
    printf("%g\n", lua_tonumber(states[i], -1));
    lua_close(states[i]);
  }
  printf("%d\n", waitpid(-1, NULL, WNOHANG) < 0);
}

/* The program is killed while tasks run. */
static void word_early_killed(void) {
  lua_State *L = engine_state();
  luapool_job *job;
  luapool *p;
  if (luapool_init_early(L) != LUAPOOL_OK) fail(L, "luapool_init_early");
  start_threads();
  p = open_pool(L, 2);
  (void)sum_of(L, p, "return ...", 10);
  load(L, "while true do end");
  if (luapool_submit(L, p, 1, &job) != LUAPOOL_OK) fail(L, "luapool_submit");
  puts("working");
  raise(SIGKILL);
}

/* Somebody kills the copy. */
static void word_early_lost(void) {
  lua_State *L = engine_state();
  luapool *p;
  FILE *children;
  int pid = 0;
  if (luapool_init_early(L) != LUAPOOL_OK) fail(L, "luapool_init_early");
  children = fopen("/proc/thread-self/children", "r");
  if (children == NULL || fscanf(children, "%d", &pid) != 1) fail(NULL, "no child");
  fclose(children);
  start_threads();
  p = open_pool(L, 2);
  printf("%g\n", sum_of(L, p, "return ...", 10));
  kill(pid, SIGKILL);
  load(L, "local t = os.clock() while os.clock() < t + 0.2 do end os.exit(5)");
  lua_pushinteger(L, 8);
  if (luapool_run(L, p, "map", 2, 0) != LUAPOOL_ERROR) fail(NULL, "no error");
  lua_settop(L, 0);
  load(L, "return 1");
  lua_pushinteger(L, 8);
  print_error(L, luapool_run(L, p, "map", 2, 0));
  luapool_terminate(L, p, 0.2);
  start = "fork";
  p = open_pool(L, 2);
  load(L, "return 1");
  lua_pushinteger(L, 8);
  print_error(L, luapool_run(L, p, "map", 2, 0));
  start = "auto";
  p = open_pool(L, 2);
  print_start(L, p);
  printf("%g\n", sum_of(L, p, "return ...", 10));
  end_threads();
  lua_close(L);
  printf("%d\n", waitpid(-1, NULL, WNOHANG) < 0);
}

/* ---- what is open here is not open there ---- */

static void use_descriptors(const char *kept, int is_early) {
  lua_State *L = new_state();
  luapool_options options = DEFAULTS;
  luapool *p;
  int fd = open("/etc/passwd", O_RDONLY); /* not CLOEXEC */
  options.workers = 1;
  options.start = start;
  options.descriptors = kept;
  if (is_early && luapool_init_early(L) != LUAPOOL_OK) fail(L, "luapool_init_early");
  if (luapool_open(L, &options, &p) != LUAPOOL_OK) fail(L, "luapool_open");
  /* (some pass while they are listed; standard input does not) */
  load(L, "local f <close> = io.popen('ls -l /proc/' .. package.loaded.luapool.worker.pid .. '/fd 2> /dev/null') return f:read 'a'");
  if (luapool_run(L, p, "apply", 1, 1) != LUAPOOL_OK) fail(L, "luapool_run");
  if (strstr(lua_tostring(L, -1), "/dev/null") == NULL) fail(NULL, lua_tostring(L, -1));
  printf("%d\n", strstr(lua_tostring(L, -1), "passwd") != NULL);
  luapool_close(L, p, -1);
  close(fd);
  lua_close(L);
}

static void word_descriptors(void) {
  use_descriptors(NULL, 0);
}

static void word_descriptors_kept(void) {
  use_descriptors("keep", 0);
}

static void word_descriptors_early(void) {
  use_descriptors("keep", 1);
}

/* ---- who has the processor first ---- */

/* Niceness and policy of a worker, as /proc tells them; or the error. */
static void print_priority(lua_State *L, int nice) {
  static const char code[] =
    "local f <close> = assert(io.open '/proc/self/stat') local fields = {}\n"
    "for word in f:read('a'):gsub('^.*%)', '2'):gmatch '%S+' do fields[#fields + 1] = word end\n"
    "return fields[18], fields[40]";
  luapool_options options = DEFAULTS;
  luapool *p;
  options.workers = 1;
  options.start = start;
  options.nice = nice;
  if (luapool_open(L, &options, &p) != LUAPOOL_OK) {
    printf("%s\n", lua_tostring(L, -1));
    lua_pop(L, 1);
    return;
  }
  load(L, code);
  if (luapool_run(L, p, "apply", 1, 2) != LUAPOOL_OK) fail(L, "luapool_run");
  printf("%s %s\n", lua_tostring(L, -2), lua_tostring(L, -1));
  lua_pop(L, 2);
  luapool_close(L, p, -1);
}

static void word_nice(void) {
  static const int values[] = {0, 3, LUAPOOL_IDLE, -1, 21};
  lua_State *L = new_state();
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) print_priority(L, values[i]);
  lua_close(L);
}

int main(int argc, char **argv) {
  static const struct { const char *name; void (*run)(void); } words[] = {
    {"run", word_run}, {"options", word_options}, {"jobs", word_jobs}, {"close", word_close}, {"interrupt", word_interrupt},
    {"log", word_log}, {"features", word_features},
    {"reaper", word_reaper}, {"threads", word_threads}, {"states", word_states}, {"sandbox", word_sandbox}, {"own", word_own},
    {"descriptors", word_descriptors}, {"descriptors_kept", word_descriptors_kept}, {"descriptors_early", word_descriptors_early},
    {"early", word_early}, {"early_states", word_early_states}, {"early_killed", word_early_killed},
    {"early_lost", word_early_lost}, {"nice", word_nice}};
  luapool_worker_options worker = {.size = sizeof worker, .open_worker = getenv("NO_ENGINE") ? open_none : open_engine};
  int status = luapool_worker_main(argc, argv, &worker);
  if (status >= 0) return status;
  if (argc > 2) start = argv[2];
  setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
  for (size_t i = 0; argc > 1 && i < sizeof words / sizeof *words; i++)
    if (strcmp(words[i].name, argv[1]) == 0) return words[i].run(), 0;
  fprintf(stderr, "usage: engine WORD [start method]\n");
  return 2;
}
