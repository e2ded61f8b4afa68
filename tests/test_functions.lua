-- How functions reach workers, and what crosses: through real pools, forked with the function and sent to workers that live.
local lu = require "luaunit"
local proc = require "proc"
local ways = require "ways"

-- A pool whose workers live already: from now on functions are sent.
local function living(options)
  local p = pool.new(options or 2)
  p:map(tostring, 8)
  return p
end

local function identity(x) return x end

TestSent = {}

function TestSent.test_upvalues_and_their_values_at_the_call()
  local p <close> = living()
  local factor, words = 3, { "a", "b", deep = { list = { 1, 2, 3 } } }
  local function scale(x) return x * factor + #words.deep.list end
  lu.assertEquals(p:map(scale, 3), { 6, 9, 12 })
  factor = 10
  lu.assertEquals(p:map(scale, 3), { 13, 23, 33 })
  words.deep.list[4] = 4
  lu.assertEquals(p:map(scale, 3), { 14, 24, 34 })
  words.deep.list = {}
  lu.assertEquals(p:map(scale, 3), { 10, 20, 30 })
  lu.assertEquals(p:stats().renewed, 0)
  lu.assertTrue(p:stats().sent >= 4)
end

function TestSent.test_what_a_task_changes_is_not_the_host_s()
  local p <close> = living(1)
  local counter = { n = 0 }
  local function count()
    counter.n = counter.n + 1
    return counter.n
  end
  p:map(count, 5)
  lu.assertEquals(counter.n, 0)
  lu.assertEquals((p:map(count, 1)), { 1 }) -- as it is in the host at the call, not as an earlier call left it
end

function TestSent.test_shared_upvalues_stay_shared()
  local p <close> = living(1)
  local value = 1
  local function set(x) value = x end
  local function get() return value end
  lu.assertEquals((p:map(function(x)
    set(x)
    return get()
  end, { 5, 6 })), { 5, 6 })
  lu.assertEquals(value, 1)
end

function TestSent.test_the_same_table_in_two_upvalues()
  local p <close> = living(1)
  local a = {}
  local b = a
  lu.assertEquals((p:map(function() a.x = 1 return a == b and b.x end, 1)), { 1 })
end

function TestSent.test_nested_functions_and_recursion()
  local p <close> = living()
  local function fib(n) return n < 2 and n or fib(n - 1) + fib(n - 2) end
  lu.assertEquals((p:map(fib, 10)), { 1, 1, 2, 3, 5, 8, 13, 21, 34, 55 })
  local is_odd
  local function is_even(n) if n == 0 then return true end return is_odd(n - 1) end
  function is_odd(n) if n == 0 then return false end return is_even(n - 1) end
  lu.assertEquals((p:map(is_even, 4)), { false, true, false, true })
  local function adder(n)
    return function(x)
      local function inner(y) return y + n end
      return inner(x)
    end
  end
  lu.assertEquals((p:map(adder(100), 3)), { 101, 102, 103 })
end

local function later(x) return x + base_of_later end -- luacheck: ignore

function TestSent.test_globals_that_the_code_names()
  local p <close> = living()
  base_of_later = 5 -- luacheck: ignore
  lu.assertEquals((p:map(later, 2)), { 6, 7 })
  base_of_later = 50 -- luacheck: ignore
  lu.assertEquals((p:map(later, 2)), { 51, 52 })
  function double_it(x) return x * 2 * base_of_later end -- luacheck: ignore
  lu.assertEquals((p:map(function(x) return double_it(x) end, 2)), { 100, 200 }) -- luacheck: ignore
  lu.assertEquals((p:map(double_it, 2)), { 100, 200 }) -- luacheck: ignore
  settings = { level = { deep = 3 } } -- luacheck: ignore
  local function nested() return function() return settings.level.deep end end -- luacheck: ignore
  lu.assertEquals((p:map(function() return nested()() end, 1)), { 3 })
  settings.level.deep = 4 -- luacheck: ignore
  lu.assertEquals((p:map(function() return nested()() end, 1)), { 4 })
  settings = nil -- luacheck: ignore
  lu.assertEquals((p:map(function() return settings == nil end, 1)), { true }) -- luacheck: ignore
  base_of_later, double_it = nil, nil -- luacheck: ignore
  lu.assertEquals(p:stats().renewed, 0)
end

