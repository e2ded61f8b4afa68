-- imap and imap_unordered: order, laziness in and out, the bound of `buffer`, what leaving the loop means, errors of tasks and of sources,
-- deaths of workers, and what else may be done with a pool meanwhile.
local lu = require "luaunit"
local proc = require "proc"
local disk = require "disk"
local post = require "post"
local ways = require "ways"

local collect, up_to, spin = ways.collect, ways.up_to, ways.spin
local fails, is_usable, wait_for = ways.fails, ways.is_usable, ways.wait_for

local function identity(x) return x end
local function square(x) return x * x end

local VERBS = { "imap", "imap_unordered" }

-- ---- what comes ----

TestResults = {}

-- Each source, as a function that makes it, with what it gives.
local SOURCES = {
  number = { function() return 30 end },
  range = { function() return pool.range(7, 1, -3) end, { 7, 4, 1 } },
  floats = { function() return pool.range(0.5, 3, 0.5) end, { 0.5, 1.0, 1.5, 2.0, 2.5, 3.0 } },
  table = { function() return { "a", "b", 3, false, { 5 } } end, { "a", "b", 3, false, { 5 } } },
  iterator = { function() return up_to(30) end },
  array = { function() return pool.array("f64", { 1.5, 2.5, 3.5 }) end, { 1.5, 2.5, 3.5 } },
  nothing = { function() return 0 end, {} },
  empty_table = { function() return {} end, {} },
  empty_iterator = { function() return function() end end, {} },
}

