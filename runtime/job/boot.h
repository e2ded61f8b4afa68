/*
 * job/boot -- what a worker that is no copy of its host must be told before its first task: on_start, on_exit, the seed, the classes that
 * pool.register made known.
 *
 * Room: job (may include job/codec.h, job/names.h and job/task.h; touches lua_State; may raise).  Owns: nothing.
 */
#ifndef LUAPOOL_JOB_BOOT_H
#define LUAPOOL_JOB_BOOT_H

#include <lua.h>
#include <stddef.h>

#include "base/bytes.h"
#include "job/codec.h"
#include "job/task.h"

/*
 * boot_write -- append it to `out`. 0; or codec_write's status, and codec_message says what of on_start or on_exit cannot be sent.
 * Of classes, what cannot be sent is left out: a table stands for each on the other side, with all else in it.
 */
int boot_write(struct codec *c, lua_State *L, struct bytes *out, const struct task_context *t);

/* boot_read -- in the worker: into *t and its state's registry. Raises what is wrong. */
void boot_read(struct codec *c, lua_State *L, const void *data, size_t length, struct task_context *t);

#endif
