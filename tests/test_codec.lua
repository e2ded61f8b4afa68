-- The codec: every value that crosses comes out as it went in, everything else is refused with its path, and damage never crashes.
-- Needs tests/c/codec_probe.c, found as "codec_probe" through package.cpath.
local lu = require "luaunit"
local probe = require "codec_probe"

local WITH_GLOBALS = 1
local EINVAL, ENOENT, EBADMSG = 22, 2, 74

local codec = probe.open()

local function encode(flags, ...)
  codec:start(flags)
  for i = 1, select("#", ...) do
    local ok, message, code = codec:write((select(i, ...)))
    if not ok then return nil, message, code end
  end
  return codec:bytes()
end

local function decode(bytes)
  local values = { n = 0 }
  codec:read_start(bytes)
  while true do
    local ok, value, code = codec:read()
    if not ok then return values, value, code end
    values.n = values.n + 1
    values[values.n] = value
  end
end

-- The values after a trip there and back.
local function trip(...)
  local bytes = assert(encode(0, ...))
  local values, message, code = decode(bytes)
  assert(values.n == select("#", ...), message)
  assert(code == EBADMSG and message == "end of data", message)
  return table.unpack(values, 1, values.n)
end

local function trip_with_globals(...)
  local bytes = assert(encode(WITH_GLOBALS, ...))
  local values = decode(bytes)
  return table.unpack(values, 1, values.n)
end

local function bits(number)
  return math.type(number) .. string.pack("n", number)
end

-- Equal in structure, scalars bit for bit, references shared in the same places.
local function same(a, b, seen)
  seen = seen or {}
  if type(a) ~= type(b) then return false, type(a) .. " became " .. type(b) end
  if type(a) == "number" then
    return math.type(a) == math.type(b) and (math.type(a) == "integer" and a == b or bits(a) == bits(b)), "number " .. a
  end
  if type(a) ~= "table" then return a == b, tostring(a) end
  if seen[a] then return seen[a] == b, "shared reference" end
  seen[a] = b
  local n, m = 0, 0
  for k, v in next, a do
    n = n + 1
    if type(k) ~= "table" then
      local ok, why = same(v, rawget(b, k), seen)
      if not ok then return false, tostring(k) .. ": " .. why end
    end
  end
  for _ in next, b do m = m + 1 end
  return n == m, "number of keys"
end

local function assert_trip(value)
  local back = trip(value)
  local ok, why = same(value, back)
  lu.assertTrue(ok, why)
  return back
end

local function refused(value, ...)
  local bytes, message, code = encode(0, value)
  lu.assertNil(bytes)
  lu.assertEquals(code, EINVAL)
  for _, text in ipairs { ... } do lu.assertStrContains(message, text) end
  return message
end

-- ---- scalars -----------------------------------------------------------------------------------------------

TestCodecScalars = {}

local NAN_WITH_PAYLOAD = string.unpack("n", string.pack("j", 0x7ff8dead0000beef))
local SCALARS = {
  true, false, 0, 1, 63, 64, -1, 127, 128, 255, 256, 32767, 2 ^ 31 | 0, -(2 ^ 31) | 0, (2 ^ 31 | 0) - 1, -(2 ^ 31 | 0) - 1,
  math.maxinteger, math.mininteger, 2 ^ 53 | 0, 0.0, -0.0, 1.0, 0.1, 1 / 3, 2 ^ 53, 1e308, 5e-324,
  1 / 0, -1 / 0, NAN_WITH_PAYLOAD, -NAN_WITH_PAYLOAD,
  "", "a", "\0", ("x"):rep(127), ("x"):rep(128), ("\0\255"):rep(70000), "nil",
}

function TestCodecScalars:test_each_alone()
  for _, value in ipairs(SCALARS) do assert_trip(value) end
  lu.assertNil((trip(nil)))
end

function TestCodecScalars:test_in_tables()
  assert_trip(SCALARS)
  for _, value in ipairs(SCALARS) do
    assert_trip { value }
    assert_trip { x = value, y = { value, value } }
    if value == value then assert_trip { [value] = 1 } end
  end
end

function TestCodecScalars:test_mixed_streams_of_runs()
  local random = 1
  for _ = 1, 300 do
    local values, n = {}, 0
    for _ = 1, 40 do
      random = random * 6364136223846793005 + 1442695040888963407
      local kind, length = (random >> 33) % 7, (random >> 40) % 5 + 1
      for _ = 1, length do
        n = n + 1
        if kind == 1 then values[n] = random
        elseif kind == 2 then values[n] = random / 3
        elseif kind == 3 then values[n] = "s" .. n
        elseif kind == 4 then values[n] = n % 2 == 0
        elseif kind == 5 then values[n] = { n, id = n }
        elseif kind == 6 then values[n] = random % 64 end
      end
    end
    local bytes = assert(encode(0, table.unpack(values, 1, n)))
    local back = decode(bytes)
    lu.assertEquals(back.n, n)
    for i = 1, n do lu.assertTrue((same(values[i], back[i]))) end
    codec:read_start(bytes)
    local array, first = {}, -3
    local half = n // 2
    lu.assertEquals(codec:read_array(array, first, half), half)
    lu.assertEquals(codec:read_array(array, first + half, n - half), n - half)
    for i = 1, n do lu.assertTrue((same(values[i], array[first + i - 1]))) end
    local nothing, message, code, done = codec:read_array(array, 1, 1)
    lu.assertNil(nothing)
    lu.assertEquals({ message, code, done }, { "end of data", EBADMSG, 0 })
  end
end

function TestCodecScalars:test_read_array_stores_nil_over_old_values()
  codec:read_start(assert(encode(0, nil, nil, 1, nil)))
  local array = { "old", "old", "old", "old", "kept" }
  lu.assertEquals(codec:read_array(array, 1, 4), 4)
  lu.assertEquals(array, { nil, nil, 1, nil, "kept" })
