/*
 * base/os -- system calls as the house wants them: retried on EINTR, CLOEXEC from birth, never a descriptor below 3,
 * -errno as the result, with fallbacks for what Linux alone has, and one place where a test can make any of them fail.
 *
 * Room: base.  Owns: nothing; descriptors and mappings belong to the caller.
 * Five files: os.c (descriptors, waiting, random bytes), os_file.c (files that last), os_memory.c (memory that processes
 * share), os_machine.c (processors and memory that may be used), os_process.c (what the system knows of processes).
 * Every int result is 0 (or a count, or a descriptor) on success and a negative errno on failure.
 * Fork: stateless.  Signals: only what says so.  Nothing here knows Lua, prints or exits.
 *
 * Build options that force the portable paths (each must pass the whole test suite):
 * LUAPOOL_NO_PIDFD, LUAPOOL_NO_EVENTFD, LUAPOOL_NO_MEMFD, LUAPOOL_NO_SHM (files of memory are temporary files), LUAPOOL_NO_PRCTL,
 * LUAPOOL_NO_CLOSE_RANGE, LUAPOOL_NO_AFFINITY (and LUAPOOL_NO_FUTEX: base/share).
 * With LUAPOOL_FAULTS, LUAPOOL_FAIL="name#k:ERRNO[,...]" makes the k-th call of os function `name` fail
 * (k = 0: every call); names: fork, mmap, memfd, truncate, bell, socketpair, pipe, poll, pidfd, open, write, read, malloc, random, lock,
 * sync.
 * memfd and bell fall back for ENOSYS (and EPERM, EACCES: a sandbox) and fail for anything else; random falls back; pidfd: the caller lives
 * without one.
 */
#ifndef LUAPOOL_BASE_OS_H
#define LUAPOOL_BASE_OS_H

#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * os_open -- open(2), CLOEXEC, retried on EINTR (mode 0600 for O_CREAT). Returns the descriptor or -errno.
 * os_read -- read(2) once, retried on EINTR: bytes (0: end), or -errno.
 * os_write -- all of it, in as many writes as it takes: 0 or -errno (some may have been written). SIGPIPE is the caller's.
 * os_read_text -- the beginning of a small file (of /proc) as a string: its length (cut at size - 1), or -errno.
 * All four are async-signal-safe.
 */
int os_open(const char *path, int flags);
ssize_t os_read(int fd, void *data, size_t size);
int os_write(int fd, const void *data, size_t size);
ssize_t os_read_text(const char *path, char *text, size_t size);

/*
 * A regular file that lasts: for logs.
 * os_open_regular -- open for reading and writing, made (0666 less the umask) if it is not there; never waits, for a FIFO or a device
 *   either. Returns the descriptor; -ENOTSUP: it is no regular file; -errno. *is_new (may be NULL): it was made.
 * os_read_at, os_write_at -- as os_read and os_write, at an offset. A short file gives fewer bytes. What would go beyond the limit on file
 *   sizes is not written at all (-EFBIG).
 * os_may_have_size -- 1 if the limit on file sizes (ulimit -f) lets a file become so large: a write beyond it gets the signal SIGXFSZ.
 * os_most_size -- that limit, or the largest size there is.
 * os_size -- bytes in the file, or -errno.   os_resize -- make it exactly `size` bytes.
 * os_lock -- lock the whole file for this open descriptor and its copies, without waiting: 0; -EAGAIN: somebody else has it (in this
 *   process, too); -ENOLCK, -ENOSYS, -EOPNOTSUPP: the file system has no locks. The last close of a copy, or death, releases it.
 * os_sync -- wait until content and size are on the medium. After a failure nothing is known about what was written since the last
 *   success: write it again before the next os_sync, whose success would otherwise prove nothing.
 * os_sync_directory -- the same for the name of a file that was made. Best effort where directories cannot be synced.
 * os_write_whole -- make the file anew with this content, or leave what was there: it is written under another name in the same folder,
 *   which it then loses. Not so where none can be made there, and for a file of somebody else's, or with several names: what fails leaves a
 *   part. 0; -ENOTSUP: it is no regular file; -errno.
 * os_check_writable -- could the file be written? 0, or -errno. Nothing of it changes; what was not there is not there afterwards. is_log:
 *   and is it such a file (-ENOTSUP)?
 */
int os_open_regular(const char *path, int *is_new);
ssize_t os_read_at(int fd, void *data, size_t size, uint64_t offset);
int os_write_at(int fd, const void *data, size_t size, uint64_t offset);
int os_may_have_size(uint64_t size);
uint64_t os_most_size(void);
int64_t os_size(int fd);
int os_resize(int fd, uint64_t size);
int os_lock(int fd);
int os_sync(int fd);
int os_sync_directory(const char *path_of_file);
int os_write_whole(const char *path, const void *data, size_t size);
int os_check_writable(const char *path, int is_log);

/*
 * os_terminal_width -- columns of the terminal that fd is, now; 0: it is no terminal, or does not know.
 * os_is_terminal -- 1 if fd is a terminal.
 * os_is_foreground -- 1 unless fd is the controlling terminal and another process group has it now (this one was put into the background).
 */
