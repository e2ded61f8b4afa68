-- mandelbrot.lua [WIDTH] [HEIGHT] [FILE] [WORKERS] -- paint the Mandelbrot set, rows in parallel, into a PNG file.
-- Defaults: 1200 800 mandelbrot.png, and a worker for every core. WORKERS = 0: a plain loop, to compare with.
--   luapool scripts/mandelbrot.lua
--   luapool scripts/mandelbrot.lua 3000 2000 big.png
-- A worker computes a row, compresses it and wraps it up as a chunk of the file, so that the host has only to join them.

local function usage()
  io.stderr:write("usage: luapool mandelbrot.lua [WIDTH] [HEIGHT] [FILE] [WORKERS]\n")
  os.exit(2)
end

local width = math.tointeger(tonumber(arg[1] or 1200))
local height = math.tointeger(tonumber(arg[2] or 800))
local path = arg[3] or "mandelbrot.png"
local workers = arg[4] and math.tointeger(tonumber(arg[4]))
if not width or not height or width < 1 or height < 1 or arg[4] and not workers then usage() end

-- ---- checksums ---------------------------------------------------------------------------------

local crc_of_byte = {}
for byte = 0, 255 do
  local crc = byte
  for _ = 1, 8 do crc = crc & 1 == 1 and 0xEDB88320 ~ (crc >> 1) or crc >> 1 end
  crc_of_byte[byte] = crc
end

local function crc32(text)
  local crc = 0xFFFFFFFF
  for i = 1, #text do crc = crc_of_byte[(crc ~ text:byte(i)) & 0xFF] ~ (crc >> 8) end
  return crc ~ 0xFFFFFFFF
end

-- Adler-32 as its two sums, so that the sums of rows can be joined.
local ADLER = 65521

local function adler_sums(text)
  local a, b = 1, 0
  for i = 1, #text do
    a = a + text:byte(i)
    b = b + a
  end
  return a % ADLER, b % ADLER
end

-- The sums of two texts one after the other, the second being `length` bytes long.
local function adler_join(a, b, next_a, next_b, length)
  return (a + next_a - 1) % ADLER, (b + length * (a - 1) + next_b) % ADLER
end

-- ---- compression: deflate with the fixed codes, and matches for runs of one byte ----------------

-- Huffman codes are written from their highest bit on, everything else from the lowest: keep them reversed.
local function reversed(code, bits)
  local result = 0
  for _ = 1, bits do
    result = result << 1 | code & 1
    code = code >> 1
  end
  return result
end

local symbol_code, symbol_bits = {}, {}
for symbol = 0, 287 do
  local code, bits
  if symbol < 144 then code, bits = 0x30 + symbol, 8
  elseif symbol < 256 then code, bits = 0x190 + symbol - 144, 9
  elseif symbol < 280 then code, bits = symbol - 256, 7
  else code, bits = 0xC0 + symbol - 280, 8 end
  symbol_code[symbol], symbol_bits[symbol] = reversed(code, bits), bits
end

-- For each length of a match (3..258): its symbol, and the bits that follow the symbol.
local match_symbol, match_extra, match_extra_bits = {}, {}, {}
do
  local symbol, length = 257, 3
  for extra_bits = 0, 5 do
    for _ = 1, extra_bits == 0 and 8 or 4 do
      for extra = 0, (1 << extra_bits) - 1 do
        match_symbol[length], match_extra[length], match_extra_bits[length] = symbol, extra, extra_bits
        length = length + 1
      end
      symbol = symbol + 1
    end
  end
  match_symbol[258], match_extra[258], match_extra_bits[258] = 285, 0, 0
end

