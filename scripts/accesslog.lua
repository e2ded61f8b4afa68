-- accesslog.lua [-n TOP] [-k KEYS] [FILE ...] -- who asks a web server for what: a report on its access logs (stdin without FILE).
--   luapool scripts/accesslog.lua /var/log/apache2/access.log
--   zcat access.log.*.gz | luapool scripts/accesslog.lua -n 20
-- Shows imap over a lazy source, in memory that does not grow with the input: pool.imap reads ahead only a little more than the workers
-- need, and gives what they made of it in the order of the input. An item is a block of lines, not a line: taking a line apart costs less
-- than handing it to another process and back, so that a worker should get many at a time and return only their sums.
-- Of the different clients and paths at most 2 * KEYS (10,000) are remembered. If there are more, the rarest are dropped, and the report
-- says by how many requests its counts may be too low.
local pool = pool or require "luapool"

local USAGE = "usage: luapool accesslog.lua [-n TOP] [-k KEYS] [FILE ...]\n"
local BLOCK <const> = 1 << 16 -- bytes

local function refuse(reason)
  io.stderr:write("accesslog.lua: ", reason, "\n", USAGE)
  os.exit(2)
end

local function parse(words)
  local options, i = { ["-n"] = 10, ["-k"] = 10000 }, 1
  while words[i] and words[i]:find "^%-." do
    if words[i] == "--help" then
      io.write(USAGE)
      os.exit(0)
    end
    if not options[words[i]] then refuse("unknown option " .. words[i]) end
    local n = math.tointeger(tonumber(words[i + 1]))
    if not n or n < 1 then refuse(words[i] .. " needs a whole number, 1 or more") end
    options[words[i]], i = n, i + 2
  end
  local files = { table.unpack(words, i) }
  for _, name in ipairs(files) do
    local file <close>, problem = io.open(name)
    if not file then refuse(problem) end
  end
  return options["-n"], options["-k"], files
end

-- The source: an iterator over blocks of whole lines. It is called by this process, when the workers are about to run out of work.
local function blocks(files)
  return coroutine.wrap(function()
    for i = 1, math.max(1, #files) do
      local lines = files[i] and io.lines(files[i], BLOCK, "L") or io.stdin:lines(BLOCK, "L")
      for block, rest in lines do coroutine.yield(block .. (rest or "")) end
    end
  end)
end

-- ---- in the workers ------------------------------------------------------------------------------

-- host - user [time] "GET /path?query HTTP/1.1" status bytes ...
local LINE <const> = '^(%S+) %S+ %S+ %[[^%]]*%] "%u+ ([^%s?"]+)[^"]*" (%d%d%d) (%S+)'

local function add(counts, key) counts[key] = (counts[key] or 0) + 1 end

local function summarize(block)
  local sum = { requests = 0, bytes = 0, strange = 0, status = {}, client = {}, path = {} }
  for line in block:gmatch "[^\n]+" do
    local client, path, status, bytes = line:match(LINE)
    if client then
      sum.requests, sum.bytes = sum.requests + 1, sum.bytes + (math.tointeger(tonumber(bytes)) or 0) -- ("-": nothing was sent)
      add(sum.status, status)
      add(sum.client, client)
      add(sum.path, path)
    else
      sum.strange = sum.strange + 1
    end
  end
  return sum
end

-- ---- in this process -----------------------------------------------------------------------------

-- Counts of the most frequent keys, in bounded memory (Misra and Gries): when there are more than twice `most`, the count of the one behind
-- the first `most` is taken off all, and who has nothing left is forgotten. A count is too low by at most what was taken off so far.
local function new_counter(most) return { most = most, counts = {}, size = 0, taken = 0 } end

local function prune(counter)
  local values = {}
  for _, count in pairs(counter.counts) do values[#values + 1] = count end
  table.sort(values, function(a, b) return a > b end)
  local off, kept = values[counter.most + 1], {}
  counter.size, counter.taken = 0, counter.taken + off
  for key, count in pairs(counter.counts) do
    if count > off then kept[key], counter.size = count - off, counter.size + 1 end
  end
  counter.counts = kept
end

local function join(counter, more)
  local counts = counter.counts
  for key, count in pairs(more) do
    if not counts[key] then counter.size = counter.size + 1 end
    counts[key] = (counts[key] or 0) + count
  end
  if counter.size > 2 * counter.most then prune(counter) end
end

local function print_top(title, counter, top)
  local keys, counts = {}, counter.counts
  for key in pairs(counts) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b)
    if counts[a] ~= counts[b] then return counts[a] > counts[b] end
    return a < b
  end)
  print(title .. (counter.taken > 0 and (" (counts may be too low by up to %d)"):format(counter.taken) or ""))
  for i = 1, math.min(top, #keys) do print(("%10d  %s"):format(counts[keys[i]], keys[i])) end
end

local function main()
  local top, most, files = parse(arg)
  local all = { requests = 0, bytes = 0, strange = 0 }
  local counters = { status = new_counter(1000), client = new_counter(most), path = new_counter(most) }
  for _, sum in pool.imap(summarize, blocks(files)) do
    for name in pairs(all) do all[name] = all[name] + sum[name] end
    for name, counter in pairs(counters) do join(counter, sum[name]) end
  end
  print(("%d requests, %d bytes sent, %d strange lines"):format(all.requests, all.bytes, all.strange))
  for _, name in ipairs { "status", "client", "path" } do print_top(name, counters[name], top) end
end

local ok, err = pcall(main)
if not ok then
  if not pool.is_interrupt(err) then error(err, 0) end
  os.exit(1) -- the workers of pool.imap went with the loop
end
