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

-- ---- the option ----

TestModes = {}

-- Items finish in another order than they begin, and print while others do.
local MIXED = [[
local function wait(s) local t = os.clock() while os.clock() - t < s do end end
local function mixed(x)
  print("begin " .. x)
  io.stderr:write("complaint ", x, "\n")
  wait((x * 7 % 5) * 0.002)
  os.execute("echo program " .. x)
  io.write("half ", x)
end
]]

function TestModes.test_tag()
  local out, err = script(MIXED .. [[
    local p <close> = pool.new { workers = 3, output = "tag" }
    p:map(mixed, 30, { chunk = 1 })]])
  local counts, workers = {}, {}
  for worker, what, x in out:gmatch("%f[^\0\n]%[(%d)%] (%l+) (%d+)\n") do
    workers[worker] = (workers[worker] or 0) + 1
    counts[what .. x] = (counts[what .. x] or 0) + 1
  end
  for x = 1, 30 do lu.assertEquals({ counts["begin" .. x], counts["program" .. x], counts["half" .. x] }, { 1, 1, 1 }, out) end
  lu.assertEquals(select(2, out:gsub("\n", "")), 90)
  for worker in pairs(workers) do lu.assertTrue(tonumber(worker) <= 3) end
  lu.assertEquals(select(2, err:gsub("%f[^\0\n]%[%d%] complaint %d+\n", "")), 30)
end

-- The same bytes as if one task had run after the other.
function TestModes.test_order()
  local expected, complaints = {}, {}
  for x = 1, 40 do
    expected[x] = ("begin %d\nprogram %d\nhalf %d"):format(x, x, x)
    complaints[x] = ("complaint %d\n"):format(x)
  end
  for _, chunk in ipairs { "1", "7", "'auto'" } do
    local out, err = script(MIXED .. [[
      local p <close> = pool.new { workers = 4, output = "order" }
      p:map(mixed, 40, { chunk = ]] .. chunk .. [[ })
      print "end"]])
    lu.assertEquals(out, table.concat(expected) .. "end\n")
    lu.assertEquals(err, table.concat(complaints))
  end
end

