-- The parts of the prompt by themselves: its variables, what is compiled, completion, help, and values as text.
local lu = require "luaunit"
local parts = require "parts"

-- The functions that the editor asks, with the variables of a prompt.
TestReplCandidates = {}

function TestReplCandidates:setUp() -- luacheck: no self
  local locals = parts "repl_locals".new()
  locals:load("local own = { field = { deep = 1 }, ['not a name'] = 2, run = function() end } local list = { { inner = 1 } }", "=t")()
  self.completer = parts "repl_complete".new { locals = locals }
end

function TestReplCandidates:assert(line, expected)
  local breaks, is_file = self.completer.breaks(line)
  lu.assertFalse(is_file, line)
  local set = breaks:gsub("%W", "%%%0")
  lu.assertEquals(self.completer.candidates(line, line:match("[^" .. set .. "]*$")), expected, line)
end

function TestReplCandidates:test_names()
  self:assert("whil", { "while" })
  self:assert("ow", { "own" })
  self:assert("return setmeta", { "setmetatable" })
  self:assert("own.", { "field", "run" })
  self:assert("own:", { "run" })
  self:assert("own.field.", { "deep" })
  self:assert("own['field'].", { "deep" })
  self:assert("list[1].", { "inner" })
  self:assert("x = #own.fie", { "field" })
  self:assert("('x'):rev", { "reverse" })
  self:assert("no_such.thing", {})
  self:assert("own.nothing.x", {})
  self:assert("f().x", {})
  self:assert("-- comment ow", {})
  self:assert("", {})
  self:assert(".lo", { "load", "locals" })
end

function TestReplCandidates:test_metatables()
  local called = false
  _G.completed_object = setmetatable({ own = 1 }, { __index = setmetatable({ inherited = print }, { __index = { base = print } }) })
  _G.completed_proxy = setmetatable({}, { __index = function() called = true end, __pairs = function() called = true end })
  self:assert("completed_object.", { "base", "inherited", "own" })
  self:assert("completed_object:", { "base", "inherited" })
  self:assert("completed_proxy.", {})
  _G.completed_object, _G.completed_proxy = nil, nil
  lu.assertFalse(called)
end

function TestReplCandidates:test_options()
  _G.pool = _G.pool or require "luapool"
  self:assert("pool.new{ work", { "workers = " })
  self:assert("pool.new({ workers = 2, na", { "name = " })
  self:assert("pool.map(f, 3, { wor", { "workers = " })
  self:assert("pool.map(function(x) return { x } end, 3, { wor", { "workers = " })
  self:assert("pool.map(f, { ow", { "own" })
  self:assert("other.map(f, 3, { ow", { "own" })
  _G.completed_pool = pool.new(0)
  self:assert("completed_pool:reduce(f, 3, 0, { comb", { "combine = " })
  self:assert("completed_pool:map(f, 3, { wor", {})
  _G.completed_pool = nil
end

function TestReplCandidates:test_file_names()
  for line, quote in pairs { ["io.open('/et"] = "'", ['x = f("a b/c'] = '"', ["x = [[a"] = "[" } do
    lu.assertEquals({ self.completer.breaks(line) }, { quote, true })
  end
  lu.assertEquals(select(2, self.completer.breaks(".load /et")), true)
  lu.assertEquals(select(2, self.completer.breaks("x = 'whole' .. own.")), false)
end

TestReplHelp = {}

local help = parts "help"
local init = parts "init"

local function documented(receiver)
  local names = {}
  for _, entry in ipairs(help.entries()) do
    if entry.section.receiver == receiver then names[entry.name] = (names[entry.name] or 0) + 1 end
  end
  return names
end

local function functions_of(t)
  local names = {}
  for name, value in pairs(t) do
    if type(value) == "function" and name:sub(1, 1) ~= "_" then names[name] = 1 end
  end
  return names
end

-- Each public function has exactly one entry, and each entry is one of a public function.
function TestReplHelp:test_everything_public_has_an_entry()
  lu.assertEquals(documented "pool", functions_of(init))
  lu.assertEquals(documented "p", functions_of(parts "pool".__index))
  lu.assertEquals(documented "f", functions_of(parts "future".Future.__index))
  local lock = init.lock()
  local guard = lock:acquire()
  for receiver, object in pairs { c = init.counter(), l = lock, g = guard, ch = init.channel() } do
    lu.assertEquals(documented(receiver), functions_of(debug.getmetatable(object).__index), receiver)
  end
  guard:release()
  local array = init.array("i8", 1)
  for name in pairs(documented "a") do lu.assertEquals(type(array[name]), "function", name) end
  lu.assertEquals(documented "a", { slice = 1, to_table = 1, fill = 1, copy = 1, type = 1 })
