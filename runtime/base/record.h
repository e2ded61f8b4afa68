/*
 * base/record -- records over a non-blocking socket: a head of eight bytes, then at most RECORD_MOST bytes of whatever it is.
 *
 * Room: base.  Owns: the descriptor and two buffers.
 * What goes between a script, the process that speaks MPI, and a node's pool (see cluster/relay.h) goes in these, on sockets as over MPI.
 * Fork: close it in the process that does not need it.  Signals: not from a handler; SIGPIPE does not come.  Nothing here blocks.
 */
#ifndef LUAPOOL_BASE_RECORD_H
#define LUAPOOL_BASE_RECORD_H

#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

enum record_kind {
  RECORD_DATA = 1, /* script <-> node: a piece of a message */
  RECORD_READY,    /* relay -> script: how many nodes there are (uint32_t) */
  RECORD_LOST,     /* relay -> script: that node is lost, and why (text) */
  RECORD_LOAD,     /* relay -> script: that node's load average (double) */
  RECORD_BEAT,     /* between relays: I am alive; the load average */
  RECORD_DOWN,     /* relay -> manager: my node's pool is gone, why */
  RECORD_STOP,     /* manager -> relays: end your pool */
  RECORD_BYE,      /* relay -> manager: it has ended */
  RECORD_END,      /* manager -> relays: leave; the first byte: may MPI be finalized? */
  RECORD_KINDS
};

struct record {
  uint32_t length; /* of what follows */
  uint16_t node;
  uint8_t kind;
  uint8_t more;    /* the message goes on in the next record of that node */
};

enum { RECORD_HEAD = sizeof(struct record), RECORD_MOST = 1 << 20, RECORD_NODES = 1 << 16 };

struct record_link {
  int fd; /* -1: closed */
  struct bytes in, out;
  size_t in_at, out_at; /* what was taken of them */
};

/* record_open -- take over a non-blocking stream socket. record_close -- idempotent. */
void record_open(struct record_link *link, int fd);
void record_close(struct record_link *link);

/* record_put -- append a record to what is to be written. 0 or -ENOMEM. */
int record_put(struct record_link *link, enum record_kind kind, unsigned node, int more, const void *data, size_t length);

/* record_flush -- write what can be written: 1: some is left; 0: none; -EPIPE: the other end is gone; -errno. */
int record_flush(struct record_link *link);

/* record_fill -- read what is there: 1: something came; 0: nothing; -EPIPE: the other end is gone; -errno. */
int record_fill(struct record_link *link);

/* record_next -- take the next whole record: 1 (*data is valid until the next record_fill); 0: none is whole; -EBADMSG. */
int record_next(struct record_link *link, struct record *head, const unsigned char **data);

/* record_waiting -- bytes that wait to be written. */
static inline size_t record_waiting(const struct record_link *link) {
  return link->out.length - link->out_at;
}

#endif
