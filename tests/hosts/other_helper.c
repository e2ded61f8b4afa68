/* The helper of another version of luapool, for tests/test_start.lua: the same code under another number. */
#include "luapool.h"

#undef LUAPOOL_VERSION
#define LUAPOOL_VERSION "9.9.9"
#include "../../runtime/binding/lworker.c"

int main(int argc, char **argv) {
  return luapool_worker_main(argc, argv, NULL);
}
