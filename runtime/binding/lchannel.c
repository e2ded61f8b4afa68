/*
 * binding/lchannel -- pool.channel: any values, from many to many, waiting with time limits.
 *
 * Room: binding (may include binding/lshared.h).  Owns: the metatable "luapool.channel"; the registry's post (a codec and a buffer); in the
 * user value of a channel the shared objects that its unread messages name.
 * Values are written before anything is locked, and read after the message was taken, but for those that name shared memory: it must be
 * found while the sender still keeps it, so the message stays in the ring until it was read. No Lua code runs while a lock is held, but
 * for that reading.
 */
#include "binding/lshared.h"

#include <errno.h>
#include <string.h>

#include "base/os.h"
#include "memory/mailbox.h"

#define SHORT_WAIT_NS INT64_C(20000000) /* even without patience: somebody else is just putting, or taking */

/* ---- the post: what values are written and read with ---- */

struct post {
  struct codec *codec; /* anchored by the user value */
  struct bytes bytes;
};

enum { KEPT_BYTES = 1 << 20 }; /* a buffer that grew larger for one message is not kept */

static char post_key;

static int post_gc(lua_State *L) {
  struct post *post = lua_touserdata(L, 1);
  bytes_free(&post->bytes);
  return 0;
}

/*
 * push_post -- take the post from the registry, or make one: somebody further up may be at it (a finalizer runs in the middle of things).
 * After an error it is not given back, and goes with the garbage.
 */
static struct post *push_post(lua_State *L) {
  struct post *post;
  luaL_checkstack(L, 10, NULL);
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &post_key) == LUA_TUSERDATA) {
    lua_pushboolean(L, 0);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &post_key);
    return lua_touserdata(L, -1);
  }
  lua_pop(L, 1);
  post = lua_newuserdatauv(L, sizeof *post, 1);
  bytes_init(&post->bytes);
  if (luaL_newmetatable(L, "luapool.post")) {
    lua_pushcfunction(L, post_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  post->codec = codec_open(L);
  lua_setiuservalue(L, -2, 1);
  return post;
}

/* give_back_post -- the post at stack index `index` may be used again. */
static void give_back_post(lua_State *L, int index) {
  struct post *post = lua_touserdata(L, index);
  if (post->bytes.capacity > KEPT_BYTES) bytes_free(&post->bytes);
  bytes_clear(&post->bytes);
  lua_pushvalue(L, index);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &post_key);
}

/* ---- what unread messages name ---- */

/*
 * The user value of a channel: nil, or a list of { objects, number of the message }. Only this process knows of the objects; others open
 * them when they read the message.
 */

/* Forget those that were read. The list is at `list`. */
static void forget_read(lua_State *L, const struct segment *s, int list) {
  lua_Integer n = (lua_Integer)lua_rawlen(L, list), kept = 0;
  for (lua_Integer i = 1; i <= n; i++) {
    int is_read;
    lua_rawgeti(L, list, i);
    lua_rawgeti(L, -1, 2);
    is_read = mailbox_is_taken(s, (uint64_t)lua_tointeger(L, -1));
    lua_pop(L, 1);
    if (is_read) lua_pop(L, 1);
    else lua_rawseti(L, list, ++kept);
  }
  for (lua_Integer i = n; i > kept; i--) {
    lua_pushnil(L);
    lua_rawseti(L, list, i);
  }
}

/* (channel at 1) Every use is an occasion. */
static void forget_what_was_read(lua_State *L, const struct segment *s) {
  if (lua_getiuservalue(L, 1, 1) == LUA_TTABLE) forget_read(L, s, lua_gettop(L));
  lua_pop(L, 1);
}

/* (channel at 1, ... objects) -> (... entry, list): what is to be remembered once the message is put */
static void push_entry(lua_State *L) {
  lua_createtable(L, 2, 0);
  lua_insert(L, -2);
  lua_rawseti(L, -2, 1);
  if (lua_getiuservalue(L, 1, 1) == LUA_TTABLE) return;
  lua_pop(L, 1);
  lua_newtable(L);
  lua_pushvalue(L, -1);
  lua_setiuservalue(L, 1, 1);
}

/* (... entry, list) -> (...) */
static void remember(lua_State *L, uint64_t number) {
  lua_pushinteger(L, (lua_Integer)number);
  lua_rawseti(L, -3, 2);
  lua_insert(L, -2);
  lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
  lua_pop(L, 1);
}

