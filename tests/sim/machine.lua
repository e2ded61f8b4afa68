-- sim/machine -- a simulated node: workers that take items from the batches that it was given, the oldest first. Part of the simulation
-- (see sim/world). A local pool does the same with chunks (runtime/pool/schedule.c): none of its workers rests while there are items.
-- Few items are given to workers one by one. Many are poured over all of them: in the end they differ by less than an item.
local noise = require "sim.costs".noise

local Machine = {}
Machine.__index = Machine

local MANY <const> = 4 -- times the workers

---@param start_seconds number until the workers are there, once they are wanted
function Machine.new(rank, workers, cost, start_seconds)
  return setmetatable({ rank = rank, workers = workers, cost = cost, start_seconds = start_seconds, is_alive = true, ended = 0.0,
    level = 0.0, free = nil, heard = 0.0 }, Machine)
end

-- From when on each worker is free, if they differ.
local function spread(self, now)
  local free = {}
  for k = 1, self.workers do free[k] = math.max(self.free and self.free[k] or self.level, now) end
  return free
end

-- All workers free at the same time (nearly): from then on.
local function level_of(self, now)
  if not self.free then return math.max(self.level, now) end
  local sum = 0.0
  for k = 1, self.workers do sum = sum + math.max(self.free[k], now) end
  return sum / self.workers
end

local LOOK <const> = 0.01 -- a node looks so often how far a batch is

local function pour(self, now, first, n)
  local sum, peak = self.cost.total(first, n)
  local begin = level_of(self, now)
  local level = begin + sum / self.workers
  self.level, self.free = level, nil
  local finish = math.max(level + peak / 2, begin + noise(first, 99) * (level - begin) + peak)
  local told = level + LOOK + (level - now) / 2
  return finish, sum, finish > told and { { at = told, left = 1 } } or nil
end

-- What the node says of the last items of a batch, as cluster/node does: ends is when each is done.
local function news_of(self, now, ends)
  table.sort(ends)
  local rest_at = #ends > self.workers and ends[#ends - self.workers] or now
  local news, left, last = nil, math.min(#ends // 2, self.workers), rest_at + (rest_at - now) / 2
  while left >= 1 do
    local at = math.max(ends[#ends - left], last) + LOOK
    if at < ends[#ends] then
      news = news or {}
      news[#news + 1] = { at = at, left = left }
      last = at
    end
    left = left // 2
  end
  return news
end

local function deal(self, now, first, n)
  local free, ends, sum = spread(self, now), {}, 0.0
  for i = first, first + n - 1 do
    local earliest = 1
    for k = 2, self.workers do
      if free[k] < free[earliest] then earliest = k end
    end
    local cost = self.cost.item(i)
    free[earliest] = free[earliest] + cost
    sum, ends[#ends + 1] = sum + cost, free[earliest]
  end
  self.free = free
  local news = n > 1 and news_of(self, now, ends) or nil
  return n > 1 and ends[n] or ends[1], sum, news
end

--- A batch comes at `now` (later than all that came before).
---@return number when it is done, what all of it costs one worker, and a list of what is said before that, or nil: { at =, left = }
function Machine:take(now, first, n)
  local seconds = 0.0
  if not self.has_started then
    self.has_started, seconds = true, self.start_seconds
  end
  local give = n >= MANY * self.workers and pour or deal
  return give(self, now + seconds, first, n)
end

--- What it does is of no use any more.
function Machine:drop(now)
  self.level, self.free = now, nil
end

return Machine
