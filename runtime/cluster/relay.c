/* cluster/relay -- see relay.h (may include cluster/engine.h). */
#include "cluster/relay.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/os.h"
#include "base/record.h"

#define MS 1000000LL
#define SECOND (1000 * MS)

enum phase { RUNNING, STOPPING, OVER };

struct peer {
  int64_t heard_ns;
  int is_lost;  /* nothing is expected of it any more */
  int is_down;  /* its pool is gone, or it is lost: the script was told */
  int has_ended;
};

struct relay {
  struct relay_options o;
  struct record_link pool, script;
  struct peer *peers; /* manager: by rank; others: only [0] is used */
  enum phase phase;
  int is_pool_reaped, is_script_reaped, has_loss, may_finalize, status;
  int64_t now_ns, busy_ns, beat_ns, until_ns; /* until_ns: of the present phase's patience */
  int64_t pause_ns;
  int n_sending;
};

static int is_manager(const struct relay *r) {
  return r->o.rank == 0;
}

/* ---- sending ---- */

/* One record as a message of the engine. What cannot be sent to somebody makes him lost, in time, by his silence. */
static void send_to(struct relay *r, int to, enum record_kind kind, unsigned node, int more, const void *data, size_t length) {
  struct record head = {(uint32_t)length, (uint16_t)node, (uint8_t)kind, (uint8_t)more};
  unsigned char *block;
  if (is_manager(r) && r->peers[to].is_lost) return;
  block = malloc(RECORD_HEAD + length);
  if (block == NULL) {
    r->has_loss = 1;
    return;
  }
  memcpy(block, &head, RECORD_HEAD);
  if (length) memcpy(block + RECORD_HEAD, data, length);
  if (r->o.engine->send(to, block, RECORD_HEAD + length) < 0) r->has_loss = 1;
}

static void tell_script(struct relay *r, enum record_kind kind, unsigned node, int more, const void *data, size_t length) {
  if (r->script.fd >= 0) (void)record_put(&r->script, kind, node, more, data, length);
}

static void send_to_all(struct relay *r, enum record_kind kind, const void *data, size_t length) {
  for (int rank = 1; rank < r->o.size; rank++) send_to(r, rank, kind, 0, 0, data, length);
}

static void beat(struct relay *r) {
  double load = 0;
  int64_t period = r->o.lost_after_ns / 4 < SECOND ? r->o.lost_after_ns / 4 : SECOND;
  if (r->now_ns < r->beat_ns) return;
  r->beat_ns = r->now_ns + period;
  (void)getloadavg(&load, 1);
  if (is_manager(r)) {
    send_to_all(r, RECORD_BEAT, &load, sizeof load);
    tell_script(r, RECORD_LOAD, 0, 0, &load, sizeof load);
  } else {
    send_to(r, 0, RECORD_BEAT, (unsigned)r->o.rank, 0, &load, sizeof load);
  }
}

/* ---- losses and ends ---- */

/* The pool of that node is gone, with or without its relay. */
static void note_down(struct relay *r, int rank, const char *why) {
  struct peer *peer = &r->peers[rank];
  if (peer->is_down) return;
  peer->is_down = 1;
  if (r->phase == RUNNING) tell_script(r, RECORD_LOST, (unsigned)rank, 0, why, strlen(why));
}

static void note_lost(struct relay *r, int rank, const char *why) {
  struct peer *peer = &r->peers[rank];
  if (rank == 0 || peer->is_lost) return;
  note_down(r, rank, why);
  peer->is_lost = peer->has_ended = 1;
  r->has_loss = 1;
  r->o.engine->forget(rank);
}

/* Ask the pool, and all others, to end. The pool reads the end of its socket. */
static void begin_stop(struct relay *r) {
  if (r->phase != RUNNING) return;
  r->phase = STOPPING;
  r->until_ns = r->now_ns + 4 * SECOND;
  record_close(&r->pool);
  if (is_manager(r)) send_to_all(r, RECORD_STOP, NULL, 0);
}

static void check_peers(struct relay *r) {
  char why[96];
  if (!is_manager(r)) {
    if (r->now_ns - r->peers[0].heard_ns < r->o.lost_after_ns) return;
    r->has_loss = 1;
    r->status = EXIT_FAILURE;
    if (r->phase == RUNNING) begin_stop(r);
    r->phase = OVER;
    return;
  }
  for (int rank = 1; rank < r->o.size; rank++) {
    struct peer *peer = &r->peers[rank];
    if (peer->is_lost || peer->has_ended || r->now_ns - peer->heard_ns < r->o.lost_after_ns) continue;
    snprintf(why, sizeof why, "nothing was heard of it for %.3g s", (double)r->o.lost_after_ns / SECOND);
    note_lost(r, rank, why);
  }
}

