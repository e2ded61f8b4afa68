/*
 * binding/lerror -- the error tables of failed items (metatable pool.Error), made from what a worker sent or from how it died.
 *
 * Room: binding (touches lua_State; everything here may raise for want of memory).  Owns: nothing.
 */
#ifndef LUAPOOL_BINDING_LERROR_H
#define LUAPOOL_BINDING_LERROR_H

#include <lua.h>
#include <stdint.h>

#include "job/codec.h"
#include "pool/pool.h"

/* lerror_set_string, lerror_set_integer -- table on top: [name] = value. */
void lerror_set_string(lua_State *L, const char *name, const char *value);
void lerror_set_integer(lua_State *L, const char *name, lua_Integer value);

/* lerror_push -- push a new error table with what the event alone tells (worker, pid); NULL: nothing. */
void lerror_push(lua_State *L, const struct pool_event *event);

/* lerror_push_new -- push an error table of that kind with that message. */
void lerror_push_new(lua_State *L, const struct pool_event *event, const char *kind, const char *message);

/*
 * lerror_push_record -- push the error table of a record that a worker sent (POOL_FAILED, POOL_UNREADY). 0; -EBADMSG: the record makes
 * no sense, nothing is pushed.
 */
int lerror_push_record(struct codec *codec, lua_State *L, const struct pool_event *event, int64_t timeout_ns);

/* lerror_push_lost -- push the error table for an item that died with its worker. */
void lerror_push_lost(lua_State *L, const struct pool_event *event, int64_t timeout_ns);

/* lerror_push_unready -- push the error table for workers that cannot start. */
void lerror_push_unready(struct codec *codec, lua_State *L, const struct pool_event *event);

/*
 * lerror_warn -- lua_warning with "luapool: ", what and detail, unless the state was told to be quiet (lerror_set_quiet: the command's
 * --quiet).
 */
void lerror_warn(lua_State *L, const char *what, const char *detail);
void lerror_set_log(lua_State *L, void (*log)(void *context, const char *text), void *context); /* warnings go there. May raise (memory) */
void lerror_set_quiet(lua_State *L, int is_quiet);

/* lerror_signal -- the name of a signal, "SIGKILL"; NULL: it has none here. */
const char *lerror_signal(int signo);

/* lerror_is_kind -- is the error table on top of that kind? */
int lerror_is_kind(lua_State *L, const char *kind);

#endif
