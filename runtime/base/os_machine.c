/*
 * base/os_machine -- what the machine, and the cgroups that this process is in, let it use: see os.h (may include base/os.h and
 * base/fault.h).
 */
#include "base/os.h"

#include "base/fault.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif
#include <unistd.h>

enum { LEAST_PRIORITY = 19, QUOTA_LASTS_NS = 1000 * 1000 * 1000 };

/* ---- what the cgroups allow ------------------------------------------------------------------- */

#ifdef __linux__

/* Where a cgroup hierarchy with the controller is mounted, and which group of it this process is in. */
struct hierarchy {
  const char *controller; /* "cpu", "memory" */
  int is_v2;
  char mount[PATH_MAX]; /* directory */
  char top[PATH_MAX];   /* the group that the mount shows as its root */
  char group[PATH_MAX]; /* this process's group, as counted from the hierarchy's own root */
};

static FILE *open_beneath(const char *root, const char *path) {
  char full[2 * PATH_MAX];
  int length = snprintf(full, sizeof full, "%s%s", root, path);
  if (length < 0 || (size_t)length >= sizeof full || fault_fails("open")) return NULL;
  return fopen(full, "re");
}

/* Is `word` in the comma list? */
static int list_has(const char *list, const char *word) {
  size_t length = strlen(word);
  while (*list != '\0') {
    size_t item = strcspn(list, ",\n");
    if (item == length && memcmp(list, word, length) == 0) return 1;
    list += item + (list[item] != '\0');
  }
  return 0;
}

static void copy_path(char to[PATH_MAX], const char *from) {
  size_t length = strcspn(from, "\n");
  if (length >= PATH_MAX) length = 0;
  memcpy(to, from, length);
  to[length] = '\0';
}

/* mountinfo writes space, tab, newline and backslash as \ooo. */
static void unescape(char *text) {
  char *to = text;
  while (*text != '\0') {
    int is_octal = text[0] == '\\' && text[1] >= '0' && text[1] <= '3' && text[2] && text[3];
    *to++ = is_octal ? (char)((text[1] - '0') * 64 + (text[2] - '0') * 8 + (text[3] - '0')) : *text;
    text += is_octal ? 4 : 1;
  }
  *to = '\0';
}

/* The group of the process: "0::PATH" for v2, "N:...,CONTROLLER,...:PATH" for v1. Returns 1 if there is one. */
static int find_group(const char *root, struct hierarchy *h) {
  FILE *file = open_beneath(root, "/proc/self/cgroup");
  char *line = NULL;
  size_t size = 0;
  int is_found = 0;
  while (file != NULL && !is_found && getline(&line, &size, file) > 0) {
    char *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL;
    if (path == NULL) continue;
    *path++ = '\0';
    is_found = h->is_v2 ? strncmp(line, "0:", 2) == 0 && controllers[1] == '\0' : list_has(controllers + 1, h->controller);
    if (is_found) copy_path(h->group, path);
  }
  free(line);
  if (file != NULL) fclose(file);
  return is_found;
}

/* One line of mountinfo: "id parent dev top mount options [tags] - type source superoptions". */
static int read_mount(char *line, struct hierarchy *h) {
  char *type = strstr(line, " - "), *rest = line, *fields[5], super[256] = "", name[32] = "";
  if (type == NULL) return 0;
  *type = '\0';
  if (sscanf(type + 3, "%31s %*s %255s", name, super) < 1) return 0;
  if (h->is_v2 ? strcmp(name, "cgroup2") != 0 : strcmp(name, "cgroup") != 0 || !list_has(super, h->controller)) return 0;
  for (int i = 0; i < 5; i++)
    if ((fields[i] = strsep(&rest, " ")) == NULL) return 0;
  unescape(fields[3]);
  unescape(fields[4]);
  copy_path(h->top, fields[3]);
  copy_path(h->mount, fields[4]);
  return 1;
}

static int find_mount(const char *root, struct hierarchy *h) {
  FILE *file = open_beneath(root, "/proc/self/mountinfo");
  char *line = NULL;
  size_t size = 0;
  int is_found = 0;
  while (file != NULL && !is_found && getline(&line, &size, file) > 0) is_found = read_mount(line, h);
  free(line);
  if (file != NULL) fclose(file);
  return is_found;
}

