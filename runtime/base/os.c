/* base/os -- see os.h (may include base/fault.h). */
#include "base/os.h"

#include "base/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
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
#ifndef LUAPOOL_NO_MEMFD
#define LUAPOOL_NO_MEMFD
#endif
#ifndef LUAPOOL_NO_PIDFD
#define LUAPOOL_NO_PIDFD
#endif
#endif

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0 /* FreeBSD never reserves */
#endif
#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif

/* From this size on a growth is compared with the memory that is left: to ask costs as much as to zero a few hundred pages. */
enum { LARGE_GROWTH_BYTES = 32 << 20 };

/* ---- files ------------------------------------------------------------------------------------ */

/*
 * Every descriptor made here passes through this. In a host that closed its standard streams the kernel would hand out 0, 1 and 2,
 * and then a task's print would go into a socket of ours.
 * Returns fd, its copy above 2, or -errno (also of the call that made fd, if that failed).
 */
static int above_stdio(int fd) {
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
  fds[0] = above_stdio(fds[0]);
  fds[1] = above_stdio(fds[1]);
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
  return above_stdio(fd);
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

/* ---- files that last -------------------------------------------------------------------------- */

static int open_or_make(const char *path, int *is_new) {
  /* Not O_CREAT alone: it must be told who made it, and a file that was removed between the two is made after all. */
  for (;;) {
    int fd;
    *is_new = 0;
    fd = open(path, O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd >= 0 || (errno != ENOENT && errno != EINTR)) return fd;
    *is_new = 1;
    fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    /* (A symbolic link that points nowhere is there and is not: leave it to open to make what it points to.) */
    if (fd < 0 && errno == EEXIST) fd = open(path, O_RDWR | O_CREAT | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0666);
    if (fd >= 0 || (errno != ENOENT && errno != EINTR)) return fd;
    if (errno == ENOENT) return -1; /* the directory is missing */
  }
}

int os_open_regular(const char *path, int *is_new) {
  struct stat about;
  int made, fd, error = fault_fails("open");
  if (error) return -error;
  fd = above_stdio(open_or_make(path, &made));
  if (fd < 0) return fd;
  error = fstat(fd, &about) < 0 ? errno : S_ISREG(about.st_mode) ? 0 : ENOTSUP;
  if (error) os_close(&fd);
  if (error) return -error;
  if (is_new != NULL) *is_new = made;
  return fd;
}

int os_check_writable(const char *path, int is_log) {
  struct stat about;
  int error = 0, is_new = 1, fd = os_open(path, O_WRONLY | O_CREAT | O_EXCL | O_NONBLOCK);
  if (fd == -EEXIST) {
    is_new = 0;
    fd = os_open(path, O_WRONLY | O_NONBLOCK);
  }
  if (fd == -ENXIO) return is_log ? -ENOTSUP : 0; /* a FIFO that nobody reads yet */
  if (fd < 0) return fd;
  if (is_log) error = fstat(fd, &about) < 0 ? errno : S_ISREG(about.st_mode) ? 0 : ENOTSUP;
  os_close(&fd);
  if (is_new) unlink(path);
  return -error;
}

ssize_t os_read_at(int fd, void *data, size_t size, uint64_t offset) {
  ssize_t got;
  int error = fault_fails("read");
  if (error) return -error;
  do got = pread(fd, data, size, (off_t)offset);
  while (got < 0 && errno == EINTR);
  return got < 0 ? -errno : got;
}

int os_write_at(int fd, const void *data, size_t size, uint64_t offset) {
  const char *next = data;
  int error = fault_fails("write");
  if (error) return -error;
  while (size > 0) {
    ssize_t put = pwrite(fd, next, size, (off_t)offset);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return put < 0 ? -errno : -EIO;
    next += put;
    size -= (size_t)put;
    offset += (uint64_t)put;
  }
  return 0;
}

uint64_t os_most_size(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_FSIZE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur > INT64_MAX) return INT64_MAX;
  return limit.rlim_cur;
}

int os_may_have_size(uint64_t size) {
  return size <= os_most_size();
}

int64_t os_size(int fd) {
  struct stat about;
  return fstat(fd, &about) < 0 ? -errno : (int64_t)about.st_size;
}

