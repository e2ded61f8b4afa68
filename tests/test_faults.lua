-- Faults at named points: signals to the host, to its group, deaths of workers and of the host, and system calls that fail, each exactly
-- where a race could be (runtime/base/fault.h), in the build that has these points.
local lu = require "luaunit"
local proc = require "proc"
local post = require "post"
local disk = require "disk"
local ways = require "ways"

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
local function stop_at(code, point, act, start)
  local s = post.start { code = code, program = post.FAULTY, env = { LUAPOOL_FAULT = point .. ":stop", LUAPOOL_START = start },
    stdin = "pipe" }
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
  repeat -- whom the host's death left stopped, or on its way there
    look()
    proc.sleep(0.002)
  until #proc.leftovers(s.mark) == 0 or proc.now() > limit
  lu.assertTrue(has_acted, "nobody came by " .. point)
  s.sent = proc.now()
  return s
end

TestSignalAtPoint = {}

local SOAK = os.getenv "SOAK"

-- How workers can start. "early": the command has no such option, but what luapool_init_early calls.
local STARTS <const> = { "server", "spawn", "early" }
local EARLY = post.EARLY .. "start_early()\n"

local function start_with(start, code)
  return start == "early" and EARLY .. code or code, start ~= "early" and start or nil
end

-- Define a test for each way to start workers: with forks always, with one of the others in turn, with all of them where there is time.
local turn = 0
local function for_starts(class, name, test)
  turn = turn + 1
  class[name] = function() test "fork" end
  for i, start in ipairs(STARTS) do
    if SOAK or turn % #STARTS == i - 1 then class[name .. "_" .. start] = function() test(start) end end
  end
end

local function matrix(class, points, what, code, act, expected)
  for _, point in ipairs(points) do
    for_starts(class, ("test_%s_at_%s"):format(what, point), function(start)
      if point == "after_fork_parent" and start == "spawn" then lu.skip "who executes programs does not fork" end
      local text, method = start_with(start, code)
      local passage = start == "early" and point == "before_fork" and "before_fork#2" or point -- (the first is that of the early start)
      local s <close> = stop_at(text, passage, function(scenario, pid) act(scenario, pid, start) end, method)
      s:finish(expected)
    end)
  end
end

local function kill_some_worker(s, _, start)
  for _, child in ipairs(proc.children(s.pid)) do
    local workers = (start == "server" or start == "early") and proc.children(child.pid) or { child }
    for _, worker in ipairs(workers) do
      if worker.state ~= "Z" then return proc.kill(worker.pid, "KILL") end
    end
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

-- Deaths between two steps of what a host and the helper of its pools say to each other: the helper's own (its workers go with it), the
-- host's, and that of the worker concerned. Workers are renewed all the time, and more and fewer of them are wanted amid a call.
TestHelperAtPoint = {}

