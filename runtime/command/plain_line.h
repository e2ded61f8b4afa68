/*
 * command/plain_line -- one line from stdin behind a prompt, without any editing: what a lua without readline does.
 *
 * Room: command (may print).
 */
#ifndef LUAPOOL_COMMAND_PLAIN_LINE_H
#define LUAPOOL_COMMAND_PLAIN_LINE_H

#include <lua.h>

enum line { LINE_READ, LINE_END, LINE_DROPPED }; /* dropped: Ctrl-C */

/*
 * plain_line_take_interrupt -- Ctrl-C at a prompt is no error of any code: 1 if there was one, which is over then. What ends the program
 * is raised.
 */
int plain_line_take_interrupt(lua_State *L);

/*
 * plain_line_read -- show the prompt and push one line, without its newline and whatever its length. If stdin is no terminal the line is
 * echoed, so that a transcript can be read. What is pushed means nothing unless the result is LINE_READ. May raise (memory, SIGTERM).
 */
enum line plain_line_read(lua_State *L, const char *prompt);

#endif