int os_resize(int fd, uint64_t size) {
  int status, error = fault_fails("truncate");
  if (error) return -error;
  do status = ftruncate(fd, (off_t)size);
  while (status < 0 && errno == EINTR);
  return status < 0 ? -errno : 0;
}

int os_lock(int fd) {
  int status, error = fault_fails("lock");
  if (error) return -error;
  do status = flock(fd, LOCK_EX | LOCK_NB);
  while (status < 0 && errno == EINTR);
  if (status == 0) return 0;
  return errno == EWOULDBLOCK ? -EAGAIN : -errno;
}

int os_sync(int fd) {
  int status, error = fault_fails("sync");
  if (error) return -error;
#ifdef __APPLE__
  do status = fcntl(fd, F_FULLFSYNC);
#else
  do status = fdatasync(fd);
#endif
  while (status < 0 && errno == EINTR);
  return status < 0 ? -errno : 0;
}

int os_sync_directory(const char *path_of_file) {
  char directory[PATH_MAX];
  const char *slash = strrchr(path_of_file, '/');
  size_t length = slash == NULL ? 1 : slash == path_of_file ? 1 : (size_t)(slash - path_of_file);
  int fd, status;
  if (length >= sizeof directory) return -ENAMETOOLONG;
  memcpy(directory, slash == NULL ? "." : path_of_file, length);
  directory[length] = '\0';
  fd = os_open(directory, O_RDONLY);
  if (fd == -EACCES || fd == -EPERM) return 0; /* one that may be written to, but not listed */
  if (fd < 0) return fd;
  status = fsync(fd) < 0 && errno != EINVAL && errno != EBADF && errno != EROFS ? -errno : 0;
  os_close(&fd);
  return status;
}

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

/* For systems that cannot make a descriptor CLOEXEC and non-blocking at birth. */
static int mark_fd(int fd, int nonblocking) {
  int flags;
  if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) return -errno;
  if (!nonblocking) return 0;
  flags = fcntl(fd, F_GETFL);
  return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

#if !defined(SOCK_CLOEXEC) || defined(__APPLE__)
static int mark_pair(int fds[2]) {
  int status = mark_fd(fds[0], 1);
  if (status == 0) status = mark_fd(fds[1], 1);
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
  error = mark_pair(fds);
  return error < 0 ? error : both_above_stdio(fds);
#endif
}

int os_pipe(int fds[2]) {
  int status, error = fault_fails("pipe");
  if (error) return -error;
#ifdef __APPLE__
  if (pipe(fds) < 0) return -errno;
  status = mark_fd(fds[1], 0);
#else
  if (pipe2(fds, O_CLOEXEC) < 0) return -errno;
  status = 0;
#endif
  if (status == 0) status = mark_fd(fds[0], 1);
  if (status == 0) return both_above_stdio(fds);
  os_close(&fds[0]);
  os_close(&fds[1]);
  return status;
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

/* ---- memory ----------------------------------------------------------------------------------- */

void *os_allocate(size_t size) {
  if (fault_fails("malloc")) return NULL;
  return malloc(size);
}

static int map(size_t size, int flags, int fd, void **out) {
  int error = fault_fails("mmap");
  void *address;
  if (error) return -error;
  address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | flags, fd, 0);
  if (address == MAP_FAILED) return -errno;
  *out = address;
  return 0;
}

int os_map_shared(size_t size, void **out) {
  /* NORESERVE: mappings are made far larger than what will be touched, and strict overcommit would refuse them. */
  return map(size, MAP_ANONYMOUS | MAP_NORESERVE, -1, out);
}

int os_map_file(int fd, size_t size, void **out) {
  return map(size, 0, fd, out);
}

void os_unmap(void *address, size_t size) {
  if (address != NULL && size > 0) munmap(address, size);
}

/* A file that has a name for the moment between two calls: where a file without a name cannot be had. */
static int unlinked_file(void) {
  char name[64];
  uint64_t random;
  const char *directory = getenv("TMPDIR");
  char path[PATH_MAX];
  int fd, length;
  os_random(&random, sizeof random);
  snprintf(name, sizeof name, "/luapool-%016llx", (unsigned long long)random);
  fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
  if (fd >= 0) {
    shm_unlink(name);
    return above_stdio(fd);
  }
  length = snprintf(path, sizeof path, "%s/luapool-XXXXXX", directory != NULL && *directory ? directory : "/tmp");
  if (length < 0 || (size_t)length >= sizeof path) return -ENAMETOOLONG;
  fd = mkstemp(path);
  if (fd < 0) return -errno;
  unlink(path);
  mark_fd(fd, 0);
  return above_stdio(fd);
}

