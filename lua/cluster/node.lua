-- cluster/node -- the pool of a node: does what the script on another machine sends. Room: lua.
-- Owns: per pool of the script a local one, per call its function and the batches that run. cluster/cluster has the list of messages.
local core, part = ...

local node = {}

local wire

local MODULE_LOOK <const> = 0.01   -- seconds between looks whether a worker wants a module, while any works
local LARGE <const> = 32 << 10      -- bytes of a function that is not sent to workers for each batch
local BUSY_SLICE <const> = 0.002   -- several pools at work are looked at in turn
local MODULE_SECONDS <const> = 60  -- a worker waits so long for a module

local pools = {}     -- by the script's number: { handle =, calls = }
local calls = {}     -- by number: { fn =, named =, options =, mode =, pool =, batches = }
local later = {}     -- messages that came while somebody waited for another one: { letter, call, batch, bytes }
local getupvalue = debug and debug.getupvalue

local function say(letter, call, batch, fn, ...)
  local message, problem = wire:pack(letter, call, batch, fn, "result", ...)
  if message then
    wire:put(0, message)
    return true
  end
  return false, problem
end

-- ---- modules that only the script's machine has ----

local known = {}     -- answers by name
local requests, replies, lock -- shared with workers

local function find_named(name)
  for i, message in ipairs(later) do
    if message[1] == "M" and message[2] == name then return table.remove(later, i)[4] end
  end
end

-- In the node's own process: ask, and put aside what else comes.
local n_asked = 0
local function ask_script(name)
  if known[name] then return known[name] end
  n_asked = n_asked + 1
  local number = n_asked
  wire:put(0, wire:pack_raw("M", number, 0, name))
  while true do
    local answer = find_named(number)
    if answer then
      known[name] = answer
      return answer
    end
    if not wire:wait() then error("the script has ended", 0) end
    while true do
      local rank, letter, call, batch = wire:receive()
      if not rank then break end
      table.insert(later, { letter, call, batch, wire:take() })
    end
  end
end

-- In a worker: one asks at a time, so that the answer is its own.
local function ask_node(name)
  local guard <close> = lock:acquire(MODULE_SECONDS)
  if not guard then return "Nnobody answers" end
  local token = ("%d %s"):format(core.pid(), name)
  requests:send({ token, name }, MODULE_SECONDS)
  while true do
    local ok, reply = replies:receive(MODULE_SECONDS)
    if not ok then return "Nthe node of the script does not answer" end
    if reply[1] == token then return reply[2] end
  end
end

local function search(name)
  local answer = known[name]
  if not answer then
    answer = core.is_worker() and ask_node(name) or ask_script(name)
    known[name] = answer
  end
  if answer:sub(1, 1) == "N" then
    return ("\n\tnot on the script's machine either: %s"):format((answer:sub(2):gsub("^\n\t", "")))
  end
  local path, source = answer:match("^S(.-)\0(.*)$")
  local chunk, problem = load(source, "@node0:" .. path, "t")
  if not chunk then error(("error loading module '%s' from node 0:\n\t%s"):format(name, problem), 0) end
  return chunk, "node0:" .. path
end

local function serve_modules()
  while #requests > 0 do
    local ok, request = requests:receive(0)
    if not ok then return end
    replies:send({ request[1], ask_script(request[2]) }, 1)
  end
end

local function open_modules()
  if type(package) ~= "table" or type(package.searchers) ~= "table" then return end
  requests, replies, lock = core.channel(), core.channel(), core.lock()
  table.insert(package.searchers, search)
end

-- ---- what the script sends ----

-- One line of a task: to the script, with the batch that its item is of.
local function teller(number, pool)
  return function(text, info)
    local batch = pool.by_local[info.call]
    info.batch, info.call = batch and batch.number, nil
    say("O", batch and batch.call.number or 0, 0, nil, number, text, info)
  end
end

local receivers = {}

-- `output` is that of this pool's own lines.
local function open_pool(number, options)
  local pool = { number = number, options = options, by_local = {}, n_batches = 0 }
  local output = options.discards_output and "discard" or teller(number, pool)
  local own = setmetatable({ output = output, output_items = options.output_items }, { __index = options })
  pool.handle = core.open(own)
  pool.handle:wake(wire:fd())
  return pool
end

