/*
 * binding/ljournal -- the file of a log (pool/journal) and single values as text (job/codec), for lua/luapool/journal.lua.
 *
 * Room: binding (may include binding/lclass.h and binding/llong.h, where it is declared).  Owns: the journal in its userdata; the buffers
 * of a coder.
 * Hooks do not interrupt C: what one method does is done wholly.
 */
#include <errno.h>
#include <lauxlib.h>
#include <string.h>

#include "base/base64.h"
#include "base/bytes.h"
#include "binding/lclass.h"
#include "binding/llong.h"
#include "job/codec.h"
#include "pool/journal.h"

#define JOURNAL_TYPE "luapool.journal"
#define CODER_TYPE "luapool.coder"

/* ---- the file ---- */

static const char *words_for(int status) {
  if (status == -EAGAIN) return "another process, or another call of this one, is writing to it";
  if (status == -ENOTSUP) return "it is not a regular file";
  return strerror(-status);
}

static int push_failure(lua_State *L, int status) {
  lua_pushnil(L);
  lua_pushstring(L, words_for(status));
  return 2;
}

/* true | nil, message */
static int push_status(lua_State *L, int status) {
  if (status < 0) return push_failure(L, status);
  lua_pushboolean(L, 1);
  return 1;
}

static struct journal *check_journal(lua_State *L) {
  return luaL_checkudata(L, 1, JOURNAL_TYPE);
}

/* core.journal(path) -> handle, has_lock | nil, message */
static int core_journal(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  struct journal *j = lua_newuserdatauv(L, sizeof *j, 0);
  int status;
  journal_init(j);
  luaL_setmetatable(L, JOURNAL_TYPE);
  status = journal_open(j, path);
  if (status < 0) return push_failure(L, status);
  lua_pushboolean(L, j->has_lock);
  return 2;
}

/* handle:next(offset) -> line, is_whole, offset of the next | nil: no whole line from there on | nil, message */
static int handle_next(lua_State *L) {
  struct journal *j = check_journal(L);
  uint64_t offset = (uint64_t)luaL_checkinteger(L, 2);
  const char *line;
  size_t length;
  int is_whole, status = journal_next(j, &offset, &line, &length, &is_whole);
  if (status < 0) return push_failure(L, status);
  if (status == 0) return 0;
  lua_pushlstring(L, line, length);
  lua_pushboolean(L, is_whole);
  lua_pushinteger(L, (lua_Integer)offset);
  return 3;
}

/* handle:size() -> bytes | nil, message */
static int handle_size(lua_State *L) {
  int64_t size = journal_size(check_journal(L));
  if (size < 0) return push_failure(L, (int)size);
  lua_pushinteger(L, size);
  return 1;
}

/* handle:head(size) -> the first bytes of the file, at most 256 | nil, message */
static int handle_head(lua_State *L) {
  char text[256];
  size_t wanted = (size_t)luaL_checkinteger(L, 2);
  ssize_t got = journal_peek(check_journal(L), text, wanted < sizeof text ? wanted : sizeof text);
  if (got < 0) return push_failure(L, (int)got);
  lua_pushlstring(L, text, (size_t)got);
  return 1;
}

/* handle:cut(size), handle:add(text), handle:flush(), handle:sync(), handle:close() -> true | nil, message */
static int handle_cut(lua_State *L) {
  return push_status(L, journal_cut(check_journal(L), (uint64_t)luaL_checkinteger(L, 2)));
}

static int handle_add(lua_State *L) {
  size_t length;
  const char *text = luaL_checklstring(L, 2, &length);
  return push_status(L, journal_add(check_journal(L), text, length));
}

static int handle_flush(lua_State *L) {
  return push_status(L, journal_flush(check_journal(L)));
}

static int handle_sync(lua_State *L) {
  return push_status(L, journal_sync(check_journal(L)));
}

static int handle_close(lua_State *L) {
  return push_status(L, journal_close(check_journal(L)));
}

