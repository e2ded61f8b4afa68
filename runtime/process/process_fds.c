/*
 * process/process_fds -- the registry of pool descriptors and the lock of the house: see process.h and process_parts.h (may include
 * process/process.h and process/process_parts.h).
 *
 * Process-wide state: the registry, guarded by `house`, which is the fork lock too: it is held from the creation of a descriptor to its
 * entry in the registry, and across every fork of the process (ours or not: atfork handlers), so that a child always sees a whole registry
 * and an open lock.
 */
#include "process/process.h"

#include "base/os.h"
#include "process/process_parts.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t house = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t atfork_once = PTHREAD_ONCE_INIT;
static int atfork_status;
static _Thread_local int holds_house;

static struct {
  int *fds;
  size_t count, capacity;
} registry;

/* ---- the house lock --------------------------------------------------------------------------- */

void process_house_enter(void) {
  pthread_mutex_lock(&house);
  holds_house = 1;
}

void process_house_leave(void) {
  holds_house = 0;
  pthread_mutex_unlock(&house);
}

/* A fork of ours holds the lock already; one by the host's code (popen of some libc, a daemon) takes it here. */
static void before_any_fork(void) {
  if (!holds_house) pthread_mutex_lock(&house);
}

static void after_any_fork(void) {
  if (!holds_house) pthread_mutex_unlock(&house);
}

/* The thread that forked is the one that held the lock, and it is the only one here: it may open it. */
static void in_any_child(void) {
  holds_house = 0;
  pthread_mutex_unlock(&house);
}

static void register_atfork(void) {
  atfork_status = -pthread_atfork(before_any_fork, after_any_fork, in_any_child);
}

int process_house_open(void) {
  int status = -pthread_once(&atfork_once, register_atfork);
  return status < 0 ? status : atfork_status;
}

/* ---- the registry of descriptors (all with the house lock held) ----------------------------------- */

int process_reserve_fds(size_t more) {
  size_t capacity = registry.capacity ? registry.capacity : 32;
  int *fds;
  if (registry.capacity - registry.count >= more) return 0;
  while (capacity - registry.count < more) capacity *= 2;
  fds = os_allocate(capacity * sizeof *fds);
  if (fds == NULL) return -ENOMEM;
  if (registry.count > 0) memcpy(fds, registry.fds, registry.count * sizeof *fds);
  free(registry.fds);
  registry.fds = fds;
  registry.capacity = capacity;
  return 0;
}

static int has_fd(const int *fds, size_t count, int fd) {
  for (size_t i = 0; i < count; i++)
    if (fds[i] == fd) return 1;
  return 0;
}

void process_add_fd(int fd) {
  if (fd >= 0 && !has_fd(registry.fds, registry.count, fd)) registry.fds[registry.count++] = fd;
}

static void registry_remove(int fd) {
  for (size_t i = registry.count; i > 0; i--) { /* from the end: what came last goes first, as a rule */
    if (registry.fds[i - 1] != fd) continue;
    registry.fds[i - 1] = registry.fds[--registry.count];
    return;
  }
}

void process_close_added(int *fd) {
  if (*fd >= 0) registry_remove(*fd);
  os_close(fd);
}

int process_register_fd(int fd) {
  int status = process_house_open();
  if (status < 0) return status;
  process_house_enter();
  status = process_reserve_fds(1);
  if (status == 0) process_add_fd(fd);
  process_house_leave();
  return status;
}

void process_forget_fd(int fd) {
  process_house_enter();
  registry_remove(fd);
  process_house_leave();
}

int process_add_pair(int (*open_both)(int fds[2]), int fds[2]) {
  int status = process_reserve_fds(2);
  if (status == 0) status = open_both(fds);
  if (status < 0) return status;
  process_add_fd(fds[0]);
  process_add_fd(fds[1]);
  return 0;
}

static int locked_pair(int (*open_both)(int fds[2]), int fds[2]) {
  int status = process_house_open();
  if (status < 0) return status;
  process_house_enter();
  status = process_add_pair(open_both, fds);
  process_house_leave();
  return status;
}

int process_socket_pair(int fds[2]) {
  return locked_pair(os_socket_pair, fds);
}

int process_pipe(int fds[2]) {
  return locked_pair(os_pipe, fds);
}

void process_close_fd(int *fd) {
  process_house_enter();
  process_close_added(fd);
  process_house_leave();
}

int process_has_fd(int fd) {
  return has_fd(registry.fds, registry.count, fd);
}

/*
 * Closes every pool's descriptors but those this child needs, which stay registered: they are not for its own children.
 * The last of 64 workers has 300 of them to close: neighbours go in one call.
 */
void process_close_foreign(const struct process_child *child) {
  struct os_fd_set foreign;
  size_t kept = 0;
  memset(&foreign, 0, sizeof foreign);
  for (size_t i = 0; i < registry.count; i++) {
    int fd = registry.fds[i];
    if (fd == process_lifeline() || has_fd(child->keep, child->n_keep, fd)) registry.fds[kept++] = fd;
    else os_fd_set_add(&foreign, fd);
  }
  registry.count = kept;
  os_close_set(&foreign);
}
