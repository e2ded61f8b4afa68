-- command/repl_commands -- what begins with a dot at the prompt. Room: lua. Owns nothing.
local core, part = ...

local commands = {}

-- name, what follows it, what it does
local LIST = {
  { "help", "", "this list" },
  { "time", "EXPR", "run it, and tell how long it took" },
  { "workers", "[N]", "workers where nothing else says how many; from now on N (or auto)" },
  { "load", "FILE", "run a file as if it were typed: its local variables stay visible" },
  { "locals", "", "the local variables of this prompt" },
  { "forget", "NAME...", "these names mean the globals again" },
  { "exit", "", "leave, as Ctrl-D does" },
}

local run = {}

local TEXT = [[
Type an expression to see its value, or statements to run them. What is not
finished goes on in the next line; a pasted block is one piece.
  _            the last result (the first one, if there are several)
  local x = 1  stays visible on the lines that follow; what is <close> is closed
               when the prompt ends
  help(x)      about a function or an object: help(pool.map), help(p),
               help "array"; help() lists all there is
  TAB          completes names, fields, methods after a colon, options of calls,
               and file names in strings
  Up, Ctrl-R   what was typed before, in other sessions too
  Ctrl-C       drops what is being typed, or stops what runs, workers included;
               pools stay usable
]]

--- All commands, for help and completion.
function commands.list()
  local names = {}
  for i, entry in ipairs(LIST) do names[i] = "." .. entry[1] end
  return names
end

function run.help(self)
  local lines = {}
  for i, entry in ipairs(LIST) do
    lines[i] = ("  %-15s %s"):format("." .. entry[1] .. (entry[2] == "" and "" or " " .. entry[2]), entry[3])
  end
  self:say(TEXT .. table.concat(lines, "\n"))
end

local function seconds(t)
  if t < 1e-3 then return ("%.1f us"):format(t * 1e6) end
  if t < 1 then return ("%.2f ms"):format(t * 1e3) end
  return ("%.3f s"):format(t)
end

function run.time(self, argument)
  if argument == "" then return self:complain("usage: .time EXPR") end
  local chunk, message = self:compile(argument)
  if not chunk then return self:complain(message) end
  local cpu, start = os.clock(), core.now()
  local results = self:run(chunk)
  local elapsed = core.now() - start
  cpu = os.clock() - cpu
  if results and results.n > 0 then
    rawset(_G, "_", results[1])
    self:run(function() self:show(results) end)
  end
  self:say(("%s, of which this process computed for %s"):format(seconds(elapsed), seconds(cpu)))
end

function run.workers(self, argument)
  if argument ~= "" then
    local n = argument == "auto" and core.cpus() or math.tointeger(tonumber(argument))
    if not n or n < 1 or n > 4096 then
      return self:complain(('.workers: integer from 1 to 4096, or auto, expected, got "%s"'):format(argument))
    end
    part("defaults").set("workers", n)
  end
  local n = part("check").default_workers()
  self:say(("%d worker%s"):format(n, n == 1 and "" or "s"))
end

function run.load(self, argument)
  local name = argument:match('^"(.*)"$') or argument:match("^'(.*)'$") or argument
  if name == "" then return self:complain("usage: .load FILE") end
  local file, message = io.open(name, "rb")
  if not file then return self:complain(message) end
  local text, why = file:read("a")
  file:close()
  if not text then return self:complain(name .. ": " .. why) end
  local chunk
  chunk, message = self.locals:load(text, "@" .. name)
  if not chunk then return self:complain(message) end
  self:evaluate(chunk)
end

function run.locals(self)
  local names = self.locals:names()
  if #names == 0 then return self:say("there are none") end
  for _, name in ipairs(names) do
    local _, value = self.locals:get(name)
    self:run(function()
      self:say(name .. " = " .. part("pretty").text(value, { width = self:width() - #name - 3, name = name }))
    end)
  end
end

function run.forget(self, argument)
  if argument == "" then return self:complain("usage: .forget NAME...") end
  for name in argument:gmatch("[^%s,]+") do
    if not self.locals:forget(name) then self:complain(("there is no local variable '%s' here"):format(name)) end
  end
end

local OTHER_NAMES = { quit = "exit", q = "exit", h = "help" }

--- Run a command. False: the prompt is to end.
function commands.run(self, name, argument)
  name = OTHER_NAMES[name] or name
  if name == "exit" then return false end
  if run[name] then
    run[name](self, argument)
  else
    self:complain(("unknown command '.%s' (known: %s)"):format(name, table.concat(commands.list(), " ")))
  end
  return true
end

return commands
