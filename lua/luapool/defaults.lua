-- luapool/defaults -- what pools and calls take where neither says otherwise: the options of the command, then the environment. Room: lua.
-- Owns: what was given, read once per state, and the numbers of the logs that calls of this state were given.
-- An option --on-crash is the variable LUAPOOL_ON_CRASH and here `on_crash`. What a value may be is check's business where the option is
-- one of pools or calls, too.
local core, part = ...

local check = part "check"

local defaults = {}

-- How a text becomes a value: value, or nil and what was expected.

local function of_pool(name)
  return function(text) return check.option(name, tonumber(text) or text) end
end

local function word_of_pool(name)
  return function(text) return check.option(name, text) end
end

local function workers(text)
  if text == "auto" then return core.cpus() end
  return check.option("workers", tonumber(text) or text)
end

local function when(text)
  if text == "" then return "auto" end
  if text == "auto" or text == "always" or text == "never" then return text end
  return nil, '"auto" or "always" or "never"'
end

local YES_OR_NO = { [""] = true, ["1"] = true, yes = true, ["true"] = true, ["0"] = false, no = false, ["false"] = false }

local function flag(text)
  if YES_OR_NO[text] ~= nil then return YES_OR_NO[text] end
  return nil, '"yes" or "no"'
end

local function pin(text)
  if YES_OR_NO[text] == nil then return nil, '"yes" or "no"' end
  return check.option("pin", YES_OR_NO[text])
end

local function resume(text)
  if text == "failed" then return text end
  if YES_OR_NO[text] ~= nil then return YES_OR_NO[text] end
  return nil, '"failed" or nothing'
end

local function file(text)
  if text ~= "" then return text end
  return nil, "name of a file"
end

-- Kept as a text: a call, and a one-liner, read it each in their way.
local function halt(text)
  local value, expected = check.option("halt", text)
  if value then return text end
  return nil, expected
end

local READERS = {
  workers = workers, timeout = of_pool "timeout", memory = word_of_pool "memory", seed = of_pool "seed", chunk = of_pool "chunk",
  buffer = of_pool "buffer", retries = of_pool "retries", on_crash = word_of_pool "on_crash", grace = of_pool "grace",
  deadline = of_pool "deadline", halt = halt, max_tasks = of_pool "max_tasks", start = word_of_pool "start", output = word_of_pool "output",
  max_growth = word_of_pool "max_growth", idle_timeout = of_pool "idle_timeout", nice = of_pool "nice", pin = pin,
  load = of_pool "load", memfree = word_of_pool "memfree", retry_delay = of_pool "retry_delay",
  progress = when, color = when, quiet = flag, log = file, resume = resume, trace = file, report = file,
}

local given      -- once it is known
local n_logs = 0 -- calls that had a log by default
local has_no_room = false -- for more logs

-- "never" asks for nothing.
local function lack_of(name, value) return check.lack(name, value ~= "never" and value) end

local function read_option(name, text)
  local value, expected = READERS[name](text)
  local lack = lack_of(name, value)
  if lack then error(("--%s: %s"):format((name:gsub("_", "-")), lack), 0) end
  if value == nil then
    error(("--%s: %s expected, got %s"):format((name:gsub("_", "-")), (expected:gsub(",$", "")), core.item_text(text)), 0)
  end
  return value
end

local function read_variable(name)
  local variable = "LUAPOOL_" .. name:upper()
  local text = core.environment(variable)
  if not text or text == "" then return nil end
  local value, expected = READERS[name](text)
  local lack = lack_of(name, value)
  if lack then error(("the environment variable %s is %s: %s"):format(variable, core.item_text(text), lack), 0) end
  if value == nil then
    error(("the environment variable %s is %s (%s expected)"):format(variable, core.item_text(text), (expected:gsub(",$", ""))), 0)
  end
  return value
end

--- What was given, by name; nothing that was not. Not to be changed.
---   of pools and calls: workers timeout memory seed chunk buffer retries on_crash grace max_tasks max_growth idle_timeout nice
---     load memfree retry_delay pin start output deadline halt (a text)
---   log, resume, trace, report: files, and true or "failed";   progress, color: "auto" "always" "never";   quiet: boolean
---@return table
--- Raises a message that names the option or the variable whose value cannot be.
function defaults.get()
  if given then return given end
  local found = {}
  local options, ignores_environment = core.options()
  for name in pairs(READERS) do
    local text = options and options[name:gsub("_", "-")]
    if text then
      found[name] = read_option(name, text)
    elseif not ignores_environment then
      found[name] = read_variable(name)
    end
  end
  if found.quiet then core.set_quiet(true) end
  given = found
  return found
end

--- More was given since (behind a word of the command): read it all again.
function defaults.renew() given = nil end

--- For the prompt: from now on. The value is one that get could have returned; pools that are there already keep theirs.
function defaults.set(name, value)
  defaults.get()[name] = value
end

local FILES = { "log", "trace", "report" }

--- For the command, before it begins: get, and can the files be written?
--- Raises a message that says what cannot be.
function defaults.check()
  local found = defaults.get()
  for _, name in ipairs(FILES) do
    local problem = found[name] and core.cannot_write(found[name], name ~= "trace")
    if found[name] and not problem and name ~= "log" then problem = part("record").use_default(name, found[name]) end
    if problem then
      local options = core.options() or {}
      local origin = options[name] and "--" .. name or "the environment variable LUAPOOL_" .. name:upper()
      error(("%s: cannot write %s: %s"):format(origin, core.item_text(found[name]), problem), 0)
    end
  end
end

--- A name for the log of one more call that says nothing about logs, or nil: the script's calls have a file each, numbered in the order in
--- which they begin: run.jsonl, run.2.jsonl, run.3.jsonl. Only those of the program itself: tasks would all write to the same.
---@return string?
function defaults.next_log()
  local path = defaults.get().log
  if not path or has_no_room or core.is_worker() then return nil end
  n_logs = n_logs + 1
  if n_logs == 1 then return path end
  local stem, ending = path:match("^(.*[^/])(%.[^./]*)$")
  return ("%s.%d%s"):format(stem or path, n_logs, ending or "")
end

--- One of these logs could not be written any more, which was told: no further ones are begun.
function defaults.end_logs() has_no_room = true end

--- Shall `progress = true` be shown: "auto" (on a terminal), "always", "never".
---@return string
function defaults.progress()
  local found = defaults.get()
  if found.quiet then return "never" end
  return found.progress or "auto"
end

--- Colours on a stream?
---@param is_terminal boolean
---@param environment function? for tests: what os.getenv does
---@return boolean
function defaults.color(is_terminal, environment)
  environment = environment or core.environment
  local wish = defaults.get().color or "auto"
  if wish ~= "auto" then return wish == "always" end
  return is_terminal and (environment("NO_COLOR") or "") == "" and environment("TERM") ~= "dumb"
end

local function as_text(value)
  local ok, text = pcall(tostring, value)
  return ok and text or "an error whose value cannot be made into text"
end

--- Warn about something of ours, unless --quiet.
---@param what string
---@param about any what it is about: a text, or the value of an error
function defaults.warn(what, about, ...)
  if warn and not defaults.get().quiet then warn("luapool: ", what, as_text(about), ...) end
end

--- pool.defaults: a copy of what was given.
---@return table
function defaults.copy()
  local copy = {}
  for name, value in pairs(defaults.get()) do copy[name] = value end
  return copy
end

return defaults
