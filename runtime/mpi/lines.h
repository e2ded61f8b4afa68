/*
 * mpi/lines -- the TCP connections that MPI has made in this process: which of them leads to whom, and which has ended.
 *
 * Room: mpi.  Owns: a second descriptor of each connection that is watched.
 * MPI itself tells nobody that a process is gone. The kernel does: whatever a process dies of, its connections end at once. Both sides say
 * which connections they have; what is the same seen from both sides joins them. Nothing is read from them here, or written. Linux;
 * elsewhere (and where MPI uses shared memory, or a network that is not TCP) there are none, and silence must tell.
 */
#ifndef LUAPOOL_MPI_LINES_H
#define LUAPOOL_MPI_LINES_H

#include <limits.h>
#include <stddef.h>

enum { LINE_END = 18 }; /* an address (IPv4 in the form of IPv6) and a port, as bytes */

struct line {
  unsigned char here[LINE_END], there[LINE_END];
  int fd; /* of whoever made the list */
};

/*
 * lines_list -- the connections that are open now, sorted for lines_match. *lines is from malloc (free). How many; 0 if that cannot be
 * told.
 */
size_t lines_list(struct line **lines);

/* lines_match -- which of our connections is one of somebody else's list? Its index in `own`, and in the other's; or -1. */
int lines_match(const struct line *own, size_t n_own, const struct line *other, size_t n_other, int *index);

/* lines_watch -- that rank is at the other end of this descriptor, which remains MPI's. What cannot be watched is not. */
void lines_watch(int rank, int fd);

/* lines_broken -- a rank to which a watched connection has ended, each once; -1: none. It may be that what came before was not read yet. */
int lines_broken(void);

/*
 * lines_room -- how many bytes the system takes for that rank at this moment, without any of them waiting in this process: about; -1: the
 * connection has ended; LINES_UNKNOWN: none is watched, or the system does not tell. LINES_EMPTY: nothing waits there, all room is free.
 */
enum { LINES_ENDED = -1, LINES_EMPTY = INT_MAX - 1, LINES_UNKNOWN = INT_MAX };
int lines_room(int rank);

/* lines_hurry -- small messages shall leave at once, on all connections of this process. */
void lines_hurry(void);

#endif
