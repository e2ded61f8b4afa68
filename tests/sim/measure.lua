-- sim/measure -- what messages really cost the two processes of a manager: how the constants of sim/figures were found.
--   LUA_PATH="tests/?.lua;;" build/luapool --mpi=2 -j 1 tests/sim/measure.lua
-- Processor time, not time: other programs may run meanwhile. The script's process is this one, the relay of its node its parent. Batches
-- of one empty item make messages; a map of a million numbers makes values. The Lua code's share of what a batch costs is its instructions
-- (counted by a hook, as in sim/world) times what a loop of plain arithmetic takes for one; the rest is C.
local limits = require "parts" "plan".limits
local N_BATCHES <const>, N_VALUES <const> = 100000, 4000000

-- Processor time of a process in seconds.
local function processor_time(pid)
  local file <close> = assert(io.open(("/proc/%s/stat"):format(pid)))
  local fields = {}
  for field in file:read("a"):match("%) (.*)$"):gmatch("%S+") do fields[#fields + 1] = field end
  return (fields[12] + fields[13]) / 100, fields[2]
end

local _, relay = processor_time("self")

-- What fn costs: seconds of this process, of the relay, and instructions of Lua.
local function cost_of(fn)
  local script_before, relay_before, count = os.clock(), processor_time(relay), 0
  debug.sethook(function() count = count + 1 end, "", 997)
  fn()
  debug.sethook()
  return os.clock() - script_before, processor_time(relay) - relay_before, count * 997
end

local function instruction_time()
  local x = 0
  local seconds, _, count = cost_of(function()
    for i = 1, 20000000 do x = (x + i) % 7 end
  end)
  return seconds / count
end

local p <close> = pool.new()
local function empty() end
p:each(empty, 1000)

local instruction = instruction_time()
limits.items = 1
local script, carried, instructions = cost_of(function() p:each(empty, N_BATCHES) end)
limits.items = 1 << 20
local empty_time = cost_of(function() p:each(empty, N_VALUES) end)
local value_time = cost_of(function() p:map(function(x) return x * 1.5 end, N_VALUES) end)

local function show(what, seconds, digits) print(("%-58s %s us"):format(what, ("%." .. (digits or 1) .. "f"):format(seconds * 1e6))) end
show("an instruction of Lua", instruction, 4)
show("a batch, in the script's process", script / N_BATCHES)
show("  of that Lua code, by its instructions", instructions * instruction / N_BATCHES)
show("a batch, in the relay (two messages, to and fro)", carried / N_BATCHES)
show("a number among results", (value_time - empty_time) / N_VALUES, 4)
