/*
 * command/history -- see history.h.
 *
 * Room: command.
 */
#include "command/history.h"

#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/os.h"

enum { LOCK_TRIES = 100, LOCK_PAUSE_NS = 10000000 };

int history_path(char *path, size_t size) {
  const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
  int length;
  if (state && state[0] == '/') length = snprintf(path, size, "%s/luapool/history", state); /* the standard ignores relative ones */
  else if (home && home[0]) length = snprintf(path, size, "%s/.local/state/luapool/history", home);
  else return -ENOENT;
  return length < (int)size ? 0 : -ENAMETOOLONG;
}

/* The directories above a file, if they are not there. */
static int make_directories(char *path) {
  for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
    int status;
    *slash = '\0';
    status = mkdir(path, 0700) < 0 && errno != EEXIST && errno != EROFS && errno != EACCES ? -errno : 0;
    *slash = '/';
    if (status < 0) return status; /* (what we may not make may be there: opening the file tells) */
  }
  return 0;
}

static int lock(int fd) {
  int status = -EAGAIN;
  for (int i = 0; i < LOCK_TRIES; i++) {
    status = os_lock(fd);
    if (status != -EAGAIN) break;
    os_poll(NULL, 0, LOCK_PAUSE_NS);
  }
  return status == -ENOLCK || status == -ENOSYS || status == -EOPNOTSUPP ? 0 : status; /* better without than not at all */
}

/* The file, locked; made if `makes`. */
static int open_history(int makes) {
  char path[PATH_MAX];
  struct stat information;
  int fd, is_new, status = history_path(path, sizeof path);
  if (status < 0) return status;
  if (!makes && stat(path, &information) < 0) return -errno;
  if (makes && (status = make_directories(path)) < 0) return status;
  fd = os_open_regular(path, &is_new);
  if (fd < 0) return fd;
  if (is_new) fchmod(fd, 0600);
  status = lock(fd);
  if (status < 0) os_close(&fd);
  return status < 0 ? status : fd;
}

int history_append(const char *text, size_t length) {
  int fd = open_history(1), status = 0;
  int64_t size;
  char last = '\n';
  char *line;
  if (fd < 0) return fd;
  size = os_size(fd);
  if (size > 0) os_read_at(fd, &last, 1, (uint64_t)size - 1);
  line = malloc(length + 2);
  if (size < 0) status = (int)size;
  else if (!line) status = -ENOMEM;
  if (status == 0) {
    size_t start = last != '\n';
    line[0] = '\n';
    memcpy(line + start, text, length);
    line[start + length] = '\n';
    status = os_write_at(fd, line, start + length + 1, (uint64_t)size);
  }
  free(line);
  os_close(&fd); /* and so is the lock */
  return status;
}

/* Where the last `limit` lines of a text begin; *count: how many lines it has. */
static size_t last_lines(const char *text, size_t length, int limit, int *count) {
  size_t start = 0;
  *count = 0;
  for (size_t i = length; i-- > 0;) {
    if (text[i] != '\n' || i + 1 == length) continue;
    if (++*count == limit) start = i + 1;
  }
  ++*count;
  return start;
}

/* The end of the file, HISTORY_BYTES at most, as a userdata that holds it. */
static char *push_end(lua_State *L, int fd, int64_t size, size_t *length) {
  uint64_t offset = size > HISTORY_BYTES ? (uint64_t)size - HISTORY_BYTES : 0;
  char *text = lua_newuserdatauv(L, HISTORY_BYTES < size ? HISTORY_BYTES : (size_t)size, 0);
  *length = 0;
  while (offset + *length < (uint64_t)size) {
    ssize_t n = os_read_at(fd, text + *length, (size_t)((uint64_t)size - offset - *length), offset + *length);
    if (n <= 0) break;
    *length += (size_t)n;
  }
  return text;
}

struct reading {
  int fd, limit, status;
  int64_t size;
};

static int read_history(lua_State *L) {
  struct reading *reading = lua_touserdata(L, 1);
  size_t length, start;
  int count;
  char *text = push_end(L, reading->fd, reading->size, &length);
  start = last_lines(text, length, reading->limit, &count);
  lua_pushlstring(L, text + start, length - start);
  if (count <= 2 * reading->limit && reading->size <= HISTORY_BYTES) return 1;
  /* In place: if we die between the two, some lines are there twice. */
  reading->status = os_write_at(reading->fd, text + start, length - start, 0);
  if (reading->status == 0) reading->status = os_resize(reading->fd, length - start);
  return 1;
}

int history_push(lua_State *L, int limit) {
  struct reading reading = {.fd = open_history(0), .limit = limit};
  int status;
  if (reading.fd < 0) {
    lua_pushliteral(L, "");
    return reading.fd;
  }
  reading.size = os_size(reading.fd);
  lua_pushcfunction(L, read_history);
  lua_pushlightuserdata(L, &reading);
  status = lua_pcall(L, 1, 1, 0);
  os_close(&reading.fd);
  if (status != LUA_OK) lua_error(L);
  return reading.status;
}
