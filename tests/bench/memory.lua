-- memory.lua serial|pool -- the highest resident size in KiB of a process that ends up with a table of 1,000,000 numbers.
local fn = function(x) return x * x end
local results
if arg[1] == "pool" then
  results = (pool or require "luapool").map(fn, 1000000, { workers = 2 })
else
  results = {}
  for x = 1, 1000000 do results[x] = fn(x) end
end
assert(#results == 1000000)
for line in io.lines("/proc/self/status") do
  local size = line:match("^VmHWM:%s*(%d+)")
  if size then print(size) end
end
