-- Random numbers: workers differ without a seed; with one, item i sees the same stream whatever the workers, chunks and crashes.
local lu = require "luaunit"

local function draw(x)
  return ("%d %d %.17g"):format(x, math.random(0), math.random())
end

TestRandom = {}

function TestRandom.test_seeded_numbers_do_not_depend_on_workers_or_chunks()
  local expected = pool.map(draw, 200, { workers = 1, seed = 42 })
  for _, workers in ipairs { 0, 1, 2, 16 } do
    for _, chunk in ipairs { 1, 7, 1000, "auto" } do
      local p <close> = pool.new { workers = workers, seed = 42, chunk = chunk }
      for round = 1, 2 do -- forked with the function, then sent
        lu.assertEquals(p:map(draw, 200), expected, ("%d workers, chunk %s, call %d"):format(workers, chunk, round))
      end
    end
  end
end

function TestRandom.test_every_source_gives_the_same_numbers()
  local expected = pool.map(draw, 50, { workers = 2, seed = 7 })
  local items, i = {}, 0
  for k = 1, 50 do items[k] = k end
  local p <close> = pool.new { workers = 2, seed = 7 }
  lu.assertEquals(p:map(draw, pool.range(1, 50)), expected)
  lu.assertEquals(p:map(draw, items), expected)
  lu.assertEquals(p:map(draw, function()
    i = i + 1
    return i <= 50 and i or nil
  end), expected)
end

function TestRandom.test_seeds_differ()
  local one = pool.map(draw, 20, { workers = 1, seed = 1 })
  local two = pool.map(draw, 20, { workers = 1, seed = 2 })
  for i = 1, 20 do lu.assertNotEquals(one[i], two[i]) end
end

function TestRandom.test_items_differ()
  local numbers, seen = pool.map(function() return math.random(0) end, 1000, { workers = 2, seed = 5 }), {}
  for i = 1, 1000 do
    lu.assertNil(seen[numbers[i]])
    seen[numbers[i]] = true
  end
end

-- An item that is tried again, in the same worker or in a fresh one, draws what it drew before.
function TestRandom.test_the_same_after_a_crash_and_after_an_error()
  local expected = pool.map(draw, 30, { workers = 1, seed = 9 })
  for _, way in ipairs { "exit", "error" } do
    local mark = os.tmpname()
    os.remove(mark)
    local results = pool.map(function(x)
      if x == 11 then
        local numbers = draw(x)
        local f = io.open(mark)
        if f then
          f:close()
          return numbers
        end
        io.open(mark, "w"):close()
        if way == "exit" then os.exit(1) else error("again") end
      end
      return draw(x)
    end, 30, { workers = 2, seed = 9, on_crash = "retry", retries = 2 })
    os.remove(mark)
    lu.assertEquals(results, expected, way)
  end
end

function TestRandom.test_inline_after_an_error()
  local expected = pool.map(draw, 5, { workers = 1, seed = 9 })
  local tries = 0
  local results = pool.map(function(x)
    if x == 3 then
      tries = tries + 1
      math.random()
      if tries == 1 then error("again") end
      return expected[3]
    end
    return draw(x)
  end, 5, { workers = 0, seed = 9, retries = 1 })
  lu.assertEquals(results, expected)
  local drawn = {}
  pcall(pool.map, function()
    drawn[#drawn + 1] = math.random(0)
    error("again")
  end, 1, { workers = 0, seed = 9, retries = 1 })
  lu.assertEquals(#drawn, 2)
  lu.assertEquals(drawn[1], drawn[2])
end

function TestRandom.test_without_a_seed_everything_differs()
  for _, chunk in ipairs { 1, "auto" } do
    local seen = {}
    for _ = 1, 3 do -- three pools, forked from the same host
      local p <close> = pool.new { workers = 4, chunk = chunk }
      for _ = 1, 2 do
        for _, number in ipairs((p:map(function() return math.random(0) end, 200))) do
          lu.assertNil(seen[number])
          seen[number] = true
        end
      end
    end
  end
end

function TestRandom.test_the_numbers_of_the_host_are_left_alone()
  math.randomseed(77)
  local expected = { math.random(0), math.random(0) }
  math.randomseed(77)
  local first = math.random(0)
  pool.map(draw, 10, { workers = 2, seed = 3 })
  lu.assertEquals({ first, math.random(0) }, expected)
  math.randomseed()
end

function TestRandom.test_a_task_may_seed_for_itself()
  local p <close> = pool.new { workers = 2, seed = 3 }
  local results = p:map(function(x)
    math.randomseed(x % 2)
    return math.random(0)
  end, 20)
  for i = 3, 20 do lu.assertEquals(results[i], results[i - 2]) end
end
