-- sim/world -- a simulated cluster around the real code of the script's side: lua/cluster/cluster, remote, remote_pool, plan and fleet as
-- they are, with a wire and a clock that are simulated. For tests (test_simulation.lua) and figures (sim/sweep.lua).
--
-- What is real: everything that decides; it runs in a coroutine. What is simulated: the processes it talks to, and time.
--   script      a processor of its own: its time goes on by what the Lua code costs (instructions, counted by a hook), and by fixed amounts
--               for what is C in reality (sim/figures, measured)
--   relay       a processor of its own, which every message passes, one after the other
--   network     the card of the manager (bandwidth), then latency, the same for all nodes
--   node        looks after messages now and then, as a relay does; runs batches (sim/machine); may die, which is noticed later
-- Numbers that look random come from a hash: the same run is the same each time.
local Heap = require "sim.heap"
local Machine = require "sim.machine"
local figures = require "sim.figures"
local noise = require "sim.costs".noise

local World = {}
World.__index = World

local ROOT <const> = (package.searchpath("sim.world", package.path) or "tests/sim/world.lua"):match("^(.-)/?tests/sim/world%.lua$")
local SAMPLE <const> = 997 -- instructions between two looks of the hook
local BEAT <const> = 1.0   -- seconds between two signs of life of a node

-- ---- messages ----

local Message = { __len = function(message) return message.bytes end }

-- How many numbers are in these values, roughly.
local function count_values(value)
  if type(value) ~= "table" then return 1 end
  return #value + 1
end

local function new_message(letter, call, batch, ...)
  local values = table.pack(...)
  local bytes = figures.head
  for i = 1, values.n do
    local value = values[i]
    if type(value) == "string" then bytes = bytes + #value
    elseif type(value) ~= "function" then bytes = bytes + count_values(value) * figures.number end
  end
  return setmetatable({ letter = letter, call = call, batch = batch, values = values, bytes = bytes }, Message)
end

-- ---- the script's process ----

-- What is not the real code costs no instructions.
local function aside(self, seconds, fn, ...)
  self.is_aside = true
  self.now = self.now + seconds
  local function back(...)
    self.is_aside = false
    return ...
  end
  return back(fn(...))
end

local function count_instructions(self)
  return function()
    if not self.is_aside then self.now = self.now + SAMPLE * figures.instruction end
  end
end

local Wire = {}
Wire.__index = Wire

function Wire:pack(letter, call, batch, _, _, ...)
  return aside(self.world, figures.send / 2, new_message, letter, call, batch, ...)
end

function Wire:pack_raw(letter, call, batch, bytes)
  return aside(self.world, figures.send / 2, new_message, letter, call, batch, bytes)
end

function Wire:put(rank, message)
  aside(self.world, figures.send / 2, self.world.carry_out, self.world, rank, message)
end

function Wire:flush() aside(self.world, figures.write, function() end) end

function Wire:receive()
  local world = self.world
  if world.n_filled == 0 then return nil end
  return aside(world, figures.receive / 2, function()
    local letter = world.inbox[world.inbox_head]
    world.inbox[world.inbox_head] = nil
    world.inbox_head, world.n_filled = world.inbox_head + 1, world.n_filled - 1
    world.present = letter
    world.n_received = world.n_received + 1
    return letter.rank, letter.what, letter.a, letter.b
  end)
end

function Wire:take() return self.world.present.body end

function Wire:read(body)
  local world = self.world
  return aside(world, figures.receive / 2 + (body.n_values or 0) * figures.value, function()
    if body.first then world:note_accepted(body) end
    return true, table.unpack(body.values, 1, body.values.n)
  end)
end

function Wire:wait(seconds)
  local world = self.world
  world.is_aside = true
  world.now = world.now + figures.wait
  world.wake_at = seconds and world.now + seconds or math.huge
  coroutine.yield()
  world.is_aside = false
  return true
end

-- ---- the way to a node and back ----

