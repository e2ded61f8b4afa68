-- luapool/check -- the only place that words argument errors. Room: lua. Owns nothing.
-- Every function here is called by the function whose caller is to blame: errors name the line of that caller.
local core, part = ...

local check = {}

local MAX_WORKERS = 4096
local MAX_ITEMS = (1 << 48) - 1

--- How many stack levels lie between `error` here and the user's line: this function, its caller here, the public function.
local BLAME = 4 -- (and therefore no function here may call another by a tail call)

local function describe(value)
  local kind = type(value)
  if kind == "number" then return tostring(value) end
  if kind == "string" then return core.item_text(value) end
  if kind == "boolean" then return tostring(value) end
  return kind
end

local function bad_argument(number, name, expected, value)
  error(("bad argument #%d to '%s' (%s expected, got %s)"):format(number, name, expected, describe(value)), BLAME)
end

local function is_callable(value)
  if type(value) == "function" then return true end
  local meta = getmetatable(value)
  return type(meta) == "table" and type(meta.__call) == "function"
end

--- The function argument of a verb. A callable object becomes a function that calls it.
---@return function
function check.fn(fn, number, name)
  if type(fn) == "function" then return fn end
  if is_callable(fn) then
    return function(...) return fn(...) end
  end
  bad_argument(number, name, "function", fn)
end

--- The source argument of a verb.
---@return string kind, any a, any b, integer? n as handle:run wants them
function check.source(src, number, name)
  local kind = type(src)
  if kind == "number" then
    local n = math.tointeger(src)
    if not n or n < 0 or n > MAX_ITEMS then bad_argument(number, name, "a whole number of items", src) end
    return "range", 1, 1, n
  elseif kind == "function" then
    return "iterator", src
  elseif kind == "table" then
    if getmetatable(src) == part("range").Range then return "range", src.first, src.step, src.n end
    if is_callable(src) then
      return "iterator", function() return src() end
    end
    local n = #src -- (__len may give anything)
    n = type(n) == "number" and math.tointeger(n) or n
    if math.type(n) ~= "integer" or n < 0 or n > MAX_ITEMS then
      bad_argument(number, name, "a table whose length is a number of items", n)
    end
    return "table", src, nil, n
  elseif core.array_length(src) then
    return "array", src, nil, #src
  elseif is_callable(src) then
    return "iterator", function() return src() end
  end
  bad_argument(number, name, "number, range, table or iterator function", src)
end

--- Seconds to wait, as an argument: nil is for the callee to understand.
---@return number? seconds
function check.duration(value, number, name)
  if value == nil or (type(value) == "number" and value >= 0) then return value end
  bad_argument(number, name, "number of seconds, 0 or more,", value)
end

--- The options of pool.wait.
---@return integer count, number? timeout
function check.wait_options(options, n, name)
  local count = n
  if options == nil then return n end
  if type(options) ~= "table" then
    error(("bad argument #2 to '%s' (table of options expected, got %s)"):format(name, describe(options)), 3)
  end
  for option, value in pairs(options) do
    if option == "count" then
      count = type(value) == "number" and math.tointeger(value)
      if not count or count < 0 then
        error(("bad option 'count' to '%s' (integer from 0 expected, got %s)"):format(name, describe(value)), 3)
      end
    elseif option == "timeout" then
      if type(value) ~= "number" or value ~= value or value < 0 then
        error(("bad option 'timeout' to '%s' (number of seconds, 0 or more, expected, got %s)"):format(name, describe(value)), 3)
      end
    else
      error(("unknown option '%s' to '%s' (known: count timeout)"):format(tostring(option), name), 3)
    end
  end
  return math.min(count, n), options.timeout
end

--- The options of p:report.
---@return string? html the name of a file
function check.report_options(options, number, name)
  if options == nil then return nil end
  if type(options) ~= "table" then
    error(("bad argument #%d to '%s' (table of options expected, got %s)"):format(number, name, describe(options)), 3)
  end
  for option, value in pairs(options) do
    if option ~= "html" then error(("unknown option '%s' to '%s' (known: html)"):format(tostring(option), name), 3) end
    if type(value) ~= "string" then
      error(("bad option 'html' to '%s' (name of a file expected, got %s)"):format(name, describe(value)), 3)
    end
  end
  return options.html
