-- Verbs, sources, options, ways to start workers and faults of items in combinations that nobody would think of, each compared with
-- what a plain loop would give. The cases follow from their numbers: CASE=123 runs one of them, SOAK=1 many.
local disk = require "disk"
local lu = require "luaunit"
local proc = require "proc"

local SOAK, ONE = os.getenv("SOAK"), math.tointeger(tonumber(os.getenv("CASE")))
local N_CASES <const> = SOAK and 4000 or 120

local path = proc.directory() .. "/test_combinations.jsonl"

-- ---- cases ----

local state -- of a generator of our own: math.random is the business of what is tested

local function random(n)
  state = state ~ (state << 13)
  state = state ~ (state >> 7)
  state = state ~ (state << 17)
  return (state >> 11) % n + 1
end

local function pick(...) return (select(random(select("#", ...)), ...)) end
local function chance(percent) return random(100) <= percent end

local HAS_LOG = { map = true, each = true, starmap = true, imap = true, imap_unordered = true }
local IS_ANSWER = { find = true, any = true, all = true }

local function add_faults(c)
  local faults = { "error", "table", "nothing", "flaky", "unsendable", "object" }
  if c.workers > 0 then table.move({ "exit", "kill", "flaky exit", "memory" }, 1, 4, #faults + 1, faults) end
  c.plan = {}
  if c.n == 0 then return end
  for _ = 1, pick(0, 0, 1, 2, 5) do c.plan[random(c.n)] = pick(table.unpack(faults)) end
  for _ = 1, pick(0, 1, 3) do c.plan[random(c.n)] = pick("nil", "false", "large") end
end

local function add_options(c)
  local o, of_pool = {}, {}
  if chance(40) then o.chunk = pick(1, 2, 7, 100, "auto") end
  if chance(30) then o.buffer = pick(1, 2, 5, 64, "auto") end
  if chance(60) then o.errors = pick("collect", "collect", "raise") end
  if chance(40) then o.retries = pick(0, 1, 2, 3) end
  if o.retries and chance(20) then o.retry_delay = 0.001 end
  if chance(30) then o.on_crash = pick("raise", "retry", "skip") end
  if chance(15) then o.deadline = 1000 end
  if chance(15) then o.timeout = 1000 end
  if chance(15) then o.progress = function(done) assert(math.type(done) == "integer") end end
  for _, fault in pairs(c.plan) do
    if fault == "memory" then o.memory = "4M" end
  end
  if chance(20) and HAS_LOG[c.verb] then
    o.log, c.resume = path, pick(false, true, "failed", "torn")
  end
  if chance(15) and not IS_ANSWER[c.verb] then
    o.halt, c.resume = pick("now,fail=1", "soon,fail=2", "soon,fail=10%", "now,success=1", "soon,success=3"), nil
  end
  if chance(25) then of_pool.seed = 42 end
  if chance(20) and c.n <= 50 then of_pool.max_tasks = pick(1, 3, 10) end
  if chance(20) then of_pool.output = pick("line", "order", "discard") end
  if chance(10) then of_pool.trace = true end
  c.options, c.of_pool = o, of_pool
end

local function new_case(number)
  state = number * 0x9E3779B97F4A7C15 + 0x1234567
  for _ = 1, 5 do random(2) end
  local c = { number = number }
  c.verb = pick("map", "map", "each", "starmap", "imap", "imap_unordered", "filter", "find", "any", "all", "map_async")
  c.way = pick("once", "fresh", "fresh", "living", "inline", "inline once", "server", "spawn")
  c.workers = c.way:find "inline" and 0 or pick(1, 2, 3, 5)
  c.n = pick(0, 1, 2, 3, 7, 20, 50, 300)
  c.source = c.verb == "starmap" and pick("tables", "iterator of tables") or pick("n", "range", "table", "iterator", "array", "words")
  add_faults(c)
  add_options(c)
  c.in_coroutine = chance(15)
  c.stop_at = chance(10) and c.verb:find "^imap" and random(5) or nil
  return c
end

local function describe(c)
  local words = { c.number, c.verb, c.way, c.workers .. " workers", c.n .. " items: " .. c.source }
  for _, list in ipairs { c.plan, c.options, c.of_pool } do
    for key, value in pairs(list) do words[#words + 1] = key .. "=" .. tostring(value) end
  end
  return "case " .. table.concat(words, ", ") .. ", resume=" .. tostring(c.resume)
end

-- ---- what is expected ----

local function key_of(c, i)
  if c.source == "range" then return 10 + (i - 1) * 3 end
  return c.source == "words" and "word " .. i or i
end

local function source_of(c)
  if c.source == "n" then return c.n end
  if c.source == "range" then return pool.range(10, 7 + c.n * 3, 3) end
  local items, i = {}, 0
  for k = 1, c.n do items[k] = c.source:find "tables" and { k, "x", n = 3 } or key_of(c, k) end
  if c.source == "array" and c.n > 0 then return pool.array("i32", items) end
  if not c.source:find "iterator" then return items end
  return function()
    i = i + 1
    return items[i]
  end
end

local function value_of(c, i)
  local what = c.plan[i]
  if what == "nil" then return nil end
  if what == "false" or i % 11 == 0 then return false end
  if what == "large" then return ("b"):rep(200000) end
  if i % 7 == 0 then return { i, k = { i } } end
  if c.of_pool.seed and i % 3 == 0 then
    math.randomseed(c.of_pool.seed, i)
    return math.random(0)
  end
  return i * 2
end

local KINDS = { error = "error", table = "error", nothing = "error", object = "error", unsendable = "serialize", memory = "memory" }

-- How item i ends: value or nil, kind of its error or nil, how often it runs.
local function outcome_of(c, i)
  local what, retries, policy = c.plan[i], c.options.retries or 0, c.options.on_crash
  local crash_retries = (policy == "raise" or policy == "skip") and 0 or policy == "retry" and (c.options.retries or 2) or retries
  local is_crash = what == "exit" or what == "kill" or (what == "flaky exit" and crash_retries == 0)
  if is_crash and policy == "skip" and c.options.errors ~= "collect" then return nil, nil, 1 end
  if is_crash then return nil, "crash", (what == "flaky exit" and 0 or crash_retries) + 1 end
  if what == "flaky" and retries == 0 then return nil, "error", 1 end
  if what == "flaky" or what == "flaky exit" then return value_of(c, i), nil, 2 end
  if what == "unsendable" and c.verb == "each" then return nil, nil, 1 end
  if KINDS[what] then return nil, KINDS[what], retries + 1 end
  return value_of(c, i), nil, 1
end

local function task_of(c, tries)
  local plan, source, seed = c.plan, c.source, c.of_pool.seed
  local faults = {
    error = function(i) error("bad " .. i) end,
    table = function(i) error { code = i } end,
    nothing = function() error(nil) end,
    object = function(i) error(setmetatable({}, { __tostring = function() return "object " .. i end })) end,
    flaky = function(i) if tries[i] == 1 then error("flaky") end end,
    ["flaky exit"] = function(i) if tries[i] == 1 then os.exit(7) end end,
    exit = function() os.exit(3) end,
    kill = function() os.execute("kill -9 $PPID") end,
    memory = function() return #("x"):rep(1 << 25) end,
  }
  return function(x, y, z)
    local i = source == "range" and (x - 10) // 3 + 1 or source == "words" and math.tointeger(tonumber(x:sub(6))) or x
    assert(not source:find "tables" or (y == "x" and z == nil))
    tries[i] = tries[i] + 1
    local what = plan[i]
    if faults[what] then faults[what](i) end
    if what == "unsendable" then return coroutine.create(print) end
    if what == "nil" then return nil end
    if what == "false" or i % 11 == 0 then return false end
    if what == "large" then return ("b"):rep(200000) end
    if i % 7 == 0 then return { i, k = { i } } end
    return seed and i % 3 == 0 and math.random(0) or i * 2
  end
end

-- ---- checks ----

local function check_error(c, e, i)
  local _, kind = outcome_of(c, i)
  lu.assertEquals(getmetatable(e), pool.Error)
  lu.assertEquals({ e.kind, e.index, type(e.item) }, { kind, i, "string" })
  lu.assertIsString(tostring(e))
  local what = c.plan[i]
  if what == "error" then lu.assertStrContains(e.message, "bad " .. i) end
  if what == "table" then lu.assertEquals(e.value, { code = i }) end
  if what == "object" then lu.assertEquals(e.message, "object " .. i) end
  if what == "exit" then lu.assertEquals(e.exitcode, 3) end
  if what == "kill" then lu.assertEquals(e.signal, "SIGKILL") end
end

-- What a verb may raise: a failure that there is, if failures are not collected.
local function check_raised(c, e)
  lu.assertNotEquals(c.options.errors, "collect", tostring(e))
  lu.assertEquals(getmetatable(e), pool.Error, tostring(e))
  lu.assertNotNil(e.index, tostring(e))
  if c.options.halt and (c.plan[e.index] or ""):find "flaky" then return end
  check_error(c, e, e.index)
end

local function check_item(c, i, value, err)
  local expected, kind = outcome_of(c, i)
  if err and c.options.halt and (c.plan[i] or ""):find "flaky" then return end -- a call that is ending tries nothing again
  if kind then check_error(c, err, i) else lu.assertNil(err) end
  lu.assertEquals(value, expected)
  lu.assertEquals(math.type(value), math.type(expected))
end

local function check_all(c, results, n, errors)
  local is_whole = not c.options.halt
  if is_whole or not c.source:find "iterator" then lu.assertEquals(n, c.n) end
  for i = 1, c.n do
    local _, kind = outcome_of(c, i)
    if is_whole or results[i] ~= nil or errors[i] then check_item(c, i, results[i], errors[i]) end
    if kind and is_whole then lu.assertEquals(c.options.errors, "collect") end
  end
  for i in pairs(errors) do lu.assertTrue(i >= 1 and i <= c.n) end
end

local check = {}

function check.map(c, call)
  local results, n, errors = call()
  lu.assertEquals(errors ~= nil, c.options.errors == "collect")
  check_all(c, results, n, errors or {})
end

check.starmap = check.map

function check.map_async(c, call)
  local f = call()
  lu.assertTrue(f:wait(60))
  check.map(c, function() return f:get() end)
end

function check.each(c, call)
  local n, errors = call()
  if not c.options.halt then lu.assertEquals(n, c.n) end
  for i = 1, c.n do
    local _, kind = outcome_of(c, i)
    if errors and errors[i] and not c.options.halt then check_error(c, errors[i], i) end
    lu.assertTrue(not kind or c.options.halt ~= nil or errors[i] ~= nil)
  end
end

function check.imap(c, call)
  local seen, n, is_ordered = {}, 0, c.verb == "imap" and not c.options.halt
  for i, value, err in call() do
    n = n + 1
    lu.assertNil(seen[i])
    lu.assertTrue(i == n or not is_ordered)
    seen[i] = true
    check_item(c, i, value, err)
    if n == c.stop_at then return end
  end
  if not c.options.halt then lu.assertEquals(n, c.n) end
end

check.imap_unordered = check.imap

function check.filter(c, call)
  local kept, n, errors = call()
  local expected = {}
  for i = 1, c.n do
    local value, kind = outcome_of(c, i)
    if value then expected[#expected + 1] = key_of(c, i) end
    if errors and errors[i] and not c.options.halt then check_error(c, errors[i], i) end
    lu.assertTrue(not kind or c.options.halt ~= nil or errors[i] ~= nil)
  end
  if not c.options.halt then lu.assertEquals({ kept, n }, { expected, #expected }) end
end

local function first(c, wanted)
  for i = 1, c.n do
    local value, kind = outcome_of(c, i)
    if not kind and (value and true or false) == wanted then return i end
  end
end

function check.find(c, call)
  local index, item = call()
  lu.assertEquals(index, first(c, true))
  lu.assertEquals(item, index and key_of(c, index))
end

function check.any(c, call) lu.assertEquals((call()), first(c, true) ~= nil) end
function check.all(c, call) lu.assertEquals((call()), first(c, false) == nil) end

-- ---- running ----

local function run_once(c, call, tries)
  local is_whole = not c.options.halt and not c.stop_at and not IS_ANSWER[c.verb]
  local function body()
    local ok, e = pcall(check[c.verb], c, call)
    if ok then return is_whole end
    if getmetatable(e) ~= pool.Error then error(e, 0) end -- of luaunit
    check_raised(c, e)
    return false
  end
  local is_exact
  if c.in_coroutine then is_exact = coroutine.wrap(body)() else is_exact = body() end
  for i = 1, c.n do
    local _, _, runs = outcome_of(c, i)
    lu.assertTrue(tries[i] == runs or (not is_exact and tries[i] < runs), ("item %d ran %d times, not %d"):format(i, tries[i], runs))
  end
end

local function merged(a, b)
  local all = {}
  for key, value in pairs(a) do all[key] = value end
  for key, value in pairs(b) do all[key] = value end
  return all
end

-- The end of the log is lost; what it said is done again.
local function tear()
  local text = disk.read(path)
  disk.write(path, text:sub(1, math.max(0, #text - random(200))))
end

local function resume(c, call, options, tries)
  for i = 1, c.n do tries[i] = 0 end
  if c.resume == "torn" then tear() end
  options.resume = c.resume == "failed" and "failed" or true
  local ok, e = pcall(check[c.verb], c, call)
  if not ok and getmetatable(e) ~= pool.Error then error(e, 0) end
  if not ok then check_raised(c, e) end
  if not ok or c.resume ~= true or c.stop_at then return end
  for i = 1, c.n do lu.assertEquals(tries[i], 0, "a finished item ran again") end
end

local function run_case(c)
  os.remove(path)
  local tries = pool.array("i32", math.max(c.n, 1))
  local task = task_of(c, tries)
  local start = (c.way == "server" or c.way == "spawn") and c.way or nil
  local of_pool = merged(c.of_pool, { workers = c.workers, start = start })
  if c.way:find "once" and c.verb ~= "map_async" then
    local options = merged(c.options, of_pool)
    local function call() return pool[c.verb](task, source_of(c), options) end
    run_once(c, call, tries)
    if c.resume then resume(c, call, options, tries) end
    return
  end
  local p <close> = pool.new(of_pool)
  if c.way == "living" then p:map(tostring, 3) end
  local options = merged(c.options, {})
  local function call() return p[c.verb](p, task, source_of(c), options) end
  run_once(c, call, tries)
  if c.resume then resume(c, call, options, tries) end
  lu.assertEquals(p:map(math.abs, { -1, -2, -3 }), { 1, 2, 3 }) -- it works on
end

TestCombinations = { tearDown = function() os.remove(path) end }

function TestCombinations.test_every_combination_does_what_a_loop_does()
  for number = ONE or 1, ONE or N_CASES do
    local c = new_case(number)
    local function told(e)
      if type(e) == "table" and e.msg then
        e.msg = describe(c) .. "\n" .. e.msg
        return e
      end
      return describe(c) .. "\n" .. (debug.traceback(tostring(e), 2))
    end
    local ok, e = xpcall(run_case, told, c)
    if not ok then error(e, 0) end
  end
end
