-- tests/bench/run.lua [NAME ...] -- measure what is promised about speed, and print a table (make bench).
-- Figures are ratios of medians of runs that alternate (A B A B) in one process and one minute, so that a busy or slow
-- machine blurs them instead of shifting them. A missed promise is marked, and is no failure of the build; a benchmark that cannot be run
-- is one, after the others.
-- Environment: BUILD; ROUNDS (5); PYTHON (python3; empty: leave it out).
local build = os.getenv("BUILD") or "build"
package.cpath = build .. "/tests/?.so;" .. package.cpath
package.path = "tests/bench/?.lua;" .. package.path
local proc = require "proc"
local tasks = require "tasks"
local pool = pool or require "luapool"

local ROUNDS = tonumber(os.getenv("ROUNDS") or 5)
local LUAPOOL = build .. "/luapool"
local environment = { LUA_CPATH = build .. "/tests/?.so;;", LUA_PATH = "tests/bench/?.lua;;" }

local function median(values)
  table.sort(values)
  local middle = #values // 2
  return #values % 2 == 1 and values[middle + 1] or (values[middle] + values[middle + 1]) / 2
end

local function timed(fn)
  collectgarbage()
  collectgarbage()
  local started = proc.now()
  local result = fn()
  return proc.now() - started, result
end

-- Run the functions in turn, ROUNDS times after a first round that does not count. Returns the median of what each returned.
local function alternate(rounds, ...)
  local functions, values = { ... }, {}
  for i = 1, #functions do values[i] = {} end
  for round = 0, rounds do
    for i, fn in ipairs(functions) do
      local value = fn()
      if round > 0 then values[i][round] = value end
    end
  end
  local medians = {}
  for i = 1, #functions do medians[i] = median(values[i]) end
  return table.unpack(medians)
end

local function output_of(arguments, seconds)
  local p <close> = proc.spawn { args = arguments, env = environment, deadline = seconds or 120 }
  local status, out, err = p:finish(seconds or 120)
  assert(status.exit == 0, err)
  return out
end

-- Two interpreters that know nothing of each other, each with half of the items: the time of the slower one.
local function two_processes(name)
  local halves = {}
  for i = 1, 2 do
    halves[i] = proc.spawn { args = { LUAPOOL, "tests/bench/half.lua", name, tostring(i), "2" }, env = environment }
  end
  local slowest = 0
  for i = 1, 2 do
    local _, out = halves[i]:finish(120)
    slowest = math.max(slowest, tonumber(out))
  end
  return slowest
end

local PYTHON = os.getenv("PYTHON") or "python3"
local has_python = PYTHON ~= "" and os.execute(PYTHON .. " -c 'import multiprocessing' >/dev/null 2>&1")

