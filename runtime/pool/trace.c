/* pool/trace -- see trace.h (may include pool/tracefile.h). */
#include "pool/trace.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"

enum { FIRST_BIN_NS = 100 * 1000, LATE_NS = 1000 * 1000 * 1000, TEXT_BYTES = 96 };

void trace_init(struct trace *t) {
  memset(t, 0, sizeof *t);
  t->began_ns = os_now_ns();
  t->bin_ns = FIRST_BIN_NS;
}

void trace_free(struct trace *t) {
  free(t->tracks);
  t->tracks = NULL;
  t->n_tracks = 0;
}

/* ---- time in bins ---- */

static struct trace_track *track_of(struct trace *t, uint32_t number) {
  if (number >= t->n_tracks) {
    uint32_t n = number + 1;
    struct trace_track *tracks = realloc(t->tracks, n * sizeof *tracks);
    if (tracks == NULL) return NULL;
    memset(tracks + t->n_tracks, 0, (n - t->n_tracks) * sizeof *tracks);
    t->tracks = tracks;
    t->n_tracks = n;
  }
  return &t->tracks[number];
}

/* Bins become twice as long. */
static void fold_bins(struct trace *t) {
  uint32_t i, bin, part;
  for (i = 0; i < t->n_tracks; i++)
    for (bin = 0; bin < TRACE_BINS; bin++)
      for (part = 0; part < TRACE_PARTS; part++) {
        int64_t (*bins)[TRACE_PARTS] = t->tracks[i].bins;
        bins[bin][part] = bin < TRACE_BINS / 2 ? bins[2 * bin][part] + bins[2 * bin + 1][part] : 0;
      }
  t->bin_ns *= 2;
}

/* Of [begin, begin + length), since the record began, `amount` went into `part`, evenly. */
static void spread(const struct trace *t, struct trace_track *track, enum trace_part part, int64_t begin, int64_t length, int64_t amount) {
  int64_t at = begin, end = begin + length;
  if (amount <= 0) return;
  if (length <= 0) {
    track->bins[begin / t->bin_ns][part] += amount;
    return;
  }
  while (at < end) {
    int64_t bin = at / t->bin_ns, stop = (bin + 1) * t->bin_ns;
    if (stop > end) stop = end;
    track->bins[bin][part] += (int64_t)((double)amount * (double)(stop - at) / (double)length);
    at = stop;
  }
}

static void add_to_bins(struct trace *t, uint32_t number, const struct event *e) {
  int64_t begin = e->begin_ns - t->began_ns, end = begin + e->length_ns;
  struct trace_track *track = track_of(t, number);
  if (track == NULL) {
    t->lost++;
    return;
  }
  while (end / t->bin_ns >= TRACE_BINS) fold_bins(t);
  if (number == TRACE_HOST) {
    spread(t, track, TRACE_READ, begin, e->length_ns, e->read_ns);
    spread(t, track, TRACE_WRITE, begin, e->length_ns, e->write_ns);
    spread(t, track, TRACE_SLEEP, begin, e->length_ns, e->sleep_ns);
    return;
  }
  spread(t, track, TRACE_BUSY, begin, e->length_ns, e->busy_ns);
  spread(t, track, TRACE_ENCODE, begin, e->length_ns, e->kind == EVENT_ENCODE ? e->length_ns : e->encode_ns);
  spread(t, track, TRACE_ROOM, begin, e->length_ns, e->kind == EVENT_ROOM ? e->length_ns : e->room_ns);
  spread(t, track, TRACE_IDLE, begin, e->length_ns, e->idle_ns);
}

/* ---- events ---- */

static void name_track(struct trace *t, uint32_t number) {
  struct trace_track *track = track_of(t, number);
  char text[TEXT_BYTES];
  if (t->file == NULL || track == NULL || track->is_named) return;
  track->is_named = 1;
  snprintf(text, sizeof text, number == TRACE_HOST ? "\"host\"" : "\"worker %" PRIu32 "\"", number);
  tracefile_name(t->file, t->group, number + 1, text);
}

static int64_t clamp(int64_t value, int64_t most) {
  return value < 0 ? 0 : value > most ? most : value;
}

/* Does it lie within the time there was? Its parts are made to fit into it. */
static int makes_sense(const struct trace *t, struct event *e) {
  int64_t now = os_now_ns();
  if (e->kind == EVENT_NONE || e->kind > EVENT_CYCLE) return 0;
  if (e->begin_ns < t->began_ns || e->begin_ns > now || e->length_ns < 0 || e->length_ns > now + LATE_NS - e->begin_ns) return 0;
  e->busy_ns = clamp(e->busy_ns, e->length_ns);
  e->idle_ns = clamp(e->idle_ns, e->length_ns);
  e->encode_ns = clamp(e->encode_ns, e->length_ns);
  e->room_ns = clamp(e->room_ns, e->length_ns);
  e->read_ns = clamp(e->read_ns, e->length_ns);
  e->sleep_ns = clamp(e->sleep_ns, e->length_ns);
  e->write_ns = clamp(e->write_ns, e->length_ns);
  return 1;
}

