-- The example scripts, run whole on small input; the picture is read back by a decoder that shares nothing with its writer.
local lu = require "luaunit"
local proc = require "proc"

local LUAPOOL, BUILD = os.getenv "LUAPOOL", os.getenv "BUILD"

TestScripts = {}

local function run(arguments, interpreter)
  local p <close> = proc.spawn { args = { interpreter or LUAPOOL, table.unpack(arguments) } }
  local status, out, err = p:finish(30)
  lu.assertEquals(proc.leftovers(p.mark), {})
  return status, out, err
end

local function assert_prints(expected, arguments, interpreter)
  local status, out, err = run(arguments, interpreter)
  lu.assertEquals({ status.exit, status.signal, out, err }, { 0, nil, expected, "" })
end

function TestScripts:test_squares()
  assert_prints("1000\t1000000\n", { "scripts/squares.lua", "1000", "2" })
end

function TestScripts:test_squares_as_the_tutorial_has_it()
  assert_prints("1000000\t1000000000000\n", { "scripts/squares.lua" })
end

function TestScripts:test_squares_under_the_stock_interpreter()
  if BUILD:find("asan", 1, true) or BUILD:find("tsan", 1, true) then lu.skip "the stock interpreter has no sanitizer" end
  assert_prints("1000\t1000000\n", { "scripts/squares.lua", "1000", "2" }, "lua5.4")
end

function TestScripts:test_bad_arguments()
  local status, out, err = run { "scripts/squares.lua", "many" }
  lu.assertEquals({ status.exit, out }, { 2, "" })
  lu.assertStrContains(err, "usage: luapool squares.lua")
  lu.assertEquals(run({ "scripts/mandelbrot.lua", "0" }).exit, 2)
end

-- Ctrl-C reaches the script as an error; it terminates the pool and leaves with status 1, with nothing left and no noise.
function TestScripts:test_squares_interrupted()
  local p <close> = proc.spawn { args = { LUAPOOL, "scripts/squares.lua", "2000000000" }, pty = true }
  local function is_mapping() return #proc.children(p.pid) == 4 end
  lu.assertTrue(proc.wait_until(is_mapping, 10))
  p:write("\3")
  local status, out = p:finish(10)
  lu.assertEquals({ status.exit, status.signal, (out:gsub("%^C", "")) }, { 1, nil, "" })
  lu.assertEquals(proc.leftovers(p.mark), {})
end

-- ---- a PNG reader ----------------------------------------------------------------------------

-- CRC-32 bit by bit, as its definition says.
local function crc32(text)
  local crc = 0xFFFFFFFF
  for i = 1, #text do
    crc = crc ~ text:byte(i)
    for _ = 1, 8 do crc = (crc >> 1) ~ (0xEDB88320 & -(crc & 1)) end
  end
  return ~crc & 0xFFFFFFFF
end

