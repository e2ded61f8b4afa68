-- luapool/inline -- the verbs without workers: `workers = 0`, and pools inside a task. Room: lua. Owns nothing.
-- Items and results go through the same codec as to real workers, and errors have the same shape. Time limits, memory limits and crashes
-- are the one thing that only a process of its own can contain: they are not enforced here.
local core = ...

local inline = {}

local Error = core.Error

local function item_at(kind, a, b)
  if kind == "range" then
    return function(i) return a + (i - 1) * b end
  elseif kind == "table" then
    return function(i) return a[i] end
  end
  return function() return a() end
end

local function on_error(value)
  local traceback = debug and debug.traceback(nil, 2)
  -- what called the task is ours, not the user's
  traceback = traceback and traceback:gsub("\n\t%[C%]: in function 'xpcall'.*$", "")
  return { value = value, traceback = traceback }
end

local function make_error(kind, problem, index, item)
  local value = problem
  local e = setmetatable({ kind = kind, index = index, item = core.item_text(item), worker = 0 }, Error)
  if kind == "error" and type(problem) == "table" and rawget(problem, "traceback") ~= nil then
    value = problem.value
    e.traceback = problem.traceback
  elseif kind == "error" and type(problem) == "table" then
    value = problem.value
  end
  if core.is_interrupt(value) then return value end
  e.value = value
  local meta = getmetatable(value)
  if type(value) == "string" or type(value) == "number" or (type(meta) == "table" and meta.__tostring) then
    local ok, text = pcall(tostring, value)
    e.message = ok and text or "an error whose value cannot be made into text"
  else
    e.message = ("(error object is a %s value)"):format(type(value))
  end
  if type(value) == "string" and value:find("not enough memory", 1, true) then e.kind = "memory" end
  return e
end

-- One try at one item: true, result | false, error table (or interrupt).
local function try(fn, copy, index, item, discard)
  local ok, sent = copy(item)
  if not ok then return false, make_error("serialize", sent, index, item) end
  local done, result = xpcall(fn, on_error, sent)
  if not done then return false, make_error("error", result, index, item) end
  if discard then return true end
  ok, result = copy(result)
  if not ok then return false, make_error("serialize", result, index, item) end
  return true, result
end

local function try_often(fn, copy, index, item, options)
  local ok, result
  for _ = 0, options.retries or 0 do
    ok, result = try(fn, copy, index, item, options.discard)
    if ok then return true, result end
    if core.is_interrupt(result) then error(result, 0) end
  end
  return false, result
end

--- As handle:run: results, n, errors.
function inline.run(fn, kind, a, b, n, options, seed)
  local copy = core.copier()
  local fetch, results, errors = item_at(kind, a, b), {}, nil
  local index = 0
  while n == nil or index < n do
    local item = fetch(index + 1)
    if n == nil and item == nil then break end
    index = index + 1
    if seed then math.randomseed(seed, index) end
    local ok, result = try_often(fn, copy, index, item, options)
    if ok then
      results[index] = result
    else
      errors = errors or {}
      errors[index] = result
      if not options.collect then break end
    end
  end
  return results, n or index, errors
end

--- As handle:apply: { n = , ... } | nil, error.
function inline.apply(_, fn, ...)
  local copy = core.copier()
  local arguments = table.pack(...)
  for i = 1, arguments.n do
    local ok, value = copy(arguments[i])
    if not ok then error(("argument #%d of the task: %s"):format(i, value), 0) end
    arguments[i] = value
  end
  local results = table.pack(xpcall(fn, on_error, table.unpack(arguments, 1, arguments.n)))
  if not results[1] then
    local e = make_error("error", results[2], nil, nil)
    if core.is_interrupt(e) then error(e, 0) end
    e.item = nil
    return nil, e
  end
  local out = { n = results.n - 1 }
  for i = 2, results.n do
    local ok, value = copy(results[i])
    if not ok then return nil, make_error("serialize", value, nil, nil) end
    out[i - 1] = value
  end
  return out
end

return inline
