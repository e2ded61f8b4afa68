-- luapool map --cmd: shell commands, grouped, in order, ended with all that they have started; beside GNU parallel where that is installed.
local disk = require "disk"
local lu = require "luaunit"
local proc = require "proc"
local oneliner = require "oneliner"

local run, output, sequence, temporary = oneliner.run, oneliner.output, oneliner.sequence, disk.temporary
local LUAPOOL = oneliner.LUAPOOL

TestCommand = {}

function TestCommand:test_jobs_in_order_and_grouped()
  lu.assertEquals(output("-j3", "map", "--cmd", "echo {}; echo again {#}", ":::", "a b", "c"), "a b\nagain 1\nc\nagain 2\n")
  lu.assertEquals(output("-j2", "map", "--cmd", "echo", { stdin = sequence(50) }), sequence(50))
  local r = run("-j1", "map", "--cmd", "echo out{}; echo err{} >&2", ":::", "1", "2")
  lu.assertEquals({ r.exit, r.out, r.err }, { 0, "out1\nout2\n", "err1\nerr2\n" })
  r = run("-j2", "map", "--ungroup", "--cmd", "echo {}", ":::", "a", "a")
  lu.assertEquals({ r.exit, r.out, r.err }, { 0, "a\na\n", "" })
end

function TestCommand:test_columns()
  local function columns(separator, template, text) return output("map", "--colsep", separator, "--cmd", template, { stdin = text }) end
  lu.assertEquals(columns(",", "echo {2}-{1}", "a,b c\nd,e\n"), "b c-a\ne-d\n")
  lu.assertEquals(columns("\\t", "echo {1}{2}{3}{-1}", "a\tb\n"), "abb\n")
  lu.assertEquals(columns("%s+", "echo {#} {2.} {}", "x  y.c\nz\n"), "1 y x y.c\n2 z\n")
  lu.assertEquals(columns(",", "echo [{1}][{2}][{3}]", ",,\n"), "[][][]\n")
  lu.assertEquals(output("map", "-C", ":", "--tag", "--cmd", "echo {1}", ":::", "a:b", "c"), "a:b\ta\nc\tc\n")
  lu.assertEquals(output("map", "-C:", "--dry-run", "--cmd", "cp {1} {2}", ":::", "a b:c"), "cp 'a b' c\n")
end

function TestCommand:test_several_lines_in_a_job()
  local function grouped(n, template, text, ...) return output("map", "-N", n, ..., "--cmd", template, { stdin = text }) end
  lu.assertEquals(grouped("2", "echo {2}-{1} {#}", "a\nb\nc\nd\n", "-j2"), "b-a 1\nd-c 2\n")
  lu.assertEquals(grouped("3", "echo {}", sequence(7), "-j2"), "1 2 3\n4 5 6\n7\n")
  lu.assertEquals(grouped("100", "echo {}", "a b\n", "-j1"), "a b\n")
  lu.assertEquals(output("map", "-n2", "--cmd", "echo {}", ":::", "a", "b", "c"), "a b\nc\n")
  local first, second = temporary "1\n2\n3\n", temporary "4\n5"
  lu.assertEquals(output("map", "-N2", "--cmd", "echo {}", first, second), "1 2\n3 4\n5\n") -- a group goes on in the next file
  os.remove(first)
  os.remove(second)
  local r = run("map", "-N2", "--cmd", "exit {1}", ":::", "1", "1", "1")
  lu.assertEquals(r.exit, 2)
end

function TestCommand:test_sources_side_by_side()
  lu.assertEquals(output("map", "--cmd", "echo {1}{2}", ":::", "a", "b", ":::+", "1", "2"), "a1\nb2\n")
  lu.assertEquals(output("map", "--cmd", "echo {}", ":::", "a", "b", "c", ":::+", "1", "2"), "a 1\nb 2\n") -- the shortest counts
  lu.assertEquals(output("map", "--cmd", "echo {}", ":::", "a", "b", ":::", "x", "y", ":::+", "1", "2"),
    "a x 1\na y 2\nb x 1\nb y 2\n")
  local file = temporary "1\n2\n"
  lu.assertEquals(output("map", "_2 .. _1", ":::", "a", "b", "::::+", file, ":::+", "p", "q"), "1a\n2b\n")
  os.remove(file)
  lu.assertEquals(output("map", "--halt", "soon,success=100%", "--cmd", "echo {}", ":::", "a", "b", ":::+", "1", "2"), "a 1\nb 2\n")
  local r = run("map", "--cmd", "echo", ":::+", "1")
  lu.assertEquals({ r.exit, r.out }, { 2, "" })
  lu.assertStrContains(r.err, "map: ':::+' goes along with a source before it, and there is none")
end