end

--- A number of workers, as an argument.
---@return integer
function check.workers(value, number, name)
  if value == "auto" then return check.default_workers() end
  local n = type(value) == "number" and math.tointeger(value)
  if not n or n < 1 or n > MAX_WORKERS then bad_argument(number, name, ('integer from 1 to %d or "auto"'):format(MAX_WORKERS), value) end
  return n
end

-- ---- options ----

-- Without a name of what it is for (check.option) the caller words it.
local function bad_option(option, name, expected, value)
  if not name then error({ expected = expected }, 0) end
  error(("bad option '%s' to '%s' (%s expected, got %s)"):format(option, name, expected, describe(value)), BLAME + 2)
end

local function whole(low, high, text)
  return function(value, option, name)
    local n = type(value) == "number" and math.tointeger(value)
    if not n or n < low or n > high then bad_option(option, name, text, value) end
    return n
  end
end

local function nice(value, option, name)
  if value == "idle" then return value end
  return whole(0, 19, 'integer from 0 to 19 or "idle"')(value, option, name)
end

local function seconds(low, text)
  return function(value, option, name)
    if type(value) ~= "number" or value ~= value or value < low or (low == 0 and text:find("positive") and value == 0) then
      bad_option(option, name, text, value)
    end
    return value > 0 and math.max(1e-9, math.min(value, 1e9)) + 0.0 or 0.0 -- (less than a nanosecond would be none)
  end
end

local function one_of(...)
  local words = { ... }
  local text = '"' .. table.concat(words, '" or "') .. '"'
  return function(value, option, name)
    for _, word in ipairs(words) do
      if value == word then return value end
    end
    bad_option(option, name, text, value)
  end
end

local function callback(value, option, name)
  if not is_callable(value) then bad_option(option, name, "function", value) end
  return type(value) == "function" and value or function(...) return value(...) end
end

local OUTPUT = { line = true, tag = true, order = true, discard = true }

local function output(value, option, name)
  if OUTPUT[value] or type(value) == "function" then return value end
  if not is_callable(value) then bad_option(option, name, '"line" or "tag" or "order" or "discard" or function', value) end
  return function(...) return value(...) end
end

local UNITS = { [""] = 1, K = 1 << 10, M = 1 << 20, G = 1 << 30, T = 1 << 40 }

-- Bytes, `least` at least; `words` is that for people.
local function bytes(least, words)
  local text = ('bytes, or a string such as "512M", at least %s,'):format(words)
  return function(value, option, name)
    local n = type(value) == "number" and math.tointeger(value)
    if type(value) == "string" then
      local digits, unit = value:match("^(%d+%.?%d*)%s*([KMGT]?)i?B?$")
      n = digits and math.floor(tonumber(digits) * UNITS[unit])
    end
    if not n or n < least or n > 1 << 46 then bad_option(option, name, text, value) end
    return n
  end
end

local memory = bytes(64 << 10, "64K")

local function workers(value, option, name)
  if value == "auto" then return part("defaults").get().workers end -- nil: as if nothing had been said
  local n = type(value) == "number" and math.tointeger(value)
  if not n or n < 0 or n > MAX_WORKERS then
    bad_option(option, name, ('integer from 0 to %d or "auto"'):format(MAX_WORKERS), value)
  end
  return n
end

local function chunk(value, option, name)
  if value == "auto" then return 0 end
  local n = type(value) == "number" and math.tointeger(value)
  if not n or n < 1 or n > 1 << 30 then bad_option(option, name, 'integer from 1 or "auto"', value) end
  return n
end

local function seed(value, option, name)
  local n = type(value) == "number" and math.tointeger(value)
  if not n then bad_option(option, name, "integer", value) end
  return n
end

