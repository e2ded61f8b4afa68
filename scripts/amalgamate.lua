-- amalgamate.lua OUT.c FILE.c ... -- one C file of many, for programs that take the library's sources into their own tree.
--   The files' own headers are put in once, before all else; those of the system stay. What two files call by the same name (static
--   functions and variables, enumeration constants, structures, macros) gets the file's name behind it. Includes are searched in runtime/
--   and in the folder of OUT.
local out_path = arg[1]
local files = table.move(arg, 2, #arg, 1, {})
local build = out_path:match("^(.*)/[^/]*$") or "."

local function read(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read("a")
  file:close()
  return text
end

-- ---- tokens: { kind, text }; kind: "word", "code" (strings, comments, numbers, white space, punctuation) ----

local PATTERNS = { "^/%*.-%*/", "^//[^\n]*", '^"[^"\\\n]*"', "^'[^'\\\n]*'", "^%d[%w_.]*" }

local function quoted(text, at, quote) -- with escapes in it
  local i = at + 1
  while i <= #text do
    local ch = text:sub(i, i)
    if ch == "\\" then i = i + 2
    elseif ch == quote then return i
    else i = i + 1 end
  end
  error("a string without an end")
end

local function tokens_of(text)
  local list, at = {}, 1
  while at <= #text do
    local word = text:match("^[%a_][%w_]*", at)
    if word then
      list[#list + 1] = { "word", word }
      at = at + #word
    else
      local found
      for _, pattern in ipairs(PATTERNS) do
        found = text:match(pattern, at)
        if found then break end
      end
      local ch = text:sub(at, at)
      if not found and (ch == '"' or ch == "'") then found = text:sub(at, quoted(text, at, ch)) end
      found = found or ch
      list[#list + 1] = { "code", found }
      at = at + #found
    end
  end
  return list
end

-- ---- what a file defines at its outermost level ----

-- Without comments, strings and preprocessor lines; what is inside braces is blanked, but for enumerations.
local function outline(text)
  local parts, depth, keep = {}, 0, 0
  text = text:gsub("/%*.-%*/", " "):gsub("//[^\n]*", " "):gsub("\\\n", " "):gsub("\n%s*#[^\n]*", "\n"):gsub("'\\?.'", "0")
  text = text:gsub('"[^"\\\n]*"', '""')
  for piece, brace in (text .. "{"):gmatch("([^{}]*)([{}])") do
    if depth == keep then parts[#parts + 1] = piece end
    if brace == "{" then
      local is_enum = depth == 0 and piece:match("enum[%s%w_]*$")
      if is_enum then keep = 1 end
      parts[#parts + 1] = depth == 0 and (is_enum and "<<" or "{}") or ""
      depth = depth + 1
    else
      depth = depth - 1
      if depth == 0 and keep == 1 then
        keep = 0
        parts[#parts + 1] = ">>"
      end
    end
  end
  return table.concat(parts)
end

local KEYWORDS = {}
for word in ("struct union enum static const volatile void int char long unsigned size_t if else for while return"):gmatch("%S+") do
  KEYWORDS[word] = true
end

local function definitions(text)
  local names, macros = {}, {}
  local lines = outline(text)
  for rest in lines:gmatch("static%s+[%w%s]*struct%s*[%w_]*%s*{}([^;={]*)") do
    for name in rest:gsub("%b[]", ""):gmatch("[%a_][%w_]*") do names[name] = true end
  end
  for list in lines:gmatch("<<(.-)>>") do
    for item in (list .. ","):gmatch("([^,]*),") do
      local name = item:match("^%s*([%a_][%w_]*)")
      if name then names[name] = true end
    end
  end
  for statement in lines:gsub("<<.->>", " "):gmatch("[^;{}]+") do
    local tag = statement:match("^%s*struct%s+([%a_][%w_]*)%s*$") or statement:match("^%s*union%s+([%a_][%w_]*)%s*$")
      or statement:match("^%s*static%s+struct%s+([%a_][%w_]*)%s*$")
    if tag then names[tag] = true end
    if statement:match("^%s*static[%s]") or statement:match("^%s*_Noreturn%s+static") or statement:match("^%s*typedef%s") then
      -- the name before the first bracket, or before = or the end; further ones after commas
      local head = statement:gsub("__attribute__%s*%b()", "")
      local name = head:match("([%a_][%w_]*)%s*%(")
      if not name or name == "_Alignas" then
        for item in (head:gsub("%b[]", ""):gsub("%b()", "") .. ","):gmatch("([^,]*),") do
          local one = item:gsub("=.*$", ""):match("([%a_][%w_]*)%s*$")
          if one then names[one] = true end
        end
      else
        names[name] = true
      end
    end
  end
  for word in pairs(KEYWORDS) do names[word] = nil end
  for name in ("\n" .. text):gmatch("\n%s*#%s*define%s+([%a_][%w_]*)") do macros[name] = true end
  return names, macros
end

-- ---- putting together ----

local function stem(path) return (path:match("([^/]+)%.c$"):gsub("[^%w]", "_")) end

local defined_in, texts = {}, {}
for _, path in ipairs(files) do
  local text = assert(read(path), "cannot read " .. path)
  local names, macros = definitions(text)
  texts[path] = { text = text, names = names, macros = macros }
  for name in pairs(names) do defined_in[name] = (defined_in[name] or 0) + 1 end
  for name in pairs(macros) do defined_in[name] = (defined_in[name] or 0) + 1 end
end
local n_sources = {} -- how many of the files define it
for name, n in pairs(defined_in) do n_sources[name] = n end

-- What headers define counts as another file's.
local function count_header(text)
  local found = {}
  text = text:gsub("/%*.-%*/", " ")
  for name in text:gmatch("struct%s+([%w_]+)%s*{") do found[name] = true end
  for name in text:gmatch("([%a_][%w_]*)%s*%(") do found[name] = true end
  for name in pairs(found) do
    if defined_in[name] then defined_in[name] = defined_in[name] + 1 end
  end
end

local seen = {}
local function count_headers_of(text)
  for name in text:gmatch('#%s*include%s*"([^"]+)"') do
    if not seen[name] then
      seen[name] = true
      local header = read("runtime/" .. name) or read(build .. "/" .. name)
      if header then
        count_header(header)
        count_headers_of(header)
      end
    end
  end
end
for _, path in ipairs(files) do count_headers_of(texts[path].text) end

local included, parts = {}, {}
local emit

-- Includes of ours are replaced by what they include, once.
local function expand(text)
  return (text:gsub("([^\n]*)\n", function(line)
    local name = line:match('^%s*#%s*include%s*"([^"]+)"')
    if not name then return line .. "\n" end
    if name == "luapool.h" then return line .. "\n" end
    if included[name] then return "\n" end
    local header = read("runtime/" .. name) or read(build .. "/" .. name)
    if not header then error("no header " .. name) end
    included[name] = true
    return emit(header)
  end))
end

function emit(text)
  if text:sub(-1) ~= "\n" then text = text .. "\n" end
  return expand(text)
end

-- Names that headers give to fields, functions and the like must stay: a file's own name that is also theirs is left alone after . and ->.
local function renamed(path)
  local file = texts[path]
  local suffix, list = "_in_" .. stem(path), tokens_of(file.text)
  local mine = {}
  for name in pairs(file.names) do mine[name] = defined_in[name] > 1 or nil end
  for i, token in ipairs(list) do
    if token[1] == "word" and mine[token[2]] then
      local before = i > 1 and list[i - 1][2] or ""
      local two = i > 2 and list[i - 2][2] or ""
      local is_field = before == "." or (before == ">" and two == "-")
      if not is_field then list[i] = { "word", token[2] .. suffix } end
    end
  end
  for i, token in ipairs(list) do list[i] = token[2] end
  return table.concat(list)
end

parts[#parts + 1] = [[
/*
 * luapool.c -- all of the library in one file (made by `make amalgamation`; see luapool.h). Compile it as C11 with -fexceptions, link with
 * -lm -ldl -lpthread and your Lua 5.4.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#ifndef _FILE_OFFSET_BITS
#define _FILE_OFFSET_BITS 64
#endif
]]
-- Headers first: a file may include one on a condition.
for _, path in ipairs(files) do
  for name in texts[path].text:gmatch('\n#include "([^"]+)"') do parts[#parts + 1] = expand(('#include "%s"\n'):format(name)) end
end
for _, path in ipairs(files) do
  parts[#parts + 1] = ("\n/* ==== %s ==== */\n"):format(path:gsub("^.*runtime/", ""))
  parts[#parts + 1] = emit(renamed(path))
  for name in pairs(texts[path].macros) do
    if n_sources[name] > 1 then parts[#parts + 1] = ("#undef %s\n"):format(name) end
  end
end
local file = assert(io.open(out_path, "wb"))
file:write(table.concat(parts))
file:close()