-- A function that is large, with what it needs, has workers of its own: they inherit it, and each batch then names it.
local sent = {}
local function open_own(call)
  package.loaded["luapool.sent"] = sent
  sent["f" .. call.number] = call.fn
  call.pool = open_pool(call.pool.number, call.pool.options)
  pools["call " .. call.number] = call.pool
end

local function close_own(call)
  local key = "call " .. call.number
  local pool = pools[key]
  if not pool then return end
  pools[key], sent["f" .. call.number] = nil, nil
  if not pcall(pool.handle.close, pool.handle) then pcall(pool.handle.terminate, pool.handle) end
end

function receivers.P(number, _, bytes)
  local ok, options = wire:read(bytes, nil, true)
  if not ok then
    pools[number] = { problem = options, by_local = {} }
    return
  end
  options.workers = options.workers or node.cpus
  pools[number] = open_pool(number, options)
end

local function refuse(number, message)
  say("U", number, 0, nil, { kind = "error", message = message })
end

function receivers.F(number, pool_number, bytes)
  local pool = pools[pool_number]
  local ok, fn, options, mode = wire:read(bytes, nil, true)
  if not ok then return refuse(number, "the function cannot be had on this node: " .. tostring(fn)) end
  if not pool or pool.problem then return refuse(number, pool and pool.problem or "the pool is not known on this node") end
  local call = { number = number, fn = fn, options = options, mode = mode, pool = pool, batches = {}, named = fn }
  if options.wrapped and getupvalue then
    local _, inner = getupvalue(fn, 1)
    call.named = type(inner) == "function" and inner or nil
  end
  options.collect = true
  call.owner = pool
  if #bytes > LARGE and type(package) == "table" then open_own(call) end
  calls[number] = call
end

local function note(call, number, begun)
  local pool = call.pool
  local batch = { number = number, call = call, begun = begun, began = core.now() }
  call.batches[number] = batch
  pool.by_local[begun:number()] = batch
  pool.n_batches = pool.n_batches + 1
  return batch
end

-- The pool's seed and the number of the item make its random numbers, wherever it runs.
local function seeded(call, first, n, a, b)
  local fn, seed, boxes = call.fn, call.pool.options.seed, {}
  for k = 1, n do
    if b then boxes[k] = { first + k - 1, a + (first + k - 2) * b } else boxes[k] = { first + k - 1, a[k] } end
  end
  local function run(box)
    local f = fn -- the first upvalue: the user's function
    math.randomseed(seed, box[1])
    return f(box[2])
  end
  return run, boxes
end

local function begin_batch(call, number, first, n, a, b)
  local pool, options = call.pool, call.options
  local mode = options.seconds and "unordered" or "table"
  local batch
  if pool.options.seed then
    local run, boxes = seeded(call, first, n, a, b)
    local wrapped = setmetatable({ wrapped = true }, { __index = options })
    batch = note(call, number, pool.handle:begin(run, "table", boxes, nil, n, wrapped, mode))
  elseif b then
    batch = note(call, number, pool.handle:begin(call.fn, "range", a + (first - 1) * b, b, n, options, mode))
  else
    batch = note(call, number, pool.handle:begin(call.fn, "table", a, nil, n, options, mode))
    batch.items = a
  end
  batch.n, batch.frames_at = n, options.seconds and 0 or nil
end

local function fail_call(call, problem)
  if type(problem) ~= "table" then problem = { kind = "error", message = tostring(problem) } end
  if not say("U", call.number, 0, nil, problem) then refuse(call.number, tostring(problem)) end
end

function receivers.B(number, batch, bytes)
  local call = calls[number]
  if not call then return end
  local ok, first, n, a, b, wants_sign = wire:read(bytes, call.named)
  if not ok then
    local errors = {}
    for k = 1, 1 do errors[k] = { kind = "serialize", message = first } end
    return fail_call(call, errors[1])
  end
  if wants_sign then say("T", number, batch, nil, n) end -- if this node is not heard of again, it was after that
  local done, problem = pcall(begin_batch, call, batch, first, n, a, b)
  if not done then fail_call(call, problem) end
end

function receivers.A(number, batch, bytes)
  local call = calls[number]
  if not call then return end
  local ok, arguments = wire:read(bytes, call.named)
  if not ok then return fail_call(call, { kind = "serialize", message = arguments }) end
  local verb = call.mode == "broadcast" and "submit_all" or "submit"
  local handle = call.pool.handle
  local done, begun = pcall(handle[verb], handle, call.options, call.fn, table.unpack(arguments, 1, arguments.n))
  if not done then return fail_call(call, begun) end
  note(call, batch, begun).n = verb == "submit" and 1 or call.pool.options.workers
