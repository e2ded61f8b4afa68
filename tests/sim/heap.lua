-- sim/heap -- what is to happen, the earliest first; at the same time: what was added first. Part of the simulation (see sim/world).
local Heap = {}
Heap.__index = Heap

function Heap.new() return setmetatable({ n = 0, n_added = 0, times = {}, numbers = {}, things = {} }, Heap) end

local function is_before(self, a, b)
  local times = self.times
  return times[a] < times[b] or times[a] == times[b] and self.numbers[a] < self.numbers[b]
end

local function swap(self, a, b)
  local times, numbers, things = self.times, self.numbers, self.things
  times[a], times[b] = times[b], times[a]
  numbers[a], numbers[b] = numbers[b], numbers[a]
  things[a], things[b] = things[b], things[a]
end

function Heap:add(time, thing)
  local at = self.n + 1
  self.n, self.n_added = at, self.n_added + 1
  self.times[at], self.numbers[at], self.things[at] = time, self.n_added, thing
  while at > 1 and is_before(self, at, at // 2) do
    swap(self, at, at // 2)
    at = at // 2
  end
end

--- The time of the earliest; nil: there is nothing.
function Heap:next_time() return self.times[1] end

--- Take the earliest: thing, time.
function Heap:take()
  local thing, time, n = self.things[1], self.times[1], self.n
  swap(self, 1, n)
  self.times[n], self.numbers[n], self.things[n] = nil, nil, nil
  self.n = n - 1
  local at = 1
  while true do
    local least = at
    if at * 2 < n and is_before(self, at * 2, least) then least = at * 2 end
    if at * 2 + 1 < n and is_before(self, at * 2 + 1, least) then least = at * 2 + 1 end
    if least == at then return thing, time end
    swap(self, at, least)
    at = least
  end
end

return Heap
