/*
 * process/interrupt -- the only sigaction below command/, and the one sticky flag that is the truth about interrupts.
 *
 * Room: process.  Owns: the dispositions it changed, one wake-up bell.  Process-wide by nature (signals are); one Lua
 * thread at a time is its owner.
 * The handler only: sets the flag, rings the bell, calls the arm function (which sets hooks), and on escalation restores the
 * terminal and dies.
 * The flag is set by handlers and interrupt_request, and cleared only by interrupt_take. Signals: only what says so is async-signal-safe.
 */
#ifndef LUAPOOL_PROCESS_INTERRUPT_H
#define LUAPOOL_PROCESS_INTERRUPT_H

#include <stdatomic.h>
#include <stdint.h>

/* Reasons beyond signal numbers, which only workers see (written by the host into the worker's command word, followed by SIGTERM). */
enum interrupt_reason {
  INTERRUPT_CANCEL = 200,  /* the call was cancelled: raise in the running task; the worker lives on */
  INTERRUPT_TIMEOUT = 201, /* the item's time is over: raise in the running task; the worker lives on */
  INTERRUPT_QUIT = 202     /* the pool ends: raise in the running task; the worker leaves afterwards */
};

/*
 * interrupt_catch -- catch SIGINT, SIGTERM and SIGHUP for the whole process (the command, or pool.catch_interrupts()).
 * Only where the disposition is SIG_DFL; an ignored SIGINT stays deaf to the terminal but honours an explicit kill (SPEC 3.8:
 * siginfo's si_code tells them apart); ignored SIGTERM and SIGHUP stay ignored. SA_RESTART | SA_ONSTACK.
 * Returns 0 or -errno; twice is once.
 */
int interrupt_catch(void);

/*
 * interrupt_own -- the calling thread runs Lua inside a run scope from now on (1) or no longer (0; nothing if another thread
 * has taken over).
 * Handlers that find themselves on another thread pass the signal on to it, because hooks are safe on that thread alone.
 */
void interrupt_own(int is_running);

/* interrupt_release -- put back the dispositions, where they are still ours. Idempotent. */
void interrupt_release(void);

/*
 * interrupt_request -- as if signal `signo` had come. Async-signal-safe, any thread. From a thread that is not the owner hooks are armed
 * only if signals are caught (the signal is passed on); otherwise Lua code notices at its next safe point.
 */
void interrupt_request(int signo);

/*
 * interrupt_post -- as interrupt_request(SIGINT), for programs that handle their signals themselves: it never ends the process. The second
 * while one is undelivered shortens all grace. Async-signal-safe, any thread.
 */
void interrupt_post(void);

/* The flag. Read it with interrupt_pending; nobody else but interrupt.c writes it. */
extern _Atomic int interrupt_flag;

/* interrupt_pending -- the undelivered reason (a signal number or enum interrupt_reason), or 0. Async-signal-safe, one load. */
static inline int interrupt_pending(void) {
  return atomic_load_explicit(&interrupt_flag, memory_order_acquire);
}

/*
 * interrupt_take -- clear the flag, drain the bell, and return the reason (0: there was none). Only the place that delivers calls it: the
 * one that raises, and the command where it reports an interrupt that nothing raised (at the prompt).
 */
int interrupt_take(void);

/* interrupt_fd -- becomes readable when something is pending; -1 before interrupt_catch or interrupt_open. Put it into every poll set. */
int interrupt_fd(void);

/* interrupt_open -- make the bell without catching any signal (the library: interrupt_request is all that sets the flag). 0 or -errno. */
int interrupt_open(void);

/* interrupt_set_arm -- what the handler calls to arm hooks on running Lua threads; async-signal-safe; NULL: nothing. */
void interrupt_set_arm(void (*arm)(void));

/*
 * interrupt_ending -- the pool (or the program) is being ended now (+1) or no longer (-1): a further signal shortens all grace.
 * interrupt_is_urgent -- 1 once a second signal (at least 200 ms after the first) came while one was undelivered or an end was under way.
 * A third ends the process in the handler: terminal restored, SIG_DFL, death by the signal (workers follow: their lifeline breaks).
 * SIGTERM and SIGHUP end the process 5 s after the first of them in any case, by that signal.
 */
void interrupt_ending(int change);

/*
 * interrupt_obeying -- what a signal interrupted is being cancelled from now on (+1), or no longer (-1): the same signal at the
 * pace of a key held
 * down is part of it, and no second error.
 */
void interrupt_obeying(int change);
int interrupt_is_urgent(void);

