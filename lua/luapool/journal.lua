-- luapool/journal -- the log of a long call: what is done is never done again. Room: lua. Owns: one C handle (the file and its lock).
-- Feature: journal. The file is text, one object of JSON a line:
--   {"luapool":1,"job":"<number>","verb":"map","fn":"job.lua:12","source":"range 1 1","items":1000,"parts":{...},"c":"..."}
--   {"i":17,"s":0.0123,"w":2,"ok":true,"r":<result>,"c":"..."}
--   {"i":18,"s":0.5,"w":1,"ok":false,"kind":"error","message":"...",...,"c":"..."}
-- The last line of an item counts. A result is plain JSON where that holds it bit for bit (nil, booleans, integers, floats with a point or
-- an exponent, text in UTF-8), else {"$":"<base64>"} of what a worker would have sent. "c" is the CRC-32 of the line before it: a line
-- whose checksum is wrong counts as never written. Whatever a log says is for its own job only: see journal.identity.
local core, part = ...

local json = part "json"
local fingerprint = part "fingerprint"

local journal = {}

local VERSION = 1
local MAGIC = '{"luapool":'
local SYNC_SECONDS = 1 -- between two syncs that nobody waits for
local MAX_PARTS = 64   -- of a function, named in the first line

---@class luapool.Journal
---@field path string
---@field warnings string[] what was found wrong with the file, in words (each was a `warn` too)
---@field n_done integer items that will not run: done, and (unless they are tried again) failed
---@field n_failed integer of these, failed
local methods = {}
local Journal = { __name = "luapool.Journal", __index = methods }

-- ---- whose log it is ----

local function plain_number(number)
  return json.number(number) or tostring(number)
end

local function source_text(job)
  if job.kind == "range" then return ("range %s %s"):format(plain_number(job.a), plain_number(job.b)) end
  if type(job.a) == "table" then return job.kind .. " " .. fingerprint.of(job.a) end
  if type(job.a) == "userdata" and type(job.n) == "number" then return job.kind .. " " .. fingerprint.of_elements(job.a, job.n) end
  return job.kind
end

