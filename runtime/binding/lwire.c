/*
 * binding/lwire -- see lwire.h.
 *
 * Room: binding (may include binding/lwire.h, binding/lcall.h, binding/lerror.h, binding/lluapool.h,
 * binding/embedded.h and binding/features.h).
 * A message is a head of MESSAGE_HEAD bytes (a letter that says what it is, the numbers of the call and of the batch) and a stream of
 * values (job/codec). Long ones travel as several records. lua/cluster/cluster and lua/cluster/node say what the letters mean.
 */
#include "binding/lwire.h"

#include <lauxlib.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/os.h"
#include "base/record.h"
#include "base/packed.h"
#include "binding/embedded.h"
#include "binding/features.h"
#include "binding/lcall.h"
#include "binding/lerror.h"
#include "binding/lluapool.h"
#include "job/codec.h"
#include "process/interrupt.h"

#define WIRE_TYPE "luapool.wire"
#define SECOND 1000000000LL

enum { MESSAGE_HEAD = 9, WIRE_VALUES = 2, WIRE_TOGETHER = 1 << 16 /* bytes of messages that are written in one go */ };

struct wire {
  struct record_link link;
  int owner, is_pool, is_over;
  pid_t relay;                  /* at the other end; its descriptor, or -errno */
  int relay_fd;
  char end[128];                /* what became of it, once that was asked */
  struct codec *codec, *sender; /* user values 1 and 2: items and results; functions, whose other side has none of their upvalues yet */
  struct bytes out;
  struct bytes *parts;          /* by node: the beginning of a message that has not come whole */
  size_t n_parts;
  int used_part;                /* its message is the present one: free it next time; -1 */
  const unsigned char *message; /* the present one; NULL: none */
  size_t length;
};

static struct wire *check_wire(lua_State *L) {
  return luaL_checkudata(L, 1, WIRE_TYPE);
}

/* For what uses the socket: a process that has inherited it must not. (Which costs a system call: not for the rest.) */
static struct wire *check_owned(lua_State *L) {
  struct wire *w = check_wire(L);
  if (w->owner != getpid()) luaL_error(L, "the wire belongs to process %d, this is process %d", w->owner, (int)getpid());
  return w;
}

static int wire_gc(lua_State *L) {
  struct wire *w = lua_touserdata(L, 1);
  record_close(&w->link);
  os_close(&w->relay_fd);
  bytes_free(&w->out);
  for (size_t i = 0; i < w->n_parts; i++) bytes_free(&w->parts[i]);
  free(w->parts);
  w->parts = NULL;
  w->n_parts = 0;
  return 0;
}

/* ---- sending ---- */

static void put32(unsigned char *at, lua_Integer value) {
  uint32_t n = (uint32_t)value;
  memcpy(at, &n, sizeof n);
}

/*
 * wire:pack(letter, call, batch, fn or nil, root, ...) -> string | nil, why a value cannot be sent
 * The values as a message. fn: the function whose upvalues both sides have. root: what the values are, for messages: "function" (they take
 * the globals along that their code names), "item", "argument", "result".
 */
static int wire_pack(lua_State *L) {
  static const char *const roots[] = {"function", "item", "argument", "result", "error", NULL};
  struct wire *w = check_wire(L);
  int last = lua_gettop(L), root = luaL_checkoption(L, 6, NULL, roots), status = 0;
  int flags = (w->is_pool ? CODEC_BY_VALUE : CODEC_ELSEWHERE) | CODEC_KEEPS_NONE | (root == 0 ? CODEC_WITH_GLOBALS : 0);
  struct codec *codec = root == 0 ? w->sender : w->codec;
  unsigned char head[MESSAGE_HEAD];
  head[0] = (unsigned char)*luaL_checkstring(L, 2);
  put32(head + 1, luaL_checkinteger(L, 3));
  put32(head + 5, luaL_checkinteger(L, 4));
  if (root != 0) codec_name_function(codec, L, lua_isfunction(L, 5) ? 5 : 0);
  bytes_clear(&w->out);
  if (bytes_append(&w->out, head, sizeof head) < 0) return luaL_error(L, "not enough memory");
  codec_begin(codec, &w->out, flags, roots[root]);
  for (int i = 7; status == 0 && i <= last; i++) status = codec_write(codec, L, i);
  if (status < 0) {
    lua_pushnil(L);
    lua_pushstring(L, codec_message(codec));
    return 2;
  }
  lua_pushlstring(L, (const char *)w->out.data, w->out.length);
  return 1;
}

