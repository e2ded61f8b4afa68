-- Verbs: starmap, each, filter, find, any, all, reduce (and what map, apply share with them), in every way in which they can be called:
-- their results, early ends, failures, policies, and what is refused, in which words and at whose line.
local lu = require "luaunit"
local proc = require "proc"
local ways = require "ways"

local up_to, spin = ways.up_to, ways.spin
local fails, refused, is_usable = ways.fails, ways.refused, ways.is_usable

local function identity(x) return x end
local function is_even(x) return x % 2 == 0 end
local function add(a, b) return a + b end

-- The same items in every kind of source.
local function sources(n)
  local items, array = {}, pool.array("i64", n)
  for i = 1, n do items[i], array[i] = i, i end
  return { n, pool.range(1, n), items, up_to(n), array }
end

-- ---- starmap, each, apply ----

TestSimple = {}

function TestSimple.test_starmap_unpacks_its_items()
  ways.each(function(call)
    local results, n = call("starmap", function(...) return { select("#", ...), ... } end,
      { { 1, 2, 3 }, {}, { nil, 5, n = 2 }, { "a", nil, n = 2 }, { false } })
    lu.assertEquals(n, 5)
    lu.assertEquals(results, { { 3, 1, 2, 3 }, { 0 }, { 2, nil, 5 }, { 2, "a" }, { 1, false } })
    local k = up_to(40)
    results, n = call("starmap", add, function()
      local i = k()
      return i and { i, i * 10 }
    end)
    lu.assertEquals({ n, results[40] }, { 40, 440 })
    local e = fails(call, "starmap", add, { { 1, 2 }, 7 })
    lu.assertEquals(e.index, 2)
    lu.assertStrContains(e.message, "bad item to 'starmap' (table of arguments expected, got number)")
  end)
end

-- Classes that only the user's function knows cross by it, although a wrapper of ours stands around it.
function TestSimple.test_starmap_knows_the_classes_of_fn()
  local class = {}
  class.__index = class
  ways.each(function(call)
    local results = call("starmap", function(a, b) return setmetatable({ a + b }, class) end, { { 1, 2 }, { 3, 4 } })
    for _, object in ipairs(results) do lu.assertIs(getmetatable(object), class) end
  end)
end

function TestSimple.test_each_is_for_side_effects()
  ways.each(function(call)
    for _, source in ipairs(sources(50)) do
      local sum = pool.counter(0)
      local results = table.pack(call("each", function(x) sum:add(x) return {} end, source))
      lu.assertEquals(results, { 50, n = 1 })
      lu.assertEquals(sum:get(), 1275)
    end
    -- what would not cross does not matter: nothing travels back
    lu.assertEquals(call("each", function() return coroutine.create(print) end, 3), 3)
    lu.assertEquals(call("each", identity, 0), 0)
  end)
end

function TestSimple.test_apply_gives_all_results()
  ways.each(function(call, way)
    if way.name:find("one-shot", 1, true) then return end
    lu.assertEquals(table.pack(call("apply", function(...) return select("#", ...), ... end, nil, 1, nil)), { 3, nil, 1, nil, n = 4 })
    lu.assertEquals(select("#", call("apply", function() end)), 0)
  end)
  lu.assertEquals(table.pack(pool.apply(function(...) return select("#", ...), ... end, nil, 1, nil)), { 3, nil, 1, nil, n = 4 })
  local e = fails(pool.apply, error, "no")
  lu.assertEquals(e.kind, "error")
end

-- ---- filter ----

TestFilter = {}

