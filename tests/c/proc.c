/*
 * tests/proc -- a Lua module for tests alone: start a program, talk to it, signal it, and know what it left behind.
 *
 * Room: tests (never linked into a product).  Owns: each child it started, with its descriptors and its output, until it is reaped.
 * Every child gets POOLTEST_ID=mark in its environment. Marks nest ("a", "a.1", "a.1.7"), so that looking for one finds all that was
 * started below it, whatever has been done with sessions, groups and parents since. A userdata that is collected kills and reaps what is
 * left. tests/README.md lists what the functions take and return.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <lua.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define CHILD "pooltest.child"
#define MARK_NAME "POOLTEST_ID"

enum { DEFAULT_DEADLINE_S = 60, KERNEL_THREAD = 0x00200000, LEAVING = 0x00000004, MARK_BYTES = 200, STEP_MS = 5, PTY_DRAIN_MS = 300,
       EXEC_MS = 2000 /* to get through exec, on a machine that is busy */ };

int luaopen_proc(lua_State *L);

extern char **environ;

struct stream {
  int fd;
  char *data;
  size_t length, capacity;
};

struct child {
  pid_t pid, owner; /* owner: only the process that started it may end it */
  int pidfd;
  int is_reaped, status, is_pty;
  struct termios first; /* the terminal's settings before it started */
  struct rusage usage;
  struct stream input, output, error; /* input: what has still to be written */
  int close_input;                    /* once it is written */
  double deadline;
  char mark[MARK_BYTES];
};

static double slowness = 1.0; /* POOLTEST_SLOWNESS: how much longer everything may take (valgrind, sanitizers) */

/* ---- small things ----------------------------------------------------------------------------------------------------- */

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void sleep_seconds(double seconds) {
  struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
  while (nanosleep(&t, &t) != 0 && errno == EINTR) {
  }
}

static const struct {
  const char *name;
  int number;
} SIGNALS[] = {{"HUP", SIGHUP},   {"INT", SIGINT},   {"QUIT", SIGQUIT}, {"ILL", SIGILL},   {"TRAP", SIGTRAP}, {"ABRT", SIGABRT},
               {"BUS", SIGBUS},   {"FPE", SIGFPE},   {"KILL", SIGKILL}, {"USR1", SIGUSR1}, {"SEGV", SIGSEGV}, {"USR2", SIGUSR2},
               {"PIPE", SIGPIPE}, {"ALRM", SIGALRM}, {"TERM", SIGTERM}, {"CHLD", SIGCHLD}, {"CONT", SIGCONT}, {"STOP", SIGSTOP},
               {"TSTP", SIGTSTP}, {"TTIN", SIGTTIN}, {"TTOU", SIGTTOU}, {"XCPU", SIGXCPU}, {"WINCH", SIGWINCH}, {"IO", SIGIO},
               {"SYS", SIGSYS},   {NULL, 0}};

static int check_signal(lua_State *L, int index) {
  const char *name;
  int i;
  if (lua_isinteger(L, index)) return (int)lua_tointeger(L, index);
  name = luaL_checkstring(L, index);
  if (strncmp(name, "SIG", 3) == 0) name += 3;
  for (i = 0; SIGNALS[i].name != NULL; i++)
    if (strcmp(SIGNALS[i].name, name) == 0) return SIGNALS[i].number;
  return luaL_error(L, "no signal is called '%s'", name);
}

static void push_signal_name(lua_State *L, int number) {
  int i;
  for (i = 0; SIGNALS[i].name != NULL; i++) {
    if (SIGNALS[i].number != number) continue;
    lua_pushfstring(L, "SIG%s", SIGNALS[i].name);
    return;
  }
  lua_pushfstring(L, "SIG%d", number);
}

