-- cluster/cluster -- the script's side of many machines: which nodes there are, what comes from them, who is lost. Room: lua.
-- Owns: per state the wire to the relay (binding/lwire.c), the nodes, and the calls that are not over (cluster/remote).
-- A node does for us what a worker does for a pool: it gets the function once per call and batches of items, runs them in a local pool of
-- its own, and sends back what came of them. What is lost with a node is given to another.
--
-- Messages (a letter, the numbers of call and batch, values):
--   to a node     P pool, options   F call, pool, function, options   B call, batch, items   A call, batch, arguments   C call: cancel
--                 E call: forget it   X pool: close it   Q request, question, pool   M request, answer to M
--   from a node   H hello   R call, batch, results   T call, batch, items left   K call: cancelled   U call: it cannot be run
--                 O call, batch, what a task printed   D pool: closed   Q request, answer   M request, a module's name
local core, part = ...

local cluster = {}

local wire, is_node = core.wire()

local JOIN_SECONDS <const> = tonumber(os and os.getenv("LUAPOOL_JOIN_WITHIN")) or 120 -- for all nodes to say hello

local fleet = part("fleet").new()
local nodes = fleet.nodes -- by rank
local n_nodes        -- once the relay has told
local calls = {}     -- by number: not over
local handles = {}   -- by number of the pool: open
local answers = {}   -- by number of the request
local last = { call = 0, pool = 0, request = 0 }

cluster.fleet, cluster.nodes_by_rank, cluster.calls, cluster.handles, cluster.last = fleet, nodes, calls, handles, last

--- Calls that have to be looked at when something has happened; those of single tasks, of which there may be many, mostly need not.
cluster.attended = {}

--- Do this script's pools work on many nodes?
function cluster.is_on()
  return wire ~= nil and not is_node and not core.is_worker()
end

--- An iterator over the nodes that can work.
function cluster.living()
  local rank = -1
  return function()
    repeat
      rank = rank + 1
      local node = nodes[rank]
      if node and node.state == "up" then return node end
    until rank >= (n_nodes or 0)
  end
end

local function name_of(node) return node.host and ("%s (node %d)"):format(node.host, node.rank) or ("node %d"):format(node.rank) end
cluster.name_of = name_of

function cluster.error(kind, message, fields)
  local e = setmetatable({ kind = kind, message = message }, core.Error)
  for key, value in pairs(fields or {}) do e[key] = value end
  return e
end

-- ---- sending ----

--- A message of values; raises, with `what` in front, if one cannot be sent.
function cluster.pack(letter, call, batch, fn, root, ...)
  return wire:pack(letter, call, batch, fn, root, ...)
end

--- is_later: others follow, and then cluster.flush.
function cluster.put(node, message, is_later) wire:put(node.rank, message, is_later) end

function cluster.flush() wire:flush() end

function cluster.say(node, letter, call, batch, ...)
  wire:put(node.rank, assert(wire:pack(letter, call, batch or 0, nil, "argument", ...)))
end

--- A message without values. May be called by the collector, whatever else is being written.
function cluster.tell(node, letter, call)
  wire:put(node.rank, wire:pack_raw(letter, call, 0, ""))
end

-- ---- modules ----

local function folder_of_script()
  local script = arg and arg[0]
  return script and (script:match("^(.*)/[^/]*$") or ".")
end

-- What a node that has no such file is told: "S" path \0 source, or "N" and where we looked.
local function find_module(name)
  if type(package) ~= "table" or type(package.path) ~= "string" then return "Nno package.path at node 0" end
  local path, folder = package.path, folder_of_script()
  if folder then path = ("%s;%s/?.lua;%s/?/init.lua"):format(path, folder, folder) end
  local file_name, tried = package.searchpath(name, path)
  local file = file_name and io.open(file_name, "rb")
  if not file then return "N" .. (tried or ("cannot read %s"):format(file_name)) end
  local source = file:read("a")
  file:close()
  return ("S%s\0%s"):format(file_name, source or "")
end

-- ---- receiving ----

local function take_hello(node, bytes)
  local ok, hello = wire:read(bytes)
  local here = core.version .. ", Lua " .. core.build()
  if not ok or type(hello) ~= "table" or hello.build ~= core.build() or hello.version ~= core.version then
    local there = ok and type(hello) == "table" and ("%s, Lua %s"):format(hello.version, hello.build) or "another version"
    error(("node %d (%s) runs luapool %s; here it is %s: install the same on every node")
      :format(node.rank, ok and type(hello) == "table" and hello.host or "?", there, here), 0)
  end
  node.host, node.pid = hello.host, hello.pid
  fleet:join(node, hello.cpus)
end

-- The node is gone, with all that was under way there.
local function lose(node, why)
  if node.state == "lost" then return end
  node.why = why
  for _, batch in ipairs(fleet:leave(node)) do batch.call:lost(batch, node) end
  for _, call in pairs(calls) do call:node_lost(node) end
  for _, answer in pairs(answers) do answer.wanted[node.rank] = nil end
  for _, handle in pairs(handles) do handle.closing[node.rank] = nil end
end