function TestSent.test_a_global_that_is_gone_is_gone_for_tasks_too()
  fleeting = 1 -- luacheck: ignore
  local p <close> = pool.new(1)
  local function look() return fleeting or "gone" end -- luacheck: ignore
  lu.assertEquals((p:map(look, 1)), { 1 })
  fleeting = nil -- luacheck: ignore
  lu.assertEquals((p:map(look, 1)), { "gone" })
  fleeting = 2 -- luacheck: ignore
  lu.assertEquals((p:map(look, 1)), { 2 })
  fleeting = nil -- luacheck: ignore
  lu.assertEquals((p:map(look, 1)), { "gone" })
end

-- What a task leaves in its own globals is that worker's business: a cache stays.
function TestSent.test_globals_of_the_worker_stay()
  local p <close> = pool.new(1)
  local function cached(x)
    cache_of_worker = cache_of_worker or { n = 0 } -- luacheck: ignore
    cache_of_worker.n = cache_of_worker.n + 1 -- luacheck: ignore
    return x + cache_of_worker.n -- luacheck: ignore
  end
  local offset = 0
  local function shifted(x) return cached(x) + offset end
  lu.assertEquals((p:map(cached, 2)), { 2, 4 })
  lu.assertEquals((p:map(cached, 2)), { 4, 6 })
  offset = 100
  lu.assertEquals((p:map(shifted, 2)), { 106, 108 })
  lu.assertNil(cache_of_worker) -- luacheck: ignore
end

function TestSent.test_library_functions_and_modules_go_by_name()
  local p <close> = living()
  lu.assertEquals((p:map(string.upper, { "a" })), { "A" })
  lu.assertEquals((p:map(math.type, { 1, 1.5 })), { "integer", "float" })
  lu.assertEquals((p:map(tonumber, { "10", "0x10" })), { 10, 16 })
  local insert, concat, str = table.insert, table.concat, string
  lu.assertEquals((p:map(function(x)
    local t = {}
    insert(t, x)
    insert(t, str.rep(x, 2))
    return concat(t, ",")
  end, { "x" })), { "x,xx" })
  local results = p:map(function() return { string.format, math, print } end, 1)
  lu.assertIs(results[1][1], string.format)
  lu.assertIs(results[1][2], math)
  lu.assertIs(results[1][3], print)
end

function TestSent.test_c_modules_go_by_name()
  local has_lpeg, lpeg = pcall(require, "lpeg")
  if not has_lpeg then lu.skip("no lpeg here") end
  local p <close> = living()
  lu.assertEquals((p:map(function(text) return lpeg.match(lpeg.C(lpeg.R("az") ^ 1), text) end, { "abc1" })), { "abc" })
  lu.assertEquals(p:stats().renewed, 0)
end

function TestSent.test_what_cannot_be_sent_renews_the_workers()
  ways.needs_fork("there is nothing to renew")
  local p <close> = living()
  local forks = p:stats().forks
  local file = assert(io.open("tests/test_functions.lua"))
  local first = file:read("l")
  local results = p:map(function()
    file:seek("set", 0)
    return file:read("l")
  end, 1)
  lu.assertEquals(results, { first })
  lu.assertEquals(p:stats().renewed, 1)
  lu.assertTrue(p:stats().forks > forks)
  local co = coroutine.wrap(function() while true do coroutine.yield("from a coroutine") end end)
  lu.assertEquals((p:map(function() return co() end, 1)), { "from a coroutine" })
  lu.assertEquals(p:stats().renewed, 2)
  file:close()
  lu.assertEquals((p:map(identity, 3)), { 1, 2, 3 })
  lu.assertEquals(p:stats().renewed, 2)
end

function TestSent.test_a_library_function_replaced_and_put_back()
  ways.needs_fork("a library function without its name cannot be sent")
  local p <close> = living()
  local text = function(x) return tostring(x) end
  test_original = tostring -- luacheck: ignore
  tostring = function(x) return "mine " .. test_original(x) end -- luacheck: ignore
  local during = p:map(text, 1)[1]
  tostring = test_original -- luacheck: ignore
  test_original = nil -- luacheck: ignore
  lu.assertEquals(during, "mine 1")
  lu.assertEquals(p:map(text, 1), { "1" })
end

