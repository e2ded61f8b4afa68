-- Pools and p:map as a user meets them: sources, order, chunks, sizes, lives and ends of pools, what tasks find around them.
local lu = require "luaunit"
local proc = require "proc"
local ways = require "ways"
local forked = require "forked"

local fails, is_usable = ways.fails, ways.is_usable

local LUAPOOL = os.getenv("LUAPOOL") or "build/luapool"

local function identity(x) return x end
local function square(x) return x * x end

local function children() return ways.count(proc.pid()) end

local function up_to(n)
  local i = 0
  return function()
    i = i + 1
    return i <= n and i or nil
  end
end

-- Run a script in a process of its own; its output, and how it ended.
local function script(text, options)
  options = options or {}
  options.args = { LUAPOOL, "-W", "-e", text }
  local child <close> = proc.spawn(options)
  local status, out, err = child:finish(options.seconds or 30)
  return out, err, status
end

TestSources = {}

-- Each source by what it should give, through forked workers, living workers, and inline.
local function gives(source, expected, expected_n)
  for _, workers in ipairs { 1, 2, 3, 0 } do
    local p <close> = pool.new(workers)
    for _, chunk in ipairs { "auto", 1, 2, 1000 } do
      local results, n = p:map(identity, source(), { chunk = chunk })
      lu.assertEquals(n, expected_n or #expected)
      lu.assertEquals(results, expected)
      for i, value in ipairs(results) do lu.assertEquals(math.type(value), math.type(expected[i])) end
    end
    lu.assertEquals((pool.map(identity, source(), { workers = workers })), expected)
  end
end

local function constant(value)
  return function() return value end
end

function TestSources.test_numbers()
  gives(constant(5), { 1, 2, 3, 4, 5 })
  gives(constant(1), { 1 })
  gives(constant(0), {})
  gives(constant(3.0), { 1, 2, 3 })
end

function TestSources.test_ranges()
  local range = pool.range
  gives(function() return range(4) end, { 1, 2, 3, 4 })
  gives(function() return range(0) end, {})
  gives(function() return range(-3) end, {})
  gives(function() return range(3, 6) end, { 3, 4, 5, 6 })
  gives(function() return range(3, 3) end, { 3 })
  gives(function() return range(3, 2) end, {})
  gives(function() return range(2, 9, 3) end, { 2, 5, 8 })
  gives(function() return range(5, -5, -5) end, { 5, 0, -5 })
  gives(function() return range(1, 5, -1) end, {})
  gives(function() return range(0, 1, 0.25) end, { 0.0, 0.25, 0.5, 0.75, 1.0 })
  gives(function() return range(1.5, 3.5) end, { 1.5, 2.5, 3.5 })
  gives(function() return range(1.0, 0.0, -0.5) end, { 1.0, 0.5, 0.0 })
  gives(function() return range(1, 3.5) end, { 1, 2, 3 })
  gives(function() return range(math.maxinteger - 1, math.maxinteger) end, { math.maxinteger - 1, math.maxinteger })
  gives(function() return range(math.mininteger, math.mininteger + 1) end, { math.mininteger, math.mininteger + 1 })
  gives(function() return range(math.mininteger, math.maxinteger, math.maxinteger) end, { math.mininteger, -1, math.maxinteger - 1 })
end

-- Results that are numbers of one kind are written as runs, many items between two looks around: what is not of the kind, fails, or dies,
-- wherever it comes, is in its place, and so are its neighbours.
function TestSources.test_a_run_of_numbers_ends_anywhere()
  local p <close> = pool.new { workers = 1, errors = "collect", on_crash = "skip", chunk = 150 }
  local function expect(other, number, at, what)
    local results, n, errors = p:map(function(i)
      if i ~= at then return i + number end
      if other == "error" then error("item " .. i, 0) end
      if other == "exit" then os.exit(1) end
      return other
    end, 150)
    local is_failure = other == "error" or other == "exit"
    lu.assertEquals(n, 150)
    lu.assertEquals({ next(errors or {}) }, is_failure and { at, errors[at] } or {}, what)
    for i = 1, 150 do
      local value = i + number
      if i == at then value = not is_failure and other or nil end
      if other == false and i == at then value = false end
      if results[i] ~= value or math.type(results[i]) ~= math.type(value) then lu.assertEquals(results[i], value, what .. " item " .. i) end
    end
  end
  for at = 1, 150 do
    for _, number in ipairs { 0, 0.5 } do
      for _, other in ipairs { 7, 7.0, false, "text", "error" } do expect(other, number, at, ("%s at %d"):format(other, at)) end
      expect(nil, number, at, "nil at " .. at)
    end
    if at % 9 == 1 or at % 64 < 4 then expect("exit", 0, at, "exit at " .. at) end
  end
end

-- As a numerical `for` does: the same numbers, as many.
function TestSources.test_ranges_are_numerical_for_loops()
  local cases = { { 0, 1, 0.1 }, { 1, 0, -0.1 }, { 0.1, 0.7, 0.2 }, { -3, 3, 0.7 }, { 10, 1, -4 }, { 1, 2, 5 }, { 1e15, 1e15 + 3, 0.5 } }
  for _, case in ipairs(cases) do
    local n = 0
    for _ = case[1], case[2], case[3] do n = n + 1 end
    local results, count = pool.map(identity, pool.range(case[1], case[2], case[3]), { workers = 1 })
    lu.assertTrue(count == n or count == n + 1 and math.abs(results[count] - case[2]) < 1e-9, ("range(%s, %s, %s): %d, for: %d"):format(
      case[1], case[2], case[3], count, n))
    lu.assertEquals(results[1], case[1] + (math.type(results[1]) == "float" and 0.0 or 0))
  end
end

function TestSources.test_a_range_is_a_sequence_of_constant_size()
  local r = pool.range(10, 1 << 40, 10)
  lu.assertEquals({ #r, r[1], r[2], r[#r], r[0], r[#r + 1] }, { (1 << 40) // 10, 10, 20, (1 << 40) // 10 * 10, nil, nil })
  lu.assertTrue(pool.range(1, 5) == pool.range(5))
  lu.assertStrContains(tostring(pool.range(2, 9, 3)), "range(2, 8, 3)")
end

function TestSources.test_tables()
  gives(constant({ "a", "b", "c" }), { "a", "b", "c" })
  gives(constant({}), {})
  gives(constant({ 1, "two", false, 4.5 }), { 1, "two", false, 4.5 })
  gives(constant({ 1, 2, extra = 3 }), { 1, 2 })
end

function TestSources.test_tables_with_metamethods()
  gives(function()
    return setmetatable({}, { __len = function() return 3 end, __index = function(_, i) return i * 10 end })
  end, { 10, 20, 30 })
end

function TestSources.test_iterators()
  gives(function() return up_to(10) end, { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 })
  gives(function() return up_to(0) end, {})
  gives(function() return ("x y z"):gmatch("%a") end, { "x", "y", "z" })
  gives(function() return coroutine.wrap(function() for i = 3, 1, -1 do coroutine.yield(i) end end) end, { 3, 2, 1 })
  gives(function()
    local list, i = { false, 1, false }, 0
    return function()
      i = i + 1
      return list[i]
    end
  end, { false, 1, false })
end

function TestSources.test_lines_of_a_file()
  local name = os.tmpname()
  local f = assert(io.open(name, "w"))
  for i = 1, 3000 do f:write("line ", i, "\n") end
  f:close()
  local p <close> = pool.new(2)
  for _ = 1, 2 do
    local results, n = p:map(function(line) return tonumber(line:match("%d+")) end, io.lines(name))
    lu.assertEquals(n, 3000)
    for i = 1, 3000 do lu.assertEquals(results[i], i) end
  end
  os.remove(name)
end

function TestSources.test_callable_objects()
  gives(function()
    local next_item = up_to(3)
    return setmetatable({}, { __call = function() return next_item() end })
  end, { 1, 2, 3 })
end

function TestSources.test_an_iterator_is_not_called_again_after_its_end()
  local calls = 0
  local p <close> = pool.new(2)
  local next_item = up_to(20)
  p:map(identity, function()
    calls = calls + 1
    return next_item()
  end)
  lu.assertEquals(calls, 21)
end

-- A source that never ends is not read far ahead of the workers.
function TestSources.test_an_endless_source_of_a_call_that_fails()
  local p <close> = pool.new(2)
  local read = 0
  local e = fails(p.map, p, function(x)
    if x == 1000 then error("enough") end
    return x
  end, function()
    read = read + 1
    return read
  end)
  lu.assertEquals(e.index, 1000)
  is_usable(p)
end

TestResults = {}

function TestResults.test_order_whatever_takes_how_long()
  local p <close> = pool.new(3)
  for _, chunk in ipairs { "auto", 1, 10 } do
    local results, n = p:map(function(x)
      local stop = os.clock() + (x * 7 % 11) * 1e-4
      while os.clock() < stop do end
      return x
    end, 100, { chunk = chunk })
    lu.assertEquals(n, 100)
    for i = 1, 100 do lu.assertEquals(results[i], i) end
  end
end

function TestResults.test_nil_results()
  for _, workers in ipairs { 2, 0 } do
    local p <close> = pool.new(workers)
    for _ = 1, 2 do
      local results, n = p:map(function(x) if x % 3 == 0 then return x end end, 100)
      lu.assertEquals(n, 100)
      for i = 1, 100 do lu.assertEquals(results[i], i % 3 == 0 and i or nil) end
      results, n = p:map(function() end, 50)
      lu.assertEquals({ next(results), n }, { nil, 50 })
    end
  end
end

function TestResults.test_only_the_first_result()
  local p <close> = pool.new(1)
  local results, n = p:map(function(x) return x, "more", x end, 3)
  lu.assertEquals({ results, n }, { { 1, 2, 3 }, 3 })
end

function TestResults.test_fn_gets_the_item_alone()
  local p <close> = pool.new(1)
  lu.assertEquals((p:map(function(...) return select("#", ...) end, { 7, 8 })), { 1, 1 })
  lu.assertEquals((p:map(tonumber, { "7", "0x10" })), { 7, 16 })
end

function TestResults.test_100000_records()
  local p <close> = pool.new(2)
  for _ = 1, 2 do
    local results, n = p:map(function(x) return { id = x, name = "record " .. x, half = x / 2, is_even = x % 2 == 0 } end, 100000)
    lu.assertEquals(n, 100000)
    for i = 1, n, 777 do
      lu.assertEquals(results[i], { id = i, name = "record " .. i, half = i / 2, is_even = i % 2 == 0 })
    end
  end
end

function TestResults.test_items_and_results_of_16_mebibytes()
  local size = 16 << 20
  local p <close> = pool.new(2)
  for _ = 1, 2 do
    local results = p:map(function(x) return string.char(64 + x):rep(size) end, 4)
    for i = 1, 4 do
      lu.assertEquals(#results[i], size)
      lu.assertTrue(results[i] == string.char(64 + i):rep(size))
    end
    local lengths = p:map(function(text) return #text .. text:sub(-1) end, results)
    lu.assertEquals(lengths, { size .. "A", size .. "B", size .. "C", size .. "D" })
    local i = 0
    lengths = p:map(function(text) return #text end, function()
      i = i + 1
      return results[i]
    end)
    lu.assertEquals(lengths, { size, size, size, size })
    lu.assertEquals(#p:apply(identity, results[1]), size)
  end
end

function TestResults.test_many_workers()
  local p <close> = pool.new(64)
  local results = p:map(function(x) return { x, pool.worker.id } end, 2000, { chunk = 1 })
  for i = 1, 2000 do
    lu.assertEquals(results[i][1], i)
    lu.assertTrue(results[i][2] >= 1 and results[i][2] <= 64)
  end
  lu.assertEquals(#p:workers(), 64)
  is_usable(p)
end

-- Two items wait for each other: only two workers at the same time can finish them.
function TestResults.test_workers_work_at_the_same_time()
  local directory = os.tmpname()
  local p <close> = pool.new(2)
  for round = 1, 2 do
    local results = p:map(function(x)
      io.open(("%s.%d.%d"):format(directory, round, x), "w"):close()
      repeat
        local other = io.open(("%s.%d.%d"):format(directory, round, 3 - x))
        if other then other:close() end
      until other
      return pool.worker.pid
    end, 2, { chunk = 1 })
    lu.assertNotEquals(results[1], results[2])
    for x = 1, 2 do os.remove(("%s.%d.%d"):format(directory, round, x)) end
  end
  os.remove(directory)
end

function TestResults.test_inside_coroutines()
  local p <close> = pool.new(2)
  local co = coroutine.create(function()
    for n = 1, 3 do coroutine.yield((p:map(square, n))) end
    return (pool.map(square, 4, { workers = 1 }))
  end)
  for n = 1, 4 do
    local ok, results = coroutine.resume(co)
    lu.assertTrue(ok)
    lu.assertEquals(#results, n)
    lu.assertEquals(results[n], n * n)
  end
end

function TestResults.test_tasks_may_use_coroutines()
  local p <close> = pool.new(1)
  lu.assertEquals((p:map(function(x)
    local sum = 0
    for y in coroutine.wrap(function() for i = 1, x do coroutine.yield(i) end end) do sum = sum + y end
    return sum
  end, 4)), { 1, 3, 6, 10 })
  local e = fails(p.map, p, function() coroutine.yield(1) end, 1)
  lu.assertStrContains(e.message, "attempt to yield")
end

function TestResults.test_collectgarbage_everywhere()
  local p <close> = pool.new(2)
  local i = 0
  local results = p:map(function(x)
    collectgarbage()
    return { x }
  end, function()
    i = i + 1
    collectgarbage()
    return i <= 50 and { i } or nil
  end)
  for k = 1, 50 do lu.assertEquals(results[k][1][1], k) end
end

TestLives = {}

function TestLives.test_workers_start_at_first_use()
  local before = children()
  local p <close> = pool.new(2)
  lu.assertEquals(children(), before)
  lu.assertEquals(p:workers(), {})
  p:map(identity, 0)
  lu.assertEquals(children(), before)
  p:map(identity, 10)
  lu.assertEquals(children(), before + 2)
  lu.assertEquals(#p:workers(), 2)
  local seen = {}
  for _, worker in ipairs(p:workers()) do seen[worker.id] = worker.pid end
  lu.assertTrue(seen[1] ~= nil and seen[2] ~= nil and seen[1] ~= seen[2])
end

function TestLives.test_close()
  local p = pool.new(2)
  is_usable(p)
  lu.assertEquals(p:close(), true)
  lu.assertEquals(children(), 0)
  lu.assertEquals(p:close(), true)
  lu.assertEquals(p:close(1), true)
  p:terminate()
  lu.assertStrContains(fails(p.map, p, identity, 1), "the pool is closed")
  lu.assertStrContains(tostring(p), "closed")
  lu.assertEquals(p:workers(), {})
end

function TestLives.test_close_of_an_unused_pool()
  local p = pool.new(2)
  lu.assertTrue(p:close())
  local q = pool.new(2)
  q:terminate()
  q:terminate()
  local r = pool.new(0)
  r:close()
  lu.assertStrContains(fails(r.map, r, identity, 1), "the pool is closed")
end

function TestLives.test_terminate()
  local p = pool.new(2)
  is_usable(p)
  p:terminate()
  lu.assertEquals(children(), 0)
  p:terminate(0)
  lu.assertTrue(p:close())
  lu.assertStrContains(fails(p.apply, p, identity, 1), "the pool is closed")
end

function TestLives.test_close_with_a_timeout()
  local p = pool.new { workers = 1, grace = 0.05, on_exit = function() while true do end end }
  is_usable(p)
  lu.assertEquals(p:close(0), false)
  lu.assertEquals(p:close(0.05), false)
  lu.assertEquals(children(), 1)
  p:terminate()
  lu.assertEquals(children(), 0)
  lu.assertTrue(p:close())
end

function TestLives.test_scopes()
  do
    local p <close> = pool.new(2)
    is_usable(p)
  end
  lu.assertEquals(children(), 0)
  local e = fails(function()
    local p <close> = pool.new(2)
    is_usable(p)
    error("on purpose", 0)
  end)
  lu.assertEquals(e, "on purpose")
  lu.assertEquals(children(), 0)
  local ok = pcall(function()
    local p <close> = pool.new(1)
    p:map(function() error("in the task") end, 3)
  end)
  lu.assertFalse(ok)
  lu.assertEquals(children(), 0)
end

function TestLives.test_one_shots_leave_nothing()
  lu.assertEquals((pool.map(square, 3)), { 1, 4, 9 })
  lu.assertEquals(children(), 0)
  pcall(pool.map, function() error("x") end, 3)
  lu.assertEquals(children(), 0)
  pcall(pool.map, function() os.exit(1) end, 3)
  lu.assertEquals(children(), 0)
  pcall(pool.map, identity, function() error("source") end)
  lu.assertEquals(children(), 0)
end

function TestLives.test_two_pools_at_once()
  local a <close> = pool.new(2)
  local second <close> = pool.new(1)
  local results = a:map(identity, function() return nil end)
  lu.assertEquals(results, {})
  local i = 0
  results = a:map(identity, function() -- the source of one is the other's result
    i = i + 1
    return i <= 5 and second:map(square, i)[i] or nil
  end)
  lu.assertEquals(results, { 1, 4, 9, 16, 25 })
end

function TestLives.test_pools_are_independent()
  local a <close> = pool.new(1)
  local b <close> = pool.new(1)
  is_usable(a)
  is_usable(b)
  pcall(a.map, a, function() os.exit(1) end, 1)
  is_usable(b)
  is_usable(a)
end

function TestLives.test_a_hundred_pools()
  for i = 1, 100 do
    local p <close> = pool.new(2)
    lu.assertEquals((p:map(square, 3))[3], 9, i)
  end
  lu.assertEquals(children(), 0)
end

function TestLives.test_descriptors_are_given_back()
  local function count() return #proc.fds(proc.pid()) end
  is_usable(pool.new(1))
  collectgarbage()
  collectgarbage()
  local before = count()
  for _ = 1, 10 do
    local p <close> = pool.new(3)
    is_usable(p)
    pcall(p.map, p, function(x) if x == 2 then os.exit(1) end return x end, 3)
  end
  lu.assertEquals(count(), before)
end

-- A source may use the pool that it feeds: both calls go on side by side.
function TestLives.test_a_pool_in_use_can_be_used()
  local p <close> = pool.new(2)
  local inner, i = {}, 0
  local results = p:map(identity, function()
    i = i + 1
    inner[i] = p:map(function(x) return x * i end, 3)
    return i <= 5 and i or nil
  end)
  lu.assertEquals(results, { 1, 2, 3, 4, 5 })
  lu.assertEquals(inner[1], { 1, 2, 3 })
  lu.assertEquals(inner[6], { 6, 12, 18 })
  is_usable(p)
end

function TestLives.test_an_abandoned_pool_is_collected_with_a_warning()
  local out, err, status = script [[
    local proc = require "proc"
    local p = pool.new(2)
    p:map(tostring, 10)
    local pids = p:workers()
    p = nil
    collectgarbage() collectgarbage()
    print(#pids, #proc.children(proc.pid()), #proc.fds(proc.pid()) < 12)]]
  lu.assertEquals({ out, status.exit }, { "2\t0\ttrue\n", 0 })
  lu.assertStrContains(err, "a pool was never closed")
end

function TestLives.test_pools_that_were_closed_or_never_used_do_not_warn()
  local out, err = script [[
    pool.new(2)
    pool.new(2):close()
    local p = pool.new(2) p:map(tostring, 3) p:terminate() p = nil
    pool.map(tostring, 3)
    collectgarbage() collectgarbage()
    print "done"]]
  lu.assertEquals({ out, err }, { "done\n", "" })
end

function TestLives.test_a_script_that_ends_without_closing()
  for _, ending in ipairs { "", "os.exit(0)", "os.exit(0, true)" } do
    local child <close> = proc.spawn { args = { LUAPOOL, "-e", "p = pool.new(2) p:map(tostring, 10) " .. ending } }
    local status = child:finish(30)
    lu.assertEquals(status.exit, 0)
    lu.assertTrue(proc.wait_until(function() return #proc.leftovers(child.mark) == 0 end, 20), "left after " .. ending)
  end
end

function TestLives.test_a_forked_process_may_not_use_the_pool()
  local p = pool.new(2)
  is_usable(p)
  for _, method in ipairs { "map", "apply", "close", "terminate", "stats", "workers" } do
    local text = forked.run(function() return select(2, pcall(p[method], p, method == "map" and identity or nil, 3)) end)
    lu.assertNotStrContains(text, "true", method)
  end
  local text = forked.run(function() p:map(identity, 3) end)
  lu.assertStrMatches(text, "tests/test_pool.lua:%d+: cannot use 'map' here: the pool belongs to process %d+, this is process %d+")
  text = forked.run(function() -- a copy that is collected, or closed, touches nobody
    p = nil
    collectgarbage()
    collectgarbage()
    return "collected"
  end)
  lu.assertEquals(text, "collected")
  lu.assertEquals(forked.run(function() return pool.map(square, 3, { workers = 2 })[3] end), "9") -- it may have pools of its own
  is_usable(p)
  lu.assertEquals(p:stats().forks, 2)
  p:close()
end

function TestLives.test_stats()
  local p <close> = pool.new(2)
  lu.assertEquals({ p:stats().calls, p:stats().forks, p:stats().sent, p:stats().renewed }, { 0, 0, 0, 0 })
  p:map(identity, 100)
  p:map(identity, 100)
  local stats = p:stats()
  lu.assertEquals({ stats.calls, stats.forks, stats.items }, { 2, 2, 200 })
  lu.assertTrue(stats.busy >= 0)
end

TestTasks = {}

function TestTasks.test_pool_worker()
  lu.assertNil(pool.worker)
  local p <close> = pool.new(2)
  for _ = 1, 2 do
    for _, worker in ipairs((p:map(function() return { pool.worker.id, pool.worker.pid } end, 20))) do
      local found
      for _, living in ipairs(p:workers()) do found = found or (living.id == worker[1] and living.pid == worker[2]) end
      lu.assertTrue(found)
    end
  end
  lu.assertNil(pool.worker)
end

function TestTasks.test_pools_inside_tasks_run_inline()
  local p <close> = pool.new(2)
  for _ = 1, 2 do
    local results = p:map(function(x)
      local inner = pool.map(function(y) return { y * x, pool.worker.pid } end, 3, { workers = 8 })
      local q <close> = pool.new(4)
      local more = q:map(function(y) return y + x end, 2)
      return { inner[3][1], inner[1][2] == pool.worker.pid, more[2], (q:apply(function() return x end)) }
    end, 4)
    for i = 1, 4 do lu.assertEquals(results[i], { i * 3, true, i + 2, i }) end
    lu.assertEquals(#p:workers(), 2)
  end
  if ways.start == "fork" then -- others cannot be sent a pool
    local results = p:map(function(x) return p ~= nil and x or 0 end, 2) -- the pool itself is an upvalue
    lu.assertEquals(results, { 1, 2 })
  end
end

function TestTasks.test_errors_of_pools_inside_tasks()
  local p <close> = pool.new(1)
  local e = fails(p.map, p, function() pool.map(function(y) error("inner " .. y) end, 2) end, 1)
  lu.assertEquals(e.kind, "error")
  lu.assertStrContains(e.message, "inner 1")
  lu.assertEquals(getmetatable(e.value), pool.Error)
end

function TestTasks.test_standard_input_is_empty()
  local out, err = script([[
    local p <close> = pool.new(2)
    for _ = 1, 2 do
      local results = p:map(function() return { io.read("l") or "nothing" } end, 4, { chunk = 1 })
      for i = 1, 4 do io.write(results[i][1], " ") end
    end
    print(io.read("l"), io.read("l"), io.read("l"))]], { stdin = "first\nsecond\n" })
  lu.assertEquals({ out, err }, { "nothing nothing nothing nothing nothing nothing nothing nothing first\tsecond\tnil\n", "" })
end

-- FAULTS F05: what the host had not written yet is not written by every worker; lines of tasks come whole and once.
local PRINTS = [[
  io.write("A")
  local p <close> = pool.new(2)
  for round = 1, 2 do
    p:map(function(x)
      print(round, "line " .. x)
      if x == 5 and round == 2 then os.exit(3) end
    end, 8, { errors = "collect" })
  end
  io.write("B")]]

local function check_prints(out)
  local counts, rest = {}, out:gsub("^A", "", 1):gsub("B$", "", 1)
  lu.assertEquals(#rest, #out - 2)
  for line in rest:gmatch("[^\n]*\n") do counts[line] = (counts[line] or 0) + 1 end
  local lines = 0
  for round = 1, 2 do
    for x = 1, 8 do lu.assertEquals(counts[round .. "\tline " .. x .. "\n"], 1, out) end
  end
  for _, count in pairs(counts) do lines = lines + count end
  lu.assertEquals(lines, 16)
end

function TestTasks.test_output_to_a_pipe()
  local out, err = script(PRINTS)
  lu.assertEquals(err, "")
  check_prints(out)
end

function TestTasks.test_output_to_a_file()
  local name = os.tmpname()
  local _, err = script(PRINTS, { stdout = name })
  local f <close> = assert(io.open(name))
  lu.assertEquals(err, "")
  check_prints(f:read("a"))
  os.remove(name)
end

function TestTasks.test_a_script_on_standard_input_runs_once()
  local text = "print('once', #pool.map(tostring, 10))\n" .. ("-- filler\n"):rep(2000) .. "print('end')"
  local child <close> = proc.spawn { args = { LUAPOOL, "-" }, stdin = text }
  local status, out, err = child:finish(30)
  lu.assertEquals({ status.exit, out, err }, { 0, "once\t10\nend\n", "" })
end

function TestTasks.test_lines_of_tasks_do_not_tear()
  local out = script [[
    local p <close> = pool.new(4)
    p:map(function(x) print(("%d "):format(x):rep(50)) end, 2000, { chunk = 1 })]]
  local seen = {}
  for line in out:gmatch("([^\n]*)\n") do
    local number = line:match("^%d+")
    lu.assertEquals(line, (number .. " "):rep(50))
    lu.assertNil(seen[number])
    seen[number] = true
  end
  for i = 1, 2000 do lu.assertTrue(seen[tostring(i)]) end
end

-- ---- what is known of a function from its last call ----

TestHints = {}

-- Six items, one worker: when nothing is known a claim of one item comes first, then five of a third of what is left; else two items come
-- first. (An item that was interrupted by other programs is a slow one, and what is known then is that.)
local function claims_of(p, fn)
  local before = p:stats().chunks
  lu.assertEquals({ p:map(fn, 6) }, { { 1, 4, 9, 16, 25, 36 }, 6 })
  proc.wait_until(function() return p:workers()[1].item == nil end, 30) -- results come before the worker has counted its claim
  return p:stats().chunks - before
end

local function learns(p, make)
  lu.assertEquals(claims_of(p, make()), 6)
  for _ = 1, 500 do
    if claims_of(p, make()) == 5 then return true end
  end
  return false
end

function TestHints.test_the_time_of_items_is_remembered()
  local p <close> = pool.new(1)
  lu.assertTrue(learns(p, function() return square end))
end

function TestHints.test_closures_of_one_function_are_one()
  local p <close> = pool.new(1)
  local power = 1
  lu.assertTrue(learns(p, function()
    power = power + 1
    local other = power
    return function(x) return other > 1 and x * x end
  end))
end

function TestHints.test_another_function_is_another()
  local p <close> = pool.new(1)
  lu.assertTrue(learns(p, function() return square end))
  local others = {
    function(x) return x * x end,
    function(x) return x * x + 0 end,
  }
  for _, fn in ipairs(others) do lu.assertEquals(claims_of(p, fn), 6) end
end

-- More functions than are remembered, C functions among them, and items that take much longer than they did.
function TestHints.test_wrong_guesses_cost_no_result()
  local p <close> = pool.new(2)
  local slow = 0.0
  local function work(x)
    local until_then = os.clock() + slow
    while os.clock() < until_then do end
    return -x
  end
  for round = 1, 4 do
    slow = round == 3 and 0.02 or 0.0
    local results, n = p:map(work, 40)
    lu.assertEquals(n, 40)
    for i = 1, n do lu.assertEquals(results[i], -i) end
    for k, fn in ipairs { math.abs, tostring, math.sin, square, identity } do
      results, n = p:map(fn, 40)
      lu.assertEquals(n, 40)
      for i = 1, n do lu.assertEquals(results[i], fn(i), k) end
    end
  end
end

-- ---- scripts that forget a `local` ------------------------------------------------------------------------------

-- Lua's own names taken for other things are lost to the script, and to nobody else; and the names that it means to replace are used.
function TestTasks:test_lua_s_own_names_used_for_other_things()
  local out, err, status = script [[
    local show = print
    type, table, next, string, math, utf8, select, error, pairs, ipairs, tostring, tonumber, pcall, xpcall = "circle", {}, 5, "s"
    setmetatable, getmetatable, rawget, rawset, os, io, debug, coroutine, assert, load, _G = nil
    local p <close> = pool.new(2)
    show(#p:map(function(x) return x * x end, 10), (p:reduce(function(a, b) return a + b end, 10, 0)))
    for i, v in p:imap(function(x) return x + 1 end, 2) do show(i, v) end
    show(p:submit(function(x) return x end, 2):get(), #p:filter(function(x) return x > 2 end, { 1, 2, 3 }),
      (p:find(function(x) return x > 2 end, 3)))
    local results, n, errors = p:map(function(x) return x.y.z end, 2, { errors = "collect" })
    show(n, errors[2].kind, #pool.map(function(x) return x end, 3), #p:workers())
    print = function(text) show("replaced: " .. text) end
    pool.map(function(i) print(i) end, 1, { workers = 0 })]]
  lu.assertEquals(err, "")
  lu.assertEquals(out, "10\t55\n1\t2\n2\t3\n2\t1\t3\n2\terror\t3\t2\nreplaced: 1\n")
  lu.assertEquals(status.exit, 0)
end
