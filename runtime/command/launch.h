/*
 * command/launch -- `luapool --mpi`: start this program on many machines, by their own launcher, and stand in for it here.
 *
 * Room: command (may print and exit).  Owns: the launcher's process, and the pipes to it.
 */
#ifndef LUAPOOL_COMMAND_LAUNCH_H
#define LUAPOOL_COMMAND_LAUNCH_H

#include "command/options.h"

/* launch_is_wanted -- do the options (--mpi, -H, --mpirun) ask for it? */
int launch_is_wanted(const struct options *options);

/*
 * launch_run -- run the same command line under mpirun (srun inside a Slurm job), with standard input, and with Ctrl-C, SIGTERM and SIGHUP
 * passed on as signals that it hands to its processes. Blocks until all is over.
 * Returns the script's status; dies of the signal that it got if the script did.
 */
int launch_run(const struct options *options, int argc, char **argv);

#endif
