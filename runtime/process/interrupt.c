/*
 * process/interrupt -- the signals of the process: dispositions, the sticky flag, escalation, the end by a signal.
 *
 * Room: process.  Owns: the dispositions it changed, one bell, one timer; all of it process-wide, as signals are.
 * Invariants: `interrupt_flag` is set by handlers and interrupt_request and cleared by interrupt_take alone; hooks and the bell are only
 * wake-ups. Handlers touch atomics and async-signal-safe calls, nothing else. Our handlers block each other (handled_mask).
 */
#include "process/interrupt.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "base/os.h"

#define KEY_REPEAT_NS INT64_C(200000000) /* two signals closer than this are one key held down */
#define CLEANUP_SECONDS 5                /* what a script that catches SIGTERM or SIGHUP has left */

#if defined(_POSIX_TIMERS) && _POSIX_TIMERS > 0
#define HAS_TIMERS 1
#endif

enum { NOT_OURS, OURS, OURS_WAS_IGNORED };

struct caught {
  int signo;
  int is_ours; /* NOT_OURS, OURS, OURS_WAS_IGNORED */
};

_Atomic int interrupt_flag; /* the truth: the undelivered reason, or 0 */

static struct {
  _Atomic int level;            /* escalation: 0 nothing undelivered, 1 one signal, 2 urgent */
  _Atomic int64_t last_ns;      /* when the last signal that counted came */
  _Atomic int last_signo;       /* and which it was */
  _Atomic int ending;           /* > 0: a pool or the program is being ended */
  _Atomic int obeying;          /* > 0: what a delivered signal interrupted is being cancelled */
  _Atomic unsigned received;    /* signals that our handler accepted */
  _Atomic int external;         /* worker: a signal that was not the host's */
  _Atomic int has_owner;        /* `owner` is valid */
  pthread_t owner;              /* the thread that runs Lua inside a scope; written while has_owner is 0 */
  void (*_Atomic arm)(void);
  int (*_Atomic accept)(int);   /* worker: is a request of the host meant for what runs now? */
  void (*_Atomic continued)(void); /* worker: told of SIGCONT */
  struct os_bell bell;
  struct caught caught[3];
  int is_catching;
  int is_deaf;                  /* SIGINT was ignored at start: the terminal's is not for us */
  int terminal;                 /* descriptor whose mode was saved, or -1 */
  pid_t terminal_saver;
  struct termios terminal_mode;
#ifdef HAS_TIMERS
  timer_t deadline;
#endif
  int has_deadline;
  _Atomic int deadline_signo;
  _Atomic uint32_t *command;    /* worker: what the host asks for; NULL in a host */
  int is_settled;               /* see interrupt_settle */
  int is_term_ignored;          /* worker: a SIGTERM that is not the host's is ignored, as it was in the host */
  int lifeline;
  pid_t host;                   /* worker: its parent; */
  pid_t sender;                 /* and whose requests it obeys */
  _Atomic int is_lent;          /* a program that is waited for has the terminal */
  _Atomic int program;          /* its pid, or 0 */
  struct sigaction quit;        /* SIGQUIT's disposition, while it is lent */
} state = {
  .bell = {-1, -1},
  .caught = {{SIGINT, NOT_OURS}, {SIGTERM, NOT_OURS}, {SIGHUP, NOT_OURS}},
  .terminal = -1,
  .lifeline = -1,
};

/* ---- the terminal ------------------------------------------------------------------------------------------- */

static void save_terminal(void) {
  static const int candidates[] = {STDIN_FILENO, STDERR_FILENO};
  if (state.terminal >= 0) return;
  for (size_t i = 0; i < sizeof candidates / sizeof *candidates; i++) {
    if (tcgetattr(candidates[i], &state.terminal_mode) < 0) continue;
    state.terminal = candidates[i];
    state.terminal_saver = getpid();
    return;
  }
}

/* Async-signal-safe. A background process that set the mode would be stopped by SIGTTOU; a child must not touch it at all. */
static void restore_terminal(void) {
  if (state.terminal < 0 || state.terminal_saver != getpid()) return;
  if (tcgetpgrp(state.terminal) != getpgrp()) return;
  tcsetattr(state.terminal, TCSANOW, &state.terminal_mode);
}

/* ---- death by a signal -------------------------------------------------------------------------------------- */