function TestSent.test_the_same_function_again_is_sent_once()
  local p <close> = living()
  local sent = p:stats().sent
  local function same(x) return x + 1 end
  for _ = 1, 20 do p:map(same, 4) end
  lu.assertEquals(p:stats().sent, sent + 1)
end

function TestSent.test_stripped_code()
  local p <close> = living()
  local stripped = load(string.dump(load("return ... + 1"), true))
  lu.assertEquals((p:map(stripped, 2)), { 2, 3 })
  local environment = { y = 5 }
  local loaded = load("return y + ...", "=own", "t", environment)
  lu.assertEquals((p:map(loaded, 2)), { 6, 7 })
  environment.y = 6
  lu.assertEquals((p:map(loaded, 2)), { 7, 8 })
end

function TestSent.test_methods_and_callable_objects()
  local Counter = {}
  Counter.__index = Counter
  Counter.__call = function(self, x) return self.start + x end
  local p <close> = living()
  lu.assertEquals((p:map(setmetatable({ start = 10 }, Counter), 2)), { 11, 12 })
end

function TestSent.test_varargs_and_only_the_first_result()
  local p <close> = living()
  lu.assertEquals((p:map(function(...) return select("#", ...), "second" end, { 5, 6 })), { 1, 1 })
  lu.assertEquals({ p:apply(function(...) return select("#", ...), ... end, nil, 2, nil) }, { 3, nil, 2, nil })
end

-- ---- functions whose globals are fields of a table of their own ----

TestEnvironment = {}

-- A table with something in it that cannot be sent.
local function sandbox(fields, index)
  fields.thread = coroutine.create(print)
  return index and setmetatable(fields, { __index = index }) or fields
end

local function in_environment(environment, code)
  return assert(load(code, "=sandbox", "t", environment))()
end

-- What fn(1 .. n) gives in workers that live already; none is replaced for it.
local function sent(fn, n)
  local p <close> = living(1)
  local results = p:map(fn, n or 3)
  lu.assertEquals(p:stats().renewed, 0)
  return results
end

function TestEnvironment.test_only_what_is_named_is_sent()
  local environment = sandbox { base = 10, tostring = tostring, list = { 1, 2 } }
  lu.assertEquals(sent(in_environment(environment, "return function(x) return tostring(x + base + #list) end")), { "13", "14", "15" })
end

function TestEnvironment.test_what_is_named_and_cannot_be_sent_is_said()
  local p <close> = living { workers = 1, start = "server" }
  local fn = in_environment(sandbox {}, "local function inner() return thread end return function() return inner() end")
  lu.assertErrorMsgContains("cannot send upvalue '_ENV' of function <sandbox:1>.thread: coroutine", p.map, p, fn, 1)
  lu.assertEquals(p:map(identity, 2), { 1, 2 })
end

function TestEnvironment.test_functions_that_are_reached_name_more()
  local environment = sandbox { base = 10 }
  local fn = in_environment(environment, [[
    function helper(x) return x + base + extra.n end
    function other(n) return n == 0 and 0 or helper(n) + other(n - 1) end -- itself
    extra = { n = 1, helper = helper }
    local function with_upvalue(x) return function() return deep.deeper(x) end end
    deep = { deeper = function(x) return extra.helper(x) + last end }
    last = 1000
    return function(x) return helper(x) + other(1) + with_upvalue(x)() end]])
  lu.assertEquals(sent(fn), { 12 + 12 + 1012, 13 + 12 + 1013, 14 + 12 + 1014 })
end

function TestEnvironment.test_values_are_those_at_the_call()
  local p <close> = living(1)
  local environment = sandbox { n = 1 }
  local fn = in_environment(environment, "return function(x) return n and x + n end")
  lu.assertEquals(p:map(fn, 2), { 2, 3 })
  environment.n = 5
  lu.assertEquals(p:map(fn, 2), { 6, 7 })
  environment.n = nil
  lu.assertEquals({ p:map(fn, 2) }, { {}, 2 })
  lu.assertEquals(p:stats().renewed, 0)
end

function TestEnvironment.test_functions_share_it_in_the_worker()
  local set, get, mine = in_environment(sandbox {}, [[
    return function(v) value = v end, function() return value end, function() count = (count or 0) + 1 return count end]])
  lu.assertEquals(sent(function(x)
    set(x)
    return get() + mine()
  end), { 2, 4, 6 })
  local other = in_environment(sandbox { value = 7 }, "return function() return value end") -- another table
  lu.assertEquals(sent(function(x)
    set(x)
    return other() * 10 + get()
  end), { 71, 72, 73 })