local HELPED = [[
local function work(round)
  return function(x) local t = os.clock() while os.clock() - t < 0.0002 do end return { round, x } end
end
local p = pool.new { workers = 3, grace = 0.3, on_crash = "retry", retries = 20, max_tasks = 20 }
for round = 1, 3 do
  local f = p:map_async(work(round), 150, { chunk = 3 })
  for n = 4, 2, -1 do
    p:step(0.005)
    p:resize(n)
  end
  p:resize(3)
  local r, n = f:get()
  assert(n == 150)
  for i = 1, 150 do assert(r[i][1] == round and r[i][2] == i, "a wrong result") end
end
local ids = p:broadcast(function() return pool.worker.id end)
assert(ids[1] == 1 and ids[2] == 2 and ids[3] == 3 and #ids == 3)
local limit = os.time() + 20
while #p:workers() > 3 do -- one who is too many may be about to leave
  assert(os.time() < limit, "three are wanted")
  p:step(0.01)
end
p:close()
rest()
print "done"
]]

local HELPER_POINTS = { "helper_configure", "helper_ordered", "helper_forked", "helper_answered", "helper_reaped" }

local function helped(point, act, expected)
  local s <close> = stop_at(HELPED, point, act, "server")
  s:finish(expected)
end

for _, point in ipairs(HELPER_POINTS) do
  for _, nth in ipairs(point == "helper_configure" and { 1 } or { 1, 2, 9 }) do
    local passage = nth > 1 and ("%s#%d"):format(point, nth) or point
    TestHelperAtPoint[("test_sigkill_of_the_helper_at_%s"):format(passage)] = function()
      helped(passage, function(_, pid) proc.kill(pid, "KILL") end, { exit = 0, stdout = "done\n" })
    end
  end
  TestHelperAtPoint["test_sigkill_of_the_host_at_" .. point] = function()
    helped(point, function(s) s:send("host", "KILL") end, { signal = "SIGKILL", stdout = "" })
  end
  TestHelperAtPoint["test_sigkill_of_its_workers_at_" .. point] = function()
    helped(point == "helper_configure" and point or point .. "#2", function(_, pid)
      for _, child in ipairs(proc.children(pid)) do proc.kill(child.pid, "KILL") end
    end, { exit = 0, stdout = "done\n" })
  end
end

-- The host waits at its own step, and finds afterwards that the helper has gone.
for _, point in ipairs { "before_fork", "helper_asked", "dispatch_mid", "gather_mid", "gather_stored", "close_begin" } do
  TestHelperAtPoint["test_sigkill_of_the_helper_while_the_host_is_at_" .. point] = function()
    helped(point .. (point == "close_begin" and "" or "#2"), function(s)
      for _, child in ipairs(proc.children(s.pid)) do proc.kill(child.pid, "KILL") end
    end, { exit = 0, stdout = "done\n" })
  end
end

-- The helper is killed before it has said whom it started, and that one has claimed items and hears no signal: it is found and ended
-- before anything of it is given to others, so that no item begins twice; the one that it was at is reported.
local DEAF = [[
local log = os.getenv "SCRATCH"
local function note(...)
  local file <close> = assert(io.open(log, "a+"))
  local before = file:read "a"
  file:write(table.concat({ ... }, " "), "\n")
  return before
end
local p = pool.new { workers = 2, grace = 0.3 }
local r, n, errors = p:map(function(i)
  local before = note(pool.worker.id, "begins", i)
  if pool.worker.id == 2 and not before:find "2 begins" then while true do end end
  while not before:find "2 begins" do -- (nobody else is to have done all by then)
    local file <close> = assert(io.open(log))
    before = file:read "a"
  end
  return i
end, 6, { chunk = 1, errors = "collect" })
local begun, stuck = {}, nil
for line in io.lines(log) do
  local worker, i = line:match "^(%d+) begins (%d+)$"
  i = tonumber(i)
  assert(not begun[i], "twice")
  begun[i] = true
  if worker == "2" and not stuck then stuck = i end
end
for i = 1, n do
  assert(begun[i], "never")
  assert(errors[i] and errors[i].kind == "crash" and r[i] == nil or r[i] == i, tostring(errors[i]))
end
assert(errors[stuck], "nobody says that it was lost")
p:close()
rest()
print "once"
]]

-- Send the signal to the host's child that has stopped itself. Was there one?
local function wake_helpers(s, signal)
  for _, child in ipairs(proc.children(s.pid)) do
    if child.state == "T" then return proc.kill(child.pid, signal) or true end
  end
end

function TestHelperAtPoint:test_a_worker_that_does_not_leave()
  local s <close> = post.start { code = DEAF, program = post.FAULTY, stdin = "pipe",
    env = { LUAPOOL_START = "server", LUAPOOL_FAULT = "helper_forked#2:stop,worker_run@2:deaf" } }
  local function has_begun() return (disk.text_of(s.directory .. ".scratch") or ""):find "2 begins" end
  lu.assertNotNil(proc.wait_until(has_begun, 20), "worker 2 has begun nothing")
  lu.assertTrue(proc.wait_until(function() return wake_helpers(s, "KILL") end, 20), "the helper did not come by") -- it stops after its fork
  repeat wake_helpers(s, "CONT") -- the next one stops there, too
  until s.child:read_until("#rest\n", 0.01) or s.child:wait(0)
  s:relieve()
  s:finish { exit = 0, within = 10, stdout = "once\n" }
end

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
        ways.wait_for_delivery(s.pid, "INT")
        proc.sleep(0.5) -- more than a key's pace
        s:send("host", "INT")
      end
      s:finish { signal = "SIGINT", stdout = "" }
    end
  end
end

-- Deaths of their own accord, at every point of a worker's life.
TestDeathAtPoint = {}

local DEATHS = { { "kill", "SIGKILL" }, { "segv", "SIGSEGV" }, { "abort", "SIGABRT" }, { "exit", 3 } }

-- The third passage of worker 1 at the point; each such worker's successor dies in the same way.
local DYING = PROGRAM .. [[
local begun = pool.counter()
local p = pool.new { workers = 2, grace = 0.3, on_start = function() begun:add(1) end }
local expected = EXPECTED
local seen = 0
local function work(round) -- slow enough that no worker does all alone, and not before there are two
  return function(x)
    while begun:get() < 2 do end
    local t = os.clock()
    while os.clock() - t < 0.0005 do end
    return { round, x }
  end
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
  for _, death in ipairs(DEATHS) do
    local action, ending = table.unpack(death)
    for_starts(TestDeathAtPoint, ("test_%s_at_%s"):format(action, point), function(start)
      local code, method = start_with(start, DYING)
      code = code:gsub("EXPECTED", type(ending) == "string" and ("%q"):format(ending) or ending, 1)
      local s <close> = post.start { code = code, program = post.FAULTY, stdin = "pipe",
        env = { LUAPOOL_FAULT = point .. "#3@1:" .. action, LUAPOOL_START = method } }
      s:relieve()
      s:finish { exit = 0, within = 10, stdout = BLAMES[point] or function() end }
    end)
  end
end

for _, death in ipairs(DEATHS) do
  local action, ending = table.unpack(death)
  -- Half of a large result is in the ring: nothing of it may come out.
  for_starts(TestDeathAtPoint, "test_" .. action .. "_at_worker_result_mid", function(start)
    local code, method = start_with(start, [[
      local p = pool.new { workers = 2, grace = 0.3 }
      local ok, e = pcall(p.map, p, function(x) return x == 2 and ("x"):rep(30 << 20) or x end, 4, { chunk = 1 })
      print(ok, e.kind, e.index, e.signal or e.exitcode)
      local r = p:map(function(x) return -x end, 100)
      print(#r, r[100])
      p:close() rest()]])
    local s <close> = post.start { code = code, program = post.FAULTY, stdin = "pipe",
      env = { LUAPOOL_FAULT = "worker_result_mid:" .. action, LUAPOOL_START = method } }
    s:relieve()
    s:finish { exit = 0, within = 10, stdout = ("false\tcrash\t2\t%s\n100\t-100\n"):format(ending) }
  end)
  -- Who never gets ready is tried again only so often.
  for _, point in ipairs { "child_start", "child_ready" } do
    for_starts(TestDeathAtPoint, ("test_%s_of_each_at_%s"):format(action, point), function(start)
      local code, method = start_with(start, [[
        local p = pool.new { workers = 2, grace = 0.3 }
        for i = 1, 2 do
          local ok, e = pcall(p.map, p, function(x) return x end, 10)
          print(ok, e.kind, e.signal or e.exitcode, tostring(e):match("^[^:]*"))
        end
        p:close() rest()]])
      local s <close> = post.start { code = code, program = post.FAULTY, stdin = "pipe",
        env = { LUAPOOL_FAULT = point .. "#0:" .. action, LUAPOOL_START = method } }
      s:relieve()
      s:finish { exit = 0, within = 10, stdout = ("false\tcrash\t%s\tworkers die before they are ready\n"):format(ending):rep(2) }
    end)
  end
end

-- System calls that fail, one at a time: the program ends well, or with one clear error, and leaves nothing.
TestFailingCalls = {}

local CALLS = { { "fork", "EAGAIN", "ENOMEM" }, { "mmap", "ENOMEM" }, { "memfd", "ENOSYS", "EMFILE" }, { "truncate", "ENOSPC" },
  { "bell", "EMFILE", "ENOSYS" }, { "socketpair", "EMFILE" }, { "pipe", "EMFILE" }, { "poll", "ENOMEM" }, { "pidfd", "ENOSYS", "EMFILE" },
  { "open", "EMFILE" }, { "write", "EIO" }, { "read", "EIO" }, { "malloc", "ENOMEM" }, { "random", "EIO" }, { "spawn", "EAGAIN" } }

-- Without these nothing goes; for all others there is another way, or life without.
local FATAL = { ["fork EAGAIN"] = true, ["fork ENOMEM"] = true, ["mmap ENOMEM"] = true, ["memfd EMFILE"] = true, ["truncate ENOSPC"] = true,
  ["bell EMFILE"] = true, ["socketpair EMFILE"] = true, ["pipe EMFILE"] = true, ["malloc ENOMEM"] = true }

-- Says "right" or one clear error for each of three rounds.
local FAILING = post.FDS .. [[
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

-- An early start that fails is no other's.
local FAILING_EARLY = ("local ok, e = pcall(function() %s end)\nif not ok then print('error: ' .. e) return end\n"):format(EARLY) .. FAILING

local function check_failures(call, k, code, start, out)
  local _, errors = out:gsub("error: ", "")
  lu.assertNotStrContains(out, "unclear")
  lu.assertStrContains(out, "descriptors as before")
  if start == "fork" then
    if k == 0 then lu.assertEquals(errors, FATAL[call .. " " .. code] and 3 or 0, out) end
    if k > 0 then lu.assertTrue(errors <= 1, ("one failure of %s, %d errors:\n%s"):format(call, errors, out)) end
  elseif k == 0 and FATAL[call .. " " .. code] and (call ~= "fork" or start ~= "spawn") then -- (each helper counts for itself)
    lu.assertEquals(errors, 3, out)
  end
end

local function failing(call, k, code, start)
  local s <close> = post.start { code = start == "early" and FAILING_EARLY or FAILING, program = post.FAULTY, stdin = "pipe",
    env = { LUAPOOL_FAIL = ("%s#%d:%s"):format(call, k, code), LUAPOOL_START = start ~= "early" and start or nil } }
  local out
  if not s.child:read_until("#rest\n", 15) then -- the program itself could not begin, or start early: it says so and leaves
    local status, _, err = s.child:finish(5)
    local told = start == "early" and status.exit == 0 and s.child.stdout or err
    if told == err then lu.assertEquals({ status.exit, s.child.stdout }, { 1, "" }, err) end
    lu.assertEquals(select(2, told:gsub("\n", "")), 1, told)
    s:check_leftovers(post.SLACK / 2)
    return
  end
  s:relieve()
  s:finish { exit = 0, within = 10, stdout = function(text) out = text end }
  check_failures(call, k, code, start, out)
end

for _, words in ipairs(CALLS) do
  local call = words[1]
  for i = 2, #words do
    local code = words[i]
    for_starts(TestFailingCalls, ("test_%s_%s"):format(call, code), function(start)
      local some = SOAK and { 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15 } or start == "fork" and { 1, 2, 3, 4, 6, 9 } or { 1, 2, 3, 5 }
      for _, k in ipairs(some) do failing(call, k, code, start) end
    end)
    for_starts(TestFailingCalls, ("test_every_%s_%s"):format(call, code), function(start) failing(call, 0, code, start) end)
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

-- Somebody stops the child before it has become the program, as a terminal's Ctrl-Z does: who waits for it can be stopped as well, and
-- both go on.
function TestProgramStarted:test_stopped_before_it_is_the_program()
  local s <close> = post.start { program = post.FAULTY, env = { LUAPOOL_FAULT = "program_forked:stop" }, pty = true,
    code = [[print(os.execute "exit 3")]] }
  local function stopped_child()
    for _, child in ipairs(proc.children(s.pid)) do
      if child.state == "T" then return child.pid end
    end
  end
  local child = proc.wait_until(stopped_child, 20)
  lu.assertNotNil(child, "nobody came by")
  s.child:kill "STOP"
  local function is_stopped() return proc.stat(s.pid).state == "T" end
  lu.assertTrue(proc.wait_until(is_stopped, 20), "it cannot be stopped")
  s.child:kill "CONT"
  proc.kill(child, "CONT")
  s:finish { exit = 0, within = 20, stdout = "nil\texit\t3\n" }
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
