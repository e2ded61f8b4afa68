-- luapool/verbs -- what pools do. Room: lua. Owns nothing.
-- A verb of over_items takes (pool, job, call [, owns]): job = { fn, kind, a, b, n } as check.source made it, call = checked options;
-- `owns`: the pool was made for this call and ends with it. A verb of over_arguments takes (pool, call, fn, ...).
local core, part = ...

local verbs = { over_items = {}, over_arguments = {}, outlives = { imap = true, imap_unordered = true } }

local over_items, over_arguments = verbs.over_items, verbs.over_arguments
local unpack = table.unpack

local function pool_class() return part "pool" end

-- The options with some set anew; nil in `changes` leaves them.
local function with(call, changes) return setmetatable(changes, { __index = call }) end

-- ---- running ----

--- The lowest failed item's error; nil if none failed.
function verbs.first_error(errors)
  local lowest
  for index in pairs(errors) do
    if math.type(index) == "integer" and (not lowest or index < lowest) then lowest = index end
  end
  return errors[lowest]
end

local function finish(results, n, errors, call)
  if call.collect then return results, n, errors or {} end
  if errors and next(errors) ~= nil then error(verbs.first_error(errors), 0) end
  return results, n
end

-- results, n, errors; blocks.
local function run(self, job, call)
  if pool_class().is_inline(self) then
    if call.progress then return part("stream").run_inline(self, job, call) end
    return pool_class().as_worker(self, part("inline").run, job, call, self.options.seed)
  end
  if call.progress then return part("stream").run_with_progress(self, job, call) end
  return self.handle:run(job.fn, job.kind, job.a, job.b, job.n, call)
end

--- Apply fn to every item; results in input order.
---@param fn fun(item: any): any first result only
---@param src any integer n, range, sequence table, shared array or iterator function (called in the host; its first result is the item)
---@param options table? of a one-shot verb also those of pool.new;
---   timeout (seconds), memory (bytes, "512M")   what each try of an item may take
---   retries        a failed item is tried again, so many times; what a later try gives is its result, only the last error counts
---   retry_delay    seconds before that (0), and twice as long before each further try; others run meanwhile
---   on_crash       when a worker does not survive an item: nothing said: a failure like others; "raise": never tried again; "retry": as
---                  `retries` says, or twice; "skip": never tried again, and the result is nil (with errors = "collect" the error is there)
---   errors         "raise" (default): the call ends at a failure; "collect": it goes on, and failures come as a table
---   halt, deadline ends the call early, at a number of failures (successes), or after so many seconds
---   chunk, buffer  items in a claim, items ahead of the loop (imap); default "auto": a slow item is a chunk of its own
---   priority       "high", "normal" (default) or "low": among the calls of a pool, workers begin what is of a higher priority first, and
---                  what is of the same in the order in which it was posted. See p:with
---   progress       true: a line on the terminal; or a function(done, total, eta)
---   into           a shared array that the results are written to (map, starmap, map_async)
---   log, resume    path of a file that results are kept in (false: none, whatever --log says), and whether to go on from it: true,
---                  "failed" (these are tried again)
---@return table results, integer n, table? errors (with errors = "collect": by item)
--- Raises the first failure (a pool.Error), an interrupt, or what an iterator raised; the pool stays usable. Blocks.
function over_items.map(self, job, call)
  if call.log then return finish(part("logged").map(self, job, with(call, { verb = "map" }))) end
  local results, n, errors = run(self, job, call)
  if call.into then results = call.into end
  return finish(results, n, errors, call)
end

--- As map, for side effects: nothing travels back.
---@return integer n, table? errors (with errors = "collect")
function over_items.each(self, job, call)
  local errors, n, _
  if call.log then
    _, n, errors = part("logged").map(self, job, with(call, { verb = "each" }))
  else
    _, n, errors = run(self, job, with(call, { discard = true }))
  end
  _, n, errors = finish(nil, n, errors, call)
  if call.collect then return n, errors end
  return n
end

