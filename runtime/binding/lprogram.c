/*
 * binding/lprogram -- see lprogram.h.
 *
 * Room: binding.  Owns: while a command runs its process, and two files of memory that its output goes to. The userdata that holds them
 * exists before they do: whatever is raised, the command is ended with all that it has started, and reaped.
 * Files, not pipes: nobody has to read while it runs, and what it leaves in the background cannot keep the job open.
 */
#include "binding/lprogram.h"

#include <errno.h>
#include <lauxlib.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/os.h"
#include "job/delivery.h"
#include "process/interrupt.h"
#include "process/process.h"

#define PROGRAM_TYPE "luapool.program"
#define NS_PER_S 1e9

extern char **environ;

enum {
  END_GRACE_NS = 200 * 1000 * 1000, /* between SIGTERM and SIGKILL; less than the grace of the pool */
  LOOK_NS = 5 * 1000 * 1000         /* where an end cannot be waited for */
};

struct program {
  pid_t pid;     /* 0: none, or reaped */
  int pidfd;
  int output[2]; /* stdout and stderr; -1: not caught */
  int status;    /* as waitpid gives it */
};

/* End it if it runs, with all that it has started. Does not raise. */
static void end(struct program *p) {
  int status;
  if (p->pid == 0) return;
  process_end_child(p->pid, END_GRACE_NS);
  while (waitpid(p->pid, &status, 0) < 0 && errno == EINTR) continue;
  p->pid = 0;
}

static void release(struct program *p) {
  end(p);
  os_close(&p->pidfd);
  os_close(&p->output[0]);
  os_close(&p->output[1]);
}

static int program_gc(lua_State *L) {
  release(luaL_checkudata(L, 1, PROGRAM_TYPE));
  return 0;
}

/* Pushed, empty, to be closed when the calling function is left. */
static struct program *push_program(lua_State *L) {
  struct program *p = lua_newuserdatauv(L, sizeof *p, 0);
  p->pid = 0;
  p->pidfd = p->output[0] = p->output[1] = -1;
  luaL_setmetatable(L, PROGRAM_TYPE);
  lua_toclose(L, -1);
  return p;
}

/* ---- starting ---- */

static int catch_output(struct program *p) {
  for (int i = 0; i < 2; i++) {
    p->output[i] = os_memory_file("luapool-job");
    if (p->output[i] < 0) return p->output[i];
  }
  return 0;
}

static int spawn(struct program *p, const char *shell, const char *command) {
  char *argv[] = {(char *)shell, (char *)"-c", (char *)command, NULL};
  posix_spawn_file_actions_t actions;
  int status = posix_spawn_file_actions_init(&actions);
  if (status != 0) return -status;
  if (p->output[0] >= 0) {
    status = posix_spawn_file_actions_adddup2(&actions, p->output[0], STDOUT_FILENO);
    if (status == 0) status = posix_spawn_file_actions_adddup2(&actions, p->output[1], STDERR_FILENO);
  }
  if (status == 0) {
    pid_t pid;
    interrupt_starting_program(1);
    status = posix_spawnp(&pid, shell, &actions, NULL, argv, environ);
    interrupt_starting_program(0);
    if (status == 0) p->pid = pid;
  }
  posix_spawn_file_actions_destroy(&actions);
  return -status;
}

/* ---- waiting ---- */

/* 1: it has ended, and is reaped. */
static int look(struct program *p) {
  pid_t pid;
  do pid = waitpid(p->pid, &p->status, WNOHANG);
  while (pid < 0 && errno == EINTR);
  if (pid == 0) return 0;
  if (pid < 0) p->status = 0; /* somebody else took it */
  p->pid = 0;
  return 1;
}

static void push_file(lua_State *L, int fd);

/* An interrupt: the command is ended, what it had written goes into the table at `into` (if there is one), and the interrupt is raised. */
static void give_up(lua_State *L, struct program *p, int into) {
  end(p);
  if (p->output[0] >= 0 && lua_istable(L, into)) {
    push_file(L, p->output[0]);
    lua_setfield(L, into, "out");
    push_file(L, p->output[1]);
    lua_setfield(L, into, "err");
  }
  (void)delivery_checkpoint(L);
  luaL_error(L, "cancelled: an interrupt is pending");
}

