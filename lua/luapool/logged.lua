-- luapool/logged -- verbs with a log: what is in it is not run again, what is finished goes into it before the script sees it.
-- Room: lua. Feature: journal. Owns: the journal of the call (luapool/journal), closed however the call ends.
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

-- What is still to be run, as a source; `boxes[k]` is { number, item } of its k-th item, until somebody takes it away. Items travel with
-- their number: their random numbers and what is said of them are those of the whole job.
local function remaining(job, skip, seed)
  local fetch, index, count, n, boxes = fetcher(job), 0, 0, job.n, {}
  local function pull()
    repeat
      index = index + 1
      if n and index > n then return nil end
      local item = fetch(index)
      if item == nil then return nil end
      if not skip[index] then
        count = count + 1
        boxes[count] = { index, item }
        return boxes[count]
      end
    until false
  end
  local fn = job.fn
  local function run(box)
    local f = fn -- the first upvalue: the user's function
    if seed then math.randomseed(seed, box[1]) end
    return f(box[2])
  end
  return { fn = run, named = job.named or job.fn, kind = "iterator", a = pull }, boxes
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
  if not ok and err == nil then error(setmetatable({ kind = "error", message = message }, core.Error), 0) end
end

-- With `into`: a result goes into the array now; one that does not fit is a failure. ok, value
local function put(self, index, worker, ok, value)
  if not ok or not self.call.into then return ok, value end
  local err = part("inline").store(self.call.into, index, value)
  if not err then return true, value end
  err.worker, err.item = worker, self.item_of and core.item_text(self.item_of(index)) or nil
  return false, err
end

-- `take` is told what is stored. All of it is read before anything runs: what cannot be used is done again.
local function open(self, job, call, order, owns, take)
  local journal = part "journal"
  local identity = journal.identity {
    fn = job.named or job.fn, verb = call.verb, kind = job.kind, a = job.a, b = job.b, n = job.n, seed = self.options.seed,
  }
  local log = journal.open(call.log, identity, call.resume or nil, call.log_may_end)
  local run = setmetatable({ log = log, skip = {}, n = job.n, call = call }, Run)
  run.item_of = job.kind ~= "iterator" and fetcher(job) or nil
  local _ <close> = setmetatable({}, { __close = function(_, err) if err ~= nil then run.log:close() end end })
  for index, ok, value in run.log:stored() do
    if take then take(run, index, put(run, index, nil, ok, value)) end
  end
  for index in pairs(run.log.at) do run.skip[index] = true end
  local source, is_wrapped = job, job.named ~= nil
  if call.verb == "each" then source, is_wrapped = without_result(job), true end
  if next(run.skip) ~= nil then
    local rest
    rest, run.boxes = remaining(source, run.skip, self.options.seed)
    if is_wrapped then rest.named = nil end -- names of classes lie one wrapper deeper than C looks: they travel as copies
    source, is_wrapped = rest, true
  end
  local options = with(call, { seconds = true, collect = true, wrapped = is_wrapped, into = false })
  run.stream = part("stream").open(self, source, options, order, owns, run.log.n_done)
  return run
end

-- The number, within the job, of the k-th item that was run; its error is put in these terms.
local function locate(self, k, err)
  local box = self.boxes and self.boxes[k]
  if not box then return k end
  self.boxes[k] = nil
  if err and not core.is_interrupt(err) then err.index, err.item = box[1], core.item_text(box[2]) end
  return box[1]
end

-- What on_crash = "skip" makes of an item that killed its worker: nil, and no failure (which stands in the log).
local function is_skipped(self, ok, value)
  return not ok and self.call.on_crash == "skip" and not self.call.collect and value.kind == "crash"
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
        local index = locate(self, first + k - 1, err)
        local worker = (err or values).worker
        local seconds
        if err then seconds = err.seconds else seconds = values[2 * k] end
        local ok, value = err == nil, err
        if ok then ok, value = put(self, index, worker, true, values[2 * k - 1]) end
        self.log:add(index, seconds, worker, ok, value)
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
  local goes_on = call.collect or (call.halt and call.halt.what == "fail")
  local function take(run, index, ok, value)
    last = math.max(last, index)
    if ok then
      if not call.into then results[index] = value end
    elseif not is_skipped(run, ok, value) then
      errors = errors or {}
      errors[index] = value
      return true
    end
  end
  local run <close> = open(self, job, call, "unordered", false, take)
  for index, ok, value in finished(run) do
    local is_failure = take(run, index, ok, value)
    if is_failure and not goes_on then
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
    if is_skipped(run, ok, value) then return index, nil end
    if call.collect then return index, nil, value end
    pcall(Run.__close, run)
    error(value, 0)
  end
  return iterate, nil, nil, run
end

return logged
