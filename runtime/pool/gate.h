/*
 * pool/gate -- may a worker begin something, as busy as the machine is? (may include base/os.h)
 *
 * Room: pool.  Owns: nothing. In the worker alone.  Reads /proc, ten times a second at most, and waits for nothing.
 */
#ifndef LUAPOOL_POOL_GATE_H
#define LUAPOOL_POOL_GATE_H

#include <stdint.h>

struct gate {
  uint64_t least_memory; /* bytes that must be left; 0: as many as there are */
  uint64_t most_load;    /* thousandths of processes that may run besides this one; 0: any number */
  int64_t next_look_ns;  /* CLOCK_MONOTONIC: until then, what was seen last counts */
  uint32_t number;       /* of the worker: not all look at the same time */
  int is_closed;         /* at the last look */
};

/* gate_is_closed -- 1: not now; look again at gate->next_look_ns. Where the system does not tell, it is open. */
int gate_is_closed(struct gate *gate);

#endif
