-- luapool/inline -- the verbs without workers: `workers = 0`, and pools inside a task. Room: lua. Owns nothing.
-- Items and results go through the same codec as to real workers, and errors have the same shape. Time limits, memory limits and crashes
-- are the one thing that only a process of its own can contain: they are not enforced here.
local core, part = ...

local output = part "output"

local inline = {}

local Error = core.Error

local LONGEST_DELAY <const> = 3600 -- seconds

local function item_at(kind, a, b)
  if kind == "range" then
    return function(i) return a + (i - 1) * b end
  elseif kind == "table" or kind == "array" then
    return function(i) return a[i] end
  end
  return function() return a() end
end

-- xpcall that remembers the traceback: ok, results ... | false, value, traceback. The handler leaves the value alone: __close sees it.
-- Without a traceback the handler was not asked: no memory, or an error in it.
local function protected(fn, ...)
  local traceback
  local function on_error(value)
    traceback = debug and debug.traceback(nil, 2) or ""
    traceback = traceback:gsub("\n\t%[C%]: in function 'xpcall'.*$", "") -- what called the task is ours, not the user's
    return value
  end
  local results = table.pack(xpcall(fn, on_error, ...))
  if results[1] then return table.unpack(results, 1, results.n) end
  return false, results[2], traceback
end

-- As text if it is, or can be made into one; else by its type. The value itself crosses, or is not there: as from a worker.
local function set_value(e, value, copy)
  local meta = getmetatable(value)
  if type(value) == "string" or type(value) == "number" or (type(meta) == "table" and meta.__tostring) then
    local ok, text = pcall(tostring, value)
    e.message = ok and text or "an error whose value cannot be made into text"
  else
    e.message = ("(error object is a %s value)"):format(type(value))
  end
  local ok, sent = copy(value, "error")
  e.value = ok and sent or nil
end

local function new_error(kind, index, item)
  return setmetatable({ kind = kind, index = index, item = index and core.item_text(item), worker = 0 }, Error)
end

-- What cannot cross: the message says so.
local function refusal(message, index, item)
  local e = new_error("serialize", index, item)
  e.message = message
  return e
end

-- What fn raised; an interrupt stays what it is.
local function failure(value, traceback, copy, index, item)
  if core.is_interrupt(value) then return value end
  local e = new_error(traceback and "error" or "memory", index, item)
  e.traceback = traceback ~= "" and traceback or nil
  set_value(e, value, copy)
  return e
end

