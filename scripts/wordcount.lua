-- wordcount.lua [-n TOP] [FILE ...] -- the TOP (10) most frequent words of many files. Without files: those of this repository.
--   luapool scripts/wordcount.lua
--   luapool -j 8 scripts/wordcount.lua -n 20 /usr/share/doc/*/copyright
-- Shows pool.reduce with `combine`: workers fold files into tables of words, and only these tables travel, not the files.
-- A file that cannot be read costs only itself, as with wc: its name goes to stderr, the others are counted, the exit status is 1.
local pool = pool or require "luapool"

local USAGE = "usage: luapool wordcount.lua [-n TOP] [FILE ...]\n"

local function refuse(reason)
  io.stderr:write("wordcount.lua: ", reason, "\n", USAGE)
  os.exit(2)
end

-- How many words to print, and the files.
local function parse(words)
  local top, first = 10, 1
  if words[1] == "--help" then
    io.write(USAGE)
    os.exit(0)
  elseif words[1] == "-n" then
    top, first = math.tointeger(tonumber(words[2])), 3
    if not top or top < 1 then refuse "TOP must be a whole number, 1 or more" end
  end
  if words[first] == "--" then
    first = first + 1
  elseif words[first] and words[first]:find "^%-" then
    refuse("unknown option " .. words[first])
  end
  return top, { table.unpack(words, first) }
end

-- The files of the repository that this script lies in.
local function own_files()
  local root, files = (arg[0]:match "^(.*)/[^/]*$" or ".") .. "/..", {}
  local find <close> = assert(io.popen(("cd '%s' && find README.md runtime lua scripts tests -type f"):format(root:gsub("'", "'\\''"))))
  for name in find:lines() do files[#files + 1] = root .. "/" .. name end
  table.sort(files)
  return files
end

-- ---- in the workers: one file more ---------------------------------------------------------------

local function add_file(sum, path)
  local file <close>, problem = io.open(path, "rb")
  local text
  if file then text, problem = file:read "a" end -- (a directory can be opened, but not read)
  if not text then
    table.insert(sum.problems, (problem:find(path, 1, true) and "" or path .. ": ") .. problem)
    return sum
  end
  for word in text:gmatch "%a[%w_]*" do
    word = word:lower()
    sum.words[word] = (sum.words[word] or 0) + 1
  end
  sum.files, sum.bytes = sum.files + 1, sum.bytes + #text
  return sum
end

-- ---- in this process: two sums become one --------------------------------------------------------

local function join(a, b)
  for word, count in pairs(b.words) do a.words[word] = (a.words[word] or 0) + count end
  table.move(b.problems, 1, #b.problems, #a.problems + 1, a.problems)
  a.files, a.bytes = a.files + b.files, a.bytes + b.bytes
  return a
end

local function report(sum, top)
  local list, total = {}, 0
  for word, count in pairs(sum.words) do
    list[#list + 1] = word
    total = total + count
  end
  -- Among equals by the alphabet, so that every run prints the same.
  table.sort(list, function(a, b)
    if sum.words[a] ~= sum.words[b] then return sum.words[a] > sum.words[b] end
    return a < b
  end)
  print(("%d files, %d bytes, %d words, %d different"):format(sum.files, sum.bytes, total, #list))
  for i = 1, math.min(top, #list) do print(("%8d  %s"):format(sum.words[list[i]], list[i])) end
  for _, problem in ipairs(sum.problems) do io.stderr:write("wordcount.lua: ", problem, "\n") end
  return #sum.problems == 0
end

local function main()
  local top, files = parse(arg)
  if #files == 0 then files = own_files() end
  -- With `combine`, what a worker begins each of its folds with is a copy of the third argument.
  local nothing = { words = {}, problems = {}, files = 0, bytes = 0 }
  return report(pool.reduce(add_file, files, nothing, { combine = join }), top)
end

-- pool.reduce forks its workers for this call alone; when Ctrl-C interrupts it, they are gone before the error arrives here.
local ok, is_complete = pcall(main)
if not ok and not pool.is_interrupt(is_complete) then error(is_complete, 0) end
os.exit(ok and is_complete)