static void close_fd(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

/* append -- returns 0 or -1 (no memory; what was there stays). */
static int append(struct stream *s, const char *data, size_t length) {
  if (s->length + length > s->capacity) {
    size_t capacity = (s->length + length) * 2 + 4096;
    char *bigger = realloc(s->data, capacity);
    if (bigger == NULL) return -1;
    s->data = bigger;
    s->capacity = capacity;
  }
  if (length) memcpy(s->data + s->length, data, length);
  s->length += length;
  return 0;
}

static void stream_free(struct stream *s) {
  close_fd(&s->fd);
  free(s->data);
  s->data = NULL;
  s->length = s->capacity = 0;
}

static void push_stream(lua_State *L, const struct stream *s) {
  lua_pushlstring(L, s->length ? s->data : "", s->length);
}

/* ---- what /proc knows ------------------------------------------------------------------------------------------------- */

/* read_proc -- push the text of /proc/PID/name; 0 and nothing pushed if it cannot be read. */
static int read_proc(lua_State *L, pid_t pid, const char *name) {
  char path[64], block[4096];
  ssize_t got;
  luaL_Buffer b;
  int fd;
  snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
  fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  luaL_buffinit(L, &b);
  while ((got = read(fd, block, sizeof block)) > 0 || (got < 0 && errno == EINTR))
    if (got > 0) luaL_addlstring(&b, block, (size_t)got);
  close(fd);
  luaL_pushresult(&b);
  return 1;
}

/* next_pid -- the next process in an open /proc; 0 at its end. */
static pid_t next_pid(DIR *directory) {
  struct dirent *entry;
  while ((entry = readdir(directory)) != NULL)
    if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9') return (pid_t)atoi(entry->d_name);
  return 0;
}

/* The fields of /proc/PID/stat that tests ask for. */
struct stat_fields {
  char name[64], state;
  int parent, group, session, threads;
  unsigned flags; /* the kernel's PF_... */
  unsigned long user_ticks, system_ticks;
  long resident_pages;
};

static int read_stat(pid_t pid, struct stat_fields *f) {
  char path[64], text[1024], *open_paren, *close_paren;
  ssize_t got;
  int fd;
  snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
  fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  got = read(fd, text, sizeof text - 1);
  close(fd);
  if (got <= 0) return 0;
  text[got] = '\0';
  open_paren = strchr(text, '(');
  close_paren = strrchr(text, ')'); /* the name may hold parentheses itself */
  if (open_paren == NULL || close_paren == NULL) return 0;
  *close_paren = '\0';
  snprintf(f->name, sizeof f->name, "%s", open_paren + 1);
  return sscanf(close_paren + 2, "%c %d %d %d %*d %*d %u %*u %*u %*u %*u %lu %lu %*d %*d %*d %*d %d %*d %*u %*u %ld", &f->state,
                &f->parent, &f->group, &f->session, &f->flags, &f->user_ticks, &f->system_ticks, &f->threads, &f->resident_pages) == 9;
}

/* read_environment -- what `pid` was executed with, as NUL-ended strings: its length; 0 if there is none (a zombie). */
static size_t read_environment(pid_t pid, char *text, size_t room) {
  char path[64];
  size_t length = 0;
  ssize_t got;
  int fd;
  snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
  fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  while (length < room - 1 && (got = read(fd, text + length, room - 1 - length)) > 0) length += (size_t)got;
  close(fd);
  text[length] = '\0';
  return length;
}

/*
 * is_executing -- is a process that shows no environment one in the middle of exec? Then it has no arguments yet, either. (Who leaves has
 * neither any more.)
 */
static int is_executing(pid_t pid) {
  struct stat_fields f;
  char path[64], byte;
  ssize_t got;
  int fd;
  if (!read_stat(pid, &f) || f.state == 'Z' || f.state == 'X' || (f.flags & (KERNEL_THREAD | LEAVING))) return 0;
  snprintf(path, sizeof path, "/proc/%d/cmdline", (int)pid);
  fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  got = read(fd, &byte, 1);
  close(fd);
  return got == 0;
}

/* has_mark -- does the environment that `pid` was executed with carry the mark, or one below it? Zombies have none. */
static int has_mark(pid_t pid, const char *mark) {
  static char text[1 << 18]; /* no environment of a test is larger; not thread-safe, as nothing here is */
  size_t length, at, n = strlen(mark);
  int tries = 0, was_executing = 1; /* (it may get through exec between the looks: then the environment is to be read once more) */
  while ((length = read_environment(pid, text, sizeof text)) == 0 && was_executing && tries++ < EXEC_MS) {
    was_executing = is_executing(pid);
    if (was_executing) sleep_seconds(0.001);
  }
  for (at = 0; at < length; at += strlen(text + at) + 1) {
    const char *value = text + at + sizeof MARK_NAME;
    if (strncmp(text + at, MARK_NAME "=", sizeof MARK_NAME) != 0) continue;
    return strncmp(value, mark, n) == 0 && (value[n] == '\0' || value[n] == '.');
  }
  return 0;
}

/* kill_marked -- SIGKILL everything with the mark, until nothing new appears. Returns how many rounds found something. */
static int kill_marked(const char *mark) {
  int round, found = 1;
  for (round = 0; found && round < 200; round++) {
    DIR *directory = opendir("/proc");
    pid_t pid;
    found = 0;
    if (directory == NULL) break;
    while ((pid = next_pid(directory)) != 0)
      if (pid != getpid() && has_mark(pid, mark) && kill(pid, SIGKILL) == 0) found = 1;
    closedir(directory);
    if (found) sleep_seconds(0.002);
  }
  return round;
}

static int proc_leftovers(lua_State *L) {
  const char *mark = luaL_checkstring(L, 1);
  DIR *directory = opendir("/proc");
  lua_Integer n = 0;
  pid_t pid;
  lua_newtable(L);
  if (directory == NULL) return 1;
  while ((pid = next_pid(directory)) != 0) {
    if (pid == getpid() || !has_mark(pid, mark)) continue;
    lua_pushinteger(L, pid);
    lua_rawseti(L, -2, ++n);
  }
  closedir(directory);
  return 1;
}

static void set_integer(lua_State *L, const char *name, lua_Integer value) {
  lua_pushinteger(L, value);
  lua_setfield(L, -2, name);
}

static void set_number(lua_State *L, const char *name, double value) {
  lua_pushnumber(L, value);
  lua_setfield(L, -2, name);
}

static void push_stat(lua_State *L, pid_t pid, const struct stat_fields *f) {
  double tick = 1.0 / (double)sysconf(_SC_CLK_TCK);
  lua_newtable(L);
  lua_pushlstring(L, &f->state, 1);
  lua_setfield(L, -2, "state");
  lua_pushstring(L, f->name);
  lua_setfield(L, -2, "name");
  set_integer(L, "pid", pid);
  set_integer(L, "ppid", f->parent);
  set_integer(L, "pgrp", f->group);
  set_integer(L, "session", f->session);
  set_integer(L, "threads", f->threads);
  set_number(L, "utime", (double)f->user_ticks * tick);
  set_number(L, "stime", (double)f->system_ticks * tick);
  set_integer(L, "rss_bytes", (lua_Integer)f->resident_pages * sysconf(_SC_PAGESIZE));
}

static int proc_stat(lua_State *L) {
  pid_t pid = (pid_t)luaL_checkinteger(L, 1);
  struct stat_fields f;
  if (!read_stat(pid, &f)) return 0;
  push_stat(L, pid, &f);
  return 1;
}

static int proc_children(lua_State *L) {
  pid_t parent = (pid_t)luaL_checkinteger(L, 1), pid;
  DIR *directory = opendir("/proc");
  struct stat_fields f;
  lua_Integer n = 0;
  lua_newtable(L);
  if (directory == NULL) return 1;
  while ((pid = next_pid(directory)) != 0) {
    if (!read_stat(pid, &f) || f.parent != parent) continue;
    push_stat(L, pid, &f);
    lua_rawseti(L, -2, ++n);
  }
  closedir(directory);
  return 1;
}

static int proc_status_field(lua_State *L) {
  pid_t pid = (pid_t)luaL_checkinteger(L, 1);
  const char *field = luaL_checkstring(L, 2), *line;
  size_t n = strlen(field);
  if (!read_proc(L, pid, "status")) return 0;
  for (line = lua_tostring(L, -1); line != NULL; line = strchr(line, '\n')) {
    if (*line == '\n') line++;
    if (strncmp(line, field, n) != 0 || line[n] != ':') continue;
    line += n + 1;
    line += strspn(line, " \t");
    lua_pushlstring(L, line, strcspn(line, "\n"));
    return 1;
  }
  return 0;
}

static int proc_fds(lua_State *L) {
  pid_t pid = (pid_t)luaL_checkinteger(L, 1);
  char path[64], link[320], target[256];
  struct dirent *entry;
  lua_Integer n = 0;
  DIR *directory;
  snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
  directory = opendir(path);
  if (directory == NULL) return 0;
  lua_newtable(L);
  while ((entry = readdir(directory)) != NULL) {
    ssize_t length;
    if (entry->d_name[0] == '.' || (pid == getpid() && atoi(entry->d_name) == dirfd(directory))) continue;
    snprintf(link, sizeof link, "%s/%s", path, entry->d_name);
    length = readlink(link, target, sizeof target - 1);
    target[length < 0 ? 0 : length] = '\0';
    lua_pushfstring(L, "%s -> %s", entry->d_name, target);
    lua_rawseti(L, -2, ++n);
  }
  closedir(directory);
  return 1;
}

static int proc_set_dumpable(lua_State *L) {
  if (prctl(PR_SET_DUMPABLE, lua_toboolean(L, 1)) != 0) return luaL_error(L, "prctl: %s", strerror(errno));
  return 0;
}

/* ---- a death that takes its time ---------------------------------------------------------------------------------------- */

/* proc.hold_death(pid): once it is killed it does not get further than to the beginning of its end. False: that is not allowed here. */
static int proc_hold_death(lua_State *L) {
  pid_t pid = (pid_t)luaL_checkinteger(L, 1);
  lua_pushboolean(L, ptrace(PTRACE_SEIZE, pid, NULL, (void *)(uintptr_t)PTRACE_O_TRACEEXIT) == 0);
  return 1;
}

/* proc.is_dying(pid): has one whose death is held come to it? */
static int proc_is_dying(lua_State *L) {
  pid_t pid = (pid_t)luaL_checkinteger(L, 1);
  int status, is_dying = 0;
  while (!is_dying && waitpid(pid, &status, __WALL | WNOHANG) == pid) is_dying = status >> 8 == (SIGTRAP | PTRACE_EVENT_EXIT << 8);
  lua_pushboolean(L, is_dying);
  return 1;
}

/* proc.let_die(pid) -- one that is_dying. */
static int proc_let_die(lua_State *L) {
  pid_t pid = (pid_t)luaL_checkinteger(L, 1);
  if (ptrace(PTRACE_DETACH, pid, NULL, NULL) != 0) return luaL_error(L, "process %d cannot go on: %s", (int)pid, strerror(errno));
  return 0;
}

/* ---- starting --------------------------------------------------------------------------------------------------------- */

/* What the child needs between fork and exec, prepared before: afterwards only system calls are made. */
struct launch {
  char **argv, **envp;
  const char *directory, *terminal;
  int descriptor[3]; /* what becomes 0, 1 and 2 */
  int is_session;
  int ignored[8], n_ignored;
  int report; /* errno of what failed goes here; closed by a successful exec */
};

_Noreturn static void launch_failed(const struct launch *l) {
  int code = errno;
  ssize_t written = write(l->report, &code, sizeof code);
  _exit(written == sizeof code ? 127 : 126);
}

static void launch_signals(const struct launch *l) {
  struct sigaction action;
  sigset_t none;
  int i;
  memset(&action, 0, sizeof action);
  action.sa_handler = SIG_DFL;
  for (i = 1; i < 65; i++) sigaction(i, &action, NULL);
  action.sa_handler = SIG_IGN;
  for (i = 0; i < l->n_ignored; i++) sigaction(l->ignored[i], &action, NULL);
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

static void launch_terminal(struct launch *l) {
  int i, slave = open(l->terminal, O_RDWR);
  if (slave < 0 || ioctl(slave, TIOCSCTTY, 0) != 0) launch_failed(l);
  for (i = 0; i < 3; i++)
    if (l->descriptor[i] < 0) l->descriptor[i] = slave;
}

_Noreturn static void launch_child(struct launch *l, pid_t parent) {
  int i;
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent) _exit(126);
  if (l->is_session ? setsid() < 0 : setpgid(0, 0) != 0) launch_failed(l);
  if (l->terminal != NULL) launch_terminal(l);
  /* Out of the way of 0..2 first; then nothing of the tester's stays open but the report. */
  for (i = 0; i < 3; i++)
    if ((l->descriptor[i] = fcntl(l->descriptor[i], F_DUPFD, 10)) < 0) launch_failed(l);
  if ((l->report = fcntl(l->report, F_DUPFD_CLOEXEC, 10)) < 0) _exit(126);
  for (i = 0; i < 3; i++)
    if (dup2(l->descriptor[i], i) < 0) launch_failed(l);
  if (dup2(l->report, 3) < 0 || fcntl(3, F_SETFD, FD_CLOEXEC) != 0) launch_failed(l);
  l->report = 3;
  if (syscall(SYS_close_range, 4u, ~0u, 0u) != 0)
    for (i = 4; i < 4096; i++) close(i);
  if (l->directory != NULL && chdir(l->directory) != 0) launch_failed(l);
  launch_signals(l);
  execvpe(l->argv[0], l->argv, l->envp);
  launch_failed(l);
}

/* build_arguments -- the strings of opts.args as argv; anchored in opts, the array in a userdata that is pushed. */
static char **build_arguments(lua_State *L, int opts) {
  lua_Integer i, n;
  char **argv;
  if (lua_getfield(L, opts, "args") != LUA_TTABLE) luaL_error(L, "spawn needs args, a table of strings");
  n = luaL_len(L, -1);
  if (n < 1) luaL_error(L, "spawn needs a program: args is empty");
  argv = lua_newuserdatauv(L, sizeof *argv * (size_t)(n + 1), 0);
  for (i = 0; i < n; i++) {
    if (lua_geti(L, -2, i + 1) != LUA_TSTRING) luaL_error(L, "args[%d] is not a string", (int)i + 1);
    argv[i] = (char *)(uintptr_t)lua_tostring(L, -1);
    lua_pop(L, 1);
  }
  argv[n] = NULL;
  return argv;
}

/* is_overridden -- does opts.env (at index env, a table) name the variable of "NAME=value"? */
static int is_overridden(lua_State *L, int env, const char *variable) {
  int result;
  lua_pushlstring(L, variable, strcspn(variable, "="));
  result = lua_rawget(L, env) != LUA_TNIL;
  lua_pop(L, 1);
  return result;
}

/* build_environment -- the tester's environment, changed as opts.env says (false removes); pushes what keeps it alive. */
static char **build_environment(lua_State *L, int opts, const char *mark) {
  size_t n = 0, room = 2;
  char **envp;
  int env, anchors, i;
  for (i = 0; environ[i] != NULL; i++) room++;
  lua_newtable(L);
  env = lua_gettop(L);
  if (lua_getfield(L, opts, "env") == LUA_TTABLE) {
    for (lua_pushnil(L); lua_next(L, -2) != 0; room++) {
      lua_pushvalue(L, -2);
      lua_insert(L, -2);
      lua_rawset(L, env);
    }
  }
  lua_pop(L, 1);
  lua_pushstring(L, mark);
  lua_setfield(L, env, MARK_NAME);
  envp = lua_newuserdatauv(L, sizeof *envp * room, 0);
  lua_newtable(L);
  anchors = lua_gettop(L);
  for (i = 0; environ[i] != NULL; i++)
    if (!is_overridden(L, env, environ[i])) envp[n++] = environ[i];
  for (lua_pushnil(L); lua_next(L, env) != 0; lua_pop(L, 1)) {
    if (lua_isboolean(L, -1)) continue;
    luaL_tolstring(L, -1, NULL);
    envp[n] = (char *)(uintptr_t)lua_pushfstring(L, "%s=%s", lua_tostring(L, -3), lua_tostring(L, -1));
    lua_rawseti(L, anchors, (lua_Integer)++n);
    lua_pop(L, 1);
  }
  envp[n] = NULL;
  return envp;
}

static void new_pipe(lua_State *L, int pair[2]) {
  if (pipe2(pair, O_CLOEXEC) != 0) luaL_error(L, "pipe: %s", strerror(errno));
}

/* open_output -- descriptor of the child for opts[name]; -1: the terminal. `ours` gets the tester's end of a pipe. */
static int open_output(lua_State *L, int opts, const char *name, int is_pty, int merged, struct stream *ours) {
  int pair[2], fd;
  const char *where;
  lua_getfield(L, opts, name);
  where = lua_tostring(L, -1);
  if (where == NULL && is_pty) {
    fd = -1;
  } else if (where == NULL || strcmp(where, "pipe") == 0) {
    new_pipe(L, pair);
    ours->fd = pair[0];
    fd = pair[1];
  } else if (strcmp(where, "stdout") == 0) {
    fd = merged < 0 ? -1 : fcntl(merged, F_DUPFD_CLOEXEC, 3);
  } else {
    fd = open(where, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) luaL_error(L, "%s: %s", where, strerror(errno));
  }
  lua_pop(L, 1);
  return fd;
}

static int open_input(lua_State *L, int opts, struct child *c) {
  const char *what;
  size_t length;
  int pair[2], fd;
  lua_getfield(L, opts, "stdin");
  what = lua_tolstring(L, -1, &length);
  if (what == NULL && c->is_pty) {
    fd = -1;
  } else if (what == NULL || strcmp(what, "null") == 0) {
    fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  } else {
    new_pipe(L, pair);
    fd = pair[0];
    c->input.fd = pair[1];
    if (strcmp(what, "pipe") != 0) {
      append(&c->input, what, length);
      c->close_input = 1;
    }
  }
  lua_pop(L, 1);
  return fd;
}

/* open_terminal -- a new pseudo-terminal: its master becomes the child's output (and input, where that is not a pipe). */
static void open_terminal(lua_State *L, struct child *c, char *path, size_t room) {
  struct winsize size = {24, 80, 0, 0};
  int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  c->output.fd = master;
  if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0 || ptsname_r(master, path, room) != 0)
    luaL_error(L, "pseudo-terminal: %s", strerror(errno));
  ioctl(master, TIOCSWINSZ, &size);
  memset(&c->first, 0, sizeof c->first); /* padding compares equal */
  if (tcgetattr(master, &c->first) != 0) luaL_error(L, "settings of a pseudo-terminal: %s", strerror(errno));
}

