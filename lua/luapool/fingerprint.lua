-- luapool/fingerprint -- a number for what a function is: its code and the values that it sees; the same in every run. Room: lua.
-- Feature: journal. Owns nothing.
-- Counts: instructions and constants (names, comments and line numbers do not), upvalues, the script's own globals that the code names, and
-- what all these reach, tables in an order of our own. Known by name only: the globals as a whole, loaded modules and their functions.
-- Opaque (their kind alone counts): userdata, coroutines, foreign C functions, keys that are objects, metatables, and whatever lies deeper
-- than MAX_DEPTH or beyond the first MAX_VALUES values.
local core = ...

local fingerprint = {}

local MAX_DEPTH = 100
local MAX_VALUES = 5000000

-- ---- what is known by name ----

local function sorted_keys(t)
  local keys = {}
  for key in next, t do
    if type(key) == "string" then keys[#keys + 1] = key end
  end
  table.sort(keys)
  return keys
end

local function is_foreign(value)
  return type(value) == "function" and core.place(value) == "C function"
end

-- A module's table, and its functions in C (those in Lua have code to look at).
local function name_module(names, name, module)
  if type(module) ~= "table" or names[module] then return end
  names[module] = name
  for _, field in ipairs(sorted_keys(module)) do
    local value = rawget(module, field)
    if not names[value or 0] and is_foreign(value) then names[value] = name .. "." .. field end
  end
end

local function known_names()
  local globals, loaded = core.known()
  local names = { [globals] = "_G" }
  for _, name in ipairs(sorted_keys(loaded)) do name_module(names, name, loaded[name]) end
  for _, name in ipairs(sorted_keys(globals)) do
    local value = rawget(globals, name)
    if not names[value or 0] and is_foreign(value) then names[value] = name end
  end
  return names, globals
end

-- ---- the walk ----

local visit

local function put(walk, text)
  walk.hash = core.hash(text, walk.hash)
end

-- Keys behind the sequence that can be put in order: numbers, then strings, then booleans. Returns them and how many others there are.
local RANK = { number = 1, string = 2, boolean = 3 }
local function other_keys(t, n)
  local keys, others = {}, 0
  for key in next, t do
    local is_item = math.type(key) == "integer" and key >= 1 and key <= n
    if not is_item and RANK[type(key)] then
      keys[#keys + 1] = key
    elseif not is_item then
      others = others + 1
    end
  end
  table.sort(keys, function(a, b)
    if type(a) ~= type(b) then return RANK[type(a)] < RANK[type(b)] end
    if type(a) == "boolean" then return a and not b end
    return a < b
  end)
  return keys, others
end

local function visit_table(walk, t, depth)
  local n = 0
  put(walk, "{")
  while walk.left > 0 do
    local value = rawget(t, n + 1)
    if value == nil then break end
    n = n + 1
    visit(walk, value, depth)
  end
  if walk.left <= 0 then return end
  local keys, others = other_keys(t, n)
  for _, key in ipairs(keys) do
    visit(walk, key, depth)
    visit(walk, rawget(t, key), depth)
  end
  put(walk, "}" .. others)
end

local function visit_code(walk, fn, depth)
  local digest, globals = core.code(fn)
  if not digest then return put(walk, "C function") end
  put(walk, "f" .. digest)
  for i = 1, 255 do
    local name, value = core.upvalue(fn, i)
    if not name then break end
    visit(walk, value, depth)
  end
  for _, name in ipairs(sorted_keys(globals)) do
    put(walk, "g" .. name)
    visit(walk, rawget(walk.globals, name), depth)
  end
end

local function visit_object(walk, value, kind, depth)
  local name = walk.names[value]
  if name then return put(walk, "n" .. name) end
  if walk.seen[value] then return put(walk, "r" .. walk.seen[value]) end
  walk.n_seen = walk.n_seen + 1
  walk.seen[value] = walk.n_seen
  if depth > MAX_DEPTH then return put(walk, "deep " .. kind) end
  if kind == "table" then return visit_table(walk, value, depth + 1) end
  visit_code(walk, value, depth + 1)
end

-- Userdata and coroutines: the name of their type.
local function opaque(value)
  local meta = debug and debug.getmetatable(value) or getmetatable(value)
  local name = type(meta) == "table" and rawget(meta, "__name")
  return type(value) .. " " .. (type(name) == "string" and name or "")
end

function visit(walk, value, depth)
  local kind = type(value)
  walk.left = walk.left - 1
  if walk.left <= 0 then return end
  if kind == "string" then
    put(walk, "s" .. value)
  elseif kind == "number" then
    put(walk, math.type(value) == "integer" and "i" .. value or string.pack("<c1d", "d", value))
  elseif kind == "table" or kind == "function" then
    visit_object(walk, value, kind, depth)
  elseif kind == "nil" or kind == "boolean" then
    put(walk, tostring(value))
  else
    put(walk, opaque(value))
  end
end

local function start(names, globals)
  return { hash = 0, n_seen = 0, seen = {}, left = MAX_VALUES, names = names, globals = globals }
end

local function hex(number)
  return ("%016x"):format(number)
end

--- A value's number, as 16 hexadecimal digits.
---@param value any
---@return string
function fingerprint.of(value)
  local walk = start(known_names())
  visit(walk, value, 0)
  return hex(walk.hash)
end

--- The number of the elements 1 to n of something that can be indexed (a pool.array).
---@return string
function fingerprint.of_elements(elements, n)
  local walk = start(known_names())
  for i = 1, math.min(n, MAX_VALUES) do visit(walk, elements[i], 0) end
  return hex(walk.hash)
end

local function value_part(value, names, globals)
  local walk = start(names, globals)
  visit(walk, value, 0)
  return hex(walk.hash)
end

--- A function's number, and those of its parts, to say which of them is another: "code", "upvalue NAME", "global NAME".
---@param fn function
---@return string number, table<string, string> parts
function fingerprint.of_function(fn)
  local names, globals = known_names()
  local digest, named = core.code(fn)
  if not digest then
    local code = names[fn] or "C function"
    return hex(core.hash(code)), { code = code }
  end
  local hash, parts = digest, { code = hex(digest) }
  local function add(name, value)
    parts[name] = value_part(value, names, globals)
    hash = core.hash(parts[name], hash)
  end
  for i = 1, 255 do
    local name, value = core.upvalue(fn, i)
    if not name then break end
    if value ~= globals then add("upvalue " .. (name ~= "" and name or i), value) end
  end
  for _, name in ipairs(sorted_keys(named)) do
    local value = rawget(globals, name)
    if value == nil or not names[value] then add("global " .. name, value) end
  end
  return hex(hash), parts
end

return fingerprint
