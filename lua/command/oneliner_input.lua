-- command/oneliner_input -- where one-liners take their lines from: standard input, files, arguments, and all combinations of several of
-- these. Room: lua. Owns: per input a reader, and with it the file that is open.
local core = ...

local input = {}

---@class luapool.OnelinerInput
local Input = {}
Input.__index = Input

-- ---- one stream ----

-- Open the next source; false: there is none.
local function advance(self)
  while true do
    self.at = self.at + 1
    local source = self.sources[self.at]
    if not source then return false end
    self.line = 1
    if source.list then
      self.name = "argument"
      self.reader:feed(#source.list > 0 and table.concat(source.list, self.separator) .. self.separator or "")
      return true
    end
    self.name = source.path or "stdin"
    local ok, message = self.reader:open(source.path)
    if ok then return true end
    self.complain(("%s: %s"):format(self.name, message))
  end
end

local function block_of(self, text, n)
  local number = self.number
  local block = { text = text, number = number, n = n, place = self.name, line = self.line, item = { text, number } }
  self.number, self.line = number + n, self.line + n
  return block
end

-- read(reader) -> text, n | nil | nil, message
local function next_block(self, read, ...)
  while true do
    if not self.is_open then
      if not advance(self) then return nil end
      self.is_open = true
    end
    local text, n = read(self.reader, ...)
    if n == 0 then return false end
    if text then return block_of(self, text, n) end
    if n then self.complain(("%s: %s"):format(self.name, n)) end
    self.is_open = false
  end
end

--- The next block of about so many bytes (0: one line); false: there is no whole line yet (only if not `waits`); nil: no more.
function Input:block(bytes, waits) return next_block(self, self.reader.block, bytes, waits) end

--- The next block of exactly n lines, unless the input (a file of it) ends; false, nil: as block's.
function Input:items(n, waits) return next_block(self, self.reader.items, n, waits) end

--- A block that is a part of another.
function Input.part_of(block, text, number, n)
  return {
    text = text, number = number, n = n, place = block.place, line = block.line + (number - block.number), item = { text, number },
  }
end

-- ---- combinations ----

local function read_all(self, source)
  if source.list then return source.list end
  local name = source.path or "stdin"
  local ok, message = self.reader:open(source.path)
  local lines = {}
  while ok do
    local text, n = self.reader:block(0, true)
    if not text then
      message = n
      break
    end
    lines[#lines + 1] = text:sub(1, -2)
  end
  if message then self.complain(("%s: %s"):format(name, message)) end
  return lines
end

-- What is combined with each other: runs of sources { first =, last =, n = }, of which the linked ones go along with the one before. The
-- shortest of a run counts.
local function runs_of(sources, lists)
  local runs = {}
  for i, list in ipairs(lists) do
    local run = sources[i].is_linked and runs[#runs]
    if run then
      run.last, run.n = i, math.min(run.n, #list)
    else
      runs[#runs + 1] = { first = i, last = i, n = #list }
    end
  end
  return runs
end

-- The n-th combination, the last run being the fastest; nil: there are no more.
local function combination(runs, lists, n)
  local left, list = n - 1, {}
  for r = #runs, 1, -1 do
    local run = runs[r]
    if run.n == 0 then return nil end
    for i = run.first, run.last do list[i] = lists[i][left % run.n + 1] end
    left = left // run.n
  end
  return left == 0 and list or nil
end

-- As Input.block, one combination at a time.
local function next_combination(self)
  local list = combination(self.runs, self.lists, self.number)
  if not list then return nil end
  local text = table.concat(list, " ")
  local block = { text = text, number = self.number, n = 1, place = "combination", line = self.number, item = { text, self.number, list } }
  self.number = self.number + 1
  return block
end

-- ---- lines with parts ----

local function split(line, separator)
  local parts, at = {}, 1
  while true do
    local from, to = line:find(separator, at)
    parts[#parts + 1] = line:sub(at, (from or 0) - 1)
    if not from then return parts end
    at = to + 1
  end
end

-- As Input.block, one line at a time, in its columns.
local function next_row(self, _, waits)
  local block = next_block(self, self.reader.block, 0, waits)
  if not block then return block end
  block.text = block.text:sub(1, -2)
  block.item = { block.text, block.number, split(block.text, self.columns) }
  return block
end

-- As Input.block, so many lines at a time; at the end what there is. Of lines that have come, but not all, it keeps what it has.
local function next_group(self, _, waits)
  local number, lines = self.number, self.group
  while #lines < self.group_size do
    local block = next_block(self, self.reader.block, 0, waits)
    self.number = number
    if block == false then return false end
    if not block then break end
    lines[#lines + 1] = block.text:sub(1, -2)
  end
  if #lines == 0 then return nil end
  self.group, self.number = {}, number + 1
  local text = table.concat(lines, " ")
  return { text = text, number = number, n = 1, place = self.name, line = self.line - #lines, item = { text, number, lines } }
end

--- Each line is an item of several parts: what lies between the matches of a pattern. Only with `block`.
function Input:split_lines(pattern) self.columns, self.block = pattern, next_row end

--- So many lines are one item, whose parts they are. Only with `block`.
function Input:group_lines(n) self.group_size, self.group, self.block = n, {}, next_group end

--- An input of all sources: a stream of their lines, or (is_product) all combinations of one line of each; these are read at once.
---@param sources table[] { list = strings } | { path = string } | {} (standard input); is_linked: its lines go along with those of the one
---   before
---@param separator string the byte that ends a line
---@param complain fun(message: string) told of what cannot be read; the others are read all the same
function input.new(sources, separator, is_product, complain)
  local self = setmetatable({ sources = sources, separator = separator, at = 0, number = 1, line = 1, complain = complain }, Input)
  self.reader, self.source = core.reader(separator)
  if is_product then
    self.is_product, self.lists = true, {}
    for i, source in ipairs(sources) do self.lists[i] = read_all(self, source) end
    self.runs = runs_of(sources, self.lists)
    self.reader:feed("")
    self.block = next_combination
  end
  return self
end

--- How many items there are, if that is known now.
---@return integer?
function Input:count()
  if self.is_product then
    local n = 1
    for _, run in ipairs(self.runs) do n = n * run.n end
    return n
  end
  local n = 0
  for _, source in ipairs(self.sources) do
    if not source.list then return nil end
    n = n + #source.list
  end
  if self.group_size then return (n + self.group_size - 1) // self.group_size end
  return n
end

return input
