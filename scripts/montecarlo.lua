-- montecarlo.lua [SAMPLES] [SEED] -- pi by throwing SAMPLES (10,000,000) darts at a square; SEED (1) says which darts.
--   luapool scripts/montecarlo.lua
--   luapool -j 7 scripts/montecarlo.lua 1e9 42
-- Shows `seed`, and imap. With a seed, item i sees the same random numbers whoever works on it; imap gives the results in the order of the
-- items. So every line that is printed is the same, to the last digit, for any number of workers, and the first ones come at once.
local pool = pool or require "luapool"

local USAGE = "usage: luapool montecarlo.lua [SAMPLES] [SEED]\n"
local BLOCK <const> = 100000 -- darts in an item: enough that handing it out costs nothing beside it

local function refuse(reason)
  io.stderr:write("montecarlo.lua: ", reason, "\n", USAGE)
  os.exit(2)
end

local function parse(words)
  if words[1] == "--help" then
    io.write(USAGE)
    os.exit(0)
  end
  local samples, seed = math.tointeger(tonumber(words[1] or 10000000)), math.tointeger(tonumber(words[2] or 1))
  if not samples or samples < 1 or samples > 1 << 53 then refuse "SAMPLES must be a whole number, 1 or more" end
  if not seed then refuse "SEED must be a whole number" end
  if words[3] then refuse("too many arguments: " .. words[3]) end
  return samples, seed
end

-- How many darts the block has: the last one has what is left.
local function darts_of(block, samples) return math.min(BLOCK, samples - (block - 1) * BLOCK) end

-- Of `n` darts thrown at the square from 0 to 1: how many hit the quarter of the circle in it. (This runs in the workers.)
local function throw(n)
  local random, hits = math.random, 0
  for _ = 1, n do
    local x, y = random(), random()
    if x * x + y * y < 1.0 then hits = hits + 1 end
  end
  return hits
end

-- The estimate, and its standard error: each dart is a coin that shows heads with probability pi / 4.
local function estimate(hits, n)
  local share = hits / n
  return 4 * share, 4 * math.sqrt(share * (1 - share) / n)
end

local function say(hits, n)
  local value, err = estimate(hits, n)
  print(("%16d darts: pi = %.10f +- %.10f, off by %+.10f"):format(n, value, err, value - math.pi))
end

local function main()
  local samples, seed = parse(arg)
  io.stdout:setvbuf "line" -- each line at once, through a pipe, too
  local blocks = (samples + BLOCK - 1) // BLOCK
  -- Counts are added as integers: exact, and so free of any order.
  local hits, thrown, next_line = 0, 0, 1
  for block, more in pool.imap(function(block) return throw(darts_of(block, samples)) end, blocks, { seed = seed }) do
    hits, thrown = hits + more, thrown + darts_of(block, samples)
    if block == next_line and block < blocks then
      say(hits, thrown)
      next_line = next_line * 2
    end
  end
  say(hits, thrown)
end

-- Leaving the loop, by an error too, ends the workers that pool.imap has forked for it: Ctrl-C leaves nothing to clean up.
local ok, err = pcall(main)
if not ok then
  if not pool.is_interrupt(err) then error(err, 0) end
  os.exit(1)
end
