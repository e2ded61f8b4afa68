-- The examples of scripts/embed, and programs that nobody here wrote, unmodified: each loads luapool and runs a map, and nothing is left
-- of it. Programs that are not installed are skipped (scripts/install-dependencies hosts).
local lu = require "luaunit"
local proc = require "proc"

local BUILD = os.getenv "BUILD"
local IS_SANITIZED = BUILD:find("asan", 1, true) or BUILD:find("tsan", 1, true)

local function has(program)
  return (os.execute(("command -v %s > /dev/null 2>&1"):format(program)))
end

local function need(program)
  if not has(program) then lu.skip("no " .. program .. " here") end
  if IS_SANITIZED then lu.skip "a program without the sanitizer cannot load what was built for it" end
end

-- What others find of ours by.
local function environment(more)
  local env = { LUAPOOL_HELPER = BUILD .. "/luapool", LUA_CPATH = BUILD .. "/lua/?.so;;", LUA_CPATH_5_4 = false }
  for name, value in pairs(more or {}) do env[name] = value end
  return env
end

local function run(args, options)
  options = options or {}
  local p <close> = proc.spawn { args = args, env = environment(options.env), stderr = options.stderr, cwd = options.cwd }
  local status, out, err = p:finish(60)
  lu.assertTrue(proc.wait_until(function() return #proc.leftovers(p.mark) == 0 end, 5), "processes are left")
  return status.exit or status.signal, out, err
end

local function with_file(text, fn)
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
  local _ <close> = setmetatable({}, { __close = function() os.remove(path) end })
  return fn(path)
end

TestExamples = {}

function TestExamples.test_frames()
  for _, start in ipairs { "auto", "server" } do
    local status, out, err = run { BUILD .. "/scripts/embed/frames", "60", "2", start }
    lu.assertEquals({ status, err }, { 0, "" })
    local asked, found, blocked, moves = out:match("^(%d+) paths asked for, (%d+) found, (%d+) have no way; (%d+) moves")
    lu.assertTrue(tonumber(asked) >= 48 and tonumber(found) + tonumber(blocked) <= tonumber(asked), out)
    lu.assertTrue(tonumber(found) > 0 and tonumber(moves) > 0, out)
    lu.assertStrMatches(out, ".*frames worked [%d.]+ ms %(median%), [%d.]+ ms %(99.9 of 100%), [%d.]+ ms %(longest%); %d+ of 60 over .*")
  end
  lu.assertEquals((run { BUILD .. "/scripts/embed/frames", "0" }), 2)
end

function TestExamples.test_simulation()
  need "lua5.4"
  if not package.searchpath("luv", package.cpath) then lu.skip "no luv here" end
  local first
  for workers = 1, 3 do
    local status, out, err = run { "lua5.4", "scripts/embed/simulation.lua", "5", "40", tostring(workers) }
    lu.assertEquals(status, 0, err)
    lu.assertStrMatches(out, "5 steps of 40 bodies: energy [%d.]+, centre %-?[%d.]+ %-?[%d.]+\n")
    lu.assertStrMatches(err, "the loop ticked %d+ times meanwhile\n")
    first = first or out
    lu.assertEquals(out, first, "the same numbers for any number of workers")
  end
end

-- ---- lighttpd ----

local function get(port, path)
  local socket = require "socket"
  local connection = socket.tcp()
  connection:settimeout(30 * proc.slowness)
  if not connection:connect("127.0.0.1", port) then return nil end
  connection:send(("GET %s HTTP/1.0\r\nHost: x\r\n\r\n"):format(path))
  local text = connection:receive("*a")
  connection:close()
  return text and tonumber(text:match("^HTTP/%S+ (%d+)")), text and text:match("\r\n\r\n(.*)$")
end

local function free_port()
  local server = assert(require("socket").bind("127.0.0.1", 0))
  local _, port = server:getsockname()
  server:close()
  return port
end

function TestExamples.test_a_page_of_lighttpd()
  need "/usr/sbin/lighttpd"
  if not pcall(require, "socket") then lu.skip "no socket here" end
  if #assert(io.popen("ls /usr/lib/lighttpd/mod_magnet.so 2>/dev/null")):read("a") == 0 then lu.skip "no mod_magnet here" end
  local port = free_port()
  local configuration = ([[
server.document-root = "/nonexistent"
server.bind = "127.0.0.1"
server.port = %d
server.modules = ("mod_magnet")
magnet.attract-raw-url-to = ("%s/scripts/embed/magnet.lua")
]]):format(port, proc.directory())
  with_file(configuration, function(path)
    local server <close> = proc.spawn { args = { "/usr/sbin/lighttpd", "-D", "-f", path }, env = environment(), stderr = "stdout" }
    lu.assertTrue(proc.wait_until(function() return get(port, "/?n=1") ~= nil end, 20), "it does not answer")
    lu.assertEquals({ get(port, "/?n=10000") }, { 200, "1229 primes up to 10000, by 2 workers\n" })
    local helpers = proc.children(server.pid)
    lu.assertEquals(#helpers, 1, "one helper, which forks")
    lu.assertEquals({ get(port, "/?n=2500") }, { 200, "367 primes up to 2500, by 2 workers\n" })
    lu.assertEquals({ get(port, "/?n=x") }, { 400, "n should be a number from 1 to 10000000\n" })
    lu.assertEquals(#proc.children(server.pid), 1, "requests share a pool")
    server:kill("INT")
    lu.assertTrue(server:wait(20) ~= nil)
    lu.assertTrue(proc.wait_until(function() return #proc.leftovers(server.mark) == 0 end, 5), "processes are left")
  end)
end

-- ---- others ----

TestOthers = {}

-- What each of them runs: a map, and what it has before and after: children, descriptors, threads.
local PROBE = [[
  local stat <close> = io.open "/proc/self/stat"
  local pid = stat:read "n"
  local function count(what)
    local pipe <close> = io.popen(("ls /proc/%d/%s | wc -l"):format(pid, what))
    return pipe:read "n"
  end
  local pool = require "luapool"
  local fds, threads = count "fd", count "task"
  local sum = 0
  for _, start in ipairs { "auto", "server" } do
    for _, v in ipairs(pool.map(function(i) return i * i end, 100, { workers = 2, start = start })) do sum = sum + v end
  end
  local words = ("sum %d, descriptors %d, threads %d"):format(sum, count "fd" - fds, count "task" - threads)
]]
local EXPECTED = "sum 676700, descriptors 0, threads 0"

function TestOthers.test_the_stock_interpreter()
  need "lua5.4"
  with_file(PROBE .. " print(words)", function(path)
    lu.assertEquals({ run { "lua5.4", path } }, { 0, EXPECTED .. "\n", "" })
  end)
end

function TestOthers.test_clingo()
  need "clingo"
  local program = ("#script (lua)\nfunction info()\n%s\nreturn clingo.String(words)\nend\n#end.\na(@info()).\n"):format(PROBE)
  with_file(program, function(path)
    local _, out, err = run { "clingo", path }
    lu.assertStrContains(out .. err, EXPECTED)
  end)
end

function TestOthers.test_gnuplot()
  need "gnuplot"
  with_file(PROBE .. ' io.stderr:write(words, "\\n") function term.options() end', function(path)
    local _, out, err = run { "gnuplot", "-e", ('set term lua "%s"'):format(path) }
    lu.assertStrContains(out .. err, EXPECTED)
  end)
end
