-- The report as a page: what stands in it, that nothing of the program's gets into its markup, that its size is bounded; and, with a
-- headless browser, what is drawn: on a desktop and on a phone, in light and in dark. Figures are invented but for those of the last tests.
local lu = require "luaunit"
local browser = require "browser"
local disk = require "disk"
local parts = require "parts"
local ways = require "ways"

local page = parts "page"

local ABOUT <const> = { cpus = 4, version = "luapool 1.2.3", date = "2024-05-06 07:08" }
local directory

local function make_directory() directory = disk.make_directory() end

local function remove_directory() disk.remove_directory(directory) end

local function bins(n, value)
  local list = {}
  for i = 1, n do list[i] = value(i) end
  return list
end

local NONE <const> = function() return 0 end

-- Workers busy for the first half of 10 s and idle for the second, but for the last, which does it the other way round.
local function record_of(n, changes)
  local record = {
    seconds = 10, bin = 0.1, items = 1000, events = 500, lost = 0, cycles = 3,
    tracks = { { track = 0, read = bins(100, function(i) return i % 10 == 0 and 0.05 or 0 end), write = bins(100, NONE),
      sleep = bins(100, function() return 0.05 end) } },
    times = { { from = 0.001, to = 0.00112, items = 600 }, { from = 0.004, to = 0.0045, items = 300 },
      { from = 0.1, to = 0.112, items = 99 }, { from = 2, to = 2.25, items = 1 } },
    slowest = { { seconds = 2.2, call = 1, first = 77, count = 1, text = '"some file.txt"' },
      { seconds = 0.1, call = 2, first = 65, count = 64 } },
    marks = { { kind = "started", worker = 1, at = 0, number = 4711 }, { kind = "crashed", worker = 2, at = 5, number = 11 },
      { kind = "retry", worker = 2, at = 5.1, number = 9 },
      counts = { started = 4, ended = 0, crashed = 1, lost = 0, retry = 1, timeout = 0, cancelled = 0, killed = 0 } },
    errors = { kinds = { error = 20, crash = 1 }, samples = { { kind = "error", message = "oops", item = "7", index = 7, worker = 1 } } },
  }
  for worker = 1, n do
    local is_first = worker < n
    record.tracks[worker + 1] = {
      track = worker,
      busy = bins(100, function(i) return (i <= 50) == is_first and 0.1 or 0 end),
      idle = bins(100, function(i) return (i <= 50) ~= is_first and 0.1 or 0 end),
      encode = bins(100, function(i) return (i <= 50) == is_first and 0.02 or 0 end),
      room = bins(100, NONE),
    }
  end
  for key, value in pairs(changes or {}) do record[key] = value end
  return record
end

local function stats_of(n)
  local stats = { name = "x", elapsed = 10, calls = 2, items = 1000, chunks = 80, forks = n, sent = 0, renewed = 0, retries = 1,
    crashes = 1, bytes_in = 0, bytes_out = 48000, tail = 0.2, host = { decode = 0.1, wait = 9.8, encode = 0 }, workers = {} }
  for i = 1, n do
    stats.workers[i] = { id = i, items = 250, chunks = 20, busy = 5, idle = 5, encode = 1, wait = 0.2, bytes = 12000, peak = i * 40 << 20 }
  end
  return stats
end

local function make(n, changes, name)
  return page.make({ { name = name or "Pool sweep", stats = stats_of(n), record = record_of(n, changes) } }, ABOUT)
end

TestPage = {}

function TestPage:test_what_stands_in_it()
  local html = make(4)
  for _, text in ipairs {
    "<h2>Pool sweep</h2>", "luapool 1.2.3, 4 processors, 2024-05-06 07:08", "<b>1 000</b><span>items", "<b>10.00 s</b><span>in 2 calls",
    "worker 4", "item 77: <code>&quot;some file.txt&quot;</code>", "one of items 65 to 128", "<b class=\"bad\">20</b> error",
    "<b class=\"bad\">1</b> crash", "<pre>oops</pre>", "160 MiB", "tried again: 1", "1 worker died and had to be replaced",
    "worker 2: died of signal 11", "The first 1 of 21:",
  } do lu.assertStrContains(html, text) end
  lu.assertEquals(select(2, html:gsub("<svg", "")), 6) -- the host, four workers, the times of items
  for tag in html:gmatch("</(%a+)>") do
    lu.assertEquals(select(2, html:gsub("<" .. tag .. "[ >]", "")), select(2, html:gsub("</" .. tag .. ">", "")), tag)
  end
