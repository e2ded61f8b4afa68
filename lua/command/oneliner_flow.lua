-- command/oneliner_flow -- blocks of lines through the workers, and their results out in order. Room: lua.
-- Owns: per flow the list of blocks whose results are not out yet, where an order is wanted.
-- A block is cut so large that it takes some milliseconds: while nothing is known of the function, and where it is slow, that is one line.
-- What a worker has not done of a block when its time is over comes back as a block of its own; the lines of a block that a worker did not
-- survive are run again, one by one. So the stream below is an unordered one, and the order is kept here.
local core, part = ...

local flow = {}

local GOAL <const> = 0.004 -- seconds that a block should take
local SHORT <const> = 0.0005 -- seconds; what took less has measured the clock
local GROWTH <const> = 8 -- a block is so many times as large as one whose time is known, at most
local MOST_BYTES <const> = 1 << 16 -- those that run, and what they give, should fit into the caches
local HELD_BYTES <const> = 32 << 20 -- of blocks that run and of results that are not out; then no more are read until the first is
local HELD_BLOCKS <const> = 1 << 16
local RUNNING <const> = 4 -- blocks for each worker: what is learnt of one should be of use for the next

---@class luapool.Flow
local Flow = {}
Flow.__index = Flow

---@class luapool.Block
---@field text string whole lines
---@field item any what the worker is given
---@field number integer of the first line
---@field n integer lines

-- ---- the list ----

-- So many bytes are in memory for a node from now on.
local function hold(self, node, bytes)
  self.held = self.held + (node.size and 0 or 1)
  self.held_bytes = self.held_bytes + bytes - (node.size or 0)
  node.size = bytes
end

