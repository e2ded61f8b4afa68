-- The examples of scripts/embed, and programs that nobody here wrote, unmodified: each loads luapool and runs a map, and nothing is left
-- of it. Programs that are not installed are skipped (scripts/install-dependencies hosts).
local lu = require "luaunit"
local disk = require "disk"
local proc = require "proc"

local BUILD = os.getenv "BUILD"
local IS_OTHER_ABI = BUILD:find("/abi-", 1, true)
local IS_SANITIZED = BUILD:find("asan", 1, true) or BUILD:find("tsan", 1, true)

local function has(program)
  return (os.execute(("command -v %s > /dev/null 2>&1"):format(program)))
end

local function need(program)
  if not has(program) then lu.skip("no " .. program .. " here") end
  if IS_SANITIZED then lu.skip "a program without the sanitizer cannot load what was built for it" end
  if IS_OTHER_ABI and program ~= "lua5.4" then lu.skip "it cannot load what was built for another machine" end
end

-- What others find of ours by.
local function environment(more)
  local env = { LUAPOOL_HELPER = BUILD .. "/luapool", LUA_CPATH = BUILD .. "/lua/?.so;" .. BUILD .. "/tests/?.so;;", LUA_CPATH_5_4 = false }
  for name, value in pairs(more or {}) do env[name] = value end
  return env
end

