/*
 * binding/embedded -- the files of lua/ as they were at the build (made by scripts/embed-lua.lua): those of the library, lua/luapool/, but
 * for those of its features (binding/features). What the command has besides is added by luapool_add_files.
 */
#ifndef LUAPOOL_BINDING_EMBEDDED_H
#define LUAPOOL_BINDING_EMBEDDED_H

#include <stddef.h>

struct embedded_file {
  char chunk_name[40];            /* "@lua/luapool/errors.lua" */
  unsigned at, n_packed, length; /* where it begins, bytes packed, and as text */
};

/* No pointers for each file: they would be relocated. */
struct embedded {
  const unsigned char *code, *packed; /* see base/packed.h: the texts are without comments, each token in its line */
  unsigned n_packed;
  const struct embedded_file *files;
  unsigned n_files;
};

extern const struct embedded embedded_files;

#endif
