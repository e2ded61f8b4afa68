/*
 * process/process_tree -- ending a process with all that it has started: see process.h and process_parts.h (may include process/process.h
 * and process/process_parts.h).
 */
#include "process/process.h"

#include "base/os.h"
#include "process/process_parts.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/syscall.h>
#endif

/*
 * Who was sent a SIGSTOP is waited for: a moment where the kernel keeps it from signals (it has started a child by vfork, say, that we
 * have stopped, and cannot start another); longer where it only needs a processor to stop on, or it would start one more unseen.
 */
#define STOP_WAIT_NS (50 * MILLISECOND_NS)
#define LONGEST_STOP_WAIT_NS (2000 * MILLISECOND_NS)
#define STOP_AGAIN_NS (5 * MILLISECOND_NS) /* somebody else may have told it to go on */

void process_pause(int64_t duration_ns) {
  struct timespec pause = {(time_t)(duration_ns / 1000000000), (long)(duration_ns % 1000000000)};
  nanosleep(&pause, NULL);
}

/* A process as it was when we met it: the start time tells it from a later owner of its number. */
struct relative {
  pid_t pid;
  uint64_t started;
};

struct family {
  struct relative *members; /* [0] is the child itself */
  size_t count, capacity;
};

/* Sends to exactly this process: whoever has its number now is compared first, and held by a pidfd meanwhile where there are any. */
static void signal_relative(const struct relative *r, int signal) {
  struct os_process now;
  int pidfd = os_pidfd_open(r->pid);
  if (os_look_at(r->pid, &now) && now.started == r->started) {
    if (pidfd < 0 || os_pidfd_signal(pidfd, signal) == -ENOSYS) kill(r->pid, signal);
  }
  os_close(&pidfd);
}

/* Waits until it cannot fork any more: stopped with all its threads, or dead. since_ns: when waiting for its family began. */
static void wait_until_stopped(const struct relative *r, int64_t since_ns) {
  int64_t now_ns, again_ns = os_now_ns() + STOP_AGAIN_NS;
  char state;
  while ((state = os_state_of_threads(r->pid)) != 'T' && state != 'Z') {
    now_ns = os_now_ns();
    if (now_ns - since_ns > (state == 'D' ? STOP_WAIT_NS : LONGEST_STOP_WAIT_NS)) break;
    if (now_ns >= again_ns) {
      signal_relative(r, SIGSTOP);
      again_ns = now_ns + STOP_AGAIN_NS;
    }
    process_pause(LOOK_AGAIN_NS);
  }
}

static int family_has(const struct family *family, pid_t pid) {
  for (size_t i = 0; i < family->count; i++)
    if (family->members[i].pid == pid) return 1;
  return 0;
}

static int family_add(struct family *family, pid_t pid, uint64_t started) {
  if (family->count == family->capacity) {
    size_t capacity = family->capacity ? family->capacity * 2 : 64;
    struct relative *members = os_allocate(capacity * sizeof *members);
    if (members == NULL) return -ENOMEM;
    if (family->count > 0) memcpy(members, family->members, family->count * sizeof *members);
    free(family->members);
    family->members = members;
    family->capacity = capacity;
  }
  family->members[family->count++] = (struct relative){pid, started};
  return 0;
}

/* Adds one child of `parent`, stopped. Its parent is compared: the number was read a moment ago. */
static int adopt(struct family *family, pid_t parent, pid_t pid, int64_t since_ns) {
  struct os_process now;
  int status;
  if (family_has(family, pid) || !os_look_at(pid, &now) || now.parent != parent) return 0;
  status = family_add(family, pid, now.started);
  if (status < 0) return status;
  signal_relative(&family->members[family->count - 1], SIGSTOP);
  wait_until_stopped(&family->members[family->count - 1], since_ns);
  return 0;
}

/* All children of a process, in memory that is `few` or for the caller to free; NULL: memory ran out. */
static pid_t *list_children(pid_t parent, pid_t *few, int room, int *count) {
  pid_t *list = few;
  while ((*count = os_children(parent, list, room)) == room) {
    if (list != few) free(list);
    room *= 4;
    list = os_allocate((size_t)room * sizeof *list);
    if (list == NULL) return NULL;
  }
  return list;
}

static int adopt_children(struct family *family, pid_t parent, int64_t since_ns) {
  pid_t few[256];
  int count, status = 0;
  pid_t *children = list_children(parent, few, (int)(sizeof few / sizeof *few), &count);
  if (children == NULL) return -ENOMEM;
  for (int i = 0; i < count && status == 0; i++) status = adopt(family, parent, children[i], since_ns);
  if (children != few) free(children);
  return status;
}

