-- tests/bench/many.lua FIGURE -- one figure of a job on many machines, as a number; run.lua starts it on three hosts (benchmark "mpi").
local proc = require "proc"

local p <close> = pool.new()
local nodes = pool.nodes()
p:map(function(x) return x end, 600) -- everybody has started

local function seconds(fn)
  local started = proc.now()
  fn()
  return proc.now() - started
end

local function best(rounds, fn)
  local least = math.huge
  for _ = 1, rounds do least = math.min(least, seconds(fn)) end
  return least
end

local function empty(x) return x end

local function work(x)
  local over = os.clock() + 0.02
  while os.clock() < over do end
  return x
end

local function relay_of(node)
  local file <close> = assert(io.open(("/proc/%d/stat"):format(node.pid)))
  return math.tointeger(file:read("a"):match("%) %a (%d+)"))
end

-- Seconds on a processor so far, by node: of the process that speaks MPI and of the pool's own.
local function used()
  local sums = {}
  for i, node in ipairs(nodes) do
    sums[i] = 0
    for _, pid in ipairs { node.pid, relay_of(node) } do
      local file <close> = assert(io.open(("/proc/%d/schedstat"):format(pid)))
      sums[i] = sums[i] + file:read("n") / 1e9
    end
  end
  return sums
end

-- What the busiest node's processes used meanwhile, as a part of one processor.
local function idle(span, meanwhile)
  local before, most = used(), 0
  local took = seconds(function() meanwhile(span) end)
  for i, after in ipairs(used()) do most = math.max(most, (after - before[i]) / took) end
  return most
end

local TASKS <const> = 600

local figures = {
  single = function() return 100000 / best(3, function() p:map(empty, 100000, { chunk = 1 }) end) end,
  auto = function() return 4000000 / best(3, function() p:map(empty, 4000000) end) end,
  short = function() return TASKS * 0.02 / pool.cpus() / best(2, function() p:map(work, TASKS) end) end,
  -- The ideal is the same: it knows of the loss at once, and as the hosts of the rig share this machine's processors, those of a lost one
  -- work for the others. Only the items that it had begun are done again: four at most.
  lost = function()
    return TASKS * 0.02 / pool.cpus() / seconds(function()
      local n = 0
      for i in p:imap(work, TASKS) do
        n = n + 1
        if i == 100 then proc.kill(relay_of(nodes[3]), "KILL") end
      end
      assert(n == TASKS and pool.nodes()[3].state == "lost")
    end)
  end,
  waiting = function()
    return idle(5, function(span)
      p:apply(function(time)
        require("proc").sleep(time)
      end, span)
    end)
  end,
  idle = function()
    proc.sleep(3)
    return idle(5, proc.sleep)
  end,
}

print(figures[arg[1]]())
