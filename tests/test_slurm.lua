-- Slurm: the same scripts under srun, in batch jobs, with Slurm's signals and ends. A Slurm of three nodes is made for each test, on this
-- machine, in a world of its own (tests/rig/slurm); no service of the system is used. Only on request: make nightly.
local lu = require "luaunit"
local proc = require "proc"

local LUAPOOL = os.getenv("LUAPOOL") or "build/luapool"
local BUILD = os.getenv("BUILD") or "build"
local SECONDS <const> = 150

local function is_there(command) return os.execute("command -v " .. command .. " > /dev/null 2>&1 || test -x /usr/sbin/" .. command) end

local function need_slurm()
  if not os.getenv("SLURM_RIG") then lu.skip("only on request: make nightly") end
  for _, command in ipairs { "ip", "unshare", "munged", "slurmctld", "slurmd", "srun", "sbatch", BUILD .. "/luapool-mpi.so" } do
    if not is_there(command) then lu.skip("no " .. command .. " (scripts/install-dependencies nightly)") end
  end
  if not os.execute("tests/rig/slurm true 2> /dev/null") then lu.skip("no namespaces here, or not root") end
end

local ENVIRONMENT = { OMPI_ALLOW_RUN_AS_ROOT = "1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM = "1", LUAPOOL_LOST_AFTER = "5" }

-- What every job leaves is looked at after it, before its world ends: processes, files of MPI and Slurm's own, shared memory.
local LEFT <const> = [[
status=$?
tries=0
until [ -z "$(squeue -h)" ] && ! pgrep -x luapool > /dev/null || [ $tries = 200 ]; do sleep 0.1; tries=$((tries + 1)); done
ps axo args | grep '^[^ ]*luapool ' | sed 's/^/left: /'
find $TMPDIR /dev/shm /run/slurm/tmp.* -type f | sed 's/^/left: /'
exit $status
]]

-- Runs a shell script on h1, where $luapool is the program and job.lua a file with `job`; stops at `left: ` lines.
local function run(job, script)
  need_slurm()
  local folder = os.tmpname()
  os.remove(folder)
  assert(os.execute("mkdir " .. folder))
  local function write(name, text)
    local file <close> = assert(io.open(folder .. "/" .. name, "w"))
    file:write(text)
  end
  write("job.lua", job)
  write("run.sh", ("export TMPDIR=/run/slurm/files luapool=%s; mkdir $TMPDIR; cd %s\n%s\n%s"):format(LUAPOOL, folder, script, LEFT))
  local p <close> = proc.spawn { args = { "tests/rig/slurm", "sh", folder .. "/run.sh" }, env = ENVIRONMENT, deadline = SECONDS + 30 }
  local status, out, err = p:finish(SECONDS)
  os.execute("rm -r " .. folder)
  lu.assertNil(out:find("left: ", 1, true), out)
  return status.exit, out, err
end

local SRUN <const> = "srun --mpi=pmix --kill-on-bad-exit=0 -N3 --ntasks-per-node=1 --cpus-per-task=2 $luapool "

local SQUARES <const> = [[
  for _, node in ipairs(pool.nodes()) do print(node.rank, node.host, node.state, node.workers) end
  local r, n = pool.map(function(x) return x * x end, 1000)
  for i = 1, n do assert(r[i] == i * i) end
  print(n, io.read("a"), arg[1])
  os.exit(3, true)
]]
local SQUARES_SAY <const> = "0\th1\tup\t2\n1\th2\tup\t2\n2\th3\tup\t2\n1000\tinput\tword\n"

-- Works until it is told to stop, then saves.
local SAVING <const> = [[
  print("begun") io.stdout:flush()
  local p <close> = pool.new()
  local ok, e = pcall(p.map, p, function() local t = os.time() + 140 while os.time() < t do end end, 20)
  print(ok, pool.is_interrupt(e), e)
  print("saved", #p:map(function(x) return x end, 10))
  os.exit(5, true)
]]
local SAVING_SAYS <const> = "begun\nfalse\ttrue\tinterrupted!\nsaved\t10\n"

local WAIT_FOR_IT <const> = "until grep -qs begun out; do sleep 0.1; done\n"

TestSlurm = {}

function TestSlurm.test_srun()
  local exit, out, err = run(SQUARES, "printf input | " .. SRUN .. "job.lua word")
  lu.assertEquals(out, SQUARES_SAY, err)
  lu.assertEquals(exit, 3)
end

function TestSlurm.test_the_launcher_inside_a_job()
  local exit, out, err = run(SQUARES, "printf input | salloc -Q -N3 --ntasks-per-node=1 --cpus-per-task=2 $luapool --mpi job.lua word")
  lu.assertEquals(out, SQUARES_SAY, err)
  lu.assertEquals(exit, 3)
end

-- Its first line is the shell's; the numbers are for a larger machine.
local function script_of_readme()
  local file <close> = assert(io.open("README.md"))
  local script = assert(file:read("a"):match("```sh\n(#!/bin/bash\n#SBATCH.-)```"))
  local function put(pattern, text)
    local n
    script, n = script:gsub(pattern, text)
    lu.assertEquals(n, 1, pattern)
  end
  put("%-%-nodes=8", "--nodes=3")
  put("%-%-cpus%-per%-task=32", "--cpus-per-task=2")
  put(" luapool ", " $luapool ")
  return script
end

function TestSlurm.test_the_batch_script_of_the_readme_and_a_signal()
  local exit, out, err = run(SAVING, ([[
    cat > job.sh <<'END'
%sEND
    sbatch -Q -o out -W job.sh & job=$!
    %s
    scancel -s USR1 $(squeue -h -o %%A)
    wait $job; status=$?
    grep -v '^srun: ' out
    (exit $status)]]):format(script_of_readme(), WAIT_FOR_IT))
  lu.assertEquals(out, SAVING_SAYS, err)
  lu.assertEquals(exit, 5)
end

-- Slurm looks at the limits every half a minute.
function TestSlurm.test_the_time_is_nearly_over()
  local exit, out, err = run(SAVING, SRUN:gsub("^srun", "srun --time=1 --signal=USR1@55") .. "job.lua")
  lu.assertEquals(out, SAVING_SAYS, err)
  lu.assertEquals(exit, 5)
end

function TestSlurm.test_a_job_that_is_cancelled()
  local exit, out, err = run(SAVING, ([[
    %s job.lua > out & job=$!
    %s
    scancel $(squeue -h -o %%A)
    wait $job; status=$?
    cat out
    (exit $status)]]):format(SRUN, WAIT_FOR_IT))
  lu.assertStrContains(out, "begun\n", err)
  lu.assertNotEquals(exit, 0)
end

local LOSS <const> = [[
  local function parent(pid) return tonumber(io.open("/proc/" .. pid .. "/stat"):read("a"):match("%%) %%a (%%d+)")) end
  local p <close> = pool.new()
  local nodes, count = pool.nodes(), 0
  for i, v in p:imap(function(x) local t = os.clock() + 0.02 while os.clock() < t do end return x end, 200) do
    assert(i == v)
    count = count + 1
    if i == 20 then os.execute("kill -9 " .. %s) end
  end
  print("done", count)
  for _, node in ipairs(pool.nodes()) do print(node.rank, node.state, node.why) end
  os.exit(4, true)
]]

function TestSlurm.test_losses()
  local salloc = "salloc -Q -N3 --ntasks-per-node=1 --cpus-per-task=2 $luapool --mpi -j 1 job.lua"
  local victims = { ["nodes[2].pid"] = "its pool was killed by signal 9", ["parent(nodes[2].pid)"] = "the connection to it is broken" }
  for victim, why in pairs(victims) do
    local exit, out, err = run(LOSS:format(victim), salloc)
    lu.assertEquals(out, "done\t200\n0\tup\tnil\n1\tlost\t" .. why .. "\n2\tup\tnil\n", err)
    lu.assertEquals(exit, 4)
  end
end

function TestSlurm.test_the_manager_is_lost()
  local exit, out = run(LOSS:format("parent(nodes[1].pid)"), SRUN .. "-j 1 job.lua")
  lu.assertEquals(out, "")
  lu.assertNotEquals(exit, 0)
end

function TestSlurm.test_srun_with_another_way_to_start_mpi()
  local exit, out, err = run("print('ran')", SRUN:gsub("pmix", "pmi2") .. "job.lua")
  lu.assertEquals(out, "")
  lu.assertStrContains(err, "srun --mpi=pmi2 does not start Open MPI: say srun --mpi=pmix")
  lu.assertNotEquals(exit, 0)
end
