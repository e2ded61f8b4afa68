/*
 * pool/journal -- the log of a long call as a file: whole lines, each with a checksum, written in batches, never half a line in the middle.
 *
 * Room: pool.  Owns: the descriptor (with its lock), what is not yet written, and what is being read.
 * What the lines say is nothing to this room: text without line ends.
 * Only one process at a time has a journal open, and in it only one handle. The descriptor is registered with process/process, so that
 * workers close their copy: the lock ends with its process.
 * Fork: belongs to the process that opened it; in any other every call does nothing, or says -EPERM.
 * Blocks in the file system only, and in journal_open for JOURNAL_LOCK_WAIT_NS.
 */
#ifndef LUAPOOL_POOL_JOURNAL_H
#define LUAPOOL_POOL_JOURNAL_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/bytes.h"

/* How long an end may take that has been decided: the kernel frees the memory of a killed host before its locks. */
#define JOURNAL_LOCK_WAIT_NS INT64_C(1000000000)

struct journal {
  int fd;           /* -1: closed */
  pid_t owner;
  int has_lock;     /* 0: the file system has none */
  int is_dirty;     /* the file may hold something that is not on the medium */
  struct bytes out; /* whole lines that are not known to be on the medium; they stand, or will stand, at out_at */
  uint64_t out_at;
  size_t written;   /* of out, bytes that are in the file */
  struct bytes in;  /* a piece of the file, from in_at, for reading */
  uint64_t in_at;
};

/* journal_init -- a handle that holds nothing. */
void journal_init(struct journal *j);

/*
 * journal_open -- open or make the file, and lock it.
 * Returns 0; -EAGAIN: somebody else has it open; -ENOTSUP: no regular file; -errno. After a failure *j is as after journal_init.
 */
int journal_open(struct journal *j, const char *path);

/*
 * journal_next -- the line at *offset.
 *   line, length   its text, checksum included, without line end; valid until the next call with this handle
 *   is_whole       1: the checksum is right; 0: it is damaged, or never had one
 * Returns 1, and *offset is behind it; 0: from *offset on there is no line end any more; -errno.
 */
int journal_next(struct journal *j, uint64_t *offset, const char **line, size_t *length, int *is_whole);

/* journal_peek -- the first bytes of the file, at most `size`: how many, or -errno. */
ssize_t journal_peek(const struct journal *j, char *text, size_t size);

/*
 * journal_cut -- the file ends at `size` from now on (a torn last line is dropped, or everything), and lines are added there. What waited
 * to be written is forgotten. Call it before the first journal_add. 0 or -errno.
 */
int journal_cut(struct journal *j, uint64_t size);

/* journal_size -- bytes in the file now, or -errno. */
int64_t journal_size(const struct journal *j);

/*
 * journal_add -- one more line (with its checksum added), to be written by the next flush.
 *   text   an object of JSON on one line, "{...}": the checksum becomes its last member, "c"
 * Returns 0 or -ENOMEM (nothing was added).
 */
int journal_add(struct journal *j, const char *text, size_t length);

/*
 * journal_flush -- write what waits: it survives the death of this process. No system call if nothing waits.
 * journal_sync -- the same, and wait until it is on the medium, with all that was found in the file: it survives a power cut.
 * Return 0, or -errno: whatever was added since the last successful sync is kept, and written again by the next flush or sync, so that
 * its success covers all of it. What stands in the file meanwhile is whole lines and at most one torn one at the end.
 */
int journal_flush(struct journal *j);
int journal_sync(struct journal *j);

/* journal_close -- flush, sync and close; the descriptor is closed in any case. 0 or -errno of the flush or sync. Idempotent. */
int journal_close(struct journal *j);

/* journal_abandon -- close without writing what waits. Idempotent. */
void journal_abandon(struct journal *j);

#endif