-- Lines that come one by one, and slowly: a job begins when its lines are there.
function TestCommand:test_lines_of_a_job_that_come_slowly()
  local p <close> = proc.spawn { args = { LUAPOOL, "-j2", "map", "-N2", "--cmd", "echo {2}{1}" }, stdin = "pipe",
    env = { PARALLEL_SHELL = "/bin/sh" }, deadline = 60 }
  p:write "a\n"
  proc.sleep(0.1)
  p:write "b\nc\n"
  lu.assertNotNil(p:read_until("^ba\n$", 50))
  p:close_stdin()
  local status, out = p:finish(50)
  lu.assertEquals({ status.exit, out }, { 0, "ba\nc\n" })
end

function TestCommand:test_mistakes_about_parts()
  for _, case in ipairs {
    { "map: --colsep: pattern that matches something expected, got 'x*'", "map", "--colsep", "x*", "--cmd", "echo" },
    { "map: --colsep: pattern that matches something expected, got '['", "map", "--colsep", "[", "--cmd", "echo" },
    { "map: --max-args: integer from 1 expected, got '0'", "map", "-N0", "--cmd", "echo" },
    { "map: --colsep or --max-args, not both", "map", "-N2", "-C,", "--cmd", "echo" },
    { "map: --max-args is for --cmd", "map", "-N2", "_" },
    { "map: --colsep and --max-args are for one source", "map", "-N2", "--cmd", "echo", ":::", "a", ":::", "b" },
  } do
    local r = run(table.unpack(case, 2))
    lu.assertEquals({ r.exit, r.out }, { 2, "" })
    lu.assertStrContains(r.err, case[1])
  end
end

function TestCommand:test_what_runs_in_the_background_keeps_no_job_open()
  local args = { LUAPOOL, "map", "--cmd", "echo {}; sleep 100 & echo $!", ":::", "x" }
  local p <close> = proc.spawn { args = args, env = { PARALLEL_SHELL = "/bin/sh" } }
  local status, out = p:finish(50)
  local pid = out:match("^x\n(%d+)\n$")
  lu.assertEquals(status.exit, 0)
  lu.assertNotNil(pid)
  proc.kill(math.tointeger(pid), "KILL")
end

function TestCommand:test_failures_are_counted()
  lu.assertEquals(run("map", "--cmd", "exit {}", ":::", "0", "1", "7", "0").exit, 2)
  lu.assertEquals(run("map", "--cmd", "kill -9 $$", ":::", "0", "1").exit, 2)
  lu.assertEquals(run("map", "--cmd", "false", { stdin = sequence(101) }).exit, 101)
  lu.assertEquals(run("map", "--cmd", "echo {}", "/no/such/file").exit, 1)
end

function TestCommand:test_timeout_ends_all_that_a_job_has_started()
  local r = run("map", "--timeout", ("%g"):format(proc.slowness), "--cmd", "echo begun; sleep 1000 & sleep 1000; : {}", ":::", "x")
  lu.assertEquals({ r.exit, r.out }, { 1, "begun\n" })
  lu.assertStrContains(r.err, "it took too long: echo begun; sleep 1000 & sleep 1000; : x\n")
end