local function read_chunks(data)
  lu.assertEquals(data:sub(1, 8), "\137PNG\r\n\26\n")
  local chunks, at = {}, 9
  while at <= #data do
    local length, kind = string.unpack(">I4c4", data, at)
    local body = data:sub(at + 8, at + 7 + length)
    lu.assertEquals(string.unpack(">I4", data, at + 8 + length), crc32(kind .. body), kind)
    chunks[#chunks + 1] = { kind = kind, body = body }
    at = at + 12 + length
  end
  lu.assertEquals(chunks[#chunks].kind, "IEND")
  return chunks
end

local function bit_reader(data, at)
  local bit = 0
  local function get(n)
    local value = 0
    for i = 0, n - 1 do
      value = value | (data:byte(at) >> bit & 1) << i
      bit = bit + 1
      if bit == 8 then bit, at = 0, at + 1 end
    end
    return value
  end
  local function align()
    if bit > 0 then bit, at = 0, at + 1 end
    return at
  end
  return get, align, function(new) at = new end
end

-- A literal or length symbol of the fixed code, read bit by bit: the three lengths that a code can have, in turn.
local function fixed_symbol(get)
  local code = 0
  for bits = 1, 9 do
    code = code << 1 | get(1)
    if bits == 7 and code <= 0x17 then return 256 + code end
    if bits == 8 and code >= 0x30 and code <= 0xBF then return code - 0x30 end
    if bits == 8 and code >= 0xC0 and code <= 0xC7 then return 280 + code - 0xC0 end
    if bits == 9 then return 144 + code - 0x190 end
  end
end

local LENGTH_BASE = { 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258 }
local LENGTH_BITS = { 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0 }

local function inflate_fixed(get, out)
  while true do
    local symbol = fixed_symbol(get)
    if symbol == 256 then return end
    if symbol < 256 then
      out[#out + 1] = string.char(symbol)
    else
      local length = LENGTH_BASE[symbol - 256] + get(LENGTH_BITS[symbol - 256])
      lu.assertEquals(get(5), 0, "only the distance 1 is ever written")
      for _ = 1, length do out[#out + 1] = out[#out] end
    end
  end
end

local function inflate(data)
  lu.assertEquals(string.unpack(">I2", data) % 31, 0)
  lu.assertEquals(data:byte(1) & 15, 8)
  local out = {}
  local get, align, jump = bit_reader(data, 3)
  local is_last, at
  repeat
    is_last = get(1) == 1
    local kind = get(2)
    if kind == 1 then
      inflate_fixed(get, out)
    else
      lu.assertEquals(kind, 0)
      at = align()
      local length, complement = string.unpack("<I2I2", data, at)
      lu.assertEquals(length ~ complement, 0xFFFF)
      for i = at + 4, at + 3 + length do out[#out + 1] = data:sub(i, i) end
      jump(at + 4 + length)
    end
  until is_last
  return table.concat(out), data:sub(align())
end

local function adler32(text)
  local a, b = 1, 0
  for i = 1, #text do
    a = (a + text:byte(i)) % 65521
    b = (b + a) % 65521
  end
  return b << 16 | a
end

-- Width, height, and the rows as strings of palette positions.
local function read_png(path)
  local file = assert(io.open(path, "rb"))
  local chunks = read_chunks(file:read("a"))
  file:close()
  local width, height, depth, colour_kind = string.unpack(">I4I4BB", chunks[1].body)
  lu.assertEquals({ chunks[1].kind, depth, colour_kind }, { "IHDR", 8, 3 })
  lu.assertEquals({ chunks[2].kind, #chunks[2].body }, { "PLTE", 768 })
  local parts = {}
  for _, chunk in ipairs(chunks) do
    if chunk.kind == "IDAT" then parts[#parts + 1] = chunk.body end
  end
  local text, rest = inflate(table.concat(parts))
  lu.assertEquals(rest, string.pack(">I4", adler32(text)))
  local rows = {}
  for row = 1, height do
    local from = (row - 1) * (width + 1)
    lu.assertEquals(text:byte(from + 1), 0, "filter")
    rows[row] = text:sub(from + 2, from + 1 + width)
  end
  lu.assertEquals(#text, height * (width + 1))
  return width, height, rows
end

local function paint(width, height, workers)
  local path = os.tmpname()
  local status, out, err = run { "scripts/mandelbrot.lua", tostring(width), tostring(height), path, workers }
  lu.assertEquals({ status.exit, err }, { 0, "" })
  lu.assertStrContains(out, ("%d x %d"):format(width, height))
  local read_width, read_height, rows = read_png(path)
  os.remove(path)
  lu.assertEquals({ read_width, read_height, #rows }, { width, height, height })
  return rows
end

function TestScripts:test_mandelbrot()
  local rows = paint(300, 40)
  -- The centre belongs to the set (the last colour of the palette), a corner is far from it, and the picture is its own mirror image.
  lu.assertEquals(rows[20]:byte(150), 255)
  lu.assertTrue(rows[1]:byte(1) < 60)
  for row = 1, 20 do lu.assertEquals(rows[row], rows[41 - row]) end
end

function TestScripts:test_mandelbrot_is_the_same_for_any_number_of_workers()
  local serial = paint(61, 17, "0")
  for _, workers in ipairs { "1", "2", "5" } do lu.assertEquals(paint(61, 17, workers), serial) end
end
