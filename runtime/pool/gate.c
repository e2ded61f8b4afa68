/* pool/gate -- see gate.h (may include base/os.h). */
#include "pool/gate.h"

#include "base/os.h"

/*
 * Workers that looked all at once would all see that nobody else runs, or each the others who look: so each has a rhythm of its own.
 */
enum { LOOK_EVERY_NS = 100 * 1000000, RHYTHMS = 16, RHYTHM_NS = 7 * 1000000 };

/* (This process runs, too, while it looks.) */
static int is_crowded(const struct gate *gate) {
  int running = gate->most_load ? os_running("") : -1;
  return running > 0 && (uint64_t)(running - 1) * 1000 >= gate->most_load;
}

static int is_short_of_memory(const struct gate *gate) {
  return gate->least_memory != 0 && os_memory_left("") < gate->least_memory;
}

int gate_is_closed(struct gate *gate) {
  int64_t now;
  if (gate->least_memory == 0 && gate->most_load == 0) return 0;
  now = os_now_ns();
  if (now >= gate->next_look_ns) {
    gate->is_closed = is_crowded(gate) || is_short_of_memory(gate);
    gate->next_look_ns = now + LOOK_EVERY_NS + (int64_t)(gate->number % RHYTHMS) * RHYTHM_NS;
  }
  return gate->is_closed;
}