/* A file of one group, open; NULL: there is none. */
static FILE *open_of_group(const char *root, const char *directory, const char *name) {
  char path[2 * PATH_MAX];
  int length = snprintf(path, sizeof path, "%s/%s", directory, name);
  return length < 0 || (size_t)length >= sizeof path ? NULL : open_beneath(root, path);
}

/* The quota of one group, in processors rounded up; UINT64_MAX: none. */
static uint64_t read_quota(const char *root, const char *directory, int is_v2) {
  static const char *const FILES[2][2] = {{"cpu.cfs_quota_us", "cpu.cfs_period_us"}, {"cpu.max", NULL}};
  long long quota = -1, period = 0; /* "max" or -1: no limit */
  int got = 0;
  for (int i = 0; i < 2 && FILES[is_v2][i] != NULL; i++) {
    FILE *file = open_of_group(root, directory, FILES[is_v2][i]);
    if (file == NULL) return UINT64_MAX;
    if (is_v2)
      got = fscanf(file, "%lld %lld", &quota, &period);
    else
      got += fscanf(file, "%lld", i == 0 ? &quota : &period);
    fclose(file);
  }
  if (got != 2 || quota <= 0 || period <= 0) return UINT64_MAX;
  return (uint64_t)((quota - 1) / period + 1);
}

/* The number in a file of one group; UINT64_MAX: no such file, or it says "max". */
static uint64_t read_number(const char *root, const char *directory, const char *name) {
  unsigned long long number;
  int got;
  FILE *file = open_of_group(root, directory, name);
  if (file == NULL) return UINT64_MAX;
  got = fscanf(file, "%llu", &number);
  fclose(file);
  return got == 1 ? number : UINT64_MAX;
}

/* What a group could get back from its file cache. */
static uint64_t read_reclaimable(const char *root, const char *directory, int is_v2) {
  unsigned long long value, sum = 0;
  char name[64];
  FILE *file = open_of_group(root, directory, "memory.stat");
  while (file != NULL && fscanf(file, "%63s %llu", name, &value) == 2) {
    const char *key = is_v2 ? name : strncmp(name, "total_", 6) == 0 ? name + 6 : "";
    if (strcmp(key, "inactive_file") == 0 || strcmp(key, "active_file") == 0) sum += value;
  }
  if (file != NULL) fclose(file);
  return sum;
}

/* Bytes of memory that one group may still take; UINT64_MAX: no limit. */
static uint64_t read_memory_left(const char *root, const char *directory, int is_v2) {
  uint64_t limit = read_number(root, directory, is_v2 ? "memory.max" : "memory.limit_in_bytes");
  uint64_t used = read_number(root, directory, is_v2 ? "memory.current" : "memory.usage_in_bytes"), cache;
  if (limit == UINT64_MAX || used == UINT64_MAX) return UINT64_MAX;
  cache = read_reclaimable(root, directory, is_v2);
  used -= cache < used ? cache : used;
  return limit > used ? limit - used : 0;
}

/* What the reader says of the group and those above it, up to where the hierarchy is mounted: each of them limits. */
static uint64_t smallest_of_groups(const char *root, const struct hierarchy *h, uint64_t (*read)(const char *, const char *, int)) {
  char directory[2 * PATH_MAX];
  const char *below = h->group;
  size_t top_length = strlen(h->top), mount_length = strlen(h->mount);
  uint64_t smallest = UINT64_MAX;
  if (strcmp(h->top, "/") != 0) /* a container that sees only its own part; another part cannot be looked at */
    below = strncmp(below, h->top, top_length) == 0 && strchr("/", below[top_length]) ? below + top_length : "";
  if (strncmp(below, "/..", 3) == 0) below = "";
  snprintf(directory, sizeof directory, "%s%s", h->mount, below);
  for (;;) {
    uint64_t value = read(root, directory, h->is_v2);
    char *slash = strrchr(directory, '/');
    if (value < smallest) smallest = value;
    if (slash == NULL || (size_t)(slash - directory) < mount_length) return smallest;
    *slash = '\0';
  }
}

