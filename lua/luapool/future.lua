-- luapool/future -- calls whose results are asked for later. Room: lua. Owns: per future its call, until it is over.
-- Callbacks run in the host, inside calls of the pool (those that wait: map, get, wait, close, ...; p:step, f:status, p:terminate), one at
-- a time; an error in one is kept and raised by the next p:step, f:get, f:wait, pool.wait, pool.as_completed or p:close of that pool.
local core, part = ...

local check = part "check"
local unpack = table.unpack

local future = {}

---@class luapool.Future
local Future = { __name = "luapool.future" }

---@class luapool.FutureMethods
local methods = {}
Future.__index = methods
future.Future = Future -- for help

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

-- Only the process that began it can wait for its end, or cause it. Refused at the line that called the method.
local function check_here(self, name)
  if self.is_done then return end
  local state, owner, here = self.pool.handle:state()
  if state == "foreign" then
    error(("cannot use '%s' here: the future belongs to process %d, this is process %d"):format(name, owner, here), 3)
  end
end

--- A future of a call that was begun.
---@param kind "task"|"map"
---@param options table? the map's
function future.new(pool, kind, call, options)
  return setmetatable({ pool = pool, kind = kind, call = call, options = options }, Future)
end

--- A future that is over already (inline pools): results, n, errors as of handle:run; or what that raised.
function future.done(pool, kind, options, results, n, errors, problem)
  local self = setmetatable({ pool = pool, kind = kind, options = options, is_done = true }, Future)
  self.outcome = { results, n, errors, problem }
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
  if errors and not (self.options and self.options.collect) then return part("verbs").first_error(errors) end
end

local STATUS_OF = { timeout = "timeout", crash = "crashed", cancelled = "cancelled" }

local function turn(self, timeout)
  self.pool.handle:turn(timeout)
end

local function status_of(self)
  local status = self.call and self.call:status() or "done"
  if status ~= "done" and status ~= "error" then return status end
  local err = failure(self)
  if err == nil then return "done" end
  return type(err) == "table" and getmetatable(err) == core.Error and STATUS_OF[err.kind] or "error"
end

--- How it stands: "pending" "running" "done" "error" "cancelled" "timeout" "crashed". Does not wait, but takes note of what has happened.
---@return string
function methods:status()
  check_self(self, "status")
  if not is_over(self) and self.pool.handle:state() == "open" then turn(self, 0) end
  return status_of(self)
end

-- Wait until it is over; false if that takes longer than `timeout` seconds.
local function await(self, timeout)
  local until_time = timeout and core.now() + timeout
  local left = timeout
  while not is_over(self) do
    turn(self, left)
    if until_time and not is_over(self) then
      left = until_time - core.now()
      if left <= 0 then return false end
    end
  end
  part("pool").raise_problems(self.pool)
  return true
end

--- Wait for its end.
---@param timeout number? seconds
---@return boolean over false: the time is up
function methods:wait(timeout)
  check_self(self, "wait")
  if not is_over(self) then check_here(self, "wait") end
  check.duration(timeout, 1, "wait")
  return await(self, timeout)
end

--- Its results: all of the function's (submit), or what map returns (map_async). Raises what it failed with.
---@param timeout number? seconds to wait at most
---@return any ... nil, "timeout" when the time is up
function methods:get(timeout)
  check_self(self, "get")
  if not is_over(self) then check_here(self, "get") end
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
  results = self.options and self.options.into or results or {}
  if self.options and self.options.collect then return results, n, errors or {} end
  return results, n
end

--- get, for coroutines that a scheduler runs: `wait(self)` is called until it is over, and should come back when the pool's descriptor is
--- readable (cqueues.poll), or just some time later (default: coroutine.yield inside a coroutine; else it blocks).
---@param wait function?
---@return any ... as get
function methods:await(wait)
  check_self(self, "await")
  if wait ~= nil then wait = check.fn(wait, 1, "await") end
  if not is_over(self) then check_here(self, "await") end
  if not wait and coroutine and coroutine.isyieldable() then wait = coroutine.yield end
  while wait and not is_over(self) do
    turn(self, 0)
    if not is_over(self) then wait(self) end
  end
  return methods.get(self)
end

-- What event loops ask of an object: cqueues (pollfd, events, timeout), luasocket and copas (getfd, dirty), luv and net.server (getfd).
-- The descriptor is the pool's: whoever is woken asks f:status() whether it is this one.

--- The pool's descriptor (see p:fd); nil if there is none, or it is over.
---@return integer?
function methods:pollfd()
  check_self(self, "pollfd")
  if is_over(self) or self.pool.handle:state() ~= "open" then return nil end
  return (self.pool.handle:fd())
end

function methods:events()
  check_self(self, "events")
  return "r"
end

--- 0 if there is nothing to wait for.
---@return number?
function methods:timeout()
  check_self(self, "timeout")
  return is_over(self) and 0 or nil
end

--- -1 if there is none, as luasocket wants it.
---@return integer
function methods:getfd()
  check_self(self, "getfd")
  return methods.pollfd(self) or -1
end

--- Should whoever waits come at once?
---@return boolean
function methods:dirty()
  check_self(self, "dirty")
  return is_over(self) or self.pool.handle:state() ~= "open" or self.pool.handle:has_news()