/* wire:pack_raw(letter, call, batch, bytes) -> string: a message without values; wire:take gives the bytes */
static int wire_pack_raw(lua_State *L) {
  unsigned char head[MESSAGE_HEAD];
  head[0] = (unsigned char)*luaL_checkstring(L, 2);
  put32(head + 1, luaL_checkinteger(L, 3));
  put32(head + 5, luaL_checkinteger(L, 4));
  luaL_checkstring(L, 5);
  lua_settop(L, 5);
  lua_pushlstring(L, (const char *)head, sizeof head);
  lua_insert(L, 5);
  lua_concat(L, 2);
  return 1;
}

/*
 * wire:put(node, message, is_later): send what wire:pack gave, as far as it goes now; wire:wait sends the rest. is_later: more will follow,
 * and then wire:flush.
 */
static int wire_put(lua_State *L) {
  struct wire *w = check_owned(L);
  unsigned node = (unsigned)luaL_checkinteger(L, 2);
  size_t length, at = 0;
  const char *message = luaL_checklstring(L, 3, &length);
  while (at < length) {
    size_t n = length - at > RECORD_MOST ? RECORD_MOST : length - at;
    if (record_put(&w->link, RECORD_DATA, node, at + n < length, message + at, n) < 0) return luaL_error(L, "not enough memory");
    at += n;
  }
  if (!lua_toboolean(L, 4) || record_waiting(&w->link) > WIRE_TOGETHER) (void)record_flush(&w->link); /* an end is noticed when reading */
  return 0;
}

/* wire:flush(): send what was put to be sent later, as far as it goes now. */
static int wire_flush(lua_State *L) {
  struct wire *w = check_owned(L);
  if (record_waiting(&w->link)) (void)record_flush(&w->link);
  return 0;
}

/* ---- receiving ---- */

static struct bytes *part_of(lua_State *L, struct wire *w, unsigned node) {
  if (node >= w->n_parts) {
    struct bytes *parts = realloc(w->parts, (node + 1) * sizeof *parts);
    if (parts == NULL) luaL_error(L, "not enough memory");
    w->parts = parts;
    while (w->n_parts <= node) bytes_init(&w->parts[w->n_parts++]);
  }
  return &w->parts[node];
}

/* 1: a message is whole. */
static int take_piece(lua_State *L, struct wire *w, const struct record *head, const unsigned char *data) {
  struct bytes *part = part_of(L, w, head->node);
  w->message = data;
  w->length = head->length;
  if (part->length == 0 && !head->more) return 1;
  if (bytes_append(part, data, head->length) < 0) luaL_error(L, "not enough memory for what a node sent");
  if (head->more) return 0;
  w->message = part->data;
  w->length = part->length;
  w->used_part = head->node;
  return 1;
}

static int push_data(lua_State *L, const struct wire *w) {
  uint32_t numbers[2];
  if (w->length < MESSAGE_HEAD) return luaL_error(L, "a message from a node makes no sense");
  memcpy(numbers, w->message + 1, sizeof numbers);
  lua_pushlstring(L, (const char *)w->message, 1);
  lua_pushinteger(L, numbers[0]);
  lua_pushinteger(L, numbers[1]);
  return 4;
}

static int push_control(lua_State *L, const struct record *head, const unsigned char *data) {
  uint32_t n = 0;
  double load = 0;
  if (head->kind == RECORD_READY && head->length == sizeof n) {
    memcpy(&n, data, sizeof n);
    lua_pushliteral(L, "ready");
    lua_pushinteger(L, n);
  } else if (head->kind == RECORD_LOAD && head->length == sizeof load) {
    memcpy(&load, data, sizeof load);
    lua_pushliteral(L, "load");
    lua_pushnumber(L, load);
  } else {
    lua_pushliteral(L, "lost");
    lua_pushlstring(L, (const char *)data, head->length);
  }
  return 3;
}

/*
 * wire:receive() -> node, letter, call, batch (wire:take gives what it holds) | node, "ready", nodes | node, "load", number |
 *                   node, "lost", why | nil: nothing has come
 * Does not wait, and reads nothing from the socket: see wire:wait.
 */
