/*
 * command/job_control -- Ctrl-Z, fg and resized windows, while a line is edited and the terminal is in the editor's hands.
 *
 * Room: command.  Owns, between begin and end only: the dispositions of SIGTSTP, SIGCONT and SIGWINCH, and that they are blocked outside
 * job_control_wait (so that none comes between a look and a sleep). Handlers only take notes. What runs from the prompt sees none of this.
 */
#ifndef LUAPOOL_COMMAND_JOB_CONTROL_H
#define LUAPOOL_COMMAND_JOB_CONTROL_H

enum { JOB_STOPS = 1, JOB_CONTINUED = 2, JOB_RESIZED = 4, JOB_INPUT = 8 };

void job_control_begin(void);
void job_control_end(void); /* idempotent */

/* job_control_wait -- sleep until stdin or `bell` (may be -1) is readable, or one of the signals has come. Returns the JOB_ flags, maybe 0. */
int job_control_wait(int bell);

/* job_control_stop -- stop this process, as Ctrl-Z does, between begin and end. Returns when it goes on. The terminal is the caller's business. */
void job_control_stop(void);

#endif
