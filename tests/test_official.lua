-- The official test suite of the Lua release that is linked (https://www.lua.org/tests/), its test of the stand-alone interpreter included.
-- It is not part of this project: LUA_TESTS names the directory where it lies (that of all.lua); without it these tests are skipped.
local lu = require "luaunit"
local proc = require "proc"

local LUAPOOL = os.getenv("LUAPOOL") or "build/luapool"
local SUITE = os.getenv("LUA_TESTS")

TestOfficial = {}

local function shell(...)
  local status, _, err = proc.spawn({ args = { ... } }):finish(20)
  if status.exit ~= 0 then error(table.concat({ ... }, " ") .. ": " .. err) end
end

-- The suite writes beside itself: it runs in a copy.
function TestOfficial:setUp()
  if not SUITE then lu.skip("LUA_TESTS does not name a directory with the official test suite") end
  if not io.open(SUITE .. "/all.lua") then lu.fail("no all.lua in LUA_TESTS=" .. SUITE) end
  self.directory = os.tmpname()
  os.remove(self.directory)
  shell("cp", "-R", SUITE, self.directory)
end

function TestOfficial:tearDown()
  if self.directory then shell("rm", "-rf", self.directory) end
end

local function absolute(path)
  return path:sub(1, 1) == "/" and path or proc.directory() .. "/" .. path
end

function TestOfficial:run(deadline, ...)
  local p = proc.spawn {
    args = { absolute(LUAPOOL), ... }, cwd = self.directory, stderr = "stdout", deadline = deadline,
    env = { LUA_PATH = false, LUA_CPATH = false, LUA_INIT = false, LUA_PATH_5_4 = false, LUA_CPATH_5_4 = false, LUA_INIT_5_4 = false },
  }
  local status, out = p:finish(deadline)
  proc.kill_marked(p.mark) -- the suite does not wait for programs that it sent signals to
  return status, out
end

function TestOfficial:test_portable_suite()
  local status, out = self:run(300, "-W", "-e", "_U=true", "all.lua")
  lu.assertStrContains(out:sub(-2000), "final OK !!!")
  lu.assertEquals(status.exit, 0)
end

-- Its test of Ctrl-C expects that a shell's `echo $!` comes before the output of the program which the shell has just started, and else
-- takes that output for the pid. On a busy machine this happens: then, and only then, it gets another chance.
local function lost_its_own_race(out)
  return out:find("running in background, pid 12)", 1, true)
end

function TestOfficial:test_stand_alone_interpreter()
  local status, out
  for _ = 1, 5 do
    status, out = self:run(120, "main.lua")
    if not lost_its_own_race(out) then break end
  end
  lu.assertEquals(status.exit, 0, out:sub(-2000))
  lu.assertStrMatches(out, ".*\nOK\n")
end