end

function TestPage:test_percentiles()
  local html = make(2)
  lu.assertStrContains(html, "<b>1.1 ms</b><span>50 % are below") -- 500 of 600 between 1 and 1.12 ms
  lu.assertStrContains(html, "<b>4.5 ms</b><span>90 % are below")
  lu.assertStrContains(html, "<b>111 ms</b><span>99 % are below")
  lu.assertStrContains(html, "<b>112 ms</b><span>99.9 % are below")
  lu.assertStrContains(html, "<b>2.20 s</b><span>the longest")
end

-- Without a record, without workers, without anything.
function TestPage:test_what_is_not_known_is_not_shown()
  local html = page.make({ { name = "Pool a", stats = stats_of(2) } }, ABOUT)
  lu.assertStrContains(html, "No record was kept")
  lu.assertNil(html:find("Timeline", 1, true))
  html = page.make({ { name = "Pool a", record = record_of(0, { items = 0, times = {}, slowest = {}, errors = { kinds = {}, samples = {} },
    marks = { counts = {} }, tracks = {} }) } }, ABOUT)
  for _, title in ipairs { "Timeline", "Times of items", "Slowest", "Errors", "Events", "Memory" } do
    lu.assertNil(html:find(title, 1, true))
  end
  lu.assertStrContains(page.make({}, ABOUT), "No pool was used")
end

