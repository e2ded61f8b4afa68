/*
 * cluster/relay -- the process of each rank that speaks to the other nodes: it carries records, notices who is lost, ends what is left.
 *
 * Room: cluster (may include cluster/engine.h).  Owns: the sockets to this rank's other processes, and their ends.
 * Rank 0 is the manager. The script and the pool of each node are processes of their own, forked before the engine was started: Lua may
 * compute for hours between two calls while the relay goes on answering, and a process that crashes takes nothing else with it.
 *
 *   script == socket == relay of rank 0 == engine == relay of rank k == socket == pool of node k
 *                          || socket
 *                       pool of node 0
 *
 * Every relay tells the manager that it lives, and the manager tells them, at least every second. Who is silent for `lost_after` is lost: a
 * node's work is the script's to give to others, a manager's nodes end by themselves.
 */
#ifndef LUAPOOL_CLUSTER_RELAY_H
#define LUAPOOL_CLUSTER_RELAY_H

#include <stdint.h>
#include <sys/types.h>

#include "cluster/engine.h"

struct relay_options {
  const struct engine *engine; /* started */
  int rank, size;
  int pool_fd;    /* socket to the process of this node's pool, which is child `pool` */
  pid_t pool;
  int script_fd;  /* manager: to the script, which is child `script`; -1 */
  pid_t script;
  pid_t parent;   /* the launcher's process on this node: when it is gone, the job is */
  int64_t lost_after_ns;
};

/*
 * relay_run -- carry records until the script has ended (manager) or the manager says so (others). Blocks, that is its purpose; asleep as
 * long as nothing happens. Both children are reaped when it returns.
 *   *status    manager: the script's, as a shell says it (128 + signal); others: 0, or 1 if the manager was lost
 * Returns 1: all others end in order, too; 0: something was lost.
 */
int relay_run(const struct relay_options *options, int *status);

#endif
