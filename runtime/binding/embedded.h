/*
 * binding/embedded -- the files of lua/ as they were at the build (made by scripts/embed-lua.lua): those of the library, lua/luapool/. What the
 * command has besides is added by luapool_add_files.
 */
#ifndef LUAPOOL_BINDING_EMBEDDED_H
#define LUAPOOL_BINDING_EMBEDDED_H

#include <stddef.h>

struct embedded_file {
  const char *name;            /* "errors"; NULL ends the list */
  const char *chunk_name;      /* "@lua/luapool/errors.lua" */
  const unsigned char *packed; /* see base/packed.h: without comments, each token in its line */
  unsigned n_packed, length;   /* bytes packed, and as text */
};

extern const struct embedded_file embedded_files[];

#endif
