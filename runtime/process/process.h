/*
 * process/process -- one child process each: start it by fork, ask it, end it, learn why it ended.
 *
 * Room: process (may include process/interrupt.h: the child's signal set-up).  Owns: pid, pidfd, the lifeline.
 * Four files: process.c (start, ask, reap), process_child.c (the child's side of a fork), process_fds.c (which descriptors are the pools',
 * and the lock of all forks), process_tree.c (ending what a child has started).
 * The lifeline is a socket pair on which nothing is ever written: its end of file tells the host that the child is gone, and
 * tells the child (by SIGCONT, also while it runs or is stopped) that the host is gone. No SIGCHLD handler, no waitpid(-1), ever.
 * Fork: everything but process_fork's child side belongs to the process that forked; other processes get -EPERM.
 */
#ifndef LUAPOOL_PROCESS_PROCESS_H
#define LUAPOOL_PROCESS_PROCESS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* How a process ended. */
struct process_end {
  int is_known;        /* 0: somebody else reaped it (status unknown), it is gone all the same */
  int signal;          /* the signal that ended it, or 0 */
  int exit_code;       /* if signal is 0 */
  int dumped_core;
  uint64_t max_rss_bytes;
};

struct process;

/* Who knows how a process ended that is not this one's child: see process/server. */
struct process_witness {
  int fd;                                                     /* readable when it has something to say; -1: it is gone */
  void (*listen)(struct process_witness *w);                  /* take what it has said: sets has_ended and end of processes */
  void (*forget)(struct process_witness *w, struct process *p);
  void (*give_up)(struct process_witness *w);                 /* it says nothing of somebody who is gone for long: it is stopped, or mad */
  int is_shared; /* others read from it, too: that it is not readable says nothing of a process */
};

struct process {
  pid_t pid;    /* 0: none was started, or it has been reaped */
  pid_t owner;  /* the process that forked it, or had it started by a witness */
  int pidfd;    /* -1: the kernel has none */
  int lifeline; /* the host's end; readable (end of file) when the child is gone; -1: closed */
  _Atomic uint32_t *command; /* as in struct process_child */
  struct process_witness *witness; /* NULL: it is a child of the owner */
  int has_ended;           /* with a witness: it is gone, */
  struct process_end end;  /* and so */
  int64_t overdue_since_ns; /* with a witness, which has not said so: since when it is known to be gone; 0: it is not */
};

struct process_child {
  const int *keep;                    /* descriptors of pools (see process_register_fd) that this child needs */
  size_t n_keep;
  _Atomic uint32_t *command;          /* in shared memory: what the host asks of the child when it sends SIGTERM */
  const int *output;                  /* two descriptors (of keep) that become the child's 1 and 2; NULL: it has the host's */
  int is_sealed;                      /* nothing leads to what the host had open but 0 to 2, descriptors of keep, and shared memory */
  int has_lifeline, lifeline;         /* the child's end is this one, made by the host, which is not the process that forks */
  pid_t host;                         /* and that is the host; 0: the process that forks */
};

/* What *command holds from the fork until the child's end follows the host's, or until the host asks something of it. */
#define PROCESS_STARTING UINT32_MAX

/* process_init -- a handle that holds nothing. */
void process_init(struct process *p);

/*
 * process_register_fd / process_forget_fd -- descriptors of pools, of any pool in this process: a new child closes
 * all that are not in its keep list, so that no worker holds the other end of a sibling's socket. Thread-safe.
 * process_socket_pair (as os_socket_pair), process_pipe (as os_pipe) and process_close_fd (as os_close) do both halves under the fork lock:
 * no child that another thread starts at the same time can inherit an end that is not registered yet, or no longer.
 * What a child keeps stays registered there: its own children close it.
 */
int process_register_fd(int fd); /* 0 or -ENOMEM; twice is once */
void process_forget_fd(int fd);
int process_socket_pair(int fds[2]); /* 0 or -errno */
int process_pipe(int fds[2]);        /* 0 or -errno */
void process_close_fd(int *fd);      /* idempotent */

