-- command/help -- what there is, in words: for help() at the prompt, and the source of the lists in the manual. Room: lua. Owns nothing.
-- Every public function of the module, and every method of its objects, has an entry (a test compares): how it is called, and what it does.
local _, part = ...

local help = {}

local VERBS = {
  { "map", "(fn, src [, options])", [[fn applied to every item: results, n, in the order of the items. The first result of fn
counts. Raises the first failure, once the rest is cancelled. src: an integer n (1..n), a pool.range, a sequence, a pool.array,
or an iterator function.]] },
  { "starmap", "(fn, src [, options])", "As map; each item is a table, which is unpacked into arguments." },
  { "each", "(fn, src [, options])", "As map, for side effects: nothing travels back. Returns n." },
  { "imap", "(fn, src [, options])", [[for i, v in p:imap(fn, src) do ... end: lazy in and out, in input order, never more than
`buffer` items ahead of the loop. Leaving the loop cancels the rest.]] },
  { "imap_unordered", "(fn, src [, options])", "As imap, as items finish." },
  { "filter", "(pred, src [, options])", "The items whose pred is true, in order, and how many." },
  { "find", "(pred, src [, options])", "index, item of the first item whose pred is true; nil without one. Every worker stops then." },
  { "any", "(pred, src [, options])", "Is pred true of any item? Stops every worker at the first that says so." },
  { "all", "(pred, src [, options])", "Is pred true of all items? Stops every worker at the first that says no." },
  { "reduce", "(op, src, init [, options])", [[A fold inside the workers, joined in a fixed tree over blocks of items: the same
bits for any number of workers. options.map is applied first, options.combine joins two partial results (default: op).]] },
  { "apply", "(fn, ...)", "One task: fn(...) in a worker. Waits, and returns all its results." },
}

