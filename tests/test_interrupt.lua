-- Interrupts: in every state a program can be in, one signal is one Lua error; uncaught, it ends the process as a signal does.
local lu = require "luaunit"
local proc = require "proc"
local ways = require "ways"

local LUAPOOL = os.getenv("LUAPOOL") or "build/luapool"

-- What every script below starts with. `ready()` tells the tester that the state is about to be entered.
local PRELUDE = [[
local function ready() io.stderr:write("ready\n") end
local function spin(s) local t = os.clock() while os.clock() - t < s do end end
local function is_interrupt(e) return type(e) == "table" and e.kind == "interrupt" and tostring(e) == "interrupted!" end
local function closer(f) return setmetatable({}, { __close = f }) end
-- Run f, say how it ended, and make sure that nothing comes after it: no second delivery, neither here nor in coroutines made meanwhile.
local function expect(f, ...)
  local ok, e = pcall(f, ...)
  local calm = pcall(function()
    for i = 1, 20 do coroutine.wrap(function() for j = 1, 1000 do math.abs(j) end end)() end
    collectgarbage()
  end)
  print(ok and "no error" or is_interrupt(e) and e.signal or "other: " .. tostring(e), calm and "calm" or "again")
end
]]

local function start(code, options)
  options = options or {}
  options.args = { LUAPOOL, "-e", PRELUDE .. code }
  return proc.spawn(options)
end

-- Start, wait until it is ready and a moment longer, send the signal. The moment only lets the state be entered: what is asserted holds
-- if it has not been yet.
local function interrupt(code, options, signal)
  local p <close> = start(code, options)
  lu.assertNotNil(p:read_until("ready\n", 30), "never ready: " .. p.stderr)
  proc.sleep(0.03)
  p:kill(signal or "INT")
  local status, out, err = p:finish(30)
  return status, out, (err:gsub("ready\n", ""))
end

TestStates = {}

