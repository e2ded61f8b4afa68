/*
 * process/program -- a shell command that a script waits for, as system() runs one; but an interrupt that reaches the script alone is not
 * lost.
 *
 * Room: process (may include process/interrupt.h and process/process.h).  Owns: nothing that outlives the call.
 * system() ignores SIGINT while the command runs: what comes then from elsewhere than the terminal is gone. Here the handler stays. The
 * terminal's Ctrl-C is the command's own, which got it too; any other is noted, and passed on to the command.
 * And a Ctrl-Z stops both of them, whenever it comes: what has a terminal is started by fork, not by posix_spawn.
 */
#ifndef LUAPOOL_PROCESS_PROGRAM_H
#define LUAPOOL_PROCESS_PROGRAM_H

/*
 * program_run -- run `sh -c command` and wait for its end; for processes whose interrupts are caught (interrupt_catches_terminal).
 *   may_listen  asked before each wait: 0: interrupts cannot be raised now, so the command is left alone
 * Returns the wait status as system() does: -1 with errno when it could not be started or its end not be seen; 127 where there is no shell.
 * Blocks; on an interrupt until the command has ended of it; what it started is killed when the interrupt becomes urgent.
 */
int program_run(const char *command, int (*may_listen)(void));

#endif
