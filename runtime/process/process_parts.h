/*
 * process/process_parts -- what the files of process/process share among themselves.
 *
 * Room: process.  Owns: nothing.
 */
#ifndef LUAPOOL_PROCESS_PROCESS_PARTS_H
#define LUAPOOL_PROCESS_PROCESS_PARTS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct process_child;

enum { SETUP_FAILED_STATUS = 126 };

#define MILLISECOND_NS INT64_C(1000000)
#define LOOK_AGAIN_NS (MILLISECOND_NS / 4) /* where nothing can be waited for, between two looks */

/*
 * process_house_open -- before the lock is used: 0 or -errno.
 * process_house_enter, process_house_leave -- take and release the lock of registry and forks. A fork's child finds it open.
 */
int process_house_open(void);
void process_house_enter(void);
void process_house_leave(void);

/*
 * With that lock held:
 * process_reserve_fds -- room for so many more descriptors: 0 or -ENOMEM.
 * process_add_fd -- one more (not -1), where there is room; twice is once.
 * process_add_pair -- two that `open_both`, an os function, makes: 0 or -errno.
 * process_close_added -- close it (idempotent), and forget it.
 * process_has_fd -- is it in the registry?
 * process_close_foreign -- in a child: close and forget all that it does not need.
 */
int process_reserve_fds(size_t more);
void process_add_fd(int fd);
int process_add_pair(int (*open_both)(int fds[2]), int fds[2]);
void process_close_added(int *fd);
int process_has_fd(int fd);
void process_close_foreign(const struct process_child *child);

/*
 * The child's side of a fork.
 * process_become_child -- everything between the fork and the caller's code; lifeline[0] (the host's end, closed here) may be -1.
 * process_become_helper -- the same for a process that starts others and runs nothing itself.
 * process_learn_oom_score -- in the host, before: what the children of `parent` write as their score.
 * process_load_lifeline -- when the other end closes, whoever it is aimed at gets a signal; process_aim_lifeline -- that is `pid`.
 * process_flush_output -- flush stdout and stderr. process_is_forking -- they were, and nothing was written since (process_begin_forks).
 */
void process_become_child(const struct process_child *child, pid_t host, int lifeline[2], int is_from_main_thread);
void process_become_helper(int socket[2]);
void process_learn_oom_score(pid_t parent);
void process_load_lifeline(int lifeline);
void process_aim_lifeline(int lifeline, pid_t pid);
void process_flush_output(void);
int process_is_forking(void);

/* process_kill_descendants -- kill what a stopped child has started, and leave the child itself, without which nobody could be told to be
   its descendant. process_pause -- sleep. */
void process_kill_descendants(pid_t pid);
void process_pause(int64_t duration_ns);

#endif
