-- luapool/range -- numbers as a source of items, in constant memory. Room: lua. Owns nothing.
local _, part = ...

---@class luapool.Range
---@field first number
---@field step number
---@field n integer how many
local Range = { __name = "luapool.range" }

local methods = {}

function Range.__index(range, key)
  if math.type(key) == "integer" then
    if key < 1 or key > range.n then return nil end
    return range.first + (key - 1) * range.step
  end
  return methods[key]
end

function Range.__len(range) return range.n end

function Range.__eq(a, b) return a.n == b.n and a.first == b.first and a.step == b.step end

function Range.__tostring(range)
  return ("range(%s, %s, %s)"):format(range.first, range.first + math.max(range.n - 1, 0) * range.step, range.step)
end

local function number(value, argument, default)
  if value == nil and default then return default end
  if type(value) ~= "number" or value ~= value then
    error(("bad argument #%d to 'range' (number expected, got %s)"):format(argument, value ~= value and "nan" or type(value)), 3)
  end
  return value
end

-- How many integers from first to last: by unsigned arithmetic, since last - first may overflow.
local function count_integers(first, last, step)
  if (step > 0 and first > last) or (step < 0 and first < last) then return 0 end
  local span, stride = last - first, step
  if step < 0 then span, stride = first - last, -step end
  if span >= 0 and stride > 0 then return span // stride + 1 end
  local limit = part("check").MAX_ITEMS
  if stride < 0 then return math.ult(span, stride) and 1 or 2 end -- step is math.mininteger
  -- span is above math.maxinteger: halve before dividing; exactness beyond the limit does not matter
  local half = (span >> 1) // stride
  return half > limit and limit + 1 or half * 2 + 1
end

local function count_floats(first, last, step)
  local n = (last - first) / step
  if n ~= n then error("bad argument #2 to 'range' (finite number expected)", 3) end
  if n < 0 then return 0 end
  return n >= 2.0 ^ 53 and part("check").MAX_ITEMS + 1 or math.floor(n + 1e-10) + 1
end

--- Numbers as a source: range(n) is 1..n; range(first, last [, step]) as in a numerical `for`.
---@param first number
---@param last number?
---@param step number? default 1; not 0
---@return luapool.Range
local function new(first, last, step)
  number(first, 1)
  if last == nil and step == nil then first, last = 1, first end
  number(last, 2)
  step = number(step, 3, 1)
  if step == 0 then error("bad argument #3 to 'range' (step must not be 0)", 2) end
  local n
  if math.type(first) == "integer" and math.type(step) == "integer" then
    if math.type(last) == "float" then last = math.tointeger(step > 0 and math.floor(last) or math.ceil(last)) or last end
  end
  if math.type(first) == "integer" and math.type(last) == "integer" and math.type(step) == "integer" then
    n = count_integers(first, last, step)
  else
    first, step = first + 0.0, step + 0.0
    n = count_floats(first, last, step)
  end
  if n > part("check").MAX_ITEMS then error("bad argument #2 to 'range' (too many items: 2^48 - 1 at most)", 2) end
  return setmetatable({ first = first, step = step, n = n }, Range)
end

return { new = new, Range = Range }
