-- The report: the table, and each piece of advice where its figures are there, and nowhere else. All figures are invented.
local lu = require "luaunit"
local parts = require "parts"

local report = parts "report"

-- A pool of four that did well: 10 s, every worker busy for 9.7 s, 1000 items.
local function well(changes)
  local stats = {
    name = "sweep", elapsed = 10, calls = 1, items = 1000, chunks = 80, forks = 4, sent = 0, renewed = 0, retries = 0, crashes = 0,
    bytes_in = 0, bytes_out = 48000, cpus = 4, memory = 16 << 30, tail = 0.2, host = { decode = 0.1, wait = 9.8, encode = 0 }, workers = {},
  }
  for i = 1, 4 do
    stats.workers[i] = { id = i, items = 250, chunks = 20, busy = 9.7, idle = 0.3, encode = 0.05, wait = 0, bytes = 12000, peak = 40 << 20 }
  end
  for key, value in pairs(changes or {}) do
    if key == "each" then
      for _, worker in ipairs(stats.workers) do
        for field, figure in pairs(value) do worker[field] = figure ~= "none" and figure or nil end
      end
    elseif key == "host" then
      for field, figure in pairs(value) do stats.host[field] = figure end
    else
      stats[key] = value ~= "none" and value or nil
    end
  end
  return stats
end

