-- luapool/errors -- what a failed call raises: the metatable pool.Error. Room: lua. Owns nothing.
-- The tables themselves are made in C (binding/lerror.c) and in luapool/inline: kind, message, value, traceback, index, item, worker, pid,
-- signal, exitcode, max_rss, host (of another machine), each where it is known.
local core = ...

local Error = core.Error

Error.__name = "luapool.Error"

local function place(e)
  local words = {}
  if e.index then words[#words + 1] = e.item and ("item %d (%s)"):format(e.index, e.item) or ("item %d"):format(e.index) end
  if e.worker and e.worker > 0 then words[#words + 1] = ("worker %d"):format(e.worker) end
  if e.pid then words[#words + 1] = ("pid %d"):format(e.pid) end
  if e.host then words[#words + 1] = "on " .. e.host end
  return table.concat(words, ", ")
end

--- The message, then where it happened, then the traceback of the worker.
function Error.__tostring(e)
  local text = tostring(e.message)
  local where = place(e)
  if where ~= "" then text = text .. "\n  in " .. where end
  if e.traceback and e.traceback:find("\n") then
    local trace = e.traceback:gsub("^stack traceback:", "in the task:"):gsub("\n", "\n  ")
    text = text .. "\n  " .. trace
  end
  return text
end

return Error
