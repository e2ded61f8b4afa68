/*
 * job/input -- a standard input whose blocking reads end when an interrupt can be raised.
 *
 * Room: job.  Owns: at most one FILE for the life of the process, which takes the place of C's stdin (so that io.read, dofile(),
 * debug.debug and the prompt share one buffer, as they do with the original).
 */
#ifndef LUAPOOL_JOB_INPUT_H
#define LUAPOOL_JOB_INPUT_H

#include <stdio.h>

/*
 * input_make_interruptible -- replace C's stdin, or how it reads, where the system can (on OpenBSD nothing changes). Before anything is
 * read.
 * A read that an interrupt ends looks like the end of the input, which the interrupt then hides; what had been read of an unfinished
 * line is lost, later lines are not.
 */
void input_make_interruptible(void);

/* input_after_interrupt -- the interrupt is being delivered: the input goes on. Not from a handler. */
void input_after_interrupt(void);

/* input_would_wait -- 1 if reading a line from f would have to wait for somebody to write it; 0: it would not, or this cannot be told. */
int input_would_wait(FILE *f);

#endif
