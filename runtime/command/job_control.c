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
#include <unistd.h>

enum { N_SIGNALS = 3 };

static const struct { int signo, flag; } signals[N_SIGNALS] = {{SIGTSTP, JOB_STOPS}, {SIGCONT, JOB_CONTINUED}, {SIGWINCH, JOB_RESIZED}};

static struct {
  int is_active;
  sigset_t mask; /* that of the thread before begin */
  struct sigaction actions[N_SIGNALS];
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

void job_control_begin(void) {
  sigset_t blocked;
  if (state.is_active) return;
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
  for (int i = 0; i < N_SIGNALS; i++) sigaction(signals[i].signo, &state.actions[i], NULL);
  pthread_sigmask(SIG_SETMASK, &state.mask, NULL); /* a Ctrl-Z that waits stops us here, by its default */
  state.is_active = 0;
}

int job_control_wait(int bell) {
  fd_set readable;
  int flags = 0, highest = STDIN_FILENO;
  FD_ZERO(&readable);
  FD_SET(STDIN_FILENO, &readable);
  if (bell >= 0 && bell < FD_SETSIZE) {
    FD_SET(bell, &readable);
    if (bell > highest) highest = bell;
  }
  if (pselect(highest + 1, &readable, NULL, NULL, NULL, &state.mask) > 0 && FD_ISSET(STDIN_FILENO, &readable)) flags |= JOB_INPUT;
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