/*
 * The whole tree of a process that was sent a SIGSTOP, stopped. Walked again until a walk finds nobody new: a process with several threads
 * may fork between our signal and the moment when the last of them has stopped.
 */
static void gather_family(struct family *family, pid_t pid) {
  int64_t since_ns = os_now_ns();
  struct os_process now;
  size_t before;
  int status;
  if (!os_look_at(pid, &now)) return;
  status = family_add(family, pid, now.started);
  if (status == 0) wait_until_stopped(&family->members[0], since_ns);
  do {
    before = family->count;
    for (size_t i = 0; status == 0 && i < family->count; i++)
      status = adopt_children(family, family->members[i].pid, since_ns);
  } while (status == 0 && family->count > before && os_now_ns() - since_ns < LONGEST_STOP_WAIT_NS);
}

/* Kills what the stopped child has started, and leaves the child itself, without which nobody could be told to be its descendant. */
void process_kill_descendants(pid_t pid) {
  struct family family = {NULL, 0, 0};
  gather_family(&family, pid);
  for (size_t i = family.count; i > 1; i--) signal_relative(&family.members[i - 1], SIGKILL);
  free(family.members);
}

/* Is somebody of them still there? (A zombie is not.) */
static int family_lives(const struct family *family) {
  struct os_process now;
  for (size_t i = 0; i < family->count; i++) {
    const struct relative *r = &family->members[i];
    if (os_look_at(r->pid, &now) && now.started == r->started && now.state != 'Z') return 1;
  }
  return 0;
}

static void signal_family(const struct family *family, int signal) {
  for (size_t i = family->count; i > 0; i--) signal_relative(&family->members[i - 1], signal);
}

void process_end_child(pid_t pid, int64_t grace_ns) {
  struct family family = {NULL, 0, 0};
  int64_t until_ns = os_now_ns() + grace_ns;
  if (kill(pid, SIGSTOP) < 0) return;
  gather_family(&family, pid);
  signal_family(&family, SIGTERM);
  signal_family(&family, SIGCONT);
  while (family_lives(&family) && os_now_ns() < until_ns) process_pause(MILLISECOND_NS);
  /* Who was started meanwhile is found as long as his parent lives; what the others have become is known. */
  if (family_lives(&family)) {
    if (kill(pid, SIGSTOP) == 0) process_kill_descendants(pid);
    signal_family(&family, SIGKILL);
  }
  kill(pid, SIGKILL);
  free(family.members);
}

void process_signal_family(pid_t pid, int signal) {
  struct family family = {NULL, 0, 0};
  if (!os_sees_processes() || kill(pid, SIGSTOP) < 0) {
    kill(pid, signal);
    return;
  }
  gather_family(&family, pid);
  signal_family(&family, signal);
  signal_family(&family, SIGCONT);
  kill(pid, SIGCONT);
  free(family.members);
}

#ifdef __linux__

/* Does this process hold the other end of pipe `fd` as its standard input or output? */
static int is_partner(pid_t pid, int fd) {
  char path[64], own[64], others[64];
  ssize_t length;
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  length = readlink(path, own, sizeof own);
  if (length <= 0 || length == (ssize_t)sizeof own) return 0;
  for (int other = STDIN_FILENO; other <= STDOUT_FILENO; other++) {
    snprintf(path, sizeof path, "/proc/%ld/fd/%d", (long)pid, other);
    if (readlink(path, others, sizeof others) == length && memcmp(own, others, (size_t)length) == 0) return 1;
  }
  return 0;
}

int process_kill_partner(int fd) {
  pid_t pid = 0;
  char path[64];
  long number;
  FILE *file;
  if (!os_sees_processes()) return 0;
  snprintf(path, sizeof path, "/proc/self/task/%ld/children", (long)syscall(SYS_gettid));
  file = fopen(path, "re");
  if (file == NULL) return 0;
  while (pid == 0 && fscanf(file, "%ld", &number) == 1)
    if (is_partner((pid_t)number, fd)) pid = (pid_t)number; /* our child, and not reaped: the number is its own */
  fclose(file);
  if (pid == 0 || kill(pid, SIGSTOP) < 0) return 0;
  process_kill_descendants(pid);
  return kill(pid, SIGKILL) == 0;
}

#else

int process_kill_partner(int fd) {
  (void)fd;
  return 0;
}

#endif
