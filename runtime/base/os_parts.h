/*
 * base/os_parts -- what the files of base/os share among themselves.
 *
 * Room: base.  Owns: nothing.
 */
#ifndef LUAPOOL_BASE_OS_PARTS_H
#define LUAPOOL_BASE_OS_PARTS_H

#include <errno.h>

/*
 * os_above_stdio -- every descriptor that base/os makes passes through this. In a host that closed its standard streams the kernel would
 * hand out 0, 1 and 2, and then a task's print would go into a socket of ours.
 * Returns fd, its copy above 2, or -errno (also of the call that made fd, if that failed).
 */
int os_above_stdio(int fd);

/*
 * os_is_absent -- does this errno say that the call is not to be had here: the kernel does not know it, or a sandbox (seccomp,
 * vm.memfd_noexec) refuses it to everybody?
 */
static inline int os_is_absent(int error) {
  return error == ENOSYS || error == EPERM || error == EACCES;
}

/* os_mark_fd -- for systems that cannot make a descriptor CLOEXEC and non-blocking at birth: 0 or -errno. */
int os_mark_fd(int fd, int nonblocking);

#endif
