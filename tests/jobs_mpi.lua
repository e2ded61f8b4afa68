-- Jobs on many machines, for tests: started, looked at, and what they must not leave. MPIEXEC="mpiexec.mpich": with another MPI (and
-- LUAPOOL_ENGINE, its engine), but for what only Open MPI promises. See test_mpi.lua and test_mpi_loss.lua.
local lu = require "luaunit"
local proc = require "proc"

local LUAPOOL = os.getenv("LUAPOOL") or "build/luapool"
local BUILD = os.getenv("BUILD") or "build"
local SECONDS <const> = 90

local function is_file(path)
  local file = io.open(path)
  if file then file:close() end
  return file ~= nil
end

local MPIEXEC = os.getenv("MPIEXEC")
local ENGINE = os.getenv("LUAPOOL_ENGINE") or BUILD .. "/luapool-mpi.so"
local HAS_MPI = os.execute(("command -v %s > /dev/null 2>&1"):format(MPIEXEC or "mpirun")) and is_file(ENGINE)

local function need_mpi()
  if not HAS_MPI then lu.skip("no mpirun, or no luapool-mpi.so (make MPI=1)") end
end

local function need_open_mpi()
  need_mpi()
  if MPIEXEC then lu.skip("not promised with " .. MPIEXEC) end
end

local function file_with(text, name)
  name = name or os.tmpname()
  local file = assert(io.open(name, "w"))
  file:write(text)
  file:close()
  return name
end

local ENVIRONMENT = { OMPI_ALLOW_RUN_AS_ROOT = "1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM = "1", LUAPOOL_LOST_AFTER = "5" }

-- Open MPI's files are in TMPDIR, shared memory, too.
local function in_folder(env, folder)
  env.TMPDIR = folder
  return env
end

local FOLDER <const> = os.tmpname() -- of what is started without one of its own
os.remove(FOLDER)

local function environment(more)
  local all = in_folder({}, FOLDER)
  os.execute("mkdir -p " .. FOLDER)
  for name, value in pairs(ENVIRONMENT) do all[name] = value end
  for name, value in pairs(more or {}) do all[name] = value end
  return all
end

-- A process that runs the script on `nodes` nodes; nil: on this machine alone.
local function start(nodes, text, options)
  options = options or {}
  local path = file_with(text)
  local args = { LUAPOOL, "-j", "2", path }
  if nodes then table.insert(args, 2, MPIEXEC and ("--mpirun=%s -n %d"):format(MPIEXEC, nodes) or "--mpi=" .. nodes) end
  for _, word in ipairs(options.args or {}) do args[#args + 1] = word end
  local p = proc.spawn { args = args, env = environment(options.env), stdin = options.stdin, pty = options.pty, deadline = SECONDS }
  return p, path
end

-- mpirun keeps its files there.
local function new_folder()
  local name = os.tmpname()
  os.remove(name)
  os.execute("mkdir " .. name)
  return name
end

local function files_below(folder)
  local pipe = io.popen("find " .. folder .. " -mindepth 1")
  local text = pipe:read("a")
  pipe:close()
  return text
end

-- Nothing of it may be left: no process, no file, no folder.
local function check_end(process, folder)
  local left = {}
  proc.wait_until(function()
    left = proc.leftovers(process.mark)
    return #left == 0
  end, 20)
  lu.assertEquals(#left, 0, "processes left behind")
  lu.assertTrue(proc.wait_until(function() return files_below(folder) == "" end, 10), files_below(folder))
  os.execute("rm -rf " .. folder)
end

local function run(nodes, text, options)
  need_mpi()
  local folder = new_folder()
  options = options or {}
  options.env = in_folder(options.env or {}, folder)
  local process <close>, path = start(nodes, text, options)
  local status, out, err = process:finish(SECONDS)
  os.remove(path)
  check_end(process, folder)
  return status, out, err
end

return {
  LUAPOOL = LUAPOOL, BUILD = BUILD, SECONDS = SECONDS, MPIEXEC = MPIEXEC, HAS_MPI = HAS_MPI, need_mpi = need_mpi,
  need_open_mpi = need_open_mpi, file_with = file_with, in_folder = in_folder, environment = environment, start = start,
  new_folder = new_folder, check_end = check_end, run = run,
  last = setmetatable({}, { __gc = function() os.execute("rm -rf " .. FOLDER) end }),
}
