-- run_file.lua FILE REPORT [PATTERN] -- run the luaunit tests of one file, in this process; tests/run.lua calls it.
-- What happens goes line by line into REPORT, so that after a crash or a hang the last line names the culprit:
--   count N / run NAME / ok NAME / skip NAME / fail NAME, then lines of reason that begin with a blank / end
local file, report_path, pattern = arg[1], arg[2], arg[3]
local luaunit = require "luaunit"

local report = assert(io.open(report_path, "w"))
report:setvbuf("line")

local function say(...)
  report:write(...)
  report:write("\n")
end

local function indented(text)
  return (" " .. text:gsub("\n", "\n "))
end

local Output = {}
Output.__index = Output

function Output.new(runner)
  return setmetatable({ runner = runner }, Output)
end

function Output:startSuite()
  say("count ", tostring(self.runner.result.selectedCount))
end

function Output:startTest(name) -- luacheck: no self
  say("run ", name)
end

function Output:endTest(node) -- luacheck: no self
  if node:isSuccess() then
    say("ok ", node.testName)
  elseif node:isSkipped() then
    say("skip ", node.testName, "\n", indented(tostring(node.msg or "")))
  else
    say("fail ", node.testName, "\n", indented(tostring(node.msg)), "\n", indented(tostring(node.stackTrace or "")))
  end
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
