-- What is installed and packed: every file where it belongs, usable from there, and gone after uninstall.
-- PACKAGES=1 in the environment builds the Debian packages, and what `make dist` packs, too (some minutes): make packages.
local lu = require "luaunit"
local disk = require "disk"
local proc = require "proc"

local BUILD = os.getenv("BUILD") or "build"

local function run(args, options, seconds)
  options = options or {}
  options.args, options.stderr, options.deadline = args, "stdout", (seconds or 60) + 10
  local p <close> = proc.spawn(options)
  local status, out = p:finish(seconds or 60)
  return status.exit, out
end

local function has(program)
  return (os.execute("command -v " .. program .. " > /dev/null 2>&1"))
end

-- A folder that goes away with the test.
local function new_folder()
  local path = disk.make_directory()
  return setmetatable({ path = path }, { __close = function() disk.remove_directory(path) end })
end

-- `make install` links the command and the module anew, for their place: in a copy of the build, not under the tests that run beside.
local function build_of_its_own()
  local folder = new_folder()
  assert(os.execute(("cd '%s' && cp -a embedded* lib* lua luapool luapool.pc places runtime '%s'"):format(BUILD, folder.path)))
  return folder
end

local function make(build, ...)
  return run { "make", "--no-print-directory", "-o", "all", "BUILD=" .. build.path, ... }
end

