-- Jobs on many machines that lose something: a worker, a node, a daemon, a link, the manager, the launcher. Nodes are pretended on this
-- machine, or three hosts in network namespaces. Skipped where there is no mpirun, or the engine was not built.
local lu = require "luaunit"
local proc = require "proc"
local job = require "jobs_mpi"

local LUAPOOL, SECONDS, need_open_mpi, file_with, in_folder, environment, new_folder, check_end, run =
  job.LUAPOOL, job.SECONDS, job.need_open_mpi, job.file_with, job.in_folder, job.environment, job.new_folder, job.check_end, job.run

-- ---- losses ----

TestLoss = {}

-- A map in which, at item 20, something is killed; %s says how its pid is found.
local LOSS <const> = [[
  local function parent(pid) return tonumber(io.open("/proc/" .. pid .. "/stat"):read("a"):match("%%) %%a (%%d+)")) end
  local p <close> = pool.new()
  local nodes = pool.nodes()
  local function work(x) local t = os.clock() + 0.01 while os.clock() < t do end return x end
  local count = 0
  for i, v in p:imap(work, 100, { retries = 2 }) do
    assert(i == v)
    count = count + 1
    if i == 20 then
      local victim = %s
      print("kill") io.stdout:flush()
      os.execute("kill -9 " .. victim)
    end
  end
  print("done", count)
  for _, node in ipairs(pool.nodes()) do print(node.rank, node.state, node.why) end
]]

local function lose(victim) return run(2, LOSS:format(victim)) end

function TestLoss.test_a_worker()
  local status, out, err = lose("p:workers()[3].pid")
  lu.assertEquals(status.exit, 0, err)
  lu.assertEquals(out, "kill\ndone\t100\n0\tup\tnil\n1\tup\tnil\n")
end

function TestLoss.test_the_pool_of_a_node()
  for rank = 1, 2 do
    local status, out, err = lose(("nodes[%d].pid"):format(rank))
    lu.assertEquals(status.exit, 0, err)
    lu.assertStrContains(out, "done\t100\n")
    lu.assertStrContains(out, "lost\tits pool was killed by signal 9")
  end
end

function TestLoss.test_the_relay_of_a_node()
  need_open_mpi()
  local status, out, err = lose("parent(nodes[2].pid)")
  lu.assertEquals(status.exit, 0, err)
  lu.assertStrContains(out, "done\t100\n")
  lu.assertStrContains(out, "1\tlost\tnothing was heard of it")
end

function TestLoss.test_the_script()
  local status, out = lose("io.open('/proc/self/stat'):read('n')")
  lu.assertEquals(status.exit or 128 + 9, 137)
  lu.assertEquals(out, "kill\n")
end

function TestLoss.test_mpirun_and_the_launcher()
  for _, victim in ipairs { "parent(parent(nodes[1].pid))", "parent(parent(parent(nodes[1].pid)))" } do
    local status, out = lose(victim)
    lu.assertNotEquals(status.exit, 0)
    lu.assertNil(out:find("done", 1, true))
  end
end

-- Whoever is faster, its parent or the script, who is none: Linux tells both since 6.15, through a pidfd.
local function tells_ends()
  if os.getenv "POOLTEST_PORTABLE" then return false end
  local file = io.open("/proc/sys/kernel/osrelease")
  local major, minor = (file and file:read("l") or ""):match("^(%d+)%.(%d+)")
  if file then file:close() end
  return major ~= nil and (major + 0 > 6 or major + 0 == 6 and minor + 0 >= 15)
end

-- The message says what the manager died of, whether the script waits or computes; the launcher learns the script's status all the same.
function TestLoss.test_the_manager()
  need_open_mpi()
  local compute = LOSS:gsub("\n    end\n  end\n", "\n      local t = os.clock() + 600 while os.clock() < t do end\n    end\n  end\n", 1)
  lu.assertNotEquals(compute, LOSS)
  for _, text in ipairs { LOSS, compute } do
    local status, out, err = run(2, text:format("parent(nodes[1].pid)"))
    lu.assertEquals(status.exit, 1, err)
    lu.assertNil(out:find("done", 1, true))
    lu.assertStrContains(err, "the manager of the nodes has ended" .. (tells_ends() and " (signal 9, SIGKILL)\n" or ""))
    lu.assertNotStrContains(err, "without telling its status")
  end
