-- The small library (make SMALL=1): how small it is, what it has not and says so, and that all else works in it. Built in a folder of its
-- own, once (make knows).
local lu = require "luaunit"
local disk = require "disk"
local proc = require "proc"

local BUILD = os.getenv("BUILD") or "build"
local SMALL = BUILD .. "/small"
local MOST_BYTES <const> = 250 * 1000 -- what luapool may add to a program (x86-64, gcc)

local function run(args, options, seconds)
  options = options or {}
  options.args, options.deadline = args, (seconds or 60) + 10
  local p <close> = proc.spawn(options)
  local status, out, err = p:finish(seconds or 60)
  return status.exit or status.signal, out, err
end

local function exists(path)
  local file = io.open(path)
  if file then file:close() end
  return file ~= nil
end

-- make SMALL=1, once. (Compiling one file of 34,000 lines takes a while on a busy machine.)
local is_built
local function build()
  if not BUILD:find("build$") then lu.skip "the small library is made from the plain build" end
  if is_built then return end
  local exit, out, err = run({ "make", "--no-print-directory", "SMALL=1", "BUILD=" .. SMALL, "all", SMALL .. "/size/engine",
    SMALL .. "/size/without" }, { env = { MAKEFLAGS = false, MAKELEVEL = false, CPPFLAGS = false } }, 280)
  lu.assertEquals({ exit, err }, { 0, "" }, out)
  is_built = true
end

