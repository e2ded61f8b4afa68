/*
 * bad_leaver -- an engine of one rank, alone whatever the launcher said, that does not come back when it is told to stop: it ends by the
 * signal whose number is in BAD_LEAVER, or waits for ever (0). For tests/test_mpi.lua, which needs no MPI for it.
 */
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "cluster/engine.h"

extern const struct engine luapool_engine;

static int start(int *rank, int *size, char *text, size_t capacity) {
  (void)text, (void)capacity;
  *rank = 0;
  *size = 1;
  return 0;
}

static void stop(int is_clean) {
  const char *signo = getenv("BAD_LEAVER");
  (void)is_clean;
  if (signo && atoi(signo)) (void)raise(atoi(signo));
  for (;;) pause();
}

const struct engine luapool_engine = {.abi = ENGINE_ABI, .name = "bad leaver", .start = start, .stop = stop};