end

function TestEnvironment.test_names_that_are_globals_beyond_it()
  test_number = 7 -- luacheck: ignore
  test_helper = function(x) return x + test_number end -- luacheck: ignore
  local fn = in_environment(sandbox({ own = 1, tostring = function(x) return "mine " .. x end }, _G),
    "return function(x) return tostring(math.floor(test_helper(x)) + own) end")
  lu.assertEquals(sent(fn), { "mine 9", "mine 10", "mine 11" })
  local defined = in_environment(sandbox({}, _G), "return function(x) made = x return made, math, rawget(_G, 'made') end")
  local p <close> = living(1)
  local made, library, global = p:apply(function() -- what code sets stays in its environment
    local a, b, c = defined(3)
    return a, b == math, c
  end)
  lu.assertEquals({ made, library, global }, { 3, true, nil })
  test_number, test_helper = nil, nil -- luacheck: ignore
end

function TestEnvironment.test_names_beyond_it_in_other_tables()
  local base = sandbox({ deep = 100 }, sandbox({ deeper = 1000, tostring = tostring }, _G))
  local environment = sandbox({ own = 1 }, base)
  local fn = in_environment(environment, [[
    local function a() return deep end
    return function(x) deep = 5; return tostring(x + own + a() + deeper + math.abs(-1)) end]])
  lu.assertEquals(sent(fn), { "1008", "1009", "1010" })
  local first = in_environment(sandbox({}, base), "return function() return deep end")
  local change = in_environment(base, "return function(v) deep = v end")
  lu.assertEquals(sent(function(x) -- the table beyond is shared, too
    change(x)
    return first() + fn(0)
  end), { 1 + 1007, 2 + 1007, 3 + 1007 })
end

