-- check-layers.lua [BUILD] -- the rules of the house that a machine can check (make check); BUILD holds compiled objects.
--   A file includes only headers of its own floor or lower ones. Inside a floor, files do not include each other, unless the header
--   comment of the file (or of its header) says "may include FLOOR/name.h".
--   No lua_State below `job`: neither <lua.h> in the files nor lua_ symbols in the objects.
--   No header includes base/fault.h: the build with fault points compiles anew only the files that do.
--   Only `command` prints, exits or aborts; `_exit` belongs to `process`.
--   What a library must not do to its host: see GUESTS.
--   Objects without the tables by which an exception passes (NO_TABLES in Makefile) use neither Lua nor objects that have them.
--   Every file begins with a comment. No line of C or C++ is longer than 140 columns (of Lua, luacheck says so).
--   Lua files ask (part "name") only for what is there: lua/luapool, the library, for files of its own; lua/cluster for those, too;
--   lua/command for all. No two have the same name.
-- ROOT (environment): another house to check, for the tests of this file.
local root = os.getenv("ROOT") or "."
local build = arg[1] or os.getenv("BUILD") or "build"
local FLOORS = { "base", "memory", "process", "pool", "job", "binding", "cluster", "mpi", "command" }
local FIRST_WITH_LUA = "job"
local TALKATIVE = {}
for name in ("printf vprintf puts putchar fprintf vfprintf fputs fputc perror exit quick_exit abort __assert_fail"):gmatch("%S+") do
  TALKATIVE[name], TALKATIVE["__" .. name .. "_chk"] = true, true
end

-- A library is a guest: these it does not call, but where they belong (a floor, or a file of it; command/ is no library).
local GUESTS = {
  signal = "", sigaction = "process/interrupt process/program", sigprocmask = "", alarm = "", setitimer = "",
  wait = "", wait3 = "", wait4 = "process/process", waitid = "process/process",
  waitpid = "cluster/relay binding/lprogram process/program", -- of pids that they started
  fork = "process/process process/program", vfork = "",
  system = "job/libraries", popen = "job/libraries", -- what os.execute and io.popen do
  chdir = "", fchdir = "", umask = "", setlocale = "", setenv = "", putenv = "", unsetenv = "", clearenv = "",
  srand = "", srandom = "", setsid = "", setpgid = "", daemon = "", atexit = "process/process_child", on_exit = "process/process_child",
}

local level = {}
for number, floor in ipairs(FLOORS) do level[floor] = number end

local complaints = 0
local function complain(...)
  complaints = complaints + 1
  io.stderr:write(string.format(...), "\n")
end