local function text(value, option, name)
  if type(value) ~= "string" then bad_option(option, name, "string", value) end
  return value
end

local function buffer(value, option, name)
  if value == "auto" then return 0 end
  local n = type(value) == "number" and math.tointeger(value)
  if not n or n < 1 or n > 1 << 30 then bad_option(option, name, 'integer from 1 or "auto"', value) end
  return n
end

local function progress(value, option, name)
  if type(value) == "boolean" then return value end
  if not is_callable(value) then bad_option(option, name, "boolean or function", value) end
  return type(value) == "function" and value or function(...) return value(...) end
end

local HALT = '"now,fail=3", "soon,fail=10%", "now,success=1" or the like'

-- When to end a call early, as GNU parallel words it: { soon = boolean, what = "fail" | "success", count = or share = }.
local function halt(value, option, name)
  local when, what, number, percent
  if type(value) == "string" then when, what, number, percent = value:match("^%s*(%a+)%s*,%s*(%a+)%s*=%s*(%d+)(%%?)%s*$") end
  number = math.tointeger(tonumber(number))
  if (when ~= "now" and when ~= "soon") or (what ~= "fail" and what ~= "success") or not number or number == 0 or number > 1 << 30 then
    bad_option(option, name, HALT, value)
  end
  if percent == "%" then
    if number > 100 then bad_option(option, name, HALT, value) end
    return { soon = when == "soon", what = what, share = number / 100 }
  end
  return { soon = when == "soon", what = what, count = number }
end

-- false: none, where the command has one for every call.
local function log(value, option, name)
  if value ~= false and type(value) ~= "string" then bad_option(option, name, "string", value) end
  return value
end

local function array(value, option, name)
  if not core.array_length(value) then bad_option(option, name, "array made by pool.array", value) end
  return value
end

local function resume(value, option, name)
  if value ~= true and value ~= false and value ~= "failed" then bad_option(option, name, 'boolean or "failed"', value) end
  return value
end

local function flag(value, option, name)
  if type(value) ~= "boolean" then bad_option(option, name, "boolean", value) end
  return value
end

local function pin(value, option, name)
  if type(value) ~= "boolean" then bad_option(option, name, "boolean", value) end
  if value and not core.can_bind() then bad_option(option, name, "false: this system binds no process to a processor;", value) end
  return value
end

-- Processes that may run besides: a number, or a share of the processors.
local function load_of(value, option, name)
  local share = type(value) == "string" and tonumber(value:match("^(%d+%.?%d*)%%$"))
  local n = type(value) == "number" and value or share and core.cpus() * share / 100
  if not n or not (n >= 0.001 and n <= 1e9) then
    bad_option(option, name, 'positive number, or a share of the processors such as "75%",', value)
  end
  if not core.running() then bad_option(option, name, "nil: this system does not tell how many processes run;", value) end
  return n
end

--- What a pool may say for its calls, and each call anew.
local CALL = {
  chunk = chunk,
  buffer = buffer,
  timeout = seconds(0, "positive number of seconds"),
  memory = memory,
  on_crash = one_of("raise", "retry", "skip"),
  retries = whole(0, 1 << 20, "integer from 0"),
  retry_delay = seconds(0, "number of seconds, 0 or more,"),
  errors = one_of("raise", "collect"),
  progress = progress,
  priority = one_of("high", "normal", "low"),
}

--- What only a call can say.
local ONCE = {
  deadline = seconds(0, "positive number of seconds"),
  halt = halt,
  into = array,
  log = log,
  resume = resume,
  map = callback,
  combine = callback,
}

local function trace(value, option, name)
  if type(value) ~= "boolean" and type(value) ~= "string" then bad_option(option, name, "boolean or name of a file", value) end
  local problem = type(value) == "string" and part("record").open_file(value)
  if problem then error(("bad option 'trace' to '%s' (cannot write to %s: %s)"):format(name, core.item_text(value), problem), BLAME + 1) end
  return value
end

