/*
 * cluster/engine -- what carries records between the relays of the nodes: one table of functions, so that another engine is another file.
 *
 * Room: cluster.  An engine is a shared object with the symbol `luapool_engine`, found at run time: the program itself links none.
 * All functions are called by one thread of one process, the relay, which runs no Lua. None of them may block, but for `start` and `stop`.
 * Addresses are ranks: 0 is the manager.
 */
#ifndef LUAPOOL_CLUSTER_ENGINE_H
#define LUAPOOL_CLUSTER_ENGINE_H

#include <stddef.h>

#define ENGINE_SYMBOL "luapool_engine"
enum { ENGINE_ABI = 1 };

struct engine {
  int abi;          /* ENGINE_ABI of what it was built with */
  const char *name; /* for people: "Open MPI 4.1.4" */

  /* start -- join the others. 0; or -1, and the text says why. May block while the others start. */
  int (*start)(int *rank, int *size, char *text, size_t capacity);

  /* send -- take over a block from malloc and have it sent; messages to the same rank arrive in their order. 0 or -errno (block freed). */
  int (*send)(int to, void *data, size_t length);

  /* probe -- is there a message that can be received? Then it is begun. Progress is made by the way. 0, or -errno: the engine is broken. */
  int (*probe)(void);

  /* receive -- a message that has come whole: 1, *data is the caller's (free); 0: none; -errno. */
  int (*receive)(int *from, void **data, size_t *length);

  /*
   * progress -- let what is being sent go on. How many messages are under way, or -errno; *lost (or -1): a rank that the engine knows is
   * gone.
   */
  int (*progress)(int *lost);

  /* forget -- that rank is lost: what is under way to and from it does not count any more. */
  void (*forget)(int rank);

  /* stop -- leave. is_clean: all others do so, too (may wait for them); else without a word. */
  void (*stop)(int is_clean);
};

#endif
