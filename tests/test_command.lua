-- The command as a drop-in lua: options, statuses and messages, side by side with lua5.4 where that is installed.
local lu = require "luaunit"
local disk = require "disk"
local proc = require "proc"

local LUAPOOL = os.getenv("LUAPOOL") or "build/luapool"
local LUA = "lua5.4"
local HAS_LUA = os.execute("command -v " .. LUA .. " > /dev/null")

-- Run a program; the result as one table, with its own name taken out of the messages.
local function run(program, args, options)
  options = options or {}
  options.args = { program, table.unpack(args) }
  options.env = options.env or {}
  for _, name in ipairs { "LUA_INIT", "LUA_INIT_5_4" } do
    if options.env[name] == nil then options.env[name] = false end
  end
  local p <close> = proc.spawn(options)
  local status, out, err = p:finish(20)
  local name = program:gsub("%p", "%%%0")
  return { exit = status.exit, signal = status.signal, out = out:gsub(name, "PROGRAM"), err = err:gsub(name, "PROGRAM") }
end

local function run_luapool(...) return run(LUAPOOL, { ... }) end

-- Our lines in usage and version are ours; everything else has to be the same.
local function without_ours(result)
  result.err = result.err:gsub("\n  %-%-help [^\n]*", "")
    :gsub("skipping %d+ levels", "skipping levels") -- how many fit depends on what the command itself has on the stack
  result.out = result.out:gsub("luapool [%d.]+ %(Lua 5%.4%.%d+%)\n", ""):gsub("0x%x+", "ADDRESS")
  return result
end

local script = disk.temporary

TestSideBySide = {}