end

function TestCodecScalars:test_long_runs_of_nil()
  local n = 20000
  local bytes = assert(encode(0, table.unpack({}, 1, n)))
  lu.assertTrue(#bytes < 100)
  lu.assertEquals(decode(bytes).n, n)
end

function TestCodecScalars:test_every_prefix_of_whole_values_is_a_stream()
  codec:start(0)
  local values, lengths = { 1, 2, 2.5, 3.5, "x", { a = 1 }, { a = 2 }, 7, 8, { b = { a = 3 } } }, {}
  for i, value in ipairs(values) do
    assert(codec:write(value))
    lengths[i] = codec:bytes()
  end
  for i = 1, #values do
    local back = decode(lengths[i])
    lu.assertEquals(back.n, i)
    for j = 1, i do lu.assertTrue((same(values[j], back[j]))) end
  end
end

-- ---- tables ------------------------------------------------------------------------------------------------

TestCodecTables = {}

local function random_value(rng, depth)
  local kind = rng(depth > 0 and 12 or 7)
  if kind == 1 then return rng(2) == 1
  elseif kind == 2 then return rng(200) - 100
  elseif kind == 3 then return rng(0) -- any 64 bits
  elseif kind == 4 then return rng(1000) / 7
  elseif kind == 5 then return ("k" .. rng(20)):rep(rng(3))
  elseif kind == 6 then return string.pack("j", rng(0)):rep(rng(30))
  elseif kind == 7 then return rng(64) - 1 end
  local t = {}
  if kind <= 9 then
    for i = 1, rng(12) - 1 do t[i] = random_value(rng, depth - 1) end
  end
  if kind >= 9 then
    for _ = 1, rng(6) do t["field" .. rng(8)] = random_value(rng, depth - 1) end
  end
  if kind == 11 then
    for _ = 1, rng(6) do t[random_value(rng, 0)] = random_value(rng, depth - 1) end
  end
  if kind == 12 then
    for i = 1, rng(40) do t[i] = rng(3) == 1 and i + 0.5 or i end
    t[rng(60)] = t
    t.self = { t, t[1] }
  end
  return t
end

function TestCodecTables:test_generated_values()
  math.randomseed(20240229)
  for _ = 1, 4000 do assert_trip(random_value(math.random, 4)) end
end

function TestCodecTables:test_generated_streams()
  math.randomseed(7)
  for _ = 1, 200 do
    local values = {}
    for i = 1, 30 do values[i] = random_value(math.random, 3) end
    local back = { trip(table.unpack(values)) }
    for i = 1, 30 do lu.assertTrue((same(values[i], back[i]))) end
  end
end

function TestCodecTables:test_cycles_and_shared_references()
  local a = { name = "a" }
  a.self, a.list = a, { a, a, { a } }
  local back = trip(a)
  lu.assertIs(back.self, back)
  lu.assertIs(back.list[1], back)
  lu.assertIs(back.list[3][1], back)
  local leaf = { x = 1 }
  back = trip { leaf, leaf, { leaf }, [leaf] = leaf }
  lu.assertIs(back[1], back[2])
  lu.assertIs(back[3][1], back[1])
  lu.assertIs(back[back[1]], back[1])
  local one, two = trip(leaf, leaf)
  lu.assertFalse(one == two, "identity is kept within a value, not between values")
end

function TestCodecTables:test_composite_keys()
  local key = {}
  key[key] = { [{ 1 }] = { [{}] = 2 } }
  local back = trip(key)
  local inner = back[back]
  local k, v = next(inner)
  lu.assertEquals(k, { 1 })
  lu.assertEquals(select(2, next(v)), 2)
end

local function chain(depth, link)
  local t = {}
  for _ = 1, depth do t = link(t) end
  return t
end

function TestCodecTables:test_100000_levels()
  local links = {
    function(t) return { t } end, function(t) return { next = t } end, function(t) return { id = 1, next = t, x = 2 } end,
    function(t) return { 1, 2, t, k = 1 } end, function(t) return { [t] = 1 } end,
    function(t) return { [1.5] = t } end, function(t) return setmetatable({}, { t }) end,
  }
  local downs = {
    function(t) return t[1] end, function(t) return t.next end, function(t) return t.next end, function(t) return t[3] end, next,
    function(t) return t[1.5] end, function(t) local mt = getmetatable(t) return mt and mt[1] end,
  }
  for i, link in ipairs(links) do
    local t, depth = trip(chain(100000, link)), -1
    while t do t, depth = downs[i](t), depth + 1 end
    lu.assertEquals(depth, 100000, "link " .. i)
  end
end

function TestCodecTables:test_too_deep_is_an_error_that_costs_only_itself()
  refused(chain(1100000, function(t) return { t } end), "nested too deeply", "result[1][1]")
  assert_trip { 1, { 2 } }
end

function TestCodecTables:test_sequences_with_holes_keep_their_length()
  local t = { 1, nil, 3, nil, "five" }
  lu.assertEquals(#trip(t), 5)
  assert_trip(t)
  assert_trip { nil, nil, 3 }
  assert_trip { [-1] = 1, [0] = 2, [1] = 3, [2] = 4, [1 << 40] = 5 }
  local reversed = {}
  for i = 200, 1, -1 do reversed[i] = i * 1.5 end
  lu.assertEquals(#assert_trip(reversed), 200)
  local in_hash = { a = 1, b = 2, c = 3, d = 4, e = 5, f = 6, g = 7, h = 8, i = 9 }
  for k in pairs(in_hash) do in_hash[k] = nil end
  for i = 9, 1, -1 do in_hash[i] = i end -- integers in what was the hash part
  assert_trip(in_hash)
end

function TestCodecTables:test_metamethods_are_not_called()
  local t = setmetatable({ 1, a = 2 }, { __pairs = error, __len = error, __index = error, __newindex = error })
  local back = trip(t)
  lu.assertEquals(rawget(back, "a"), 2)
  lu.assertEquals(rawget(back, 1), 1)
end

function TestCodecTables:test_records_share_their_keys()
  local records = {}
  for i = 1, 1000 do records[i] = { identifier = i, coordinate = i / 2, description = "r" .. i, is_even = i % 2 == 0 } end
  assert_trip(records)
  local bytes = encode(0, table.unpack(records, 1, 200))
  local _, count = bytes:gsub("coordinate", "")
  lu.assertEquals(count, 1)
  lu.assertTrue(#bytes < 200 * 40)
end

function TestCodecTables:test_more_shapes_than_the_stream_keeps()
  local values = {}
  for i = 1, 5000 do values[i] = { ["a" .. i] = i, ["b" .. i % 100] = { ["c" .. i] = true } } end
  assert_trip(values)
  local wide = {}
  for i = 1, 33 do wide["key" .. i] = i end
  assert_trip { wide, { [("long"):rep(20)] = 1 }, { [("long"):rep(20)] = 2 } }
end

function TestCodecTables:test_a_refused_value_takes_its_shapes_and_names_back()
  codec:start(0)
  assert(codec:write { a = 1 })
  assert(codec:write(5))
  local before = codec:bytes()
  lu.assertNil(codec:write { fresh = 1, other = { deep = { x = 1 } }, f = print, u = probe.light() })
  lu.assertEquals(codec:bytes(), before)
  assert(codec:write(6))
  assert(codec:write { deep = 3 })
  assert(codec:write { fresh = 1, other = 2 })
  assert(codec:write { print })
  local back = decode(codec:bytes())
  lu.assertEquals({ table.unpack(back, 1, back.n) }, { { a = 1 }, 5, 6, { deep = 3 }, { fresh = 1, other = 2 }, { print } })
end

function TestCodecTables:test_rollback_without_a_write_under_way_changes_nothing()
  codec:start(0)
  assert(codec:write { a = 1 })
  assert(codec:write(5))
  codec:rollback()
  lu.assertEquals(decode(codec:bytes()).n, 2)
end

-- ---- refusals ----------------------------------------------------------------------------------------------

TestCodecRefusals = {}

function TestCodecRefusals:test_paths()
  refused(probe.light(), "result: light userdata cannot be sent")
  refused(coroutine.create(print), "result: coroutine cannot be sent")
  refused({ conn = { sock = probe.userdata(1, { __name = "tcp{client}" }) } }, "result.conn.sock: userdata (tcp{client}) cannot be sent")
  refused({ a = { b = { 1, 2, { ["x y"] = probe.light() } } } }, 'result.a.b[3]["x y"]: light userdata')
  refused({ [1.5] = { [true] = { ["end"] = { ['"'] = probe.light() } } } }, 'result[1.5][true]["end"]["\\""]: light')
  refused({ [-3] = { [probe.light()] = 1 } }, "result[-3]<key>: light userdata")
  refused(setmetatable({}, { x = probe.light() }), "result<metatable>.x: light userdata")
  refused({ probe.c_function() }, "result[1]: C function without a name cannot be sent")
  refused({ probe.userdata(1) }, "result[1]: userdata cannot be sent")
end

function TestCodecRefusals:test_upvalues_are_named()
  local db = probe.userdata(1, { __name = "sqlite3.db" })
  local message = refused({ f = { function() return db end } }, "upvalue 'db' of function <", "userdata (sqlite3.db) cannot be sent")
  lu.assertStrMatches(message, "upvalue 'db' of function <.*test_codec%.lua:%d+>: .*")
  local outer = { inner = { db } }
  refused(function() return function() return outer end end, "upvalue 'outer' of function", ".inner[1]: userdata (sqlite3.db)")
end

function TestCodecRefusals:test_globals_are_named()
  _G.codec_test_handle = { deep = probe.light() }
  local bytes, message = encode(WITH_GLOBALS, function() return codec_test_handle end)
  _G.codec_test_handle = nil
  lu.assertNil(bytes)
  lu.assertStrContains(message, "global 'codec_test_handle' of function <")
  lu.assertStrContains(message, ">.deep: light userdata cannot be sent")
end

-- ---- names and metatables ----------------------------------------------------------------------------------

TestCodecNames = {}

function TestCodecNames:test_library_values_go_by_name()
  for i, value in ipairs { print, string.format, string, math, _G, io.stdout, io.stderr, io.stdin, coroutine.wrap, table.unpack,
                           debug.traceback, io.stdout.write, utf8.char, os, package, getmetatable("").__index } do
    lu.assertTrue(trip { value }[1] == value, i)
    lu.assertTrue(next(trip { [value] = true }) == value, i)
  end
  lu.assertTrue(trip(print) == print and trip(_G) == _G and trip(io.stdout) == io.stdout)
end

function TestCodecNames:test_class_in_a_global()
  Codec_Test_Class = { __index = {} }
  Codec_Test_Space = { Inner = { __eq = function() return true end } }
  lu.assertIs(getmetatable(trip(setmetatable({ 1 }, Codec_Test_Class))), Codec_Test_Class)
  lu.assertIs(getmetatable(trip(setmetatable({ x = 1 }, Codec_Test_Space.Inner))), Codec_Test_Space.Inner)
  local objects = {}
  for i = 1, 100 do objects[i] = setmetatable({ x = i, y = { i } }, Codec_Test_Class) end
  for i, object in ipairs(trip(objects)) do
    lu.assertIs(getmetatable(object), Codec_Test_Class)
    lu.assertEquals(object.x, i)
  end
  for _, object in ipairs { trip(table.unpack(objects)) } do lu.assertIs(getmetatable(object), Codec_Test_Class) end
  Codec_Test_Class, Codec_Test_Space = nil, nil
end

function TestCodecNames:test_class_in_a_module()
  local class = {}
  package.loaded.codec_test_module = { class = class, nested = { class = { __index = 1 } } }
  lu.assertIs(getmetatable(trip(setmetatable({}, class))), class)
  local nested = package.loaded.codec_test_module.nested.class
  lu.assertIs(getmetatable(trip(setmetatable({}, nested))), nested)
  lu.assertIs(getmetatable(trip(setmetatable({}, package.loaded.codec_test_module))), package.loaded.codec_test_module)
  lu.assertIs(trip({ package.loaded.codec_test_module })[1], package.loaded.codec_test_module)
  package.loaded.codec_test_module = nil
  lu.assertNotIs(getmetatable(trip(setmetatable({}, class))), class)
end

function TestCodecNames:test_names_follow_the_program()
  Codec_Test_Class = {}
  local object = setmetatable({}, Codec_Test_Class)
  lu.assertIs(getmetatable(trip(object)), Codec_Test_Class)
  local old = Codec_Test_Class
  Codec_Test_Class = { "another" }
  lu.assertNotIs(getmetatable(trip(object)), Codec_Test_Class, "the name means another table now")
  lu.assertIs(getmetatable(trip(setmetatable({}, Codec_Test_Class))), Codec_Test_Class)
  Codec_Test_Other, Codec_Test_Class = old, nil
  lu.assertIs(getmetatable(trip(object)), old)
  Codec_Test_Other = nil
end

function TestCodecNames:test_class_in_an_upvalue_of_the_named_function()
  local class, space = {}, { deep = { class = {} } }
  local function task() return class, space end
  codec:name_function(task)
  lu.assertIs(getmetatable(trip(setmetatable({}, class))), class)
  lu.assertIs(getmetatable(trip(setmetatable({}, space.deep.class))), space.deep.class)
  codec:name_function(nil)
  lu.assertNotIs(getmetatable(trip(setmetatable({}, class))), class)
end

function TestCodecNames:test_registered_class()
  local class = { __index = {} }
  probe.register("codec_test.point", class)
  lu.assertIs(getmetatable(trip(setmetatable({}, class))), class)
  lu.assertIs(trip({ class })[1], class)
end

function TestCodecNames:test_metatable_by_value()
  local hidden = { __index = { double = function(self) return self.x * 2 end } }
  hidden.own = hidden
  local a, b = setmetatable({ x = 1 }, hidden), setmetatable({ x = 2, 1, 2 }, hidden)
  local back = trip { a, b, a }
  lu.assertNotIs(getmetatable(back[1]), hidden)
  lu.assertIs(getmetatable(back[1]), getmetatable(back[2]))
  lu.assertIs(getmetatable(back[1]).own, getmetatable(back[1]))
  lu.assertIs(back[3], back[1])
  lu.assertEquals(back[2]:double(), 4)
end

function TestCodecNames:test_an_object_may_be_its_own_metatable()
  local t = { 1 }
  setmetatable(t, t)
  t.__index = t
  local back = trip(t)
  lu.assertIs(getmetatable(back), back)
  lu.assertIs(back.__index, back)
end

function TestCodecNames:test_what_is_missing_is_named_and_costs_only_its_value()
  package.loaded.codec_test_gone = { class = {} }
  Codec_Test_Gone = {}
  local class = package.loaded.codec_test_gone.class
  local bytes = assert(encode(0, 1, setmetatable({ x = { 1 } }, class), 2, { setmetatable({}, Codec_Test_Gone) }, { 3 },
    setmetatable({ y = 1 }, class)))
  package.loaded.codec_test_gone, Codec_Test_Gone = nil, nil
  codec:read_start(bytes)
  local function read() return select(2, codec:read()) end
  lu.assertEquals(read(), 1)
  local ok, message, code = codec:read()
  lu.assertNil(ok)
  lu.assertEquals(code, ENOENT)
  lu.assertStrContains(message, "module codec_test_gone.class does not exist here")
  lu.assertEquals(read(), 2)
  ok, message, code = codec:read()
  lu.assertEquals({ ok, message, code }, { nil, "global Codec_Test_Gone does not exist here", ENOENT })
  lu.assertEquals(read(), { 3 })
  lu.assertEquals(select(3, codec:read()), ENOENT)
end

function TestCodecNames:test_modules_are_required_where_they_are_not_loaded()
  package.loaded.codec_test_lazy = { class = {} }
  local bytes = assert(encode(0, setmetatable({}, package.loaded.codec_test_lazy.class)))
  package.loaded.codec_test_lazy = nil
  local class = {}
  package.preload.codec_test_lazy = function() return { class = class } end
  lu.assertIs(getmetatable(decode(bytes)[1]), class)
  package.preload.codec_test_lazy, package.loaded.codec_test_lazy = nil, nil
end

function TestCodecNames:test_other_states_find_their_own()
  local state = probe.state "all"
  Codec_Test_Class = { __tostring = function() return "host" end }
  local bytes = assert(encode(0, { setmetatable({ x = 3 }, Codec_Test_Class), print, string.rep }))
  Codec_Test_Class = nil
  lu.assertEquals({ state:run([[
    Codec_Test_Class = { __tostring = function(self) return "mine " .. self.x end }
    local codec = probe.open()
    codec:read_start(...)
    local ok, v = codec:read()
    return tostring(v[1]), v[2] == print, v[3] == string.rep]], bytes) }, { true, "mine 3", "true", "true" })
  state:close()
end

-- ---- userdata ----------------------------------------------------------------------------------------------

TestCodecUserdata = {}

local handle = { __name = "codec_test.handle" }
probe.register("codec_test.handle", handle, probe.value_of, function(value) return probe.userdata(value, handle) end)

function TestCodecUserdata:test_save_and_load()
  local u = probe.userdata({ 1, { 2 } }, handle)
  local back = trip { u, u, x = { u } }
  lu.assertEquals(probe.value_of(back[1]), { 1, { 2 } })
  lu.assertIs(back[1], back[2])
  lu.assertIs(back.x[1], back[1])
  lu.assertIs(getmetatable(back[1]), handle)
  lu.assertEquals(probe.value_of(trip(probe.userdata(7, handle))), 7)
  lu.assertEquals(probe.value_of(probe.value_of(trip(probe.userdata(probe.userdata(8, handle), handle)))), 8)
end

function TestCodecUserdata:test_saved_values_that_are_new_each_time()
  local class = {}
  probe.register("codec_test.fresh", class, function(u) return { probe.value_of(u) } end,
    function(t) return probe.userdata(t[1], class) end)
  local list = {}
  for i = 1, 2000 do list[i] = probe.userdata(i, class) end
  for i, u in ipairs(trip(list)) do lu.assertEquals(probe.value_of(u), i) end
end

function TestCodecUserdata:test_failures()
  local bad = {}
  probe.register("codec_test.bad", bad, function() error("no way", 0) end)
  refused({ a = probe.userdata(1, bad) }, "result.a: the save function of its class failed: no way")
  local loop = {}
  probe.register("codec_test.loop", loop, function(u) return { u } end)
  refused(probe.userdata(1, loop), "result<saved>[1]: userdata that its own saved value contains")
  local half = {}
  probe.register("codec_test.half", half, function() return 1 end, function() error "cannot load" end)
  local _, message, code = decode(assert(encode(0, probe.userdata(1, half))))
  lu.assertEquals(code, EBADMSG)
  lu.assertStrContains(message, "the load function of class 'codec_test.half' failed: ")
  refused({ probe.userdata(1, setmetatable({}, handle)) }, "userdata")
end

function TestCodecUserdata:test_errors_that_are_no_strings_pass_on()
  local class, stop = {}, {}
  probe.register("codec_test.stopped", class, function(u)
    if probe.value_of(u) == 1 then error(stop) end
    return 2
  end, function() error(stop) end)
  codec:start(0)
  assert(codec:write { a = 1 })
  local ok, raised = pcall(codec.write, codec, { b = probe.userdata(1, class) })
  lu.assertFalse(ok)
  lu.assertIs(raised, stop)
  codec:rollback()
  assert(codec:write { b = 2 })
  lu.assertEquals({ table.unpack(decode(codec:bytes()), 1, 2) }, { { a = 1 }, { b = 2 } })
  codec:read_start(assert(encode(0, { probe.userdata(2, class) })))
  ok, raised = pcall(codec.read, codec)
  lu.assertFalse(ok)
  lu.assertIs(raised, stop)
  assert_trip { 1 }
end

function TestCodecUserdata:test_class_that_is_not_registered_over_there()
  local state = probe.state "all"
  local u = probe.userdata(1, handle)
  local bytes = assert(encode(0, { u, u }, 5))
  local _, code, message, value = state:run([[
    local codec = probe.open()
    codec:read_start(...)
    local ok, message, code = codec:read()
    return code, message, select(2, codec:read())]], bytes)
  lu.assertEquals({ code, message, value }, { "2", "class 'codec_test.handle' is not registered here", "5" })
  state:close()
end

function TestCodecUserdata:test_save_may_not_use_the_codec_that_calls_it()
  local class, seen = {}, nil
  probe.register("codec_test.nested", class, function() seen = { codec:write(1) } return 5 end, function(v)
    codec:read_start("\64")
    seen = { codec:read() }
    return probe.userdata(v, class)
  end)
  local bytes = assert(encode(0, { 1, probe.userdata(1, class), 2 }))
  lu.assertStrContains(seen[2], "may not use the pool that called it")
  local back = decode(bytes)[1]
  lu.assertStrContains(seen[2], "may not use the pool that called it")
  lu.assertEquals({ back[1], probe.value_of(back[2]), back[3] }, { 1, 5, 2 })
end

-- ---- functions ---------------------------------------------------------------------------------------------

TestCodecFunctions = {}

function TestCodecFunctions:test_upvalues_are_restored()
  local a, b, c = 1, "two", { 3 }
  local f = trip(function(x) return a + x, b, c[1], select("#", c) end)
  lu.assertEquals({ f(10) }, { 11, "two", 3, 1 })
  local first = nil
  lu.assertNil((trip(function() return first end))(), "the first upvalue is not the globals")
  lu.assertIs(trip(function() return print end)(), print)
end

function TestCodecFunctions:test_shared_upvalues_stay_shared()
  local count = 0
  local pair = { up = function() count = count + 1 return count end, get = function() return count end }
  local back = trip(pair)
  back.up()
  back.up()
  lu.assertEquals({ back.get(), count }, { 2, 0 })
  local one, two = trip(pair.up, pair.get)
  one()
  lu.assertEquals({ one(), two() }, { 2, 0 }, "between values nothing is shared")
end

function TestCodecFunctions:test_recursion_and_cycles()
  local function factorial(n) return n < 2 and 1 or n * factorial(n - 1) end
  lu.assertEquals(trip(factorial)(10), 3628800)
  local even, odd
  function even(n) return n == 0 or odd(n - 1) end
  function odd(n) return n ~= 0 and even(n - 1) end
  lu.assertTrue(trip(even)(100))
  local object = {}
  function object.me() return object end
  local back = trip(object)
  lu.assertIs(back.me(), back)
  lu.assertEquals(trip(function() return function() return object end end)()().me ~= nil, true)
end

function TestCodecFunctions:test_many_upvalues_and_deep_closures()
  local source = { "local t = ..." }
  for i = 1, 180 do source[#source + 1] = ("local v%d = %d"):format(i, i) end
  source[#source + 1] = "return function() return v1"
  for i = 2, 180 do source[#source + 1] = " + v" .. i end
  source[#source + 1] = " end"
  lu.assertEquals(trip(load(table.concat(source, "\n"))())(), 180 * 181 // 2)
  local f = function() return 0 end
  for _ = 1, 20000 do
    local inner = f
    f = function(depth) return depth and inner end
  end
  local depth, g = 0, trip(f)
  while g(true) ~= 0 do g, depth = g(true), depth + 1 end
  lu.assertEquals(depth, 20000)
end

function TestCodecFunctions:test_debug_information_crosses()
  local here = debug.getinfo(1, "l").currentline + 1
  local ok, message = pcall(trip(function() error "marked" end))
  lu.assertFalse(ok)
  lu.assertStrContains(message, "test_codec.lua:" .. here .. ": marked")
end

function TestCodecFunctions:test_stateless()
  local function stateless(...)
    assert(encode(0, ...))
    return codec:is_stateless()
  end
  local n, k, helper = 0, 5, math.floor
  local function pure(x) return helper(x) + k end
  lu.assertTrue(stateless(function(x) return x * x end))
  lu.assertTrue(stateless(pure))
  lu.assertTrue(stateless(function(x) return pure(x) end, pure))
  lu.assertTrue(stateless(print))
  lu.assertFalse(stateless(function() n = n + 1 return n end))
  lu.assertFalse(stateless(function() return function() n = n + 1 end end))
  lu.assertFalse(stateless(5))
  lu.assertFalse(stateless(pure, "x"))
  lu.assertFalse(stateless { pure })
  local t = {}
  lu.assertFalse(stateless(function() return t end))
end

-- What arrives in another state: the function is called there and its results come back as text.
local function call_elsewhere(f, setup, libraries)
  local bytes = assert(encode(WITH_GLOBALS, f))
  local state = probe.state(libraries or "all")
  local results = { state:run((setup or "") .. [[
    local codec = probe.open()
    codec:read_start(...)
    local ok, f, code = codec:read()
    if not ok then return "unread", f, code end
    return f() ]], bytes) }
  state:close()
  return table.unpack(results, results[1] == true and 2 or 1)
end

function TestCodecFunctions:test_globals_that_the_code_names_travel()
  codec_test_scale, codec_test_list = 3, { 1, 2, { 3 } }
  function codec_test_helper(x) return x * codec_test_scale end
  local function task()
    local function inner() return codec_test_helper(codec_test_list[3][1]) end
    return math.max(inner(), 1)
  end
  lu.assertEquals(call_elsewhere(task), "9")
  codec_test_scale, codec_test_list, codec_test_helper = nil, nil, nil
  local ok = call_elsewhere(function() return codec_test_scale == nil and codec_test_scale2 end,
    "codec_test_scale = 7; codec_test_scale2 = 8")
  lu.assertEquals(ok, "8", "nil travels where a value did before; what never went there stays")
  lu.assertEquals(call_elsewhere(function() return (print == nil) end), "false")
end

function TestCodecFunctions:test_globals_reached_through_upvalues_and_tables()
  codec_test_deep = 42
  local tool = { run = function() return codec_test_deep end }
  lu.assertEquals(call_elsewhere(function() return tool.run() end), "42")
  codec_test_tool = { method = function(self) return self.n + codec_test_deep end, n = 1 }
  lu.assertEquals(call_elsewhere(function() return codec_test_tool:method() end), "43")
  codec_test_deep, codec_test_tool = nil, nil
end

function TestCodecFunctions:test_globals_named_behind_many_constants()
  local source = { "return function() local t = {" }
  for i = 1, 400 do source[#source + 1] = ("%d.5, 'constant %d',"):format(i, i) end
  source[#source + 1] = "} return codec_test_late + #t + codec_test_later.x + codec_test_even_later:get() end"
  codec_test_late, codec_test_later, codec_test_even_later = 1, { x = 2 }, { get = function() return 3 end }
  lu.assertEquals(call_elsewhere(load(table.concat(source))()), "806")
  codec_test_late, codec_test_later, codec_test_even_later = nil, nil, nil
end

function TestCodecFunctions:test_globals_through_a_local_environment()
  codec_test_field = 5
  local G = _G
  lu.assertEquals(call_elsewhere(function() return G.codec_test_field end), "5")
  lu.assertEquals(call_elsewhere(load "local _ENV = _ENV; return codec_test_field"), "5")
  codec_test_field = nil
end

function TestCodecFunctions:test_only_globals_that_are_read_travel()
  codec_test_unused = probe.light()
  lu.assertEquals(call_elsewhere(function() codec_test_written = 1 return 4 end), "4")
  codec_test_unused = nil
end

function TestCodecFunctions:test_a_global_class_and_its_objects_arrive_together()
  Codec_Test_Class = { __index = { get = function(self) return self.v end } }
  Codec_Test_Class.origin = setmetatable({ v = 0 }, Codec_Test_Class)
  local object = setmetatable({ v = 9 }, Codec_Test_Class)
  local function task()
    local fresh = setmetatable({}, Codec_Test_Class)
    return object:get() .. tostring(getmetatable(fresh) == getmetatable(object)) ..
      tostring(getmetatable(Codec_Test_Class.origin) == Codec_Test_Class)
  end
  lu.assertEquals(call_elsewhere(task), "9truetrue")
  lu.assertEquals(call_elsewhere(task, "Codec_Test_Class = { 'stale' } "), "9truetrue")
  -- only the object is reached, its class comes along under its name
  lu.assertEquals(call_elsewhere(function() return object:get() end), "9")
  Codec_Test_Class = nil
end

function TestCodecFunctions:test_later_values_of_the_stream_use_the_classes_that_came()
  Codec_Test_Class = {}
  local bytes = assert(encode(WITH_GLOBALS, function() return Codec_Test_Class end, setmetatable({}, Codec_Test_Class)))
  Codec_Test_Class = nil
  local values = decode(bytes)
  lu.assertIs(getmetatable(values[2]), values[1]())
  lu.assertNotNil(Codec_Test_Class)
  Codec_Test_Class = nil
end

function TestCodecFunctions:test_globals_here_are_untouched_without_the_flag()
  codec_test_value = 1
  local bytes = assert(encode(0, function() return codec_test_value end))
  codec_test_value = 2
  lu.assertEquals(decode(bytes)[1](), 2)
  codec_test_value = nil
  lu.assertEquals(trip_with_globals(function() return codec_test_value end)(), nil)
end

function TestCodecFunctions:test_states_without_libraries()
  lu.assertEquals(call_elsewhere(function() return 1 + 1 end, "", "none"), "2")
  local up = { 5 }
  lu.assertEquals(call_elsewhere(function() return up[1] end, "", "base"), "5")
  local ok, message = call_elsewhere(function() return string.rep("x", 2) end, "", "base")
  lu.assertFalse(ok)
  lu.assertStrContains(message, "attempt to index a nil value (global 'string')")
  local state = probe.state "none"
  lu.assertEquals({ state:run [[
    local codec = probe.open()
    codec:start(0)
    codec:write({ 1, { a = 2 }, function(x) return x end })
    codec:read_start(codec:bytes())
    local ok, v = codec:read()
    return v[2].a, v[3](4)]] }, { true, "2", "4" })
  state:close()
end

-- ---- damage ------------------------------------------------------------------------------------------------

TestCodecDamage = {}

local function samples()
  local count, shared = 0, { 1, 2 }
  local function up() count = count + 1 return count end
  local values = {
    { 1, 2, 3, 4.5, 5.5, "x", true, { a = 1, b = { c = 2 } }, { a = 2, b = { c = 3 } }, shared, shared, [shared] = 1, [2.5] = {} },
    { up, function() return count end, print, string, _G, io.stdout },
    setmetatable({ x = 1, y = setmetatable({}, handle) }, handle),
    probe.userdata({ 1, 2 }, handle),
    ("long"):rep(60),
  }
  Codec_Test_Damage = { 1 }
  local list = {
    assert(encode(0, 1, 2, 3, nil, nil, 2.5, 3.5, "abc", true, 1 << 40, table.unpack(values))),
    assert(encode(WITH_GLOBALS, function() return Codec_Test_Damage, up, codec_test_unset end, { setmetatable({}, Codec_Test_Damage) })),
  }
  for _, value in ipairs(values) do list[#list + 1] = assert(encode(0, value, value)) end
  Codec_Test_Damage = nil
  return list
end

-- Reads what can be read; all that matters is that it comes back, and how much memory it took.
local function survive(bytes)
  local saved = {}
  for k, v in pairs(_G) do saved[k] = v end
  decode(bytes)
  codec:read_start(bytes)
  codec:read_array({}, 1, 40)
  for k in pairs(_G) do if saved[k] == nil then _G[k] = nil end end
  for k, v in pairs(saved) do _G[k] = v end
end

function TestCodecDamage:test_every_truncation()
  for _, bytes in ipairs(samples()) do
    for length = 0, #bytes - 1 do survive(bytes:sub(1, length)) end
    local values, message = decode(bytes)
    lu.assertTrue(values.n > 0, message)
  end
end

function TestCodecDamage:test_every_flipped_bit()
  for _, bytes in ipairs(samples()) do
    for i = 1, #bytes do
      local byte = bytes:byte(i)
      for bit = 0, 7 do survive(bytes:sub(1, i - 1) .. string.char(byte ~ (1 << bit)) .. bytes:sub(i + 1)) end
    end
  end
end

function TestCodecDamage:test_random_bytes()
  math.randomseed(99)
  local sample = samples()[1]
  for _ = 1, 20000 do
    local bytes = {}
    for i = 1, math.random(60) do bytes[i] = string.char(math.random(3) == 1 and math.random(0, 255) or math.random(0, 0x37)) end
    survive(table.concat(bytes))
    local at = math.random(#sample)
    survive(sample:sub(1, at) .. table.concat(bytes) .. sample:sub(at + math.random(8)))
  end
end

function TestCodecDamage:test_counts_do_not_allocate_more_than_the_bytes_can_back()
  local huge = "\255\255\255\255"
  local nested = ("\32" .. string.pack("<I4I4", 60000, 0)):rep(20000)
  local list = { "\32" .. huge .. huge, "\32" .. huge .. "\0\0\0\0", "\32\0\0\0\0" .. huge,
    "\8" .. huge, "\7" .. huge, "\6" .. huge .. huge, nested }
  for _, bytes in ipairs(list) do
    collectgarbage()
    collectgarbage "stop"
    local before = collectgarbage "count"
    codec:read_start(bytes)
    local ok = codec:read()
    local used = collectgarbage "count" - before
    collectgarbage "restart"
    lu.assertNil(ok)
    lu.assertTrue(used < 64 + #bytes * 48 / 1024 + 4096, "used " .. used .. " KB")
  end
end

function TestCodecDamage:test_bytecode_is_loaded_only_with_its_checksum()
  local bytes = assert(encode(0, function() return 1 end))
  local refused_count = 0
  for i = 20, #bytes - 1 do
    local damaged = bytes:sub(1, i - 1) .. string.char(bytes:byte(i) ~ 1) .. bytes:sub(i + 1)
    if select(3, decode(damaged)) == EBADMSG and decode(damaged).n == 0 then refused_count = refused_count + 1 end
  end
  lu.assertEquals(refused_count, #bytes - 20)
end

-- ---- memory ------------------------------------------------------------------------------------------------

TestCodecMemory = {}

local MEMORY_TASK = [[
  local n = tonumber((...))
  local codec, shared, count = codec, { 1 }, 0
  class = class or { __index = {} }
  local value = { 1, 2, "x", { a = 1, b = { c = { 2.5 } } }, setmetatable({ shared, shared }, class),
                  function() count = count + 1 return shared, helper end,
                  print, setmetatable({}, { __index = shared }), [shared] = {} }
  local function work()
    codec:start(1)
    codec:write(1)
    codec:write(value)
    codec:write(2)
    codec:read_start(codec:bytes())
    local results = {}
    codec:read_array(results, 1, 3)
    return results
  end
  probe.fail(n)
  local ok, results = pcall(work)
  probe.fail(0)
  codec:rollback()
  codec:start(0)
  assert(codec:write { a = 1 })
  codec:read_start(codec:bytes())
  local fine, back = codec:read()
  assert(fine and back.a == 1)
  if ok then assert(results[1] == 1 and results[3] == 2 and results[2][4].b.c[1] == 2.5) end
  return tostring(ok), ok and "" or tostring(results) ]]

function TestCodecMemory:test_every_allocation_fails_once()
  local failures = 0
  for n = 1, 100000 do
    local state = probe.state "all"
    assert(state:run "codec = probe.open()")
    local fine, ok, message = state:run(MEMORY_TASK, tostring(n))
    lu.assertTrue(fine, ok)
    lu.assertEquals(state:close(), 0)
    if ok == "true" then break end
    lu.assertStrContains(message, "not enough memory")
    failures = failures + 1
  end
  lu.assertTrue(failures > 50, failures .. " allocations")
end

function TestCodecMemory:test_nothing_stays_behind()
  local state = probe.state "all"
  local ok, message = state:run [[
    local function work()
      local codec = probe.open()
      for i = 1, 20 do
        codec:start(0)
        codec:write { i, { x = i }, print, setmetatable({}, { i }) }
        codec:write { probe.light() }
        codec:read_start(codec:bytes())
        codec:read()
      end
    end
    for _ = 1, 20 do work() end
    collectgarbage() collectgarbage()
    local before = collectgarbage "count"
    for _ = 1, 200 do work() end
    collectgarbage() collectgarbage()
    local after = collectgarbage "count"
    assert(after - before < 8, after - before)]]
  lu.assertTrue(ok, message)
  lu.assertEquals(state:close(), 0)
end

-- ---- reading in slices ---------------------------------------------------------------------------------------

TestCodecSlices = {}

local function in_slices(fn)
  probe.late(true)
  local ok, e = pcall(fn)
  probe.late(false)
  if not ok then error(e, 0) end
end

-- How often the clock was looked at while the value was read.
local function pauses(value)
  local before = probe.pauses()
  in_slices(function() assert_trip(value) end)
  return probe.pauses() - before
end

function TestCodecSlices.test_long_values_are_divided()
  local runs, strings, pairs_, records = {}, {}, {}, {}
  for i = 1, 10000 do
    runs[i], strings[i], pairs_["key " .. i], records[i] = i, "s" .. i, i * 0.5, { x = i, y = { i } }
  end
  lu.assertTrue(pauses(runs) >= 10000 // 256)
  lu.assertTrue(pauses(strings) >= 10000 // 256)
  lu.assertTrue(pauses(pairs_) >= 10000 // 256)
  lu.assertTrue(pauses(records) >= 10000)
  table.move(runs, 1, 5000, 2)
  runs[3000], runs[3001], runs[7000], runs.more = "text", { 1 }, 0.5, { runs = true }
  lu.assertTrue(pauses(runs) >= 10000 // 256)
  lu.assertEquals(pauses(("x"):rep(100000)), 0)
end

function TestCodecSlices.test_deep_values_are_not_divided_beyond_a_limit()
  local value = {}
  for _ = 1, 3000 do value = { value } end
  local n = pauses(value)
  lu.assertTrue(n >= 1000 and n < 5000, n)
end

-- What was read halfway and is dropped leaves nothing behind, and the next stream is read.
function TestCodecSlices.test_a_value_that_is_dropped()
  local large = {}
  for i = 1, 2000 do large[i] = { i } end
  local bytes, other = assert(encode(0, large)), assert(encode(0, { "other" }))
  in_slices(function()
    codec:read_start(bytes:sub(1, -3))
    local ok, message, code = codec:read()
    lu.assertEquals({ ok, message, code }, { nil, "reader_damaged data", EBADMSG })
    codec:read_start(other)
    lu.assertEquals({ codec:read() }, { true, { "other" } })
  end)
end

-- Everything above once more, in the smallest slices; but for a load function that puts another place into the reader it is called from.
for _, name in ipairs { "Scalars", "Tables", "Names", "Userdata", "Functions", "Damage", "Memory" } do
  local group = {}
  for test, fn in pairs(_G["TestCodec" .. name]) do
    group[test] = function(...)
      local arguments = table.pack(...)
      in_slices(function() fn(table.unpack(arguments, 1, arguments.n)) end)
    end
  end
  group.test_save_may_not_use_the_codec_that_calls_it = nil
  _G["TestCodec" .. name .. "InSlices"] = group
end
