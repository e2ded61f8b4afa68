-- luapool/page -- the report as one page of HTML that needs nothing else. Room: lua. Feature: trace. Pure: tables become text.
-- The page: for each pool its figures, advice, the timeline of host and workers, the times of items, memory, errors and what else happened.
-- Its size is bounded, however long the job was: time is cut into at most COLUMNS columns, lists and texts are cut with a word about it.
-- Everything that comes from the program is escaped. Charts are boxes that fill the width; words stand beside them, never inside, so that
-- nothing is distorted or cut on a phone.
local _, part = ...

local report = part "report"
local seconds, bytes, percent, plural =
  report.words.seconds, report.words.bytes, report.words.percent, report.words.plural

local page = {}

local COLUMNS <const>, PARTS <const>, ROWS <const> = 240, 24, 48
local TEXT <const>, MARKS <const>, POOLS <const> = 300, 60, 40
local LETTER <const>, GAP <const>, TIMELINE_WIDTH <const>, PLOT_WIDTH <const> = 7, 6, 205, 290 -- pixels, on a phone

-- ---- text ----

local ESCAPES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

-- What is no character of UTF-8 in a run of bytes above 127 becomes question marks.
local function mend(run)
  if utf8 and utf8.len(run) then return run end
  local pieces, at = {}, 1
  while at <= #run do
    local length = run:byte(at) >= 0xf0 and 4 or run:byte(at) >= 0xe0 and 3 or 2
    local piece = run:sub(at, at + length - 1)
    local is_one = utf8 and #piece == length and utf8.len(piece) == 1
    pieces[#pieces + 1] = is_one and piece or "?"
    at = at + (is_one and length or 1)
  end
  return table.concat(pieces)
end

-- Bytes that are no text become question marks; what is longer than `most` is cut between characters.
local function clean(text, most)
  text = tostring(text)
  if #text > most then
    local cut = most
    while cut > 0 and text:byte(cut + 1) >= 0x80 and text:byte(cut + 1) < 0xc0 do cut = cut - 1 end
    text = text:sub(1, cut) .. " ..."
  end
  return (text:gsub("[\0-\8\11-\31\127]", "?"):gsub("[\128-\255]+", mend))
end

local function escape(text, most)
  return (clean(text, most or TEXT):gsub("[&<>\"']", ESCAPES))
end

local function add(out, form, ...)
  out[#out + 1] = form:format(...)
end

-- A number of a coordinate: short.
local function short(x)
  return (("%.2f"):format(x):gsub("%.?0+$", ""))
end

local function count_text(n)
  local text = ("%d"):format(n)
  local left = text:match("^%d%d?%d?")
  while #left < #text and (#text - #left) % 3 ~= 0 do left = left:sub(1, -2) end
  return left .. text:sub(#left + 1):gsub("%d%d%d", " %0")
end

-- ---- the look ----

local STYLE = [[
:root{--page:#f6f7f9;--card:#fff;--text:#1d2530;--soft:#5a6675;--line:#dfe3e8;--empty:#eceff3;--idle:#d5dbe3;--run:#2f74c0;--encode:#e39a1b;
--room:#c4473a;--read:#7b57b8;--write:#1f8f80;--bad:#b3261e}
@media (prefers-color-scheme:dark){:root{--page:#14181d;--card:#1d232a;--text:#e4e8ed;--soft:#9aa6b4;--line:#323b45;--empty:#262d35;
--idle:#39434e;--run:#5b9de6;--encode:#f0b342;--room:#ee7465;--read:#ab8ce6;--write:#47b8a8;--bad:#ff8a80}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);-webkit-text-size-adjust:100%;
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main,header,footer{max-width:1080px;margin:0 auto;padding:0 16px}
header{padding-top:24px}h1{font-size:22px;line-height:1.25;margin:0}h2{font-size:19px;margin:32px 0 12px;overflow-wrap:anywhere}
h3{font-size:15px;margin:0 0 10px}p{margin:0 0 8px;overflow-wrap:anywhere}
.soft,footer{color:var(--soft);font-size:13px}footer{padding-top:8px;padding-bottom:32px}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:16px;margin:0 0 14px;min-width:0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(130px,1fr));gap:10px;margin:0 0 14px}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:10px 12px;min-width:0}
.tile b,.quantiles b{display:block;font-size:18px;line-height:1.3;font-weight:600;overflow-wrap:anywhere}
.tile span,.quantiles span{color:var(--soft);font-size:12.5px}
.quantiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(84px,1fr));gap:8px 12px;margin:10px 0}.quantiles b{font-size:16px}
ul{margin:0;padding-left:20px}li{margin:0 0 4px;overflow-wrap:anywhere}
.row{display:grid;grid-template-columns:76px minmax(0,1fr);gap:8px;align-items:center;margin:0 0 4px}
.row>span{font-size:13px;color:var(--soft);white-space:nowrap;text-align:right}
.bars{display:block;width:100%;height:24px;background:var(--empty);border-radius:3px}.plot{height:150px}
.marks{position:relative;height:14px}.marks i{position:absolute;top:1px;width:3px;height:12px;border-radius:2px;background:var(--soft)}
.marks i.bad{background:var(--bad);z-index:1}
.axis{position:relative;height:24px;border-top:1px solid var(--line);margin-top:2px}
.axis span{position:absolute;top:3px;font-size:12px;color:var(--soft);white-space:nowrap;transform:translateX(-50%)}
.axis span.first{transform:none}.axis span.last{transform:translateX(-100%)}
.axis span::before{content:"";position:absolute;left:50%;top:-4px;height:4px;border-left:1px solid var(--soft)}
.axis span.first::before{left:0}.axis span.last::before{left:100%}
.legend{display:flex;flex-wrap:wrap;gap:4px 14px;margin:0 0 10px;font-size:13px;color:var(--soft)}
.legend span::before{content:"";display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:5px;background:var(--c)}
.run{fill:var(--run)}.encode{fill:var(--encode)}.room{fill:var(--room)}
.idle{fill:var(--idle)}.read{fill:var(--read)}.write{fill:var(--write)}
.hover{fill:transparent}.hover:hover{fill:var(--text);fill-opacity:.14}
.line{stroke:var(--bad);stroke-width:1.5;vector-effect:non-scaling-stroke}
.meter{height:8px;background:var(--idle);border-radius:4px;overflow:hidden;display:flex}
.meter i{display:block;height:8px;background:var(--c)}
.worker{padding:7px 0;border-top:1px solid var(--line)}
.worker div:first-child{display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 12px;margin-bottom:4px}
table{border-collapse:collapse;width:100%;font-size:14px}
td,th{text-align:left;padding:4px 8px 4px 0;border-top:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}
th{color:var(--soft);font-weight:500;border-top:0}.number{text-align:right;white-space:nowrap}
.bad{color:var(--bad)}code,pre{font:13px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:4px 0 10px;padding:8px 10px;background:var(--empty);border-radius:6px}
summary{cursor:pointer;color:var(--soft)}
]]

-- ---- axes ----

-- A round number of seconds: "2 s", not "2.00 s"; of long ones minutes or hours.
local function tick_text(value, unit)
  if value == 0 then return "0" end
  if unit == 3600 then return ("%g h"):format(value / unit) end
  if unit == 60 then return ("%g min"):format(value / unit) end
  return (seconds(value):gsub("(%.%d-)0+ ", function(digits) return (digits ~= "." and digits or "") .. " " end))
end

-- { { position from 0 to 1, text }, ... }: from 0 to `length` seconds in round steps, at most five: there is room for them on a phone.
local function time_ticks(length)
  local unit = length > 7200 and 3600 or length > 120 and 60 or 1
  local ten = 10 ^ math.floor(math.log(length / unit, 10)) * unit
  local step, ticks = 5 * ten, {}
  for _, factor in ipairs { 2, 1, 0.5 } do
    if length / (factor * ten) <= 4 then step = factor * ten end
  end
  for i = 0, math.floor(length / step + 1e-9) do ticks[#ticks + 1] = { i * step / length, tick_text(i * step, unit) } end
  return ticks
end

-- Labels stand below their places, the first and the last within the chart. Those for which there is no room on a phone are left out.
--   width  of the chart there, in pixels
local function add_axis(out, ticks, width)
  local taken = -1
  add(out, '<div class="axis">')
  for _, tick in ipairs(ticks) do
    local at, room = tick[1], (#tick[2] * LETTER + GAP) / width
    local class, from = "", at - room / 2
    if from < 0 then
      class, from = ' class="first"', at
    elseif from + room > 1 then
      class, from = ' class="last"', at - room
    end
    if from >= taken and from + room <= 1.1 then
      taken = from + room
      add(out, '<span%s style="left:%s%%">%s</span>', class, short(at * 100), escape(tick[2]))
    end
  end
  add(out, "</div>")
end

local function add_legend(out, list)
  add(out, '<div class="legend">')
  for _, entry in ipairs(list) do add(out, '<span style="--c:var(--%s)">%s</span>', entry[1], entry[2]) end
  add(out, "</div>")
end

-- ---- the timeline ----

-- The columns that are shown: the record's bins, without the empty ones before the first call, joined to at most COLUMNS.
local function window_of(record)
  local first, last
  for _, track in ipairs(record.tracks) do
    for name, bins in pairs(track) do
      for i, value in ipairs(type(bins) == "table" and name ~= "sleep" and bins or {}) do
        if value > 0 then
          first, last = math.min(first or i, i), math.max(last or i, i)
        end
      end
    end
  end
  if not first then return nil end
  local each = math.ceil((last - first + 1) / COLUMNS)
  local n = math.ceil((last - first + 1) / each)
  return { first = first, each = each, n = n, column = each * record.bin, from = (first - 1) * record.bin, length = n * each * record.bin }
end

-- Shares of the columns' time, 0 to 1.
local function shares_of(window, bins)
  local shares = {}
  for column = 1, window.n do
    local sum = 0
    for i = 0, window.each - 1 do sum = sum + (bins[window.first + (column - 1) * window.each + i] or 0) end
    shares[column] = math.min(sum / window.column, 1)
  end
  return shares
end

-- The area below steps of these heights, in a box of n by 100.
local function area(class, heights)
  local points, height = { "M0 100" }, 0
  for i = 1, #heights + 1 do
    local h = math.floor((heights[i] or 0) * 100 + 0.5)
    if h ~= height then
      points[#points + 1] = ("H%dV%d"):format(i - 1, 100 - h)
      height = h
    end
  end
  if #points == 1 then return "" end
  return ('<path class="%s" d="%sZ"/>'):format(class, table.concat(points))
end

local function sums(a, b, c)
  local sum = {}
  for i = 1, #a do sum[i] = math.min(a[i] + (b and b[i] or 0) + (c and c[i] or 0), 1) end
  return sum
end

-- What a part of a row says when it is pointed at.
local function add_hovers(out, window, words)
  local n = math.min(PARTS, window.n)
  for k = 1, n do
    local from, to = math.floor((k - 1) * window.n / n), math.floor(k * window.n / n)
    local text = {}
    for _, word in ipairs(words) do
      local sum = 0
      for i = from + 1, to do sum = sum + word[2][i] end
      if sum > 0 then text[#text + 1] = ("%s %s"):format(word[1], percent(sum, to - from)) end
    end
    add(out, '<rect class="hover" x="%d" y="0" width="%d" height="100"><title>%s to %s: %s</title></rect>', from, to - from,
      seconds(from * window.column), seconds(to * window.column), #text > 0 and table.concat(text, ", ") or "nothing")
  end
end

local function add_bars(out, window, label, areas, words)
  add(out, '<div class="row"><span>%s</span>', label)
  add(out, '<svg class="bars" viewBox="0 0 %d 100" preserveAspectRatio="none" role="img" aria-label="%s">', window.n, label)
  for _, path in ipairs(areas) do out[#out + 1] = path end
  add_hovers(out, window, words)
  add(out, "</svg></div>")
end

local function add_worker_bars(out, window, track)
  local busy, encode = shares_of(window, track.busy), shares_of(window, track.encode)
  local room, idle = shares_of(window, track.room), shares_of(window, track.idle)
  local run = {}
  for i = 1, window.n do run[i] = math.max(busy[i] - encode[i] - room[i], 0) end
  add_bars(out, window, "worker " .. track.track, {
    area("idle", sums(run, sums(encode, room), idle)), area("room", sums(run, encode, room)), area("encode", sums(run, encode)),
    area("run", run),
  }, { { "running", run }, { "writing results", encode }, { "waiting for the host", room }, { "idle", idle } })
end

local function add_host_bars(out, window, track)
  local read, write = shares_of(window, track.read), shares_of(window, track.write)
  add_bars(out, window, "host", { area("write", sums(read, write)), area("read", read) },
    { { "reading results", read }, { "writing items", write }, { "asleep", shares_of(window, track.sleep) } })
end

local BAD <const> = { crashed = true, lost = true, killed = true, timeout = true }
local WORDS <const> = {
  started = "started", ended = "ended", crashed = "died", lost = "lost an item", retry = "item tried again", timeout = "item over its time",
  cancelled = "asked to stop", killed = "killed",
}

local function mark_text(mark)
  local text = ("worker %d: %s"):format(mark.worker, WORDS[mark.kind] or mark.kind)
  if mark.kind == "crashed" then
    return text .. (mark.number < 0 and (" with exit code %d"):format(-1 - mark.number) or (" of signal %d"):format(mark.number))
  elseif mark.kind == "started" or mark.kind == "ended" then
    return ("%s (process %d)"):format(text, mark.number)
  end
  return mark.number > 0 and ("%s (item %d)"):format(text, mark.number) or text
end

local function add_marks(out, window, marks)
  local n = 0
  add(out, '<div class="row"><span>events</span><div class="marks">')
  for _, mark in ipairs(marks) do
    local at = (mark.at - window.from) / window.length
    if at >= 0 and at <= 1 and n < 200 and (n < 100 or BAD[mark.kind]) then
      n = n + 1
      add(out, '<i%s style="left:calc((100%% - 3px)*%.4f)" title="%s: %s"></i>', BAD[mark.kind] and ' class="bad"' or "", at,
        seconds(math.max(mark.at - window.from, 0)), escape(mark_text(mark)))
    end
  end
  add(out, "</div></div>")
end

local function add_timeline(out, record)
  local window = record and window_of(record)
  if not window then return end
  add(out, '<div class="card timeline"><h3>Timeline</h3>')
  add_legend(out, { { "run", "running tasks" }, { "encode", "writing results" }, { "room", "waiting for the host" }, { "idle", "idle" },
    { "read", "host: reading results" }, { "write", "host: writing items" } })
  local shown = 0
  for _, track in ipairs(record.tracks) do
    if track.track == 0 then
      add_host_bars(out, window, track)
    elseif shown < ROWS then
      add_worker_bars(out, window, track)
      shown = shown + 1
    end
  end
  if #record.marks > 0 then add_marks(out, window, record.marks) end
  add(out, '<div class="row"><span></span>')
  add_axis(out, time_ticks(window.length), TIMELINE_WIDTH)
  add(out, "</div>")
  if #record.tracks - 1 > shown then
    add(out, '<p class="soft">%s of %d workers are shown.</p>', "The first " .. shown, #record.tracks - 1)
  end
  add(out, "</div>")
end

-- ---- the times of items ----

-- The time below which a share of the items lies.
local function quantile(record, share)
  local wanted, seen = record.items * share, 0
  for _, time in ipairs(record.times) do
    if seen + time.items >= wanted then return time.from + (time.to - time.from) * (wanted - seen) / time.items end
    seen = seen + time.items
  end
  return 0
end

-- { { from, to, items }, ... } in columns of equal width on a logarithmic axis, and where the axis begins and ends (log2 of seconds).
local function columns_of(times)
  local low = math.floor(math.log(math.max(times[1].from, 1e-9), 2) * 2) / 2
  local high = math.ceil(math.log(times[#times].to, 2) * 2) / 2
  local per_octave = high - low <= 5 and 8 or high - low <= 10 and 4 or high - low <= 22 and 2 or 1
  local n, columns = math.max(math.ceil((high - low) * per_octave), 1), {}
  for i = 1, n do columns[i] = 0 end
  for _, time in ipairs(times) do
    local middle = (math.max(time.from, 1e-9) + time.to) / 2
    local at = math.floor((math.log(middle, 2) - low) * per_octave) + 1
    at = math.max(math.min(at, n), 1)
    columns[at] = columns[at] + time.items
  end
  return columns, low, per_octave
end

local function decade_ticks(low, length)
  local ticks, from, to = {}, 2 ^ low, 2 ^ (low + length)
  for _, factor in ipairs(length < 4 and { 1, 2, 5 } or length < 10 and { 1, 3 } or { 1 }) do
    for exponent = -9, 7 do
      local value = factor * 10.0 ^ exponent
      if value >= from * 0.999 and value <= to * 1.001 then
        ticks[#ticks + 1] = { (math.log(value, 2) - low) / length, tick_text(value) }
      end
    end
  end
  table.sort(ticks, function(a, b) return a[1] < b[1] end)
  while #ticks > 6 do
    local fewer = {}
    for i = 1, #ticks, 2 do fewer[#fewer + 1] = ticks[i] end
    ticks = fewer
  end
  return ticks
end

local function add_plot(out, record, lines)
  local columns, low, per_octave = columns_of(record.times)
  local most, n = math.max(table.unpack(columns)), #columns
  add(out, '<svg class="bars plot" viewBox="0 0 %d 100" preserveAspectRatio="none" role="img" aria-label="items by time">', n * 10)
  for i, items in ipairs(columns) do
    if items > 0 then
      local height = math.max(items / most * 96, 1.2)
      local from, to = 2 ^ (low + (i - 1) / per_octave), 2 ^ (low + i / per_octave)
      add(out, '<rect class="run" x="%d" y="%s" width="9" height="%s"><title>%s to %s: %s</title></rect>', (i - 1) * 10,
        short(100 - height), short(height), seconds(from), seconds(to), plural(items, "item"))
    end
  end
  for _, line in ipairs(lines) do
    local x = short(math.max(math.min((math.log(math.max(line[2], 1e-9), 2) - low) * per_octave * 10, n * 10), 0))
    add(out, '<line class="line" x1="%s" x2="%s" y1="0" y2="100"><title>%s: %s</title></line>', x, x, line[1], seconds(line[2]))
  end
  add(out, "</svg>")
  add_axis(out, decade_ticks(low, n / per_octave), PLOT_WIDTH)
end

local function add_times(out, record)
  if not record or record.items == 0 then return end
  local lines = { { "half of the items below", quantile(record, 0.5) }, { "99 % below", quantile(record, 0.99) } }
  add(out, '<div class="card times"><h3>Times of items</h3>')
  add_plot(out, record, lines)
  add(out, '<div class="quantiles">')
  for _, share in ipairs { { "50 %", 0.5 }, { "90 %", 0.9 }, { "99 %", 0.99 }, { "99.9 %", 0.999 } } do
    add(out, "<div><b>%s</b><span>%s are below</span></div>", seconds(quantile(record, share[2])), share[1])
  end
  local longest = record.slowest[1] and record.slowest[1].seconds or quantile(record, 1)
  add(out, "<div><b>%s</b><span>the longest</span></div></div>", seconds(longest))
  add(out, '<p class="soft">%s; a time includes writing the result. Of items that take less than 5 us a sample is timed.</p></div>',
    count_text(record.items) .. (record.items == 1 and " item" or " items"))
end

local function item_text(slow)
  local place = ("item %d"):format(slow.first)
  if slow.count > 1 then place = ("one of items %d to %d"):format(slow.first, slow.first + slow.count - 1) end
  if not slow.text or slow.text == tostring(slow.first) then return place end
  return ("%s: <code>%s</code>"):format(place, escape(slow.text))
end

local function add_slowest(out, record)
  if not record or #record.slowest == 0 then return end
  add(out, '<div class="card slowest"><h3>Slowest items</h3><table>')
  add(out, '<tr><th>item</th><th class="number">call</th><th class="number">took</th></tr>')
  for _, slow in ipairs(record.slowest) do
    add(out, '<tr><td>%s</td><td class="number">%d</td><td class="number">%s</td></tr>', item_text(slow), slow.call,
      seconds(slow.seconds))
  end
  add(out, "</table></div>")
end

-- ---- workers ----

local function add_meter(out, list, whole)
  add(out, '<div class="meter">')
  for _, entry in ipairs(list) do
    local share = whole > 0 and math.max(math.min(entry[2] / whole, 1), 0) or 0
    if share > 0 then
      add(out, '<i style="width:%s%%;--c:var(--%s)" title="%s: %s"></i>', short(share * 100), entry[1], entry[3], entry[4])
    end
  end
  add(out, "</div>")
end

local function add_worker(out, f, worker)
  local encode, wait = worker.encode or 0, worker.wait or 0
  local busy = worker.busy or 0
  local run = math.max(busy - encode - wait, 0)
  local whole = math.max(f.elapsed, busy)
  add(out, '<div class="worker"><div><span>worker %d</span><span class="soft">busy %s, %s, %s</span></div>', worker.id or 0,
    percent(busy, whole), plural(worker.items or 0, "item"), plural(worker.chunks or 0, "chunk"))
  add_meter(out, { { "run", run, "running", seconds(run) }, { "encode", encode, "writing results", seconds(encode) },
    { "room", wait, "waiting for the host", seconds(wait) } }, whole)
  add(out, "</div>")
end

local function add_workers(out, f)
  if f.n == 0 then return end
  add(out, '<div class="card workers"><h3>Workers</h3><p class="soft">Busy %s of the time; the busiest had %.2f times the average%s.</p>',
    percent(f.busy, f.span), f.imbalance,
    f.stats.tail and ("; for %s some had run out of work while others went on"):format(seconds(f.stats.tail)) or "")
  for i = 1, math.min(f.n, ROWS) do add_worker(out, f, f.workers[i]) end
  if f.n > ROWS then add(out, '<p class="soft">The first %d of %d are shown.</p>', ROWS, f.n) end
  add(out, "</div>")
end

local function add_memory(out, f)
  local most = 0
  for _, worker in ipairs(f.workers) do most = math.max(most, worker.peak or 0) end
  if most == 0 then return end
  add(out, '<div class="card memory"><h3>Memory</h3>')
  add(out, '<p class="soft">The most that each worker had at a time, what it shares with the host included.</p>')
  for i = 1, math.min(f.n, ROWS) do
    local worker = f.workers[i]
    add(out, '<div class="worker"><div><span>worker %d</span><span class="soft">%s</span></div>', worker.id or 0,
      bytes(worker.peak or 0))
    add_meter(out, { { "write", worker.peak or 0, "peak", bytes(worker.peak or 0) } }, most)
    add(out, "</div>")
  end
  add(out, "</div>")
end

-- ---- what went wrong, and what else happened ----

local function add_sample(out, err)
  local where = {}
  if err.index then where[#where + 1] = ("item %d"):format(err.index) end
  if err.item then where[#where + 1] = ("<code>%s</code>"):format(escape(err.item)) end
  if err.worker then where[#where + 1] = ("worker %d"):format(err.worker) end
  add(out, '<p><b class="bad">%s</b> <span class="soft">%s</span></p><pre>%s</pre>', escape(err.kind or "error"),
    table.concat(where, ", "), escape(err.message or ""))
end

local function add_errors(out, record)
  local errors, kinds, total = record and record.errors, {}, 0
  if not errors or not next(errors.kinds) then return end
  for kind, n in pairs(errors.kinds) do
    kinds[#kinds + 1] = { kind, n }
    total = total + n
  end
  table.sort(kinds, function(a, b) return a[2] > b[2] or (a[2] == b[2] and a[1] < b[1]) end)
  add(out, '<div class="card errors"><h3>Errors</h3><p>')
  for i, kind in ipairs(kinds) do
    add(out, '%s<b class="bad">%s</b> %s', i > 1 and ", " or "", count_text(kind[2]), escape(kind[1]))
  end
  add(out, "</p>")
  if total > #errors.samples then add(out, '<p class="soft">The first %d of %s:</p>', #errors.samples, count_text(total)) end
  for _, err in ipairs(errors.samples) do add_sample(out, err) end
  add(out, "</div>")
end

local function add_events(out, record)
  if not record or #record.marks == 0 then return end
  local counts, words, shown = record.marks.counts, {}, 0
  for _, kind in ipairs { "started", "ended", "crashed", "lost", "retry", "timeout", "cancelled", "killed" } do
    if counts[kind] > 0 then words[#words + 1] = ("%s: %s"):format(WORDS[kind], count_text(counts[kind])) end
  end
  add(out, '<div class="card events"><h3>Events</h3><p>%s</p>', table.concat(words, ", "))
  add(out, "<details><summary>the first of them</summary><table>")
  for _, mark in ipairs(record.marks) do
    shown = shown + 1
    if shown > MARKS then break end
    add(out, '<tr><td class="number">%s</td><td>%s</td></tr>', seconds(mark.at), escape(mark_text(mark)))
  end
  add(out, "</table></details></div>")
end

-- ---- the page ----

local function add_tiles(out, f, record)
  local function tile(value, name) add(out, '<div class="tile"><b>%s</b><span>%s</span></div>', value, name) end
  add(out, '<div class="tiles">')
  tile(count_text(f.items), f.items == 1 and "item" or "items")
  tile(seconds(f.elapsed), f.calls == 1 and "in one call" or "in " .. plural(f.calls, "call"))
  tile(("%d"):format(f.n), f.n == 1 and "worker" or "workers")
  tile(percent(f.busy, f.span), "busy")
  if record and record.items > 0 then tile(seconds(quantile(record, 0.5)), "median of items") end
  if f.elapsed > 0 and f.items > 0 then tile(count_text(math.floor(math.min(f.items / f.elapsed, 1e15))), "items a second") end
  add(out, "</div>")
end

local function add_advice(out, f)
  add(out, '<div class="card advice"><h3>Advice</h3><ul>')
  for _, text in ipairs(report.advice(f)) do add(out, "<li>%s</li>", escape(text, 1000)) end
  add(out, "</ul></div>")
end

local function add_pool(out, pool, about)
  local record = pool.record
  local more = { cpus = about.cpus, slowest = record and record.slowest }
  local f = report.figures(setmetatable(more, { __index = pool.stats or { workers = {} } }))
  add(out, "<section><h2>%s</h2>", escape(pool.name or "Pool"))
  add_tiles(out, f, record)
  add_advice(out, f)
  if not record then
    add(out, '<p class="soft">No record was kept: pool.new{ trace = true } adds the timeline, times of items and errors.</p>')
  end
  add_timeline(out, record)
  add_times(out, record)
  add_slowest(out, record)
  add_errors(out, record)
  add_workers(out, f)
  add_memory(out, f)
  add_events(out, record)
  if record and record.lost > 0 then
    add(out, '<p class="soft">%s lost: the host could not take them as fast as they came.</p>',
      plural(record.lost, "event was", "events were"))
  end
  add(out, "</section>")
end

--- A page.
---@param pools table[] { name, stats: as p:stats(), record: as record:read() of C, or nil }
---@param about table cpus, version
---@return string html
function page.make(pools, about)
  local out = {}
  add(out, '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">')
  add(out, '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">')
  add(out, '<meta name="generator" content="%s"><title>luapool report</title>', escape(about.version))
  out[#out + 1] = "<style>" .. STYLE .. "</style></head><body>"
  add(out, "<header><h1>luapool report</h1><p class=\"soft\">%s, %s%s</p></header><main>", escape(about.version),
    plural(about.cpus or 1, "processor"), about.date and ", " .. escape(about.date) or "")
  for i = 1, math.min(#pools, POOLS) do add_pool(out, pools[i], about) end
  if #pools == 0 then add(out, "<p>No pool was used.</p>") end
  if #pools > POOLS then add(out, '<p class="soft">The first %d of %d pools are shown.</p>', POOLS, #pools) end
  add(out, "</main><footer>Times are seconds of the clock. Point at a bar for its figures.</footer></body></html>\n")
  return table.concat(out)
end

return page
