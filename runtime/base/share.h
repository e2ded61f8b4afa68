/*
 * base/share -- what processes that share a file of memory need to meet there: sleeping on a word, locks that die with their owner, and
 * the way to open a file of memory that another process holds.
 *
 * Room: base (may include base/os.h and base/fault.h).  Owns: nothing.
 * Every int result is 0 (or a descriptor, or a pid) on success and a negative errno on failure. Stateless; nothing here knows Lua.
 * LUAPOOL_NO_FUTEX forces the portable path of sleeping (short naps). Names for LUAPOOL_FAIL (see os.h): futex, lock, open.
 */
#ifndef LUAPOOL_BASE_SHARE_H
#define LUAPOOL_BASE_SHARE_H

#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * share_wait -- sleep while the word (in shared memory) is `seen`, at most timeout_ns.
 * Returns 0: it may have changed (or was woken for no reason: look); -ETIMEDOUT; -EINTR: a signal came; -errno.
 */
int share_wait(_Atomic uint32_t *word, uint32_t seen, int64_t timeout_ns);

/* share_wake -- wake at most `count` of those who sleep on the word, in any process. Change the word before. Async-signal-safe. */
void share_wake(_Atomic uint32_t *word, int count);

/*
 * Something to wait for, in shared memory (zeros at first). Who waits: seen = share_event_now, then look whether it has happened, then
 * share_event_wait. Who makes it happen: do it, then share_event_tell. Nothing is lost between, and telling nobody costs no system call.
 * Who dies while he waits leaves a count that is too large: later callers of tell make a system call for nothing. Who dies between doing
 * and telling leaves others asleep: so nobody sleeps for long at a time.
 */
struct share_event {
  _Atomic uint32_t word, waiting;
};

static inline uint32_t share_event_now(struct share_event *e) {
  return atomic_load(&e->word);
}

/* share_event_wait -- as share_wait. */
static inline int share_event_wait(struct share_event *e, uint32_t seen, int64_t timeout_ns) {
  int status;
  atomic_fetch_add(&e->waiting, 1);
  status = share_wait(&e->word, seen, timeout_ns);
  atomic_fetch_sub(&e->waiting, 1);
  return status;
}

/* share_event_tell -- wake at most `count` of those who wait. */
static inline void share_event_tell(struct share_event *e, int count) {
  atomic_fetch_add(&e->word, 1);
  if (atomic_load(&e->waiting) != 0) share_wake(&e->word, count);
}

/*
 * A record lock on one byte of a file belongs to this process: children do not inherit it, the kernel gives it back when the process
 * ends, however it ends, and also when the process closes ANY descriptor of that file: open a file once in a process.
 * share_lock -- 0; -EAGAIN: another process has it; -errno. Never blocks. Of a byte that this process has: 0.
 * share_unlock -- 0 (also if this process did not have it); -errno.
 * share_lock_holder -- the pid of another process that has it; 0: none has; -errno.
 */
int share_lock(int fd, uint64_t byte);
int share_unlock(int fd, uint64_t byte);
pid_t share_lock_holder(int fd, uint64_t byte);

/* What a file is, whatever descriptor shows it. */
struct share_identity {
  uint64_t device, inode, size;
};

/* share_identify -- 0, or -errno (-EINVAL: no regular file). */
int share_identify(int fd, struct share_identity *identity);

/*
 * share_open_of -- open, for reading and writing, the file that process `pid` has as descriptor `fd`.
 * Returns the descriptor; -ENOENT: no such process or descriptor (or no /proc here); -EACCES, -EPERM: it may not be looked at; -errno.
 * Which file it is now is for the caller to check.
 */
int share_open_of(pid_t pid, int fd);

/* share_is_visible -- 1 if other processes of this user can open the files of this one by share_open_of, as far as can be told here. */
int share_is_visible(void);

#endif