static void new_mark(char *mark) {
  static unsigned counter = 0;
  static pid_t counter_of = 0;
  const char *above = getenv(MARK_NAME);
  if (counter_of != getpid()) counter = 0;
  counter_of = getpid();
  snprintf(mark, MARK_BYTES, "%.100s%s%d-%.0f-%u", above ? above : "", above ? "." : "", (int)getpid(), now() * 1e6, ++counter);
}

static double get_number(lua_State *L, int opts, const char *name, double otherwise) {
  double value;
  lua_getfield(L, opts, name);
  value = luaL_optnumber(L, -1, otherwise);
  lua_pop(L, 1);
  return value;
}

static int get_boolean(lua_State *L, int opts, const char *name, int otherwise) {
  int value = lua_getfield(L, opts, name) == LUA_TNIL ? otherwise : lua_toboolean(L, -1);
  lua_pop(L, 1);
  return value;
}

static void get_ignored(lua_State *L, int opts, struct launch *l) {
  lua_Integer i;
  if (lua_getfield(L, opts, "ignore") == LUA_TTABLE) {
    for (i = 1; l->n_ignored < 8 && lua_geti(L, -1, i) != LUA_TNIL; i++, lua_pop(L, 1))
      l->ignored[l->n_ignored++] = check_signal(L, -1);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

/* The first opts that are no words of ours are mistakes of the test: say so. */
static void check_options(lua_State *L, int opts) {
  static const char *const KNOWN[] = {"args",    "env",    "stdin",    "stdout", "stderr", "pty", "session", "cwd",
                                      "ignore", "deadline", NULL};
  luaL_checktype(L, opts, LUA_TTABLE);
  for (lua_pushnil(L); lua_next(L, opts) != 0; lua_pop(L, 1)) {
    int i = 0;
    while (KNOWN[i] != NULL && !(lua_type(L, -2) == LUA_TSTRING && strcmp(KNOWN[i], lua_tostring(L, -2)) == 0)) i++;
    if (KNOWN[i] == NULL) luaL_error(L, "spawn knows no option '%s'", luaL_tolstring(L, -2, NULL));
  }
}

static struct child *new_child(lua_State *L) {
  struct child *c = lua_newuserdatauv(L, sizeof *c, 0);
  memset(c, 0, sizeof *c);
  c->pidfd = c->input.fd = c->output.fd = c->error.fd = -1;
  c->is_reaped = 1; /* nothing to reap yet */
  c->owner = getpid();
  luaL_setmetatable(L, CHILD);
  return c;
}

/* start -- fork and exec; waits until the exec has happened. Returns 0 or the errno of what failed in the child. */
static int start(struct child *c, struct launch *l, int report) {
  pid_t parent = getpid();
  int code = 0;
  c->pid = fork();
  if (c->pid == 0) launch_child(l, parent);
  code = c->pid < 0 ? errno : 0;
  close(l->report);
  if (c->pid > 0) {
    c->is_reaped = 0;
    c->pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0);
    while (read(report, &code, sizeof code) < 0 && errno == EINTR) {
    }
  }
  close(report);
  return code;
}

static int proc_spawn(lua_State *L) {
  struct launch l = {0};
  struct child *c;
  char terminal[64];
  int report[2], code, i;
  check_options(L, 1);
  lua_settop(L, 1);
  c = new_child(L);
  c->is_pty = get_boolean(L, 1, "pty", 0);
  c->deadline = now() + get_number(L, 1, "deadline", DEFAULT_DEADLINE_S) * slowness;
  new_mark(c->mark);
  l.is_session = c->is_pty || get_boolean(L, 1, "session", 1);
  get_ignored(L, 1, &l);
  l.argv = build_arguments(L, 1);
  l.envp = build_environment(L, 1, c->mark);
  lua_getfield(L, 1, "cwd");
  l.directory = lua_tostring(L, -1);
  if (c->is_pty) {
    struct stream apart = {-1, NULL, 0, 0};
    open_terminal(L, c, terminal, sizeof terminal);
    l.terminal = terminal;
    l.descriptor[1] = open_output(L, 1, "stdout", 1, -1, &apart);
    if (apart.fd >= 0) {
      close(apart.fd);
      close(l.descriptor[1]);
      return luaL_error(L, "with a terminal, stdout is the terminal or a file");
    }
  } else {
    l.descriptor[1] = open_output(L, 1, "stdout", 0, -1, &c->output);
  }
  l.descriptor[0] = open_input(L, 1, c);
  l.descriptor[2] = open_output(L, 1, "stderr", c->is_pty, l.descriptor[1], &c->error);
  new_pipe(L, report);
  l.report = report[1];
  code = start(c, &l, report[0]);
  for (i = 0; i < 3; i++) close_fd(&l.descriptor[i]);
  for (i = 0; i < 3; i++) {
    int fd = i == 0 ? c->input.fd : i == 1 ? c->output.fd : c->error.fd;
    if (fd >= 0) fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  }
  if (code != 0) return luaL_error(L, "cannot start %s: %s", l.argv[0], strerror(code));
  lua_settop(L, 2);
  return 1;
}

/* ---- talking and waiting ---------------------------------------------------------------------------------------------- */

/* take_output -- read what is there. At its end the descriptor is closed; a terminal's master stays (its settings are asked for later). */
static int take_output(lua_State *L, struct child *c, struct stream *s, int *is_at_end) {
  char block[65536];
  ssize_t got;
  while ((got = read(s->fd, block, sizeof block)) > 0)
    if (append(s, block, (size_t)got) != 0) return luaL_error(L, "out of memory for the output of process %d", (int)c->pid);
  if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) *is_at_end = 1;
  return 0;
}

