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
    return "table", src, nil, #src
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

-- ---- options ----

local function bad_option(option, name, expected, value)
  error(("bad option '%s' to '%s' (%s expected, got %s)"):format(option, name, expected, describe(value)), BLAME + 2)
end

local function whole(low, high, text)
  return function(value, option, name)
    local n = type(value) == "number" and math.tointeger(value)
    if not n or n < low or n > high then bad_option(option, name, text, value) end
    return n
  end
end

local function seconds(low, text)
  return function(value, option, name)
    if type(value) ~= "number" or value ~= value or value < low or (low == 0 and text:find("positive") and value == 0) then
      bad_option(option, name, text, value)
    end
    return math.min(value, 1e9) + 0.0
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

local UNITS = { [""] = 1, K = 1 << 10, M = 1 << 20, G = 1 << 30, T = 1 << 40 }

local function memory(value, option, name)
  local text = 'bytes, or a string such as "512M", at least 64K,'
  local n = type(value) == "number" and math.tointeger(value)
  if type(value) == "string" then
    local digits, unit = value:match("^(%d+%.?%d*)%s*([KMGT]?)i?B?$")
    n = digits and math.floor(tonumber(digits) * UNITS[unit])
  end
  if not n or n < 64 * 1024 or n > 1 << 46 then bad_option(option, name, text, value) end
  return n
end

local function workers(value, option, name)
  if value == "auto" then return check.default_workers() end
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

--- What each call may say anew.
local CALL = {
  chunk = chunk,
  timeout = seconds(0, "positive number of seconds"),
  memory = memory,
  on_crash = one_of("raise", "retry", "skip"),
  retries = whole(0, 1 << 20, "integer from 0"),
  errors = one_of("raise", "collect"),
}

--- What only the pool can say.
local POOL = {
  workers = workers,
  grace = seconds(0, "number of seconds, 0 or more,"),
  on_start = callback,
  on_exit = callback,
  seed = seed,
  output = one_of("line", "tag", "discard"),
  name = text,
}

local function known(...)
  local names = {}
  for _, set in ipairs { ... } do
    for name in pairs(set) do names[#names + 1] = name end
  end
  table.sort(names)
  return table.concat(names, " ")
end

local function read(options, name, into_call, into_pool)
  for option, value in pairs(options) do
    local reader = CALL[option]
    local into = into_call
    if not reader and into_pool then reader, into = POOL[option], into_pool end
    if not reader then
      error(("unknown option '%s' to '%s' (known: %s)"):format(tostring(option), name, known(CALL, into_pool and POOL or {})), BLAME)
    end
    into[option] = reader(value, option, name)
  end
end

--- A call's options as handle:run wants them: the pool's, overridden by the call's own.
---@param defaults table what check.pool_options returned for the pool's calls
function check.call_options(options, defaults, number, name)
  if options == nil then return defaults end
  if type(options) ~= "table" then bad_argument(number, name, "table of options", options) end
  local call = {}
  for key, value in pairs(defaults) do call[key] = value end
  call.collect = nil
  read(options, name, call)
  return check.finish_call(call)
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
  return call
end

--- The argument of pool.new, or the options of a one-shot verb.
---@return table pool, table call
function check.pool_options(options, number, name)
  local pool, call = {}, {}
  if type(options) == "number" then
    options = { workers = options }
  elseif options == nil then
    options = {}
  elseif type(options) ~= "table" then
    bad_argument(number, name, "number of workers or table of options", options)
  end
  read(options, name, call, pool)
  pool.workers = pool.workers or check.default_workers()
  pool.timeout = call.timeout
  return pool, check.finish_call(call)
end

--- Workers of a pool that does not say: the command's -j, LUAPOOL_WORKERS, the usable processors.
---@return integer
function check.default_workers()
  local n = core.default_workers()
  if n then return n end
  local env = os and os.getenv and os.getenv("LUAPOOL_WORKERS")
  if env and env ~= "" and env ~= "auto" then
    n = math.tointeger(tonumber(env))
    if not n or n < 0 or n > MAX_WORKERS then
      local text_of = 'the environment variable LUAPOOL_WORKERS is %s (integer from 0 to %d or "auto" expected)'
      error(text_of:format(core.item_text(env), MAX_WORKERS), 0)
    end
    return n
  end
  return core.cpus()
end

check.MAX_ITEMS = MAX_ITEMS

return check
