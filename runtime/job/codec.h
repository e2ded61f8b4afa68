/*
 * job/codec -- Lua values to bytes and back: the only room that walks a Lua value.
 *
 * Room: job.  A codec belongs to one lua_State (its main state and all its threads); it owns its tables and buffers through a userdata.
 * Fork: a child goes on with its copy.  Signals: not from a handler.
 *
 * A *stream* is a sequence of top-level values. Numbers of one kind that follow each other share one tag (typed runs); tables with the same
 * string keys share
 * their keys (shapes) throughout the stream. Any prefix that ends after a whole value is a valid stream (writers fix up run counts in place
 * after each
 * value), so what a dying worker had finished can be read. Shared references and cycles are kept within one top-level value.
 * Nothing here recurses on the C stack: 100,000 levels of nesting are fine, as deep as lua_checkstack allows.
 * The reader believes no byte: every length, count, tag and id is checked before use, and damage gives -EBADMSG, never a crash, a hang or
 * an allocation out of
 * proportion to the bytes at hand. Bytecode is guarded by a checksum.
 */
#ifndef LUAPOOL_JOB_CODEC_H
#define LUAPOOL_JOB_CODEC_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

struct codec;

/* codec_open -- push a userdata that holds a codec for L, and return the codec. The caller anchors the userdata. May raise (memory). */
struct codec *codec_open(lua_State *L);

enum codec_flags {
  CODEC_WITH_GLOBALS = 1, /* functions take along the globals that their code names (host to worker); else only upvalues */
  CODEC_COPIES_OWN = 2,   /* the reader may live longer than this process: a worker's own native userdata cross by value */
  CODEC_BY_VALUE = 8,     /* all native userdata cross by value: the bytes are kept, in a file */
  CODEC_ELSEWHERE = 16,   /* the reader is on another machine: native userdata are refused */
  CODEC_KEEPS_NONE = 4    /* native userdata are not kept for codec_take_natives: the reader has, or had, what is named */
};

/*
 * codec_begin -- start a stream at the end of `out` (what stands before is the caller's header). `out` is used until the next codec_begin.
 *   root   how error texts call the value ("result", "argument #1"); static storage
 */
void codec_begin(struct codec *c, struct bytes *out, int flags, const char *root);

/*
 * codec_write -- append the value at `index` to the stream.
 * Returns 0, or with the stream as before the call: -EINVAL: it cannot be sent, codec_message says what and where
 * ("result.conn.sock: userdata (tcp{client}) cannot be sent"); -ENOMEM; -EMSGSIZE: more than the limit.
 * Save functions run protected. May raise Lua's memory errors, and what they raise that is no string (an interrupt); then call
 * codec_rollback before
 * going on.
 */
int codec_write(struct codec *c, lua_State *L, int index);

/* codec_rollback -- drop what a codec_write that raised left behind: the stream is as before that call. Else nothing. Does not raise. */
void codec_rollback(struct codec *c);

/* codec_message -- the text of the last failure; valid until the next call. */
const char *codec_message(const struct codec *c);

/*
 * codec_is_stateless -- 1 if all that was written since codec_begin are functions without mutable state: reading the stream twice or
 * once makes no difference.
 */
int codec_is_stateless(const struct codec *c);

/* A reader's place in a stream; nothing to free. A codec reads one stream at a time: codec_read_begin ends the one before. */
struct codec_reader {
  const unsigned char *data, *end; /* what is still to be read */
  const unsigned char *start;      /* of the stream */
  uint32_t stream;                 /* its number in the codec */
  uint64_t run_left; /* values left in the current typed run */
  int run_tag;
};

/* codec_read_begin -- start reading a stream of `length` bytes, which must stay until the last codec_read of it. */
void codec_read_begin(struct codec *c, struct codec_reader *r, const unsigned char *data, size_t length);

/*
 * codec_read -- push the next top-level value.
 * Returns 0; nothing pushed: -EBADMSG (damaged, or the stream is at its end: codec_message); -ENOENT (something sent by name is not here:
 * codec_message names it; the reader stands behind that value, so the next one can be read).
 * May raise Lua's memory errors, and what a load function or require raises that is no string (an interrupt).
 */
int codec_read(struct codec *c, lua_State *L, struct codec_reader *r);