static int wire_receive(lua_State *L) {
  struct wire *w = check_wire(L);
  struct record head;
  const unsigned char *data;
  int status;
  w->message = NULL;
  if (w->used_part >= 0) bytes_free(&w->parts[w->used_part]);
  w->used_part = -1;
  while ((status = record_next(&w->link, &head, &data)) == 1) {
    if (head.kind == RECORD_DATA && !take_piece(L, w, &head, data)) continue;
    lua_pushinteger(L, head.node);
    return head.kind == RECORD_DATA ? push_data(L, w) : push_control(L, &head, data);
  }
  if (status < 0) w->is_over = 1;
  return 0;
}

/* wire:take() -> the values of the message that wire:receive told of, unread: for wire:read, later; or the bytes that pack_raw was given */
static int wire_take(lua_State *L) {
  struct wire *w = check_wire(L);
  if (w->message == NULL) return luaL_error(L, "there is no message to be taken");
  lua_pushlstring(L, (const char *)w->message + MESSAGE_HEAD, w->length - MESSAGE_HEAD);
  w->message = NULL;
  return 1;
}

/*
 * wire:read(bytes, fn or nil, is_function) -> true, values ... | false, why they cannot be read
 * What wire:take gave, as values. (Load functions and require, which run here, may use the wire: the present message may change meanwhile.)
 */
static int wire_read(lua_State *L) {
  struct wire *w = check_wire(L);
  int is_function = lua_toboolean(L, 4), status = 0;
  struct codec *codec = is_function ? w->sender : w->codec;
  struct codec_reader reader;
  size_t length;
  const char *bytes = luaL_checklstring(L, 2, &length);
  lua_settop(L, 3);
  if (!is_function) codec_name_function(codec, L, lua_isfunction(L, 3) ? 3 : 0);
  codec_read_begin(codec, &reader, (const unsigned char *)bytes, length);
  lua_pushboolean(L, 1);
  while (status == 0 && (reader.data < reader.end || reader.run_left)) {
    luaL_checkstack(L, 4, "too many values in a message");
    status = codec_read(codec, L, &reader);
  }
  if (status == 0) return lua_gettop(L) - 3;
  lua_pushboolean(L, 0);
  lua_pushstring(L, codec_message(codec));
  return 2;
}

/* ---- waiting ---- */

/* Without a descriptor of it: who ends closes its sockets a moment before its children get another parent. */
static int has_left_us(const struct wire *w) {
  int64_t deadline = os_now_ns() + SECOND;
  while (getppid() == w->relay && os_now_ns() < deadline) (void)os_poll(NULL, 0, SECOND / 200);
  return getppid() != w->relay;
}

/* The relay's end interrupts its script, too (command/ranks), who shall learn what has happened instead. */
static const char *relay_end(struct wire *w) {
  int status = 0, is_known = w->relay_fd >= 0 && !*w->end ? os_pidfd_end(w->relay_fd, w->relay, SECOND, &status) : 0;
  if (*w->end) return w->end;
  if (is_known < 0 || (w->relay_fd < 0 && !has_left_us(w))) {
    snprintf(w->end, sizeof w->end, "the connection to the manager of the nodes is broken");
    return w->end;
  }
  if (interrupt_pending() == SIGTERM) (void)interrupt_take();
  if (is_known && WIFSIGNALED(status)) {
    const char *name = lerror_signal(WTERMSIG(status));
    snprintf(w->end, sizeof w->end, "the manager of the nodes has ended (signal %d%s%s)", WTERMSIG(status), name ? ", " : "",
             name ? name : "");
  } else if (is_known) {
    snprintf(w->end, sizeof w->end, "the manager of the nodes has ended (status %d)", WEXITSTATUS(status));
  } else {
    snprintf(w->end, sizeof w->end, "the manager of the nodes has ended");
  }
  return w->end;
}

/* Write and read what can be. */
static void exchange(struct wire *w) {
  if (w->is_over) return;
  (void)record_flush(&w->link);
  if (record_fill(&w->link) < 0) w->is_over = 1;
}

/*
 * wire:wait([seconds]) -> true | false, what became of the other end
 * Writes and reads what can be, after waiting so long at most (nil: as long as it takes) for something to come. Raises interrupts.
 */
