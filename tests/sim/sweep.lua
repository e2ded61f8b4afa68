-- sim/sweep -- how well many machines are used: simulated clusters of one to ten thousand nodes, as a table and a plot (make simulate).
--   LUA_PATH="tests/?.lua;;" build/luapool tests/sim/sweep.lua [-q] [FILE.svg]      -q: up to a thousand nodes, in a minute
-- Each line of the table is a simulated run: nodes of 64 workers each, work for ten seconds (ten items for each worker, if items are long).
local World = require "sim.world"
local costs = require "sim.costs"
local plot = require "sim.plot"

local WORKERS <const>, SECONDS <const> = 64, 10

local is_quick, path = false, nil
for _, word in ipairs(arg) do
  if word == "-q" then is_quick = true else path = word end
end
local MOST_NODES <const> = is_quick and 1000 or 10000

local function seconds_text(s)
  if s < 1e-3 then return ("%g us"):format(s * 1e6) elseif s < 1 then return ("%g ms"):format(s * 1e3) end
  return ("%g s"):format(s)
end

-- One simulated run. verb: "each" (nothing comes back) or "map" (numbers do).
local function run(nodes, mean, latency, verb, distribution, losses)
  local work = math.max(SECONDS, 10 * mean)
  local n = (nodes * WORKERS * work / mean + 0.5) // 1 | 0
  local world = World.new { nodes = nodes, workers = WORKERS, latency = latency, cost = costs[distribution or "constant"](mean, n),
    losses = losses, lost_after = 30 }
  world.is_discarding = verb == "each"
  world:run(function(handle) return handle:run(function() end, "range", 1, 1, n, { discard = verb == "each" }) end)
  local ok, problem = world:is_complete(n)
  if not ok then error(("%d nodes, %s: %s"):format(nodes, seconds_text(mean), problem), 0) end
  local report = world:report()
  print(("| %d | %s | %s | %s | %s%s | %.3f | %.0f | %.2f | %.2f |"):format(nodes, seconds_text(mean), seconds_text(latency), verb,
    distribution or "constant", losses and (", %d lost"):format(#losses) or "", report.efficiency, report.batches / report.seconds,
    report.script, report.relay))
  io.stdout:flush()
  return report
end

local function line(name, nodes_list, ...)
  local points = {}
  for _, nodes in ipairs(nodes_list) do
    if nodes <= MOST_NODES then points[#points + 1] = { nodes, run(nodes, ...).efficiency } end
  end
  return { name = name, points = points }
end

-- One node in a hundred is lost, at moments that look random.
local function some_losses(nodes)
  local losses = {}
  for i = 1, nodes // 100 do losses[i] = { at = costs.noise(i, 1) * SECONDS, rank = i * 97 % nodes } end
  return losses
end

print("| nodes | item | latency | verb | costs | efficiency | batches/s | script's process | relay |")
print("|---|---|---|---|---|---|---|---|---|")
local NODES <const> = { 1, 3, 10, 30, 100, 300, 1000, 3000, 10000 }
local FEW <const> = { 10, 100, 200, 300, 500, 1000, 2000 }
local lines = {
  line("10 µs items, each", NODES, 10e-6, 1e-3, "each"),
  line("1 ms items, each", NODES, 1e-3, 1e-3, "each"),
  line("1 s items, each", { 1, 10, 100, 1000, 3000 }, 1, 1e-3, "each"),
  line("10 s items, each", { 1, 10, 100, 1000 }, 10, 1e-3, "each"),
  line("10 ms items, map", FEW, 10e-3, 1e-3, "map"),
  line("1 ms items, map", FEW, 1e-3, 1e-3, "map"),
}
for _, latency in ipairs { 50e-6, 50e-3 } do line("", { 1, 100, 1000, 10000 }, 1e-3, latency, "each") end
line("", { 3000, 10000 }, 10e-3, 1e-3, "map")
for _, distribution in ipairs { "uniform", "heavy", "rising", "falling" } do line("", { 1000 }, 1e-3, 1e-3, "each", distribution) end
run(1000, 1e-3, 1e-3, "each", "constant", some_losses(1000))

if path then
  local file <close> = assert(io.open(path, "w"))
  file:write(plot.lines { title = "share of the workers' time that goes into items; 64 workers per node, 1 ms of latency", x_name = "nodes",
    from = 1, to = 10000, lines = lines })
end