end

function TestReplHelp:test_the_manual_names_them_all()
  local file = assert(io.open("README.md"))
  local text = file:read("a")
  file:close()
  for _, entry in ipairs(help.entries()) do
    local name = entry.name:gsub("%W", "%%%0")
    lu.assertNotNil(text:find("[%s`.:,(|]" .. name .. "[`(,]"), "README.md does not name " .. entry.usage)
  end
end

function TestReplHelp:test_texts()
  lu.assertStrContains(help.text(80), "the module:\n  pool.new pool.range")
  lu.assertStrContains(help.text(80, init.map), "pool.map(fn, src [, options])\n  fn applied")
  lu.assertStrContains(help.text(80, parts "pool".__index.map), "p:map(fn, src [, options])\n")
  lu.assertStrContains(help.text(80, "p:submit"), "p:submit(fn, ...)\n")
  lu.assertStrContains(help.text(80, "get"), "f:get([timeout])")
  lu.assertStrContains(help.text(80, "get"), "c:get()")
  lu.assertStrContains(help.text(80, "array"), "pool.array(type, n | table)")
  lu.assertStrContains(help.text(80, "futures"), "futures, made by p:submit")
  lu.assertStrContains(help.text(80, init.counter().add), "c:add([n])")
  lu.assertStrContains(help.text(80, init.array("i8", 1)), "a:slice([i [, j]])")
  lu.assertStrContains(help.text(80, init), "pool.channel([capacity])")
  lu.assertEquals(help.text(80, "nonsense"), 'there is no help about "nonsense"; help() lists what there is')
  lu.assertEquals(help.text(80, nil), "a nil; help() lists what there is")
  lu.assertStrContains(help.text(80, print), "a function of C")
end

-- Adds two numbers,
-- carefully.
local function documented_here(a, b, ...) return a + b + select("#", ...) end

function TestReplHelp:test_functions_of_others()
  local line = debug.getinfo(documented_here, "S").linedefined
  lu.assertEquals(help.text(80, documented_here),
    ("function(a, b, ...)  %s:%d\n-- Adds two numbers,\n-- carefully."):format(debug.getinfo(1, "S").short_src, line))
end

