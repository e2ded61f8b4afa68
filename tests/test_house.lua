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
  for _, script in ipairs { "scripts/demo", "scripts/install-dependencies", ".ci/run" } do
    local status, out = run { "sh", "-n", script }
    lu.assertEquals({ status, out }, { 0, "" }, script)
  end
end

-- A house with one sin at a time.
local function check(files)
  local house = os.tmpname()
  os.remove(house)
  assert(os.execute(("cd / && mkdir -p '%s' && cd '%s' && mkdir -p runtime/base runtime/pool runtime/job lua/luapool lua/command build")
    :format(house, house)))
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

function TestHouse:test_the_library_asks_for_nothing_of_the_command()
  assert_sin({ ["lua/luapool/a.lua"] = 'local _, part = ...\nlocal b = part("b")\n', ["lua/command/b.lua"] = "" },
    "lua/luapool/a.lua: asks for the part b, which only the command has (lua/command)")
  assert_sin({ ["lua/luapool/a.lua"] = 'return part "b".c\n' }, "lua/luapool/a.lua: asks for the part b, which is not there")
  assert_sin({ ["lua/luapool/a.lua"] = "", ["lua/command/a.lua"] = "" }, "lua/command/a.lua: there is a lua/luapool/a.lua, too")
  local out, status = check { ["lua/command/a.lua"] = 'part("b")', ["lua/luapool/b.lua"] = "" }
  lu.assertEquals(status, 0, out)
end

-- ---- the files of lua/, as they are embedded ----

local embed = dofile "scripts/embed-lua.lua"

local function lua_files()
  local pipe, list = assert(io.popen("find lua scripts tests -name '*.lua' | sort")), {}
  for path in pipe:lines() do
    local file = assert(io.open(path, "rb"))
    list[#list + 1] = { path = path, text = file:read("a"):gsub("^#[^\n]*", "") }
    file:close()
  end
  pipe:close()
  return list
end

-- What base/packed.c does.
local function expand(packed)
  local out, i = {}, 1
  while i <= #packed do
    local byte, second, third = packed:byte(i, i + 2)
    if byte < 127 then
      out[#out + 1], i = string.char(byte), i + 1
    elseif byte == 127 then
      out[#out + 1], i = string.char(second), i + 2
    else
      local n, away = 3 + (byte >> 3 & 7), ((byte & 7) << 8 | second) + 1
      if byte >= 0xC0 then n, away = 3 + (byte & 63), (second << 8 | third) + 1 end
      for _ = 1, n do out[#out + 1] = out[#out + 1 - away] end
      i = i + (byte < 0xC0 and 2 or 3)
    end
  end
  return table.concat(out)
end

-- Bytecode with its lines and names is the same: so are messages and tracebacks.
function TestHouse:test_files_without_comments_compile_to_the_same()
  local files = lua_files()
  lu.assertTrue(#files > 60, "files are there")
  for _, file in ipairs(files) do
    local stripped = embed.strip(file.text)
    lu.assertTrue(string.dump(assert(load(stripped, "=f", "t"))) == string.dump(assert(load(file.text, "=f", "t"))), file.path)
    lu.assertTrue(#stripped <= #file.text + 1, file.path)
    if file.path:find("^lua/") then
      lu.assertNotStrContains(stripped, "Room: lua")
      lu.assertTrue(expand(embed.pack(stripped)) == stripped, file.path)
    end
  end
end

function TestHouse:test_stripping_knows_strings_and_tokens()
  local function same(text, expected)
    lu.assertEquals(embed.strip(text), expected .. "\n")
    lu.assertEquals(string.dump(assert(load(text, "=f"))), string.dump(assert(load(expected, "=f"))), text)
  end
  same('local a = "--[[ no comment" -- a comment', 'local a="--[[ no comment"')
  same("local a = '\\'-- still' --", "local a='\\'-- still'")
  same("local a = [==[ --\n ]] ]==] --[==[ \n ]] ]==] local b", "local a= [==[ --\n ]] ]==]\nlocal b")
  same("local a = 1 --[[x]] local--\n\n  b", "local a=1 local\n\nb")
  same("local a = 0xe +1 - - 2", "local a=0xe+1- -2")
  same("local a = 1e+5 .. 2 .. 'x' .. 3.", "local a=1e+5 ..2 ..'x'..3.")
  same("local t = { } ; local a = t [ [[x]] ]", "local t={};local a=t[ [[x]]]")
  same("local a <const> = 1 ; goto l :: l ::", "local a<const> =1;goto l::l::")
  same("return 1 ~= 2 , ~ 3 // 4 , not nil", "return 1~=2,~3//4,not nil")
  same('return "a\\\nb" -- c', 'return"a\\\nb"')
  lu.assertErrorMsgContains("a string without an end", embed.strip, "return 'a")
  lu.assertErrorMsgContains("a long bracket without an end", embed.strip, "return [[a")
end

function TestHouse:test_packing_any_bytes()
  local all = {}
  for byte = 0, 255 do all[#all + 1] = string.char(byte) end
  local bytes = table.concat(all)
  local cases = { "", "a", ("a"):rep(1000), bytes, bytes .. bytes, bytes .. ("x"):rep(3000) .. bytes }
  cases[#cases + 1] = bytes .. ("y"):rep(70000) .. bytes -- farther than a distance can be
  for number, case in ipairs(cases) do lu.assertTrue(expand(embed.pack(case)) == case, "case " .. number) end
  lu.assertTrue(#embed.pack(("a"):rep(1000)) < 60)
end

-- Where nothing can be installed, the list of what is missing is said, at once and by name.
function TestHouse:test_missing_packages_are_listed()
  local tools = os.tmpname()
  os.remove(tools)
  local link = [[mkdir '%s' && for tool in sh cc make cat printf id; do ln -s "$(command -v $tool)" '%s'; done]]
  assert(os.execute(link:format(tools, tools)))
  local status, out = run({ "/bin/sh", "scripts/install-dependencies", "demo" }, { PATH = tools })
  lu.assertEquals({ status, out },
    { 1, "install-dependencies: no apt-get, dnf, apk or brew here; please install: pkg-config lua-headers lua\n" })
  local file = assert(io.open(tools .. "/apt-get", "w"))
  file:write("#!/bin/sh\necho \"asked for: $*\"\nexit 100\n")
  file:close()
  os.execute(("chmod +x '%s/apt-get' && ln -s \"$(command -v env)\" '%s'"):format(tools, tools))
  local failed, words = run({ "/bin/sh", "scripts/install-dependencies", "demo" }, { PATH = tools })
  os.execute(("rm -r '%s'"):format(tools))
  lu.assertEquals(failed, 1)
  lu.assertStrContains(words, "installing with apt: pkg-config liblua5.4-dev lua5.4\n")
  lu.assertStrContains(words, "still missing: pkg-config lua-headers lua\n")
end

function TestHouse:test_nothing_is_installed_when_all_is_there()
  lu.assertEquals({ run { "sh", "scripts/install-dependencies", "test" } }, { 0, "" })
end