local BAD <const> = [[<script>alert("x")</script>'&]]

function TestPage:test_everything_is_escaped()
  local html = make(2, {
    slowest = { { seconds = 1, call = 1, first = 1, count = 1, text = BAD } },
    errors = { kinds = { [BAD] = 1 },
      samples = { { kind = BAD, message = BAD .. "\0\27\xff\xc3\xa4\xc3", item = BAD, index = 1, worker = 1 } } },
  }, BAD)
  lu.assertNil(html:find("<script", 1, true))
  lu.assertNil(html:find("alert(\"", 1, true))
  lu.assertEquals(select(2, html:gsub("&lt;script&gt;alert%(&quot;x&quot;%)&lt;/script&gt;&#39;&amp;", "")), 6)
  lu.assertStrContains(html, "&amp;???ä?</pre>")
  lu.assertIsNumber(utf8.len(html))
  lu.assertNil(html:find("https?://"))
end

-- However long and wide the job was.
function TestPage:test_its_size_is_bounded()
  local long = ("ä<"):rep(100000)
  local samples, marks = {}, { counts = record_of(1).marks.counts }
  for i = 1, 12 do samples[i] = { kind = "error", message = long, item = long, index = i, worker = 1 } end
  for i = 1, 256 do marks[i] = { kind = "crashed", worker = 1, at = i / 30, number = 9 } end
  local record = record_of(1, { errors = { kinds = { error = 1 << 40 }, samples = samples }, marks = marks })
  local noise = bins(480, function(i) return (i * 7919 % 101) / 1010 end)
  for worker = 1, 4096 do record.tracks[worker + 1] = { track = worker, busy = noise, encode = noise, room = noise, idle = noise } end
  local html = page.make({ { name = long, stats = stats_of(4096), record = record } }, ABOUT)
  lu.assertTrue(#html < 2000000, #html)
  lu.assertStrContains(html, "The first 48 of 4096")
  local pools = {}
  for i = 1, 1000 do pools[i] = { name = "Pool " .. i, stats = stats_of(1) } end
  lu.assertTrue(#page.make(pools, ABOUT) < 400000)
end

-- ---- with a browser ----

TestPageDrawn = { setUp = make_directory, tearDown = remove_directory }

local function need_browser()
  if not browser.path then lu.skip("no chromium here (scripts/install-dependencies browser installs one)") end
end

local function assert_tidy(measured, said, width)
  lu.assertEquals(measured.width, width)
  lu.assertTrue(measured.scroll <= width, "scrolls to " .. measured.scroll)
  lu.assertEquals(measured.outside, {})
  lu.assertEquals(measured.cut, {})
  lu.assertEquals(measured.clashes, {})
  lu.assertEquals(measured.resources, {})
  lu.assertEquals(said, {})
end

local function brightness(color)
  local r, g, b = color:match("(%d+), (%d+), (%d+)")
  return (r * 299 + g * 587 + b * 114) / 1000
end

-- The bars are where the work was.
local function assert_bars(measured)
  lu.assertEquals(#measured.rows, 4)
  for k, row in ipairs(measured.rows) do
    lu.assertTrue(row.width > 100 and row.height > 15, row.label)
    if k > 1 then
      lu.assertEquals(row.label, "worker " .. k - 1)
      for i, class in ipairs(row.at) do lu.assertEquals(class, (i <= 10) == (k < 4) and "run" or "idle", row.label .. " " .. i) end
    end
  end
  local most = 0
  for _, column in ipairs(measured.columns) do
    lu.assertTrue(column.height > 1, column.title) -- one item of a thousand is seen, too
    most = math.max(most, column.height)
  end
  lu.assertEquals(#measured.columns, 4)
  lu.assertTrue(most > 120)
end

function TestPageDrawn:test_desktop_and_phone_light_and_dark()
  need_browser()
  local html, seen = make(3), {}
  for _, width in ipairs { 1200, 360 } do
    for _, dark in ipairs { false, true } do
      local measured, said = browser.measure(directory, html, { width = width, dark = dark })
      assert_tidy(measured, said, width)
      assert_bars(measured)
      local contrast = brightness(measured.letters) - brightness(measured.card)
      lu.assertTrue(dark and contrast > 125 or not dark and contrast < -125, measured.letters .. " on " .. measured.card)
      seen[measured.run] = true
    end
  end
  local colors = 0
  for _ in pairs(seen) do colors = colors + 1 end
  lu.assertEquals(colors, 2) -- one for each scheme
end

-- The pixels: mostly background, and as much of the bars' colour as there was work.
function TestPageDrawn:test_pixels()
  need_browser()
  local html = make(3)
  local light, night = { "rgb(246, 247, 249)", "rgb(47, 116, 192)" }, { "rgb(20, 24, 29)", "rgb(91, 157, 230)" }
  for dark, colors in pairs { [false] = light, [true] = night } do
    local drawn = browser.pixels(directory, html, { width = 1200, height = 1200, dark = dark })
    lu.assertEquals({ drawn.width, drawn.height }, { 1200, 1200 })
    lu.assertTrue((drawn.counts[colors[1]] or 0) > 100000)
    local bars = 3 * 24 * 930 * 0.5 * 0.8 -- three rows, half of the time, four fifths of it running
    lu.assertTrue((drawn.counts[colors[2]] or 0) > bars * 0.8, tostring(drawn.counts[colors[2]]))
  end
end

-- Long words, wide numbers, many workers, hostile texts: nothing runs out of its box.
function TestPageDrawn:test_awkward_content()
  need_browser()
  local word = ("Donaudampfschiff"):rep(18)
  local record = record_of(40, {
    bin = 3600.5, items = 1 << 50, lost = 12345,
    slowest = { { seconds = 123456, call = 1 << 40, first = 1 << 47, count = 64 },
      { seconds = 1e-8, call = 1, first = 1, count = 1, text = word } },
    errors = { kinds = { [word] = 1 << 40 },
      samples = { { kind = word, message = word .. BAD, item = word, index = 1 << 47, worker = 4096 } } },
    times = { { from = 0, to = 1e-9, items = 5 }, { from = 9e4, to = 1e5, items = 1 << 50 } },
  })
  local stats = stats_of(40)
  stats.items, stats.elapsed, stats.calls = 1 << 50, 360050, 1 << 40
  stats.workers[1].items, stats.workers[1].peak = 1 << 50, 1 << 45
  local html = page.make({ { name = word, stats = stats, record = record }, { name = BAD, stats = stats_of(1) } }, ABOUT)
  local plain = make(1)
  for _, width in ipairs { 360, 700 } do
    local measured, said = browser.measure(directory, html, { width = width })
    assert_tidy(measured, said, width)
    lu.assertStrContains(measured.text, BAD) -- as text
  end
  lu.assertNil(plain:find(word, 1, true))
end

-- Axes of any length: no two labels meet, none leaves the chart.
function TestPageDrawn:test_axes_of_all_lengths()
  need_browser()
  local pools, seed = {}, 7
  local function random()
    seed = (seed * 1103515245 + 12345) % (1 << 31)
    return seed / (1 << 31)
  end
  for k = 1, 40 do
    local low = 10 ^ (random() * 9 - 9)
    local high = low * 10 ^ (random() * random() * 9)
    pools[k] = { name = "Pool " .. k, stats = stats_of(1), record = record_of(1, {
      bin = 10 ^ (random() * 11 - 6), times = { { from = low, to = low * 1.1, items = 3 }, { from = high, to = high * 1.1, items = 4 } },
    }) }
  end
  local measured, said = browser.measure(directory, page.make(pools, ABOUT), { width = 360 })
  assert_tidy(measured, said, 360)
end

-- A real one.
function TestPageDrawn:test_of_a_real_pool()
  local p = pool.new { workers = 2, trace = true, name = "real <i>" }
  p:map(function(n)
    if n == 30 then error("bad <b>item</b>") end
    ways.spin(0.002)
    return n
  end, 60, { errors = "collect" })
  local text = p:report { html = directory .. "/living.html" }
  lu.assertStrContains(text, "60 items")
  p:close()
  p:report { html = directory .. "/closed.html" }
  for _, name in ipairs { "living", "closed" } do
    local html = disk.read(("%s/%s.html"):format(directory, name))
    for _, expected in ipairs { "real &lt;i&gt;", "<b>60</b><span>items", "bad &lt;b&gt;item&lt;/b&gt;", "Timeline", "Slowest items" } do
      lu.assertStrContains(html, expected)
    end
    lu.assertNil(html:find("<i>", 1, true))
    if browser.path then
      local measured, said = browser.measure(directory, html, { width = 360 })
      assert_tidy(measured, said, 360)
      lu.assertEquals(#measured.rows, 3)
    end
  end
end

-- The slowest items are named, wherever they come from: a table at the fork, a table sent later, an iterator, a range.
function TestPageDrawn:test_slow_items_have_their_texts()
  local function spin(item)
    if tostring(item):find("7$") then ways.spin(0.01) end
  end
  local names, i = {}, 0
  for k = 1, 40 do names[k] = "name " .. k end
  local sources = {
    name = names, range = pool.range(1001, 1040),
    iterator = function()
      i = i + 1
      return names[i]
    end,
  }
  for kind, source in pairs(sources) do
    for _, is_warm in ipairs { false, kind ~= "iterator" or nil } do
      local p <close> = pool.new { workers = 2, trace = true }
      if is_warm then p:broadcast(function() end) end
      p:each(spin, source, { chunk = 4 }) -- two of them come first, while nothing is known
      p:report { html = directory .. "/page.html" }
      local slowest, found = disk.read(directory .. "/page.html"):match("Slowest items.-</table>"), 0
      for _, text in ipairs(kind == "range" and { "1017", "1027", "1037" } or { "name 17", "name 27", "name 37" }) do
        if kind ~= "range" then text = "&quot;" .. text .. "&quot;" end
        if slowest:find("<code>" .. text .. "</code>", 1, true) then found = found + 1 end
      end
      lu.assertTrue(found > 0, ("%s %s: %s"):format(kind, is_warm, slowest))
    end
  end
end

function TestPageDrawn:test_report_options()
  local p <close> = pool.new(1)
  lu.assertErrorMsgContains("bad option 'html' to 'report' (name of a file expected, got 3)", p.report, p, { html = 3 })
  lu.assertErrorMsgContains("unknown option 'htm' to 'report' (known: html)", p.report, p, { htm = "x" })
  lu.assertErrorMsgContains("bad argument #1 to 'report' (table of options expected, got 5)", p.report, p, 5)
  lu.assertErrorMsgContains("cannot write the report to ", p.report, p, { html = directory .. "/no/such" })
  lu.assertErrorMsgContains("it is not a regular file", p.report, p, { html = "/dev/null" })
  p:report { html = directory .. "/page.html" }
  lu.assertStrContains(disk.read(directory .. "/page.html"), "No record was kept")
end
