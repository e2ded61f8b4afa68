/*
 * command/ranks -- this program as one of the processes that an MPI launcher started: what each of its own processes becomes.
 *
 * Room: command (may print and exit).  Owns: nothing after ranks_begin.
 */
#ifndef LUAPOOL_COMMAND_RANKS_H
#define LUAPOOL_COMMAND_RANKS_H

#include <lua.h>

enum rank_role {
  RANK_NONE,   /* nobody launched us: a program of its own */
  RANK_SCRIPT, /* the script of a job on many nodes */
  RANK_POOL    /* the pool of a node */
};

/*
 * ranks_begin -- if an MPI launcher started this process (its environment says so): fork the pool of this node and, on rank 0, the script,
 * become the relay (cluster/relay.h), and exit when the job is over. Returns in the children, and where there was no launcher.
 *   fd   set to the socket to the relay in the children
 * To be called before any signal is caught and any thread or Lua state exists.
 */
enum rank_role ranks_begin(int *fd);

/* ranks_engine -- the path of the engine, where it is looked for first: in static storage. 1: it is there; 0: it is not. */
int ranks_engine(const char **path);

#define RANKS_NO_ENGINE "no engine for MPI here (%s): build it with 'make MPI=1' (needs libopenmpi-dev or libmpich-dev)"

/* ranks_catch_signals -- in the script: what the launcher can send through mpirun (SIGUSR1, SIGUSR2) becomes SIGINT, SIGTERM. */
void ranks_catch_signals(void);

/*
 * ranks_tell -- tell the launcher the script's status: the manager does, and the script itself where that has ended before it. Returns the
 * status that this process is to end with. Async-signal-safe.
 */
int ranks_tell(int status);

/*
 * ranks_run -- the Lua side: a pool serves until the job is over; the script waits until all nodes are there. Inside a protected call.
 * Returns LUA_OK, or a status after it was reported.
 */
int ranks_run(lua_State *L, enum rank_role role);

#endif
