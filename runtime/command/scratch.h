/*
 * command/scratch -- the folder that Open MPI keeps for a job on each of its machines: removed by us where the process that would was
 * killed.
 *
 * Room: command.  Owns: the folder of this job, and nothing beside it.
 */
#ifndef LUAPOOL_COMMAND_SCRATCH_H
#define LUAPOOL_COMMAND_SCRATCH_H

#include <sys/types.h>

/*
 * scratch_note -- in a process that mpirun or its daemon started, before MPI is: remember the folder that the environment names. Open MPI
 * is told to have the files of its shared memory there, too (unless it was told something else): in /dev/shm they would outlive a process
 * that is killed while it starts.
 */
void scratch_note(void);

/*
 * scratch_remove -- remove what scratch_note saw, with all that is in it. For when the process that made it is gone. Others may do the
 * same meanwhile: when it returns the folder is gone, unless somebody went on filling it for a second.
 */
void scratch_remove(void);

/* scratch_remove_of -- the same for the folder of an mpirun on this machine that has ended. */
void scratch_remove_of(pid_t mpirun);

#endif