end

local function forget(batch)
  local call = batch.call
  call.batches[batch.number] = nil
  call.pool.by_local[batch.begun:number()] = nil
  call.pool.n_batches = call.pool.n_batches - 1
end

local function stop_call(call)
  for _, batch in pairs(call.batches) do batch.begun:cancel() end
  for _, batch in pairs(call.batches) do
    pcall(batch.begun.stop, batch.begun)
    forget(batch)
  end
end

function receivers.C(number)
  local call = calls[number]
  if call then stop_call(call) end
  say("K", number, 0, nil)
end

function receivers.E(number)
  local call = calls[number]
  if not call then return end
  stop_call(call)
  close_own(call)
  calls[number] = nil
end

local function end_pool(number, how)
  local pool = pools[number]
  if not pool then return end
  for _, call in pairs(calls) do
    if call.owner == pool then
      stop_call(call)
      close_own(call)
      calls[call.number] = nil
    end
  end
  if pool.handle and not (how == "close" and pcall(pool.handle.close, pool.handle)) then pcall(pool.handle.terminate, pool.handle) end
  pools[number] = nil
end

function receivers.X(number, _, bytes)
  local _, how = wire:read(bytes)
  end_pool(number, how)
  say("D", number, 0, nil)
end

function receivers.Z(number, _, bytes)
  local _, n = wire:read(bytes)
  local pool = pools[number]
  if not pool or not pool.handle then return end
  pool.options.workers = n
  if pool.handle:resize(n) then return end
  if pool.n_batches > 0 then return end -- more than it was made for: stays as it is until the pool is made anew
  pool.handle:close()
  pools[number] = open_pool(number, pool.options)
end

function receivers.Q(number, _, bytes)
  local _, what, pool_number = wire:read(bytes)
  local pool = pools[pool_number]
  local value = {}
  if pool and pool.handle then value = pool.handle[what](pool.handle) end
  if what == "stats" and not value.workers then value.workers = {} end
  say("Q", number, 0, nil, value)
end

-- An answer that nobody waits for any more.
function receivers.M() end

-- ---- what goes back ----

-- pool.Error objects travel as plain tables; their texts about items are those that only we can tell.
local function plain_errors(errors, batch)
  if not errors or next(errors) == nil then return nil end
  local plain = {}
  for index, e in pairs(errors) do
    local copy = {}
    for key, value in pairs(e) do copy[key] = value end
    copy.index = nil
    if batch.items and index <= batch.n then copy.item = core.item_text(batch.items[index]) end
    plain[index] = copy
  end
  return plain
end

-- Values that cannot be sent (further) fail alone.
local function sift(call, n, values, errors)
  errors = errors or {}
  for k = 1, n do
    local message, problem = wire:pack("R", 0, 0, call.named, "result", values[k])
    if not message then
      values[k] = nil
      errors[k] = { kind = "serialize", message = problem }
    end
  end
  for _, e in pairs(errors) do
    if e.value ~= nil and not wire:pack("R", 0, 0, call.named, "error", e.value) then e.value = nil end
  end
  return values, errors
end

local function send_results(batch, is_last, offset, n, values, errors, worker)
  local call, now = batch.call, core.now()
  local elapsed = now - math.max(batch.began, call.pool.ended or batch.began) -- it had its turn when the one before it was done,
  if is_last and batch.n >= call.pool.options.workers then call.pool.ended = now end -- if that kept all workers
  if say("R", call.number, batch.number, call.named, is_last, offset, n, values, errors, elapsed, worker) then return end
  if call.mode ~= "table" and call.mode ~= "ordered" and call.mode ~= "unordered" then
    local _, problem = wire:pack("R", 0, 0, call.named, "result", values)
    return say("R", call.number, batch.number, call.named, is_last, offset, n, nil, { { kind = "serialize", message = problem } }, elapsed)
  end
  values, errors = sift(call, n, values, errors)
  if not say("R", call.number, batch.number, call.named, is_last, offset, n, values, errors, elapsed, worker) then
    refuse(call.number, "its results cannot be sent")
  end
end