function TestFilter.test_the_items_in_order()
  ways.each(function(call)
    for _, options in ipairs { {}, { chunk = 1 }, { chunk = 7 }, { buffer = 1 }, { buffer = 5, chunk = 3 } } do
      for _, source in ipairs(sources(40)) do
        local items, n = call("filter", is_even, source, options)
        lu.assertEquals({ #items, n, items[1], items[20] }, { 20, 20, 2, 40 })
        for i, item in ipairs(items) do lu.assertEquals(item, 2 * i) end
      end
    end
    lu.assertEquals({ call("filter", is_even, 0) }, { {}, 0 })
    lu.assertEquals({ call("filter", function() end, 5) }, { {}, 0 })
    lu.assertEquals({ call("filter", is_even, pool.range(9, 1, -2)) }, { {}, 0 })
    lu.assertEquals((call("filter", function(x) return x < 1 end, pool.range(0.25, 2, 0.25))), { 0.25, 0.5, 0.75 })
  end)
end

-- Not copies: the very tables of the source, even those that an iterator has made.
function TestFilter.test_items_keep_their_identity()
  ways.each(function(call)
    local items, set = {}, {}
    for i = 1, 30 do
      items[i] = { i, print } -- a task could not send it back
      set[items[i]] = i
    end
    local position = 0
    local function iterate()
      position = position + 1
      return items[position]
    end
    for _, source in ipairs { items, iterate } do
      local kept, n = call("filter", function(item) return item[1] % 3 == 0 end, source)
      lu.assertEquals(n, 10)
      for k, item in ipairs(kept) do lu.assertEquals(set[item], 3 * k) end
    end
  end)
end

-- Whatever counts as true in Lua; false items may be kept, too.
function TestFilter.test_truth()
  ways.each(function(call)
    local items = { false, true, false }
    lu.assertEquals(table.pack(call("filter", function(x) return not x end, items)), { { false, false }, 2, n = 2 })
    lu.assertEquals((call("filter", function(x) return ({ 0, "", nil, false, {} })[x] end, 5)), { 1, 2, 5 })
  end)
end

function TestFilter.test_failures()
  ways.each(function(call)
    for _, source in ipairs(sources(20)) do
      local function pred(x) return x % 7 == 0 and error("seven") or x % 2 == 1 end
      local kept, n, errors = call("filter", pred, source, { errors = "collect" })
      lu.assertEquals({ kept, n }, { { 1, 3, 5, 9, 11, 13, 15, 17, 19 }, 9 })
      lu.assertEquals({ errors[7].index, errors[14].item }, { 7, "14" })
      errors[7], errors[14] = nil, nil
      lu.assertNil(next(errors))
    end
    local e = fails(call, "filter", function(x) return x == 7 and error("seven") end, 20)
    lu.assertEquals({ e.kind, e.index }, { "error", 7 })
    local mine = {}
    lu.assertIs(fails(call, "filter", is_even, function() error(mine) end), mine)
  end)
end

-- ---- find, any, all ----

TestDecisive = {}

function TestDecisive.test_find_gives_index_and_item()
  ways.each(function(call)
    for _, options in ipairs { {}, { chunk = 1 }, { buffer = 1 }, { chunk = 9 } } do
      for _, source in ipairs(sources(50)) do
        lu.assertEquals(table.pack(call("find", function(x) return x > 30 end, source, options)), { 31, 31, n = 3 })
      end
      lu.assertEquals(table.pack(call("find", function(x) return x < 3 end, pool.range(9, 1, -2), options)), { 5, 1, n = 3 })
    end
    lu.assertNil((call("find", function() return false end, 50)))
    lu.assertNil((call("find", identity, 0)))
    local mark = { print }
    lu.assertEquals({ call("find", function(x) return type(x) == "table" end, { 1, 2, mark, {} }) }, { 3, mark })
    lu.assertIs(select(2, call("find", function(x) return type(x) == "table" end, { 1, 2, mark, {} })), mark)
    lu.assertEquals({ call("find", function(x) return x == false end, { true, false, false }) }, { 2, false })
  end)
end

-- The lowest index, however late its answer is: item 5 answers only after all others have.
function TestDecisive.test_find_gives_the_lowest_whatever_the_timing()
  ways.each(function(call, way)
    if way.workers < 2 then return end
    for _, late in ipairs { 1, 2, 5 } do
      local others = pool.counter(0)
      local index, item = call("find", function(x)
        if x < late then return false end
        if x == late then
          while others:get() < 6 do end
          return true
        end
        others:add(1)
        return true
      end, 40, { chunk = 1 })
      lu.assertEquals({ index, item }, { late, late })
    end
  end, true)
  local p <close> = pool.new(3)
  for round = 1, 30 do
    math.randomseed(round)
    local wanted = math.random(1, 60)
    local slow = {}
    for i = 1, 60 do slow[i] = math.random() < 0.2 and math.random() * 0.004 or 0 end
    local index = p:find(function(x)
      spin(slow[x])
      return x >= wanted and (x - wanted) % 3 == 0
    end, 60, { chunk = round % 4 + 1 })
    lu.assertEquals(index, wanted)
  end
end

-- A failure before the decisive item is raised, one behind it is not.
function TestDecisive.test_find_and_failures()
  ways.each(function(call)
    local function pred(bad, good) return function(x) return x == bad and error("bad") or x == good end end
    lu.assertEquals((call("find", pred(9, 5), 40)), 5)
    local e = fails(call, "find", pred(5, 9), 40)
    lu.assertEquals({ e.kind, e.index }, { "error", 5 })
    local index, item, errors = call("find", pred(5, 9), 40, { errors = "collect" })
    lu.assertEquals({ index, item, errors[5].index }, { 9, 9, 5 })
    index, item, errors = call("find", pred(5, 99), 40, { errors = "collect" })
    lu.assertNil(index)
    lu.assertNil(item)
    lu.assertEquals(errors[5].kind, "error")
    -- an error of the source that lies behind is nobody's
    local k = up_to(100)
    lu.assertEquals((call("find", function(x) return x == 1 end, function() return k() end, { buffer = 1 })), 1)
  end)
end

function TestDecisive.test_any_and_all()
  ways.each(function(call)
    for _, source in ipairs(sources(30)) do lu.assertIs(call("any", function(x) return x == 30 end, source), true) end
    for _, source in ipairs(sources(30)) do lu.assertIs(call("any", function(x) return x > 30 end, source), false) end
    for _, source in ipairs(sources(30)) do lu.assertIs(call("all", function(x) return x <= 30 end, source), true) end
    for _, source in ipairs(sources(30)) do lu.assertIs(call("all", function(x) return x ~= 30 end, source), false) end
    lu.assertEquals({ call("any", identity, 0), call("all", identity, 0) }, { false, true })
    -- one result, and true or false, whatever the predicate gives
    lu.assertEquals(table.pack(call("any", function() return 0 end, 3)), { true, n = 1 })
    lu.assertEquals(table.pack(call("all", function() return "yes" end, 3)), { true, n = 1 })
    lu.assertEquals(table.pack(call("all", function() end, 3)), { false, n = 1 })
  end)
end

function TestDecisive.test_any_and_all_with_failures()
  ways.each(function(call)
    local function fragile(x) return x == 4 and error("four") or x < 100 end
    for _, verb in ipairs { "any", "all" } do
      local e = fails(call, verb, function(x) return x == 4 and error("four") or verb == "all" end, 10)
      lu.assertEquals({ e.kind, e.index }, { "error", 4 })
    end
    local is_so, errors = call("all", fragile, 10, { errors = "collect" })
    lu.assertEquals({ is_so, errors[4].index }, { true, 4 })
    is_so, errors = call("any", function(x) return x == 4 and error("four") end, 10, { errors = "collect" })
    lu.assertEquals({ is_so, errors[4].index }, { false, 4 })
  end)
end

-- Everybody stops at the first decisive answer: tasks that would run for ever are interrupted, sources are not read to their end.
for verb, pred in pairs {
  find = function(x, begun)
    if x == 1 then while begun:get() == 0 do end return true end
    begun:add(1)
    while true do end
  end,
  any = function(x, begun)
    if x == 2 then while begun:get() == 0 do end return true end
    begun:add(1)
    while true do end
  end,
  all = function(x, begun)
    if x == 2 then while begun:get() == 0 do end return false end
    begun:add(1)
    while true do end
  end,
} do
  TestDecisive["test_everybody_stops_at_the_first_answer_of_" .. verb] = function()
    ways.each(function(call, way, p)
      if way.workers < 2 then return end
      for _, source in ipairs { 1000, function() return 1 end } do
        local begun, pulled = pool.counter(0), 0
        local numbered = type(source) == "number" and source or function() pulled = pulled + 1 return pulled end
        call(verb, function(x) return pred(x, begun) end, numbered, { chunk = 1, buffer = 8 })
        lu.assertTrue(begun:get() <= 8, begun:get())
        lu.assertTrue(pulled <= 12, pulled)
        if p then is_usable(p) end
      end
    end, true)
  end
end

function TestDecisive.test_inline_stops_at_the_first_answer()
  local p <close> = pool.new(0)
  local asked = 0
  local function count(x) asked = asked + 1 return x == 5 end
  lu.assertEquals((p:find(count, up_to(100))), 5)
  lu.assertTrue(p:any(count, up_to(100)))
  lu.assertFalse(p:all(function(x) asked = asked + 1 return x ~= 5 end, up_to(100)))
  lu.assertEquals(asked, 15)
end

-- ---- reduce ----

TestReduce = {}

function TestReduce.test_folds()
  ways.each(function(call)
    for _, n in ipairs { 1, 2, 63, 64, 65, 191, 192, 193, 1000, 5000 } do
      for _, source in ipairs(sources(n)) do lu.assertEquals(call("reduce", add, source, 0), n * (n + 1) // 2) end
    end
    lu.assertEquals(call("reduce", add, 0, "init"), "init")
    lu.assertEquals(call("reduce", add, function() end, 7), 7)
    lu.assertNil(call("reduce", add, {}, nil))
    lu.assertEquals(call("reduce", math.max, { 3, 9, 2 }, nil), 9)
    lu.assertEquals(call("reduce", add, 10, 1000), 1055) -- init once
    -- in order: an operation that is associative but does not commute
    lu.assertEquals(call("reduce", function(a, b) return a .. b end, { "a", "b", "c", "d", "e" }, ">"), ">abcde")
    local letters, text = {}, {}
    for i = 1, 3000 do letters[i] = string.char(97 + i % 26) end
    for _, source in ipairs { letters, function() text[1] = (text[1] or 0) + 1 return letters[text[1]] end } do
      lu.assertEquals(call("reduce", function(a, b) return a .. b end, source, ""), table.concat(letters))
    end
  end)
end

function TestReduce.test_map_comes_first()
  ways.each(function(call)
    for _, source in ipairs(sources(300)) do
      lu.assertEquals(call("reduce", add, source, 0, { map = function(x) return x * x end }), 300 * 301 * 601 // 6)
    end
    lu.assertEquals(call("reduce", math.max, { "a", "abc", "ab" }, 0, { map = string.len }), 3)
  end)
end

-- With `combine` the fold of each block starts from a copy of init, and partial results are joined by it.
function TestReduce.test_combine_with_tables()
  ways.each(function(call)
    local function count(acc, word)
      acc[word] = (acc[word] or 0) + 1
      return acc
    end
    local function join(a, b)
      for word, n in pairs(b) do a[word] = (a[word] or 0) + n end
      return a
    end
    local words, expected = {}, {}
    for i = 1, 2000 do
      words[i] = "w" .. i % 17
      expected[words[i]] = (expected[words[i]] or 0) + 1
    end
    local position = 0
    for _, source in ipairs { words, function() position = position + 1 return words[position] end } do
      local init = {}
      lu.assertEquals(call("reduce", count, source, init, { combine = join }), expected)
      lu.assertNil(next(init)) -- it was not touched
    end
    local init = { x = 1 }
    lu.assertEquals(call("reduce", count, {}, init, { combine = join }), { x = 1 })
    -- count and sum at once
    local stats = call("reduce", function(acc, x) return { acc[1] + 1, acc[2] + x } end, 1000, { 0, 0 },
      { combine = function(a, b) return { a[1] + b[1], a[2] + b[2] } end })
    lu.assertEquals(stats, { 1000, 500500 })
  end)
end

-- The same bits whatever the number of workers, the chunks, the buffer, and the kind of the source.
function TestReduce.test_the_same_bits()
  math.randomseed(2024)
  local n, items = 800, {}
  local array = pool.array("f64", n)
  for i = 1, n do
    items[i] = (math.random() - 0.5) * 10.0 ^ math.random(-300, 290)
    if i % 3 == 0 then items[i] = (math.random() - 0.5) * 10.0 ^ math.random(-8, 8) end
    array[i] = items[i]
  end
  local function iterator()
    local k = 0
    return function()
      k = k + 1
      return items[k]
    end
  end
  local function all_sums(source, options)
    local sums = {}
    for _, workers in ipairs(proc.slowness > 1 and { 0, 1, 3 } or { 0, 1, 2, 3, 7 }) do -- (two forks for each of them)
      local p <close> = pool.new(workers)
      for _, chunk in ipairs { "auto", 1, 5, 1000 } do
        local merged = { chunk = chunk, workers = workers }
        for key, value in pairs(options or {}) do merged[key] = value end
        sums[#sums + 1] = pool.reduce(add, source(), 0.0, merged)
        merged.workers = nil
        sums[#sums + 1] = p:reduce(add, source(), 0.0, merged)
      end
    end
    return sums
  end
  local first
  for _, make in ipairs { function() return items end, iterator, function() return array end } do
    for _, options in ipairs { {}, { buffer = 1 }, { buffer = 7 } } do
      for _, sum in ipairs(all_sums(make, options)) do
        first = first or ("%a"):format(sum)
        lu.assertEquals(("%a"):format(sum), first)
      end
    end
  end
  -- and it does matter: another order gives other bits
  local plain = 0.0
  for i = n, 1, -1 do plain = plain + items[i] end
  lu.assertNotEquals(("%a"):format(plain), first)
  -- ranges, and mapped ones
  local bits
  for _, options in ipairs { {}, { map = function(x) return 1 / x end } } do
    bits = nil
    for _, sum in ipairs(all_sums(function() return pool.range(0.1, 300.0, 0.1) end, options)) do
      bits = bits or ("%a"):format(sum)
      lu.assertEquals(("%a"):format(sum), bits)
    end
  end
end

-- Workers that die in between change nothing.
function TestReduce.test_the_same_bits_when_workers_die()
  local items = {}
  for i = 1, 3000 do items[i] = 1 / i end
  local expected = ("%a"):format(pool.reduce(add, items, 0.0, { workers = 0 }))
  local p <close> = pool.new(3)
  for round = 1, 4 do
    local deaths = pool.counter(0)
    local sum = p:reduce(function(a, b)
      if b == items[700 * round + 7] and deaths:add(1) <= 2 then os.exit(1) end
      return a + b
    end, items, 0.0, { on_crash = "retry", retries = 5 })
    lu.assertEquals(("%a"):format(sum), expected)
    lu.assertTrue(deaths:get() > 2)
  end
end

-- Failures name the item where it is the only one of its block, else which ones it may be.
function TestReduce.test_failures_name_items()
  ways.each(function(call)
    for kind, source in ipairs { 100, pool.range(10, 1000, 10), (pool.map(function(x) return x * 10 end, 100, { workers = 0 })) } do
      local wanted = kind == 1 and 5 or 50 -- a block of its own: op is called for it in the host alone, map in the worker
      local e = fails(call, "reduce", add, source, 0, { map = function(x) return x == wanted and error("five") or x end })
      lu.assertEquals({ e.kind, e.index, e.item }, { "error", 5, kind == 1 and "5" or "50" })
      lu.assertStrContains(e.message, "five")
    end
    local e = fails(call, "reduce", add, up_to(100), 0, { map = function(x) return x == 5 and error("five") or x end })
    lu.assertEquals({ e.kind, e.index, e.item }, { "error", 5 })
    for _, source in ipairs { 1000, up_to(1000) } do
      e = fails(call, "reduce", add, source, 0, { map = function(x) return x == 996 and error("nine") or x end })
      local first, last = e.item:match("^one of the items (%d+) to (%d+)$")
      first, last = math.tointeger(first), math.tointeger(last)
      lu.assertEquals(e.index, first)
      lu.assertTrue(first <= 996 and 996 <= last and last <= 1000, e.item)
      lu.assertStrContains(tostring(e), ("in item %d (one of the items %d to %d)"):format(first, first, last))
    end
  end)
end

function TestReduce.test_crashes_name_items()
  ways.each(function(call, _, p)
    local e = fails(call, "reduce", add, 1000, 0, { map = function(x)
      if x == 780 then os.exit(7) end
      return x
    end })
    lu.assertEquals({ e.kind, e.exitcode }, { "crash", 7 })
    lu.assertStrMatches(e.item, "one of the items %d+ to %d+")
    if p then is_usable(p) end
  end, true)
end

-- Errors of the source, of combine (in the host), and what cannot cross.
function TestReduce.test_other_failures()
  ways.each(function(call, way, p)
    local mine = {}
    local k = up_to(500)
    lu.assertIs(fails(call, "reduce", add, function() return k() or error(mine) end, 0), mine)
    lu.assertIs(fails(call, "reduce", add, 500, 0, { combine = function() error(mine) end }), mine)
    local e = fails(call, "reduce", function() return coroutine.create(print) end, 200, 0)
    lu.assertEquals(e.kind, "serialize")
    e = fails(call, "reduce", add, 10, 0, { map = function(x) return x == 3 and error("three") or x end })
    lu.assertEquals({ e.kind, e.index, e.item }, { "error", 3, "3" })
    if p and way.workers > 0 then is_usable(p) end
  end)
end

-- ---- policies ----

TestPolicies = {}

function TestPolicies.test_collected_errors_of_map_starmap_and_each()
  ways.each(function(call)
    local function fragile(x) return x % 4 == 0 and error("four") or -x end
    for _, source in ipairs(sources(12)) do
      local results, n, errors = call("map", fragile, source, { errors = "collect" })
      lu.assertEquals({ results, n }, { { -1, -2, -3, nil, -5, -6, -7, nil, -9, -10, -11 }, 12 })
      lu.assertEquals({ errors[4].index, errors[8].item, errors[12].kind, errors[1] }, { 4, "8", "error" })
    end
    local n, errors = call("each", fragile, 12, { errors = "collect" })
    lu.assertEquals({ n, errors[4].index, errors[8].index, errors[12].index, errors[1] }, { 12, 4, 8, 12 })
    local results
    results, n, errors = call("starmap", function(a) return fragile(a) end, { { 1 }, { 4 }, { 5 } }, { errors = "collect" })
    lu.assertEquals({ results[1], results[2], results[3], n, errors[2].index }, { -1, nil, -5, 3, 2 })
    results, n, errors = call("map", identity, 3, { errors = "collect" })
    lu.assertEquals({ results, n, errors }, { { 1, 2, 3 }, 3, {} })
  end)
end

-- The lowest failure among those seen is raised; what had not run is not run any more.
function TestPolicies.test_the_first_failure_ends_map_and_each()
  ways.each(function(call, way, p)
    for _, verb in ipairs { "map", "each" } do
      for _, source in ipairs { 2000, up_to(2000) } do
        local begun = pool.counter(0)
        local e = fails(call, verb, function(x)
          begun:add(1)
          if x == 3 then error("three") end
          spin(x > 100 and 0.02 or 0.001) -- for all of them nobody is busy with other things long enough
          return x
        end, source, { chunk = 1 })
        lu.assertEquals({ e.kind, e.index }, { "error", 3 })
        lu.assertTrue(begun:get() < 1500, begun:get())
        local before = begun:get()
        if p and way.workers > 0 then is_usable(p) end
        lu.assertEquals(begun:get(), before)
      end
    end
  end)
end

for _, verb in ipairs { "map", "each", "starmap", "filter", "find", "any", "all", "reduce" } do
  TestPolicies["test_deadline_of_" .. verb] = function()
    ways.each(function(call, way, p)
      local began = proc.now()
      local function slow(x) spin(0.005) return verb == "all" and x end
      local function source() return verb == "starmap" and { 1 } or 1 end
      local e
      if verb == "reduce" then
        e = fails(call, verb, function(a) spin(0.005) return a end, source, 0, { deadline = 0.1 })
      else
        e = fails(call, verb, slow, source, { deadline = 0.1 })
      end
      lu.assertEquals(e.kind, "timeout")
      lu.assertStrContains(e.message, "the call took longer than 0.1 s (deadline)")
      lu.assertTrue(proc.now() - began >= 0.1)
      if p and way.workers > 0 then is_usable(p) end
    end)
  end
end

-- Those with a number of items: after so many failures or successes, and as a share of all.
function TestPolicies.test_halt()
  ways.each(function(call, way)
    for _, when in ipairs { "now", "soon" } do
      for _, share in ipairs { "4", "1%" } do
        local begun = pool.counter(0)
        local function work(x)
          begun:add(1)
          spin(x > 100 and 0.05 or 0.001) -- for all of them nobody is busy with other things long enough
          return x % 2 == 0 and error("even") or x
        end
        local results, n, errors = call("map", work, 400, { halt = when .. ",fail=" .. share, errors = "collect", chunk = 1 })
        local failed = 0
        for index, e in pairs(errors) do
          lu.assertEquals(e.index, index)
          failed = failed + 1
        end
        lu.assertEquals(n, 400)
        lu.assertTrue(failed >= 4 or when == "now" and failed >= 1, failed)
        lu.assertTrue(begun:get() < 300, way.name .. " " .. begun:get())
        lu.assertNil(results[399])
        -- without collecting, what was seen first is raised when the number is reached
        local e = fails(call, "each", work, 400, { halt = when .. ",fail=" .. share, chunk = 1 })
        lu.assertEquals(e.kind, "error")
      end
      local begun = pool.counter(0)
      local function work(x) begun:add(1) spin(x > 100 and 0.05 or 0.001) end
      local n = call("each", work, 400, { halt = when .. ",success=5", chunk = 1 })
      lu.assertEquals(n, 400)
      lu.assertTrue(begun:get() >= 5 and begun:get() < 300, begun:get())
    end
    -- fewer failures than that: all items run, then the first failure is raised
    local begun = pool.counter(0)
    local e = fails(call, "map", function(x) begun:add(1) return x == 2 and error("two") or x end, 30, { halt = "now,fail=3" })
    lu.assertEquals({ e.index, begun:get() }, { 2, 30 })
  end)
end

-- Items that run are interrupted by "now", and come to their end with "soon".
function TestPolicies.test_halt_now_and_soon()
  local p <close> = pool.new(2)
  for _, when in ipairs { "now", "soon" } do
    local begun = pool.counter(0)
    local results, _, errors = p:map(function(x)
      if x == 1 then
        begun:add(1)
        spin(when == "now" and 60 or 0.3)
        return "slow"
      end
      while begun:get() == 0 do end
      error "two"
    end, 2, { halt = when .. ",fail=1", errors = "collect", chunk = 1 })
    lu.assertEquals(errors[2].kind, "error")
    lu.assertEquals(results[1], when == "soon" and "slow" or nil)
    lu.assertNil(errors[1])
    is_usable(p)
  end
end

-- ---- what is refused ----

TestRefused = {}

local OVER_ITEMS = { "map", "starmap", "each", "imap", "imap_unordered", "filter", "find", "any", "all", "reduce" }

function TestRefused.test_functions_and_sources()
  local expected = "number, range, table or iterator function expected"
  for _, verb in ipairs(OVER_ITEMS) do
    for _, owner in ipairs { "p:", "pool." } do
      refused(owner .. verb .. "()", ("bad argument #1 to '%s' (function expected, got nil)"):format(verb))
      refused(owner .. verb .. "(7, 3)", ("bad argument #1 to '%s' (function expected, got 7)"):format(verb))
      refused(owner .. verb .. "(print)", ("bad argument #2 to '%s' (%s, got nil)"):format(verb, expected))
      refused(owner .. verb .. "(print, true)", ("bad argument #2 to '%s' (%s, got true)"):format(verb, expected))
      refused(owner .. verb .. "(print, -1)", ("bad argument #2 to '%s' (a whole number of items expected, got -1)"):format(verb))
      refused(owner .. verb .. "(print, 1.5)", ("bad argument #2 to '%s' (a whole number of items expected, got 1.5)"):format(verb))
    end
    refused("p." .. verb .. "(print, 3)", ("bad argument #1 to '%s' (pool expected, got function; write p:%s(...))"):format(verb, verb))
  end
  refused("p:map_async()", "bad argument #1 to 'map_async' (function expected, got nil)")
  refused("p:map_async(print)", "bad argument #2 to 'map_async' (" .. expected .. ", got nil)")
  refused("p:submit()", "bad argument #1 to 'submit' (function expected, got nil)")
  refused("p:submit('f')", "bad argument #1 to 'submit' (function expected, got \"f\")")
  refused("pool.apply({})", "bad argument #1 to 'apply' (function expected, got table)")
end

function TestRefused.test_options()
  for _, verb in ipairs(OVER_ITEMS) do
    local before, number = verb .. "(print, 3, ", 3
    if verb == "reduce" then before, number = "reduce(print, 3, 0, ", 4 end
    refused("p:" .. before .. "7)", ("bad argument #%d to '%s' (table of options expected, got 7)"):format(number, verb))
    for _, owner in ipairs { "p:", "pool." } do
      local cases = {
        { "chunk = 0", "chunk", 'integer from 1 or "auto"', "0" }, { "buffer = 0", "buffer", 'integer from 1 or "auto"', "0" },
        { "buffer = 'big'", "buffer", 'integer from 1 or "auto"', '"big"' },
        { "deadline = 0", "deadline", "positive number of seconds", "0" },
        { "deadline = 'now'", "deadline", "positive number of seconds", '"now"' },
        { "timeout = -1", "timeout", "positive number of seconds", "-1" },
        { "on_crash = 'cry'", "on_crash", '"raise" or "retry" or "skip"', '"cry"' },
        { "retries = -1", "retries", "integer from 0", "-1" },
        { "progress = 1", "progress", "boolean or function", "1" },
      }
      if verb ~= "reduce" then cases[#cases + 1] = { "errors = 'eat'", "errors", '"raise" or "collect"', '"eat"' } end
      for _, case in ipairs(cases) do
        refused(("%s%s{ %s })"):format(owner, before, case[1]),
          ("bad option '%s' to '%s' (%s expected, got %s)"):format(case[2], verb, case[3], case[4]))
      end
    end
  end
  for _, halt in ipairs { "'now'", "'now,fail'", "'later,fail=3'", "'now,fail=0'", "'now,fail=101%'", "'now,fail=-1'", "'now,die=1'", "3",
    "{}" } do
    local value = load("return " .. halt)()
    local text = type(value) == "string" and '"' .. value .. '"' or type(value) == "table" and "table" or tostring(value)
    refused("p:map(print, 3, { halt = " .. halt .. " })", ([[bad option 'halt' to 'map' ("now,fail=3", "soon,fail=10%%", ]] ..
      [["now,success=1" or the like expected, got %s)]]):format(text))
  end
end

function TestRefused.test_futures()
  refused("p:submit(print):get(-1)", "bad argument #1 to 'get' (number of seconds, 0 or more, expected, got -1)")
  refused("p:submit(print):get('1')", "bad argument #1 to 'get' (number of seconds, 0 or more, expected, got \"1\")")
  refused("p:submit(print):wait(0/0)", "bad argument #1 to 'wait' (number of seconds, 0 or more, expected, got " .. tostring(0 / 0) .. ")")
  refused("p:submit(print):on_done(5)", "bad argument #1 to 'on_done' (function expected, got 5)")
  for _, name in ipairs { "get", "wait", "status", "cancel", "on_done" } do
    refused(("p:submit(print).%s({})"):format(name),
      ("bad argument #1 to '%s' (future expected, got table; write f:%s(...))"):format(name, name))
  end
  for _, name in ipairs { "wait", "as_completed" } do
    refused("pool." .. name .. "()", ("bad argument #1 to '%s' (table of futures expected, got nil)"):format(name))
    refused("pool." .. name .. "{ p:submit(print), 5 }", ("bad argument #1 to '%s' (item 2: future expected, got number)"):format(name))
  end
  refused("pool.wait({}, 5)", "bad argument #2 to 'wait' (table of options expected, got 5)")
  refused("pool.wait({}, { count = -1 })", "bad option 'count' to 'wait' (integer from 0 expected, got -1)")
  refused("pool.wait({}, { timeout = -1 })", "bad option 'timeout' to 'wait' (number of seconds, 0 or more, expected, got -1)")
  refused("pool.wait({}, { timout = 1 })", "unknown option 'timout' to 'wait' (known: count timeout)")
  refused("p:step(-1)", "bad argument #1 to 'step' (number of seconds, 0 or more, expected, got -1)")
end

-- A pool that is closed is refused by all, at the caller's line.
function TestRefused.test_closed_pools()
  for _, verb in ipairs(OVER_ITEMS) do
    refused("p:close() p:" .. verb .. "(print, 3)", ("cannot use '%s': the pool is closed"):format(verb))
  end
  for _, verb in ipairs { "apply", "submit", "map_async", "cancel", "step" } do
    refused("p:terminate() p:" .. verb .. "(print, 3)", ("cannot use '%s': the pool is closed"):format(verb))
  end
end
