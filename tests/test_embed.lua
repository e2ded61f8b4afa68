-- Programs that have luapool inside (tests/hosts): luapool.h in C and C++, and what these programs may be: threaded, sandboxed, with
-- reapers and allocators of their own. Nothing may be left of any of them.
local lu = require "luaunit"
local proc = require "proc"
local ways = require "ways"
local pool = require "luapool"

local BUILD = os.getenv "BUILD"

local function host(program, words, env)
  env = env or {}
  if env.LUAPOOL_HELPER == nil then env.LUAPOOL_HELPER = BUILD .. "/luapool" end
  local p <close> = proc.spawn { args = { BUILD .. "/tests/hosts/" .. program, table.unpack(words) }, env = env }
  local status, out, err = p:finish(60)
  lu.assertTrue(proc.wait_until(function() return #proc.leftovers(p.mark) == 0 end, 20), "processes are left")
  return out, err, status.exit or status.signal
end

local function expect(expected, program, words, env)
  local out, err, exit = host(program, words, env)
  lu.assertEquals({ out, err, exit }, { expected, "", 0 })
end

-- Each test of a group, for each start method.
local function for_all(group, name, test)
  for _, start in ipairs { "fork", "server", "spawn" } do
    group[("test_%s_%s"):format(name, start)] = function() test(start) end
  end
end

-- ---- luapool.h ----

TestApi = {}

for_all(TestApi, "run", function(start)
  expect("0.1.0 1 0\n338350\n1 task 2 2\n0 3\n1 a pool has no method 'nonsense'\n55\n0\n", "engine", { "run", start })
end)

function TestApi.test_options()
  expect([[
1 1
bad option 'start' to 'new' ("fork" or "server" or "spawn" or "auto" expected, got "thread")
0 1
6
]], "engine", { "options", "auto" })
end

for_all(TestApi, "jobs_in_a_loop", function(start)
  local out, err, exit = host("engine", { "jobs", start })
  lu.assertEquals({ err, exit }, { "", 0 })
  local pattern = "^1 0\n0 0\n7 yes\n1\n%[string \"error 'failed'\"%]:1: failed\n.*\n2000 1000\n0 1\ncancelled 0\n0\n$"
  lu.assertStrMatches(out, pattern)
end)

for_all(TestApi, "a_state_that_is_closed_first", function(start) expect("1\n", "engine", { "close", start }) end)

-- Niceness and policy of workers with 0, 3, LUAPOOL_IDLE; what is wrong with -1 and 21. (5 is SCHED_IDLE: left out where binding is.)
for_all(TestApi, "nice", function(start)
  lu.skipIf(not io.open("/proc/self/stat"), "no /proc")
  local out, err, exit = host("engine", { "nice", start })
  local refused = "bad option 'nice' to 'new' %(integer from 0 to 19 or \"idle\" expected, got "
  local own, nicer, idle = out:match("^(%d+) 0\n(%d+) 0\n(%d+ %d+)\n" .. refused .. "%-1%)\n" .. refused .. "21%)\n$")
  lu.assertEquals({ own and err, exit }, { "", 0 }, out)
  lu.assertEquals(math.tointeger(nicer), math.min(math.tointeger(own) + 3, 19))
  lu.assertEquals(idle, pcall(pool.new, { workers = 0, pin = true }) and own .. " 5" or "19 0")
end)

for_all(TestApi, "interrupt", function(start)
  expect("1 interrupted!\n1 interrupted!\n55\n0\n", "engine", { "interrupt", start })
end)

for_all(TestApi, "log", function(start) expect("log: on_exit failed: on the way out\n0\n", "engine", { "log", start }) end)

-- ---- early start ----

TestEarly = {}

-- What was there at the early start is there in tasks, as it was; what is sent is as it is now.
function TestEarly.test_workers_of_a_program_with_threads()
  ways.needs_own_machine()
  local expected = {
    "0 0",
    "1 it is too late for an early start: this process has 4 threads",
    "early",
    "5100",
    "490",
    "142",
    '1 cannot send upvalue \'newcomer\' of function <[string "local newcomer = new_unit(1) return function(..."]:1>: ' ..
      "userdata (engine.unit)",
    "crash 5",
    "55 55",
    "0",
    "1 0",
  }
  for _, start in ipairs { "fork", "auto" } do expect(table.concat(expected, "\n") .. "\n", "engine", { "early", start }) end
end

function TestEarly.test_many_states_in_many_threads() expect("5050\n5050\n5050\n1\n", "engine", { "early_states", "fork" }) end

-- `host` looks for what is left.
function TestEarly.test_a_program_that_is_killed()
  local out, err, exit = host("engine", { "early_killed", "fork" })
  lu.assertEquals({ out, err, exit }, { "working\n", "", "SIGKILL" })
end

function TestEarly.test_a_copy_that_is_killed()
  ways.needs_own_machine()
  expect([[
55
1 cannot start workers: the early copy of this program, from which they are forked, is gone
1 cannot fork workers: this process has 4 threads, and a copy of it would have one (use start = "server")
server
55
1
]], "engine", { "early_lost", "fork" })
end

-- ---- good guests ----

TestGuests = {}

-- A host that reaps all that dies: how a worker of its own ended may be lost to it, that it did is not.
function TestGuests.test_hosts_that_reap()
  local known, unknown = ("crash 5\n55\n"):rep(3) .. "0\n1\n", ("crash ?\n55\n"):rep(3) .. "0\n1\n"
  expect(known, "engine", { "reaper", "server" })
  expect(known, "engine", { "reaper", "ignore" })
  local out = host("engine", { "reaper", "fork" })
  lu.assertEquals((out:gsub("crash 5", "crash ?")), unknown)
  out = host("engine", { "reaper", "spawn" })
  lu.assertEquals((out:gsub("crash 5", "crash ?")), unknown)
end

function TestGuests.test_threads_and_an_allocator_with_a_lock()
  ways.needs_own_machine()
  expect('1 cannot fork workers: this process has 4 threads, and a copy of it would have one (use start = "server")\nserver\n',
    "engine", { "threads" })
end

function TestGuests.test_many_states_in_many_threads() expect(("101500\n"):rep(4), "engine", { "states" }) end

for_all(TestGuests, "a_sandboxed_state", function(start)
  expect("7 10 13 16 19 ynnynn\n1\n0\n", "engine", { "sandbox", start })
end)

function TestGuests.test_its_own_helper()
  ways.needs_own_machine()
  for _, start in ipairs { "server", "spawn" } do
    expect("3.5\n", "engine", { "own", start }, { LUAPOOL_HELPER = false })
    local out, err, exit = host("engine", { "own", start }, { NO_ENGINE = "1" })
    lu.assertEquals({ err, exit }, { "", 0 })
    lu.assertStrContains(out, "cannot start workers: the helper '/proc/self/exe' no engine today")
  end
end

for_all(TestGuests, "descriptors_of_the_host", function(start)
  expect("0\n", "engine", { "descriptors", start })
  expect(start == "fork" and "1\n" or "0\n", "engine", { "descriptors_kept", start })
end)

function TestGuests.test_descriptors_at_an_early_start() expect("0\n", "engine", { "descriptors_early", "fork" }) end

function TestGuests.test_options_of_a_pool_go_before_those_of_the_program()
  local _, err, exit = host("engine", { "descriptors_kept", "thread" })
  lu.assertEquals(exit, 1)
  lu.assertStrContains(err, "bad option 'start'")
end

-- What make bench measures works, whatever the figures.
function TestGuests.test_figures()
  local out, err, exit = host("figures", { "10", "1", "5" })
  lu.assertEquals({ err, exit }, { "", 0 })
  local names = { "server_first_least", "fork_further_median", "poll", "unloaded_p999", "loaded_p999", "free_idle_median", "bursts_p999" }
  for _, name in ipairs(names) do
    lu.assertTrue(tonumber(out:match(name .. " (%S+)\n")) > 0, out)
  end
end

function TestGuests.test_cpp()
  local file <close> = io.open(BUILD .. "/tests/hosts/tool")
  if not file and BUILD:find("/abi-", 1, true) then lu.skip "no compiler for C++ here" end
  expect("50500 50500 50500\nthrown\n", "tool", {})
end

-- ---- the libraries ----

TestLibraries = {}

local function lines(command)
  local pipe <close> = io.popen(command)
  local found = {}
  for line in pipe:lines() do found[#found + 1] = line end
  return found
end

-- Only these names are to be seen (and those of musl's start files). What the library must not call is looked for by `make check`.
function TestLibraries.test_symbols()
  for _, file in ipairs { "/libluapool.so.0", "/lua/luapool.so" } do
    for _, line in ipairs(lines("nm -D --defined-only " .. BUILD .. file)) do
      local name = line:match("%S+$")
      local is_known = name:find("^luapool_") or name == "luaopen_luapool" or name == "_init" or name == "_fini"
      lu.assertTrue(is_known ~= nil and is_known ~= false, file .. " shows " .. name)
    end
  end
end

-- One C file of all.
function TestLibraries.test_amalgamation()
  expect("0.1.0 1 0\n338350\n1 task 2 2\n0 3\n1 a pool has no method 'nonsense'\n55\n0\n", "amalgamated", { "run", "server" })
  ways.needs_own_machine()
  expect("3.5\n", "amalgamated", { "own", "server" }, { LUAPOOL_HELPER = false })
end

function TestLibraries.test_the_header_is_enough()
  local name = os.tmpname()
  local source = [[
#include "luapool.h"
int main() { luapool_options o; o.size = sizeof o; return luapool_version_number() - LUAPOOL_VERSION_NUMBER + (o.size == 0); }
]]
  for _, compiler in ipairs { "cc -std=c11 -x c", "cc -std=c99 -x c", "c++ -std=c++98 -x c++", "c++ -std=c++17 -x c++" } do
    local cflags = lines("pkg-config --cflags lua5.4")[1] or ""
    local command = "printf '%%s' '%s' | %s -pedantic -Wall -Wextra -Werror -Wno-long-long -Iruntime %s -c -o %s - 2>&1"
    command = command:format(source, compiler, cflags, name)
    lu.assertEquals(lines(command), {}, compiler)
  end
  os.remove(name)
end

-- Headers that say they are of other releases.
function TestLibraries.test_other_releases_are_refused()
  local folder = os.tmpname()
  os.remove(folder)
  assert(os.execute("mkdir " .. folder))
  for release, is_good in pairs { [50403] = false, [50404] = true, [50408] = true, [50500] = false, [503] = false } do
    local file <close> = assert(io.open(folder .. "/lua.h", "w"))
    file:write(("#define LUA_VERSION_NUM %d\n"):format(release == 503 and release or release // 100),
      release == 503 and "" or ("#define LUA_VERSION_RELEASE_NUM %d\n"):format(release), "typedef struct lua_State lua_State;\n",
      "typedef int (*lua_CFunction)(lua_State *);\ntypedef void *(*lua_Alloc)(void *, void *, unsigned long, unsigned long);\n")
    file:close()
    local said = table.concat(lines(("cc -std=c11 -fsyntax-only -I%s -x c runtime/luapool.h 2>&1"):format(folder)), "\n")
    lu.assertEquals(said:find("luapool needs Lua 5.4.4 or a later 5.4", 1, true) == nil, is_good, release .. ": " .. said)
    if is_good then lu.assertEquals(said, "") end
  end
  os.execute("rm -r " .. folder)
end

function TestLibraries.test_pkg_config()
  local text = table.concat(lines("cat " .. BUILD .. "/luapool.pc"), "\n")
  lu.assertStrContains(text, "Version: 0.1.0")
  lu.assertEquals(lines("PKG_CONFIG_PATH=" .. BUILD .. " pkg-config --libs-only-l luapool")[1]:match("%-lluapool"), "-lluapool")
end

-- ---- event loops ----

TestLoops = {}

function TestLoops.test_the_descriptor_of_a_pool()
  for _, start in ipairs { "fork", "server" } do
    local p <close> = pool.new { workers = 2, start = start }
    local fd = p:fd()
    lu.assertEquals(math.type(fd), "integer")
    lu.assertEquals(p:fd(), fd)
    lu.assertEquals(p:step(), 0)
    for _ = 1, 20 do
      local f = p:submit(function(x) return x + 1 end, 1)
      while f:pollfd() do
        lu.assertTrue(proc.readable(fd, 20), "the descriptor is never readable")
        p:step(0, 0.001)
      end
      lu.assertEquals(f:get(), 2)
    end
    p:step()
    lu.assertFalse(proc.readable(fd, 0))
    -- a worker that dies, an item whose time is over: nobody but the clock and the kernel tells of these
    local killed = p:submit(function() os.exit(3) end)
    local slow = p:submit(function() while true do end end)
    while killed:pollfd() do
      lu.assertTrue(proc.readable(fd, 20))
      p:step()
    end
    lu.assertEquals(killed:status(), "crashed")
    slow:cancel()
    while p:step() > 0 do lu.assertTrue(proc.readable(fd, 20)) end
    local q <close> = pool.new { workers = 1, start = start, timeout = 0.2 }
    local late = q:submit(function() while true do end end)
    fd = q:fd()
    while late:pollfd() do
      lu.assertTrue(proc.readable(fd, 20), "nobody says that the time is over")
      q:step()
    end
    lu.assertEquals(late:status(), "timeout")
  end
end

-- What is left when the budget is over is done by the next steps: nothing is lost.
function TestLoops.test_steps_with_a_budget()
  local p <close> = pool.new(2)
  local f = p:map_async(function(x) return ("x"):rep(2000) .. x end, 3000)
  local steps = 0
  while f:pollfd() do
    p:step(0, 1e-6)
    steps = steps + 1
  end
  local results, n = f:get()
  lu.assertEquals(n, 3000)
  for i = 1, n do lu.assertTrue(results[i]:sub(2001) == tostring(i)) end
  lu.assertTrue(steps > 20, steps)
end

-- ---- large results, read in slices ----

TestSlices = {}

-- As a result: some hundred thousand bytes of tables, strings, runs of numbers, shared references.
local function large(n)
  local shared, list, run, names = { "shared" }, {}, {}, {}
  for i = 1, n do list[i], run[i], names["name " .. i] = { i, x = "text " .. i, shared = shared }, i * 0.5, i end
  return { list = list, run = run, names = names, last = shared }
end

local function check_large(value, n)
  lu.assertEquals({ #value.list, #value.run, value.run[n], value.names["name " .. n] }, { n, n, n * 0.5, n })
  for i = 1, n do
    local one = value.list[i]
    assert(one[1] == i and one.x == "text " .. i and one.shared == value.last, i)
  end
  for _ in pairs(value.names) do n = n - 1 end
  lu.assertEquals(n, 0)
end

-- Step until the call is over, or `enough` steps found something to read; how many steps did.
local function step(p, f, enough)
  local steps = 0
  while f:pollfd() and steps < (enough or math.huge) do
    local before = p:stats().host.decode
    p:step(0, 1e-6)
    if p:stats().host.decode - before > 0 and p.handle:has_news() then steps = steps + 1 end
  end
  return steps
end

function TestSlices.test_one_large_result()
  local p <close> = pool.new(1)
  local f = p:submit(function(make) return 1, make(5000), nil, "more" end, large)
  local steps = step(p, f)
  local one, value, none, more = f:get()
  lu.assertEquals({ one, none, more }, { 1, nil, "more" })
  check_large(value, 5000)
  lu.assertTrue(steps >= 100, steps)
end

function TestSlices.test_large_results_among_small_ones()
  for _, options in ipairs { {}, { errors = "collect" } } do
    local p <close> = pool.new(2)
    local f = p:map_async(function(i)
      if i % 50 == 7 then error("item " .. i, 0) end
      return i % 20 == 0 and large(500) or i % 3 == 0 and "text " .. i or i
    end, 100, { errors = "collect", chunk = options.errors and 10 or nil })
    local steps = step(p, f)
    local results, n, errors = f:get()
    lu.assertEquals(n, 100)
    for i = 1, 100 do
      if i % 50 == 7 then lu.assertStrContains(tostring(errors[i]), "item " .. i)
      elseif i % 20 == 0 then check_large(results[i], 500)
      else lu.assertEquals(results[i], i % 3 == 0 and "text " .. i or i) end
    end
    lu.assertTrue(steps >= 30, steps)
  end
end

-- A frame larger than a ring comes in pieces; strings cannot be divided, but what is around them can.
function TestSlices.test_more_than_a_ring_holds()
  local p <close> = pool.new(1)
  local f = p:submit(function()
    local list = {}
    for i = 1, 300 do list[i] = (string.char(32 + i % 90)):rep(50000) end
    return list
  end)
  local steps = step(p, f)
  local list = f:get()
  for i = 1, 300 do lu.assertTrue(list[i] == (string.char(32 + i % 90)):rep(50000)) end
  lu.assertTrue(steps >= 100, steps)
end

-- What somebody does while a result is half read.
local function midway(act, start)
  local p <close> = pool.new { workers = 2, start = start, grace = 0.5 }
  local f = p:submit(large, 20000)
  lu.assertEquals(step(p, f, 20), 20)
  act(p, f)
end

function TestSlices.test_another_call_meanwhile()
  midway(function(p, f)
    lu.assertEquals(p:map(function(x) return { x } end, 3), { { 1 }, { 2 }, { 3 } })
    check_large(f:get(), 20000)
  end)
  midway(function(p, f)
    local g = p:submit(function(x) return x + 1 end, 1) -- of another function: names are looked up for each call
    step(p, f)
    check_large(f:get(), 20000)
    lu.assertEquals(g:get(20), 2)
  end)
end

function TestSlices.test_ends_meanwhile()
  midway(function(p, f)
    f:cancel()
    lu.assertEquals(f:status(), "cancelled")
    lu.assertEquals(p:map(math.abs, 100), p:map(math.abs, 100))
  end)
  midway(function(p) p:terminate() end)
  midway(function(p, f)
    p:close()
    check_large(f:get(), 20000)
  end)
  midway(function(p, f)
    local pids = p:workers()
    for _, w in ipairs(pids) do proc.kill(w.pid, "KILL") end
    lu.assertTrue(proc.wait_until(function() return proc.stat(pids[1].pid) == nil or proc.stat(pids[1].pid).state == "Z" end, 20))
    check_large(f:get(), 20000)
    lu.assertEquals(p:apply(math.abs, -1), 1)
  end)
end

function TestSlices.test_a_state_that_is_closed_meanwhile()
  local code = [[
    local p = pool.new(1)
    local f = p:submit(function() local t = {} for i = 1, 100000 do t[i] = { i } end return t end)
    local n = 0
    while f:pollfd() and n < 50 do
      p:step(0, 1e-6)
      if p.handle:has_news() then n = n + 1 end
    end
    os.exit(f:pollfd() and 3 or 4, true)]]
  local p <close> = proc.spawn { args = { BUILD .. "/luapool", "-e", code } }
  local status, out, err = p:finish(60)
  lu.assertEquals({ status.exit, out, err }, { 3, "", "" })
  lu.assertTrue(proc.wait_until(function() return #proc.leftovers(p.mark) == 0 end, 10))
end

function TestLoops.test_await()
  local p <close> = pool.new(2)
  local order, others = {}, pool.counter()
  local function fibre(name, after)
    return coroutine.create(function()
      local value = p:submit(function(n)
        while others:get() < n do end
        return n
      end, after):await()
      order[#order + 1] = name .. value
      others:add()
    end)
  end
  local fibres = { fibre("a", 1), fibre("b", 0) }
  while #fibres > 0 do
    for i = #fibres, 1, -1 do
      assert(coroutine.resume(fibres[i]))
      if coroutine.status(fibres[i]) == "dead" then table.remove(fibres, i) end
    end
  end
  lu.assertEquals(order, { "b0", "a1" })
  local waits = 0
  local f = p:submit(function() error "no" end)
  local ok, e = pcall(f.await, f, function(future)
    lu.assertIs(future, f)
    waits = waits + 1
    proc.readable(f:getfd(), 20)
  end)
  lu.assertFalse(ok)
  lu.assertStrContains(tostring(e), "no")
  lu.assertEquals(p:submit(math.abs, -3):await(), 3) -- outside of coroutines it just waits
end

function TestLoops.test_what_loops_ask_of_futures()
  local p <close> = pool.new(1)
  local go = pool.counter()
  local f = p:submit(function() while go:get() == 0 do end end)
  lu.assertEquals({ f:pollfd(), f:getfd(), f:events(), f:timeout() }, { p:fd(), p:fd(), "r", nil })
  go:set(1)
  f:wait()
  lu.assertEquals({ f:getfd(), f:timeout(), f:dirty() }, { -1, 0, true })
  lu.assertNil(f:pollfd())
  local inline <close> = pool.new(0)
  lu.assertNil(inline:fd())
  lu.assertEquals(inline:submit(math.abs, -1):await(), 1)
end

-- The libraries themselves, where they are installed.
function TestLoops.test_cqueues()
  local ok, cqueues = pcall(require, "cqueues")
  lu.skipIf(not ok, "no cqueues here")
  local p <close> = pool.new(2)
  local queue, got, ticks = cqueues.new(), {}, pool.counter()
  for i = 1, 3 do
    queue:wrap(function()
      local f = p:submit(function(x) while ticks:get() < 3 do end return x end, i)
      got[#got + 1] = f:await(cqueues.poll)
    end)
  end
  queue:wrap(function() while #got < 3 do ticks:add() cqueues.sleep(0.01) end end) -- it goes on while they wait for it
  assert(queue:loop())
  table.sort(got)
  lu.assertEquals(got, { 1, 2, 3 })
  lu.assertTrue(ticks:get() >= 3)
end

function TestLoops.test_luasocket()
  local ok, socket = pcall(require, "socket")
  lu.skipIf(not ok, "no luasocket here")
  local p <close> = pool.new(1)
  local f = p:submit(function() local t = os.clock() while os.clock() < t + 0.05 do end return "done" end)
  while f:status() == "pending" or f:status() == "running" do
    local ready = socket.select({ f }, nil, 20)
    lu.assertIs(ready[1], f)
  end
  lu.assertEquals(f:get(), "done")
end

function TestLoops.test_luv()
  local ok, uv = pcall(require, "luv")
  lu.skipIf(not ok, "no luv here")
  local p <close> = pool.new(1)
  local f, value = p:submit(function() return "done" end), nil
  local poll = uv.new_poll(f:getfd())
  poll:start("r", function()
    p:step()
    if f:getfd() == -1 then
      value = f:get()
      poll:close()
    end
  end)
  uv.run()
  lu.assertEquals(value, "done")
end
