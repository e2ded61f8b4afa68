/*
 * binding/loutput -- what tasks printed, on its way to the host's own output: lines are put together, and go out as the pool's option
 * `output` says.
 *
 * Room: binding (may include binding/lpool.h).  Owns: text that waits for the rest of its line.
 *
 *   "line"     whole lines as they come (the default)
 *   "tag"      the same, each with the worker's number before it: "[3] text"
 *   "discard"  nothing; it does not even reach the host
 *
 * A line is whole when its newline is there. What an item leaves unfinished goes out when the item, or its worker, is over.
 * Text goes behind what the host's stdio has buffered, and past it: nothing is printed twice, and nothing of ours is left in a buffer that a
 * fork could copy. When the host's output is gone, what happens is what happens to print: nothing, or SIGPIPE.
 */
#ifndef LUAPOOL_BINDING_LOUTPUT_H
#define LUAPOOL_BINDING_LOUTPUT_H

#include <lua.h>
#include <stdint.h>

#include "base/bytes.h"
#include "pool/pool.h"

struct lpool;

enum loutput_mode { LOUTPUT_LINE, LOUTPUT_TAG, LOUTPUT_DISCARD };

struct loutput {
  enum loutput_mode mode;
  uint32_t n_workers;
  struct bytes (*waiting)[2]; /* for each worker and stream: text without a newline yet */
  struct bytes tagged;
};

/* loutput_open -- read the option `output` of the table at index `options` (checked by lua/luapool/check.lua). May raise (memory). */
void loutput_open(struct loutput *o, lua_State *L, int options);

/* loutput_kind -- what the pool is to be opened with. */
enum output_kind loutput_kind(const struct loutput *o);

/* loutput_take -- an event POOL_OUTPUT: its text goes on its way, and the event is done. May wait for who reads the host's output. */
void loutput_take(struct lpool *lp, lua_State *L, const struct pool_event *event);

/*
 * loutput_settle -- a call is over, and all its events are taken: what its items printed must be out when the caller goes on.
 */
void loutput_settle(struct lpool *lp, lua_State *L);

/* loutput_close -- forget what waits. Idempotent. */
void loutput_close(struct loutput *o);

#endif
