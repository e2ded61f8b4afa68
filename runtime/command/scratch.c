/* command/scratch -- see scratch.h. */
#include "command/scratch.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/os.h"

enum { PATH_BYTES = 4096, FEW_DESCRIPTORS = 16, ROUNDS = 100 };

#define BETWEEN_NS INT64_C(10000000)

static char noted[PATH_BYTES];

static int remove_one(const char *path, const struct stat *about, int kind, struct FTW *place) {
  (void)about, (void)kind, (void)place;
  (void)remove(path);
  return 0;
}

/*
 * TMPDIR/ompi.HOST.USER/pid.NUMBER, or .../jf.NUMBER on the other machines. The folder above is shared with other jobs: only if it is
 * empty.
 */
static int is_of_a_job(const char *path) {
  const char *name = strrchr(path, '/');
  return path[0] == '/' && name && strstr(path, "/ompi.") && (strncmp(name, "/pid.", 5) == 0 || strncmp(name, "/jf.", 4) == 0);
}

/*
 * Whoever is left of the job does this at the same time, and a walk ends early where a folder goes away under it: two that meet can each
 * end the other's, and one of them may be killed. So until it is gone, for a second.
 */
static void remove_folder(char *path) {
  if (!is_of_a_job(path)) return;
  for (int round = 0; round < ROUNDS && (access(path, F_OK) == 0 || errno != ENOENT); round++) {
    if (round > 0) (void)os_poll(NULL, 0, BETWEEN_NS);
    (void)nftw(path, remove_one, FEW_DESCRIPTORS, FTW_DEPTH | FTW_PHYS);
  }
  *strrchr(path, '/') = '\0';
  (void)rmdir(path);
}

void scratch_note(void) {
  const char *path = getenv("PMIX_SERVER_TMPDIR");
  if (!path || strlen(path) >= sizeof noted || !is_of_a_job(path)) return;
  memcpy(noted, path, strlen(path) + 1);
  (void)setenv("OMPI_MCA_btl_vader_backing_directory", noted, 0);
}

void scratch_remove(void) {
  remove_folder(noted);
}

void scratch_remove_of(pid_t mpirun) {
  const char *temporary = getenv("TMPDIR");
  char host[256] = "", path[PATH_BYTES];
  (void)gethostname(host, sizeof host - 1);
  host[strcspn(host, ".")] = '\0';
  snprintf(path, sizeof path, "%s/ompi.%s.%u/pid.%d", temporary && *temporary ? temporary : "/tmp", host, (unsigned)geteuid(), (int)mpirun);
  remove_folder(path);
}
