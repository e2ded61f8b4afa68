/*
 * luapool.h -- a pool of worker processes for a program that has Lua 5.4 inside. The only public header; C11 and C++98.
 *
 * How to use it, in six steps:
 *  1. Link libluapool.a, libluapool.so (pkg-config luapool), or put luapool.c and luapool.h (make amalgamation) among your own sources. The
 *     library uses the Lua that your program has: it is not linked to one.
 *  2. Say which program starts workers. The command `luapool` does, if it is installed. Or let your own program do it: call
 *     luapool_worker_main first thing in main(), and give "/proc/self/exe" as options.helper. Then open_worker may furnish the state of
 *     each worker with your own bindings.
 *  3. luapool_open(L, &options, &pool): a pool of a Lua state. Each state may have several, each thread its own states. A state needs
 *     Lua's basic functions, string, table and math, and no other library; workers get those that it has.
 *  4. Push a function and its arguments and call luapool_run (waits), or luapool_submit (does not), as you would use lua_pcall. Scripts use
 *     the same pool as an object (luapool_push), or `require "luapool"` if you offer it (luaopen_luapool).
 *  5. In a loop of your own: luapool_poll tells in nanoseconds whether there is anything to do, luapool_step does it within a budget, and
 *     luapool_fd is for poll, epoll and the like. luapool_result gives what came of a job.
 *     A loop of frames sets options.nice = LUAPOOL_IDLE, so that workers give way to a frame at once, and collects garbage in what is left
 *     of each (LUA_GCSTOP once, then LUA_GCSTEP): memory for a large result would set the collector to work in the middle of one.
 *  6. luapool_close, luapool_terminate, or lua_close end the pool. Nothing survives your process, however it ends.
 *
 * What it does to your program: nothing. It never exits, aborts, prints, changes a signal disposition, the directory, the locale or the
 * environment, reaps no child but its own and bears it when somebody else reaps these. With threads, or start = "server", workers are clean
 * processes that a helper forks: none of your threads, locks, descriptors, memory or allocator is in them. With start = "fork" they are
 * copies of your program as it is, or as it was at luapool_init_early. They hold nothing of yours open but standard output and errors, so
 * that a connection that you close is closed, and a port is free when you are gone; but for options.descriptors = "keep", and for pools
 * that scripts make by themselves (pool.new{ descriptors = "close" }): there a task may use the files that its script has opened.
 *
 * All functions return LUAPOOL_OK or another of the codes below, unless they say otherwise. None of them raises a Lua error, and none
 * may be called from a signal handler, but luapool_interrupt. `L` is the state of the pool, or a coroutine of it. A handle belongs to
 * its state: it is invalid after luapool_close, luapool_terminate (jobs: luapool_forget), and lua_close. Only the process and the thread
 * that uses the state may use its pools.
 */
#ifndef LUAPOOL_H
#define LUAPOOL_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#include <lua.h>

#if LUA_VERSION_RELEASE_NUM < 50404 || LUA_VERSION_NUM != 504
#error "luapool needs Lua 5.4.4 or a later 5.4: in earlier releases interrupts can be lost, and finalizers can fail in lua_close"
#endif

#define LUAPOOL_VERSION "0.1.0"
#define LUAPOOL_VERSION_NUMBER 100 /* major * 10000 + minor * 100 + patch */

#ifndef LUAPOOL_API
#if defined(__GNUC__)
#define LUAPOOL_API __attribute__((visibility("default")))
#else
#define LUAPOOL_API
#endif
#endif

enum {
  LUAPOOL_OK = 0,
  LUAPOOL_PENDING = 1, /* it is not over yet; nothing was pushed */
  LUAPOOL_ERROR = -1,  /* an error value was pushed: a text, or a table with metatable pool.Error, or the interrupt */
  LUAPOOL_NOMEM = -2   /* no room on the Lua stack; nothing was pushed */
};

enum { LUAPOOL_IDLE = 20 }; /* of luapool_options.nice */

typedef struct luapool luapool;         /* a pool */
typedef struct luapool_job luapool_job; /* a call that was begun */

