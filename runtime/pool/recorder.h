/*
 * pool/recorder -- the pool's side of its record: collects what workers put down, and notes what became of them.
 *
 * Room: pool (may include pool/crew.h and pool/trace.h).  Owns: the shared memory of the record, as long as the pool lives.
 * A pool has it from its record alone (struct trace): a program in which nobody keeps records is linked without it. record.c asks it.
 */
#ifndef LUAPOOL_POOL_RECORDER_H
#define LUAPOOL_POOL_RECORDER_H

#include <stdint.h>

#include "memory/events.h"

struct pool;
struct trace;

/* What record.c offers, of a pool with a record. */
struct recorder {
  int (*open)(struct pool *p, struct trace *t);
  void (*close)(struct pool *p);
  void (*end)(struct pool *p);
  void (*collect)(struct pool *p);
  void (*collect_dead)(struct pool *p, uint32_t number);
  void (*mark)(struct pool *p, uint32_t number, int kind, int64_t what);
  void (*note)(struct pool *p, enum event_kind kind, int64_t began_ns, int64_t ended_ns);
};

extern const struct recorder pool_recorder;

#endif
