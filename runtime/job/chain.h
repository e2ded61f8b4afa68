/*
 * job/chain -- the resume chain of this thread, inlined where coroutines are switched.
 *
 * Room: job (may include job/delivery.h); private to delivery.c, libraries.c and input.c.  A function call more per resume is
 * measurable: every C frame between the yield's longjmp
 * and the script's call is one mispredicted return.
 */
#ifndef LUAPOOL_JOB_CHAIN_H
#define LUAPOOL_JOB_CHAIN_H

#include <lua.h>
#include <stdatomic.h>

#include "job/delivery.h"
#include "process/interrupt.h"

/* The handler reads it: no lazy allocation of thread-local storage there. */
#if defined(__GLIBC__)
#define CHAIN_LOCAL _Thread_local __attribute__((tls_model("initial-exec"), visibility("hidden")))
#else
#define CHAIN_LOCAL _Thread_local
#endif

struct chain {
  struct delivery_frame *volatile top;
  volatile int scopes; /* frames in the chain that are scopes; none: nothing is armed */
  volatile int shields;
  volatile int busy;   /* hooks or the chain are being changed: the handler only sets the flag */
};

extern CHAIN_LOCAL struct chain delivery_chain;

/* delivery_arm -- set the hook on every thread of the chain, if there is a scope. Async-signal-safe on the thread of the chain. */
void delivery_arm(void);

/* delivery_disarm_frame -- put the script's own hook back. */
void delivery_disarm_frame(struct delivery_frame *f);

/* The handler may come between any two of these lines: the frame is whole before it is in the chain. */
static inline void chain_push(struct delivery_frame *f, lua_State *L, int is_scope) {
  f->thread = L;
  f->previous = delivery_chain.top;
  f->is_armed = 0;
  f->is_scope = is_scope;
  atomic_signal_fence(memory_order_release);
  delivery_chain.top = f;
}

static inline void chain_enter(struct delivery_frame *f, lua_State *co) {
  chain_push(f, co, 0);
  if (interrupt_pending()) delivery_arm();
}

static inline void chain_leave(struct delivery_frame *f) {
  delivery_chain.top = f->previous; /* first: what the handler armed until now is seen below, and it cannot arm it again */
  if (f->is_armed) delivery_disarm_frame(f);
  if (interrupt_pending()) delivery_arm();
}

#endif