/* Clear it, then set size and what you need: luapool_options options = {sizeof options}; */
typedef struct luapool_options {
  size_t size;           /* sizeof(luapool_options): what was compiled may be older than the library */
  int workers;           /* 0: as many as there are processors */
  const char *start;     /* "fork", "server", "spawn" or "auto"; NULL: "auto" */
  const char *helper;    /* the program that starts workers for "server" and "spawn"; NULL: it is searched (see the README) */
  const char *output;    /* what tasks print: "line", "tag", "order" or "discard"; NULL: "line" */
  double grace;          /* seconds between asking a task to stop and killing its worker; 0: 1 s */
  double timeout;        /* seconds for each item; 0: no limit */
  size_t memory;         /* bytes that a task may allocate; 0: no limit */
  int more;              /* index of a table with any other option of pool.new; 0: none */
  void (*log)(void *context, const char *text); /* is told what else were a Lua warning, for all pools of the state; may be NULL */
  void *log_context;
  const char *descriptors; /* of start = "fork": "keep": tasks have what the program has open; NULL, "close": only 0 to 2 of it */
  int nice;                /* by how much the priority of workers is lower, 1 to 19; LUAPOOL_IDLE: they run where nobody else wants to */
} luapool_options;

/* Of luapool_worker_main; as above. */
typedef struct luapool_worker_options {
  size_t size;
  int (*open_worker)(lua_State *L); /* furnishes the state of workers (its libraries are open); not 0: they cannot start. May raise */
  lua_Alloc allocate;               /* its allocator; NULL: ours */
  void *allocate_context;
} luapool_worker_options;

/* ---- the library ---- */

/* luapool_version, luapool_version_number -- of the library that runs, to be compared with the macros. */
LUAPOOL_API const char *luapool_version(void);
LUAPOOL_API int luapool_version_number(void);

/*
 * luapool_has -- 1: this build of the library has the feature, 0: it has not, and what asks for it is an error that says so, -1: there is
 * no feature of that name. Scripts find the same in pool.features. All builds have them but for those that were made to be small (make
 * SMALL=1, or -DLUAPOOL_SMALL for the amalgamation).
 *   "journal"     the options log and resume        "early"       luapool_init_early
 *   "trace"       the option trace; p:report()      "exceptions"  a Lua that was compiled as C++ may raise its errors through it
 *   "progress"    the option progress
 */
LUAPOOL_API int luapool_has(const char *feature);

/*
 * luaopen_luapool -- the module, for luaL_requiref. Starts no process, no thread, no signal handler. Raises Lua errors, as such
 * functions do.
 */
LUAPOOL_API int luaopen_luapool(lua_State *L);

/*
 * luapool_worker_main -- if this process was executed to start workers, be that: then it returns when the host is gone, and main shall
 * return what it returned. Else -1, at once. Call it first in main: what was opened before is closed, what was started before is in
 * every worker.
 */
LUAPOOL_API int luapool_worker_main(int argc, char **argv, const luapool_worker_options *options);

/*
 * luapool_interrupt -- the pool call that a thread of this process is in, or else the next, ends with the interrupt as its error (pool.
 * is_interrupt knows it); its tasks are cancelled. Async-signal-safe: call it from your handler of SIGINT.
 */
LUAPOOL_API void luapool_interrupt(void);

/*
 * luapool_init_early -- for a program that will have threads, and bindings of its own that tasks need: call it in main(), when the state is
 * furnished, before any thread is started (and after the program has become a daemon, if it does). A copy of the process as it is now is
 * forked, and waits. From then on start = "fork" and "auto" mean: workers are forked from that copy, whatever threads there are by then,
 * and in a time that does not depend on what the program has grown to since. A task finds there what there was: modules, C functions,
 * userdata, the memory behind them, but no open files and sockets (on_start may open what tasks need). A script's functions and data are
 * sent as they are at the call, and C functions and userdata in them (which could be reached from the state's globals, modules or registry
 * at the early start) stand for their copies. What came later and cannot be sent is an error that names it. The copy costs the pages that
 * the program changes afterwards.
 * Once per state; again it does nothing while the copy lives. Each state has a copy of its own. LUAPOOL_ERROR: the process has threads
 * already, or cannot fork; the error was pushed, and all is as before. The copy ends with the state (lua_close) or the process, however
 * that ends; should somebody kill it, "auto" means a server again, and "fork" is refused while there are threads. Waits for nothing; calls
 * the handlers of pthread_atfork; takes time in proportion to the objects of the state (a millisecond for some thousands).
 */
LUAPOOL_API int luapool_init_early(lua_State *L);

