/*
 * process/process_child -- the child's side of a fork: see process.h and process_parts.h (may include process/process.h,
 * process/process_parts.h and process/interrupt.h).
 *
 * Process-wide state: what this process is, and the score that its children get. Written before there is a second thread in the child, and
 * with the house lock held in the host.
 */
#include "process/process.h"

#include "base/fault.h"
#include "base/os.h"
#include "memory/segment.h"
#include "process/interrupt.h"
#include "process/process_parts.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/prctl.h>
#elif defined(__FreeBSD__)
#include <sys/procctl.h>
#endif
#if defined(__GLIBC__) || defined(__linux__)
#include <stdio_ext.h> /* __fpurge; musl has it as well */
#endif

enum {
  OUTPUT_BUFFER_BYTES = 64 * 1024,
  OOM_SCORE_STEP = 250, /* a worker goes before its host when memory ends */
};

/* What this process is. Written in the child side of process_fork only, before there is a second thread. */
static struct {
  int is_child; /* how many forks of ours lie between the program and this process */
  pid_t pid;    /* the process that process_fork made: this one, or the one that this is a plain copy of */
  int lifeline;
  int is_settled; /* see process_settle */
} self = {0, 0, -1, 0};

int process_is_child(void) {
  return self.is_child;
}

int process_lifeline(void) {
  return self.lifeline;
}

int process_fds_are_gone(pid_t owner) {
  return self.is_child && owner != self.pid;
}

/* ---- leaving ---- */

void process_flush_output(void) {
  /* Never fflush(NULL): it waits for every stream that a thread happens to read. */
  /* A stream that failed once is left alone: what is flushed away behind the script's back, its own writes would never notice. */
  if (!ferror(stdout)) fflush(stdout);
  if (!ferror(stderr)) fflush(stderr);
}

