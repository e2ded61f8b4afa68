/*
 * process/process -- see process.h.
 *
 * Process-wide state: the registry of pool descriptors, guarded by `house`, which is the fork lock too: it is held from the creation of a
 * descriptor to its entry in the registry, and across every fork of the process (ours or not: atfork handlers), so that a child
 * always sees a whole registry and an open lock.
 */
#include "process/process.h"

#include "base/fault.h"
#include "base/os.h"
#include "memory/segment.h"
#include "process/interrupt.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif
#if defined(__GLIBC__) || defined(__linux__)
#include <stdio_ext.h> /* __fpurge; musl has it as well */
#endif

enum {
  SETUP_FAILED_STATUS = 126,
  OUTPUT_BUFFER_BYTES = 64 * 1024,
  OOM_SCORE_STEP = 250, /* a worker goes before its host when memory ends */
};

#define MILLISECOND_NS INT64_C(1000000)
#define STOP_WAIT_NS (50 * MILLISECOND_NS)
#define LOOK_AGAIN_NS (MILLISECOND_NS / 4)   /* where nothing can be waited for, between two looks */
#define SLICE_NS (10 * MILLISECOND_NS)       /* a wait that may miss its event looks again after this */

static pthread_mutex_t house = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t atfork_once = PTHREAD_ONCE_INIT;
static int atfork_status;
static _Thread_local int holds_house;

static struct {
  int *fds;
  size_t count, capacity;
} registry;

/* What this process is. Written in the child side of process_fork only, before there is a second thread. */
static struct {
  int is_child; /* how many forks of ours lie between the program and this process */
  pid_t pid;    /* the process that process_fork made: this one, or the one that this is a plain copy of */
  int lifeline;
} self = {0, 0, -1};

/* ---- the house lock --------------------------------------------------------------------------- */

static void house_enter(void) {
  pthread_mutex_lock(&house);
  holds_house = 1;
}