-- name = { code [, expected output] [, options] }
local STATES = {
  main_loop = { [[expect(function() ready() while true do end end)]] },
  coroutine_resumed = { [[expect(function()
    local ok, e = coroutine.resume(coroutine.create(function() ready() while true do end end))
    assert(not ok) error(e, 0) end)]] },
  coroutines_three_deep = { [[expect(function()
    coroutine.wrap(function() coroutine.wrap(function() coroutine.wrap(function() ready() while true do end end)() end)() end)()
  end)]] },
  caught_inside_a_coroutine_which_goes_on = { [[
    local next_value = coroutine.wrap(function()
      local ok, e = pcall(function() ready() while true do end end)
      coroutine.yield(is_interrupt(e)) return "end" end)
    print(next_value(), next_value())
    expect(function() end)]], "true\tend\nno error\tcalm\n" },
  generator_that_switches_all_the_time = { [[
    local generate = coroutine.wrap(function() while true do coroutine.yield() end end)
    expect(function() ready() while true do generate() end end)]] },
  sort_with_a_lua_comparison = { [[local t = {} for i = 1, 3000 do t[i] = (i * 7919) % 3001 end
    expect(function() ready() while true do table.sort(t, function(a, b) return (a * 31) % 3001 < (b * 31) % 3001 end) end end)]] },
  sort_with_a_c_comparison = { [[local t = {} for i = 1, 300000 do t[i] = (i * 7919) % 300007 end
    expect(function() ready() while true do table.sort(t, math.ult) end end)]] },
  gsub_with_a_callback = { [[local s = ("x"):rep(1000000)
    expect(function() ready() while true do s:gsub("x", function() end) end end)]] },
  long_c_call_at_its_end = { [[local s = ("a"):rep(20000)
    expect(function() ready() s:find(".-b") while true do end end)]] },
  finalizer_first_ends = { [[
    expect(function()
      setmetatable({}, { __gc = function() ready() spin(0.2) print("finalized") end }) collectgarbage()
      while true do end end)]], "finalized\nSIGINT\tcalm\n" },
  finalizer_with_a_coroutine_first_ends = { [[
    expect(function()
      setmetatable({}, { __gc = function() coroutine.wrap(function() ready() spin(0.2) print("finalized") end)() end }) collectgarbage()
      while true do end end)]], "finalized\nSIGINT\tcalm\n" },
  close_running_outer_still_closed = { [[
    expect(function()
      local outer <close> = closer(function(_, e) print("outer", is_interrupt(e)) end)
      local inner <close> = closer(function() ready() while true do end end)
    end)]], "outer\ttrue\nSIGINT\tcalm\n" },
  message_handler_running = { [[
    local n = 0
    expect(function()
      local ok, e = xpcall(error, function(m) n = n + 1 if n == 1 then ready() while true do end end return m end, "first")
      print(n) error(e, 0) end)]], "2\nSIGINT\tcalm\n" },
  message_handler_for_the_interrupt_runs_lua = { [[
    expect(function()
      local ok, e = xpcall(function() ready() while true do end end, function(m) spin(0.02) return m end)
      error(e, 0) end)]] },
  coroutines_created_while_pending = { [[
    expect(function() ready() while true do coroutine.create(function() end) end end)]] },
  closing_a_coroutine = { [[
    expect(function()
      local co = coroutine.create(function() local c <close> = closer(function() ready() while true do end end) coroutine.yield() end)
      coroutine.resume(co)
      local ok, e = coroutine.close(co) error(e, 0) end)]] },
  sethook_by_the_script = { [[
    expect(function() ready() while true do debug.sethook(function() end, "", 1000000) debug.sethook() end end)]] },
  own_hook_survives = { [[
    local lines = 0
    debug.sethook(function() lines = lines + 1 end, "l")
    expect(function() ready() while true do
      local x = 1 end end)
    local before = lines
    local x = 1
    x = x + 1
    debug.sethook()
    print(lines > before)]], "SIGINT\tcalm\ntrue\n" },
  own_hook_of_a_coroutine_survives = { [[
    local co = coroutine.create(function() pcall(function() ready() while true do end end) coroutine.yield() end)
    local hook = function() end
    debug.sethook(co, hook, "c", 12345)
    coroutine.resume(co)
    local now, mask, count = debug.gethook(co)
    print(now == hook, mask, count)]], "true\tc\t12345\n" },
  compiling_a_large_chunk = { [[local s = ("x = 1\n"):rep(100000)
    expect(function() ready() while true do load(s) end end)]] },
  deep_recursion = { [[
    local function deep(n) if n == 0 then ready() while true do end end return 1 + deep(n - 1) end
    expect(deep, 150000)]] },
  blocked_in_a_read = { [[expect(function() ready() io.read() while true do end end)]], nil, { stdin = "pipe" } },
  blocked_in_lines = { [[expect(function() ready() for _ in io.lines() do end while true do end end)]], nil, { stdin = "pipe" } },
  blocked_in_a_read_of_all = { [[expect(function() ready() io.read("a") while true do end end)]], nil, { stdin = "pipe" } },
  blocked_in_a_read_in_a_coroutine = { [[
    expect(function() coroutine.wrap(function() ready() io.read() while true do end end)() end)]], nil, { stdin = "pipe" } },
  blocked_in_dofile_of_stdin = { [[expect(function() ready() dofile() while true do end end)]], nil, { stdin = "pipe" } },
}

for name, state in pairs(STATES) do
  TestStates["test_" .. name] = function()
    local options = {}
    for key, value in pairs(state[3] or {}) do options[key] = value end
    local status, out, err = interrupt(state[1], options)
    lu.assertEquals({ out, err, status.exit, status.signal }, { state[2] or "SIGINT\tcalm\n", "", 0, nil })
  end
end

-- Programs started by the script. system() hides the terminal's Ctrl-C from us; the child's end tells.
TestPrograms = {}

local function run(code, options)
  local p <close> = start(code, options)
  return p:finish(30)
end

function TestPrograms:test_execute_child_dies_of_sigint()
  local _, out = run [[expect(function() os.execute("kill -INT $$") end)]]
  lu.assertEquals(out, "SIGINT\tcalm\n")
end