function TestCommand:test_ctrl_c_at_a_terminal()
  for _, command in ipairs { "sleep 1000; : {}", "trap '' INT TERM; echo {}; sleep 1000 & while :; do sleep 0.1; done" } do
    local p <close> = proc.spawn { args = { LUAPOOL, "-j2", "map", "--ungroup", "--cmd", "echo begun; " .. command, ":::", "1", "2", "3" },
      pty = true, env = { PARALLEL_SHELL = "/bin/sh" }, deadline = 120 }
    lu.assertNotNil(p:read_until("begun.*begun", 60))
    p:write "\3"
    local status, out = p:finish(60)
    lu.assertEquals(status.signal, "SIGINT")
    lu.assertEquals(select(2, out:gsub("interrupted!", "")), 1)
    lu.assertTrue(proc.wait_until(function() return #proc.leftovers(p.mark) == 0 end, 30))
  end
end

function TestCommand:test_kill_9_of_the_host_ends_its_jobs()
  local p <close> = proc.spawn { args = { LUAPOOL, "-j2", "map", "--ungroup", "--cmd", "echo begun; sleep 1000; : {}", ":::", "1", "2" },
    env = { PARALLEL_SHELL = "/bin/sh" }, deadline = 120 }
  lu.assertNotNil(p:read_until("begun.*begun", 60))
  p:kill "KILL"
  lu.assertEquals(p:finish(60).signal, "SIGKILL")
  lu.assertTrue(proc.wait_until(function() return #proc.leftovers(p.mark) == 0 end, 30))
end

function TestCommand:test_template()
  local function dry(template, ...) return output("map", "--dry-run", "--cmd", template, ":::", ...) end
  lu.assertEquals(dry("{} {.} {/} {//} {/.} {#}", "a b/c d.txt"), "'a b/c d.txt' 'a b/c d' 'c d.txt' 'a b' 'c d' 1\n")
  lu.assertEquals(dry("x", "it's", "", "a;b"), "x 'it'\"'\"'s'\nx ''\nx 'a;b'\n")
  lu.assertEquals(dry("{2} {1.} {-1} {3}|", "a.x", ":::", "1"), "1 a 1 |\n")
  lu.assertEquals(dry("awk '{print $1}' ${HOME} {= x =} {}", "f"), "awk '{print $1}' ${HOME} {= x =} f\n")
end

-- The same command lines, by GNU parallel and by us: output, status and joblog.
local BESIDE = {
  { "'echo {} {.} {/} {//} {/.} {#}' ::: 'a b/c d.txt' \"it's\" 'x$y' '' dir/ /abs/p.tar.gz '~x' 'a*b?' 'ü' .hidden a/.hid '`x`' '!' '\"'"
    .. " / // a//b '{}' 'a;b' '&' '<x' '#' 'a=b' '%' '@' ':' ',' '+' '^' '[' ']'" },
  { "'echo x{}y' ::: 'a b' \"'\" \"''\" \"a'\" \"'a\" '$(x)' '-n' '*' '\t'" },
  { "'echo {2} {1.} {1/} {2//} {-1}' ::: a.x b/y.z ::: 1 2" }, { "echo ::: a b ::: 1 2 ::: x y" }, { "'printf {}' ::: a b c" },
  { "'echo {}; exit {}' ::: 0 1 2 3" }, { "false ::: $(seq 101)" }, { "false ::: $(seq 100)" }, { "nosuchprogram ::: a b" },
  { "'kill -9 $$' ::: 1 2" }, { "'echo {}; exit {}' ::: 0 3 0", "-j1 --halt now,fail=1" },
  { "'echo {}; exit {}' ::: 0 3 0", "-j1 --halt soon,fail=1" }, { "'echo {}; exit {}' ::: 0 3 4 0", "-j1 --halt soon,fail=2" },
  { "'echo {}; exit {}' ::: 3 0 0", "-j1 --halt now,success=1" }, { "'echo {}; exit {}' ::: 3 0 0", "-j1 --halt now,done=2" },
  { "'echo {}; exit {}' ::: 1 1 0 0", "-j1 --halt now,fail=50%" }, { "'echo {}; exit {}' ::: 0 3 0", "-j1 --halt 2" },
  { "'echo {}; echo b' ::: a b", "--tag" }, { "printf ::: a b", "--tag" }, { "'echo {} {#}' ::: a 'b c'", "--dry-run" },
  { "'echo {}; false' ::: a b", "--retries 3" }, { "'echo {}; sleep {}' ::: 0 60", "-j1 --timeout 3" },
  { "'echo {}; exit {}' ::: 0 1 2", "-j1 --joblog LOG" }, { "'echo {}; exit {}' ::: 0 1 2 0", "-j1 --joblog LOG --resume" },
  { "'echo {}; exit {}' ::: 0 0 2 0", "-j1 --joblog LOG --resume-failed" },
}

local function shell(command, folder)
  local env = { PARALLEL_SHELL = "/bin/sh", PARALLEL_HOME = folder }
  local p <close> = proc.spawn { args = { "sh", "-c", command }, env = env, deadline = 120 }
  local status, out = p:finish(120)
  return ("%s\n[%s %s]"):format(out, status.exit, status.signal)
end

local function without_times(path)
  return ((disk.text_of(path) or ""):gsub("%d+%.%d%d%d", "T"):gsub(" +T", "T"))
end

function TestCommand:test_beside_gnu_parallel()
  if not os.execute("parallel --version 2>/dev/null | grep -q GNU") then return lu.skip("GNU parallel is not here") end
  local folder = temporary()
  os.execute(("mkdir %s && touch %s/will-cite"):format(folder, folder))
  for _, case in ipairs(BESIDE) do
    local theirs = ("parallel -k %s %s 2>/dev/null </dev/null"):format((case[2] or ""):gsub("LOG", folder .. "/theirs"), case[1])
    local ours = ("%s map %s --cmd %s 2>/dev/null </dev/null"):format(LUAPOOL, (case[2] or ""):gsub("LOG", folder .. "/ours"), case[1])
    lu.assertEquals(shell(ours, folder), shell(theirs, folder), ours)
    lu.assertEquals(without_times(folder .. "/ours"), without_times(folder .. "/theirs"))
  end
  os.execute("rm -r " .. folder)
end
