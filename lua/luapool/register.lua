-- luapool/register -- pool.register: classes and userdata that cross by name. Room: lua.
-- Owns nothing: registrations live in the state's registry.
local core = ...

--- Give a class (the metatable of its objects) a name under which both sides know it, so that objects keep it when they cross.
--- With save and load, userdata of that metatable cross too: save(object) -> value, load(value) -> object.
---@param name string
---@param class table
---@param hooks? { save: function, load: function }
local function register(name, class, hooks)
  if type(name) ~= "string" then error(("bad argument #1 to 'register' (string expected, got %s)"):format(type(name)), 2) end
  if type(class) ~= "table" then error(("bad argument #2 to 'register' (table expected, got %s)"):format(type(class)), 2) end
  hooks = hooks or {}
  if type(hooks) ~= "table" then error(("bad argument #3 to 'register' (table expected, got %s)"):format(type(hooks)), 2) end
  if (hooks.save == nil) ~= (hooks.load == nil) then error("bad argument #3 to 'register' (save and load come together)", 2) end
  core.register(name, class, hooks.save, hooks.load)
end

return { register = register }
