-- Strange places to run in: few descriptors, processes, bytes; no /proc, /dev, /tmp; signals blocked, streams closed, system calls refused.
-- Each time a job ends well, or with one clear error; nothing hangs, and nothing is left. (tests/hosts/strange.c executes programs so.)
local lu = require "luaunit"
local disk = require "disk"
local proc = require "proc"
local post = require "post"
local ways = require "ways"

local SOAK = os.getenv "SOAK"
-- (Who looks for leaks at the end wants /proc, descriptors and threads for that.)
local LEAKS <const> = (os.getenv "ASAN_OPTIONS" or "") .. ":detect_leaks=0"
local BUILD = os.getenv "BUILD" or "build"
local STRANGE = (BUILD:sub(1, 1) == "/" and "" or proc.directory() .. "/") .. BUILD .. "/tests/hosts/strange"
local STARTS <const> = { "fork", "server", "spawn", "early" }
local NOBODY <const> = 54321 -- a user who runs nothing else

-- How pools start their workers. "early": the command has no such option, but what luapool_init_early calls.
local HEAD = post.EARLY .. [[
local start = os.getenv "START"
local function told(ok, e)
  if ok then return "right" end
  return "error: " .. (type(e) == "table" and e.kind .. ": " .. e.message or tostring(e)):match "[^\n]*"
end
if start == "early" then
  local ok, e = pcall(start_early)
  if not ok then print(told(ok, e)) os.exit(0, true) end
  start = "auto"
end
]]

