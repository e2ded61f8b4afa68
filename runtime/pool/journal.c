/*
 * pool/journal -- see journal.h.
 *
 * Room: pool.  A line is TEXT,"c":"XXXXXXXX"}\n where TEXT} is what was added and the eight digits are the CRC-32 of TEXT.
 */
#include "pool/journal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/os.h"
#include "process/process.h"

enum {
  READ_BYTES = 64 * 1024,
  KEPT_BYTES = 4 << 20, /* written and not yet synced: beyond it a flush syncs */
  TAIL_BYTES = 16       /* ,"c":"XXXXXXXX"} */
};

static const int64_t LOCK_TURN_NS = 10 * 1000 * 1000;

/* ---- checksums ---- */

/* CRC-32 (the one of zip), four bits at a time: a table of 64 bytes that needs no making. */
static uint32_t crc(const char *data, size_t length) {
  static const uint32_t table[16] = {0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
                                     0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
  uint32_t sum = 0xffffffff;
  for (; length > 0; data++, length--) {
    sum ^= (unsigned char)*data;
    sum = (sum >> 4) ^ table[sum & 15];
    sum = (sum >> 4) ^ table[sum & 15];
  }
  return ~sum;
}

static void write_tail(char tail[TAIL_BYTES], uint32_t sum) {
  static const char digits[] = "0123456789abcdef";
  memcpy(tail, ",\"c\":\"00000000\"}", TAIL_BYTES);
  for (int i = 0; i < 8; i++) tail[13 - i] = digits[(sum >> 4 * i) & 15];
}

static int has_right_tail(const char *line, size_t length) {
  char tail[TAIL_BYTES];
  if (length <= TAIL_BYTES) return 0;
  write_tail(tail, crc(line, length - TAIL_BYTES));
  return memcmp(line + length - TAIL_BYTES, tail, TAIL_BYTES) == 0;
}

/* ---- open and close ---- */

void journal_init(struct journal *j) {
  memset(j, 0, sizeof *j);
  j->fd = -1;
  bytes_init(&j->out);
  bytes_init(&j->in);
}

static int is_mine(const struct journal *j) {
  return j->fd >= 0 && j->owner == getpid();
}

/* 1: locked; 0: there are no locks here; -errno. */
static int lock(int fd) {
  int64_t until = os_now_ns() + JOURNAL_LOCK_WAIT_NS;
  for (;;) {
    int status = os_lock(fd);
    if (status == 0) return 1;
    if (status == -ENOLCK || status == -ENOSYS || status == -EOPNOTSUPP) return 0;
    if (status != -EAGAIN || os_now_ns() >= until) return status;
    (void)os_poll(NULL, 0, LOCK_TURN_NS);
  }
}

int journal_open(struct journal *j, const char *path) {
  int is_new, status;
  journal_init(j);
  j->fd = os_open_regular(path, &is_new);
  if (j->fd < 0) {
    status = j->fd;
    j->fd = -1;
    return status;
  }
  j->owner = getpid();
  status = process_register_fd(j->fd);
  if (status == 0) status = j->has_lock = lock(j->fd);
  if (status >= 0 && is_new) status = os_sync_directory(path);
  if (status >= 0) return 0;
  journal_abandon(j);
  return status;
}

void journal_abandon(struct journal *j) {
  if (is_mine(j)) process_close_fd(&j->fd); /* a child's copy was closed at its birth: the number may be somebody else's */
  bytes_free(&j->out);
  bytes_free(&j->in);
  j->fd = -1;
}

int journal_close(struct journal *j) {
  int status = is_mine(j) ? journal_sync(j) : 0;
  journal_abandon(j);
  return status;
}

/* ---- reading ---- */

/* Bytes of the file that are at hand from `at` on. */
static size_t held(const struct journal *j, uint64_t at) {
  return at < j->in_at || at > j->in_at + j->in.length ? 0 : (size_t)(j->in_at + j->in.length - at);
}

/* Have more of the file at hand from `at` on, where `have` bytes are; what is before goes. Returns how many there are now, or -errno. */
static ssize_t read_more(struct journal *j, uint64_t at, size_t have) {
  size_t more = have > READ_BYTES ? have : READ_BYTES;
  ssize_t got;
  if (have > 0) memmove(j->in.data, j->in.data + (at - j->in_at), have);
  j->in.length = have;
  j->in_at = at;
  if (bytes_reserve(&j->in, more) < 0) return -ENOMEM;
  got = os_read_at(j->fd, j->in.data + have, more, at + have);
  if (got < 0) return got;
  j->in.length += (size_t)got;
  return (ssize_t)j->in.length;
}

int journal_next(struct journal *j, uint64_t *offset, const char **line, size_t *length, int *is_whole) {
  size_t have, searched = 0;
  if (!is_mine(j)) return -EPERM;
  have = held(j, *offset);
  for (;;) {
    const char *text = have ? (const char *)j->in.data + (*offset - j->in_at) : NULL;
    const char *end = have > searched ? memchr(text + searched, '\n', have - searched) : NULL;
    ssize_t more;
    if (end != NULL) {
      *line = text;
      *length = (size_t)(end - text);
      *offset += *length + 1;
      *is_whole = has_right_tail(*line, *length);
      return 1;
    }
    searched = have;
    more = read_more(j, *offset, have);
    if (more < 0) return (int)more;
    if ((size_t)more == have) return 0;
    have = (size_t)more;
  }
}

int64_t journal_size(const struct journal *j) {
  return is_mine(j) ? os_size(j->fd) : -EPERM;
}

ssize_t journal_peek(const struct journal *j, char *text, size_t size) {
  return is_mine(j) ? os_read_at(j->fd, text, size, 0) : -EPERM;
}

int journal_cut(struct journal *j, uint64_t size) {
  int status;
  if (!is_mine(j)) return -EPERM;
  status = os_resize(j->fd, size);
  if (status < 0) return status;
  bytes_clear(&j->out);
  bytes_clear(&j->in);
  j->out_at = size;
  j->written = 0;
  j->is_dirty = 1; /* also what was found there: whoever wrote it may have had no time to sync it */
  return 0;
}

/* ---- writing ---- */

int journal_add(struct journal *j, const char *text, size_t length) {
  char tail[TAIL_BYTES];
  if (!is_mine(j)) return -EPERM;
  if (length < 2) return -EINVAL;
  length--; /* the brace comes behind the checksum */
  write_tail(tail, crc(text, length));
  if (bytes_reserve(&j->out, length + TAIL_BYTES + 1) < 0) return -ENOMEM;
  (void)bytes_append(&j->out, text, length);
  (void)bytes_append(&j->out, tail, TAIL_BYTES);
  (void)bytes_append(&j->out, "\n", 1);
  return 0;
}

/* Beyond the limit on file sizes a write would be answered by a signal that kills: what fits is written. */
static int write_waiting(struct journal *j) {
  uint64_t at = j->out_at + j->written, most = os_most_size();
  size_t left = j->out.length - j->written, length = at + left <= most ? left : at < most ? (size_t)(most - at) : 0;
  int status;
  if (left == 0) return 0;
  j->is_dirty = 1;
  status = os_write_at(j->fd, j->out.data + j->written, length, at);
  if (status == 0) j->written += length;
  return status == 0 && length < left ? -EFBIG : status;
}

int journal_sync(struct journal *j) {
  int status;
  if (!is_mine(j)) return -EPERM;
  status = write_waiting(j);
  if (status < 0 || !j->is_dirty) return status;
  status = os_sync(j->fd);
  if (status < 0) {
    j->written = 0; /* the kernel may have dropped the pages: a second sync of the same ones would prove nothing */
    return status;
  }
  j->is_dirty = 0;
  j->out_at += j->out.length;
  j->written = 0;
  bytes_clear(&j->out);
  return 0;
}

int journal_flush(struct journal *j) {
  if (!is_mine(j)) return -EPERM;
  return j->out.length > KEPT_BYTES ? journal_sync(j) : write_waiting(j);
}
