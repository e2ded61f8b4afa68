-- luapool/progress -- how far a call is: one line on stderr, or calls of a function of the user's. Room: lua. Owns: the line it drew.
-- Feature: progress.
-- Pure: width, fit, duration, render, estimator. A drawer (progress.new) keeps the state of one call and decides when to draw.
--   done, total   items (total nil: nobody knows); what is running counts with the fraction that it reported
--   rate          items a second, lately; eta: seconds that are left, or nil while nothing honest can be said
local core, part = ...

local progress = {}

-- ---- text on a terminal ----

-- Characters two columns wide (East Asian Wide and Fullwidth, emoji), as pairs first, last. Where terminals differ, the wider: a line that
-- is too short does no harm.
local WIDE = {
  0x1100, 0x115F, 0x231A, 0x231B, 0x2329, 0x232A, 0x23E9, 0x23EC, 0x23F0, 0x23F0, 0x23F3, 0x23F3, 0x25FD, 0x25FE, 0x2614, 0x2615,
  0x2648, 0x2653, 0x267F, 0x267F, 0x2693, 0x2693, 0x26A1, 0x26A1, 0x26AA, 0x26AB, 0x26BD, 0x26BE, 0x26C4, 0x26C5, 0x26CE, 0x26CE,
  0x26D4, 0x26D4, 0x26EA, 0x26EA, 0x26F2, 0x26F3, 0x26F5, 0x26F5, 0x26FA, 0x26FA, 0x26FD, 0x26FD, 0x2705, 0x2705, 0x270A, 0x270B,
  0x2728, 0x2728, 0x274C, 0x274C, 0x274E, 0x274E, 0x2753, 0x2755, 0x2757, 0x2757, 0x2795, 0x2797, 0x27B0, 0x27B0, 0x27BF, 0x27BF,
  0x2B1B, 0x2B1C, 0x2B50, 0x2B50, 0x2B55, 0x2B55, 0x2E80, 0x303E, 0x3041, 0x4DBF, 0x4E00, 0xA4CF, 0xA960, 0xA97F, 0xAC00, 0xD7A3,
  0xF900, 0xFAFF, 0xFE0F, 0xFE19, 0xFE30, 0xFE6F, 0xFF00, 0xFF60, 0xFFE0, 0xFFE6, 0x16FE0, 0x18DFF, 0x1AFF0, 0x1B2FF, 0x1F004, 0x1F004,
  0x1F0CF, 0x1F0CF, 0x1F18E, 0x1F18E, 0x1F191, 0x1F19A, 0x1F200, 0x1F64F, 0x1F680, 0x1F6FF, 0x1F7E0, 0x1F7F0, 0x1F90C, 0x1FAFF,
  0x20000, 0x3FFFD,
}

-- Marks that sit on the character before them, and what shows nothing. 0xFE0F is not among them: it makes some characters wide.
local NARROW = {
  0x0300, 0x036F, 0x0483, 0x0489, 0x0591, 0x05BD, 0x0610, 0x061A, 0x064B, 0x065F, 0x0670, 0x0670, 0x06D6, 0x06DC, 0x0E31, 0x0E31,
  0x0E34, 0x0E3A, 0x0E47, 0x0E4E, 0x1AB0, 0x1AFF, 0x1DC0, 0x1DFF, 0x200B, 0x200D, 0x20D0, 0x20FF, 0xFE00, 0xFE0E, 0xFE20, 0xFE2F,
}

local function is_among(ranges, code)
  local low, high = 1, #ranges // 2
  while low <= high do
    local middle = (low + high) // 2
    if code < ranges[2 * middle - 1] then
      high = middle - 1
    elseif code > ranges[2 * middle] then
      low = middle + 1
    else
      return true
    end
  end
  return false
end

local function columns(code)
  if code < 0x300 then return 1 end
  if is_among(NARROW, code) then return 0 end
  return is_among(WIDE, code) and 2 or 1
