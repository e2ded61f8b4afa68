-- luapool/output -- what tasks of inline pools print, where the option `output` wants it otherwise than it comes. Room: lua.
-- Owns, while a task runs: print, io.write and the write method of files. Only what goes through these is caught, and only to standard
-- output and standard error; programs, C libraries, and a print that was put aside before, write where they always do.
-- "line" and "order" need nothing: one task prints after the other.

local output = {}

local STDOUT, STDERR = "stdout", "stderr"

local current -- the innermost capture; captures may nest
local print, write, file_write, methods -- the true ones

-- ---- ways out ----

local function write_true(stream, text)
  if file_write then
    file_write(io[stream], text)
  else -- a state without io
    for line in text:gmatch("([^\n]*)\n?") do
      if line ~= "" then print(line) end
    end
  end
end

local feed

local function pass_on(capture, stream, text)
  if capture.outer then feed(capture.outer, stream, text) else write_true(stream, text) end
end

-- Whole lines.
local function emit(capture, stream, text)
  if capture.wish == "tag" then
    pass_on(capture, stream, (text:gsub("[^\n]*\n", function(line) return capture.tag .. line end)))
  else
    for line in text:gmatch("([^\n]*)\n") do
      capture.lines[#capture.lines + 1] = { line, { worker = capture.worker, item = capture.item, stream = stream } }
    end
  end
end

function feed(capture, stream, text)
  if capture.wish == "discard" then return end
  if capture.is_transparent then return pass_on(capture, stream, text) end
  local waiting = capture.waiting[stream]
  local last = text:find("\n[^\n]*$")
  if last then
    emit(capture, stream, table.concat(waiting) .. text:sub(1, last))
    waiting = {}
    capture.waiting[stream] = waiting
    text = text:sub(last + 1)
  end
  if text ~= "" then waiting[#waiting + 1] = text end
end

-- The function is told when the task is over, so that its errors are not the task's; what it prints itself is not caught.
local function tell(capture)
  local lines <const> = capture.lines
  capture.lines = {}
  local _ <close> = setmetatable({}, { __close = function() current = capture end })
  current = capture.outer
  for _, line in ipairs(lines) do capture.wish(line[1], line[2]) end
end

-- ---- ways in ----

local function pieces(...)
  local words = table.pack(...)
  for i = 1, words.n do
    local word = words[i]
    if math.type(word) == "float" then
      words[i] = ("%.14g"):format(word)
    elseif type(word) ~= "string" and type(word) ~= "number" then
      error(("bad argument #%d to 'write' (string expected, got %s)"):format(i, type(word)), 3)
    end
  end
  return table.concat(words, "", 1, words.n)
end

local function caught_print(...)
  if not current then return print(...) end
  local words = table.pack(...)
  for i = 1, words.n do words[i] = tostring(words[i]) end
  feed(current, STDOUT, table.concat(words, "\t", 1, words.n) .. "\n")
end

local function stream_of(file)
  return rawequal(file, io.stdout) and STDOUT or rawequal(file, io.stderr) and STDERR or nil
end

local function caught_file_write(file, ...)
  local stream = current and stream_of(file)
  local text = stream and pieces(...)
  if not text then return file_write(file, ...) end
  feed(current, stream, text)
  return file
end

local function caught_write(...)
  local file = io.output()
  local stream = current and stream_of(file)
  local text = stream and pieces(...)
  if not text then return write(...) end
  feed(current, stream, text)
  return file
end

-- A print of the script's own ends in the true ones, as a rule: it is left alone.
local function install()
  print = _G.print
  if not debug or debug.getinfo(print, "S").what == "C" then _G.print = caught_print end
  if not io then return end
  methods = getmetatable(io.stdout).__index
  write, file_write = io.write, methods.write
  io.write, methods.write = caught_write, caught_file_write -- luacheck: ignore 122
end

local function uninstall()
  if _G.print == caught_print then _G.print = print end
  if not io then return end
  if io.write == caught_write then io.write = write end -- luacheck: ignore 122
  if methods.write == caught_file_write then methods.write = file_write end
end

-- ---- the caller's view ----

local Capture = {}
Capture.__index = Capture

function Capture:__close()
  current = self.outer
  if not current then uninstall() end
end

--- Catch what is printed until the value is closed. nil: there is nothing to catch.
---@param wish string|function|nil the pool's option
---@param worker integer number of the worker that this process is
function output.capture(wish, worker)
  local is_transparent = wish == nil or wish == "line" or wish == "order"
  if is_transparent and not current then return nil end
  if not current then install() end
  current = setmetatable({
    wish = wish, is_transparent = is_transparent, worker = worker, tag = ("[%d] "):format(worker), outer = current,
    waiting = { stdout = {}, stderr = {} }, lines = {},
  }, Capture)
  return current
end

--- Item `index` begins; nil: it is over, and with it the line that it left unfinished. Raises what the pool's function raises.
function output.item(index)
  local capture = current
  if not capture then return end
  if index == nil then
    for _, stream in ipairs { STDOUT, STDERR } do
      if #capture.waiting[stream] > 0 then feed(capture, stream, "\n") end
    end
    if #capture.lines > 0 then tell(capture) end
  end
  capture.item = index
end

return output
