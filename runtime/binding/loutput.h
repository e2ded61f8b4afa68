/*
 * binding/loutput -- what tasks printed, on its way to the host's own output: lines are put together, and go out as the pool's option
 * `output` says.
 *
 * Room: binding (may include binding/lpool.h).  Owns: text that waits for the rest of its line, for its turn, or for the function.
 *
 *   "line"     whole lines as they come (the default)
 *   "tag"      the same, each with the worker's number before it: "[3] text"
 *   "order"    by call and item: what item 7 printed comes when all items before it are done; the first that is not prints freely
 *   "discard"  nothing; it does not even reach the host
 *   function   fn(text, info) for each line, without its newline; info = { worker =, item = number or nil, stream = "stdout" or "stderr" };
 *              with the option `output_items` false it does not ask for items, which costs a system call for each
 *
 * A line is whole when its newline is there. What an item leaves unfinished goes out when the item, or its worker, is over.
 * Text goes behind what the host's stdio has buffered, and past it: nothing is printed twice, and nothing of ours is left in a buffer
 * that a fork could copy. When the host's output is gone, what happens is what happens to print: nothing, or SIGPIPE.
 */
#ifndef LUAPOOL_BINDING_LOUTPUT_H
#define LUAPOOL_BINDING_LOUTPUT_H

#include <lua.h>
#include <stdint.h>

#include "base/bytes.h"
#include "pool/pool.h"

struct lpool;
struct loutput_call;

enum loutput_mode { LOUTPUT_LINE, LOUTPUT_TAG, LOUTPUT_ORDER, LOUTPUT_DISCARD, LOUTPUT_FUNCTION };

/* What one stream of a worker said and nobody was told yet. */
struct loutput_text {
  struct bytes text;
  size_t whole; /* whole lines at its beginning, of somebody who is not known yet */
};

struct loutput {
  enum loutput_mode mode;
  int function_reference, asks_no_items;
  uint32_t n_workers;
  struct loutput_text (*waiting)[2]; /* for each worker and stream */
  struct loutput_call *calls; /* "order": those with text that has to wait */
  uint64_t n_pieces;
  struct bytes lines;         /* function: records of whole lines */
  size_t lines_at;            /* how far the function has been told */
  int is_telling;
  int has_line;               /* a line of progress stands on the terminal, where text is to be written */
  struct bytes out;           /* on its way out: text for one stream */
  int out_stream;
};

/*
 * loutput_open -- read the option `output` of the table at index `options` (checked by lua/luapool/check.lua). May raise (memory).
 * loutput_close -- forget everything. Idempotent.
 */
void loutput_open(struct loutput *o, lua_State *L, int options);
void loutput_close(struct loutput *o, lua_State *L);

/* loutput_kind -- what the pool is to be opened with. */
enum output_kind loutput_kind(const struct loutput *o);

/*
 * loutput_take -- an event POOL_OUTPUT: its text goes on its way, and the event is done. Calls no Lua, never raises; may wait for
 * who reads the host's output.
 */
void loutput_take(struct lpool *lp, lua_State *L, const struct pool_event *event);

/*
 * loutput_turn -- once all events there were are taken: what may go out now does, and the function is told of its lines, which may use
 * the pool (its own lines wait for its return). Raises what the function raises; the lines behind are told the next time.
 * loutput_turn_protected -- the same where nothing may be raised: an error becomes a warning, an interrupt waits.
 */
void loutput_turn(struct lpool *lp, lua_State *L);
void loutput_turn_protected(struct lpool *lp, lua_State *L);

/*
 * loutput_settle -- a call is over, and all its events are taken: nothing of what it printed waits any longer, but for the function.
 * Calls no Lua, never raises.
 */
void loutput_settle(struct lpool *lp, lua_State *L);

/*
 * loutput_line -- a line of progress stands on the terminal at the end of stderr (or none does): it is erased before text goes there.
 * Returns whether one stood there until now.
 */
int loutput_line(struct lpool *lp, int has_line);

#endif
