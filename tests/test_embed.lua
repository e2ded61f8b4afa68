-- Programs that have luapool inside (tests/hosts): luapool.h in C and C++, and what these programs may be: threaded, sandboxed, with
-- reapers and allocators of their own. Nothing may be left of any of them.
local lu = require "luaunit"
local proc = require "proc"

local BUILD = os.getenv "BUILD"

local function host(program, words, env)
  env = env or {}
  if env.LUAPOOL_HELPER == nil then env.LUAPOOL_HELPER = BUILD .. "/luapool" end
  local p <close> = proc.spawn { args = { BUILD .. "/tests/hosts/" .. program, table.unpack(words) }, env = env }
  local status, out, err = p:finish(60)
  lu.assertTrue(proc.wait_until(function() return #proc.leftovers(p.mark) == 0 end, 5), "processes are left")
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

for_all(TestApi, "interrupt", function(start)
  expect("1 interrupted!\n1 interrupted!\n55\n0\n", "engine", { "interrupt", start })
end)

for_all(TestApi, "log", function(start) expect("log: on_exit failed: on the way out\n0\n", "engine", { "log", start }) end)

-- ---- early start ----

TestEarly = {}

-- What was there at the early start is there in tasks, as it was; what is sent is as it is now.
function TestEarly.test_workers_of_a_program_with_threads()
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
  expect('1 cannot fork workers: this process has 4 threads, and a copy of it would have one (use start = "server")\nserver\n',
    "engine", { "threads" })
end

function TestGuests.test_many_states_in_many_threads() expect(("101500\n"):rep(4), "engine", { "states" }) end

for_all(TestGuests, "a_sandboxed_state", function(start)
  expect("7 10 13 16 19 ynnynn\n1\n0\n", "engine", { "sandbox", start })
end)

function TestGuests.test_its_own_helper()
  for _, start in ipairs { "server", "spawn" } do
    expect("3.5\n", "engine", { "own", start }, { LUAPOOL_HELPER = false })
    local out, err, exit = host("engine", { "own", start }, { NO_ENGINE = "1" })
    lu.assertEquals({ err, exit }, { "", 0 })
    lu.assertStrContains(out, "cannot start workers: the helper '/proc/self/exe' no engine today")
  end
end

for_all(TestGuests, "descriptors_of_the_host", function(start)
  if start == "fork" then return end -- a copy has what its host did not close on exec
  expect("0\n", "engine", { "descriptors", start })
end)

function TestGuests.test_cpp() expect("50500 50500 50500\nthrown\n", "tool", {}) end

-- ---- the libraries ----

TestLibraries = {}

local function lines(command)
  local pipe <close> = io.popen(command)
  local found = {}
  for line in pipe:lines() do found[#found + 1] = line end
  return found
end

-- Only these names are to be seen, and none that a library must not call.
function TestLibraries.test_symbols()
  for _, file in ipairs { "/libluapool.so.0", "/lua/luapool.so" } do
    for _, line in ipairs(lines("nm -D --defined-only " .. BUILD .. file)) do
      local name = line:match("%S+$")
      lu.assertTrue(name:find("^luapool_") ~= nil or name == "luaopen_luapool", file .. " shows " .. name)
    end
  end
end

-- One C file of all.
function TestLibraries.test_amalgamation()
  expect("0.1.0 1 0\n338350\n1 task 2 2\n0 3\n1 a pool has no method 'nonsense'\n55\n0\n", "amalgamated", { "run", "server" })
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

function TestLoops.test_await()
  local p <close> = pool.new(2)
  local order = {}
  local function fibre(name, seconds)
    return coroutine.create(function()
      local value = p:submit(function(s)
        local t = os.clock()
        while os.clock() < t + s do end
        return s
      end, seconds):await()
      order[#order + 1] = name .. value
    end)
  end
  local fibres = { fibre("a", 0.3), fibre("b", 0.01) }
  while #fibres > 0 do
    for i = #fibres, 1, -1 do
      assert(coroutine.resume(fibres[i]))
      if coroutine.status(fibres[i]) == "dead" then table.remove(fibres, i) end
    end
  end
  lu.assertEquals(order, { "b0.01", "a0.3" })
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
  local f = p:submit(function() local t = os.clock() while os.clock() < t + 0.05 do end end)
  lu.assertEquals({ f:pollfd(), f:getfd(), f:events(), f:timeout() }, { p:fd(), p:fd(), "r", nil })
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
  local queue, got, ticks = cqueues.new(), {}, 0
  for i = 1, 3 do
    queue:wrap(function()
      local f = p:submit(function(x) local t = os.clock() while os.clock() < t + 0.05 do end return x end, i)
      got[#got + 1] = f:await(cqueues.poll)
    end)
  end
  queue:wrap(function() while #got < 3 do ticks = ticks + 1 cqueues.sleep(0.01) end end)
  assert(queue:loop())
  table.sort(got)
  lu.assertEquals(got, { 1, 2, 3 })
  lu.assertTrue(ticks > 1)
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
