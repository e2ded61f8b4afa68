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

-- A house with one sin at a time; flags: what a file is compiled with.
local function check(files, flags)
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
      local compile = "cd '%s' && mkdir -p build/%s && cc -w -Iruntime %s -c -o build/%s/%s.o '%s'"
      assert(os.execute(compile:format(house, directory, flags and flags[name] or "", directory, stem, name)))
    end
  end
  local status, out = run({ "lua5.4", "scripts/check-layers.lua", house .. "/build" }, { ROOT = house })
  os.execute(("rm -r '%s'"):format(house))
  return out, status
end

local function assert_sin(files, complaint, flags)
  local out, status = check(files, flags)
  lu.assertEquals(status, 1, out)
  lu.assertStrContains(out, complaint)
  lu.assertStrContains(out, ", 1 complaints")
end

function TestHouse:test_lines_are_not_too_long()
  local line = "/* base/long" .. ("."):rep(125) .. " */"
  lu.assertEquals(#line, 140)
  local out, status = check { ["runtime/base/long.h"] = line .. "\n" }
  lu.assertEquals(status, 0, out)
  assert_sin({ ["runtime/base/long.h"] = "/* base/long */\n" .. line .. " \n" }, "runtime/base/long.h:2: 141 columns")
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

function TestHouse:test_fault_points_in_a_header()
  assert_sin({ ["runtime/base/fault.h"] = "/* f */\n", ["runtime/pool/a.h"] = '/* a */\n#include "base/fault.h"\n' },
    "runtime/pool/a.h: includes base/fault.h, which is for .c files")
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

function TestHouse:test_tables_for_exceptions()
  local with, without = "-fexceptions -funwind-tables", "-fno-exceptions -fno-unwind-tables -fno-asynchronous-unwind-tables"
  local calls_lua = { ["runtime/job/a.c"] = "/* a */ void lua_error(void); void a(void); void a(void) { lua_error(); }\n" }
  local flags = { ["runtime/base/good.c"] = with, ["runtime/job/a.c"] = without }
  assert_sin(calls_lua, "runtime/job/a.o: has no tables for exceptions, but uses lua_error", flags)
  flags["runtime/job/a.c"] = with
  local out, status = check(calls_lua, flags)
  lu.assertEquals(status, 0, out)
  local calls_other = { ["runtime/pool/a.c"] = "/* a */ int good(void); int a(void); int a(void) { return good() + 1; }\n" }
  assert_sin(calls_other, "runtime/pool/a.o: has no tables for exceptions, but uses good of runtime/base/good.o, which has",
    { ["runtime/base/good.c"] = with, ["runtime/pool/a.c"] = without })
  out, status = check(calls_other, { ["runtime/base/good.c"] = without, ["runtime/pool/a.c"] = without })
  lu.assertEquals(status, 0, out)
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

-- A code as packed.h has it -> symbol by "length:word".
local function read_code(code, first, n)
  local symbols, word = {}, 0
  for length = 1, 15 do
    for symbol = 0, n - 1 do
      local nibbles = code:byte((first + symbol) // 2 + 1)
      if ((first + symbol) % 2 == 0 and nibbles >> 4 or nibbles & 15) == length then
        symbols[length .. ":" .. word], word = symbol, word + 1
      end
    end
    word = word << 1
  end
  return symbols
end

-- What base/packed.c does.
local function expand(code, packed, length)
  local bytes, distances, at, distance = read_code(code, 0, 272), read_code(code, 272, 34), 0, nil
  local function take(n)
    local value = 0
    for _ = 1, n do
      value = value << 1 | packed:byte(at // 8 + 1) >> (7 - at % 8) & 1
      at = at + 1
    end
    return value
  end
  local function symbol(symbols)
    local word, n = 0, 0
    repeat word, n = word << 1 | take(1), n + 1 until symbols[n .. ":" .. word]
    return symbols[n .. ":" .. word]
  end
  local function value(bucket)
    if bucket < 4 then return bucket end
    local n = bucket // 2 - 1
    return (2 | bucket & 1) << n | take(n)
  end
  local out = {}
  while #out < length do
    local byte = symbol(bytes)
    if byte < 256 then
      out[#out + 1] = string.char(byte)
    else
      local n, far = value(byte - 256) + 2, symbol(distances)
      if far > 0 then distance = value(far - 1) + 1 end
      for _ = 1, n do out[#out + 1] = out[#out + 1 - distance] end
    end
  end
  lu.assertEquals((at + 7) // 8, #packed)
  return table.concat(out)
end

-- Bytecode with its lines and names is the same: so are messages and tracebacks.
function TestHouse:test_files_without_comments_compile_to_the_same()
  local files = lua_files()
  local texts = {}
  lu.assertTrue(#files > 60, "files are there")
  for _, file in ipairs(files) do
    local stripped = embed.strip(file.text)
    lu.assertTrue(string.dump(assert(load(stripped, "=f", "t"))) == string.dump(assert(load(file.text, "=f", "t"))), file.path)
    lu.assertTrue(#stripped <= #file.text + 1, file.path)
    if file.path:find("^lua/") then
      lu.assertNotStrContains(stripped, "Room: lua")
      texts[#texts + 1] = stripped
    end
  end
  local code, packed = embed.pack(texts)
  local n_bytes, n_packed = 0, 0
  for number, text in ipairs(texts) do
    lu.assertTrue(expand(code, packed[number], #text) == text, text:sub(1, 100))
    n_bytes, n_packed = n_bytes + #text, n_packed + #packed[number]
  end
  lu.assertTrue(n_packed < n_bytes / 3, n_packed .. " of " .. n_bytes)
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
  local cases = { "", "a", ("a"):rep(1000), bytes, bytes .. bytes, bytes .. ("x"):rep(600) .. bytes }
  local function assert_same(texts)
    local code, packed = embed.pack(texts)
    lu.assertEquals(#code, (272 + 34) // 2)
    for number, text in ipairs(texts) do lu.assertTrue(expand(code, packed[number], #text) == text, "case " .. number) end
    return packed
  end
  assert_same(cases)
  for _, case in ipairs(cases) do assert_same { case } end
  lu.assertTrue(#assert_same { ("a"):rep(1000) }[1] < 20)
  local noise, seed = {}, 1
  for k = 1, 66000 do
    seed = (seed * 1103515245 + 12345) & 0x7fffffff
    noise[k] = string.char(seed >> 16 & 255)
  end
  assert_same { bytes .. table.concat(noise) .. bytes } -- farther than a distance can be
  -- Symbols so different in number that some code words would be too long.
  local rare = {}
  for k = 0, 24 do rare[#rare + 1] = string.char(65 + k, 1 + k * 7 % 40):rep(1 << (k // 2)) .. string.char(k, 200 + k, 100 - k) end
  assert_same(rare)
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
