-- The harness itself: what tests/c/proc.c reports is true, and nothing that it starts can hide from it.
local lu = require "luaunit"
local proc = require "proc"

TestHarness = {}

local function shell(script, options)
  options = options or {}
  options.args = { "sh", "-c", script }
  return proc.spawn(options)
end

function TestHarness:test_exit_status_and_both_outputs()
  local status, out, err = shell("echo out; echo err >&2; exit 3"):finish(5)
  lu.assertEquals({ status.exit, status.signal, out, err }, { 3, nil, "out\n", "err\n" })
end

function TestHarness:test_death_by_signal()
  lu.assertEquals(shell("kill -TERM $$"):finish(5).signal, "SIGTERM")
end

function TestHarness:test_a_missing_program_is_an_error()
  lu.assertErrorMsgContains("cannot start /no/such/program", proc.spawn, { args = { "/no/such/program" } })
end

function TestHarness:test_unknown_options_are_errors()
  lu.assertErrorMsgContains("spawn knows no option 'argument'", proc.spawn, { argument = {} })
end

function TestHarness:test_input_larger_than_every_pipe()
  local text = ("0123456789"):rep(100000)
  local status, out = proc.spawn({ args = { "cat" }, stdin = text }):finish(10)
  lu.assertEquals(status.exit, 0)
  lu.assertTrue(out == text)
end