/* Async-signal-safe. raise() targets this thread, so the unblocking delivers it before the next statement. */
static _Noreturn void die_by(int signo) {
  struct sigaction default_action;
  sigset_t only;
  restore_terminal();
  memset(&default_action, 0, sizeof default_action);
  default_action.sa_handler = SIG_DFL;
  sigaction(signo, &default_action, NULL);
  sigemptyset(&only);
  sigaddset(&only, signo);
  raise(signo);
  pthread_sigmask(SIG_UNBLOCK, &only, NULL);
  _exit(128 + signo); /* process 1 of a container survives its own default signal */
}

static void kill_program(void);

/* The same from a handler, while a program may be running that the script waits for. */
static _Noreturn void die_now(int signo) {
  kill_program();
  die_by(signo);
}

_Noreturn void interrupt_die(int signo) {
  fflush(stdout);
  die_by(signo);
}

/* ---- the flag ----------------------------------------------------------------------------------------------- */

/* Of two undelivered reasons the stronger one is delivered. */
static int strength(int reason) {
  switch (reason) {
    case 0: return 0;
    case SIGINT: return 1;
    case INTERRUPT_CANCEL: return 2;
    case INTERRUPT_TIMEOUT: return 3;
    case SIGHUP: return 4;
    case SIGTERM: return 5;
    case INTERRUPT_QUIT: return 6;
    default: return 1;
  }
}

static void set_pending(int reason) {
  int current = atomic_load(&interrupt_flag);
  while (strength(reason) > strength(current) && !atomic_compare_exchange_weak(&interrupt_flag, &current, reason)) continue;
  os_bell_ring(&state.bell);
}

static int is_owner(void) {
  return atomic_load(&state.has_owner) && pthread_equal(pthread_self(), state.owner);
}

static void arm_hooks(void) {
  void (*arm)(void) = atomic_load(&state.arm);
  if (arm && is_owner()) arm();
}

/*
 * Undelivered signals escalate, delivered ones never: the second makes everything urgent, the third ends the process here and now.
 * Signals that follow at the pace of a key held down are one; returns 0 for such a one when the first was delivered and is being obeyed.
 */
static int escalate(int signo) {
  int64_t now = os_now_ns();
  int is_first = !atomic_load(&interrupt_flag) && !atomic_load(&state.ending);
  if (is_first) {
    atomic_store(&state.level, 1);
  } else if (now - atomic_load(&state.last_ns) < KEY_REPEAT_NS) {
    return !(atomic_load(&state.obeying) && signo == atomic_load(&state.last_signo));
  } else {
    int level = atomic_load(&state.level) + 1;
    if (level < 2) level = 2; /* the first signal while something is being ended */
    if (level > 2) die_now(signo);
    atomic_store(&state.level, level);
  }
  atomic_store(&state.last_ns, now);
  atomic_store(&state.last_signo, signo);
  return 1;
}

/* SIGTERM and SIGHUP end the process in any case: from the first one on the time runs. */
static void start_deadline(int signo) {
  int none = 0;
  if (signo == SIGINT || !state.has_deadline) return;
  if (!atomic_compare_exchange_strong(&state.deadline_signo, &none, signo)) return;
#ifdef HAS_TIMERS
  struct itimerspec when = {{0, 0}, {CLEANUP_SECONDS, 0}};
  timer_settime(state.deadline, 0, &when, NULL);
#endif
}

static void receive(int signo) {
  atomic_fetch_add(&state.received, 1);
  if (!escalate(signo)) return;
  start_deadline(signo);
  set_pending(signo);
  arm_hooks();
}

void interrupt_request(int signo) {
  int saved = errno;
  int is_elsewhere = atomic_load(&state.has_owner) && !is_owner();
  for (size_t i = 0; is_elsewhere && i < 3; i++) {
    /* Hooks may be set by the thread that runs Lua alone; with a handler in place it can be made to do so. */
    if (state.caught[i].signo == signo && state.caught[i].is_ours != NOT_OURS && !pthread_kill(state.owner, signo)) {
      errno = saved;
      return;
    }
  }
  receive(signo);
  errno = saved;
}

void interrupt_post(void) {
  int saved = errno;
  int is_first = !atomic_load(&interrupt_flag) && !atomic_load(&state.ending);
  atomic_store(&state.level, is_first ? 1 : 2);
  set_pending(SIGINT);
  arm_hooks();
  errno = saved;
}

unsigned interrupt_received(void) {
  return atomic_load(&state.received);
}