static int portable_memory_file(void) {
#ifdef O_TMPFILE
  int fd = open("/dev/shm", O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);
  if (fd >= 0) return above_stdio(fd);
#endif
  return unlinked_file();
}

int os_memory_file(const char *debug_name) {
  int error = fault_fails("memfd");
  if (error && error != ENOSYS) return -error;
#ifndef LUAPOOL_NO_MEMFD
  if (!error) {
    int fd = memfd_create(debug_name, MFD_CLOEXEC);
    if (fd >= 0 || errno != ENOSYS) return above_stdio(fd);
  }
#endif
  (void)debug_name;
  return portable_memory_file();
}

/* Touches every page of [from, to), so that it exists: for file systems that cannot reserve. Nobody else uses the range yet. */
static inline int reserve_by_writing(int fd, uint64_t from, uint64_t to) {
  const uint64_t step = 4096; /* no file system here has smaller blocks than that */
  for (uint64_t at = from; at < to; at = at / step * step + step) {
    ssize_t put;
    do put = pwrite(fd, "", 1, (off_t)at);
    while (put < 0 && errno == EINTR);
    if (put <= 0) return put < 0 ? -errno : -ENOSPC;
  }
  return 0;
}

/* The new end [from, to) of a file: extended and reserved. */
static int extend(int fd, uint64_t from, uint64_t to) {
  int status, error = fault_fails("truncate");
  if (error) return -error;
#ifdef __linux__
  do status = fallocate(fd, 0, (off_t)from, (off_t)(to - from)) < 0 ? -errno : 0;
  while (status == -EINTR);
  if (status != -EOPNOTSUPP && status != -ENOSYS) return status;
#endif
  if (ftruncate(fd, (off_t)to) < 0) return -errno;
#ifdef __APPLE__
  return 0; /* shared memory objects there cannot be written, only mapped */
#else
  status = reserve_by_writing(fd, from, to);
  if (status < 0 && ftruncate(fd, (off_t)from) < 0) return -errno;
  return status;
#endif
}

/*
 * Refusals that the kernel makes in other ways: beyond the limit on file sizes it sends SIGXFSZ, and where memory ends it kills a process,
 * perhaps this one, before it answers.
 */
static int refuse_growth(uint64_t from, uint64_t to) {
  if (!os_may_have_size(to)) return -EFBIG;
  return to - from >= LARGE_GROWTH_BYTES && to - from > os_memory_left("") ? -ENOMEM : 0;
}

int os_memory_grow(int fd, uint64_t size) {
  struct stat now;
  int status;
  if (fstat(fd, &now) < 0) return -errno;
  if ((uint64_t)now.st_size >= size) return 0;
  status = refuse_growth((uint64_t)now.st_size, size);
  /* Only what is new: the holes that os_memory_release made in the old part stay holes. */
  return status < 0 ? status : extend(fd, (uint64_t)now.st_size, size);
}

int os_memory_stretch(int fd, uint64_t size) {
  struct stat now;
  int error = fault_fails("truncate");
  if (error) return -error;
  if (fstat(fd, &now) < 0) return -errno;
  if ((uint64_t)now.st_size >= size) return 0;
  if (!os_may_have_size(size)) return -EFBIG;
  return ftruncate(fd, (off_t)size) < 0 ? -errno : 0;
}

int os_memory_shrink(int fd, uint64_t size) {
  struct stat now;
  int error = fault_fails("truncate");
  if (error) return -error;
  if (fstat(fd, &now) < 0) return -errno;
  return (uint64_t)now.st_size > size && ftruncate(fd, (off_t)size) < 0 ? -errno : 0;
}

static void write_zeros(int fd, uint64_t offset, uint64_t end) {
  static char zeros[4096]; /* never written to: a constant would be in the file */
  while (offset < end) {
    size_t size = end - offset < sizeof zeros ? (size_t)(end - offset) : sizeof zeros;
    ssize_t put = pwrite(fd, zeros, size, (off_t)offset);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return;
    offset += (uint64_t)put;
  }
}

