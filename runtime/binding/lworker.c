/* binding/lworker -- see lworker.h (may include binding/lhelper.h, binding/lluapool.h and binding/lwarn.h). */
#include "binding/lworker.h"

#include <errno.h>
#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/allocator.h"
#include "base/hash.h"
#include "base/os.h"
#include "binding/lhelper.h"
#include "binding/lluapool.h"
#include "binding/lwarn.h"
#include "job/delivery.h"
#include "job/task.h"
#include "luapool.h"
#include "pool/recruit.h"
#include "process/server.h"

const struct lworker_library lworker_libraries[LWORKER_LIBRARIES] = {
  {'k', LUA_LOADLIBNAME, luaopen_package}, {'c', LUA_COLIBNAME, luaopen_coroutine}, {'t', LUA_TABLIBNAME, luaopen_table},
  {'i', LUA_IOLIBNAME, luaopen_io},        {'o', LUA_OSLIBNAME, luaopen_os},        {'s', LUA_STRLIBNAME, luaopen_string},
  {'m', LUA_MATHLIBNAME, luaopen_math},    {'u', LUA_UTF8LIBNAME, luaopen_utf8},    {'d', LUA_DBLIBNAME, luaopen_debug}};

const char lhelper_marker = 0;

/* ---- which build ---- */

/* Lua's own words for its release: the library's that runs, where it says them, else those of the headers. */
#if defined(__GNUC__) && !defined(__APPLE__)
extern const char lua_ident[] __attribute__((weak));
#define IDENT (lua_ident)
#else
#define IDENT ((const char *)NULL)
#endif

struct head {
  unsigned char bytes[64];
  size_t length;
};

static int take_head(lua_State *L, const void *data, size_t length, void *context) {
  struct head *head = context;
  size_t room = sizeof head->bytes - head->length;
  (void)L;
  if (length > room) length = room;
  memcpy(head->bytes + head->length, data, length);
  head->length += length;
  return 0;
}

/* The head of a dump: Lua's version, format and sizes, and how numbers lie in memory. */
static uint64_t hash_of_bytecode(lua_State *L) {
  enum { HEAD_BYTES = 4 + 1 + 1 + 6 + 3 + sizeof(lua_Integer) + sizeof(lua_Number) };
  struct head head;
  memset(&head, 0, sizeof head);
  if (luaL_loadbufferx(L, "", 0, "=build", "t") != LUA_OK) lua_error(L);
  (void)lua_dump(L, take_head, &head, 1);
  lua_pop(L, 1);
  return hash_bytes(0, head.bytes, HEAD_BYTES);
}

void lworker_describe_build(lua_State *L, char text[LWORKER_BUILD_BYTES]) {
  const char *release = LUA_RELEASE, *ident = IDENT;
  size_t length;
  if (ident && (ident = strstr(ident, "Lua 5.")) != NULL) release = ident;
  length = strcspn(release, " ");
  if (release[length] == ' ') length += 1 + strcspn(release + length + 1, " ");
  snprintf(text, LWORKER_BUILD_BYTES, "luapool %s for %.*s (%d-bit, bytecode %08x)", LUAPOOL_VERSION, (int)length, release,
           (int)sizeof(void *) * 8, (unsigned)(hash_of_bytecode(L) & 0xffffffff));
}

/* ---- the helper ---- */

struct helper {
  struct recruit recruit; /* the first: it is the context of its functions */
  struct task_context tasks;
  lua_State *L;
  struct allocator *allocator;
  luapool_worker_options options;
};

struct config {
  const unsigned char *at, *end;
};

static const char *next_text(struct config *config, size_t *length) {
  uint32_t head;
  const unsigned char *text;
  if (config->end - config->at < (long)sizeof head) return NULL;
  memcpy(&head, config->at, sizeof head);
  text = config->at + sizeof head;
  if (head > (size_t)(config->end - text)) return NULL;
  config->at = text + head;
  *length = head;
  return (const char *)text;
}

static void open_libraries(lua_State *L, const char *letters, size_t n) {
  size_t i;
  luaL_requiref(L, LUA_GNAME, luaopen_base, 1);
  lua_pop(L, 1);
  for (i = 0; i < LWORKER_LIBRARIES; i++) {
    if (memchr(letters, lworker_libraries[i].letter, n) == NULL) continue;
    luaL_requiref(L, lworker_libraries[i].name, lworker_libraries[i].open, 1);
    lua_pop(L, 1);
  }
}

