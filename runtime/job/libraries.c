/*
 * job/libraries -- the library functions that are replaced so that interrupts reach every state a program can be in.
 *
 * Room: job (may include job/chain.h, job/delivery.h and job/input.h).  Owns: nothing. Each replacement does what the original
 * does, message for message, and one thing more:
 *   coroutine.resume, wrap, close   keep the resume chain known
 *   debug.sethook                   cannot drop an armed hook
 *   os.execute, io.popen            a child that died of SIGINT is our SIGINT (system() hides it from us); an interrupt that does not reach
 *                                   the program of os.execute by itself is passed on to it
 *   io.popen                        an interrupt that comes meanwhile does not leave a program that nobody has a handle of
 *   standard input                  reads end when an interrupt comes
 */
#include <errno.h>
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/cold.h"
#include "base/fault.h"
#include "job/chain.h"
#include "job/delivery.h"
#include "job/input.h"
#include "process/interrupt.h"
#include "process/process.h"
#include "process/program.h"

/* ---- coroutine ---------------------------------------------------------------------------------------------- */

static lua_State *check_coroutine(lua_State *L) {
  lua_State *co = lua_tothread(L, 1);
  luaL_argexpected(L, co, 1, "thread");
  return co;
}

/* Returns the number of results on L, or -1 with the error value there. */
static inline int resume(lua_State *L, lua_State *co, int n_arguments) {
  struct delivery_frame frame;
  int status, n_results;
  if (!lua_checkstack(co, n_arguments)) {
    lua_pushliteral(L, "too many arguments to resume");
    return -1;
  }
  lua_xmove(L, co, n_arguments);
  chain_enter(&frame, co);
  status = lua_resume(co, L, n_arguments, &n_results);
  chain_leave(&frame);
  if (status != LUA_OK && status != LUA_YIELD) {
    lua_xmove(co, L, 1);
    return -1;
  }
  if (!lua_checkstack(L, n_results + 1)) {
    lua_pop(co, n_results);
    lua_pushliteral(L, "too many results to resume");
    return -1;
  }
  lua_xmove(co, L, n_results);
  return n_results;
}

static int coroutine_resume(lua_State *L) {
  lua_State *co = check_coroutine(L);
  int n_results = resume(L, co, lua_gettop(L) - 1);
  lua_pushboolean(L, n_results >= 0);
  if (n_results < 0) n_results = 1; /* the error value */
  lua_insert(L, -(n_results + 1));
  return n_results + 1;
}

/* An error ends the coroutine, closes its variables, and goes on; a string gets the position of the call in front. */
static int propagate_error(lua_State *L, lua_State *co) {
  int status = lua_status(co);
  if (status != LUA_OK && status != LUA_YIELD) {
    status = delivery_reset(co, L);
    lua_xmove(co, L, 1); /* the same error, or a newer one from __close */
  }
  if (status != LUA_ERRMEM && lua_type(L, -1) == LUA_TSTRING) {
    luaL_where(L, 1);
    lua_insert(L, -2);
    lua_concat(L, 2);
  }
  return lua_error(L);
}

static int call_wrapped(lua_State *L) {
  lua_State *co = lua_tothread(L, lua_upvalueindex(1));
  int n_results = resume(L, co, lua_gettop(L));
  return n_results < 0 ? propagate_error(L, co) : n_results;
}

static int coroutine_wrap(lua_State *L) {
  lua_State *co;
  luaL_checktype(L, 1, LUA_TFUNCTION);
  co = lua_newthread(L);
  lua_pushvalue(L, 1);
  lua_xmove(L, co, 1);
  lua_pushcclosure(L, call_wrapped, 1);
  return 1;
}

/* What keeps it from being closed: "running", "normal", or NULL. */
static const char *active_state(lua_State *L, lua_State *co) {
  lua_Debug ar;
  if (L == co) return "running";
  return lua_status(co) == LUA_OK && lua_getstack(co, 0, &ar) ? "normal" : NULL;
}

static int coroutine_close(lua_State *L) {
  lua_State *co = check_coroutine(L);
  const char *active = active_state(L, co);
  if (active) return luaL_error(L, "cannot close a %s coroutine", active);
  if (delivery_reset(co, L) == LUA_OK) {
    lua_pushboolean(L, 1);
    return 1;
  }
  lua_pushboolean(L, 0);
  lua_xmove(co, L, 1);
  return 2;
}

