-- luapool/future -- calls whose results are asked for later. Room: lua. Owns: per future its call, until it is over.
-- Callbacks run in the host, inside calls of the pool that wait (map, get, wait, close, ...) and p:step; an error in one is kept and
-- raised by the next p:step, f:get, f:wait, pool.wait, pool.as_completed or p:close of that pool.
local core, part = ...

local check = part "check"
local unpack = table.unpack

local future = {}

---@class luapool.Future
local Future = { __name = "luapool.future" }

---@class luapool.FutureMethods
local methods = {}
Future.__index = methods

local function check_self(self, name)
  if getmetatable(self) ~= Future then
    error(("bad argument #1 to '%s' (future expected, got %s; write f:%s(...))"):format(name, type(self), name), 3)
  end
end

local function is_over(self)
  if self.is_done then return true end
  local status = self.call:status()
  return status ~= "pending" and status ~= "running"
end

--- A future of a call that was begun.
---@param kind "task"|"map"
---@param options table? the map's
function future.new(pool, kind, call, options)
  return setmetatable({ pool = pool, kind = kind, call = call, options = options }, Future)
end

--- A future that is over already (inline pools): results, n, errors as of handle:run.
function future.done(pool, kind, options, results, n, errors)
  local self = setmetatable({ pool = pool, kind = kind, options = options, is_done = true }, Future)
  self.outcome = { results, n, errors }
  return self
end

-- results, n, errors, problem
local function outcome(self)
  if self.outcome then return unpack(self.outcome, 1, 4) end
  return self.call:outcome()
end

-- The error that the future ended with, or nil.
local function failure(self)
  local _, _, errors, problem = outcome(self)
  if problem ~= nil then return problem end
  if errors and not (self.options and self.options.collect) then
    local lowest
    for index in pairs(errors) do
      if math.type(index) == "integer" and (not lowest or index < lowest) then lowest = index end
    end
    return errors[lowest]
  end
end

local STATUS_OF = { timeout = "timeout", crash = "crashed", cancelled = "cancelled" }

--- How it stands: "pending" "running" "done" "error" "cancelled" "timeout" "crashed". Does not wait.
---@return string
function methods:status()
  check_self(self, "status")
  local status = self.call and self.call:status() or "done"
  if status ~= "done" and status ~= "error" then return status end
  local err = failure(self)
  if err == nil then return "done" end
  return type(err) == "table" and getmetatable(err) == core.Error and STATUS_OF[err.kind] or "error"
end

local function turn(self, timeout)
  self.pool.handle:turn(timeout)
end

-- Wait until it is over; false if that takes longer than `timeout` seconds.
local function await(self, timeout)
  local until_time = timeout and core.now() + timeout
  while not is_over(self) do
    local left = until_time and until_time - core.now()
    if left and left <= 0 then return false end
    turn(self, left)
  end
  part("pool").raise_problems(self.pool)
  return true
end

--- Wait for its end.
---@param timeout number? seconds
---@return boolean over false: the time is up
function methods:wait(timeout)
  check_self(self, "wait")
  check.duration(timeout, 1, "wait")
  return await(self, timeout)
end

--- Its results: all of the function's (submit), or what map returns (map_async). Raises what it failed with.
---@param timeout number? seconds to wait at most
---@return any ... nil, "timeout" when the time is up
function methods:get(timeout)
  check_self(self, "get")
  check.duration(timeout, 1, "get")
  if not await(self, timeout) then return nil, "timeout" end
  local results, n, errors, problem = outcome(self)
  if problem ~= nil then error(problem, 0) end
  local err = failure(self)
  if err ~= nil then error(err, 0) end
  if self.call and self.call:status() == "cancelled" then
    error(setmetatable({ kind = "cancelled", message = "the call was cancelled" }, core.Error), 0)
  end
  if self.kind == "task" then return unpack(results, 1, results.n) end
  if self.options and self.options.into then results = self.options.into end
  if self.options and self.options.collect then return results, n, errors or {} end
  return results, n
end

