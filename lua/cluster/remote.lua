-- cluster/remote -- one call whose items run on other nodes: what luapool.call (binding/lcall.c) is for local ones. Room: lua.
-- Owns: per call its source and what came back, until it is over.
-- Items go out in batches, and results come in any order. Which node gets which batch is decided by cluster/plan.
local core, part = ...

local cluster = part "cluster"
local plan = part "plan"
local fleet = cluster.fleet

local remote = {}

local getupvalue = debug and debug.getupvalue

local PULL_SECONDS <const> = 0.002 -- an iterator is asked for so long before results are looked at again
local AT_ONCE <const> = 256        -- batches that are sent before they are
local TRIES <const> = 3            -- as if it had been lost so often: not to be done by another node

---@class luapool.RemoteCall
local Call = {}
Call.__index = Call

local BATCHED = { table = true, ordered = true, unordered = true }

--- What a call's options are to a node.
local function node_options(call)
  local o = call.options
  return {
    chunk = o.chunk, timeout = o.timeout, memory = o.memory,
    retries = o.retries, crash_retries = o.crash_retries, retry_delay = o.retry_delay,
    on_crash = o.on_crash ~= "skip" and o.on_crash or nil, priority = o.priority,
    wrapped = o.wrapped, discard = o.discard, seconds = o.seconds,
  }
end

-- The function whose upvalues both sides know.
local function named_function(fn, options)
  if not options.wrapped or not getupvalue then return fn end
  local _, inner = getupvalue(fn, 1)
  return type(inner) == "function" and inner or nil
end
remote.named_function = named_function

--- A new call of `handle`; nothing is sent yet.
---@param mode "table"|"ordered"|"unordered"|"apply"|"broadcast"
function remote.new(handle, mode, fn, kind, a, b, n, options)
  cluster.last.call = cluster.last.call + 1
  local call = setmetatable({
    number = cluster.last.call, handle = handle, mode = mode, fn = fn, options = options, kind = kind, a = a, b = b,
    phase = "open", settled = 0, n_errors = 0, sent = {}, waiting = {}, frames = {}, head = 1, tail = 0, began = core.now(),
    is_stream = mode == "ordered" or mode == "unordered",
  }, Call)
  call.plan = plan.new(fleet, n, options, handle.options, call.is_stream)
  call.named = named_function(fn, options)
  call.deadline = options.deadline and call.began + options.deadline
  local message, problem = cluster.pack("F", call.number, handle.number, nil, "function", fn, node_options(call), mode)
  if not message then error("cannot send the function to other machines: " .. problem, 0) end
  call.message = message
  cluster.calls[call.number] = call
  handle.n_open, handle.n_left = handle.n_open + 1, handle.n_left + 1
  if handle.options.output == "order" then call.plan:follow() end
  if BATCHED[mode] then call.plan:open() end
  if BATCHED[mode] or call.deadline then cluster.attended[call] = true end
  return call
end

-- ---- sending ----

-- The node gets the pool and the function before the first batch.
local function introduce(call, node)
  if call.sent[node.rank] then return end
  call.handle:open_at(node)
  cluster.put(node, call.message)
  call.sent[node.rank] = true
end

-- Have up to `size` items of the iterator in call.pulled. The only code here in which an interrupt may come: it is the source's, and ends
-- the call, whose next item may have been lost.
local function pull(call, size)
  local until_time = core.now() + PULL_SECONDS
  local items, count = call.pulled or {}, call.n_pulled or 0
  call.is_filling = true
  local _ <close> = setmetatable({}, { __close = function(_, err)
    call.is_filling, call.pulled, call.n_pulled = false, items, count
    if err ~= nil then call:fail(err) end
  end })
  while count < size and not call.plan.total do
    local ok, item = pcall(call.a)
    if not ok then
      if core.is_interrupt(item) then error(item, 0) end
      call.source_problem, call.has_problem = item, true
    end
    if not ok or item == nil then
      call.plan.total = call.plan.issued + count
      break
    end
    count = count + 1
    items[count] = item
    if core.now() > until_time then break end
  end
  call.is_slow = count < size and not call.plan.total
