/*
 * command/history -- what was typed, kept between sessions: lines of text in ${XDG_STATE_HOME:-~/.local/state}/luapool/history.
 *
 * Room: command.  Owns: the file, while a function here runs; several sessions may have it. Writers hold a lock on it, and write at its
 * end; nothing is renamed. The file is its user's alone (0600, and the directories made for it 0700).
 * Results are 0 or -errno; -ENOENT also where there is no home. Nobody waits for the lock for longer than a second (-EAGAIN then).
 */
#ifndef LUAPOOL_COMMAND_HISTORY_H
#define LUAPOOL_COMMAND_HISTORY_H

#include <lua.h>
#include <stddef.h>

/* history_path -- where it is, or would be. */
int history_path(char *path, size_t size);

/* history_append -- one more line; text without its newline. A line that a crash cut off is ended first. */
int history_append(const char *text, size_t length);

/*
 * history_push -- push the last `limit` lines of the file as one string (what is not there: ""); and if the file holds more than twice
 * as many, or more than HISTORY_BYTES, cut it down to these. May raise (memory).
 */
enum { HISTORY_BYTES = 4 << 20 };
int history_push(lua_State *L, int limit);

#endif
