-- embed-lua.lua ARRAY FILE.lua ... -- print a C file that holds the Lua files as the array of struct embedded_file of that name.
--   A file is called by its name without folders and ending: lua/luapool/init.lua is "init".
--   Comments, and blanks that nothing needs, are left out, line ends are not: messages and tracebacks name the lines of the files as they
--   are. What is left is packed (the format: runtime/base/packed.h).
-- Without arguments it does nothing; it returns { strip =, pack = }, for the tests.
local array = ...

-- ---- stripping ----

local function end_of_quoted(text, at)
  local quote, i = text:sub(at, at), at + 1
  while true do
    local ch = text:sub(i, i)
    if ch == quote then return i end
    if ch == "" then error("a string without an end", 0) end
    i = i + (ch == "\\" and 2 or 1)
  end
end

-- The end of a long bracket that begins there; nil: none does.
local function end_of_long(text, at)
  local level = text:match("^%[(=*)%[", at)
  if not level then return nil end
  local _, last = text:find("]" .. level .. "]", at, true)
  return last or error("a long bracket without an end", 0)
end

-- As Lua reads numbers: too many characters rather than too few.
local function end_of_number(text, at)
  local is_hex = text:find("^0[xX]", at)
  local exponent, i = is_hex and "^[pP][+-]" or "^[eE][+-]", is_hex and at + 2 or at
  while true do
    if text:find(exponent, i) then i = i + 2
    elseif text:find("^[%w_.]", i) then i = i + 1
    else return i - 1 end
  end
end

-- Past blanks and comments: where the next token is, the line ends between, and whether there was anything.
local function skip(text, at)
  local start, n_lines = at, 0
  while true do
    local _, last = text:find("^%s+", at)
    if not last then
      if text:sub(at, at + 1) ~= "--" then return at, n_lines, at > start end
      last = end_of_long(text, at + 2) or (text:find("\n", at, true) or #text + 1) - 1
    end
    local _, n = text:sub(at, last):gsub("\n", "")
    at, n_lines = last + 1, n_lines + n
  end
end

-- The last character of the token that begins there, and what it is.
local function token(text, at)
  if text:find("^[%a_]", at) then return select(2, text:find("^[%w_]+", at)), "word" end
  if text:find("^%.?%d", at) then return end_of_number(text, at), "number" end
  if text:find("^[\"']", at) then return end_of_quoted(text, at), "string" end
  local last = end_of_long(text, at)
  return last or at, last and "string" or "sign"
end

-- Would two tokens be read as one without a blank? Where that is not plain: yes.
local function would_join(kind, last, next_kind, first)
  local is_word = kind == "word" or kind == "number"
  if is_word and (next_kind == "word" or next_kind == "number") then return true end
  if kind == "number" and first == "." then return true end
  return last:find("[%[=.:<>/~%-]") and first:find("[%[=.:<>/%-]") and true
end

--- The text of a Lua file with every token on its line, and nothing else. No "#!" line: these files have none.
local function strip(text)
  local out, at, kind, last_char = {}, 1, "", ""
  while true do
    local first, n_lines, is_apart = skip(text, at)
    if first > #text then break end
    local last, next_kind = token(text, first)
    if n_lines > 0 then out[#out + 1] = ("\n"):rep(n_lines)
    elseif is_apart and would_join(kind, last_char, next_kind, text:sub(first, first)) then out[#out + 1] = " " end
    out[#out + 1] = text:sub(first, last)
    kind, last_char, at = next_kind, text:sub(last, last), last + 1
  end
  return table.concat(out) .. "\n"
end

-- ---- packing ----

local NEAR <const>, FAR <const> = 2048, 65536     -- the greatest distances
local SHORTEST <const> = 3
local LONGEST_NEAR <const>, LONGEST_FAR <const> = SHORTEST + 7, SHORTEST + 63

-- For each position the matches that begin there, { distance, length }: each is longer than all that are nearer.
local function matches(text)
  local seen, found = {}, {}
  for i = 1, #text do
    local key, list = text:sub(i, i + SHORTEST - 1), {}
    local before = seen[key] or {}
    local longest = SHORTEST - 1
    for k = #before, 1, -1 do
      local j = before[k]
      if i - j > FAR or #key < SHORTEST or longest == LONGEST_FAR then break end
      if text:byte(j + longest) == text:byte(i + longest) then
        local n = SHORTEST
        while n < LONGEST_FAR and i + n <= #text and text:byte(j + n) == text:byte(i + n) do n = n + 1 end
        if n > longest then
          longest = n
          list[#list + 1] = { i - j, n }
        end
      end
    end
    before[#before + 1] = i
    seen[key], found[i] = before, list
  end
  return found
end

-- From the end back: what is the cheapest way to write the rest? cost[i] bytes, beginning with a match of length[i] at distance[i], or
-- without one.
local function plan(text)
  local found, cost, length, distance = matches(text), { [#text + 1] = 0 }, {}, {}
  for i = #text, 1, -1 do
    cost[i] = cost[i + 1] + (text:byte(i) < 128 and 1 or 2)
    for _, match in ipairs(found[i]) do
      local away, longest = match[1], match[2]
      for n = SHORTEST, longest do
        local bytes = away <= NEAR and n <= LONGEST_NEAR and 2 or 3
        if cost[i + n] + bytes < cost[i] then cost[i], length[i], distance[i] = cost[i + n] + bytes, n, away end
      end
    end
  end
  return length, distance
end

--- The bytes that packed_expand makes the text from.
local function pack(text)
  local out, i = {}, 1
  local length, distance = plan(text)
  while i <= #text do
    local n, away, byte = length[i], (distance[i] or 0) - 1, text:byte(i)
    if n and away < NEAR and n <= LONGEST_NEAR then
      local bits = (n - SHORTEST) << 11 | away
      out[#out + 1] = string.char(0x80 | bits >> 8, bits & 255)
    elseif n then
      out[#out + 1] = string.char(0xC0 | n - SHORTEST, away >> 8, away & 255)
    elseif byte >= 128 or byte == 127 then
      out[#out + 1] = string.char(127, byte)
    else
      out[#out + 1] = string.char(byte)
    end
    i = i + (n or 1)
  end
  return table.concat(out)
end

-- ---- the C file ----

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("a")
  file:close()
  return text
end

local function write_bytes(bytes)
  for at = 1, #bytes, 4096 do
    io.write((bytes:sub(at, at + 4095):gsub(".", function(ch) return ch:byte() .. "," end)), "\n")
  end
end

local function main(files)
  local list = {}
  io.write('/* made by scripts/embed-lua.lua: do not edit */\n#include "binding/embedded.h"\n')
  for number, path in ipairs(files) do
    local text = read(path)
    local stripped = strip(text)
    if string.dump(assert(load(text, "=file"))) ~= string.dump(assert(load(stripped, "=file"))) then
      error(("embed-lua: %s means something else without its comments"):format(path), 0)
    end
    local packed = pack(stripped)
    io.write(("static const unsigned char %s_%d[] = {\n"):format(array, number))
    write_bytes(packed)
    io.write("};\n")
    list[number] = ('  {"%s", "@%s", %s_%d, %d, %d},\n'):format(path:match("([^/]+)%.lua$"), path, array, number, #packed, #stripped)
  end
  io.write(("const struct embedded_file %s[] = {\n%s  {0, 0, 0, 0, 0}\n};\n"):format(array, table.concat(list)))
end

if array then main { select(2, ...) } end

return { strip = strip, pack = pack }