end

-- What the next batch may want of an iterator.
local function want_items(call, node)
  if call.kind ~= "iterator" or call.plan.total then return end
  local size = call.plan:wish(node)
  if size and size >= 1 then pull(call, size) end
end

-- The next batch for the node whose turn it is: { first, n, items or nil }; nothing: there is none now.
local function take_batch(call)
  local batch
  if call.kind ~= "iterator" or call.plan:takes_again() then
    if call.is_draining and not call.plan:takes_again() then return nil end
    batch = call.plan:take()
  elseif not call.is_draining and (call.n_pulled or 0) > 0 then
    batch = call.plan:take(call.pulled, call.n_pulled)
    call.pulled, call.n_pulled = nil, 0
  end
  if batch then batch.call = call end
  return batch
end

local function items_of(call, batch)
  if batch.items then return batch.items end
  if call.kind == "array" then return call.a:to_table(batch.first, batch.first + batch.n - 1) end
  return table.move(call.a, batch.first, batch.first + batch.n - 1, 1, {})
end

local function pack_batch(call, batch)
  if batch.arguments then
    return cluster.pack("A", call.number, batch.number, call.named, "argument", batch.arguments)
  elseif call.kind == "range" then
    return cluster.pack("B", call.number, batch.number, call.named, "item", batch.first, batch.n, call.a, call.b, batch.is_alone)
  end
  return cluster.pack("B", call.number, batch.number, call.named, "item", batch.first, batch.n, items_of(call, batch), nil, batch.is_alone)
end

-- Some item cannot be sent: alone, it is that item's failure.
local function refuse(call, batch, problem)
  fleet:untrack(batch)
  if batch.arguments or batch.n == 1 then
    local item = not batch.arguments and core.item_text((items_of(call, batch))[1]) or nil
    call:fail_item(batch.first, cluster.error("serialize", problem, { item = item }))
    return call:judge()
  end
  for k = 1, batch.n do
    local one = { first = batch.first + k - 1, n = 1, tries = batch.tries }
    if batch.items then one.items = { batch.items[k] } end
    call.plan:put_back(one)
  end
end

