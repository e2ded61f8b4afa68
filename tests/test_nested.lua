-- Pools inside tasks: inline by default, with real workers where nested = true says so; nothing is left, whoever dies.
local lu = require "luaunit"
local post = require "post"
local proc = require "proc"
local pool = require "luapool"

TestInline = {}

-- Inside a task every verb gives what it gives outside, without a process of its own.
function TestInline.test_every_verb_in_a_task()
  local function all_verbs(x)
    local p <close> = pool.new(2)
    local sum, list = 0, {}
    for _, v in p:imap(function(y) return y * x end, 10) do sum = sum + v end
    for i, v in pool.imap_unordered(function(y) return y + x end, 3) do list[i] = v end
    local future = p:submit(function(a, b) return a, b end, x, nil)
    local n_results = select("#", future:get())
    return {
      sum = sum, list = list, n = n_results, map = pool.map(math.abs, { -x, x }), each = p:each(tostring, 4),
      star = p:starmap(math.max, { { x, 1 }, { x, 99 } }), filter = p:filter(function(y) return y > 2 end, 4),
      find = { p:find(function(y) return y == x end, 10) }, any = p:any(function(y) return y == 20 end, 10),
      all = p:all(function(y) return y < 20 end, 10), fold = p:reduce(math.max, { 4, 9, x }), apply = p:apply(math.abs, -x),
      later = #p:map_async(tostring, 5):get(), workers = #p:workers(),
    }
  end
  local inside = pool.map(all_verbs, { 7 }, { workers = 1 })[1]
  lu.assertEquals(inside, {
    sum = 385, list = { 8, 9, 10 }, n = 2, map = { 7, 7 }, each = 4, star = { 7, 99 }, filter = { 3, 4 }, find = { 7, 7 }, any = false,
    all = true, fold = 9, apply = 7, later = 5, workers = 0,
  })
  local outside = all_verbs(7)
  inside.workers, outside.workers = nil, nil
  lu.assertEquals(outside, inside)
end

TestNested = {}

function TestNested.test_real_workers()
  local r = pool.map(function(x)
    local p <close> = pool.new { workers = 2, nested = true }
    local pids = {}
    for _, pid in ipairs(p:map(function() return require "luapool".worker.pid end, 20, { chunk = 1 })) do pids[pid] = true end
    local mine = pool.worker.pid
    local living = #p:workers()
    return { not pids[mine], living >= 1, p:reduce(function(a, b) return a + b end, x * 100) }
  end, 3, { workers = 3 })
  for x = 1, 3 do lu.assertEquals(r[x], { true, true, x * 100 * (x * 100 + 1) // 2 }) end
end

-- A recursion that asks for workers at every level ends: beyond the limit pools are inline.
function TestNested.test_the_depth_is_limited()
  local function depth(n)
    if n == 0 then return 0 end
    local is_inline = #pool.map(function() return 1 end, 1, { workers = 1, nested = true }) == 1 and pool.worker and pool.worker.id == 0
    if is_inline then return 0 end
    local r = pool.map(function() return { depth(n - 1), pool.worker.pid } end, 1, { workers = 1, nested = true })[1]
    local here = pool.worker and pool.worker.pid or 0
    return r[1] + (r[2] ~= here and 1 or 0)
  end
  local n = depth(7)
  lu.assertTrue(n >= 2 and n <= 4, tostring(n))
end

function TestNested.test_errors_come_through_both_levels()
  local ok, e = pcall(pool.map, function(x)
    return pool.map(function(y) error { code = x * 10 + y } end, 1, { workers = 1, nested = true })
  end, { 4 }, { workers = 1 })
  lu.assertFalse(ok)
  lu.assertEquals(e.kind, "error")
  lu.assertEquals(e.value.value, { code = 41 })
end

function TestNested.test_a_dead_inner_worker_costs_its_item()
  local r = pool.map(function()
    local results, _, errors = pool.map(function(y)
      if y == 3 then os.exit(5) end
      return y
    end, 5, { workers = 2, nested = true, errors = "collect" })
    return { results[1], results[5], errors[3].kind, errors[3].exitcode }
  end, 2, { workers = 2 })
  for i = 1, 2 do lu.assertEquals(r[i], { 1, 5, "crash", 5 }) end
end

function TestNested.test_a_time_limit_of_the_outer_call_stops_the_inner_workers()
  local p <close> = pool.new { workers = 1, grace = 5 }
  local ok, e = pcall(p.map, p, function()
    return pool.map(function() while true do end end, 2, { workers = 2, nested = true })
  end, 1, { timeout = 1 })
  lu.assertFalse(ok)
  lu.assertEquals(e.kind, "timeout")
  lu.assertEquals(p:apply(function() return "usable" end), "usable")
end

local BUSY = [[
  pool.map(function()
    return pool.map(function() say "ready" while true do end end, 2, { workers = 2, nested = true })
  end, 2, { workers = 2 })]]

TestEnds = {}

local function await_inner(s)
  for _ = 1, 2 do s:await("ready", 2) end
end

function TestEnds.test_ctrl_c_leaves_nothing()
  for _, whom in ipairs { "group", "host" } do
    local s <close> = post.start { code = BUSY }
    await_inner(s)
    s:send(whom, "INT")
    s:finish { signal = "SIGINT", stdout = "" }
  end
end

function TestEnds.test_kill_of_the_host_leaves_nothing()
  local s <close> = post.start { code = BUSY }
  await_inner(s)
  s:send("host", "KILL")
  s:finish { signal = "SIGKILL" }
end

-- The inner workers of a killed outer worker go with it, and its item is lost like any other.
function TestEnds.test_kill_of_an_outer_worker()
  local s <close> = post.start { code = [[
    local p <close> = pool.new(1)
    local _, _, errors = p:map(function(x)
      if x == 2 then return x end
      return pool.map(function() say "ready" while true do end end, 2, { workers = 2, nested = true })
    end, 2, { errors = "collect" })
    print(errors[1].kind, errors[1].signal)]] }
  s:await("ready", 2)
  local outer
  for _, child in ipairs(proc.children(s.child.pid)) do outer = outer or child.pid end
  lu.assertTrue(proc.kill(outer, "KILL"))
  s:finish { exit = 0, stdout = "crash\tSIGKILL\n" }
end
