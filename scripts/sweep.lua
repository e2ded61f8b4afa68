-- sweep.lua [STEPS] [LOG] -- tune a controller: try STEPS (16) values of each of its three parameters, in all combinations.
--   luapool scripts/sweep.lua 24 tuning.jsonl          and, after Ctrl-C, a reboot or kill -9, the same again: it goes on
--   luapool -j 2 scripts/sweep.lua
-- Shows a long job: `log` notes each result in the file LOG as it comes, `resume` takes what the log has, bit for bit, instead of computing
-- it again; `progress` draws a line on the terminal meanwhile. The log of another job (another STEPS, another simulation) is refused.
local pool = pool or require "luapool"

local USAGE = "usage: luapool sweep.lua [STEPS] [LOG]\n"

local function refuse(reason)
  io.stderr:write("sweep.lua: ", reason, "\n", USAGE)
  os.exit(2)
end

local function parse(words)
  if words[1] == "--help" then
    io.write(USAGE)
    os.exit(0)
  end
  local steps = math.tointeger(tonumber(words[1] or 16))
  if not steps or steps < 2 or steps > 1000 then refuse "STEPS must be a whole number from 2 to 1000" end
  if words[3] then refuse("too many arguments: " .. words[3]) end
  return steps, words[2]
end

-- ---- the parameters ------------------------------------------------------------------------------

-- The lowest and the highest value of each. Between them the steps are equal factors.
local RANGES <const> = { { "kp", 0.5, 50.0 }, { "ki", 0.05, 20.0 }, { "kd", 0.02, 5.0 } }

-- The combination number `index`, from 1 to steps ^ 3: its digits in base `steps`.
local function parameters(index, steps)
  local rest, values = index - 1, {}
  for i, range in ipairs(RANGES) do
    local low, high = range[2], range[3]
    values[i] = low * (high / low) ^ (rest % steps / (steps - 1))
    rest = rest // steps
  end
  return table.unpack(values)
end

-- ---- in the workers ------------------------------------------------------------------------------

local DT <const>, SECONDS <const> = 0.002, 12
local DELAY <const> = 75 -- steps of DT until the valve follows the controller
local LAG <const> = 0.7  -- seconds of the first of the two tanks; the second has 1.9

-- A controller (kp, ki, kd) is to bring the level of the second of two tanks from 0 to 1, by a valve that opens from 0 to 5 and is late.
-- Returns how badly it does it (time times error, added up; infinite if it never comes to rest), and by how much the level overshoots.
local function simulate(kp, ki, kd)
  local first, level, sum, before, cost, peak = 0.0, 0.0, 0.0, 1.0, 0.0, 0.0
  local late = {}
  for i = 0, DELAY - 1 do late[i] = 0.0 end
  local n = math.floor(SECONDS / DT)
  for step = 0, n - 1 do
    local err = 1.0 - level
    local wanted = kp * err + ki * sum + kd * (err - before) / DT
    local valve = math.max(0.0, math.min(5.0, wanted))
    if valve == wanted then sum = sum + err * DT end -- (adding up against a valve that is at its end would wind up)
    before = err
    local inflow = late[step % DELAY]
    late[step % DELAY] = valve
    first = first + (inflow - first) / LAG * DT
    level = level + (first - level) / 1.9 * DT
    cost, peak = cost + step * DT * math.abs(err) * DT, math.max(peak, level)
  end
  if math.abs(1.0 - level) > 0.02 then cost = math.huge end
  return { cost = cost, overshoot = math.max(0.0, peak - 1.0) }
end

-- ---- in this process -----------------------------------------------------------------------------

local function report(results, n, steps)
  local order, restless = {}, 0
  for i = 1, n do
    order[i] = i
    if results[i].cost == math.huge then restless = restless + 1 end
  end
  table.sort(order, function(a, b)
    if results[a].cost ~= results[b].cost then return results[a].cost < results[b].cost end
    return a < b
  end)
  print(("%d combinations, %d of them restless; the best:"):format(n, restless))
  for place = 1, math.min(10, n - restless) do
    local i = order[place]
    print(("cost %.6f  overshoot %4.1f %%  kp %8.4f  ki %8.4f  kd %8.4f"):format(
      results[i].cost, 100 * results[i].overshoot, parameters(i, steps)))
  end
end

local steps, log = parse(arg)
local p <close> = pool.new { name = "sweep" }
local ok, err = pcall(function()
  local results, n = p:map(function(index) return simulate(parameters(index, steps)) end, steps * steps * steps,
    { progress = true, log = log, resume = log ~= nil })
  report(results, n, steps)
end)
if not ok then
  if not pool.is_interrupt(err) then error(err, 0) end
  p:terminate() -- what is in the log stays there
  os.exit(1)
end