local function send(call, node, batch)
  fleet:track(node, batch)
  local message, problem = pack_batch(call, batch)
  if not message then return refuse(call, batch, problem) end
  call.plan:note_sent(batch, #message, core.now())
  introduce(call, node)
  cluster.put(node, message, BATCHED[call.mode])
  call.has_begun = true
end

local function send_next(call, node)
  local batch = take_batch(call)
  if not batch then return false end
  send(call, node, batch)
  return true
end

-- A batch for the node whose turn it is; true if there may be another.
local function feed_once(call)
  local node = call.plan:next_node()
  if not node then return false end
  if not call.is_draining then want_items(call, node) end
  return call.phase == "open" and core.shield(send_next, call, node) and not call.is_slow
end

--- Send what there is room for. Runs the source's iterator; raises interrupts that come out of it.
function Call:feed()
  if self.phase ~= "open" or self.is_filling then return end
  if not BATCHED[self.mode] and not self.plan:has_again() then return end
  if next(cluster.nodes_by_rank) and self.handle:n_living() == 0 then return self:all_lost() end
  local n = 0
  repeat
    n = n + 1
    self.has_more = n > AT_ONCE
  until self.has_more or not feed_once(self)
  cluster.flush()
  if self.phase == "open" then self:judge() end
end

-- One task with arguments, on a node that has little to do.
local function post(self, arguments)
  self.plan.issued = 1
  local node = fleet:idlest(self.handle.options)
  if not node then return self:all_lost() end
  send(self, node, { call = self, plan = self.plan, first = 1, n = 1, tries = 0, arguments = arguments })
end

-- The same task for every worker of every node.
local function post_all(self, arguments)
  local own = self.plan
  own.total = fleet:total_workers(self.handle.options)
  for node in cluster.living() do
    local n = fleet:workers_of(node, self.handle.options)
    local batch = { call = self, plan = own, first = own.issued + 1, n = n, tries = TRIES, arguments = arguments }
    own.issued = own.issued + n
    send(self, node, batch)
  end
  if own.issued == 0 then self:all_lost() end
end

--- One task with arguments.
function Call:post(arguments) core.shield(post, self, arguments) end

--- The same task for every worker of every node.
function Call:post_all(arguments) core.shield(post_all, self, arguments) end

-- ---- what comes back ----

function Call:hold(frame)
  if self.mode == "ordered" then
    self.frames[frame.first] = frame
  else
    self.tail = self.tail + 1
    self.frames[self.tail] = frame
  end
end

local function item_text(call, index)
  if call.kind == "range" then return core.item_text(call.a + (index - 1) * call.b) end
  if call.kind == "table" or call.kind == "array" then return core.item_text(call.a[index]) end
end

--- The last word on an item.
function Call:fail_item(index, e)
  self.settled = self.settled + 1
  if self.mode ~= "apply" then e.index = index end
  if self.mode ~= "apply" and self.mode ~= "broadcast" then e.item = item_text(self, index) or e.item end
  if e.kind == "crash" and self.options.on_crash == "skip" and not self.options.collect then
    if self.is_stream then self:hold { first = index, n = 1, values = {} } end
    return
  end
  self.n_errors = self.n_errors + 1
  if self.is_stream then return self:hold { first = index, n = 1, err = e } end
  self.errors = self.errors or {}
  self.errors[index] = e
  self.failed_at = math.min(self.failed_at or index, index)
end

-- All results as one table: at once, where it is known how many there will be.
local function keep_in_table(call, first, n, values)
  if call.kind == "iterator" then
    call.pieces = call.pieces or {}
    table.insert(call.pieces, { first, n, values })
  else
    call.value = call.value or core.sized(call.plan.total)
    core.fill_from(call.value, first, n, values)
  end
end

local function keep_values(call, first, n, values, worker)
  if call.mode == "apply" then
    call.value = values
  elseif call.is_stream then
    local frame = values
    if worker then frame.worker = worker end
    call:hold { first = first, n = n, values = frame }
  elseif call.options.into then
    local into = call.options.into
    for k = 1, n do into[first + k - 1] = values[k] end
  elseif not call.options.discard then
    keep_in_table(call, first, n, values)
  end
  call.settled = call.settled + n
end

-- Results between failures, as frames of their own.
local function keep_runs(call, batch, offset, n, values, errors, node, worker)
  local each = call.options.seconds and 2 or 1
  local from = 1
  for k = 1, n + 1 do
    local e = errors[k]
    if e or k > n then
      if k > from then
        local run = table.move(values, (from - 1) * each + 1, (k - 1) * each, 1, {})
        keep_values(call, batch.first + offset + from - 1, k - from, run, worker)
      end
      if e then
        setmetatable(e, core.Error)
        e.host, e.node = node.host, node.rank
        call:fail_item(batch.first + offset + k - 1, e)
      end
      from = k + 1
    end
  end
end

-- Numbers come as a block (binding/lblock).
local function table_of(block, n)
  local values = core.sized(n)
  core.fill_from(values, 1, n, block)
  return values
end

--- A message of results: all of a batch, or (with seconds) some.
function Call:results(batch, node, bytes)
  if self.phase ~= "open" then
    local ok, is_last = cluster.wire:read(bytes, self.named)
    if ok and is_last then fleet:untrack(batch) end
    return
  end
  local ok, is_last, offset, n, values, errors, elapsed, worker = cluster.wire:read(bytes, self.named)
  if not ok then
    fleet:untrack(batch)
    for k = 0, batch.n - 1 do self:fail_item(batch.first + k, cluster.error("serialize", is_last, { host = node.host })) end
    return self:judge()
  end
  if is_last then
    fleet:untrack(batch)
    node.n_done = node.n_done + batch.n
    self.plan:learn(node, batch, elapsed, #bytes, core.now())
  end
  if n > 0 then
    local into = self.options.into
    local done, problem = true, nil
    if type(values) == "string" and (into or self.is_stream) then values = table_of(values, n) end
    if errors or into then
      done, problem = pcall(keep_runs, self, batch, offset, n, values or {}, errors or {}, node, worker)
    else
      keep_values(self, batch.first + offset, n, values or {}, worker)
    end
    if not done then return self:fail(problem) end
  end
  self.handle:flush_order(self)
  self:judge()
end

-- ---- losses ----

--- The node that had the batch is lost.
function Call:lost(batch, node)
  if self.phase ~= "open" then return end
  self.handle.n_lost = self.handle.n_lost + 1
  if self.plan:lost(batch) then
    self.plan:open()
    cluster.attended[self] = true
    return
  end
  for k = 0, batch.n - 1 do
    self:fail_item(batch.first + k, cluster.error("crash", ("%s was lost, which ran it: %s"):format(cluster.name_of(node), node.why),
      { host = node.host }))
  end
  self:judge()
end

function Call:node_lost(node)
  self.sent[node.rank] = nil
  if self.waiting[node.rank] then self:cancelled_by(node) end
  if self.phase == "open" and self.handle:n_living() == 0 then self:all_lost() end
end

function Call:all_lost()
  local words = {}
  for rank = 0, #cluster.nodes_by_rank do
    local node = cluster.nodes_by_rank[rank]
    if node then words[#words + 1] = ("%s: %s"):format(cluster.name_of(node), node.why or "?") end
  end
  self:fail(cluster.error("crash", "all nodes are lost: " .. table.concat(words, "; ")))
end

--- A node cannot run the call at all (its workers do not start, say).
function Call:refused(node, e)
  if getmetatable(e) == nil then setmetatable(e, core.Error) end
  e.host = node.host
  self:fail(e)
end

-- ---- how it ends ----

local function reaches(count, limit, share, total)
  if limit and limit > 0 and count >= limit then return true end
  return share and share > 0 and total and count > 0 and count >= share * total
end

local function is_halted(call)
  local o = call.options
  return reaches(call.n_errors, o.halt_failed, o.halt_failed_share, call.plan.total)
    or reaches(call.settled - call.n_errors, o.halt_done, o.halt_done_share, call.plan.total)
end

--- Is it over by now?
function Call:judge()
  if self.phase ~= "open" then return end
  local o = self.options
  if self.deadline and core.now() >= self.deadline then
    self:fail(cluster.error("timeout", ("the call took longer than %.14g s (deadline)"):format(o.deadline)))
  elseif self.is_draining or is_halted(self) then
    self.is_draining = true
    if not o.halt_soon or self.plan.n_held == 0 then self:conclude((o.collect or self.n_errors == 0) and "done" or "error") end
  elseif self.has_problem and not self.is_stream then
    self:fail(self.source_problem)
  elseif self.failed_at and not (o.collect or o.halt_failed or o.halt_failed_share) then
    self:conclude("error")
  elseif self.plan.total and self.settled >= self.plan.total then
    self:conclude(self.n_errors > 0 and not o.collect and not self.is_stream and "error" or "done")
  end
end

--- `problem` ends the call as a whole.
function Call:fail(problem)
  if self.phase ~= "open" then return end
  self.problem = problem
  self:conclude("error")
end

local function release(call)
  if call.phase == "over" then return end
  call.phase = "over"
  cluster.calls[call.number] = nil
  call.handle.n_left = call.handle.n_left - 1
  for rank in pairs(call.sent) do
    local node = cluster.nodes_by_rank[rank]
    if node.state == "up" then cluster.tell(node, "E", call.number) end
  end
  call.sent, call.message = {}, nil
end

local function conclude(self, outcome)
  if self.phase ~= "open" then return end
  self.phase, self.outcome_word = "ending", outcome
  self.handle.n_concluded, self.handle.n_open = self.handle.n_concluded + 1, self.handle.n_open - 1
  self.plan:close()
  cluster.attended[self] = nil
  if self.wants_callback then
    self.wants_callback = false
    table.insert(self.handle.queue, self)
  end
  for rank in pairs(self.plan.held) do
    self.waiting[rank] = true
    cluster.tell(cluster.nodes_by_rank[rank], "C", self.number)
  end
  if next(self.waiting) == nil then release(self) end
end

--- It is decided how it ends; what is still under way is cancelled.
function Call:conclude(outcome) core.shield(conclude, self, outcome) end

function Call:cancelled_by(node)
  self.waiting[node.rank] = nil
  if self.phase == "ending" and next(self.waiting) == nil then release(self) end
end

-- ---- what the rest of luapool sees: as of luapool.call ----

function Call:status()
  if self.phase == "open" then return (self.settled > 0 or self.has_begun) and "running" or "pending" end
  return self.outcome_word
end

function Call:outcome()
  local pieces = self.pieces
  if pieces then
    self.value, self.pieces = core.sized(self.plan.total or self.plan.issued), nil
    for i, piece in ipairs(pieces) do
      core.fill_from(self.value, table.unpack(piece))
      pieces[i] = false -- it may be collected
    end
  end
  return self.value, self.plan.total or self.plan.issued, self.errors, self.problem
end

function Call:progress() return self.settled, self.plan.total, self.n_errors end

function Call:cancel()
  if self.phase ~= "open" then return false end
  self:conclude("cancelled")
  return true
end

--- Cancel, and wait until nobody works for it any more. An interrupt that comes meanwhile cuts the wait short, and is raised then.
function Call:stop()
  if self.phase == "open" then self:conclude("cancelled") end
  local until_time = core.now() + self.handle.grace + 10
  while self.phase == "ending" and core.now() < until_time do cluster.pump(1) end
  if self.phase == "ending" then release(self) end
end

function Call:notify()
  self.wants_callback = true
end

local function pop_frame(call)
  local frame
  if call.mode == "ordered" then
    local at = call.plan.delivered + 1
    if call.phase ~= "open" and call.outcome_word ~= "cancelled" then
      while at <= call.plan.issued and not call.frames[at] do at = at + 1 end -- it was halted: items that were not run have no frame
    end
    frame = call.frames[at]
    if not frame then return nil end
    call.frames[at] = nil
    call.plan.delivered = at - 1
  else
    frame = call.frames[call.head]
    if not frame then return nil end
    call.frames[call.head] = nil
    call.head = call.head + 1
  end
  call.plan.delivered = call.plan.delivered + frame.n
  call.plan.in_hand = frame.n
  return frame
end

local function note_wait(call, is_waiting)
  local now = is_waiting and core.now() or nil
  call.waits_since = now and (call.waits_since or now)
  call.plan:note_wait(now and now - call.waits_since or 0)
end

--- As call:next of binding/lcall.c: values, first, n | nil, index, 1, error | nothing at the end | false: the time is over.
function Call:next(seconds)
  local until_time = seconds and core.now() + seconds
  self.plan.in_hand = 0
  while self.outcome_word ~= "cancelled" do
    local frame = pop_frame(self)
    note_wait(self, not frame)
    if frame then
      if not self.frames[self.mode == "ordered" and self.plan.delivered + 1 or self.head] then self:feed() end
      if frame.err then return nil, frame.first, 1, frame.err end
      return frame.values, frame.first, frame.n
    end
    if self.phase ~= "open" then break end
    self.handle:work()
    frame = self.frames[self.mode == "ordered" and self.plan.delivered + 1 or self.head]
    if not frame and self.phase == "open" then
      local left = until_time and until_time - core.now()
      if left and left <= 0 then return false end
      self.handle:sleep(left)
    end
  end
  if self.problem ~= nil then error(self.problem, 0) end
  if self.outcome_word == "cancelled" then self.handle:raise_ended() end
  if self.has_problem and not self.has_raised then
    self.has_raised = true
    error(self.source_problem, 0)
  end
  return nil
end

return remote