end

function TestLoss.test_all_nodes()
  local status, out = run(2, [[
    local p <close> = pool.new()
    for _, node in ipairs(pool.nodes()) do os.execute("kill -9 " .. node.pid) end
    local ok, e = pcall(p.map, p, function(x) local t = os.clock() + 0.1 while os.clock() < t do end end, 1000)
    print(ok, e.kind, e.message:match("all nodes are lost"))
    ok, e = pcall(p.map, p, function(x) return x end, 3)
    print(ok, e.kind, e.message:match("all nodes are lost"))
  ]])
  lu.assertEquals(status.exit, 0)
  lu.assertEquals(out, ("false\tcrash\tall nodes are lost\n"):rep(2))
end

function TestLoss.test_an_item_that_ends_nodes_is_blamed()
  local status, out, err = run(3, [[
    local p <close> = pool.new()
    local function poison(x)
      if x == 9 then
        local host = tonumber(io.open("/proc/self/stat"):read("a"):match("%) %a (%d+)"))
        os.execute("kill -9 " .. host)
        while true do end
      end
      return x
    end
    local ok, e = pcall(p.map, p, poison, 40)
    print(ok, e.kind)
  ]])
  lu.assertEquals(status.exit, 0, err)
  lu.assertEquals(out, "false\tcrash\n")
end