-- One block, followed by an empty stored block: that ends on a whole byte, so compressed rows can simply be joined.
local function deflate(text)
  local bytes, buffer, bits = {}, 0, 0
  local function put(value, n)
    buffer, bits = buffer | value << bits, bits + n
    while bits >= 8 do
      bytes[#bytes + 1] = string.char(buffer & 0xFF)
      buffer, bits = buffer >> 8, bits - 8
    end
  end
  put(2, 3) -- not the last block; fixed codes
  local i, previous = 1, nil
  while i <= #text do
    local byte, run = text:byte(i), 0
    if byte == previous then
      while run < 258 and text:byte(i + run) == byte do run = run + 1 end
    end
    if run >= 3 then
      local symbol = match_symbol[run]
      put(symbol_code[symbol], symbol_bits[symbol])
      put(match_extra[run], match_extra_bits[run])
      put(0, 5) -- distance 1
      i = i + run
    else
      put(symbol_code[byte], symbol_bits[byte])
      i = i + 1
    end
    previous = byte
  end
  put(symbol_code[256], symbol_bits[256])
  put(0, 3)
  if bits > 0 then put(0, 8 - bits) end
  return table.concat(bytes) .. "\0\0\xFF\xFF"
end

local function chunk(kind, data)
  return string.pack(">I4", #data) .. kind .. data .. string.pack(">I4", crc32(kind .. data))
end

-- ---- the picture ---------------------------------------------------------------------------------

local MOST_STEPS, INSIDE = 400, 255
local SAMPLES = 2 -- a pixel is the mean of 2 x 2 points
local CENTRE_X, CENTRE_Y, SPAN_Y = -0.7, 0.0, 2.4

-- Where the palette passes through: position, red, green, blue. It ends in black, the colour of the set itself, so that
-- a mean of positions is a sensible colour also at its border.
local STOPS = {
  { 0.00, 4, 8, 54 }, { 0.16, 18, 50, 130 }, { 0.30, 57, 125, 209 }, { 0.42, 211, 236, 248 }, { 0.52, 255, 231, 150 },
  { 0.63, 248, 170, 20 }, { 0.76, 153, 60, 10 }, { 0.90, 56, 12, 28 }, { 1.00, 0, 0, 0 },
}

local function colour(position)
  local i = 2
  while STOPS[i][1] < position do i = i + 1 end
  local from, to = STOPS[i - 1], STOPS[i]
  local share = (position - from[1]) / (to[1] - from[1])
  local parts = {}
  for part = 1, 3 do parts[part] = math.floor(from[part + 1] + share * (to[part + 1] - from[part + 1]) + 0.5) end
  return string.char(table.unpack(parts))
end

local function palette()
  local colours = {}
  for index = 0, 255 do colours[index + 1] = colour(index / 255) end
  return table.concat(colours)
end

-- The place of a point in the palette, 0 to 255. The number of steps until it has left is made continuous by how far
-- it got with the last one.
local SCALE = INSIDE / math.log(MOST_STEPS)

local function place(cx, cy)
  local x2, y2 = cx - 0.25, cy * cy
  local q = x2 * x2 + y2
  if q * (q + x2) <= 0.25 * y2 or (cx + 1) * (cx + 1) + y2 <= 0.0625 then return INSIDE end -- the two great bulbs
  local x, y, steps = 0.0, 0.0, 0
  x2, y2 = 0.0, 0.0
  while x2 + y2 <= 256.0 do
    if steps == MOST_STEPS then return INSIDE end
    x, y = x2 - y2 + cx, 2.0 * x * y + cy
    x2, y2 = x * x, y * y
    steps = steps + 1
  end
  local smooth = steps + 1 - math.log(math.log(x2 + y2) / 2, 2)
  return math.max(0.0, math.min(INSIDE, SCALE * math.log(math.max(1.0, smooth))))
end

-- One row of the picture: the bytes of its part of the file, and the sums that the end of the file needs.
local function paint_row(row)
  local step = SPAN_Y / height / SAMPLES
  local left, top = CENTRE_X - step * SAMPLES * width / 2, CENTRE_Y - SPAN_Y / 2
  local bytes = { "\0" } -- this row is not filtered
  for column = 1, width do
    local sum = 0.0
    for sample = 0, SAMPLES * SAMPLES - 1 do
      local cx = left + ((column - 1) * SAMPLES + sample % SAMPLES + 0.5) * step
      local cy = top + ((row - 1) * SAMPLES + sample // SAMPLES + 0.5) * step
      sum = sum + place(cx, cy)
    end
    bytes[column + 1] = string.char(math.floor(sum / (SAMPLES * SAMPLES) + 0.5))
  end
  local text = table.concat(bytes)
  local a, b = adler_sums(text)
  return { data = chunk("IDAT", deflate(text)), a = a, b = b }
end

local function paint()
  if workers ~= 0 then
    local pool = pool or require "luapool"
    return pool.map(paint_row, height, workers and { workers = workers })
  end
  local rows = {}
  for row = 1, height do rows[row] = paint_row(row) end
  return rows
end

local function write_png(rows)
  local file = assert(io.open(path, "wb"))
  file:write("\x89PNG\r\n\x1A\n", chunk("IHDR", string.pack(">I4I4BBBBB", width, height, 8, 3, 0, 0, 0)))
  file:write(chunk("PLTE", palette()), chunk("IDAT", "\x78\x01"))
  local a, b = 1, 0
  for _, row in ipairs(rows) do
    a, b = adler_join(a, b, row.a, row.b, width + 1)
    file:write(row.data)
  end
  file:write(chunk("IDAT", "\1\0\0\xFF\xFF" .. string.pack(">I2I2", b, a)), chunk("IEND", ""))
  local size = file:seek()
  assert(file:close())
  return size
end

local size = write_png(paint())
print(("%s: %d x %d, %d KiB"):format(path, width, height, size // 1024))
