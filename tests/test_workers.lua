-- What a pool wants of the processes that its workers are: their priority, the processor they run on, when they are replaced or leave.
local lu = require "luaunit"
local proc = require "proc"
local ways = require "ways"
local pool = require "luapool"

local LUAPOOL = os.getenv("LUAPOOL") or "build/luapool"
local CAN_PIN = pcall(pool.new, { workers = 0, pin = true })

-- (Sent to workers of all kinds: it uses nothing from outside.)
local function read(path)
  local file = assert(io.open(path))
  local text = file:read("a")
  file:close()
  return text
end

local function field(text, number)
  local fields = {}
  for word in text:gsub("^.*%)", "2"):gmatch("%S+") do fields[#fields + 1] = word end
  return math.tointeger(tonumber(fields[number - 1])) -- two have become one
end

local function niceness(text)
  return field(text, 19)
end

-- What SCHED_IDLE (5) makes of a process, or, where that is left out as binding to processors is, the least priority.
local function assert_is_idle(text, what)
  if CAN_PIN then
    lu.assertEquals(field(text, 41), 5, what)
  else
    lu.assertEquals(niceness(text), 19, what)
  end
end

local function affinity()
  return (read("/proc/self/status"):match("Cpus_allowed_list:%s*(%S+)"))
end

local function linux_only()
  lu.skipIf(not pcall(read, "/proc/self/stat"), "no /proc")
end

TestPriority = {}

function TestPriority.test_workers_and_their_programs_are_nicer_than_the_host()
  linux_only()
  local host = niceness(read("/proc/self/stat"))
  for _, start in ipairs { "fork", "server" } do
    local p <close> = pool.new { workers = 2, nice = 5, start = start }
    for _, both in ipairs(p:broadcast(function()
      local pipe = io.popen("cat /proc/self/stat")
      local program = pipe:read("a")
      pipe:close()
      return { niceness(read("/proc/self/stat")), niceness(program) }
    end)) do
      lu.assertEquals(both, { math.min(host + 5, 19), math.min(host + 5, 19) }, start)
    end
    lu.assertEquals(niceness(read("/proc/self/stat")), host)
  end
end

function TestPriority.test_nested_workers_are_nicer_still_and_there_is_an_end()
  linux_only()
  local host = niceness(read("/proc/self/stat"))
  local levels = pool.map(function()
    local own = niceness(read("/proc/self/stat"))
    return { own, pool.map(function() return niceness(read("/proc/self/stat")) end, 1, { workers = 1, nested = true, nice = 19 })[1] }
  end, 1, { workers = 1, nested = true, nice = 3 })[1]
  lu.assertEquals(levels, { math.min(host + 3, 19), 19 })
end

function TestPriority.test_idle_workers_and_their_programs()
  linux_only()
  local host = read("/proc/self/stat")
  for _, start in ipairs { "fork", "server", "spawn" } do
    local p <close> = pool.new { workers = 2, nice = "idle", start = start }
    for _, both in ipairs(p:broadcast(function()
      local pipe = io.popen("cat /proc/self/stat")
      local program = pipe:read("a")
      pipe:close()
      return { read("/proc/self/stat"), program }
    end)) do
      assert_is_idle(both[1], start)
      assert_is_idle(both[2], start)
    end
    lu.assertEquals({ p:map(function(x) return x * x end, 1000) }, { pool.map(function(x) return x * x end, 1000) })
  end
  local after = read("/proc/self/stat")
  lu.assertEquals({ niceness(after), field(after, 41) }, { niceness(host), field(host, 41) }, "the host")
end

function TestPriority.test_workers_that_replace_idle_ones_and_nested_ones_are_idle()
  linux_only()
  local p <close> = pool.new { workers = 1, nice = "idle", max_tasks = 1, nested = true }
  for i = 1, 3 do
    local texts = p:apply(function()
      local inner = pool.map(function() return read("/proc/self/stat") end, 1, { workers = 1, nested = true, nice = 3 })
      return { read("/proc/self/stat"), inner[1] }
    end)
    for _, text in ipairs(texts) do assert_is_idle(text, i) end
  end
end

-- (A system may refuse it: seccomp.)
function TestPriority.test_a_worker_that_cannot_lower_its_priority_says_so()
  local faults = os.getenv("LUAPOOL_FAULTS")
  lu.skipIf(not faults or not CAN_PIN, "no build with fault points")
  for call, value in pairs { idle = "'idle'", nice = "3" } do
    local script = ("print(pcall(pool.map, math.abs, 3, { workers = 1, nice = %s }))"):format(value)
    local p <close> = proc.spawn { args = { faults, "-e", script }, env = { LUAPOOL_FAIL = call .. "#0:EPERM" } }
    local status, out, err = p:finish(60)
    lu.assertEquals({ status.exit, err }, { 0, "" })
    lu.assertStrContains(out, "the worker cannot lower its priority: Operation not permitted")
  end
end

TestPin = {}

function TestPin.test_each_worker_has_one_processor()
  lu.skipIf(not CAN_PIN, "no process can be bound to a processor here")
  linux_only()
  local all, count = affinity(), pool.cpus()
  for _, start in ipairs { "fork", "server" } do
    local p <close> = pool.new { workers = count + 1, pin = true, start = start }
    local own = p:broadcast(function() return { affinity(), pool.cpus() } end)
    local seen, different = {}, 0
    for i, worker in ipairs(own) do
      lu.assertStrMatches(worker[1], "%d+")
      lu.assertEquals(worker[2], count, "what the pool's program may use")
      if not seen[worker[1]] then different = different + 1 end
      seen[worker[1]] = i
    end
    lu.assertEquals(different, math.min(count, #own), start)
    lu.assertEquals(affinity(), all, "the host is not bound")
  end
end

function TestPin.test_workers_of_a_bound_worker_are_free_again()
  lu.skipIf(not CAN_PIN, "no process can be bound to a processor here")
  linux_only()
  local all = affinity()
  for _, start in ipairs { "fork", "server", "spawn" } do
    local inner = pool.map(function()
      local p <close> = pool.new { workers = 1, nested = true, start = start }
      return { affinity(), p:apply(affinity), affinity() }
    end, 1, { workers = 1, nested = true, pin = true })[1]
    lu.assertEquals(inner[2], all, start)
    lu.assertStrMatches(inner[1], "%d+")
    lu.assertEquals(inner[3], inner[1], "who starts others stays where it was")
  end
end

function TestPin.test_where_it_cannot_be_it_is_refused()
  lu.skipIf(CAN_PIN, "processes can be bound to processors here")
  lu.assertErrorMsgContains("bad option 'pin' to 'new' (false: this system binds no process to a processor; expected, got true)",
    pool.new, { pin = true })
  pool.new { workers = 1, pin = false }:close()
end

TestGrowth = {}

local MEGABYTE <const> = 1 << 20

-- The state keeps what a task leaves in its globals.
local function grow(bytes)
  kept = kept or {} -- luacheck: ignore
  kept[#kept + 1] = ("x"):rep(bytes - 1) .. "y" -- luacheck: ignore
  return pool.worker.pid
end

local function different(list)
  local seen, n = {}, 0
  for _, value in ipairs(list) do
    if not seen[value] then n = n + 1 end
    seen[value] = true
  end
  return n
end

-- All items are in one claim: the rest of it is for others.
function TestGrowth.test_who_has_grown_is_replaced_before_the_next_item()
  local ends = pool.counter()
  for _, start in ipairs { "fork", "server" } do
    ends:set(0)
    do
      local p <close> = pool.new { workers = 1, max_growth = "8M", start = start, on_exit = function() ends:add(1) end }
      local pids = p:map(function(x) return x and grow(12 * MEGABYTE) end, 6, { chunk = 6 })
      lu.assertEquals({ #pids, different(pids), p:stats().forks, p:stats().crashes }, { 6, 6, 6, 0 }, start)
    end
    lu.assertEquals(ends:get(), 6, start)
  end
end

function TestGrowth.test_failed_items_count()
  local p <close> = pool.new { workers = 1, max_growth = 8 * MEGABYTE }
  local _, n, errors = p:map(function() error({ pid = grow(12 * MEGABYTE) }) end, 4, { chunk = 4, errors = "collect" })
  local pids = {}
  for i = 1, n do pids[i] = errors[i].value.pid end
  lu.assertEquals({ n, different(pids) }, { 4, 4 })
end

function TestGrowth.test_who_has_not_grown_stays()
  local p <close> = pool.new { workers = 1, max_growth = "500M", on_start = function() started = ("x"):rep(8 * MEGABYTE) end } -- luacheck: ignore
  p:map(function() return #("x"):rep(MEGABYTE) end, 200)
  p:each(function(x) return x end, 100000)
  lu.assertEquals(p:stats().forks, 1)
end

-- What it began with is not growth: it could not do anything else. Neither is the memory of shared arrays.
function TestGrowth.test_what_it_has_from_the_start_or_shares_does_not_count()
  local a = pool.array("u8", 32 * MEGABYTE)
  local p <close> = pool.new { workers = 1, max_growth = "16M", on_start = function() grow(32 * MEGABYTE) end }
  local pids = p:map(function(i)
    a:fill(i)
    return pool.worker.pid
  end, 5)
  lu.assertEquals({ #pids, different(pids) }, { 5, 1 })
end

-- An item that is too large for every worker is done all the same, in all verbs.
function TestGrowth.test_every_verb_gets_its_results()
  for _, way in ipairs { { workers = 2 }, { workers = 1, start = "server" } } do
    way.max_growth = "4M"
    local p <close> = pool.new(way)
    local function large(x) return grow(6 * MEGABYTE) and x end
    lu.assertEquals(p:map(large, 5), { 1, 2, 3, 4, 5 })
    lu.assertEquals(p:filter(function(x) return large(x) % 2 == 0 end, 5), { 2, 4 })
    lu.assertEquals(p:reduce(function(a, b) return a + b end, 5, 0, { map = large }), 15)
    local sum = 0
    for _, v in p:imap(large, ways.up_to(5)) do sum = sum + v end
    lu.assertEquals(sum, 15)
    lu.assertEquals(p:apply(large, 7), 7)
    lu.assertEquals(p:submit(large, 8):get(), 8)
    lu.assertEquals(p:broadcast(large, 9)[1], 9)
  end
end

TestIdle = {}

-- Have they left? (A zombie has: its host has not looked yet.)
local function are_gone(pids)
  for _, pid in ipairs(pids) do
    local stat = proc.stat(pid)
    if stat and stat.state ~= "Z" then return false end
  end
  return true
end

local function pids_of(p)
  local pids = {}
  for i, worker in ipairs(p:workers()) do pids[i] = worker.pid end
  return pids
end

function TestIdle.test_workers_leave_and_come_back()
  for _, start in ipairs { "fork", "server" } do
    local ends = pool.counter()
    local p <close> = pool.new { workers = 2, idle_timeout = 0.05, start = start, on_exit = function() ends:add(1) end }
    local before = p:broadcast(function() return pool.worker.pid end)
    lu.assertTrue(proc.wait_until(function() return are_gone(before) end, 30), start)
    lu.assertEquals(ends:get(), 2, "on_exit runs")
    lu.assertTrue(proc.wait_until(function() return p:step() == 0 and #p:workers() == 0 end, 30), "the host takes note")
    lu.assertEquals(p:map(function(x) return x * 2 end, 5), { 2, 4, 6, 8, 10 })
    for _, pid in ipairs(p:broadcast(function() return pool.worker.pid end)) do lu.assertNotTableContains(before, pid) end
    local stats = p:stats()
    lu.assertTrue(stats.forks >= 4)
    lu.assertEquals(stats.crashes, 0)
  end
end

-- Nobody told the host: it finds out while it waits.
function TestIdle.test_a_call_finds_all_workers_gone()
  local p <close> = pool.new { workers = 2, idle_timeout = 0.02 }
  for round = 1, 5 do
    p:map(tostring, 4)
    local pids = pids_of(p)
    lu.assertTrue(proc.wait_until(function() return are_gone(pids) end, 30))
    local k = round
    if round % 2 == 0 then
      lu.assertEquals(p:map(function(x) return x * k end, 4), { k, 2 * k, 3 * k, 4 * k })
    else
      lu.assertEquals(p:broadcast(function() return k end), { k, k })
    end
  end
end

-- At any moment between having nothing to do and being gone there may be work again.
function TestIdle.test_work_comes_at_any_moment()
  for _, seconds in ipairs { 1e-9, 1e-4, 1e-3 } do
    local p <close> = pool.new { workers = 2, idle_timeout = seconds }
    local channel = pool.channel()
    for i = 1, 100 do
      lu.assertEquals(p:apply(function(x) return x + 1 end, i), i + 1)
      if i % 10 == 0 then lu.assertEquals(p:broadcast(function(x) return x end, i), { i, i }) end
      if i % 7 == 0 then channel:receive(seconds) end
    end
    local futures = {}
    for i = 1, 200 do futures[i] = p:submit(math.abs, -i) end
    for i = 1, 200 do lu.assertEquals(futures[i]:get(), i) end
    lu.assertEquals(p:stats().crashes, 0)
  end
end

function TestIdle.test_a_slow_source()
  local p <close> = pool.new { workers = 2, idle_timeout = 0.001 }
  local i, channel = 0, pool.channel()
  local sum = 0
  for _, v in p:imap(function(x) return x end, function()
    i = i + 1
    channel:receive(0.01)
    return i <= 20 and i or nil
  end) do
    sum = sum + v
  end
  lu.assertEquals(sum, 210)
end

-- It has decided to leave, is stopped there, and work comes: another one does it.
function TestIdle.test_work_that_comes_while_a_worker_leaves()
  local faults = os.getenv("LUAPOOL_FAULTS")
  lu.skipIf(not faults, "no build with fault points")
  local script = [[
    local p <close> = pool.new { workers = 2, idle_timeout = 0.01 }
    for i = 1, 20 do
      assert(p:apply(function(x) return x end, i) == i)
      pool.channel():receive(0.02)
    end
    print(p:stats().crashes)
  ]]
  for _, fault in ipairs { "worker_idle_leaves#0:sleep=30", "worker_idle_leaves#0@1:sleep=60" } do
    local p <close> = proc.spawn { args = { faults, "-e", script }, env = { LUAPOOL_FAULT = fault } }
    local status, out, err = p:finish(60)
    lu.assertEquals({ status.exit, out, err }, { 0, "0\n", "" }, fault)
  end
end

function TestIdle.test_a_pool_without_the_option_keeps_its_workers()
  local p <close> = pool.new(2)
  local before = p:broadcast(function() return pool.worker.pid end)
  pool.channel():receive(0.1)
  lu.assertFalse(are_gone(before))
  lu.assertEquals(p:broadcast(function() return pool.worker.pid end), before)
end

TestDefaults = {}

function TestDefaults.test_options_of_the_command_and_the_environment()
  linux_only()
  local script = "local p <close> = pool.new(1) io.write(p:apply(function() return tostring(io.open('/proc/self/stat'):read('a')) end))"
  local host = niceness(read("/proc/self/stat"))
  local option = { args = { LUAPOOL, "--nice", "4", "-e", script } }
  for _, way in ipairs { option, { args = { LUAPOOL, "-e", script }, env = { LUAPOOL_NICE = "4" } } } do
    local p <close> = proc.spawn(way)
    local status, out = p:finish(30)
    lu.assertEquals({ status.exit, niceness(out) }, { 0, math.min(host + 4, 19) })
  end
  local idle <close> = proc.spawn { args = { LUAPOOL, "--nice=idle", "-e", script } }
  local status, out = idle:finish(30)
  lu.assertEquals(status.exit, 0)
  assert_is_idle(out)
end

TestPartings = {}

local function sorted(list)
  table.sort(list)
  return list
end

function TestPartings.test_close_gives_what_on_exit_returned()
  for _, start in ipairs { "fork", "server", "spawn" } do
    local p = pool.new { workers = 3, start = start, on_start = function(w) count = w.id * 100 end, on_exit = function() return count end } -- luacheck: ignore
    p:broadcast(function() count = count + 1 end) -- luacheck: ignore
    p:broadcast(function() count = count + 1 end) -- luacheck: ignore
    local gone, values = p:close()
    lu.assertEquals({ gone, sorted(values) }, { true, { 102, 202, 302 } }, start)
    lu.assertEquals({ p:close() }, { true, values }, "and again")
  end
end

-- Those that were replaced have a say, too; also in a pool that becomes larger than it was made for.
function TestPartings.test_of_all_workers_there_ever_were()
  local function total(options, use)
    local p = pool.new(options)
    use(p)
    local _, values = p:close()
    local sum = 0
    for _, value in ipairs(values) do sum = sum + value.items end
    return sum
  end
  local function options(more)
    more.on_start = function() items = 0 end -- luacheck: ignore
    more.on_exit = function(w) return { items = items, worker = w.id, text = ("x"):rep(100000) } end -- luacheck: ignore
    return more
  end
  local function work(x)
    items = items + 1 -- luacheck: ignore
    return x
  end
  lu.assertEquals(total(options { workers = 2, max_tasks = 7 }, function(p) p:map(work, 100, { chunk = 3 }) end), 100)
  lu.assertEquals(total(options { workers = 1, idle_timeout = 1e-4 }, function(p)
    for i = 1, 20 do p:apply(work, i) end
  end), 20)
  lu.assertEquals(total(options { workers = 1 }, function(p)
    p:map(work, 10)
    p:resize(40)
    p:map(work, 50)
    p:resize(1)
    p:map(work, 5)
  end), 65)
  lu.assertEquals(total(options { workers = 0 }, function(p) p:map(work, 10) end), 10)
end

function TestPartings.test_nothing_comes_of_nothing()
  local p = pool.new { workers = 2, on_exit = function() end }
  p:map(tostring, 4)
  lu.assertEquals({ p:close() }, { true, {} })
  p = pool.new(1)
  p:map(tostring, 4)
  lu.assertEquals(table.pack(p:close()), { true, n = 1 })
  p = pool.new { workers = 1, on_exit = function() return 1 end }
  p:map(tostring, 4)
  p:terminate()
  lu.assertEquals({ p:close() }, { true, {} })
  p = pool.new { workers = 2, on_exit = function(w) return w.id == 2 end }
  p:broadcast(tostring, 4)
  lu.assertItemsEquals(select(2, p:close()), { true, false })
end

-- What cannot be sent is told, and the others arrive.
function TestPartings.test_values_that_cannot_cross()
  for _, n in ipairs { 2, 0 } do
    local script = ([[
      warn "@on"
      local p = pool.new { workers = %d, on_exit = function(w) return w.id == 1 and 7 or { file = io.tmpfile() } end }
      p:each(tostring, 4) if p:stats().forks > 0 then p:broadcast(tostring, 1) end
      local gone, values = p:close()
      print(gone, #values, values[1])]]):format(n)
    local p <close> = proc.spawn { args = { LUAPOOL, "-W", "-e", script } }
    local status, out, err = p:finish(30)
    lu.assertEquals({ status.exit, out }, { 0, n == 2 and "true\t1\t7\n" or "true\t0\tnil\n" })
    lu.assertStrContains(err, "on_exit failed: result.file: userdata (FILE*) cannot be sent")
  end
end

TestOneShot = {}

-- Fewer are forked when the first have done it all: but never so few that items wait for one another for ever.
function TestOneShot.test_items_that_wait_for_one_another_all_have_workers()
  for _, n in ipairs { 2, 5, 12 } do
    local here = pool.counter()
    local results = pool.map(function(i)
      here:add()
      assert(proc.wait_until(function() return here:get() == n end, 60), "the others are missing")
      return i
    end, n, { workers = n, chunk = 1 })
    lu.assertEquals(#results, n)
    lu.assertEquals(here:get(), n)
  end
end

function TestOneShot.test_on_start_runs_in_as_many_as_were_asked_for()
  for _, n in ipairs { 2, 9 } do
    local begun, ended = pool.counter(), pool.counter()
    local results = pool.map(function(i) return i end, n, {
      workers = n, on_start = function() begun:add() end, on_exit = function() ended:add() end,
    })
    lu.assertEquals(#results, n)
    lu.assertEquals(begun:get(), n)
    lu.assertEquals(ended:get(), n)
  end
end