/* give_input -- write what is waiting; a reader that is gone is no error (and no SIGPIPE for the tester). */
static void give_input(struct child *c) {
  int fd = c->input.fd >= 0 ? c->input.fd : c->output.fd;
  struct timespec no_time = {0, 0};
  sigset_t pipe_signal, before;
  ssize_t put;
  sigemptyset(&pipe_signal);
  sigaddset(&pipe_signal, SIGPIPE);
  sigprocmask(SIG_BLOCK, &pipe_signal, &before);
  put = write(fd, c->input.data, c->input.length);
  if (put < 0 && errno == EPIPE) {
    sigtimedwait(&pipe_signal, NULL, &no_time);
    put = (ssize_t)c->input.length;
  }
  sigprocmask(SIG_SETMASK, &before, NULL);
  if (put <= 0) return;
  c->input.length -= (size_t)put;
  memmove(c->input.data, c->input.data + put, c->input.length);
}

static int has_ended(struct child *c) {
  pid_t got;
  if (c->is_reaped) return 1;
  got = wait4(c->pid, &c->status, WNOHANG, &c->usage);
  if (got == c->pid || (got < 0 && errno == ECHILD)) c->is_reaped = 1;
  return c->is_reaped;
}

struct streams_state {
  int output_ended, error_ended;
};

