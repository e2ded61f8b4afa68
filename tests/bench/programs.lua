-- tests/bench/programs.lua NAME -- serial programs of several kinds, for `make bench`: run by the command and by lua5.4.
local programs = {}

function programs.trees()
  local function make(depth)
    if depth == 0 then return {} end
    return { make(depth - 1), make(depth - 1) }
  end
  local function count(tree)
    if tree[1] then return 1 + count(tree[1]) + count(tree[2]) end
    return 1
  end
  local long, sum = make(16), 0
  for depth = 4, 16, 2 do
    for _ = 1, 1 << (18 - depth) do sum = sum + count(make(depth)) end
  end
  return sum + count(long)
end

function programs.records()
  local n = 0
  for _ = 1, 4 do
    local list = {}
    for i = 1, 60000 do list[i] = { id = i, name = "n" .. i, x = i * 0.5, tags = { i, i + 1 } } end
    table.sort(list, function(a, b) return a.x > b.x end)
    n = n + list[1].id
  end
  return n
end

function programs.queue()
  local Object = {}
  Object.__index = Object
  local map, queue, n = {}, {}, 0
  for i = 1, 300000 do
    local object = setmetatable({ key = i, payload = { i } }, Object)
    queue[i] = object
    map["k" .. (i % 50000)] = object
    if i > 1000 then
      n = n + #queue[i - 1000].payload + (map["k" .. (i - 1000) % 50000] and 1 or 0)
      queue[i - 1000] = nil
    end
  end
  return n
end

function programs.closures()
  local function compose(f, g) return function(x) return f(g(x)) end end
  local n = 0
  for i = 1, 150000 do
    local f = function(x) return x + i end
    for k = 2, 8 do f = compose(f, function(x) return x + k + i end) end
    n = n + f(1)
  end
  return n
end

function programs.coroutines()
  local n = 0
  for i = 1, 200000 do
    local function produce()
      for k = 1, 5 do coroutine.yield({ k, i }) end
    end
    for value in coroutine.wrap(produce) do n = n + value[1] end
  end
  return n
end

function programs.gsub()
  local text, n = ("the quick brown fox jumps over the lazy dog 12345 "):rep(200), 0
  for i = 1, 300 do
    local s = text:gsub("%a+", function(word) return word:upper() .. i end)
    for digits in s:gmatch("%d+") do n = n + #digits end
    s = s:gsub("(%a)(%a+)", "%2%1")
    n = n + #s
  end
  return n
end

function programs.strings()
  local n = 0
  for round = 1, 25 do
    local list = {}
    for i = 1, 30000 do list[i] = "item " .. i .. " of round " .. round end
    n = n + #table.concat(list, ",")
  end
  return n
end

function programs.matrices()
  local size = 150
  local function new(f)
    local matrix = {}
    for i = 1, size do
      local row = {}
      for j = 1, size do row[j] = f(i, j) end
      matrix[i] = row
    end
    return matrix
  end
  local a, b = new(function(i, j) return i + j end), new(function(i, j) return i - j end)
  for _ = 1, 3 do
    local left = a
    a = new(function(i, j)
      local sum, row = 0.0, left[i]
      for k = 1, size do sum = sum + row[k] * b[k][j] end
      return sum / 1000
    end)
  end
  return a[3][7]
end

programs.NAMES = { "trees", "records", "queue", "closures", "coroutines", "gsub", "strings", "matrices" }

if arg and arg[0] and arg[0]:find("programs.lua", 1, true) then return print(programs[arg[1]]()) end
return programs
