/*
 * process/server -- workers that are not copies of the host: a program (the helper), executed once, forks them on request and says how they
 * ended; or is executed for each of them and becomes it.
 *
 * Room: process (may include process/process.h, process/process_parts.h and process/interrupt.h).
 * Owns: in the host, the helper, the socket to it, and the list of processes that it was asked for. In the helper, these.
 * The socket is the helper's life: when it closes, however the host went, the helper ends, and its workers with it. Ignorant of what
 * the bytes of a configuration and of an order mean, and of which descriptors go along: that is the caller's.
 * Fork: the host's side belongs to the process that opened it.  Signals: not from a handler.
 */
#ifndef LUAPOOL_PROCESS_SERVER_H
#define LUAPOOL_PROCESS_SERVER_H

#include <stddef.h>
#include <stdint.h>

#include "base/wire.h"
#include "process/process.h"

/* The argument that makes a program a helper: argv[1]. */
#define SERVER_ARGUMENT "--luapool-worker"

/* So many orders may be on their way: the kernel limits how many descriptors a user's messages carry (RLIMIT_NOFILE). */
enum { SERVER_MOST_ORDERS = 16 };

/* ---- the host ---- */

struct server {
  struct process_witness witness; /* of the workers; its fd is the socket while the helper answers */
  struct process_witness lost;    /* of those whose helper is gone: it knows nothing */
  struct process helper;          /* its lifeline is the socket */
  struct process **workers;       /* those it was asked for, as long as they are not forgotten */
  size_t n_workers, capacity;
  struct wire_message message;
  struct server_order {
    struct process *process;
    int lifeline;                 /* the host's end */
    struct server_place {         /* where the worker can be found, beside its process */
      _Atomic uint32_t *command;  /* as process_child's; or NULL */
      int register_fd;            /* before it does anything it locks byte `number` of this file (share_lock); -1: it does not */
      uint32_t number;
    } place;
  } orders[SERVER_MOST_ORDERS];   /* that were sent and are not collected, a ring: the helper answers in their order */
  size_t first_order, n_orders;
  struct {                        /* the answer to the first of them, when it has come */
    int has_come;
    int32_t pid;                  /* or -errno */
    int pidfd;
  } answer;
  char complaint[512];            /* why the last call failed, in words */
};

struct server_options {
  const char *path;       /* of the helper; without a slash it is searched in PATH */
  const void *config;     /* the first message: what a helper must know and check before it starts anybody */
  size_t length;
  int64_t patience_ns;    /* for each answer */
};

/* server_init -- no helper. */
void server_init(struct server *s);

/* server_is_open -- 1 while there is a helper that has not gone. */
int server_is_open(const struct server *s);

/*
 * server_open -- execute the helper and configure it. Waits for its answer. 0; -errno, and s->complaint says what was wrong (-EPROTO: it
 * refused; -EINTR: a signal came).
 */
int server_open(struct server *s, const struct server_options *options);

/*
 * server_order -- have a worker forked: `order` and the descriptors go to it, and can be closed here. Does not wait for the helper, which
 * works while further orders are written: at most SERVER_MOST_ORDERS. *p must stay where it is until the order is collected, and is what
 * server_collect makes of it. place NULL: nothing is known. 0; -errno, with s->complaint: nothing was ordered (-ETOOMANYREFS: collect some
 * first).
 */
int server_order(struct server *s, struct process *p, const void *order, size_t length, const int *fds, size_t n_fds,
                 const struct server_place *place, int64_t patience_ns);

/*
 * server_collect -- the first order that is not collected yet: who was started? Waits for the answer. 1: its *p is it; -errno, with
 * s->complaint: nobody. When the helper is gone, each of its orders is still to be collected (-EPIPE): it may have started somebody,
 * who has run then until now, and has left. Whoever does not leave within 1 s and can be found is killed, and 1 is returned: his end
 * is still to be reaped. -EBUSY: somebody does not leave, and cannot be found.
 */
int server_collect(struct server *s, int64_t patience_ns);

/*
 * server_become -- execute a helper that becomes the worker itself: a child of the calling process. As server_open and server_start.
 * `s` serves for its complaint alone.
 */
int server_become(struct server *s, const struct server_options *options, struct process *p, const void *order, size_t length,
                  const int *fds, size_t n_fds, _Atomic uint32_t *command);

/*
 * server_fork -- the helper is a copy of the calling process as it is, which must have one thread: workers that are started later are
 * copies of that copy. It does `work`, without being configured. Several may use the same one (s->witness.is_shared). 0 in the host;
 * -errno. In the copy it does not return.
 */
struct server_work;
int server_fork(struct server *s, const struct server_work *work);

/* server_close -- the helper ends (within 1 s, or is killed), with whoever it started. Blocks for a moment. Idempotent. */
void server_close(struct server *s);

/* server_abandon -- in a forked copy of the host: touch no process. */
void server_abandon(struct server *s);

/* ---- the helper ---- */

/* What the floor above does with it. No error may leave these functions (this floor has no tables by which an exception passes). */
struct server_work {
  void *context;
  /* The first message. 0, or -errno with a text: the host is told, and the helper ends. */
  int (*configure)(void *context, const void *config, size_t length, char *text, size_t capacity);
  /*
   * An order came with these descriptors (registered with process/process; the helper closes its own afterwards): fill in output, host and
   * command of *child. 0 or -errno: nobody is started.
   */
  int (*prepare)(void *context, const void *order, size_t length, const int *fds, size_t n_fds, struct process_child *child);
  /* In the worker, right after process_fork or process_become. Does not return. */
  void (*run)(void *context);
  /* In the helper, when no further order is at hand: give back what was kept of the last ones. Maybe without any since. */
  void (*release)(void *context);
  /* In the helper, before its first worker: make what all of them will need, as far as that can be made now. NULL: nothing. */
  void (*settle)(void *context);
};

/*
 * server_main -- be a helper for the process at the other end of standard input. Call it before the program has opened anything: all
 * descriptors above 2 are closed. Returns the exit status when the host is gone: 0; 2: standard input is no such socket; 126: it could not
 * begin, or not go on.
 */
int server_main(const struct server_work *work);

#endif
