-- Progress: what the line says and how wide it is, what is estimated (with invented clocks), and what reaches a terminal.
local lu = require "luaunit"
local proc = require "proc"
local post = require "post"
local parts = require "parts"

local progress = parts "progress"

TestProgressText = {}

function TestProgressText:test_columns()
  for text, columns in pairs {
    [""] = 0, abc = 3, ["é"] = 1, ["e\u{301}"] = 1, ["日本"] = 4, ["한글"] = 4, ["ｆｕ"] = 4, ["ﾊ"] = 1, ["😀"] = 2, ["a😀b"] = 4, ["→"] = 1,
    ["█▏"] = 2, ["\u{200B}x"] = 1, ["\u{20000}"] = 2, ["ü\u{308}\u{330}"] = 1, ["─"] = 1, ["Ж"] = 1, ["ก\u{E34}"] = 1,
  } do lu.assertEquals(progress.width(text), columns, text) end
end

function TestProgressText:test_plain()
  for text, plain in pairs {
    abc = "abc", ["a\nb\r\27[2Jc\0\127"] = "a?b??[2Jc??", ["\xff\xfe"] = "??", ["é日"] = "é日", ["\u{85}\u{9B}x"] = "??x",
    ["\u{202E}evil\u{2066}"] = "?evil?", ["caf\xc3"] = "caf?", ["\u{A0}"] = "\u{A0}",
  } do lu.assertEquals(progress.plain(text), plain) end
end

function TestProgressText:test_fit()
  lu.assertEquals(progress.fit("hello", 3), "hel")
  lu.assertEquals(progress.fit("hello", 5), "hello")
  lu.assertEquals(progress.fit("hello", 0), "")
  lu.assertEquals(progress.fit("日本語", 4), "日本")
  lu.assertEquals(progress.fit("日本語", 5), "日本")
  lu.assertEquals(progress.fit("日本語", 6), "日本語")
  lu.assertEquals(progress.fit("日本語", 1), "")
  lu.assertEquals(progress.fit("e\u{301}e\u{301}e", 2), "e\u{301}e\u{301}")
end

function TestProgressText:test_durations()
  for seconds, text in pairs {
    [0] = "0:00", [0.4] = "0:00", [0.6] = "0:01", [7] = "0:07", [59.4] = "0:59", [59.6] = "1:00", [200] = "3:20", [3599] = "59:59",
    [3600] = "1:00:00", [3765] = "1:02:45", [86399] = "23:59:59", [86400] = "1d 00:00", [183000] = "2d 02:50", [-5] = "0:00",
    [math.huge] = "11574d 01:46",
  } do lu.assertEquals(progress.duration(seconds), text) end
  lu.assertEquals(progress.duration(0 / 0), "0:00")
end

TestProgressLine = {}

local FULL = { name = "sweep", done = 420, total = 1000, errors = 3, elapsed = 35, rate = 12.04, eta = 48.2, active = 4, workers = 4 }

local function with(changes)
  local state = {}
  for key, value in pairs(FULL) do state[key] = value end
  for key, value in pairs(changes) do state[key] = value ~= "none" and value or nil end
  return state
end

function TestProgressLine:test_everything()
  lu.assertEquals(progress.render(FULL, 100),
    "sweep   42%  [###############---------------------]  420/1000  12/s  eta 0:48  4/4 workers  3 failed")
  lu.assertEquals(progress.render(with { unicode = true, errors = 0 }, 75),
    "sweep   42%  ▕████████▊            ▏  420/1000  12/s  eta 0:48  4/4 workers")
end

function TestProgressLine:test_an_unknown_total()
  lu.assertEquals(progress.render(with { total = "none", eta = "none" }, 100), "sweep  420 done  12/s  0:35  4/4 workers  3 failed")
  lu.assertEquals(progress.render({ done = 0 }, 100), "0 done")
end

function TestProgressLine:test_no_estimate_yet()
  lu.assertEquals(progress.render(with { rate = "none", eta = "none", name = "none", done = 0, errors = 0 }, 70),
    "  0%  [-----------------------------------]  0/1000  0:35  4/4 workers")
end

