-- The example jobs of scripts/ (wordcount, montecarlo, kmeans, accesslog, crawl, sweep), run whole on small input. What they print is
-- compared with what a plain serial computation here says; then bad arguments, Ctrl-C in the middle, and readers who leave early.
local disk = require "disk"
local lu = require "luaunit"
local post = require "post"
local proc = require "proc"

local LUAPOOL, BUILD = os.getenv "LUAPOOL", os.getenv "BUILD"

local is_sanitized = BUILD:find("asan", 1, true) or BUILD:find("tsan", 1, true)

-- ---- helpers -------------------------------------------------------------------------------------

local function command(name, arguments, workers, interpreter)
  local words = { interpreter or LUAPOOL }
  if workers then words[2], words[3] = "-j", tostring(workers) end
  words[#words + 1] = ("scripts/%s.lua"):format(name)
  return table.move(arguments or {}, 1, #(arguments or {}), #words + 1, words)
end

-- Run it to its end; everything is checked that tests/post.lua checks. Returns stdout, stderr.
local function run(name, arguments, options)
  options = options or {}
  local s <close> = post.start {
    args = command(name, arguments, options.workers, options.interpreter), stdin = options.stdin, env = options.env,
  }
  return s:finish { exit = options.exit or 0, stderr = options.stderr, within = 60 }
end

-- The same output from any number of workers, without workers, and under the stock interpreter.
local function assert_prints(expected, name, arguments, options)
  options = options or {}
  for _, workers in ipairs { 1, 2, 5 } do
    options.workers = workers
    lu.assertEquals(run(name, arguments, options), expected)
  end
  options.workers = nil
  options.env = { LUAPOOL_WORKERS = "0" }
  lu.assertEquals(run(name, arguments, options), expected)
  if is_sanitized then return end
  options.env, options.interpreter = { LUAPOOL_WORKERS = "3" }, "lua5.4"
  lu.assertEquals(run(name, arguments, options), expected)
end

-- A file that goes with its variable.
local function new_file(text)
  local path = disk.temporary(text or "")
  return setmetatable({ path = path }, { __close = function() os.remove(path) end })
end

local function lines_of(text)
  local lines = {}
  for line in text:gmatch "[^\n]*\n" do lines[#lines + 1] = line end
  return lines
end

-- Keys by falling count, equals by name: "%8d  key" for the first `top`.
local function ranking(counts, top, form)
  local list, lines = {}, {}
  for key, count in pairs(counts) do list[#list + 1] = { key = key, count = count } end
  table.sort(list, function(a, b) return a.count > b.count or a.count == b.count and a.key < b.key end)
  for i = 1, math.min(top, #list) do lines[i] = form:format(list[i].count, list[i].key) end
  return table.concat(lines), #list
end

-- ---- word count ----------------------------------------------------------------------------------

TestWordcount = {}

-- Words as they come, one letter after the other; no patterns.
local function count_words(text, counts)
  local word, total = "", 0
  for i = 1, #text + 1 do
    local c = text:sub(i, i):lower()
    local is_letter = c >= "a" and c <= "z"
    if c ~= "" and (is_letter or word ~= "" and (c == "_" or c >= "0" and c <= "9")) then
      word = word .. c
    elseif word ~= "" then
      counts[word], total, word = (counts[word] or 0) + 1, total + 1, ""
    end
  end
  return total
end

local function make_text(words)
  local parts, signs = {}, { " ", "\n", ", ", "; 12", "-", "(", "\255", " 7x", "\0" }
  for i = 1, words do parts[i] = ("W%x_%s"):format(math.random(0, 60), i % 3) .. signs[math.random(#signs)] end
  return table.concat(parts)
end

function TestWordcount:test_counts()
  math.randomseed(11)
  local files <close> = setmetatable({}, { __close = function(files) for _, path in ipairs(files) do os.remove(path) end end })
  local counts, words, bytes = {}, 0, 0
  for i = 1, 150 do -- more than one block of the reduction has two files
    local text = i == 7 and "" or make_text(math.random(0, 60))
    files[i] = os.tmpname()
    local file <close> = assert(io.open(files[i], "wb"))
    file:write(text)
    words, bytes = words + count_words(text, counts), bytes + #text
  end
  local list, different = ranking(counts, 25, "%8d  %s\n")
  local first = ("%d files, %d bytes, %d words, %d different\n"):format(#files, bytes, words, different)
  assert_prints(first .. list, "wordcount", { "-n", "25", table.unpack(files) })
end

function TestWordcount:test_files_that_cannot_be_read()
  local file <close> = new_file "one two two"
  local out, err = run("wordcount", { "-n", "1", "tests", file.path, "/nonexistent/file" }, { exit = 1, stderr = ".*" })
  lu.assertEquals(out, "1 files, 11 bytes, 3 words, 2 different\n       2  two\n")
  lu.assertEquals(err, "wordcount.lua: tests: Is a directory\nwordcount.lua: /nonexistent/file: No such file or directory\n")
end

function TestWordcount:test_this_repository_from_another_directory()
  local find <close> = assert(io.popen "find README.md runtime lua scripts tests -type f")
  local counts, files, words, bytes = {}, 0, 0, 0
  for name in find:lines() do
    local text = disk.read(name)
    files, words, bytes = files + 1, words + count_words(text, counts), bytes + #text
  end
  local s <close> = post.start { args = { LUAPOOL, proc.directory() .. "/scripts/wordcount.lua" }, cwd = "/" }
  local list, different = ranking(counts, 10, "%8d  %s\n")
  local first = ("%d files, %d bytes, %d words, %d different\n"):format(files, bytes, words, different)
  s:finish { exit = 0, stdout = first .. list, within = 60 }
end

-- ---- Monte Carlo ---------------------------------------------------------------------------------

TestMontecarlo = {}

local function throw(samples, seed)
  local lines, hits, thrown, block = {}, 0, 0, 0
  while thrown < samples do
    block = block + 1
    math.randomseed(seed, block)
    local n = math.min(100000, samples - thrown)
    for _ = 1, n do
      if math.random() ^ 2 + math.random() ^ 2 < 1 then hits = hits + 1 end
    end
    thrown = thrown + n
    if block & block - 1 == 0 or thrown == samples then
      local value, err = 4 * hits / thrown, 4 * math.sqrt(hits / thrown * (1 - hits / thrown) / thrown)
      lu.assertTrue(thrown < 1000 or math.abs(value - math.pi) < 6 * err)
      lines[#lines + 1] = ("%16d darts: pi = %.10f +- %.10f, off by %+.10f\n"):format(thrown, value, err, value - math.pi)
    end
  end
  return table.concat(lines)
end

function TestMontecarlo:test_same_digits_for_any_number_of_workers()
  assert_prints(throw(730001, 1), "montecarlo", { "730001" })
  lu.assertEquals(run("montecarlo", { "4e5", "-77" }), throw(400000, -77))
  lu.assertEquals(#lines_of(run("montecarlo", { "4e5", "-77" })), 3)
  lu.assertEquals(run("montecarlo", { "1" }), throw(1, 1))
end

-- The job would take days; its first lines are there at once, and it ends with its reader.
function TestMontecarlo:test_a_reader_who_leaves()
  local line = ("'%s' scripts/montecarlo.lua 1e15 3 | head -n 3"):format(LUAPOOL)
  post.run { args = { "sh", "-c", line }, expected = throw(400000, 3), within = 60 }
end

-- ---- k-means -------------------------------------------------------------------------------------

TestKmeans = {}

-- Lloyd's algorithm with the distances written down, point by point. Returns centres, sizes, group of each point, rounds, mean square.
local function lloyd(points, k)
  local centres, groups, rounds, is_stable = {}, {}, 0, false
  for c = 0, k - 1 do centres[c + 1] = points[1 + math.floor(c * #points / k)] end
  local total, sizes
  while not is_stable do
    is_stable, rounds, total, sizes = true, rounds + 1, 0, {}
    local sums = {}
    for c = 1, k do sums[c], sizes[c] = { 0, 0 }, 0 end
    for i, point in ipairs(points) do
      local distances = {}
      for c = 1, k do distances[c] = math.sqrt((point[1] - centres[c][1]) ^ 2 + (point[2] - centres[c][2]) ^ 2) end
      local least, group = math.min(table.unpack(distances)), 1
      while distances[group] ~= least do group = group + 1 end
      is_stable = is_stable and groups[i] == group
      groups[i], total, sizes[group] = group, total + least ^ 2, sizes[group] + 1
      sums[group] = { sums[group][1] + point[1], sums[group][2] + point[2] }
    end
    for c = 1, k do
      if sizes[c] > 0 then centres[c] = { sums[c][1] / sizes[c], sums[c][2] / sizes[c] } end
    end
  end
  return centres, sizes, groups, rounds, total / #points
end

local function make_points(n)
  local points, text = {}, {}
  for i = 1, n do
    local points_x, points_y = math.random() * 10 + i % 3 * 6, math.random(1, 2) * 7 + math.random() * 9
    points[i] = { points_x, points_y }
    text[i] = ("%.17g\t%.17g\n"):format(points_x, points_y)
  end
  return points, table.concat(text)
end

local function assert_near(text, number)
  lu.assertAlmostEquals(tonumber(text), number, 1e-7 * math.max(1, math.abs(number)))
end

local function check_clusters(n, k)
  local points, text = make_points(n)
  local input <close> = new_file(text)
  local output <close> = new_file()
  local arguments = { tostring(k), input.path, output.path }
  local out = run("kmeans", arguments, { workers = 3 })
  local centres, sizes, groups, rounds, spread = lloyd(points, k)
  local lines = lines_of(out)
  lu.assertEquals({ #lines, { lines[1]:match "^(%d+) points, (%d+) groups, (%d+) rounds," } },
    { k + 1, { tostring(n), tostring(k), tostring(rounds) } })
  assert_near(lines[1]:match "distance (%S+)", spread)
  for c = 1, k do
    local size, x, y = lines[c + 1]:match "^%s*(%d+) around (%S+) (%S+)\n$"
    lu.assertEquals(tonumber(size), sizes[c])
    assert_near(x, centres[c][1])
    assert_near(y, centres[c][2])
  end
  lu.assertEquals(disk.read(output.path), table.concat(groups, "\n") .. "\n")
  assert_prints(out, "kmeans", arguments)
  lu.assertEquals(disk.read(output.path), table.concat(groups, "\n") .. "\n")
end

function TestKmeans:test_groups()
  math.randomseed(5)
  check_clusters(7001, 6)
end

function TestKmeans:test_few_points()
  math.randomseed(6)
  check_clusters(40, 9)
  check_clusters(3, 3)
  check_clusters(1, 1)
end

function TestKmeans:test_a_group_that_nobody_is_near_to()
  local input <close> = new_file "1 1\n1 1\n1 1\n5 5\n"
  local out = run("kmeans", { "3", input.path })
  lu.assertEquals(out:match "\n(.*)$", "       1 around 5 5\n       3 around 1 1\n       0 around 1 1\n")
end

function TestKmeans:test_bad_points()
  local input <close> = new_file "1 2\n3 x\n"
  local _, err = run("kmeans", { "1", input.path }, { exit = 2, stderr = ".*" })
  lu.assertStrContains(err, input.path .. ":2: two numbers expected")
  _, err = run("kmeans", { "3", "/nonexistent/file" }, { exit = 2, stderr = ".*" })
  lu.assertStrContains(err, "/nonexistent/file: No such file or directory")
  local few <close> = new_file "1 2\n"
  _, err = run("kmeans", { "2", few.path }, { exit = 2, stderr = ".*" })
  lu.assertStrContains(err, "1 points cannot make 2 groups")
end

-- ---- log analysis --------------------------------------------------------------------------------

TestAccesslog = {}

-- Writes a log into `file`; returns what it says: requests, bytes sent, strange lines, status, client, path.
local function make_log(file, n, new_path)
  local said = { requests = 0, bytes = 0, strange = 0, status = {}, client = {}, path = {} }
  local function count(what, key) said[what][key] = (said[what][key] or 0) + 1 end
  for i = 1, n do
    if math.random(50) == 1 then
      said.strange = said.strange + 1
      assert(file:write(math.random(2) == 1 and "-- MARK --\n" or '10.0.0.1 - - [today] "GET /half\n'))
    else
      local client, path = ("10.0.%d.%d"):format(math.random(0, 1), math.random(0, 99)), new_path(i)
      local status, bytes = ("%d"):format(math.random(10) == 1 and 404 or 200), math.random(0, 5000)
      assert(file:write(('%s - - [22/Nov/2026:10:%02d:00 +0000] "%s %s%s HTTP/1.1" %s %s "-" "browser"\n'):format(client, i % 60,
        i % 2 == 0 and "GET" or "POST", path, i % 3 == 0 and "?q=" .. i or "", status, bytes == 0 and "-" or bytes)))
      said.requests, said.bytes = said.requests + 1, said.bytes + bytes
      count("status", status)
      count("client", client)
      count("path", path)
    end
  end
  return said
end

local function few_paths() return ("/page/%d"):format(math.random(1, 40) // math.random(1, 40)) end

local function report_of(said, top)
  local text = ("%d requests, %d bytes sent, %d strange lines\n"):format(said.requests, said.bytes, said.strange)
  for _, what in ipairs { "status", "client", "path" } do text = text .. what .. "\n" .. ranking(said[what], top, "%10d  %s\n") end
  return text
end

-- 12,000 lines are a few more blocks than workers read ahead; the lines on the border of two blocks are counted, once.
function TestAccesslog:test_report()
  math.randomseed(21)
  local log <close> = new_file()
  local file <close> = assert(io.open(log.path, "wb"))
  local said = make_log(file, 12000, few_paths)
  file:close()
  assert_prints(report_of(said, 7), "accesslog", { "-n", "7", log.path })
  lu.assertEquals(run("accesslog", {}, { stdin = disk.read(log.path) }), report_of(said, 10))
end

function TestAccesslog:test_several_files()
  math.randomseed(22)
  local log <close> = new_file()
  local nothing <close> = new_file()
  local file <close> = assert(io.open(log.path, "wb"))
  local said = make_log(file, 200, few_paths)
  file:close()
  for _, number in ipairs { "requests", "bytes", "strange" } do said[number] = said[number] * 2 end
  for _, what in ipairs { "status", "client", "path" } do
    for key, count in pairs(said[what]) do said[what][key] = count * 2 end
  end
  lu.assertEquals(run("accesslog", { log.path, nothing.path, log.path }), report_of(said, 10))
  lu.assertEquals(run("accesslog", { nothing.path }), "0 requests, 0 bytes sent, 0 strange lines\nstatus\nclient\npath\n")
end

-- With more paths than may be remembered: the frequent ones are there, and no count is too high, or lower than the report says.
function TestAccesslog:test_counts_in_bounded_memory()
  math.randomseed(23)
  local log <close> = new_file()
  local file <close> = assert(io.open(log.path, "wb"))
  local said = make_log(file, 12000, function(i) return math.random(3) == 1 and "/rare/" .. i or "/often/" .. math.random(3) end)
  file:close()
  local out = run("accesslog", { "-k", "200", "-n", "3", log.path })
  lu.assertEquals(out, run("accesslog", { "-k", "200", "-n", "3", log.path }, { workers = 5 }))
  local low, list = out:match "path %(counts may be too low by up to (%d+)%)\n(.*)$"
  lu.assertEquals(#lines_of(list), 3)
  for count, path in list:gmatch "(%d+)  (%S+)" do
    lu.assertStrContains(path, "/often/")
    local real = said.path[path]
    lu.assertTrue(tonumber(count) <= real and tonumber(count) + tonumber(low) >= real)
  end
end

-- Ten times the input, and (nearly) the same memory: all of it would be 15 MB more.
function TestAccesslog:test_memory_does_not_grow_with_the_input()
  if is_sanitized then lu.skip "sanitizers keep freed memory" end
  local writer = [[for i = 1, %d do
    print(('10.0.%%d.%%d - - [22/Nov/2026:10:00:00 +0000] "GET /a/%%d HTTP/1.1" 200 7 "-" "browser"'):format(i %% 4, i %% 100, i)) end]]
  local function peak(n)
    local line = ([["$0" -e "$1" | "$0" -j 2 -e '
        arg = { [0] = "scripts/accesslog.lua", "-k", "500" }
        dofile(arg[0])
        for line in io.lines "/proc/self/status" do if line:find "^VmHWM" then print(line) end end']])
    local s <close> = post.start { args = { "sh", "-c", line, LUAPOOL, writer:format(n) } }
    local out = s:finish { exit = 0, within = 60 }
    lu.assertStrContains(out, ("%d requests, %d bytes sent, 0 strange lines\n"):format(n, 7 * n))
    return tonumber(out:match "VmHWM:%s*(%d+) kB")
  end
  local small, large = peak(20000), peak(200000)
  lu.assertTrue(large < small + 6 * 1024, ("%d kB, %d kB"):format(small, large))
end

-- ---- crawling ------------------------------------------------------------------------------------

TestCrawl = {}

function TestCrawl:test_commands()
  local mark <close> = new_file()
  os.remove(mark.path)
  local list <close> = new_file(([[
# how to end well, and how not to
echo hello; echo again
   # an empty line:

exit 3
test -e %s && echo second || { touch %s; exit 1; }
awk 'BEGIN { for (i = 0; i < 200000; i++) print i }'
kill -9 $$
true
]]):format(mark.path, mark.path))
  local out = run("crawl", { "-r", "1", "-w", "3", list.path }, { exit = 1 })
  local lines = lines_of(out)
  local last = table.remove(lines)
  table.sort(lines)
  lu.assertEquals(table.concat(lines), ([[
     0  true
     7  test -e %s && echo second || { touch %s; exit 1; }: second
    12  echo hello; echo again: hello
1288890  awk 'BEGIN { for (i = 0; i < 200000; i++) print i }': 0
failed  exit 3: exit 3
failed  kill -9 $$: signal 9
]]):format(mark.path, mark.path))
  lu.assertEquals(last, "6 commands, 2 failed, 1288909 bytes\n")
end

function TestCrawl:test_without_retries()
  local mark <close> = new_file()
  os.remove(mark.path)
  local out = run("crawl", { "-r", "0" }, { stdin = ("test -e %s || { touch %s; exit 1; }"):format(mark.path, mark.path), exit = 1 })
  lu.assertStrContains(out, ": exit 1\n1 commands, 1 failed, 0 bytes\n")
  lu.assertEquals(run("crawl", {}, { stdin = "" }), "0 commands, 0 failed, 0 bytes\n")
  lu.assertEquals(run("crawl", {}, { stdin = "echo x", interpreter = not is_sanitized and "lua5.4" or nil }),
    "     2  echo x: x\n1 commands, 0 failed, 2 bytes\n")
end

-- Each is tried twice, and each time ended with all that it started (`finish` looks for what is left); who is quick does not wait for it.
function TestCrawl:test_timeouts()
  local slow = { "sleep 1000; echo late", "(sleep 1000 & sleep 1000); true", "trap '' INT TERM HUP; while :; do sleep 1; done" }
  local mark <close> = new_file()
  local list = ""
  for _, text in ipairs(slow) do list = list .. ("echo x >> %s; %s\n"):format(mark.path, text) end
  local out = run("crawl", { "-t", tostring(1.5 * proc.slowness), "-r", "1" }, { stdin = list .. "echo quick\n", exit = 1 })
  local lines = lines_of(out)
  lu.assertEquals({ lines[1], lines[5], #lines }, { "     6  echo quick: quick\n", "4 commands, 3 failed, 6 bytes\n", 5 })
  for i = 2, 4 do lu.assertStrMatches(lines[i], "failed  .*: timeout\n") end
  lu.assertEquals(disk.read(mark.path), ("x\n"):rep(6))
end

-- The reader leaves after the first line; with the job, what it has started goes.
function TestCrawl:test_a_reader_who_leaves()
  local list <close> = new_file("echo first\n" .. ("sleep 1000\n"):rep(3) .. ("sleep 0.2; echo more\n"):rep(300))
  local line = ("'%s' scripts/crawl.lua -t 1000 %s | head -n 1"):format(LUAPOOL, list.path)
  post.run { args = { "sh", "-c", line }, expected = "     6  echo first: first\n", within = 60 }
end

-- ---- parameter sweep -----------------------------------------------------------------------------

TestSweep = {}

-- The same two tanks, with the whole history in tables.
local function simulate(kp, ki, kd)
  local dt, valve, first, level, err = 0.002, {}, { [0] = 0.0 }, { [0] = 0.0 }, { [-1] = 1.0 }
  local sum, cost, peak, n = 0.0, 0.0, 0.0, 6000
  for t = 0, n - 1 do
    err[t] = 1.0 - level[t]
    local wanted = kp * err[t] + ki * sum + kd * (err[t] - err[t - 1]) / dt
    valve[t] = wanted < 0 and 0.0 or wanted > 5 and 5.0 or wanted
    if wanted >= 0 and wanted <= 5 then sum = sum + err[t] * dt end
    first[t + 1] = first[t] + ((valve[t - 75] or 0.0) - first[t]) / 0.7 * dt
    level[t + 1] = level[t] + (first[t + 1] - level[t]) / 1.9 * dt
    cost = cost + t * dt * math.abs(err[t]) * dt
    if level[t + 1] > peak then peak = level[t + 1] end
  end
  if math.abs(1.0 - level[n]) > 0.02 then cost = math.huge end
  return cost, math.max(0.0, peak - 1.0)
end

local function sweep(steps)
  local function value(low, high, step) return low * (high / low) ^ (step / (steps - 1)) end
  local all, restless = {}, 0
  for d = 0, steps - 1 do
    for i = 0, steps - 1 do
      for p = 0, steps - 1 do
        local kp, ki, kd = value(0.5, 50.0, p), value(0.05, 20.0, i), value(0.02, 5.0, d)
        local cost, overshoot = simulate(kp, ki, kd)
        all[#all + 1] = { cost = cost, text = ("cost %.6f  overshoot %4.1f %%  kp %8.4f  ki %8.4f  kd %8.4f\n"):format(
          cost, 100 * overshoot, kp, ki, kd) }
        if cost == math.huge then restless = restless + 1 end
      end
    end
  end
  table.sort(all, function(a, b) return a.cost < b.cost end)
  local text = ("%d combinations, %d of them restless; the best:\n"):format(#all, restless)
  for i = 1, math.min(10, #all - restless) do text = text .. all[i].text end
  return text
end

function TestSweep:test_results()
  assert_prints(sweep(4), "sweep", { "4" })
end

-- The numbers of the items in a log, in the order of its whole lines.
local function logged(path)
  local list, file <close> = {}, io.open(path, "rb")
  for line in (file and file:read "a" or ""):gmatch "[^\n]*\n" do list[#list + 1] = tonumber(line:match '^{"i":(%d+),') end
  return list
end

-- Run it with a log and stop it by a signal as soon as that has `count` more items. Was it stopped, or over before that?
local function run_and_stop(steps, log, count, signal)
  local s <close> = post.start { args = command("sweep", { steps, log }, 1) }
  local wanted, status = #logged(log) + count, nil
  local function is_time()
    status = s.child:wait(0)
    return status or #logged(log) >= wanted
  end
  lu.assertTrue(proc.wait_until(is_time, 60))
  if not status then s:send("host", signal) end
  status = s.child:wait(30)
  lu.assertTrue(status.exit == 0 or (signal == "KILL" and status.signal == "SIGKILL") or (signal == "INT" and status.exit == 1))
  s:finish { exit = status.exit, signal = status.signal }
  return status.exit ~= 0
end

-- Ended three times in the middle, twice without warning and once with half a line written, it comes to the result of a run that nobody
-- disturbed; no item is in the log twice.
function TestSweep:test_goes_on_after_the_end()
  local steps, count = "9", 729
  local undisturbed = run("sweep", { steps })
  local log <close>, stopped = new_file(), 0
  os.remove(log.path)
  for _, signal in ipairs { "KILL", "INT", "KILL" } do
    if run_and_stop(steps, log.path, 10, signal) then stopped = stopped + 1 end
  end
  lu.assertTrue(stopped > 0)
  if #logged(log.path) < count then
    local file <close> = assert(io.open(log.path, "ab"))
    assert(file:write '{"i":700,"s":0.0018,"w":1,"ok":tr')
  end
  lu.assertEquals(run("sweep", { steps, log.path }), undisturbed)
  local items = logged(log.path)
  table.sort(items)
  lu.assertEquals({ #items, items[1], items[count] }, { count, 1, count })
  for i = 2, count do lu.assertEquals(items[i], items[i - 1] + 1) end
  local text = disk.read(log.path)
  lu.assertEquals(run("sweep", { steps, log.path }), undisturbed)
  lu.assertEquals(disk.read(log.path), text)
end

function TestSweep:test_the_log_of_another_job()
  local log <close> = new_file()
  os.remove(log.path)
  local out = run("sweep", { "3", log.path })
  local _, err = run("sweep", { "2", log.path }, { exit = 1, stderr = ".*" })
  lu.assertStrContains(err, ("the log %s belongs to another job"):format(log.path))
  lu.assertEquals(run("sweep", { "3", log.path }), out)
end

-- The terminal shows how far it is; at the end that line is gone, and what is printed stands at the beginning of its line.
function TestSweep:test_progress()
  local s <close> = post.start { args = command("sweep", { "13" }, 2), pty = true, env = { TERM = "xterm" } }
  local out = s:finish { exit = 0, within = 60 }
  lu.assertStrMatches(out, "\rsweep +%d+%%.* %d+/2197 .*\r\27%[K2197 combinations, .*")
end

-- ---- arguments -----------------------------------------------------------------------------------

TestArguments = {}

local NAMES = { "wordcount", "montecarlo", "kmeans", "accesslog", "crawl", "sweep" }

local REFUSED = {
  wordcount = { { "-n" }, { "-n", "0" }, { "-n", "x", "README.md" }, { "-x" }, { "--" .. "words" } },
  montecarlo = { { "many" }, { "0" }, { "1.5" }, { "10", "x" }, { "10", "1", "2" } },
  kmeans = { { "x" }, { "0" }, { "70000" }, { "3", "/nonexistent" }, { "3", "a", "b", "c" } },
  accesslog = { { "-n" }, { "-n", "-1" }, { "-k", "0" }, { "-k", "1.5" }, { "--lines" }, { "README.md", "/nonexistent" } },
  crawl = { { "-t" }, { "-t", "0" }, { "-t", "nan" }, { "-w", "0" }, { "-w", "2.5" }, { "-r", "-1" }, { "-z", "1" }, { "/nonexistent" },
    { "README.md", "LICENSE" } },
  sweep = { { "x" }, { "1" }, { "2.5" }, { "5000" }, { "2", "log", "more" } },
}

function TestArguments:test_refused()
  for _, name in ipairs(NAMES) do
    for _, arguments in ipairs(REFUSED[name]) do
      local out, err = run(name, arguments, { exit = 2, stderr = ".*" })
      lu.assertEquals(out, "")
      lu.assertStrMatches(err, ("%s.lua: [^\n]+\nusage: luapool %s.lua [^\n]+\n"):format(name, name))
    end
  end
end

function TestArguments:test_help()
  for _, name in ipairs(NAMES) do
    lu.assertStrMatches(run(name, { "--help" }), ("usage: luapool %s.lua [^\n]+\n"):format(name))
  end
end

-- ---- Ctrl-C --------------------------------------------------------------------------------------

TestInterrupted = {}

local WORKERS = 3

-- Jobs that would take very long, and a pattern for the lines that they may have printed by then.
local LONG = {
  wordcount = { files = 20000 },
  montecarlo = { arguments = { "1e15" }, line = " +%d+ darts: pi = .*\n" },
  kmeans = { arguments = { "5000" } },
  accesslog = { files = 20000 },
  crawl = { arguments = { "-w", tostring(WORKERS), "-t", "1000" }, list = ("sleep 1000; true\n"):rep(20) },
  sweep = { arguments = { "1000" } },
}

local function check_lines(out, pattern)
  for _, line in ipairs(lines_of(out)) do lu.assertStrMatches(line, pattern or "nothing") end
end

-- Interrupt a job once its workers run (and a random moment later): it ends with status 1, at once, and without noise.
local function interrupt(name, how, pty)
  local job = LONG[name]
  local list <close> = new_file(job.list)
  local arguments = table.move(job.arguments or {}, 1, #(job.arguments or {}), 1, {})
  for _ = 1, job.files or 0 do arguments[#arguments + 1] = "README.md" end
  if job.list then arguments[#arguments + 1] = list.path end
  local s <close> = post.start { args = command(name, arguments, WORKERS), pty = pty }
  lu.assertTrue(proc.wait_until(function() return #s:workers() == WORKERS end, 20), name .. " starts no workers")
  proc.sleep(math.random() * 0.1)
  s:send(how)
  s:finish { exit = 1, stdout = function(out) check_lines(out:gsub("\r\n", "\n"), job.line) end }
end

for _, name in ipairs(NAMES) do
  TestInterrupted["test_" .. name] = function()
    interrupt(name, "group")
    interrupt(name, "host")
  end

  TestInterrupted["test_" .. name .. "_on_a_terminal"] = function() interrupt(name, "tty", true) end
end

-- While it waits for input that does not come any more. (What does not fit into the pipe can only be written if it reads.)
local function interrupt_reader(name, line)
  local s <close> = post.start { args = command(name), stdin = "pipe" }
  lu.assertTrue(s.child:write(line:rep(300000 // #line), 30))
  proc.sleep(math.random() * 0.1)
  s:send "group"
  s:finish { exit = 1, stdout = "" }
end

function TestInterrupted:test_accesslog_waiting_for_input() interrupt_reader("accesslog", 'a - - [b] "GET /c HTTP/1.1" 200 1\n') end

function TestInterrupted:test_crawl_waiting_for_input() interrupt_reader("crawl", "# nothing to do\n") end