-- On a place where both streams go, each item's text stands together.
function TestModes.test_order_keeps_items_together()
  local p <close> = proc.spawn { args = { LUAPOOL, "-e", MIXED .. [[
    pool.map(mixed, 20, { workers = 4, output = "order", chunk = 2 })]] }, stderr = "stdout" }
  local status, out = p:finish(60)
  lu.assertEquals(status.exit, 0)
  local at = 1
  for x = 1, 20 do
    local words = {}
    for _ = 1, 4 do
      local line, after = out:match("^(%l+ %d+)\n?()", at)
      words[#words + 1] = line
      at = after or at
    end
    table.sort(words)
    lu.assertEquals(words, { "begin " .. x, "complaint " .. x, "half " .. x, "program " .. x })
  end
end

-- The first item that is not done prints freely, the others when it is their turn.
function TestModes.test_order_is_prompt()
  local s <close> = post.start { code = [[
    local function await(what) repeat local f = io.open(os.getenv "SCRATCH" .. what) until f end
    local p <close> = pool.new { workers = 3, output = "order" }
    p:map(function(x)
      print("begin " .. x)
      if x < 3 then await(x) end
      print("end " .. x)
    end, 3, { chunk = 1 })]] }
  local function release(x) assert(io.open(s.directory .. ".scratch" .. x, "w")):close() end
  lu.assertNotNil(s.child:read_until("^begin 1\n", 15))
  release(2)
  lu.assertNil(s.child:wait(0.2))
  lu.assertEquals(s.child.stdout, "begin 1\n")
  release(1)
  s:finish { exit = 0, stdout = "begin 1\nend 1\nbegin 2\nend 2\nbegin 3\nend 3\n" }
  os.execute(("rm -f '%s.scratch1' '%s.scratch2'"):format(s.directory, s.directory))
end

-- What an item printed whose worker died, or that failed and was tried again, is not lost; every item's stands at its place.
function TestModes.test_order_with_failures()
  local out = script [[
    local p <close> = pool.new { workers = 3, output = "order" }
    local _, _, errors = p:map(function(x)
      io.write("item ", x, " ") io.flush()
      if x % 5 == 0 then os.execute("kill -9 $PPID") end
      if x % 5 == 1 then error "no" end
    end, 20, { errors = "collect", chunk = 2, retries = 1 })
    print()
    assert(errors[5].signal == "SIGKILL" and errors[6].message:find "no")]]
  local expected = {}
  for x = 1, 20 do expected[x] = ("item %d "):format(x):rep(x % 5 < 2 and 2 or 1) end
  lu.assertEquals(out, table.concat(expected) .. "\n")
end

function TestModes.test_discard()
  local out, err = script(MIXED .. [[
    local p <close> = pool.new { workers = 2, output = "discard" }
    print(#p:map(function(x) mixed(x) return x end, 20))
    pool.map(mixed, 4, { output = "discard", workers = 2 })]])
  lu.assertEquals({ out, err }, { "20\n", "" })
end

function TestModes.test_function()
  local out, err = script(MIXED .. [[
    local seen = {}
    local function note(text, info)
      assert(math.type(info.worker) == "integer" and info.worker >= 1 and info.worker <= 3)
      assert(info.stream == "stdout" or info.stream == "stderr")
      local key = info.stream .. ":" .. tostring(info.item) .. ":" .. text
      seen[key] = (seen[key] or 0) + 1
    end
    local p = pool.new { workers = 3, output = note, on_start = function() print "hello" end, on_exit = function() print "bye" end }
    for _, chunk in ipairs { 1, 3 } do
      p:map(mixed, 30, { chunk = chunk })
      for x = 1, 30 do
        for _, line in ipairs { "stdout:%d:begin %d", "stdout:%d:program %d", "stdout:%d:half %d", "stderr:%d:complaint %d" } do
          line = line:format(x, x)
          assert(seen[line] == 1, line)
          seen[line] = nil
        end
      end
    end
    assert(seen["stdout:nil:hello"] == 3)
    p:close()
    assert(seen["stdout:nil:bye"] == 3)
    seen["stdout:nil:hello"], seen["stdout:nil:bye"] = nil
    assert(next(seen) == nil, next(seen))
    print "fine"]])
  lu.assertEquals({ out, err }, { "fine\n", "" })
end

-- Silent items between, so that no mark is written for most.
function TestModes.test_function_with_few_words()
  script([[
    local seen = {}
    local p <close> = pool.new { workers = 3, output = function(text, info) assert(seen[text] == nil) seen[text] = info.item end }
    for round = 1, 5 do
      p:map(function(x) if x % 37 == 0 then print(round .. ":" .. x) end end, 2000)
      for x = 37, 2000, 37 do assert(seen[round .. ":" .. x] == x, x) end
    end]])
end

function TestModes.test_an_error_of_the_function_is_the_calls()
  local out = script [[
    local p <close> = pool.new { workers = 2, output = function(text) if text == "bad" then error({ "mine" }) end print(text) end }
    local ok, e = pcall(p.map, p, function(x) if x == 50 then print "bad" end return x end, 100, { chunk = 1 })
    print(ok, e[1])
    print(#p:map(function(x) return x end, 10))
    p:map(function(x) print "good" end, 1)]]
  lu.assertEquals(out, "false\tmine\n10\ngood\n")
end

function TestModes.test_the_function_may_be_any_callable()
  local out = script [[
    local lines = setmetatable({}, { __call = function(self, text) self[#self + 1] = text end })
    pool.map(print, 3, { workers = 2, output = lines })
    table.sort(lines)
    print(table.concat(lines, " "))]]
  lu.assertEquals(out, "1 2 3\n")
end

-- ---- several calls at once, and pools in tasks ----

TestCalls = {}

-- What item i printed is out before the loop sees its result (but where it has to wait for other items).
function TestCalls.test_streams()
  for _, verb in ipairs { "imap", "imap_unordered" } do
    for _, wish in ipairs { "'line'", verb == "imap" and "'order'" or "'tag'", "function(text) print(text) end" } do
      local out = script(([[
        local p <close> = pool.new { workers = 2, output = %s }
        for i in p:%s(function(x) print("task " .. x) return x end, 300) do print("host " .. i) end]]):format(wish, verb))
      local at, tasks, lines = {}, 0, 0
      for line in out:gsub("%[%d%] ", ""):gmatch("([^\n]*)\n") do
        lines = lines + 1
        at[line] = lines
        if line:find "^task" then tasks = tasks + 1 end
      end
      lu.assertEquals({ lines, tasks }, { 600, 300 })
      for i = 1, 300 do lu.assertTrue(at["task " .. i] < at["host " .. i]) end
    end
  end
end

function TestCalls.test_futures()
  local out = script [[
    local p <close> = pool.new(3)
    local futures = {}
    for i = 1, 200 do futures[i] = p:submit(function(x) io.write("<", x, ">") end, i) end
    for i = 1, 200 do
      futures[i]:get()
      io.write("(", i, ")") io.flush()
    end]]
  for i = 1, 200 do
    local task, host = out:find("<" .. i .. ">", 1, true), out:find("(" .. i .. ")", 1, true)
    lu.assertTrue(task < host, i)
  end
  lu.assertEquals(#out:gsub("%d", ""), 200 * 4)
end

-- Each call's items in their order, whatever the other call does.
function TestCalls.test_order_of_two_calls()
  local out = script(MIXED .. [[
    local p <close> = pool.new { workers = 4, output = "order" }
    local function task(name) return function(x) print(name, x) wait((x * 7 % 5) * 0.001) print(name, x) end end
    local a, b = p:map_async(task "a", 50, { chunk = 3 }), p:map_async(task "b", 50, { chunk = 1 })
    a:get()
    print "host"
    b:get()]])
  local seen, is_over = { a = {}, b = {} }, false
  for line in out:gmatch("([^\n]*)\n") do
    local name, x = line:match("^(%a)\t(%d+)$")
    if name then table.insert(seen[name], tonumber(x)) else is_over = #seen.a == 100 end
  end
  lu.assertTrue(is_over, "the host went on before everything was out")
  local expected = {}
  for x = 1, 50 do expected[2 * x - 1], expected[2 * x] = x, x end
  lu.assertEquals(seen, { a = expected, b = expected })
end

function TestCalls.test_real_pools_in_tasks()
  local out = script [[
    pool.map(function(x)
      local p <close> = pool.new { workers = 2, nested = true, output = "tag" }
      p:map(function(y) print("inner", x, y) end, 3)
      print("outer", x)
    end, 2, { workers = 2, output = "order" })]]
  out = out:gsub("%f[^\0\n]%[[12]%] inner", "inner")
  lu.assertEquals(select(2, out:gsub("inner\t1\t%d\n", "")), 3)
  lu.assertStrMatches(out, "inner\t1.*inner\t1.*inner\t1.*outer\t1\ninner\t2.*inner\t2.*inner\t2.*outer\t2\n")
end

-- A line of progress is erased before text goes to its terminal, and what stands elsewhere is not.
function TestCalls.test_beside_progress()
  local code = [[
    local sleep = require "proc".sleep
    local p <close> = pool.new(2)
    p:map(function(x) sleep(0.1) print("line " .. x) end, 12, { progress = true, chunk = 1 })
    for _ in p:imap(function(x) sleep(0.1) io.stderr:write("line ", x, "\n") end, 8, { progress = true, chunk = 1 }) do end]]
  local s <close> = post.start { pty = true, code = code, env = { TERM = "xterm" } }
  local status = s.child:finish(30)
  lu.assertEquals(status.exit, 0)
  local text = s.child.stdout:gsub("\r\n", "\n")
  lu.assertStrContains(text, "workers")
  local lines = 0
  for at in text:gmatch("()line %d+\n") do
    lines = lines + 1
    local before = text:sub(math.max(at - 4, 1), at - 1)
    if not before:find "\n$" and before ~= "" and before ~= "\r\27[K" then lu.fail(("%q stands before a line"):format(before)) end
  end
  lu.assertEquals(lines, 20)
  local t <close> = post.start { pty = true, stdout = s.directory .. ".scratch", code = code, env = { TERM = "xterm" } }
  lu.assertEquals(t.child:finish(30).exit, 0)
  local f <close> = assert(io.open(s.directory .. ".scratch"))
  lu.assertEquals(select(2, f:read("a"):gsub("line %d+\n", "")), 12)
  f:seek("set")
  lu.assertNil(f:read("a"):find "\27")
end

-- The function may use the pool whose lines it is told.
function TestCalls.test_the_function_may_use_the_pool()
  local out = script [[
    local p
    local told = {}
    p = pool.new { workers = 2, output = function(text)
      told[#told + 1] = text
      if text == "1" then told[#told + 1] = "sum " .. p:apply(function(a, b) print "again" return a + b end, 1, 2) end
      if text == "2" then assert(not pcall(p.close, p)) end
    end }
    p:map(function(x) print(x) end, 3, { chunk = 3 })
    p:close()
    assert(told[1] == "1" and told[2] == "sum 3")
    table.sort(told)
    print(table.concat(told, " "))]]
  lu.assertEquals(out, "1 2 3 again sum 3\n")
end

-- ... and end it.
function TestCalls.test_the_function_may_end_the_pool()
  local out = script [[
    local p
    p = pool.new { workers = 2, output = function(text) if text == "1" then p:terminate() end end }
    print(pcall(p.map, p, function(x) print(x) end, 3))
    print(pcall(p.map, p, math.abs, 3))]]
  lu.assertStrMatches(out, "false\t[^\n]*terminated[^\n]*\nfalse\t[^\n]*closed\n")
end

-- ---- without workers ----

TestInline = {}

local INLINE = [[
local function task(x)
  print("line", x)
  io.write("half ", 1.5, " ", x)
  io.stdout:write(" more")
  io.stderr:write("complaint ", x, "\n")
  return x
end
]]

local function inline(wish)
  return script(INLINE .. [[
    local true_print, true_write = print, io.write
    local p = pool.new { workers = 0, output = ]] .. wish .. [[,
      on_start = function() print "start" end, on_exit = function() print "exit" end }
    assert(#p:map(task, 2) == 2)
    assert(p:apply(task, 3) == 3)
    assert(not pcall(p.map, p, function() print "last" error "x" end, 1))
    p:close()
    assert(print == true_print and io.write == true_write)
    print "own"]])
end

function TestInline.test_line_and_order()
  for _, wish in ipairs { "'line'", "'order'", "nil" } do
    local out, err = inline(wish)
    lu.assertEquals(out, "start\nline\t1\nhalf 1.5 1 moreline\t2\nhalf 1.5 2 moreline\t3\nhalf 1.5 3 morelast\nexit\nown\n")
    lu.assertEquals(err, "complaint 1\ncomplaint 2\ncomplaint 3\n")
  end
end

function TestInline.test_tag()
  local out, err = inline "'tag'"
  local lines = "start\nline\t1\nhalf 1.5 1 more\nline\t2\nhalf 1.5 2 more\nline\t3\nhalf 1.5 3 more\nlast\nexit\n"
  lu.assertEquals(out, lines:gsub("[^\n]+", "[0] %0") .. "own\n")
  lu.assertEquals(err, "[0] complaint 1\n[0] complaint 2\n[0] complaint 3\n")
end

function TestInline.test_discard()
  local out, err = inline "'discard'"
  lu.assertEquals({ out, err }, { "own\n", "" })
end

function TestInline.test_function()
  local out, err = inline [[function(text, info)
    assert(info.worker == 0)
    print(text, info.item, info.stream)
  end]]
  lu.assertEquals(err, "")
  lu.assertEquals(out, [[
start	nil	stdout
line	1	1	stdout
complaint 1	1	stderr
half 1.5 1 more	1	stdout
line	2	2	stdout
complaint 2	2	stderr
half 1.5 2 more	2	stdout
line	3	1	stdout
complaint 3	1	stderr
half 1.5 3 more	1	stdout
last	1	stdout
exit	nil	stdout
own
]])
end

function TestInline.test_an_error_of_the_function_is_the_calls()
  local out = script [[
    local true_print = print
    local p <close> = pool.new { workers = 0, output = function(text) if text == "bad" then error({ "mine" }) end end }
    local ok, e = pcall(p.map, p, function(x) if x == 2 then print "bad" end end, 3, { errors = "collect" })
    print(ok, e[1], print == true_print)]]
  lu.assertEquals(out, "false\tmine\ttrue\n")
end

-- Pools within tasks: each has its own wish, the outer one's is for the rest.
function TestInline.test_nested()
  local out = script [[
    local function inner(wish)
      local p <close> = pool.new { workers = 0, output = wish }
      p:map(function(x) print(wish, x) end, 2)
    end
    for _, workers in ipairs { 0, 1 } do
      local function note(text) print("seen", text) end
      pool.map(function() inner "tag" inner "line" inner "discard" end, 1, { workers = workers, output = note })
    end]]
  local seen = "seen\t[ID] tag\t1\nseen\t[ID] tag\t2\nseen\tline\t1\nseen\tline\t2\n"
  lu.assertEquals(out, seen:gsub("ID", "0") .. seen:gsub("ID", "1"))
end

-- ---- the reader of the host's output ----

TestReaders = {}

-- Tasks print far more than pipes hold while the host does something else: they wait, nothing is lost.
function TestReaders.test_a_host_that_does_not_read()
  local out = script([[
    local line = ("x"):rep(1023) .. "\n"
    local function source()
      local k = 0
      return function()
        k = k + 1
        if k == 5 then spin(0.3) end -- the host is in its source, and reads nothing meanwhile
        if k <= 10 then return k end
      end
    end
    local p <close> = pool.new(2)
    p:map(function() for _ = 1, 1024 do io.write(line) end end, source(), { chunk = 1 })
    io.stderr:write("#over\n")]], { within = 60 })
  lu.assertEquals(#out, 10 * 1024 * 1024)
  lu.assertEquals(out, (("x"):rep(1023) .. "\n"):rep(10 * 1024))
end

-- Nobody reads what the host prints for a while, and all wait for each other.
function TestReaders.test_a_reader_that_is_slow()
  local p <close> = proc.spawn { args = { "bash", "-c", ([['%s' -e '%s' | (sleep 0.5; md5sum)]]):format(LUAPOOL,
    [[pool.map(function(x) for k = 1, 1000 do print((x .. ":" .. k .. " "):rep(20)) end end, 8, { workers = 4, output = "order" })]]) } }
  local q <close> = proc.spawn { args = { "bash", "-c", ([['%s' -e '%s' | md5sum]]):format(LUAPOOL,
    [[for x = 1, 8 do for k = 1, 1000 do print((x .. ":" .. k .. " "):rep(20)) end end]]) } }
  local _, out = p:finish(60)
  local _, expected = q:finish(60)
  lu.assertEquals(out, expected)
end

-- Ctrl-C while tasks print without end: one error, no torn line, and the pool goes on.
function TestReaders.test_interrupted_while_printing()
  local s <close> = post.start { code = [[
    local p <close> = pool.new(4)
    local line = ("y"):rep(99)
    local function talk(x)
      if x == 4 then say "ready" end
      while true do print(line) spin(0.0005) end
    end
    local ok, e = pcall(p.map, p, talk, 4, { chunk = 1 })
    p:map(function(x) print("after " .. x) end, 3)
    print(ok, is_interrupt(e))]] }
  s:await "ready"
  s:send("group", "INT")
  s:finish { exit = 0, stdout = function(out)
    local rest = out:gsub(("y"):rep(99) .. "\n", "")
    lu.assertTrue(#rest < #out)
    -- A task may have been stopped in the middle of a print: then the rest of its line is missing, not another's.
    rest = rest:gsub("^y*\n?y*\n?y*\n?y*\n?", "")
    local lines = {}
    for line in rest:gmatch("[^\n]+") do lines[#lines + 1] = line end
    table.sort(lines)
    lu.assertEquals(lines, { "after 1", "after 2", "after 3", "false\ttrue" })
  end }
end

-- Ended while they print: nobody hangs, whether or not they let themselves be interrupted.
function TestReaders.test_terminated_while_printing()
  local s <close> = post.start { stdout = "/dev/null", code = [[
    for _, stubborn in ipairs { false, true } do
      local p = pool.new { workers = 3, grace = 0.2 }
      local ok = pcall(p.map, p, function(x)
        if x == 2 then error "enough" end
        repeat local fine = pcall(function() while true do print(("z"):rep(100)) end end) until fine or not stubborn
      end, 3, { chunk = 1 })
      p:terminate()
      io.stderr:write("#ended\n")
    end]] }
  s:await("ended", 2)
  s:finish { exit = 0 }
end

-- luapool | head -1: the host dies as any program does, and takes its workers with it.
function TestReaders.test_a_reader_that_goes_away()
  local code = [[local p <close> = pool.new(2) while true do p:map(function(x) print(("z"):rep(1000)) end, 100) end]]
  local s <close> = post.start { args = { "bash", "-c", ([["%s" -e '%s' | head -1; echo "${PIPESTATUS[0]}"]]):format(LUAPOOL, code) } }
  s:finish { exit = 0, within = 20, stdout = ("z"):rep(1000) .. "\n141\n" }
end

-- With SIGPIPE ignored: what tasks print is lost, as what print prints is; the script's own writes notice.
function TestReaders.test_a_closed_output_without_a_signal()
  local code = [[local p <close> = pool.new(2) for _ = 1, 100 do p:map(function(x) print(("z"):rep(1000)) end, 100) end ]] ..
    [[ for _ = 1, 1000 do if not io.write(("z"):rep(1000), "\n") then os.exit(7, true) end end]]
  local s <close> = post.start { args = { "bash", "-c",
    ([[trap "" PIPE; "%s" -e '%s' | head -1 > /dev/null; echo "${PIPESTATUS[0]}"]]):format(LUAPOOL, code) } }
  s:finish { exit = 0, within = 30, stdout = "7\n" }
end

-- Descriptors 1 and 2 closed from the start: what is opened instead gets none of it.
function TestReaders.test_no_output_at_all()
  local s <close> = post.start { args = { "bash", "-c", ([["%s" -e '%s' >&- 2>&-; echo "$?"]]):format(LUAPOOL, [[
    local f = assert(io.open(os.getenv "SCRATCH", "w"))
    local p <close> = pool.new(2)
    p:map(function(x) print "to nobody" io.stderr:write "to nobody" end, 10)
    f:close()
    assert(io.open(os.getenv "SCRATCH"):read("a"):gsub("to nobody\n?", "") == "")]]) } }
  s:finish { exit = 0, within = 20, stdout = "0\n" }
end

-- ---- limits ----

TestRefusals = {}

function TestRefusals.test_arguments()
  local expected = "bad option 'output' to 'new' (\"line\" or \"tag\" or \"order\" or \"discard\" or function expected, got %s)"
  for given, text in pairs { ["'lines'"] = '"lines"', ["3"] = "3", ["{}"] = "table", ["true"] = "true" } do
    local ok, e = pcall(load(("local p = pool.new { output = %s }"):format(given), "=call"))
    lu.assertFalse(ok)
    lu.assertEquals(e, "call:1: " .. expected:format(text))
  end
end

-- No descriptors for the pipes: the call fails, with the reason, and the next finds the pool as it was.
function TestRefusals.test_no_descriptors()
  for _, code in ipairs { "pipe#1:EMFILE", "pipe#4:EMFILE" } do
    script([[
      local p <close> = pool.new(2)
      local ok, e = pcall(p.map, p, math.abs, 10)
      assert(not ok and e == "cannot start workers: fork: Too many open files", e)
      assert(#p:map(math.abs, 10) == 10)]], { program = post.FAULTY, env = { LUAPOOL_FAIL = code }, stderr = "^$" })
  end
end
