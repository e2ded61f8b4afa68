-- luapool/logged -- verbs with a log: what is in it is not run again, what is finished goes into it before the script sees it.
-- Room: lua. Owns: the journal of the call (luapool/journal), closed however the call ends.
local core, part = ...

local logged = {}

local function with(table, changes) return setmetatable(changes, { __index = table }) end

local function fetcher(job)
  local a, b = job.a, job.b
  if job.kind == "range" then return function(i) return a + (i - 1) * b end end
  if job.kind == "iterator" then return function() return a() end end
  return function(i)
    local item = a[i]
    if item == nil then error(("bad item %d: nil (a sequence with holes cannot be logged)"):format(i), 0) end
    return item
  end
end

-- What is still to be run, as a source; `index_of[k]` is the number of its k-th item. Items travel with their number: their random numbers
-- and what is said of them are those of the whole job.
local function remaining(job, skip, seed)
  local fetch, index, count, n, index_of = fetcher(job), 0, 0, job.n, {}
  local function pull()
    repeat
      index = index + 1
      if n and index > n then return nil end
      local item = fetch(index)
      if item == nil then return nil end
      if not skip[index] then
        count = count + 1
        index_of[count] = index
        return { index, item }
      end
    until false
  end
  local fn = job.fn
  local function run(box)
    local f = fn -- the first upvalue: the user's function
    if seed then math.randomseed(seed, box[1]) end
    return f(box[2])
  end
  return { fn = run, named = job.named or job.fn, kind = "iterator", a = pull }, index_of
end

-- For side effects: nothing of the result is stored.
local function without_result(job)
  local fn = job.fn
  local function run(item)
    local f = fn -- the first upvalue
    f(item)
  end
  return with(job, { fn = run, named = job.named or fn })
end

---@class luapool.Logged one call with a log
local Run = {}
Run.__index = Run

function Run.__close(self, err)
  if self.stream then self.stream:__close(err) end
  local ok, message = self.log:close()
  if ok == false and err == nil then error(message, 0) end
end

local function open(self, job, call, order, owns)
  local journal = part "journal"
  local identity = journal.identity {
    fn = job.named or job.fn, verb = call.verb, kind = job.kind, a = job.a, b = job.b, n = job.n, seed = self.options.seed,
  }
  local run = setmetatable({ log = journal.open(call.log, identity, call.resume or nil), skip = {}, n = job.n }, Run)
  local _ <close> = setmetatable({}, { __close = function(_, err) if err ~= nil then run.log:close() end end })
  for index in pairs(run.log.at) do run.skip[index] = true end
  local source, is_wrapped = job, job.named ~= nil
  if call.verb == "each" then source, is_wrapped = without_result(job), true end
  if next(run.skip) ~= nil then
    local rest
    rest, run.index_of = remaining(source, run.skip, self.options.seed)
    if is_wrapped then rest.named = nil end -- names of classes lie one wrapper deeper than C looks: they travel as copies
    source, is_wrapped = rest, true
  end
  run.fetch = job.kind ~= "iterator" and fetcher(job) or nil
  local options = with(call, { seconds = true, collect = true, wrapped = is_wrapped, into = false })
  run.stream = part("stream").open(self, source, options, order, owns, run.log.n_done)
  return run
end

-- The error of a boxed item, in terms of the job.
local function locate(self, err, index)
  if not self.index_of or core.is_interrupt(err) then return end
  err.index = index
  err.item = self.fetch and core.item_text(self.fetch(index)) or nil
end

-- An iterator over what finishes: index, ok, value. Everything has been written to the log by then.
local function finished(self)
  local frames = self.stream:frames()
  local queue, head, tail = {}, 1, 0
  local function push(index, ok, value)
    tail = tail + 1
    queue[tail] = { index, ok, value }
  end
  return function()
    if head > tail then
      queue, head, tail = {}, 1, 0
      local first, count, values, err = frames()
      if not first then
        self.log:sync()
        return nil
      end
      for k = 1, count do
        local index = self.index_of and self.index_of[first + k - 1] or first + k - 1
        if err then locate(self, err, index) end
        local ok, value = err == nil, err
        if ok then value = values[2 * k - 1] end
        self.log:add(index, ok and values[2 * k] or err.seconds, ok and values.worker or err.worker, ok, value)
        push(index, ok, value)
      end
      self.log:flush()
    end
    local item = queue[head]
    head = head + 1
    return item[1], item[2], item[3]
  end
end

--- map and each with a log.
---@return table results, integer n, table? errors, table call for verbs.finish
function logged.map(self, job, call)
  local results, errors, last = call.into or {}, nil, 0
  local run <close> = open(self, job, call, "unordered")
  local function take(index, ok, value)
    last = math.max(last, index)
    if ok then
      results[index] = value
    else
      errors = errors or {}
      errors[index] = value
    end
  end
  for index, ok, value in run.log:stored() do take(index, ok, value) end
  for index, ok, value in finished(run) do
    take(index, ok, value)
    if not ok and not call.collect and not call.halt then
      run.log:sync()
      error(value, 0)
    end
  end
  return results, job.n or last, errors, call
end

-- Stored and new results in input order: index, ok, value.
local function in_order(run)
  local step, position = finished(run), 0
  return function()
    position = position + 1
    if run.n and position > run.n then return nil end
    if run.skip[position] then
      local ok, value = run.log:done(position)
      if ok ~= nil then return position, ok, value end
    end
    return step()
  end
end

-- Stored results first, then new ones as they come.
local function as_they_come(run)
  local step, stored = finished(run), run.log:stored()
  return function()
    if stored then
      local index, ok, value = stored()
      while index and not run.skip[index] do index, ok, value = stored() end
      if index then return index, ok, value end
      stored = nil
    end
    return step()
  end
end

--- imap and imap_unordered with a log.
function logged.imap(self, job, call, order, owns)
  local run = open(self, job, call, order, owns)
  local step = order == "ordered" and in_order(run) or as_they_come(run)
  local function iterate()
    local index, ok, value = step()
    run.log:sync()
    if index == nil then
      Run.__close(run)
      return nil
    end
    if ok then return index, value end
    if call.collect then return index, nil, value end
    pcall(Run.__close, run)
    error(value, 0)
  end
  return iterate, nil, nil, run
end

return logged
