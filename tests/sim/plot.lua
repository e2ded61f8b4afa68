-- sim/plot -- lines in a chart, as SVG: x is logarithmic, y from 0 to 1. Readable on white and on black. Part of the simulation
-- (see sim/world).
local plot = {}

local WIDTH <const>, HEIGHT <const> = 720, 380
local LEFT <const>, RIGHT <const>, TOP <const>, BOTTOM <const> = 56, 186, 34, 52
local COLOURS <const> = { "#1f77b4", "#d9541e", "#2ca02c", "#9467bd", "#8c6d31", "#17a2b8" }

local function escape(text) return (text:gsub("[&<>]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;" })) end

local function text_at(x, y, words, anchor, size)
  return ('<text x="%.1f" y="%.1f" text-anchor="%s" font-size="%d">%s</text>'):format(x, y, anchor or "start", size or 12, escape(words))
end

local function segment(x1, y1, x2, y2, style)
  return ('<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" %s/>'):format(x1, y1, x2, y2, style)
end

-- Where a point is on the page.
local function scales(chart)
  local low, high = math.log(chart.from, 10), math.log(chart.to, 10)
  local function x(value) return LEFT + (math.log(value, 10) - low) / (high - low) * (WIDTH - LEFT - RIGHT) end
  local function y(value) return HEIGHT - BOTTOM - value * (HEIGHT - TOP - BOTTOM) end
  return x, y
end

local function draw_axes(out, chart, x, y)
  for step = 0, 10, 2 do
    out[#out + 1] = segment(LEFT, y(step / 10), WIDTH - RIGHT, y(step / 10), 'stroke="#888" stroke-opacity="0.35"')
    out[#out + 1] = text_at(LEFT - 8, y(step / 10) + 4, ("%.1f"):format(step / 10), "end")
  end
  local value = chart.from
  while value <= chart.to do
    out[#out + 1] = segment(x(value), TOP, x(value), HEIGHT - BOTTOM, 'stroke="#888" stroke-opacity="0.35"')
    out[#out + 1] = text_at(x(value), HEIGHT - BOTTOM + 18, ("%d"):format(value), "middle")
    value = value * 10
  end
  out[#out + 1] = segment(LEFT, y(0.9), WIDTH - RIGHT, y(0.9), 'stroke="#888" stroke-dasharray="5 4"')
  out[#out + 1] = text_at((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, chart.x_name, "middle")
  out[#out + 1] = text_at(LEFT, TOP - 14, chart.title, "start", 13)
end

local function draw_line(out, line, colour, x, y)
  local points = {}
  for _, point in ipairs(line.points) do points[#points + 1] = ("%.1f,%.1f"):format(x(point[1]), y(point[2])) end
  out[#out + 1] = ('<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>'):format(table.concat(points, " "), colour)
  for _, point in ipairs(line.points) do
    out[#out + 1] = ('<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>'):format(x(point[1]), y(point[2]), colour)
  end
end

local function draw_legend(out, lines)
  for i, line in ipairs(lines) do
    local at = TOP + 8 + (i - 1) * 20
    out[#out + 1] = segment(WIDTH - RIGHT + 14, at, WIDTH - RIGHT + 34, at, ('stroke="%s" stroke-width="3"'):format(COLOURS[i]))
    out[#out + 1] = text_at(WIDTH - RIGHT + 40, at + 4, line.name)
  end
end

--- The text of an SVG file.
---@param chart table title, x_name, from, to (powers of ten), lines: list of { name =, points = list of { x, y } }
---@return string
function plot.lines(chart)
  local x, y = scales(chart)
  local head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" fill="#777">'
  local out = { head:format(WIDTH, HEIGHT) }
  draw_axes(out, chart, x, y)
  for i, line in ipairs(chart.lines) do draw_line(out, line, COLOURS[i], x, y) end
  draw_legend(out, chart.lines)
  out[#out + 1] = "</svg>\n"
  return table.concat(out, "\n")
end

return plot
