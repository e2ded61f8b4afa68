// A tool in C++: threads, exceptions, pools in classes. For tests/test_embed.lua.
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "luapool.h"

extern "C" {
#include <lauxlib.h>
#include <lualib.h>
}

struct Pool {
  lua_State *L;
  luapool *pool;
  explicit Pool(const char *start) : L(luaL_newstate()), pool(0) {
    luapool_options options;
    std::memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.workers = 2;
    options.start = start;
    luaL_openlibs(L);
    if (luapool_open(L, &options, &pool) != LUAPOOL_OK) throw std::runtime_error(lua_tostring(L, -1));
  }
  ~Pool() {
    luapool_terminate(L, pool, 0);
    lua_close(L);
  }
  double sum(const char *code, int n) {
    double total = 0;
    luaL_loadstring(L, code);
    lua_pushinteger(L, n);
    if (luapool_run(L, pool, "map", 2, 1) != LUAPOOL_OK) {
      std::string what = luaL_tolstring(L, -1, 0);
      lua_settop(L, 0);
      throw std::runtime_error(what);
    }
    for (int i = 1; i <= n; i++) {
      lua_rawgeti(L, -1, i);
      total += lua_tonumber(L, -1);
      lua_pop(L, 1);
    }
    lua_settop(L, 0);
    return total;
  }
};

int main(int argc, char **argv) {
  int status = luapool_worker_main(argc, argv, 0);
  if (status >= 0) return status;
  std::vector<std::thread> threads;
  std::vector<double> sums(3);
  for (int i = 0; i < 3; i++)
    threads.push_back(std::thread([&sums, i] {
      Pool pool("auto");
      for (int k = 0; k < 5; k++) sums[i] += pool.sum("return ... * 2", 100);
    }));
  for (auto &thread : threads) thread.join();
  std::printf("%g %g %g\n", sums[0], sums[1], sums[2]);
  try {
    Pool pool("server");
    pool.sum("error('thrown', 0)", 3);
  } catch (const std::exception &e) {
    std::printf("%s\n", std::string(e.what()).substr(0, 6).c_str());
  }
  return 0;
}