/*
 * codec_read_until -- from now on codec_read and codec_read_array return -EAGAIN when it is `until_ns` (CLOCK_MONOTONIC; 0: never),
 * wherever they are, but not before they have got a few kilobytes on. Then the same call goes on where they stopped: codec_read_array
 * behind what is done, with the same reader. (One string, the room for one table, a load function are not divided; nor is what is nested in
 * more than a thousand levels.) Each change starts anew with the few kilobytes. Does not raise.
 * codec_drop -- what was read halfway is not wanted any more. Nothing, if there is none; codec_read_begin does so, too, but keeps its
 * memory.
 */
void codec_read_until(struct codec *c, int64_t until_ns);
void codec_drop(struct codec *c, lua_State *L);

/*
 * codec_read_array -- read `count` values and store them at table[first], table[first + 1], ... by raw sets; the fast path for results.
 * The shape of the loop matters: a run of integers must cost little more than lua_pushinteger + lua_rawseti.
 * Returns as codec_read; *done (may be NULL) is how many were stored.
 */
int codec_read_array(struct codec *c, lua_State *L, struct codec_reader *r, int table_index, lua_Integer first,
                     size_t count, size_t *done);

/*
 * codec_name_function -- the function whose upvalues (and tables reachable from them) may be named in streams, because the other side has
 * the same function
 * (a forked worker and its host): index of the function, or 0 for none. Anchored by the codec. May raise (memory).
 * Where a function is itself sent, name nothing while it is written; name it (on both sides: the reader what it has read) before its
 * arguments cross,
 * and objects of classes that are its upvalues arrive as such.
 */
void codec_name_function(struct codec *c, lua_State *L, int index);

/*
 * codec_know_globals -- the other side is a copy of this one as it is now: note the names of its globals. A function that names
 * a global that is
 * nil here takes that nil along only if the other side was given a value before (by the copy, or in a stream): what it has under
 * the name otherwise is its own. May raise (memory).
 */
void codec_know_globals(struct codec *c, lua_State *L);

/*
 * codec_know_early -- the other side is a copy of this state as it was when early_note (job/early) made the map at `index`: C functions and
 * userdata of that time are sent by their numbers. May raise (memory).
 */
void codec_know_early(struct codec *c, lua_State *L, int index);

/*
 * A class of userdata that the house itself sends: shared memory crosses by its address, not by value. The bytes between are the
 * class's own.
 *   save   append the userdata at index to `out`. 0; or a negative errno, and the text says why it cannot be sent
 *   kept   what must live until the stream was read: the same address for all that share it
 *   load   push what `length` bytes mean. 0; or a negative errno (nothing pushed), and the text says why it cannot be had here
 * Both believe no byte, do not use the codec, and may raise Lua's memory errors.
 */
struct codec_native {
  const char *name;
  int (*save)(lua_State *L, int index, int flags, struct bytes *out, char *text, size_t capacity); /* flags: of the stream */
  const void *(*kept)(lua_State *L, int index);
  int (*load)(lua_State *L, const unsigned char *data, size_t length, char *text, size_t capacity);
};

/*
 * codec_add_native -- streams of this state may hold userdata of that class from now on. Costs next to nothing. May raise (memory).
 * codec_mark_native -- userdata with the metatable on top of the stack are of that class. May raise (memory).
 */
void codec_add_native(lua_State *L, const struct codec_native *native);
void codec_mark_native(lua_State *L, const struct codec_native *native);

/* codec_natives -- how many different native objects were written since codec_begin (or the last codec_take_natives). */
int codec_natives(const struct codec *c);

/*
 * codec_take_natives -- push a table of the native userdata that were written since codec_begin (or the last take): kept -> one of those
 * userdata; or nil if there were none (or CODEC_KEEPS_NONE). They must be kept from the collector until the other side has read the stream:
 * it finds them at this process. The codec itself keeps them until the next codec_begin (or a take). May raise (memory).
 */
void codec_take_natives(struct codec *c, lua_State *L);

/*
 * codec_register -- pool.register(name, class [, save, load]): the table (or userdata metatable) at `class_index` is called `name` on both
 * sides.
 *   save_index, load_index   functions for userdata of that metatable: save(u) -> value, load(value) -> u; 0: none
 * Registrations are kept per Lua state (registry), so that every codec of the state and forked workers see them. May raise.
 */
void codec_register(lua_State *L, const char *name, int class_index, int save_index, int load_index);

#endif
