/*
 * binding/lsend -- how a call's function reaches the workers: inherited at the fork, sent through input memory, or by a fresh fork.
 *
 * Room: binding (may include binding/lcall.h and binding/lpool.h).  Owns: struct sent, counted by the calls that use it and by the pool's
 * memory of the latest one.
 */
#include <errno.h>
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

#include "binding/lcall.h"
#include "job/names.h"

enum { MOST_CLASSES = 256, MOST_LOOKED_AT = 200, MOST_DEPTH = 8 };

enum { TOO_BIG_TO_SEND_BYTES = 8 << 20 /* beyond it a fresh fork costs less than writing and reading the function */ };

void lsend_release(struct lpool *lp, struct sent **at) {
  struct sent *sent = *at;
  *at = NULL;
  if (sent == NULL || --sent->users > 0) return;
  if (lp->pool) pool_input_free(lp->pool, sent->offset, sent->length);
  bytes_free(&sent->copy);
  free(sent);
}

static int write_value(lua_State *L, struct call *c, int reference) {
  int status;
  lua_rawgeti(L, LUA_REGISTRYINDEX, reference);
  status = codec_write(c->lp->sender, L, -1);
  lua_pop(L, 1);
  return status;
}

static int write_bounds(lua_State *L, struct call *c) {
  const struct source *s = &c->job.source;
  int i, status = 0;
  for (i = 0; status == 0 && i < 2; i++) {
    if (s->kind == SOURCE_INTEGERS) {
      lua_pushinteger(L, i == 0 ? s->first : s->step);
    } else {
      lua_pushnumber(L, i == 0 ? s->first_float : s->step_float);
    }
    status = codec_write(c->lp->sender, L, -1);
    lua_pop(L, 1);
  }
  return status;
}

/* ---- classes that only the script's globals name ---- */

/* Has the table on top a field whose name is at index `key`? */
static int has_field(lua_State *L, int key) {
  int is_there;
  lua_pushvalue(L, key);
  is_there = lua_rawget(L, -2) != LUA_TNIL;
  lua_pop(L, 1);
  return is_there;
}

/* Is the value on top a class? "__index" is at index `keys`, "__name" behind it. */
static int is_class(lua_State *L, int keys) {
  return lua_istable(L, -1) && (has_field(L, keys) || has_field(L, keys + 1));
}

/*
 * Is one of the fields of the table on top a class? Those that job/names would give a name are looked at: fields with a string for a key
 * among the first NAMES_MAX_FIELDS. A sequence is stepped over at once: this is done for each call, and a program's data may be in globals.
 */
static int has_class(lua_State *L, int keys) {
  lua_Unsigned count = lua_rawlen(L, -1);
  int is_it = 0, table = lua_gettop(L);
  if (count > 0) {
    lua_pushinteger(L, (lua_Integer)count);
  } else {
    lua_pushnil(L);
  }
  while (!is_it && count++ < NAMES_MAX_FIELDS && lua_next(L, table)) {
    is_it = lua_type(L, -2) == LUA_TSTRING && is_class(L, keys);
    lua_pop(L, 1);
  }
  lua_settop(L, table);
  return is_it;
}

/* A function whose code names the global whose name is on top takes it along. Returns 0 (also if it cannot be sent), or -ENOMEM. */
static int write_global(lua_State *L, struct lpool *lp) {
  int status = 0, top = lua_gettop(L);
  lua_pushfstring(L, "return %s", lua_tostring(L, -1));
  if (luaL_loadbufferx(L, lua_tostring(L, -1), lua_rawlen(L, -1), "=class", "t") == LUA_OK) status = codec_write(lp->sender, L, -1);
  lua_settop(L, top);
  return status == -ENOMEM ? status : 0;
}

static int end_classes(lua_State *L, struct lpool *lp) {
  int status;
  lua_pushboolean(L, 0);
  status = codec_write(lp->sender, L, -1);
  lua_pop(L, 1);
  return status;
}

/* May the value at `index` name a class, or hold something that does? Looked into as far as that costs less than to send some classes. */
static int may_name_class(lua_State *L, int index, int depth, int *left) {
  int type = lua_type(L, index), may = 0;
  if (type != LUA_TTABLE) return type == LUA_TFUNCTION || type == LUA_TUSERDATA || type == LUA_TTHREAD;
  if (depth == 0 || !lua_checkstack(L, 6)) return 1;
  if (lua_getmetatable(L, index)) {
    lua_pop(L, 1);
    return 1;
  }
  index = lua_absindex(L, index);
  lua_pushliteral(L, "__index");
  lua_pushliteral(L, "__name");
  lua_pushvalue(L, index);
  may = is_class(L, lua_gettop(L) - 2);
  lua_pop(L, 3);
  if (may) return 1;
  lua_pushnil(L);
  while (lua_next(L, index)) {
    may = --*left < 0 || may_name_class(L, -2, depth - 1, left) || may_name_class(L, -1, depth - 1, left);
    lua_pop(L, may ? 2 : 1);
    if (may) return 1;
  }
  return 0;
}

int lsend_may_name_class(lua_State *L, int first, int last) {
  int left = MOST_LOOKED_AT;
  for (; first <= last; first++)
    if (may_name_class(L, first, MOST_DEPTH, &left)) return 1;
  return 0;
}

/*
 * Objects among the items name their classes; a copy of this process would have all that its globals name. What cannot be sent is left
 * out: an item that needs it fails. `false` ends the list.
 */
