-- luapool map, filter, reduce: lines in, lines out, in order and whole; what goes wrong with single lines.
-- Shell commands: test_oneliner_commands.
local lu = require "luaunit"
local disk = require "disk"
local proc = require "proc"
local ways = require "ways"
local oneliner = require "oneliner"

local run, output, sequence = oneliner.run, oneliner.output, oneliner.sequence
local read, temporary = disk.read, disk.temporary
local LUAPOOL = oneliner.LUAPOOL

TestMap = {}

function TestMap:test_lines_in_order()
  lu.assertEquals(output("map", "_ * 2", { stdin = "1\n2\n3\n" }), "2\n4\n6\n")
  for _, workers in ipairs { "0", "1", "2", "5" } do
    lu.assertTrue(output("-j", workers, "map", "_ * 2", { stdin = sequence(30000) }) == sequence(30000, function(i) return i * 2 end))
  end
end

function TestMap:test_numbers_of_lines_go_on_over_blocks_and_files()
  lu.assertTrue(output("map", "_i", { stdin = sequence(50000, function() return "x" end) }) == sequence(50000))
  local a, b = temporary("x\ny"), temporary("z\n")
  lu.assertEquals(output("map", "_i .. _", a, "-", b, { stdin = "s\n" }), "1x\n2y\n3s\n4z\n")
  os.remove(a)
  os.remove(b)
end

function TestMap:test_every_line_costs_what_it_costs()
  -- uneven: some lines take a hundred times as long, and blocks are given back in the middle
  local out = output("-j3", "map", "local n = _i % 997 == 0 and 2e6 or 1 for _ = 1, n do end return _", { stdin = sequence(20000) })
  lu.assertTrue(out == sequence(20000))
end

function TestMap:test_results()
  local cases = {
    { "nil", "" }, { "false", "false\n" }, { "true", "true\n" }, { "1.5", "1.5\n" }, { "2^53", "9.007199254741e+15\n" },
    { "_, 1", "a\t1\n" }, { "math.mininteger", "-9223372036854775808\n" },
    { "nil, 1, nil", "\t1\t\n" }, { "nil, nil", "" }, { "{}", "{}\n" }, { "{1, 'x', {true}}", '[1,"x",[true]]\n' },
    { "{b = 1, a = {c = 0.5}}", '{"a":{"c":0.5},"b":1}\n' }, { "'\\n'", "\n\n" }, { "{'\\xff\\n\"'}", '["\u{FFFD}\\n\\""]\n' },
    { "''", "\n" },
    { "setmetatable({}, {__tostring = function() return 'T' end})", "T\n" },
    { "{1/0, -(0/0), 1e300}", "[null,null,1.0000000000000001e+300]\n" },
    { "if _ == 'a' then return 'stat' end", "stat\n" }, { "local x = _; return x, x -- note", "a\ta\n" },
    { "_ -- note", "a\n" },
  }
  for _, case in ipairs(cases) do lu.assertEquals(output("map", case[1], { stdin = "a\n" }), case[2], case[1]) end
end

function TestMap:test_a_table_that_cannot_be_written_is_that_lines_error()
  local r = run("map", "local t = {_} if _ == 'b' then t[2] = t end return 'x', t", { stdin = "a\nb\nc\n" })
  lu.assertEquals({ r.exit, r.out }, { 1, 'x\t["a"]\nx\t["c"]\n' })
  lu.assertEquals(r.err, "luapool: stdin:2: cannot write a table that contains itself as JSON\n")
end

function TestMap:test_files_with_functions()
  local file = temporary("return function(line, i) return i .. line:upper() end")
  local named = file .. ".lua"
  os.rename(file, named)
  lu.assertEquals(output("map", named, ":::", "a", "b"), "1A\n2B\n")
  lu.assertEquals(output("map", "-f", named, ":::", "a"), "1A\n")
  lu.assertEquals(output("map", "--file=" .. named, { stdin = "q\n" }), "1Q\n")
  os.remove(named)
end