/* The smallest that the reader finds in both versions' hierarchies; UINT64_MAX: nothing limits. */
static uint64_t smallest_of_hierarchies(const char *root, const char *controller, uint64_t (*read)(const char *, const char *, int)) {
  uint64_t smallest = UINT64_MAX;
  struct hierarchy *h = malloc(sizeof *h);
  for (int version = 1; h != NULL && version <= 2; version++) {
    uint64_t value;
    h->controller = controller;
    h->is_v2 = version == 2;
    if (!find_group(root, h) || !find_mount(root, h)) continue;
    value = smallest_of_groups(root, h, read);
    if (value < smallest) smallest = value;
  }
  free(h);
  return smallest;
}

int os_cgroup_cpus(const char *root) {
  uint64_t quota = smallest_of_hierarchies(root, "cpu", read_quota);
  return quota == UINT64_MAX ? 0 : quota > INT_MAX ? INT_MAX : (int)quota;
}

/* Of the whole machine. */
static uint64_t machine_memory_left(const char *root) {
  unsigned long long kilobytes, sum = 0;
  int is_known = 0;
  char name[64];
  FILE *file = open_beneath(root, "/proc/meminfo");
  while (file != NULL && fscanf(file, "%63s %llu%*[^\n]", name, &kilobytes) == 2) {
    if (strcmp(name, "MemAvailable:") == 0) is_known = 1;
    if (strcmp(name, "MemAvailable:") == 0 || strcmp(name, "SwapFree:") == 0) sum += kilobytes * 1024;
  }
  if (file != NULL) fclose(file);
  return is_known ? sum : UINT64_MAX;
}

uint64_t os_memory_left(const char *root) {
  uint64_t machine = machine_memory_left(root), groups = smallest_of_hierarchies(root, "memory", read_memory_left);
  return groups < machine ? groups : machine;
}

int os_running(const char *root) {
  FILE *file = open_beneath(root, "/proc/loadavg");
  unsigned running;
  int is_known = file != NULL && fscanf(file, "%*s %*s %*s %u/", &running) == 1;
  if (file != NULL) fclose(file);
  return is_known && running <= INT_MAX ? (int)running : -ENOSYS;
}

/* ---- processors ------------------------------------------------------------------------------- */

/* While this process is bound: all that it might use before. */
static cpu_set_t *unbound;
static size_t unbound_size;

/* The kernel refuses a set that is smaller than its own, so larger ones are tried. NULL: it cannot be told, errno says why. */
static cpu_set_t *read_affinity(size_t *size) {
  for (int most = 1024; most <= 1 << 20; most *= 2) {
    cpu_set_t *set = CPU_ALLOC((size_t)most);
    *size = CPU_ALLOC_SIZE((size_t)most);
    if (set == NULL) errno = ENOMEM;
    if (set == NULL) break;
    if (sched_getaffinity(0, *size, set) == 0) return set;
    CPU_FREE(set);
    if (errno != EINVAL) break;
  }
  return NULL;
}

static int affinity_cpus(void) {
  size_t size;
  int count;
  cpu_set_t *set;
  if (unbound != NULL) return CPU_COUNT_S(unbound_size, unbound);
  set = read_affinity(&size);
  count = set ? CPU_COUNT_S(size, set) : 0;
  CPU_FREE(set);
  return count > 0 ? count : (int)sysconf(_SC_NPROCESSORS_ONLN);
}

#ifndef LUAPOOL_NO_AFFINITY

static uint32_t bound_as;

static int bind_to(const cpu_set_t *all, size_t size, uint32_t number) {
  uint32_t count = (uint32_t)CPU_COUNT_S(size, all), left = count ? number % count : 0;
  cpu_set_t *one = calloc(1, size);
  size_t cpu = 0;
  int status;
  if (one == NULL || count == 0) {
    free(one);
    return count ? -ENOMEM : -EINVAL;
  }
  while (!CPU_ISSET_S(cpu, size, all) || left-- > 0) cpu++;
  CPU_SET_S(cpu, size, one);
  status = sched_setaffinity(0, size, one) == 0 ? 0 : -errno;
  free(one);
  return status;
}

int os_bind(uint32_t number) {
  size_t size = unbound_size;
  cpu_set_t *all = unbound ? unbound : read_affinity(&size);
  int status;
  if (all == NULL) return -errno;
  status = bind_to(all, size, number);
  if (status < 0) {
    if (all != unbound) CPU_FREE(all);
    return status;
  }
  unbound = all;
  unbound_size = size;
  bound_as = number;
  return 0;
}

