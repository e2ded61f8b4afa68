/*
 * pool/recruit -- workers that are not forked from their host: what they would have inherited is sent to them.
 *
 * Room: pool (may include pool/output.h and pool/worker.h).  Owns: in the helper, what an order brought, until the worker is forked; what
 * orders of one pool share (the mappings of its board and record), as long as further ones are at hand.
 * The host's side is pool/pool.h: pool_options.start. This is the other one, for struct server_work of process/server.h: the context of the
 * three functions is a struct recruit, of which the caller fills in `tasks` (and clears the rest).
 * Both sides are the same build of luapool: the floor above compares that before the first order.
 */
#ifndef LUAPOOL_POOL_RECRUIT_H
#define LUAPOOL_POOL_RECRUIT_H

#include <stddef.h>
#include <stdint.h>

#include "base/share.h"
#include "memory/arena.h"
#include "memory/board.h"
#include "memory/events.h"
#include "pool/output.h"
#include "pool/worker.h"
#include "process/process.h"

enum { RECRUIT_MAX_FDS = 9 };

/* What is sent with the descriptors of board, input memory, both bells, the two that tasks print into, and the record. */
struct recruit_order {
  uint32_t number;
  int32_t host;           /* its pid */
  uint32_t output_kind;
  uint32_t n_fds;
  uint32_t n_events;      /* of the record; 0: there is none */
  uint32_t bell_fds;      /* descriptors of each bell: 1 or 2 */
  struct worker_terms terms;
  uint64_t boot_offset, boot_length; /* in input memory: what the tasks need to begin; length 0: nothing */
  unsigned char token[OUTPUT_TOKEN_BYTES];
};

struct recruit {
  struct worker_tasks tasks;
  struct recruit_order order;
  struct board *board;    /* mapped, and which file it is; NULL: none */
  struct share_identity board_is;
  struct events *events;  /* the same board's record */
  uint32_t n_events;
  int board_fd, arena_fd, events_fd;
  struct os_bell bell, host_bell;
  int writers[2];
};

int recruit_prepare(void *context, const void *order, size_t length, const int *fds, size_t n_fds, struct process_child *child);
void recruit_run(void *context); /* does not return */
void recruit_release(void *context);

/* ---- the host (pool/pool.c) ---- */

/* recruit_list_fds -- the descriptors to send, in their order; how many is noted in the order. */
void recruit_list_fds(struct recruit_order *order, int fds[RECRUIT_MAX_FDS], int board_fd, int arena_fd, int events_fd,
                      const struct os_bell *bell, const struct os_bell *host_bell, const int writers[2]);

#endif