function TestPrograms:test_execute_shell_reports_130()
  local _, out = run [[expect(function() os.execute("exit 130") end)]]
  lu.assertEquals(out, "SIGINT\tcalm\n")
end

function TestPrograms:test_popen_child_dies_of_sigint()
  local _, out = run [[expect(function() io.popen("kill -INT $$"):close() end)]]
  lu.assertEquals(out, "SIGINT\tcalm\n")
end

function TestPrograms:test_other_ends_are_results()
  local _, out = run [[
    print(os.execute("exit 3")) print(os.execute("kill -TERM $$")) print(io.popen("exit 4"):close()) print(os.execute())]]
  lu.assertEquals(out, "nil\texit\t3\nnil\tsignal\t15\nnil\texit\t4\ntrue\n")
end

function TestPrograms:test_a_loop_of_execute_stops_at_the_first()
  local p <close> = start [[for i = 1, 3 do os.execute("echo ready >&2; exec sleep 20") end]]
  p:read_until("ready\n", 30)
  proc.sleep(0.05)
  p:kill_group("INT")
  local status, _, err = p:finish(30)
  lu.assertEquals(status.signal, "SIGINT")
  lu.assertEquals(select(2, err:gsub("ready", "")), 1)
end

-- Those that have the signal may still have to be given a processor to die on.
local function assert_nobody_left(p)
  ways.wait_for(function() return #proc.leftovers(p.mark) == 0 end, "programs are left")
end

-- A signal to the script alone: system() would ignore SIGINT, and let the others wait. The program and what it has started get it, too.
function TestPrograms:test_a_signal_to_the_script_alone_reaches_the_program()
  for _, signal in ipairs { "INT", "TERM", "HUP" } do
    local p <close> = start [[
      expect(function() os.execute("echo ready >&2; sleep 60; echo went on") while true do end end)]]
    lu.assertNotNil(p:read_until("ready\n", 30))
    proc.sleep(0.05)
    p:kill(signal)
    local status, out = p:finish(30)
    lu.assertEquals(out, "SIG" .. signal .. "\tcalm\n")
    lu.assertEquals(status.exit, 0)
    assert_nobody_left(p)
  end
end

-- A program that does not die of it goes on, and the script with it: until the second signal.
function TestPrograms:test_a_program_that_survives_the_signal_to_the_script()
  local p <close> = start [[
    expect(function() os.execute("trap 'echo trapped >&2' INT; echo ready >&2; while :; do sleep 0.05; done") end)]]
  lu.assertNotNil(p:read_until("ready\n", 30))
  proc.sleep(0.05)
  p:kill "INT"
  lu.assertNotNil(p:read_until("trapped\n", 30))
  lu.assertEquals(p.stdout, "")
  proc.sleep(0.3) -- more than a key's pace
  p:kill "INT"
  local _, out = p:finish(30)
  lu.assertEquals(out, "SIGINT\tcalm\n")
  assert_nobody_left(p)
end

-- The terminal's Ctrl-C is the program's: an editor takes it, and the script goes on. After the program it is the script's.
function TestPrograms:test_the_terminal_and_a_program_that_goes_on()
  local p <close> = start([[
    print("ended with", select(3, os.execute("trap 'exit 7' INT; echo ready; while :; do sleep 0.05; done")))
    expect(function() print "inside" while true do end end)]], { pty = true })
  lu.assertNotNil(p:read_until("ready\r?\n", 30))
  proc.sleep(0.05)
  p:write "\3"
  lu.assertNotNil(p:read_until("ended with\t7\r?\ninside", 30), p.stdout)
  p:write "\3"
  local status, out = p:finish(30)
  lu.assertStrContains(out, "SIGINT\tcalm")
  lu.assertEquals(status.exit, 0)
end

-- Programs that come and go, and signals to the script or to all at random moments: none is lost.
function TestPrograms:test_short_programs_lose_no_signal()
  local n = 60
  local p <close> = start(([[
    local caught, is_ready = 0, false
    local function level(k)
      while caught < %d do
        local ok, e = pcall(function()
          if k > 0 then return level(k - 1) end
          if not is_ready then is_ready = true ready() end -- under all the pcalls
          while caught < %d do os.execute("true") end
        end)
        if not ok then
          if not is_interrupt(e) then error(e) end
          caught = caught + 1
          io.stderr:write("got " .. caught .. "\n")
        end
      end
    end
    level(8)
    print(caught)]]):format(n, n))
  lu.assertNotNil(p:read_until("ready\n", 30))
  for i = 1, n do
    proc.sleep(0.0007 * (i * 7 % 11))
    if i % 2 == 0 then p:kill "INT" else p:kill_group "INT" end
    lu.assertNotNil(p:read_until("got " .. i .. "\n", 30), "signal " .. i .. " was lost")
  end
  local _, out = p:finish(30)
  lu.assertEquals(out, n .. "\n")
end

-- Whoever catches SIGTERM and goes on has five seconds; then the program that he waits for goes with him.
function TestPrograms:test_the_end_by_force_takes_the_program_along()
  local p <close> = start [[while true do pcall(os.execute, "echo ready >&2; trap '' TERM; sleep 60") end]]
  lu.assertNotNil(p:read_until("ready\n", 30))
  proc.sleep(0.05)
  p:kill "TERM"
  local status = p:finish(20)
  lu.assertEquals(status.signal, "SIGTERM")
  assert_nobody_left(p)
end

-- Both get the terminal's Ctrl-C; it is one interrupt, not one from the handler and one from the child's end.
function TestPrograms:test_popen_and_the_group_are_one_interrupt()
  local p <close> = start [[
    local f = io.popen("echo started; exec sleep 20")
    f:read()
    expect(function() ready() f:read("a") while true do end end)
    expect(function() f:close() end)]]
  p:read_until("ready\n", 30)
  proc.sleep(0.05)
  p:kill_group("INT")
  local _, out = p:finish(30)
  lu.assertEquals(out, "SIGINT\tcalm\nno error\tcalm\n")
end

-- Exactly once, at random moments: the script answers each delivery, the tester sends the next one only then.
-- The answer is given under the pcall that will catch the next one, so that no interrupt can come outside.
TestStress = {}

local ANSWER = [[
local answers = io.stdout
local function answer_interrupts(n, next_work, check)
  local caught, owes, is_started = 0, false, false
  local function answer() caught = caught + 1 answers:write("!") answers:flush() end
  local function loop()
    if not is_started then is_started = true ready() end
    if owes then owes = false answer() end
    while caught < n do
      local ok, e = pcall(next_work())
      if not ok then
        if not is_interrupt(e) then error(e, 0) end
        if check then check() end
        answer()
      end
    end
  end
  while caught < n do
    local ok, e = pcall(loop)
    if not ok then
      if not is_interrupt(e) then print("other", e) os.exit(1) end
      owes = true
    end
  end
end
]]

local WORK = ANSWER .. [[
local function fib(n) if n < 2 then return n end return fib(n - 1) + fib(n - 2) end
local function leaf(n) local s = 0 for i = 1, n do s = s + i end return s end
local work = {
  function() for i = 1, 3000 do local _ = i * 2 end end,
  function() fib(12) end,
  function() local w = coroutine.wrap(function() while true do coroutine.yield(leaf(30)) end end) for i = 1, 50 do w() end end,
  function()
    local ok, e = coroutine.resume(coroutine.create(function()
      local inner = coroutine.wrap(function() while true do coroutine.yield(leaf(5)) end end)
      for i = 1, 20 do inner() end leaf(3000) end))
    if not ok then error(e, 0) end end,
  function()
    local t = {} for i = 1, 200 do t[i] = (i * 7919) % 211 end
    table.sort(t, function(a, b) return a < b end) table.sort(t, math.ult) end,
  function() (("abc def "):rep(40)):gsub("%w+", function(s) return s:upper() end) end,
  function() for i = 1, 20 do local a <close> = closer(function() leaf(20) end) leaf(5) end end,
  function() for i = 1, 30 do setmetatable({}, { __gc = function() leaf(50) end }) end collectgarbage("step", 50) end,
  function() local function deep(n) if n == 0 then return 0 end return 1 + deep(n - 1) end deep(150) deep(1500) leaf(2000) end,
  function() local ok, e = xpcall(function() leaf(100) error({}) end, function(m) return m end) if is_interrupt(e) then error(e, 0) end end,
}
local k = 0
answer_interrupts(2000, function() k = k + 1 return work[k % #work + 1] end)
]]

function TestStress:test_every_signal_is_delivered_exactly_once()
  local p <close> = start(WORK, { deadline = 120 })
  lu.assertNotNil(p:read_until("ready\n", 30))
  local at = 1
  for i = 1, 2000 do
    local wait = proc.now() + math.random() * 0.0004
    while proc.now() < wait do end
    p:kill("INT")
    local found, _, after = p:read_until("!", 30, at)
    if not found then lu.fail(("signal %d was not delivered; %s %s"):format(i, p.stdout:sub(-80), p.stderr)) end
    at = after
  end
  local status, out = p:finish(30)
  lu.assertEquals({ status.exit, out }, { 0, ("!"):rep(2000) })
end

-- A signal may come while the script is about to set a hook of its own over ours.
function TestStress:test_hooks_that_are_set_all_the_time()
  local p <close> = start(ANSWER .. [[
    local function hook() end
    answer_interrupts(2000, function() return function() while true do debug.sethook(hook, "", 1000) end end end)]], { deadline = 120 })
  lu.assertNotNil(p:read_until("ready\n", 30))
  local at = 1
  for _ = 1, 2000 do
    p:kill("INT")
    local found, _, after = p:read_until("!", 30, at)
    if not found then lu.fail("not delivered: " .. p.stdout:sub(-200) .. p.stderr) end
    at = after
  end
  local _, out = p:finish(30)
  lu.assertEquals(out, ("!"):rep(2000))
end

-- A file's __close is a C function; it must run whenever an interrupt comes, also at its very entry.
-- `work` leaves an object at `last` while it is to be closed; an answer counts those that `is_open` then.
local function close_often(n, work)
  local p <close> = start(ANSWER .. work .. "\nlocal n = " .. n .. [[

    local skipped = 0
    local function check()
      if last and is_open(last) then skipped = skipped + 1 end
      last = nil
    end
    answer_interrupts(n, function() return work end, check)
    print(skipped)]], { deadline = 120 })
  lu.assertNotNil(p:read_until("ready\n", 30))
  local at = 1
  for _ = 1, n do
    p:kill("INT")
    local found, _, after = p:read_until("!", 30, at)
    if not found then lu.fail(p.stdout:sub(-200) .. p.stderr) end
    at = after
  end
  local _, out = p:finish(30)
  lu.assertEquals(out, ("!"):rep(n) .. "0\n")
end

function TestStress:test_c_close_is_never_skipped()
  close_often(500, [[
    local last
    local function is_open(file) return io.type(file) ~= "closed file" end
    local function work()
      while true do
        do local f <close> = io.open("/dev/null") last = f end
        last = nil
      end
    end]])
end

-- Nothing but closing: a hook that raised at the call of a C function would do so here.
function TestStress:test_a_close_by_a_cheap_c_function_is_never_skipped()
  close_often(5000, [[
    local last
    local closing = { __close = setmetatable } -- takes it off, or puts the error in its place
    local function is_open(object) return getmetatable(object) == closing end
    local function work()
      while true do
        do local o <close> = setmetatable({}, closing) last = o end
        last = nil
      end
    end]])
end

-- What follows signals that nobody delivers.
TestEscalation = {}

local ENDLESS_C_CALL = [[ready() string.find(("a"):rep(300000), ".-b")]]

-- Each at the pace of somebody who presses the key again.
local function signals(p, n)
  for i = 1, n do
    p:kill("INT")
    ways.wait_for_delivery(p.pid, "INT")
    if i < n then proc.sleep(0.5) end
  end
end

function TestEscalation:test_the_third_undelivered_signal_ends_the_process()
  local p <close> = start(ENDLESS_C_CALL)
  p:read_until("ready\n", 30)
  ways.wait_for_work(p.pid, 0.05) -- it is in there
  signals(p, 2)
  lu.assertNil(p:wait(0.5), "two signals must not end it")
  p:kill("INT")
  lu.assertEquals(p:finish(30).signal, "SIGINT")
end

function TestEscalation:test_ten_signals_at_once_are_one()
  local p <close> = start [[
    local s = ("a"):rep(20000)
    expect(function() ready() s:find(".-b") while true do end end)]]
  p:read_until("ready\n", 30)
  ways.wait_for_work(p.pid, 0.02)
  local sent = proc.now()
  for _ = 1, 10 do
    if proc.now() - sent > 0.1 then break end
    p:kill("INT")
    proc.sleep(0.004)
  end
  ways.pace(p.pid, sent)
  local status, out = p:finish(30)
  lu.assertEquals({ status.exit, out }, { 0, "SIGINT\tcalm\n" })
end

function TestEscalation:test_delivered_signals_follow_each_other_for_ever()
  local p <close> = start [[for i = 1, 5 do expect(function() ready() while true do end end) end print("alive")]]
  local at = 1
  for _ = 1, 5 do
    local found, _, after = p:read_until("ready\n", 30, at)
    if not found then lu.fail(p.stdout:sub(-200) .. p.stderr) end
    at = after
    proc.sleep(0.25)
    p:kill("INT")
  end
  local status, out = p:finish(30)
  lu.assertEquals({ status.exit, out }, { 0, ("SIGINT\tcalm\n"):rep(5) .. "alive\n" })
end

function TestEscalation:test_an_endless_finalizer_can_be_ended()
  local p <close> = start [[setmetatable({}, { __gc = function() ready() while true do end end }) collectgarbage()]]
  p:read_until("ready\n", 30)
  signals(p, 3)
  lu.assertEquals(p:finish(30).signal, "SIGINT")
end

-- The same while the state is being closed: there the first signal is urgent already.
function TestEscalation:test_an_endless_finalizer_at_the_end_can_be_ended()
  local p <close> = start [[keep = setmetatable({}, { __gc = function() ready() while true do end end })]]
  p:read_until("ready\n", 30)
  signals(p, 2)
  lu.assertEquals(p:finish(30).signal, "SIGINT")
end

function TestEscalation:test_sigterm_ends_the_process_in_any_case()
  local code = [[local ok, e = pcall(function() ready() while true do end end)
    print(e.signal) io.stdout:flush() while true do pcall(function() while true do end end) end]]
  local term <close> = start(code)
  local hup <close> = start(code)
  local sent = {}
  for p, signal in pairs { [term] = "TERM", [hup] = "HUP" } do
    lu.assertNotNil(p:read_until("ready\n", 30))
    sent[p] = proc.now()
    p:kill(signal)
  end
  for p, signal in pairs { [term] = "SIGTERM", [hup] = "SIGHUP" } do
    local status, out = p:finish(9)
    lu.assertEquals({ status.signal, out }, { signal, signal .. "\n" })
    lu.assertTrue(proc.now() - sent[p] > 4, "it has five seconds to clean up")
  end
end

-- The end of the process as others see it.
TestEnd = {}

function TestEnd:test_uncaught_is_death_by_the_signal()
  for _, signal in ipairs { "INT", "TERM", "HUP" } do
    local status, out, err = interrupt([[
      local c <close> = closer(function(_, e) print("closed", e.signal) end)
      io.write("unflushed ") ready() while true do end]], nil, signal)
    lu.assertEquals({ status.signal, out }, { "SIG" .. signal, "unflushed closed\tSIG" .. signal .. "\n" })
    lu.assertStrContains(err, "luapool: interrupted!\n")
    lu.assertEquals(select(2, err:gsub("\n", "")), 1, err)
  end
end

function TestEnd:test_blocked_reading_the_script_itself()
  local p <close> = proc.spawn { args = { LUAPOOL, "-" }, stdin = "pipe" }
  p:write("print(1)\n")
  ways.wait_for(function()
    local s, caught = proc.stat(p.pid), proc.status_field(p.pid, "SigCgt")
    return s and s.state == "S" and caught and tonumber(caught, 16) & 2 ~= 0
  end, "it does not read")
  p:kill("INT")
  local status, out, err = p:finish(30)
  lu.assertEquals({ status.signal, out }, { "SIGINT", "" })
  lu.assertStrContains(err, "luapool: interrupted!\n")
end

function TestEnd:test_luainit_and_libraries_can_be_interrupted()
  local p <close> = proc.spawn { args = { LUAPOOL, "-e", "" }, env = { LUA_INIT = "io.stderr:write('ready\\n') while true do end" } }
  p:read_until("ready\n", 30)
  p:kill("INT")
  lu.assertEquals(p:finish(30).signal, "SIGINT")
end

function TestEnd:test_a_loop_of_bash_stops()
  local p <close> = proc.spawn { args = { "bash", "-c",
    'for i in 1 2 3; do "$0" -e "io.stderr:write([[ready\n]]) while true do end"; echo $i; done', LUAPOOL } }
  lu.assertNotNil(p:read_until("ready\n", 30))
  p:kill_group("INT")
  local status, out = p:finish(30)
  lu.assertEquals({ status.signal, out }, { "SIGINT", "" })
end

function TestEnd:test_exit_status_in_a_shell()
  for signal, number in pairs { INT = 130, TERM = 143, HUP = 129 } do
    local code = ("io.popen([[kill -%s $PPID]]):close() while true do end"):format(signal)
    local p <close> = proc.spawn { args = { "bash", "-c", '"$0" -e "$1"; echo $?', LUAPOOL, code } }
    local _, out = p:finish(30)
    lu.assertEquals(out, number .. "\n")
  end
end

function TestEnd:test_as_process_1_of_a_container()
  if not os.execute("unshare -pf true 2> /dev/null") then lu.skip("no right to make a pid namespace") end
  local p <close> = proc.spawn { args = { "unshare", "-pf", LUAPOOL, "-e", "io.stderr:write('ready\\n') while true do end" } }
  p:read_until("ready\n", 30)
  for _, child in ipairs(proc.children(p.pid)) do proc.kill(child.pid, "INT") end
  lu.assertEquals(p:finish(30).exit, 130)
end

function TestEnd:test_exit_with_close_inside_a_coroutine()
  local status, out = run [[
    keep = setmetatable({}, { __gc = function() print("finalized") end })
    coroutine.wrap(function() os.exit(7, true) end)()]]
  lu.assertEquals({ status.exit, out }, { 7, "finalized\n" })
end

-- Ignored at the start: a background job of a script, nohup.
TestIgnored = {}

function TestIgnored:test_an_explicit_kill_is_honoured()
  local status, out = interrupt([[expect(function() ready() while true do end end)]], { ignore = { "INT" } })
  lu.assertEquals({ status.exit, out }, { 0, "SIGINT\tcalm\n" })
end

function TestIgnored:test_the_terminal_is_not_heard()
  local p <close> = start([[ready() local l = io.read() print("read", l)]], { ignore = { "INT" }, pty = true })
  p:read_until("ready", 30)
  p:write("\3")
  proc.sleep(0.1)
  p:write("go on\n")
  local status, out = p:finish(30)
  lu.assertEquals(status.exit, 0)
  lu.assertStrContains(out, "read\tgo on")
end

function TestIgnored:test_programs_inherit_it()
  local show = "grep SigIgn /proc/self/status"
  for _, code in ipairs { ("os.execute(%q)"):format(show), ("print(io.popen(%q):read('a'))"):format(show) } do
    for _, ignore in ipairs { {}, { "INT" } } do
      local _, out = run(code, { ignore = ignore })
      local mask = tonumber(out:match("SigIgn:%s*(%x+)"), 16)
      lu.assertEquals(mask & 2, #ignore == 1 and 2 or 0, code)
    end
  end
end

function TestIgnored:test_nohup_survives_a_hangup()
  local p <close> = start([[ready() io.read() print("alive")]], { ignore = { "HUP" }, stdin = "pipe" })
  p:read_until("ready\n", 30)
  p:kill("HUP")
  proc.sleep(0.05)
  p:write("\n")
  local status, out = p:finish(30)
  lu.assertEquals({ status.exit, out }, { 0, "alive\n" })
end

-- What passes through descriptors is neither lost nor torn.
TestStreams = {}

function TestStreams:test_output_to_a_slow_pipe_is_whole()
  local p <close> = start(ANSWER .. [[
    answers = io.stderr
    local i = 1
    answer_interrupts(30, function() return function() while true do io.write("line ", i, "\n") i = i + 1 end end end)
    io.write("last ", i, "\n")]])
  lu.assertNotNil(p:read_until("ready\n", 30))
  local at = 1
  for i = 1, 30 do
    proc.sleep(0.003) -- nobody reads meanwhile: the pipe fills up
    p:kill("INT")
    local found, _, after = p:read_until("!", 30, at)
    if not found then lu.fail(("signal %d was not delivered: %s"):format(i, p.stderr)) end
    at = after
  end
  local _, out = p:finish(30)
  local expected = 0
  for word, number in out:gmatch("([^\n]*) (%d+)\n") do
    local i = tonumber(number) -- an interrupt between the write and the addition repeats a line: that is the script's
    if word ~= "line" then break end
    if i ~= expected + 1 and i ~= expected then lu.fail("torn or lost after line " .. expected .. ": " .. i) end
    expected = i
  end
  local last = tonumber(out:match("\nlast (%d+)\n$"))
  lu.assertTrue(last == expected or last == expected + 1, out:sub(-100))
end

function TestStreams:test_input_goes_on_after_an_interrupt()
  local p <close> = start([[
    print(io.read())
    print(pcall(function() ready() io.read() end))
    print(io.read()) print(io.read("n", "l")) print(io.read("a"))]], { stdin = "pipe" })
  p:write("first\n")
  p:read_until("ready\n", 30)
  proc.sleep(0.03)
  p:kill("INT")
  lu.assertNotNil(p:read_until("interrupted!\n", 30))
  p:write("second\n3 rest\nall\nof it")
  p:close_stdin()
  local _, out = p:finish(30)
  lu.assertEquals(out, "first\nfalse\tinterrupted!\nsecond\n3\t rest\nall\nof it\n")
end

function TestStreams:test_a_read_at_a_terminal()
  local flush = ways.has_musl and "io.flush()" or "" -- (its read of a terminal does not show what waits in stdout)
  local p <close> = start([[
    io.write("name? ") ready() ]] .. flush .. [[
    print(pcall(function() io.read() end))
    print("read", io.read())]], { pty = true })
  lu.assertNotNil(p:read_until("name%? ", 30), "a read shows the prompt that waits in stdout")
  p:write("half a li")
  proc.sleep(0.05)
  p:write("\3")
  lu.assertNotNil(p:read_until("interrupted!", 30))
  p:write("whole\n")
  local status, out = p:finish(30)
  lu.assertEquals(status.exit, 0)
  lu.assertStrContains(out, "read\twhole")
end

function TestStreams:test_the_terminal_is_as_it_was()
  local p <close> = start([[os.execute("stty -echo -icanon") ready() while true do end]], { pty = true })
  local before = p.terminal
  p:read_until("ready", 30)
  lu.assertNotEquals(proc.tty_settings(p), before)
  p:kill("INT")
  lu.assertEquals(p:finish(30).signal, "SIGINT")
  lu.assertEquals(proc.tty_settings(p), before)
end

-- Where the script ends and its input goes on, another program finds the rest.
function TestStreams:test_the_rest_of_a_file_stays_for_others()
  local name = os.tmpname()
  local f = assert(io.open(name, "w"))
  f:write("one\ntwo\nthree\n")
  f:close()
  local q <close> = proc.spawn { args = { "sh", "-c", '("$0" -e "io.write(io.read(), [[ then ]])"; head -n 1) < "$1"', LUAPOOL, name } }
  local _, out = q:finish(30)
  os.remove(name)
  lu.assertEquals(out, "one then two\n")
end
