/* process/process -- the host's side: see process.h (may include process/process_parts.h and process/interrupt.h). */
#include "process/process.h"

#include "base/fault.h"
#include "base/os.h"
#include "process/interrupt.h"
#include "process/process_parts.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/syscall.h>
#endif

extern char **environ; /* (not every system has it in a header) */

#define SLICE_NS (10 * MILLISECOND_NS) /* a wait that may miss its event looks again after this */
#define SILENCE_NS (5000 * MILLISECOND_NS) /* longer than a helper is kept from speaking by what else the machine does */

/* ---- starting --------------------------------------------------------------------------------------------- */

void process_init(struct process *p) {
  p->pid = 0;
  p->owner = 0;
  p->pidfd = -1;
  p->lifeline = -1;
  p->command = NULL;
  p->witness = NULL;
  p->has_ended = 0;
  p->overdue_since_ns = 0;
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
  process_add_fd(p->pidfd);
}

/* With the house lock held and all signals blocked. */
static int fork_locked(struct process *p, const struct process_child *child) {
  int lifeline[2], is_from_main_thread = is_main_thread();
  pid_t pid, host = getpid();
  int status = process_reserve_fds(3); /* before the fork: afterwards nothing may fail */
  lifeline[0] = -1;
  lifeline[1] = child->lifeline;
  if (status == 0 && !child->has_lifeline) status = process_add_pair(os_socket_pair, lifeline);
  if (status < 0) return status;
  if (child->command) atomic_store(child->command, PROCESS_STARTING);
  process_load_lifeline(lifeline[1]);
  process_learn_oom_score(host);
  pid = try_fork();
  if (pid == 0) {
    process_become_child(child, host, lifeline, is_from_main_thread);
    return 0;
  }
  status = pid < 0 ? -errno : 1;
  if (pid > 0) process_aim_lifeline(lifeline[1], pid); /* the child does so itself, unless it is stopped before */
  if (!child->has_lifeline) process_close_added(&lifeline[1]);
  if (pid < 0) {
    process_close_added(&lifeline[0]);
    return status;
  }
  FAULT_POINT("after_fork_parent");
  p->command = child->command;
  record(p, pid, host, lifeline[0]);
  return 1;
}

int process_fork(struct process *p, const struct process_child *child) {
  sigset_t all, before;
  int status = process_house_open();
  if (status < 0) return status;
  if (!process_is_forking()) process_flush_output(); /* outside the lock: a slow reader of our output shall not stop other threads' pools */
  FAULT_POINT("before_fork");
  /* Blocked, not ignored: an ignored signal would be lost. */
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  process_house_enter();
  status = fork_locked(p, child);
  if (status == 0) return 0; /* the child: lock opened by the atfork handler, mask set */
  process_house_leave();
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return status;
}

static int fork_helper_locked(struct process *p, int socket[2]) {
  pid_t pid, host = getpid();
  int status = process_reserve_fds(3);
  if (status == 0) status = process_add_pair(os_socket_pair, socket);
  if (status < 0) return status;
  pid = try_fork();
  if (pid == 0) {
    process_become_helper(socket);
    return 0;
  }
  status = pid < 0 ? -errno : 1;
  process_close_added(&socket[1]);
  if (pid < 0) process_close_added(&socket[0]);
  if (pid < 0) return status;
  p->command = NULL;
  record(p, pid, host, socket[0]);
  return 1;
}

