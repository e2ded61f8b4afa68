-- ways.lua -- the ways in which a verb can be called: whatever a verb promises holds for each of them.
--   for _, way in ipairs(ways.all) do way.with(function(call) ... call("map", fn, src, options) ... end) end
-- With LUAPOOL_START=server (or spawn) in the environment all pools of a file are of that kind: tests/run.lua runs some files so, too.
local lu = require "luaunit"
local proc = require "proc"

local ways = {}

--- How pools that do not say start their workers here: "fork", "server" or "spawn".
ways.start = os.getenv "LUAPOOL_START" or "fork"

--- The C library is musl: some of its messages differ.
ways.has_musl = select(2, io.open(("x"):rep(5000))):find("Filename too long", 1, true) ~= nil

--- The test is about a program that executes itself or counts its threads: an emulator is what is seen there (scripts/test-abi).
function ways.needs_own_machine()
  lu.skipIf(os.getenv "POOLTEST_EMULATED" ~= nil, "what it looks at is the emulator's here")
end

--- The test is about workers that are copies of the program: of others it would not be true.
function ways.needs_fork(why)
  lu.skipIf(ways.start ~= "fork", "workers are no copies of the program: " .. why)
end

--- The processes (as proc.children) that are workers of process `pid`: the helper's children, if it has helpers that fork.
function ways.workers(pid)
  local children = proc.children(pid)
  if ways.start ~= "server" then return children end
  local workers = {}
  for _, child in ipairs(children) do
    for _, worker in ipairs(proc.children(child.pid)) do workers[#workers + 1] = worker end
  end
  return workers
end

--- How many processes are there for the pools of process `pid`: workers, and helpers that have none.
function ways.count(pid)
  local children = proc.children(pid)
  if ways.start ~= "server" then return #children end
  local n = 0
  for _, child in ipairs(children) do n = n + math.max(1, #proc.children(child.pid)) end
  return n
end

local function merged(options, more)
  local all = {}
  for key, value in pairs(options or {}) do all[key] = value end
  for key, value in pairs(more) do all[key] = value end
  return all
end

-- Whoever is interrupted stops by itself here, however late it is given a processor to do so: the default grace, after which it is killed,
-- is a second of the clock.
local GRACE <const> = 20

-- A pool; with `is_warm` its workers live already, and everything is sent to them.
local function living(n, is_warm, start)
  return function(fn)
    local p <close> = pool.new { workers = n, start = start, grace = GRACE }
    if is_warm then p:map(tostring, n) end
    return fn(function(verb, ...) return p[verb](p, ...) end, p)
  end
end

-- The options stand behind fn and src; of reduce behind init.
local function one_shot(n, start)
  return function(fn)
    return fn(function(verb, f, src, third, fourth)
      local given = third
      if verb == "reduce" then given = fourth end
      local options = merged(merged({ grace = GRACE }, given or {}), { workers = n, start = start })
      if verb == "reduce" then return pool.reduce(f, src, third, options) end
      return pool[verb](f, src, options)
    end)
  end
end

--- name, workers (0: inline), with(fn): calls fn(call [, pool]) with call(verb, ...) as a method of the pool, or as the module's.
ways.all = {
  { name = "a fresh pool of 2", workers = 2, with = living(2) },
  { name = "a living pool of 1", workers = 1, with = living(1, true) },
  { name = "a living pool of 3", workers = 3, with = living(3, true) },
  { name = "inline", workers = 0, with = living(0) },
  { name = "one-shot, 2 workers", workers = 2, with = one_shot(2) },
  { name = "one-shot, inline", workers = 0, with = one_shot(0) },
  { name = "by a server, 2 workers", workers = 2, with = living(2, false, "server"), is_clean = true },
  { name = "one-shot by a server, 2 workers", workers = 2, with = one_shot(2, "server"), is_clean = true },
}

--- Call fn(call, way, pool or nil) for each of them (of those with workers, if `only_workers`); an error names the way.
function ways.each(fn, only_workers)
  for _, way in ipairs(ways.all) do
    if not only_workers or way.workers > 0 then
      local function told(e)
        if type(e) == "string" and debug then e = debug.traceback(e, 2) end
        if type(e) == "table" and type(e.msg) == "string" then e.msg = way.name .. ": " .. e.msg end
        return type(e) == "string" and way.name .. ": " .. e or e
      end
      local ok, e = xpcall(way.with, told, function(call, p) return fn(call, way, p) end)
      if not ok then error(e, 0) end
    end
  end
end

--- What a loop over an iterator gives: list of { i, v }, n.
function ways.collect(...)
  local list, n = {}, 0
  for i, v in ... do
    n = n + 1
    list[n] = { i, v }
  end
  return list, n
end

--- An iterator over 1 .. n.
function ways.up_to(n)
  local i = 0
  return function()
    i = i + 1
    if i <= n then return i end
  end
end

--- Keep a processor busy for so many seconds.
function ways.spin(seconds)
  local until_time = os.clock() + seconds
  while os.clock() < until_time do end
end

--- Call what must raise; returns the error.
function ways.fails(fn, ...)
  local ok, e = pcall(fn, ...)
  lu.assertFalse(ok, "no error")
  return e
end

--- Run code, with a pool `p`, that must be refused in the expected words, which name the line of the code: it is the second one of a
--- chunk "call".
function ways.refused(code, expected)
  local chunk = assert(load("local p = ...\n" .. code .. "\nreturn 'not refused'", "=call"))
  local p <close> = pool.new(1)
  local ok, message = pcall(chunk, p)
  lu.assertFalse(ok, code .. " was accepted")
  lu.assertEquals(message, "call:2: " .. expected, code)
end

--- Does the pool still do what pools do?
function ways.is_usable(p)
  local results, n = p:map(function(x) return x * x end, 20)
  lu.assertEquals(n, 20)
  for i = 1, 20 do lu.assertEquals(results[i], i * i) end
end

--- Wait for what must come true before long, and within 20 seconds in any case.
function ways.wait_for(condition, what)
  lu.assertEvalToTrue(proc.wait_until(condition, 20), what)
end

--- Wait until process `pid` has used so many seconds of a processor from now on: it has gone on, however long others kept it from that.
function ways.wait_for_work(pid, seconds)
  local function used()
    local stat = proc.stat(pid)
    return stat and stat.utime + stat.stime
  end
  local before = used()
  lu.assertNotNil(before, "the process has ended")
  ways.wait_for(function()
    local now = used()
    return not now or now - before >= seconds
  end, "it does not run")
end

local NUMBERS <const> = { INT = 2, TERM = 15, HUP = 1 }

--- Wait until process `pid` has taken a signal that it was sent: a second one of the kind would be lost before.
function ways.wait_for_delivery(pid, signal)
  local bit = 1 << NUMBERS[signal] - 1
  ways.wait_for(function()
    for _, field in ipairs { "ShdPnd", "SigPnd" } do
      local pending = proc.status_field(pid, field)
      if pending and tonumber(pending, 16) & bit ~= 0 then return false end
    end
    return true
  end, "the signal stays undelivered")
end

--- How long a key that is held down took, when `sent` was the time of its first signal and the last has been sent to `pid`: what the
--- program saw is not longer. The test of it is skipped where that is longer than the pace of a key.
function ways.pace(pid, sent)
  ways.wait_for_delivery(pid, "INT")
  local pace = proc.now() - sent
  lu.skipIf(pace > 0.15, "the machine is too slow for the pace of a key")
  return pace
end

return ways
