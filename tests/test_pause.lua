-- p:pause and p:resume, and the options load and memfree: who begins nothing any more, what waits, and what goes on.
local lu = require "luaunit"
local proc = require "proc"
local post = require "post"
local pool = require "luapool"
local ways = require "ways"

-- Let the pool do what it would do, for a while.
local function let_it_run(p, seconds)
  local until_ = proc.now() + seconds
  while proc.now() < until_ do p:step(0.01) end
end

TestPause = {}

function TestPause.test_nothing_begins_until_it_is_resumed()
  for _, start in ipairs { "fork", "server" } do
    local p <close> = pool.new { workers = 2, start = start }
    local begun = pool.counter()
    p:map(function(i) return i end, 4) -- they live
    p:pause()
    p:pause()
    local list = {}
    for i = 1, 10 do list[i] = p:submit(function() begun:add() return i end) end
    let_it_run(p, 0.1)
    lu.assertEquals({ begun:get(), list[1]:status() }, { 0, "pending" })
    lu.assertEquals({ list[1]:get(0.02) }, { nil, "timeout" })
    p:resume()
    p:resume()
    for i = 1, 10 do lu.assertEquals(list[i]:get(), i) end
    lu.assertEquals(begun:get(), 10)
  end
end

-- Also one that was paused before it had any worker.
function TestPause.test_before_the_workers_live()
  local p <close> = pool.new(2)
  p:pause()
  local f = p:map_async(function(i) return i end, 100)
  let_it_run(p, 0.1)
  lu.assertEquals(f:status(), "pending")
  p:resume()
  lu.assertEquals(#f:get(), 100)
end

-- What runs comes to its end, and its result arrives; the next item waits.
function TestPause.test_what_runs_comes_to_its_end()
  local p <close> = pool.new(1)
  local gate, begun = pool.channel(), pool.counter()
  local f = p:map_async(function(i) begun:add() gate:receive() return i end, 5, { chunk = 1 })
  while begun:get() == 0 do p:step(0.01) end
  p:pause()
  for _ = 1, 5 do gate:send(true) end
  ways.wait_for(function() p:step(0.01) return p:stats().items > 0 end, "its result")
  let_it_run(p, 0.1)
  lu.assertEquals({ begun:get(), #gate, p:stats().items }, { 1, 4, 1 })
  p:resume()
  lu.assertEquals(f:get(), { 1, 2, 3, 4, 5 })
end

-- A call that blocks waits for somebody who resumes: here a callback.
function TestPause.test_a_callback_resumes()
  local p <close> = pool.new(1)
  local gate, begun = pool.channel(), pool.counter()
  local f = p:submit(function() begun:add() gate:receive() end)
  f:on_done(function() p:resume() end)
  while begun:get() == 0 do p:step(0.01) end
  p:pause()
  gate:send(true)
  lu.assertEquals((p:map(function(i) return i end, 3)), { 1, 2, 3 })
  lu.assertEquals(p:broadcast(function() return 7 end), { 7 })
end

function TestPause.test_cancel_deadline_and_resize_meanwhile()
  local p <close> = pool.new(2)
  local begun = pool.counter()
  p:map(function(i) return i end, 4)
  p:pause()
  local f, g = p:submit(function() begun:add() end), p:map_async(function() begun:add() end, 100)
  lu.assertTrue(f:cancel())
  p:cancel()
  lu.assertEquals({ f:status(), g:status() }, { "cancelled", "cancelled" })
  local ok, e = pcall(p.map, p, function() begun:add() end, 10, { deadline = 0.05 })
  lu.assertEquals({ ok, e.kind }, { false, "timeout" })
  p:resize(3)
  lu.assertEquals(begun:get(), 0)
  p:resume()
  lu.assertEquals(#p:map(function(i) return i end, 10), 10)
end

function TestPause.test_the_end_of_a_paused_pool()
  local p = pool.new(2)
  p:pause()
  local f = p:submit(function() return 5 end)
  lu.assertTrue(p:close())
  lu.assertEquals(f:get(), 5)
  local q = pool.new(2)
  q:pause()
  f = q:submit(function() return 5 end)
  q:terminate()
  lu.assertEquals(f:status(), "cancelled")
end

-- A worker that waits for the end of a pause uses no processor, and is not taken for idle.
function TestPause.test_waiting_costs_nothing()
  local p <close> = pool.new { workers = 1, idle_timeout = 0.3 }
  p:apply(function() end)
  local begun = proc.now()
  local pid = p:apply(function() return pool.worker.pid end)
  p:pause()
  if proc.now() - begun > 0.2 then pid = nil end -- it may have left before the pause, and nobody else is to be measured
  local f = p:submit(function() return pool.worker.pid end)
  let_it_run(p, 0.1)
  local before = pid and proc.stat(pid)
  let_it_run(p, 0.5)
  if pid then
    local now = proc.stat(pid)
    lu.assertNotNil(now)
    lu.assertTrue(now.utime + now.stime - before.utime - before.stime < 0.2)
  end
  p:resume()
  lu.assertEquals(math.type(f:get()), "integer")
end

function TestPause.test_inline_pools_closed_ones_and_other_receivers()
  local p = pool.new(0)
  p:pause()
  lu.assertEquals((p:map(function(i) return i end, 2)), { 1, 2 })
  p:resume()
  p:close()
  lu.assertErrorMsgContains("cannot use 'pause': the pool is closed", p.pause, p)
  lu.assertErrorMsgContains("cannot use 'resume': the pool is closed", p.resume, p)
  lu.assertErrorMsgContains("bad argument #1 to 'pause' (pool expected, got nil; write p:pause(...))", p.pause)
end

function TestPause.test_a_call_that_waits_is_interrupted()
  local s <close> = post.start { code = [[
    local p = pool.new(2)
    p:pause()
    local ok, e = pcall(function() say "waiting" return p:map(function(i) return i end, 10) end)
    print(ok, is_interrupt(e))
    p:resume()
    print(#p:map(function(i) return i end, 10))
    p:close()]] }
  s:await "waiting"
  s:send "host"
  s:finish { exit = 0, stdout = "false\ttrue\n10\n" }
end

-- ---- a machine that is busy ----

TestGate = {}

local function can_tell()
  lu.skipIf(not pcall(pool.new, { workers = 0, load = 1 }), "the system does not tell how many processes run")
end

function TestGate.test_nothing_begins_while_memory_is_short()
  can_tell()
  for _, start in ipairs { "fork", "server" } do
    local p <close> = pool.new { workers = 2, memfree = "60T", start = start }
    local begun = pool.counter()
    local f = p:map_async(function() begun:add() end, 100)
    let_it_run(p, 0.3)
    lu.assertEquals({ begun:get(), f:status() }, { 0, "pending" })
    lu.assertTrue(f:cancel())
    let_it_run(p, 0.3) -- what is not wanted any more is waited for by nobody
    local before = os.clock()
    lu.assertEquals({ p:submit(function() begun:add() end):get(0.05) }, { nil, "timeout" })
    lu.assertTrue(os.clock() - before < 30)
    p:terminate()
    lu.assertEquals(begun:get(), 0)
  end
end

function TestGate.test_waiting_there_costs_little()
  can_tell()
  local p <close> = pool.new { workers = 1, memfree = "60T" }
  local f, g = p:submit(function() end), p:submit(function() end)
  let_it_run(p, 0.2)
  local pid = p:workers()[1].pid
  local before = proc.stat(pid)
  let_it_run(p, 0.5)
  f:cancel()
  g:cancel()
  let_it_run(p, 0.5)
  local now = proc.stat(pid)
  lu.assertTrue(now.utime + now.stime - before.utime - before.stime < 0.3)
  p:terminate()
end

-- This process runs all the time.
function TestGate.test_nothing_begins_while_others_run()
  can_tell()
  local p = pool.new { workers = 2, load = 0.001 }
  local begun = pool.counter()
  local f = p:map_async(function() begun:add() end, 10)
  local until_ = proc.now() + 0.5
  while proc.now() < until_ do p:step(0) end
  lu.assertEquals({ begun:get(), f:status() }, { 0, "pending" })
  p:terminate()
end

function TestGate.test_an_open_gate_is_in_nobody_s_way()
  can_tell()
  for _, options in ipairs { { load = 1e6 }, { load = "100000%" }, { memfree = 1 }, { memfree = "1K", load = 1e6 } } do
    options.workers = 2
    local p <close> = pool.new(options)
    lu.assertEquals(#p:map(function(i) return i end, 1000), 1000)
    lu.assertEquals(#pool.map(function(i) return i end, 10, options), 10)
  end
end
