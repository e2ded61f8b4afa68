-- luapool/report -- p:report(): where the time went, and plain advice with figures. Room: lua. Pure: a table of counts becomes text.
-- Feature: trace. The same as a page: luapool/page, which takes figures, advice and words from here.
-- The counts (all but `workers` may be missing; what is missing is not shown, and nothing is concluded from it):
--   name, elapsed (seconds in which a call was open), calls, items, chunks, forks, sent, renewed, retries, crashes, bytes_in, bytes_out
--   cpus (processors that may be used), memory (bytes that the machine has)
--   host = { decode, wait, encode }  seconds: reading results, asleep, writing items (the source's own time included)
--   tail    seconds, of all calls, between the first and the last worker running out of work
--   workers = { { id, items, chunks, busy, idle, encode, wait, bytes, peak }, ... }
--     busy: seconds in claims; of these encode: writing results, wait: until the host made room for them. peak: bytes of memory at most
--   slowest = { { seconds, first, count, text }, ... }: with a record, the items that took longest (one of `count` from `first` on)
local report = {}

-- ---- words for figures ----

local function seconds(s)
  if s > 0 and s < 0.9995e-6 then return ("%.3g ns"):format(s * 1e9) end
  if s < 0.0005 then return ("%.3g us"):format(s * 1e6) end
  if s < 0.9995 then return ("%.3g ms"):format(s * 1e3) end
  if s < 100 then return ("%.2f s"):format(s) end
  return ("%.0f s"):format(s)
end

local UNITS = { "KiB", "MiB", "GiB", "TiB" }
local function bytes(n)
  local unit = 0
  while n >= 1024 and unit < #UNITS do n, unit = n / 1024, unit + 1 end
  if unit == 0 then return ("%d B"):format(n) end
  return (n < 9.95 and "%.1f %s" or "%.0f %s"):format(n, UNITS[unit])
end

local function percent(part, whole)
  return ("%.0f %%"):format(whole > 0 and 100 * part / whole or 0)
end

local function plural(n, one, many)
  return ("%d %s"):format(n, n == 1 and one or many or one .. "s")
end

report.words = { seconds = seconds, bytes = bytes, percent = percent, plural = plural }

-- ---- figures ----

local function sum(list, field)
  local total, is_known = 0, false
  for _, entry in ipairs(list) do
    total = total + (entry[field] or 0)
    is_known = is_known or entry[field] ~= nil
  end
  return total, is_known
end

local function largest(list, field)
  local found
  for _, entry in ipairs(list) do
    if entry[field] and (not found or entry[field] > found[field]) then found = entry end
  end
  return found
end

-- What is told apart below. Shares are of the workers' time in the calls, unless they say otherwise.
local function figures_of(stats)
  local workers, host = stats.workers or {}, stats.host or {}
  local f = { n = #workers, stats = stats, elapsed = stats.elapsed or 0, calls = stats.calls or 0, workers = workers }
  f.items = stats.items or sum(workers, "items")
  f.chunks = stats.chunks or sum(workers, "chunks")
  f.busy = sum(workers, "busy")
  f.encode, f.wait, f.peak = sum(workers, "encode"), sum(workers, "wait"), sum(workers, "peak")
  f.span = math.max(f.n * f.elapsed, f.busy) -- what there was of workers' time
  f.used = f.span > 0 and f.busy / f.span or 0
  f.busiest = largest(workers, "busy")
  f.average = f.n > 0 and f.busy / f.n or 0
  f.imbalance = f.average > 0 and f.busiest.busy / f.average or 1
  f.per_item = f.items > 0 and math.max(f.busy - f.encode - f.wait, 0) / f.items or 0
  f.decode, f.write = host.decode or 0, host.encode or 0
  f.tail = stats.tail or 0
  return f
end

--- What is told apart: n workers, elapsed, items, busy, encode, wait, span, used, imbalance, per_item, decode, write, tail ...
report.figures = figures_of

-- ---- advice: each looks at the figures and says something, or nothing ----

local function share(part, whole)
  return whole > 0 and part / whole or 0
end

local function about_results(f)
  local results = f.encode + f.wait
  if share(results, f.busy) >= 0.25 and results >= 0.01 then
    local text = percent(results, f.busy) .. " of the workers' busy time went into results"
    if f.encode > 0 and f.wait > 0 then
      text = text .. (" (%s writing them, %s waiting until the host had read others)"):format(seconds(f.encode), seconds(f.wait))
    end
    return text .. ": return less, or use into="
  end
  if share(f.decode, f.elapsed) >= 0.5 and f.decode >= 0.01 then
    local amount = f.stats.bytes_out and (" (%s)"):format(bytes(f.stats.bytes_out)) or ""
    return ("the host spent %s of the time reading results%s: return less, or use into="):format(percent(f.decode, f.elapsed), amount)
  end
end

local function about_the_source(f)
  if share(f.write, f.elapsed) < 0.5 or f.write < 0.01 or f.used > 0.75 then return nil end
  local text = ("the workers were idle %s of the time, and the host spent %s of it getting and writing items"):format(
    percent(f.span - f.busy, f.span), percent(f.write, f.elapsed))
  local size = f.items > 0 and (f.stats.bytes_in or 0) / f.items or 0
  if size >= 1024 then
    return ("%s (%s each): send names or positions instead and let the tasks read the rest, or use pool.array"):format(text, bytes(size))
  end
  return text .. ": the source is slower than the tasks; give a range or a table, or let the tasks do what the source does"
end

local function about_small_items(f)
  if f.items < 10000 or f.per_item <= 0 or f.per_item >= 1e-6 then return nil end
  return ("an item took %s on average, hardly more than it costs to hand it out: do more in each (a block of numbers instead of one)")
    :format(seconds(f.per_item))
end

local function about_chunks(f)
  if f.chunks < 100 or f.per_item <= 0 then return nil end
  local size = f.items / f.chunks
  if size >= 4 or f.per_item * size >= 20e-6 then return nil end
  return ('chunks held %.1f items and took %s, about what claiming one costs: leave chunk at "auto", or make it larger'):format(
    size, seconds(f.per_item * size))
end

local function about_balance(f)
  if f.n < 2 or f.elapsed < 0.01 then return nil end
  local text
  if share(f.tail, f.elapsed) >= 0.15 then
    text = ("for %s (%s of the time) some workers had run out of work while others went on"):format(
      seconds(f.tail), percent(f.tail, f.elapsed))
  elseif not f.stats.tail and f.imbalance >= 1.5 then
    text = ("worker %d was busy for %s, the average is %s"):format(f.busiest.id or 0, seconds(f.busiest.busy), seconds(f.average))
  else
    return nil
  end
  local per_call = f.items / math.max(f.calls, 1)
  if per_call < 4 * f.n then
    return ("%s: %.3g items a call are few for %d workers; split the work finer"):format(text, per_call, f.n)
  end
  return text .. ": the longest items came last; put them first, or split them"
end

local function about_the_slowest(f)
  local slow = f.stats.slowest and f.stats.slowest[1]
  if not slow or slow.count > 1 or f.n < 2 or f.used >= 0.85 then return nil end
  if slow.seconds < 0.01 or share(slow.seconds, f.elapsed) < 0.5 then return nil end
  local name = slow.text and slow.text ~= tostring(slow.first) and (" (%s)"):format(slow.text) or ""
  return ("item %d%s alone took %s, %s of the time: more workers cannot help it, splitting it can"):format(
    slow.first, name, seconds(slow.seconds), percent(slow.seconds, f.elapsed))
end

local function about_processors(f)
  local cpus = f.stats.cpus
  if not cpus or f.n <= cpus then return nil end
  return ("%d workers share %s: more workers than processors help only tasks that wait (for the network, for programs)"):format(
    f.n, plural(cpus, "processor"))
end

local function about_memory(f)
  local memory = f.stats.memory
  if not memory or memory <= 0 or f.peak < 0.8 * memory then return nil end
  local most = largest(f.workers, "peak")
  return ("the workers' memory adds up to %s at its peaks, %s of what there is (worker %d: %s): use fewer workers, or memory="):format(
    bytes(f.peak), percent(f.peak, memory), most.id or 0, bytes(most.peak))
end

local function about_calls(f)
  if f.calls < 100 or f.elapsed / f.calls >= 0.001 or f.used > 0.75 then return nil end
  return ("%d calls of %s each kept the workers busy %s of the time: make fewer calls with more items"):format(
    f.calls, seconds(f.elapsed / f.calls), percent(f.busy, f.span))
end

local function about_functions(f)
  local renewed = f.stats.renewed or 0
  if renewed < 3 or renewed < f.calls / 2 then return nil end
  return ("the workers were replaced for %d of %s, because the function could not be sent to them (an upvalue that is userdata or a "
    .. "coroutine, or very large): open such things in on_start"):format(renewed, plural(f.calls, "call"))
end

local function about_crashes(f)
  local crashes = f.stats.crashes or 0
  if crashes == 0 then return nil end
  return ('%s died and had to be replaced: the error of the item (errors = "collect") says by which signal, and its max_rss'):format(
    plural(crashes, "worker"))
end

local function about_retries(f)
  local retries = f.stats.retries or 0
  if retries == 0 or share(retries, f.items) < 0.01 then return nil end
  return ("items were tried again %s (%s of all items)"):format(plural(retries, "time"), percent(retries, f.items))
end

local RULES = {
  about_results, about_the_source, about_small_items, about_chunks, about_balance, about_the_slowest, about_processors, about_memory,
  about_calls, about_functions, about_crashes, about_retries,
}

local ENOUGH_SECONDS = 0.001 -- less says nothing

local function advice(f)
  local list = {}
  if f.items == 0 or f.elapsed < ENOUGH_SECONDS then return { "too little has been done to say anything" } end
  for _, rule in ipairs(RULES) do list[#list + 1] = rule(f) end
  if #list > 0 then return list end
  if f.n == 0 then return { "nothing: all of it ran in this process" } end
  if f.used >= 0.85 then return { ("nothing: the workers were busy %s of the time"):format(percent(f.busy, f.span)) } end
  return { ("nothing in particular, although the workers were idle %s of the time"):format(percent(f.span - f.busy, f.span)) }
end

--- Sentences.
---@param f table figures
---@return string[]
report.advice = advice

-- ---- the table ----

local BAR = 20
local function utilisation(busy, span)
  local part = math.min(share(busy, span), 1)
  local full = math.floor(part * BAR + 0.5)
  return ("[%s%s] %3.0f %%"):format(("#"):rep(full), ("."):rep(BAR - full), part * 100)
end

-- A column is shown if some worker has it.
local COLUMNS = {
  { "worker", "id", tostring }, { "items", "items", tostring }, { "chunks", "chunks", tostring }, { "busy", "busy", seconds },
  { "idle", "idle", seconds }, { "encode", "encode", seconds }, { "wait", "wait", seconds }, { "sent", "bytes", bytes },
  { "peak", "peak", bytes },
}

local function table_of(f)
  local rows = { {} }
  for i, worker in ipairs(f.workers) do rows[i + 1] = { worker = worker } end
  for _, column in ipairs(COLUMNS) do
    local title, field, text = table.unpack(column)
    if field == "id" or select(2, sum(f.workers, field)) then
      table.insert(rows[1], title)
      for i = 2, #rows do
        local value = rows[i].worker[field]
        table.insert(rows[i], value and text(value) or "-")
      end
    end
  end
  return rows
end

local function add_table(lines, f)
  local rows, widths = table_of(f), {}
  for _, row in ipairs(rows) do
    for i, cell in ipairs(row) do widths[i] = math.max(widths[i] or 0, #cell) end
  end
  for number, row in ipairs(rows) do
    local cells = {}
    for i, cell in ipairs(row) do cells[i] = (" "):rep(widths[i] - #cell) .. cell end
    cells[#cells + 1] = number > 1 and utilisation(row.worker.busy or 0, math.max(f.elapsed, row.worker.busy or 0)) or nil
    lines[#lines + 1] = "  " .. table.concat(cells, "  ")
  end
end

-- The counts that are there (and not 0), in words: "4 forks, 2 functions sent".
local COUNTS = {
  { "forks", "fork" }, { "sent", "function sent", "functions sent" }, { "renewed", "renewal of the workers", "renewals of the workers" },
  { "retries", "retry", "retries" }, { "crashes", "crash", "crashes" },
}

local function counts_of(stats)
  local words = {}
  for _, count in ipairs(COUNTS) do
    local n = stats[count[1]] or 0
    if n > 0 then words[#words + 1] = plural(n, count[2], count[3]) end
  end
  if stats.bytes_in then words[#words + 1] = bytes(stats.bytes_in) .. " in" end
  if stats.bytes_out then words[#words + 1] = bytes(stats.bytes_out) .. " out" end
  return table.concat(words, ", ")
end

local function add_host(lines, f)
  local host, words = f.stats.host, {}
  if not host then return end
  for _, pair in ipairs { { "decode", "reading results" }, { "encode", "writing items" }, { "wait", "waiting" } } do
    local value = host[pair[1]]
    if value then words[#words + 1] = ("%s %s (%s)"):format(pair[2], seconds(value), percent(value, f.elapsed)) end
  end
  if #words > 0 then lines[#lines + 1] = "host: " .. table.concat(words, ", ") end
end

--- The report.
---@param stats table see the head of this file
---@return string text lines, the last one ended too
function report.text(stats)
  local f = figures_of(stats)
  local title = stats.name and ("pool %s: "):format(stats.name) or ""
  local lines = { ("%s%s, %s, %s in %s, %s"):format(title, plural(f.n, "worker"), plural(f.calls, "call"), plural(f.items, "item"),
    plural(f.chunks, "chunk"), seconds(f.elapsed)) }
  local counts = counts_of(stats)
  if counts ~= "" then lines[#lines + 1] = counts end
  add_host(lines, f)
  if f.n > 0 then
    lines[#lines + 1] = ("workers: busy %s of the time, %s an item, busiest / average %.2f%s"):format(percent(f.busy, f.span),
      seconds(f.per_item), f.imbalance, stats.tail and ", tail " .. seconds(stats.tail) or "")
    add_table(lines, f)
  end
  lines[#lines + 1] = "advice:"
  for _, text in ipairs(advice(f)) do lines[#lines + 1] = "  - " .. text end
  return table.concat(lines, "\n") .. "\n"
end

return report
