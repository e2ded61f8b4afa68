/*
 * base/os_process -- what the system knows of this process and of others: see os.h (may include base/os.h).
 * macOS and the BSDs are compiled (make systems) and untested.
 */
#include "base/os.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__linux__)
#include <sys/ioctl.h>
#include <sys/syscall.h>
#elif defined(__APPLE__)
#include <libproc.h>
#include <mach-o/dyld.h>
#include <sys/proc.h>
#include <sys/proc_info.h>
#include <sys/resource.h>
#elif defined(__FreeBSD__)
#include <sys/param.h>
#include <sys/sysctl.h>
#include <sys/user.h>
#include <sys/proc.h>
#elif defined(__NetBSD__) || defined(__OpenBSD__)
#include <sys/param.h>
#include <sys/sysctl.h>
#include <sys/proc.h>
#endif
#if defined(__FreeBSD__) || defined(__NetBSD__) || defined(__OpenBSD__)
#include <sys/mman.h>
#define HAS_PROCESS_TABLE 1
#endif

/* ---- Linux: /proc ----------------------------------------------------------------------------- */

#ifdef __linux__

int os_sees_processes(void) {
  char text[24];
  long pid = 0;
  ssize_t length = readlink("/proc/self", text, sizeof text);
  for (ssize_t i = 0; i < length; i++) pid = pid * 10 + (text[i] - '0');
  return length > 0 && pid == (long)getpid();
}

int os_threads(void) {
  char text[1024];
  const char *at;
  int field = 2;
  if (os_read_text("/proc/self/stat", text, sizeof text) < 0) return 1;
  at = strrchr(text, ')'); /* the program's name, field 2, may hold anything */
  while (at != NULL && field < 20) {
    at = strchr(at + 1, ' ');
    field++;
  }
  return at != NULL && atoi(at) > 1 ? atoi(at) : 1;
}

uint64_t os_own_memory(void) {
  char text[128];
  unsigned long long resident, shared; /* pages: size, resident, of these shared (of files and of shared memory), ... */
  if (os_read_text("/proc/self/statm", text, sizeof text) < 0) return 0;
  if (sscanf(text, "%*u %llu %llu", &resident, &shared) != 2) return 0;
  return (resident > shared ? resident - shared : 0) * (uint64_t)sysconf(_SC_PAGESIZE);
}

ssize_t os_own_program(char *path, size_t size) {
  ssize_t length = readlink("/proc/self/exe", path, size - 1);
  if (length < 0) return -errno;
  if ((size_t)length == size - 1) return -ENAMETOOLONG;
  path[length] = '\0';
  return length;
}

/* Fields 3 (state), 4 (parent) and 22 (start time) of its line. */
int os_look_at(pid_t pid, struct os_process *process) {
  char path[64], text[1024];
  const char *after_name;
  unsigned long long started;
  if (!os_sees_processes()) return 0; /* the number would name a stranger */
  snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
  if (os_read_text(path, text, sizeof text) <= 0) return 0;
  after_name = strrchr(text, ')'); /* the name may hold anything, spaces and brackets too */
  if (after_name == NULL) return 0;
  if (sscanf(after_name + 1, " %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &process->state,
             &process->parent, &started) != 3)
    return 0;
  process->started = started;
  if (process->state == 't') process->state = 'T';
  if (process->state == 'X') process->state = 'Z';
  return 1;
}

/* What PIDFD_GET_INFO fills in; kernels tell of an end since 6.15, once it was reaped. Headers have it later than kernels. */
struct pidfd_end {
  uint64_t mask, cgroup;
  uint32_t ids[11];
  int32_t exit_code;
};
enum { PIDFD_TELLS_END = 1 << 3 };

static int told_by_pidfd(int pidfd, int *status) {
  struct pidfd_end info = {.mask = PIDFD_TELLS_END};
  if (ioctl(pidfd, _IOWR(0xFF, 11, struct pidfd_end), &info) < 0 || !(info.mask & PIDFD_TELLS_END)) return 0;
  *status = info.exit_code;
  return 1;
}

/* Before it is reaped: the last field of its line. *is_gone: it was. */
static int told_by_corpse(pid_t pid, int *status, int *is_gone) {
  char path[64], text[1024];
  const char *last;
  struct os_process process;
  *is_gone = !os_look_at(pid, &process) || process.state != 'Z';
  if (*is_gone) return 0;
  snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
  *is_gone = os_read_text(path, text, sizeof text) <= 0 || (last = strrchr(text, ' ')) == NULL;
  if (*is_gone) return 0;
  *status = atoi(last + 1);
  return 1;
}