-- With seconds: frames as they come.
local function send_frames(batch)
  while true do
    local ok, values, first, n, e = pcall(batch.begun.next, batch.begun, 0)
    if not ok then return fail_call(batch.call, values) end
    if values == false then return false end
    if values == nil and first == nil then
      send_results(batch, true, batch.n, 0)
      return true
    end
    if e then
      send_results(batch, false, first - 1, 1, nil, plain_errors({ e }, { n = 0 }), e.worker)
    else
      send_results(batch, false, first - 1, n, values, nil, values.worker)
    end
  end
end

local BATCHED <const> = { table = true, ordered = true, unordered = true }
local FEW <const> = 8 -- values of which no block is made

-- Numbers travel as a block, which costs the script's process less than a table of them.
local function dense(call, n, values, errors)
  if errors or not values or n <= FEW or not BATCHED[call.mode] or call.options.discard then return values end
  return core.block(values, n) or values
end

local function send_outcome(batch)
  local values, n, errors, problem = batch.begun:outcome()
  if problem ~= nil then return fail_call(batch.call, problem) end
  if batch.call.mode == "apply" then n = 1 end
  errors = plain_errors(errors, batch)
  send_results(batch, true, 0, n, dense(batch.call, n, values, errors), errors)
end

-- The last items of a batch may take long (half as long as all before, or longer), while other workers wait: the script is told, and sends
-- more. Told again when half of them are done.
local function tell_rest(batch)
  local left, now = batch.n - batch.begun:progress(), core.now()
  if left > batch.call.pool.options.workers or left < 1 then return end
  batch.rest_at = batch.rest_at or now
  if left > (batch.told or batch.n) // 2 or now - batch.rest_at < (batch.rest_at - batch.began) / 2 then return end
  batch.told = left
  say("T", batch.call.number, batch.number, nil, left)
end

-- Batches of the pool that are over.
local function collect(pool)
  for _, batch in pairs(pool.by_local) do
    if batch.frames_at then
      if send_frames(batch) ~= false then forget(batch) end
    else
      local status = batch.begun:status()
      if status ~= "pending" and status ~= "running" then
        send_outcome(batch)
        forget(batch)
      elseif batch.n then
        tell_rest(batch)
      end
    end
  end
end

-- ---- the loop ----

local function take(letter, call, batch, bytes)
  local receiver = receivers[letter]
  if receiver then receiver(call, batch, bytes) end
end

local function drain()
  while true do
    local message = table.remove(later, 1)
    if message then
      take(table.unpack(message, 1, 4))
    else
      local rank, letter, call, batch = wire:receive()
      if not rank then return end
      take(letter, call, batch, wire:take())
    end
  end
end

local function busy_pools()
  local list = {}
  for _, pool in pairs(pools) do
    if pool.handle and pool.n_batches > 0 then list[#list + 1] = pool end
  end
  return list
end

local function turn(pool, seconds)
  local ok, problem = pcall(pool.handle.turn, pool.handle, seconds)
  if not ok then
    for _, batch in pairs(pool.by_local) do fail_call(batch.call, problem) end
    for _, call in pairs(calls) do
      if call.pool == pool then stop_call(call) end
    end
  end
  collect(pool)
end

-- One turn; waits for something to happen. False: the relay is gone.
local function step()
  local busy = busy_pools()
  local is_there
  if #busy == 0 then
    is_there = wire:wait()
  else
    local seconds = #busy > 1 and BUSY_SLICE or wire:unsent() > 0 and 0.001 or MODULE_LOOK
    for _, pool in ipairs(busy) do turn(pool, seconds) end
    is_there = wire:wait(0)
    if requests then serve_modules() end
  end
  drain()
  return is_there
end

--- For the command: serve until the relay is gone, then end all pools. `share`: how many nodes share this machine's processors.
function node.serve(share)
  wire = core.wire()
  core.cluster = { is_on = function() return false end } -- pools here are local ones, but not all there is
  node.cpus = part("defaults").get().workers or math.max(1, core.cpus() // math.max(share or 1, 1))
  if node.cpus == 0 then node.cpus = 1 end
  open_modules()
  local file = io.open("/proc/sys/kernel/hostname")
  local host = file and file:read("l") or "localhost"
  if file then file:close() end
  say("H", 0, 0, nil, { version = core.version, build = core.build(), host = host, cpus = node.cpus, pid = core.pid() })
  while step() do end
  for _, call in pairs(calls) do
    stop_call(call)
    close_own(call)
  end
  for number in pairs(pools) do end_pool(number, "terminate") end
end

return node
