/*
 * process/server -- see server.h (may include process/process.h, process/process_parts.h and process/interrupt.h).
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
#include "base/share.h"
#include "process/interrupt.h"
#include "process/process_parts.h"

enum message { CONFIGURE = 1, READY, REFUSED, START, STARTED, BECOME, ENDED };

enum { USAGE_STATUS = 2, TICK_NS = 10 * 1000 * 1000, FIRST_CHILD = 2 /* in the poll set */ };

#define END_PATIENCE_NS INT64_C(1000000000)
#define BURY_NS INT64_C(20000000)
#define SETTLE_NS INT64_C(5000000000) /* between the end of the connection and that of its process, on a busy machine */

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
  if (s->answer.has_come) os_close(&s->answer.pidfd);
  s->answer.has_come = 0;
  for (size_t i = 0; i < s->n_workers; i++) {
    s->workers[i]->witness = &s->lost;
    if (s->workers[i]->lifeline >= 0) (void)shutdown(s->workers[i]->lifeline, SHUT_WR);
  }
  s->n_workers = 0;
}

/* The same of one that still runs, maybe, with orders that it would still carry out: who has closed the socket is about to be gone. */
static void bury(struct server *s) {
  struct process_end end;
  lose(s);
  if (process_reap(&s->helper, BURY_NS, &end) == 1) return;
  (void)process_signal(&s->helper, SIGKILL);
  (void)process_reap(&s->helper, END_PATIENCE_NS, &end);
}

/* Read all that is there; wait for something until until_ns (0: do not). Returns 0, -EINTR, or -errno: the helper is lost. */
static int read_messages(struct server *s, int64_t until_ns) {
  while (s->witness.fd >= 0 && !s->answer.has_come) { /* (who was just started is to be known before his end is read) */
    int status = wire_receive(s->witness.fd, &s->message, until_ns);
    if (status == 1 || status == -EMFILE) status = take_message(s); /* (one lives without the descriptor of a process) */
    else if (status == 0 || status == -EINTR) return status;
    if (status < 0) {
      bury(s);
      return status;
    }
    until_ns = 0;
  }
  return 0;
}

static void listen_to(struct process_witness *w) {
  (void)read_messages(owner_of(w), 0);
}

