-- witness.lua -- what do processes wait for that should have ended long ago? The evidence of a hang, gathered before the runner ends it.
local proc = require "proc"
local witness = {}

local GDB = "gdb -batch -nx -p %d -ex 'set pagination off' -ex 'thread apply all backtrace 24' </dev/null 2>/dev/null"
local LONGEST_WORDS = 200 -- of a command line

local function contents(pid, name)
  local file = io.open(("/proc/%d/%s"):format(pid, name), "rb")
  local text = file and file:read("a") or ""
  if file then file:close() end
  return text
end

-- The frames, without what gdb says besides. Without gdb (or the right to look): none.
local function stack(pid)
  local pipe = io.popen("timeout -k 1 20 " .. GDB:format(pid))
  local lines = {}
  for line in pipe and pipe:lines() or function() end do
    if line:match("^#") or line:match("^Thread") then lines[#lines + 1] = "    " .. line:sub(1, 300) end
  end
  if pipe then pipe:close() end
  return lines
end

local function descriptors(pid)
  local words = {}
  local pipe = io.popen(("ls -l /proc/%d/fd 2>/dev/null"):format(pid))
  for line in pipe and pipe:lines() or function() end do
    words[#words + 1] = line:match("(%d+ %-> .*)$")
  end
  if pipe then pipe:close() end
  return table.concat(words, ", ")
end

local function describe_one(pid, lines)
  local stat = proc.stat(pid)
  if not stat then return end
  local words = contents(pid, "cmdline"):gsub("%z", " "):gsub("[^ -~]", "?"):sub(1, LONGEST_WORDS)
  local form = "process %d (%s), child of %d, group %d, state %s, %d threads, %.1f s of processors, in %s, system call %s"
  lines[#lines + 1] = form:format(pid, stat.name, stat.ppid, stat.pgrp, stat.state, stat.threads, stat.utime + stat.stime,
    contents(pid, "wchan"), contents(pid, "syscall"):match("^%S+") or "?")
  lines[#lines + 1] = "    " .. words
  lines[#lines + 1] = "    " .. descriptors(pid)
  for name, value in contents(pid, "status"):gmatch("(Sig%a+):%s*(%x+)") do
    if not value:match("^0+$") then lines[#lines] = ("%s, %s %s"):format(lines[#lines], name, value) end
  end
  table.move(stack(pid), 1, 100, #lines + 1, lines)
end

-- witness.describe(pid, mark) -- text: the process and all that carry its mark, their states, descriptors and stacks (where gdb may look).
-- May block for some seconds each. Raises nothing.
function witness.describe(pid, mark)
  local lines = {}
  local pids = proc.leftovers(mark)
  if pids[1] ~= pid then table.insert(pids, 1, pid) end
  for i, each in ipairs(pids) do
    if (i == 1 or each ~= pid) and i <= 30 then describe_one(each, lines) end
  end
  return table.concat(lines, "\n")
end

return witness
