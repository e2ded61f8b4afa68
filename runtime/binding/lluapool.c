/*
 * binding/lluapool -- the module `luapool`: what C offers to lua/luapool, and the loading of these files.
 *
 * Room: binding (may include binding/features.h, binding/lclass.h, binding/lerror.h, binding/lhelper.h, binding/lpool.h, binding/llong.h,
 * binding/lshared.h, binding/lstep.h, binding/ltrace.h and binding/embedded.h).
 * Owns: the registry fields luapool.module, luapool.part, luapool.files, luapool.Error, luapool.options, and the run scope of
 * pool.catch_interrupts.
 */
#include "binding/lluapool.h"

#include <errno.h>
#include <lauxlib.h>
#include <string.h>
#include <unistd.h>

#include "base/os.h"
#include "base/packed.h"
#include "binding/embedded.h"
#include "binding/features.h"
#include "binding/lclass.h"
#include "binding/lerror.h"
#include "binding/lhelper.h"
#include "binding/llong.h"
#include "binding/lpool.h"
#include "binding/lshared.h"
#include "binding/lstep.h"
#include "binding/ltrace.h"
#include "job/codec.h"
#include "job/delivery.h"
#include "process/interrupt.h"
#include "luapool.h"
#include "process/process.h"

static int core_cpus(lua_State *L) {
  lua_pushinteger(L, os_cpus());
  return 1;
}

/* core.can_bind() -> boolean: does this system bind processes to processors? */
static int core_can_bind(lua_State *L) {
  lua_pushboolean(L, os_can_bind());
  return 1;
}

/* core.running() -> how many processes of this machine run at this moment, or nothing: it does not tell */
static int core_running(lua_State *L) {
  int running = os_running("");
  if (running < 0) return 0;
  lua_pushinteger(L, running);
  return 1;
}

/* core.options() -> table or nil: the command's options, by long names, as texts; boolean: shall the environment be ignored (-E)? */
static int core_options(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, "luapool.options");
  lua_pushboolean(L, lua_getfield(L, LUA_REGISTRYINDEX, "LUA_NOENV") != LUA_TNIL && lua_toboolean(L, -1));
  lua_remove(L, -2);
  return 2;
}

/* core.set_option(name, text): as if the command had been given --name=text */
static int core_set_option(lua_State *L) {
  luapool_set_option(L, luaL_checkstring(L, 1), luaL_checkstring(L, 2));
  return 0;
}

/* core.set_quiet(boolean): no warnings of ours from C */
static int core_set_quiet(lua_State *L) {
  lerror_set_quiet(L, lua_toboolean(L, 1));
  return 0;
}

/*
 * core.cannot_write(path, is_log) -> why it cannot be written, or nothing. What it holds stays; what was not there is not there afterwards.
 */
static int core_cannot_write(lua_State *L) {
  int status = os_check_writable(luaL_checkstring(L, 1), lua_toboolean(L, 2));
  if (status == 0) return 0;
  lua_pushstring(L, status == -ENOTSUP ? "it is not a regular file" : strerror(-status));
  return 1;
}

/* core.is_worker() -> boolean, depth: how many forks of ours lie between the program and this process */
static int core_is_worker(lua_State *L) {
  lua_pushboolean(L, process_is_child());
  lua_pushinteger(L, process_is_child());
  return 2;
}

static int core_pid(lua_State *L) {
  lua_pushinteger(L, getpid());
  return 1;
}

static int core_is_interrupt(lua_State *L) {
  lua_pushboolean(L, delivery_is_interrupt(L, 1));
  return 1;
}

static int core_now(lua_State *L) {
  lua_pushnumber(L, (lua_Number)os_now_ns() / 1e9);
  return 1;
}

/* core.problem(text): a file that was asked for is not, or not wholly, written */
static int core_problem(lua_State *L) {
  ltrace_problem(L, luaL_checkstring(L, 1));
  return 0;
}

