-- cluster/remote_pool -- a pool whose workers are on other nodes: what luapool.handle (binding/lpool.c) is for local ones. Room: lua.
-- Owns: on each node where it was used a pool of the same options, until it is closed.
local core, part = ...

local cluster = part "cluster"
local remote = part "remote"
local fleet = cluster.fleet

local remote_pool = {}

local TICK <const> = 0.1

---@class luapool.RemotePool
local Handle = {}
Handle.__index = Handle

-- What a node must know of the pool's options.
local function node_options(o)
  return {
    workers = not o.auto_workers and o.workers or nil, grace = o.grace, on_start = o.on_start, on_exit = o.on_exit, seed = o.seed,
    max_tasks = o.max_tasks, max_growth = o.max_growth, idle_timeout = o.idle_timeout, nice = o.nice, pin = o.pin,
    load = o.load, memfree = o.memfree,
    nested = o.nested, name = o.name, ring = o.ring, discards_output = o.output == "discard",
    output_items = type(o.output) == "function" or o.output == "order",
  }
end

--- As core.open: nothing is started yet.
function remote_pool.open(options)
  local last = cluster.last
  last.pool = last.pool + 1
  local handle = setmetatable({
    number = last.pool, options = options, owner = core.pid(), grace = options.grace or 1, n_concluded = 0, n_lost = 0, n_calls = 0,
    n_open = 0, n_left = 0, -- calls: not decided; that somebody works for still
    queue = {}, closing = {}, texts = {}, began = core.now(),
  }, Handle)
  local message, problem = cluster.pack("P", handle.number, 0, nil, "function", node_options(options))
  if not message then error("cannot send the pool's functions to other machines: " .. problem, 0) end
  handle.message = message
  cluster.handles[handle.number] = handle
  return handle
end

--- The node has this pool from now on.
function Handle:open_at(node)
  if node.opened[self.number] then return end
  cluster.put(node, self.message)
  node.opened[self.number] = true
end

function Handle.n_living() return #fleet.up end