/* Nobody could be started by it either; and should it go on some day, nothing is left of it by then. */
static void end_silence(struct process_witness *w) {
  struct server *s = owner_of(w);
  (void)process_signal(&s->helper, SIGKILL);
  lose(s);
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
  if (s->n_workers + s->n_orders < s->capacity) return 0;
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
  s->witness = (struct process_witness){-1, listen_to, forget_worker, end_silence, 0};
  s->lost = (struct process_witness){-1, know_nothing, forget_nothing, know_nothing, 0};
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

static int complain_of_line(struct server *s, int status, const char *path) {
  char what[96];
  snprintf(what, sizeof what, "cannot be talked to: %s", strerror(-status));
  return complain(s, status, path, what);
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
  return complain_of_line(s, status, path);
}

static void end_helper(struct process *helper) {
  struct process_end end;
  process_close_fd(&helper->lifeline);
  if (process_reap(helper, END_PATIENCE_NS, &end) == 1) return;
  (void)process_signal(helper, SIGKILL);
  if (process_reap(helper, PROCESS_DEATH_NS, &end) != 1) process_abandon(helper);
}

/* Execute a helper, and have it accept the configuration. */
static int open_helper(struct server *s, const struct server_options *options, struct process *helper) {
  const char *const arguments[] = {options->path, SERVER_ARGUMENT, NULL};
  int status;
  s->complaint[0] = '\0';
  wire_forget(&s->message); /* of the helper before, which may have gone in the middle of one */
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
  status = open_helper(s, options, &s->helper);
  if (status == 0) s->witness.fd = s->helper.lifeline;
  return status;
}

int server_fork(struct server *s, const struct server_work *work) {
  int socket, status;
  pid_t host = getpid();
  lose(s);
  if (s->helper.pid != 0) end_helper(&s->helper);
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
  if (status != -EINTR) bury(s); /* (one that does not answer may be stopped) */
  return status;
}

/* Was it told that its host is gone, and has left? Waits for a moment. */
static int has_left(const struct server_order *order) {
  struct pollfd line = {order->lifeline, POLLIN, 0};
  int64_t until_ns = os_now_ns() + END_PATIENCE_NS;
  int left;
  (void)shutdown(order->lifeline, SHUT_WR);
  do left = os_poll(&line, 1, END_PATIENCE_NS);
  while (left == -EINTR && os_now_ns() < until_ns);
  return left > 0;
}

/*
 * Somebody does not leave: a task keeps signals from it, or it is stopped again and again. The kernel says who has the lock of that place,
 * also when it is a copy of it that holds the lifeline, and then nobody has it. 1: *order's process is it, and it is killed;
 * 0: it is gone; -errno: nobody knows.
 */
static int end_signer(struct server *s, struct server_order *order) {
  const struct server_place *place = &order->place;
  pid_t pid = place->register_fd < 0 ? -ENOSYS : share_lock_holder(place->register_fd, place->number);
  int pidfd;
  if (pid <= 0) return (int)pid;
  pidfd = os_pidfd_open(pid);
  if (pidfd >= 0 && process_register_fd(pidfd) < 0) os_close(&pidfd);
  if (share_lock_holder(place->register_fd, place->number) != pid) { /* it went, and its number may be another's */
    process_close_fd(&pidfd);
    return 0;
  }
  process_adopt(order->process, pid, pidfd < 0 ? -1 : pidfd, order->lifeline, place->command, &s->lost);
  (void)process_kill_tree(order->process);
  return 1;
}

/*
 * Nobody said whether somebody was started for the order. Whoever was is told that its host is gone; until it has left, its place is
 * not free. Returns -errno of the order; 1: its process is one who is about to end; -EBUSY: somebody does not leave, and nobody knows who.
 */
static int give_up(struct server *s, struct server_order *order, int status) {
  int found = has_left(order) ? 0 : end_signer(s, order);
  if (found == 1) return 1;
  process_close_fd(&order->lifeline);
  if (found == 0) return status;
  snprintf(s->complaint, sizeof s->complaint, "the helper is gone, but not a worker that it had started");
  return -EBUSY;
}

int server_order(struct server *s, struct process *p, const void *order, size_t length, const int *fds, size_t n_fds,
                 const struct server_place *place, int64_t patience_ns) {
  static const struct server_place nowhere = {NULL, -1, 0};
  int all[WIRE_MAX_FDS], lifeline[2], status;
  int64_t until_ns = os_now_ns() + patience_ns;
  s->complaint[0] = '\0';
  if (n_fds + 1 > WIRE_MAX_FDS) return -EMSGSIZE;
  if (s->n_orders == SERVER_MOST_ORDERS) return -ETOOMANYREFS;
  status = reserve_worker(s);
  if (status == 0) status = process_socket_pair(lifeline);
  if (status < 0) return status;
  all[0] = lifeline[1];
  if (n_fds) memcpy(all + 1, fds, n_fds * sizeof *fds);
  FAULT_POINT("before_fork");
  do status = wire_send(s->witness.fd, START, order, length, all, n_fds + 1, until_ns);
  while (status == -EINTR);
  process_close_fd(&lifeline[1]);
  if (status < 0) {
    process_close_fd(&lifeline[0]);
    return status == -ETOOMANYREFS ? status : no_answer(s, status); /* (of which nothing was sent) */
  }
  s->orders[(s->first_order + s->n_orders++) % SERVER_MOST_ORDERS] = (struct server_order){p, lifeline[0], place ? *place : nowhere};
  FAULT_POINT("helper_asked");
  return 0;
}

/* Wait until the helper has answered the first order. */
static int await_answer(struct server *s, int64_t until_ns) {
  while (!s->answer.has_come) {
    int status = s->witness.fd < 0 ? -EPIPE : read_messages(s, until_ns);
    if (status == -EINTR) continue; /* it is on its way: to leave now would be to lose it */
    if (status < 0) return no_answer(s, status);
    if (!s->answer.has_come && os_now_ns() >= until_ns) return no_answer(s, -ETIMEDOUT);
  }
  return 0;
}

int server_collect(struct server *s, int64_t patience_ns) {
  struct server_order order = s->orders[s->first_order];
  int status = s->n_orders == 0 ? -EINVAL : await_answer(s, os_now_ns() + patience_ns);
  if (s->n_orders == 0) return status;
  s->first_order = (s->first_order + 1) % SERVER_MOST_ORDERS;
  s->n_orders--;
  s->answer.has_come = 0;
  if (status == 0 && s->answer.pid <= 0) {
    snprintf(s->complaint, sizeof s->complaint, "the helper cannot fork: %s", strerror(-s->answer.pid));
    status = s->answer.pid < 0 ? s->answer.pid : -EBADMSG;
  }
  if (status < 0) return give_up(s, &order, status);
  if (s->answer.pidfd >= 0 && process_register_fd(s->answer.pidfd) < 0) os_close(&s->answer.pidfd);
  process_adopt(order.process, (pid_t)s->answer.pid, s->answer.pidfd, order.lifeline, order.place.command, &s->witness);
  s->workers[s->n_workers++] = order.process;
  return 1;
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
  complain_of_line(s, status, options->path);
  end_helper(p);
  return status;
}

/* Whoever is started for these finds that its host is gone. */
static void drop_orders(struct server *s) {
  for (size_t i = 0; i < s->n_orders; i++) process_close_fd(&s->orders[(s->first_order + i) % SERVER_MOST_ORDERS].lifeline);
  s->n_orders = 0;
}

void server_close(struct server *s) {
  lose(s);
  drop_orders(s);
  if (s->helper.pid != 0) end_helper(&s->helper);
  free(s->workers);
  s->workers = NULL;
  s->n_workers = s->capacity = 0;
  wire_free(&s->message);
}

void server_abandon(struct server *s) {
  lose(s);
  s->n_orders = 0; /* (their lifelines were closed at the fork) */
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
  int is_settled;
  int has_answered;          /* the configuration */
  struct process *children;  /* that live */
  size_t n_children, capacity;
  struct pollfd *polls;
  struct wire_message message;
};

/* Standard input is the socket: it moves to where nobody takes it for input. What we have open beside is nobody's business. */
static int take_socket(void) {
  int socket = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
  int flags = socket < 0 ? -1 : fcntl(socket, F_GETFL);
  if (flags < 0 || fcntl(socket, F_SETFL, flags | O_NONBLOCK) < 0) return -EBADF;
  os_close_others(&socket, 1);
  return socket;
}

/* There is no standard input, and no number of the three is free for others. */
static int settle_streams(int socket) {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
    int nothing, status = 0;
    if (fd != STDIN_FILENO && fcntl(fd, F_GETFD) >= 0) continue;
    nothing = os_open_nothing(O_RDWR);
    if (nothing < 0) return nothing;
    if (dup2(nothing, fd) < 0) status = -errno;
    os_close(&nothing);
    if (status < 0) return status;
  }
  return process_register_fd(socket);
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
  polls = realloc(h->polls, (capacity + FIRST_CHILD) * sizeof *polls);
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
  FAULT_POINT("helper_forked");
  do sent = wire_send(h->socket, STARTED, &pid, sizeof pid, &pidfd, pidfd >= 0, -1);
  while (sent == -EINTR);
  FAULT_POINT("helper_answered");
  return sent;
}

