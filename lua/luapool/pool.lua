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
---@field values any[] what on_exit has returned in workers that have left
---@field problems any[] errors of callbacks that nobody was told yet
local Pool = { __name = "luapool.pool" }

---@class luapool.PoolMethods
local methods = {}
Pool.__index = methods

--- What p:with gives: the verbs of a pool, with other options for their calls.
---@class luapool.With
---@field pool luapool.Pool
---@field call_options table
local With = { __name = "luapool.with" }

-- Those methods of pools that it has.
---@class luapool.WithMethods
local verbs_with = {}
With.__index = verbs_with
Pool.With = With -- for help

local function refuse_self(self, name)
  error(("bad argument #1 to '%s' (pool expected, got %s; write p:%s(...))"):format(name, type(self), name), 4)
end

local function check_self(self, name)
  if getmetatable(self) ~= Pool then refuse_self(self, name) end
end

-- The pool that a verb was called of, and the defaults of its calls.
local function pool_of(self, name)
  local meta = getmetatable(self)
  if meta == Pool then return self, self.call_options end
  if meta == With then return self.pool, self.call_options end
  refuse_self(self, name)
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
    self.values[#self.values + 1] = part("inline").finish(self.options.on_exit, worker)
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

-- What on_exit has returned so far, as far as it is known here. (Of workers on other machines it is not.)
local function take_values(self)
  local values = self.values
  if self.handle and self.handle.partings then
    for _, value in ipairs(self.handle:partings()) do values[#values + 1] = value end
  end
  if self.options.on_exit then return values end
end

--- Let what was begun finish, then let the workers leave. Idempotent; blocks; interruptible.
--- Streams that are still open are cancelled. Raises an error of a callback that nobody was told yet.
---@param timeout number? seconds to wait at most
---@return boolean gone false: some still live, and the pool is still usable
---@return any[]? values of a pool with on_exit: what it returned in each worker there ever was, in the order in which they left; nothing of
---   those where it returned nil, failed (a warning), or that were terminated. What cannot be sent is a warning, too
function methods:close(timeout)
  check_self(self, "close")
  check.duration(timeout, 1, "close")
  if self.is_closed then return true, take_values(self) end
  if is_inline(self) then
    if self.handle then return true end -- the workers are the host's to end
    self.is_closed = true
    end_inline(self)
    Pool.raise_problems(self)
    return true, take_values(self)
  end
  if self.handle:state() == "foreign" then check_usable(self, "close") end
  if self.handle:is_waiting() then error("cannot use 'close': the pool is busy with another call", 2) end
  local stats = self.handle:state() == "open" and self.handle:stats() or nil
  self.is_closed = self.handle:close(timeout)
  if self.is_closed then self.final = stats end
  local first = table.remove(self.problems, 1)
  if self.is_closed then warn_of_problems(self) end
  if first ~= nil then error(first, 0) end
  if not self.is_closed then return false end
  return true, take_values(self)
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
  take_values(self)
  self.handle:terminate(grace)
  if self.handle.partings then self.handle:partings() end -- by chance some, and not others: none
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

local function set_paused(self, name, is_paused)
  check_usable(self, name)
  if is_inline(self) then return end
  if not self.handle.pause then error(("cannot use '%s': the pool's workers are on many machines"):format(name), 3) end
  self.handle:pause(is_paused)
end

--- Let the workers begin nothing any more, until p:resume(): what they have claimed (some milliseconds of items, or a chunk) comes to its
--- end, and calls wait: a call that blocks does so until somebody resumes (a callback, a lazy source) or interrupts it. Futures can be
--- begun and cancelled meanwhile; p:cancel(), p:terminate() and p:resize() work as ever; `deadline` goes on, `timeout` counts from an
--- item's start. p:close() resumes. Does not block. Pools without workers are never paused.
function methods:pause()
  check_self(self, "pause")
  set_paused(self, "pause", true)
end

--- The end of p:pause(). Idempotent.
function methods:resume()
  check_self(self, "resume")
  set_paused(self, "resume", false)
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
    take_values(self)
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
  local lack = core.lacks("trace")
  if lack then error("cannot use 'report': " .. lack, 2) end
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
  local self = { options = options, call_options = call_options, is_closed = false, futures = {}, problems = {}, values = {} }
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
---   on_start, on_exit   function(worker), in each worker when it begins and when it leaves; worker = { id =, pid = }. What on_exit
---                  returns is given by p:close()
---   seed           item i of a call has the random numbers of (seed, i), whoever runs it
---   max_tasks      a worker is replaced after so many items
---   max_growth     a worker is replaced when an item has left it with so many bytes of memory (or "256M") more than it began with (looked
---                  at ten thousand times a second at most; shared memory does not count)
---   idle_timeout   seconds: a worker that had nothing to do for so long leaves; it is started anew when there is work for it
---   load           a worker begins nothing while so many other processes run on this machine, as a number, or a share of the usable
---                  processors: "75%". Asked ten times a second at most, as is
---   memfree        nor while less memory than this can be had (bytes, or "2G"), of the machine and of the cgroup; swap counts. Both wait
---                  for as long as it takes, and neither stops what runs. (Linux; elsewhere `load` is an error, `memfree` without effect)
---   nice           by how much (0 to 19) the priority of workers, and of the programs they execute, is lower than this program's; "idle":
---                  they run only where nobody else wants to, and give way at once to whoever wakes up, this program above all
---                  (SCHED_IDLE; where the system has no such thing: as 19)
---   pin            true: each worker runs on one processor only, in turn over those that this program may use (Linux; elsewhere an error)
---   nested         true: inside a task, too, the pool has workers (else its verbs run inline there)
---   start          how workers are started: "fork" (copies of this process as it is; refused when it has other threads), "server" (a
---                  helper, executed once, forks clean ones), "spawn" (a helper is executed for each), "auto" (default: the first if that
---                  is safe, else the second). Clean workers inherit nothing: functions are sent to them, with what these reach
---   helper         the program to execute for that (default: LUAPOOL_HELPER, else the command luapool, where it is found)
---   descriptors    "keep" (default): forked workers have what this process has open; "close": only its input and outputs, 0 to 2; what
---                  it has open otherwise is not held open by them (a client's connection, a port), and cannot be used in tasks
---   output         what becomes of what tasks print (see the README);   name   stands in messages and in front of progress
---   trace          name of a file: what workers and host do when, for chrome://tracing or Perfetto; true: for p:report{ html = } alone
---   timeout, memory, chunk, buffer, on_crash, retries, retry_delay, errors, progress, priority   defaults of its calls: see map
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
    local pool, defaults = pool_of(self, name)
    check_usable(pool, name)
    fn = check.fn(fn, 1, name)
    local kind, a, b, n = check.source(src, 2, name)
    local call = check.call_options(options, defaults, 3, name)
    check.room(call, n, name)
    return verb(pool, { fn = fn, kind = kind, a = a, b = b, n = n }, call)
  end
  verbs_with[name] = methods[name]

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
  local pool, defaults = pool_of(self, "reduce")
  check_usable(pool, "reduce")
  op = check.fn(op, 1, "reduce")
  local kind, a, b, n = check.source(src, 2, "reduce")
  local call = check.call_options(options, defaults, 4, "reduce")
  return verbs.reduce(pool, { fn = op, kind = kind, a = a, b = b, n = n }, init, call)
end
verbs_with.reduce = methods.reduce

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
    local pool, call = pool_of(self, name)
    check_usable(pool, name)
    fn = check.fn(fn, 1, name)
    return verb(pool, call, fn, ...)
  end
  verbs_with[name] = methods[name]
end

--- The same pool, with other options for calls: `p:with{ priority = "high" }:submit(fn, ...)`. What it gives has the verbs of a pool (not
--- close and the like), may be kept, and used again; the pool itself, and what was begun, stay as they are. For submit, apply and
--- broadcast, whose arguments are the task's, it is the only way to say options; what a call of the others says goes before it.
---
--- `priority`: workers look for something to do among what is "high" first, then "normal" (default), then "low"; what is of one priority
--- they begin in the order in which it was posted. No item is interrupted. A worker that has several items at hand (a chunk of a map, a
--- block of a lazy source) gives the rest back after the one that it is at, when something of a higher priority waits and no other worker
--- was faster: an urgent task waits for the end of one item, of the worker that is first with its own, however large the chunks. What was
--- given back is the next of its priority as soon as the host is in a call of the pool. Nothing ages: what is of a low priority waits as
--- long as there is other work, for ever if need be. Of more than a thousand tasks of one priority that wait, the workers know a thousand;
--- the host, in a call of the pool, tells them of more, and they go on with what is of a lower one if it is late. Broadcasts go before all.
--- In a pool without workers everything runs at once; on many machines each node keeps to this with what it was sent.
---@param options table timeout, memory, chunk, buffer, on_crash, retries, retry_delay, errors, progress, priority: see map
---@return luapool.With
function methods:with(options)
  local pool, defaults = pool_of(self, "with")
  check_usable(pool, "with")
  return setmetatable({ pool = pool, call_options = check.with_options(options, defaults, 1, "with") }, With)
end
verbs_with.with = methods.with

function With.__tostring(self)
  return ("luapool.with: calls of %s"):format(tostring(self.pool))
end

--- pool.apply: as p:apply, with a worker forked for this call alone.
function Pool.apply_once(fn, ...)
  fn = check.fn(fn, 1, "apply")
  local pool_options, call = check.pool_options({ workers = 1 }, 1, "apply", true)
  pool_options.one_shot = true
  local self <close> = make(pool_options, call)
  return verbs.over_arguments.apply(self, call, fn, ...)
end

return Pool