local CASES = {
  version = { { "-v" } },
  code = { { "-e", "print(1)", "-e", "x = 2", "-e", "print(x)" } },
  code_in_the_same_argument = { { "-eprint(1)" } },
  code_missing = { { "-e" } },
  code_missing_before_an_option = { { "-e", "-v" } },
  library_missing = { { "-l" } },
  library = { { "-l", "string", "-e", "print(string.len'x')" } },
  library_into_a_name = { { "-l", "s=string", "-lm=math", "-e", "print(s.len'x', m.pi)" } },
  library_unknown = { { "-l", "no_such_module" } },
  unknown_option = { { "-x" } },
  unknown_option_h = { { "-h" } },
  three_dashes = { { "---" } },
  extra_characters = { { "-vv" } },
  extra_characters_E = { { "-Ex" } },
  options_are_checked_before_anything_runs = { { "-e", "print(1)", "-x" } },
  bundles = { { "-iv" } },
  bundle_after_value = { { "-e", "print(1)", "-vW" } },
  program_in_a_bundle = { { "-We", "print(1)" } },
  library_missing_before_an_option = { { "-l", "-e", "print(1)" } },
  single_dash_word = { { "-help" } },
  script_missing = { { "/no/such/file.lua" } },
  script_is_a_folder = { { "/" } },
  script_of_no_name = { { "" } },
  init_of_a_folder = { { "-e", "print(X)" }, { env = { LUA_INIT = "@/" } } },
  stdin_as_script = { { "-" }, { stdin = "print(1, ...)" } },
  stdin_as_script_with_arguments = { { "-", "a", "b" }, { stdin = "print(#arg, arg[0], ...)" } },
  stdin_by_default = { {}, { stdin = "print('x')" } },
  stdin_by_default_fails = { {}, { stdin = "error('x')" } },
  stdin_syntax_error = { { "-" }, { stdin = "x x" } },
  dashes = { { "-e", "print(arg[-1], arg[0], #arg)", "--" } },
  syntax_error = { { "-e", "local" } },
  error_string = { { "-e", "error('message')" } },
  error_no_position = { { "-e", "error('message', 0)" } },
  error_nil = { { "-e", "error()" } },
  error_table = { { "-e", "error {}" } },
  error_with_tostring = { { "-e", "error(setmetatable({}, { __tostring = function() return 'as text' end }))" } },
  error_with_bad_tostring = { { "-e", "error(setmetatable({}, { __tostring = function() return 1 end }))" } },
  error_in_a_coroutine = { { "-e", "coroutine.wrap(function() error('deep') end)()" } },
  error_in_a_function = { { "-e", "local function f() error('in f') end local function g() f() end g()" } },
  stack_overflow = { { "-e", "local function f() return 1 + f() end f()" } },
  warnings_off = { { "-e", "warn('x')" } },
  warnings_on = { { "-W", "-e", "warn('x', 'y')" } },
  warnings_by_script = { { "-e", "warn('@on') warn('x') warn('@off') warn('y')" } },
  exit_code = { { "-e", "os.exit(3)" } },
  exit_false = { { "-e", "os.exit(false)" } },
  exit_true_closing = { { "-e",
    "local c <close> = setmetatable({}, { __close = function() print('closed') end }) os.exit(true, true)" } },
  init = { { "-e", "print(X)" }, { env = { LUA_INIT = "X = 1" } } },
  init_of_the_version = { { "-e", "print(X)" }, { env = { LUA_INIT = "X = 1", LUA_INIT_5_4 = "X = 2" } } },
  init_fails = { { "-e", "print(X)" }, { env = { LUA_INIT = "error('in init')" } } },
  init_of_a_missing_file = { { "-e", "print(X)" }, { env = { LUA_INIT = "@/no/such/file" } } },
  ignoring_the_environment = { { "-E", "-e", "print(X, package.path, package.cpath)" }, { env = { LUA_INIT = "X = 1", LUA_PATH = "y" } } },
  paths = { { "-e", "print(package.path, package.cpath)" }, { env = { LUA_PATH = "a;;b", LUA_CPATH_5_4 = "c" } } },
  arg_is_no_table = { { "-e", "arg = 1", "-" }, { stdin = "" } },
  results_of_prompt = { { "-i" }, { stdin = "1, 2\n=3\nx = 4\nx\nlocal y = 5; return y\nerror('e')\nfor i = 1, 2 do\nprint(i)\nend\n" } },
  prompt_texts = { { "-e", "_PROMPT, _PROMPT2 = 'first ', 'second '", "-i" }, { stdin = "do\nend\n" } },
  prompt_print_fails = { { "-i" }, { stdin = "print = nil\n1\n" } },
  seek_and_read_stdin = { { "-e", "print(io.stdin:seek()) print(io.read('n', 'l', 'L', 3)) print(io.read('a')) print(io.read())" },
    { stdin = "12 rest\nline\nabcdef\n" } },
  lines_of_stdin = { { "-e", "for a, b in io.lines(nil, 1, 'l') do print(a, b) end" }, { stdin = "xone\nytwo" } },
  buffering_and_closing_stdin = { { "-e",
    "print(io.stdin:setvbuf('no')) print(io.read()) print(io.stdin:close()) print(io.stdin)" }, { stdin = "a\nb" } },
  writing_to_stdin = { { "-e", "print(io.stdin:write('x'))" } },
  debugger = { { "-e", "debug.debug() print(io.read())" }, { stdin = "print(1)\ncont\nafter\n" } },
  dofile_of_stdin = { { "-e", "print(dofile())" }, { stdin = "return 1, 2" } },
  coroutine_messages = { { "-e", [[
    print(pcall(coroutine.resume, 1)) print(pcall(coroutine.wrap)) print(pcall(coroutine.close, {}))
    print(pcall(coroutine.close, coroutine.running())) print(coroutine.resume(coroutine.running()))
    local w = coroutine.wrap(function() error("e") end) print(pcall(w)) print(pcall(w))
    local function closer(e) return setmetatable({}, { __close = function() error(e) end }) end
    print(pcall(coroutine.wrap(function() local c <close> = closer "in close" error("e") end)))
    local co = coroutine.create(function() local c <close> = closer "c" coroutine.yield() end)
    coroutine.resume(co) print(coroutine.close(co)) print(coroutine.close(co)) print(coroutine.status(co))
    print(select("#", coroutine.resume(coroutine.create(function() return table.unpack({}, 1, 200) end))))
    print(pcall(coroutine.resume, coroutine.create(function() end), table.unpack({}, 1, 150000)))
  ]] } },
  hook_messages_and_events = { { "-e", [[
    print(pcall(debug.sethook, 1)) print(pcall(debug.sethook, print)) print(pcall(debug.sethook, coroutine.create(print), print, 1, "x"))
    local events = {} debug.sethook(function(e) events[#events + 1] = e end, "crl") local x = math.abs(1)
    debug.sethook() print(table.concat(events, " "))
    local f = function() end debug.sethook(f, "c", 7) print(select(2, debug.gethook())) debug.sethook() print(debug.gethook())
  ]] } },
  program_messages = { { "-e", [[
    print(pcall(os.execute, {})) print(pcall(io.popen)) print(pcall(io.popen, "x", "rw")) print(io.popen("exit 2"):close())
    local f = io.popen("cat", "w") f:write("text\n") print(f:close()) print(io.type(f)) print(pcall(f.write, f, "x"))]] } },
}

-- Scripts as they should not be: the text of each, run by its name.
local SCRIPTS = {
  empty = "", comment = "#only a first line", comment_without_code = "#!/usr/bin/env luapool\n", mark = "\xEF\xBB\xBFprint('after a mark')",
  mark_and_comment = "\xEF\xBB\xBF#!/usr/bin/lua\nprint(debug.getinfo(1).currentline)",
  carriage_returns = "print(1)\r\nprint(2)\r\nerror('x')\r\n",
  no_newline = "print('x')", nul = "print('a\0b')", nul_in_code = "print(1)\0print(2)", invalid_utf8 = "print('\xFF\xFE')",
  invalid_name = "\xFF = 1",
  unfinished = "print('x'", unfinished_string = "x = 'abc", unfinished_comment = "--[[ x",
  not_lua = ("\127ELF\2\1\1"), truncated_binary = "\27Lua",
  binary = string.dump(load("print('from bytecode', ...)")), long_line = "local s = '" .. ("x"):rep(2000000) .. "' print(#s)",
  deep = ("("):rep(300) .. "1" .. (")"):rep(300), many_locals = ("local a = 1\n"):rep(201),
  error_with_a_long_message = "error(('x'):rep(10000))", error_of_nul = "error('a\0b')", goto_nowhere = "goto nowhere",
  returns_a_status = "return 5", exits_in_a_coroutine = "coroutine.wrap(function() os.exit(4, true) end)()",
  exits_in_a_close = "local c <close> = setmetatable({}, { __close = function() os.exit(6) end }) error('x')",
  close_that_fails = "local c <close> = setmetatable({}, { __close = function() error('in close') end }) error('x')",
  gc_that_fails = "warn('@on') setmetatable({}, { __gc = function() error('in gc') end }) collectgarbage() print('on')",
  gc_at_the_end = "setmetatable({}, { __gc = function() print('the end') end }) os.exit(3, true)",
  error_in_error = "error(setmetatable({}, { __tostring = function() error('again') end }))",
  warns = "warn('@on') warn('a', 'b', 'c') warn('@unknown') warn('@off') warn('x') warn('@on') warn('')",
  output_is_not_lost = "io.stdout:setvbuf('full') io.write('written') os.exit(2, true)",
  output_is_flushed_by_exit = "io.stdout:setvbuf('full') io.write('written') os.exit(2)",
}

for name, text in pairs(SCRIPTS) do
  TestSideBySide["test_script_" .. name] = function()
    if not HAS_LUA then lu.skip("no " .. LUA .. " to compare with") end
    local path = script(text)
    local ours, theirs = run(LUAPOOL, { path, "an argument" }), run(LUA, { path, "an argument" })
    os.remove(path)
    lu.assertEquals(without_ours(ours), without_ours(theirs))
  end
end

for name, case in pairs(CASES) do
  TestSideBySide["test_" .. name] = function()
    if not HAS_LUA then lu.skip("no " .. LUA .. " to compare with") end
    local function options()
      local copy = { env = {} }
      for key, value in pairs(case[2] or {}) do if key ~= "env" then copy[key] = value end end
      for key, value in pairs(case[2] and case[2].env or {}) do copy.env[key] = value end
      return copy
    end
    lu.assertEquals(without_ours(run(LUAPOOL, case[1], options())), without_ours(run(LUA, case[1], options())))
  end
end

-- Any words in any order.
function TestSideBySide:test_random_command_lines()
  if not HAS_LUA then lu.skip("no " .. LUA .. " to compare with") end
  local path = script("print('script', ..., #arg, arg[-1], arg[-2])")
  local words = { "-e", "-eprint(1)", "-i", "-v", "-W", "-E", "-l", "-lmath", "g=math", "-lg=math", "-", "--", "-x", "-vv", "-We", "",
    "print(#arg, arg[0], arg[-1], ...)", "warn'x'", path, "-iv", "-E-", "---", "-ee", "- ", "-e -", "-lno", "error 'x'" }
  math.randomseed(54)
  for _ = 1, 250 do
    local args = {}
    for i = 1, math.random(0, 5) do args[i] = words[math.random(#words)] end
    local line = table.concat(args, "|")
    local ours, theirs = run(LUAPOOL, args, { stdin = "print('stdin', ...)\n" }), run(LUA, args, { stdin = "print('stdin', ...)\n" })
    ours.err = ours.err:gsub("\n\tno file '" .. path:match("^(.*)/") .. "/no[^\n]*", "") -- (beside the script)
    lu.assertEquals(without_ours(ours), without_ours(theirs), line)
  end
  os.remove(path)
end

TestDropIn = {}

function TestDropIn:test_pool_is_the_module()
  lu.assertEquals(run_luapool("-e", "print(type(pool), pool == require 'luapool')").out, "table\ttrue\n")
end

function TestDropIn:test_c_modules_find_the_library_in_the_command()
  for _, name in ipairs { "lfs", "cjson", "lpeg", "socket" } do
    local result = run_luapool("-l", "m=" .. name, "-e", "print(type(m))")
    if result.err:find("module '" .. name .. "' not found", 1, true) then result.out = "absent\n" end
    lu.assertTrue(result.out == "table\n" or result.out == "absent\n", result.out .. result.err)
  end
end

function TestDropIn:test_first_line_and_arguments_of_a_script()
  local name = script("#!/usr/bin/env luapool\nprint(arg[0] == ..., select('#', ...), arg[-1] ~= nil, debug.getinfo(1).currentline)\n")
  local result = run_luapool(name, name, "b")
  os.remove(name)
  lu.assertEquals(result.out, "true\t2\ttrue\t2\n")
end

-- Modules beside the script.
TestModules = {}

local write = disk.write

local function shell(command) assert(os.execute(command), command) end

function TestModules:setUp()
  self.folder = os.tmpname()
  os.remove(self.folder)
  shell(("mkdir -p %s/job/sub/deep %s/other"):format(self.folder, self.folder))
  write(self.folder .. "/job/main.lua", "print(require(arg[1]))")
  write(self.folder .. "/job/mod.lua", "return 'beside'")
  write(self.folder .. "/job/sub/init.lua", "return 'sub, ' .. require 'sub.deep.more'")
  write(self.folder .. "/job/sub/deep/more.lua", "return 'more'")
  write(self.folder .. "/other/mod.lua", "return 'in the path'")
end

function TestModules:tearDown() shell("rm -rf " .. self.folder) end

local function absolute(path) return path:sub(1, 1) == "/" and path or proc.directory() .. "/" .. path end

function TestModules:run(args, options)
  options = options or {}
  options.cwd = options.cwd or "/"
  options.env = options.env or { LUA_PATH = "", LUA_CPATH = "" }
  return run(absolute(LUAPOOL), args, options)
end

function TestModules:test_are_found_whatever_the_directory()
  local main = self.folder .. "/job/main.lua"
  lu.assertEquals(self:run({ main, "mod" }).out, ("beside\t%s/job/mod.lua\n"):format(self.folder))
  lu.assertEquals(self:run({ main, "sub" }).out, ("sub, more\t%s/job/sub/init.lua\n"):format(self.folder))
  lu.assertEquals(self:run({ "main.lua", "mod" }, { cwd = self.folder .. "/job" }).out, "beside\t./mod.lua\n")
  lu.assertEquals(self:run({ "job/main.lua", "mod" }, { cwd = self.folder }).out, "beside\tjob/mod.lua\n")
  lu.assertEquals(self:run({ "-l", "mod", "-e", "print(mod)", main, "mod" }).out, "beside\nbeside\n")
end

function TestModules:test_what_the_path_has_goes_first()
  local env = { LUA_PATH = self.folder .. "/other/?.lua", LUA_CPATH = "" }
  local main = self.folder .. "/job/main.lua"
  lu.assertStrContains(self:run({ main, "mod" }, { env = env }).out, "in the path\t")
  write(main, "print(package.path) package.preload.mod = function() return 'preloaded' end print((require 'mod'))")
  lu.assertEquals(self:run({ main }, { env = env }).out, env.LUA_PATH .. "\npreloaded\n")
end

function TestModules:test_c_modules_too()
  shell(("cp %s/tests/proc.so %s/job/"):format(os.getenv("BUILD") or "build", self.folder))
  lu.assertEquals(self:run({ self.folder .. "/job/main.lua", "proc" }).out:match("\t(.*)\n"), self.folder .. "/job/proc.so")
end

function TestModules:test_workers_find_them()
  local main = self.folder .. "/job/main.lua"
  write(main, "print(pool.map(function() return require 'mod' end, 1)[1])")
  lu.assertEquals(self:run({ main }), { exit = 0, out = "beside\n", err = "" })
end

function TestModules:test_the_message_says_where_it_was_looked_for()
  local result = self:run { self.folder .. "/job/main.lua", "none" }
  lu.assertEquals(result.exit, 1)
  for _, name in ipairs { "none.lua", "none/init.lua", "none.so" } do
    lu.assertStrContains(result.err, ("\n\tno file '%s/job/%s'"):format(self.folder, name))
  end
end

function TestModules:test_not_without_a_script()
  local options = { cwd = self.folder .. "/job" }
  lu.assertStrContains(self:run({ "-e", "print(pcall(require, 'mod'))" }, options).out, "false\tmodule 'mod' not found")
  local from_stdin = { cwd = self.folder .. "/job", stdin = "print(pcall(require, 'mod'))" }
  lu.assertStrContains(self:run({ "-" }, from_stdin).out, "false\tmodule 'mod' not found")
end

-- The prompt at a terminal, with plain lines. (More of it, and with editors: test_repl.lua.)
TestPrompt = {}

local function prompt(...)
  local env = { LUA_INIT = false, LUAPOOL_READLINELIB = "", HOME = false, XDG_STATE_HOME = false, NO_COLOR = "1" } -- no history
  local p = proc.spawn { args = { LUAPOOL, ... }, pty = true, env = env }
  local found, _, at = p:read_until("> ", 10)
  lu.assertNotNil(found)
  return p, at
end

-- Type, and wait for what must follow.
local function exchange(p, at, text, pattern)
  p:write(text)
  local found, err, after = p:read_until(pattern, 10, at)
  if not found then lu.fail(("%q was not answered by %q: %s"):format(text, pattern, p.stdout .. tostring(err))) end
  return after
end

function TestPrompt:test_values_and_statements()
  local p <close>, at = prompt()
  at = exchange(p, at, "1 + 1\n", "\n2\r?\n> ")
  at = exchange(p, at, "function f()\n", ">> ")
  at = exchange(p, at, "return 'r' end\n", "> ")
  at = exchange(p, at, "f()\n", '\n"r"\r?\n> ')
  exchange(p, at, "error 'oops'\n", "stdin:1: oops\r?\nstack traceback:")
  p:close_stdin()
  lu.assertEquals(p:finish(5).exit, 0)
end

function TestPrompt:test_ctrl_c_drops_the_line_and_the_statement()
  local p <close>, at = prompt()
  p:write("x = 'half")
  proc.sleep(0.05)
  at = exchange(p, at, "\3", "\n> ")
  at = exchange(p, at, "function f(\n", ">> ")
  at = exchange(p, at, "\3", "\n> ")
  at = exchange(p, at, "print('fine', x)\n", "fine\tnil")
  for _ = 1, 20 do at = exchange(p, at, "\3", "\n> ") end
  p:close_stdin()
  lu.assertEquals(p:finish(5).exit, 0)
end

function TestPrompt:test_ctrl_c_stops_what_runs()
  local p <close>, at = prompt()
  at = exchange(p, at, "print('begin') while true do end\n", "begin\r?\n")
  at = exchange(p, at, "\3", "interrupted!\r?\n> ")
  at = exchange(p, at, "print('reading') io.read()\n", "\nreading\r?\n")
  at = exchange(p, at, "\3", "interrupted!\r?\n> ")
  exchange(p, at, "1 + 2\n", "\n3\r?\n> ")
  p:close_stdin()
  lu.assertEquals(p:finish(5).exit, 0)
end

function TestPrompt:test_signals_that_end_it()
  for _, signal in ipairs { "TERM", "HUP" } do
    local p <close> = prompt()
    local before = p.terminal
    p:kill(signal)
    lu.assertEquals(p:finish(5).signal, "SIG" .. signal)
    lu.assertEquals(proc.tty_settings(p), before)
  end
end

function TestPrompt:test_a_background_job_that_reads_is_stopped_by_the_terminal()
  local p <close> = proc.spawn { args = { "bash", "-i" }, pty = true, env = { PS1 = "$ ", HISTFILE = "/dev/null" } }
  p:write(('"%s" -e "io.read()" &\n'):format(LUAPOOL))
  p:write("wait; jobs\n")
  lu.assertNotNil(p:read_until("Stopped", 10), p.stdout)
end
