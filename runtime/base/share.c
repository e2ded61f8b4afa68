/* base/share -- see share.h. */
#include "base/share.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/prctl.h>
#include <sys/syscall.h>
#if __has_include(<linux/futex.h>)
#include <linux/futex.h>
#else /* (musl comes without the kernel's headers; these numbers are for ever) */
#define FUTEX_WAIT 0
#define FUTEX_WAKE 1
#endif
/* A 32-bit system with 64 bits of time speaks another struct timespec than its first futex call. */
#ifndef SYS_futex_time64
#define SYS_futex_time64 SYS_futex
#endif
#ifndef SYS_futex
#define SYS_futex SYS_futex_time64
#endif
#define FUTEX_CALL (sizeof(time_t) > sizeof(long) ? SYS_futex_time64 : SYS_futex)
#else
#ifndef LUAPOOL_NO_FUTEX
#define LUAPOOL_NO_FUTEX
#endif
#endif

#include "base/fault.h"
#include "base/os.h"

#ifdef LUAPOOL_NO_FUTEX

enum { NAP_NS = 1000 * 1000 };

/* Naps, with a look at the word after each: nobody can wake us. */
static int wait_on_word(_Atomic uint32_t *word, uint32_t seen, int64_t timeout_ns) {
  int64_t until_ns = os_now_ns() + timeout_ns;
  while (atomic_load(word) == seen) {
    int64_t left_ns = until_ns - os_now_ns();
    struct timespec nap = {0, left_ns < NAP_NS ? (long)left_ns : NAP_NS};
    if (left_ns <= 0) return -ETIMEDOUT;
    if (nanosleep(&nap, NULL) < 0) return -errno;
  }
  return 0;
}

void share_wake(_Atomic uint32_t *word, int count) {
  (void)word, (void)count;
}

#else

/* Not FUTEX_PRIVATE_FLAG: the word is known by its file, not by its address. */
static int wait_on_word(_Atomic uint32_t *word, uint32_t seen, int64_t timeout_ns) {
  struct timespec limit = {(time_t)(timeout_ns / 1000000000), (long)(timeout_ns % 1000000000)};
  if (syscall(FUTEX_CALL, word, FUTEX_WAIT, seen, &limit, NULL, 0) == 0 || errno == EAGAIN) return 0;
  return -errno;
}

void share_wake(_Atomic uint32_t *word, int count) {
  int saved = errno;
  (void)syscall(FUTEX_CALL, word, FUTEX_WAKE, count, NULL, NULL, 0);
  errno = saved;
}

#endif

int share_wait(_Atomic uint32_t *word, uint32_t seen, int64_t timeout_ns) {
  int error = fault_fails("futex");
  if (error) return -error;
  return wait_on_word(word, seen, timeout_ns < 0 ? 0 : timeout_ns);
}

static struct flock lock_of_byte(short type, uint64_t byte) {
  return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)byte, .l_len = 1};
}

static int set_lock(int fd, short type, uint64_t byte) {
  struct flock lock = lock_of_byte(type, byte);
  while (fcntl(fd, F_SETLK, &lock) < 0) {
    if (errno == EACCES) return -EAGAIN; /* what POSIX allows besides */
    if (errno != EINTR) return -errno;
  }
  return 0;
}

int share_lock(int fd, uint64_t byte) {
  int error = fault_fails("lock");
  return error ? -error : set_lock(fd, F_WRLCK, byte);
}

int share_unlock(int fd, uint64_t byte) {
  return set_lock(fd, F_UNLCK, byte);
}

pid_t share_lock_holder(int fd, uint64_t byte) {
  struct flock lock = lock_of_byte(F_WRLCK, byte);
  if (fcntl(fd, F_GETLK, &lock) < 0) return -errno;
  return lock.l_type == F_UNLCK ? 0 : lock.l_pid;
}

int share_identify(int fd, struct share_identity *identity) {
  struct stat status;
  if (fstat(fd, &status) < 0) return -errno;
  identity->device = (uint64_t)status.st_dev;
  identity->inode = (uint64_t)status.st_ino;
  identity->size = (uint64_t)status.st_size;
  return S_ISREG(status.st_mode) ? 0 : -EINVAL;
}

int share_open_of(pid_t pid, int fd) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%ld/fd/%d", (long)pid, fd);
  /* The number may mean anything by now: neither wait for the other end of a pipe, nor take a terminal. */
  return os_open(path, O_RDWR | O_NONBLOCK | O_NOCTTY);
}

int share_is_visible(void) {
#ifdef __linux__
  struct stat status;
  return prctl(PR_GET_DUMPABLE) == 1 && os_sees_processes() && stat("/proc/self/fd", &status) == 0;
#else
  return 0;
#endif
}
