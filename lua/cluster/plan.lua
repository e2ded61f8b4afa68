-- cluster/plan -- the order of a call's work on many nodes: which node gets the next batch, how large it is, what is done again. Room: lua.
-- Owns: per call how far it is, what it has learned of its items, what is to be done again, and which nodes may have room.
-- Decides only, as cluster/fleet does: cluster/remote does what it says, and so does tests/sim.
--
-- A batch takes a node about a twentieth of a second, and longer than the way there and back; with many nodes longer, so that the script's
-- process, which handles every batch, is busy with that a quarter of its time. Towards the end batches become smaller, and no node has more
-- of what is left than its share.
-- What was lost with a node is done again in smaller pieces, the third time as single items, each of them alone on a node: if the node says
-- that it begins, and is lost then, it was the item.
local _, part = ...

local plan = {}

local memory = part("fleet").limits

plan.limits = {
  handling = 30e-6,        -- seconds that a batch costs the script's process, there and back: see tests/sim/measure.lua
  busy = 0.25,             -- share of that process's time which batches may cost
  target = 0.05,           -- seconds that a batch should take a node
  least = 0.002,           -- and takes it at least, so that the last ones are not many for nothing
  trip = 1.0,              -- a way there and back that is longer does not make batches longer
  growth = 8,              -- a batch is at most so many times as large as the largest before
  items = 1 << 20,
  bytes = 4 << 20,         -- of items, or of results, in a batch, judging by those so far
  ahead = 4,               -- of such times: so far a stream is ahead of its loop
  ahead_bytes = 256 << 20,
  item_bytes = 32,         -- that an item of a stream takes at least, while it waits
  rounds = 3,              -- a batch is at most such a part of a node's share of what is left
}
local limits = plan.limits

local TRIES <const> = 3    -- nodes that an item may be lost with, the last time alone
local SUSPECT <const> = 2
local MOST_TRIES <const> = 6 -- whatever it was
local PIECES <const> = 8   -- of a batch that was lost for the first time
local LARGEST <const> = 512 -- of these pieces, in items, and so many pieces when that is lost, too
local SURE <const> = 8     -- results until a batch that went faster than the others is no longer believed at once
local SURPRISE <const> = 8 -- a result counts as at most so many times as slow or fast as was thought
local WEIGHT <const> = 0.25

---@class luapool.Plan
---@field total integer? items; nil: not known yet
---@field issued integer items that are in batches, or were
---@field held table<integer, integer> items in flight, by the node's rank
---@field n_held integer
---@field waited number seconds for which the loop of a stream has waited for its next item
---@field ahead integer items that the stream was ahead of it when that began
local Plan = {}
Plan.__index = Plan

--- The plan of a call. options: chunk, buffer of the call; workers, auto_workers of its pool.
---@param fleet luapool.Fleet
---@param is_stream boolean results wait for a loop that takes them
---@return luapool.Plan
function plan.new(fleet, total, options, pool_options, is_stream)
  return setmetatable({
    fleet = fleet, total = total, options = options, pool_options = pool_options, is_stream = is_stream,
    issued = 0, delivered = 0, in_hand = 0, waited = 0, ahead = 0, size = 0, n_learned = 0, held = {}, n_held = 0,
    again = {}, n_again = 0, is_sorted = true, suspects = {}, reserved = {}, n_reserved = 0, queue = {}, head = 1, tail = 0, is_queued = {},
  }, Plan)
end

-- ---- which node ----

--- From now on it is told which nodes have done something, and has batches for them.
function Plan:open()
  self.fleet.watchers[self] = true
  self:wake_all()
end

--- The node is anybody's again.
function Plan:release(node)
  node.reserved_for, self.reserved[node], self.n_reserved = nil, nil, self.n_reserved - 1
  for other in pairs(self.fleet.watchers) do other:wake(node) end
end

--- Nothing more is to be done.
function Plan:close()
  self.fleet.watchers[self] = nil
  for node in pairs(self.reserved) do self:release(node) end
end

--- The node may have room.
function Plan:wake(node)
  if self.is_queued[node] or node.state ~= "up" then return end
  self.tail = self.tail + 1
  self.queue[self.tail], self.is_queued[node] = node, true
end

function Plan:wake_all()
  for _, node in ipairs(self.fleet.up) do self:wake(node) end
end

local function leave_queue(self)
  local node = self.queue[self.head]
  self.queue[self.head], self.is_queued[node] = nil, nil
  self.head = self.head + 1
  return node
end

-- How many items more the node may have: a node with more than its share of what is left would work when all others have nothing to do.
local function share_left(self, node)
  if not self.total then return math.huge end
  local left = self.total - self.issued + self.n_held + self.n_again + #self.suspects
  local workers = self.fleet:workers_of(node, self.pool_options)
  return math.ceil(left * workers / math.max(self.fleet:total_workers(self.pool_options), 1)) - (self.held[node.rank] or 0)
end

