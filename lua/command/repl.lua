-- command/repl -- the prompt: read a statement, run it, show what it returns. Room: lua. Owns: the prompt's variables, and `_`.
-- command/repl.c gives it what only the program can do, and calls step again and again. An interrupt may end any step anywhere: nothing
-- here holds what would have to be put back.
local core, part = ...

local repl = {}

local HISTORY <const> = 2000 -- entries kept, in memory and in the file
local STDOUT <const>, STDERR <const> = 1, 2

---@class luapool.Repl
---@field host table functions of the program: read add write complain remember recall history_path signal set_completer; the editor's name
---@field locals luapool.ReplLocals
local Repl = {}
Repl.__index = Repl

-- ---- showing ----

local function has_colors(fd) return part("defaults").color(core.isatty(fd)) end

local function paint(fd, code, text)
  return has_colors(fd) and "\27[" .. code .. "m" .. text .. "\27[0m" or text
end

--- Columns of the terminal, now.
function Repl:width() -- luacheck: ignore self
  local width = core.terminal_width(STDOUT)
  return width > 0 and width or 80
end

--- A line of ours on stdout.
function Repl:say(text) self.host.write(text .. "\n") end

-- Programs leave their last line without an end, and terminals echo ^C: what comes next begins on a line of its own. As many blanks as the
-- terminal has columns end in the next line, unless the cursor was at the beginning of one.
function Repl:begin_line()
  local columns = core.terminal_width(STDOUT)
  if self.host.editor == "plain" or columns < 1 or (core.environment("TERM") or "dumb") == "dumb" then return end
  self.host.write((" "):rep(columns) .. "\r\27[K")
end

--- Something that failed, on stderr: the first line stands out.
function Repl:complain(text)
  local first, rest = text:match("^([^\n]*)(.*)$")
  self.host.complain(paint(STDERR, "31", first) .. rest)
end

local function pretty_text(self, value, name)
  return part("pretty").text(value, { width = self:width(), colors = has_colors(STDOUT), name = name })
end

--- Values as the prompt shows them: on one line if they are short.
function Repl:show(results)
  local texts, width, has_breaks = {}, 0, false
  for i = 1, results.n do
    texts[i] = pretty_text(self, results[i], i == 1 and "_" or "(" .. i .. ")")
    width = width + #texts[i]:gsub("\27%[[%d;]*m", "") + 4
    has_breaks = has_breaks or texts[i]:find("\n", 1, true) ~= nil
  end
  self:say(table.concat(texts, (has_breaks or width > self:width()) and "\n" or "\t"))
end

-- ---- running ----

-- Levels of the stack from the caller's on.
local function count_levels()
  local level = 2
  while debug.getinfo(level, "l") do level = level + 1 end
  return level - 2
end