int interrupt_take(void) {
  int reason = atomic_exchange(&interrupt_flag, 0);
  if (!atomic_load(&state.ending)) atomic_store(&state.level, 0);
  os_bell_drain(&state.bell);
  /* A signal since the exchange may have lost its ring to the drain. */
  if (atomic_load(&interrupt_flag)) os_bell_ring(&state.bell);
  return reason;
}

int interrupt_fd(void) {
  return state.bell.read_fd;
}

void interrupt_set_arm(void (*arm)(void)) {
  atomic_store(&state.arm, arm);
}

void interrupt_own(int is_running) {
  if (is_running ? is_owner() : !is_owner()) return;
  atomic_store(&state.has_owner, 0);
  if (!is_running) return;
  state.owner = pthread_self();
  atomic_store(&state.has_owner, 1);
}

void interrupt_ending(int change) {
  int ending = atomic_fetch_add(&state.ending, change) + change;
  if (ending <= 0 && !atomic_load(&interrupt_flag)) atomic_store(&state.level, 0);
}

void interrupt_obeying(int change) {
  atomic_fetch_add(&state.obeying, change);
}

int interrupt_is_urgent(void) {
  return atomic_load(&state.level) >= 2;
}

/* ---- catching ----------------------------------------------------------------------------------------------- */

/* A handler may run on any thread; hooks are safe on the owner's alone. Returns 1 if the owner will handle it. */
static int forward_to_owner(int signo) {
  if (!atomic_load(&state.has_owner) || is_owner()) return 0;
  return pthread_kill(state.owner, signo) == 0;
}

/* The terminal's Ctrl-C, and not somebody's kill. (Elsewhere than on Linux: untested.) */
static int is_from_terminal(int signo, const siginfo_t *info) {
#ifdef __linux__
  return signo == SIGINT && info->si_code == SI_KERNEL;
#else
  return signo == SIGINT && info->si_pid == 0;
#endif
}

static void on_signal(int signo, siginfo_t *info, void *context) {
  int saved = errno;
  (void)context;
#ifdef HAS_TIMERS
  if (info->si_code == SI_TIMER && info->si_value.sival_ptr == &state) die_now(atomic_load(&state.deadline_signo));
#endif
  int is_for_others = is_from_terminal(signo, info) && (state.is_deaf || atomic_load(&state.is_lent));
  if (!is_for_others && !forward_to_owner(signo)) receive(signo);
  errno = saved;
}

static void handled_mask(sigset_t *mask) {
  sigemptyset(mask);
  for (size_t i = 0; i < 3; i++) sigaddset(mask, state.caught[i].signo);
  sigaddset(mask, SIGIO);
  sigaddset(mask, SIGCONT);
}

static int catch_one(struct caught *c) {
  struct sigaction action, old;
  if (sigaction(c->signo, NULL, &old) < 0) return -errno;
  int is_default = !(old.sa_flags & SA_SIGINFO) && old.sa_handler == SIG_DFL;
  int is_ignored = !(old.sa_flags & SA_SIGINFO) && old.sa_handler == SIG_IGN;
  if (!is_default && !(is_ignored && c->signo == SIGINT)) return 0;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
  handled_mask(&action.sa_mask);
  if (is_ignored) state.is_deaf = 1;
  c->is_ours = is_ignored ? OURS_WAS_IGNORED : OURS;
  if (sigaction(c->signo, &action, NULL) == 0) return 0;
  c->is_ours = NOT_OURS;
  return -errno;
}

/* The timer's signal is one that we handle; its value tells it from a real one. Without a timer there is no deadline. */
static void create_deadline(void) {
#ifdef HAS_TIMERS
  struct sigevent event;
  if (state.has_deadline) return;
  memset(&event, 0, sizeof event);
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_value.sival_ptr = &state;
  event.sigev_signo = state.caught[1].is_ours ? SIGTERM : SIGHUP;
  if (!state.caught[1].is_ours && !state.caught[2].is_ours) return;
  state.has_deadline = timer_create(CLOCK_MONOTONIC, &event, &state.deadline) == 0;
#endif
}

int interrupt_open(void) {
  return state.bell.read_fd >= 0 ? 0 : os_bell_open(&state.bell);
}

