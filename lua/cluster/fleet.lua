-- cluster/fleet -- the nodes that work for a script, and what each of them has under way. Room: lua.
-- Owns: per program the nodes (by rank) and their batches in flight.
-- Decides only: sends nothing, looks at no clock, asks nobody. So tests/sim runs it for ten thousand nodes that do not exist.
-- Nothing here that happens for every batch takes longer with more nodes.
local fleet = {}

local BATCHES_AHEAD <const> = 2 -- in flight for each node, and twice its workers in items: measured, hides the way there and back
local LOOKS <const> = 64        -- nodes that are compared to find one that has little to do

fleet.limits = {
  node_bytes = 64 << 20,        -- in flight for a node, of items and of the results that are expected
  all_bytes = 1 << 30,          -- for all of them: so much the script's process and its relay may have to keep
}
local limits = fleet.limits

---@class luapool.Node
---@field rank integer
---@field host string?
---@field cpus integer workers of a pool that does not say
---@field state "starting"|"up"|"lost"
---@field batches table<integer, table> in flight, by number
---@field n_batches integer of these, but for those that are nearly done
---@field n_items integer not done, as far as is known
---@field n_bytes number
---@field opened table<integer, boolean> pools that it has, by number
---@field reserved_for luapool.Plan? who gives it one item at a time, and nobody anything else

---@class luapool.Fleet
local Fleet = {}
Fleet.__index = Fleet

---@return luapool.Fleet
function fleet.new()
  return setmetatable({ nodes = {}, up = {}, cpus = 0, n_bytes = 0, n_batches = 0, last_batch = 0, cursor = 0, watchers = {} }, Fleet)
end

--- A node that is known of, and not there yet.
function Fleet:add(rank)
  local node = { rank = rank, state = "starting", batches = {}, n_batches = 0, n_items = 0, n_bytes = 0, n_done = 0, opened = {}, cpus = 1 }
  self.nodes[rank] = node
  return node
end

--- It is there, and can work.
function Fleet:join(node, cpus)
  node.state, node.cpus = "up", cpus
  self.cpus = self.cpus + cpus
  self.up[#self.up + 1] = node
  node.place = #self.up
  for plan in pairs(self.watchers) do plan:wake(node) end
end

--- It is gone. Returns its batches, oldest first: somebody must do something about them.
function Fleet:leave(node)
  if node.state == "up" then
    local last = table.remove(self.up)
    if last ~= node then self.up[node.place], last.place = last, node.place end
    self.cpus = self.cpus - node.cpus
  end
  if node.reserved_for then node.reserved_for:release(node) end
  node.state = "lost"
  local batches = {}
  for _, batch in pairs(node.batches) do batches[#batches + 1] = batch end
  table.sort(batches, function(a, b) return a.number < b.number end)
  for _, batch in ipairs(batches) do self:untrack(batch) end
  for plan in pairs(self.watchers) do plan:wake_all() end -- each of the others has a larger share now
  return batches
end

--- How many workers a pool of these options has there; and everywhere.
function Fleet.workers_of(_, node, options)
  return options.auto_workers and node.cpus or options.workers
end

function Fleet:total_workers(options)
  return options.auto_workers and self.cpus or #self.up * options.workers
end

--- Can this node take more?
function Fleet:has_room(node, options)
  if node.reserved_for or node.n_bytes >= limits.node_bytes then return false end
  return node.n_batches < BATCHES_AHEAD or node.n_items < 2 * self:workers_of(node, options)
end

--- Is as much under way as there is memory for?
function Fleet:is_full() return self.n_bytes >= limits.all_bytes end

--- The node that has least to do, or one of those that have little; nil: there is none.
function Fleet:idlest(options)
  local up, best, least = self.up, nil, math.huge
  for _ = 1, math.min(#up, LOOKS) do
    self.cursor = self.cursor % #up + 1
    local node = up[self.cursor]
    local load = node.n_items / self:workers_of(node, options) + (node.reserved_for and 1000 or 0)
    if load < least then best, least = node, load end
    if load == 0 then break end
  end
  return best
end

--- A batch is on its way to the node, and has a number from now on.
function Fleet:track(node, batch)
  local plan = batch.plan
  self.last_batch = self.last_batch + 1
  batch.number, batch.node, batch.bytes, batch.left = self.last_batch, node, 0, batch.n
  batch.was_first = next(node.batches) == nil
  node.batches[batch.number] = batch
  node.n_batches, node.n_items, self.n_batches = node.n_batches + 1, node.n_items + batch.n, self.n_batches + 1
  plan.n_held = plan.n_held + batch.n
  plan.held[node.rank] = (plan.held[node.rank] or 0) + batch.n
  return batch
end

--- So many bytes it has, or will bring.
function Fleet:weigh(batch, bytes)
  local more = bytes - batch.bytes
  batch.bytes, batch.node.n_bytes, self.n_bytes = bytes, batch.node.n_bytes + more, self.n_bytes + more
end

-- So many items fewer are under way.
local function note_done(self, batch, n)
  local node, plan = batch.node, batch.plan
  batch.left, node.n_items, plan.n_held = batch.left - n, node.n_items - n, plan.n_held - n
  local held = plan.held[node.rank] - n
  plan.held[node.rank] = held > 0 and held or nil
  for other in pairs(self.watchers) do other:wake(node) end
end

-- The batch keeps no place any more.
local function leave_place(self, batch)
  if batch.is_tail then return end
  batch.is_tail = true
  batch.node.n_batches, self.n_batches = batch.node.n_batches - 1, self.n_batches - 1
end

--- The node has only so many items of the batch left, and all are in the hands of workers: others of its workers have nothing to do soon,
--- whatever these last ones take.
function Fleet:progress(batch, left)
  if batch.node.batches[batch.number] ~= batch or left < 1 or left >= batch.left then return end
  leave_place(self, batch)
  note_done(self, batch, batch.left - left)
end

--- Nothing more comes of the batch. False: that was known.
function Fleet:untrack(batch)
  local node = batch.node
  if not node or node.batches[batch.number] ~= batch then return false end
  node.batches[batch.number], batch.is_over = nil, true
  leave_place(self, batch)
  node.n_bytes, self.n_bytes = node.n_bytes - batch.bytes, self.n_bytes - batch.bytes
  note_done(self, batch, batch.left)
  return true
end

return fleet