int os_unbind(uint32_t *number) {
  if (unbound == NULL) return 0;
  if (sched_setaffinity(0, unbound_size, unbound) < 0) return -errno;
  CPU_FREE(unbound);
  unbound = NULL;
  *number = bound_as;
  return 1;
}

int os_processor(void) {
  return sched_getcpu();
}

static int is_among(int processor, const int *processors, size_t n) {
  size_t i;
  for (i = 0; i < n && processors[i] != processor; i++) continue;
  return i < n;
}

/* The system moves a running thread at once when it may not stay. */
static int visit(int processor, const cpu_set_t *all, size_t size) {
  cpu_set_t *one = calloc(1, size);
  int status;
  if (one == NULL) return -ENOMEM;
  CPU_SET_S((size_t)processor, size, one);
  status = sched_setaffinity(0, size, one) == 0 && sched_setaffinity(0, size, all) == 0 ? 1 : -errno;
  free(one);
  return status;
}

int os_avoid(const int *processors, size_t n) {
  size_t size;
  cpu_set_t *all;
  int processor = sched_getcpu(), most, status = 0;
  if (processor < 0 || !is_among(processor, processors, n)) return 0;
  all = read_affinity(&size);
  if (all == NULL) return -errno;
  most = (int)size * 8;
  for (processor = 0; processor < most; processor++)
    if (CPU_ISSET_S((size_t)processor, size, all) && !is_among(processor, processors, n)) break;
  if (processor < most) status = visit(processor, all, size);
  CPU_FREE(all);
  return status;
}

#endif

#else

int os_cgroup_cpus(const char *root) {
  (void)root;
  return 0;
}

uint64_t os_memory_left(const char *root) {
  (void)root;
  return UINT64_MAX;
}

int os_running(const char *root) {
  (void)root;
  return -ENOSYS;
}

static int affinity_cpus(void) {
  return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

#endif

#if !defined(__linux__) || defined(LUAPOOL_NO_AFFINITY)

int os_bind(uint32_t number) {
  (void)number;
  return -ENOSYS;
}

int os_unbind(uint32_t *number) {
  (void)number;
  return 0;
}

int os_processor(void) {
  return -1;
}

int os_avoid(const int *processors, size_t n) {
  (void)processors;
  (void)n;
  return 0;
}

#endif

int os_can_bind(void) {
#if defined(__linux__) && !defined(LUAPOOL_NO_AFFINITY)
  return 1;
#else
  return 0;
#endif
}

int os_be_nice(int more) {
  int now, error = fault_fails("nice");
  if (error != 0) return -error;
  errno = 0;
  now = getpriority(PRIO_PROCESS, 0); /* (-1 is one, too) */
  if (errno != 0) return -errno;
  if (now + more > LEAST_PRIORITY) more = LEAST_PRIORITY - now;
  return more <= 0 || setpriority(PRIO_PROCESS, 0, now + more) == 0 ? 0 : -errno;
}

int os_be_idle(void) {
#if defined(SCHED_IDLE) && !defined(LUAPOOL_NO_AFFINITY)
  struct sched_param none;
  if ((errno = fault_fails("idle")) != 0) return -errno;
  memset(&none, 0, sizeof none);
  if (syscall(SYS_sched_setscheduler, 0, SCHED_IDLE, &none) == 0) return 0; /* (musl's function is none) */
  if (errno != EINVAL && errno != ENOSYS) return -errno;
#endif
  return os_be_nice(LEAST_PRIORITY);
}

void os_give_way(void) {
  (void)sched_yield(); /* (it can fail only where there is nothing of the kind) */
}

/* The quota that was found last, and when. */
static _Atomic int known_quota;
static _Atomic int64_t known_at_ns;

static int look_for_quota(void) {
  int quota = os_cgroup_cpus("");
  atomic_store(&known_quota, quota);
  atomic_store(&known_at_ns, os_now_ns());
  return quota;
}

static int count_cpus(int quota) {
  int cpus = affinity_cpus();
  if (quota > 0 && quota < cpus) cpus = quota;
  return cpus < 1 ? 1 : cpus;
}

int os_cpus(void) {
  return count_cpus(look_for_quota());
}

int os_cpus_lately(void) {
  int64_t at = atomic_load(&known_at_ns);
  return count_cpus(at != 0 && os_now_ns() - at < QUOTA_LASTS_NS ? atomic_load(&known_quota) : look_for_quota());
}
