-- Shared memory: arrays in the host, in tasks, and on their way between processes; what is refused, and that all of it goes.
local lu = require "luaunit"
local proc = require "proc"
local post = require "post"

local function identity(x) return x end

local function fails(text, fn, ...)
  local ok, e = pcall(fn, ...)
  lu.assertFalse(ok, "no error")
  e = type(e) == "table" and e.message or e
  lu.assertStrContains(e, text)
  return e
end

-- A pool whose workers live already: from now on everything is sent.
local function living(n)
  local p = pool.new(n or 2)
  p:map(tostring, 8)
  return p
end

-- Descriptors and mappings of shared memory that a process has; after a collection, if it is this one.
local function holdings(pid)
  if not pid then
    collectgarbage()
    collectgarbage()
  end
  local fds, maps = 0, 0
  for _, fd in ipairs(proc.fds(pid or proc.pid())) do
    if fd:find("luapool-shared", 1, true) or fd:find("/dev/shm/", 1, true) then fds = fds + 1 end
  end
  for line in io.lines(("/proc/%d/maps"):format(pid or proc.pid())) do
    if line:find("rw%-s") and (line:find("luapool-shared", 1, true) or line:find("/dev/shm/", 1, true)) then maps = maps + 1 end
  end
  return fds, maps
end

-- ---- arrays in one process ----

TestArray = {}

local LIMITS = {
  i8 = { -128, 127 }, i16 = { -32768, 32767 }, i32 = { -2 ^ 31, 2 ^ 31 - 1 }, i64 = { math.mininteger, math.maxinteger },
  u8 = { 0, 255 }, u16 = { 0, 65535 }, u32 = { 0, 2 ^ 32 - 1 },
}

for type, limits in pairs(LIMITS) do
  TestArray["test_limits_of_" .. type] = function()
    local low, high = math.tointeger(limits[1]), math.tointeger(limits[2])
    local a = pool.array(type, 3)
    lu.assertEquals({ a[1], a[2], a[3], a[4] }, { 0, 0, 0 })
    a[1], a[2], a[3] = low, high, 7.0
    lu.assertEquals({ a[1], a[2], a[3] }, { low, high, 7 })
    lu.assertEquals(math.type(a[3]), "integer")
    local range = ("is out of the range of %s (%d to %d)"):format(type, low, high)
    if type ~= "i64" then
      fails(range, function() a[1] = low - 1 end)
      fails(range, function() a[1] = high + 1 end)
      fails(range, function() a[1] = high + 1.0 end)
    end
    for _, value in ipairs { 2 ^ 80, -2 ^ 80, math.huge, -math.huge } do fails(range, function() a[1] = value end) end
    fails("cannot set element 1: 1.5 is no integer, as " .. type .. " wants", function() a[1] = 1.5 end)
    fails("is no integer", function() a[1] = 0 / 0 end)
    lu.assertEquals({ a[1], a[2], a[3] }, { low, high, 7 })
  end
end

function TestArray.test_limits_of_u64()
  local a = pool.array("u64", 2)
  local range = "is out of the range of u64 (0 to 18446744073709551615)"
  a[1], a[2] = math.maxinteger, 2.0 ^ 63
  lu.assertEquals({ a[1], a[2] }, { math.maxinteger, 2.0 ^ 63 })
  lu.assertEquals(math.type(a[2]), "float")
  a[2] = 2.0 ^ 64 - 2048
  lu.assertEquals(a[2], 2.0 ^ 64 - 2048)
  fails("-1 " .. range, function() a[1] = -1 end)
  fails(range, function() a[1] = 2.0 ^ 64 end)
  fails(range, function() a[1] = -1.0 end)
  fails("0.5 is no integer", function() a[1] = 0.5 end)
end

function TestArray.test_floats()
  local a, b = pool.array("f64", 4), pool.array("f32", 4)
  for i, value in ipairs { 0.1, math.huge, -math.huge, 5 } do a[i], b[i] = value, value end
  lu.assertEquals(a:to_table(), { 0.1, math.huge, -math.huge, 5.0 })
  lu.assertEquals(b:to_table(), { string.unpack("f", string.pack("f", 0.1)), math.huge, -math.huge, 5.0 })
  a[1], b[1] = 0 / 0, 0 / 0
  lu.assertTrue(a[1] ~= a[1] and b[1] ~= b[1])
  a[1] = 1e308
  fails("1e+308 is out of the range of f32", function() b[1] = 1e308 end)
  b[1] = 3.4028234663852886e38
  lu.assertEquals(b[1], 3.4028234663852886e38)
  lu.assertEquals(math.type((function() a[1] = 1 return a[1] end)()), "float")
end

function TestArray.test_what_is_no_number_is_refused()
  local a = pool.array("i32", 1)
  for _, value in ipairs { "5", true, {}, print, a } do
    fails("cannot set element 1: number expected for i32, got " .. type(value), function() a[1] = value end)
  end
  fails("number expected for i32, got nil", function() a[1] = nil end)
  lu.assertEquals(a[1], 0)
end

function TestArray.test_bounds()
  local a = pool.array("i16", { 1, 2, 3 })
  for _, i in ipairs { 0, -1, 5, math.mininteger, math.maxinteger } do
    fails(("index %d is out of bounds: the array has 3 elements (i16)"):format(i), function() return a[i] end)
    fails(("index %d is out of bounds: the array has 3 elements (i16)"):format(i), function() a[i] = 1 end)
  end
  lu.assertNil(a[4]) -- where ipairs ends
  fails("index 4 is out of bounds", function() a[4] = 1 end)
  fails("index 1.5 of an array is no integer", function() return a[1.5] end)
  fails("cannot set field '1.5' of an array", function() a[1.5] = 1 end)
  fails("cannot set field 'x' of an array", function() a.x = 1 end)
  fails("cannot set field '1' of an array", function() a["1"] = 1 end)
  lu.assertNil(a.x)
  lu.assertEquals(a[2.0], 2)
end

-- Errors are at the line of whoever did it.
function TestArray.test_errors_name_the_caller_s_line()
  local a = pool.array("u8", 1)
  local line = debug.getinfo(1, "l").currentline
  lu.assertStrContains(fails("out of bounds", function() return a[9] + 1 end), ("test_shared.lua:%d:"):format(line + 1))
  lu.assertStrContains(fails("out of the range", function() a[1] = 256 end), ("test_shared.lua:%d:"):format(line + 2))
  lu.assertStrContains(fails("to 'fill'", function() a:fill "x" end), ("test_shared.lua:%d:"):format(line + 3))
  lu.assertStrContains(fails("to 'array'", function() pool.array "x" end), ("test_shared.lua:%d:"):format(line + 4))
end

function TestArray.test_arguments()
  local array = pool.array
  fails("bad argument #1 to 'array' (i8, i16, i32, i64, u8, u16, u32, u64, f32 or f64 expected, got 'f128')", array, "f128", 1)
  fails("bad argument #1 to 'array' (i8, i16, i32, i64, u8, u16, u32, u64, f32 or f64 expected, got number)", array, 8, 1)
  fails("bad argument #1 to 'array'", array)
  for got, n in pairs { ["-1"] = -1, ["1.5"] = 1.5, ["nan"] = 0 / 0, ["no value"] = false } do
    n = n or nil
    fails("bad argument #2 to 'array' (number of elements, table or array expected, got ", array, "i8", n)
    lu.assertEquals(type(got), "string")
  end
  fails("bad argument #2 to 'array'", array, "i8", "10")
  fails("bad argument to 'array' (element 2: number expected for i8, got string)", array, "i8", { 1, "x" })
  fails("bad argument to 'array' (element 3: 300 is out of the range of i8 (-128 to 127))", array, "i8", { 1, 2, 300 })
  local a = array("i8", 3)
  fails("bad argument #1 to 'slice' (pool.array expected, got table)", a.slice, {})
  fails("bad argument #1 to 'slice' (integer expected, got string)", a.slice, a, "1")
  fails("bad argument #2 to 'slice' (integer expected, got 1.5)", a.slice, a, 1, 1.5)
end

