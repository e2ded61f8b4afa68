-- What is refused, in which words, and at whose line: arguments of pool.new, pool.map, p:map, p:apply, p:close, pool.range, pool.register.
local lu = require "luaunit"
local proc = require "proc"
local ways = require "ways"

local LUAPOOL = os.getenv("LUAPOOL") or "build/luapool"

local CHUNK, TIMEOUT = 'integer from 1 or "auto"', "positive number of seconds"
local MEMORY = 'bytes, or a string such as "512M", at least 64K,'
local NICE = 'integer from 0 to 19 or "idle"'
local GROWTH = (MEMORY:gsub("64K", "1M"))
local MEMFREE = 'bytes, or a string such as "512M", at least 1,'
local LOAD = 'positive number, or a share of the processors such as "75%",'
local ALWAYS_KNOWN = { "chunk", "memory", "on_crash", "retries", "timeout" }

local refused = ways.refused

local function refuse_all(cases)
  for _, case in ipairs(cases) do refused(case[1], case[2]) end
end

TestArguments = {}

function TestArguments.test_function_of_map()
  refuse_all {
    { "p:map(nil, 3)", "bad argument #1 to 'map' (function expected, got nil)" },
    { "p:map()", "bad argument #1 to 'map' (function expected, got nil)" },
    { "p:map(3, print)", "bad argument #1 to 'map' (function expected, got 3)" },
    { "p:map('print', 3)", "bad argument #1 to 'map' (function expected, got \"print\")" },
    { "p:map({}, 3)", "bad argument #1 to 'map' (function expected, got table)" },
    { "pool.map(nil, 3)", "bad argument #1 to 'map' (function expected, got nil)" },
    { "pool.map(true, 3)", "bad argument #1 to 'map' (function expected, got true)" },
    { "p:apply()", "bad argument #1 to 'apply' (function expected, got nil)" },
    { "p:apply(7, 1)", "bad argument #1 to 'apply' (function expected, got 7)" },
  }
end

function TestArguments.test_source_of_map()
  for _, verb in ipairs { "p:map", "pool.map" } do
    refuse_all {
      { verb .. "(print)", "bad argument #2 to 'map' (number, range, table or iterator function expected, got nil)" },
      { verb .. "(print, 'abc')", "bad argument #2 to 'map' (number, range, table or iterator function expected, got \"abc\")" },
      { verb .. "(print, true)", "bad argument #2 to 'map' (number, range, table or iterator function expected, got true)" },
      { verb .. "(print, io.stdout)", "bad argument #2 to 'map' (number, range, table or iterator function expected, got userdata)" },
      { verb .. "(print, -1)", "bad argument #2 to 'map' (a whole number of items expected, got -1)" },
      { verb .. "(print, 1.5)", "bad argument #2 to 'map' (a whole number of items expected, got 1.5)" },
      { verb .. "(print, 0/0)", "bad argument #2 to 'map' (a whole number of items expected, got " .. tostring(0 / 0) .. ")" },
      { verb .. "(print, math.huge)", "bad argument #2 to 'map' (a whole number of items expected, got inf)" },
      { verb .. "(print, 1 << 50)", "bad argument #2 to 'map' (a whole number of items expected, got 1125899906842624)" },
    }
  end
end

-- __len may say anything, also what would never end.
function TestArguments.test_tables_with_a_length_of_their_own()
  for _, length in ipairs { "'x'", "-3", "2.5", "1 << 60", "{}" } do
    local shown = length == "1 << 60" and tostring(1 << 60) or length == "{}" and "table" or length:gsub("'", '"')
    refused(("p:map(print, setmetatable({}, { __len = function() return %s end }))"):format(length),
      ("bad argument #2 to 'map' (a table whose length is a number of items expected, got %s)"):format(shown))
  end
  local proxy = setmetatable({}, { __len = function() return 2.0 end, __index = function(_, i) return i * 10 end })
  for _, workers in ipairs { 0, 2 } do
    lu.assertEquals(pool.map(function(x) return x + 1 end, proxy, { workers = workers }), { 11, 21 })
  end
end

