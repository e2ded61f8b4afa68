-- command/lexer -- Lua source as tokens, for the prompt: which names a line uses, where its statements end, what is being typed.
-- Room: lua. Owns nothing. It does not check: what is asked about has been compiled, or is still being typed.
local lexer = {}

local KEYWORDS = {}
local WORDS = "and break do else elseif end false for function goto if in local nil not or repeat return then true until while"
for word in WORDS:gmatch("%a+") do
  KEYWORDS[word] = true
end
lexer.KEYWORDS = KEYWORDS

local SYMBOLS = { "...", "<<", ">>", "//", "==", "~=", "<=", ">=", "::", ".." } -- those of more than one character

-- A long bracket that begins at `at`: where it ends, and whether it does.
local function long_bracket(text, at)
  local level = text:match("^%[(=*)%[", at)
  if not level then return nil end
  local _, last = text:find("]" .. level .. "]", at, true)
  return last or #text, last ~= nil
end

-- A quoted string that begins at `at`: where it ends, and whether it does (at its quote, and not at a line's or the text's end).
local function quoted(text, at)
  local quote, i = text:sub(at, at), at + 1
  while i <= #text do
    local c = text:sub(i, i)
    if c == quote then return i, true end
    if c == "\\" then
      local _, skipped = text:find("^z%s*", i + 1)
      i = skipped or i + 1
    elseif c == "\n" then
      return i - 1, false
    end
    i = i + 1
  end
  return #text, false
end

local function number(text, at)
  local _, last = text:find("^0[xX][%x%.]*", at)
  if last then
    local _, exponent = text:find("^[pP][+-]?%d+", last + 1)
    return exponent or last
  end
  _, last = text:find("^[%d%.]+", at)
  local _, exponent = text:find("^[eE][+-]?%d+", last + 1)
  return exponent or last
end

local function symbol(text, at)
  for _, s in ipairs(SYMBOLS) do
    if text:sub(at, at + #s - 1) == s then return at + #s - 1 end
  end
  return at
end

-- The kind of what begins at `at`, where it ends, and whether it is whole.
local function one(text, at)
  local c = text:sub(at, at)
  if text:find("^%-%-", at) then
    local last, is_whole = long_bracket(text, at + 2)
    if last then return "comment", last, is_whole end
    return "comment", (text:find("\n", at, true) or #text + 1) - 1, text:find("\n", at, true) ~= nil
  elseif c == '"' or c == "'" then
    return "string", quoted(text, at)
  elseif c:find("[%a_]") then
    local _, last = text:find("^[%w_]+", at)
    return KEYWORDS[text:sub(at, last)] and "keyword" or "name", last, true
  elseif text:find("^%.?%d", at) then
    return "number", number(text, at), true
  end
  local last, is_whole = long_bracket(text, at)
  if last then return "string", last, is_whole end
  return "symbol", symbol(text, at), true
end

--- The tokens of a text, comments included.
---@param text string
---@return { kind: "name"|"keyword"|"number"|"string"|"symbol"|"comment", text: string, first: integer, last: integer, is_whole: boolean }[]
function lexer.tokens(text)
  local tokens, at = {}, text:match("^#[^\n]*()") or 1
  while true do
    at = text:find("%S", at)
    if not at then return tokens end
    local kind, last, is_whole = one(text, at)
    tokens[#tokens + 1] = { kind = kind, text = text:sub(at, last), first = at, last = last, is_whole = is_whole }
    at = last + 1
  end
end

--- The same without comments: what statements are made of.
function lexer.code(text)
  local code = {}
  for _, token in ipairs(lexer.tokens(text)) do
    if token.kind ~= "comment" then code[#code + 1] = token end
  end
  return code
end

-- ---- statements ----

local OPENS = { ["function"] = true, ["do"] = true, ["if"] = true, ["repeat"] = true }
local CLOSES = { ["end"] = true, ["until"] = true }
local BRACKETS = { ["("] = 1, ["{"] = 1, ["["] = 1, [")"] = -1, ["}"] = -1, ["]"] = -1 }

--- How many blocks and brackets a token opens (closes, if negative).
function lexer.nesting(token)
  if token.kind == "keyword" then return OPENS[token.text] and 1 or CLOSES[token.text] and -1 or 0 end
  return token.kind == "symbol" and BRACKETS[token.text] or 0
end

-- The token with which what is opened at i is closed.
local function matching(code, i)
  local depth = 0
  for j = i, #code do
    depth = depth + lexer.nesting(code[j])
    if depth == 0 then return j end
  end
  return #code
end
lexer.matching = matching

local BINARY = {}
for word in ([[+ - * / // % ^ .. < <= > >= == ~= & | ~ << >> and or]]):gmatch("%S+") do BINARY[word] = true end
local UNARY = { ["-"] = true, ["not"] = true, ["#"] = true, ["~"] = true }

-- The last token of the operand that begins at i, with what is called and indexed in it.
local function operand(code, i)
  local token = code[i]
  if token.text == "function" and token.kind == "keyword" then return matching(code, i) end
  if token.kind == "symbol" and BRACKETS[token.text] == 1 then i = matching(code, i) end
  if token.kind ~= "name" and token.text ~= "(" then return i end -- nothing can follow a constant but an operator
  while true do
    local after = code[i + 1]
    if not after then return i end
    if after.kind == "string" then
      i = i + 1
    elseif after.kind ~= "symbol" then
      return i
    elseif after.text == "." or after.text == ":" then
      i = i + 2
    elseif BRACKETS[after.text] == 1 then
      i = matching(code, i + 1)
    else
      return i
    end
  end
end

--- The last token of the list of expressions that begins at i.
function lexer.end_of_expressions(code, i)
  while code[i] do
    while code[i] and UNARY[code[i].text] and code[i].kind ~= "string" do i = i + 1 end
    if not code[i] then return #code end
    i = operand(code, i)
    local after = code[i + 1]
    if not after or after.kind == "string" or not (BINARY[after.text] or after.text == ",") then return i end
    i = i + 2
  end
  return #code
end

return lexer
