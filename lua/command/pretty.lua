-- command/pretty -- values as people read them. Room: lua. Owns nothing.
-- Bounded in every way: depth, items of a table, length of strings, items in all. Calls nothing of the value but __tostring (and __name is
-- read): what cannot be had raw is not shown.
local core, part = ...

local progress = part "progress"

local pretty = {}

local DEPTH <const> = 3          -- tables within tables
local ITEMS <const> = 50         -- of one table
local ALL_ITEMS <const> = 300    -- of all tables of a value
local SORTED_KEYS <const> = 5000 -- a table with more is shown in its own order
local STRING <const> = 4000      -- bytes of a string by itself
local INNER_STRING <const> = 200 -- bytes of one in a table
local INNER_TEXT <const> = 200   -- of a __tostring in a table

local COLORS = {
  string = "32", number = "36", constant = "35", special = "34", dim = "2", key = nil, bad = "31",
}

---@class luapool.Pretty what one value's text needs to know
---@field width integer columns
---@field colors boolean
---@field left integer items that may still be shown
---@field names table<function, string>? of modules
---@field path table<table, string> the tables that lead here, with their names

local function paint(self, color, text)
  if not (self.colors and COLORS[color]) then return text end
  return "\27[" .. COLORS[color] .. "m" .. text .. "\27[0m"
end

-- ---- text ----

local ESCAPES = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\\"] = "\\\\", ['"'] = '\\"', ["\a"] = "\\a", ["\b"] = "\\b",
  ["\f"] = "\\f", ["\v"] = "\\v" }

local function escape_bytes(text)
  return (text:gsub(".", function(c) return ("\\x%02X"):format(c:byte()) end))
end

