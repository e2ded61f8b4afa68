-- The log of a long call: values that come back bit for bit, files cut at every byte and damaged in the middle, writers that are killed,
-- disks that are full, logs of other jobs, and what makes a job another one.
local lu = require "luaunit"
local disk = require "disk"
local proc = require "proc"
local post = require "post"
local parts = require "parts"

local journal, json, fingerprint = parts "journal", parts "json", parts "fingerprint"

local SOAK = os.getenv("SOAK")
local directory, path

local function make_directory()
  directory = disk.make_directory()
  path = directory .. "/run.jsonl"
  warn "@off" -- what they say is in the journal, too
end

local function remove_directory() disk.remove_directory(directory) end

local function read_file() return disk.read(path) end

local function write_file(text) disk.write(path, text) end

local function double(x) return x * 2 end

local function identity(options)
  options = options or {}
  return journal.identity {
    fn = options.fn or double, verb = options.verb, kind = options.kind or "range", a = options.a or 1, b = options.b or 1,
    n = options.n or 100, seed = options.seed,
  }
end

local function open(mode, options)
  return journal.open(path, identity(options), mode)
end

local function refused(mode, options)
  local ok, e = pcall(open, mode, options)
  lu.assertFalse(ok, "was not refused")
  lu.assertEquals({ getmetatable(e), e.kind, tostring(e) }, { pool.Error, "error", e.message })
  return (e.message:gsub(directory, "DIR"))
end

-- A log with these results, closed.
local function write_log(results)
  local j = open(nil)
  for i, value in pairs(results) do j:add(i, 0.5, 1, true, value) end
  lu.assertEquals({ j:close() }, { true })
end

local function bits(number)
  return math.type(number) .. string.pack("n", number)
end

TestJournal = { setUp = make_directory, tearDown = remove_directory }

-- ---- values ----

local SCALARS = {
  true, false, 0, 1, -1, 17, math.maxinteger, math.mininteger, 1 << 53, (1 << 53) + 1, -9007199254740993,
  0.0, -0.0, 1.0, -1.0, 0.1, 0.1 + 0.2, 1 / 3, 1e15, 1e16, 1e17, 123456789.0, 2.0 ^ 53, 2.0 ^ 63, -2.0 ^ 63, 1e300, -1e300, 5e-324,
  2.2250738585072014e-308, 1.7976931348623157e308, math.huge, -math.huge, 0 / 0, math.pi,
  "", "a", "line\nbreak\r\n\ttab", 'quote " backslash \\ slash /', "\\u0041", "\\\\n", "\0", "a\0b", "\1\31\127",
  "é", "日本語", "😀", "\u{10FFFF}",
  "\u{FFFE}\u{2028}", "\xff", "\xc3", "a\xc3", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc0\xaf",
  ("x"):rep(70000), ("\xff\n"):rep(5000),
  '{"i":1}', '","c":"00000000"}', "null", "1", "1.0",
}