/* ---- sending ---- */

static struct shared *check_channel(lua_State *L, const char *method) {
  return lshared_check(L, SHARED_CHANNEL, "pool.channel", method);
}

/* (channel, value, ...) -> the value is in the post's bytes; what it names is pushed (a list of objects, or nil). */
static void write_message(lua_State *L, struct post *post) {
  bytes_clear(&post->bytes);
  codec_begin(post->codec, &post->bytes, CODEC_COPIES_OWN, "message");
  if (codec_write(post->codec, L, 2) < 0) luaL_error(L, "cannot send: %s", codec_message(post->codec));
  codec_take_natives(post->codec, L);
}

/* Waits until the message is put. 0; -ETIMEDOUT, -EPIPE or another failure. Raises interrupts; then nothing was put. */
static int put(lua_State *L, struct segment *s, const struct bytes *b, int note, uint64_t *number, int64_t until_ns) {
  int64_t soon_ns = os_now_ns() + SHORT_WAIT_NS;
  struct share_event *event;
  uint32_t seen;
  for (;;) {
    int status = mailbox_put(s, b->data, b->length, note, number, &event, &seen);
    if (status != -EAGAIN) return status;
    status = shared_sleep(L, event, seen, until_ns < soon_ns && mailbox_has_room(s, b->length) ? soon_ns : until_ns);
    if (status < 0) mailbox_stop_putting(s);
    if (status == -EINTR) shared_attend(L);
    else if (status < 0) return status;
  }
}

/* channel:send(value [, timeout]) -> true | nil, "timeout"; raises if it is closed */
static int channel_send(lua_State *L) {
  struct segment *s = check_channel(L, "send")->segment;
  int64_t until_ns = lshared_check_timeout(L, 3, "send");
  struct post *post;
  uint64_t number;
  size_t length;
  int status, note;
  lua_settop(L, 2);
  forget_what_was_read(L, s);
  post = push_post(L); /* 3 */
  write_message(L, post); /* 4 */
  note = !lua_isnil(L, 4);
  if (note) push_entry(L); /* 4, 5 */
  length = post->bytes.length;
  status = put(L, s, &post->bytes, note, &number, until_ns);
  give_back_post(L, 3);
  if (status == 0) {
    if (note) remember(L, number);
    lua_pushboolean(L, 1);
    return 1;
  }
  if (status == -EPIPE) return luaL_error(L, "cannot send: the channel is closed");
  if (status != -ETIMEDOUT) return luaL_error(L, "cannot send a message of %I bytes: %s", (LUAI_UACINT)length, strerror(-status));
  lua_pushnil(L);
  lua_pushliteral(L, "timeout");
  return 2;
}

/* ---- receiving ---- */

/* (post) -> value */
static int read_message(lua_State *L) {
  struct post *post = lua_touserdata(L, 1);
  struct codec_reader reader;
  codec_read_begin(post->codec, &reader, post->bytes.data, post->bytes.length);
  if (codec_read(post->codec, L, &reader) < 0) return luaL_error(L, "cannot receive: %s", codec_message(post->codec));
  return 1;
}

/*
 * (... post) -> (... post, value). A message that names shared memory is still in the ring (`note`): it is taken now, even if it cannot be
 * read, but not if memory ended, or an interrupt came.
 */
static void read_taken(lua_State *L, struct segment *s, int note) {
  int status;
  lua_pushcfunction(L, read_message);
  lua_pushvalue(L, -2);
  if (!note) {
    lua_call(L, 1, 1);
    return;
  }
  status = lua_pcall(L, 1, 1, 0);
  if (status == LUA_OK || (status == LUA_ERRRUN && lua_type(L, -1) == LUA_TSTRING)) mailbox_finish_taking(s);
  else mailbox_stop_taking(s);
  if (status != LUA_OK) lua_error(L);
}

/* Waits for a message. 0: it is in the post's bytes; -ETIMEDOUT, -EPIPE or another failure. Raises interrupts; then nothing was taken. */
static int take(lua_State *L, struct segment *s, struct bytes *out, int *note, int64_t until_ns) {
  int64_t soon_ns = os_now_ns() + SHORT_WAIT_NS;
  struct share_event *event;
  uint32_t seen;
  for (;;) {
    int status = mailbox_take(s, out, note, &event, &seen);
    if (status != -EAGAIN) return status;
    status = shared_sleep(L, event, seen, until_ns < soon_ns && mailbox_count(s) > 0 ? soon_ns : until_ns);
    if (status < 0) mailbox_stop_taking(s);
    if (status == -EINTR) shared_attend(L);
    else if (status < 0) return status;
  }
}