void os_memory_release(int fd, uint64_t offset, uint64_t length) {
  struct stat now;
  uint64_t end;
  if (length == 0 || fstat(fd, &now) < 0 || offset >= (uint64_t)now.st_size) return;
  end = length > (uint64_t)now.st_size - offset ? (uint64_t)now.st_size : offset + length;
#ifdef FALLOC_FL_PUNCH_HOLE
  if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)(end - offset)) == 0) return;
#endif
  write_zeros(fd, offset, end); /* the pages stay, but the range reads as promised */
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
  if (error && error != ENOSYS) return -error;
#ifndef LUAPOOL_NO_EVENTFD
  if (!error) {
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd >= 0 || errno != ENOSYS) {
      fd = above_stdio(fd);
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

/* ---- processes -------------------------------------------------------------------------------- */

int os_pidfd_open(pid_t pid) {
  int error = fault_fails("pidfd");
  if (error) return -error;
#if defined(LUAPOOL_NO_PIDFD) || !defined(SYS_pidfd_open)
  (void)pid;
  return -ENOSYS;
#else
  long fd = syscall(SYS_pidfd_open, pid, 0); /* CLOEXEC by itself */
  return above_stdio((int)fd);
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

int os_threads(void) {
  char text[1024];
  const char *at;
  int field = 2;
  if (os_read_text("/proc/self/stat", text, sizeof text) < 0) return 1;
  at = strrchr(text, ')'); /* the program's name, field 2, may hold anything */
  while (at != NULL && field < 20) {
    at = strchr(at + 1, ' ');
    field++;
  }
  return at != NULL && atoi(at) > 1 ? atoi(at) : 1;
}

#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 32)
extern char __libc_single_threaded; /* <sys/single_threaded.h>; once a thread was made it stays 0 */
#define NEVER_HAD_THREADS (__libc_single_threaded != 0)
#else
#define NEVER_HAD_THREADS 0
#endif

int os_has_threads(void) {
  return !NEVER_HAD_THREADS && os_threads() > 1;
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
#endif
  if (filled < length) filled += random_from_device(bytes + filled, length - filled);
  if (filled < length) random_from_time(bytes + filled, length - filled);
}

/* ---- what the cgroups allow ------------------------------------------------------------------- */

#ifdef __linux__

/* Where a cgroup hierarchy with the controller is mounted, and which group of it this process is in. */
struct hierarchy {
  const char *controller; /* "cpu", "memory" */
  int is_v2;
  char mount[PATH_MAX]; /* directory */
  char top[PATH_MAX];   /* the group that the mount shows as its root */
  char group[PATH_MAX]; /* this process's group, as counted from the hierarchy's own root */
};

static FILE *open_beneath(const char *root, const char *path) {
  char full[2 * PATH_MAX];
  int length = snprintf(full, sizeof full, "%s%s", root, path);
  if (length < 0 || (size_t)length >= sizeof full || fault_fails("open")) return NULL;
  return fopen(full, "re");
}

/* Is `word` in the comma list? */
static int list_has(const char *list, const char *word) {
  size_t length = strlen(word);
  while (*list != '\0') {
    size_t item = strcspn(list, ",\n");
    if (item == length && memcmp(list, word, length) == 0) return 1;
    list += item + (list[item] != '\0');
  }
  return 0;
}

static void copy_path(char to[PATH_MAX], const char *from) {
  size_t length = strcspn(from, "\n");
  if (length >= PATH_MAX) length = 0;
  memcpy(to, from, length);
  to[length] = '\0';
}

/* mountinfo writes space, tab, newline and backslash as \ooo. */
static void unescape(char *text) {
  char *to = text;
  while (*text != '\0') {
    int is_octal = text[0] == '\\' && text[1] >= '0' && text[1] <= '3' && text[2] && text[3];
    *to++ = is_octal ? (char)((text[1] - '0') * 64 + (text[2] - '0') * 8 + (text[3] - '0')) : *text;
    text += is_octal ? 4 : 1;
  }
  *to = '\0';
}

/* The group of the process: "0::PATH" for v2, "N:...,CONTROLLER,...:PATH" for v1. Returns 1 if there is one. */
static int find_group(const char *root, struct hierarchy *h) {
  FILE *file = open_beneath(root, "/proc/self/cgroup");
  char *line = NULL;
  size_t size = 0;
  int is_found = 0;
  while (file != NULL && !is_found && getline(&line, &size, file) > 0) {
    char *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL;
    if (path == NULL) continue;
    *path++ = '\0';
    is_found = h->is_v2 ? strncmp(line, "0:", 2) == 0 && controllers[1] == '\0' : list_has(controllers + 1, h->controller);
    if (is_found) copy_path(h->group, path);
  }
  free(line);
  if (file != NULL) fclose(file);
  return is_found;
}

/* One line of mountinfo: "id parent dev top mount options [tags] - type source superoptions". */
static int read_mount(char *line, struct hierarchy *h) {
  char *type = strstr(line, " - "), *rest = line, *fields[5], super[256] = "", name[32] = "";
  if (type == NULL) return 0;
  *type = '\0';
  if (sscanf(type + 3, "%31s %*s %255s", name, super) < 1) return 0;
  if (h->is_v2 ? strcmp(name, "cgroup2") != 0 : strcmp(name, "cgroup") != 0 || !list_has(super, h->controller)) return 0;
  for (int i = 0; i < 5; i++)
    if ((fields[i] = strsep(&rest, " ")) == NULL) return 0;
  unescape(fields[3]);
  unescape(fields[4]);
  copy_path(h->top, fields[3]);
  copy_path(h->mount, fields[4]);
  return 1;
}

static int find_mount(const char *root, struct hierarchy *h) {
  FILE *file = open_beneath(root, "/proc/self/mountinfo");
  char *line = NULL;
  size_t size = 0;
  int is_found = 0;
  while (file != NULL && !is_found && getline(&line, &size, file) > 0) is_found = read_mount(line, h);
  free(line);
  if (file != NULL) fclose(file);
  return is_found;
}

/* A file of one group, open; NULL: there is none. */
static FILE *open_of_group(const char *root, const char *directory, const char *name) {
  char path[2 * PATH_MAX];
  int length = snprintf(path, sizeof path, "%s/%s", directory, name);
  return length < 0 || (size_t)length >= sizeof path ? NULL : open_beneath(root, path);
}

/* The quota of one group, in processors rounded up; UINT64_MAX: none. */
static uint64_t read_quota(const char *root, const char *directory, int is_v2) {
  static const char *const FILES[2][2] = {{"cpu.cfs_quota_us", "cpu.cfs_period_us"}, {"cpu.max", NULL}};
  long long quota = -1, period = 0; /* "max" or -1: no limit */
  int got = 0;
  for (int i = 0; i < 2 && FILES[is_v2][i] != NULL; i++) {
    FILE *file = open_of_group(root, directory, FILES[is_v2][i]);
    if (file == NULL) return UINT64_MAX;
    if (is_v2)
      got = fscanf(file, "%lld %lld", &quota, &period);
    else
      got += fscanf(file, "%lld", i == 0 ? &quota : &period);
    fclose(file);
  }
  if (got != 2 || quota <= 0 || period <= 0) return UINT64_MAX;
  return (uint64_t)((quota - 1) / period + 1);
}

/* The number in a file of one group; UINT64_MAX: no such file, or it says "max". */
static uint64_t read_number(const char *root, const char *directory, const char *name) {
  unsigned long long number;
  int got;
  FILE *file = open_of_group(root, directory, name);
  if (file == NULL) return UINT64_MAX;
  got = fscanf(file, "%llu", &number);
  fclose(file);
  return got == 1 ? number : UINT64_MAX;
}

/* What a group could get back from its file cache. */
static uint64_t read_reclaimable(const char *root, const char *directory, int is_v2) {
  unsigned long long value, sum = 0;
  char name[64];
  FILE *file = open_of_group(root, directory, "memory.stat");
  while (file != NULL && fscanf(file, "%63s %llu", name, &value) == 2) {
    const char *key = is_v2 ? name : strncmp(name, "total_", 6) == 0 ? name + 6 : "";
    if (strcmp(key, "inactive_file") == 0 || strcmp(key, "active_file") == 0) sum += value;
  }
  if (file != NULL) fclose(file);
  return sum;
}

/* Bytes of memory that one group may still take; UINT64_MAX: no limit. */
static uint64_t read_memory_left(const char *root, const char *directory, int is_v2) {
  uint64_t limit = read_number(root, directory, is_v2 ? "memory.max" : "memory.limit_in_bytes");
  uint64_t used = read_number(root, directory, is_v2 ? "memory.current" : "memory.usage_in_bytes"), cache;
  if (limit == UINT64_MAX || used == UINT64_MAX) return UINT64_MAX;
  cache = read_reclaimable(root, directory, is_v2);
  used -= cache < used ? cache : used;
  return limit > used ? limit - used : 0;
}

/* What the reader says of the group and those above it, up to where the hierarchy is mounted: each of them limits. */
static uint64_t smallest_of_groups(const char *root, const struct hierarchy *h, uint64_t (*read)(const char *, const char *, int)) {
  char directory[2 * PATH_MAX];
  const char *below = h->group;
  size_t top_length = strlen(h->top), mount_length = strlen(h->mount);
  uint64_t smallest = UINT64_MAX;
  if (strcmp(h->top, "/") != 0) /* a container that sees only its own part; another part cannot be looked at */
    below = strncmp(below, h->top, top_length) == 0 && strchr("/", below[top_length]) ? below + top_length : "";
  if (strncmp(below, "/..", 3) == 0) below = "";
  snprintf(directory, sizeof directory, "%s%s", h->mount, below);
  for (;;) {
    uint64_t value = read(root, directory, h->is_v2);
    char *slash = strrchr(directory, '/');
    if (value < smallest) smallest = value;
    if (slash == NULL || (size_t)(slash - directory) < mount_length) return smallest;
    *slash = '\0';
  }
}

/* The smallest that the reader finds in both versions' hierarchies; UINT64_MAX: nothing limits. */
static uint64_t smallest_of_hierarchies(const char *root, const char *controller, uint64_t (*read)(const char *, const char *, int)) {
  uint64_t smallest = UINT64_MAX;
  struct hierarchy *h = malloc(sizeof *h);
  for (int version = 1; h != NULL && version <= 2; version++) {
    uint64_t value;
    h->controller = controller;
    h->is_v2 = version == 2;
    if (!find_group(root, h) || !find_mount(root, h)) continue;
    value = smallest_of_groups(root, h, read);
    if (value < smallest) smallest = value;
  }
  free(h);
  return smallest;
}

int os_cgroup_cpus(const char *root) {
  uint64_t quota = smallest_of_hierarchies(root, "cpu", read_quota);
  return quota == UINT64_MAX ? 0 : quota > INT_MAX ? INT_MAX : (int)quota;
}

/* Of the whole machine. */
static uint64_t machine_memory_left(const char *root) {
  unsigned long long kilobytes, sum = 0;
  int is_known = 0;
  char name[64];
  FILE *file = open_beneath(root, "/proc/meminfo");
  while (file != NULL && fscanf(file, "%63s %llu%*[^\n]", name, &kilobytes) == 2) {
    if (strcmp(name, "MemAvailable:") == 0) is_known = 1;
    if (strcmp(name, "MemAvailable:") == 0 || strcmp(name, "SwapFree:") == 0) sum += kilobytes * 1024;
  }
  if (file != NULL) fclose(file);
  return is_known ? sum : UINT64_MAX;
}

uint64_t os_memory_left(const char *root) {
  uint64_t machine = machine_memory_left(root), groups = smallest_of_hierarchies(root, "memory", read_memory_left);
  return groups < machine ? groups : machine;
}

/* ---- processors ------------------------------------------------------------------------------- */

/* The kernel refuses a set that is smaller than its own, so larger ones are tried. */
static int affinity_cpus(void) {
  for (int most = 1024; most <= 1 << 20; most *= 2) {
    cpu_set_t *set = CPU_ALLOC((size_t)most);
    size_t size = CPU_ALLOC_SIZE((size_t)most);
    int count = 0, error = 0;
    if (set == NULL) break;
    if (sched_getaffinity(0, size, set) == 0)
      count = CPU_COUNT_S(size, set);
    else
      error = errno;
    CPU_FREE(set);
    if (count > 0) return count;
    if (error != EINVAL) break;
  }
  return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

#else

int os_cgroup_cpus(const char *root) {
  (void)root;
  return 0;
}

uint64_t os_memory_left(const char *root) {
  (void)root;
  return UINT64_MAX;
}

static int affinity_cpus(void) {
  return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

#endif

int os_cpus(void) {
  int cpus = affinity_cpus(), quota = os_cgroup_cpus("");
  if (quota > 0 && quota < cpus) cpus = quota;
  return cpus < 1 ? 1 : cpus;
}
