-- What tasks print (SPEC 4.3): whole lines, once, in order, from every kind of worker and to every kind of place.
local lu = require "luaunit"
local proc = require "proc"
local post = require "post"

local LUAPOOL = post.LUAPOOL

-- Run a script to its end; its stdout, its stderr.
local function script(code, options)
  options = options or {}
  local given = { code = code, within = options.within or 60 }
  for _, key in ipairs { "exit", "pty", "stdout", "env", "program", "before", "stdin" } do given[key] = options[key] end
  given.expected_stderr = options.stderr or (not options.pty and "^.*$" or nil)
  return post.run(given)
end

-- ---- lines do not tear ----

TestLines = {}

-- Lines of 10 to 100,000 bytes whose content tells where they come from, printed whole and in pieces, by print, write and C.
local TALK = [[
local function line(x, k)
  local length = 10 * 10 ^ ((x * 7 + k * 13) % 5) // 1
  local head = ("%d.%d:"):format(x, k)
  return head .. (string.char(97 + (x + k) % 26)):rep(math.tointeger(length) - #head)
end
local function talk(x)
  for k = 1, 5 do
    local text = line(x, k)
    if k % 3 == 0 then
      print(text)
    elseif k % 3 == 1 then
      io.write(text, "\n")
    else
      io.write(text:sub(1, 4)) io.flush() io.write(text:sub(5)) io.stdout:write("\n")
    end
  end
end
]]

local LINES = TALK .. [[
local p <close> = pool.new(8)
p:map(talk, 64, { chunk = 1 })
]]

-- Every line of LINES once, and nothing else.
local function check_lines(out)
  local line = load(TALK .. "return line")()
  local counts, rest = {}, 0
  for text in out:gmatch("([^\n]*)\n") do
    counts[text] = (counts[text] or 0) + 1
    rest = rest + #text + 1
  end
  lu.assertEquals(#out - rest, 0, "bytes behind the last newline")
  for x = 1, 64 do
    for k = 1, 5 do
      local text = line(x, k)
      if counts[text] ~= 1 then lu.fail(("line %d.%d of %d bytes was seen %s times"):format(x, k, #text, counts[text])) end
      counts[text] = nil
    end
  end
  for text in pairs(counts) do lu.fail("a line that nobody printed: " .. text:sub(1, 60)) end
end

function TestLines.test_to_a_pipe()
  check_lines(script(LINES))
end

function TestLines.test_to_a_file()
  local name = os.tmpname()
  script(LINES, { stdout = name })
  local f <close> = assert(io.open(name))
  check_lines(f:read("a"))
  os.remove(name)
end

-- A terminal turns newlines into two characters.
function TestLines.test_to_a_terminal()
  local p <close> = proc.spawn { args = { LUAPOOL, "-e", LINES }, pty = true }
  local status, out = p:finish(60)
  lu.assertEquals(status.exit, 0)
  check_lines((out:gsub("\r\n", "\n")))
end

function TestLines.test_errors_do_not_tear_either()
  local _, err = script((LINES:gsub("print%(text%)", 'io.stderr:write(text:sub(1, 3), text:sub(4), "\\n")')
    :gsub("io%.write", "io.stderr:write"):gsub("io%.stdout:write", "io.stderr:write")))
  check_lines(err)
end

-- ---- nothing twice, nothing lost, in order ----

TestOrder = {}

-- The host's own half lines, before, between and after, in a buffer that forks copy.
function TestOrder.test_half_lines_of_the_host()
  for _, options in ipairs { {}, { pty = true }, { stdout = os.tmpname() } } do
    local out = script([[
      io.write "before "
      local p <close> = pool.new(1)
      for round = 1, 2 do
        p:map(function(x) print(round, x) end, 3)
        io.write("between ", round, " ")
        pool.map(function(x) print("once", x) end, 1)
      end
      io.write "after"]], options)
    if options.stdout then
      local f <close> = assert(io.open(options.stdout))
      out = f:read("a")
      os.remove(options.stdout)
    end
    lu.assertEquals(out, "before 1\t1\n1\t2\n1\t3\nbetween 1 once\t1\n2\t1\n2\t2\n2\t3\nbetween 2 once\t1\nafter")
  end
end

-- What programs print that a task runs comes between what it prints before and after.
function TestOrder.test_programs_of_a_task()
  local out, err = script [[
    local p <close> = pool.new(1)
    p:map(function(x)
      print("before", x)
      os.execute("echo program " .. x .. "; echo complaint " .. x .. " >&2")
      local child <close> = io.popen("cat", "w")
      child:write("child ", x, "\n")
      child:close()
      print("after", x)
    end, 3)
    print "host"]]
  local expected = ""
  for x = 1, 3 do expected = expected .. ("before\t%d\nprogram %d\nchild %d\nafter\t%d\n"):format(x, x, x, x) end
  lu.assertEquals(out, expected .. "host\n")
  lu.assertEquals(err, "complaint 1\ncomplaint 2\ncomplaint 3\n")
end

-- Everything that the items of a call printed is out before the host goes on: whatever the verb, whatever the stream.
function TestOrder.test_before_the_call_returns()
  local out = script([[
    local p <close> = pool.new(4)
    for round = 1, 200 do
      p:apply(function(n) io.write("task ", n, "\n") io.stderr:write("half ", n) end, round)
      print("host " .. round)
      io.stderr:write(".\n")
    end]], { stderr = "^half 1%.\nhalf 2%.\n.*half 200%.\n$" })
  local expected = {}
  for round = 1, 200 do expected[round] = ("task %d\nhost %d\n"):format(round, round) end
  lu.assertEquals(out, table.concat(expected))
end

-- Lines come while the task goes on, not when it ends.
function TestOrder.test_promptly()
  local s <close> = post.start { code = [[
    local p <close> = pool.new(2)
    p:map(function(x)
      print("begun " .. x)
      local name = os.getenv "SCRATCH"
      repeat local f = io.open(name) until f
    end, 2)]] }
  lu.assertNotNil(s.child:read_until("begun 1\n", 15))
  lu.assertNotNil(s.child:read_until("begun 2\n", 15))
  assert(io.open(s.directory .. ".scratch", "w")):close()
  s:finish { exit = 0 }
end

-- Half a line is whole when its item is over, not when the call is.
function TestOrder.test_dots()
  local s <close> = post.start { code = [[
    local p <close> = pool.new(2)
    p:map(function(x)
      if x <= 4 then io.write(".") return end
      local name = os.getenv "SCRATCH"
      repeat local f = io.open(name) until f
    end, 5, { chunk = 1 })]] }
  lu.assertNotNil(s.child:read_until("^%.%.%.%.", 15))
  assert(io.open(s.directory .. ".scratch", "w")):close()
  s:finish { exit = 0, stdout = "...." }
end

function TestOrder.test_on_start_and_on_exit()
  local out = script [[
    local p = pool.new { workers = 1, on_start = function() io.write "start " end, on_exit = function() io.write "exit " end }
    p:map(function(x) io.write(x, " ") end, 3)
    p:close()
    print "closed"]]
  lu.assertEquals(out, "start 1 2 3 exit closed\n")
end

-- ---- workers that die ----

TestDeaths = {}

-- A worker that is killed in the middle of a line: what it had flushed is there, once, and tears nobody's line.
function TestDeaths.test_killed_in_the_middle_of_a_line()
  local out = script [[
    local p <close> = pool.new(4)
    local _, _, errors = p:map(function(x)
      print("whole " .. x)
      if x % 10 == 0 then
        io.write("half ", x) io.flush()
        os.execute("kill -9 $PPID")
      end
      print("again " .. x)
    end, 40, { errors = "collect", chunk = 1 })
    for i = 10, 40, 10 do assert(errors[i].signal == "SIGKILL") end]]
  for x = 1, 40 do
    local _, whole = out:gsub(("%%f[%%d]%d\n"):format(x), "")
    lu.assertEquals(whole, x % 10 == 0 and 1 or 2, out)
    if x % 10 == 0 then lu.assertStrContains(out, "half " .. x) end
  end
  local _, lines = out:gsub("\n", "")
  lu.assertEquals(lines, 40 + 36)
end

-- os.exit in a task flushes what it had printed.
function TestDeaths.test_exit()
  local out = script [[
    local p <close> = pool.new(1)
    pcall(p.map, p, function() print "line" io.write "half" os.exit(3) end, 1)
    print()]]
  lu.assertEquals(out, "line\nhalf\n")
end

-- A program in the background that outlives the worker holds its pipes: nobody waits for it.
function TestDeaths.test_nobody_waits_for_a_program_in_the_background()
  local s <close> = post.start { code = [[
    local p = pool.new(2)
    p:map(function(x) os.execute("sleep 300 & echo $! >> $SCRATCH") print(x) end, 2, { chunk = 1 })
    p:close()
    for pid in io.lines(os.getenv "SCRATCH") do assert(os.execute("kill " .. pid)) end]] }
  s:finish { exit = 0, within = 20, stdout = function(out) lu.assertEquals(#out, 4) end }
end