local receivers = {
  H = function(node, _, _, bytes) take_hello(node, bytes) end,
  R = function(node, _, number, bytes)
    local batch = node.batches[number]
    if batch then batch.call:results(batch, node, bytes) end
  end,
  T = function(node, _, number, bytes)
    local batch = node.batches[number]
    local ok, left = wire:read(bytes)
    if not batch or not ok then return end
    batch.is_seen = true
    fleet:progress(batch, left)
  end,
  K = function(node, number)
    local call = calls[number]
    for _, batch in pairs(node.batches) do
      if batch.call.number == number then fleet:untrack(batch) end
    end
    if call then call:cancelled_by(node) end
  end,
  U = function(node, number, _, bytes)
    local call = calls[number]
    local ok, e = wire:read(bytes)
    if call then call:refused(node, ok and e or { kind = "error", message = e }) end
  end,
  O = function(node, number, _, bytes)
    local ok, handle_number, text, info = wire:read(bytes)
    local handle = ok and handles[handle_number]
    if handle then handle:print(calls[number], node, text, info) end
  end,
  D = function(node, number)
    local handle = handles[number]
    if handle then handle.closing[node.rank] = nil end
  end,
  Q = function(node, number, _, bytes)
    local answer = answers[number]
    local ok, value = wire:read(bytes)
    if not answer then return end
    answer.values[node.rank] = ok and value or nil
    answer.wanted[node.rank] = nil
  end,
  M = function(node, number, _, bytes)
    wire:put(node.rank, wire:pack_raw("M", number, 0, find_module(bytes)))
  end,
}

local function dispatch(rank, what, a, b)
  local node = nodes[rank] or fleet:add(rank)
  if what == "ready" then
    n_nodes = a
    for k = 0, n_nodes - 1 do
      if not nodes[k] then fleet:add(k) end
    end
  elseif what == "lost" then
    lose(node, a)
  elseif what == "load" then
    node.load = a
  elseif node.state ~= "lost" then
    receivers[what](node, a, b, wire:take())
  end
end

local function drain()
  local count = 0
  while true do
    local rank, what, a, b = wire:receive()
    if not rank then
      if cluster.has_printed then io.stdout:flush() end -- lines of tasks are seen when they come
      cluster.has_printed = false
      return count
    end
    dispatch(rank, what, a, b)
    count = count + 1
  end
end

--- Take what comes; wait at most `seconds` (nil: as long as it takes) for something. Raises interrupts.
function cluster.pump(seconds)
  if core.shield(drain) > 0 then seconds = 0 end -- an interrupt that came between two lines of ours would leave a call half counted
  local is_there, how = wire:wait(seconds)
  core.shield(drain)
  if is_there then return end
  for rank = 0, (n_nodes or 0) - 1 do
    if nodes[rank] then lose(nodes[rank], "the manager has ended") end
  end
  error(cluster.error("crash", how), 0)
end

--- Ask all living nodes; waits for the answers.
---@return table values by rank
function cluster.ask(what, pool)
  last.request = last.request + 1
  local number, answer = last.request, { values = {}, wanted = {} }
  answers[number] = answer
  local _ <close> = setmetatable({}, { __close = function() answers[number] = nil end })
  for node in cluster.living() do
    if not pool or node.opened[pool] then
      answer.wanted[node.rank] = true
      cluster.say(node, "Q", number, 0, what, pool or 0)
    end
  end
  while next(answer.wanted) ~= nil do cluster.pump() end
  return answer.values
end

-- ---- for the command and the user ----

--- For the command, before the script: wait until every node has said hello. Raises what is wrong with one, in a line.
function cluster.join()
  local given = part("defaults").get()
  if given.trace or given.report then error("--trace and --report know nothing of other machines: run without --mpi for them", 0) end
  local until_time = core.now() + JOIN_SECONDS
  local function is_complete()
    if not n_nodes then return false end
    for rank = 0, n_nodes - 1 do
      if nodes[rank].state == "starting" then return false end
    end
    return true
  end
  while not is_complete() do
    local left = until_time - core.now()
    if left <= 0 then error(("not all nodes have started within %g s"):format(JOIN_SECONDS), 0) end
    local ok, problem = pcall(cluster.pump, left)
    if not ok then
      if core.is_interrupt(problem) or type(problem) ~= "table" then error(problem, 0) end
      if not n_nodes then os.exit(1) end -- MPI did not start: it was said why
      error(problem.message, 0)
    end
  end
end

--- The machines that work for this script: see pool.nodes.
---@return table[]
function cluster.list()
  cluster.pump(0)
  local list = {}
  for rank = 0, n_nodes - 1 do
    local node = nodes[rank]
    list[rank + 1] = {
      rank = rank, host = node.host, pid = node.pid, workers = node.cpus, load = node.load, items = node.n_done, state = node.state,
      why = node.why,
    }
  end
  return list
end

--- A pool on all nodes, as core.open makes one of this machine.
function cluster.open(options) return part("remote_pool").open(options) end

cluster.wire = wire
core.cluster = wire and cluster -- the library knows nothing more of all this

return cluster
