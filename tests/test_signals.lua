-- Ctrl-C, SIGTERM and SIGHUP while pools work: sent to the host alone, to the whole group, and by a terminal.
local lu = require "luaunit"
local proc = require "proc"
local post = require "post"
local ways = require "ways"

local SOAK = os.getenv("SOAK")
local WAYS = { "host", "group", "tty" }

local function signal_when_ready(code, how, signal, expected, options)
  options = options or {}
  options.code, options.pty = code, how == "tty" or options.pty
  local s <close> = post.start(options)
  s:await("ready", options.ready)
  proc.sleep(0.03) -- only lets a state be entered; what is asserted holds if it was not
  s:send(how, signal)
  if options.after then options.after(s) end
  return s:finish(expected)
end

-- ---- three ways to send it ----

TestWays = {}

local BUSY = [[
local p <close> = pool.new(4)
p:map(function(x) if x <= 4 then say "ready" end spin(60) end, 100)
print "not reached"]]

local CAUGHT = [[
local p <close> = pool.new(4)
local notes = assert(io.open(os.getenv "SCRATCH", "a"))
local ok, e = pcall(p.map, p, function(x)
  notes:write(x, "\n") notes:flush()
  if x <= 4 then say "ready" end
  spin(60)
end, 100, { chunk = 1 })
print(ok, is_interrupt(e), e.signal)
local r = p:map(function(x) return -x end, 1000)
print(#r, r[1], r[1000])
local started = 0
for _ in io.lines(os.getenv "SCRATCH") do started = started + 1 end
print("started", started)]]

for _, how in ipairs(WAYS) do
  TestWays["test_uncaught_" .. how] = function()
    signal_when_ready(BUSY, how, "INT", { signal = "SIGINT", stdout = "" }, { ready = 4 })
  end
  TestWays["test_caught_and_the_pool_goes_on_" .. how] = function()
    signal_when_ready(CAUGHT, how, "INT",
      { exit = 0, stdout = "false\ttrue\tSIGINT\n1000\t-1\t-1000\nstarted\t4\n" }, { ready = 4 })
  end
end

for _, signal in ipairs { "TERM", "HUP" } do
  for _, how in ipairs { "host", "group" } do
    TestWays[("test_%s_to_%s"):format(signal, how)] = function()
      signal_when_ready(BUSY, how, signal, { signal = "SIG" .. signal, stdout = "" }, { ready = 4 })
    end
  end
end

-- The tutorial's program: silent, exit status 1.
function TestWays:test_the_tutorial()
  for _, how in ipairs(WAYS) do
    signal_when_ready([[
      local p <close> = pool.new(4)
      local ok, err = pcall(function()
        say "ready"
        while true do p:map(function(x) return x * x end, pool.range(100000)) end
      end)
      if not ok then
        if not pool.is_interrupt(err) then error(err, 0) end
        p:terminate()
        os.exit(1)
      end]], how, "INT", { exit = 1, stdout = "" })
  end
end

function TestWays:test_one_shot_map()
  for _, how in ipairs(WAYS) do
    signal_when_ready([[pool.map(function(x) if x == 1 then say "ready" end spin(60) end, 10, { workers = 3 })]], how, "INT",
      { signal = "SIGINT", stdout = "" })
  end
end

function TestWays:test_apply()
  signal_when_ready([[local p <close> = pool.new(2) p:apply(function() say "ready" spin(60) end)]], "group", "INT",
    { signal = "SIGINT", stdout = "" })
end

function TestWays:test_running_tasks_are_closed()
  signal_when_ready([[
    local p = pool.new { workers = 2, grace = 30 }
    local ok, e = pcall(p.map, p, function()
      local c <close> = closer(function(_, e) print(type(e) == "table" and e.kind) end)
      say "ready"
      spin(60)
    end, 2)
    print(is_interrupt(e))
    p:terminate()]], "group", "INT", { exit = 0, stdout = "cancelled\ncancelled\ntrue\n" }, { ready = 2 })
end

function TestWays:test_map_inside_a_coroutine()
  signal_when_ready([[
    local p = pool.new(2)
    print(coroutine.wrap(function()
      local ok, e = pcall(p.map, p, function() say "ready" spin(60) end, 2)
      return ok, is_interrupt(e)
    end)())
    print(#p:map(math.abs, 5))
    p:close()]], "host", "INT", { exit = 0, stdout = "false\ttrue\n5\n" })
end

function TestWays:test_an_iterator_that_waits()
  signal_when_ready([[
    local p <close> = pool.new(2)
    local ok, e = pcall(p.map, p, math.abs, function() say "ready" while true do end end)
    print(ok, is_interrupt(e), #p:map(math.abs, 5))]], "host", "INT", { exit = 0, stdout = "false\ttrue\t5\n" })
end

-- ---- tasks that do not cooperate ----

TestStubborn = {}

local STUBBORN = {
  endless_loop = "while true do end",
  pcall_loop = "while true do pcall(function() while true do end end) end",
  coroutine_loop = "while true do coroutine.wrap(function() pcall(function() while true do end end) end)() end",
  endless_c_call = "string.find(('a'):rep(300000), '.-b')",
  execute = "os.execute('sleep 60')",
  execute_deaf_to_term = "os.execute([[trap '' TERM INT HUP; sleep 60; sleep 60]])",
  popen = "io.popen('yes'):read('a')",
  popen_close = "io.popen('sleep 60'):close()",
  endless_close = "local c <close> = closer(function() while true do end end) error(1)",
  endless_gc = "setmetatable({}, { __gc = function() while true do end end }) collectgarbage()",
}

for name, task in pairs(STUBBORN) do
  local code = ([[
    local p <close> = pool.new { workers = 3, grace = 0.25 }
    p:map(function(x) if x < 3 then say "ready" %s end end, 3)]]):format(task)
  TestStubborn["test_sigint_" .. name] = function()
    signal_when_ready(code, "host", "INT", { signal = "SIGINT", stdout = "" }, { ready = 2 })
    signal_when_ready(code, "group", "INT", { signal = "SIGINT", stdout = "" }, { ready = 2 })
  end
  TestStubborn["test_sigterm_" .. name] = function()
    signal_when_ready(code, "host", "TERM", { signal = "SIGTERM", stdout = "" }, { ready = 2 })
  end
  TestStubborn["test_sigkill_" .. name] = function()
    signal_when_ready(code, "host", "KILL", { signal = "SIGKILL", stdout = "" }, { ready = 2 })
  end
end

-- With the default grace, too: one second for the task, then the end.
function TestStubborn:test_default_grace()
  signal_when_ready([[local p <close> = pool.new(2)
    p:map(function() say "ready" while true do pcall(function() while true do end end) end end, 2)]], "tty", "INT",
    { signal = "SIGINT", stdout = "" }, { ready = 2 })
end

function TestStubborn:test_a_stopped_worker()
  signal_when_ready([[local p <close> = pool.new { workers = 2, grace = 0.25 }
    p:map(function(x) if x == 1 then say "ready" os.execute("kill -STOP $PPID") end spin(60) end, 2)]], "host", "INT",
    { signal = "SIGINT", stdout = "" })
end

-- The programs which tasks run are of the terminal's group: they die of its Ctrl-C, and nobody prints.
function TestStubborn:test_programs_of_eight_workers_at_a_terminal()
  local out = signal_when_ready([[local p <close> = pool.new(8)
    p:map(function() say "ready" os.execute("sleep 30") end, 8)]], "tty", "INT", { signal = "SIGINT", stdout = "" }, { ready = 8 })
  lu.assertEquals(out, "")
end

-- ---- again, and once more ----

TestAgain = {}

function TestAgain:test_each_delivered_signal_is_one_error()
  local s <close> = post.start { stdin = "pipe", code = [[
    local p = pool.new { workers = 2, grace = 0.2 }
    for round = 1, 5 do
      local ok, e = pcall(p.map, p, function(x) if x == 1 then say("round" .. round) end spin(60) end, 2)
      print(round, ok, is_interrupt(e))
      local r = p:map(function(x) return x + round end, 50)
      assert(r[50] == 50 + round)
    end
    p:close() rest()]] }
  for round = 1, 5 do
    s:await("round" .. round)
    s:send("group", "INT")
  end
  s:relieve()
  s:finish { exit = 0, stdout = "1\tfalse\ttrue\n2\tfalse\ttrue\n3\tfalse\ttrue\n4\tfalse\ttrue\n5\tfalse\ttrue\n" }
end

-- Each signal is an error of its own, also one that came while the call of the first was being cancelled.
local TWICE = [[
local p = pool.new { workers = 2, grace = GRACE }
local is_begun, caught, result = false, 0
local function once()
  if not is_begun then is_begun = true p:map(function(x) say "ready" while true do pcall(function() while true do end end) end end, 2) end
  result = #p:map(math.abs, 10)
end
repeat
  local ok, e = pcall(function()
    local ok, e = pcall(once)
    if not ok then error(e, 0) end
  end)
  if not ok then assert(is_interrupt(e), e) caught = caught + 1 end
until ok
print(caught > 0, result)
p:close()]]

-- The grace is a minute: without the second signal it would be waited for.
function TestAgain:test_the_second_skips_the_grace()
  local s <close> = post.start { code = TWICE:gsub("GRACE", "60", 1) }
  s:await("ready", 2)
  s:send("host", "INT")
  ways.wait_for_delivery(s.pid, "INT")
  lu.assertNil(s.child:wait(1.5), "one signal leaves the tasks their grace")
  lu.assertEquals(s.child.stdout, "")
  s:send("host", "INT")
  s:finish { exit = 0, stdout = "true\t10\n" }
end

function TestAgain:test_a_key_held_down_leaves_the_grace()
  local s <close> = post.start { code = TWICE:gsub("GRACE", "1", 1) }
  s:await("ready", 2)
  local sent = proc.now()
  local pace = 0
  while pace < 0.06 do -- each within 200 ms of the first
    s:send("group", "INT")
    proc.sleep(0.005)
    pace = proc.now() - sent
  end
  pace = ways.pace(s.pid, sent)
  s:finish { exit = 0, stdout = "true\t10\n" }
  lu.assertTrue(proc.now() - sent > 0.8, ("a key repeat took the tasks their grace: %.3f s after %.3f s"):format(proc.now() - sent, pace))
end

-- The host sits in C code that never returns; its workers go with it.
function TestAgain:test_the_third_ends_the_process()
  local s <close> = post.start { code = [[
    local p <close> = pool.new(3)
    p:map(math.abs, 100)
    say "ready"
    string.find(("a"):rep(300000), ".-b")]] }
  s:await "ready"
  ways.wait_for_work(s.pid, 0.05) -- it is in there
  for _ = 1, 3 do
    s:send("host", "INT")
    ways.wait_for_delivery(s.pid, "INT")
    proc.sleep(0.5) -- more than a key's pace
  end
  s:finish { signal = "SIGINT", stdout = "" }
end

function TestAgain:test_during_terminate()
  local s <close> = post.start { code = [[
    local p = pool.new { workers = 2, grace = 60, on_exit = function() say "ready" while true do pcall(spin, 60) end end }
    p:map(math.abs, 100)
    local ok, e = pcall(function() p:terminate() while true do end end)
    print(ok, is_interrupt(e), #p:workers())]] }
  s:await "ready"
  s:send("host", "INT")
  s:finish { exit = 0, stdout = "false\ttrue\t0\n" }
end

-- Only what a signal ended takes its repeats along: a second one soon after, while the script cancels for reasons of its own, is another.
local SOON_AFTER = [[
local pid = io.open("/proc/self/stat"):read("n")
local function interrupt() io.popen("kill -INT " .. pid):close() end
local p = pool.new { workers = 2, grace = 60 }
local begun = pool.counter()
local function endless()
  local c <close> = closer(interrupt)
  begun:add(1)
  while true do end
end
local function first_fails(i)
  if i == 2 then return endless() end
  while begun:get() == 0 do end
  error "failed"
end
p:map(math.abs, 2)
local caught = 0
local function count(f)
  local ok, e = pcall(f)
  if is_interrupt(e) then caught = caught + 1 end
end
local function cancel()
  local call = p:map_async(endless, 1)
  while begun:get() == 0 do p:step(0.01) end
  count(function() interrupt() spin(60) end)
  count(function() p:cancel() end)
end
local function fail()
  count(function() interrupt() spin(60) end)
  count(function() p:map(first_fails, 2, { chunk = 1 }) end)
end
local function leave()
  for _ in p:imap(function(i) return i == 1 and i or endless() end, 2, { chunk = 1 }) do
    while begun:get() == 0 do p:step(0.01) end
    count(function() interrupt() spin(60) end)
    break
  end
end
count(WAY)
if caught < 2 then count(function() spin(20) end) end -- it is on its way
count(function() spin(0.3) end) -- and no other
print(caught)
p:terminate(0)]]

function TestAgain:test_soon_after_another_while_the_script_cancels()
  for _, way in ipairs { "cancel", "fail", "leave" } do
    local s <close> = post.start { code = (SOON_AFTER:gsub("WAY", way)) }
    s:finish { exit = 0, stdout = "2\n" }
  end
end

function TestAgain:test_during_close_of_a_scope()
  signal_when_ready([[
    local ok, e = pcall(function()
      local p <close> = pool.new { workers = 2, grace = 0.2, on_exit = function() say "ready" spin(60) end }
      p:map(math.abs, 100)
    end)
    print(ok, is_interrupt(e))
    collectgarbage()]], "group", "INT", { exit = 0, stdout = "false\ttrue\n", stderr = "^.*$" })
end

-- Every phase of a pool's life, hit at random: each signal is one error, and results are whole.
function TestAgain:test_random_moments()
  local count = SOAK and 5000 or 250
  local s <close> = post.start { deadline = SOAK and 600 or 100, stdin = "pipe", code = ([[
    local COUNT = %d
    local caught, owes, round = 0, false, 0
    local function answer() caught = caught + 1 io.stdout:write("!") io.stdout:flush() end
    local keep = pool.new { workers = 2, grace = 0.2 }
    local is_ready = false
    local function work()
      if not is_ready then is_ready = true say "ready" end
      if owes then owes = false answer() end
      while caught < COUNT do
        round = round + 1
        local this = round
        local r, n = keep:map(function(x) return { this, x } end, 40, { chunk = 4 })
        assert(n == 40)
        for i = 1, 40 do assert(r[i][1] == this and r[i][2] == i, "a result of another call") end
        if round %% 3 == 0 then
          local p <close> = pool.new { workers = 2, grace = 0.2 }
          assert(p:map(function(x) return x * this end, 20)[20] == 20 * this)
        elseif round %% 3 == 1 then
          local p = pool.new { workers = 2, grace = 0.2 }
          assert(p:apply(function(a, b) return a + b end, this, 1) == this + 1)
          p:terminate()
        else
          assert(pool.map(function(x) return ("s"):rep(x * 1000) end, 10, { workers = 2, grace = 0.2 })[10] == ("s"):rep(10000))
        end
      end
    end
    warn "@off"
    while caught < COUNT do
      local ok, e = pcall(work)
      if not ok then
        if not is_interrupt(e) then io.stderr:write(tostring(e), "\n") os.exit(1) end
        owes = true
      end
      if owes and caught == COUNT - 1 then owes = false answer() end
    end
    keep:close()
    collectgarbage() collectgarbage() -- pools that an interrupt made unreachable
    rest()]]):format(count) }
  s:await "ready"
  local at = 1
  for i = 1, count do
    local wait = proc.now() + math.random() ^ 3 * 0.02
    while proc.now() < wait do end
    s:send(i % 2 == 0 and "host" or "group", "INT")
    local found, _, after = s.child:read_until("!", 10, at)
    if not found then lu.fail(("signal %d was not delivered\n%s\n%s"):format(i, s.child.stdout:sub(-200), s.child.stderr)) end
    at = after
  end
  s:relieve()
  s:finish { exit = 0, stdout = ("!"):rep(count) }
end

-- The same, uncaught: a new process for each.
function TestAgain:test_random_ends()
  for i = 1, SOAK and 1000 or 50 do
    local signal = ({ "INT", "TERM", "HUP", "KILL" })[i % 4 + 1]
    local s <close> = post.start { code = [[
      warn "@off"
      say "ready"
      while true do
        local p = pool.new { workers = 3, grace = 0.2 }
        for round = 1, 3 do p:map(function(x) return x end, 100) end
        if math.random() < 0.5 then p:close() elseif math.random() < 0.5 then p:terminate() end
        p = nil
        collectgarbage()
      end]] }
    s:await "ready"
    local wait = proc.now() + math.random() * 0.03
    while proc.now() < wait do end
    s:send(i % 8 < 4 and "host" or "group", signal)
    s:finish { signal = "SIG" .. signal, stdout = "" }
  end
end

-- ---- what shells, terminals and containers see ----

TestOutside = {}

local QUOTED_BUSY = [[local p <close> = pool.new(2) p:map(function(x) io.stderr:write("#ready\n") while true do end end, 2)]]

function TestOutside:test_a_loop_of_bash_stops()
  local s <close> = post.start { args = { "bash", "-c", 'for i in 1 2 3; do "$0" -e "$1"; echo $i; done', post.LUAPOOL, QUOTED_BUSY } }
  s:await("ready", 2)
  s:send("group", "INT")
  s:finish { signal = "SIGINT", stdout = "" }
end

function TestOutside:test_timeout()
  local soon = tostring(1.5 * proc.slowness) -- by then the program runs
  for _, case in ipairs { { { "-s", "INT", soon }, 124 }, { { "--preserve-status", "-s", "INT", soon }, 130 }, { { soon }, 124 },
    { { "--preserve-status", soon }, 143 }, { { "-k", "30", soon }, 124 } } do
    local args = { "timeout" }
    table.move(case[1], 1, #case[1], 2, args)
    table.move({ post.LUAPOOL, "-e", QUOTED_BUSY }, 1, 3, #args + 1, args)
    local s <close> = post.start { args = args }
    s:finish { exit = case[2], stdout = "", within = 8, stderr = "^.*luapool: interrupted!\n$" }
  end
end

function TestOutside:test_as_process_1_of_a_container()
  if not os.execute("unshare -pf true 2> /dev/null") then lu.skip("no right to make a pid namespace") end
  for signal, status in pairs { INT = 130, TERM = 143 } do
    local s <close> = post.start { args = { "unshare", "-pf", post.LUAPOOL, "-e", QUOTED_BUSY } }
    s:await("ready", 2)
    for _, child in ipairs(proc.children(s.pid)) do proc.kill(child.pid, signal) end
    s:finish { exit = status, stdout = "", stderr = "^.*luapool: interrupted!\n$" }
  end
end

-- Where /proc is another namespace's, its numbers name strangers: nothing is opened, and nobody killed, by them.
function TestOutside:test_numbers_of_another_namespace()
  if not os.execute("unshare -pf true 2> /dev/null") then lu.skip("no right to make a pid namespace") end
  local code = ([[
    local p <close> = pool.new { workers = 2, grace = 0.1 }
    p:map(math.abs, 2)
    local a = pool.array("i64", 100)
    p:map(function(i) a[i] = i end, 100)
    print(a[1], a[100])
    local _, _, errors = p:map(function(i) if i == 1 then os.execute("sleep 60") end end, 2, { timeout = LIMIT, errors = "collect" })
    print(errors[1].kind, errors[2])]]):gsub("LIMIT", proc.slowness)
  local s <close> = post.start { args = { "unshare", "-pf", post.LUAPOOL, "-e", code } }
  s:finish { exit = 0, stdout = "1\t100\ntimeout\tnil\n" }
end

function TestOutside:test_a_terminal_that_is_closed()
  local s <close> = post.start { code = BUSY, pty = true, stderr = "pipe" }
  s:await("ready", 4)
  s:hang_up()
end

function TestOutside:test_the_terminal_is_as_it_was()
  for _, signal in ipairs { "INT", "TERM", "HUP" } do
    local s <close> = post.start { pty = true, code = [[
      os.execute("stty -echo -icanon")
      local p <close> = pool.new(2)
      p:map(function() say "ready" while true do end end, 2)]] }
    s:await("ready", 2)
    lu.assertNotEquals(proc.tty_settings(s.child), s.terminal)
    s:send("host", signal)
    s:finish { signal = "SIG" .. signal, stdout = "" }
  end
end

-- A background job of a script: deaf to the terminal, in workers and their programs as well.
function TestOutside:test_ignored_at_the_start()
  local s <close> = post.start { ignore = { "INT" }, pty = true, code = [[
    local p <close> = pool.new(2)
    local masks = p:map(function()
      say "ready"
      io.popen("sleep 0.5"):close()
      local own = io.open("/proc/self/status"):read("a"):match("SigIgn:%s*(%x+)")
      local child = io.popen("grep SigIgn /proc/self/status")
      return { own, child:read("a"):match("SigIgn:%s*(%x+)") }
    end, 2)
    for i = 1, 2 do print(tonumber(masks[i][1], 16) & 2, tonumber(masks[i][2], 16) & 2) end]] }
  s:await("ready", 2)
  s:send "tty"
  s:finish { exit = 0, stdout = function(out) lu.assertStrContains(out, "2\t2\n2\t2\n") end }
end

function TestOutside:test_nohup_survives_a_hangup()
  local s <close> = post.start { ignore = { "HUP" }, code = [[
    local p <close> = pool.new(2)
    print(#p:map(function(x) if x == 1 then say "ready" end spin(0.2) end, 4), "alive")]] }
  s:await "ready"
  s:send("group", "HUP")
  s:finish { exit = 0, within = 20, stdout = function(out) lu.assertStrContains(out, "alive") end }
end

-- Stopped by Ctrl-Z, workers and all, and brought back by fg: nobody notices, and no time limit has passed meanwhile.
function TestOutside:test_stop_and_fg()
  local s <close> = post.start { pty = true, env = { PS1 = "", PS2 = "", HISTFILE = "/dev/null", PROMPT_COMMAND = "" },
    args = { "bash", "--norc", "--noprofile", "-i" } }
  local script = s.directory .. ".scratch"
  local file = assert(io.open(script, "w"))
  local limit = 3 * proc.slowness
  file:write((([[
    local p <close> = pool.new { workers = 2, timeout = LIMIT, grace = 0.3 }
    local r = p:map(function(x) if x < 3 then io.stderr:write("#rea" .. "dy\n") end os.execute("sleep 1") return x end, 2)
    print("results " .. #r, r[1], r[2])]]):gsub("LIMIT", tostring(limit), 1)))
  file:close()
  s.child:write(("stty -echo; '%s' '%s'; echo status $?\n"):format(post.LUAPOOL, script))
  s:await("ready", 2)
  s.child:write("\26")
  lu.assertNotNil(s.child:read_until("Stopped", 20), s.child.stdout)
  proc.sleep(limit + 2)
  s.child:write("fg\n")
  local found = s.child:read_until("results 2\t1\t2", 30)
  if not found then lu.fail(s.child.stdout) end
  s.child:write("exit\n")
  s.child:finish(20)
  s:check_leftovers(post.SLACK / 2)
end

function TestOutside:test_workers_stop_with_their_host()
  local s <close> = post.start { pty = true, env = { PS1 = "", HISTFILE = "/dev/null" }, args = { "bash", "--norc", "--noprofile", "-i" } }
  s.child:write(("stty -echo; '%s' -e '%s'\n"):format(post.LUAPOOL, QUOTED_BUSY:gsub("#ready\\n", "#rea\" .. \"dy\\n")))
  s:await("ready", 2)
  s.child:write("\26")
  lu.assertNotNil(s.child:read_until("Stopped", 20), s.child.stdout)
  local stopped
  proc.wait_until(function()
    stopped = 0
    for _, pid in ipairs(proc.leftovers(s.mark)) do
      local stat = proc.stat(pid)
      if stat and stat.state == "T" then stopped = stopped + 1 end
    end
    return stopped == 3
  end, 10)
  lu.assertEquals(stopped, 3, "host and two workers")
  s.child:write("kill %1; fg; echo over\n")
  lu.assertNotNil(s.child:read_until("over", 20), s.child.stdout)
  s.child:write("exit\n")
  s.child:finish(20)
  s:check_leftovers(post.SLACK / 2)
end

-- ---- key repeat, and a closed output ----

TestRepeats = {}

-- The first is delivered at once and the call is being cancelled (a worker resists until its grace is over): the others are the
-- same key press.
function TestRepeats.test_ten_signals_within_50_ms_are_one_error()
  local s <close> = post.start { code = [[
local p <close> = pool.new{ workers = 2, grace = 0.4 }
local ok, e = pcall(p.map, p, function(x)
  say "ready"
  while true do pcall(spin, 60) end
end, 2)
print(ok, is_interrupt(e))
print(pcall(function() for _ = 1, 1e6 do end end))]] }
  s:await("ready", 2)
  local sent = proc.now()
  for _ = 1, 10 do
    if proc.now() - sent > 0.1 then break end
    s:send("host", "INT")
    proc.sleep(0.005)
  end
  ways.pace(s.pid, sent)
  s:finish { exit = 0, stdout = "false\ttrue\ntrue\n" }
end

function TestRepeats.test_a_closed_output_is_noticed_between_calls()
  local line = ('trap "" PIPE; "%s" -e \'local p <close> = pool.new(2) ' ..
    'while true do p:map(math.abs, 10) if not io.write(("z"):rep(1000), "\\n") then os.exit(7, true) end end\' | head -1 >/dev/null; ' ..
    'echo ${PIPESTATUS[0]}'):format(os.getenv("LUAPOOL") or "build/luapool")
  local p = proc.spawn { args = { "bash", "-c", line } }
  local status, out = p:finish(20)
  lu.assertEquals(status.exit, 0)
  lu.assertEquals(out, "7\n")
end
