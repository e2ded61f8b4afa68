-- Futures: submit, map_async, get, wait, status, cancel, on_done, pool.wait, pool.as_completed, p:step; thousands in flight; callbacks and
-- what they may do; what the ends of pools and workers mean for them.
local lu = require "luaunit"
local proc = require "proc"
local post = require "post"
local ways = require "ways"

local spin = ways.spin
local fails, is_usable, wait_for = ways.fails, ways.is_usable, ways.wait_for

local function identity(x) return x end
local function square(x) return x * x end

local function die(code) os.exit(code) end -- (not os.exit itself: here it is luaunit's)

-- A task that lasts until the counter is not 0 any more; `begun` counts those that wait.
local function gate()
  local open, begun = pool.counter(0), pool.counter(0)
  local function task(...)
    begun:add(1)
    while open:get() == 0 do end
    return ...
  end
  return task, open, begun
end

-- For pools of all sizes, 0 included.
local function sizes(fn)
  for _, n in ipairs { 2, 1, 0 } do
    local p <close> = pool.new(n)
    fn(p, n)
  end
end

-- ---- one future ----

TestOne = {}

function TestOne.test_all_results_come()
  sizes(function(p)
    local function count(...) return select("#", ...), ... end
    lu.assertEquals({ p:submit(count, 1, nil, "x", false, nil):get() }, { 5, 1, nil, "x", false, nil })
    lu.assertEquals(select("#", p:submit(function() end):get()), 0)
    lu.assertEquals(select("#", p:submit(function() return nil, nil, nil end):get()), 3)
    lu.assertEquals(p:submit(string.upper, "abc"):get(), "ABC")
  end)
end

function TestOne.test_get_again_gives_the_same()
  sizes(function(p)
    local f = p:submit(function() return { 1 }, 2 end)
    local t = f:get()
    lu.assertIs(f:get(), t)
    lu.assertEquals({ f:get(0) }, { { 1 }, 2 })
    local failed = p:submit(error, "no")
    local e = fails(failed.get, failed)
    lu.assertIs(fails(failed.get, failed), e)
  end)
end

function TestOne.test_errors_are_raised_by_get()
  sizes(function(p)
    local f = p:submit(function() error("a reason", 0) end)
    lu.assertTrue(f:wait())
    lu.assertEquals(f:status(), "error")
    local e = fails(f.get, f)
    lu.assertEquals({ e.kind, e.message, getmetatable(e) == pool.Error }, { "error", "a reason", true })
    f = p:submit(function() return coroutine.create(print) end)
    e = fails(f.get, f)
    lu.assertEquals({ e.kind, f:status() }, { "serialize", "error" })
  end)
end

function TestOne.test_map_async_gives_what_map_gives()
  sizes(function(p)
    for _, source in ipairs { 50, ways.up_to(50), pool.range(1, 50), pool.map(identity, 50, 0) } do
      local results, n = p:map_async(square, source):get()
      lu.assertEquals({ #results, n, results[50] }, { 50, 50, 2500 })
    end
    local results, n, errors = p:map_async(function(x) return x == 3 and error "three" or x end, 5, { errors = "collect" }):get()
    lu.assertEquals({ results, n, errors[3].kind, errors[3].index }, { { 1, 2, nil, 4, 5 }, 5, "error", 3 })
    local e = fails(function() p:map_async(function(x) return x == 3 and error "three" or x end, 5):get() end)
    lu.assertEquals({ e.kind, e.index }, { "error", 3 })
    local into = pool.array("i64", 10)
    results, n = p:map_async(square, 10, { into = into }):get()
    lu.assertEquals({ n, results[10], into[7] }, { 10, 100, 49 })
    lu.assertEquals({ p:map_async(square, 0):get() }, { {}, 0 })
  end)
end

-- An error of the source is raised by get, not by who begins it; the pool goes on.
function TestOne.test_errors_of_the_source_of_map_async()
  sizes(function(p, n)
    local mine = {}
    local function source() error(mine) end
    local f = p:map_async(square, source)
    lu.assertIs(fails(f.get, f), mine)
    lu.assertEquals(f:status(), "error")
    if n > 0 then is_usable(p) end
  end)
end

function TestOne.test_get_and_wait_with_a_timeout()
  local p <close> = pool.new(1)
  local task, open = gate()
  local f = p:submit(task, "late")
  for _, timeout in ipairs { 0, 0.05 } do
    local before = proc.now()
    lu.assertEquals({ f:get(timeout) }, { nil, "timeout" })
    lu.assertFalse(f:wait(timeout))
    lu.assertTrue(proc.now() - before >= 2 * timeout)
  end
  open:add(1)
  lu.assertEquals(f:get(math.huge), "late")
  lu.assertTrue(f:wait(math.huge))
end

-- A result that is there already when it is asked for is not waited for, whatever else goes on.
function TestOne.test_get_beside_a_task_that_goes_on()
  local p <close> = pool.new(2)
  local task, open = gate()
  local long = p:submit(task)
  for i = 1, 2000 do
    local f = p:submit(square, i)
    if i % 4 == 0 then spin(0.0002) end
    lu.assertEquals(f:get(), i * i)
  end
  lu.assertEquals(long:status(), "running")
  open:add(1)
end

-- Asking without waiting is enough for it to come to its end.
function TestOne.test_asking_takes_note()
  local p <close> = pool.new(2)
  local f, g, h = p:submit(square, 5), p:submit(square, 6), p:submit(square, 7)
  wait_for(function() return f:status() == "done" end, "status does not take note")
  wait_for(function() return g:wait(0) end, "wait does not take note")
  wait_for(function() return h:get(0) == 49 end, "get does not take note")
end

function TestOne.test_status_words()
  local p <close> = pool.new { workers = 1, grace = 0.1 }
  local task, open, begun = gate()
  local running, pending = p:submit(task), p:submit(task)
  wait_for(function() return begun:get() == 1 end, "it does not begin")
  lu.assertEquals(running:status(), "running")
  lu.assertEquals(pending:status(), "pending")
  lu.assertStrContains(tostring(pending), "task, pending")
  lu.assertTrue(pending:cancel())
  lu.assertEquals(pending:status(), "cancelled")
  open:add(1)
  running:get()
  lu.assertEquals(running:status(), "done")
  local crashed = p:submit(die, 3)
  local e = fails(crashed.get, crashed)
  lu.assertEquals({ crashed:status(), e.kind, e.exitcode }, { "crashed", "crash", 3 })
  local failed = p:submit(error)
  failed:wait()
  lu.assertEquals(failed:status(), "error")
  local q <close> = pool.new { workers = 1, timeout = 0.1, grace = 0.1 }
  local late = q:submit(function() while true do end end)
  lu.assertEquals(fails(late.get, late).kind, "timeout")
  lu.assertEquals(late:status(), "timeout")
  local inline <close> = pool.new(0)
  lu.assertEquals(inline:submit(identity):status(), "done")
  lu.assertEquals(inline:submit(error):status(), "error")
end

-- ---- cancelling ----

TestCancel = {}

function TestCancel.test_pending_ones_never_run()
  local p <close> = pool.new(1)
  local task, open, begun = gate()
  local first = p:submit(task, 1)
  wait_for(function() return begun:get() == 1 end, "it does not begin")
  local others = {}
  for i = 1, 50 do others[i] = p:submit(task, i) end
  for i = 1, 50 do lu.assertEquals(others[i]:cancel(), true) end
  for i = 1, 50 do lu.assertEquals(others[i]:cancel(), false) end -- it is over already
  open:add(1)
  lu.assertEquals(first:get(), 1)
  is_usable(p)
  lu.assertEquals(begun:get(), 1)
  local e = fails(others[1].get, others[1])
  lu.assertEquals({ e.kind, tostring(e) }, { "cancelled", "the call was cancelled" })
  lu.assertTrue(others[2]:wait(0))
end

-- Its `__close` variables run; it does not wait for that.
function TestCancel.test_running_ones_are_interrupted()
  local p <close> = pool.new { workers = 2, grace = 20 }
  local begun, closed = pool.counter(0), pool.counter(0)
  for round = 1, 10 do
    local f = p:submit(function()
      local _ <close> = setmetatable({}, { __close = function() closed:add(1) end })
      begun:add(1)
      while true do end
    end)
    wait_for(function() return begun:get() == round end, "it does not begin")
    lu.assertTrue(f:cancel())
    lu.assertEquals(f:status(), "cancelled")
    is_usable(p)
    wait_for(function() p:step() return closed:get() == round end, "it was not interrupted")
  end
  lu.assertEquals(p:stats().forks, 2)
end

function TestCancel.test_who_does_not_stop_is_killed()
  local p <close> = pool.new { workers = 1, grace = 0.1 }
  local begun = pool.counter(0)
  local f = p:submit(function()
    begun:add(1)
    while true do pcall(function() while true do end end) end
  end)
  wait_for(function() return begun:get() == 1 end, "it does not begin")
  lu.assertTrue(f:cancel())
  is_usable(p)
  lu.assertEquals(p:stats().forks, 2)
end

function TestCancel.test_a_map_is_cancelled()
  local p <close> = pool.new(2)
  local begun = pool.counter(0)
  for _, source in ipairs { 1000, function() return 1 end } do
    begun:set(0)
    local f = p:map_async(function() begun:add(1) while true do end end, source, { chunk = 1 })
    wait_for(function() p:step() return begun:get() == 2 end, "it does not begin")
    lu.assertTrue(f:cancel())
    lu.assertEquals(fails(f.get, f).kind, "cancelled")
    is_usable(p)
    lu.assertEquals(begun:get(), 2)
  end
end

function TestCancel.test_one_that_is_over_cannot_be()
  sizes(function(p)
    local f = p:submit(square, 4)
    f:wait()
    lu.assertFalse(f:cancel())
    lu.assertEquals({ f:get(), f:status() }, { 16, "done" })
  end)
end

-- All of a pool at once; it waits until nobody is in them any more, and the pool goes on.
function TestCancel.test_the_pool_cancels_all()
  local p <close> = pool.new { workers = 2, grace = 20 }
  local begun, ended = pool.counter(0), pool.counter(0)
  local futures = {}
  for i = 1, 20 do
    futures[i] = p:submit(function()
      local _ <close> = setmetatable({}, { __close = function() ended:add(1) end })
      begun:add(1)
      while true do end
    end)
  end
  local map = p:map_async(square, 1000)
  wait_for(function() return begun:get() == 2 end, "they do not begin")
  p:cancel()
  lu.assertEquals(ended:get(), 2)
  for i = 1, 20 do lu.assertEquals(futures[i]:status(), "cancelled") end
  lu.assertEquals(map:status(), "cancelled")
  lu.assertEquals(p:step(), 0)
  is_usable(p)
  lu.assertEquals(begun:get(), 2)
  p:cancel() -- nothing to do
  pool.new(0):cancel()
end

-- ---- callbacks ----

TestCallbacks = {}

function TestCallbacks.test_called_with_the_future_when_it_is_over()
  sizes(function(p)
    local seen
    local f = p:submit(square, 3)
    lu.assertIs(f:on_done(function(g) seen = g end), f)
    f:get()
    lu.assertIs(seen, f)
  end)
end

-- Several of one future in the order in which they were added; those of different ones in the order in which these end.
function TestCallbacks.test_order()
  local p <close> = pool.new(1)
  local order = {}
  local futures = {}
  for i = 1, 20 do
    futures[i] = p:submit(identity, i)
    for k = 1, 3 do futures[i]:on_done(function() order[#order + 1] = i * 10 + k end) end
  end
  futures[20]:wait()
  local expected = {}
  for i = 1, 20 do for k = 1, 3 do expected[#expected + 1] = i * 10 + k end end
  lu.assertEquals(order, expected)
end

-- Not before the host is in a call of the pool: no callback runs behind the script's back.
function TestCallbacks.test_only_inside_calls_of_the_pool()
  local p <close> = pool.new(2)
  local finished = pool.counter(0)
  local called = 0
  local f = p:submit(function() finished:add(1) end)
  f:on_done(function() called = called + 1 end)
  wait_for(function() return finished:get() == 1 end, "it does not run")
  spin(0.05)
  for _ = 1, 100 do collectgarbage("step") end
  lu.assertEquals(called, 0)
  wait_for(function() p:step() return called == 1 end, "not called by step")
  lu.assertEquals(called, 1)
  -- any call that waits will do
  for _, serve in ipairs {
    function() p:map(identity, 1) end, function() p:apply(identity) end, function() for _ in p:imap(identity, 2) do end end,
    function() p:step(0.01) end, function() p:reduce(function(a) return a end, 3, 0) end,
  } do
    called = 0
    p:submit(identity):on_done(function() called = called + 1 end)
    wait_for(function() serve() return called == 1 end, "not called")
  end
end

function TestCallbacks.test_of_one_that_is_over_at_once()
  sizes(function(p)
    local f = p:submit(square, 3)
    f:wait()
    local called = 0
    f:on_done(function() called = called + 1 end)
    lu.assertEquals(called, 1)
  end)
end

-- Also of those that fail, crash, or are cancelled.
function TestCallbacks.test_whatever_the_end()
  local p <close> = pool.new(2)
  local states = {}
  local function note(key) return function(f) states[key] = f:status() end end
  p:submit(error, "x"):on_done(note "error")
  p:submit(die, 1):on_done(note "crashed")
  p:submit(function() while true do end end):on_done(note "cancelled"):cancel()
  p:map_async(square, 3):on_done(note "done")
  wait_for(function() p:step(0.01) return states.error and states.crashed and states.cancelled and states.done end, "not all were called")
  for key, value in pairs(states) do lu.assertEquals(value, key) end
end

-- Nothing that a callback raises is lost: the next call that serves futures raises it, one error each.
function TestCallbacks.test_errors_are_raised_by_the_next_call()
  local p <close> = pool.new(2)
  local mine = { "mine" }
  local serve = {
    step = function() p:step() end,
    get = function() p:submit(identity):get() end,
    wait = function() p:submit(identity):wait() end,
    pool_wait = function() pool.wait { p:submit(identity) } end,
    as_completed = function() for _ in pool.as_completed { p:submit(identity) } do end end,
  }
  for name, fn in pairs(serve) do
    local f = p:submit(square, 2)
    f:on_done(function() error(mine) end):on_done(function() error("text", 0) end)
    p:map(identity, 1)
    wait_for(function() return f:status() == "done" end, name)
    p:map(identity, 1) -- does not raise them: its own results are right
    lu.assertIs(fails(fn), mine, name)
    lu.assertStrMatches(fails(fn), "text\n.*stack traceback.*")
    fn()
    lu.assertEquals(f:get(), 4)
  end
end

function TestCallbacks.test_errors_are_raised_by_close()
  local p = pool.new(2)
  local warnings = 0
  p:submit(square, 2):on_done(function() error("first", 0) end)
  lu.assertStrContains(fails(p.close, p), "first")
  lu.assertTrue(p:close())
  lu.assertEquals(warnings, 0)
  local inline = pool.new(0)
  inline:submit(square, 2):on_done(function() error("second", 0) end)
  lu.assertStrContains(fails(inline.close, inline), "second")
end

-- What nobody is left to be told of is a warning.
function TestCallbacks.test_errors_after_terminate_are_warnings()
  local child <close> = proc.spawn { args = { post.LUAPOOL, "-W", "-e", [[
    local p = pool.new(2)
    local f = p:submit(function() while true do end end)
    f:on_done(function(g) print("told", g:status()) error("too late", 0) end)
    p:terminate()
    print "end"]] } }
  local status, out, err = child:finish(20)
  lu.assertEquals({ status.exit, out }, { 0, "told\tcancelled\nend\n" })
  lu.assertStrContains(err, "Lua warning: luapool: a callback failed: too late")
end

function TestCallbacks.test_one_failing_callback_does_not_hinder_the_others()
  local p <close> = pool.new(2)
  local called = 0
  local f = p:submit(square, 2)
  f:on_done(error):on_done(function() called = called + 1 end):on_done(error):on_done(function() called = called + 1 end)
  local problems = 0
  wait_for(function()
    if not pcall(p.step, p) then problems = problems + 1 end
    return called == 2 and problems == 2
  end, "not all were called, or told")
  p:step()
end

-- They may begin more work, wait for other work, run maps and loops.
function TestCallbacks.test_they_may_use_the_pool()
  local p <close> = pool.new(2)
  local results = {}
  local function chain(k)
    return function(f)
      results[k] = f:get()
      if k < 50 then p:submit(square, k + 1):on_done(chain(k + 1)) end
    end
  end
  p:submit(square, 1):on_done(chain(1))
  wait_for(function() p:step(0.01) return #results == 50 end, "the chain broke")
  for k = 1, 50 do lu.assertEquals(results[k], k * k) end
  local task, open = gate()
  local seen = {}
  local slow = p:submit(task, "slow")
  p:submit(identity):on_done(function()
    seen.map = p:map(square, 100)[100]
    seen.apply = p:apply(square, 5)
    seen.submit = p:submit(square, 6):get()
    for i in p:imap(identity, 10) do seen.imap = i end
    open:add(1)
    seen.others = #pool.wait { slow, p:submit(identity) }
    for f in pool.as_completed { slow, p:submit(identity) } do seen[f] = true end
    seen.get = slow:get()
    p:step()
  end)
  wait_for(function() p:step(0.01) return seen.get end, "the callback does not end")
  lu.assertEquals({ seen.map, seen.apply, seen.submit, seen.imap, seen.others, seen.get }, { 10000, 25, 36, 10, 2, "slow" })
  lu.assertTrue(seen[slow])
end

-- One at a time: what ends inside a callback is told after it.
function TestCallbacks.test_no_callback_inside_another()
  local p <close> = pool.new(2)
  local depth, most, count = 0, 0, 0
  local function nested()
    depth = depth + 1
    most = math.max(most, depth)
    p:map(square, 50)
    depth, count = depth - 1, count + 1
  end
  for _ = 1, 20 do p:submit(identity):on_done(nested) end
  wait_for(function() p:step(0.01) return count == 20 end, "not all were called")
  lu.assertEquals(most, 1)
end

for _, where in ipairs { "step", "get", "map", "imap", "as_completed" } do
  TestCallbacks["test_they_may_terminate_the_pool_in_" .. where] = function()
    local p <close> = pool.new(2)
    local task = gate()
    local others = { p:submit(task), p:submit(task), p:map_async(square, 10) }
    others[2]:cancel()
    local called, after = 0, 0
    p:submit(identity):on_done(function()
      called = called + 1
      p:terminate()
    end)
    others[1]:on_done(function() after = after + 1 end)
    local serve = {
      step = function() p:step(10) end,
      get = function() others[1]:get() end,
      map = function() p:map(task, 10) end,
      imap = function() for _ in p:imap(task, 10) do end end,
      as_completed = function() for f in pool.as_completed { others[1], others[3] } do f:get() end end,
    }
    local e
    wait_for(function()
      local ok, problem = pcall(serve[where])
      e = e or not ok and problem
      return called == 1
    end, "not called")
    lu.assertEquals(type(e) == "table" and e.kind or e, "cancelled")
    lu.assertEquals(after, 1)
    lu.assertEquals(others[1]:status(), "cancelled")
    lu.assertEquals(#proc.children(proc.pid()), 0)
    lu.assertStrContains(fails(p.map, p, identity, 1), "the pool is closed")
  end
end

function TestCallbacks.test_they_cannot_close_the_pool_that_calls_them()
  local p <close> = pool.new(1)
  local e
  p:submit(identity):on_done(function() e = select(2, pcall(p.close, p)) end)
  wait_for(function() p:step(0.01) return e end, "not called")
  lu.assertStrContains(e, "cannot use 'close': the pool is busy with another call")
  is_usable(p)
end

-- ---- many ----

TestMany = {}

function TestMany.test_ten_thousand_in_flight()
  local p <close> = pool.new(2)
  local futures, called = {}, 0
  for i = 1, 10000 do
    futures[i] = p:submit(square, i)
    if i % 10 == 0 then futures[i]:on_done(function() called = called + 1 end) end
  end
  for i = 10000, 1, -1 do lu.assertEquals(futures[i]:get(), i * i) end
  lu.assertEquals(called, 1000)
  lu.assertEquals(p:step(), 0)
  is_usable(p)
end

-- Cancelled in a colourful order while they run.
function TestMany.test_thousands_are_cancelled()
  local p <close> = pool.new(2)
  local futures = {}
  for i = 1, 5000 do futures[i] = p:submit(square, i) end
  local cancelled = 0
  for i = 1, 5000, 3 do if futures[i]:cancel() then cancelled = cancelled + 1 end end
  for i = 1, 5000 do
    if futures[i]:status() == "cancelled" then
      cancelled = cancelled - 1
      lu.assertEquals(i % 3, 1)
    else
      lu.assertEquals(futures[i]:get(), i * i)
    end
  end
  lu.assertEquals(cancelled, 0)
  is_usable(p)
end

-- A future that nobody keeps does its work all the same, and leaves nothing.
function TestMany.test_forgotten_futures()
  local p <close> = pool.new(2)
  local done = pool.counter(0)
  for i = 1, 3000 do
    p:submit(function() done:add(1) end)
    if i % 500 == 0 then collectgarbage() end
  end
  wait_for(function() return p:step(0.01) == 0 end, "they do not end")
  lu.assertEquals(done:get(), 3000)
  collectgarbage()
  collectgarbage()
  local before = collectgarbage("count")
  for _ = 1, 3000 do p:submit(function() done:add(1) end) end
  wait_for(function() return p:step(0.01) == 0 end, "they do not end")
  collectgarbage()
  collectgarbage()
  lu.assertTrue(collectgarbage("count") - before < 300, collectgarbage("count") - before)
end

-- ---- waiting for several ----

TestWait = {}

function TestWait.test_wait_gives_two_lists()
  sizes(function(p)
    local futures = {}
    for i = 1, 10 do futures[i] = p:submit(square, i) end
    local over, others = pool.wait(futures)
    lu.assertEquals({ #over, #others }, { 10, 0 })
    for i = 1, 10 do lu.assertIs(over[i], futures[i]) end
    over, others = pool.wait {}
    lu.assertEquals({ #over, #others }, { 0, 0 })
  end)
end

function TestWait.test_count_and_timeout()
  local p <close> = pool.new(2)
  local task, open = gate()
  local slow, quick = p:submit(task, 1), p:submit(identity, 2)
  local over, others = pool.wait({ slow, quick }, { count = 1 })
  lu.assertEquals({ #over, #others }, { 1, 1 })
  lu.assertIs(over[1], quick)
  over, others = pool.wait({ slow, quick }, { timeout = 0.05 })
  lu.assertEquals({ #over, #others }, { 1, 1 })
  over = pool.wait({ slow, quick }, { timeout = 0 })
  lu.assertEquals(#over, 1)
  over = pool.wait({ slow, quick }, { count = 0 })
  lu.assertEquals(#over, 1)
  open:add(1)
  over = pool.wait({ slow, quick }, { count = 100, timeout = math.huge })
  lu.assertEquals(#over, 2)
end

-- The same one several times counts as often.
function TestWait.test_the_same_future_twice()
  local p <close> = pool.new(1)
  for count = 1, 3 do
    local f = p:submit(function() spin(0.02) end)
    local over, others = pool.wait({ f, f, f }, { count = count })
    lu.assertEquals({ #over, #others }, { 3, 0 })
  end
  local f, seen = p:submit(spin, 0.02), 0
  for g in pool.as_completed { f, f } do
    lu.assertIs(g, f)
    seen = seen + 1
  end
  lu.assertEquals(seen, 1)
end

-- Waiting in small steps leaves nothing behind in the futures.
function TestWait.test_waiting_again_and_again()
  local p <close> = pool.new(1)
  local task, open = gate()
  local futures = {}
  for i = 1, 50 do futures[i] = p:submit(task, i) end
  pool.wait(futures, { timeout = 0 })
  collectgarbage()
  collectgarbage()
  local before = collectgarbage("count")
  for _ = 1, 300 do
    pool.wait(futures, { timeout = 0 })
    local _, _, _, closer <close> = pool.as_completed(futures)
    lu.assertNotNil(closer)
  end
  collectgarbage()
  collectgarbage()
  lu.assertTrue(collectgarbage("count") - before < 100, collectgarbage("count") - before)
  open:add(1)
  lu.assertEquals(#pool.wait(futures), 50)
end

function TestWait.test_as_completed_gives_each_in_the_order_of_their_ends()
  local p <close> = pool.new(2)
  local task, open = gate()
  local slow = p:submit(task, "slow")
  local quick = {}
  for i = 1, 10 do quick[i] = p:submit(identity, i) end
  local order = {}
  for f in pool.as_completed { slow, table.unpack(quick) } do
    order[#order + 1] = f:get()
    if #order == 10 then open:add(1) end
  end
  lu.assertEquals(order[11], "slow")
  lu.assertEquals(#order, 11)
  for i = 1, 10 do lu.assertEquals(order[i], i) end -- by the one worker that was free
end

function TestWait.test_as_completed_over_several_pools()
  local pools, futures = { pool.new(1), pool.new(2), pool.new(0) }, {}
  for i = 1, 60 do futures[i] = pools[i % 3 + 1]:submit(function(x) spin(0.001) return x end, i) end
  local seen, count = {}, 0
  for f in pool.as_completed(futures) do
    lu.assertEquals(f:status(), "done")
    lu.assertNil(seen[f])
    seen[f], count = true, count + 1
  end
  lu.assertEquals(count, 60)
  local over = pool.wait { pools[1]:submit(spin, 0.05), pools[2]:submit(spin, 0.05), pools[3]:submit(identity) }
  lu.assertEquals(#over, 3)
  for _, p in ipairs(pools) do p:close() end
end

-- One that fails does not end the loop, leaving it early is nobody's harm.
function TestWait.test_as_completed_with_failures_and_breaks()
  local p <close> = pool.new(2)
  local states = {}
  for f in pool.as_completed { p:submit(error), p:submit(die, 1), p:submit(identity) } do states[f:status()] = true end
  lu.assertEquals(states, { error = true, crashed = true, done = true })
  local futures = {}
  for i = 1, 20 do futures[i] = p:submit(identity, i) end
  for f in pool.as_completed(futures) do
    if f:get() > 0 then break end
  end
  lu.assertEquals(#pool.wait(futures), 20)
  local n = 0
  for _ in pool.as_completed {} do n = n + 1 end
  lu.assertEquals(n, 0)
end

-- ---- step ----

TestStep = {}

function TestStep.test_step_counts_what_is_open()
  local p <close> = pool.new(1)
  lu.assertEquals(p:step(), 0)
  local task, open = gate()
  local f, g = p:submit(task), p:map_async(square, 5)
  lu.assertEquals(p:step(), 2)
  open:add(1)
  wait_for(function() return p:step(0.01) == 0 end, "they do not end")
  lu.assertEquals({ f:status(), g:status() }, { "done", "done" })
  local inline <close> = pool.new(0)
  lu.assertEquals(inline:step(), 0)
end

-- With nothing to wait for, and for as long as anything may take: at once.
function TestStep.test_step_does_not_wait_for_nothing()
  local p <close> = pool.new(1)
  local before = proc.now()
  lu.assertEquals(p:step(1000), 0)
  lu.assertEquals(p:step(math.huge), 0)
  p:apply(identity)
  lu.assertEquals(p:step(1000), 0)
  p:submit(spin, 0.01)
  while p:step(math.huge) > 0 do end
  lu.assertTrue(proc.now() - before < 500)
end

-- A lazy map goes on with it.
function TestStep.test_step_feeds_lazy_sources()
  local p <close> = pool.new(2)
  local f = p:map_async(square, ways.up_to(20000), { chunk = 10 })
  wait_for(function() return p:step(0.001) == 0 end, "it does not end")
  lu.assertEquals(select(2, f:get()), 20000)
end

-- Whoever takes its results, and whenever: a lazy map is fed until its source ends.
function TestStep.test_lazy_maps_beside_futures_that_end()
  local p <close> = pool.new(2)
  for _ = 1, 100 do
    local called = 0
    for i = 1, 40 do
      p:submit(square, i):on_done(function()
        called = called + 1
        if called % 10 == 0 then p:map(square, 3) end
      end)
    end
    local f = p:map_async(square, ways.up_to(60))
    lu.assertEquals(select(2, f:get()), 60)
    wait_for(function() p:step(0.01) return called == 40 end, "not all were called")
  end
end

-- ---- ends ----

TestEnds = {}

-- What was begun is finished by close, called back, and can be had afterwards.
function TestEnds.test_close_finishes_them()
  for _, n in ipairs { 2, 0 } do
    local p = pool.new(n)
    local futures, called = {}, 0
    for i = 1, 200 do
      futures[i] = p:submit(square, i)
      futures[i]:on_done(function() called = called + 1 end)
    end
    local map = p:map_async(square, ways.up_to(500))
    lu.assertTrue(p:close())
    lu.assertEquals(called, 200)
    for i = 1, 200 do lu.assertEquals({ futures[i]:status(), futures[i]:get(), futures[i]:wait(0) }, { "done", i * i, true }) end
    lu.assertEquals(select(2, map:get()), 500)
    lu.assertFalse(futures[1]:cancel())
    lu.assertEquals(#pool.wait(futures), 200)
  end
end

-- Callbacks that begin more while the pool is closed: that is finished, too.
function TestEnds.test_close_finishes_what_callbacks_begin()
  local p = pool.new(2)
  local count = 0
  local function again()
    count = count + 1
    if count < 20 then p:submit(identity):on_done(again) end
  end
  p:submit(identity):on_done(again)
  lu.assertTrue(p:close())
  lu.assertEquals(count, 20)
end

function TestEnds.test_close_with_a_timeout_gives_up()
  local p <close> = pool.new(1)
  local task, open = gate()
  local f = p:submit(task, 5)
  lu.assertFalse(p:close(0.05))
  open:add(1)
  lu.assertEquals(f:get(), 5)
  lu.assertTrue(p:close())
end

function TestEnds.test_terminate_cancels_them()
  local p = pool.new(2)
  local done = p:submit(square, 3)
  done:wait()
  local futures, called = {}, {}
  for i = 1, 10 do
    futures[i] = p:submit(function() while true do end end)
    futures[i]:on_done(function(f) called[#called + 1] = f:status() end)
  end
  p:terminate()
  lu.assertEquals(#called, 10)
  for i = 1, 10 do
    lu.assertEquals({ called[i], futures[i]:status() }, { "cancelled", "cancelled" })
    lu.assertEquals(fails(futures[i].get, futures[i]).kind, "cancelled")
    lu.assertFalse(futures[i]:cancel())
  end
  lu.assertEquals({ done:get(), done:status() }, { 9, "done" })
  local order = 0
  for f in pool.as_completed(futures) do
    order = order + 1
    lu.assertEquals(f:status(), "cancelled")
  end
  lu.assertEquals(order, 10)
  lu.assertStrContains(fails(p.submit, p, identity), "the pool is closed")
end

-- A pool that nobody keeps but its futures lives as long as they are wanted.
function TestEnds.test_futures_keep_their_pool()
  local f
  do
    local p = pool.new(2)
    f = p:submit(function(x) spin(0.05) return x end, 7)
  end
  collectgarbage()
  collectgarbage()
  lu.assertEquals(f:get(), 7)
  f.pool:close()
end

-- Workers are killed all the time; every future comes to its end.
function TestEnds.test_workers_killed_at_random()
  local p <close> = pool.new(3)
  local futures = {}
  for i = 1, 600 do
    futures[i] = p:submit(function(x) spin(0.0003) return x, pool.worker.pid end, i)
    if i % 60 == 0 then -- (who has answered was ready: of those that are not only so many may die)
      local ok, _, pid = pcall(futures[i - 40].get, futures[i - 40])
      if ok then proc.kill(pid, "KILL") end
      p:step()
    end
  end
  local crashed = 0
  for i, f in ipairs(futures) do
    local ok, value = pcall(f.get, f)
    if ok then
      lu.assertEquals(value, i)
    else
      lu.assertEquals({ value.kind, value.signal, f:status() }, { "crash", "SIGKILL", "crashed" })
      crashed = crashed + 1
    end
  end
  lu.assertTrue(crashed <= 10, crashed)
  is_usable(p)
end

function TestEnds.test_crashes_left_out_and_tried_again()
  local p <close> = pool.new { workers = 1, on_crash = "skip" }
  lu.assertEquals(select("#", p:submit(die, 1):get()), 0)
  local q <close> = pool.new { workers = 1, on_crash = "retry", retries = 5 }
  local tries = pool.counter(0)
  lu.assertEquals(q:submit(function()
    if tries:add(1) < 3 then os.exit(1) end
    return "third"
  end):get(), "third")
end

-- A task finds what its host has begun, and may read what is over; the rest is the host's.
function TestEnds.test_in_other_processes()
  ways.needs_fork("a future cannot be sent")
  local p <close> = pool.new(1)
  local task, open = gate()
  local done = p:submit(square, 3)
  done:wait()
  local open_one = p:submit(task, 1)
  local texts = pool.map(function(k)
    if k == 1 then return done:get() end
    local act = { function() open_one:get() end, function() open_one:wait(0) end, function() open_one:cancel() end,
      function() open_one:on_done(print) end, function() pool.wait { open_one } end, function() pool.as_completed { open_one } end }
    local ok, e = pcall(act[k - 1])
    return tostring(ok) .. " " .. tostring(e)
  end, 7, { workers = 1 })
  lu.assertEquals(texts[1], 9)
  for k, name in ipairs { "get", "wait", "cancel", "on_done" } do
    lu.assertStrMatches(texts[k + 1], "false .*cannot use '" .. name .. "' here: the future belongs to process " .. proc.pid() ..
      ", this is process %d+")
  end
  for k = 6, 7 do lu.assertStrContains(texts[k], "the future belongs to another process") end
  open:add(1)
  lu.assertEquals(open_one:get(), 1)
end

-- ---- deadlines and halts ----

TestPolicies = {}

function TestPolicies.test_deadline_of_a_map()
  local p <close> = pool.new(2)
  local f = p:map_async(function() while true do end end, 5, { deadline = 0.1 })
  local e = fails(f.get, f)
  lu.assertEquals({ e.kind, f:status() }, { "timeout", "timeout" })
  is_usable(p)
  local inline <close> = pool.new(0)
  f = inline:map_async(function() spin(0.02) end, function() return 1 end, { deadline = 0.1 })
  lu.assertEquals(fails(f.get, f).kind, "timeout")
end

function TestPolicies.test_halt_of_a_map()
  sizes(function(p, n)
    for _, when in ipairs { "now", "soon" } do
      local f = p:map_async(function(x) if x == 2 then error "two" end spin(0.005) return x end, 1000,
        { halt = when .. ",fail=1", errors = "collect", chunk = 1 })
      local results, count, errors = f:get()
      lu.assertEquals({ f:status(), count, errors[2].kind, results[1000] }, { "done", 1000, "error", nil })
      f = p:map_async(function(x) spin(0.001) return x end, 1000, { halt = when .. ",success=5", chunk = 1 })
      results = f:get()
      lu.assertNil(results[1000])
      local found = 0
      for _ in pairs(results) do found = found + 1 end
      lu.assertTrue(found >= 5)
    end
    if n > 0 then is_usable(p) end
  end)
end

-- ---- interrupts ----

TestInterrupts = {}

local CAUGHT = post.TRY .. [[
local p <close> = pool.new(2)
local function endless() while true do end end
WHAT
p:cancel()
assert(#p:map(function(x) return x end, 100) == 100)
p:step()
print("interrupts", count)
]]

local WAITS = {
  get = [[local f = p:submit(endless) try(function() say "ready" f:get() end) assert(f:status() == "running" or f:status() == "pending")]],
  wait = [[local f = p:submit(endless) try(function() say "ready" pool.wait { f } end)]],
  as_completed = [[local f = p:submit(endless) try(function() say "ready" for _ in pool.as_completed { f } do end end)]],
  step = [[p:submit(endless) try(function() say "ready" while true do p:step(60) end end)]],
  close = [[p:submit(endless) try(function() say "ready" p:close() end)]],
  callback = [[local after = 0
    p:submit(math.abs, 1):on_done(function() say "ready" endless() end):on_done(function() after = after + 1 end)
    try(function() while true do p:step(60) end end)
    p:submit(math.abs, 1):on_done(function() after = after + 10 end):get()
    assert(after == 11, after)]],
  -- its map is over, and is not told of the interrupt once more
  source = [[local k = 0
    local f
    try(function()
      f = p:map_async(math.abs, function() k = k + 1 if k > 20 then say "ready" endless() end return k end)
      f:get()
    end)
    if f then
      local ok, e = pcall(f.get, f)
      assert(not ok and not is_interrupt(e) and e.kind == "cancelled" and f:status() == "cancelled")
    end]],
}

for name, code in pairs(WAITS) do
  TestInterrupts["test_in_" .. name] = function()
    local s <close> = post.start { code = CAUGHT:gsub("WHAT", function() return code end), stdin = "pipe" }
    s:await("ready")
    proc.sleep(0.05)
    s:send("group", "INT")
    s:finish { exit = 0, stdout = "interrupts\t1\n", within = 10 }
  end
end

-- At the end of the pool's scope: nobody will close it again, so it is terminated.
function TestInterrupts.test_at_the_end_of_a_scope()
  local s <close> = post.start { code = [[
    local ok, e = pcall(function()
      local p <close> = pool.new(2)
      p:submit(function() while true do end end)
      say "ready"
    end)
    assert(not ok and is_interrupt(e), tostring(e))
    print "caught"
    rest()]], stdin = "pipe" }
  s:await("ready")
  proc.sleep(0.05)
  s:send("host", "INT")
  s:await("rest")
  lu.assertEquals(#s:workers(), 0)
  s:relieve()
  s:finish { exit = 0, stdout = "caught\n", within = 10 }
end
