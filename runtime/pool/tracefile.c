/* pool/tracefile -- see tracefile.h. */
#include "pool/tracefile.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/os.h"
#include "process/process.h"

enum { FLUSH_BYTES = 64 * 1024, FLUSH_NS = 1000 * 1000 * 1000, LINE_BYTES = 1024 };

static const char HEAD[] = "[", TAIL[] = "\n]\n";

/* ---- the file ---- */

void tracefile_init(struct tracefile *f) {
  memset(f, 0, sizeof *f);
  f->fd = -1;
  bytes_init(&f->out);
}

static int is_usable(const struct tracefile *f) {
  return f->fd >= 0 && f->status == 0 && f->owner == getpid();
}

/* What was there before is of no use any more: a lock first, so that it is not somebody's who still writes. */
static int begin(struct tracefile *f) {
  int status = os_lock(f->fd);
  if (status == -EAGAIN) return status;
  status = os_resize(f->fd, 0);
  if (status == 0) status = os_write_at(f->fd, HEAD, sizeof HEAD - 1, 0);
  if (status == 0) status = os_write_at(f->fd, TAIL, sizeof TAIL - 1, sizeof HEAD - 1);
  if (status == 0) status = process_register_fd(f->fd);
  return status;
}

int tracefile_open(struct tracefile *f, const char *path) {
  int status;
  tracefile_init(f);
  f->fd = os_open_regular(path, NULL);
  if (f->fd < 0) {
    status = f->fd;
    f->fd = -1;
    return status;
  }
  status = begin(f);
  if (status < 0) {
    os_close(&f->fd);
    return status;
  }
  f->owner = getpid();
  snprintf(f->name, sizeof f->name, "%s", path);
  f->end = sizeof HEAD - 1;
  f->began_ns = f->written_ns = os_now_ns();
  return 0;
}

/* The medium is full, or gone: what was whole before is whole again, if that can be had. */
static void give_up(struct tracefile *f, int status) {
  f->status = status;
  (void)os_resize(f->fd, f->end);
  (void)os_write_at(f->fd, TAIL, sizeof TAIL - 1, f->end);
  bytes_free(&f->out);
}

void tracefile_flush(struct tracefile *f, int lazily) {
  size_t length = f->out.length;
  int64_t now;
  int status;
  if (length == 0 || !is_usable(f)) return;
  now = os_now_ns();
  if (lazily && length < FLUSH_BYTES && now - f->written_ns < FLUSH_NS) return;
  f->written_ns = now;
  status = bytes_append(&f->out, TAIL, sizeof TAIL - 1);
  if (status == 0 && !os_may_have_size(f->end + f->out.length)) status = -EFBIG;
  if (status == 0) status = os_write_at(f->fd, f->out.data, f->out.length, f->end);
  if (status < 0) {
    give_up(f, status);
    return;
  }
  f->end += length;
  bytes_clear(&f->out);
}

int tracefile_close(struct tracefile *f) {
  tracefile_flush(f, 0);
  if (f->fd >= 0 && f->owner == getpid()) process_close_fd(&f->fd);
  bytes_free(&f->out);
  return f->status;
}

/* ---- lines ---- */

/* One line under construction. What does not fit is cut, and the line is dropped. */
struct line {
  size_t length;
  char text[LINE_BYTES];
};

static void put_text(struct line *line, const char *text) {
  size_t length = strlen(text);
  if (length > sizeof line->text - line->length) {
    line->length = sizeof line->text;
    return;
  }
  memcpy(line->text + line->length, text, length);
  line->length += length;
}

static void put_number(struct line *line, uint64_t number) {
  char digits[24];
  size_t at = sizeof digits;
  digits[--at] = '\0';
  do {
    digits[--at] = (char)('0' + number % 10);
    number /= 10;
  } while (number > 0);
  put_text(line, digits + at);
}

/* Microseconds, to the nanosecond. */
static void put_time(struct line *line, int64_t ns) {
  char digits[5] = ".000";
  if (ns < 0) ns = 0;
  put_number(line, (uint64_t)ns / 1000);
  digits[1] = (char)('0' + ns / 100 % 10);
  digits[2] = (char)('0' + ns / 10 % 10);
  digits[3] = (char)('0' + ns % 10);
  put_text(line, digits);
}

static void put_count(struct line *line, const char *name, uint64_t number) {
  put_text(line, name);
  put_number(line, number);
}

static void put_place(struct line *line, uint32_t pid, uint32_t tid) {
  put_count(line, ",\"pid\":", pid);
  put_count(line, ",\"tid\":", tid);
}

static void begin_line(struct line *line, const struct tracefile *f) {
  line->length = 0;
  put_text(line, f->events ? ",\n" : "\n");
}

static void end_line(struct tracefile *f, const struct line *line) {
  if (line->length >= sizeof line->text) return;
  if (bytes_append(&f->out, line->text, line->length) < 0) {
    give_up(f, -ENOMEM);
    return;
  }
  f->events++;
  tracefile_flush(f, 1);
}

/* ---- events ---- */