static void house_leave(void) {
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

static int house_open(void) {
  int status = -pthread_once(&atfork_once, register_atfork);
  return status < 0 ? status : atfork_status;
}

/* ---- the registry of descriptors (all with the house lock held) ----------------------------------- */

static int registry_reserve(size_t more) {
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

/* There is room (registry_reserve). */
static void registry_add(int fd) {
  if (fd >= 0 && !has_fd(registry.fds, registry.count, fd)) registry.fds[registry.count++] = fd;
}

static void registry_remove(int fd) {
  for (size_t i = registry.count; i > 0; i--) { /* from the end: what came last goes first, as a rule */
    if (registry.fds[i - 1] != fd) continue;
    registry.fds[i - 1] = registry.fds[--registry.count];
    return;
  }
}

static void close_registered(int *fd) {
  if (*fd >= 0) registry_remove(*fd);
  os_close(fd);
}

int process_register_fd(int fd) {
  int status = house_open();
  if (status < 0) return status;
  house_enter();
  status = registry_reserve(1);
  if (status == 0) registry_add(fd);
  house_leave();
  return status;
}

void process_forget_fd(int fd) {
  house_enter();
  registry_remove(fd);
  house_leave();
}

/* Two descriptors that `open_both` makes, an os function. */
static int registered_pair(int (*open_both)(int fds[2]), int fds[2]) {
  int status = registry_reserve(2);
  if (status == 0) status = open_both(fds);
  if (status < 0) return status;
  registry_add(fds[0]);
  registry_add(fds[1]);
  return 0;
}

static int locked_pair(int (*open_both)(int fds[2]), int fds[2]) {
  int status = house_open();
  if (status < 0) return status;
  house_enter();
  status = registered_pair(open_both, fds);
  house_leave();
  return status;
}

int process_socket_pair(int fds[2]) {
  return locked_pair(os_socket_pair, fds);
}

int process_pipe(int fds[2]) {
  return locked_pair(os_pipe, fds);
}

void process_close_fd(int *fd) {
  house_enter();
  close_registered(fd);
  house_leave();
}

int process_fds_are_gone(pid_t owner) {
  return self.is_child && owner != self.pid;
}

/* ---- the child's side of a fork --------------------------------------------------------------------- */

static void flush_output(void) {
  /* Never fflush(NULL): it waits for every stream that a thread happens to read. */
  /* A stream that failed once is left alone: what is flushed away behind the script's back, its own writes would never notice. */
  if (!ferror(stdout)) fflush(stdout);
  if (!ferror(stderr)) fflush(stderr);
}

_Noreturn void process_exit(int code) {
  flush_output();
  _exit(code);
}

/*
 * exit() by C code in the child must not run the handlers that the host registered (they delete its files, restore its terminal), nor let
 * stdio touch what it inherited. The last handler registered runs first, and this one does not come back.
 */
#ifdef __GLIBC__
static void leave_on_exit(int status, void *unused) {
  (void)unused;
  process_exit(status);
}

static int guard_exit(void) {
  return on_exit(leave_on_exit, NULL);
}
#else
static void leave_at_exit(void) {
  process_exit(EXIT_FAILURE); /* atexit does not say which status was meant; a task that calls exit is a fault in any case */
}

static int guard_exit(void) {
  return atexit(leave_at_exit);
}
#endif

static int host_is_gone(pid_t host) {
  struct pollfd line = {self.lifeline, POLLIN, 0};
  pid_t parent = getppid();
  /* 0: the parent is outside this process's pid namespace; then the lifeline alone can tell. */
  return (parent != host && parent != 0) || poll(&line, 1, 0) > 0;
}

/*
 * When the other end closes, `pid` gets a signal. On Linux it is SIGCONT, which reaches a stopped process too: one whose host was killed
 * between our SIGSTOP and our SIGKILL, or after a Ctrl-Z.
 */
static void arm_lifeline(int lifeline, pid_t pid) {
  fcntl(lifeline, F_SETOWN, pid);
#ifdef F_SETSIG
  fcntl(lifeline, F_SETSIG, SIGCONT);
#endif
  fcntl(lifeline, F_SETFL, fcntl(lifeline, F_GETFL) | O_ASYNC);
}

/*
 * Both notices arrive as a signal whose handler kills what the task has started before it leaves; SIGKILL as the parent-death signal would
 * orphan it. The latter comes when the *thread* that forked ends, so it is only for the main thread.
 */
static void hold_lifeline(pid_t host, int is_from_main_thread, _Atomic uint32_t *command) {
  uint32_t starting = PROCESS_STARTING;
  arm_lifeline(self.lifeline, getpid());
#if defined(__linux__) && !defined(LUAPOOL_NO_PRCTL)
  if (is_from_main_thread) prctl(PR_SET_PDEATHSIG, SIGCONT);
#else
  (void)is_from_main_thread;
#endif
  /* It may have gone before all this was in place: then no signal comes any more. */
  if (host_is_gone(host)) _exit(SETUP_FAILED_STATUS);
  if (command) (void)atomic_compare_exchange_strong(command, &starting, 0);
}

/*
 * Closes every pool's descriptors but those this child needs, which stay registered: they are not for its own children.
 * The last of 64 workers has 300 of them to close: neighbours go in one call.
 */
static void close_foreign(const struct process_child *child) {
  struct os_fd_set foreign;
  size_t kept = 0;
  memset(&foreign, 0, sizeof foreign);
  for (size_t i = 0; i < registry.count; i++) {
    int fd = registry.fds[i];
    if (fd == self.lifeline || has_fd(child->keep, child->n_keep, fd)) registry.fds[kept++] = fd;
    else os_fd_set_add(&foreign, fd);
  }
  registry.count = kept;
  os_close_set(&foreign);
}

/* ---- sealing ---- */

/* Is it the library's, of those that are left to this child? */
static int is_ours(int fd) {
  return has_fd(registry.fds, registry.count, fd) || fd == self.lifeline || interrupt_has_fd(fd) || segment_is(fd);
}

/*
 * Not simply closed, where that can be helped: what the host's code has in memory about it (a stream with unwritten text, which the
 * collector closes) would then reach the file that gets the number next. What takes its place refuses whatever is done with it.
 */
static void seal_fd(int fd, int *nothing) {
#ifdef O_PATH
  if (*nothing < 0) *nothing = open("/dev/null", O_PATH | O_CLOEXEC);
  if (*nothing < 0) { /* no descriptor is left: this one is */
    close(fd);
    *nothing = open("/dev/null", O_PATH | O_CLOEXEC);
    if (*nothing == fd) *nothing = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  } else if (dup3(*nothing, fd, O_CLOEXEC) < 0) {
    close(fd);
  }
#else
  (void)nothing;
  close(fd);
#endif
}

/* Where the system does not list them: all numbers there may be. */
static void seal_by_number(int *nothing) {
  struct rlimit limit;
  long last = 65536;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < 65536) last = (long)limit.rlim_cur;
  for (int fd = STDERR_FILENO + 1; fd < last; fd++)
    if (fd != *nothing && fcntl(fd, F_GETFD) >= 0 && !is_ours(fd)) seal_fd(fd, nothing);
}

/* No descriptor of the host's leads anywhere from here on. */
static void seal(void) {
  int nothing = -1;
#if defined(__linux__) && !defined(LUAPOOL_NO_CLOSE_RANGE)
  struct dirent *entry;
  DIR *list = opendir("/proc/self/fd");
  while (list && (entry = readdir(list)) != NULL) {
    int fd = atoi(entry->d_name);
    if (fd > STDERR_FILENO && fd != dirfd(list) && fd != nothing && !is_ours(fd)) seal_fd(fd, &nothing);
  }
  if (list) closedir(list);
  else
#endif
    seal_by_number(&nothing);
  os_close(&nothing);
}

/* An end of file on standard input, so that no task eats the host's. Never simply closed: the next open would get number 0. */
static void replace_stdin(void) {
  int fd = os_open("/dev/null", O_RDONLY), ends[2] = {-1, -1};
  if (fd < 0 && pipe(ends) == 0) { /* no /dev here: a pipe that nobody writes to */
    fd = ends[0];
    os_close(&ends[1]);
  }
  if (fd < 0 || dup2(fd, STDIN_FILENO) < 0) _exit(SETUP_FAILED_STATUS);
  if (fd != STDIN_FILENO) os_close(&fd);
}

static void replace_output(const int *output) {
  if (output == NULL) return;
  if (dup2(output[0], STDOUT_FILENO) < 0 || dup2(output[1], STDERR_FILENO) < 0) _exit(SETUP_FAILED_STATUS);
}

static void purge(FILE *stream) {
#ifdef __linux__
  __fpurge(stream);
#else
  fpurge(stream);
#endif
}

/* The host's unwritten output and unread input were copied by the fork; whole lines of up to 64 KiB leave in one write, untorn. */
static void renew_stdio(void) {
  static char buffer[OUTPUT_BUFFER_BYTES];
  purge(stdin);
  purge(stdout);
  purge(stderr);
  clearerr(stdin);
  clearerr(stdout);
  clearerr(stderr);
  setvbuf(stdout, buffer, _IOLBF, sizeof buffer);
}

/* What the children of process `parent` write as their score. Read once, by the parent: each child would fault in all of stdio for it. */
static struct {
  pid_t parent;
  int length;
  char text[16];
} oom_score;

static void learn_oom_score(pid_t parent) {
#ifdef __linux__
  char text[16];
  int score;
  if (oom_score.parent == parent) return;
  oom_score.parent = parent;
  oom_score.length = 0;
  if (os_read_text("/proc/self/oom_score_adj", text, sizeof text) < 0) return;
  score = atoi(text) + OOM_SCORE_STEP;
  oom_score.length = snprintf(oom_score.text, sizeof oom_score.text, "%d", score > 1000 ? 1000 : score);
#else
  (void)parent;
#endif
}

/* When memory ends, the kernel shall take a worker (its item is lost, with a clear error) and not the host. Raising needs no right. */
static void offer_to_oom_killer(pid_t parent) {
#ifdef __linux__
  int fd;
  learn_oom_score(parent); /* a helper's worker was not forked by this program: its own score is its parent's */
  fd = oom_score.length > 0 ? os_open("/proc/self/oom_score_adj", O_WRONLY) : -1;
  if (fd < 0) return;
  (void)os_write(fd, oom_score.text, (size_t)oom_score.length);
  os_close(&fd);
#else
  (void)parent;
#endif
}

/* Everything between the fork and the caller's code. The order matters; the reasons stand at each step. */
static void become_child(const struct process_child *child, pid_t host, int lifeline[2], int is_from_main_thread) {
  sigset_t nothing;
  self.is_child++;
  self.pid = getpid();
  self.lifeline = lifeline[1];
  FAULT_POINT("child_start");
  close_registered(&lifeline[0]); /* as long as this copy is open, the line cannot end (-1: the host alone has that end) */
  /* Handlers of the host must never run here: they are gone before any signal is let through. */
  interrupt_become_worker(child->command, self.lifeline, host);
  if (child->host) interrupt_set_sender(child->host);
  /* From here on the child cannot be left alone; everything later may take its time. */
  hold_lifeline(host, is_from_main_thread, child->command);
  /* Before anything is opened: a host at its limit of descriptors left none for us. */
  close_foreign(child);
  if (child->is_sealed) seal();
  replace_stdin();
  replace_output(child->output);
  renew_stdio();
  if (guard_exit() != 0) _exit(SETUP_FAILED_STATUS);
  offer_to_oom_killer(host);
  FAULT_POINT("child_ready");
  /* Not the mask of the thread that forked: it may block anything. */
  sigemptyset(&nothing);
  pthread_sigmask(SIG_SETMASK, &nothing, NULL);
}

/* ---- the host's side of a fork ------------------------------------------------------------------------ */

void process_init(struct process *p) {
  p->pid = 0;
  p->owner = 0;
  p->pidfd = -1;
  p->lifeline = -1;
  p->command = NULL;
  p->witness = NULL;
  p->has_ended = 0;
}

static int is_main_thread(void) {
#ifdef __linux__
  return syscall(SYS_gettid) == getpid();
#else
  return 0;
#endif
}

static pid_t try_fork(void) {
  int error = fault_fails("fork");
  if (error) {
    errno = error;
    return -1;
  }
  return fork();
}

/* Before signals come through again: a handler that ends the pool must know this child. */
static void record(struct process *p, pid_t pid, pid_t host, int lifeline) {
  int pidfd = os_pidfd_open(pid); /* nobody has reaped it yet, so the number is still its own */
  p->pid = pid;
  p->owner = host;
  p->lifeline = lifeline;
  p->pidfd = pidfd < 0 ? -1 : pidfd;
  registry_add(p->pidfd);
}

/* With the house lock held and all signals blocked. */
static int fork_locked(struct process *p, const struct process_child *child) {
  int lifeline[2], is_from_main_thread = is_main_thread();
  pid_t pid, host = getpid();
  int status = registry_reserve(3); /* before the fork: afterwards nothing may fail */
  lifeline[0] = -1;
  lifeline[1] = child->lifeline;
  if (status == 0 && !child->has_lifeline) status = registered_pair(os_socket_pair, lifeline);
  if (status < 0) return status;
  if (child->command) atomic_store(child->command, PROCESS_STARTING);
  learn_oom_score(host);
  pid = try_fork();
  if (pid == 0) {
    become_child(child, host, lifeline, is_from_main_thread);
    return 0;
  }
  status = pid < 0 ? -errno : 1;
  if (pid > 0) arm_lifeline(lifeline[1], pid); /* the child does so itself, unless it is stopped before */
  if (!child->has_lifeline) close_registered(&lifeline[1]);
  if (pid < 0) {
    close_registered(&lifeline[0]);
    return status;
  }
  FAULT_POINT("after_fork_parent");
  p->command = child->command;
  record(p, pid, host, lifeline[0]);
  return 1;
}

int process_fork(struct process *p, const struct process_child *child) {
  sigset_t all, before;
  int status = house_open();
  if (status < 0) return status;
  flush_output(); /* outside the lock: a slow reader of our output shall not stop other threads' pools */
  FAULT_POINT("before_fork");
  /* Blocked, not ignored: an ignored signal would be lost. */
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  house_enter();
  status = fork_locked(p, child);
  if (status == 0) return 0; /* the child: lock opened by the atfork handler, mask set */
  house_leave();
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return status;
}

/* As become_child, for a process that starts others and runs nothing itself. */
static void become_helper(int socket[2]) {
  const struct process_child child = {.keep = &socket[1], .n_keep = 1};
  sigset_t nothing;
  close_registered(&socket[0]);
  interrupt_fork_helper();
  close_foreign(&child);
  seal();
  replace_stdin();
  renew_stdio();
  if (guard_exit() != 0) _exit(SETUP_FAILED_STATUS);
  sigemptyset(&nothing);
  pthread_sigmask(SIG_SETMASK, &nothing, NULL);
}

static int fork_helper_locked(struct process *p, int socket[2]) {
  pid_t pid, host = getpid();
  int status = registry_reserve(3);
  if (status == 0) status = registered_pair(os_socket_pair, socket);
  if (status < 0) return status;
  pid = try_fork();
  if (pid == 0) {
    become_helper(socket);
    return 0;
  }
  status = pid < 0 ? -errno : 1;
  close_registered(&socket[1]);
  if (pid < 0) close_registered(&socket[0]);
  if (pid < 0) return status;
  p->command = NULL;
  record(p, pid, host, socket[0]);
  return 1;
}

int process_fork_helper(struct process *p, int *socket) {
  sigset_t all, before;
  int ends[2], status = house_open();
  if (status < 0) return status;
  flush_output();
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  house_enter();
  status = fork_helper_locked(p, ends);
  *socket = ends[status == 0];
  if (status == 0) return 0;
  house_leave();
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return status;
}

void process_become(const struct process_child *child) {
  int lifeline[2] = {-1, child->lifeline};
  sigset_t all;
  if (house_open() < 0) _exit(SETUP_FAILED_STATUS);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, NULL);
  become_child(child, getppid(), lifeline, 1);
}