for name, source in pairs(SOURCES) do
  local make, expected = source[1], source[2] or (pool.map(identity, 30, { workers = 0 }))
  TestResults["test_index_and_value_in_order_from_" .. name] = function()
    ways.each(function(call)
      for _, options in ipairs { {}, { chunk = 1 }, { chunk = 7 }, { buffer = 1 }, { buffer = 3, chunk = 2 }, { buffer = 1000 } } do
        local list, n = collect(call("imap", identity, make(), options))
        lu.assertEquals(n, #expected)
        for i, pair in ipairs(list) do lu.assertEquals(pair, { i, expected[i] }) end
      end
    end)
  end
  TestResults["test_every_index_once_from_" .. name] = function()
    ways.each(function(call)
      for _, options in ipairs { {}, { chunk = 7 }, { buffer = 1 }, { buffer = 3, chunk = 2 } } do
        local list, n = collect(call("imap_unordered", identity, make(), options))
        lu.assertEquals(n, #expected)
        table.sort(list, function(a, b) return a[1] < b[1] end)
        for i, pair in ipairs(list) do lu.assertEquals(pair, { i, expected[i] }) end
      end
    end)
  end
end

function TestResults.test_nil_and_false_are_results()
  ways.each(function(call)
    for _, verb in ipairs(VERBS) do
      local seen, n = {}, 0
      for i, v in call(verb, function(x)
        if x % 3 == 1 then return false end
        if x % 3 == 2 then return x end
      end, 20) do
        n = n + 1
        seen[i] = { v }
      end
      lu.assertEquals(n, 20)
      for i = 1, 20 do lu.assertEquals(seen[i], ({ [0] = {}, { false }, { i } })[i % 3]) end
    end
  end)
end

-- The item alone goes in, the first result alone comes out.
function TestResults.test_one_argument_and_one_result()
  ways.each(function(call)
    for _, verb in ipairs(VERBS) do
      local count = 0
      for i, v, more in call(verb, function(...) return select("#", ...), "second" end, { "a", "b", "c" }) do
        lu.assertEquals({ v, more }, { 1 })
        count = count + i
      end
      lu.assertEquals(count, 6)
    end
  end)
end

-- The slow first item is the last to come, or the first.
function TestResults.test_input_order_and_completion_order()
  local go = pool.counter(0)
  local function first_is_last(x)
    while x == 1 and go:get() == 0 do end
    return x
  end
  local p <close> = pool.new(2)
  local order = {}
  for i in p:imap_unordered(first_is_last, 5, { chunk = 1 }) do
    order[#order + 1] = i
    if #order == 4 then go:add(1) end
  end
  lu.assertEquals(order[5], 1)
  go:set(1)
  order = {}
  for i in p:imap(first_is_last, 5, { chunk = 1 }) do order[#order + 1] = i end
  lu.assertEquals(order, { 1, 2, 3, 4, 5 })
end

-- A manual call goes on where the last one was, and after the end there is nothing, however often it is asked.
function TestResults.test_the_iterator_by_hand()
  ways.each(function(call)
    for _, verb in ipairs(VERBS) do
      local next_one <const>, _, _, closer <close> = call(verb, square, 3)
      local sum = 0
      for _ = 1, 3 do sum = sum + select(2, next_one()) end
      lu.assertEquals(sum, 14)
      for _ = 1, 3 do lu.assertNil((next_one())) end
      lu.assertNotNil(closer)
    end
  end)
end

function TestResults.test_large_results()
  ways.each(function(call)
    local n = 0
    for i, v in call("imap", function(x) return ("x"):rep(x * 300000) end, 8) do
      n = n + 1
      lu.assertEquals(i, n)
      lu.assertEquals(#v, i * 300000)
    end
    lu.assertEquals(n, 8)
  end)
end

-- ---- how far the workers run ahead ----

TestBuffer = {}

-- While the loop is at its k-th item at most k + buffer items have been begun, and as many have been asked of the source.
local function check_bound(call, verb, make, options)
  local n, begun, pulled = 60, pool.counter(0), 0
  local source = make == "iterator" and function()
    pulled = pulled + 1
    if pulled <= n then return pulled end
  end or n
  local k, most = 0, 0
  for _ in call(verb, function(x) begun:add(1) return x end, source, options) do
    k = k + 1
    if k <= 5 then proc.sleep(0.003) end -- gives the workers the time to run too far
    local ahead = math.max(begun:get(), math.min(pulled, n)) - k
    most = math.max(most, ahead)
    lu.assertTrue(ahead <= options.buffer, ("%s of %s, buffer %d, chunk %s: %d items ahead"):format(verb, make, options.buffer,
      options.chunk or "auto", ahead))
  end
  lu.assertEquals(k, n)
  return most
end

for _, make in ipairs { "range", "iterator" } do
  for _, buffer in ipairs { 1, 3, 10, 50 } do
    TestBuffer[("test_bound_%d_over_%s"):format(buffer, make)] = function()
      ways.each(function(call)
        for _, verb in ipairs(VERBS) do
          for _, chunk in ipairs { "auto", 1, buffer, 1000 } do check_bound(call, verb, make, { buffer = buffer, chunk = chunk }) end
        end
      end)
    end
  end
end

-- They do run ahead, as far as they may.
function TestBuffer.test_the_buffer_is_used()
  ways.each(function(call)
    local begun = pool.counter(0)
    for i in call("imap", function(x) begun:add(1) return x end, 30, { buffer = 5, chunk = 1 }) do
      local expected = math.min(i + 5, 30)
      wait_for(function() return begun:get() >= expected end, "nobody runs ahead of item " .. i)
      lu.assertEquals(begun:get(), expected)
    end
  end, true)
end

-- Nothing runs ahead inline: each item is done when it is asked for.
function TestBuffer.test_inline_items_are_done_when_they_are_asked_for()
  local p <close> = pool.new(0)
  local count = 0
  for i in p:imap(function(x) count = count + 1 return x end, up_to(10)) do lu.assertEquals(count, i) end
end

-- Without `buffer`: a small multiple of workers and chunk, so that an endless source is no flood.
function TestBuffer.test_auto_is_bounded()
  ways.each(function(call, way)
    for _, verb in ipairs(VERBS) do
      local pulled, n = 0, 0
      for _ in call(verb, function(x) spin(0.002) return x end, function() pulled = pulled + 1 return pulled end) do
        n = n + 1
        lu.assertTrue(pulled - n <= 128 * math.max(way.workers, 1), pulled)
        if n == 20 then break end
      end
    end
  end)
end

-- ---- leaving the loop ----

TestLeaving = {}

-- Tasks that never end by themselves: `begun` and `ended` count them, the latter by a variable that is closed.
local function endless(begun, ended)
  return function(x)
    if x <= 3 then return x end
    local _ <close> = setmetatable({}, { __close = function() ended:add(1) end })
    begun:add(1)
    while true do end
  end
end

local LEAVE = {}

LEAVE["break"] = function(iterate, ready)
  for i in iterate() do
    ready(i)
    if i == 3 then break end
  end
end

LEAVE["return"] = function(iterate, ready)
  local function f()
    for i in iterate() do
      ready(i)
      if i == 3 then return "returned" end
    end
  end
  lu.assertEquals(f(), "returned")
end

LEAVE["goto"] = function(iterate, ready)
  for i in iterate() do
    ready(i)
    if i == 3 then goto out end
  end
  ::out::
end

LEAVE["error"] = function(iterate, ready)
  local mine = {}
  local e = fails(function()
    for i in iterate() do
      ready(i)
      if i == 3 then error(mine) end
    end
  end)
  lu.assertIs(e, mine)
end

LEAVE["closing_a_coroutine"] = function(iterate, ready)
  local co = coroutine.create(function()
    for i in iterate() do
      ready(i)
      coroutine.yield(i)
    end
  end)
  repeat
    local ok, i = coroutine.resume(co)
    lu.assertTrue(ok, i)
  until i == 3
  lu.assertTrue(coroutine.close(co))
end

for name, leave in pairs(LEAVE) do
  for _, verb in ipairs(VERBS) do
    -- Tasks are interrupted, and at once: not only before the next call.
    TestLeaving[("test_%s_out_of_%s_cancels"):format(name, verb)] = function()
      ways.each(function(call, way, p)
        local begun, ended = pool.counter(0), pool.counter(0)
        leave(function() return call(verb, endless(begun, ended), 1000, { buffer = 20, chunk = 1 }) end, function(i)
          if i == 3 then wait_for(function() return begun:get() == way.workers end, "nobody ran ahead") end
        end)
        lu.assertEquals(ended:get(), way.workers)
        lu.assertEquals(begun:get(), way.workers)
        if p then is_usable(p) end
        lu.assertEquals(begun:get(), way.workers)
        if not p then lu.assertEquals(#proc.children(proc.pid()), 0) end
      end, true)
    end
  end
end

-- Nothing that was handed out but not begun is begun afterwards.
function TestLeaving.test_nothing_is_begun_any_more()
  local p <close> = pool.new { workers = 2, grace = 20 }
  for _, verb in ipairs(VERBS) do
    local begun = pool.counter(0)
    local function task(x)
      begun:add(1)
      while x > 40 do end
      return x
    end
    do
      local iterate <const>, _, _, closer <close> = p[verb](p, task, 500,
        { buffer = 400, chunk = 20 })
      lu.assertNotNil(iterate())
      lu.assertNotNil(closer)
      wait_for(function() return begun:get() == 42 end, "nobody ran ahead") -- both are at the first of a claim, and have 19 more
    end
    is_usable(p)
    lu.assertEquals(begun:get(), 42)
  end
end

-- A task that does not stop is killed after the grace, and costs nothing else.
function TestLeaving.test_who_does_not_stop_is_killed()
  local p <close> = pool.new { workers = 2, grace = 0.2 }
  local begun = pool.counter(0)
  for i in p:imap(function(x)
    if x == 1 then return x end
    begun:add(1)
    while true do pcall(function() while true do end end) end
  end, 10, { chunk = 1 }) do
    wait_for(function() return begun:get() > 0 end, "nobody ran ahead")
    lu.assertEquals(i, 1)
    if i == 1 then break end
  end
  is_usable(p)
end

-- An iterator that is forgotten: what is left of its call is dropped when it is collected.
function TestLeaving.test_forgotten_iterators_are_collected()
  local p <close> = pool.new(2)
  for _, verb in ipairs(VERBS) do
    local begun, ended = pool.counter(0), pool.counter(0)
    do
      local iterate = p[verb](p, endless(begun, ended), 1000, { buffer = 20, chunk = 1 })
      for _ = 1, 3 do iterate() end
    end
    wait_for(function() return begun:get() == 2 end, "nobody ran ahead")
    collectgarbage()
    collectgarbage()
    is_usable(p) -- and if the call was not dropped, nobody is free to do this
    wait_for(function() return ended:get() == 2 end, "they were not interrupted")
  end
end

function TestLeaving.test_forgotten_one_shot_iterators_leave_no_worker()
  for _, verb in ipairs(VERBS) do
    local begun, ended = pool.counter(0), pool.counter(0)
    do
      local iterate = pool[verb](endless(begun, ended), 1000, { workers = 2, buffer = 20, chunk = 1 })
      for _ = 1, 3 do iterate() end
    end
    wait_for(function() return begun:get() == 2 end, "nobody ran ahead")
    collectgarbage()
    collectgarbage()
    lu.assertEquals(#proc.children(proc.pid()), 0)
  end
end

function TestLeaving.test_thousands_of_forgotten_iterators()
  local p <close> = pool.new(2)
  for k = 1, 2000 do
    local iterate = p:imap(function(x) return { x } end, k % 2 == 0 and 50 or up_to(50), { chunk = k % 3 + 1 })
    for i = 1, k % 5 do
      local index, value = iterate()
      lu.assertEquals({ index, value }, { i, { i } })
    end
  end
  is_usable(p)
  collectgarbage()
  collectgarbage()
  lu.assertEquals(p:step(), 0)
end

-- The collector may run while results are read, and end the very call that they are of.
function TestLeaving.test_collected_while_results_are_read()
  local p <close> = pool.new(2)
  local pause = collectgarbage("setpause", 10)
  for _, verb in ipairs(VERBS) do
    for _ = 1, 100 do
      p[verb](p, function(x) return { x, { x } } end, 100, { chunk = 9 })()
    end
  end
  is_usable(p)
  collectgarbage("setpause", pause)
end

-- A stream that lies about as garbage when workers are forked is the host's business alone.
function TestLeaving.test_workers_do_not_touch_inherited_streams()
  ways.needs_fork("they inherit no stream")
  local p <close> = pool.new(2)
  local iterate = p:imap(function(x) spin(0.0005) return x end, 400)
  for i = 1, 5 do lu.assertEquals(iterate(), i) end
  do
    collectgarbage("stop")
    local other = p:imap(identity, 1000)
    other()
  end
  pool.map(function(x)
    collectgarbage()
    collectgarbage()
    return x
  end, 4, { workers = 2 })
  collectgarbage("restart")
  local text = fails(pool.map, function() return iterate() end, 1, { workers = 1 })
  lu.assertStrMatches(text.message, ".*its pool belongs to process " .. proc.pid() .. ", this is process %d+")
  local n = 5
  for i, v in iterate do
    n = n + 1
    lu.assertEquals({ i, v }, { n, n })
  end
  lu.assertEquals(n, 400)
end

-- ---- laziness ----

TestLaziness = {}

function TestLaziness.test_endless_sources()
  ways.each(function(call)
    for _, verb in ipairs(VERBS) do
      local sum, n = 0, 0
      local i = 0
      for _, v in call(verb, square, function() i = i + 1 return i end) do
        sum, n = sum + v, n + 1
        if n == 3000 then break end
      end
      lu.assertEquals(n, 3000)
      if verb == "imap" then lu.assertEquals(sum, 3000 * 3001 * 6001 // 6) end
    end
  end)
end

-- A script that answers each line of its input; the tester talks to it.
local function talker(source, options, workers)
  return proc.spawn { args = { post.LUAPOOL, "-e", ([[
    local p <close> = pool.new(%d)
    for i, v in p:imap(function(line) return line:upper() end, %s, %s) do
      print(i, v)
      io.stdout:flush()
    end
    print "end"]]):format(workers, source, options) }, stdin = "pipe" }
end

-- Lines of a file: each result comes although the next line has not been written, whatever came before.
for name, options in pairs { auto = "{}", buffer = "{ buffer = 3 }", chunk = "{ chunk = 4 }" } do
  TestLaziness["test_an_answer_to_each_line_" .. name] = function()
    for workers = 0, 2 do
      local child <close> = talker("io.lines()", options, workers)
      local lines, seen = 0, 1
      local function talk(count)
        for _ = 1, count do
          lines = lines + 1
          child:write(("line %d\n"):format(lines))
        end
        local _, _, after = child:read_until(("\n%d\tLINE %d\n"):format(lines, lines):gsub("^\n", lines == 1 and "" or "\n"), 20)
        lu.assertNotNil(after, ("%d workers: no answer to line %d:\n%s%s"):format(workers, lines, child.stdout, child.stderr))
      end
      if options ~= "{ chunk = 4 }" or workers == 0 then
        for _, count in ipairs { 1, 1, 1, 200, 1, 3, 500, 1 } do talk(count) end
      else
        for _, count in ipairs { 4, 4, 200, 4 } do talk(count) end
      end
      child:close_stdin()
      local status = child:finish(20)
      lu.assertEquals({ status.exit, child.stderr }, { 0, "" })
      lu.assertEquals(child.stdout:sub(-4), "end\n")
      for line in child.stdout:gmatch("(%d+)\tLINE %d+\n") do
        lu.assertEquals(tonumber(line), seen)
        seen = seen + 1
      end
      lu.assertEquals(seen, lines + 1)
    end
  end
end

-- Of any other iterator nothing can be known: it is never asked for more than a few items while their results are not there.
function TestLaziness.test_results_come_while_a_slow_iterator_goes_on()
  local child <close> = talker("function() return io.read() end", "{}", 1)
  for k = 1, 30 do
    child:write(("line %d\n"):format(k))
    if k > 2 then lu.assertNotNil(child:read_until(("%d\tLINE %d\n"):format(k - 2, k - 2), 20), child.stderr) end
  end
  child:close_stdin()
  lu.assertEquals(child:finish(20).exit, 0)
end

-- With buffer = 1 never for more than one.
function TestLaziness.test_one_item_ahead_of_a_conversation()
  local child <close> = talker("function() return io.read() end", "{ buffer = 1 }", 2)
  for k = 1, 100 do
    child:write(("line %d\n"):format(k))
    if k > 1 then lu.assertNotNil(child:read_until(("%d\tLINE %d\n"):format(k - 1, k - 1), 20), child.stderr) end
  end
  child:close_stdin()
  lu.assertEquals(child:finish(20).exit, 0)
end

-- The host sleeps while it waits for the item that is next, also when others are there.
function TestLaziness.test_waiting_costs_no_processor_time()
  local p <close> = pool.new(2)
  local function slow_first(x)
    if x == 1 then os.execute("sleep 0.5") end
    return x
  end
  for _, options in ipairs { {}, { buffer = 10 }, { chunk = 1 } } do
    for _, source in ipairs { 200, up_to(200) } do
      local before = os.clock()
      local n = 0
      for _ in p:imap(slow_first, source, options) do n = n + 1 end
      lu.assertEquals(n, 200)
      lu.assertTrue(os.clock() - before < 0.3, os.clock() - before)
    end
  end
end

-- Memory does not grow with the number of items: neither what Lua holds, nor what the process has ever had.
function TestLaziness.test_millions_of_items_in_constant_memory()
  local n = proc.slowness > 1 and 500000 or os.getenv "SOAK" and 20000000 or 3000000
  for _, source in ipairs { "n", "function() k = k + 1 if k <= n then return k end end" } do
    local child <close> = proc.spawn { args = { post.LUAPOOL, "-e", ([[
      local n, k, sum = %d, 0, 0
      local function peak()
        for line in io.lines("/proc/self/status") do
          if line:find("VmHWM") then return tonumber(line:match("%%d+")) end
        end
      end
      local p <close> = pool.new(2)
      local first_peak, first_count
      for i, v in p:imap(function(x) return x * 2 end, %s) do
        sum = sum + v
        assert(v == 2 * i)
        if i == n // 5 then
          collectgarbage() collectgarbage()
          first_peak, first_count = peak(), collectgarbage("count")
        end
      end
      collectgarbage() collectgarbage()
      print(sum == n * (n + 1), peak() - first_peak, collectgarbage("count") - first_count)]]):format(n, source) } }
    local status = child:finish(300)
    lu.assertEquals(status.exit, 0, child.stderr)
    local is_right, grown, held = child.stdout:match("^(%a+)\t(%-?%d+)\t(%-?[%d.]+)\n$")
    lu.assertEquals(is_right, "true", child.stdout)
    lu.assertTrue(tonumber(grown) < 24 * 1024, "the peak grew by " .. grown .. " KiB")
    lu.assertTrue(tonumber(held) < 4 * 1024, "Lua holds " .. held .. " KiB more")
  end
end

-- ---- failures ----

TestFailures = {}

-- In order, each result before the failure comes first; then it is raised, once, and the pool goes on.
function TestFailures.test_a_failed_item_is_raised_in_its_turn()
  ways.each(function(call, way, p)
    for _, chunk in ipairs { "auto", 1, 5 } do
      local seen = {}
      local e = fails(function()
        for i in call("imap", function(x) if x == 7 then error "no seven" end return x end, 50, { chunk = chunk }) do seen[i] = true end
      end)
      lu.assertEquals({ e.kind, e.index, e.item }, { "error", 7, "7" })
      lu.assertStrContains(e.message, "no seven")
      for i = 1, 50 do lu.assertEquals(seen[i] or false, i < 7) end
    end
    if p and way.workers > 0 then is_usable(p) end
  end)
end

function TestFailures.test_a_failed_item_is_raised_unordered()
  ways.each(function(call)
    local e = fails(function()
      for i in call("imap_unordered", function(x) if x == 7 then error "no seven" end return x end, 50) do lu.assertNotEquals(i, 7) end
    end)
    lu.assertEquals({ e.kind, e.index }, { "error", 7 })
  end)
end

function TestFailures.test_collected_errors_are_the_third_value()
  ways.each(function(call)
    for _, verb in ipairs(VERBS) do
      for _, source in ipairs { 20, up_to(20) } do
        local failed, right = {}, {}
        for i, v, e in call(verb, function(x) if x % 5 == 0 then error("no " .. x) end return x end, source, { errors = "collect" }) do
          if e then
            lu.assertNil(v)
            lu.assertEquals({ e.kind, e.index, e.item }, { "error", i, tostring(i) })
            lu.assertStrContains(e.message, "no " .. i)
            failed[#failed + 1] = i
          else
            right[i] = v
          end
        end
        table.sort(failed)
        lu.assertEquals(failed, { 5, 10, 15, 20 })
        for i = 1, 20 do lu.assertEquals(right[i], i % 5 ~= 0 and i or nil) end
      end
    end
  end)
end

-- Results that cannot cross fail alone; so do items.
function TestFailures.test_what_cannot_cross()
  ways.each(function(call)
    for _, verb in ipairs(VERBS) do
      local kinds = {}
      local items = ways.up_to(9)
      local function source()
        local i = items()
        if i == 4 then return coroutine.create(print) end
        return i
      end
      for i, v, e in call(verb, function(x) return x == 6 and coroutine.create(print) or x end, source, { errors = "collect" }) do
        kinds[i] = e and e.kind or v
      end
      lu.assertEquals(kinds, { 1, 2, 3, "serialize", 5, "serialize", 7, 8, 9 })
    end
  end)
end

for _, verb in ipairs(VERBS) do
  -- An error of the source comes after the results before it, and as it is.
  TestFailures["test_errors_of_the_source_of_" .. verb] = function()
    ways.each(function(call, way, p)
      for _, options in ipairs { {}, { chunk = 1 }, { chunk = 4 }, { buffer = 1 }, { buffer = 5 } } do
        local mine, seen, i = { "mine" }, {}, 0
        local e = fails(function()
          for k, v in call(verb, square, function()
            i = i + 1
            if i == 11 then error(mine) end
            return i
          end, options) do seen[k] = v end
        end)
        lu.assertIs(e, mine)
        for k = 1, 10 do lu.assertEquals(seen[k], k * k) end
        lu.assertNil(seen[11])
      end
      if p and way.workers > 0 then is_usable(p) end
    end)
  end
end

function TestFailures.test_an_error_at_the_first_item_of_the_source()
  ways.each(function(call)
    local e = fails(function()
      for _ in call("imap", identity, function() error("nothing there", 0) end) do lu.fail("an item") end
    end)
    lu.assertEquals(e, "nothing there")
  end)
end

-- A worker that dies costs its item: raised in its turn, left out, or tried again.
function TestFailures.test_workers_that_die()
  ways.each(function(call, way, p)
    for _, verb in ipairs(VERBS) do
      for _, source in ipairs { 60, up_to(60) } do
        local seen, e = {}, nil
        local pids = pool.array("i64", 3)
        local function mortal(x)
          if x == 20 then
            pids[1] = pool.worker.pid
            os.execute("kill -9 " .. pool.worker.pid)
          end
          return x
        end
        for i, v, problem in call(verb, mortal, source, { errors = "collect" }) do
          if problem then e = problem else seen[i] = v end
        end
        lu.assertEquals({ e.kind, e.index, e.item, e.signal, e.pid }, { "crash", 20, "20", "SIGKILL", pids[1] })
        for i = 1, 60 do lu.assertEquals(seen[i], i ~= 20 and i or nil, way.name) end
      end
    end
    if p then is_usable(p) end
  end, true)
end

function TestFailures.test_a_crash_is_raised_in_its_turn()
  local p <close> = pool.new(2)
  local seen = {}
  local e = fails(function()
    for i in p:imap(function(x) if x == 20 then os.exit(3) end return x end, 60) do seen[#seen + 1] = i end
  end)
  lu.assertEquals({ e.kind, e.index, e.exitcode, #seen }, { "crash", 20, 3, 19 })
  is_usable(p)
end

function TestFailures.test_crashes_left_out_and_tried_again()
  local p <close> = pool.new(2)
  for _, verb in ipairs(VERBS) do
    local values, n = {}, 0
    for i, v in p[verb](p, function(x) if x == 20 then os.exit(3) end return x end, 40, { on_crash = "skip" }) do
      values[i], n = v, n + 1
    end
    lu.assertEquals(n, 40)
    for i = 1, 40 do lu.assertEquals(values[i], i ~= 20 and i or nil) end
    local tries = pool.counter(0)
    values = {}
    for i, v in p[verb](p, function(x) if x == 20 and tries:add(1) < 3 then os.exit(3) end return x end, 40,
      { on_crash = "retry", retries = 3 }) do values[i] = v end
    for i = 1, 40 do lu.assertEquals(values[i], i) end
    lu.assertEquals(tries:get(), 3)
  end
end

-- Somebody kills workers all the time: every item is there once, and is right.
function TestFailures.test_workers_killed_at_random_during_streams()
  local p <close> = pool.new(3)
  for _, verb in ipairs(VERBS) do
    for _, source in ipairs { 400, up_to(400) } do
      local seen, n = {}, 0
      for i, v in p[verb](p, function(x)
        spin(0.0005)
        return { x, -x, pool.worker.pid }
      end, source, { on_crash = "retry", retries = 50 }) do
        lu.assertNil(seen[i])
        lu.assertEquals({ v[1], v[2] }, { i, -i })
        seen[i], n = true, n + 1
        if n % 40 == 0 then proc.kill(v[3], "KILL") end -- (who has answered was ready: of those that are not only so many may die)
      end
      lu.assertEquals(n, 400)
    end
  end
end

function TestFailures.test_time_limits_of_items()
  local p <close> = pool.new { workers = 2, timeout = 0.5 * proc.slowness, grace = 0.2 } -- (the others have it as well)
  for _, verb in ipairs(VERBS) do
    local kinds = {}
    for i, v, e in p[verb](p, function(x)
      while x == 4 do end
      while x == 6 do pcall(spin, 60) end -- it does not stop, and is killed
      return x
    end, 8, { errors = "collect" }) do
      kinds[i] = e and e.kind or v
    end
    lu.assertEquals(kinds, { 1, 2, 3, "timeout", 5, "timeout", 7, 8 })
  end
end

-- ---- policies ----

TestPolicies = {}

-- A deadline ends the whole stream by an error; what had come by then was given.
function TestPolicies.test_deadline()
  local seconds = 0.3 * proc.slowness -- by then there are workers
  ways.each(function(call, way, p)
    for _, verb in ipairs(VERBS) do
      local began, n = proc.now(), 0
      local e = fails(function()
        for _ in call(verb, function(x) proc.sleep(0.001) return x end, function() return 1 end, { deadline = seconds }) do n = n + 1 end
      end)
      lu.assertEquals(e.kind, "timeout")
      lu.assertStrMatches(e.message, ("the call took longer than %s s %%(deadline%%)"):format(seconds))
      lu.assertTrue(n > 0)
      lu.assertTrue(proc.now() - began >= seconds)
    end
    if p and way.workers > 0 then is_usable(p) end
  end)
end

function TestPolicies.test_deadline_of_tasks_that_never_end()
  ways.each(function(call, _, p)
    local e = fails(function()
      for _ in call("imap", function() while true do end end, 4, { deadline = 0.2 }) do lu.fail("a result") end
    end)
    lu.assertEquals(e.kind, "timeout")
    if p then is_usable(p) end
  end, true)
end

-- In time: no error, however long the loop takes afterwards.
function TestPolicies.test_a_deadline_that_is_kept()
  local p <close> = pool.new(2)
  local n = 0
  for _ in p:imap(identity, 20, { deadline = 30 }) do n = n + 1 end
  lu.assertEquals(n, 20)
end

-- After so many failures the stream ends; what was not run does not come.
function TestPolicies.test_halt_after_failures()
  ways.each(function(call, way)
    for _, verb in ipairs(VERBS) do
      for _, when in ipairs { "now", "soon" } do
        local failures, last = 0, 0
        for i, _, e in call(verb, function(x) if x % 2 == 0 then error "even" end return x end, 1000,
          { halt = when .. ",fail=3", errors = "collect", chunk = 1, buffer = 8 }) do
          failures = failures + (e and 1 or 0)
          if verb == "imap" then
            lu.assertTrue(i > last)
            last = i
          end
        end
        lu.assertTrue(failures >= (when == "soon" and 3 or 1), way.name)
        lu.assertTrue(failures <= 3 + 8, failures)
      end
    end
  end)
end

-- "now" interrupts what runs, "soon" lets it finish; the item before it in order is no obstacle.
function TestPolicies.test_halt_now_and_soon()
  local p <close> = pool.new(2)
  for _, verb in ipairs(VERBS) do
    for _, when in ipairs { "now", "soon" } do
      local begun, seen = pool.counter(0), {}
      local function work(x)
        if x == 1 then
          begun:add(1)
          spin(when == "now" and 60 or 0.3)
          return "slow"
        end
        while begun:get() == 0 do end
        if x == 2 then error "two" end
        spin(0.02)
        return x
      end
      for i, v, e in p[verb](p, work, 200, { halt = when .. ",fail=1", errors = "collect", chunk = 1 }) do seen[i] = e and e.kind or v end
      lu.assertEquals(seen[2], "error")
      lu.assertEquals(seen[1], when == "soon" and "slow" or nil)
      lu.assertNil(seen[200])
    end
  end
end

-- Somebody else ends the call: the loop must not look as if it had come to its end.
local ACTS = { cancel = function(p) p:cancel() end, terminate = function(p) p:terminate() end, close = function(p) p:close() end }

for name, act in pairs(ACTS) do
  TestPolicies[("test_%s_inside_the_loop"):format(name)] = function()
    for _, verb in ipairs(VERBS) do
      for _, source in ipairs { 10000, up_to(10000) } do
        local p <close> = pool.new(2)
        local n = 0
        local e = fails(function()
          for _ in p[verb](p, function(x) spin(0.0002) return x end, source, { buffer = 20 }) do
            n = n + 1
            if n == 5 then act(p) end
          end
        end)
        lu.assertEquals(e.kind, "cancelled")
        lu.assertTrue(n < 100, n)
        if name == "cancel" then is_usable(p) end
      end
    end
  end
end

-- The source itself ends its call, and then gives something that cannot even be sent.
for name, act in pairs { cancel = function(p) p:cancel() end, terminate = function(p) p:terminate() end } do
  TestPolicies[("test_%s_by_the_source"):format(name)] = function()
    for _, verb in ipairs { "imap", "imap_unordered", "filter", "find", "map", "each", "reduce" } do
      for _, item in ipairs { 5, coroutine.create(print) } do
        local p <close> = pool.new(2)
        p:map(identity, 2)
        local i = 0
        local function source()
          i = i + 1
          if i < 5 then return i end
          act(p)
          return item
        end
        local e = fails(function()
          if verb:find("imap") then
            for _ in p[verb](p, identity, source) do end
          elseif verb == "reduce" then
            p:reduce(function(a) return a end, source, 0)
          else
            p[verb](p, function() return false end, source)
          end
        end)
        lu.assertEquals(e.kind, "cancelled", verb)
        if name == "cancel" then is_usable(p) end
      end
    end
  end
end

-- ---- several at once ----

TestTogether = {}

function TestTogether.test_nested_loops_on_one_pool()
  ways.each(function(call, way)
    if not way.name:find("one") then
      local pairs_seen = {}
      for i in call("imap", identity, 5) do
        for k, v in call("imap_unordered", function(x) return x * 10 end, 4) do pairs_seen[i * 10 + k] = v + i end
      end
      local count = 0
      for key, value in pairs(pairs_seen) do
        lu.assertEquals(value, key % 10 * 10 + key // 10)
        count = count + 1
      end
      lu.assertEquals(count, 20)
    end
  end)
end

-- Leaving an inner loop does not touch the outer one.
function TestTogether.test_an_inner_loop_is_left()
  local p <close> = pool.new(2)
  local n = 0
  for i, v in p:imap(square, 30, { buffer = 4 }) do
    n = n + 1
    lu.assertEquals({ i, v }, { n, n * n })
    for k in p:imap_unordered(function(x) while x > 3 do end return x end, up_to(100), { chunk = 1 }) do
      if k <= 3 then break end
    end
  end
  lu.assertEquals(n, 30)
end

function TestTogether.test_other_calls_inside_the_loop()
  ways.each(function(call, way, p)
    local n = 0
    for i, v in call("imap", square, 10) do
      n = n + 1
      lu.assertEquals(v, i * i)
      lu.assertEquals((call("map", identity, 3)), { 1, 2, 3 })
      if p then
        lu.assertEquals(p:apply(function(a, b) return a + b end, i, 1), i + 1)
        lu.assertEquals(p:submit(function(a) return a end, i):get(), i)
      end
      lu.assertEquals(call("reduce", function(a, b) return a + b end, 10, 0), 55, way.name)
    end
    lu.assertEquals(n, 10)
  end)
end

-- A stream as the source of another call on the same pool, and of a third.
function TestTogether.test_streams_as_sources()
  ways.each(function(call)
    for _, options in ipairs { {}, { chunk = 1 }, { buffer = 1 }, { buffer = 3, chunk = 2 } } do
      local function values(...)
        local iterate <const> = ...
        return function() return (select(2, iterate())) end
      end
      local squares = values(call("imap", square, 20, options))
      lu.assertEquals((call("map", function(x) return x + 1 end, squares, { chunk = options.chunk }))[20], 401)
      local chain = values(call("imap", function(x) return -x end, values(call("imap", square, up_to(20), options)), options))
      local n = 0
      for i, v in call("imap", function(x) return x * 2 end, chain, options) do
        n = n + 1
        lu.assertEquals({ i, v }, { n, -2 * n * n })
      end
      lu.assertEquals(n, 20)
    end
  end)
end

-- An error in the first stream is an error of the source of the second.
function TestTogether.test_an_error_passes_through_chained_streams()
  local p <close> = pool.new(2)
  local seen = {}
  local e = fails(function()
    local inner = p:imap(function(x) if x == 8 then error "eight" end return x end, 20)
    for i in p:imap(square, function() return (select(2, inner())) end) do seen[#seen + 1] = i end
  end)
  lu.assertEquals({ e.kind, e.index, #seen }, { "error", 8, 7 })
  is_usable(p)
end

function TestTogether.test_streams_inside_coroutines()
  ways.each(function(call)
    local function stream(factor)
      return coroutine.wrap(function()
        for i, v in call("imap", function(x) return x * factor end, 10) do coroutine.yield(i, v) end
      end)
    end
    local a, b = stream(1), stream(100)
    for i = 1, 10 do
      lu.assertEquals({ a() }, { i, i })
      lu.assertEquals({ b() }, { i, i * 100 })
    end
  end)
end

-- A source that is a coroutine; and one that yields where it cannot gets an error of its own.
function TestTogether.test_sources_that_are_coroutines()
  ways.each(function(call)
    local source = coroutine.wrap(function() for i = 1, 25 do coroutine.yield(i) end end)
    local _, n = collect(call("imap", identity, source))
    lu.assertEquals(n, 25)
  end)
  local p <close> = pool.new(2)
  local ok, e = coroutine.resume(coroutine.create(function()
    for _ in p:imap(identity, function() return coroutine.yield() end) do end
  end))
  lu.assertFalse(ok)
  lu.assertStrContains(e, "attempt to yield across a C-call boundary")
  is_usable(p)
end

function TestTogether.test_many_open_streams()
  local p <close> = pool.new(3)
  local streams, sums = {}, {}
  for k = 1, 100 do
    streams[k], sums[k] = p:imap(function(x) return x * k end, k % 2 == 0 and 50 or up_to(50), { buffer = k % 7 + 1 }), 0
  end
  for _ = 1, 50 do
    for k = 1, 100 do sums[k] = sums[k] + select(2, streams[k]()) end
  end
  for k = 1, 100 do
    lu.assertEquals(sums[k], 1275 * k)
    lu.assertNil((streams[k]()))
  end
end

-- ---- the program's other troubles ----

TestInterrupts = {}

-- In the body, while it waits for the next item, in the source: once each, and the pool works on.
local CAUGHT = post.TRY .. [[
local p <close> = pool.new(2)
VERB
local r = p:map(function(x) return x + 1 end, 100)
assert(#r == 100)
p:step()
for i = 1, 1e6 do end
print("interrupts", count)
]]

local PLACES = {
  body = [[try(function() for i in p:VERB(function(x) return x end, 10000) do if i == 5 then say "ready" while true do end end end end)]],
  wait = [[try(function() for i in p:VERB(function(x) if x == 5 then while true do end end return x end, 10, { chunk = 1 }) do
    if i == 4 then say "ready" end end end)]],
  source = [[local k = 0
    try(function() for i in p:VERB(function(x) return x end, function()
      k = k + 1
      if k == 5 then say "ready" while true do end end
      return k end) do end end)]],
  blocked_source = [[try(function() for i in p:VERB(function(x) return x end, function() say "ready" return io.read() end) do end end)]],
  -- by hand: the call is over, and does not tell of the interrupt once more
  by_hand = [[local k = 0
    local it = p:VERB(function(x) return x end, function()
      k = k + 1
      if k == 5 then say "ready" while true do end end
      return k end)
    try(function() while it() do end end)
    for i = 1, 3 do
      local ok, e = pcall(it)
      assert(not ok and not is_interrupt(e) and e.kind == "cancelled", tostring(e))
    end]],
}

for place, code in pairs(PLACES) do
  for _, verb in ipairs(VERBS) do
    TestInterrupts[("test_in_the_%s_of_%s"):format(place, verb)] = function()
      local s <close> = post.start { code = CAUGHT:gsub("VERB", function() return code:gsub("VERB", verb) end), stdin = "pipe" }
      s:await("ready")
      s:send("group", "INT")
      s:finish { exit = 0, stdout = "interrupts\t1\n", within = 10 }
    end
  end
end

-- Uncaught; and twice, with tasks that do not listen.
function TestInterrupts.test_uncaught()
  for _, verb in ipairs(VERBS) do
    local s <close> = post.start { code = ([[
      for i in pool.%s(function(x) if x > 50 then while true do end end return x end, 100, { workers = 2, chunk = 1 }) do
        if i == 50 then say "ready" end
      end]]):format(verb) }
    s:await("ready")
    s:send("group", "INT")
    s:finish { signal = "SIGINT", stdout = "" }
  end
end

function TestInterrupts.test_twice_with_tasks_that_do_not_stop()
  local asked = os.tmpname() -- holds something as soon as a task was asked to stop
  local s <close> = post.start { code = ([[
    local p <close> = pool.new { workers = 2, grace = 60 }
    local begun = pool.counter(0)
    for i in p:imap(function(x)
      if x == 1 then return x end
      begun:add(1)
      while true do
        pcall(function() while true do end end)
        local file <close> = io.open(%q, "a")
        file:write "asked"
      end
    end, 100, { chunk = 1 }) do
      while begun:get() < 2 do end
      say "ready"
    end]]):format(asked) }
  s:await("ready")
  s:send("host", "INT")
  lu.assertTrue(proc.wait_until(function() return disk.read(asked) ~= "" end, 20))
  proc.sleep(0.3)
  s:send("host", "INT")
  s:finish { signal = "SIGINT", stdout = "" }
  os.remove(asked)
end

-- The host dies in the middle of a stream.
function TestInterrupts.test_nobody_outlives_the_host()
  local s <close> = post.start { code = [[
    for i in pool.imap(function(x) if x > 3 then while true do end end return x end, function() return 1 end, { workers = 2 }) do
      if i == 3 then say "ready" while true do end end
    end]] }
  s:await("ready")
  s:send("host", "KILL")
  s:finish { signal = "SIGKILL", stdout = "" }
end
