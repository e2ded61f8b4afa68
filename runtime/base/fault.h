/*
 * base/fault -- named places where a test can make something happen at the worst moment.
 *
 * Room: base.  Compiled in only with LUAPOOL_FAULTS (the FAULT_POINT macro is nothing otherwise).
 * LUAPOOL_FAULT="point[#n][@worker]:action[,...]": at the n-th passage (default the first; 0: every one) of `point`, counted in each process
 * (only in worker number `worker` when given), do `action`: stop (raise SIGSTOP), kill, segv, abort, exit, int (SIGINT to itself), term,
 * sleep=MILLISECONDS, host-int, host-term, host-kill (the signal goes to the parent process).
 * Points: before_fork after_fork_parent child_start child_ready dispatch_before dispatch_mid worker_idle worker_claimed
 * worker_run worker_result_before worker_result_mid worker_result_after gather_mid gather_stored term_begin
 * term_after_sigterm term_reap close_begin gc.
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
#define FAULT_POINT(point) fault_point(point)
#else
#define FAULT_POINT(point) ((void)0)
#define fault_set_worker(worker) ((void)(worker))
#define fault_fails(name) 0
#endif

#endif
