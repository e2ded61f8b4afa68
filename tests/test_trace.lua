-- Traces: the file is JSON whenever it is looked at, every track is properly nested, and what it says adds up to what p:stats() says;
-- workers that die, programs that end in any way, disks that are full, files that cannot be written. The JSON is read by lua-cjson.
local lu = require "luaunit"
local cjson = require "cjson"
local disk = require "disk"
local proc = require "proc"
local ways = require "ways"

local LUAPOOL, FAULTS = os.getenv("LUAPOOL"), os.getenv("LUAPOOL_FAULTS")
local directory

local function make_directory() directory = disk.make_directory() end

local function remove_directory() disk.remove_directory(directory) end

local function path(name)
  return directory .. "/" .. (name or "trace.json")
end

-- ---- what a trace says ----

local function is_within(inner, outer)
  return inner.ts >= outer.ts - 0.0005 and inner.ts + inner.dur <= outer.ts + outer.dur + 0.0015 -- written to the nanosecond
end

-- Complete events of one track either follow each other or lie within each other.
local function check_nesting(events, name)
  table.sort(events, function(a, b) return a.ts < b.ts or (a.ts == b.ts and a.dur > b.dur) end)
  local open = {}
  for _, event in ipairs(events) do
    while #open > 0 and open[#open].ts + open[#open].dur <= event.ts + 0.0015 do open[#open] = nil end
    if #open > 0 and not is_within(event, open[#open]) then
      lu.fail(("%s: '%s' at %.3f for %.3f overlaps '%s' at %.3f for %.3f"):format(name, event.name, event.ts, event.dur, open[#open].name,
        open[#open].ts, open[#open].dur))
    end
    open[#open + 1] = event
  end
end

local PHASES = { M = true, X = true, i = true, C = true }

-- { groups = { [pid] = name }, tracks = { ["pid/tid"] = { name, events } }, moments = { [name] = { event, ... } }, sums = { [pid] = ... } }
local function load(name)
  local trace = { groups = {}, tracks = {}, moments = {}, sums = {}, n = 0 }
  for _, event in ipairs(cjson.decode(disk.read(name or path()))) do
    lu.assertTrue(PHASES[event.ph], event.ph)
    lu.assertEquals(math.type(event.pid * 1.0), "float")
    local key = ("%d/%d"):format(event.pid, event.tid)
    trace.tracks[key] = trace.tracks[key] or { events = {} }
    trace.n = trace.n + 1
    if event.ph == "M" and event.name == "process_name" then trace.groups[event.pid] = event.args.name end
    if event.ph == "M" and event.name == "thread_name" then trace.tracks[key].name = event.args.name end
    if event.ph ~= "M" then lu.assertTrue(event.ts >= 0, event.name) end
    if event.ph == "i" then
      trace.moments[event.name] = trace.moments[event.name] or {}
      table.insert(trace.moments[event.name], event)
    elseif event.ph == "X" then
      lu.assertTrue(event.dur >= 0, event.name)
      table.insert(trace.tracks[key].events, event)
      local sum = trace.sums[event.pid] or { items = 0, chunks = 0 }
      trace.sums[event.pid] = sum
      sum.items = sum.items + (event.args.items or 0)
      sum.chunks = sum.chunks + (event.args.chunks or 0)
    end
  end
  for key, track in pairs(trace.tracks) do
    if #track.events > 0 then
      lu.assertIsString(track.name, key)
      check_nesting(track.events, key .. " " .. tostring(track.name))
    end
  end
  return trace
end

local function track(trace, name)
  for _, one in pairs(trace.tracks) do
    if one.name == name then return one.events end
  end
  lu.fail("no track " .. name)
end

local function count(events, category)
  local n = 0
  for _, event in ipairs(events) do n = n + (event.cat == category and 1 or 0) end
  return n
end

-- A worker counts a claim when it has sent the results: wait until all have.
local function settle(p)
  lu.assertTrue(proc.wait_until(function()
    for _, worker in ipairs(p:workers()) do
      if worker.item then return false end
    end
    return true
  end, 30))
end

local function run(script, options)
  disk.write(path("script.lua"), script)
  local args = { options.program or LUAPOOL }
  for _, arg in ipairs(options) do args[#args + 1] = arg end
  args[#args + 1] = path("script.lua")
  return proc.spawn { args = args, env = options.env }
end

TestTrace = { setUp = make_directory, tearDown = remove_directory }

function TestTrace:test_it_adds_up()
  local p = pool.new { workers = 3, trace = path(), name = "sums" }
  p:broadcast(tostring, 1) -- so that each of them has something to tell
  p:map(function(x) return x * x end, pool.range(200000))
  p:map(function(n)
    local s = 0
    for i = 1, n * 500 do s = s + i end
    return s
  end, 200)
  local i = 0
  p:map(tostring, function()
    i = i + 1
    return i <= 1000 and i or nil
  end)
  for _ = 1, 50 do p:apply(math.max, 1, 2) end
  settle(p)
  p:close()
  local stats, trace = p:stats(), load()
  lu.assertEquals(trace.groups, { "Pool sums" })
  lu.assertEquals(trace.sums[1], { items = stats.items, chunks = stats.chunks })
  lu.assertEquals(#trace.moments.started, 3)
  lu.assertEquals(#trace.moments.ended, 3)
  lu.assertNil(trace.moments.crashed)
  lu.assertTrue(#track(trace, "host") > 0)
  for worker = 1, 3 do lu.assertTrue(#track(trace, "worker " .. worker) > 0) end
end

-- What each worker did lies where it was: the time in claims is the time that stats count as busy.
function TestTrace:test_times_are_those_of_stats()
  local p = pool.new { workers = 2, trace = path() }
  p:map(function() ways.spin(0.02) end, 20)
  settle(p)
  p:close()
  local trace = load()
  for _, worker in ipairs(p:stats().workers) do
    local busy = 0
    for _, event in ipairs(track(trace, "worker " .. worker.id)) do
      if event.cat == "work" then busy = busy + event.dur / 1e6 end
      if event.cat == "mixed" then busy = busy + (event.args.busy_us or 0) / 1e6 end
    end
    lu.assertAlmostEquals(busy, worker.busy, 1e-4) -- written in nanoseconds
  end
end

-- Items have their numbers, in every track of its own.
function TestTrace:test_numbers_of_items()
  local p = pool.new { workers = 2, trace = path() }
  p:map(function() ways.spin(0.001) end, 40, { chunk = 5 })
  p:close()
  local seen = {}
  local trace = load()
  for worker = 1, 2 do
    for _, event in ipairs(track(trace, "worker " .. worker)) do
      if event.cat == "work" then
        lu.assertEquals(event.name, ("items %d-%d"):format(event.args.from, event.args.to))
        for item = event.args.from, event.args.to do
          lu.assertNil(seen[item])
          seen[item] = true
        end
      end
    end
  end
  lu.assertEquals(#seen, 40)
end

function TestTrace:test_idle_results_and_room()
  local p = pool.new { workers = 2, trace = path() }
  p:map(function(i)
    if i == 1 then ways.spin(0.05) end
  end, 2, { chunk = 1 })
  for i in p:imap(function() return ("x"):rep(24 << 20) end, 4, { chunk = 1 }) do -- the ring holds a third of one
    if i == 1 then proc.sleep(0.5 * proc.slowness) end -- nobody reads the next
  end
  p:map(function()
    local t = {}
    for k = 1, 50000 do t[k] = { k } end
    return t
  end, 4)
  p:close()
  local trace, found = load(), {}
  for worker = 1, 2 do
    for _, event in ipairs(track(trace, "worker " .. worker)) do found[event.cat] = true end
  end
  for _, event in ipairs(track(trace, "host")) do found[event.cat] = true end
  for _, category in ipairs { "work", "idle", "encode", "room", "read", "sleep" } do lu.assertTrue(found[category], category) end
  lu.assertNotNil(trace.moments["garbage collected"])
end

function TestTrace:test_slow_source()
  local p = pool.new { workers = 2, trace = path() }
  local i = 0
  p:map(tostring, function()
    i = i + 1
    ways.spin(0.002)
    return i <= 10 and i or nil
  end)
  p:close()
  lu.assertTrue(count(track(load(), "host"), "write") > 0)
end

-- Who dies keeps what it did: its claim is there, as far as it got.
function TestTrace:test_crashes_and_retries()
  local p = pool.new { workers = 2, trace = path() }
  local marker = path("marker")
  local _, n, errors = p:map(function(i)
    if i == 7 then os.exit(3) end
    if i == 12 and not io.open(marker) then
      io.open(marker, "w"):close()
      error("once")
    end
    ways.spin(0.001)
  end, 30, { errors = "collect", retries = 1, chunk = 3 })
  lu.assertEquals(n, 30)
  lu.assertEquals(errors[7].kind, "crash")
  p:close()
  local stats, trace = p:stats(), load()
  lu.assertEquals(stats.crashes, 2) -- item 7 is tried twice
  lu.assertEquals(#trace.moments.crashed, 2)
  lu.assertEquals(trace.moments.crashed[1].args, { exitcode = 3 })
  lu.assertEquals(#trace.moments["tried again"], stats.retries)
  lu.assertEquals(#trace.moments.started, stats.forks)
  lu.assertEquals(#trace.moments.ended, stats.forks)
  local unfinished = 0
  for _, events in pairs(trace.tracks) do
    for _, event in ipairs(events.events) do
      if event.name:find("(not finished)", 1, true) then
        unfinished = unfinished + 1
        lu.assertTrue(event.args.from <= 7 and event.args.to >= 7)
      end
    end
  end
  lu.assertEquals(unfinished, 2)
end

function TestTrace:test_timeouts_and_kills()
  local p = pool.new { workers = 1, trace = path(), grace = 0.2 }
  local _, _, errors = p:map(function(i)
    if i == 2 then
      while true do pcall(function() while true do end end) end
    end
  end, 3, { errors = "collect", timeout = 0.5 * proc.slowness }) -- (the others have it as well)
  lu.assertEquals(errors[2].kind, "timeout")
  p:close()
  local trace = load()
  lu.assertEquals(trace.moments["time is over"][1].args, { item = 2 })
  lu.assertEquals(trace.moments.killed[1].args, { item = 2 })
  lu.assertNil(trace.moments.crashed) -- it was us
end

-- Pools, and calls without one, go to the same file as groups of their own.
function TestTrace:test_several_pools_in_one_file()
  local trace_file = path()
  local a = pool.new { workers = 2, trace = trace_file }
  local b = pool.new { workers = 1, trace = trace_file, name = 'b "x"\n\xff' }
  a:map(tostring, 1000)
  b:map(tostring, 500)
  for i = 1, 30 do pool.map(tostring, i, { workers = 2, trace = trace_file }) end
  a:map(tostring, 1000)
  settle(a)
  a:close()
  b:close()
  local trace = load()
  lu.assertEquals(#trace.groups, 3)
  lu.assertStrMatches(trace.groups[1], "Pool %d+")
  lu.assertEquals(trace.groups[2], 'Pool b "x"\n?')
  lu.assertEquals(trace.groups[3], "Calls without a pool")
  lu.assertEquals({ trace.sums[1].items, trace.sums[2].items, trace.sums[3].items }, { 2000, 500, 465 })
  lu.assertEquals(trace.sums[1].chunks, a:stats().chunks)
end

-- A file that grows under a reader's eyes may seem to end at a page's border, as long as the write is under way.
local function load_growing()
  local limit = proc.now() + proc.slowness
  while true do
    local ok, trace = pcall(load)
    if ok then return trace end
    if proc.now() > limit then error(trace, 0) end
    proc.sleep(0.001)
  end
end

-- Whenever somebody looks, it is JSON; after a kill -9, too.
function TestTrace:test_it_is_whole_at_any_time()
  local p = run([[
    local p = pool.new(2)
    local t = os.time()
    for i = 1, math.huge do
      p:map(function(x) return ("x"):rep(1000) end, 3000)
      if i == 5 then print "go" io.stdout:flush() end
    end]], { "--trace", path() })
  lu.assertNotNil(p:read_until("go", 30))
  local most = 0
  local ok = proc.wait_until(function()
    local n = load_growing().n
    lu.assertTrue(n >= most)
    most = n
    return n > 200
  end, 60)
  lu.assertTrue(ok)
  p:kill("KILL")
  p:finish(10)
  lu.assertTrue(load().n >= most)
end

local ENDS = {
  { "an end", "", { exit = 0 } },
  { "an error", "error 'oops'", { exit = 1 } },
  { "os.exit", "os.exit(3)", { exit = 3 } },
  { "os.exit and close", "os.exit(4, true)", { exit = 4 } },
  { "Ctrl-C", "print 'go' io.stdout:flush() p:map(function() while true do end end, 2)", { signal = "SIGINT" }, "INT" },
  { "SIGTERM", "print 'go' io.stdout:flush() while true do end", { signal = "SIGTERM" }, "TERM" },
}

function TestTrace:test_every_end_of_the_program()
  for _, case in ipairs(ENDS) do
    local name, script, status, signal = table.unpack(case)
    os.remove(path())
    local p = run("local p = pool.new(2) p:map(tostring, 1000) pool.map(tostring, 100) " .. script, { "--trace", path() })
    if signal then
      lu.assertNotNil(p:read_until("go", 30), name)
      p:kill(signal)
    end
    local got = p:finish(30)
    lu.assertEquals({ exit = got.exit, signal = got.signal }, status, name)
    local trace = load()
    lu.assertEquals(#trace.groups, 2, name)
    lu.assertTrue(trace.sums[1].items >= 1000, name)
    lu.assertEquals(trace.sums[2].items, 100, name)
  end
end

function TestTrace:test_a_program_without_pools()
  local got = run("print 'x'", { "--trace", path() }):finish(30)
  lu.assertEquals(got.exit, 0)
  lu.assertEquals(cjson.decode(disk.read(path())), {})
end

-- Tasks have no trace of their own: pools made in them run inline, or are nobody's to write about.
function TestTrace:test_inside_tasks()
  local got, out, err = run([[
    local n = pool.map(function() return #pool.map(tostring, 10) end, 3)[1]
    local m = pool.map(function()
      local p <close> = pool.new { workers = 2, nested = true }
      return #p:map(tostring, 10)
    end, 2, { workers = 1 })[2]
    print(n, m)]], { "--trace", path(), "--report", path("page.html") }):finish(60)
  lu.assertEquals({ got.exit, out, err }, { 0, "10\t10\n", "" })
  lu.assertEquals(load().sums[1].items, 5)
end

-- ---- what cannot be written ----

function TestTrace:test_it_is_said_before_work_starts()
  local function refused(options)
    local ok, message = pcall(pool.new, options)
    lu.assertFalse(ok)
    return message
  end
  lu.assertStrContains(refused { trace = directory .. "/no/such" },
    ("bad option 'trace' to 'new' (cannot write to \"%s/no/such\": No such file or directory)"):format(directory))
  lu.assertStrContains(refused { trace = directory }, "Is a directory")
  lu.assertStrContains(refused { trace = "/dev/null" }, "it is not a regular file")
  lu.assertStrContains(refused { trace = 3 }, "bad option 'trace' to 'new' (boolean or name of a file expected, got 3)")
  local got, out, err = run("print 'worked'", { "--trace", path("no/such") }):finish(30)
  lu.assertEquals({ got.exit, out }, { 2, "" })
  lu.assertStrContains(err, "--trace: cannot write")
  got, out, err = run("print 'worked'", { env = { LUAPOOL_TRACE = path("no/such") } }):finish(30)
  lu.assertEquals({ got.exit, out }, { 2, "" })
  lu.assertStrContains(err, "LUAPOOL_TRACE: cannot write")
end

-- Two programs do not write into each other's trace.
function TestTrace:test_another_program_writes_there()
  local p = run("print 'go' io.stdout:flush() io.read()  while true do end", { "--trace", path() })
  lu.assertNotNil(p:read_until("go", 30))
  local got, _, err = run("print 'worked'", { "--trace", path() }):finish(30)
  lu.assertEquals(got.exit, 2)
  lu.assertStrContains(err, "another trace is being written to it")
  p:kill("KILL")
  p:finish(10)
end

-- Neither does a limit on the size of files end the program.
function TestTrace:test_limit_on_file_sizes()
  disk.write(path("script.lua"), [[
    local p = pool.new { workers = 2, start = "fork" } -- others need large files in memory
    for _ = 1, 1500 do p:map(tostring, 100) end
    print 'done']])
  local command = ("ulimit -f 600; exec '%s' --trace '%s' '%s'"):format(LUAPOOL, path(), path("script.lua"))
  local got, out, err = proc.spawn { args = { "sh", "-c", command } }:finish(60)
  lu.assertEquals({ got.exit, out }, { 1, "done\n" })
  lu.assertStrContains(err, "File too large")
  lu.assertTrue(load().n > 100)
end

-- A page that cannot be written at the end is said, and the exit status tells; what was there stays, and nothing else is left.
function TestTrace:test_page_that_cannot_be_written()
  if not FAULTS then return end
  disk.write(path("page.html"), "the page of yesterday")
  for _, script in ipairs { "pool.map(tostring, 10)", "pool.map(tostring, 10) os.exit(true)" } do
    local options = { "--report", path("page.html"), program = FAULTS, env = { LUAPOOL_FAIL = "write#1:ENOSPC" } }
    local got, _, err = run(script, options):finish(30)
    lu.assertEquals(got.exit, 1)
    lu.assertStrMatches(err, '[^\n]*: cannot write the report to "[^\n]*": No space left on device\n')
    lu.assertEquals(disk.read(path("page.html")), "the page of yesterday")
    lu.assertItemsEquals(proc.list(directory), { "page.html", "script.lua" })
  end
end

-- A full disk is said once; the work goes on, the file stays whole, the exit status tells.
function TestTrace:test_full_disk()
  if not FAULTS then return end
  local script = [[
    local p = pool.new(2)
    local n = 0
    for i = 1, 300 do n = n + #p:map(function(x) return x end, 1000) end
    print(n)]]
  local got, out, err = run(script, { "--trace", path(), program = FAULTS, env = { LUAPOOL_FAIL = "write#3:ENOSPC" } }):finish(60)
  lu.assertEquals(out, "300000\n")
  lu.assertStrContains(err, "cannot write the trace")
  lu.assertStrContains(err, "No space left on device")
  lu.assertEquals(select(2, err:gsub("\n", "")), 1)
  lu.assertEquals(got.exit, 1)
  load()
end