int interrupt_catch(void) {
  int status = interrupt_open();
  if (status < 0 || state.is_catching) return status;
  save_terminal();
  for (size_t i = 0; i < 3 && status == 0; i++) status = catch_one(&state.caught[i]);
  state.is_catching = 1;
  if (status < 0) interrupt_release();
  else create_deadline();
  return status;
}

void interrupt_release(void) {
  for (size_t i = 0; i < 3; i++) {
    struct caught *c = &state.caught[i];
    struct sigaction action;
    if (c->is_ours == NOT_OURS || sigaction(c->signo, NULL, &action) < 0) continue;
    if ((action.sa_flags & SA_SIGINFO) && action.sa_sigaction == on_signal) {
      memset(&action, 0, sizeof action);
      action.sa_handler = c->is_ours == OURS_WAS_IGNORED ? SIG_IGN : SIG_DFL;
      sigaction(c->signo, &action, NULL);
    }
    c->is_ours = NOT_OURS;
  }
#ifdef HAS_TIMERS
  if (state.has_deadline) timer_delete(state.deadline);
#endif
  state.has_deadline = 0;
  state.is_catching = 0;
}

int interrupt_catches_terminal(void) {
  return state.caught[0].is_ours == OURS;
}

/* Exec turns a handler into SIG_DFL but keeps SIG_IGN: what was ignored when we started must be so for the programs we start. */
void interrupt_starting_program(int is_starting) {
  struct sigaction action;
  if (state.caught[0].is_ours != OURS_WAS_IGNORED) return;
  memset(&action, 0, sizeof action);
  if (is_starting) {
    action.sa_handler = SIG_IGN;
  } else {
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
    handled_mask(&action.sa_mask);
  }
  sigaction(SIGINT, &action, NULL);
}

int interrupt_lend_terminal(int is_running) {
  struct sigaction ignore;
  if (!is_running) {
    sigaction(SIGQUIT, &state.quit, NULL);
    atomic_store(&state.is_lent, 0);
    return 0;
  }
  memset(&ignore, 0, sizeof ignore);
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGQUIT, &ignore, &state.quit);
  atomic_store(&state.is_lent, 1);
  return (state.quit.sa_flags & SA_SIGINFO) || state.quit.sa_handler != SIG_IGN;
}

void interrupt_set_program(int pid) {
  atomic_store(&state.program, pid);
}

/* ---- in a worker -------------------------------------------------------------------------------------------- */

enum { MAX_DESCENDANTS = 1024 };

struct family {
  pid_t pids[MAX_DESCENDANTS];
  int count;
};

static void collect_children(struct family *family, pid_t pid) {
  family->count += os_children(pid, family->pids + family->count, MAX_DESCENDANTS - family->count);
}

/*
 * Children first found are searched for their own; then all die, the youngest generation first: if we are killed in the middle, who is left
 * still has the parents by which the host finds him. Static: a handler's stack is small, and we die right after.
 */
static void kill_descendants_of(pid_t pid) {
  static struct family family;
  if (!os_sees_processes()) return; /* by numbers of another namespace we would kill others */
  family.count = 0;
  collect_children(&family, pid);
  for (int i = 0; i < family.count; i++) {
    kill(family.pids[i], SIGSTOP); /* no new children while we look */
    collect_children(&family, family.pids[i]);
  }
  for (int i = family.count; i-- > 0;) kill(family.pids[i], SIGKILL);
}

void interrupt_kill_descendants(void) {
  kill_descendants_of(getpid());
}

/* We die at once: the program that we wait for goes, too. */
static void kill_program(void) {
  pid_t pid = atomic_load(&state.program);
  if (pid == 0) return;
  kill(pid, SIGSTOP);
  kill_descendants_of(pid);
  kill(pid, SIGKILL);
}