function TestProgressLine:test_speeds()
  for rate, text in pairs {
    [25e6] = "25M/s", [123456] = "123.5k/s", [9999] = "9999/s", [12.4] = "12/s", [9.94] = "9.9/s", [0.5] = "0.5/s", [0.25] = "4.0 s/item",
    [0.011] = "90.9 s/item", [1 / 125] = "2:05/item",
  } do lu.assertStrContains(progress.render({ done = 1, rate = rate }, 80), "  " .. text) end
end

function TestProgressLine:test_large_counts()
  lu.assertStrContains(progress.render({ done = 9999999, total = 12345678901 }, 80), "9999999/12.3G")
  lu.assertStrContains(progress.render({ done = 12345678, total = 1 << 47 }, 80), "12.3M/140.7T")
end

-- 100 % is said when everything is done, not before.
function TestProgressLine:test_percent()
  local function percent(done, total, inner)
    return progress.render({ done = done, total = total, inner = inner }, 80):match("^ *(%d+)%%")
  end
  lu.assertEquals(percent(0, 3), "0")
  lu.assertEquals(percent(1, 3), "33")
  lu.assertEquals(percent(999999, 1000000), "99")
  lu.assertEquals(percent(3, 3), "100")
  lu.assertEquals(percent(0, 2, 0.5), "25")
  lu.assertEquals(percent(1, 2, 1.0), "99")
  lu.assertEquals(percent(1, 2, 7), "99")
  lu.assertEquals(percent(5, 3), "100")
  lu.assertNil(percent(0, 0))
end

function TestProgressLine:test_colour_is_for_failures()
  lu.assertStrContains(progress.render(with { color = true }, 100), "  \27[31m3 failed\27[0m")
  lu.assertNil(progress.render(with { color = true, errors = 0 }, 100):find("\27", 1, true))
  lu.assertNil(progress.render(FULL, 100):find("\27", 1, true))
end

-- Whatever there is to say: never wider than there is room, and more room never says less.
function TestProgressLine:test_every_width()
  local states = {
    FULL, with { name = "日本語の長い名前です" }, with { name = ("x"):rep(200) }, with { total = "none", eta = "none" },
    with { unicode = true }, with { color = true, unicode = true, name = "e\u{301}\u{301}" }, with { done = 123456789, total = 1 << 47 },
    { done = 5 }, { done = 0, total = 0 }, with { eta = 1e9, rate = 1e-9 }, with { name = "\27]0;title\7\n" },
  }
  for number, state in ipairs(states) do
    local said = 0
    for width = 0, 130 do
      local line = progress.render(state, width):gsub("\27%[[%d;]*m", "")
      lu.assertTrue(progress.width(line) <= width, ("state %d, width %d: %s"):format(number, width, line))
      lu.assertNil(line:find("[%c]"))
      lu.assertEquals(progress.plain(line), line)
      local _, pieces = line:gsub("  %f[^%s]", "")
      lu.assertTrue(pieces >= said or width < 12, ("state %d, width %d: %s"):format(number, width, line))
      said = pieces
    end
  end
  lu.assertEquals(progress.render(FULL, 4), " 42%")
  lu.assertEquals(progress.render(FULL, 2), " 4")
  lu.assertEquals(progress.render(FULL, 14), " 42%  3 failed")
end

TestProgressRate = {}

-- Samples every 0.1 s: done(t) items at time t. Returns the estimator, and what it said at each of the times.
local function observe(done, seconds, total, workers, first)
  local estimator = progress.estimator(100, first or 0)
  local rates, etas = {}, {}
  for i = 1, seconds * 10 do
    local t = i / 10
    estimator:sample(100 + t, done(t))
    rates[i], etas[i] = estimator:rate(), estimator:eta(total, workers)
  end
  return estimator, rates, etas
end

function TestProgressRate:test_steady_work()
  local _, rates, etas = observe(function(t) return math.floor(t * 50) end, 20, 2000, 4)
  for i = 15, 200 do
    lu.assertAlmostEquals(rates[i], 50, 3)
    lu.assertAlmostEquals(etas[i], 40 - i / 10, 4)
  end
  lu.assertNil(etas[9]) -- the first second
end

