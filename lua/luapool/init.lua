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

-- One-shot verbs: as the methods of a pool, with workers forked for that call alone.
for _, name in ipairs { "map", "starmap", "each", "imap", "imap_unordered", "filter", "find", "any", "all", "reduce", "apply" } do
  pool[name] = later("pool", name .. "_once")
end

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