-- Sections in the order of the manual: how its objects are written, the name of their class, entries of { name, arguments, text }.
local SECTIONS = {
  { receiver = "pool", separator = ".", title = "the module", entries = {
    { "new", "([n | options])", [[A pool; its workers start at first use. Options: workers (n, "auto", 0: inline), grace, on_start,
on_exit, seed, max_tasks, max_growth, idle_timeout, load, memfree, nice, pin, nested,
output, name; and, as defaults of its calls, those of map. `local p <close> = pool.new(4)`
ends it with its scope.]] },
    { "range", "([first,] last [, step])", "Numbers as a source of items, in constant memory; range(n) is 1..n." },
    { "register", "(name, class [, { save =, load = }])", "A class (or a type of userdata) that crosses between processes by name." },
    { "wait", "(futures [, { count =, timeout = }])", "Waits for futures: those that are over, and the others." },
    { "as_completed", "(futures)", "for f in pool.as_completed(list) do ... end: each future when it is over." },
    { "cpus", "()", "Processors that this process may use (affinity, capped by the cgroup's quota)." },
    { "array", "(type, n | table)", [[A typed array in shared memory ("i8" ... "u64", "f32", "f64"): a[i], #a, ipairs; tasks see and
write the same elements, without copying.]] },
    { "counter", "([v])", "An integer that all processes change without losing a change." },
    { "lock", "()", "One process at a time holds it; who dies has released it." },
    { "semaphore", "(n)", "n permits: at most n holders at a time, in all processes; who dies has given his back." },
    { "channel", "([capacity])", "Values from many to many, in the order in which they were sent; whole or not at all." },
    { "is_interrupt", "(err)", "Is this error an interrupt: Ctrl-C, SIGTERM or SIGHUP?" },
    { "shield", "(fn, ...)", "fn(...); an interrupt that comes meanwhile is delivered when it has returned." },
    { "nodes", "()", "The machines that work for this script: one, or all of the job; a list of tables." },
    { "defaults", "()", "A copy of what the command's options, and the environment, gave as defaults of pools and calls." },
    { "catch_interrupts", "()", "Makes SIGINT, SIGTERM and SIGHUP Lua errors, in hosts other than the command." },
  }, verbs = "A call of the module uses workers forked for that call alone: fn, globals and open modules are simply there.",
    fields = { "pool.worker", "pool.Error", "pool.features" } },
  { receiver = "p", separator = ":", class = "luapool.pool", title = "pools, made by pool.new", entries = {
    { "submit", "(fn, ...)", "A future: fn(...) in a worker." },
    { "map_async", "(fn, src [, options])", "A future for a whole map." },
    { "broadcast", "(fn, ...)", "fn(...) once in every worker; results by the worker's number." },
    { "with", "(options)", [[The verbs of the pool with these options for their calls: p:with{ priority = "high" }:submit(fn, ...)
is begun before all that waits. Priorities: "high", "normal", "low".]] },
    { "close", "([timeout])", "Lets what was begun finish; the workers leave. True when they are gone." },
    { "terminate", "([grace])", "Interrupts what runs, kills who does not stop within `grace` seconds, waits until all are gone." },
    { "cancel", "()", "Cancels every open call; the pool stays usable." },
    { "pause", "()", "The workers begin nothing any more; calls wait." },
    { "resume", "()", "The end of p:pause()." },
    { "resize", "(n)", "More or fewer workers." },
    { "step", "([seconds [, budget]])", "What can be done now (or within so many seconds), callbacks included; the number of open calls." },
    { "fd", "()", "A descriptor for somebody else's event loop: readable when p:step() has something to do." },
    { "stats", "()", "A table of counts and seconds: what happened so far." },
    { "report", "()", "The same as a text with advice." },
    { "workers", "()", "Who lives, and what each is at." },
  }, verbs = "Functions are sent to the pool's living workers, with their upvalues and the globals that they name." },
  { receiver = "f", separator = ":", class = "luapool.future", title = "futures, made by p:submit and p:map_async", entries = {
    { "get", "([timeout])", 'Waits, and returns the results or raises what it failed with; nil, "timeout".' },
    { "wait", "([timeout])", "Waits for its end; false when the time is up." },
    { "status", "()", '"pending", "running", "done", "error", "cancelled", "timeout" or "crashed".' },
    { "cancel", "()", "Drops it, or interrupts it if it runs. False: it was over already." },
    { "await", "([wait])", "In a coroutine that a scheduler runs: as get, but others run meanwhile; f:await(cqueues.poll)." },
    { "pollfd", "()", "For cqueues: the descriptor to wait for." },
    { "events", "()", "For cqueues: what to wait for." },
    { "timeout", "()", "For cqueues: how long to wait at most." },
    { "getfd", "()", "For luasocket, copas and luv: the descriptor to wait for." },
    { "dirty", "()", "For luasocket and copas: need nobody wait?" },
    { "on_done", "(callback)", "callback(future) when it is over, in the host, inside a call of its pool." },
  } },
  { receiver = "a", separator = ":", class = "luapool.array", title = "shared arrays, made by pool.array", entries = {
    { "slice", "([i [, j]])", "Elements i to j of the same memory." },
    { "to_table", "([i [, j]])", "A table with copies of the elements." },
    { "fill", "(v [, i [, j]])", "Sets them all to v." },
    { "copy", "(table | array [, at])", "Copies elements into this array, from index `at` on." },
    { "type", "()", 'The type of its elements: "f64".' },
  } },
  { receiver = "c", separator = ":", class = "luapool.counter", title = "counters, made by pool.counter", entries = {
    { "add", "([n])", "Adds n (1); the new value." },
    { "get", "()", "The value." },
    { "set", "(n)", "Makes it n; the value before." },
    { "compare_and_set", "(old, new)", "Makes it new if it is old: was it?" },
  } },
  { receiver = "l", separator = ":", class = "luapool.lock", title = "locks, made by pool.lock", entries = {
    { "acquire", "([timeout])", 'local g <close> = l:acquire(): waits, and returns a guard; nil, "timeout".' },
    { "try", "()", "A guard, or nil at once." },
    { "with", "(fn, ...)", "fn(...) while holding it; its results." },
    { "holder", "()", "The pid of the process that holds it, or nil." },
  } },
  { receiver = "sem", separator = ":", class = "luapool.semaphore", title = "semaphores, made by pool.semaphore", entries = {
    { "acquire", "([timeout])", 'local g <close> = sem:acquire(): waits, and returns the guard of a permit; nil, "timeout".' },
    { "try", "()", "A guard, or nil at once." },
    { "with", "(fn, ...)", "fn(...) while holding a permit; its results." },
    { "available", "()", "How many permits nobody has at this moment." },
  } },
  { receiver = "g", separator = ":", class = "luapool.guard", title = "guards, made by acquire and try of locks and semaphores", entries = {
    { "release", "()", "Gives the lock, or the permit, back; so do <close> and the collector." },
  } },
  { receiver = "ch", separator = ":", class = "luapool.channel", title = "channels, made by pool.channel", entries = {
    { "send", "(v [, timeout])", 'true, when it is on its way; nil, "timeout". Waits while the channel is full.' },
    { "receive", "([timeout])", 'true, v; nil, "timeout"; nil, "closed" when nothing can come any more.' },
    { "iter", "()", "for v in ch:iter() do ... end: until it is closed and empty." },
    { "close", "()", "Nothing more can be sent; what waits can be received." },
    { "is_closed", "()", "Has it been closed?" },
  } },
}

