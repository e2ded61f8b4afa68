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

/* Workers that live already need the function sent; those forked from now on inherit it. */
void lsend_function(lua_State *L, struct call *c) {
  struct lpool *lp = c->lp;
  int status, is_stateless = 0;
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