-- Bytes from 128: characters stay, if they can be seen; what is no UTF-8 is escaped.
local function escape_high(text)
  local pieces, at = {}, 1
  while at <= #text do
    local valid, bad = utf8.len(text, at)
    local stop = valid and #text + 1 or bad
    pieces[#pieces + 1] = text:sub(at, stop - 1):gsub(utf8.charpattern, function(c)
      if #c > 1 and progress.plain(c) == "?" then return escape_bytes(c) end
    end)
    if valid then break end
    pieces[#pieces + 1] = escape_bytes(text:sub(bad, bad))
    at = bad + 1
  end
  return table.concat(pieces)
end

--- A string in quotes, as Lua would read it again. What terminals would obey is escaped.
function pretty.quote(text)
  text = text:gsub('[%c"\\\127]', function(c) return ESCAPES[c] or ("\\x%02X"):format(c:byte()) end)
  if text:find("[\128-\255]") then text = escape_high(text) end
  return '"' .. text .. '"'
end

-- The beginning of a text, not in the middle of a character.
local function cut(text, bytes)
  local at = bytes
  while at > bytes - 4 and at > 0 and text:byte(at + 1) and text:byte(at + 1) & 0xC0 == 0x80 do at = at - 1 end
  return text:sub(1, at)
end

local function quote(self, text, limit)
  if #text <= limit then return paint(self, "string", pretty.quote(text)) end
  return paint(self, "string", pretty.quote(cut(text, limit))) .. paint(self, "dim", ("... (%d bytes)"):format(#text))
end

-- Columns of a text that may hold colours.
local function width_of(text)
  return progress.width(progress.plain((text:gsub("\27%[[%d;]*m", ""))))
end

-- ---- what has no inside ----

-- The functions of modules by their names, as tracebacks tell them. `known`: names that stay, whatever else the functions are called since.
local function names_of_functions(known)
  local names = {}
  for module, t in next, package.loaded do
    local prefix = module == "_G" and "" or module == "luapool" and "pool." or tostring(module) .. "."
    if type(t) == "table" then
      for key, value in next, t do
        if type(key) == "string" and type(value) == "function" and (prefix == "" or not names[value]) then
          names[value] = known[value] or prefix .. key
        end
      end
    end
  end
  return names
end

local FIRST_NAMES = names_of_functions {}

-- Ours and those of C by their names, others by their places.
local function function_text(self, value)
  self.names = self.names or names_of_functions(FIRST_NAMES) -- anew for each value: modules change
  local name, info = self.names[value], debug.getinfo(value, "S")
  if name and (info.what == "C" or name:find("^pool%.")) then return "function " .. progress.plain(name) end
  if info.what == "C" then return tostring(value) end
  return ("function <%s:%d>"):format(info.short_src, info.linedefined)
end

local PLAIN = { ["nil"] = "constant", boolean = "constant", number = "number" }

-- Only what interrupts the program comes through.
local function text_of(value)
  local ok, text = pcall(tostring, value)
  if ok then return text end
  if core.is_interrupt(text) then error(text, 0) end
  return nil, ("<error in __tostring: %s>"):format(type(text) == "string" and text or type(text))
end

local function metafield(value, name)
  local meta = debug.getmetatable(value)
  if type(meta) ~= "table" then return nil end
  return rawget(meta, name)
end

local ARRAY_ITEMS <const> = 20 -- of a shared array

-- The first elements of a shared array, behind what it says about itself.
local function array_text(value)
  local items, n = {}, math.min(#value, ARRAY_ITEMS)
  for i = 1, n do items[i] = tostring(value[i]) end
  if #value > n then items[n + 1] = ("... %d more"):format(#value - n) end
  return tostring(value):gsub(":[^:]*$", "") .. ": " .. table.concat(items, ", ")
end

-- A value with a text of its own.
local function own_text(self, value, is_inner)
  local text, problem = text_of(value)
  if text and not is_inner and type(value) == "userdata" and metafield(value, "__name") == "luapool.array" then text = array_text(value) end
  if not text then return paint(self, "bad", problem) end
  if is_inner then
    local line = text:match("^[^\n]*")
    if #line > INNER_TEXT then line = cut(line, INNER_TEXT) end
    if #line < #text then line = line .. "..." end
    text = line
  end
  return paint(self, "special", text)
end

-- ---- tables ----

local ORDER = { number = 1, string = 2, boolean = 3 }

local function is_before(a, b)
  local ta, tb = type(a), type(b)
  if ta == tb and (ta == "number" or ta == "string") then return a < b end
  local oa, ob = ORDER[ta] or 4, ORDER[tb] or 4
  if oa ~= ob then return oa < ob end
  return tostring(a) < tostring(b) -- (of two booleans, or two addresses)
end

local function address(value) return ("%s: %p"):format(type(value), value) end

-- The keys to show beyond the sequence 1..n, and how many there are.
local function other_keys(t, n)
  local keys, count = {}, 0
  for key in next, t do
    if not (math.type(key) == "integer" and key >= 1 and key <= n) then
      count = count + 1
      if count <= SORTED_KEYS then keys[count] = key end
    end
  end
  if count > SORTED_KEYS then return keys, count end
  local by_text = {}
  table.sort(keys, function(a, b)
    if ORDER[type(a)] or ORDER[type(b)] then return is_before(a, b) end
    by_text[a], by_text[b] = by_text[a] or address(a), by_text[b] or address(b)
    return by_text[a] < by_text[b]
  end)
  return keys, count
end

-- 1..n without holes, told apart from the rest.
local function sequence_length(t)
  local n = rawlen(t)
  if n == 0 or rawget(t, n // 2 + 1) ~= nil then
    for i = 1, math.min(n, ITEMS + 1) do
      if rawget(t, i) == nil then return i - 1 end
    end
    return n
  end
  local i = 0
  while rawget(t, i + 1) ~= nil do i = i + 1 end
  return i
end

local show -- forward

local function key_text(self, key, depth)
  if type(key) == "string" and key:find("^[%a_][%w_]*$") and not part("lexer").KEYWORDS[key] and #key <= INNER_STRING then
    return paint(self, "key", key) .. " = ", "." .. key
  end
  local text = type(key) == "table" and paint(self, "dim", address(key)) or show(self, key, depth, nil, true)
  local step = ORDER[type(key)] and "[" .. (type(key) == "string" and pretty.quote(cut(key, 20)) or tostring(key)) .. "]" or "[...]"
  return "[" .. text .. "] = ", step
end

-- The texts of a table's items: all of them scalars of a sequence?
local function items_of(self, t, depth, path, n)
  local texts, is_row, shown = {}, true, math.min(n, ITEMS)
  for i = 1, shown do
    if self.left <= 0 then
      shown = i - 1
      break
    end
    self.left = self.left - 1
    local value = rawget(t, i)
    if type(value) == "table" then is_row = false end
    texts[i] = show(self, value, depth + 1, ("%s[%d]"):format(path, i), true)
  end
  local keys, count = other_keys(t, n)
  local missing = n - shown + count
  for _, key in ipairs(keys) do
    if #texts >= ITEMS or self.left <= 0 then break end
    self.left = self.left - 1
    is_row, missing = false, missing - 1
    local name, step = key_text(self, key, depth)
    texts[#texts + 1] = name .. show(self, rawget(t, key), depth + 1, path .. step, true)
  end
  if missing > 0 then texts[#texts + 1] = paint(self, "dim", ("... %d more"):format(missing)) end
  return texts, is_row
end

-- On one line, if that fits and holds no line break.
local function on_one_line(self, texts, depth, prefix)
  local room = self.width - 2 * depth - #prefix - 4
  for _, text in ipairs(texts) do
    room = room - width_of(text) - 2
    if room < 0 or text:find("\n", 1, true) then return nil end
  end
  return prefix .. "{ " .. table.concat(texts, ", ") .. " }"
end

-- As many items on each line as fit.
local function in_rows(self, texts, indent)
  local lines, line, used = {}, {}, #indent
  for _, text in ipairs(texts) do
    local width = width_of(text) + 2
    if used + width > self.width and #line > 0 then
      lines[#lines + 1] = indent .. table.concat(line, ", ")
      line, used = {}, #indent
    end
    line[#line + 1] = text
    used = used + width
  end
  lines[#lines + 1] = indent .. table.concat(line, ", ")
  return table.concat(lines, ",\n")
end

local function table_text(self, t, depth, path)
  local name = metafield(t, "__name")
  local prefix = type(name) == "string" and paint(self, "special", progress.plain(name)) .. " " or ""
  if next(t) == nil then return prefix .. "{}" end
  if depth >= DEPTH or self.left <= 0 then return prefix .. paint(self, "dim", "{...}") end
  self.path[t] = path
  local texts, is_row = items_of(self, t, depth, path, sequence_length(t))
  self.path[t] = nil
  local line = on_one_line(self, texts, depth, prefix)
  if line then return line end
  local indent = ("  "):rep(depth + 1)
  local body = is_row and in_rows(self, texts, indent) or indent .. table.concat(texts, ",\n" .. indent)
  return prefix .. "{\n" .. body .. "\n" .. ("  "):rep(depth) .. "}"
end

function show(self, value, depth, path, is_inner)
  local kind = type(value)
  if PLAIN[kind] then return paint(self, PLAIN[kind], tostring(value)) end
  if kind == "string" then return quote(self, value, is_inner and INNER_STRING or STRING) end
  if kind == "function" then return paint(self, "special", function_text(self, value)) end
  if kind == "table" and self.path[value] then return paint(self, "dim", ("<cycle: %s>"):format(self.path[value])) end
  if kind ~= "table" or metafield(value, "__tostring") ~= nil then return own_text(self, value, is_inner) end
  return table_text(self, value, depth, path)
end

--- A value as a text of one or more lines.
---@param value any
---@param options { width: integer?, colors: boolean?, name: string? } name: by which the value can be had again; cycles refer to it
---@return string
function pretty.text(value, options)
  local self = { width = math.max(options.width or 80, 20), colors = options.colors, left = ALL_ITEMS, path = {} }
  return show(self, value, 0, options.name or "_", false)
end

return pretty
