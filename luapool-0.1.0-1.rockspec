rockspec_format = "3.0"
package = "luapool"
version = "0.1.0-1"
source = {
  -- `make dist` makes it; `luarocks make` builds the tree that this file lies in.
  url = "file://luapool-0.1.0.tar.gz",
}
description = {
  summary = "A process pool whose programs use every core",
  detailed = [[
pool.map(fn, range) over forked workers that each run a Lua state of their own. Ctrl-C becomes a Lua error that the script can
catch; crashes, time limits and memory limits cost the item concerned and nothing else. The command luapool comes with it: a
drop-in lua with the pool inside, a REPL, and one-liners.]],
  license = "MIT",
  labels = { "parallel", "process", "fork", "pool" },
}
supported_platforms = { "unix" }
dependencies = { "lua >= 5.4, < 5.5" }
build = {
  type = "make",
  build_target = "all",
  install_target = "install-rock",
  build_variables = { LUA_INCDIR = "$(LUA_INCDIR)" },
  install_variables = { LUA_INCDIR = "$(LUA_INCDIR)", BINDIR = "$(BINDIR)", CMODDIR = "$(LIBDIR)" },
}