--- What only the pool can say.
local POOL = {
  workers = workers,
  grace = seconds(0, "number of seconds, 0 or more,"),
  on_start = callback,
  on_exit = callback,
  seed = seed,
  output = output,
  name = text,
  max_tasks = whole(1, 1 << 30, "integer from 1"),
  max_growth = bytes(1 << 20, "1M"),
  idle_timeout = seconds(0, "positive number of seconds"),
  load = load_of,
  memfree = bytes(1, "1"),
  nice = nice,
  pin = pin,
  nested = flag,
  trace = trace,
  start = one_of("fork", "server", "spawn", "auto"),
  helper = text,
  descriptors = one_of("keep", "close"),
}

--- Options that only some verbs understand.
local VERBS = {
  into = { map = true, map_async = true, starmap = true },
  log = { map = true, each = true, imap = true, imap_unordered = true, starmap = true },
  resume = { map = true, each = true, imap = true, imap_unordered = true, starmap = true },
  map = { reduce = true },
  combine = { reduce = true },
}

--- And those that some do not: what ends these calls is their answer, and a fold without some of its items is none.
local NOT_FOR = {
  halt = { find = true, any = true, all = true, reduce = true },
  errors = { reduce = true },
}

-- Is the option for this verb?
local function fits(option, name)
  if NOT_FOR[option] and NOT_FOR[option][name] then return false end
  return VERBS[option] == nil or VERBS[option][name] or false
end

