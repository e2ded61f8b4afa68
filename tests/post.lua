-- post.lua -- scenarios with signals and deaths, and what must be true after each of them.
--   local s <close> = post.start { code = "...", pty = true, ... }   -- the options of proc.spawn; luapool runs the code
--   s:await("ready")  s:send("group", "INT")  s:finish { signal = "SIGINT", stdout = "" }
-- `finish` checks everything: the status, no process left, no zombie in a living host, no name in /dev/shm, nothing in TMPDIR, the
-- terminal's settings, stdout to the byte, at most one line on stderr, and an end in time. Lines "#word" on stderr are the script's words
-- to the tester.
local lu = require "luaunit"
local proc = require "proc"
local ways = require "ways"

local post = {}

post.LUAPOOL = os.getenv("LUAPOOL") or "build/luapool"
post.FAULTY = os.getenv("LUAPOOL_FAULTS") or (post.LUAPOOL:gsub("luapool$", "faults/luapool"))

--- What a loaded machine may take longer than what was promised; long enough for noise, too short for a wait that should not be.
post.SLACK = 8

local BUILD = os.getenv("BUILD") or "build"

-- What every script starts with.
--   say(word)       a word to the tester
--   rest()          wait for the tester (he looks for zombies meanwhile)
local PRELUDE = [[
local function say(word) io.stderr:write("#" .. word .. "\n") end
local function spin(s) local t = os.clock() while os.clock() - t < s do end end
local function rest() say "rest" io.read() end
local function is_interrupt(e) return type(e) == "table" and e.kind == "interrupt" and tostring(e) == "interrupted!" end
local function closer(f) return setmetatable({}, { __close = f }) end
]]

--- For scripts: fds() counts the descriptors of the program. (Looked at from inside: os.execute and io.popen have some of their own, which
--- another process sees or not, as its luck would have it.)
post.FDS = [[
local function fds()
  local proc = require "proc"
  return #proc.fds(proc.pid())
end
]]

--- For scripts: start_early() does what luapool_init_early does in a program; the command has no option for it.
post.EARLY = [[
local function start_early()
  for i = 1, 20 do
    local name, core = debug.getupvalue(pool.shield, i)
    if name == "core" then return core.early_start() end
  end
end
]]

--- For scripts: try(f) counts, in `count`, the interrupts that f must end with.
post.TRY = [[
local count = 0
local function try(f)
  local ok, e = pcall(f)
  assert(not ok and is_interrupt(e), tostring(e))
  count = count + 1
end
]]

local function shared_memory()
  local names = {}
  for _, name in ipairs(proc.list("/dev/shm") or {}) do names[name] = true end
  return names
end

local function make_directory()
  local pipe = assert(io.popen(("mktemp -d %s/tests/tmp-XXXXXX"):format(BUILD)))
  local name = pipe:read("l")
  pipe:close()
  return name:sub(1, 1) == "/" and name or proc.directory() .. "/" .. name
end

---@class Scenario
local Scenario = {}
Scenario.__index = Scenario

function Scenario:__close()
  do
    local child <close> = self.child -- killed and reaped with all that it started, whatever the test came to
    self.child = child
  end
  os.execute(("rm -rf '%s' '%s.scratch'"):format(self.directory, self.directory))
end