static int core_item_text(lua_State *L) {
  luaL_checkany(L, 1);
  task_item_text(L, 1);
  return 1;
}

/* core.worker([table or nil]) -> table or nil: pool.worker, set first if there is an argument: an inline pool's worker is this process */
static int core_worker(lua_State *L) {
  lua_settop(L, lua_gettop(L) > 1 ? 1 : lua_gettop(L));
  if (lua_getfield(L, LUA_REGISTRYINDEX, "luapool.module") != LUA_TTABLE) return 0;
  if (lua_gettop(L) == 2) {
    lua_pushvalue(L, 1);
    lua_setfield(L, 2, "worker");
  }
  lua_getfield(L, -1, "worker");
  return 1;
}

/* copy(value, "item" | "argument" | "result" | "error") -> true, copy | false, message: the value as it would arrive on the other side. */
static int core_copy(lua_State *L) {
  static const char *const roots[] = {"item", "argument", "result", "error", NULL};
  struct codec *codec = lua_touserdata(L, lua_upvalueindex(1));
  struct codec_reader reader;
  struct bytes *out = lua_touserdata(L, lua_upvalueindex(2));
  const char *root = roots[luaL_checkoption(L, 2, NULL, roots)];
  bytes_clear(out);
  codec_begin(codec, out, 0, root);
  if (codec_write(codec, L, 1) < 0) {
    lua_pushboolean(L, 0);
    lua_pushstring(L, codec_message(codec));
    return 2;
  }
  lua_pushboolean(L, 1);
  codec_read_begin(codec, &reader, out->data, out->length);
  if (codec_read(codec, L, &reader) < 0) {
    lua_pushboolean(L, 0);
    lua_pushstring(L, codec_message(codec));
    return 2;
  }
  return 2;
}

static int bytes_gc(lua_State *L) {
  bytes_free(lua_touserdata(L, 1));
  return 0;
}