static void leave_if_host_is_gone(void) {
  struct pollfd line = {state.lifeline, POLLIN, 0};
  char byte;
  pid_t parent = getppid(); /* 0: the host is outside this process's pid namespace; then the lifeline alone can tell */
  int is_gone = parent != state.host && parent != 0;
  if (!is_gone && state.lifeline >= 0 && poll(&line, 1, 0) == 1)
    is_gone = (line.revents & (POLLHUP | POLLERR)) || recv(state.lifeline, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
  if (!is_gone) return;
  interrupt_kill_descendants();
  _exit(1);
}

static void on_lifeline(int signo) {
  int saved = errno;
  void (*continued)(void) = atomic_load(&state.continued);
  leave_if_host_is_gone();
  if (signo == SIGCONT && continued) continued();
  errno = saved;
}

/* Not SIG_IGN, which the programs that a task executes would inherit: they must die of the terminal's Ctrl-C. */
static void on_nothing(int signo) {
  (void)signo;
}

static void on_worker_signal(int signo, siginfo_t *info, void *context) {
  int saved = errno;
  (void)context;
  if (!forward_to_owner(signo)) {
    int (*accept)(int) = atomic_load(&state.accept);
    int reason = signo == SIGTERM ? (int)atomic_exchange(state.command, 0) : 0;
    /* Two requests of the host in quick succession: the first signal took the second's reason, and this one has none left. */
    int is_from_host = signo == SIGTERM && info != NULL && info->si_pid == state.sender;
    int is_external = reason == 0 && !is_from_host && !(signo == SIGTERM && state.is_term_ignored);
    if (is_external) atomic_store(&state.external, reason = signo);
    if (reason != 0 && !is_external && accept && !accept(reason)) reason = 0;
    if (reason != 0) {
      set_pending(reason);
      arm_hooks();
    }
  }
  errno = saved;
}

/* What interrupt_learn saw, for the children that this thread forks until interrupt_unlearn: the child has that thread's copy. */
static _Thread_local struct {
  int is_known;
  sigset_t ignored, handled;
} learned;

static int is_handled_here(int signo, int *is_ignored_here) {
  struct sigaction action;
  *is_ignored_here = 0;
  if (signo == SIGKILL || signo == SIGSTOP || sigaction(signo, NULL, &action) < 0) return 0;
  if (action.sa_flags & SA_SIGINFO) return 1;
  *is_ignored_here = action.sa_handler == SIG_IGN;
  return action.sa_handler != SIG_IGN && action.sa_handler != SIG_DFL;
}

void interrupt_learn(void) {
  int signo, ignores;
  sigemptyset(&learned.ignored);
  sigemptyset(&learned.handled);
  for (signo = 1; signo < NSIG; signo++) {
    if (is_handled_here(signo, &ignores)) sigaddset(&learned.handled, signo);
    if (ignores) sigaddset(&learned.ignored, signo);
  }
  learned.is_known = 1;
}

void interrupt_unlearn(void) {
  learned.is_known = 0;
}

static int is_ignored(int signo) {
  struct sigaction action;
  if (learned.is_known) return sigismember(&learned.ignored, signo) == 1;
  return sigaction(signo, NULL, &action) == 0 && !(action.sa_flags & SA_SIGINFO) && action.sa_handler == SIG_IGN;
}

static void handle(int signo, void (*handler)(int)) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  if (handler != SIG_DFL && handler != SIG_IGN) handled_mask(&action.sa_mask);
  sigaction(signo, &action, NULL);
}

static void handle_with_info(int signo, void (*handler)(int, siginfo_t *, void *)) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = handler;
  action.sa_flags = SA_RESTART | SA_SIGINFO;
  handled_mask(&action.sa_mask);
  sigaction(signo, &action, NULL);
}

static void reset_other_signals(void) {
  for (int signo = 1; signo < NSIG; signo++) {
    struct sigaction action;
    if (signo == SIGKILL || signo == SIGSTOP || sigaction(signo, NULL, &action) < 0) continue;
    if (!(action.sa_flags & SA_SIGINFO) && (action.sa_handler == SIG_IGN || action.sa_handler == SIG_DFL)) continue;
    if (!(action.sa_flags & SA_SIGINFO) && action.sa_handler == on_nothing) continue; /* a helper's: workers replace it */
    handle(signo, SIG_DFL);
  }
}

/* The same in a worker whose host knew which there are: these are few, and some of them the worker is about to replace. */
static void reset_learned_signals(void) {
  for (int signo = 1; signo < NSIG; signo++) {
    if (sigismember(&learned.handled, signo) != 1) continue;
    if (signo != SIGINT && signo != SIGTERM && signo != SIGHUP && signo != SIGIO && signo != SIGCONT) handle(signo, SIG_DFL);
  }
}

/* What a forked copy of a host has of it: its bell, its handlers, what it was told. */
static void forget_host(void) {
  stack_t no_stack;
  os_bell_close(&state.bell);
  atomic_store(&interrupt_flag, 0);
  atomic_store(&state.level, 0);
  atomic_store(&state.ending, 0);
  atomic_store(&state.obeying, 0);
  atomic_store(&state.external, 0);
  atomic_store(&state.has_owner, 0);
  state.has_deadline = 0; /* timers do not survive a fork */
  state.terminal = -1;
  memset(&no_stack, 0, sizeof no_stack);
  no_stack.ss_flags = SS_DISABLE;
  sigaltstack(&no_stack, NULL);
}

