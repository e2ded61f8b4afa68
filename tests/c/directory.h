/*
 * A directory of its own for each test, and the file in it that the tests are about.
 */
#ifndef LUAPOOL_TESTS_DIRECTORY_H
#define LUAPOOL_TESTS_DIRECTORY_H

#include "unit.h"

#include <string.h>

#include "base/fault.h"

static char directory[64], path[128];

static inline int make_directory(void **state) {
  (void)note_the_house(state);
  strcpy(directory, "/tmp/luapool-unit-XXXXXX");
  if (mkdtemp(directory) == NULL) return -1;
  snprintf(path, sizeof path, "%s/file", directory);
  return 0;
}

/* (A test that leaves another file in it fails.) */
static inline int remove_directory(void **state) {
  unlink(path);
  unsetenv("LUAPOOL_FAIL");
  fault_reload();
  return rmdir(directory) == 0 ? find_it_clean(state) : -1;
}

#endif