/* As a program expects them at its start; what is ignored on purpose (nohup, a background job) stays so. */
static int set_spawn_signals(posix_spawnattr_t *attributes) {
  sigset_t none, defaults;
  int status;
  sigemptyset(&none);
  sigfillset(&defaults);
  sigdelset(&defaults, SIGINT);
  sigdelset(&defaults, SIGTERM);
  sigdelset(&defaults, SIGHUP);
  sigdelset(&defaults, SIGKILL);
  sigdelset(&defaults, SIGSTOP);
  status = posix_spawnattr_setsigmask(attributes, &none);
  if (status == 0) status = posix_spawnattr_setsigdefault(attributes, &defaults);
  if (status == 0) status = posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  return status;
}

static int execute(pid_t *pid, const char *path, const char *const *arguments, int input) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  int status = fault_fails("spawn");
  if (status == 0) status = posix_spawn_file_actions_init(&actions);
  if (status) return -status;
  status = posix_spawnattr_init(&attributes);
  if (status == 0) {
    status = posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
    if (status == 0) status = set_spawn_signals(&attributes);
    interrupt_starting_program(1);
    if (status == 0) status = posix_spawnp(pid, path, &actions, &attributes, (char *const *)(uintptr_t)arguments, environ);
    interrupt_starting_program(0);
    posix_spawnattr_destroy(&attributes);
  }
  posix_spawn_file_actions_destroy(&actions);
  return -status;
}

