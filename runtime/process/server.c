/*
 * process/server -- see server.h (may include process/process.h and process/interrupt.h).
 *
 * Messages, host to helper: CONFIGURE once, then START (fork one) or BECOME (be one; nothing follows). Helper to host: READY or REFUSED,
 * STARTED for each START, and ENDED for each worker, whenever that is.
 */
#include "process/server.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/os.h"
#include "process/interrupt.h"

enum message { CONFIGURE = 1, READY, REFUSED, START, STARTED, BECOME, ENDED };

enum { USAGE_STATUS = 2, TICK_NS = 10 * 1000 * 1000 };

#define END_PATIENCE_NS INT64_C(1000000000)
#define SETTLE_NS (200 * INT64_C(1000000))

static int be_helper(const struct server_work *work, int socket, pid_t host);

static const char NO_HELPER[] = "is no helper of luapool: it answers something else";

struct ended {
  int32_t pid;
  struct process_end end;
};

/* ---- the host: what the helper says ---------------------------------------------------------------- */

static struct server *owner_of(struct process_witness *w) {
  return (struct server *)(void *)w; /* its first member */
}

static void note_end(struct server *s, const struct ended *ended) {
  for (size_t i = 0; i < s->n_workers; i++) {
    struct process *p = s->workers[i];
    if (p->pid != ended->pid || p->has_ended) continue;
    p->end = ended->end;
    p->has_ended = 1;
    return;
  }
}

static int take_message(struct server *s) {
  struct wire_message *m = &s->message;
  struct ended ended;
  if (m->kind == ENDED && m->length == sizeof ended) {
    memcpy(&ended, m->data, sizeof ended);
    note_end(s, &ended);
    return 0;
  }
  if (m->kind != STARTED || m->length != sizeof s->answer.pid || s->answer.has_come) return -EBADMSG;
  memcpy(&s->answer.pid, m->data, sizeof s->answer.pid);
  s->answer.pidfd = m->n_fds ? m->fds[0] : -1;
  m->n_fds = 0;
  s->answer.has_come = 1;
  return 0;
}

/*
 * The helper is gone, or mad: its workers go, too, and nobody will say how. Where no signal tells them of their parent's death, an end of
 * file on their lifeline does.
 */
static void lose(struct server *s) {
  s->witness.fd = -1;
  for (size_t i = 0; i < s->n_workers; i++) {
    s->workers[i]->witness = &s->lost;
    if (s->workers[i]->lifeline >= 0) (void)shutdown(s->workers[i]->lifeline, SHUT_WR);
  }
  s->n_workers = 0;
}

/* Read all that is there; wait for something until until_ns (0: do not). Returns 0, -EINTR, or -errno: the helper is lost. */
static int read_messages(struct server *s, int64_t until_ns) {
  while (s->witness.fd >= 0 && !s->answer.has_come) { /* (who was just started is to be known before his end is read) */
    int status = wire_receive(s->witness.fd, &s->message, until_ns);
    if (status == 1) status = take_message(s);
    else if (status == 0 || status == -EINTR) return status;
    if (status < 0) {
      lose(s);
      return status;
    }
    until_ns = 0;
  }
  return 0;
}

static void listen_to(struct process_witness *w) {
  (void)read_messages(owner_of(w), 0);
}

static void know_nothing(struct process_witness *w) {
  (void)w;
}

static void forget_nothing(struct process_witness *w, struct process *p) {
  (void)w;
  (void)p;
}

static void forget_worker(struct process_witness *w, struct process *p) {
  struct server *s = owner_of(w);
  for (size_t i = 0; i < s->n_workers; i++) {
    if (s->workers[i] != p) continue;
    s->workers[i] = s->workers[--s->n_workers];
    return;
  }
}

