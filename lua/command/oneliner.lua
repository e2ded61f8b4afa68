-- command/oneliner -- luapool map, filter, reduce: a function over lines, in all workers. Room: lua (may print: it is the command's).
-- Owns: per run an input and a pool.
-- Lines go to the workers in blocks, and what a block gives comes back as one text. Where something is said of single lines (time limits,
-- retries, seed, a joblog, --halt, --cmd) a block is one line.
local core, part = ...

local expression, options, input = part "oneliner_expression", part "oneliner_options", part "oneliner_input"

local oneliner = {}

local Error = core.Error

local BUDGET <const> = 0.025 -- seconds after which a worker gives back what it has not done of a block
local TOLD <const> = 10 -- failed lines that are told; the others are counted
local MOST_STATUS <const>, MORE_STATUS <const> = 100, 101 -- of --cmd: failed jobs
local SIGTERM <const> = 15

---@class luapool.Oneliner
local Run = {}
Run.__index = Run

-- ---- what people read ----

local function say(self, message, ...)
  io.stderr:write(self.program, ": ", message:format(...), "\n")
end

-- A command as it can stand in a message.
local MOST_TEXT <const> = 400

local function shortened(text)
  return #text > MOST_TEXT and text:sub(1, MOST_TEXT) .. "..." or text
end

local function complain_about_input(self, message)
  self.n_problems = self.n_problems + 1
  say(self, "%s", message)
end

-- Failed lines are told when their block goes out: in the order of the lines, unless nobody wants one.
local function count_failure(self, block, number, text)
  local problems = block.problems or {}
  block.problems = problems
  self.counts.fail = self.counts.fail + 1
  if #problems < TOLD then problems[#problems + 1] = ("%s:%d: %s"):format(block.place, block.line + (number - block.number), text) end
end

local function tell_problems(self, problems)
  for _, text in ipairs(problems) do
    if self.n_told == TOLD then return end
    self.n_told = self.n_told + 1
    say(self, "%s", text)
  end
end

local function tell_the_rest(self)
  local more = self.counts.fail - self.n_told
  if more > 0 and not self.read.cmd then say(self, "%d more line%s failed", more, more == 1 and "" or "s") end
end

-- ---- writing ----

local function write_to(self, file, ...)
  if self.is_mute then return end
  local ok, message, code = file:write(...)
  if ok then ok, message, code = file:flush() end
  if ok then return end
  self.is_mute = true
  self.n_problems = self.n_problems + 1
  local EPIPE <const> = 32
  if code ~= EPIPE then say(self, "cannot write: %s", message) end
  if self.job and self.job.flow then self.job.flow:stop() end
end

-- Texts that are gathered to be written at once: short ones, joining long ones costs more than writing them one by one.
local JOINED_BYTES <const> = 16 << 10

local function write_texts(self, texts)
  local n = #texts
  if n == 0 then return {} end
  write_to(self, io.stdout, n == 1 and texts[1] or table.concat(texts))
  return {}
end

-- A piece is a text, or { stdout, stderr } of a job.
local function write_pieces(self, pieces)
  local texts, bytes = {}, 0
  for _, piece in ipairs(pieces) do
    local text, errors = piece, ""
    if type(piece) ~= "string" then text, errors = piece[1], piece[2] end
    texts[#texts + 1] = text
    bytes = bytes + #text
    if bytes > JOINED_BYTES or errors ~= "" then texts, bytes = write_texts(self, texts), 0 end
    if errors ~= "" then io.stderr:write(errors) end
  end
  write_texts(self, texts)
end

-- ---- the function ----

local PARAMETERS <const> = { map = "_, _i", filter = "_, _i", reduce = "a, b" }

-- Raises what is wrong with it.
local function function_of(read)
  local path = read.file
  if not path and read.expression:find("^[^%s()]+%.lua$") then path = read.expression end
  local parameters = PARAMETERS[read.word]
  if read.is_product then
    for i = 1, #read.sources do parameters = parameters .. ", _" .. i end
  end
  local fn, message
  if path then fn, message = expression.file(path) else fn, message = expression.compile(read.expression, parameters) end
  return fn or error(message, 0)
end

-- A wish of the host: it ends the task, whatever that catches.
local function is_order(err)
  return core.is_interrupt(err) or (getmetatable(err) == Error and (err.kind == "cancelled" or err.kind == "timeout"))
end

local function text_of(err)
  local ok, text = pcall(tostring, err)
  if not ok then return "an error whose value cannot be made into text" end
  if type(err) ~= "string" and type(err) ~= "number" and not getmetatable(err) then
    text = ("(error object is a %s value)"):format(type(err))
  end
  return expression.message(text)
end

-- Run `runner[verb]` to the end of the block, or of the time: what went wrong with which lines, and how many there were.
local function run_lines(runner, verb, fn, began)
  local problems, n
  while true do
    local left = BUDGET - (core.now() - began)
    local ok, err = pcall(runner[verb], runner, fn, math.max(left, 1e-9))
    if ok then return problems, n end
    if is_order(err) then error(err, 0) end
    problems, n = problems or {}, (n or 0) + 1
    if #problems < TOLD then problems[#problems + 1] = { runner:place(), text_of(err) } end
    if core.now() - began > BUDGET then return problems, n end
  end
end

-- What workers do with a block: map and filter.
local function block_function(verb, fn, runner)
  return function(item)
    if not item then return {} end
    local began = core.now()
    runner:begin(item[1], item[2])
    local problems, n = run_lines(runner, verb, fn, began)
    local number, at = runner:place()
    return { out = runner:take(), seconds = core.now() - began, at = at, number = number + 1, problems = problems, n = n }
  end
end

-- The same for one line, whose errors are the pool's to count, time and retry.
local function line_function(verb, fn, terminator)
  local to_line = part("oneliner_value").line
  return function(item)
    if not item then return {} end
    local began, from = core.wall_clock(), core.now()
    local list = item[3]
    local text = list and item[1] or item[1]:sub(1, -2)
    local results = table.pack(fn(text, item[2], table.unpack(list or {})))
    local out
    if verb == "filter" then
      out = results[1] and (list and text .. terminator or item[1]) or nil
    else
      out = to_line(results)
      out = out and out .. terminator
    end
    return { out = out, seconds = core.now() - from, began = began }
  end
end

-- ---- a joblog, and when to end ----

local function total_of(self)
  return self.input:count() or (self.job.flow.is_over and self.input.number - 1) or nil
end

local function check_halt(self)
  local halt = self.halt
  if not halt or self.has_halted then return end
  if not part("oneliner_joblog").is_reached(halt, self.counts, total_of(self)) then return end
  self.has_halted = true
  if halt.when == "now" then self.job.flow:stop() else self.job.flow:finish() end
end

-- One item is over: { number, began, seconds, bytes, status, signal, command }
local function note_job(self, job)
  local is_good = job.status == 0 and job.signal == 0
  if is_good then self.counts.success = self.counts.success + 1 end
  if not is_good then self.last_status = job.status > 0 and job.status or 128 + job.signal end
  local log = self.joblog
  if log then
    log:add(job)
    if log.problem and not self.has_told_log then
      self.has_told_log = true
      complain_about_input(self, log.problem)
    end
  end
  check_halt(self)
end

-- An error of the pool's as numbers: status, signal.
local SIGNALS <const> = { SIGHUP = 1, SIGINT = 2, SIGQUIT = 3, SIGILL = 4, SIGTRAP = 5, SIGABRT = 6, SIGBUS = 7, SIGFPE = 8, SIGKILL = 9,
  SIGUSR1 = 10, SIGSEGV = 11, SIGUSR2 = 12, SIGPIPE = 13, SIGALRM = 14, SIGTERM = 15 }

local function codes_of(err)
  if err.kind == "timeout" then return -1, SIGTERM end
  if err.kind ~= "crash" then return 1, 0 end
  local signal = type(err.signal) == "string" and SIGNALS[err.signal] or math.tointeger(err.signal) or 0
  return err.exitcode or (signal == 0 and 1 or 0), signal
end

local function plain(block)
  return block.item[3] and block.text or block.text:sub(1, -2)
end

-- ---- map and filter ----

local function accept(self, block, value)
  if value.problems then
    for _, problem in ipairs(value.problems) do count_failure(self, block, problem[1], problem[#problem]) end
    self.counts.fail = self.counts.fail + (value.n - #value.problems)
  end
  if self.is_by_line then
    note_job(self, { number = block.number, began = value.began, seconds = value.seconds, bytes = value.out and #value.out or 0,
      status = 0, signal = 0, command = plain(block) })
  end
  return value.out
end

local function fail(self, block, err)
  if core.is_interrupt(err) then error(err, 0) end
  count_failure(self, block, block.number, expression.message(tostring(err.message)))
  if self.is_by_line then
    local status, signal = codes_of(err)
    local seconds = err.seconds or 0
    note_job(self, { number = block.number, began = core.wall_clock() - seconds, seconds = seconds, bytes = 0,
      status = status, signal = signal, command = plain(block) })
  end
  return nil
end

-- ---- commands ----

local function is_timeout(err) return getmetatable(err) == Error and err.kind == "timeout" end

local function command_function(parts, shell, catches)
  local expand = part("oneliner_command").expand
  return function(item)
    if not item then return {} end
    local command = expand(parts, item[3] or { item[1]:sub(1, -2) }, item[2], core.worker().id)
    local job = { command = command, began = core.wall_clock() }
    local results = table.pack(pcall(core.run, command, shell, catches, job))
    if results[1] then
      job.status, job.signal, job.began, job.seconds, job.out, job.err = table.unpack(results, 2, 7)
    elseif is_timeout(results[2]) then
      job.status, job.signal, job.seconds, job.is_late = -1, SIGTERM, core.wall_clock() - job.began, true
    else
      error(results[2], 0)
    end
    if job.status ~= 0 or job.signal ~= 0 then error(job, 0) end
    return job
  end
end

local function tag_lines(text, tag)
  return (text:gsub("[^\n]+\n?", function(line) return tag .. "\t" .. line end))
end

local function finish_command(self, block, job)
  job.number, job.bytes = block.number, #(job.out or "")
  local is_good = job.status == 0 and job.signal == 0
  if not is_good then
    self.counts.fail = self.counts.fail + 1
    if job.is_late then say(self, "this job was ended: it took too long: %s", shortened(job.command)) end
    if self.halt and not self.halt.is_never and not self.has_halted then
      local how = job.signal ~= 0 and "signal " .. job.signal or "exit status " .. job.status
      say(self, "this job failed (%s): %s", how, shortened(job.command))
    end
  end
  note_job(self, job)
  if not job.out then return nil end
  local out, err = job.out, job.err
  if self.read.tag then out, err = tag_lines(out, plain(block)), tag_lines(err, plain(block)) end
  return { out, err }
end

local function fail_command(self, block, err)
  if core.is_interrupt(err) then error(err, 0) end
  local value = err.value
  if err.kind == "error" and type(value) == "table" and value.command then return finish_command(self, block, value) end
  local command = part("oneliner_command").expand(self.parts, block.item[3] or { plain(block) }, block.number, err.worker or 1)
  local status, signal = codes_of(err)
  if not is_timeout(err) then say(self, "this job failed: %s: %s", err.message, shortened(command)) end
  local seconds = err.seconds or 0
  return finish_command(self, block, { command = command, status = status, signal = signal, seconds = seconds,
    began = core.wall_clock() - seconds, is_late = is_timeout(err) })
end

local function print_commands(self)
  local expand = part("oneliner_command").expand
  while not self.is_mute do
    local block = self:supply(true, 0)
    if block == nil then return end
    write_pieces(self, { expand(self.parts, block.item[3] or { plain(block) }, block.number, 1) .. "\n" })
  end
end

-- ---- running ----

--- The next block that is to be run: see flow.run's supply.
function Run:supply(waits, bytes)
  while true do
    local block = self.input:block(bytes, waits)
    if not block or not self.joblog or not self.joblog:has(block.number) then return block end
  end
end

local function prepare_jobs(self)
  local read = self.read
  if not read.halt and read.word ~= "reduce" then read.halt = part("defaults").get().halt end
  if read.halt then
    local halt, expected = part("oneliner_joblog").halt(read.halt)
    if not halt then error(("--halt: %s expected, got %s"):format(expected, core.item_text(read.halt)), 0) end
    self.halt = halt
  end
  if read.cmd then self.parts = part("oneliner_command").parse(read.cmd) end
  if read.joblog and not read.dry_run then
    local log, message = part("oneliner_joblog").open(read.joblog, read.resume_failed and "failed" or read.resume and "all" or nil)
    if not log then error("--joblog: cannot write " .. message, 0) end
    self.joblog = log
  end
end

-- Options of the call: the pool's, and what the kind of work wants.
local function call_options(self, pool)
  local wish = { errors = "collect" }
  if self.read.cmd then
    wish.chunk = 1
    local tries = pool.call_options.retries
    if tries then wish.retries = math.max(tries - 1, 0) end
  end
  if self.halt and not self.halt.is_never then wish.chunk, wish.buffer = 1, math.max(pool.options.workers, 1) end
  local call = part("check").call_options(wish, pool.call_options, 3, "imap_unordered")
  call.log = nil
  for name in pairs(call) do
    if name:find("^halt") then call[name] = nil end -- it would count blocks
  end
  return call
end

local function is_by_line(self, call)
  local read = self.read
  if read.is_product or read.cmd or read.joblog or self.halt then return true end
  return call.timeout ~= nil or (call.retries or 0) > 0 or self.has_seed
end

local function job_of(self, pool, call)
  local read = self.read
  local job = { pool = pool, call = call, reader = self.input.reader, source = self.input.source }
  job.is_ordered = not read.unordered and not read.ungroup
  if self.halt then job.most_running = math.max(pool.options.workers, 1) end -- nothing may be waiting in line when it is time to end
  job.separator, job.part_of, job.is_by_line = self.input.separator, self.input.part_of, self.is_by_line
  function job.supply(waits, bytes) return self:supply(waits, bytes) end
  function job.write(pieces) write_pieces(self, pieces) end
  function job.tell(problems) tell_problems(self, problems) end
  function job.total() return total_of(self) end
  function job.n_failed() return self.counts.fail end
  if read.cmd then
    job.fn = command_function(self.parts, read.shell or part("oneliner_command").shell(), not read.ungroup)
    function job.accept(block, value) return finish_command(self, block, value) end
    function job.fail(block, err) return fail_command(self, block, err) end
    return job
  end
  if self.is_by_line then
    job.fn = line_function(read.word, self.fn, self.terminator)
  else
    job.fn = block_function(read.word, self.fn, core.lines(part("oneliner_value").text, job.separator, self.terminator))
  end
  function job.accept(block, value) return accept(self, block, value) end
  function job.fail(block, err) return fail(self, block, err) end
  return job
end

-- Workers are forked whatever --start says: the command has one thread, and functions see what -e and -l have made.
local function new_pool() return part("pool").new { start = "fork" } end

local function run_lines_through(self)
  local pool <close> = new_pool()
  local call = call_options(self, pool)
  self.has_seed = pool.options.seed ~= nil
  self.is_by_line = is_by_line(self, call)
  self.job = job_of(self, pool, call)
  part("oneliner_flow").run(self.job)
end

-- The exit status of commands, as GNU parallel has it.
local function command_status(self)
  local failed, halt = self.counts.fail, self.halt
  if halt and not halt.is_never and self.has_halted then
    if halt.what == "success" then return 0 end
    if halt.what == "fail" and halt.is_percent then
      return math.min(failed * 100 // math.max(total_of(self) or failed, 1), MOST_STATUS)
    end
    if halt.what == "fail" and halt.number == 1 then return self.last_status end
  end
  if failed > MOST_STATUS then return MORE_STATUS end
  return failed == 0 and self.n_problems > 0 and 1 or failed
end

local function status_of(self)
  if self.read.cmd then return command_status(self) end
  local is_success = self.has_halted and self.halt.what == "success"
  return (self.counts.fail > 0 and not is_success or self.n_problems > 0) and 1 or 0
end

-- ---- reduce ----

-- What workers do with a block: fold it. (fn first: names of classes are found through it.)
local function fold_function(fn, runner, converts)
  return function(item)
    local f = fn
    if not item then return {} end
    runner:begin(item[1], item[2])
    local ok, value = pcall(runner.fold, runner, f, nil, converts)
    if ok then return { value = value } end
    if is_order(value) then error(value, 0) end
    return { problem = { runner:place(), text_of(value) } }
  end
end

-- Joins what blocks gave, in their order, in a fixed tree.
local function new_joiner(self)
  local tree = part("verbs").new_tree(self.fn)
  return tree, function(pieces)
    for _, piece in ipairs(pieces) do
      local ok, err = pcall(tree.add, piece[1])
      if not ok then
        if is_order(err) then error(err, 0) end
        error(("joining what the workers gave: %s"):format(text_of(err)), 0)
      end
    end
  end
end

local function reduce_job(self, pool, write)
  local read = self.read
  local block_size, position = part("verbs").block_size, 0
  local call = part("check").call_options({ errors = "collect" }, pool.call_options, 3, "imap_unordered")
  local job = { pool = pool, call = call, reader = self.input.reader, source = self.input.source, write = write }
  job.is_by_line, job.is_ordered, job.separator = true, true, self.input.separator
  function job.total() return total_of(self) end
  function job.n_failed() return 0 end
  job.call.log, job.call.wrapped = nil, true
  job.fn = fold_function(self.fn, core.lines(part("oneliner_value").text, job.separator, "\n"), not read.text)
  function job.supply(waits)
    local block = self.input:items(block_size(position), waits)
    if block then position = position + block.n end
    return block
  end
  function job.accept(block, value)
    if not value.problem then return { value.value } end
    local number, text = value.problem[1], value.problem[#value.problem]
    error(("%s:%d: %s"):format(block.place, block.line + (number - block.number), text), 0)
  end
  function job.fail(block, err)
    if core.is_interrupt(err) then error(err, 0) end
    local lines = block.n > 1 and ("%d-%d"):format(block.line, block.line + block.n - 1) or tostring(block.line)
    error(("%s:%s: %s"):format(block.place, lines, err.message), 0)
  end
  return job
end

local function run_reduce(self)
  local tree, write = new_joiner(self)
  do
    local pool <close> = new_pool()
    self.job = reduce_job(self, pool, write)
    part("oneliner_flow").run(self.job)
  end
  local value, is_any = tree.result()
  local line = is_any and part("oneliner_value").line { n = 1, value }
  if line then write_to(self, io.stdout, line, self.terminator) end
end

-- ---- the command ----

-- Everything that can be wrong before the first line is read. Raises a message.
-- Options before the word that mean nothing to lines: who gave them should know.
local NOT_FOR_LINES <const> = {
  log = "--joblog", resume = "behind the word: --joblog FILE --resume", chunk = false, buffer = false, output = false,
}

local function check_outer(word)
  for name in pairs(core.options() or {}) do
    if NOT_FOR_LINES[name] then error(("%s: --%s is for scripts (for lines: %s)"):format(word, name, NOT_FOR_LINES[name]), 0) end
    if NOT_FOR_LINES[name] == false then error(("%s: --%s is for scripts"):format(word, name), 0) end
  end
end

local function prepare(self, word, arguments)
  local read = options.read(word, arguments)
  self.read = read
  if read.help then return end
  for name, text in pairs(read.shared) do core.set_option(name, text) end
  check_outer(word)
  part("defaults").renew()
  part("defaults").check()
  if not read.cmd then self.fn = function_of(read) end
  self.terminator = read.print0 and "\0" or "\n"
  prepare_jobs(self)
  local separator = read.null and "\0" or "\n"
  if #read.sources == 1 and read.sources[1].list then separator = "\0" end -- arguments may have newlines, but no NUL
  self.input = input.new(read.sources, separator, read.is_product, function(message) complain_about_input(self, message) end)
  if read.colsep then self.input:split_lines(read.colsep) end
  if read.max_args then self.input:group_lines(read.max_args) end
end

local function run(self)
  io.stdout:flush()
  io.stdout:setvbuf("no") -- what is written is long, and flushed: in one piece
  if self.read.dry_run then
    print_commands(self)
  elseif self.read.word == "reduce" then
    run_reduce(self)
  else
    run_lines_through(self)
  end
  if self.joblog then self.joblog:close() end
  tell_the_rest(self)
end

--- luapool WORD ...: see luapool map --help.
---@param program string for messages
---@param word string
---@param ... string the arguments behind it
---@return integer status of the process: 0; 1: something failed (--cmd: how many jobs); 2: it cannot be understood
--- Raises interrupts. Blocks.
function oneliner.main(program, word, ...)
  local self = setmetatable({ program = program, n_problems = 0, n_told = 0, counts = { fail = 0, success = 0 } }, Run)
  local ok, message = pcall(prepare, self, word, { ... })
  if not ok then
    if type(message) ~= "string" then error(message, 0) end
    say(self, "%s", message)
    return 2
  end
  if self.read.help then
    io.stdout:write(options.HELP)
    return 0
  end
  ok, message = pcall(run, self)
  if not ok then
    if core.is_interrupt(message) or type(message) ~= "string" and getmetatable(message) ~= Error then error(message, 0) end
    say(self, "%s", type(message) == "string" and message or tostring(message))
    return 1
  end
  return status_of(self)
end

return oneliner
