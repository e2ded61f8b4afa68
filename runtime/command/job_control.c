/*
 * command/job_control -- see job_control.h.
 *
 * Room: command.
 */
#include "command/job_control.h"

#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/select.h>
#include <termios.h>
#include <unistd.h>

enum { N_SIGNALS = 3, N_DEADLY = 6 };

static const int deadly[N_DEADLY] = {SIGQUIT, SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};

static const struct { int signo, flag; } signals[N_SIGNALS] = {{SIGTSTP, JOB_STOPS}, {SIGCONT, JOB_CONTINUED}, {SIGWINCH, JOB_RESIZED}};

static struct {
  int is_active;
  sigset_t mask; /* that of the thread before begin */
  struct sigaction actions[N_SIGNALS], deaths[N_DEADLY]; /* as they were */
  pid_t owner;
  int has_terminal;
  struct termios terminal; /* its mode before begin */
  const char *farewell;
} state;

static volatile sig_atomic_t noted[N_SIGNALS];

static void note(int signo) {
  for (int i = 0; i < N_SIGNALS; i++) {
    if (signals[i].signo == signo) noted[i] = 1;
  }
}

/* A SIGTSTP that is ignored (a shell without job control) stays ignored. */
static void handle(int i) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = note;
  sigfillset(&action.sa_mask);
  if (sigaction(signals[i].signo, NULL, &state.actions[i]) < 0) return;
  if (signals[i].signo == SIGTSTP && state.actions[i].sa_handler == SIG_IGN) return;
  sigaction(signals[i].signo, &action, NULL);
}

/*
 * In a handler: the terminal as it was, then the signal as if we had not been here. (A process forked meanwhile has inherited this, but not
 * the terminal.)
 */
static void die(int signo) {
  for (int i = 0; i < N_DEADLY; i++) {
    if (deadly[i] == signo) sigaction(signo, &state.deaths[i], NULL);
  }
  if (state.has_terminal && getpid() == state.owner) {
    tcsetattr(STDIN_FILENO, TCSANOW, &state.terminal);
    (void)!write(STDOUT_FILENO, state.farewell, strlen(state.farewell));
  }
  raise(signo); /* it is blocked until we return */
}

/* Those that are ignored stay ignored. */
static void prepare_for_death(const char *farewell) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = die;
  sigfillset(&action.sa_mask);
  state.owner = getpid();
  state.farewell = farewell;
  state.has_terminal = tcgetattr(STDIN_FILENO, &state.terminal) == 0;
  for (int i = 0; i < N_DEADLY; i++) {
    if (sigaction(deadly[i], NULL, &state.deaths[i]) == 0 && state.deaths[i].sa_handler != SIG_IGN) sigaction(deadly[i], &action, NULL);
  }
}

void job_control_begin(const char *farewell) {
  sigset_t blocked;
  if (state.is_active) return;
  prepare_for_death(farewell);
  sigemptyset(&blocked);
  for (int i = 0; i < N_SIGNALS; i++) sigaddset(&blocked, signals[i].signo);
  pthread_sigmask(SIG_BLOCK, &blocked, &state.mask);
  for (int i = 0; i < N_SIGNALS; i++) {
    noted[i] = 0;
    handle(i);
  }
  state.is_active = 1;
}

void job_control_end(void) {
  if (!state.is_active) return;
  for (int i = 0; i < N_DEADLY; i++) sigaction(deadly[i], &state.deaths[i], NULL);
  for (int i = 0; i < N_SIGNALS; i++) sigaction(signals[i].signo, &state.actions[i], NULL);
  pthread_sigmask(SIG_SETMASK, &state.mask, NULL); /* a Ctrl-Z that waits stops us here, by its default */
  state.is_active = 0;
}

static void watch(int fd, fd_set *set, int *highest) {
  if (fd < 0 || fd >= FD_SETSIZE) return;
  FD_SET(fd, set);
  if (fd > *highest) *highest = fd;
}

int job_control_wait(int bell, const int *others, int n, int64_t timeout_ns) {
  struct timespec timeout = {timeout_ns / 1000000000, timeout_ns % 1000000000};
  fd_set readable;
  int flags = 0, highest = STDIN_FILENO;
  FD_ZERO(&readable);
  FD_SET(STDIN_FILENO, &readable);
  watch(bell, &readable, &highest);
  for (int i = 0; i < n; i++) watch(others[i], &readable, &highest);
  if (pselect(highest + 1, &readable, NULL, NULL, timeout_ns >= 0 ? &timeout : NULL, &state.mask) > 0) {
    if (FD_ISSET(STDIN_FILENO, &readable)) flags |= JOB_INPUT;
    for (int i = 0; i < n; i++) {
      if (others[i] < FD_SETSIZE && FD_ISSET(others[i], &readable)) flags |= JOB_OTHERS;
    }
  }
  for (int i = 0; i < N_SIGNALS; i++) {
    if (!noted[i]) continue;
    noted[i] = 0;
    flags |= signals[i].flag;
  }
  return flags;
}

/* Where nobody could continue it (an orphaned process group) the system does not stop it: then this returns at once. */
void job_control_stop(void) {
  struct sigaction action, ours;
  sigset_t both;
  memset(&action, 0, sizeof action);
  action.sa_handler = SIG_DFL;
  sigemptyset(&both);
  sigaddset(&both, SIGTSTP);
  sigaddset(&both, SIGCONT);
  sigaction(SIGTSTP, &action, &ours);
  raise(SIGTSTP);
  pthread_sigmask(SIG_UNBLOCK, &both, NULL); /* here it stops, and here SIGCONT is noted */
  pthread_sigmask(SIG_BLOCK, &both, NULL);
  sigaction(SIGTSTP, &ours, NULL);
  for (int i = 0; i < N_SIGNALS; i++) {
    if (signals[i].signo == SIGCONT) noted[i] = 0; /* the caller knows */
  }
}
