-- Workers and hosts that die, run out of something, or sit on the other side of something: no hang, no nil, no shorter result, nobody left.
local lu = require "luaunit"
local proc = require "proc"
local post = require "post"
local ways = require "ways"

local SOAK = os.getenv("SOAK")
local LUAPOOL = post.LUAPOOL

local function run(code, expected, options)
  options = options or {}
  options.code, options.expected = code, expected
  return post.run(options)
end

-- ---- workers ----

TestWorkers = {}

local ENDS = {
  sigkill = { "os.execute('kill -KILL $PPID')", "SIGKILL" },
  sigsegv = { "os.execute('kill -SEGV $PPID')", "SIGSEGV" },
  sigabrt = { "os.execute('kill -ABRT $PPID')", "SIGABRT" },
  sigpipe = { "os.execute('kill -PIPE $PPID')", "SIGPIPE" },
  sigterm = { "os.execute('kill -TERM $PPID') spin(5)", "SIGTERM" },
  exit_0 = { "os.exit(0)", 0 },
  exit_3 = { "os.exit(3)", 3 },
  exit_true_with_close = { "os.exit(true, true)", 0 },
  exit_in_a_coroutine = { "coroutine.wrap(function() os.exit(4, true) end)()", 4 },
  exit_under_pcall = { "pcall(os.exit, 5)", 5 },
}

