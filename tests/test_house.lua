-- The rules of the house hold, and the checks that say so can say otherwise.
local lu = require "luaunit"
local proc = require "proc"

local BUILD = os.getenv "BUILD"

TestHouse = {}

local function run(arguments, environment, cwd)
  local p <close> = proc.spawn { args = arguments, env = environment, cwd = cwd, stderr = "stdout", deadline = 300 }
  local status, out = p:finish(300)
  return status.exit, out
end

function TestHouse:test_layers()
  local status, out = run { "lua5.4", "scripts/check-layers.lua", BUILD }
  lu.assertEquals(status, 0, out)
  local sources, objects = out:match("layers: (%d+) sources, (%d+) objects")
  lu.assertTrue(tonumber(sources) > 20 and tonumber(objects) > 15, out)
end

function TestHouse:test_luacheck()
  local status, out = run { "luacheck", "--no-color", "-q", "lua", "scripts", "tests" }
  lu.assertEquals(status, 0, out)
end

function TestHouse:test_shell_scripts_parse()
  for _, script in ipairs { "scripts/demo", "scripts/embed-lua", "scripts/install-dependencies", ".ci/run" } do
    local status, out = run { "sh", "-n", script }
    lu.assertEquals({ status, out }, { 0, "" }, script)
  end
end

-- A house with one sin at a time.
local function check(files)
  local house = os.tmpname()
  os.remove(house)
  assert(os.execute(("mkdir -p '%s/runtime/base' '%s/runtime/pool' '%s/runtime/job' '%s/build'"):format(house, house, house, house)))
  files["runtime/base/good.c"] = "/* base/good */ int good(void); int good(void) { return 1; }\n"
  for name, text in pairs(files) do
    local file = assert(io.open(house .. "/" .. name, "w"))
    file:write(text)
    file:close()
  end
  for name in pairs(files) do
    local directory, stem = name:match("^(.*)/(.*)%.c$")
    if stem then
      local compile = "cd '%s' && mkdir -p build/%s && cc -w -Iruntime -c -o build/%s/%s.o '%s'"
      assert(os.execute(compile:format(house, directory, directory, stem, name)))
    end
  end
  local status, out = run({ "lua5.4", "scripts/check-layers.lua", house .. "/build" }, { ROOT = house })
  os.execute(("rm -r '%s'"):format(house))
  return out, status
end

local function assert_sin(files, complaint)
  local out, status = check(files)
  lu.assertEquals(status, 1, out)
  lu.assertStrContains(out, complaint)
  lu.assertStrContains(out, ", 1 complaints")
end

function TestHouse:test_a_good_house_passes()
  local out, status = check {
    ["runtime/pool/above.c"] = '/* pool/above */\n#include "base/below.h"\n#include "pool/above.h"\n',
    ["runtime/pool/above.h"] = "/* pool/above */\n", ["runtime/base/below.h"] = "/* base/below */\n",
  }
  lu.assertEquals({ status, out }, { 0, "layers: 4 sources, 2 objects, 0 complaints\n" })
end

function TestHouse:test_including_a_higher_floor()
  assert_sin({ ["runtime/base/a.c"] = '/* a */\n#include "pool/b.h"\n', ["runtime/pool/b.h"] = "/* b */\n" },
    "runtime/base/a.c: includes pool/b.h, which is on a higher floor")
end

function TestHouse:test_including_a_neighbour()
  local files = { ["runtime/base/a.c"] = '/* a */\n#include "base/b.h"\n', ["runtime/base/b.h"] = "/* b */\n" }
  assert_sin(files, "includes its neighbour base/b.h")
  files["runtime/base/a.c"] = '/* a: may include\n * base/b.h */\n#include "base/b.h"\n'
  local out, status = check(files)
  lu.assertEquals(status, 0, out)
end

function TestHouse:test_lua_below_its_floor()
  assert_sin({ ["runtime/pool/a.c"] = "/* a */ void lua_error(void); void a(void); void a(void) { lua_error(); }\n" }, "uses lua_error")
end

function TestHouse:test_printing_and_exiting()
  assert_sin({ ["runtime/job/a.c"] = "/* a */ int puts(const char *); void a(void); void a(void) { puts(\"\"); }\n" }, "uses puts")
  assert_sin({ ["runtime/job/a.c"] = "/* a */ void exit(int); void a(void); void a(void) { exit(1); }\n" }, "uses exit")
  assert_sin({ ["runtime/job/a.c"] = "/* a */ void _exit(int); void a(void); void a(void) { _exit(1); }\n" }, "uses _exit")
end

function TestHouse:test_what_a_library_does_not_do()
  assert_sin({ ["runtime/pool/a.c"] = "/* a */ int chdir(const char *); void a(void); void a(void) { chdir(\"/\"); }\n" }, "uses chdir")
  assert_sin({ ["runtime/base/a.c"] = "/* a */ int waitpid(int, int *, int); void a(void); void a(void) { waitpid(-1, 0, 0); }\n" },
    "uses waitpid")
end

function TestHouse:test_a_file_without_a_header_comment()
  assert_sin({ ["runtime/base/a.h"] = "int a;\n" }, "does not begin with a comment")
end

-- Where nothing can be installed, the list of what is missing is said, at once and by name.
function TestHouse:test_missing_packages_are_listed()
  local tools = os.tmpname()
  os.remove(tools)
  local link = [[mkdir '%s' && for tool in sh cc make cat printf id; do ln -s "$(command -v $tool)" '%s'; done]]
  assert(os.execute(link:format(tools, tools)))
  local status, out = run({ "/bin/sh", "scripts/install-dependencies", "demo" }, { PATH = tools })
  lu.assertEquals({ status, out },
    { 1, "install-dependencies: no apt-get, dnf, apk or brew here; please install: pkg-config lua-headers\n" })
  local file = assert(io.open(tools .. "/apt-get", "w"))
  file:write("#!/bin/sh\necho \"asked for: $*\"\nexit 100\n")
  file:close()
  os.execute(("chmod +x '%s/apt-get' && ln -s \"$(command -v env)\" '%s'"):format(tools, tools))
  local failed, words = run({ "/bin/sh", "scripts/install-dependencies", "demo" }, { PATH = tools })
  os.execute(("rm -r '%s'"):format(tools))
  lu.assertEquals(failed, 1)
  lu.assertStrContains(words, "installing with apt: pkg-config liblua5.4-dev\n")
  lu.assertStrContains(words, "still missing: pkg-config lua-headers\n")
end

function TestHouse:test_nothing_is_installed_when_all_is_there()
  lu.assertEquals({ run { "sh", "scripts/install-dependencies", "test" } }, { 0, "" })
end