function TestReplHelp:test_width()
  for _, entry in ipairs(help.entries()) do
    for line in help.text(60, entry.section.receiver .. "." .. entry.name):gmatch("[^\n]+") do
      lu.assertTrue(#line <= 60 or not line:find("^  "), line)
    end
  end
end

-- ---- pretty printing ----

TestPretty = {}

local pretty = parts "pretty"

local function show(value, width) return pretty.text(value, { width = width or 80 }) end

function TestPretty:test_scalars()
  for text, value in pairs { ["1"] = 1, ["1.0"] = 1.0, ["true"] = true, ["inf"] = 1 / 0, ["-9223372036854775808"] = math.mininteger } do
    lu.assertEquals(show(value), text)
  end
  lu.assertEquals(show(nil), "nil")
  lu.assertEquals(show(print), "function print")
  lu.assertEquals(show { string.rep, parts "init".map }, "{ function string.rep, function pool.map }")
  lu.assertStrMatches(show(string.gmatch("", "")), "function: .*")
  rawset(_G, "_", print)
  lu.assertEquals(show(print), "function print")
  rawset(_G, "_", nil)
  lu.assertEquals(show(show), ("function <%s:%d>"):format(debug.getinfo(1, "S").short_src, debug.getinfo(show, "S").linedefined))
end

function TestPretty:test_strings()
  for value, text in pairs {
    [""] = '""', ["a\"b\\c\n\t\r"] = [["a\"b\\c\n\t\r"]],
    ["\0\27[31m\127"] = [["\x00\x1B[31m\x7F"]], ["h\u{e9}\u{65e5}"] = '"h\u{e9}\u{65e5}"',
    ["\xff\xc3"] = [["\xFF\xC3"]], ["\u{202e}x\u{85}"] = [["\xE2\x80\xAEx\xC2\x85"]],
  } do
    lu.assertEquals(show(value), text)
    lu.assertEquals(load("return " .. text)(), value)
  end
  lu.assertEquals(show(("x"):rep(5000)), '"' .. ("x"):rep(4000) .. '"... (5000 bytes)')
  lu.assertEquals(show { ("\u{e9}"):rep(500) }, '{\n  "' .. ("\u{e9}"):rep(100) .. '"... (1000 bytes)\n}')
end

function TestPretty:test_tables()
  for text, value in pairs {
    ["{}"] = {}, ["{ 1, 2, 3 }"] = { 1, 2, 3 }, ["{ a = 1, b = 2 }"] = { b = 2, a = 1 }, ["{ 1, nil, 3 }"] = false,
    ['{ "x", [3] = 2, [4.5] = 1, ["a b"] = 3, ["end"] = 4, z = 5, [true] = 6 }'] =
      { "x", [3] = 2, [4.5] = 1, ["a b"] = 3, ["end"] = 4, z = 5, [true] = 6 },
    ["{ { 1 }, { { { {...} } } } }"] = false, ["{ { { {...} } } }"] = { { { { 1 } } } },
  } do
    if value then lu.assertEquals(show(value), text) end
  end
end

function TestPretty:test_cycles_and_shared_tables()
  local shared = { 1 }
  lu.assertEquals(show { shared, shared }, "{ { 1 }, { 1 } }")
  local t = { list = {} }
  t.self, t.list[1] = t, { up = t.list }
  lu.assertEquals(show(t), "{ list = { { up = <cycle: _.list> } }, self = <cycle: _> }")
end

function TestPretty:test_metatables()
  lu.assertEquals(show(setmetatable({ x = 1 }, { __name = "Point" })), "Point { x = 1 }")
  lu.assertEquals(show(setmetatable({ x = 1 }, { __tostring = function() return "<1>\n<2>" end })), "<1>\n<2>")
  lu.assertEquals(show { setmetatable({}, { __tostring = function() return "<1>\n<2>" end }) }, "{ <1>... }")
  local hidden = setmetatable({ x = 1 }, { __index = error, __pairs = error, __len = error, __metatable = "no", __name = 5 })
  lu.assertEquals(show(hidden), "{ x = 1 }")
  lu.assertEquals(show(setmetatable({}, { __tostring = function() error("no", 0) end })), "<error in __tostring: no>")
  lu.assertEquals(show(setmetatable({}, { __tostring = function() return {} end })),
    "<error in __tostring: '__tostring' must return a string>")
end

function TestPretty:test_shared_arrays()
  local array = parts "init".array
  lu.assertEquals(show(array("f64", { 1, 2.5 })), "array of 2 f64: 1.0, 2.5")
  lu.assertEquals(show(array("i8", 100)), "array of 100 i8: " .. ("0, "):rep(20) .. "... 80 more")
  lu.assertStrMatches(show { array("i8", 3) }, "{ array of 3 i8: .* }")
end

function TestPretty:test_limits()
  local numbers = {}
  for i = 1, 100 do numbers[i] = i end
  local text = show(numbers, 40)
  lu.assertStrContains(text, "50, ... 50 more\n}")
  for line in text:gmatch("[^\n]+") do lu.assertTrue(#line <= 40, line) end
  local names = {}
  for i = 1, 60 do names["name" .. i] = i end
  lu.assertStrContains(show(names), "\n  ... 10 more\n}")
  local wide = {}
  for i = 1, 50 do
    wide[i] = {}
    for j = 1, 50 do wide[i][j] = {} end
  end
  lu.assertTrue(#show(wide) < 5000)
  local many = {}
  for i = 1, 20000 do many["k" .. i] = i end
  lu.assertStrContains(show(many), "... 19950 more")
end

function TestPretty:test_width_is_that_of_the_terminal()
  lu.assertEquals(show({ "aaaaaaaa", "bbbbbbbb" }, 30), '{ "aaaaaaaa", "bbbbbbbb" }')
  lu.assertEquals(show({ "aaaaaaaa", "bbbbbbbb", "cc" }, 30), '{\n  "aaaaaaaa", "bbbbbbbb",\n  "cc"\n}')
  lu.assertEquals(show({ a = ("\u{65e5}"):rep(5), b = 1 }, 30), '{ a = "' .. ("\u{65e5}"):rep(5) .. '", b = 1 }')
  lu.assertEquals(show({ a = ("\u{65e5}"):rep(8), b = 1 }, 30), '{\n  a = "' .. ("\u{65e5}"):rep(8) .. '",\n  b = 1\n}')
  lu.assertEquals(show({ a = { 1, 2 }, b = ("x"):rep(20) }, 30), '{\n  a = { 1, 2 },\n  b = "' .. ("x"):rep(20) .. '"\n}')
end

function TestPretty:test_colors_take_no_columns()
  local value = { "aaaaaaaa", "bbbbbbbb" }
  local colored = pretty.text(value, { width = 30, colors = true })
  lu.assertStrContains(colored, '\27[32m"aaaaaaaa"\27[0m')
  lu.assertEquals(colored:gsub("\27%[%d+m", ""), show(value, 30))
end

-- ---- the variables of a prompt ----

TestReplLocals = {}

local lines_locals -- those of the lines that ran last

-- Run lines one after the other; the results of the last one, or its message.
local function lines(...)
  local locals = parts "repl_locals".new()
  local results
  for _, line in ipairs { ... } do
    local chunk, message = locals:load(line, "=stdin")
    if not chunk then return message end
    results = table.pack(pcall(chunk))
    if not results[1] then results.n = 2 end
  end
  lines_locals = locals
  return table.unpack(results, 2, results.n)
end

local function assert_lines(expected, ...)
  lu.assertEquals({ lines(...) }, expected, table.concat({ ... }, " | "))
end

function TestReplLocals:test_values()
  assert_lines({ 1 }, "local x = 1", "return x")
  assert_lines({ 2, nil }, "local x = 1", "x = x + 1", "return x, _G.x")
  assert_lines({ 1, 2, nil }, "local a, b, c = 1, 2", "return a, b, c")
  assert_lines({ 120 }, "local function f(n) if n == 0 then return 1 end return n * f(n - 1) end", "return f(5)")
  assert_lines({ 1, 2 }, "local a, b = (function() return 1, 2 end)()", "return a, b")
  assert_lines({ 7 }, "local x = 7; return x")
  assert_lines({ 7, 7 }, "local keep = 7", "return keep, (function() return keep end)()")
  assert_lines({ nil }, "local x", "return x")
  assert_lines({ 1 }, "#!/usr/bin/lua\nlocal x = 1", "return x")
end

function TestReplLocals:test_functions_share_the_variable()
  assert_lines({ 1, 2, 2 }, "local n = 0; local function up() n = n + 1 return n end", "return up(), up(), n")
  assert_lines({ 11 }, "local n = 0", "local function up() n = n + 1 return n end", "n = 10", "return up()")
  assert_lines({ 3 }, "local n = 0", "local f = function() return function() n = n + 1 end end", "f()() f()() f()()", "return n")
end

function TestReplLocals:test_shadowing()
  assert_lines({ "new", "old" }, "local x = 'old'", "local function get() return x end", "local x = 'new'", "return x, get()")
  assert_lines({ 2, 1 }, "local x = 1 local function get() return x end local x = x + 1", "return x, get()")
  assert_lines({ 3, 1 }, "local x = 1 local function get() return x end local x = 2", "x = 3", "return x, get()")
  assert_lines({ nil }, "local f = function() return f end", "return f()")
  assert_lines({ 1 }, "do local inner = 1 end if true then local other = 2 end for i = 1, 2 do local third = i end",
    "return (inner or other or third) == nil and 1")
end

function TestReplLocals:test_const()
  assert_lines({ 5 }, "local c <const> = 5", "return c")
  assert_lines({ "stdin:1: attempt to assign to const variable 'c'" }, "local c <const> = 5", "c = 6")
  assert_lines({ "stdin:1: attempt to assign to const variable 'c'" }, "local c <const> = {}", "local function f() c = 6 end")
  assert_lines({ 6, 1 }, "local a, b <const> = 1, 6", "local x = 1", "return b, x")
  assert_lines({ 7 }, "local c <const> = 5", "local c = 6", "c = 7 return c")
end

function TestReplLocals:test_close()
  local log = {}
  _G.closing_log = log
  local make = "setmetatable({}, { __close = function(self, err) table.insert(closing_log, %q .. tostring(err)) end })"
  local first, second = make:format("first "), make:format("second ")
  assert_lines({ true }, "local a <close> = " .. first, "local b <close>, x = " .. second .. ", 1", "return a ~= nil")
  local locals = lines_locals
  lu.assertEquals(log, {})
  assert_lines({ "stdin:1: attempt to assign to const variable 'a'" }, "local a <close> = " .. first, "a = 1")
  assert_lines({ "stdin:1: variable 'a' got a non-closable value" }, "local a <close> = 5")
  assert_lines({ nil }, "local a <close> = nil", "return a")
  lu.assertEquals(locals:close("reason"), "reason")
  lu.assertEquals(log, { "second reason", "first reason" })
  lu.assertNil(locals:close())
  lines("local a <close> = " .. first, "local b <close> = setmetatable({}, { __close = function() error('in close', 0) end })")
  lu.assertEquals(lines_locals:close(), "in close")
  lu.assertEquals(log[3], "first in close")
  _G.closing_log, lines_locals = nil, nil
end

function TestReplLocals:test_errors_keep_what_was_declared_before()
  assert_lines({ 1, nil }, "local a = 1 error('x') local b = 2", "return a, b")
  assert_lines({ 2 }, "local a = 2", "local a = error('x')", "return a")
end

function TestReplLocals:test_where_statements_end()
  assert_lines({ "ab3-3xxx", 2 },
    "local s = 'a' .. [[b]] .. #'abc' .. -3 .. ('x'):rep(3) local t = not s and 1 or { 2 }", "return s, t[1]")
  assert_lines({ 5, "called" }, "local p = 5 (function() said = 'called' end)()", "return p, said")
  assert_lines({ 1, 2 }, "local f = function(...) return ... end, 3 local x = f(1, 2) -- comment", "return f(1, 2)")
  assert_lines({ 3, 2 }, "local i = 0 ::top:: local j = i i = i + 1 if i < 3 then goto top end", "return i, j")
  assert_lines({ "done" }, "goto done; local k = 1 ::done::", "return k or 'done'")
  assert_lines({ "yes", 2, -6, 2 }, "local a = 1 == 1 and 'yes' local b = 2 // 1 local c = ~5 local d = - -2", "return a, b, c, d")
  assert_lines({ 1, 2 }, "local a = ({ 1 })[1]\nlocal b = { x = { 2 } }", "return a, b.x[1]")
  assert_lines({ 2 }, "local r = (function() repeat local x = 1 until x == 1 while true do break end return 2 end)()", "return r")
  assert_lines({ "a\nb", 1 }, "local s = [==[a\nb]==] --[[ local no = 1\n]] local t = 1", "return s, t")
  assert_lines({ 0x1p4, 1e-3 }, "local a = 0x1p4 local b = 1e-3", "return a, b")
end

function TestReplLocals:test_environments_and_names()
  assert_lines({ 7, nil }, "local _ENV = { y = 7 }", "return y, print")
  local many, sum = {}, {}
  for i = 1, 190 do many[i], sum[i] = ("local v%d = %d"):format(i, i), "v" .. i end
  assert_lines({ 190 * 191 / 2 | 0 }, table.concat(many, " "), "return " .. table.concat(sum, " + "))
  local too_many = {}
  for i = 1, 300 do too_many[i] = ("local v%d = %d"):format(i, i) end
  lu.assertStrContains(lines(table.concat(too_many, " ")), "too many local variables")
end

function TestReplLocals:test_expressions_are_no_tail_calls()
  local locals = parts "repl_locals".new()
  locals:load("local function f() return debug.traceback() end local keep = 1", "=stdin")()
  local _, trace = pcall(locals:load_expression("f() -- comment", "=stdin"))
  lu.assertNotStrContains(trace:match("^.-pcall"), "tail calls")
  lu.assertEquals({ locals:load_expression("1, nil, keep", "=stdin")() }, { 1, nil, 1 })
  lu.assertEquals(locals:names(), { "f", "keep" })
end

-- ---- what is compiled ----

TestReplCompile = {}

local function compile(text)
  local object = parts "repl".new { host = {} }
  local chunk, message, is_incomplete = object:compile(text)
  if chunk then return "whole", chunk() end
  return is_incomplete and "incomplete" or message
end

function TestReplCompile:test_whole_or_not()
  for text, expected in pairs {
    ["1 + 1"] = "whole", ["x_1 = 1"] = "whole", ["f("] = "incomplete", ["{"] = "incomplete", ["for i = 1, 3 do"] = "incomplete",
    ["x ="] = "incomplete",
    ["'abc\\"] = "incomplete", ["'abc"] = "stdin:1: unfinished string near <eof>", ["[[abc"] = "incomplete", ["--[[ x"] = "incomplete",
    [")"] = "stdin:1: unexpected symbol near ')'", ["x x"] = "stdin:1: syntax error near 'x'", ["-- comment"] = "whole",
    ["\27[A"] = "stdin:1: unexpected symbol near '<\\27>'",
  } do lu.assertEquals((compile(text)), expected, text) end
end

function TestReplCompile:test_a_block_that_ends_with_an_expression()
  lu.assertEquals({ compile("x_1 = 5\nx_1 * 2") }, { "whole", 10 })
  lu.assertEquals({ compile("local x = 5\nlocal y = {\n x\n}\ny[1] + x\n") }, { "whole", 10 })
  lu.assertEquals({ compile("local f = function() return 3 end\nf()") }, { "whole", 3 })
  lu.assertEquals({ compile("for i = 1, 2 do\nmath.abs(i) end") }, { "whole" })
  lu.assertEquals({ compile("x_1 = math.abs\n(3)") }, { "whole" })
  _G.x_1 = nil
end