-- A suspect is given to a node that has nothing else. So that there is one, a few nodes get nothing until they are through.
local function reserve(self, node)
  if node.reserved_for or self.n_reserved >= math.min(#self.suspects, math.max(1, #self.fleet.up // 4)) then return false end
  node.reserved_for, self.reserved[node], self.n_reserved = self, true, self.n_reserved + 1
  return true
end

-- A node for a suspect. Where no suspect is left, the node is anybody's.
local function empty_reserved(self)
  local free = {}
  for node in pairs(self.reserved) do
    if next(node.batches) == nil then
      if #self.suspects > 0 then return node end
      free[#free + 1] = node
    end
  end
  for _, node in ipairs(free) do self:release(node) end
end

--- The node whose turn it is; nil: none has room.
---@return luapool.Node?
function Plan:next_node()
  if self.fleet:is_full() then return nil end
  self.turn = self.n_reserved > 0 and empty_reserved(self) or nil
  while not self.turn and self.head <= self.tail do
    local node = self.queue[self.head]
    if node.state == "up" and reserve(self, node) then return self:next_node() end
    if node.state == "up" and self.fleet:has_room(node, self.pool_options) and share_left(self, node) > 0 then self.turn = node
    else leave_queue(self) end -- it is back when something of it has ended
  end
  return self.turn
end

--- Will the next batch be one that is done again?
function Plan:takes_again() return self.n_again > 0 or self.turn ~= nil and self.turn.reserved_for == self end

--- Is there something to be done again?
function Plan:has_again() return self.n_again > 0 or #self.suspects > 0 end

-- ---- how much ----

-- Seconds that a batch should take a node, and should at least.
local function times(self)
  local handling, trip = #self.fleet.up * limits.handling, math.min(self.trip or 0, limits.trip)
  return math.max(limits.target, handling / limits.busy, 1.5 * trip), math.max(limits.least, handling, trip / 4)
end

-- How many items a stream may be ahead of its loop: as many as keep the nodes busy for a moment, or as the user says. While the loop waits
-- (for an item that takes long, or is at a node of which nothing is heard) nodes go on, as far as there is memory for what they find.
local function buffer_of(self)
  local buffer = self.options.buffer or 0
  if buffer > 0 then return buffer end
  local workers = self.fleet:total_workers(self.pool_options)
  local items = 4 * workers
  if self.per_item then
    local per_item = math.max(self.per_item, 1e-9)
    items = math.max(items, workers * limits.ahead * times(self) / per_item)
    if self.waited > 0 then items = math.max(items, self.ahead + workers * self.waited / per_item) end
  end
  local bytes = math.max(self.per_bytes or 0, limits.item_bytes)
  return math.max(1, math.min(items, limits.ahead_bytes / bytes)) // 1 | 0
end

-- The largest batch that memory allows: so many bytes, times two for each node, are what may be under way.
local function most_items(self)
  local bytes = math.max(self.per_bytes or 0, self.per_sent or 0)
  if bytes <= 0 then return limits.items end
  local most = math.min(limits.bytes, memory.all_bytes / (2 * math.max(#self.fleet.up, 1)))
  return math.min(limits.items, most / bytes)
end

--- How many items a batch for this node should have now.
function Plan:size_for(node)
  local workers, chunk = self.fleet:workers_of(node, self.pool_options), self.options.chunk or 0
  local share = workers / math.max(self.fleet:total_workers(self.pool_options), 1)
  local size, least = workers, 1
  if self.per_item then
    local per_item = math.max(self.per_item, 1e-9)
    local target, shortest = times(self)
    size = math.min(workers * target / per_item, math.max(self.size, workers) * limits.growth)
    least = workers * shortest / per_item
  end
  size = math.min(size, most_items(self))
  if self.is_stream then size = math.min(size, math.max(1, buffer_of(self) * share / 2)) end
  if self.total then
    if self.per_item then size = math.min(size, math.max((self.total - self.issued) * share / limits.rounds, least)) end
    size = math.min(size, share_left(self, node))
  end
  size = math.max(1, math.min(size // 1 | 0, limits.items))
  self.size = math.max(self.size, size)
  if chunk > 0 then size = (size + chunk - 1) // chunk * chunk end
  return size
end

--- How many items may be begun before the loop of a stream has taken more.
function Plan:room_ahead()
  if not self.is_stream then return limits.items end
  return buffer_of(self) - (self.issued - self.delivered + self.in_hand)
end

--- The loop has waited so long for its next item (0: it does not).
function Plan:note_wait(seconds)
  if self.waited == 0 and seconds > 0 then self.ahead = self.issued - self.delivered end
  self.waited = seconds
end

--- How many items the next batch for this node would have; 0: there must not be one now; nil: it is one that is done again.
function Plan:wish(node)
  if self:takes_again() then return nil end
  return math.max(0, math.min(self:size_for(node), self:room_ahead()))
end

-- ---- the next batch ----

local function by_descending_items(a, b) return a.first > b.first end

local function take_again(self)
  if not self.is_sorted then table.sort(self.again, by_descending_items) end -- what comes first is waited for first
  self.is_sorted = true
  local batch = table.remove(self.again)
  self.n_again = self.n_again - batch.n
  return batch
end

-- What is done again has earlier items than what was begun last.
local function follow(self, batch)
  local list = batch.tries > 0 and self.late or self.flying
  list[#list + 1] = batch
end

--- The next batch for the node whose turn it is: { plan, first, n, tries }; nil: there is none now. Then it is another node's turn.
---@param items table? of an iterator: these are the next ones
---@param n integer? so many
function Plan:take(items, n)
  local batch
  if self.turn.reserved_for == self then
    batch = table.remove(self.suspects)
    batch.is_alone = true
  elseif self.n_again > 0 then
    batch = take_again(self)
  else
    if self.total and self.issued >= self.total then return nil end
    local size = n or math.min(self:size_for(self.turn), self:room_ahead())
    if self.total then size = math.min(size, self.total - self.issued) end
    if size < 1 then return nil end
    batch = { plan = self, first = self.issued + 1, n = size, tries = 0, items = items }
    self.issued = self.issued + size
  end
  if not batch.is_alone then self:wake(leave_queue(self)) end
  if self.flying then follow(self, batch) end
  return batch
end

--- Have this done (again): { first, n, tries, items or nil }.
function Plan:put_back(batch)
  batch.plan = self
  if batch.tries >= SUSPECT and batch.n == 1 then
    self.suspects[#self.suspects + 1] = batch
    return
  end
  self.is_sorted = false
  self.again[#self.again + 1] = batch
  self.n_again = self.n_again + batch.n
end

--- The node that had the batch is lost. True: its items are to be done again, in smaller pieces; false: this is the one that ends nodes
--- (or it must not be done elsewhere).
function Plan:lost(batch)
  batch.tries = batch.tries + 1
  if batch.tries >= TRIES and (batch.arguments or batch.is_alone and batch.is_seen) then return false end
  if batch.tries >= MOST_TRIES and batch.n == 1 then return false end
  local pieces = math.min(batch.n, batch.tries == 1 and math.max(PIECES, batch.n // LARGEST) or LARGEST)
  if batch.arguments then pieces = 1 end
  local from = 1
  for i = 1, pieces do
    local to = batch.n * i // pieces
    local piece = { first = batch.first + from - 1, n = to - from + 1, tries = batch.tries, arguments = batch.arguments, call = batch.call }
    if batch.items then piece.items = table.move(batch.items, from, to, 1, {}) end
    self:put_back(piece)
    from = to + 1
  end
  return true
end

-- ---- what is learned ----

--- A batch has been sent: so many bytes.
function Plan:note_sent(batch, bytes, now)
  batch.sent_at = now
  self.per_sent = math.max(bytes / batch.n, (self.per_sent or 0) * 0.5)
  self.fleet:weigh(batch, math.max(bytes, batch.n * (self.per_bytes or 0)) // 1 | 0)
end

-- How long a batch was on its way, there and back: known of those that found their node without work.
local function learn_trip(self, batch, seconds, now)
  if not batch.was_first or not batch.sent_at then return end
  local trip = math.max(now - batch.sent_at - seconds, 0)
  self.trip = self.trip and self.trip + (trip - self.trip) * WEIGHT or trip
end

--- What a batch that is done says about those to come. Seconds: since it was the oldest of its node.
function Plan:learn(node, batch, seconds, bytes, now)
  learn_trip(self, batch, seconds, now)
  local workers = self.fleet:workers_of(node, self.pool_options)
  local per_item, known = seconds * math.min(workers, batch.n) / batch.n, self.per_item
  self.n_learned = self.n_learned + 1
  if not known or self.n_learned <= SURE and per_item < known then -- the first ones have waited for workers to start
    self.per_item = per_item
  else
    self.per_item = known + (math.max(known / SURPRISE, math.min(per_item, known * SURPRISE)) - known) * WEIGHT
  end
  self.per_bytes = math.max(bytes / batch.n, (self.per_bytes or 0) * 0.5)
end

-- ---- for who wants to know ----

--- From now on it is noted what is under way, for lowest.
function Plan:follow() self.flying, self.flying_head, self.late = {}, 1, {} end

--- No item before this one can still be heard of.
function Plan:lowest()
  local lowest, late = self.issued + 1, {}
  while self.flying_head <= #self.flying and self.flying[self.flying_head].is_over do self.flying_head = self.flying_head + 1 end
  if self.flying_head > 64 and self.flying_head > #self.flying // 2 then -- every so often: what is over is no longer kept
    self.flying, self.flying_head = table.move(self.flying, self.flying_head, #self.flying, 1, {}), 1
  end
  if self.flying[self.flying_head] then lowest = self.flying[self.flying_head].first end
  for _, batch in ipairs(self.late) do
    if not batch.is_over then
      late[#late + 1] = batch
      lowest = math.min(lowest, batch.first)
    end
  end
  self.late = late
  for _, list in ipairs { self.again, self.suspects } do
    for _, batch in ipairs(list) do lowest = math.min(lowest, batch.first) end
  end
  return lowest
end

return plan
