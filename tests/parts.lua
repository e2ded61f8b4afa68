-- parts.lua -- the insides of the module for tests of single parts: require "parts" "journal" is lua/luapool/journal.lua as the module
-- itself gets it; require "parts" () is the table of C functions that they all build upon ("core").
local module = pool or require "luapool"

local function upvalue(fn, wanted)
  for i = 1, 255 do
    local name, value = debug.getupvalue(fn, i)
    if name == wanted then return value end
    if not name then error("no upvalue " .. wanted) end
  end
end

local part, core = upvalue(module.shield, "part"), upvalue(module.shield, "core")

return function(name)
  return name and part(name) or core
end
