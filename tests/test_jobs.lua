-- Long jobs and what goes with them: log and resume in the verbs, results into arrays, broadcast, recycled workers, progress.
local lu = require "luaunit"
local proc = require "proc"
local post = require "post"
local pool = require "luapool"
local ways = require "ways"

local path

local function set_up()
  path = proc.directory() .. "/test_jobs.jsonl"
  os.remove(path)
end

local function count_runs(log)
  local n = 0
  for line in io.lines(log) do n = n + (line:find '^{"i":' and 1 or 0) end
  return n
end

-- ---- log and resume ----

TestLogged = { setUp = set_up, tearDown = function() os.remove(path) end }

local function half(x)
  if x == 4 then error("four is bad", 0) end
  return { x / 2, nan = x }
end

function TestLogged.test_what_is_done_is_not_run_again()
  local p <close> = pool.new(2)
  local ran = pool.counter()
  local function fn(x)
    ran:add(1)
    return x * 0.1
  end
  local first = p:map(fn, 50, { log = path })
  lu.assertEquals(ran:get(), 50)
  local second, n = p:map(fn, 50, { log = path, resume = true })
  lu.assertEquals(ran:get(), 50)
  lu.assertEquals(n, 50)
  for i = 1, 50 do lu.assertTrue(first[i] == second[i] and math.type(second[i]) == "float") end
end

function TestLogged.test_failures_stay_unless_they_are_to_be_tried_again()
  local options = { log = path, errors = "collect", workers = 2 }
  local results, n, errors = pool.map(half, 6, options)
  lu.assertEquals({ n, results[6][1], errors[4].message, errors[4].index }, { 6, 3.0, "four is bad", 4 })
  options.resume = true
  results, n, errors = pool.map(half, 6, options)
  lu.assertEquals({ n, results[6], errors[4].message, errors[4].index }, { 6, { 3.0, nan = 6 }, "four is bad", 4 })
  lu.assertEquals(count_runs(path), 6)
  options.resume = "failed"
  errors = select(3, pool.map(half, 6, options))
  lu.assertEquals(errors[4].index, 4)
  lu.assertEquals(errors[4].item, "4")
  lu.assertEquals(count_runs(path), 7)
end

function TestLogged.test_a_failure_is_raised_after_it_was_logged()
  local ok, e = pcall(pool.map, half, { 2, 4 }, { log = path, workers = 1 })
  lu.assertFalse(ok)
  lu.assertEquals({ e.index, e.message }, { 2, "four is bad" })
  local n = 0
  for line in io.lines(path) do n = n + (line:find '"ok":false' and 1 or 0) end
  lu.assertEquals(n, 1)
end