local function run(args, options)
  options = options or {}
  local p <close> = proc.spawn { args = args, env = environment(options.env), stderr = options.stderr, cwd = options.cwd }
  local status, out, err = p:finish(60)
  lu.assertTrue(proc.wait_until(function() return #proc.leftovers(p.mark) == 0 end, 20), "processes are left")
  return status.exit or status.signal, out, err
end

local function with_file(text, fn)
  local path = disk.temporary(text)
  local _ <close> = setmetatable({}, { __close = function() os.remove(path) end })
  return fn(path)
end

local text_of = disk.text_of

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

-- (no C++ for some machines)
local function need_words()
  local path = BUILD .. "/scripts/embed/words"
  if IS_OTHER_ABI and not text_of(path) then lu.skip "no compiler for C++ here" end
  return path
end

-- Counts do not depend on who counted, and Lua gives back every byte.
function TestExamples.test_words()
  local words = need_words()
  local first
  for workers = 1, 2 do
    local status, out, err = run { words, "-w", tostring(workers), "-t", "3", "tests/bench", "scripts/embed" }
    lu.assertEquals(status, 0, err)
    lu.assertStrMatches(err, "Lua had %d+ KiB at most, and has 0 bytes now\n")
    first = first or out
    lu.assertEquals(out, first)
  end
  local files, lines = first:match("^(%d+) files, (%d+) lines, %d+ bytes, %d+ words\n")
  lu.assertTrue(tonumber(files) >= 8 and tonumber(lines) > 1000, first)
  lu.assertEquals(select(2, first:gsub("\n", "")), 4)
  lu.assertEquals((run { words }), 2)
  local status, _, err = run { words, "/nowhere/at/all" }
  lu.assertEquals(status, 1)
  lu.assertStrContains(err, "words: ")
end

-- Ctrl-C: what was counted is shown, nobody is left, and it died of the signal.
function TestExamples.test_words_interrupted()
  local words, name = need_words(), os.tmpname()
  os.remove(name)
  assert(os.execute(("mkdir %s && seq 1 60000 | sed 's/^/word_/' > %s/0.c && for i in $(seq 1 300); do ln %s/0.c %s/$i.c; done")
    :format(name, name, name, name)))
  local p <close> = proc.spawn { args = { words, name } }
  lu.assertTrue(proc.wait_until(function() return #proc.children(p.pid) > 0 end, 30))
  lu.assertTrue(proc.wait_until(function() return #proc.leftovers(p.mark) >= 3 end, 30), "no workers")
  p:kill "INT"
  local status, out, err = p:finish(60)
  os.execute("rm -r " .. name)
  lu.assertEquals(status.signal, "SIGINT", err)
  lu.assertStrMatches(out, "%d+ files, .*")
  lu.assertStrContains(err, "words: interrupted; so far:\nLua had ")
  lu.assertStrContains(err, "and has 0 bytes now")
  lu.assertTrue(proc.wait_until(function() return #proc.leftovers(p.mark) == 0 end, 20))
end

function TestExamples.test_simulation()
  need "lua5.4"
  if not pcall(require, "luv") then lu.skip "no luv here" end
  local first
  for workers = 1, 3 do
    local status, out, err = run { "lua5.4", "scripts/embed/simulation.lua", "5", "40", tostring(workers) }
    lu.assertEquals(status, 0, err)
    lu.assertStrMatches(out, "5 steps of 40 bodies: energy [%d.]+, centre %-?[%d.]+ %-?[%d.]+\n")
    lu.assertStrMatches(err, "the loop ticked %d+ times meanwhile\n")
    first = first or out
    lu.assertEquals(out, first, "the same numbers for any number of workers")
  end
  local usage = "usage: lua5.4 simulation.lua [STEPS [BODIES [WORKERS]]]\n"
  for _, word in ipairs { "x", "0", "1.5" } do
    lu.assertEquals({ run { "lua5.4", "scripts/embed/simulation.lua", word } }, { 2, "", usage })
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
  if not text_of "/usr/lib/lighttpd/mod_magnet.so" then lu.skip "no mod_magnet here" end
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
    lu.assertTrue(proc.wait_until(function() return #proc.leftovers(server.mark) == 0 end, 20), "processes are left")
  end)
end

-- ---- others ----

TestOthers = {}

-- What each of them runs: maps with each start method, and what the program has before luapool is loaded and after: descriptors, threads,
-- children, signals, ... (tests/c/guest.c). A program with threads of its own (HAS_THREADS) may be busy when it calls: it has some seconds
-- to come to rest before, and what it has less of after is its own affair.
local PROBE = [[
  local guest = require "guest"
  local function is_less(text, than) -- every line of it is one of the other's
    for line in text:gmatch "[^\n]+" do
      if not ("\n" .. than .. "\n"):find("\n" .. line .. "\n", 1, true) then return false end
    end
    return true
  end
  local function changes(before)
    local list = {}
    for name, text in pairs(guest.state()) do
      local is_same = text == before[name] or HAS_THREADS and is_less(text, before[name])
      if not is_same then list[#list + 1] = ("%s were:\n%s\nand are:\n%s"):format(name, before[name], text) end
    end
    return list
  end
  local function wait(condition, seconds)
    local deadline = os.time() + seconds
    while not condition() and os.time() <= deadline do os.execute "sleep 0.1" end
  end

  local before, quiet = guest.state(), 0
  if HAS_THREADS then
    wait(function()
      quiet = #changes(before) == 0 and quiet + 1 or 0
      before = guest.state()
      return quiet == 5
    end, 20)
  end
  local pool = require "luapool"
  local words = {}
  for _, start in ipairs { "auto", "server", "spawn", "fork" } do
    local ok, err = pcall(function()
      local p <close> = pool.new { workers = 2, start = start }
      local sum = 0
      for _, v in ipairs(p:map(function(i) return i * i end, 100)) do sum = sum + v end
      words[#words + 1] = ("%s is %s: %d"):format(start, p:stats().start, sum)
    end)
    if not ok then words[#words + 1] = start .. ": " .. tostring(err):gsub("^.-:%d+: ", "") end
  end
  words[#words + 1] = ("once: %d"):format(#pool.map(tostring, 100, { workers = 2 }))
  wait(function() return #changes(before) == 0 end, 10)
  words = table.concat(words, ", ") .. "; changed: " .. table.concat(changes(before), "\n")
]]
local SUMS = "auto is %s: 338350, server is server: 338350, spawn is spawn: 338350, %s, once: 100; changed: "
local EXPECTED = SUMS:format("fork", "fork is fork: 338350")

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

-- ---- servers: a folder with their files, of which OUT is what the probe said ----

local function with_folder(files, fn)
  local folder = os.tmpname()
  os.remove(folder)
  assert(os.execute("mkdir -p " .. folder .. "/modules " .. folder .. "/run"))
  local _ <close> = setmetatable({}, { __close = function() os.execute("rm -r " .. folder) end })
  files["probe.lua"] = PROBE .. " return words"
  for name, text in pairs(files) do
    local file = assert(io.open(folder .. "/" .. name, "w"))
    file:write((text:gsub("FOLDER", folder)))
    file:close()
  end
  return fn(folder)
end

local SAY = [[
  local ok, words = pcall(dofile, "FOLDER/probe.lua")
  local file = io.open("FOLDER/out.new", "w")
  file:write(tostring(words))
  file:close()
  os.rename("FOLDER/out.new", "FOLDER/out")
]]

-- Run the server until the probe has spoken (`poke` makes it), then end it.
local function ask_server(folder, args, poke, env)
  local server <close> = proc.spawn { args = args, env = environment(env), stderr = "stdout" }
  local function answer() return text_of(folder .. "/out") end
  if poke then proc.wait_until(poke, 20) end
  local text = proc.wait_until(answer, 40)
  server:kill("TERM")
  local status, out = server:wait(20)
  lu.assertTrue(status ~= nil, "it does not end")
  lu.assertEquals(text, EXPECTED, out)
  lu.assertTrue(proc.wait_until(function() return #proc.leftovers(server.mark) == 0 end, 20), "processes are left")
end

local function is_root()
  local pipe <close> = io.popen "id -u"
  return pipe:read "n" == 0
end

function TestOthers.test_dnsmasq()
  need "dnsmasq"
  if not is_root() then lu.skip "needs root" end
  with_folder({ ["dhcp.lua"] = "function init()" .. SAY .. "end function lease() end function shutdown() end" }, function(folder)
    ask_server(folder, { "dnsmasq", "-d", "-C", "/dev/null", "-p", "0", "--interface=lo", "--bind-interfaces", "--user=root",
      "--dhcp-range=127.0.0.50,127.0.0.60", "--dhcp-luascript=" .. folder .. "/dhcp.lua", "--dhcp-leasefile=" .. folder .. "/leases" })
  end)
end

function TestOthers.test_prosody()
  need "prosody"
  if not is_root() then lu.skip "needs root" end
  local ports = ""
  for _, name in ipairs { "c2s", "s2s", "component", "legacy_ssl", "c2s_direct_tls", "s2s_direct_tls", "http", "https" } do
    ports = ports .. name .. "_ports = {}\n"
  end
  with_folder({
    ["modules/mod_luapooltest.lua"] = ("module:hook_global('server-started', function() %s end)"):format(SAY),
    ["p.cfg.lua"] = [[run_as_root = true
      plugin_paths = { "FOLDER/modules" }
      data_path = "FOLDER/run"
      modules_enabled = { "luapooltest" }
      modules_disabled = { "s2s", "c2s", "offline", "tls" }
      pidfile = "FOLDER/run/pid"
      log = { warn = "*console" }
    ]] .. ports .. 'VirtualHost "localhost"\n',
  }, function(folder) ask_server(folder, { "prosody", "--config", folder .. "/p.cfg.lua", "-F" }) end)
end

-- (its states have an allocator of its own)
function TestOthers.test_dovecot()
  need "dovecot"
  need "doveadm"
  if not is_root() then lu.skip "needs root" end
  with_folder({
    ["auth.lua"] = "function auth_password_verify()" .. SAY .. [[ return dovecot.auth.PASSDB_RESULT_OK, {} end
      function script_init() return 0 end function script_deinit() end]],
    ["d.conf"] = [[
base_dir = FOLDER/run
state_dir = FOLDER/run
log_path = FOLDER/log
protocols =
listen = 127.0.0.1
ssl = no
default_internal_user = root
default_login_user = root
default_internal_group = root
first_valid_uid = 0
import_environment = LUA_CPATH LUAPOOL_HELPER TZ
service auth {
  user = root
  chroot =
}
service anvil {
  chroot =
}
passdb {
  driver = lua
  args = file=FOLDER/auth.lua blocking=no
}
]] }, function(folder)
    ask_server(folder, { "dovecot", "-F", "-c", folder .. "/d.conf" }, function()
      return (os.execute(("timeout 10 doveadm -c '%s/d.conf' auth test bob bob > /dev/null 2>&1"):format(folder)))
    end)
  end)
end

-- (it reaps every child of its own accord, and its threads, descriptors and handlers are those of a server)
function TestOthers.test_lighttpd()
  need "/usr/sbin/lighttpd"
  if not pcall(require, "socket") then lu.skip "no socket here" end
  if not text_of "/usr/lib/lighttpd/mod_magnet.so" then lu.skip "no mod_magnet here" end
  local port = free_port()
  with_folder({
    ["page.lua"] = SAY .. " return 204",
    ["l.conf"] = ([[
server.document-root = "/nonexistent"
server.bind = "127.0.0.1"
server.port = %d
server.modules = ("mod_magnet")
magnet.attract-raw-url-to = ("FOLDER/page.lua")
]]):format(port),
  }, function(folder)
    ask_server(folder, { "/usr/sbin/lighttpd", "-D", "-f", folder .. "/l.conf" }, function() return get(port, "/") end)
  end)
end

-- ---- the heavy ones: installed on request (scripts/install-dependencies heavy) ----

-- A tool with threads: copies of it would lack them, so they are refused, and workers come from a server.
function TestOthers.test_darktable()
  need "darktable-cli"
  with_folder({ ["in.ppm"] = "P3 4 4 255\n" .. ("10 20 30\n"):rep(16), ["say.lua"] = "HAS_THREADS = true" .. SAY }, function(folder)
    local status, out, err = run({ "darktable-cli", folder .. "/in.ppm", folder .. "/out.png", "--core", "--configdir", folder .. "/run",
      "--cachedir", folder .. "/run", "--library", ":memory:", "--luacmd", ('dofile("%s/say.lua")'):format(folder) },
      { env = { HOME = folder } })
    lu.assertEquals(status, 0, out .. err)
    local words = text_of(folder .. "/out"):gsub("has %d+ threads", "has some threads")
    local refusal = 'cannot fork workers: this process has some threads, and a copy of it would have one (use start = "server")'
    lu.assertEquals(words, SUMS:format("server", "fork: " .. refusal))
    lu.assertEquals(text_of(folder .. "/out.png"):sub(1, 4), "\137PNG", "it does what it is for")
  end)
end

-- A game: its own settings, with the probe behind them, are found before those of the distribution. It ends where nothing can be drawn.
function TestOthers.test_caveexpress()
  local program, settings = "/usr/games/caveexpress", "/usr/share/games/caveexpress/config.lua"
  need(program)
  with_folder({ ["say.lua"] = ('dofile "%s"\n'):format(settings) .. SAY }, function(folder)
    local place = folder .. "/.local/share/caveexpress" .. settings
    assert(os.execute(("mkdir -p $(dirname %s) && mv %s/say.lua %s"):format(place, folder, place)))
    ask_server(folder, { program }, nil, { HOME = folder, SDL_VIDEODRIVER = "dummy", SDL_AUDIODRIVER = "dummy" })
  end)
end