int os_pidfd_end(int pidfd, pid_t pid, int64_t patience_ns, int *status) {
  int64_t until = os_now_ns() + patience_ns;
  struct pollfd fd = {pidfd, POLLIN, 0};
  int is_gone, result;
  while ((result = os_poll(&fd, 1, patience_ns)) == -EINTR && os_now_ns() < until) continue;
  if (result <= 0) return result == 0 || result == -EINTR ? -EAGAIN : result;
  for (;;) {
    if (told_by_corpse(pid, status, &is_gone) || told_by_pidfd(pidfd, status)) return 1;
    if (is_gone || os_now_ns() > until) return 0;
    (void)os_poll(NULL, 0, 1000000);
  }
}

/* "/proc/" pid "/task/" [tid "/children"] into out, without stdio (this runs in handlers). */
static char *append_text(char *out, const char *text) {
  while (*text) *out++ = *text++;
  *out = '\0';
  return out;
}

static char *append_number(char *out, long number) {
  char digits[24];
  int n = 0;
  do digits[n++] = (char)('0' + number % 10);
  while ((number /= 10) > 0);
  while (n > 0) *out++ = digits[--n];
  *out = '\0';
  return out;
}

/* A file of decimal numbers, each followed by a blank: the children of one thread. */
static int children_of_thread(const char *path, pid_t *children, int most) {
  char text[512];
  long pid = 0;
  int count = 0, fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t length;
  if (fd < 0) return 0;
  while (count < most && (length = read(fd, text, sizeof text)) > 0) {
    for (ssize_t i = 0; i < length && count < most; i++) {
      if (text[i] >= '0' && text[i] <= '9') {
        pid = pid * 10 + (text[i] - '0');
      } else if (pid > 0) {
        children[count++] = (pid_t)pid;
        pid = 0;
      }
    }
  }
  close(fd);
  return count;
}

struct directory_entry { /* linux_dirent64 */
  uint64_t inode;
  int64_t offset;
  unsigned short length;
  unsigned char type;
  char name[];
};

/* Calls look(path, end, data) for each thread of a process: path is its folder's, with room for a name at `end`. 0: there is no process. */
static int look_at_threads(pid_t pid, void (*look)(char *path, char *end, void *data), void *data) {
  _Alignas(8) char entries[1024];
  char path[96], *end;
  long size;
  int directory;
  end = append_text(append_number(append_text(path, "/proc/"), pid), "/task/");
  directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) return 0;
  while ((size = syscall(SYS_getdents64, directory, entries, sizeof entries)) > 0) {
    for (long at = 0; at < size;) {
      const struct directory_entry *entry = (const struct directory_entry *)(const void *)(entries + at);
      at += entry->length;
      if (entry->name[0] != '.') look(path, append_text(end, entry->name), data);
    }
  }
  close(directory);
  return 1;
}

struct children {
  pid_t *pids;
  int count, most;
};

static void add_children(char *path, char *end, void *data) {
  struct children *c = data;
  append_text(end, "/children");
  c->count += children_of_thread(path, c->pids + c->count, c->most - c->count);
}

int os_children(pid_t pid, pid_t *children, int most) {
  struct children c = {children, 0, most};
  (void)look_at_threads(pid, add_children, &c);
  return c.count;
}

/* The one that is furthest from being stopped counts. */
static void weigh_thread(char *path, char *end, void *data) {
  char text[1024], *state = data;
  const char *after_name;
  append_text(end, "/stat");
  if (os_read_text(path, text, sizeof text) <= 0) return;
  after_name = strrchr(text, ')');
  if (after_name == NULL || after_name[1] != ' ' || strchr("TtZX", after_name[2]) != NULL) return;
  if (*state != 'R') *state = after_name[2] == 'D' ? 'D' : 'R';
}

char os_state_of_threads(pid_t pid) {
  char state = 'T';
  if (!os_sees_processes()) return 'Z';
  return look_at_threads(pid, weigh_thread, &state) ? state : 'Z';
}

#else

int os_sees_processes(void) {
#if defined(__APPLE__) || defined(HAS_PROCESS_TABLE)
  return 1;
#else
  return 0;
#endif
}

char os_state_of_threads(pid_t pid) {
  struct os_process now;
  return os_look_at(pid, &now) ? now.state : 'Z';
}

#endif

/* ---- macOS: libproc --------------------------------------------------------------------------- */

#ifdef __APPLE__

int os_threads(void) {
  struct proc_taskinfo task;
  if (proc_pidinfo(getpid(), PROC_PIDTASKINFO, 0, &task, sizeof task) != (int)sizeof task) return 1;
  return task.pti_threadnum > 1 ? task.pti_threadnum : 1;
}