function TestLogged.test_imap_gives_stored_and_new_results_in_order()
  local options = { log = path, errors = "collect", workers = 2 }
  for i in pool.imap(half, 10, options) do
    if i == 5 then break end
  end
  options.resume = true
  local seen = {}
  for i, v, e in pool.imap(half, 10, options) do seen[#seen + 1] = v and v[1] == i / 2 and v.nan == i or e and e.index == i and e.kind end
  lu.assertEquals(seen, { true, true, true, "error", true, true, true, true, true, true })
  lu.assertTrue(count_runs(path) <= 10 + 8) -- at most what ran ahead of the loop was run twice
  seen = {}
  for i in pool.imap_unordered(half, 10, options) do seen[i] = true end
  lu.assertEquals(#seen, 10)
end

function TestLogged.test_each_and_starmap_and_iterators()
  local runs = pool.counter()
  local function lines()
    local i = 0
    return function()
      i = i + 1
      return i <= 7 and "line " .. i or nil
    end
  end
  local function fn()
    runs:add(1)
    return io.stdout -- could not cross: nobody wants it
  end
  lu.assertEquals(pool.each(fn, lines(), { log = path, workers = 2 }), 7)
  lu.assertEquals(pool.each(fn, lines(), { log = path, workers = 2, resume = true }), 7)
  lu.assertEquals(runs:get(), 7)
  os.remove(path)
  local star = { log = path, workers = 2 }
  lu.assertEquals(pool.starmap(math.max, { { 1, 2 }, { 5, 3 } }, star), { 2, 5 })
  star.resume = true
  lu.assertEquals(pool.starmap(math.max, { { 1, 2 }, { 5, 3 } }, star), { 2, 5 })
end

-- The random numbers of an item are its own, also when only some are run again.
function TestLogged.test_seeds_are_those_of_the_whole_job()
  local function dice() return math.random(1 << 40) end
  local whole = pool.map(dice, 20, { seed = 7, workers = 2 })
  for i in pool.imap(dice, 20, { seed = 7, workers = 2, log = path }) do
    if i == 9 then break end
  end
  lu.assertEquals(pool.map(dice, 20, { seed = 7, workers = 2, log = path, resume = true }), whole)
end

-- A script whose log is optional says: log = path, resume = path ~= nil.
function TestLogged.test_resume_without_a_log()
  local ok, message = pcall(pool.map, half, 3, { workers = 1, resume = true })
  lu.assertFalse(ok)
  lu.assertStrContains(message, "bad option 'resume' to 'map' (it says how to go on with a log: the option 'log' is missing)")
  lu.assertEquals(#pool.map(half, 3, { workers = 1, resume = false }), 3)
end

function TestLogged.test_another_job_is_refused()
  pool.map(half, 3, { log = path, workers = 1 })
  local ok, e = pcall(pool.map, half, 2, { log = path, workers = 1, resume = true })
  lu.assertEquals({ ok, getmetatable(e), e.kind }, { false, pool.Error, "error" })
  lu.assertStrContains(tostring(e), "belongs to another job")
  ok, e = pcall(pool.map, half, 3, { log = path, workers = 1 })
  lu.assertEquals({ ok, e.kind }, { false, "error" })
  lu.assertStrContains(e.message, "resume = true")
end

-- Whoever runs it, the log is the same.
function TestLogged.test_without_workers()
  for _, verb in ipairs { "map", "each", "imap" } do
    os.remove(path)
    local options = { workers = 0, log = path, errors = "collect", resume = true }
    for _ = 1, 2 do
      local errors
      if verb == "map" then
        local results, n
        results, n, errors = pool.map(half, 5, options)
        lu.assertEquals({ n, results[5].nan }, { 5, 5 })
      elseif verb == "each" then
        local n
        n, errors = pool.each(half, 5, options)
        lu.assertEquals(n, 5)
      else
        errors = {}
        for i, value, err in pool.imap(half, 5, options) do
          lu.assertEquals(value and value.nan, i ~= 4 and i or nil)
          errors[i] = err
        end
      end
      lu.assertEquals(errors[4].message, "four is bad")
      lu.assertEquals(count_runs(path), 5, verb)
    end
  end
end

-- on_crash = "skip": the log says what happened, the results have nil in its place.
function TestLogged.test_skipped_crashes()
  local function fatal(x)
    if x == 3 then os.exit(9) end
    return x
  end
  local options = { workers = 2, log = path, on_crash = "skip", resume = true }
  for _ = 1, 2 do
    local results, n = pool.map(fatal, 5, options)
    lu.assertEquals({ n, results[2], results[3], results[5] }, { 5, 2, nil, 5 })
    local seen = 0
    for i, value in pool.imap(fatal, 5, options) do
      seen = seen + i
      lu.assertEquals(value, i ~= 3 and i or nil)
    end
    lu.assertEquals(seen, 15)
  end
  options.errors = "collect"
  local _, _, errors = pool.map(fatal, 5, options)
  lu.assertEquals({ errors[3].kind, errors[3].exitcode }, { "crash", 9 })
end

-- A result that this program cannot make any more (here: of a module that is gone) is computed again, in its place.
function TestLogged.test_stored_results_that_cannot_be_read_are_done_again()
  local function clock(x)
    local ok, module = pcall(require, "proc")
    return x % 2 == 0 and ok and module.now or x
  end
  local loaded, cpath = package.loaded.proc, package.cpath
  local restored <close> = setmetatable({}, { __close = function() package.loaded.proc, package.cpath = loaded, cpath end })
  lu.assertIsTable(restored)
  for _, verb in ipairs { "map", "imap" } do
    os.remove(path)
    package.loaded.proc, package.cpath = loaded, cpath
    lu.assertIs(pool.map(clock, 5, { workers = 1, log = path })[2], proc.now)
    package.loaded.proc, package.cpath = nil, ""
    local results, order = {}, {}
    if verb == "map" then
      results = pool.map(clock, 5, { workers = 1, log = path, resume = true })
    else
      for i, value in pool.imap(clock, 5, { workers = 1, log = path, resume = true }) do
        results[i], order[#order + 1] = value, i
      end
      lu.assertEquals(order, { 1, 2, 3, 4, 5 })
    end
    lu.assertEquals(results, { 1, 2, 3, 4, 5 }, verb)
  end
end

-- Only the log knows which items of an iterator were run before; errors of the others name their item all the same.
function TestLogged.test_errors_name_items_of_resumed_iterators()
  local function words()
    local i = 0
    return function()
      i = i + 1
      return i <= 6 and "word " .. i or nil
    end
  end
  local function fail(word)
    if word:find "[25]" then error("no") end
  end
  local options = { workers = 2, log = path, errors = "collect", resume = "failed" }
  for _ = 1, 2 do
    local _, _, errors = pool.map(fail, words(), options)
    lu.assertEquals({ errors[2].index, errors[2].item, errors[5].index, errors[5].item }, { 2, '"word 2"', 5, '"word 5"' })
  end
end

-- Whoever waits for a success does not go on over failures: they end the call, log or not.
function TestLogged.test_failures_end_a_call_that_waits_for_successes()
  for _, log in ipairs { false, path } do
    local ran = pool.counter()
    local ok, err = pcall(pool.map, function(x)
      ran:add()
      error("bad " .. x)
    end, 200000, { workers = 1, log = log, halt = "now,success=1" })
    lu.assertFalse(ok)
    lu.assertStrContains(err.message, "bad 1")
    lu.assertTrue(ran:get() < 200000, tostring(log))
  end
end

-- kill -9 of the host at any moment: what was acknowledged is there, the rest is run again, and the sum comes out right. (However late
-- the kill is, there is something left to do: items beyond LAST do not end.)
function TestLogged.test_kill_and_resume()
  local code = ([[
    local results = pool.map(function(x)
      spin(0.005)
      while x > tonumber(os.getenv "LAST") do end
      return x * x
    end, 100, { workers = 2, chunk = 1, log = %q, resume = true })
    local sum = 0
    for i = 1, 100 do sum = sum + results[i] end
    print(sum)]]):format(path)
  for round = 1, 4 do
    local s <close> = post.start { code = code, env = { LAST = tostring(round * 20) } }
    assert(proc.wait_until(function()
      local file = io.open(path)
      local size = file and file:seek("end") or 0
      if file then file:close() end
      return size > round * 600
    end, 30))
    s:send("host", "KILL")
    s:finish { signal = "SIGKILL" }
  end
  local s <close> = post.start { code = code, env = { LAST = "100" } }
  s:finish { exit = 0, stdout = "338350\n" }
end

-- ---- arrays ----

TestInto = { setUp = set_up, tearDown = function() os.remove(path) end }

function TestInto.test_results_go_into_an_array()
  local p <close> = pool.new(2)
  for _, living in ipairs { false, true } do
    local a = pool.array("f64", 1000)
    local r, n = p:map(function(x) return x / 4 end, 1000, { into = a })
    lu.assertTrue(rawequal(r, a), tostring(living))
    lu.assertEquals({ n, a[1], a[1000] }, { 1000, 0.25, 250.0 })
    local b = pool.array("i32", 1000)
    p:map(function(x) return math.tointeger(x * 4) end, a, { into = b })
    for i = 1, 1000 do assert(b[i] == i) end
    lu.assertEquals(p:reduce(math.max, b), 1000)
  end
end

function TestInto.test_what_does_not_fit_is_the_items_error()
  local a = pool.array("u8", 4)
  local ok, e = pcall(pool.map, function(x) return x * 100 end, 4, { into = a, workers = 1 })
  lu.assertFalse(ok)
  lu.assertEquals(e.index, 3)
  lu.assertStrContains(e.message, "out of the range of u8")
  lu.assertEquals({ a[1], a[2] }, { 100, 200 })
  local _, _, errors = pool.map(function(x) if x ~= 2 then return "text" end return 7 end, 2, { into = a, errors = "collect", workers = 1 })
  lu.assertStrContains(errors[1].message, "number expected")
  lu.assertEquals(a[2], 7)
  local message
  ok, message = pcall(pool.map, print, 5, { into = a })
  lu.assertFalse(ok)
  lu.assertStrContains(message, "bad option 'into' to 'map' (array of at least 5 elements expected, got 4)")
  local i = 0
  _, _, errors = pool.map(function(x) return x end, function()
    i = i + 1
    return i <= 5 and i or nil
  end, { into = a, errors = "collect", workers = 1 })
  lu.assertStrContains(errors[5].message, "the array has 4 elements")
end

function TestInto.test_starmap()
  for _, workers in ipairs { 0, 2 } do
    for _, log in ipairs { false, path } do
      os.remove(path)
      local a = pool.array("i32", 3)
      local r, n = pool.starmap(math.max, { { 1, 5 }, { 7, 2 }, { 3, 4 } }, { workers = workers, into = a, log = log })
      lu.assertTrue(rawequal(r, a))
      lu.assertEquals({ n, a[1], a[2], a[3] }, { 3, 5, 7, 4 })
    end
  end
end

-- The same without workers, and with a log, where the host puts them there.
function TestInto.test_what_does_not_fit_wherever_it_is_stored()
  local a = pool.array("u8", 4)
  local function large(x)
    if x == 2 then return nil end
    return x * 100
  end
  for _, workers in ipairs { 0, 1 } do
    for _, log in ipairs { false, path } do
      os.remove(path)
      for round = 1, log and 2 or 1 do -- the second is resumed
        local result, n, errors = pool.map(large, 4, { into = a, workers = workers, log = log, errors = "collect", resume = log and true })
        lu.assertTrue(rawequal(result, a))
        lu.assertEquals({ n, a[1] }, { 4, 100 })
        lu.assertEquals({ errors[2].kind, errors[2].index, errors[2].item }, { "error", 2, "2" })
        lu.assertStrContains(errors[2].message, "result cannot be stored: number expected for u8, got nil")
        lu.assertStrContains(errors[3].message, "out of the range of u8", round)
        lu.assertStrContains(errors[4].message, "out of the range of u8")
        lu.assertNil(errors[1])
      end
    end
  end
  local _, _, errors = pool.map(math.tointeger, ways.up_to(5), { into = a, errors = "collect", workers = 0 })
  lu.assertStrContains(errors[5].message, "the array has 4 elements")
end

-- ---- broadcast, max_tasks, progress ----

TestWorkers = {}

function TestWorkers.test_broadcast_reaches_every_worker_once()
  local p <close> = pool.new(3)
  lu.assertEquals(p:broadcast(function(k) kept = (kept or 0) + k return pool.worker.id end, 5), { 1, 2, 3 }) -- luacheck: ignore
  lu.assertEquals(p:broadcast(function() return kept end), { 5, 5, 5 }) -- luacheck: ignore
  local ok, e = pcall(p.broadcast, p, function() if pool.worker.id == 2 then os.exit(3) end end)
  lu.assertFalse(ok)
  lu.assertEquals({ e.kind, e.worker, e.index, e.exitcode }, { "crash", 2, 2, 3 })
  lu.assertEquals(p:broadcast(function() return kept or 0 end), { 5, 0, 5 }) -- luacheck: ignore
  local inline <close> = pool.new(0)
  lu.assertEquals(inline:broadcast(function(a, b) return a + b end, 1, 2), { 3 })
end

function TestWorkers.test_broadcast_beside_other_work()
  local p <close> = pool.new(2)
  local future = p:map_async(function(x) return x end, 5000, { chunk = 10 })
  lu.assertEquals(p:broadcast(function() return pool.worker.id end), { 1, 2 })
  lu.assertEquals(#future:get(), 5000)
end

function TestWorkers.test_workers_are_recycled()
  local ends = pool.counter()
  do
    local p <close> = pool.new { workers = 2, max_tasks = 5, on_exit = function() ends:add(1) end }
    local per_worker = {}
    for _, pid in ipairs(p:map(function() return pool.worker.pid end, 40)) do per_worker[pid] = (per_worker[pid] or 0) + 1 end
    local n = 0
    for _, count in pairs(per_worker) do
      lu.assertTrue(count <= 5)
      n = n + 1
    end
    lu.assertTrue(n >= 8)
    lu.assertTrue(p:stats().forks >= 8)
  end
  lu.assertTrue(ends:get() >= 8)
end

function TestWorkers.test_progress_is_told()
  local p <close> = pool.new(2)
  local function told(call)
    local seen = {}
    call(function(done, total) seen[#seen + 1] = { done, total } end)
    for k = 2, #seen do lu.assertTrue(seen[k][1] >= seen[k - 1][1]) end
    lu.assertTrue(#seen >= 1)
    return seen[#seen]
  end
  local function slow(x)
    os.execute("sleep 0.02")
    return x
  end
  lu.assertEquals(told(function(f) p:map(slow, 30, { progress = f }) end), { 30, 30 })
  lu.assertEquals(told(function(f) for _ in p:imap(slow, 30, { progress = f }) do end end), { 30, 30 })
  lu.assertEquals(told(function(f) p:filter(slow, 30, { progress = f }) end), { 30, 30 })
  local ok, message = pcall(p.map, p, slow, 30, { progress = function() error("enough", 0) end })
  lu.assertEquals({ ok, message }, { false, "enough" })
  lu.assertEquals(p:apply(math.abs, -1), 1)
end

-- On a terminal only, and nothing of it stays.
-- Without workers, too, each verb tells it, and does what it does without.
function TestWorkers.test_progress_of_an_inline_pool()
  local function odd(x)
    if x == 7 then error("seven", 0) end
    return x % 2 == 1 and x or nil
  end
  local told
  local options = { workers = 0, errors = "collect", progress = function(done) told = done end }
  for _, source in ipairs { 9, ways.up_to(9) } do
    told = nil
    local results, n, errors = pool.map(odd, source, options)
    lu.assertEquals({ results[1], results[2], results[9], n, errors[7].message, told }, { 1, nil, 9, 9, "seven", 9 })
  end
  told = nil
  lu.assertEquals((pool.each(odd, 9, options)), 9)
  lu.assertEquals(told, 9)
  options.errors = nil
  local ok, err = pcall(pool.map, odd, 9, options)
  lu.assertEquals({ ok, err.message, told }, { false, "seven", 7 })
  options.halt, told = "now,success=2", nil
  local results, n = pool.map(odd, 9, options)
  lu.assertEquals({ results, n, told }, { { 1 }, 9, 2 })
end

function TestWorkers.test_progress_on_a_terminal()
  local code = "pool.map(function(x) os.execute('sleep 0.1') return x end, 20, { workers = 2, progress = true }) print 'end'"
  local s <close> = post.start { pty = true, code = code, env = { TERM = "xterm" } }
  s:finish { exit = 0, stdout = function(out)
    lu.assertStrMatches(out, ".*%d+%%.*")
    lu.assertStrContains(out, "end")
  end }
  local quiet <close> = post.start { code = code }
  quiet:finish { exit = 0, stdout = "end\n", stderr = "" }
end

function TestWorkers.test_resize()
  local function pids(p)
    local list = p:broadcast(function() return pool.worker.pid end)
    local set = {}
    for _, pid in ipairs(list) do set[pid] = true end
    return #list, set
  end
  local p <close> = pool.new(2)
  local n, before = pids(p)
  lu.assertEquals(n, 2)
  p:resize(5)
  local after
  n, after = pids(p)
  lu.assertEquals(n, 5)
  for pid in pairs(before) do lu.assertTrue(after[pid]) end -- those who were there go on
  p:resize(1)
  n = pids(p)
  lu.assertEquals(n, 1)
  lu.assertTrue(proc.wait_until(function()
    p:step()
    return #p:workers() == 1
  end, 20))
  p:resize(40) -- more than it was made for
  lu.assertEquals((pids(p)), 40)
  lu.assertEquals(p:map(math.abs, 100)[100], 100)
end

function TestWorkers.test_resize_while_calls_are_open()
  local p <close> = pool.new(2)
  local go = pool.counter(0)
  local future = p:map_async(function(x)
    while x > 20 and go:get() == 0 do os.execute("sleep 0.01") end
    return x
  end, 60)
  p:resize(6)
  p:step(0.1)
  p:resize(1)
  local ok, message = pcall(p.resize, p, 1000)
  lu.assertFalse(ok)
  lu.assertStrContains(message, "not more than 8 workers while calls are open")
  go:set(1)
  local results = future:get()
  for i = 1, 60 do assert(results[i] == i) end
  ok, message = pcall(p.resize, p, 0)
  lu.assertFalse(ok)
  lu.assertStrContains(message, "bad argument #1 to 'resize' (integer from 1 to 4096 or \"auto\" expected, got 0)")
end

-- ---- what happened ----

TestStats = {}

function TestStats.test_counts_are_exact()
  local p <close> = pool.new(2)
  p:map(function(x) return ("y"):rep(x) end, 1000)
  p:each(math.abs, { -1, -2, -3 })
  local _, _, errors = p:map(function(x) if x == 3 then os.exit(1) end return x end, 5, { errors = "collect", retries = 1 })
  lu.assertEquals(errors[3].kind, "crash")
  -- A worker notes its time when its claim is over: a moment after its results were there.
  local stats, items, busy
  local function is_settled()
    stats, items, busy = p:stats(), 0, 0
    for _, worker in ipairs(stats.workers) do items, busy = items + worker.items, busy + worker.busy end
    return math.abs(busy - stats.busy) < 1e-6
  end
  lu.assertTrue(proc.wait_until(is_settled, 10))
  lu.assertEquals({ stats.calls, stats.crashes, stats.retries }, { 3, 2, 1 })
  lu.assertTrue(stats.forks >= 2 and stats.forks <= 4)
  lu.assertTrue(stats.bytes_out > 500000 and stats.bytes_out < 600000, stats.bytes_out)
  lu.assertTrue(stats.bytes_in > 0)
  for _, worker in ipairs(stats.workers) do
    lu.assertTrue(worker.encode <= worker.busy and worker.idle >= 0 and worker.wait >= 0)
  end
  lu.assertEquals(items, stats.items)
  lu.assertTrue(stats.items >= 1000 + 3 + 4, stats.items) -- (what died is a crash, no item)
  lu.assertTrue(stats.elapsed >= 0 and stats.tail <= stats.elapsed)
  lu.assertTrue(stats.host.decode > 0 and stats.host.wait >= 0)
end

-- What all of them did is the sum of what each did, also of workers who died before they had finished anything.
function TestStats.test_workers_that_finished_nothing_are_counted()
  local p <close> = pool.new(2)
  p:map(function() os.exit(1) end, 1, { errors = "collect", retries = 1 })
  local stats, busy = p:stats(), 0
  for _, worker in ipairs(stats.workers) do busy = busy + worker.busy end
  lu.assertTrue(stats.busy > 0)
  lu.assertAlmostEquals(busy, stats.busy, 1e-6)
end

-- The collector of a worker rests until as much again was allocated as was inherited. Large strings are no reason to wait so long.
function TestStats.test_garbage_of_large_strings_does_not_pile_up()
  if (os.getenv("BUILD") or ""):find("an$") then lu.skip "sanitizers keep freed memory" end
  local inherited = {}
  for i = 1, 128 do inherited[i] = string.char(i):rep(1 << 20) end
  local p <close> = pool.new(1)
  p:map(function(x) return #string.rep("x", (1 << 20) + x) end, 300)
  local peak = p:stats().workers[1].peak
  lu.assertEquals(#inherited, 128)
  lu.assertTrue(peak < 200 << 20, peak)
end

function TestStats.test_they_stay_when_the_pool_is_closed()
  local p = pool.new(2)
  p:map(math.abs, 100)
  p:close()
  lu.assertEquals(p:stats().items, 100)
  lu.assertStrContains(p:report(), "100 items")
  p = pool.new(1)
  p:map(math.abs, 7)
  p:terminate()
  lu.assertEquals(p:stats().items, 7)
  lu.assertEquals(pool.new(0):stats().calls, 0)
  lu.assertStrContains(pool.new(2):report(), "0 calls")
end

function TestStats.test_what_runs_is_shown()
  local p <close> = pool.new(1)
  local future = p:map_async(function(x)
    pool.worker.progress(1, 4)
    while x == 2 do os.execute("sleep 0.05") end
  end, 2)
  local worker
  lu.assertTrue(proc.wait_until(function()
    p:step(0.01)
    worker = p:workers()[1]
    return worker and worker.item == 2
  end, 20))
  lu.assertTrue(worker.since >= 0)
  lu.assertTrue(future:cancel())
  local inline <close> = pool.new(0)
  lu.assertEquals(inline:map(function(x) pool.worker.progress(1) return x end, 2), { 1, 2 })
end
