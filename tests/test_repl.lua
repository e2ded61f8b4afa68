-- The prompt at a terminal, as a person uses it: typed into tmux, and read from its screen. (Its parts: test_repl_parts.lua.)
local disk = require "disk"
local lu = require "luaunit"
local proc = require "proc"
local screen = require "screen"
local ways = require "ways"

local LUAPOOL = os.getenv("LUAPOOL") or "build/luapool"

local function absolute(path) return path:sub(1, 1) == "/" and path or proc.directory() .. "/" .. path end

local PROGRAM <const> = absolute(LUAPOOL)

local Screen = {} -- what all tests on a screen have
function Screen:setUp()
  if not screen.is_there then lu.skip("no tmux here") end
  self.directory = disk.make_directory()
end

function Screen:tearDown()
  if self.directory then os.execute(("rm -rf '%s'"):format(self.directory)) end
end

-- A prompt; history lies in the test's own directory.
function Screen:prompt(options)
  options = options or {}
  options.env = options.env or {}
  options.env.XDG_STATE_HOME = options.env.XDG_STATE_HOME or self.directory
  options.command = options.command or PROGRAM .. " " .. (options.arguments or "")
  local s = screen.start(options)
  s:wait("\n> ")
  return s
end

-- A shell with job control, whose prompt is "$ ".
function Screen:shell(env)
  env = env or {}
  env.PS1, env.HISTFILE, env.XDG_STATE_HOME = "$ ", "/dev/null", self.directory
  local s = screen.start { command = "bash --norc --noprofile -i", env = env }
  s:wait("%$ $")
  return s
end

local function class() return setmetatable({}, { __index = Screen }) end

-- (libedit keeps some strings for ever: not for leak checkers)
local NO_LEAKS <const> = (os.getenv "ASAN_OPTIONS" or "") .. ":detect_leaks=0"
local EDITORS = {
  readline = {}, libedit = { LUAPOOL_READLINELIB = "libedit.so.2", ASAN_OPTIONS = NO_LEAKS }, plain = { LUAPOOL_READLINELIB = "" },
}

local function is_loadable(library)
  return not package.loadlib(library, "*") == false
end