static int reserve_worker(struct server *s) {
  size_t capacity = s->capacity ? s->capacity * 2 : 16;
  struct process **workers;
  if (s->n_workers < s->capacity) return 0;
  workers = os_allocate(capacity * sizeof *workers);
  if (workers == NULL) return -ENOMEM;
  if (s->n_workers) memcpy(workers, s->workers, s->n_workers * sizeof *workers);
  free(s->workers);
  s->workers = workers;
  s->capacity = capacity;
  return 0;
}

/* ---- the host: starting ----------------------------------------------------------------------------- */

void server_init(struct server *s) {
  memset(s, 0, sizeof *s);
  s->witness = (struct process_witness){-1, listen_to, forget_worker, 0};
  s->lost = (struct process_witness){-1, know_nothing, forget_nothing, 0};
  process_init(&s->helper);
  wire_init(&s->message);
}

int server_is_open(const struct server *s) {
  return s->witness.fd >= 0;
}

static int complain(struct server *s, int status, const char *path, const char *what) {
  snprintf(s->complaint, sizeof s->complaint, "the helper '%s' %s", path, what);
  return status;
}

/* It closed the socket before it answered: how did it end? -EPIPE: somebody killed it, which says nothing of the next. */
static int complain_of_end(struct server *s, struct process *helper, const char *path) {
  struct process_end end;
  int status = -EPROTO;
  char what[96] = "closed the connection before it answered";
  if (process_reap(helper, SETTLE_NS, &end) == 1 && end.is_known) {
    if (end.signal) status = -EPIPE;
    if (end.signal) snprintf(what, sizeof what, "was ended by signal %d before it answered", end.signal);
    else snprintf(what, sizeof what, "ended with status %d before it answered", end.exit_code);
  }
  return complain(s, status, path, what);
}

/* Wait for one message on a helper's socket: 0, or -errno with a complaint. */
static int await_message(struct server *s, struct process *helper, const char *path, int64_t patience_ns) {
  int64_t until_ns = os_now_ns() + patience_ns;
  int status;
  do status = wire_receive(helper->lifeline, &s->message, until_ns);
  while (status == -EINTR && interrupt_pending() == 0);
  if (status == 1) return 0;
  if (status == 0) return complain(s, -ETIMEDOUT, path, "does not answer");
  if (status == -EPIPE || status == -ECONNRESET) return complain_of_end(s, helper, path);
  if (status == -EBADMSG) return complain(s, status, path, NO_HELPER);
  return complain(s, status, path, strerror(-status));
}

static void end_helper(struct process *helper) {
  struct process_end end;
  process_close_fd(&helper->lifeline);
  if (process_reap(helper, END_PATIENCE_NS, &end) == 1) return;
  (void)process_signal(helper, SIGKILL);
  if (process_reap(helper, END_PATIENCE_NS, &end) != 1) process_abandon(helper);
}

/* Execute a helper, and have it accept the configuration. */
static int open_helper(struct server *s, const struct server_options *options, struct process *helper) {
  const char *const arguments[] = {options->path, SERVER_ARGUMENT, NULL};
  int status;
  s->complaint[0] = '\0';
  status = process_spawn(helper, options->path, arguments);
  if (status < 0) {
    snprintf(s->complaint, sizeof s->complaint, "cannot execute the helper '%s': %s", options->path, strerror(-status));
    return status;
  }
  status = wire_send(helper->lifeline, CONFIGURE, options->config, options->length, NULL, 0, os_now_ns() + options->patience_ns);
  /* When it went before it had read anything, what it said is still to be had. */
  if (status == 0 || status == -EPIPE || status == -ECONNRESET) status = await_message(s, helper, options->path, options->patience_ns);
  if (status == 0 && s->message.kind == REFUSED) status = complain(s, -EPROTO, options->path, (const char *)s->message.data);
  else if (status == 0 && s->message.kind != READY) status = complain(s, -EBADMSG, options->path, NO_HELPER);
  if (status < 0) end_helper(helper);
  return status;
}

