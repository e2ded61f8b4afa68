/*
 * base/wire -- messages between two processes over a socket of os_socket_pair: a kind, a few bytes, a few descriptors.
 *
 * Room: base (may include base/os.h).  Owns: nothing; descriptors that arrive belong to the receiver.
 * Every int result is 0 (or what it says) on success and a negative errno on failure. SIGPIPE never comes.
 * Fork: stateless.  Signals: a wait ends with -EINTR, and nothing is lost: the same call made again goes on (wire_receive), or the
 * connection is of no use any more (wire_send).
 */
#ifndef LUAPOOL_BASE_WIRE_H
#define LUAPOOL_BASE_WIRE_H

#include <stddef.h>
#include <stdint.h>

enum { WIRE_MAX_BYTES = 60 * 1024, WIRE_MAX_FDS = 16 };

/* What was received so far, and then the message. One for each socket that is read from. */
struct wire_message {
  uint32_t kind;
  size_t length;
  unsigned char *data; /* allocated; wire_free */
  int fds[WIRE_MAX_FDS];
  size_t n_fds;
  /* while it arrives: */
  size_t capacity, got;
  int is_cut; /* there was no room for descriptors in this process */
  unsigned char head[16];
};

void wire_init(struct wire_message *m);

/* wire_free -- give back the buffer, and close descriptors that nobody took (set n_fds to 0 to keep them). Idempotent. */
void wire_free(struct wire_message *m);

/* wire_forget -- what was received so far was of a connection that is over: the next message begins a new one. */
void wire_forget(struct wire_message *m);

/*
 * wire_send -- send one message, waiting for room until until_ns (CLOCK_MONOTONIC; -1: for ever).
 * 0; -EMSGSIZE; -EPIPE, -ECONNRESET: nobody reads; -ETIMEDOUT; -EINTR; -errno.
 */
int wire_send(int socket, uint32_t kind, const void *data, size_t length, const int *fds, size_t n_fds, int64_t until_ns);

/*
 * wire_receive -- the next message, in *m (what it held before is given back). Waits until until_ns (0: just look).
 * 1: there it is; 0: not (all of it) here yet; -EPIPE: the other side has closed; -EBADMSG: that is no message of ours;
 * -EMFILE: there it is, but there was no room for all of its descriptors (those that came are in *m); -EINTR; -errno.
 */
int wire_receive(int socket, struct wire_message *m, int64_t until_ns);

#endif
