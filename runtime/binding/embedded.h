/* binding/embedded -- the files of lua/ as they were at the build (made by scripts/embed-lua). */
#ifndef LUAPOOL_BINDING_EMBEDDED_H
#define LUAPOOL_BINDING_EMBEDDED_H

#include <stddef.h>

struct embedded_file {
  const char *module;        /* "luapool.errors"; NULL ends the list */
  const char *chunk_name;    /* "@lua/luapool/errors.lua" */
  const unsigned char *text; /* length bytes */
  size_t length;
};

extern const struct embedded_file embedded_files[];

#endif
