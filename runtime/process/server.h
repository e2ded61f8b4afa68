/*
 * process/server -- workers that are not copies of the host: a program (the helper), executed once, forks them on request and says how they
 * ended; or is executed for each of them and becomes it.
 *
 * Room: process (may include process/process.h and process/interrupt.h).
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

/* ---- the host ---- */

struct server {
  struct process_witness witness; /* of the workers; its fd is the socket while the helper answers */
  struct process_witness lost;    /* of those whose helper is gone: it knows nothing */
  struct process helper;          /* its lifeline is the socket */
  struct process **workers;       /* those it was asked for, as long as they are not forgotten */
  size_t n_workers, capacity;
  struct wire_message message;
  struct {                        /* the answer to a request, when it has come */
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
 * server_start -- have a worker forked. `order` and the descriptors go to it. 1: *p is it; -errno, with s->complaint. Waits for the answer.
 */
int server_start(struct server *s, struct process *p, const void *order, size_t length, const int *fds, size_t n_fds,
                 _Atomic uint32_t *command, int64_t patience_ns);

/*
 * server_become -- execute a helper that becomes the worker itself: a child of the calling process. As server_open and server_start.
 * `s` serves for its complaint alone.
 */
int server_become(struct server *s, const struct server_options *options, struct process *p, const void *order, size_t length,
                  const int *fds, size_t n_fds, _Atomic uint32_t *command);

/*
 * server_fork -- the helper is a copy of the calling process as it is, which must have one thread: workers that are started later are copies
 * of that copy. It does `work`, without being configured. Several may use the same one (s->witness.is_shared). 0 in the host; -errno. In the
 * copy it does not return.
 */
struct server_work;
int server_fork(struct server *s, const struct server_work *work);

/* server_close -- the helper ends (within 1 s, or is killed), with whoever it started. Blocks for a moment. Idempotent. */
void server_close(struct server *s);

/* server_abandon -- in a forked copy of the host: touch no process. */
void server_abandon(struct server *s);

/* ---- the helper ---- */

/* What the floor above does with it. */
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
  /* In the helper, after it: give back what prepare made. */
  void (*release)(void *context);
};

/*
 * server_main -- be a helper for the process at the other end of standard input. Call it before the program has opened anything: all
 * descriptors above 2 are closed. Returns the exit status when the host is gone: 0; 2: standard input is no such socket.
 */
int server_main(const struct server_work *work);

#endif
