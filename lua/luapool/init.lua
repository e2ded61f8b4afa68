-- luapool/init -- the module table. Room: lua. Owns nothing: everything is defined in the parts; loading starts no process.
local core, part = ...

--- A program that uses no pool pays for none: a part is compiled when something of it is called first. The tail call keeps the
--- level at which argument errors are reported.
local function later(name, field)
  return function(...) return part(name)[field](...) end
end

---@class luapool
local pool = {
  _VERSION = "luapool " .. core.version,
  Error = core.Error,
  new = later("pool", "new"),
  range = later("range", "new"),
  register = later("register", "register"),
  wait = later("future", "wait"),
  as_completed = later("future", "as_completed"),
}

--- The machines that work for this script: one, or under `luapool --mpi` all of the job.
---@return table[] { rank =, host =, pid =, workers =, load =, items =, state = "up" or "lost", why = }
pool.nodes = later("pool", "nodes")

-- One-shot verbs: as the methods of a pool, with workers forked for that call alone.
for _, name in ipairs { "map", "starmap", "each", "imap", "imap_unordered", "filter", "find", "any", "all", "reduce", "apply" } do
  pool[name] = later("pool", name .. "_once")
end

--- What the command's options (`--timeout 5` is timeout = 5.0, `--on-crash skip` on_crash = "skip") and, where they say nothing, variables
--- of the environment (LUAPOOL_TIMEOUT) gave as defaults of pools and calls; nothing that was not given.
---@return table a copy
--- Raises a message that names the variable whose value cannot be.
pool.defaults = later("defaults", "copy")

--- What this build of the library has, by name: journal (the options log and resume), trace (the option trace, p:report()), progress,
--- early (luapool_init_early), exceptions (for a Lua compiled as C++): true or false. What it has not is an error that says so.
---@type table<string, boolean>
pool.features = core.features

--- Processors that this process may use: its affinity, capped by the cgroup's quota.
---@return integer
pool.cpus = core.cpus

--- A typed array in shared memory: what one process writes, all that have the array see. Tasks get it without copying, whether they
--- inherit it, or find it in an upvalue, an item or an argument; slices too. A task that returns an array which it has made itself
--- gives the host a copy. The memory goes with the last user, whoever that is.
---
--- `a[i]` and `a[i] = v` (from 1 to #a; reading a[#a + 1] gives nil, so that ipairs ends; all else outside is an error), `#a`,
--- `ipairs(a)`, `pairs(a)`, `a:slice([i [, j]])` (elements i to j of the same memory), `a:to_table([i [, j]])`,
--- `a:fill(v [, i [, j]])`, `a:copy(table | array [, at])`, `a:type()`; `==` is true for the same elements of the same memory.
--- A value that the type cannot hold is an error (no wrapping, no cutting off; f32 rounds); u64 above math.maxinteger are floats.
---@param type "i8"|"i16"|"i32"|"i64"|"u8"|"u16"|"u32"|"u64"|"f32"|"f64"
---@param n integer|table|luapool.array how many zeros, or the elements to begin with
---@return luapool.array
--- Raises argument errors, and "no memory for an array of ..." when there is none (all of it is reserved here, so nothing fails later).
pool.array = core.array

--- An integer that all processes change without losing a change: `c:add([n])` (default 1) returns the new value, `c:get()`,
--- `c:set(n)` returns the old one, `c:compare_and_set(old, new)` is true if it was `old` and is `new` now. It wraps around as Lua's
--- integers do.
--- Tasks get it as they get an array. One that a task has made itself cannot leave it.
---@param v integer? default 0
---@return luapool.counter
pool.counter = core.counter

--- A lock that one process at a time holds. Who dies while holding it, however, has released it.
--- `local guard <close> = lock:acquire([timeout])` waits and returns a guard, or nil, "timeout"; `guard:release()` (also `<close>`, and
--- the collector) gives it back; `lock:try()` returns a guard or nil at once; `lock:with(fn, ...)` calls fn while holding it;
--- `lock:holder()` is the pid of the process that holds it, or nil. Who waits can be interrupted (Ctrl-C, time limits, cancelling).
--- A lock is a process's, not a coroutine's: acquiring what this process holds already is an error.
---@return luapool.lock
pool.lock = core.lock

--- n permits: at most n holders at a time, in all processes together (connections, licences, memory for big items). As a lock, which is
--- one permit, and with its guards: `sem:acquire([timeout])`, `sem:try()`, `sem:with(fn, ...)`; `sem:available()` is how many permits
--- nobody has at this moment. Who dies while holding some, however, has given them back. A process may hold several; acquiring one more
--- when it holds all of them is an error, since it would wait for itself.
--- Raises an argument error, and "no memory for a semaphore".
---@param n integer how many permits: 1 to 1024
---@return luapool.semaphore
pool.semaphore = core.semaphore

--- Values from many to many, in the order in which they were sent: anything that can be a result (see README, "What crosses").
--- `ch:send(v [, timeout])` is true, or nil, "timeout"; an error when the channel is closed. It waits while `capacity` messages (or
--- 128 KiB) wait; a larger message waits until it is alone. `ch:receive([timeout])` is true, v (which may be nil), or nil, "timeout", or
--- nil, "closed" when nothing can come any more. `for v in ch:iter() do` receives until then (passing over nils); `ch:iter()` is a source
--- of items, too (with chunk = 1 if tasks send what the same call is to receive). `ch:close()`, `ch:is_closed()`, `#ch` (messages that
--- wait). Who waits can be interrupted (Ctrl-C, time limits, cancelling); while a host waits, its pools go on.
--- A message is sent and received whole, or not at all, whoever dies: the death of a receiver costs at most the message that it was taking.
--- To send shared memory that this process has made, keep the channel until it was received.
---@param capacity integer? how many messages may wait; default: as many as fit
---@return luapool.channel
pool.channel = core.channel

--- Is this error value an interrupt (Ctrl-C, SIGTERM, SIGHUP)? Knows ours, and the one of the stock interpreter.
---@param err any
---@return boolean
function pool.is_interrupt(err)
  if core.is_interrupt(err) then return true end
  return type(err) == "string" and err:find("interrupted!$") ~= nil
end

--- Make SIGINT, SIGTERM and SIGHUP Lua errors in this state (the command does so by itself). Wraps coroutine.resume, wrap, close.
pool.catch_interrupts = core.catch_interrupts

--- Call fn(...); an interrupt that comes meanwhile is delivered when it has returned.
---@param fn function
---@return any ... its results
function pool.shield(fn, ...)
  part("check").fn(fn, 1, "shield")
  return core.shield(fn, ...)
end

return pool