--- As map; each item is a table, unpacked into arguments (item.n of them, if it says so).
function over_items.starmap(self, job, call)
  local fn = job.fn
  local function star(arguments)
    local f = fn -- the first upvalue: the user's function (C takes names of classes from it)
    if type(arguments) ~= "table" then error(("bad item to 'starmap' (table of arguments expected, got %s)"):format(type(arguments)), 0) end
    return f(unpack(arguments, 1, arguments.n or #arguments))
  end
  return over_items.map(self, with(job, { fn = star, named = job.fn }), with(call, { wrapped = true }))
end

--- Lazily, in input order: `for i, v in p:imap(fn, src) do`. Never more than `buffer` items ahead of the loop; leaving the loop cancels
--- the rest. With errors = "collect" a failed item gives i, nil, error; else its error is raised when its turn comes.
function over_items.imap(self, job, call, owns)
  if call.log then return part("logged").imap(self, job, with(call, { verb = "map" }), "ordered", owns) end
  return part("stream").iterate(self, job, call, "ordered", owns)
end

--- As imap, in the order in which items finish.
function over_items.imap_unordered(self, job, call, owns)
  if call.log then return part("logged").imap(self, job, with(call, { verb = "map" }), "unordered", owns) end
  return part("stream").iterate(self, job, call, "unordered", owns)
end

-- ---- verbs made of streams ----

-- A source whose items can be had again by their index, as long as they are not too far behind: item_of(i) gives one, once.
local function remember(job)
  if job.kind == "range" then
    local first, step = job.a, job.b
    return job, function(i) return first + (i - 1) * step end
  elseif job.kind ~= "iterator" then
    local items = job.a
    return job, function(i) return items[i] end
  end
  local pull, count, pending = job.a, 0, {}
  local function keep()
    local item = pull()
    if item == nil then return nil end
    count = count + 1
    pending[count] = item
    return item
  end
  local function item_of(i)
    local item = pending[i]
    pending[i] = nil
    return item
  end
  return with(job, { a = keep, b = pull }), item_of
end

--- The items for which pred gives true, in order.
---@return table items, integer n, table? errors (with errors = "collect": by the index in src)
function over_items.filter(self, job, call)
  local source, item_of = remember(job)
  local kept, n, errors = {}, 0, {}
  local stream <close> = part("stream").open(self, source, call, "ordered")
  for first, count, values, err in stream:frames() do
    if err then
      errors[first] = err
      item_of(first)
    else
      for k = 1, count do
        local item = item_of(first + k - 1)
        if values[k] then
          n = n + 1
          kept[n] = item
        end
      end
    end
  end
  if call.collect then return kept, n, errors end
  return kept, n
end

--- The first item (lowest index) for which pred gives true. Nobody works on what lies far behind it.
---@return integer? index, any item (nil: there is none), table? errors (with errors = "collect": of items before it, by index)
function over_items.find(self, job, call)
  local source, item_of = remember(job)
  local errors = call.collect and {} or nil
  local stream <close> = part("stream").open(self, source, call, "ordered")
  for first, count, values, err in stream:frames() do
    if err then
      errors[first] = err
      item_of(first)
    end
    for k = 1, err and 0 or count do
      local item = item_of(first + k - 1)
      if values[k] then return first + k - 1, item, errors end
    end
  end
  return nil, nil, errors
end

-- Is there an item for which pred gives `wanted`? Ends at the first.
local function has(self, job, call, wanted)
  local errors = call.collect and {} or nil
  local stream <close> = part("stream").open(self, job, call, "unordered")
  for first, count, values, err in stream:frames() do
    if err then errors[first] = err end
    for k = 1, err and 0 or count do
      if (values[k] and true or false) == wanted then return true, errors end
    end
  end
  return false, errors
end

-- Without errors to tell, one result.
local function answer(is_so, errors)
  if errors then return is_so, errors end
  return is_so
end

--- Does pred give true for any item? Every worker stops at the first.
---@return boolean, table? errors (with errors = "collect": those so far, by index)
function over_items.any(self, job, call) return answer(has(self, job, call, true)) end

--- Does pred give true for all items? Every worker stops at the first for which it does not.
---@return boolean, table? errors (with errors = "collect": those so far, by index)
function over_items.all(self, job, call)
  local is_found, errors = has(self, job, call, false)
  return answer(not is_found, errors)
end

-- ---- reduce ----

-- Items are folded in blocks whose bounds depend on nothing but the position: 64 blocks of one item, 64 of two, ... up to BLOCK_MOST.
-- So sums of floats have the same bits whatever the number of workers, the chunks, or the kind of source.
local BLOCKS_OF_A_SIZE <const>, DOUBLINGS <const> = 64, 10
local BLOCK_MOST <const> = 1 << DOUBLINGS
local GROWN <const> = BLOCKS_OF_A_SIZE * (BLOCK_MOST - 1) -- items in the blocks that are smaller than BLOCK_MOST

local function block_size(position)
  if position >= GROWN then return BLOCK_MOST end
  local size = 1
  while position >= BLOCKS_OF_A_SIZE * (2 * size - 1) do size = size * 2 end
  return size
end

-- An iterator over blocks, as tables that fold_block understands. `zero`: every block starts from a copy of its own. Which items each has
-- is noted in `spans`, by its number: { first, last }.
local function blocks(job, zero, in_place, spans)
  local position, n, number = 0, job.n, 0
  local kind, a, b = job.kind, job.a, job.b
  local function pull(size)
    local items, count = {}, 0
    while count < size do
      local item = a()
      if item == nil then
        n = position -- there are no more
        break
      end
      count = count + 1
      items[count] = item
    end
    if count == 0 then return nil end
    spans[number][2] = spans[number][1] + count - 1
    return { items = items, n = count, zero = zero }
  end
  return function()
    if n and position >= n then return nil end
    local size = block_size(position)
    if n then size = math.min(size, n - position) end
    local skip = position
    position = position + size
    number = number + 1
    spans[number] = { skip + 1, position }
    if kind == "range" then return { a = a, b = b, skip = skip, n = size, zero = zero } end
    if kind == "iterator" then return pull(size) end
    if in_place then return { skip = skip, n = size, zero = zero } end
    return { items = table.move(a, skip + 1, position, 1, {}), n = size, zero = zero }
  end
end

-- (op first: it is the user's function.) The fold of one block, run by workers.
local function folder(op, map, sequence)
  return function(block)
    local fold, acc, from = op, block.zero, 1
    local items, skip, a, b = block.items, block.skip or 0, block.a, block.b
    if not items and not a then items = sequence end
    local function value_at(k)
      local value
      if items then value = items[skip + k] else value = a + (skip + k - 1) * b end
      if map then return map(value) end
      return value
    end
    if acc == nil then acc, from = value_at(1), 2 end
    if items or map then
      for k = from, block.n do acc = fold(acc, value_at(k)) end
    else
      for k = skip + from - 1, skip + block.n - 1 do acc = fold(acc, a + k * b) end
    end
    return acc
  end
end

-- Join partial results in a fixed binary tree, as they come in order: like the carries of a binary counter.
local function new_tree(combine)
  local stack, levels, depth = {}, {}, 0
  local tree = {}
  function tree.add(value)
    local level = 0
    while depth > 0 and levels[depth] == level do
      value = combine(stack[depth], value)
      stack[depth] = nil
      depth = depth - 1
      level = level + 1
    end
    depth = depth + 1
    stack[depth], levels[depth] = value, level
  end
  function tree.result()
    if depth == 0 then return nil, false end
    local value = stack[depth]
    for d = depth - 1, 1, -1 do value = combine(stack[d], value) end
    return value, true
  end
  return tree
end

-- The error of a block, in terms of items.
local function name_block(err, span, job)
  if core.is_interrupt(err) then return err end
  local first, last = span[1], span[2]
  err.index, err.item = first, nil
  if last > first then
    err.item = ("one of the items %d to %d"):format(first, last)
  elseif job.kind == "range" then
    err.item = core.item_text(job.a + (first - 1) * job.b)
  elseif job.kind ~= "iterator" then
    err.item = core.item_text(job.a[first])
  end
  return err
end

--- Fold all items with op(acc, item) -> acc, inside the workers; partial results are joined in a fixed tree over blocks of items: the same
--- bits for any number of workers and chunks, and any kind of source. op must be associative. The unit of work (of timeouts, retries and
--- errors) is a block: one item at the beginning, up to 1024 further on. What travels to the host is one value of each block.
---   words = pool.reduce(add_words_of, files, {}, { combine = add_up })        -- item and fold are of different kinds: combine joins folds
---   sum = pool.reduce(function(a, b) return a + b end, 1000, 0, { map = f })  -- of the same kind
---@param op fun(acc: any, item: any): any may change acc and return it, with `combine`; combine may so change its first argument
---@param src any as for map
---@param init any without `combine`: stands before the first item (once); with it: what each block's fold starts from (a copy each)
---@param options table? as map's, and: map (applied to each item first), combine (joins two partial results; default op)
---@return any the fold; init if there are no items
function verbs.reduce(self, job, init, call)
  local op, combine = job.fn, call.combine or job.fn
  local zero = call.combine and init
  local in_place, spans = (self.options.one_shot or job.kind == "array") and not core.cluster, {}
  local work = {
    fn = folder(op, call.map, in_place and job.kind ~= "range" and job.kind ~= "iterator" and job.a or nil),
    named = op, kind = "iterator", a = blocks(job, zero, in_place, spans), b = job.kind == "iterator" and job.a or nil,
  }
  local tree = new_tree(combine)
  do
    local stream <close> = part("stream").open(self, work, with(call, { wrapped = true, collect = true }), "ordered")
    for first, count, values, err in stream:frames() do
      if err then error(name_block(err, spans[first], job), 0) end
      for k = 1, count do
        tree.add(values[k])
        spans[first + k - 1] = nil
      end
    end
  end
  local value, is_any = tree.result()
  if not is_any then return init end
  if call.combine or init == nil then return value end
  return op(init, value)
end

-- ---- single tasks ----

local function as_arguments(self, verb, fn, ...)
  return pool_class().as_worker(self, part("inline")[verb], fn, ...)
end

--- Run fn(...) once in a worker and wait for it.
---@return any ... all results of fn
--- Raises a pool.Error when it fails, or an interrupt.
function over_arguments.apply(self, call, fn, ...)
  local results, err
  if pool_class().is_inline(self) then
    results, err = as_arguments(self, "apply", fn, ...)
  else
    results, err = self.handle:apply(call, fn, ...)
  end
  if err then error(err, 0) end
  return unpack(results, 1, results.n)
end

--- Run fn(...) once in every worker (all are started), and wait: to fill caches, to ask or change what workers keep for themselves.
---@return table results by worker id: the first result of each
--- Raises the failure of the worker with the lowest id.
function over_arguments.broadcast(self, call, fn, ...)
  if pool_class().is_inline(self) then
    local results, err = as_arguments(self, "apply", fn, ...)
    if err then error(err, 0) end
    return { results[1] }
  end
  local results, n, errors = self.handle:broadcast(call, fn, ...)
  return (finish(results, n, errors, { collect = false }))
end

--- Begin fn(...) in a worker.
---@return luapool.Future of all its results
function over_arguments.submit(self, call, fn, ...)
  if pool_class().is_inline(self) then
    local results, err = as_arguments(self, "apply", fn, ...)
    return part("future").done(self, "task", nil, results, 1, err and { err })
  end
  return part("future").new(self, "task", self.handle:submit(call, fn, ...))
end

--- Begin a map.
---@return luapool.Future of what map returns
function over_items.map_async(self, job, call)
  if pool_class().is_inline(self) then
    local outcome = table.pack(pcall(run, self, job, call))
    if outcome[1] then return part("future").done(self, "map", call, unpack(outcome, 2, 4)) end
    local problem = outcome[2]
    if core.is_interrupt(problem) then error(problem, 0) end
    if problem == nil then problem = "(error object is a nil value)" end
    return part("future").done(self, "map", call, nil, nil, nil, problem)
  end
  local begun = self.handle:begin(job.fn, job.kind, job.a, job.b, job.n, call, "table")
  return part("future").new(self, "map", begun, call)
end

verbs.finish, verbs.new_tree, verbs.block_size = finish, new_tree, block_size

return verbs
