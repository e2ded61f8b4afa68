-- command/oneliner_value -- values as text, for the lines that one-liners write. Room: lua. Owns nothing.
local _, part = ...

local value = {}

local DEPTH <const> = 100

-- Bytes that are no UTF-8 become the replacement character, each.
local function clean(text)
  local pieces, at = {}, 1
  while at <= #text do
    local _, bad = utf8.len(text, at)
    pieces[#pieces + 1] = text:sub(at, (bad or #text + 1) - 1)
    if not bad then break end
    pieces[#pieces + 1] = "\u{FFFD}"
    at = bad + 1
  end
  return table.concat(pieces)
end

local function string_of(text)
  return part("json").text(text) or part("json").text(clean(text))
end

-- 1 .. n and nothing else: n.
local function length_of(object)
  local n = 0
  for _ in pairs(object) do n = n + 1 end
  return n > 0 and n == #object and n or nil
end

local function sorted_names(object)
  local names = {}
  for name in pairs(object) do
    if type(name) ~= "string" and type(name) ~= "number" then
      error(("cannot write a table with a key of type %s as JSON"):format(type(name)), 0)
    end
    names[#names + 1] = name
  end
  table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
  return names
end

local write

local function write_table(object, depth, open)
  if open[object] then error("cannot write a table that contains itself as JSON", 0) end
  if depth > DEPTH then error(("cannot write a table of more than %d levels as JSON"):format(DEPTH), 0) end
  open[object] = true
  local pieces, n = {}, length_of(object)
  if n then
    for i = 1, n do pieces[i] = write(object[i], depth + 1, open) end
  else
    for i, name in ipairs(sorted_names(object)) do
      pieces[i] = string_of(tostring(name)) .. ":" .. write(object[name], depth + 1, open)
    end
  end
  open[object] = nil
  local text = table.concat(pieces, ",")
  return n and "[" .. text .. "]" or "{" .. text .. "}"
end

function write(object, depth, open)
  local kind = type(object)
  if kind == "table" then return write_table(object, depth, open) end
  if kind == "string" then return string_of(object) end
  if kind == "number" then return part("json").number(object) or (object == 0 and "-0.0" or "null") end
  if kind == "boolean" then return tostring(object) end
  error(("cannot write a %s as JSON"):format(kind), 0)
end

--- Any value as JSON on one line: a table with the keys 1 to n is an array, all others (the empty one, too) are objects with sorted names;
--- inf and nan are null; bytes that are no UTF-8 become U+FFFD. Raises what cannot be written: a cycle, more than 100 levels, a function.
---@param object any
---@return string
function value.json(object) return write(object, 1, {}) end

--- A value as the text that a result is: tables as JSON, unless they know how to write themselves (__tostring); all else as print does it.
---@return string
function value.text(object)
  if type(object) == "table" then
    local meta = getmetatable(object)
    if type(meta) ~= "table" or meta.__tostring == nil then return value.json(object) end
  end
  return tostring(object)
end

--- What a function returned, packed, as a line without its end; nil: nothing is to be written.
---@return string?
function value.line(results)
  local pieces, is_any = {}, false
  for i = 1, results.n do
    local one = results[i]
    is_any = is_any or one ~= nil
    pieces[i] = one == nil and "" or value.text(one)
  end
  return is_any and table.concat(pieces, "\t") or nil
end

return value