int process_fork_helper(struct process *p, int *socket) {
  sigset_t all, before;
  int ends[2], status = process_house_open();
  if (status < 0) return status;
  process_flush_output();
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  process_house_enter();
  status = fork_helper_locked(p, ends);
  *socket = ends[status == 0];
  if (status == 0) return 0;
  process_house_leave();
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return status;
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
  uint32_t number;
  int is_bound, status = fault_fails("spawn");
  if (status == 0) status = posix_spawn_file_actions_init(&actions);
  if (status) return -status;
  status = posix_spawnattr_init(&attributes);
  if (status == 0) {
    status = posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
    if (status == 0) status = set_spawn_signals(&attributes);
    interrupt_starting_program(1);
    is_bound = os_unbind(&number) == 1; /* what starts workers may use all processors, whoever asks for it */
    if (status == 0) status = posix_spawnp(pid, path, &actions, &attributes, (char *const *)(uintptr_t)arguments, environ);
    if (is_bound) (void)os_bind(number);
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
  if (w && w->fd >= 0 && (!w->is_shared || p->overdue_since_ns) && !p->has_ended) return w->fd; /* (what it says is read once, for all) */
  /* One notice of death is enough. The pidfd is the better one: a grandchild may hold the lifeline. */
  return p->pidfd >= 0 ? p->pidfd : p->lifeline;
}

int process_notice_fd(const struct process *p) {
  if (p->witness == NULL || p->witness->fd < 0 || p->has_ended || p->overdue_since_ns) return -1;
  return p->pidfd >= 0 ? p->pidfd : p->lifeline;
}

int process_is_mine(const struct process *p) {
  return p->owner == getpid();
}

/* ---- ending ------------------------------------------------------------------------------------------- */

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

int process_kill_tree(const struct process *p) {
  int status;
  /* It has started nothing yet. Stopped so early it would hold its own lifeline open: nobody could wake it if we died now. */
  if (p->command && atomic_load(p->command) == PROCESS_STARTING) return process_signal(p, SIGKILL);
  status = process_signal(p, SIGSTOP); /* so that it cannot start more while we look */
  if (status < 0) return status;
  if (p->pid != 0 && !is_reaped(p)) process_kill_descendants(p->pid);
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

uint64_t process_own_memory(void) {
  uint64_t bytes = os_own_memory();
  return bytes > 0 ? bytes : process_peak_memory();
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

/* As look, for what is not a child of this process. One that is silent for long (somebody stopped it) is not waited for. */
static int ask_witness(struct process *p, struct process_end *end) {
  if (p->witness->fd >= 0) p->witness->listen(p->witness);
  if (p->has_ended) *end = p->end;
  if (p->has_ended || !is_over(p)) return p->has_ended;
  if (p->witness->fd < 0) return 1;
  if (p->overdue_since_ns == 0) p->overdue_since_ns = os_now_ns();
  if (os_now_ns() - p->overdue_since_ns < SILENCE_NS) return 0;
  p->witness->give_up(p->witness);
  return 1;
}

#if defined(__linux__) && defined(SYS_waitid) && __SIZEOF_POINTER__ == 8
/* Reap by the pidfd: it can mean no other process, and one call tells all. 1: ended; 0: running; -errno. (waitid itself has no usage.) */
static int reap_exactly(int pidfd, struct process_end *end) {
  enum { BY_PIDFD = 3 };
  struct rusage usage;
  siginfo_t info;
  memset(&info, 0, sizeof info);
  if (syscall(SYS_waitid, BY_PIDFD, pidfd, &info, WEXITED | WNOHANG, &usage) < 0) return -errno;
  if (info.si_pid == 0) return 0;
  end->is_known = 1;
  end->signal = info.si_code == CLD_EXITED ? 0 : info.si_status;
  end->exit_code = info.si_code == CLD_EXITED ? info.si_status : 0;
  end->dumped_core = info.si_code == CLD_DUMPED;
  end->max_rss_bytes = max_rss_bytes(&usage);
  return 1;
}
#else
static int reap_exactly(int pidfd, struct process_end *end) {
  (void)pidfd;
  (void)end;
  return -ENOSYS;
}
#endif

/* One look. Returns 1: ended (end filled), 0: running. Never for any child but this one. */
static int look(struct process *p, struct process_end *end) {
  struct rusage usage;
  int status;
  pid_t pid;
  memset(end, 0, sizeof *end);
  if (p->witness) return ask_witness(p, end);
  status = p->pidfd >= 0 ? reap_exactly(p->pidfd, end) : -ENOSYS;
  if (status >= 0 || status == -ECHILD) return status != 0; /* ECHILD: a thief has reaped it */
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
static void wait_for_end(const struct process *p, int64_t left_ns) {
  struct pollfd sign = {process_watch_fd(p), POLLIN, 0};
  int is_exact = p->pidfd >= 0 && p->witness == NULL;
  int64_t slice_ns = left_ns < 0 || left_ns > SLICE_NS ? SLICE_NS : left_ns;
  int ready = os_poll(&sign, 1, is_exact ? left_ns : slice_ns), is_blind = ready < 0 && ready != -EINTR; /* (the kernel has no memory) */
  if ((ready > 0 && !is_exact) || is_blind) process_pause(left_ns >= 0 && left_ns < LOOK_AGAIN_NS ? left_ns : LOOK_AGAIN_NS);
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
    wait_for_end(p, left_ns);
  }
}

void process_abandon(struct process *p) {
  release(p);
}
