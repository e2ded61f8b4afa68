/*
 * base/fault -- named places where a test can make something happen at the worst moment.
 *
 * Room: base.  Compiled in only with LUAPOOL_FAULTS (FAULT_POINT and fault_fails are nothing otherwise).
 * The environment is read once, when the program (or the module) is loaded; a malformed value aborts there, so that a
 * misspelt rule cannot look like a passed test. Counts are plain memory of each process: a child goes on from its parent's.
 * No function allocates or locks: all may be called from a signal handler, from any thread.
 *
 * LUAPOOL_FAULT="point[#n][@worker]:action[,...]": at the n-th passage (default the first; 0: every one) of `point`, counted in
 * each process (only in worker number `worker` when given), do `action`: stop (raise SIGSTOP), kill, segv, abort, exit (the C
 * function, status 3), int (SIGINT to itself), term, sleep=MILLISECONDS, host-int, host-term, host-kill (the signal goes to the
 * parent process), deaf (all signals are blocked from there on).
 * Points: before_fork after_fork_parent child_start child_ready dispatch_before dispatch_mid worker_idle worker_idle_leaves
 * worker_claimed worker_run program_forked (the child that is to become it) program_started worker_result_before worker_result_mid
 * worker_result_after gather_mid gather_stored term_begin term_after_sigterm term_reap close_begin gc; of a host that has a helper,
 * helper_asked (an order is written), and of the helper: helper_configure helper_ordered helper_forked (not told yet) helper_answered
 * helper_reaped (not told yet); of shared memory: lock_acquired lock_released (not told yet), mailbox_putting mailbox_written mailbox_put
 * mailbox_resize mailbox_taking mailbox_copied
 * mailbox_taken.
 *
 * LUAPOOL_FAIL="name#k:ERRNO[,...]": the k-th call (0: every one) of the os function `name` (see os.h) fails with ERRNO (a name or
 * a number).
 */
#ifndef LUAPOOL_BASE_FAULT_H
#define LUAPOOL_BASE_FAULT_H

#ifdef LUAPOOL_FAULTS
/* fault_point -- act if the environment asks for it here. May raise signals or end the process. */
void fault_point(const char *point);
/* fault_set_worker -- in a worker: its number, for "@worker" (1..); 0 in the host. */
void fault_set_worker(int worker);
/* fault_fails -- does LUAPOOL_FAIL ask that this call of os function `name` fails? Returns 0 or the positive errno. */
int fault_fails(const char *name);
/* fault_reload -- read both variables again and count from zero (a unit test that sets them; no other thread may be inside). */
void fault_reload(void);
#define FAULT_POINT(point) fault_point(point)
#else
#define FAULT_POINT(point) ((void)0)
#define fault_set_worker(worker) ((void)(worker))
#define fault_fails(name) 0
#define fault_reload() ((void)0)
#endif

#endif