-- Calls of this pool, oldest first.
local function own_calls(self, phase)
  local list = {}
  for _, call in pairs(cluster.calls) do
    if call.handle == self and (not phase or call.phase == phase) then list[#list + 1] = call end
  end
  table.sort(list, function(a, b) return a.number < b.number end)
  return list
end

-- ---- what tasks print ----

local function write_line(self, node, text, info)
  local wish = self.options.output
  if wish == "tag" then
    local before = 0
    for other in cluster.living() do
      if other.rank < node.rank then before = before + fleet:workers_of(other, self.options) end
    end
    text = ("[%d] %s"):format(before + info.worker, text)
  end
  if self.is_drawn then
    self.is_drawn = false
    core.write_stderr("\r\27[K", true)
  end
  cluster.has_printed = true
  local file = io[info.stream]
  file:write(text, "\n")
end

local function flush_item(self, call, index)
  for _, line in ipairs(call.texts[index] or {}) do write_line(self, line[1], line[2], line[3]) end
  call.texts[index] = nil
end

--- With output = "order": print what items said whose turn it is: no earlier one can say something.
function Handle:flush_order(call)
  if not call.texts then return end
  local lowest = call.plan:lowest()
  if call.phase ~= "open" then lowest = math.huge end
  local ready = {}
  for index in pairs(call.texts) do
    if index < lowest then ready[#ready + 1] = index end
  end
  table.sort(ready)
  for _, index in ipairs(ready) do flush_item(self, call, index) end
  if #ready > 0 then io.stdout:flush() end
end

--- A line that a task printed on that node.
function Handle:print(call, node, text, info)
  local wish = self.options.output
  info.call = nil
  local batch = info.batch and node.batches[info.batch]
  info.batch = nil
  if batch then info.item = batch.first + info.item - 1 else info.item = nil end
  info.host = node.host
  if type(wish) == "function" then
    local ok, problem = pcall(wish, text, info)
    if ok then return end
    if call and not core.is_interrupt(problem) then return call:fail(problem) end
    error(problem, 0)
  elseif wish == "order" and call and info.item then
    call.texts = call.texts or {}
    call.texts[info.item] = call.texts[info.item] or {}
    table.insert(call.texts[info.item], { node, text, info })
  elseif wish ~= "discard" then
    write_line(self, node, text, info)
  end
end

-- ---- waiting ----

function Handle:raise_ended()
  local message = "the call was cancelled"
  if self.is_terminated then
    message = "the pool was terminated during the call"
  elseif self.is_closed then
    message = "the pool was closed during the call"
  end
  error(cluster.error("cancelled", message), 0)
end

local function check_alive(self)
  if self.is_closed or self.is_terminated then self:raise_ended() end
end

local function run_hook(self)
  if not self.callback or self.is_in_hook or #self.queue == 0 then return end
  self.is_in_hook = true
  local _ <close> = setmetatable({}, { __close = function() self.is_in_hook = false end })
  self.callback()
end

local function feed_all()
  local list = {}
  for call in pairs(cluster.attended) do list[#list + 1] = call end
  if #list > 1 then table.sort(list, function(a, b) return a.number < b.number end) end
  for _, call in ipairs(list) do
    call:feed()
    if call.deadline then call:judge() end
  end
end

--- Everything that can be done now, for the calls of all pools. Raises interrupts, and what hooks raise.
function Handle:work()
  check_alive(self)
  cluster.pump(0)
  feed_all()
  check_alive(self)
  run_hook(self)
  check_alive(self)
end

--- Until something happens, `seconds` are over (nil: any), or something is due that nobody tells of.
function Handle.sleep(_, seconds)
  for call in pairs(cluster.attended) do
    if call.deadline then seconds = math.min(seconds or math.huge, math.max(call.deadline - core.now(), 0)) end
    if call.is_slow or call.has_more then seconds = 0 end -- its source has more to give, or we have
  end
  cluster.pump(seconds and math.min(seconds, 1e6))
end

-- Until the call is over; whatever ends the wait ends the call, too.
local function drive(self, call)
  self.depth = (self.depth or 0) + 1
  local ok, problem = pcall(function()
    while call.phase == "open" do
      self:work()
      if call.phase == "open" then self:sleep() end
    end
    if call.phase == "ending" then call:stop() end
  end)
  self.depth = self.depth - 1
  if not ok then
    pcall(call.stop, call)
    error(problem, 0)
  end
  self:flush_order(call)
  if call.problem ~= nil then error(call.problem, 0) end
  if call.outcome_word == "cancelled" then self:raise_ended() end
end

-- ---- verbs ----

local function refuse_foreign(self, what)
  if self.owner ~= core.pid() then
    error(("cannot use '%s' here: the pool belongs to process %d, this is process %d"):format(what, self.owner, core.pid()), 0)
  end
  if self.is_closed then error(("cannot use '%s': the pool is closed"):format(what), 0) end
end

local function open_call(self, what, mode, fn, kind, a, b, n, options)
  refuse_foreign(self, what)
  io.stdout:flush() -- what the script printed comes before what its tasks print
  self.n_calls = self.n_calls + 1
  return remote.new(self, mode, fn, kind, a, b, n, options)
end

function Handle:run(fn, kind, a, b, n, options)
  local call = open_call(self, "map", "table", fn, kind, a, b, n, options)
  drive(self, call)
  local results, count, errors = call:outcome()
  return results or {}, count, errors
end

function Handle:begin(fn, kind, a, b, n, options, mode)
  local call = open_call(self, "begin", mode, fn, kind, a, b, n, options)
  local ok, problem = pcall(call.feed, call)
  if ok then return call end
  pcall(call.stop, call)
  error(problem, 0)
end

function Handle:apply(options, fn, ...)
  local call = open_call(self, "apply", "apply", fn, "apply", nil, nil, 1, options)
  call:post(table.pack(...))
  drive(self, call)
  if call.errors then return nil, call.errors[1] end
  return call.value
end

function Handle:submit(options, fn, ...)
  local call = open_call(self, "submit", "apply", fn, "apply", nil, nil, 1, options)
  call:post(table.pack(...))
  return call
end

function Handle:broadcast(options, fn, ...)
  local call = open_call(self, "broadcast", "broadcast", fn, "broadcast", nil, nil, nil, options)
  call:post_all(table.pack(...))
  drive(self, call)
  local results, count, errors = call:outcome()
  return results or {}, count, errors
end

-- ---- what is begun ----

function Handle:pending() return self.n_open end

function Handle:turn(seconds)
  refuse_foreign(self, "turn")
  local before = self.n_concluded
  self:work()
  if self.n_concluded ~= before or seconds == 0 or self.n_left == 0 then return end
  self:sleep(seconds)
  if not self.is_closed then self:work() end
end

function Handle:hook(callback) self.callback = callback end

function Handle:ready() return self.queue[1] end

function Handle:told() table.remove(self.queue, 1) end

function Handle:cancel()
  refuse_foreign(self, "cancel")
  for _, call in ipairs(own_calls(self)) do call:conclude("cancelled") end
  for _, call in ipairs(own_calls(self)) do call:stop() end
end

-- ---- ending ----

-- Let the nodes end their pools, and wait for it.
local function close_at_nodes(self, how, until_time)
  for node in cluster.living() do
    if node.opened[self.number] and not self.closing[node.rank] then
      cluster.say(node, "X", self.number, 0, how)
      self.closing[node.rank] = true
    end
  end
  while next(self.closing) ~= nil do
    local left = until_time and until_time - core.now()
    if left and left <= 0 then return false end
    cluster.pump(math.min(left or TICK, TICK))
  end
  for _, node in pairs(cluster.nodes_by_rank) do node.opened[self.number] = nil end
  return true
end

local function finish(self)
  self.is_closed = true
  cluster.handles[self.number] = nil
end

function Handle:close(timeout)
  if self.is_closed then return true end
  refuse_foreign(self, "close")
  local until_time = timeout and core.now() + timeout
  for _, call in ipairs(own_calls(self, "open")) do
    if call.is_stream then call:conclude("cancelled") end
  end
  while self.n_left > 0 or #self.queue > 0 and self.callback and not self.is_in_hook do
    local left = until_time and until_time - core.now()
    if left and left <= 0 then return false end
    self:work()
    if self.n_left > 0 then self:sleep(math.min(left or 1, 1)) end
  end
  if not close_at_nodes(self, "close", until_time) then return false end
  finish(self)
  return true
end

function Handle:terminate(grace)
  if self.is_closed then return end
  self.is_terminated = true
  for _, call in ipairs(own_calls(self, "open")) do call:conclude("cancelled") end
  pcall(close_at_nodes, self, "terminate", core.now() + (grace or self.grace) + 10)
  for _, call in ipairs(own_calls(self)) do pcall(call.stop, call) end
  finish(self)
end

function Handle:resize(n)
  for node in pairs(cluster.nodes_by_rank) do
    node = cluster.nodes_by_rank[node]
    if node.state == "up" and node.opened[self.number] then cluster.say(node, "Z", self.number, 0, n) end
  end
  self.options.workers, self.options.auto_workers = n, nil
  self.message = cluster.pack("P", self.number, 0, nil, "function", node_options(self.options))
  return true
end

-- ---- what is going on ----

function Handle:state()
  local here = core.pid()
  return self.owner ~= here and "foreign" or self.is_closed and "closed" or "open", self.owner, here
end

function Handle:is_waiting() return (self.depth or 0) > 0 or self.is_in_hook or false end

function Handle:line(is_drawn)
  local before = self.is_drawn or false
  self.is_drawn = is_drawn and true or false
  return before
end

function Handle:active()
  local n = 0
  for node in cluster.living() do n = n + math.min(node.n_items, fleet:workers_of(node, self.options)) end
  return n, 0
end

local COUNTS <const> = { "forks", "sent", "renewed", "retries", "crashes", "items", "chunks", "bytes_in", "bytes_out", "busy", "idle",
  "encode", "wait" }

--- The sum over all nodes; workers of all, each with its host.
function Handle:stats()
  local sum = { calls = self.n_calls, elapsed = core.now() - self.began, tail = 0.0, host = { decode = 0.0, wait = 0.0, encode = 0.0 },
    workers = {}, nodes_lost = self.n_lost }
  for _, name in ipairs(COUNTS) do sum[name] = 0 end
  for rank, stats in pairs(cluster.ask("stats", self.number)) do
    for _, name in ipairs(COUNTS) do sum[name] = sum[name] + (stats[name] or 0) end
    if stats.peak then sum.peak = math.max(sum.peak or 0, stats.peak) end
    for _, worker in ipairs(stats.workers) do
      worker.host, worker.node = cluster.nodes_by_rank[rank].host, rank
      table.insert(sum.workers, worker)
    end
  end
  return sum
end

function Handle:workers()
  local all, answers = {}, cluster.ask("workers", self.number)
  for rank = 0, #cluster.nodes_by_rank do
    for _, worker in ipairs(answers[rank] or {}) do
      worker.host, worker.node = cluster.nodes_by_rank[rank].host, rank
      table.insert(all, worker)
    end
  end
  return all
end

return remote_pool
