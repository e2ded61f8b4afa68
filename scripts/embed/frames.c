/*
 * frames.c -- a game engine in small: 60 frames a second, and agents that want paths over a map of 256 x 256 fields, found by workers.
 *
 *   frames [FRAMES [WORKERS [START]]]     (600, 2, auto)
 *
 * Every frame has 16.7 ms: the world moves by fixed steps, new questions go to the pool, answers are taken for at most one millisecond
 * (luapool_step with a budget), what is left of the time is for Lua's collector, and then for sleep. At the end it tells how long the
 * frames worked. The map is in shared memory: workers read it where it is.
 *
 * Build:  cc -o frames frames.c $(pkg-config --cflags --libs luapool lua5.4) -lm
 */
#include <lauxlib.h>
#include <lualib.h>
#include <luapool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
  SIZE = 256,             /* fields in a row of the map, and in a column */
  AGENTS = 48,
  FRAME_US = 1000000 / 60,
  REST_US = 1000,         /* of a frame are left free when garbage is collected */
  STEP_BUDGET_US = 1000,
  STEPS_PER_FRAME = 2,    /* fixed steps of the world */
  BUCKETS = 20            /* of the histogram: one for each millisecond, the last for all above */
};

/* What the workers run, and how the map comes to be. Returns the task, and the map as a string. */
static const char script[] =
  "local pool, size = ...\n"
  "local map = pool.array('u8', size * size)\n"
  "local seed = 12345\n"
  "local function random(n)\n"
  "  seed = (seed * 1103515245 + 12345) % 2147483648\n"
  "  return seed // 65536 % n\n"
  "end\n"
  "for _ = 1, size * 3 do\n" /* walls, some across, some down */
  "  local x, y, length, across = random(size), random(size), 4 + random(24), random(2) == 0\n"
  "  for k = 0, length do\n"
  "    local wx, wy = across and x + k or x, across and y or y + k\n"
  "    if wx < size and wy < size then map[wy * size + wx + 1] = 1 end\n"
  "  end\n"
  "end\n"
  /* Breadth first from `to`, so that following the numbers down leads there. One letter for each move; nil: there is no way. */
  "local function find_path(from, to)\n"
  "  fields = fields or map:to_table()\n" /* a global: it stays in the worker */
  "  if fields[from] == 1 or fields[to] == 1 then return nil end\n"
  "  local came, queue, head, tail = { [to] = '.' }, { to }, 1, 1\n"
  "  while head <= tail and not came[from] do\n"
  "    local at = queue[head]\n"
  "    head = head + 1\n"
  "    local x = (at - 1) % size\n"
  "    local function visit(field, letter)\n"
  "      if fields[field] ~= 0 or came[field] then return end\n"
  "      came[field] = letter\n"
  "      tail = tail + 1\n"
  "      queue[tail] = field\n"
  "    end\n"
  "    if x > 0 then visit(at - 1, 'e') end\n" /* who stands there goes east */
  "    if x < size - 1 then visit(at + 1, 'w') end\n"
  "    visit(at - size, 's')\n"
  "    visit(at + size, 'n')\n"
  "  end\n"
  "  if not came[from] then return nil end\n"
  "  local path, at = {}, from\n"
  "  local by = { e = 1, w = -1, s = size, n = -size }\n"
  "  while at ~= to do\n"
  "    local letter = came[at]\n"
  "    path[#path + 1] = letter\n"
  "    at = at + by[letter]\n"
  "  end\n"
  "  return table.concat(path)\n"
  "end\n"
  "local text = {}\n"
  "for i = 1, size * size do text[i] = map[i] == 1 and '#' or ' ' end\n"
  "return find_path, table.concat(text)\n";

struct agent {
  int at, to;          /* fields, from 0 */
  char *path;          /* what is left of it */
  size_t taken;        /* moves made */
  luapool_job *job;    /* the question under way, NULL: none */
};

struct world {
  lua_State *L;
  luapool *pool;
  char *map;           /* SIZE * SIZE characters, '#': a wall */
  int task;            /* registry reference of find_path */
  struct agent agents[AGENTS];
  int collect_at_kb;   /* garbage is collected when this state has so much memory */
  unsigned seed;
  long asked, found, blocked, moves, arrivals;
};

