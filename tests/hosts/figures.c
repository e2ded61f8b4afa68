/*
 * A program with Lua inside that measures what embedding costs it, for tests/bench (make bench BENCH=embed): `figures [MEGABYTES [ROUNDS
 * [FRAMES]]]`. It holds so much touched memory, and prints lines of "name number": times in microseconds, the least and the median of the
 * rounds.
 */
#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "luapool.h"

enum { FURTHER = 8, POLLS = 1000000, FRAME_US = 16667, JOBS = 4, BUDGET_US = 500 };

static void fail(lua_State *L, const char *what) {
  fprintf(stderr, "%s: %s\n", what, L ? luaL_tolstring(L, -1, NULL) : "");
  exit(1);
}

static double now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void print_times(const char *name, double *times, int n) {
  qsort(times, (size_t)n, sizeof *times, compare);
  printf("%s_least %.3f\n%s_median %.3f\n", name, times[0], name, times[n / 2]);
}

static luapool *open_pool(lua_State *L, const char *start, int workers) {
  luapool_options options;
  luapool *p;
  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  options.start = start;
  options.workers = workers;
  if (luapool_open(L, &options, &p) != LUAPOOL_OK) fail(L, "luapool_open");
  return p;
}

static void broadcast(lua_State *L, luapool *p) {
  int top = lua_gettop(L);
  if (luaL_loadstring(L, "return 1") != LUA_OK || luapool_run(L, p, "broadcast", 1, 1) != LUAPOOL_OK) fail(L, "broadcast");
  lua_settop(L, top);
}

/* From nothing to the first result; then eight workers more, all of whom have answered. */
static void measure_start(lua_State *L, const char *start, int rounds) {
  double *first = calloc((size_t)rounds, sizeof *first), *further = calloc((size_t)rounds, sizeof *further);
  char name[64];
  if (first == NULL || further == NULL) fail(NULL, "no memory");
  for (int i = -1; i < rounds; i++) {
    double began = now_us(), then;
    luapool *p = open_pool(L, start, 1);
    broadcast(L, p);
    then = now_us();
    if (i >= 0) first[i] = then - began;
    lua_pushinteger(L, 1 + FURTHER);
    if (luapool_run(L, p, "resize", 1, 0) != LUAPOOL_OK) fail(L, "resize");
    broadcast(L, p);
    if (i >= 0) further[i] = (now_us() - then) / FURTHER;
    luapool_terminate(L, p, -1);
  }
  snprintf(name, sizeof name, "%s_first", start);
  print_times(name, first, rounds);
  snprintf(name, sizeof name, "%s_further", start);
  print_times(name, further, rounds);
  free(first);
  free(further);
}

/* "Anything done?", while workers are at something long. */
static void measure_poll(lua_State *L) {
  luapool *p = open_pool(L, "server", 2);
  luapool_job *job;
  double began;
  int found = 0;
  broadcast(L, p);
  if (luaL_loadstring(L, "while true do end") != LUA_OK || luapool_submit(L, p, 1, &job) != LUAPOOL_OK) fail(L, "submit");
  began = now_us();
  for (int i = 0; i < POLLS; i++) found += luapool_poll(p);
  printf("poll %.4f\npoll_found %d\n", (now_us() - began) / POLLS, found);
  luapool_terminate(L, p, 0.1);
}

static void sleep_until(double until_us) {
  struct timespec until;
  until.tv_sec = (time_t)(until_us / 1e6);
  until.tv_nsec = (long)((until_us - (double)until.tv_sec * 1e6) * 1e3);
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) != 0) continue;
}

/* The engine's own work: a hundred thousand steps of something. */
static double own_work(void) {
  volatile double x = 1;
  for (int i = 0; i < 100000; i++) x = x * 1.0000001 + 0.1;
  return x;
}

static void submit_work(lua_State *L, luapool *p, luapool_job **job) {
  if (luaL_loadstring(L, "local t = {} for i = 1, 20000 do t[i] = i * 0.5 end return t") != LUA_OK ||
      luapool_submit(L, p, 1, job) != LUAPOOL_OK)
    fail(L, "submit");
}

/* How long frames work, asleep not counted; with jobs, workers are never out of them. */
static void measure_frames(lua_State *L, const char *name, int frames, int has_jobs) {
  double *times = calloc((size_t)frames, sizeof *times), began = now_us();
  luapool *p = open_pool(L, "server", 2);
  luapool_job *jobs[JOBS] = {NULL};
  long done = 0;
  if (times == NULL) fail(NULL, "no memory");
  broadcast(L, p);
  for (int frame = -10; frame < frames; frame++) {
    double start = now_us();
    (void)own_work();
    for (int i = 0; has_jobs && i < JOBS; i++) {
      if (jobs[i] && !luapool_is_done(jobs[i])) continue;
      if (jobs[i]) luapool_forget(L, jobs[i]);
      done += jobs[i] != NULL;
      submit_work(L, p, &jobs[i]);
    }
    if (luapool_poll(p) && luapool_step(L, p, BUDGET_US) == LUAPOOL_ERROR) fail(L, "step");
    if (frame >= 0) times[frame] = now_us() - start;
    sleep_until(began += FRAME_US);
    if (began + FRAME_US < now_us()) began = now_us();
  }
  luapool_terminate(L, p, 0.1);
  qsort(times, (size_t)frames, sizeof *times, compare);
  printf("%s_median %.1f\n%s_p999 %.1f\n%s_jobs %ld\n", name, times[frames / 2], name, times[(long)(frames - 1) * 999 / 1000], name, done);
  free(times);
}

int main(int argc, char **argv) {
  size_t bytes = (size_t)(argc > 1 ? atol(argv[1]) : 0) << 20;
  int rounds = argc > 2 ? atoi(argv[2]) : 20, frames = argc > 3 ? atoi(argv[3]) : 0;
  lua_State *L = luaL_newstate();
  char *memory;
  if (L == NULL || rounds < 1) fail(NULL, "no memory");
  luaL_openlibs(L);
  if (luapool_init_early(L) != LUAPOOL_OK) fail(L, "luapool_init_early");
  memory = malloc(bytes + 1); /* a program grows afterwards */
  if (memory == NULL) fail(NULL, "no memory");
  memset(memory, 1, bytes + 1);
  measure_start(L, "server", rounds);
  measure_start(L, "fork", rounds); /* by the early copy */
  measure_poll(L);
  if (frames > 0) measure_frames(L, "unloaded", frames, 0);
  if (frames > 0) measure_frames(L, "loaded", frames, 1);
  lua_close(L);
  free(memory);
  return 0;
}