-- Whatever is killed, and whenever: all results, in order, each once; nothing left. More of them on request: make nightly.
function TestLoss.test_anything_at_any_time()
  need_open_mpi()
  math.randomseed(os.time())
  local victims = { "p:workers()[math.random(6)].pid", "nodes[math.random(3)].pid", "parent(nodes[math.random(2, 3)].pid)" }
  for _ = 1, os.getenv("MPI_LONG") and 40 or 3 do
    local victim, item = victims[math.random(#victims)], math.random(90)
    local text = LOSS:gsub("i == 20", "i == " .. item):format("(math.randomseed(os.time()) or " .. victim .. ")")
    local status, out, err = run(3, text, { env = { LUAPOOL_LOST_AFTER = "2" } })
    lu.assertEquals(status.exit, 0, victim .. " at " .. item .. "\n" .. err)
    lu.assertStrContains(out, "done\t100\n")
  end
end

-- ---- hosts of their own ----

TestRig = {}

-- The hosts end with the command: the others have their time to leave before.
local ALONE <const> = [[
"$0" "$@"
status=$? n=0
while pgrep -x "luapool|orted" > /dev/null && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
exit $status]]

local RIG_JOB <const> = [[
  local p <close> = pool.new()
  local count, node = 0, pool.nodes()[3].pid
  for i, v in p:imap(function(x) local t = os.clock() + 0.01 while os.clock() < t do end return x end, 200) do
    assert(i == v)
    count = count + 1
    if i == 20 then os.execute("NODE=" .. node .. "; " .. %q) end
  end
  print("done", count)
  for _, node in ipairs(pool.nodes()) do print(node.host, node.state, node.why) end
]]

-- Three hosts in namespaces; `event` happens at item 20: a shell command, run on h1. $NODE: the pool of h3; $PPID: the script.
-- text: another job, with a place for the event.
local function start_on_three_hosts(event, waits, more, text)
  need_open_mpi()
  if not os.execute("tests/rig/hosts true 2> /dev/null") then lu.skip("no namespaces here") end
  local path = file_with((text or RIG_JOB):format(event))
  local folder = new_folder()
  local p = proc.spawn {
    args = { "tests/rig/hosts", "sh", "-c", waits and ALONE or '"$0" "$@"', LUAPOOL, "--mpi", "-H", "h1,h2,h3", "-j", "1", path },
    env = environment(in_folder(more or {}, folder)), deadline = SECONDS,
  }
  local status, out, err = p:finish(SECONDS)
  os.remove(path)
  return p, folder, status, out, err
end

local function on_three_hosts(...)
  local p, folder, status, out, err = start_on_three_hosts(...)
  lu.assertEquals(status.exit, 0, err)
  lu.assertStrContains(out, "done\t200\nh1\tup\tnil\n")
  return out, folder, p
end

function TestRig.test_three_hosts()
  local out, folder, p = on_three_hosts("true", true)
  lu.assertStrContains(out, "h3\tup\tnil\n")
  check_end(p, folder)
end

function TestRig.test_a_link_that_is_down()
  local out, folder = on_three_hosts("ip netns exec lpsw ip link set p3 down")
  lu.assertStrContains(out, "h3\tlost\tnothing was heard of it")
  os.execute("rm -rf " .. folder) -- this host's world ended before it could know
end

-- The namespace has processes of its own: the newest orted is that of h3.
function TestRig.test_a_daemon_that_is_killed()
  local out, folder, p = on_three_hosts("kill -9 $(pgrep -n orted)", true)
  lu.assertStrContains(out, "\tlost\t")
  check_end(p, folder)
end

-- Nobody waits for silence where a connection tells: it would take longer than this test may.
local LONG <const> = { LUAPOOL_LOST_AFTER = "3600" }

function TestRig.test_a_relay_that_is_killed_is_noticed_at_once()
  local out, folder, p = on_three_hosts("kill -9 $(cut -d' ' -f4 /proc/$NODE/stat)", true, LONG)
  lu.assertStrContains(out, "h2\tup\tnil\nh3\tlost\tthe connection to it is broken\n")
  check_end(p, folder)
end

function TestRig.test_nodes_leave_at_once_when_the_manager_is_killed()
  local p, folder, status, out = start_on_three_hosts("kill -9 $(cut -d' ' -f4 /proc/$PPID/stat)", true, LONG)
  lu.assertNotEquals(status.exit, 0)
  lu.assertNotStrContains(out, "done")
  check_end(p, folder)
end

-- The manager writes to a connection whose other end has died, and knows nothing of it yet.
local SEND_JOB <const> = [[
  local p <close> = pool.new()
  p:map(function(x) return x end, 100)
  local futures = {}
  os.execute("NODE=" .. pool.nodes()[3].pid .. "; " .. %q)
  for i = 1, 200 do futures[i] = p:submit(function(x) return x end, i) end
  for i, future in ipairs(futures) do assert(future:get() == i) end
  print("done", 200)
  for _, node in ipairs(pool.nodes()) do print(node.host, node.state, node.why) end
]]

function TestRig.test_a_relay_that_is_killed_while_the_manager_is_about_to_write()
  local _, folder, p = on_three_hosts([[
    MANAGER=$(cut -d' ' -f4 /proc/$PPID/stat)
    kill -STOP $MANAGER
    kill -9 $(cut -d' ' -f4 /proc/$NODE/stat)
    (sleep 1; kill -CONT $MANAGER) &]], true, LONG, SEND_JOB)
  check_end(p, folder)
end

-- More is sent to a node than its connection takes, whose link is down; it is back when the node is lost, and has ended by itself: what was
-- sent is answered by a reset. %q: how the link is set.
local BACK_JOB <const> = [[
  local p <close> = pool.new()
  p:map(function(x) return x end, 100)
  local set_link, futures, text = %q, {}, ("x"):rep(60000)
  os.execute(set_link .. "down")
  for i = 1, 200 do futures[i] = p:submit(function(s) return #s end, text) end
  for _, future in ipairs(futures) do assert(future:get() == #text) end
  os.execute(set_link .. "up")
  os.execute("MANAGER=$(cut -d' ' -f4 /proc/$PPID/stat); n=0; " ..
    "while ss -tnp dst 10.77.0.3 | grep -q pid=$MANAGER, && [ $n -lt 300 ]; do sleep 0.1; n=$((n + 1)); done")
  assert(#p:map(function(x) return x end, 1000) == 1000)
  print("done", 200)
  for _, node in ipairs(pool.nodes()) do print(node.host, node.state, node.why) end
]]

function TestRig.test_a_node_that_is_back_after_it_was_lost()
  local out, folder = on_three_hosts("ip netns exec lpsw ip link set p3 ", false, { LUAPOOL_LOST_AFTER = "2" }, BACK_JOB)
  lu.assertStrContains(out, "h3\tlost\tnothing was heard of it")
  os.execute("rm -rf " .. folder)
end
