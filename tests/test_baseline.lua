-- What Python's pools were measured to do wrong, each case through ours: nothing hangs, nobody is left, nothing is said twice.
local lu = require "luaunit"
local proc = require "proc"
local post = require "post"

TestBaseline = {}

-- mp.Pool: dies at once, but with 21 to 59 lines of traceback. ProcessPoolExecutor: waits for the running tasks, 15 lines.
function TestBaseline:test_ctrl_c_to_the_group_during_a_map()
  local s <close> = post.start { code = [[
    local p <close> = pool.new(4)
    p:map(function(x) if x <= 4 then say "ready" end spin(60) end, 100)]] }
  s:await("ready", 4)
  s:send("group", "INT")
  local _, err = s:finish { signal = "SIGINT", stdout = "" }
  lu.assertEquals(select(2, err:gsub("\n", "")), 1)
end

-- ProcessPoolExecutor: hangs, four processes left, 30 lines.
function TestBaseline:test_ctrl_c_twice()
  local s <close> = post.start { code = [[
    local p <close> = pool.new(4)
    p:map(function(x) if x <= 4 then say "ready" end while true do pcall(spin, 60) end end, 100)]] }
  s:await("ready", 4)
  s:send("group", "INT")
  proc.sleep(0.3)
  s:send("group", "INT")
  s:finish { signal = "SIGINT", stdout = "" }
end

-- mp.Pool: hangs, there is no timeout. ProcessPoolExecutor: unusable, everything pending fails.
function TestBaseline:test_a_task_kills_its_worker()
  local s <close> = post.start { stdin = "pipe", code = [[
    local p = pool.new(4)
    local r, n, errors = p:map(function(x) if x == 50 then os.execute "kill -KILL $PPID" end return x end, 100, { errors = "collect" })
    local count = 0
    for i = 1, n do if r[i] == i then count = count + 1 end end
    print(n, count, errors[50].kind, errors[50].signal)
    print(#p:map(function(x) return x end, 100))
    rest()
    p:close()]] }
  s:relieve()
  s:finish { exit = 0, stdout = "100\t99\tcrash\tSIGKILL\n100\n" }
end

-- mp.Pool: hangs in both.
function TestBaseline:test_an_idle_worker_is_killed_then_map_then_again_and_terminate()
  local s <close> = post.start { stdin = "pipe", code = [[
    local p = pool.new(4)
    p:map(math.abs, 100)
    rest()
    print(#p:map(math.abs, 100))
    rest()
    p:terminate()
    print(pcall(p.map, p, math.abs, 1))]] }
  for times = 1, 2 do
    s:await("rest", times)
    local victim = s:workers()[2]
    lu.assertTrue(proc.kill(victim.pid, "KILL"))
    lu.assertNotNil(proc.wait_until(function() local stat = proc.stat(victim.pid) return not stat or stat.state == "Z" end, 20))
    s.child:write("\n")
  end
  s:finish { exit = 0, stdout = function(out) lu.assertStrMatches(out, "100\nfalse\t[^\n]*the pool is closed\n") end }
end

-- mp.Pool: hangs for more than eight seconds.
function TestBaseline:test_terminate_while_a_task_ignores_sigterm()
  local s <close> = post.start { stdin = "pipe", code = [[
    local p = pool.new { workers = 3, grace = 0.3 }
    local n = 0
    local ok, e = pcall(p.map, p, function(x)
      if x <= 2 then os.execute [=[trap '' TERM INT; echo '#deaf' >&2; while :; do sleep 60; done]=] end
      return x
    end, function()
      n = n + 1
      if n == 20 then error "enough" end
      return n
    end, { chunk = 1 })
    p:terminate()
    print(ok, tostring(e):match "enough", #p:workers())
    rest()]] }
  s:relieve()
  s:finish { exit = 0, stdout = "false\tenough\t0\n" }
end

-- mp.Pool: after SIGKILL or SIGTERM of the host its busy workers live on until their tasks end.
function TestBaseline:test_a_busy_host_is_killed()
  for _, signal in ipairs { "KILL", "TERM" } do
    local s <close> = post.start { code = [[
      local p <close> = pool.new(4)
      p:map(function(x) if x <= 4 then say "ready" end while true do end end, 100)]] }
    s:await("ready", 4)
    s:send("host", signal)
    s:finish { signal = "SIG" .. signal, stdout = "" }
  end
end
