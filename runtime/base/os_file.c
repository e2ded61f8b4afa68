/* base/os_file -- files that last, for logs: see os.h (may include base/os.h, base/os_parts.h and base/fault.h). */
#include "base/os.h"

#include "base/fault.h"
#include "base/os_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

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
  fd = os_above_stdio(open_or_make(path, &made));
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
  if (!os_may_have_size(offset + size)) return -EFBIG; /* before the kernel says so by a signal */
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

/* Is the file, if there is one, this user's, and has it no other name? Then another one can take its place. */
static int is_replaceable(const char *path, mode_t *mode) {
  struct stat about;
  if (lstat(path, &about) < 0) return errno == ENOENT;
  *mode = about.st_mode & 07777;
  return S_ISREG(about.st_mode) && about.st_nlink == 1 && about.st_uid == geteuid();
}

static int is_disk_full(int status) {
  return status == -ENOSPC || status == -EDQUOT || status == -EIO;
}

static int write_in_place(const char *path, const void *data, size_t size) {
  int fd = os_open_regular(path, NULL), status = fd < 0 ? fd : os_resize(fd, 0);
  if (status == 0) status = os_write_at(fd, data, size, 0);
  os_close(&fd);
  return status;
}

int os_write_whole(const char *path, const void *data, size_t size) {
  char target[PATH_MAX], temporary[PATH_MAX + 32];
  mode_t mode = 0;
  uint32_t random;
  int fd, is_new, status = os_check_writable(path, 1);
  if (status == 0 && !os_may_have_size(size)) status = -EFBIG;
  if (status < 0) return status;
  if (realpath(path, target) == NULL && (size_t)snprintf(target, sizeof target, "%s", path) >= sizeof target) return -ENAMETOOLONG;
  os_random(&random, sizeof random);
  snprintf(temporary, sizeof temporary, "%s.%08lx.new", target, (unsigned long)random);
  fd = is_replaceable(target, &mode) ? os_open_regular(temporary, &is_new) : -EACCES;
  if (fd >= 0 && !is_new) os_close(&fd);
  if (fd < 0 && is_disk_full(fd)) return fd; /* in its place nothing whole would stay */
  if (fd < 0) return write_in_place(path, data, size); /* a folder where no file can be made, or a file that must stay what it is */
  if (mode) (void)fchmod(fd, mode);
  status = os_write_at(fd, data, size, 0);
  os_close(&fd);
  if (status == 0 && rename(temporary, target) < 0) status = -errno;
  if (status < 0) unlink(temporary);
  return status;
}
