-- What fails: errors of tasks, crashes, time limits, memory budgets; blame on the item, nothing lost, nothing run twice, the pool usable.
local lu = require "luaunit"
local proc = require "proc"
local ways = require "ways"

local fails, is_usable = ways.fails, ways.is_usable

local IS_SANITIZED = os.getenv("ASAN_OPTIONS") ~= nil

-- A file to which tasks append; lines() counts what they wrote.
local function notebook()
  local name = os.tmpname()
  local book = { name = name }
  function book.lines()
    local counts = {}
    for line in io.lines(name) do counts[line] = (counts[line] or 0) + 1 end
    return counts
  end
  return setmetatable(book, { __close = function() os.remove(name) end })
end

local function note(name, text)
  local f <close> = assert(io.open(name, "a"))
  f:write(text, "\n")
end

local function kill_worker(signal)
  os.execute(("kill -%s %d"):format(signal, pool.worker.pid))
  while true do end -- the signal may be under way
end

TestErrors = {}

function TestErrors.test_fields_of_an_error()
  local p <close> = pool.new(2)
  local e = fails(p.map, p, function(x)
    if x == 30 then error("bad luck") end
    return x
  end, pool.range(10, 50, 10))
  lu.assertEquals(getmetatable(e), pool.Error)
  lu.assertEquals(e.kind, "error")
  lu.assertStrMatches(e.message, "tests/test_errors.lua:%d+: bad luck")
  lu.assertEquals(e.value, e.message)
  lu.assertEquals(e.index, 3)
  lu.assertEquals(e.item, "30")
  lu.assertTrue(e.worker == 1 or e.worker == 2)
  lu.assertTrue(e.pid ~= proc.pid() and e.pid > 1)
  lu.assertStrContains(e.traceback, "in function 'error'")
  lu.assertStrMatches(e.traceback, "stack traceback:\n.*tests/test_errors.lua:%d+: in function.*")
  lu.assertNil(e.signal)
  lu.assertNil(e.exitcode)
  is_usable(p)
end

function TestErrors.test_tostring_reads_well()
  local p <close> = pool.new(1)
  local e = fails(p.map, p, function(x) error("bad " .. x) end, { "apple" })
  local text = tostring(e)
  lu.assertStrMatches(text:match("^[^\n]*"), "tests/test_errors.lua:%d+: bad apple")
  lu.assertStrContains(text, ('item 1 ("apple"), worker 1, pid %d'):format(e.pid))
  lu.assertStrContains(text, "in function 'error'")
  lu.assertNotStrContains(text, "luapool.so")
  lu.assertNotStrContains(text, "run_items")
end

function TestErrors.test_traceback_names_the_functions_of_the_task()
  local function inner() error("deep") end
  local function outer() inner() return 1 end
  local e = fails(pool.map, outer, 1, { workers = 1 })
  lu.assertStrContains(e.traceback, "in upvalue 'inner'")
  lu.assertStrContains(e.message, "deep")
  local p <close> = pool.new(1)
  p:map(tostring, 1)
  e = fails(p.map, p, outer, 1) -- a function that was sent has the names and lines of the source too
  lu.assertStrContains(e.traceback, "in upvalue 'inner'")
  lu.assertStrMatches(e.message, "tests/test_errors.lua:%d+: deep")
end

Failure = { __name = "Failure" }
Failure.__index = Failure
Failure.__tostring = function(self) return "failure " .. self.code end

function TestErrors.test_error_values_keep_their_class()
  local p <close> = pool.new(2)
  for round = 1, 2 do -- forked with it, then sent to workers that live
    local e = fails(p.map, p, function() error(setmetatable({ code = 41 + round }, Failure)) end, 1)
    lu.assertEquals(getmetatable(e.value), Failure)
    lu.assertEquals(e.value.code, 41 + round)
    lu.assertEquals(e.message, "failure " .. 41 + round)
  end
end

function TestErrors.test_error_values_of_all_sorts()
  local cases = {
    { value = 42, message = "42" },
    { value = 2.5, message = "2.5" },
    { value = { code = 7, deep = { 1 } }, message = "(error object is a table value)" },
    { value = true, message = "(error object is a boolean value)" },
    { value = nil, message = "(error object is a nil value)" },
    { value = "no position", message = "no position" },
    { value = "binary \0 bytes", message = "binary \0 bytes" },
  }
  for _, workers in ipairs { 1, 0 } do
    local p <close> = pool.new(workers)
    for i = 1, #cases do
      local value = cases[i].value
      local e = fails(p.map, p, function() error(value, 0) end, 1)
      lu.assertEquals(e.kind, "error")
      lu.assertEquals(e.value, value)
      lu.assertEquals(e.message, cases[i].message)
    end
    local e = fails(p.map, p, function() error(coroutine.create(print)) end, 1)
    lu.assertNil(e.value)
    lu.assertEquals(e.message, "(error object is a thread value)")
    e = fails(p.map, p, function() error(setmetatable({}, { __tostring = function() error("again") end })) end, 1)
    lu.assertEquals(e.kind, "error")
    lu.assertEquals(type(e.message), "string")
    e = fails(p.map, p, function() error(setmetatable({}, { __tostring = function() return 5 end })) end, 1)
    lu.assertEquals(type(e.message), "string")
    is_usable(p)
  end
end