static void take_cycle(struct trace *t, uint32_t track, const struct event *e) {
  char text[TEXT_BYTES];
  t->cycles += e->claims;
  if (t->file == NULL) return;
  snprintf(text, sizeof text, "\"cycles\":%" PRIu32 ",\"KiB\":%" PRIu64, e->claims, e->items / 1024);
  tracefile_moment(t->file, t->group, track + 1, e->begin_ns, "garbage collected", text);
  tracefile_memory(t->file, t->group, track, e->begin_ns, e->items);
}

void trace_event(struct trace *t, uint32_t track, const struct event *event, const char *note) {
  struct event e = *event;
  if (!makes_sense(t, &e)) {
    t->lost++;
    return;
  }
  t->events++;
  if (e.begin_ns + e.length_ns > t->end_ns) t->end_ns = e.begin_ns + e.length_ns;
  name_track(t, track);
  if (e.kind == EVENT_CYCLE) {
    take_cycle(t, track, &e);
    return;
  }
  add_to_bins(t, track, &e);
  if (t->file) tracefile_stretch(t->file, t->group, track + 1, &e, note);
}

void trace_mark(struct trace *t, uint32_t track, enum trace_mark_kind kind, int64_t number) {
  static const struct { char name[14], argument[8]; } words[MARK_KINDS] = {
    {"", ""}, {"started", "pid"}, {"ended", "pid"}, {"crashed", "signal"}, {"item lost", "item"}, {"tried again", "item"},
    {"time is over", "item"}, {"asked to stop", "item"}, {"killed", "item"}};
  int64_t now = os_now_ns();
  char text[TEXT_BYTES];
  t->counts[kind]++;
  if (t->n_marks < TRACE_MARKS) t->marks[t->n_marks++] = (struct trace_mark){kind, track, now, number};
  if (now > t->end_ns) t->end_ns = now;
  if (t->file == NULL) return;
  name_track(t, track);
  if (kind == MARK_CRASHED && number < 0) {
    snprintf(text, sizeof text, "\"exitcode\":%" PRId64, -1 - number);
  } else {
    snprintf(text, sizeof text, "\"%s\":%" PRId64, words[kind].argument, number);
  }
  tracefile_moment(t->file, t->group, track + 1, now, words[kind].name, text);
}

void trace_lost(struct trace *t, uint32_t track, uint64_t number) {
  char text[TEXT_BYTES];
  t->lost += number;
  if (t->file == NULL) return;
  snprintf(text, sizeof text, "\"events\":%" PRIu64, number);
  tracefile_moment(t->file, t->group, track + 1, os_now_ns(), "events are missing here", text);
}

/* ---- the times of items ---- */

void trace_begin(struct trace *t, struct events *live, uint32_t n_live) {
  t->live = live;
  t->n_live = n_live;
}

void trace_end(struct trace *t) {
  uint64_t buckets[EVENTS_BUCKETS], items = trace_items(t, buckets);
  struct event_slow slowest[EVENTS_SLOWEST];
  uint32_t n = trace_slowest(t, slowest);
  t->items = items;
  memcpy(t->buckets, buckets, sizeof buckets);
  t->n_slow = n;
  memcpy(t->slowest, slowest, n * sizeof *slowest);
  t->live = NULL;
  t->n_live = 0;
  if (t->file) tracefile_flush(t->file, 0);
}

uint64_t trace_items(const struct trace *t, uint64_t buckets[EVENTS_BUCKETS]) {
  uint64_t items = t->items;
  uint32_t i, k;
  memcpy(buckets, t->buckets, sizeof t->buckets);
  for (i = 0; i < t->n_live; i++) {
    if (atomic_load(&t->live[i].items) == 0) continue; /* its pages need not be touched */
    for (k = 0; k < EVENTS_BUCKETS; k++) {
      uint64_t n = atomic_load_explicit(&t->live[i].buckets[k], memory_order_relaxed);
      buckets[k] += n;
      items += n;
    }
  }
  return items;
}

uint32_t trace_slowest(const struct trace *t, struct event_slow list[EVENTS_SLOWEST]) {
  struct event_slow all[EVENTS_SLOWEST];
  uint32_t i, k, n = t->n_slow;
  memcpy(list, t->slowest, n * sizeof *list);
  for (i = 0; i < t->n_live; i++) {
    uint32_t more = atomic_load(&t->live[i].items) ? events_slow(&t->live[i], all) : 0;
    for (k = 0; k < more; k++) {
      uint32_t at = n;
      while (at > 0 && list[at - 1].ns < all[k].ns) at--;
      if (at == EVENTS_SLOWEST) break;
      if (n < EVENTS_SLOWEST) n++;
      memmove(&list[at + 1], &list[at], (n - 1 - at) * sizeof *list);
      list[at] = all[k];
    }
  }
  return n;
}