--- Put a result into a shared array. What does not fit is the item's error, worded as in a worker: nothing, or that.
---@param index integer of the item
---@return table?
function inline.store(into, index, value)
  if index > #into then
    local e = new_error("error", index)
    e.message = ("result cannot be stored: the array has %d elements"):format(#into)
    return e
  end
  local ok, problem = pcall(function() into[index] = value end)
  if ok then return nil end
  if core.is_interrupt(problem) then error(problem, 0) end
  local e = new_error("error", index)
  e.message = tostring(problem):gsub("^.*cannot set element %d+", "result cannot be stored")
  return e
end

-- One try at one item: true, result | false, error table (or interrupt).
local function try(fn, copy, index, item, options)
  local ok, sent = copy(item, "item")
  if not ok then return false, refusal(sent, index, item) end
  if options.seed then math.randomseed(options.seed, index) end
  output.item(index)
  local done, result, traceback = protected(fn, sent)
  output.item(nil)
  if not done then return false, failure(result, traceback, copy, index, item) end
  if options.discard then return true end
  if options.into then
    local problem = inline.store(options.into, index, result)
    if problem then problem.item = core.item_text(item) end
    return problem == nil, problem
  end
  ok, result = copy(result, "result")
  if not ok then return false, refusal(result, index, item) end
  return true, result
end

-- What schedule_delay_ns is to workers. Who waits can be interrupted.
local function wait_before(number, first)
  local delay = first
  for _ = 2, number do delay = delay < LONGEST_DELAY / 2 and delay * 2 or delay end
  core.channel(1):receive(delay)
end

local function try_often(fn, copy, index, item, options)
  local ok, result
  for number = 0, options.retries or 0 do
    if number > 0 and (options.retry_delay or 0) > 0 then wait_before(number, options.retry_delay) end
    ok, result = try(fn, copy, index, item, options)
    if ok then return true, result end
    if core.is_interrupt(result) then error(result, 0) end
  end
  return false, result
end

--- on_start of an inline pool; an error in it is worded as that of a worker.
function inline.start(on_start, worker)
  local ok, problem, traceback = protected(on_start, worker)
  if ok then return end
  local e = failure(problem, traceback, core.copier(on_start))
  if not core.is_interrupt(e) then e.message = "on_start failed: " .. e.message end
  error(e, 0)
end

--- on_exit of an inline pool: nobody waits for its errors, so they are a warning.
---@return any what it returned
function inline.finish(on_exit, worker)
  local ok, value = pcall(on_exit, worker)
  if ok and value ~= nil then ok, value = core.copier(on_exit)(value, "result") end
  if ok then return value end
  if core.is_interrupt(value) then error(value, 0) end
  part("defaults").warn("on_exit failed: ", value)
end

-- Ends a call early, as C's lcall_judge does: nil, "halted", or an error to raise.
local function new_judge(call, total)
  local until_time = call.deadline and core.now() + call.deadline
  local failed, done = 0, 0
  local function reaches(count, limit, share)
    return (limit and count >= limit) or (share and total and count > 0 and count >= share * total)
  end
  return function(ok)
    if ok then done = done + 1 else failed = failed + 1 end
    if reaches(failed, call.halt_failed, call.halt_failed_share) then return "halted" end
    if reaches(done, call.halt_done, call.halt_done_share) then return "halted" end
    if not ok and not call.collect and not (call.halt and call.halt.what == "fail") then return "failed" end
    if until_time and core.now() >= until_time then
      return setmetatable({ kind = "timeout", message = ("the call took longer than %s s (deadline)"):format(call.deadline) }, Error)
    end
  end
end

--- As handle:run: results, n, errors.
function inline.run(job, call, seed)
  local copy = core.copier(job.named or job.fn)
  local options = setmetatable({ seed = seed }, { __index = call })
  local fetch, results, errors = item_at(job.kind, job.a, job.b), {}, nil
  local judge, n, index = new_judge(call, job.n), job.n, 0
  while n == nil or index < n do
    local item = fetch(index + 1)
    if n == nil and item == nil then break end
    index = index + 1
    local ok, result = try_often(job.fn, copy, index, item, options)
    if ok then
      results[index] = result
    else
      errors = errors or {}
      errors[index] = result
    end
    local verdict = judge(ok)
    if verdict == "halted" or verdict == "failed" then break end
    if verdict then error(verdict, 0) end
  end
  return results, n or index, errors
end

local Call = {}
Call.__index = Call

--- As handle:begin with results that come as they are ready: each is computed when it is asked for.
function inline.begin(pool, job, call)
  return setmetatable({
    pool = pool, job = job, call = call, copy = core.copier(job.named or job.fn), fetch = item_at(job.kind, job.a, job.b),
    options = setmetatable({ seed = pool.options.seed }, { __index = call }), judge = new_judge(call, job.n), index = 0, failed = 0,
  }, Call)
end

--- values, first, n | nil, index, 1, error | nothing at the end
function Call:next()
  local n = self.job.n
  if self.is_over or (n and self.index >= n) then return nil end
  local item = self.fetch(self.index + 1)
  if n == nil and item == nil then
    self.is_over = true
    return nil
  end
  self.index = self.index + 1
  local began = core.now()
  local ok, result = part("pool").as_worker(self.pool, try_often, self.job.fn, self.copy, self.index, item, self.options)
  local verdict = self.judge(ok)
  if verdict == "halted" then self.is_over = true end
  if not ok then
    self.failed = self.failed + 1
    if type(result) == "table" then result.seconds = core.now() - began end
    return nil, self.index, 1, result
  end
  if verdict and verdict ~= "halted" then
    self.is_over = true
    error(verdict, 0)
  end
  return { result, self.call.seconds and core.now() - began or nil }, self.index, 1
end

function Call:progress() return self.index, self.job.n, self.failed end
function Call:stop() self.is_over = true end
Call.cancel = Call.stop

--- As handle:apply: { n = , ... } | nil, error.
function inline.apply(fn, ...)
  local copy = core.copier(fn)
  local arguments = table.pack(...)
  for i = 1, arguments.n do
    local ok, value = copy(arguments[i], "argument")
    if not ok then error(("argument #%d of the task: %s"):format(i, value), 0) end
    arguments[i] = value
  end
  output.item(1)
  local results = table.pack(protected(fn, table.unpack(arguments, 1, arguments.n)))
  output.item(nil)
  if not results[1] then
    local e = failure(results[2], results[3], copy)
    if core.is_interrupt(e) then error(e, 0) end
    return nil, e
  end
  local out = { n = results.n - 1 }
  for i = 2, results.n do
    local ok, value = copy(results[i], "result")
    if not ok then return nil, refusal(value) end
    out[i - 1] = value
  end
  return out
end

return inline