_Noreturn void process_exit(int code) {
  process_flush_output();
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

/* ---- the lifeline ---- */

static int host_is_gone(pid_t host) {
  struct pollfd line = {self.lifeline, POLLIN, 0};
  pid_t parent = getppid();
  /* 0: the parent is outside this process's pid namespace; then the lifeline alone can tell. */
  return (parent != host && parent != 0) || poll(&line, 1, 0) > 0;
}

/*
 * When the other end closes, the process that it is aimed at gets a signal. On Linux it is SIGCONT, which reaches a stopped process too:
 * one whose host was killed between our SIGSTOP and our SIGKILL, or after a Ctrl-Z.
 */
void process_load_lifeline(int lifeline) {
#ifdef F_SETSIG
  fcntl(lifeline, F_SETSIG, SIGCONT);
#endif
  fcntl(lifeline, F_SETFL, fcntl(lifeline, F_GETFL) | O_ASYNC);
}

void process_aim_lifeline(int lifeline, pid_t pid) {
  fcntl(lifeline, F_SETOWN, pid);
}

/*
 * Both notices arrive as a signal whose handler kills what the task has started before it leaves; SIGKILL as the parent-death signal would
 * orphan it. The latter comes when the *thread* that forked ends, so it is only for the main thread.
 */
static void hold_lifeline(pid_t host, int is_from_main_thread, _Atomic uint32_t *command) {
  uint32_t starting = PROCESS_STARTING;
  process_aim_lifeline(self.lifeline, self.pid);
#if defined(__linux__) && !defined(LUAPOOL_NO_PRCTL)
  if (is_from_main_thread) prctl(PR_SET_PDEATHSIG, SIGCONT);
#elif defined(__FreeBSD__) && !defined(LUAPOOL_NO_PRCTL)
  int signo = SIGCONT; /* it comes when the process ends that is the parent, whichever thread forked */
  (void)is_from_main_thread;
  (void)procctl(P_PID, 0, PROC_PDEATHSIG_CTL, &signo);
#else
  (void)is_from_main_thread;
#endif
  /* It may have gone before all this was in place: then no signal comes any more. */
  if (host_is_gone(host)) _exit(SETUP_FAILED_STATUS);
  if (command) (void)atomic_compare_exchange_strong(command, &starting, 0);
}

/* ---- sealing ---- */

/* Is it the library's, of those that are left to this child? */
static int is_ours(int fd) {
  return process_has_fd(fd) || fd == self.lifeline || interrupt_has_fd(fd) || segment_is(fd);
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

/* ---- standard streams ---- */

/*
 * While this thread forks several children; the child has its copy. nowhere: /dev/null (-1: each opens its own); in the registry: no child
 * keeps it.
 */
static _Thread_local int nowhere = -1, is_forking;

int process_is_forking(void) {
  return is_forking;
}

void process_begin_forks(void) {
  int fd;
  process_flush_output();
  interrupt_learn();
  is_forking = 1;
  if (process_house_open() < 0) return;
  process_house_enter();
  fd = process_reserve_fds(1) == 0 ? os_open_nothing(O_RDONLY) : -1;
  if (fd >= 0) process_add_fd(fd);
  nowhere = fd < 0 ? -1 : fd;
  process_house_leave();
}

void process_end_forks(void) {
  is_forking = 0;
  interrupt_unlearn();
  process_close_fd(&nowhere);
}

/* Before anything is closed. 1: standard input is at its end. */
static int take_nowhere(void) {
  int has_taken = nowhere >= 0 && dup2(nowhere, STDIN_FILENO) == STDIN_FILENO;
  nowhere = -1; /* it is closed with what else is foreign */
  is_forking = 0;
  return has_taken;
}

/* An end of file on standard input, so that no task eats the host's. Never simply closed: the next open would get number 0. */
static void replace_stdin(void) {
  int fd = os_open_nothing(O_RDONLY);
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

/* ---- when memory ends ---- */

#ifdef __linux__

/* What the children of process `parent` write as their score. Read once, by the parent: each child would fault in all of stdio for it. */
static struct {
  pid_t parent;
  int length;
  char text[16];
} oom_score;

void process_learn_oom_score(pid_t parent) {
  char text[16];
  int score;
  if (oom_score.parent == parent) return;
  oom_score.parent = parent;
  oom_score.length = 0;
  if (os_read_text("/proc/self/oom_score_adj", text, sizeof text) < 0) return;
  score = atoi(text) + OOM_SCORE_STEP;
  oom_score.length = snprintf(oom_score.text, sizeof oom_score.text, "%d", score > 1000 ? 1000 : score);
}

/* When memory ends, the kernel shall take a worker (its item is lost, with a clear error) and not the host. Raising needs no right. */
static void offer_to_oom_killer(pid_t parent) {
  int fd;
  process_learn_oom_score(parent); /* a helper's worker was not forked by this program: its own score is its parent's */
  fd = oom_score.length > 0 ? os_open("/proc/self/oom_score_adj", O_WRONLY) : -1;
  if (fd < 0) return;
  (void)os_write(fd, oom_score.text, (size_t)oom_score.length);
  os_close(&fd);
}

#else /* other systems cannot be told whom to take */

void process_learn_oom_score(pid_t parent) {
  (void)parent;
}

static void offer_to_oom_killer(pid_t parent) {
  (void)parent;
}

#endif

/* ---- becoming one ---- */

/* Everything between the fork and the caller's code. The order matters; the reasons stand at each step. */
void process_become_child(const struct process_child *child, pid_t host, int lifeline[2], int is_from_main_thread) {
  sigset_t nothing;
  int has_stdin;
  self.is_child++;
  self.pid = getpid();
  self.lifeline = lifeline[1];
  FAULT_POINT("child_start");
  process_close_added(&lifeline[0]); /* as long as this copy is open, the line cannot end (-1: the host alone has that end) */
  /* Handlers of the host must never run here: they are gone before any signal is let through. */
  interrupt_become_worker(child->command, self.lifeline, host);
  if (child->host) interrupt_set_sender(child->host);
  /* From here on the child cannot be left alone; everything later may take its time. */
  hold_lifeline(host, is_from_main_thread, child->command);
  has_stdin = self.is_settled || take_nowhere();
  /* Before anything is opened: a host at its limit of descriptors left none for us. */
  process_close_foreign(child);
  if (child->is_sealed) seal();
  if (!has_stdin) replace_stdin();
  replace_output(child->output);
  if (!self.is_settled) renew_stdio();
  self.is_settled = 0; /* tasks do as they like */
  if (guard_exit() != 0) _exit(SETUP_FAILED_STATUS);
  offer_to_oom_killer(host);
  FAULT_POINT("child_ready");
  /* Not the mask of the thread that forked: it may block anything. */
  sigemptyset(&nothing);
  pthread_sigmask(SIG_SETMASK, &nothing, NULL);
}

/* As process_become_child, for a process that starts others and runs nothing itself. */
void process_become_helper(int socket[2]) {
  const struct process_child child = {.keep = &socket[1], .n_keep = 1};
  sigset_t nothing;
  process_close_added(&socket[0]);
  interrupt_fork_helper();
  process_close_foreign(&child);
  seal();
  replace_stdin();
  renew_stdio();
  if (guard_exit() != 0) _exit(SETUP_FAILED_STATUS);
  sigemptyset(&nothing);
  pthread_sigmask(SIG_SETMASK, &nothing, NULL);
}

void process_settle(void) {
  process_flush_output();
  replace_stdin();
  renew_stdio();
  interrupt_settle();
  self.is_settled = 1;
}

void process_become(const struct process_child *child) {
  int lifeline[2] = {-1, child->lifeline};
  sigset_t all;
  if (process_house_open() < 0) _exit(SETUP_FAILED_STATUS);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, NULL);
  process_load_lifeline(child->lifeline);
  process_become_child(child, getppid(), lifeline, 1);
}
