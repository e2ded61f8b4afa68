-- sim/figures -- what the manager's two processes need for a message, in seconds of a processor. Part of the simulation (see sim/world).
-- sim/measure found, as the least of several runs: 18 us a batch in the script's process (of that Lua code: 4.5), 9 us in the relay; 16 ns
-- a number in the script's process, 0.33 ns a byte in the relay; 4 ns for an instruction. How a batch divides into send, receive, write,
-- wait, and wake, agent, pauses and the start of a worker are assumptions: nobody has measured them one by one.
return {
  instruction = 4e-9,        -- one of Lua's virtual machine, in the script's process
  send = 4.0e-6,             -- to pack a message and to put it where it is written from, besides the Lua code
  receive = 3.5e-6,          -- to take one that has come, and read it
  write = 3.5e-6,            -- to write to the socket what was put
  wait = 2.5e-6,             -- to look at the socket
  wake = 10e-6,              -- until a process that slept runs
  value = 16e-9,             -- a number among the results: read, and put where it belongs
  relay = 4.5e-6,            -- a message that the relay of the manager carries, one way
  relay_byte = 0.35e-9,
  agent = 60e-6,             -- through a node's relay and the process of its pool, both together
  most_pause = 1e-3,         -- between two looks of a relay that has nothing to do; least_pause: that has
  least_pause = 50e-6,
  worker_start = 0.3e-3,     -- to fork a worker
  head = 17,                 -- bytes of a message without values, and of a number among values
  number = 9,
  dense = 8,                 -- of a number among many of its kind; of integers that are near each other, less
  bandwidth = 1.25e9,        -- bytes per second of a network card: 10 Gbit/s
}
