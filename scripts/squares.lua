-- squares.lua [N] [WORKERS] -- the squares of 1..N (1,000,000), computed by WORKERS (4) forked processes.
-- Prints how many there are, and the last one. Ctrl-C ends the pool and leaves with status 1; nothing is left running.
--   luapool scripts/squares.lua
--   lua5.4 scripts/squares.lua 1000 2       (with luapool.so on LUA_CPATH)
local pool = pool or require "luapool"

local count = math.tointeger(tonumber(arg[1] or 1000000))
local workers = math.tointeger(tonumber(arg[2] or 4))
if not count or not workers then
  io.stderr:write("usage: luapool squares.lua [N] [WORKERS]\n")
  os.exit(2)
end

local p <close> = pool.new(workers)
local ok, err = pcall(function()
  local squares = p:map(function(x) return x * x end, pool.range(count))
  print(#squares, squares[#squares])
end)
if not ok then
  if not pool.is_interrupt(err) then error(err, 0) end
  p:terminate()
  os.exit(1)
end