end

--- Drop it, or interrupt it if it runs (it is killed if it does not stop within the pool's grace). Does not wait.
---@return boolean cancelled false: it was over already
function methods:cancel()
  check_self(self, "cancel")
  check_here(self, "cancel")
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
  table.insert(self.pool.problems, err == nil and "(error object is a nil value)" or err)
end

--- Tell whoever waits for several, then call back. (luapool/pool calls it while the host waits.) If an interrupt comes out of a callback,
--- those behind it are called next time.
function future.finish(self)
  for state in pairs(self.watchers or {}) do state:take(self) end
  self.watchers = nil
  local callbacks = self.callbacks
  while callbacks and callbacks.first <= callbacks.last do
    local fn = callbacks[callbacks.first]
    callbacks[callbacks.first] = nil
    callbacks.first = callbacks.first + 1
    call_back(self, fn)
  end
  self.callbacks = nil
end

-- Its pool is to call future.finish when it is over.
local function want_notice(self)
  if self.has_notice then return end
  self.has_notice = true
  part("pool").watch(self.pool, self.call, self)
end

local function add_callback(self, fn)
  if is_over(self) and not self.callbacks then return call_back(self, fn) end
  self.callbacks = self.callbacks or { first = 1, last = 0 }
  self.callbacks.last = self.callbacks.last + 1
  self.callbacks[self.callbacks.last] = fn
  want_notice(self)
end

--- Call fn(future) when it is over (at once if it is already): in the host, while it is inside a call of the pool.
---@param fn fun(f: luapool.Future)
---@return luapool.Future itself
function methods:on_done(fn)
  check_self(self, "on_done")
  fn = check.fn(fn, 1, "on_done")
  if not is_over(self) then check_here(self, "on_done") end
  add_callback(self, fn)
  return self
end

function Future.__tostring(self)
  return ("luapool.future: %s, %s"):format(self.kind, status_of(self))
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
    if not is_over(f) and f.pool.handle:state() == "foreign" then
      error(("bad argument #1 to '%s' (item %d: the future belongs to another process)"):format(name, i), 3)
    end
  end
end

local SLICE <const> = 0.002 -- seconds: futures of several pools are looked at in turn

-- Futures that are waited for together: `pending`, how often each stands in the list (times), and those that are over, in that order.
---@class luapool.Watch
local Watch = {}
Watch.__index = Watch

local function watch(futures)
  local self = setmetatable({ pending = {}, over = {}, head = 1, tail = 0, count = 0 }, Watch)
  for _, f in ipairs(futures) do
    self.pending[f] = (self.pending[f] or 0) + 1
  end
  for _, f in ipairs(futures) do
    if is_over(f) then
      self:take(f)
    elseif not (f.watchers and f.watchers[self]) then
      f.watchers = f.watchers or {}
      f.watchers[self] = true
      want_notice(f)
    end
  end
  return self
end

function Watch:take(f)
  if not self.pending[f] then return end
  self.count = self.count + self.pending[f]
  self.pending[f] = nil
  self.tail = self.tail + 1
  self.over[self.tail] = f
end

--- Nobody waits any more.
function Watch:__close()
  for f in pairs(self.pending) do
    if f.watchers then f.watchers[self] = nil end
  end
  self.pending = {}
end

-- One turn of each pool that has something pending. Within a callback nobody else is called back, so look.
function Watch:turn(timeout)
  local pools, count, is_called_back = {}, 0, false
  for f in pairs(self.pending) do
    if not pools[f.pool] then
      pools[f.pool] = f
      count = count + 1
      is_called_back = is_called_back or f.pool.is_calling_back
    end
  end
  for _, f in pairs(pools) do
    if count > 1 then timeout = math.min(timeout or SLICE, SLICE) end
    turn(f, timeout)
    part("pool").raise_problems(f.pool)
  end
  if not is_called_back then return end
  for f in pairs(self.pending) do
    if is_over(f) then self:take(f) end
  end
end

--- Wait for several futures.
---@param futures luapool.Future[]
---@param options { count: integer?, timeout: number? }? enough when so many are over (default: all)
---@return luapool.Future[] over, luapool.Future[] others
function future.wait(futures, options)
  check_futures(futures, "wait")
  local wanted, timeout = check.wait_options(options, #futures, "wait")
  local until_time, left = timeout and core.now() + timeout, timeout
  local state <close> = watch(futures)
  while state.count < wanted and (left == nil or left >= 0) do
    state:turn(left)
    left = until_time and until_time - core.now()
  end
  local over, others = {}, {}
  for _, f in ipairs(futures) do table.insert(is_over(f) and over or others, f) end
  return over, others
end

--- `for f in pool.as_completed(futures) do`: each future when it is over, in that order.
---@param futures luapool.Future[]
function future.as_completed(futures)
  check_futures(futures, "as_completed")
  local state = watch(futures)
  local function step()
    while state.head > state.tail and next(state.pending) do state:turn() end
    local f = state.over[state.head]
    if f == nil then return nil end
    state.over[state.head] = nil
    state.head = state.head + 1
    return f
  end
  return step, nil, nil, state
end

return future
