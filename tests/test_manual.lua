-- The manual page and the completions know every option that --help knows, and are what mandoc and the shells take.
local lu = require "luaunit"
local disk = require "disk"
local proc = require "proc"

local LUAPOOL = os.getenv("LUAPOOL") or "build/luapool"

local function run(...)
  local p <close> = proc.spawn { args = { ... }, stderr = "stdout" }
  local status, out = p:finish(60)
  return out, status.exit
end

local function need(program)
  if not os.execute("command -v " .. program .. " > /dev/null") then lu.skip("no " .. program .. " here") end
end

-- The options that a help text lists, and all that it mentions.
local function options_of(text)
  local found, count = {}, 0
  local function note(word)
    if not found[word] then count = count + 1 end
    found[word] = true
  end
  for line in text:gmatch("[^\n]+") do
    local list = line:match("^  +(%-.-)  ") or line:match("^  +(%-.*)$") or ""
    for word in list:gmatch("%-%-?[%w][%w-]*") do note(word) end
    for word in line:gmatch("%f[%w-]%-%-%l[%w-]*") do note(word) end
  end
  return found, count
end

local function help(...) return options_of((run(LUAPOOL, ...))) end

TestManual = {}

local PAGE, BASH, ZSH, FISH =
  "scripts/man/luapool.1", "scripts/completion/luapool.bash", "scripts/completion/_luapool", "scripts/completion/luapool.fish"

-- How each file writes an option, as a pattern.
local function spellings(option)
  local name = option:gsub("^%-%-?", ""):gsub("%-", "%%-")
  local plain = option:gsub("%-", "%%-")
  local is_long = option:sub(1, 2) == "--"
  return {
    [PAGE] = is_long and "Fl %-" .. name .. "[ \n]" or "%f[%w]Fl " .. name .. "[ \n]",
    [BASH] = "[ ']" .. plain .. "[ '\n]",
    [ZSH] = "[{,'\"*)]" .. plain .. "[%[{},=+ ]",
    [FISH] = is_long and " %-l " .. name .. " " or " %-s " .. name .. " ",
  }
end

local function assert_known(options, except)
  for option in pairs(options) do
    for path, pattern in pairs(spellings(option)) do
      local is_there = disk.read(path):find(pattern) or (except and except[option])
      if not is_there then lu.fail(("%s does not know %s"):format(path, option)) end
    end
  end
end

function TestManual:test_every_option_of_help_is_everywhere()
  local options, count = help("--help")
  lu.assertTrue(count > 30, count)
  assert_known(options)
end

function TestManual:test_every_option_of_the_words_too()
  local options, count = help("map", "--help")
  lu.assertTrue(count > 20, count)
  assert_known(options, { ["--jobs"] = true })
end

-- And nothing that is not there: what the page lists is understood.
function TestManual:test_the_page_has_no_other()
  local options, words = help("--help"), help("map", "--help")
  local count = 0
  for item in disk.read(PAGE):gmatch("\n%.It (Fl [^\n]*)") do
    for dash, name in item:gmatch("%f[%w]Fl (%-?)([%w][%w-]*)") do
      local option = "-" .. dash .. name
      lu.assertTrue(options[option] or words[option], option)
      count = count + 1
    end
  end
  lu.assertTrue(count > 40, count)
end

function TestManual:test_every_variable_is_named()
  for name in run(LUAPOOL, "--help"):gmatch("%[(LUAPOOL_[%w_]+)%]") do lu.assertStrContains(disk.read(PAGE), name) end
end

function TestManual:test_mandoc_has_nothing_to_say()
  need "mandoc"
  local out = run("mandoc", "-Tlint", PAGE)
  lu.assertNil(out:match("[^\n]*" .. PAGE:gsub("%p", "%%%0") .. ":%d+:[^\n]*"))
  lu.assertStrContains(run("mandoc", "-Tascii", PAGE), "LUAPOOL(1)")
end

TestCompletion = {}

-- What bash would offer for these words, the last one being typed.
local function bash(...)
  local words = { ... }
  local script = ("source %s; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _luapool; printf '%%s\\n' \"${COMPREPLY[@]}\""):format(BASH)
  return (run("bash", "-c", script, "bash", table.unpack(words)))
end

function TestCompletion:test_bash()
  need "bash"
  lu.assertEquals(bash("luapool", "--on"), "--on-crash\n")
  lu.assertEquals(bash("luapool", "--on-crash", "r"), "raise\nretry\n")
  lu.assertEquals(bash("luapool", "--on-crash", "=", "s"), "skip\n")
  lu.assertEquals(bash("luapool", "--progress", "="), "auto\nalways\nnever\n")
  lu.assertEquals(bash("luapool", "fil"), "filter\n")
  lu.assertEquals(bash("luapool", "--log", "tests/test_man"), "tests/test_manual.lua\n")
  lu.assertEquals(bash("luapool", "--progress", "tests/test_man"), "tests/test_manual.lua\n")
  lu.assertEquals(bash("luapool", "map", "--jobl"), "--joblog\n")
  lu.assertEquals(bash("luapool", "--jobl"), "\n")
end

function TestCompletion:test_fish()
  need "fish"
  local function fish(line) return (run("fish", "--no-config", "-c", ("source %s; complete -C '%s'"):format(FISH, line))) end
  lu.assertStrMatches(fish("luapool --on"), "%-%-on%-crash\t[^\n]*\n")
  lu.assertStrMatches(fish("luapool --on-crash r"), "raise\t[^\n]*\nretry\t[^\n]*\n")
  lu.assertStrContains(fish("luapool fil"), "filter\t")
  lu.assertStrContains(fish("luapool map --jobl"), "--joblog\t")
  lu.assertNil(fish("luapool --jobl"):find("--joblog", 1, true))
end

function TestCompletion:test_zsh()
  need "zsh"
  local function zsh(line, expected)
    local p <close> = proc.spawn { args = { "zsh", "-f", "-i" }, pty = true, env = { PS1 = "$ ", TERM = "dumb" } }
    p:write("fpath=(scripts/completion $fpath); autoload -U compinit; compinit -u -D; unsetopt zle_bracketed_paste; echo rea''dy\n")
    lu.assertNotNil(p:read_until("ready\r", 30), p.stdout)
    local at = #p.stdout + 1
    p:write(line .. "\t")
    lu.assertNotNil(p:read_until(expected, 30, at), p.stdout)
    p:write("\3exit\n")
  end
  zsh("luapool --on-c", "%-%-on%-crash=")
  zsh("luapool --on-crash=s", "=skip")
  zsh("luapool fil", "filter ")
  zsh("luapool map --jobl", "%-%-joblog=")
end
