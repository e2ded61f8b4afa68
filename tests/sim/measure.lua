-- sim/measure -- what messages really cost the two processes of a manager: how the constants of sim/figures were found.
--   LUA_PATH="tests/?.lua;;" build/luapool --mpi=2 -j 1 tests/sim/measure.lua
-- Processor time, not time: other programs may run meanwhile; and the least of some rounds, because they take caches, too. The script's
-- process is this one, the relay of its node its parent. Batches of one empty item make messages; a map of numbers, in batches as nodes of
-- 64 workers have them with items of 1 ms, makes values. The Lua code's share of what a batch costs is its instructions (counted by a hook,
-- as in sim/world) times what a loop of plain arithmetic takes for one; the rest is C.
local limits = require "parts" "plan".limits
local N_BATCHES <const>, N_VALUES <const>, PER_BATCH <const>, ROUNDS <const> = 50000, 4000000, 3200, 5

-- Processor time of a process in seconds.
local function processor_time(pid)
  local file <close> = assert(io.open(("/proc/%s/schedstat"):format(pid)))
  return file:read("n") / 1e9
end

local function parent()
  local file <close> = assert(io.open("/proc/self/stat"))
  return file:read("a"):match("%) %a (%d+)")
end

local relay = parent()

-- What fn costs at least: seconds of this process, of the relay, and instructions of Lua.
local function cost_of(fn)
  local script, carried, instructions = math.huge, math.huge, math.huge
  for _ = 1, ROUNDS do
    local count = 0
    local script_before, relay_before = processor_time("self"), processor_time(relay)
    debug.sethook(function() count = count + 1 end, "", 997)
    fn()
    debug.sethook()
    script, carried = math.min(script, processor_time("self") - script_before), math.min(carried, processor_time(relay) - relay_before)
    instructions = math.min(instructions, count * 997)
  end
  return script, carried, instructions
end

local function instruction_time()
  local x = 0
  local seconds, _, count = cost_of(function()
    for i = 1, 10000000 do x = (x + i) % 7 end
  end)
  return seconds / count
end

local p <close> = pool.new()
local function empty() end
local function half(x) return x * 0.5 end
p:each(empty, 1000)

local instruction = instruction_time()
limits.items = 1
local script, carried, instructions = cost_of(function() p:each(empty, N_BATCHES) end)
limits.items = PER_BATCH
local script_each, carried_each = cost_of(function() p:each(half, N_VALUES) end)
local script_map, carried_map = cost_of(function() p:map(half, N_VALUES) end)

local function show(what, seconds, digits) print(("%-58s %s us"):format(what, ("%." .. (digits or 1) .. "f"):format(seconds * 1e6))) end
show("an instruction of Lua", instruction, 4)
show("a batch, in the script's process", script / N_BATCHES)
show("  of that Lua code, by its instructions", instructions * instruction / N_BATCHES)
show("a batch, in the relay (two messages, to and fro)", carried / N_BATCHES)
show("a number among results, in the script's process", (script_map - script_each) / N_VALUES, 4)
show("a byte of it, in the relay", (carried_map - carried_each) / N_VALUES / 8, 5)
