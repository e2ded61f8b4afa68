/*
 * process/program -- see program.h.
 *
 * Room: process (may include process/interrupt.h and process/process.h).  Owns: nothing that outlives the call.
 */
#include "process/program.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/os.h"
#include "process/interrupt.h"
#include "process/process.h"

enum {
  LOOK_MS = 10,   /* without a pidfd: how often we look whether the command has ended */
  NOTICE_MS = 50, /* a signal to the whole group reaches the command by itself: it is not passed on at once */
  WATCH_MS = 100  /* after that: how often we look whether the matter has become urgent */
};

extern char **environ;

struct program {
  pid_t pid;
  int pidfd;      /* or -errno */
  int passed_on;  /* the reason that the command was told of, or 0 */
  int is_killed;
};

static int start_by_spawn(struct program *p, char *arguments[], int resets_quit) {
  posix_spawnattr_t attributes;
  sigset_t defaults;
  int error = posix_spawnattr_init(&attributes);
  if (error) return error;
  sigemptyset(&defaults);
  if (resets_quit) sigaddset(&defaults, SIGQUIT);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
  error = posix_spawn(&p->pid, "/bin/sh", NULL, &attributes, arguments, environ);
  posix_spawnattr_destroy(&attributes);
  return error;
}

/*
 * In a copy of this process, with all signals blocked: what came meanwhile shall find no handler of ours when it comes through, but end or
 * stop this process. (exec would reset them.)
 */
static _Noreturn void become(char *arguments[], int resets_quit, const sigset_t *mask) {
  struct sigaction action;
  for (int signo = 1; signo < NSIG; signo++) {
    int is_known = sigaction(signo, NULL, &action) == 0;
    int is_ignored = is_known && !(action.sa_flags & SA_SIGINFO) && action.sa_handler == SIG_IGN;
    if (!is_known || (is_ignored && !(resets_quit && signo == SIGQUIT))) continue;
    action.sa_handler = SIG_DFL;
    action.sa_flags = 0;
    sigaction(signo, &action, NULL); /* (not of SIGKILL and SIGSTOP) */
  }
  FAULT_POINT("program_forked");
  pthread_sigmask(SIG_SETMASK, mask, NULL);
  execve("/bin/sh", arguments, environ);
  _exit(127);
}

/*
 * posix_spawn waits until its child has become another program, and can be neither stopped nor ended meanwhile. A child that is stopped
 * before, by the terminal's Ctrl-Z, would keep this process waiting, and the shell that started it waits for this process to be stopped.
 * Returns 0 or an errno.
 */
static int start_by_fork(struct program *p, char *arguments[], int resets_quit) {
  sigset_t all, before;
  int error;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  p->pid = fork();
  if (p->pid == 0) become(arguments, resets_quit, &before);
  error = p->pid < 0 ? errno : 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return error;
}

static int has_terminal(void) {
  int fd = os_open("/dev/tty", O_RDONLY | O_NOCTTY | O_NONBLOCK);
  if (fd < 0) return 0;
  os_close(&fd);
  return 1;
}

/*
 * 0, or an errno. The child has no handler of ours: exec resets them; what is ignored stays ignored, but what was so for its sake. Without
 * a terminal nobody presses Ctrl-Z, and a program that is too large to be copied is not copied.
 */
static int start(struct program *p, const char *command, int resets_quit) {
  char *arguments[] = {(char *)"sh", (char *)"-c", (char *)command, NULL};
  if (has_terminal() && start_by_fork(p, arguments, resets_quit) == 0) return 0;
  return start_by_spawn(p, arguments, resets_quit);
}

static void rest(const struct program *p, int listens, int timeout_ms) {
  struct pollfd fds[2] = {{p->pidfd >= 0 ? p->pidfd : -1, POLLIN, 0}, {listens ? interrupt_fd() : -1, POLLIN, 0}};
  if (p->pidfd < 0 && (timeout_ms < 0 || timeout_ms > LOOK_MS)) timeout_ms = LOOK_MS;
  (void)poll(fds, 2, timeout_ms);
}

/* Something is pending that was not meant for the command alone. Returns how long to wait before the next look. */
static int pass_on(struct program *p, int reason) {
  if (interrupt_is_urgent() && !p->is_killed) {
    p->is_killed = 1;
    process_end_child(p->pid, 0);
  } else if (p->passed_on != reason) {
    p->passed_on = reason;
    process_signal_family(p->pid, reason);
  }
  return WATCH_MS;
}

/* 1: it has ended, and *status tells how; 0: not yet; -1: errno tells why nobody can tell. */
static int has_ended(const struct program *p, int *status) {
  pid_t pid;
  do pid = waitpid(p->pid, status, WNOHANG);
  while (pid < 0 && errno == EINTR);
  return pid < 0 ? -1 : pid == p->pid;
}

static int wait_for(struct program *p, int (*may_listen)(void)) {
  int status = 0, ended, timeout_ms = -1, is_noticed = 0;
  while ((ended = has_ended(p, &status)) == 0) {
    int listens = may_listen(), reason = listens ? interrupt_pending() : 0;
    if (reason && !is_noticed) {
      is_noticed = 1;
      timeout_ms = NOTICE_MS;
    } else if (reason) {
      timeout_ms = pass_on(p, reason);
    }
    rest(p, listens && !reason, timeout_ms);
  }
  return ended < 0 ? -1 : status;
}

int program_run(const char *command, int (*may_listen)(void)) {
  struct program p = {0, -1, 0, 0};
  int resets_quit = interrupt_lend_terminal(1), status, saved;
  int error = start(&p, command, resets_quit);
  if (error) {
    status = error == EAGAIN || error == ENOMEM ? -1 : 127 << 8;
    saved = status == -1 ? error : 0;
  } else {
    p.pidfd = os_pidfd_open(p.pid);
    interrupt_set_program(p.pid);
    status = wait_for(&p, may_listen);
    saved = status == -1 ? errno : 0; /* what is not 0 is told instead of the status (luaL_execresult) */
    interrupt_set_program(0);
    os_close(&p.pidfd);
  }
  interrupt_lend_terminal(0);
  errno = saved;
  return status;
}
