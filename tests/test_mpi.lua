-- Beyond one machine: the same scripts over MPI, on nodes that are pretended on this machine (two or three ranks, few workers).
-- Skipped where there is no mpirun, or the engine was not built. Losses: test_mpi_loss.lua.
local lu = require "luaunit"
local proc = require "proc"
local job = require "jobs_mpi"

local LUAPOOL, BUILD, SECONDS, MPIEXEC, HAS_MPI, need_mpi, need_open_mpi, file_with, environment, start, run =
  job.LUAPOOL, job.BUILD, job.SECONDS, job.MPIEXEC, job.HAS_MPI, job.need_mpi, job.need_open_mpi, job.file_with, job.environment, job.start,
  job.run

-- Both must print the same; the name of the script may differ.
local function assert_same(text, nodes)
  need_mpi()
  local function lines(where)
    local status, out, err = run(where, text)
    lu.assertEquals(status.exit, 0, err)
    return (out:gsub("/tmp/lua_%w+", "SCRIPT"):gsub("%d+ MiB", "SOME MiB"))
  end
  local alone = lines(nil)
  lu.assertEquals(lines(nodes or 2), alone)
  lu.assertTrue(#alone > 0)
end

local SHOW <const> = [[
local function text(v)
  if type(v) ~= "table" or getmetatable(v) == pool.Error then return tostring(v) end
  local words = {}
  for i = 1, math.min(#v, 40) do words[i] = tostring(v[i]) end
  return "{" .. table.concat(words, ",") .. "}"
end
local function show(name, fn)
  local r = table.pack(pcall(fn))
  for i = 1, r.n do
    if type(r[i]) == "table" and r[i].kind then
      local e = r[i]
      r[i] = ("%s/%s/%s/%s/%s"):format(e.kind, e.message, e.index, e.item, e.exitcode)
    else
      r[i] = text(r[i])
    end
  end
  print(name, table.concat(r, " | "))
end
local p <close> = pool.new { seed = 7 }
]]

-- ---- the same as on one machine ----

TestSame = {}

function TestSame.test_verbs_over_items()
  assert_same(SHOW .. [[
    show("map", function() return p:map(function(x) return x * 2 end, 30) end)
    show("table", function() return p:map(function(x) return x .. "!" end, { "a", "b", "c" }) end)
    show("down", function() return p:map(function(x) return x end, pool.range(10, 1, -3)) end)
    show("floats", function() return p:map(function(x) return x end, pool.range(0.5, 3.0, 0.5)) end)
    show("empty", function() return p:map(function(x) return x end, 0) end)
    show("holes", function()
      local r, n = p:map(function(x) if x % 2 == 0 then return x end end, 7)
      return n, r[2], r[3], r[6]
    end)
    show("starmap", function() return p:starmap(function(a, b) return a + b end, { { 1, 2 }, { 3, 4 } }) end)
    show("each", function() return p:each(function(x) return x end, 50) end)
    show("iterator", function()
      local i = 0
      return p:map(function(x) return x + 1 end, function() i = i + 1; if i <= 3000 then return i end end)
    end)
    show("filter", function() return p:filter(function(x) return x % 7 == 0 end, 60) end)
    show("filter, lazily", function()
      local i = 0
      return p:filter(function(x) return x % 7 == 0 end, function() i = i + 1; if i <= 60 then return i end end)
    end)
    show("find", function() return p:find(function(x) return x > 3333 end, 100000) end)
    show("any", function() return p:any(function(x) return x == 555 end, 1000), p:any(function() return false end, 100) end)
    show("all", function() return p:all(function(x) return x > 0 end, 1000), p:all(function(x) return x ~= 50 end, 100) end)
    show("one-shot", function() return pool.map(function(x) return -x end, 5) end)
    show("one-shot table", function() return pool.reduce(function(a, b) return a + b end, { 1, 2, 3 }, 0) end)
    show("many", function()
      local r, n = p:map(function(x) return x * x end, 200000)
      local sum = 0
      for i = 1, n do sum = sum + r[i] % 1000 end
      return n, sum
    end)
    show("large results", function()
      local r = p:map(function(x) return ("x"):rep(3000000 + x) end, 4)
      return #r[1], #r[4]
    end)
  ]])
end

-- Numbers travel as blocks, integers in as many bytes as they need.
function TestSame.test_numbers_of_all_kinds()
  assert_same(SHOW .. [[
    local function sum_up(r, n)
      local exact = {}
      for k = 1, n do exact[k] = math.type(r[k]) == "float" and ("%a"):format(r[k]) or tostring(r[k]) end
      local sum = 0
      for c in table.concat(exact, " "):gmatch("%S+") do for b = 1, #c do sum = (sum * 31 + c:byte(b)) % 2147483647 end end
      return n, sum, exact[1], exact[n // 2], exact[n]
    end
    local kinds = {
      same = function() return -7 end,
      bytes = function(x) return 1000 + x % 256 end,
      halves = function(x) return -x end,
      words = function(x) return x * 100000 - 3000000000 end,
      all = function(x) return x % 2 == 0 and math.mininteger + x or math.maxinteger - x end,
      floats = function(x) return x / 3 end,
      odd_floats = function(x) return ({ 1 / 0, -1 / 0, -0.0, 5e-324 })[x % 4 + 1] end,
      mixed = function(x) return x % 1000 == 999 and 0.5 or x end,
      late = function(x) return x == 3000 and "text" or x end,
      holes = function(x) if x % 77 ~= 0 then return x end end,
    }
    local names = {}
    for name in pairs(kinds) do names[#names + 1] = name end
    table.sort(names)
    for _, name in ipairs(names) do
      show(name, function() return sum_up(p:map(kinds[name], 3000), 3000) end)
      show(name, function()
        local r = {}
        for i, v in p:imap(kinds[name], 3000) do r[i] = v end
        return sum_up(r, 3000)
      end)
    end
    show("some fail", function()
      local r, n, errors = p:map(function(x) if x % 500 == 0 then error("no") end return x * 2 end, 3000, { errors = "collect" })
      return n, r[499], r[500], r[501], #errors, errors[500].kind
    end)
    show("into", function()
      local a = pool.array(3000)
      p:map(function(x) return x / 7 end, 3000, { into = a })
      return a[1], a[1500], a[3000]
    end)
    show("iterator", function()
      local i = 0
      local r = p:map(function(x) return x * 3 end, function() i = i + 1; if i <= 3000 then return i end end)
      return sum_up(r, 3000)
    end)
  ]])
end

function TestSame.test_streams()
  assert_same(SHOW .. [[
    show("imap", function()
      local s = 0
      for i, v in p:imap(function(x) return x * x end, 3000) do s = s * 31 % 1000003 + i * v end
      return s
    end)
    show("break", function()
      local s = 0
      for i, v in p:imap(function(x) return x * x end, 100000) do
        s = s + v
        if i == 77 then break end
      end
      return s
    end)
    show("unordered", function()
      local s, n = 0, 0
      for i, v in p:imap_unordered(function(x) return x * x end, 1000) do s, n = s + i * v, n + 1 end
      return s, n
    end)
    show("buffer", function()
      local pulled, most = 0, 0
      local function source() pulled = pulled + 1; if pulled <= 200 then return pulled end end
      for i in p:imap(function(x) return x end, source, { buffer = 4 }) do most = math.max(most, pulled - i) end
      return most <= 5
    end)
    show("failing item", function()
      for i in p:imap(function(x) if x == 5 then error("five") end return x end, 10) do assert(i < 5) end
    end)
    show("failing source", function()
      local n = 0
      local function source() n = n + 1; if n == 4 then error("no more", 0) end return n end
      for i in p:imap(function(x) return x end, source) do print(i) end
    end)
    show("after", function() return p:map(function(x) return x end, 3) end)
  ]])
end

function TestSame.test_folds_have_the_same_bits()
  assert_same(SHOW .. [[
    local add = function(a, b) return a + b end
    show("sum", function() return ("%a"):format(p:reduce(add, pool.range(0.1, 2000.0, 0.1), 0.0)) end)
    show("map", function() return p:reduce(add, { 1, 2, 3, 4, 5 }, 0, { map = function(x) return x * x end }) end)
    show("combine", function()
      return p:reduce(function(t, x) t[#t + 1] = x return t end, 30, {}, { combine = function(a, b)
        for _, v in ipairs(b) do a[#a + 1] = v end
        return a
      end })
    end)
    local a = pool.array("f64", 100)
    show("into", function() return p:map(function(x) return x / 3 end, 100, { into = a })[50] end)
    show("array", function() return ("%a"):format(p:reduce(add, a, 0)) end)
    show("seed", function() return p:map(function() return math.random(1000000) end, 30) end)
    show("seed, items", function() return p:map(function(x) return x .. math.random(1000000) end, { "a", "b", "c" }) end)
  ]], 3)
end

function TestSame.test_tasks_and_futures()
  assert_same(SHOW .. [[
    show("apply", function() return p:apply(function(a, b) return a, b, nil, a .. b end, "x", "y") end)
    show("apply fails", function() return p:apply(function() error({ code = 1 }) end) end)
    show("submit", function() return p:submit(function(...) return select("#", ...), ... end, 1, nil, 3):get() end)
    show("map_async", function() return p:map_async(function(x) return -x end, 10):get() end)
    show("as_completed", function()
      local futures, sum = {}, 0
      for i = 1, 10 do futures[i] = p:submit(function(x) return x * x end, i) end
      for f in pool.as_completed(futures) do sum = sum + f:get() end
      return sum
    end)
    show("on_done", function()
      local told
      local f = p:submit(function() return 5 end):on_done(function(g) told = g:get() end)
      f:wait()
      p:step(0)
      return told, f:status()
    end)
    show("cancel", function()
      local f = p:submit(function() while true do end end)
      return f:cancel(), f:status(), (select(2, pcall(f.get, f))).kind
    end)
    show("wait", function()
      local f = p:submit(function() local t = os.clock() + 30 while os.clock() < t do end end)
      local over, others = pool.wait({ f }, { timeout = 0.1 })
      f:cancel()
      return #over, #others
    end)
    show("p:cancel", function()
      local f = p:map_async(function() while true do end end, 4)
      p:cancel()
      return f:status()
    end)
    show("after", function() return p:map(function(x) return x end, 3) end)
  ]])
end

function TestSame.test_errors_and_limits()
  assert_same((SHOW .. [[
    show("error", function() return p:map(function(x) if x == 13 then error("bad thirteen", 0) end return x end, 100) end)
    show("value", function()
      local _, e = pcall(p.map, p, function(x) if x == 3 then error({ code = 5 }) end end, 4)
      return e.value.code, e.traceback ~= nil, e.pid ~= nil
    end)
    show("collect", function()
      local r, n, errors = p:map(function(x) if x % 5 == 0 then error("five", 0) end return x end, 12, { errors = "collect" })
      return r[4], r[5], n, errors[5], errors[10], errors[4]
    end)
    show("crash", function() return p:map(function(x) if x == 7 then os.exit(3) end return x end, 20) end)
    show("skip", function()
      local r, n = p:map(function(x) if x == 7 then os.exit(3) end return x end, 20, { on_crash = "skip" })
      return n, r[6], r[7], r[8]
    end)
    show("retries", function()
      local r, n = p:map(function(x)
        local f = io.open("/tmp/luapool-test-" .. pool_mark .. x)
        if f then f:close() return x end
        io.open("/tmp/luapool-test-" .. pool_mark .. x, "w"):close()
        error("first time", 0)
      end, 3, { retries = 2 })
      for i = 1, 3 do os.remove("/tmp/luapool-test-" .. pool_mark .. i) end
      return n, r
    end)
    show("deadline", function()
      local _, e = pcall(p.map, p, function() local t = os.clock() + 0.1 while os.clock() < t do end end, 10000, { deadline = 0.5 })
      return e.kind
    end)
    show("timeout", function()
      local _, e = pcall(p.map, p, function(x) while x == 2 do end end, 4, { timeout = 0.5 * SLOWNESS })
      return e.kind, e.index
    end)
    show("halt", function()
      local ok, e = pcall(p.map, p, function(x) error("all fail", 0) end, 1000, { halt = "now,fail=2" })
      return ok, e.kind
    end)
    show("unsendable", function()
      local co = coroutine.create(print)
      return (select(2, pcall(p.map, p, function(x) return coroutine.create(print) end, 1))).kind
    end)
    show("after", function() return p:map(function(x) return x end, 3) end)
  ]]):gsub("pool_mark", ('"%d-"'):format(proc.pid())):gsub("SLOWNESS", proc.slowness), 2)
end

function TestSame.test_functions_with_what_they_need()
  assert_same(SHOW .. [[
    local Point = {}
    Point.__index = Point
    function Point.new(x) return setmetatable({ x = x }, Point) end
    function Point:double() return Point.new(2 * self.x) end
    show("class", function()
      local q = p:apply(function(o) return o:double() end, Point.new(4))
      return getmetatable(q) == Point, q.x
    end)
    show("objects", function()
      local r = p:map(function(o) return o:double() end, { Point.new(1), Point.new(2) })
      return r[2].x, getmetatable(r[1]) == Point
    end)
    LIMIT = 42
    function helper(x) return x + LIMIT end
    show("globals", function() return p:map(function(x) return helper(x) end, 3) end)
    LIMIT = 43
    show("changed", function() return p:map(function(x) return helper(x) end, 3) end)
    local shared = { 1 }
    show("upvalues", function() return p:map(function(x) return shared[1] + x end, 3) end)
    shared[1] = 10
    show("changed", function() return p:map(function(x) return shared[1] + x end, 3) end)
    local large = {}
    for i = 1, 20000 do large[i] = "string " .. i end
    show("large", function() return p:map(function(i) return large[i] end, 300) end)
    large[3] = "changed"
    show("large again", function() return p:map(function(i) return large[i] end, 300) end)
    show("large, seed", function() return p:map(function(i) return large[i] .. math.random(1000) end, 30) end)
    show("print", function() return p:map(function(x) print("line " .. x) return x end, 1) end)
  ]])
end

function TestSame.test_output_in_order()
  assert_same([[
    local p <close> = pool.new { output = "order" }
    p:each(function(x) print("begin " .. x) io.write("end ", x, "\n") end, 20)
    local lines = {}
    local q <close> = pool.new { output = function(text, info) lines[#lines + 1] = text .. info.item end }
    q:each(function(x) print(x) end, 5)
    table.sort(lines)
    print(table.concat(lines, " "))
    local r <close> = pool.new { output = "discard" }
    r:each(function(x) print(x) end, 5)
  ]])
end

function TestSame.test_log_and_resume()
  need_mpi()
  local log = os.tmpname()
  os.remove(log)
  local text = ([[
    local runs = pool.counter and 0
    local results, n = pool.map(function(x) return x * 3 end, 100, { log = %q, resume = true })
    print(n, results[1], results[100])
  ]]):format(log)
  local status, out, err = run(2, text)
  lu.assertEquals(status.exit, 0, err)
  local _, again = run(2, text)
  lu.assertEquals(out, "100\t3\t300\n")
  lu.assertEquals(again, out)
  os.remove(log)
end

-- ---- what is different ----

TestNodes = {}

function TestNodes.test_nodes_are_listed_and_share_the_work()
  local status, out, err = run(3, [[
    local nodes = pool.nodes()
    assert(#nodes == 3)
    for i, node in ipairs(nodes) do assert(node.rank == i - 1 and node.state == "up" and node.workers == 2 and node.pid and node.host) end
    local p <close> = pool.new()
    local pids, n = {}, 0
    for _, pid in ipairs((p:map(function()
      local t = os.clock() + 0.01
      while os.clock() < t do end
      return pool.worker.pid
    end, 90))) do
      if not pids[pid] then n = n + 1 end
      pids[pid] = true
    end
    print("workers", n > 2)
    local here = p:broadcast(function() return pool.worker.pid end)
    print("broadcast", #here)
    local stats = p:stats()
    print("stats", stats.items >= 90, #stats.workers, #p:workers())
    local done = 0
    for _, node in ipairs(pool.nodes()) do done = done + node.items end
    print("items", done)
  ]])
  lu.assertEquals(status.exit, 0, err)
  lu.assertEquals(out, "workers\ttrue\nbroadcast\t6\nstats\ttrue\t6\t6\nitems\t96\n")
end

function TestNodes.test_without_mpi_there_is_one()
  local p <close>, path = start(nil, [[local n = pool.nodes() print(#n, n[1].state, n[1].rank)]])
  local _, out = p:finish(SECONDS)
  os.remove(path)
  lu.assertEquals(out, "1\tup\t0\n")
end

function TestNodes.test_a_module_that_only_the_script_has()
  need_mpi()
  local folder = os.tmpname()
  os.remove(folder)
  os.execute("mkdir " .. folder)
  file_with("local inner = require 'only_here_inner'\nlocal M = {}\nfunction M.f(x) return inner + x end\nreturn M\n",
    folder .. "/only_here.lua")
  file_with("return 1000", folder .. "/only_here_inner.lua")
  file_with("this is no Lua", folder .. "/only_here_broken.lua")
  local status, out, err = run(2, ([[
    package.path = package.path .. ";%s/?.lua"
    local p <close> = pool.new()
    print(table.concat(p:map(function(x) return require("only_here").f(x) end, 6), " "))
    print((p:apply(function() return debug.getinfo(require("only_here").f).source end):gsub("/tmp/lua_%%w+", "DIR")))
    local ok, e = pcall(p.apply, p, function() return require "not_anywhere" end)
    print(ok, e.message:find("module 'not_anywhere' not found", 1, true) ~= nil)
    print(e.message:find("not on the script's machine", 1, true) ~= nil)
    ok, e = pcall(p.apply, p, function() return require "only_here_broken" end)
    print(ok, e.message:find("only_here_broken", 1, true) ~= nil)
  ]]):format(folder))
  os.execute("rm -r " .. folder)
  lu.assertEquals(status.exit, 0, err)
  lu.assertEquals(out, "1001 1002 1003 1004 1005 1006\n@node0:DIR/only_here.lua\nfalse\ttrue\ntrue\nfalse\ttrue\n")
end

function TestNodes.test_what_cannot_cross_machines_says_so()
  local status, out, err = run(2, [[
    local p <close> = pool.new()
    local a, ch, l, c = pool.array("i32", 4), pool.channel(), pool.lock(), pool.counter()
    for _, fn in ipairs { function() return a[1] end, function() return ch:send(1) end, function() return l:try() end,
      function() return c:add() end } do
      local ok, e = pcall(p.map, p, fn, 2)
      print(ok, tostring(e):match("memory of one machine"))
    end
    local ok, e = pcall(p.map, p, function(x) return x end, { a })
    print(ok, e.kind, e.index, e.message:match("memory of one machine"))
    print(#p:apply(function() return pool.array("u8", 3) end))
    local co = coroutine.create(print)
    ok, e = pcall(p.map, p, function() return co end, 2)
    print(ok, e)
  ]])
  lu.assertEquals(status.exit, 0, err)
  local one = "false\tmemory of one machine\n"
  lu.assertStrContains(out, one:rep(4) .. "false\tserialize\t1\tmemory of one machine\n3\n")
  lu.assertStrContains(out, "cannot send the function to other machines")
  lu.assertStrContains(out, "co")
end

function TestNodes.test_errors_name_the_host()
  local status, out, err = run(2, [[
    local ok, e = pcall(pool.map, function(x) if x == 3 then error("third") end end, 5)
    print(e.host == pool.nodes()[1].host, tostring(e):find("on " .. e.host, 1, true) ~= nil, e.index, e.item, e.pid ~= nil)
  ]])
  lu.assertEquals(status.exit, 0, err)
  lu.assertEquals(out, "true\ttrue\t3\t3\ttrue\n")
end

-- It is told to the node, where much waits before it.
function TestNodes.test_urgent_tasks_go_first()
  local status, out, err = run(2, [[
    local p <close> = pool.new()
    local function work(x) local t = os.clock() + 0.05 while os.clock() < t do end return x end
    local bulk = {}
    for i = 1, 400 do bulk[i] = p:with { priority = i > 200 and "low" or nil }:submit(work, i) end
    print(p:with { priority = "high" }:submit(work, "urgent"):get())
    local waiting = 0
    for _, f in ipairs(bulk) do if f:status() ~= "done" then waiting = waiting + 1 end end
    print(waiting > 200 or waiting)
    p:cancel()
    local ok, e = pcall(p.with, p, { priority = "urgent" })
    print(ok, e)
  ]])
  lu.assertEquals(status.exit, 0, err)
  lu.assertStrMatches(out, "urgent\ntrue\nfalse\t[^\n]*bad option 'priority'[^\n]*\n")
end

function TestNodes.test_hooks_of_workers_run_on_every_node()
  local status, out, err = run(2, [[
    local p <close> = pool.new { on_start = function(w) started = w.pid end }
    local all = p:broadcast(function() return started == pool.worker.pid end)
    print(#all, all[1], all[#all])
    local q <close> = pool.new { on_start = function() error("no luck", 0) end }
    print(select(2, pcall(q.map, q, function() end, 3)).message)
  ]])
  lu.assertEquals(status.exit, 0, err)
  lu.assertEquals(out, "4\ttrue\ttrue\non_start failed: no luck\n")
end

function TestNodes.test_under_plain_mpirun()
  need_open_mpi()
  local path = file_with("print(#pool.nodes(), #pool.map(function(x) return x end, 100)) os.exit(0, true)")
  local words = { "mpirun", "--oversubscribe", "--bind-to", "none", "-np", "2", LUAPOOL, path }
  local p <close> = proc.spawn { args = words, env = environment() }
  local status, out, err = p:finish(SECONDS)
  os.remove(path)
  lu.assertEquals(status.exit, 0, err)
  lu.assertEquals(out, "2\t100\n")
end

-- ---- the program as a whole ----

TestProgram = {}


function TestProgram.test_status_arguments_and_input()
  local text = "print(arg[1], ...) print(io.read('n') + 1, io.read('a')) os.exit(7, true)"
  local status, out = run(2, text, { args = { "x", "y" }, stdin = "41 rest" })
  lu.assertEquals(out, "x\tx\ty\n42\t rest\n")
  lu.assertEquals(status.exit, 7)
end

function TestProgram.test_an_error_of_the_script()
  local status, out, err = run(2, "error('this went wrong')")
  lu.assertEquals(status.exit, 1)
  lu.assertEquals(out, "")
  lu.assertStrContains(err, "this went wrong")
  lu.assertNil(err:find("\30", 1, true))
end

local BUSY <const> = [[
  local p <close> = pool.new()
  local function busy(x)
    if x == 1 then print("begun") end
    local t = os.time() + 120
    while os.time() < t do end
  end
]]

function TestProgram.test_an_interrupt_can_be_caught()
  need_mpi()
  local p <close>, path = start(2, BUSY .. [[
    local ok, e = pcall(p.map, p, busy, 20)
    print(ok, pool.is_interrupt(e), tostring(e), e.signal)
    print(#p:map(function(x) return x end, 10))
    os.exit(5, true)
  ]])
  lu.assertNotNil(p:read_until("begun", SECONDS))
  p:kill("INT")
  local status, out, err = p:finish(SECONDS)
  os.remove(path)
  lu.assertEquals(out, "begun\nfalse\ttrue\tinterrupted!\tSIGINT\n10\n", err)
  lu.assertEquals(status.exit, 5)
end

function TestProgram.test_uncaught_interrupts_end_it_by_the_signal()
  need_mpi()
  for _, signal in ipairs { "INT", not MPIEXEC and "TERM" or nil } do -- others end their processes on SIGTERM
    local p <close>, path = start(2, BUSY .. "p:map(busy, 20)")
    lu.assertNotNil(p:read_until("begun", SECONDS))
    p:kill(signal)
    local status, _, err = p:finish(SECONDS)
    os.remove(path)
    lu.assertEquals(status.signal, "SIG" .. signal, err)
    lu.assertStrContains(err, "interrupted!")
    lu.assertTrue(proc.wait_until(function() return #proc.leftovers(p.mark) == 0 end, 20))
  end
end

function TestProgram.test_ctrl_c_on_a_terminal()
  need_mpi()
  local p <close>, path = start(2, BUSY .. [[
    local ok, e = pcall(p.map, p, busy, 20)
    print(ok, tostring(e))
    print("read", io.read("l"))
  ]], { pty = true })
  lu.assertNotNil(p:read_until("begun", SECONDS))
  p:write("\3")
  lu.assertNotNil(p:read_until("interrupted!", SECONDS))
  p:write("hello\n")
  lu.assertNotNil(p:read_until("read%s+hello", SECONDS))
  lu.assertEquals(p:finish(SECONDS).exit, 0)
  os.remove(path)
end

-- ---- refusals ----

TestRefusals = {}

local function refused(args, env)
  local p <close> = proc.spawn { args = args, env = environment(env), deadline = SECONDS }
  local status, out, err = p:finish(SECONDS)
  lu.assertEquals(out, "")
  return status.exit, err
end

function TestRefusals.test_no_engine()
  local exit, err = refused({ LUAPOOL, "--mpi=2", "-e", "print(1)" }, { LUAPOOL_ENGINE = "/nowhere/luapool-mpi.so" })
  lu.assertEquals(exit, 1)
  lu.assertStrContains(err, "no engine for MPI here (/nowhere/luapool-mpi.so): build it with 'make MPI=1'")
end

function TestRefusals.test_no_mpirun()
  need_mpi()
  local exit, err = refused({ LUAPOOL, "--mpirun", "/nowhere/mpirun -np 2", "-e", "print(1)" })
  lu.assertEquals(exit, 1)
  lu.assertStrContains(err, "cannot find /nowhere/mpirun")
end

function TestRefusals.test_a_bad_number()
  local exit, err = refused({ LUAPOOL, "--mpi=many", "-e", "print(1)" })
  lu.assertEquals(exit, 2)
  lu.assertStrContains(err, "--mpi: number of nodes to pretend expected")
end

function TestRefusals.test_root_without_permission()
  need_open_mpi()
  if os.execute("test $(id -u) = 0") == nil then lu.skip("not root") end
  local exit, err = refused({ LUAPOOL, "--mpi=2", "-e", "print(1)" }, { OMPI_ALLOW_RUN_AS_ROOT = false })
  lu.assertEquals(exit, 1)
  lu.assertStrContains(err, "OMPI_ALLOW_RUN_AS_ROOT=1")
end

-- A launcher of another MPI: its variables say two, MPI_Init says one.
function TestRefusals.test_another_mpi_than_the_launchers()
  need_open_mpi()
  local exit, err = refused({ LUAPOOL, "-e", "print(1)" }, { PMI_RANK = "0", PMI_SIZE = "2" })
  lu.assertEquals(exit, 1)
  lu.assertStrContains(err, "the launcher started 2 processes, but Open MPI")
end

-- Whatever the engine does when it is told to stop, the job's status is the one it had before.
function TestRefusals.test_an_engine_that_does_not_leave()
  for _, way in ipairs { "SEGV", "ABRT", "BUS", "never" } do
    local env = { LUAPOOL_ENGINE = BUILD .. "/tests/bad_leaver.so", BAD_LEAVER = way, PMI_RANK = "0", PMI_SIZE = "2" }
    local exit, err = refused({ LUAPOOL, "-e", "print(1)" }, env)
    lu.assertEquals({ way, exit }, { way, 1 })
    lu.assertStrMatches(err, "[^\n]*: the launcher started 2 processes, but bad leaver counts 1: [^\n]*\n") -- one line
  end
end

function TestRefusals.test_hosts_that_cannot_be_reached()
  need_open_mpi()
  local exit, err = refused({ LUAPOOL, "-H", "no-such-host.invalid", "-e", "print(1)" }, { OMPI_MCA_plm_rsh_agent = "false" })
  lu.assertNotEquals(exit, 0)
  lu.assertStrContains(err, "before the script did (does 'ssh HOST true' work for every host?)")
end

-- A node whose program was built with another Lua: the same but for its text.
function TestRefusals.test_another_lua_on_a_node()
  need_open_mpi()
  local file = assert(io.open(LUAPOOL, "rb"))
  local text = file:read("a")
  file:close()
  local other = file_with((text:gsub("Lua 5%.4%.%d", "Lua 5.4.x")))
  os.execute("chmod +x " .. other)
  local words = { "mpirun", "--oversubscribe", "-np", "1", LUAPOOL, "-e", "print(1)", ":", "-np", "1", other, "-e", "print(1)" }
  local exit, err = refused(words, { LUAPOOL_ENGINE = BUILD .. "/luapool-mpi.so" })
  os.remove(other)
  lu.assertNotEquals(exit, 0)
  lu.assertStrContains(err, "node 1 (")
  lu.assertStrContains(err, "Lua 5.4.x")
  lu.assertStrContains(err, "install the same on every node")
end

-- Rank 1 is started by a shell that does something before, or instead.
local function with_rank_1(command, seconds)
  local shell = file_with(('[ "$OMPI_COMM_WORLD_RANK" = 1 ] && %s\nexec "$@"\n'):format(command))
  local words = "mpirun -q --enable-recovery --oversubscribe -np 2 sh " .. shell
  local exit, err = refused({ LUAPOOL, "--mpirun", words, "-e", "print(1)" }, { LUAPOOL_JOIN_WITHIN = seconds })
  os.remove(shell)
  lu.assertEquals(exit, 1)
  return err
end

function TestRefusals.test_a_node_without_the_engine()
  need_open_mpi()
  local command = "export LUAPOOL_ENGINE=/nowhere/luapool-mpi.so && unset OMPI_COMM_WORLD_LOCAL_RANK"
  local time_to_say_so = tostring(math.ceil(3 * proc.slowness))
  lu.assertStrContains(with_rank_1(command, time_to_say_so), "no engine for MPI here (/nowhere/luapool-mpi.so)")
end

function TestRefusals.test_a_node_that_is_lost_before_it_has_started()
  need_open_mpi()
  lu.assertStrContains(with_rank_1("kill -9 $$", "2"), "not all nodes have started within 2 s\n")
end

function TestRefusals.test_options_that_know_one_machine_only()
  need_open_mpi()
  local path = os.tmpname()
  local exit, err = refused({ LUAPOOL, "--mpi=2", "--trace", path, "-e", "print(1)" })
  os.remove(path)
  lu.assertEquals(exit, 1)
  lu.assertStrContains(err, "--trace and --report know nothing of other machines")
end

function TestRefusals.test_one_liners()
  need_open_mpi()
  local exit, err = refused({ LUAPOOL, "--mpi=2", "map", "_ * 2" })
  lu.assertEquals(exit, 1)
  lu.assertStrContains(err, "luapool map works on one machine: run it without --mpi")
end

function TestRefusals.test_version_names_the_engine()
  local p <close> = proc.spawn { args = { LUAPOOL, "--version" } }
  local _, out = p:finish(SECONDS)
  lu.assertStrContains(out, HAS_MPI and "engines found: mpi (" or "engines not found: mpi")
end

-- ---- at rest ----

TestRest = {}

function TestRest.test_waiting_costs_little()
  need_mpi()
  local p <close>, path = start(2, [[
    print("pids", table.concat({ pool.nodes()[1].pid, pool.nodes()[2].pid }, " ")) io.stdout:flush()
    io.read("l")
  ]], { stdin = "pipe" })
  local out = p:read_until("pids%s+%d+ %d+\n", SECONDS)
  lu.assertNotNil(out)
  local used = {}
  local function measure()
    local sum = 0
    for pid in out:gmatch("%d+") do
      local stat = proc.stat(tonumber(pid))
      for _, who in ipairs { stat, proc.stat(stat.ppid) } do sum = sum + who.utime + who.stime end
    end
    used[#used + 1] = sum
  end
  proc.sleep(1)
  measure()
  proc.sleep(3)
  measure()
  lu.assertTrue((used[2] - used[1]) / 3 < 0.1, ("%g of a processor"):format((used[2] - used[1]) / 3))
  p:write("\n")
  lu.assertEquals(p:finish(SECONDS).exit, 0)
  os.remove(path)
end