/* turn -- one round: wait at most `timeout_ms` for anything to happen, move bytes both ways, look whether it ended. */
static void turn(lua_State *L, struct child *c, struct streams_state *s, int timeout_ms) {
  struct pollfd fds[4] = {{-1, POLLIN, 0}, {-1, POLLIN, 0}, {-1, POLLOUT, 0}, {-1, POLLIN, 0}};
  if (c->output.fd < 0) s->output_ended = 1;
  if (c->error.fd < 0) s->error_ended = 1;
  if (!s->output_ended) fds[0].fd = c->output.fd;
  if (!s->error_ended) fds[1].fd = c->error.fd;
  if (c->input.length > 0) fds[2].fd = c->input.fd >= 0 ? c->input.fd : c->output.fd;
  if (!c->is_reaped) fds[3].fd = c->pidfd;
  if (c->pidfd < 0 && !c->is_reaped && timeout_ms > STEP_MS) timeout_ms = STEP_MS;
  poll(fds, 4, timeout_ms);
  if (fds[0].revents) take_output(L, c, &c->output, &s->output_ended);
  if (fds[1].revents) take_output(L, c, &c->error, &s->error_ended);
  if (fds[2].revents) give_input(c);
  if (c->close_input && c->input.length == 0) close_fd(&c->input.fd);
  has_ended(c);
}

