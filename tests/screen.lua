-- screen.lua -- a terminal with a person in front of it, made of tmux: what is typed, and what is seen.
--   local s <close> = screen.start { command = "...", width = 80, height = 24, env = { NAME = "value" or false } }
--   s:type("text")       as a person types it; s:press("Enter", "C-c", "Up"): keys by tmux's names; s:enter("text") both
--   s:paste("text")      as a terminal pastes, marked as such where the program has asked for it
--   s:wait(pattern [, seconds])   until the screen matches: the screen (without blanks at the ends of lines, but for
--     those of a prompt, and without empty lines at its end); an error if it never does
--   s:ended([seconds])   the status with which it ended, as a text
--   s:wait_plain(text), s:text([with_colors]), s:resize(width, height)
-- Each has a tmux server of its own, which ends with it.
local proc = require "proc"

local screen = {}
screen.__index = screen

local SECONDS <const> = 30
local TMUX_DIRECTORY = os.getenv("TMPDIR") or "/tmp"
local count = 0

screen.is_there = os.execute("command -v tmux > /dev/null 2>&1") == true

local function tmux(self, ...)
  local p <close> = proc.spawn { args = { "tmux", "-S", self.socket, "-f", "/dev/null", ... }, env = { TMUX = false } }
  local status, out, err = p:finish(30)
  return status.exit == 0, out, err
end

local function quoted(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

local function command_line(options)
  local words = { "exec env" }
  local env = { LC_ALL = "C.UTF-8", TERM = "screen", NO_COLOR = "1", LUA_INIT = false, INPUTRC = "/dev/null", EDITRC = "/dev/null" }
  for name, value in pairs(options.env or {}) do env[name] = value end
  for name, value in pairs(env) do
    if value == false then table.insert(words, 2, "-u " .. name) else words[#words + 1] = name .. "=" .. quoted(value) end
  end
  words[#words + 1] = "sh -c " .. quoted(("trap : INT; %s; s=$?; echo; echo ended with $s"):format(options.command))
  return table.concat(words, " ")
end

function screen.start(options)
  count = count + 1
  local self = setmetatable({ socket = ("%s/luapool-test-%d-%d.tmux"):format(TMUX_DIRECTORY, proc.pid(), count) }, screen)
  self.server = proc.spawn { args = { "tmux", "-S", self.socket, "-f", "/dev/null", "new-session", "-d",
    "-x", tostring(options.width or 80), "-y", tostring(options.height or 24), command_line(options), ";",
    "set-option", "-g", "remain-on-exit", "on", ";", "set-option", "-g", "status", "off" },
    env = { TMUX = false } } -- to be kept: what it has started ends with it
  local status, _, err = self.server:finish(30)
  if status.exit ~= 0 then error("tmux: " .. err) end
  return self
end

function screen:type(text)
  tmux(self, "send-keys", "-l", "--", text)
end

function screen:press(...)
  for _, key in ipairs { ... } do tmux(self, "send-keys", key) end
end

function screen:enter(text)
  self:type(text)
  self:press("Enter")
end

function screen:paste(text)
  tmux(self, "set-buffer", "--", text)
  tmux(self, "paste-buffer", "-p")
end

function screen:text(with_colors)
  local _, out = tmux(self, "capture-pane", "-p", table.unpack(with_colors and { "-e" } or {}))
  out = ("\n" .. out):gsub("[ ]+\n", "\n"):gsub("\n+$", "")
  return (out:gsub("\n([>$]+)%f[\0\n]", "\n%1 "):gsub("^\n", "")) -- (tmux drops blanks at the ends of lines)
end

function screen:wait(pattern, seconds, is_plain)
  local text
  local function is_seen()
    if text then proc.sleep(0.03) end -- it is somebody's processor
    text = self:text()
    return text:find(pattern, 1, is_plain) ~= nil
  end
  if not proc.wait_until(is_seen, seconds or SECONDS) then error(("%q is not on the screen:\n%s"):format(pattern, text), 2) end
  return text
end

function screen:wait_plain(text, seconds)
  return self:wait(text, seconds, true)
end

function screen:resize(width, height)
  tmux(self, "resize-window", "-x", tostring(width), "-y", tostring(height))
end

--- How it ended: its status, once it has. (tmux does not always learn it: a shell says it.)
function screen:ended(seconds)
  return self:wait("\nended with %d+", seconds):match("\nended with (%d+)")
end

function screen:__close()
  tmux(self, "kill-server")
  self.server = nil
  os.remove(self.socket)
end

return screen