function TestProgressRate:test_bursts()
  -- 100 items every 4 s: 25 a second
  local _, rates = observe(function(t) return t // 4 * 100 end, 120)
  for i = 400, 1200 do
    if rates[i] < 18 or rates[i] > 32 then lu.fail(("a rate of %.1f after %.1f s"):format(rates[i], i / 10)) end
  end
  -- one item a minute, for an hour
  local slow
  _, slow = observe(function(t) return t // 60 end, 3600)
  for i = 12000, 36000, 50 do
    if slow[i] * 60 < 0.75 or slow[i] * 60 > 1.3 then lu.fail(("%.2f items a minute after %.0f s"):format(slow[i] * 60, i / 10)) end
  end
end

function TestProgressRate:test_a_change_of_speed_is_noticed()
  local _, rates = observe(function(t) return t < 60 and t * 100 or 6000 + (t - 60) * 10 end, 180)
  lu.assertAlmostEquals(rates[590], 100, 5)
  lu.assertTrue(rates[1800] < 20, rates[1800])
end

function TestProgressRate:test_a_stall_shows()
  local _, rates, etas = observe(function(t) return math.min(t, 10) * 10 end, 60, 1000, 4)
  lu.assertTrue(rates[600] < rates[100] / 10)
  lu.assertTrue(etas[600] > 10 * etas[100])
end

function TestProgressRate:test_nothing_is_known_at_first()
  local estimator = progress.estimator(0, 0)
  lu.assertNil(estimator:rate())
  lu.assertNil(estimator:eta(100, 4))
  estimator:sample(50, 0)
  lu.assertNil(estimator:rate())
  estimator:sample(60, 3) -- one worker has not finished any yet
  lu.assertNil(estimator:eta(100, 4))
  lu.assertNil(estimator:eta(nil, 4))
  estimator:sample(61, 4)
  lu.assertNotNil(estimator:eta(100, 4))
  lu.assertNil(estimator:eta(nil, 4))
end

-- What a log had done before says nothing about speed.
function TestProgressRate:test_items_that_were_there_already()
  local _, rates, etas = observe(function(t) return 900 + t end, 10, 1000, 1, 900)
  lu.assertAlmostEquals(rates[100], 1, 0.1)
  lu.assertAlmostEquals(etas[100], 90, 9)
end

-- Five items of 100 s on four workers: the last one takes as long as each of the others.
function TestProgressRate:test_the_tail()
  local _, _, etas = observe(function(t) return t < 100 and 0 or t < 200 and 4 or 5 end, 199, 5, 4)
  lu.assertNil(etas[900])
  lu.assertAlmostEquals(etas[1001], 100, 3)
  lu.assertAlmostEquals(etas[1500], 50, 3)
  _, _, etas = observe(function(t) return t < 100 and 0 or 4 end, 250, 5, 4)
  lu.assertNil(etas[2100]) -- longer than all the others: who knows
  local estimator = observe(function(t) return math.min(math.floor(t), 10) end, 11, 10, 4)
  lu.assertEquals(estimator:eta(10, 4), 0)
end

function TestProgressRate:test_time_that_stands_still()
  local estimator = progress.estimator(5, 0)
  estimator:sample(5, 10)
  estimator:sample(4, 20)
  lu.assertNil(estimator:rate())
  estimator:sample(7, 20)
  lu.assertAlmostEquals(estimator:rate(), 10, 0.01)
end

-- ---- the drawer, in an invented world ----

TestProgressDrawer = {}

-- A world whose clock stands still until it is told; what is written is kept.
local function new_world(changes)
  local world = { time = 1000, columns = 80, out = {}, env = { TERM = "xterm", LANG = "C" } }
  world.terminal, world.foreground, world.takes = true, true, true
  for key, value in pairs(changes or {}) do world[key] = value end
  function world.now() return world.time end
  function world.width() return world.columns end
  function world.is_terminal() return world.terminal end
  function world.is_foreground() return world.foreground end
  function world.environment(name) return world.env[name] end
  function world.write(text, patient)
    if not (world.takes or patient) then return false end
    world.out[#world.out + 1] = text
    return true
  end
  return world
end

function TestProgressDrawer:test_a_call()
  local world = new_world()
  local d = progress.new({ total = 100, workers = 4, name = "job" }, world)
  lu.assertAlmostEquals(d:due(), 0.3, 1e-6)
  d:update(1, 0, 4)
  world.time = 1000.2
  d:update(2, 0, 4)
  lu.assertEquals(world.out, {}) -- a short call shows nothing
  world.time = 1000.5
  lu.assertEquals(d:due(), 0)
  d:update(10, 0, 4)
  lu.assertEquals(#world.out, 1)
  lu.assertStrMatches(world.out[1], "\rjob   10%%  %[#.*%]  10/100  20/s  0:01  4/4 workers\27%[K")
  lu.assertEquals(d:due(), 1)
  for i = 1, 99 do
    world.time = 1000.5 + i / 100
    d:update(10 + i // 2, 0, 4)
  end
  lu.assertTrue(#world.out >= 9 and #world.out <= 11, #world.out) -- ten pictures a second
  for _, text in ipairs(world.out) do lu.assertStrMatches(text, "\r[^\r\n]*\27%[K") end
  local count = #world.out
  d:finish()
  d:finish()
  d:update(100)
  lu.assertEquals(#world.out, count + 1)
  lu.assertEquals(world.out[count + 1], "\r\27[K")
  lu.assertNil(d:due())
end

function TestProgressDrawer:test_a_short_call_writes_nothing()
  local world = new_world()
  local d = progress.new({ total = 100 }, world)
  for i = 1, 100 do d:update(i) end
  d:clear()
  d:redraw()
  d:finish()
  lu.assertEquals(world.out, {})
end

function TestProgressDrawer:test_something_else_is_written()
  local world = new_world()
  local d = progress.new({ total = 100 }, world)
  world.time = 1001
  d:redraw() -- there is nothing to show again yet
  d:update(10)
  d:clear()
  d:clear()
  lu.assertEquals(#world.out, 2)
  lu.assertEquals(world.out[2], "\r\27[K")
  d:redraw() -- sooner than a picture may follow the one before
  lu.assertEquals(#world.out, 2)
  lu.assertAlmostEquals(d:due(), 0.1, 1e-6)
  world.time = 1001.2
  d:redraw()
  d:redraw()
  lu.assertEquals(#world.out, 3)
  lu.assertStrContains(world.out[3], "10/100")
  d:finish()
  lu.assertEquals(#world.out, 4)
end

function TestProgressDrawer:test_the_width_is_asked_each_time()
  local world = new_world()
  local d = progress.new({ total = 1000, workers = 4, name = "a job with a name" }, world)
  for i, columns in ipairs { 100, 60, 30, 10, 4, 1, 0 } do
    world.columns, world.time = columns, 1000 + i
    d:update(i * 10, 1, 4)
    local text = world.out[i]:match("^\r(.*)\27%[K$"):gsub("\27%[[%d;]*m", "")
    local limit = columns == 0 and 79 or columns - 1
    lu.assertTrue(progress.width(text) <= limit, ("%d: %s"):format(columns, text))
  end
  world.env.COLUMNS, world.time = "20", 2000
  d:update(900)
  lu.assertTrue(#world.out[#world.out]:gsub("\27%[[%d;]*[mK]", "") <= 19 + 1)
end

function TestProgressDrawer:test_modes()
  local function output(options, changes)
    local world = new_world(changes)
    options.total = 10
    local d = progress.new(options, world)
    world.time = world.time + 2
    d:update(5, 0, 1)
    return table.concat(world.out), d
  end
  local LINE, LOG = "^\r[^\n]*\27%[K$", "^[^\r\27]*\n$"
  lu.assertStrMatches(output {}, LINE)
  lu.assertStrMatches(output { mode = "auto" }, LINE)
  lu.assertStrMatches(output { mode = "always" }, LINE)
  lu.assertEquals(output { mode = "never" }, "")
  lu.assertEquals(output({ mode = "auto" }, { terminal = false }), "")
  lu.assertStrMatches(output({ mode = "always" }, { terminal = false }), LOG)
  lu.assertEquals(output({ mode = "auto" }, { env = { TERM = "dumb" } }), "")
  lu.assertEquals(output({ mode = "auto" }, { env = {} }), "")
  lu.assertStrMatches(output({ mode = "always" }, { env = { TERM = "dumb" } }), LOG)
  lu.assertEquals(output({}, { foreground = false }), "")
  local _, none = output { mode = "never" }
  lu.assertNil(none:due())
end

function TestProgressDrawer:test_lines_where_there_is_no_terminal()
  local world = new_world { terminal = false }
  local d = progress.new({ total = 1000, mode = "always", name = "job", workers = 2 }, world)
  for i = 1, 200 do
    world.time = 1000 + i / 10
    d:update(i * 5, i // 100, 2)
  end
  d:clear()
  d:redraw()
  d:finish()
  lu.assertEquals(#world.out, 5)
  lu.assertEquals(world.out[5], "job  100%  1000/1000  50/s  eta 0:00  2/2 workers  2 failed\n")
  for _, line in ipairs(world.out) do lu.assertStrMatches(line, "job  [ %d]+%%  %d+/1000  %d+/s  [^\r\27]*\n") end
end

function TestProgressDrawer:test_colours_and_blocks()
  local function line(env)
    local world = new_world { env = env }
    local d = progress.new({ total = 10 }, world)
    world.time = world.time + 2
    d:update(5, 1, 1)
    return world.out[1]
  end
  lu.assertStrContains(line { TERM = "xterm" }, "\27[31m1 failed\27[0m")
  lu.assertStrContains(line { TERM = "xterm", NO_COLOR = "" }, "\27[31m1 failed\27[0m")
  lu.assertNil(line { TERM = "xterm", NO_COLOR = "1" }:find("\27[31m", 1, true))
  lu.assertStrContains(line { TERM = "xterm", LANG = "en_US.UTF-8" }, "█")
  lu.assertStrContains(line { TERM = "xterm", LANG = "C", LC_ALL = "de_DE.utf8" }, "█")
  lu.assertStrContains(line { TERM = "xterm", LANG = "en_US.UTF-8", LC_ALL = "C" }, "[###")
  lu.assertStrContains(line { TERM = "xterm", LANG = "ja_JP.UTF-8" }, "[###")
end

-- A terminal that was stopped with ^S takes nothing: the call goes on without pictures.
function TestProgressDrawer:test_a_stopped_terminal()
  local world = new_world { takes = false }
  local d = progress.new({ total = 10 }, world)
  world.time = 1001
  d:update(5)
  lu.assertEquals(world.out, {})
  d:clear()
  d:finish()
  lu.assertEquals(world.out, {})
end

function TestProgressDrawer:test_put_into_the_background()
  local world = new_world()
  local d = progress.new({ total = 10 }, world)
  world.time = 1001
  d:update(5)
  world.foreground = false
  world.time = 1002
  d:update(6)
  d:clear()
  d:redraw()
  lu.assertEquals(#world.out, 1)
  world.foreground, world.time = true, 1003
  d:redraw()
  lu.assertEquals(#world.out, 2)
end

function TestProgressDrawer:test_a_function()
  local world, calls = new_world(), {}
  local d = progress.new({ total = 100, mode = "never", workers = 2, fn = function(...) calls[#calls + 1] = table.pack(...) end }, world)
  d:update(0)
  for i = 1, 100 do
    world.time = 1000 + i / 25
    d:update(i)
  end
  d:finish()
  d:finish()
  lu.assertEquals(world.out, {})
  lu.assertEquals(calls[1], { 0, 100, nil, n = 3 })
  lu.assertTrue(#calls >= 20 and #calls <= 42, #calls)
  lu.assertEquals(calls[#calls], { 100, 100, 0, n = 3 })
  for i = 2, #calls do lu.assertTrue(calls[i][1] > calls[i - 1][1]) end
  lu.assertAlmostEquals(calls[#calls // 2][3], (100 - calls[#calls // 2][1]) / 25, 0.5)
end

function TestProgressDrawer:test_a_function_that_fails()
  local world, calls = new_world(), 0
  local d = progress.new({ total = 100, fn = function() calls = calls + 1 error("enough", 0) end }, world)
  lu.assertErrorMsgEquals("enough", d.update, d, 1)
  d:update(2) -- not again at once
  d:finish(true)
  lu.assertEquals(calls, 1)
end

-- However a scope ends, its line is taken away; a function hears only of good ends.
function TestProgressDrawer:test_a_scope_that_ends()
  for _, fails in ipairs { false, true } do
    local world, calls = new_world(), 0
    pcall(function()
      local line <close> = progress.new({ total = 100 }, world)
      local told <close> = progress.new({ total = 100, fn = function() calls = calls + 1 end }, world)
      world.time = 1001
      line:update(5)
      told:update(5)
      told:update(6)
      if fails then error "an error" end
    end)
    lu.assertEquals(world.out[2], "\r\27[K")
    lu.assertEquals(calls, fails and 1 or 2)
  end
end

function TestProgressDrawer:test_a_total_that_becomes_known()
  local world, calls = new_world(), {}
  local d = progress.new({ fn = function(...) calls[#calls + 1] = table.pack(...) end }, world)
  world.time = 1002
  d:update(10)
  world.time = 1004
  d:update(20, 0, 1, nil, 40)
  lu.assertEquals(calls[1], { 10, nil, nil, n = 3 })
  lu.assertEquals({ calls[2][1], calls[2][2] }, { 20, 40 })
  lu.assertAlmostEquals(calls[2][3], 4, 0.1)
end

function TestProgressDrawer:test_progress_inside_items()
  local world = new_world()
  local d = progress.new({ total = 4, workers = 2 }, world)
  world.time = 1010
  d:update(0, 0, 2, { 0.5, 0.75, [7] = 0 / 0, [8] = -1 })
  lu.assertStrContains(world.out[1], "\r 31%")
  world.time = 1011
  d:update(0, 0, 2, 3.0)
  lu.assertStrContains(world.out[2], "\r 75%")
end

-- A picture costs nothing most of the time.
function TestProgressDrawer:test_update_is_cheap()
  local d = progress.new({ total = 1e6, mode = "never" }, new_world())
  local asked = 0
  local world = new_world()
  local now = world.now
  function world.now() asked = asked + 1 return now() end
  function world.width() error "asked for the width" end
  local drawn = progress.new({ total = 1e6 }, world)
  for i = 1, 1000 do
    d:update(i)
    drawn:update(i)
  end
  lu.assertTrue(asked <= 1001)
end

-- ---- on a real terminal ----

TestProgressTerminal = {}

local SCRIPT = [[
  local parts = require "parts"
  local progress, core = parts "progress", parts()
  local function pause(s) local t = core.now() while core.now() - t < s do end end
]]

-- What a terminal of so many columns shows in the end, and whether a line was ever too long for it. Knows \r, \n, and the sequences
-- that are used.
local function screen(text, columns)
  local lines, column, is_wrapped = { {} }, 1, false
  local at = 1
  while at <= #text do
    local line = lines[#lines]
    local sequence = text:match("^\27%[[%d;]*[mK]", at)
    local character = sequence or text:match("^[\0-\127\194-\244][\128-\191]*", at) or text:sub(at, at)
    if sequence then
      if sequence:sub(-1) == "K" then
        for i = column, columns do line[i] = nil end
      end
    elseif character == "\r" then
      column = 1
    elseif character == "\n" then
      lines[#lines + 1] = {}
    else
      if column > columns then
        is_wrapped, column = true, 1
        lines[#lines + 1] = {}
        line = lines[#lines]
      end
      line[column] = character
      column = column + progress.width(character)
    end
    at = at + #character
  end
  for i, line in ipairs(lines) do
    for c = 1, columns do line[c] = line[c] or " " end
    lines[i] = table.concat(line):gsub(" +$", "")
  end
  return table.concat(lines, "\n"), is_wrapped
end

local function on_terminal(code, env)
  local words = { TERM = "xterm", LC_ALL = "C.UTF-8" }
  for key, value in pairs(env or {}) do words[key] = value end
  local s <close> = post.start { pty = true, code = SCRIPT .. code, env = words }
  s.child:wait(20 * proc.slowness)
  local out = s.child.stdout .. s.child.stderr
  s:finish { exit = 0 }
  return out
end

function TestProgressTerminal:test_drawn_and_cleared()
  local out = on_terminal [[
    local d = progress.new { total = 50, workers = 3, name = "Aufträge 日本" }
    for i = 1, 50 do pause(0.02) d:update(i, i // 30, 3) end
    d:finish()
    print "the end"]]
  local shown, is_wrapped = screen(out, 80)
  lu.assertEquals(shown, "the end\n")
  lu.assertFalse(is_wrapped)
  local pictures = select(2, out:gsub("\r[^\r\n]-Aufträge 日本  [ %d]+%%  ▕[^\r\n]-▏  %d+/50  [^\r\n]-3/3 workers[^\r\n]-\27%[K", ""))
  lu.assertTrue(pictures >= 3, out)
end

function TestProgressTerminal:test_between_lines_of_others()
  local out = on_terminal [[
    local d = progress.new { total = 30 }
    for i = 1, 30 do
      pause(0.03)
      d:update(i)
      if i % 3 == 0 then
        d:clear()
        print("line " .. i)
        d:redraw()
      end
    end
    d:finish()]]
  local expected = {}
  for i = 3, 30, 3 do expected[#expected + 1] = "line " .. i end
  lu.assertEquals((screen(out, 80)), table.concat(expected, "\n") .. "\n")
  lu.assertStrContains(out, "/30  ")
end

function TestProgressTerminal:test_a_window_that_changes()
  local out = on_terminal [[
    local d = progress.new { total = 100, workers = 4, name = "resized" }
    local widths = { 80, 30, 12, 50, 120 }
    for i = 1, 5 do
      assert(os.execute("stty cols " .. widths[i] .. " < /dev/tty"))
      assert(core.terminal_width(2) == widths[i])
      pause(0.35)
      print("width " .. widths[i])
      d:update(i * 10, 0, 4)
      d:clear()
    end
    d:finish()]]
  for width, text in out:gmatch("width (%d+)\r\n(\r[^\r\n]*\27%[K)") do
    local shown, is_wrapped = screen(text, tonumber(width))
    lu.assertFalse(is_wrapped, text)
    lu.assertTrue(progress.width(shown) < tonumber(width), shown)
    lu.assertStrContains(shown, "0%")
  end
  lu.assertEquals(select(2, out:gsub("width %d+\r\n\r[^\r\n]*%%", "")), 5)
end

function TestProgressTerminal:test_no_terminal()
  local code = SCRIPT .. [[
    local d = progress.new { total = 10, mode = MODE }
    for i = 1, 10 do pause(0.05) d:update(i) end
    d:finish()
    d = progress.new { total = 10 }
    print(core.isatty(0), core.isatty(1), core.isatty(2), core.terminal_width(2), core.is_foreground(2))]]
  local out = post.run { code = "MODE = 'auto'" .. code }
  lu.assertEquals(out, "false\tfalse\tfalse\t0\ttrue\n")
  local _, err = post.run { code = "MODE = 'always'" .. code, expected_stderr = ".*" }
  lu.assertStrMatches(err, "[ %d]+%%  %d+/10  [^\r\27\n]*\n100%%  10/10  [^\r\27\n]*\n")
end

-- A reader that has gone away is no reason to die, a pipe that nobody reads is none to wait.
function TestProgressTerminal:test_pipes_that_nobody_reads()
  local gone = SCRIPT .. [[
    for _ = 1, 2000 do
      if not core.write_stderr "x" then print "alive" break end
      pause(0.005)
    end]]
  local out = post.run { args = { "sh", "-c", [[exec 3>&1; "$0" -e "$1" 2>&1 >&3 | true]], post.LUAPOOL, gone } }
  lu.assertEquals(out, "alive\n")
  local full = SCRIPT .. [[
    local written = 0
    while core.write_stderr(("x"):rep(1000)) do written = written + 1 end
    print(written > 3, core.write_stderr "more")]]
  out = post.run { args = { "sh", "-c", [[mkdir "$SCRATCH" && mkfifo "$SCRATCH/f" && exec 7<>"$SCRATCH/f" && exec "$0" -e "$1" 2>&7]],
    post.LUAPOOL, full } }
  lu.assertEquals(out, "true\tfalse\n")
end
