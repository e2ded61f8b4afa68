/* base/record -- see record.h (may include base/bytes.h and base/os.h). */
#include "base/record.h"

#include <errno.h>
#include <sys/socket.h>

#include "base/os.h"

enum { READ_BYTES = 1 << 18, READS_AT_ONCE = 8 };

void record_open(struct record_link *link, int fd) {
  link->fd = fd;
  bytes_init(&link->in);
  bytes_init(&link->out);
  link->in_at = link->out_at = 0;
}

void record_close(struct record_link *link) {
  os_close(&link->fd);
  bytes_free(&link->in);
  bytes_free(&link->out);
  link->in_at = link->out_at = 0;
}

int record_put(struct record_link *link, enum record_kind kind, unsigned node, int more, const void *data, size_t length) {
  struct record head = {(uint32_t)length, (uint16_t)node, (uint8_t)kind, (uint8_t)(more != 0)};
  int status = bytes_reserve(&link->out, RECORD_HEAD + length);
  if (status < 0) return status;
  (void)bytes_append(&link->out, &head, RECORD_HEAD);
  (void)bytes_append(&link->out, data, length);
  return 0;
}

int record_flush(struct record_link *link) {
  if (link->fd < 0) return -EPIPE;
  while (link->out_at < link->out.length) {
    ssize_t n = send(link->fd, link->out.data + link->out_at, link->out.length - link->out_at, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno == EAGAIN || errno == EWOULDBLOCK ? 1 : errno == ECONNRESET ? -EPIPE : -errno;
    link->out_at += (size_t)n;
  }
  bytes_clear(&link->out);
  link->out_at = 0;
  return 0;
}

/* What was taken makes room, at a price that is small beside what was read. */
static void compact(struct record_link *link) {
  if (link->in_at == 0) return;
  if (link->in_at < link->in.length) memmove(link->in.data, link->in.data + link->in_at, link->in.length - link->in_at);
  link->in.length -= link->in_at;
  link->in_at = 0;
}

int record_fill(struct record_link *link) {
  int turns;
  compact(link);
  for (turns = 0; turns < READS_AT_ONCE; turns++) {
    ssize_t n;
    if (link->fd < 0) return -EPIPE;
    if (bytes_reserve(&link->in, READ_BYTES) < 0) return -ENOMEM;
    n = os_read(link->fd, link->in.data + link->in.length, READ_BYTES);
    if (n == -EAGAIN || n == -EWOULDBLOCK) return turns > 0;
    if (n == 0 || n == -ECONNRESET) return turns > 0 ? 1 : -EPIPE;
    if (n < 0) return (int)n;
    link->in.length += (size_t)n;
    if (n < READ_BYTES) return 1;
  }
  return 1;
}

int record_next(struct record_link *link, struct record *head, const unsigned char **data) {
  size_t there = link->in.length - link->in_at;
  if (there < RECORD_HEAD) return 0;
  memcpy(head, link->in.data + link->in_at, RECORD_HEAD);
  if (head->length > RECORD_MOST || head->kind == 0 || head->kind >= RECORD_KINDS) return -EBADMSG;
  if (there - RECORD_HEAD < head->length) return 0;
  *data = link->in.data + link->in_at + RECORD_HEAD;
  link->in_at += RECORD_HEAD + head->length;
  return 1;
}
