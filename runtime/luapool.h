/* luapool.h */
#ifndef LUAPOOL_H
#define LUAPOOL_H
#include <lua.h>
#define LUAPOOL_VERSION "0.1.0"
#if defined(__GNUC__)
#define LUAPOOL_API __attribute__((visibility("default")))
#else
#define LUAPOOL_API
#endif
#ifdef __cplusplus
extern "C" {
#endif
LUAPOOL_API int luapool_worker_main(int argc, char **argv, int (*open_worker)(lua_State *L));
#ifdef __cplusplus
}
#endif
#endif