/*
 * process_fds_are_gone -- 1 if what process `owner` had registered was closed in the calling process at its birth (or before), so that
 * the numbers in an inherited copy of owner's handles may mean something else here: forget them, do not close them.
 */
int process_fds_are_gone(pid_t owner);

/*
 * process_fork -- start a child that shares nothing with its siblings.
 * Flushes stdout and stderr (only these), blocks all signals, forks under a process-wide lock, records the child in *p before
 * signals are unblocked. In the child, in this order: dispositions and signal state (interrupt_become_worker), lifeline and
 * parent-death signal, foreign pool descriptors closed, stdin from /dev/null, stdout and stderr to `output`, stdio buffers purged and
 * stdout line-buffered, exit guard (exit() by C code flushes this process's own output and leaves by _exit, no handler of the host runs),
 * oom_score_adj raised, the signal mask explicit (nothing blocked). A child that cannot be set up ends with status 126 at once.
 * Fault points: before_fork, after_fork_parent (before the child is recorded), child_start (first thing), child_ready (before the mask
 * opens).
 * Returns 1 in the host, 0 in the child, -errno (host only; *p unchanged, nothing leaked).
 * The child must never return from the function that called this: it ends by process_exit.
 */
int process_fork(struct process *p, const struct process_child *child);

/*
 * process_begin_forks -- several children are about to be forked one after the other, by this thread, with no other code in between: what
 * is the same for all of them (dispositions of signals, an open /dev/null) is looked up now, and not by each. Cannot fail: what could not
 * be had each child sees to itself. process_end_forks -- that was all. In a child there is nothing to be ended.
 */
void process_begin_forks(void);
void process_end_forks(void);

/*
 * process_fork_helper -- start a copy of this process that serves it (see process/server) until *socket closes, and is no worker: it counts
 * for no level of process_is_child, and has no lifeline. Flushes, blocks and locks as process_fork does. In the child: signals are as
 * interrupt_become_helper says, it is sealed (as process_child says) but for *socket, which it owns; stdin is /dev/null; stdio buffers
 * purged, exit guarded, nothing blocked. In the host *socket is the other end, which p->lifeline is, too.
 * Returns 1 in the host, 0 in the child (which never returns from the function that called this), -errno.
 */
int process_fork_helper(struct process *p, int *socket);

/*
 * process_become -- the calling program, which process_spawn started, becomes such a child itself: as process_fork in the child.
 * The child's lifeline must be given. Ends the process when that cannot be done.
 */
void process_become(const struct process_child *child);

/*
 * process_settle -- the calling process, a helper, runs nobody else's code from now on: signals, standard input and stdio become here what
 * they are in its children, which find them so and leave them.
 */
void process_settle(void);

/*
 * process_spawn -- execute a program (searched in PATH if its name has no slash) with these arguments, the last of them NULL. Its standard
 * input is the other end of p->lifeline, a socket; output and errors are this process's. Signals are as at the start of a program, but that
 * SIGINT, SIGTERM and SIGHUP stay ignored if they are. Nothing of this process is copied: other threads do not matter.
 * 1, or -errno (*p unchanged, nothing leaked).
 */
int process_spawn(struct process *p, const char *path, const char *const *arguments);

/*
 * process_adopt -- *p is a process that a witness started for the calling one. pidfd (-1: none; registered) and lifeline (the host's end)
 * are *p's from now on.
 */
void process_adopt(struct process *p, pid_t pid, int pidfd, int lifeline, _Atomic uint32_t *command, struct process_witness *witness);

/*
 * process_watch_fd -- readable when the process may have ended: for a poll set.
 * process_notice_fd -- the same, should its witness say nothing (a helper that is stopped): for the same poll set; -1: not needed.
 * process_is_noted -- its witness has said that it has: nothing need become readable any more.
 * process_is_overdue -- it is gone, and its witness has not said so: look from time to time (process_reap ends that).
 */
