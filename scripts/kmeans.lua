-- kmeans.lua [CLUSTERS] [POINTS] [OUT] -- put points of the plane into CLUSTERS (8) groups, each around a centre of its own.
-- POINTS is a file with two numbers in each line; without it there are 50,000 points in overlapping clouds. OUT: a file for the group of
-- each point, one number in a line.
--   luapool scripts/kmeans.lua
--   luapool scripts/kmeans.lua 3 points.txt groups.txt && paste points.txt groups.txt
-- Shows many small maps on one pool, and arrays in shared memory: the points are there once, all workers read them in place and write each
-- point's group beside it; only the centres travel to the workers with each map, and only sums travel back.
local pool = pool or require "luapool"

local USAGE = "usage: luapool kmeans.lua [CLUSTERS] [POINTS] [OUT]\n"
local BLOCK <const> = 2000 -- points in an item
local MOST_ROUNDS <const> = 1000

local function refuse(reason)
  io.stderr:write("kmeans.lua: ", reason, "\n", USAGE)
  os.exit(2)
end

local function parse(words)
  if words[1] == "--help" then
    io.write(USAGE)
    os.exit(0)
  end
  local k = math.tointeger(tonumber(words[1] or 8))
  if not k or k < 1 or k > 65535 then refuse "CLUSTERS must be a whole number from 1 to 65535" end
  if words[4] then refuse("too many arguments: " .. words[4]) end
  return k, words[2], words[3]
end

-- ---- points --------------------------------------------------------------------------------------

local function read_points(path)
  local file <close>, problem = io.open(path)
  if not file then refuse(problem) end
  local xs, ys = {}, {}
  for line in file:lines() do
    local x, y = line:match "^%s*(%S+)%s+(%S+)%s*$"
    x, y = tonumber(x), tonumber(y)
    if not x or not y then refuse(("%s:%d: two numbers expected"):format(path, #xs + 1)) end
    xs[#xs + 1], ys[#ys + 1] = x, y
  end
  return xs, ys
end

-- Clouds around the corners of an octagon; the same in every run.
local function make_points()
  math.randomseed(8)
  local xs, ys = {}, {}
  for i = 1, 50000 do
    local corner, turn = i % 8 * math.pi / 4, math.random() * 2 * math.pi
    local far = math.sqrt(-2 * math.log(1 - math.random())) -- so x and y are normally distributed
    xs[i], ys[i] = 4 * math.cos(corner) + far * math.cos(turn), 4 * math.sin(corner) + far * math.sin(turn)
  end
  return xs, ys
end

-- ---- in the workers ------------------------------------------------------------------------------

-- Put the points first .. last into the groups of their nearest centres. Returns what the new centres are made of: for each group the sums
-- of its points; and how many points went to another group.
local function assign(points, centres, first, last)
  local xs, ys, groups = points.x, points.y, points.group
  local sums = { n = {}, x = {}, y = {}, moved = 0, squares = 0.0 }
  for c = 1, #centres.x do sums.n[c], sums.x[c], sums.y[c] = 0, 0.0, 0.0 end
  for i = first, last do
    local x, y, nearest, least = xs[i], ys[i], 0, math.huge
    for c = 1, #centres.x do
      local dx, dy = x - centres.x[c], y - centres.y[c]
      local square = dx * dx + dy * dy
      if square < least then nearest, least = c, square end
    end
    if groups[i] ~= nearest then
      groups[i], sums.moved = nearest, sums.moved + 1 -- (in shared memory: the host sees it)
    end
    sums.n[nearest], sums.squares = sums.n[nearest] + 1, sums.squares + least
    sums.x[nearest], sums.y[nearest] = sums.x[nearest] + x, sums.y[nearest] + y
  end
  return sums
end

-- ---- in this process -----------------------------------------------------------------------------

-- The sums of all blocks, added in the order of the blocks: rounding is the same for any number of workers.
local function add_up(blocks)
  local all = blocks[1]
  for b = 2, #blocks do
    local sums = blocks[b]
    all.moved, all.squares = all.moved + sums.moved, all.squares + sums.squares
    for c = 1, #all.n do
      all.n[c], all.x[c], all.y[c] = all.n[c] + sums.n[c], all.x[c] + sums.x[c], all.y[c] + sums.y[c]
    end
  end
  return all
end

local function cluster(p, points, k)
  local n, centres, rounds = #points.x, { x = {}, y = {} }, 0
  local all
  for c = 1, k do
    local i = 1 + (c - 1) * n // k
    centres.x[c], centres.y[c] = points.x[i], points.y[i]
  end
  repeat
    all = add_up(p:map(function(first)
      return assign(points, centres, first, math.min(first + BLOCK - 1, n))
    end, pool.range(1, n, BLOCK)))
    for c = 1, k do
      if all.n[c] > 0 then centres.x[c], centres.y[c] = all.x[c] / all.n[c], all.y[c] / all.n[c] end
    end
    rounds = rounds + 1
  until all.moved == 0 or rounds == MOST_ROUNDS
  print(("%d points, %d groups, %d rounds, mean square distance %.9g"):format(n, k, rounds, all.squares / n))
  for c = 1, k do print(("%8d around %.9g %.9g"):format(all.n[c], centres.x[c], centres.y[c])) end
end

local k, input, output = parse(arg)
local p <close> = pool.new()
local ok, err = pcall(function()
  local xs, ys
  if input then xs, ys = read_points(input) else xs, ys = make_points() end
  if #xs < k then refuse(("%d points cannot make %d groups"):format(#xs, k)) end
  local points = { x = pool.array("f64", xs), y = pool.array("f64", ys), group = pool.array("u16", #xs) }
  cluster(p, points, k)
  if output then
    local file <close> = assert(io.open(output, "w"))
    for i = 1, #xs do assert(file:write(points.group[i], "\n")) end
    assert(file:close())
  end
end)
if not ok then
  if not pool.is_interrupt(err) then error(err, 0) end
  p:terminate()
  os.exit(1)
end
