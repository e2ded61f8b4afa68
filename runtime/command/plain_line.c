/*
 * command/plain_line -- see plain_line.h.
 *
 * Room: command (may print).
 */
#include "command/plain_line.h"

#include <errno.h>
#include <lauxlib.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/os.h"
#include "binding/lidle.h"
#include "command/call.h"
#include "job/delivery.h"
#include "job/input.h"
#include "process/interrupt.h"

enum { MOST_POOLS = 16 };

int plain_line_take_interrupt(lua_State *L) {
  if (!interrupt_pending()) return 0;
  if (interrupt_pending() != SIGINT) {
    if (isatty(STDIN_FILENO)) {
      putchar('\n'); /* what is said about it does not stand behind the prompt */
      fflush(stdout);
    }
    delivery_checkpoint(L);
  }
  input_after_interrupt();
  return interrupt_take() != 0;
}

/* A terminal has shown what was typed; otherwise we do, as a lua with readline does, so that a transcript can be read. */
static void echo(const char *line) {
  if (isatty(STDIN_FILENO)) return;
  puts(line);
  fflush(stdout);
}

static void show(const char *prompt) {
  fputs(prompt, stdout);
  fflush(stdout);
}

/* The prompt goes; what was typed behind it is still the terminal's. */
static void clear_line(void) {
  fputs("\r\033[K", stdout);
  fflush(stdout);
}

/* One turn of the pools. 0: no more turns for this line. Raises interrupts. */
static int serve_pools(lua_State *L, const char *prompt) {
  int is_disturbed = 0, status = lidle_attend(L, isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) ? clear_line : NULL, &is_disturbed);
  if (status != LUA_OK && delivery_is_interrupt(L, -1)) lua_error(L);
  if (status != LUA_OK) call_report(L, status);
  fflush(stdout);
  if (is_disturbed) show(prompt);
  return status == LUA_OK;
}

/* Until there is a line to be read (or something else that reading will find out); pools that have something to do go on meanwhile. */
static void wait_beside_pools(lua_State *L, const char *prompt) {
  int fds[MOST_POOLS], n, i, status;
  while (!interrupt_pending() && (n = lidle_fds(L, fds, MOST_POOLS)) > 0 && os_is_foreground(STDIN_FILENO) && input_would_wait(stdin)) {
    struct pollfd all[2 + MOST_POOLS] = {{STDIN_FILENO, POLLIN, 0}, {interrupt_fd(), POLLIN, 0}};
    for (i = 0; i < n; i++) all[2 + i] = (struct pollfd){fds[i], POLLIN, 0};
    status = os_poll(all, (size_t)(2 + n), -1);
    if (status == -EINTR) continue;
    if (status < 0 || all[0].revents || all[1].revents) return;
    if (!serve_pools(L, prompt)) return;
  }
}

enum line plain_line_read(lua_State *L, const char *prompt) {
  luaL_Buffer line;
  int is_empty = 1;
  show(prompt);
  wait_beside_pools(L, prompt);
  luaL_buffinit(L, &line);
  for (;;) {
    char *piece = luaL_prepbuffer(&line);
    if (!fgets(piece, (int)LUAL_BUFFERSIZE, stdin)) break;
    size_t length = strlen(piece);
    is_empty = 0;
    if (length > 0 && piece[length - 1] == '\n') {
      luaL_addsize(&line, length - 1);
      break;
    }
    luaL_addsize(&line, length);
  }
  luaL_pushresult(&line);
  if (plain_line_take_interrupt(L)) return LINE_DROPPED;
  if (is_empty) {
    clearerr(stdin); /* the end of a terminal's input, Ctrl-D, is not for ever */
    return LINE_END;
  }
  echo(lua_tostring(L, -1));
  return LINE_READ;
}