function TestErrors.test_stack_overflow_in_a_task()
  local p <close> = pool.new(1)
  local function forever(n) return 1 + forever(n + 1) end
  local e = fails(p.map, p, forever, 1)
  lu.assertEquals(e.kind, "error")
  lu.assertStrContains(e.message, "stack overflow")
  lu.assertTrue(#e.traceback < 10000)
  is_usable(p)
end

function TestErrors.test_item_text()
  local cases = { { 7, "7" }, { 2.5, "2.5" }, { true, "true" }, { "short", '"short"' }, { {}, "table" }, { "a\nb", '"a?b"' },
    { ("x"):rep(200), '"' .. ("x"):rep(59) .. '..."' } }
  for _, workers in ipairs { 1, 0 } do
    local p <close> = pool.new(workers)
    for i = 1, #cases do
      local e = fails(p.map, p, function() error("x") end, { cases[i][1] })
      lu.assertEquals(e.item, cases[i][2])
      local given = false -- an iterator's items are as well known as those of a table
      e = fails(p.map, p, function() error("x") end, function()
        if given then return nil end
        given = true
        return cases[i][1]
      end)
      lu.assertEquals(e.item, cases[i][2])
      lu.assertEquals(e.index, 1)
    end
  end
end

function TestErrors.test_the_lowest_failure_seen_is_raised()
  local p <close> = pool.new(2)
  for _ = 1, 5 do
    local e = fails(p.map, p, function(x) error("item " .. x, 0) end, 1, { chunk = 1 })
    lu.assertEquals(e.index, 1)
    e = fails(p.map, p, function(x)
      if x >= 50 then error("item " .. x, 0) end
      return x
    end, 100, { chunk = 100 }) -- one worker has them all: the first failure ends it
    lu.assertEquals(e.index, 50)
  end
end

function TestErrors.test_every_failure_is_collected()
  local p <close> = pool.new(2)
  local r, n, errors = p:map(function(x) error("item " .. x, 0) end, 40, { errors = "collect", chunk = 1 })
  lu.assertEquals(r, {})
  lu.assertEquals(n, 40)
  for i = 1, 40 do
    lu.assertEquals(errors[i].index, i)
    lu.assertEquals(errors[i].message, "item " .. i)
  end
end

function TestErrors.test_the_rest_is_cancelled()
  local book <close> = notebook()
  local name = book.name
  local p <close> = pool.new(1)
  local e = fails(p.map, p, function(x)
    note(name, tostring(x))
    if x == 3 then error("stop") end
  end, 1000, { chunk = 1 })
  lu.assertEquals(e.index, 3)
  local lines = book.lines()
  lu.assertEquals({ lines["1"], lines["2"], lines["3"], lines["1000"] }, { 1, 1, 1 })
  is_usable(p)
end

function TestErrors.test_cancelled_tasks_clean_up()
  local book <close> = notebook()
  local name = book.name
  local p <close> = pool.new(2)
  local e = fails(p.map, p, function(x)
    if x == 1 then
      local guard <close> = setmetatable({}, { __close = function() note(name, "closed") end }) -- luacheck: ignore
      note(name, "started")
      while true do end
    end
    repeat
      local f <close> = io.open(name)
      local text = f:read("a")
    until text:find("started")
    error("now")
  end, 2, { chunk = 1 })
  lu.assertEquals(e.index, 2)
  lu.assertEquals(book.lines().closed, 1)
  is_usable(p)
end

function TestErrors.test_collect()
  for _, workers in ipairs { 2, 0 } do
    for _, chunk in ipairs { 1, 3, 1000, "auto" } do
      local p <close> = pool.new(workers)
      local results, n, errors = p:map(function(x)
        if x % 3 == 0 then error("third") end
        if x % 5 == 0 then return nil end
        return -x
      end, 100, { errors = "collect", chunk = chunk })
      lu.assertEquals(n, 100)
      for i = 1, 100 do
        if i % 3 == 0 then
          lu.assertEquals({ errors[i].kind, errors[i].index, errors[i].item }, { "error", i, tostring(i) })
          lu.assertNil(results[i])
        else
          lu.assertNil(errors[i])
          lu.assertEquals(results[i], i % 5 ~= 0 and -i or nil)
        end
      end
      is_usable(p)
    end
  end
end

function TestErrors.test_collect_without_failures()
  for _, workers in ipairs { 2, 0 } do
    local results, n, errors = pool.map(function(x) return x end, 3, { errors = "collect", workers = workers })
    lu.assertEquals({ results, n, errors }, { { 1, 2, 3 }, 3, {} })
  end
end

function TestErrors.test_collect_for_the_whole_pool_and_raise_for_one_call()
  local p <close> = pool.new { workers = 1, errors = "collect" }
  local _, _, errors = p:map(function() error("x") end, 2)
  lu.assertEquals(errors[2].index, 2)
  lu.assertEquals(fails(p.map, p, function() error("x") end, 2, { errors = "raise" }).index, 1)
end

function TestErrors.test_retries_of_errors()
  for _, workers in ipairs { 2, 0 } do
    local book <close> = notebook()
    local name = book.name
    local p <close> = pool.new(workers)
    local function flaky(x)
      note(name, tostring(x))
      local tries = 0
      for line in io.lines(name) do if line == tostring(x) then tries = tries + 1 end end
      if x % 4 == 0 and tries < 3 then error("try " .. tries) end
      return x
    end
    lu.assertEquals((p:map(flaky, 8, { retries = 2 })), { 1, 2, 3, 4, 5, 6, 7, 8 })
    local lines = book.lines()
    for i = 1, 8 do lu.assertEquals(lines[tostring(i)], i % 4 == 0 and 3 or 1) end
    local e = fails(p.map, p, function(x)
      note(name, "always")
      error("x" .. x)
    end, 1, { retries = 4 })
    lu.assertEquals(e.index, 1)
    lu.assertEquals(book.lines().always, 5)
  end
end

function TestErrors.test_what_cannot_cross_names_its_path()
  local p <close> = pool.new(2)
  local opened = assert(io.open("/dev/null"))
  for _, workers in ipairs { 2, 0 } do
    local q <close> = pool.new(workers)
    local e = fails(q.map, q, function(x) return x == 3 and { conn = { sock = io.open("/dev/null") } } or x end, 5)
    lu.assertEquals({ e.kind, e.index, e.item }, { "serialize", 3, "3" })
    lu.assertStrContains(e.message, "result.conn.sock: userdata (FILE*) cannot be sent")
    e = fails(q.map, q, function() return { 1, { coroutine.create(print) } } end, 1)
    lu.assertStrContains(e.message, "result[2][1]: ")
    lu.assertStrContains(e.message, "cannot be sent")
    local results, n, errors = q:map(function(x) return x == 3 and io.open("/dev/null") or x end, 5, { errors = "collect" })
    lu.assertEquals({ results[1], results[2], results[3], results[4], results[5], n }, { 1, 2, nil, 4, 5, 5 })
    lu.assertEquals(errors[3].kind, "serialize")
    is_usable(q)
  end
  is_usable(p)
  local given = 0
  local results, n, errors = p:map(function(x) return x end, function()
    given = given + 1
    return given == 2 and { a = opened } or given < 5 and given or nil
  end, { errors = "collect" })
  lu.assertEquals({ results[1], results[3], results[4], n }, { 1, 3, 4, 4 })
  lu.assertEquals({ errors[2].kind, errors[2].item, errors[2].index }, { "serialize", "table", 2 })
  lu.assertStrContains(errors[2].message, "item.a: userdata (FILE*) cannot be sent")
  lu.assertStrContains(fails(p.apply, p, print, 1, opened), "argument #2 of the task: ")
  lu.assertStrContains(fails(p.apply, p, function() return 1, { (io.open("/dev/null")) } end).message, "cannot be sent")
  opened:close()
  is_usable(p)
end

function TestErrors.test_apply_errors()
  for _, workers in ipairs { 1, 0 } do
    local p <close> = pool.new(workers)
    local e = fails(p.apply, p, function(a, b) error(a .. b) end, "x", "y")
    lu.assertEquals(e.kind, "error")
    lu.assertStrMatches(e.message, "tests/test_errors.lua:%d+: xy")
    lu.assertNil(e.index) -- there is no item to count
    lu.assertNil(e.item)
    lu.assertNotStrContains(tostring(e), "item")
    is_usable(p)
  end
end

TestSources = {}

function TestSources.test_an_iterator_that_raises()
  local p <close> = pool.new(2)
  for at = 1, 200, 66 do
    local i = 0
    local e = fails(p.map, p, function(x) return x end, function()
      i = i + 1
      if i == at then error({ mine = at }) end
      return i
    end)
    lu.assertEquals(e, { mine = at })
    is_usable(p)
  end
end

-- error(nil) is an error: nothing of it may look like an end, or like success.
function TestSources.test_an_error_without_a_value()
  local function counting()
    local i = 0
    return function()
      i = i + 1
      if i > 3 then error(nil) end
      return i
    end
  end
  for _, workers in ipairs { 0, 2 } do
    lu.assertFalse((pcall(pool.map, tostring, counting(), { workers = workers })))
    local seen = 0
    lu.assertFalse((pcall(function()
      for i in pool.imap(tostring, counting(), { workers = workers }) do seen = i end
    end)))
    lu.assertEquals(seen, 3)
    local p <close> = pool.new { workers = workers }
    lu.assertFalse((pcall(function() p:map_async(tostring, counting()):get() end)))
    local f = p:submit(tostring, 1)
    f:on_done(function() error(nil) end)
    local ok, problem = pcall(function()
      f:get()
      p:close()
    end)
    lu.assertEquals({ ok, problem }, { false, "(error object is a nil value)" })
  end
end

function TestSources.test_an_iterator_that_yields_has_nowhere_to_go()
  local p <close> = pool.new(1)
  local co = coroutine.wrap(function()
    return pcall(p.map, p, function(x) return x end, function() coroutine.yield(1) end)
  end)
  local ok, message = co()
  lu.assertFalse(ok)
  lu.assertStrContains(tostring(message), "attempt to yield across a C-call boundary")
  is_usable(p)
end

function TestSources.test_terminate_by_the_source_ends_the_call()
  local p = pool.new(2)
  local i, pids = 0, nil
  local e = fails(p.map, p, function(x) return x end, function()
    i = i + 1
    if i == 5 then
      pids = p:workers()
      p:terminate()
    end
    return i
  end)
  lu.assertEquals(e.kind, "cancelled")
  lu.assertStrContains(tostring(e), "the pool was terminated")
  lu.assertNotNil(pids)
  lu.assertEquals(#proc.children(proc.pid()), 0)
end

TestRetryDelay = {}

function TestRetryDelay.test_each_wait_is_twice_as_long()
  for _, workers in ipairs { 0, 2 } do
    for _, verb in ipairs { "map", "imap" } do
      local at, tries = pool.array("f64", 4), pool.counter()
      local function fn(x)
        if x ~= 2 then return x end
        local try = tries:add()
        at[try] = proc.now()
        if try < 4 then error("not yet") end
        return try
      end
      local options, results = { workers = workers, retries = 3, retry_delay = 0.05 }, {}
      if verb == "map" then
        results = pool.map(fn, 5, options)
      else
        for i, value in pool.imap(fn, 5, options) do results[i] = value end
      end
      lu.assertEquals(results, { 1, 4, 3, 4, 5 })
      for k = 1, 3 do lu.assertTrue(at[k + 1] - at[k] >= 0.05 * 2 ^ (k - 1), k) end
    end
  end
end

-- One worker is enough for all that is not waiting, and a lazy source goes on. Deaths wait, too.
function TestRetryDelay.test_others_run_meanwhile()
  for _, how in ipairs { "error", "exit" } do
    local others, early, tries = pool.counter(), pool.counter(), pool.array("i32", 100)
    local results = pool.map(function(x)
      tries[x] = tries[x] + 1
      if x > 20 then
        others:add()
      elseif tries[x] == 1 then
        if how == "exit" and x % 10 == 0 then os.exit(1) end
        error("not yet")
      elseif others:get() < 80 then
        early:add()
      end
      return x
    end, ways.up_to(100), { workers = 1, chunk = 1, retries = 1, retry_delay = 1 + proc.slowness })
    lu.assertEquals(#results, 100)
    lu.assertEquals(early:get(), 0, how)
    for i = 1, 100 do lu.assertEquals(tries[i], i <= 20 and 2 or 1) end
  end
end

-- Whatever ends the call ends the waiting.
function TestRetryDelay.test_ended_while_they_wait()
  local p <close> = pool.new(2)
  local function begin(options)
    local ran = pool.counter()
    options.retries, options.retry_delay = 1, 3600
    local f = p:map_async(function()
      ran:add()
      error("no")
    end, 10, options)
    while ran:get() < 10 and f:status() ~= "timeout" do p:step(0.01) end
    return f, ran
  end
  local f, ran = begin {}
  lu.assertTrue(f:cancel())
  lu.assertEquals(f:status(), "cancelled")
  f = begin {}
  p:cancel()
  lu.assertEquals(f:status(), "cancelled")
  f = begin { deadline = 0.1 }
  local ok, err = pcall(f.get, f)
  lu.assertFalse(ok)
  lu.assertStrContains(err.message, "deadline")
  lu.assertEquals(p:map(math.abs, { -1, -2 }), { 1, 2 })
  f = begin {}
  lu.assertFalse(p:close(0.05))
  lu.assertEquals(f:status(), "pending")
  p:terminate()
  lu.assertEquals(f:status(), "cancelled")
  lu.assertEquals(ran:get(), 10)
end

-- Somebody else's loop is woken when the time has come.
function TestRetryDelay.test_in_a_loop_of_ones_own()
  local p <close> = pool.new(1)
  local tries = pool.counter()
  local f = p:map_async(function()
    if tries:add() < 3 then error("not yet") end
    return "at last"
  end, 1, { retries = 5, retry_delay = 0.02 })
  local fd, woken = p:fd(), 0
  while p:step() > 0 do
    lu.assertTrue(proc.readable(fd, 60))
    woken = woken + 1
  end
  lu.assertEquals((f:get()), { "at last" })
  lu.assertTrue(woken < 100, woken) -- it waits, and does not only ask
end

TestCrash = {}

local WAYS = {
  { name = "exit 0", die = function() os.exit(0) end, exitcode = 0 },
  { name = "exit 7", die = function() os.exit(7) end, exitcode = 7 },
  { name = "exit true", die = function() os.exit(true, true) end, exitcode = 0 },
  { name = "exit false", die = function() os.exit(false) end, exitcode = 1 },
  { name = "SIGKILL", die = function() kill_worker("KILL") end, signal = "SIGKILL" },
  { name = "SIGSEGV", die = function() kill_worker("SEGV") end, signal = "SIGSEGV", is_caught = true },
  { name = "SIGABRT", die = function() kill_worker("ABRT") end, signal = "SIGABRT" },
  { name = "SIGBUS", die = function() kill_worker("BUS") end, signal = "SIGBUS", is_caught = true },
}

function TestCrash.test_every_way_to_die_is_named_and_blamed_on_the_item()
  local p <close> = pool.new(2)
  for i = 1, #WAYS do
    local die = WAYS[i].die
    for round = 1, 2 do
      local e = fails(p.map, p, function(x)
        if x == 5 then die() end
        return x
      end, 9, { chunk = round == 1 and "auto" or 3 })
      lu.assertEquals({ e.kind, e.index, e.item }, { "crash", 5, "5" }, WAYS[i].name)
      if not (IS_SANITIZED and WAYS[i].is_caught) then
        lu.assertEquals(e.exitcode, WAYS[i].exitcode, WAYS[i].name)
        lu.assertEquals(e.signal, WAYS[i].signal, WAYS[i].name)
        lu.assertStrContains(e.message, WAYS[i].signal or "exit status " .. WAYS[i].exitcode)
      end
      lu.assertTrue(e.max_rss > 100000)
      lu.assertTrue(e.pid > 1 and (e.worker == 1 or e.worker == 2))
      lu.assertStrContains(tostring(e), "item 5 (5), worker ")
    end
    is_usable(p)
  end
end

function TestCrash.test_crashes_with_items_of_an_iterator()
  local p <close> = pool.new(2)
  local e = fails(p.map, p, function(x)
    if x == "c" then os.exit(3) end
    return x
  end, ("abcdef"):gmatch("."))
  lu.assertEquals({ e.kind, e.index, e.item, e.exitcode }, { "crash", 3, '"c"', 3 })
end

function TestCrash.test_apply()
  local p <close> = pool.new(1)
  local e = fails(p.apply, p, function() os.exit(9) end)
  lu.assertEquals({ e.kind, e.exitcode }, { "crash", 9 })
  lu.assertNil(e.index)
  is_usable(p)
end

function TestCrash.test_a_worker_told_to_end_by_somebody()
  local p <close> = pool.new(1)
  for _, signal in ipairs { "TERM", "HUP" } do
    local e = fails(p.map, p, function(x)
      if x == 2 then kill_worker(signal) end
      return x
    end, 3)
    lu.assertEquals({ e.kind, e.index }, { "crash", 2 }, signal)
    lu.assertEquals(e.signal, "SIG" .. signal)
    is_usable(p)
  end
end

-- Every item leaves a line in a file, and some die after that: what had finished is neither lost nor run again.
function TestCrash.test_finished_items_are_kept_and_not_run_again()
  for _, chunk in ipairs { 1, 7, 100, "auto" } do
    local book <close> = notebook()
    local name = book.name
    local p <close> = pool.new(2)
    local results, n, errors = p:map(function(x)
      note(name, tostring(x))
      if x % 20 == 0 then os.execute("kill -KILL " .. pool.worker.pid) end
      if x % 20 == 0 then while true do end end
      return x * 2
    end, 100, { errors = "collect", chunk = chunk })
    lu.assertEquals(n, 100)
    local lines = book.lines()
    for i = 1, 100 do
      lu.assertEquals(lines[tostring(i)], 1, "times that item " .. i .. " ran, chunk " .. chunk)
      if i % 20 == 0 then
        lu.assertEquals({ errors[i].kind, errors[i].signal, errors[i].index }, { "crash", "SIGKILL", i })
        lu.assertNil(results[i])
      else
        lu.assertEquals(results[i], i * 2)
        lu.assertNil(errors[i])
      end
    end
    is_usable(p)
  end
end

function TestCrash.test_skip()
  for _, source in ipairs { "number", "iterator" } do
    local p <close> = pool.new { workers = 2, on_crash = "skip" }
    local i = 0
    local results, n, errors = p:map(function(x)
      if x % 3 == 0 then os.exit(1) end
      return x
    end, source == "number" and 10 or function()
      i = i + 1
      return i <= 10 and i or nil
    end)
    lu.assertEquals({ n, errors }, { 10 })
    for k = 1, 10 do lu.assertEquals(results[k], k % 3 ~= 0 and k or nil) end
    lu.assertEquals(fails(p.map, p, function() error("x") end, 1).kind, "error") -- that is no crash
  end
end

function TestCrash.test_retry()
  local book <close> = notebook()
  local name = book.name
  local function dies_twice(x)
    note(name, "try " .. x)
    local tries = 0
    for line in io.lines(name) do if line == "try " .. x then tries = tries + 1 end end
    if x == 4 and tries < 3 then os.exit(1) end
    return x
  end
  local p <close> = pool.new(2)
  lu.assertEquals((p:map(dies_twice, 6, { on_crash = "retry" })), { 1, 2, 3, 4, 5, 6 })
  local lines = book.lines()
  for i = 1, 6 do lu.assertEquals(lines["try " .. i], i == 4 and 3 or 1) end
  local e = fails(p.map, p, function()
    note(name, "always")
    os.exit(5)
  end, 1, { on_crash = "retry", retries = 3 })
  lu.assertEquals({ e.kind, e.exitcode, e.index }, { "crash", 5, 1 })
  lu.assertEquals(book.lines().always, 4)
  is_usable(p)
end

-- Who asks for crashes to be retried has not asked for errors to be.
function TestCrash.test_retry_of_crashes_alone()
  local book <close> = notebook()
  local name = book.name
  local p <close> = pool.new(1)
  fails(p.map, p, function()
    note(name, "error")
    error("no")
  end, 1, { on_crash = "retry" })
  lu.assertEquals(book.lines().error, 1)
end

function TestCrash.test_idle_workers_that_die_cost_nothing()
  local p <close> = pool.new(2)
  for _ = 1, 5 do
    is_usable(p)
    for _, worker in ipairs(p:workers()) do proc.kill(worker.pid, "KILL") end
  end
  is_usable(p)
  for _, worker in ipairs(p:workers()) do proc.kill(worker.pid, "KILL") end
  lu.assertTrue(p:close())
end

-- A worker that answers and leaves (somebody sent it SIGTERM) still looks awake when it is already gone: nobody may count upon it.
function TestCrash.test_workers_that_die_between_two_calls()
  local p <close> = pool.new { workers = 3, errors = "collect" }
  for _ = 1, 200 do
    p:map(function(x)
      if x == 1 then os.execute("kill -TERM " .. pool.worker.pid) end
      return x
    end, 3, { chunk = 1 })
    local results, n = p:map(function(x) return x + 1 end, { 1, 2 })
    lu.assertEquals({ results, n }, { { 2, 3 }, 2 })
  end
end

-- Deaths of every sort at random moments, from inside and from outside: each item has its result or its error, and the next call works.
function TestCrash.test_random_deaths()
  local p <close> = pool.new { workers = 3, errors = "collect", grace = 0.2 }
  for round = 1, os.getenv "SOAK" and 3000 or 100 do
    local n, signal = math.random(1, 400), ({ "KILL", "TERM", "HUP" })[math.random(3)]
    local victim, from_outside, i, source = math.random(n), round % 3 == 0, 0, n
    if round % 3 == 1 then
      source = {}
      for k = 1, n do source[k] = k end
    elseif from_outside then
      source = function()
        i = i + 1
        local workers = p:workers()
        if i == victim and #workers > 0 then proc.kill(workers[math.random(#workers)].pid, signal) end
        return i <= n and i or nil
      end
    end
    local results, count, errors = p:map(function(x)
      if x == victim and not from_outside then os.execute(("kill -%s %d"):format(signal, pool.worker.pid)) end
      if x == victim // 2 and x % 3 == 0 then os.exit(x % 5) end
      return x % 7 == 0 and ("x"):rep(x * 100) or { x }
    end, source, { chunk = ({ "auto", 1, 5, 50 })[math.random(4)] })
    lu.assertEquals(count, n)
    for k = 1, n do
      if errors[k] then
        lu.assertEquals({ errors[k].kind, errors[k].index, results[k] }, { "crash", k })
      elseif k % 7 == 0 then
        lu.assertTrue(results[k] == ("x"):rep(k * 100))
      else
        lu.assertEquals(results[k][1], k)
      end
    end
  end
end

function TestCrash.test_terminate_with_dead_workers()
  local p = pool.new(2)
  is_usable(p)
  for _, worker in ipairs(p:workers()) do proc.kill(worker.pid, "KILL") end
  p:terminate()
  lu.assertEquals(#proc.children(proc.pid()), 0)
end

TestTimeout = {}

function TestTimeout.test_an_endless_loop()
  local limit = 0.5 * proc.slowness -- nothing to those who do not loop
  local p <close> = pool.new { workers = 2, timeout = limit, grace = 30 }
  local e = fails(p.map, p, function(x)
    while x == 3 do end
    return x
  end, 5)
  lu.assertEquals({ e.kind, e.index, e.item }, { "timeout", 3, "3" })
  lu.assertStrContains(e.message, ("%.1f s"):format(limit))
  lu.assertStrMatches(e.traceback, ".*tests/test_errors.lua:%d+: in function.*")
  lu.assertNil(e.signal)
  is_usable(p)
  lu.assertEquals(p:stats().forks, 2) -- nobody had to die
end

function TestTimeout.test_the_call_has_the_last_word_about_the_limit()
  local p <close> = pool.new { workers = 1, timeout = 600 }
  local e = fails(p.map, p, function() while true do end end, 1, { timeout = 0.05 })
  lu.assertEquals(e.kind, "timeout")
  lu.assertStrContains(e.message, "0.05 s")
  local q <close> = pool.new(1)
  e = fails(q.map, q, function() while true do end end, 1, { timeout = 0.05 })
  lu.assertStrContains(e.message, "0.05 s")
end

function TestTimeout.test_the_task_sees_it_and_cleans_up()
  local book <close> = notebook()
  local name = book.name
  local p <close> = pool.new { workers = 1, timeout = 0.3 * proc.slowness, grace = 30 }
  local results = p:map(function()
    local ok, e = pcall(function()
      local guard <close> = setmetatable({}, { __close = function() note(name, "closed") end }) -- luacheck: ignore
      while true do end
    end)
    return { ok = ok, kind = e.kind, text = tostring(e), is_error = getmetatable(e) == pool.Error }
  end, 1)
  lu.assertEquals(results[1].ok, false)
  lu.assertEquals(results[1].kind, "timeout")
  lu.assertEquals(results[1].is_error, true)
  lu.assertStrContains(results[1].text, "took")
  lu.assertEquals(book.lines().closed, 1)
end

function TestTimeout.test_a_task_that_does_not_listen_is_killed_after_grace()
  local p <close> = pool.new { workers = 2, timeout = 0.3 * proc.slowness, grace = 0.05 }
  local results, n, errors = p:map(function(x)
    while x == 2 do pcall(function() while true do end end) end
    return x
  end, 4, { errors = "collect" })
  lu.assertEquals({ results[1], results[2], results[3], results[4], n }, { 1, nil, 3, 4, 4 })
  lu.assertEquals({ errors[2].kind, errors[2].index, errors[2].signal }, { "timeout", 2, "SIGKILL" })
  is_usable(p)
end

function TestTimeout.test_a_task_in_another_program_is_ended_with_it()
  local p <close> = pool.new { workers = 1, timeout = 0.05, grace = 0.05 }
  local e = fails(p.map, p, function() os.execute("sleep 1000") while true do end end, 1)
  lu.assertEquals(e.kind, "timeout")
  is_usable(p)
end

-- The limit is one item's: many short items in one chunk may take longer together.
function TestTimeout.test_each_item_has_its_own_time()
  local limit = 1 * proc.slowness
  local p <close> = pool.new { workers = 1, timeout = limit }
  local _, n = p:map(function()
    local until_time = os.clock() + limit * 0.012
    while os.clock() < until_time do end
  end, 100, { chunk = 100 })
  lu.assertEquals(n, 100)
  for _, chunk in ipairs { 1, 5, 20 } do
    local results, _, errors = p:map(function(x)
      while x == 7 do end
      return x
    end, 20, { chunk = chunk, errors = "collect", timeout = 0.3 * proc.slowness })
    lu.assertEquals(errors[7].kind, "timeout")
    for i = 1, 20 do lu.assertEquals(results[i], i ~= 7 and i or nil) end
    errors[7] = nil
    lu.assertNil(next(errors))
  end
end

function TestTimeout.test_apply()
  local p <close> = pool.new { workers = 1, timeout = 0.05 }
  lu.assertEquals(fails(p.apply, p, function() while true do end end).kind, "timeout")
  is_usable(p)
end

TestMemory = {}

function TestMemory.test_a_budget_is_a_catchable_error()
  local p <close> = pool.new { workers = 1, memory = "16M" }
  local results = p:map(function()
    local ok, message = pcall(string.rep, "x", 64 << 20)
    return { ok, message, #("x"):rep(1 << 20) }
  end, 2)
  lu.assertEquals(results[1], { false, "not enough memory", 1 << 20 })
  lu.assertEquals(results[2], { false, "not enough memory", 1 << 20 })
end

function TestMemory.test_uncaught_it_is_that_item_s_failure()
  local p <close> = pool.new { workers = 2, memory = 16 << 20 }
  local results, n, errors = p:map(function(x)
    local t = {}
    while x == 3 do t[#t + 1] = ("x"):rep(100000) .. #t end
    return x
  end, 6, { errors = "collect" })
  lu.assertEquals({ results[1], results[2], results[3], results[4], results[5], results[6], n }, { 1, 2, nil, 4, 5, 6, 6 })
  lu.assertEquals({ errors[3].kind, errors[3].index, errors[3].message }, { "memory", 3, "not enough memory" })
  is_usable(p)
  lu.assertEquals(p:stats().forks, 2)
end

function TestMemory.test_garbage_does_not_count()
  local p <close> = pool.new { workers = 1, memory = "16M" }
  local _, n = p:map(function() for _ = 1, 40 do local s = ("x"):rep(1 << 20) .. "y" if #s == 0 then error() end end end, 3)
  lu.assertEquals(n, 3)
end

function TestMemory.test_for_one_call()
  local p <close> = pool.new(1)
  local function big() return #("x"):rep(64 << 20) end
  lu.assertEquals(fails(p.map, p, big, 1, { memory = "8M" }).kind, "memory")
  lu.assertEquals((p:map(big, 1)), { 64 << 20 })
  lu.assertEquals(fails(p.map, p, big, 1, { memory = "8M" }).kind, "memory")
end

TestSameShape = {}

local function silent(e)
  if getmetatable(e) ~= pool.Error then return e end
  local shape = {}
  for key, value in pairs(e) do shape[key] = value end
  shape.worker, shape.pid, shape.max_rss = nil, nil, nil
  return shape
end

local OPENED = io.open("/dev/null")

local CASES = {
  results = function(p) return p:map(function(x) return x * 2 end, 7) end,
  nils = function(p) return p:map(function(x) return x % 2 == 0 and x or nil end, 7) end,
  nothing = function(p) return p:map(function() end, 3) end,
  empty = function(p) return p:map(function(x) return x end, 0) end,
  empty_table = function(p) return p:map(function(x) return x end, {}) end,
  empty_iterator = function(p) return p:map(function(x) return x end, function() end) end,
  floats = function(p) return p:map(function(x) return x end, pool.range(0, 1, 0.125)) end,
  down = function(p) return p:map(function(x) return x end, pool.range(5, -5, -3)) end,
  words = function(p) return p:map(string.upper, { "a", "b" }) end,
  iterator = function(p) return p:map(string.byte, ("abc"):gmatch(".")) end,
  many_results = function(p) return p:apply(function(...) return ..., nil, nil end, 1, nil, 2, nil) end,
  no_results = function(p) return select("#", p:apply(function() end)) end,
  copies = function(p)
    local item = { 1 }
    local results = p:map(function(t) t[1] = 2 return t end, { item })
    return results, item, results[1] ~= item
  end,
  error = function(p) return p:map(function(x) if x == 3 then error("at " .. x) end return x end, 5, { chunk = 5 }) end,
  error_value = function(p) return p:map(function() error({ code = 1 }) end, 1) end,
  error_without_value = function(p) return p:map(function() error() end, 1) end,
  error_number = function(p) return p:map(function() error(12) end, 1) end,
  error_that_cannot_cross = function(p) return p:map(function() error(OPENED) end, 1) end,
  error_of_a_library_function = function(p) return p:map(string.rep, { {} }) end,
  error_of_an_operator = function(p) return p:map(function(x) return x.y.z end, { {} }) end,
  collected = function(p) return p:map(function(x) if x > 1 then error("x", 0) end return x end, 3, { errors = "collect" }) end,
  result_that_cannot_cross = function(p) return p:map(function() return { a = { OPENED } } end, 1) end,
  item_that_cannot_cross = function(p)
    local given
    return p:map(function(x) return x end, function()
      if given then return nil end
      given = true
      return { OPENED }
    end)
  end,
  argument_that_cannot_cross = function(p) return p:apply(print, 1, { x = OPENED }) end,
  applied_result_that_cannot_cross = function(p) return p:apply(function() return 1, { OPENED } end) end,
  applied_error = function(p) return p:apply(function(x) error(x) end, "e") end,
  source_error = function(p) return p:map(print, function() error("source", 0) end) end,
  called_from_nowhere = function(p) return p:map(error, { "only", "this" }, { chunk = 2 }) end,
  retried = function(p) return p:map(function(x) error("r" .. x) end, 1, { retries = 2 }) end,
}

-- workers = 0 is the reference that every other number of workers is compared with.
for name, case in pairs(CASES) do
  TestSameShape["test_" .. name] = function()
    local inline <close> = pool.new(0)
    local real <close> = pool.new(1)
    local expected = table.pack(pcall(case, inline))
    for _ = 1, 2 do
      local got = table.pack(pcall(case, real))
      lu.assertEquals(got.n, expected.n)
      for i = 1, expected.n do
        if name == "collected" and i == 4 then
          for k in pairs(expected[i]) do lu.assertEquals(silent(got[i][k]), silent(expected[i][k])) end
        else
          lu.assertEquals(silent(got[i]), silent(expected[i]))
        end
      end
    end
  end
end

TestHooks = {}

function TestHooks.test_on_start_and_on_exit_once_in_every_worker()
  local book <close> = notebook()
  local name = book.name
  do
    local p <close> = pool.new {
      workers = 2,
      on_start = function(w)
        state_of_worker = w.id * 10 -- luacheck: ignore
        note(name, ("start %d %s"):format(w.id, w.pid == pool.worker.pid))
      end,
      on_exit = function(w) note(name, ("exit %d %s"):format(w.id, w.pid == pool.worker.pid)) end,
    }
    lu.assertEquals(book.lines(), {})
    for _ = 1, 3 do
      local results = p:map(function() return state_of_worker - pool.worker.id * 10 end, 50) -- luacheck: ignore
      for i = 1, 50 do lu.assertEquals(results[i], 0) end
    end
  end
  lu.assertEquals(book.lines(), { ["start 1 true"] = 1, ["start 2 true"] = 1, ["exit 1 true"] = 1, ["exit 2 true"] = 1 })
  lu.assertNil(state_of_worker) -- luacheck: ignore
end

function TestHooks.test_a_replaced_worker_starts_too()
  local book <close> = notebook()
  local name = book.name
  do
    local p <close> = pool.new { workers = 1, on_crash = "skip", on_start = function(w) note(name, "start " .. w.id) end }
    p:map(function(x) if x == 2 then os.exit(1) end return x end, 3)
  end
  lu.assertEquals(book.lines(), { ["start 1"] = 2 })
end

function TestHooks.test_on_start_that_fails()
  local p <close> = pool.new { workers = 2, on_start = function() error("no database") end }
  for _ = 1, 2 do
    local e = fails(p.map, p, function(x) return x end, 3)
    lu.assertEquals(getmetatable(e), pool.Error)
    lu.assertStrMatches(e.message, "on_start failed: tests/test_errors.lua:%d+: no database")
    lu.assertEquals(e.kind, "error")
  end
end

function TestHooks.test_workers_that_die_at_their_start_are_not_forked_for_ever()
  local p <close> = pool.new { workers = 2, on_start = function() os.exit(4) end }
  local e = fails(p.map, p, function(x) return x end, 3)
  lu.assertEquals({ e.kind, e.exitcode }, { "crash", 4 })
  lu.assertStrContains(e.message, "before they are ready")
  lu.assertTrue(p:stats().forks < 50)
end

-- Some die before they are ready, but others got there: it is no reason to give up. (Worker 1 at its first try, worker 2 at its first, and
-- twice more when worker 1 is at work.)
function TestHooks.test_workers_that_die_at_their_start_now_and_then()
  local first, second, ran = pool.counter(), pool.counter(), pool.counter()
  local p <close> = pool.new { workers = 2, on_start = function(w)
    if w.id == 1 then return first:add() == 1 and os.exit(4) end
    local try = second:add()
    while try > 1 and ran:get() == 0 do end
    if try < 4 then os.exit(4) end
  end }
  lu.assertEquals(p:map(function(x)
    ran:add()
    while second:get() < 4 do end
    return x
  end, 2, { chunk = 1 }), { 1, 2 })
  lu.assertEquals({ first:get(), second:get() }, { 2, 4 })
end

function TestHooks.test_on_exit_that_fails_is_a_warning_and_no_more()
  local child <close> = proc.spawn { args = { os.getenv("LUAPOOL"), "-W", "-e", [[
    local p = pool.new { workers = 1, on_exit = function() error("cannot tidy", 0) end }
    p:map(tostring, 3)
    print((p:close()))]] } }
  local status, out, err = child:finish(20)
  lu.assertEquals({ status.exit, out }, { 0, "true\n" })
  lu.assertStrContains(err, "on_exit failed: ")
  lu.assertStrContains(err, "cannot tidy")
end

TestInlineHooks = {}

function TestInlineHooks.test_the_host_is_worker_0_while_the_call_lasts()
  local seen = {}
  local p = pool.new{ workers = 0, on_start = function(w) seen[#seen + 1] = "start " .. w.id end,
    on_exit = function(w) seen[#seen + 1] = "exit " .. w.id end }
  lu.assertEquals(p:map(function() return pool.worker.id end, 2), { 0, 0 })
  lu.assertNil(pool.worker)
  lu.assertEquals(p:apply(function() return pool.worker.id end), 0)
  lu.assertEquals(seen, { "start 0" })
  p:close()
  lu.assertEquals(seen, { "start 0", "exit 0" })
end

function TestInlineHooks.test_errors_in_them()
  local p = pool.new{ workers = 0, on_start = function() error("not today", 0) end }
  local ok, err = pcall(p.map, p, tostring, 1)
  lu.assertFalse(ok)
  lu.assertEquals(err.message, "on_start failed: not today")
  lu.assertEquals(getmetatable(err), pool.Error)
  lu.assertNil(pool.worker)
  local bad = setmetatable({}, { __tostring = function() error("in __tostring") end })
  pool.map(tostring, 1, { workers = 0, on_exit = function() error(bad) end })
end

function TestInlineHooks.test_a_pool_used_inside_its_own_task_starts_nothing_twice()
  local starts = 0
  local p <close> = pool.new{ workers = 1, on_start = function() starts = starts + 1 end }
  local function task(x) return p:map(function(y) return y + x end, 2)[2] + 100 * starts end
  lu.assertEquals(pool.worker, nil)
  lu.assertEquals(p:map(task, 3), { 103, 104, 105 })
end
