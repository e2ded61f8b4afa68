/*
 * command/plain_line -- see plain_line.h.
 *
 * Room: command (may print).
 */
#include "command/plain_line.h"

#include <lauxlib.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "job/delivery.h"
#include "job/input.h"
#include "process/interrupt.h"

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

enum line plain_line_read(lua_State *L, const char *prompt) {
  luaL_Buffer line;
  int is_empty = 1;
  fputs(prompt, stdout);
  fflush(stdout);
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