--- Drop it, or interrupt it if it runs (it is killed if it does not stop within the pool's grace). Does not wait.
---@return boolean cancelled false: it was over already
function methods:cancel()
  check_self(self, "cancel")
  return not self.is_done and self.call:cancel()
end

-- An interrupt is the script's; any other error waits for the next call that serves futures.
local function call_back(self, fn)
  local ok, err = xpcall(fn, function(problem)
    if type(problem) == "string" and debug then return debug.traceback(problem, 2) end
    return problem
  end, self)
  if ok then return end
  if part("init").is_interrupt(err) then error(err, 0) end
  table.insert(self.pool.problems, err)
end

--- Call back what was to be told of its end. (luapool/pool calls it while the host waits.)
function future.finish(self)
  local callbacks = self.callbacks or {}
  self.callbacks, self.is_told = nil, true
  for _, fn in ipairs(callbacks) do call_back(self, fn) end
end

local function tell(self, fn)
  if self.is_done or self.is_told or (is_over(self) and not self.callbacks) then return call_back(self, fn) end
  if not self.callbacks then
    self.callbacks = {}
    part("pool").watch(self.pool, self.call, self)
  end
  table.insert(self.callbacks, fn)
end

--- Call fn(future) when it is over (at once if it is already): in the host, while it is inside a call of the pool.
---@param fn fun(f: luapool.Future)
---@return luapool.Future itself
function methods:on_done(fn)
  check_self(self, "on_done")
  fn = check.fn(fn, 1, "on_done")
  tell(self, fn)
  return self
end

function Future.__tostring(self)
  return ("luapool.future: %s, %s"):format(self.kind, methods.status(self))
end

-- ---- several ----

local function check_futures(futures, name)
  if type(futures) ~= "table" then
    error(("bad argument #1 to '%s' (table of futures expected, got %s)"):format(name, type(futures)), 3)
  end
  for i, f in ipairs(futures) do
    if getmetatable(f) ~= Future then
      error(("bad argument #1 to '%s' (item %d: future expected, got %s)"):format(name, i, type(f)), 3)
    end
  end
end

local SLICE <const> = 0.002 -- seconds: futures of several pools are looked at in turn

-- One turn of each pool that has unfinished futures among `pending` (a set).
local function turn_all(pending, timeout)
  local pools, count = {}, 0
  for f in pairs(pending) do
    if not pools[f.pool] then
      pools[f.pool] = f
      count = count + 1
    end
  end
  for _, f in pairs(pools) do
    if count > 1 then timeout = math.min(timeout or SLICE, SLICE) end
    turn(f, timeout)
    part("pool").raise_problems(f.pool)
  end
end

--- Wait for several futures.
---@param futures luapool.Future[]
---@param options { count: integer?, timeout: number? }? enough when so many are over (default: all)
---@return luapool.Future[] over, luapool.Future[] others
function future.wait(futures, options)
  check_futures(futures, "wait")
  if options ~= nil and type(options) ~= "table" then
    error(("bad argument #2 to 'wait' (table of options expected, got %s)"):format(type(options)), 2)
  end
  local wanted, timeout = check.wait_options(options or {}, #futures, "wait")
  local until_time, pending, count = timeout and core.now() + timeout, {}, 0
  for _, f in ipairs(futures) do
    if is_over(f) then
      count = count + 1
    elseif not pending[f] then
      pending[f] = true
      tell(f, function()
        if pending[f] then count = count + 1 end
        pending[f] = nil
      end)
    else
      wanted = wanted - 1 -- the same one again
    end
  end
  while count < wanted and next(pending) do
    local left = until_time and until_time - core.now()
    if left and left <= 0 then break end
    turn_all(pending, left)
  end
  local over, others = {}, {}
  for _, f in ipairs(futures) do table.insert(is_over(f) and over or others, f) end
  return over, others
end

--- `for f in pool.as_completed(futures) do`: each future when it is over, in that order.
---@param futures luapool.Future[]
function future.as_completed(futures)
  check_futures(futures, "as_completed")
  local queue, head, tail, pending, seen = {}, 1, 0, {}, {}
  local function push(f)
    pending[f] = nil
    tail = tail + 1
    queue[tail] = f
  end
  for _, f in ipairs(futures) do
    if not seen[f] then
      seen[f] = true
      if is_over(f) then
        push(f)
      else
        pending[f] = true
        tell(f, push)
      end
    end
  end
  return function()
    while head > tail and next(pending) do turn_all(pending) end
    local f = queue[head]
    if f == nil then return nil end
    queue[head] = nil
    head = head + 1
    return f
  end
end

return future