uint64_t os_own_memory(void) {
  struct rusage_info_v0 usage;
  return proc_pid_rusage(getpid(), RUSAGE_INFO_V0, (rusage_info_t *)(void *)&usage) == 0 ? usage.ri_phys_footprint : 0;
}

ssize_t os_own_program(char *path, size_t size) {
  uint32_t room = size > UINT32_MAX ? UINT32_MAX : (uint32_t)size;
  return _NSGetExecutablePath(path, &room) == 0 ? (ssize_t)strlen(path) : -ENAMETOOLONG;
}

int os_look_at(pid_t pid, struct os_process *process) {
  struct proc_bsdinfo info;
  if (proc_pidinfo(pid, PROC_PIDTBSDINFO, 0, &info, sizeof info) != (int)sizeof info) return 0;
  process->state = info.pbi_status == SSTOP ? 'T' : info.pbi_status == SZOMB ? 'Z' : 'R';
  process->parent = (pid_t)info.pbi_ppid;
  process->started = info.pbi_start_tvsec * 1000000 + info.pbi_start_tvusec;
  return 1;
}

int os_children(pid_t pid, pid_t *children, int most) {
  int bytes = proc_listpids(PROC_PPID_ONLY, (uint32_t)pid, children, most * (int)sizeof *children);
  return bytes > 0 ? bytes / (int)sizeof *children : 0;
}

#endif

/* ---- the BSDs: the table of processes ------------------------------------------------------------- */

#ifdef HAS_PROCESS_TABLE

#if defined(__FreeBSD__)
typedef struct kinfo_proc table_entry;
#define TABLE_NAME(what, which) {CTL_KERN, KERN_PROC, what, which}
#define ALL_PROCESSES KERN_PROC_PROC
#define PID_OF(e) ((e)->ki_pid)
#define PARENT_OF(e) ((e)->ki_ppid)
#define IS_STOPPED(e) ((e)->ki_stat == SSTOP)
#define IS_DEAD(e) ((e)->ki_stat == SZOMB)
#define STARTED(e) ((uint64_t)(e)->ki_start.tv_sec * 1000000 + (uint64_t)(e)->ki_start.tv_usec)
#define PAGES_OF(e) ((e)->ki_rssize)
#define THREADS_OF(e) ((e)->ki_numthreads)
#elif defined(__NetBSD__)
typedef struct kinfo_proc2 table_entry;
#define TABLE_NAME(what, which) {CTL_KERN, KERN_PROC2, what, which, (int)sizeof(table_entry), 0}
#define ALL_PROCESSES KERN_PROC_ALL
#define PID_OF(e) ((e)->p_pid)
#define PARENT_OF(e) ((e)->p_ppid)
#define IS_STOPPED(e) ((e)->p_realstat == SSTOP)
#define IS_DEAD(e) ((e)->p_realstat == SZOMB || (e)->p_realstat == SDEAD)
#define STARTED(e) ((uint64_t)(e)->p_ustart_sec * 1000000 + (e)->p_ustart_usec)
#define PAGES_OF(e) ((e)->p_vm_rssize)
#define THREADS_OF(e) ((e)->p_nlwps)
#else
typedef struct kinfo_proc table_entry;
#define TABLE_NAME(what, which) {CTL_KERN, KERN_PROC, what, which, (int)sizeof(table_entry), 0}
#define ALL_PROCESSES KERN_PROC_ALL
#define PID_OF(e) ((e)->p_pid)
#define PARENT_OF(e) ((e)->p_ppid)
#define IS_STOPPED(e) ((e)->p_stat == SSTOP)
#define IS_DEAD(e) ((e)->p_stat == SDEAD)
#define STARTED(e) ((uint64_t)(e)->p_ustart_sec * 1000000 + (e)->p_ustart_usec)
#define PAGES_OF(e) ((e)->p_vm_rssize)
#endif

/* NetBSD and OpenBSD want to know how many entries there is room for. */
static int read_table(int *name, unsigned words, void *entries, size_t *size) {
  if (words == 6) name[5] = (int)(*size / sizeof(table_entry));
  return sysctl(name, words, entries, size, NULL, 0);
}

static int read_entry(pid_t pid, table_entry *e) {
  int name[] = TABLE_NAME(KERN_PROC_PID, (int)pid);
  size_t size = sizeof *e;
  return read_table(name, sizeof name / sizeof *name, e, &size) == 0 && size >= sizeof *e && PID_OF(e) == pid;
}