function TestArguments.test_a_pool_called_with_a_dot()
  refuse_all {
    { "p.map(print, 3)", "bad argument #1 to 'map' (pool expected, got function; write p:map(...))" },
    { "p.apply(print, 3)", "bad argument #1 to 'apply' (pool expected, got function; write p:apply(...))" },
    { "p.close()", "bad argument #1 to 'close' (pool expected, got nil; write p:close(...))" },
    { "p.terminate({})", "bad argument #1 to 'terminate' (pool expected, got table; write p:terminate(...))" },
    { "p.stats(7)", "bad argument #1 to 'stats' (pool expected, got number; write p:stats(...))" },
  }
end

function TestArguments.test_numbers_of_workers()
  local expected = "bad option 'workers' to '%s' (integer from 0 to 4096 or \"auto\" expected, got %s)"
  for _, given in ipairs { "0.5", "-1", "1e9", "4097", "'four'", "true", "{}", "0/0", "math.mininteger" } do
    local value = load("return " .. given)()
    local text = type(value) == "string" and '"four"' or type(value) == "table" and "table" or tostring(value)
    refused("pool.new { workers = " .. given .. " }", expected:format("new", text))
    refused("pool.map(print, 3, { workers = " .. given .. " })", expected:format("map", text))
    if type(value) == "number" then refused("pool.new(" .. given .. ")", expected:format("new", text)) end
  end
  refused("pool.new('4')", "bad argument #1 to 'new' (number of workers or table of options expected, got \"4\")")
  refused("pool.map(print, 3, true)", "bad argument #3 to 'map' (number of workers or table of options expected, got true)")
  refused("p:map(print, 3, 4)", "bad argument #3 to 'map' (table of options expected, got 4)")
end

