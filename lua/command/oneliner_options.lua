-- command/oneliner_options -- what the command line says behind the words map, filter and reduce. Room: lua. Owns nothing.
-- Options may stand anywhere before ":::"; those that luapool knows before the word, too (workers, memory, trace ...), are handed on to it.
local options = {}

local HELP <const> = [[
usage: luapool [options] map EXPR|FILE.lua [files]           the results, one per line
       luapool [options] filter EXPR|FILE.lua [files]        the lines for which it is true
       luapool [options] reduce EXPR|FILE.lua [files]        all lines joined into one value
       luapool [options] map --cmd 'COMMAND {}' [files]      run shell commands, as GNU parallel does
Lines come from the files (- is standard input), from standard input, or from the command line: ::: args ...
(:::: files ... reads them; several ::: and :::: give all combinations; :::+ and ::::+ go along with the source before).

EXPR is a Lua expression, or statements that return something, of
  _        the line, a string without its end; _i its number   (map, filter)
  a, b     what is joined; lines that are numerals are numbers (reduce)
  _1 _2    the parts of a combination
A FILE.lua (or -f FILE) returns a function of the same. Results: nil prints nothing, tables are JSON, several have tabs between.

  -0, --null               lines end with NUL; filter writes them so
      --print0             results end with NUL
      --unordered          results as they come; else they are in the order of the lines
  -f, --file FILE          the function that FILE returns
      --text               reduce: lines stay strings, numerals too
  -t, --timeout SECONDS    what a line may take
      --deadline SECONDS   what all of it may take
      --retries N          map EXPR: a failed line is tried again, so many times; --cmd: N tries in all, as GNU parallel
      --halt WHEN          never, now,fail=1, soon,fail=10%, now,success=1, now,done=5: when to end early
      --joblog FILE        a line for each item that is done, as GNU parallel writes it
      --resume             skip what the joblog has; --resume-failed: but not what failed there

With --cmd COMMAND
  {} {.} {/} {//} {/.}     the item, without its extension, its base name, its folder, base name without extension
  {1} {2.} {3/} ...        the parts of a combination;   {#} number of the item;   {%} number of the worker
  Items are quoted for the shell. Without any of these {} is appended. Output comes job by job.
  -C, --colsep PATTERN     a line's columns are its parts: {1} {2} ...; a Lua pattern, where \t is a tab
  -N, --max-args N         N lines are one item, and its parts: {1} to {N}; {} is all of them
  -u, --ungroup            output as it comes
      --tag                the item before each line of output
      --dry-run            print the commands, run nothing
      --shell PATH         else $PARALLEL_SHELL, $SHELL (of Bourne's kind), /bin/sh
  The exit status is the number of failed jobs (101: more than 100).

  -j N, --workers N, --jobs N, and the other options of luapool: see luapool --help
]]

-- Ours: whether they have an argument, and what they are called here.
local OWN = {
  ["0"] = { "null" }, null = { "null" }, print0 = { "print0" }, unordered = { "unordered" }, k = { "keep_order" },
  ["keep-order"] = { "keep_order" }, f = { "file", true }, file = { "file", true }, a = { "arg_file", true },
  ["arg-file"] = { "arg_file", true },
  text = { "text" }, halt = { "halt", true }, joblog = { "joblog", true }, resume = { "resume" }, ["resume-failed"] = { "resume_failed" },
  cmd = { "cmd", true }, u = { "ungroup" }, ungroup = { "ungroup" }, ["line-buffer"] = { "ungroup" }, lb = { "ungroup" },
  group = { "group" }, tag = { "tag" }, ["dry-run"] = { "dry_run" }, ["dryrun"] = { "dry_run" }, shell = { "shell", true },
  C = { "colsep", true }, colsep = { "colsep", true }, N = { "max_args", true }, n = { "max_args", true },
  ["max-args"] = { "max_args", true }, ["max-replace-args"] = { "max_args", true },
  help = { "help" },
}

-- Those of luapool: whether they have an argument ("maybe": only as --name=value), and their name there.
local SHARED = {
  j = { "workers", true }, workers = { "workers", true }, jobs = { "workers", true }, t = { "timeout", true },
  timeout = { "timeout", true }, m = { "memory", true }, memory = { "memory", true }, seed = { "seed", true },
  retries = { "retries", true }, ["on-crash"] = { "on-crash", true },
  deadline = { "deadline", true },
  grace = { "grace", true }, ["max-tasks"] = { "max-tasks", true },
  ["max-growth"] = { "max-growth", true }, ["idle-timeout"] = { "idle-timeout", true }, nice = { "nice", true },
  load = { "load", true }, memfree = { "memfree", true }, ["retry-delay"] = { "retry-delay", true }, pin = { "pin", "maybe" },
  start = { "start", true }, progress = { "progress", "maybe" },
  color = { "color", "maybe" }, quiet = { "quiet" }, q = { "quiet" }, trace = { "trace", true }, report = { "report", true },
}

local function usage(message, ...)
  error(message:format(...) .. "\n(luapool map --help tells more)", 0)
end

local function find(name, word)
  local own, shared = OWN[name], SHARED[name]
  if own or shared then return own or shared, shared ~= nil end
  usage("%s: unrecognized option '%s'", word.name, word.text)
end

local function store(read, option, is_shared, value)
  if is_shared then read.shared[option[1]] = value else read[option[1]] = value end
end

-- --name, --name value, --name=value. Returns how many of the following arguments were taken.
local function read_long(read, text, following)
  local name, value = text:match("^%-%-([^=]+)=?(.*)$")
  local has_value = text:find("=", 1, true) ~= nil
  local option, is_shared = find(name or "", { name = read.word, text = text })
  if not option[2] then
    if has_value then usage("%s: option '%s': no argument expected", read.word, text) end
    store(read, option, is_shared, is_shared and "" or true)
    return 0
  elseif has_value or option[2] == "maybe" then
    store(read, option, is_shared, value)
    return 0
  end
  if not following then usage("%s: '%s' needs argument", read.word, text) end
  store(read, option, is_shared, following)
  return 1
end

-- -x, -xvalue, -x value, and -xyz for letters without arguments.
local function read_letters(read, text, following)
  for at = 2, #text do
    local option, is_shared = find(text:sub(at, at), { name = read.word, text = text })
    if option[2] then
      local value = text:sub(at + 1)
      if value == "" and not following then usage("%s: '%s' needs argument", read.word, text) end
      store(read, option, is_shared, value ~= "" and value or following)
      return value == "" and 1 or 0
    end
    store(read, option, is_shared, is_shared and "" or true)
  end
  return 0
end

-- An option, and no expression such as -_ or -(_ + 1)?
local function is_option(text)
  return text:find("^%-%-.") ~= nil or text:find("^%-[%w]") ~= nil
end

local MARKS <const> = { [":::"] = "list", ["::::"] = "files", [":::+"] = "list", ["::::+"] = "files" }
local LINKS <const> = { [":::+"] = true, ["::::+"] = true }

local function read_sources(read, arguments, at)
  local mark, is_linked
  if LINKS[arguments[at]] then usage("%s: '%s' goes along with a source before it, and there is none", read.word, arguments[at]) end
  while at <= #arguments do
    local text = arguments[at]
    if MARKS[text] then
      mark, is_linked = MARKS[text], LINKS[text]
      if mark == "list" then read.sources[#read.sources + 1] = { list = {}, is_linked = is_linked } end
      read.is_product = read.is_product or #read.sources > 1
    elseif mark == "list" then
      local list = read.sources[#read.sources].list
      list[#list + 1] = text
    else
      read.sources[#read.sources + 1] = { path = text ~= "-" and text or nil, is_linked = is_linked }
      read.is_product = read.is_product or #read.sources > 1
    end
    at = at + 1
  end
end

-- What is not an option: the function, and files.
local function place(read, words)
  local at = 1
  if not read.cmd and not read.file then
    read.expression = words[1]
    at = 2
    if not words[1] then usage("%s: EXPR, a FILE.lua or --cmd expected", read.word) end
  end
  local files = {}
  if read.arg_file then files[1] = read.arg_file end
  for i = at, #words do files[#files + 1] = words[i] end
  if #files > 0 and #read.sources > 0 then usage("%s: files, or arguments behind ::: and ::::, not both", read.word) end
  for _, path in ipairs(files) do read.sources[#read.sources + 1] = path == "-" and {} or { path = path } end
  if #read.sources == 0 then read.sources[1] = {} end
end

-- What makes several parts of a line, or one item of several lines: read, as the values they are.
local function read_parts(read)
  if read.colsep then
    local pattern = read.colsep:gsub("\\t", "\t")
    local ok, matches_nothing = pcall(string.find, "", pattern)
    if not ok or matches_nothing then usage("%s: --colsep: pattern that matches something expected, got '%s'", read.word, read.colsep) end
    read.colsep = pattern
  end
  if read.max_args then
    local n = math.tointeger(tonumber(read.max_args))
    if not n or n < 1 or n > 1 << 20 then usage("%s: --max-args: integer from 1 expected, got '%s'", read.word, read.max_args) end
    read.max_args = n
  end
  if read.colsep and read.max_args then usage("%s: --colsep or --max-args, not both", read.word) end
  if read.is_product and (read.colsep or read.max_args) then usage("%s: --colsep and --max-args are for one source", read.word) end
end

local function check_each(read)
  if read.word ~= "map" and read.cmd then usage("%s: --cmd is for map", read.word) end
  if read.cmd and read.file then usage("%s: --cmd or --file, not both", read.word) end
  if (read.resume or read.resume_failed) and not read.joblog then usage("%s: --resume and --resume-failed need --joblog", read.word) end
  if read.word == "reduce" and (read.joblog or read.halt or read.unordered) then
    usage("reduce: no --joblog, --halt or --unordered: a fold without some of its lines is none")
  end
  for _, name in ipairs { "tag", "ungroup", "dry_run", "shell", "colsep", "max_args" } do
    if read[name] and not read.cmd then usage("%s: --%s is for --cmd", read.word, (name:gsub("_", "-"))) end
  end
  read_parts(read)
end

--- Read what stands behind the word.
---@param word "map"|"filter"|"reduce"
---@param arguments string[]
---@return table read { word, expression | file | cmd, sources, is_product, shared = options for luapool, by name, ... }
--- Raises a message about what cannot be understood.
function options.read(word, arguments)
  local read, words, at = { word = word, shared = {}, sources = {} }, {}, 1
  while at <= #arguments do
    local text, taken = arguments[at], 0
    if MARKS[text] then
      read_sources(read, arguments, at)
      break
    elseif text == "--" then
      while arguments[at + 1] and not MARKS[arguments[at + 1]] do
        at = at + 1
        words[#words + 1] = arguments[at]
      end
    elseif not is_option(text) then
      words[#words + 1] = text
    elseif text:sub(1, 2) == "--" then
      taken = read_long(read, text, arguments[at + 1])
    else
      taken = read_letters(read, text, arguments[at + 1])
    end
    at = at + 1 + taken
  end
  if read.help then return read end
  place(read, words)
  check_each(read)
  return read
end

options.HELP = HELP

return options