-- Pools of 1, 2 and 4 that get one more: a line for each.
local JOB = HEAD .. [[
local function attempt(n)
  local p <close> = pool.new { workers = n, grace = 0.3, start = start, output = os.getenv "OUTPUT" }
  local r = p:map(function(x) return { x, ("y"):rep(x) } end, 50, { chunk = 3 })
  for i = 1, 50 do assert(r[i][1] == i and r[i][2] == ("y"):rep(i)) end
  assert(p:submit(function(a) return a + 1 end, 4):get() == 5)
  p:resize(n + 1)
  assert(#p:map(math.abs, 30) == 30)
end
for _, n in ipairs { 1, 2, 4 } do print(told(pcall(attempt, n))) end
]]
local RIGHT <const> = ("right\n"):rep(3)

-- The words before a program that is to run in a strange state.
local function state(...)
  ways.needs_own_machine()
  lu.skipIf(not disk.text_of(STRANGE), "no program for strange states could be built with this C library")
  local words = { STRANGE, ... }
  words[#words + 1] = "--"
  return words
end

-- A shell that does something first, in namespaces of its own ("-m", "-pf --mount-proc"); skipped where that is not allowed.
local function place(namespaces, commands)
  ways.needs_own_machine()
  local words = {}
  for word in ("unshare " .. namespaces):gmatch "%S+" do words[#words + 1] = word end
  if not os.execute(("%s sh -c '%s' 2> /dev/null"):format(table.concat(words, " "), commands)) then
    lu.skip "no right to make namespaces"
  end
  return table.move({ "sh", "-c", commands .. ' && exec "$@"', "sh" }, 1, 4, #words + 1, words)
end

-- Run it; returns what it printed.
local function run(before, code, start, options)
  options = options or {}
  local env = { START = start, OUTPUT = options.output or false, LUAPOOL_START = false, ASAN_OPTIONS = LEAKS }
  for name, value in pairs(options.env or {}) do env[name] = value end
  local s <close> = post.start { before = before, code = code, env = env, program = options.program, stdin = options.stdin }
  local out, err
  if options.judge then options.judge(s) end
  local ok, e = pcall(function() out, err = s:finish { exit = options.exit or 0, within = 30, stderr = options.stderr } end)
  if not ok then
    local text = type(e) == "table" and e.msg or tostring(e)
    lu.fail(("%s, %s: %s\nstdout: %s"):format(table.concat(before, " "), start, text, s.child.stdout))
  end
  return out, err
end

-- Every way to start, or one of them in turn where there is no time for all.
local turn = 0
local function each_start(test)
  for _, start in ipairs(STARTS) do test(start) end
end
local function some_start(test)
  turn = turn + 1
  if SOAK then return each_start(test) end
  test(STARTS[turn % #STARTS + 1])
end

-- Each line says "right", or an error that matches one of the patterns.
local function check_lines(out, what, ...)
  local n = 0
  for line in out:gmatch "[^\n]+" do
    local is_clear = line == "right"
    for _, pattern in ipairs { ... } do is_clear = is_clear or line:find(pattern) ~= nil end
    lu.assertTrue(is_clear, what .. ": " .. line)
    n = n + 1
  end
  lu.assertTrue(n > 0, what .. ": nothing was said")
end

-- ---- limits ----

TestFewDescriptors = {}

for _, start in ipairs(STARTS) do
  TestFewDescriptors["test_each_number_" .. start] = function()
    for n = 4, 40, SOAK and 1 or 2 do
      local out = run(state("limit=nofile:" .. n), JOB, start)
      check_lines(out, ("%d descriptors, %s"):format(n, start), "^error: .*cannot .*: Too many open files$",
        "^error: no memory to send the function: Too many open files$")
      if n == 40 then lu.assertEquals(out, RIGHT) end
    end
  end
end

-- What was refused goes once the limit is higher, in the same pools.
function TestFewDescriptors.test_the_limit_is_raised_later()
  each_start(function(start)
    local out = run(state "limit=nofile:14:100", HEAD .. [[
      local p <close> = pool.new { workers = 4, start = start }
      print(told(pcall(p.map, p, function(x) return x end, 10)))
      rest()
      print(told(pcall(p.map, p, function(x) return x end, 10)))]], start, { stdin = "pipe", judge = function(s)
        s:await "rest"
        lu.assertTrue(os.execute(("prlimit --pid %d --nofile=100:100"):format(s.pid)))
        s:relieve()
      end })
    -- (What a helper was given, it has.)
    if start == "fork" or start == "spawn" then lu.assertStrMatches(out, "error: cannot [^\n]*Too many open files\nright\n") end
    check_lines(out, start, "^error: cannot .*Too many open files$")
  end)
end

TestFewProcesses = {}

function TestFewProcesses.test_each_number()
  if not os.execute(("'%s' user=%d -- '%s' -e '' 2> /dev/null"):format(STRANGE, NOBODY, post.LUAPOOL)) then
    lu.skip "cannot run the program as somebody else"
  end
  each_start(function(start)
    for n = 1, 8 do
      local out = run(state("limit=nproc:" .. n, "user=" .. NOBODY), JOB, start)
      check_lines(out, ("%d processes, %s"):format(n, start), "^error: .*cannot .*: Resource temporarily unavailable$")
      if n == 8 then lu.assertEquals(out, RIGHT) end
    end
  end)
end

-- A worker that is to be replaced, and cannot be: the others, who are at work, do its part.
function TestFewProcesses.test_in_the_middle_of_a_replacement()
  each_start(function(start)
    local out = run({}, HEAD .. [[
      local p <close> = pool.new { workers = 3, start = start, on_crash = "retry", retries = 5 }
      local tries = pool.counter()
      p:broadcast(math.abs, 1)
      local function work(x)
        if x == 30 and tries:add(1) == 1 then os.exit(1) end
        local t = os.clock()
        while os.clock() - t < 0.001 do end
        return x
      end
      for _ = 1, 2 do
        local r = p:map(work, 150, { chunk = 2 })
        assert(#r == 150 and r[150] == 150)
      end
      print "right"]], start, { program = post.FAULTY, -- (the early copy is the first fork)
        env = { LUAPOOL_FAIL = start == "early" and "fork#5:EAGAIN" or "fork#4:EAGAIN,spawn#4:EAGAIN" } })
    lu.assertEquals(out, "right\n", start)
  end)
end

-- Nobody's line is shown who made no mistake, and no file of ours.
function TestFewProcesses.test_the_error_has_no_place()
  local text = HEAD .. "local p <close> = pool.new { workers = 2, start = start } print(told(pcall(function() %s end)))"
  for _, call in ipairs { "p:map(math.abs, 3)", "for _ in p:imap(math.abs, 3) do end", "p:broadcast(math.abs, 3)" } do
    local out = run({}, (text:gsub("%%s", call)), "fork", { program = post.FAULTY, env = { LUAPOOL_FAIL = "fork#0:EAGAIN" } })
    lu.assertEquals(out, "error: cannot start workers: fork: Resource temporarily unavailable\n", call)
  end
end

TestFewBytes = {}

function TestFewBytes.test_address_space()
  if proc.slowness > 1 then lu.skip "sanitizers need addresses of their own" end
  some_start(function(start)
    for _, megabytes in ipairs(SOAK and { 12, 16, 20, 30, 40, 50, 66, 70, 80, 100, 200 } or { 16, 40, 70, 100 }) do
      lu.assertEquals(run(state("limit=as:" .. (megabytes << 20)), JOB, start), RIGHT, megabytes .. " MB, " .. start)
    end
  end)
end

function TestFewBytes.test_address_space_is_used_up()
  if proc.slowness > 1 then lu.skip "sanitizers need addresses of their own" end
  some_start(function(start)
    local out = run(state("limit=as:" .. (80 << 20)), HEAD .. [[
      local p <close> = pool.new { workers = 2, grace = 0.3, start = start }
      print(told(pcall(p.map, p, function() return #("x"):rep(500 << 20) end, 3)))
      print(told(pcall(p.map, p, function(x) return ("x"):rep(40 << 20) .. x end, 8)))
      print(told(pcall(p.map, p, function() local t = {} for i = 1, 1e8 do t[i] = { i } end return #t end, 2)))
      print(told(pcall(function()
        local items = {}
        for i = 1, 6 do items[i] = ("i"):rep(10 << 20) .. i end
        return p:map(function(x) return #x end, items)
      end)))
      collectgarbage()
      print(told(pcall(pool.array, "f64", 100 << 20)))
      print(told(pcall(string.rep, "x", 500 << 20)))
      collectgarbage()
      local r = p:map(function(x) return x end, 100)
      print(#r == 100 and "right" or #r)]], start)
    check_lines(out, start, "^error: memory: not enough memory", "^error: not enough memory$", "^error: error: not enough memory: ",
      "^error: no memory .*: Cannot allocate memory$")
    lu.assertStrMatches(out, ("error: memory[^\n]*\n"):rep(3) .. ("error: [^\n]*\n"):rep(3) .. "right\n")
  end)
end

-- Logs, traces, reports and shared memory beyond the limit on file sizes: errors, and no SIGXFSZ.
function TestFewBytes.test_file_sizes()
  local code = HEAD .. [[
    local scratch = os.getenv "SCRATCH"
    os.execute("mkdir " .. scratch)
    local function in_pool(options, f)
      options.workers, options.start = 2, start
      print(told(pcall(function() local p <close> = pool.new(options) return f(p) end)))
    end
    local function work(x) return ("r"):rep(x) end
    in_pool({}, function(p) return p:map(work, 100) end)
    in_pool({}, function(p) return p:map(work, 200, { log = scratch .. "/log" }) end)
    in_pool({}, function(p) return p:map(work, 200, { log = scratch .. "/log", resume = true }) end)
    in_pool({ trace = scratch .. "/trace" }, function(p) for _ = 1, 100 do p:map(math.abs, 10) end end)
    in_pool({ trace = true }, function(p) p:map(work, 100) p:report { html = scratch .. "/page" } end)
    print(told(pcall(pool.array, "u8", 8 << 20)))
    print(told(pcall(function() return pool.channel(3):send(("x"):rep(1 << 22)) end)))
    in_pool({ output = "discard" }, function(p) return p:map(print, 100) end)]]
  each_start(function(start)
    for _, bytes in ipairs { 0, 1000, 30000, 1 << 20 } do
      -- (A trace that ends before its job does is told of at once, too.)
      local s <close> = post.start { before = state("limit=fsize:" .. bytes), code = code, env = { START = start, LUAPOOL_START = false } }
      local what = ("%d bytes, %s"):format(bytes, start)
      local status, out, err = s.child:finish(30)
      lu.assertNotNil(status.exit, what .. ": " .. tostring(status.signal))
      check_lines(out, what, "File too large")
      lu.assertEquals(select(2, out:gsub("\n", "")), 8, what .. out)
      if start == "fork" then lu.assertStrMatches(out, "right\n.*") end
      if bytes == 1 << 20 then lu.assertStrMatches(out, "right\nright\nright\n.*") end
      for line in err:gmatch "[^\n]+" do lu.assertStrContains(line, "File too large", what) end
      s:check_leftovers(post.SLACK / 2)
      os.execute(("rm -rf '%s.scratch'"):format(s.directory))
    end
  end)
end

function TestFewBytes.test_stack()
  if proc.slowness > 1 then lu.skip "sanitizers need more" end
  for _, bytes in ipairs { 128 << 10, "unlimited" } do
    some_start(function(start) lu.assertEquals(run(state("limit=stack:" .. bytes), JOB, start), RIGHT, start) end)
  end
end

-- A worker whose time of the processor is over dies of that, with its item; the next one has time of its own.
function TestFewBytes.test_processor_time()
  some_start(function(start)
    local out = run(state "limit=cpu:1:20", HEAD .. [[
      local p <close> = pool.new { workers = 2, start = start }
      local ok, e = pcall(p.map, p, function(x) if x == 2 then while true do end end return x end, 3, { chunk = 1 })
      print(ok, e.kind, e.signal, e.index, #p:map(function(x) return x end, 10))]], start)
    lu.assertEquals(out, "false\tcrash\tSIGXCPU\t2\t10\n", start)
  end)
end

-- ---- how it is started ----

TestInherited = {}

for _, what in ipairs { "ignored", "blocked" } do
  TestInherited["test_all_signals_" .. what] = function()
    each_start(function(start) lu.assertEquals(run(state(what), JOB, start), RIGHT, start) end)
  end
end

-- A task's output never gets into a file that has the number of a closed stream.
function TestInherited.test_closed_streams()
  for i, closed in ipairs { "0", "1", "2", "01", "02", "12", "012" } do
    local function test(start)
      local s <close> = post.start { before = state("closed=" .. closed), env = { START = start, LUAPOOL_START = false,
        OUTPUT = i % 2 == 0 and "discard" or false }, code = HEAD .. [[
        local file = io.open(os.getenv "SCRATCH", "w")
        local p = pool.new { workers = 2, start = start, output = os.getenv "OUTPUT" }
        local r = p:map(function(x) print("out" .. x) io.stderr:write("err" .. x .. "\n") os.execute "true" return io.read() or x end, 20)
        file:write(#r, " ", r[20], " ", tostring(p:close()), "\n")
        local a = pool.array("i32", 3)
        file:write(pool.map(function(x) return x + a[1] end, 5, { workers = 2, start = start })[5], "\n")
        file:write(io.popen "echo executed":read "a")
        file:close()]] }
      lu.assertEquals(s.child:finish(30).exit, 0, closed .. s.child.stderr)
      lu.assertEquals(disk.text_of(s.directory .. ".scratch"), "20 20 true\n5\nexecuted\n", closed .. ", " .. start)
      s:check_leftovers(post.SLACK / 2)
    end
    if SOAK then each_start(test) else test(STARTS[i % #STARTS + 1]) end
  end
end

function TestInherited.test_environment()
  local mark = ("POOLTEST_ID=$POOLTEST_ID TMPDIR=$TMPDIR START=$START")
  for what, command in pairs {
    empty = ("exec env -i %s \"$@\""):format(mark),
    no_home = "unset HOME LOGNAME USER PATH; exec \"$@\"",
    locale = "LC_ALL=xx_YY.broken LANG=@@ TZ=nowhere exec \"$@\"",
    directory = "cd \"$(mktemp -d)\" && rmdir \"$PWD\" && exec \"$@\"",
  } do
    some_start(function(start)
      lu.assertEquals(run({ "sh", "-c", command, "sh" }, JOB, start), RIGHT, what .. ", " .. start)
    end)
  end
end

function TestInherited.test_without_a_name()
  each_start(function(start) lu.assertEquals(run(state "name=", JOB, start), RIGHT, start) end)
  local args = state "nameless"
  args[#args + 1] = post.LUAPOOL
  local s <close> = post.start { args = args, stdin = JOB, env = { LUAPOOL_START = "server" } }
  s:finish { exit = 0, stdout = RIGHT, within = 30 }
end

-- ---- what is not there ----

TestMissing = {}

-- The program's own folder may be below what is hidden.
local HIDE_TMP = ("exec 9< \"%s\" && mount -t tmpfs -o ro none /tmp"):format(post.LUAPOOL)

for what, hidden in pairs {
  proc = { "umount -l /proc" },
  dev = { "mount -t tmpfs none /dev" },
  proc_and_dev = { "umount -l /proc && mount -t tmpfs -o ro none /dev" },
  tmp = { HIDE_TMP, "/proc/self/fd/9" },
  writable = { HIDE_TMP .. " && mount --bind / / && mount -o remount,ro,bind / && mount -t tmpfs -o ro none /dev/shm",
    "/proc/self/fd/9" },
} do
  TestMissing["test_" .. what] = function()
    if what:find "proc" and proc.slowness > 1 then lu.skip "a sanitizer wants /proc itself" end
    local before = place("-m", hidden[1])
    each_start(function(start)
      local out = run(before, JOB, start, { program = hidden[2], env = { TMPDIR = hidden[2] and "/tmp" or nil } })
      if hidden[2] and os.getenv "POOLTEST_PORTABLE" then -- files of memory are temporary files, and there is no place for them
        check_lines(out, start, "^error: cannot .*Read%-only file system$")
      else
        lu.assertEquals(out, RIGHT, what .. ", " .. start)
      end
    end)
  end
end

-- What cannot do without says what it lacks.
function TestMissing.test_dev_null_to_discard_output()
  local before = place("-m", "mount -t tmpfs none /dev")
  each_start(function(start)
    check_lines(run(before, JOB, start, { output = "discard" }), start,
      "^error: cannot start workers: cannot open /dev/null: No such file or directory$")
  end)
end

-- No memfd, and nearly no room where shared memory or temporary files would be.
function TestMissing.test_room_for_shared_memory()
  local words = place("-m", ('exec 8< "%s" 9< "%s" && for place in /dev/shm /tmp; do mount -t tmpfs -o size=64k none $place || exit; done')
    :format(STRANGE, post.LUAPOOL))
  table.move({ "/proc/self/fd/8", "refused=memfd_create:38", "--" }, 1, 3, #words + 1, words)
  each_start(function(start)
    check_lines(run(words, JOB, start, { program = "/proc/self/fd/9", env = { TMPDIR = "/tmp" } }), start,
      "^error: .*: No space left on device$")
  end)
end

function TestMissing.test_a_namespace_of_processes()
  for _, namespaces in ipairs { "-pf --mount-proc", "-pf" } do
    local before = place(namespaces, "true")
    each_start(function(start) lu.assertEquals(run(before, JOB, start), RIGHT, namespaces .. start) end)
  end
end

-- ---- system calls that a sandbox refuses ----

TestSandbox = {}

local function needs_filter(call)
  ways.needs_own_machine()
  lu.skipIf(not os.execute(("'%s' refused=%s:38 -- /bin/true 2> /dev/null"):format(STRANGE, call)), "no filter of system calls here")
end

for _, call in ipairs { "memfd_create", "pidfd_open", "pidfd_send_signal", "close_range", "getrandom", "eventfd2", "prctl", "fallocate",
  "sched_setaffinity", "sched_getaffinity", "timerfd_create", "epoll_create1", "waitid", "sigaltstack", "madvise" } do
  TestSandbox["test_" .. call] = function()
    if call == "sigaltstack" and proc.slowness > 1 then lu.skip "a sanitizer wants it itself" end
    needs_filter(call)
    for _, number in ipairs { 1, 38 } do -- EPERM, ENOSYS
      some_start(function(start) lu.assertEquals(run(state(("refused=%s:%d"):format(call, number)), JOB, start), RIGHT, start) end)
    end
  end
end

-- Without clone3 the C library executes nothing: helpers are refused, and forks are not.
function TestSandbox.test_clone3()
  needs_filter "clone3"
  each_start(function(start)
    check_lines(run(state "refused=clone3:1", JOB, start), start,
      "^error: cannot start workers: cannot execute the helper '.*': Operation not permitted$")
  end)
end

-- Where all files of memory have to be sealed against execution.
function TestSandbox.test_memfd_noexec()
  local before = place("-pf --mount-proc", "echo 2 > /proc/sys/vm/memfd_noexec")
  each_start(function(start) lu.assertEquals(run(before, JOB, start), RIGHT, start) end)
end