/* How a child ended; -1: it has not. */
static int reap(pid_t pid) {
  int status;
  pid_t ended = waitpid(pid, &status, WNOHANG);
  if (ended == 0 || (ended < 0 && errno == EINTR)) return -1;
  if (ended < 0) return EXIT_FAILURE;
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void check_children(struct relay *r) {
  int status;
  if (!r->is_pool_reaped && (status = reap(r->o.pool)) >= 0) {
    char why[64];
    r->is_pool_reaped = 1;
    record_close(&r->pool);
    if (r->phase == RUNNING) {
      snprintf(why, sizeof why, status > 128 ? "its pool was killed by signal %d" : "its pool ended with status %d",
               status > 128 ? status - 128 : status);
      if (is_manager(r)) note_down(r, 0, why);
      else send_to(r, 0, RECORD_DOWN, (unsigned)r->o.rank, 0, why, strlen(why));
    }
  }
  if (is_manager(r) && !r->is_script_reaped && (status = reap(r->o.script)) >= 0) {
    r->is_script_reaped = 1;
    r->status = status;
    record_close(&r->script);
    begin_stop(r);
  }
}

/* Who launched us is gone. The script has its time to clean up, as after any SIGTERM. */
static void check_parent(struct relay *r) {
  if (getppid() == r->o.parent || r->has_loss == 2) return;
  r->has_loss = 2;
  if (is_manager(r) && !r->is_script_reaped) (void)kill(r->o.script, SIGTERM);
  else begin_stop(r);
}

/* ---- what comes ---- */

static void from_script(struct relay *r, const struct record *head, const unsigned char *data) {
  if (head->kind != RECORD_DATA || head->node >= r->o.size) return;
  if (head->node != 0) send_to(r, head->node, RECORD_DATA, head->node, head->more, data, head->length);
  else if (r->pool.fd >= 0) (void)record_put(&r->pool, RECORD_DATA, 0, head->more, data, head->length);
}

static void from_pool(struct relay *r, const struct record *head, const unsigned char *data) {
  if (head->kind != RECORD_DATA) return;
  if (is_manager(r)) tell_script(r, RECORD_DATA, 0, head->more, data, head->length);
  else send_to(r, 0, RECORD_DATA, (unsigned)r->o.rank, head->more, data, head->length);
}

static void from_agent(struct relay *r, int from, const struct record *head, const unsigned char *data) {
  char why[128];
  if (r->peers[from].is_lost) return; /* declared dead: its work is somebody else's */
  if (head->kind == RECORD_DATA) {
    if (!r->peers[from].is_down) tell_script(r, RECORD_DATA, (unsigned)from, head->more, data, head->length);
  } else if (head->kind == RECORD_BEAT) {
    tell_script(r, RECORD_LOAD, (unsigned)from, 0, data, head->length);
  } else if (head->kind == RECORD_DOWN) {
    snprintf(why, sizeof why, "%.*s", (int)head->length, (const char *)data);
    note_down(r, from, why);
  } else if (head->kind == RECORD_BYE) {
    if (r->phase == RUNNING) note_lost(r, from, "the process that launched it has ended");
    r->peers[from].has_ended = 1;
  }
}

static void from_manager(struct relay *r, const struct record *head, const unsigned char *data) {
  if (head->kind == RECORD_DATA) {
    if (r->pool.fd >= 0) (void)record_put(&r->pool, RECORD_DATA, head->node, head->more, data, head->length);
  } else if (head->kind == RECORD_STOP) {
    begin_stop(r);
  } else if (head->kind == RECORD_END) {
    r->may_finalize = head->length > 0 && data[0];
    r->phase = OVER;
  }
}

static void take_message(struct relay *r, int from, const unsigned char *data, size_t length) {
  struct record head;
  if (from < 0 || from >= r->o.size || length < RECORD_HEAD) return;
  memcpy(&head, data, RECORD_HEAD);
  if (head.length != length - RECORD_HEAD) return;
  r->peers[from].heard_ns = r->now_ns;
  if (is_manager(r)) from_agent(r, from, &head, data + RECORD_HEAD);
  else if (from == 0) from_manager(r, &head, data + RECORD_HEAD);
  if (head.kind != RECORD_BEAT) r->busy_ns = r->now_ns;
}

static void serve_engine(struct relay *r) {
  int from, lost = -1, n_sending;
  size_t length;
  void *data;
  if (r->o.engine->probe() < 0) r->has_loss = 1;
  while (r->o.engine->receive(&from, &data, &length) == 1) {
    take_message(r, from, data, length);
    free(data);
  }
  n_sending = r->o.engine->progress(&lost);
  if (n_sending != r->n_sending) r->busy_ns = r->now_ns; /* what waits to be sent gets on */
  r->n_sending = n_sending;
  if (lost > 0 && is_manager(r)) note_lost(r, lost, "the connection to it is broken");
  if (lost == 0 && !is_manager(r)) r->peers[0].heard_ns = r->now_ns - r->o.lost_after_ns;
}

typedef void take_record(struct relay *, const struct record *, const unsigned char *);

static void serve_link(struct relay *r, struct record_link *link, take_record *take) {
  struct record head;
  const unsigned char *data;
  int status;
  if (link->fd < 0) return;
  status = record_fill(link);
  while (link->fd >= 0 && (status = status < 0 ? status : record_next(link, &head, &data)) == 1) {
    take(r, &head, data);
    r->busy_ns = r->now_ns;
  }
  if (link->fd >= 0 && status >= 0) status = record_flush(link);
  if (status < 0) record_close(link); /* its process is reaped soon, or killed when the time comes */
}

/* ---- the loop ---- */

/* How long nothing may be looked at: short while something goes on, longer the longer nothing did. */
static int64_t next_pause(struct relay *r) {
  int64_t quiet = r->now_ns - r->busy_ns, most = quiet / 50;
  if (most < MS) most = MS;
  if (most > 30 * MS) most = 30 * MS;
  if (quiet == 0) r->pause_ns = 50 * 1000;
  else r->pause_ns *= 2;
  if (r->pause_ns > most) r->pause_ns = most;
  return r->pause_ns;
}

static void sleep_a_little(struct relay *r) {
  struct pollfd fds[2];
  size_t n = 0;
  struct record_link *links[] = {&r->pool, &r->script};
  for (int i = 0; i < 2; i++) {
    if (links[i]->fd < 0) continue;
    fds[n].fd = links[i]->fd;
    fds[n].events = (short)(POLLIN | (record_waiting(links[i]) ? POLLOUT : 0));
    fds[n++].revents = 0;
  }
  (void)os_poll(fds, n, next_pause(r));
}

static int all_ended(const struct relay *r) {
  if (!r->is_pool_reaped) return 0;
  if (!is_manager(r)) return 1;
  for (int rank = 1; rank < r->o.size; rank++)
    if (!r->peers[rank].has_ended) return 0;
  return 1;
}

/* The manager waits for all, within reason; the others wait for the manager's word, but for those whose launcher is gone. */
static void go_on_stopping(struct relay *r) {
  int is_late = r->now_ns >= r->until_ns, lost;
  if (is_late && !r->is_pool_reaped) (void)kill(r->o.pool, SIGKILL);
  if (!is_manager(r)) {
    if (r->is_pool_reaped && !r->peers[0].has_ended) {
      r->peers[0].has_ended = 1;
      send_to(r, 0, RECORD_BYE, (unsigned)r->o.rank, 0, NULL, 0);
    }
    if (r->has_loss == 2 && r->peers[0].has_ended && r->o.engine->progress(&lost) <= 0) r->phase = OVER;
  } else if (all_ended(r) || r->now_ns >= r->until_ns + 4 * SECOND) {
    if (!all_ended(r)) r->has_loss = 1;
    r->phase = OVER;
  }
}

/* Whatever became of the others, these do not stay. */
static void end_children(struct relay *r) {
  if (!r->is_pool_reaped) {
    record_close(&r->pool);
    (void)kill(r->o.pool, SIGKILL);
    while (waitpid(r->o.pool, NULL, 0) < 0 && errno == EINTR) continue;
  }
  if (is_manager(r) && !r->is_script_reaped) {
    (void)kill(r->o.script, SIGKILL);
    while (waitpid(r->o.script, NULL, 0) < 0 && errno == EINTR) continue;
  }
}

/* The manager's last word must leave before the manager does. */
static void say_end(struct relay *r) {
  unsigned char is_clean = !r->has_loss;
  int64_t until = os_now_ns() + SECOND;
  int lost;
  r->may_finalize = is_clean;
  send_to_all(r, RECORD_END, &is_clean, 1);
  while (r->o.engine->progress(&lost) > 0 && os_now_ns() < until) {
    (void)r->o.engine->probe();
    (void)os_poll(NULL, 0, MS);
  }
}

static void open_relay(struct relay *r, const struct relay_options *options) {
  r->o = *options;
  r->now_ns = r->busy_ns = os_now_ns();
  for (int rank = 0; rank < r->o.size; rank++) r->peers[rank].heard_ns = r->now_ns;
  record_open(&r->pool, options->pool_fd);
  record_open(&r->script, options->script_fd);
  if (is_manager(r)) {
    uint32_t n = (uint32_t)r->o.size;
    tell_script(r, RECORD_READY, 0, 0, &n, sizeof n);
  }
}

int relay_run(const struct relay_options *options, int *status) {
  struct relay relay = {0}, *r = &relay;
  r->peers = calloc((size_t)options->size, sizeof *r->peers);
  if (r->peers == NULL) {
    *status = EXIT_FAILURE;
    return 0;
  }
  open_relay(r, options);
  while (r->phase != OVER) {
    r->now_ns = os_now_ns();
    beat(r);
    serve_link(r, &r->pool, from_pool);
    serve_link(r, &r->script, from_script);
    serve_engine(r);
    if (r->pool.fd >= 0) (void)record_flush(&r->pool);
    if (r->script.fd >= 0) (void)record_flush(&r->script);
    check_children(r);
    check_parent(r);
    check_peers(r);
    if (r->phase == STOPPING) go_on_stopping(r);
    if (r->phase != OVER) sleep_a_little(r);
  }
  if (is_manager(r)) say_end(r);
  end_children(r);
  record_close(&r->pool);
  record_close(&r->script);
  free(r->peers);
  *status = r->status;
  return r->may_finalize;
}