local function known(name, ...)
  local names = {}
  for _, set in ipairs { ... } do
    for option in pairs(set) do
      if fits(option, name) then names[#names + 1] = option end
    end
  end
  table.sort(names)
  return table.concat(names, " ")
end

--- What of the library an option needs (see pool.features).
local NEEDS = { log = "journal", resume = "journal", trace = "trace", report = "trace", progress = "progress" }

--- Why this build has no such option, whatever its value but false; nil: it has it.
---@return string?
function check.lack(option, value)
  return value and NEEDS[option] and core.lacks(NEEDS[option]) or nil
end

-- Each option of the user's goes into the table that is paired with the set that knows it: (set, into), ...
local function read(options, name, sets)
  for option, value in pairs(options) do
    local reader, into
    for _, pair in ipairs(sets) do
      if pair[1][option] and fits(option, name) then reader, into = pair[1][option], pair[2] end
    end
    if not reader then
      local list = {}
      for i, pair in ipairs(sets) do list[i] = pair[1] end
      error(("unknown option '%s' to '%s' (known: %s)"):format(tostring(option), name, known(name, table.unpack(list))), BLAME)
    end
    local lack = check.lack(option, value)
    if lack then error(("bad option '%s' to '%s' (%s)"):format(option, name, lack), BLAME) end
    into[option] = reader(value, option, name)
  end
  if options.resume and not options.log and (options.log == false or not part("defaults").get().log) then
    error(("bad option 'resume' to '%s' (it says how to go on with a log: the option 'log' is missing)"):format(name), BLAME)
  end
end

--- One option from outside: its value, or nil and what was expected (nothing if there is no such option).
function check.option(option, value)
  local reader = CALL[option] or POOL[option] or ONCE[option]
  if not reader then return nil, nil end
  local ok, result = pcall(reader, value, option)
  if ok then return result end
  if type(result) ~= "table" or not result.expected then error(result, 0) end
  return nil, result.expected
end

--- The names of the options that a function knows, sorted: for help and completion.
---@param name string
---@param is_module boolean of the module: one-shot verbs take the pool's, too
---@return string[]
function check.option_names(name, is_module)
  local names, sets = {}, { CALL, ONCE }
  if name == "with" then
    sets = { CALL }
  elseif name == "new" then
    sets = { CALL, POOL }
  elseif is_module then
    sets = { CALL, POOL, ONCE }
  end
  for option in known(name, table.unpack(sets)):gmatch("%S+") do names[#names + 1] = option end
  return names
end

-- What the command's options, or the environment, say where the user did not.
local function add_defaults(pool, call)
  local defaults = part "defaults"
  for option, value in pairs(defaults.get()) do
    if option == "progress" then
      if call.progress == nil and not core.is_worker() then call.progress = value ~= "never" end
    elseif CALL[option] then
      if call[option] == nil then call[option] = value end
    elseif POOL[option] then
      if pool[option] == nil then pool[option] = value end
    end
  end
end

-- --log and --resume, for calls that can have a log.
local function add_log(call, name)
  if not fits("log", name) then return end
  local defaults = part "defaults"
  if call.log == nil then
    call.log = defaults.next_log()
    call.log_may_end = call.log ~= nil
  end
  if call.log and call.resume == nil then call.resume = defaults.get().resume end
end

-- --deadline and --halt: a pool cannot say them for its calls, and not every verb knows them.
local function add_limits(call, name)
  local given = part("defaults").get()
  if given.deadline and call.deadline == nil and fits("deadline", name) then call.deadline = given.deadline end
  if given.halt and call.halt == nil and fits("halt", name) then call.halt = halt(given.halt, "halt", name) end
end

--- A call's options as handle:run wants them: the pool's, overridden by the call's own.
---@param defaults table what check.pool_options returned for the pool's calls
function check.call_options(options, defaults, number, name)
  local given = part("defaults").get()
  if options == nil and not given.log and not given.deadline and not given.halt then return defaults end
  if options ~= nil and type(options) ~= "table" then bad_argument(number, name, "table of options", options) end
  local call = {}
  for key, value in pairs(defaults) do call[key] = value end
  call.collect = nil
  read(options or {}, name, { { CALL, call }, { ONCE, call } })
  add_log(call, name)
  add_limits(call, name)
  return check.finish_call(call)
end

--- The argument of p:with: what a pool may say for its calls, over what was said before.
---@return table call
function check.with_options(options, defaults, number, name)
  if type(options) ~= "table" then bad_argument(number, name, "table of options", options) end
  local call = {}
  for key, value in pairs(defaults) do call[key] = value end
  call.collect = nil
  read(options, name, { { CALL, call } })
  return check.finish_call(call)
end

--- Results need room: of a source whose length is known.
function check.room(call, n, name)
  if call.into and n and n > #call.into then
    error(("bad option 'into' to '%s' (array of at least %d elements expected, got %d)"):format(name, n, #call.into), BLAME - 1)
  end
end

--- Derive what follows from the user's words.
function check.finish_call(call)
  if call.errors then call.collect = call.errors == "collect" end
  call.crash_retries = 0
  if call.on_crash == "retry" then
    call.crash_retries = call.retries or 2
  elseif not call.on_crash then
    call.crash_retries = call.retries
  end
  if call.halt then
    call.halt_soon = call.halt.soon
    local is_failure = call.halt.what == "fail"
    call.halt_failed, call.halt_done = is_failure and call.halt.count or nil, not is_failure and call.halt.count or nil
    call.halt_failed_share, call.halt_done_share = is_failure and call.halt.share or nil, not is_failure and call.halt.share or nil
  end
  return call
end

--- The argument of pool.new, or (is_once) the options of a one-shot verb.
---@return table pool, table call
function check.pool_options(options, number, name, is_once)
  local pool, call = {}, {}
  if type(options) == "number" then
    options = { workers = options }
  elseif options == nil then
    options = {}
  elseif type(options) ~= "table" then
    bad_argument(number, name, "number of workers or table of options", options)
  end
  local sets = { { CALL, call }, { POOL, pool } }
  if is_once then sets[3] = { ONCE, call } end
  read(options, name, sets)
  add_defaults(pool, call)
  if is_once then
    add_log(call, name)
    add_limits(call, name)
  end
  if not pool.workers then pool.workers, pool.auto_workers = core.cpus(), true end
  pool.timeout = call.timeout
  return pool, check.finish_call(call)
end

--- Workers of a pool that does not say: the command's -j, LUAPOOL_WORKERS, the usable processors.
---@return integer
function check.default_workers()
  return part("defaults").get().workers or core.cpus()
end

check.MAX_ITEMS = MAX_ITEMS

return check
