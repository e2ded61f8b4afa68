-- The command's own options and the variables of the environment that mirror them: spelling, mistakes, what becomes of them in pools and
-- calls.
local lu = require "luaunit"
local disk = require "disk"
local proc = require "proc"

local LUAPOOL = os.getenv("LUAPOOL") or "build/luapool"

-- { exit, out, err }; the last argument may be a table of variables of the environment.
local function run(...)
  local args = { LUAPOOL, ... }
  local env = type(args[#args]) == "table" and table.remove(args) or {}
  local p <close> = proc.spawn { args = args, env = env }
  local status, out, err = p:finish(30)
  return { exit = status.exit, signal = status.signal, out = out, err = (err:gsub(LUAPOOL:gsub("%p", "%%%0"), "PROGRAM")) }
end

local temporary, text_of = disk.temporary, disk.text_of

local SHOW = "local names = {} for name in pairs(pool.defaults()) do names[#names + 1] = name end table.sort(names) "
  .. "for i, name in ipairs(names) do io.write(i > 1 and ' ' or '', name, '=', tostring(pool.defaults()[name])) end"

TestSpelling = {}

function TestSpelling:test_help_is_for_people_who_asked()
  local help = run("--help")
  lu.assertEquals({ help.exit, help.err }, { 0, "" })
  lu.assertStrContains(help.out, "usage: " .. LUAPOOL .. " [options] [script [args]]")
  lu.assertStrContains(help.out, "Examples:")
  for _, name in ipairs { "workers", "timeout", "log", "trace", "progress[=WHEN]" } do lu.assertStrContains(help.out, "--" .. name) end
end

function TestSpelling:test_version_says_what_it_is_and_can()
  local version = run("--version")
  lu.assertEquals({ version.exit, version.err }, { 0, "" })
  lu.assertStrMatches(version.out, "luapool %d+%.%d+%.%d+ %(Lua 5%.4%.%d+%)\nLua 5%.4%.%d+  Copyright[^\n]*\n"
    .. "start methods: [^\n]*fork[^\n]*\nengines built in: [^\n]+\nengines [^\n]*mpi[^\n]+\n")
end

function TestSpelling:test_every_spelling()
  local spellings = {
    { "workers=3", "-j3" }, { "workers=3", "-j", "3" }, { "workers=3", "--workers", "3" }, { "workers=3", "--workers=3" },
    { "workers=3", "--work=3" }, { "workers=0", "-j", "0" }, { "workers=2", "-j3", "--workers", "2" },
    { "timeout=1.5", "-t", "1.5" }, { "timeout=2.0", "--timeout=2" }, { "memory=536870912", "-m", "512M" },
    { "memory=100000", "--memory", "100000" },
    { "seed=-7", "--seed", "-7" }, { "seed=255", "--seed=0xff" }, { "chunk=0", "--chunk", "auto" }, { "chunk=8", "--chunk", "8" },
    { "buffer=8", "--buffer", "8" }, { "retries=2", "--retries", "2" }, { "on_crash=skip", "--on-crash", "skip" },
    { "grace=0.0", "--grace", "0" }, { "deadline=2.5", "--deadline", "2.5" }, { "halt=now,fail=3", "--halt", "now,fail=3" },
    { "load=2.5", "--load", "2.5" }, { "memfree=1048576", "--memfree", "1M" }, { "retry_delay=0.5", "--retry-delay", "0.5" },
    { "max_growth=268435456", "--max-growth", "256M" }, { "idle_timeout=1.5", "--idle-timeout", "1.5" },
    { "nice=7", "--nice", "7" }, { "nice=idle", "--nice=idle" },
    { "max_tasks=10", "--max-tasks", "10" }, { "output=tag", "--output", "tag" }, { "progress=auto", "--progress" },
    { "progress=always", "--progress=always" }, { "color=never", "--color=never" }, { "quiet=true", "-q" }, { "quiet=true", "--quiet" },
    { "resume=true", "--resume" }, { "resume=failed", "--resume=failed" }, { "start=fork", "--start", "fork" },
  }
  for _, spelling in ipairs(spellings) do
    local expected = table.remove(spelling, 1)
    table.insert(spelling, "-e")
    table.insert(spelling, SHOW)
    lu.assertEquals(run(table.unpack(spelling)), { exit = 0, out = expected, err = "" })
  end
end

function TestSpelling:test_options_end_at_the_script()
  local p <close> = proc.spawn { args = { LUAPOOL, "-j2", "-", "-j", "5", "--help" }, stdin = "print(pool.defaults().workers, ...)" }
  local _, out = p:finish(20)
  lu.assertEquals(out, "2\t-j\t5\t--help\n")
end

function TestSpelling:test_mistakes_in_spelling_exit_with_2()
  local mistakes = {
    { "unrecognized option '--no-such-option'", "--no-such-option" }, { "'-j' needs argument", "-j" },
    { "'--workers' needs argument", "--workers" }, { "option '--quiet=1': no argument expected", "--quiet=1" },
    { "option '--re' is not clear: several begin so", "--re", "2" },
  }
  for _, mistake in ipairs(mistakes) do
    local result = run(table.unpack(mistake, 2))
    lu.assertEquals({ result.exit, result.out }, { 2, "" }, mistake[1])
    lu.assertStrContains(result.err, "PROGRAM: " .. mistake[1] .. "\nusage: PROGRAM")
  end
end

local WORKERS = 'integer from 0 to 4096 or "auto" expected'
local SECONDS = "positive number of seconds expected"

function TestSpelling:test_bad_values_are_told_with_the_name_of_the_option()
  local mistakes = {
    { "--workers: " .. WORKERS .. ', got "x"', "-j", "x" }, { "--workers: " .. WORKERS .. ', got "-1"', "--workers=-1" },
    { "--workers: " .. WORKERS .. ', got "99999999999"', "-j", "99999999999" }, { "--workers: " .. WORKERS .. ', got ""', "-j", "" },
    { "--timeout: " .. SECONDS .. ', got "x"', "--timeout", "x" }, { "--timeout: " .. SECONDS .. ', got "0"', "-t0" },
    { '--on-crash: "raise" or "retry" or "skip" expected, got "die"', "--on-crash=die" },
    { '--progress: "auto" or "always" or "never" expected, got "no"', "--progress=no" },
    { '--output: "line" or "tag" or "order" or "discard" or function expected, got "x"', "--output", "x" },
    { "--seed: integer expected, got \"1.5\"", "--seed", "1.5" }, { "--log: name of a file expected, got \"\"", "--log=" },
    { "--max-tasks: integer from 1 expected, got \"0\"", "--max-tasks", "0" },
    { '--max-growth: bytes, or a string such as "512M", at least 1M expected, got "10"', "--max-growth", "10" },
    { "--idle-timeout: positive number of seconds expected, got \"0\"", "--idle-timeout", "0" },
    { '--load: positive number, or a share of the processors such as "75%" expected, got "0%"', "--load", "0%" },
    { '--memfree: bytes, or a string such as "512M", at least 1 expected, got "much"', "--memfree", "much" },
    { "--retry-delay: number of seconds, 0 or more expected, got \"-1\"", "--retry-delay", "-1" },
    { '--nice: integer from 0 to 19 or "idle" expected, got "20"', "--nice", "20" },
    { '--nice: integer from 0 to 19 or "idle" expected, got "idly"', "--nice=idly" },
    { '--pin: "yes" or "no" expected, got "3"', "--pin=3" },
    { "--deadline: positive number of seconds expected, got \"-1\"", "--deadline", "-1" },
    { '--halt: "now,fail=3", "soon,fail=10%", "now,success=1" or the like expected, got "often"', "--halt", "often" },
  }
  for _, mistake in ipairs(mistakes) do
    local result = run(table.unpack(mistake, 2))
    lu.assertEquals(result, { exit = 2, out = "", err = "PROGRAM: " .. mistake[1] .. "\n" })
  end
end

function TestSpelling:test_nothing_runs_before_the_options_are_right()
  local result = run("-e", "print(1)", "-t", "x")
  lu.assertEquals({ result.exit, result.out }, { 2, "" })
end

TestEnvironment = {}

function TestEnvironment:test_variables_mirror_options()
  local env = { LUAPOOL_WORKERS = "3", LUAPOOL_ON_CRASH = "skip", LUAPOOL_QUIET = "1", LUAPOOL_TIMEOUT = "", LUAPOOL_MAX_TASKS = "5" }
  local result = run("-e", SHOW, env)
  lu.assertEquals(result, { exit = 0, out = "max_tasks=5 on_crash=skip quiet=true workers=3", err = "" })
end

function TestEnvironment:test_an_option_goes_before_its_variable()
  lu.assertEquals(run("-j2", "-e", SHOW, { LUAPOOL_WORKERS = "nonsense" }).out, "workers=2")
end

function TestEnvironment:test_E_ignores_them()
  lu.assertEquals(run("-E", "-e", SHOW, { LUAPOOL_WORKERS = "3", LUAPOOL_TIMEOUT = "x" }), { exit = 0, out = "", err = "" })
end

function TestEnvironment:test_mistakes_name_the_variable()
  local result = run("-e", "print(1)", { LUAPOOL_TIMEOUT = "soon" })
  local message = "PROGRAM: the environment variable LUAPOOL_TIMEOUT is \"soon\" (" .. SECONDS .. ")\n"
  lu.assertEquals(result, { exit = 2, out = "", err = message })
end

TestPrecedence = {}

function TestPrecedence:test_call_pool_option_environment()
  local code = [[
    local function peak(options, pool_options)
      local p <close> = pool.new(pool_options)
      local ok, err = pcall(p.map, p, function() pool.channel():receive(60) end, 1, options)
      return tostring(err):match("%(?took longer than ([%d.]+)") or tostring(err)
    end
    print(peak({ timeout = 0.1 }, { timeout = 20 }), peak(nil, { timeout = 0.2 }), peak())
  ]]
  local result = run("-t", "0.3", "-j1", "-e", code, { LUAPOOL_TIMEOUT = "50" })
  lu.assertEquals({ result.err, result.exit }, { "", 0 })
  local call, pool_, option = result.out:match("([^\t]*)\t([^\t]*)\t([^\n]*)\n")
  lu.assertStrContains(call, "0.1")
  lu.assertStrContains(pool_, "0.2")
  lu.assertStrContains(option, "0.3")
end

function TestPrecedence:test_workers()
  local code = "local function n(...) local p <close> = pool.new(...) return tostring(p):match('%d+') end "
    .. "print(n(), n(2), n { workers = 'auto' }, n { workers = 0 }, #pool.map(tostring, 3))"
  lu.assertEquals(run("-j3", "-e", code).out, "3\t2\t3\t0\t3\n")
  lu.assertEquals(run("-j0", "-e", code).out, "0\t2\t0\t0\t3\n")
end

function TestPrecedence:test_one_shot_calls_take_them()
  lu.assertEquals(run("--seed", "5", "-j2", "-e", "print(table.concat(pool.map(function() return math.random(1000) end, 4), ' '))").out,
    run("-e", "print(table.concat(pool.map(function() return math.random(1000) end, 4, { seed = 5, workers = 1 }), ' '))").out)
  lu.assertEquals(run("--output", "discard", "-e", "print(#pool.map(print, 3, { on_crash = 'raise' }) == 3 or 'x')").out, "x\n")
  local skipped = run("--on-crash", "skip", "-j1", "-e",
    "print(select('#', pool.map(function(i) if i == 2 then os.exit(3) end return i end, 3)))")
  lu.assertEquals({ skipped.out, skipped.err }, { "2\n", "" })
end

function TestPrecedence:test_deadline_of_each_call()
  local code = [[
    local wait = function() pool.channel():receive(60) end
    local function limit(verb, ...)
      local ok, err = pcall(verb, ...)
      return ok, tostring(err):match("took longer than [%d.]+ s %(deadline%)") or err
    end
    local p <close> = pool.new(1)
    print(limit(p.map, p, wait, 1))
    print(limit(pool.each, wait, 1, { deadline = 0.2 }))
    print(limit(pool.find, wait, 2))
    print(#p:map(tostring, 2))
  ]]
  local seconds = tostring(0.5 * proc.slowness) -- (the last call has it as well)
  local result = run("--deadline", seconds, "-j1", "-e", code, { LUAPOOL_DEADLINE = "50" })
  local expected = "false\ttook longer than %s s (deadline)\n"
  local out = (expected .. expected .. expected .. "2\n"):format(seconds, "0.2", seconds)
  lu.assertEquals(result, { exit = 0, err = "", out = out })
end

function TestPrecedence:test_halt_of_each_call()
  local code = [[
    local fail = function(i) if i > 2 then error(i, 0) end return i end
    local function count(list) local n = 0 for _ in pairs(list) do n = n + 1 end return n end
    local p <close> = pool.new(1)
    local _, _, errors = p:map(fail, 1000, { errors = "collect", chunk = 1 })
    local _, _, others = pool.map(fail, 10, { errors = "collect", chunk = 1, halt = "now,fail=5", workers = 1 })
    print(count(errors) < 500, count(others) >= 5, p:find(function(i) return i == 7 end, 10), p:reduce(math.max, 10, 0))
  ]]
  local result = run("--halt", "now,fail=2", "-e", code)
  lu.assertEquals(result, { exit = 0, err = "", out = "true\ttrue\t7\t10\n" })
end

function TestPrecedence:test_limits_of_one_liners()
  local late = run("--deadline", "0.3", "map", "pool.channel():receive(60)", ":::", "a")
  lu.assertEquals({ late.exit, late.out }, { 1, "" })
  lu.assertStrContains(late.err, "0.3 s (deadline)")
  local halted = run("--halt", "now,fail=1", "-j1", "map", "error(_)", ":::", "a", "b", "c")
  lu.assertEquals({ halted.exit, halted.out }, { 1, "" })
  lu.assertStrContains(halted.err, "argument:1: ")
  lu.assertNotStrContains(halted.err, "argument:2: ")
  lu.assertEquals(run("map", "_", ":::", "a", { LUAPOOL_HALT = "now,fail=2" }), { exit = 0, out = "a\n", err = "" })
end

function TestPrecedence:test_inline_when_asked()
  lu.assertEquals(run("-j0", "-e", "print(#pool.map(function() n = (n or 0) + 1 return n end, 5), n)").out, "5\t5\n")
end

TestFiles = {}

function TestFiles:test_what_cannot_be_written_is_told_before_work_starts()
  for _, option in ipairs { "log", "trace", "report" } do
    local result = run("--" .. option, "/no/such/folder/x", "-e", "print(1)")
    local message = ("PROGRAM: --%s: cannot write \"/no/such/folder/x\": No such file or directory\n"):format(option)
    lu.assertEquals(result, { exit = 2, out = "", err = message })
    lu.assertStrContains(run("--" .. option, "/", "-e", "print(1)").err, "Is a directory")
  end
  for _, option in ipairs { "log", "trace", "report" } do
    local message = ('PROGRAM: --%s: cannot write "/dev/full": it is not a regular file\n'):format(option)
    lu.assertEquals(run("--" .. option, "/dev/full", "-e", "print(1)"), { exit = 2, out = "", err = message })
  end
  local result = run("-e", "print(1)", { LUAPOOL_TRACE = "/no/such/folder/x" })
  lu.assertStrContains(result.err, "the environment variable LUAPOOL_TRACE: cannot write")
end

function TestFiles:test_looking_leaves_nothing_and_changes_nothing()
  local path = temporary()
  lu.assertEquals(run("--log", path, "-e", "print(1)").out, "1\n")
  lu.assertNil(text_of(path))
  disk.write(path, "precious")
  lu.assertEquals(run("--log", path, "-e", "print(1)").out, "1\n")
  lu.assertEquals(text_of(path), "precious")
  os.remove(path)
end

-- A disk that is full after a while: said once, the work goes on, the exit status tells.
TestFullDisk = {}

local function is_refused(command)
  return not os.execute(command .. " > /dev/null 2>&1")
end

function TestFullDisk:setUp()
  if is_refused("unshare -rm mount -t tmpfs -o size=64k none /mnt") then lu.skip("no file systems of our own here") end
  self.folder = temporary()
  assert(os.execute(("mkdir '%s'"):format(self.folder)))
end

function TestFullDisk:tearDown()
  if self.folder then os.execute(("rmdir '%s'"):format(self.folder)) end
end

-- Run with a folder of 64 KiB, of which so many bytes are left: $D/out is the file.
function TestFullDisk:run(left, command, ...)
  local script = ("mount -t tmpfs -o size=64k none '%s' && head -c %d /dev/zero > '%s/fill' && %s"):format(self.folder, 65536 - left,
    self.folder, command:gsub("%$D", self.folder))
  local p <close> = proc.spawn { args = { "unshare", "-rm", "sh", "-c", script, LUAPOOL, ... } }
  local status, out, err = p:finish(60)
  return { exit = status.exit, out = out, err = (err:gsub("^[^:]*: ", "")) }
end

local MUCH = "local n = 0 for i = 1, 4 do n = n + #pool.map(function(i) return ('x'):rep(100) end, 1000) end print(n) "

function TestFullDisk:test_log()
  for _, ending in ipairs { "", "os.exit(true)", "os.exit(0, true)" } do
    local result = self:run(16384, '"$0" -j2 --log $D/out -e "$1"', MUCH .. ending)
    lu.assertEquals({ result.exit, result.out }, { 1, "4000\n" })
    lu.assertStrMatches(result.err, "cannot write the log [^\n]*/out any more: No space left on device\n")
  end
end

-- What a script wants by itself is its own business.
function TestFullDisk:test_log_of_a_script()
  local result = self:run(16384, 'OUT=$D/out "$0" -j2 -e "$1"',
    "local ok, err = pcall(pool.map, function() return ('x'):rep(100) end, 1000, { log = os.getenv 'OUT' }) print(ok, err)")
  lu.assertEquals(result.exit, 0)
  lu.assertStrMatches(result.out, "false\tcannot write the log [^\n]*: No space left on device\n")
end

function TestFullDisk:test_trace()
  local result = self:run(4096, '"$0" -j2 --trace $D/out -e "$1"', MUCH)
  lu.assertEquals({ result.exit, result.out }, { 1, "4000\n" })
  lu.assertStrMatches(result.err, 'cannot write the trace to "[^\n]*/out" any more: No space left on device\n')
end

function TestFullDisk:test_report()
  local result = self:run(4096, '"$0" -j2 --report $D/out -e "$1"', MUCH)
  lu.assertEquals({ result.exit, result.out }, { 1, "4000\n" })
  lu.assertStrMatches(result.err, 'cannot write the report to "[^\n]*/out": No space left on device\n')
end

function TestFullDisk:test_joblog()
  local again = 'seq 2000 | "$0" map -j2 --joblog $D/new _ > /dev/null'
  local result = self:run(16384, 'seq 2000 | "$0" map -j2 --joblog $D/out _ | tail -n 1; ' .. again)
  lu.assertEquals(result.out, "2000\n")
  lu.assertEquals(result.exit, 2) -- the second time there is no room for the first line
  local full = "[^\n]*%s: No space left on device\n"
  lu.assertStrMatches(result.err, full:format("/out") .. full:format("%%-%%-joblog: cannot write [^\n]*/new"))
  result = self:run(16384, 'seq 2000 | "$0" map -j2 --joblog $D/out _')
  lu.assertEquals(result.exit, 1)
end

function TestFullDisk:test_results()
  local result = self:run(16384, 'seq 100000 | "$0" map -j2 _ > $D/out')
  lu.assertEquals(result, { exit = 1, out = "", err = "cannot write: No space left on device\n" })
end

-- The limit on file sizes is no reason to die either.
function TestFullDisk:test_limit_on_file_sizes()
  local result = self:run(65536, 'ulimit -f 40; "$0" -j2 --start fork --log $D/out -e "$1"', MUCH)
  lu.assertEquals({ result.exit, result.out }, { 1, "4000\n" })
  lu.assertStrContains(result.err, "any more: File too large\n")
end

TestLog = {}

function TestLog:setUp()
  self.stem = temporary()
end

function TestLog:path(number) return self.stem .. (number and "." .. number or "") .. ".jsonl" end

function TestLog:tearDown()
  for _, number in ipairs { false, 2, 3 } do os.remove(self:path(number)) end
end

local JOB = [[
  local function show(x) io.stderr:write("<", x, ">") return x end
  local a = pool.map(show, 3)
  local p <close> = pool.new(1)
  for _, v in p:imap(function(x) return show(x * 10) end, 2) do a[#a + 1] = v end
  p:map(function(x) return x end, 2, { log = false })
  p:filter(function(x) return x end, 2)
  p:each(function(x) pool.map(tostring, 2) show(x + 90) end, 1)
  print(table.concat(a, " "))]]

function TestLog:test_every_call_that_can_be_logged_has_a_file()
  local result = run("-j1", "--log", self:path(), "-e", JOB)
  lu.assertEquals(result, { exit = 0, out = "1 2 3 10 20\n", err = "<1><2><3><10><20><91>" })
  lu.assertEquals(select(2, text_of(self:path()):gsub("\n", "")), 4)
  lu.assertEquals(select(2, text_of(self:path(2)):gsub("\n", "")), 3)
  lu.assertEquals(select(2, text_of(self:path(3)):gsub("\n", "")), 2)
end

function TestLog:test_nothing_is_overwritten_and_resume_goes_on()
  run("-j1", "--log", self:path(), "-e", JOB)
  local again = run("-j1", "--log", self:path(), "-e", JOB)
  lu.assertEquals(again.exit, 1)
  lu.assertStrContains(again.err, "has 3 items of this job")
  os.remove(self:path(2))
  local resumed = run("-j1", "--log", self:path(), "--resume", "-e", JOB)
  lu.assertEquals(resumed, { exit = 0, out = "1 2 3 10 20\n", err = "<10><20>" })
end

function TestLog:test_resume_serves_a_log_of_the_scripts_own()
  local code = ("print(#pool.map(function(x) io.stderr:write(x) return x end, 3, { log = %q }))"):format(self:path())
  lu.assertEquals(run("-j1", "-e", code).err, "123")
  lu.assertEquals(run("-j1", "--resume", "-e", code), { exit = 0, out = "3\n", err = "" })
end

TestQuiet = {}

local SLOW = "pool.map(function(x) local t = os.time() while os.time() - t < 2 do end return x end, 2, { workers = 2, progress = true })"

function TestQuiet:test_progress_always_never_and_quiet()
  lu.assertStrContains(run("--progress=always", "-e", "pool.map(function() pool.channel():receive(0.6) end, 2)").err, "2/2")
  lu.assertEquals(run("--progress=never", "-e", SLOW).err, "")
  local p <close> = proc.spawn { args = { LUAPOOL, "--quiet", "-e", SLOW }, pty = true }
  p:finish(60)
  lu.assertEquals(p.stdout, "")
end

function TestQuiet:test_our_warnings_not_the_scripts()
  local code = "do local p = pool.new(1) p:map(tostring, 1) end collectgarbage() collectgarbage() warn('mine')"
  lu.assertStrContains(run("-W", "-e", code).err, "a pool was never closed")
  lu.assertEquals(run("-q", "-W", "-e", code).err, "Lua warning: mine\n")
end