static void wait_for_end(lua_State *L, struct program *p, int into) {
  p->pidfd = os_pidfd_open(p->pid);
  while (!look(p)) {
    int can_raise = delivery_can_raise();
    struct pollfd fds[2] = {{p->pidfd, POLLIN, 0}, {interrupt_fd(), POLLIN, 0}};
    if (interrupt_pending() && can_raise) give_up(L, p, into);
    (void)os_poll(fds, can_raise && fds[1].fd >= 0 ? 2 : 1, p->pidfd >= 0 ? -1 : LOOK_NS);
  }
}

/* ---- the result ---- */

/* The whole file as a string. No call of a function is in here: an interrupt that is pending would be raised at its return. */
static void push_file(lua_State *L, int fd) {
  int64_t size = os_size(fd);
  size_t length = 0;
  char *data;
  if (size < 0) luaL_error(L, "cannot read the output of the command: %s", strerror((int)-size));
  data = lua_newuserdatauv(L, (size_t)size + 1, 0);
  while (length < (size_t)size) {
    ssize_t got = os_read_at(fd, data + length, (size_t)size - length, length);
    if (got < 0) luaL_error(L, "cannot read the output of the command: %s", strerror((int)-got));
    if (got == 0) break;
    length += (size_t)got;
  }
  lua_pushlstring(L, data, length);
  lua_remove(L, -2);
}

static lua_Number wall_clock(void) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return (lua_Number)now.tv_sec + (lua_Number)now.tv_nsec / NS_PER_S;
}

/*
 * core.run(command, shell, catches [, table]) -> status, signal, began, seconds, stdout, stderr
 * Run `shell -c command` and wait for its end. status: what it exited with; signal: what killed it, or 0; began: seconds since the epoch.
 * With `catches` its output comes back as two strings, else it goes where this process's goes. Raises when it cannot be started, and
 * interrupts: then it is ended first, with all that it has started, and what it had written is in table.out and table.err.
 */
static int core_run(lua_State *L) {
  const char *command = luaL_checkstring(L, 1), *shell = luaL_checkstring(L, 2);
  const int catches = lua_toboolean(L, 3);
  const lua_Number began = wall_clock();
  const int64_t began_ns = os_now_ns();
  struct program *p;
  int status;
  lua_settop(L, 4);
  p = push_program(L);
  status = catches ? catch_output(p) : 0;
  if (status < 0) return luaL_error(L, "no memory for the output of the command: %s", strerror(-status));
  status = spawn(p, shell, command);
  if (status < 0) return luaL_error(L, "cannot start %s: %s", shell, strerror(-status));
  wait_for_end(L, p, 4);
  lua_pushinteger(L, WIFEXITED(p->status) ? WEXITSTATUS(p->status) : 0);
  lua_pushinteger(L, WIFSIGNALED(p->status) ? WTERMSIG(p->status) : 0);
  lua_pushnumber(L, began);
  lua_pushnumber(L, (lua_Number)(os_now_ns() - began_ns) / NS_PER_S);
  if (!catches) return 4;
  push_file(L, p->output[0]);
  push_file(L, p->output[1]);
  return 6;
}

/* core.wall_clock() -> seconds since the epoch */
static int core_wall_clock(lua_State *L) {
  lua_pushnumber(L, wall_clock());
  return 1;
}

void lprogram_open_library(lua_State *L) {
  luaL_newmetatable(L, PROGRAM_TYPE);
  lua_pushcfunction(L, program_gc);
  lua_setfield(L, -2, "__gc");
  lua_pushcfunction(L, program_gc);
  lua_setfield(L, -2, "__close");
  lua_pop(L, 1);
  lua_pushcfunction(L, core_run);
  lua_setfield(L, -2, "run");
  lua_pushcfunction(L, core_wall_clock);
  lua_setfield(L, -2, "wall_clock");
}