--- Start a scenario: `args` (a program), or `code` (a script for `program`, by default luapool) with `arg`.
function post.start(options)
  local spawn = { env = {} }
  for _, key in ipairs { "args", "stdin", "stdout", "stderr", "pty", "cwd", "ignore", "deadline" } do spawn[key] = options[key] end
  for key, value in pairs(options.env or {}) do spawn.env[key] = value end
  local self = setmetatable({ names = shared_memory(), directory = make_directory(), is_pty = options.pty }, Scenario)
  spawn.env.TMPDIR = self.directory
  spawn.env.SCRATCH = self.directory .. ".scratch"
  if options.code then
    spawn.args = table.move(options.before or {}, 1, #(options.before or {}), 1, {})
    table.move({ options.program or post.LUAPOOL, "-e", PRELUDE .. options.code }, 1, 3, #spawn.args + 1, spawn.args)
  end
  self.child = proc.spawn(spawn)
  self.pid, self.mark = self.child.pid, self.child.mark
  if options.pty then self.terminal = self.child.terminal end
  return self
end

-- What the script said to us is not its output.
local function without_words(text)
  return (("\n" .. text:gsub("\r\n", "\n")):gsub("\n#[%w_.-]+%f[\n]", ""):sub(2))
end

function Scenario:stdout() return without_words(self.child.stdout) end
-- (An emulator says of a process that dies of a signal that it does.)
function Scenario:stderr() return (without_words(self.child.stderr):gsub("qemu: uncaught target signal [^\n]*\n", "")) end

--- Wait until the script has said `word` (`count` times).
function Scenario:await(word, count)
  local function said()
    local text = (self.child.stderr .. "\n" .. self.child.stdout):gsub("\r\n", "\n")
    return select(2, text:gsub("#" .. word .. "\n", "")) >= (count or 1)
  end
  local limit = proc.now() + 15 * proc.slowness
  while not said() do
    if proc.now() > limit or self.child:wait(0.0) and not said() then
      lu.fail(("never said '%s'\nstdout: %s\nstderr: %s"):format(word, self.child.stdout, self.child.stderr))
    end
    self.child:read_until("#" .. word .. "\r?\n", 0.02)
  end
end

--- Send a signal: to the "host", its "group", or as ^C through the terminal ("tty").
function Scenario:send(how, signal)
  self.sent = proc.now()
  if how == "tty" then
    self.child:write("\3")
  elseif how == "group" then
    self.child:kill_group(signal or "INT")
  else
    self.child:kill(signal or "INT")
  end
end

--- The host's workers, youngest last.
function Scenario:workers()
  local children = ways.workers(self.host or self.pid)
  table.sort(children, function(a, b) return a.pid < b.pid end)
  return children
end

--- The script rests: no dead child may be waiting for its host.
function Scenario:check_zombies(times)
  self:await("rest", times)
  local zombies = {}
  local children = proc.children(self.host or self.pid)
  if ways.start == "server" then table.move(self:workers(), 1, #self:workers(), #children + 1, children) end
  for _, child in ipairs(children) do
    if child.state == "Z" then zombies[#zombies + 1] = child.pid end
  end
  lu.assertEquals(zombies, {}, "zombies while the host lives")
end

--- It rests; look for zombies and let it go on.
function Scenario:relieve(times)
  self:check_zombies(times)
  self.child:write("\n")
end

local function describe(pid)
  local stat = proc.stat(pid)
  return stat and ("%d (%s, state %s, parent %d)"):format(pid, stat.name, stat.state, stat.ppid) or tostring(pid)
end

--- No process of the scenario but its first lives, and none appears.
function Scenario:check_leftovers(seconds)
  local left
  local function is_clean()
    left = proc.leftovers(self.mark)
    return #left == 0
  end
  if proc.wait_until(is_clean, seconds) then return end
  for i, pid in ipairs(left) do left[i] = describe(pid) end
  lu.fail("left behind: " .. table.concat(left, ", "))
end

function Scenario:check_names()
  local new
  local function is_clean()
    new = {}
    for name in pairs(shared_memory()) do
      if not self.names[name] then new[#new + 1] = name end
    end
    return #new == 0
  end
  proc.wait_until(is_clean, 3)
  lu.assertEquals(new, {}, "names in /dev/shm")
  lu.assertEquals(proc.list(self.directory), {}, "files in TMPDIR")
end

-- "luapool: interrupted!" or nothing when it ends by a signal; nothing at all when it ends well.
local function check_stderr(text, status, expected)
  if expected then
    lu.assertStrMatches(text, expected)
  elseif status.signal and status.signal ~= "SIGKILL" then
    if not text:find("^[%w_/.-]*luapool: interrupted!\n$") then lu.assertEquals(text, "", "on stderr") end
  else
    lu.assertEquals(text, "", "on stderr")
  end
end

--- The end, and everything that must be true then.
---   signal, exit  the status      stdout  exact text, or a function that judges it
---   stderr        a pattern for all of it       within  seconds (2)
---   left_within   seconds after the host's end until nobody else lives (1 for a SIGKILLed host, else at once)
function Scenario:finish(expected)
  local within = (expected.within or 2) + post.SLACK
  local sent = self.sent or proc.now()
  local status = self.child:finish(math.max(within - (proc.now() - sent) / proc.slowness, 0.1))
  local out, err = self:stdout(), self:stderr()
  if status.exit ~= expected.exit or status.signal ~= expected.signal then
    lu.assertEquals({ exit = status.exit, signal = status.signal, stdout = out, stderr = err },
      { exit = expected.exit, signal = expected.signal, stdout = out, stderr = "" })
  end
  self:check_leftovers((expected.left_within or (status.signal == "SIGKILL" and 1 or 0)) + post.SLACK / 2)
  self:check_names()
  if self.is_pty then
    lu.assertEquals(proc.tty_settings(self.child), self.terminal, "the terminal's settings")
    out, err = out:gsub("[%w_/.-]*luapool: interrupted!\n", ""):gsub("%^C?", ""), ""
  end
  if type(expected.stdout) == "function" then
    expected.stdout(out)
  elseif expected.stdout then
    if out ~= expected.stdout then lu.assertEquals(out .. "\nstderr: " .. err, expected.stdout) end
  end
  if not self.is_pty then check_stderr(err, status, expected.stderr) end
  return out, err, status
end

--- Close the terminal: the program dies of that, soon, and leaves nothing.
function Scenario:hang_up()
  self.sent = proc.now()
  self.child:hang_up()
  lu.assertEquals(self.child:finish(2 + post.SLACK).signal, "SIGHUP")
  self:check_leftovers(post.SLACK / 2)
  self:check_names()
end

--- Run to the end without any signal.
function post.run(options)
  local s <close> = post.start(options)
  return s:finish { exit = options.exit or 0, stdout = options.expected, within = options.within or 20, stderr = options.expected_stderr }
end

return post
