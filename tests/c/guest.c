/*
 * guest -- what a library must leave in a program as it found it, as texts to compare. For tests/test_hosts.lua, which loads this into
 * programs that nobody here wrote.
 *   guest.state()  a table: descriptors (each with what it is and its flags), threads, children, signals (disposition, flags and mask of
 *                  each, and what this thread blocks), place (directory, umask, locale), environment, timers, mappings (of shared memory)
 */
#include <dirent.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

int luaopen_guest(lua_State *L);

extern char **environ;

/* The names in a folder, sorted: another order is no change. The caller frees each and the list. */
static int names_of(lua_State *L, const char *path, struct dirent ***list) {
  int n = scandir(path, list, NULL, alphasort);
  if (n < 0) luaL_error(L, "cannot list %s", path);
  return n;
}

static void add_text_of(luaL_Buffer *b, const char *path) {
  char text[1024];
  FILE *file = fopen(path, "re");
  size_t got = file ? fread(text, 1, sizeof text, file) : 0;
  if (file) fclose(file);
  luaL_addlstring(b, text, got);
}

/* What is open: those that listing itself opens are gone before they are looked at. */
static void push_descriptors(lua_State *L) {
  struct dirent **list;
  int n = names_of(L, "/proc/self/fd", &list);
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  for (int i = 0; i < n; i++) {
    char path[300], target[512], line[900];
    ssize_t length;
    int fd = atoi(list[i]->d_name), flags = fcntl(fd, F_GETFL);
    snprintf(path, sizeof path, "/proc/self/fd/%s", list[i]->d_name);
    length = list[i]->d_name[0] == '.' ? -1 : readlink(path, target, sizeof target - 1);
    free(list[i]);
    if (length < 0) continue;
    target[length] = '\0';
    snprintf(line, sizeof line, "%d -> %s (flags %x, %x)\n", fd, target, (unsigned)flags, (unsigned)fcntl(fd, F_GETFD));
    luaL_addstring(&b, line);
  }
  free(list);
  luaL_pushresult(&b);
}

/* The threads, and the children that each of them has. */
static void push_tasks(lua_State *L, int are_children) {
  struct dirent **list;
  int n = names_of(L, "/proc/self/task", &list);
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  for (int i = 0; i < n; i++) {
    char path[300];
    snprintf(path, sizeof path, "/proc/self/task/%s/%s", list[i]->d_name, are_children ? "children" : "comm");
    if (list[i]->d_name[0] != '.') add_text_of(&b, path);
    free(list[i]);
  }
  free(list);
  luaL_pushresult(&b);
}

static void add_mask(luaL_Buffer *b, const sigset_t *set) {
  char name[16];
  for (int i = 1; i < 65; i++) {
    if (sigismember(set, i) != 1) continue;
    snprintf(name, sizeof name, " %d", i);
    luaL_addstring(b, name);
  }
}

static void push_signals(lua_State *L) {
  sigset_t blocked;
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  for (int i = 1; i < 65; i++) {
    struct sigaction action;
    char line[100];
    if (sigaction(i, NULL, &action) < 0) continue;
    snprintf(line, sizeof line, "%d: %p, flags %x, mask", i, (void *)(size_t)action.sa_handler, (unsigned)action.sa_flags);
    luaL_addstring(&b, line);
    add_mask(&b, &action.sa_mask);
    luaL_addchar(&b, '\n');
  }
  luaL_addstring(&b, "blocked");
  if (sigprocmask(SIG_SETMASK, NULL, &blocked) == 0) add_mask(&b, &blocked);
  luaL_pushresult(&b);
}

static void push_environment(lua_State *L) {
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  for (char **at = environ; at != NULL && *at != NULL; at++) {
    luaL_addstring(&b, *at);
    luaL_addchar(&b, '\n');
  }
  luaL_pushresult(&b);
}

static void push_timers(lua_State *L) {
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  for (int i = ITIMER_REAL; i <= ITIMER_PROF; i++) {
    struct itimerval timer;
    int is_on = getitimer(i, &timer) == 0 && (timer.it_value.tv_sec > 0 || timer.it_value.tv_usec > 0);
    luaL_addstring(&b, is_on ? "on " : "off ");
  }
  luaL_pushresult(&b);
}

/* Memory that is shared with others: ours has a name, or is a file that never had one. */
static void push_mappings(lua_State *L) {
  char line[1024];
  luaL_Buffer b;
  FILE *file = fopen("/proc/self/maps", "re");
  luaL_buffinit(L, &b);
  while (file != NULL && fgets(line, sizeof line, file) != NULL)
    if (strstr(line, "memfd:luapool") || strstr(line, "/dev/shm/") || strstr(line, "/dev/zero") ||
        (strstr(line, "/luapool-") && strstr(line, "(deleted)")))
      luaL_addstring(&b, line);
  if (file != NULL) fclose(file);
  luaL_pushresult(&b);
}

static void push_place(lua_State *L) {
  char directory[4096];
  mode_t mask = umask(0);
  umask(mask);
  lua_pushfstring(L, "%s, umask %d, locale %s", getcwd(directory, sizeof directory) ? directory : "?", (int)mask, setlocale(LC_ALL, NULL));
}

static int state(lua_State *L) {
  lua_createtable(L, 0, 8);
  push_descriptors(L);
  lua_setfield(L, -2, "descriptors");
  push_tasks(L, 0);
  lua_setfield(L, -2, "threads");
  push_tasks(L, 1);
  lua_setfield(L, -2, "children");
  push_signals(L);
  lua_setfield(L, -2, "signals");
  push_place(L);
  lua_setfield(L, -2, "place");
  push_environment(L);
  lua_setfield(L, -2, "environment");
  push_timers(L);
  lua_setfield(L, -2, "timers");
  push_mappings(L);
  lua_setfield(L, -2, "mappings");
  return 1;
}

__attribute__((visibility("default"))) int luaopen_guest(lua_State *L) {
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, state);
  lua_setfield(L, -2, "state");
  return 1;
}