void tracefile_name(struct tracefile *f, uint32_t pid, uint32_t tid, const char *json) {
  struct line line;
  if (!is_usable(f)) return;
  begin_line(&line, f);
  put_text(&line, "{\"ph\":\"M\",\"name\":\"");
  put_text(&line, tid ? "thread_name" : "process_name");
  put_text(&line, "\"");
  put_place(&line, pid, tid);
  put_text(&line, ",\"args\":{\"name\":");
  put_text(&line, json);
  put_text(&line, "}}");
  end_line(f, &line);
  if (tid == 0) return;
  begin_line(&line, f);
  put_text(&line, "{\"ph\":\"M\",\"name\":\"thread_sort_index\"");
  put_place(&line, pid, tid);
  put_count(&line, ",\"args\":{\"sort_index\":", tid);
  put_text(&line, "}}");
  end_line(f, &line);
}

static const char *category(uint32_t kind) {
  static const char names[][7] = {"", "work", "idle", "encode", "room", "read", "sleep", "write", "mixed"};
  return kind < sizeof names / sizeof *names ? names[kind] : "";
}

static void put_items(struct line *line, const struct event *event) {
  if (event->claims > 1) {
    put_count(line, "", event->claims);
    put_text(line, " chunks");
  } else if (event->first == event->last) {
    put_count(line, "item ", event->first + 1);
  } else {
    put_count(line, "items ", event->first + 1);
    put_count(line, "-", event->last + 1);
  }
}

static void put_title(struct line *line, const struct event *event, const char *note) {
  static const char titles[][32] = {
    "", "", "idle", "writing a result", "waiting until the host has read", "reading results", "waiting", "writing items", "several"};
  if (event->claims > 0) {
    put_items(line, event);
  } else {
    put_text(line, event->kind < sizeof titles / sizeof *titles ? titles[event->kind] : "");
  }
  if (note) put_text(line, note);
}

static void put_member(struct line *line, const char *name) {
  if (line->length > 0 && line->length < sizeof line->text && line->text[line->length - 1] != '{') put_text(line, ",");
  put_text(line, "\"");
  put_text(line, name);
  put_text(line, "\":");
}

static void put_count_member(struct line *line, const char *name, uint64_t number) {
  put_member(line, name);
  put_number(line, number);
}

static void put_time_member(struct line *line, const char *name, int64_t ns) {
  if (ns <= 0) return;
  put_member(line, name);
  put_time(line, ns);
}

static void put_arguments(struct line *line, const struct event *event) {
  put_text(line, ",\"args\":{");
  if (event->claims > 0) {
    put_count_member(line, "call", event->call);
    put_count_member(line, "chunks", event->claims);
    put_count_member(line, "items", event->items);
    put_count_member(line, "from", event->first + 1);
    put_count_member(line, "to", event->last + 1);
  }
  put_time_member(line, "encode_us", event->encode_ns);
  put_time_member(line, "room_us", event->room_ns);
  if (event->kind == EVENT_MIXED) {
    put_time_member(line, "busy_us", event->busy_ns);
    put_time_member(line, "idle_us", event->idle_ns);
    put_time_member(line, "read_us", event->read_ns);
    put_time_member(line, "sleep_us", event->sleep_ns);
    put_time_member(line, "write_us", event->write_ns);
  }
  put_text(line, "}");
}

void tracefile_stretch(struct tracefile *f, uint32_t pid, uint32_t tid, const struct event *event, const char *note) {
  struct line line;
  if (!is_usable(f)) return;
  begin_line(&line, f);
  put_text(&line, "{\"ph\":\"X\",\"cat\":\"");
  put_text(&line, category(event->kind));
  put_text(&line, "\",\"name\":\"");
  put_title(&line, event, note);
  put_text(&line, "\",\"ts\":");
  put_time(&line, event->begin_ns - f->began_ns);
  put_text(&line, ",\"dur\":");
  put_time(&line, event->length_ns);
  put_place(&line, pid, tid);
  put_arguments(&line, event);
  put_text(&line, "}");
  end_line(f, &line);
}

void tracefile_moment(struct tracefile *f, uint32_t pid, uint32_t tid, int64_t at_ns, const char *name, const char *json) {
  struct line line;
  if (!is_usable(f)) return;
  begin_line(&line, f);
  put_text(&line, "{\"ph\":\"i\",\"s\":\"t\",\"cat\":\"moment\",\"name\":\"");
  put_text(&line, name);
  put_text(&line, "\",\"ts\":");
  put_time(&line, at_ns - f->began_ns);
  put_place(&line, pid, tid);
  if (json) {
    put_text(&line, ",\"args\":{");
    put_text(&line, json);
    put_text(&line, "}");
  }
  put_text(&line, "}");
  end_line(f, &line);
}

void tracefile_memory(struct tracefile *f, uint32_t pid, uint32_t worker, int64_t at_ns, uint64_t bytes) {
  struct line line;
  if (!is_usable(f)) return;
  begin_line(&line, f);
  put_count(&line, "{\"ph\":\"C\",\"cat\":\"memory\",\"name\":\"Lua memory of worker ", worker);
  put_text(&line, "\",\"ts\":");
  put_time(&line, at_ns - f->began_ns);
  put_place(&line, pid, worker + 1);
  put_count(&line, ",\"args\":{\"KiB\":", bytes / 1024);
  put_text(&line, "}}");
  end_line(f, &line);
}