local function some_parts(parts)
  local names, kept = {}, {}
  for name in pairs(parts) do names[#names + 1] = name end
  table.sort(names)
  for i = 1, math.min(#names, MAX_PARTS) do kept[names[i]] = parts[names[i]] end
  return kept
end

--- What makes a job that job: the function (its code and the values that it sees: luapool/fingerprint), the verb, the source and its
--- length, the seed. Names of files, line numbers, workers, chunks and limits do not count; another release of Lua makes other bytecode.
---@param job table fn (the user's own function), verb (default "map"), kind, a, b, n as check.source gave them, seed
---@return table identity for journal.open
function journal.identity(job)
  local number, parts = fingerprint.of_function(job.fn)
  return {
    job = number, parts = some_parts(parts), fn = core.place(job.fn), verb = job.verb or "map",
    source = source_text(job), items = job.n, seed = job.seed, callee = job.fn,
  }
end

local ORDER = { "luapool", "job", "verb", "fn", "source", "items", "seed", "parts" }

local function header_line(identity)
  local header = { luapool = VERSION }
  for _, name in ipairs(ORDER) do header[name] = header[name] or identity[name] end
  return json.object(header, ORDER)
end

local function describe(job)
  local items = job.items and ("%d items"):format(job.items) or "items of an iterator"
  return ("%s of %s over %s (function %s)"):format(job.verb, job.fn, items, job.job)
end

-- Which parts of the function are others, in words.
local function different_parts(old, new)
  local names = {}
  for name, number in pairs(old) do
    if new[name] ~= number then names[#names + 1] = name end
  end
  for name in pairs(new) do
    if old[name] == nil then names[#names + 1] = name end
  end
  table.sort(names)
  for i = 6, #names do names[i] = i == 6 and "..." or nil end
  return #names > 0 and " (" .. table.concat(names, ", ") .. ")" or ""
end

-- What tells the two jobs apart; nil: nothing does.
local function differences(header, identity)
  local words = {}
  if header.verb ~= identity.verb then words[#words + 1] = "the verb" end
  if header.job ~= identity.job then
    local parts = type(header.parts) == "table" and header.parts or {}
    words[#words + 1] = "the function" .. different_parts(parts, identity.parts)
  end
  if header.items ~= identity.items then
    words[#words + 1] = "the number of items"
  elseif header.source ~= identity.source then
    words[#words + 1] = "the items"
  end
  if header.seed ~= identity.seed then words[#words + 1] = "the seed" end
  return #words > 0 and table.concat(words, ", ") or nil
end

-- ---- reading ----

-- Raise it as what any failed call raises.
local function fail(text, ...)
  error(setmetatable({ kind = "error", message = text:format(...) }, part "errors"), 0)
end

local function refuse(self, text, ...)
  fail("the log %s " .. text, self.path, ...)
end

local function warn_of(self, text)
  self.warnings[#self.warnings + 1] = text
  part("defaults").warn("the log ", self.path, ": ", text)
end

-- A line of the file: text, is it whole, where the next one begins; nothing behind the last.
local function line_at(self, offset)
  local line, is_whole, behind = self.handle:next(offset)
  if line == nil and is_whole then refuse(self, "cannot be read: %s", is_whole) end
  return line, is_whole, behind
end

-- The first line as a table; nil: there is none yet (also when its writer was killed in the middle of it).
local function read_header(self)
  local line, is_whole, behind = line_at(self, 0)
  if not line then
    local head, problem = self.handle:head(#MAGIC)
    if not head then refuse(self, "cannot be read: %s", problem) end
    if head == MAGIC:sub(1, #head) then return nil end
    refuse(self, "is no log of luapool: choose another name for it")
  end
  if line:sub(1, #MAGIC) ~= MAGIC then refuse(self, "is no log of luapool: choose another name for it") end
  local header = is_whole and json.read(line)
  if not header then refuse(self, "cannot be used: its first line, which says what job it is of, is damaged") end
  if header.luapool ~= VERSION then refuse(self, "was written by another version of luapool (format %s)", header.luapool) end
  for name, value in pairs(header) do
    if value == json.null then header[name] = nil end
  end
  return header, behind
end

-- Note one whole record. A later one of the same item takes its place.
local function note(self, line, offset, retries)
  local index, ok, what = line:match('^{"i":(%d+),"s":[^,]*,"w":[^,]*,"ok":(%a+),"(%a+)"')
  index = index and math.tointeger(tonumber(index))
  if not index then return false end
  if self.at[index] then self.n_done = self.n_done - 1 end
  if self.failed[index] then self.n_failed = self.n_failed - 1 end
  self.at[index], self.failed[index] = nil, nil
  if what == "unstored" or (ok == "false" and retries) then return true end
  self.at[index] = offset
  self.n_done = self.n_done + 1
  if ok == "false" then
    self.failed[index] = true
    self.n_failed = self.n_failed + 1
  end
  return true
end

-- Note all records from `offset` on. Returns where they end.
local function read_records(self, offset, retries)
  local number, n_damaged, first_damaged = 1, 0, nil
  while true do
    local line, is_whole, behind = line_at(self, offset)
    if not line then break end
    number = number + 1
    if not (is_whole and note(self, line, offset, retries)) then
      n_damaged = n_damaged + 1
      first_damaged = first_damaged or number
    end
    offset = behind
  end
  if n_damaged > 0 then
    local which = n_damaged == 1 and ("line %d is damaged"):format(first_damaged)
      or ("%d lines are damaged, the first is line %d"):format(n_damaged, first_damaged)
    warn_of(self, which .. "; what they say is done again")
  end
  self.n_records = number - 1
  return offset
end

-- An error as it was raised.
local ERROR_FIELDS = { "kind", "message", "value", "traceback", "index", "item", "worker", "pid", "signal", "exitcode", "max_rss" }

local function decode(self, node)
  if node == nil or node == json.null then return true, nil end
  if type(node) ~= "table" then return true, node end
  if type(node["$"]) ~= "string" then return nil, "it is no value" end
  return self.coder:decode(node["$"])
end

local function decode_error(self, record)
  local e = setmetatable({}, core.Error)
  for _, name in ipairs(ERROR_FIELDS) do
    local ok, value = decode(self, record[name])
    if ok then e[name] = value end
  end
  e.kind = e.kind or "error"
  return e
end

local function forget(self, index, problem)
  warn_of(self, ("what it says of item %d cannot be used (%s): it is done again"):format(index, problem))
  self.at[index] = nil
  self.n_done = self.n_done - 1
  if self.failed[index] then
    self.failed[index] = nil
    self.n_failed = self.n_failed - 1
  end
end

local RESULT = '^{"i":%d+,"s":[^,]*,"w":[^,]*,"ok":true,"r":(.*),"c":"%x+"}$'

-- What a whole line says of its item: ok, value; nil and why if that cannot be used.
local function read_record(self, line)
  local result = line:match(RESULT) -- the common one, without looking at the rest
  if result then
    local node = json.value(result)
    if node == nil then return nil, "it is no value" end
    return decode(self, node)
  end
  local record, problem = json.read(line)
  if not record then return nil, problem end
  return false, decode_error(self, record)
end

--- Was the item finished before, and is not to be run again?
---@param index integer
---@return boolean? ok, any value  nil: run it. true, result. false, error (a pool.Error)
--- Raises when the file cannot be read.
function methods:done(index)
  local offset = self.at[index]
  if not offset then return nil end
  local line, is_whole = line_at(self, offset)
  local ok, value = nil, "it is gone"
  if line and is_whole then ok, value = read_record(self, line) end
  if ok ~= nil then return ok, value end
  forget(self, index, value)
end

--- What is stored, in the order of items: for index, ok, value in j:stored() do (ok and value as from j:done).
function methods:stored()
  local indices = {}
  for index in pairs(self.at) do indices[#indices + 1] = index end
  table.sort(indices)
  local i = 0
  return function()
    while i < #indices do
      i = i + 1
      local ok, value = self:done(indices[i])
      if ok ~= nil then return indices[i], ok, value end
    end
  end
end

--- What is to be run of n items: for first, count in j:missing(n) do. In order; neighbours together.
---@param n integer
function methods:missing(n)
  local next_index = 1
  return function()
    local first = next_index
    while first <= n and self.at[first] do first = first + 1 end
    if first > n then return nil end
    local last = first
    while last < n and not self.at[last + 1] do last = last + 1 end
    next_index = last + 1
    return first, last - first + 1
  end
end

-- ---- writing ----

-- A log that a script wants is a promise to it; one that the command was asked for is less than the work it is about.
local function check_written(self, ok, problem)
  if ok then return end
  if not self.may_end then fail("cannot write the log %s: %s", self.path, problem) end
  self.has_ended = true
  part("defaults").end_logs()
  local text = ("cannot write the log %s any more: %s"):format(self.path, problem)
  if core.lacks("trace") then core.problem(text) else part("record").problem(text) end
end

-- A value as JSON; nil and why if that cannot be.
local function encode(self, value)
  local kind, text = type(value), nil
  if kind == "nil" or kind == "boolean" then return value == nil and "null" or tostring(value) end
  if kind == "number" then
    text = json.number(value)
  elseif kind == "string" then
    text = json.text(value)
  end
  if text then return text end
  local problem
  text, problem = self.coder:encode(value)
  if not text then return nil, problem end
  return '{"$":"' .. text .. '"}'
end

local function result_member(self, index, result)
  local text, problem = encode(self, result)
  if text then return ',"r":' .. text end
  if not self.has_unstored then
    self.has_unstored = true
    warn_of(self, ("the result of item %d cannot be stored (%s): a resumed job does it again"):format(index, problem))
  end
  return ',"unstored":' .. (json.text(problem) or '""')
end

local function error_members(self, e)
  if type(e) ~= "table" then e = { kind = "error", message = tostring(e) } end
  local pieces = {}
  for _, name in ipairs(ERROR_FIELDS) do
    local value = e[name]
    local text = value ~= nil and encode(self, value)
    if text then pieces[#pieces + 1] = (',"%s":%s'):format(name, text) end
  end
  return table.concat(pieces)
end

-- What is no word on the item: it was stopped, not finished.
local UNFINISHED = { interrupt = true, cancelled = true }

--- One more item is finished; written by the next flush or sync. An item that was merely stopped (kinds interrupt and cancelled) is not.
---@param index integer
---@param seconds number? how long it ran
---@param worker integer? which worker ran it
---@param ok boolean
---@param value any its result, or its error
function methods:add(index, seconds, worker, ok, value)
  if self.has_ended or not ok and type(value) == "table" and UNFINISHED[value.kind] then return end
  local members = ok and result_member(self, index, value) or error_members(self, value)
  local line = ('{"i":%d,"s":%s,"w":%s,"ok":%s%s}'):format(index, seconds and ("%.6g"):format(seconds):gsub(",", ".") or "null",
    worker and ("%d"):format(worker) or "null", ok and "true" or "false", members)
  check_written(self, self.handle:add(line))
end

--- Write what was added: after it, death of this process loses none of it. Cheap when there is nothing; call it before waiting.
--- (A power cut may cost the last second.) Raises when it cannot be written; nothing is lost by that, a later flush tries again.
function methods:flush()
  if self.has_ended then return end
  local now = core.now()
  if now - self.synced_at < SYNC_SECONDS then
    check_written(self, self.handle:flush())
  else
    self:sync()
  end
end

--- The same, and wait until it is on the disk: before anything of it is given to the script. Cheap when there is nothing new.
function methods:sync()
  if self.has_ended then return end
  check_written(self, self.handle:sync())
  self.synced_at = core.now()
end

--- Write, sync, close. Idempotent; never raises for a full disk, so that it can end any call.
---@return boolean? ok, string? message
function methods:close()
  if self.has_ended then
    self.handle:abandon()
    return true
  end
  local ok, problem = self.handle:close()
  if ok then return true end
  if self.may_end then
    check_written(self, ok, problem)
    return true
  end
  return nil, ("cannot write the log %s: %s"):format(self.path, problem)
end

Journal.__close = methods.close

-- ---- opening ----

local function begin(self, identity)
  check_written(self, self.handle:cut(0))
  check_written(self, self.handle:add(header_line(identity)))
  self:sync()
end

-- The file has records, and nobody said that they shall be used.
local function refuse_to_start_anew(self, header, identity)
  local what = differences(header, identity)
  if what then refuse(self, "belongs to another job, %s: choose another name, or remove it", describe(header)) end
  refuse(self, 'has %d items of this job: go on with resume = true (or "failed", to try the %d failed ones again; '
    .. "the command: --resume), or remove it",
    self.n_done, self.n_failed)
end

local function load(self, identity, mode)
  local header, offset = read_header(self)
  if not header then return begin(self, identity) end
  local what = mode and differences(header, identity)
  if what then
    refuse(self, "belongs to another job: it is of %s, this is %s; what differs: %s", describe(header), describe(identity), what)
  end
  offset = read_records(self, offset, mode == "failed")
  if not mode and self.n_records == 0 then return begin(self, identity) end
  if not mode then refuse_to_start_anew(self, header, identity) end
  check_written(self, self.handle:cut(offset)) -- a last line that was cut short is done again
  self:sync() -- whoever wrote it may have been killed before
end

--- Open the log of a job.
---   mode true      go on: items that are in it, failed ones too, are not run again. A file that is not there is made
---   mode "failed"  go on, but run those again that failed
---   mode nil, false  start: a file that has items already is refused, whatever job they are of (none is ever overwritten)
---@param path string
---@param identity table from journal.identity
---@param mode boolean|string|nil
---@param may_end boolean? what cannot be written is told once, by the exit status too, and nothing more is written then: no error
---@return luapool.Journal
--- Raises (a pool.Error of kind "error") when the file cannot be used: no log, another job's, in use by somebody else, not to be read or
--- written. It is not changed then. Blocks in the file system; reads the whole file once.
function journal.open(path, identity, mode, may_end)
  local handle, problem = core.journal(path)
  if not handle then fail("cannot open the log %s: %s", path, problem) end
  local self = setmetatable({
    path = path, may_end = may_end, handle = handle, coder = core.coder(identity.callee), warnings = {}, at = {}, failed = {},
    n_done = 0, n_failed = 0, n_records = 0, synced_at = core.now(),
  }, Journal)
  if not problem then warn_of(self, "its file system has no locks: see that no other process writes to it") end -- (has_lock, here)
  local ok, err = pcall(load, self, identity, mode)
  if not ok then
    handle:abandon() -- now, not when it is collected: it is locked
    error(err, 0)
  end
  return self
end

return journal