function TestArray.test_lengths_and_text()
  lu.assertEquals(#pool.array("f64", 0), 0)
  lu.assertEquals(#pool.array("f64", {}), 0)
  lu.assertEquals(#pool.array("f64", 10.0), 10)
  lu.assertNil(pool.array("f64", 0)[1])
  lu.assertStrMatches(tostring(pool.array("f64", 10)), "^array of 10 f64: 0?x?%x+$")
  for _, t in ipairs { "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "f32", "f64" } do
    lu.assertEquals(pool.array(t, 1):type(), t)
  end
end

function TestArray.test_from_tables_and_arrays()
  lu.assertEquals(pool.array("i32", { 5, 6, 7 }):to_table(), { 5, 6, 7 })
  local proxy = setmetatable({}, { __len = function() return 3 end, __index = function(_, i) return i * i end })
  lu.assertEquals(pool.array("i32", proxy):to_table(), { 1, 4, 9 })
  local a = pool.array("i32", { 1, 2, 3 })
  local b = pool.array("f64", a)
  a[1] = 100
  lu.assertEquals(b:to_table(), { 1.0, 2.0, 3.0 })
end

function TestArray.test_iteration()
  local a = pool.array("u8", { 3, 1, 2 })
  local seen = {}
  for i, v in ipairs(a) do seen[#seen + 1] = i .. "=" .. v end
  for i, v in pairs(a) do seen[#seen + 1] = i .. "=" .. v end
  lu.assertEquals(seen, { "1=3", "2=1", "3=2", "1=3", "2=1", "3=2" })
  lu.assertEquals({ table.unpack(a, 1, #a) }, { 3, 1, 2 })
  table.sort(a)
  lu.assertEquals(a:to_table(), { 1, 2, 3 })
  for _ in pairs(pool.array("u8", 0)) do lu.fail("an element of none") end
  for _ in ipairs(pool.array("u8", 0)) do lu.fail("an element of none") end
end

function TestArray.test_slices()
  local a = pool.array("i32", { 1, 2, 3, 4, 5 })
  local s = a:slice(2, 4)
  lu.assertEquals({ #s, s[1], s[3], s:type() }, { 3, 2, 4, "i32" })
  s[1] = 20
  lu.assertEquals(a[2], 20)
  a[3] = 30
  lu.assertEquals(s[2], 30)
  local inner = s:slice(2)
  inner[2] = 40
  lu.assertEquals(a:to_table(), { 1, 20, 30, 40, 5 })
  fails("index 5 is out of bounds: the array has 3 elements", function() return s[5] end)
  lu.assertEquals(#a:slice(), 5)
  lu.assertEquals(#a:slice(6), 0)
  lu.assertEquals(#a:slice(1, 0), 0)
  for _, bad in ipairs { { 0, 1 }, { 1, 6 }, { 4, 2 }, { 7 }, { -1, 2 }, { math.mininteger, math.maxinteger } } do
    fails("bad arguments to 'slice' (elements ", a.slice, a, bad[1], bad[2])
  end
  fails("bad arguments to 'slice' (elements 2 to 9 of an array of 5 i32)", a.slice, a, 2, 9)
end

-- A slice keeps the memory when the array that it was cut from is gone.
function TestArray.test_a_slice_outlives_its_array()
  local s = pool.array("i32", { 1, 2, 3, 4, 5 }):slice(4)
  collectgarbage()
  collectgarbage()
  lu.assertEquals(s:to_table(), { 4, 5 })
end

function TestArray.test_equality()
  local a, b = pool.array("i32", 5), pool.array("i32", 5)
  lu.assertTrue(a == a) -- luacheck: ignore
  lu.assertFalse(a == b)
  lu.assertTrue(a == a:slice() and a:slice(2, 3) == a:slice(2):slice(1, 2))
  lu.assertFalse(a == a:slice(1, 4) or a:slice(2, 3) == a:slice(3, 4))
  lu.assertFalse(a == {} or a == 5) -- luacheck: ignore
end

function TestArray.test_to_table_and_fill()
  local a = pool.array("f32", 5)
  lu.assertIs(a:fill(1.5), a)
  a:fill(2, 2, 3):fill(9, 5)
  lu.assertEquals(a:to_table(), { 1.5, 2.0, 2.0, 1.5, 9.0 })
  lu.assertEquals(a:to_table(2, 3), { 2.0, 2.0 })
  lu.assertEquals(a:to_table(4), { 1.5, 9.0 })
  lu.assertEquals(a:to_table(6), {})
  fails("bad arguments to 'to_table' (elements 0 to 5 of an array of 5 f32)", a.to_table, a, 0)
  fails("bad arguments to 'fill' (elements 1 to 6 of an array of 5 f32)", a.fill, a, 0, 1, 6)
  fails("bad argument #1 to 'fill' (number expected for f32, got string)", a.fill, a, "x")
  lu.assertEquals(#pool.array("i8", 0):fill(1), 0)
end

function TestArray.test_copy()
  local a = pool.array("i32", 5)
  lu.assertIs(a:copy { 1, 2, 3 }, a)
  a:copy({ 8, 9 }, 4)
  lu.assertEquals(a:to_table(), { 1, 2, 3, 8, 9 })
  a:copy(a:slice(1, 4), 2) -- overlapping
  lu.assertEquals(a:to_table(), { 1, 1, 2, 3, 8 })
  a:copy(pool.array("f64", { 7, 6 }), 1)
  lu.assertEquals(a:to_table(), { 7, 6, 2, 3, 8 })
  a:copy({}, 6)
  fails("bad arguments to 'copy' (2 elements from index 5 on, in an array of 5 i32)", a.copy, a, { 1, 2 }, 5)
  fails("bad arguments to 'copy' (0 elements from index 7 on", a.copy, a, {}, 7)
  fails("bad arguments to 'copy' (1 elements from index 0 on", a.copy, a, { 1 }, 0)
  fails("bad argument #1 to 'copy' (table or array expected, got number)", a.copy, a, 5)
  fails("bad argument to 'copy' (element 2: 0.5 is no integer, as i32 wants)", a.copy, a, pool.array("f64", { 4, 0.5 }))
  fails("bad argument to 'copy' (element 1: number expected for i32, got boolean)", a.copy, a, { true })
  lu.assertEquals(a:to_table(), { 4, 6, 2, 3, 8 }) -- what came before the wrong one is there
end

function TestArray.test_metatable_is_out_of_reach()
  local a = pool.array("i8", 1)
  lu.assertEquals(getmetatable(a), "luapool.array")
  for name, method in pairs(debug.getmetatable(a)) do
    if type(method) == "function" and name ~= "__gc" and name ~= "__eq" then
      fails("pool.array expected, got ", method, io.stdout, 1, 1)
      fails("pool.array expected, got ", method, {}, 1, 1)
    end
  end
  debug.getmetatable(a).__gc(a)
  fails("pool.array expected", function() return a[1] end)
end

-- ---- memory ----

TestMemory = {}

function TestMemory.test_goes_with_its_last_user()
  local fds, maps = holdings()
  do
    local list = {}
    for i = 1, 20 do list[i] = pool.array("u8", i * 1000) end
    local slice = list[7]:slice(2, 3)
    local now_fds, now_maps = holdings()
    lu.assertEquals({ now_fds - fds, now_maps - maps }, { 20, 20 })
    list = nil -- luacheck: ignore
    lu.assertEquals({ holdings() }, { fds + 1, maps + 1 })
    lu.assertEquals(#slice, 2)
  end
  lu.assertEquals({ holdings() }, { fds, maps })
end

-- The collector sees what an array stands for: a loop that drops arrays does not run out of anything.
function TestMemory.test_dropped_arrays_are_collected_in_time()
  for _ = 1, 3000 do pool.array("f64", 10) end
  local most = 0
  for _ = 1, 100 do
    pool.array("u8", 8 << 20)
    most = math.max(most, select(2, holdings(proc.pid())))
  end
  lu.assertTrue(most < 50, most .. " of 8 MiB at a time")
  collectgarbage "stop"
  for _ = 1, 3000 do pool.array("f64", 10) end -- descriptors end, then garbage is collected all the same
  collectgarbage "restart"
end

function TestMemory.test_too_large()
  fails("no memory for an array of 35184372088832 f64: ", pool.array, "f64", 1 << 45)
  fails("no memory for an array of " .. math.maxinteger .. " i8: ", pool.array, "i8", math.maxinteger)
  fails("no memory for an array of ", pool.array, "f64", math.maxinteger // 8)
end

local function refused(fail, code, expected, env)
  env = env or {}
  env.LUAPOOL_FAIL = fail
  post.run { code = code, expected = expected, program = post.FAULTY, env = env }
end

function TestMemory.test_refused_by_the_system()
  local code = [[
    local ok, e = pcall(pool.array, "i32", 100)
    print(ok, (e:gsub("^.*:%d+: ", "")))
    local a = pool.array("i32", { 5 })
    print(a[1])]]
  local why = require("ways").has_musl and "No file descriptors available" or "Too many open files"
  refused("memfd#0:EMFILE", code:gsub("local a =.*", ""), "false\tno memory for an array of 100 i32: " .. why .. "\n")
  refused("memfd#1:EMFILE", "print(#pool.array('i32', 10))", "10\n") -- after a collection there are some
  refused("memfd#1:ENOENT", code, "false\tno memory for an array of 100 i32: No such file or directory\n5\n")
  refused("truncate#0:ENOSPC", code:gsub("local a =.*", ""), "false\tno memory for an array of 100 i32: No space left on device\n")
  refused("mmap#1:ENOMEM,mmap#2:ENOMEM", code, "false\tno memory for an array of 100 i32: Cannot allocate memory\n5\n")
  for _, absent in ipairs { "ENOSYS", "EPERM", "EACCES" } do -- an old kernel, or a sandbox: there are other ways
    refused("memfd#0:" .. absent, "local a = pool.array('i32', 10) a[10] = 1 print(a[10])", "1\n")
  end
end

function TestMemory.test_limit_on_file_sizes()
  post.run { before = { "sh", "-c", "ulimit -f 2048; exec \"$@\"", "sh" }, expected = "false\nfalse\n1000\n", code = [[
    print((pcall(pool.array, "u8", 64 << 20)))
    print((pcall(pool.array, "u8", 3 << 20)))
    print(#pool.array("u8", 1000))]] }
end

-- ---- arrays and tasks ----

TestTasks = {}

function TestTasks.test_one_shot_calls_write_into_it()
  local a = pool.array("f64", 1000)
  pool.map(function(i) a[i] = i / 2 end, 1000, { workers = 3 })
  for i = 1, 1000 do lu.assertEquals(a[i], i / 2) end
end

function TestTasks.test_living_workers_get_it_as_upvalue()
  local p <close> = living()
  for round = 1, 3 do
    local a = pool.array("i64", 100)
    p:map(function(i) a[i] = i * round end, 100)
    for i = 1, 100 do lu.assertEquals(a[i], i * round) end
  end
  lu.assertEquals(p:stats().renewed, 0)
  lu.assertTrue(p:stats().sent >= 3)
end

function TestTasks.test_as_global_item_argument_and_in_tables()
  local p <close> = living()
  shared_for_test = pool.array("i32", 4) -- luacheck: ignore
  p:map(function(i) shared_for_test[i] = i end, 4) -- luacheck: ignore
  lu.assertEquals(shared_for_test:to_table(), { 1, 2, 3, 4 }) -- luacheck: ignore
  shared_for_test = nil -- luacheck: ignore
  local list = {}
  for i = 1, 10 do list[i] = pool.array("i32", 3) end
  p:map(function(a) a:fill(#a) end, list)
  for i = 1, 10 do lu.assertEquals(list[i]:to_table(), { 3, 3, 3 }) end
  p:map(function(record) record.array[record.at] = 77 end, { { array = list[1], at = 2 } })
  lu.assertEquals(list[1][2], 77)
  lu.assertEquals(p:apply(function(x, y) x[1], y[1] = 5, 6 return x[2] end, list[1], list[2]), 77)
  lu.assertEquals({ list[1][1], list[2][1] }, { 5, 6 })
  lu.assertEquals(p:stats().renewed, 0)
end

-- Made in the host, it comes back as the very object; also when the workers know it only by its address.
function TestTasks.test_the_host_gets_its_own_back()
  for _, p in ipairs { living(), pool.new(2), pool.new(0) } do
    local a, b = pool.array("u16", 5), pool.array("u16", 6)
    local slice = a:slice(2, 3)
    local r = p:map(identity, { a, b, slice, { a, a, x = b } })
    lu.assertTrue(rawequal(r[1], a) and rawequal(r[2], b))
    lu.assertTrue(r[3] == slice and #r[3] == 2)
    lu.assertTrue(rawequal(r[4][1], a) and rawequal(r[4][2], a) and rawequal(r[4].x, b))
    p:map(function(x) x[1] = 9 end, { r[3] })
    lu.assertEquals(a[2], 9)
    p:close()
  end
end

-- Made in a task, the host gets the elements: the worker may be gone by then.
function TestTasks.test_made_in_a_task()
  for _, p in ipairs { living(), pool.new(2), pool.new(0) } do
    local r = p:map(function(n)
      local a = pool.array("f32", n)
      a:fill(n + 0.5)
      return { a, a, a:slice(1, 1) }
    end, 5)
    p:close()
    for i = 1, 5 do
      lu.assertEquals({ #r[i][1], r[i][1][i], r[i][1]:type(), #r[i][3] }, { i, i + 0.5, "f32", 1 })
      lu.assertIs(r[i][1], r[i][2])
      r[i][1][1] = 3
    end
  end
  local big = pool.map(function() return pool.array("u8", 40 << 20):fill(7) end, 1)[1]
  lu.assertEquals({ #big, big[1], big[40 << 20] }, { 40 << 20, 7, 7 })
end

function TestTasks.test_the_same_object_is_one_in_a_worker()
  local p <close> = living(1)
  local a = pool.array("i32", 3)
  local r = p:map(function(x)
    kept_for_test = kept_for_test or {} -- luacheck: ignore
    kept_for_test[#kept_for_test + 1] = x[1] -- luacheck: ignore
    local count = 0
    for _, other in ipairs(kept_for_test) do if rawequal(other, a) then count = count + 1 end end -- luacheck: ignore
    return count
  end, { { a }, { a }, { a } })
  lu.assertEquals(r, { 1, 2, 3 })
  lu.assertEquals(p:stats().renewed, 0)
end

-- Nothing stays in the host, nor in workers that have other things to do.
function TestTasks.test_nothing_is_kept()
  local p <close> = living(2)
  p:map(identity, { 1, 2 })
  p:map(function(x) return x end, 2) -- what a pool has for itself, it has now
  local fds, maps = holdings()
  for _ = 1, 5 do
    local a = pool.array("u8", 100000)
    p:map(function(i) a[i] = 1 return a end, 10)
    p:map(identity, { a, a:slice(2), { a } })
  end
  p:map(identity, { 1 }, { chunk = 1 })
  lu.assertEquals({ holdings() }, { fds, maps })
  for _ = 1, 2 do p:broadcast(function() collectgarbage() collectgarbage() end) end
  for _, worker in ipairs(p:workers()) do lu.assertTrue(select(2, holdings(worker.pid)) <= maps + 2) end
end

-- A source that makes arrays and drops them: each lives until its task is done, and no longer.
function TestTasks.test_items_that_the_source_drops()
  local p <close> = living(2)
  local function source(n)
    local i = 0
    return function()
      i = i + 1
      if i % 20 == 0 then collectgarbage() end -- what is dropped goes soon
      if i <= n then return pool.array("i32", { i, i }) end
    end
  end
  local function sum(a)
    return a[1] + a[2]
  end
  local fds, maps = holdings()
  for _, chunk in ipairs { "auto", 1, 7 } do
    local r, n = p:map(sum, source(1000), { chunk = chunk })
    lu.assertEquals(n, 1000)
    for i = 1, n do lu.assertEquals(r[i], 2 * i) end
    local most, count = 0, 0
    for i, v in p:imap(sum, source(1000), { chunk = chunk }) do
      count = count + 1
      lu.assertEquals(v, 2 * i)
      if i % 100 == 0 then
        collectgarbage()
        most = math.max(most, (holdings(proc.pid())))
      end
    end
    lu.assertEquals(count, 1000)
    lu.assertTrue(most < 250, most .. " arrays at a time")
  end
  lu.assertEquals({ holdings() }, { fds, maps })
  lu.assertEquals(p:stats().renewed, 0)
end

function TestTasks.test_arguments_that_the_caller_drops()
  local p <close> = living(1)
  local futures = {}
  local busy = p:submit(function() local t = os.clock() while os.clock() - t < 0.05 do end end)
  local function add(a, b) return a[1] + b[1].x[1] end
  for i = 1, 40 do futures[i] = p:submit(add, pool.array("i32", { i }), { { x = pool.array("u8", { 1 }) } }) end
  collectgarbage()
  collectgarbage()
  for i = 1, 40 do lu.assertEquals(futures[i]:get(20), i + 1) end
  busy:get()
  local fds, maps = holdings()
  lu.assertEquals({ fds, maps }, { holdings() })
  lu.assertTrue(maps < 5, maps) -- futures that live on keep none of it
end

-- The function names an array in a global, which is another one by the time that a worker reads it.
function TestTasks.test_a_global_that_is_replaced_meanwhile()
  local p <close> = living(1)
  shared_for_test = pool.array("i32", { 5 }) -- luacheck: ignore
  local busy = p:submit(function() local t = os.clock() while os.clock() - t < 0.05 do end end)
  local f = p:submit(function() return shared_for_test[1] end) -- luacheck: ignore
  local other = p:submit(function() return 1 end)
  shared_for_test = nil -- luacheck: ignore
  collectgarbage()
  collectgarbage()
  lu.assertEquals({ f:get(20), other:get(20) }, { 5, 1 })
  busy:get()
end

function TestTasks.test_a_worker_s_error_is_an_item_s_error()
  local a = pool.array("u8", 3)
  local e = fails("index 4 is out of bounds: the array has 3 elements (u8)", pool.map, function(i) a[i] = i end, { 4 })
  lu.assertStrContains(e, "test_shared.lua:")
  fails("cannot set element 1: 256 is out of the range of u8 (0 to 255)", pool.map, function(v) a[1] = v end, { 256 })
end

-- A host that others may not look into: a function that needs shared memory gets fresh workers, an item is refused.
function TestTasks.test_where_proc_does_not_let_it()
  post.run { expected = "1\t9\nserialize\tresult ok\n", code = [[
    require "proc".set_dumpable(false)
    local p <close> = pool.new(2)
    p:map(tostring, 4)
    local a = pool.array("i32", 3)
    p:map(function(i) a[i] = 9 end, 3)
    print(p:stats().renewed, a[3])
    local b = pool.array("i32", 3)
    local _, _, errors = p:map(function(x) return x end, { b, 2 }, { errors = "collect" })
    assert(errors[1].message:find("cannot be sent to a process that lives already", 1, true), errors[1].message)
    print(errors[1].kind, rawequal(p:map(function() return a end, 1)[1], a) and "result ok")]] }
end

-- The kernel refuses the worker the memory that the host has sent: that item fails, no other.
function TestTasks.test_a_worker_that_cannot_open_it()
  post.run { program = post.FAULTY, env = { LUAPOOL_FAIL = "open#0@1:EMFILE" }, expected = "true\ttrue\n", code = [[
    local p <close> = pool.new(1)
    p:map(tostring, 4)
    local list = { 1, pool.array("i32", 3), 3 }
    local r, n, errors = p:map(function(x) return x end, list, { errors = "collect" })
    print(r[1] == 1 and r[3] == 3 and r[2] == nil, errors[2].message:find("luapool.array: it cannot be opened here: ", 1, true) ~= nil)]] }
end

-- ---- counters ----

TestCounter = {}

function TestCounter.test_operations()
  local c = pool.counter()
  lu.assertEquals({ c:get(), c:add(), c:add(5), c:add(-2), c:add(0), c:get() }, { 0, 1, 6, 4, 4, 4 })
  lu.assertEquals({ c:set(10), c:get() }, { 4, 10 })
  lu.assertTrue(c:compare_and_set(10, 11))
  lu.assertFalse(c:compare_and_set(10, 12))
  lu.assertEquals(c:get(), 11)
  lu.assertEquals(pool.counter(7):get(), 7)
  lu.assertEquals(pool.counter(-7.0):add(), -6)
  c:set(math.maxinteger)
  lu.assertEquals(c:add(), math.mininteger)
  lu.assertStrMatches(tostring(c), "^counter at %-9223372036854775808: 0?x?%x+$")
  lu.assertTrue(c == c and c ~= pool.counter()) -- luacheck: ignore
end

function TestCounter.test_arguments()
  local c = pool.counter()
  fails("bad argument #1 to 'counter' (integer expected, got string)", pool.counter, "1")
  fails("bad argument #1 to 'counter' (integer expected, got 1.5)", pool.counter, 1.5)
  fails("bad argument #1 to 'add' (integer expected, got 0.5)", c.add, c, 0.5)
  fails("bad argument #1 to 'add' (integer expected, got string)", c.add, c, "1")
  fails("bad argument #1 to 'set' (integer expected, got no value)", c.set, c)
  fails("bad argument #2 to 'compare_and_set' (integer expected, got nil)", c.compare_and_set, c, 0, nil)
  fails("bad argument #1 to 'get' (pool.counter expected, got table)", c.get, {})
  fails("bad argument #1 to 'get' (pool.counter expected, got userdata)", c.get, pool.lock())
  lu.assertEquals(c:get(), 0)
end

-- Four processes, none loses a count of another: inherited, and sent to workers that live already.
function TestCounter.test_four_processes()
  local c = pool.counter()
  local function count() for _ = 1, 100000 do c:add() end end
  pool.map(count, 4, { workers = 4, chunk = 1 })
  lu.assertEquals(c:get(), 400000)
  local p <close> = living(4)
  p:map(count, 4, { chunk = 1 })
  p:map(function(counter) for _ = 1, 100 do counter:add(-1) end end, { c, c, c, c }, { chunk = 1 })
  lu.assertEquals(c:get(), 800000 - 400)
  lu.assertEquals(p:stats().renewed, 0)
end

function TestCounter.test_compare_and_set_of_many()
  local c, wins = pool.counter(), pool.counter()
  pool.map(function()
    for _ = 1, 2000 do
      repeat local old = c:get() until c:compare_and_set(old, old + 1)
      wins:add()
    end
  end, 4, { workers = 4, chunk = 1 })
  lu.assertEquals({ c:get(), wins:get() }, { 8000, 8000 })
end

function TestCounter.test_crossing()
  local c = pool.counter(3)
  for _, p in ipairs { living(), pool.new(2), pool.new(0) } do
    local r = p:map(function(x) x.c:add() return { x.c, c } end, { { c = c } })
    lu.assertTrue(rawequal(r[1][1], c) and rawequal(r[1][2], c))
    p:close()
  end
  lu.assertEquals(c:get(), 6)
  local function make() return pool.counter() end
  fails("result: it was made in this task, and may end with it: make it in the host", pool.map, make, 1)
end

function TestCounter.test_memory()
  local fds, maps = holdings()
  do
    local c, l, ch = pool.counter(), pool.lock(), pool.channel()
    lu.assertEquals({ c:get(), l:holder(), #ch }, { 0, nil, 0 })
    lu.assertEquals({ holdings() }, { fds + 3, maps + 3 })
  end
  lu.assertEquals({ holdings() }, { fds, maps })
  for _ = 1, 3000 do pool.counter() pool.lock():try() pool.channel(1):send(1) end
end

function TestCounter.test_refused_by_the_system()
  for what, name in pairs { counter = "counter", lock = "lock", channel = "channel" } do
    local code = ("print(select(2, pcall(pool.%s)))"):format(what)
    refused("memfd#0:ENFILE", code, "no memory for a " .. name .. ": Too many open files in system\n")
    refused("truncate#0:ENOSPC", code, "no memory for a " .. name .. ": No space left on device\n")
  end
end

-- ---- locks ----

TestLock = {}

function TestLock.test_one_process()
  local lock = pool.lock()
  lu.assertNil(lock:holder())
  do
    local guard <close> = lock:acquire()
    lu.assertEquals(lock:holder(), proc.pid())
    lu.assertStrMatches(tostring(guard), "^guard of a lock, held: .*")
    lu.assertNil(lock:try())
    fails("cannot acquire the lock: this process holds it already, and would wait for itself", lock.acquire, lock)
    fails("this process holds it already", lock.acquire, lock, 0)
    fails("this process holds it already", lock.with, lock, print)
  end
  lu.assertNil(lock:holder())
  local guard = lock:try()
  guard:release()
  guard:release()
  local other = lock:acquire(0)
  guard:release() -- is not the other's
  lu.assertEquals(lock:holder(), proc.pid())
  lu.assertStrMatches(tostring(guard), "^guard of a lock, released: .*")
  other:release()
  lu.assertTrue(lock == lock and lock ~= pool.lock()) -- luacheck: ignore
  lu.assertStrMatches(tostring(lock), "^lock: .*")
end

function TestLock.test_with()
  local lock = pool.lock()
  lu.assertEquals({ lock:with(function(...) return lock:holder() == proc.pid(), ... end, 1, nil, 3) }, { true, 1, nil, 3 })
  lu.assertEquals(select("#", lock:with(print == nil and print or function() end)), 0)
  local _, e = pcall(lock.with, lock, function() error({}) end)
  lu.assertEquals(type(e), "table")
  lu.assertNil(lock:holder())
  local co = coroutine.wrap(function() return lock:with(function(x) return coroutine.yield(x) + 1 end, 5) end)
  lu.assertEquals(co(), 5)
  lu.assertNotNil(lock:holder())
  lu.assertEquals(co(7), 8)
  lu.assertNil(lock:holder())
  fails("bad argument #1 to 'with' (function expected, got table)", lock.with, lock, {})
end

-- A guard that nobody has any more gives the lock back, also that of a coroutine that nobody resumes.
function TestLock.test_forgotten_guards()
  local lock = pool.lock()
  lock:acquire()
  collectgarbage()
  lu.assertNil(lock:holder())
  coroutine.wrap(function() local _ <close> = lock:acquire() coroutine.yield() end)()
  collectgarbage()
  collectgarbage()
  lu.assertNil(lock:holder())
end

-- An interrupt between the end of acquire and the variable to be closed leaves a guard: who wants the lock next waits for no collection.
function TestLock.test_a_forgotten_guard_is_in_nobody_s_way()
  local lock = pool.lock()
  collectgarbage "stop"
  for _ = 1, 3 do lock:acquire() end
  lu.assertEquals(lock:with(function() return 5 end), 5)
  collectgarbage "restart"
  lu.assertNil(lock:holder())
end

-- The lock's own userdata may go: the guard still holds.
function TestLock.test_a_guard_holds_by_itself()
  local lock = pool.lock()
  local p <close> = pool.new(1)
  p:map(function() kept_lock = lock end, 1) -- luacheck: ignore
  local guard = lock:acquire()
  lock = nil -- luacheck: ignore
  collectgarbage()
  lu.assertEquals((p:map(function() return kept_lock:try() == nil end, 1)), { true }) -- luacheck: ignore
  guard:release()
  lu.assertEquals((p:map(function() return kept_lock:try() ~= nil end, 1)), { true }) -- luacheck: ignore
end

function TestLock.test_arguments()
  local lock = pool.lock()
  fails("bad argument #1 to 'acquire' (number of seconds, 0 or more, expected, got -1)", lock.acquire, lock, -1)
  fails("bad argument #1 to 'acquire' (number of seconds, 0 or more, expected, got string)", lock.acquire, lock, "1")
  fails("bad argument #1 to 'acquire' (pool.lock or pool.semaphore expected, got nil)", lock.acquire, nil)
  local guard = lock:acquire(math.huge)
  fails("guard of a pool.lock or pool.semaphore expected, got table", guard.release, {})
  fails("item: userdata (luapool.guard) cannot be sent", function()
    local _, _, errors = living(1):map(identity, { guard }, { errors = "collect" })
    error(errors[1].message)
  end)
end

-- Nothing that is done under it is lost, whoever else wants it.
function TestLock.test_exclusion()
  local lock, a = pool.lock(), pool.array("i64", 2)
  local function work()
    for i = 1, 500 do
      if i % 2 == 0 then
        local _ <close> = lock:acquire()
        a[1] = a[1] + 1
      else
        lock:with(function() a[1] = a[1] + 1 end)
      end
    end
  end
  pool.map(work, 4, { workers = 4, chunk = 1 })
  local p <close> = living(4)
  p:map(work, 4, { chunk = 1 })
  lu.assertEquals(a[1], 4000)
  lu.assertEquals(p:stats().renewed, 0)
end

-- The host holds it while it forks and while it waits: that does not make it its children's.
function TestLock.test_children_do_not_inherit_it()
  local lock = pool.lock()
  local guard <close> = lock:acquire()
  local r = pool.map(function(i)
    if i == 2 then guard:release() end -- not theirs
    local ok, why = lock:acquire(0.05)
    return { ok == nil, why, lock:holder(), tostring(guard):match "released" }
  end, 3, { workers = 3 })
  for i = 1, 3 do lu.assertEquals(r[i], { true, "timeout", proc.pid(), "released" }) end
  lu.assertEquals(lock:holder(), proc.pid())
end

-- Owners die while they hold it, in every way: the next one gets it.
function TestLock.test_owners_die()
  post.run { expected = "9\t9\tnil\n", code = [[
    local lock, tries = pool.lock(), pool.counter()
    local ways = { "kill -KILL $PPID", "kill -SEGV $PPID", "exit" }
    local p <close> = pool.new { workers = 3, on_crash = "skip", grace = 0.1 }
    local r = p:map(function(i)
      local guard = assert(lock:acquire(20))
      tries:add()
      if ways[i % 4] == "exit" then os.exit(1) end
      if ways[i % 4] then os.execute(ways[i % 4]) spin(5) end
      guard:release()
    end, 9, { chunk = 1 })
    local guard = assert(lock:acquire(20))
    print(tries:get(), 9, r[1])]] }
end

function TestLock.test_owner_is_killed_at_once_after_it_acquired()
  for _, fault in ipairs { "lock_acquired@1:kill", "lock_acquired#3@1:kill", "lock_released@1:kill" } do
    post.run { program = post.FAULTY, env = { LUAPOOL_FAULT = fault }, expected = "true\n", code = [[
      local lock = pool.lock()
      local p = pool.new { workers = 2, on_crash = "retry", retries = 1000 } -- each worker 1 dies
      local a = pool.array("i32", 1)
      p:map(function() local _ <close> = assert(lock:acquire(30)) a[1] = a[1] + 1 end, 40, { chunk = 1 })
      print(a[1] >= 40 and lock:try() ~= nil)
      p:close()]] }
  end
end

function TestLock.test_waiting_ends_in_time()
  local lock = pool.lock()
  local guard <close> = lock:acquire()
  local r = pool.map(function()
    local started = os.clock()
    local ok, why = lock:acquire(0.2)
    return { ok == nil and why, os.clock() - started < 0.15 } -- it sleeps
  end, 1)
  lu.assertEquals(r[1], { "timeout", true })
  guard:release()
end

function TestLock.test_interrupts()
  local s <close> = post.start { code = [[
    local lock = pool.lock()
    local p = pool.new(1)
    local held = pool.channel()
    local guard = lock:acquire()
    local ok, e = pcall(p.map, p, function() lock:acquire() end, 1, { timeout = 0.2 })
    print(ok, e.kind)
    guard:release()
    p:map(function() stolen = lock:acquire() end, 1)
    local caught, i = pcall(function() say "waiting" return lock:acquire() end)
    print(caught, is_interrupt(i))
    p:close()
    print(lock:acquire() ~= nil)]] }
  s:await "waiting"
  s:send "host"
  s:finish { exit = 0, stdout = "false\ttimeout\nfalse\ttrue\ntrue\n" }
end

-- ---- semaphores ----

TestSemaphore = {}

function TestSemaphore.test_one_process()
  local s = pool.semaphore(2)
  lu.assertEquals(s:available(), 2)
  do
    local a <close> = s:acquire()
    local b <close> = s:try()
    lu.assertStrMatches(tostring(a), "^guard of a semaphore, held: .*")
    lu.assertEquals(s:available(), 0)
    lu.assertStrMatches(tostring(s), "^semaphore, 0 of 2 free: .*")
    lu.assertNil(s:try())
    local problem = "cannot acquire the semaphore: this process holds all its permits already, and would wait for itself"
    fails(problem, s.acquire, s)
    fails(problem, s.with, s, print)
    b:release()
    b:release() -- gives one back, not two
    lu.assertEquals(s:available(), 1)
    lu.assertEquals({ s:with(function(...) return s:available(), ... end, nil, 3) }, { 0, nil, 3 })
  end
  lu.assertEquals(s:available(), 2)
  lu.assertTrue(s == s and s ~= pool.semaphore(2)) -- luacheck: ignore
end

function TestSemaphore.test_arguments()
  local wrong = "bad argument #1 to 'semaphore' (number of permits, 1 to 1024, expected, got %s)"
  fails(wrong:format(0), pool.semaphore, 0)
  fails(wrong:format(1025), pool.semaphore, 1025)
  fails("bad argument #1 to 'semaphore' (integer expected, got 1.5)", pool.semaphore, 1.5)
  fails("bad argument #1 to 'semaphore' (integer expected, got no value)", pool.semaphore)
  local s = pool.semaphore(1)
  fails("bad argument #1 to 'acquire' (number of seconds, 0 or more, expected, got -1)", s.acquire, s, -1)
  fails("bad argument #1 to 'available' (pool.semaphore expected, got userdata)", s.available, pool.lock())
  fails("bad argument #1 to 'holder' (pool.lock expected, got userdata)", pool.lock().holder, s)
end

-- Guards that nobody has any more give their permits back, and are in nobody's way until then.
function TestSemaphore.test_forgotten_guards()
  local s = pool.semaphore(3)
  collectgarbage "stop"
  for _ = 1, 10 do s:acquire() end
  collectgarbage "restart"
  collectgarbage()
  lu.assertEquals(s:available(), 3)
end

-- Never more than n at a time, whatever way the semaphore has come to the workers, and never fewer for long.
function TestSemaphore.test_n_at_a_time()
  local s, inside, most, done = pool.semaphore(3), pool.counter(), pool.counter(), pool.counter()
  local function work()
    for _ = 1, 100 do
      local _ <close> = assert(s:acquire(60))
      local now = inside:add()
      for _ = 1, 20 do
        local seen = most:get()
        if seen >= now or most:compare_and_set(seen, now) then break end
      end
      inside:add(-1)
      done:add()
    end
  end
  pool.map(work, 6, { workers = 6, chunk = 1 })
  local p <close> = living(6)
  p:map(work, 6, { chunk = 1 })
  lu.assertEquals({ done:get(), inside:get(), s:available() }, { 1200, 0, 3 })
  lu.assertTrue(most:get() >= 1 and most:get() <= 3)
  lu.assertEquals(p:stats().renewed, 0)
end

-- As many as there are permits are inside at once: they meet there.
function TestSemaphore.test_all_permits_are_of_use()
  local s, inside = pool.semaphore(3), pool.counter()
  local r = pool.map(function()
    local _ <close> = assert(s:acquire(60))
    inside:add()
    local _, met = pool.channel():receive(0.01), false
    for _ = 1, 6000 do
      met = inside:get() == 3
      if met then break end
      pool.channel():receive(0.01)
    end
    return met
  end, 3, { workers = 3, chunk = 1 })
  lu.assertEquals(r, { true, true, true })
end

-- A host's permits are not its children's, and a guard that they inherit is not theirs to release.
function TestSemaphore.test_children_do_not_inherit_permits()
  local s = pool.semaphore(2)
  local guard <close> = s:acquire()
  local r = pool.map(function()
    guard:release()
    local own <close> = s:try()
    return { own ~= nil, s:available(), (select(2, s:try())) }
  end, 1)
  lu.assertEquals(r, { { true, 0 } })
  lu.assertEquals(s:available(), 1)
end

-- Owners die while they hold permits, several of them, in every way: none is lost.
function TestSemaphore.test_owners_die()
  post.run { expected = "9\t3\ttrue\n", code = [[
    local s, tries = pool.semaphore(3), pool.counter()
    local ways = { "kill -KILL $PPID", "kill -SEGV $PPID", "exit" }
    local p <close> = pool.new { workers = 3, on_crash = "skip", grace = 0.1 }
    p:map(function(i)
      local guard, other = assert(s:acquire(20)), s:try()
      tries:add()
      if ways[i % 4] == "exit" then os.exit(1) end
      if ways[i % 4] then os.execute(ways[i % 4]) spin(5) end
      guard:release()
      if other then other:release() end
    end, 9, { chunk = 1 })
    local a, b, c = s:acquire(20), s:acquire(20), s:acquire(20)
    local held = 3 - s:available()
    print(tries:get(), held, (a and b and c) ~= nil)]] }
end

function TestSemaphore.test_owner_is_killed_at_once_after_it_acquired()
  for _, fault in ipairs { "lock_acquired@1:kill", "lock_acquired#3@1:kill", "lock_released@1:kill" } do
    post.run { program = post.FAULTY, env = { LUAPOOL_FAULT = fault }, expected = "40\t2\n", code = [[
      local s = pool.semaphore(2)
      local p = pool.new { workers = 3, on_crash = "retry", retries = 1000 } -- each worker 1 dies
      local a = pool.array("i32", 40)
      p:map(function(i) local _ <close> = assert(s:acquire(30)) a[i] = 1 end, 40, { chunk = 1 })
      p:close()
      local sum = 0
      for _, v in ipairs(a) do sum = sum + v end
      print(sum, s:available())]] }
  end
end

function TestSemaphore.test_waiting_ends()
  local s <close> = post.start { code = [[
    local s = pool.semaphore(1)
    local p = pool.new(1)
    local guard = s:acquire()
    local r = p:map(function() local ok, why = s:acquire(0.05) return ok == nil and why end, 1)
    local ok, e = pcall(p.map, p, function() s:acquire() end, 1, { timeout = 0.2 })
    print(r[1], ok, e.kind)
    guard:release()
    p:map(function() stolen = s:acquire() end, 1)
    local caught, i = pcall(function() say "waiting" return s:acquire() end)
    print(caught, is_interrupt(i))
    p:close()
    print(s:acquire() ~= nil)]] }
  s:await "waiting"
  s:send "host"
  s:finish { exit = 0, stdout = "timeout\tfalse\ttimeout\nfalse\ttrue\ntrue\n" }
end

-- ---- channels ----

TestChannel = {}

function TestChannel.test_in_one_process()
  local ch = pool.channel()
  lu.assertEquals(#ch, 0)
  lu.assertTrue(ch:send(1) and ch:send(nil) and ch:send { a = { 1, 2 } } and ch:send "x" and ch:send(false))
  lu.assertEquals(#ch, 5)
  lu.assertEquals({ ch:receive() }, { true, 1 })
  lu.assertEquals(table.pack(ch:receive()), { true, nil, n = 2 })
  lu.assertEquals({ ch:receive() }, { true, { a = { 1, 2 } } })
  lu.assertEquals({ ch:receive(0) }, { true, "x" })
  lu.assertEquals({ ch:receive(0) }, { true, false })
  lu.assertEquals(table.pack(ch:receive(0)), { nil, "timeout", n = 2 })
  lu.assertEquals(table.pack(ch:receive(0.05)), { nil, "timeout", n = 2 })
  lu.assertStrMatches(tostring(ch), "^channel, 0 messages: .*")
  lu.assertTrue(ch == ch and ch ~= pool.channel()) -- luacheck: ignore
end

function TestChannel.test_what_crosses()
  local Class = { __name = "tests.Class" }
  Class.__index = Class
  package.loaded["tests.channel_class"] = Class
  local ch = pool.channel()
  local loop = { 1 }
  loop.self = loop
  ch:send(loop)
  ch:send(setmetatable({ 5 }, Class))
  local up = 10
  ch:send(function(x) return x + up end)
  ch:send(string.upper)
  local got = select(2, ch:receive())
  lu.assertIs(got.self, got)
  lu.assertIs(getmetatable(select(2, ch:receive())), Class)
  lu.assertEquals(select(2, ch:receive())(5), 15)
  lu.assertIs(select(2, ch:receive()), string.upper)
  fails("cannot send: message.f: userdata (FILE*) cannot be sent", ch.send, ch, { f = io.tmpfile() })
  fails("cannot send: message[1]: coroutine cannot be sent", ch.send, ch, { coroutine.create(print) })
  lu.assertEquals(#ch, 0)
  lu.assertTrue(ch:send(1))
  package.loaded["tests.channel_class"] = nil
end

function TestChannel.test_capacity()
  local ch = pool.channel(2)
  lu.assertTrue(ch:send(1) and ch:send(2))
  lu.assertEquals(table.pack(ch:send(3, 0)), { nil, "timeout", n = 2 })
  lu.assertEquals(table.pack(ch:send(3, 0.05)), { nil, "timeout", n = 2 })
  ch:receive()
  lu.assertTrue(ch:send(3, 0))
  lu.assertEquals({ select(2, ch:receive()), select(2, ch:receive()) }, { 2, 3 })
  local full = pool.channel()
  local sent = 0
  while full:send(("x"):rep(1000), 0) do sent = sent + 1 end
  lu.assertTrue(sent > 50, sent)
  for _ = 1, sent do lu.assertEquals(#select(2, full:receive(0)), 1000) end
  lu.assertEquals({ full:receive(0) }, { nil, "timeout" })
end

function TestChannel.test_arguments()
  local ch = pool.channel()
  fails("bad argument #1 to 'channel' (number of messages, 1 or more, expected, got 0)", pool.channel, 0)
  fails("bad argument #1 to 'channel' (integer expected, got string)", pool.channel, "5")
  fails("bad argument #1 to 'channel' (integer expected, got 1.5)", pool.channel, 1.5)
  fails("bad argument #2 to 'send' (number of seconds, 0 or more, expected, got -1)", ch.send, ch, 1, -1)
  fails("bad argument #1 to 'receive' (number of seconds, 0 or more, expected, got nan)", ch.receive, ch, math.abs(0 / 0))
  fails("bad argument #1 to 'receive' (number of seconds, 0 or more, expected, got string)", ch.receive, ch, "1")
  fails("bad argument #1 to 'receive' (pool.channel expected, got table)", ch.receive, {})
  lu.assertEquals(#pool.channel(math.maxinteger), 0)
end

function TestChannel.test_closing()
  local ch = pool.channel()
  ch:send "last"
  lu.assertFalse(ch:is_closed())
  ch:close()
  ch:close()
  lu.assertTrue(ch:is_closed())
  fails("cannot send: the channel is closed", ch.send, ch, 1)
  lu.assertEquals({ ch:receive() }, { true, "last" })
  lu.assertEquals(table.pack(ch:receive()), { nil, "closed", n = 2 })
  lu.assertEquals(table.pack(ch:receive(0)), { nil, "closed", n = 2 })
  lu.assertStrMatches(tostring(ch), "^channel, 0 messages, closed: .*")
end

function TestChannel.test_iteration()
  local ch = pool.channel()
  for _, v in ipairs { 1, "two", false, 4 } do ch:send(v) end
  ch:send(nil)
  ch:send(5)
  ch:close()
  local seen = {}
  for v in ch:iter() do seen[#seen + 1] = v end
  lu.assertEquals(seen, { 1, "two", false, 4, 5 })
  for _ in ch:iter() do lu.fail("a message of none") end
end

-- Those who wait are told: senders get the error, receivers the end.
function TestChannel.test_closing_wakes_all()
  local full, empty = pool.channel(1), pool.channel()
  full:send(1)
  local r = pool.map(function(i)
    if i == 1 then
      while full:is_closed() == false do local _ <close> = pool.lock():acquire() end
      return "closer"
    elseif i <= 3 then
      return select(2, pcall(full.send, full, i))
    elseif i <= 5 then
      return select(2, empty:receive())
    end
    local sleeper = pool.channel()
    sleeper:receive(0.2)
    full:close()
    empty:close()
  end, 6, { workers = 6, chunk = 1 })
  lu.assertEquals(r[1], "closer")
  for i = 2, 3 do lu.assertStrContains(r[i], "cannot send: the channel is closed") end
  for i = 4, 5 do lu.assertEquals(r[i], "closed") end
end

-- Every message arrives once, whatever the number of those who send and receive.
local function exchange(p, senders, receivers, each, capacity)
  local ch, left = pool.channel(capacity), pool.counter(senders)
  local r = p:map(function(i)
    if i <= senders then
      for k = 1, each do ch:send { i, k } end
      if left:add(-1) == 0 then ch:close() end
      return { count = 0, sum = 0 }
    end
    local count, sum, last = 0, 0, {}
    for m in ch:iter() do
      assert((last[m[1]] or 0) < m[2], "out of order")
      last[m[1]] = m[2]
      count, sum = count + 1, sum + m[1] * m[2]
    end
    return { count = count, sum = sum }
  end, senders + receivers, { chunk = 1 })
  local count, sum = 0, 0
  for _, got in ipairs(r) do count, sum = count + got.count, sum + got.sum end
  lu.assertEquals({ count, sum }, { senders * each, (senders * (senders + 1) // 2) * (each * (each + 1) // 2) })
end

function TestChannel.test_many_to_many()
  for _, shape in ipairs { { 1, 1 }, { 3, 1 }, { 1, 3 }, { 3, 3 } } do
    local p <close> = living(shape[1] + shape[2])
    exchange(p, shape[1], shape[2], 500)
    exchange(p, shape[1], shape[2], 200, 1)
    lu.assertEquals(p:stats().renewed, 0)
  end
end

function TestChannel.test_large_messages()
  local ch = pool.channel()
  local p <close> = living(2)
  local r = p:map(function(i)
    if i == 1 then
      ch:send(("a"):rep(64 << 20))
      ch:send "small"
      ch:send(("b"):rep(1 << 20))
      return true
    end
    local ok, a = ch:receive()
    local _, small = ch:receive()
    local _, b = ch:receive()
    return ok and #a == 64 << 20 and a:find("[^a]") == nil and small == "small" and #b == 1 << 20 and b:find("[^b]") == nil
  end, 2, { chunk = 1 })
  lu.assertEquals(r, { true, true })
  fails("cannot send a message of ", function()
    refused("truncate#2:ENOSPC", [[
      local ch = pool.channel()
      local ok, e = pcall(ch.send, ch, ("x"):rep(1 << 20))
      print(ok, (e:gsub("^.-: ", "")))
      ch:send "small" print(select(2, ch:receive()))
      ch:send(("x"):rep(1 << 20)) print(#select(2, ch:receive()))]],
      "false\tcannot send a message of 1048585 bytes: No space left on device\nsmall\n1048576\n")
    error("cannot send a message of ")
  end)
end

-- Shared memory in a message: from the host its address, which is kept until it was read; from a task its value.
function TestChannel.test_shared_memory_in_messages()
  local ch, back = pool.channel(), pool.channel()
  local p <close> = living(1)
  p:map(identity, { 1, 2 })
  local fds, maps = holdings()
  for i = 1, 5 do ch:send { pool.array("i32", 3):fill(i), pool.counter(i) } end
  collectgarbage()
  collectgarbage()
  lu.assertEquals({ holdings() }, { fds + 10, maps + 10 }) -- nobody else has them yet
  local sum = p:apply(function()
    local sum = 0
    for _ = 1, 5 do
      local _, m = ch:receive(10)
      sum = sum + m[1][3] * 100 + m[2]:add()
    end
    back:send { pool.array("u8", { 1, 2, 3 }), back }
    return sum
  end)
  lu.assertEquals(sum, 15 * 100 + 15 + 5)
  lu.assertEquals({ ch:receive(0) }, { nil, "timeout" }) -- an occasion to forget what was read
  lu.assertEquals({ holdings() }, { fds, maps })
  p:terminate()
  local _, got = back:receive()
  lu.assertEquals(got[1]:to_table(), { 1, 2, 3 })
  lu.assertTrue(rawequal(got[2], back))
end

-- What cannot be read is an error, and taken: the next message is not its hostage.
function TestChannel.test_message_that_cannot_be_read()
  local ch = pool.channel()
  local p <close> = living(1)
  p:apply(function()
    local Hidden = {}
    Hidden.__index = Hidden
    package.loaded["tests.only_there"] = Hidden
    ch:send(setmetatable({}, Hidden))
    ch:send { setmetatable({}, Hidden), ch }
    ch:send "next"
  end)
  fails("cannot receive: module tests.only_there does not exist here", ch.receive, ch)
  fails("cannot receive: module tests.only_there does not exist here", ch.receive, ch)
  lu.assertEquals({ ch:receive() }, { true, "next" })
end

-- Finalizers run in the middle of anything, also of sending and receiving.
function TestChannel.test_finalizers_that_use_channels()
  local ch, other = pool.channel(), pool.channel()
  local sent, problems = 0, 0
  local function litter()
    setmetatable({}, { __gc = function()
      if not pcall(function()
        if other:send({ sent }, 0) then sent = sent + 1 end
        ch:receive(0)
      end) then problems = problems + 1 end
    end })
  end
  local mode = collectgarbage("incremental", 100, 1000)
  for _ = 1, 300 do
    litter()
    ch:send { {}, { {} }, pool.array("u8", 1) }
    local ok, m = ch:receive(0)
    if ok then lu.assertEquals(#m, 3) end
  end
  collectgarbage(mode)
  for _ = 1, math.min(sent, 50) do lu.assertEquals(#select(2, other:receive(0)), 1) end
  lu.assertTrue(sent > 0)
  lu.assertTrue(problems <= 300)
end

-- Killed at each point, again and again: those who are left exchange everything that was sent, none of it twice or in part.
local POINTS = { "mailbox_putting", "mailbox_written", "mailbox_put", "mailbox_taking", "mailbox_copied", "mailbox_taken" }

for _, point in ipairs(POINTS) do
  TestChannel["test_killed_at_" .. point] = function()
    local fault = ("%s#20@1:kill,%s#20@2:kill,%s#45@3:kill"):format(point, point, point)
    post.run { program = post.FAULTY, env = { LUAPOOL_FAULT = fault }, expected = "whole\n", code = [[
      local ch, back = pool.channel(10), pool.channel()
      local p = pool.new { workers = 4, on_crash = "skip" }
      local seen = pool.array("u8", 400)
      p:map(function(i)
        for k = 1, 100 do
          local me = (i - 1) * 100 + k
          if i % 2 == 0 then
            if not ch:send({ me, ("x"):rep(me * 7) }, 0.5) then break end -- those who received are dead
          else
            local ok, m = ch:receive(0.5)
            if not ok then break end
            assert(#m[2] == m[1] * 7)
            seen[m[1] ] = seen[m[1] ] + 1
          end
        end
      end, 4, { chunk = 1 })
      while true do
        local ok, m = ch:receive(0)
        if not ok then break end
        assert(#m[2] == m[1] * 7)
        seen[m[1] ] = seen[m[1] ] + 1
      end
      for i = 1, 400 do assert(seen[i] <= 1, i) end
      ch:send "usable"
      assert(select(2, ch:receive(5)) == "usable")
      p:close()
      print "whole"]] }
  end
end

-- A task that waits too long, or is cancelled, stops with an error that it can catch, and others can go on.
function TestChannel.test_tasks_that_wait_are_interrupted()
  post.run { expected = "timeout\tcaught\ntimeout\ntimeout\tmine\n", code = [[
    local ch, words, full = pool.channel(), pool.channel(), pool.channel(1)
    full:send "mine"
    local p = pool.new { workers = 2, grace = 5 }
    local _, _, errors = p:map(function()
      local _ <close> = closer(function() words:send "caught" end)
      ch:receive()
    end, 1, { timeout = 1, errors = "collect" })
    print(errors[1].kind, select(2, words:receive(20)))
    local ok, e = pcall(p.map, p, function() ch:receive() end, 2, { timeout = 0.2 })
    print(e.kind)
    ok, e = pcall(p.map, p, function() full:send "yours" end, 2, { timeout = 0.2 })
    print(e.kind, select(2, full:receive(0)))
    assert(#full == 0)
    p:close()]] }
end

function TestChannel.test_ctrl_c_while_the_host_waits()
  for _, wait in ipairs { "ch:receive()", "ch:receive(50)", "for _ in ch:iter() do end", "full:send(2)" } do
    local s <close> = post.start { pty = true, code = ([[
      local ch, full = pool.channel(), pool.channel(1)
      full:send(1)
      local p = pool.new(2)
      p:map(tostring, 4)
      for _ = 1, 2 do
        local ok, e = pcall(function() say "waiting" %s end)
        print(ok, is_interrupt(e))
      end
      ch:send "still"
      print(select(2, ch:receive()), select(2, full:receive()), #full)
      p:close()]]):format(wait) }
    for k = 1, 2 do
      s:await("waiting", k)
      proc.sleep(0.25)
      s:send "tty"
      s.child:read_until("false\ttrue", 10)
    end
    s:finish { exit = 0, stdout = function(out) lu.assertStrContains(out, "false\ttrue\nfalse\ttrue\nstill\t1\t0\n") end }
  end
end

-- Under the stock interpreter its own Ctrl-C reaches a waiting script, too.
function TestChannel.test_ctrl_c_of_the_stock_interpreter()
  local child <close> = proc.spawn { stderr = "stdout", args = { "lua5.4", "-e", [[
    local pool = require "luapool"
    local ch = pool.channel()
    local ok, e = pcall(function() io.write "waiting\n" io.flush() ch:receive() end)
    print(ok, pool.is_interrupt(e))
    ch:send(5) print(ch:receive())]] } }
  lu.assertNotNil(child:read_until("waiting\n", 20))
  lu.assertTrue(proc.wait_until(function() return proc.stat(child.pid).state == "S" end, 20))
  proc.sleep(0.1)
  child:kill "INT"
  local status, out = child:finish(20)
  lu.assertEquals({ status.exit, out }, { 0, "waiting\nfalse\ttrue\ntrue\t5\n" })
end

-- While the host waits for a message, or a lock, its pools go on: whoever was to send it may have died.
function TestChannel.test_pools_go_on_while_the_host_waits()
  post.run { expected = "at last\t1\ntimed out\ttimeout\ntold\tcalled\nlocked\n", code = [[
    local ch, tries, lock = pool.channel(), pool.counter(), pool.lock()
    local p <close> = pool.new { workers = 2, grace = 0.2 }
    p:map(tostring, 4)
    local f = p:map_async(function()
      if tries:add() == 1 then os.execute "kill -KILL $PPID" spin(5) end
      ch:send "at last"
      return 1
    end, 1, { on_crash = "retry" })
    print(select(2, ch:receive(20)), f:get()[1])
    local g = p:map_async(function()
      local _ <close> = closer(function() ch:send "timed out" end)
      spin(60)
    end, 1, { timeout = 1 })
    local _, word = ch:receive(20)
    print(word, select(2, pcall(g.get, g)).kind)
    local called
    p:submit(function() return 5 end):on_done(function() called = "called" ch:send "told" end)
    _, word = ch:receive(20)
    print(word, called)
    tries:set(0)
    local h = p:map_async(function()
      local _ <close> = lock:acquire()
      tries:add()
      spin(60)
    end, 1, { timeout = 3 })
    while tries:get() == 0 do ch:receive(0.01) end
    print(lock:acquire(20) and "locked")
    pcall(h.get, h)]] }
end

-- Tasks that find new items for their own call.
function TestChannel.test_as_a_source()
  local p <close> = living(2)
  local function crawl()
    local todo, left = pool.channel(), pool.counter(1)
    todo:send(1)
    return todo:iter(), function(n)
      if n < 100 then
        left:add(2)
        todo:send(2 * n)
        todo:send(2 * n + 1)
      end
      if left:add(-1) == 0 then todo:close() end
      return n
    end
  end
  local source, visit = crawl()
  local r, n = p:map(visit, source, { chunk = 1 })
  table.sort(r)
  lu.assertEquals({ n, r[1], r[199] }, { 199, 1, 199 })
  source, visit = crawl()
  local count, sum = 0, 0
  for _, v in p:imap_unordered(visit, source, { chunk = 1 }) do count, sum = count + 1, sum + v end
  lu.assertEquals({ count, sum }, { 199, 199 * 200 // 2 })
end

function TestChannel.test_waiting_costs_no_processor_time()
  local ch = pool.channel()
  local r = pool.map(function()
    local started = os.clock()
    ch:receive(0.4)
    return os.clock() - started
  end, 2, { workers = 2, chunk = 1 })
  for i = 1, 2 do lu.assertTrue(r[i] < 0.2, r[i]) end
end

-- ---- the end ----

TestEnd = {}

-- Whoever dies, and however: nothing is left behind.
function TestEnd.test_host_is_killed()
  for _, signal in ipairs { "KILL", "TERM" } do
    local s <close> = post.start { code = [[
      local a = pool.array("u8", 1 << 20)
      local p = pool.new(3)
      p:map(function(i) a[i] = i % 256 if i == 3 then say "inside" spin(60) end end, 6, { chunk = 1 })]] }
    s:await "inside"
    s:send("host", signal)
    s:finish { signal = "SIG" .. signal, stdout = "" }
  end
end