function TestMap:test_arguments_and_combinations()
  lu.assertEquals(output("map", "#_", ":::", "a b", "", "x\ny"), "3\n0\n3\n")
  lu.assertEquals(output("map", "_ .. '/' .. _2 .. _1", ":::", "a", "b", ":::", "1", "2"), "a 1/1a\na 2/2a\nb 1/1b\nb 2/2b\n")
  local file = temporary("1\n2\n")
  lu.assertEquals(output("map", "_", "::::", file), "1\n2\n")
  lu.assertEquals(output("map", "_", "::::", file, ":::", "x"), "1 x\n2 x\n")
  lu.assertEquals(output("map", "_", "-a", file), "1\n2\n")
  os.remove(file)
  lu.assertEquals(output("map", "_", ":::"), "")
end

function TestMap:test_options_before_and_behind_the_word()
  lu.assertEquals(output("-j", "2", "map", "_", "--workers=3", ":::", "a"), "a\n")
  lu.assertEquals(output("-l", "string", "-e", "X = 7", "map", "X", "-j3", ":::", "a"), "7\n")
  lu.assertEquals(output("map", "-_", ":::", "3"), "-3\n")
  lu.assertEquals(output("map", "--", "-_", ":::", "3"), "-3\n")
  lu.assertStrContains(output("map", "--help"), "usage: luapool [options] map EXPR")
end

function TestMap:test_options_of_scripts_are_refused_before_the_word()
  for option, message in pairs {
    ["--log=x"] = "map: --log is for scripts (for lines: --joblog)",
    ["--resume"] = "map: --resume is for scripts (for lines: behind the word: --joblog FILE --resume)",
    ["--chunk=3"] = "map: --chunk is for scripts", ["--output=tag"] = "map: --output is for scripts",
  } do
    local p <close> = proc.spawn { args = { LUAPOOL, option, "map", "_", ":::", "a" } }
    local status, out, err = p:finish(60)
    lu.assertEquals({ status.exit, out }, { 2, "" })
    lu.assertStrContains(err, message)
  end
end

function TestMap:test_workers_are_forked_in_any_case()
  for _, start in ipairs { "fork", "server", "spawn", "auto" } do
    lu.assertEquals(output("--start", start, "-e", "X = 7", "map", "X", ":::", "a"), "7\n")
    lu.assertEquals(output("reduce", "--start", start, "a + b", ":::", "1", "2"), "3\n")
  end
end

function TestMap:test_a_script_of_that_name_is_run_by_its_path()
  local folder = temporary()
  os.execute("mkdir " .. folder)
  disk.write(folder .. "/map", "print('script', ...)")
  local program = LUAPOOL:sub(1, 1) == "/" and LUAPOOL or proc.directory() .. "/" .. LUAPOOL
  local p <close> = proc.spawn { args = { program, "./map", "x" }, cwd = folder }
  local _, out = p:finish(60)
  lu.assertEquals(out, "script\tx\n")
  os.execute("rm -r " .. folder)
end

function TestMap:test_unordered_has_the_same_lines()
  local out = output("map", "--unordered", "_", { stdin = sequence(30000) })
  local seen, n = {}, 0
  for line in out:gmatch("[^\n]+") do
    lu.assertNil(seen[line])
    seen[line] = true
    n = n + 1
  end
  lu.assertEquals(n, 30000)
end

function TestMap:test_what_tasks_print_comes_before_their_results()
  lu.assertEquals(output("-j1", "map", "print('p' .. _) return _", ":::", "1"), "p1\n1\n")
end

function TestMap:test_random_numbers_by_line()
  local function numbers(workers) return output("-j", workers, "map", "--seed", "7", "math.random(1e9)", { stdin = sequence(200) }) end
  local one = numbers("1")
  lu.assertEquals(numbers("3"), one)
  lu.assertEquals(numbers("0"), one)
end

TestFilter = {}

function TestFilter:test_lines_as_they_are()
  lu.assertTrue(output("filter", "_ % 2 == 0", { stdin = sequence(30000) }) == sequence(15000, function(i) return 2 * i end))
  local bytes = "a\0b\n\xff\xfe\r\n\n \t\n"
  lu.assertEquals(output("filter", "true", { stdin = bytes }), bytes)
  lu.assertEquals(output("filter", "nil", { stdin = bytes }), "")
  lu.assertEquals(output("filter", "_i > 2, false", { stdin = "a\nb\nc" }), "c\n")
end

TestReduce = {}

