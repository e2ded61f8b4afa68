/* base/os -- see os.h (may include base/fault.h and base/os_parts.h). Here: descriptors, time, random bytes. */
#include "base/os.h"

#include "base/fault.h"
#include "base/os_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/syscall.h>
#else
#ifndef LUAPOOL_NO_EVENTFD
#define LUAPOOL_NO_EVENTFD
#endif
#ifndef LUAPOOL_NO_PIDFD
#define LUAPOOL_NO_PIDFD
#endif
#endif

/* ---- descriptors ------------------------------------------------------------------------------ */

int os_above_stdio(int fd) {
  int copy;
  if (fd < 0) return -errno;
  if (fd > STDERR_FILENO) return fd;
  copy = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
  if (copy < 0) copy = -errno;
  os_close(&fd);
  return copy;
}

/* The same for two, both or none. */
static int both_above_stdio(int fds[2]) {
  int status;
  fds[0] = os_above_stdio(fds[0]);
  fds[1] = os_above_stdio(fds[1]);
  if (fds[0] >= 0 && fds[1] >= 0) return 0;
  status = fds[0] < 0 ? fds[0] : fds[1];
  os_close(&fds[0]);
  os_close(&fds[1]);
  return status;
}

int os_open(const char *path, int flags) {
  int fd, error = fault_fails("open");
  if (error) return -error;
  do fd = open(path, flags | O_CLOEXEC, 0600);
  while (fd < 0 && errno == EINTR);
  return os_above_stdio(fd);
}

ssize_t os_read(int fd, void *data, size_t size) {
  ssize_t got;
  int error = fault_fails("read");
  if (error) return -error;
  do got = read(fd, data, size);
  while (got < 0 && errno == EINTR);
  return got < 0 ? -errno : got;
}

int os_write(int fd, const void *data, size_t size) {
  const char *next = data;
  int error = fault_fails("write");
  if (error) return -error;
  while (size > 0) {
    ssize_t put = write(fd, next, size);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return -errno;
    next += put;
    size -= (size_t)put;
  }
  return 0;
}

ssize_t os_read_text(const char *path, char *text, size_t size) {
  size_t length = 0;
  ssize_t got = 0;
  int fd = os_open(path, O_RDONLY);
  if (fd < 0) return fd;
  while (length < size - 1 && (got = os_read(fd, text + length, size - 1 - length)) > 0) length += (size_t)got;
  text[length] = '\0';
  os_close(&fd);
  return got < 0 ? got : (ssize_t)length;
}

static int is_kept(int fd, const int *keep, size_t n) {
  size_t i;
  for (i = 0; i < n; i++)
    if (keep[i] == fd) return 1;
  return 0;
}

void os_close_others(const int *keep, size_t n) {
  int fd, highest = STDERR_FILENO;
  struct rlimit limit;
  long last = 65536;
  size_t i;
  for (i = 0; i < n; i++)
    if (keep[i] > highest) highest = keep[i];
  for (fd = STDERR_FILENO + 1; fd < highest; fd++)
    if (!is_kept(fd, keep, n)) close(fd);
#if defined(SYS_close_range) && !defined(LUAPOOL_NO_CLOSE_RANGE)
  if (syscall(SYS_close_range, (unsigned)highest + 1, ~0u, 0) == 0) return;
#elif (defined(__FreeBSD__) || defined(__NetBSD__) || defined(__OpenBSD__)) && !defined(LUAPOOL_NO_CLOSE_RANGE)
  closefrom(highest + 1); /* (fails where there is nothing to close) */
  return;
#endif
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < 1 << 20) last = (long)limit.rlim_cur;
  for (fd = highest + 1; fd < last; fd++) close(fd);
}

void os_fd_set_add(struct os_fd_set *set, int fd) {
  if ((unsigned)fd < OS_FD_SET_SIZE) set->words[fd / 64] |= UINT64_C(1) << (fd % 64);
  else close(fd);
}

static int is_in_set(const struct os_fd_set *set, int fd) {
  return fd < OS_FD_SET_SIZE && (set->words[fd / 64] >> (fd % 64) & 1);
}

/* The last descriptor of the run that begins with fd. */
static int end_of_run(const struct os_fd_set *set, int fd) {
  while (is_in_set(set, fd + 1)) fd++;
  return fd;
}

void os_close_set(const struct os_fd_set *set) {
  int fd, last;
  for (fd = 0; fd < OS_FD_SET_SIZE; fd = last + 1) {
    last = fd;
    if (set->words[fd / 64] == 0) {
      last = fd | 63;
      continue;
    }
    if (!is_in_set(set, fd)) continue;
    last = end_of_run(set, fd);
#if defined(SYS_close_range) && !defined(LUAPOOL_NO_CLOSE_RANGE)
    if (last > fd && syscall(SYS_close_range, (unsigned)fd, (unsigned)last, 0) == 0) continue;
#endif
    for (int i = fd; i <= last; i++) close(i);
  }
}