-- A program with the small library inside; `word` says what it does. It starts its own workers.
local function engine(word, start)
  build()
  local p <close> = proc.spawn { args = { SMALL .. "/size/engine", word, start },
    env = { LUAPOOL_HELPER = SMALL .. "/size/engine", LUAPOOL_TRACE = false, LUAPOOL_REPORT = false } }
  local status, out, err = p:finish(60)
  lu.assertTrue(proc.wait_until(function() return #proc.leftovers(p.mark) == 0 end, 5), "processes are left")
  lu.assertEquals({ status.exit or status.signal, err }, { 0, "" }, out)
  return out
end

-- A script in the stock interpreter, with the small module.
local function script(code, env)
  build()
  if os.execute("command -v lua5.4 > /dev/null 2>&1") == nil then lu.skip "no lua5.4 here" end
  env = env or {}
  env.LUA_CPATH, env.LUA_CPATH_5_4, env.LUAPOOL_HELPER = SMALL .. "/lua/?.so", false, SMALL .. "/size/engine"
  local exit, out, err = run({ "lua5.4", "-e", "pool = require 'luapool' " .. code }, { env = env })
  lu.assertEquals({ exit, err }, { 0, "" }, out)
  return out
end

TestSmall = {}

function TestSmall.test_size()
  build()
  local _, target = run { os.getenv("CC") or "cc", "-dumpmachine" }
  local _, version = run { os.getenv("CC") or "cc", "--version" }
  if not target:find("^x86_64") or version:find("clang") then lu.skip "the limit is for gcc on x86-64" end
  local exit, out = run { "size", SMALL .. "/size/without", SMALL .. "/size/engine" }
  lu.assertEquals(exit, 0)
  local sums = {}
  for text, data in out:gmatch("\n%s*(%d+)%s+(%d+)") do sums[#sums + 1] = tonumber(text) + tonumber(data) end
  lu.assertEquals(#sums, 2, out)
  lu.assertTrue(sums[2] - sums[1] <= MOST_BYTES, ("it adds %d bytes"):format(sums[2] - sums[1]))
  lu.assertTrue(sums[2] - sums[1] > MOST_BYTES // 2, ("it adds %d bytes: is it there at all?"):format(sums[2] - sums[1]))
end

function TestSmall.test_features_from_c()
  lu.assertEquals(engine "features", [[
journal 0
trace 0
progress 0
early 0
exceptions 0
nonsense -1
-1 this build of luapool has no early start (built with SMALL=1) 1
]])
end

function TestSmall.test_features_from_lua()
  lu.assertEquals(script [[
    local names = {}
    for name, is_there in pairs(pool.features) do names[#names + 1] = name .. "=" .. tostring(is_there) end
    table.sort(names)
    print(table.concat(names, " "))
  ]], "early=false exceptions=false journal=false progress=false trace=false\n")
end

-- Each option, and what it is called in its error. Nothing was run, and no file is there.
function TestSmall.test_what_is_absent_says_so()
  local out = script [[
    local absent = "small-test.json"
    local p <close> = pool.new { workers = 1, start = "fork" }
    local function try(fn, ...)
      local ok, err = pcall(fn, ...)
      print(ok, (tostring(err):gsub("^[^:]*:%d+: ", "")))
    end
    local function item(x) return x end
    try(p.map, p, item, 3, { log = "small-test.jsonl" })
    try(p.imap, p, item, 3, { log = "small-test.jsonl", resume = true })
    try(p.map, p, item, 3, { progress = true })
    try(p.map, p, item, 3, { progress = function() end })
    try(pool.new, { trace = absent })
    try(pool.new, { trace = true })
    try(p.report, p)
    try(p.map, p, item, 3, { log = false, resume = false, progress = false })
    print(io.open("small-test.jsonl"), io.open(absent))
    print(select(2, pcall(function() p:map(item, 3, { log = "x" }) end)))
  ]]
  -- (imap has two such options, in any order; what stands before the messages says where)
  out = out:gsub("'%l+' to 'imap'", "'log' to 'imap'"):gsub("table: %S+", "table"):gsub("nil\t[^\n]*", "nil")
  out = out:gsub("%(built with SMALL=1%)", "WHY")
  lu.assertEquals(out, [[
false	bad option 'log' to 'map' (this build of luapool has no journal WHY)
false	bad option 'log' to 'imap' (this build of luapool has no journal WHY)
false	bad option 'progress' to 'map' (this build of luapool has no progress WHY)
false	bad option 'progress' to 'map' (this build of luapool has no progress WHY)
false	bad option 'trace' to 'new' (this build of luapool has no traces and reports WHY)
false	bad option 'trace' to 'new' (this build of luapool has no traces and reports WHY)
false	cannot use 'report': this build of luapool has no traces and reports WHY
true	table
nil
(command line):17: bad option 'log' to 'map' (this build of luapool has no journal WHY)
]])
end

function TestSmall.test_the_environment_may_ask_in_vain()
  for variable, words in pairs { LOG = "journal", TRACE = "traces and reports", REPORT = "traces and reports", PROGRESS = "progress" } do
    local out = script("print(pcall(pool.map, tostring, 3))", { ["LUAPOOL_" .. variable] = variable == "PROGRESS" and "always" or "x" })
    lu.assertStrMatches(out, ("false\tthe environment variable LUAPOOL_%s is \"%%l+\": this build of luapool has no %s %%(.*\n")
      :format(variable, words))
  end
  lu.assertEquals(script("print(#pool.map(tostring, 3))", { LUAPOOL_PROGRESS = "never" }), "3\n")
end

-- ---- what is there ----

for _, start in ipairs { "fork", "server", "spawn" } do
  TestSmall["test_a_program_" .. start] = function()
    lu.assertEquals(engine("run", start), "0.1.0 1 0\n338350\n1 task 2 2\n0 3\n1 a pool has no method 'nonsense'\n55\n0\n")
    lu.assertEquals(engine("interrupt", start), "1 interrupted!\n1 interrupted!\n55\n0\n")
    lu.assertStrMatches(engine("jobs", start),
      "^1 0\n0 0\n7 yes\n1\n%[string \"error 'failed'\"%]:1: failed\n.*\n2000 1000\n0 1\ncancelled 0\n0\n$")
    if start ~= "fork" then lu.assertEquals(engine("own", start), "3.5\n") end -- it furnishes clean workers
  end
end

function TestSmall.test_states_in_threads() lu.assertEquals(engine "states", ("101500\n"):rep(4)) end

-- A deadly task, one that takes too much memory, one that fails; each costs its item alone. And one that takes too long.
function TestSmall.test_limits_and_deaths()
  lu.assertEquals(script [[
    local p <close> = pool.new { workers = 2, memory = "32M", grace = 0.2 }
    local results, n, errors = p:map(function(x)
      if x == 3 then os.exit(7) end
      if x == 7 then local t = {} while true do t[#t + 1] = ("x"):rep(1 << 16) .. #t end end
      if x == 9 then error("nine", 0) end
      return x * x
    end, 10, { errors = "collect" })
    local kinds = {}
    for i = 1, n do kinds[i] = errors[i] and errors[i].kind or results[i] end
    print(table.concat(kinds, " "))
    local ok, err = pcall(p.map, p, function() while true do end end, 1, { timeout = 0.2 })
    print(ok, err.kind)
  ]], "1 4 crash 16 25 36 memory 64 error 100\nfalse\ttimeout\n")
end

function TestSmall.test_streams_futures_and_shared_things()
  lu.assertEquals(script [[
    local p <close> = pool.new { workers = 2 }
    local sum = 0
    for i, v in p:imap(function(x) return { x, tostring(x) } end, pool.range(2000)) do sum = sum + v[1] + #v[2] + i end
    print(sum)
    local futures = {}
    for i = 1, 50 do futures[i] = p:submit(function(x) return x, "of " .. x end, i) end
    for i, f in ipairs(futures) do
      local a, b = f:get(30)
      assert(a == i and b == "of " .. i)
    end
    local a, c, l = pool.array("f64", 1000), pool.counter(5), pool.lock()
    p:each(function(i)
      a[i] = i / 2
      local guard <close> = l:acquire(30)
      c:add(i)
    end, #a)
    print(a[1000], c:get())
    local ch = pool.channel()
    p:map_async(function(i) ch:send({ i, { i } }) end, 10)
    local got = 0
    for _ = 1, 10 do
      local ok, v = ch:receive(30)
      got = got + (ok and v[2][1] or 0)
    end
    print(got)
    print(p:reduce(function(x, y) return x + y end, 1000, 0), (p:find(function(x) return x > 77 end, 100)))
    local f, open = p:submit(function() return 1 end), 1
    while open > 0 do open = p:step(0.1) end
    print(f:status(), p:stats().crashes)
  ]], "4008893\n500.0\t500505\n55\n500500\t78\ndone\t0\n")
end

-- What tasks print comes whole; a handful of the examples, as they are.
function TestSmall.test_scripts()
  lu.assertEquals(script [[
    local p <close> = pool.new { workers = 2, output = "order" }
    p:each(function(x) print("line", x) end, 3)
  ]], "line\t1\nline\t2\nline\t3\n")
  lu.assertEquals(script 'arg = { [0] = "scripts/squares.lua" } dofile "scripts/squares.lua"', "1000000\t1000000000000\n")
end

-- ---- which features a build has ----

-- What the table of features reaches with these settings: an object's undefined names.
local function reaches(flags)
  local object = os.tmpname()
  local _ <close> = setmetatable({}, { __close = function() os.remove(object) end })
  local _, cflags = run { "sh", "-c", "pkg-config --cflags lua5.4 2>/dev/null" }
  local command = "%s -std=c11 -O1 -fexceptions -Wall -Wextra -Werror -D_GNU_SOURCE -Iruntime %s %s -c -o %s runtime/binding/features.c"
  local exit, out, err = run { "sh", "-c", command:format(os.getenv("CC") or "cc", cflags:gsub("\n", " "), flags, object) }
  lu.assertEquals(exit, 0, out .. err)
  local names = {}
  for name in select(2, run { "nm", "-u", object }):gmatch("U ([^%s@]+)") do names[name] = true end
  return names
end

function TestSmall.test_settings()
  local ALL <const> = { journal = "ljournal_open", trace = "ltrace_open", early = "learly_open", progress = "embedded_progress" }
  local function is_exactly(flags, wanted)
    local names = reaches(flags)
    for feature, name in pairs(ALL) do lu.assertEquals(names[name] or false, wanted[feature] or false, flags .. ": " .. feature) end
    lu.assertEquals(names.embedded_json or false, wanted.journal or wanted.trace or false, flags .. ": json")
  end
  is_exactly("", { journal = true, trace = true, early = true, progress = true })
  is_exactly("-DLUAPOOL_SMALL", {})
  is_exactly("-DLUAPOOL_SMALL -DLUAPOOL_HAS_JOURNAL=1", { journal = true })
  is_exactly("-DLUAPOOL_SMALL -DLUAPOOL_HAS_TRACE=1 -DLUAPOOL_HAS_EARLY=1", { trace = true, early = true })
  is_exactly("-DLUAPOOL_HAS_PROGRESS=0", { journal = true, trace = true, early = true })
end

-- Every Lua file that says that it belongs to a feature is in a set of the table, and asks for no such file of another without looking.
function TestSmall.test_every_feature_of_a_file_is_in_the_table()
  local in_table, text = {}, disk.read "runtime/binding/features.c"
  for name in text:gmatch("&embedded_(%l+)") do in_table[name] = true end
  local n, pipe = 0, assert(io.popen "ls lua/luapool/*.lua")
  for path in pipe:lines() do
    local feature = disk.read(path):match("^[^\n]*Feature: (%l+)%.") or disk.read(path):match("^%-%-[^\n]*\n%-%-[^\n]*Feature: (%l+)%.")
    if feature then
      n = n + 1
      lu.assertTrue(in_table[feature], path .. " belongs to " .. feature)
    end
  end
  pipe:close()
  lu.assertEquals(n, 8)
end

-- The whole library has everything.
function TestSmall.test_the_usual_build_has_all()
  local exit, out = run { os.getenv("LUAPOOL") or BUILD .. "/luapool", "-e", [[
    for name, is_there in pairs(pool.features) do print(name, is_there) end
  ]] }
  lu.assertEquals(exit, 0)
  local n = 0
  for name, value in out:gmatch("(%l+)\t(%l+)") do
    n = n + 1
    lu.assertEquals(value, "true", name)
  end
  lu.assertEquals(n, 5, out)
  lu.assertTrue(exists(BUILD .. "/luapool"))
end
