-- luapool/json -- JSON as logs need it: scalars that come back as they went, and objects on one line. Room: lua. Owns nothing.
-- Feature: json. Numbers keep their kind: a float always has a point or an exponent. Text must be valid UTF-8.
local json = {}

--- What JSON's null reads as inside an object (where nil would be no member at all).
json.null = setmetatable({}, { __name = "luapool.json.null", __tostring = function() return "null" end })

-- ---- writing ----

local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function escape(control)
  return ESCAPES[control] or ("\\u%04x"):format(control:byte())
end

--- A string as a JSON string; nil if it is not valid UTF-8.
---@param text string
---@return string?
function json.text(text)
  if text:find('[\0-\31"\\\127-\255]') then
    if text:find("[\128-\255]") and not (utf8 and utf8.len(text)) then return nil end
    text = text:gsub('[\0-\31"\\\127]', escape)
  end
  return '"' .. text .. '"'
end

--- A number as JSON that reads back as the same number, bit for bit; nil for what JSON has no number for (inf, nan) or may lose (-0.0).
---@param number number
---@return string?
function json.number(number)
  if math.type(number) == "integer" then return ("%d"):format(number) end
  if number ~= number or number == math.huge or number == -math.huge or (number == 0 and 1 / number < 0) then return nil end
  local text = ("%.17g"):format(number):gsub("[^%d%-+e]+", ".") -- some locales write a comma
  return text:find("[.e]") and text or text .. ".0"
end

-- What is only to be looked at: bytes that are no text become question marks.
local function shown(text)
  return json.text(text) or json.text((text:gsub("[\128-\255]", "?")))
end

local function write_value(value)
  if type(value) == "table" then return json.object(value) end
  if type(value) == "string" then return shown(value) end
  if type(value) == "number" then return json.number(value) or "null" end
  return tostring(value)
end

--- An object of scalars and such objects. Bytes of strings that are not valid UTF-8 become question marks: for texts, not for values.
---@param members table<string, any>
---@param order string[]? names, those of absent members too; default: all that are there, sorted
---@return string
function json.object(members, order)
  local pieces = {}
  if not order then
    order = {}
    for name in pairs(members) do order[#order + 1] = name end
    table.sort(order)
  end
  for _, name in ipairs(order) do
    if members[name] ~= nil then pieces[#pieces + 1] = shown(name) .. ":" .. write_value(members[name]) end
  end
  return "{" .. table.concat(pieces, ",") .. "}"
end

-- ---- reading ----

local MAX_DEPTH = 16

local PLAIN = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }

local function character(code)
  return code < 128 and string.char(code) or utf8.char(code)
end

-- \uXXXX, and two of them for what is beyond the first 65536.
local function unescape_units(text)
  text = text:gsub("\\u([dD][89abAB]%x%x)\\u([dD][c-fC-F]%x%x)", function(high, low)
    return character(0x10000 + ((tonumber(high, 16) & 0x3ff) << 10) + (tonumber(low, 16) & 0x3ff))
  end)
  return (text:gsub("\\u(%x%x%x%x)", function(digits) return character(tonumber(digits, 16)) end))
end

local function unescape(text)
  if not text:find("\\", 1, true) then return text end
  text = text:gsub("\\\\", "\\u005c")
  text = text:gsub("\\([bfnrt])", PLAIN):gsub('\\(["/])', "%1")
  return unescape_units(text)
end

-- The position behind the string that begins at `at`.
local function end_of_text(source, at)
  local from = at + 1
  while true do
    local found = source:find('["\\]', from)
    if not found then return nil end
    if source:byte(found) == 34 then return found + 1 end
    from = found + 2
  end
end

local WORDS = { ["true"] = true, ["false"] = false, null = json.null }
local read_value

local function skip(source, at)
  return source:find("[^ \t\r\n]", at) or #source + 1
end

-- "name" : value
local function read_member(source, at, depth, object)
  local name
  if source:sub(at, at) ~= '"' then return nil end
  name, at = read_value(source, at, depth)
  if not at then return nil end
  at = skip(source, at)
  if source:sub(at, at) ~= ":" then return nil end
  object[name], at = read_value(source, skip(source, at + 1), depth)
  return at and skip(source, at)
end

local function read_object(source, at, depth)
  local object = {}
  at = skip(source, at + 1)
  if source:sub(at, at) == "}" then return object, at + 1 end
  while depth < MAX_DEPTH do
    at = read_member(source, at, depth + 1, object)
    local mark = at and source:sub(at, at)
    if mark == "}" then return object, at + 1 end
    if mark ~= "," then return nil end
    at = skip(source, at + 1)
  end
end

-- The value at `at` and the position behind it; nil, nil if there is none.
function read_value(source, at, depth)
  local first = source:sub(at, at)
  if first == '"' then
    local behind = end_of_text(source, at)
    if not behind then return nil end
    return unescape(source:sub(at + 1, behind - 2)), behind
  elseif first == "{" then
    return read_object(source, at, depth)
  end
  local word = source:match("^[%w.+-]+", at)
  if not word then return nil end
  local value = WORDS[word]
  if value == nil then value = tonumber(word) end
  return value, value ~= nil and at + #word or nil
end

--- The value that a text is, and nothing else.
---@param text string
---@return any? value nil: it is none
function json.value(text)
  local value, behind = read_value(text, 1, 0)
  if behind ~= #text + 1 then return nil end
  return value
end

--- The object that a line is: names to strings, numbers, booleans, objects and json.null. No arrays.
---@param line string
---@return table? object, string? message
function json.read(line)
  local object, behind = read_value(line, skip(line, 1), 0)
  if type(object) ~= "table" or object == json.null or not behind or skip(line, behind) <= #line then
    return nil, "it is not an object of JSON on one line"
  end
  return object
end

return json
