-- What the machine does to a job: the clock is set, memory ends, processes are stopped for a while, the terminal goes away, values are
-- larger than 2 GiB.
local lu = require "luaunit"
local disk = require "disk"
local proc = require "proc"
local post = require "post"
local ways = require "ways"

local SOAK = os.getenv "SOAK"

-- ---- the clock ----

TestClock = {}

local TIMES = [[
local first, second = os.time(), os.time()
print("the clock is wild", math.abs(first - second) > 3600)
local p <close> = pool.new { workers = 2, timeout = 60, grace = 0.2, idle_timeout = 60, on_crash = "retry" }
local r = p:map(function(x) spin(0.01) return x end, 20, { deadline = 60, progress = function() end })
print("no limit has come early", #r)
local _, _, errors = p:map(function(x) if x == 2 then while true do end end return x end, 3, { timeout = 0.2, errors = "collect" })
print("a time limit", errors[2].kind)
print("a deadline", select(2, pcall(p.map, p, function() while true do end end, 2, { deadline = 0.2 })).kind)
local gate = pool.counter()
local f = p:submit(function() while gate:get() == 0 do end return 1 end)
local early = f:wait(0.05)
gate:set(1)
print("a future", early, f:get(60))
local tries = pool.counter()
local function fails_once(x) if x == 1 and tries:add(1) == 1 then os.exit(1) end return x end
print("a retry", #p:map(fails_once, 3, { retries = 2, retry_delay = 0.05 }))
local l, ch = pool.lock(), pool.channel(1)
print("a channel", (ch:receive(0.05)), ch:send(1, 60), (ch:send(2, 0.05)), (ch:receive(60)))
local g <close> = l:acquire(60)
print("a lock", p:apply(function() return l:acquire(0.05) == nil end))
p:resize(1)
print("a step", p:step(0.05) ~= nil, #p:map(math.abs, 3))
p:close(60)
local q = pool.new { workers = 1, idle_timeout = 0.05 }
q:map(math.abs, 3)
repeat q:step(0.02) until #q:workers() == 0
q:terminate(60)
print "done"]]

function TestClock.test_nothing_is_measured_by_the_wall()
  if proc.slowness > 1 then lu.skip "a sanitizer wants to be loaded first" end
  local shim = os.getenv "BUILD" .. "/tests/wild_clock.so"
  if shim:sub(1, 1) ~= "/" then shim = proc.directory() .. "/" .. shim end
  ways.needs_own_machine()
  lu.skipIf(not disk.text_of(shim), "no wild clock for this C library")
  for _, start in ipairs { "fork", "server" } do
    local s <close> = post.start { env = { LD_PRELOAD = shim, LUAPOOL_START = start }, code = TIMES }
    s:finish { exit = 0, within = 60, stdout = [[
the clock is wild	true
no limit has come early	20
a time limit	timeout
a deadline	timeout
a future	false	1
a retry	3
a channel	nil	true	nil	true
a lock	true
a step	true	3
done
]] }
  end
end

-- ---- memory ----

TestMemory = {}

-- A control group of its own for `bytes` of memory (version 1 or 2): the file that takes its processes, and a function that removes it.
local function make_group(bytes)
  local name = "luapool-test-" .. proc.pid()
  local second = disk.text_of "/sys/fs/cgroup/cgroup.controllers"
  local folder = (second and "/sys/fs/cgroup/" or "/sys/fs/cgroup/memory/") .. name
  if not os.execute(("mkdir %s 2> /dev/null"):format(folder)) then return end
  local function remove()
    if not proc.wait_until(function() return os.execute(("rmdir %s 2> /dev/null"):format(folder)) end, 5) then
      lu.fail("the control group cannot be removed: " .. folder)
    end
  end
  local limit = io.open(folder .. (second and "/memory.max" or "/memory.limit_in_bytes"), "w")
  if limit and limit:write(bytes) and limit:close() then
    local swap = io.open(folder .. (second and "/memory.swap.max" or "/memory.memsw.limit_in_bytes"), "w")
    if swap and swap:write(second and 0 or bytes) then swap:close() end
    return folder .. "/cgroup.procs", remove
  end
  remove()
end

-- Workers have offered themselves: it is one of them who goes, and costs its item alone.
function TestMemory.test_the_oom_killer_takes_a_worker()
  if proc.slowness > 1 then lu.skip "sanitizers need memory of their own" end
  local group, remove = make_group(192 << 20)
  if not group then lu.skip "no right to make a control group with a limit of memory" end
  for _, start in ipairs { "fork", "server" } do
    local s <close> = post.start { args = { "sh", "-c", 'echo $$ > "$0" && exec "$@"', group, post.LUAPOOL, "-e", ([[
      local p <close> = pool.new { workers = 2, start = "%s" }
      local ballast = ("b"):rep(16 << 20)
      local r, n, errors = p:map(function(x) return x == 3 and #("x"):rep(400 << 20) or x end, 5, { chunk = 1, errors = "collect" })
      print(n, r[1], r[2], r[4], r[5], errors[3].kind, errors[3].signal, errors[3].index)
      print(#p:map(math.abs, 100), #ballast)]]):format(start) } }
    local ok, e = pcall(s.finish, s, { exit = 0, within = 60, stdout = "5\t1\t2\t4\t5\tcrash\tSIGKILL\t3\n100\t16777216\n" })
    if not ok or start == "server" then
      proc.kill_marked(s.mark)
      remove()
    end
    if not ok then error(e, 0) end
  end
end

-- ---- values of more than 2 GiB ----

TestLarge = {}

local function has_memory(bytes)
  local free = tonumber((disk.text_of "/proc/meminfo" or ""):match "MemAvailable:%s*(%d+)")
  return free and free * 1024 >= bytes
end

-- (Minutes, where the machine has to find the memory first: with `make soak`.)
function TestLarge.test_more_than_two_gibibytes_there_and_back()
  if not SOAK then lu.skip "SOAK=1 runs it" end
  if not has_memory(14 << 30) then lu.skip "it needs 14 GiB of memory" end
  local s <close> = post.start { deadline = 900, code = [[
    local p <close> = pool.new { workers = 1 }
    local r = p:map(function(x) local s = ("x"):rep(1 << 30) return s .. s .. "yzxyz" .. x end, 1)
    print(#r[1] - (1 << 31), r[1]:sub(-6))
    local items = { r[1] }
    r = nil
    collectgarbage()
    print(p:map(function(s) return #s - (1 << 31) .. s:sub(-6) end, items)[1])]] }
  s:finish { exit = 0, within = 900, stdout = "6\tyzxyz1\n6yzxyz1\n" }
end

-- ---- processes that are stopped for a while ----

TestStopped = {}

local ROUNDS = [[
local p = pool.new { workers = 3, grace = 20, max_tasks = 40, idle_timeout = 5 }
local l, c = pool.lock(), pool.counter()
say "ready"
local last = os.getenv "SCRATCH"
local round = 0
repeat
  round = round + 1
  local r, n = p:map(function(x) local g <close> = l:acquire() c:add(1) return { round, x } end, 60, { chunk = 2, timeout = 60 })
  assert(n == 60)
  for i = 1, 60 do assert(r[i][1] == round and r[i][2] == i, "a wrong result") end
  if round % 3 == 0 then p:resize(round % 4 + 1) end
  if round % 5 == 0 then p:broadcast(function() return 1 end) end
  local stop = io.open(last)
until stop
assert(c:get() == round * 60, "an item ran twice")
p:close()
print "done"]]

-- Whoever it is, and wherever: the host, the helper, a worker.
for _, start in ipairs { "fork", "server", "spawn" } do
  TestStopped["test_one_at_a_time_at_random_" .. start] = function()
    local seed = math.random(1 << 30)
    math.randomseed(seed)
    local s <close> = post.start { code = ROUNDS, env = { LUAPOOL_START = start } }
    s:await "ready"
    for _ = 1, SOAK and 2000 or 60 do
      local all = proc.leftovers(s.mark)
      local pid = all[math.random(#all)]
      if pid and proc.kill(pid, "STOP") then
        proc.sleep(math.random() * 0.02)
        proc.kill(pid, "CONT")
      end
      proc.sleep(math.random() * 0.01)
    end
    assert(io.open(s.directory .. ".scratch", "w")):close()
    s.sent = proc.now()
    local ok, e = pcall(s.finish, s, { exit = 0, within = 60, stdout = "done\n" })
    if not ok then lu.fail(("seed %d: %s"):format(seed, type(e) == "table" and e.msg or tostring(e))) end
  end
end

-- A helper that nobody lets go on: pools end in spite of it.
for what, call in pairs { close = "close()", close_in_time = "close(1)", terminate = "terminate()" } do
  TestStopped["test_a_helper_that_stays_stopped_" .. what] = function()
    local s <close> = post.start { code = ([[
      local p = pool.new { workers = 2, start = "server", grace = 0.2 }
      p:map(math.abs, 10)
      rest()
      p:%s
      print "done"]]):format(call), stdin = "pipe" }
    s:await "rest"
    for _, child in ipairs(proc.children(s.pid)) do proc.kill(child.pid, "STOP") end
    s.child:write "\n"
    s.sent = proc.now()
    s:finish { exit = 0, within = 10, stdout = "done\n" }
  end
end

-- The death of a worker is noticed although the helper says nothing of it, and another helper starts the next one.
function TestStopped.test_a_worker_dies_whose_helper_stays_stopped()
  local s <close> = post.start { code = [[
    local p = pool.new { workers = 2, start = "server", grace = 0.2 }
    local ok, e = pcall(p.map, p, function() say "begun" while true do end end, 1)
    print(ok, e.kind, e.index, e.signal, e.exitcode, #p:map(math.abs, 100))
    rest()
    p:close()]], stdin = "pipe" }
  s:await "begun"
  local helper = proc.children(s.pid)[1].pid
  proc.kill(helper, "STOP")
  for _, worker in ipairs(proc.children(helper)) do proc.kill(worker.pid, "KILL") end
  s:relieve()
  s:finish { exit = 0, within = 10, stdout = "false\tcrash\t1\tnil\tnil\t100\n" }
end

-- Workers that are stopped, and have nothing more to do, are woken when their pool is closed.
for _, start in ipairs { "fork", "server", "spawn" } do
  TestStopped["test_workers_that_stay_stopped_" .. start] = function()
    local s <close> = post.start { code = [[
      local p = pool.new { workers = 2, grace = 0.2, on_exit = function() return pool.worker.id end }
      p:broadcast(math.abs, -1)
      rest()
      print(p:close())
      print "done"]], stdin = "pipe", env = { LUAPOOL_START = start } }
    s:await "rest"
    for _, pid in ipairs(proc.leftovers(s.mark)) do
      if pid ~= s.pid and proc.stat(pid).ppid ~= s.pid or start ~= "server" and pid ~= s.pid then proc.kill(pid, "STOP") end
    end
    s.child:write "\n"
    s.sent = proc.now()
    s:finish { exit = 0, within = 10, stdout = function(text) lu.assertStrMatches(text, "true\ttable: [^\n]*\ndone\n") end }
  end
end

-- ---- the terminal ----

TestTerminal = {}

-- At the prompt, at work there, and in a program that is not to notice: nobody is left, and nobody waits for a terminal that is gone.
for what, line in pairs {
  idle = "p = pool.new(2) p:map(math.abs, 3) io.stderr:write '#busy\\n'",
  at_work = "pool.map(function(x) if x == 1 then io.stderr:write '#busy\\n' end while true do end end, 4)",
} do
  TestTerminal["test_it_is_closed_at_the_prompt_" .. what] = function()
    local s <close> = post.start { args = { post.LUAPOOL, "-i" }, pty = true }
    lu.assertNotNil(s.child:read_until("> ", 20))
    s.child:write(line .. "\n")
    s:await "busy"
    s:hang_up()
  end
end

function TestTerminal.test_it_is_closed_and_the_job_is_to_go_on()
  local s <close> = post.start { ignore = { "HUP" }, pty = true, code = [[
    say "ready"
    local scratch = os.getenv "SCRATCH"
    local n = 0
    repeat
      local stop = io.open(scratch .. ".stop")
      n = n + #pool.map(function(x) print(x) io.stderr:write(x, "\n") return x end, 50, { workers = 2, progress = true })
    until stop
    assert(io.open(scratch, "w")):write(n % 50 == 0 and "whole" or "parts"):close()]] }
  s:await "ready"
  s.child:hang_up()
  assert(io.open(s.directory .. ".scratch.stop", "w")):close()
  local status = s.child:finish(20)
  os.remove(s.directory .. ".scratch.stop")
  lu.assertEquals({ status.exit, status.signal, disk.text_of(s.directory .. ".scratch") }, { 0, nil, "whole" })
  s:check_leftovers(post.SLACK / 2)
end
