-- disk.lua -- files and directories of tests, in one call each; what cannot be done is an error.
local disk = {}

--- Everything in the file.
function disk.read(path)
  local file <close> = assert(io.open(path, "rb"))
  return assert(file:read("a"))
end

--- Everything in the file; nil: there is none.
function disk.text_of(path)
  local file <close> = io.open(path, "rb")
  return file and file:read("a")
end

--- Make the file anew.
function disk.write(path, text)
  local file <close> = assert(io.open(path, "wb"))
  assert(file:write(text))
end

--- The name of a new file with that text; without one, of none.
function disk.temporary(text)
  local path = os.tmpname()
  if text then disk.write(path, text) else os.remove(path) end
  return path
end

--- The name of a new directory.
function disk.make_directory()
  local path = disk.temporary()
  assert(os.execute(("mkdir '%s'"):format(path)))
  return path
end

--- Remove a directory with all that is in it.
function disk.remove_directory(path)
  assert(os.execute(("rm -rf '%s'"):format(path)))
end

return disk
