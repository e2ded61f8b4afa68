/* pool/recruit -- see recruit.h (may include pool/output.h and pool/worker.h). */
#include "pool/recruit.h"

#include <errno.h>
#include <string.h>

#include "base/os.h"

enum { SIGN_PATIENCE_NS = 1000 * 1000 * 1000, SIGN_NAP_NS = 1000 * 1000 };

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
  events_close(r->events, r->n_events);
  r->board = NULL;
  r->events = NULL;
}

/*
 * Orders come one after the other, of the same pool as a rule: the board of the last one is there. Its file lives as long as it is mapped,
 * so no other has its identity.
 */
static int is_attached(const struct recruit *r, const struct share_identity *board) {
  return r->board && board->device == r->board_is.device && board->inode == r->board_is.inode && r->n_events == r->order.n_events;
}

static int attach(struct recruit *r, int board_fd, int events_fd) {
  struct share_identity identity;
  int status = share_identify(board_fd, &identity);
  if (status < 0) return status;
  if (is_attached(r, &identity)) return 0;
  recruit_release(r);
  r->n_events = r->order.n_events;
  r->board_is = identity;
  status = board_attach(&r->board, board_fd);
  if (status == 0 && r->n_events) status = events_attach(&r->events, r->n_events, events_fd);
  return status;
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
  r->events_fd = r->order.n_events ? fds[n_fds - 1] : -1;
  status = attach(r, fds[0], r->events_fd);
  if (status == 0 && r->order.number >= r->board->n_workers) status = -EBADMSG;
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

/*
 * Lock this worker's place, as long as it lives: so its host finds it should the helper be killed before it has said who this is. Somebody
 * there already is on the way out, or this one has no place. Where files cannot be locked, one does without.
 */
static void sign(const struct recruit *r) {
  int64_t until_ns = os_now_ns() + SIGN_PATIENCE_NS;
  while (share_lock(r->board_fd, r->order.number) == -EAGAIN) {
    if (os_now_ns() >= until_ns) process_exit(1);
    (void)os_poll(NULL, 0, SIGN_NAP_NS);
  }
}

void recruit_run(void *context) {
  static struct arena arena; /* as long as the process */
  struct recruit *r = context;
  struct output output;
  struct worker w;
  memset(&w, 0, sizeof w);
  memset(&output, 0, sizeof output);
  sign(r); /* (to close the board's file, which is mapped, would be to lose the lock) */
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
  w.terms = r->order.terms;
  w.is_recruit = 1;
  w.events = r->events ? &r->events[w.number] : NULL;
  w.boot_offset = r->order.boot_offset;
  w.boot_length = r->order.boot_length;
  output.kind = (enum output_kind)r->order.output_kind;
  memcpy(output.token, r->order.token, sizeof output.token);
  output_begin(&w.output, &output, r->writers, &r->board->slots[w.number]);
  worker_main(&w);
}