function TestHarness:test_much_on_both_outputs_does_not_block()
  local _, out, err = shell("head -c 300000 /dev/zero >&2; head -c 300000 /dev/zero"):finish(10)
  lu.assertEquals({ #out, #err }, { 300000, 300000 })
end

function TestHarness:test_conversation()
  local p = proc.spawn { args = { "cat" }, stdin = "pipe" }
  p:write("one\n")
  lu.assertEquals(p:read_until("one\n", 5), "one\n")
  p:write("two\n")
  local text, _, position = p:read_until("two\n", 5, 5)
  lu.assertEquals({ text, position }, { "one\ntwo\n", 9 })
  lu.assertNil(p:read_until("three", 0.05))
  p:close_stdin()
  lu.assertEquals(p:finish(5).exit, 0)
end

function TestHarness:test_wait_returns_nothing_when_the_time_is_over()
  local p = proc.spawn { args = { "sleep", "60" } }
  lu.assertNil(p:wait(0.05))
  lu.assertTrue(p:kill("KILL"))
  lu.assertEquals(p:wait(5).signal, "SIGKILL")
  lu.assertFalse((p:kill("KILL")))
end

function TestHarness:test_finish_kills_what_hangs()
  local p = shell("setsid sleep 60 & echo started; wait")
  p:read_until("started", 5)
  local _, message = pcall(p.finish, p, 0.1)
  lu.assertStrContains(message, "had to be killed")
  lu.assertStrMatches(message, ".*process %d+ %(sh%), child of .*process %d+ %(sleep%), child of .*") -- and what it and its children did
  lu.assertEquals(proc.leftovers(p.mark), {})
end

function TestHarness:test_leftovers_are_found_whatever_their_session_and_parent()
  local p = shell("(setsid sleep 60 >/dev/null 2>&1 </dev/null & echo $!)")
  local _, out = p:finish(5)
  lu.assertEquals(proc.leftovers(p.mark), { math.tointeger(out) })
  proc.kill_marked(p.mark)
  lu.assertEquals(proc.leftovers(p.mark), {})
end

function TestHarness:test_a_deadline_ends_the_child()
  local p = proc.spawn { args = { "sleep", "60" }, deadline = 0.1 }
  lu.assertErrorMsgContains("its deadline had passed", p.wait, p, 30)
end

function TestHarness:test_a_collected_child_is_killed_and_reaped()
  local p = proc.spawn { args = { "sleep", "60" } }
  local pid = p.pid
  lu.assertEquals(proc.stat(pid).ppid, proc.pid())
  p = nil -- luacheck: ignore
  collectgarbage()
  collectgarbage()
  lu.assertNil(proc.stat(pid))
end

function TestHarness:test_environment_is_added_to_and_taken_from()
  local _, out = shell("echo $ADDED-${HOME:-none}", { env = { ADDED = 7, HOME = false } }):finish(5)
  lu.assertEquals(out, "7-none\n")
end

function TestHarness:test_terminal()
  local p = shell(
    "read go; test -t 0 && test -t 1 && test -t 2 && echo terminal; stty -echo; read line; echo got $line",
    { pty = true })
  local before = proc.tty_settings(p)
  lu.assertEquals(p.terminal, before)
  p:write("go\n")
  lu.assertNotNil(p:read_until("terminal", 5))
  proc.wait_until(function() return proc.tty_settings(p) ~= before end, 5)
  lu.assertNotEquals(proc.tty_settings(p), before)
  p:write("text\n")
  local status, out = p:finish(5)
  lu.assertEquals({ status.exit, out }, { 0, "go\r\nterminal\r\ngot text\r\n" })
end

function TestHarness:test_interrupt_key_reaches_the_whole_group()
  local p = shell("sleep 60 & echo ready; wait; sleep 60", { pty = true })
  p:read_until("ready", 5)
  p:write("\3")
  lu.assertEquals(p:finish(5).signal, "SIGINT")
end

function TestHarness:test_ignored_signals_and_proc_fields()
  local p = proc.spawn { args = { "sleep", "60" }, ignore = { "INT" } }
  lu.assertEquals(tonumber(proc.status_field(p.pid, "SigIgn"), 16) & 2, 2)
  lu.assertTrue(proc.wait_until(function() return #proc.fds(p.pid) == 3 end, 5)) -- (its libraries were opened, and closed again)
  lu.assertEquals(proc.stat(p.pid).pgrp, p.pid)
  p:kill_group("INT")
  lu.assertNil(p:wait(0.05))
  p:kill("SIGSTOP")
  lu.assertTrue(proc.wait_until(function() return proc.stat(p.pid).state == "T" end, 5))
end

function TestHarness:test_children_with_their_state()
  local p = shell("sleep 60 & exec sleep 60")
  local function is_started(stat) return stat and stat.name == "sleep" end
  lu.assertTrue(proc.wait_until(function() return is_started(proc.stat(p.pid)) and is_started(proc.children(p.pid)[1]) end, 5))
  local child = proc.children(p.pid)[1]
  proc.kill(child.pid, "KILL")
  lu.assertTrue(proc.wait_until(function() return proc.children(p.pid)[1].state == "Z" end, 5))
end

-- The runner, run on a house of its own: whatever a test file does, the others are run and the last line tells the truth.
TestRunner = {}

local BUILD = os.getenv "BUILD"

-- A folder with the runner and these tests.
local function build_house(files)
  local house = os.tmpname()
  os.remove(house)
  assert(os.execute(("mkdir -p '%s/tests/c' && cp tests/run.lua tests/run_file.lua tests/witness.lua '%s/tests'"):format(house, house)))
  for name, text in pairs(files) do
    local file = assert(io.open(house .. "/tests/" .. name, "w"))
    file:write(text)
    file:close()
  end
  return house
end

local function run(files, environment)
  local house = build_house(files)
  environment = environment or {}
  environment.BUILD, environment.LUA, environment.WRAPPER, environment.JOBS = BUILD, "lua5.4", false, environment.JOBS or false
  local p <close> = proc.spawn { args = { "lua5.4", "tests/run.lua" }, cwd = house, env = environment }
  local status, out, err = p:finish(50)
  os.execute(("rm -r '%s'"):format(house))
  lu.assertEquals(err, "")
  return out:match("([^\n]*)\n$"), status.exit, out
end

local GOOD = "TestGood = {} function TestGood.test_one() end function TestGood.test_two() end"

function TestRunner:test_counts_and_exit_status()
  local last, status = run { ["test_runner_good.lua"] = GOOD }
  lu.assertEquals({ last, status }, { "2 passed, 0 failed", 0 })
end

function TestRunner:test_nothing_run_is_a_failure()
  local last, status = run {}
  lu.assertEquals({ last, status }, { "0 passed, 0 failed", 1 })
end

function TestRunner:test_failures_errors_and_skips()
  local last, status, out = run { ["test_runner_mixed.lua"] = [[local lu = require "luaunit"
    TestMixed = {}
    function TestMixed.test_fails() lu.assertEquals(1, 2) end
    function TestMixed.test_raises() error "raised here" end
    function TestMixed.test_passes() end
    function TestMixed.test_skips() lu.skip "not today" end]] }
  lu.assertEquals({ last, status }, { "1 passed, 2 failed, 1 skipped", 1 })
  lu.assertStrContains(out, "raised here")
end

function TestRunner:test_a_crash_costs_its_file_alone()
  local last, status, out = run {
    ["test_runner_crash.lua"] = "TestCrash = {} function TestCrash.test_dies() require('proc').kill(require('proc').pid(), 'SEGV') end",
    ["test_runner_good.lua"] = GOOD }
  lu.assertEquals({ last, status }, { "2 passed, 1 failed", 1 })
  lu.assertStrContains(out, "TestCrash.test_dies\n    died of SIGSEGV in TestCrash.test_dies")
end

function TestRunner:test_a_hang_is_ended_and_named()
  local last, status, out = run({
    ["test_runner_hang.lua"] = "TestHang = {} function TestHang.test_waits() require('proc').sleep(1000) end",
    ["test_runner_good.lua"] = GOOD }, { FILE_SECONDS = 5, POOLTEST_SLOWNESS = false })
  lu.assertEquals({ last, status }, { "2 passed, 1 failed", 1 })
  lu.assertStrContains(out, "it hung for 5 s in TestHang.test_waits")
  lu.assertStrMatches(out, ".*process %d+ %(.*, child of %d+, .*state S.*")
end

function TestRunner:test_who_ends_the_run_learns_what_hung()
  local house = build_house { ["test_runner_hang.lua"] = [[local proc = require "proc"
    TestHang = {}
    function TestHang.test_waits() io.open("started", "w"):close() proc.sleep(1000) end]] }
  local p <close> = proc.spawn { args = { "lua5.4", "tests/run.lua" }, cwd = house,
    env = { BUILD = BUILD, LUA = "lua5.4", WRAPPER = false, JOBS = false } }
  lu.assertTrue(proc.wait_until(function() return io.open(house .. "/started") ~= nil end, 20))
  p:kill("INT")
  local status, out = p:finish(40)
  os.execute(("rm -r '%s'"):format(house))
  lu.assertEquals(status.exit, 1)
  lu.assertStrMatches(out, ".*the tests were ended: [^\n]*interrupted!\ntests/test_runner_hang.lua had run for %d+ s\nprocess %d+ %(.*")
  lu.assertEquals(proc.leftovers(p.mark), {})
end

function TestRunner:test_a_file_that_leaves_early_or_is_empty_or_broken()
  local last = run { ["test_runner_exit.lua"] = "TestExit = {} function TestExit.test_leaves() os.exit(0) end" }
  lu.assertEquals(last, "0 passed, 1 failed")
  lu.assertEquals((run { ["test_runner_empty.lua"] = "" }), "0 passed, 1 failed")
  lu.assertEquals((run { ["test_runner_broken.lua"] = "not Lua" }), "0 passed, 1 failed")
end

function TestRunner:test_files_that_run_at_the_same_time()
  local meet = [[local proc = require "proc"
    TestMeet = {}
    function TestMeet.test_meets()
      io.open("%s", "w"):close()
      assert(proc.wait_until(function() return io.open("%s") end, 20))
    end]]
  local last = run({ ["test_runner_a.lua"] = meet:format("a", "b"), ["test_runner_b.lua"] = meet:format("b", "a"),
    ["test_runner_good.lua"] = GOOD, ["test_runner_bad.lua"] = "TestBad = {} function TestBad.test_fails() error 'x' end" }, { JOBS = "2" })
  lu.assertEquals(last, "4 passed, 1 failed")
end

function TestRunner:test_a_process_left_behind_is_a_failure()
  local last, status, out = run { ["test_runner_leak.lua"] =
    "TestLeak = {} function TestLeak.test_leaves() os.execute('sleep 50 >/dev/null 2>&1 &') end" }
  lu.assertEquals({ last, status }, { "1 passed, 1 failed", 1 })
  lu.assertStrContains(out, "left behind: process")
end

function TestRunner:test_a_c_test_that_is_not_built_is_a_failure()
  lu.assertEquals((run { ["c/test_runner_never_built.c"] = "", ["test_runner_good.lua"] = GOOD }), "2 passed, 1 failed")
end

-- A C test is any program that prints what cmocka prints; scripts stand in for it.
local function run_fake_c_test(script)
  local name = "test_runner_fake_" .. proc.pid()
  local path = ("%s/tests/%s"):format(BUILD, name)
  local file = assert(io.open(path, "w"))
  file:write("#!/bin/sh\n" .. script .. "\n")
  file:close()
  os.execute(("chmod +x '%s'"):format(path))
  local last, status, out = run { ["c/" .. name .. ".c"] = "" }
  os.remove(path)
  return last, status, out
end

function TestRunner:test_c_tests_are_counted()
  local last, status, out = run_fake_c_test [[
echo 1..4; echo ok 1 - test_one; echo not ok 2 '#' SKIP test_two; echo not ok 3 - test_three; echo '# 1 != 2'; echo ok 4 - test_four
echo 'ERROR: place 3: item 1' >&2; exit 1]]
  lu.assertEquals({ last, status }, { "2 passed, 1 failed, 1 skipped", 1 })
  lu.assertStrContains(out, "test_three\n    ERROR: place 3: item 1\n    # 1 != 2")
end

function TestRunner:test_a_c_test_that_stops_half_way_is_a_failure()
  lu.assertEquals((run_fake_c_test "echo 1..2; echo ok 1 - test_one"), "1 passed, 1 failed")
  lu.assertEquals((run_fake_c_test "echo 1..1; echo ok 1 - test_one; kill -SEGV $$"), "1 passed, 1 failed")
end

TestBench = {}

local function bench(...)
  local p <close> = proc.spawn { args = { os.getenv("LUAPOOL") or "build/luapool", "tests/bench/run.lua", ... }, deadline = 60,
    env = { BUILD = "/no/such/folder", PYTHON = "" } } -- where "embed" finds no program to run, and "mpi" is left out
  return p:finish(60)
end

function TestBench:test_the_others_are_run_when_one_fails()
  local status, out, err = bench("embed", "mpi")
  lu.assertEquals(status.exit, 1)
  lu.assertStrMatches(err, "embed: .*/no/such/folder.*mpi: no mpirun.*\n1 of 2 benchmarks failed: embed\n")
  lu.assertStrContains(out, "0 of 0 promises kept.")
  status, out, err = bench("mpi")
  lu.assertEquals(status.exit, 0, err)
  lu.assertStrContains(out, "0 of 0 promises kept.")
end
