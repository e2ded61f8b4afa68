-- command/repl_complete -- what a word at the prompt may become. Room: lua. Owns nothing.
-- Nothing of the program is called: only what is there without metamethods is looked at.
local _, part = ...

local lexer = part "lexer"

local complete = {}

local CODE_BREAKS <const> = " \t\n\"'`@$><=;:+-*/\\%^~#{}()[].,|&!?"
local MOST_KEYS <const> = 10000 -- of one table
local MOST_PARENTS <const> = 20

-- ---- values ----

local function parent_of(value)
  local meta = debug.getmetatable(value)
  local index = type(meta) == "table" and rawget(meta, "__index")
  return type(index) == "table" and index or nil
end

-- value[key], as far as that needs no function
local function get(value, key)
  for _ = 1, MOST_PARENTS do
    if type(value) == "table" then
      local found = rawget(value, key)
      if found ~= nil then return found end
    end
    value = parent_of(value)
    if value == nil then return nil end
  end
end

-- The value of the expression that ends with token i; false: not known.
local value_of

local function variable(self, name)
  local is_local, value = self.locals:get(name)
  if is_local then return value end
  return rawget(_G, name)
end

function value_of(self, code, i)
  local token = code[i]
  if not token then return nil end
  if token.kind == "string" then return token.text end
  if token.kind == "name" then
    local before = code[i - 1]
    if before and before.kind == "symbol" and before.text == "." then return get(value_of(self, code, i - 2), token.text) end
    if before and before.kind == "symbol" and before.text == ":" then return nil end
    return variable(self, token.text)
  end
  local key, open = code[i - 1], code[i - 2]
  if token.text == "]" and key and open and open.text == "[" and (key.kind == "number" or key.kind == "string") then
    local value = key.kind == "number" and tonumber(key.text) or key.text:match("^['\"](.*)['\"]$")
    return value ~= nil and get(value_of(self, code, i - 3), value) or nil
  end
  if token.text == ")" and key and open and open.text == "(" and key.kind == "string" then return key.text end
  return nil
end

-- ---- names ----

local function add_keys(names, t, wants)
  local count = 0
  for key, value in next, t do
    count = count + 1
    if count > MOST_KEYS then return end
    if type(key) == "string" and key:find("^[%a_][%w_]*$") and not lexer.KEYWORDS[key] and wants(key, value) then names[key] = true end
  end
end

local function is_callable(value)
  if type(value) == "function" then return true end
  local meta = debug.getmetatable(value)
  return type(meta) == "table" and rawget(meta, "__call") ~= nil
end

local function any() return true end
local function method(_, value) return is_callable(value) end

-- What can stand behind `value.` or `value:`. Names that begin with two underscores are not offered.
local function fields(value, is_method)
  local names, wants = {}, is_method and method or any
  for _, name in ipairs(is_method and part("help").methods_of(value) or {}) do names[name] = true end
  for _ = 1, MOST_PARENTS do
    if type(value) == "table" then add_keys(names, value, wants) end
    value = parent_of(value)
    if value == nil then break end
  end
  return names
end

local function variables(self)
  local names = {}
  for word in pairs(lexer.KEYWORDS) do names[word] = true end
  add_keys(names, _G, any)
  for _, name in ipairs(self.locals:names()) do names[name] = true end
  return names
end

-- ---- options of calls ----

-- The bracket that is open at the end of the code before i, and where.
local function open_bracket(code, i)
  local depth = 0
  for j = i, 1, -1 do
    depth = depth + lexer.nesting(code[j])
    if depth > 0 then return code[j].text, j end
  end
end

-- Behind `pool.new{` or `p:map(f, src, {`, where a name may come: the names of the options.
local function options(self, code)
  local last = code[#code]
  if not last or not (last.text == "{" or last.text == "," or last.text == ";") then return nil end
  local bracket, at = open_bracket(code, #code)
  if bracket ~= "{" then return nil end
  local before = code[at - 1]
  if before and (before.text == "(" or before.text == ",") then
    bracket, at = open_bracket(code, at - 1)
    if bracket ~= "(" then return nil end
  end
  local verb, dot = code[at - 1], code[at - 2]
  if not (verb and dot and verb.kind == "name" and (dot.text == "." or dot.text == ":")) then return nil end
  local receiver = value_of(self, code, at - 3)
  local is_module = receiver == part "init"
  if not is_module and debug.getmetatable(receiver) ~= part "pool" then return nil end
  if (verb.text == "new") ~= is_module and verb.text == "new" then return nil end
  local names = {}
  for _, name in ipairs(part("check").option_names(verb.text, is_module)) do names[name .. " = "] = true end
  return names
end

-- ---- the two questions ----

local function is_command(line) return line:find("^%s*%.%a*$") ~= nil end

-- The tokens of a line that ends at the cursor; what is being typed if that is inside a string or a comment.
local function inside(line)
  local tokens = lexer.tokens(line)
  local last = tokens[#tokens]
  if last and not last.is_whole then return last.kind, last end
end

-- The characters that end the word before the cursor; is it a file name?
local function breaks(line)
  if line:find("^%s*%.load%s") then return " \t\"'", true end
  local kind, token = inside(line)
  if kind == "string" then return token.text:sub(1, 1), true end
  return CODE_BREAKS, false
end

local function matching(names, word)
  local list = {}
  for name in pairs(names) do
    if name:sub(1, #word) == word and (word:sub(1, 2) == "__" or name:sub(1, 2) ~= "__") then list[#list + 1] = name end
  end
  table.sort(list)
  return list
end

local function candidates(self, line, word)
  local head = line:sub(1, #line - #word)
  if is_command(line) then
    local names = {}
    for _, name in ipairs(part("repl_commands").list()) do names[name:sub(2)] = true end
    return matching(names, word)
  end
  if inside(line) then return {} end
  local code = lexer.code(head)
  local last = code[#code]
  local is_field = last and last.kind == "symbol" and (last.text == "." or last.text == ":")
  if is_field then
    local value = value_of(self, code, #code - 1)
    return value == nil and {} or matching(fields(value, last.text == ":"), word)
  end
  local list = matching(options(self, code) or {}, word)
  if #list > 0 then return list end
  if word == "" then return {} end -- everything would be no help
  return matching(variables(self), word)
end

--- The table of functions that command/line_editor asks: breaks(line), candidates(line, word).
function complete.new(repl)
  return {
    breaks = breaks,
    candidates = function(line, word) return candidates(repl, line, word) end,
  }
end

return complete
