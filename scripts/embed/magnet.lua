-- magnet.lua -- a plug-in for lighttpd's mod_magnet: a page that several workers make, while the server stays a server.
--
--   server.modules += ("mod_magnet")
--   $HTTP["url"] =~ "^/primes" { magnet.attract-raw-url-to = ("/path/to/magnet.lua") }
--
-- GET /primes?n=100000 says how many primes there are up to n. The pool is made by the first request and lives as long as the server's Lua
-- state. Its workers are clean processes that a helper forks (start = "server"): none of the server's sockets is in them, and its
-- handler for SIGCHLD, which reaps every child, does no harm. A request that takes longer than 10 s is answered with an error.
local pool = require "luapool"

local NAME <const> = "luapool.primes" -- (a script's own globals do not outlive its request)
local BLOCK <const> = 1000

local function primes_in(block)
  local count = 0
  for n = math.max(2, (block - 1) * BLOCK + 1), block * BLOCK do
    local divisor, is_prime = 2, true
    while divisor * divisor <= n do
      if n % divisor == 0 then
        is_prime = false
        break
      end
      divisor = divisor + 1
    end
    if is_prime then count = count + 1 end
  end
  return count
end

local p = package.loaded[NAME] or pool.new { workers = 2, start = "server", name = "primes" }
package.loaded[NAME] = p

local function answer(status, text)
  lighty.r.resp_body.set(text .. "\n")
  lighty.r.resp_header["Content-Type"] = "text/plain"
  return status
end

local query = lighty.r.req_attr["uri.query"] or ""
local n = math.tointeger(tonumber(query:match("n=(%d+)")))
if not n or n < 1 or n > 10000000 then return answer(400, "n should be a number from 1 to 10000000") end

local ok, result = pcall(function()
  local sum, blocks = 0, (n + BLOCK - 1) // BLOCK
  for _, count in ipairs(p:map(primes_in, blocks, { deadline = 10 })) do sum = sum + count end
  for k = n + 1, blocks * BLOCK do -- the last block reaches beyond n
    local is_prime = k > 1
    for divisor = 2, math.floor(math.sqrt(k)) do is_prime = is_prime and k % divisor ~= 0 end
    if is_prime then sum = sum - 1 end
  end
  return sum
end)
if not ok then return answer(500, tostring(result)) end
return answer(200, ("%d primes up to %d, by %d workers"):format(result, n, #p:workers()))
