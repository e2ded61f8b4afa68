-- Work on many machines, thousands of them: the real code of the script's side in a simulated cluster (sim/world).
-- All times here are simulated: they do not depend on the machine that runs the tests.
local lu = require "luaunit"
local World = require "sim.world"
local costs = require "sim.costs"

local function task() end

-- A cluster whose script maps over n items; values are 2 * i. Returns the world, results, n and errors of handle:run.
local function map(n, options)
  options.value = options.value or function(i) return 2 * i end
  local world = World.new(options)
  return world, world:run(function(handle) return handle:run(task, "range", 1, 1, n, options.call or {}) end)
end

-- The same, and nothing comes back.
local function each(n, options)
  local world = World.new(options)
  world.is_discarding = true
  world:run(function(handle) return handle:run(task, "range", 1, 1, n, { discard = true }) end)
  lu.assertEquals({ world:is_complete(n) }, { true })
  return world:report(), world
end

local function assert_doubled(results, n)
  lu.assertEquals(#results, n)
  for i = 1, n do
    if results[i] ~= 2 * i then lu.assertEquals(results[i], 2 * i) end
  end
end

local function limits_of_plan(world) return world.parts.plan.limits end

local DISTRIBUTIONS <const> = { "constant", "uniform", "heavy", "rising", "falling" }

-- ---- efficiency ----

TestEfficiency = {}

function TestEfficiency.test_a_thousand_nodes_and_items_of_a_millisecond()
  for _, latency in ipairs { 50e-6, 1e-3 } do
    local n = 1000 * 64 * 1500 -- 1.5 seconds of work
    local report = each(n, { nodes = 1000, workers = 64, latency = latency, cost = costs.constant(1e-3) })
    lu.assertTrue(report.efficiency >= 0.9, ("latency %g: %.3f"):format(latency, report.efficiency))
    lu.assertTrue(report.script < 0.5 and report.relay < 0.5)
  end
end

-- The best that any schedule could reach: the job takes as long as its longest item, at least.
local function best_efficiency(cost, n, workers)
  local sum, longest = 0.0, 0.0
  for i = 1, n do
    local seconds = cost.item(i)
    sum, longest = sum + seconds, math.max(longest, seconds)
  end
  return sum / workers / math.max(sum / workers, longest)
end

function TestEfficiency.test_whatever_items_cost()
  for _, name in ipairs(DISTRIBUTIONS) do
    for mean, least in pairs { [10e-6] = 0.9, [1e-3] = 0.9, [0.1] = 0.8 } do
      local n = (20 * 16 * 4 / mean) // 1 | 0
      local cost = costs[name](mean, n)
      if name == "heavy" then least = mean < 0.1 and 0.5 or 0.9 * best_efficiency(cost, n, 20 * 16) end
      local report = each(n, { nodes = 20, workers = 16, latency = 1e-3, cost = cost })
      lu.assertTrue(report.efficiency >= least, ("%s, %g s: %.3f of %.3f"):format(name, mean, report.efficiency, least))
    end
  end
end

function TestEfficiency.test_far_away()
  local report = each(100 * 64 * 5000, { nodes = 100, workers = 64, latency = 50e-3, cost = costs.constant(1e-3) })
  lu.assertTrue(report.efficiency >= 0.7, ("%.3f"):format(report.efficiency))
end

function TestEfficiency.test_as_many_items_as_workers()
  for _, rounds in ipairs { 1, 2, 3 } do -- nobody has two to do while another has none
    local n = 100 * 8 * rounds
    local report = each(n, { nodes = 100, workers = 8, latency = 1e-3, cost = costs.constant(1) })
    lu.assertTrue(report.efficiency >= 0.9, ("%d rounds: %.3f"):format(rounds, report.efficiency))
  end
end

function TestEfficiency.test_a_few_items_are_spread()
  local _, world = each(50, { nodes = 100, workers = 8, latency = 1e-3, cost = costs.constant(1) })
  lu.assertEquals(world.most.items, 1)
end

-- Nothing that is done for a batch, or for a task, takes longer with more nodes.
function TestEfficiency.test_the_script_works_no_more_for_more_nodes()
  local function per_batch(nodes)
    local n = nodes * 8 * 1000
    local report = each(n, { nodes = nodes, workers = 8, latency = 1e-3, cost = costs.constant(1e-3) })
    return report.script * report.seconds / report.batches
  end
  local few, many = per_batch(20), per_batch(500)
  lu.assertTrue(many < 1.5 * few, ("%.1f us with 20 nodes, %.1f us with 500"):format(few * 1e6, many * 1e6))
end

function TestEfficiency.test_single_tasks_neither()
  local function per_task(nodes)
    local world = World.new { nodes = nodes, workers = 2, latency = 1e-3, cost = costs.constant(1e-3) }
    local N <const> = 2000
    world:run(function(handle)
      local calls = {}
      for i = 1, N do calls[i] = handle:submit({}, task, i) end
      for i = 1, N do
        while calls[i]:status() == "running" or calls[i]:status() == "pending" do handle:turn(1) end
        lu.assertEquals(calls[i]:status(), "done")
      end
    end)
    local report = world:report()
    return report.script * report.seconds / N
  end
  local few, many = per_task(100), per_task(1000)
  lu.assertTrue(many < 1.5 * few, ("%.1f us with 100 nodes, %.1f us with 1000"):format(few * 1e6, many * 1e6))
end

-- A node whose batch has one item left that takes long has other work for its other workers.
function TestEfficiency.test_a_slow_item_holds_nobody_up()
  local slow = { item = function(i) return i % 5000 == 77 and 1.0 or 1e-3 end }
  function slow.total(first, n)
    local count = (first + n - 1 - 77) // 5000 - (first - 1 - 77) // 5000
    return n * 1e-3 + count * 0.999, count > 0 and 1.0 or 1e-3
  end
  local report = each(10 * 16 * 5000, { nodes = 10, workers = 16, latency = 1e-3, cost = slow })
  lu.assertTrue(report.efficiency >= 0.8, ("%.3f"):format(report.efficiency))
end

-- ---- results ----

TestResults = {}

function TestResults.test_every_item_once_in_its_place()
  for _, name in ipairs(DISTRIBUTIONS) do
    for _, n in ipairs { 1, 7, 1000, 50000 } do
      local world, results, count = map(n, { nodes = 13, workers = 4, latency = 1e-3, cost = costs[name](1e-3, n) })
      assert_doubled(results, n)
      lu.assertEquals(count, n)
      lu.assertEquals({ world:is_complete(n) }, { true })
    end
  end
end

-- What a loop over a stream sees, as a list of items.
local function stream(world, n, mode, options, at_frame)
  return world:run(function(handle)
    local call, seen = handle:begin(task, "range", 1, 1, n, options or {}, mode), {}
    while true do
      local values, first, count = call:next()
      if values == nil then break end
      for k = 1, count do seen[#seen + 1] = { first + k - 1, values[k] } end
      if at_frame then at_frame(call) end
    end
    return seen
  end)
end

function TestResults.test_streams_keep_the_order()
  for _, losses in ipairs { {}, { { at = 0.05, rank = 3 }, { at = 0.2, rank = 5 } } } do
    local world = World.new { nodes = 10, workers = 4, latency = 1e-3, cost = costs.heavy(1e-3), value = function(i) return 2 * i end,
      losses = losses, lost_after = 1 }
    local seen = stream(world, 20000, "ordered")
    lu.assertEquals(#seen, 20000)
    for i, pair in ipairs(seen) do
      if pair[1] ~= i or pair[2] ~= 2 * i then lu.assertEquals(pair, { i, 2 * i }) end
    end
  end
end

function TestResults.test_streams_without_order_miss_nothing()
  local world = World.new { nodes = 10, workers = 4, latency = 1e-3, cost = costs.heavy(1e-3), value = function(i) return 2 * i end,
    losses = { { at = 0.1, rank = 0 } }, lost_after = 1 }
  local seen, is_there = stream(world, 20000, "unordered"), {}
  for _, pair in ipairs(seen) do
    lu.assertNil(is_there[pair[1]])
    is_there[pair[1]] = true
  end
  lu.assertEquals(#seen, 20000)
end

function TestResults.test_several_maps_at_a_time()
  local world = World.new { nodes = 10, workers = 4, latency = 1e-3, cost = costs.uniform(1e-3), value = function(i) return 2 * i end }
  world:run(function(handle)
    local calls = {}
    for i = 1, 5 do calls[i] = handle:begin(task, "range", 1, 1, 5000 * i, {}, "table") end
    while handle:pending() > 0 do handle:turn(1) end
    for i, call in ipairs(calls) do
      lu.assertEquals(call:status(), "done")
      assert_doubled((call:outcome()), 5000 * i)
    end
  end)
end

function TestResults.test_what_is_left_of_a_cancelled_call_disturbs_nobody()
  local world = World.new { nodes = 10, workers = 4, latency = 1e-3, cost = costs.constant(1e-3), value = function(i) return 2 * i end }
  world:run(function(handle)
    local call = handle:begin(task, "range", 1, 1, 1000000, {}, "table")
    for _ = 1, 50 do handle:turn(0.01) end
    call:cancel()
    assert_doubled(handle:run(task, "range", 1, 1, 3000, {}), 3000)
    call:stop()
    for _, node in pairs(world.cluster.fleet.nodes) do
      lu.assertEquals({ node.n_items, node.n_batches, node.n_bytes, next(node.batches) }, { 0, 0, 0 })
    end
    lu.assertEquals(world.cluster.fleet.n_bytes, 0)
    lu.assertNil(next(world.cluster.fleet.watchers))
    lu.assertNil(next(world.cluster.attended))
  end)
end

-- ---- bounds ----

TestBounds = {}

function TestBounds.test_chunks_in_flight()
  for _, mean in ipairs { 1e-3, 1 } do
    local n = (50 * 16 * 20 / mean) // 1 | 0
    local _, world = each(n, { nodes = 50, workers = 16, latency = 50e-3, cost = costs.uniform(mean) })
    lu.assertTrue(world.most.batches <= 2, world.most.batches)
    lu.assertTrue(mean < 1 or world.most.items <= 4 * 16, world.most.items)
  end
end

function TestBounds.test_bytes_in_flight()
  local MB <const> = 1 << 20
  local world = map(20000, { nodes = 100, workers = 16, latency = 1e-3, cost = costs.constant(0.1), value_bytes = MB })
  local limits = world.parts.fleet.limits
  lu.assertTrue(world.most.node_bytes <= limits.node_bytes + MB)
  lu.assertTrue(world.most.bytes <= limits.all_bytes + limits_of_plan(world).bytes)
  lu.assertTrue(world.most.bytes > limits.all_bytes / 2)
  lu.assertEquals({ world:is_complete(20000) }, { true })
end

function TestBounds.test_a_slow_loop_slows_the_nodes()
  for _, mode in ipairs { "ordered", "unordered" } do
    for _, buffer in ipairs { 1, 64, 1000 } do
      local world, most = World.new { nodes = 10, workers = 4, latency = 1e-3, cost = costs.uniform(1e-3) }, 0
      local seen = stream(world, 3000, mode, { buffer = buffer }, function(call)
        world:compute(5e-3)
        most = math.max(most, call.plan.issued - call.plan.delivered)
      end)
      lu.assertEquals(#seen, 3000)
      lu.assertTrue(most <= buffer, ("%s: %d items ahead, %d were allowed"):format(mode, most, buffer))
    end
  end
end

function TestBounds.test_a_stream_of_large_results_is_not_far_ahead()
  local KB <const> = 1 << 10
  local world, most = World.new { nodes = 50, workers = 16, latency = 1e-3, cost = costs.constant(1e-3), value_bytes = 100 * KB }, 0
  stream(world, 30000, "ordered", {}, function(call)
    world:compute(1e-3)
    if call.plan.per_bytes then most = math.max(most, (call.plan.issued - call.plan.delivered) * call.plan.per_bytes) end
  end)
  local limit = limits_of_plan(world).ahead_bytes
  lu.assertTrue(most <= 1.5 * limit, ("%.0f MB"):format(most / KB ^ 2))
end

-- ---- losses ----

TestLosses = {}

-- The first `count` of the nodes in an order that looks random are lost at moments that look so.
local function random_losses(seed, nodes, count, seconds)
  local ranks, losses = {}, {}
  for rank = 0, nodes - 1 do ranks[#ranks + 1] = rank end
  table.sort(ranks, function(a, b) return costs.noise(a, seed) < costs.noise(b, seed) end)
  for i = 1, count do losses[i] = { at = costs.noise(i, seed + 100) * seconds, rank = ranks[i] } end
  return losses
end

function TestLosses.test_any_nodes_at_any_time()
  for seed = 1, 12 do
    local nodes = 2 + seed * 4
    local losses = random_losses(seed, nodes, 1 + (nodes - 1) * seed // 42, 1.5)
    local n = nodes * 4 * 1000
    local world, results = map(n, { nodes = nodes, workers = 4, latency = 1e-3, cost = costs[DISTRIBUTIONS[seed % 5 + 1]](1e-3, n),
      losses = losses, lost_after = 0.5 })
    assert_doubled(results, n)
    lu.assertEquals({ world:is_complete(n) }, { true }, ("seed %d, %d of %d nodes lost"):format(seed, #losses, nodes))
  end
end

function TestLosses.test_all_but_one()
  local nodes = 20
  local _, results = map(20000, { nodes = nodes, workers = 4, latency = 1e-3, cost = costs.constant(1e-3), lost_after = 0.2,
    losses = random_losses(5, nodes, nodes - 1, 0.2) })
  assert_doubled(results, 20000)
end

-- How well the workers that live are used, of the time that each of them has lived: what was begun at a node that is lost is done again.
-- verb: "each", or "imap".
local function with_losses(verb, nodes, n, losses, lost_after)
  local world = World.new { nodes = nodes, workers = 4, latency = 1e-3, cost = costs.uniform(20e-3), losses = losses,
    lost_after = lost_after }
  world.is_discarding = verb == "each"
  world:run(function(handle)
    if verb == "each" then return handle:run(task, "range", 1, 1, n, { discard = true }) end
    local call, taken = handle:begin(task, "range", 1, 1, n, {}, "ordered"), 0
    repeat
      local values, first, count = call:next()
      if first then
        lu.assertEquals(first, taken + 1)
        taken = taken + count
      end
    until not (values or first)
    lu.assertEquals(taken, n)
  end)
  lu.assertEquals({ world:is_complete(n) }, { true })
  return world:report().efficiency
end

local SIZES <const> = { { 3, 1 }, { 10, 3 }, { 50, 10 }, { 150, 50 } } -- so many nodes, and so many of them lost

-- A process that dies takes its connections with it.
function TestLosses.test_what_is_noticed_at_once_costs_little()
  for i, size in ipairs(SIZES) do
    local nodes, lost = table.unpack(size)
    for _, verb in ipairs { "each", "imap" } do
      local efficiency = with_losses(verb, nodes, nodes * 4 * 200, random_losses(i, nodes, lost, 4), 0.02)
      lu.assertTrue(efficiency >= 0.93, ("%s, %d of %d nodes lost: %.3f"):format(verb, lost, nodes, efficiency))
    end
  end
end

-- A node falls silent in the first half of a job: the others go on meanwhile, also in a stream whose loop waits for what that node has.
function TestLosses.test_silence_holds_nobody_up()
  for i, size in ipairs(SIZES) do
    local nodes, lost = table.unpack(size)
    for _, verb in ipairs { "each", "imap" } do
      local efficiency = with_losses(verb, nodes, nodes * 4 * 400, random_losses(i, nodes, lost, 2), 2)
      lu.assertTrue(efficiency >= 0.9, ("%s, %d of %d nodes lost: %.3f"):format(verb, lost, nodes, efficiency))
    end
  end
end

-- Many batches are lost several times by bad luck: nobody is to blame.
function TestLosses.test_bad_luck_blames_nobody()
  local nodes, losses = 200, {}
  for rank = 1, nodes - 1 do losses[rank] = { at = rank * 0.05, rank = rank } end
  local world, results = map(100000, { nodes = nodes, workers = 2, latency = 1e-3, cost = costs.constant(20e-3), lost_after = 0.3,
    losses = losses })
  assert_doubled(results, 100000)
  lu.assertEquals({ world:is_complete(100000) }, { true })
end

function TestLosses.test_all()
  local losses = random_losses(3, 5, 5, 0.3)
  local ok, e = pcall(map, 1000000, { nodes = 5, workers = 4, latency = 1e-3, cost = costs.constant(1e-3), lost_after = 1,
    losses = losses })
  lu.assertFalse(ok)
  lu.assertStrContains(tostring(e), "all nodes are lost")
end

-- ---- blame: which items are done again, and in what pieces ----

TestBlame = {}

local function new_plan(n_nodes, total)
  local world = World.new { nodes = 0, workers = 4, cost = costs.constant(1) }
  local fleet = world.parts.fleet.new()
  for rank = 0, n_nodes - 1 do fleet:join(fleet:add(rank), 4) end
  local plan = world.parts.plan.new(fleet, total, {}, { auto_workers = true }, false)
  plan:open()
  return plan, fleet
end

-- A batch that has the item is lost with its node, until the item is blamed.
function TestBlame.test_an_item_that_ends_nodes_is_found()
  for _, total in ipairs { 1, 40, 3000, 100000 } do
    local plan, fleet = new_plan(400, total)
    plan:learn(fleet.nodes[0], { n = 4 }, 1e-6, 10, 0.0)
    local item, n_lost, blamed = total // 2 + 1, 0, nil
    while not blamed do
      local batch = fleet:track(plan:next_node(), plan:take())
      if item < batch.first or item >= batch.first + batch.n then
        fleet:untrack(batch)
      else
        n_lost, batch.is_seen = n_lost + 1, true
        lu.assertEquals(fleet:leave(batch.node), { batch })
        if not plan:lost(batch) then blamed = batch end
      end
    end
    lu.assertEquals({ blamed.first, blamed.n }, { item, 1 })
    lu.assertTrue(n_lost <= 5)
  end
end

function TestBlame.test_what_was_lost_is_done_first_and_in_order()
  local plan, fleet = new_plan(3, 1000)
  local batches = {}
  for i = 1, 3 do batches[i] = fleet:track(plan:next_node(), plan:take()) end
  for i = 1, 2 do
    for _, batch in ipairs(fleet:leave(batches[i].node)) do lu.assertTrue(plan:lost(batch)) end
  end
  local next_item = 1
  while next_item <= batches[2].first + batches[2].n - 1 do
    fleet:untrack(batches[3])
    plan:next_node()
    batches[3] = plan:take()
    lu.assertEquals(batches[3].first, next_item)
    next_item = next_item + batches[3].n
    fleet:track(fleet.up[1], batches[3])
  end
end
