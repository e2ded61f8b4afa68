/*
 * job/input -- stdin with a read of our own, which waits for data and for an interrupt at once: another stream in its place (glibc, macOS,
 * FreeBSD), or its own with that function in it (musl, NetBSD).
 *
 * Room: job (may include job/chain.h and job/delivery.h).  Owns: the replacement FILE. Everything but reading behaves as the
 * plain descriptor 0 does.
 */
#include "job/input.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include "base/os.h"
#include "job/chain.h"
#include "job/delivery.h"
#include "process/interrupt.h"

#if defined(__GLIBC__) || defined(__APPLE__) || defined(__FreeBSD__)
#define REPLACES_STREAM 1
#elif defined(__NetBSD__)
#define REPLACES_READ 1
#elif defined(__linux__) && !defined(__ANDROID__)
#define REPLACES_READ 1
#define IS_MUSL 1
#include <stdio_ext.h>
#endif

static int has_feigned_end; /* the stream was told that the input ended, because of an interrupt */

#if defined(REPLACES_STREAM) || defined(REPLACES_READ)

/* A background job that reads the terminal must be stopped by the read, not wait beside it. */
static int is_background(void) {
  pid_t foreground = tcgetpgrp(STDIN_FILENO);
  return foreground >= 0 && foreground != getpgrp();
}

/*
 * Returns 1: read now; 0: stop, an interrupt will be raised as soon as the reading function returns. It is told that the input ended and
 * not that there was an error, because io.lines would raise that error in the interrupt's place.
 */
static int wait_for_input(void) {
  for (;;) {
    struct pollfd fds[2] = {{STDIN_FILENO, POLLIN, 0}, {interrupt_fd(), POLLIN, 0}};
    int can_raise = delivery_can_raise();
    if (can_raise && interrupt_pending()) {
      has_feigned_end = 1;
      delivery_arm();
      return 0;
    }
    /* An interrupt that cannot be raised here would make its descriptor readable for good: leave it out. */
    if (poll(fds, can_raise && fds[1].fd >= 0 ? 2 : 1, -1) < 0 && errno != EINTR) return 1;
    if (fds[0].revents) return 1;
  }
}

static int may_read(void) {
  return is_background() || wait_for_input();
}

#endif

#ifdef REPLACES_STREAM

static ssize_t read_input(void *cookie, char *data, size_t size) {
  (void)cookie;
  return may_read() ? read(STDIN_FILENO, data, size) : 0;
}

#if defined(__GLIBC__)

static int seek_input(void *cookie, off64_t *offset, int whence) {
  off64_t place = lseek64(STDIN_FILENO, *offset, whence);
  (void)cookie;
  if (place < 0) return -1;
  *offset = place;
  return 0;
}

static int close_input(void *cookie) {
  (void)cookie;
  return close(STDIN_FILENO);
}

static FILE *open_stream(void) {
  cookie_io_functions_t functions = {read_input, NULL, seek_input, close_input};
  FILE *f = fopencookie(NULL, "r", functions);
  if (f) f->_fileno = STDIN_FILENO; /* fileno(f) is asked by modules (isatty, lock); glibc declares the field */
  return f;
}

#else

static int read_input_int(void *cookie, char *data, int size) {
  return (int)read_input(cookie, data, (size_t)size);
}

static fpos_t seek_input(void *cookie, fpos_t offset, int whence) {
  (void)cookie;
  return lseek(STDIN_FILENO, offset, whence);
}

static int close_input(void *cookie) {
  (void)cookie;
  return close(STDIN_FILENO);
}

static FILE *open_stream(void) {
  FILE *f = funopen(NULL, read_input_int, NULL, seek_input, close_input);
#ifdef __APPLE__
  if (f) f->_file = STDIN_FILENO; /* as above */
#endif
  return f;
}

#endif

/*
 * The buffer that the C library would choose: programs started by the script read on where it ends, and a terminal's input being
 * line-buffered is what makes a read show the prompt that waits in stdout.
 */
