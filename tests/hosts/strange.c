/*
 * Executes a program in a strange state, for tests/test_environment.lua: strange WORD ... -- PROGRAM [ARGUMENT ...]
 *   closed=12            these of descriptors 0, 1, 2 are closed
 *   ignored, blocked     every signal that can be is ignored; is blocked
 *   limit=NAME:SOFT[:HARD]  of nofile, nproc, as, fsize, stack, cpu; "unlimited" is a number, too
 *   refused=NAME:ERRNO   the system call fails with that number (seccomp)
 *   user=NUMBER          as this user and group, and no other
 *   name=TEXT            argv[0]; nameless: there is no argument at all, not even argv[0] (and the kernel's one is empty)
 * Status 77: this cannot be had here.
 */
#include <errno.h>
#include <grp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#ifdef __linux__
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

enum { IMPOSSIBLE = 77, USAGE = 2 };

static void give_up(int status, const char *what) {
  fprintf(stderr, "strange: %s: %s\n", what, strerror(errno));
  exit(status);
}

struct word {
  const char *name;
  long number;
};

static long find(const struct word *words, const char *name, size_t length) {
  for (; words->name; words++)
    if (strlen(words->name) == length && strncmp(words->name, name, length) == 0) return words->number;
  errno = EINVAL;
  give_up(USAGE, name);
  return -1;
}

static void close_streams(const char *digits) {
  for (; *digits; digits++) close(*digits - '0');
}

static void ignore_all(void) {
  for (int number = 1; number < 65; number++) (void)signal(number, SIG_IGN);
}

static void block_all(void) {
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, NULL);
}

static rlim_t number_of(const char *text) {
  return strncmp(text, "unlimited", 9) == 0 ? RLIM_INFINITY : (rlim_t)strtoull(text, NULL, 10);
}

static void set_limit(const char *text) {
  static const struct word names[] = {{"nofile", RLIMIT_NOFILE}, {"nproc", RLIMIT_NPROC}, {"as", RLIMIT_AS}, {"fsize", RLIMIT_FSIZE},
                                      {"stack", RLIMIT_STACK},   {"cpu", RLIMIT_CPU},     {NULL, 0}};
  const char *colon = strchr(text, ':'), *hard = colon ? strchr(colon + 1, ':') : NULL;
  struct rlimit limit;
  int which;
  if (colon == NULL) exit(USAGE);
  which = (int)find(names, text, (size_t)(colon - text));
  limit.rlim_cur = number_of(colon + 1);
  limit.rlim_max = hard ? number_of(hard + 1) : limit.rlim_cur;
  if (setrlimit(which, &limit) < 0) give_up(IMPOSSIBLE, text);
}

static void become(const char *text) {
  unsigned user = (unsigned)strtoul(text, NULL, 10);
  if (setgroups(0, NULL) < 0 || setgid(user) < 0 || setuid(user) < 0) give_up(IMPOSSIBLE, text);
}

#if defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__))
#ifdef __x86_64__
#define ARCHITECTURE AUDIT_ARCH_X86_64
#else
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#endif

static const struct word calls[] = {
#ifdef SYS_memfd_create
  {"memfd_create", SYS_memfd_create},
#endif
#ifdef SYS_pidfd_open
  {"pidfd_open", SYS_pidfd_open}, {"pidfd_send_signal", SYS_pidfd_send_signal},
#endif
#ifdef SYS_clone3
  {"clone3", SYS_clone3},
#endif
#ifdef SYS_close_range
  {"close_range", SYS_close_range},
#endif
#ifdef SYS_getrandom
  {"getrandom", SYS_getrandom},
#endif
  {"eventfd2", SYS_eventfd2}, {"prctl", SYS_prctl}, {"sched_setscheduler", SYS_sched_setscheduler}, {"fallocate", SYS_fallocate},
  {"sched_setaffinity", SYS_sched_setaffinity}, {"sched_getaffinity", SYS_sched_getaffinity}, {"setpriority", SYS_setpriority},
  {"timerfd_create", SYS_timerfd_create}, {"epoll_create1", SYS_epoll_create1}, {"ioctl", SYS_ioctl}, {"waitid", SYS_waitid},
  {"sigaltstack", SYS_sigaltstack}, {"madvise", SYS_madvise}, {"sysinfo", SYS_sysinfo}, {"getcpu", SYS_getcpu}, {NULL, 0}};

static void refuse(const char *text) {
  const char *colon = strchr(text, ':');
  if (colon == NULL) exit(USAGE);
  long number = find(calls, text, (size_t)(colon - text));
  struct sock_filter filter[] = {
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 0, 3),
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)atoi(colon + 1)),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0) give_up(IMPOSSIBLE, text);
}
#else
static void refuse(const char *text) {
  errno = ENOSYS;
  give_up(IMPOSSIBLE, text);
}
#endif

static const char *after(const char *word, const char *prefix) {
  size_t length = strlen(prefix);
  return strncmp(word, prefix, length) == 0 ? word + length : NULL;
}

int main(int argc, char **argv) {
  char *nothing[] = {NULL}, *name = NULL, *path;
  const char *value;
  int i, is_nameless = 0;
  for (i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
    if ((value = after(argv[i], "closed=")) != NULL) close_streams(value);
    else if (strcmp(argv[i], "ignored") == 0) ignore_all();
    else if (strcmp(argv[i], "blocked") == 0) block_all();
    else if ((value = after(argv[i], "limit=")) != NULL) set_limit(value);
    else if ((value = after(argv[i], "refused=")) != NULL) refuse(value);
    else if ((value = after(argv[i], "user=")) != NULL) become(value);
    else if ((value = after(argv[i], "name=")) != NULL) name = argv[i] + 5;
    else if (strcmp(argv[i], "nameless") == 0) is_nameless = 1;
    else exit(USAGE);
  }
  if (i + 1 >= argc) exit(USAGE);
  path = argv[i + 1];
  if (name) argv[i + 1] = name;
  execv(path, is_nameless ? nothing : argv + i + 1);
  give_up(127, path);
}
