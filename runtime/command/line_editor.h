/*
 * command/line_editor -- lines that can be edited: GNU readline where it can be opened at run time, else libedit, else plain lines.
 *
 * Room: command (may print).  Owns: the opened library, for the rest of the process; the terminal's mode while a line is read, never
 * while anything else runs. One per process.
 * Nothing is linked: LUAPOOL_READLINELIB names the library to open ("" for plain lines); without it the usual names are tried.
 */
#ifndef LUAPOOL_COMMAND_LINE_EDITOR_H
#define LUAPOOL_COMMAND_LINE_EDITOR_H

#include <lua.h>

#include "command/plain_line.h"

/*
 * line_editor_open -- find an editor and make it ready; asks_environment: for LUAPOOL_READLINELIB. Returns "readline", "libedit" or
 * "plain".
 */
const char *line_editor_open(int asks_environment);

/*
 * line_editor_set_completer -- pops a table of two functions, called while a line is typed and shielded from interrupts: they must be
 * quick.
 *   breaks(line) -> the characters that end the word before the cursor, boolean: is a file name being typed?
 *   candidates(line, word) -> a list of what the word may become
 * where `line` ends at the cursor. What they raise means: nothing to propose.
 */
void line_editor_set_completer(lua_State *L);

/*
 * line_editor_read -- show the prompt and push what was typed, without its last newline (a pasted block may hold more); what is pushed
 * means nothing unless the result is LINE_READ. Ctrl-C: LINE_DROPPED. Whatever the result is, the cursor is on a new line then, and the
 * terminal is as it was. What ends the program is raised. May raise (memory) then, too.
 */
enum line line_editor_read(lua_State *L, const char *prompt);

/* line_editor_add -- one more entry for the keys that go back in history; the oldest of more than `limit` is dropped. */
void line_editor_add(const char *text, int limit);

#endif
