std = "lua54"
max_line_length = 140
-- The command predefines `pool`; a script under another interpreter requires it.
read_globals = { "pool" }
-- luaunit finds tests by their global names.
files["tests/test_*.lua"] = { globals = { "arg" }, allow_defined_top = true, ignore = { "212/self", "43./self", "11[123]/[Cc]odec_[Tt]est_.*" } }
files["tests/run*.lua"] = { globals = { "arg" } }
files["scripts"] = { globals = { "pool" } }
files["scripts/embed/magnet.lua"] = { globals = { "lighty" } } -- the server's