static void die(lua_State *L, const char *what) {
  fprintf(stderr, "frames: %s: %s\n", what, luaL_tolstring(L, -1, NULL));
  exit(1);
}

static long long now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (long long)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static int any_field(struct world *w) {
  do {
    w->seed = w->seed * 1664525u + 1013904223u;
  } while (w->map[(w->seed >> 8) % (SIZE * SIZE)] == '#');
  return (int)((w->seed >> 8) % (SIZE * SIZE));
}

/* ---- the pool ---- */

static void open_world(struct world *w, int workers, const char *start) {
  /* Workers that give way: a frame begins when it is due, whoever is at work, and is not put off by a worker that a question wakes up. */
  luapool_options options = {.size = sizeof options, .workers = workers, .start = start, .nice = LUAPOOL_IDLE};
  lua_State *L = w->L = luaL_newstate();
  luaL_openlibs(L);
  if (luapool_open(L, &options, &w->pool) != LUAPOOL_OK) die(L, "no pool");
  if (luaL_loadbuffer(L, script, sizeof script - 1, "=script") != LUA_OK) die(L, "script");
  luaL_requiref(L, "luapool", luaopen_luapool, 0);
  lua_pushinteger(L, SIZE);
  if (lua_pcall(L, 2, 2, 0) != LUA_OK) die(L, "script");
  w->map = malloc(SIZE * SIZE);
  if (w->map == NULL) exit(1);
  memcpy(w->map, lua_tostring(L, -1), SIZE * SIZE);
  lua_pop(L, 1);
  w->task = luaL_ref(L, LUA_REGISTRYINDEX);
  for (int i = 0; i < AGENTS; i++) w->agents[i].at = any_field(w);
  lua_gc(L, LUA_GCSTOP); /* from now on it is collect_garbage that collects */
  w->collect_at_kb = 2 * lua_gc(L, LUA_GCCOUNT);
}

static void ask(struct world *w, struct agent *a) {
  a->to = any_field(w);
  lua_rawgeti(w->L, LUA_REGISTRYINDEX, w->task);
  lua_pushinteger(w->L, a->at + 1);
  lua_pushinteger(w->L, a->to + 1);
  if (luapool_submit(w->L, w->pool, 3, &a->job) != LUAPOOL_OK) die(w->L, "submit");
  w->asked++;
}

static void take_answer(struct world *w, struct agent *a) {
  if (luapool_result(w->L, a->job, 0, 1) != LUAPOOL_OK) die(w->L, "a path");
  luapool_forget(w->L, a->job);
  a->job = NULL;
  free(a->path);
  a->path = lua_isnil(w->L, -1) ? NULL : strdup(lua_tostring(w->L, -1));
  a->taken = 0;
  if (a->path) w->found++;
  else w->blocked++;
  lua_pop(w->L, 1);
}

/* ---- one frame ---- */

/* One step of the world: everybody who has a path makes a move. A path that leads through a wall is a mistake of somebody's. */
static void move_agents(struct world *w) {
  for (int i = 0; i < AGENTS; i++) {
    struct agent *a = &w->agents[i];
    if (a->path == NULL || a->path[a->taken] == '\0') continue;
    switch (a->path[a->taken++]) {
      case 'e': a->at++; break;
      case 'w': a->at--; break;
      case 's': a->at += SIZE; break;
      default: a->at -= SIZE;
    }
    if (a->at < 0 || a->at >= SIZE * SIZE || w->map[a->at] == '#') {
      fprintf(stderr, "frames: an agent walked into a wall\n");
      exit(1);
    }
    w->moves++;
    if (a->path[a->taken] == '\0' && a->at == a->to) w->arrivals++;
  }
}