-- Median seconds of Python's serial loop and of its pool; nothing if it is not here.
local function python(name)
  if not has_python then return end
  local out = output_of({ PYTHON, "tests/bench/peer.py", name, tostring(math.max(1, ROUNDS // 2)) }, 300)
  local serial, parallel = out:match("(%S+)%s+(%S+)")
  return tonumber(serial), tonumber(parallel)
end

-- ---- the table -------------------------------------------------------------------------------

local rows, missed = {}, 0

local function milliseconds(seconds)
  return seconds and ("%.1f ms"):format(seconds * 1e3) or ""
end

-- add{ what, value, format = "%.1f us", most = or least = the promise, goal = what it shall be one day;
--   serial, pool, ideal, python = text }
local function add(row)
  local sign = row.most and 1 or -1
  local promise = row.most or row.least
  local word = row.most and "at most " or "at least "
  row.figure = row.format:format(row.value)
  row.promise = word .. row.format:format(promise) .. (row.goal and (" (goal %s)"):format(row.format:format(row.goal)) or "")
  row.is_kept = row.value * sign <= promise * sign
  row.verdict = not row.is_kept and "**MISSED**" or row.goal and row.value * sign > row.goal * sign and "yes, not the goal" or "yes"
  if not row.is_kept then missed = missed + 1 end
  rows[#rows + 1] = row
  io.stderr:write(("%-54s %-11s %-33s %s\n"):format(row[1], row.figure, row.promise, row.verdict))
end

local function load_average()
  local file = io.open("/proc/loadavg")
  local load = file and file:read("n") or 0
  if file then file:close() end
  return load
end
local load_before = load_average()

local function print_table()
  print(("\nMeasured %s, %d usable cores, %s, medians of %d runs, load before: %.2f%s.\n"):format(os.date("%Y-%m-%d"), pool.cpus(),
    _VERSION, ROUNDS, load_before, load_before > 0.5 and " (too busy to believe the parallel figures)" or ""))
  print("| what | reached | promised | | serial loop | luapool | two processes | Python serial, Pool(2) |")
  print("|---|---|---|---|---|---|---|---|")
  for _, row in ipairs(rows) do
    print(("| %s | %s | %s | %s | %s | %s | %s | %s |"):format(row[1], row.figure, row.promise, row.verdict,
      row.serial or "", row.pool or "", row.ideal or "", row.python or ""))
  end
  print(("\n%d of %d promises kept."):format(#rows - missed, #rows))
end

local function python_text(name)
  local serial, parallel = python(name)
  return serial and ("%s, %s"):format(milliseconds(serial), milliseconds(parallel)) or ""
end

-- ---- what is measured -------------------------------------------------------------------------

local benchmarks, order = {}, {}

local function benchmark(name, fn)
  benchmarks[name] = fn
  order[#order + 1] = name
end

-- The serial loop, pool.map with everything it takes (fork, transport, table of results), and two processes.
local function compare(name, workers)
  local workload = tasks.get(name)
  return alternate(ROUNDS,
    function() return (timed(function() return tasks.run_serially(workload, 1, 1) end)) end,
    function()
      return (timed(function() return pool.map(workload.fn, workload.items, { workers = workers or 2 }) end))
    end,
    function() return two_processes(name) end)
end

local function add_comparison(row, name, serial, parallel, ideal)
  row.serial, row.pool, row.ideal = milliseconds(serial), milliseconds(parallel), milliseconds(ideal)
  row.python = python_text(name)
  add(row)
end

benchmark("interpreter", function() -- first: starting a process costs more from a large one
  local function start(program) return (timed(function() return output_of { program, "-e", "" } end)) end
  local ours, stock = alternate(ROUNDS * 8, function() return start(LUAPOOL) end, function() return start "lua5.4" end)
  add { "start of the command, time of lua5.4", value = ours / stock, format = "%.2f", most = 1.3,
    pool = milliseconds(ours), serial = milliseconds(stock) }
  local function serially(program, name) return tonumber(output_of { program, "tests/bench/half.lua", name, "1", "1" }) end
  for _, name in ipairs { "mandelbrot", "records" } do
    ours, stock = alternate(ROUNDS, function() return serially(LUAPOOL, name) end, function() return serially("lua5.4", name) end)
    add { ("a serial script (%s), time under lua5.4"):format(name), value = ours / stock, format = "%.2f", most = 1.0,
      pool = milliseconds(ours), serial = milliseconds(stock) }
  end
end)

-- Before the others: what they leave in this process's memory would be copied by each fork.
local function create_use_close(workers)
  local function one()
    local p <close> = pool.new(workers)
    assert(#p:map(function(x) return x end, workers) == workers)
    p:close()
  end
  return alternate(ROUNDS * 4, function() return (timed(one)) end)
end

benchmark("create", function()
  local two, many = create_use_close(2), create_use_close(64)
  local _, peer = python "create"
  add { "a pool of 2, created, used, gone", value = two * 1e3, format = "%.1f ms", most = 2, goal = 1.5, python = milliseconds(peer) }
  add { "a pool of 64, created, used, gone", value = many * 1e3, format = "%.1f ms", most = 20 }
end)

-- Processor time of serial programs: the allocator under the command's Lua state. Each on its own; the sum is what is promised.
benchmark("serial", function()
  local ours, theirs, texts = 0, 0, {}
  local function seconds(program, name)
    return function()
      local p <close> = proc.spawn { args = { program, "tests/bench/programs.lua", name }, env = environment, deadline = 120 }
      local status, _, err = p:finish(120)
      assert(status.exit == 0, err)
      return status.utime + status.stime
    end
  end
  for _, name in ipairs(require("programs").NAMES) do
    local mine, its = alternate(ROUNDS, seconds(LUAPOOL, name), seconds("lua5.4", name))
    ours, theirs = ours + mine, theirs + its
    texts[#texts + 1] = ("%s %.2f"):format(name, mine / its)
  end
  add { "serial programs, time of `lua5.4`: " .. table.concat(texts, ", "), value = ours / theirs, format = "%.2f", most = 1.0,
    serial = milliseconds(theirs), pool = milliseconds(ours) }
end)

benchmark("squares", function()
  local serial, parallel, ideal = compare "squares"
  add_comparison({ "pool.map(x * x, 1..1e6), time of the serial loop", value = parallel / serial, format = "%.2f", most = 0.70,
    goal = 0.65 }, "squares", serial, parallel, ideal)
end)

local COMPUTING = { { "mandelbrot", "Mandelbrot rows" }, { "sorted", "primes, costs sorted" }, { "heavy", "primes, costs heavy-tailed" } }
for _, pair in ipairs(COMPUTING) do
  local name, title = table.unpack(pair)
  benchmark(name, function()
    local serial, parallel, ideal = compare(name)
    add_comparison({ title .. ", speed of the serial loop", value = serial / parallel, format = "%.2f", least = 1.90, goal = 1.95 },
      name, serial, parallel, ideal)
    add { title .. ", speed of two processes", value = ideal / parallel, format = "%.2f", least = 0.97 }
  end)
end

benchmark("many_workers", function()
  local workload = tasks.get "mandelbrot"
  local function with(workers)
    return function() return (timed(function() return pool.map(workload.fn, workload.items, { workers = workers }) end)) end
  end
  local two, sixteen = alternate(ROUNDS, with(2), with(16))
  add { "16 workers, time of 2 workers", value = sixteen / two, format = "%.2f", most = 1.15, pool = milliseconds(sixteen) }
end)

benchmark("records", function()
  local serial, parallel, ideal = compare "records"
  add_comparison({ "100,000 records as results, time of the serial loop", value = parallel / serial, format = "%.2f", most = 1.0 },
    "records", serial, parallel, ideal)
end)

benchmark("payload", function()
  local workload = tasks.get "payload"
  local p <close> = pool.new(2)
  p:apply(workload.fn, "start") -- the workers are running: the texts must travel
  local seconds = alternate(ROUNDS, function() return (timed(function() return p:map(workload.fn, workload.items) end)) end)
  add { "256 tasks, 1 MiB in and 1 MiB out", value = 2 * #workload.items * #workload.items[1] / seconds / 1e9, format = "%.2f GB/s",
    least = 1.5, pool = milliseconds(seconds), python = python_text "payload" }
end)

benchmark("apply", function()
  local p <close> = pool.new(2)
  local function fn(x) return x * x end
  local seconds = {}
  for i = 1, 21000 do
    local started = proc.now()
    p:apply(fn, i)
    if i > 1000 then seconds[#seconds + 1] = proc.now() - started end
  end
  local _, peer = python "apply"
  add { "p:apply, one round trip", value = median(seconds) * 1e6, format = "%.1f us", most = 12, goal = 5,
    python = peer and ("%.1f us"):format(peer * 1e6) }
end)

-- Nanoseconds of CPU that a process has used.
local function cpu_ns(pid)
  local file = assert(io.open(("/proc/%d/schedstat"):format(pid)))
  local used = file:read("n")
  file:close()
  return used
end

benchmark("idle", function()
  local p <close> = pool.new(2)
  p:map(function(x) return x end, 100)
  proc.sleep(0.1)
  local workers, before, after = proc.children(proc.pid()), 0, 0
  assert(#workers >= 2)
  for _, worker in ipairs(workers) do before = before + cpu_ns(worker.pid) end
  proc.sleep(1)
  for _, worker in ipairs(workers) do after = after + cpu_ns(worker.pid) end
  add { "an idle pool of 2, CPU in one second", value = (after - before) / 1e6, format = "%.3f ms", most = 0 }
end)

benchmark("memory", function()
  local function kib(how) return tonumber(output_of { LUAPOOL, "tests/bench/memory.lua", how }) end
  local serial, parallel = alternate(3, function() return kib "serial" end, function() return kib "pool" end)
  add { "1e6 numbers arrive: memory beyond the table", value = (parallel - serial) / 1024, format = "%.1f MiB", most = 32 }
end)

benchmark("imap", function()
  local count = 5000000
  local seconds = alternate(math.max(1, ROUNDS // 2), function()
    return (timed(function()
      local sum = 0
      for _, v in pool.imap(function(x) return x * x end, count, { workers = 2 }) do sum = sum + v end
      return sum
    end))
  end)
  add { "imap over 5,000,000 items, per item", value = seconds / count * 1e9, format = "%.0f ns", most = 70 }
  local function square(x) return x * x end
  local mapped, streamed = alternate(ROUNDS, function()
    return (timed(function()
      local sum = 0
      for _, v in ipairs(pool.map(square, 1000000, { workers = 2 })) do sum = sum + v end
      return sum
    end))
  end, function()
    return (timed(function()
      local sum = 0
      for _, v in pool.imap(square, 1000000, { workers = 2 }) do sum = sum + v end
      return sum
    end))
  end)
  add { "the sum of 1e6 results of imap, time of the sum of map's", value = streamed / mapped, format = "%.2f", most = 2.0,
    pool = milliseconds(streamed) }
end)

benchmark("futures", function()
  local p <close> = pool.new(2)
  local function fn(x) return x * x end
  p:apply(fn, 1)
  local count = 20000
  local seconds = alternate(math.max(1, ROUNDS // 2), function()
    return (timed(function()
      for i = 1, count do p:submit(fn, i):get() end
    end))
  end)
  add { "20,000 times submit and get, each", value = seconds / count * 1e6, format = "%.1f us", most = 12 }
  local flight = 100000
  collectgarbage()
  local before, futures = collectgarbage "count", {}
  seconds = timed(function()
    for i = 1, flight do futures[i] = p:submit(fn, i) end
    for i = 1, flight do assert(futures[i]:get() == i * i) end
  end)
  add { "100,000 futures in flight, each", value = seconds / flight * 1e6, format = "%.1f us", most = 25 }
  collectgarbage()
  add { "their memory, each", value = (collectgarbage "count" - before) * 1024 / flight, format = "%.0f B", most = 2000 }
end)

-- Many small maps on one pool, as iterative algorithms have them: 1000 of about 1 ms of work each.
benchmark("small_maps", function()
  local p <close> = pool.new(2)
  local function work(x)
    local sum = 0
    for i = 1, 2000 do sum = sum + i % (x + 1) end
    return sum
  end
  local items = 64
  local serial, parallel = alternate(math.max(1, ROUNDS // 2), function()
    return (timed(function()
      for _ = 1, 1000 do
        local results = {}
        for i = 1, items do results[i] = work(i) end
        assert(#results == items)
      end
    end))
  end, function()
    return (timed(function()
      for _ = 1, 1000 do p:map(work, items) end
    end))
  end)
  add { ("1000 maps of %.2f ms of work, speed of serial loops"):format(serial), value = serial / parallel, format = "%.2f", least = 1.7,
    serial = milliseconds(serial), pool = milliseconds(parallel) }
end)

benchmark("into", function()
  local array, count = pool.array("f64", 1000000), 1000000
  local p <close> = pool.new(2)
  local function half(x) return x / 2 end
  p:map(half, 10)
  local serial, parallel = alternate(ROUNDS, function()
    return (timed(function()
      local results = {}
      for i = 1, count do results[i] = half(i) end
      return results
    end))
  end, function()
    return (timed(function() return p:map(half, count, { into = array }) end))
  end)
  add { "into an array of 1e6 doubles, time of the serial loop", value = parallel / serial, format = "%.2f", most = 0.6,
    serial = milliseconds(serial), pool = milliseconds(parallel) }
end)

-- Lines through a function and out again, in order. Those who start a process for each line get fewer of them: it is the time of a line
-- that is compared.
benchmark("lines", function()
  local count, few = 1000000, 1000
  local many_name, few_name = os.tmpname(), os.tmpname()
  assert(os.execute(("seq %d > %s && seq %d > %s"):format(count, many_name, few, few_name)))
  local function through(command, n)
    return function()
      local input = n == count and many_name or few_name
      return (timed(function()
        local text = output_of({ "sh", "-c", ("%s < %s | tail -n 1"):format(command, input) }, 600)
        assert(tonumber(text) == n, text)
      end)) / n
    end
  end
  local ours = through(LUAPOOL .. " -j2 map _", count)
  local function beside(name, command, n, rounds)
    local mine, theirs = alternate(rounds, ours, through(command, n))
    add { ("a line through map '_', speed of %s (%.2g us)"):format(name, theirs * 1e6), value = theirs / mine, format = "%.1f", least = 20,
      pool = ("%.2g us"):format(mine * 1e6) }
  end
  if has_python then
    beside("Python's Pool.map", PYTHON .. " tests/bench/lines.py 0", count, ROUNDS)
    beside("Python's Pool.imap", PYTHON .. " tests/bench/lines.py 1", count, 1)
  end
  beside("xargs", "xargs -n 1 -P 2 echo", few, ROUNDS)
  if os.execute("parallel --version 2>/dev/null | grep -q GNU") then
    beside("GNU parallel", "parallel --will-cite -k -j 2 echo", few, 1)
  end
  os.remove(many_name)
  os.remove(few_name)
end)

-- What a program that embeds the library pays (tests/hosts/figures). Starts are minima: what else the machine does is not the library's.
-- FRAMES (1200) frames are run in each of seven ways, in turn.
benchmark("embed", function()
  local function figures(...)
    environment.LUAPOOL_HELPER = LUAPOOL
    local found = {}
    for name, value in output_of({ build .. "/tests/hosts/figures", ... }, 300):gmatch("(%S+) (%S+)\n") do found[name] = tonumber(value) end
    return found
  end
  local frames = os.getenv "FRAMES" or "1200"
  local small, large = figures("0", tostring(ROUNDS * 10), frames), figures("1000", tostring(ROUNDS * 10))
  add { "server: from nothing to the first result", value = small.server_first_least / 1e3, format = "%.2f ms", most = 3 }
  add { "server: the same in a host with 1 GB", value = large.server_first_least / 1e3, format = "%.2f ms", most = 3 }
  add { "server: each further worker", value = small.server_further_least / 1e3, format = "%.2f ms", most = 0.4 }
  add { "server: the same in a host with 1 GB", value = large.server_further_least / 1e3, format = "%.2f ms", most = 0.4 }
  add { "early start: each further worker, 1 GB later", value = large.fork_further_least / 1e3, format = "%.2f ms", most = 0.4 }
  add { "luapool_poll, jobs open", value = small.poll, format = "%.2f us", most = 1 }
  -- From when a frame was due until it was done; and how long it waited for a processor, on the average, which says more on a machine
  -- that has other work, too. `free`: one worker less than there are processors; `bursts`: four short tasks in each frame.
  local function frames_of(name, what)
    local waited, unloaded = small[name .. "_waited"] / 1e3, small.unloaded_waited / 1e3
    add { ("60 frames a second, %s: p99.9 beyond the unloaded one (%d jobs; a frame waits %.3f ms for a processor, unloaded %.3f)"):format(
      what, small[name .. "_jobs"], waited, unloaded),
      value = (small[name .. "_p999"] - small.unloaded_p999) / 1e3, format = "%.2f ms", most = 1,
      serial = milliseconds(small.unloaded_p999 / 1e6), pool = milliseconds(small[name .. "_p999"] / 1e6) }
  end
  frames_of("loaded", "2 workers saturated")
  frames_of("loaded_idle", '2 idle workers (nice = "idle") saturated')
  frames_of("free", "all processors but one")
  frames_of("free_idle", "all processors but one, idle workers")
  frames_of("bursts", "tasks that end within it")
  frames_of("bursts_idle", "tasks that end within it, idle workers")
end)

-- Many machines, as three hosts in network namespaces that share this one's processors (tests/rig/hosts).
local HOSTS = { "tests/rig/hosts" }
local function on_hosts(...)
  local words = table.move({ ... }, 1, select("#", ...), #HOSTS + 1, { table.unpack(HOSTS) })
  local env = { OMPI_ALLOW_RUN_AS_ROOT = "1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM = "1", LUAPOOL_LOST_AFTER = "3" }
  for name, value in pairs(environment) do env[name] = value end
  local p <close> = proc.spawn { args = words, env = env, deadline = 300 }
  local status, out, err = p:finish(300)
  assert(status.exit == 0, err)
  return out
end

local function many(figure)
  return tonumber(on_hosts(LUAPOOL, "--mpi", "-H", "h1,h2,h3", "-j", "2", "tests/bench/many.lua", figure))
end

-- The best of some jobs: each is a figure of its own already.
local function best_of_many(rounds, figure)
  local best = many(figure)
  for _ = 2, rounds do best = math.max(best, many(figure)) end
  return best
end

local function mpi4py()
  if not has_python or not os.execute("/usr/bin/python3 -c 'import mpi4py' 2>/dev/null") then return end
  local ok, out = pcall(on_hosts, "mpirun", "-q", "--bind-to", "none", "-H", "h1:3,h2:2,h3:2", "-np", "7", "/usr/bin/python3", "-m",
    "mpi4py.futures", "tests/bench/many.py")
  if not ok then return end
  local single, all = out:match("(%S+)%s+(%S+)")
  return tonumber(single), tonumber(all)
end

local function start_of_jobs()
  local function job(...)
    local words = table.pack(...)
    return function() return (timed(function() on_hosts(table.unpack(words, 1, words.n)) end)) end
  end
  local least = { math.huge, math.huge }
  alternate(ROUNDS, function()
    for i, run in ipairs { job("mpirun", "-q", "--bind-to", "none", "-H", "h1,h2,h3", "--map-by", "ppr:1:node", "true"),
      job(LUAPOOL, "--mpi", "-H", "h1,h2,h3", "-e", "") } do
      least[i] = math.min(least[i], run())
    end
    return 0
  end)
  return least[1], least[2]
end

benchmark("mpi", function()
  if not (os.execute("command -v mpirun >/dev/null") and os.execute("test -e " .. build .. "/luapool-mpi.so")
    and os.execute("tests/rig/hosts true 2>/dev/null")) then
    io.stderr:write("mpi: no mpirun, no luapool-mpi.so (make MPI=1), or no namespaces here: not measured\n")
    return
  end
  local python_single, python_all = mpi4py()
  local function beside(rate) return rate and ("mpi4py %.2g M/s"):format(rate / 1e6) end
  add { "three hosts: empty tasks, chunk 1", value = best_of_many(3, "single") / 1e3, format = "%.0f k/s", least = 25,
    python = beside(python_single) }
  add { "three hosts: empty tasks, chunks as they come", value = best_of_many(3, "auto") / 1e6, format = "%.1f M/s", least = 8,
    python = beside(python_all) }
  add { "three hosts: tasks of 20 ms, part of the ideal", value = best_of_many(3, "short"), format = "%.2f", least = 0.85 }
  add { "the same, a node lost on the way", value = best_of_many(3, "lost"), format = "%.2f", least = 0.85 }
  add { "three hosts: processor used while waiting, per node", value = many("waiting") * 100, format = "%.2f %%", most = 3 }
  add { "three hosts: the same, nothing in flight", value = many("idle") * 100, format = "%.2f %%", most = 0.5 }
  local alone, job = start_of_jobs()
  add { "three hosts: start and end of a job, beyond 'mpirun true'", value = job - alone, format = "%.2f s", most = 0.3,
    serial = milliseconds(alone), pool = milliseconds(job) }
end)

local names = #arg > 0 and arg or order
for _, name in ipairs(names) do
  if not benchmarks[name] then error("no benchmark is called " .. name .. "; there are: " .. table.concat(order, " "), 0) end
end

-- One that fails takes none of the others with it.
local failed = {}
for _, name in ipairs(names) do
  local ok, e = xpcall(benchmarks[name], function(e) return type(e) == "string" and debug.traceback(e, 2) or e end)
  if not ok and pool.is_interrupt(e) then error(e, 0) end
  if not ok then
    io.stderr:write(("%s: %s\n"):format(name, e))
    failed[#failed + 1] = name
  end
end
print_table()
if #failed > 0 then
  io.stderr:write(("%d of %d benchmarks failed: %s\n"):format(#failed, #names, table.concat(failed, " ")))
  os.exit(1, true)
end