/* interrupt_received -- how many signals were accepted so far (to tell whether one of two reports of the same Ctrl-C is old). */
unsigned interrupt_received(void);

/* interrupt_catches_terminal -- 1 if the terminal's Ctrl-C is an interrupt here (caught, not ignored at start, not a worker). */
int interrupt_catches_terminal(void);

/*
 * interrupt_starting_program -- call with 1 before and 0 after starting another program: if SIGINT was ignored at our own start,
 * it is SIG_IGN between, so that the program inherits that. Not for threads that race each other here.
 */
void interrupt_starting_program(int is_starting);

/*
 * interrupt_lend_terminal -- 1 before, 0 after a program runs that the caller waits for: the terminal's SIGINT and SIGQUIT, which it gets
 * as well, are its own then, as with system(): what becomes of them, its end tells. Other SIGINTs are interrupts as ever.
 * Returns 1 if the program must be given the default disposition of SIGQUIT. Not for threads that race each other here.
 * interrupt_set_program -- the pid of that program, 0: it is reaped. It is killed when a signal ends this process at once.
 */
int interrupt_lend_terminal(int is_running);
void interrupt_set_program(int pid);

/*
 * interrupt_die -- end this process by `signo` so that a shell sees it: flush stdout, restore the terminal, SIG_DFL, unblock, kill;
 * as process 1 of a container, which survives that, _exit(128 + signo).
 */
_Noreturn void interrupt_die(int signo);

/*
 * interrupt_learn -- look at the dispositions of all signals, for the workers that are forked until interrupt_unlearn: none of them need
 * ask for each. Nothing may change one meanwhile.
 */
void interrupt_learn(void);
void interrupt_unlearn(void);

/*
 * interrupt_become_worker -- in a forked child, with all signals blocked: pending and urgency cleared, a bell of its own,
 * SIGINT to a no-op handler
 * (SIG_IGN if it was ignored when the host started), SIGTERM and SIGHUP to the worker's handler, everything else to SIG_DFL unless ignored,
 * no alternate stack. The worker's handler on SIGTERM: *command != 0 is the reason from the host (consumed by exchange with 0);
 * 0: somebody else sent it: reason SIGTERM (interrupt the task, then die of it: see interrupt_external).
 * SIGIO, SIGCONT: if the host is gone (lifeline at end of file, or another parent), SIGKILL all descendants and _exit.
 *   lifeline   the child's end, set to send one of them;  host  pid of the host
 */
void interrupt_become_worker(_Atomic uint32_t *command, int lifeline, int host);

/* interrupt_has_fd -- 1 if the descriptor is the bell's. */
int interrupt_has_fd(int fd);

/*
 * interrupt_set_sender -- in a worker whose parent is not its host: `host` is the process whose SIGTERMs are requests.
 * interrupt_become_helper -- in a program that only starts workers: what a terminal or somebody else sends to the whole group is not for it
 * (SIGINT, SIGTERM and SIGHUP do nothing, unless they are ignored).
 * interrupt_fork_helper -- the same in a forked copy of a host, with all signals blocked: first its handlers, flags and bell are forgotten.
 * interrupt_settle -- in either: signals that it does not handle are as workers shall have them, and nobody will change them: those who
 * become workers after it need not look at each.
 */
void interrupt_set_sender(int host);
void interrupt_become_helper(void);
void interrupt_fork_helper(void);
void interrupt_settle(void);

/*
 * interrupt_set_filter -- in a worker: asked in the handler whether a request of the host is meant for what runs right now (it
 * was sent a moment
 * ago); 0 drops it. Async-signal-safe; NULL: all are.
 */
void interrupt_set_filter(int (*accept)(int reason));

/*
 * interrupt_set_continued -- in a worker: called in the handler of SIGCONT: it was stopped, and goes on. Async-signal-safe; NULL: nothing.
 */
void interrupt_set_continued(void (*note)(void));

/*
 * interrupt_set_crash -- in a worker: when this thread is about to die of SIGSEGV, SIGBUS, SIGFPE, SIGILL or SIGABRT (those that are not
 * ignored), `describe` is called in the handler, on a stack of its own; then the process dies of the signal all the same. It may touch what
 * is damaged: if it dies itself of such a signal, it is given up.
 */
void interrupt_set_crash(void (*describe)(void));

/*
 * interrupt_kill_descendants -- SIGKILL what this process has started, and what that has. For one that leaves right after.
 * Async-signal-safe.
 */
void interrupt_kill_descendants(void);

/* interrupt_external -- in a worker: the signal (SIGTERM, SIGHUP) that somebody other than the host sent to it, or 0. */
int interrupt_external(void);

#endif
