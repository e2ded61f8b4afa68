-- What the benchmarks compute: the same functions for the serial loop, the pool, and two processes that know nothing of each other.
-- A workload is { fn = function of one item, items = list of items or their number }.
local tasks = {}

local function square(x) return x * x end

local COLUMNS, ROWS, STEPS = 480, 320, 200

-- One row of the Mandelbrot set, as a list of how many steps each point needs.
local function mandelbrot_row(row)
  local counts = {}
  local cy = (row - 0.5) / ROWS * 2.4 - 1.2
  for column = 1, COLUMNS do
    local cx = (column - 0.5) / COLUMNS * 3.6 - 2.4
    local x, y, steps = 0.0, 0.0, 0
    while steps < STEPS and x * x + y * y <= 4.0 do
      x, y = x * x - y * y + cx, 2.0 * x * y + cy
      steps = steps + 1
    end
    counts[column] = steps
  end
  return counts
end

-- How many primes there are below n, by trial division: n decides what an item costs.
local function primes_below(n)
  local count = 0
  for candidate = 2, n - 1 do
    local divisor, is_prime = 2, true
    while divisor * divisor <= candidate do
      if candidate % divisor == 0 then
        is_prime = false
        break
      end
      divisor = divisor + 1
    end
    if is_prime then count = count + 1 end
  end
  return count
end

local function record(i)
  return { id = i, half = i * 0.5, name = "item " .. i, is_even = i % 2 == 0 }
end

local function upper(text) return text:upper() end

-- A few items cost very much, most little; where the dear ones are looks random.
local function heavy_tailed(count)
  local items = {}
  for i = 1, count do items[i] = math.floor(300 + 30000 / math.sqrt(i * 163 % (count + 1) + 1)) end
  return items
end

local function counting_up(count)
  local items = {}
  for i = 1, count do items[i] = i end
  return items
end

local function texts(count, length)
  local items = {}
  for i = 1, count do items[i] = string.char(97 + i % 26):rep(length) end
  return items
end

local makers = {
  squares = function() return square, 1000000 end,
  mandelbrot = function() return mandelbrot_row, ROWS end,
  sorted = function() return primes_below, counting_up(2000) end,
  heavy = function() return primes_below, heavy_tailed(400) end,
  records = function() return record, 100000 end,
  payload = function() return upper, texts(256, 1 << 20) end,
}

function tasks.get(name)
  local fn, items = makers[name]()
  return { fn = fn, items = items, count = type(items) == "table" and #items or items }
end

-- The serial loop: every `step`-th item from `first` on.
function tasks.run_serially(workload, first, step)
  local fn, items, results, n = workload.fn, workload.items, {}, 0
  if type(items) == "table" then
    for i = first, #items, step do
      n = n + 1
      results[n] = fn(items[i])
    end
  else
    for i = first, items, step do
      n = n + 1
      results[n] = fn(i)
    end
  end
  return results
end

return tasks