static void set_buffer(FILE *f) {
  static char buffer[4096];
  struct stat status;
  size_t size = sizeof buffer;
  int is_terminal = isatty(STDIN_FILENO);
  if (is_terminal) size = 1024;
  else if (fstat(STDIN_FILENO, &status) == 0 && status.st_blksize > 0 && (size_t)status.st_blksize < size) size = (size_t)status.st_blksize;
  setvbuf(f, buffer, is_terminal ? _IOLBF : _IOFBF, size);
}

void input_make_interruptible(void) {
  static FILE *input;
  if (input) return;
  input = open_stream();
  if (!input) return;
  set_buffer(input);
  stdin = input;
}

#elif defined(IS_MUSL)

typedef size_t stream_read(FILE *f, unsigned char *data, size_t size);

/*
 * The beginning of musl's FILE, which it shows to nobody and has not changed since its first releases. Whether it is so is found out by
 * reading from another stream (is_replaceable), before stdin is touched.
 */
struct stream {
  unsigned flags;
  unsigned char *read_at, *read_end;
  int (*close)(FILE *f);
  unsigned char *write_end, *write_at, *unused, *write_base;
  stream_read *read;
};

static stream_read *read_original;
static int was_called; /* read_input, by whatever stream */

static stream_read **read_of(FILE *f) {
  return &((struct stream *)(void *)f)->read;
}

static size_t read_input(FILE *f, unsigned char *data, size_t size) {
  was_called = 1;
  if (f == stdin && !may_read()) return 0;
  return read_original(f, data, size);
}

/* Does a stream like stdin read by the function that lies where we believe it does? */
static int is_replaceable(void) {
  static const char text[] = "read";
  char found[sizeof text] = "";
  int ends[2] = {-1, -1}, is_so = 0;
  FILE *f = os_pipe(ends) == 0 ? fdopen(ends[0], "r") : NULL;
  if (f && *read_of(f) != NULL && *read_of(f) == *read_of(stdin) && os_write(ends[1], text, sizeof text) == 0) {
    read_original = *read_of(f);
    *read_of(f) = read_input;
    is_so = fread(found, 1, sizeof found, f) == sizeof found && memcmp(found, text, sizeof text) == 0 && was_called;
  }
  if (f) fclose(f);
  else os_close(&ends[0]);
  os_close(&ends[1]);
  return is_so;
}

void input_make_interruptible(void) {
  if (!read_original && is_replaceable()) *read_of(stdin) = read_input;
}

#elif defined(REPLACES_READ)

static ssize_t (*read_original)(void *cookie, void *data, size_t size);

static ssize_t read_input(void *cookie, void *data, size_t size) {
  return may_read() ? read_original(cookie, data, size) : 0;
}

void input_make_interruptible(void) {
  if (read_original) return;
  read_original = stdin->_read;
  stdin->_read = read_input;
}

#else

void input_make_interruptible(void) {
}

#endif

void input_after_interrupt(void) {
  if (!has_feigned_end) return;
  has_feigned_end = 0;
  clearerr(stdin);
}

#if defined(__GLIBC__)

/* What lies in the stream's buffer: none while it is being written to. */
static const char *unread(FILE *f, size_t *length) {
  *length = (size_t)(f->_IO_read_end - f->_IO_read_ptr);
  return f->_IO_read_ptr;
}

#elif defined(IS_MUSL)

static const char *unread(FILE *f, size_t *length) {
  return __freadptr(f, length); /* musl's word for it; NULL: nothing, and the length is not set */
}

#endif

int input_would_wait(FILE *f) {
#if defined(__GLIBC__) || defined(IS_MUSL)
  struct pollfd fd = {fileno(f), POLLIN, 0};
  size_t length = 0;
  const char *text = unread(f, &length);
  if (text != NULL && length > 0 && memchr(text, '\n', length) != NULL) return 0;
  return fd.fd >= 0 && poll(&fd, 1, 0) == 0;
#else
  (void)f;
  return 0;
#endif
}
