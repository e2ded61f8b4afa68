-- run_file.lua FILE REPORT [PATTERN] -- run the luaunit tests of one file, in this process; tests/run.lua calls it.
-- What happens goes line by line into REPORT, so that after a crash or a hang the last line names the culprit:
--   count N / run NAME / ok NAME / skip NAME / fail NAME, then lines of reason that begin with a blank / end
-- After each test: took WALL CPU NAME, seconds of the clock and of processors (SLOWEST=20 make test lists those that took longest)
local file, report_path, pattern = arg[1], arg[2], arg[3]
local luaunit = require "luaunit"
local proc = require "proc"
proc.on_hang(require("witness").describe)

local report = assert(io.open(report_path, "w"))
report:setvbuf("line")

local function say(...)
  report:write(...)
  report:write("\n")
end

local function indented(text)
  return (" " .. text:gsub("\n", "\n "))
end

-- Of this process and of the children that it has reaped.
local function cpu_seconds()
  local stat = assert(io.open("/proc/self/stat"))
  local user, system, reaped_user, reaped_system = stat:read("a"):match("^.*%)" .. (" %S+"):rep(11) .. (" (%d+)"):rep(4))
  stat:close()
  return (user + system + reaped_user + reaped_system) / 100
end

local Output = {}
Output.__index = Output

function Output.new(runner)
  return setmetatable({ runner = runner }, Output)
end

function Output:startSuite()
  say("count ", tostring(self.runner.result.selectedCount))
end

function Output:startTest(name)
  self.started, self.cpu = proc.now(), cpu_seconds()
  say("run ", name)
end

function Output:endTest(node)
  if node:isSuccess() then
    say("ok ", node.testName)
  elseif node:isSkipped() then
    say("skip ", node.testName, "\n", indented(tostring(node.msg or "")))
  else
    say("fail ", node.testName, "\n", indented(tostring(node.msg)), "\n", indented(tostring(node.stackTrace or "")))
  end
  say(("took %.2f %.2f %s"):format(proc.now() - self.started, cpu_seconds() - self.cpu, node.testName))
end

local function nothing() end
Output.startClass, Output.updateStatus, Output.endClass, Output.endSuite = nothing, nothing, nothing, nothing

arg = { [0] = file }
dofile(file)
local runner = luaunit.LuaUnit.new()
runner.outputType = Output
runner.patternIncludeFilter = pattern and { pattern } or nil
runner:registerSuite()
runner:internalRunSuiteByNames(luaunit.LuaUnit.collectTests())
runner:unregisterSuite()
say("end")
report:close()