/* (channel at 1) -> pushes the value: 0; or nothing: as take. */
static int receive(lua_State *L, struct segment *s, int64_t until_ns) {
  struct post *post;
  int status, note, at;
  forget_what_was_read(L, s);
  post = push_post(L);
  at = lua_gettop(L);
  bytes_clear(&post->bytes);
  status = take(L, s, &post->bytes, &note, until_ns);
  if (status == 0) read_taken(L, s, note);
  give_back_post(L, at);
  lua_remove(L, at);
  if (status < 0 && status != -ETIMEDOUT && status != -EPIPE) luaL_error(L, "cannot receive: %s", strerror(-status));
  return status;
}

/* channel:receive([timeout]) -> true, value | nil, "timeout" | nil, "closed" */
static int channel_receive(lua_State *L) {
  struct segment *s = check_channel(L, "receive")->segment;
  int64_t until_ns = lshared_check_timeout(L, 2, "receive");
  int status;
  lua_settop(L, 1);
  status = receive(L, s, until_ns);
  if (status == 0) {
    lua_pushboolean(L, 1);
    lua_insert(L, -2);
  } else {
    lua_pushnil(L);
    lua_pushstring(L, status == -EPIPE ? "closed" : "timeout");
  }
  return 2;
}

/* upvalue: the channel. () -> the next value that is not nil, or nil: the channel is closed and empty */
static int next_message(lua_State *L) {
  const struct shared *s;
  lua_settop(L, 0);
  lua_pushvalue(L, lua_upvalueindex(1));
  s = check_channel(L, "iter");
  do {
    lua_settop(L, 1);
    if (receive(L, s->segment, INT64_MAX) != 0) return 0;
  } while (lua_isnil(L, -1));
  return 1;
}

/*
 * channel:iter() -> function: for value in channel:iter() do, until it is closed and empty; also a source of items. A nil that was sent
 * cannot be a turn of the loop: it is passed over.
 */
static int channel_iter(lua_State *L) {
  (void)check_channel(L, "iter");
  lua_settop(L, 1);
  lua_pushcclosure(L, next_message, 1);
  return 1;
}

/* ---- the rest ---- */

/* channel:close(): nothing can be sent any more; what was sent can be received. Idempotent. */
static int channel_close(lua_State *L) {
  mailbox_close(check_channel(L, "close")->segment);
  return 0;
}

static int channel_is_closed(lua_State *L) {
  lua_pushboolean(L, mailbox_is_closed(check_channel(L, "is_closed")->segment));
  return 1;
}

static int channel_len(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)mailbox_count(check_channel(L, "len")->segment));
  return 1;
}

static int channel_tostring(lua_State *L) {
  const struct segment *s = check_channel(L, "tostring")->segment;
  const char *closed = mailbox_is_closed(s) ? ", closed" : "";
  lua_pushfstring(L, "channel, %I messages%s: %p", (LUAI_UACINT)mailbox_count(s), closed, lua_topointer(L, 1));
  return 1;
}

void lchannel_open(lua_State *L) {
  static const luaL_Reg methods[] = {{"send", channel_send}, {"receive", channel_receive}, {"iter", channel_iter},
                                     {"close", channel_close}, {"is_closed", channel_is_closed}, {NULL, NULL}};
  static const luaL_Reg meta[] = {{"__len", channel_len}, {NULL, NULL}};
  lshared_define(L, &shared_channel, methods, meta, channel_tostring);
}

/* core.channel([capacity]) -> channel */
int lchannel_new(lua_State *L) {
  lua_Integer most = lua_isnoneornil(L, 1) ? MAILBOX_MOST : lshared_check_integer(L, 1, "channel");
  if (most < 1) return luaL_error(L, "bad argument #1 to 'channel' (number of messages, 1 or more, expected, got %I)", (LUAI_UACINT)most);
  if (most > MAILBOX_MOST) most = MAILBOX_MOST;
  mailbox_init(lshared_new(L, SHARED_CHANNEL, CHANNEL_CLASS, 0, MAILBOX_BYTES)->segment, (uint64_t)most);
  return 1;
}