function TestReduce:test_numerals_are_numbers()
  lu.assertEquals(output("reduce", "a + b", { stdin = sequence(10000) }), "50005000\n")
  lu.assertEquals(output("reduce", "math.max(a, b)", { stdin = sequence(1000) }), "1000\n")
  lu.assertEquals(output("reduce", "a + b", { stdin = "1\n2.5\n" }), "3.5\n")
  lu.assertEquals(output("reduce", "a .. b", { stdin = "x\ny\nz\n" }), "xyz\n")
  lu.assertEquals(output("reduce", "--text", "a .. b", { stdin = "01\n02\n" }), "0102\n")
  lu.assertEquals(output("reduce", "a + b", { stdin = "5" }), "5\n")
  lu.assertEquals(output("reduce", "a + b", { stdin = "" }), "")
end

function TestReduce:test_the_same_bits_for_any_number_of_workers()
  local floats = sequence(20000, function(i) return ("%.17g"):format(1 / i) end)
  local one = output("-j1", "reduce", "a + b", { stdin = floats })
  for _, workers in ipairs { "0", "2", "4" } do lu.assertEquals(output("-j", workers, "reduce", "a + b", { stdin = floats }), one) end
end

function TestReduce:test_an_error_does_not_wait_for_more_input()
  local p <close> = proc.spawn { args = { LUAPOOL, "-j2", "reduce", "a + b" }, stdin = "pipe", deadline = 120 }
  p:write("x\ny\n")
  local status, _, err = p:finish(60) -- its input is still open
  lu.assertEquals(status.exit, 1)
  lu.assertStrContains(err, "attempt to add a 'string' with a 'string'")
end

function TestReduce:test_an_error_ends_it_and_names_the_line()
  local r = run("reduce", "a + b", { stdin = sequence(100) .. "x\n" .. sequence(100) })
  lu.assertEquals({ r.exit, r.out }, { 1, "" })
  lu.assertStrMatches(r.err, "luapool: stdin:10%d: attempt to [^\n]*\n")
end

TestBadInput = {}

function TestBadInput:test_the_mark_is_below_the_place()
  local cases = {
    { "_ + + 1", "EXPR:1:5: unexpected symbol near '+'\n  _ + + 1\n      ^\n" },
    { "foo(", "EXPR:1:5: unexpected symbol near <eof>\n  foo(\n      ^\n" },
    { "_ )", "EXPR:1:3: <eof> expected near ')'\n  _ )\n    ^\n" },
    { "local x = 1\nretrun x", "EXPR:2:8: syntax error near 'x'\n  retrun x\n         ^\n" },
    { "'\u{e4}' .. = 1", "EXPR:1:9: unexpected symbol near '='\n  '\u{e4}' .. = 1\n         ^\n" },
    { "1 end, function() return 2", "EXPR:1:3: <eof> expected near 'end'\n  1 end, function() return 2\n    ^\n" },
  }
  for _, case in ipairs(cases) do
    local r = run("map", case[1], { stdin = "a\n" })
    lu.assertEquals({ r.exit, r.out, r.err }, { 2, "", "luapool: " .. case[2] }, case[1])
  end
end

function TestBadInput:test_what_cannot_be_understood()
  local not_a_function = temporary("return 1")
  os.rename(not_a_function, not_a_function .. ".lua")
  local cases = {
    { { "map" }, "EXPR, a FILE.lua or --cmd expected" }, { { "map", "_", "--nope" }, "unrecognized option '--nope'" },
    { { "map", "_", "-j" }, "'-j' needs argument" }, { { "map", "-j", "x", "_" }, "integer from 0 to" },
    { { "map", "--null=3", "_" }, "no argument expected" }, { { "map", "--resume", "_" }, "need --joblog" },
    { { "filter", "--cmd", "x" }, "--cmd is for map" }, { { "reduce", "--halt", "now,fail=1", "a" }, "reduce: no" },
    { { "map", "--halt", "now", "_" }, '--halt: never, now,fail=1' },
    { { "map", "--joblog", "/no/such/file", "_" }, "--joblog: cannot write /no/such/file" },
    { { "map", "--tag", "_" }, "--tag is for --cmd" }, { { "map", "/no/such.lua" }, "cannot open /no/such.lua" },
    { { "map", "_", "file", ":::", "a" }, "not both" }, { { "map", not_a_function .. ".lua" }, "it returned number" },
    { { "map", "--timeout", "soon", "_" }, "--timeout" }, { { "map", "--trace", "/no/such/file", "_" }, "cannot write" },
  }
  for _, case in ipairs(cases) do
    local r = run(table.unpack(case[1]))
    lu.assertEquals({ r.exit, r.out }, { 2, "" }, case[2])
    lu.assertStrContains(r.err, case[2])
  end
  os.remove(not_a_function .. ".lua")