end

--- What may stand in a line: control characters, what turns text around, and bytes that are no UTF-8 become question marks.
---@param text string
function progress.plain(text)
  text = text:gsub("[%z\1-\31\127]", "?")
  if not text:find("[\128-\255]") then return text end
  if not (utf8 and utf8.len(text)) then return (text:gsub("[\128-\255]", "?")) end
  return (text:gsub("\u{80}", "?"):gsub("\xC2[\x80-\x9F]", "?"):gsub("\xE2\x80[\x8E\x8F\xA8-\xAE]", "?"):gsub("\xE2\x81[\xA6-\xA9]", "?"))
end

--- Columns that a plain text takes on a terminal.
---@param text string from progress.plain
---@return integer
function progress.width(text)
  if not text:find("[\128-\255]") then return #text end
  local width = 0
  for _, code in utf8.codes(text) do width = width + columns(code) end
  return width
end

--- As much of the beginning of a plain text as fits; never half a wide character.
---@param text string
---@param width integer columns
function progress.fit(text, width)
  if #text <= width then return text end
  if not text:find("[\128-\255]") then return text:sub(1, math.max(width, 0)) end
  local used = 0
  for at, code in utf8.codes(text) do
    used = used + columns(code)
    if used > width then return text:sub(1, at - 1) end
  end
  return text
end

