/*
 * bad_leaver -- an engine of one rank, alone whatever the launcher said, that does not come back when it is told to stop: it ends by the
 * signal that BAD_LEAVER names (SEGV, ABRT, BUS), else it waits for ever. For tests/test_mpi.lua, which needs no MPI for it.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
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
  const char *way = getenv("BAD_LEAVER");
  (void)is_clean;
  if (way && strcmp(way, "SEGV") == 0) (void)raise(SIGSEGV);
  if (way && strcmp(way, "ABRT") == 0) (void)raise(SIGABRT);
  if (way && strcmp(way, "BUS") == 0) (void)raise(SIGBUS);
  for (;;) pause();
}

const struct engine luapool_engine = {.abi = ENGINE_ABI, .name = "bad leaver", .start = start, .stop = stop};