int server_open(struct server *s, const struct server_options *options) {
  int status;
  lose(s);
  if (s->helper.pid != 0) end_helper(&s->helper);
  s->answer.has_come = 0;
  status = open_helper(s, options, &s->helper);
  if (status == 0) s->witness.fd = s->helper.lifeline;
  return status;
}

int server_fork(struct server *s, const struct server_work *work) {
  int socket, status;
  pid_t host = getpid();
  lose(s);
  if (s->helper.pid != 0) end_helper(&s->helper);
  s->answer.has_come = 0;
  FAULT_POINT("before_fork");
  status = process_fork_helper(&s->helper, &socket);
  if (status == 0) process_exit(be_helper(work, socket, host));
  if (status < 0) return status;
  s->witness.fd = s->helper.lifeline;
  s->witness.is_shared = 1;
  return 0;
}

static int no_answer(struct server *s, int status) {
  snprintf(s->complaint, sizeof s->complaint, "the helper does not answer: %s", strerror(-status));
  if (status != -EINTR) lose(s);
  return status;
}

/* The order is sent: who is it that was started? */
static int await_worker(struct server *s, struct process *p, int lifeline, _Atomic uint32_t *command, int64_t until_ns) {
  while (!s->answer.has_come) {
    int status = read_messages(s, until_ns);
    if (status == -EINTR) continue; /* it is on its way: to leave now would be to lose it */
    if (status < 0 || s->witness.fd < 0) return no_answer(s, status < 0 ? status : -EPIPE);
    if (!s->answer.has_come && os_now_ns() >= until_ns) return no_answer(s, -ETIMEDOUT);
  }
  s->answer.has_come = 0;
  if (s->answer.pid <= 0) {
    snprintf(s->complaint, sizeof s->complaint, "the helper cannot fork: %s", strerror(-s->answer.pid));
    return s->answer.pid < 0 ? s->answer.pid : -EBADMSG;
  }
  if (s->answer.pidfd >= 0 && process_register_fd(s->answer.pidfd) < 0) os_close(&s->answer.pidfd);
  process_adopt(p, (pid_t)s->answer.pid, s->answer.pidfd, lifeline, command, &s->witness);
  s->workers[s->n_workers++] = p;
  return 1;
}

int server_start(struct server *s, struct process *p, const void *order, size_t length, const int *fds, size_t n_fds,
                 _Atomic uint32_t *command, int64_t patience_ns) {
  int all[WIRE_MAX_FDS], lifeline[2], status;
  int64_t until_ns = os_now_ns() + patience_ns;
  s->complaint[0] = '\0';
  if (n_fds + 1 > WIRE_MAX_FDS) return -EMSGSIZE;
  status = reserve_worker(s);
  if (status == 0) status = process_socket_pair(lifeline);
  if (status < 0) return status;
  all[0] = lifeline[1];
  if (n_fds) memcpy(all + 1, fds, n_fds * sizeof *fds);
  FAULT_POINT("before_fork");
  do status = wire_send(s->witness.fd, START, order, length, all, n_fds + 1, until_ns);
  while (status == -EINTR);
  process_close_fd(&lifeline[1]);
  status = status < 0 ? no_answer(s, status) : await_worker(s, p, lifeline[0], command, until_ns);
  if (status < 0) process_close_fd(&lifeline[0]);
  return status;
}

int server_become(struct server *s, const struct server_options *options, struct process *p, const void *order, size_t length,
                  const int *fds, size_t n_fds, _Atomic uint32_t *command) {
  int status;
  FAULT_POINT("before_fork");
  status = open_helper(s, options, p);
  if (status < 0) return status;
  if (command) atomic_store(command, PROCESS_STARTING);
  p->command = command;
  do status = wire_send(p->lifeline, BECOME, order, length, fds, n_fds, os_now_ns() + options->patience_ns);
  while (status == -EINTR);
  if (status == 0) return 1;
  complain(s, status, options->path, strerror(-status));
  end_helper(p);
  return status;
}