local function traceback(self)
  local lines = {}
  for line in debug.traceback("", 4):gmatch("[^\n]+") do lines[#lines + 1] = line end -- 4: what raised it
  for _ = 1, self.below do table.remove(lines) end -- the prompt's own
  if #lines < 2 then return "" end
  lines[#lines] = lines[#lines]:gsub(": in function <[^>]*>$", ": in main chunk")
  return "\n" .. table.concat(lines, "\n")
end

local function describe(self, err)
  if type(err) == "string" or type(err) == "number" then return tostring(err) .. traceback(self) end
  local meta = debug.getmetatable(err)
  if type(meta) == "table" and meta.__tostring then
    local ok, text = pcall(tostring, err)
    if ok then return text end
    if self.host.signal(text) ~= 0 then error(text, 0) end
  end
  local text = ("(error object is a %s value)"):format(type(err))
  if type(err) == "table" then text = text .. " " .. part("pretty").text(err, { width = self:width(), name = "error" }) end
  return text .. traceback(self)
end

-- The results of xpcall, packed.
local function protected(self, chunk)
  self.below = count_levels() + 1 -- and xpcall
  return table.pack(xpcall(chunk, function(err)
    if self.host.signal(err) ~= 0 then return err end
    return { text = describe(self, err) }
  end))
end

--- Run a compiled chunk. An error is reported; one that ends the program is raised.
---@return table? results nil: it has failed
function Repl:run(chunk)
  local results = protected(self, chunk)
  self:begin_line()
  if results[1] then return table.move(results, 2, results.n, 1, { n = results.n - 1 }) end
  local err = results[2]
  local signal = self.host.signal(err)
  if signal == 0 then
    self:complain(type(err) == "table" and rawget(err, "text") or tostring(err)) -- (an error in the handler is what Lua says it is)
  elseif err.signal == "SIGINT" then
    self:complain("interrupted!")
  else
    error(err, 0)
  end
  return nil
end

--- Run, show and keep what it returns.
function Repl:evaluate(chunk)
  local results = self:run(chunk)
  if not results or results.n == 0 then return end
  rawset(_G, "_", results[1])
  self:run(function() self:show(results) end) -- a __tostring may take for ever
end

-- ---- compiling ----

-- Has the text only not ended yet? A quoted string cannot go on in the next line, except behind a backslash.
local function is_incomplete(message, text)
  if message:sub(-5) ~= "<eof>" then return false end
  return not message:find("unfinished string", 1, true) or text:find("\\%s*$") ~= nil or text:find("\\z%s*$") ~= nil
end

-- Can these lines not be the rest of a statement that began above them?
local function begins_anew(text)
  local first = part("lexer").code(text)[1]
  return first and (first.kind == "name" or first.kind == "keyword" or first.kind == "number" or first.text == "#")
end

local MOST_LINES <const> = 20 -- of an expression at the end

-- A block of several statements (pasted, mostly) whose last lines are an expression: with a `return` before it. `is_valid`: it is also a
-- block of statements as it is.
local function with_last_expression(text, is_valid)
  local at = #text
  for _ = 1, MOST_LINES do
    local stop = text:sub(1, at):match(".*()\n")
    if not stop then return nil end
    local before, rest = text:sub(1, stop), text:sub(stop + 1)
    if rest:find("%S") and load(before, "=stdin", "t") and load(before .. "return " .. rest, "=stdin", "t") then
      if is_valid and not begins_anew(rest) then return nil end
      return before .. "return " .. rest
    end
    at = stop - 1
  end
end

--- Compile what was typed: an expression, or statements.
---@return function? chunk, string? message, boolean? is_incomplete
function Repl:compile(text)
  if text:sub(1, 1) == "\27" then text = " " .. text end -- a stray key is no compiled chunk
  local expression, why_no_expression = load("return " .. text, "=stdin", "t")
  if expression then return self.locals:load_expression(text, "=stdin") end
  local statement, why = load(text, "=stdin", "t")
  local mixed = with_last_expression(text, statement ~= nil)
  if mixed then return self.locals:load(mixed, "=stdin") end
  if statement then return self.locals:load(text, "=stdin") end
  if is_incomplete(why, text) then return nil, why, true end
  if is_incomplete(why_no_expression, text) then return nil, why_no_expression, true end
  return nil, why, false
end

-- ---- reading ----

-- What terminals obey takes no columns: the editors want it marked.
local function prompt(self, name, default)
  local value = _G[name]
  if value == nil then return default end
  local ok, text = pcall(tostring, value)
  if not ok then return default end
  if self.host.editor == "plain" then return text end
  return (text:gsub("\27%[[%d;?]*%a", "\1%0\2"))
end

local function encode(text) return (text:gsub("\\", "\\\\"):gsub("\n", "\\n")) end

local function decode(line)
  return (line:gsub("\\(.)", function(c) return c == "n" and "\n" or c end))
end

--- Keep what was typed, for the keys that go back, and for the next session.
function Repl:remember(text)
  text = text:gsub("%s+$", "")
  if text == "" or text == self.last then return end
  self.last = text
  self.host.add(text, HISTORY)
  if self.has_no_file then return end
  local ok, reason = self.host.remember(encode(text))
  if ok then return end
  self.has_no_file = true -- not tried again: somebody may hold the lock for ever
  local path = self.host.history_path()
  if path then self:complain(("history is not kept: %s: %s"):format(path, reason)) end
end

local function recall(self)
  for line in self.host.recall(HISTORY):gmatch("[^\n]+") do
    self.last = decode(line)
    self.host.add(self.last, HISTORY)
  end
end

-- Read on until the text is whole. nil: there is nothing to run.
local function complete_statement(self, text)
  while true do
    local chunk, message, goes_on = self:compile(text)
    if not goes_on then
      self:remember(text)
      if not chunk then self:complain(message) end
      return chunk
    end
    local more, why = self.host.read(prompt(self, "_PROMPT2", ">> "))
    if not more then
      if why == "end" then self:complain(message) else self.drops = 1 end
      return nil
    end
    text = text .. "\n" .. more
  end
end

-- Ctrl-C where nothing runs: somebody may want to leave.
local function note_drop(self)
  self.drops = self.drops + 1
  if self.drops == 2 then self:say(paint(STDOUT, "2", "(Ctrl-D or .exit leaves)")) end
end

--- One statement. False: the input has ended.
function Repl:step()
  local text, why = self.host.read(prompt(self, "_PROMPT", "> "))
  if why == "end" then
    return false
  elseif why == "dropped" then
    note_drop(self)
    return true
  end
  self.drops = 0
  if not text:find("%S") then return true end
  local name, argument = text:match("^%s*%.(%a+)%s*(.-)%s*$")
  if name then
    self:remember(text)
    return part("repl_commands").run(self, name, argument)
  end
  local chunk = complete_statement(self, (text:gsub("^%s*=", "return ", 1)))
  if chunk then self:evaluate(chunk) end
  return true
end

-- ---- beginning and end ----

local function define_help(self)
  if rawget(_G, "help") ~= nil then return end
  rawset(_G, "help", function(...) part("help").show(self, ...) end)
end

--- A prompt that nobody sees yet.
---@return luapool.Repl
function repl.new(host)
  return setmetatable({ host = host, locals = part("repl_locals").new(), drops = 0 }, Repl)
end

--- The functions that the program calls: step() -> boolean (go on?), and finish(err) -> err, which closes what is to be closed.
function repl.start(host)
  local self = repl.new(host)
  define_help(self)
  part "pretty" -- while functions have no other names yet
  local defaults = part "defaults"
  if not defaults.get().progress then defaults.set("progress", "auto") end -- whoever sits here likes to see how far it is
  host.set_completer(part("repl_complete").new(self))
  recall(self)
  self:say(paint(STDOUT, "2", ".help tells what this prompt can do; Ctrl-D leaves."))
  return {
    step = function() return (self:step()) end,
    finish = function(err) return self.locals:close(err) end,
  }
end

return repl
