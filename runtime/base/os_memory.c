/* base/os_memory -- memory that processes share, and files of it: see os.h (may include base/os.h, base/os_parts.h and base/fault.h). */
#include "base/os.h"

#include "base/fault.h"
#include "base/os_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#if !defined(__linux__) && !defined(LUAPOOL_NO_MEMFD)
#define LUAPOOL_NO_MEMFD
#endif
/*
 * What shm_open gives on macOS can be given a size once, is neither read nor written, and is no regular file; there and on FreeBSD it
 * cannot be locked. So files of memory are temporary files there.
 */
#if (defined(__APPLE__) || defined(__FreeBSD__)) && !defined(LUAPOOL_NO_SHM)
#define LUAPOOL_NO_SHM
#endif

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8 /* where vm.memfd_noexec is 2, all have to be so */
#endif
#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0 /* FreeBSD never reserves */
#endif
#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif
#ifndef MAP_NOSYNC
#define MAP_NOSYNC 0 /* FreeBSD's word for a file that need not be written to its disk soon */
#endif

/* From this size on a growth is compared with the memory that is left: to ask costs as much as to zero a few hundred pages. */
enum { LARGE_GROWTH_BYTES = 32 << 20 };

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
  return map(size, MAP_NOSYNC, fd, out);
}

void os_unmap(void *address, size_t size) {
  if (address != NULL && size > 0) munmap(address, size);
}

/* A file that has a name for the moment between two calls. */
static int unlinked_file(const char *directory, const char *debug_name) {
  char path[PATH_MAX];
  int fd, length = snprintf(path, sizeof path, "%s/%s-XXXXXX", directory, debug_name);
  if (length < 0 || (size_t)length >= sizeof path) return -ENAMETOOLONG;
  fd = mkstemp(path);
  if (fd < 0) return -errno;
  unlink(path);
  os_mark_fd(fd, 0);
  return os_above_stdio(fd);
}

/* Where one without a name cannot be had: in the folder for such files (on macOS this user's own), else in /tmp. */
static int temporary_file(const char *debug_name) {
  const char *directory = getenv("TMPDIR");
  int fd = directory != NULL && *directory ? unlinked_file(directory, debug_name) : -ENOENT;
#ifdef _CS_DARWIN_USER_TEMP_DIR
  char own[PATH_MAX];
  if (fd < 0 && confstr(_CS_DARWIN_USER_TEMP_DIR, own, sizeof own) - 1 < sizeof own - 1) fd = unlinked_file(own, debug_name);
#endif
  return fd < 0 && fd != -EMFILE && fd != -ENFILE ? unlinked_file("/tmp", debug_name) : fd;
}

#ifndef LUAPOOL_NO_SHM

/*
 * Less room than this in the file system of shared memory (containers have 64 MiB as a rule, some nothing) would end in SIGBUS where what
 * was stretched is touched: a temporary file then.
 */
enum { LEAST_ROOM_BYTES = 16 << 20 };

static int has_room(int fd) {
  struct statvfs about;
  return fstatvfs(fd, &about) < 0 || (uint64_t)about.f_bavail * about.f_frsize >= LEAST_ROOM_BYTES;
}

/* The same of shared memory, which no disk is behind. -errno; -ENOSPC: there is little room. */
static int shared_memory_file(void) {
  char name[64];
  uint64_t random;
  int fd;
#ifdef O_TMPFILE
  fd = open("/dev/shm", O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);
  if (fd >= 0 && has_room(fd)) return os_above_stdio(fd);
  os_close(&fd);
#endif
  os_random(&random, sizeof random);
  snprintf(name, sizeof name, "/luapool-%016llx", (unsigned long long)random);
  fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
  if (fd < 0) return -errno;
  shm_unlink(name);
  if (has_room(fd)) return os_above_stdio(fd);
  os_close(&fd);
  return -ENOSPC;
}

#endif

static int portable_memory_file(const char *debug_name) {
#ifndef LUAPOOL_NO_SHM
  int fd = shared_memory_file();
  if (fd >= 0) return fd;
#endif
  return temporary_file(debug_name);
}

int os_memory_file(const char *debug_name) {
  int error = fault_fails("memfd");
  if (error && !os_is_absent(error)) return -error;
#ifndef LUAPOOL_NO_MEMFD
  if (!error) {
    int fd = memfd_create(debug_name, MFD_CLOEXEC);
    if (fd < 0 && errno == EACCES) fd = memfd_create(debug_name, MFD_CLOEXEC | MFD_NOEXEC_SEAL); /* (older kernels do not know that flag) */
    if (fd >= 0 || !(os_is_absent(errno) || errno == EINVAL)) return os_above_stdio(fd);
  }
#endif
  return portable_memory_file(debug_name);
}

/* Touches every page of [from, to), so that it exists: for file systems that cannot reserve. Nobody else uses the range yet. */
static int reserve_by_writing(int fd, uint64_t from, uint64_t to) {
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
  if (status != -EOPNOTSUPP && !os_is_absent(-status)) return status;
#endif
  if (ftruncate(fd, (off_t)to) < 0) return -errno;
  status = reserve_by_writing(fd, from, to);
  if (status < 0 && ftruncate(fd, (off_t)from) < 0) return -errno;
  return status;
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
