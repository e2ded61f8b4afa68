-- luapool/pool -- pools: their workers' lives. Room: lua. Owns: one C handle per pool, which owns the workers.
-- What pools do is in luapool/verbs; the mechanism is in C (binding/lpool.c and its neighbours).
local core, part = ...

local check = part "check"
part "errors"

---@class luapool.Pool
---@field handle userdata? the C pool; nil: everything runs inline
---@field options table of the pool
---@field call_options table defaults of its calls
---@field futures table<userdata, luapool.Future> those whose end somebody wants to be told
---@field problems any[] errors of callbacks that nobody was told yet
local Pool = { __name = "luapool.pool" }

---@class luapool.PoolMethods
local methods = {}
Pool.__index = methods

local function check_self(self, name)
  if getmetatable(self) ~= Pool then
    error(("bad argument #1 to '%s' (pool expected, got %s; write p:%s(...))"):format(name, type(self), name), 3)
  end
end

-- Inside a task every pool runs inline, unless it was made there with nested = true: same results, no explosion of processes.
local function is_inline(self)
  return self.handle == nil or (core.is_worker() and self.nested_in ~= core.pid())
end
Pool.is_inline = is_inline

-- Refuse what cannot be, at the line that called the method: C would blame this file.
local function check_usable(self, name)
  if self.is_closed then error(("cannot use '%s': the pool is closed"):format(name), 3) end
  if is_inline(self) then return end
  local state, owner, here = self.handle:state()
  if state == "closed" then error(("cannot use '%s': the pool is closed"):format(name), 3) end
  if state == "foreign" then
    error(("cannot use '%s' here: the pool belongs to process %d, this is process %d"):format(name, owner, here), 3)
  end
end

