-- embed-lua.lua NAME FILE.lua ... -- print a C file that holds the Lua files as the struct embedded of that name.
--   A file is called by its name without folders and ending: lua/luapool/init.lua is "init".
--   Files that say "Feature: NAME." in the comment that they begin with are apart, in the struct embedded_NAME: a program may be linked
--   without these (runtime/binding/features.h).
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

local N_BYTES <const>, N_SYMBOLS <const>, N_DISTANCES <const> = 256, 272, 34 -- what packed.h counts
local SHORTEST <const>, LONGEST <const>, FAR <const> = 2, 257, 65536            -- repeats, and the greatest distance
local MOST_BITS <const> = 15

-- A number as packed.h writes it: the bucket, how many bits follow, and these.
local function bucket_of(value)
  if value < 4 then return value, 0, 0 end
  local n = 1
  while value >> (n + 2) > 0 do n = n + 1 end
  return 2 * (n + 1) + (value >> n & 1), n, value & ((1 << n) - 1)
end

local BUCKET <const>, EXTRA <const> = {}, {}
for value = 0, FAR - 1 do BUCKET[value], EXTRA[value] = bucket_of(value) end

local function n_equal(text, i, j)
  local n, most = 0, math.min(LONGEST, #text - i + 1)
  while n < most and text:byte(j + n) == text:byte(i + n) do n = n + 1 end
  return n
end

-- For each position the repeats that can begin there, { distance, length }: each is longer than all that are nearer.
local function matches(text)
  local seen, found = {}, {}
  for i = 1, #text do
    local key, list, longest = text:sub(i, i + SHORTEST), {}, SHORTEST
    local before = seen[key] or {}
    for k = #key > SHORTEST and #before or 0, 1, -1 do
      local j = before[k]
      if i - j > FAR or longest == LONGEST then break end
      if text:byte(j + longest) == text:byte(i + longest) then
        local n = n_equal(text, i, j)
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

-- The cheapest way to write the text, as far as that is seen from each position on: what a symbol costs is in bits[symbol], and in
-- away[symbol]. A list of { position, length, distance }; no distance: a byte.
local function plan(text, found, bits, away)
  local cost, from, distance, last = { 0 }, {}, {}, { 0 }
  local function offer(i, n, price, back)
    if price >= (cost[i + n] or math.huge) then return end
    cost[i + n], from[i + n], distance[i + n], last[i + n] = price, i, back or false, back or last[i]
  end
  local function offer_repeats(i, shortest, longest, price, back)
    for n = shortest, longest do
      offer(i, n, price + bits[N_BYTES + BUCKET[n - SHORTEST]] + EXTRA[n - SHORTEST], back)
    end
  end
  for i = 1, #text do
    local shortest, back = SHORTEST + 1, last[i]
    offer(i, 1, cost[i] + bits[text:byte(i)])
    if back > 0 then offer_repeats(i, SHORTEST, n_equal(text, i, i - back), cost[i] + away[0], back) end
    for _, match in ipairs(found[i]) do
      offer_repeats(i, shortest, match[2], cost[i] + away[1 + BUCKET[match[1] - 1]] + EXTRA[match[1] - 1], match[1])
      shortest = match[2] + 1
    end
  end
  local steps, i = {}, #text + 1
  while i > 1 do
    steps[#steps + 1] = { from[i], i - from[i], distance[i] }
    i = from[i]
  end
  local ordered = {}
  for k = #steps, 1, -1 do ordered[#ordered + 1] = steps[k] end
  return ordered
end

-- Call symbol(which, number, n_extra_bits, extra_bits) for everything that a plan writes; which: "bits" or "away".
local function each_symbol(text, steps, symbol)
  local last = 0
  for _, step in ipairs(steps) do
    local i, n, distance = step[1], step[2], step[3]
    if not distance then
      symbol("bits", text:byte(i), 0, 0)
    else
      local bucket, n_extra, extra = bucket_of(n - SHORTEST)
      symbol("bits", N_BYTES + bucket, n_extra, extra)
      if distance == last then
        symbol("away", 0, 0, 0)
      else
        bucket, n_extra, extra = bucket_of(distance - 1)
        symbol("away", 1 + bucket, n_extra, extra)
      end
      last = distance
    end
  end
end

-- Huffman's tree of what is counted: how deep each symbol is, by its number; and the deepest.
local function depths(counts, n)
  local nodes, depth, deepest = {}, {}, 0
  for symbol = 0, n - 1 do
    if (counts[symbol] or 0) > 0 then nodes[#nodes + 1] = { counts[symbol], symbol } end
  end
  local function lighter(a, b) return a[1] > b[1] or a[1] == b[1] and a[2] > b[2] end
  while #nodes > 1 do
    table.sort(nodes, lighter)
    local a, b = table.remove(nodes), table.remove(nodes)
    nodes[#nodes + 1] = { a[1] + b[1], math.min(a[2], b[2]), a, b }
  end
  local function walk(node, level)
    if node[3] then
      walk(node[3], level + 1)
      walk(node[4], level + 1)
    else
      depth[node[2]], deepest = math.max(level, 1), math.max(deepest, level)
    end
  end
  if nodes[1] then walk(nodes[1], 0) end
  return depth, deepest
end

-- The same, no deeper than a code can be: rare symbols count for more than they are.
local function lengths(counts, n)
  local depth, deepest = depths(counts, n)
  while deepest > MOST_BITS do
    for symbol, count in pairs(counts) do counts[symbol] = count // 2 + 1 end
    depth, deepest = depths(counts, n)
  end
  return depth
end

-- What a symbol costs that has no code word yet.
local function with_rare(depth, n)
  local cost = {}
  for symbol = 0, n - 1 do cost[symbol] = depth[symbol] or MOST_BITS end
  return cost
end

--- The code for these texts, and a plan for each: made from each other, a few times over.
local function learn(texts)
  local bits, away, found, plans, code = with_rare({}, N_SYMBOLS), with_rare({}, N_DISTANCES), {}, {}, nil
  for symbol = 0, N_SYMBOLS - 1 do bits[symbol] = symbol < N_BYTES and 6 or 5 end
  for symbol = 0, N_DISTANCES - 1 do away[symbol] = 4 end
  for number, text in ipairs(texts) do found[number] = matches(text) end
  for _ = 1, 4 do
    local counts = { bits = {}, away = {} }
    local function count(which, symbol) counts[which][symbol] = (counts[which][symbol] or 0) + 1 end
    for number, text in ipairs(texts) do
      plans[number] = plan(text, found[number], bits, away)
      each_symbol(text, plans[number], count)
    end
    code = { bits = lengths(counts.bits, N_SYMBOLS), away = lengths(counts.away, N_DISTANCES) }
    bits, away = with_rare(code.bits, N_SYMBOLS), with_rare(code.away, N_DISTANCES)
  end
  return code, plans
end

-- The code words, by symbol: shorter ones first, then smaller symbols first.
local function words(depth, n)
  local word, next_word = {}, 0
  for length = 1, MOST_BITS do
    for symbol = 0, n - 1 do
      if depth[symbol] == length then word[symbol], next_word = next_word, next_word + 1 end
    end
    next_word = next_word << 1
  end
  return word
end

-- The code as packed.h has it.
local function code_bytes(code)
  local list, out = {}, {}
  for symbol = 0, N_SYMBOLS - 1 do list[#list + 1] = code.bits[symbol] or 0 end
  for symbol = 0, N_DISTANCES - 1 do list[#list + 1] = code.away[symbol] or 0 end
  for k = 1, #list, 2 do out[#out + 1] = string.char(list[k] << 4 | list[k + 1]) end
  return table.concat(out)
end

local function encode(text, steps, code)
  local word = { bits = words(code.bits, N_SYMBOLS), away = words(code.away, N_DISTANCES) }
  local out, held, n_held = {}, 0, 0
  local function put(n, bits)
    held, n_held = held << n | bits, n_held + n
    while n_held >= 8 do
      n_held = n_held - 8
      out[#out + 1] = string.char(held >> n_held & 255)
    end
    held = held & 255
  end
  each_symbol(text, steps, function(which, symbol, n_extra, extra)
    put(code[which][symbol], word[which][symbol])
    put(n_extra, extra)
  end)
  if n_held > 0 then put(8 - n_held, 0) end
  return table.concat(out)
end

--- Texts -> the bytes of their code, and of each of them, which packed_expand makes the texts from.
local function pack(texts)
  local code, plans = learn(texts)
  local packed = {}
  for number, text in ipairs(texts) do packed[number] = encode(text, plans[number], code) end
  return code_bytes(code), packed
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

-- The feature that a file belongs to, or nil.
local function feature_of(text)
  for line in text:gmatch("([^\n]*)\n") do
    if not line:find("^%-%-") then return nil end
    local feature = line:match("Feature: (%l+)%.")
    if feature then return feature end
  end
end

-- A set of packed files as a struct embedded. All of them share one code.
local function write_set(name, set)
  local list, bytes, at = {}, {}, 0
  for k, file in ipairs(set) do
    assert(#file.path < 39, "a name too long for struct embedded_file: " .. file.path)
    list[k] = ('  {"@%s", %d, %d, %d},\n'):format(file.path, at, #file.packed, #file.text)
    bytes[k], at = file.packed, at + #file.packed
  end
  io.write(("static const unsigned char %s_packed[] = {\n"):format(name))
  write_bytes(table.concat(bytes))
  io.write(("};\nstatic const struct embedded_file %s_list[] = {\n%s};\n"):format(name, table.concat(list)))
  io.write(("extern const struct embedded %s;\n"):format(name))
  io.write(("const struct embedded %s = {%s_code, %s_packed, %d, %s_list, %d};\n"):format(name, array, name, at, name, #set))
end

local function main(files)
  local texts, sets, names = {}, { [array] = {} }, { array }
  for number, path in ipairs(files) do
    local text = read(path)
    texts[number] = strip(text)
    if string.dump(assert(load(text, "=file"))) ~= string.dump(assert(load(texts[number], "=file"))) then
      error(("embed-lua: %s means something else without its comments"):format(path), 0)
    end
    local feature = feature_of(text)
    local name = feature and "embedded_" .. feature or array
    if not sets[name] then sets[name], names[#names + 1] = {}, name end
    table.insert(sets[name], { path = path, text = texts[number], number = number })
  end
  local code, packed = pack(texts)
  io.write('/* made by scripts/embed-lua.lua: do not edit */\n#include "binding/embedded.h"\n')
  io.write(("static const unsigned char %s_code[] = {\n"):format(array))
  write_bytes(code)
  io.write("};\n")
  for _, name in ipairs(names) do
    for _, file in ipairs(sets[name]) do file.packed = packed[file.number] end
    write_set(name, sets[name])
  end
end

if array then main { select(2, ...) } end

return { strip = strip, pack = pack }