/* What is the same for all workers is done once. */
static void settle(struct helper *h) {
  if (h->is_settled) return;
  h->is_settled = 1;
  if (h->work->settle) h->work->settle(h->work->context);
  process_settle();
}

static int start_worker(struct helper *h) {
  struct process_child child;
  int status = reserve_child(h);
  FAULT_POINT("helper_ordered");
  settle(h);
  if (status == 0) status = prepare(h, 1, &child);
  if (status == 0) {
    process_init(&h->children[h->n_children]);
    status = process_fork(&h->children[h->n_children], &child);
    if (status == 0) {
      h->work->run(h->work->context);
      process_exit(0);
    }
    if (status == 1) h->n_children++;
  }
  close_fds(&h->message);
  return answer_start(h, status);
}

static int become_worker(struct helper *h) {
  struct process_child child;
  int status = prepare(h, 0, &child);
  if (status < 0) return status;
  process_become(&child);
  h->work->run(h->work->context);
  process_exit(0);
}

static int configure(struct helper *h) {
  char text[400] = "";
  int sent, status;
  FAULT_POINT("helper_configure");
  status = h->work->configure(h->work->context, h->message.data, h->message.length, text, sizeof text);
  do sent = wire_send(h->socket, status < 0 ? REFUSED : READY, text, strlen(text), NULL, 0, -1);
  while (sent == -EINTR);
  h->has_answered = 1;
  return status < 0 ? status : sent;
}

