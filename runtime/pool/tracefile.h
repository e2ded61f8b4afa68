/*
 * pool/tracefile -- a file in Chrome's Trace Event Format (an array of JSON), for chrome://tracing, Perfetto and speedscope.
 *
 * Room: pool.  Owns: the descriptor, and what is not written yet (at most a second's events, or FLUSH_BYTES).
 * The file is whole JSON after every write: each overwrites the closing bracket of the one before. So it can be read at any time, and after
 * any end of the process; what the host had not collected by then is missing.
 * The first failure is the last write: the file is left as it was before, whole, and tracefile_status tells. Nothing raises or waits.
 * Fork: belongs to the process that opened it; elsewhere every function does nothing.
 */
#ifndef LUAPOOL_POOL_TRACEFILE_H
#define LUAPOOL_POOL_TRACEFILE_H

#include <stdint.h>
#include <sys/types.h>

#include "base/bytes.h"
#include "memory/events.h"

enum { TRACEFILE_NAME = 200 };

struct tracefile {
  int fd; /* -1: closed */
  pid_t owner;
  int is_told;       /* the caller's: somebody knows that */
  int status;        /* 0, or -errno of what ended the writing */
  uint64_t end;      /* of the last whole event in the file */
  uint64_t events;   /* so far */
  struct bytes out;  /* behind that: not written yet */
  int64_t began_ns;  /* times in the file are since then */
  int64_t written_ns;
  char name[TRACEFILE_NAME]; /* of the file, for messages; cut to what fits */
};

/* tracefile_init -- closed. tracefile_open -- make it anew. 0; -ENOTSUP: no regular file; -EAGAIN: another trace goes there; -errno. */
void tracefile_init(struct tracefile *f);
int tracefile_open(struct tracefile *f, const char *path);

/* tracefile_close -- write what is left. Idempotent. Returns the status. */
int tracefile_close(struct tracefile *f);

/* tracefile_flush -- write what is left (`lazily`: unless it is little, and the last write was a moment ago). */
void tracefile_flush(struct tracefile *f, int lazily);

/*
 * Group `pid` is a pool, track `tid` in it a worker or the host.
 * tracefile_name -- the group's name (tid 0), or a track's; `json` is a string of JSON, quotes included.
 * tracefile_stretch -- an event with a length; `note` (NULL: none) is added to its name.
 * tracefile_moment -- something happened; `json` (NULL: none) are members of an object, such as "\"signal\":9".
 * tracefile_memory -- how much memory a worker's Lua uses.
 */
void tracefile_name(struct tracefile *f, uint32_t pid, uint32_t tid, const char *json);
void tracefile_stretch(struct tracefile *f, uint32_t pid, uint32_t tid, const struct event *event, const char *note);
void tracefile_moment(struct tracefile *f, uint32_t pid, uint32_t tid, int64_t at_ns, const char *name, const char *json);
void tracefile_memory(struct tracefile *f, uint32_t pid, uint32_t worker, int64_t at_ns, uint64_t bytes);

#endif
