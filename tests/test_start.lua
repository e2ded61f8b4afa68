-- Start methods: what is promised of workers that are no copies of the program, of the helper that starts them, and of the choice.
local lu = require "luaunit"
local proc = require "proc"
local post = require "post"
local ways = require "ways"

local BUILD = os.getenv "BUILD"

local function fails(fn, ...)
  local ok, e = pcall(fn, ...)
  lu.assertFalse(ok)
  return e
end

-- Each test of a group, for each of the methods that start clean workers.
local function for_clean(group, name, test)
  for _, start in ipairs { "server", "spawn" } do
    group[("test_%s_%s"):format(name, start)] = function() test(start) end
  end
end

local function helpers(pid)
  local found = {}
  for _, child in ipairs(proc.children(pid)) do found[#found + 1] = child.pid end
  return found
end

-- ---- what forked workers hold open ----

TestDescriptors = {}

-- A copy of the program has its files; what a script opened before is there for its tasks.
function TestDescriptors.test_files_are_kept_by_default()
  local name = os.tmpname()
  local file <close> = assert(io.open(name, "w+"))
  pool.each(function(i)
    file:write("item ", i, "\n")
    file:flush()
  end, 3, { workers = 1, start = "fork" })
  file:seek "set"
  lu.assertEquals(file:read "a", "item 1\nitem 2\nitem 3\n")
  os.remove(name)
end

function TestDescriptors.test_closed()
  local p <close> = pool.new { workers = 1, start = "fork", descriptors = "close" }
  local name, other = os.tmpname(), os.tmpname()
  local file <close> = assert(io.open(name, "w"))
  local pipe = assert(io.popen("cat >" .. other, "w"))
  local shared, channel = pool.array("i64", 3), pool.channel()
  pipe:write "through the pipe"
  local results = p:map(function(i)
    shared[i] = i * i -- shared memory is no file of the script's
    channel:send(i)
    local own = assert(io.open("/dev/null", "w")) -- gets no number that the script's files have
    file:write "from a task"
    local ok, message = file:flush()
    own:close()
    return { ok, message }
  end, 3)
  for i = 1, 3 do lu.assertEquals({ results[i][1], results[i][2], shared[i] }, { nil, "Bad file descriptor", i * i }) end
  lu.assertEquals(channel:receive(10), true)
  lu.assertEquals({ pipe:close() }, { true, "exit", 0 }) -- the worker lives, and does not hold it
  lu.assertEquals(p:workers()[1].pid ~= nil, true)
  for _, text in ipairs(proc.fds(p:workers()[1].pid)) do lu.assertNotStrContains(text, name) end
  local back <close> = assert(io.open(other))
  lu.assertEquals(back:read "a", "through the pipe")
  os.remove(name)
  os.remove(other)
end

function TestDescriptors.test_many_are_closed()
  local files = {}
  for i = 1, 200 do files[i] = assert(io.open("/dev/zero")) end
  local p <close> = pool.new { workers = 2, start = "fork", descriptors = "close" }
  lu.assertEquals(p:map(function(i) return i end, 50), pool.map(function(i) return i end, 50))
  -- (One of the two may only be about to begin, when the other has done all of it.)
  local function are_closed()
    for _, w in ipairs(p:workers()) do
      if table.concat(proc.fds(w.pid), " "):find "/dev/zero" then return false end
    end
    return #p:workers() == 2
  end
  lu.assertTrue(proc.wait_until(are_closed, 10))
  for _, file in ipairs(files) do file:close() end
end

function TestDescriptors.test_wrong_words()
  lu.assertStrContains(fails(pool.new, { descriptors = "some" }),
    [[bad option 'descriptors' to 'new' ("keep" or "close" expected, got "some")]])
end

-- ---- the choice ----

TestChoice = {}

function TestChoice.test_stats_say_how()
  for _, start in ipairs { "fork", "server", "spawn" } do
    local p <close> = pool.new { workers = 1, start = start }
    lu.assertEquals(p:map(math.abs, 3), { 1, 2, 3 })
    lu.assertEquals(p:stats().start, start)
  end
  local p <close> = pool.new { workers = 1, start = "auto" }
  lu.assertEquals(p:stats().start, "fork") -- in the command
end

function TestChoice.test_wrong_words()
  lu.assertStrContains(fails(pool.new, { start = "thread" }),
    [[bad option 'start' to 'new' ("fork" or "server" or "spawn" or "auto" expected, got "thread")]])
  lu.assertStrContains(fails(pool.map, tostring, 3, { start = 1 }), "bad option 'start' to 'map'")
  lu.assertStrContains(fails(pool.new, { helper = false }), "bad option 'helper' to 'new' (string expected, got false)")
end

function TestChoice.test_environment()
  local function started(value)
    local p <close> = proc.spawn { args = { post.LUAPOOL, "-e", "local p <close> = pool.new(1) io.write(p:stats().start)" },
      env = { LUAPOOL_START = value } }
    local status, out, err = p:finish(30)
    return status.exit, out, err
  end
  for _, start in ipairs { "fork", "server", "spawn" } do lu.assertEquals({ started(start) }, { 0, start, "" }) end
  lu.assertEquals({ started "auto" }, { 0, "fork", "" })
  local exit, _, err = started "thread"
  lu.assertEquals(exit, 2)
  lu.assertStrContains(err, [[the environment variable LUAPOOL_START is "thread" ("fork" or "server" or "spawn" or "auto" expected)]])
end

-- ---- what reaches a clean worker ----

TestClean = {}

for_clean(TestClean, "nothing_is_inherited", function(start)
  secret = "inherited" -- luacheck: ignore
  local p <close> = pool.new { workers = 2, start = start }
  local seen = p:map(function() return rawget(_G, ("secr" .. "et")) or "nothing" end, 2)
  secret = nil -- luacheck: ignore
  lu.assertEquals(seen, { "nothing", "nothing" })
end)

-- What the helper has done for all of them is in each, whatever a task before it did to its own: signals, standard input, os.exit.
for_clean(TestClean, "each_is_born_the_same", function(start)
  local function look()
    local status = io.open("/proc/self/status"):read("a")
    return status:match("SigCgt:%s*(%x+)") .. " " .. status:match("SigIgn:%s*(%x+)") .. " " .. status:match("SigBlk:%s*(%x+)"), io.read("a")
  end
  local p <close> = pool.new { workers = 3, start = start, output = "discard", on_crash = "skip", max_tasks = 2 }
  local function broadcast()
    local all = p:broadcast(function() return { look() } end)
    for id = 1, 3 do lu.assertEquals(all[id], all[1], id) end
    return all[1]
  end
  local first = broadcast()
  lu.assertEquals(first[2], "")
  -- HUP, INT, TERM, CONT and IO, and nothing else but perhaps those of a crash: ILL, ABRT, BUS, FPE, SEGV
  local crash <const> = 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 10
  if start == "server" then lu.assertEquals(tonumber(first[1]:match("%x+"), 16) & ~crash, 1 << 0 | 1 << 1 | 1 << 14 | 1 << 17 | 1 << 28) end
  p:each(function(i) if i % 3 == 0 then os.exit(3) end io.stdin:close() end, 12) -- (each of them is replaced)
  lu.assertEquals(broadcast(), first)
end)

-- Orders are written ahead, so many at a time: more of them than that, and those whose helper is killed amid them.
function TestClean.test_many_at_once()
  local p <close> = pool.new { workers = 40, start = "server" }
  local ids, pids = {}, {}
  for id, found in pairs(p:broadcast(function() return { pool.worker.id, pool.worker.pid } end)) do
    ids[#ids + 1] = found[1]
    lu.assertEquals(found[1], id)
    lu.assertNil(pids[found[2]])
    pids[found[2]] = true
  end
  lu.assertEquals(#ids, 40)
  lu.assertEquals(p:stats().forks, 40)
end

for_clean(TestClean, "values_at_the_call", function(start)
  local p <close> = pool.new { workers = 2, start = start }
  local n = 1
  local function task(x) return x + n end
  lu.assertEquals(p:map(task, 2), { 2, 3 })
  n = 10
  lu.assertEquals(p:map(task, 2), { 11, 12 })
end)

for_clean(TestClean, "one_shot_verbs", function(start)
  local up = 3
  lu.assertEquals(pool.map(function(x) return x * up end, { 1, 2, 5 }, { start = start, workers = 2 }), { 3, 6, 15 })
  lu.assertEquals(pool.reduce(function(a, b) return a + b end, 100, 0, { start = start, workers = 2 }), 5050)
  lu.assertEquals(pool.find(function(x) return x > 5 end, 10, { start = start, workers = 2 }), 6)
end)

for_clean(TestClean, "require_finds_what_it_finds_here", function(start)
  local directory = os.tmpname()
  os.remove(directory)
  os.execute("mkdir " .. directory)
  local file <close> = assert(io.open(directory .. "/start_shapes.lua", "w"))
  file:write "local M = {} M.Circle = { __name = 'Circle' } M.Circle.__index = M.Circle function M.area(r) return 3 * r * r end return M"
  file:close()
  local before = package.path
  package.path = directory .. "/?.lua;" .. before
  local shapes = require "start_shapes"
  local p <close> = pool.new { workers = 1, start = start }
  lu.assertEquals(p:map(shapes.area, 2), { 3, 12 }) -- by its name
  local circle = p:map(function(r) return setmetatable({ r = r }, shapes.Circle) end, 1)[1]
  lu.assertIs(getmetatable(circle), shapes.Circle)
  package.path = before
  package.loaded.start_shapes = nil
  os.execute("rm -r " .. directory)
end)

for_clean(TestClean, "hooks_seed_and_classes", function(start)
  local Point = { unit = 7 }
  Point.__index = Point
  function Point:sum() return self.x + self.unit end
  pool.register("start.Point", Point)
  local log = pool.channel()
  local name = "w"
  local p = pool.new { workers = 2, seed = 5, start = start,
    on_start = function(worker) me = name .. worker.id end, -- luacheck: ignore
    on_exit = function(worker) log:send(worker.id) end }
  lu.assertEquals(p:broadcast(function() return me end), { "w1", "w2" }) -- luacheck: ignore
  local inline <close> = pool.new { workers = 0, seed = 5 }
  local function dart() return math.random(1 << 30) end
  lu.assertEquals(p:map(dart, 5), inline:map(dart, 5))
  local points = p:map(function(point)
    point.x = point:sum()
    return point
  end, { setmetatable({ x = 1 }, Point), setmetatable({ x = 2 }, Point) })
  lu.assertIs(getmetatable(points[1]), Point)
  lu.assertEquals({ points[1].x, points[2].x }, { 8, 9 })
  p:close()
  local _, a = log:receive(10)
  local _, b = log:receive(10)
  lu.assertEquals(a + b, 3)
end)

for_clean(TestClean, "shared_memory", function(start)
  local a, c = pool.array("f64", 100), pool.counter()
  local p <close> = pool.new { workers = 2, start = start }
  p:each(function(i)
    a[i] = i / 2
    c:add(i)
  end, 100)
  lu.assertEquals({ a[1], a[100], c:get() }, { 0.5, 50.0, 5050 })
  p:map(function(x) return x * x end, 100, { into = a })
  lu.assertEquals(a[9], 81.0)
  lu.assertEquals(p:map(function(x) return x + 1 end, a:slice(1, 3)), { 2, 5, 10 })
end)

for_clean(TestClean, "what_cannot_be_sent_is_named", function(start)
  local p <close> = pool.new { workers = 1, start = start }
  local file <close> = io.tmpfile()
  local e = fails(p.map, p, function() return file end, 1)
  lu.assertStrMatches(e, ".*cannot send upvalue 'file' of function <tests/test_start.lua:%d+>: userdata %(FILE%*%)")
  local co = coroutine.create(print)
  e = fails(p.map, p, function() return { co } end, 1)
  lu.assertStrMatches(e, ".*cannot send upvalue 'co' of function <tests/test_start.lua:%d+>: coroutine")
  lu.assertEquals(p:map(math.abs, 2), { 1, 2 })
  local q <close> = pool.new { workers = 1, start = start, on_start = function() return file end }
  lu.assertStrMatches(fails(q.map, q, math.abs, 1), ".*cannot send upvalue 'file' of function <tests/test_start.lua:%d+>: userdata.*")
end)

for_clean(TestClean, "memory_of_the_host_is_not_theirs", function(start)
  local ballast = ("x"):rep(100 << 20)
  local p <close> = pool.new { workers = 1, start = start }
  p:map(math.abs, 1)
  local pid = p:workers()[1].pid
  lu.assertTrue(proc.stat(pid).rss_bytes < #ballast / 2, proc.stat(pid).rss_bytes)
end)

for_clean(TestClean, "standard_input_and_descriptors", function(start)
  local out = post.run { code = ([[
    local file <close> = assert(io.open("/etc/passwd"))
    local p <close> = pool.new { workers = 1, start = "%s" }
    print(p:apply(function() return io.read "a" end) == "")
    local list = p:apply(function()
      local pipe <close> = io.popen("ls -l /proc/$PPID/fd 2> /dev/null") -- (some pass meanwhile)
      return pipe:read "a"
    end)
    print(list:find("/dev/null", 1, true) ~= nil, list:find("passwd", 1, true))]]):format(start), expected = "true\ntrue\tnil\n" }
  return out
end)

-- ---- their lives ----

TestLife = {}

-- One helper for all workers of a pool, whatever becomes of them; and after the pool nobody.
function TestLife.test_a_server_is_executed_once()
  local before = #helpers(proc.pid())
  local p = pool.new { workers = 2, start = "server", on_crash = "skip", max_tasks = 10 }
  lu.assertEquals(#helpers(proc.pid()), before)
  p:map(math.abs, 10)
  local first = helpers(proc.pid())
  lu.assertEquals(#first, before + 1)
  for _ = 1, 3 do
    p:map(function(x) if x == 3 then os.exit(1) end return x end, 50)
    lu.assertEquals(helpers(proc.pid()), first)
  end
  p:resize(4)
  p:map(function(x) return x end, 100)
  lu.assertEquals(helpers(proc.pid()), first)
  p:close()
  lu.assertEquals(#helpers(proc.pid()), before)
end

-- The order finds nobody there: it goes to the next helper, once.
function TestLife.test_an_order_to_a_helper_that_was_killed()
  local p <close> = pool.new { workers = 1, start = "server", on_crash = "retry", retries = 10 }
  for round = 1, 5 do
    p:resize(1)
    p:map(math.abs, 10)
    local before = p:stats().forks
    for _, pid in ipairs(helpers(proc.pid())) do
      proc.kill(pid, "KILL")
      ways.wait_for(function() -- until its socket is closed
        local stat = proc.stat(pid)
        return not stat or stat.state == "Z"
      end, "the helper lives")
    end
    p:resize(2)
    lu.assertEquals(p:map(math.abs, { -1, -2, 3 }), { 1, 2, 3 }, round)
    lu.assertTrue(p:stats().forks - before <= 2, ("%d workers were started for two places"):format(p:stats().forks - before))
  end
end

-- Somebody kills the helper: its workers go with it, and the pool starts another.
function TestLife.test_a_helper_that_is_killed()
  local p <close> = pool.new { workers = 2, start = "server", on_crash = "retry", retries = 10 }
  p:map(math.abs, 10)
  for _ = 1, 3 do
    local workers = p:workers()
    for _, pid in ipairs(helpers(proc.pid())) do proc.kill(pid, "KILL") end
    local results = p:map(function(x) return x * 2 end, 100)
    lu.assertEquals({ #results, results[100] }, { 100, 200 })
    for _, worker in ipairs(workers) do
      local function is_gone()
        p:step() -- (where the system does not tell a process of its parent's death, its host does)
        return not proc.stat(worker.pid) or proc.stat(worker.pid).state == "Z"
      end
      lu.assertTrue(proc.wait_until(is_gone, 10))
    end
  end
  -- in the middle of a call: items that ran are tried again
  local seen = pool.counter()
  local future = p:map_async(function(x)
    seen:add(1)
    local t = os.clock()
    while os.clock() < t + 0.01 do end
    return x
  end, 40, { chunk = 1 })
  lu.assertTrue(proc.wait_until(function() p:step(0.01) return seen:get() > 3 end, 20))
  for _, pid in ipairs(helpers(proc.pid())) do proc.kill(pid, "KILL") end
  lu.assertEquals(#future:get(), 40)
end

for_clean(TestLife, "nobody_survives_the_host", function(start)
  for _, state in ipairs { "idle", "busy" } do
    local s <close> = post.start { code = ([[
      local p = pool.new { workers = 2, start = "%s" }
      p:map(math.abs, 10)
      local f = "%s" == "busy" and p:map_async(function() while true do end end, 2)
      if f then while p:step(0.05) and #p:workers() < 2 do end end
      say "ready"
      spin(60)]]):format(start, state) }
    s:await "ready"
    s:send("host", "KILL")
    s:finish { signal = "SIGKILL", stdout = "" } -- (and nobody is left: the scenario looks)
  end
end)

for_clean(TestLife, "interrupts_and_limits", function(start)
  local p <close> = pool.new { workers = 2, start = start, grace = 0.2 }
  local _, _, errors = p:map(function(x)
    if x == 2 then while true do end end
    return x
  end, 3, { timeout = 0.5, errors = "collect" })
  lu.assertEquals({ errors[1], errors[2].kind, errors[3] }, { nil, "timeout", nil })
  local _, _, greedy = p:map(function(x) return #(("x"):rep(x)) end, { 10, 100 << 20 }, { memory = "8M", errors = "collect" })
  lu.assertEquals(greedy[2].kind, "memory")
  local e = fails(p.map, p, function() os.execute("sleep 60") end, 1, { deadline = 0.3 })
  lu.assertEquals(e.kind, "timeout")
  lu.assertEquals(p:map(math.abs, 2), { 1, 2 })
end)

for_clean(TestLife, "ctrl_c", function(start)
  local s <close> = post.start { code = ([[
    local p <close> = pool.new { workers = 2, start = "%s" }
    local ok, e = pcall(p.map, p, function(x) if x < 3 then say "ready" end while true do end end, 5)
    print(ok, is_interrupt(e), #p:map(math.abs, 10))]]):format(start) }
  s:await("ready", 2)
  s:send("group", "INT")
  s:finish { exit = 0, stdout = "false\ttrue\t10\n" }
end)

-- ---- helpers that are none ----

TestHelpers = {}

local function script(text)
  local name = os.tmpname()
  local file <close> = assert(io.open(name, "w"))
  file:write(text)
  file:close()
  os.execute("chmod +x " .. name)
  return name
end

local function complaint(helper, start)
  local p <close> = pool.new { workers = 2, start = start or "server", helper = helper }
  local e = fails(p.map, p, math.abs, 3)
  lu.assertEquals(p:workers(), {})
  return e
end

function TestHelpers.test_a_program_that_is_not_there()
  for _, start in ipairs { "server", "spawn" } do
    lu.assertStrContains(complaint("/nowhere/luapool", start),
      "cannot start workers: cannot execute the helper '/nowhere/luapool': No such file or directory")
  end
end

function TestHelpers.test_programs_that_are_something_else()
  lu.assertStrContains(complaint "/bin/false", "the helper '/bin/false' ended with status 1 before it answered")
  local name = script "#!/bin/sh\necho 'welcome to another program, and good luck' >&0\nsleep 1\n"
  lu.assertStrContains(complaint(name), ("the helper '%s' is no helper of luapool"):format(name))
  os.remove(name)
  for _, text in ipairs { "kill -9 $$", "exec 0<&-; sleep 0.5; kill -9 $$" } do -- its connection ends before it does, perhaps long before
    name = script("#!/bin/sh\n" .. text .. "\n")
    lu.assertStrContains(complaint(name), ("the helper '%s' was ended by signal 9 before it answered"):format(name))
    os.remove(name)
  end
end

-- Another build of Lua, or of luapool.
function TestHelpers.test_another_build_is_refused()
  local other = BUILD .. "/tests/hosts/other_helper"
  for _, start in ipairs { "server", "spawn" } do
    local e = complaint(other, start)
    local text = ".*helper '.*other_helper' is luapool 9%.9%.9 for Lua 5%.4.*, but .* has luapool .* for Lua 5%.4.*"
    lu.assertStrMatches(e, text)
  end
end

function TestHelpers.test_run_by_hand()
  local p <close> = proc.spawn { args = { post.LUAPOOL, "--luapool-worker" } }
  local status, out = p:finish(30)
  lu.assertEquals({ status.exit, out }, { 2, "" })
end

-- ---- the module in other programs ----

TestModule = {}

local function stock(code, env)
  local p <close> = proc.spawn { args = { "lua5.4", "-e", code }, env = env }
  local status, out, err = p:finish(60)
  return status.exit, out, err
end

local WORKS <const> = [[
  local pool = require "luapool"
  local p <close> = pool.new { workers = 2, start = "%s" }
  print(p:stats().start, table.concat(p:map(function(x) return x * 2 end, 3), " "))]]

function TestModule.test_each_method_in_the_stock_interpreter()
  for _, start in ipairs { "fork", "server", "spawn" } do
    lu.assertEquals({ stock(WORKS:format(start)) }, { 0, start .. "\t2 4 6\n", "" })
  end
  lu.assertEquals({ stock(WORKS:format "auto") }, { 0, "fork\t2 4 6\n", "" }) -- it has one thread
end

function TestModule.test_the_helper_is_found_beside_the_module()
  local exit, out, err = stock(WORKS:format "server", { LUAPOOL_HELPER = false, PATH = "/nowhere" })
  lu.assertEquals({ exit, out, err }, { 0, "server\t2 4 6\n", "" })
end

-- A worker has the libraries that the state has, and no others.
function TestModule.test_a_state_with_few_libraries()
  lu.assertEquals({ stock [[
    local pool, print, loaded = require "luapool", print, package.loaded
    for _, name in ipairs { "io", "os", "debug", "package", "coroutine" } do _G[name] = nil loaded[name] = nil end
    local p <close> = pool.new { workers = 1, start = "server" }
    local up = { 5 }
    print(p:apply(function()
      local names = {}
      for _, name in ipairs { "io", "os", "debug", "package", "coroutine", "string", "require" } do
        names[#names + 1] = tostring(_G[name] ~= nil)
      end
      return up[1], table.concat(names, " ")
    end))]] }, { 0, "5\tfalse false false false false true false\n", "" })
end

lu.assertNotNil(ways.start)
