/*
 * memory/segment -- one object of shared memory: a file of memory without a name, mapped, that the kernel frees with its last user.
 *
 * Room: memory.  Owns: the descriptor, the mapping, and itself, by counting references in this process.
 * The file begins with a header that says what it is; the object's own bytes follow. All of it is reserved when it is made, so that no
 * access ends in SIGBUS.
 * Fork: a child goes on with its copy (descriptor and mapping are inherited; the references count in each process by itself).
 * A process that lives already opens it by its address: through a holder's descriptors in /proc. Nothing named is ever left.
 * Signals: not from a handler.  Threads: a segment belongs to one Lua state.
 * A process must not have the same file twice (record locks would fall, see base/share): whoever opens addresses looks first whether
 * it has that segment already.
 */
#ifndef LUAPOOL_MEMORY_SEGMENT_H
#define LUAPOOL_MEMORY_SEGMENT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The first bytes of the file. Written by whoever makes it, before anybody else can know of it; constant from then on. */
struct segment_header {
  uint64_t magic;
  uint32_t kind;    /* what it is: up to the room that made it */
  uint32_t detail;
  uint64_t length;
  uint64_t birth;   /* when it was made: a file system may give the number of a file that is gone to the next one */
  uint64_t reserved[4];
};

enum { SEGMENT_HEADER_BYTES = sizeof(struct segment_header) }; /* 64: what follows is aligned for everything */

struct segment {
  int fd;
  unsigned char *data;     /* the whole file, header included */
  uint64_t size;           /* bytes that are mapped */
  uint64_t device, inode;
  pid_t maker;             /* the process that made it, and its descriptor there */
  int maker_fd;
  uint32_t references;
  uint64_t local;          /* the object's own note about this process; 0 at first */
};

/* How another process finds a segment. Plain bytes, to be sent as they are. */
struct segment_address {
  uint64_t device, inode;
  int32_t maker, maker_fd;   /* where to open it: first there, ... */
  int32_t sender, sender_fd; /* ... else at the process that sent the address */
  uint64_t birth;
};

/*
 * segment_make -- a new segment of `bytes` zeros behind its header, with one reference.
 * Returns 0 and *out, or -errno (-ENOMEM, -ENOSPC, -EFBIG: no room for it; -EMFILE, -ENFILE: no descriptor): nothing is left.
 */
int segment_make(struct segment **out, uint32_t kind, uint32_t detail, uint64_t length, uint64_t bytes);

/* segment_is -- 1 if the descriptor is a segment's, whoever made it. */
int segment_is(int fd);

/*
 * segment_open -- the segment at an address, with one reference. Only if this process does not have it yet.
 * Returns 0; -ESTALE: it is not there any more; -EACCES, -EPERM: its holder may not be looked at; -EBADMSG: it is no segment; -errno.
 */
int segment_open(struct segment **out, const struct segment_address *address);

/* segment_address -- fill in where others can open it, as long as this process keeps it (or its maker does). */
void segment_address(const struct segment *s, struct segment_address *address);

/* segment_keep, segment_drop -- one reference more, or less; the last one unmaps and closes (drop returns 1 then). NULL: nothing. */
void segment_keep(struct segment *s);
int segment_drop(struct segment *s);

/*
 * segment_remap -- map `size` bytes of a file that has grown; the address changes. 0, or -errno (nothing changed).
 */
int segment_remap(struct segment *s, uint64_t size);

static inline struct segment_header *segment_header(const struct segment *s) {
  return (struct segment_header *)(void *)s->data;
}

/* segment_body -- what follows the header. */
static inline unsigned char *segment_body(const struct segment *s) {
  return s->data + SEGMENT_HEADER_BYTES;
}

/* segment_body_bytes -- how much of it is mapped. */
static inline uint64_t segment_body_bytes(const struct segment *s) {
  return s->size - SEGMENT_HEADER_BYTES;
}

#endif