void os_close(int *fd) {
  int saved = errno;
  /* No retry on EINTR: Linux has closed it by then, and the number may be somebody else's already. */
  if (*fd >= 0) close(*fd);
  *fd = -1;
  errno = saved;
}

/* ---- terminals ------------------------------------------------------------------------------ */

int os_is_terminal(int fd) {
  int saved = errno, is_it = isatty(fd) == 1;
  errno = saved;
  return is_it;
}

int os_is_foreground(int fd) {
  int saved = errno;
  pid_t group = tcgetpgrp(fd);
  errno = saved;
  return group < 0 || group == getpgrp();
}

int os_terminal_width(int fd) {
  struct winsize size;
  int saved = errno, width = ioctl(fd, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
  errno = saved;
  return width;
}

/* ---- pairs ------------------------------------------------------------------------------------ */

int os_mark_fd(int fd, int nonblocking) {
  int flags;
  if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) return -errno;
  if (!nonblocking) return 0;
  flags = fcntl(fd, F_GETFL);
  return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

#if !defined(SOCK_CLOEXEC) || defined(__APPLE__)
static int mark_pair(int fds[2]) {
  int status = os_mark_fd(fds[0], 1);
  if (status == 0) status = os_mark_fd(fds[1], 1);
  if (status == 0) return 0;
  os_close(&fds[0]);
  os_close(&fds[1]);
  return status;
}
#endif

int os_socket_pair(int fds[2]) {
  int error = fault_fails("socketpair");
  if (error) return -error;
#ifdef SOCK_CLOEXEC
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0) return -errno;
  return both_above_stdio(fds);
#else
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0) return -errno;
#ifdef SO_NOSIGPIPE
  /* Older releases of macOS do not know MSG_NOSIGNAL; what else writes there expects SIGPIPE from pipes alone. */
  (void)setsockopt(fds[0], SOL_SOCKET, SO_NOSIGPIPE, &(int){1}, sizeof(int));
  (void)setsockopt(fds[1], SOL_SOCKET, SO_NOSIGPIPE, &(int){1}, sizeof(int));
#endif
  error = mark_pair(fds);
  return error < 0 ? error : both_above_stdio(fds);
#endif
}

int os_pipe(int fds[2]) {
  int status, error = fault_fails("pipe");
  if (error) return -error;
#ifdef __APPLE__
  if (pipe(fds) < 0) return -errno;
  status = os_mark_fd(fds[1], 0);
#else
  if (pipe2(fds, O_CLOEXEC) < 0) return -errno;
  status = fcntl(fds[0], F_SETFL, O_NONBLOCK) < 0 ? -errno : 0; /* no other flag is set: it is new */
#endif
#ifdef __APPLE__
  if (status == 0) status = os_mark_fd(fds[0], 1);
#endif
  if (status == 0) return both_above_stdio(fds);
  os_close(&fds[0]);
  os_close(&fds[1]);
  return status;
}

int os_open_nothing(int flags) {
  int ends[2], status, fd = os_open("/dev/null", flags);
  if (fd >= 0) return fd;
  status = os_pipe(ends); /* that nobody writes to */
  if (status < 0) return status;
  os_close(&ends[1]);
  return ends[0];
}

int os_unread(int fd) {
  int count;
  return ioctl(fd, FIONREAD, &count) < 0 ? -errno : count;
}

/* ---- time and waiting ------------------------------------------------------------------------- */

int64_t os_now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int os_poll(struct pollfd *fds, size_t count, int64_t timeout_ns) {
  int ready, error = fault_fails("poll");
  if (error) return -error;
#if defined(__linux__) || defined(__FreeBSD__) || defined(__OpenBSD__)
  struct timespec limit = {(time_t)(timeout_ns / 1000000000), (long)(timeout_ns % 1000000000)};
  ready = ppoll(fds, (nfds_t)count, timeout_ns < 0 ? NULL : &limit, NULL);
#else
  /* Rounded up: a wait that ends early would make its caller spin. */
  int64_t milliseconds = timeout_ns < 0 ? -1 : timeout_ns / 1000000 + (timeout_ns % 1000000 > 0);
  ready = poll(fds, (nfds_t)count, milliseconds > INT_MAX ? INT_MAX : (int)milliseconds);
#endif
  return ready < 0 ? -errno : ready;
}

/* ---- bells ------------------------------------------------------------------------------------ */

