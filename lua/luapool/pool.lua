-- luapool/pool -- pools and their verbs. Room: lua. Owns: one C handle per pool, which owns the workers.
-- The mechanism is in C (binding/lcall.c); here are the words: arguments, defaults, what is raised.
local core, part = ...

local check = part "check"
part "errors"

---@class luapool.Pool
---@field handle userdata? the C pool; nil: everything runs inline
---@field options table of the pool
---@field call_options table defaults of its calls
local Pool = { __name = "luapool.pool" }

---@class luapool.PoolMethods
local methods = {}
Pool.__index = methods

local function check_self(self, name)
  if getmetatable(self) ~= Pool then
    error(("bad argument #1 to '%s' (pool expected, got %s; write p:%s(...))"):format(name, type(self), name), 3)
  end
end

--- Inside a task every pool runs inline: same results, no explosion of processes.
local function is_inline(self)
  return self.handle == nil or core.is_worker()
end

-- Refuse what cannot be, at the line that called the method: C would blame this file.
local function check_usable(self, name)
  if self.is_closed then error(("cannot use '%s': the pool is closed"):format(name), 3) end
  if is_inline(self) then return end
  local state, owner, here = self.handle:state()
  if state == "busy" then error(("cannot use '%s': the pool is busy with another call"):format(name), 3) end
  if state == "foreign" then
    error(("cannot use '%s' here: the pool belongs to process %d, this is process %d"):format(name, owner, here), 3)
  end
end

-- An inline pool has one worker, number 0: this process, while the call lasts. (Inside a task it is the task's own.)
local function run_inline(self, method, ...)
  local before = core.worker()
  local worker = before or { id = 0 }
  local _ <close> = setmetatable({}, { __close = function() core.worker(before) end })
  core.worker(worker)
  -- A pool with workers that is used inside a task: its hooks are its own workers' business.
  if not self.handle and not self.has_started then
    if self.options.on_start then part("inline").start(self.options.on_start, worker) end
    self.has_started = true
  end
  return part("inline")[method](...)
end

local function end_inline(self)
  if self.has_started and self.options.on_exit then part("inline").finish(self.options.on_exit, core.worker() or { id = 0 }) end
  self.has_started = nil
end

local function run(self, fn, kind, a, b, n, options)
  if is_inline(self) then return run_inline(self, "run", fn, kind, a, b, n, options, self.options.seed) end
  return self.handle:run(fn, kind, a, b, n, options)
end

-- The lowest failed item's error.
local function first_error(errors)
  local lowest
  for index in pairs(errors) do
    if not lowest or index < lowest then lowest = index end
  end
  return errors[lowest]
end

local function finish(results, n, errors, options)
  if options.collect then return results, n, errors or {} end
  if errors then error(first_error(errors), 0) end
  return results, n
end

--- Apply fn to every item; results in input order.
---@param fn fun(item: any): any first result only
---@param src any integer n, range, sequence table or iterator function
---@param options table? chunk, timeout, memory, on_crash, retries, errors
---@return table results, integer n, table? errors (with errors = "collect": by item)
--- Raises the first failure (a pool.Error), an interrupt, or what an iterator raised; the pool stays usable. Blocks.
function methods:map(fn, src, options)
  check_self(self, "map")
  check_usable(self, "map")
  fn = check.fn(fn, 1, "map")
  local kind, a, b, n = check.source(src, 2, "map")
  local call = check.call_options(options, self.call_options, 3, "map")
  local results, count, errors = run(self, fn, kind, a, b, n, call)
  return finish(results, count, errors, call)
end

--- Run fn(...) once in a worker and wait for it.
---@return any ... all results of fn
--- Raises a pool.Error when it fails, or an interrupt.
function methods:apply(fn, ...)
  check_self(self, "apply")
  check_usable(self, "apply")
  fn = check.fn(fn, 1, "apply")
  local results, err
  if is_inline(self) then
    results, err = run_inline(self, "apply", self.call_options, fn, ...)
  else
    results, err = self.handle:apply(self.call_options, fn, ...)
  end
  if err then error(err, 0) end
  return table.unpack(results, 1, results.n)
end

--- Let the workers finish and leave (on_exit runs), and wait for it. Idempotent.
---@param timeout number? seconds; nil waits for ever
---@return boolean gone false: some still live after timeout; terminate() ends them
function methods:close(timeout)
  check_self(self, "close")
  timeout = check.duration(timeout, 1, "close")
  if self.is_closed then return true end
  check_usable(self, "close")
  if is_inline(self) then
    end_inline(self)
  elseif not self.handle:close(timeout) then
    return false
  end
  self.is_closed = true
  return true
end

--- Interrupt what runs, kill what does not end within grace, and wait until all are gone. Idempotent; never raises an interrupt.
---@param grace number? seconds; default: the pool's
function methods:terminate(grace)
  check_self(self, "terminate")
  grace = check.duration(grace, 1, "terminate")
  if is_inline(self) then
    end_inline(self)
  else
    self.handle:terminate(grace)
  end
  self.is_closed = true
end

--- An interrupt may have come between the end of the workers and our note of it.
local function is_gone(self)
  return not self.handle or self.is_closed or self.handle:state() == "closed"
end

--- Counts since the pool was made: calls, forks, sent (functions), renewed (workers replaced to get one), items, chunks, busy (seconds).
function methods:stats()
  check_self(self, "stats")
  if is_gone(self) then return { calls = 0, forks = 0, sent = 0, renewed = 0, items = 0, chunks = 0, busy = 0.0 } end
  return self.handle:stats()
end

--- The workers that live now: a list of { id, pid, items, chunks, busy }.
function methods:workers()
  check_self(self, "workers")
  if is_gone(self) then return {} end
  return self.handle:workers()
end

--- `local p <close>`: a scope that ends normally lets the workers finish; one that ends by an error terminates them.
function Pool.__close(self, err)
  if err == nil then
    methods.close(self)
  else
    methods.terminate(self)
  end
end

function Pool.__tostring(self)
  local state = self.is_closed and "closed" or self.handle and self.handle:state() or "inline"
  return ("luapool.pool%s: %d workers, %s"):format(self.options.name and " " .. self.options.name or "", self.options.workers, state)
end

local function make(options, call_options)
  local self = { options = options, call_options = call_options, is_closed = false }
  if options.workers > 0 and not core.is_worker() then self.handle = core.open(options) end
  return setmetatable(self, Pool)
end

--- A pool of workers; they start at first use.
---@param options integer|table|nil number of workers, or a table: workers, timeout, grace, memory, chunk, on_crash, retries, errors,
--- on_start, on_exit, seed, name
---@return luapool.Pool
function Pool.new(options)
  local pool_options, call_options = check.pool_options(options, 1, "new")
  return make(pool_options, call_options)
end

--- pool.map: as p:map, with workers forked for this call alone: fn and everything that it reaches is simply there.
---@param options table? the options of p:map and those of pool.new
function Pool.map_once(fn, src, options)
  fn = check.fn(fn, 1, "map")
  local kind, a, b, n = check.source(src, 2, "map")
  local pool_options, call = check.pool_options(options, 3, "map")
  if n and n < pool_options.workers then pool_options.workers = math.max(n, math.min(pool_options.workers, 1)) end
  pool_options.one_shot = true
  local self <close> = make(pool_options, call)
  local results, count, errors = run(self, fn, kind, a, b, n, call)
  return finish(results, count, errors, call)
end

return Pool
