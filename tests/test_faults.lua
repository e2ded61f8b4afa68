-- Faults at named points: signals to the host, to its group, deaths of workers and of the host, and system calls that fail, each exactly
-- where a race could be (runtime/base/fault.h), in the build that has these points.
local lu = require "luaunit"
local proc = require "proc"
local post = require "post"

-- One program that comes by all points: several calls in a pool of three, a result larger than a worker's ring, a close, a terminate, a
-- collected pool. Every call's results name the call, so that none of an interrupted one can pass for one of the next.
local PROGRAM = [[
local interrupts, crashes = 0, 0
local options = { chunk = 7, on_crash = "retry", retries = 3 }
local function check(p, round, n)
  local r, count = p:map(function(x) return { round, x } end, n, options)
  assert(count == n and #r == n, "a partial table")
  for i = 1, n do assert(r[i][1] == round and r[i][2] == i, "a result of another call") end
end
local function big(p)
  local r = p:map(function(x) return ("x"):rep(9 << 20) .. x end, 2, options)
  assert(#r == 2 and r[2]:sub(-1) == "2" and #r[1] == (9 << 20) + 1)
end
local steps = {
  function(p) check(p, 1, 100) end,
  function(p) check(p, 2, 200) end,
  big,
  function(p) check(p, 3, 300) end,
  function() local q = pool.new { workers = 2, grace = 0.3 } check(q, 4, 20) q:terminate() end,
  function() local q <close> = pool.new { workers = 2, grace = 0.3 } check(q, 5, 20) end,
  function() warn "@off" check(pool.new { workers = 2, grace = 0.3 }, 6, 20) collectgarbage() collectgarbage() end,
  function() local r = pool.map(math.abs, 50, { workers = 2, grace = 0.3, on_crash = "retry" }) assert(r[50] == 50) end,
  function(p) check(p, 7, 100) end,
}
]]

-- An interrupt ends the program.
local UNCAUGHT = PROGRAM .. [[
local p = pool.new { workers = 3, grace = 0.3 }
for _, step in ipairs(steps) do step(p) end
p:close()
print "done"
]]

-- The step that was interrupted is done again, with the same pool.
local CAUGHT = PROGRAM .. [[
local p = pool.new { workers = 3, grace = 0.3 }
local function try(step)
  local ok, e = pcall(step, p)
  if ok then return true end
  if not is_interrupt(e) then error(e, 0) end
  interrupts = interrupts + 1
end
local i = 1
local function all()
  while i <= #steps do
    if try(steps[i]) then i = i + 1 end
  end
  p:close()
  rest()
end
repeat
  local ok, e = pcall(all)
  if not ok then
    if not is_interrupt(e) then error(e, 0) end
    interrupts = interrupts + 1
  end
until ok
print("interrupts", interrupts)
]]

local HOST_POINTS = { "before_fork", "after_fork_parent", "dispatch_before", "dispatch_mid", "gather_mid", "gather_stored",
  "close_begin", "term_begin", "term_after_sigterm", "term_reap", "gc" }
local WORKER_POINTS = { "child_start", "child_ready", "worker_idle", "worker_claimed", "worker_run", "worker_result_before",
  "worker_result_mid", "worker_result_after" }

-- Start, and every time that one of its processes has stopped itself at the point: do `act` (the first time only) and let it go on.
local function stop_at(code, point, act)
  local s = post.start { code = code, program = post.FAULTY, env = { LUAPOOL_FAULT = point .. ":stop" }, stdin = "pipe" }
  local has_acted = false
  local function look()
    for _, pid in ipairs(proc.leftovers(s.mark)) do
      local stat = proc.stat(pid)
      if stat and stat.state == "T" then
        if not has_acted then
          has_acted = true
          act(s, pid)
        end
        proc.kill(pid, "CONT")
      end
    end
  end
  local limit = proc.now() + 20 * proc.slowness
  local has_rested = false
  repeat
    look()
    if not has_rested and s.child.stderr:find("#rest\n", 1, true) then
      has_rested = true
      s:relieve()
    end
  until s.child:wait(0.002) or proc.now() > limit
  for _ = 1, 3 do look() end -- whom the host's death left stopped
  lu.assertTrue(has_acted, "nobody came by " .. point)
  s.sent = proc.now()
  return s
end

TestSignalAtPoint = {}

local function matrix(class, points, what, code, act, expected)
  for _, point in ipairs(points) do
    class[("test_%s_at_%s"):format(what, point)] = function()
      local s <close> = stop_at(code, point, act)
      s:finish(expected)
    end
  end
end

local function kill_some_worker(s)
  for _, child in ipairs(s:workers()) do
    if child.state ~= "Z" then return proc.kill(child.pid, "KILL") end
  end
end

for _, points in ipairs { HOST_POINTS, WORKER_POINTS } do
  matrix(TestSignalAtPoint, points, "sigint_to_host_uncaught", UNCAUGHT, function(s) s:send("host", "INT") end,
    { signal = "SIGINT", stdout = "" })
  matrix(TestSignalAtPoint, points, "sigint_to_group_caught", CAUGHT, function(s) s:send("group", "INT") end,
    { exit = 0, stdout = "interrupts\t1\n" })
  matrix(TestSignalAtPoint, points, "sigterm_to_host", UNCAUGHT, function(s) s:send("host", "TERM") end,
    { signal = "SIGTERM", stdout = "" })
  matrix(TestSignalAtPoint, points, "sigkill_of_host", UNCAUGHT, function(s) s:send("host", "KILL") end,
    { signal = "SIGKILL", stdout = "" })
end
matrix(TestSignalAtPoint, HOST_POINTS, "sigkill_of_a_worker", CAUGHT, kill_some_worker, { exit = 0, stdout = "interrupts\t0\n" })
matrix(TestSignalAtPoint, WORKER_POINTS, "sigkill_of_this_worker", CAUGHT, function(_, pid) proc.kill(pid, "KILL") end,
  { exit = 0, stdout = "interrupts\t0\n" })

-- Where the interrupt of a call that is being ended, or of a program that is, would be its second and its third.
TestEscalationAtPoint = {}

for _, point in ipairs { "term_begin", "term_after_sigterm", "term_reap" } do
  for signals = 1, 2 do
    TestEscalationAtPoint[("test_sigint_%d_times_at_%s"):format(signals, point)] = function()
      local s <close> = post.start { program = post.FAULTY, env = { LUAPOOL_FAULT = point .. ":stop" }, code = [[
        local function never() while true do pcall(function() while true do end end) end end
        local p <close> = pool.new { workers = 2, grace = 60, on_exit = never }
        p:map(function(x) return x end, 20)
        p:terminate()]] }
      local function is_stopped() local stat = proc.stat(s.pid) return stat and stat.state == "T" end
      lu.assertTrue(proc.wait_until(is_stopped, 10), "it did not come by " .. point)
      s:send("host", "INT")
      s.child:kill("CONT")
      if signals == 2 then
        proc.sleep(0.25)
        s:send("host", "INT")
      end
      s:finish { signal = "SIGINT", stdout = "" }
    end
  end
end

-- Deaths of their own accord, at every point of a worker's life.
TestDeathAtPoint = {}

local DEATHS = { kill = "SIGKILL", segv = "SIGSEGV", abort = "SIGABRT", exit = 3 }

-- The third passage of worker 1 at the point; each such worker's successor dies in the same way.
local DYING = PROGRAM .. [[
local p = pool.new { workers = 2, grace = 0.3 }
local expected = EXPECTED
local seen = 0
local function work(round) -- slow enough that no worker does all alone
  return function(x) local t = os.clock() while os.clock() - t < 0.0005 do end return { round, x } end
end
for round = 1, 4 do
  local r, n, errors = p:map(work(round), 40, { chunk = 2, errors = "collect" })
  assert(n == 40)
  for i = 1, n do
    local e = errors[i]
    if e then
      seen = seen + 1
      assert(e.kind == "crash" and e.index == i and e.worker == 1 and r[i] == nil, tostring(e))
      assert(e.signal == expected or e.exitcode == expected, tostring(e))
      assert(tostring(e):find("item " .. i, 1, true))
    else
      assert(r[i][1] == round and r[i][2] == i, "a wrong result")
    end
  end
end
-- The default: raised, and the pool is usable afterwards.
local raised = 0
for round = 5, 8 do
  local ok, e = pcall(p.map, p, work(round), 40, { chunk = 2 })
  if ok then
    for i = 1, 40 do assert(e[i][1] == round and e[i][2] == i) end
  else
    assert(e.kind == "crash" and e.index and (e.signal == expected or e.exitcode == expected), tostring(e))
    raised = raised + 1
  end
end
check(p, 9, 40)
p:close()
rest()
print((seen > 0 or raised > 0) and "blamed" or "nobody blamed")
]]

-- Where the worker is in an item, the item is blamed; elsewhere the items go to others and nobody is.
local BLAMES = { worker_run = "blamed\n" }

for _, point in ipairs { "worker_idle", "worker_claimed", "worker_run", "worker_result_before", "worker_result_after" } do
  for action, ending in pairs(DEATHS) do
    TestDeathAtPoint[("test_%s_at_%s"):format(action, point)] = function()
      local s <close> = post.start { code = DYING:gsub("EXPECTED", type(ending) == "string" and ("%q"):format(ending) or ending, 1),
        program = post.FAULTY, stdin = "pipe", env = { LUAPOOL_FAULT = point .. "#3@1:" .. action } }
      s:relieve()
      s:finish { exit = 0, within = 10, stdout = BLAMES[point] or function() end }
    end
  end
end

for action, ending in pairs(DEATHS) do
  -- Half of a large result is in the ring: nothing of it may come out.
  TestDeathAtPoint["test_" .. action .. "_at_worker_result_mid"] = function()
    local s <close> = post.start { code = [[
      local p = pool.new { workers = 2, grace = 0.3 }
      local ok, e = pcall(p.map, p, function(x) return x == 2 and ("x"):rep(30 << 20) or x end, 4, { chunk = 1 })
      print(ok, e.kind, e.index, e.signal or e.exitcode)
      local r = p:map(function(x) return -x end, 100)
      print(#r, r[100])
      p:close() rest()]], program = post.FAULTY, stdin = "pipe", env = { LUAPOOL_FAULT = "worker_result_mid:" .. action } }
    s:relieve()
    s:finish { exit = 0, within = 10, stdout = ("false\tcrash\t2\t%s\n100\t-100\n"):format(ending) }
  end
  -- Who never gets ready is tried again only so often.
  for _, point in ipairs { "child_start", "child_ready" } do
    TestDeathAtPoint[("test_%s_of_each_at_%s"):format(action, point)] = function()
      local s <close> = post.start { code = [[
        local p = pool.new { workers = 2, grace = 0.3 }
        for i = 1, 2 do
          local ok, e = pcall(p.map, p, function(x) return x end, 10)
          print(ok, e.kind, e.signal or e.exitcode, tostring(e):match("^[^:]*"))
        end
        p:close() rest()]], program = post.FAULTY, stdin = "pipe", env = { LUAPOOL_FAULT = point .. "#0:" .. action } }
      s:relieve()
      s:finish { exit = 0, within = 10, stdout = ("false\tcrash\t%s\tworkers die before they are ready\n"):format(ending):rep(2) }
    end
  end
end

-- System calls that fail, one at a time: the program ends well, or with one clear error, and leaves nothing.
TestFailingCalls = {}

local CALLS = { fork = { "EAGAIN", "ENOMEM" }, mmap = { "ENOMEM" }, memfd = { "ENOSYS", "EMFILE" }, truncate = { "ENOSPC" },
  bell = { "EMFILE", "ENOSYS" }, socketpair = { "EMFILE" }, poll = { "ENOMEM" }, pidfd = { "ENOSYS", "EMFILE" }, open = { "EMFILE" },
  write = { "EIO" }, read = { "EIO" }, malloc = { "ENOMEM" }, random = { "EIO" } }

-- Without these nothing goes; for all others there is another way, or life without.
local FATAL = { ["fork EAGAIN"] = true, ["fork ENOMEM"] = true, ["mmap ENOMEM"] = true, ["memfd EMFILE"] = true, ["truncate ENOSPC"] = true,
  ["bell EMFILE"] = true, ["socketpair EMFILE"] = true, ["malloc ENOMEM"] = true }

-- Says "right" or one clear error for each of three rounds.
local FAILING = [[
local function attempt()
  local p <close> = pool.new { workers = 3, grace = 0.3 }
  local r = p:map(function(x) return { x, ("y"):rep(x) } end, 50, { chunk = 3 })
  for i = 1, 50 do assert(r[i][1] == i and r[i][2] == ("y"):rep(i)) end
  local items = {}
  for i = 1, 50 do items[i] = ("z"):rep(i * 100) end
  local s = p:map(function(x) return #x end, items)
  for i = 1, 50 do assert(s[i] == i * 100) end
  return "right"
end
local function fds() -- not by io.popen, which may still hold both ends of its pipe when the program looks
  local n, name = 0, os.tmpname()
  os.execute("ls /proc/$PPID/fd > " .. name)
  for _ in io.lines(name) do n = n + 1 end
  os.remove(name)
  return n
end
local before = fds()
for round = 1, 3 do
  local ok, e = pcall(attempt)
  local text = ok and e or tostring(e)
  if ok or type(e) == "table" or text:find("^cannot ") or text:find("^[%w ]+: [%w ]+") or text:find("not enough memory") then
    print(ok and "right" or "error: " .. text:match("[^\n]*"))
  else
    print("unclear: " .. text)
  end
end
collectgarbage() collectgarbage()
print(fds() - before <= 2 and "descriptors as before" or "descriptors left: " .. fds() - before)
rest()]]

local function failing(call, k, code)
  local s <close> = post.start { code = FAILING, program = post.FAULTY, stdin = "pipe",
    env = { LUAPOOL_FAIL = ("%s#%d:%s"):format(call, k, code) } }
  local out
  if not s.child:read_until("#rest\n", 15) then -- the program itself could not begin: it says so and leaves
    local status, _, err = s.child:finish(5)
    lu.assertEquals({ status.exit, s.child.stdout }, { 1, "" }, err)
    lu.assertEquals(select(2, s:stderr():gsub("\n", "")), 1, s:stderr())
    s:check_leftovers(post.SLACK / 2)
    return
  end
  s:relieve()
  s:finish { exit = 0, within = 10, stdout = function(text) out = text end }
  lu.assertNotStrContains(out, "unclear")
  lu.assertStrContains(out, "descriptors as before")
  local _, errors = out:gsub("error: ", "")
  if k == 0 then lu.assertEquals(errors, FATAL[call .. " " .. code] and 3 or 0, out) end
  if k > 0 then lu.assertTrue(errors <= 1, ("one failure of %s, %d errors:\n%s"):format(call, errors, out)) end
end

for call, codes in pairs(CALLS) do
  for _, code in ipairs(codes) do
    TestFailingCalls[("test_%s_%s"):format(call, code)] = function()
      for _, k in ipairs { 1, 2, 3, 4, 6, 9 } do failing(call, k, code) end
    end
    TestFailingCalls[("test_every_%s_%s"):format(call, code)] = function() failing(call, 0, code) end
  end
end

-- ---- an interrupt while a program is started ----

-- Its error takes the only handle of the program with it: the program goes first, and nobody waits for it.
TestProgramStarted = {}

local function started(fault, code, expected)
  local s <close> = post.start { program = post.FAULTY, env = { LUAPOOL_FAULT = fault }, code = code }
  s:finish(expected)
end

function TestProgramStarted:test_in_the_host()
  local code = [[local f = io.popen "sleep 1000; true" print "not to be seen"]]
  started("program_started:int", code, { signal = "SIGINT", stdout = "" })
  started("program_started:term", code, { signal = "SIGTERM", stdout = "" })
  started("program_started:int", [[
    print(is_interrupt(select(2, pcall(io.popen, "sleep 1000 & cat", "w"))))
    collectgarbage()
    print(io.popen("echo next"):read "a")]], { exit = 0, stdout = "true\nnext\n\n" })
end

-- Put off, it leaves the program alone.
function TestProgramStarted:test_shielded()
  started("program_started:int", [[
    local f = pool.shield(io.popen, "echo text")
    print "not to be seen"]], { signal = "SIGINT", stdout = "" })
  started("program_started:int", [[
    local text
    print(is_interrupt(select(2, pcall(pool.shield, function() text = io.popen("echo text"):read "a" end))), text)]],
    { exit = 0, stdout = "true\ttext\n\n" })
end

-- The worker lives on, and so does its pool, which is closed in peace.
function TestProgramStarted:test_in_a_task()
  started("program_started@1:host-int,program_started@1:sleep=300", [[
    local p = pool.new { workers = 2, grace = 20 }
    local ok, e = pcall(p.each, p, function()
      local f <close> = io.popen "sleep 1000; true"
      return f:read "a"
    end, 1)
    print(is_interrupt(e), #p:map(math.abs, 10), p:stats().forks)
    p:close()]], { exit = 0, stdout = "true\t10\t2\n" })
end