/* ---- debug.sethook ------------------------------------------------------------------------------------------ */

/* Where the debug library keeps the functions, by thread, and its C hook that calls them (learnt from it at the start). */
#define HOOK_TABLE "_HOOKKEY"
static lua_Hook library_hook;

static int hook_mask(const char *events, int count) {
  int mask = count > 0 ? LUA_MASKCOUNT : 0;
  if (strchr(events, 'c')) mask |= LUA_MASKCALL;
  if (strchr(events, 'r')) mask |= LUA_MASKRET;
  if (strchr(events, 'l')) mask |= LUA_MASKLINE;
  return mask;
}

static void store_hook(lua_State *L, lua_State *target, int index) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, HOOK_TABLE);
  if (L != target && !lua_checkstack(target, 1)) luaL_error(L, "stack overflow");
  lua_pushthread(target);
  lua_xmove(target, L, 1);
  lua_pushvalue(L, index);
  lua_rawset(L, -3);
}

/* Not a call of the original: that would be one more call and return for the hook to see. */
static COLD int debug_sethook(lua_State *L) {
  int first = lua_isthread(L, 1) ? 2 : 1;
  lua_State *target = first == 2 ? lua_tothread(L, 1) : L;
  lua_Hook hook = NULL;
  int mask = 0, count = 0;
  if (lua_isnoneornil(L, first)) {
    lua_settop(L, first);
  } else {
    const char *events = luaL_checkstring(L, first + 1);
    luaL_checktype(L, first, LUA_TFUNCTION);
    count = (int)luaL_optinteger(L, first + 2, 0);
    mask = hook_mask(events, count);
    hook = library_hook;
  }
  store_hook(L, target, first);
  delivery_sethook(target, hook, mask, count);
  return 0;
}

static int no_operation(lua_State *L) {
  (void)L;
  return 0;
}

/*
 * Sets a hook on a fresh thread through the original (at the top of the stack) and looks at what it did.
 * Returns 1 if this debug library works as ours expects.
 */
static int learn_library_hook(lua_State *L) {
  int top = lua_gettop(L), is_known;
  lua_State *co;
  lua_pushvalue(L, -1);
  co = lua_newthread(L);
  lua_pushcfunction(L, no_operation);
  lua_pushliteral(L, "c");
  lua_call(L, 3, 0);
  library_hook = lua_gethook(co);
  is_known = library_hook && lua_getfield(L, LUA_REGISTRYINDEX, HOOK_TABLE) == LUA_TTABLE;
  lua_settop(L, top);
  return is_known;
}

/* ---- programs ----------------------------------------------------------------------------------------------- */

static int died_of_interrupt(int status) {
  if (status == -1) return 0;
  return (WIFSIGNALED(status) && WTERMSIG(status) == SIGINT) || (WIFEXITED(status) && WEXITSTATUS(status) == 128 + SIGINT);
}

/* `before`: interrupt_received() when the program started; if one came since, the terminal sent it to both of us. */
static void take_notice(lua_State *L, int status, unsigned before) {
  if (died_of_interrupt(status) && interrupt_catches_terminal() && interrupt_received() == before) interrupt_request(SIGINT);
  delivery_checkpoint(L);
}

/* Where signals are ours: system() would lose those that come while the program runs. */
static int execute(lua_State *L, const char *command, unsigned before) {
  int status, saved;
  errno = 0;
  status = program_run(command, delivery_can_raise);
  saved = errno;
  take_notice(L, status, before);
  errno = saved;
  return luaL_execresult(L, status);
}

static COLD int os_execute(lua_State *L) {
  const char *command = luaL_optstring(L, 1, NULL);
  unsigned before = interrupt_received();
  int status, saved;
  (void)delivery_checkpoint(L);
  if (command && interrupt_catches_terminal()) return execute(L, command, before);
  interrupt_starting_program(1);
  errno = 0;
  status = system(command);
  saved = errno;
  interrupt_starting_program(0);
  if (!command) {
    lua_pushboolean(L, status);
    return 1;
  }
  take_notice(L, status, before);
  errno = saved;
  return luaL_execresult(L, status);
}

