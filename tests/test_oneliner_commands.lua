-- luapool map --cmd: shell commands, grouped, in order, ended with all that they have started; beside GNU parallel where that is installed.
local lu = require "luaunit"
local proc = require "proc"

local LUAPOOL = os.getenv("LUAPOOL") or "build/luapool"

-- { exit, signal, out, err } of a command line; the last argument may be a table of proc's options.
local function run(...)
  local args = { ... }
  local options = type(args[#args]) == "table" and table.remove(args) or {}
  options.args = { LUAPOOL, table.unpack(args) }
  options.env = options.env or { PARALLEL_SHELL = "/bin/sh" }
  options.deadline = options.deadline or 120
  local p <close> = proc.spawn(options)
  local status, out, err = p:finish(options.deadline)
  err = err:gsub(LUAPOOL:gsub("%p", "%%%0"), "luapool")
  return { exit = status.exit, signal = status.signal, out = out, err = err }
end

-- Output of a run that must succeed quietly.
local function output(...)
  local r = run(...)
  lu.assertEquals({ r.exit, r.err }, { 0, "" })
  return r.out
end

local function sequence(n)
  local lines = {}
  for i = 1, n do lines[i] = tostring(i) end
  return table.concat(lines, "\n") .. "\n"
end

local function temporary()
  local name = os.tmpname()
  os.remove(name)
  return name
end

TestCommand = {}

function TestCommand:test_jobs_in_order_and_grouped()
  lu.assertEquals(output("-j3", "map", "--cmd", "echo {}; echo again {#}", ":::", "a b", "c"), "a b\nagain 1\nc\nagain 2\n")
  lu.assertEquals(output("-j2", "map", "--cmd", "echo", { stdin = sequence(50) }), sequence(50))
  local r = run("-j1", "map", "--cmd", "echo out{}; echo err{} >&2", ":::", "1", "2")
  lu.assertEquals({ r.exit, r.out, r.err }, { 0, "out1\nout2\n", "err1\nerr2\n" })
  r = run("-j2", "map", "--ungroup", "--cmd", "echo {}", ":::", "a", "a")
  lu.assertEquals({ r.exit, r.out, r.err }, { 0, "a\na\n", "" })
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
  local r = run("map", "--timeout", "0.5", "--cmd", "echo begun; sleep 1000 & sleep 1000; : {}", ":::", "x")
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
  { "'echo {}; false' ::: a b", "--retries 3" }, { "'echo {}; sleep {}' ::: 0 5", "-j1 --timeout 1" },
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
  local file = io.open(path, "rb")
  local text = file and file:read("a") or ""
  if file then file:close() end
  return (text:gsub("%d+%.%d%d%d", "T"):gsub(" +T", "T"))
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
