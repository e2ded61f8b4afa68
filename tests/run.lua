-- tests/run.lua [-c] [-p PATTERN] [NAME ...] -- run the tests and end with "N passed, N failed".
--   NAME      test_codec.lua, codec, or tests/test_codec.lua; none: every tests/test_*.lua and tests/c/test_*.c
--   -c        only the C programs, and what else is named
--   -p        only tests whose name (TestClass.test_name) matches the Lua pattern
-- Environment: BUILD (the build directory, default "build"), LUA (the interpreter that runs the tests; default: the program
-- under test if it is built), WRAPPER (words before it), FILE_SECONDS (deadline of one file), POOLTEST_SLOWNESS (stretches
-- that and the tests' own time limits), JOBS (files that run at the same time, default 1), SLOWEST (so many of the tests that took longest
-- are listed at the end, with seconds of the clock and of processors), POOLTEST_PORTABLE (built without what `make portable` leaves out).
-- Some files run once more for each other way to start workers (LUAPOOL_START): see AGAIN.
-- Each file runs in a process of its own, so that a crash or a hang costs that file alone, and is followed by the leak guard: no
-- process may be left (found by its mark), and no new name in /dev/shm.
local build = os.getenv("BUILD") or "build"
package.cpath = build .. "/tests/?.so;" .. package.cpath
local proc = require "proc"
package.path = "tests/?.lua;" .. package.path
local witness = require "witness"

local here = proc.directory()
if build:sub(1, 1) ~= "/" then build = here .. "/" .. build end
local FILE_SECONDS = tonumber(os.getenv("FILE_SECONDS") or 300)
local JOBS = math.max(1, math.tointeger(tonumber(os.getenv("JOBS") or 1)) or 1)
local GLANCE = 0.03 / JOBS -- seconds for each running file in its turn

-- The longest begin first, so that none of them is alone at the end.
local FIRST = {
  "tests/test_mpi_loss.lua", "tests/test_stream.lua", "tests/test_signals.lua", "tests/test_faults.lua", "tests/test_repl.lua",
  "tests/test_mpi.lua", "tests/c/test_pool.c", "tests/test_page.lua", "tests/test_interrupt.lua", "tests/test_oneliner.lua",
  "tests/test_examples.lua", "tests/test_house.lua", "tests/test_errors.lua", "tests/test_verbs.lua", "tests/test_simulation.lua",
}

-- The promises of pools hold for all workers, not only for copies of the program.
local AGAIN = { server = { "pool", "crash", "functions", "stream", "future" }, spawn = { "pool", "functions", "trace" } }

local SLOWEST = math.tointeger(tonumber(os.getenv("SLOWEST") or 0)) or 0
local times = {} -- of tests: { seconds, cpu_seconds, "file: name" }

local totals = { passed = 0, failed = 0, skipped = 0 }
local failures = {}

local function is_file(path)
  local file = io.open(path, "rb")
  if file then file:close() end
  return file ~= nil
end

-- What a test process finds in its environment, whoever starts it.
local program = build .. "/luapool"
local interpreter = os.getenv("LUA") or (is_file(program) and program) or "lua5.4"
local environment = {
  BUILD = build,
  LUAPOOL = program,
  LUAPOOL_FAULTS = build .. "/faults/luapool",
  LUA_PATH = here .. "/tests/?.lua;;",
  LUA_CPATH = build .. "/tests/?.so;" .. build .. "/lua/?.so;;",
  LUA_PATH_5_4 = false, LUA_CPATH_5_4 = false, LUA_INIT = false, LUA_INIT_5_4 = false, LUAPOOL_WORKERS = false,
  LUAPOOL_START = false, LUAPOOL_HELPER = false,
}

