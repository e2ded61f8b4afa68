-- half.lua WORKLOAD FIRST STEP -- every STEP-th item of a workload from FIRST on, serially; prints the seconds that the loop took.
-- Two of them, started together, are the ideal that a pool of two can be compared with. Also what the stock interpreter is measured with.
local proc = require "proc"
local tasks = require "tasks"

local workload = tasks.get(arg[1])
collectgarbage()
local started = proc.now()
local results = tasks.run_serially(workload, tonumber(arg[2]), tonumber(arg[3]))
print(proc.now() - started)
assert(#results > 0)