local function editors()
  local list = { "plain" }
  if is_loadable("libreadline.so.8") then list[#list + 1] = "readline" end
  if is_loadable("libedit.so.2") then list[#list + 1] = "libedit" end
  return list
end

local function environment(editor)
  local env = {}
  for name, value in pairs(EDITORS[editor]) do env[name] = value end
  return env
end

-- ---- values, statements, errors ----

TestReplValues = class()

function TestReplValues:test_results()
  local s <close> = self:prompt()
  s:enter("1 + 1")
  s:wait("> 1 %+ 1\n2\n> ")
  s:enter("'text', nil, {3, 2, 1, b = 'x', a = true}")
  s:wait('\n"text"%s+nil%s+{ 3, 2, 1, a = true, b = "x" }\n> ')
  s:enter("_")
  s:wait('\n> _\n"text"\n> ')
  s:enter("=6 * 7")
  s:wait("\n42\n> ")
  s:enter("_ + 1")
  s:wait("\n43\n> ")
  s:enter("x = 5")
  s:enter("_ + x")
  s:wait("> x = 5\n> _ %+ x\n48\n> ")
  s:enter("print('printed')")
  s:wait("\nprinted\n> ")
end

-- What was printed has no line's end: the prompt still begins on a line of its own; else there is no empty line.
function TestReplValues:test_the_prompt_begins_a_line()
  local s <close> = self:prompt { width = 60 }
  s:enter("io.write('abc') do end")
  s:enter("do io.write(('x'):rep(60)) end")
  s:enter("do io.write(('y'):rep(61)) end")
  s:enter("do io.stderr:write('err') end")
  s:enter("do print('line') end")
  s:wait("end\nabc\n> .*end\n" .. ("x"):rep(60) .. "\n> .*end\n" .. ("y"):rep(60) .. "\ny\n> .*end\nerr\n> .*end\nline\n> $")
end

function TestReplValues:test_statements_of_several_lines()
  local s <close> = self:prompt()
  s:enter("function f(n)")
  s:wait("\n>> ")
  s:enter("return {")
  s:enter("n,")
  s:enter("} end")
  s:wait(">> } end\n> ")
  s:enter("f(7)")
  s:wait("\n{ 7 }\n> ")
  s:enter("{")
  s:wait("\n>> ")
  s:enter("1}")
  s:wait("\n{ 1 }\n> ")
  s:enter("'not ended")
  s:wait("unfinished string near <eof>\n> ")
end

function TestReplValues:test_a_pasted_block_is_one_chunk()
  local s <close> = self:prompt()
  s:paste("local n = 4\n\nlocal function fact(k)\n\tif k == 0 then return 1 end\n\treturn k * fact(k - 1)\nend\nfact(n)")
  s:wait("fact%(n%)$")
  s:press("Enter")
  s:wait("\n24\n> $")
  s:enter("fact(n + 1)")
  s:wait("\n120\n> $")
  s:press("Up", "Up")
  s:wait("120\n> local n = 4\n\nlocal function fact%(k%)\n.*\nfact%(n%)$")
end

function TestReplValues:test_local_variables_stay()
  local s <close> = self:prompt()
  s:enter("local x = 1")
  s:enter("local function up() x = x + 1 return x end")
  s:enter("up(), up(), x")
  s:wait("\n2\t?%s*3%s+3\n> ")
  s:enter("local x = 'new'")
  s:enter("x, up()")
  s:wait('\n"new"%s+4\n> ')
  s:enter(".locals")
  s:wait('\nup = function <stdin:1>\nx = "new"\n> ')
  s:enter(".forget x")
  s:enter("x, up()")
  s:wait("\nnil%s+5\n> ")
  s:enter("local c <close> = setmetatable({}, { __close = function() print 'closed at the end' end })")
  s:enter("c ~= nil")
  s:wait("\ntrue\n> $")
  s:press("C-d")
  s:wait("> *\nclosed at the end%f[\0\n]")
end

function TestReplValues:test_errors_end_at_the_prompt()
  local s <close> = self:prompt()
  s:enter("error 'oops'")
  s:wait("\nstdin:1: oops\nstack traceback:\n%s+%[C%]: in function 'error'\n%s+stdin:1: in main chunk\n> $")
  s:enter("function f() error('deep') end")
  s:enter("f()")
  s:wait("stdin:1: deep\nstack traceback:\n%s+%[C%]: in function 'error'\n%s+stdin:1: in function 'f'\n%s+stdin:1: in main chunk\n> $")
  s:press("C-l")
  s:enter("error { code = 7 }")
  s:wait("table value%) { code = 7 }\n")
  s:enter("x x")
  s:wait("\nstdin:1: syntax error near 'x'\n> $")
  s:enter("function r() return 1 + r() end r()")
  s:wait("\nstdin:1: stack overflow.*%.%.%..*stdin:1: in main chunk\n> $")
  s:enter("setmetatable({}, { __tostring = function() error 'inside' end })")
  s:wait("<error in __tostring: stdin:1: inside>\n> $")
  s:enter("pool.map(function(i) if i == 3 then error 'three' end end, 5)")
  s:wait("stdin:1: three\n  in item 3 %(3%), worker %d, pid %d+\n")
end

function TestReplValues:test_colors()
  local s <close> = self:prompt { env = { NO_COLOR = false } }
  s:enter("{ 'text' }")
  s:wait('\n{ "text" }\n')
  lu.assertStrContains(s:text(true), '\27[32m"text"')
  s:enter("error 'red'")
  s:wait("traceback")
  lu.assertStrContains(s:text(true), "\27[31mstdin:1: red")
  local plain <close> = self:prompt()
  plain:enter("{ 'text' }")
  plain:wait('\n{ "text" }\n')
  lu.assertNotStrContains(plain:text(true), "\27[3")
end

function TestReplValues:test_prompts_of_ones_own()
  local s <close> = self:prompt { arguments = [[-i -e "_PROMPT, _PROMPT2 = '\27[1mask\27[0m\n> ', 'more '"]] }
  s:wait("ask\n> $")
  s:enter("do")
  s:wait("more$")
  s:enter("end")
  s:wait("end\nask\n> $")
end

-- ---- keys ----

TestReplKeys = class()

for _, editor in ipairs { "readline", "libedit", "plain" } do
  TestReplKeys["test_ctrl_c_" .. editor] = function(self)
    local s <close> = self:prompt { env = environment(editor) }
    s:type("x = 'half")
    s:wait("half$")
    s:press("C-c")
    s:wait("half%^C\n> $")
    s:enter("function f(")
    s:wait("\n>> $")
    s:type("abc")
    s:wait("abc$")
    s:press("C-c")
    s:wait("abc%^C\n> $")
    s:press("C-c")
    s:wait("leaves%)\n> $")
    s:enter("x, f")
    s:wait("\nnil%s+nil\n> $")
    s:enter("print 'begin' while true do end")
    s:wait("\nbegin$")
    s:press("C-c")
    s:wait("interrupted!\n> $")
    s:enter("print 'reading' io.read()")
    s:wait("\nreading$")
    s:press("C-c")
    s:wait("reading\n%^C\n?interrupted!\n> $")
    s:enter("'still', 'here'")
    s:wait('\n"still"%s+"here"\n> $')
    s:press("C-d")
    lu.assertEquals(s:ended(), "0")
  end

  TestReplKeys["test_ctrl_z_and_fg_" .. editor] = function(self)
    local s <close> = self:shell(environment(editor))
    s:enter("stty -a > " .. self.directory .. "/before; " .. PROGRAM)
    s:wait("\n> $")
    if editor ~= "plain" then -- (a terminal drops a line that was not sent)
      s:type("x = 'ab")
      s:wait("> x = 'ab$")
    end
    s:press("C-z")
    s:wait("Stopped.*\n%$ $")
    s:enter("stty -a | cmp - " .. self.directory .. "/before && echo same")
    s:wait("\nsame\n%$ $")
    s:enter("fg")
    if editor ~= "plain" then
      s:wait("\n> x = 'ab$")
      s:enter("cd'")
      s:wait("\n> x = 'abcd'\n> $")
    else
      s:wait("fg\n[^\n]*luapool$")
      s:enter("x = 'abcd'")
    end
    local go = self.directory .. "/go" -- it has not ended when the key is pressed, however late that is
    s:enter(("print('running') os.execute 'until [ -e %s ]; do sleep 0.1; done' print(x)"):format(go))
    s:wait("\nrunning$")
    s:press("C-z")
    s:wait("Stopped.*Stopped.*\n%$ $")
    s:enter("fg")
    disk.write(go, "")
    s:wait("\nabcd\n> $")
    s:press("C-d")
    s:wait("\n%$ $")
    s:enter("stty -a | cmp - " .. self.directory .. "/before && echo same again")
    s:wait("\nsame again\n%$ $")
  end

  TestReplKeys["test_ctrl_d_" .. editor] = function(self)
    local s <close> = self:prompt { env = environment(editor) }
    s:enter("if x then")
    s:wait("\n>> $")
    s:press("C-d")
    s:wait("stdin:1: 'end' expected near <eof>\n> $")
    s:enter("1 + 2")
    s:wait("> 1 %+ 2\n3\n> $")
    s:press("C-d")
    lu.assertEquals(s:ended(), "0")
  end
end

local function skip_without(editor)
  for _, name in ipairs(editors()) do
    if name == editor then return end
  end
  lu.skip("no " .. editor .. " here")
end

for name, test in pairs(TestReplKeys) do
  if type(test) == "function" then
    TestReplKeys[name] = function(self)
      skip_without(name:match("_(%a+)$"))
      test(self)
    end
  end
end

function TestReplKeys:test_wide_characters()
  for _, editor in ipairs(editors()) do
    if editor ~= "plain" then
      local s <close> = self:prompt { env = environment(editor) }
      s:type("x = 'h\u{e9}llo\u{65e5}\u{672c}\u{8a9e}'")
      s:wait("\u{8a9e}'$")
      s:press("Left", "Left", "BSpace", "BSpace")
      s:wait("h\u{e9}llo\u{8a9e}'")
      s:type("\u{20ac}")
      s:press("Enter")
      s:enter("x, #x")
      s:wait('\n"h\u{e9}llo\u{20ac}\u{8a9e}"%s+12\n> $')
    end
  end
end

function TestReplKeys:test_the_window_is_resized()
  skip_without("readline")
  local s <close> = self:prompt { width = 60, height = 12 }
  s:type("print('a line that is longer than forty columns', 12345)")
  s:wait("12345%)$")
  s:resize(40, 12)
  s:wait("\n> print%('a line that is longer than fort\ny columns', 12345%)$")
  s:type(" -- more")
  s:wait("fort\ny columns', 12345%) %-%- more$")
  s:resize(90, 12)
  s:press("C-a", "C-f")
  s:wait("\n> print%('a line that is longer than forty columns', 12345%) %-%- more\n*$")
  s:press("Enter")
  s:wait("\na line that is longer than forty columns%s+12345\n> $")
end

function TestReplKeys:test_signals_that_end_it()
  for _, editor in ipairs(editors()) do
    for signal, status in pairs { TERM = 143, HUP = 129 } do
      local s <close> = self:shell(environment(editor))
      s:enter(("stty -a > %s/before; %s -i -e 'print(\"pid\", io.open\"/proc/self/stat\":read\"n\")'"):format(self.directory, PROGRAM))
      local pid = math.tointeger(tonumber(s:wait("\npid%s+%d+\n.*\n> $"):match("\npid%s+(%d+)")))
      if editor ~= "plain" then -- (what was not sent is the shell's then)
        s:type("half")
        s:wait("> half$")
      end
      proc.kill(pid, signal)
      s:wait("interrupted!.*\n%$ $")
      s:enter("echo status $?; stty -a | cmp - " .. self.directory .. "/before && echo same")
      s:wait(("\nstatus %d\nsame\n"):format(status))
    end
  end
end

-- Signals that nobody can catch for a script, while the terminal is the editor's: it gets it back. (sh restores nothing by itself.)
function TestReplKeys:test_deaths_leave_the_terminal_as_it_was()
  for _, editor in ipairs(editors()) do
    for signal, status in pairs { SEGV = 139, ABRT = 134, QUIT = 131 } do
      local before = self.directory .. "/before"
      local env = environment(editor)
      env.XDG_STATE_HOME = self.directory
      if os.getenv "ASAN_OPTIONS" then env.ASAN_OPTIONS = NO_LEAKS .. ":handle_segv=0:handle_abort=0" end -- it shall die of them
      local s <close> = screen.start { env = env, command = ("ulimit -c 0; stty -a > %s; %s -i -e %s; s=$?; echo; echo status $s;"
        .. " stty -a | cmp - %s && echo same"):format(before, PROGRAM, [["print('pid', io.open'/proc/self/stat':read'n')"]], before) }
      local pid = math.tointeger(tonumber(s:wait("\npid%s+%d+\n.*\n> $"):match("\npid%s+(%d+)")))
      s:type("half")
      s:wait("> half$")
      proc.kill(pid, signal)
      s:wait(("\nstatus %d\nsame\n"):format(status))
    end
  end
end

-- ---- pools ----

TestReplPools = class()

function TestReplPools:test_what_was_typed_is_there_for_the_workers()
  local s <close> = self:prompt { arguments = "-j 2 -i" }
  s:enter("local base = 100")
  s:enter("factor = 2")
  s:enter("function scale(x) return base + factor * x end")
  s:enter("pool.map(scale, 3)")
  s:wait("\n{ 102, 104, 106 }%s+3\n> $")
  s:enter("p = pool.new(2)")
  s:enter("p:map(scale, 2)")
  s:wait("\n{ 102, 104 }%s+2\n> $")
  s:enter("base, factor = 0, 3")
  s:enter("p:map(scale, 2)")
  s:wait("\n{ 3, 6 }%s+2\n> $")
end

function TestReplPools:test_progress_and_ctrl_c_in_a_map()
  local s <close> = self:prompt()
  s:enter("p = pool.new(2)")
  s:enter("p:map(function(i) while i > 2 do end return i end, 8)")
  s:wait("25%%.*2/8.*2/2 workers")
  s:press("C-c")
  local text = s:wait("interrupted!\n> $")
  lu.assertNotStrContains(text, "workers")
  s:enter("p:map(function(i) return i * i end, 4)")
  s:wait("\n{ 1, 4, 9, 16 }%s+4\n> $")
  s:enter("pool.each(function() while true do end end, 2)")
  s:wait("0%%.*0/2")
  s:press("C-c")
  s:wait("interrupted!\n.*interrupted!\n> $")
  s:enter("p:apply(function() return 'fine' end)")
  s:wait('\n"fine"\n> $')
  s:press("C-d")
  lu.assertEquals(s:ended(), "0")
end

-- Tasks that do not stop: the second Ctrl-C shortens their grace. No pool, and no line of progress, is left.
function TestReplPools:test_ctrl_c_twice()
  local s <close> = self:prompt { width = 100, arguments = "-j 2 -i" }
  local asked = self.directory .. "/asked" -- is there as soon as a task was asked to stop
  for i, call in ipairs { "pool.each(task, 2, { grace = 60 })", "for _ in pool.imap(task, 2, { grace = 60 }) do end" } do
    if i == 1 then
      s:enter("function task()")
      s:enter(("while true do pcall(function() while true do end end) io.open('%s', 'w'):close() end end"):format(asked))
    end
    s:enter(call)
    s:wait("0/2.*2/2 workers")
    s:press("C-c")
    ways.wait_for(function() return disk.text_of(asked) end, "nobody was asked to stop")
    proc.sleep(0.5) -- (faster it would be a key that is held down)
    s:press("C-c")
    s:wait("interrupted!\n> $")
    os.remove(asked)
    lu.assertNotStrContains(s:text(), "workers")
    s:press("C-l")
    s:wait("^> $")
  end
  s:press("C-d")
  lu.assertEquals(s:ended(), "0")
end

-- What was begun goes on while nobody types, and while somebody does: the line stays what it was.
for _, editor in ipairs { "readline", "libedit", "plain" } do
  TestReplPools["test_pools_go_on_beside_the_prompt_" .. editor] = function(self)
    skip_without(editor)
    local s <close> = self:prompt { env = environment(editor), arguments = "-j 1 -i", width = 160 }
    s:enter("p = pool.new(1) wait = function(n) local c <close> = io.popen('sleep 0.1') c:read 'a' print('task ' .. n) return n end")
    s:wait("return n end\n> $")
    s:enter("function more(f) local n = f:get() if n < 5 then p:submit(wait, n + 1):on_done(more) else print 'all done' end end")
    s:wait("end end\n> $")
    s:enter("p:submit(wait, 1):on_done(more); -- begun")
    s:wait("begun\n")
    s:type("10 + 1")
    local text = s:wait("\ntask 5\nall done\n>" .. (editor ~= "plain" and " 10 %+ 1$" or "")) -- (who edits a plain line is the terminal)
    for i = 1, 5 do lu.assertStrContains(text, ("\ntask %d\n"):format(i)) end
    s:press("Enter")
    s:wait("\n11\n> $")
    s:enter("f = p:submit(function() return 'quiet' end)")
    s:wait("quiet' end%)\n.*> $")
    s:enter("f:get()")
    s:wait('\n"quiet"\n> $')
    s:press("C-d")
    lu.assertEquals(s:ended(), "0")
  end
end

function TestReplPools:test_an_error_in_a_callback_is_told_by_the_next_call()
  local s <close> = self:prompt { arguments = "-j 1 -i" }
  s:enter("p = pool.new(1) p:submit(function() end):on_done(function() print 'called' error 'oh no' end)")
  s:wait("\ncalled\n> $")
  s:enter("p:step()")
  s:wait("oh no.*\n> $")
end

-- A callback that does not return: Ctrl-C ends it, and the line.
function TestReplPools:test_ctrl_c_in_a_callback()
  local s <close> = self:prompt { arguments = "-j 1 -i" }
  s:enter("p = pool.new(1) p:submit(function() end):on_done(function() print 'called' while true do end end)")
  s:wait("\ncalled$")
  proc.sleep(0.3) -- (faster it would be a key that is held down)
  s:press("C-c")
  s:wait("%^C\n> $")
  s:enter("p:apply(function() return 'fine' end)")
  s:wait('\n"fine"\n> $')
end

function TestReplPools:test_waiting_costs_nothing()
  local s <close> = self:prompt { arguments = "-j 1 -i" }
  s:enter("p = pool.new(1) f = p:submit(function() local c <close> = io.popen('sleep 100') c:read 'a' end)")
  s:enter("'pid' .. io.open '/proc/self/stat':read 'n'")
  local pid = math.tointeger(tonumber(s:wait('"pid%d+"\n> $'):match('"pid(%d+)"')))
  local function spent()
    local stat = proc.stat(pid)
    return stat.utime + stat.stime
  end
  local before
  ways.wait_for(function() -- what it did before is over
    before = spent()
    proc.sleep(0.2)
    return spent() == before
  end, "it never rests")
  proc.sleep(1)
  lu.assertTrue(spent() - before <= 0.02 * proc.slowness)
  s:enter("f:cancel()")
  s:wait("\ntrue\n> $")
  s:press("C-d")
  lu.assertEquals(s:ended(), "0")
end

function TestReplPools:test_quiet_has_no_progress()
  local s <close> = self:prompt { arguments = "--quiet" }
  s:enter("pool.each(function() local t = os.clock() while os.clock() < t + 0.8 do end end, 2) print('over', _)")
  s:wait("\nover")
  lu.assertNotStrContains(s:text(), "%")
end

-- ---- completion ----

TestReplCompletion = class()

for _, editor in ipairs { "readline", "libedit" } do
  TestReplCompletion["test_tab_" .. editor] = function(self)
    skip_without(editor)
    local s <close> = self:prompt { env = environment(editor) }
    local function completes(typed, becomes)
      s:press("C-u")
      s:type(typed)
      s:press("Tab")
      s:wait_plain("\n> " .. becomes:gsub(" $", ""))
      s:press("C-u")
      s:wait("\n> $")
    end
    s:enter("local mine = { alpha = { beta = 1 } } text = 'x' long_global_name = 1 p = pool.new(1)")
    completes("long_gl", "long_global_name")
    completes("mine.al", "mine.alpha")
    completes("x = mine.alpha.b", "x = mine.alpha.beta")
    completes("text:up", "text:upper")
    completes("p:ma", "p:map")
    completes("pool.cp", "pool.cpus")
    completes("pool.new{ on_cr", "pool.new{ on_crash = ")
    completes("p:map(f, 3, { dead", "p:map(f, 3, { deadline = ")
    assert(os.execute(("touch '%s/some-file.lua'"):format(self.directory)))
    completes(("f('%s/some-"):format(self.directory), ("f('%s/some-file.lua"):format(self.directory))
    s:type("string.re")
    s:press("Tab", "Tab")
    s:wait("\nrep%s+reverse")
  end
end

-- ---- history ----

TestReplHistory = class()

function TestReplHistory:file() return self.directory .. "/luapool/history" end

function TestReplHistory:test_it_is_kept_between_sessions()
  do
    local s <close> = self:prompt()
    s:enter("first = 1")
    s:enter("first = 1")
    s:enter("function two(")
    s:wait("\n>> $")
    s:enter(") return '\\\\' end")
    s:wait("end\n> $")
    s:enter("")
    s:type("never finished")
    s:wait("finished$")
    s:press("C-c")
    s:wait("%^C\n> $")
    s:press("C-d")
    s:ended()
  end
  lu.assertEquals(disk.read(self:file()), "first = 1\nfunction two(\\n) return '\\\\\\\\' end\n")
  skip_without("readline")
  local s <close> = self:prompt()
  s:press("Up")
  s:wait("\n> function two%(\n%) return '\\\\' end$")
  s:press("Up")
  s:wait("\n> first = 1\n*$")
  s:press("C-r")
  s:type("two")
  s:wait("i%-search.*two")
  local mode <close> = assert(io.popen("stat -c %a " .. self:file()))
  lu.assertEquals(mode:read(), "600")
end

function TestReplHistory:test_two_sessions_share_it()
  local a <close> = self:prompt()
  local b <close> = self:prompt()
  for i = 1, 5 do
    a:enter(("a%d = %d"):format(i, i))
    b:enter(("b%d = %d"):format(i, i))
  end
  a:wait("a5 = 5\n> $")
  b:wait("b5 = 5\n> $")
  local lines = {}
  for line in disk.read(self:file()):gmatch("[^\n]+") do lines[#lines + 1] = line end
  table.sort(lines)
  lu.assertEquals(lines, { "a1 = 1", "a2 = 2", "a3 = 3", "a4 = 4", "a5 = 5", "b1 = 1", "b2 = 2", "b3 = 3", "b4 = 4", "b5 = 5" })
end

-- More than the limit are cut down when a session begins; a line that a crash has cut off does not swallow the next one.
function TestReplHistory:test_it_is_bounded()
  assert(os.execute(("mkdir -p '%s/luapool'"):format(self.directory)))
  local file = assert(io.open(self:file(), "w"))
  for i = 1, 5000 do file:write("x = ", i, "\n") end
  file:write("cut o")
  file:close()
  local s <close> = self:prompt()
  local text = disk.read(self:file())
  lu.assertEquals(text:sub(1, 9), "x = 3002\n")
  s:enter("y = 1")
  s:wait("y = 1\n> $")
  lu.assertStrContains(disk.read(self:file()), "x = 5000\ncut o\ny = 1\n")
end

function TestReplHistory:test_it_cannot_be_kept()
  local s <close> = self:prompt { env = { XDG_STATE_HOME = "/dev/null" } }
  s:enter("1")
  s:enter("2")
  local text = s:wait("\n2\n> $")
  lu.assertEquals(select(2, text:gsub("history is not kept: /dev/null/luapool/history: ", "")), 1)
end

-- A lock that is never given back costs a second, once.
function TestReplHistory:test_somebody_holds_the_lock()
  if not os.execute("command -v flock > /dev/null 2>&1") then lu.skip("no flock here") end
  assert(os.execute(("mkdir -p '%s/luapool'"):format(self.directory)))
  local holder <close> = proc.spawn { args = { "flock", self:file(), "sh", "-c", "echo held; exec sleep 600" }, deadline = 900 }
  lu.assertNotNil(holder:read_until("held", 30))
  local s <close> = self:prompt()
  s:enter("1")
  s:wait("history is not kept: .*/luapool/history: ")
  for i = 1, 5 do s:enter("x = " .. i) end
  s:enter("x")
  s:wait("\n5\n> $")
end

-- ---- commands and help ----

TestReplCommands = class()

function TestReplCommands:test_commands()
  local s <close> = self:prompt { height = 50 }
  s:enter(".help")
  s:wait("%.time EXPR.*%.workers %[N%].*%.load FILE")
  s:enter(".time 6 * 7")
  s:wait("\n42\n[%d.]+ %a+, of which this process computed for [%d.]+ %a+\n> $")
  s:enter(".workers 3")
  s:wait("\n3 workers\n> $")
  s:enter("pool.new().options.workers")
  s:wait("\n3\n> $")
  s:enter(".workers many")
  s:wait('integer from 1 to 4096, or auto, expected, got "many"\n')
  local name = self.directory .. "/a script.lua"
  local file = assert(io.open(name, "w"))
  file:write("#!/usr/bin/luapool\nlocal loaded = 'from the file'\nfunction fail()\n  error 'there'\nend\n")
  file:close()
  s:enter(".load " .. name)
  s:enter("loaded")
  s:wait('\n"from the file"\n> $')
  s:enter("fail()")
  s:wait("a script.lua:4: there\n")
  s:enter(".load /no/such/file")
  s:wait("/no/such/file: No such file or directory\n> $")
  s:enter(".unknown")
  s:wait("unknown command '.unknown' %(known: .help .time .*%)")
  s:enter(".5 + 1")
  s:wait("\n1.5\n> $")
  s:enter(".exit")
  lu.assertEquals(s:ended(), "0")
end

function TestReplCommands:test_help_at_the_prompt()
  local s <close> = self:prompt { width = 100, height = 50 }
  s:enter("help(pool.map)")
  s:wait("\npool.map%(fn, src %[, options%]%)\n  fn applied to every item.*options: buffer chunk.*workers\n> $")
  s:enter("help(pool.counter(1))")
  s:wait("\ncounters, made by pool.counter:\n  c:add%(%[n%]%)\n")
end
