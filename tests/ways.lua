-- ways.lua -- the ways in which a verb can be called: whatever a verb promises holds for each of them.
--   for _, way in ipairs(ways.all) do way.with(function(call) ... call("map", fn, src, options) ... end) end
-- With LUAPOOL_START=server (or spawn) in the environment all pools of a file are of that kind: tests/run.lua runs some files so, too.
local lu = require "luaunit"
local proc = require "proc"

local ways = {}

--- How pools that do not say start their workers here: "fork", "server" or "spawn".
ways.start = os.getenv "LUAPOOL_START" or "fork"

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

-- A pool; with `is_warm` its workers live already, and everything is sent to them.
local function living(n, is_warm, start)
  return function(fn)
    local p <close> = pool.new { workers = n, start = start }
    if is_warm then p:map(tostring, n) end
    return fn(function(verb, ...) return p[verb](p, ...) end, p)
  end
end

-- The options stand behind fn and src; of reduce behind init.
local function one_shot(n, start)
  return function(fn)
    return fn(function(verb, f, src, third, fourth)
      if verb == "reduce" then return pool.reduce(f, src, third, merged(fourth, { workers = n, start = start })) end
      return pool[verb](f, src, merged(third, { workers = n, start = start }))
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

return ways
