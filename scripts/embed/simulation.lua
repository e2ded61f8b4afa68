-- simulation.lua -- bodies that attract each other, in a stock lua5.4 with libuv's loop (lua-luv): the loop ticks on while workers reckon.
--
--   lua5.4 simulation.lua [STEPS [BODIES [WORKERS]]]     (60, 200, 2)
--
-- Positions and velocities lie in shared arrays. Each step is a map over blocks of bodies whose forces the workers add up; when its
-- future is over the loop is told by a descriptor, swaps the arrays and begins the next. Beside that a timer ticks, as a screen or a
-- network would.
-- The same numbers come out for any number of workers. Ctrl-C ends it, and leaves nothing.
local pool = require "luapool"
local uv = require "luv"

-- A word of the command line: an integer not below `least`.
local function number(index, default, least)
  local n = arg[index] == nil and default or math.tointeger(tonumber(arg[index]))
  if n and n >= least then return n end
  io.stderr:write "usage: lua5.4 simulation.lua [STEPS [BODIES [WORKERS]]]\n"
  os.exit(2)
end

local STEPS <const>, BODIES <const>, WORKERS <const> = number(1, 60, 1), number(2, 200, 1), number(3, 2, 0)
local BLOCK <const> = 16
local DT <const>, SOFTENING <const> = 0.01, 0.05

local function new_bodies()
  local now, velocity = pool.array("f64", 2 * BODIES), pool.array("f64", 2 * BODIES)
  local seed = 42
  local function random()
    seed = (seed * 1103515245 + 12345) % 2147483648
    return seed / 2147483648
  end
  for i = 1, BODIES do
    local angle, distance = 2 * math.pi * random(), 0.2 + random()
    now[2 * i - 1], now[2 * i] = distance * math.cos(angle), distance * math.sin(angle)
    velocity[2 * i - 1], velocity[2 * i] = -math.sin(angle) * 0.7, math.cos(angle) * 0.7
  end
  return now, velocity
end

-- Moves the bodies first .. last by one step: from `now` into `next`. Returns their kinetic energy.
local function move(first, last, now, next, velocity)
  local places, energy = now:to_table(), 0
  for i = first, last do
    local x, y, ax, ay = places[2 * i - 1], places[2 * i], 0, 0
    for k = 1, BODIES do
      local dx, dy = places[2 * k - 1] - x, places[2 * k] - y
      local squared = dx * dx + dy * dy + SOFTENING * SOFTENING
      local pull = 1 / (BODIES * squared * math.sqrt(squared))
      ax, ay = ax + dx * pull, ay + dy * pull
    end
    local vx, vy = velocity[2 * i - 1] + ax * DT, velocity[2 * i] + ay * DT
    velocity[2 * i - 1], velocity[2 * i] = vx, vy
    next[2 * i - 1], next[2 * i] = x + vx * DT, y + vy * DT
    energy = energy + (vx * vx + vy * vy) / (2 * BODIES)
  end
  return energy
end

local p <close> = pool.new { workers = WORKERS, name = "simulation" }
local now, velocity = new_bodies()
local next_places = pool.array("f64", 2 * BODIES)
local blocks, ticks, step, energy = (BODIES + BLOCK - 1) // BLOCK, 0, 0, 0

local ticker = uv.new_timer()
ticker:start(0, 5, function() ticks = ticks + 1 end)
local poll, begin

local function over(future)
  energy = 0
  for _, part in ipairs(future:get()) do energy = energy + part end
  now, next_places = next_places, now
  step = step + 1
  if step < STEPS then return begin() end
  poll:close()
  ticker:close()
end

function begin()
  local from, to, speed = now, next_places, velocity
  local future = p:map_async(function(block)
    return move((block - 1) * BLOCK + 1, math.min(block * BLOCK, BODIES), from, to, speed)
  end, blocks, { chunk = 1 })
  future:on_done(over)
  poll = poll or uv.new_poll(future:getfd())
end

begin()
poll:start("r", function() p:step(0) end) -- callbacks run in it
uv.run()
local x, y = 0, 0
for i = 1, BODIES do x, y = x + now[2 * i - 1], y + now[2 * i] end
print(("%d steps of %d bodies: energy %.12f, centre %.12f %.12f"):format(step, BODIES, energy, x / BODIES, y / BODIES))
io.stderr:write(("the loop ticked %d times meanwhile\n"):format(ticks))