static int write_classes(lua_State *L, struct lpool *lp) {
  int status = 0, n = 0, top = lua_gettop(L), keys = top + 1;
  lua_pushliteral(L, "__index");
  lua_pushliteral(L, "__name");
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
  lua_pushnil(L);
  while (status == 0 && n < MOST_CLASSES && lua_next(L, top + 3)) {
    int is_it = lua_type(L, -2) == LUA_TSTRING && lua_istable(L, -1) && !names_is_library(lua_tostring(L, -2)) &&
                (is_class(L, keys) || has_class(L, keys));
    lua_pop(L, 1);
    if (!is_it) continue;
    lua_pushvalue(L, -1);
    status = write_global(L, lp);
    lua_pop(L, 1);
    n++;
  }
  lua_settop(L, top);
  return status < 0 ? status : end_classes(L, lp);
}

/*
 * Write fn, what it writes into, and where an indexed source begins. Returns codec_write's status; the bytes are in lp->out. What is not
 * of the function (numbers of a range, arrays, which are shared) is no state: loading it once is as good as loading it again.
 */
static int write_job(lua_State *L, struct call *c, int *is_stateless) {
  struct lpool *lp = c->lp;
  int status;
  bytes_clear(&lp->out);
  codec_begin(lp->sender, &lp->out, CODEC_WITH_GLOBALS, "function");
  status = write_value(L, c, c->job.fn_reference);
  *is_stateless = codec_is_stateless(lp->sender);
  if (status == 0 && lpool_has_recruits(lp)) status = c->names_classes ? write_classes(L, lp) : end_classes(L, lp);
  if (status == 0 && (c->work.flags & BOARD_INTO)) status = write_value(L, c, c->job.into_reference);
  if (status < 0 || c->work.kind != BOARD_INDEXED) return status;
  if (c->job.source.kind == SOURCE_ARRAY) return write_value(L, c, c->job.source.reference);
  return write_bounds(L, c);
}

static struct sent *new_sent(lua_State *L, struct call *c, int is_stateless) {
  struct lpool *lp = c->lp;
  struct sent *sent = calloc(1, sizeof *sent);
  void *memory = NULL;
  int status = sent ? pool_input(lp->pool, lp->out.length, &sent->offset, &memory) : -ENOMEM;
  if (status < 0) {
    free(sent);
    luaL_error(L, "no memory to send the function: %s", strerror(-status));
  }
  memcpy(memory, lp->out.data, lp->out.length);
  sent->length = lp->out.length;
  sent->job = c->job.number;
  bytes_init(&sent->copy);
  if (is_stateless) (void)bytes_append(&sent->copy, lp->out.data, lp->out.length); /* without a copy it is not used again */
  lp->n_sent++;
  lp->bytes_in += sent->length;
  return sent;
}

/* The bytes in lp->out go to input memory, or are there already. */
static void place_job(lua_State *L, struct call *c, int is_stateless) {
  struct lpool *lp = c->lp;
  struct sent *latest = lp->sent;
  if (!(is_stateless && latest && latest->copy.length == lp->out.length &&
        memcmp(latest->copy.data, lp->out.data, lp->out.length) == 0)) {
    latest = new_sent(L, c, is_stateless);
    lsend_release(lp, &lp->sent);
    if (is_stateless) {
      lp->sent = latest;
      latest->users++;
    }
  }
  latest->users++;
  c->sent = latest;
  c->job.number = c->work.job = latest->job;
  c->work.job_offset = latest->offset;
  c->work.job_length = latest->length;
}

/* The workers cannot be told: let them go; the next are forked with the function in them. What they are at, they finish. */
static void renew_workers(lua_State *L, struct lpool *lp) {
  lp->n_renewed++;
  lsend_release(lp, &lp->sent);
  if (!lpool_end(lp, L, -1, -1, 1)) (void)lpool_end(lp, L, lp->grace_ns, -1, 0);
}

/* "upvalue 'db' of function <job.lua:12>: userdata (sqlite3.db) cannot be sent" becomes "cannot send upvalue 'db' of ...". */
void lsend_refuse(lua_State *L, const struct lpool *lp) {
  static const char end[] = " cannot be sent";
  const char *message = codec_message(lp->sender);
  size_t length = strlen(message);
  if (length > sizeof end - 1 && strcmp(message + length - (sizeof end - 1), end) == 0) {
    lua_pushlstring(L, message, length - (sizeof end - 1));
    luaL_error(L, "cannot send %s", lua_tostring(L, -1));
  }
  luaL_error(L, "cannot send the function: %s", message);
}

/*
 * Workers that live already need the function sent, and so do all that are no copies of this process; forked from now on they inherit it.
 */
void lsend_function(lua_State *L, struct call *c) {
  struct lpool *lp = c->lp;
  int status, is_stateless = 0;
  if (lpool_has_recruits(lp)) {
    if (write_job(L, c, &is_stateless) < 0) lsend_refuse(L, lp);
    place_job(L, c, is_stateless);
    return;
  }
  if (pool_living(lp->pool) == 0) {
    lsend_release(lp, &lp->sent);
    return;
  }
  status = c->work.kind == BOARD_INDEXED && c->job.source.kind == SOURCE_TABLE ? -EINVAL : write_job(L, c, &is_stateless);
  if (status == -EINVAL || status == -EMSGSIZE || lp->out.length > TOO_BIG_TO_SEND_BYTES) {
    renew_workers(L, lp);
  } else if (status < 0) {
    luaL_error(L, "cannot send the function: %s", codec_message(lp->sender));
  } else {
    place_job(L, c, is_stateless);
  }
}