/* drain -- after the end: all that it wrote is in the pipes already; a terminal may need a moment to pass it on. */
static void drain(lua_State *L, struct child *c, struct streams_state *s) {
  double until = now() + (c->is_pty ? PTY_DRAIN_MS * 1e-3 : 0.0);
  c->input.length = 0;
  do {
    turn(L, c, s, c->is_pty ? STEP_MS : 0);
  } while (!(s->output_ended && s->error_ended) && now() < until);
}

static struct child *check_child(lua_State *L) {
  struct child *c = luaL_checkudata(L, 1, CHILD);
  if (c->owner != getpid()) luaL_error(L, "this child belongs to process %d", (int)c->owner);
  return c;
}

/* until -- when to stop waiting: after the seconds at index (none: the child's own deadline). */
static double until(lua_State *L, const struct child *c, int index) {
  return lua_isnoneornil(L, index) ? c->deadline : now() + luaL_checknumber(L, index) * slowness;
}

static void end_tree(struct child *c) {
  if (c->owner != getpid()) return;
  if (!has_ended(c)) kill(c->pid, SIGKILL);
  if (c->mark[0]) kill_marked(c->mark);
  while (!c->is_reaped)
    if (wait4(c->pid, &c->status, 0, &c->usage) == c->pid || errno == ECHILD) c->is_reaped = 1;
}

/* push_evidence -- what the function given to proc.on_hang says about a child that did not end, as a string; none: an empty one. */
static void push_evidence(lua_State *L, const struct child *c) {
  if (lua_getfield(L, LUA_REGISTRYINDEX, CHILD ".on_hang") == LUA_TFUNCTION && c->mark[0]) {
    lua_pushinteger(L, c->pid);
    lua_pushstring(L, c->mark);
    lua_pcall(L, 2, 1, 0);
  }
  if (lua_tostring(L, -1) == NULL) lua_pushliteral(L, "");
}

/* check_deadline -- no child outlives its deadline while somebody looks at it. */
static void check_deadline(lua_State *L, struct child *c) {
  if (now() < c->deadline || c->is_reaped) return;
  push_evidence(L, c);
  end_tree(c);
  luaL_error(L, "process %d was killed: its deadline had passed\n%s", (int)c->pid, lua_tostring(L, -1));
}

static int left_ms(const struct child *c, double stop) {
  double left = (stop < c->deadline ? stop : c->deadline) - now();
  return left <= 0 ? 0 : left > 1 ? 1000 : (int)(left * 1000) + 1;
}

static void push_status(lua_State *L, const struct child *c) {
  lua_newtable(L);
  if (WIFSIGNALED(c->status)) {
    push_signal_name(L, WTERMSIG(c->status));
    lua_setfield(L, -2, "signal");
  } else {
    set_integer(L, "exit", WEXITSTATUS(c->status));
  }
  set_number(L, "utime", (double)c->usage.ru_utime.tv_sec + (double)c->usage.ru_utime.tv_usec * 1e-6);
  set_number(L, "stime", (double)c->usage.ru_stime.tv_sec + (double)c->usage.ru_stime.tv_usec * 1e-6);
  set_integer(L, "max_rss_bytes", (lua_Integer)c->usage.ru_maxrss * 1024);
}

/* wait_for_end -- 1: it has ended, all its output is here; 0: not within the time. */
static int wait_for_end(lua_State *L, struct child *c, double stop) {
  struct streams_state s = {0, 0};
  while (!has_ended(c)) {
    turn(L, c, &s, left_ms(c, stop));
    if (c->is_reaped) break;
    check_deadline(L, c);
    if (now() >= stop) return 0;
  }
  drain(L, c, &s);
  return 1;
}