void interrupt_become_worker(_Atomic uint32_t *command, int lifeline, int host) {
  int is_int_ignored = state.is_deaf || is_ignored(SIGINT);
  state.is_term_ignored = is_ignored(SIGTERM);
  forget_host();
  os_bell_open(&state.bell); /* without one, interrupt_fd is -1: waits then notice at their next wake-up */
  state.command = command;
  state.lifeline = lifeline;
  state.host = state.sender = host;
  if (learned.is_known) reset_learned_signals();
  else if (!state.is_settled) reset_other_signals();
  state.is_settled = 0;
  handle(SIGINT, is_int_ignored ? SIG_IGN : on_nothing);
  for (size_t i = 0; i < 3; i++) state.caught[i].is_ours = NOT_OURS;
  handle_with_info(SIGTERM, on_worker_signal); /* the host speaks through it, so it cannot stay ignored */
  if (!is_ignored(SIGHUP)) handle_with_info(SIGHUP, on_worker_signal);
  handle(SIGIO, on_lifeline);
  handle(SIGCONT, on_lifeline); /* the lifeline's signal where it can be chosen: it wakes a stopped process */
  leave_if_host_is_gone(); /* it may have gone before the handler was there */
}

/* ---- in a worker that crashes --------------------------------------------------------------------------------- */

enum { CRASH_STACK_BYTES = 64 * 1024 };

static struct {
  void (*describe)(void);
  pthread_t thread;
  pid_t pid;
  volatile sig_atomic_t is_describing;
  sigjmp_buf out;
} crash;

/* Of another thread, or a copy of the worker that a task has made, there is nothing to say. */
static void on_crash(int signo) {
  if (pthread_equal(pthread_self(), crash.thread) && getpid() == crash.pid) {
    if (crash.is_describing) siglongjmp(crash.out, 1);
    crash.is_describing = 1;
    if (sigsetjmp(crash.out, 0) == 0) crash.describe();
  }
  die_by(signo);
}

void interrupt_set_crash(void (*describe)(void)) {
  static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
  static _Alignas(64) unsigned char memory[CRASH_STACK_BYTES];
  stack_t stack = {.ss_sp = memory, .ss_size = sizeof memory};
  struct sigaction action;
  crash.describe = describe;
  crash.thread = pthread_self();
  crash.pid = getpid();
  crash.is_describing = 0;
  if (sigaltstack(&stack, NULL) < 0) return; /* a stack that has overflown cannot carry a handler: the signal alone says so */
  memset(&action, 0, sizeof action);
  action.sa_handler = on_crash;
  action.sa_flags = SA_ONSTACK | SA_NODEFER;
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
    if (!is_ignored(signals[i])) sigaction(signals[i], &action, NULL);
  interrupt_unlearn(); /* from here on tasks may do as they like */
}

int interrupt_has_fd(int fd) {
  return fd >= 0 && (fd == state.bell.read_fd || fd == state.bell.write_fd);
}

void interrupt_set_sender(int host) {
  state.sender = host;
}

void interrupt_become_helper(void) {
  for (size_t i = 0; i < 3; i++)
    if (!is_ignored(state.caught[i].signo)) handle(state.caught[i].signo, on_nothing);
}

void interrupt_fork_helper(void) {
  int is_int_ignored = state.is_deaf || is_ignored(SIGINT);
  forget_host();
  reset_other_signals();
  if (is_int_ignored) handle(SIGINT, SIG_IGN);
  handle(SIGCHLD, SIG_DFL); /* it is to know how its workers end, whether or not the host did */
  for (size_t i = 0; i < 3; i++) state.caught[i].is_ours = NOT_OURS;
  interrupt_become_helper();
}

void interrupt_settle(void) {
  reset_other_signals();
  state.is_settled = 1;
}

void interrupt_set_filter(int (*accept)(int reason)) {
  atomic_store(&state.accept, accept);
}

void interrupt_set_continued(void (*note)(void)) {
  atomic_store(&state.continued, note);
}

int interrupt_external(void) {
  return atomic_load(&state.external);
}