-- When a relay that looks after messages now and then sees one.
local function seen(at, heard)
  local pause = math.max(figures.least_pause, math.min(figures.most_pause, (at - heard) / 2))
  return at + pause * noise((at * 1e9) // 1 | 0, 7)
end

-- The manager's relay carries one message after the other.
local function relay(self, at, bytes)
  local begin = math.max(self.relay_free, at)
  local seconds = figures.relay + bytes * figures.relay_byte
  self.relay_free, self.relay_busy = begin + seconds, self.relay_busy + seconds
  return self.relay_free
end

-- The most that was under way at a time, for a node and in all.
local function note_most(self, rank, n)
  local fleet, most = self.cluster.fleet, self.most
  local real = fleet.nodes[rank]
  most.items = math.max(most.items, real.n_items)
  if real.n_items - n >= 2 * self.workers then most.batches = math.max(most.batches, real.n_batches) end -- small ones are counted as items
  most.node_bytes, most.bytes = math.max(most.node_bytes, real.n_bytes), math.max(most.bytes, fleet.n_bytes)
end

function World:carry_out(rank, message)
  self.n_sent = self.n_sent + 1
  if message.letter == "B" then note_most(self, rank, message.values[2]) end
  local machine = self.machines[rank]
  local at = relay(self, self.now, message.bytes)
  at = math.max(self.out_free, at) + message.bytes / self.bandwidth
  self.out_free = at
  at = math.max(machine.last_at or 0, seen(at + self.latency, machine.heard)) -- one does not overtake the other
  machine.heard, machine.last_at = at, at
  if machine.is_alive then self:at_node(machine, at + figures.agent / 2, message) end
end

-- Something leaves a node for the script: it comes if the node lives until then.
function World:carry_back(machine, at, what, a, b, body)
  self.events:add(at + figures.agent / 2, { fn = function(time)
    if not machine.is_alive or body and body.is_dropped then return end
    if body and body.began then -- as cluster/node tells how long it took
      body.values[6] = time - math.max(body.began, machine.ended)
      if body.n >= machine.workers then machine.ended = time end
    end
    machine.heard = time
    self.events:add(time + self.latency, { fn = function(arrival)
      if not machine.is_lost then self:arrive(machine.rank, arrival, what, a, b, body) end
    end })
  end })
end

function World:arrive(rank, at, what, a, b, body)
  local bytes = body and body.bytes or figures.head
  at = math.max(self.in_free, at) + bytes / self.bandwidth
  self.in_free = at
  at = relay(self, math.max(at, self.relay_free <= at and seen(at, at) or at), bytes)
  self.inbox_tail = self.inbox_tail + 1
  self.inbox[self.inbox_tail] = { at = at, rank = rank, what = what, a = a, b = b, body = body }
end

local function result_of(self, message, first, n, began)
  local values, n_values = {}, 0
  local keeps = not (self.is_discarding or message.letter == "A")
  if self.value then
    for k = 1, n do values[k] = self.value(first + k - 1) end
  end
  if keeps then n_values = n end
  local bytes = figures.head + 5 * figures.number + n_values * (self.value_bytes or figures.dense)
  return setmetatable({ batch = message.batch, first = first, n = n, n_values = n_values, bytes = bytes, began = began,
    values = { true, 0, n, values, nil, 0.0, nil, n = 7 } }, Message)
end

-- ---- what a node does ----

local node = {}

function node.B(self, machine, at, message)
  local first, n = message.values[1], message.values[2]
  local finish, work, news = machine:take(at, first, n)
  local body = result_of(self, message, first, n, at)
  if message.values[5] then news = { { at = at, left = n } } end
  for _, rest in ipairs(news or {}) do
    local bytes = figures.head + figures.number
    self:carry_back(machine, rest.at, "T", message.call, message.batch, { bytes = bytes, values = { rest.left, n = 1 } })
  end
  body.work = work
  machine.bodies[body] = message.call
  self:carry_back(machine, finish, "R", message.call, message.batch, body)
end

function node.A(self, machine, at, message)
  local finish, work = machine:take(at, message.batch, 1)
  local body = result_of(self, message, 1, 1, at)
  body.work = work
  self:carry_back(machine, finish, "R", message.call, message.batch, body)
end

function node.C(self, machine, at, message)
  for body, call in pairs(machine.bodies) do
    if call == message.call then body.is_dropped = true end
  end
  machine:drop(at)
  self:carry_back(machine, at, "K", message.call, 0)
end

function node.X(self, machine, at, message) self:carry_back(machine, at, "D", message.call, 0) end

function World:at_node(machine, at, message)
  local act = node[message.letter]
  if act then act(self, machine, at, message) end
end

local function beat(self, machine, at)
  if not machine.is_alive then return end
  self:arrive(machine.rank, at + self.latency, "load", 1.0)
  self.events:add(at + BEAT, { fn = function(time) beat(self, machine, time) end })
end

-- It dies now; the manager's relay waits for its silence to be long enough.
local function die(self, machine, at)
  machine.is_alive, machine.died = false, at
  self.events:add(at + self.lost_after, { fn = function(time)
    machine.is_lost = true
    self:arrive(machine.rank, time, "lost", "nothing was heard of it")
  end })
end

-- ---- what is noted ----

-- The script has taken this result: it must not do so twice with any item.
function World:note_accepted(body)
  self.last_result = self.now
  if body.is_accepted then self.n_repeated = self.n_repeated + 1 end
  body.is_accepted = true
  self.work = self.work + (body.work or 0)
  self.n_batches = self.n_batches + 1
  local list = self.accepted
  list[#list + 1] = body
end

--- Was every item from 1 to n accepted once and not again? Else the reason why not.
function World:is_complete(n)
  if self.n_repeated > 0 then return false, "a result was taken twice" end
  local list = table.move(self.accepted, 1, #self.accepted, 1, {})
  table.sort(list, function(a, b) return a.first < b.first end)
  local next_item = 1
  for _, body in ipairs(list) do
    if body.first ~= next_item then return false, ("item %d follows item %d"):format(body.first, next_item - 1) end
    next_item = body.first + body.n
  end
  if next_item ~= n + 1 then return false, ("%d items came of %d"):format(next_item - 1, n) end
  return true
end

-- ---- running ----

local function load_part(core, name, parts)
  local path = ("%s%slua/cluster/%s.lua"):format(ROOT, ROOT == "" and "" or "/", name)
  local chunk = assert(loadfile(path, "t"))
  parts[name] = chunk(core, function(other) return parts[other] or load_part(core, other, parts) end)
  return parts[name]
end

-- core.fill_from, as in binding/lblock.
local function fill_from(into, first, n, values) table.move(values, 1, n, first, into) end

local function new_core(self)
  local wire = setmetatable({ world = self }, Wire)
  return {
    wire = function() return wire, false end, is_worker = function() return false end,
    Error = { __tostring = function(e) return e.message end },
    shield = function(fn, ...) return fn(...) end, now = function() return self.now end, pid = function() return 1 end,
    version = "simulated", build = function() return "simulated" end, item_text = tostring, is_interrupt = function() return false end,
    write_stderr = function() end, sized = function() return {} end, fill_from = fill_from, cpus = function() return 1 end,
  }
end

--- A new cluster. Options: nodes, workers (of each), cost (see sim/costs), latency (seconds), lost_after (30 seconds), losses (list of
--- { at =, rank = }), bandwidth, value (what task i returns; default: nothing is kept, but it costs as if it were), value_bytes,
--- patience (seconds without results after which something is wrong: 300).
function World.new(options)
  local self = setmetatable({
    now = 0.0, events = Heap.new(), inbox = {}, inbox_head = 1, inbox_tail = 0, n_filled = 0, machines = {}, accepted = {},
    latency = options.latency or 1e-3, bandwidth = options.bandwidth or figures.bandwidth, lost_after = options.lost_after or 30,
    value = options.value, value_bytes = options.value_bytes, patience = options.patience or 300, last_result = 0.0,
    relay_free = 0.0, relay_busy = 0.0, out_free = 0.0, in_free = 0.0, idle = 0.0,
    work = 0.0, n_batches = 0, n_repeated = 0, n_sent = 0, n_received = 0, workers = options.workers,
    most = { items = 0, batches = 0, node_bytes = 0, bytes = 0 }, losses = options.losses or {},
  }, World)
  for rank = 0, options.nodes - 1 do
    local machine = Machine.new(rank, options.workers, options.cost, options.workers * figures.worker_start)
    machine.bodies = setmetatable({}, { __mode = "k" })
    self.machines[rank] = machine
  end
  self.n_nodes, self.parts = options.nodes, {}
  self.core = new_core(self)
  self.cluster = load_part(self.core, "cluster", self.parts)
  self.remote_pool = load_part(self.core, "remote_pool", self.parts)
  return self
end

-- The nodes have said hello before the script begins.
local function join(self)
  self:arrive(0, 0.0, "ready", self.n_nodes)
  for rank, machine in pairs(self.machines) do
    local facts = { version = "simulated", build = "simulated", host = "node" .. rank, cpus = self.workers, pid = rank }
    local hello = { values = table.pack(facts) }
    hello.bytes = 100
    self:arrive(rank, 0.0, "H", 0, 0, hello)
    self.events:add(noise(rank, 3) * BEAT, { fn = function(time) beat(self, machine, time) end })
  end
  self.inbox[self.inbox_head].at = 0.0
end

local function run_events(self, until_time)
  local events = self.events
  while (events:next_time() or math.huge) <= until_time do
    local event, time = events:take()
    event.fn(time)
  end
end

-- Until the script's process has something to do.
local function pass_time(self)
  run_events(self, self.now)
  while true do
    local first = self.inbox[self.inbox_head]
    local at = math.min(first and first.at or math.huge, self.wake_at)
    if at <= self.now then break end
    local event_at = self.events:next_time() or math.huge
    if event_at < at then
      run_events(self, event_at)
    else
      assert(at < math.huge and at < self.last_result + self.patience, "nothing comes any more, and there is work")
      self.idle = self.idle + (at - self.now)
      self.now = at + figures.wake
      run_events(self, self.now)
    end
  end
  local n = 0
  while self.inbox[self.inbox_head + n] and self.inbox[self.inbox_head + n].at <= self.now do n = n + 1 end
  self.n_filled = n
end

local function begin(self)
  join(self)
  while not self.cluster.nodes_by_rank[self.n_nodes - 1] or self.cluster.nodes_by_rank[self.n_nodes - 1].state ~= "up" do
    self.cluster.pump(1)
  end
  local now = self.now
  for _, loss in ipairs(self.losses) do
    self.events:add(now + loss.at, { fn = function(time) die(self, self.machines[loss.rank], time) end })
  end
  self.began, self.idle, self.relay_busy, self.n_sent, self.n_received = now, 0.0, 0.0, 0, 0
end

--- Run body(handle, world) as the script: handle is a pool of all nodes. Its results.
---@param options table? of the pool
function World:run(body, options)
  options = options or { auto_workers = true, workers = self.workers }
  local results
  local script = coroutine.create(function()
    begin(self)
    local handle = self.remote_pool.open(options)
    results = table.pack(body(handle, self))
    self.ended = self.now
  end)
  debug.sethook(script, count_instructions(self), "", SAMPLE)
  while true do
    local ok, problem = coroutine.resume(script)
    if not ok then error(debug.traceback(script, tostring(problem)), 0) end
    if coroutine.status(script) == "dead" then break end
    pass_time(self)
  end
  return table.unpack(results, 1, results.n)
end

--- The script computes so long, beside its pools.
function World:compute(seconds) self.now = self.now + seconds end

--- What became of it: seconds, efficiency (of the workers that lived), and what the manager's processes did.
function World:report()
  local seconds = self.ended - self.began
  local capacity = 0.0
  for _, machine in pairs(self.machines) do
    local lived = math.min(machine.died and machine.died - self.began or seconds, seconds)
    capacity = capacity + machine.workers * math.max(lived, 0)
  end
  return { seconds = seconds, efficiency = self.work / capacity, batches = self.n_batches, sent = self.n_sent, received = self.n_received,
    script = 1 - self.idle / seconds, relay = self.relay_busy / seconds }
end

return World