void server_close(struct server *s) {
  lose(s);
  if (s->helper.pid != 0) end_helper(&s->helper);
  free(s->workers);
  s->workers = NULL;
  s->n_workers = s->capacity = 0;
  wire_free(&s->message);
}

void server_abandon(struct server *s) {
  lose(s);
  process_abandon(&s->helper);
  free(s->workers);
  s->workers = NULL;
  s->n_workers = s->capacity = 0;
  wire_free(&s->message);
}

/* ---- the helper ------------------------------------------------------------------------------------- */

struct helper {
  const struct server_work *work;
  int socket;
  int host_pidfd;            /* -1: none */
  struct process *children;  /* that live */
  size_t n_children, capacity;
  struct pollfd *polls;
  struct wire_message message;
};

/* Standard input is the socket: it moves to where nobody takes it for input, and there is none. */
static int take_socket(void) {
  int null, socket = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
  int flags = socket < 0 ? -1 : fcntl(socket, F_GETFL);
  if (flags < 0 || fcntl(socket, F_SETFL, flags | O_NONBLOCK) < 0) return -EBADF;
  os_close_others(&socket, 1);
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
    if (fd != STDIN_FILENO && fcntl(fd, F_GETFD) >= 0) continue;
    null = os_open("/dev/null", O_RDWR);
    if (null < 0 || dup2(null, fd) < 0) return -EBADF;
    if (null != fd) os_close(&null);
  }
  return process_register_fd(socket) == 0 ? socket : -ENOMEM;
}

/* The socket says it, too, unless a process that the host forked by itself holds it open. */
static int watch_host(pid_t host) {
  int pidfd = os_pidfd_open(host);
  if (pidfd >= 0 && process_register_fd(pidfd) < 0) os_close(&pidfd);
  return pidfd < 0 ? -1 : pidfd;
}

static int reserve_child(struct helper *h) {
  size_t capacity = h->capacity ? h->capacity * 2 : 16;
  struct process *children;
  struct pollfd *polls;
  if (h->n_children < h->capacity) return 0;
  children = realloc(h->children, capacity * sizeof *children);
  if (children) h->children = children;
  polls = realloc(h->polls, (capacity + 2) * sizeof *polls);
  if (polls) h->polls = polls;
  if (children == NULL || polls == NULL) return -ENOMEM;
  h->capacity = capacity;
  return 0;
}

/* Keeps and registers what came with the message, for the worker. */
static int register_fds(const struct wire_message *m) {
  for (size_t i = 0; i < m->n_fds; i++) {
    int status = process_register_fd(m->fds[i]);
    if (status < 0) return status;
  }
  return 0;
}

static void close_fds(struct wire_message *m) {
  for (size_t i = 0; i < m->n_fds; i++) process_close_fd(&m->fds[i]);
  m->n_fds = 0;
}

/* A worker with `first` descriptors of the message's before those of the order. */
static int prepare(struct helper *h, size_t first, struct process_child *child) {
  struct wire_message *m = &h->message;
  int status = m->n_fds < first ? -EBADMSG : register_fds(m);
  memset(child, 0, sizeof *child);
  child->keep = m->fds;
  child->n_keep = m->n_fds;
  child->has_lifeline = 1;
  child->lifeline = first ? m->fds[0] : h->socket;
  if (status < 0) return status;
  return h->work->prepare(h->work->context, m->data, m->length, m->fds + first, m->n_fds - first, child);
}

/* 0, or the host does not listen any more. */
static int answer_start(struct helper *h, int status) {
  int32_t pid = status == 1 ? (int32_t)h->children[h->n_children - 1].pid : (int32_t)status;
  int pidfd = status == 1 ? h->children[h->n_children - 1].pidfd : -1;
  int sent;
  do sent = wire_send(h->socket, STARTED, &pid, sizeof pid, &pidfd, pidfd >= 0, -1);
  while (sent == -EINTR);
  return sent;
}