int os_terminal_width(int fd);
int os_is_terminal(int fd);
int os_is_foreground(int fd);

/* os_now_ns -- CLOCK_MONOTONIC in nanoseconds. Async-signal-safe. */
int64_t os_now_ns(void);

/* os_ns_of -- seconds (at most 1e9) in nanoseconds, rounded: with the long registers of a 387, 0.3 s times 1e9 lies below 300000000. */
static inline int64_t os_ns_of(double seconds) {
  return (int64_t)(seconds * 1e9 + (seconds < 0 ? -0.5 : 0.5));
}

/*
 * os_map_shared -- a zeroed mapping that this process and its future children share (no name, no descriptor).
 *   size  bytes, rounded up to pages by the kernel; untouched pages cost nothing
 * Returns 0 and the address in *out, or -errno.
 */
int os_map_shared(size_t size, void **out);
void os_unmap(void *address, size_t size);

/*
 * A file of memory without a name (memfd; else shm_open, or mkstemp where what that gives is no regular file, unlinked at once): CLOEXEC.
 * os_memory_grow makes it at least `size` bytes and reserves them now, so that no later access can end in SIGBUS. What the system would
 * answer by a signal is refused before: -EFBIG (limit on file sizes), -ENOMEM (more than os_memory_left, if it is large).
 * It never shrinks; after a failure size and content are what they were. os_memory_shrink makes it at most `size` bytes: nobody may
 * touch what was beyond.
 * os_memory_stretch makes it at least `size` bytes of which none is reserved: for maps that are far larger than what will be touched.
 * What is touched when memory has ended is as fatal as in os_map_shared.
 * os_memory_release gives the pages of a range back (reads as zeros afterwards, and is no longer reserved); best effort.
 */
int os_memory_file(const char *debug_name);
int os_memory_grow(int fd, uint64_t size);
int os_memory_stretch(int fd, uint64_t size);
int os_memory_shrink(int fd, uint64_t size);
void os_memory_release(int fd, uint64_t offset, uint64_t length);
/* os_map_file -- map [0, size) of a memory file shared, read and write. */
int os_map_file(int fd, size_t size, void **out);

/*
 * A bell wakes one sleeper: eventfd, or a pipe where there is none. Non-blocking, CLOEXEC.
 * ring and drain are async-signal-safe; ringing a full or closed bell is success. (Whoever rings a pipe also holds its
 * read end, or the signal SIGPIPE would come: never close one end alone.)
 */
struct os_bell {
  int read_fd;  /* poll this one for POLLIN; -1: closed */
  int write_fd; /* the same number as read_fd for an eventfd */
};
int os_bell_open(struct os_bell *bell);
void os_bell_ring(const struct os_bell *bell);
void os_bell_drain(const struct os_bell *bell);
void os_bell_close(struct os_bell *bell); /* idempotent */

/* os_socket_pair -- AF_UNIX stream pair, CLOEXEC and non-blocking on both ends. */
int os_socket_pair(int fds[2]);

/*
 * os_pipe -- a pipe, CLOEXEC on both ends; fds[0], the end to read from, does not block, fds[1] does (programs write to it).
 * os_unread -- bytes that wait in a pipe, asked at either end (Linux; elsewhere at the reading one), or -errno.
 */
int os_pipe(int fds[2]);
int os_unread(int fd);

/*
 * os_poll -- poll(2) once with a nanosecond timeout (negative: for ever).
 * Returns the number of ready descriptors, 0 on timeout, -EINTR when a signal came (the caller decides), -errno.
 */
int os_poll(struct pollfd *fds, size_t count, int64_t timeout_ns);

/*
 * os_close_others -- close every descriptor above 2 but the `n` of `keep`: for a program that was just started, and shall hold nothing of
 * what started it.
 */
void os_close_others(const int *keep, size_t n);

/* Descriptors that are to be closed together; zeroed it is empty. */
enum { OS_FD_SET_SIZE = 4096 };
struct os_fd_set {
  uint64_t words[OS_FD_SET_SIZE / 64];
};

/* os_fd_set_add -- one more; what is beyond the set's size is closed at once. */
void os_fd_set_add(struct os_fd_set *set, int fd);

/* os_close_set -- close them all, neighbours with one system call. Async-signal-safe, allocates nothing. */
void os_close_set(const struct os_fd_set *set);

/*
 * os_open_nothing -- /dev/null; where there is none, what is empty for who reads, and refuses what is written. A descriptor or -errno.
 */
int os_open_nothing(int flags);

/* os_close -- close *fd if it is not -1 and set it to -1; keeps errno; idempotent. */
void os_close(int *fd);

/*
 * os_cpus -- processors this process may use: its affinity, capped by the cgroup's quota (v2 and v1, the whole
 * path up to the root), at least 1.
 */
int os_cpus(void);

/*
 * os_cpus_lately -- the same, with a quota that was read within the last second: reading it takes ten files of the system, as long as to
 * fork. For whom a second does not matter.
 */
int os_cpus_lately(void);