static int open_pipe_bell(struct os_bell *bell) {
  int fds[2], status;
#ifdef __APPLE__
  if (pipe(fds) < 0) return -errno;
  status = mark_pair(fds);
  if (status < 0) return status;
#else
  if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0) return -errno;
#endif
  status = both_above_stdio(fds);
  if (status < 0) return status;
  bell->read_fd = fds[0];
  bell->write_fd = fds[1];
  return 0;
}

int os_bell_open(struct os_bell *bell) {
  int error = fault_fails("bell");
  bell->read_fd = bell->write_fd = -1;
  if (error && !os_is_absent(error)) return -error;
#ifndef LUAPOOL_NO_EVENTFD
  if (!error) {
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd >= 0 || !os_is_absent(errno)) {
      fd = os_above_stdio(fd);
      if (fd >= 0) bell->read_fd = bell->write_fd = fd;
      return fd < 0 ? fd : 0;
    }
  }
#endif
  return open_pipe_bell(bell);
}

void os_bell_ring(const struct os_bell *bell) {
  const uint64_t one = 1; /* what an eventfd wants; a pipe takes any eight bytes, whole or not at all */
  int saved = errno;
  ssize_t put;
  do put = write(bell->write_fd, &one, sizeof one);
  while (put < 0 && errno == EINTR);
  errno = saved; /* EAGAIN: it rings already; EBADF: nobody sleeps there any more */
}

void os_bell_drain(const struct os_bell *bell) {
  char bytes[512];
  int saved = errno;
  ssize_t got;
  do got = read(bell->read_fd, bytes, sizeof bytes);
  while ((got < 0 && errno == EINTR) || got == (ssize_t)sizeof bytes);
  errno = saved;
}

void os_bell_close(struct os_bell *bell) {
  if (bell->write_fd != bell->read_fd) os_close(&bell->write_fd);
  os_close(&bell->read_fd);
  bell->write_fd = -1;
}

/* ---- descriptors of processes ----------------------------------------------------------------- */

int os_pidfd_open(pid_t pid) {
  int error = fault_fails("pidfd");
  if (error) return -error;
#if defined(LUAPOOL_NO_PIDFD) || !defined(SYS_pidfd_open)
  (void)pid;
  return -ENOSYS;
#else
  long fd = syscall(SYS_pidfd_open, pid, 0); /* CLOEXEC by itself */
  return os_above_stdio((int)fd);
#endif
}

int os_pidfd_signal(int pidfd, int signal) {
#if defined(LUAPOOL_NO_PIDFD) || !defined(SYS_pidfd_send_signal)
  (void)pidfd, (void)signal;
  return -ENOSYS;
#else
  return syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0) < 0 ? -errno : 0;
#endif
}

/* ---- memory ----------------------------------------------------------------------------------- */

void *os_allocate(size_t size) {
  if (fault_fails("malloc")) return NULL;
  return malloc(size);
}

/* ---- random bytes ----------------------------------------------------------------------------- */

static size_t random_from_device(unsigned char *bytes, size_t length) {
  size_t filled = 0;
  int fd = os_open("/dev/urandom", O_RDONLY);
  if (fd < 0) return 0;
  while (filled < length) {
    ssize_t got = os_read(fd, bytes + filled, length - filled);
    if (got <= 0) break;
    filled += (size_t)got;
  }
  os_close(&fd);
  return filled;
}

/* splitmix64 from what differs between processes and moments: not secret, but never the same twice. */
static void random_from_time(unsigned char *bytes, size_t length) {
  static _Atomic uint64_t calls;
  uint64_t state = (uint64_t)os_now_ns() ^ (uint64_t)getpid() << 40 ^ (uint64_t)(uintptr_t)bytes << 8;
  state += ++calls * 0xd1342543de82ef95u;
  for (size_t i = 0; i < length; i++) {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    bytes[i] = (unsigned char)(z ^ z >> 31);
  }
}

void os_random(void *data, size_t length) {
  unsigned char *bytes = data;
  size_t filled = 0;
#if defined(__linux__)
  while (filled < length && !fault_fails("random")) {
    /* NONBLOCK: early after boot the device answers at once, and that is enough here. */
    ssize_t got = getrandom(bytes + filled, length - filled, GRND_NONBLOCK);
    if (got < 0 && errno != EINTR) break;
    if (got > 0) filled += (size_t)got;
  }
#elif defined(__APPLE__) || defined(__FreeBSD__) || defined(__NetBSD__) || defined(__OpenBSD__)
  if (!fault_fails("random")) {
    arc4random_buf(bytes, length); /* seeded anew after a fork */
    filled = length;
  }
#endif
  if (filled < length) filled += random_from_device(bytes + filled, length - filled);
  if (filled < length) random_from_time(bytes + filled, length - filled);
}