static int start_worker(struct helper *h) {
  struct process_child child;
  int status = reserve_child(h);
  if (status == 0) status = prepare(h, 1, &child);
  if (status == 0) {
    process_init(&h->children[h->n_children]);
    status = process_fork(&h->children[h->n_children], &child);
    if (status == 0) {
      h->work->run(h->work->context);
      process_exit(0);
    }
    if (status == 1) h->n_children++;
    h->work->release(h->work->context);
  }
  close_fds(&h->message);
  return answer_start(h, status);
}

static int become_worker(struct helper *h) {
  struct process_child child;
  if (prepare(h, 0, &child) < 0) return -EBADMSG;
  process_become(&child);
  h->work->run(h->work->context);
  process_exit(0);
}

static int configure(struct helper *h) {
  char text[400] = "";
  int sent, status = h->work->configure(h->work->context, h->message.data, h->message.length, text, sizeof text);
  do sent = wire_send(h->socket, status < 0 ? REFUSED : READY, text, strlen(text), NULL, 0, -1);
  while (sent == -EINTR);
  return status < 0 ? status : sent;
}

/* 0: go on; negative: leave. */
static int take_order(struct helper *h) {
  switch (h->message.kind) {
    case CONFIGURE: return configure(h);
    case START: return start_worker(h);
    case BECOME: return become_worker(h);
    default: return -EBADMSG;
  }
}

static int report_ends(struct helper *h) {
  for (size_t i = 0; i < h->n_children;) {
    struct ended ended;
    int sent;
    memset(&ended, 0, sizeof ended);
    ended.pid = (int32_t)h->children[i].pid;
    if (process_reap(&h->children[i], 0, &ended.end) != 1) {
      i++;
      continue;
    }
    h->children[i] = h->children[--h->n_children];
    do sent = wire_send(h->socket, ENDED, &ended, sizeof ended, NULL, 0, -1);
    while (sent == -EINTR);
    if (sent < 0) return sent;
  }
  return 0;
}

/* Until the host or a child stirs. Where a child cannot be waited for, look from time to time. */
static int sleep_until_asked(struct helper *h) {
  size_t n = 0;
  int is_blind = 0, status;
  h->polls[n++] = (struct pollfd){h->socket, POLLIN, 0};
  h->polls[n++] = (struct pollfd){h->host_pidfd, POLLIN, 0};
  for (size_t i = 0; i < h->n_children; i++) {
    h->polls[n++] = (struct pollfd){h->children[i].pidfd, POLLIN, 0};
    is_blind |= h->children[i].pidfd < 0;
  }
  status = os_poll(h->polls, n, is_blind ? TICK_NS : -1);
  if (status < 0 && status != -EINTR) return status;
  return status > 0 && h->polls[1].revents ? -EPIPE : 0;
}

static int serve(struct helper *h) {
  for (;;) {
    int status = sleep_until_asked(h);
    if (status == 0) status = report_ends(h);
    while (status == 0 && (status = wire_receive(h->socket, &h->message, 0)) == 1) status = take_order(h);
    if (status < 0 && status != -EINTR) return status;
  }
}

static int be_helper(const struct server_work *work, int socket, pid_t host) {
  struct helper h;
  int status;
  memset(&h, 0, sizeof h);
  h.work = work;
  h.socket = socket;
  wire_init(&h.message);
  h.host_pidfd = watch_host(host);
  status = getppid() == host || getppid() == 0 ? reserve_child(&h) : -EPIPE; /* (0: it is outside of this process's namespace) */
  if (status == 0) status = serve(&h);
  wire_free(&h.message);
  free(h.children);
  free(h.polls);
  return status == -ENOTSOCK ? USAGE_STATUS : 0;
}

int server_main(const struct server_work *work) {
  int socket = take_socket();
  if (socket < 0) return USAGE_STATUS;
  interrupt_become_helper();
  return be_helper(work, socket, getppid());
}
