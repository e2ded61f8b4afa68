-- command/oneliner_joblog -- the joblog, in GNU parallel's format, and when to end early. Room: lua. Owns: per joblog its file.

local joblog = {}

local HEADER <const> = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"

---@class luapool.Joblog
local Joblog = {}
Joblog.__index = Joblog

-- What a joblog says: done[seq] = true, or false where the last word is a failure. What is no line of it is passed over (the last one may
-- be torn).
local function read(path)
  local file, message, code = io.open(path, "rb")
  if not file then
    if code == 2 then return {}, nil end -- there is none yet
    return nil, message
  end
  local done, last = {}, ""
  for line in file:lines("L") do
    local seq, status, signal = line:match("^(%d+)\t[^\t]*\t[^\t]*\t[^\t]*\t[^\t]*\t[^\t]*\t(%-?%d+)\t(%d+)\t.*\n$")
    if seq then done[math.tointeger(tonumber(seq))] = status == "0" and signal == "0" end
    last = line
  end
  file:close()
  return done, last
end

--- Open a joblog: a new one, or (resume = "all" or "failed") one that is gone on with.
---@return luapool.Joblog? log, string? message
function joblog.open(path, resume)
  local self = setmetatable({ path = path, done = {}, resume = resume }, Joblog)
  local last = nil
  if resume then
    local done
    done, last = read(path)
    if not done then return nil, last end
    self.done = done
  end
  local message
  self.file, message = io.open(path, resume and "ab" or "wb")
  if not self.file then return nil, message end
  if not last or last == "" then
    self:write(HEADER)
  elseif last:sub(-1) ~= "\n" then
    self:write "\n"
  end
  if self.problem then return nil, self.problem end
  return self
end

function Joblog:write(text)
  if self.problem then return end
  local ok, message = self.file:write(text)
  if ok then ok, message = self.file:flush() end
  if not ok then self.problem = ("%s: %s"):format(self.path, message) end
end

--- Is item `number` done, as far as this joblog goes on with an old one?
function Joblog:has(number)
  if not self.resume then return false end
  local is_good = self.done[number]
  if self.resume == "failed" then return is_good == true end
  return is_good ~= nil
end

--- One more item is done.
---@param job table number, began (seconds since the epoch), seconds, bytes, status, signal, command
function Joblog:add(job)
  self:write(("%d\t:\t%.3f\t%10.3f\t0\t%d\t%d\t%d\t%s\n"):format(job.number, job.began, job.seconds, job.bytes, job.status, job.signal,
    (job.command:gsub("\n", "\0"))))
end

function Joblog:close()
  if self.file then self.file:close() end
  self.file = nil
end

-- ---- when to end early ----

local OLD <const> = { ["0"] = "never", ["1"] = "soon,fail=1", ["2"] = "now,fail=1" }

--- The policy that --halt names, or nil and what was expected.
---@return table? halt, string? expected
function joblog.halt(text)
  text = OLD[text] or text
  if text == "never" then return { is_never = true } end
  local when, what, number, percent = text:match("^(%a+),(%a+)=(%d+)(%%?)$")
  number = math.tointeger(tonumber(number))
  if (when ~= "now" and when ~= "soon") or (what ~= "fail" and what ~= "success" and what ~= "done") or not number or number < 1 or
    (percent == "%" and number > 100) then
    return nil, "never, now,fail=1, soon,fail=10%, now,success=1, now,done=5 or the like"
  end
  return { when = when, what = what, number = number, is_percent = percent == "%" }
end

--- Has it come so far?
---@param counts table fail, success
---@param total integer? of items, if that is known
function joblog.is_reached(halt, counts, total)
  if halt.is_never then return false end
  local count = halt.what == "fail" and counts.fail or halt.what == "success" and counts.success or counts.fail + counts.success
  if not halt.is_percent then return count >= halt.number end
  return total ~= nil and count > 0 and count * 100 >= halt.number * total
end

return joblog
