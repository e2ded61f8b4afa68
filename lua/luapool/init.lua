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
  map = later("pool", "map_once"),
  range = later("range", "new"),
  register = later("register", "register"),
}

--- Processors that this process may use: its affinity, capped by the cgroup's quota.
---@return integer
pool.cpus = core.cpus

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
