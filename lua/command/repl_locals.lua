-- command/repl_locals -- `local x = 1` at the prompt stays visible on the lines that follow. Room: lua.
-- Owns: the variables of one prompt, as upvalues.
--
-- All lines of a prompt behave as if they were one block. Behind every `local` statement of a line that is not inside a block of the line,
-- a call is inserted that hands over a closure with the variable as upvalue: the variable itself, not a copy, so that functions which have
-- captured it and later lines go on sharing it. A later line that uses the name is compiled inside a function with a local of that name,
-- and its upvalue is joined to the kept one.
--   shadowing  `local x = x + 1`: the old x on the right; functions that captured the old one keep it.
--   <const>    stays constant: later lines that assign to it do not compile.
--   <close>    the block ends with the prompt: that is when it is closed, the last one first.
--   errors     what was declared before the error stays.
local _, part = ...

local lexer = part "lexer"

local locals = {}

---@class luapool.ReplLocals
---@field kept table<string, { holder: function, index: integer, is_const: boolean }>
---@field to_close { name: string, value: any }[]
local Locals = {}
Locals.__index = Locals

---@return luapool.ReplLocals
function locals.new()
  return setmetatable({ kept = {}, to_close = {} }, Locals)
end

-- ---- what a line declares ----

-- The statement `local ...` at token i: its last token, its names, and the token range of a <close>.
local function declaration(code, i)
  if code[i + 1].text == "function" then return lexer.matching(code, i + 1), { { name = code[i + 2].text } } end
  local names, at = {}, i + 1
  while true do
    local name = { name = code[at].text }
    names[#names + 1] = name
    at = at + 1
    if code[at] and code[at].text == "<" then
      name.attribute, name.token = code[at + 1].text, code[at + 1]
      at = at + 3
    end
    if not code[at] or code[at].text ~= "," then break end
    at = at + 1
  end
  if code[at] and code[at].text == "=" and code[at].kind == "symbol" then return lexer.end_of_expressions(code, at + 1), names end
  return at - 1, names
end

local function is_keyword(token, text) return token.kind == "keyword" and token.text == text end

-- The declarations of a chunk that compiles which are in no block of it: { last = offset, names = }.
local function declarations(code)
  local found, depth, i = {}, 0, 1
  while code[i] do
    if depth == 0 and is_keyword(code[i], "local") then
      local last, names = declaration(code, i)
      found[#found + 1] = { last = code[last].last, names = names }
      i = last
    else
      depth = depth + lexer.nesting(code[i])
    end
    i = i + 1
  end
  return found
end

local KEEP_ONE = " %s(%q, %q, %s, function() return %s end);"

-- The text with the calls inserted.
local function with_calls(text, found, keep)
  local pieces, at = {}, 1
  for _, statement in ipairs(found) do
    for _, name in ipairs(statement.names) do
      if name.attribute == "close" then -- it is not this block that ends; but it is constant, as ever
        pieces[#pieces + 1] = text:sub(at, name.token.first - 1) .. "const"
        at = name.token.last + 1
      end
    end
    pieces[#pieces + 1] = text:sub(at, statement.last)
    at = statement.last + 1
    for _, name in ipairs(statement.names) do
      pieces[#pieces + 1] = KEEP_ONE:format(keep, name.name, name.attribute or "", name.name, name.name)
    end
  end
  pieces[#pieces + 1] = text:sub(at)
  return table.concat(pieces)
end

-- ---- keeping ----

local function holder_of(value)
  return function() return value end
end

local function pass(...) return ... end

-- What the inserted calls call.
local function keep(self, name, attribute, value, closure)
  if attribute == "close" then
    local meta = debug.getmetatable(value)
    if value and not (type(meta) == "table" and meta.__close) then error(("variable '%s' got a non-closable value"):format(name), 3) end
    if value then table.insert(self.to_close, { name = name, value = value }) end
  end
  if debug.getupvalue(closure, 1) ~= name then closure = holder_of(value) end -- the compiler has made a constant of it
  self.kept[name] = { holder = closure, index = 1, is_const = attribute ~= "" }
end

-- A name that neither the text nor a variable has.
local function unused_name(self, code)
  local used, name = {}, "keep"
  for _, token in ipairs(code) do used[token.text] = true end
  while used[name] or self.kept[name] do name = name .. "_" end
  return name
end

-- Those of the kept variables that the text uses (and _ENV, which every text uses).
local function names_used(self, code)
  local names, seen = {}, {}
  local function add(name)
    if self.kept[name] and not seen[name] then
      seen[name] = true
      names[#names + 1] = name
    end
  end
  add("_ENV")
  for _, token in ipairs(code) do
    if token.kind == "name" then add(token.text) end
  end
  return names
end

local function header(self, names, keep_name)
  local words = { keep_name }
  for _, name in ipairs(names) do words[#words + 1] = self.kept[name].is_const and name .. " <const>" or name end
  return ("local %s = ... return function(...) "):format(table.concat(words, ", "))
end

--- Compile expressions, so that they see the variables of the prompt. What is called in them is not called by a tail call: tracebacks tell
--- its name.
---@param text string
---@param name string of the chunk
---@return function? chunk, string? message
function Locals:load_expression(text, name)
  local keep_name = unused_name(self, lexer.code(text))
  if load(("return %s(%s\n)"):format(keep_name, text), name, "t") then
    self.kept[keep_name] = { holder = holder_of(pass), index = 1, is_const = false }
    local chunk, message = self:load(("return %s(%s\n)"):format(keep_name, text), name)
    self.kept[keep_name] = nil
    return chunk, message
  end
  return self:load("return " .. text, name)
end

--- Compile a text that compiles by itself, so that it sees and makes the variables of the prompt.
---@param text string
---@param name string of the chunk
---@return function? chunk, string? message
function Locals:load(text, name)
  local code = lexer.code(text)
  local found, names, keep_name = declarations(code), names_used(self, code), unused_name(self, code)
  if #found == 0 and #names == 0 then return load(text, name, "t") end
  local first_line, rest = text:match("^(#[^\n]*)(.*)$") -- of a script
  local body = with_calls(first_line and (" "):rep(#first_line) .. rest or text, found, keep_name)
  local make, message = load(header(self, names, keep_name) .. body .. "\nend", name, "t")
  if not make then
    if message:find("too many", 1, true) then return load(text, name, "t") end -- a text of very many variables: none is kept
    return nil, message
  end
  local chunk = make(function(...) keep(self, ...) end)
  for i = 1, math.huge do
    local upvalue = debug.getupvalue(chunk, i)
    if not upvalue then return chunk end
    local kept = self.kept[upvalue]
    if kept and upvalue ~= keep_name then debug.upvaluejoin(chunk, i, kept.holder, kept.index) end
  end
end

--- The value of a variable; false if there is none of that name.
---@return boolean found, any value
function Locals:get(name)
  local kept = self.kept[name]
  if not kept then return false end
  return true, (select(2, debug.getupvalue(kept.holder, kept.index)))
end

--- Their names, sorted.
function Locals:names()
  local names = {}
  for name in pairs(self.kept) do names[#names + 1] = name end
  table.sort(names)
  return names
end

--- The name means the global again. What captured the variable keeps it; what is to be closed will be.
---@return boolean was there
function Locals:forget(name)
  local was = self.kept[name] ~= nil
  self.kept[name] = nil
  return was
end

-- One after the other, each with the error of those before it, as at the end of a block.
local function close_next(self, err)
  local entry = table.remove(self.to_close)
  if not entry then return err end
  local ok, problem = pcall(function()
    local variable <close> = entry.value -- luacheck: ignore
    if err ~= nil then error(err, 0) end
  end)
  if ok then err = nil else err = problem end
  return close_next(self, err)
end

--- The prompt ends: close what is to be closed.
---@param err any what it ends with
---@return any error that is left, or nil
function Locals:close(err)
  self.kept = {}
  return close_next(self, err)
end

return locals