local function lines_of(command)
  local pipe = assert(io.popen(command))
  local lines = {}
  for line in pipe:lines() do lines[#lines + 1] = line end
  pipe:close()
  return lines
end

local function read(path)
  local file = io.open(path, "r")
  if not file then return nil end
  local text = file:read("a")
  file:close()
  return text
end

-- The comment that a file begins with.
local function header_comment(path)
  return (read(path) or ""):match("^%s*(/%*.-%*/)") or ""
end

-- May this file include a neighbour? Line breaks of the comment do not matter.
local function is_neighbour_allowed(path, neighbour)
  local stem = path:gsub("%.[ch]$", "")
  for _, ending in ipairs { ".c", ".h" } do
    local comment = header_comment(root .. "/" .. stem .. ending):gsub("%s*\n%s*%*?%s*", " ")
    for permission in comment:gmatch("may include ([^;:)]*)") do
      if permission:find(neighbour, 1, true) then return true end
    end
  end
  return false
end

local function check_include(path, floor, included)
  local other = included:match("^(%l+)/")
  if included == "lua.h" or included == "lauxlib.h" or included == "lualib.h" then
    if level[floor] < level[FIRST_WITH_LUA] then
      complain("%s: includes <%s>, but knows no Lua below %s/", path, included, FIRST_WITH_LUA)
    end
  elseif not level[other] then
    return
  elseif level[other] > level[floor] then
    complain("%s: includes %s, which is on a higher floor", path, included)
  elseif other == floor and floor ~= "command" then
    local own = path:match("^runtime/(.*)%.[ch]$") .. ".h"
    if included ~= own and not is_neighbour_allowed(path, included) then
      complain("%s: includes its neighbour %s, and its header comment does not say \"may include %s\"", path, included, included)
    end
  end
end

local function check_source(path)
  local text, floor = read(root .. "/" .. path), path:match("^runtime/(%l+)/")
  if not text:match("^%s*/%*") then complain("%s: does not begin with a comment", path) end
  if not floor then return end
  if not level[floor] then return complain("%s: %s/ is no floor of the house", path, floor) end
  for included in text:gmatch('#%s*include%s*[<"]([^>"]+)[>"]') do
    if included == "base/fault.h" and path:match("%.h$") then complain("%s: includes base/fault.h, which is for .c files", path) end
    check_include(path, floor, included)
  end
end

local function check_object(path)
  local floor = path:match("runtime/(%l+)/[^/]+%.o$")
  for _, line in ipairs(lines_of("nm -u '" .. path .. "'")) do
    local symbol = line:match("U ([^%s@]+)")
    if symbol and level[floor] < level[FIRST_WITH_LUA] and symbol:match("^luaL?_") then
      complain("%s: uses %s, but knows no Lua below %s/", path, symbol, FIRST_WITH_LUA)
    elseif symbol and TALKATIVE[symbol] and floor ~= "command" then
      complain("%s: uses %s; only command/ prints and exits", path, symbol)
    elseif (symbol == "_exit" or symbol == "_Exit") and floor ~= "process" and floor ~= "command" then
      complain("%s: uses %s, which belongs to process/", path, symbol)
    elseif symbol and GUESTS[symbol] and floor ~= "command" then
      local file = path:match("runtime/(%l+/[^/]+)%.o$")
      if not (" " .. GUESTS[symbol] .. " "):find(" " .. file .. " ", 1, true) then
        complain("%s: uses %s; a library does not do that to its host", path, symbol)
      end
    end
  end
end

-- Which object defines a symbol, what each object needs, and which have tables.
local function survey(objects)
  local owner, needs, has_tables = {}, {}, {}
  for _, path in ipairs(objects) do
    needs[path] = {}
    for _, line in ipairs(lines_of("nm '" .. path .. "'")) do
      local kind, symbol = line:match("(%a) ([^%s@]+)$")
      if kind == "U" then table.insert(needs[path], symbol) elseif kind and kind:match("[TDBRWC]") then owner[symbol] = path end
    end
    for _, line in ipairs(lines_of("size -A '" .. path .. "'")) do
      if line:match("^%.eh_frame%s") then has_tables[path] = true end
    end
  end
  return owner, needs, has_tables
end

-- (What has no tables for lack of functions is never called.)
local function check_tables(objects)
  local owner, needs, has_tables = survey(objects)
  if not next(has_tables) then return end
  for _, path in ipairs(objects) do
    for _, symbol in ipairs(has_tables[path] and {} or needs[path]) do
      local other = owner[symbol]
      if symbol:match("^luaL?_") and level[path:match("runtime/(%l+)/")] >= level[FIRST_WITH_LUA] then
        complain("%s: has no tables for exceptions, but uses %s", path, symbol)
      elseif other and has_tables[other] then
        complain("%s: has no tables for exceptions, but uses %s of %s, which has", path, symbol, other:match("runtime/.*"))
      end
    end
  end
end

-- ---- Lua files ----

local FOLDERS = { "luapool", "cluster", "command" } -- each may ask for its own files, and for those of the folders before it

local function lua_files()
  local folder_of, files = {}, {}
  for rank, folder in ipairs(FOLDERS) do
    for _, path in ipairs(lines_of(("cd '%s' && find lua/%s -name '*.lua' 2>/dev/null | sort"):format(root, folder))) do
      local name = path:match("([^/]+)%.lua$")
      if folder_of[name] then complain("%s: there is a lua/%s/%s.lua, too", path, FOLDERS[folder_of[name]], name) end
      folder_of[name] = rank
      files[#files + 1] = { path = path, rank = rank }
    end
  end
  return files, folder_of
end

local function check_parts()
  local files, folder_of = lua_files()
  for _, file in ipairs(files) do
    for name in read(root .. "/" .. file.path):gmatch('%f[%w_]part%s*%(?%s*"([%w_]+)"') do
      if not folder_of[name] then
        complain("%s: asks for the part %s, which is not there", file.path, name)
      elseif folder_of[name] > file.rank then
        complain("%s: asks for the part %s, which only the command has (lua/%s)", file.path, name, FOLDERS[folder_of[name]])
      end
    end
  end
end

check_parts()

-- ---- lines ----

local MOST_COLUMNS = 140

local written = lines_of(("cd '%s' && find runtime tests scripts -name '*.[ch]' -o -name '*.cpp' 2>/dev/null | sort"):format(root))
for _, path in ipairs(written) do
  local number = 0
  for line in io.lines(root .. "/" .. path) do
    number = number + 1
    if #line > MOST_COLUMNS then complain("%s:%d: %d columns, and %d is the most", path, number, #line, MOST_COLUMNS) end
  end
end

local sources = lines_of(("cd '%s' && find runtime tests/c -name '*.[ch]' 2>/dev/null | sort"):format(root))
local objects = lines_of(("find '%s/runtime' -name '*.o' 2>/dev/null | sort"):format(build))
if #sources == 0 then complain("no sources below %s/runtime", root) end
if #objects == 0 then complain("no objects below %s/runtime: build first", build) end
for _, path in ipairs(sources) do check_source(path) end
for _, path in ipairs(objects) do check_object(path) end
check_tables(objects)
print(("layers: %d sources, %d objects, %d complaints"):format(#sources, #objects, complaints))
os.exit(complaints == 0, true)