function TestJournal:test_scalars_bit_for_bit()
  local j = open(nil)
  for i, value in ipairs(SCALARS) do j:add(i, 0.001, 1, true, value) end
  j:add(#SCALARS + 1, 0.001, 1, true, nil)
  j:close()
  j = open(true)
  lu.assertEquals(j.n_done, #SCALARS + 1)
  for i, value in ipairs(SCALARS) do
    local ok, back = j:done(i)
    lu.assertTrue(ok)
    lu.assertEquals(type(back), type(value))
    if type(value) == "number" then
      lu.assertEquals(bits(back), bits(value), "number " .. value)
    else
      lu.assertTrue(back == value, tostring(value))
    end
  end
  lu.assertEquals(table.pack(j:done(#SCALARS + 1)), { true, nil, n = 2 })
  lu.assertEquals(table.pack(j:done(#SCALARS + 2)), { nil, n = 1 })
  j:close()
end

function TestJournal:test_random_numbers_bit_for_bit()
  local state, numbers = 12345, {}
  local function random()
    state = state * 6364136223846793005 + 1442695040888963407
    return state ~ (state >> 29)
  end
  for i = 1, 2000 do numbers[i] = i % 2 == 0 and random() or (string.unpack("n", string.pack("j", random()))) end
  write_log(numbers)
  local j <close> = open(true)
  for i, number in ipairs(numbers) do
    local _, back = j:done(i)
    if number == number then lu.assertEquals(bits(back), bits(number)) else lu.assertTrue(back ~= back) end
  end
end

function TestJournal:test_tables_and_what_they_share()
  local shared = { "shared" }
  local cycle = { name = "cycle" }
  cycle.me = cycle
  write_log {
    { 1, 2.0, "three", nil, 5, nested = { { {} } } }, { a = shared, b = shared, [1.5] = true, [-1] = 0 / 0 }, cycle,
    { ["$"] = "not a marker" }, function(x) return x + 1 end, string.format, {},
  }
  local j <close> = open(true)
  local function value(i) return select(2, j:done(i)) end
  lu.assertEquals(value(1), { 1, 2.0, "three", nil, 5, nested = { { {} } } })
  lu.assertEquals(math.type(value(1)[2]), "float")
  local two = value(2)
  lu.assertIs(two.a, two.b)
  lu.assertEquals({ two.a[1], two[1.5], two[-1] ~= two[-1] }, { "shared", true, true })
  local three = value(3)
  lu.assertIs(three.me, three)
  lu.assertEquals(value(4), { ["$"] = "not a marker" })
  lu.assertEquals(value(5)(41), 42)
  lu.assertIs(value(6), string.format)
  lu.assertEquals(value(7), {})
end

function TestJournal:test_objects_have_the_classes_of_this_program()
  local Point, Named = {}, {}
  Point.__index = Point
  function Point.make(x) return setmetatable({ x = x }, Point) end
  pool.register("journal.Named", Named)
  local function fn(x) return Point.make(x) end
  local j = journal.open(path, identity { fn = fn }, nil)
  j:add(1, 0.1, 1, true, fn(7))
  j:add(2, 0.1, 1, true, setmetatable({ y = 8 }, Named))
  j:close()
  j = journal.open(path, identity { fn = fn }, true)
  local _, one = j:done(1)
  local _, two = j:done(2)
  lu.assertEquals({ one.x, two.y }, { 7, 8 })
  lu.assertIs(getmetatable(one), Point)
  lu.assertIs(getmetatable(two), Named)
  j:close()
end

-- Shared memory ends with its processes: what is stored is its content.
function TestJournal:test_arrays()
  local a = pool.array("f64", { 1, 2.5, -0.0 })
  write_log { a, { a:slice(2), a }, pool.array("u8", 3) }
  a[1] = 99
  local j = open(true)
  local _, whole = j:done(1)
  local _, two = j:done(2)
  local _, small = j:done(3)
  lu.assertEquals({ whole:type(), whole:to_table() }, { "f64", { 1, 2.5, -0.0 } })
  lu.assertEquals({ two[1]:to_table(), two[2]:to_table() }, { { 2.5, -0.0 }, { 1, 2.5, -0.0 } })
  lu.assertEquals({ small:type(), #small }, { "u8", 3 })
  j:close()
  os.remove(path)
  local function with(items)
    return { kind = "array", a = items, n = #items }
  end
  j = open(nil, with(a))
  j:add(1, 1, 1, true, 1)
  j:close()
  open(true, with(pool.array("f64", { 99, 2.5, -0.0 }))):close()
  a[2] = 3
  lu.assertStrMatches(refused(true, with(a)), ".*what differs: the items")
end

function TestJournal:test_lines_that_people_and_programs_read()
  local j = open(nil, { n = 9 })
  j:add(1, 0.0123, 2, true, 42)
  j:add(2, 12.5, nil, true, 42.0)
  j:add(3, nil, 1, true, 'say "é"\n')
  j:add(4, 0, 1, true, nil)
  j:add(5, 0, 1, true, true)
  j:add(6, 1, 1, false, setmetatable({ kind = "error", message = "job.lua:3: no", index = 6, item = "6" }, pool.Error))
  j:close()
  local lines = {}
  for line in read_file():gsub(',"c":"%x%x%x%x%x%x%x%x"}\n', "}\n"):gmatch("(.-)\n") do lines[#lines + 1] = line end
  lu.assertStrMatches(lines[1], '{"luapool":1,"job":"' .. ("%x"):rep(16) .. '","verb":"map","fn":".*test_journal.lua:%d+",'
    .. '"source":"range 1 1","items":9,"parts":{"code":"' .. ("%x"):rep(16) .. '"}}')
  lu.assertEquals(table.move(lines, 2, #lines, 1, {}), {
    '{"i":1,"s":0.0123,"w":2,"ok":true,"r":42}',
    '{"i":2,"s":12.5,"w":null,"ok":true,"r":42.0}',
    '{"i":3,"s":null,"w":1,"ok":true,"r":"say \\"é\\"\\n"}',
    '{"i":4,"s":0,"w":1,"ok":true,"r":null}',
    '{"i":5,"s":0,"w":1,"ok":true,"r":true}',
    '{"i":6,"s":1,"w":1,"ok":false,"kind":"error","message":"job.lua:3: no","index":6,"item":"6"}',
    [7] = lines[8],
  })
end

-- In a place where 0.5 is written 0,5: a locale of this machine, or, where it has none, a string.format that writes like one.
local function in_a_place_with_commas(body)
  local locale, format = os.setlocale(), string.format
  for _, name in ipairs { "de_DE.UTF-8", "de_DE.utf8", "de_DE", "fr_FR.UTF-8", "fr_FR.utf8", "fr_FR", "ru_RU.UTF-8" } do
    if os.setlocale(name, "numeric") then break end
  end
  if format("%.1f", 0.5) ~= "0,5" then
    function string.format(pattern, ...) -- luacheck: ignore 122
      local text = format(pattern, ...)
      return pattern:find("^%%[%d.]*[gf]$") and text:gsub("%.", ",") or text
    end
  end
  local ok, problem = pcall(body)
  string.format = format -- luacheck: ignore 122
  os.setlocale(locale)
  if not ok then error(problem, 0) end
end

function TestJournal:test_a_comma_for_a_point()
  in_a_place_with_commas(function()
    lu.assertEquals(("%.17g"):format(0.5), "0,5")
    write_log { 0.5, 1e300 }
    lu.assertStrContains(read_file(), '"s":0.5,"w":1,"ok":true,"r":0.5,')
    local j <close> = open(true)
    lu.assertEquals({ j:done(1) }, { true, 0.5 })
    lu.assertEquals({ j:done(2) }, { true, 1e300 })
  end)
end

-- ---- JSON alone ----

function TestJournal:test_json_of_others()
  lu.assertEquals(json.read(' { "a" : 1 , "b":{ },"c" :"\\u00e9\\ud83d\\ude00\\/\\\\u0041" ,"d":true, "e":-1.5e3 } '),
    { a = 1, b = {}, c = "é😀/\\u0041", d = true, e = -1500.0 })
  lu.assertIs(json.read('{"a":null}').a, json.null)
  for _, wrong in ipairs { "", "{", "{}x", "[1]", "1", '"a"', '{"a"}', '{"a":}', '{"a":1,}', '{a:1}', '{"a":1 "b":2}', '{"a":"',
    '{"a":"\\"}', '{"a":nul}', ('{"a":'):rep(50) .. "1" .. ("}"):rep(50) } do
    local object, message = json.read(wrong)
    lu.assertNil(object, wrong)
    lu.assertEquals(message, "it is not an object of JSON on one line")
  end
end

-- ---- errors of items ----

function TestJournal:test_failures_are_stored()
  local e = setmetatable({ kind = "crash", message = "killed\xff", index = 3, item = "3", worker = 2, pid = 77, signal = "SIGSEGV",
    max_rss = 1 << 40, value = { code = 5 }, traceback = "stack traceback:\n\tx" }, pool.Error)
  local j = open(nil)
  j:add(3, 1, 2, false, e)
  j:add(4, 1, 2, false, setmetatable({ kind = "cancelled", message = "stopped" }, pool.Error))
  j:add(5, 1, 2, false, setmetatable({ kind = "interrupt", message = "interrupted!" }, pool.Error))
  j:add(6, 1, 2, false, "a plain text")
  j:close()
  j = open(true)
  lu.assertEquals({ j.n_done, j.n_failed }, { 2, 2 })
  local ok, back = j:done(3)
  lu.assertFalse(ok)
  lu.assertIs(getmetatable(back), pool.Error)
  lu.assertEquals(setmetatable(back, nil), setmetatable(e, nil))
  lu.assertEquals({ j:done(4) }, {})
  lu.assertEquals({ j:done(5) }, {})
  local _, plain = j:done(6)
  lu.assertEquals({ plain.kind, plain.message }, { "error", "a plain text" })
  j:close()
  j = open("failed")
  lu.assertEquals({ j.n_done, j.n_failed }, { 0, 0 })
  lu.assertEquals({ j:done(3) }, {})
  j:add(3, 1, 1, true, "well")
  j:close()
  j = open(true)
  lu.assertEquals({ j:done(3) }, { true, "well" })
  lu.assertFalse((j:done(6)))
  lu.assertEquals({ j.n_done, j.n_failed }, { 2, 1 })
  j:close()
end

function TestJournal:test_a_result_that_cannot_be_stored()
  local j = open(nil)
  j:add(1, 1, 1, true, { deep = { coroutine.create(print) } })
  j:add(2, 1, 1, true, { coroutine.create(print) })
  j:add(3, 1, 1, true, "fine")
  lu.assertEquals(#j.warnings, 1)
  lu.assertStrMatches(j.warnings[1], "the result of item 1 cannot be stored %(result%.deep%[1%]: .*cannot be sent%): .* does it again")
  j:close()
  j = open(true)
  lu.assertEquals({ j:done(1) }, {})
  lu.assertEquals({ j:done(2) }, {})
  lu.assertEquals({ j:done(3) }, { true, "fine" })
  j:close()
end

-- ---- what is left to do ----

function TestJournal:test_stored_and_missing()
  write_log { [2] = "b", [3] = "c", [7] = false, [10] = 10 }
  local j <close> = open(true, { n = 100 })
  local seen = {}
  for i, ok, value in j:stored() do seen[#seen + 1] = { i, ok, value } end
  lu.assertEquals(seen, { { 2, true, "b" }, { 3, true, "c" }, { 7, true, false }, { 10, true, 10 } })
  local function missing(n)
    local ranges = {}
    for first, count in j:missing(n) do ranges[#ranges + 1] = { first, count } end
    return ranges
  end
  lu.assertEquals(missing(12), { { 1, 1 }, { 4, 3 }, { 8, 2 }, { 11, 2 } })
  lu.assertEquals(missing(10), { { 1, 1 }, { 4, 3 }, { 8, 2 } })
  lu.assertEquals(missing(1), { { 1, 1 } })
  lu.assertEquals(missing(0), {})
end

function TestJournal:test_the_last_word_counts()
  local j = open(nil)
  j:add(1, 1, 1, true, "first")
  j:add(1, 1, 1, true, "second")
  j:add(2, 1, 1, true, "well")
  j:add(2, 1, 1, false, "failed later")
  j:close()
  j = open(true)
  lu.assertEquals({ j.n_done, j.n_failed }, { 2, 1 })
  lu.assertEquals({ j:done(1) }, { true, "second" })
  lu.assertFalse((j:done(2)))
  j:close()
end

-- ---- modes ----

function TestJournal:test_a_file_that_is_not_there_is_made()
  for _, mode in ipairs { "nil", true, "failed" } do
    os.remove(path)
    local j = open(mode ~= "nil" and mode or nil)
    lu.assertEquals(j.n_done, 0)
    j:close()
    lu.assertStrContains(read_file(), '{"luapool":1,')
  end
end

function TestJournal:test_nothing_is_overwritten()
  write_log { 1, 2 }
  local before = read_file()
  lu.assertEquals(refused(nil), 'the log DIR/run.jsonl has 2 items of this job: go on with resume = true (or "failed", to try the 0 '
    .. 'failed ones again; the command: --resume), or remove it')
  lu.assertStrMatches(refused(nil, { n = 5 }),
    "the log DIR/run.jsonl belongs to another job, map of .*test_journal.lua:%d+ over 100 items %(function %x+%): choose another name, or "
    .. "remove it")
  lu.assertEquals(read_file(), before)
end

-- A log without any item has nothing that could be lost.
function TestJournal:test_an_empty_log_is_no_obstacle()
  open(nil):close()
  open(nil, { n = 5 }):close()
  lu.assertStrContains(read_file(), '"items":5')
  write_file ""
  open(true):close()
  write_file '{"luap'
  open(nil):close()
  lu.assertStrContains(read_file(), '"items":100')
end

function TestJournal:test_files_that_are_no_logs()
  for _, text in ipairs { "precious", "precious\n", "{}\n", '{"luapool', '\n', '{"i":1}\n', '{"luapool":1,"job":"x"}\n' } do
    for _, mode in ipairs { "nil", true, "failed" } do
      write_file(text)
      local actual = text == '{"luapool' and "torn" or refused(mode ~= "nil" and mode or nil)
      if text == '{"luapool' then
        open(true):close() -- a first line that was cut short
      elseif text:find("luapool", 1, true) then
        lu.assertStrContains(actual, "its first line, which says what job it is of, is damaged")
      else
        lu.assertEquals(actual, "the log DIR/run.jsonl is no log of luapool: choose another name for it")
      end
      if actual ~= "torn" then lu.assertEquals(read_file(), text) end
    end
  end
end

function TestJournal:test_names_that_cannot_be_opened()
  local function problem(name)
    local ok, e = pcall(journal.open, name, identity(), true)
    lu.assertFalse(ok)
    return tostring(e)
  end
  lu.assertEquals(problem("/nowhere/at/all"), "cannot open the log /nowhere/at/all: No such file or directory")
  lu.assertEquals(problem("/dev/null"), "cannot open the log /dev/null: it is not a regular file")
  lu.assertEquals(problem("/"), "cannot open the log /: Is a directory")
  os.execute("mkfifo " .. directory .. "/fifo")
  lu.assertEquals(problem(directory .. "/fifo"), ("cannot open the log %s/fifo: it is not a regular file"):format(directory))
end

function TestJournal:test_one_at_a_time()
  local j = open(nil)
  local expected = "cannot open the log DIR/run.jsonl: another process, or another call of this one, is writing to it"
  lu.assertEquals(refused(true), expected)
  local other = ([[
    local parts = require "parts"
    local ok, e = pcall(parts "journal".open, %q, parts "journal".identity { fn = print, kind = "range", a = 1, b = 1, n = 1 }, true)
    print(ok, e)]]):format(path)
  post.run { code = other, expected = "false\t" .. expected:gsub("DIR", directory) .. "\n" }
  j:close()
  open(true):close()
  local ok = pcall(open, true, { n = 1 }) -- a refused one is not left locked
  lu.assertFalse(ok)
  open(true):close()
end

-- ---- damage ----

local RESULTS = { 11, "zwei", { 3, three = true }, 4.5, false, "\xff\0", nil, 8 }
local N_RESULTS = 8

local function write_results()
  local j = open(nil)
  for i = 1, N_RESULTS do j:add(i, 0.25, 1, true, RESULTS[i]) end
  j:close()
  return read_file()
end

-- What `mode` finds, and that each item it has is right.
local function check_results(j, message)
  local n = 0
  for i = 1, N_RESULTS do
    local ok, value = j:done(i)
    if ok then lu.assertEquals(value, RESULTS[i], message) end
    n = n + (ok and 1 or 0)
  end
  lu.assertEquals(n, j.n_done, message)
  return n
end

function TestJournal:test_cut_at_every_byte()
  local text = write_results()
  for cut = 0, #text do
    local kept = text:sub(1, cut)
    write_file(kept)
    local j = open(true)
    local _, n_lines = kept:gsub("\n", "")
    lu.assertEquals(check_results(j, cut), math.max(n_lines - 1, 0), "cut at " .. cut)
    lu.assertEquals(j.warnings, {})
    for first, count in j:missing(N_RESULTS) do
      for i = first, first + count - 1 do j:add(i, 0.25, 1, true, RESULTS[i]) end
    end
    j:close()
    lu.assertEquals(read_file(), text) -- done again, to the same bytes
  end
end

function TestJournal:test_damage_in_the_middle()
  local text = write_results()
  local lines = {}
  for line in text:gmatch("[^\n]*\n") do lines[#lines + 1] = line end
  local damages = {
    function(line) return ("\0"):rep(#line - 1) .. "\n" end,
    function(line) return line:sub(1, 9) .. line end, -- torn, and written again behind it
    function(line) return line:sub(1, -20) .. "\n" end,
    function(line) return (line:gsub('"i":%d', '"i":1')) end,
    function() return "\n" end,
    function(line) return "garbage\n" .. line:sub(1, 4) .. "\n" end,
    function() return '{"i":"x","c":"00000000"}\n' end,
  }
  for number = 3, #lines do
    for kind, damage in ipairs(damages) do
      local copy = table.move(lines, 1, #lines, 1, {})
      copy[number] = damage(copy[number])
      write_file(table.concat(copy))
      local j <close> = open(true)
      local message = ("damage %d in line %d"):format(kind, number)
      lu.assertEquals(check_results(j, message), N_RESULTS - 1, message)
      lu.assertEquals({ j:done(number - 1) }, {}, message)
      lu.assertEquals(j.warnings, { kind == 6 and ("2 lines are damaged, the first is line %d; what they say is done again"):format(number)
        or ("line %d is damaged; what they say is done again"):format(number) }, message)
    end
  end
end

function TestJournal:test_every_changed_byte_is_noticed()
  local text = write_results()
  local first = text:find("\n", 1, true)
  for at = 1, #text do
    local byte = text:byte(at)
    if at % 3 == 0 and byte ~= 10 then
      write_file(text:sub(1, at - 1) .. string.char(byte ~ 4) .. text:sub(at + 1))
      local ok, j = pcall(open, true)
      lu.assertEquals(ok, at > first, "byte " .. at)
      if ok then
        lu.assertTrue(check_results(j, "byte " .. at) < N_RESULTS, "byte " .. at)
        j:close()
      end
    end
  end
end

-- ---- other jobs ----

local function with_limit(limit)
  return load("local limit = ... return function(x) return x < limit end", "=job.lua")(limit)
end

function TestJournal:test_other_jobs_are_refused()
  local j = open(nil, { fn = with_limit(5), seed = 7 })
  j:add(1, 1, 1, true, true)
  j:close()
  local before = read_file()
  local function differs(options, what)
    options.fn = options.fn or with_limit(5)
    if not options.no_seed then options.seed = options.seed or 7 end
    local message = refused(true, options)
    lu.assertStrMatches(message, "the log DIR/run.jsonl belongs to another job: it is of map of job.lua:1 over 100 items "
      .. "%(function %x+%), this is .* over .*items.* %(function %x+%); what differs: .*")
    lu.assertEquals(message:match("; what differs: (.*)$"), what)
    lu.assertEquals(read_file(), before)
  end
  differs({ fn = with_limit(6) }, "the function (upvalue limit)")
  differs({ fn = with_limit(5.0) }, "the function (upvalue limit)")
  differs({ fn = double }, "the function (code, upvalue limit)")
  differs({ n = 99 }, "the number of items")
  differs({ a = 2 }, "the items")
  differs({ a = 1.0 }, "the items")
  differs({ verb = "filter" }, "the verb")
  differs({ seed = 8 }, "the seed")
  differs({ no_seed = true }, "the seed")
  differs({ kind = "iterator" }, "the items")
  differs({ verb = "filter", n = 3, seed = 1, fn = with_limit(0) }, "the verb, the function (upvalue limit), the number of items, the seed")
  open(true, { fn = with_limit(5), seed = 7 }):close()
end

function TestJournal:test_tables_and_iterators()
  local function with(items, n)
    return { kind = "table", a = items, n = n or #items }
  end
  local j = open(nil, with { "a", "b", { c = 1 } })
  j:add(1, 1, 1, true, true)
  j:close()
  open(true, with { "a", "b", { c = 1 } }):close()
  lu.assertStrMatches(refused(true, with { "a", "b", { c = 2 } }), ".*what differs: the items")
  lu.assertStrMatches(refused(true, with { "b", "a", { c = 1 } }), ".*what differs: the items")
  lu.assertStrMatches(refused(true, with { "a", "b" }), ".*what differs: the number of items")
  os.remove(path)
  local iterator = journal.identity { fn = double, kind = "iterator", a = function() end }
  j = journal.open(path, iterator, nil)
  j:add(5, 1, 1, true, "five")
  j:close()
  j = journal.open(path, iterator, true)
  lu.assertEquals({ j:done(5) }, { true, "five" })
  j:close()
  lu.assertStrMatches(refused(true, { n = 5 }), ".*it is of map of .* over items of an iterator .* this is map of .* over 5 items .*")
end

function TestJournal:test_another_version()
  local j = parts().journal(path)
  j:cut(0)
  j:add('{"luapool":2,"job":"x"}')
  j:close()
  lu.assertEquals(refused(true), "the log DIR/run.jsonl was written by another version of luapool (format 2)")
end

-- ---- fingerprints ----

TestFingerprint = {}

local function number_of(code, ...)
  return (fingerprint.of_function(assert(load(code, "=x"))(...)))
end

function TestFingerprint:test_what_does_not_count()
  local one = number_of "local n = 5 return function(x) local y = x + n return y end"
  lu.assertEquals(number_of "\n\n-- moved down\nlocal m = 5\nreturn function(a)\n  local b = a + m\n  return b end", one)
  local elsewhere = assert(load("local n = 5 return function(x) local y = x + n return y end", "@other.lua"))()
  lu.assertEquals((fingerprint.of_function(elsewhere)), one)
end

function TestFingerprint:test_what_counts()
  local numbers = {
    number_of "local n = 5 return function(x) return x + n end",
    number_of "local n = 6 return function(x) return x + n end",
    number_of "local n = 5 return function(x) return x - n end",
    number_of "local n = 5 return function(x) return x + n + 1 end",
    number_of "local n = 5 return function(x) return x + n + 2 end",
    number_of "local n = 5 return function(...) return ... + n end",
    number_of "local n = { 5 } return function(x) return x + n end",
    number_of "local n = { { 5 } } return function(x) return x + n end",
    number_of "local n = { a = 5 } return function(x) return x + n end",
    number_of "local n = { a = 5, b = 6 } return function(x) return x + n end",
    number_of "local n = { 5, nil, 6 } return function(x) return x + n end",
    number_of "local n = '5' return function(x) return x + n end",
    number_of "local n = function() return 1 end return function(x) return x + n end",
    number_of "local n = function() return 2 end return function(x) return x + n end",
    number_of "local m = 1 local n = function() return m end return function(x) return x + n end",
    number_of "local m = 2 local n = function() return m end return function(x) return x + n end",
    number_of "local n = string.format return function(x) return x + n end",
    number_of "local n = string.rep return function(x) return x + n end",
    number_of "local n = string return function(x) return x + n end",
    number_of "local n = math return function(x) return x + n end",
    number_of "local n = true return function(x) return x + n end",
    number_of "local n = false return function(x) return x + n end",
    number_of "local n = nil return function(x) return x + n end",
    number_of "local n = io.stdout return function(x) return x + n end",
    number_of "local n = coroutine.create(print) return function(x) return x + n end",
    number_of "return function(x) return function() return x end end",
    number_of "return function(x) return function() return -x end end",
    number_of "return math.sin",
    number_of "return math.cos",
  }
  local seen = {}
  for i, number in ipairs(numbers) do
    lu.assertStrMatches(number, ("%x"):rep(16))
    if seen[number] then lu.fail(("functions %d and %d have the same number"):format(seen[number], i)) end
    seen[number] = i
  end
end

function TestFingerprint:test_globals_that_the_code_names()
  local code = "return function(x) return fingerprint_helper(x) + (fingerprint_limit or 0) + string.len(x) end"
  local numbers = {}
  local function note()
    local number, named = fingerprint.of_function(assert(load(code))())
    numbers[number] = true
    lu.assertNotNil(named["global fingerprint_helper"])
    lu.assertNil(named["global string"])
  end
  note()
  _G.fingerprint_helper = function(x) return x end
  note()
  _G.fingerprint_helper = function(x) return x + 1 end
  note()
  _G.fingerprint_limit = 5
  note()
  _G.fingerprint_helper, _G.fingerprint_limit = nil, nil
  local count = 0
  for _ in pairs(numbers) do count = count + 1 end
  lu.assertEquals(count, 4)
end

-- Tables that are equal have the same number, however they came about; cycles and depth do no harm.
function TestFingerprint:test_order_and_cycles()
  local one, two = {}, {}
  for i = 1, 500 do one["key" .. i], two["key" .. 501 - i] = i, 501 - i end
  for i = 501, 1000 do two["key" .. i] = i end
  for i = 501, 1000 do two["key" .. i] = nil end
  one[2.5], one[true], one[-1] = "a", "b", "c"
  two[-1], two[2.5], two[true] = "c", "a", "b"
  lu.assertEquals(fingerprint.of(two), fingerprint.of(one))
  one.key7 = 8
  lu.assertNotEquals(fingerprint.of(two), fingerprint.of(one))
  local function ring(n)
    local first = {}
    local last = first
    for _ = 2, n do
      local next = { back = last }
      last.next = next
      last = next
    end
    last.next = first
    return first
  end
  lu.assertEquals(fingerprint.of(ring(5)), fingerprint.of(ring(5)))
  lu.assertNotEquals(fingerprint.of(ring(5)), fingerprint.of(ring(6)))
  local deep = {}
  for _ = 1, 100000 do deep = { deep } end
  lu.assertEquals(#fingerprint.of(deep), 16)
  lu.assertEquals(#fingerprint.of(_G), 16)
  local recursive = assert(load "local function f(n) return n < 2 and 1 or n * f(n - 1) end return f")()
  lu.assertEquals(#(fingerprint.of_function(recursive)), 16)
end

-- The same in every process: hash seeds and addresses are others in each.
function TestFingerprint:test_the_same_in_other_processes()
  local code = [[
    local parts = require "parts"
    local config = { list = { 1, 2, 3 }, print = print, me = {} }
    for i = 1, 300 do config["k" .. i] = { i, name = "n" .. i, f = function() return i end } end
    config.me.config = config
    local function fn(x) return config, x, string.format, print end
    print((parts "fingerprint".of_function(fn)))]]
  local first = post.run { code = code }
  lu.assertStrMatches(first, ("%x"):rep(16) .. "\n")
  for _ = 1, 3 do lu.assertEquals(post.run { code = code }, first) end
end

-- ---- processes that die, disks that are full ----

TestJournalDeaths = { setUp = make_directory, tearDown = remove_directory }

-- Writes items, and says of each batch when it is safe.
local WRITER = [[
  local path, batch = %q, %d
  local parts = require "parts"
  local journal = parts "journal"
  io.stdout:setvbuf "full"
  local j = journal.open(path, journal.identity { fn = math.abs, kind = "range", a = 1, b = 1, n = 1000000 }, true)
  local i = 0
  for first, count in j:missing(1000000) do
    for k = first, first + count - 1 do
      j:add(k, 0.001, 1, true, { k, ("x"):rep(k %% 50) })
      i = i + 1
      if i %% batch == 0 then
        j:sync()
        print(k)
        io.stdout:flush()
      elseif i %% 7 == 0 then
        j:flush()
      end
    end
  end
]]

local function check_after_death(acknowledged)
  local id = journal.identity { fn = math.abs, kind = "range", a = 1, b = 1, n = 1000000 }
  local j <close> = journal.open(path, id, true)
  lu.assertEquals(j.warnings, {})
  for k = 1, acknowledged do
    local ok, value = j:done(k)
    if not ok then lu.fail(("item %d of %d acknowledged ones is lost"):format(k, acknowledged)) end
    if value[1] ~= k or value[2] ~= ("x"):rep(k % 50) then lu.fail("item " .. k .. " came back as another") end
  end
  local n = 0
  for k, ok, value in j:stored() do
    n = n + 1
    lu.assertTrue(ok and k == n and value[1] == k)
  end
  return n
end

function TestJournalDeaths:test_killed_at_random_moments()
  local acknowledged, rounds = 0, SOAK and 200 or 12
  for round = 1, rounds do
    local child <close> = proc.spawn { args = { post.LUAPOOL, "-e", WRITER:format(path, 1 + round * 3) } }
    local shown = child:read_until("\n", 10 * proc.slowness)
    if not shown then lu.fail("the writer said nothing: " .. child.stderr) end
    proc.sleep(math.random() * 0.03)
    child:kill("KILL")
    local _, out = child:finish(10)
    for k in out:gmatch("(%d+)\n") do acknowledged = math.max(acknowledged, math.tointeger(k)) end
    local stored = check_after_death(acknowledged)
    lu.assertTrue(stored >= acknowledged)
  end
  lu.assertTrue(acknowledged > rounds)
end

-- Killed while a pool's workers live: they have copies of everything, but not of the lock.
function TestJournalDeaths:test_no_lock_is_left_with_workers()
  local s <close> = post.start { stdin = "pipe", code = ([[
    local parts = require "parts"
    local journal = parts "journal"
    local j = journal.open(%q, journal.identity { fn = math.abs, kind = "range", a = 1, b = 1, n = 10 }, true)
    j:add(1, 1, 1, true, "one")
    j:flush()
    j:add(2, 1, 1, true, "not written")
    local p = pool.new(2)
    p:map(function() collectgarbage() collectgarbage() end, 100)
    say "ready"
    p:map(function() spin(20) end, 2)]]):format(path) }
  s:await("ready")
  s:send("host", "KILL")
  s:finish { signal = "SIGKILL" }
  local id = journal.identity { fn = math.abs, kind = "range", a = 1, b = 1, n = 10 }
  local j <close> = journal.open(path, id, true)
  lu.assertEquals({ j:done(1) }, { true, "one" })
  lu.assertEquals({ j:done(2) }, {})
end

local FAILING = [[
  local parts = require "parts"
  local journal = parts "journal"
  local id = journal.identity { fn = math.abs, kind = "range", a = 1, b = 1, n = 10 }
  local failures = 0
  local function try(f, ...)
    for _ = 1, 10 do
      local ok, e = pcall(f, ...)
      if ok then return e end
      failures = failures + 1
      assert(getmetatable(e) == pool.Error and e.kind == "error")
      io.stdout:write(tostring(e), "\n")
    end
    error "never"
  end
  local j = try(journal.open, %q, id, true)
  for i = 1, 4 do
    j:add(i, 1, 1, true, "result " .. i)
    try(i %% 2 == 0 and j.sync or j.flush, j)
  end
  print(j:close())
  j = try(journal.open, %q, id, true)
  for i = 1, 4 do assert(select(2, j:done(i)) == "result " .. i) end
  print(failures)]]

-- Each call in turn fails once: it is said, and nothing is lost.
function TestJournalDeaths:test_every_call_fails_once()
  local texts = { ENOSPC = "No space left on device", EIO = "Input/output error", EROFS = "Read-only file system" }
  for call, count in pairs { write = 5, sync = 4, open = 1, read = 3, truncate = 2 } do
    for code, text in pairs(texts) do
      for k = 1, count do
        os.remove(path)
        local out = post.run { program = post.FAULTY, code = FAILING:format(path, path),
          env = { LUAPOOL_FAIL = ("%s#%d:%s"):format(call, k, code) } }
        local words = call == "open" and "open the log " .. path .. ": " .. text or nil
        if call == "write" or call == "sync" or call == "truncate" then words = "write the log " .. path .. ": " .. text end
        if words then lu.assertStrContains(out, "cannot " .. words .. "\n", false, call .. k) end
        lu.assertStrMatches(out, ".*true\n.*1\n", nil, nil, call .. k .. " " .. out)
      end
    end
  end
end

-- The disk fills up for good.
function TestJournalDeaths:test_a_full_disk()
  local code = ([[
    local parts = require "parts"
    local journal = parts "journal"
    local id = journal.identity { fn = math.abs, kind = "range", a = 1, b = 1, n = 1000 }
    local j = journal.open(%q, id, true)
    local safe = j.n_done
    local ok, e = pcall(function()
      for i = safe + 1, 1000 do
        j:add(i, 1, 1, true, ("%%d"):format(i):rep(20))
        if i %% 3 == 0 then j:sync() safe = i end
      end
    end)
    print(ok, (e.message:gsub("^.*: ", "")), safe, (select(2, j:close()):gsub("^.*: ", "")))]]):format(path)
  local words = { "sh", "-c", "trap '' XFSZ; ulimit -f 20; exec \"$0\" -e \"$1\"", post.LUAPOOL, code }
  local out = post.run { args = words }
  local text, safe, again = out:match("^false\t(.-)\t(%d+)\t(.-)\n$")
  lu.assertEquals({ text, again }, { "File too large", "File too large" }, out)
  safe = math.tointeger(safe)
  lu.assertTrue(safe > 20, out)
  lu.assertTrue(#read_file() >= 10240) -- the last write was cut short
  local j <close> = journal.open(path, journal.identity { fn = math.abs, kind = "range", a = 1, b = 1, n = 1000 }, true)
  lu.assertEquals(j.warnings, {})
  lu.assertTrue(j.n_done >= safe)
  for i = 1, safe do lu.assertEquals({ j:done(i) }, { true, ("%d"):format(i):rep(20) }) end
end

function TestJournalDeaths:test_a_file_system_without_locks()
  local out = post.run { program = post.FAULTY, env = { LUAPOOL_FAIL = "lock#0:ENOLCK" }, code = ([[
    local parts = require "parts"
    local journal = parts "journal"
    local j = journal.open(%q, journal.identity { fn = math.abs, kind = "range", a = 1, b = 1, n = 1000 }, true)
    j:add(1, 1, 1, true, 1)
    print(#j.warnings, j.warnings[1], j:close())]]):format(path) }
  lu.assertEquals(out, "1\tits file system has no locks: see that no other process writes to it\ttrue\n")
end
