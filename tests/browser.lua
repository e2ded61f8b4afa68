-- browser.lua -- looks at pages as a person would see them, with a headless Chromium: what it measures, and the pixels that it draws.
-- It is heavy, and not installed for the tests (scripts/install-dependencies browser does it): browser.path is nil without it.
local cjson = require "cjson"
local disk = require "disk"
local proc = require "proc"

local browser = {}

local function find()
  for _, name in ipairs { "chromium", "chromium-browser", "google-chrome", "google-chrome-stable" } do
    local pipe <close> = assert(io.popen("command -v " .. name))
    local path = pipe:read("l")
    if path then return path end
  end
end

browser.path = find()

local ALWAYS <const> = {
  "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-breakpad", "--no-first-run",
  "--disable-extensions", "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--enable-logging=stderr",
  "--host-resolver-rules=MAP * ~NOTFOUND", "--force-color-profile=srgb", "--virtual-time-budget=5000",
}

-- Returns what it printed, and what it said about the page: lines of its console, requests that failed.
local function run(directory, page, options)
  local args = { browser.path }
  for _, arg in ipairs(ALWAYS) do args[#args + 1] = arg end
  args[#args + 1] = "--user-data-dir=" .. directory .. "/profile"
  args[#args + 1] = ("--window-size=%d,%d"):format(math.max(options.width or 1200, 500), options.height or 900)
  args[#args + 1] = "--blink-settings=preferredColorScheme=" .. (options.dark and 0 or 1)
  args[#args + 1] = options.action
  args[#args + 1] = "file://" .. page
  local p = proc.spawn { args = args, deadline = 120, env = { HOME = directory, DBUS_SESSION_BUS_ADDRESS = "disabled:" } }
  local _, out, err = p:finish(100)
  local said = {}
  for line in err:gmatch("[^\n]+") do
    if line:find("CONSOLE", 1, true) then said[#said + 1] = line end
  end
  return out, said
end

local CODE <const> = [[<script>addEventListener('load', () => { let r; try { r = (() => {%s})() } catch (e) { r = {failed: '' + e} }
parent.document.documentElement.setAttribute('data-measured', encodeURIComponent(JSON.stringify(r))) })</script>]]

-- No window is narrower than 500 pixels, but a frame is.
local FRAME <const> = [[<!DOCTYPE html><html><head><meta name="color-scheme" content="light dark"></head><body style="margin:0">
<iframe style="border:0;width:%dpx;height:800px" srcdoc="%s"></iframe></body></html>]]

-- What the script (the body of a function) returns in the page, as a table.
local function evaluate(directory, html, script, options)
  local page = directory .. "/measured.html"
  local before, after = html:match("^(.*)(</body>.*)$")
  local document = (before .. CODE:format(script) .. after):gsub("&", "&amp;"):gsub('"', "&quot;")
  disk.write(page, FRAME:format(options.width or 1200, document))
  options.action = "--dump-dom"
  local out, said = run(directory, page, options)
  local text = out:match('data%-measured="([^"]*)"')
  if not text then error("the browser measured nothing: " .. out:sub(1, 500), 2) end
  local measured = cjson.decode((text:gsub("%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end)))
  if measured.failed then error("in the browser: " .. measured.failed, 2) end
  return measured, said
end

local MEASURE <const> = [[
  const name = e => e.tagName + (e.getAttribute('class') ? '.' + e.getAttribute('class') : '') + ' ' + e.textContent.trim().slice(0, 40);
  const box = e => e.getBoundingClientRect();
  const all = s => Array.from(document.querySelectorAll(s));
  const seen = all('body *').filter(e => e.tagName != 'SCRIPT' && box(e).width > 0);
  const overlaps = (a, b) => a.left < b.right - 0.5 && b.left < a.right - 0.5 && a.top < b.bottom - 0.5 && b.top < a.bottom - 0.5;
  const clashes = groups => {
    const found = [];
    for (const group of groups)
      for (let i = 0; i < group.length; i++)
        for (let k = i + 1; k < group.length; k++)
          if (overlaps(box(group[i]), box(group[k]))) found.push(name(group[i]) + ' / ' + name(group[k]));
    return found;
  };
  const children = s => all(s).map(e => Array.from(e.children));
  const color = (s, p) => { const e = document.querySelector(s); return e ? getComputedStyle(e)[p] : ''; };
  const rows = all('.timeline .row').filter(r => r.querySelector('svg')).map(r => {
    const svg = r.querySelector('svg'), at = [];
    svg.scrollIntoView({block: 'center'});
    const b = box(svg);
    for (let i = 0; i < 20; i++) {
      const x = b.left + b.width * (i + 0.5) / 20;
      at.push(document.elementsFromPoint(x, b.bottom - 2).filter(e => e.tagName == 'path').map(e => e.getAttribute('class'))[0] || '');
    }
    return {label: r.firstElementChild.textContent, width: b.width, height: b.height, at: at};
  });
  const columns = all('.plot rect').map(r => ({height: box(r).height, title: r.textContent}));
  return {
    width: innerWidth, scroll: document.documentElement.scrollWidth,
    outside: seen.filter(e => box(e).right > innerWidth + 0.5 || box(e).left < -0.5).map(name),
    cut: seen.filter(e => e.clientWidth > 0 && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display != 'inline').map(name),
    clashes: clashes(children('.axis').concat(children('.tiles'), children('.row'), children('.legend'), children('.quantiles'),
      children('section'), children('.worker > div:first-child'), children('tr'))),
    rows: rows, columns: columns, tables: all('table').length, cards: all('.card').map(c => c.className.replace('card ', '')),
    text: document.body.innerText, titles: all('title').length, markup: all('body b, body i, body script').length,
    background: color('body', 'backgroundColor'), letters: color('body', 'color'), card: color('.card', 'backgroundColor'),
    run: color('.run', 'fill'), resources: performance.getEntriesByType('resource').map(r => r.name),
  };
]]

--- What a person would see of the page at this width.
---@param directory string for its files
---@param html string
---@param options table width, height, dark
---@return table measured, string[] said what the console said
function browser.measure(directory, html, options)
  return evaluate(directory, html, MEASURE, options)
end

local BASE64 <const> = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

local function base64(bytes)
  local pieces = {}
  for i = 1, #bytes, 3 do
    local a, b, c = bytes:byte(i, i + 2)
    local n = a << 16 | (b or 0) << 8 | (c or 0)
    local text = {}
    for shift = 18, 0, -6 do
      local at = (n >> shift & 63) + 1
      text[#text + 1] = BASE64:sub(at, at)
    end
    pieces[#pieces + 1] = table.concat(text):sub(1, c and 4 or b and 3 or 2) .. (c and "" or b and "=" or "==")
  end
  return table.concat(pieces)
end

local COUNT <const> = [[
  const image = document.querySelector('img');
  const canvas = document.createElement('canvas');
  canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0);
  const data = context.getImageData(0, 0, canvas.width, canvas.height).data, counts = {};
  for (let i = 0; i < data.length; i += 4) {
    const key = 'rgb(' + data[i] + ', ' + data[i + 1] + ', ' + data[i + 2] + ')';
    counts[key] = (counts[key] || 0) + 1;
  }
  return {width: canvas.width, height: canvas.height, counts: counts};
]]

--- The pixels of a picture of the page.
---@return table pixels width, height, counts: [color as "rgb(r, g, b)"] = pixels
function browser.pixels(directory, html, options)
  local page, picture = directory .. "/drawn.html", directory .. "/drawn.png"
  disk.write(page, html)
  options.action = "--screenshot=" .. picture
  run(directory, page, options)
  local document = '<html><body><img src="data:image/png;base64,' .. base64(disk.read(picture)) .. '"></body></html>'
  return (evaluate(directory, document, COUNT, {}))
end

return browser
