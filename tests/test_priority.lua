-- Priorities of calls, and p:with: what is begun first, what a worker gives back for it, and what comes of deaths, limits and cancelling.
-- No test measures time: workers wait in a channel while the host posts what is to be put in order.
local lu = require "luaunit"
local proc = require "proc"
local ways = require "ways"
local pool = require "luapool"

-- A pool of one worker (or more) that sits in a task; `log` gets the names of tasks as they begin.
local function held_pool(options)
  options = options or {}
  options.workers = options.workers or 1
  local held = { p = pool.new(options), gate = pool.channel(), log = pool.channel(), n = options.workers }
  local gate, log = held.gate, held.log
  function held.task(name) log:send(name) return name end
  held.blockers = {}
  for i = 1, held.n do
    held.blockers[i] = held.p:submit(function() log:send "held" gate:receive() end)
  end
  for _ = 1, held.n do assert(log:receive(60)) end
  return setmetatable(held, { __close = function(_, problem)
    if problem then held.p:terminate() end -- a task that still waits at the gate would keep it open
    held.p:close()
  end })
end

local function release(held)
  for _ = 1, held.n do held.gate:send(true) end
end

-- The next n names; the pool is looked after meanwhile.
local function next_names(held, n)
  local names, until_ = {}, proc.now() + 60 * proc.slowness
  while #names < n and proc.now() < until_ do
    held.p:step()
    local ok, name = held.log:receive(0.02)
    if ok then names[#names + 1] = name end
  end
  return names
end

local function names(prefix, n)
  local list = {}
  for i = 1, n do list[i] = prefix .. i end
  return list
end

local function joined(...)
  local list = {}
  for _, part in ipairs { ... } do table.move(part, 1, #part, #list + 1, list) end
  return list
end

TestPriority = {}

-- More ordinary tasks than the board has places for: all of them wait for what came last.
function TestPriority.test_urgent_tasks_go_before_all_that_waits()
  local held <close> = held_pool()
  local n = 3000
  local urgent, humble = held.p:with { priority = "high" }, held.p:with { priority = "low" }
  local futures = { humble:submit(held.task, "low1"), humble:submit(held.task, "low2") }
  for i = 1, n do futures[#futures + 1] = held.p:submit(held.task, "n" .. i) end
  for i = 1, 5 do futures[#futures + 1] = urgent:submit(held.task, "u" .. i) end
  lu.assertEquals(futures[#futures]:status(), "pending")
  release(held)
  local seen = next_names(held, n + 7)
  lu.assertEquals(table.move(seen, 1, 6, 1, {}), joined(names("u", 5), { "n1" }))
  local ordinary = {}
  for _, name in ipairs(seen) do
    if name:sub(1, 1) == "n" then ordinary[#ordinary + 1] = name end
  end
  lu.assertEquals(ordinary, names("n", n)) -- equals in the order in which they came
  pool.wait(futures)
  for _, f in ipairs(futures) do lu.assertEquals(f:status(), "done") end
  lu.assertEquals(held.p:stats().items, n + 8)
end

function TestPriority.test_low_waits_until_nothing_else_does()
  local held <close> = held_pool()
  local humble = held.p:with { priority = "low" }
  for i = 1, 3 do humble:submit(held.task, "low" .. i) end
  for i = 1, 300 do held.p:submit(held.task, "n" .. i) end
  release(held)
  lu.assertEquals(next_names(held, 303), joined(names("n", 300), names("low", 3)))
end

-- However the workers are started, and also for tasks that are sent at once.
function TestPriority.test_every_start_method_and_verb()
  for _, start in ipairs { "fork", "server", "spawn" } do
    local held <close> = held_pool { start = start }
    held.p:map_async(held.task, { "m1", "m2" }, { chunk = 1 })
    held.p:submit(held.task, "n1")
    held.p:map_async(held.task, { "high1", "high2" }, { chunk = 1, priority = "high" })
    held.p:with({ priority = "high", chunk = 1 }):map_async(held.task, { "high3" })
    release(held)
    lu.assertEquals(next_names(held, 6), { "high1", "high2", "high3", "m1", "m2", "n1" })
    lu.assertEquals(held.p:with({ priority = "high" }):apply(held.task, "applied"), "applied")
    lu.assertEquals(held.p:with({ priority = "low" }):broadcast(held.task, "all"), { "all" })
  end
end

-- The pool's own word is the default of its calls.
function TestPriority.test_the_pools_default()
  local held <close> = held_pool { priority = "low" }
  held.p:submit(held.task, "low")
  held.p:with({ priority = "normal" }):submit(held.task, "normal")
  held.p:with({ timeout = 1000 }):submit(held.task, "low, too")
  held.p:with({ priority = "high" }):with({ retries = 1 }):submit(held.task, "high")
  release(held)
  lu.assertEquals(next_names(held, 4), { "high", "normal", "low", "low, too" })
end

-- A worker in the middle of a chunk: an urgent task is next, whatever the chunk; then the chunk goes on, each item once.
local function in_the_middle(src, options, post_urgent)
  local p <close> = pool.new(1)
  local gate, log = pool.channel(), pool.channel()
  local f = p:map_async(function(i)
    log:send(i)
    if i == 5 then gate:receive() end
    return -i
  end, src, options)
  repeat
    p:step(0.01)
    local _, i = log:receive(0.01)
  until i == 5
  local urgent = post_urgent(p, function() log:send "urgent" return "done" end)
  gate:send(true)
  lu.assertEquals((urgent:get()), "done")
  local results, n = f:get()
  lu.assertEquals(n, 200)
  for i = 1, 200 do lu.assertEquals(results[i], -i) end
  local _, first = log:receive(10)
  lu.assertEquals(first, "urgent") -- after the item that ran, and no other
  for i = 6, 200 do lu.assertEquals({ log:receive(10) }, { true, i }) end
end

function TestPriority.test_one_item_is_all_that_an_urgent_task_waits_for()
  local function submit(p, fn) return p:with({ priority = "high" }):submit(fn) end
  in_the_middle(200, { chunk = 200 }, submit)
  in_the_middle(200, { chunk = 200, priority = "low" }, submit)
  in_the_middle(200, { chunk = 200, priority = "low" }, function(p, fn) return p:submit(fn) end)
  in_the_middle(200, { chunk = 200, timeout = 1000 }, submit)
  in_the_middle(200, { chunk = 200, errors = "collect" }, submit)
end

-- Blocks of a lazy source are given back, too: with all the kinds of items that there are.
function TestPriority.test_blocks_are_given_back()
  local function items()
    local i = 0
    return function()
      i = i + 1
      if i <= 200 then return i end
    end
  end
  local function submit(p, fn) return p:with({ priority = "high" }):submit(fn) end
  in_the_middle(items(), { chunk = 200 }, submit)
  local list = {}
  for i = 1, 200 do list[i] = i end
  in_the_middle(list, { chunk = 200 }, submit)
end

-- While items pass as fast as they can, urgent tasks come again and again; nothing is lost, and every result is in its place.
function TestPriority.test_many_urgent_tasks_and_a_large_map()
  for _, workers in ipairs { 1, 2, 4 } do
    local p <close> = pool.new(workers)
    local urgent = p:with { priority = "high" }
    local into = pool.array("i64", 200000)
    local f = p:map_async(function(i) return i * i end, 200000, { priority = "low" })
    local g = p:map_async(function(i) return 3 * i end, 200000, { into = into })
    for i = 1, 200 do lu.assertEquals(urgent:apply(function(x) return x + 1 end, i), i + 1) end
    local results, n = f:get()
    g:get()
    lu.assertEquals(n, 200000)
    for i = 1, n do
      if results[i] ~= i * i or into[i] ~= 3 * i then error(("item %d: %s, %s"):format(i, results[i], into[i])) end
    end
    lu.assertEquals(p:stats().items, 400200)
  end
end

-- A stream keeps its order.
function TestPriority.test_streams_in_order()
  local p <close> = pool.new(2)
  local urgent, at = p:with { priority = "high" }, 0
  for i, v in p:imap(function(x) return x * 2 end, 20000, { priority = "low" }) do
    at = at + 1
    lu.assertEquals({ i, v }, { at, 2 * at })
    if i % 1000 == 0 then lu.assertEquals(urgent:apply(function(x) return x end, i), i) end
  end
  lu.assertEquals(at, 20000)
  local sum = p:with({ priority = "low" }):reduce(function(a, b) return a + b end, 1000, 0)
  lu.assertEquals(sum, 500500)
  lu.assertEquals({ p:with({ priority = "high" }):filter(function(x) return x > 8 end, 10) }, { { 9, 10 }, 2 })
end

-- ---- what goes wrong ----

local Death = {}

-- The worker dies in the urgent task: it is blamed, and the map that gave way is complete, each item run once.
function Death.in_the_urgent_task(options)
  local p <close> = pool.new(1)
  local gate, begun, runs = pool.channel(), pool.channel(), pool.counter()
  local f = p:map_async(function(i)
    runs:add()
    if i == 5 then
      begun:send(true)
      gate:receive()
    end
    return i
  end, 1000, { chunk = 1000 })
  assert(begun:receive(60))
  local tries = pool.counter()
  options.priority = "high"
  local urgent = p:with(options):submit(function()
    tries:add()
    proc.kill(proc.pid(), "KILL")
  end)
  local after = p:with({ priority = "high" }):submit(function() return "after" end)
  gate:send(true)
  local ok, e = pcall(urgent.get, urgent)
  lu.assertEquals({ ok, e.kind, e.signal, urgent:status() }, { false, "crash", "SIGKILL", "crashed" })
  lu.assertEquals(after:get(), "after")
  lu.assertEquals(#f:get(), 1000)
  lu.assertEquals(runs:get(), 1000)
  return tries:get(), p:stats()
end

function TestPriority.test_a_death_in_an_urgent_task()
  local tries, stats = Death.in_the_urgent_task {}
  lu.assertEquals({ tries, stats.crashes, stats.retries }, { 1, 1, 0 })
  tries, stats = Death.in_the_urgent_task { retries = 2 }
  lu.assertEquals({ tries, stats.crashes, stats.retries }, { 3, 3, 2 })
  tries = Death.in_the_urgent_task { retries = 2, on_crash = "raise" }
  lu.assertEquals(tries, 1)
end

-- Killed from outside while it is in the urgent task, with ordinary tasks waiting: they run in order, afterwards.
function TestPriority.test_a_kill_while_an_urgent_task_runs()
  local held <close> = held_pool()
  local gate, log = held.gate, held.log
  for i = 1, 20 do held.p:submit(held.task, "n" .. i) end
  local urgent = held.p:with({ priority = "high", on_crash = "retry", retries = 1 }):submit(function(tries)
    local n = tries:add() -- (before it is told: it is killed then)
    log:send "urgent"
    if n == 1 then gate:receive() end
    return "survived"
  end, pool.counter())
  release(held)
  lu.assertEquals(next_names(held, 1), { "urgent" })
  proc.kill(held.p:workers()[1].pid, "KILL")
  lu.assertEquals(next_names(held, 21), joined({ "urgent" }, names("n", 20)))
  lu.assertEquals(urgent:get(), "survived")
end

-- A retry is urgent as well; one that waits for its time lets others run.
function TestPriority.test_retries_are_urgent()
  local held <close> = held_pool()
  local log = held.log
  local function fails_once(name, tries)
    local n = tries:add() -- (before it is told: the host reads it then)
    log:send(name)
    if n == 1 then error "once" end
  end
  local c, d, gate = pool.counter(), pool.counter(), held.gate
  held.p:submit(function() log:send "n1" gate:receive() end)
  for i = 2, 100 do held.p:submit(held.task, "n" .. i) end
  held.p:with({ priority = "low", retries = 1 }):submit(fails_once, "low", d)
  held.p:with({ priority = "high", retries = 1 }):submit(fails_once, "u", c)
  release(held)
  lu.assertEquals(next_names(held, 2), { "u", "n1" })
  lu.assertTrue(proc.wait_until(function() held.p:step() return held.p:stats().retries == 1 end, 60)) -- the host has read the failure
  gate:send(true)
  local rest = names("n", 100)
  rest[1] = "u"
  lu.assertEquals(next_names(held, 102), joined(rest, { "low", "low" }))
  lu.assertEquals({ c:get(), d:get() }, { 2, 2 })
end

function TestPriority.test_a_time_limit_in_an_urgent_task()
  local held <close> = held_pool { grace = 0.2 }
  held.p:submit(held.task, "n1")
  local urgent = held.p:with { priority = "high", timeout = 0.1 }
  local listens = urgent:submit(function() while true do end end)
  local deaf = urgent:submit(function() while true do pcall(function() while true do end end) end end)
  release(held)
  for _, f in ipairs { listens, deaf } do
    local ok, e = pcall(f.get, f)
    lu.assertEquals({ ok, e.kind, f:status() }, { false, "timeout", "timeout" })
  end
  lu.assertEquals(next_names(held, 1), { "n1" })
end

-- ---- cancelling and the rest of a pool's life ----

function TestPriority.test_cancel_of_what_is_urgent()
  local held <close> = held_pool()
  local urgent = held.p:with { priority = "high" }
  local first, second = urgent:submit(held.task, "u1"), urgent:submit(held.task, "u2")
  held.p:submit(held.task, "n1")
  local whole = urgent:map_async(held.task, { "m1", "m2" })
  lu.assertTrue(first:cancel())
  lu.assertTrue(whole:cancel())
  release(held)
  lu.assertEquals(next_names(held, 2), { "u2", "n1" })
  lu.assertEquals({ first:status(), second:status(), whole:status() }, { "cancelled", "done", "cancelled" })
  -- one that runs
  local running = urgent:submit(function(log) log:send "runs" while true do end end, held.log)
  lu.assertEquals(next_names(held, 1), { "runs" })
  lu.assertTrue(running:cancel())
  lu.assertEquals(held.p:apply(held.task, "usable"), "usable")
end

-- Nobody gives anything back for what is not there any more.
function TestPriority.test_cancel_before_a_worker_has_looked()
  local p <close> = pool.new(1)
  local gate, begun = pool.channel(), pool.channel()
  local f = p:map_async(function(i)
    if i == 5 then
      begun:send(true)
      gate:receive()
    end
    return i
  end, 100, { chunk = 100 })
  assert(begun:receive(60))
  local urgent = p:with({ priority = "high" }):submit(function() end)
  lu.assertTrue(urgent:cancel())
  gate:send(true)
  lu.assertEquals(#f:get(), 100)
  p:apply(function() end)
  lu.assertTrue(proc.wait_until(function() return p:stats().chunks >= 2 end, 60)) -- it counts when it has told the result
  lu.assertEquals({ p:stats().chunks, p:stats().items }, { 2, 101 })
end

function TestPriority.test_pause_resize_and_close()
  local held <close> = held_pool()
  local urgent = held.p:with { priority = "high" }
  held.p:submit(held.task, "n1")
  held.p:pause()
  urgent:submit(held.task, "u1")
  release(held)
  lu.assertTrue(held.blockers[1]:wait(60))
  lu.assertEquals(#held.log, 0)
  held.p:resume()
  lu.assertEquals(next_names(held, 2), { "u1", "n1" })
  held.p:resize(3)
  local list = {}
  for i = 1, 50 do list[i] = urgent:submit(held.task, i) list[50 + i] = held.p:submit(held.task, i) end
  held.p:resize(1)
  held.p:close() -- lets all of them finish
  for i = 1, 100 do lu.assertEquals(list[i]:get(), (i - 1) % 50 + 1) end
  lu.assertErrorMsgContains("cannot use 'submit': the pool is closed", urgent.submit, urgent, held.task)
end

function TestPriority.test_terminate_with_urgent_tasks_in_hand()
  local held = held_pool()
  local f = held.p:with({ priority = "high" }):submit(held.task, "u1")
  held.p:terminate(0.1)
  lu.assertEquals(f:status(), "cancelled")
  lu.assertEquals(#held.log, 0)
end

-- Workers that leave after so many items give the rest of a chunk back as well.
function TestPriority.test_workers_that_are_replaced()
  local p <close> = pool.new { workers = 2, max_tasks = 7 }
  local urgent = p:with { priority = "high" }
  local f, list = p:map_async(function(i) return i end, 2000, { chunk = 100 }), {}
  for i = 1, 50 do list[i] = urgent:submit(function(x) return -x end, i) end
  for i = 1, 50 do lu.assertEquals(list[i]:get(), -i) end
  lu.assertEquals(#f:get(), 2000)
end

-- ---- p:with ----

TestWith = {}

-- Any option that a pool may say for its calls, of verbs whose arguments are the task's.
function TestWith.test_options_of_single_tasks()
  local p <close> = pool.new { workers = 1, grace = 0.2 }
  local tries = pool.counter()
  local function third() if tries:add() < 3 then error "not yet" end return tries:get() end
  lu.assertEquals(p:with({ retries = 2 }):apply(third), 3)
  local ok, e = pcall(function() return p:with({ timeout = 0.05 }):apply(function() while true do end end) end)
  lu.assertEquals({ ok, e.kind }, { false, "timeout" })
  ok, e = pcall(function() return p:with({ memory = "1M" }):apply(function() return #("x"):rep(8 << 20) end) end)
  lu.assertEquals({ ok, e.kind }, { false, "memory" })
  lu.assertEquals(p:apply(function() return #("x"):rep(8 << 20) end), 8 << 20) -- the pool stays as it was
end

function TestWith.test_what_a_call_says_goes_before()
  local p <close> = pool.new { workers = 1, errors = "collect" }
  local function fails(i) if i == 2 then error "two" end return i end
  local results, n, errors = p:with({ retries = 1 }):map(fails, 3)
  lu.assertEquals({ results, n, errors[2].kind }, { { 1, nil, 3 }, 3, "error" })
  lu.assertErrorMsgContains("two", function() p:with({ errors = "raise" }):map(fails, 3) end)
  results = p:with({ errors = "raise" }):map(fails, 3, { errors = "collect" })
  lu.assertEquals(results, { 1, nil, 3 })
  lu.assertErrorMsgContains("two", function() p:with({ errors = "collect" }):with({ errors = "raise" }):map(fails, 3) end)
end

function TestWith.test_without_workers()
  local p <close> = pool.new(0)
  local w = p:with { priority = "high", retries = 1 }
  lu.assertEquals(w:submit(function(...) return select("#", ...), ... end, 1, nil):get(), 2)
  lu.assertEquals((w:map(function(i) return i end, 3)), { 1, 2, 3 })
  lu.assertEquals(p:map(function(i) return i end, 3, { priority = "low" }), { 1, 2, 3 })
  lu.assertEquals((pool.map(function(i) return i end, 3, { priority = "low", workers = 2 })), { 1, 2, 3 })
end

function TestWith.test_its_name()
  local p <close> = pool.new { workers = 1, name = "mine" }
  lu.assertEquals(tostring(p:with {}), "luapool.with: calls of luapool.pool mine: 1 workers, open")
  lu.assertNil(p:with({}).close)
end

local function message_of(fn, ...)
  local ok, message = pcall(fn, ...)
  lu.assertFalse(ok)
  return message
end

function TestWith.test_wrong_arguments_are_blamed_on_their_line()
  local p <close> = pool.new(1)
  local here = debug.getinfo(1, "S").short_src
  local cases = {
    { "bad argument #1 to 'with' (table of options expected, got nil)", function() p:with() end },
    { "bad argument #1 to 'with' (table of options expected, got 3)", function() p:with(3) end },
    { 'bad option \'priority\' to \'with\' ("high" or "normal" or "low" expected, got 5)', function() p:with { priority = 5 } end },
    { "bad option 'priority' to 'map'", function() p:map(print, 1, { priority = "urgent" }) end },
    { "bad option 'priority' to 'new'", function() pool.new { priority = true } end },
    { "unknown option 'workers' to 'with' (known: buffer chunk errors memory on_crash priority progress retries retry_delay timeout)",
      function() p:with { workers = 2 } end },
    { "unknown option 'log' to 'with'", function() p:with { log = "x" } end },
    { "bad argument #1 to 'with' (pool expected, got table; write p:with(...))", function() p.with { priority = "high" } end },
    { "bad argument #1 to 'submit' (pool expected, got function; write p:submit(...))", function() p:with({}).submit(print) end },
    { "bad argument #1 to 'submit' (function expected, got 7)", function() p:with({}):submit(7) end },
  }
  for _, case in ipairs(cases) do
    local line = debug.getinfo(case[2], "S").linedefined
    local message = message_of(case[2])
    lu.assertStrContains(message, case[1])
    lu.assertStrMatches(message, (here .. ":" .. line):gsub("%p", "%%%0") .. ":.*")
  end
  p:close()
  lu.assertStrContains(message_of(p.with, p, {}), "cannot use 'with': the pool is closed")
end

function TestWith.test_in_another_process()
  ways.needs_fork "the pool is inherited"
  local p <close> = pool.new(1)
  local w = p:with { priority = "high" }
  local q <close> = pool.new(1)
  lu.assertEquals(q:apply(function() return w:apply(function() return "inline" end) end), "inline")
end