-- An inline pool has one worker, number 0: this process, while a call lasts. (Inside a task it is the task's own.)
-- Its hooks are called once; those of a pool with workers that is used inside a task are its own workers' business.
function Pool.as_worker(self, fn, ...)
  local before = core.worker()
  local worker = before or { id = 0, progress = function() end }
  local _ <close> = setmetatable({}, { __close = function() core.worker(before) end })
  core.worker(worker)
  local _ <close> = part("output").capture(self.options.output, worker.id)
  if not self.handle and not self.has_started then
    if self.options.on_start then
      part("inline").start(self.options.on_start, worker)
      part("output").item(nil)
    end
    self.has_started = true
  end
  return fn(...)
end

local function end_inline(self)
  if self.has_started and self.options.on_exit then
    local worker = core.worker() or { id = 0 }
    local _ <close> = part("output").capture(self.options.output, worker.id)
    part("inline").finish(self.options.on_exit, worker)
    part("output").item(nil)
  end
  self.has_started = nil
end

-- ---- callbacks ----

--- Raise the first error of a callback that was not raised yet: it is nobody else's, and must not be lost.
function Pool.raise_problems(self)
  if #self.problems > 0 then error(table.remove(self.problems, 1), 0) end
end

-- The pool is gone: there is no later call that could raise them.
local function warn_of_problems(self)
  for _, problem in ipairs(self.problems) do part("defaults").warn("a callback failed: ", problem) end
  self.problems = {}
end

-- What C calls while the host waits: futures are over. One stays at the head of the queue until all its callbacks were called.
local function run_callbacks(self)
  if self.is_calling_back then return end
  local _ <close> = setmetatable({}, { __close = function() self.is_calling_back = false end })
  self.is_calling_back = true
  while true do
    local call = self.handle:ready()
    if not call then return end
    if self.futures[call] then part("future").finish(self.futures[call]) end
    self.futures[call] = nil
    self.handle:told()
  end
end

--- The future wants to be told when its call is over.
function Pool.watch(self, call, future)
  if not self.has_hook then
    self.has_hook = true
    self.handle:hook(function() run_callbacks(self) end)
  end
  self.futures[call] = future
  call:notify()
end

-- ---- ending ----

--- Let what was begun finish, then let the workers leave. Idempotent; blocks; interruptible.
--- Streams that are still open are cancelled. Raises an error of a callback that nobody was told yet.
---@param timeout number? seconds to wait at most
---@return boolean gone false: some still live, and the pool is still usable
function methods:close(timeout)
  check_self(self, "close")
  check.duration(timeout, 1, "close")
  if self.is_closed then return true end
  if is_inline(self) then
    if self.handle then return true end -- the workers are the host's to end
    self.is_closed = true
    end_inline(self)
    Pool.raise_problems(self)
    return true
  end
  if self.handle:state() == "foreign" then check_usable(self, "close") end
  if self.handle:is_waiting() then error("cannot use 'close': the pool is busy with another call", 2) end
  local stats = self.handle:state() == "open" and self.handle:stats() or nil
  self.is_closed = self.handle:close(timeout)
  if self.is_closed then self.final = stats end
  local first = table.remove(self.problems, 1)
  if self.is_closed then warn_of_problems(self) end
  if first ~= nil then error(first, 0) end
  return self.is_closed
end

--- Interrupt all tasks, kill after `grace` seconds whoever does not stop, and reap. Open calls are cancelled. Idempotent; blocks that
--- long.
---@param grace number? default: the pool's
function methods:terminate(grace)
  check_self(self, "terminate")
  check.duration(grace, 1, "terminate")
  if self.is_closed then return end
  if is_inline(self) then
    if self.handle then return end
    self.is_closed = true
    end_inline(self)
    return
  end
  self.is_closed = true
  self.final = self.handle:state() == "open" and self.handle:stats() or nil
  self.handle:terminate(grace)
  run_callbacks(self)
  warn_of_problems(self)
end

--- Cancel every open call: what has not run is dropped, what runs is interrupted (killed after the grace). The pool stays usable. Blocks
--- until no worker is in any of these calls.
function methods:cancel()
  check_self(self, "cancel")
  check_usable(self, "cancel")
  if is_inline(self) then return end
  self.handle:cancel()
end

--- Do what can be done without waiting (or within `seconds`): results are read, callbacks run. For programs with a loop of their own.
---@param seconds number? how long to wait for something to happen; default 0
---@param budget number? seconds: what is not done by then is left for the next step (it is looked at between two blocks of results)
---@return integer open calls that are not over yet
function methods:step(seconds, budget)
  check_self(self, "step")
  check_usable(self, "step")
  check.duration(seconds, 1, "step")
  check.duration(budget, 2, "step")
  if is_inline(self) then return 0 end
  self.handle:turn(seconds or 0, budget)
  Pool.raise_problems(self)
  return self.handle:pending()
end

--- A descriptor for the event loop of somebody else: it becomes readable when p:step() has something to do. It is the pool's: do not
--- close it. Where the system cannot tell everything by one descriptor (other than Linux), call p:step() ten times a second besides.
---@return integer? fd nil for pools without workers
function methods:fd()
  check_self(self, "fd")
  check_usable(self, "fd")
  if is_inline(self) then return nil end
  local fd, problem = self.handle:fd()
  if not fd then error("cannot use 'fd': " .. problem, 2) end
  return fd
end

--- Change the number of workers. Those that are too many leave when they have finished what they are at; new ones start when there is work
--- for them. More than twice what the pool was made with (8 at least) can be had while no call is open only.
---@param n integer|"auto"
function methods:resize(n)
  check_self(self, "resize")
  check_usable(self, "resize")
  n = check.workers(n, 1, "resize")
  if is_inline(self) then
    self.options.workers = n
    return
  end
  if not self.handle:resize(n) then
    if self.handle:pending() > 0 or self.handle:is_waiting() then
      local _, capacity = self.handle:resize(n)
      error(("cannot use 'resize': not more than %d workers while calls are open"):format(capacity), 2)
    end
    self.handle:close()
    self.options.workers, self.has_hook = n, nil
    self.handle = core.open(self.options)
  end
  self.options.workers = n
end

-- ---- what is going on ----

local function is_gone(self)
  return self.handle == nil or self.is_closed or self.handle:state() ~= "open"
end

local NOTHING <const> = {
  calls = 0, forks = 0, sent = 0, renewed = 0, retries = 0, crashes = 0, items = 0, chunks = 0, bytes_in = 0, bytes_out = 0,
  elapsed = 0.0, tail = 0.0, busy = 0.0, idle = 0.0, encode = 0.0, wait = 0.0,
}

local function nothing()
  local stats = { host = { decode = 0.0, wait = 0.0, encode = 0.0 }, workers = {} }
  for name, value in pairs(NOTHING) do stats[name] = value end
  return stats
end

--- What happened so far, also when the pool is closed.
--- start ("fork", "server" or "spawn"); calls; forks of workers (however they were started), functions sent to them,
--- times that all were replaced to get a function (renewed); items tried again, workers
--- lost (retries, crashes); items, chunks; bytes to and from workers (bytes_in, bytes_out); peak, the largest memory of a worker.
--- Seconds: elapsed (while a call was open); tail (of all calls, from the moment when the first worker had nothing to do any more to the
--- end); of the workers busy, idle, and in busy encode (writing results) and wait (until the host had read them);
--- host = { decode, wait, encode }: reading results, asleep, writing items and functions (the time of a lazy source included).
--- workers: the same for each, { id, pid, items, chunks, busy, idle, encode, wait, bytes, peak }.
---@return table
function methods:stats()
  check_self(self, "stats")
  if self.final then return self.final end
  if is_gone(self) then return nothing() end
  return self.handle:stats()
end

--- stats as a text that people read: where the time went, and what to change.
---@param options table? html: the name of a file: the same as a page, with a timeline, the times of items and the errors if a record was
---   kept (the option `trace` of the pool). Raises when the file cannot be written.
---@return string
function methods:report(options)
  check_self(self, "report")
  local html = check.report_options(options, 1, "report")
  local stats = methods.stats(self)
  if html then
    local problem = part("record").write_page(html, self, stats)
    if problem then error(("cannot write the report to %s: %s"):format(core.item_text(html), problem), 2) end
  end
  local slowest = self.group and self.group.record:read().slowest
  return part("report").text(setmetatable({ name = self.options.name, cpus = core.cpus(), slowest = slowest }, { __index = stats }))
end

--- The workers that live now: as stats().workers, and item, since: the item that runs, and for how many seconds.
function methods:workers()
  check_self(self, "workers")
  if is_gone(self) then return {} end
  return self.handle:workers()
end

--- `local p <close>`: a scope that ends normally lets the workers finish; one that ends by an error terminates them.
function Pool.__close(self, err)
  if err ~= nil then return methods.terminate(self) end
  local ok, problem = pcall(methods.close, self)
  if ok then return end
  if not self.is_closed and self.handle:state() ~= "foreign" then methods.terminate(self) end -- an interrupt, say: nobody will try again
  error(problem, 0)
end

function Pool.__tostring(self)
  local state = self.is_closed and "closed" or self.handle and self.handle:state() or "inline"
  return ("luapool.pool%s: %d workers, %s"):format(self.options.name and " " .. self.options.name or "", self.options.workers, state)
end

-- core.cluster is what lua/cluster adds in a job on many machines: is_on() in the script, open() a pool on all of them, list().

local DEEPEST <const> = 4 -- levels of nested workers: beyond, pools run inline, so that a recursion does not fork for ever

-- (Asked here: most programs want none, and begin sooner without that part.)
local function wants_record(options)
  local defaults = part("defaults").get()
  return options.trace or defaults.trace or defaults.report
end

local function make(options, call_options)
  local self = { options = options, call_options = call_options, is_closed = false, futures = {}, problems = {} }
  local is_worker, depth = core.is_worker()
  if options.workers > 0 and (not is_worker or (options.nested and depth < DEEPEST)) then
    local cluster = core.cluster
    if not is_worker and not cluster and wants_record(options) then part("record").begin(self) end
    self.handle = (cluster and cluster.is_on() and cluster or core).open(options)
    self.nested_in = is_worker and core.pid() or nil
  end
  return setmetatable(self, Pool)
end

local function host_name()
  local file = io and io.open("/proc/sys/kernel/hostname")
  if not file then return "localhost" end
  local name = file:read("l")
  file:close()
  return name
end

--- pool.nodes: the machines that work for this script. Without MPI it is this one.
---@return table[] { rank =, host =, pid =, workers =, load =, items =, state = "up" | "lost", why = }
function Pool.nodes()
  local cluster = core.cluster
  if cluster and cluster.is_on() then return cluster.list() end
  return { { rank = 0, host = host_name(), pid = core.pid(), workers = core.cpus(), state = "up", items = 0 } }
end

--- A pool of workers; they start at first use.
---@param options integer|table|nil number of workers, or a table:
---   workers        how many; default "auto": -j, LUAPOOL_WORKERS, the usable processors; 0: everything runs here, inline
---   grace          seconds (1) that an interrupted task has to unwind before its worker is killed, with the programs that it has started
---   on_start, on_exit   function(worker), in each worker when it begins and when it leaves; worker = { id =, pid = }
---   seed           item i of a call has the random numbers of (seed, i), whoever runs it
---   max_tasks      a worker is replaced after so many items
---   nested         true: inside a task, too, the pool has workers (else its verbs run inline there)
---   start          how workers are started: "fork" (copies of this process as it is; refused when it has other threads), "server" (a
---                  helper, executed once, forks clean ones), "spawn" (a helper is executed for each), "auto" (default: the first if that
---                  is safe, else the second). Clean workers inherit nothing: functions are sent to them, with what these reach
---   helper         the program to execute for that (default: LUAPOOL_HELPER, else the command luapool, where it is found)
---   descriptors    "keep" (default): forked workers have what this process has open; "close": only its input and outputs, 0 to 2; what
---                  it has open otherwise is not held open by them (a client's connection, a port), and cannot be used in tasks
---   output         what becomes of what tasks print (see the README);   name   stands in messages and in front of progress
---   trace          name of a file: what workers and host do when, for chrome://tracing or Perfetto; true: for p:report{ html = } alone
---   timeout, memory, chunk, buffer, on_crash, retries, retry_delay, errors, progress   defaults of its calls: see map
---@return luapool.Pool
function Pool.new(options)
  local pool_options, call_options = check.pool_options(options, 1, "new")
  return make(pool_options, call_options)
end

-- ---- the verbs ----

local verbs = part "verbs"

-- fn, src, options
for name, verb in pairs(verbs.over_items) do
  methods[name] = function(self, fn, src, options)
    check_self(self, name)
    check_usable(self, name)
    fn = check.fn(fn, 1, name)
    local kind, a, b, n = check.source(src, 2, name)
    local call = check.call_options(options, self.call_options, 3, name)
    check.room(call, n, name)
    return verb(self, { fn = fn, kind = kind, a = a, b = b, n = n }, call)
  end

  --- With workers forked for this call alone: fn and everything that it reaches is simply there.
  Pool[name .. "_once"] = function(fn, src, options)
    fn = check.fn(fn, 1, name)
    local kind, a, b, n = check.source(src, 2, name)
    local pool_options, call = check.pool_options(options, 3, name, true)
    check.room(call, n, name)
    if n and n < pool_options.workers then pool_options.workers = math.max(n, math.min(pool_options.workers, 1)) end
    pool_options.one_shot = true
    local job = { fn = fn, kind = kind, a = a, b = b, n = n }
    if verbs.outlives[name] then return verb(make(pool_options, call), job, call, true) end
    local self <close> = make(pool_options, call)
    return verb(self, job, call)
  end
end

--- Fold all items into one value: see luapool/verbs.
function methods:reduce(op, src, init, options)
  check_self(self, "reduce")
  check_usable(self, "reduce")
  op = check.fn(op, 1, "reduce")
  local kind, a, b, n = check.source(src, 2, "reduce")
  local call = check.call_options(options, self.call_options, 4, "reduce")
  return verbs.reduce(self, { fn = op, kind = kind, a = a, b = b, n = n }, init, call)
end

function Pool.reduce_once(op, src, init, options)
  op = check.fn(op, 1, "reduce")
  local kind, a, b, n = check.source(src, 2, "reduce")
  local pool_options, call = check.pool_options(options, 4, "reduce", true)
  pool_options.one_shot = true
  local self <close> = make(pool_options, call)
  return verbs.reduce(self, { fn = op, kind = kind, a = a, b = b, n = n }, init, call)
end

-- fn, ...
for name, verb in pairs(verbs.over_arguments) do
  methods[name] = function(self, fn, ...)
    check_self(self, name)
    check_usable(self, name)
    fn = check.fn(fn, 1, name)
    return verb(self, fn, ...)
  end
end

--- pool.apply: as p:apply, with a worker forked for this call alone.
function Pool.apply_once(fn, ...)
  fn = check.fn(fn, 1, "apply")
  local pool_options, call = check.pool_options({ workers = 1 }, 1, "apply", true)
  pool_options.one_shot = true
  local self <close> = make(pool_options, call)
  return verbs.over_arguments.apply(self, fn, ...)
end

return Pool