/* How a program that io.popen started ended, and whether that is our interrupt. */
static COLD int close_pipe(lua_State *L) {
  luaL_Stream *stream = (luaL_Stream *)luaL_checkudata(L, 1, LUA_FILEHANDLE);
  unsigned before;
  int status, saved;
  lua_getiuservalue(L, 1, 1);
  before = (unsigned)lua_tointeger(L, -1);
  errno = 0;
  status = pclose(stream->f);
  saved = errno;
  take_notice(L, status, before);
  errno = saved;
  return luaL_execresult(L, status);
}

/* A closed handle until the program runs; its user value is interrupt_received() from before. */
static luaL_Stream *push_pipe(lua_State *L) {
  luaL_Stream *stream = (luaL_Stream *)lua_newuserdatauv(L, sizeof *stream, 1);
  stream->closef = NULL;
  luaL_setmetatable(L, LUA_FILEHANDLE);
  lua_pushinteger(L, (lua_Integer)interrupt_received());
  lua_setiuservalue(L, -2, 1);
  return stream;
}

/*
 * An interrupt came while the program was started. Raised at our return it would take the only handle with it: the program would run on,
 * and the collector wait for its end. So the program goes before the error is raised here.
 */
static void end_program(lua_State *L, luaL_Stream *stream) {
  if (!process_kill_partner(fileno(stream->f))) return;
  (void)pclose(stream->f);
  stream->f = NULL;
  (void)delivery_checkpoint(L);
  errno = EINTR;
}

static COLD int io_popen(lua_State *L) {
  const char *command = luaL_checkstring(L, 1);
  const char *mode = luaL_optstring(L, 2, "r");
  luaL_Stream *stream = push_pipe(L);
  int saved;
  luaL_argcheck(L, (mode[0] == 'r' || mode[0] == 'w') && mode[1] == '\0', 2, "invalid mode");
  fflush(NULL); /* as the original: the program may write to where we write */
  interrupt_starting_program(1);
  errno = 0;
  stream->f = popen(command, mode);
  saved = errno;
  interrupt_starting_program(0);
  errno = saved;
  FAULT_POINT("program_started");
  if (stream->f && interrupt_pending() && delivery_can_raise()) end_program(L, stream);
  stream->closef = close_pipe;
  return stream->f ? 1 : luaL_fileresult(L, 0, command);
}

/* ---- putting them in place ---------------------------------------------------------------------------------- */

/* Push package.loaded[name], or return 0 with nothing pushed. */
static COLD int push_library(lua_State *L, const char *name) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  if (lua_getfield(L, -1, name) == LUA_TTABLE) {
    lua_remove(L, -2);
    return 1;
  }
  lua_pop(L, 2);
  return 0;
}

/* library[name] = function, if there is one; the library is at the top. */
static void replace(lua_State *L, const char *name, lua_CFunction function) {
  int is_there = lua_getfield(L, -1, name) == LUA_TFUNCTION;
  lua_pop(L, 1);
  if (!is_there) return;
  lua_pushcfunction(L, function);
  lua_setfield(L, -2, name);
}

static void replace_stdin(lua_State *L) {
  FILE *old = stdin;
  luaL_Stream *stream;
  input_make_interruptible();
  lua_getfield(L, -1, "stdin");
  stream = (luaL_Stream *)luaL_testudata(L, -1, LUA_FILEHANDLE);
  if (stream && stream->f == old) stream->f = stdin;
  lua_pop(L, 1);
}

COLD void delivery_wrap_libraries(lua_State *L, int with_os) {
  luaL_checkstack(L, 8, "libraries");
  if (push_library(L, LUA_COLIBNAME)) {
    replace(L, "resume", coroutine_resume);
    replace(L, "wrap", coroutine_wrap);
    replace(L, "close", coroutine_close);
    lua_pop(L, 1);
  }
  if (push_library(L, LUA_DBLIBNAME)) {
    if (lua_getfield(L, -1, "sethook") == LUA_TFUNCTION && learn_library_hook(L)) {
      lua_pop(L, 1);
      replace(L, "sethook", debug_sethook);
      lua_pop(L, 1);
    } else {
      lua_pop(L, 2);
    }
  }
  if (!with_os) return;
  if (push_library(L, LUA_OSLIBNAME)) {
    replace(L, "execute", os_execute);
    lua_pop(L, 1);
  }
  if (push_library(L, LUA_IOLIBNAME)) {
    replace(L, "popen", io_popen);
    replace_stdin(L);
    lua_pop(L, 1);
  }
}
