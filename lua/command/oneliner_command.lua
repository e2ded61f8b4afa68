-- command/oneliner_command -- shell commands out of a template with GNU parallel's replacement strings. Room: lua. Owns nothing.
local core = ...

local command = {}

local BOURNE <const> = { sh = true, bash = true, dash = true, ash = true, ksh = true, mksh = true, zsh = true }

--- The shell that commands are for: $PARALLEL_SHELL, $SHELL if our quoting is right for it, /bin/sh.
---@return string
function command.shell()
  local path = core.environment "PARALLEL_SHELL"
  if path and path ~= "" then return path end
  path = core.environment "SHELL"
  return path and BOURNE[path:match "[^/]*$"] and path or "/bin/sh"
end

--- A text as one word of the shell, quoted as GNU parallel does it: only where that is needed.
---@return string
function command.quote(text)
  if text == "" then return "''" end
  if not text:find("[^-_.+%w/]") then return text end
  return (("'" .. text:gsub("'", "'\"'\"'") .. "'"):gsub("^''", ""):gsub("''$", ""))
end

local function without_extension(text) return (text:gsub("%.[^/.]*$", "")) end
local function base(text) return (text:gsub("^.*/", "")) end

-- As Perl's dirname.
local function folder(text)
  local trimmed = text:match("^(.-)/*$")
  if trimmed == "" then return text:sub(1, 1) == "/" and "/" or "." end
  local above = trimmed:match("^(.*)/[^/]*$")
  if not above then return "." end
  above = above:match("^(.-)/*$")
  return above == "" and "/" or above
end

local CHANGES <const> = {
  [""] = function(text) return text end,
  ["."] = without_extension,
  ["/"] = base,
  ["//"] = folder,
  ["/."] = function(text) return without_extension(base(text)) end,
}

-- {}, {.}, {2//}, {-1}, ...: nil if it is none of ours.
local function replacement(inside)
  local number, change = inside:match("^(%-?%d*)([./]*)$")
  change = change and CHANGES[change]
  if not change or number == "-" then return nil end
  if number == "" then return { change = change } end
  return { change = change, number = math.tointeger(tonumber(number)) }
end

--- The parts of a template: strings, and what stands for something. "{}" is appended if the template has no part that names the item.
---@return any[]
function command.parse(template)
  local parts, at, names_item = {}, 1, false
  for from, inside, to in template:gmatch("(){([^{}%s]*)}()") do
    local part = inside == "#" and "number" or inside == "%" and "slot" or replacement(inside)
    if part then
      parts[#parts + 1] = { text = template:sub(at, from - 1) }
      parts[#parts + 1] = type(part) == "table" and part or { what = part }
      names_item = names_item or type(part) == "table"
      at = to
    end
  end
  parts[#parts + 1] = { text = template:sub(at) }
  if not names_item then
    parts[#parts + 1] = { text = " " }
    parts[#parts + 1] = replacement ""
  end
  return parts
end

local function words_of(part, list)
  local words = {}
  for i, text in ipairs(list) do words[i] = command.quote(part.change(text)) end
  return table.concat(words, " ")
end

--- The command for an item.
---@param parts any[] of command.parse
---@param list string[] the item, or the parts of a combination
---@param number integer {#}
---@param slot integer {%}
---@return string
function command.expand(parts, list, number, slot)
  local pieces = {}
  for i, part in ipairs(parts) do
    if part.text then
      pieces[i] = part.text
    elseif part.what then
      pieces[i] = tostring(part.what == "number" and number or slot)
    elseif part.number then
      local text = list[part.number < 0 and #list + 1 + part.number or part.number]
      pieces[i] = text and command.quote(part.change(text)) or ""
    else
      pieces[i] = words_of(part, list)
    end
  end
  return table.concat(pieces)
end

return command