local function advice(stats)
  local list = {}
  for line in report.text(stats):match("advice:\n(.*)$"):gmatch("  %- (.-)\n") do list[#list + 1] = line end
  return list
end

local function assert_advice(changes, ...)
  lu.assertEquals(advice(well(changes)), { ... })
end

local FINE = "nothing: the workers were busy 97 % of the time"

TestReport = {}

function TestReport:test_the_whole_text()
  lu.assertEquals(report.text(well { renewed = 1, sent = 2 }), [[
pool sweep: 4 workers, 1 call, 1000 items in 80 chunks, 10.00 s
4 forks, 2 functions sent, 1 renewal of the workers, 0 B in, 47 KiB out
host: reading results 100 ms (1 %), writing items 0 us (0 %), waiting 9.80 s (98 %)
workers: busy 97 % of the time, 38.6 ms an item, busiest / average 1.00, tail 200 ms
  worker  items  chunks    busy    idle  encode  wait    sent    peak
       1    250      20  9.70 s  300 ms   50 ms  0 us  12 KiB  40 MiB  [###################.]  97 %
       2    250      20  9.70 s  300 ms   50 ms  0 us  12 KiB  40 MiB  [###################.]  97 %
       3    250      20  9.70 s  300 ms   50 ms  0 us  12 KiB  40 MiB  [###################.]  97 %
       4    250      20  9.70 s  300 ms   50 ms  0 us  12 KiB  40 MiB  [###################.]  97 %
advice:
  - nothing: the workers were busy 97 % of the time
]])
end

-- What is not known is left out, of the table too.
function TestReport:test_few_counts()
  local workers = { { id = 1, items = 3, busy = 1.9 }, { id = 2, items = 4, busy = 1.8 } }
  lu.assertEquals(report.text { elapsed = 2, calls = 2, workers = workers }, [[
2 workers, 2 calls, 7 items in 0 chunks, 2.00 s
workers: busy 92 % of the time, 529 ms an item, busiest / average 1.03
  worker  items    busy
       1      3  1.90 s  [###################.]  95 %
       2      4  1.80 s  [##################..]  90 %
advice:
  - nothing: the workers were busy 92 % of the time
]])
end

function TestReport:test_nothing_was_done()
  local nothing = "too little has been done to say anything"
  lu.assertEquals(report.text {}, "0 workers, 0 calls, 0 items in 0 chunks, 0 us\nadvice:\n  - " .. nothing .. "\n")
  assert_advice({ items = 0, crashes = 3 }, nothing)
  assert_advice({ elapsed = 0.0005, each = { busy = 0.0001, encode = 0.0001 } }, nothing)
  lu.assertEquals(advice { elapsed = 5, items = 3, workers = {} }, { "nothing: all of it ran in this process" })
end

function TestReport:test_no_advice()
  assert_advice({}, FINE)
  assert_advice({ each = { busy = 6 } }, "nothing in particular, although the workers were idle 40 % of the time")
end

function TestReport:test_results_of_workers()
  assert_advice({ each = { encode = 4, wait = 1.92 } },
    "61 % of the workers' busy time went into results (16.00 s writing them, 7.68 s waiting until the host had read others): "
    .. "return less, or use into=")
  assert_advice({ each = { encode = 3 } }, "31 % of the workers' busy time went into results: return less, or use into=")
  assert_advice({ each = { encode = 2.3 } }, FINE)
  assert_advice({ each = { encode = 0, wait = 2.5 } }, "26 % of the workers' busy time went into results: return less, or use into=")
end

function TestReport:test_results_in_the_host()
  assert_advice({ host = { decode = 7 }, bytes_out = 3 << 30 },
    "the host spent 70 % of the time reading results (3.0 GiB): return less, or use into=")
  assert_advice({ host = { decode = 7 }, bytes_out = "none" }, "the host spent 70 % of the time reading results: return less, or use into=")
  assert_advice({ host = { decode = 4.9 } }, FINE)
end

function TestReport:test_the_source()
  local slow = "the workers were idle 60 % of the time, and the host spent 80 % of it getting and writing items"
  assert_advice({ host = { encode = 8 }, each = { busy = 4 } },
    slow .. ": the source is slower than the tasks; give a range or a table, or let the tasks do what the source does")
  assert_advice({ host = { encode = 8 }, each = { busy = 4 }, bytes_in = 1000 * 5 << 20 },
    slow .. " (5.0 MiB each): send names or positions instead and let the tasks read the rest, or use pool.array")
  assert_advice({ host = { encode = 8 } }, FINE) -- nobody waited for it
  assert_advice({ host = { encode = 4 }, each = { busy = 4 } }, "nothing in particular, although the workers were idle 60 % of the time")
end

function TestReport:test_small_items()
  assert_advice({ items = 100000000, chunks = 4000 },
    "an item took 386 ns on average, hardly more than it costs to hand it out: do more in each (a block of numbers instead of one)")
  assert_advice({ items = 1000000, chunks = 4000 }, FINE)
  assert_advice({ items = 9000, elapsed = 0.002, tail = 0, host = { decode = 0 }, each = { busy = 0.00196, encode = 0 } },
    "nothing: the workers were busy 98 % of the time")
end

function TestReport:test_small_chunks()
  assert_advice({ items = 4000000, chunks = 4000000 },
    'chunks held 1.0 items and took 9.65 us, about what claiming one costs: leave chunk at "auto", or make it larger')
  assert_advice({ items = 4000000, chunks = 400000 }, FINE)
  assert_advice({ items = 1000, chunks = 1000 }, FINE)
end

function TestReport:test_balance()
  assert_advice({ tail = 3, items = 6, each = { busy = 7 } },
    "for 3.00 s (30 % of the time) some workers had run out of work while others went on: 6 items a call are few for 4 workers; "
    .. "split the work finer")
  assert_advice({ tail = 3, items = 12, calls = 3, each = { busy = 7 } },
    "for 3.00 s (30 % of the time) some workers had run out of work while others went on: 4 items a call are few for 4 workers; "
    .. "split the work finer")
  assert_advice({ tail = 3, each = { busy = 7 } },
    "for 3.00 s (30 % of the time) some workers had run out of work while others went on: the longest items came last; put them first, "
    .. "or split them")
  assert_advice({ tail = 1.4 }, FINE)
  local stats = well { tail = "none", each = { busy = 2 } }
  stats.workers[3].busy = 9.9
  lu.assertEquals(advice(stats),
    { "worker 3 was busy for 9.90 s, the average is 3.98 s: the longest items came last; put them first, or split them" })
  stats.workers[3].busy = 2.5
  lu.assertEquals(advice(stats), { "nothing in particular, although the workers were idle 79 % of the time" })
  stats.workers = { stats.workers[3] } -- one alone is always in balance
  stats.tail, stats.elapsed = 5, 2.5
  lu.assertEquals(advice(stats), { "nothing: the workers were busy 100 % of the time" })
end

function TestReport:test_the_slowest_item()
  local slowest = { { seconds = 6, first = 77, count = 1, text = '"a"' }, { seconds = 1, first = 3, count = 1 } }
  assert_advice({ slowest = slowest, each = { busy = 4 } },
    'item 77 ("a") alone took 6.00 s, 60 % of the time: more workers cannot help it, splitting it can')
  slowest[1].text = nil
  assert_advice({ slowest = slowest, each = { busy = 4 } },
    "item 77 alone took 6.00 s, 60 % of the time: more workers cannot help it, splitting it can")
  assert_advice({ slowest = slowest }, FINE) -- all had as much to do
  slowest[1].count = 64
  assert_advice({ slowest = slowest, each = { busy = 4 } }, "nothing in particular, although the workers were idle 60 % of the time")
  assert_advice({ slowest = {}, each = { busy = 4 } }, "nothing in particular, although the workers were idle 60 % of the time")
end

function TestReport:test_processors()
  assert_advice({ cpus = 2 }, "4 workers share 2 processors: more workers than processors help only tasks that wait (for the network, "
    .. "for programs)")
  assert_advice({ cpus = 1 }, "4 workers share 1 processor: more workers than processors help only tasks that wait (for the network, "
    .. "for programs)")
  assert_advice({ cpus = 4 }, FINE)
  assert_advice({ cpus = "none" }, FINE)
end

function TestReport:test_memory()
  local stats = well { each = { peak = 3 << 30 } }
  stats.workers[2].peak = 5 << 30
  lu.assertEquals(advice(stats),
    { "the workers' memory adds up to 14 GiB at its peaks, 88 % of what there is (worker 2: 5.0 GiB): use fewer workers, or memory=" })
  assert_advice({ each = { peak = 3 << 30 } }, FINE)
  assert_advice({ each = { peak = 9 << 30 }, memory = "none" }, FINE)
end

function TestReport:test_short_calls()
  assert_advice({ calls = 50000, each = { busy = 4 } },
    "50000 calls of 200 us each kept the workers busy 40 % of the time: make fewer calls with more items")
  assert_advice({ calls = 50000 }, FINE)
  assert_advice({ calls = 1000, each = { busy = 4 } }, "nothing in particular, although the workers were idle 60 % of the time")
end

function TestReport:test_functions_that_cannot_be_sent()
  assert_advice({ calls = 20, renewed = 12 }, "the workers were replaced for 12 of 20 calls, because the function could not be sent to "
    .. "them (an upvalue that is userdata or a coroutine, or very large): open such things in on_start")
  assert_advice({ calls = 20, renewed = 9 }, FINE)
  assert_advice({ calls = 2, renewed = 2 }, FINE)
end

function TestReport:test_crashes_and_retries()
  local words = ' died and had to be replaced: the error of the item (errors = "collect") says by which signal, and its max_rss'
  assert_advice({ crashes = 1 }, "1 worker" .. words)
  assert_advice({ crashes = 3, retries = 50 }, "3 workers" .. words,
    "items were tried again 50 times (5 % of all items)")
  assert_advice({ retries = 9 }, FINE)
end

function TestReport:test_several_at_once()
  lu.assertEquals(#advice(well { cpus = 2, crashes = 1, each = { encode = 5 } }), 3)
end

-- Figures that nobody should have do not break it.
function TestReport:test_strange_figures()
  for _, stats in ipairs {
    { elapsed = 0, items = 5, workers = { { id = 1, busy = 0 } } }, { elapsed = 1, items = 5, workers = { {}, {} } },
    { elapsed = 1, items = 5, workers = { { busy = 100, encode = 300 } } },
    { elapsed = 1e9, items = 1 << 47, workers = { { busy = 1e9 } } },
    well { elapsed = 0 }, well { calls = 0 }, well { chunks = 0 }, well { host = { decode = 0 / 0 } },
  } do lu.assertStrMatches(report.text(stats), ".*advice:\n  %- .*\n") end
end