/*
 * os_bind -- from now on the calling thread, and what it starts, run on one processor only: number % n of the n (from 0) that it might use
 * before. os_cpus still counts all of them. Bound already: it moves. 0; -ENOSYS: not on this system (os_can_bind is 0); -errno.
 * os_unbind -- it may use all of them again. 1 and the number that it was bound with; 0: it was not bound; -errno.
 * What was bound stays so in a forked copy, which may unbind itself. One thread of a process at a time.
 */
int os_bind(uint32_t number);
int os_unbind(uint32_t *number);
int os_can_bind(void);

/*
 * os_processor -- the number of the processor that the calling thread is on; -1: it cannot be told.
 * os_avoid -- if that is one of these n, go to one that is not, if there is one that the thread may use. It remains free to be moved
 * anywhere. 1: it moved; 0: there was no need, or there is none; -errno.
 */
int os_processor(void);
int os_avoid(const int *processors, size_t n);

/* os_be_nice -- lower the priority of this process by so much (its niceness grows, to 19 at most). 0 or -errno. */
int os_be_nice(int more);

/*
 * os_be_idle -- from now on this process, and what it starts, run only where no other process wants to: who wakes up takes a processor from
 * it at once (a merely nice one keeps it for a turn), and it takes one from nobody. Where the system has no such thing: the least priority.
 * 0 or -errno.
 */
int os_be_idle(void);

/*
 * os_cgroup_cpus -- processors that the cgroup's quota is worth, rounded up; 0: no quota.
 *   root  "" for this machine, or a directory in whose proc/self and cgroup mounts to look instead (tests)
 */
int os_cgroup_cpus(const char *root);

/*
 * os_memory_left -- bytes of memory that can still be had, as far as the system tells: what is available on the machine, and what the
 * cgroup (v2 and v1, the whole path up to the root) has left; UINT64_MAX: nothing is known to limit.
 *   root  as of os_cgroup_cpus
 */
uint64_t os_memory_left(const char *root);

/*
 * os_running -- how many threads of all processes of this machine run, or wait for a processor, at this moment; -ENOSYS where the system
 * does not tell. root as of os_cgroup_cpus.
 */
int os_running(const char *root);

/* os_threads -- threads of this process now (1 when it cannot be told). */
int os_threads(void);

/* os_own_memory -- bytes of memory that this process has to itself now (not shared, not of files, as far as can be told); 0: unknown. */
uint64_t os_own_memory(void);

/* os_own_program -- the file of the program that this process runs: its length, or -errno (-ENOSYS: the system does not tell). */
ssize_t os_own_program(char *path, size_t size);

/* A process as the system knows it. */
struct os_process {
  char state;       /* 'T': stopped; 'Z': dead, and not reaped; any other: neither */
  pid_t parent;
  uint64_t started; /* tells it from a later owner of its number */
};

/*
 * os_look_at -- what process `pid` is now: 1; 0: there is none, or it cannot be told.
 * os_state_of_threads -- of process `pid` that was sent a SIGSTOP: 'T' (or 'Z'): all its threads have stopped, or ended; 'D': all but those
 * that the kernel keeps from signals until something happens; any other: some will stop when they get a processor. (Where threads cannot
 * be told apart: what os_look_at says.)
 * os_children -- the first `most` children of process `pid` (look again at each before anything is done to it): how many.
 * For os_children os_sees_processes is asked before. It is async-signal-safe, as far as the system calls that it takes are.
 */
int os_look_at(pid_t pid, struct os_process *process);
char os_state_of_threads(pid_t pid);
int os_children(pid_t pid, pid_t *children, int most);

/* os_has_threads -- 1 if this process has another thread than the calling one, as far as can be told. Costs nothing if it never had. */
int os_has_threads(void);

/*
 * os_sees_processes -- 1 if what the system tells of process PID is told of the process that PID is here: not where /proc is not mounted,
 * or is another pid namespace's (`unshare -p` without a mount), where our numbers name strangers. Async-signal-safe.
 */
int os_sees_processes(void);

/*
 * os_pidfd_open, os_pidfd_signal -- the descriptor of a process: it cannot come to mean another process, as a pid can.
 * -errno; -ENOSYS where the system has none (LUAPOOL_NO_PIDFD).
 */
int os_pidfd_open(pid_t pid);
int os_pidfd_signal(int pidfd, int signal);

/*
 * os_pidfd_end -- how a process ended that need not be a child of ours: 1, *status as of waitpid; 0: it has ended, but nobody tells (Linux
 * before 6.15, where its parent was faster than we); -EAGAIN: it lives, after `patience_ns`; -errno.
 */
int os_pidfd_end(int pidfd, pid_t pid, int64_t patience_ns, int *status);

/* os_random -- fill with random bytes (getrandom or arc4random, /dev/urandom, else time and pid). Never fails. */
void os_random(void *data, size_t length);

/* os_allocate -- malloc that the fault table can refuse; NULL on failure. Free with free(). */
void *os_allocate(size_t size);

/* os_give_way -- whoever waits for this processor goes first; nothing happens where nobody does. Does not block. */
void os_give_way(void);

/* os_relax -- one turn of a busy wait (pause instruction). */
static inline void os_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

#endif
