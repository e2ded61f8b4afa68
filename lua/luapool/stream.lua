-- luapool/stream -- results while they come: what imap and the verbs made of it read. Room: lua.
-- Owns: per stream a call (binding/lcall.c, or luapool/inline's), and the pool if it was made for this call.
local core, part = ...

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

--- A meter for a call's progress, or nil if nobody wants one. `before`: items that need not run.
local function new_meter(self, call, total, before)
  if not call.progress then return nil end
  return part("progress").new {
    total = total, done = before, name = self.options.name, workers = math.max(self.options.workers, 1),
    mode = part("defaults").progress(),
    fn = call.progress ~= true and call.progress or nil,
  }
end

-- What tasks print erases the meter's line, if it stands where that goes: `does` is told what has become of it.
local function with_line(meter, handle, does, ...)
  if handle and not handle:line(false) then meter:erased() end
  does(meter, ...)
  if handle then handle:line(meter.is_drawn) end
end

local function show(meter, begun, handle, before)
  local done, total, failed = begun:progress()
  local active, inner = 1, nil
  if handle then active, inner = handle:active() end
  with_line(meter, handle, meter.update, done + before, failed, active, inner, total and total + before)
end

-- How long to wait for something to happen while a meter is shown.
local function patience(meter)
  return math.min(meter:due() or TICK, TICK)
end

--- Begin a call whose results come as they are ready.
---@param order "ordered"|"unordered"
---@param owns boolean? the pool ends with the stream
---@param before integer? items of the job that are done already
---@return luapool.Stream to be closed
function stream.open(self, job, call, order, owns, before)
  local object = setmetatable({ pool = self, owns = owns, collect = call.collect, before = before or 0 }, Stream)
  local ok, begun = pcall(begin, self, job, call, order)
  if not ok then
    object.is_closed = true
    if owns then self:terminate() end
    error(begun, 0)
  end
  object.call = begun
  object.meter = new_meter(self, call, job.n, object.before)
  return object
end

-- Something to be closed that takes a meter's line away.
local function line_of(meter, handle)
  return setmetatable({}, { __close = function() with_line(meter, handle, meter.finish) end })
end

--- End it: what is still running is cancelled and waited for. Idempotent. A second Ctrl-C may end the waiting, but not the rest.
-- err: the error that ends it, if one does.
function Stream:close(err)
  if self.is_closed then return end
  self.is_closed = true
  local _ <close> = self.owns and self.pool or nil -- closed; terminated if that is interrupted
  local _ <close> = self.meter and line_of(self.meter, self.pool.handle)
  self.call:stop(err)
end

-- An error is on its way, and is the one to be told; but a Ctrl-C that comes meanwhile is not lost.
local function close_after_error(self, err)
  local ok, problem = pcall(self.close, self, err)
  if not ok and core.is_interrupt(problem) then error(problem, 0) end
end

function Stream:__close(err)
  if err == nil or self.is_closed then return self:close() end
  close_after_error(self, err)
end

--- Forgotten without having been read to its end. (A worker that inherited it does not touch it.)
function Stream:__gc()
  local handle = self.pool.handle
  if not self.is_closed and self.call and (handle == nil or handle:state() ~= "foreign") then self.call:cancel() end
end

-- values, first, count, err | nil at the end
local function next_frame(self)
  if not self.meter then return self.call:next() end
  while true do
    local values, first, count, err = self.call:next(patience(self.meter))
    show(self.meter, self.call, self.pool.handle, self.before)
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
    close_after_error(self, err)
    error(err, 0)
  end
end

--- What `for` wants: index, value (, error) for each item; the fourth value ends the stream when the loop is left.
function stream.iterate(self, job, call, order, owns)
  local object = stream.open(self, job, call, order, owns)
  local frames = object:frames()
  return core.stepper(function()
    if not object.is_closed then return frames() end
  end), nil, nil, object
end

--- As handle:run, with progress shown: results, n, errors.
function stream.run_with_progress(self, job, call)
  local begun <const> = self.handle:begin(job.fn, job.kind, job.a, job.b, job.n, call, "table")
  local meter = new_meter(self, call, job.n, 0)
  local _ <close> = line_of(meter, self.handle)
  local _ <close> = setmetatable({}, { __close = function(_, err) begun:stop(err) end })
  while true do
    local status = begun:status()
    if status ~= "pending" and status ~= "running" then break end
    self.handle:turn(patience(meter))
    show(meter, begun, self.handle, 0)
  end
  if begun:status() == "cancelled" then
    error(setmetatable({ kind = "cancelled", message = "the call was cancelled" }, core.Error), 0)
  end
  local results, n, errors, problem = begun:outcome()
  if problem ~= nil then error(problem, 0) end
  return results or {}, n, errors
end

--- The same of a pool without workers.
function stream.run_inline(self, job, call)
  local results, errors, n = {}, nil, 0
  local goes_on = call.collect or (call.halt and call.halt.what == "fail")
  local object <close> = stream.open(self, job, setmetatable({ collect = true }, { __index = call }), "ordered")
  for index, _, values, err in object:frames() do
    n = index
    if err then
      errors = errors or {}
      errors[index] = err
      if not goes_on then break end
    elseif not call.into then
      results[index] = values[1]
    end
  end
  return results, job.n or n, errors
end

return stream
