-- oneliner.lua -- what the tests of one-liners (luapool map, filter, reduce) share: a command line as they run it.
local lu = require "luaunit"
local proc = require "proc"

local oneliner = { LUAPOOL = os.getenv("LUAPOOL") or "build/luapool" }

local LUAPOOL = oneliner.LUAPOOL

--- { exit, signal, out, err } of a command line; the last argument may be a table of proc's options.
function oneliner.run(...)
  local args = { ... }
  local options = type(args[#args]) == "table" and table.remove(args) or {}
  options.args = { LUAPOOL, table.unpack(args) }
  options.env = options.env or { PARALLEL_SHELL = "/bin/sh" }
  options.deadline = options.deadline or 120
  local p <close> = proc.spawn(options)
  local status, out, err = p:finish(options.deadline)
  err = err:gsub(LUAPOOL:gsub("%p", "%%%0"), "luapool")
  return { exit = status.exit, signal = status.signal, out = out, err = err }
end

--- Output of a run that must succeed quietly.
function oneliner.output(...)
  local r = oneliner.run(...)
  lu.assertEquals({ r.exit, r.err }, { 0, "" })
  return r.out
end

--- The lines 1 .. n, or fn of these.
function oneliner.sequence(n, fn)
  local lines = {}
  for i = 1, n do lines[i] = tostring(fn and fn(i) or i) end
  return table.concat(lines, "\n") .. "\n"
end

return oneliner
