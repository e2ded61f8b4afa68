-- command/oneliner_expression -- the EXPR of a one-liner: a function of an expression, of statements, or out of a file. Room: lua.
-- Owns nothing.

local expression = {}

local NAME <const> = "EXPR"

-- Feed the compiler byte by byte: where it stopped reading is where it found the mistake.
local function compile(text, behind)
  local at = 0
  local prefix = behind and "return " or ""
  local function next_byte()
    at = at + 1
    if at <= #prefix then return prefix:sub(at, at) end
    local byte = text:sub(at - #prefix, at - #prefix)
    return byte ~= "" and byte or nil
  end
  local fn, message = load(next_byte, "=" .. NAME, "t")
  return fn, message, at - #prefix
end

-- The offset of the token that the message is about; the compiler has read one byte beyond it.
local function token_place(text, message, read)
  local token = message:match("near '(.*)'$") or message:match("near (<eof>)$")
  if not token or token == "<eof>" then return math.min(read, #text + 1) end
  if token:find("^<") then return math.min(read - 1, #text) end -- a byte that can begin nothing
  for at = math.min(read, #text) - #token + 1, 1, -1 do
    if text:sub(at, at + #token - 1) == token then return at end
  end
  return math.min(read, #text)
end

-- The line of the text that offset `at` is on, its number, and the column.
local function line_at(text, at)
  local number, from = 1, 1
  for newline in text:gmatch("()\n") do
    if newline >= at then break end
    number, from = number + 1, newline + 1
  end
  return text:match("[^\n]*", from), number, at - from + 1
end

-- Columns that a terminal needs for a text, roughly: what is no first byte of a character needs none; tabs stay tabs.
local function blank(text)
  return (text:gsub("[\128-\191]", ""):gsub("[^\t]", " "))
end

local function describe(text, message, read)
  local at = token_place(text, message, read)
  local line, number, column = line_at(text, at)
  local what = message:gsub("^" .. NAME .. ":%d+: ", "")
  return ("%s:%d:%d: %s\n  %s\n  %s^"):format(NAME, number, column, what, line, blank(line:sub(1, column - 1)))
end

--- A function of `parameters` ("_, _i") that has the value of the expression, or runs the statements.
---@return function? fn, string? message with the line and a mark below the place
function expression.compile(text, parameters)
  local is_expression, message, read = compile(text, true)
  if not is_expression then
    local is_block, other, further = compile(text, false)
    if not is_block then
      if further > read then message, read = other, further end
      return nil, describe(text, message, read)
    end
  end
  -- Fixed parameters cost less than varargs; a text that is no whole by itself ("1 end, function()") never comes here.
  local body = is_expression and "return " .. text or text
  local outer = load("return function(" .. parameters .. ") " .. body .. "\nend", "=" .. NAME, "t")
  if outer then return outer() end
  local names = "local " .. parameters .. " = ... "
  return load(names .. body, "=" .. NAME, "t")
end

--- The function that a file of Lua returns.
---@return function? fn, string? message
function expression.file(path)
  local chunk, message = loadfile(path)
  if not chunk then return nil, message end
  local ok, fn = pcall(chunk)
  if not ok then
    if type(fn) ~= "string" then error(fn, 0) end
    return nil, fn
  end
  if type(fn) ~= "function" then return nil, ("%s: a file that returns a function expected, it returned %s"):format(path, type(fn)) end
  return fn
end

--- An error of the function as people want to read it: "EXPR:1: " says nothing in a text of one line.
---@return string
function expression.message(text)
  return (text:gsub("^" .. NAME .. ":1: ", ""))
end

return expression