local function append(self, block)
  local node = { block = block }
  if not self.is_ordered then return node end
  if self.last then self.last.next = node else self.first = node end
  self.last = node
  hold(self, node, #block.text)
  return node
end

-- Blocks that come out after `node`; they are to be run before anything new is read.
local function insert(self, node, blocks)
  for _, block in ipairs(blocks) do
    local new = { block = block }
    if self.is_ordered then
      new.next, node.next = node.next, new
      if self.last == node then self.last = new end
      hold(self, new, #block.text)
    end
    self.again[#self.again + 1] = new
    node = new
  end
end

-- What is finished at the head of the list goes out.
local function flush(self)
  local node, pieces = self.first, {}
  while node and node.out ~= nil do
    if node.out then pieces[#pieces + 1] = node.out end
    if node.problems then self.tell(node.problems) end
    self.held_bytes, self.held = self.held_bytes - node.size, self.held - 1
    node = node.next
  end
  self.first = node
  if not node then self.last = nil end
  if #pieces > 0 then self.write(pieces) end
end

-- After a stop blocks behind one that did not finish stay where they are, but not what went wrong with them.
local function tell_what_is_left(self)
  local node = self.first
  while node do
    if node.problems then self.tell(node.problems) end
    node = node.next
  end
end

local function size_of(out)
  if type(out) == "string" then return #out end
  return type(out) == "table" and type(out[2]) == "string" and #out[1] + #out[2] or 0
end

-- What became of a node. Without an order there is no list: it goes out at once.
local function put(self, node, out)
  if self.is_ordered then
    node.out, node.problems, node.block = out or false, node.block.problems, nil
    hold(self, node, size_of(out))
  else
    if node.block.problems then self.tell(node.block.problems) end
    if out then self.write { out } end
  end
end

-- ---- the source ----

local NOTHING <const> = { text = "", item = false, number = 0, n = 0 } -- stands for "not yet", which an iterator cannot say

-- Whether the reader may be asked: not when it is over, or when much waits for a slow block.
local function set_mood(self)
  local mood = "see"
  if #self.again > self.n_again then
    mood = "ask"
  elseif self.n_running >= self.most_running or self.is_over or self.held_bytes > HELD_BYTES or self.held > HELD_BLOCKS then
    mood = "wait"
  end
  if mood ~= self.mood then
    self.mood = mood
    self.reader:mood(mood)
  end
end

local function take_again(self)
  if self.n_again == #self.again then return nil end
  self.n_again = self.n_again + 1
  local node = self.again[self.n_again]
  self.again[self.n_again] = false
  if self.n_again == #self.again then self.again, self.n_again = {}, 0 end
  return node
end

-- A node of the list, or nil: there will be none.
local function next_node(self)
  local node = take_again(self)
  if node then return node end
  local block = not self.is_over and self.supply(self.n_running == 0, self.bytes)
  if block == nil then self.is_over = true end
  if not block and self.is_over and self.n_running == 0 then return nil end
  return append(self, block or NOTHING)
end

local function next_item(self)
  local node = next_node(self)
  if not node then return nil end
  self.index, self.n_running = self.index + 1, self.n_running + 1
  self.running[self.index] = node
  set_mood(self)
  return node.block.item
end

-- ---- what comes back ----

-- From the time that a block took, how large the next one should be. One that took next to no time tells that they may be larger, no more;
-- a slower one is believed at once, a faster one by and by.
local function learn(self, bytes, seconds)
  if self.is_by_line or bytes == 0 then return end
  local most = math.min(bytes * GROWTH, MOST_BYTES)
  if seconds < SHORT then
    self.bytes = math.max(self.bytes, most)
    return
  end
  local per_byte, known = seconds / bytes, self.per_byte
  self.per_byte = (not known or per_byte > known) and per_byte or (known + per_byte) / 2
  self.bytes = math.min(math.tointeger(GOAL // self.per_byte) or 0, most)
end

-- A block as one for each of its lines.
local function split(self, block)
  local blocks, number = {}, block.number
  for line in block.text:gmatch("[^" .. self.separator .. "]*" .. self.separator) do
    blocks[#blocks + 1] = self.part_of(block, line, number, 1)
    number = number + 1
  end
  return blocks
end

local function take_failure(self, node, err)
  if self.is_by_line or node.block.n <= 1 then
    self.n_lines = self.n_lines + node.block.n
    return put(self, node, self.fail(node.block, err))
  end
  self.bytes, self.is_by_line = 0, true -- from now on a death costs one line
  insert(self, node, split(self, node.block))
  put(self, node, false)
end

local function take(self, index, value, err)
  local node = self.running[index]
  self.running[index], self.n_running = nil, self.n_running - 1
  if node.block == NOTHING then
    put(self, node, false)
  elseif err then
    take_failure(self, node, err)
  else
    local block = node.block
    local done = value.at or #block.text
    learn(self, done, value.seconds or 0)
    self.n_lines = self.n_lines + (value.at and value.number - block.number or block.n)
    if value.at then
      local n = block.n - (value.number - block.number)
      insert(self, node, { self.part_of(block, block.text:sub(done + 1), value.number, n) })
    end
    put(self, node, self.accept(block, value))
  end
end

-- ---- progress: of lines, not of blocks ----

-- The stream's call, which knows of blocks, as one whose progress is that of lines.
local function count_lines(self, call)
  local proxy = {}
  function proxy.progress() return self.n_lines, self.total and self.total(), self.n_failed() end
  return setmetatable(proxy, { __index = function(_, name)
    return function(_, ...) return call[name](call, ...) end
  end })
end

-- The meter's line, and lines written to the same terminal, take turns.
local function write_beside(self, meter)
  local write = self.write
  if not core.isatty(1) then return end
  self.write = function(pieces)
    meter:clear()
    write(pieces)
  end
end

--- Run it all. Returns when everything is out, or when `stop` was called.
---@param job table pool; fn (called in workers with a block's item); call: options of the call; reader, source: as core.reader made them;
---   separator: of lines;
---   supply(waits, bytes): the next block, false: none yet (only if not `waits`), nil: no more;
---   part_of(block, text, number, n): a block that is a part of another;
---   accept(block, value) -> text or nil: fn's value { seconds =, at = (offset of what is not done), number = (of its first line), ... };
---   fail(block, err) -> text or nil: a block of one line failed; write(pieces);
---   tell(texts): what went wrong with lines, block.problems, when it is the block's turn;
---   is_ordered, is_by_line; most_running: blocks that are begun at a time;
---   total() -> how many lines there are, or nil; n_failed() -> how many have failed
function flow.run(job)
  local self = setmetatable({
    again = {}, n_again = 0, n_lines = 0,
    running = {}, n_running = 0, index = 0, held_bytes = 0, held = 0, bytes = 0, is_over = false, mood = "see",
  }, { __index = function(_, key) return job[key] or Flow[key] end })
  job.flow = self
  if not job.most_running then self.most_running = job.is_by_line and math.huge or RUNNING * math.max(job.pool.options.workers, 1) end
  local work = { fn = job.fn, kind = "iterator", a = function() return next_item(self) end, b = job.source }
  local stream <close> = part("stream").open(job.pool, work, job.call, "unordered")
  if stream.meter then
    stream.call = count_lines(self, stream.call)
    write_beside(self, stream.meter)
  end
  for first, count, values, err in stream:frames() do
    if err then
      take(self, first, nil, err)
    else
      for k = 1, count do take(self, first + k - 1, values[k]) end
    end
    flush(self)
    set_mood(self)
    if self.is_stopped then break end
  end
  tell_what_is_left(self)
end

--- No more is read; what runs may finish.
function Flow:finish()
  self.is_over = true
  set_mood(self)
end

--- What runs is ended, too.
function Flow:stop()
  self.is_over, self.is_stopped = true, true
end

return flow