static void frame(struct world *w) {
  for (int step = 0; step < STEPS_PER_FRAME; step++) move_agents(w);
  for (int i = 0; i < AGENTS; i++) {
    struct agent *a = &w->agents[i];
    if (a->job == NULL && (a->path == NULL || a->path[a->taken] == '\0')) ask(w, a);
  }
  if (luapool_poll(w->pool) && luapool_step(w->L, w->pool, STEP_BUDGET_US) == LUAPOOL_ERROR) die(w->L, "step");
  for (int i = 0; i < AGENTS; i++)
    if (w->agents[i].job && luapool_is_done(w->agents[i].job)) take_answer(w, &w->agents[i]);
}

/*
 * What is left of a frame is for the collector, in small steps. By itself it would run where memory is asked for, and the larger the
 * request the longer, up to a whole cycle in the middle of a frame. One step is made in any case, so that a world without a moment to
 * spare does not grow for ever; a new cycle begins when there is twice as much as the last one left.
 */
static void collect_garbage(struct world *w, long long until_us) {
  int is_over = 0;
  if (lua_gc(w->L, LUA_GCCOUNT) < w->collect_at_kb) return;
  do {
    is_over = lua_gc(w->L, LUA_GCSTEP, 0);
  } while (!is_over && now_us() < until_us);
  if (is_over) w->collect_at_kb = 2 * lua_gc(w->L, LUA_GCCOUNT);
}

/* ---- the loop ---- */

static int by_size(const void *a, const void *b) {
  long x = *(const long *)a, y = *(const long *)b;
  return x < y ? -1 : x > y;
}

static void print_histogram(long *took, int frames) {
  int counts[BUCKETS] = {0}, over = 0, most = 1;
  for (int i = 0; i < frames; i++) {
    int bucket = (int)(took[i] / 1000);
    counts[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    over += took[i] > FRAME_US;
  }
  for (int i = 0; i < BUCKETS; i++) most = counts[i] > most ? counts[i] : most;
  for (int i = 0; i < BUCKETS; i++) {
    if (counts[i] == 0) continue;
    printf("%3d%s ms %6d ", i, i == BUCKETS - 1 ? "+" : " ", counts[i]);
    for (int k = 0; k < 1 + 50 * counts[i] / most; k++) putchar('#');
    putchar('\n');
  }
  qsort(took, (size_t)frames, sizeof *took, by_size);
  printf("frames worked %.2f ms (median), %.2f ms (99.9 of 100), %.2f ms (longest); %d of %d over their budget of %.1f ms\n",
         (double)took[frames / 2] / 1e3, (double)took[(int)(frames * 0.999)] / 1e3, (double)took[frames - 1] / 1e3, over,
         frames, FRAME_US / 1e3);
}

int main(int argc, char **argv) {
  static struct world w;
  int frames = argc > 1 ? atoi(argv[1]) : 600, workers = argc > 2 ? atoi(argv[2]) : 2;
  long *took;
  long long next;
  if (frames < 1 || workers < 1) {
    fprintf(stderr, "usage: frames [FRAMES [WORKERS [START]]]\n");
    return 2;
  }
  took = calloc((size_t)frames, sizeof *took);
  if (took == NULL) return 1;
  w.seed = 1;
  open_world(&w, workers, argc > 3 ? argv[3] : "auto");
  lua_rawgeti(w.L, LUA_REGISTRYINDEX, w.task); /* the workers are there before the first frame */
  lua_pushinteger(w.L, 1);
  lua_pushinteger(w.L, 1);
  if (luapool_run(w.L, w.pool, "apply", 3, 0) != LUAPOOL_OK) die(w.L, "the first task");
  next = now_us();
  for (int i = 0; i < frames; i++) {
    struct timespec until;
    long long began = now_us();
    frame(&w);
    took[i] = (long)(now_us() - began);
    next += FRAME_US;
    collect_garbage(&w, next - REST_US);
    until = (struct timespec){(time_t)(next / 1000000), (long)(next % 1000000) * 1000};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
  }
  printf("%ld paths asked for, %ld found, %ld have no way; %ld moves, %ld arrivals\n", w.asked, w.found, w.blocked, w.moves, w.arrivals);
  print_histogram(took, frames);
  luapool_terminate(w.L, w.pool, 0);
  for (int i = 0; i < AGENTS; i++) free(w.agents[i].path);
  lua_close(w.L);
  free(w.map);
  free(took);
  return 0;
}