int process_spawn(struct process *p, const char *path, const char *const *arguments) {
  sigset_t all, before;
  int socket[2], status = process_socket_pair(socket);
  pid_t pid;
  if (status < 0) return status;
  sigfillset(&all); /* a handler that ends the pool must know this child */
  pthread_sigmask(SIG_SETMASK, &all, &before);
  status = execute(&pid, path, arguments, socket[1]);
  if (status == 0) {
    int pidfd = os_pidfd_open(pid);
    if (pidfd >= 0 && process_register_fd(pidfd) < 0) os_close(&pidfd);
    process_adopt(p, pid, pidfd < 0 ? -1 : pidfd, socket[0], NULL, NULL);
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  process_close_fd(&socket[1]);
  if (status < 0) process_close_fd(&socket[0]);
  return status < 0 ? status : 1;
}

void process_adopt(struct process *p, pid_t pid, int pidfd, int lifeline, _Atomic uint32_t *command, struct process_witness *witness) {
  process_init(p);
  p->pid = pid;
  p->owner = getpid();
  p->pidfd = pidfd;
  p->lifeline = lifeline;
  p->command = command;
  p->witness = witness;
}

int process_watch_fd(const struct process *p) {
  const struct process_witness *w = p->witness;
  if (w && w->fd >= 0 && !w->is_shared && !p->has_ended) return w->fd; /* (what it says is read once, for all) */
  /* One notice of death is enough. The pidfd is the better one: a grandchild may hold the lifeline. */
  return p->pidfd >= 0 ? p->pidfd : p->lifeline;
}

int process_is_child(void) {
  return self.is_child;
}

int process_lifeline(void) {
  return self.lifeline;
}

int process_is_mine(const struct process *p) {
  return p->owner == getpid();
}

/* ---- ending ------------------------------------------------------------------------------------------- */

static void pause_ns(int64_t duration_ns) {
  struct timespec pause = {(time_t)(duration_ns / 1000000000), (long)(duration_ns % 1000000000)};
  nanosleep(&pause, NULL);
}

/*
 * Was it reaped, by us or by a thief (SIGCHLD ignored, a waitpid(-1) somewhere)? Then its number may already mean another process, even
 * another child of this one, which only a pidfd can tell.
 */
static int is_reaped(const struct process *p) {
  siginfo_t info;
  int status = p->pidfd >= 0 ? os_pidfd_signal(p->pidfd, 0) : -ENOSYS;
  if (status == 0 || status == -ESRCH) return status == -ESRCH;
  if (p->witness) {
    p->witness->listen(p->witness);
    return p->has_ended;
  }
  return waitid(P_PID, (id_t)p->pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0;
}

int process_signal(const struct process *p, int signal) {
  int status;
  if (p->pid == 0) return 0;
  if (!process_is_mine(p)) return -EPERM;
  status = p->pidfd >= 0 ? os_pidfd_signal(p->pidfd, signal) : -ENOSYS;
  if (status == -ESRCH) return 0;
  if (status != -ENOSYS && status != -EPERM) return status; /* EPERM: a sandbox that knows no pidfd either */
  if (is_reaped(p)) return 0;
  return kill(p->pid, signal) < 0 && errno != ESRCH ? -errno : 0;
}

#ifdef __linux__

/* A process as it was when we met it: the start time tells it from a later owner of its number. */
struct relative {
  pid_t pid;
  unsigned long long started;
};

struct family {
  struct relative *members; /* [0] is the child itself */
  size_t count, capacity;
};

struct stat_line {
  char state;
  pid_t parent;
  unsigned long long started;
};

/* Returns 1 if the process exists. */
static int read_stat(pid_t pid, struct stat_line *line) {
  char path[64], text[1024];
  const char *after_name;
  snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
  if (os_read_text(path, text, sizeof text) <= 0) return 0;
  after_name = strrchr(text, ')'); /* the name may hold anything, spaces and brackets too */
  if (after_name == NULL) return 0;
  /* fields 3 (state), 4 (parent) and 22 (start time) */
  return sscanf(after_name + 1, " %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &line->state,
                &line->parent, &line->started) == 3;
}

/* Sends to exactly this process: whoever has its number now is compared first, and held by a pidfd meanwhile where there are any. */
static void signal_relative(const struct relative *r, int signal) {
  struct stat_line line;
  int pidfd = os_pidfd_open(r->pid);
  if (read_stat(r->pid, &line) && line.started == r->started) {
    if (pidfd < 0 || os_pidfd_signal(pidfd, signal) == -ENOSYS) kill(r->pid, signal);
  }
  os_close(&pidfd);
}

/* Waits until it cannot fork any more: stopped, or dead. */
static void wait_until_stopped(pid_t pid, int64_t deadline_ns) {
  struct stat_line line;
  while (read_stat(pid, &line) && strchr("TtZX", line.state) == NULL && os_now_ns() < deadline_ns) pause_ns(LOOK_AGAIN_NS);
}

static int family_has(const struct family *family, pid_t pid) {
  for (size_t i = 0; i < family->count; i++)
    if (family->members[i].pid == pid) return 1;
  return 0;
}

static int family_add(struct family *family, pid_t pid, unsigned long long started) {
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
static int adopt(struct family *family, pid_t parent, pid_t pid, int64_t deadline_ns) {
  struct stat_line line;
  int status;
  if (family_has(family, pid) || !read_stat(pid, &line) || line.parent != parent) return 0;
  status = family_add(family, pid, line.started);
  if (status < 0) return status;
  signal_relative(&family->members[family->count - 1], SIGSTOP);
  wait_until_stopped(pid, deadline_ns);
  return 0;
}

/* The children of one thread: a line of numbers. The file can be long, so it is read as a stream. */
static int adopt_children_of_thread(struct family *family, pid_t parent, const char *thread, int64_t deadline_ns) {
  char path[128];
  FILE *file;
  long pid;
  int status = 0;
  snprintf(path, sizeof path, "/proc/%ld/task/%.32s/children", (long)parent, thread);
  file = fopen(path, "re");
  if (file == NULL) return 0;
  while (status == 0 && fscanf(file, "%ld", &pid) == 1) status = adopt(family, parent, (pid_t)pid, deadline_ns);
  fclose(file);
  return status;
}

static int adopt_children(struct family *family, pid_t parent, int64_t deadline_ns) {
  char path[64];
  struct dirent *entry;
  DIR *tasks;
  int status = 0;
  snprintf(path, sizeof path, "/proc/%ld/task", (long)parent);
  tasks = opendir(path);
  if (tasks == NULL) return 0;
  while (status == 0 && (entry = readdir(tasks)) != NULL)
    if (entry->d_name[0] != '.') status = adopt_children_of_thread(family, parent, entry->d_name, deadline_ns);
  closedir(tasks);
  return status;
}

/*
 * The whole tree, stopped. Walked again until a walk finds nobody new: a process with several threads may fork between our signal and
 * the moment when the last of them has stopped.
 */
static void gather_family(struct family *family, pid_t pid, unsigned long long started) {
  int64_t deadline_ns = os_now_ns() + STOP_WAIT_NS;
  size_t before;
  int status = family_add(family, pid, started);
  do {
    before = family->count;
    for (size_t i = 0; status == 0 && i < family->count; i++)
      status = adopt_children(family, family->members[i].pid, deadline_ns);
  } while (status == 0 && family->count > before && os_now_ns() < deadline_ns);
}

/* Kills what the stopped child has started, and leaves the child itself, without which nobody could be told to be its descendant. */
static void kill_descendants(pid_t pid) {
  struct family family = {NULL, 0, 0};
  struct stat_line line;
  wait_until_stopped(pid, os_now_ns() + STOP_WAIT_NS);
  if (read_stat(pid, &line)) gather_family(&family, pid, line.started);
  for (size_t i = family.count; i > 1; i--) signal_relative(&family.members[i - 1], SIGKILL);
  free(family.members);
}

/* Is somebody of them still there? (A zombie is not.) */
static int family_lives(const struct family *family) {
  struct stat_line line;
  for (size_t i = 0; i < family->count; i++) {
    const struct relative *r = &family->members[i];
    if (read_stat(r->pid, &line) && line.started == r->started && strchr("ZX", line.state) == NULL) return 1;
  }
  return 0;
}

static void signal_family(const struct family *family, int signal) {
  for (size_t i = family->count; i > 0; i--) signal_relative(&family->members[i - 1], signal);
}

void process_end_child(pid_t pid, int64_t grace_ns) {
  struct family family = {NULL, 0, 0};
  struct stat_line line;
  int64_t until_ns = os_now_ns() + grace_ns;
  if (kill(pid, SIGSTOP) < 0) return;
  wait_until_stopped(pid, os_now_ns() + STOP_WAIT_NS);
  if (read_stat(pid, &line)) gather_family(&family, pid, line.started);
  signal_family(&family, SIGTERM);
  signal_family(&family, SIGCONT);
  while (family_lives(&family) && os_now_ns() < until_ns) pause_ns(MILLISECOND_NS);
  /* Who was started meanwhile is found as long as his parent lives; what the others have become is known. */
  if (family_lives(&family)) {
    if (kill(pid, SIGSTOP) == 0) kill_descendants(pid);
    signal_family(&family, SIGKILL);
  }
  kill(pid, SIGKILL);
  free(family.members);
}

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
  snprintf(path, sizeof path, "/proc/self/task/%ld/children", (long)syscall(SYS_gettid));
  file = fopen(path, "re");
  if (file == NULL) return 0;
  while (pid == 0 && fscanf(file, "%ld", &number) == 1)
    if (is_partner((pid_t)number, fd)) pid = (pid_t)number; /* our child, and not reaped: the number is its own */
  fclose(file);
  if (pid == 0 || kill(pid, SIGSTOP) < 0) return 0;
  kill_descendants(pid);
  return kill(pid, SIGKILL) == 0;
}

#else

int process_kill_partner(int fd) {
  (void)fd;
  return 0;
}

void process_end_child(pid_t pid, int64_t grace_ns) {
  (void)kill(pid, SIGTERM);
  while (grace_ns > 0 && kill(pid, 0) == 0) { /* a zombie counts as alive here: then the grace is what it costs */
    pause_ns(MILLISECOND_NS);
    grace_ns -= MILLISECOND_NS;
  }
  (void)kill(pid, SIGKILL);
}

static void kill_descendants(pid_t pid) {
  (void)pid; /* what the task has started cannot be found here; it dies of its closed pipes, or stays */
}

#endif

int process_kill_tree(const struct process *p) {
  int status;
  /* It has started nothing yet. Stopped so early it would hold its own lifeline open: nobody could wake it if we died now. */
  if (p->command && atomic_load(p->command) == PROCESS_STARTING) return process_signal(p, SIGKILL);
  status = process_signal(p, SIGSTOP); /* so that it cannot start more while we look */
  if (status < 0) return status;
  if (p->pid != 0 && !is_reaped(p)) kill_descendants(p->pid);
  return process_signal(p, SIGKILL); /* works on the stopped, too */
}

/* ---- reaping -------------------------------------------------------------------------------------------- */

static uint64_t max_rss_bytes(const struct rusage *usage) {
#ifdef __APPLE__
  return (uint64_t)usage->ru_maxrss;
#else
  return (uint64_t)usage->ru_maxrss * 1024;
#endif
}

uint64_t process_peak_memory(void) {
  struct rusage usage;
  return getrusage(RUSAGE_SELF, &usage) == 0 ? max_rss_bytes(&usage) : 0;
}

/* Closes what the handle holds here and empties it. */
static void release(struct process *p) {
  if (p->witness) p->witness->forget(p->witness, p);
  if (!process_fds_are_gone(p->owner)) {
    process_close_fd(&p->pidfd);
    process_close_fd(&p->lifeline);
  }
  process_init(p);
}

/* The witness is gone, and cannot say any more: a process that it started leaves by itself then. */
static int is_over(const struct process *p) {
  struct pollfd sign = {p->pidfd >= 0 ? p->pidfd : p->lifeline, POLLIN, 0};
  return os_poll(&sign, 1, 0) > 0;
}

/* As look, for what is not a child of this process. */
static int ask_witness(const struct process *p, struct process_end *end) {
  if (p->witness->fd >= 0) p->witness->listen(p->witness);
  if (p->has_ended) *end = p->end;
  return p->has_ended || (p->witness->fd < 0 && is_over(p));
}

/* One look. Returns 1: ended (end filled), 0: running. Never for any child but this one. */
static int look(const struct process *p, struct process_end *end) {
  struct rusage usage;
  int status;
  pid_t pid;
  memset(end, 0, sizeof *end);
  if (p->witness) return ask_witness(p, end);
  if (is_reaped(p)) return 1; /* wait4 might then take a new child of the host that bears the number */
  do pid = wait4(p->pid, &status, WNOHANG, &usage);
  while (pid < 0 && errno == EINTR);
  if (pid == 0) return 0;
  if (pid < 0) return errno == ECHILD ? 1 : -errno;
  end->is_known = 1;
  end->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  end->exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
#ifdef WCOREDUMP
  end->dumped_core = WIFSIGNALED(status) && WCOREDUMP(status);
#endif
  end->max_rss_bytes = max_rss_bytes(&usage);
  return 1;
}

/*
 * Sleeps until it may have ended. A pidfd says exactly when. The lifeline says so a little too early (descriptors are closed before the
 * process is a zombie), or too late (a copy that the task forked still holds it): looks in between make up for both.
 */
static int wait_for_end(const struct process *p, int64_t left_ns) {
  struct pollfd sign = {process_watch_fd(p), POLLIN, 0};
  int is_exact = p->pidfd >= 0 && p->witness == NULL;
  int64_t slice_ns = left_ns < 0 || left_ns > SLICE_NS ? SLICE_NS : left_ns;
  int ready = os_poll(&sign, 1, is_exact ? left_ns : slice_ns);
  if (ready < 0 && ready != -EINTR) return ready;
  if (ready > 0 && !is_exact) pause_ns(left_ns >= 0 && left_ns < LOOK_AGAIN_NS ? left_ns : LOOK_AGAIN_NS);
  return 0;
}

int process_reap(struct process *p, int64_t timeout_ns, struct process_end *end) {
  int64_t start_ns = os_now_ns();
  memset(end, 0, sizeof *end);
  if (p->pid == 0) return 1;
  if (!process_is_mine(p)) return -EPERM;
  for (;;) {
    int64_t left_ns = timeout_ns < 0 ? -1 : timeout_ns - (os_now_ns() - start_ns);
    int status = look(p, end);
    if (status > 0) release(p);
    if (status != 0) return status;
    if (timeout_ns >= 0 && left_ns <= 0) return 0;
    status = wait_for_end(p, left_ns);
    if (status < 0) return status;
  }
}

void process_abandon(struct process *p) {
  release(p);
}