-- The list of known options is sorted, and has what the verb understands and nothing else.
function TestArguments.test_unknown_options_list_the_known_ones()
  local cases = {
    { "pool.new { wrokers = 2 }", "wrokers", "new", { "workers", "seed", "on_start", "errors" }, { "deadline", "map", "into" } },
    { "pool.map(print, 3, { chunks = 2 })", "chunks", "map", { "workers", "seed", "deadline", "into", "log", "errors" }, { "combine" } },
    { "p:map(print, 3, { workers = 2 })", "workers", "map", { "deadline", "halt", "errors" }, { "workers", "seed", "on_start" } },
    { "p:map(print, 3, { seed = 2 })", "seed", "map", {}, { "seed" } },
    { "p:reduce(print, 3, 0, { into = 2 })", "into", "reduce", { "map", "combine", "deadline" }, { "into", "log", "errors", "halt" } },
    { "p:find(print, 3, { halt = 'now,fail=1' })", "halt", "find", { "errors" }, { "halt", "into", "log", "map" } },
    { "p:all(print, 3, { halt = 'now,fail=1' })", "halt", "all", { "errors" }, { "halt" } },
    { "pool.new { 4 }", "1", "new", { "workers" }, {} },
  }
  for _, case in ipairs(cases) do
    local chunk = assert(load("local p = ...\n" .. case[1] .. "\nreturn 'not refused'", "=call"))
    local p <close> = pool.new(1)
    local _, message = pcall(chunk, p)
    local names = message:match("^call:2: unknown option '" .. case[2] .. "' to '" .. case[3] .. "' %(known: ([%w_ ]+)%)$")
    lu.assertNotNil(names, message)
    local list, is_known = {}, {}
    for name in names:gmatch("%S+") do
      list[#list + 1] = name
      is_known[name] = true
    end
    local sorted = table.move(list, 1, #list, 1, {})
    table.sort(sorted)
    lu.assertEquals(list, sorted)
    for _, name in ipairs(ALWAYS_KNOWN) do lu.assertTrue(is_known[name], name) end
    for _, name in ipairs(case[4]) do lu.assertTrue(is_known[name], name) end
    for _, name in ipairs(case[5]) do lu.assertNil(is_known[name], name) end
  end
end

function TestArguments.test_values_of_options()
  local cases = {
    { "chunk", "0", CHUNK }, { "chunk", "1.5", CHUNK }, { "chunk", "'big'", CHUNK },
    { "timeout", "0", TIMEOUT }, { "timeout", "-1", TIMEOUT }, { "timeout", "'1'", TIMEOUT }, { "timeout", "0/0", TIMEOUT },
    { "memory", "10", MEMORY }, { "memory", "'1X'", MEMORY }, { "memory", "'M'", MEMORY }, { "memory", "{}", MEMORY },
    { "on_crash", "'ignore'", '"raise" or "retry" or "skip"' }, { "on_crash", "true", '"raise" or "retry" or "skip"' },
    { "retries", "-1", "integer from 0" }, { "retries", "0.5", "integer from 0" }, { "retries", "'2'", "integer from 0" },
    { "errors", "'gather'", '"raise" or "collect"' },
  }
  local pool_only = {
    { "grace", "-1", "number of seconds, 0 or more," }, { "grace", "'1'", "number of seconds, 0 or more," },
    { "on_start", "1", "function" }, { "on_exit", "{}", "function" }, { "seed", "1.5", "integer" }, { "seed", "'x'", "integer" },
    { "name", "1", "string" }, { "max_growth", "'1K'", GROWTH }, { "max_growth", "-1", GROWTH },
    { "load", "0", LOAD }, { "load", "'75'", LOAD }, { "load", "0/0", LOAD }, { "memfree", "0", MEMFREE }, { "memfree", "true", MEMFREE },
    { "idle_timeout", "0", TIMEOUT }, { "idle_timeout", "'soon'", TIMEOUT }, { "nice", "20", NICE },
    { "nice", "-1", NICE }, { "nice", "true", NICE }, { "nice", "'busy'", NICE }, { "pin", "1", "boolean" },
  }
  local function check(case, call, name)
    local value = load("return " .. case[2])()
    local text = type(value) == "string" and '"' .. value .. '"' or type(value) == "table" and "table" or tostring(value)
    refused(call:format(case[1], case[2]), ("bad option '%s' to '%s' (%s expected, got %s)"):format(case[1], name, case[3], text))
  end
  for _, case in ipairs(cases) do
    check(case, "p:map(print, 3, { %s = %s })", "map")
    check(case, "pool.map(print, 3, { %s = %s })", "map")
    check(case, "pool.new { %s = %s }", "new")
  end
  for _, case in ipairs(pool_only) do
    check(case, "pool.new { %s = %s }", "new")
    check(case, "pool.map(print, 3, { %s = %s })", "map")
  end
end

function TestArguments.test_range()
  refuse_all {
    { "pool.range()", "bad argument #1 to 'range' (number expected, got nil)" },
    { "pool.range('3')", "bad argument #1 to 'range' (number expected, got string)" },
    { "pool.range(1, {})", "bad argument #2 to 'range' (number expected, got table)" },
    { "pool.range(1, 2, 'x')", "bad argument #3 to 'range' (number expected, got string)" },
    { "pool.range(1, 2, 0)", "bad argument #3 to 'range' (step must not be 0)" },
    { "pool.range(1, 2, 0.0)", "bad argument #3 to 'range' (step must not be 0)" },
    { "pool.range(math.mininteger, math.maxinteger)", "bad argument #2 to 'range' (too many items: 2^48 - 1 at most)" },
    { "pool.range(1, math.huge, 0.5)", "bad argument #2 to 'range' (too many items: 2^48 - 1 at most)" },
  }
end

function TestArguments.test_close_and_terminate()
  for _, method in ipairs { "close", "terminate" } do
    for given, text in pairs { ["'x'"] = '"x"', ["-1"] = "-1", ["{}"] = "table", ["0/0"] = tostring(0 / 0) } do
      refused(("p:%s(%s)"):format(method, given),
        ("bad argument #1 to '%s' (number of seconds, 0 or more, expected, got %s)"):format(method, text))
    end
  end
end

function TestArguments.test_register()
  refuse_all {
    { "pool.register()", "bad argument #1 to 'register' (string expected, got nil)" },
    { "pool.register('Name')", "bad argument #2 to 'register' (table expected, got nil)" },
    { "pool.register('Name', {}, 3)", "bad argument #3 to 'register' (table expected, got number)" },
    { "pool.register('Name', {}, { save = print })", "bad argument #3 to 'register' (save and load come together)" },
  }
end

function TestArguments.test_shield()
  refused("pool.shield(3)", "bad argument #1 to 'shield' (function expected, got 3)")
end

-- An argument that is refused costs nothing: no worker was started for it, and the pool works.
function TestArguments.test_the_pool_works_after_refusals()
  local p <close> = pool.new(2)
  for _ = 1, 3 do pcall(p.map, p, nil, 3) end
  pcall(p.map, p, print, 3, { unknown = true })
  lu.assertEquals(p:stats().forks, 0)
  lu.assertEquals(p:map(function(x) return x + 1 end, 3), { 2, 3, 4 })
end

TestUseAfter = {}

function TestUseAfter.test_use_after_close_blames_the_caller()
  local chunk = assert(load("local p = ...\np:close()\np:map(print, 3)", "=call"))
  local _, message = pcall(chunk, pool.new(1))
  lu.assertEquals(message, "call:3: cannot use 'map': the pool is closed")
  chunk = assert(load("local p = ...\np:terminate()\np:apply(print, 3)", "=call"))
  _, message = pcall(chunk, pool.new(1))
  lu.assertEquals(message, "call:3: cannot use 'apply': the pool is closed")
end

-- A pool cannot be closed by what it waits for.
function TestUseAfter.test_close_inside_a_call_blames_the_caller()
  local chunk = assert(load("local p = ...\nlocal r = p:close()\nreturn r", "=call"))
  local p <close> = pool.new(1)
  local message
  local results = p:map(function(x) return x end, function()
    if not message then
      message = select(2, pcall(chunk, p))
      return 1
    end
  end)
  lu.assertEquals(message, "call:2: cannot use 'close': the pool is busy with another call")
  lu.assertEquals(results, { 1 })
end

TestWorkersByDefault = {}

local function workers(arguments, environment)
  local words = { LUAPOOL }
  table.move(arguments, 1, #arguments, #words + 1, words)
  words[#words + 1] = "-e"
  words[#words + 1] = "print(pcall(function() local p <close> = pool.new() return tostring(p):match('%d+ workers'), pool.cpus() end))"
  local p <close> = proc.spawn { args = words, env = { LUAPOOL_WORKERS = environment or false } }
  local status, out, err = p:finish(20)
  lu.assertEquals(status.exit, 0, err)
  return (out:gsub("\n$", ""))
end

function TestWorkersByDefault.test_precedence()
  local cpus = pool.cpus()
  lu.assertEquals(math.type(cpus), "integer")
  lu.assertTrue(cpus >= 1)
  lu.assertEquals(workers {}, ("true\t%d workers\t%d"):format(cpus, cpus))
  lu.assertEquals(workers({}, "7"), ("true\t7 workers\t%d"):format(cpus))
  lu.assertEquals(workers({}, "auto"), ("true\t%d workers\t%d"):format(cpus, cpus))
  lu.assertEquals(workers({}, ""), ("true\t%d workers\t%d"):format(cpus, cpus))
  lu.assertEquals(workers({ "-j", "3" }, "7"), ("true\t3 workers\t%d"):format(cpus))
  lu.assertEquals(workers({ "-j3" }, "nonsense"), ("true\t3 workers\t%d"):format(cpus))
end

function TestWorkersByDefault.test_cpus_follow_the_affinity()
  if not os.execute("command -v taskset > /dev/null") then lu.skip("no taskset here") end
  local p <close> = proc.spawn { args = { "taskset", "-c", "0", LUAPOOL, "-e", "print(pool.cpus())" } }
  local status, out = p:finish(20)
  if status.exit ~= 0 then lu.skip("processor 0 is not for us") end
  lu.assertEquals(out, "1\n")
end

function TestWorkersByDefault.test_nonsense_in_the_environment()
  for _, value in ipairs { "x", "-1", "0.5", "1e9" } do
    local message = ("the environment variable LUAPOOL_WORKERS is %q (integer from 0 to 4096 or \"auto\" expected)"):format(value)
    local p <close> = proc.spawn { args = { LUAPOOL, "-e", "print(1)" }, env = { LUAPOOL_WORKERS = value } }
    local status, out, err = p:finish(20)
    lu.assertEquals({ status.exit, out, err }, { 2, "", LUAPOOL .. ": " .. message .. "\n" })
  end
end

-- Where the command does not look, the pool does.
function TestWorkersByDefault.test_nonsense_in_the_environment_of_another_interpreter()
  if not os.execute("command -v lua5.4 > /dev/null") then lu.skip("no lua5.4 here") end
  local code = "local pool = require 'luapool' print(pcall(pool.new)) print(pcall(pool.defaults))"
  local p <close> = proc.spawn { args = { "lua5.4", "-e", code }, env = { LUAPOOL_WORKERS = "x" } }
  local message = 'false\tthe environment variable LUAPOOL_WORKERS is "x" (integer from 0 to 4096 or "auto" expected)\n'
  lu.assertEquals(select(2, p:finish(20)), message:rep(2))
end