int process_watch_fd(const struct process *p);
int process_notice_fd(const struct process *p);
static inline int process_is_overdue(const struct process *p) {
  return p->overdue_since_ns != 0 && !p->has_ended;
}
static inline int process_is_noted(const struct process *p) {
  return p->has_ended;
}

/* process_lifeline -- in a child: its end of the lifeline, readable when the host is gone; for every poll set. -1 elsewhere. */
int process_lifeline(void);

/* process_exit -- the only way out of a child: flush its own stdout and stderr, then _exit(code). */
_Noreturn void process_exit(int code);

/* process_is_child -- not 0 in a process started by process_fork (and whatever it forks): how deep such forks are nested. */
int process_is_child(void);

/* process_is_mine -- 1 if the calling process is the one that forked p. */
int process_is_mine(const struct process *p);

/* process_signal -- send a signal through the pidfd (else the pid). 0 also when the process is gone already; -errno. */
int process_signal(const struct process *p, int signal);

/*
 * process_kill_partner -- SIGKILL the child of this thread that holds the other end of pipe `fd` as its standard input or output (as
 * popen's does), with all that it has started. The caller reaps it. Returns 1: done; 0: not found, or not on Linux.
 */
int process_kill_partner(int fd);

/*
 * process_end_child -- end a child of this process that is no struct process (a program that a task runs), with all that it has started:
 * SIGTERM to all of them, SIGKILL to those who are still there after grace_ns. The caller reaps it, and has not yet. Blocks that long at
 * most (and twice what process_kill_tree does).
 */
void process_end_child(pid_t pid, int64_t grace_ns);

/*
 * process_signal_family -- send a signal to a child of this process that is no struct process, and to all that it has started; they are
 * stopped for a moment, so that none is missed. Blocks as process_kill_tree does. Where os_sees_processes is 0 the child alone gets it.
 */
void process_signal_family(pid_t pid, int signal);

/*
 * How long one that was sent SIGKILL is waited for. It has to be given a processor to die on, and its memory takes time, on a busy
 * machine many seconds; until then its place, its output and its name are not free, and who forgot it would leave a zombie. Who is not
 * gone by then sits in the kernel for good.
 */
#define PROCESS_DEATH_NS INT64_C(30000000000)

/*
 * process_kill_tree -- stop the child, collect its descendants (as os_children finds them),
 * and SIGKILL them all. Does not reap. 0 also when it is gone already; -errno. Blocks until they have stopped: less than a millisecond as
 * a rule, 2 s at most, for those who get no processor to stop on.
 * Out of reach: what left the tree before (its parent ended, so that it belongs to process 1).
 */
int process_kill_tree(const struct process *p);

/*
 * process_reap -- has it ended? Waits at most timeout_ns (0: just look; negative: for ever), signals notwithstanding.
 * Returns 1: ended, *end filled, descriptors closed, handle as after process_init (an empty handle: at once, nothing known; also when
 * its witness has said nothing of its end for 5 s, and was given up).
 * 0: still running. -errno (-EPERM: not ours), never for ECHILD (that is an end with is_known = 0). Where the system cannot wait (it has no
 * memory) it looks from time to time.
 */
int process_reap(struct process *p, int64_t timeout_ns, struct process_end *end);

/*
 * process_peak_memory -- bytes that this process has had in memory at most.
 * process_own_memory -- bytes that it has there now, without files and shared memory; what a fork has in common with its parent counts.
 * Where the system does not tell (other than Linux): as process_peak_memory.
 */
uint64_t process_peak_memory(void);
uint64_t process_own_memory(void);

/* process_abandon -- close the descriptors, forget the pid (a forked copy of a handle, or a child that cannot die). */
void process_abandon(struct process *p);

#endif