/* What the system lists, in memory that mmap gives (this may run in a handler). *n: how many; NULL: it cannot be told. */
static table_entry *read_list(int *name, unsigned words, size_t *n, size_t *size) {
  for (size_t slack = 64; slack <= 4096; slack *= 4) { /* there may be more the next moment */
    table_entry *list;
    *size = 0;
    if (read_table(name, words, NULL, size) < 0) return NULL;
    *size += slack * sizeof *list;
    *n = *size;
    list = mmap(NULL, *size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    if (list == MAP_FAILED) return NULL;
    if (read_table(name, words, list, n) == 0) {
      *n /= sizeof *list;
      return list;
    }
    munmap(list, *size);
  }
  return NULL;
}

int os_look_at(pid_t pid, struct os_process *process) {
  table_entry e;
  if (!read_entry(pid, &e)) return 0;
  process->state = IS_STOPPED(&e) ? 'T' : IS_DEAD(&e) ? 'Z' : 'R';
  process->parent = PARENT_OF(&e);
  process->started = STARTED(&e);
  return 1;
}

int os_children(pid_t pid, pid_t *children, int most) {
  int name[] = TABLE_NAME(ALL_PROCESSES, 0), count = 0;
  size_t n, size;
  table_entry *list = read_list(name, sizeof name / sizeof *name, &n, &size);
  if (list == NULL) return 0;
  for (size_t i = 0; i < n && count < most; i++)
    if (PARENT_OF(&list[i]) == pid) children[count++] = PID_OF(&list[i]);
  munmap(list, size);
  return count;
}

uint64_t os_own_memory(void) {
  table_entry e;
  return read_entry(getpid(), &e) ? (uint64_t)PAGES_OF(&e) * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

#ifdef THREADS_OF

int os_threads(void) {
  table_entry e;
  return read_entry(getpid(), &e) && THREADS_OF(&e) > 1 ? (int)THREADS_OF(&e) : 1;
}

#else

/* OpenBSD lists threads beside their process, which has no thread number itself. */
int os_threads(void) {
  int name[] = TABLE_NAME(KERN_PROC_PID | KERN_PROC_SHOW_THREADS, (int)getpid()), count = 0;
  size_t n, size;
  table_entry *list = read_list(name, sizeof name / sizeof *name, &n, &size);
  if (list == NULL) return 1;
  for (size_t i = 0; i < n; i++) count += list[i].p_tid != -1;
  munmap(list, size);
  return count > 1 ? count : 1;
}

#endif

ssize_t os_own_program(char *path, size_t size) {
#if defined(__FreeBSD__) || defined(__NetBSD__)
#ifdef __FreeBSD__
  int name[] = {CTL_KERN, KERN_PROC, KERN_PROC_PATHNAME, -1};
#else
  int name[] = {CTL_KERN, KERN_PROC_ARGS, -1, KERN_PROC_PATHNAME};
#endif
  if (sysctl(name, sizeof name / sizeof *name, path, &size, NULL, 0) < 0) return -errno;
  return size > 0 ? (ssize_t)size - 1 : -ENOENT; /* with its end */
#else
  (void)path, (void)size;
  return -ENOSYS;
#endif
}

#endif

/* ---- systems of which nothing is known --------------------------------------------------------------- */

#if !defined(__linux__) && !defined(__APPLE__) && !defined(HAS_PROCESS_TABLE)

int os_threads(void) {
  return 1;
}

uint64_t os_own_memory(void) {
  return 0;
}

ssize_t os_own_program(char *path, size_t size) {
  (void)path, (void)size;
  return -ENOSYS;
}

int os_look_at(pid_t pid, struct os_process *process) {
  (void)pid, (void)process;
  return 0;
}

int os_children(pid_t pid, pid_t *children, int most) {
  (void)pid, (void)children, (void)most;
  return 0;
}

#endif

/* ---- threads ------------------------------------------------------------------------------------- */

/* (Two lines, since __GLIBC_PREREQ is glibc's own word.) */
#ifdef __GLIBC__
#if __GLIBC_PREREQ(2, 32)
extern char __libc_single_threaded; /* <sys/single_threaded.h>; once a thread was made it stays 0 */
#define NEVER_HAD_THREADS (__libc_single_threaded != 0)
#endif
#endif
#ifndef NEVER_HAD_THREADS
#define NEVER_HAD_THREADS 0
#endif

int os_has_threads(void) {
  return !NEVER_HAD_THREADS && os_threads() > 1;
}

#ifndef __linux__
int os_pidfd_end(int pidfd, pid_t pid, int64_t patience_ns, int *status) {
  (void)pidfd, (void)pid, (void)patience_ns, (void)status;
  return -ENOSYS;
}
#endif
