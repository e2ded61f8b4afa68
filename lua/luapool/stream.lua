-- luapool/stream -- results while they come: what imap and the verbs made of it read. Room: lua.
-- Owns: per stream a call (binding/lcall.c, or luapool/inline's), and the pool if it was made for this call.
local _, part = ...

local stream = {}

---@class luapool.Stream
local Stream = { __name = "luapool.stream" }
Stream.__index = Stream

local TICK <const> = 0.1 -- seconds between looks at the progress

local function begin(self, job, call, order)
  local Pool = part "pool"
  if Pool.is_inline(self) then return part("inline").begin(self, job, call) end
  return self.handle:begin(job.fn, job.kind, job.a, job.b, job.n, call, order)
end

--- A meter for a call's progress, or nil if nobody wants one.
local function new_meter(self, call, total)
  if not call.progress then return nil end
  return part("progress").new {
    total = total, name = self.options.name, mode = "auto", fn = call.progress ~= true and call.progress or nil,
  }
end

local function show(meter, begun, handle)
  if not meter then return end
  local done, total, failed = begun:progress()
  local active, fractions = 0, nil
  if handle then active, fractions = handle:active() end
  meter:update(done, failed, active, fractions, total)
end

--- Begin a call whose results come as they are ready.
---@param order "ordered"|"unordered"
---@param owns boolean? the pool ends with the stream
---@return luapool.Stream to be closed
function stream.open(self, job, call, order, owns)
  local object = setmetatable({ pool = self, owns = owns, collect = call.collect }, Stream)
  object.call = begin(self, job, call, order)
  object.meter = new_meter(self, call, job.n)
  return object
end

--- End it: what is still running is cancelled and waited for. Idempotent.
function Stream:close()
  if self.is_closed then return end
  self.is_closed = true
  if self.meter then self.meter:finish() end
  self.call:stop()
  if self.owns then self.pool:close() end
end

function Stream:__close(err)
  if err == nil or self.is_closed then return self:close() end
  pcall(self.close, self) -- the error that is on its way is the one to be told
end

--- Forgotten without having been read to its end.
function Stream:__gc()
  if not self.is_closed then self.call:cancel() end
end

-- values, first, count, err | nil at the end
local function next_frame(self)
  if not self.meter then return self.call:next() end
  while true do
    local values, first, count, err = self.call:next(TICK)
    show(self.meter, self.call, self.pool.handle)
    if values ~= false then return values, first, count, err end
  end
end

--- An iterator: first, count, values (1 .. count), or first, 1, nil, error where failures are collected; else a failure is raised.
function Stream:frames()
  return function()
    local values, first, count, err = next_frame(self)
    if err == nil and values == nil then
      self:close()
      return nil
    end
    if err == nil then return first, count, values end
    if self.collect then return first, 1, nil, err end
    pcall(self.close, self)
    error(err, 0)
  end
end

--- What `for` wants: index, value (, error) for each item; the fourth value ends the stream when the loop is left.
function stream.iterate(self, job, call, order, owns)
  local object = stream.open(self, job, call, order, owns)
  local frames = object:frames()
  local k, n, before, values, err = 0, 0, 0, nil, nil
  local function step()
    if k < n then
      k = k + 1
      return before + k, values[k]
    end
    if object.is_closed then return nil end
    local first
    first, n, values, err = frames()
    if not first then
      k, n = 0, 0
      return nil
    end
    k, before = 1, first - 1
    if err then return first, nil, err end
    return first, values[1]
  end
  return step, nil, nil, object
end

--- As handle:run, with progress shown: results, n, errors.
function stream.run_with_progress(self, job, call)
  local begun <const> = self.handle:begin(job.fn, job.kind, job.a, job.b, job.n, call, "table")
  local meter = new_meter(self, call, job.n)
  local _ <close> = setmetatable({}, { __close = function()
    if meter then meter:finish() end
    begun:stop()
  end })
  while true do
    local status = begun:status()
    if status ~= "pending" and status ~= "running" then break end
    self.handle:turn(TICK)
    show(meter, begun, self.handle)
  end
  local results, n, errors, problem = begun:outcome()
  if problem ~= nil then error(problem, 0) end
  return results or {}, n, errors
end

return stream
