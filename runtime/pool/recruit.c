/* pool/recruit -- see recruit.h (may include pool/output.h and pool/worker.h). */
#include "pool/recruit.h"

#include <errno.h>
#include <string.h>

static void list_bell(int fds[RECRUIT_MAX_FDS], uint32_t *n, const struct os_bell *bell) {
  fds[(*n)++] = bell->read_fd;
  if (bell->write_fd != bell->read_fd) fds[(*n)++] = bell->write_fd;
}

void recruit_list_fds(struct recruit_order *order, int fds[RECRUIT_MAX_FDS], int board_fd, int arena_fd, int events_fd,
                      const struct os_bell *bell, const struct os_bell *host_bell, const int writers[2]) {
  uint32_t n = 0;
  fds[n++] = board_fd;
  fds[n++] = arena_fd;
  list_bell(fds, &n, bell);
  order->bell_fds = n - 2;
  list_bell(fds, &n, host_bell);
  if (writers[0] >= 0) fds[n++] = writers[0];
  if (writers[0] >= 0) fds[n++] = writers[1];
  if (events_fd >= 0) fds[n++] = events_fd;
  order->n_fds = n;
}

static struct os_bell take_bell(const int **fds, uint32_t count) {
  struct os_bell bell = {(*fds)[0], (*fds)[count - 1]};
  *fds += count;
  return bell;
}

void recruit_release(void *context) {
  struct recruit *r = context;
  board_close(r->board);
  events_close(r->events, r->order.n_events);
  r->board = NULL;
  r->events = NULL;
}

int recruit_prepare(void *context, const void *order, size_t length, const int *fds, size_t n_fds, struct process_child *child) {
  struct recruit *r = context;
  int has_output, status;
  size_t expected;
  if (length != sizeof r->order) return -EBADMSG;
  memcpy(&r->order, order, length);
  has_output = r->order.output_kind != OUTPUT_INHERIT;
  if (r->order.bell_fds < 1 || r->order.bell_fds > 2) return -EBADMSG;
  expected = 2 + 2 * (size_t)r->order.bell_fds + (has_output ? 2 : 0) + (r->order.n_events > 0);
  if (n_fds != r->order.n_fds || n_fds != expected) return -EBADMSG;
  r->events = NULL;
  status = board_attach(&r->board, fds[0]);
  if (status < 0) return status;
  r->events_fd = r->order.n_events ? fds[n_fds - 1] : -1;
  if (r->order.number >= r->board->n_workers) status = -EBADMSG;
  if (status == 0 && r->order.n_events) status = events_attach(&r->events, r->order.n_events, r->events_fd);
  if (status == 0 && r->order.n_events && r->order.number >= r->order.n_events) status = -EBADMSG;
  if (status < 0) {
    recruit_release(r);
    return status;
  }
  r->board_fd = *fds++;
  r->arena_fd = *fds++;
  r->bell = take_bell(&fds, r->order.bell_fds);
  r->host_bell = take_bell(&fds, r->order.bell_fds);
  r->writers[0] = has_output ? fds[0] : -1;
  r->writers[1] = has_output ? fds[1] : -1;
  child->command = &r->board->slots[r->order.number].command;
  child->output = has_output ? r->writers : NULL;
  child->host = (pid_t)r->order.host;
  return 0;
}

void recruit_run(void *context) {
  static struct arena arena; /* as long as the process */
  struct recruit *r = context;
  struct output output;
  struct worker w;
  memset(&w, 0, sizeof w);
  memset(&output, 0, sizeof output);
  process_close_fd(&r->board_fd); /* they are mapped */
  process_close_fd(&r->events_fd);
  arena_init(&arena);
  arena.fd = r->arena_fd;
  w.number = r->order.number;
  w.board = r->board;
  w.arena = &arena;
  w.bell = r->bell;
  w.host_bell = r->host_bell;
  w.lifeline = process_lifeline();
  w.tasks = &r->tasks;
  w.tasks_left = r->order.max_tasks;
  w.is_recruit = 1;
  w.events = r->events ? &r->events[w.number] : NULL;
  w.boot_offset = r->order.boot_offset;
  w.boot_length = r->order.boot_length;
  output.kind = (enum output_kind)r->order.output_kind;
  memcpy(output.token, r->order.token, sizeof output.token);
  output_begin(&w.output, &output, r->writers, &r->board->slots[w.number]);
  worker_main(&w);
}