/* 0: go on; negative: leave. received: 1, or -EMFILE: there is no room for the order's descriptors, and will be for another's. */
static int take_order(struct helper *h, int received) {
  if (received < 0) close_fds(&h->message);
  if (received < 0 && h->message.kind == START) return answer_start(h, received);
  if (received < 0) return received;
  switch (h->message.kind) {
    case CONFIGURE: return configure(h);
    case START: return start_worker(h);
    case BECOME: return become_worker(h);
    default: return -EBADMSG;
  }
}

/* Those alone are asked that have stirred, by their places in the poll set: to ask each of many takes longer than an order. */
static int report_ends(struct helper *h) {
  for (size_t i = h->n_children; i-- > 0;) {
    struct ended ended;
    int sent;
    memset(&ended, 0, sizeof ended);
    ended.pid = (int32_t)h->children[i].pid;
    if (h->children[i].pidfd >= 0 && h->polls[FIRST_CHILD + i].revents == 0) continue;
    if (process_reap(&h->children[i], 0, &ended.end) != 1) continue;
    h->children[i] = h->children[--h->n_children]; /* (which has been asked) */
    FAULT_POINT("helper_reaped");
    do sent = wire_send(h->socket, ENDED, &ended, sizeof ended, NULL, 0, -1);
    while (sent == -EINTR);
    if (sent < 0) return sent;
  }
  return 0;
}

/* Until the host or a child stirs. Where a child cannot be waited for, look from time to time. */
static int sleep_until_asked(struct helper *h) {
  int is_blind = 0, status;
  h->work->release(h->work->context);
  h->polls[0] = (struct pollfd){h->socket, POLLIN, 0};
  h->polls[1] = (struct pollfd){h->host_pidfd, POLLIN, 0};
  for (size_t i = 0; i < h->n_children; i++) {
    h->polls[FIRST_CHILD + i] = (struct pollfd){h->children[i].pidfd, POLLIN, 0};
    is_blind |= h->children[i].pidfd < 0;
  }
  status = os_poll(h->polls, FIRST_CHILD + h->n_children, is_blind ? TICK_NS : -1);
  if (status < 0 && status != -EINTR) return status;
  return status > 0 && h->polls[1].revents ? -EPIPE : 0;
}

static int serve(struct helper *h) {
  for (;;) {
    int status = sleep_until_asked(h); /* (interrupted: revents are 0) */
    if (status == 0) status = report_ends(h);
    while (status == 0 && ((status = wire_receive(h->socket, &h->message, 0)) == 1 || status == -EMFILE)) status = take_order(h, status);
    if (status < 0 && status != -EINTR) return status;
  }
}

/* Nothing was said yet, and nothing more will be than why. */
static void refuse(int socket, int status) {
  char text[160];
  int sent;
  snprintf(text, sizeof text, "cannot begin: %s", strerror(-status));
  do sent = wire_send(socket, REFUSED, text, strlen(text), NULL, 0, -1);
  while (sent == -EINTR);
}

static int be_helper(const struct server_work *work, int socket, pid_t host) {
  struct helper h;
  int status, is_host_gone;
  memset(&h, 0, sizeof h);
  h.work = work;
  h.socket = socket;
  wire_init(&h.message);
  h.host_pidfd = watch_host(host);
  status = getppid() == host || getppid() == 0 ? reserve_child(&h) : -EPIPE; /* (0: it is outside of this process's namespace) */
  if (status == 0) status = serve(&h);
  is_host_gone = status == 0 || status == -EPIPE || status == -ECONNRESET;
  if (!is_host_gone && !h.has_answered) refuse(socket, status);
  wire_free(&h.message);
  free(h.children);
  free(h.polls);
  if (status == -ENOTSOCK) return USAGE_STATUS;
  return is_host_gone ? 0 : SETUP_FAILED_STATUS;
}

int server_main(const struct server_work *work) {
  int socket = take_socket(), status;
  if (socket < 0) return USAGE_STATUS;
  interrupt_become_helper();
  status = settle_streams(socket);
  if (status == 0) return be_helper(work, socket, getppid());
  refuse(socket, status);
  return SETUP_FAILED_STATUS;
}