/* ---- pools ---- */

/*
 * luapool_open -- a pool; its workers start at first use. NULL for options: the defaults. LUAPOOL_ERROR: what was wrong with the options
 * was pushed, and *out is NULL.
 */
LUAPOOL_API int luapool_open(lua_State *L, const luapool_options *options, luapool **out);

/* luapool_push -- push the pool as the object that scripts use (p:map ...). No room: nothing is pushed. */
LUAPOOL_API int luapool_push(lua_State *L, luapool *p);

/*
 * luapool_run -- call the pool's method `verb` ("map", "imap", "reduce", "apply", "broadcast", "resize", "stats" ...) with the
 * `n_arguments` values on top of the stack, which are popped, and push `n_results` results (LUA_MULTRET: all), or the error. Waits until
 * it is over.
 */
LUAPOOL_API int luapool_run(lua_State *L, luapool *p, const char *verb, int n_arguments, int n_results);

/*
 * luapool_submit -- one task: the function and its n_arguments - 1 arguments are popped, *out is the job. Does not wait for it.
 * luapool_begin -- a call for many items: the function, the source and the options of map_async (as many as n_arguments says). With one
 * item and { priority = "high" }: a task that is begun before all that waits.
 * LUAPOOL_ERROR: the error was pushed, and *out is NULL. Workers that are missing are started: that may take some milliseconds.
 */
LUAPOOL_API int luapool_submit(lua_State *L, luapool *p, int n_arguments, luapool_job **out);
LUAPOOL_API int luapool_begin(lua_State *L, luapool *p, int n_arguments, luapool_job **out);

/*
 * luapool_poll -- 1 if luapool_step would find something to do, else 0. A few loads and a look at the clock: for every frame. (While jobs
 * are open it is 1 at least every 10 ms: nobody tells of deaths and of time that is over.)
 */
LUAPOOL_API int luapool_poll(luapool *p);

/*
 * luapool_step -- do what can be done now (results are read, callbacks run, the dead replaced), and stop when budget_us microseconds are
 * over (0: no limit); what is left is for the next step. Never waits for anybody. The time is looked at every few kilobytes, also amid a
 * large result, which is then read in several steps; what cannot be divided is one string, the room for one table, a step of the collector,
 * a callback, starting a worker. LUAPOOL_OK: no job is open any more; LUAPOOL_PENDING: some are; LUAPOOL_ERROR: a
 * callback failed, or the pool cannot go on: the error was pushed.
 */
LUAPOOL_API int luapool_step(lua_State *L, luapool *p, long budget_us);

/* luapool_fd -- a descriptor that becomes readable when luapool_step has something to do; the pool's, do not close it. -1: none. */
LUAPOOL_API int luapool_fd(luapool *p);

/*
 * luapool_close -- let what was begun finish, then let the workers leave: waits at most `seconds` (negative: as long as it takes).
 * LUAPOOL_PENDING: the time is over, and the pool is as it was. luapool_terminate -- interrupt all tasks, kill who is there after `grace`
 * seconds (negative: the pool's), and reap. Both end the handle, but for LUAPOOL_PENDING; after LUAPOOL_ERROR it has ended, too.
 */
LUAPOOL_API int luapool_close(lua_State *L, luapool *p, double seconds);
LUAPOOL_API int luapool_terminate(lua_State *L, luapool *p, double grace);

/* ---- jobs ---- */

/* luapool_is_done -- 1 when the job is over, as far as steps have seen it. No system call. */
LUAPOOL_API int luapool_is_done(const luapool_job *job);

/*
 * luapool_result -- what came of it: `n_results` results are pushed, or its error. Waits at most `seconds` (0: not at all; negative: as
 * long as it takes); LUAPOOL_PENDING: it is not over. May be asked for more than once.
 */
LUAPOOL_API int luapool_result(lua_State *L, luapool_job *job, double seconds, int n_results);

/*
 * luapool_cancel -- what has not run is dropped, what runs is interrupted. Does not wait.
 * luapool_forget -- the handle is not needed any more; a job that runs goes on. Both also when it is over.
 */
LUAPOOL_API int luapool_cancel(lua_State *L, luapool_job *job);
LUAPOOL_API void luapool_forget(lua_State *L, luapool_job *job);

#ifdef __cplusplus
}
#endif

#endif
