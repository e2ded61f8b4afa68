/* memory/segment -- see segment.h. */
#include "memory/segment.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/os.h"
#include "base/share.h"

static const uint64_t MAGIC = UINT64_C(0x1d6c6f6f7061756c);

/* Fills in what the descriptor is, and maps it. On failure the descriptor is the caller's. */
static int attach(struct segment *s) {
  struct share_identity identity;
  void *data;
  int status = share_identify(s->fd, &identity);
  if (status < 0) return status;
  if (identity.size < SEGMENT_HEADER_BYTES) return -EBADMSG;
  status = identity.size > SIZE_MAX ? -ENOMEM : os_map_file(s->fd, (size_t)identity.size, &data);
  if (status < 0) return status;
  s->data = data;
  s->size = identity.size;
  s->device = identity.device;
  s->inode = identity.inode;
  return 0;
}

static struct segment *new_segment(void) {
  struct segment *s = os_allocate(sizeof *s);
  if (s == NULL) return NULL;
  *s = (struct segment){.fd = -1, .references = 1};
  return s;
}

int segment_make(struct segment **out, uint32_t kind, uint32_t detail, uint64_t length, uint64_t bytes) {
  struct segment *s = new_segment();
  int status;
  if (s == NULL) return -ENOMEM;
  status = s->fd = os_memory_file("luapool-shared");
  if (status >= 0) status = bytes > INT64_MAX - SEGMENT_HEADER_BYTES ? -EFBIG : os_memory_grow(s->fd, bytes + SEGMENT_HEADER_BYTES);
  if (status >= 0) status = attach(s);
  if (status < 0) {
    segment_drop(s);
    return status;
  }
  *segment_header(s) = (struct segment_header){
    .magic = MAGIC, .kind = kind, .detail = detail, .length = length, .birth = (uint64_t)os_now_ns()};
  s->maker = getpid();
  s->maker_fd = s->fd;
  *out = s;
  return 0;
}

int segment_is(int fd) {
  struct stat about;
  uint64_t magic;
  if (fstat(fd, &about) < 0 || !S_ISREG(about.st_mode) || about.st_nlink > 0) return 0;
  return pread(fd, &magic, sizeof magic, 0) == sizeof magic && magic == MAGIC;
}

/* Open what process `pid` calls `fd`, if it is still the file of that address. */
static int open_at(const struct segment_address *address, int32_t pid, int32_t fd) {
  struct share_identity identity;
  int status, file = pid > 0 && fd >= 0 ? share_open_of(pid, fd) : -ENOENT;
  if (file < 0) return file == -ENOENT || file == -ESRCH || file == -ENXIO ? -ESTALE : file;
  status = share_identify(file, &identity);
  if (status == 0 && identity.device == address->device && identity.inode == address->inode) return file;
  os_close(&file);
  return -ESTALE;
}

int segment_open(struct segment **out, const struct segment_address *address) {
  struct segment *s = new_segment();
  int status;
  if (s == NULL) return -ENOMEM;
  status = s->fd = open_at(address, address->maker, address->maker_fd);
  if (status < 0) {
    int other = open_at(address, address->sender, address->sender_fd);
    if (other >= 0) s->fd = status = other;
  }
  if (status >= 0) status = attach(s);
  if (status >= 0 && segment_header(s)->magic != MAGIC) status = -EBADMSG;
  if (status >= 0 && segment_header(s)->birth != address->birth) status = -ESTALE;
  if (status < 0) {
    segment_drop(s);
    return status;
  }
  s->maker = address->maker;
  s->maker_fd = address->maker_fd;
  *out = s;
  return 0;
}

void segment_address(const struct segment *s, struct segment_address *address) {
  *address = (struct segment_address){
    .device = s->device, .inode = s->inode, .maker = s->maker, .maker_fd = s->maker_fd, .sender = getpid(), .sender_fd = s->fd,
    .birth = segment_header(s)->birth};
}

void segment_keep(struct segment *s) {
  s->references++;
}

int segment_drop(struct segment *s) {
  if (s == NULL || --s->references > 0) return 0;
  os_unmap(s->data, (size_t)s->size);
  os_close(&s->fd);
  free(s);
  return 1;
}

int segment_remap(struct segment *s, uint64_t size) {
  struct share_identity identity;
  void *data;
  int status = share_identify(s->fd, &identity);
  if (status == 0 && size > identity.size) status = -EBADMSG; /* beyond the end lies SIGBUS */
  if (status == 0) status = size > SIZE_MAX ? -ENOMEM : os_map_file(s->fd, (size_t)size, &data);
  if (status < 0) return status;
  os_unmap(s->data, (size_t)s->size);
  s->data = data;
  s->size = size;
  return 0;
}
