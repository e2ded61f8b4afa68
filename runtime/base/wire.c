/* base/wire -- see wire.h (may include base/os.h). */
#include "base/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/os.h"

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* there SO_NOSIGPIPE is set */
#endif
#ifndef MSG_CMSG_CLOEXEC
#define MSG_CMSG_CLOEXEC 0
#endif

struct head {
  uint32_t magic, kind, length, n_fds;
};

static const uint32_t MAGIC = 0x6c706f31;

void wire_init(struct wire_message *m) {
  memset(m, 0, sizeof *m);
}

static void drop_fds(struct wire_message *m) {
  size_t i;
  for (i = 0; i < m->n_fds; i++) os_close(&m->fds[i]);
  m->n_fds = 0;
  m->is_cut = 0;
}

void wire_forget(struct wire_message *m) {
  drop_fds(m);
  m->got = 0;
}

void wire_free(struct wire_message *m) {
  drop_fds(m);
  free(m->data);
  wire_init(m);
}

/* 0: ready; -ETIMEDOUT; -EINTR. */
static int wait_for(int socket, short events, int64_t until_ns) {
  struct pollfd one = {socket, events, 0};
  int64_t left = until_ns < 0 ? -1 : until_ns - os_now_ns();
  int status = os_poll(&one, 1, until_ns >= 0 && left < 0 ? 0 : left);
  return status > 0 ? 0 : status == 0 ? -ETIMEDOUT : status;
}

/* Descriptors go with the first byte. */
static void attach_fds(struct msghdr *message, void *control, const int *fds, size_t n_fds) {
  struct cmsghdr *part;
  if (n_fds == 0) return;
  message->msg_control = control;
  message->msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
  part = CMSG_FIRSTHDR(message);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
  memcpy(CMSG_DATA(part), fds, n_fds * sizeof(int));
}

static ssize_t send_some(int socket, const struct head *head, const unsigned char *data, size_t sent, const int *fds, size_t n_fds) {
  union {
    struct cmsghdr align;
    unsigned char bytes[CMSG_SPACE(WIRE_MAX_FDS * sizeof(int))];
  } control;
  struct iovec pieces[2];
  struct msghdr message;
  memset(&message, 0, sizeof message);
  memset(&control, 0, sizeof control);
  message.msg_iov = pieces;
  if (sent < sizeof *head) {
    pieces[0] = (struct iovec){(unsigned char *)(uintptr_t)head + sent, sizeof *head - sent};
    pieces[1] = (struct iovec){(unsigned char *)(uintptr_t)data, head->length};
    message.msg_iovlen = 2;
  } else {
    pieces[0] = (struct iovec){(unsigned char *)(uintptr_t)data + (sent - sizeof *head), head->length - (sent - sizeof *head)};
    message.msg_iovlen = 1;
  }
  if (sent == 0) attach_fds(&message, control.bytes, fds, n_fds);
  return sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

int wire_send(int socket, uint32_t kind, const void *data, size_t length, const int *fds, size_t n_fds, int64_t until_ns) {
  struct head head = {MAGIC, kind, (uint32_t)length, (uint32_t)n_fds};
  size_t sent = 0;
  if (length > WIRE_MAX_BYTES || n_fds > WIRE_MAX_FDS) return -EMSGSIZE;
  while (sent < sizeof head + length) {
    ssize_t put = send_some(socket, &head, data, sent, fds, n_fds);
    int status;
    if (put >= 0) {
      sent += (size_t)put;
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN && errno != EWOULDBLOCK) return -errno;
    status = wait_for(socket, POLLOUT, until_ns);
    if (status < 0) return status;
  }
  return 0;
}

/* Keep the descriptors that came; more than there is room for are closed (and missed: the count is in the head). */
static void take_fds(struct wire_message *m, struct msghdr *message) {
  struct cmsghdr *part;
  if (message->msg_flags & MSG_CTRUNC) m->is_cut = 1;
  for (part = CMSG_FIRSTHDR(message); part != NULL; part = CMSG_NXTHDR(message, part)) {
    size_t i, n;
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    n = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (i = 0; i < n; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof fd);
      if (!MSG_CMSG_CLOEXEC) fcntl(fd, F_SETFD, FD_CLOEXEC);
      if (m->n_fds < WIRE_MAX_FDS) {
        m->fds[m->n_fds++] = fd;
      } else {
        os_close(&fd);
      }
    }
  }
}

static ssize_t receive_some(int socket, struct wire_message *m, void *into, size_t size) {
  union {
    struct cmsghdr align;
    unsigned char bytes[CMSG_SPACE(WIRE_MAX_FDS * sizeof(int))];
  } control;
  struct iovec piece = {into, size};
  struct msghdr message;
  ssize_t got;
  memset(&message, 0, sizeof message);
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes;
  message.msg_controllen = sizeof control.bytes;
  do got = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  while (got < 0 && errno == EINTR);
  if (got >= 0) take_fds(m, &message);
  return got < 0 ? -errno : got;
}

/* The head is complete: what does it announce? */
static int begin_data(struct wire_message *m) {
  struct head head;
  memcpy(&head, m->head, sizeof head);
  if (head.magic != MAGIC || head.length > WIRE_MAX_BYTES || head.n_fds > WIRE_MAX_FDS) return -EBADMSG;
  m->kind = head.kind;
  m->length = head.length;
  if (m->capacity > head.length) return 0;
  free(m->data);
  m->data = os_allocate((size_t)head.length + 1);
  m->capacity = m->data ? (size_t)head.length + 1 : 0;
  return m->data ? 0 : -ENOMEM;
}

static int is_complete(struct wire_message *m) {
  struct head head;
  if (m->got < sizeof head || m->got < sizeof head + m->length) return 0;
  memcpy(&head, m->head, sizeof head);
  m->data[m->length] = '\0'; /* a text can be read as one */
  m->got = 0;
  if (head.n_fds == m->n_fds) return 1;
  return m->is_cut ? -EMFILE : -EBADMSG;
}

/* One piece of it. 1: there is more to come, and some came; 0: nothing is here now. */
static int receive_piece(int socket, struct wire_message *m) {
  ssize_t got;
  if (m->got < sizeof m->head) {
    got = receive_some(socket, m, m->head + m->got, sizeof m->head - m->got);
  } else {
    size_t at = m->got - sizeof m->head;
    got = receive_some(socket, m, m->data + at, m->length - at);
  }
  if (got == -EAGAIN || got == -EWOULDBLOCK) return 0;
  if (got <= 0) return got == 0 ? -EPIPE : (int)got;
  m->got += (size_t)got;
  return 1;
}

int wire_receive(int socket, struct wire_message *m, int64_t until_ns) {
  _Static_assert(sizeof m->head == sizeof(struct head), "the head of a message");
  if (m->got == 0) drop_fds(m);
  for (;;) {
    size_t before = m->got;
    int status = receive_piece(socket, m);
    if (status > 0 && before < sizeof m->head && m->got == sizeof m->head) {
      status = begin_data(m);
      if (status == 0) status = is_complete(m); /* it may have no data */
      if (status == 0) continue;
      return status;
    }
    if (status > 0) {
      status = is_complete(m);
      if (status != 0) return status;
      continue;
    }
    if (status < 0) return status;
    if (until_ns == 0) return 0;
    status = wait_for(socket, POLLIN, until_ns);
    if (status == -ETIMEDOUT) return 0;
    if (status < 0) return status;
  }
}