local function files_below(path)
  local files, pipe = {}, assert(io.popen(("cd '%s' && find . ! -type d | LC_ALL=C sort"):format(path)))
  for line in pipe:lines() do files[#files + 1] = line:sub(2) end
  pipe:close()
  return files
end

local function skip_variants()
  if not BUILD:find("build$") then lu.skip "what is installed is the plain build" end
end

TestInstall = {}

function TestInstall.test_every_file_has_its_place()
  skip_variants()
  local tree <close> = new_folder()
  local build <close> = build_of_its_own()
  local status, out = make(build, "install", "DESTDIR=" .. tree.path, "PREFIX=/opt/x", "CMODDIR=/opt/lua/5.4")
  lu.assertEquals(status, 0, out)
  lu.assertEquals(files_below(tree.path), {
    "/opt/lua/5.4/luapool.so", "/opt/x/bin/luapool", "/opt/x/include/luapool.h", "/opt/x/lib/libluapool.a", "/opt/x/lib/libluapool.so",
    "/opt/x/lib/libluapool.so.0", "/opt/x/lib/pkgconfig/luapool.pc", "/opt/x/share/bash-completion/completions/luapool",
    "/opt/x/share/fish/vendor_completions.d/luapool.fish", "/opt/x/share/man/man1/luapool.1", "/opt/x/share/zsh/site-functions/_luapool" })
  for _, path in ipairs(files_below(tree.path)) do lu.assertTrue(io.open(tree.path .. path):seek("end") > 100, path) end
  status, out = run { tree.path .. "/opt/x/bin/luapool", "-e", "print(#pool.map(tostring, 7))" }
  lu.assertEquals({ status, out }, { 0, "7\n" })
  status, out = make(build, "uninstall", "DESTDIR=" .. tree.path, "PREFIX=/opt/x", "CMODDIR=/opt/lua/5.4")
  lu.assertEquals(status, 0, out)
  lu.assertEquals(files_below(tree.path), {})
end

local PROGRAM = [[
#include <lauxlib.h>
#include <lualib.h>
#include <luapool.h>
#include <stdio.h>
int main(void) {
  lua_State *L = luaL_newstate();
  luapool *p;
  luaL_openlibs(L);
  if (luapool_open(L, NULL, &p) != LUAPOOL_OK) return 1;
  luaL_loadstring(L, "return ...");
  lua_pushinteger(L, 42);
  if (luapool_run(L, p, "apply", 2, 1) != LUAPOOL_OK) return 2;
  printf("%d\n", (int)lua_tointeger(L, -1));
  lua_close(L);
  return 0;
}
]]

function TestInstall.test_programs_find_it_by_pkg_config()
  skip_variants()
  if not has "pkg-config" then lu.skip "no pkg-config here" end
  local tree <close> = new_folder()
  local prefix = tree.path .. "/usr"
  local build <close> = build_of_its_own()
  local status, out = make(build, "install", "PREFIX=" .. prefix)
  lu.assertEquals(status, 0, out)
  local file = assert(io.open(tree.path .. "/program.c", "w"))
  file:write(PROGRAM)
  file:close()
  status, out = run { "sh", "-c", ([[cd '%s' && export PKG_CONFIG_PATH=usr/lib/pkgconfig &&
    cc -o program program.c $(pkg-config --cflags --libs luapool lua5.4) -Wl,-rpath,usr/lib && ./program]]):format(tree.path) }
  lu.assertEquals({ status, out }, { 0, "42\n" })
end

function TestInstall.test_a_rock_without_a_network()
  skip_variants()
  if not has "luarocks" then lu.skip "no luarocks here" end
  local rockspec = assert(io.popen("ls *.rockspec")):read()
  lu.assertEquals({ run { "luarocks", "lint", rockspec } }, { 0, "" })
  local tree <close> = new_folder()
  local status, out = run({ "sh", "-c", ([[$(unshare -n true 2>/dev/null && echo unshare -n) \
    luarocks --lua-version 5.4 --tree '%s' make --no-doc '%s']]):format(tree.path, rockspec) }, nil, 200)
  lu.assertEquals(status, 0, out)
  status, out = run({ "lua5.4", "-e", "print(#require 'luapool'.map(tostring, 3))" },
    { env = { LUA_CPATH = tree.path .. "/lib/lua/5.4/?.so", LUA_CPATH_5_4 = false }, cwd = tree.path })
  lu.assertEquals({ status, out }, { 0, "3\n" })
  lu.assertEquals({ run { tree.path .. "/bin/luapool", "-e", "print(1)" } }, { 0, "1\n" })
end

function TestInstall.test_versions_agree()
  local version = io.open("runtime/luapool.h"):read("a"):match('#define LUAPOOL_VERSION "([%d.]+)"')
  local file = assert(io.open(("luapool-%s-1.rockspec"):format(version)))
  local text = file:read("a")
  file:close()
  lu.assertStrContains(text, ('version = "%s-1"'):format(version))
  local _, out = run { os.getenv("LUAPOOL") or BUILD .. "/luapool", "--version" }
  lu.assertStrContains(out, version)
end

TestDebian = {}

function TestDebian.test_packages()
  if not os.getenv "PACKAGES" then lu.skip "built on request: PACKAGES=1" end
  if not has "dpkg-deb" then lu.skip "no dpkg-deb here" end
  local status, out = run({ "make", "--no-print-directory", "deb" }, nil, 300)
  lu.assertEquals(status, 0, out)
  local debs = {}
  for path in out:gmatch("[^\n]*%.deb") do debs[#debs + 1] = path end
  lu.assertEquals(#debs, 3, out)
  for _, deb in ipairs(debs) do
    local _, depends = run { "dpkg-deb", "-f", deb, "Depends" }
    lu.assertStrMatches(depends, deb:find "-dev_" and "lua%-luapool %(= .*\n" or "libc6 %(>= .*\n", nil, nil, deb)
  end
  if has "lintian" then
    status, out = run({ "lintian", "--allow-root", "--fail-on", "error", table.unpack(debs) }, nil, 120)
    lu.assertEquals(status, 0, out)
  end
  local tree <close> = new_folder()
  for _, deb in ipairs(debs) do lu.assertEquals({ run { "dpkg-deb", "-x", deb, tree.path } }, { 0, "" }) end
  local module = io.popen(("ls '%s'/usr/lib/*/lua/5.4/luapool.so"):format(tree.path)):read()
  status, out = run({ "lua5.4", "-e", "print(#require 'luapool'.map(tostring, 3))" },
    { env = { LUA_CPATH = module:gsub("luapool%.so$", "?.so"), LUA_CPATH_5_4 = false } })
  lu.assertEquals({ status, out }, { 0, "3\n" })
end

TestSources = {}

-- What `make dist` packs is enough to build from, and where it was built does not show: two places, the same bytes.
function TestSources.test_the_same_bytes_wherever_it_is_built()
  if not os.getenv "PACKAGES" then lu.skip "built on request: PACKAGES=1" end
  if not (has "git" and os.execute "git rev-parse HEAD > /dev/null 2>&1") then lu.skip "no git or no repository here" end
  local tree <close> = new_folder()
  local status, out = run({ "make", "--no-print-directory", "dist", "BUILD=" .. tree.path }, nil, 60)
  lu.assertEquals(status, 0, out)
  for _, place in ipairs { "one", "another/place" } do
    status, out = run({ "sh", "-e", "-c", ([[
      cd '%s'
      mkdir -p %s
      tar -xzf luapool-*.tar.gz -C %s --strip-components=1
      make -C %s install PREFIX=/usr DESTDIR='%s/installed/%s'
    ]]):format(tree.path, place, place, place, tree.path, place) }, { env = { BUILD = false, MAKEFLAGS = false } }, 600)
    lu.assertEquals(status, 0, out)
  end
  lu.assertEquals({ run { "diff", "-r", tree.path .. "/installed/one", tree.path .. "/installed/another/place" } }, { 0, "" })
  lu.assertEquals(#files_below(tree.path .. "/installed/one"), 11)
end