static int wire_wait(lua_State *L) {
  struct wire *w = check_owned(L);
  lua_Number seconds = luaL_optnumber(L, 2, -1);
  int64_t timeout = seconds < 0 || seconds > 1e9 ? -1 : os_ns_of(seconds);
  struct pollfd fds[2];
  if (interrupt_pending()) exchange(w); /* it may be due to an end that we do not know yet */
  if (!w->is_over) lpump_checkpoint(L);
  fds[0] = (struct pollfd){w->link.fd, POLLIN, 0};
  if (record_waiting(&w->link)) fds[0].events |= POLLOUT;
  fds[1] = (struct pollfd){interrupt_fd(), POLLIN, 0};
  if (!w->is_over && timeout != 0) (void)os_poll(fds, fds[1].fd >= 0 ? 2 : 1, timeout);
  exchange(w);
  if (!w->is_over) lpump_checkpoint(L);
  lua_pushboolean(L, !w->is_over);
  if (!w->is_over) return 1;
  lua_pushstring(L, w->is_pool ? "the script has ended" : relay_end(w));
  return 2;
}

const char *lwire_end(lua_State *L) {
  const char *end = NULL;
  if (lua_getfield(L, LUA_REGISTRYINDEX, WIRE_TYPE ".it") == LUA_TUSERDATA) {
    struct wire *w = lua_touserdata(L, -1);
    struct pollfd relay = {w->relay_fd, POLLIN, 0};
    if (!w->is_pool && (w->relay_fd >= 0 ? os_poll(&relay, 1, 0) == 1 : getppid() != w->relay)) end = relay_end(w);
  }
  lua_pop(L, 1);
  return end;
}

/* wire:fd() -> descriptor that is readable when wire:wait would find something. wire:unsent() -> bytes that could not be written yet. */
static int wire_fd(lua_State *L) {
  lua_pushinteger(L, check_wire(L)->link.fd);
  return 1;
}

static int wire_unsent(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)record_waiting(&check_wire(L)->link));
  return 1;
}

/* ---- the library ---- */

static void open_metatable(lua_State *L) {
  static const luaL_Reg methods[] = {{"pack", wire_pack}, {"pack_raw", wire_pack_raw}, {"put", wire_put}, {"flush", wire_flush},
                                     {"receive", wire_receive}, {"take", wire_take}, {"read", wire_read},
                                     {"wait", wire_wait}, {"fd", wire_fd},   {"unsent", wire_unsent},   {NULL, NULL}};
  if (luaL_newmetatable(L, WIRE_TYPE)) {
    luaL_newlib(L, methods);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, wire_gc);
    lua_setfield(L, -2, "__gc");
  }
}

void lwire_attach(lua_State *L, int fd, int is_pool) {
  struct wire *w = lua_newuserdatauv(L, sizeof *w, WIRE_VALUES);
  memset(w, 0, sizeof *w);
  record_open(&w->link, fd);
  bytes_init(&w->out);
  w->owner = (int)getpid();
  w->is_pool = is_pool;
  w->used_part = -1;
  w->relay = getppid();
  w->relay_fd = is_pool ? -1 : os_pidfd_open(w->relay);
  open_metatable(L);
  lua_setmetatable(L, -2);
  w->codec = codec_open(L);
  lua_setiuservalue(L, -2, 1);
  w->sender = codec_open(L);
  codec_know_globals(w->sender, L);
  lua_setiuservalue(L, -2, 2);
  lua_setfield(L, LUA_REGISTRYINDEX, WIRE_TYPE ".it");
}

/* core.wire() -> the wire, is this a node's pool? | nil: this program works on this machine alone */
static int core_wire(lua_State *L) {
  const struct wire *w;
  if (lua_getfield(L, LUA_REGISTRYINDEX, WIRE_TYPE ".it") != LUA_TUSERDATA) return 1;
  w = lua_touserdata(L, -1);
  lua_pushboolean(L, w->is_pool);
  return 2;
}

static uint64_t hash_files(uint64_t sum, const struct embedded *e) {
  return e == NULL ? sum : hash_bytes(hash_bytes(sum, e->code, PACKED_CODE_BYTES), e->packed, e->n_packed);
}

/* core.build() -> text: the same in two programs if they understand each other's messages and bytecode */
static int core_build(lua_State *L) {
  uint64_t sum = sizeof(void *) + sizeof(lua_Integer);
  char text[64];
  int is_end = 0;
  sum = hash_files(hash_files(sum, &embedded_files), luapool_files(L));
  for (unsigned i = 0; !is_end; i++) sum = hash_files(sum, features_files(i, &is_end));
  snprintf(text, sizeof text, "%s-%016llx", LUA_RELEASE, (unsigned long long)sum);
  lua_pushstring(L, text);
  return 1;
}

void lwire_open(lua_State *L) {
  static const luaL_Reg functions[] = {{"wire", core_wire}, {"build", core_build}, {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
}