end

function TestBadInput:test_nothing_and_no_last_newline()
  for _, word in ipairs { "map", "filter", "reduce" } do lu.assertEquals(output(word, "true", { stdin = "" }), "") end
  lu.assertEquals(output("map", "_", { stdin = "a\nb" }), "a\nb\n")
  lu.assertEquals(output("map", "_", { stdin = "\n\n" }), "\n\n")
end

function TestBadInput:test_bytes_pass_through()
  local every = {}
  for byte = 0, 255 do every[#every + 1] = byte ~= 10 and string.char(byte) or "" end
  local text = table.concat(every) .. "\n"
  lu.assertEquals(output("map", "_", { stdin = text }), text)
  lu.assertEquals(output("map", "-0", "--print0", "_ .. '|'", { stdin = "a\nb\0c\0" }), "a\nb|\0c|\0")
  lu.assertEquals(output("map", "-0", "_", { stdin = "a b\0c" }), "a b\nc\n")
  lu.assertEquals(output("filter", "-0", "_ ~= 'x'", { stdin = "a\nb\0x\0c\0" }), "a\nb\0c\0")
end

function TestBadInput:test_very_long_lines()
  local name = temporary(("x"):rep(100 * 1000 * 1000) .. "\nshort\n" .. ("y"):rep(3 * 1000 * 1000))
  lu.assertEquals(output("map", "#_", name), "100000000\n5\n3000000\n")
  local copy = temporary()
  local r = run("map", "_", name, { stdout = copy })
  lu.assertEquals({ r.exit, r.err }, { 0, "" })
  lu.assertTrue(read(copy) == read(name) .. "\n")
  os.remove(name)
  os.remove(copy)
end

function TestBadInput:test_files_that_cannot_be_read()
  local good = temporary("x\n")
  local r = run("map", "_", "/no/such/file", good, "/")
  lu.assertEquals({ r.exit, r.out }, { 1, "x\n" })
  lu.assertEquals(r.err, "luapool: /no/such/file: No such file or directory\nluapool: /: Is a directory\n")
  os.remove(good)
end

-- The same with the fault points' program: the n-th call of a system function fails.
local function run_failing(what, ...)
  local env = { LUAPOOL_FAIL = what, PARALLEL_SHELL = "/bin/sh" }
  local p <close> = proc.spawn { args = { os.getenv "LUAPOOL_FAULTS", ... }, env = env, deadline = 120 }
  local status, out, err = p:finish(120)
  return { status.exit, out, (err:gsub("^[^:]*: ", "")) }
end

function TestBadInput:test_a_disk_that_fails_and_a_lack_of_descriptors()
  if not os.getenv "LUAPOOL_FAULTS" then return lu.skip("no program with fault points") end
  local file = temporary("x\n")
  local failed -- (the reads before that of the second file, of cgroups for example, are nobody's business here)
  for k = 1, 20 do
    failed = run_failing(("read#%d:EIO"):format(k), "map", "_", file, file)
    if failed[2] == "x\n" then break end
  end
  lu.assertEquals(failed, { 1, "x\n", file .. (ways.has_musl and ": I/O error\n" or ": Input/output error\n") })
  local none = run_failing("memfd#2:EMFILE", "map", "-j1", "--cmd", "echo a{}", ":::", "1", "2")
  lu.assertEquals({ none[1], none[2] }, { 1, "a2\n" })
  local why = ways.has_musl and "No file descriptors available" or "Too many open files"
  lu.assertStrContains(none[3], "no memory for the output of the command: " .. why .. ": echo a1\n")
  lu.assertEquals(run_failing("pidfd#0:EMFILE", "map", "-j1", "--cmd", "echo a{}", ":::", "1", "2"), { 0, "a1\na2\n", "" })
  os.remove(file)
end

function TestBadInput:test_a_full_disk_is_said_once()
  if not io.open("/dev/full", "w") then return lu.skip("no /dev/full here") end
  local r = run("map", "_", { stdin = sequence(100000), stdout = "/dev/full" })
  lu.assertEquals({ r.exit, r.err }, { 1, "luapool: cannot write: No space left on device\n" })
end

function TestBadInput:test_errors_are_those_of_their_lines()
  local r = run("map", "if _ % 3 == 0 then error('boom ' .. _) end return _", { stdin = sequence(7) })
  lu.assertEquals({ r.exit, r.out }, { 1, "1\n2\n4\n5\n7\n" })
  lu.assertEquals(r.err, "luapool: stdin:3: boom 3\nluapool: stdin:6: boom 6\n")
  local file = temporary(sequence(1000))
  r = run("filter", "error {}", file)
  lu.assertEquals({ r.exit, r.out }, { 1, "" })
  local lines = select(2, r.err:gsub("\n", "\n"))
  lu.assertEquals(lines, 11)
  lu.assertStrContains(r.err, file .. ":1: (error object is a table value)\n")
  lu.assertStrContains(r.err, "luapool: 990 more lines failed\n")
  os.remove(file)
end

-- Also when a line before it will never be over.
function TestBadInput:test_the_failure_that_ends_it_is_told()
  local r = run("-j2", "map", "--halt", "now,fail=1", "if _ == '1' then os.execute 'sleep 60' end error 'boom'", { stdin = sequence(2) })
  lu.assertEquals({ r.exit, r.out, r.err }, { 1, "", "luapool: stdin:2: boom\n" })
end

function TestBadInput:test_a_worker_that_dies_costs_one_line()
  local r = run("-j2", "map", "if _ == '700' then os.exit(3) end return _", { stdin = sequence(5000) })
  lu.assertEquals(r.exit, 1)
  lu.assertTrue(r.out == (sequence(5000):gsub("\n700\n", "\n")))
  lu.assertStrContains(r.err, "luapool: stdin:700: the worker left with exit status 3")
  lu.assertEquals(select(2, r.err:gsub("\n", "\n")), 1)
end

function TestBadInput:test_what_a_command_cannot_be_started_with()
  local r = run("map", "--cmd", "echo {}", { stdin = ("x"):rep(300000) .. "\nshort\n" })
  lu.assertEquals({ r.exit, r.out }, { 1, "short\n" })
  lu.assertStrContains(r.err, "Argument list too long")
  lu.assertTrue(#r.err < 1000)
  r = run("map", "--shell", "/no/such/shell", "--cmd", "echo", ":::", "a")
  lu.assertEquals({ r.exit, r.out }, { 1, "" })
  lu.assertStrContains(r.err, "cannot start /no/such/shell: No such file or directory")
end

function TestBadInput:test_a_full_disk_is_said_of_a_joblog()
  if not io.open("/dev/full", "w") then return lu.skip("no /dev/full here") end
  local r = run("map", "--joblog", "/dev/full", "_", { stdin = "a\n" })
  lu.assertEquals({ r.exit, r.out }, { 2, "" })
  lu.assertStrContains(r.err, "--joblog: cannot write /dev/full: No space left on device")
end

TestStream = {}

function TestStream:test_a_line_is_answered_at_once()
  local p <close> = proc.spawn { args = { LUAPOOL, "-j2", "map", "_i .. ':' .. _" }, stdin = "pipe", deadline = 120 }
  for i = 1, 5 do
    p:write("l" .. i .. "\npart of")
    lu.assertNotNil(p:read_until(i .. ":[%w ]*l" .. i .. "\n", 60))
    p:write(" ")
  end
  p:close_stdin()
  local status, out = p:finish(60)
  lu.assertEquals(status.exit, 0)
  lu.assertEquals(out, "1:l1\n2:part of l2\n3:part of l3\n4:part of l4\n5:part of l5\n6:part of \n")
end

function TestStream:test_results_do_not_wait_for_the_next_line()
  local p <close> = proc.spawn { args = { LUAPOOL, "-j2", "map", "for _ = 1, 3e7 do end return _" }, stdin = "pipe", deadline = 120 }
  p:write("slow\n")
  lu.assertNotNil(p:read_until("slow\n", 60))
  p:write("again\npart")
  lu.assertNotNil(p:read_until("again\n", 60))
  p:close_stdin()
  local status, out = p:finish(60)
  lu.assertEquals({ status.exit, out }, { 0, "slow\nagain\npart\n" })
end

function TestStream:test_few_slow_lines_use_all_workers()
  -- Two lines that wait for each other: they must run at the same time.
  local folder = temporary()
  os.execute("mkdir " .. folder)
  local meet = ([[local function has(n) local f = io.open(%q .. n) return f and f:close() end
    io.open(%q .. _, "w"):close()
    while not has(3 - _) do os.execute("sleep 0.01") end return _]]):format(folder .. "/", folder .. "/")
  lu.assertEquals(output("-j2", "map", meet, { stdin = "1\n2\n" }), "1\n2\n")
  os.execute("rm -r " .. folder)
end

function TestStream:test_a_reader_that_leaves_ends_it_quietly()
  local command = ("seq 1000000 2>/dev/null | %s map _ | head -n 2; seq 1000000 2>/dev/null | %s filter true | head -c 3")
    :format(LUAPOOL, LUAPOOL)
  local p <close> = proc.spawn { args = { "sh", "-c", command }, deadline = 120 }
  local status, out, err = p:finish(120)
  lu.assertEquals({ status.exit, out, err }, { 0, "1\n2\n1\n2", "" })
end

function TestStream:test_a_reader_that_leaves_where_the_signal_is_ignored()
  local command = ("trap '' PIPE; yes 2>/dev/null | %s map _ | head -n 1"):format(LUAPOOL)
  local p <close> = proc.spawn { args = { "sh", "-c", command }, deadline = 120 }
  local status, out, err = p:finish(120)
  lu.assertEquals({ status.exit, out, err }, { 0, "y\n", "" })
end

function TestStream:test_memory_does_not_grow_with_the_input()
  if not io.open("/proc/self/status") then return lu.skip("no /proc here") end
  if proc.slowness > 1 then return lu.skip("sanitizers keep what was given back") end
  local name = temporary()
  os.execute(("yes 'a line of some length, as they are in logs' | head -c %d > %s"):format(300 << 20, name))
  -- (what the kernel tells of an ended child counts what this process had when it was forked)
  local tell = [[X = setmetatable({}, { __gc = function()
    for line in io.lines "/proc/self/status" do if line:find "^VmHWM" then io.stderr:write(line, "\n") end end
  end })]]
  local r = run("-e", tell, "-j2", "map", "_", name, { stdout = "/dev/null", deadline = 300 })
  os.remove(name)
  local kib = math.tointeger(tonumber(r.err:match("^VmHWM:%s*(%d+) kB\n$")))
  lu.assertEquals(r.exit, 0)
  lu.assertTrue(kib < 150 << 10, r.err) -- what is held while one worker is slow is bounded by less
end

function TestStream:test_ctrl_c()
  for _, args in ipairs { { "map", "while true do end" }, { "map", "--cmd", "sleep 1000 & sleep 1000; :" } } do
    local p <close> = proc.spawn { args = { LUAPOOL, "-j2", table.unpack(args) }, stdin = "pipe", deadline = 120 }
    p:write(sequence(10))
    proc.wait_until(function() return #proc.children(p.pid) >= 2 end, 30)
    p:kill("INT")
    local status, out, err = p:finish(60)
    lu.assertEquals({ status.signal, out, (err:gsub("^.*: ", "")) }, { "SIGINT", "", "interrupted!\n" })
    lu.assertTrue(proc.wait_until(function() return #proc.leftovers(p.mark) == 0 end, 30))
  end
end

function TestStream:test_ctrl_c_while_it_waits_for_input()
  local p <close> = proc.spawn { args = { LUAPOOL, "-j2", "map", "_" }, stdin = "pipe", deadline = 120 }
  p:write("a\n")
  lu.assertNotNil(p:read_until("a\n", 60))
  p:kill("INT")
  local status = p:finish(60)
  lu.assertEquals(status.signal, "SIGINT")
end

function TestStream:test_progress_counts_lines()
  -- (something is drawn after a while only)
  local r = run("--progress=always", "-j2", "map", "_i % 2000 == 0 and os.execute 'sleep 1' and _ or _", { stdin = sequence(5000) })
  lu.assertEquals({ r.exit, r.out == sequence(5000) }, { 0, true })
  lu.assertStrContains(r.err, "5000/5000")
  r = run("map", "--progress=always", "os.execute 'sleep 1' return _ == '2' and error 'x' or _", ":::", "1", "2", "3")
  lu.assertEquals({ r.exit, r.out }, { 1, "1\n3\n" })
  lu.assertStrContains(r.err, "3/3")
end

function TestStream:test_progress_and_lines_on_one_terminal()
  local p <close> = proc.spawn { args = { LUAPOOL, "--progress", "-j2", "map", "for _ = 1, 2e6 do end return _" }, pty = true,
    stdin = sequence(300), env = { TERM = "xterm", NO_COLOR = "1", CI = false }, deadline = 120 }
  local status, out = p:finish(120)
  lu.assertEquals(status.exit, 0)
  local seen = {}
  for line in out:gsub("\r\27%[K", "\n"):gsub("\27%[[%d;]*%a", ""):gmatch("[^\r\n]+") do
    if line:find "^%d+$" then seen[#seen + 1] = line end
  end
  lu.assertEquals(table.concat(seen, "\n") .. "\n", sequence(300))
end

TestLimits = {}

function TestLimits:test_timeout_is_of_a_line()
  local seconds = tostring(0.5 * proc.slowness) -- (the others have it as well)
  local r = run("-j2", "map", "--timeout", seconds, "while _ == '7' do end return _", { stdin = sequence(20) })
  lu.assertEquals({ r.exit, r.out }, { 1, (sequence(20):gsub("\n7\n", "\n")) })
  lu.assertEquals(r.err, "luapool: stdin:7: the item took longer than " .. seconds .. " s\n")
  r = run("--timeout", seconds, "-j2", "filter", "while _ == '7' do end return true", { stdin = sequence(20) })
  lu.assertEquals({ r.exit, r.out }, { 1, (sequence(20):gsub("\n7\n", "\n")) })
end

function TestLimits:test_retries_are_of_a_line()
  local file = temporary("")
  local fn = ("local f = io.open(%q, 'a') f:write(_, '\\n') f:close() if _ == '2' then error 'no' end return _"):format(file)
  local r = run("-j1", "map", "--retries", "2", fn, { stdin = sequence(3) })
  lu.assertEquals({ r.exit, r.out, r.err }, { 1, "1\n3\n", "luapool: stdin:2: no\n" })
  lu.assertEquals(select(2, read(file):gsub("2\n", "")), 3)
  os.remove(file)
end

function TestLimits:test_halt()
  local r = run("-j1", "map", "--halt", "now,fail=1", "_ == '3' and error 'x' or _", { stdin = sequence(1000) })
  lu.assertEquals({ r.exit, r.out, r.err }, { 1, "1\n2\n", "luapool: stdin:3: x\n" })
  r = run("-j1", "map", "--halt", "soon,success=2", "_", { stdin = sequence(1000) })
  lu.assertEquals({ r.exit, r.out, r.err }, { 0, "1\n2\n", "" })
end

function TestLimits:test_joblog_and_resume_of_lines()
  local log = temporary()
  local r = run("-j1", "map", "--joblog", log, "_ == '2' and error 'x' or _", { stdin = sequence(3) })
  lu.assertEquals({ r.exit, r.out }, { 1, "1\n3\n" })
  local shape = read(log):gsub("%d+%.%d+", "T"):gsub(" +T", "T")
  lu.assertEquals(shape, "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"
    .. "1\t:\tT\tT\t0\t2\t0\t0\t1\n2\t:\tT\tT\t0\t0\t1\t0\t2\n3\t:\tT\tT\t0\t2\t0\t0\t3\n")
  lu.assertEquals(output("map", "--joblog", log, "--resume", "_", { stdin = sequence(5) }), "4\n5\n")
  lu.assertEquals(output("map", "--joblog", log, "--resume-failed", "_", { stdin = sequence(6) }), "2\n6\n")
  lu.assertEquals(output("map", "--joblog", log, "--resume-failed", "_", { stdin = sequence(6) }), "")
  os.remove(log)
end

function TestLimits:test_a_joblog_that_was_torn()
  local log = temporary("Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"
    .. "1\t:\t1.000\t     0.000\t0\t2\t0\t0\ta\n2\t:\t1.0")
  lu.assertEquals(output("map", "--joblog", log, "--resume", "_", { stdin = "a\nb\n" }), "b\n")
  lu.assertStrMatches(read(log), ".*\n2\t:\t1%.0\n2\t:\t[^\n]*\tb\n")
  os.remove(log)
end