for name, ending in pairs(ENDS) do
  TestWorkers["test_" .. name] = function()
    run(([[
      io.write "before "
      local finalizer = setmetatable({}, { __gc = function() print "finalized" end })
      local p = pool.new(3)
      local function task(x) if x == 7 then %s end return x * 2 end
      for _ = 1, 2 do
        local ok, e = pcall(p.map, p, task, 20, { chunk = 1 })
        print(ok, e.kind, e.index, e.signal or e.exitcode)
        local r, n, errors = p:map(task, 20, { errors = "collect" })
        local count = 0
        for i = 1, n do if r[i] == i * 2 then count = count + 1 end end
        print(n, count, errors[7].kind, next(errors), errors[7].signal or errors[7].exitcode)
      end
      print(#p:map(task, 20, { on_crash = "skip" }) <= 20, #p:map(math.abs, 100))
      p:close()]]):format(ending[1]), function(out)
      local one = ("false\tcrash\t7\t%s\n20\t19\tcrash\t7\t%s\n"):format(ending[2], ending[2])
      lu.assertEquals(out:gsub("0x%x+", "ADDRESS"), "before " .. one .. one .. "true\t100\nfinalized\n")
    end)
  end
end

-- An idle worker that was killed is simply replaced.
function TestWorkers:test_idle_ones()
  run([[
    local p = pool.new(3)
    for round = 1, 5 do
      assert(#p:map(math.abs, 50) == 50)
      for _, w in ipairs(p:workers()) do os.execute("kill -KILL " .. w.pid .. " 2>/dev/null") end -- (gone already)
      if round % 2 == 0 then io.popen("sleep 0.02"):close() end
    end
    assert(#p:map(math.abs, 50) == 50)
    for _, w in ipairs(p:workers()) do os.execute("kill -STOP " .. w.pid .. " 2>/dev/null") end
    p:terminate(0.2) p:terminate() p:close()
    print "gone"]], "gone\n")
end

function TestWorkers:test_terminate_after_all_were_killed()
  run([[
    local p <close> = pool.new(3)
    p:map(math.abs, 50)
    for _, w in ipairs(p:workers()) do os.execute("kill -KILL " .. w.pid) end
    p:terminate()
    print "gone"]], "gone\n")
end

-- A machine that is busy, and much memory: who was killed is gone seconds later. Whatever ends a pool waits for that, and leaves no zombie.
for name, ending in pairs {
  terminate = "p:terminate(0.1)", ["an error"] = "pcall(function() local q <close> = p error 'x' end)",
  ["a collection"] = "f, p = nil collectgarbage() collectgarbage()",
} do
  TestWorkers["test_a_slow_death_and_" .. name:gsub(" ", "_")] = function()
    local s <close> = post.start { stdin = "pipe", stderr = "pipe", code = ([[
      warn "@off"
      local p = pool.new { workers = 1, grace = 0.1 }
      local begun = pool.counter()
      local f = p:submit(function()
        begun:add()
        while true do pcall(function() while true do end end) end
      end)
      while begun:get() == 0 do p:step(0.01) end
      rest()
      %s
      rest()
      print "end"]]):format(ending) }
    s:await "rest"
    local victim = s:workers()[1].pid
    if not proc.hold_death(victim) then lu.skip "it is not allowed here to hold a process" end
    s.child:write "\n"
    ways.wait_for(function() return proc.is_dying(victim) end, "nobody killed it")
    proc.sleep(2.5)
    proc.let_die(victim)
    ways.wait_for(function()
      local stat = proc.stat(victim)
      return not stat or stat.state == "Z"
    end, "it does not die")
    s:relieve(2)
    s:finish { exit = 0, stdout = "end\n" }
  end
end

-- No dead child waits for its host, however many there are.
function TestWorkers:test_many_crashes_and_no_zombie()
  local s <close> = post.start { stdin = "pipe", deadline = 120, code = ([[
    local p = pool.new(4)
    local function task(x) if x %% 2 == 0 then os.exit(x %% 200) end return x end
    local r, n, errors = p:map(task, %d, { errors = "collect", chunk = 3 })
    local wrong = 0
    for i = 1, n do
      if i %% 2 == 0 and (not errors[i] or errors[i].exitcode ~= i %% 200) or i %% 2 == 1 and r[i] ~= i then wrong = wrong + 1 end
    end
    print(n, wrong)
    p:map(math.abs, 100)
    rest()
    p:close()]]):format(SOAK and 20000 or 400) }
  s:relieve()
  s:finish { exit = 0, within = 20, stdout = (SOAK and 20000 or 400) .. "\t0\n" }
end

-- Kills at random moments from outside, while calls go on: retried, each is complete.
function TestWorkers:test_random_kills()
  local s <close> = post.start { stdin = "pipe", deadline = SOAK and 600 or 60, code = [[
    local p = pool.new { workers = 3, grace = 0.2, on_crash = "retry", retries = 50 }
    io.stdin:setvbuf "no"
    say "ready"
    local t = os.time()
    local round = 0
    while not io.open(os.getenv "SCRATCH") do
      round = round + 1
      local this = round
      local ok, r, n = pcall(p.map, p, function(x) return { this, x, ("y"):rep(x) } end, 200)
      if ok then
        assert(n == 200 and #r == 200)
        for i = 1, 200 do assert(r[i][1] == this and r[i][2] == i and #r[i][3] == i) end
      else -- one after the other was killed while he began
        assert(tostring(r):find "^workers die before they are ready", r)
      end
    end
    p:map(math.abs, 10)
    p:close()
    rest()
    print "whole"]] }
  s:await "ready"
  local killed = 0
  for _ = 1, SOAK and 10000 or 150 do
    proc.sleep(math.random() ^ 2 * 0.02)
    local workers = s:workers()
    local victim = workers[math.random(math.max(#workers, 1))]
    if victim and victim.state ~= "Z" and proc.kill(victim.pid, "KILL") then killed = killed + 1 end
  end
  assert(io.open(s.directory .. ".scratch", "w")):close()
  s:relieve()
  s:finish { exit = 0, stdout = "whole\n" }
  lu.assertTrue(killed > 20, "few were there to be killed: " .. killed)
end

-- ---- hosts ----

TestHosts = {}

-- The tasks' words go into a file: the host is in its source, and passes on nothing that they print.
local OCCUPIED = [[
  local p = pool.new(4)
  p:map(math.abs, 100)
  local q = pool.new { workers = 4, on_start = function() say "started" end }
  local function host_ends() HOST_ENDS end
  local function source()
    local n = 0
    return function()
      n = n + 1
      if n == 30 then say "ready" while not io.open(os.getenv "SCRATCH") do end host_ends() spin(20) end
      return n
    end
  end
  q:map(function(x)
    if x > 3 then return x end
    local words <close> = assert(io.open(os.getenv "SCRATCH" .. ".words", "a"))
    words:write("task\n") words:flush()
    if x == 1 then os.execute "sleep 60" elseif x == 2 then while true do end else io.popen("sleep 60"):read "a" end
  end, source(), { chunk = 1 })]]

local HOST_ENDS = {
  sigkill = { "os.execute('kill -KILL $PPID')", { signal = "SIGKILL" } },
  sigsegv = { "os.execute('kill -SEGV $PPID')", { signal = "SIGSEGV" } },
  sigabrt = { "os.execute('kill -ABRT $PPID')", { signal = "SIGABRT" } },
  sigquit = { "io.popen('kill -QUIT $PPID'):close()", { signal = "SIGQUIT" } },
  exit = { "os.exit(7)", { exit = 7 } },
  exit_with_close = { "os.exit(7, true)", { exit = 7 } },
  exit_in_a_coroutine = { "coroutine.wrap(function() os.exit(8, true) end)()", { exit = 8 } },
}

-- A sanitizer would catch the signal and exit; here the program itself is to die of it.
local UNCAUGHT = {}
for _, name in ipairs { "ASAN_OPTIONS", "UBSAN_OPTIONS" } do UNCAUGHT[name] = (os.getenv(name) or "") .. ":handle_segv=0" end

-- Idle workers, busy ones and ones in programs: none is there when their host has gone, and neither are the programs.
for name, ending in pairs(HOST_ENDS) do
  TestHosts["test_" .. name] = function()
    local s <close> = post.start { code = OCCUPIED:gsub("HOST_ENDS", function() return ending[1] end, 1), env = UNCAUGHT }
    local words = s.directory .. ".scratch.words"
    s:await("ready")
    local function have_begun()
      local f <close> = io.open(words) -- the first of them makes it
      return f and f:read("a") == ("task\n"):rep(3)
    end
    lu.assertTrue(proc.wait_until(have_begun, 15), "the tasks never began")
    os.remove(words)
    assert(io.open(s.directory .. ".scratch", "w")):close()
    s.sent = proc.now()
    local expected = { left_within = 1, stdout = "", stderr = "^.*$" }
    for key, value in pairs(ending[2]) do expected[key] = value end
    s:finish(expected)
  end
end

-- From inside a callback of the running call: everything that ends or uses the pool.
local CALLBACKS = {
  terminate = { "p:terminate(0.1)" }, close = { "p:close()" },
  map_again = { "p:map(math.abs, 3)" }, apply_again = { "p:apply(math.abs, 3)" },
  error = { "error 'stop'" }, collect = { "for _ = 1, 3 do collectgarbage() end" }, stats = { "p:stats() p:workers() tostring(p)" },
  one_shot = { "assert(#pool.map(math.abs, 3) == 3)" }, yield = { "coroutine.yield()" },
}

for name, case in pairs(CALLBACKS) do
  TestHosts["test_in_a_source_" .. name] = function()
    run(([[
      warn "@off"
      local p = pool.new { workers = 2, grace = 0.2 }
      local n = 0
      local ok, e = pcall(p.map, p, function(x) return x end, function()
        n = n + 1
        if n == 5 then %s end
        if n < 10 then return n end
      end)
      local text = tostring(e)
      io.stderr:write(ok and "" or text:match "[^\n]*" .. "\n")
      local ok2, r = pcall(p.map, p, math.abs, 10)
      print(ok2 and #r == 10 or tostring(r):find("closed") ~= nil)]]):format(case[1]), "true\n",
      { expected_stderr = "^[^\n]*\n?$" })
  end
end

function TestHosts:test_a_task_that_yields()
  run([[local p <close> = pool.new(2)
    local ok, e = pcall(p.map, p, function(x) coroutine.yield(x) end, 3)
    print(ok, e.kind, e.message:match "attempt to yield[%a -]*", #p:map(math.abs, 3))]],
    function(out) lu.assertStrMatches(out, "false\terror\tattempt to yield[%a -]*\t3\n") end)
end

-- ---- programs that tasks have started ----

TestPrograms = {}

-- Nobody but their worker knows of these two: the handles are gone. Whatever ends the worker in the middle of its item ends them.
local HANDLES_LOST = [[
  local function task()
    do io.popen "sleep 1000" end
    do io.popen("sleep 1000 & sleep 1000", "w") end
    say "ready"
    while true do end
  end
  local p = pool.new { workers = 2, grace = 0.3 }]]

function TestPrograms:test_end_with_a_terminated_pool()
  local s <close> = post.start { stdin = "pipe", code = HANDLES_LOST .. [[
    local ok, e = pcall(p.each, p, task, 2)
    p:terminate()
    print(ok, is_interrupt(e))
    rest()]] }
  s:await("ready", 2)
  s:send "host"
  s:await "rest"
  s:relieve()
  s:finish { exit = 0, stdout = "false\ttrue\n" }
end

function TestPrograms:test_end_with_an_interrupted_script()
  for _, signal in ipairs { "INT", "TERM" } do
    local s <close> = post.start { code = HANDLES_LOST .. "p:each(task, 2)" }
    s:await("ready", 2)
    s:send("host", signal)
    s:finish { signal = "SIG" .. signal, stdout = "" }
  end
end

function TestPrograms:test_end_with_a_worker_that_somebody_ends()
  local s <close> = post.start { code = HANDLES_LOST .. [[
    local r, n, errors = p:map(task, 2, { errors = "collect", chunk = 1 })
    print(n, errors[1].kind, errors[2].kind)]] }
  s:await("ready", 2)
  for _, worker in ipairs(s:workers()) do proc.kill(worker.pid, "TERM") end
  s:finish { exit = 0, stdout = "2\tcrash\tcrash\n" }
end

-- ---- pools that nobody closed ----

TestForgotten = {}

function TestForgotten:test_collected()
  local s <close> = post.start { stdin = "pipe", code = post.FDS .. [[
    warn "@on"
    local before = fds()
    do local p = pool.new(4) p:map(math.abs, 10) end
    collectgarbage() collectgarbage()
    print(fds() - before)
    rest()
    print "end"]] }
  s:await "rest"
  lu.assertEquals(#s:workers(), 0)
  s:relieve()
  s:finish { exit = 0, stdout = "0\nend\n", stderr = "^[^\n]*a pool was never closed[^\n]*\n$" }
end

function TestForgotten:test_the_end_of_the_script()
  run([[p = pool.new(4) p:map(math.abs, 10) print "end"]], "end\n")
  run([[local co = coroutine.wrap(function() local p <close> = pool.new(4) p:map(math.abs, 10) coroutine.yield() end)
    co() print "end"]], "end\n")
  run([[local p = pool.new(4) p:map(math.abs, 10) error "wrong"]], "", { exit = 1, expected_stderr = "^.*wrong.*$" })
end

function TestForgotten:test_collections_all_the_time()
  run([[collectgarbage("generational") collectgarbage("setpause", 0)
    local r = pool.new(4):map(function(x) collectgarbage() return { x } end, (function() local n = 0
      return function() collectgarbage() n = n + 1 if n <= 200 then return n end end end)())
    local sum = 0 for _, v in ipairs(r) do sum = sum + v[1] end print(sum)]], "20100\n")
end

-- ---- input and output ----

TestStreams = {}

local PRINTING = [[io.write "A" local p = pool.new(4) p:map(function(x) print("line " .. x) end, 8) io.write "B" p:close()]]

local function check_printed(out)
  local lines = {}
  out = out:gsub("^A", ""):gsub("B$", "")
  for line in out:gmatch("([^\n]*)\n") do lines[#lines + 1] = line end
  table.sort(lines)
  lu.assertEquals(table.concat(lines, ","), "line 1,line 2,line 3,line 4,line 5,line 6,line 7,line 8")
end

function TestStreams:test_nothing_is_printed_twice()
  run(PRINTING, check_printed)
  run(PRINTING, check_printed, { pty = true })
  run(PRINTING .. "os.exit(0)", check_printed)
  local s <close> = post.start { args = { "sh", "-c", '"$0" -e "$1" > "$SCRATCH"; cat "$SCRATCH"', LUAPOOL, PRINTING } }
  s:finish { exit = 0, stdout = check_printed, within = 10 }
end

function TestStreams:test_a_script_on_stdin_runs_once()
  local script = "print 'once' local p <close> = pool.new(3) "
    .. "p:map(function(x) if x == 2 then os.exit(0) end end, 4, { on_crash = 'skip' })\n"
  local s <close> = post.start { args = { LUAPOOL, "-" }, stdin = script .. ("-- filler\n"):rep(20000) .. "print 'end'\n" }
  s:finish { exit = 0, stdout = "once\nend\n", within = 10 }
end

function TestStreams:test_tasks_do_not_eat_the_hosts_input()
  run([[local p <close> = pool.new(3)
    local r, n = p:map(function() return io.read() end, 6)
    print(n, next(r), io.read(), io.read(), io.read())]], "6\tnil\ta\tb\tnil\n", { stdin = "a\nb\n" })
end

function TestStreams:test_a_reader_that_leaves()
  local code = [[for i = 1, 100 do
    for _, v in ipairs(pool.map(function(x) return ("z"):rep(1000) end, 50, { workers = 2 })) do print(v) end
  end]]
  local s <close> = post.start { args = { "bash", "-c", '"$0" -e "$1" | head -n 1 | wc -c; echo "${PIPESTATUS[0]}"', LUAPOOL, code } }
  s:finish { exit = 0, stdout = "1001\n141\n", within = 10 }
end

function TestStreams:test_a_reader_that_leaves_and_nobody_minds()
  local code = [[local p <close> = pool.new(2) p:map(math.abs, 10) while true do assert(io.write(("z"):rep(1000), "\n")) end]]
  local s <close> = post.start {
    args = { "bash", "-c", [[trap '' PIPE; "$0" -e "$1" | head -n 1 | wc -c; echo "${PIPESTATUS[0]}"]], LUAPOOL, code } }
  s:finish { exit = 0, stdout = "1001\n1\n", within = 10, stderr = "^[^\n]*Broken pipe.*$" }
end

function TestStreams:test_the_pipe_behind_ends_with_the_host()
  local code = [[pool.map(function(x) if x == 1 then io.stderr:write("#ready\n") end os.execute "sleep 60" end, 4,
    { workers = 2, grace = 0.2 })]]
  local s <close> = post.start { args = { "bash", "-c", [[trap '' INT; ("$0" -e "$1"; echo over) | cat]], LUAPOOL, code } }
  s:await "ready"
  for _, pid in ipairs(proc.leftovers(s.mark)) do
    local stat = proc.stat(pid)
    local parent = stat and proc.stat(stat.ppid)
    if stat and stat.name == "luapool" and parent and parent.name == "bash" then s.sent = proc.now() proc.kill(pid, "INT") end
  end
  s:finish { exit = 0, stdout = "over\n", stderr = "^.*$" }
end

-- 80,000 lines by four workers, none torn.
local LINES = [[pool.map(function(x)
  for i = 1, 100 do print(x .. " " .. ("abc"):rep(15) .. " " .. i) end
end, 800, { workers = 4 })]]

local function check_lines(text)
  local count, seen = 0, {}
  for line in text:gmatch("([^\n]*)\n") do
    local x, word, i = line:match("^(%d+) (%a+) (%d+)$")
    if not x or word ~= ("abc"):rep(15) then lu.fail("torn: " .. line:sub(1, 200)) end
    seen[x * 1000 + i], count = true, count + 1
  end
  local different = 0
  for _ in pairs(seen) do different = different + 1 end
  lu.assertEquals({ count, different }, { 80000, 80000 })
end

function TestStreams:test_no_line_is_torn_in_a_pipe()
  run(LINES, check_lines)
end

function TestStreams:test_no_line_is_torn_in_a_file()
  local s <close> = post.start { args = { "sh", "-c", '"$0" -e "$1" >> "$SCRATCH"; cat "$SCRATCH"', LUAPOOL, LINES } }
  s:finish { exit = 0, stdout = check_lines, within = 20 }
end

-- ---- much of everything ----

TestMuch = {}

-- Both directions full, on one processor.
function TestMuch:test_large_items_and_results_on_one_processor()
  run([[
    local items = {}
    for i = 1, 24 do items[i] = ("i"):rep(4 << 20) .. i end
    local p <close> = pool.new(8)
    p:map(math.abs, 8)
    local r = p:map(function(s) return s:upper() end, items)
    local right = 0
    for i = 1, 24 do if #r[i] == #items[i] and r[i]:sub(-3) == items[i]:upper():sub(-3) then right = right + 1 end end
    print(right)]], "24\n", { before = { "taskset", "-c", "0" }, within = 40 })
end

-- One worker stands still; the others do the rest, and an interrupt gets through.
function TestMuch:test_one_stands_still()
  local s <close> = post.start { code = [[
    local p = pool.new { workers = 3, grace = 0.3 }
    local ok, e = pcall(p.map, p, function(x)
      if x == 1 then os.execute "kill -STOP $PPID" end
      local f <close> = io.open(os.getenv "SCRATCH", "a")
      f:write(x, "\n")
      if x == 60 then say "ready" end
      return ("r"):rep(1 << 20)
    end, 60, { chunk = 1 })
    print(ok, is_interrupt(e))
    local n = 0
    for _ in io.lines(os.getenv "SCRATCH") do n = n + 1 end
    print(n, #p:map(math.abs, 10))
    p:close()]] }
  s:await "ready"
  proc.wait_until(function() -- the last notes are on their way
    local n = 0
    for _ in io.lines(s.directory .. ".scratch") do n = n + 1 end
    return n == 59
  end, 20)
  s:send("host", "INT")
  s:finish { exit = 0, stdout = "false\ttrue\n59\t10\n" }
end

-- ---- what a worker holds ----

TestDescriptors = {}

-- What is there: its input, two pipes for its output (and its own way to them), what stays of the pool's (a lifeline, three bells, the
-- items' memory; of a helper's, the board, whose lock it has), nothing of any other.
function TestDescriptors:test_each_worker_has_its_own_only()
  local s <close> = post.start { stdin = "pipe", code = [[
    local p, q = pool.new(3), pool.new(2)
    for i = 1, 3 do
      p:map(function() spin(0.02) end, 3) q:map(function() spin(0.02) end, 2)
      if i == 2 then pcall(p.map, p, function(x) if x == 1 then os.exit(1) end end, 3) end
    end
    rest()
    p:close() q:close()]] }
  s:await "rest"
  local sockets, outputs, workers = {}, {}, nil
  lu.assertTrue(proc.wait_until(function() -- none of them is still on its way
    workers = s:workers()
    for _, worker in ipairs(workers) do
      if worker.state ~= "S" then return false end
    end
    return #workers == 5
  end, 20))
  for _, worker in ipairs(workers) do
    local counts, pipes, own = {}, {}, {}
    for _, text in ipairs(proc.fds(worker.pid)) do
      local number, target = text:match("^(%d+) %-> (.*)$")
      if tonumber(number) == 0 then
        lu.assertEquals(target, "/dev/null")
      elseif tonumber(number) <= 2 then
        lu.assertStrMatches(target, "pipe:.*")
        lu.assertNil(outputs[target], "two workers hold " .. target)
        outputs[target], own[target] = true, true
      elseif own[target] then
        counts.output = (counts.output or 0) + 1
      else
        local kind = target:match("^socket") or target:match("eventfd") or target:match("memfd") or target
        -- (Where there is no memfd.)
        if target:find "^/dev/shm/.*%(deleted%)$" or target:find "/luapool%-[^/]*%(deleted%)$" then kind = "memfd" end
        if target:find "^pipe:" then -- nor eventfd: a bell is both ends of a pipe
          kind = not pipes[target] and "eventfd" or nil
          pipes[target] = true
        end
        if kind then counts[kind] = (counts[kind] or 0) + 1 end
        if kind == "socket" then
          lu.assertNil(sockets[target], "two workers hold " .. target)
          sockets[target] = true
        end
      end
    end
    lu.assertEquals(counts, { socket = 1, eventfd = 3, memfd = ways.start == "server" and 2 or 1, output = 2 })
  end
  s:relieve()
  s:finish { exit = 0, stdout = "" }
end

-- ---- limits ----

TestLimits = {}

local LIMITED = [[
  for round = 1, 3 do
    local p <close> = pool.new(WORKERS)
    local ok, e = pcall(p.map, p, function(x) spin(0.001) return x end, 100)
    if ok then assert(#e == 100 and e[100] == 100) else assert(tostring(e):find "^cannot", tostring(e)) end
    print(ok and "whole" or "refused")
  end]]

function TestLimits:test_few_descriptors()
  for _, workers in ipairs { 2, 12 } do
    run(LIMITED:gsub("WORKERS", tostring(workers)), workers == 2 and "whole\nwhole\nwhole\n" or "refused\nrefused\nrefused\n",
      { before = { "prlimit", "--nofile=32" } })
  end
end

function TestLimits:test_few_processes()
  local as_nobody = { "setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "prlimit", "--nproc=4" }
  local words = table.concat(as_nobody, " ")
  if not os.execute(("%s '%s' -e '' 2> /dev/null"):format(words, LUAPOOL)) then lu.skip("cannot run the program as nobody") end
  run(LIMITED:gsub("WORKERS", "12"), "refused\nrefused\nrefused\n", { before = as_nobody })
end

-- Also where files of memory would lie there, since the system has no memfd.
function TestLimits:test_no_room_in_dev_shm()
  local mount = "mount -t tmpfs -o size=4k none /dev/shm"
  if not os.execute(("unshare -m sh -c '%s' 2> /dev/null"):format(mount)) then lu.skip("no right to make a mount namespace") end
  for _, fail in ipairs { "", "memfd#0:ENOSYS" } do
    run([[local p <close> = pool.new(2)
      local a = pool.array("u8", 8 << 20):fill(7)
      print(#p:map(function(x) return ("s"):rep(100000) end, 100)[100], p:apply(function() return a[8 << 20] end))]], "100000\t7\n",
      { env = { LUAPOOL_FAIL = fail }, program = post.FAULTY, before = { "unshare", "-m", "sh", "-c", mount .. '; exec "$@"', "sh" } })
  end
end

function TestLimits:test_memory()
  run([[local p <close> = pool.new { workers = 2, memory = "32M" }
    local ok, e = pcall(p.map, p, function(x) if x == 3 then return ("m"):rep(200 << 20) end return x end, 6, { chunk = 1 })
    print(ok, e.kind, e.index, #p:map(math.abs, 10))]], "false\tmemory\t3\t10\n")
end

function TestLimits:test_depth()
  run([[local p <close> = pool.new(2)
    local r = p:map(function() local t = {} for _ = 1, 100000 do t = { t } end return t end, 1)
    local n, t = 0, r[1]
    while t[1] do n, t = n + 1, t[1] end
    local ok, e = pcall(p.map, p, function() local function f(s) return (s:gsub(".", f)) end return f "x" end, 1)
    print(n, ok, e.kind, #p:map(math.abs, 10))]], "100000\tfalse\terror\t10\n")
end

-- Too long: told by the item, within the limit and a little, whether the task cooperates or not; the others are not touched.
function TestLimits:test_time()
  for name, task in pairs { loop = "while true do end", stubborn = "while true do pcall(function() while true do end end) end",
    program = "os.execute 'sleep 60'", c_call = "string.find(('a'):rep(300000), '.-b')" } do
    local out = run(([[local p <close> = pool.new { workers = 2, timeout = %g, grace = 0.2 }
      local r, n, errors = p:map(function(x) if x == 3 then %s end return x end, 6, { chunk = 1, errors = "collect" })
      local count = 0 for _ in pairs(errors) do count = count + 1 end
      print(n, count, errors[3].kind, r[1], r[6], #p:map(math.abs, 10))]]):format(0.5 * proc.slowness, task), nil)
    lu.assertEquals(out, "6\t1\ttimeout\t1\t6\t10\n", name)
  end
end

-- ---- the child never becomes a second host ----

TestEscapes = {}

for name, options in pairs { error = "on_start = function() error 'no' end", exit = "on_start = function() os.exit(0) end",
  memory = "on_start = function() return ('x'):rep(1 << 46) end", exit_at_exit = "on_exit = function() os.exit(1, true) end" } do
  TestEscapes["test_" .. name] = function()
    local out = run(([[
      io.stdout:write "the script runs\n"
      local p = pool.new { workers = 3, %s }
      local ok, e = pcall(p.map, p, math.abs, 10)
      p:close()
      print "and ends"]]):format(options), nil)
    lu.assertEquals(out, "the script runs\nand ends\n")
  end
end

-- ---- last words: a worker that dies in C code says where in the Lua program it was ----

TestLastWords = {}

local HOW = { segv = "SIGSEGV", abort = "SIGABRT", fpe = "SIGFPE", overflow = "SIGSEGV" }

-- What a C library under a Lua function does.
local function parse(how)
  local crash = require("proc").crash
  crash(how)
  return "still there"
end

for how, signal in pairs(HOW) do
  TestLastWords["test_" .. how] = function()
    for _, start in ipairs { "fork", "server" } do
      local p <close> = pool.new { workers = 2, start = start }
      local ok, e = pcall(p.map, p, function(x)
        if x == 3 then return #parse(how) end
        return x
      end, 5)
      lu.assertFalse(ok)
      lu.assertEquals({ e.kind, e.signal, e.index }, { "crash", signal, 3 }, start)
      local lines = {}
      for line in e.traceback:gmatch("[^\n]+") do lines[#lines + 1] = line end
      lu.assertEquals(lines[1], "stack traceback:")
      lu.assertEquals(lines[2], "\t[C]: in local 'crash'")
      lu.assertStrMatches(lines[3], "\t[^\n]*test_crash.lua:%d+: in upvalue 'parse'")
      lu.assertStrMatches(lines[4], "\t[^\n]*test_crash.lua:%d+: in function <[^\n]*test_crash.lua:%d+>")
      lu.assertEquals(#lines, 4, e.traceback)
      lu.assertStrContains(tostring(e), "in the task:\n")
      lu.assertEquals(p:map(math.abs, { -1, -2 }), { 1, 2 }, "the pool lives on")
    end
  end
end

function TestLastWords.test_in_a_coroutine()
  local ok, e = pcall(pool.apply, function()
    return coroutine.wrap(function() return #parse("segv") end)()
  end)
  lu.assertFalse(ok)
  lu.assertStrContains(e.traceback, "in upvalue 'parse'")
end

function TestLastWords.test_in_on_start()
  local p <close> = pool.new { workers = 1, on_start = function() parse("abort") end }
  local ok, e = pcall(p.apply, p, math.abs, -1)
  lu.assertFalse(ok)
  lu.assertEquals({ e.kind, e.signal }, { "crash", "SIGABRT" })
  lu.assertStrContains(e.message, "workers die before they are ready")
  lu.assertStrContains(e.traceback, "in upvalue 'parse'")
end

-- Who is killed from outside, or leaves, has none; neither has the next in his place those of the one before.
function TestLastWords.test_no_words_of_others()
  local p <close> = pool.new(1)
  lu.assertFalse((pcall(p.apply, p, parse, "segv")))
  for _, way in ipairs { "kill -KILL $PPID", "kill -USR1 $PPID" } do
    local ok, e = pcall(p.apply, p, function() os.execute(way) os.execute("sleep 60") end)
    lu.assertFalse(ok)
    lu.assertEquals(e.kind, "crash")
    lu.assertNil(e.traceback, way)
  end
  local ok, e = pcall(p.apply, p, function() os.exit(3) end)
  lu.assertFalse(ok)
  lu.assertEquals({ e.exitcode, e.traceback }, { 3, nil })
end

-- Names are what somebody chose; nothing that a terminal obeys gets through, and no length is too long.
function TestLastWords.test_names_of_all_kinds()
  local code = "local f = ... return (function() f('segv') return 1 end)()"
  for _, name in ipairs { "=\27[31mred\7", "@" .. ("long/"):rep(1000) .. ".lua", "=" } do
    local fn = assert(load(code, name))
    local ok, e = pcall(pool.apply, fn, parse)
    lu.assertFalse(ok)
    lu.assertEquals(e.signal, "SIGSEGV")
    lu.assertStrContains(e.traceback, "'crash'")
    lu.assertNil(e.traceback:find("[\0-\8\11-\31\127]"))
    lu.assertTrue(#e.traceback < 1100)
  end
  local function deep(n) return n == 0 and parse("segv") .. "" or deep(n - 1) .. "" end
  local ok, e = pcall(pool.apply, function() return deep(150) end)
  lu.assertFalse(ok)
  lu.assertStrContains(e.traceback, "in upvalue 'parse'")
end

-- A program that a task starts is not the worker.
function TestLastWords.test_programs_have_the_default_again()
  local caught = pool.apply(function()
    local pipe = io.popen("cat /proc/self/status")
    local text = pipe:read("a")
    pipe:close()
    return text:match("SigCgt:%s*(%x+)")
  end)
  lu.skipIf(not caught, "no /proc")
  lu.assertEquals(tonumber(caught, 16) & (1 << 10 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 3), 0)
end