static void push_bytes(lua_State *L) {
  struct bytes *b = lua_newuserdatauv(L, sizeof *b, 0);
  bytes_init(b);
  if (luaL_newmetatable(L, "luapool.bytes")) {
    lua_pushcfunction(L, bytes_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
}

/* core.copier(fn) -> function copy(value, root) with a codec of its own, for what goes into fn and comes out of it */
static int core_copier(lua_State *L) {
  struct codec *codec;
  luaL_checktype(L, 1, LUA_TFUNCTION);
  codec = codec_open(L);
  codec_name_function(codec, L, 1);
  lua_pushlightuserdata(L, codec);
  push_bytes(L);
  lua_pushvalue(L, -3); /* anchored as the third upvalue */
  lua_pushcclosure(L, core_copy, 3);
  return 1;
}

/* core.register(name, class, save or nil, load or nil) */
static int core_register(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_settop(L, 4);
  codec_register(L, name, 2, lua_isnil(L, 3) ? 0 : 3, lua_isnil(L, 4) ? 0 : 4);
  return 0;
}

/*
 * core.catch_interrupts(): SIGINT, SIGTERM and SIGHUP become Lua errors in this state from now on. The scope lives as long as
 * the state: its frame
 * is a userdata in the registry.
 */
static int core_catch(lua_State *L) {
  struct delivery_frame *scope;
  int status;
  if (lua_getfield(L, LUA_REGISTRYINDEX, "luapool.scope") != LUA_TNIL) return 0;
  delivery_wrap_libraries(L, 0);
  scope = lua_newuserdatauv(L, sizeof *scope, 0);
  lua_setfield(L, LUA_REGISTRYINDEX, "luapool.scope");
  status = interrupt_catch();
  if (status < 0) return luaL_error(L, "cannot catch interrupts: %s", strerror(-status));
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  delivery_enter(scope, lua_tothread(L, -1));
  return 0;
}

/* core.shield(fn, ...): an interrupt that comes meanwhile is delivered after fn has returned (or raised). */
static int core_shield(lua_State *L) {
  int status;
  luaL_checktype(L, 1, LUA_TFUNCTION);
  delivery_shield(1);
  status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
  delivery_shield(-1);
  if (status != LUA_OK) return lua_error(L);
  (void)delivery_checkpoint(L);
  return lua_gettop(L);
}

static int is_named(const char *chunk_name, const char *name) {
  const char *file = strrchr(chunk_name, '/') + 1;
  size_t n = strlen(name);
  return strncmp(file, name, n) == 0 && strcmp(file + n, ".lua") == 0;
}

static const struct embedded_file *find_file(const struct embedded *e, const char *name) {
  for (unsigned i = 0; e != NULL && i < e->n_files; i++)
    if (is_named(e->files[i].chunk_name, name)) return &e->files[i];
  return NULL;
}

/* The file of that name, and whose it is: of the library, of a feature, of what was added. */
static const struct embedded_file *find_anywhere(lua_State *L, const char *name, const struct embedded **e) {
  const struct embedded_file *file = find_file(*e = &embedded_files, name);
  int is_end = 0;
  for (unsigned i = 0; file == NULL && !is_end; i++) file = find_file(*e = features_files(i, &is_end), name);
  return file ? file : find_file(*e = luapool_files(L), name);
}

/* What scripts replace on purpose, and expect everybody to use then. */
static int is_for_replacing(const char *name) {
  return strcmp(name, "print") == 0 || strcmp(name, "warn") == 0 || strcmp(name, "require") == 0;
}

/*
 * Push the globals of the parts: Lua's own functions and libraries as they are now. A script that forgets a `local` (`type = "circle"`,
 * `table = {}`) takes them away from itself alone. All else is looked up in the script's globals.
 */
static void push_environment(lua_State *L) {
  static const char libraries[][10] = {"_G", "coroutine", "debug", "io", "math", "os", "package", "string", "table", "utf8", ""};
  luaL_checkstack(L, 6, NULL);
  lua_newtable(L);
  lua_pushglobaltable(L);
  for (int i = 0; *libraries[i] != 0; i++) {
    lua_getfield(L, -1, libraries[i]);
    lua_setfield(L, -3, libraries[i]);
  }
  for (lua_pushnil(L); lua_next(L, -2) != 0; lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING || !lua_iscfunction(L, -1) || is_for_replacing(lua_tostring(L, -2))) continue;
    lua_pushvalue(L, -2);
    lua_pushvalue(L, -2);
    lua_rawset(L, -6);
  }
  lua_createtable(L, 0, 1);
  lua_insert(L, -2);
  lua_setfield(L, -2, "__index");
  lua_setmetatable(L, -2);
}

/* Push the file as a function with the environment at `environment`. The text is garbage once it is compiled. */
static void load_file(lua_State *L, const struct embedded *e, const struct embedded_file *file, int environment) {
  char *text = lua_newuserdatauv(L, file->length, 0);
  if (packed_expand(e->code, e->packed + file->at, file->n_packed, text, file->length) < 0)
    luaL_error(L, "luapool: %s was damaged", file->chunk_name + 1);
  if (luaL_loadbufferx(L, text, file->length, file->chunk_name, "t") != LUA_OK) lua_error(L);
  lua_remove(L, -2);
  lua_pushvalue(L, environment);
  lua_setupvalue(L, -2, 1);
}

/* part(name) -> what NAME.lua returns; each file is run once per state. Upvalues: core, the table of parts, their environment. */
static int part(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  const struct embedded *e;
  const struct embedded_file *file;
  lua_settop(L, 1);
  if (lua_getfield(L, lua_upvalueindex(2), name) != LUA_TNIL) return 1;
  file = find_anywhere(L, name, &e);
  if (file == NULL) return luaL_error(L, "luapool was built without %s.lua", name);
  load_file(L, e, file, lua_upvalueindex(3));
  lua_pushvalue(L, lua_upvalueindex(1)); /* the file is called with (core, part) */
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_pushvalue(L, lua_upvalueindex(2));
  lua_pushvalue(L, lua_upvalueindex(3));
  lua_pushcclosure(L, part, 3);
  lua_call(L, 2, 1);
  lua_pushvalue(L, -1);
  lua_setfield(L, lua_upvalueindex(2), name);
  return 1;
}

static void push_core(lua_State *L) {
  lpool_open_library(L);
  lclass_add(L, "cpus", core_cpus);
  lclass_add(L, "can_bind", core_can_bind);
  lclass_add(L, "running", core_running);
  lclass_add(L, "options", core_options);
  lclass_add(L, "set_option", core_set_option);
  lclass_add(L, "cannot_write", core_cannot_write);
  lclass_add(L, "set_quiet", core_set_quiet);
  lclass_add(L, "is_worker", core_is_worker);
  lclass_add(L, "pid", core_pid);
  lclass_add(L, "is_interrupt", core_is_interrupt);
  lclass_add(L, "now", core_now);
  lclass_add(L, "item_text", core_item_text);
  lclass_add(L, "problem", core_problem);
  lclass_add(L, "copier", core_copier);
  lclass_add(L, "stepper", lstep_new);
  lclass_add(L, "worker", core_worker);
  lclass_add(L, "register", core_register);
  lclass_add(L, "catch_interrupts", core_catch);
  lclass_add(L, "shield", core_shield);
  lshared_open(L);
  lterminal_open(L);
  features_open(L);
  luaL_newmetatable(L, "luapool.Error");
  lua_setfield(L, -2, "Error");
  lua_pushliteral(L, LUAPOOL_VERSION);
  lua_setfield(L, -2, "version");
}

LUAPOOL_API int luaopen_luapool(lua_State *L) {
  if (lua_getfield(L, LUA_REGISTRYINDEX, "luapool.module") == LUA_TTABLE) return 1;
  luaL_checkversion(L);
  delivery_open(L);
  lhelper_open(L);
  push_core(L);
  lua_newtable(L);
  push_environment(L);
  lua_pushcclosure(L, part, 3);
  lua_pushvalue(L, -1);
  lua_setfield(L, LUA_REGISTRYINDEX, "luapool.part");
  lua_pushliteral(L, "init");
  lua_call(L, 1, 1);
  lua_pushvalue(L, -1);
  lua_setfield(L, LUA_REGISTRYINDEX, "luapool.module");
  return 1;
}

void luapool_push_part(lua_State *L, const char *name) {
  lua_getfield(L, LUA_REGISTRYINDEX, "luapool.part");
  lua_pushstring(L, name);
  lua_call(L, 1, 1);
}

void luapool_push_core(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, "luapool.part");
  lua_getupvalue(L, -1, 1);
  lua_remove(L, -2);
}

void luapool_add_files(lua_State *L, const struct embedded *files) {
  lua_pushlightuserdata(L, (void *)files);
  lua_setfield(L, LUA_REGISTRYINDEX, "luapool.files");
}

const struct embedded *luapool_files(lua_State *L) {
  const struct embedded *files;
  lua_getfield(L, LUA_REGISTRYINDEX, "luapool.files");
  files = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return files;
}

void luapool_set_option(lua_State *L, const char *name, const char *value) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, "luapool.options");
  lua_pushstring(L, value);
  lua_setfield(L, -2, name);
  lua_pop(L, 1);
}

void luapool_on_problem(lua_State *L, void (*fn)(const char *text)) {
  ltrace_on_problem(L, fn);
}

void luapool_check_options(lua_State *L) {
  luapool_push_part(L, "defaults");
  lua_getfield(L, -1, "check");
  lua_call(L, 0, 0);
  lua_pop(L, 1);
}
