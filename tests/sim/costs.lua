-- sim/costs -- how long items take, in seconds of one worker. Part of the simulation (see sim/world).
-- A distribution knows an item's cost (the same whenever it is asked), and for many items together their sum and the largest of them:
-- drawn from what such a sum is like, so that a batch of a million items costs no more to simulate than one of a hundred.
local costs = {}

local EXACT <const> = 256 -- up to so many items are summed one by one

--- A number from 0 to 1 that belongs to `index`, for several purposes.
local function noise(index, purpose)
  local x = index * 0x9E3779B97F4A7C15 + (purpose or 0) * 0xD1B54A32D192ED03
  x = (x ~ (x >> 30)) * 0xBF58476D1CE4E5B9
  x = (x ~ (x >> 27)) * 0x94D049BB133111EB
  x = x ~ (x >> 31)
  return (x >> 11) * 2.0 ^ -53
end
costs.noise = noise

local function bell(index)
  return math.sqrt(-2 * math.log(1 - noise(index, 1))) * math.cos(2 * math.pi * noise(index, 2))
end

local function add_up(item, first, n)
  local sum, peak = 0.0, 0.0
  for i = first, first + n - 1 do
    local cost = item(i)
    sum = sum + cost
    if cost > peak then peak = cost end
  end
  return sum, peak
end

--- All items alike.
function costs.constant(mean)
  return { name = "constant", item = function() return mean end, total = function(_, n) return n * mean, mean end }
end

--- Anything between nothing and twice the mean.
function costs.uniform(mean)
  local function item(i) return 2 * mean * noise(i) end
  local function total(first, n)
    if n <= EXACT then return add_up(item, first, n) end
    return n * mean + bell(first) * mean * math.sqrt(n / 3), 2 * mean
  end
  return { name = "uniform", item = item, total = total }
end

--- Pareto's law with the exponent 1.5, cut at a thousand times the mean: a few items cost as much as all others.
function costs.heavy(mean)
  local POWER <const>, CUT <const>, TOP <const> = 1.5, 1000 * mean, 16
  local least = mean / 3
  local function item(i) return math.min(CUT, least * (1 - noise(i)) ^ (-1 / POWER)) end
  local function total(first, n)
    if n <= EXACT then return add_up(item, first, n) end
    local sum, arrival, peak, last = 0.0, 0.0, nil, nil
    for k = 1, TOP do -- the largest of n are where a Poisson process has its first points
      arrival = arrival - math.log(1 - noise(first, 2 + k))
      last = least * (n / arrival) ^ (1 / POWER)
      sum, peak = sum + math.min(CUT, last), peak or math.min(CUT, last)
    end
    local below = math.max(last, 1.01 * least)
    local rest = 3 * least * (1 - (least / below) ^ (POWER - 1)) / (1 - (least / below) ^ POWER)
    return sum + (n - TOP) * math.min(rest, CUT), peak
  end
  return { name = "heavy-tailed", item = item, total = total }
end

local function sloped(name, from, to, n_items)
  local slope = (to - from) / n_items
  local function item(i) return from + (i - 0.5) * slope end
  local function total(first, n) return n * (from + (first - 1 + n / 2) * slope), math.max(item(first), item(first + n - 1)) end
  return { name = name, item = item, total = total }
end

--- Sorted: the first items cost nothing, the last twice the mean; and the other way round.
function costs.rising(mean, n_items) return sloped("rising", 0, 2 * mean, n_items) end
function costs.falling(mean, n_items) return sloped("falling", 2 * mean, 0, n_items) end

return costs