for _, section in ipairs(SECTIONS) do
  if section.verbs then table.move(VERBS, 1, #VERBS, #section.entries + 1, section.entries) end
end

---@class luapool.HelpEntry
---@field name string of the function
---@field usage string how it is called: "pool.map(fn, src [, options])"
---@field text string what it does
---@field section table

--- All entries, in order.
---@return luapool.HelpEntry[]
function help.entries()
  local list = {}
  for _, section in ipairs(SECTIONS) do
    for _, entry in ipairs(section.entries) do
      local usage = section.receiver .. section.separator .. entry[1] .. entry[2]
      list[#list + 1] = { name = entry[1], usage = usage, text = entry[3]:gsub("\n", " "), section = section }
    end
  end
  return list
end

-- ---- whose is it? ----

-- The table of methods of a section's objects, if there can be any.
local function methods_table(section)
  if section.receiver == "pool" then return part "init" end
  local class = section.class == "luapool.pool" and part "pool" or section.class == "luapool.future" and part "future".Future
    or debug.getregistry()[section.class]
  local index = type(class) == "table" and rawget(class, "__index")
  return type(index) == "table" and index or nil
end

local function section_of(value)
  if value == part "init" then return SECTIONS[1] end
  local meta = debug.getmetatable(value)
  local name = type(meta) == "table" and rawget(meta, "__name")
  for _, section in ipairs(SECTIONS) do
    if section.class and section.class == name then return section end
  end
end

--- Names of the methods of an object of ours; {} for others.
function help.methods_of(value)
  local section, names = section_of(value), {}
  if not section or section.receiver == "pool" then return names end
  for i, entry in ipairs(section.entries) do names[i] = entry[1] end
  return names
end

local function entries_of_function(fn)
  local found = {}
  for _, entry in ipairs(help.entries()) do
    local methods = methods_table(entry.section)
    if methods and rawget(methods, entry.name) == fn then found[#found + 1] = entry end
  end
  return found
end

-- "pool.map", "p:map", "map", ":map"; "array": a section
local function entries_of_text(text)
  local receiver, name = text:match("^([%w_]*)[.:]([%w_]+)$")
  name = name or text
  local found = {}
  for _, entry in ipairs(help.entries()) do
    if entry.name == name and (not receiver or receiver == "" or entry.section.receiver == receiver) then found[#found + 1] = entry end
  end
  return found
end

local function section_of_text(text)
  if text == "pool" then return SECTIONS[1] end
  for _, section in ipairs(SECTIONS) do
    if section.class and (section.class == text or section.class == "luapool." .. text:gsub("s$", "")) then return section end
  end
end

-- ---- showing ----

local function wrap(text, width, indent)
  local lines, line = {}, ""
  for word in text:gmatch("%S+") do
    if line ~= "" and #line + 1 + #word > width - #indent then
      lines[#lines + 1], line = indent .. line, word
    else
      line = line == "" and word or line .. " " .. word
    end
  end
  lines[#lines + 1] = indent .. line
  return table.concat(lines, "\n")
end

local function options_text(entry, width)
  if not entry.usage:find("options", 1, true) then return "" end
  local names = part("check").option_names(entry.name, entry.section.receiver == "pool")
  return "\n" .. wrap("options: " .. table.concat(names, " "), width, "  ")
end

local function entry_text(entry, width)
  return entry.usage .. "\n" .. wrap(entry.text, width, "  ") .. options_text(entry, width)
end

local function section_text(section, width)
  local lines = { section.title .. ":" }
  for _, entry in ipairs(help.entries()) do
    if entry.section == section then
      lines[#lines + 1] = "  " .. entry.usage
      lines[#lines + 1] = wrap(entry.text, width, "      ")
    end
  end
  if section.verbs then lines[#lines + 1] = wrap(section.verbs, width, "") end
  return table.concat(lines, "\n")
end

local function overview(width)
  local lines = {}
  for _, section in ipairs(SECTIONS) do
    local names = {}
    for i, entry in ipairs(section.entries) do names[i] = section.receiver .. section.separator .. entry[1] end
    lines[#lines + 1] = section.title .. ":\n" .. wrap(table.concat(names, " "), width, "  ")
  end
  lines[#lines + 1] = 'help(pool.map) or help "pool.map" tells more, help(p) about an object; .help about this prompt'
  return table.concat(lines, "\n")
end

-- A Lua function of somebody else: its parameters, its place, and the comment above it.
local function comment_above(info)
  local file = info.source:sub(1, 1) == "@" and io.open(info.source:sub(2))
  if not file then return nil end
  local lines, number = {}, 0
  for line in file:lines() do
    number = number + 1
    if number >= info.linedefined then break end
    if line:find("^%s*%-%-") then lines[#lines + 1] = (line:gsub("^%s*", "")) else lines = {} end
  end
  file:close()
  return #lines > 0 and table.concat(lines, "\n") or nil
end

local function function_text(fn)
  local info, names = debug.getinfo(fn, "Su"), {}
  if info.what == "C" then return tostring(fn) .. ": a function of C; there is no help about it" end
  for i = 1, info.nparams do names[i] = debug.getlocal(fn, i) end
  if info.isvararg then names[#names + 1] = "..." end
  local text = ("function(%s)  %s:%d"):format(table.concat(names, ", "), info.short_src, info.linedefined)
  local comment = comment_above(info)
  return comment and text .. "\n" .. comment or text
end

local function texts_of(entries, width)
  local texts = {}
  for i, entry in ipairs(entries) do texts[i] = entry_text(entry, width) end
  return table.concat(texts, "\n")
end

--- What help(...) shows: about everything, a name, a function, or an object.
---@param width integer? columns
---@return string
function help.text(width, ...)
  width = width or 80
  if select("#", ...) == 0 then return overview(width) end
  local subject = ...
  local find = type(subject) == "function" and entries_of_function or type(subject) == "string" and entries_of_text
  local entries = find and find(subject) or {}
  if #entries > 0 then return texts_of(entries, width) end
  if type(subject) == "function" then return function_text(subject) end
  local section = type(subject) == "string" and section_of_text(subject) or section_of(subject)
  if section then return section_text(section, width) end
  if type(subject) == "string" then return ("there is no help about %q; help() lists what there is"):format(subject) end
  return ("a %s; help() lists what there is"):format(type(subject))
end

--- help(...) at a prompt.
function help.show(repl, ...)
  repl:say(help.text(math.min(repl:width(), 100), ...))
end

return help
