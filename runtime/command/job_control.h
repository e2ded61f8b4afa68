/*
 * command/job_control -- Ctrl-Z, fg and resized windows, while a line is edited and the terminal is in the editor's hands; and deaths then.
 *
 * Room: command.  Owns, between begin and end only: the dispositions of SIGTSTP, SIGCONT and SIGWINCH, and that they are blocked outside
 * job_control_wait (so that none comes between a look and a sleep), whose handlers only take notes; and those of the signals that kill
 * (SIGQUIT, SIGABRT, SIGSEGV ...), whose handler gives the terminal back before it lets them. What runs from the prompt sees none of this.
 */
#ifndef LUAPOOL_COMMAND_JOB_CONTROL_H
#define LUAPOOL_COMMAND_JOB_CONTROL_H

#include <stdint.h>

enum { JOB_STOPS = 1, JOB_CONTINUED = 2, JOB_RESIZED = 4, JOB_INPUT = 8, JOB_OTHERS = 16 };

/* job_control_begin -- `farewell`: what is written to the terminal (stdout) in case of death, when it gets its mode back; lives as long. */
void job_control_begin(const char *farewell);
void job_control_end(void); /* idempotent */

/*
 * job_control_wait -- sleep until stdin (JOB_INPUT), `bell` (may be -1) or one of the n others (JOB_OTHERS) is readable, one of the signals
 * has come, or timeout_ns (-1: none) is over. Returns the JOB_ flags, maybe 0.
 */
int job_control_wait(int bell, const int *others, int n, int64_t timeout_ns);

/*
 * job_control_stop -- stop this process, as Ctrl-Z does, between begin and end. Returns when it goes on. The terminal is the caller's
 * business.
 */
void job_control_stop(void);

#endif