/* handle:abandon(): close, and let go of what waits. Also __gc: a call that ended otherwise than by close has told nobody of that. */
static int handle_abandon(lua_State *L) {
  journal_abandon(check_journal(L));
  return 0;
}

/* ---- values as text ---- */

struct coder {
  struct codec *codec; /* anchored as user value 1 */
  struct bytes raw, text;
};

static int coder_gc(lua_State *L) {
  struct coder *c = luaL_checkudata(L, 1, CODER_TYPE);
  bytes_free(&c->raw);
  bytes_free(&c->text);
  return 0;
}

/* core.coder(fn or nil) -> coder; fn: the function whose upvalues may be named in what is written (codec_name_function) */
static int core_coder(lua_State *L) {
  struct coder *c;
  lua_settop(L, 1);
  c = lua_newuserdatauv(L, sizeof *c, 1);
  c->codec = NULL;
  bytes_init(&c->raw);
  bytes_init(&c->text);
  luaL_setmetatable(L, CODER_TYPE);
  c->codec = codec_open(L);
  lua_setiuservalue(L, 2, 1);
  if (lua_isfunction(L, 1)) codec_name_function(c->codec, L, 1);
  return 1;
}

/* After something large the memory is not kept. */
static void tidy(struct bytes *b) {
  if (b->capacity > 1 << 20) bytes_free(b);
}

/* coder:encode(value) -> text (base64) | nil, message. Raises what a save function raises that is no string (an interrupt). */
static int coder_encode(lua_State *L) {
  struct coder *c = luaL_checkudata(L, 1, CODER_TYPE);
  int status;
  luaL_checkany(L, 2);
  codec_rollback(c->codec); /* an interrupt may have cut the last one short */
  bytes_clear(&c->raw);
  bytes_clear(&c->text);
  codec_begin(c->codec, &c->raw, CODEC_BY_VALUE | CODEC_KEEPS_NONE, "result");
  status = codec_write(c->codec, L, 2);
  if (status < 0) {
    lua_pushnil(L);
    lua_pushstring(L, codec_message(c->codec));
    return 2;
  }
  status = base64_write(&c->text, c->raw.data, c->raw.length);
  tidy(&c->raw);
  if (status < 0) return push_failure(L, status);
  lua_pushlstring(L, (const char *)c->text.data, c->text.length);
  tidy(&c->text);
  return 1;
}

/* coder:decode(text) -> true, value | nil, message. Raises what a load function raises that is no string (an interrupt). */
static int coder_decode(lua_State *L) {
  struct coder *c = luaL_checkudata(L, 1, CODER_TYPE);
  struct codec_reader reader;
  size_t length;
  const char *text = luaL_checklstring(L, 2, &length);
  int status;
  bytes_clear(&c->raw);
  status = base64_read(&c->raw, text, length);
  if (status == -EBADMSG) {
    lua_pushnil(L);
    lua_pushliteral(L, "damaged data");
    return 2;
  }
  if (status < 0) return push_failure(L, status);
  lua_pushboolean(L, 1);
  codec_read_begin(c->codec, &reader, c->raw.data, c->raw.length);
  status = codec_read(c->codec, L, &reader);
  tidy(&c->raw);
  if (status == 0) return 2;
  lua_pushnil(L);
  lua_pushstring(L, codec_message(c->codec));
  return 2;
}

/* ---- the library ---- */

void ljournal_open(lua_State *L) {
  static const luaL_Reg journal[] = {
    {"next", handle_next}, {"size", handle_size}, {"head", handle_head}, {"cut", handle_cut}, {"add", handle_add},
    {"flush", handle_flush}, {"sync", handle_sync}, {"close", handle_close}, {"abandon", handle_abandon}, {NULL, NULL}};
  static const luaL_Reg coder[] = {{"encode", coder_encode}, {"decode", coder_decode}, {NULL, NULL}};
  lclass_define(L, JOURNAL_TYPE, journal, handle_abandon);
  lclass_define(L, CODER_TYPE, coder, coder_gc);
  lclass_add(L, "journal", core_journal);
  lclass_add(L, "coder", core_coder);
}