static int child_wait(lua_State *L) {
  struct child *c = check_child(L);
  if (!wait_for_end(L, c, until(L, c, 2))) return 0;
  push_status(L, c);
  push_stream(L, &c->output);
  push_stream(L, &c->error);
  return 3;
}

static int child_finish(lua_State *L) {
  struct child *c = check_child(L);
  if (!wait_for_end(L, c, until(L, c, 2))) {
    struct streams_state s = {0, 0};
    push_evidence(L, c);
    end_tree(c);
    drain(L, c, &s);
    push_stream(L, &c->output);
    push_stream(L, &c->error);
    return luaL_error(L, "process %d had to be killed: it did not end in time\nstdout: %s\nstderr: %s\n%s", (int)c->pid,
                      lua_tostring(L, -2), lua_tostring(L, -1), lua_tostring(L, -3));
  }
  lua_settop(L, 1);
  return child_wait(L);
}

/* find -- string.find(stream, pattern, from): where the match ends, or 0. */
static lua_Integer find(lua_State *L, const struct stream *s, int pattern, lua_Integer from) {
  lua_Integer end;
  lua_getfield(L, LUA_REGISTRYINDEX, CHILD ".find");
  push_stream(L, s);
  lua_pushvalue(L, pattern);
  lua_pushinteger(L, from);
  lua_call(L, 3, 2);
  end = lua_tointeger(L, -1);
  lua_pop(L, 2);
  return end;
}

static int child_read_until(lua_State *L) {
  struct child *c = check_child(L);
  struct streams_state s = {0, 0};
  double stop = until(L, c, 3);
  lua_Integer from = luaL_optinteger(L, 4, 1), end = 0;
  int is_over = 0;
  luaL_checkstring(L, 2);
  for (;;) {
    size_t before = c->output.length + c->error.length;
    end = find(L, &c->output, 2, from);
    if (end == 0) end = find(L, &c->error, 2, from);
    if (end != 0 || is_over) break;
    do {
      turn(L, c, &s, left_ms(c, stop));
      if (c->is_reaped) drain(L, c, &s);
      else check_deadline(L, c);
      is_over = c->is_reaped || now() >= stop;
    } while (!is_over && c->output.length + c->error.length == before);
  }
  if (end == 0) lua_pushnil(L);
  push_stream(L, &c->output);
  push_stream(L, &c->error);
  if (end != 0) lua_pushinteger(L, end + 1);
  return 3;
}

static int child_write(lua_State *L) {
  struct child *c = check_child(L);
  struct streams_state s = {0, 0};
  double stop = until(L, c, 3);
  size_t length;
  const char *text = luaL_checklstring(L, 2, &length);
  if (c->input.fd < 0 && !c->is_pty) return luaL_error(L, "the standard input of this child is not a pipe, or closed");
  if (append(&c->input, text, length) != 0) return luaL_error(L, "out of memory");
  while (c->input.length > 0 && !c->is_reaped && now() < stop) {
    turn(L, c, &s, left_ms(c, stop));
    if (!c->is_reaped) check_deadline(L, c);
  }
  lua_pushboolean(L, c->input.length == 0);
  return 1;
}

static int child_close_stdin(lua_State *L) {
  struct child *c = check_child(L);
  if (c->input.fd < 0 && c->is_pty) {
    lua_settop(L, 1);
    lua_pushliteral(L, "\4"); /* a terminal has no end: ^D on an empty line */
    return child_write(L);
  }
  c->close_input = 1;
  if (c->input.length == 0) close_fd(&c->input.fd);
  return 0;
}

/* child_hang_up -- close the terminal, as a user who closes the window: its session gets SIGHUP. */
static int child_hang_up(lua_State *L) {
  struct child *c = check_child(L);
  if (!c->is_pty) return luaL_error(L, "this child has no terminal");
  close_fd(&c->output.fd);
  return 0;
}

/* ---- signals and the rest --------------------------------------------------------------------------------------------- */

static int push_killed(lua_State *L, int result) {
  int code = errno;
  lua_pushboolean(L, result == 0);
  if (result == 0) return 1;
  lua_pushstring(L, strerror(code));
  return 2;
}

static int child_kill(lua_State *L) {
  struct child *c = check_child(L);
  int signal = check_signal(L, 2);
  errno = ESRCH;
  return push_killed(L, c->is_reaped ? -1 : kill(c->pid, signal));
}

static int child_kill_group(lua_State *L) {
  struct child *c = check_child(L);
  int signal = check_signal(L, 2);
  return push_killed(L, kill(-c->pid, signal)); /* the child leads its group */
}

static int proc_kill(lua_State *L) {
  lua_Integer pid = luaL_checkinteger(L, 1);
  int signal = check_signal(L, 2);
  if (pid == 0 || pid == -1 || pid == 1) return luaL_error(L, "a test must not signal process %d", (int)pid);
  return push_killed(L, kill((pid_t)pid, signal));
}

static int proc_kill_marked(lua_State *L) {
  lua_pushboolean(L, kill_marked(luaL_checkstring(L, 1)) > 1);
  return 1;
}

static int proc_on_hang(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  lua_setfield(L, LUA_REGISTRYINDEX, CHILD ".on_hang");
  return 0;
}

static int proc_sleep(lua_State *L) {
  sleep_seconds(luaL_checknumber(L, 1));
  return 0;
}

/* proc.readable(fd, seconds) -> boolean: does it become readable in time? */
static int proc_readable(lua_State *L) {
  struct pollfd one = {(int)luaL_checkinteger(L, 1), POLLIN, 0};
  lua_pushboolean(L, poll(&one, 1, (int)(luaL_checknumber(L, 2) * 1000)) > 0);
  return 1;
}

static int proc_now(lua_State *L) {
  lua_pushnumber(L, now());
  return 1;
}

static int proc_pid(lua_State *L) {
  lua_pushinteger(L, getpid());
  return 1;
}

