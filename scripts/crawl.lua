-- crawl.lua [-w WORKERS] [-t SECONDS] [-r RETRIES] [FILE] -- run the commands that stand in the lines of FILE (or stdin), many at a time.
--   printf 'curl -sf https://%s/\n' example.org example.com | luapool scripts/crawl.lua -w 8 -t 20 -r 2
--   find . -name '*.gz' | sed 's/.*/gzip -t "&"/' | luapool scripts/crawl.lua
-- A command that exits with anything but 0 is tried again RETRIES (1) times; one that takes longer than SECONDS (10) is ended, with all the
-- programs that it has started. Prints a line when a command is over, and the sum. The exit status is 1 if a command failed for good.
-- Shows imap_unordered with time limits and retries; errors = "collect": failures come through the loop instead of ending it.
local pool = pool or require "luapool"

local USAGE = "usage: luapool crawl.lua [-w WORKERS] [-t SECONDS] [-r RETRIES] [FILE]\n"

local function refuse(reason)
  io.stderr:write("crawl.lua: ", reason, "\n", USAGE)
  os.exit(2)
end

local function parse(words)
  -- Commands wait for disks and networks most of the time: more workers than processors are of use.
  local o, i = { workers = 16, timeout = 10, retries = 1 }, 1
  local names = { ["-w"] = "workers", ["-t"] = "timeout", ["-r"] = "retries" }
  while words[i] and words[i]:find "^%-." do
    if words[i] == "--help" then
      io.write(USAGE)
      os.exit(0)
    end
    local name, value = names[words[i]], tonumber(words[i + 1])
    if not name then refuse("unknown option " .. words[i]) end
    if name ~= "timeout" then value = math.tointeger(value) end
    local least = name == "retries" and 0 or name == "workers" and 1 or 0.001
    if not value or value < least or value > 1e6 then refuse(("%s needs a number, %s or more"):format(words[i], least)) end
    o[name], i = value, i + 2
  end
  if words[i + 1] then refuse("one file only, not also " .. words[i + 1]) end
  return o, words[i]
end

local function read_commands(path)
  local file, problem = io.stdin, nil
  if path then file, problem = io.open(path) end
  if not file then refuse(problem) end
  local commands = {}
  for line in file:lines() do
    if line:find "%S" and not line:find "^%s*#" then commands[#commands + 1] = line end
  end
  return commands
end

-- ---- in the workers ------------------------------------------------------------------------------

-- Run a command to its end. An error is what makes the pool try again, and what the host is told after the last try.
local function run(command)
  local pipe <close> = assert(io.popen(command .. "\n"))
  local bytes, first_line = 0, nil
  for block, rest in pipe:lines(4096, "L") do -- read all of it, however long it is, and keep a line
    block = block .. (rest or "")
    bytes, first_line = bytes + #block, first_line or block:match "[^\n]*"
  end
  local ok, how, code = pipe:close()
  if not ok then error(("%s %d"):format(how, code), 0) end
  return { bytes = bytes, first_line = first_line }
end

-- ---- in this process -----------------------------------------------------------------------------

local function main(p, commands, o)
  local bytes, failed = 0, 0
  io.stdout:setvbuf "line" -- each line at once, through a pipe, too
  for i, page, err in p:imap_unordered(run, commands, { timeout = o.timeout, retries = o.retries, errors = "collect" }) do
    if err then
      failed = failed + 1
      print(("failed  %s: %s"):format(commands[i], err.kind == "error" and err.message or err.kind))
    else
      bytes = bytes + page.bytes
      print(("%6d  %s%s"):format(page.bytes, commands[i], page.first_line and ": " .. page.first_line or ""))
    end
  end
  print(("%d commands, %d failed, %d bytes"):format(#commands, failed, bytes))
  return failed == 0
end

local o, path = parse(arg)
local p <close> = pool.new { workers = o.workers, grace = 0.2, name = "crawl" }
local ok, is_well = pcall(function() return main(p, read_commands(path), o) end)
if not ok then
  if not pool.is_interrupt(is_well) then error(is_well, 0) end
  p:terminate()
end
os.exit(ok and is_well, true)