/* package.path, package.cpath: as in the host, so that `require` finds there what it finds here. */
static void set_path(lua_State *L, const char *name, const char *text, size_t length) {
  if (length == 0 || lua_getglobal(L, LUA_LOADLIBNAME) != LUA_TTABLE) return;
  lua_pushlstring(L, text, length);
  lua_setfield(L, -2, name);
}

/* (helper, config, build): a state as workers shall find it. Protected. */
static int furnish(lua_State *L) {
  struct helper *h = lua_touserdata(L, 1);
  struct config *config = lua_touserdata(L, 2);
  char own[LWORKER_BUILD_BYTES];
  const char *text;
  size_t length;
  luaL_checkversion(L);
  lworker_describe_build(L, own);
  text = next_text(config, &length);
  if (text == NULL || length != strlen(own) || memcmp(text, own, length) != 0) {
    lua_pushlstring(L, text ? text : "", text ? length : 0);
    return luaL_error(L, "is %s, but the program that uses it has %s", own, lua_tostring(L, -1));
  }
  delivery_open(L); /* first: its finalizer must be the last */
  text = next_text(config, &length);
  open_libraries(L, text ? text : "", text ? length : 0);
  delivery_wrap_libraries(L, 1);
  text = next_text(config, &length);
  if (text) set_path(L, "path", text, length);
  text = next_text(config, &length);
  if (text) set_path(L, "cpath", text, length);
  lua_settop(L, 2);
  luaL_requiref(L, "luapool", luaopen_luapool, 0);
  luapool_set_command(L); /* pools inside a task: nobody but us makes threads here */
  lua_settop(L, 2);
  if (h->options.open_worker && h->options.open_worker(L) != 0) return luaL_error(L, "cannot furnish the state of a worker");
  lua_settop(L, 2);
  task_furnish(L, &h->tasks);
  lua_gc(L, LUA_GCGEN, 0, 0);
  return 0;
}

static void say(const char *text, int ends_line) {
  (void)os_write(STDERR_FILENO, text, strlen(text));
  if (ends_line) (void)os_write(STDERR_FILENO, "\n", 1);
}

static struct lwarn warnings = {.say = say};

/* ---- what the host asks for ---- */

static lua_State *new_state(struct helper *h) {
  if (h->options.allocate) return lua_newstate(h->options.allocate, h->options.allocate_context);
  h->allocator = allocator_open();
  return h->allocator ? lua_newstate(allocator_lua, h->allocator) : NULL;
}

static int configure(void *context, const void *data, size_t length, char *text, size_t capacity) {
  struct helper *h = context;
  struct config config = {data, (const unsigned char *)data + length};
  int status;
  h->L = new_state(h);
  if (h->L == NULL) {
    snprintf(text, capacity, "has no memory for a Lua state");
    return -ENOMEM;
  }
  lwarn_open(h->L, &warnings);
  lua_pushcfunction(h->L, furnish);
  lua_pushlightuserdata(h->L, h);
  lua_pushlightuserdata(h->L, &config);
  status = lua_pcall(h->L, 2, 0, 0);
  h->tasks.L = h->L;
  if (status == LUA_OK) return 0;
  snprintf(text, capacity, "%s", lua_tostring(h->L, -1) ? lua_tostring(h->L, -1) : "cannot make a Lua state");
  lua_pop(h->L, 1);
  return -EPROTO;
}

static int prepare(void *context, const void *order, size_t length, const int *fds, size_t n_fds, struct process_child *child) {
  return ((struct helper *)context)->L ? recruit_prepare(context, order, length, fds, n_fds, child) : -EPROTO;
}

int luapool_worker_main(int argc, char **argv, const luapool_worker_options *options) {
  static struct helper helper; /* found again in every worker */
  struct server_work work = {&helper, configure, prepare, recruit_run, recruit_release, NULL};
  int status;
  if (argc < 2 || strcmp(argv[1], SERVER_ARGUMENT) != 0) return -1;
  memset(&helper, 0, sizeof helper);
  if (options) memcpy(&helper.options, options, options->size < sizeof helper.options ? options->size : sizeof helper.options);
  helper.tasks.on_start = helper.tasks.on_exit = LUA_NOREF;
  helper.recruit.tasks = (struct worker_tasks){&helper.tasks, task_start, task_run, task_finish};
  status = server_main(&work);
  if (helper.L) lua_close(helper.L);
  allocator_close(helper.allocator);
  return status;
}
