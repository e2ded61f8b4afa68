/*
 * job/delivery -- how an interrupt becomes a Lua error, exactly once, in whatever state the Lua program is.
 *
 * Room: job.  Touches lua_State: functions that take one may raise where they say so.
 * process/interrupt holds the truth (one sticky flag). This room arms hooks (LUA_MASKCOUNT | LUA_MASKRET | LUA_MASKLINE, 1; never CALL) on
 * every thread of the resume chain, so that running Lua notices; and raises one preallocated object per reason. The chain is known because
 * coroutine.resume, wrap and close are replaced by tracked ones (delivery_wrap_libraries).
 * One Lua program at a time per process is armed: the innermost run scope's thread is the owner.
 */
#ifndef LUAPOOL_JOB_DELIVERY_H
#define LUAPOOL_JOB_DELIVERY_H

#include <lua.h>
#include <stddef.h>

/* A frame of the resume chain, or the base of a run scope; lives on the C stack of the function that runs it. */
struct delivery_frame {
  lua_State *thread;
  struct delivery_frame *previous;
  /* Written by the signal handler while it arms, else by the thread itself: */
  lua_Hook volatile hook; /* the script's own hook, put back after delivery; valid if is_armed */
  volatile int mask, count;
  volatile int is_armed;
  int is_scope;
};

/*
 * delivery_open -- once per Lua state, before anything else here: makes the error objects for SIGINT, SIGTERM and SIGHUP and
 * anchors them in the
 * registry. May raise (memory). Idempotent.
 * An interrupt object is a table { kind = "interrupt", signal = "SIGINT", message = "interrupted!" } whose metatable
 * (registry name "luapool.interrupt") has __tostring and __name.
 */
void delivery_open(lua_State *L);

/*
 * delivery_define -- pops a value: the object raised for `reason` from now on (workers: INTERRUPT_TIMEOUT, INTERRUPT_CANCEL,
 * ...). May raise.
 */
void delivery_define(lua_State *L, int reason);

/* delivery_push -- push the object of `reason` (nil if there is none). Does not raise. */
void delivery_push(lua_State *L, int reason);

/* delivery_signal -- the signal number if the value at index is one of the objects for SIGINT, SIGTERM, SIGHUP of this state, else 0. */
int delivery_signal(lua_State *L, int index);

/* delivery_is_interrupt -- 1 if the value at index is one of the objects for SIGINT, SIGTERM, SIGHUP of this state. */
int delivery_is_interrupt(lua_State *L, int index);

/*
 * delivery_enter / delivery_leave -- a run scope: between them interrupts may be raised in `L` and in coroutines that it
 * resumes. The code between must be
 * under a pcall that lies inside the scope. enter clears nothing that is pending (a signal that came just before is delivered at once);
 * leave disarms. Scopes nest. They do not raise.
 */
void delivery_enter(struct delivery_frame *scope, lua_State *L);
void delivery_leave(struct delivery_frame *scope);

/*
 * delivery_checkpoint -- a safe point of C code that waits. Raises the interrupt if one is pending and may be raised here;
 * returns 1 if one is
 * pending but may not (inside __gc, or shielded): the caller stops waiting with a plain "cancelled" error; 0 if there is none.
 */
int delivery_checkpoint(lua_State *L);

/* delivery_can_raise -- 1 if delivery_checkpoint on this thread would raise an interrupt if one is pending. Does not raise. */
int delivery_can_raise(void);

/* delivery_shield -- +1 / -1: while the sum is positive nothing is raised (pool.shield); at 0 a pending interrupt is armed again. */
void delivery_shield(int change);

/*
 * delivery_resume, delivery_reset -- lua_resume and lua_closethread (lua_resetthread before 5.4.6), tracked: `co` is part of the
 * resume chain meanwhile. Whoever resumes coroutines in C and wants them interruptible uses these.
 */
int delivery_resume(lua_State *co, lua_State *from, int n_arguments, int *n_results);
int delivery_reset(lua_State *co, lua_State *from);

/* delivery_sethook -- lua_sethook that cannot drop an armed hook. */
void delivery_sethook(lua_State *L, lua_Hook hook, int mask, int count);

/*
 * delivery_wrap_libraries -- replace, in the globals of L, coroutine.resume, wrap, close (tracked), debug.sethook (never loses
 * an armed hook), and, with
 * with_os, os.execute, io.popen's close (a child that died of SIGINT or reports 130 counts as our interrupt) and standard input
 * (reads wait in poll together with interrupt_fd). Before any script code. Libraries that are absent are left out. May raise (memory).
 */
void delivery_wrap_libraries(lua_State *L, int with_os);

/* delivery_running -- the innermost Lua thread that runs in this thread's scopes, as far as is known; NULL: none. Async-signal-safe. */
lua_State *delivery_running(void);

/* delivery_in_child -- after fork: forget the host's scopes, shields and frames (they are on stacks that will not run again). */
void delivery_in_child(void);

#endif
