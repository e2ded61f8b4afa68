-- luapool/record -- which pools are recorded, into which file their events go, and the page about them. Room: lua. Feature: trace.
-- Owns, for one Lua state: the trace files (open until the state ends: later pools add to them) and the records. A record outlives its
-- pool; pools that follow each other share one, so that a program with a thousand calls has few: those of one name, those made for one
-- call alone, and, beyond MOST_UNNAMED and MOST_GROUPS, all others.
local core, part = ...

local record = {}

local MOST_UNNAMED <const>, MOST_GROUPS <const> = 12, 64

local files = {}   -- name of the file -> the file
local groups = {}  -- list of { key, name, path, record, number, pool = { it = the latest }, stats of those that are gone, or nil }
local n_unnamed, n_named, names = 0, 0, {} -- names: keys of groups of their own
local ending = {}  -- what is to be done at the end: pid, path of the page of the whole program; has_problem: not all of it could be

--- Open a trace file, unless it is open already.
---@param path string
---@return string? problem why it cannot be written
function record.open_file(path)
  if files[path] then return nil end
  if core.is_worker() then return nil end
  local file, problem = core.trace_file(path)
  files[path] = file
  return problem
end

-- ---- groups ----

local function key_of(options)
  local key = options.name and "name " .. options.name
  if key and (n_named < MOST_GROUPS or names[key]) then
    n_named = n_named + (names[key] and 0 or 1)
    names[key] = true
    return key, "Pool " .. options.name
  end
  if options.one_shot then return "one-shot", "Calls without a pool" end
  if key or n_unnamed >= MOST_UNNAMED then return "unnamed", "Other pools" end
  n_unnamed = n_unnamed + 1
  return "pool " .. n_unnamed, "Pool " .. n_unnamed
end

local function title_of(name)
  local json = part "json"
  return json.text(name) or json.text((name:gsub("[\128-\255]", "?")))
end

local function add_numbers(into, from)
  for key, value in pairs(from) do
    if type(value) == "number" and key ~= "id" and key ~= "pid" and key ~= "item" and key ~= "since" then
      into[key] = key == "peak" and math.max(into[key] or 0, value) or (into[key] or 0) + value
    end
  end
end

-- The stats of two pools that followed each other.
local function add_stats(into, from)
  local workers = {}
  add_numbers(into, from)
  into.host = into.host or {}
  add_numbers(into.host, from.host)
  into.workers = into.workers or {}
  for _, worker in ipairs(into.workers) do workers[worker.id] = worker end
  for _, worker in ipairs(from.workers) do
    if not workers[worker.id] then
      workers[worker.id] = { id = worker.id }
      table.insert(into.workers, workers[worker.id])
    end
    add_numbers(workers[worker.id], worker)
  end
  table.sort(into.workers, function(a, b) return a.id < b.id end)
  return into
end

-- What the pools of a group that are gone came to.
local function sum_up(group)
  local past = group.record:past()
  for i = 1, #past do
    group.stats = add_stats(group.stats or {}, past[i])
    past[i] = nil
  end
  return group.stats
end

local function find_group(key, path)
  for _, group in ipairs(groups) do
    if group.key == key and group.path == path and not group.record:is_live() then
      sum_up(group)
      return group
    end
  end
end

local function make_group(key, name, path)
  local group = { key = key, name = name, path = path, number = 1 }
  for _, other in ipairs(groups) do
    if other.path == path then group.number = group.number + 1 end
  end
  group.record = core.record(path and files[path], group.number, title_of(name))
  groups[#groups + 1] = group
  return group
end

-- ---- the end of the program ----

-- Files are whole, the page is written. Pools that still live are shown as they are: they end with the process.
local function write_all()
  if core.is_worker() or core.pid() ~= ending.pid then return end
  for _, group in ipairs(groups) do
    local pool = group.record:is_live() and group.pool.it
    if pool and pool.handle:state() == "open" then
      group.now = pool:stats()
      pool.handle:end_record()
    end
  end
  for _, file in pairs(files) do
    if not file:flush() then ending.has_problem = true end
  end
  local path = ending.path
  ending.path = nil
  local problem = path and record.write_program(path)
  if not problem then return end
  ending.has_problem = true
  core.problem(("cannot write the report to %s: %s"):format(core.item_text(path), problem))
end

-- os.exit ends the process without the state, unless it is told to close it.
local function exit_after_all(exit)
  return function(code, close, ...)
    if not close then write_all() end
    if ending.has_problem and (code == nil or code == true or code == 0) then code = false end
    return exit(code, close, ...)
  end
end

-- A finalizer that is older than those of all pools that are recorded, so that it comes after them.
local function prepare_end()
  if ending.pid then return end
  ending.pid = core.pid()
  ending.sentinel = setmetatable({}, { __gc = write_all })
  local library = os
  if library and library.exit then library.exit = exit_after_all(library.exit) end
end

--- Something that was asked for is not, or not wholly, written: it is told, and the exit status tells, however the program ends.
---@param text string
function record.problem(text)
  prepare_end()
  ending.has_problem = true
  core.problem(text)
end

--- For the command, before it begins: --trace, --report.
---@param name "trace"|"report"
---@param path string
---@return string? problem
function record.use_default(name, path)
  prepare_end()
  if name == "trace" then return record.open_file(path) end
  ending.path = path
end

--- A pool is about to be made: give it a record, if one is wanted.
---@param pool luapool.Pool
function record.begin(pool)
  local options, defaults = pool.options, part("defaults").get()
  local trace = options.trace
  if trace == nil then trace = defaults.trace end
  if not trace and not defaults.report then return end
  prepare_end()
  if defaults.report and not ending.is_known then ending.path = defaults.report end
  ending.is_known = true
  local path = type(trace) == "string" and trace or nil
  local problem = path and record.open_file(path)
  if problem then error(("cannot write the trace to %s: %s"):format(core.item_text(path), problem), 0) end
  local key, name = key_of(options)
  local group = find_group(key, path) or make_group(key, name, path)
  group.pool = setmetatable({ it = pool }, { __mode = "v" })
  pool.group = group
  options.record = group.record
end

-- ---- pages ----

-- What a page shows of a group. `now`: the stats of the pool that there is, if they are not among those of the past.
local function view(group, now)
  local past = sum_up(group)
  local stats = past
  if now then stats = past and add_stats(add_stats({}, past), now) or now end
  return { name = group.name, stats = stats, record = group.record:read() }
end

local function write(path, pools)
  local date = os and os.date and os.date("%Y-%m-%d %H:%M")
  return core.write_file(path, part("page").make(pools, { cpus = core.cpus(), version = "luapool " .. core.version, date = date }))
end

--- The page about one pool.
---@return string? problem
function record.write_page(path, pool, stats)
  local group = pool.group
  if not group then return write(path, { { name = pool.options.name and "Pool " .. pool.options.name, stats = stats } }) end
  return write(path, { view(group, not pool.is_closed and stats or nil) })
end

--- The page about all pools that were recorded.
---@return string? problem
function record.write_program(path)
  local pools = {}
  for i, group in ipairs(groups) do pools[i] = view(group, group.now) end
  return write(path, pools)
end

return record