function TestEnvironment.test_an_index_function_and_other_metamethods()
  local log = {}
  local environment = setmetatable({ own = 1 }, {
    __index = function(_, name) return "no " .. name end,
    __newindex = function(_, name) log[#log + 1] = name end,
    __name = "box",
  })
  local fn = in_environment(environment, "return function(x) made = x return made .. own end")
  lu.assertEquals(sent(fn), { "no made1", "no made1", "no made1" })
  local protected = setmetatable({ own = 1 }, { __index = { behind = 2 }, __metatable = "locked" })
  lu.assertEquals(sent(in_environment(protected, "return function(x) return x + own + behind end")), { 4, 5, 6 })
  local never = coroutine.create(print) -- a sandbox with a lock and a name is sent in parts, too
  local locked = setmetatable({ own = 1, never = never }, { __index = { behind = 2, never = never }, __metatable = false, __name = "box" })
  lu.assertEquals(sent(in_environment(locked, "return function(x) return x + own + behind end")), { 4, 5, 6 })
end

-- Where code does more with it than to name fields, all of it goes.
function TestEnvironment.test_all_of_it_where_it_is_a_value()
  local function fields() return { a = 1, b = 2, c = 3, [true] = 4, [{}] = 5, pairs = pairs, rawget = rawget, next = next } end
  local counting = "local n = 0 for _ in pairs(_ENV) do n = n + 1 end return n"
  lu.assertEquals(sent(in_environment(fields(), "return function() " .. counting .. " end"), 1), { 8 })
  lu.assertEquals(sent(in_environment(fields(), "return function(x) local e = _ENV return e[({'a', 'b', 'c'})[x]] end")), { 1, 2, 3 })
  local inner = "local function inner(x) return rawget(_ENV, x) end return function() return inner 'c' end"
  lu.assertEquals(sent(in_environment(fields(), inner), 1), { 3 })
  local e = fields() -- first by name, then as a value: at different places of one message
  local a = in_environment(e, "return function() return a end")
  local all = in_environment(e, "return function() " .. counting .. " end")
  lu.assertEquals(sent(function() return a() * 10 + all() end, 1), { 18 })
  lu.assertEquals(sent(function() return a() * 10 + e.c end, 1), { 13 })
  local p <close> = living(1)
  lu.assertEquals(p:apply(function(t) return t[1]() + t[2].b + (t[2] == t[3].e and 100 or 0) end, { a, e, { e = e } }), 103)
  local f, g = in_environment(e, "return function() return a end, function() " .. counting .. " end") -- one variable _ENV
  lu.assertEquals(p:apply(function() return f() * 10 + g() end), 18)
  lu.assertEquals(p:stats().renewed, 0)
end

function TestEnvironment.test_all_of_what_is_behind_it_too()
  local behind = { deep = 1, other = 2 }
  local environment = setmetatable({ own = 3 }, { __index = behind })
  local name = in_environment(environment, "return function() return own + deep end")
  lu.assertEquals(sent(function() return name() + environment["oth" .. "er"] end, 1), { 6 })
  lu.assertEquals(sent(function() return name() + environment.own + behind.other end, 1), { 9 })
  local looped = setmetatable({ own = 3 }, {})
  getmetatable(looped).__index = setmetatable({ deep = 1 }, { __index = looped })
  lu.assertEquals(sent(in_environment(looped, "return function() return own + deep end"), 1), { 4 })
  local itself = { own = 3, type = type }
  itself.itself = itself
  lu.assertEquals(sent(in_environment(itself, "return function() return own + itself.itself.own, type(itself) end"), 1), { 6 })
end

function TestEnvironment.test_long_chains_and_many_constants()
  local chain = { at_the_end = 1 }
  for k = 1, 90 do chain = setmetatable({ ["n" .. k] = k }, { __index = chain }) end
  lu.assertEquals(sent(in_environment(chain, "return function() return at_the_end + n1 + n45 + n90 end"), 1), { 137 })
  local words = {}
  for k = 1, 400 do words[k] = ("%q"):format("constant " .. k) end
  local environment = sandbox { late = 5, a_name_that_is_longer_than_what_lua_interns_as_a_short_string = 6, tostring = tostring }
  local function code(statement) -- names that do not fit into an instruction
    return ("return function(x) local t = { %s } %s return tostring(late) .. %s .. #t end")
      :format(table.concat(words, ", "), statement, "a_name_that_is_longer_than_what_lua_interns_as_a_short_string")
  end
  lu.assertEquals(sent(in_environment(environment, code ""), 1), { "56400" })
  environment.thread = nil -- to set such a field looks like any other use of the table: all of it goes
  lu.assertEquals(sent(in_environment(environment, code "late_2 = late"), 1), { "56400" })
end

function TestEnvironment.test_local_environments_inside()
  local environment = sandbox { outer = 1, pairs = pairs }
  lu.assertEquals(sent(in_environment(environment, [[
    return function(x)
      local a = outer
      local _ENV = { x = x, a = a }
      return function() return x + a end
    end]]), 1)[1](), 2)
  lu.assertEquals(sent(in_environment({ outer = 1 }, [[
    local own = { inner = 5 }
    local one, two
    do local _ENV = own; function one() return inner end end
    function two() return outer end
    return function(x) return x + one() + two() end]])), { 7, 8, 9 })
end

TestOneShot = {}

function TestOneShot.test_sees_the_program_as_it_is()
  ways.needs_fork("an open file cannot be sent")
  local file = assert(io.open("tests/test_functions.lua"))
  local first = file:read("l")
  file:seek("set", 0)
  local big = {}
  for i = 1, 100000 do big[i] = { i } end
  current = "now" -- luacheck: ignore
  local results = pool.map(function(x) return { file:read("l"), big[x * 1000][1], current } end, 1, { workers = 1 }) -- luacheck: ignore
  lu.assertEquals(results, { { first, 1000, "now" } })
  current = nil -- luacheck: ignore
  file:close()
end

function TestOneShot.test_sees_a_suspended_coroutine()
  ways.needs_fork("a coroutine cannot be sent")
  local co = coroutine.create(function() coroutine.yield() coroutine.yield("resumed") end)
  coroutine.resume(co)
  lu.assertEquals((pool.map(function() return select(2, coroutine.resume(co)) end, 2, { workers = 2, chunk = 1 }))[1], "resumed")
  lu.assertEquals({ coroutine.resume(co) }, { true, "resumed" }) -- the host's own was not touched
end

-- ---- what crosses ----

TestCrossing = {}

-- Through every way there is: as items of a table in forked workers, as items written out, as results, as arguments and results of apply.
local function round_trip(value, check)
  for _, workers in ipairs { 2, 0 } do
    local p <close> = pool.new(workers)
    for _ = 1, 2 do check(p:map(identity, { value })[1]) end
    local given
    check(p:map(identity, function()
      if given then return nil end
      given = true
      return value
    end)[1])
    check((p:apply(identity, value)))
  end
end

local function bits(x) return ("%q"):format(string.pack("n", x)) end

function TestCrossing.test_numbers_bit_for_bit()
  local quiet = string.unpack("n", string.pack("j", 0x7ff8000000000001))
  local payload = string.unpack("n", string.pack("j", 0xfff8dead0000beef))
  local numbers = { 0.0, -0.0, 1.5, 0.1, 2 ^ 53, 2 ^ 53 + 2, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, math.huge, -math.huge,
    math.pi, quiet, payload, -quiet }
  for _, number in ipairs(numbers) do
    round_trip(number, function(got)
      lu.assertEquals(math.type(got), "float")
      lu.assertEquals(bits(got), bits(number))
    end)
  end
  for _, number in ipairs { 0, 1, -1, 63, 64, 127, 128, -128, 1 << 31, -(1 << 31), (1 << 31) - 1, math.maxinteger, math.mininteger } do
    round_trip(number, function(got)
      lu.assertEquals(math.type(got), "integer")
      lu.assertEquals(got, number)
    end)
  end
end

function TestCrossing.test_many_numbers_of_both_kinds()
  local items = {}
  for i = 1, 1000 do items[i] = i % 7 == 0 and i + 0.0 or i % 11 == 0 and -i * 1000000007 or i end
  local p <close> = pool.new(2)
  for _ = 1, 2 do
    local results = p:map(identity, items)
    for i = 1, 1000 do
      lu.assertEquals(results[i], items[i])
      lu.assertEquals(math.type(results[i]), math.type(items[i]))
    end
  end
end

function TestCrossing.test_strings()
  local every = {}
  for i = 0, 255 do every[#every + 1] = string.char(i) end
  for _, text in ipairs { "", "a", "\0", table.concat(every), ("x"):rep(127), ("x"):rep(128), ("long "):rep(100000), "ünï", "\255\254" } do
    round_trip(text, function(got) lu.assertTrue(got == text) end)
  end
end

function TestCrossing.test_booleans_and_nil_in_tables()
  round_trip(false, function(got) lu.assertEquals(got, false) end)
  round_trip(true, function(got) lu.assertEquals(got, true) end)
  round_trip({ 1, nil, 3, [10] = false, [true] = "t", [1.5] = "f", [-1] = 0 }, function(got)
    lu.assertEquals({ got[1], got[2], got[3], got[10], got[true], got[1.5], got[-1] }, { 1, nil, 3, false, "t", "f", 0 })
  end)
end

function TestCrossing.test_shared_references_and_cycles()
  local shared = { "shared" }
  local value = { a = shared, b = shared, list = { shared, shared } }
  value.self, value.list.up = value, value
  value[shared] = "key"
  round_trip(value, function(got)
    lu.assertIs(got.a, got.b)
    lu.assertIs(got.list[1], got.a)
    lu.assertIs(got.list[2], got.a)
    lu.assertIs(got.self, got)
    lu.assertIs(got.list.up, got)
    lu.assertEquals(got[got.a], "key")
    lu.assertTrue(got ~= value)
  end)
end

function TestCrossing.test_nesting_of_100000_levels()
  local deep = {}
  for i = 1, 100000 do deep = { deep, i } end
  round_trip(deep, function(got)
    local levels = 0
    while got[1] do
      got = got[1]
      levels = levels + 1
    end
    lu.assertEquals(levels, 100000)
  end)
end

function TestCrossing.test_functions_as_items_and_results()
  local n = 5
  round_trip(function(x) return x + n end, function(got) lu.assertEquals(got(1), 6) end)
  local p <close> = pool.new(1)
  for _ = 1, 2 do
    local makers = p:map(function(x)
      local count = x
      return { up = function() count = count + 1 return count end, get = function() return count end }
    end, 2)
    lu.assertEquals({ makers[2].up(), makers[2].up(), makers[2].get(), makers[1].get() }, { 3, 4, 4, 1 })
  end
end

-- ---- classes ----

Point = { __name = "Point" }
Point.__index = Point
Point.__eq = function(a, b) return a.x == b.x and a.y == b.y end
function Point.new(x, y) return setmetatable({ x = x, y = y }, Point) end
function Point:norm() return self.x * self.x + self.y * self.y end

function TestCrossing.test_classes_by_global()
  local p <close> = pool.new(2)
  for _ = 1, 3 do
    local results = p:map(function(x) return Point.new(x, -x) end, 3)
    lu.assertIs(getmetatable(results[3]), Point)
    lu.assertEquals(results[3]:norm(), 18)
    lu.assertEquals(p:map(function(point) return point:norm() end, results), { 2, 8, 18 })
  end
end

-- luacheck: globals Shapes World
function TestCrossing.test_classes_in_a_table_of_other_things_reach_clean_workers()
  Shapes = { 1, 2, 3, Circle = { radius = 0 }, unit = "m", [10] = true }
  Shapes.Circle.__index = Shapes.Circle
  function Shapes.Circle:size() return 3 * self.radius ^ 2 end
  local p <close> = pool.new { workers = 1, start = "server" }
  for _ = 1, 2 do
    local circles = p:map(function(circle) circle.radius = circle:size() return circle end, { setmetatable({ radius = 2 }, Shapes.Circle) })
    lu.assertIs(getmetatable(circles[1]), Shapes.Circle)
    lu.assertEquals(circles[1].radius, 12.0)
  end
  Shapes = nil
end

-- Calls whose arguments cannot be objects send no classes; all others do, as they are then.
function TestCrossing.test_classes_are_sent_where_they_may_be_needed()
  Shapes = { Circle = {} }
  for i = 1, 300 do Shapes.Circle["method" .. i] = function(self) return self.radius + i end end
  Shapes.Circle.__index = Shapes.Circle
  local p <close> = pool.new { workers = 1, start = "server" }
  local function bytes_of(f, ...)
    local before = p:stats().bytes_in
    return f(...), p:stats().bytes_in - before
  end
  local function one(...) return p:submit(...):get() end
  local function first(a) return type(a) == "table" and a[1] or a end
  local function size(a) return (a[1] or a):method2() end
  for _, argument in ipairs { 7, "x", true, { { 1, { "deep" } } } } do
    local _, bytes = bytes_of(one, first, argument)
    lu.assertTrue(bytes < 2000, ("%d bytes for %s"):format(bytes, tostring(argument)))
  end
  local circle = setmetatable({ radius = 1 }, Shapes.Circle)
  lu.assertEquals({ one(size, circle), one(size, { circle }), p:apply(size, { circle }), p:broadcast(size, circle)[1] }, { 3, 3, 3, 3 })
  lu.assertEquals(one(function(class) return class.method1 { radius = 4 } end, Shapes.Circle), 5)
  lu.assertEquals(one(function(method) return method { radius = 4 } end, Shapes.Circle.method1), 5)
  function Shapes.Circle:method2() return -self.radius end
  lu.assertEquals({ one(size, circle), p:map(size, { circle }, { chunk = 1 })[1] }, { -1, -1 }) -- as they are at the call
  lu.assertEquals(p:map(function() return circle:method3() end, 1)[1], 4)
  lu.assertEquals(p:map(function(x) return x end, 3), { 1, 2, 3 })
  Shapes = nil
end

-- Clean workers are sent the classes among the globals with each call: looking for these is not looking at all data.
function TestCrossing.test_data_in_globals_do_not_make_calls_slow()
  local p <close> = pool.new { workers = 1, start = "server" }
  local function seconds_of_calls()
    local least = math.huge
    collectgarbage()
    collectgarbage("stop")
    for _ = 1, 5 do
      local began = os.clock()
      local futures = {}
      for i = 1, 20 do futures[i] = p:submit(math.abs, -i) end
      least = math.min(least, os.clock() - began)
      for i = 1, 20 do lu.assertEquals(futures[i]:get(), i) end
    end
    collectgarbage("restart")
    return least
  end
  local without = seconds_of_calls()
  World = {}
  for i = 1, 200000 do World[i] = { i } end
  local with = seconds_of_calls()
  World = nil
  lu.assertTrue(with < 20 * without, ("%g s instead of %g s"):format(with, without))
end

function TestCrossing.test_classes_by_upvalue()
  local Private = {}
  Private.__index = Private
  function Private.name() return "private" end
  local p <close> = pool.new(2)
  for _ = 1, 3 do
    local results = p:map(function(x) return setmetatable({ x }, Private) end, 2)
    lu.assertIs(getmetatable(results[2]), Private)
    lu.assertEquals(results[2]:name(), "private")
  end
end

function TestCrossing.test_classes_by_module()
  ways.needs_fork("a module that no file holds is not theirs")
  package.loaded["tests.shapes"] = { Circle = { kinds = {} } }
  local Circle = package.loaded["tests.shapes"].Circle
  Circle.__index = Circle
  local p <close> = pool.new(1)
  for _ = 1, 2 do
    local results = p:map(function(x) return setmetatable({ radius = x }, package.loaded["tests.shapes"].Circle) end, 1)
    lu.assertIs(getmetatable(results[1]), Circle)
  end
  package.loaded["tests.shapes"] = nil
end

function TestCrossing.test_registered_classes()
  local Hidden = { secret = true }
  Hidden.__index = Hidden
  pool.register("tests.Hidden", Hidden)
  local holder = setmetatable({}, { __index = function() return Hidden end, __name = "x" })
  local p <close> = pool.new(1)
  for _ = 1, 2 do
    local results = p:map(identity, { setmetatable({ 1 }, Hidden) })
    lu.assertIs(getmetatable(results[1]), Hidden)
    lu.assertTrue(results[1].secret)
  end
  lu.assertIs(holder.any, Hidden)
end

-- A metatable that has no name travels as a value.
function TestCrossing.test_nameless_metatables()
  local function make()
    return setmetatable({ 1 }, { __index = { extra = "e" }, __len = function() return 42 end })
  end
  round_trip(make(), function(got)
    lu.assertEquals({ got.extra, #got, got[1] }, { "e", 42, 1 })
  end)
end

function TestCrossing.test_protected_metatables()
  local Locked = { __metatable = "locked" }
  Locked.__index = { value = 7 }
  local p <close> = pool.new(1)
  lu.assertEquals(p:map(identity, { setmetatable({}, Locked) })[1].value, 7)
end

-- Registrations last as long as the state: this one would change what other tests see.
local SAVE_AND_LOAD = [[
  local path = "tests/test_functions.lua"
  local saved, loaded = 0, 0
  pool.register("tests.File", getmetatable(io.stdout), {
    save = function(f)
      saved = saved + 1
      if f:seek() == 100 then error("cannot save this", 0) end
      return { at = f:seek() }
    end,
    load = function(state)
      loaded = loaded + 1
      local f = assert(io.open(path))
      f:seek("set", state.at)
      return f
    end,
  })
  local file = assert(io.open(path))
  local function items(item)
    local given
    return function()
      if given then return nil end
      given = true
      return item
    end
  end
  local p <close> = pool.new(1)
  for _ = 1, 2 do
    file:seek("set", 3)
    local results = p:map(function(f) return { f.read(f, 3), f } end, items(file))
    assert(results[1][1] == file:read(3))
    assert(io.type(results[1][2]) == "file" and results[1][2] ~= file and results[1][2]:seek() == 6)
  end
  assert(saved == 2 and loaded == 2, saved .. " saved, " .. loaded .. " loaded") -- here: two items out, two results in
  file:seek("set", 100)
  local ok, e = pcall(p.map, p, function(x) return x end, items({ f = file }))
  assert(not ok and e.kind == "serialize", tostring(e))
  print(e.message)]]

function TestCrossing.test_userdata_with_save_and_load()
  local child <close> = proc.spawn { args = { os.getenv("LUAPOOL"), "-e", SAVE_AND_LOAD } }
  local status, out, err = child:finish(20)
  lu.assertEquals({ status.exit, err }, { 0, "" })
  lu.assertStrContains(out, "item.f")
  lu.assertStrContains(out, "cannot save this")
end

-- The class of an object that the host does not know is made anew there, once for each value.
function TestCrossing.test_classes_that_only_the_worker_knows()
  local p <close> = pool.new(1)
  local results = p:map(function(x)
    local Own = { __index = { hello = function() return "hello" end } }
    return { setmetatable({ x }, Own), setmetatable({ x }, Own) }
  end, 1)
  lu.assertEquals(results[1][1].hello(), "hello")
  lu.assertIs(getmetatable(results[1][1]), getmetatable(results[1][2]))
end
