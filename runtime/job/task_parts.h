/*
 * job/task_parts -- what the files of job/task share among themselves.
 *
 * Room: job (may include job/task.h).  Owns: nothing.  In the child only.
 */
#ifndef LUAPOOL_JOB_TASK_PARTS_H
#define LUAPOOL_JOB_TASK_PARTS_H

#include <lua.h>

#include "job/task.h"
#include "process/interrupt.h"

/* The task thread's stack: these stay, what a claim needs stands above. */
enum { TASK_HANDLER = 1, TASK_SEEDER = 2, TASK_FN = 3, TASK_TOP = 3 };

/* task_set_budget -- from now on the state may take so many bytes more (0 or less: as many as it likes). */
void task_set_budget(struct task_context *t, int64_t bytes);

/* task_collect_large -- between claims: collect, if much garbage in large blocks has piled up. */
void task_collect_large(struct task_context *t);

/* task_get_function -- the claim's function stands at TASK_FN, its source in the context: LUA_OK; else the error is on top. */
int task_get_function(struct task_context *t);

/* task_on_error -- the message handler of tasks: the traceback is kept aside, the value stays what it is. */
int task_on_error(lua_State *L);

/*
 * task_send_failure -- the error value is on top of the task thread's stack (and is popped): it goes to the host as the failure of `item`.
 *   kind   NULL: told from the value
 * task_plain_record -- into t->record, when not even that can be made (out of memory, an error in __tostring): the least that can be said.
 *   May raise.
 */
void task_send_failure(struct task_context *t, enum worker_frame frame, int status, const char *kind, uint64_t item);
void task_plain_record(struct task_context *t, lua_State *L, const char *kind, const char *message);

/* task_name_slow_items -- at the end of a claim, with a record: those of the slowest items that were in it get their texts. */
void task_name_slow_items(struct task_context *t);

/* How long the item has run, nil if nobody asked. */
static inline void task_push_seconds(const struct task_context *t, lua_State *L) {
  if (t->item_began_ns) {
    lua_pushnumber(L, (lua_Number)(os_now_ns() - t->item_began_ns) / 1e9);
  } else {
    lua_pushnil(L);
  }
}

static inline void task_forget_interrupts(void) {
  while (interrupt_pending()) (void)interrupt_take();
}

#endif