-- WRAPPER="valgrind -q ...": what the tests' own processes run under.
local wrapper = {}
for word in (os.getenv("WRAPPER") or ""):gmatch("%S+") do wrapper[#wrapper + 1] = word end

local function wrapped(...)
  local words = table.move(wrapper, 1, #wrapper, 1, {})
  return table.move({ ... }, 1, select("#", ...), #words + 1, words)
end

local failed_in = {} -- by file

local function fail(file, test, reason)
  totals.failed = totals.failed + 1
  failed_in[file] = (failed_in[file] or 0) + 1
  failures[#failures + 1] = ("%s: %s\n    %s"):format(file, test, (reason:gsub("%s+$", ""):gsub("\n", "\n    ")))
end

-- A log is text, whatever bytes the values of a failed comparison had.
local function printable(text)
  return (text:gsub("[^\n\t -~]", function(byte) return ("\\%d"):format(byte:byte()) end))
end

local function tail(text)
  text = text:gsub("%s+$", "")
  return #text > 4000 and "[...] " .. text:sub(-4000) or text
end

local function shared_memory_names()
  local names = {}
  for _, name in ipairs(proc.list("/dev/shm") or {}) do names[name] = true end
  return names
end

-- The leak guard: what is new may be somebody else's passing business, or have been killed and have no processor to die on yet: it has
-- some seconds to go away.
local function guard(file, mark, names_before)
  local left = {}
  local function is_clean()
    left = proc.leftovers(mark)
    for name in pairs(shared_memory_names()) do
      if not names_before[name] then left[#left + 1] = "/dev/shm/" .. name end
    end
    return #left == 0
  end
  if proc.wait_until(is_clean, 3) then return end
  local words = {}
  for _, what in ipairs(left) do
    local stat = type(what) == "number" and proc.stat(what)
    words[#words + 1] = stat and ("process %d (%s, state %s)"):format(what, stat.name, stat.state) or tostring(what)
  end
  proc.kill_marked(mark)
  fail(file, "leak guard", "left behind: " .. table.concat(words, ", "))
end

local function describe(status)
  return status.signal and "died of " .. status.signal or "exit status " .. status.exit
end

local under_way = {} -- file -> { process, started } of the files that run now

-- Start a program, let others have their turn until it has ended (at most FILE_SECONDS), look what it left. In a coroutine.
-- Returns status (nil: it hung), stdout, stderr, and of a hang what its processes waited for.
local function run_process(file, arguments, start)
  local names, env = shared_memory_names(), {}
  for name, value in pairs(environment) do env[name] = value end
  env.LUAPOOL_START = start or false
  local process = proc.spawn { args = arguments, env = env, deadline = FILE_SECONDS + 60 }
  local deadline = proc.now() + FILE_SECONDS * proc.slowness
  under_way[file] = { process = process, started = proc.now() }
  local status, stdout, stderr
  repeat
    coroutine.yield()
    status, stdout, stderr = process:wait(GLANCE / proc.slowness)
  until status or proc.now() > deadline
  local evidence
  under_way[file] = nil
  if not status then
    stdout, stderr, evidence = process.stdout, process.stderr, witness.describe(process.pid, process.mark)
    process:kill("KILL")
    proc.kill_marked(process.mark)
    process:wait(5)
  end
  guard(file, process.mark, names)
  return status, stdout, stderr, evidence
end

-- Read what tests/run_file.lua (or the TAP reader below) noted.
-- Returns counts, the test that was running at the end, and whether the file came to its end.
local function read_report(file, lines)
  local counts, running, is_complete, failed_test, reason = { ok = 0, fail = 0, skip = 0 }, nil, false, nil, {}
  local function close_failure()
    if failed_test then fail(file, failed_test, table.concat(reason, "\n")) end
    failed_test, reason = nil, {}
  end
  for line in lines do
    local word, rest = line:match("^(%a+) ?(.*)$")
    if line:sub(1, 1) == " " then
      reason[#reason + 1] = line:sub(2)
    elseif word == "run" then
      running = rest
    elseif counts[word] then
      close_failure()
      counts[word], running = counts[word] + 1, nil
      if word == "fail" then failed_test = rest end
    elseif word == "took" then
      local seconds, cpu, name = rest:match("^(%S+) (%S+) (.*)$")
      times[#times + 1] = { tonumber(seconds), tonumber(cpu), file .. ": " .. name }
    elseif word == "end" then
      is_complete = true
    end
  end
  close_failure()
  totals.passed, totals.skipped = totals.passed + counts.ok, totals.skipped + counts.skip
  return counts, running, is_complete
end

-- One file is over: note a death, a hang or emptiness as a failure of its own, and say the result in one line.
local function conclude(file, started, status, running, is_complete, counts, stdout, stderr, evidence)
  if not is_complete then
    local what = status and describe(status) or ("killed: it hung for %.0f s"):format(FILE_SECONDS * proc.slowness)
    local where = running and "in " .. running or "outside of any test"
    fail(file, running or "(file)", ("%s %s\nstdout: %s\nstderr: %s\n%s"):format(what, where, tail(stdout), tail(stderr), evidence or ""))
  elseif counts.ok + counts.fail + counts.skip == 0 and not counts.is_filtered then
    fail(file, "(file)", "has no tests")
  end
  local seconds = proc.now() - started
  print(("%-34s %4d passed %3d failed%s  %6.1f s"):format(file, counts.ok, failed_in[file] or 0,
    counts.skip > 0 and (" %d skipped"):format(counts.skip) or "", seconds))
  io.stdout:flush()
end

local function run_lua_file(file, pattern, start)
  local report = ("%s/tests/%s%s.report"):format(build, file:match("([^/]+)%.lua$"), start and "." .. start or "")
  os.remove(report)
  local started = proc.now()
  local name = start and ("%s (%s)"):format(file, start) or file
  local status, stdout, stderr, evidence = run_process(name, wrapped(interpreter, "tests/run_file.lua", file, report, pattern), start)
  local lines = is_file(report) and io.lines(report) or function() end
  local counts, running, is_complete = read_report(name, lines)
  counts.is_filtered = pattern ~= nil
  if is_complete and (not status or status.exit ~= 0) then
    running, is_complete = "(leaving)", false
  end
  conclude(name, started, status, running, is_complete, counts, stdout, stderr, evidence)
end

-- cmocka's TAP output as report lines: "ok 3 - name", "not ok 4 - name", "not ok 5 # SKIP name", "# reason".
-- The plan ("1..36") says how many there must be. What fail_msg says is in stderr, apart from its test: the first failure shows it.
local function tap_lines(text)
  local words = {}
  for line in text:gmatch("[^\n]+") do
    if line:sub(1, 7) == "ERROR: " then words[#words + 1] = line end
  end
  return coroutine.wrap(function()
    for line in text:gmatch("[^\n]+") do
      local result, mark, name = line:match("^([not ]*ok) %d+ ([-#]) (.*)$")
      if result then
        local is_skipped = mark == "#" or name:find("# SKIP", 1, true)
        local word = is_skipped and "skip " or result == "ok" and "ok " or "fail "
        coroutine.yield(word .. name:gsub("^SKIP ", ""))
        if word == "fail " then
          for _, said in ipairs(words) do coroutine.yield(" " .. said) end
          words = {}
        end
      elseif line:sub(1, 1) == "#" then
        coroutine.yield(" " .. line)
      end
    end
  end)
end

local function planned(text)
  local count = 0
  for line in text:gmatch("[^\n]+") do count = count + (tonumber(line:match("^1%.%.(%d+)$")) or 0) end
  return count
end

local function run_c_file(file)
  local binary = ("%s/tests/%s"):format(build, file:match("([^/]+)%.c$"))
  local started = proc.now()
  if not is_file(binary) then return fail(file, "(file)", binary .. " is not built") end
  local status, stdout, stderr, evidence = run_process(file, wrapped(binary))
  local counts = read_report(file, tap_lines(stdout .. "\n" .. stderr))
  -- cmocka's exit status is the number of failed tests: one that does not match is a death.
  local is_complete = status ~= nil and status.exit ~= nil and (status.exit == 0) == (counts.fail == 0)
    and counts.ok + counts.fail + counts.skip == planned(stdout .. "\n" .. stderr)
  conclude(file, started, status, nil, is_complete, counts, stdout, stderr, evidence)
end

-- The runs of a file: functions for coroutines.
local function add_runs(runs, file, pattern)
  if file:match("%.c$") then
    runs[#runs + 1] = function() run_c_file(file) end
    return
  end
  runs[#runs + 1] = function() run_lua_file(file, pattern) end
  for _, start in ipairs { "server", "spawn" } do
    for _, base in ipairs(AGAIN[start]) do
      if file == ("tests/test_%s.lua"):format(base) then
        runs[#runs + 1] = function() run_lua_file(file, pattern, start) end
      end
    end
  end
end

-- At most `jobs` of them at a time, begun in their order.
local function run_all(runs, jobs)
  local running, begun = {}, 0
  repeat
    while #running < jobs and begun < #runs do
      begun = begun + 1
      running[#running + 1] = coroutine.create(runs[begun])
    end
    for i = #running, 1, -1 do
      assert(coroutine.resume(running[i]))
      if coroutine.status(running[i]) == "dead" then table.remove(running, i) end
    end
  until #running == 0 and begun == #runs
end

-- Every test_*.lua of tests/ and test_*.c of tests/c: the longest, then all others by name; no list of them is kept by hand.
local function discover()
  local files, is_listed = {}, {}
  local function add(file)
    if not is_listed[file] then files[#files + 1] = file end
    is_listed[file] = true
  end
  for _, file in ipairs(FIRST) do
    if is_file(file) then add(file) end
  end
  for _, place in ipairs { "tests/c", "tests" } do
    local names = proc.list(place) or {}
    table.sort(names)
    for _, name in ipairs(names) do
      if name:match("^test_.*%.lua$") and place == "tests" or name:match("^test_.*%.c$") and place == "tests/c" then
        add(place .. "/" .. name)
      end
    end
  end
  return files
end

local function is_wanted(file, names, all_of_c)
  if all_of_c and file:match("%.c$") then return true end
  if #names == 0 then return not all_of_c end
  local base = file:match("([^/]+)$")
  for _, name in ipairs(names) do
    name = name:match("([^/]+)$")
    if base == name or base:match("^test_(.*)%.%a+$") == name or base:match("^(.*)%.%a+$") == name then return true end
  end
  return false
end

local function print_slowest(count)
  table.sort(times, function(a, b) return a[1] > b[1] end)
  for i = 1, math.min(count, #times) do print(("%7.2f s %7.2f s of processors  %s"):format(table.unpack(times[i]))) end
end

-- Somebody ends the run (CI's time is over): what ran, and what it waited for. Returns false.
local function give_up(reason)
  print("the tests were ended: " .. tostring(reason))
  for file, each in pairs(under_way) do
    local pid, mark = each.process.pid, each.process.mark
    print(("%s had run for %.0f s\n%s"):format(file, proc.now() - each.started, printable(witness.describe(pid, mark))))
    proc.kill_marked(mark)
  end
  return false
end

local function main()
  local names, pattern, all_of_c = {}, nil, false
  local i = 1
  while arg[i] do
    if arg[i] == "-p" then
      pattern, i = arg[i + 1], i + 1
    elseif arg[i] == "-c" then
      all_of_c = true
    else
      names[#names + 1] = arg[i]
    end
    i = i + 1
  end
  environment.CMOCKA_MESSAGE_OUTPUT = "TAP"
  print("tests run under " .. interpreter)
  local runs = {}
  for _, file in ipairs(discover()) do
    if is_wanted(file, names, all_of_c) then add_runs(runs, file, pattern) end
  end
  local is_done, reason = pcall(run_all, runs, JOBS)
  if not is_done then return give_up(reason) end
  print_slowest(SLOWEST)
  if #failures > 0 then print("\nFailures:") end
  for number, text in ipairs(failures) do print(number .. ") " .. printable(text)) end
  local skipped = totals.skipped > 0 and (", %d skipped"):format(totals.skipped) or ""
  print(("%d passed, %d failed%s"):format(totals.passed, totals.failed, skipped))
  return totals.failed == 0 and totals.passed > 0
end

os.exit(main(), true)