--- Seconds as people read them: 0:07, 3:20, 1:02:45, 2d 03:10.
function progress.duration(seconds)
  if seconds ~= seconds or seconds < 0 then seconds = 0 end
  local s = math.floor(math.min(seconds, 1e9) + 0.5)
  if s < 3600 then return ("%d:%02d"):format(s // 60, s % 60) end
  if s < 86400 then return ("%d:%02d:%02d"):format(s // 3600, s // 60 % 60, s % 60) end
  return ("%dd %02d:%02d"):format(s // 86400, s // 3600 % 24, s // 60 % 60)
end

local function count(n)
  if n < 10000000 then return ("%d"):format(n) end
  local power = n < 1e9 and 1 or n < 1e12 and 2 or 3
  return ("%.1f%s"):format(n / 1000 ^ (power + 1), ("MGT"):sub(power, power))
end

local function speed(rate)
  if rate >= 1e7 then return ("%.0fM/s"):format(rate / 1e6) end
  if rate >= 1e4 then return ("%.1fk/s"):format(rate / 1e3) end
  if rate >= 10 then return ("%.0f/s"):format(rate) end
  if rate >= 0.5 then return ("%.1f/s"):format(rate) end
  if 1 / rate < 100 then return ("%.1f s/item"):format(1 / rate) end
  return progress.duration(1 / rate) .. "/item"
end

-- ---- one line ----

local EIGHTHS = { "▏", "▎", "▍", "▌", "▋", "▊", "▉" }

local function bar(fraction, size, is_unicode)
  local eighths = math.floor(fraction * size * 8)
  local full, rest = eighths // 8, eighths % 8
  if not is_unicode then return "[" .. ("#"):rep(full) .. ("-"):rep(size - full) .. "]" end
  local text = ("█"):rep(full) .. (EIGHTHS[rest] or "")
  return "▕" .. text .. (" "):rep(size - full - (rest > 0 and 1 or 0)) .. "▏"
end

-- What there is to say: pieces in the order of the line, each with the rank by which it is dropped where there is little room (the
-- highest first). The bar is what fills the rest.
local NAME_COLUMNS = 24
local function pieces_of(state, fraction)
  local pieces = {}
  local function add(rank, text, is_bad)
    if text then pieces[#pieces + 1] = { rank = rank, text = text, width = progress.width(text), is_bad = is_bad } end
  end
  local name = state.name and progress.plain(state.name)
  if name and name ~= "" then add(5, progress.fit(name, NAME_COLUMNS)) end
  add(1, fraction and ("%3d%%"):format(math.floor(fraction * 100)))
  if fraction and not state.no_bar then pieces[#pieces + 1] = { rank = 7, is_bar = true } end
  add(fraction and 4 or 1, state.total and count(state.done) .. "/" .. count(state.total) or count(state.done) .. " done")
  add(6, state.rate and state.rate > 0 and speed(state.rate))
  if state.eta then
    add(3, "eta " .. progress.duration(state.eta))
  else
    add(8, state.elapsed and progress.duration(state.elapsed))
  end
  add(9, state.workers and ("%d/%d workers"):format(state.active or 0, state.workers))
  add(2, (state.errors or 0) > 0 and count(state.errors) .. " failed", true)
  return pieces
end

local BAR_MIN, BAR_MAX = 6, 40

local function total_width(pieces)
  local width = 0
  for i, piece in ipairs(pieces) do width = width + (i > 1 and 2 or 0) + (piece.is_bar and BAR_MIN + 2 or piece.width) end
  return width
end

local function drop_one(pieces)
  local worst
  for i, piece in ipairs(pieces) do
    if not worst or piece.rank > pieces[worst].rank then worst = i end
  end
  table.remove(pieces, worst)
end

local function join(pieces, room, fraction, state)
  local texts = {}
  for i, piece in ipairs(pieces) do
    local text = piece.text
    if piece.is_bar then text = bar(fraction, math.min(BAR_MIN + room, BAR_MAX), state.unicode) end
    if piece.is_bad and state.color then text = "\27[31m" .. text .. "\27[0m" end
    texts[i] = text
  end
  return table.concat(texts, "  ")
end

--- One line of at most `width` columns (escape sequences of colours not counted).
---@param state table done, total?, errors?, elapsed?, rate?, eta?, active?, workers?, inner? (sum of the fractions of running items),
--- name?, unicode? (the bar is made of blocks), no_bar?, color?
---@param width integer
---@return string
function progress.render(state, width)
  local fraction
  if state.total and state.total > 0 then
    local reached = math.min(state.done + (state.inner or 0), state.total)
    fraction = state.done >= state.total and 1 or math.min(reached / state.total, 0.9999)
  end
  local pieces = pieces_of(state, fraction)
  while #pieces > 1 and total_width(pieces) > width do drop_one(pieces) end
  if total_width(pieces) > width then return progress.fit(pieces[1] and pieces[1].text or "", width) end
  return join(pieces, width - total_width(pieces), fraction, state)
end

-- ---- rate and what is left ----

local Estimator = {}
Estimator.__index = Estimator

local SHORTEST = 5     -- seconds that the rate looks back at least
local LOOK_BACK = 0.25 -- and of the time that has passed
local ITEMS_BACK = 8   -- and so many items: where they come in bursts, or rarely
local KNOWN_AFTER = 1  -- seconds until there is an eta

--- Estimates from samples in time. The rate is work over time, both forgotten exponentially, over a span that grows with the call: bursts
--- and slow items even out, and a stall shows.
---@param now number seconds
---@param done number items that were done when it began (they say nothing about speed)
function progress.estimator(now, done)
  return setmetatable({ start = now, at = now, first = done, done = done, work = 0, time = 0, changed_at = now }, Estimator)
end

--- done: items, with the fractions of those that run
function Estimator:sample(now, done)
  local dt, dn = now - self.at, math.max(done - self.done, 0)
  if dt <= 0 then return end
  local elapsed, fresh = now - self.start, done - self.first
  local span_of_items = fresh > ITEMS_BACK and ITEMS_BACK * elapsed / fresh or elapsed
  local span = math.max(SHORTEST, LOOK_BACK * elapsed, span_of_items)
  local kept = math.exp(-dt / span)
  self.work, self.time = self.work * kept + dn, self.time * kept + dt
  if dn > 0 then self.changed_at = now end
  self.at, self.done = now, math.max(done, self.done)
end

--- Items a second; nil: nothing has been finished yet.
function Estimator:rate()
  if self.done <= self.first or self.time <= 0 then return nil end
  return self.work / self.time
end

--- Seconds that are left; nil: not known, as in the first second and until every worker can have finished an item. With no more items left
--- than workers the rate no longer holds: then it is as long as an item takes, and nobody knows once that has passed.
---@param total number?
---@param workers integer?
function Estimator:eta(total, workers)
  local rate, fresh = self:rate(), self.done - self.first
  workers = math.max(workers or 1, 1)
  if not total or not rate or rate <= 0 then return nil end
  local left = total - self.done
  if left <= 0 then return 0 end
  if self.at - self.start < KNOWN_AFTER or fresh < workers then return nil end
  if left > workers then return left / rate end
  local item = workers * (self.changed_at - self.start) / fresh
  local rest = math.min(left, 1) * item - (self.at - self.changed_at)
  return rest > 0 and rest or nil
end

-- ---- drawing ----

local DRAW_SECONDS = 0.1   -- between two pictures
local FIRST_SECONDS = 0.3  -- a call that is over sooner shows nothing
local TICK_SECONDS = 1     -- and while nothing happens
local LINE_SECONDS = 5     -- between two lines where there is no terminal
local LOG_COLUMNS = 200
local STDERR = 2

local ERASE = "\r\27[K"

-- What a drawer sees of the world; tests have another one.
local WORLD = {
  now = core.now,
  width = function() return core.terminal_width(STDERR) end,
  is_terminal = function() return core.isatty(STDERR) end,
  is_foreground = function() return core.is_foreground(STDERR) end,
  write = core.write_stderr,
  environment = core.environment,
}

---@class luapool.Progress
local methods = {}
local Drawer = { __name = "luapool.progress", __index = methods }

-- "line": one that is drawn again and again; "log": lines below each other; "function"; nil: nothing at all.
local function way_to_show(options, world)
  if options.fn then return "function" end
  local mode = options.mode or "auto"
  if mode == "never" then return nil end
  local is_able = world.is_terminal() and (world.environment("TERM") or "dumb") ~= "dumb"
  if is_able then return "line" end
  return mode == "always" and "log" or nil
end

local WIDE_LANGUAGES = { zh = true, ja = true, ko = true } -- their terminals may draw blocks two columns wide

local function has_blocks(world)
  local locale = ""
  for _, name in ipairs { "LC_ALL", "LC_CTYPE", "LANG" } do
    locale = world.environment(name) or ""
    if locale ~= "" then break end
  end
  return locale:upper():find("UTF%-?8") ~= nil and not WIDE_LANGUAGES[locale:sub(1, 2)]
end

--- What shows the progress of one call. Nothing is drawn before the first update.
---@param options table
---   total   number?  items; nil: not known (yet: update may say)
---   done    integer? items that need not run (a log has them)
---   workers integer? of the pool
---   mode    "auto" (default: a line on stderr if that is a terminal), "always" (else plain lines, one in some seconds), "never"
---   fn      function? called with (done, total, eta) instead, ten times a second at most; what it raises is raised by update and finish
---   name    string? what the line begins with
---@return luapool.Progress
function progress.new(options, world)
  world = world or WORLD
  local now = world.now()
  local self = setmetatable({
    world = world, way = way_to_show(options, world), fn = options.fn, next_at = now + FIRST_SECONDS,
    estimator = progress.estimator(now, options.done or 0), start = now,
    is_drawn = false, is_cleared = false,
    state = {
      name = options.name, total = options.total, done = options.done or 0, errors = 0, inner = 0, workers = options.workers,
      unicode = has_blocks(world), color = part("defaults").color(world.is_terminal(), world.environment),
    },
  }, Drawer)
  if self.way == "function" then self.next_at = now end
  return self
end

local function columns_to_use(world)
  local width = world.width()
  if width <= 0 then width = math.tointeger(tonumber(world.environment("COLUMNS"))) or 80 end
  return math.max(width - 3, 0) -- what stands in the last column may begin a line of its own; and an echoed ^C has room
end

local function draw_line(self)
  if not self.world.is_foreground() then return end
  local text = progress.render(self.state, columns_to_use(self.world))
  if self.world.write("\r" .. text .. "\27[K") then self.is_drawn, self.is_cleared = true, false end
end

local function draw_log(self)
  local state = setmetatable({ color = false, no_bar = true }, { __index = self.state })
  self.world.write(progress.render(state, LOG_COLUMNS) .. "\n", true)
end

local function call_function(self)
  self.told = self.state.done
  self.fn(self.state.done, self.state.total, self.state.eta)
end

local SHOW = { line = draw_line, log = draw_log, ["function"] = call_function }
local PAUSE = { line = DRAW_SECONDS, log = LINE_SECONDS, ["function"] = DRAW_SECONDS }

local function estimate(self, now)
  local state, estimator = self.state, self.estimator
  estimator:sample(now, state.done + state.inner)
  state.elapsed = now - self.start
  state.rate, state.eta = estimator:rate(), estimator:eta(state.total, state.workers or state.active)
end

local function show(self, now)
  estimate(self, now)
  self.next_at = now + PAUSE[self.way] -- first: what fails is not tried again at once
  self.shown_at = now
  SHOW[self.way](self)
end

local function sum(fractions)
  local total = 0
  for _, fraction in pairs(fractions) do
    if fraction > 0 then total = total + math.min(fraction, 1) end -- (nan is not greater)
  end
  return total
end

--- How far the call is. Cheap: most of the time it only takes notes.
---@param done integer
---@param errors integer?
---@param active integer? workers that run something
---@param inner number|number[]|nil fractions (0 to 1) of running items that reported one, or their sum
---@param total integer? once it is known
function methods:update(done, errors, active, inner, total)
  if not self.way then return end
  local state = self.state
  state.done, state.errors, state.active = done, errors or state.errors, active or state.active
  if total then state.total = total end
  local now = self.world.now()
  if now < self.next_at then return end
  state.inner = type(inner) == "table" and sum(inner) or inner or 0
  show(self, now)
end

--- Seconds until update wants to be called again although nothing has happened (the clock goes on); nil: never.
---@return number?
function methods:due()
  if not self.way then return nil end
  local at = self.next_at
  if self.shown_at and not self.is_cleared then
    at = math.max(at, self.shown_at + (self.way == "log" and LINE_SECONDS or TICK_SECONDS))
  end
  return math.max(at - self.world.now(), 0)
end

--- Something else is going to be written to the terminal: take the line away. Nothing if there is none.
function methods:clear()
  if not self.is_drawn then return end
  self.is_drawn, self.is_cleared = false, true
  if self.world.is_foreground() then self.world.write(ERASE, true) end
end

--- Something else has erased the line, to write there.
function methods:erased()
  if self.is_drawn then self.is_drawn, self.is_cleared = false, true end
end

--- It has been written (and has ended its line): show the line again. Not more often than pictures are drawn anyway: due() says when.
function methods:redraw()
  if not self.is_cleared then return end
  local now = self.world.now()
  if now >= self.next_at then show(self, now) end
end

--- The call is over: the line is taken away; a function and a log are given the last count, if they do not know it. Idempotent.
---@param has_failed boolean? it ended by an error: then the function is not called any more
function methods:finish(has_failed)
  local way = self.way
  self:clear()
  self.way, self.is_cleared, self.state.inner = nil, false, 0
  if way == "function" and not has_failed and self.told ~= self.state.done then
    estimate(self, self.world.now())
    call_function(self)
  elseif way == "log" and self.shown_at then
    estimate(self, self.world.now())
    draw_log(self)
  end
end

--- `local d <close> = progress.new { ... }`
function Drawer:__close(err)
  methods.finish(self, err ~= nil)
end

return progress
