/* mpi/lines -- see lines.h (may include mpi/lines.h). */
#include "mpi/lines.h"

#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/sock_diag.h>
#include <sys/epoll.h>
#endif

typedef int ask_address(int, struct sockaddr *, socklen_t *);

/* One end of a connection, the same from both sides. 0: it is no such connection. */
static int end_of(int fd, ask_address *ask, unsigned char *end) {
  struct sockaddr_storage address = {0};
  socklen_t size = sizeof address;
  if (ask(fd, (struct sockaddr *)&address, &size) < 0) return 0;
  memset(end, 0, LINE_END);
  if (address.ss_family == AF_INET) {
    const struct sockaddr_in *in = (const struct sockaddr_in *)&address;
    end[10] = end[11] = 0xff;
    memcpy(end + 12, &in->sin_addr, 4);
    memcpy(end + 16, &in->sin_port, 2);
  } else if (address.ss_family == AF_INET6) {
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&address;
    memcpy(end, &in6->sin6_addr, 16);
    memcpy(end + 16, &in6->sin6_port, 2);
  } else {
    return 0;
  }
  return 1;
}

static int is_stream(int fd) {
  int type = 0;
  socklen_t size = sizeof type;
  return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM;
}

static int read_line(int fd, struct line *line) {
  line->fd = fd;
  return is_stream(fd) && end_of(fd, getsockname, line->here) && end_of(fd, getpeername, line->there);
}

static int compare(const void *a, const void *b) {
  return memcmp(a, b, 2 * LINE_END);
}

size_t lines_list(struct line **lines) {
  size_t n = 0, room = 0;
  DIR *folder = opendir("/proc/self/fd");
  const struct dirent *entry;
  *lines = NULL;
  while (folder != NULL && (entry = readdir(folder)) != NULL) {
    struct line line;
    if (entry->d_name[0] == '.' || !read_line(atoi(entry->d_name), &line)) continue;
    if (n == room) {
      struct line *larger = realloc(*lines, (room = 2 * room + 16) * sizeof *larger);
      if (larger == NULL) break;
      *lines = larger;
    }
    (*lines)[n++] = line;
  }
  if (folder != NULL) (void)closedir(folder);
  if (n > 0) qsort(*lines, n, sizeof **lines, compare);
  return n;
}

int lines_match(const struct line *own, size_t n_own, const struct line *other, size_t n_other, int *index) {
  for (size_t i = 0; n_own > 0 && i < n_other; i++) {
    struct line seen_from_here;
    const struct line *found;
    memcpy(seen_from_here.here, other[i].there, LINE_END);
    memcpy(seen_from_here.there, other[i].here, LINE_END);
    found = bsearch(&seen_from_here, own, n_own, sizeof *own, compare);
    if (found == NULL || memcmp(found->here, found->there, LINE_END - 2) == 0) continue; /* a machine's to itself: others have such, too */
    *index = (int)i;
    return (int)(found - own);
  }
  return *index = -1;
}

void lines_hurry(void) {
  struct line *lines;
  size_t n = lines_list(&lines);
  int yes = 1;
  for (size_t i = 0; i < n; i++) (void)setsockopt(lines[i].fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  free(lines);
}

#ifdef __linux__
static int watched = -1; /* epoll: the descriptors, each with its rank */
static int *by_rank;     /* the descriptors; -1: none */
static int n_by_rank;

static int note(int rank, int fd) {
  if (rank >= n_by_rank) {
    int *larger = realloc(by_rank, ((size_t)rank + 1) * sizeof *larger);
    if (larger == NULL) return 0;
    by_rank = larger;
    while (n_by_rank <= rank) by_rank[n_by_rank++] = -1;
  }
  by_rank[rank] = fd;
  return 1;
}

/* MPI closes its own descriptor when it likes. */
void lines_watch(int rank, int fd) {
  struct epoll_event event = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.u32 = (uint32_t)rank};
  int second = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (watched < 0) watched = epoll_create1(EPOLL_CLOEXEC);
  if (second >= 0 && (watched < 0 || epoll_ctl(watched, EPOLL_CTL_ADD, second, &event) < 0 || !note(rank, second))) (void)close(second);
}

int lines_broken(void) {
  struct epoll_event event;
  return watched >= 0 && epoll_wait(watched, &event, 1, 0) == 1 ? (int)event.data.u32 : -1;
}

int lines_room(int rank) {
  struct pollfd line = {rank < n_by_rank ? by_rank[rank] : -1, POLLRDHUP, 0};
  uint32_t memory[16] = {0};
  socklen_t size = sizeof memory;
  int64_t room;
  if (line.fd < 0) return LINES_UNKNOWN;
  if (poll(&line, 1, 0) == 1) return LINES_ENDED;
  if (getsockopt(line.fd, SOL_SOCKET, SO_MEMINFO, memory, &size) < 0 || memory[SK_MEMINFO_SNDBUF] == 0) return LINES_UNKNOWN;
  if (memory[SK_MEMINFO_WMEM_QUEUED] == 0) return LINES_EMPTY;
  room = (int64_t)memory[SK_MEMINFO_SNDBUF] - memory[SK_MEMINFO_WMEM_QUEUED];
  return room > 0 ? (int)room : 0;
}
#else
void lines_watch(int rank, int fd) {
  (void)rank;
  (void)fd;
}

int lines_broken(void) {
  return -1;
}

int lines_room(int rank) {
  (void)rank;
  return LINES_UNKNOWN;
}
#endif
