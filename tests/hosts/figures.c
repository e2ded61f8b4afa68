/*
 * A program with Lua inside that measures what embedding costs it, for tests/bench (make bench BENCH=embed): `figures [MEGABYTES [ROUNDS
 * [FRAMES]]]`. It holds so much touched memory, and prints lines of "name number": times in microseconds, the least and the median of the
 * rounds; of frames the median, the 99.9th percentile, and how long they have waited for a processor, each on the average.
 */
#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "luapool.h"

/* FURTHER: with the first one as many as a pool of one has places for; resized beyond them it is another pool, with another helper. */
enum { FURTHER = 7, POLLS = 1000000, FRAME_US = 16667, BUDGET_US = 500, BLOCK = 100, WARMING = 5, MOST_JOBS = 64 };

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

static luapool *open_pool(lua_State *L, const char *start, int workers, int nice) {
  luapool_options options;
  luapool *p;
  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  options.nice = nice;
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

/* From nothing to the first result; then so many workers more, all of whom have answered. */
static void measure_start(lua_State *L, const char *start, int rounds) {
  double *first = calloc((size_t)rounds, sizeof *first), *further = calloc((size_t)rounds, sizeof *further);
  char name[64];
  if (first == NULL || further == NULL) fail(NULL, "no memory");
  for (int i = -1; i < rounds; i++) {
    double began = now_us(), then;
    luapool *p = open_pool(L, start, 1, 0);
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
  luapool *p = open_pool(L, "server", 2, 0);
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

/* ---- frames ---- */

/*
 * A loop of 60 frames a second: what is asked of the pool in each, and how long the frames took, from when they
 * were due until they were done.
 */
struct loop {
  const char *name, *task; /* NULL: nothing is asked */
  int workers, nice, in_flight;
  luapool *p;
  luapool_job *jobs[MOST_JOBS];
  double *times, waited_us;
  int n;
  long done;
};

#define NUMBERS "local t = {} for i = 1, 20000 do t[i] = i * 0.5 end return t"
static const char short_task[] = NUMBERS; /* over before the frame is: the worker sleeps, and is woken in the next */
static const char long_task[] = "local over = os.clock() + 0.02 while os.clock() < over do end " NUMBERS;

/* Microseconds that this thread has waited for a processor, as Linux counts them; 0 where nobody does. */
static double waited_us(void) {
  double ran, waited = 0;
  FILE *file = fopen("/proc/thread-self/schedstat", "r");
  if (file && fscanf(file, "%lf %lf", &ran, &waited) != 2) waited = 0;
  if (file) fclose(file);
  return waited / 1e3;
}

/* As many jobs as there are to be: those that are over make room for others. */
static void ask(lua_State *L, struct loop *loop) {
  for (int i = 0; loop->task && i < loop->in_flight; i++) {
    if (loop->jobs[i] && !luapool_is_done(loop->jobs[i])) continue;
    if (loop->jobs[i]) luapool_forget(L, loop->jobs[i]);
    loop->done += loop->jobs[i] != NULL;
    if (luaL_loadstring(L, loop->task) != LUA_OK || luapool_submit(L, loop->p, 1, &loop->jobs[i]) != LUAPOOL_OK) fail(L, "submit");
  }
}

/* What is left of a frame is for the collector, which is stopped otherwise: a large result would set it to work for a whole cycle. */
static void collect_until(lua_State *L, double until_us) {
  while (lua_gc(L, LUA_GCSTEP, 0) == 0 && now_us() < until_us) continue;
}

static void run_frame(lua_State *L, struct loop *loop, double due_us, int counts) {
  (void)own_work();
  ask(L, loop);
  if (luapool_poll(loop->p) && luapool_step(L, loop->p, BUDGET_US) == LUAPOOL_ERROR) fail(L, "step");
  if (counts) loop->times[loop->n++] = now_us() - due_us;
  collect_until(L, due_us + FRAME_US / 2);
}

/* So many frames, and some before them that do not count; then what is asked for is waited for, so that the next loop is alone. */
static void run_frames(lua_State *L, struct loop *loop, int frames) {
  double due_us = now_us(), before = 0;
  int top = lua_gettop(L);
  for (int frame = -WARMING; frame < frames; frame++) {
    if (frame == 0) before = waited_us();
    run_frame(L, loop, due_us, frame >= 0);
    due_us += FRAME_US;
    if (due_us < now_us()) due_us = now_us(); /* it is no use to be late for all that follow */
    sleep_until(due_us);
  }
  loop->waited_us += waited_us() - before;
  for (int i = 0; i < loop->in_flight; i++) {
    if (loop->jobs[i] && luapool_result(L, loop->jobs[i], -1, 0) != LUAPOOL_OK) fail(L, "a result");
    if (loop->jobs[i]) luapool_forget(L, loop->jobs[i]);
    loop->jobs[i] = NULL;
  }
  lua_settop(L, top);
}

static void print_loop(const struct loop *loop) {
  qsort(loop->times, (size_t)loop->n, sizeof *loop->times, compare);
  printf("%s_median %.1f\n%s_p999 %.1f\n", loop->name, loop->times[loop->n / 2], loop->name, loop->times[(long)(loop->n - 1) * 999 / 1000]);
  printf("%s_waited %.1f\n%s_jobs %ld\n", loop->name, loop->waited_us / loop->n, loop->name, loop->done);
}

/* Block by block in turn: the machine drifts. `free_*`: one worker less than there are processors. */
static void measure_frames(lua_State *L, int frames) {
  long processors = sysconf(_SC_NPROCESSORS_ONLN);
  int rest = processors > MOST_JOBS / 2 ? MOST_JOBS / 2 : processors > 1 ? (int)processors - 1 : 1;
  struct loop loops[] = {
      {.name = "unloaded", .workers = 1},
      {.name = "loaded", .task = long_task, .workers = 2, .in_flight = 4},
      {.name = "loaded_idle", .task = long_task, .workers = 2, .in_flight = 4, .nice = LUAPOOL_IDLE},
      {.name = "free", .task = long_task, .workers = rest, .in_flight = 2 * rest},
      {.name = "free_idle", .task = long_task, .workers = rest, .in_flight = 2 * rest, .nice = LUAPOOL_IDLE},
      {.name = "bursts", .task = short_task, .workers = 2, .in_flight = 4},
      {.name = "bursts_idle", .task = short_task, .workers = 2, .in_flight = 4, .nice = LUAPOOL_IDLE}};
  int n = (int)(sizeof loops / sizeof *loops);
  for (int i = 0; i < n; i++) {
    loops[i].times = calloc((size_t)frames, sizeof *loops[i].times);
    if (loops[i].times == NULL) fail(NULL, "no memory");
    loops[i].p = open_pool(L, "server", loops[i].workers, loops[i].nice);
    broadcast(L, loops[i].p);
  }
  lua_gc(L, LUA_GCSTOP);
  for (int left = frames; left > 0; left -= BLOCK)
    for (int i = 0; i < n; i++) run_frames(L, &loops[i], left < BLOCK ? left : BLOCK);
  lua_gc(L, LUA_GCRESTART);
  for (int i = 0; i < n; i++) {
    luapool_terminate(L, loops[i].p, 0.1);
    print_loop(&loops[i]);
    free(loops[i].times);
  }
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
  if (frames > 0) measure_frames(L, frames);
  lua_close(L);
  free(memory);
  return 0;
}