static int proc_directory(lua_State *L) {
  char path[4096];
  if (getcwd(path, sizeof path) == NULL) return luaL_error(L, "getcwd: %s", strerror(errno));
  lua_pushstring(L, path);
  return 1;
}

/* proc.wait_until(condition, seconds): its first true result, asked for every millisecond; nothing when the time is over. */
static int proc_wait_until(lua_State *L) {
  double stop = now() + luaL_checknumber(L, 2) * slowness;
  luaL_checktype(L, 1, LUA_TFUNCTION);
  for (;;) {
    int is_late = now() >= stop;
    lua_pushvalue(L, 1);
    lua_call(L, 0, 1);
    if (lua_toboolean(L, -1)) return 1;
    lua_pop(L, 1);
    if (is_late) return 0;
    sleep_seconds(0.001);
  }
}

static int proc_list(lua_State *L) {
  DIR *directory = opendir(luaL_checkstring(L, 1));
  struct dirent *entry;
  lua_Integer n = 0;
  if (directory == NULL) return 0;
  lua_newtable(L);
  while ((entry = readdir(directory)) != NULL) {
    if (entry->d_name[0] == '.') continue;
    lua_pushstring(L, entry->d_name);
    lua_rawseti(L, -2, ++n);
  }
  closedir(directory);
  return 1;
}

static int proc_tty_settings(lua_State *L) {
  struct child *c = check_child(L);
  struct termios t;
  memset(&t, 0, sizeof t); /* padding compares equal */
  if (!c->is_pty || tcgetattr(c->output.fd, &t) != 0) return luaL_error(L, "this child has no terminal");
  lua_pushlstring(L, (const char *)&t, sizeof t);
  return 1;
}

static int child_gc(lua_State *L) {
  struct child *c = luaL_checkudata(L, 1, CHILD);
  end_tree(c);
  c->mark[0] = '\0'; /* __gc after __close has nothing left to look for */
  close_fd(&c->pidfd);
  stream_free(&c->input);
  stream_free(&c->output);
  stream_free(&c->error);
  return 0;
}

static int child_index(lua_State *L) {
  struct child *c = luaL_checkudata(L, 1, CHILD);
  const char *key = luaL_checkstring(L, 2);
  if (strcmp(key, "pid") == 0) lua_pushinteger(L, c->pid);
  else if (strcmp(key, "mark") == 0) lua_pushstring(L, c->mark);
  else if (strcmp(key, "terminal") == 0) lua_pushlstring(L, (const char *)&c->first, c->is_pty ? sizeof c->first : 0);
  else if (strcmp(key, "stdout") == 0) push_stream(L, &c->output);
  else if (strcmp(key, "stderr") == 0) push_stream(L, &c->error);
  else lua_getfield(L, lua_upvalueindex(1), key);
  return 1;
}

static const luaL_Reg METHODS[] = {{"wait", child_wait},
                                   {"finish", child_finish},
                                   {"read_until", child_read_until},
                                   {"write", child_write},
                                   {"close_stdin", child_close_stdin},
                                   {"hang_up", child_hang_up},
                                   {"kill", child_kill},
                                   {"kill_group", child_kill_group},
                                   {NULL, NULL}};

/* Deeper and deeper, until the stack has ended. */
static int overflow(volatile const char *below) {
  volatile char here[4096];
  here[0] = below[0];
  if (here[0] == 'x') return 0;
  return overflow(here) + here[0];
}

/* proc.crash("segv" | "abort" | "fpe" | "overflow"): as a C module does that has a fault. */
static int proc_crash(lua_State *L) {
  static const char *const ways[] = {"segv", "abort", "fpe", "overflow", NULL};
  char *wall;
  switch (luaL_checkoption(L, 1, NULL, ways)) {
    case 0:
      wall = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      *(volatile char *)wall = 1;
      break;
    case 1: abort();
    case 2: raise(SIGFPE); break;
    default: return overflow("");
  }
  return luaL_error(L, "still there");
}

static const luaL_Reg FUNCTIONS[] = {{"spawn", proc_spawn},
                                     {"leftovers", proc_leftovers},
                                     {"kill_marked", proc_kill_marked},
                                     {"children", proc_children},
                                     {"stat", proc_stat},
                                     {"status_field", proc_status_field},
                                     {"fds", proc_fds},
                                     {"kill", proc_kill},
                                     {"set_dumpable", proc_set_dumpable},
                                     {"hold_death", proc_hold_death},
                                     {"is_dying", proc_is_dying},
                                     {"let_die", proc_let_die},
                                     {"crash", proc_crash},
                                     {"on_hang", proc_on_hang},
                                     {"sleep", proc_sleep},
                                     {"readable", proc_readable},
                                     {"now", proc_now},
                                     {"pid", proc_pid},
                                     {"directory", proc_directory},
                                     {"wait_until", proc_wait_until},
                                     {"list", proc_list},
                                     {"tty_settings", proc_tty_settings},
                                     {NULL, NULL}};

__attribute__((visibility("default"))) int luaopen_proc(lua_State *L) {
  const char *asked = getenv("POOLTEST_SLOWNESS");
  if (asked != NULL && atof(asked) >= 1) slowness = atof(asked);
  luaL_newmetatable(L, CHILD);
  lua_pushcfunction(L, child_gc);
  lua_setfield(L, -2, "__gc");
  lua_pushcfunction(L, child_gc);
  lua_setfield(L, -2, "__close");
  luaL_newlib(L, METHODS);
  lua_pushcclosure(L, child_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  lua_getglobal(L, "string");
  lua_getfield(L, -1, "find");
  lua_setfield(L, LUA_REGISTRYINDEX, CHILD ".find");
  lua_pop(L, 1);
  luaL_newlib(L, FUNCTIONS);
  lua_pushnumber(L, slowness);
  lua_setfield(L, -2, "slowness");
  return 1;
}
